//! [`ReduceLrOnPlateau`].

use serde_json::{Value, json};

use super::{
    Callback, CallbackState, Context, Logs, Mode, Result,
    learning_rate_scheduler::{log_rate, rate_name},
    monitor::{Asks, Monitor},
};
use crate::{Dialect, LayersError};

/// Lowers the learning rate when a value has stopped getting better.
#[derive(Clone, Debug)]
pub struct ReduceLrOnPlateau {
    monitor: String,
    factor: f64,
    patience: usize,
    mode: Mode,
    min_delta: f64,
    cooldown: usize,
    min_lr: f64,
    watched: Monitor,
    cooling: usize,
    wait: usize,
}

impl ReduceLrOnPlateau {
    /// Keras's defaults: a tenth after ten epochs.
    pub fn new(monitor: impl Into<String>) -> ReduceLrOnPlateau {
        ReduceLrOnPlateau {
            monitor: monitor.into(),
            factor: 0.1,
            patience: 10,
            mode: Mode::Auto,
            min_delta: 1e-4,
            cooldown: 0,
            min_lr: 0.0,
            watched: Monitor::new(Asks::ReduceLrOnPlateau, 1e-4),
            cooling: 0,
            wait: 0,
        }
    }

    setters! {
        /// What the learning rate is multiplied by.
        factor: f64,
        /// Epochs without a better value before that happens.
        patience: usize,
        /// Whether the value should become small or large.
        mode: Mode,
        /// A smaller change does not count.
        min_delta: f64,
        /// Epochs after a change in which nothing is counted.
        cooldown: usize,
        /// The learning rate does not fall below this.
        min_lr: f64,
    }
}

impl Callback for ReduceLrOnPlateau {
    fn train_begin(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        if self.factor.is_nan() || self.factor >= 1.0 {
            return Err(LayersError::Argument {
                argument: "factor".to_owned(),
                problem: format!("is {}, ReduceLROnPlateau takes one below 1", self.factor),
            });
        }
        self.watched = Monitor::new(Asks::ReduceLrOnPlateau, self.min_delta);
        (self.cooling, self.wait) = (0, 0);
        Ok(())
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, _epoch: usize, logs: &mut Logs) -> Result<()> {
        log_rate(cx, logs)?;
        let Some(current) = self.watched.current(cx, &self.monitor, self.mode, logs)? else { return Ok(()) };
        if self.cooling > 0 {
            self.cooling -= 1;
            self.wait = 0;
        }
        if self.watched.improve(current) {
            self.wait = 0;
        } else if self.cooling == 0 {
            self.wait += 1;
            let keras3 = cx.model.dialect() == Dialect::Keras3;
            let optimizer = cx.model.optimizer_mut()?;
            let rate = optimizer.learning_rate();
            if self.wait >= self.patience && rate > f64::from(self.min_lr as f32) {
                // Keras 2 multiplies in single precision.
                let lower =
                    if keras3 { rate * self.factor } else { f64::from(rate as f32 * self.factor as f32) };
                optimizer.set_learning_rate(lower.max(self.min_lr))?;
                tracing::info!(learning_rate = optimizer.learning_rate(), "learning rate lowered");
                (self.cooling, self.wait) = (self.cooldown, 0);
            }
        }
        Ok(())
    }

    fn state(&self) -> CallbackState {
        let values = json!({"wait": self.wait, "best": self.watched.best, "cooling": self.cooling});
        CallbackState { values, tensors: Vec::new() }
    }

    fn set_state(&mut self, state: CallbackState) -> Result<()> {
        let count = |key: &str| state.values[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        (self.wait, self.cooling) = (count("wait"), count("cooling"));
        self.watched.reset(state.values.get("best").and_then(Value::as_f64));
        Ok(())
    }

    fn watches(&self) -> Vec<String> {
        vec![self.monitor.clone()]
    }

    fn adds(&self, dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(vec![rate_name(dialect)])
    }
}
