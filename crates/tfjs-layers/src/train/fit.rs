//! The loop over epochs and batches.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use serde_json::Value;

use super::{
    Arrays, Batch, ClassWeight, Dataset, Logs,
    callbacks::{Callback, Context},
    objective::{Objective, Totals},
};
use crate::{Inputs, LayersError, LayersModel};

type Result<T> = std::result::Result<T, LayersError>;

/// Batches that are made ready ahead.
const AHEAD: usize = 2;

/// What a model is validated with after each epoch.
#[derive(Default)]
pub enum Validation<'v> {
    /// Nothing.
    #[default]
    None,
    /// This part of the data, from their end, before they are shuffled: 0.2 is a fifth.
    Split(f64),
    /// Other data.
    Data(Batch),
    /// Other data, batch by batch.
    Dataset(&'v mut dyn Dataset),
}

impl std::fmt::Debug for Validation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Validation::None => f.write_str("None"),
            Validation::Split(part) => write!(f, "Split({part})"),
            Validation::Data(data) => write!(f, "Data({} samples)", data.samples()),
            Validation::Dataset(_) => f.write_str("Dataset"),
        }
    }
}

/// How a model is fitted. Defaults are Keras's.
#[derive(Debug)]
pub struct FitOptions<'o> {
    /// Epochs, counted from 0: training ends before this one.
    pub epochs: usize,
    /// The first epoch: not 0 when a training goes on.
    pub initial_epoch: usize,
    /// Samples per batch of data in memory.
    pub batch_size: usize,
    /// Whether data in memory are shuffled in every epoch.
    pub shuffle: bool,
    /// Data to validate with.
    pub validation: Validation<'o>,
    /// Samples per batch of validation; `batch_size` if not given.
    pub validation_batch_size: Option<usize>,
    /// Batches to validate with; all if not given.
    pub validation_steps: Option<usize>,
    /// Epochs from one validation to the next.
    pub validation_freq: usize,
    /// Batches per epoch; all there are if not given. With it, an epoch goes on where the one before ended.
    pub steps_per_epoch: Option<usize>,
    /// How much the samples of each class count.
    pub class_weight: Option<ClassWeight>,
    /// Told what happens, in this order.
    pub callbacks: Vec<Box<dyn Callback + 'o>>,
    /// Set from anywhere, it ends training after the batch in work. The model stays valid.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for FitOptions<'_> {
    fn default() -> Self {
        FitOptions {
            epochs: 1,
            initial_epoch: 0,
            batch_size: 32,
            shuffle: true,
            validation: Validation::None,
            validation_batch_size: None,
            validation_steps: None,
            validation_freq: 1,
            steps_per_epoch: None,
            class_weight: None,
            callbacks: Vec::new(),
            cancel: None,
        }
    }
}

/// How loss and metrics went, epoch by epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Numbers of the epochs.
    pub epochs: Vec<usize>,
    /// Loss and metrics of each; those of validation start with `val_`.
    pub logs: Vec<Logs>,
    /// Why training ended before its last epoch, if it did.
    pub stopped: Option<String>,
}

impl History {
    /// One value over all epochs; NaN where it was not measured.
    pub fn get(&self, name: &str) -> Vec<f64> {
        self.logs.iter().map(|l| l.get(name).unwrap_or(f64::NAN)).collect()
    }

    /// Names of all values, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.logs.iter().flat_map(Logs::iter) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Keras's `history.history`: an object of lists.
    pub fn to_json(&self) -> Value {
        let one = |name: &str| (name.to_owned(), Value::from(self.get(name)));
        Value::Object(self.names().into_iter().map(one).collect())
    }
}

/// What the thread that reads data sends.
enum Message {
    Batch(Batch),
    EndOfEpoch,
    Failed(LayersError),
}

impl LayersModel {
    /// Trains with data in memory: one tensor or several as inputs, and as labels.
    ///
    /// # Errors
    /// When the model is not compiled, data do not fit, a node or a callback fails.
    pub fn fit(
        &mut self,
        x: impl Into<Inputs>,
        y: impl Into<Inputs>,
        options: FitOptions<'_>,
    ) -> Result<History> {
        let data = Batch {
            x: x.into().into_vec(),
            y: y.into().into_vec().into_iter().map(Some).collect(),
            sample_weight: Vec::new(),
        };
        self.fit_data(data, options)
    }

