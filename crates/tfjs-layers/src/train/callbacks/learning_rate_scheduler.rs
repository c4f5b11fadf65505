//! [`LearningRateScheduler`].

use std::fmt;

use super::{Callback, Context, Logs, Result};
use crate::Dialect;

/// Sets the learning rate before every epoch, from the epoch's number and the rate before.
///
/// ```
/// use tfjs_layers::LearningRateScheduler;
/// let halving = LearningRateScheduler::new(|epoch, rate| if epoch < 10 { rate } else { rate * 0.5 });
/// ```
pub struct LearningRateScheduler<F>(F);

impl<F: FnMut(usize, f64) -> f64> LearningRateScheduler<F> {
    /// From a function of the epoch (from 0) and the learning rate.
    pub fn new(schedule: F) -> LearningRateScheduler<F> {
        LearningRateScheduler(schedule)
    }
}

impl<F> fmt::Debug for LearningRateScheduler<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LearningRateScheduler")
    }
}

impl<F: FnMut(usize, f64) -> f64> Callback for LearningRateScheduler<F> {
    fn epoch_begin(&mut self, cx: &mut Context<'_>, epoch: usize) -> Result<()> {
        let optimizer = cx.model.optimizer_mut()?;
        let rate = (self.0)(epoch, optimizer.learning_rate());
        optimizer.set_learning_rate(rate)
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, _epoch: usize, logs: &mut Logs) -> Result<()> {
        log_rate(cx, logs)
    }

    fn adds(&self, dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(vec![rate_name(dialect)])
    }
}

/// Notes the learning rate under the name that the model's Keras has for it.
pub(super) fn log_rate(cx: &Context<'_>, logs: &mut Logs) -> Result<()> {
    logs.set(rate_name(cx.model.dialect()), cx.model.optimizer()?.learning_rate());
    Ok(())
}

/// What a version of Keras calls the learning rate in logs.
pub(super) fn rate_name(dialect: Dialect) -> &'static str {
    if dialect == Dialect::Keras3 { "learning_rate" } else { "lr" }
}
