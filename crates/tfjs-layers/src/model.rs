use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use serde_json::{Map, Value};
use tfjs_format::{
    ModelJson, Topology, Weights,
    io::{self, LoadOptions, ModelSource},
};
use tfjs_graph::{Constant, GraphModel, ModelOptions, Outputs, tensor_from_bytes};
use tfjs_kernels::Tensor;
use tracing::info;

use crate::{
    Assets, Call, Dialect, Emit, Layer, LayersError, ModelConfig, Network, Params, StoredWeight,
    StoredWeights, Sym, UnknownOption, Weight, WeightId,
    config::UnknownOptions,
    emit::{Emitted, StateInfo},
    matching,
    topology::{dialect_of, keras1},
    train::Training,
    weights::Scope,
};

/// How a layers model is loaded.
#[derive(Clone, Debug)]
pub struct LayersOptions {
    /// Every weight of the file must belong to a layer and every layer's weight must be in the file. Off, what does not
    /// match is left out, and layers keep their initial values.
    pub strict: bool,
    /// Whose rules the model follows; by default what the file says.
    pub dialect: Option<Dialect>,
    /// Files that belong to the model, such as vocabularies.
    pub assets: Assets,
}

impl Default for LayersOptions {
    fn default() -> LayersOptions {
        LayersOptions { strict: true, dialect: None, assets: Assets::default() }
    }
}

/// A model of Keras layers with its weights.
///
/// ```no_run
/// use tfjs_layers::LayersModel;
/// # let image = tfjs_kernels::Tensor::scalar(0f32);
/// let model = LayersModel::open("mnist/model.json")?;
/// let scores = model.run([("image", image)])?;
/// # Ok::<(), tfjs_layers::LayersError>(())
/// ```
#[derive(Debug)]
pub struct LayersModel {
    pub(crate) network: Network,
    pub(crate) params: Params,
    pub(crate) dialect: Dialect,
    /// `keras_version` of the file.
    pub keras_version: Option<String>,
    /// `backend` of the file.
    pub backend: Option<String>,
    /// How the model was compiled, in the file's own spelling: `trainingConfig` of TF.js, `training_config` or
    /// `compile_config` of Keras.
    pub training_config: Option<Value>,
    /// In whose form that is, and the state of the optimizer.
    pub training_dialect: Dialect,
    /// Weights of the optimizer, in order, for training to go on.
    pub optimizer_weights: Vec<StoredWeight>,
    /// `userDefinedMetadata`.
    pub metadata: Option<Map<String, Value>>,
    unknown_options: Vec<UnknownOption>,
    compiled: OnceLock<Compiled>,
    /// What it is trained for, once it is compiled.
    pub(crate) training: Option<Box<Training>>,
    /// What stateful layers left behind.
    states: Mutex<HashMap<String, Tensor>>,
}

#[derive(Debug)]
struct Compiled {
    model: GraphModel,
    states: Vec<StateInfo>,
}

type Result<T> = std::result::Result<T, LayersError>;

impl LayersModel {
    /// Opens a model by the path of its `model.json` (or of the directory that holds it), or by its HTTP address.
    ///
    /// # Errors
    /// When files are missing or malformed, a layer is not known, or weights do not fit.
    pub fn open(location: impl AsRef<Path>) -> Result<LayersModel> {
        LayersModel::open_with(location, &LoadOptions::default(), &LayersOptions::default())
    }

    /// Opens a model with TF.js's loader options.
    ///
    /// # Errors
    /// As [`LayersModel::open`].
    pub fn open_with(
        location: impl AsRef<Path>,
        load: &LoadOptions,
        options: &LayersOptions,
    ) -> Result<LayersModel> {
        let source = io::open(&location.as_ref().to_string_lossy(), load)?;
        LayersModel::load(source.as_ref(), options)
    }

    /// Loads a model from anywhere. Weights stay in their (mapped) shards until they are needed.
    ///
    /// # Errors
    /// As [`LayersModel::open`].
    pub fn load(source: &dyn ModelSource, options: &LayersOptions) -> Result<LayersModel> {
        let model = ModelJson::load(source)?;
        let wrong = |found, hint| LayersError::WrongKind { name: "model.json".to_owned(), found, hint };
        let topology = match &model.topology {
            Topology::Layers(topology) => topology,
            Topology::Graph(_) => return Err(wrong("a graph model", "; open it as a `GraphModel`")),
            Topology::None => return Err(wrong("weights without a topology", "")),
        };
        let weights = Arc::new(Weights::open(source, &model.weights_manifest)?);
        let mut own = Vec::new();
        let mut optimizer = Vec::new();
        for spec in weights.specs() {
            let (weights, name) = (weights.clone(), spec.name.clone());
            let load = move || Ok(tensor_from_bytes(&weights.get(&name)?)?);
            let value = Constant::deferred(spec.runtime_dtype().to_proto(), &spec.shape[..], load);
            let stored = StoredWeight { name: spec.name.clone(), value };
            let group = spec.extra.get("group").and_then(Value::as_str);
            if group == Some("optimizer") { optimizer.push(stored) } else { own.push(stored) }
        }
        let mut this = LayersModel::new(topology, &StoredWeights::ByName(own), options)?;
        this.optimizer_weights = optimizer;
        if model.training_config.is_some() {
            // A model of Keras that was trained here has both; TF.js's goes with the optimizer's weights.
            this.training_config = model.training_config.clone();
            this.training_dialect = Dialect::Tfjs;
        }
        this.metadata = model.user_defined_metadata.clone();
        Ok(this)
    }

