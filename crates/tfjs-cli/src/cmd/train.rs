//! `tfjs train`

mod choice;
mod fit;
mod progress;
mod steps;

use std::path::Path;

use serde_json::Value;
use tfjs_format::io::{DirectorySink, LoadOptions};
use tfjs_layers::{LayersModel, SaveOptions};

pub(super) use self::fit::compile;
use crate::{CliError, args::TrainArgs, curves, load};

/// `tfjs train`
pub(crate) fn run(args: &TrainArgs) -> Result<String, CliError> {
    load::with_threads(args.data.threads, || match &args.config {
        Some(config) => steps::run(args, config),
        None => fit::run(args),
    })
}

/// The model that is to be trained or evaluated.
pub(super) fn open(path: &str) -> Result<LayersModel, CliError> {
    load::layers(path, &LoadOptions::default())
}

/// Writes the model with the state of its optimizer: a Keras file by its extension, else a directory for TensorFlow.js.
/// What was there is whole until it is replaced.
fn save(model: &LayersModel, path: &Path) -> Result<(), CliError> {
    if curves::is_file(path) {
        tfjs_convert::save_keras(model, path)?;
    } else {
        let options = SaveOptions { include_optimizer: true, lower: false, ..SaveOptions::default() };
        model.save_to(&mut DirectorySink::create(path)?.replacing_at_once(), &options)?;
    }
    Ok(())
}

/// A number as JSON, which has no words for what is not one; Keras's own files spell it so.
pub(super) fn number(v: f64) -> Value {
    match v {
        v if v.is_finite() => Value::from(v),
        v if v.is_nan() => Value::from("NaN"),
        v if v > 0.0 => Value::from("Infinity"),
        _ => Value::from("-Infinity"),
    }
}
