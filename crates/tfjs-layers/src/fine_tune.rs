//! Graph models trained further: constants of a frozen graph become weights, and go back into it.
//!
//! The graph becomes one layer whose `call` writes all of its nodes, so that everything that trains layers trains it too.

mod layer;

use std::ops::{Deref, DerefMut};

use serde_json::{Map, json};
use tfjs_graph::{
    Endpoint, Graph, GraphModel, NodeId, Port, builder::Builder, gradients::gradients_of, partial_shape,
};
use tfjs_kernels::DType;

pub(crate) use self::layer::FrozenGraph;
use crate::{
    Dialect, LayerConfig, LayersError, LayersModel, ModelConfig, ModelKind, WeightId,
    topology::{Arg, CallConfig, Structure, TensorRef},
};

type Result<T> = std::result::Result<T, LayersError>;

/// Training of frozen graphs.
pub trait FineTune {
    /// Names and shapes of the constants that could be trained: floats with at least one axis. Not all of them have been
    /// weights: means and scales of a preprocessing are constants too.
    fn tunable(&self) -> Vec<(String, Vec<usize>)>;

    /// Makes constants weights that are trained. They are named as their nodes are, scalars may be among them.
    ///
    /// A frozen graph computes as it was frozen: dropouts are gone, and batch norms keep their statistics, whose scale and
    /// offset may be trained. Batch norms that a converter folded are part of the filters before them.
    ///
    /// ```
    /// use tfjs_graph::{DType, GraphModel, ModelOptions, Tensor, builder::Builder};
    /// use tfjs_layers::{Batch, FineTune, optimizers::Sgd};
    ///
    /// let mut b = Builder::default();
    /// let x = b.placeholder("x", DType::Float32, &[None, Some(2)]);
    /// let kernel = Tensor::new([2, 1], vec![1f32, -1.0])?;
    /// let w = b.weight("kernel", tfjs_graph::Constant::new(DType::Float32.to_proto(), kernel));
    /// let y = b.op("MatMul", &[x, w], &[])?;
    /// b.output("y", y);
    /// let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
    ///
    /// let mut tuning = model.fine_tune(&["kernel"])?;
    /// tuning.compile(Sgd { learning_rate: 0.5.into(), ..Sgd::default() }, "mse", ["mae"])?;
    /// let batch = Batch::new(Tensor::new([1, 2], vec![1f32, 0.0])?, Tensor::new([1, 1], vec![3f32])?);
    /// assert_eq!(tuning.train_on_batch(&batch)?.get("loss"), Some(4.0));
    /// let model = tuning.into_graph_model()?;
    /// let y = model.run([("x", Tensor::new([1, 2], vec![1f32, 0.0])?)])?;
    /// assert_eq!(y["y"].data::<f32>()?, [3.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When there is no such constant, it holds no floats, no output changes with it, or an input of the graph has no
    /// declared shape. An op that has no gradient is reported by the first step, before anything has changed.
    fn fine_tune(&self, weights: &[&str]) -> Result<Tuning>;

    /// As [`FineTune::fine_tune`], with those of [`FineTune::tunable`] that `chosen` takes, by name and shape. Constants
    /// that no output changes with stay as they are.
    ///
    /// # Errors
    /// As [`FineTune::fine_tune`], and when nothing is chosen.
    fn fine_tune_where(&self, chosen: impl Fn(&str, &[usize]) -> bool) -> Result<Tuning>;
}

impl FineTune for GraphModel {
    fn tunable(&self) -> Vec<(String, Vec<usize>)> {
        let floats = self.graph().iter().filter_map(|(_, node)| {
            let value = node.value.as_ref()?;
            let fits = float(value) && !value.shape().is_empty() && !value.is_empty();
            fits.then(|| (node.name.clone(), value.shape().to_vec()))
        });
        floats.collect()
    }

    fn fine_tune(&self, weights: &[&str]) -> Result<Tuning> {
        let mut chosen: Vec<NodeId> = Vec::new();
        for name in weights {
            let id = constant(self, name)?;
            if !chosen.contains(&id) {
                chosen.push(id);
            }
        }
        let idle = idle(self.graph(), &chosen)?;
        if let Some(&id) = chosen.iter().find(|id| idle.contains(id)) {
            let reason = "no output of the graph changes with it".to_owned();
            return Err(LayersError::NotTunable { name: self.graph().node(id).name.clone(), reason });
        }
        Tuning::new(self, chosen)
    }