    /// A model from its topology (of any dialect: `{class_name, config}`, alone or under `model_config`) and its weights.
    ///
    /// # Errors
    /// As [`LayersModel::open`].
    pub fn new(topology: &Value, weights: &StoredWeights, options: &LayersOptions) -> Result<LayersModel> {
        let text = |key: &str| topology.get(key).and_then(Value::as_str).map(str::to_owned);
        let dialect = options.dialect.unwrap_or_else(|| dialect_of(topology));
        let mut topology = topology.clone();
        crate::assets::inline(&mut topology, &options.assets)?;
        let topology = &topology;
        let config = ModelConfig::read(topology, dialect)?;
        let unknown = UnknownOptions::default();
        let mut network = Network::noting(config, dialect, &unknown)?;
        let mut params = Params::default();
        network.build(&mut Scope::new(&mut params, dialect), &[])?;
        let theano = topology.get("backend").and_then(Value::as_str) == Some("theano");
        let upgraded = keras1::weights(&network, &params, weights, dialect == Dialect::Keras1, theano);
        matching::assign(&network, &mut params, upgraded.as_ref().unwrap_or(weights), options.strict)?;
        if !options.strict {
            params.initialize();
        }
        crate::assets::inline_idf(&mut network.config, &params)?;
        info!(layers = network.nodes.len(), weights = params.weights.len(), ?dialect, "layers model loaded");
        Ok(LayersModel {
            network,
            params,
            dialect,
            keras_version: text("keras_version"),
            backend: text("backend"),
            training_dialect: dialect,
            training_config: topology.get("training_config").filter(|v| !v.is_null()).cloned(),
            optimizer_weights: Vec::new(),
            metadata: None,
            unknown_options: unknown.take(),
            compiled: OnceLock::new(),
            training: None,
            states: Mutex::default(),
        })
    }

    /// A model of layers that are known already; its weights have no values yet.
    pub(crate) fn from_config(config: ModelConfig, dialect: Dialect) -> Result<LayersModel> {
        let mut network = Network::new(config, dialect)?;
        let mut params = Params::default();
        network.build(&mut Scope::new(&mut params, dialect), &[])?;
        Ok(LayersModel {
            network,
            params,
            dialect,
            keras_version: None,
            backend: None,
            training_dialect: dialect,
            training_config: None,
            optimizer_weights: Vec::new(),
            metadata: None,
            unknown_options: Vec::new(),
            compiled: OnceLock::new(),
            training: None,
            states: Mutex::default(),
        })
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.network.config.name
    }

    /// Options in the file that no layer of their class has.
    pub fn unknown_options(&self) -> &[UnknownOption] {
        &self.unknown_options
    }

    /// Whose rules it follows.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Its layers and how they are connected.
    pub fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn params(&self) -> &Params {
        &self.params
    }

