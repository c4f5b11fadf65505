use std::{cell::RefCell, collections::HashSet, fmt, rc::Rc};

use serde_json::{Map, Value};
use tfjs_kernels::DType;

use crate::{
    Activation, Constraint, Dialect, Initializer, Layer, LayersError, Regularizer, WeightInit, network,
    topology::LayerConfig,
};

/// Reads a layer's configuration. It remembers which keys were asked for, so that those that nobody knows can be
/// reported instead of being ignored.
#[derive(Debug)]
pub struct Config<'a> {
    map: &'a Map<String, Value>,
    /// Whose defaults apply.
    pub dialect: Dialect,
    used: RefCell<HashSet<String>>,
    unknown: UnknownOptions,
}

/// An option in a file that no layer of its class has. It has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownOption {
    /// Name of the layer.
    pub layer: String,
    /// Its Keras class.
    pub class: String,
    /// The option.
    pub option: String,
}

impl fmt::Display for UnknownOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownOption { layer, class, option } = self;
        write!(f, "layer `{layer}` ({class}): option `{option}` is not known and has no effect")
    }
}

/// Those of a model, while its layers are made.
pub(crate) type UnknownOptions = Rc<RefCell<Vec<UnknownOption>>>;

type Result<T> = std::result::Result<T, LayersError>;

/// Keys that say nothing about what a layer computes.
const COMMON: &[&str] = &[
    "name",
    "trainable",
    "dtype",
    "batch_input_shape",
    "batch_shape",
    "input_shape",
    "module",
    "registered_name",
    "build_config",
    "shared_object_id",
    "dynamic",
    "activity_regularizer",
    "quantization_config",
    "input_dtype",
    "autocast",
];

/// Weights that have options of their own.
const WEIGHTS: &[&str] = &[
    "kernel",
    "bias",
    "recurrent",
    "depthwise",
    "pointwise",
    "embeddings",
    "alpha",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
];

impl<'a> Config<'a> {
    /// A reader over a config object.
    pub fn new(map: &'a Map<String, Value>, dialect: Dialect) -> Config<'a> {
        Config { map, dialect, used: RefCell::default(), unknown: UnknownOptions::default() }
    }

    /// The reader for a layer; keys that nobody asked for are noted by [`Config::finish`].
    pub(crate) fn of_layer(
        map: &'a Map<String, Value>,
        dialect: Dialect,
        unknown: &UnknownOptions,
    ) -> Config<'a> {
        Config { unknown: unknown.clone(), ..Config::new(map, dialect) }
    }

    /// Notes the keys that nobody asked for.
    pub(crate) fn finish(self, layer: &str, class: &str) {
        let note = |option| UnknownOption { layer: layer.to_owned(), class: class.to_owned(), option };
        self.unknown.borrow_mut().extend(self.unknown().into_iter().map(note));
    }

