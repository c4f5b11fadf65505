//! Slices, joins, gathers, scatters.
use tfjs_kernels::{DType, Tensor};

use super::{GradCx, Gradient, Result, Row, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("Concat", |c| concat(c, 0, 1)),
    row("ConcatV2", |c| concat(c, c.inputs() - 1, 0)),
    row("DynamicPartition", |c| {
        let (x, parts) = (c.x(0), c.x(1));
        let count = c.count("num_partitions")? as i64;
        // Where each row went.
        let rows = c.un("Size", parts)?;
        let (zero, one) = (c.int(0), c.int(1));
        let positions = c.op("Range", &[zero, rows, one], &[])?;
        let shape = c.un("Shape", parts)?;
        let positions = c.op("Reshape", &[positions, shape], &[])?;
        let attrs = [("num_partitions", attr::int(count))];
        let went = c.b.op_n("DynamicPartition", &[positions, parts], &attrs, count as usize)?;
        let mut inputs = went;
        for i in 0..count as usize {
            inputs.push(c.dy_or_zeros(i)?);
        }
        let flat = c.op("DynamicStitch", &inputs, &[("N", attr::int(count))])?;
        let g = c.reshape_like(flat, x)?;
        c.set(0, g)
    }),
    row("DynamicStitch", stitch),
    row("ParallelDynamicStitch", stitch),
    row("Gather", |c| {
        let zero = c.int(0);
        gather(c, zero, 0)
    }),
    row("GatherNd", |c| {
        let (x, indices, dy) = (c.x(0), c.x(1), c.dy()?);
        let shape = c.shape(x)?;
        let g = c.op("ScatterNd", &[indices, dy, shape], &[])?;
        c.set(0, g)
    }),
    row("GatherV2", |c| {
        let (axis, batch) = (c.x(2), c.attrs().int_or("batch_dims", 0)?);
        gather(c, axis, batch)
    }),
    row("Pack", |c| {
        let (dy, n) = (c.dy()?, c.inputs());
        let axis = c.attrs().int_or("axis", 0)?;
        let attrs = [("num", attr::int(n as i64)), ("axis", attr::int(axis))];
        for (i, g) in c.b.op_n("Unpack", &[dy], &attrs, n)?.into_iter().enumerate() {
            c.set(i, g)?;
        }
        Ok(())
    }),
    row("Reverse", |c| {
        let (axes, dy) = (c.x(1), c.dy()?);
        let g = c.bin("Reverse", dy, axes)?;
        c.set(0, g)
    }),
    row("ReverseSequence", |c| {
        let (lengths, dy) = (c.x(1), c.dy()?);
        let g = c.op_with("ReverseSequence", &[dy, lengths], &["seq_dim", "batch_dim"])?;
        c.set(0, g)
    }),
    row("ReverseV2", |c| {
        let (axes, dy) = (c.x(1), c.dy()?);
        let g = c.bin("ReverseV2", dy, axes)?;
        c.set(0, g)
    }),
    row("Roll", |c| {
        let (shift, axis, dy) = (c.x(1), c.x(2), c.dy()?);
        let back = c.neg(shift)?;
        let g = c.op("Roll", &[dy, back, axis], &[])?;
        c.set(0, g)
    }),
    row("ScatterNd", |c| {
        let (indices, dy) = (c.x(0), c.dy()?);
        let g = c.bin("GatherNd", dy, indices)?;
        c.set(1, g)
    }),
    row("Slice", |c| {
        let (x, begin, y, dy) = (c.x(0), c.x(1), c.y(0), c.dy()?);
        let paddings = match (c.fact(x).full_shape(), c.fact(y).full_shape(), c.ints_of(1)) {
            (Some(whole), Some(part), Some(begin)) if begin.len() == whole.len() => {
                let pairs = begin
                    .iter()
                    .zip(whole.iter().zip(part.iter()))
                    .flat_map(|(&b, (&w, &p))| [b, w as i32 - b - p as i32]);
                let pairs: Vec<i32> = pairs.collect();
                let paddings = Tensor::new([begin.len(), 2], pairs);
                let paddings = paddings.or_else(|e| c.refuse(e.to_string()))?;
                c.b.constant(paddings)
            }
            _ => {
                let (whole, part) = (c.un("Shape", x)?, c.un("Shape", y)?);
                let after = c.sub(whole, part)?;
                let after = c.sub(after, begin)?;
                c.op("Pack", &[begin, after], &[("axis", attr::int(1))])?
            }
        };
        let g = c.bin("Pad", dy, paddings)?;
        c.set(0, g)
    }),
    row("SparseToDense", |c| {
        let (indices, values, dy) = (c.x(0), c.x(2), c.dy()?);
        // One index is a scalar, indices of a vector are one.
        let indices = match c.rank(indices)? {
            2 => indices,
            _ => {
                let column = c.ints(&[-1, 1]);
                c.op("Reshape", &[indices, column], &[])?
            }
        };
        let mut found = c.bin("GatherNd", dy, indices)?;
        if c.rank(values)? == 0 {
            found = total(c, found)?;
        }
        c.set(2, found)?;
        if c.wants(3) {
            let (all, given) = (total(c, dy)?, total(c, found)?);
            let g = c.sub(all, given)?;
            c.set(3, g)?;
        }
        Ok(())
    }),
    row("Split", |c| {
        let (axis, n) = (c.x(0), c.count("num_split")?);
        let mut parts = Vec::with_capacity(n + 1);
        for i in 0..n {
            parts.push(c.dy_or_zeros(i)?);
        }
        parts.push(axis);
        let g = c.op("ConcatV2", &parts, &[])?;
        c.set(1, g)
    }),
    row("SplitV", |c| {
        let (axis, n) = (c.x(2), c.count("num_split")?);
        let mut parts = Vec::with_capacity(n + 1);
        for i in 0..n {
            parts.push(c.dy_or_zeros(i)?);
        }
        parts.push(axis);
        let g = c.op("ConcatV2", &parts, &[])?;
        c.set(0, g)
    }),
    row("StridedSlice", |c| {
        let (x, begin, end, strides, dy) = (c.x(0), c.x(1), c.x(2), c.x(3), c.dy()?);
        let shape = c.shape(x)?;
        let g = c.op_with("StridedSliceGrad", &[shape, begin, end, strides, dy], &MASKS)?;
        c.set(0, g)
    }),
    row("StridedSliceGrad", |c| {
        let (begin, end, strides, dy) = (c.x(1), c.x(2), c.x(3), c.dy()?);
        let g = c.op_with("StridedSlice", &[dy, begin, end, strides], &MASKS)?;
        c.set(4, g)
    }),
    row("TensorScatterAdd", |c| scatter(c, false)),
    row("TensorScatterMax", scatter_extreme),
    row("TensorScatterMin", scatter_extreme),
    row("TensorScatterSub", |c| scatter(c, true)),
    row("TensorScatterUpdate", |c| {
        let (indices, updates, dy) = (c.x(1), c.x(2), c.dy()?);
        let zeros = c.un("ZerosLike", updates)?;
        let g = c.op("TensorScatterUpdate", &[dy, indices, zeros], &[])?;
        c.set(0, g)?;
        let g = c.bin("GatherNd", dy, indices)?;
        c.set(2, g)
    }),
    row("TensorStridedSliceUpdate", |c| {
        let (begin, end, strides, value, dy) = (c.x(1), c.x(2), c.x(3), c.x(4), c.dy()?);
        let zeros = c.un("ZerosLike", value)?;
        let g = c.op_with("TensorStridedSliceUpdate", &[dy, begin, end, strides, zeros], &MASKS)?;
        c.set(0, g)?;
        let g = c.op_with("StridedSlice", &[dy, begin, end, strides], &MASKS)?;
        let g = c.reshape_like(g, value)?;
        c.set(4, g)
    }),
    row("Tile", |c| {
        let (x, multiples, dy) = (c.x(0), c.x(1), c.dy()?);
        let rank = c.rank(x)?;
        if rank == 0 {
            return c.set(0, dy);
        }
        // Dimensions as (copies, size) pairs; the copies are summed.
        let target = match (c.fact(x).full_shape(), c.ints_of(1)) {
            (Some(shape), Some(by)) => {
                let pairs = by.iter().zip(shape.iter()).flat_map(|(&m, &d)| [m, d as i32]);
                c.ints(&pairs.collect::<Vec<_>>())
            }
            _ => {
                let shape = c.un("Shape", x)?;
                let pairs = c.op("Pack", &[multiples, shape], &[("axis", attr::int(1))])?;
                let flat = c.ints(&[-1]);
                c.op("Reshape", &[pairs, flat], &[])?
            }
        };
        let split = c.op("Reshape", &[dy, target], &[])?;
        let axes = c.ints(&(0..rank as i32).map(|i| 2 * i).collect::<Vec<_>>());
        let g = c.op("Sum", &[split, axes], &[("keep_dims", attr::bool(false))])?;
        c.set(0, g)
    }),
    row("TopK", top_k),
    row("TopKV2", top_k),
    row("Unpack", |c| {
        let (n, axis) = (c.count("num")?, c.attrs().int_or("axis", 0)?);
        let mut parts = Vec::with_capacity(n);
        for i in 0..n {
            parts.push(c.dy_or_zeros(i)?);
        }
        let g = c.op("Pack", &parts, &[("axis", attr::int(axis))])?;
        c.set(0, g)
    }),
];

