//! Functions of one tensor, element by element, and a few of two.
use tfjs_kernels::{
    DType,
    binary::{self, BinaryOp},
    unary::{self, UnaryOp, unary},
};

use super::{
    arithmetic::{broadcast, check_declared, declared, pair},
    infer::{dims, dtype, fact},
};
use crate::{
    Op, OpError,
    op::{Build, OpDef, one, same, simple},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("Abs", 1..=1, |b| each(b, UnaryOp::Abs)),
    OpDef::new("Acos", 1..=1, |b| each(b, UnaryOp::Acos)),
    OpDef::new("Acosh", 1..=1, |b| each(b, UnaryOp::Acosh)),
    OpDef::new("Angle", 1..=1, |b| each(b, UnaryOp::Angle)),
    OpDef::new("Asin", 1..=1, |b| each(b, UnaryOp::Asin)),
    OpDef::new("Asinh", 1..=1, |b| each(b, UnaryOp::Asinh)),
    OpDef::new("Atan", 1..=1, |b| each(b, UnaryOp::Atan)),
    OpDef::new("Atan2", 2..=2, |b| pair(b, BinaryOp::Atan2)),
    OpDef::new("Atanh", 1..=1, |b| each(b, UnaryOp::Atanh)),
    OpDef::new("BesselI0", 1..=1, |b| each(b, UnaryOp::BesselI0)),
    OpDef::new("BesselI0e", 1..=1, |b| each(b, UnaryOp::BesselI0e)),
    OpDef::new("BesselI1", 1..=1, |b| each(b, UnaryOp::BesselI1)),
    OpDef::new("BesselI1e", 1..=1, |b| each(b, UnaryOp::BesselI1e)),
    OpDef::new("BesselJ0", 1..=1, |b| each(b, UnaryOp::BesselJ0)),
    OpDef::new("BesselJ1", 1..=1, |b| each(b, UnaryOp::BesselJ1)),
    OpDef::new("BesselK0", 1..=1, |b| each(b, UnaryOp::BesselK0)),
    OpDef::new("BesselK0e", 1..=1, |b| each(b, UnaryOp::BesselK0e)),
    OpDef::new("BesselK1", 1..=1, |b| each(b, UnaryOp::BesselK1)),
    OpDef::new("BesselK1e", 1..=1, |b| each(b, UnaryOp::BesselK1e)),
    OpDef::new("BesselY0", 1..=1, |b| each(b, UnaryOp::BesselY0)),
    OpDef::new("BesselY1", 1..=1, |b| each(b, UnaryOp::BesselY1)),
    OpDef::new("Betainc", 3..=3, betainc),
    OpDef::new("Ceil", 1..=1, |b| each(b, UnaryOp::Ceil)),
    OpDef::new("ClipByValue", 3..=3, clip_by_value),
    OpDef::new("Complex", 2..=2, complex),
    OpDef::new("ComplexAbs", 1..=1, |b| each(b, UnaryOp::ComplexAbs)),
    OpDef::new("Conj", 1..=1, |b| each(b, UnaryOp::Conj)),
    OpDef::new("Cos", 1..=1, |b| each(b, UnaryOp::Cos)),
    OpDef::new("Cosh", 1..=1, |b| each(b, UnaryOp::Cosh)),
    OpDef::new("Dawsn", 1..=1, |b| each(b, UnaryOp::Dawsn)),
    OpDef::new("Digamma", 1..=1, |b| each(b, UnaryOp::Digamma)),
    OpDef::new("Elu", 1..=1, |b| each(b, UnaryOp::Elu)),
    OpDef::new("Erf", 1..=1, |b| each(b, UnaryOp::Erf)),
    OpDef::new("Erfc", 1..=1, |b| each(b, UnaryOp::Erfc)),
    OpDef::new("Erfinv", 1..=1, |b| each(b, UnaryOp::Erfinv)),
    OpDef::new("Exp", 1..=1, |b| each(b, UnaryOp::Exp)),
    OpDef::new("Expint", 1..=1, |b| each(b, UnaryOp::Expint)),
    OpDef::new("Expm1", 1..=1, |b| each(b, UnaryOp::Expm1)),
    OpDef::new("Floor", 1..=1, |b| each(b, UnaryOp::Floor)),
    OpDef::new("FresnelCos", 1..=1, |b| each(b, UnaryOp::FresnelCos)),
    OpDef::new("FresnelSin", 1..=1, |b| each(b, UnaryOp::FresnelSin)),
    OpDef::new("Igamma", 2..=2, |b| pair(b, BinaryOp::Igamma)),
    OpDef::new("IgammaGradA", 2..=2, |b| pair(b, BinaryOp::IgammaGradA)),
    OpDef::new("Igammac", 2..=2, |b| pair(b, BinaryOp::Igammac)),
    OpDef::new("Imag", 1..=1, |b| each(b, UnaryOp::Imag)),
    OpDef::new("Inv", 1..=1, |b| each(b, UnaryOp::Inv)),
    OpDef::new("IsFinite", 1..=1, |b| each(b, UnaryOp::IsFinite)),
    OpDef::new("IsInf", 1..=1, |b| each(b, UnaryOp::IsInf)),
    OpDef::new("IsNan", 1..=1, |b| each(b, UnaryOp::IsNan)),
    OpDef::new("LeakyRelu", 1..=1, leaky_relu),
    OpDef::new("Lgamma", 1..=1, |b| each(b, UnaryOp::Lgamma)),
    OpDef::new("Log", 1..=1, |b| each(b, UnaryOp::Log)),
    OpDef::new("Log1p", 1..=1, |b| each(b, UnaryOp::Log1p)),
    OpDef::new("Ndtri", 1..=1, |b| each(b, UnaryOp::Ndtri)),
    OpDef::new("Neg", 1..=1, |b| each(b, UnaryOp::Neg)),
    OpDef::new("NextAfter", 2..=2, |b| pair(b, BinaryOp::NextAfter)),
    OpDef::new("Polygamma", 2..=2, |b| pair(b, BinaryOp::Polygamma)),
    OpDef::new("Prelu", 2..=2, prelu),
    OpDef::new("Real", 1..=1, |b| each(b, UnaryOp::Real)),
    OpDef::new("Reciprocal", 1..=1, |b| each(b, UnaryOp::Reciprocal)),
    OpDef::new("Relu", 1..=1, |b| each(b, UnaryOp::Relu)),
    OpDef::new("Relu6", 1..=1, |b| each(b, UnaryOp::Relu6)),
    OpDef::new("Rint", 1..=1, |b| each(b, UnaryOp::Rint)),
    OpDef::new("Round", 1..=1, |b| each(b, UnaryOp::Round)),
    OpDef::new("Rsqrt", 1..=1, |b| each(b, UnaryOp::Rsqrt)),
    OpDef::new("Selu", 1..=1, |b| each(b, UnaryOp::Selu)),
    OpDef::new("Sigmoid", 1..=1, |b| each(b, UnaryOp::Sigmoid)),
    OpDef::new("Sign", 1..=1, |b| each(b, UnaryOp::Sign)),
    OpDef::new("Sin", 1..=1, |b| each(b, UnaryOp::Sin)),
    OpDef::new("Sinh", 1..=1, |b| each(b, UnaryOp::Sinh)),
    OpDef::new("Softplus", 1..=1, |b| each(b, UnaryOp::Softplus)),
    OpDef::new("Softsign", 1..=1, |b| each(b, UnaryOp::Softsign)),
    OpDef::new("Spence", 1..=1, |b| each(b, UnaryOp::Spence)),
    OpDef::new("Sqrt", 1..=1, |b| each(b, UnaryOp::Sqrt)),
    OpDef::new("Square", 1..=1, |b| each(b, UnaryOp::Square)),
    OpDef::new("Tan", 1..=1, |b| each(b, UnaryOp::Tan)),
    OpDef::new("Tanh", 1..=1, |b| each(b, UnaryOp::Tanh)),
    OpDef::new("Zeta", 2..=2, |b| pair(b, BinaryOp::Zeta)),
];

