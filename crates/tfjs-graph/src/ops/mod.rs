//! The ops, one file per family; families are those of TF.js's op lists.
//!
//! # How a row is written
//!
//! A family is a table: one [`OpDef`] per op, with the number of data inputs and a constructor that parses the
//! attributes (see [`crate::Attrs`]) and returns the op. An attribute value that is not supported is an error there,
//! never ignored. Most ops are closures over a tensor-level kernel, wrapped by [`crate::op::simple`]:
//!
//! ```text
//! pub(super) const OPS: &[OpDef] = &[
//!     OpDef::new("Neg", 1..=1, |_| simple(|x| one(unary::neg(x.take(0)?)), same)),
//!     OpDef::new("Concat", 2..=ANY, |b| {
//!         let n = b.attrs.count("N")?;
//!         simple(move |x| { … }, move |facts| { … })
//!     }),
//! ];
//! ```
//!
//! `x.take(i)` moves an input out, so a kernel that takes its tensor by value may overwrite it; `x.tensor(i)` looks.
//! The second closure infers type and shape of the outputs from [`Fact`](crate::Fact)s (return an empty list when
//! nothing is known; give `Fact::value` where it follows from shapes alone, as for `Shape`). Constant inputs need no
//! special care there: pure ops with constant inputs are folded by running them.
//! An op that gains from knowing constant inputs early (packed weights) is a struct that implements
//! [`crate::Op`] with `specialize`. Ops that touch tables or random state return `Effect::Stateful` from `effect`;
//! per-session state lives in `Cx::node_state`. Names of output arguments stand in `outputs.txt`.

use std::{collections::HashSet, sync::LazyLock};

use crate::op::OpDef;

mod activation;
mod arithmetic;
mod backends;
mod basic_math;
mod blocks;
pub(crate) mod control;
mod convolution;
mod creation;
mod dynamic;
mod evaluation;
mod gradient;
mod graph;
mod hash_table;
mod image;
mod infer;
mod logical;
mod matrices;
mod normalization;
mod parsing;
mod ragged;
mod recurrent;
mod reduction;
mod slice_join;
mod sparse;
mod spectral;
mod string;
mod transformation;

pub use backends::{Backend, Obstacle, dtypes, tfjs_version};
pub(crate) use control::constant as graph_const;

/// All families: name and table.
pub fn families() -> impl Iterator<Item = (&'static str, &'static [OpDef])> {
    [
        ("activation", activation::OPS),
        ("arithmetic", arithmetic::OPS),
        ("basic_math", basic_math::OPS),
        ("blocks", blocks::OPS),
        ("control", control::OPS),
        ("control flow V1", control::FLOW),
        ("TensorList", control::LIST_OPS),
        ("TensorArray", control::ARRAY_OPS),
        ("creation", creation::OPS),
        ("dynamic", dynamic::OPS),
        ("evaluation", evaluation::OPS),
        ("gradient", gradient::OPS),
        ("graph", graph::OPS),
        ("convolution", convolution::OPS),
        ("hash_table", hash_table::OPS),
        ("image", image::OPS),
        ("logical", logical::OPS),
        ("matrices", matrices::OPS),
        ("normalization", normalization::OPS),
        ("parsing", parsing::OPS),
        ("ragged", ragged::OPS),
        ("recurrent", recurrent::OPS),
        ("reduction", reduction::OPS),
        ("slice_join", slice_join::OPS),
        ("sparse", sparse::OPS),
        ("spectral", spectral::OPS),
        ("string", string::OPS),
        ("transformation", transformation::OPS),
    ]
    .into_iter()
}

/// The ops that TF.js's converter accepts (4.22), with the op list each stands in.
pub fn tfjs_ops() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("tfjs_ops.txt").lines().filter_map(|line| line.split_once(' '))
}

/// Ops of that list that this runtime leaves out, and why.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("SimpleMLCreateModelResource", "decision forests need their own library"),
    ("SimpleMLInferenceOpWithHandle", "decision forests need their own library"),
    ("SimpleMLLoadModelFromPathWithHandle", "decision forests need their own library"),
];

/// Whether TF.js's converter accepts an op.
pub fn in_tfjs(op: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| tfjs_ops().map(|(_, op)| op).collect());
    NAMES.contains(op)
}
