//! Activations.

use serde_json::{Value, json};
use tfjs_graph::Fact;

use super::{Outcome, Source, pieces::Dims};
use crate::{
    Activation, Dialect,
    config::number,
    save::{
        Result,
        fragment::{Fragment, From},
        spelling,
    },
};

/// Functions that TF.js computes as Keras does, by the names of Keras 3, and TF.js's own.
const NATIVE: &[(&str, &str)] = &[
    ("linear", "linear"),
    ("relu", "relu"),
    ("relu6", "relu6"),
    ("elu", "elu"),
    ("selu", "selu"),
    ("sigmoid", "sigmoid"),
    ("tanh", "tanh"),
    ("softplus", "softplus"),
    ("softsign", "softsign"),
    ("softmax", "softmax"),
    ("log_softmax", "log_softmax"),
    ("silu", "swish"),
    ("gelu", "gelu"),
    ("mish", "mish"),
];

/// TF.js's name of a function that it has.
pub(super) fn native(value: &Value, dialect: Dialect) -> Option<&'static str> {
    let activation = Activation::parse(value).ok()?;
    if activation.name == "hard_sigmoid" && dialect != Dialect::Keras3 {
        return Some("hard_sigmoid");
    }
    let idle = |(key, value): (&String, &Value)| {
        let said = ["name", "dtype", "trainable"].contains(&key.as_str());
        said || value.is_null() || (key == "approximate" && *value == false)
    };
    if !activation.config.iter().all(idle) {
        return None;
    }
    NATIVE.iter().find(|(name, _)| *name == activation.name).map(|(_, word)| *word)
}

/// Writes a function as layers; `None` when TF.js cannot express it. `dims` is the shape of `x`.
pub(super) fn emit(
    f: &mut Fragment,
    x: From,
    value: &Value,
    dialect: Dialect,
    dims: Option<&Dims>,
) -> Option<From> {
    if let Some(name) = native(value, dialect) {
        return Some(if name == "linear" { x } else { f.function(x, name) });
    }
    let Activation { name, config } = Activation::parse(value).ok()?;
    let get = |key: &str| config.get(key).and_then(number);
    let slope = |default: f64| get("negative_slope").or(get("alpha")).unwrap_or(default);
    Some(match name {
        "relu" => relu(f, x, slope(0.0), get("max_value"), get("threshold").unwrap_or(0.0)),
        "leaky_relu" => leaky_relu(f, x, slope(0.2)),
        "LeakyReLU" => leaky_relu(f, x, slope(0.3)),
        "ThresholdedReLU" => {
            f.add("relu", "ThresholdedReLU", json!({"theta": get("theta").unwrap_or(1.0)}), &[x])
        }
        "threshold" if get("default_value").unwrap_or(0.0) == 0.0 => {
            f.add("relu", "ThresholdedReLU", json!({"theta": get("threshold").unwrap_or(0.0)}), &[x])
        }
        "elu" => elu(f, x, get("alpha").unwrap_or(1.0), 1.0),
        "celu" => {
            let alpha = get("alpha").unwrap_or(1.0);
            elu(f, x, alpha, alpha)
        }
        "hard_sigmoid" => hard_sigmoid(f, x),
        "hard_silu" => {
            let gate = hard_sigmoid(f, x);
            f.product(&[x, gate])
        }
        // relu(x + 1), at most 2, − 1
        "hard_tanh" => {
            let y = f.rescale(x, 1.0, 1.0);
            let y = f.relu(y, Some(2.0));
            f.rescale(y, 1.0, -1.0)
        }
        "sparse_sigmoid" => {
            let y = f.rescale(x, 0.5, 0.5);
            f.relu(y, Some(1.0))
        }
        // (clip(x + 1, 0, 2) / 2)² + relu(x − 1)
        "sparse_plus" => {
            let y = f.rescale(x, 0.5, 0.5);
            let y = f.relu(y, Some(1.0));
            let square = f.product(&[y, y]);
            let above = f.rescale(x, 1.0, -1.0);
            let above = f.relu(above, None);
            f.sum(&[square, above])
        }
        "log_sigmoid" => {
            let y = f.rescale(x, -1.0, 0.0);
            let y = f.function(y, "softplus");
            f.rescale(y, -1.0, 0.0)
        }
        "tanh_shrink" => {
            let y = f.function(x, "tanh");
            let y = f.rescale(y, -1.0, 0.0);
            f.sum(&[x, y])
        }
        // relu(x − t) − relu(−x − t)
        "soft_shrink" => {
            let t = get("threshold").unwrap_or(0.5);
            let above = f.rescale(x, 1.0, -t);
            let above = f.relu(above, None);
            let below = f.rescale(x, -1.0, -t);
            let below = f.relu(below, None);
            let below = f.rescale(below, -1.0, 0.0);
            f.sum(&[above, below])
        }
        "hard_shrink" => {
            let theta = json!({"theta": get("threshold").unwrap_or(0.5)});
            let above = f.add("relu", "ThresholdedReLU", theta.clone(), &[x]);
            let below = f.rescale(x, -1.0, 0.0);
            let below = f.add("relu", "ThresholdedReLU", theta, &[below]);
            let below = f.rescale(below, -1.0, 0.0);
            f.sum(&[above, below])
        }
        "exponential" => exponential(f, x),
        "gelu" | "gelu_tanh" => gelu_tanh(f, x),
        "softmax" => {
            let rank = dims?.len() as i64 + 1;
            let axis = get("axis").unwrap_or(-1.0) as i64;
            let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
            softmax(f, x, rank as usize, axis)?
        }
        "glu" => {
            let dims = dims?;
            let axis = get("axis").unwrap_or(-1.0);
            if axis != -1.0 && axis != dims.len() as f64 {
                return None;
            }
            let half = dims.last().copied().flatten()? / 2;
            let value = f.slice_last(x, dims, 0, half)?;
            let gate = f.slice_last(x, dims, half, half * 2)?;
            let gate = f.function(gate, "sigmoid");
            f.product(&[value, gate])
        }
        _ => return None,
    })
}

