//! Reductions over axes and segments, running totals.
use tfjs_format::proto::attr_value::Value;
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("Bincount", |c| bin_weights(c, false)),
    row("Cumprod", |c| {
        let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
        let product = c.mul(y, dy)?;
        let sums = scan(c, "Cumsum", product, true)?;
        let g = c.bin("DivNoNan", sums, x)?;
        c.set(0, g)
    }),
    row("Cumsum", |c| {
        let dy = c.dy()?;
        let g = scan(c, "Cumsum", dy, true)?;
        c.set(0, g)
    }),
    row("CumulativeLogsumexp", |c| {
        let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
        // Positive and negative gradients apart, as logarithms.
        let mut parts = Vec::new();
        let minus = c.neg(dy)?;
        for side in [dy, minus] {
            let (zero, lowest) = (c.number(0.0, side), c.number(f32::MIN, side));
            let positive = c.bin("Greater", side, zero)?;
            let log = c.un("Log", side)?;
            let log = c.op("SelectV2", &[positive, log, lowest], &[])?;
            let shifted = c.sub(log, y)?;
            let total = scan(c, "CumulativeLogsumexp", shifted, true)?;
            let sum = c.add(total, x)?;
            parts.push(c.un("Exp", sum)?);
        }
        let g = c.sub(parts[0], parts[1])?;
        c.set(0, g)
    }),
    row("DenseBincount", |c| bin_weights(c, true)),
    row("EuclideanNorm", |c| {
        let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
        let (y, dy) = (kept(c, y)?, kept(c, dy)?);
        let ratio = c.bin("DivNoNan", dy, y)?;
        let g = c.mul(x, ratio)?;
        c.set(0, g)
    }),
    row("Max", extreme),
    row("Mean", |c| {
        let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
        let (all, left) = (c.size(x)?, c.size(y)?);
        let ratio = match (value(c, all), value(c, left)) {
            (Some(all), Some(left)) => c.number(left / all.max(1.0), dy),
            _ => {
                let ratio = c.bin("DivNoNan", left, all)?;
                let dtype = c.fact(dy).dtype.unwrap_or(DType::Float32);
                c.cast(ratio, dtype)?
            }
        };
        let dy = c.mul(dy, ratio)?;
        let dy = kept(c, dy)?;
        let g = c.broadcast_like(dy, x)?;
        c.set(0, g)
    }),
    row("Min", extreme),
    row("Prod", product),
    row("SegmentMax", |c| segment_extreme(c, "SegmentSum", None)),
    row("SegmentMean", |c| {
        let (x, ids, dy) = (c.x(0), c.x(1), c.dy()?);
        let ones = c.un("OnesLike", x)?;
        let counts = c.bin("SegmentSum", ones, ids)?;
        let share = c.bin("DivNoNan", dy, counts)?;
        let g = rows_of(c, share, ids)?;
        c.set(0, g)
    }),
    row("SegmentMin", |c| segment_extreme(c, "SegmentSum", None)),
    row("SegmentProd", segment_product),
    row("SegmentSum", |c| {
        let (ids, dy) = (c.x(1), c.dy()?);
        let g = rows_of(c, dy, ids)?;
        c.set(0, g)
    }),
    row("Sum", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let dy = kept(c, dy)?;
        let g = c.broadcast_like(dy, x)?;
        c.set(0, g)
    }),
    row("UnsortedSegmentMax", |c| segment_extreme(c, "UnsortedSegmentSum", Some(2))),
    row("UnsortedSegmentMin", |c| segment_extreme(c, "UnsortedSegmentSum", Some(2))),
    row("UnsortedSegmentProd", segment_product),
    row("UnsortedSegmentSum", |c| {
        let (ids, dy) = (c.x(1), c.dy()?);
        let g = rows_of(c, dy, ids)?;
        c.set(0, g)
    }),
];

/// The one number that a value is, if it is known.
fn value(c: &GradCx<'_>, port: Port) -> Option<f32> {
    match c.fact(port).value.as_ref()?.data::<f32>().ok()? {
        &[x] => Some(x),
        _ => None,
    }
}

