//! Writing a layers model that stock TensorFlow.js loads.
//!
//! ```text
//! Network ──draft──▶ Draft ──topology──▶ modelTopology
//!             │         └──weights────▶ weightsManifest, shards
//!      spelling, lower
//! ```
//!
//! [`spelling`] writes what TF.js has in TF.js's words; [`lower`] writes what it lacks as layers that it has.

mod draft;
mod fragment;
mod lower;
mod masks;
mod spelling;
mod topology;

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde_json::{Map, Value};
use tfjs_format::{
    DEFAULT_SHARD_SIZE, DType, ModelFormat, ModelJson, QuantizeTo, ShardOptions, Topology, WeightGroup,
    io::{DirectorySink, ModelSink},
};
use tfjs_graph::{Constant, WeightFile, write_group};

use crate::{Dialect, LayersError, LayersModel, StoredWeight, optimizers::StateNames};

type Result<T> = std::result::Result<T, LayersError>;

/// Says how a weight of this name is to be quantized.
pub type Quantizer =
    Arc<dyn Fn(&str) -> std::result::Result<Option<QuantizeTo>, tfjs_graph::LoadError> + Send + Sync>;

/// How a model is written for TensorFlow.js.
#[derive(Clone)]
pub struct SaveOptions {
    /// Write layers and options that TF.js lacks as layers that it has. Off, every layer keeps its class.
    pub lower: bool,
    /// One group of weight files per layer.
    pub split_weights_by_layer: bool,
    /// Most bytes per weight file.
    pub shard_size: u64,
    /// Which weights are quantized, by their names in the manifest.
    pub quantize: Option<Quantizer>,
    /// `userDefinedMetadata`.
    pub metadata: Map<String, Value>,
    /// Write the state of the optimizer, for training to go on.
    pub include_optimizer: bool,
    /// `generatedBy`; by default the version of Keras that made the model.
    pub generated_by: Option<String>,
    /// `convertedBy`.
    pub converted_by: Option<String>,
}

impl Default for SaveOptions {
    fn default() -> SaveOptions {
        SaveOptions {
            lower: true,
            split_weights_by_layer: false,
            shard_size: DEFAULT_SHARD_SIZE,
            quantize: None,
            metadata: Map::new(),
            include_optimizer: false,
            generated_by: None,
            converted_by: None,
        }
    }
}

impl fmt::Debug for SaveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaveOptions")
            .field("lower", &self.lower)
            .field("split_weights_by_layer", &self.split_weights_by_layer)
            .field("shard_size", &self.shard_size)
            .field("quantize", &self.quantize.is_some())
            .field("metadata", &self.metadata)
            .field("include_optimizer", &self.include_optimizer)
            .field("generated_by", &self.generated_by)
            .field("converted_by", &self.converted_by)
            .finish()
    }
}

/// What was written, and what stock TensorFlow.js cannot do with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SaveReport {
    /// Layers that TF.js will refuse or compute differently. They load and run here.
    pub warnings: Vec<SaveWarning>,
    /// Layers that were written as others: name, class, classes they became.
    pub lowered: Vec<(String, String, Vec<String>)>,
    /// What only concerns training and was left out.
    pub notes: Vec<String>,
    /// Number of weights.
    pub weights: usize,
    /// Number of weight files.
    pub shards: usize,
    /// Bytes of all weight files.
    pub bytes: u64,
}

/// A layer that stock TensorFlow.js cannot run as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveWarning {
    /// Its name, with those of the models around it.
    pub layer: String,
    /// Its Keras class.
    pub class: String,
    /// What TF.js lacks.
    pub reason: String,
}

impl fmt::Display for SaveWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SaveWarning { layer, class, reason } = self;
        write!(
            f,
            "layer `{layer}` ({class}): {reason}; stock TensorFlow.js cannot run it, write a graph model instead (--output_format=tfjs_graph_model)"
        )
    }
}

/// What files hold for training to go on.
#[derive(Default)]
struct TrainedState {
    /// `trainingConfig`
    config: Option<Value>,
    weights: Vec<StoredWeight>,
}

