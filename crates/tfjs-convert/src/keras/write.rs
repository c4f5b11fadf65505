//! Keras files, written: beside the target first, then renamed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    mem::ManuallyDrop,
    path::Path,
};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tfjs_format::io::{Unfinished, check_path, uninterrupted};
use tfjs_layers::StoredWeight;
use zip::{CompressionMethod, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{H5Group, KerasError, file::in_file, h5::join};
use crate::ConvertError;

/// A model in the layout of Keras 1 and 2, which Keras 3 reads too: what an `.h5` file holds.
#[derive(Clone, Debug, Default)]
pub struct H5Model {
    /// Version of Keras whose dialect this is.
    pub keras_version: String,
    /// Backend of that Keras.
    pub backend: String,
    /// The config; without it the file holds weights only.
    pub model_config: Option<Value>,
    /// How the model was compiled.
    pub training_config: Option<Value>,
    /// For each layer of the model its weights in Keras's order. Names are those that Keras gives
    /// (`dense/kernel:0`), without regard to their file of origin.
    pub layers: Vec<(String, Vec<StoredWeight>)>,
    /// State of the optimizer.
    pub optimizer: Vec<StoredWeight>,
}

impl H5Model {
    /// Writes the file.
    ///
    /// # Errors
    /// When a value cannot be read, two weights of a layer have one name, or writing fails.
    pub fn write(&self, path: &Path) -> Result<(), ConvertError> {
        let root = self.tree().map_err(|source| in_file(path, source))?;
        write_h5(path, &root)
    }

    fn tree(&self) -> Result<H5Group, KerasError> {
        const WEIGHT_NAMES: &str = "weight_names";
        let mut root = H5Group::new();
        let mut weights = H5Group::new();
        weights.list("layer_names", &self.layers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>())?;
        for (attribute, value) in [("backend", &self.backend), ("keras_version", &self.keras_version)] {
            weights.text(attribute, value);
            if self.model_config.is_some() {
                root.text(attribute, value);
            }
        }
        let top_level = ("top_level_model_weights".to_owned(), Vec::new());
        let has_top_level = self.layers.iter().any(|(name, _)| *name == top_level.0);
        for (name, list) in self.layers.iter().chain((!has_top_level).then_some(&top_level)) {
            let group = weights.group(name)?;
            group.list(WEIGHT_NAMES, &names(list))?;
            for weight in list {
                group.dataset(&weight.name, weight.value.clone())?;
            }
        }
        let Some(config) = &self.model_config else { return Ok(weights) };
        root.text("model_config", python_json(config));
        if let Some(config) = &self.training_config {
            root.text("training_config", python_json(config));
        }
        *root.group("model_weights")? = weights;
        if !self.optimizer.is_empty() {
            let group = root.group("optimizer_weights")?;
            group.list(WEIGHT_NAMES, &names(&self.optimizer))?;
            for weight in &self.optimizer {
                group.dataset(&weight.name, weight.value.clone())?;
            }
        }
        Ok(root)
    }
}

/// JSON as Python reads it: numbers that are not finite, which are strings here, stand as words.
fn python_json(value: &Value) -> String {
    let mut text = value.to_string();
    for word in ["NaN", "Infinity", "-Infinity"] {
        let quoted = format!("\"{word}\"");
        let mut parts = text.split(&quoted);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let is_key = part.starts_with(':');
            out.push_str(if is_key { &quoted } else { word });
            out.push_str(part);
        }
        text = out;
    }
    text
}

fn names(weights: &[StoredWeight]) -> Vec<String> {
    weights.iter().map(|weight| weight.name.clone()).collect()
}

