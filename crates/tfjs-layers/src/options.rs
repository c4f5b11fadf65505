//! Options of losses and metrics: names with defaults, and those of them that were set.

use serde_json::{Map, Value, json};

use crate::{LayersError, number};

type Result<T> = std::result::Result<T, LayersError>;

/// The default of an option. What it is says what the option takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Default {
    /// Nothing; whoever reads the option knows what it takes.
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'static str),
}

/// Names and defaults, in Keras's order.
pub(crate) type Defaults = &'static [(&'static str, Default)];

/// Options of one loss or metric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    defaults: Defaults,
    set: Vec<(&'static str, Value)>,
}

impl Options {
    pub(crate) const fn new(defaults: Defaults) -> Options {
        Options { defaults, set: Vec::new() }
    }

    /// Sets an option.
    ///
    /// # Errors
    /// When there is none of this name, or it takes something else.
    pub(crate) fn set(&mut self, key: &str, value: &Value) -> Result<()> {
        let Some(&(name, default)) = self.defaults.iter().find(|(name, _)| *name == key) else {
            let known: Vec<&str> = self.defaults.iter().map(|(name, _)| *name).collect();
            let expected = if known.is_empty() {
                "no options".to_owned()
            } else {
                format!("one of {}", known.join(", "))
            };
            return Err(LayersError::Config { key: key.to_owned(), value: value.to_string(), expected });
        };
        let value = plain(value);
        let fits = match default {
            Default::None => true,
            Default::Bool(_) => value.is_boolean(),
            Default::Int(_) => value.is_i64(),
            Default::Float(_) => number(&value).is_some(),
            Default::Text(_) => value.is_string() || value.is_null(),
        };
        let expected = match default {
            Default::None => "anything",
            Default::Bool(_) => "true or false",
            Default::Int(_) => "an integer",
            Default::Float(_) => "a number",
            Default::Text(_) => "a string",
        };
        if !fits {
            return Err(wrong(name, &value, expected));
        }
        self.set.retain(|(n, _)| *n != name);
        self.set.push((name, value));
        Ok(())
    }

    /// All names with their defaults.
    pub(crate) fn defaults(&self) -> Defaults {
        self.defaults
    }

