//! A layer's configuration in TF.js's words.

use serde_json::{Map, Value, json};

use crate::{Dialect, config::number, topology::LayerConfig};

/// Keys that say how Keras stores or made the layer; TF.js has no use for them.
const DROPPED: &[&str] = &[
    "module",
    "registered_name",
    "build_config",
    "compile_config",
    "shared_object_id",
    "quantization_config",
    "autocast",
    "dynamic",
    "optional",
    "input_dtype",
];

/// Initializers of TF.js, with the spellings of files.
const INITIALIZERS: &[(&str, &str, &[&str])] = &[
    ("Zeros", "zeros", &[]),
    ("Ones", "ones", &[]),
    ("Constant", "constant", &["value"]),
    ("RandomUniform", "random_uniform", &["minval", "maxval", "seed"]),
    ("RandomNormal", "random_normal", &["mean", "stddev", "seed"]),
    ("TruncatedNormal", "truncated_normal", &["mean", "stddev", "seed"]),
    ("Identity", "identity", &["gain"]),
    ("VarianceScaling", "variance_scaling", &["scale", "mode", "distribution", "seed"]),
    ("Orthogonal", "orthogonal", &["gain", "seed"]),
    ("GlorotNormal", "glorot_normal", &["seed"]),
    ("GlorotUniform", "glorot_uniform", &["seed"]),
    ("HeNormal", "he_normal", &["seed"]),
    ("HeUniform", "he_uniform", &["seed"]),
    ("LeCunNormal", "lecun_normal", &["seed"]),
    ("LeCunUniform", "lecun_uniform", &["seed"]),
];

/// Constraints of TF.js, with the spellings of files.
const CONSTRAINTS: &[(&str, &str, &[&str])] = &[
    ("MaxNorm", "max_norm", &["max_value", "axis"]),
    ("UnitNorm", "unit_norm", &["axis"]),
    ("NonNeg", "non_neg", &[]),
    ("MinMaxNorm", "min_max_norm", &["min_value", "max_value", "rate", "axis"]),
];

/// Options that old files leave out because Keras had a default that TF.js does not share.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("Softmax", "axis", "-1"),
    ("LSTM", "recurrent_activation", "\"sigmoid\""),
    ("LSTM", "unit_forget_bias", "true"),
    ("GRU", "recurrent_activation", "\"sigmoid\""),
    ("GRU", "reset_after", "false"),
    ("LSTMCell", "recurrent_activation", "\"sigmoid\""),
    ("LSTMCell", "unit_forget_bias", "true"),
    ("GRUCell", "recurrent_activation", "\"sigmoid\""),
    ("ConvLSTM2D", "unit_forget_bias", "true"),
    ("UpSampling2D", "size", "[2, 2]"),
];

/// The configuration of a layer; `notes` gets what only training would need and TF.js lacks.
pub(super) fn layer(layer: &LayerConfig, dialect: Dialect, notes: &mut Vec<String>) -> Map<String, Value> {
    let mut config = Map::new();
    if let Some(name) = layer.config.get("name") {
        config.insert("name".to_owned(), name.clone());
    }
    config.insert("trainable".to_owned(), layer.config.get("trainable").cloned().unwrap_or(true.into()));
    config.insert("dtype".to_owned(), "float32".into());
    spell(&layer.class_name, &layer.config, dialect, notes, &mut config, 0);
    if layer.class_name == "InputLayer" {
        config.remove("trainable");
        input(layer, &mut config);
    } else {
        for key in ["batch_input_shape", "batch_shape", "input_shape", "batch_size"] {
            config.remove(key);
        }
    }
    config
}