const MASKS: [&str; 5] = ["begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"];

fn concat(c: &mut GradCx<'_>, axis: usize, first: usize) -> Result<()> {
    let (axis, n, dy) = (c.x(axis), c.inputs() - 1, c.dy()?);
    if n == 1 {
        return c.set(first, dy);
    }
    let at = c.fact(axis).ints().and_then(|a| a.first().copied());
    let known: Option<Vec<i32>> = at.and_then(|at| {
        (first..first + n)
            .map(|i| {
                let dims = c.dims(c.x(i))?;
                let at = if at < 0 { at + dims.len() as i32 } else { at };
                Some((*dims.get(usize::try_from(at).ok()?)?)? as i32)
            })
            .collect()
    });
    let sizes = match known {
        Some(sizes) => c.ints(&sizes),
        None => {
            let (zero, mut sizes) = (c.int(0), Vec::with_capacity(n));
            let rank = c.un("Rank", dy)?;
            let sum = c.add(axis, rank)?;
            let at = c.bin("FloorMod", sum, rank)?;
            for i in first..first + n {
                let shape = c.un("Shape", c.x(i))?;
                sizes.push(c.op("GatherV2", &[shape, at, zero], &[])?);
            }
            c.op("Pack", &sizes, &[("axis", attr::int(0))])?
        }
    };
    let attrs = [("num_split", attr::int(n as i64))];
    for (i, g) in c.b.op_n("SplitV", &[dy, sizes, axis], &attrs, n)?.into_iter().enumerate() {
        c.set(first + i, g)?;
    }
    Ok(())
}

