//! `.h5` and `.keras` files.

use std::path::Path;

use serde_json::{Map, Value};
use tfjs_layers::{Dialect, LayersModel, StoredWeight};

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

/// Writes the model as `.h5`, and returns the number of weights.
pub(crate) fn write_h5(model: &LayersModel, path: &Path) -> Result<usize> {
    let weight = |(name, value)| StoredWeight { name: format!("{name}:0"), value };
    let layers: Vec<(String, Vec<StoredWeight>)> = model
        .keras_weights()
        .into_iter()
        .map(|(layer, weights)| (layer, weights.into_iter().map(weight).collect()))
        .collect();
    let count = layers.iter().map(|(_, w)| w.len()).sum();
    let file = H5Model {
        keras_version: version(model).to_owned(),
        backend: "tensorflow".to_owned(),
        model_config: Some(config(model, path, false)?),
        training_config: None,
        layers,
        optimizer: Vec::new(),
    };
    file.write(path)?;
    Ok(count)
}

/// Writes the model as `.keras`, and returns the number of weights.
pub(crate) fn write_keras(model: &LayersModel, path: &Path) -> Result<usize> {
    let weights: Vec<StoredWeight> =
        model.keras_objects().into_iter().map(|(name, value)| StoredWeight { name, value }).collect();
    let count = weights.len();
    let mut metadata = Map::new();
    metadata.insert("keras_version".to_owned(), version(model).into());
    let file =
        KerasArchive { config: config(model, path, true)?, metadata, weights, ..KerasArchive::default() };
    file.write(path)?;
    Ok(count)
}