/// `batch_input_shape`, which Keras 3 calls `batch_shape`.
fn input(layer: &LayerConfig, config: &mut Map<String, Value>) {
    config.remove("batch_shape");
    config.remove("input_shape");
    let dims = crate::network::input_fact(layer).ok().and_then(|f| f.shape).unwrap_or_default();
    let mut out = Map::new();
    out.insert("batch_input_shape".to_owned(), dims.into_iter().map(|d| json!(d)).collect());
    let dtype = layer.config.get("dtype").map_or("float32".into(), |d| {
        crate::dtype_of(d).map_or("float32".into(), |t| Value::from(t.to_string()))
    });
    out.insert("dtype".to_owned(), dtype);
    for key in ["sparse", "ragged"] {
        out.insert(
            key.to_owned(),
            config.get(key).filter(|v| v.is_boolean()).cloned().unwrap_or(false.into()),
        );
    }
    out.extend(config.get("name").map(|n| ("name".to_owned(), n.clone())));
    *config = out;
}

fn spell(
    class: &str,
    from: &Map<String, Value>,
    dialect: Dialect,
    notes: &mut Vec<String>,
    config: &mut Map<String, Value>,
    depth: usize,
) {
    for (key, value) in from {
        if DROPPED.contains(&key.as_str()) {
            continue;
        }
        let value = match key.as_str() {
            "dtype" if is_quantized(value) => value.clone(),
            "dtype" => json!(crate::dtype_of(value).map_or("float32".to_owned(), |t| t.to_string())),
            "seed" if !value.is_number() => Value::Null,
            key if key.ends_with("_initializer") => initializer(value),
            "activity_regularizer" => {
                if !value.is_null() {
                    notes.push("activity_regularizer is left out: TensorFlow.js has none".to_owned());
                }
                Value::Null
            }
            key if key.ends_with("_regularizer") => regularizer(key, value, notes),
            key if key.ends_with("_constraint") => constraint(key, value, notes),
            key if key.ends_with("activation") => activation(value),
            _ => nested(value, dialect, notes, depth),
        };
        config.insert(key.clone(), value);
    }
    if dialect != Dialect::Tfjs {
        for (_, key, default) in DEFAULTS.iter().filter(|(c, ..)| *c == class) {
            if config.get(*key).is_none_or(Value::is_null) {
                // Keras 1 had TF.js's gates.
                let old = dialect == Dialect::Keras1 && *key == "recurrent_activation";
                let default = if old { "\"hard_sigmoid\"" } else { default };
                config.insert((*key).to_owned(), serde_json::from_str(default).unwrap_or_default());
            }
        }
    }
}

/// Whether a policy says that the layer computes with integer weights.
pub(super) fn is_quantized(dtype: &Value) -> bool {
    let name = dtype.as_str().or_else(|| dtype.pointer("/config/name")?.as_str()).unwrap_or_default();
    name.contains("_from_") || dtype["class_name"].as_str().is_some_and(|c| c.contains("Quantized"))
}

/// Layers and cells inside a configuration.
fn nested(value: &Value, dialect: Dialect, notes: &mut Vec<String>, depth: usize) -> Value {
    if depth > 32 {
        return value.clone();
    }
    match value {
        Value::Object(o) => match (o.get("class_name"), o.get("config")) {
            (Some(Value::String(class)), Some(Value::Object(inner))) if class != "__numpy__" => {
                let mut config = Map::new();
                spell(class, inner, dialect, notes, &mut config, depth + 1);
                let mut out = Map::new();
                out.insert("class_name".to_owned(), class.clone().into());
                out.insert("config".to_owned(), config.into());
                for (key, value) in o.iter().filter(|(k, _)| *k == "name" || *k == "inbound_nodes") {
                    out.insert(key.clone(), value.clone());
                }
                out.into()
            }
            _ => value.clone(),
        },
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().map(|v| nested(v, dialect, notes, depth + 1)).collect()
        }
        other => other.clone(),
    }
}

/// Class and configuration of an object or a name.
fn class_of(value: &Value) -> Option<(&str, Map<String, Value>)> {
    match value {
        Value::String(name) => Some((name, Map::new())),
        Value::Object(o) => {
            let config = o.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
            Some((o.get("class_name")?.as_str()?, config))
        }
        _ => None,
    }
}

