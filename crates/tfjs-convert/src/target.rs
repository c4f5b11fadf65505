//! What a model of layers is written as, besides TensorFlow.js's formats.

pub(crate) mod keras;
pub(crate) mod saved_model;
