//! Pooling: windows, global, adaptive.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
