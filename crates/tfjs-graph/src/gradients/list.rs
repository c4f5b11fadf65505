//! TensorLists: the gradient of a list is a list of gradients. Elements that were never set are zeros.
use tfjs_kernels::Tensor;

use super::{GradCx, Result, Row, row};
use crate::Port;

pub(super) const RULES: &[Row] = &[
    row("TensorListConcat", concat),
    row("TensorListConcatV2", concat),
    row("TensorListFromTensor", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let shape = rows_shape(c, x)?;
        let g = c.op_with("TensorListStack", &[dy, shape], &["element_dtype"])?;
        c.set(0, g)
    }),
    row("TensorListGather", |c| {
        let (list, indices, dy) = (c.x(0), c.x(1), c.dy()?);
        let (shape, length) = (rows_shape(c, dy)?, c.un("TensorListLength", list)?);
        let g = c.op_with("TensorListScatterV2", &[dy, indices, shape, length], &["element_dtype"])?;
        c.set(0, g)
    }),
    row("TensorListGetItem", |c| {
        let (list, index, item, dy) = (c.x(0), c.x(1), c.y(0), c.dy()?);
        let (shape, length) = (c.shape(item)?, c.un("TensorListLength", list)?);
        let empty = c.op_with("TensorListReserve", &[shape, length], &["element_dtype"])?;
        let g = c.op("TensorListSetItem", &[empty, index, dy], &[])?;
        c.set(0, g)
    }),
    row("TensorListPopBack", |c| {
        let (rest, item) = (c.dy_or_zeros(0)?, c.dy_or_zeros(1)?);
        let g = c.op("TensorListPushBack", &[rest, item], &[])?;
        c.set(0, g)
    }),
    row("TensorListPushBack", |c| {
        let (item, dy) = (c.x(1), c.dy()?);
        let shape = c.shape(item)?;
        let attrs = c.copied(&["element_dtype"]);
        let attrs: Vec<_> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let parts = c.b.op_n("TensorListPopBack", &[dy, shape], &attrs, 2)?;
        c.set(0, parts[0])?;
        c.set(1, parts[1])
    }),
    row("TensorListResize", |c| {
        let (list, dy) = (c.x(0), c.dy()?);
        let length = c.un("TensorListLength", list)?;
        let g = c.bin("TensorListResize", dy, length)?;
        c.set(0, g)
    }),
    row("TensorListScatter", scatter),
    row("TensorListScatterIntoExistingList", |c| {
        let (x, indices, dy) = (c.x(1), c.x(2), c.dy()?);
        if c.wants(0) {
            let zeros = c.un("ZerosLike", x)?;
            let g = c.op("TensorListScatterIntoExistingList", &[dy, zeros, indices], &[])?;
            c.set(0, g)?;
        }
        if c.wants(1) {
            let shape = rows_shape(c, x)?;
            let g = c.op_with("TensorListGather", &[dy, indices, shape], &["element_dtype"])?;
            c.set(1, g)?;
        }
        Ok(())
    }),
    row("TensorListScatterV2", scatter),
    row("TensorListSetItem", |c| {
        let (index, item, dy) = (c.x(1), c.x(2), c.dy()?);
        if c.wants(0) {
            let zeros = c.un("ZerosLike", item)?;
            let g = c.op("TensorListSetItem", &[dy, index, zeros], &[])?;
            c.set(0, g)?;
        }
        if c.wants(2) {
            let shape = c.shape(item)?;
            let g = c.op_with("TensorListGetItem", &[dy, index, shape], &["element_dtype"])?;
            c.set(2, g)?;
        }
        Ok(())
    }),
    row("TensorListSplit", |c| {
        let (lengths, dy, any) = (c.x(2), c.dy()?, c.int(-1));
        let g = c.op_with("TensorListConcatV2", &[dy, any, lengths], &["element_dtype"])?;
        c.set(0, g)
    }),
    row("TensorListStack", |c| {
        let dy = c.dy()?;
        let shape = rows_shape(c, dy)?;
        let g = c.op_with("TensorListFromTensor", &[dy, shape], &["element_dtype"])?;
        c.set(0, g)
    }),
];

fn concat(c: &mut GradCx<'_>) -> Result<()> {
    let (lengths, dy, any) = (c.y(1), c.dy()?, c.int(-1));
    let g = c.op_with("TensorListSplit", &[dy, any, lengths], &["element_dtype"])?;
    c.set(0, g)
}

fn scatter(c: &mut GradCx<'_>) -> Result<()> {
    let (x, indices, dy) = (c.x(0), c.x(1), c.dy()?);
    let shape = rows_shape(c, x)?;
    let g = c.op_with("TensorListGather", &[dy, indices, shape], &["element_dtype"])?;
    c.set(0, g)
}

/// The shape of a row.
fn rows_shape(c: &mut GradCx<'_>, x: Port) -> Result<Port> {
    if let Some(dims) = c.dims(x)
        && let Some(rest) = dims.get(1..)
        && let Some(rest) = rest.iter().copied().collect::<Option<Vec<usize>>>()
    {
        let dims: Vec<i32> = rest.iter().map(|&d| d as i32).collect();
        return Ok(c.b.constant(Tensor::vector(dims)));
    }
    let shape = c.un("Shape", x)?;
    let (one, all) = (c.ints(&[1]), c.ints(&[-1]));
    c.op("Slice", &[shape, one, all], &[])
}
