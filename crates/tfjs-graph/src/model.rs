use std::{
    collections::{HashMap, HashSet},
    ops::Index,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value as Json};
use tfjs_format::{
    DType, ModelJson, Signature, Topology, WeightStream, Weights,
    io::{self, LoadOptions, ModelSource},
    proto::{DataType, TensorProto},
};
use tfjs_kernels::{BufferPool, MemoryUse, Shape, Tensor};
use tracing::{debug, info, warn};

use crate::{
    Constant, Cx, Endpoint, Fact, Graph, GraphError, LoadError, Node, NodeId, Plan, Port, Registry,
    Resources, Value, exec,
    op::{Profile, Values},
    partial_shape,
    passes::{self, FuseTarget},
    plan::{Compiler, Kit, Request, Shared},
    tensor_from_bytes,
};

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The ops it may use: TensorFlow's and those of your own.
    pub registry: Registry,
    /// Fold and fuse before running. Off, every node of the file runs as it stands.
    pub optimize: bool,
}

impl Default for ModelOptions {
    fn default() -> ModelOptions {
        ModelOptions { registry: Registry::default(), optimize: true }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Signature key; the node's name in models without a signature.
    pub key: String,
    /// Tensor name, such as `dense/Softmax:0`.
    pub name: String,
    /// Element type, if declared.
    pub dtype: Option<DType>,
    /// Dimensions, if declared; `None` inside for any size.
    pub shape: Option<Vec<Option<usize>>>,
}

/// A graph model, ready to run.
///
/// It is immutable and may be shared between threads; plans are made on first use and kept.
#[derive(Debug)]
pub struct GraphModel {
    graph: Graph,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// Other names of outputs: keys of a structured output.
    aliases: HashMap<String, usize>,
    /// Inputs of the signature that the graph does not have any more: accepted and not used.
    vanished: Vec<String>,
    signature: Option<Signature>,
    metadata: Option<Map<String, Json>>,
    generated_by: Option<String>,
    converted_by: Option<String>,
    options: ModelOptions,
    initializer: Option<Graph>,
    initialized: Mutex<bool>,
    resources: Resources,
    plans: Mutex<HashMap<PlanKey, Arc<Planned>>>,
    state: Mutex<State>,
    pool: BufferPool,
}

/// Shapes of inputs for which there are plans at most, besides the one for any.
const SHAPES: usize = 8;
/// Runs with the same shapes after which they get a plan of their own; the very first shapes get it at once.
const REPEATED: u32 = 3;

/// A graph cut to some inputs and outputs, and its plans.
#[derive(Debug)]
struct Planned {
    graph: Graph,
    feeds: Vec<Port>,
    /// What is declared of each feed.
    open: Vec<Fact>,
    fetches: Vec<Port>,
    kit: Mutex<Kit>,
    plans: Mutex<Plans>,
}

#[derive(Debug, Default)]
struct Plans {
    /// Those for inputs of certain shapes, the last used first.
    shaped: Vec<(Shapes, Arc<Plan>)>,
    /// The one for inputs of any shape.
    open: Option<Arc<Plan>>,
    /// Shapes that were met without a plan of their own, and how often; the last one first.
    met: Vec<(Shapes, u32)>,
}

/// The shape of every feed; `None` for what is no tensor.
type Shapes = Vec<Option<Shape>>;

/// Inputs and outputs of a model, found once: see [`GraphModel::bind`].
#[derive(Clone, Debug)]
pub struct Binding {
    planned: Arc<Planned>,
    /// For each feed of the plan, where it comes from.
    feeds: Vec<Feed>,
    /// How many inputs were named.
    inputs: usize,
    names: Vec<String>,
}

/// Where a feed of a plan comes from.
#[derive(Clone, Copy, Debug)]
enum Feed {
    /// The input of this number.
    Input(usize),
    /// What the initializer made under this id.
    Resource(i64),
}

type PlanKey = (Vec<Port>, Vec<Port>);
type State = HashMap<String, Box<dyn std::any::Any + Send>>;

/// The outputs of a run, by name.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    names: Vec<String>,
    tensors: Vec<Tensor>,
    aliases: Vec<(String, usize)>,
}

impl Outputs {
    /// An output by signature key, or by the name it was asked for.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let by_name = self.names.iter().position(|n| n == name);
        let index = by_name.or_else(|| Some(self.aliases.iter().find(|(a, _)| a == name)?.1))?;
        self.tensors.get(index)
    }

    /// All outputs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Takes away the outputs from `at` on.
    pub fn split_off(&mut self, at: usize) -> Vec<(String, Tensor)> {
        let at = at.min(self.names.len());
        self.aliases.retain(|(_, index)| *index < at);
        self.names.split_off(at).into_iter().zip(self.tensors.split_off(at)).collect()
    }

    /// The tensors in order.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }
}

impl Index<&str> for Outputs {
    type Output = Tensor;

