//! Crossentropies. Where the predictions come out of a softmax or a sigmoid, Keras goes back to what went into it.

use tfjs_graph::Port;
use tfjs_kernels::DType;

use super::{EPSILON, Result, Values, table::last};
use crate::{
    Dialect, Emit, LayersError,
    activations::{clip, softmax},
    emit::Dim,
    options::Options,
};

/// What went into the softmax or sigmoid that made the predictions, if one did; whether the result is logits.
fn logits(g: &mut Emit, p: Port, from_logits: bool) -> (Port, bool) {
    if g.dialect == Dialect::Tfjs {
        return (p, from_logits);
    }
    let node = g.builder().graph().node(p.node);
    match (node.op.as_str(), node.inputs.first()) {
        // Keras remembers the logits of either, and uses them in either crossentropy.
        ("Softmax" | "Sigmoid", Some(&x)) => (x, true),
        _ => (p, from_logits),
    }
}

fn probabilities(g: &mut Emit, p: Port) -> Result<Port> {
    clip(g, p, EPSILON, 1.0 - EPSILON)
}

fn one_minus(g: &mut Emit, x: Port) -> Result<Port> {
    let one = g.scalar(1.0);
    g.sub(one, x)
}

/// y · (1 − s) + s · `rest`
fn smooth(g: &mut Emit, o: &Options, y: Port, rest: impl FnOnce(&mut Emit) -> Result<Port>) -> Result<Port> {
    let s = o.float("label_smoothing")? as f32;
    if s == 0.0 {
        return Ok(y);
    }
    let y = g.scale(y, 1.0 - s)?;
    let rest = rest(g)?;
    let rest = g.scale(rest, s)?;
    g.add(y, rest)
}

fn smooth_binary(g: &mut Emit, o: &Options, y: Port) -> Result<Port> {
    smooth(g, o, y, |g| Ok(g.scalar(0.5)))
}

fn smooth_classes(g: &mut Emit, o: &Options, y: Port, axis: i64) -> Result<Port> {
    smooth(g, o, y, |g| {
        let axis = g.axis(y, axis)?;
        let dim = g.dim(y, axis)?;
        if let Dim::Known(n) = dim {
            return Ok(g.scalar(1.0 / n.max(1) as f32));
        }
        let n = g.dim_value(dim)?;
        let n = g.cast(n, DType::Float32)?;
        g.unary("Reciprocal", n)
    })
}

/// max(x, 0) − x·y + log(1 + exp(−|x|)), with TensorFlow's gradient at 0.
fn sigmoid_crossentropy(g: &mut Emit, y: Port, x: Port) -> Result<Port> {
    let zero = g.scalar(0.0);
    let is_positive = g.op("GreaterEqual", &[x, zero], &[])?;
    let minus = g.unary("Neg", x)?;
    let relu = g.select(is_positive, x, zero)?;
    let below = g.select(is_positive, minus, x)?;
    let exp = g.unary("Exp", below)?;
    let log = g.unary("Log1p", exp)?;
    let product = g.mul(x, y)?;
    let linear = g.sub(relu, product)?;
    g.add(linear, log)
}

/// Binary crossentropy, element by element.
fn binary_each(g: &mut Emit, y: Port, p: Port, from_logits: bool) -> Result<Port> {
    let (p, from_logits) = logits(g, p, from_logits);
    if from_logits {
        return sigmoid_crossentropy(g, y, p);
    }
    let p = probabilities(g, p)?;
    // Keras 2 adds epsilon once more; in a compiled step, to the 1.
    let (yes, rest_p) = if matches!(g.dialect, Dialect::Keras1 | Dialect::Keras2) {
        let more = g.scalar(1.0 + EPSILON);
        (g.offset(p, EPSILON)?, g.sub(more, p)?)
    } else {
        (p, one_minus(g, p)?)
    };
    let (yes, no) = (g.unary("Log", yes)?, g.unary("Log", rest_p)?);
    let rest_y = one_minus(g, y)?;
    let (yes, no) = (g.mul(y, yes)?, g.mul(rest_y, no)?);
    let sum = g.add(yes, no)?;
    g.unary("Neg", sum)
}

fn mean_along(g: &mut Emit, o: &Options, x: Port) -> Result<Values> {
    let axis = g.axis(x, o.int("axis")?)?;
    Ok(g.reduce("Mean", x, &[axis], false)?.into())
}

pub(super) fn binary(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let y = smooth_binary(g, o, y)?;
    let values = binary_each(g, y, p, o.flag("from_logits"))?;
    mean_along(g, o, values)
}

pub(super) fn binary_focal(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let y = smooth_binary(g, o, y)?;
    let from_logits = o.flag("from_logits");
    let probability = if from_logits { g.unary("Sigmoid", p)? } else { p };
    let crossentropy = match g.dialect {
        Dialect::Keras3 => binary_each(g, y, probability, false)?,
        _ => binary_each(g, y, p, from_logits)?,
    };
    let (rest_y, rest_p) = (one_minus(g, y)?, one_minus(g, probability)?);
    let (yes, no) = (g.mul(y, probability)?, g.mul(rest_y, rest_p)?);
    let of_truth = g.add(yes, no)?;
    let factor = one_minus(g, of_truth)?;
    let gamma = g.scalar(o.float("gamma")? as f32);
    let factor = g.op("Pow", &[factor, gamma], &[])?;
    let mut values = g.mul(factor, crossentropy)?;
    if o.flag("apply_class_balancing") {
        let alpha = o.float("alpha")? as f32;
        let (yes, no) = (g.scale(y, alpha)?, g.scale(rest_y, 1.0 - alpha)?);
        let weight = g.add(yes, no)?;
        values = g.mul(weight, values)?;
    }
    mean_along(g, o, values)
}

