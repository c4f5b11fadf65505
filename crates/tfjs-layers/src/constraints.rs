use serde_json::{Map, Value};

use crate::{
    Config, Dialect, LayersError,
    config::{class_and_options, plain_name},
};

/// What a weight is held to after each step of training. It is read when training asks for it: a model predicts whatever the
/// file names here.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// Keras class, such as `MaxNorm`, or an alias, such as `max_norm`.
    pub class_name: String,
    /// Its options.
    pub config: Map<String, Value>,
}

type Result<T> = std::result::Result<T, LayersError>;

/// Keras's `backend.epsilon()`.
const EPSILON: f32 = 1e-7;

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Lengths along axes come into a range, a `rate` of the way.
    Norm {
        least: f32,
        most: f32,
        rate: f32,
        axes: Vec<i64>,
    },
    /// Lengths along axes become 1.
    UnitNorm {
        axes: Vec<i64>,
    },
    NonNegative,
    /// Kernels of convolutions are the same all around.
    Radial,
}

impl Constraint {
    /// From a name or an object `{class_name, config}`; `None` for null.
    pub fn parse(value: &Value) -> Option<Constraint> {
        let (class_name, config) = class_and_options(value)?;
        Some(Constraint { class_name, config })
    }

    fn kind(&self) -> Result<Kind> {
        let c = Config::new(&self.config, Dialect::default());
        let axes = || Ok::<_, LayersError>(c.opt_ints("axis")?.unwrap_or_else(|| vec![0]));
        Ok(match plain_name(&self.class_name).as_str() {
            "maxnorm" => {
                Kind::Norm { least: 0.0, most: c.f32_or("max_value", 2.0)?, rate: 1.0, axes: axes()? }
            }
            "minmaxnorm" => Kind::Norm {
                least: c.f32_or("min_value", 0.0)?,
                most: c.f32_or("max_value", 1.0)?,
                rate: c.f32_or("rate", 1.0)?,
                axes: axes()?,
            },
            "unitnorm" => Kind::UnitNorm { axes: axes()? },
            "nonneg" => Kind::NonNegative,
            "radialconstraint" => Kind::Radial,
            // The base class does nothing.
            "constraint" => Kind::Norm { least: 0.0, most: f32::INFINITY, rate: 0.0, axes: Vec::new() },
            _ => {
                return Err(LayersError::UnknownClass {
                    class: self.class_name.clone(),
                    hint: "; it is no constraint of Keras, and training needs it".to_owned(),
                });
            }
        })
    }

    /// Whether a weight of this shape can be held to it: to be asked before training starts.
    ///
    /// # Errors
    /// When the constraint is not known, an option is wrong, or the shape does not fit it.
    pub fn check(&self, dims: &[usize]) -> Result<()> {
        match self.kind()? {
            Kind::Norm { axes, .. } | Kind::UnitNorm { axes } => reduced(dims, &axes).map(drop),
            Kind::NonNegative => Ok(()),
            Kind::Radial => radial_size(dims).map(drop),
        }
    }

    /// Changes a weight of shape `dims` to the nearest that fulfils it, as Keras finds that.
    ///
    /// # Errors
    /// As [`Constraint::check`].
    pub fn apply(&self, dims: &[usize], weight: &mut [f32]) -> Result<()> {
        match self.kind()? {
            Kind::Norm { rate: 0.0, .. } => {}
            Kind::Norm { least, most, rate, axes } => by_norm(dims, &axes, weight, |norm| {
                let wanted = rate * norm.max(least).min(most) + (1.0 - rate) * norm;
                wanted / (EPSILON + norm)
            })?,
            Kind::UnitNorm { axes } => by_norm(dims, &axes, weight, |norm| 1.0 / (EPSILON + norm))?,
            Kind::NonNegative => weight.iter_mut().for_each(|w| *w = w.max(0.0)),
            Kind::Radial => radial(dims, weight)?,
        }
        Ok(())
    }
}

/// Which axes lengths are taken along.
fn reduced(dims: &[usize], axes: &[i64]) -> Result<Vec<bool>> {
    let mut reduced = vec![false; dims.len()];
    for &axis in axes {
        let at = usize::try_from(if axis < 0 { axis + dims.len() as i64 } else { axis }).ok();
        let slot = at.and_then(|a| reduced.get_mut(a)).ok_or_else(|| {
            LayersError::Inputs(format!("a constraint has axis {axis}, its weight the shape {dims:?}"))
        })?;
        *slot = true;
    }
    Ok(reduced)
}

