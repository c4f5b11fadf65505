//! `tfjs train`

mod steps;

use std::path::Path;

use tfjs_format::io::DirectorySink;
use tfjs_layers::{LayersModel, LayersOptions, SaveOptions};

use crate::{
    CliError,
    args::TrainArgs,
    inspect::{self, Kind},
};

/// `tfjs train`
pub(crate) fn run(args: &TrainArgs) -> Result<String, CliError> {
    crate::load::with_threads(args.threads, || steps::run(args))
}

/// A model of layers: a Keras file, or a layers model of TensorFlow.js.
fn open(path: &str) -> Result<LayersModel, CliError> {
    if let Ok(Kind::Keras(_)) = inspect::detect(path) {
        return Ok(tfjs_convert::open_keras(path)?);
    }
    Ok(LayersModel::open_with(path, &tfjs_format::io::LoadOptions::default(), &LayersOptions::default())?)
}

/// Writes the model with the state of its optimizer: a Keras file by its extension, else a directory for TensorFlow.js.
fn save(model: &LayersModel, path: &Path) -> Result<(), CliError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("h5" | "hdf5" | "keras") => tfjs_convert::save_keras(model, path)?,
        _ => {
            let options = SaveOptions { include_optimizer: true, lower: false, ..SaveOptions::default() };
            model.save_to(&mut DirectorySink::create(path)?, &options)?;
        }
    }
    Ok(())
}
