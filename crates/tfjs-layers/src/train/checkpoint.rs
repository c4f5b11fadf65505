//! Weights with the state of a training in files: what a model is not needed for.

use std::{fs, path::Path, sync::Arc};

use serde_json::{Map, Value, json};
use tfjs_format::{
    DEFAULT_SHARD_SIZE, ModelFormat, ModelJson, ShardOptions, Weights,
    io::{DirectorySink, FileSource, ModelSink},
    proto::DataType,
};
use tfjs_graph::{Constant, WeightFile, tensor_from_bytes, write_group};
use tfjs_kernels::Tensor;

use super::{CallbackState, Context, History, Logs};
use crate::{LayersError, LayersModel, StoredWeight, WeightId, optimizers::StateNames};

type Result<T> = std::result::Result<T, LayersError>;

/// Key in `userDefinedMetadata`.
const KEY: &str = "training";

/// Groups of tensors.
const OPTIMIZER: &str = "optimizer";
const STATES: &str = "states";
const CALLBACKS: &str = "callbacks";

/// A training at the end of an epoch.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    weights: Vec<StoredWeight>,
    optimizer: Vec<StoredWeight>,
    /// What stateful layers left behind.
    states: Vec<StoredWeight>,
    callbacks: Vec<CallbackState>,
    values: Value,
    history: History,
}

impl LayersModel {
    /// All weights, in the order in which layers declared them.
    ///
    /// # Errors
    /// When one has no value or cannot be read.
    pub fn get_weights(&self) -> Result<Vec<Tensor>> {
        (0..self.params.weights.len()).map(|i| self.params.value(WeightId(i))).collect()
    }

    /// Sets all weights, in the order of [`LayersModel::get_weights`].
    ///
    /// # Errors
    /// When the number or a shape differs. All weights are then as before.
    pub fn set_weights(&mut self, weights: Vec<Tensor>) -> Result<()> {
        if weights.len() != self.params.weights.len() {
            let problem =
                format!("{} tensors, the model has {} weights", weights.len(), self.params.weights.len());
            return Err(LayersError::Argument { argument: "weights".to_owned(), problem });
        }
        for (weight, value) in self.params.weights.iter().zip(&weights) {
            if value.dims() != weight.shape.as_slice() {
                let (got, expected) = (value.dims().to_vec(), weight.shape.clone());
                return Err(LayersError::WeightShape { weight: weight.keras.clone(), got, expected });
            }
        }
        for (i, value) in weights.into_iter().enumerate() {
            self.params.put(WeightId(i), value);
        }
        self.forget_compiled();
        Ok(())
    }

    /// Writes the weights, and the state of the optimizer if the model is compiled, into a directory: `model.json` without a
    /// topology, and weight files. What was there is whole until it is replaced.
    ///
    /// # Errors
    /// When a weight cannot be read, or files cannot be written.
    pub fn save_weights(&self, directory: impl AsRef<Path>) -> Result<()> {
        Checkpoint::of_model(self)?.write(directory.as_ref())
    }

    /// Reads what [`LayersModel::save_weights`] wrote. The state of the optimizer is taken if the model is compiled.
    ///
    /// # Errors
    /// When files cannot be read, or are those of another model or optimizer.
    pub fn load_weights(&mut self, directory: impl AsRef<Path>) -> Result<()> {
        Checkpoint::read(directory.as_ref())?.restore(self)
    }
}

impl Checkpoint {
    fn of_model(model: &LayersModel) -> Result<Checkpoint> {
        let stored = |name: String, value: Tensor| StoredWeight {
            name,
            value: Constant::new(value.dtype().to_proto(), value),
        };
        let names = model.params.weights.iter().enumerate().map(|(i, w)| format!("{i}/{}", w.keras));
        let weights = names.zip(model.get_weights()?).map(|(name, value)| stored(name, value)).collect();
        let mut this = Checkpoint { weights, values: json!({}), ..Checkpoint::default() };
        let Some(training) = model.training.as_deref() else { return Ok(this) };
        this.optimizer = training.optimizer.state(StateNames::Variables)?;
        this.states = training.states.iter().map(|(name, t)| stored(name.clone(), t.clone())).collect();
        this.values = json!({
            "steps": training.steps,
            "seed": training.seed,
            "learning_rate": training.optimizer.learning_rate(),
        });
        Ok(this)
    }