    /// # Panics
    /// When there is no output of this name; [`Outputs::get`] asks first.
    fn index(&self, name: &str) -> &Tensor {
        match self.get(name) {
            Some(t) => t,
            None => panic!("no output `{name}`; there are {:?}", self.names),
        }
    }
}

impl Index<usize> for Outputs {
    type Output = Tensor;

    /// # Panics
    /// When there are not as many outputs.
    fn index(&self, index: usize) -> &Tensor {
        &self.tensors[index]
    }
}

impl GraphModel {
    /// Opens a model by the path of its `model.json` (or of the directory that holds it), or by its HTTP address.
    ///
    /// # Errors
    /// When files are missing or malformed, hold no graph, or the graph is malformed.
    pub fn open(location: impl AsRef<Path>) -> Result<GraphModel, GraphError> {
        GraphModel::open_with(location, &LoadOptions::default(), ModelOptions::default())
    }

    /// Opens a model with TF.js's loader options.
    ///
    /// # Errors
    /// As [`GraphModel::open`].
    pub fn open_with(
        location: impl AsRef<Path>,
        load: &LoadOptions,
        options: ModelOptions,
    ) -> Result<GraphModel, GraphError> {
        let source = io::open(&location.as_ref().to_string_lossy(), load)?;
        if load.stream_weights {
            GraphModel::load_streaming(source.as_ref(), options)
        } else {
            GraphModel::load(source.as_ref(), options)
        }
    }

    /// Loads a model from anywhere. Weights stay in their (mapped) shards until a plan needs them.
    ///
    /// # Errors
    /// As [`GraphModel::open`].
    pub fn load(source: &dyn ModelSource, options: ModelOptions) -> Result<GraphModel, GraphError> {
        let model = ModelJson::load(source)?;
        let weights = Arc::new(Weights::open(source, &model.weights_manifest)?);
        let constants = |name: &str| {
            let spec = weights.spec(name)?;
            let (weights, owned) = (weights.clone(), name.to_owned());
            let load = move || Ok(tensor_from_bytes(&weights.get(&owned)?)?);
            Some(Constant::deferred(spec.runtime_dtype().to_proto(), &spec.shape[..], load))
        };
        GraphModel::from_json(&model, &constants, options).map_err(|e| in_file(e, source))
    }

    /// Loads a model whose weights are decoded one by one while they arrive.
    ///
    /// # Errors
    /// As [`GraphModel::open`].
    pub fn load_streaming(source: &dyn ModelSource, options: ModelOptions) -> Result<GraphModel, GraphError> {
        let model = ModelJson::load(source)?;
        let mut weights = HashMap::new();
        let mut stream = WeightStream::new(source, &model.weights_manifest)?;
        while let Some((spec, bytes)) = stream.next_weight()? {
            let tensor = tensor_from_bytes(&bytes)
                .map_err(|e| GraphError::Constant { node: spec.name.clone(), source: e.into() })?;
            weights.insert(spec.name.clone(), Constant::new(tensor.dtype().to_proto(), tensor));
        }
        GraphModel::from_json(&model, &|name| weights.get(name).cloned(), options)
            .map_err(|e| in_file(e, source))
    }

    /// A model from its parsed `model.json` and a way to find its weights by name.
    ///
    /// # Errors
    /// When the file holds no graph, or the graph is malformed.
    pub fn from_json(
        model: &ModelJson,
        weights: &dyn Fn(&str) -> Option<Constant>,
        options: ModelOptions,
    ) -> Result<GraphModel, GraphError> {
        let wrong = |found, hint| GraphError::WrongKind { name: "model.json".to_owned(), found, hint };
        let graph_json = match &model.topology {
            Topology::Graph(g) => g,
            Topology::Layers(_) => return Err(wrong("a layers model", "")),
            Topology::None => return Err(wrong("weights without a graph", "")),
        };
        let constants = |name: &str, value: Option<&TensorProto>| constant(name, value, weights);
        let mut graph = Graph::from_def(&graph_json.def, &constants)?;
        let initializer =
            model.initializer.as_ref().map(|g| Graph::from_def(&g.def, &constants)).transpose()?;
        let signature = model.effective_signature()?;
        let mut vanished = Vec::new();
        match &signature {
            Some(s) if !s.inputs.is_empty() || !s.outputs.is_empty() => {
                vanished = apply_signature(&mut graph, s);
                if s.inputs.is_empty() {
                    guess_inputs(&mut graph);
                }
                if let Some((key, info)) = s.outputs.first().filter(|_| graph.outputs.is_empty()) {
                    let (key, tensor) = (key.clone(), info.name.clone());
                    return Err(GraphError::DanglingEndpoint { role: "output", key, tensor });
                }
            }
            _ => {
                guess_inputs(&mut graph);
                guess_outputs(&mut graph);
            }
        }
        let initializer = initializer
            .map(|mut g| {
                if let Some(s) = &model.initializer_signature {
                    apply_signature(&mut g, s);
                }
                let consumers = g.consumers();
                g.targets = g
                    .ids()
                    .into_iter()
                    .filter(|&id| consumers.of(id).is_empty() && consumers.controls_of(id).is_empty())
                    .filter(|&id| !g.node(id).op.starts_with("Placeholder"))
                    .collect();
                Ok::<_, GraphError>(g)
            })
            .transpose()?;
        let aliases = structured_aliases(model, &graph);
        let this = GraphModel {
            aliases,
            vanished,
            signature,
            metadata: model.user_defined_metadata.clone(),
            generated_by: model.generated_by.clone(),
            converted_by: model.converted_by.clone(),
            initialized: Mutex::new(initializer.is_none()),
            initializer,
            ..GraphModel::from_graph(graph, options)
        };
        info!(
            nodes = this.graph.len(),
            inputs = this.inputs.len(),
            outputs = this.outputs.len(),
            "graph model loaded"
        );
        Ok(this)
    }

