//! [`LambdaCallback`].

use std::fmt;

use super::{Callback, Context, Logs, Result};
use crate::Dialect;

type Plain<'c> = Box<dyn FnMut(&mut Context<'_>) -> Result<()> + 'c>;
type Numbered<'c> = Box<dyn FnMut(&mut Context<'_>, usize) -> Result<()> + 'c>;
type Logged<'c> = Box<dyn FnMut(&mut Context<'_>, usize, &mut Logs) -> Result<()> + 'c>;

/// A callback of functions.
///
/// ```
/// use tfjs_layers::LambdaCallback;
/// let mut losses = Vec::new();
/// let notes = LambdaCallback::new().on_epoch_end(|_cx, _epoch, logs| {
///     losses.extend(logs.get("loss"));
///     Ok(())
/// });
/// ```
#[derive(Default)]
pub struct LambdaCallback<'c> {
    train_begin: Option<Plain<'c>>,
    train_end: Option<Plain<'c>>,
    epoch_begin: Option<Numbered<'c>>,
    epoch_end: Option<Logged<'c>>,
    batch_begin: Option<Numbered<'c>>,
    batch_end: Option<Numbered<'c>>,
}

impl<'c> LambdaCallback<'c> {
    /// Does nothing yet.
    pub fn new() -> LambdaCallback<'c> {
        LambdaCallback::default()
    }

    /// Called before the first epoch.
    #[must_use]
    pub fn on_train_begin(self, f: impl FnMut(&mut Context<'_>) -> Result<()> + 'c) -> LambdaCallback<'c> {
        LambdaCallback { train_begin: Some(Box::new(f)), ..self }
    }

    /// Called after the last epoch.
    #[must_use]
    pub fn on_train_end(self, f: impl FnMut(&mut Context<'_>) -> Result<()> + 'c) -> LambdaCallback<'c> {
        LambdaCallback { train_end: Some(Box::new(f)), ..self }
    }

    /// Called before an epoch, with its number.
    #[must_use]
    pub fn on_epoch_begin(
        self,
        f: impl FnMut(&mut Context<'_>, usize) -> Result<()> + 'c,
    ) -> LambdaCallback<'c> {
        LambdaCallback { epoch_begin: Some(Box::new(f)), ..self }
    }

    /// Called after an epoch, with its number, loss and metrics.
    #[must_use]
    pub fn on_epoch_end(
        self,
        f: impl FnMut(&mut Context<'_>, usize, &mut Logs) -> Result<()> + 'c,
    ) -> LambdaCallback<'c> {
        LambdaCallback { epoch_end: Some(Box::new(f)), ..self }
    }

    /// Called before a batch, with its number.
    #[must_use]
    pub fn on_batch_begin(
        self,
        f: impl FnMut(&mut Context<'_>, usize) -> Result<()> + 'c,
    ) -> LambdaCallback<'c> {
        LambdaCallback { batch_begin: Some(Box::new(f)), ..self }
    }

    /// Called after a batch, with its number.
    #[must_use]
    pub fn on_batch_end(
        self,
        f: impl FnMut(&mut Context<'_>, usize) -> Result<()> + 'c,
    ) -> LambdaCallback<'c> {
        LambdaCallback { batch_end: Some(Box::new(f)), ..self }
    }
}

impl fmt::Debug for LambdaCallback<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LambdaCallback")
    }
}

impl Callback for LambdaCallback<'_> {
    fn train_begin(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.train_begin.as_mut().map_or(Ok(()), |f| f(cx))
    }

    fn epoch_begin(&mut self, cx: &mut Context<'_>, epoch: usize) -> Result<()> {
        self.epoch_begin.as_mut().map_or(Ok(()), |f| f(cx, epoch))
    }

    fn batch_begin(&mut self, cx: &mut Context<'_>, batch: usize) -> Result<()> {
        self.batch_begin.as_mut().map_or(Ok(()), |f| f(cx, batch))
    }

    fn batch_end(&mut self, cx: &mut Context<'_>, batch: usize) -> Result<()> {
        self.batch_end.as_mut().map_or(Ok(()), |f| f(cx, batch))
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, epoch: usize, logs: &mut Logs) -> Result<()> {
        self.epoch_end.as_mut().map_or(Ok(()), |f| f(cx, epoch, logs))
    }

    fn train_end(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.train_end.as_mut().map_or(Ok(()), |f| f(cx))
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        self.epoch_end.is_none().then(Vec::new)
    }
}
