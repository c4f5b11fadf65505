//! [`TerminateOnNan`].

use super::{Callback, Context, Result};
use crate::Dialect;

/// Ends training when the loss is infinite or not a number, and says which layer first was.
#[derive(Clone, Copy, Debug, Default)]
pub struct TerminateOnNan;

impl Callback for TerminateOnNan {
    fn batch_end(&mut self, cx: &mut Context<'_>, batch: usize) -> Result<()> {
        let loss = cx.loss();
        if loss.is_finite() {
            return Ok(());
        }
        let whence = match cx.model.first_bad_layer() {
            None => String::new(),
            Some("loss") => "; all layers were sound, the loss itself was not".to_owned(),
            Some(layer) => format!("; the first layer whose output was not finite is `{layer}`"),
        };
        cx.stop(format!("the loss was {loss} in batch {batch}{whence}"));
        Ok(())
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}