    /// A reader for a layer inside this one.
    pub(crate) fn inner<'b>(&self, map: &'b Map<String, Value>) -> Config<'b> {
        Config::of_layer(map, self.dialect, &self.unknown)
    }

    /// Makes a layer inside this one.
    ///
    /// # Errors
    /// When its class is not known, or its config is wrong.
    pub fn make(&self, inner: &LayerConfig) -> Result<Box<dyn Layer>> {
        network::make_noting(inner, self.dialect, &self.unknown)
            .map_err(|e| e.in_layer(&inner.name, &inner.class_name))
    }

    /// The value of a key; `None` when it is missing or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Marks keys as known whose value does not matter here.
    pub fn known(&self, keys: &[&str]) {
        self.used.borrow_mut().extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// Keys that nobody asked for.
    pub fn unknown(&self) -> Vec<String> {
        let used = self.used.borrow();
        // What belongs to a weight that the layer does without.
        let of_weight = |k: &str| {
            let (weight, what) = k.rsplit_once('_').unwrap_or_default();
            WEIGHTS.contains(&weight) && ["initializer", "regularizer", "constraint"].contains(&what)
        };
        let known = |k: &str| used.contains(k) || COMMON.contains(&k) || of_weight(k);
        self.map.keys().filter(|k| !known(k)).cloned().collect()
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> LayersError {
        let value = self.map.get(key).map_or("missing".to_owned(), short);
        LayersError::Config { key: key.to_owned(), value, expected: expected.into() }
    }

    /// A boolean.
    ///
    /// # Errors
    /// When it is something else.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n == 0 || n == 1) => {
                Ok(n.as_i64() == Some(1))
            }
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.opt_f64(key)?.unwrap_or(default))
    }

    /// A number, as the layer computes with it.
    ///
    /// # Errors
    /// When it is something else.
    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32> {
        Ok(self.opt_f64(key)?.map_or(default, |x| x as f32))
    }

    /// A number, if given. TF.js writes some as `{type: "ndarray", value}`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| number(v).ok_or_else(|| self.wrong(key, "a number"))).transpose()
    }

    /// An integer.
    ///
    /// # Errors
    /// When it is something else.
    pub fn int_or(&self, key: &str, default: i64) -> Result<i64> {
        Ok(self.opt_int(key)?.unwrap_or(default))
    }

    /// An integer, if given.
    ///
    /// # Errors
    /// When it is something else.
    pub fn opt_int(&self, key: &str) -> Result<Option<i64>> {
        self.get(key).map(|v| int(v).ok_or_else(|| self.wrong(key, "an integer"))).transpose()
    }

    /// A size: an integer of at least 0.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.opt_usize(key)?.ok_or_else(|| self.wrong(key, "a size"))
    }

    /// A size, if given.
    ///
    /// # Errors
    /// When it is something else.
    pub fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        let size = |v| int(v).and_then(|n| usize::try_from(n).ok());
        self.get(key).map(|v| size(v).ok_or_else(|| self.wrong(key, "a size"))).transpose()
    }

    /// A size.
    ///
    /// # Errors
    /// When it is something else.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.opt_usize(key)?.unwrap_or(default))
    }

    /// A string.
    ///
    /// # Errors
    /// When it is something else.
    pub fn str_or(&self, key: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.opt_str(key)?.unwrap_or(default))
    }

    /// A string, if given.
    ///
    /// # Errors
    /// When it is something else.
    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "a string"))).transpose()
    }

    /// One of several words; the index of it is returned.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn one_of(&self, key: &str, words: &[&'static str], default: &'static str) -> Result<&'static str> {
        let word = self.str_or(key, default)?;
        words
            .iter()
            .find(|w| w.eq_ignore_ascii_case(word))
            .copied()
            .ok_or_else(|| self.wrong(key, format!("one of {}", words.join(", "))))
    }

    /// An integer or a list of integers.
    ///
    /// # Errors
    /// When it is something else.
    pub fn opt_ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = match value {
            Value::Array(items) => items.iter().map(int).collect(),
            other => int(other).map(|n| vec![n]),
        };
        list.map(Some).ok_or_else(|| self.wrong(key, "an integer or a list of integers"))
    }

    /// Sizes along `rank` axes: a single number stands for all of them.
    ///
    /// # Errors
    /// When it is missing, something else, or of another length.
    pub fn sizes(&self, key: &str, rank: usize) -> Result<Vec<usize>> {
        let wrong = || self.wrong(key, format!("a size or {rank} of them"));
        let list = self.opt_ints(key)?.ok_or_else(wrong)?;
        let list: Vec<usize> =
            list.into_iter().map(|n| usize::try_from(n).map_err(|_| wrong())).collect::<Result<_>>()?;
        match (self.get(key), list.as_slice()) {
            (Some(Value::Array(_)), _) if list.len() == rank => Ok(list),
            (_, [one]) => Ok(vec![*one; rank]),
            _ => Err(wrong()),
        }
    }

    /// Sizes along `rank` axes, or `default` for each.
    ///
    /// # Errors
    /// When it is something else, or of another length.
    pub fn sizes_or(&self, key: &str, rank: usize, default: usize) -> Result<Vec<usize>> {
        if self.get(key).is_none() { Ok(vec![default; rank]) } else { self.sizes(key, rank) }
    }

    /// A list of numbers, which Keras also nests or writes as one number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn opt_floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        fn flat(value: &Value, out: &mut Vec<f64>) -> Option<()> {
            match value {
                Value::Array(items) => items.iter().try_for_each(|v| flat(v, out)),
                other => {
                    out.push(number(other)?);
                    Some(())
                }
            }
        }
        let Some(value) = self.get(key) else { return Ok(None) };
        let mut out = Vec::new();
        flat(value, &mut out).ok_or_else(|| self.wrong(key, "numbers"))?;
        Ok(Some(out))
    }

    /// An activation function; `default` when the key is missing, linear when it is null.
    ///
    /// # Errors
    /// When it is not known.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        self.used.borrow_mut().insert(key.to_owned());
        match self.map.get(key) {
            None => Activation::parse(&Value::from(default)),
            Some(value) => Activation::parse(value),
        }
    }

    /// What a weight is made of: its initializer (`default` if not given), regularizer and constraint.
    ///
    /// # Errors
    /// When the initializer is neither a name nor an object.
    pub fn initializer(&self, weight: &str, default: &str) -> Result<WeightInit> {
        let initializer = match self.get(&format!("{weight}_initializer")) {
            None => Initializer::parse(&Value::from(default))?,
            Some(value) => Initializer::parse(value)?,
        };
        let regularizer = self.get(&format!("{weight}_regularizer"));
        Ok(WeightInit {
            initializer,
            regularizer: regularizer.and_then(|value| Regularizer::parse(value, self.dialect)),
            constraint: self.get(&format!("{weight}_constraint")).and_then(Constraint::parse),
        })
    }

    /// The form in which Keras 3 has quantized the layer (`int8`, `int4`, `float8`, …), if it has.
    ///
    /// # Errors
    /// When there is no arithmetic for it here.
    pub fn int8(&self) -> Result<bool> {
        let Some(dtype) = self.map.get("dtype") else { return Ok(false) };
        let mode = match dtype.pointer("/config/mode").or(Some(dtype)).and_then(Value::as_str) {
            Some(name) => {
                name.split("_from_").next().filter(|_| name.contains("_from_") || dtype.is_object())
            }
            None => None,
        };
        match mode {
            None | Some("float32") => Ok(false),
            Some("int8") => Ok(true),
            Some(_) => Err(self.wrong("dtype", "a type of numbers, or quantization to int8")),
        }
    }

    /// Whether channels come last; `channels_first` says no. Absent or null means yes.
    ///
    /// # Errors
    /// When it is another word.
    pub fn channels_last(&self) -> Result<bool> {
        Ok(self.one_of("data_format", &["channels_last", "channels_first"], "channels_last")?
            == "channels_last")
    }

    /// The type that the layer computes with: `dtype` as a string or a policy of any version. Mixed precision computes
    /// in float32 here.
    pub fn dtype(&self) -> Option<DType> {
        dtype_of(self.map.get("dtype")?)
    }
}