fn stitch(c: &mut GradCx<'_>) -> Result<()> {
    let (n, dy) = (c.inputs() / 2, c.dy()?);
    let axis = c.int(0);
    for i in 0..n {
        if c.wants(n + i) {
            let indices = c.x(i);
            let g = c.op("GatherV2", &[dy, indices, axis], &[])?;
            c.set(n + i, g)?;
        }
    }
    Ok(())
}

/// Along the first axis the gradient is rows with their numbers; otherwise the axis is brought to the front.
fn gather(c: &mut GradCx<'_>, axis: Port, batch_dims: i64) -> Result<()> {
    let (x, indices, dy) = (c.x(0), c.x(1), c.dy()?);
    let rank = c.rank(x)? as i32;
    let Some(at) = c.fact(axis).ints().and_then(|a| a.first().copied()) else {
        return c.refuse("the axis is not constant");
    };
    let at = if at < 0 { at + rank } else { at };
    let index_rank = c.rank(indices)? as i32;
    let batch = if batch_dims < 0 { batch_dims as i32 + index_rank } else { batch_dims as i32 };
    if !(0..rank).contains(&at) || !(0..=at.min(index_rank)).contains(&batch) {
        return c.refuse(format!("axis {at} with {batch} batch dimensions of {rank}"));
    }
    if batch == 0 && at == 0 {
        let shape = c.shape(x)?;
        let flat = c.ints(&[-1]);
        let rows = c.op("Reshape", &[indices, flat], &[])?;
        let values = if index_rank == 1 {
            dy
        } else {
            let target = match c.dims(x).map(|d| d[1..].iter().copied().collect::<Option<Vec<usize>>>()) {
                Some(Some(rest)) => {
                    let mut target = vec![-1];
                    target.extend(rest.iter().map(|&d| d as i32));
                    if rest.contains(&0) { None } else { Some(c.ints(&target)) }
                }
                _ => None,
            };
            let target = match target {
                Some(target) => target,
                None => {
                    let count = c.un("Shape", rows)?;
                    let (one, all) = (c.ints(&[1]), c.ints(&[-1]));
                    let rest = c.op("Slice", &[shape, one, all], &[])?;
                    let zero = c.int(0);
                    c.op("ConcatV2", &[count, rest, zero], &[])?
                }
            };
            c.op("Reshape", &[dy, target], &[])?
        };
        return c.set_any(0, Gradient::Sparse { indices: rows, values, shape });
    }
    // Offsets of the batches make one long list of rows: [batch.., at, others] becomes [batch · at, others].
    let lead = batch;
    let mut perm: Vec<i32> = (0..lead).chain([at]).collect();
    perm.extend((lead..rank).filter(|&a| a != at));
    let out_rank = rank - 1 + index_rank - batch;
    let taken = index_rank - batch;
    let mut out_perm: Vec<i32> = (0..lead).chain(at..at + taken).collect();
    out_perm.extend((lead..out_rank).filter(|&a| !(at..at + taken).contains(&a)));
    let dy = c.transpose(dy, &out_perm)?;
    let x_shape = c.shape(x)?;
    let (perm_port, axis0) = (c.ints(&perm), c.int(0));
    let moved_shape = c.op("GatherV2", &[x_shape, perm_port, axis0], &[])?;
    let size = c.dim(x, at as usize)?;
    let flat = c.ints(&[-1]);
    let ids = if batch == 0 {
        c.op("Reshape", &[indices, flat], &[])?
    } else {
        let (zero, count) = (c.ints(&[0]), c.ints(&[batch]));
        let index_shape = c.un("Shape", indices)?;
        let batches = c.op("Slice", &[index_shape, zero, count], &[])?;
        let total = c.op("Prod", &[batches, zero], &[("keep_dims", attr::bool(false))])?;
        let (start, one) = (c.int(0), c.int(1));
        let number = c.op("Range", &[start, total, one], &[])?;
        let offset = c.mul(number, size)?;
        let column = c.ints(&[-1, 1]);
        let offset = c.op("Reshape", &[offset, column], &[])?;
        let minus = c.ints(&[-1]);
        let total1 = c.op("Reshape", &[total, minus], &[])?;
        let target = c.op("ConcatV2", &[total1, minus, axis0], &[])?;
        let rows = c.op("Reshape", &[indices, target], &[])?;
        let ids = c.add(rows, offset)?;
        c.op("Reshape", &[ids, flat], &[])?
    };
    // The rows: everything behind the batch and the axis.
    let (behind, all) = (c.ints(&[lead + 1]), c.ints(&[-1]));
    let rest = c.op("Slice", &[moved_shape, behind, all], &[])?;
    let count = c.un("Shape", ids)?;
    let target = c.op("ConcatV2", &[count, rest, axis0], &[])?;
    let values = c.op("Reshape", &[dy, target], &[])?;
    let (zero, front) = (c.ints(&[0]), c.ints(&[lead + 1]));
    let fronts = c.op("Slice", &[moved_shape, zero, front], &[])?;
    let segments = c.op("Prod", &[fronts, zero], &[("keep_dims", attr::bool(false))])?;
    let sums = c.op("UnsortedSegmentSum", &[values, ids, segments], &[])?;
    let moved = c.op("Reshape", &[sums, moved_shape], &[])?;
    let mut back = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        back[from as usize] = to as i32;
    }
    let g = c.transpose(moved, &back)?;
    c.set(0, g)
}