/// `a`, of the reduction's output shape, under the shape with the reduced axes kept.
fn kept(c: &mut GradCx<'_>, a: Port) -> Result<Port> {
    if c.attrs().bool_or("keep_dims", false).unwrap_or(false) {
        return Ok(a);
    }
    let x = c.x(0);
    let dims = c.dims(x);
    if let (Some(dims), Some(axes)) = (&dims, c.ints_of(1)) {
        let rank = dims.len() as i32;
        let reduced = |i: usize| axes.iter().any(|&a| a == i as i32 || a + rank == i as i32);
        let sizes: Vec<Option<usize>> =
            dims.iter().enumerate().map(|(i, d)| if reduced(i) { Some(1) } else { *d }).collect();
        if sizes.iter().filter(|d| d.is_none()).count() <= 1 && !sizes.contains(&Some(0)) {
            let target: Vec<i32> = sizes.iter().map(|d| d.map_or(-1, |d| d as i32)).collect();
            let target = c.ints(&target);
            let out = c.op("Reshape", &[a, target], &[])?;
            c.b.set_shape(out, &sizes);
            return Ok(out);
        }
    }
    // The shape with ones at the reduced axes.
    let shape = c.un("Shape", x)?;
    let rank = c.un("Size", shape)?;
    let axes = c.x(1);
    let sum = c.add(axes, rank)?;
    let axes = c.bin("FloorMod", sum, rank)?;
    let minus = c.ints(&[-1]);
    let axes = c.op("Reshape", &[axes, minus], &[])?;
    let (zero, one) = (c.int(0), c.int(1));
    let all = c.op("Range", &[zero, rank, one], &[])?;
    let ones = c.un("OnesLike", axes)?;
    let target = c.op("DynamicStitch", &[all, axes, shape, ones], &[("N", attr::int(2))])?;
    let out = c.op("Reshape", &[a, target], &[])?;
    if let Some(dims) = dims {
        c.b.set_shape(out, &vec![None; dims.len()]);
    }
    Ok(out)
}

/// Equal elements share the gradient of the largest or smallest.
fn extreme(c: &mut GradCx<'_>) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
    let (y, dy) = (kept(c, y)?, kept(c, dy)?);
    let equal = c.bin("Equal", x, y)?;
    let picked = c.cast(equal, DType::Float32)?;
    let axes = c.x(1);
    let count = c.op("Sum", &[picked, axes], &[("keep_dims", attr::bool(true))])?;
    let share = c.div(dy, count)?;
    let g = c.mul(picked, share)?;
    c.set(0, g)
}

/// The product of all others: of those before times those after.
fn product(c: &mut GradCx<'_>) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let rank = c.rank(x)? as i32;
    let Some(axes) = c.ints_of(1) else { return c.refuse("the axes are not constant") };
    let reduced: Vec<i32> = axes.iter().map(|&a| if a < 0 { a + rank } else { a }).collect();
    if let Some(axis) = reduced.iter().find(|a| !(0..rank).contains(*a)) {
        return c.refuse(format!("axis {axis} of {rank} dimensions"));
    }
    let dy = kept(c, dy)?;
    if reduced.is_empty() {
        return c.set(0, dy);
    }
    let mut perm: Vec<i32> = (0..rank).filter(|a| !reduced.contains(a)).collect();
    let others = perm.len();
    perm.extend(&reduced);
    let moved = c.transpose(x, &perm)?;
    let shape = c.shape(moved)?;
    let flat = if reduced.len() == 1 {
        moved
    } else {
        let (zero, count) = (c.ints(&[0]), c.ints(&[others as i32]));
        let lead = c.op("Slice", &[shape, zero, count], &[])?;
        let (last, axis) = (c.ints(&[-1]), c.int(0));
        let target = c.op("ConcatV2", &[lead, last, axis], &[])?;
        c.op("Reshape", &[moved, target], &[])?
    };
    let axis = c.int(others as i32);
    let exclusive = |reverse: bool| [("exclusive", attr::bool(true)), ("reverse", attr::bool(reverse))];
    let before = c.op("Cumprod", &[flat, axis], &exclusive(false))?;
    let after = c.op("Cumprod", &[flat, axis], &exclusive(true))?;
    let rest = c.mul(before, after)?;
    let rest = c.op("Reshape", &[rest, shape], &[])?;
    let mut back = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        back[from as usize] = to as i32;
    }
    let rest = c.transpose(rest, &back)?;
    c.b.refine(rest, x);
    let g = c.mul(dy, rest)?;
    c.set(0, g)
}

/// The node's scan, the other way round if `turned`.
fn scan(c: &mut GradCx<'_>, op: &str, a: Port, turned: bool) -> Result<Port> {
    let flag = |name| c.attrs().bool_or(name, false).unwrap_or(false);
    let attrs: [(&str, Value); 2] =
        [("exclusive", attr::bool(flag("exclusive"))), ("reverse", attr::bool(flag("reverse") != turned))];
    let axis = c.x(1);
    c.op(op, &[a, axis], &attrs)
}