/// A type from a name or a policy (`{class_name: "DTypePolicy", config: {name: …}}`). Types that do not run are those
/// they are read as: float16, bfloat16 and float64 are float32, int64 and smaller integers are int32.
pub fn dtype_of(value: &Value) -> Option<DType> {
    let name = match value {
        Value::String(name) => name.as_str(),
        other => other.pointer("/config/name")?.as_str()?,
    };
    Some(match name {
        "float32" | "float16" | "bfloat16" | "float64" | "mixed_float16" | "mixed_bfloat16" | "floatx" => {
            DType::Float32
        }
        "int32" | "int64" | "uint8" | "int8" | "uint16" | "int16" | "uint32" | "uint64" => DType::Int32,
        "bool" => DType::Bool,
        "string" => DType::String,
        "complex64" => DType::Complex64,
        _ => return None,
    })
}

/// A number, also in the spellings `{type: "ndarray", value}` of TF.js and `{class_name: "__numpy__", config: {value}}`
/// of Keras 3, or as the words JSON lacks.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "NaN" | "nan" => Some(f64::NAN),
            "Infinity" | "inf" => Some(f64::INFINITY),
            "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        Value::Object(o) => number(o.get("value").or_else(|| o.get("config")?.get("value"))?),
        Value::Array(items) if items.len() == 1 => number(&items[0]),
        _ => None,
    }
}

/// Class and options of an object `{class_name, config}` or a name; what is neither stands for itself. `None` for null.
pub(crate) fn class_and_options(value: &Value) -> Option<(String, Map<String, Value>)> {
    match value {
        Value::Null => None,
        Value::String(name) => Some((name.clone(), Map::new())),
        other => {
            let name = other.get("class_name").and_then(Value::as_str);
            let config = other.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
            Some((name.map_or_else(|| short(other), str::to_owned), config))
        }
    }
}

/// A name in lower case without underscores: files have `MaxNorm`, `max_norm` and `maxNorm`.
pub(crate) fn plain_name(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

fn int(value: &Value) -> Option<i64> {
    let x = number(value)?;
    (x.fract() == 0.0 && x.abs() < 2f64.powi(53)).then_some(x as i64)
}

/// JSON short enough for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