fn scatter(c: &mut GradCx<'_>, minus: bool) -> Result<()> {
    let (indices, dy) = (c.x(1), c.dy()?);
    c.set(0, dy)?;
    let rows = c.bin("GatherNd", dy, indices)?;
    let g = if minus { c.neg(rows)? } else { rows };
    c.set(2, g)
}

/// Values as good as what came out share its gradient.
fn scatter_extreme(c: &mut GradCx<'_>) -> Result<()> {
    let (x, indices, updates, y, dy) = (c.x(0), c.x(1), c.x(2), c.y(0), c.dy()?);
    let kept = c.bin("Equal", x, y)?;
    let kept = c.cast(kept, DType::Float32)?;
    let came = c.bin("GatherNd", y, indices)?;
    let taken = c.bin("Equal", updates, came)?;
    let taken = c.cast(taken, DType::Float32)?;
    let shape = c.shape(x)?;
    let counts = c.op("ScatterNd", &[indices, taken, shape], &[])?;
    let counts = c.add(kept, counts)?;
    let share = c.div(dy, counts)?;
    let g = c.mul(share, kept)?;
    c.set(0, g)?;
    let rows = c.bin("GatherNd", share, indices)?;
    let g = c.mul(rows, taken)?;
    c.set(2, g)
}

