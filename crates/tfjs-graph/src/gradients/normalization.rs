//! Batch norm, softmax, losses, local response normalisation.
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("CTCLoss", from_backprop),
    row("CTCLossV2", from_backprop),
    row("FusedBatchNorm", batch_norm),
    row("FusedBatchNormV2", batch_norm),
    row("FusedBatchNormV3", batch_norm),
    row("L2Loss", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let g = c.mul(x, dy)?;
        c.set(0, g)
    }),
    row("LRN", |c| {
        let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
        let names = ["depth_radius", "bias", "alpha", "beta"];
        let g = c.op_with("LRNGrad", &[dy, x, y], &names)?;
        c.set(0, g)
    }),
    row("LogSoftmax", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let softmax = c.un("Exp", y)?;
        let sum = sum_last(c, dy)?;
        let part = c.mul(sum, softmax)?;
        let g = c.sub(dy, part)?;
        c.set(0, g)
    }),
    row("Softmax", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let product = c.mul(dy, y)?;
        let sum = sum_last(c, product)?;
        let centred = c.sub(dy, sum)?;
        let g = c.mul(centred, y)?;
        c.set(0, g)
    }),
    row("SoftmaxCrossEntropyWithLogits", |c| {
        let (logits, backprop, dy) = (c.x(0), c.y(1), c.dy()?);
        if c.dy_of(1)?.is_some() {
            return c.refuse("its second output is a gradient already");
        }
        let last = c.int(-1);
        let column = c.op("ExpandDims", &[dy, last], &[])?;
        if c.wants(0) {
            let g = c.mul(column, backprop)?;
            c.set_reduced(0, g)?;
        }
        if c.wants(1) {
            let log = c.un("LogSoftmax", logits)?;
            let g = c.mul(column, log)?;
            let g = c.neg(g)?;
            c.set_reduced(1, g)?;
        }
        Ok(())
    }),
    row("SparseSoftmaxCrossEntropyWithLogits", from_backprop),
];

/// Of losses whose second output is their gradient.
fn from_backprop(c: &mut GradCx<'_>) -> Result<()> {
    let (backprop, dy) = (c.y(1), c.dy()?);
    if c.dy_of(1)?.is_some() {
        return c.refuse("its second output is a gradient already");
    }
    let last = c.int(-1);
    let column = c.op("ExpandDims", &[dy, last], &[])?;
    let g = c.mul(column, backprop)?;
    c.set(0, g)
}

fn sum_last(c: &mut GradCx<'_>, a: Port) -> Result<Port> {
    let axes = c.ints(&[-1]);
    c.op("Sum", &[a, axes], &[("keep_dims", attr::bool(true))])
}

fn batch_norm(c: &mut GradCx<'_>) -> Result<()> {
    let (x, scale, dy) = (c.x(0), c.x(1), c.dy()?);
    let training = c.attrs().bool_or("is_training", true)?;
    // In training mean and variance are those of the batch, which the node hands on for this.
    let (mean, variance) = if training { (c.y(3), c.y(4)) } else { (c.x(3), c.x(4)) };
    let reserved = match c.node().op.as_str() {
        "FusedBatchNormV3" if training => c.y(5),
        _ => c.b.constant(tfjs_kernels::Tensor::vector(Vec::<f32>::new())),
    };
    for i in 1..3 {
        if c.dy_of(i)?.is_some() {
            return c.refuse("its mean and variance have no gradient");
        }
    }
    let attrs = c.copied(&["epsilon", "data_format", "is_training"]);
    let mut attrs: Vec<_> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    attrs.push(("U", attr::dtype(DType::Float32)));
    let inputs = [dy, x, scale, mean, variance, reserved];
    let out = c.b.op_n("FusedBatchNormGradV3", &inputs, &attrs, 5)?;
    c.set(0, out[0])?;
    c.set(1, out[1])?;
    c.set(2, out[2])?;
    if !training {
        // The running statistics are inputs like others: dμ = -γ/σ · Σ dy, dσ² = -γ/2σ³ · Σ dy (x - μ).
        if c.wants(3) || c.wants(4) {
            let epsilon = c.attrs().float_or("epsilon", 1e-4)?;
            let shifted = c.plus(variance, epsilon)?;
            let inverse = c.un("Rsqrt", shifted)?;
            let factor = c.mul(scale, inverse)?;
            let g = c.mul(out[2], factor)?;
            let g = c.neg(g)?;
            c.set(3, g)?;
            // out[1] = Σ dy (x - μ) / σ.
            let square = c.un("Square", inverse)?;
            let g = c.mul(out[1], scale)?;
            let g = c.mul(g, square)?;
            let g = c.scale(g, -0.5)?;
            c.set(4, g)?;
        }
    }
    Ok(())
}
