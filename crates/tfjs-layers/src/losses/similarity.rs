//! Losses that compare sets, vectors and sequences.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::{
    EPSILON, Result, Values,
    table::{at_least, last},
};
use crate::{Dialect, Emit, options::Options};

/// x / ‖x‖, 0 for 0.
fn normalized(g: &mut Emit, x: Port, axis: usize) -> Result<Port> {
    let square = g.unary("Square", x)?;
    let sum = g.reduce("Sum", square, &[axis], true)?;
    let inverse = if g.dialect == Dialect::Keras3 {
        let inverse = g.unary("Rsqrt", sum)?;
        let most = g.scalar(1.0 / EPSILON);
        g.op("Minimum", &[inverse, most], &[])?
    } else {
        let sum = at_least(g, sum, 1e-12)?;
        g.unary("Rsqrt", sum)?
    };
    g.mul(x, inverse)
}

/// Σ y/‖y‖ · p/‖p‖ along `axis`
pub(crate) fn cosine(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Port> {
    let axis = o.int("axis")?;
    let (along_y, along_p) = (g.axis(y, axis)?, g.axis(p, axis)?);
    let (y, p) = (normalized(g, y, along_y)?, normalized(g, p, along_p)?);
    let product = g.mul(y, p)?;
    let along = g.axis(product, axis)?;
    g.reduce("Sum", product, &[along], false)
}

/// Sums over the axes of an option, or all.
fn sum_over(g: &mut Emit, o: &Options, x: Port) -> Result<Port> {
    let axes = match o.ints("axis")? {
        None => (0..g.rank(x)?).collect(),
        Some(axes) => axes.into_iter().map(|a| g.axis(x, a)).collect::<Result<Vec<usize>>>()?,
    };
    g.reduce("Sum", x, &axes, false)
}

pub(super) fn dice(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let product = g.mul(y, p)?;
    let common = sum_over(g, o, product)?;
    let common = g.scale(common, 2.0)?;
    let (of_y, of_p) = (sum_over(g, o, y)?, sum_over(g, o, p)?);
    let total = g.add(of_y, of_p)?;
    let total = g.offset(total, EPSILON)?;
    let share = g.div(common, total)?;
    let one = g.scalar(1.0);
    Ok(g.sub(one, share)?.into())
}

pub(super) fn tversky(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let one = g.scalar(1.0);
    let product = g.mul(y, p)?;
    let common = sum_over(g, o, product)?;
    let only = |g: &mut Emit, a, b, factor: f64| {
        let rest = g.sub(one, b)?;
        let product = g.mul(rest, a)?;
        let sum = sum_over(g, o, product)?;
        g.scale(sum, factor as f32)
    };
    let (missed, wrong) = (only(g, y, p, o.float("alpha")?)?, only(g, p, y, o.float("beta")?)?);
    let total = g.add(common, missed)?;
    let total = g.add(total, wrong)?;
    let total = g.offset(total, EPSILON)?;
    let share = g.div(common, total)?;
    Ok(g.sub(one, share)?.into())
}

/// log Σ exp x over the last axis where `mask` holds; −∞ where it holds nowhere.
fn log_sum_exp(g: &mut Emit, x: Port, mask: Port) -> Result<Port> {
    let least = g.scalar(f32::NEG_INFINITY);
    let x = g.select(mask, x, least)?;
    let axis = g.axis(x, -1)?;
    let max = g.reduce("Max", x, &[axis], true)?;
    let max = g.unary("StopGradient", max)?;
    let finite = g.unary("IsFinite", max)?;
    let zero = g.scalar(0.0);
    let max = g.select(finite, max, zero)?;
    let shifted = g.sub(x, max)?;
    let exp = g.unary("Exp", shifted)?;
    let sum = last(g, "Sum", exp)?;
    let log = g.unary("Log", sum)?;
    let max = g.squeeze(max, &[axis])?;
    g.add(log, max)
}

pub(super) fn circle(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let (gamma, margin) = (o.float("gamma")? as f32, o.float("margin")? as f32);
    let one = g.scalar(1.0);
    let attrs = [("transpose_a", attr::bool(false)), ("transpose_b", attr::bool(true))];
    let cosines = g.op("MatMul", &[p, p], &attrs)?;
    let distances = g.sub(one, cosines)?;
    let distances = at_least(g, distances, 0.0)?;
    // Who has whose label.
    let every = g.ints(&[-1]);
    let labels = g.op("Reshape", &[y, every], &[])?;
    let (column, row) = (g.expand_dims(labels, 1)?, g.expand_dims(labels, 0)?);
    let mut positive = g.op("Equal", &[column, row], &[("incompatible_shape_error", attr::bool(true))])?;
    let negative = g.unary("LogicalNot", positive)?;
    if o.flag("remove_diagonal") {
        let dim = g.dim(labels, 0)?;
        let (zero, count, step) = (g.int(0), g.dim_value(dim)?, g.int(1));
        let numbers = g.op("Range", &[zero, count, step], &[])?;
        let (column, row) = (g.expand_dims(numbers, 1)?, g.expand_dims(numbers, 0)?);
        let other = g.op("NotEqual", &[column, row], &[("incompatible_shape_error", attr::bool(true))])?;
        positive = g.op("LogicalAnd", &[positive, other], &[])?;
    }
    let weighted = |g: &mut Emit, mask, weight: Port, delta: f32, factor: f32| {
        let float = g.cast(mask, DType::Float32)?;
        let weight = g.mul(weight, float)?;
        let weight = at_least(g, weight, 0.0)?;
        let delta = g.scalar(delta);
        let distance = g.sub(delta, distances)?;
        let weight = g.scale(weight, factor)?;
        let product = g.mul(weight, distance)?;
        log_sum_exp(g, product, mask)
    };
    let near = g.offset(distances, margin)?;
    let bound = g.scalar(1.0 + margin);
    let far = g.sub(bound, distances)?;
    let positives = weighted(g, positive, near, margin, -gamma)?;
    let negatives = weighted(g, negative, far, 1.0 - margin, gamma)?;
    let sum = g.add(positives, negatives)?;
    let values = g.unary("Softplus", sum)?;
    let zero = g.scalar(0.0);
    let mask = g.op("Greater", &[values, zero], &[])?;
    Ok(Values { port: values, mask: Some(mask) })
}

pub(super) fn ctc(g: &mut Emit, _: &Options, y: Port, p: Port) -> Result<Values> {
    let (steps, longest) = (g.dim(p, 1)?, g.dim(y, 1)?);
    // As many labels as are not 0, wherever those stand.
    let zero = g.int(0);
    let real = g.op("NotEqual", &[y, zero], &[])?;
    let real = g.cast(real, DType::Int32)?;
    let lengths = last(g, "Sum", real)?;
    let lengths = g.expand_dims(lengths, 1)?;
    let (end, step) = (g.dim_value(longest)?, g.int(1));
    let places = g.op("Range", &[zero, end, step], &[])?;
    let taken = g.op("Less", &[places, lengths], &[])?;
    let indices = g.unary("Where", taken)?;
    let labels = g.op("GatherNd", &[y, indices], &[])?;
    let steps = g.dim_value(steps)?;
    let batch = g.dim(p, 0)?;
    let batch = g.dim_value(batch)?;
    let one = g.ints(&[1]);
    let batch = g.op("Reshape", &[batch, one], &[])?;
    let steps = g.op("Fill", &[batch, steps], &[])?;
    let logits = g.transpose(p, &[1, 0, 2])?;
    let values = g.op_n("CTCLossV2", &[logits, indices, labels, steps], &[], 2)?;
    Ok(values[0].into())
}
