//! Operations as layers: those of Keras 3 (`keras.ops`), and the functions of TensorFlow that Keras 2 wraps
//! (`TFOpLambda`, `SlicingOpLambda`, `TensorFlowOpLayer`).
//!
//! One table per family; a row is a name in snake case (`LogicalAnd` of Keras 3 and `math.logical_and` of TensorFlow are both
//! `logical_and`) and a function that writes it. Where TensorFlow means something else by a name, `keras2` says so.

mod args;
mod elementwise;
mod index;
mod keras2;
mod linalg;
mod nn;
mod node_def;
mod picture;
mod reduction;
mod shape;
mod signal;
mod sorting;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};
use tfjs_graph::Port;

use crate::{
    Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Sym, topology::LayerConfig,
    weights::snake_case,
};
pub(crate) use args::{Args, NAMED, constant};

type Result<T> = std::result::Result<T, LayersError>;

/// Writes an operation; gives its outputs.
type Emitter = fn(&mut Emit, &Args<'_>) -> Result<Vec<Port>>;

/// A row of a table of operations.
type Row = (&'static str, Emitter);

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("TFOpLambda", keras2::new),
    LayerDef::new("SlicingOpLambda", keras2::new),
    LayerDef::new("TensorFlowOpLayer", node_def::new),
];

static OPERATIONS: LazyLock<HashMap<&'static str, Emitter>> = LazyLock::new(|| {
    let families = [
        elementwise::OPS,
        reduction::OPS,
        shape::OPS,
        index::OPS,
        sorting::OPS,
        nn::OPS,
        linalg::OPS,
        signal::OPS,
        picture::OPS,
    ];
    families.into_iter().flatten().copied().collect()
});

/// The operation that a class of Keras 3 stands for, if it is one. Ten classes are names of layers too: there the module
/// tells, or that layers say whether they are trainable.
pub(super) fn find(config: &LayerConfig, dialect: Dialect, is_layer: bool) -> Option<Box<dyn Layer>> {
    let is_operation = match &config.module {
        Some(_) => config.is_operation(),
        None if dialect != Dialect::Keras3 => false,
        None => {
            !is_layer || !(config.config.contains_key("trainable") || config.config.contains_key("dtype"))
        }
    };
    if !is_operation {
        return None;
    }
    let emit = *OPERATIONS.get(snake_case(&config.class_name).as_str())?;
    Some(Box::new(Operation { emit, config: config.config.clone() }))
}

/// What the tables call an operation of Keras 3, or a function of TensorFlow.
pub(crate) fn name(config: &LayerConfig) -> String {
    match config.config.get("function").and_then(Value::as_str) {
        Some(function) if config.class_name.ends_with("OpLambda") => keras2::name(function).to_owned(),
        _ => snake_case(&config.class_name),
    }
}

/// A call of a function: it has no weights and drops masks.
struct Operation {
    emit: Emitter,
    /// Arguments given when it was made.
    config: Map<String, Value>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Layer for Operation {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let args = Args::new(&call.args, &call.kwargs, &self.config);
        Ok((self.emit)(g, &args)?.into_iter().map(Sym::from).collect())
    }
}

/// One output.
fn one(port: Result<Port>) -> Result<Vec<Port>> {
    port.map(|p| vec![p])
}

/// Writes another layer that has no weights, from its options.
fn layer(g: &mut Emit, class: &'static str, config: Value, inputs: &[Port]) -> Result<Vec<Port>> {
    let unknown = || LayersError::UnknownClass { class: class.to_owned(), hint: String::new() };
    let map = config.as_object().ok_or_else(unknown)?;
    let row = super::LAYERS.get(class).ok_or_else(unknown)?;
    let layer = (row.new)(&Config::new(map, g.dialect))?;
    let outputs = layer.call(g, &Call::of(inputs.iter().map(|&p| Sym::from(p))))?;
    Ok(outputs.into_iter().map(|s| s.port).collect())
}