    /// As [`LayersModel::fit`], with weights of samples.
    ///
    /// # Errors
    /// As [`LayersModel::fit`].
    pub fn fit_data(&mut self, mut data: Batch, mut options: FitOptions<'_>) -> Result<History> {
        if let Validation::Split(part) = options.validation {
            let samples = data.samples();
            if !(part > 0.0 && part < 1.0) {
                return Err(LayersError::Training(format!(
                    "`validation_split` is {part}, a number between 0 and 1 is expected"
                )));
            }
            let train = (samples as f64 * (1.0 - part)).floor() as usize;
            if train == 0 || train == samples {
                return Err(LayersError::Training(format!(
                    "of {samples} samples, a validation_split of {part} leaves none for {}",
                    if train == 0 { "training" } else { "validation" }
                )));
            }
            let (first, rest) = Arrays::split(&data, train)?;
            data = first;
            options.validation = Validation::Data(rest);
        }
        if let Validation::Data(data) = &options.validation {
            let size = options.validation_batch_size.unwrap_or(options.batch_size);
            self.check(data, size, false)?;
        }
        // Weights of classes are for training only.
        if let Some(weights) = options.class_weight.take() {
            data = data.weighted_by_class(&weights)?;
        }
        self.check(&data, options.batch_size, true)?;
        let mut arrays = Arrays::new(data, options.batch_size);
        if options.shuffle {
            arrays = arrays.shuffled(self.training_mut()?.seed);
        }
        self.fit_dataset(&mut arrays, options)
    }