/// relu(x + 3), at most 6, / 6
fn hard_sigmoid(f: &mut Fragment, x: From) -> From {
    let y = f.rescale(x, 1.0, 3.0);
    let y = f.relu(y, Some(6.0));
    f.rescale(y, 1.0 / 6.0, 0.0)
}

fn leaky_relu(f: &mut Fragment, x: From, slope: f64) -> From {
    f.add("relu", "LeakyReLU", json!({"alpha": slope, "negative_slope": slope}), &[x])
}

/// `max` where x ≥ `max`, x where x ≥ `threshold`, else slope · (x − threshold).
fn relu(f: &mut Fragment, x: From, slope: f64, max: Option<f64>, threshold: f64) -> From {
    if threshold == 0.0 && slope == 0.0 {
        return f.relu(x, max);
    }
    if threshold == 0.0 && max.is_none() {
        return leaky_relu(f, x, slope);
    }
    let mut out = if threshold == 0.0 {
        f.relu(x, max)
    } else {
        let y = f.add("relu", "ThresholdedReLU", json!({"theta": threshold}), &[x]);
        match max {
            None => y,
            // min(y, max) = max − relu(max − y)
            Some(max) => {
                let y = f.rescale(y, -1.0, max);
                let y = f.relu(y, None);
                f.rescale(y, -1.0, max)
            }
        }
    };
    if slope != 0.0 {
        let below = f.rescale(x, -1.0, threshold);
        let below = f.relu(below, None);
        let below = f.rescale(below, -slope, 0.0);
        out = f.sum(&[out, below]);
    }
    out
}

/// relu(x) + alpha · elu(min(x, 0) / scale)
fn elu(f: &mut Fragment, x: From, alpha: f64, scale: f64) -> From {
    let positive = f.relu(x, None);
    let y = f.rescale(x, -1.0, 0.0);
    let y = f.relu(y, None);
    let y = f.rescale(y, -1.0 / scale, 0.0);
    let y = f.function(y, "elu");
    let y = f.rescale(y, alpha, 0.0);
    f.sum(&[positive, y])
}

/// x/2 · (1 + tanh(√(2/π) · x · (1 + 0.044715 x²)))
fn gelu_tanh(f: &mut Fragment, x: From) -> From {
    let k = (2.0 / std::f64::consts::PI).sqrt();
    let square = f.product(&[x, x]);
    let inner = f.rescale(square, 0.044_715 * k, k);
    let inner = f.product(&[x, inner]);
    let tanh = f.function(inner, "tanh");
    let half = f.rescale(tanh, 0.5, 0.5);
    f.product(&[x, half])
}

/// Below −14 softplus is exp to the last bit: exp(x) = exp(min(x, 0)) · exp(max(x, 0) / 8)⁸, each moved down there.
fn exponential(f: &mut Fragment, x: From) -> From {
    let negative = f.rescale(x, -1.0, 0.0);
    let negative = f.relu(negative, None);
    let negative = f.rescale(negative, -1.0, -14.0);
    let negative = f.function(negative, "softplus");
    let mut y = f.rescale(negative, 14f64.exp(), 0.0);
    let positive = f.relu(x, None);
    let positive = f.rescale(positive, 0.125, -26.0);
    let positive = f.function(positive, "softplus");
    let mut power = f.rescale(positive, 26f64.exp(), 0.0);
    for _ in 0..3 {
        power = f.product(&[power, power]);
    }
    y = f.product(&[y, power]);
    y
}

/// Softmax along any axis but the batch; axes count from 0 with the batch.
fn softmax(f: &mut Fragment, x: From, rank: usize, axis: usize) -> Option<From> {
    if axis == 0 || axis >= rank {
        return None;
    }
    let mut order: Vec<usize> = (1..rank).collect();
    order.swap(axis - 1, rank - 2);
    let x = f.permute(x, &order);
    let x = f.add("softmax", "Softmax", json!({"axis": -1}), &[x]);
    Some(f.permute(x, &order))
}

