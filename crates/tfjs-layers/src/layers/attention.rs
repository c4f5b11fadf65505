//! Attention, MultiHeadAttention and their kin.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
