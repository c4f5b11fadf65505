//! Reductions and running sums.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::args::{Args, NAMED, wrong};
use super::{Result, Row, one, shape::flat};
use crate::{Emit, emit::Dim};

pub(super) const OPS: &[Row] = &[
    ("sum", |g, a| one(reduce(g, a, "Sum", Input::Number))),
    ("prod", |g, a| one(reduce(g, a, "Prod", Input::Number))),
    ("max", |g, a| one(reduce(g, a, "Max", Input::Any))),
    ("min", |g, a| one(reduce(g, a, "Min", Input::Any))),
    ("amax", |g, a| one(reduce(g, a, "Max", Input::Any))),
    ("amin", |g, a| one(reduce(g, a, "Min", Input::Any))),
    ("mean", |g, a| one(reduce(g, a, "Mean", Input::Float))),
    ("any", |g, a| one(reduce(g, a, "Any", Input::Bool))),
    ("all", |g, a| one(reduce(g, a, "All", Input::Bool))),
    ("var", |g, a| one(variance(g, a))),
    ("std", |g, a| {
        let v = variance(g, a)?;
        one(g.unary("Sqrt", v))
    }),
    ("ptp", |g, a| {
        let high = reduce(g, a, "Max", Input::Any)?;
        let low = reduce(g, a, "Min", Input::Any)?;
        one(g.sub(high, low))
    }),
    ("moments", |g, a| {
        let x = a.float_x(g)?;
        let axes = axes(g, a, x)?;
        let keep = keep_dims(a)?;
        let mean = g.reduce("Mean", x, &axes, keep)?;
        let spread = spread(g, x, &axes, keep)?;
        Ok(vec![mean, spread])
    }),
    ("count_nonzero", |g, a| {
        let x = a.x(g)?;
        let x = g.cast(x, DType::Bool)?;
        let x = g.cast(x, DType::Int32)?;
        let axes = axes(g, a, x)?;
        one(g.reduce("Sum", x, &axes, keep_dims(a)?))
    }),
    ("logsumexp", |g, a| {
        let x = a.float_x(g)?;
        let axes = axes(g, a, x)?;
        one(log_sum_exp(g, x, &axes, keep_dims(a)?))
    }),
    ("average", |g, a| {
        let x = a.float_x(g)?;
        let axes = axes(g, a, x)?;
        let Some(weights) = a.opt_tensor(g, 1, &["weights"], DType::Float32)? else {
            return one(g.reduce("Mean", x, &axes, false));
        };
        let mut weights = g.cast(weights, DType::Float32)?;
        if g.rank(weights)? == 1 && g.rank(x)? > 1 {
            let axis = *axes.first().ok_or_else(|| wrong(&["axis"], "it is missing"))?;
            for _ in axis + 1..g.rank(x)? {
                let last = g.rank(weights)?;
                weights = g.expand_dims(weights, last)?;
            }
            for _ in 0..axis {
                weights = g.expand_dims(weights, 0)?;
            }
        }
        let product = g.mul(x, weights)?;
        let sum = g.reduce("Sum", product, &axes, false)?;
        let ones = g.unary("OnesLike", x)?;
        let weights = g.mul(ones, weights)?;
        let total = g.reduce("Sum", weights, &axes, false)?;
        one(g.div(sum, total))
    }),
    ("argmax", |g, a| one(arg(g, a, "ArgMax"))),
    ("argmin", |g, a| one(arg(g, a, "ArgMin"))),
    ("cumsum", |g, a| one(running(g, a, "Cumsum", 0.0, false))),
    ("cumprod", |g, a| one(running(g, a, "Cumprod", 1.0, false))),
    ("nancumsum", |g, a| one(running(g, a, "Cumsum", 0.0, true))),
    ("nancumprod", |g, a| one(running(g, a, "Cumprod", 1.0, true))),
    ("nansum", |g, a| one(without_nan(g, a, "Sum", 0.0))),
    ("nanprod", |g, a| one(without_nan(g, a, "Prod", 1.0))),
    ("nanmax", |g, a| one(without_nan(g, a, "Max", f32::NEG_INFINITY))),
    ("nanmin", |g, a| one(without_nan(g, a, "Min", f32::INFINITY))),
    ("nanmean", |g, a| one(nan_mean(g, a).map(|(mean, ..)| mean))),
    ("nanvar", |g, a| one(nan_variance(g, a))),
    ("nanstd", |g, a| {
        let v = nan_variance(g, a)?;
        one(g.unary("Sqrt", v))
    }),
    ("diff", |g, a| {
        let mut x = a.x(g)?;
        let axis = a.axis_of(g, x, -1)?;
        for _ in 0..a.int(NAMED, &["n"])?.unwrap_or(1).clamp(0, 64) {
            let (upper, lower) = (cut(g, x, axis, 1, None)?, cut(g, x, axis, 0, Some(-1))?);
            x = g.sub(upper, lower)?;
        }
        Ok(vec![x])
    }),
    ("trapezoid", |g, a| {
        let y = a.float_x(g)?;
        let axis = a.axis_of(g, y, -1)?;
        let (upper, lower) = (cut(g, y, axis, 1, None)?, cut(g, y, axis, 0, Some(-1))?);
        let sum = g.add(upper, lower)?;
        let half = g.scale(sum, 0.5)?;
        let area = match a.opt_tensor(g, 1, &["x"], DType::Float32)? {
            Some(x) => {
                let last = g.axis(x, -1)?;
                let (upper, lower) = (cut(g, x, last, 1, None)?, cut(g, x, last, 0, Some(-1))?);
                let step = g.sub(upper, lower)?;
                g.mul(half, step)?
            }
            None => g.scale(half, a.float(NAMED, &["dx"])?.unwrap_or(1.0) as f32)?,
        };
        one(g.reduce("Sum", area, &[axis], false))
    }),
];

