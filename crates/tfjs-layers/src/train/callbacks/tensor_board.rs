//! [`TensorBoard`].

mod events;

use std::path::PathBuf;

use serde_json::json;

use self::events::Writer;
use super::{Callback, CallbackState, Context, Logs, Result};
use crate::Dialect;

/// How often batches are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateFreq {
    /// Not at all: only epochs are.
    #[default]
    Epoch,
    /// After so many batches.
    Batches(usize),
}

/// Writes loss and metrics as event files for TensorBoard, where Keras writes them: `train` and `validation` below the
/// directory, `epoch_loss` and so on by epoch, `batch_loss` and so on by batch, `evaluation_loss_vs_iterations` by step.
#[derive(Debug)]
pub struct TensorBoard {
    log_dir: PathBuf,
    update_freq: UpdateFreq,
    train: Option<Writer>,
    validation: Option<Writer>,
    batches: u64,
}

impl TensorBoard {
    /// Writes after each epoch.
    pub fn new(log_dir: impl Into<PathBuf>) -> TensorBoard {
        TensorBoard {
            log_dir: log_dir.into(),
            update_freq: UpdateFreq::Epoch,
            train: None,
            validation: None,
            batches: 0,
        }
    }

    setters! {
        /// How often batches are written.
        update_freq: UpdateFreq,
    }

    fn write(&mut self, run: &str, step: u64, tag: &str, value: f64) -> Result<()> {
        let slot = if run == "train" { &mut self.train } else { &mut self.validation };
        let writer = match slot {
            Some(writer) => writer,
            None => slot.insert(Writer::create(&self.log_dir.join(run))?),
        };
        writer.scalar(step, tag, value)
    }

    fn flush(&mut self) -> Result<()> {
        [&mut self.train, &mut self.validation].into_iter().flatten().try_for_each(Writer::flush)
    }
}

impl Callback for TensorBoard {
    fn train_begin(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        (self.train, self.validation, self.batches) = (None, None, 0);
        Ok(())
    }

    fn batch_end(&mut self, cx: &mut Context<'_>, _batch: usize) -> Result<()> {
        self.batches += 1;
        let UpdateFreq::Batches(every) = self.update_freq else { return Ok(()) };
        let step = self.batches;
        if step.is_multiple_of(every.max(1) as u64) {
            for (name, value) in cx.logs()?.iter() {
                self.write("train", step, &format!("batch_{name}"), value)?;
            }
        }
        Ok(())
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, epoch: usize, logs: &mut Logs) -> Result<()> {
        let iterations = cx.model.optimizer()?.iterations();
        for (name, value) in logs.iter() {
            match name.strip_prefix("val_") {
                Some(name) => {
                    let by_steps = format!("evaluation_{name}_vs_iterations");
                    self.write("validation", iterations, &by_steps, value)?;
                    self.write("validation", epoch as u64, &format!("epoch_{name}"), value)?;
                }
                None => self.write("train", epoch as u64, &format!("epoch_{name}"), value)?,
            }
        }
        if cx.model.dialect() == Dialect::Keras3 && logs.get("learning_rate").is_none() {
            let rate = cx.model.optimizer()?.learning_rate();
            self.write("train", epoch as u64, "epoch_learning_rate", rate)?;
        }
        self.flush()
    }

    fn train_end(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        let flushed = self.flush();
        (self.train, self.validation) = (None, None);
        flushed
    }

    fn state(&self) -> CallbackState {
        CallbackState { values: json!({"batches": self.batches}), tensors: Vec::new() }
    }

    fn set_state(&mut self, state: CallbackState) -> Result<()> {
        self.batches = state.values["batches"].as_u64().unwrap_or(0);
        Ok(())
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}
