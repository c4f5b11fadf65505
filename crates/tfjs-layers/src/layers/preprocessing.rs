//! Lookup tables, text, hashing, discretization, normalization of features.

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[];