/// The axis moved to the end.
fn to_last(g: &mut Emit, x: Port, axis: usize) -> Result<Port> {
    let rank = g.rank(x)?;
    let order: Vec<usize> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
    g.transpose(x, &order)
}

/// A matrix of the rows of `x`.
fn rows(g: &mut Emit, x: Port) -> Result<Port> {
    let rank = g.rank(x)?;
    if rank < 2 {
        return Err(LayersError::Inputs(format!(
            "samples of classes are needed, the predictions are {}",
            g.fact(x)
        )));
    }
    g.join_leading(x, rank - 1)
}

/// Values of the rows of `x` under the shape that they have there.
fn unrows(g: &mut Emit, values: Port, x: Port) -> Result<Port> {
    let dims = g.dims(x)?;
    match dims.split_last() {
        Some((_, leading)) if leading.len() > 1 => g.reshape(values, leading),
        _ => Ok(values),
    }
}

/// p / Σ p, away from 0 and 1.
fn normalized(g: &mut Emit, p: Port, axis: usize) -> Result<Port> {
    let sum = g.reduce("Sum", p, &[axis], true)?;
    let p = g.div(p, sum)?;
    probabilities(g, p)
}

pub(super) fn categorical(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let axis = o.int("axis")?;
    let y = smooth_classes(g, o, y, if g.dialect == Dialect::Keras3 { -1 } else { axis })?;
    let axis = g.axis(p, axis)?;
    let (p, from_logits) = logits(g, p, o.flag("from_logits"));
    if from_logits {
        let (y, p) = (to_last(g, y, axis)?, to_last(g, p, axis)?);
        let (y, x) = (rows(g, y)?, rows(g, p)?);
        let losses = g.op_n("SoftmaxCrossEntropyWithLogits", &[x, y], &[], 2)?[0];
        return Ok(unrows(g, losses, p)?.into());
    }
    let p = normalized(g, p, axis)?;
    let log = g.unary("Log", p)?;
    let product = g.mul(y, log)?;
    let sum = g.reduce("Sum", product, &[axis], false)?;
    Ok(g.unary("Neg", sum)?.into())
}

pub(super) fn categorical_focal(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let y = smooth_classes(g, o, y, -1)?;
    let axis = g.axis(p, o.int("axis")?)?;
    let p = if o.flag("from_logits") { softmax(g, p, axis)? } else { p };
    let p = normalized(g, p, axis)?;
    let log = g.unary("Log", p)?;
    let product = g.mul(y, log)?;
    let crossentropy = g.unary("Neg", product)?;
    let rest = one_minus(g, p)?;
    let gamma = g.scalar(o.float("gamma")? as f32);
    let factor = g.op("Pow", &[rest, gamma], &[])?;
    let factor = g.scale(factor, o.float("alpha")? as f32)?;
    let values = g.mul(factor, crossentropy)?;
    Ok(g.reduce("Sum", values, &[axis], false)?.into())
}

pub(super) fn sparse(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let axis = g.axis(p, o.int("axis")?)?;
    let ignored = o.opt_int("ignore_class")?;
    let (mut p, mut from_logits) = (p, o.flag("from_logits"));
    // Keras 3 replaces rows that do not count before it looks where the predictions come from.
    if g.dialect != Dialect::Keras3 || ignored.is_none() {
        (p, from_logits) = logits(g, p, from_logits);
    }
    let p = to_last(g, p, axis)?;
    let mut x = rows(g, p)?;
    let every = g.ints(&[-1]);
    let mut labels = g.op("Reshape", &[y, every], &[])?;
    let mut valid = None;
    if let Some(class) = ignored {
        let class = i32::try_from(class).map_err(|_| o.wrong("ignore_class", "a class"))?;
        let (class, zero, nothing) = (g.int(class), g.int(0), g.scalar(0.0));
        let counts = g.op("NotEqual", &[labels, class], &[])?;
        labels = g.select(counts, labels, zero)?;
        let column = g.expand_dims(counts, 1)?;
        x = g.select(column, x, nothing)?;
        valid = Some(counts);
    }
    if !from_logits {
        let probability = probabilities(g, x)?;
        x = g.unary("Log", probability)?;
    }
    let mut losses = g.op_n("SparseSoftmaxCrossEntropyWithLogits", &[x, labels], &[], 2)?[0];
    let Some(counts) = valid else { return Ok(unrows(g, losses, p)?.into()) };
    let nothing = g.scalar(0.0);
    losses = g.select(counts, losses, nothing)?;
    Ok(Values { port: unrows(g, losses, p)?, mask: Some(unrows(g, counts, p)?) })
}

pub(super) fn generalized(g: &mut Emit, o: &Options, y: Port, p: Port) -> Result<Values> {
    let q = o.float("q")?;
    if !(q > 0.0 && q < 1.0) {
        return Err(o.wrong("q", "between 0 and 1"));
    }
    let axis = g.axis(p, -1)?;
    let dim = g.dim(p, axis)?;
    let classes = g.dim_value(dim)?;
    let (on, off) = (g.scalar(1.0), g.scalar(0.0));
    let one_hot = g.op("OneHot", &[y, classes, on, off], &[("axis", tfjs_graph::builder::attr::int(-1))])?;
    let product = g.mul(p, one_hot)?;
    let probability = last(g, "Sum", product)?;
    let exponent = g.scalar(q as f32);
    let power = g.op("Pow", &[probability, exponent], &[])?;
    let rest = one_minus(g, power)?;
    Ok(g.scale(rest, 1.0 / q as f32)?.into())
}
