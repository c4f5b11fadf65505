//! Ragged and sparse tensors, segments of picked rows.
//!
//! Where an op only moves rows about, numbering them first and moving the numbers says where each gradient belongs.
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, compose::compose, reduction::rows_of, row, slice_join::total};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("RaggedGather", |c| {
        let levels = c.inputs() - 2;
        let (values, outputs) = (c.x(levels), c.attrs().int_or("OUTPUT_RAGGED_RANK", 0)?);
        let flat = match usize::try_from(outputs) {
            Ok(levels) if levels < 1 << 16 => levels,
            _ => return c.refuse(format!("attribute `OUTPUT_RAGGED_RANK` is {outputs}")),
        };
        let Some(dy) = c.dy_of(flat)? else { return Ok(()) };
        let rows = c.dim(values, 0)?;
        let numbers = numbered(c, rows, 0)?;
        let mut inputs: Vec<Port> = (0..levels).map(|i| c.x(i)).collect();
        inputs.extend([numbers, c.x(levels + 1)]);
        let attrs = c.copied(&["PARAMS_RAGGED_RANK", "OUTPUT_RAGGED_RANK", "Tindices", "Tsplits"]);
        let mut attrs: Vec<_> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        attrs.push(("Tvalues", attr::dtype(DType::Int32)));
        let picked = c.b.op_n("RaggedGather", &inputs, &attrs, flat + 1)?[flat];
        let g = c.op("UnsortedSegmentSum", &[dy, picked, rows], &[])?;
        c.set(levels, g)
    }),
    row("RaggedTensorToSparse", |c| {
        let values = c.inputs() - 1;
        if let Some(dy) = c.dy_of(1)? {
            let g = c.reshape_like(dy, c.x(values))?;
            c.set(values, g)?;
        }
        Ok(())
    }),
    row("RaggedTensorToTensor", to_tensor),
    row("SparseFillEmptyRows", |c| {
        let (came, axis) = (c.y(3), c.int(0));
        let Some(dy) = c.dy_of(1)? else { return Ok(()) };
        let g = c.op("GatherV2", &[dy, came, axis], &[])?;
        c.set(1, g)?;
        if c.wants(3) {
            let (all, given) = (total(c, dy)?, total(c, g)?);
            let g = c.sub(all, given)?;
            c.set(3, g)?;
        }
        Ok(())
    }),
    row("SparseSegmentMean", |c| segments(c, Share::Mean)),
    row("SparseSegmentMeanWithNumSegments", |c| segments(c, Share::Mean)),
    row("SparseSegmentSqrtN", |c| segments(c, Share::Root)),
    row("SparseSegmentSqrtNWithNumSegments", |c| segments(c, Share::Root)),
    row("SparseSegmentSum", |c| segments(c, Share::Sum)),
    row("SparseSegmentSumWithNumSegments", |c| segments(c, Share::Sum)),
];

/// `first, first + 1, …`: as many as `count` says.
fn numbered(c: &mut GradCx<'_>, count: Port, first: i32) -> Result<Port> {
    let (start, one) = (c.int(first), c.int(1));
    let end = if first == 0 { count } else { c.add(count, start)? };
    c.op("Range", &[start, end, one], &[])
}

/// What sums of segments are divided by.
#[derive(Clone, Copy, PartialEq)]
enum Share {
    Sum,
    Mean,
    Root,
}

fn segments(c: &mut GradCx<'_>, share: Share) -> Result<()> {
    compose(c, |c, x| {
        let (indices, ids, axis) = (c.x(1), c.x(2), c.int(0));
        let rows = c.op("GatherV2", &[x[0], indices, axis], &[])?;
        let number = (c.inputs() > 3).then(|| c.x(3));
        let over = |c: &mut GradCx<'_>, a: Port| match number {
            Some(count) => c.op("UnsortedSegmentSum", &[a, ids, count], &[]),
            None => c.bin("SegmentSum", a, ids),
        };
        let rows = if share == Share::Sum {
            rows
        } else {
            let ones = c.un("OnesLike", ids)?;
            let ones = c.cast(ones, DType::Float32)?;
            let counts = over(c, ones)?;
            let counts = rows_of(c, counts, ids)?;
            let counts = if share == Share::Root { c.un("Sqrt", counts)? } else { counts };
            let mut factor = c.un("Reciprocal", counts)?;
            for _ in 1..c.rank(rows)? {
                let last = c.int(-1);
                factor = c.op("ExpandDims", &[factor, last], &[])?;
            }
            c.mul(rows, factor)?
        };
        over(c, rows)
    })
}

fn to_tensor(c: &mut GradCx<'_>) -> Result<()> {
    let (shape, values, default, y, dy) = (c.x(0), c.x(1), c.x(2), c.y(0), c.dy()?);
    let inner = c.rank(values)?.saturating_sub(1);
    let rank = match (c.fact(y).rank(), c.fact(shape).ints()) {
        (Some(rank), _) => rank,
        (None, Some(dims)) => dims.len(),
        _ => return c.refuse("the number of dimensions is not known"),
    };
    let Some(outer) = rank.checked_sub(inner) else {
        return c.refuse(format!("{rank} dimensions of values with {inner} more"));
    };
    // Numbers from one up; zero is where the default value stands.
    let rows = c.dim(values, 0)?;
    let (numbers, zero) = (numbered(c, rows, 1)?, c.int(0));
    let (begin, size) = (c.ints(&[0]), c.ints(&[outer as i32]));
    let full = c.un("Shape", y)?;
    let front = c.op("Slice", &[full, begin, size], &[])?;
    let mut inputs = vec![front, numbers, zero];
    inputs.extend((3..c.inputs()).map(|i| c.x(i)));
    let attrs = c.copied(&["row_partition_types", "num_row_partition_tensors", "Tindex", "Tshape"]);
    let mut attrs: Vec<_> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    attrs.push(("T", attr::dtype(DType::Int32)));
    let places = c.op("RaggedTensorToTensor", &inputs, &attrs)?;
    let flat = c.ints(&[-1]);
    let places = c.op("Reshape", &[places, flat], &[])?;
    let one = c.int(1);
    let ids = c.sub(places, one)?;
    // The gradient as rows of the values' inner dimensions.
    let whole = c.shape(values)?;
    let (first, rest) = (c.ints(&[1]), c.ints(&[-1]));
    let inner_dims = c.op("Slice", &[whole, first, rest], &[])?;
    let count = c.un("Shape", ids)?;
    let target = c.op("ConcatV2", &[count, inner_dims, zero], &[])?;
    let by_row = c.op("Reshape", &[dy, target], &[])?;
    if c.wants(1) {
        let g = c.op("UnsortedSegmentSum", &[by_row, ids, rows], &[])?;
        c.set(1, g)?;
    }
    if c.wants(2) {
        let zero = c.int(0);
        let mut empty = c.bin("Less", ids, zero)?;
        for _ in 0..inner {
            let last = c.int(-1);
            empty = c.op("ExpandDims", &[empty, last], &[])?;
        }
        let left = c.only_where(empty, by_row)?;
        let g = c.sum_to(left, default)?;
        c.set(2, g)?;
    }
    Ok(())
}
