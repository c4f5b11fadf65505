//! [`ModelCheckpoint`].

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tfjs_format::io::DirectorySink;

use super::{
    Callback, CallbackState, Context, Logs, Mode, Result,
    monitor::{Asks, Monitor},
    path::{Number, Template},
};
use crate::{Dialect, LayersError, LayersModel, SaveOptions};

/// When a model is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFreq {
    /// After each epoch.
    #[default]
    Epoch,
    /// After so many batches.
    Batches(usize),
}

type Saver<'s> = Box<dyn FnMut(&LayersModel, &Path) -> Result<()> + 's>;

/// Saves the model while it is trained: after each epoch, or when it was better than before. A save that is interrupted
/// leaves what was there.
///
/// ```
/// use tfjs_layers::ModelCheckpoint;
/// let each = ModelCheckpoint::new("models/{epoch:02d}-{val_loss:.2f}");
/// let best = ModelCheckpoint::new("best").save_best_only(true);
/// ```
pub struct ModelCheckpoint<'s> {
    path: String,
    monitor: String,
    mode: Mode,
    save_best_only: bool,
    save_freq: SaveFreq,
    initial_value_threshold: Option<f64>,
    save: Saver<'s>,
    watched: Monitor,
    template: Option<Template>,
    epoch: usize,
    batches: usize,
    last: Option<PathBuf>,
}

impl<'s> ModelCheckpoint<'s> {
    /// Saves the whole model after each epoch, with the state of its optimizer, into a directory as TF.js has it. In the
    /// path `{epoch}` (from 1), `{batch}` and names of logs may stand, with formats as in Python.
    pub fn new(path: impl Into<String>) -> ModelCheckpoint<'s> {
        ModelCheckpoint {
            path: path.into(),
            monitor: "val_loss".to_owned(),
            mode: Mode::Auto,
            save_best_only: false,
            save_freq: SaveFreq::Epoch,
            initial_value_threshold: None,
            save: Box::new(save),
            watched: Monitor::new(Asks::ModelCheckpoint, 0.0),
            template: None,
            epoch: 0,
            batches: 0,
            last: None,
        }
    }

    setters! {
        /// The value that says which model is best.
        monitor: &str,
        /// Whether it should become small or large.
        mode: Mode,
        /// Whether only models are saved that are better than all before.
        save_best_only: bool,
        /// When to save.
        save_freq: SaveFreq,
        /// What the first model has to be better than.
        initial_value_threshold: f64,
    }

    /// Saves weights and the state of the optimizer only, for [`LayersModel::load_weights`].
    #[must_use]
    pub fn weights_only(self) -> ModelCheckpoint<'s> {
        self.saving_with(|model, path| model.save_weights(path))
    }

    /// Saves in another way: into another format, for example.
    #[must_use]
    pub fn saving_with(
        self,
        save: impl FnMut(&LayersModel, &Path) -> Result<()> + 's,
    ) -> ModelCheckpoint<'s> {
        ModelCheckpoint { save: Box::new(save), ..self }
    }

    /// Where the last model went.
    pub fn last(&self) -> Option<&Path> {
        self.last.as_deref()
    }

    /// Saves the model if it is to be saved.
    fn step(&mut self, cx: &Context<'_>, batch: Option<usize>, logs: &Logs) -> Result<()> {
        if self.save_best_only {
            // A value that is not measured does not keep Keras 3 from saving; Keras 2 skips the epoch.
            match self.watched.current(cx, &self.monitor, self.mode, logs)? {
                Some(value) if !self.watched.improve(value) => return Ok(()),
                None if cx.model.dialect() != Dialect::Keras3 => return Ok(()),
                _ => {}
            }
        }
        let template = match &self.template {
            Some(template) => template,
            None => self.template.insert(Template::parse(&self.path)?),
        };
        let value = |name: &str| match (name, batch) {
            ("epoch", _) => Some(Number::Whole(self.epoch + 1)),
            ("batch", Some(batch)) => Some(Number::Whole(batch + 1)),
            _ => logs.get(name).map(Number::Real),
        };
        let known: Vec<&str> = std::iter::once("epoch").chain(logs.iter().map(|(name, _)| name)).collect();
        let path = PathBuf::from(template.fill(value, &known)?);
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|source| LayersError::File {
                action: "create",
                path: parent.to_owned(),
                source,
            })?;
        }
        (self.save)(cx.model, &path)?;
        self.last = Some(path);
        Ok(())
    }
}

/// The model with all that is needed to go on with its training.
fn save(model: &LayersModel, path: &Path) -> Result<()> {
    let options = SaveOptions { include_optimizer: true, lower: false, ..SaveOptions::default() };
    model.save_to(&mut DirectorySink::create(path)?.replacing_at_once(), &options)?;
    Ok(())
}

impl fmt::Debug for ModelCheckpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelCheckpoint")
            .field("path", &self.path)
            .field("monitor", &self.monitor)
            .field("mode", &self.mode)
            .field("save_best_only", &self.save_best_only)
            .field("save_freq", &self.save_freq)
            .finish_non_exhaustive()
    }
}

impl Callback for ModelCheckpoint<'_> {
    fn train_begin(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        self.template = Some(Template::parse(&self.path)?);
        if self.save_freq == SaveFreq::Batches(0) {
            let problem = "is 0 batches; at least one is expected".to_owned();
            return Err(LayersError::Argument { argument: "save_freq".to_owned(), problem });
        }
        self.watched.reset(self.initial_value_threshold);
        self.batches = 0;
        Ok(())
    }

    fn epoch_begin(&mut self, _cx: &mut Context<'_>, epoch: usize) -> Result<()> {
        self.epoch = epoch;
        Ok(())
    }

    fn batch_end(&mut self, cx: &mut Context<'_>, batch: usize) -> Result<()> {
        let SaveFreq::Batches(every) = self.save_freq else { return Ok(()) };
        self.batches += 1;
        if self.batches < every {
            return Ok(());
        }
        self.batches = 0;
        let logs = cx.logs()?;
        self.step(cx, Some(batch), &logs)
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, _epoch: usize, logs: &mut Logs) -> Result<()> {
        match self.save_freq {
            SaveFreq::Epoch => self.step(cx, None, logs),
            SaveFreq::Batches(_) => Ok(()),
        }
    }

    fn state(&self) -> CallbackState {
        let values = json!({"best": self.watched.best, "batches": self.batches});
        CallbackState { values, tensors: Vec::new() }
    }

    fn set_state(&mut self, state: CallbackState) -> Result<()> {
        self.watched.reset(state.values.get("best").and_then(Value::as_f64));
        self.batches = state.values["batches"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        Ok(())
    }

    fn watches(&self) -> Vec<String> {
        self.save_best_only.then(|| self.monitor.clone()).into_iter().collect()
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}
