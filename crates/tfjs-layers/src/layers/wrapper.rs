//! Bidirectional, TimeDistributed and other layers around a layer.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
