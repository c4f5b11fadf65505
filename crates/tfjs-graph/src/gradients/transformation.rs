//! Shapes, padding, spaces and batches.
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, row};
use crate::builder::attr;

pub(super) const RULES: &[Row] = &[
    row("BatchToSpace", |c| {
        let (crops, dy) = (c.x(1), c.dy()?);
        let g = c.op_with("SpaceToBatch", &[dy, crops], &["block_size"])?;
        c.set(0, g)
    }),
    row("BatchToSpaceND", |c| {
        let (block, crops, dy) = (c.x(1), c.x(2), c.dy()?);
        let g = c.op("SpaceToBatchND", &[dy, block, crops], &[])?;
        c.set(0, g)
    }),
    row("BroadcastTo", |c| {
        let dy = c.dy()?;
        c.set_reduced(0, dy)
    }),
    row("Cast", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        // From complex to float the imaginary part is dropped.
        match c.fact(x).dtype {
            Some(to @ (DType::Float32 | DType::Complex64)) => {
                let g = if to == DType::Float32 && c.fact(dy).dtype == Some(DType::Complex64) {
                    c.un("Real", dy)?
                } else {
                    c.cast(dy, to)?
                };
                c.set(0, g)
            }
            _ => Ok(()),
        }
    }),
    row("DepthToSpace", |c| {
        let dy = c.dy()?;
        let g = c.op_with("SpaceToDepth", &[dy], &["block_size", "data_format"])?;
        c.set(0, g)
    }),
    row("EnsureShape", |c| {
        let dy = c.dy()?;
        c.set(0, dy)
    }),
    row("ExpandDims", reshape),
    row("MirrorPad", |c| {
        let (paddings, dy) = (c.x(1), c.dy()?);
        let g = c.op_with("MirrorPadGrad", &[dy, paddings], &["mode"])?;
        c.set(0, g)
    }),
    row("Pad", pad),
    row("PadV2", |c| {
        pad(c)?;
        if c.wants(2) {
            // All but the middle.
            let (x, paddings, dy) = (c.x(0), c.x(1), c.dy()?);
            let zeros = c.un("ZerosLike", x)?;
            let one = c.number(1.0, dy);
            let border = c.op("PadV2", &[zeros, paddings, one], &[])?;
            let outside = c.mul(dy, border)?;
            let flat = c.ints(&[-1]);
            let flat = c.op("Reshape", &[outside, flat], &[])?;
            let axes = c.ints(&[0]);
            let g = c.op("Sum", &[flat, axes], &[("keep_dims", attr::bool(false))])?;
            c.set(2, g)?;
        }
        Ok(())
    }),
    row("Reshape", reshape),
    row("SpaceToBatch", |c| {
        let (paddings, dy) = (c.x(1), c.dy()?);
        let g = c.op_with("BatchToSpace", &[dy, paddings], &["block_size"])?;
        c.set(0, g)
    }),
    row("SpaceToBatchND", |c| {
        let (block, paddings, dy) = (c.x(1), c.x(2), c.dy()?);
        let g = c.op("BatchToSpaceND", &[dy, block, paddings], &[])?;
        c.set(0, g)
    }),
    row("SpaceToDepth", |c| {
        let dy = c.dy()?;
        let g = c.op_with("DepthToSpace", &[dy], &["block_size", "data_format"])?;
        c.set(0, g)
    }),
    row("Squeeze", reshape),
];

fn reshape(c: &mut GradCx<'_>) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let g = c.reshape_like(dy, x)?;
    c.set(0, g)
}

fn pad(c: &mut GradCx<'_>) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let begin = match c.ints_of(1) {
        Some(pairs) => c.ints(&pairs.iter().step_by(2).copied().collect::<Vec<_>>()),
        None => {
            let (paddings, first, axis) = (c.x(1), c.int(0), c.int(1));
            c.op("GatherV2", &[paddings, first, axis], &[])?
        }
    };
    let size = c.shape(x)?;
    let g = c.op("Slice", &[dy, begin, size], &[])?;
    c.set(0, g)
}