    /// Its weights, in the order their layers declared them.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, &Weight)> {
        self.params.weights.iter().enumerate().map(|(i, w)| (WeightId(i), &**w))
    }

    /// Number of elements of a layer's weights, those of models inside included.
    pub fn parameters(&self, node: &crate::Node) -> usize {
        node.weights.clone().map(|i| self.params.weights[i].shape.iter().product::<usize>()).sum()
    }

    /// The value of a weight, by its name in TF.js or Keras.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be read.
    pub fn get_weight(&self, name: &str) -> Result<Tensor> {
        let weight = self.params.get(self.weight_id(name)?);
        match &weight.value {
            Some(value) => {
                value.tensor().map_err(|source| LayersError::WeightValue { weight: name.to_owned(), source })
            }
            None => Err(LayersError::MissingWeights { names: vec![name.to_owned()] }),
        }
    }

    /// Changes the value of a weight.
    ///
    /// # Errors
    /// When there is none of this name, or the shape differs.
    pub fn set_weight(&mut self, name: &str, value: Tensor) -> Result<()> {
        let id = self.weight_id(name)?;
        let declared = &self.params.get(id).shape;
        if value.dims() != declared.as_slice() {
            let (got, expected) = (value.dims().to_vec(), declared.clone());
            return Err(LayersError::WeightShape { weight: name.to_owned(), got, expected });
        }
        self.params.set(id, Constant::new(value.dtype().to_proto(), value));
        self.forget_compiled();
        Ok(())
    }

    /// Weights have changed: what was compiled with the old ones goes.
    pub(crate) fn forget_compiled(&mut self) {
        self.compiled = OnceLock::new();
    }

    fn weight_id(&self, name: &str) -> Result<WeightId> {
        let found = self.params.weights.iter().position(|w| w.tfjs == name || w.keras == name);
        found.map(WeightId).ok_or_else(|| LayersError::NotFound { what: "weight", name: name.to_owned() })
    }

    /// The model as a graph of TensorFlow's ops: inputs and outputs are named after their layers, weights are constants.
    /// Stateful layers start every run from zeros.
    ///
    /// # Errors
    /// When an input has no shape.
    pub fn to_graph(&self) -> Result<Emitted> {
        self.emit(Emit::new(self.params.clone(), self.dialect))
    }

    fn emit(&self, mut g: Emit) -> Result<Emitted> {
        let mut inputs = Vec::new();
        for (name, fact) in self.network.input_names().iter().zip(self.network.input_facts()?) {
            let dtype = fact.dtype.unwrap_or(tfjs_kernels::DType::Float32);
            let port = g.builder().placeholder(name, dtype, &fact.shape.unwrap_or_default());
            inputs.push(Sym::from(port));
        }
        let outputs = self.network.call(&mut g, &Call::of(inputs))?;
        for (name, sym) in self.output_names().iter().zip(outputs) {
            // A node of its own, so that the tensor's name is the output's.
            let port = g.op("Identity", &[sym.port], &[])?;
            g.builder().output(name, port);
        }
        Ok(g.finish())
    }

    /// Names of the inputs, in order.
    pub fn input_names(&self) -> Vec<String> {
        self.network.input_names()
    }

    /// Names of the outputs, in order: those of the layers they come from; a second output of one layer gets `_1`.
    pub fn output_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for t in self.network.config.outputs.flat() {
            let base = &self.network.config.layers[t.layer].name;
            let fresh = (1..).map(|i| format!("{base}_{i}"));
            let name = std::iter::once(base.clone()).chain(fresh).find(|n| !names.contains(n));
            names.extend(name);
        }
        names
    }

    /// The model compiled for predictions: batch norms folded, weights packed. It is made on first use and kept until a
    /// weight changes.
    ///
    /// # Errors
    /// When the graph cannot be written.
    pub fn compiled(&self) -> Result<&GraphModel> {
        Ok(&self.prepared()?.model)
    }

    /// The model compiled for predictions, alone.
    ///
    /// # Errors
    /// When the graph cannot be written.
    pub fn into_graph_model(self) -> Result<GraphModel> {
        let emitted = self.emit(Emit::new(self.params.clone(), self.dialect).for_running())?;
        let model = GraphModel::from_graph(emitted.graph, ModelOptions::default());
        Ok(model.with_initializer(emitted.initializer))
    }

    fn prepared(&self) -> Result<&Compiled> {
        if let Some(compiled) = self.compiled.get() {
            return Ok(compiled);
        }
        let g = Emit::new(self.params.clone(), self.dialect).for_running().keeping_states();
        let emitted = self.emit(g)?;
        let model = GraphModel::from_graph(emitted.graph, ModelOptions::default());
        let compiled =
            Compiled { model: model.with_initializer(emitted.initializer), states: emitted.states };
        Ok(self.compiled.get_or_init(|| compiled))
    }

    /// Lets stateful layers start from zeros again.
    pub fn reset_states(&self) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Predictions for one batch of any size, inputs by name. Stateful layers go on where the run before ended.
    ///
    /// # Errors
    /// When inputs are missing or do not fit.
    pub fn run<N: AsRef<str>>(&self, inputs: impl IntoIterator<Item = (N, Tensor)>) -> Result<Outputs> {
        let compiled = self.prepared()?;
        if compiled.states.is_empty() {
            return Ok(compiled.model.run(inputs)?);
        }
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut feeds: Vec<(String, Tensor)> =
            inputs.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value)).collect();
        for state in &compiled.states {
            let value = match states.get(&state.name) {
                Some(value) => value.clone(),
                None => Tensor::zeros(tfjs_kernels::DType::Float32, &state.shape[..])?,
            };
            feeds.push((state.name.clone(), value));
        }
        let mut outputs = compiled.model.run(feeds)?;
        let own = outputs.len() - compiled.states.len();
        for (name, value) in outputs.split_off(own) {
            states.insert(name, value);
        }
        Ok(outputs)
    }
}