    /// Trains with batches from anywhere, read in a thread of their own.
    ///
    /// # Errors
    /// As [`LayersModel::fit`].
    pub fn fit_dataset(&mut self, dataset: &mut dyn Dataset, mut options: FitOptions<'_>) -> Result<History> {
        self.training_mut()?;
        if options.epochs == 0 || options.validation_freq == 0 || options.steps_per_epoch == Some(0) {
            let problem = "`epochs`, `validation_freq` and `steps_per_epoch` are at least 1";
            return Err(LayersError::Training(problem.to_owned()));
        }
        if let Validation::Split(_) = options.validation {
            let problem = "`validation_split` needs data in memory; give data for validation of their own";
            return Err(LayersError::Training(problem.to_owned()));
        }
        let mut callbacks = std::mem::take(&mut options.callbacks);
        let steps = options.steps_per_epoch.or_else(|| dataset.batches());
        let plan = Plan {
            epochs: options.epochs,
            first: options.initial_epoch,
            steps_per_epoch: options.steps_per_epoch,
        };
        check_watched(&callbacks, self, !matches!(options.validation, Validation::None))?;
        let mut cx = Context::new(self, options.epochs, steps);
        each(&mut callbacks, |c| c.resume(&mut cx))?;
        let states = std::mem::take(&mut cx.states);
        each(&mut callbacks, |c| c.train_begin(&mut cx))?;
        if states.len() == callbacks.len() {
            for (callback, state) in callbacks.iter_mut().zip(states) {
                callback.set_state(state)?;
            }
        } else if !states.is_empty() {
            tracing::warn!("the training that is taken up again had other callbacks; these begin anew");
        }
        // A callback that takes a training up again knows where it was.
        let plan = Plan { first: cx.initial_epoch.unwrap_or(plan.first), ..plan };
        let last = if cx.stopped().is_some() { plan.first } else { options.epochs };
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(AHEAD);
            let first = plan.first;
            if first < last {
                scope.spawn(move || {
                    let reading = AssertUnwindSafe(|| read_ahead(dataset, &plan, &sender));
                    // Nothing of the data set is used after a panic.
                    if let Err(panic) = catch_unwind(reading) {
                        let _ = sender.send(Message::Failed(LayersError::DataPanicked(said(&*panic))));
                    }
                });
            }
            for epoch in first..last {
                cx.reset_metrics();
                each(&mut callbacks, |c| c.epoch_begin(&mut cx, epoch))?;
                run_epoch(&mut cx, &mut callbacks, &options, &receiver)?;
                // Of an epoch that was cut short nothing is known.
                if cx.cancelled() {
                    break;
                }
                let mut logs = cx.totals().logs()?;
                if (epoch + 1).is_multiple_of(options.validation_freq) {
                    let validated = cx.model.validate(&mut options)?;
                    for (name, value) in validated.iter().flat_map(Logs::iter) {
                        logs.set(&format!("val_{name}"), value);
                    }
                }
                each(&mut callbacks, |c| c.epoch_end(&mut cx, epoch, &mut logs))?;
                cx.history.epochs.push(epoch);
                cx.history.logs.push(logs);
                cx.states = callbacks.iter().map(|c| c.state()).collect();
                each(&mut callbacks, |c| c.checkpoint(&mut cx, epoch))?;
                if cx.stopped().is_some() {
                    break;
                }
            }
            Ok::<(), LayersError>(())
        })?;
        cx.model.finish_optimizer()?;
        each(&mut callbacks, |c| c.train_end(&mut cx))?;
        let stopped = cx.stopped().map(str::to_owned);
        Ok(History { stopped, ..std::mem::take(&mut cx.history) })
    }

    /// Loss and metrics of data in memory, in batches of 32.
    ///
    /// # Errors
    /// As [`LayersModel::fit`].
    pub fn evaluate(&mut self, x: impl Into<Inputs>, y: impl Into<Inputs>) -> Result<Logs> {
        let data = Batch {
            x: x.into().into_vec(),
            y: y.into().into_vec().into_iter().map(Some).collect(),
            sample_weight: Vec::new(),
        };
        self.evaluate_dataset(&mut Arrays::new(data, 32), None)
    }

    /// Loss and metrics of all batches, or of the first `steps`.
    ///
    /// # Errors
    /// As [`LayersModel::fit`].
    pub fn evaluate_dataset(&mut self, dataset: &mut dyn Dataset, steps: Option<usize>) -> Result<Logs> {
        let mut totals = Totals::default();
        dataset.start(0)?;
        let mut done = 0;
        while steps.is_none_or(|s| done < s)
            && let Some(batch) = dataset.next_batch()?
        {
            self.test_step(&batch, &mut totals)?;
            done += 1;
        }
        if totals.is_empty() {
            return Err(LayersError::Training("there are no samples to evaluate".to_owned()));
        }
        totals.logs()
    }

    /// Lets the optimizer do what it does at the end: moving averages replace weights.
    fn finish_optimizer(&mut self) -> Result<()> {
        let training = self.training.as_deref().ok_or(LayersError::NotCompiled)?;
        let mut weights = Vec::with_capacity(training.trainable.len());
        for &id in &training.trainable {
            weights.push(self.params.value(id)?);
        }
        training.optimizer.finalize(&mut weights)?;
        for (&id, weight) in training.trainable.iter().zip(weights) {
            self.params.put(id, weight);
        }
        self.forget_compiled();
        Ok(())
    }

    /// Looks at all data before they are evaluated: whether shapes and labels fit. [`LayersModel::fit_data`] does so itself.
    ///
    /// # Errors
    /// When they do not, in Keras's terms.
    pub fn check_data(&mut self, data: &Batch, batch_size: usize) -> Result<()> {
        self.check(data, batch_size, false)
    }

    fn check(&mut self, data: &Batch, batch_size: usize, train: bool) -> Result<()> {
        let samples = data.samples();
        if samples == 0 {
            return Err(LayersError::Training("the data hold no samples".to_owned()));
        }
        let prepared = data.prepared(self)?;
        let (first, _) = Arrays::split(&prepared, samples.min(batch_size.max(1)))?;
        self.step_for(&first, train, |step| step.check_labels(&prepared))
    }

    fn validate(&mut self, options: &mut FitOptions<'_>) -> Result<Option<Logs>> {
        let steps = options.validation_steps;
        match &mut options.validation {
            Validation::None | Validation::Split(_) => Ok(None),
            Validation::Data(data) => {
                let size = options.validation_batch_size.unwrap_or(options.batch_size);
                Ok(Some(self.evaluate_dataset(&mut Arrays::new(data.clone(), size), steps)?))
            }
            Validation::Dataset(dataset) => Ok(Some(self.evaluate_dataset(&mut **dataset, steps)?)),
        }
    }
}

