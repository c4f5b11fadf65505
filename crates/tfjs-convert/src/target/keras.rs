//! `.h5` and `.keras` files.

use std::path::Path;

use serde_json::{Map, Value};
use tfjs_layers::{Dialect, LayersModel, StoredWeight, TrainingState};

use crate::{
    ConvertError,
    keras::{H5Model, KerasArchive},
};

type Result<T> = std::result::Result<T, ConvertError>;

/// Versions that the files say they are of: those whose configurations `tfjs_layers` writes.
const KERAS_2: &str = "2.19.0";
const KERAS_3: &str = "3.15.0";

fn version(model: &LayersModel) -> &'static str {
    if model.keras_dialect() == Dialect::Keras3 { KERAS_3 } else { KERAS_2 }
}

fn config(model: &LayersModel, path: &Path, archive: bool) -> Result<Value> {
    model.keras_config(archive).map_err(|source| ConvertError::Layers { path: path.to_path_buf(), source })
}

/// How training goes on; nothing for a model that is not compiled.
fn training(model: &LayersModel, path: &Path, archive: bool) -> Result<TrainingState> {
    let state = model.keras_training(archive);
    let state = state.map_err(|source| ConvertError::Layers { path: path.to_path_buf(), source })?;
    Ok(state.unwrap_or(TrainingState { config: Value::Null, weights: Vec::new() }))
}

/// Writes the model as `.h5`, and returns the number of weights.
pub(crate) fn write_h5(model: &LayersModel, path: &Path) -> Result<usize> {
    let weight = |(name, value)| StoredWeight { name: format!("{name}:0"), value };
    let layers: Vec<(String, Vec<StoredWeight>)> = model
        .keras_weights()
        .into_iter()
        .map(|(layer, weights)| (layer, weights.into_iter().map(weight).collect()))
        .collect();
    let count = layers.iter().map(|(_, w)| w.len()).sum();
    let TrainingState { config: training_config, weights: optimizer } = training(model, path, false)?;
    let colon = if model.keras_dialect() == Dialect::Keras3 { "" } else { ":0" };
    let optimizer =
        optimizer.into_iter().map(|w| StoredWeight { name: format!("{}{colon}", w.name), ..w }).collect();
    let file = H5Model {
        keras_version: version(model).to_owned(),
        backend: "tensorflow".to_owned(),
        model_config: Some(config(model, path, false)?),
        training_config: Some(training_config).filter(|c| !c.is_null()),
        layers,
        optimizer,
    };
    file.write(path)?;
    Ok(count)
}

/// Writes the model as `.keras`, and returns the number of weights.
pub(crate) fn write_keras(model: &LayersModel, path: &Path) -> Result<usize> {
    let mut weights: Vec<StoredWeight> =
        model.keras_objects().into_iter().map(|(name, value)| StoredWeight { name, value }).collect();
    let count = weights.len();
    let mut metadata = Map::new();
    metadata.insert("keras_version".to_owned(), version(model).into());
    let mut config = config(model, path, true)?;
    let TrainingState { config: compile_config, weights: optimizer } = training(model, path, true)?;
    if let Some(object) = config.as_object_mut().filter(|_| !compile_config.is_null()) {
        object.insert("compile_config".to_owned(), compile_config);
    }
    weights.extend(optimizer);
    let file = KerasArchive { config, metadata, weights, ..KerasArchive::default() };
    file.write(path)?;
    Ok(count)
}
