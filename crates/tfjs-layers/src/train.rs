//! Training: [`LayersModel::compile`], [`LayersModel::fit`], [`LayersModel::evaluate`] and single steps.
//!
//! A step is one run of one graph: the layers in the phase of training, losses, metrics and gradients, with the weights as
//! inputs. Then the optimizer changes the weights in place, and constraints are applied.

mod batch;
mod callbacks;
mod checkpoint;
mod data;
mod files;
mod fit;
mod objective;
mod step;

use serde_json::Value;
use tfjs_graph::op::Profile;
use tfjs_kernels::Tensor;
use tracing::{debug, warn};

pub use self::{
    batch::{Batch, ClassWeight},
    callbacks::{
        BackupAndRestore, Callback, CallbackState, Context, CsvLogger, EarlyStopping, LambdaCallback,
        LearningRateScheduler, Mode, ModelCheckpoint, ReduceLrOnPlateau, SaveFreq, TensorBoard,
        TerminateOnNan, UpdateFreq,
    },
    data::{Arrays, Dataset, Stream},
    files::TrainingState,
    fit::{FitOptions, History, Validation},
};
use self::{
    objective::{Objective, Totals},
    step::{Step, StepOutputs},
};
use crate::{LayersError, LayersModel, Optimizer, Weight, WeightId, optimizers::Grad};

type Result<T> = std::result::Result<T, LayersError>;

/// Graphs are made for the shapes of a batch. After so many different shapes one is made for all that are left.
const EXACT_GRAPHS: usize = 4;

/// What is trained, as Keras writes it: names, or objects with `class_name` and `config`; one for all outputs, a list with
/// one per output, or an object by the outputs' names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compile {
    /// Losses.
    pub loss: Value,
    /// What each output's loss is multiplied by.
    pub loss_weights: Value,
    /// Metrics, which do not see the weights of samples.
    pub metrics: Value,
    /// Metrics that do.
    pub weighted_metrics: Value,
}

/// Loss and metrics of a batch or an epoch, by name and in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logs(Vec<(String, f64)>);

impl Logs {
    /// A value by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// All, the loss first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }

    /// Adds a value, or changes it.
    pub fn set(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => *v = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

/// A compiled model's optimizer and graphs.
#[derive(Debug)]
pub(crate) struct Training {
    pub(crate) optimizer: Optimizer,
    pub(crate) compile: Compile,
    /// Seed of dropouts, noise and the order of samples.
    pub(crate) seed: i32,
    /// Steps so far.
    pub(crate) steps: u64,
    /// Weights that the optimizer changes, in Keras's order.
    trainable: Vec<WeightId>,
    graphs: Vec<Step>,
    /// The layer that first made something that is no number.
    bad_layer: Option<String>,
    /// What stateful layers left behind.
    states: Vec<(String, Tensor)>,
}

impl LayersModel {
    /// Says what to train for and how. An optimizer, loss or metric is one of this crate's, or a name that Keras knows.
    ///
    /// ```
    /// use tfjs_layers::{Optimizer, build::{Dense, Sequential}};
    /// let mut model = Sequential::new().add(Dense::new(3).activation("softmax").input_shape([4])).build(7)?;
    /// model.compile(Optimizer::adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])?;
    /// # Ok::<(), tfjs_layers::LayersError>(())
    /// ```
    ///
    /// # Errors
    /// When a name is not known to the model's version of Keras.
    pub fn compile<M: Into<Value>>(
        &mut self,
        optimizer: impl Into<Optimizer>,
        loss: impl Into<Value>,
        metrics: impl IntoIterator<Item = M>,
    ) -> Result<()> {
        let metrics = Value::Array(metrics.into_iter().map(Into::into).collect());
        self.compile_with(optimizer.into(), Compile { loss: loss.into(), metrics, ..Compile::default() })
    }

    /// As [`LayersModel::compile`], with all that Keras has.
    ///
    /// # Errors
    /// As [`LayersModel::compile`].
    pub fn compile_with(&mut self, optimizer: Optimizer, compile: Compile) -> Result<()> {
        let mut optimizer = optimizer.for_dialect(self.dialect)?;
        optimizer.build(&self.trainable_shapes())?;
        self.params.load()?;
        self.training = Some(Box::new(self.compiled_with(optimizer, compile)?));
        Ok(())
    }

    fn compiled_with(&self, optimizer: Optimizer, compile: Compile) -> Result<Training> {
        Objective::new(&compile, &self.output_names(), self.dialect)?;
        Ok(Training {
            optimizer,
            compile,
            seed: self.training.as_ref().map_or(0, |t| t.seed),
            steps: 0,
            trainable: self.trainable_weights(),
            graphs: Vec::new(),
            bad_layer: None,
            states: Vec::new(),
        })
    }

    /// Names and shapes of the weights that training changes.
    fn trainable_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let weights = self.trainable_weights().into_iter().map(|id| self.params.get(id));
        weights.map(|w| (w.keras.clone(), w.shape.clone())).collect()
    }

    /// Weights that training changes, in Keras's order.
    pub fn trainable_weights(&self) -> Vec<WeightId> {
        self.weights().filter(|(_, w)| w.trainable).map(|(id, _)| id).collect()
    }

    /// Whether the model was compiled for training.
    pub fn is_compiled(&self) -> bool {
        self.training.is_some()
    }

    /// The optimizer with its state.
    ///
    /// # Errors
    /// When the model is not compiled.
    pub fn optimizer(&self) -> Result<&Optimizer> {
        Ok(&self.training.as_deref().ok_or(LayersError::NotCompiled)?.optimizer)
    }

    /// The optimizer, to be changed: its learning rate for example.
    ///
    /// # Errors
    /// When the model is not compiled.
    pub fn optimizer_mut(&mut self) -> Result<&mut Optimizer> {
        Ok(&mut self.training_mut()?.optimizer)
    }

    /// The seed of dropouts, noise and the order of samples in [`LayersModel::fit`]; 0 if nothing else is said.
    ///
    /// # Errors
    /// When the model is not compiled.
    pub fn set_seed(&mut self, seed: i32) -> Result<()> {
        let training = self.training_mut()?;
        training.seed = seed;
        training.graphs.clear();
        Ok(())
    }

    /// Steps trained since the model was compiled, those of an earlier training that it continues included.
    pub fn steps(&self) -> u64 {
        self.training.as_ref().map_or(0, |t| t.steps)
    }

    /// The first layer whose output was infinite or not a number, in the step where the loss first was; "loss" if all
    /// layers were sound.
    pub fn first_bad_layer(&self) -> Option<&str> {
        self.training.as_ref()?.bad_layer.as_deref()
    }

    pub(crate) fn training_mut(&mut self) -> Result<&mut Training> {
        self.training.as_deref_mut().ok_or(LayersError::NotCompiled)
    }

    /// One step: the loss and the metrics of this batch, before the weights change.
    ///
    /// # Errors
    /// When the model is not compiled, inputs or labels do not fit, or a node fails. The weights are then as before.
    pub fn train_on_batch(&mut self, batch: &Batch) -> Result<Logs> {
        let mut totals = Totals::default();
        self.train_step(batch, &mut totals, None)?;
        totals.logs()
    }

    /// As [`LayersModel::train_on_batch`], adding the time spent in each node of the graph to `profile`.
    ///
    /// # Errors
    /// As [`LayersModel::train_on_batch`].
    pub fn train_on_batch_profiled(&mut self, batch: &Batch, profile: &mut Profile) -> Result<Logs> {
        let mut totals = Totals::default();
        self.train_step(batch, &mut totals, Some(profile))?;
        totals.logs()
    }

    /// The loss and the metrics of a batch, without training.
    ///
    /// # Errors
    /// As [`LayersModel::train_on_batch`].
    pub fn test_on_batch(&mut self, batch: &Batch) -> Result<Logs> {
        let mut totals = Totals::default();
        self.test_step(batch, &mut totals)?;
        totals.logs()
    }

    /// One step, its loss and metrics added to `totals`.
    pub(crate) fn train_step(
        &mut self,
        batch: &Batch,
        totals: &mut Totals,
        profile: Option<&mut Profile>,
    ) -> Result<()> {
        let outputs = self.run_step(batch, true, profile)?;
        let training = self.training.as_deref_mut().ok_or(LayersError::NotCompiled)?;
        // A weight may be trained and replaced by its layer, as spectral normalisation does: its gradient is that of what
        // replaces it.
        for (id, value) in outputs.updates {
            self.params.put(id, value);
        }
        // The optimizer works in place: while it does, the model does not hold the weights.
        let mut weights = Vec::with_capacity(training.trainable.len());
        for &id in &training.trainable {
            weights.push(self.params.take(id)?);
        }
        let mut result = training.optimizer.apply(&mut weights, &outputs.gradients);
        for (&id, mut weight) in training.trainable.iter().zip(weights) {
            if result.is_ok() {
                result = constrain(self.params.get(id), &mut weight);
            }
            self.params.put(id, weight);
        }
        result?;
        training.states = outputs.states;
        training.bad_layer = outputs.bad_layer.or(training.bad_layer.take());
        training.steps += 1;
        self.forget_compiled();
        totals.add(&outputs.report);
        Ok(())
    }

    /// Evaluates a batch, its loss and metrics added to `totals`.
    pub(crate) fn test_step(&mut self, batch: &Batch, totals: &mut Totals) -> Result<()> {
        let outputs = self.run_step(batch, false, None)?;
        totals.add(&outputs.report);
        Ok(())
    }

    fn run_step(&mut self, batch: &Batch, train: bool, profile: Option<&mut Profile>) -> Result<StepOutputs> {
        let batch = batch.prepared(self)?;
        let training = self.training.as_deref_mut().ok_or(LayersError::NotCompiled)?;
        let mut graphs = std::mem::take(&mut training.graphs);
        let result = self.step_in(&mut graphs, &batch, train, profile);
        if let Some(training) = self.training.as_deref_mut() {
            training.graphs = graphs;
        }
        result
    }

    fn step_in(
        &self,
        graphs: &mut Vec<Step>,
        batch: &Batch,
        train: bool,
        profile: Option<&mut Profile>,
    ) -> Result<StepOutputs> {
        let training = self.training.as_deref().ok_or(LayersError::NotCompiled)?;
        let at = self.graph_for(graphs, training, batch, train)?;
        let mut outputs = graphs[at].run(self, training, batch, profile)?;
        if train && !outputs.report.loss.is_finite() && training.bad_layer.is_none() {
            outputs.bad_layer = graphs[at].first_bad_layer(self, training, batch)?;
            warn!(
                step = training.steps,
                loss = outputs.report.loss,
                layer = outputs.bad_layer,
                "the loss is not a number"
            );
        }
        Ok(outputs)
    }

    /// Place of the graph for such a batch, which is made if there is none yet.
    fn graph_for(
        &self,
        graphs: &mut Vec<Step>,
        training: &Training,
        batch: &Batch,
        train: bool,
    ) -> Result<usize> {
        if let Some(at) = graphs.iter().position(|g| g.fits(batch, train)) {
            return Ok(at);
        }
        let exact = graphs.iter().filter(|g| g.train == train).count() < EXACT_GRAPHS;
        let step = Step::new(self, training, batch, train, exact)?;
        debug!(train, exact, "graph of a step made");
        graphs.push(step);
        Ok(graphs.len() - 1)
    }

    /// Does something with the graph for such a batch.
    fn step_for(&mut self, batch: &Batch, train: bool, f: impl FnOnce(&Step) -> Result<()>) -> Result<()> {
        let training = self.training.as_deref_mut().ok_or(LayersError::NotCompiled)?;
        let mut graphs = std::mem::take(&mut training.graphs);
        let training = self.training.as_deref().ok_or(LayersError::NotCompiled)?;
        let result = self.graph_for(&mut graphs, training, batch, train).and_then(|at| f(&graphs[at]));
        if let Some(training) = self.training.as_deref_mut() {
            training.graphs = graphs;
        }
        result
    }
}

/// Applies the constraint of a weight, if it has one.
fn constrain(weight: &Weight, value: &mut Tensor) -> Result<()> {
    let (Some(constraint), Tensor::F32(value)) = (&weight.constraint, value) else { return Ok(()) };
    let dims = value.dims().to_vec();
    constraint.apply(&dims, value.data_mut())
}