    /// Whether it was set to something that is not null.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.find(key).is_some_and(|v| !v.is_null())
    }

    fn find(&self, key: &str) -> Option<&Value> {
        self.set.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The option as JSON.
    pub(crate) fn value(&self, key: &str) -> Value {
        if let Some(value) = self.find(key) {
            return value.clone();
        }
        match self.defaults.iter().find(|(name, _)| *name == key) {
            None | Some((_, Default::None)) => Value::Null,
            Some((_, Default::Bool(b))) => json!(b),
            Some((_, Default::Int(n))) => json!(n),
            Some((_, Default::Float(x))) => json!(x),
            Some((_, Default::Text(t))) => json!(t),
        }
    }

    pub(crate) fn wrong(&self, key: &str, expected: &str) -> LayersError {
        wrong(key, &self.value(key), expected)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.value(key).as_bool().unwrap_or(false)
    }

    pub(crate) fn int(&self, key: &str) -> Result<i64> {
        self.value(key).as_i64().ok_or_else(|| self.wrong(key, "an integer"))
    }

    pub(crate) fn opt_int(&self, key: &str) -> Result<Option<i64>> {
        if self.value(key).is_null() { Ok(None) } else { self.int(key).map(Some) }
    }

    /// A size of at least 1, if given.
    pub(crate) fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(n) = self.opt_int(key)? else { return Ok(None) };
        let n = usize::try_from(n).ok().filter(|&n| n > 0);
        n.map(Some).ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    pub(crate) fn float(&self, key: &str) -> Result<f64> {
        number(&self.value(key)).ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A list of numbers, or one number; `None` when null.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let value = self.value(key);
        let list = match &value {
            Value::Null => return Ok(None),
            Value::Array(items) => items.iter().map(number).collect(),
            one => number(one).map(|x| vec![x]),
        };
        list.map(Some).ok_or_else(|| self.wrong(key, "a number or a list of numbers"))
    }

    /// A list of integers, or one; `None` when null.
    pub(crate) fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let Some(list) = self.floats(key)? else { return Ok(None) };
        let whole = list.iter().all(|x| x.fract() == 0.0 && x.abs() < 2f64.powi(53));
        if whole {
            Ok(Some(list.into_iter().map(|x| x as i64).collect()))
        } else {
            Err(self.wrong(key, "an integer or a list of integers"))
        }
    }

    /// One of several words.
    pub(crate) fn word(&self, key: &str, words: &[&'static str]) -> Result<&'static str> {
        let value = self.value(key);
        let found = words.iter().find(|w| value.as_str().is_some_and(|v| w.eq_ignore_ascii_case(v)));
        found.copied().ok_or_else(|| self.wrong(key, &format!("one of {}", words.join(", "))))
    }

    /// Options that are not at their default: Keras 2 and 3 do not know all of the same names.
    pub(crate) fn write(&self, config: &mut Map<String, Value>) {
        let defaults = Options::new(self.defaults);
        for (name, _) in self.defaults {
            let value = self.value(name);
            if value != defaults.value(name) {
                config.insert((*name).to_owned(), value);
            }
        }
    }
}

/// An object as Keras serialises it.
pub(crate) fn object(module: &str, class: &str, config: Map<String, Value>) -> Value {
    json!({ "module": module, "class_name": class, "config": config, "registered_name": null })
}

/// Keras 3's ways of writing tuples and arrays, undone.
fn plain(value: &Value) -> Value {
    match (
        value.get("class_name").and_then(Value::as_str),
        value.pointer("/config/value"),
        value.get("items"),
    ) {
        (Some("__numpy__" | "__tensor__"), Some(inner), _) | (Some("__tuple__"), _, Some(inner)) => {
            plain(inner)
        }
        _ => value.clone(),
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> LayersError {
    LayersError::Config { key: key.to_owned(), value: value.to_string(), expected: expected.to_owned() }
}

/// What a serialised loss or metric says.
pub(crate) struct Spelled<'a> {
    /// Class, function or alias.
    pub(crate) name: &'a str,
    /// Its configuration, if it is an object of a class.
    pub(crate) config: Option<&'a Map<String, Value>>,
}

/// Reads a name or a serialised object: `"mse"`, `{class_name, config}`, `{class_name: "function", config: "mse"}`.
///
/// # Errors
/// When it is neither.
pub(crate) fn spelled<'a>(what: &'static str, value: &'a Value) -> Result<Spelled<'a>> {
    let expected = || wrong(what, value, "a name, or an object with `class_name` and `config`");
    match value {
        Value::String(name) => Ok(Spelled { name, config: None }),
        Value::Object(o) => {
            let class = o.get("class_name").and_then(Value::as_str).ok_or_else(expected)?;
            match (class, o.get("config")) {
                ("function", Some(Value::String(name))) => Ok(Spelled { name, config: None }),
                (_, Some(Value::Object(config))) => Ok(Spelled { name: class, config: Some(config) }),
                (_, None | Some(Value::Null)) => Ok(Spelled { name: class, config: None }),
                _ => Err(expected()),
            }
        }
        _ => Err(expected()),
    }
}

/// A name without what the spellings `mean_squared_error`, `meanSquaredError` and `MeanSquaredError` differ in. Keras 3
/// registers what it writes as `keras>name`.
pub(crate) fn folded(name: &str) -> String {
    let name = name.rsplit('>').next().unwrap_or(name);
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// An error for a name that nothing has, with the known ones and the nearest of them.
pub(crate) fn unknown(what: &'static str, name: &str, known: Vec<&'static str>) -> LayersError {
    let wanted = folded(name);
    let near = known.iter().map(|k| (distance(&wanted, &folded(k)), *k)).min();
    let nearest = near.filter(|(d, k)| *d <= 2 + k.len() / 4).map(|(_, k)| k);
    LayersError::UnknownName { what, name: name.to_owned(), nearest, known }
}

/// Insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
