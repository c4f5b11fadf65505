use serde_json::Value;

/// A model as its layers, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// Name of the model.
    pub name: String,
    /// Sequential or functional.
    pub kind: ModelKind,
    /// Its layers; those of nested models follow the layer that holds them, under `outer/inner` names.
    pub layers: Vec<LayerInfo>,
    /// Version of Keras that wrote the file, if it says so.
    pub keras_version: Option<String>,
}

/// How a model joins its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// One after the other.
    Sequential,
    /// By a graph of inbound nodes.
    Functional,
}

/// A layer of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerInfo {
    /// Its name, unique in its model.
    pub name: String,
    /// Keras class.
    pub class_name: String,
    /// Names of the layers it takes its inputs from, each once; empty in sequential models.
    pub inbound: Vec<String>,
    /// Its configuration as in the file.
    pub config: Value,
}

/// What is wrong with a topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayersError {
    /// A field is missing or has another type.
    #[error("{place}: `{field}` is missing or not {expected}")]
    Field {
        /// Where in the topology.
        place: String,
        /// The field.
        field: &'static str,
        /// What it should be, in words.
        expected: &'static str,
    },
    /// Models are nested too deep to be real.
    #[error("models are nested more than {0} deep")]
    TooDeep(usize),
}

const MAX_DEPTH: usize = 32;

impl Topology {
    /// Reads `modelTopology`: Python's form (`{model_config: …}`) or that of TF.js (`{class_name, config}`).
    ///
    /// # Errors
    /// When classes, names or layers are missing.
    pub fn from_json(topology: &Value) -> Result<Topology, LayersError> {
        let model = topology.get("model_config").unwrap_or(topology);
        let keras_version = topology.get("keras_version").and_then(Value::as_str).map(str::to_owned);
        let mut layers = Vec::new();
        let (name, kind) = read_model(model, "", 0, &mut layers)?;
        Ok(Topology { name, kind, layers, keras_version })
    }
}

fn text(value: &Value, field: &'static str, place: &str) -> Result<String, LayersError> {
    value.get(field).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| LayersError::Field {
        place: if place.is_empty() { "model".to_owned() } else { place.to_owned() },
        field,
        expected: "a string",
    })
}

fn read_model(
    model: &Value,
    prefix: &str,
    depth: usize,
    layers: &mut Vec<LayerInfo>,
) -> Result<(String, ModelKind), LayersError> {
    if depth > MAX_DEPTH {
        return Err(LayersError::TooDeep(MAX_DEPTH));
    }
    let place = prefix.trim_end_matches('/');
    let kind = match text(model, "class_name", place)?.as_str() {
        "Sequential" => ModelKind::Sequential,
        _ => ModelKind::Functional,
    };
    let config = &model["config"];
    // Keras before 2.2.3 wrote a sequential model's config as the list itself.
    let list = config.get("layers").unwrap_or(config).as_array().ok_or_else(|| LayersError::Field {
        place: if place.is_empty() { "model".to_owned() } else { place.to_owned() },
        field: "config.layers",
        expected: "a list of layers",
    })?;
    for (i, layer) in list.iter().enumerate() {
        let here = format!("{prefix}layer {i}");
        let class_name = text(layer, "class_name", &here)?;
        let config = layer.get("config").cloned().unwrap_or_default();
        let name = match layer.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => text(&config, "name", &here)?,
        };
        let mut inbound = Vec::new();
        collect_inbound(layer.get("inbound_nodes").unwrap_or(&Value::Null), &mut inbound, 0);
        let full = format!("{prefix}{name}");
        let nested = config.get("layers").is_some_and(Value::is_array);
        layers.push(LayerInfo { name: full.clone(), class_name, inbound, config });
        if nested {
            read_model(layer, &format!("{full}/"), depth + 1, layers)?;
        }
    }
    let name = config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((name, kind))
}

/// Names of layers in `inbound_nodes`: `[name, node, tensor, kwargs]` lists at any depth, or Keras 3's
/// `{class_name: "__keras_tensor__", config: {keras_history: [name, node, tensor]}}`.
fn collect_inbound(value: &Value, names: &mut Vec<String>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Array(items) => match items.as_slice() {
            [Value::String(name), Value::Number(_), Value::Number(_), ..] => {
                if !names.contains(name) {
                    names.push(name.clone());
                }
                items[3..].iter().for_each(|v| collect_inbound(v, names, depth + 1));
            }
            items => items.iter().for_each(|v| collect_inbound(v, names, depth + 1)),
        },
        Value::Object(map) => map.values().for_each(|v| collect_inbound(v, names, depth + 1)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{LayersError, ModelKind, Topology};

    #[test]
    fn a_functional_model_with_a_nested_one_lists_all_layers_and_where_they_come_from() {
        let inner = json!({"class_name": "Sequential", "name": "inner",
            "config": {"name": "inner", "layers": [{"class_name": "Dense", "config": {"name": "d"}}]},
            "inbound_nodes": [[["x", 0, 0, {}]]]});
        let add = json!({"class_name": "Add", "name": "add", "config": {"name": "add"},
            "inbound_nodes": [[["x", 0, 0, {}], ["inner", 1, 0, {}]]]});
        let x =
            json!({"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": []});
        let t = Topology::from_json(&json!({"keras_version": "2.15.0", "model_config":
            {"class_name": "Functional", "config": {"name": "m", "layers": [x, inner, add]}}}))
        .unwrap();
        assert_eq!(
            (t.name.as_str(), t.kind, t.keras_version.as_deref()),
            ("m", ModelKind::Functional, Some("2.15.0"))
        );
        let names: Vec<_> = t.layers.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["x", "inner", "inner/d", "add"]);
        assert_eq!(t.layers[3].inbound, ["x", "inner"]);
    }

    #[test]
    fn keras_3_tensors_name_their_layer() {
        let tensor = json!({"class_name": "__keras_tensor__", "config": {"shape": [null, 4], "keras_history": ["a", 0, 0]}});
        let layer = json!({"class_name": "Dense", "name": "b", "config": {"name": "b"},
            "inbound_nodes": [{"args": [tensor], "kwargs": {}}]});
        let t = Topology::from_json(
            &json!({"class_name": "Functional", "config": {"name": "m", "layers": [layer]}}),
        )
        .unwrap();
        assert_eq!(t.layers[0].inbound, ["a"]);
    }

    #[test]
    fn a_layer_without_a_class_is_an_error_that_says_which() {
        let e =
            Topology::from_json(&json!({"class_name": "Sequential", "config": {"layers": [{"config": {}}]}}));
        assert_eq!(
            e,
            Err(LayersError::Field { place: "layer 0".into(), field: "class_name", expected: "a string" })
        );
    }
}