    /// A model from a graph; its endpoints are the signature.
    pub fn from_graph(graph: Graph, options: ModelOptions) -> GraphModel {
        let visible = graph.inputs.iter().filter(|e| e.data_type != DataType::DtResource);
        GraphModel {
            inputs: visible.map(|e| info_of(&graph, e)).collect(),
            outputs: graph.outputs.iter().map(|e| info_of(&graph, e)).collect(),
            aliases: HashMap::new(),
            vanished: Vec::new(),
            signature: None,
            metadata: None,
            generated_by: None,
            converted_by: None,
            options,
            initialized: Mutex::new(true),
            initializer: None,
            resources: Resources::default(),
            plans: Mutex::default(),
            state: Mutex::default(),
            pool: BufferPool::new(),
            graph,
        }
    }

    /// The same, with a graph that runs once before the first run. Its outputs of some resource id are the inputs of that
    /// id of the other.
    #[must_use]
    pub fn with_initializer(self, initializer: Option<Graph>) -> GraphModel {
        GraphModel { initialized: Mutex::new(initializer.is_none()), initializer, ..self }
    }

    /// The inputs, in signature order.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// The outputs, in signature order.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// The signature as the file has it.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// `userDefinedMetadata`.
    pub fn metadata(&self) -> Option<&Map<String, Json>> {
        self.metadata.as_ref()
    }

    /// `generatedBy` and `convertedBy`.
    pub fn origin(&self) -> (Option<&str>, Option<&str>) {
        (self.generated_by.as_deref(), self.converted_by.as_deref())
    }

    /// The graph as loaded, before any pass.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph that runs once before the first run and fills tables, if there is one.
    pub fn initializer(&self) -> Option<&Graph> {
        self.initializer.as_ref()
    }

    /// The model with other values of constants; all else is the same.
    ///
    /// # Errors
    /// When a node is no constant, or the type or shape of its value differs.
    pub fn with_constants(&self, values: Vec<(NodeId, Tensor)>) -> Result<GraphModel, GraphError> {
        let mut graph = self.graph.clone();
        for (id, value) in values {
            let known = graph.get(id).is_some();
            let Some(old) = graph.get(id).and_then(|n| n.value.as_ref()) else {
                let node = if known { graph.node(id).name.clone() } else { format!("#{}", id.0) };
                return Err(GraphError::NotAConstant { node });
            };
            let data_type = old.data_type();
            if old.shape() != value.dims() || DType::from_proto(data_type) != Some(value.dtype()) {
                return Err(GraphError::ConstantChanged {
                    node: graph.node(id).name.clone(),
                    got: Fact::of(value.dtype(), value.dims()).to_string(),
                    expected: format!("{old:?}"),
                });
            }
            graph.node_mut(id).value = Some(Constant::new(data_type, value));
        }
        Ok(GraphModel {
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            aliases: self.aliases.clone(),
            vanished: self.vanished.clone(),
            signature: self.signature.clone(),
            metadata: self.metadata.clone(),
            generated_by: self.generated_by.clone(),
            converted_by: self.converted_by.clone(),
            initialized: Mutex::new(self.initializer.is_none()),
            initializer: self.initializer.clone(),
            ..GraphModel::from_graph(graph, self.options.clone())
        })
    }

    /// Computes all outputs. Inputs are named by signature key, node or tensor name.
    ///
    /// # Errors
    /// When inputs are missing, unknown or of the wrong type or shape, when ops are not supported, or when a node fails.
    pub fn run<N: AsRef<str>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<Outputs, GraphError> {
        self.run_with(inputs, None, None)
    }

