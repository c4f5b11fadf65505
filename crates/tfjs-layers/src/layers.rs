//! Every Keras layer: one file per family, one row per class.

mod activation;
mod attention;
mod convolution;
mod core;
mod einsum_dense;
mod embedding;
mod image;
mod merging;
mod normalization;
mod operation;
mod pooling;
mod preprocessing;
mod quantized;
mod recurrent;
mod regularization;
pub(crate) mod resample;

mod reshaping;
mod spatial;
mod spectral;
mod wrapper;

pub(crate) use normalization::without_virtual_batch;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::{
    Config, Dialect, Layer, LayersError, config::UnknownOptions, layer::LayerDef, topology::LayerConfig,
};

/// The families and their rows.
pub fn families() -> impl Iterator<Item = (&'static str, &'static [LayerDef])> {
    [
        ("core", core::LAYERS),
        ("einsum_dense", einsum_dense::LAYERS),
        ("embedding", embedding::LAYERS),
        ("activation", activation::LAYERS),
        ("regularization", regularization::LAYERS),
        ("merging", merging::LAYERS),
        ("attention", attention::LAYERS),
        ("convolution", convolution::LAYERS),
        ("pooling", pooling::LAYERS),
        ("normalization", normalization::LAYERS),
        ("reshaping", reshaping::LAYERS),
        ("recurrent", recurrent::LAYERS),
        ("wrapper", wrapper::LAYERS),
        ("preprocessing", preprocessing::LAYERS),
        ("image", image::LAYERS),
        ("spectral", spectral::LAYERS),
        ("operation", operation::LAYERS),
    ]
    .into_iter()
}

static LAYERS: LazyLock<HashMap<&'static str, LayerDef>> =
    LazyLock::new(|| families().flat_map(|(_, rows)| rows).map(|d| (d.class, *d)).collect());

pub(crate) use operation::{Args, NAMED, constant as operation_constant, name as operation_name};

/// Layers whose further inputs are their initial state. They use a mask, and hand it on if they return sequences.
pub(crate) const RECURRENT: &[&str] = &[
    "RNN",
    "SimpleRNN",
    "GRU",
    "LSTM",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "Bidirectional",
    "CuDNNGRU",
    "CuDNNLSTM",
];

/// Whether a class of Keras 3 is an operation, and not a layer.
pub(crate) fn is_operation(config: &LayerConfig, dialect: Dialect) -> bool {
    operation::find(config, dialect, LAYERS.contains_key(config.class_name.as_str())).is_some()
}

/// Makes a layer of the table.
///
/// # Errors
/// When the class is not known, or its config is wrong.
pub(crate) fn make(
    config: &LayerConfig,
    dialect: Dialect,
    unknown: &UnknownOptions,
) -> Result<Box<dyn Layer>, LayersError> {
    let class = config.class_name.as_str();
    if let Some(what) = foreign_code(class) {
        return Err(LayersError::ForeignCode {
            class: class.to_owned(),
            what,
            remedy: "replace it by layers of Keras that do the same, or export the model as a SavedModel and convert that",
        });
    }
    if TEXT.contains(&class) {
        return Err(LayersError::UnknownClass {
            class: class.to_owned(),
            hint: "; it is a tool around a model, and no part of what a model computes: turn text into numbers before, and \
                   write the network out of `Embedding`, `PositionEmbedding`, `TransformerDecoder` and `LayerNormalization`"
                .to_owned(),
        });
    }
    if let Some(operation) = operation::find(config, dialect, LAYERS.contains_key(class)) {
        return Ok(operation);
    }
    if config.is_operation() {
        return Err(LayersError::UnknownClass {
            class: class.to_owned(),
            hint: "; there is no form of this operation in a graph here: express it by others, or export the model as a SavedModel and convert that"
                .to_owned(),
        });
    }
    let row = LAYERS.get(class).ok_or_else(|| LayersError::UnknownClass {
        class: config.registered_name.clone().unwrap_or_else(|| class.to_owned()),
        hint: "; a class of your own is code that the file does not hold: export the model as a SavedModel and convert that"
            .to_owned(),
    })?;
    let reader = Config::of_layer(&config.config, dialect, unknown);
    let layer = (row.new)(&reader)?;
    reader.finish(&config.name, class);
    Ok(regularization::penalised(layer, config, dialect))
}

/// Classes of TF.js that prepare text, or hold whole networks whose weights TF.js itself does not store.
const TEXT: &[&str] = &[
    "Backbone",
    "BytePairTokenizer",
    "GPT2Backbone",
    "GPT2CausalLM",
    "GPT2CausalLMPreprocessor",
    "GPT2Preprocessor",
    "GPT2Tokenizer",
    "Preprocessor",
    "StartEndPacker",
];

/// What a layer that wraps code from elsewhere holds.
fn foreign_code(class: &str) -> Option<&'static str> {
    Some(match class {
        "Lambda" => "Python code",
        "TFSMLayer" => "a reference to a SavedModel elsewhere",
        "JaxLayer" | "FlaxLayer" => "a JAX function",
        "TorchModuleWrapper" => "a PyTorch module",
        _ => return None,
    })
}
