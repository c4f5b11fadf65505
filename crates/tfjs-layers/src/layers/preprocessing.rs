//! Layers that turn raw strings, integers and numbers into what other layers take.
//!
//! Integers have 32 bits, as everywhere here. Options for sparse outputs give the same values in dense tensors.

mod encode;
mod hashing;
mod lookup;
mod numeric;
mod text;

use crate::LayerDef;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("StringLookup", lookup::string),
    LayerDef::new("IntegerLookup", lookup::integer),
    LayerDef::new("TextVectorization", text::text_vectorization),
    LayerDef::new("Hashing", hashing::hashing),
    LayerDef::new("HashedCrossing", hashing::hashed_crossing),
    LayerDef::new("CategoryEncoding", encode::category_encoding),
    LayerDef::new("Discretization", numeric::discretization),
    LayerDef::new("Normalization", numeric::normalization),
];
