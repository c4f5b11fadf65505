//! Activations as one op each. These ops are this runtime's own: a pass puts them in the place of the primitive ops that
//! spell them out (`passes/activations.rs`), at load. No file holds them.
use tfjs_kernels::Activation;

use crate::op::{OpDef, one, same, simple};

/// An activation under the name that it has as an op and in `fused_ops`.
pub(super) const ACTIVATIONS: &[(&str, Activation)] = &[
    ("_Gelu", Activation::Gelu),
    ("_GeluTanh", Activation::GeluTanh),
    ("_HardSigmoid", Activation::HardSigmoid),
    ("_HardSwish", Activation::HardSwish),
    ("_Swish", Activation::Swish),
];

macro_rules! row {
    ($i:literal) => {
        OpDef::new(ACTIVATIONS[$i].0, 1..=1, |_| simple(|x| one(ACTIVATIONS[$i].1.apply(x.take(0)?)), same))
    };
}

pub(super) const OPS: &[OpDef] = &[row!(0), row!(1), row!(2), row!(3), row!(4)];

/// The activation of this name, if it is one of this runtime's own or plain in TensorFlow.
pub(super) fn by_name(name: &[u8]) -> Option<Activation> {
    let own = || ACTIVATIONS.iter().find(|(n, _)| n.as_bytes() == name).map(|&(_, a)| a);
    Some(match name {
        b"Relu" => Activation::Relu,
        b"Relu6" => Activation::Relu6,
        b"Elu" => Activation::Elu,
        b"Selu" => Activation::Selu,
        b"Sigmoid" => Activation::Sigmoid,
        b"Softplus" => Activation::Softplus,
        b"Tanh" => Activation::Tanh,
        _ => return own(),
    })
}