/// Rows `ids` of `a`; zeros where an id is negative.
pub(super) fn rows_of(c: &mut GradCx<'_>, a: Port, ids: Port) -> Result<Port> {
    let (zero, axis) = (c.int(0), c.int(0));
    let safe = c.bin("Maximum", ids, zero)?;
    let rows = c.op("GatherV2", &[a, safe, axis], &[])?;
    let there = c.bin("GreaterEqual", ids, zero)?;
    // As many dimensions as the rows have.
    let (rank, own) = (c.rank(rows)?, c.rank(ids)?);
    let mut there = there;
    for _ in own..rank {
        let last = c.int(-1);
        there = c.op("ExpandDims", &[there, last], &[])?;
    }
    c.only_where(there, rows)
}

fn segment_extreme(c: &mut GradCx<'_>, sum: &str, segments: Option<usize>) -> Result<()> {
    let (x, ids, y, dy) = (c.x(0), c.x(1), c.y(0), c.dy()?);
    let best = rows_of(c, y, ids)?;
    let equal = c.bin("Equal", x, best)?;
    let picked = c.cast(equal, DType::Float32)?;
    let inputs: Vec<Port> = [picked, ids].into_iter().chain(segments.map(|i| c.x(i))).collect();
    let count = c.op(sum, &inputs, &[])?;
    let share = c.bin("DivNoNan", dy, count)?;
    let share = rows_of(c, share, ids)?;
    let g = c.mul(picked, share)?;
    c.set(0, g)
}

/// The product of the others of a segment; its zeros, if there is one, have that of all others, if more, none.
fn segment_product(c: &mut GradCx<'_>) -> Result<()> {
    let (x, ids, y, dy) = (c.x(0), c.x(1), c.y(0), c.dy()?);
    let segments = (c.inputs() > 2).then(|| c.x(2));
    let over = |c: &mut GradCx<'_>, op: &str, a: Port| {
        let inputs: Vec<Port> = [a, ids].into_iter().chain(segments).collect();
        c.op(if segments.is_some() { op } else { op.trim_start_matches("Unsorted") }, &inputs, &[])
    };
    let (zero, one) = (c.number(0.0, x), c.number(1.0, x));
    let is_zero = c.bin("Equal", x, zero)?;
    let dtype = c.fact(x).dtype.unwrap_or(DType::Float32);
    let mask = c.cast(is_zero, dtype)?;
    let zeros = over(c, "UnsortedSegmentSum", mask)?;
    let zeros = if dtype == DType::Complex64 { c.un("Real", zeros)? } else { zeros };
    let single = c.number(1.0, zeros);
    let many = c.bin("Greater", zeros, single)?;
    let dy = c.unless(many, dy)?;
    let others = c.op("SelectV2", &[is_zero, one, x], &[])?;
    let rest = over(c, "UnsortedSegmentProd", others)?;
    let (rest, whole, dy) = (rows_of(c, rest, ids)?, rows_of(c, y, ids)?, rows_of(c, dy, ids)?);
    let quotient = c.div(whole, others)?;
    let slope = c.op("SelectV2", &[is_zero, rest, quotient], &[])?;
    let slope = c.conj(slope)?;
    let g = c.mul(dy, slope)?;
    c.set(0, g)
}

/// A weight counts in the bin of its number; bins that there are not have none.
fn bin_weights(c: &mut GradCx<'_>, dense: bool) -> Result<()> {
    let (numbers, size, weights, dy) = (c.x(0), c.x(1), c.x(2), c.dy()?);
    if !c.wants(2) || c.attrs().bool_or("binary_output", false)? {
        return Ok(());
    }
    let one = c.int(1);
    let last = c.sub(size, one)?;
    let (inside, safe) = (c.bin("Less", numbers, size)?, c.bin("Minimum", numbers, last)?);
    let batch = dense && c.rank(dy)? == 2;
    let axis = c.int(i32::from(batch));
    let attrs = [("batch_dims", attr::int(i64::from(batch)))];
    let bins = c.op("GatherV2", &[dy, safe, axis], &attrs)?;
    let g = c.only_where(inside, bins)?;
    let g = c.reshape_like(g, weights)?;
    c.set(2, g)
}