/// An op of one input.
pub(super) fn each(b: &Build<'_>, op: UnaryOp) -> Result<Box<dyn Op>, OpError> {
    let declared = declared(b)?;
    simple(
        move |x| {
            let v = x.take(0)?;
            check_declared(declared, Some(v.dtype()))?;
            one(unary(op, v))
        },
        move |facts| {
            check_declared(declared, dtype(facts, 0))?;
            let output = dtype(facts, 0).map(|t| op.output_dtype(t)).transpose()?;
            Ok(vec![fact(output, dims(facts, 0).map(<[_]>::to_vec))])
        },
    )
}

fn leaky_relu(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let alpha = b.attrs.float_or("alpha", 0.2)?;
    simple(move |x| one(unary::leaky_relu(x.take(0)?, alpha)), same)
}

fn clip_by_value(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let t = x.take(0)?;
            one(unary::clip_by_value(t, x.tensor(1)?, x.tensor(2)?))
        },
        same,
    )
}

fn complex(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| one(binary::complex(x.tensor(0)?, x.tensor(1)?)),
        |facts| Ok(vec![fact(Some(DType::Complex64), broadcast(dims(facts, 0), dims(facts, 1))?)]),
    )
}

fn prelu(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let (v, alpha) = (x.take(0)?, x.take(1)?);
            one(binary::prelu(v, alpha))
        },
        super::arithmetic::like_both,
    )
}

fn betainc(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| one(binary::betainc(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?)),
        |facts| {
            let both = broadcast(dims(facts, 0), dims(facts, 1))?;
            Ok(vec![fact(Some(DType::Float32), broadcast(both.as_deref(), dims(facts, 2))?)])
        },
    )
}
