use std::collections::HashMap;

use serde_json::Value;
use tfjs_graph::Fact;
use tfjs_kernels::DType;

use crate::{
    Call, Dialect, Emit, Layer, LayersError, Sym,
    config::{UnknownOptions, dtype_of},
    layers,
    topology::{Arg, LayerConfig, ModelConfig, TensorRef},
    weights::Scope,
};

/// A model as a layer: its layers, connected. The root of a [`crate::LayersModel`] is one, and so is every model inside.
#[derive(Debug)]
pub struct Network {
    /// What the file says.
    pub config: ModelConfig,
    /// As `config.layers`.
    pub nodes: Vec<Node>,
    /// Calls in an order in which inputs come first: (layer, call).
    pub(crate) order: Vec<(usize, usize)>,
    /// The same as Keras orders them, where layers are called more than once: what training changes in such a layer depends
    /// on it.
    keras_order: Option<Vec<(usize, usize)>>,
}

/// A layer in a network.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub layer: Box<dyn Layer>,
    /// Its weights; those of models inside included.
    pub weights: std::ops::Range<usize>,
    /// What is known of the outputs of its first call; empty before it is built.
    pub outputs: Vec<Fact>,
    /// Which of them carry a mask.
    pub(crate) masks: Vec<bool>,
    built: bool,
}

type Result<T> = std::result::Result<T, LayersError>;

impl Network {
    /// Makes the layers of a model and finds an order for their calls.
    ///
    /// # Errors
    /// When a class is not known, a config is wrong, or calls cannot be ordered.
    pub fn new(config: ModelConfig, dialect: Dialect) -> Result<Network> {
        Network::noting(config, dialect, &UnknownOptions::default())
    }

    /// As [`Network::new`]; options that are not known are noted.
    pub(crate) fn noting(config: ModelConfig, dialect: Dialect, unknown: &UnknownOptions) -> Result<Network> {
        let mut nodes = Vec::with_capacity(config.layers.len());
        let mut unsupported = Vec::new();
        for l in &config.layers {
            match make_noting(l, dialect, unknown).map_err(|e| e.in_layer(&l.name, &l.class_name)) {
                Ok(layer) => nodes.push(Node {
                    layer,
                    weights: 0..0,
                    outputs: Vec::new(),
                    masks: Vec::new(),
                    built: false,
                }),
                Err(LayersError::Unsupported(errors)) => unsupported.extend(errors),
                Err(error) => unsupported.push(error),
            }
        }
        if !unsupported.is_empty() {
            return Err(LayersError::Unsupported(unsupported));
        }
        let order = order(&config)?;
        let shared = config.layers.iter().any(|l| l.calls.len() > 1);
        let keras_order = shared.then(|| config.keras_calls());
        Ok(Network { config, nodes, order, keras_order })
    }

    /// Type and shape of each input, as the model's input layers declare them.
    ///
    /// # Errors
    /// When an input has no shape.
    pub fn input_facts(&self) -> Result<Vec<Fact>> {
        self.config.inputs.flat().into_iter().map(|t| input_fact(&self.config.layers[t.layer])).collect()
    }

    /// Names of the inputs: those of their layers.
    pub fn input_names(&self) -> Vec<String> {
        self.config.inputs.flat().into_iter().map(|t| self.config.layers[t.layer].name.clone()).collect()
    }

    fn results(&self, values: &Values) -> Result<Vec<Sym>> {
        let outputs = self.config.outputs.flat().into_iter();
        outputs.map(|t| lookup(values, t, &self.config, "the model's outputs")).collect()
    }
}

/// Calls all layers of a model in order, each through `visit`, which is given its place and arguments.
fn walk(
    (config, order): (&ModelConfig, &[(usize, usize)]),
    g: &mut Emit,
    outer: &Call,
    mut visit: impl FnMut(&mut Emit, usize, &Call) -> Result<Vec<Sym>>,
) -> Result<Values> {
    let feeds = config.inputs.flat().into_iter().zip(&outer.inputs);
    let mut values: Values = feeds.map(|(t, s)| ((t.layer, t.call), vec![*s])).collect();
    for &(layer, call) in order {
        if values.contains_key(&(layer, call)) {
            continue;
        }
        let LayerConfig { name, class_name, .. } = &config.layers[layer];
        let arguments = resolve(&config.layers[layer], call, &values)?.within(outer);
        let outputs =
            g.scoped(name, |g| visit(g, layer, &arguments)).map_err(|e| e.in_layer(name, class_name))?;
        g.note_layer(name, &outputs);
        values.insert((layer, call), outputs);
    }
    Ok(values)
}