    fn fine_tune_where(&self, chosen: impl Fn(&str, &[usize]) -> bool) -> Result<Tuning> {
        let names = self.tunable().into_iter().filter(|(name, shape)| chosen(name, shape));
        let mut ids: Vec<NodeId> = names.filter_map(|(name, _)| self.graph().find(&name)).collect();
        let idle = idle(self.graph(), &ids)?;
        ids.retain(|id| !idle.contains(id));
        Tuning::new(self, ids)
    }
}

/// A graph model in training. It is used as the [`LayersModel`] that it dereferences to: compiled, fitted, evaluated.
/// Inputs and outputs have the names that they have in the graph's signature.
#[derive(Debug)]
pub struct Tuning {
    model: LayersModel,
    source: GraphModel,
    /// The constants, in the order of the model's weights.
    constants: Vec<NodeId>,
}

impl Deref for Tuning {
    type Target = LayersModel;

    fn deref(&self) -> &LayersModel {
        &self.model
    }
}

impl DerefMut for Tuning {
    fn deref_mut(&mut self) -> &mut LayersModel {
        &mut self.model
    }
}

impl Tuning {
    fn new(source: &GraphModel, constants: Vec<NodeId>) -> Result<Tuning> {
        if constants.is_empty() {
            return Err(LayersError::Training("no constants were chosen to be trained".to_owned()));
        }
        let source = source.with_constants(Vec::new())?;
        let graph = source.graph();
        let inputs: Vec<&Endpoint> = graph.inputs.iter().filter(|e| is_fed(graph, e)).collect();
        let ports: Vec<Port> = inputs.iter().map(|e| e.port).collect();
        let mut layers = Vec::new();
        for endpoint in &inputs {
            layers.push(input_layer(graph, endpoint)?);
        }
        let outputs: Vec<&str> = graph.outputs.iter().map(|e| e.key.as_str()).collect();
        let taken = |name: &str| layers.iter().any(|l| l.name == name) || outputs.contains(&name);
        let names = std::iter::once("graph".to_owned()).chain((1..).map(|i| format!("graph_{i}")));
        let name = names.into_iter().find(|name| !taken(name)).unwrap_or_default();
        let body = layers.len();
        let call = |args: Vec<Arg<TensorRef>>| vec![CallConfig { args, kwargs: Vec::new() }];
        let tensor = |layer, tensor| TensorRef { layer, call: 0, tensor };
        let frozen = FrozenGraph::new(graph, source.initializer(), ports, constants.clone());
        layers.push(LayerConfig {
            calls: call((0..body).map(|i| Arg::Tensor(tensor(i, 0))).collect()),
            graph: Some(frozen),
            ..LayerConfig::new("GraphModel", Map::from_iter([("name".to_owned(), name.into())]))
        });
        // Outputs are called after their layers: each gets one of its own, which does nothing.
        for (i, key) in outputs.iter().enumerate() {
            let config =
                Map::from_iter([("name".to_owned(), json!(key)), ("activation".to_owned(), json!("linear"))]);
            layers.push(LayerConfig {
                calls: call(vec![Arg::Tensor(tensor(body, i))]),
                ..LayerConfig::new("Activation", config)
            });
        }
        let list = |range: std::ops::Range<usize>| {
            Structure::List(range.map(|i| Structure::One(tensor(i, 0))).collect())
        };
        let config = ModelConfig {
            name: "graph_model".to_owned(),
            class_name: "Functional".to_owned(),
            kind: ModelKind::Functional,
            inputs: list(0..body),
            outputs: list(body + 1..layers.len()),
            layers,
            trainable: true,
        };
        let mut model = LayersModel::from_config(config, Dialect::Keras3)?;
        for (i, &id) in constants.iter().enumerate() {
            if let Some(value) = &graph.node(id).value {
                model.params.set(WeightId(i), value.clone());
            }
        }
        Ok(Tuning { model, source, constants })
    }