    /// Computes the named outputs: signature keys, nodes (`node`) or their further outputs (`node:1`), any in the graph.
    ///
    /// # Errors
    /// As [`GraphModel::run`], and when an output does not exist.
    pub fn run_for<N: AsRef<str>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
        outputs: &[&str],
    ) -> Result<Outputs, GraphError> {
        self.run_with(inputs, Some(outputs), None)
    }

    /// As [`GraphModel::run`], adding the time spent in each node to `profile`.
    ///
    /// # Errors
    /// As [`GraphModel::run`].
    pub fn run_profiled<N: AsRef<str>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
        profile: &mut Profile,
    ) -> Result<Outputs, GraphError> {
        self.run_with(inputs, None, Some(profile))
    }

    fn run_with<N: AsRef<str>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
        outputs: Option<&[&str]>,
        profile: Option<&mut Profile>,
    ) -> Result<Outputs, GraphError> {
        let mut feeds: Vec<(Port, Tensor)> = Vec::new();
        for (name, tensor) in inputs {
            if let Some(port) = self.check_input(name.as_ref(), &tensor)? {
                if feeds.iter().any(|(p, _)| *p == port) {
                    return Err(GraphError::InputTwice { name: name.as_ref().to_owned() });
                }
                feeds.push((port, tensor));
            }
        }
        self.initialize()?;
        let (names, fetches) = self.fetches(outputs)?;
        let mut values: Vec<(Port, Value)> = feeds.into_iter().map(|(p, t)| (p, Value::Tensor(t))).collect();
        for e in self.graph.inputs.iter().filter(|e| e.data_type == DataType::DtResource) {
            if let Some(v) = e.resource_id.and_then(|id| self.resources.captured(id)) {
                values.push((e.port, v));
            }
        }
        values.sort_by_key(|(p, _)| *p);
        let facts: Vec<(Port, Option<DType>)> =
            values.iter().map(|(p, v)| (*p, v.as_tensor().map(Tensor::dtype))).collect();
        let planned = self.planned(&facts, &fetches)?;
        let values: Values = values.into_iter().map(|(_, v)| v).collect();
        let plan = self.plan(&planned, &values)?;
        let results = self.execute(&plan, values, profile)?;
        let tensors = tensors(&names, results)?;
        let aliases = if outputs.is_none() {
            self.aliases.iter().map(|(a, &i)| (a.clone(), i)).collect()
        } else {
            Vec::new()
        };
        Ok(Outputs { names, tensors, aliases })
    }

    /// Resolves names of inputs and outputs once, for runs that have no time to look them up: training takes thousands of
    /// short steps. Inputs must be declared by the signature.
    ///
    /// # Errors
    /// When an input or output does not exist, or an op is not supported.
    pub fn bind(
        &self,
        inputs: &[impl AsRef<str>],
        outputs: &[impl AsRef<str>],
    ) -> Result<Binding, GraphError> {
        self.initialize()?;
        let mut ports = Vec::with_capacity(inputs.len());
        for name in inputs {
            let info = self.inputs.iter().find(|i| i.key == name.as_ref() || i.name == name.as_ref());
            let port = info.and_then(|i| Some((self.graph.port(&i.name)?, i.dtype)));
            ports.push(port.ok_or_else(|| GraphError::UnknownInput {
                name: name.as_ref().to_owned(),
                known: self.inputs.iter().map(|i| i.key.clone()).collect(),
            })?);
        }
        let mut feeds: Vec<(Port, Option<DType>, Feed)> =
            ports.into_iter().enumerate().map(|(i, (port, dtype))| (port, dtype, Feed::Input(i))).collect();
        for e in self.graph.inputs.iter().filter(|e| e.data_type == DataType::DtResource) {
            if let Some(id) = e.resource_id.filter(|&id| self.resources.captured(id).is_some()) {
                feeds.push((e.port, None, Feed::Resource(id)));
            }
        }
        feeds.sort_by_key(|(port, ..)| *port);
        let facts: Vec<(Port, Option<DType>)> =
            feeds.iter().map(|(port, dtype, _)| (*port, *dtype)).collect();
        let outputs: Vec<&str> = outputs.iter().map(AsRef::as_ref).collect();
        let (names, fetches) = self.fetches(Some(&outputs))?;
        let planned = self.planned(&facts, &fetches)?;
        // What is not supported is told now.
        self.open_plan(&planned, &mut lock(&planned.plans))?;
        Ok(Binding { planned, feeds: feeds.into_iter().map(|f| f.2).collect(), inputs: inputs.len(), names })
    }

    /// Runs what was bound; inputs and outputs stand in the order in which they were named. Types and shapes of inputs are
    /// the caller's business: what does not fit is found by the ops. The time spent in each node is added to `profile`.
    ///
    /// # Errors
    /// When the number of inputs differs, or a node fails.
    pub fn run_bound(
        &self,
        binding: &Binding,
        inputs: Vec<Tensor>,
        profile: Option<&mut Profile>,
    ) -> Result<Vec<Tensor>, GraphError> {
        let (given, wanted) = (inputs.len(), binding.inputs);
        if given != wanted {
            return Err(GraphError::InputCount { given, wanted });
        }
        let mut inputs: Vec<Option<Tensor>> = inputs.into_iter().map(Some).collect();
        let feed = |feed: &Feed| match *feed {
            Feed::Input(i) => inputs[i].take().map(Value::Tensor),
            Feed::Resource(id) => self.resources.captured(id),
        };
        let feeds: Values = binding.feeds.iter().filter_map(feed).collect();
        let plan = self.plan(&binding.planned, &feeds)?;
        tensors(&binding.names, self.execute(&plan, feeds, profile)?)
    }

    /// Runs a plan with the model's tables and random state.
    fn execute(
        &self,
        plan: &Plan,
        feeds: Values,
        profile: Option<&mut Profile>,
    ) -> Result<Vec<Option<Value>>, GraphError> {
        // Random state is one per model; a run beside another gets its own.
        let mut own = State::new();
        let mut shared = self.state.try_lock().ok();
        let state = shared.as_deref_mut().unwrap_or(&mut own);
        let mut cx = Cx { node: "", resources: &self.resources, state, depth: 0, profile };
        self.pool.run(&plan.memory, plan.expected, || {
            let mut results = tfjs_kernels::Threads::awake(|| exec::run(plan, &mut cx, feeds))?;
            for value in &mut results {
                // What the caller gets must not lie where the next run writes.
                if let Some(Value::Tensor(t)) = value.take_if(|v| v.as_tensor().is_some()) {
                    *value = Some(Value::Tensor(t.outliving()));
                }
            }
            Ok(results)
        })
    }

    /// Memory of the results of a run, by the plan that needs most; `None` before the first run. It is kept for later runs,
    /// once for each that goes on at the same time.
    pub fn memory(&self) -> Option<MemoryUse> {
        let planned = lock(&self.plans);
        let uses = planned.values().filter_map(|planned| {
            let plans = lock(&planned.plans);
            let all = plans.shaped.iter().map(|(_, plan)| plan).chain(&plans.open);
            all.filter_map(|plan| plan.memory.memory()).max_by_key(|m| m.used)
        });
        uses.max_by_key(|m| m.used)
    }

    /// Gives the memory that is kept for later runs back to the system.
    pub fn release_memory(&self) {
        self.pool.clear();
    }

    /// Where an input goes; `None` for one that the signature names and the graph does not have any more.
    fn check_input(&self, name: &str, tensor: &Tensor) -> Result<Option<Port>, GraphError> {
        let bare = name.strip_suffix(":0").unwrap_or(name);
        let info = self.inputs.iter().find(|i| {
            i.key == name || i.name == name || i.name.strip_suffix(":0") == Some(bare) || i.name == bare
        });
        let Some(info) = info else {
            if self.vanished.iter().any(|v| v == name || v.strip_suffix(":0") == Some(bare)) {
                return Ok(None);
            }
            // Any node may be fed: the graph is cut there.
            return self.graph.port(name).map(Some).ok_or_else(|| GraphError::UnknownInput {
                name: name.to_owned(),
                known: self.inputs.iter().map(|i| i.key.clone()).collect(),
            });
        };
        if let Some(expected) = info.dtype
            && expected != tensor.dtype()
        {
            return Err(GraphError::InputDType {
                name: name.to_owned(),
                got: tensor.dtype().to_string(),
                expected: expected.to_string(),
            });
        }
        if let Some(shape) = &info.shape {
            let fits = shape.len() == tensor.rank()
                && shape.iter().zip(tensor.dims()).all(|(want, got)| want.is_none_or(|w| w == *got));
            if !fits {
                let expected = Fact { shape: Some(shape.clone()), ..Fact::default() }.to_string();
                return Err(GraphError::InputShape {
                    name: name.to_owned(),
                    got: tensor.shape().to_string(),
                    expected: expected[1..].to_owned(),
                });
            }
        }
        Ok(self.graph.port(&info.name))
    }

    fn fetches(&self, outputs: Option<&[&str]>) -> Result<(Vec<String>, Vec<Port>), GraphError> {
        let Some(outputs) = outputs else {
            return Ok(self.graph.outputs.iter().map(|e| (e.key.clone(), e.port)).unzip());
        };
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for &name in outputs {
            let by_key = self.graph.outputs.iter().find(|e| e.key == name).map(|e| e.port);
            let by_alias = || self.aliases.get(name).map(|&i| self.graph.outputs[i].port);
            let port = by_key.or_else(by_alias).or_else(|| self.graph.port(name)).ok_or_else(|| {
                let known = self.outputs.iter().map(|o| o.key.clone()).collect();
                GraphError::UnknownOutput { name: name.to_owned(), known }
            })?;
            names.push(name.to_owned());
            ports.push(port);
        }
        Ok((names, ports))
    }

    /// Runs the initialiser graph, the first time.
    fn initialize(&self) -> Result<(), GraphError> {
        let mut done = self.initialized.lock().unwrap_or_else(PoisonError::into_inner);
        if *done {
            return Ok(());
        }
        if let Some(graph) = &self.initializer {
            let fetches: Vec<Port> = graph.outputs.iter().map(|e| e.port).collect();
            let compiler = Compiler::new(&self.options.registry, &graph.library);
            let plan = compiler.compile(
                graph,
                &Request { feeds: &[], fetches: &fetches, targets: &graph.targets, shared: None },
            )?;
            let mut state = State::new();
            let mut cx =
                Cx { node: "", resources: &self.resources, state: &mut state, depth: 0, profile: None };
            let values = exec::run(&plan, &mut cx, Values::new())?;
            for (e, value) in graph.outputs.iter().zip(values) {
                if let (Some(id), Some(value)) = (e.resource_id, value) {
                    self.resources.capture(id, value);
                }
            }
            debug!(nodes = graph.len(), "initialiser ran");
        }
        *done = true;
        Ok(())
    }

    /// The graph cut to these feeds and fetches, with its passes done; kept.
    fn planned(&self, feeds: &[(Port, Option<DType>)], fetches: &[Port]) -> Result<Arc<Planned>, GraphError> {
        let key: PlanKey = (feeds.iter().map(|(p, _)| *p).collect(), fetches.to_vec());
        if let Some(planned) = lock(&self.plans).get(&key) {
            return Ok(planned.clone());
        }
        let mut graph = self.graph.clone();
        let feed_facts: Vec<(Port, Fact)> = feeds
            .iter()
            .map(|&(port, dtype)| {
                let declared = self.graph.inputs.iter().find(|e| e.port == port);
                let shape = declared.and_then(|e| e.shape.as_ref()).and_then(partial_shape);
                (port, Fact { dtype, shape, value: None })
            })
            .collect();
        graph.outputs = fetches
            .iter()
            .map(|&port| Endpoint {
                key: String::new(),
                port,
                data_type: DataType::DtInvalid,
                shape: None,
                resource_id: None,
            })
            .collect();
        let feeds = cut_at_feeds(&mut graph, &feed_facts);
        if self.options.optimize {
            optimize(&mut graph, &self.options.registry)?;
        }
        let fetches: Vec<Port> = graph.outputs.iter().map(|e| e.port).collect();
        let open = feed_facts.into_iter().map(|(_, fact)| fact).collect();
        let (kit, plans) = (Mutex::default(), Mutex::default());
        let planned = Planned { graph, feeds, open, fetches, kit, plans };
        Ok(lock(&self.plans).entry(key).or_insert_with(|| Arc::new(planned)).clone())
    }

    /// The plan for fed values of these shapes: one of their own for the first and for those that come back, in which what
    /// follows from shapes is computed already; the one for any shape for others.
    fn plan(&self, planned: &Planned, feeds: &Values) -> Result<Arc<Plan>, GraphError> {
        // Held while a plan is made, so that others who want it wait instead of making it too.
        let mut plans = lock(&planned.plans);
        if let Some(at) = plans.shaped.iter().position(|(known, _)| same_shapes(known, feeds)) {
            if at > 0 {
                plans.shaped[..=at].rotate_right(1);
            }
            return Ok(plans.shaped[0].1.clone());
        }
        let owned = || -> Shapes { shapes_of(feeds).map(|dims| dims.map(Shape::from)).collect() };
        let declared =
            planned.open.iter().all(|f| f.shape.as_ref().is_some_and(|s| s.iter().all(Option::is_some)));
        let mut wanted = plans.shaped.is_empty() && plans.open.is_none();
        if !wanted && !declared {
            wanted = match plans.met.iter().position(|(known, _)| same_shapes(known, feeds)) {
                Some(at) => {
                    plans.met[..=at].rotate_right(1);
                    plans.met[0].1 += 1;
                    plans.met[0].1 >= REPEATED
                }
                None => {
                    plans.met.truncate(SHAPES - 1);
                    plans.met.insert(0, (owned(), 1));
                    false
                }
            };
        }
        if wanted && self.options.optimize && !declared {
            let facts = planned.open.iter().zip(shapes_of(feeds)).map(|(open, dims)| Fact {
                shape: dims
                    .map(|dims| dims.iter().map(|&d| Some(d)).collect())
                    .or_else(|| open.shape.clone()),
                ..open.clone()
            });
            let plan = self.compile(planned, facts.collect())?;
            plans.met.retain(|(known, _)| !same_shapes(known, feeds));
            plans.shaped.truncate(SHAPES - 1);
            plans.shaped.insert(0, (owned(), plan.clone()));
            return Ok(plan);
        }
        self.open_plan(planned, &mut plans)
    }

    fn open_plan(&self, planned: &Planned, plans: &mut Plans) -> Result<Arc<Plan>, GraphError> {
        if let Some(plan) = &plans.open {
            return Ok(plan.clone());
        }
        let plan = self.compile(planned, planned.open.clone())?;
        plans.open = Some(plan.clone());
        Ok(plan)
    }

    fn compile(&self, planned: &Planned, facts: Vec<Fact>) -> Result<Arc<Plan>, GraphError> {
        let feeds: Vec<(Port, Fact)> = planned.feeds.iter().copied().zip(facts).collect();
        let shared = Some(Shared { open: &planned.open, kit: &planned.kit });
        let request = Request { feeds: &feeds, fetches: &planned.fetches, targets: &[], shared };
        let compiler = Compiler::new(&self.options.registry, &planned.graph.library);
        Ok(Arc::new(compiler.compile(&planned.graph, &request)?))
    }
}

