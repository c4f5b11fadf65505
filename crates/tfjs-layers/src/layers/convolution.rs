//! Convolutions of one to three dimensions, separable, depthwise, transposed, locally connected.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