/// Multiplies each vector along `axes` by a factor that follows from its length.
fn by_norm(dims: &[usize], axes: &[i64], weight: &mut [f32], factor: impl Fn(f32) -> f32) -> Result<()> {
    let reduced = reduced(dims, axes)?;
    // Rows along the last axis are walked at once; this says where in the lengths each row's stand.
    let Some((&width, outer)) = dims.split_last().filter(|_| !weight.is_empty()) else { return Ok(()) };
    let along_rows = reduced.last() == Some(&true);
    let step = if along_rows { 1 } else { width };
    let mut strides = vec![0usize; outer.len()];
    let mut lengths = step;
    for axis in (0..outer.len()).rev().filter(|&a| !reduced[a]) {
        strides[axis] = lengths;
        lengths *= outer[axis];
    }
    let place = |row: usize| {
        let mut rest = row;
        (0..outer.len()).rev().fold(0, |at, axis| {
            let index = rest % outer[axis];
            rest /= outer[axis];
            at + index * strides[axis]
        })
    };
    let mut norms = vec![0f32; lengths];
    for (row, values) in weight.chunks_exact(width).enumerate() {
        let at = place(row);
        if along_rows {
            norms[at] += values.iter().map(|w| w * w).sum::<f32>();
        } else {
            norms[at..at + width].iter_mut().zip(values).for_each(|(n, w)| *n += w * w);
        }
    }
    norms.iter_mut().for_each(|n| *n = factor(n.sqrt()));
    for (row, values) in weight.chunks_exact_mut(width).enumerate() {
        let at = place(row);
        if along_rows {
            values.iter_mut().for_each(|w| *w *= norms[at]);
        } else {
            values.iter_mut().zip(&norms[at..at + width]).for_each(|(w, n)| *w *= n);
        }
    }
    Ok(())
}

fn radial_size(dims: &[usize]) -> Result<usize> {
    match *dims {
        [height, width, _, _] if height == width && height > 1 => Ok(height),
        _ => Err(LayersError::Inputs(format!(
            "`RadialConstraint` is for square kernels of at least 2 × 2, not {dims:?}"
        ))),
    }
}

/// Each ring of a kernel takes one value of its diagonal; which one is Keras's choice.
fn radial(dims: &[usize], weight: &mut [f32]) -> Result<()> {
    let size = radial_size(dims)?;
    let middle = size / 2;
    let cells = weight.len() / (size * size);
    let old = weight.to_vec();
    for (at, values) in weight.chunks_exact_mut(cells.max(1)).enumerate() {
        let (y, x) = (at / size, at % size);
        // 0 at the centre, which is one cell or four.
        let away = |i: usize| if i < middle { middle - i - (1 - size % 2) } else { i - middle };
        let ring = away(y).max(away(x));
        let from = match ring {
            0 => middle - 1,
            // The rings of odd kernels begin at the middle, those of even ones one further.
            _ => middle + ring - size % 2,
        };
        let start = (from * size + from) * cells;
        values.copy_from_slice(&old[start..start + cells]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(value: &Value, dims: &[usize], weight: &[f32]) -> Vec<f32> {
        let mut weight = weight.to_vec();
        Constraint::parse(value).unwrap().apply(dims, &mut weight).unwrap();
        weight
    }

    #[test]
    fn what_is_no_constraint_is_named_when_it_is_used() {
        let own = Constraint::parse(&json!({"class_name": "Mine", "config": {}})).unwrap();
        assert!(own.check(&[2]).unwrap_err().to_string().contains("Mine"));
        let far = Constraint::parse(&json!({"class_name": "UnitNorm", "config": {"axis": 2}})).unwrap();
        assert!(far.check(&[2, 3]).is_err());
        assert!(Constraint::parse(&json!("radial_constraint")).unwrap().check(&[3, 2, 1, 1]).is_err());
    }

    #[test]
    fn rings_of_kernels_become_equal() {
        // What tf_keras 2.19 makes of kernels that count up from 0, from the centre outwards.
        let radial = json!("RadialConstraint");
        for (size, rings) in [(2, &[0.0][..]), (3, &[0.0, 4.0]), (4, &[5.0, 15.0]), (5, &[6.0, 12.0, 18.0])] {
            let ramp: Vec<f32> = (0..size * size).map(|v| v as f32).collect();
            let expected: Vec<f32> = (0..size * size)
                .map(|at| {
                    let away = |i: usize| (2 * i).abs_diff(size - 1) / 2;
                    rings[away(at / size).max(away(at % size))]
                })
                .collect();
            assert_eq!(applied(&radial, &[size, size, 1, 1], &ramp), expected);
        }
    }
}