/// A model in the layout of Keras 3: what a `.keras` archive holds.
#[derive(Clone, Debug, Default)]
pub struct KerasArchive {
    /// `config.json`, with `compile_config` inside if the model is compiled.
    pub config: Value,
    /// `metadata.json`: `keras_version`, `date_saved`.
    pub metadata: Map<String, Value>,
    /// Weights of layers and of the optimizer by path: `layers/dense/vars/0`.
    pub weights: Vec<StoredWeight>,
    /// Names of Keras objects by the path of their weights; those without weights get an empty group.
    pub object_names: IndexMap<String, String>,
    /// Files of the `assets` folder by path: `layers/string_lookup/vocabulary.txt`.
    pub assets: Vec<(String, bytes::Bytes)>,
}

impl KerasArchive {
    /// Writes the archive; its members are not compressed, as Keras does.
    ///
    /// # Errors
    /// When a value cannot be read, two weights have one path, or writing fails.
    pub fn write(&self, path: &Path) -> Result<(), ConvertError> {
        let weights = self.tree().map_err(|source| in_file(path, source))?;
        atomically(path, |file| {
            // One that is dropped tries once more to write, and prints that it cannot.
            let mut zip = ManuallyDrop::new(ZipWriter::new(file));
            let member = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            let broken = |e: ZipError| match e {
                ZipError::Io(e) => KerasError::Io(e),
                other => KerasError::Zip(Box::new(other)),
            };
            zip.start_file("metadata.json", member).map_err(broken)?;
            zip.write_all(Value::Object(self.metadata.clone()).to_string().as_bytes())?;
            zip.start_file("config.json", member).map_err(broken)?;
            zip.write_all(python_json(&self.config).as_bytes())?;
            // Its size is not known yet.
            zip.start_file("model.weights.h5", member.large_file(true)).map_err(broken)?;
            weights.write(&mut *zip)?;
            for (name, contents) in &self.assets {
                let refused = |e| KerasError::Member { name: name.clone(), what: format!("is refused: {e}") };
                check_path(name).map_err(refused)?;
                zip.start_file(join("assets", name), member).map_err(broken)?;
                zip.write_all(contents)?;
            }
            ManuallyDrop::into_inner(zip).finish().map_err(broken)?;
            Ok(())
        })
    }

    /// Writes the weights alone, as `.weights.h5`.
    ///
    /// # Errors
    /// As [`KerasArchive::write`].
    pub fn write_weights(&self, path: &Path) -> Result<(), ConvertError> {
        write_h5(path, &self.tree().map_err(|source| in_file(path, source))?)
    }

    fn tree(&self) -> Result<H5Group, KerasError> {
        let mut root = H5Group::new();
        // Keras 2 opens this group whether there is anything in it or not.
        root.group("vars")?;
        for (object, name) in &self.object_names {
            root.group(&join(object, "vars"))?.text("name", name);
        }
        for weight in &self.weights {
            root.dataset(&weight.name, weight.value.clone())?;
        }
        Ok(root)
    }
}

/// Writes an HDF5 file with this root.
///
/// # Errors
/// When a value cannot be read, or writing fails.
pub fn write_h5(path: &Path, root: &H5Group) -> Result<(), ConvertError> {
    atomically(path, |file| root.write(file))
}

/// Writes a file beside `path` and gives it that name when it is whole; otherwise nothing is left.
pub(crate) fn atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), KerasError>,
) -> Result<(), ConvertError> {
    let failed = |source| ConvertError::Io { path: path.to_path_buf(), source };
    let beside = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(beside).map_err(failed)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tfjs-");
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    let temporary = builder.tempfile_in(beside).map_err(failed)?;
    let unfinished = Unfinished::new(temporary.path());
    let mut out = BufWriter::with_capacity(1 << 16, temporary.as_file());
    write(&mut out).map_err(|source| ConvertError::WriteKeras { path: path.to_path_buf(), source })?;
    out.flush().map_err(failed)?;
    drop(out);
    let whole = uninterrupted();
    let result = temporary.persist(path).map_err(|e| failed(e.error));
    drop(whole);
    drop(unfinished);
    result.map(drop)
}
