//! Intersection over union of classes, from a confusion matrix.
#![allow(non_upper_case_globals, reason = "metrics are named as Keras's classes are")]

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::{Batch, Def, Kind, Metric, Result, ratio};
use crate::{Dialect, Emit, dtype_of, options::Default};

const CLASSES: (&str, Default) = ("num_classes", Default::None);
const TARGETS: (&str, Default) = ("target_class_ids", Default::None);
const IGNORED: (&str, Default) = ("ignore_class", Default::None);
const SPARSE_PREDICTIONS: (&str, Default) = ("sparse_y_pred", Default::Bool(false));
const AXIS: (&str, Default) = ("axis", Default::Int(-1));
/// Of the matrix: in Keras 3 integers, if nothing is said.
const TYPE: (&str, Default) = ("dtype", Default::None);

metrics! {
    /// Mean over `target_class_ids`.
    IoU { name: None, aliases: [], options: [
        CLASSES, TARGETS, IGNORED, ("sparse_y_true", Default::Bool(true)), ("sparse_y_pred", Default::Bool(true)), AXIS,
        TYPE,
    ], State { update: matrix, result: mean }}
    /// Mean over all classes.
    MeanIoU { name: None, aliases: [], options: [
        CLASSES, IGNORED, ("sparse_y_true", Default::Bool(true)), ("sparse_y_pred", Default::Bool(true)), AXIS, TYPE,
    ], State { update: matrix, result: mean }}
    /// Mean over `target_class_ids`, of one-hot labels.
    OneHotIoU { name: None, aliases: [], options: [CLASSES, TARGETS, IGNORED, SPARSE_PREDICTIONS, AXIS, TYPE],
        State { update: matrix, result: mean }}
    /// Mean over all classes, of one-hot labels.
    OneHotMeanIoU { name: None, aliases: [], options: [CLASSES, IGNORED, SPARSE_PREDICTIONS, AXIS, TYPE],
        State { update: matrix, result: mean }}
    /// Mean over the two sides of `threshold` (0.5).
    BinaryIoU { name: None, aliases: [], options: [TARGETS, ("threshold", Default::Float(0.5)), TYPE],
        State { update: matrix, result: mean }}
}

fn is_binary(m: &Metric) -> bool {
    m.def.class == "BinaryIoU"
}

fn classes(m: &Metric) -> Result<usize> {
    if is_binary(m) {
        return Ok(2);
    }
    m.options
        .opt_size("num_classes")?
        .filter(|&n| n <= 1 << 13)
        .ok_or_else(|| m.options.wrong("num_classes", "a number of classes"))
}

fn targets(m: &Metric) -> Result<Vec<usize>> {
    let classes = classes(m)?;
    let wrong = || m.options.wrong("target_class_ids", &format!("classes from 0 to {}", classes - 1));
    let class = |c: i64| usize::try_from(c).ok().filter(|&c| c < classes).ok_or_else(wrong);
    match m.options.ints("target_class_ids")? {
        Some(ids) => ids.into_iter().map(class).collect(),
        None if matches!(m.def.class, "IoU" | "OneHotIoU") => Err(wrong()),
        None => Ok((0..classes).collect()),
    }
}

/// Classes as a vector; if they are not given as such, the largest along the axis.
fn flat(g: &mut Emit, m: &Metric, x: Port, is_class: bool) -> Result<Port> {
    let x = if is_class {
        x
    } else {
        let axis = g.axis(x, m.options.int("axis")?)? as i32;
        let axis = g.int(axis);
        g.op("ArgMax", &[x, axis], &[("output_type", attr::dtype(DType::Int32))])?
    };
    let x = g.cast(x, DType::Int32)?;
    let every = g.ints(&[-1]);
    g.op("Reshape", &[x, every], &[])
}

/// Labels along rows, predictions along columns, flat.
fn matrix(g: &mut Emit, m: &Metric, batch: Batch) -> Result<Vec<Port>> {
    let classes = i32::try_from(classes(m)?).unwrap_or(i32::MAX);
    targets(m)?;
    let one_hot = m.def.class.starts_with("OneHot");
    let sparse = |key: &str| m.options.value(key).as_bool().unwrap_or(true);
    let every = g.ints(&[-1]);
    let y = flat(g, m, batch.y_true, !one_hot && sparse("sparse_y_true"))?;
    let p = if is_binary(m) {
        let threshold = g.scalar(m.options.float("threshold")? as f32);
        let above = g.op("GreaterEqual", &[batch.y_pred, threshold], &[])?;
        flat(g, m, above, true)?
    } else {
        flat(g, m, batch.y_pred, sparse("sparse_y_pred"))?
    };
    let ones = g.unary("OnesLike", p)?;
    let ones = g.cast(ones, DType::Float32)?;
    let weight = match batch.weight {
        Some(w) => {
            let w = if g.rank(w)? > 1 { g.op("Reshape", &[w, every], &[])? } else { w };
            // A matrix of integers has integer weights.
            let w = if counts_integers(g, m) {
                let whole = g.cast(w, DType::Int32)?;
                g.cast(whole, DType::Float32)?
            } else {
                w
            };
            g.mul(w, ones)?
        }
        None => ones,
    };
    let (zero, count) = (g.int(0), g.int(classes));
    let mut valid = g.op("GreaterEqual", &[y, zero], &[])?;
    for (op, value, bound) in [("Less", y, count), ("GreaterEqual", p, zero), ("Less", p, count)] {
        let fits = g.op(op, &[value, bound], &[])?;
        valid = g.op("LogicalAnd", &[valid, fits], &[])?;
    }
    let rows = g.mul(y, count)?;
    let cells = g.add(rows, p)?;
    // Keras 3 leaves out what is no class; Keras 2 stops, as segments do at numbers that are too large.
    let beyond = if g.dialect == Dialect::Keras3 { -1 } else { classes.saturating_mul(classes) };
    let beyond = g.int(beyond);
    let mut cells = g.select(valid, cells, beyond)?;
    if let Some(ignored) = m.options.opt_int("ignore_class")? {
        let ignored = i32::try_from(ignored).map_err(|_| m.options.wrong("ignore_class", "a class"))?;
        let (ignored, nowhere) = (g.int(ignored), g.int(-1));
        let counts = g.op("NotEqual", &[y, ignored], &[("incompatible_shape_error", attr::bool(true))])?;
        cells = g.select(counts, cells, nowhere)?;
    }
    let size = g.int(classes.saturating_mul(classes));
    Ok(vec![g.op("UnsortedSegmentSum", &[weight, cells, size], &[])?])
}

fn counts_integers(g: &Emit, m: &Metric) -> bool {
    match m.options.value("dtype") {
        Value::Null => g.dialect == Dialect::Keras3,
        Value::String(name) if name == "int" => true,
        dtype => dtype_of(&dtype) == Some(DType::Int32),
    }
}

fn mean(m: &Metric, totals: &[Vec<f64>]) -> Result<Vec<f64>> {
    let n = classes(m)?;
    let [cells] = totals else { return Err(super::foreign()) };
    if cells.len() != n * n {
        return Err(super::foreign());
    }
    let (mut sum, mut present) = (0.0, 0.0);
    for class in targets(m)? {
        let row: f64 = cells[class * n..][..n].iter().sum();
        let column: f64 = cells.iter().skip(class).step_by(n).sum();
        let both = cells[class * n + class];
        let either = row + column - both;
        sum += ratio(both, either);
        present += f64::from(u8::from(either != 0.0));
    }
    Ok(vec![ratio(sum, present)])
}