fn shapes_of(feeds: &Values) -> impl Iterator<Item = Option<&[usize]>> {
    feeds.iter().map(|v| v.as_tensor().map(Tensor::dims))
}

fn same_shapes(known: &Shapes, feeds: &Values) -> bool {
    known.len() == feeds.len() && known.iter().map(Option::as_deref).eq(shapes_of(feeds))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Outputs of a run, all of which must be tensors.
fn tensors(names: &[String], results: Vec<Option<Value>>) -> Result<Vec<Tensor>, GraphError> {
    let one = |(name, value): (&String, Option<Value>)| match value {
        Some(Value::Tensor(t)) => Ok(t),
        Some(other) => Err(GraphError::NotATensor { name: name.clone(), kind: other.kind() }),
        None => Err(GraphError::DeadOutput { name: name.clone() }),
    };
    names.iter().zip(results).map(one).collect()
}

/// The passes that a graph goes through before it is planned.
fn optimize(graph: &mut Graph, registry: &Registry) -> Result<(), GraphError> {
    passes::prune(graph);
    passes::fold_constants(graph, registry)?;
    passes::fuse_recurrent_loops(graph, registry)?;
    passes::recognize_blocks(graph, registry)?;
    passes::everywhere(graph, &mut |g| {
        passes::simplify(g)
            + passes::sink_squeezes(g)
            + passes::fold_batch_norms(g)
            + passes::normalize_bias_adds(g)
            + passes::recognize_prelu(g)
            + passes::recognize_activations(g)
            + passes::fuse_activations(g, FuseTarget::Native)
            + passes::fuse_prelu(g)
            + passes::fold_pads(g)
    });
    passes::dedup(graph, registry);
    Ok(())
}

/// Makes every fed port a placeholder of its own, so that passes know that its value is not computed.
fn cut_at_feeds(graph: &mut Graph, feeds: &[(Port, Fact)]) -> Vec<Port> {
    let mut ports = Vec::with_capacity(feeds.len());
    let mut cut = HashMap::new();
    for (port, _) in feeds {
        if graph.node(port.node).op.starts_with("Placeholder") && graph.node(port.node).inputs.is_empty() {
            ports.push(*port);
            continue;
        }
        let id = graph.add_fresh(Node::new(format!("{}/fed", graph.port_name(*port)), "Placeholder"));
        cut.insert(*port, Port::from(id));
        ports.push(id.into());
    }
    if !cut.is_empty() {
        graph.redirect(|p| cut.get(&p).copied().unwrap_or(p));
    }
    // They are no outputs, but must outlive pruning.
    graph.inputs = ports
        .iter()
        .zip(feeds)
        .map(|(&port, (_, fact))| Endpoint {
            key: String::new(),
            port,
            data_type: fact.dtype.map_or(DataType::DtInvalid, DType::to_proto),
            shape: None,
            resource_id: None,
        })
        .collect();
    ports
}

/// The value of a constant: from the manifest, or from the graph itself.
fn constant(
    name: &str,
    value: Option<&TensorProto>,
    weights: &dyn Fn(&str) -> Option<Constant>,
) -> Result<Option<Constant>, LoadError> {
    match (weights(name), value) {
        (Some(weight), _) => Ok(Some(weight)),
        // A value whose data was moved to the manifest is not a value: only its shape is left.
        (None, Some(v)) if has_data(v) => Ok(Some(Constant::from_proto(v)?)),
        _ => Ok(None),
    }
}

/// Puts the model's own name into an error.
fn in_file(error: GraphError, source: &dyn ModelSource) -> GraphError {
    match error {
        GraphError::WrongKind { found, hint, .. } => {
            GraphError::WrongKind { name: source.name(), found, hint }
        }
        other => other,
    }
}

fn has_data(v: &TensorProto) -> bool {
    let empty = v.tensor_shape.as_ref().is_some_and(|s| s.dim.iter().any(|d| d.size == 0));
    empty
        || !v.tensor_content.is_empty()
        || !v.float_val.is_empty()
        || !v.double_val.is_empty()
        || !v.int_val.is_empty()
        || !v.string_val.is_empty()
        || !v.scomplex_val.is_empty()
        || !v.int64_val.is_empty()
        || !v.bool_val.is_empty()
        || !v.dcomplex_val.is_empty()
        || !v.half_val.is_empty()
        || !v.uint32_val.is_empty()
        || !v.uint64_val.is_empty()
}

/// Sets the endpoints that a signature names; returns inputs that the graph does not have.
fn apply_signature(graph: &mut Graph, signature: &Signature) -> Vec<String> {
    let mut vanished = Vec::new();
    let endpoint = |graph: &Graph, key: &str, info: &tfjs_format::TensorInfo| {
        let name = if info.name.is_empty() { key } else { &info.name };
        let port = graph.port(name)?;
        let data_type = info.dtype.unwrap_or(DataType::DtInvalid);
        Some(Endpoint {
            key: key.to_owned(),
            port,
            data_type,
            shape: info.tensor_shape.clone(),
            resource_id: info.resource_id,
        })
    };
    for (key, info) in &signature.inputs {
        match endpoint(graph, key, info) {
            Some(mut e) => {
                let node = graph.node(e.port.node);
                if e.shape.is_none()
                    && let Some(tfjs_format::proto::attr_value::Value::Shape(s)) = node.attrs.get("shape")
                {
                    e.shape = Some((**s).clone());
                }
                if e.data_type == DataType::DtInvalid {
                    e.data_type = node.attrs.data_type("dtype").unwrap_or(DataType::DtInvalid);
                }
                graph.inputs.push(e);
            }
            None => vanished.extend([key.clone(), info.name.clone()]),
        }
    }
    for (key, info) in &signature.outputs {
        match endpoint(graph, key, info) {
            Some(e) => graph.outputs.push(e),
            None => {
                warn!(key, tensor = info.name, "the signature names an output that the graph does not have")
            }
        }
    }
    vanished
}

fn guess_inputs(graph: &mut Graph) {
    let placeholders: Vec<NodeId> =
        graph.iter().filter(|(_, n)| n.op.starts_with("Placeholder")).map(|(id, _)| id).collect();
    for id in placeholders {
        let node = graph.node(id);
        let shape = match node.attrs.get("shape") {
            Some(tfjs_format::proto::attr_value::Value::Shape(s)) => Some((**s).clone()),
            _ => None,
        };
        let data_type = node.attrs.data_type("dtype").unwrap_or(DataType::DtInvalid);
        let key = node.name.clone();
        graph.inputs.push(Endpoint { key, port: id.into(), data_type, shape, resource_id: None });
    }
}

/// Every node that nobody uses.
fn guess_outputs(graph: &mut Graph) {
    let consumers = graph.consumers();
    let loose = |id: NodeId, n: &Node| {
        consumers.of(id).is_empty()
            && consumers.controls_of(id).is_empty()
            && n.value.is_none()
            && !matches!(n.op.as_str(), "NoOp" | "Assert")
            && !n.op.starts_with("Placeholder")
    };
    let ids: Vec<NodeId> = graph.iter().filter(|(id, n)| loose(*id, n)).map(|(id, _)| id).collect();
    for id in ids {
        let key = graph.node(id).name.clone();
        let port = id.into();
        graph.outputs.push(Endpoint {
            key,
            port,
            data_type: DataType::DtInvalid,
            shape: None,
            resource_id: None,
        });
    }
}

fn info_of(graph: &Graph, e: &Endpoint) -> TensorInfo {
    let name = format!("{}:{}", graph.node(e.port.node).name, e.port.index);
    // Some old signatures say rank 0 where they mean "unknown"; an output's shape is a hint only.
    let shape = e.shape.as_ref().and_then(partial_shape);
    TensorInfo { key: e.key.clone(), name, dtype: DType::from_proto(e.data_type), shape }
}

/// Names of a structured output: its sorted keys belong to the outputs in the order of `Identity`, `Identity_1`, ….
/// (TF.js pairs them with the signature's order, which gives wrong names when that differs.)
fn structured_aliases(model: &ModelJson, graph: &Graph) -> HashMap<String, usize> {
    let Some(keys) = model.structured_output_keys() else { return HashMap::new() };
    let known: HashSet<&str> = graph.outputs.iter().map(|e| e.key.as_str()).collect();
    if keys.len() != graph.outputs.len() || keys.iter().all(|k| known.contains(k)) {
        return HashMap::new();
    }
    let rank = |name: &str| match name.strip_prefix("Identity") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('_')?.parse::<usize>().ok(),
        None => None,
    };
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (i, e) in graph.outputs.iter().enumerate() {
        order.push((rank(&graph.node(e.port.node).name).unwrap_or(i), i));
    }
    order.sort();
    keys.iter().zip(order).map(|(k, (_, i))| ((*k).to_owned(), i)).collect()
}
