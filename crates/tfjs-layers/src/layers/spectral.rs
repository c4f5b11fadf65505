//! Spectrograms.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
