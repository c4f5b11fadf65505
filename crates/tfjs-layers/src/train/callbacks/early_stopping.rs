//! [`EarlyStopping`].

use serde_json::{Value, json};
use tfjs_kernels::Tensor;

use super::{
    Callback, CallbackState, Context, Logs, Mode, Result,
    monitor::{Asks, Monitor},
};
use crate::Dialect;

/// Ends training when a value has stopped getting better.
///
/// ```
/// use tfjs_layers::EarlyStopping;
/// let stop = EarlyStopping::new("val_loss").patience(3).restore_best_weights(true);
/// ```
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    monitor: String,
    min_delta: f64,
    patience: usize,
    mode: Mode,
    baseline: Option<f64>,
    restore_best_weights: bool,
    start_from_epoch: usize,
    watched: Monitor,
    wait: usize,
    best_epoch: usize,
    best_weights: Option<Vec<Tensor>>,
}

impl EarlyStopping {
    /// Keras's defaults: no patience.
    pub fn new(monitor: impl Into<String>) -> EarlyStopping {
        EarlyStopping {
            monitor: monitor.into(),
            min_delta: 0.0,
            patience: 0,
            mode: Mode::Auto,
            baseline: None,
            restore_best_weights: false,
            start_from_epoch: 0,
            watched: Monitor::new(Asks::EarlyStopping, 0.0),
            wait: 0,
            best_epoch: 0,
            best_weights: None,
        }
    }

    setters! {
        /// A smaller change does not count.
        min_delta: f64,
        /// Epochs without a better value before training ends.
        patience: usize,
        /// Whether the value should become small or large.
        mode: Mode,
        /// What the value has to be better than.
        baseline: f64,
        /// Whether the weights are at the end those of the best epoch.
        restore_best_weights: bool,
        /// The first epoch in which the value is watched.
        start_from_epoch: usize,
    }

    /// The best epoch so far, from 0.
    pub fn best_epoch(&self) -> usize {
        self.best_epoch
    }
}

impl Callback for EarlyStopping {
    fn train_begin(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        self.watched = Monitor::new(Asks::EarlyStopping, self.min_delta.abs());
        (self.wait, self.best_epoch, self.best_weights) = (0, 0, None);
        Ok(())
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, epoch: usize, logs: &mut Logs) -> Result<()> {
        let current = self.watched.current(cx, &self.monitor, self.mode, logs)?;
        let Some(current) = current.filter(|_| epoch >= self.start_from_epoch) else { return Ok(()) };
        if self.restore_best_weights && self.best_weights.is_none() {
            (self.best_weights, self.best_epoch) = (Some(cx.model.get_weights()?), epoch);
        }
        self.wait += 1;
        if self.watched.improve(current) {
            self.best_epoch = epoch;
            if self.restore_best_weights {
                self.best_weights = Some(cx.model.get_weights()?);
            }
            if self.baseline.is_none_or(|baseline| self.watched.improves(current, Some(baseline))) {
                self.wait = 0;
            }
        } else if self.wait >= self.patience && epoch > 0 {
            cx.stop(format!(
                "`{}` was {current:.6} and no better than {:.6} in epoch {}",
                self.monitor,
                self.watched.best.unwrap_or(f64::NAN),
                self.best_epoch + 1
            ));
        }
        Ok(())
    }

    fn train_end(&mut self, cx: &mut Context<'_>) -> Result<()> {
        match self.best_weights.take() {
            Some(weights) => cx.model.set_weights(weights),
            None => Ok(()),
        }
    }

    fn state(&self) -> CallbackState {
        let values = json!({"wait": self.wait, "best": self.watched.best, "best_epoch": self.best_epoch});
        CallbackState { values, tensors: self.best_weights.clone().unwrap_or_default() }
    }

    fn set_state(&mut self, state: CallbackState) -> Result<()> {
        let count = |key: &str| state.values[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        (self.wait, self.best_epoch) = (count("wait"), count("best_epoch"));
        self.watched.reset(state.values.get("best").and_then(Value::as_f64));
        self.best_weights = Some(state.tensors).filter(|t| !t.is_empty() && self.restore_best_weights);
        Ok(())
    }

    fn watches(&self) -> Vec<String> {
        vec![self.monitor.clone()]
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}