/// Any layer with an option `activation`: the function as layers of its own, if TF.js lacks it. `lower` gives the layer
/// itself, with a linear activation.
pub(super) fn split(source: &mut Source<'_>) -> Result<Option<Outcome>> {
    let Some(value) = source.config.get("activation").cloned() else { return Ok(None) };
    let along_last = |name: &str| name.ends_with("softmax");
    if let Some(name) = native(&value, source.dialect).filter(|n| source.channels_last() || !along_last(n)) {
        source.config.insert("activation".to_owned(), name.into());
        return Ok(None);
    }
    let dims = dims(source.outputs.first());
    let mut f = Fragment::default();
    let unknown =
        || Outcome::Unsupported(format!("its activation {} cannot be written for it", short(&value)));
    source.config.insert("activation".to_owned(), "linear".into());
    let inner = super::lower_class(source)?;
    let x = match inner {
        Outcome::Keep => f.add_source(source, From::Input(0)),
        Outcome::Replace(inner) => {
            f = inner;
            match f.outputs.as_slice() {
                &[out] => out,
                _ => return Ok(Some(unknown())),
            }
        }
        Outcome::Unsupported(reason) => {
            source.config.insert("activation".to_owned(), value);
            return Ok(Some(Outcome::Unsupported(reason)));
        }
    };
    match emit(&mut f, x, &value, source.dialect, dims.as_ref()) {
        Some(out) => Ok(Some(Outcome::Replace(f.give(&[out])))),
        None => {
            let outcome = unknown();
            source.config.insert("activation".to_owned(), value);
            Ok(Some(outcome))
        }
    }
}

pub(super) fn activation(source: &mut Source<'_>) -> Result<Outcome> {
    let value = source.config.get("activation").cloned().unwrap_or_default();
    if let Some(name) = native(&value, source.dialect) {
        source.config.insert("activation".to_owned(), name.into());
        return Ok(Outcome::Keep);
    }
    let mut f = Fragment::default();
    let dims = dims(source.inputs.first());
    Ok(match emit(&mut f, From::Input(0), &value, source.dialect, dims.as_ref()) {
        Some(out) => Outcome::Replace(f.give(&[out])),
        None => Outcome::Unsupported(format!("TensorFlow.js has no activation {}", short(&value))),
    })
}

/// ReLU, LeakyReLU, ELU, Softmax: layers that are activations with options.
pub(super) fn function_layer(source: &mut Source<'_>) -> Result<Outcome> {
    let get = |key: &str| source.config.get(key).and_then(number);
    let mut config = source.config.clone();
    match source.class {
        "ReLU" if get("negative_slope").unwrap_or(0.0) == 0.0 && get("threshold").unwrap_or(0.0) == 0.0 => {
            return Ok(Outcome::Keep);
        }
        "ELU" if get("alpha").unwrap_or(1.0) == 1.0 => return Ok(Outcome::Keep),
        "LeakyReLU" => {
            let slope = get("negative_slope").or(get("alpha")).unwrap_or(0.3);
            source.config.insert("alpha".to_owned(), slope.into());
            return Ok(Outcome::Keep);
        }
        "Softmax" => {
            let rank = source.inputs.first().and_then(Fact::rank);
            let axis = match config.get("axis") {
                Some(Value::Array(items)) if items.len() == 1 => number(&items[0]),
                Some(Value::Array(_)) if !source.masked && !source.has_kwarg("mask") => {
                    return Ok(Outcome::Keep);
                }
                Some(Value::Array(_)) => None,
                other => other.and_then(number).or(Some(-1.0)),
            };
            if source.masked
                || source.has_kwarg("mask")
                || source.layer.calls.iter().any(|c| c.tensors().len() > 1)
            {
                return Ok(Outcome::Unsupported("TensorFlow.js applies its mask otherwise".into()));
            }
            match (axis, rank) {
                (Some(axis), Some(rank)) if axis == -1.0 || axis as usize == rank - 1 => {
                    source.config.insert("axis".to_owned(), (-1).into());
                    return Ok(Outcome::Keep);
                }
                (Some(axis), Some(_)) => {
                    config.insert("axis".to_owned(), axis.into());
                }
                _ => return Ok(Outcome::Unsupported("its axis is not known".into())),
            }
        }
        _ => {}
    }
    config.remove("name");
    let name = if source.class == "Softmax" { "softmax" } else { source.class };
    let value = json!({"class_name": name, "config": config});
    let mut f = Fragment::default();
    let dims = dims(source.inputs.first());
    Ok(match emit(&mut f, From::Input(0), &value, source.dialect, dims.as_ref()) {
        Some(out) => Outcome::Replace(f.give(&[out])),
        None => Outcome::Unsupported("TensorFlow.js has none of its options".into()),
    })
}

/// The shape of a value without the batch.
pub(super) fn dims(fact: Option<&Fact>) -> Option<Dims> {
    fact?.shape.as_ref()?.get(1..).map(<[_]>::to_vec)
}

fn short(value: &Value) -> String {
    match spelling::activation(value) {
        Value::String(name) => format!("`{name}`"),
        other => other.to_string(),
    }
}
