//! Padding, cropping, upsampling, permuting, repeating.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
