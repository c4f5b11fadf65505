//! Operations that only arrange elements: shapes, slices, joins.

use serde_json::{Value, json};
use tfjs_graph::Fact;
use tfjs_kernels::DType;

use super::{LARGEST_MATRIX, Result, Work, is_float, joined};
use crate::{
    layers::{NAMED, operation_constant},
    save::{
        fragment::From,
        lower::{activation::dims, pieces},
    },
    topology::{Arg, TensorRef},
};

/// Axes of size 1 added or taken away, or all elements of a sample in another shape: the batch stays.
pub(super) fn reshape(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let (Some((x, fact, from)), Some(to)) = (w.input(), dims(w.output())) else { return Ok(None) };
    let batch = |fact: &Fact| fact.shape.as_ref().and_then(|s| s.first().copied());
    let same_size = match (pieces::product(&from), pieces::product(&to)) {
        (Some(a), Some(b)) => a == b && a > 0,
        _ => {
            let axes = w.args.ints(1, &["axis", "dim"]).ok().flatten().unwrap_or_default();
            let rank = from.len().max(to.len()) as i64 + 1;
            w.name != "reshape" && !axes.is_empty() && axes.iter().all(|&a| a != 0 && a != -rank)
        }
    };
    let same_batch = w.output().is_some_and(|o| {
        let (a, b) = (batch(&fact).flatten(), batch(o).flatten());
        a == b || a.is_none() || b.is_none()
    });
    if !same_size || !same_batch || fact.dtype != w.output().and_then(|o| o.dtype) {
        return Ok(None);
    }
    Ok(w.f.reshape(x, &to).map(|y| vec![y]))
}

pub(super) fn transpose(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((x, _, dims)) = w.input() else { return Ok(None) };
    let rank = dims.len() + 1;
    let at = |i: i64| usize::try_from(if i < 0 { i + rank as i64 } else { i }).ok().filter(|&i| i < rank);
    let list = |position: usize, names: &[&str]| -> Option<Vec<usize>> {
        w.args.ints(position, names).ok()??.into_iter().map(at).collect()
    };
    let mut order: Vec<usize> = (0..rank).collect();
    match w.name.as_str() {
        "transpose" => match list(1, &["axes", "perm"]) {
            Some(given) => order = given,
            None => return Ok(None),
        },
        "swapaxes" => match (list(1, &["axis1"]).as_deref(), list(2, &["axis2"]).as_deref()) {
            (Some(&[a]), Some(&[b])) => order.swap(a, b),
            _ => return Ok(None),
        },
        "moveaxis" => match (list(1, &["source"]).as_deref(), list(2, &["destination"]).as_deref()) {
            (Some(&[from]), Some(&[to])) => {
                let axis = order.remove(from);
                order.insert(to, axis);
            }
            _ => return Ok(None),
        },
        _ if rank > 2 => order.swap(rank - 1, rank - 2),
        _ => return Ok(None),
    }
    if order.first() != Some(&0) || order.len() != rank {
        return Ok(None);
    }
    if order.iter().enumerate().all(|(i, &o)| i == o) {
        return w.give(|f| f.function(x, "linear"));
    }
    w.give(|f| f.permute(x, &order[1..]))
}

pub(super) fn concatenate(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let rank = w.source.inputs.first().and_then(Fact::rank).unwrap_or(0);
    let axis = w.args.int(1, &["axis"]).ok().flatten().unwrap_or(0);
    match w.axis_behind_batch(rank, axis) {
        Some(axis) if w.all_inputs() => joined(w, "Concatenate", json!({"axis": axis + 1})),
        _ => Ok(None),
    }
}

impl Work<'_> {
    /// Whether the first argument lists all inputs and nothing else.
    fn all_inputs(&self) -> bool {
        match self.args.get(0, &["xs", "x", "values", "arrays"]) {
            Some(Arg::List(items)) => {
                items.len() == self.tensors.len() && items.iter().all(|a| matches!(a, Arg::Tensor(_)))
            }
            _ => false,
        }
    }
}