    /// The training of which this many epochs are done.
    pub(super) fn of(cx: &Context<'_>, epochs: usize) -> Result<Checkpoint> {
        let mut this = Checkpoint::of_model(cx.model)?;
        this.values["epoch"] = epochs.into();
        this.values["stopped"] = cx.stopped().into();
        this.history = cx.history.clone();
        this.callbacks = cx.states.clone();
        Ok(this)
    }

    /// Puts weights and training back into the model.
    fn restore(self, model: &mut LayersModel) -> Result<()> {
        let own = model.params.weights.iter().enumerate().map(|(i, w)| format!("{i}/{}", w.keras));
        let other = own.zip(&self.weights).find(|(name, stored)| *name != stored.name);
        if let Some((name, stored)) = other {
            return Err(LayersError::Training(format!(
                "these are weights of another model: `{}` stands in the place of `{name}`",
                stored.name
            )));
        }
        if let Some(training) = model.training.as_deref_mut().filter(|_| !self.optimizer.is_empty()) {
            let mut optimizer = training.optimizer.clone();
            optimizer.set_state(&self.optimizer)?;
            if let Some(rate) = self.values["learning_rate"].as_f64()
                && rate != optimizer.learning_rate()
            {
                optimizer.set_learning_rate(rate)?;
            }
            training.optimizer = optimizer;
            training.steps = self.values["steps"].as_u64().unwrap_or_default();
            training.states = self
                .states
                .iter()
                .map(|s| Ok((s.name.clone(), read(s)?)))
                .collect::<Result<Vec<(String, Tensor)>>>()?;
        }
        model.set_weights(self.weights.iter().map(read).collect::<Result<_>>()?)
    }