/// What a reduction makes of its input first.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    Any,
    Number,
    Float,
    Bool,
}

/// The axes that are reduced: all, if none are given.
pub(super) fn axes(g: &Emit, a: &Args<'_>, x: Port) -> Result<Vec<usize>> {
    match a.axes_of(g, x)? {
        Some(axes) => Ok(axes),
        None => Ok((0..g.rank(x)?).collect()),
    }
}

pub(super) fn keep_dims(a: &Args<'_>) -> Result<bool> {
    a.bool(NAMED, &["keepdims", "keep_dims"], false)
}

fn reduce(g: &mut Emit, a: &Args<'_>, op: &str, input: Input) -> Result<Port> {
    a.refuse("initial", &[Value::Null])?;
    let mut x = a.x(g)?;
    let dtype = g.dtype(x);
    x = match input {
        Input::Bool => g.cast(x, DType::Bool)?,
        Input::Float => g.cast(x, DType::Float32)?,
        Input::Number if dtype == DType::Bool => g.cast(x, DType::Int32)?,
        _ => x,
    };
    let axes = axes(g, a, x)?;
    let y = g.reduce(op, x, &axes, keep_dims(a)?)?;
    match a.dtype(NAMED)? {
        Some(dtype) if input == Input::Number => g.cast(y, dtype),
        _ => Ok(y),
    }
}

/// Mean of the squared distances from the mean.
pub(super) fn spread(g: &mut Emit, x: Port, axes: &[usize], keep: bool) -> Result<Port> {
    let mean = g.reduce("Mean", x, axes, true)?;
    let distance = g.op("SquaredDifference", &[x, mean], &[])?;
    g.reduce("Mean", distance, axes, keep)
}

fn variance(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.float_x(g)?;
    let axes = axes(g, a, x)?;
    spread(g, x, &axes, keep_dims(a)?)
}

/// log Σ eˣ
pub(super) fn log_sum_exp(g: &mut Emit, x: Port, axes: &[usize], keep: bool) -> Result<Port> {
    let top = g.reduce("Max", x, axes, true)?;
    // Of infinities only the sum would be nothing at all.
    let zero = g.scalar(0.0);
    let finite = g.unary("IsFinite", top)?;
    let top = g.select(finite, top, zero)?;
    let shifted = g.sub(x, top)?;
    let exp = g.unary("Exp", shifted)?;
    let sum = g.reduce("Sum", exp, axes, true)?;
    let log = g.unary("Log", sum)?;
    let y = g.add(log, top)?;
    if keep { Ok(y) } else { g.squeeze(y, axes) }
}

