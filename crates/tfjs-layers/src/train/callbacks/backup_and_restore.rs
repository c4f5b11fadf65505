//! [`BackupAndRestore`].

use std::path::PathBuf;

use super::{Callback, Context, Result};
use crate::{Dialect, train::checkpoint::Checkpoint};

/// Backs the training up after each epoch, and takes it up again where it was interrupted: weights, the state of the
/// optimizer, the seed, the history and what callbacks remember. A training that goes on in the same way, with the same data
/// and options, ends with the same bits as one that was never interrupted.
#[derive(Clone, Debug)]
pub struct BackupAndRestore {
    /// A directory of its own.
    pub directory: PathBuf,
    /// Epochs from one backup to the next.
    pub every: usize,
    /// Whether a backup that is there is taken up; otherwise it is overwritten.
    pub restore: bool,
    /// Whether the backup is removed when training has come to its end.
    pub delete_checkpoint: bool,
}

impl BackupAndRestore {
    /// Keras's defaults.
    pub fn new(directory: impl Into<PathBuf>) -> BackupAndRestore {
        BackupAndRestore { directory: directory.into(), every: 1, restore: true, delete_checkpoint: true }
    }
}

impl Callback for BackupAndRestore {
    fn resume(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if !self.restore || !self.directory.join("model.json").exists() {
            return Ok(());
        }
        let checkpoint = Checkpoint::read(&self.directory)?;
        checkpoint.apply(cx)?;
        tracing::info!(epoch = cx.initial_epoch, "training taken up again");
        Ok(())
    }

    fn checkpoint(&mut self, cx: &mut Context<'_>, epoch: usize) -> Result<()> {
        // Nobody wants to go on from what is not a number.
        if !cx.loss().is_finite() {
            return Ok(());
        }
        let last = epoch + 1 == cx.epochs || cx.stopped().is_some();
        if last || (epoch + 1).is_multiple_of(self.every.max(1)) {
            Checkpoint::of(cx, epoch + 1)?.write(&self.directory)?;
        }
        Ok(())
    }

    fn train_end(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if self.delete_checkpoint && !cx.cancelled() { Checkpoint::remove(&self.directory) } else { Ok(()) }
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}
