//! What is told while a model is trained.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use tfjs_layers::{Callback, Context, Dialect, LayersError, Logs};

use super::number;
use crate::CliError;

/// From one look at the metrics to the next.
const BETWEEN: Duration = Duration::from_millis(200);

/// A line for each epoch; on a terminal a bar within it.
#[derive(Debug)]
pub(super) struct Progress {
    json: bool,
    bar: Option<ProgressBar>,
    began: Instant,
    shown: Instant,
}

impl Progress {
    pub(super) fn new(json: bool) -> Progress {
        Progress { json, bar: None, began: Instant::now(), shown: Instant::now() }
    }
}

impl Callback for Progress {
    fn epoch_begin(&mut self, cx: &mut Context<'_>, epoch: usize) -> Result<(), LayersError> {
        self.began = Instant::now();
        if self.json || !io::stderr().is_terminal() {
            return Ok(());
        }
        let bar = cx.steps.map_or_else(ProgressBar::new_spinner, |n| ProgressBar::new(n as u64));
        let template = if cx.steps.is_some() {
            "{prefix} {bar:30} {pos}/{len} {msg} {eta} left"
        } else {
            "{prefix} {spinner} {pos} {msg} {elapsed}"
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_prefix(format!("epoch {}/{}", epoch + 1, cx.epochs));
        self.bar = Some(bar);
        Ok(())
    }

    fn batch_end(&mut self, cx: &mut Context<'_>, _batch: usize) -> Result<(), LayersError> {
        let Some(bar) = &self.bar else { return Ok(()) };
        bar.inc(1);
        // Metrics are not for nothing.
        if self.shown.elapsed() >= BETWEEN {
            bar.set_message(text(&cx.logs()?));
            self.shown = Instant::now();
        }
        Ok(())
    }

    fn epoch_end(&mut self, cx: &mut Context<'_>, epoch: usize, logs: &mut Logs) -> Result<(), LayersError> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let line = if self.json {
            let mut object = Map::new();
            object.insert("epoch".to_owned(), (epoch + 1).into());
            object.extend(logs.iter().map(|(name, v)| (name.to_owned(), number(v))));
            Value::Object(object).to_string()
        } else {
            let seconds = self.began.elapsed().as_secs_f64();
            format!("epoch {}/{}: {}, {seconds:.1} s", epoch + 1, cx.epochs, text(logs))
        };
        let failed = |e: CliError| LayersError::Callback(Box::new(e));
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| failed(CliError::Stdout(e)))
    }

    fn train_end(&mut self, _cx: &mut Context<'_>) -> Result<(), LayersError> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        Ok(())
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}

/// `loss 0.1234, accuracy 0.9876`
pub(super) fn text(logs: &Logs) -> String {
    let one = |(name, v): (&str, f64)| {
        // Four digits say nothing of a learning rate.
        if v != 0.0 && v.abs() < 1e-3 { format!("{name} {v:.2e}") } else { format!("{name} {v:.4}") }
    };
    logs.iter().map(one).collect::<Vec<_>>().join(", ")
}
