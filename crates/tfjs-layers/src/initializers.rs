use serde_json::{Map, Value};

use crate::LayersError;

/// How a weight starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    /// Keras class, such as `GlorotUniform`.
    pub class_name: String,
    /// Its options.
    pub config: Map<String, Value>,
}

impl Initializer {
    /// From a name (`glorot_uniform`, `GlorotUniform`) or an object `{class_name, config}`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(value: &Value) -> Result<Initializer, LayersError> {
        let (class_name, config) = match value {
            Value::String(name) => (name.clone(), Map::new()),
            Value::Object(o) => match (o.get("class_name"), o.get("config")) {
                (Some(Value::String(name)), Some(Value::Object(config))) => (name.clone(), config.clone()),
                (Some(Value::String(name)), _) => (name.clone(), Map::new()),
                _ => (String::new(), Map::new()),
            },
            _ => (String::new(), Map::new()),
        };
        if class_name.is_empty() {
            return Err(LayersError::Config {
                key: "initializer".to_owned(),
                value: value.to_string(),
                expected: "a name or an object with `class_name` and `config`".to_owned(),
            });
        }
        Ok(Initializer { class_name, config })
    }

    /// All zeros.
    pub fn zeros() -> Initializer {
        Initializer::named("zeros")
    }

    /// All ones.
    pub fn ones() -> Initializer {
        Initializer::named("ones")
    }

    /// By name, with its default options.
    pub fn named(name: &str) -> Initializer {
        Initializer { class_name: name.to_owned(), config: Map::new() }
    }
}
