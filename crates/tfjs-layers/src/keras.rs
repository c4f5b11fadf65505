//! A model as Keras itself reads it: configuration and weights in the form of Keras 2 or Keras 3.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use tfjs_graph::Constant;

use crate::{
    Dialect, LayersError, LayersModel, ModelConfig, ModelKind, matching,
    topology::{Arg, CallConfig, LayerConfig, Structure, TensorRef},
};

type Result<T> = std::result::Result<T, LayersError>;

/// Keys that every layer takes.
const COMMON: &[&str] = &["name", "trainable", "dtype", "activity_regularizer"];

/// Names that changed from Keras 2 to Keras 3, by class.
const RENAMED: &[(&str, &str, &str)] = &[
    ("LeakyReLU", "alpha", "negative_slope"),
    ("DepthwiseConv2D", "kernel_initializer", "depthwise_initializer"),
];

/// Keys that `from_config` takes besides those of the constructor: version 3, class, keys.
const EXTRA: &[(bool, &str, &[&str])] =
    &[(false, "MultiHeadAttention", &["query_shape", "key_shape", "value_shape"])];

/// By version of Keras and class: keys of its configuration. Made by `fixtures/make/keras_keys.py`.
static KEYS: LazyLock<HashMap<(bool, &'static str), HashSet<&'static str>>> = LazyLock::new(|| {
    let row = |line: &'static str| {
        let mut words = line.split(' ');
        Some(((words.next()? == "3", words.next()?), words.collect()))
    };
    include_str!("keras/keys.txt").lines().filter_map(row).collect()
});

impl LayersModel {
    /// The version of Keras whose files the model becomes: 3 for models of Keras 3, else 2.
    pub fn keras_dialect(&self) -> Dialect {
        if self.dialect() == Dialect::Keras3 { Dialect::Keras3 } else { Dialect::Keras2 }
    }

    /// The model's configuration, `{class_name, config}`. For `.keras` archives layers say the Python module they are
    /// from, which those of Keras 2 do not in `.h5` files.
    ///
    /// # Errors
    /// When an operation of one version of Keras would have to be written for the other, or a layer is a frozen graph.
    pub fn keras_config(&self, archive: bool) -> Result<Value> {
        self.refuse_graphs()?;
        let keras3 = self.keras_dialect() == Dialect::Keras3;
        Writer { keras3, modules: keras3 || archive }.model(&self.network().config, None)
    }

    /// Weights as `.h5` files hold them: for each layer its variables in Keras's order, with their names.
    pub fn keras_weights(&self) -> Vec<(String, Vec<(String, Constant)>)> {
        let network = self.network();
        let layers = network.config.keras_order();
        let layers = layers.into_iter().map(|i| (&network.config.layers[i], &network.nodes[i]));
        layers
            .filter(|(config, _)| !config.implied)
            .map(|(config, node)| {
                let mut ids: Vec<usize> = node.weights.clone().collect();
                ids.sort_by_key(|&i| !self.params().weights[i].trainable); // stable: trained ones first
                let mut taken = HashSet::new();
                let named = ids.into_iter().filter_map(|i| {
                    let weight = &self.params().weights[i];
                    let fresh = (1..).map(|n| format!("{}_{n}", weight.keras));
                    let name =
                        std::iter::once(weight.keras.clone()).chain(fresh).find(|n| !taken.contains(n))?;
                    taken.insert(name.clone());
                    Some((name, weight.value.clone()?))
                });
                (config.name.clone(), named.collect())
            })
            .collect()
    }

    /// Weights as `.keras` files hold them, by path: `layers/dense/vars/0`.
    pub fn keras_objects(&self) -> Vec<(String, Constant)> {
        let paths = matching::object_paths(self.network(), self.params());
        // These keep their projections in private attributes: attention of Keras 2, and with grouped queries of Keras 3.
        let private =
            |path: &str| self.keras_dialect() != Dialect::Keras3 || path.contains("/grouped_query_attention");
        let spelled = |path: String| match private(&path) {
            false => path,
            true => ["query", "key", "value", "output"].iter().fold(path, |path, name| {
                path.replace(&format!("/{name}_dense/"), &format!("/_{name}_dense/"))
            }),
        };
        let stored =
            |(path, i): (String, usize)| Some((spelled(path), self.params().weights[i].value.clone()?));
        paths.into_iter().filter_map(stored).collect()
    }
}

