//! Layers and options that TF.js lacks or computes wrongly, as layers that it has.

use serde_json::{Map, Value};
use tfjs_graph::{Constant, Fact};

use super::{Result, fragment::Fragment};
use crate::{Dialect, topology::LayerConfig};

/// A layer to be written.
pub(super) struct Source<'a> {
    pub(super) layer: &'a LayerConfig,
    pub(super) class: &'a str,
    /// Its configuration in TF.js's words; a row may change it.
    pub(super) config: Map<String, Value>,
    pub(super) dialect: Dialect,
    /// Whether a mask comes with its first input.
    pub(super) masked: bool,
    /// What is known of the inputs of the first call.
    pub(super) inputs: Vec<Fact>,
    /// What is known of the outputs of the first call.
    pub(super) outputs: &'a [Fact],
    /// Names within the layer.
    pub(super) weights: Vec<(String, Constant)>,
}

/// What is to be written for a layer.
pub(super) enum Outcome {
    /// The layer itself.
    Keep,
    /// Other layers.
    Replace(Fragment),
    /// The layer itself, though TF.js cannot run it.
    Unsupported(String),
}

pub(super) fn lower(_source: &mut Source<'_>) -> Result<Outcome> {
    Ok(Outcome::Keep)
}