fn known(
    table: &[(&'static str, &str, &'static [&'static str])],
    name: &str,
) -> Option<(&'static str, &'static [&'static str])> {
    let plain = |s: &str| s.replace('_', "").to_lowercase();
    let wanted = plain(name);
    table.iter().find(|(class, word, _)| plain(class) == wanted || plain(word) == wanted).map(|r| (r.0, r.2))
}

/// Values are in the file, so an initializer that TF.js does not know does no harm when it is replaced.
fn initializer(value: &Value) -> Value {
    let zeros = || json!({"class_name": "Zeros", "config": {}});
    if value.is_null() {
        return Value::Null;
    }
    let Some((name, config)) = class_of(value) else { return zeros() };
    let Some((class, keys)) = known(INITIALIZERS, name) else { return zeros() };
    let mut out = Map::new();
    for key in keys {
        let value = config.get(*key).unwrap_or(&Value::Null);
        let value = match (*key, value) {
            ("seed", v) if !v.is_number() => Value::Null,
            // What TF.js calls normal is truncated.
            ("distribution", Value::String(s)) if s.contains("normal") => "normal".into(),
            ("value", v) => number(v).map_or(Value::Null, Value::from),
            (_, v) => v.clone(),
        };
        if !value.is_null() || *key == "seed" {
            out.insert((*key).to_owned(), value);
        }
    }
    if class == "Constant" && !out.contains_key("value") {
        return zeros();
    }
    json!({"class_name": class, "config": out})
}

fn regularizer(key: &str, value: &Value, notes: &mut Vec<String>) -> Value {
    if value.is_null() {
        return Value::Null;
    }
    let penalty = class_of(value).and_then(|(class, config)| {
        let get = |key: &str, default: f64| config.get(key).and_then(number).unwrap_or(default);
        Some(match class.to_lowercase().as_str() {
            "l1" => (get("l1", get("l", 0.01)), 0.0),
            "l2" => (0.0, get("l2", get("l", 0.01))),
            // As a name it has both penalties, as an object those that are given.
            "l1l2" | "l1_l2" => {
                let default = if value.is_string() { 0.01 } else { 0.0 };
                (get("l1", default), get("l2", default))
            }
            _ => return None,
        })
    });
    match penalty {
        Some((l1, l2)) => json!({"class_name": "L1L2", "config": {"l1": l1, "l2": l2}}),
        None => {
            notes.push(format!("{key} is left out: TensorFlow.js has no such regularizer"));
            Value::Null
        }
    }
}

fn constraint(key: &str, value: &Value, notes: &mut Vec<String>) -> Value {
    if value.is_null() {
        return Value::Null;
    }
    let found = class_of(value).and_then(|(name, config)| Some((known(CONSTRAINTS, name)?, config)));
    match found {
        Some(((class, keys), config)) => {
            let config: Map<String, Value> =
                config.into_iter().filter(|(k, v)| keys.contains(&k.as_str()) && !v.is_null()).collect();
            json!({"class_name": class, "config": config})
        }
        None => {
            notes.push(format!("{key} is left out: TensorFlow.js has no such constraint"));
            Value::Null
        }
    }
}

/// A name where a name says it all.
pub(super) fn activation(value: &Value) -> Value {
    let name = match value {
        Value::Null => return "linear".into(),
        Value::String(name) => name.as_str(),
        Value::Object(o) => match (o.get("class_name").and_then(Value::as_str), o.get("config")) {
            (Some("function"), Some(Value::String(name))) => name.as_str(),
            (Some(class), Some(Value::Object(config))) => {
                let config: Map<String, Value> = config
                    .iter()
                    .filter(|(k, _)| !DROPPED.contains(&k.as_str()))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                return json!({"class_name": class, "config": config});
            }
            _ => return value.clone(),
        },
        _ => return value.clone(),
    };
    // `silu` has another name in TF.js, and in Keras 2.
    match name {
        "silu" => "swish".into(),
        name => name.into(),
    }
}