/// The configuration of an operation: only what it computes with.
fn operation(class: &str, config: &Map<String, Value>) -> Map<String, Value> {
    let typed = ["Cast", "OneHot"].contains(&class);
    let common = |key: &str| key == "trainable" || (key == "dtype" && !typed);
    config.iter().filter(|(k, _)| !common(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

struct Writer {
    keras3: bool,
    modules: bool,
}

impl Writer {
    fn model(&self, model: &ModelConfig, name: Option<&str>) -> Result<Value> {
        let name = name.unwrap_or(&model.name);
        let sequential = model.kind == ModelKind::Sequential;
        let mut layers = Vec::new();
        for layer in model.keras_order().into_iter().map(|i| &model.layers[i]) {
            if layer.implied && !self.keras3 {
                continue; // the first layer says the shape itself
            }
            let mut entry = self.layer(layer)?;
            if !sequential {
                entry["name"] = layer.name.clone().into();
                let calls = layer.calls.iter().filter(|c| !c.args.is_empty() || !c.kwargs.is_empty());
                entry["inbound_nodes"] = calls.map(|c| self.call(model, layer, c)).collect::<Result<_>>()?;
            }
            layers.push(entry);
        }
        let mut config = json!({"name": name, "trainable": model.trainable, "layers": layers});
        if sequential {
            if !self.keras3
                && let Some((shape, first)) =
                    model.layers.first().filter(|l| l.implied).zip(config["layers"].get_mut(0))
            {
                let shape = shape.config.get("batch_input_shape").cloned().unwrap_or_default();
                first["config"]["batch_input_shape"] = shape;
            }
        } else {
            config["input_layers"] = self.endpoints(model, &model.inputs);
            config["output_layers"] = self.endpoints(model, &model.outputs);
        }
        let class = if sequential { "Sequential" } else { "Functional" };
        let mut entry = json!({"class_name": class, "config": config});
        if self.modules {
            let module = match (sequential, self.keras3) {
                (true, _) => "keras",
                (false, true) => "keras.src.models.functional",
                (false, false) => "tf_keras.src.engine.functional",
            };
            entry["module"] = module.into();
            entry["registered_name"] = if sequential { Value::Null } else { "Functional".into() };
        }
        Ok(entry)
    }

    fn layer(&self, layer: &LayerConfig) -> Result<Value> {
        if let Some(model) = &layer.model {
            return self.model(model, Some(&layer.name));
        }
        let mut config = layer.config.clone();
        let class = match layer.class_name.as_str() {
            // Keras 3 has it as an option.
            "ThresholdedReLU" if self.keras3 => {
                let theta = config.remove("theta").filter(|v| !v.is_null());
                config.insert("threshold".to_owned(), theta.unwrap_or_else(|| json!(1.0)));
                "ReLU"
            }
            class => class,
        };
        let config = match layer.is_operation() {
            true => operation(class, &config),
            false => self.config(class, &config, layer.module.as_deref())?,
        };
        let mut entry = json!({"class_name": class, "config": config});
        if self.modules {
            let module = layer.module.clone().unwrap_or_else(|| "keras.layers".to_owned());
            entry["module"] = module.into();
            entry["registered_name"] = Value::Null;
        }
        Ok(entry)
    }

    fn config(
        &self,
        class: &str,
        config: &Map<String, Value>,
        module: Option<&str>,
    ) -> Result<Map<String, Value>> {
        if class == "InputLayer" {
            return Ok(self.input(config));
        }
        let listed = if class == "GroupQueryAttention" { "GroupedQueryAttention" } else { class };
        let Some(keys) = KEYS.get(&(self.keras3, listed)) else {
            // An operation: its module tells Keras 3 where to find it.
            if KEYS.contains_key(&(!self.keras3, class)) || (self.keras3 && module.is_none()) {
                return Err(LayersError::UnknownClass {
                    class: class.to_owned(),
                    hint: format!("; Keras {} does not have it", if self.keras3 { 3 } else { 2 }),
                });
            }
            return Ok(config.clone());
        };
        let mut out = Map::new();
        for (key, value) in config {
            let renamed = RENAMED.iter().find(|(c, two, three)| {
                *c == class && (if self.keras3 { two } else { three }) == key && !keys.contains(key.as_str())
            });
            let key = renamed.map_or(key.as_str(), |(_, two, three)| if self.keras3 { three } else { two });
            let extra = EXTRA.iter().find(|(three, c, _)| *three == self.keras3 && *c == class);
            // Some classes do not hand keys of all layers on.
            let common = !keys.contains("!") && COMMON.contains(&key);
            if keys.contains(key) || common || extra.is_some_and(|(.., keys)| keys.contains(&key)) {
                out.insert(key.to_owned(), self.value(key, value)?);
            }
        }
        if class == "Bidirectional" && self.keras3 {
            out.remove("weights");
        }
        Ok(out)
    }

    fn input(&self, config: &Map<String, Value>) -> Map<String, Value> {
        let shape = config.get("batch_input_shape").or_else(|| config.get("batch_shape")).cloned();
        let key = if self.keras3 { "batch_shape" } else { "batch_input_shape" };
        let mut out = Map::new();
        out.insert(key.to_owned(), shape.unwrap_or_default());
        for (key, default) in [("dtype", "float32".into()), ("sparse", false.into()), ("name", Value::Null)] {
            let value = config.get(key).filter(|v| !v.is_object()).cloned();
            out.insert(key.to_owned(), value.unwrap_or(default));
        }
        out
    }

    /// Values that are layers are translated too; initializers have the class names of TF.js in its files.
    fn value(&self, key: &str, value: &Value) -> Result<Value> {
        if matches!(key, "cells" | "layers") || (key == "cell" && value.is_array()) {
            let cells = value.as_array().into_iter().flatten();
            return Ok(Value::Array(cells.map(|c| self.value("cell", c)).collect::<Result<_>>()?));
        }
        let class = value.get("class_name").and_then(Value::as_str);
        let Some(class) = class else { return Ok(value.clone()) };
        if matches!(key, "layer" | "backward_layer" | "cell") {
            let dialect = if self.keras3 { Dialect::Keras3 } else { Dialect::Keras2 };
            return self.layer(&LayerConfig::nested(value, dialect)?);
        }
        let mut value = value.clone();
        if self.modules && key == "activation" && KEYS.contains_key(&(self.keras3, class)) {
            // A layer as activation.
            value["module"] = "keras.layers".into();
        }
        if let Some(lecun) = class.strip_prefix("LeCun") {
            value["class_name"] = format!("Lecun{lecun}").into();
        }
        Ok(value)
    }

    /// `[layer, call, tensor]`, with the call counted as Keras counts it for models inside.
    fn reference(&self, model: &ModelConfig, t: &TensorRef) -> (String, usize, usize) {
        let layer = &model.layers[t.layer];
        // In Keras 2 its own creation is a call of a model too.
        let own_call = layer.model.is_some() && !self.keras3;
        (layer.name.clone(), t.call + usize::from(own_call), t.tensor)
    }

    fn tensor(&self, model: &ModelConfig, t: &TensorRef) -> Value {
        let (layer, call, tensor) = self.reference(model, t);
        json!({"class_name": "__keras_tensor__", "config": {
            "shape": [], "dtype": "float32", "keras_history": [layer, call, tensor]}})
    }

    fn call(&self, model: &ModelConfig, layer: &LayerConfig, call: &CallConfig) -> Result<Value> {
        let (mut args, mut kwargs) = (call.args.clone(), call.kwargs.clone());
        let recurrent = crate::layers::RECURRENT.contains(&layer.class_name.as_str());
        if self.keras3 {
            if recurrent
                && let [Arg::List(items)] = args.as_slice()
                && items.len() > 1
            {
                let state = Arg::List(items[1..].to_vec());
                args = vec![items[0].clone()];
                kwargs.push(("initial_state".to_owned(), state));
            }
            let write = |a: &Arg<TensorRef>| self.argument(model, a);
            let kwargs: Map<String, Value> = kwargs.iter().map(|(k, a)| (k.clone(), write(a))).collect();
            return Ok(json!({"args": args.iter().map(write).collect::<Vec<_>>(), "kwargs": kwargs}));
        }
        if recurrent && let Some(at) = kwargs.iter().position(|(k, _)| k == "initial_state") {
            let (_, state) = kwargs.remove(at);
            args.push(state);
        }
        let plain = layer.class_name == "TFOpLambda" || layer.class_name == "SlicingOpLambda";
        let write = |a: &Arg<TensorRef>| self.argument(model, a);
        let kwargs: Map<String, Value> = kwargs
            .iter()
            .filter(|(k, a)| !(k == "mask" && *a == Arg::Value(Value::Null)))
            .map(|(k, a)| (k.clone(), write(a)))
            .collect();
        let entry = |t: &TensorRef| {
            let (layer, call, tensor) = self.reference(model, t);
            json!([layer, call, tensor, kwargs])
        };
        let entries: Vec<Value> = args.iter().flat_map(Arg::tensors).map(entry).collect();
        match entries.as_slice() {
            [one] if plain => Ok(one.clone()),
            _ => Ok(Value::Array(entries)),
        }
    }

    fn argument(&self, model: &ModelConfig, arg: &Arg<TensorRef>) -> Value {
        match arg {
            Arg::Tensor(t) if self.keras3 => self.tensor(model, t),
            Arg::Tensor(t) => {
                let (layer, call, tensor) = self.reference(model, t);
                json!([layer, call, tensor])
            }
            Arg::Value(v) => v.clone(),
            Arg::List(items) => items.iter().map(|a| self.argument(model, a)).collect(),
            Arg::Dict(items) => {
                Value::Object(items.iter().map(|(k, a)| (k.clone(), self.argument(model, a))).collect())
            }
        }
    }

    fn endpoints(&self, model: &ModelConfig, structure: &Structure) -> Value {
        let one = |t: &TensorRef| {
            let (layer, call, tensor) = self.reference(model, t);
            // Here Keras 3 counts the creation of functional models too.
            let inner = model.layers[t.layer].model.as_ref();
            let created = self.keras3 && inner.is_some_and(|m| m.kind == ModelKind::Functional);
            json!([layer, call + usize::from(created), tensor])
        };
        match structure {
            Structure::One(t) if self.keras3 => one(t),
            // A model with one output gives a tensor, not a list of one, to the layers around it.
            Structure::List(items) if self.keras3 && items.len() == 1 => self.endpoints(model, &items[0]),
            Structure::Dict(items) => Value::Object(
                items
                    .iter()
                    .map(|(k, s)| (k.clone(), s.flat().first().map_or(Value::Null, |t| one(t))))
                    .collect(),
            ),
            other => other.flat().into_iter().map(one).collect(),
        }
    }
}