pub(super) fn stack(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some(rank) = w.source.inputs.first().and_then(Fact::rank).filter(|_| w.all_inputs()) else {
        return Ok(None);
    };
    let axis = w.args.int(1, &["axis"]).ok().flatten().unwrap_or(0);
    let Some(axis) = w.axis_behind_batch(rank + 1, axis) else { return Ok(None) };
    let mut parts = Vec::new();
    for k in 0..w.tensors.len() {
        let fact = &w.source.inputs[k];
        let Some(mut wide) = dims(Some(fact)).filter(|d| is_float(fact) && axis <= d.len()) else {
            return Ok(None);
        };
        wide.insert(axis, Some(1));
        match w.f.reshape(From::Input(k), &wide) {
            Some(x) => parts.push(x),
            None => return Ok(None),
        }
    }
    match parts.as_slice() {
        [one] => Ok(Some(vec![*one])),
        many => {
            let config = json!({"axis": axis + 1});
            let many = many.to_vec();
            w.give(|f| f.add("merge", "Concatenate", config, &many))
        }
    }
}

/// The parts have the sizes that their shapes say.
pub(super) fn split(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((x, fact, dims)) = w.input() else { return Ok(None) };
    let axis = w.args.int(2, &["axis"]).ok().flatten().unwrap_or(0);
    let Some(axis) = w.axis_behind_batch(dims.len() + 1, axis) else { return Ok(None) };
    parts(w, x, &fact, axis, axis)
}

pub(super) fn unstack(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((x, fact, from)) = w.input() else { return Ok(None) };
    let axis = w.args.int(NAMED, &["axis"]).ok().flatten().unwrap_or(0);
    let Some(axis) = w.axis_behind_batch(from.len() + 1, axis) else { return Ok(None) };
    let mut out = Vec::new();
    for i in 0..w.source.outputs.len() {
        let Some(part) = w.pick(x, &fact, axis, &[i])? else { return Ok(None) };
        match w.shaped(part, i) {
            Some(part) => out.push(part),
            None => return Ok(None),
        }
    }
    Ok(Some(out))
}

fn parts(w: &mut Work<'_>, x: From, fact: &Fact, axis: usize, of_output: usize) -> Result<Option<Vec<From>>> {
    let mut out = Vec::new();
    let mut start = 0;
    for i in 0..w.source.outputs.len() {
        let size = dims(w.source.outputs.get(i)).and_then(|d| d.get(of_output).copied().flatten());
        let Some(end) = size.and_then(|n| n.checked_add(start)).filter(|&end| end > start) else {
            return Ok(None);
        };
        let picked: Vec<usize> = (start..end).collect();
        match w.pick(x, fact, axis, &picked)? {
            Some(part) if part == x => out.push(w.f.function(x, "linear")),
            Some(part) => out.push(part),
            None => return Ok(None),
        }
        start = end;
    }
    Ok(Some(out))
}

