//! Reductions over axes and over segments, extremes, running totals, counts.
use tfjs_kernels::{
    DType,
    reduce::{self, ReduceOp, ScanOp},
    segment::{self, SegmentOp},
};

use super::infer::{axis, dims, dtype, fact, int, ints};
use crate::{
    Fact, Op, OpError,
    op::{Build, Inputs, OpDef, one, same, simple},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("All", 2..=2, |b| over_axes(b, ReduceOp::All)),
    OpDef::new("Any", 2..=2, |b| over_axes(b, ReduceOp::Any)),
    OpDef::new("ArgMax", 2..=2, |_| arg_extreme(true)),
    OpDef::new("ArgMin", 2..=2, |_| arg_extreme(false)),
    OpDef::new("Bincount", 3..=3, bincount),
    OpDef::new("CumulativeLogsumexp", 2..=2, |b| scan(b, ScanOp::LogSumExp)),
    OpDef::new("Cumprod", 2..=2, |b| scan(b, ScanOp::Prod)),
    OpDef::new("Cumsum", 2..=2, |b| scan(b, ScanOp::Sum)),
    OpDef::new("DenseBincount", 3..=3, dense_bincount),
    OpDef::new("Max", 2..=2, |b| over_axes(b, ReduceOp::Max)),
    OpDef::new("Mean", 2..=2, |b| over_axes(b, ReduceOp::Mean)),
    OpDef::new("Min", 2..=2, |b| over_axes(b, ReduceOp::Min)),
    OpDef::new("Prod", 2..=2, |b| over_axes(b, ReduceOp::Prod)),
    OpDef::new("SegmentMax", 2..=2, |_| sorted(SegmentOp::Max)),
    OpDef::new("SegmentMean", 2..=2, |_| sorted(SegmentOp::Mean)),
    OpDef::new("SegmentMin", 2..=2, |_| sorted(SegmentOp::Min)),
    OpDef::new("SegmentProd", 2..=2, |_| sorted(SegmentOp::Prod)),
    OpDef::new("SegmentSum", 2..=2, |_| sorted(SegmentOp::Sum)),
    OpDef::new("Sum", 2..=2, |b| over_axes(b, ReduceOp::Sum)),
    OpDef::new("UnsortedSegmentMax", 3..=3, |_| unsorted(SegmentOp::Max)),
    OpDef::new("UnsortedSegmentMin", 3..=3, |_| unsorted(SegmentOp::Min)),
    OpDef::new("UnsortedSegmentProd", 3..=3, |_| unsorted(SegmentOp::Prod)),
    OpDef::new("UnsortedSegmentSum", 3..=3, |_| unsorted(SegmentOp::Sum)),
];

/// The axes in input 1.
fn axes(x: &Inputs) -> Result<Vec<i64>, OpError> {
    Ok(x.elements::<i32>(1, "reduction_indices")?.iter().map(|&a| i64::from(a)).collect())
}

/// A reduction whose axes are input 1.
pub(super) fn over_axes(b: &Build<'_>, op: ReduceOp) -> Result<Box<dyn Op>, OpError> {
    let keep = b.attrs.bool_or("keep_dims", false)?;
    simple(
        move |x| {
            let axes = axes(x)?;
            one(reduce::reduce(op, x.take(0)?, &axes, keep))
        },
        move |facts| {
            if let Some(d) = dtype(facts, 0) {
                op.check(d)?;
            }
            let shape = match (dims(facts, 0), ints(facts, 1)) {
                (Some(dims), Some(axes)) => {
                    let mut reduced = vec![false; dims.len()];
                    for &a in axes {
                        reduced[axis(i64::from(a), dims.len())?] = true;
                    }
                    let sizes = dims.iter().zip(reduced);
                    Some(
                        sizes
                            .filter(|(_, r)| keep || !r)
                            .map(|(&d, r)| if r { Some(1) } else { d })
                            .collect(),
                    )
                }
                (Some(dims), None) if keep => Some(vec![None; dims.len()]),
                _ => None,
            };
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn arg_extreme(max: bool) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let at = x.scalar::<i32>(1, "dimension")?;
            one(reduce::arg_extreme(x.tensor(0)?, at.into(), max))
        },
        |facts| {
            let shape = match (dims(facts, 0), int(facts, 1)) {
                (Some(dims), Some(at)) => {
                    let mut shape = dims.to_vec();
                    shape.remove(axis(at.into(), dims.len())?);
                    Some(shape)
                }
                (Some([_]), None) => Some(Vec::new()),
                _ => None,
            };
            Ok(vec![fact(Some(DType::Int32), shape)])
        },
    )
}

fn scan(b: &Build<'_>, op: ScanOp) -> Result<Box<dyn Op>, OpError> {
    let (exclusive, reverse) = (b.attrs.bool_or("exclusive", false)?, b.attrs.bool_or("reverse", false)?);
    simple(
        move |x| {
            let at = x.scalar::<i32>(1, "axis")?;
            one(reduce::scan(op, x.take(0)?, at.into(), exclusive, reverse))
        },
        same,
    )
}

fn size(x: &Inputs) -> Result<usize, OpError> {
    let size = x.scalar::<i32>(1, "size")?;
    usize::try_from(size).map_err(|_| OpError::input("size", format!("{size} is negative")))
}

fn bincount(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| one(segment::bincount(x.tensor(0)?, size(x)?, x.tensor(2)?)),
        |facts| Ok(vec![fact(dtype(facts, 2), Some(vec![bins(facts)]))]),
    )
}

/// The number of bins, when known.
fn bins(facts: &[Fact]) -> Option<usize> {
    usize::try_from(int(facts, 1)?).ok()
}

fn dense_bincount(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let binary = b.attrs.bool_or("binary_output", false)?;
    simple(
        move |x| one(segment::dense_bincount(x.tensor(0)?, size(x)?, x.tensor(2)?, binary)),
        |facts| {
            let shape = dims(facts, 0).map(|d| match d {
                &[rows, _] => vec![rows, bins(facts)],
                _ => vec![bins(facts)],
            });
            Ok(vec![fact(dtype(facts, 2), shape)])
        },
    )
}

fn sorted(op: SegmentOp) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| one(segment::segment(op, x.tensor(0)?, x.tensor(1)?)),
        move |facts| {
            if let Some(d) = dtype(facts, 0) {
                segment::check_segment(op, d)?;
            }
            let shape = dims(facts, 0).map(|d| {
                let mut d = d.to_vec();
                if let Some(first) = d.first_mut() {
                    *first = None;
                }
                d
            });
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn unsorted(op: SegmentOp) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let n = x.scalar::<i32>(2, "num_segments")?;
            let n =
                usize::try_from(n).map_err(|_| OpError::input("num_segments", format!("{n} is negative")))?;
            one(segment::unsorted_segment(op, x.tensor(0)?, x.tensor(1)?, n))
        },
        move |facts| {
            if let Some(d) = dtype(facts, 0) {
                segment::check_segment(op, d)?;
            }
            let shape = match (dims(facts, 0), dims(facts, 1)) {
                (Some(data), Some(ids)) => {
                    let n = int(facts, 2).and_then(|n| usize::try_from(n).ok());
                    let rest = data.get(ids.len()..).unwrap_or_default();
                    Some(std::iter::once(n).chain(rest.iter().copied()).collect())
                }
                _ => None,
            };
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}
