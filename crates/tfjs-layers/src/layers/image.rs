//! Resizing, cropping and augmentation of images.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