/// Slices, single indices, new axes and an ellipsis, all constant; nothing of the batch.
pub(super) fn get_item(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((mut x, mut fact, from)) = w.input() else { return Ok(None) };
    let key = match w.args.get(1, &["key", "slice_spec"]) {
        Some(Arg::Value(key)) => key,
        // Slices of constants may stand as dictionaries.
        Some(Arg::List(items)) => match items.iter().map(plain).collect::<Option<Vec<Value>>>() {
            Some(items) => items.into(),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let key = if key["class_name"] == "__tuple__" { key["items"].clone() } else { key };
    let entries = match key {
        Value::Array(items) => items,
        other => vec![other],
    };
    let used = entries.iter().filter(|e| !e.is_null() && e["class_name"] != "__ellipsis__").count();
    let Some(hidden) = (from.len() + 1).checked_sub(used) else { return Ok(None) };
    // The axis of the input that comes next.
    let mut axis = 0;
    for e in &entries {
        match e {
            Value::Null => {}
            Value::Object(_) if e["class_name"] == "__ellipsis__" => axis += hidden,
            Value::Object(map) => {
                let bounds = map.get("config").and_then(Value::as_object).unwrap_or(map);
                let bound = |name: &str| bounds.get(name).filter(|v| !v.is_null());
                let [start, stop, step] = ["start", "stop", "step"].map(bound);
                if [start, stop, step].iter().flatten().any(|v| v.as_i64().is_none()) {
                    return Ok(None);
                }
                let [start, stop, step] = [start, stop, step].map(|v| v.and_then(Value::as_i64));
                let whole = start.unwrap_or(0) == 0 && stop.is_none() && step.unwrap_or(1) == 1;
                if !whole {
                    let size = axis.checked_sub(1).and_then(|a| from.get(a).copied().flatten());
                    let Some(size) = size else { return Ok(None) };
                    let picked = range(size, start, stop, step.unwrap_or(1));
                    if !w.narrow(&mut x, &mut fact, axis - 1, &picked)? {
                        return Ok(None);
                    }
                }
                axis += 1;
            }
            e => {
                let size = axis.checked_sub(1).and_then(|a| from.get(a).copied().flatten());
                let (Some(index), Some(size)) = (e.as_i64(), size) else { return Ok(None) };
                let index = if index < 0 { index + size as i64 } else { index };
                let Some(index) = usize::try_from(index).ok().filter(|&i| i < size) else { return Ok(None) };
                if !w.narrow(&mut x, &mut fact, axis - 1, &[index])? {
                    return Ok(None);
                }
                axis += 1;
            }
        }
    }
    let now = dims(Some(&fact));
    if now.is_some() && now == dims(w.output()) {
        let y = if matches!(x, From::Input(_)) { w.f.function(x, "linear") } else { x };
        return Ok(Some(vec![y]));
    }
    // New axes before the batch would take its place.
    if entries.first().is_some_and(Value::is_null) {
        return Ok(None);
    }
    Ok(w.shaped(x, 0).map(|y| vec![y]))
}

/// An argument without tensors as JSON.
fn plain(arg: &Arg<TensorRef>) -> Option<Value> {
    match arg {
        Arg::Value(v) => Some(v.clone()),
        Arg::Dict(items) => items.iter().map(|(k, a)| Some((k.clone(), plain(a)?))).collect(),
        _ => None,
    }
}

/// The indices of a slice, as Python counts them.
fn range(size: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<usize> {
    let n = size as i64;
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clamp = |v: i64| (if v < 0 { v.saturating_add(n) } else { v }).clamp(low, high);
    let mut at = start.map_or(if step > 0 { 0 } else { n - 1 }, clamp);
    let end = stop.map_or(if step > 0 { n } else { -1 }, clamp);
    let mut out = Vec::new();
    while step != 0 && (if step > 0 { at < end } else { at > end }) {
        out.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    out
}

impl Work<'_> {
    /// Picks along an axis; the fact follows.
    fn narrow(&mut self, x: &mut From, fact: &mut Fact, axis: usize, picked: &[usize]) -> Result<bool> {
        let Some(y) = self.pick(*x, fact, axis, picked)? else { return Ok(false) };
        *x = y;
        if let Some(shape) = &mut fact.shape {
            shape[axis + 1] = Some(picked.len());
        }
        Ok(true)
    }

    /// Picks along one axis of the only input.
    fn picked(&mut self, axis: usize, picked: &[usize]) -> Result<Option<Vec<From>>> {
        let Some((x, fact, _)) = self.input() else { return Ok(None) };
        let Some(y) = self.pick(x, &fact, axis, picked)? else { return Ok(None) };
        Ok(Some(vec![if y == x { self.f.function(x, "linear") } else { y }]))
    }

    /// The axis that is asked for, and its size.
    fn sized_axis(&self, position: usize) -> Option<(usize, usize)> {
        let (_, _, dims) = self.input()?;
        let &[axis] = self.args.ints(position, &["axis"]).ok()??.as_slice() else { return None };
        let axis = self.axis_behind_batch(dims.len() + 1, axis)?;
        Some((axis, dims[axis]?))
    }
}

/// `take` of Keras 3 and TensorFlow's `gather`.
pub(super) fn take(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((axis, size)) = w.sized_axis(2) else { return Ok(None) };
    let Some(Arg::Value(indices)) = w.args.get(1, &["indices"]) else { return Ok(None) };
    let Some(indices) = operation_constant(&indices, Some(DType::Int32)) else { return Ok(None) };
    let at = |&i: &i32| usize::try_from(if i < 0 { i64::from(i) + size as i64 } else { i.into() }).ok();
    let indices: Option<Vec<usize>> = match (indices.dims(), indices.data::<i32>()) {
        ([_], Ok(v)) => v.iter().map(at).collect(),
        _ => None,
    };
    match indices {
        Some(indices) if indices.iter().all(|&i| i < size) => w.picked(axis, &indices),
        _ => Ok(None),
    }
}

pub(super) fn flip(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((axis, size)) = w.sized_axis(1) else { return Ok(None) };
    w.picked(axis, &(0..size).rev().collect::<Vec<_>>())
}

pub(super) fn roll(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let (Some((axis, size)), Ok(Some(shift))) = (w.sized_axis(2), w.args.int(1, &["shift"])) else {
        return Ok(None);
    };
    let at = |i: usize| (i as i64 - shift).rem_euclid(size.max(1) as i64) as usize;
    w.picked(axis, &(0..size).map(at).collect::<Vec<_>>())
}

pub(super) fn repeat(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let (Some((axis, size)), Ok(Some(times))) = (w.sized_axis(2), w.args.int(1, &["repeats"])) else {
        return Ok(None);
    };
    let Some(times) = usize::try_from(times).ok().filter(|t| t.saturating_mul(size) <= LARGEST_MATRIX) else {
        return Ok(None);
    };
    w.picked(axis, &(0..size).flat_map(|i| std::iter::repeat_n(i, times)).collect::<Vec<_>>())
}

pub(super) fn tile(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((mut x, mut fact, from)) = w.input() else { return Ok(None) };
    let Ok(Some(mut times)) = w.args.ints(1, &["repeats", "multiples"]) else { return Ok(None) };
    while times.len() <= from.len() {
        times.insert(0, 1);
    }
    if times.len() != from.len() + 1 || times[0] != 1 {
        return Ok(None);
    }
    for (axis, &times) in times[1..].iter().enumerate().filter(|(_, t)| **t != 1) {
        let times = usize::try_from(times).ok().filter(|&t| t <= LARGEST_MATRIX);
        let (Some(times), Some(size)) = (times, from[axis]) else { return Ok(None) };
        if size.saturating_mul(times) > LARGEST_MATRIX {
            return Ok(None);
        }
        let picked: Vec<usize> = (0..times).flat_map(|_| 0..size).collect();
        if !w.narrow(&mut x, &mut fact, axis, &picked)? {
            return Ok(None);
        }
    }
    Ok(Some(vec![if matches!(x, From::Input(_)) { w.f.function(x, "linear") } else { x }]))
}

/// A triangle of ones along the axis.
pub(super) fn cumsum(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((axis, size)) = w.sized_axis(1).filter(|(_, n)| n.saturating_mul(*n) <= LARGEST_MATRIX) else {
        return Ok(None);
    };
    let (Some((x, dims)), Ok(false), Ok(false)) =
        (w.float_input(), w.args.bool(NAMED, &["exclusive"], false), w.args.bool(NAMED, &["reverse"], false))
    else {
        return Ok(None);
    };
    let matrix: Vec<f32> =
        (0..size).flat_map(|to| (0..size).map(move |from| f32::from(u8::from(from <= to)))).collect();
    Ok(Some(vec![w.f.along_axis(x, dims.len(), axis, &matrix, size)?]))
}

/// Zeros around.
pub(super) fn pad(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let (Some((mut x, mut now)), Some(to)) = (w.float_input(), dims(w.output())) else { return Ok(None) };
    let zeros = matches!(w.args.text(NAMED, &["mode"]), Ok(None)) || {
        w.args.text(NAMED, &["mode"]).is_ok_and(|m| m.is_some_and(|m| m.eq_ignore_ascii_case("constant")))
    };
    let value = w.args.get(NAMED, &["constant_values"]);
    let plain = value.is_none() || w.args.float(NAMED, &["constant_values"]).is_ok_and(|v| v == Some(0.0));
    let Some(Arg::Value(widths)) = w.args.get(1, &["pad_width", "paddings"]) else { return Ok(None) };
    let Some(widths) = operation_constant(&widths, Some(DType::Int32)) else { return Ok(None) };
    let rank = now.len() + 1;
    let pairs: Vec<[i32; 2]> = match (widths.dims(), widths.data::<i32>()) {
        ([r, 2], Ok(v)) if *r == rank => v.chunks(2).map(|p| [p[0], p[1]]).collect(),
        _ => return Ok(None),
    };
    if !zeros
        || !plain
        || pairs[0] != [0, 0]
        || to.len() + 1 != rank
        || pairs.iter().flatten().any(|&n| n < 0)
    {
        return Ok(None);
    }
    for (axis, pair) in pairs[1..].iter().enumerate().filter(|(_, p)| **p != [0, 0]) {
        let config = json!({"padding": [[0, 0], pair]});
        match w.f.on_axis(x, &now, axis, "ZeroPadding2D", config, to[axis]) {
            Some((y, dims)) => (x, now) = (y, dims),
            None => return Ok(None),
        }
    }
    Ok(Some(vec![if matches!(x, From::Input(_)) { w.f.function(x, "linear") } else { x }]))
}
