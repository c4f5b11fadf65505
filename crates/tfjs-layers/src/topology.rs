//! What a model is made of, whichever dialect the file is written in.
//!
//! Keras 1, 2 and 3 and TF.js spell the same things differently: shapes of inputs, calls of layers, references to tensors,
//! indices of nested models. [`ModelConfig::read`] brings all of them into one form, which the rest of the crate works on.

pub(crate) mod keras1;
mod order;
mod read;
pub(crate) use read::dialect_of;

use serde_json::{Map, Value};

use crate::Dialect;

/// A model: layers and how they call each other. Sequential models are functional ones here, with an input layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Name of the model.
    pub name: String,
    /// Class in the file: `Sequential`, `Functional`, `Model`, or a subclass that saves itself as functional.
    pub class_name: String,
    /// How the file joins its layers.
    pub kind: ModelKind,
    /// Layers in the order of the file.
    pub layers: Vec<LayerConfig>,
    /// What the model takes.
    pub inputs: Structure,
    /// What the model gives.
    pub outputs: Structure,
    /// Whether its weights are trained.
    pub trainable: bool,
}

/// How a model joins its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// One after the other.
    Sequential,
    /// By a graph of calls.
    Functional,
}

/// A layer of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// Unique in its model.
    pub name: String,
    /// Keras class, such as `Dense`.
    pub class_name: String,
    /// Python module, where the file says it: tells the layer `Add` from the operation `Add`.
    pub module: Option<String>,
    /// `package>Class` of a class registered by the user.
    pub registered_name: Option<String>,
    /// Its configuration as in the file.
    pub config: Map<String, Value>,
    /// Its calls within the model.
    pub calls: Vec<CallConfig>,
    /// The layer is itself a model.
    pub model: Option<Box<ModelConfig>>,
    /// The layer is not in the file: the input layer of a sequential model that gives only a shape.
    pub implied: bool,
    /// The layer is a graph model.
    pub(crate) graph: Option<crate::fine_tune::FrozenGraph>,
}

/// One call of a layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallConfig {
    /// Positional arguments.
    pub args: Vec<Arg<TensorRef>>,
    /// Keyword arguments.
    pub kwargs: Vec<(String, Arg<TensorRef>)>,
}

/// An argument of a call: a tensor, a constant, or a structure of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg<T> {
    /// A tensor.
    Tensor(T),
    /// A constant, as JSON.
    Value(Value),
    /// A list.
    List(Vec<Arg<T>>),
    /// A dictionary.
    Dict(Vec<(String, Arg<T>)>),
}

/// An output of a call of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorRef {
    /// Index of the layer in [`ModelConfig::layers`].
    pub layer: usize,
    /// Which of its calls.
    pub call: usize,
    /// Which output of the call.
    pub tensor: usize,
}

/// Tensors in the structure that the model takes or gives them.
#[derive(Clone, Debug, PartialEq)]
pub enum Structure {
    /// One tensor.
    One(TensorRef),
    /// A list.
    List(Vec<Structure>),
    /// By name.
    Dict(Vec<(String, Structure)>),
}

impl Structure {
    /// The tensors in Keras's order: dictionaries by their keys.
    pub fn flat(&self) -> Vec<&TensorRef> {
        match self {
            Structure::One(t) => vec![t],
            Structure::List(items) => items.iter().flat_map(Structure::flat).collect(),
            Structure::Dict(items) => {
                let mut items: Vec<_> = items.iter().collect();
                items.sort_by(|a, b| a.0.cmp(&b.0));
                items.into_iter().flat_map(|(_, s)| s.flat()).collect()
            }
        }
    }
}

impl<T> Arg<T> {
    /// The tensors in it, in order.
    pub fn tensors(&self) -> Vec<&T> {
        match self {
            Arg::Tensor(t) => vec![t],
            Arg::Value(_) => Vec::new(),
            Arg::List(items) => items.iter().flat_map(Arg::tensors).collect(),
            Arg::Dict(items) => items.iter().flat_map(|(_, a)| a.tensors()).collect(),
        }
    }

    /// The same with every tensor replaced.
    ///
    /// # Errors
    /// The first of `f`.
    pub fn map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Arg<U>, E> {
        Ok(match self {
            Arg::Tensor(t) => Arg::Tensor(f(t)?),
            Arg::Value(v) => Arg::Value(v.clone()),
            Arg::List(items) => Arg::List(items.iter().map(|a| a.map(f)).collect::<Result<_, E>>()?),
            Arg::Dict(items) => {
                Arg::Dict(items.iter().map(|(k, a)| Ok((k.clone(), a.map(f)?))).collect::<Result<_, E>>()?)
            }
        })
    }
}

impl CallConfig {
    /// All tensors that the call takes, arguments first.
    pub fn tensors(&self) -> Vec<&TensorRef> {
        self.args.iter().chain(self.kwargs.iter().map(|(_, a)| a)).flat_map(Arg::tensors).collect()
    }
}

impl LayerConfig {
    /// A layer without calls.
    pub fn new(class_name: &str, config: Map<String, Value>) -> LayerConfig {
        LayerConfig {
            name: config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            class_name: class_name.to_owned(),
            module: None,
            registered_name: None,
            config,
            calls: Vec::new(),
            model: None,
            implied: false,
            graph: None,
        }
    }

    /// What the layer says of itself: whether training changes its weights.
    pub fn trainable(&self) -> bool {
        self.config.get("trainable").and_then(Value::as_bool).unwrap_or(true)
    }

    /// Whether its Python module is one of operations, which share names with layers.
    pub fn is_operation(&self) -> bool {
        self.module.as_deref().is_some_and(|module| module.contains(".ops"))
    }

    /// A layer inside another one's config (`layer`, `cell`, …): `{class_name, config, …}`. Has no calls.
    ///
    /// # Errors
    /// When fields are missing.
    pub fn nested(value: &Value, dialect: Dialect) -> Result<LayerConfig, crate::LayersError> {
        read::layer(value, dialect, "inner layer", 1)
    }
}
