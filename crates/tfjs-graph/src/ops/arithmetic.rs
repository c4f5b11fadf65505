//! Arithmetic of two or more tensors.
use tfjs_kernels::{
    DType,
    binary::{self, BinaryOp, binary},
};

use super::infer::{Dims, choice, dims, dtype, fact};
use crate::{
    Fact, Op, OpError, Value,
    op::{ANY, Build, OpDef, one, simple},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("AccumulateNV2", 1..=ANY, add_n),
    OpDef::new("Add", 2..=2, |b| pair(b, BinaryOp::Add)),
    OpDef::new("AddN", 1..=ANY, add_n),
    OpDef::new("AddV2", 2..=2, |b| pair(b, BinaryOp::Add)),
    OpDef::new("BiasAdd", 2..=2, bias_add),
    OpDef::new("BiasAddV1", 2..=2, bias_add),
    OpDef::new("Div", 2..=2, |b| pair(b, BinaryOp::Div)),
    OpDef::new("DivNoNan", 2..=2, |b| pair(b, BinaryOp::DivNoNan)),
    OpDef::new("FloorDiv", 2..=2, |b| pair(b, BinaryOp::FloorDiv)),
    OpDef::new("FloorMod", 2..=2, |b| pair(b, BinaryOp::FloorMod)),
    OpDef::new("Maximum", 2..=2, |b| pair(b, BinaryOp::Maximum)),
    OpDef::new("Minimum", 2..=2, |b| pair(b, BinaryOp::Minimum)),
    OpDef::new("Mod", 2..=2, |b| pair(b, BinaryOp::Mod)),
    OpDef::new("Mul", 2..=2, |b| pair(b, BinaryOp::Mul)),
    OpDef::new("MulNoNan", 2..=2, |b| pair(b, BinaryOp::MulNoNan)),
    OpDef::new("Pow", 2..=2, |b| pair(b, BinaryOp::Pow)),
    OpDef::new("RealDiv", 2..=2, |b| pair(b, BinaryOp::RealDiv)),
    OpDef::new("SquaredDifference", 2..=2, |b| pair(b, BinaryOp::SquaredDifference)),
    OpDef::new("Sub", 2..=2, |b| pair(b, BinaryOp::Sub)),
    OpDef::new("TruncateDiv", 2..=2, |b| pair(b, BinaryOp::TruncateDiv)),
    OpDef::new("TruncateMod", 2..=2, |b| pair(b, BinaryOp::TruncateMod)),
    OpDef::new("Xdivy", 2..=2, |b| pair(b, BinaryOp::Xdivy)),
    OpDef::new("Xlog1py", 2..=2, |b| pair(b, BinaryOp::Xlog1py)),
    OpDef::new("Xlogy", 2..=2, |b| pair(b, BinaryOp::Xlogy)),
];

/// An op of two broadcast inputs.
pub(super) fn pair(b: &Build<'_>, op: BinaryOp) -> Result<Box<dyn Op>, OpError> {
    let declared = declared(b)?;
    simple(
        move |x| {
            let (a, b) = (x.take(0)?, x.take(1)?);
            check_declared(declared, Some(a.dtype()))?;
            one(binary(op, a, b))
        },
        move |facts| {
            check_declared(declared, dtype(facts, 0))?;
            let dtype = match (dtype(facts, 0), dtype(facts, 1)) {
                (Some(x), Some(y)) => Some(op.output_dtype(x, y)?),
                _ => None,
            };
            Ok(vec![fact(dtype, broadcast(dims(facts, 0), dims(facts, 1))?)])
        },
    )
}

/// The type that attribute `T` says the inputs have.
pub(super) fn declared(b: &Build<'_>) -> Result<Option<DType>, OpError> {
    Ok(b.attrs.opt_data_type("T")?.and_then(DType::from_proto))
}

/// Checks input 0 against the type that the node declares.
pub(super) fn check_declared(declared: Option<DType>, got: Option<DType>) -> Result<(), OpError> {
    match (declared, got) {
        (Some(want), Some(got)) if want != got => {
            Err(OpError::input("x", format!("it is {got}, but attribute `T` says {want}")))
        }
        _ => Ok(()),
    }
}

/// Inference: one output of the type of input 0 and the shape to which both inputs broadcast.
pub(super) fn like_both(facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(vec![fact(dtype(facts, 0), broadcast(dims(facts, 0), dims(facts, 1))?)])
}

/// The shape to which two partly known shapes broadcast.
pub(super) fn broadcast(a: Option<&[Option<usize>]>, b: Option<&[Option<usize>]>) -> Result<Dims, OpError> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let rank = a.len().max(b.len());
    let dim = |d: &[Option<usize>], i: usize| (i + d.len()).checked_sub(rank).map_or(Some(1), |k| d[k]);
    let dims = (0..rank).map(|i| match (dim(a, i), dim(b, i)) {
        (Some(1), d) | (d, Some(1)) => Ok(d),
        (Some(x), Some(y)) if x != y => {
            Err(OpError::input("y", format!("{y} does not broadcast with {x} in dimension {i}")))
        }
        // One unknown: it is 1, or the known size.
        (d, None) | (None, d) | (d, _) => Ok(d),
    });
    Ok(Some(dims.collect::<Result<_, OpError>>()?))
}

/// What both shapes say of one shape.
pub(super) fn merge(a: Option<&[Option<usize>]>, b: Option<&[Option<usize>]>) -> Result<Dims, OpError> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(a.or(b).map(<[_]>::to_vec)) };
    let differ = || OpError::input("inputs", "the shapes differ");
    if a.len() != b.len() {
        return Err(differ());
    }
    let dims = a.iter().zip(b).map(|(&x, &y)| match (x, y) {
        (Some(x), Some(y)) if x != y => Err(differ()),
        (x, y) => Ok(x.or(y)),
    });
    Ok(Some(dims.collect::<Result<_, OpError>>()?))
}

fn add_n(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let n = x.len();
            if let Ok(Value::List(_)) = x.value(0) {
                return super::control::add_lists(x);
            }
            one(binary::add_n(x.take_tensors(0..n)?))
        },
        |facts| {
            let mut shape: Dims = None;
            for f in facts {
                shape = merge(shape.as_deref(), f.shape.as_deref())?;
            }
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

/// Whether the attribute puts channels first: `NCHW`, `NCDHW` and the like.
pub(super) fn channels_first(b: &Build<'_>) -> Result<bool, OpError> {
    choice(
        b,
        "data_format",
        "NHWC",
        &[("NHWC", false), ("NDHWC", false), ("NCHW", true), ("NCDHW", true)],
        "NHWC, NDHWC, NCHW and NCDHW",
    )
}

fn bias_add(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let first = channels_first(b)?;
    simple(
        move |x| {
            let (value, bias) = (x.take(0)?, x.take(1)?);
            one(binary::bias_add(value, bias, first))
        },
        move |facts| {
            let (value, bias) = (dims(facts, 0), dims(facts, 1));
            if bias.is_some_and(|b| b.len() != 1) {
                return Err(OpError::input("bias", "it is not a vector"));
            }
            if value.is_some_and(|v| v.len() < 2) {
                return Err(OpError::input("value", "it has fewer than two dimensions"));
            }
            Ok(vec![fact(dtype(facts, 0), value.map(<[_]>::to_vec))])
        },
    )
}

/// Inference: a bool of the shape of input 0.
pub(super) fn bools(facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(vec![fact(Some(DType::Bool), dims(facts, 0).map(<[_]>::to_vec))])
}
