//! Accuracies: the share of predictions that are right.
#![allow(non_upper_case_globals, reason = "metrics are named as Keras's classes are")]

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::DType;

use super::{Def, Kind, Metric, Result};
use crate::{
    Dialect, Emit,
    losses::{Task, Values, task},
    options::Default,
};

/// As a class, the share of predictions that equal their labels; by the word `accuracy`, whichever is [`fitting`].
pub(super) static ACCURACY: Def = Def {
    class: "Accuracy",
    name: None,
    aliases: &["acc"],
    options: &[],
    kind: Kind::Mean(|g, _, y, p| equal(g, y, p)),
};

/// The accuracy for labels and predictions of these shapes.
pub(super) fn fitting(y_true: &Fact, y_pred: &Fact) -> &'static Def {
    match task(y_true, y_pred) {
        Task::Binary => &BinaryAccuracy,
        Task::Sparse => &SparseCategoricalAccuracy,
        Task::Categorical => &CategoricalAccuracy,
    }
}

metrics! {
    /// Share of numbers on the right side of `threshold` (0.5).
    BinaryAccuracy {
        name: None, aliases: [], options: [("threshold", Default::Float(0.5))],
        Mean(|g, m, y, p| {
            let function = m.word.is_some() && g.dialect != Dialect::Keras3;
            let threshold = if m.options.is_set("threshold") { m.options.float("threshold")? } else { 0.5 };
            binary(g, y, p, threshold as f32, function)
        })
    }
    /// Share of samples whose largest prediction is of their one-hot class.
    CategoricalAccuracy { name: None, aliases: [], options: [], Mean(|g, _, y, p| categorical(g, y, p)) }
    /// Share of samples whose largest prediction is of their class.
    SparseCategoricalAccuracy { name: None, aliases: [], options: [], Mean(|g, _, y, p| sparse(g, y, p)) }
    /// Share of samples with their one-hot class among the `k` (5) largest predictions.
    TopKCategoricalAccuracy {
        name: None, aliases: [], options: [("k", Default::Int(5))],
        Mean(|g, m, y, p| {
            let y = arg_max(g, y)?;
            top_k(g, m, y, p)
        })
    }
    /// Share of samples with their class among the `k` (5) largest predictions, or with `from_sorted_ids` among the first
    /// `k` predicted classes.
    SparseTopKCategoricalAccuracy {
        name: None, aliases: [], options: [("k", Default::Int(5)), ("from_sorted_ids", Default::Bool(false))],
        Mean(|g, m, y, p| {
            let y = of_rows(g, y, p)?;
            top_k(g, m, y, p)
        })
    }
}

fn equal(g: &mut Emit, a: Port, b: Port) -> Result<Values> {
    let (a, b) = (g.cast(a, DType::Float32)?, g.cast(b, DType::Float32)?);
    let equal = g.op("Equal", &[a, b], &[("incompatible_shape_error", attr::bool(true))])?;
    Ok(g.cast(equal, DType::Float32)?.into())
}

/// `function`: the mean of the last axis, as Keras 2's function has it and its class has not.
fn binary(g: &mut Emit, y: Port, p: Port, threshold: f32, function: bool) -> Result<Values> {
    let threshold = g.scalar(threshold);
    let positive = g.op("Greater", &[p, threshold], &[])?;
    let right = equal(g, y, positive)?;
    if !function {
        return Ok(right);
    }
    let axis = g.axis(right.port, -1)?;
    Ok(g.reduce("Mean", right.port, &[axis], false)?.into())
}

fn arg_max(g: &mut Emit, x: Port) -> Result<Port> {
    let last = g.axis(x, -1)? as i32;
    let last = g.int(last);
    g.op("ArgMax", &[x, last], &[("output_type", attr::dtype(DType::Int32))])
}

/// One label for each row of predictions.
fn of_rows(g: &mut Emit, y: Port, p: Port) -> Result<Port> {
    let (t, rank) = (g.rank(y)?, g.rank(p)?);
    if t == rank { g.squeeze(y, &[t.saturating_sub(1)]) } else { Ok(y) }
}

fn categorical(g: &mut Emit, y: Port, p: Port) -> Result<Values> {
    let (y, p) = (arg_max(g, y)?, arg_max(g, p)?);
    equal(g, y, p)
}

fn sparse(g: &mut Emit, y: Port, p: Port) -> Result<Values> {
    let y = of_rows(g, y, p)?;
    let p = arg_max(g, p)?;
    equal(g, y, p)
}

/// `y` has a class for each row of `p`.
fn top_k(g: &mut Emit, m: &Metric, y: Port, p: Port) -> Result<Values> {
    let k = i32::try_from(m.options.int("k")?).map_err(|_| m.options.wrong("k", "a number of classes"))?;
    let dims = g.dims(y)?;
    let rows = g.join_leading(p, g.rank(p)?.saturating_sub(1))?;
    let every = g.ints(&[-1]);
    let y = g.cast(y, DType::Int32)?;
    let y = g.op("Reshape", &[y, every], &[])?;
    let hit = if m.options.flag("from_sorted_ids") {
        let first = g.slice(rows, &[0, 0], &[-1, k])?;
        let y = g.cast(y, DType::Float32)?;
        let column = g.expand_dims(y, 1)?;
        let same = g.op("Equal", &[column, first], &[("incompatible_shape_error", attr::bool(true))])?;
        g.reduce("Any", same, &[1], false)?
    } else {
        let k = g.int(k);
        g.op("InTopKV2", &[rows, y, k], &[])?
    };
    let hit = g.cast(hit, DType::Float32)?;
    Ok(if dims.len() == 1 { hit } else { g.reshape(hit, &dims)? }.into())
}