impl LayersModel {
    /// Writes the model for TensorFlow.js into a directory: `model.json` and weight files, all or nothing.
    ///
    /// # Errors
    /// When weights are missing or cannot be read, a layer is a frozen graph, or files cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<SaveReport> {
        let mut sink = DirectorySink::create(directory.as_ref())?;
        self.save_to(&mut sink, &SaveOptions::default())
    }

    /// Writes the model for TensorFlow.js anywhere. One weight is in memory at a time.
    ///
    /// # Errors
    /// As [`LayersModel::save`].
    pub fn save_to(&self, sink: &mut dyn ModelSink, options: &SaveOptions) -> Result<SaveReport> {
        self.save_with_progress(sink, options, &mut |_, _| {})
    }

    /// What [`LayersModel::save`] would warn of; nothing is written.
    ///
    /// # Errors
    /// When the topology cannot be written.
    pub fn check_save(&self, options: &SaveOptions) -> Result<SaveReport> {
        self.refuse_graphs()?;
        Ok(draft::Drafter::new(self, options.lower).root()?.1)
    }

    /// As [`LayersModel::save_to`]; `progress` is told bytes written and bytes in all.
    ///
    /// # Errors
    /// As [`LayersModel::save`].
    pub fn save_with_progress(
        &self,
        sink: &mut dyn ModelSink,
        options: &SaveOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SaveReport> {
        self.refuse_graphs()?;
        let (draft, mut report) = draft::Drafter::new(self, options.lower).root()?;
        let mut groups = Vec::new();
        let mut total = 0;
        // The order of the reference: layers by name, as HDF5 files list them.
        for weights in draft.weights_by_layer().values() {
            let mut group = Vec::new();
            for (name, value) in weights {
                let weight = WeightFile::new(name, value, options.quantization(name, value)?)?;
                total += weight.bytes()?;
                group.push(weight);
            }
            groups.push(group);
        }
        if !options.split_weights_by_layer {
            groups = vec![groups.into_iter().flatten().collect()];
        }
        let trained = if options.include_optimizer {
            self.trained_state(&mut report)?
        } else {
            TrainedState::default()
        };
        if !trained.weights.is_empty() {
            let mut group = Vec::new();
            for stored in &trained.weights {
                let mut weight = WeightFile::new(&stored.name, &stored.value, None)?;
                total += weight.bytes()?;
                weight.spec_mut().extra.insert("group".to_owned(), "optimizer".into());
                group.push(weight);
            }
            match groups.last_mut() {
                Some(last) if !options.split_weights_by_layer => last.extend(group),
                _ => groups.push(group),
            }
        }
        let mut manifest: Vec<WeightGroup> = Vec::new();
        let mut done = 0;
        for (i, group) in groups.into_iter().enumerate() {
            report.weights += group.len();
            let shards = ShardOptions { size: options.shard_size, sha256: false };
            let mut tell = |n| progress(done + n, total);
            let (entry, bytes) = write_group(i + 1, group, sink, shards, &mut tell)?;
            done += bytes;
            report.shards += entry.paths.len();
            manifest.push(entry);
        }
        report.bytes = done;
        let json = ModelJson {
            format: Some(ModelFormat::LayersModel),
            generated_by: Some(options.generated_by.clone().unwrap_or_else(|| self.generator())),
            converted_by: options.converted_by.clone(),
            topology: Topology::Layers(self.written_topology(&draft)),
            training_config: trained.config,
            user_defined_metadata: self.written_metadata(options),
            weights_manifest: manifest,
            ..ModelJson::default()
        };
        sink.finish(&json.to_json()?)?;
        Ok(report)
    }

    fn written_metadata(&self, options: &SaveOptions) -> Option<Map<String, Value>> {
        let mut metadata = self.metadata.clone().unwrap_or_default();
        metadata.extend(options.metadata.clone());
        (!metadata.is_empty()).then_some(metadata)
    }

    /// How training can go on: in TF.js's form if it has one, else in that of the model's Keras, which is also that of
    /// `training_config` in the topology.
    fn trained_state(&self, report: &mut SaveReport) -> Result<TrainedState> {
        let Some(training) = self.training.as_deref() else {
            let config = self.training_config.clone().filter(|_| self.training_dialect == Dialect::Tfjs);
            return Ok(TrainedState { config, weights: self.optimizer_weights.clone() });
        };
        match training.for_tfjs() {
            Ok((config, optimizer)) => {
                Ok(TrainedState { config: Some(config), weights: optimizer.state(StateNames::Variables)? })
            }
            Err(error) => {
                report.notes.push(format!("TensorFlow.js cannot continue this training: {error}"));
                Ok(TrainedState { config: None, weights: training.optimizer.state(StateNames::Variables)? })
            }
        }
    }

    fn generator(&self) -> String {
        let version = self.written_version();
        if self.dialect == Dialect::Tfjs { version } else { format!("keras v{version}") }
    }

    /// `keras_version` of the file that is written: it tells whose rules the layers follow.
    fn written_version(&self) -> String {
        let own = self.keras_version.as_deref();
        match (own.filter(|v| Dialect::from_version(v) == Some(self.dialect)), self.dialect) {
            // Layers of Keras 1 are written as those of Keras 2, which compute the same.
            (_, Dialect::Keras1) => "2.0.0".to_owned(),
            (Some(version), _) => version.to_owned(),
            (None, Dialect::Keras2) => "2.15.0".to_owned(),
            (None, Dialect::Keras3) => "3.0.0".to_owned(),
            (None, Dialect::Tfjs) => "tfjs-layers 4.22.0".to_owned(),
        }
    }

    fn written_topology(&self, draft: &draft::Draft) -> Value {
        let mut topology = Map::new();
        topology.insert("keras_version".to_owned(), self.written_version().into());
        // Kernels of other backends are turned round when they are read.
        let backend =
            self.backend.as_deref().map(|b| if b == "theano" || b == "cntk" { "tensorflow" } else { b });
        topology.extend(backend.map(|b| ("backend".to_owned(), b.into())));
        topology.insert("model_config".to_owned(), topology::model(draft));
        if let Some(training) = self.written_training_config() {
            topology.insert("training_config".to_owned(), training);
        }
        topology.into()
    }
}

impl SaveOptions {
    fn quantization(&self, name: &str, value: &Constant) -> Result<Option<QuantizeTo>> {
        if DType::from_proto(value.data_type()) != Some(DType::Float32) {
            return Ok(None);
        }
        let find = |q: &Quantizer| q(name).map_err(|source| LayersError::Quantization { source });
        Ok(self.quantize.as_ref().map(find).transpose()?.flatten())
    }
}

/// Weights of a draft by the layers of its outermost model.
type ByLayer<'d> = BTreeMap<&'d str, Vec<(String, &'d Constant)>>;