    /// The graph model with the values that the constants have now; its names, signature and all else are the original's.
    ///
    /// A constant whose file had it quantized is a float from now on; writing the model can quantize it again.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn to_graph_model(&self) -> Result<GraphModel> {
        let mut values = Vec::new();
        for &id in &self.constants {
            values.push((id, self.model.get_weight(&self.source.graph().node(id).name)?));
        }
        Ok(self.source.with_constants(values)?)
    }

    /// As [`Tuning::to_graph_model`], when training is over.
    ///
    /// # Errors
    /// As [`Tuning::to_graph_model`].
    pub fn into_graph_model(self) -> Result<GraphModel> {
        self.to_graph_model()
    }

    /// The graph as a model of layers, to get another head for example ([`LayersModel::with_head`]). It cannot become the
    /// original graph again.
    pub fn into_layers_model(self) -> LayersModel {
        self.model
    }
}

impl LayersModel {
    /// Files of layers cannot hold graphs.
    pub(crate) fn refuse_graphs(&self) -> Result<()> {
        fn holder(config: &ModelConfig) -> Option<&LayerConfig> {
            config.layers.iter().find_map(|l| match &l.model {
                Some(model) => holder(model),
                None => l.graph.is_some().then_some(l),
            })
        }
        match holder(&self.network.config) {
            Some(layer) => Err(LayersError::HoldsGraph { layer: layer.name.clone() }),
            None => Ok(()),
        }
    }
}

fn float(value: &tfjs_graph::Constant) -> bool {
    DType::from_proto(value.data_type()) == Some(DType::Float32)
}

/// The constant of a name, if it can be trained.
fn constant(model: &GraphModel, name: &str) -> Result<NodeId> {
    let graph = model.graph();
    let bare = name.strip_suffix(":0").unwrap_or(name);
    let refuse = |reason: String| Err(LayersError::NotTunable { name: name.to_owned(), reason });
    let Some(id) = graph.find(bare) else {
        if graph.constants().iter().any(|(other, _)| other == bare) {
            return refuse("it lies in a function that a loop, a condition or a call runs".to_owned());
        }
        let known = model.tunable().into_iter().map(|(name, _)| name).collect();
        return Err(LayersError::UnknownConstant { name: name.to_owned(), known });
    };
    let node = graph.node(id);
    match &node.value {
        None => refuse(format!("it is no constant but the result of `{}`", node.op)),
        Some(value) if !float(value) => {
            let dtype = DType::from_proto(value.data_type());
            let held = dtype.map_or_else(|| format!("{:?}", value.data_type()), |d| d.to_string());
            refuse(format!("it holds {held}, and only floats have gradients"))
        }
        Some(value) if value.is_empty() => refuse("it has no elements".to_owned()),
        Some(_) => Ok(id),
    }
}

/// Constants that no output changes with. Where an op has no gradient, that is left to the step to say.
fn idle(graph: &Graph, constants: &[NodeId]) -> Result<Vec<NodeId>> {
    let mut builder = Builder::from_graph(graph.clone())?;
    let outputs: Vec<(Port, Option<Port>)> = graph.outputs.iter().map(|e| (e.port, None)).collect();
    let ports: Vec<Port> = constants.iter().map(|&id| id.into()).collect();
    match gradients_of(&mut builder, &outputs, &ports) {
        Ok(found) => {
            let idle = constants.iter().zip(found).filter(|(_, gradient)| gradient.is_none());
            Ok(idle.map(|(&id, _)| id).collect())
        }
        Err(_) => Ok(Vec::new()),
    }
}

/// Whether an input is given with each batch. Tables come from the initializer, and inputs with a default keep it.
fn is_fed(graph: &Graph, endpoint: &Endpoint) -> bool {
    endpoint.resource_id.is_none()
        && DType::from_proto(endpoint.data_type).is_some()
        && graph.node(endpoint.port.node).inputs.is_empty()
}

fn input_layer(graph: &Graph, endpoint: &Endpoint) -> Result<LayerConfig> {
    let of_node = || graph.node(endpoint.port.node).attrs.shape("shape").ok().flatten();
    let shape = endpoint.shape.as_ref().and_then(partial_shape).or_else(of_node);
    let Some(shape) = shape else {
        return Err(LayersError::Inputs(format!(
            "input `{}` of the graph has no declared shape, which training needs",
            endpoint.key
        )));
    };
    let dtype = DType::from_proto(endpoint.data_type).unwrap_or(DType::Float32);
    let config = Map::from_iter([
        ("name".to_owned(), json!(endpoint.key)),
        ("batch_shape".to_owned(), json!(shape)),
        ("dtype".to_owned(), json!(dtype.to_string())),
    ]);
    let call = CallConfig::default();
    Ok(LayerConfig { calls: vec![call], ..LayerConfig::new("InputLayer", config) })
}
