//! PReLU, LeakyReLU, ELU, Softmax and other activations that are layers.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