    /// Lets the training go on from here.
    pub(super) fn apply(mut self, cx: &mut Context<'_>) -> Result<()> {
        let number = |key: &str| self.values[key].as_u64().and_then(|n| usize::try_from(n).ok());
        let Some(epoch) = number("epoch") else {
            let problem = "these files hold weights, not a training that could be taken up again";
            return Err(LayersError::Training(problem.to_owned()));
        };
        let (seed, own) = (self.values["seed"].as_i64().unwrap_or(0), cx.model.training_mut()?.seed);
        if seed != i64::from(own) {
            let problem = format!("the training that is taken up again has the seed {seed}, this one {own}");
            return Err(LayersError::Training(problem));
        }
        cx.initial_epoch = Some(epoch);
        cx.history = std::mem::take(&mut self.history);
        cx.states = std::mem::take(&mut self.callbacks);
        if let Some(why) = self.values["stopped"].as_str() {
            cx.stop(why);
        }
        self.restore(cx.model)
    }

    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let mut all: Vec<(String, Constant, Option<&str>)> = Vec::new();
        all.extend(self.weights.iter().map(|w| (w.name.clone(), w.value.clone(), None)));
        let optimizer = self.optimizer.iter().enumerate();
        all.extend(
            optimizer
                .map(|(i, w)| (format!("{OPTIMIZER}/{i}/{}", w.name), narrow(&w.value), Some(OPTIMIZER))),
        );
        all.extend(
            self.states.iter().map(|w| (format!("{STATES}/{}", w.name), w.value.clone(), Some(STATES))),
        );
        for (i, state) in self.callbacks.iter().enumerate() {
            for (k, tensor) in state.tensors.iter().enumerate() {
                let value = Constant::new(tensor.dtype().to_proto(), tensor.clone());
                all.push((format!("{CALLBACKS}/{i}/{k}"), value, Some(CALLBACKS)));
            }
        }
        let mut files = Vec::with_capacity(all.len());
        for (name, value, group) in &all {
            let mut file = WeightFile::new(name, value, None)?;
            if let Some(group) = group {
                file.spec_mut().extra.insert("group".to_owned(), (*group).into());
            }
            files.push(file);
        }
        let mut sink = DirectorySink::create(directory)?.replacing_at_once();
        let shards = ShardOptions { size: DEFAULT_SHARD_SIZE, sha256: false };
        let (group, _) = write_group(1, files, &mut sink, shards, &mut |_| {})?;
        let mut values = self.values.clone();
        values["callbacks"] = self.callbacks.iter().map(|c| c.values.clone()).collect();
        values["history"] = history_to_json(&self.history);
        let json = ModelJson {
            format: Some(ModelFormat::LayersModel),
            user_defined_metadata: Some(Map::from_iter([(KEY.to_owned(), values)])),
            weights_manifest: vec![group],
            ..ModelJson::default()
        };
        sink.finish(&json.to_json()?)?;
        Ok(())
    }

    pub(super) fn read(directory: &Path) -> Result<Checkpoint> {
        let source = FileSource::open(directory)?;
        let model = ModelJson::load(&source)?;
        let values = model.user_defined_metadata.and_then(|m| m.get(KEY).cloned()).unwrap_or_default();
        let weights = Arc::new(Weights::open(&source, &model.weights_manifest)?);
        let mut this = Checkpoint { history: history_from_json(&values["history"]), ..Checkpoint::default() };
        let states = values["callbacks"].as_array().cloned().unwrap_or_default();
        this.callbacks =
            states.into_iter().map(|values| CallbackState { values, tensors: Vec::new() }).collect();
        for spec in weights.specs() {
            let tensor = tensor_from_bytes(&weights.get(&spec.name)?)?;
            let group = spec.extra.get("group").and_then(Value::as_str);
            let name = match group {
                Some(group) => {
                    spec.name.strip_prefix(group).map_or(&*spec.name, |n| n.trim_start_matches('/'))
                }
                None => &spec.name,
            };
            if group == Some(CALLBACKS) {
                let state = name.split_once('/').and_then(|(i, _)| i.parse::<usize>().ok());
                if let Some(state) = state.and_then(|i| this.callbacks.get_mut(i)) {
                    state.tensors.push(tensor);
                }
                continue;
            }
            let to = match group {
                Some(OPTIMIZER) => &mut this.optimizer,
                Some(STATES) => &mut this.states,
                _ => &mut this.weights,
            };
            let name =
                if group == Some(OPTIMIZER) { name.split_once('/').map_or(name, |(_, n)| n) } else { name };
            let value = Constant::new(tensor.dtype().to_proto(), tensor);
            to.push(StoredWeight { name: name.to_owned(), value });
        }
        this.values = values;
        Ok(this)
    }

    /// Removes what [`Checkpoint::write`] wrote, and the directory if nothing else is in it.
    pub(super) fn remove(directory: &Path) -> Result<()> {
        let failed = |source| LayersError::File { action: "remove", path: directory.to_owned(), source };
        let text = directory.join("model.json");
        if !text.exists() {
            return Ok(());
        }
        let model = ModelJson::load(&FileSource::open(directory)?)?;
        fs::remove_file(text).map_err(failed)?;
        for path in model.weights_manifest.into_iter().flat_map(|g| g.paths) {
            fs::remove_file(directory.join(path)).map_err(failed)?;
        }
        // It stays if other files are in it.
        let _ = fs::remove_dir(directory);
        Ok(())
    }
}

/// TF.js has no type for Keras's counters.
fn narrow(value: &Constant) -> Constant {
    match (value.data_type(), value.tensor()) {
        (DataType::DtInt64, Ok(tensor)) => Constant::new(DataType::DtInt32, tensor),
        _ => value.clone(),
    }
}

fn read(stored: &StoredWeight) -> Result<Tensor> {
    stored.value.tensor().map_err(|source| LayersError::WeightValue { weight: stored.name.clone(), source })
}

fn history_to_json(history: &History) -> Value {
    // JSON has no words for what is not a number.
    let number = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    let logs = |logs: &Logs| Value::Object(logs.iter().map(|(n, v)| (n.to_owned(), number(v))).collect());
    let epochs = history.epochs.iter().zip(&history.logs);
    epochs.map(|(epoch, l)| json!({"epoch": epoch, "logs": logs(l)})).collect()
}

fn history_from_json(value: &Value) -> History {
    let mut history = History::default();
    for row in value.as_array().into_iter().flatten() {
        let mut logs = Logs::default();
        for (name, value) in row["logs"].as_object().into_iter().flatten() {
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            logs.set(name, number.unwrap_or(f64::NAN));
        }
        history.epochs.push(row["epoch"].as_u64().and_then(|e| usize::try_from(e).ok()).unwrap_or_default());
        history.logs.push(logs);
    }
    history
}