impl Layer for Network {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let mut g = Emit::new(scope.params().clone(), scope.dialect);
        let declared = self.input_facts()?;
        let mut syms = Vec::new();
        for (i, declared) in declared.iter().enumerate() {
            // What is given may be known better than what the model declares.
            let given = inputs.get(i).filter(|f| f.rank() == declared.rank());
            let shape = given.and_then(|f| f.shape.clone()).or_else(|| declared.shape.clone());
            let dtype = given.and_then(|f| f.dtype).or(declared.dtype).unwrap_or(DType::Float32);
            let port = g.builder().placeholder(&format!("input_{i}"), dtype, &shape.unwrap_or_default());
            syms.push(Sym::from(port));
        }
        let Network { config, nodes, order, .. } = self;
        let values = walk((config, order), &mut g, &Call::of(syms), |g, layer, arguments| {
            let (node, of) = (&mut nodes[layer], &config.layers[layer]);
            if !node.built {
                let first = scope.count();
                let build = |s: &mut Scope<'_>| node.layer.build_for(s, g, arguments);
                scope.enter_layer(&of.name, of.trainable(), build)?;
                node.weights = first..scope.count();
                node.built = true;
            }
            g.set_params(scope.params());
            let outputs = node.layer.call(g, arguments)?;
            if node.outputs.is_empty() {
                node.outputs = outputs.iter().map(|s| g.fact(s.port).without_value()).collect();
                node.masks = outputs.iter().map(|s| s.mask.is_some()).collect();
            }
            Ok(outputs)
        })?;
        self.results(&values).map(drop)
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let wanted = self.config.inputs.flat().len();
        if call.inputs.len() != wanted {
            let given = call.inputs.len();
            return Err(LayersError::Inputs(format!("the model takes {wanted} inputs, {given} were given")));
        }
        let order = self.keras_order.as_ref().filter(|_| g.training()).unwrap_or(&self.order);
        let values = walk((&self.config, order), g, call, |g, layer, arguments| {
            self.nodes[layer].layer.call(g, arguments)
        })?;
        self.results(&values)
    }

    fn network(&self) -> Option<&Network> {
        Some(self)
    }
}

type Values = HashMap<(usize, usize), Vec<Sym>>;

/// Makes a layer: a model, or a class of the table.
///
/// # Errors
/// When the class is not known, or its config is wrong.
pub fn make(config: &LayerConfig, dialect: Dialect) -> Result<Box<dyn Layer>> {
    make_noting(config, dialect, &UnknownOptions::default())
}

/// As [`make`]; options that are not known are noted.
pub(crate) fn make_noting(
    config: &LayerConfig,
    dialect: Dialect,
    unknown: &UnknownOptions,
) -> Result<Box<dyn Layer>> {
    if let Some(model) = &config.model {
        return Ok(Box::new(Network::noting((**model).clone(), dialect, unknown)?));
    }
    if let Some(graph) = &config.graph {
        return Ok(graph.layer());
    }
    layers::make(config, dialect, unknown)
}

fn lookup(values: &Values, t: &TensorRef, model: &ModelConfig, place: &str) -> Result<Sym> {
    let outputs = values.get(&(t.layer, t.call));
    outputs.and_then(|o| o.get(t.tensor)).copied().ok_or_else(|| LayersError::Dangling {
        place: place.to_owned(),
        layer: model.layers[t.layer].name.clone(),
        call: t.call,
        tensor: t.tensor,
    })
}

fn resolve(config: &LayerConfig, call: usize, values: &Values) -> Result<Call> {
    let mut find = |t: &TensorRef| {
        let outputs = values.get(&(t.layer, t.call));
        outputs.and_then(|o| o.get(t.tensor)).copied().ok_or_else(|| LayersError::Dangling {
            place: format!("layer `{}`", config.name),
            layer: format!("#{}", t.layer),
            call: t.call,
            tensor: t.tensor,
        })
    };
    let call = &config.calls[call];
    let args: Vec<Arg<Sym>> = call.args.iter().map(|a| a.map(&mut find)).collect::<Result<_>>()?;
    let kwargs =
        call.kwargs.iter().map(|(k, a)| Ok((k.clone(), a.map(&mut find)?))).collect::<Result<_>>()?;
    let inputs = args.iter().flat_map(|a| a.tensors().into_iter().copied()).collect();
    Ok(Call { inputs, args, kwargs })
}

/// An order of all calls in which inputs come first.
fn order(model: &ModelConfig) -> Result<Vec<(usize, usize)>> {
    let mut done = std::collections::HashSet::new();
    let mut order = Vec::new();
    let mut waiting: Vec<(usize, usize)> = Vec::new();
    for (layer, l) in model.layers.iter().enumerate() {
        waiting.extend((0..l.calls.len()).map(|call| (layer, call)));
    }
    // Usually layers are stored in order, and one sweep is enough.
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|&(layer, call)| {
            let ready =
                model.layers[layer].calls[call].tensors().iter().all(|t| done.contains(&(t.layer, t.call)));
            if ready {
                done.insert((layer, call));
                order.push((layer, call));
            }
            !ready
        });
        if waiting.len() == before {
            let layers = waiting.iter().map(|&(l, _)| model.layers[l].name.clone()).collect();
            return Err(LayersError::Disconnected { layers });
        }
    }
    Ok(order)
}

/// Type and shape that an input layer declares.
pub(crate) fn input_fact(layer: &LayerConfig) -> Result<Fact> {
    let config = &layer.config;
    let given = |key: &str| config.get(key).filter(|v| v.is_array());
    let batch = given("batch_input_shape").or_else(|| given("batch_shape"));
    let (mut dims, shape) = match batch {
        Some(shape) => (Vec::new(), shape),
        None => {
            let shape = given("input_shape").ok_or_else(|| LayersError::Field {
                place: format!("layer `{}`", layer.name),
                field: "batch_input_shape".to_owned(),
                expected: "a list of sizes",
            })?;
            (vec![config.get("batch_size").and_then(Value::as_u64).map(|n| n as usize)], shape)
        }
    };
    dims.extend(shape.as_array().into_iter().flatten().map(|d| d.as_u64().map(|n| n as usize)));
    if dims.iter().flatten().any(|&n| n > i32::MAX as usize) {
        return Err(LayersError::Field {
            place: format!("layer `{}`", layer.name),
            field: "batch_input_shape".to_owned(),
            expected: "of sizes up to 2147483647",
        });
    }
    let dtype = config.get("dtype").and_then(dtype_of).unwrap_or(DType::Float32);
    Ok(Fact::new(dtype, dims))
}