fn arg(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Port> {
    let x = a.x(g)?;
    let keep = keep_dims(a)?;
    let (x, axis) = match a.axis()? {
        Some(axis) => (x, g.axis(x, axis)?),
        None => (flat(g, x)?, 0),
    };
    let along = g.int(axis as i32);
    let y = g.op(op, &[x, along], &[("output_type", attr::dtype(DType::Int32))])?;
    if keep { g.expand_dims(y, axis) } else { Ok(y) }
}

fn running(g: &mut Emit, a: &Args<'_>, op: &str, nothing: f32, skip_nan: bool) -> Result<Port> {
    let mut x = a.x(g)?;
    if g.dtype(x) == DType::Bool {
        x = g.cast(x, DType::Int32)?;
    }
    if let Some(dtype) = a.dtype(NAMED)? {
        x = g.cast(x, dtype)?;
    }
    if skip_nan && g.dtype(x) == DType::Float32 {
        let (is_nan, nothing) = (g.unary("IsNan", x)?, g.scalar(nothing));
        x = g.select(is_nan, nothing, x)?;
    }
    let axis = match a.axis()? {
        Some(axis) => g.axis(x, axis)?,
        None => {
            x = flat(g, x)?;
            0
        }
    };
    let axis = g.int(axis as i32);
    let flags = [
        ("exclusive", attr::bool(a.bool(NAMED, &["exclusive"], false)?)),
        ("reverse", attr::bool(a.bool(NAMED, &["reverse"], false)?)),
    ];
    g.op(op, &[x, axis], &flags)
}

fn without_nan(g: &mut Emit, a: &Args<'_>, op: &str, nothing: f32) -> Result<Port> {
    let x = a.float_x(g)?;
    let axes = axes(g, a, x)?;
    let keep = keep_dims(a)?;
    let (is_nan, nothing) = (g.unary("IsNan", x)?, g.scalar(nothing));
    let filled = g.select(is_nan, nothing, x)?;
    let y = g.reduce(op, filled, &axes, keep)?;
    if matches!(op, "Sum" | "Prod") {
        return Ok(y);
    }
    let none = g.reduce("All", is_nan, &axes, keep)?;
    let nan = g.scalar(f32::NAN);
    g.select(none, nan, y)
}

/// Mean of the numbers, those numbers (0 for NaN), and 1 where there is one; keeping dimensions only if asked.
fn nan_mean(g: &mut Emit, a: &Args<'_>) -> Result<(Port, Port, Port)> {
    let x = a.float_x(g)?;
    let axes = axes(g, a, x)?;
    let keep = keep_dims(a)?;
    let (is_nan, zero) = (g.unary("IsNan", x)?, g.scalar(0.0));
    let filled = g.select(is_nan, zero, x)?;
    let there = g.unary("LogicalNot", is_nan)?;
    let there = g.cast(there, DType::Float32)?;
    let (sum, count) = (g.reduce("Sum", filled, &axes, keep)?, g.reduce("Sum", there, &axes, keep)?);
    Ok((g.div(sum, count)?, filled, there))
}

fn nan_variance(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.float_x(g)?;
    let axes = axes(g, a, x)?;
    let keep = keep_dims(a)?;
    let (_, filled, there) = nan_mean(g, a)?;
    let (sum, count) = (g.reduce("Sum", filled, &axes, true)?, g.reduce("Sum", there, &axes, true)?);
    let mean = g.div(sum, count)?;
    let distance = g.op("SquaredDifference", &[filled, mean], &[])?;
    let distance = g.mul(distance, there)?;
    let (sum, count) = (g.reduce("Sum", distance, &axes, keep)?, g.reduce("Sum", there, &axes, keep)?);
    g.div(sum, count)
}

/// Part of an axis: from `start`, to `end` (negative: from the back).
pub(super) fn cut(g: &mut Emit, x: Port, axis: usize, start: i64, end: Option<i64>) -> Result<Port> {
    let rank = g.rank(x)?;
    let mut begin = vec![0; rank];
    let mut stop = vec![0; rank];
    begin[axis] = start as i32;
    stop[axis] = end.unwrap_or(0) as i32;
    let others: i64 = (0..rank).filter(|&i| i != axis).map(|i| 1i64 << i).sum();
    let end_mask = if end.is_none() { others | 1 << axis } else { others };
    let (begin, stop, steps) = (g.ints(&begin), g.ints(&stop), g.ints(&vec![1; rank]));
    let attrs = [
        ("begin_mask", attr::int(others)),
        ("end_mask", attr::int(end_mask)),
        ("ellipsis_mask", attr::int(0)),
        ("new_axis_mask", attr::int(0)),
        ("shrink_axis_mask", attr::int(0)),
    ];
    let y = g.op("StridedSlice", &[x, begin, stop, steps], &attrs)?;
    let mut shape = g.shape(x)?;
    if let Dim::Of(..) = g.dim(x, axis)? {
        shape[axis] = None;
        g.set_shape(y, &shape);
    }
    Ok(y)
}