fn each<'c>(
    callbacks: &mut [Box<dyn Callback + 'c>],
    mut f: impl FnMut(&mut (dyn Callback + 'c)) -> Result<()>,
) -> Result<()> {
    callbacks.iter_mut().try_for_each(|c| f(c.as_mut()))
}

/// Whether all that callbacks look for is measured, or made by one of them.
fn check_watched(callbacks: &[Box<dyn Callback + '_>], model: &LayersModel, validated: bool) -> Result<()> {
    let training = model.training.as_deref().ok_or(LayersError::NotCompiled)?;
    let mut known = Objective::new(&training.compile, &model.output_names(), model.dialect)?.names()?;
    if validated {
        known.extend(known.clone().iter().map(|name| format!("val_{name}")));
    }
    for callback in callbacks {
        // What this one adds is not known: it may be what others watch.
        let Some(added) = callback.adds(model.dialect) else { return Ok(()) };
        known.extend(added.into_iter().map(str::to_owned));
    }
    let mut watched = callbacks.iter().flat_map(|c| c.watches());
    match watched.find(|name| !known.contains(name)) {
        Some(name) => Err(LayersError::NotMeasured { name, known }),
        None => Ok(()),
    }
}

/// Trains with the batches of one epoch, or until training has to end.
fn run_epoch(
    cx: &mut Context<'_>,
    callbacks: &mut [Box<dyn Callback + '_>],
    options: &FitOptions<'_>,
    batches: &Receiver<Message>,
) -> Result<()> {
    let mut index = 0;
    loop {
        let batch = match batches.recv() {
            Ok(Message::Batch(batch)) => batch,
            Ok(Message::EndOfEpoch) | Err(_) => break,
            Ok(Message::Failed(error)) => return Err(error),
        };
        let batch = match &options.class_weight {
            Some(weights) => batch.weighted_by_class(weights)?,
            None => batch,
        };
        each(callbacks, |c| c.batch_begin(cx, index))?;
        cx.train(&batch)?;
        each(callbacks, |c| c.batch_end(cx, index))?;
        index += 1;
        if options.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
            cx.cancel();
            cx.stop("training was cancelled");
        }
        if cx.stopped().is_some() {
            return Ok(());
        }
    }
    if index == 0 {
        return Err(LayersError::Training("the data hold no batches".to_owned()));
    }
    Ok(())
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it did not say why".to_owned())
}

struct Plan {
    first: usize,
    epochs: usize,
    steps_per_epoch: Option<usize>,
}

/// Sends the batches of all epochs; ends early when nobody listens any more.
fn read_ahead(dataset: &mut dyn Dataset, plan: &Plan, to: &SyncSender<Message>) {
    let (mut pass, mut started) = match plan.steps_per_epoch {
        Some(steps) => match skip(dataset, plan.first.saturating_mul(steps)) {
            Ok(pass) => (pass, true),
            Err(error) => {
                let _ = to.send(Message::Failed(error));
                return;
            }
        },
        None => (plan.first, false),
    };
    for epoch in plan.first..plan.epochs {
        if plan.steps_per_epoch.is_none() {
            pass = epoch;
            started = false;
        }
        let mut sent = 0;
        let mut empty = false;
        while plan.steps_per_epoch.is_none_or(|steps| sent < steps) {
            if !started {
                if let Err(error) = dataset.start(pass) {
                    let _ = to.send(Message::Failed(error));
                    return;
                }
                started = true;
            }
            match dataset.next_batch() {
                Ok(Some(batch)) => {
                    empty = false;
                    sent += 1;
                    if to.send(Message::Batch(batch)).is_err() {
                        return;
                    }
                }
                Ok(None) if plan.steps_per_epoch.is_some() && !empty => {
                    (pass, started, empty) = (pass + 1, false, true);
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = to.send(Message::Failed(error));
                    return;
                }
            }
        }
        if to.send(Message::EndOfEpoch).is_err() {
            return;
        }
    }
}

/// Begins the pass in which this batch is, and stands before it: a training that goes on sees what it would have seen.
fn skip(dataset: &mut dyn Dataset, batches: usize) -> Result<usize> {
    let mut pass = 0;
    let mut left = batches;
    if let Some(all) = dataset.batches().filter(|n| *n > 0) {
        (pass, left) = (batches / all, batches % all);
    }
    dataset.start(pass)?;
    let mut empty = true;
    while left > 0 {
        match dataset.next_batch()? {
            Some(_) => (left, empty) = (left - 1, false),
            None if empty => break,
            None => {
                (pass, empty) = (pass + 1, true);
                dataset.start(pass)?;
            }
        }
    }
    Ok(pass)
}
