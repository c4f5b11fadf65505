//! What happens beside training: see [`Callback`].

use super::{Batch, Logs, objective::Totals};
use crate::{LayersError, LayersModel};

type Result<T> = std::result::Result<T, LayersError>;

/// Told what happens in [`LayersModel::fit`]; it may look at the model, change its learning rate, save it, or end training.
pub trait Callback: std::fmt::Debug {
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

    /// After the last epoch.
    ///
    /// # Errors
    /// What is returned is the result of training.
    fn train_end(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
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
    /// Set in [`Callback::train_begin`], the epoch that a training taken up again goes on with.
    pub initial_epoch: Option<usize>,
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
