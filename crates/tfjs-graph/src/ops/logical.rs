//! Comparisons, logic, bits and choices.
use tfjs_kernels::{
    DType, Tensor,
    binary::{self, BinaryOp, binary},
    broadcast_shape, select,
    unary::UnaryOp,
};

use super::{
    arithmetic::{bools, broadcast, merge, pair},
    basic_math::each,
    infer::{dims, dtype, fact},
};
use crate::{
    Fact, Op, OpError,
    op::{Build, OpDef, one, simple, values},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("ApproximateEqual", 2..=2, approximate_equal),
    OpDef::new("BitwiseAnd", 2..=2, |b| pair(b, BinaryOp::BitwiseAnd)),
    OpDef::new("BitwiseOr", 2..=2, |b| pair(b, BinaryOp::BitwiseOr)),
    OpDef::new("BitwiseXor", 2..=2, |b| pair(b, BinaryOp::BitwiseXor)),
    OpDef::new("Equal", 2..=2, |b| equality(b, BinaryOp::Equal)),
    OpDef::new("Greater", 2..=2, |b| pair(b, BinaryOp::Greater)),
    OpDef::new("GreaterEqual", 2..=2, |b| pair(b, BinaryOp::GreaterEqual)),
    OpDef::new("Invert", 1..=1, |b| each(b, UnaryOp::Invert)),
    OpDef::new("LeftShift", 2..=2, |b| pair(b, BinaryOp::LeftShift)),
    OpDef::new("Less", 2..=2, |b| pair(b, BinaryOp::Less)),
    OpDef::new("LessEqual", 2..=2, |b| pair(b, BinaryOp::LessEqual)),
    OpDef::new("LogicalAnd", 2..=2, |b| pair(b, BinaryOp::LogicalAnd)),
    OpDef::new("LogicalNot", 1..=1, |b| each(b, UnaryOp::LogicalNot)),
    OpDef::new("LogicalOr", 2..=2, |b| pair(b, BinaryOp::LogicalOr)),
    OpDef::new("NotEqual", 2..=2, |b| equality(b, BinaryOp::NotEqual)),
    OpDef::new("RightShift", 2..=2, |b| pair(b, BinaryOp::RightShift)),
    OpDef::new("Select", 3..=3, select),
    OpDef::new("SelectV2", 3..=3, select_v2),
];

/// `Equal` and `NotEqual`: shapes that do not go together may be an answer rather than an error.
fn equality(b: &Build<'_>, op: BinaryOp) -> Result<Box<dyn Op>, OpError> {
    if b.attrs.bool_or("incompatible_shape_error", true)? {
        return pair(b, op);
    }
    simple(
        move |x| {
            let (a, b) = (x.take(0)?, x.take(1)?);
            if broadcast_shape(a.dims(), b.dims()).is_err() {
                op.output_dtype(a.dtype(), b.dtype())?;
                return Ok(values([Tensor::scalar(op == BinaryOp::NotEqual)]));
            }
            one(binary(op, a, b))
        },
        |facts| {
            let shape = broadcast(dims(facts, 0), dims(facts, 1)).unwrap_or(Some(Vec::new()));
            // With unknown dimensions even the rank is open.
            Ok(vec![fact(Some(DType::Bool), shape.filter(|s| s.iter().all(Option::is_some)))])
        },
    )
}

fn approximate_equal(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let tolerance = b.attrs.float_or("tolerance", 1e-5)?;
    simple(move |x| one(binary::approximate_equal(x.tensor(0)?, x.tensor(1)?, tolerance)), bools)
}

fn select(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let (a, b) = (x.take(1)?, x.take(2)?);
            one(select::select(x.tensor(0)?, a, b))
        },
        |facts| {
            check(facts)?;
            Ok(vec![fact(dtype(facts, 1).or(dtype(facts, 2)), merge(dims(facts, 1), dims(facts, 2))?)])
        },
    )
}

fn select_v2(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let (a, b) = (x.take(1)?, x.take(2)?);
            one(select::select_v2(x.tensor(0)?, a, b))
        },
        |facts| {
            check(facts)?;
            let both = broadcast(dims(facts, 1), dims(facts, 2))?;
            Ok(vec![fact(dtype(facts, 1).or(dtype(facts, 2)), broadcast(dims(facts, 0), both.as_deref())?)])
        },
    )
}

fn check(facts: &[Fact]) -> Result<(), OpError> {
    if dtype(facts, 0).is_some_and(|d| d != DType::Bool) {
        return Err(OpError::input("condition", "it is not bool"));
    }
    match (dtype(facts, 1), dtype(facts, 2)) {
        (Some(a), Some(b)) if a != b => Err(OpError::input("e", format!("it is {b}, the other value {a}"))),
        _ => Ok(()),
    }
}
