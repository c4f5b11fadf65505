//! Add, Concatenate, Dot and other layers that join their inputs.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
