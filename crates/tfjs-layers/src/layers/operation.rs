//! Operations of Keras 3 and raw TensorFlow ops of Keras 2 as nodes of a functional model.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
