//! What happens beside training: see [`Callback`].

/// Options of a callback that are set one after the other.
macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $field(self, $field: $type) -> Self {
            Self { $field: $field.into(), ..self }
        }
    )*};
}

mod backup_and_restore;
mod csv_logger;
mod early_stopping;
mod lambda;
mod learning_rate_scheduler;
mod model_checkpoint;
mod monitor;
mod path;
mod reduce_lr_on_plateau;
mod tensor_board;
mod terminate_on_nan;

use serde_json::Value;
use tfjs_kernels::Tensor;

pub use self::{
    backup_and_restore::BackupAndRestore,
    csv_logger::CsvLogger,
    early_stopping::EarlyStopping,
    lambda::LambdaCallback,
    learning_rate_scheduler::LearningRateScheduler,
    model_checkpoint::{ModelCheckpoint, SaveFreq},
    monitor::Mode,
    reduce_lr_on_plateau::ReduceLrOnPlateau,
    tensor_board::{TensorBoard, UpdateFreq},
    terminate_on_nan::TerminateOnNan,
};
use super::{Batch, History, Logs, objective::Totals};
use crate::{Dialect, LayersError, LayersModel, Metric};

type Result<T> = std::result::Result<T, LayersError>;

/// Told what happens in [`LayersModel::fit`]; it may look at the model, change its learning rate, save it, or end training.
pub trait Callback: std::fmt::Debug {
    /// Before all else: what takes up an earlier training again restores the model here, and sets
    /// [`Context::initial_epoch`].
    ///
    /// # Errors
    /// What is returned ends training.
    fn resume(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Before the first epoch.
    ///
    /// # Errors
    /// What is returned ends training.
    fn train_begin(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Before an epoch.
    ///
    /// # Errors
    /// What is returned ends training.
    fn epoch_begin(&mut self, _cx: &mut Context<'_>, _epoch: usize) -> Result<()> {
        Ok(())
    }

    /// Before a batch.
    ///
    /// # Errors
    /// What is returned ends training.
    fn batch_begin(&mut self, _cx: &mut Context<'_>, _batch: usize) -> Result<()> {
        Ok(())
    }

    /// After a batch. [`Context::logs`] computes the metrics of the epoch so far.
    ///
    /// # Errors
    /// What is returned ends training.
    fn batch_end(&mut self, _cx: &mut Context<'_>, _batch: usize) -> Result<()> {
        Ok(())
    }

    /// After an epoch and its validation. What is added to `logs` stands in the history.
    ///
    /// # Errors
    /// What is returned ends training.
    fn epoch_end(&mut self, _cx: &mut Context<'_>, _epoch: usize, _logs: &mut Logs) -> Result<()> {
        Ok(())
    }

    /// After an epoch, when all callbacks have seen its end: the time to write down the state of the training, which is
    /// [`Context::states`], [`Context::history`] and the model's. Not called when training was cancelled.
    ///
    /// # Errors
    /// What is returned ends training.
    fn checkpoint(&mut self, _cx: &mut Context<'_>, _epoch: usize) -> Result<()> {
        Ok(())
    }

    /// What this callback remembers from epoch to epoch, for a training that is taken up again.
    fn state(&self) -> CallbackState {
        CallbackState::default()
    }

    /// Takes back what [`Callback::state`] gave; called after [`Callback::train_begin`].
    ///
    /// # Errors
    /// When it is not a state of this callback.
    fn set_state(&mut self, _state: CallbackState) -> Result<()> {
        Ok(())
    }

    /// Values that it looks for in the logs. One that nobody makes is an error before the first step.
    fn watches(&self) -> Vec<String> {
        Vec::new()
    }

    /// What [`Callback::epoch_end`] adds to the logs of a model of this version; `None` if that is not known, so that
    /// whatever is watched may come from here.
    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        None
    }

    /// After the last epoch.
    ///
    /// # Errors
    /// What is returned is the result of training.
    fn train_end(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
}

/// What a callback remembers.
#[derive(Clone, Debug, Default)]
pub struct CallbackState {
    /// Numbers and words.
    pub values: Value,
    /// Tensors.
    pub tensors: Vec<Tensor>,
}

/// What a callback sees of training.
#[derive(Debug)]
pub struct Context<'m> {
    /// The model in training.
    pub model: &'m mut LayersModel,
    /// Epochs in all.
    pub epochs: usize,
    /// Batches per epoch, if that is known.
    pub steps: Option<usize>,
    /// Set in [`Callback::resume`], the epoch that a training taken up again goes on with.
    pub initial_epoch: Option<usize>,
    /// The epochs before this one.
    pub history: History,
    /// What callbacks remember, in their order; before each [`Callback::checkpoint`] as they are then. Set in
    /// [`Callback::resume`], they are what callbacks go on with.
    pub states: Vec<CallbackState>,
    totals: Totals,
    stop: Option<String>,
    cancelled: bool,
}

impl<'m> Context<'m> {
    pub(super) fn new(model: &'m mut LayersModel, epochs: usize, steps: Option<usize>) -> Context<'m> {
        Context {
            model,
            epochs,
            steps,
            initial_epoch: None,
            history: History::default(),
            states: Vec::new(),
            totals: Totals::default(),
            stop: None,
            cancelled: false,
        }
    }

    /// Loss and metrics of the epoch so far.
    ///
    /// # Errors
    /// When a metric cannot be computed.
    pub fn logs(&self) -> Result<Logs> {
        self.totals.logs()
    }

    /// The loss of the epoch so far, without the work of metrics.
    pub fn loss(&self) -> f64 {
        self.totals.loss()
    }

    /// A metric by its name in [`Context::logs`].
    pub(super) fn metric(&self, name: &str) -> Option<&Metric> {
        self.totals.metric(name)
    }

    /// Ends training after this batch or epoch.
    pub fn stop(&mut self, why: impl Into<String>) {
        self.stop.get_or_insert_with(|| why.into());
    }

    /// Why training ends, if it does.
    pub fn stopped(&self) -> Option<&str> {
        self.stop.as_deref()
    }

    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancelled
    }

    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(super) fn reset_metrics(&mut self) {
        self.totals = Totals::default();
    }

    pub(super) fn train(&mut self, batch: &Batch) -> Result<()> {
        self.model.train_step(batch, &mut self.totals, None)
    }
}
