/// Whose rules a model follows where Keras 2, Keras 3 and TF.js compute differently; `docs/numerics.md` lists the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Keras before 2.0: other class and option names, otherwise as Keras 2.
    Keras1,
    /// Keras 2, tf.keras, tf_keras.
    #[default]
    Keras2,
    /// Keras 3.
    Keras3,
    /// Written by TF.js itself: Keras 2's arithmetic, TF.js's defaults for options that are not in the file.
    Tfjs,
}

impl Dialect {
    /// From `keras_version` as files have it (`2.15.0`, `3.5.0`, `2.1.6-tf`, `tfjs-layers 4.22.0`).
    pub fn from_version(version: &str) -> Option<Dialect> {
        if version.starts_with("tfjs") {
            return Some(Dialect::Tfjs);
        }
        match version.split('.').next()?.parse::<u32>().ok()? {
            0 | 1 => Some(Dialect::Keras1),
            2 => Some(Dialect::Keras2),
            _ => Some(Dialect::Keras3),
        }
    }
}