/// The sum of all elements.
pub(super) fn total(c: &mut GradCx<'_>, a: Port) -> Result<Port> {
    let flat = c.ints(&[-1]);
    let flat = c.op("Reshape", &[a, flat], &[])?;
    let axes = c.ints(&[0]);
    c.op("Sum", &[flat, axes], &[("keep_dims", attr::bool(false))])
}

/// The gradient goes to where the largest were.
fn top_k(c: &mut GradCx<'_>) -> Result<()> {
    let (x, indices, dy) = (c.x(0), c.y(1), c.dy()?);
    let flat = c.ints(&[-1]);
    let x_shape = c.shape(x)?;
    let (last, axis) = (c.int(-1), c.int(0));
    let last_index = match c.fact(x).rank() {
        Some(rank) => c.int(rank as i32 - 1),
        None => {
            let rank = c.un("Rank", x)?;
            c.add(rank, last)?
        }
    };
    let width = c.op("GatherV2", &[x_shape, last_index, axis], &[])?;
    // Rows of the picked positions, each with the offset of its row.
    let i_shape = c.un("Shape", indices)?;
    let k = c.op("GatherV2", &[i_shape, last_index, axis], &[])?;
    let minus = c.ints(&[-1]);
    let k1 = c.op("Reshape", &[k, minus], &[])?;
    let target = c.op("ConcatV2", &[minus, k1, axis], &[])?;
    let picked = c.op("Reshape", &[indices, target], &[])?;
    let rows = c.dim(picked, 0)?;
    let (zero, one) = (c.int(0), c.int(1));
    let number = c.op("Range", &[zero, rows, one], &[])?;
    let offset = c.mul(number, width)?;
    let column = c.ints(&[-1, 1]);
    let offset = c.op("Reshape", &[offset, column], &[])?;
    let ids = c.add(picked, offset)?;
    let ids = c.op("Reshape", &[ids, flat], &[])?;
    let values = c.op("Reshape", &[dy, flat], &[])?;
    let size = c.un("Size", x)?;
    let sums = c.op("UnsortedSegmentSum", &[values, ids, size], &[])?;
    let g = c.op("Reshape", &[sums, x_shape], &[])?;
    c.set(0, g)
}
