//! Elements chosen by place: slices, gathers, scatters, one-hot codes, diagonals.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::args::{Args, NAMED, port, wrong};
use super::{Result, Row, one, shape::flat};
use crate::{Emit, Sym, layers::core::constant, topology::Arg};

pub(super) const OPS: &[Row] = &[
    ("get_item", |g, a| {
        let x = a.x(g)?;
        let key = a.get(1, &["key", "slice_spec"]).unwrap_or(Arg::Value(Value::Array(Vec::new())));
        one(get_item(g, x, &key))
    }),
    ("slice", |g, a| {
        let x = a.x(g)?;
        let begin = a.tensor(g, 1, &["start_indices", "begin"])?;
        let size = a.tensor(g, 2, &["shape", "size"])?;
        one(g.op("Slice", &[x, begin, size], &[]))
    }),
    ("take", |g, a| {
        let x = a.x(g)?;
        let indices = a.tensor(g, 1, &["indices"])?;
        let indices = g.cast(indices, DType::Int32)?;
        let (x, axis) = match a.axis()? {
            Some(axis) => (x, g.axis(x, axis)?),
            None => (flat(g, x)?, 0),
        };
        let indices = from_front(g, x, axis, indices)?;
        let axis = g.int(axis as i32);
        one(g.op("GatherV2", &[x, indices, axis], &[("batch_dims", attr::int(0))]))
    }),
    ("take_along_axis", |g, a| {
        let x = a.x(g)?;
        let indices = a.tensor(g, 1, &["indices"])?;
        let indices = g.cast(indices, DType::Int32)?;
        let axis = match a.axis()? {
            Some(axis) => g.axis(x, axis)?,
            None => return Err(wrong(&["axis"], "it is missing")),
        };
        one(take_along(g, x, indices, axis))
    }),
    ("one_hot", |g, a| {
        let x = a.x(g)?;
        let x = g.cast(x, DType::Int32)?;
        let classes =
            a.int(1, &["num_classes", "depth"])?.ok_or_else(|| wrong(&["depth"], "it is missing"))?;
        let dtype = a.dtype(NAMED)?.unwrap_or(DType::Float32);
        let axis = a.axis()?.unwrap_or(-1);
        let on = match a.opt_tensor(g, NAMED, &["on_value"], dtype)? {
            Some(on) => on,
            None => constant(g, 1.0, dtype),
        };
        let off = match a.opt_tensor(g, NAMED, &["off_value"], dtype)? {
            Some(off) => off,
            None => constant(g, 0.0, dtype),
        };
        let depth = g.int(classes as i32);
        one(one_hot(g, x, depth, on, off, axis))
    }),
    ("multi_hot", |g, a| {
        let x = a.x(g)?;
        let x = g.cast(x, DType::Int32)?;
        let classes = a.int(1, &["num_classes"])?.ok_or_else(|| wrong(&["num_classes"], "it is missing"))?;
        let (on, off, depth) = (g.scalar(1.0), g.scalar(0.0), g.int(classes as i32));
        let rank = g.rank(x)?;
        let hot = one_hot(g, x, depth, on, off, -1)?;
        one(if rank == 0 { Ok(hot) } else { g.reduce("Max", hot, &[rank - 1], false) })
    }),
    ("tril", |g, a| {
        let x = a.x(g)?;
        let k = a.int(NAMED, &["k"])?.unwrap_or(0);
        one(triangle(g, x, k, true))
    }),
    ("triu", |g, a| {
        let x = a.x(g)?;
        let k = a.int(NAMED, &["k"])?.unwrap_or(0);
        one(triangle(g, x, k, false))
    }),
    ("diagonal", |g, a| {
        let x = a.x(g)?;
        one(diagonal(g, a, x))
    }),
    ("diag", |g, a| {
        let x = a.x(g)?;
        one(if g.rank(x)? == 1 { spread_diagonal(g, a, x) } else { diagonal(g, a, x) })
    }),
    ("diagflat", |g, a| {
        let x = a.x(g)?;
        let x = flat(g, x)?;
        one(spread_diagonal(g, a, x))
    }),
    ("trace", |g, a| {
        let mut x = a.x(g)?;
        if g.dtype(x) == DType::Bool {
            x = g.cast(x, DType::Int32)?;
        }
        let diagonal = diagonal(g, a, x)?;
        let last = g.axis(diagonal, -1)?;
        one(g.reduce("Sum", diagonal, &[last], false))
    }),
    ("scatter", |g, a| {
        let indices = a.tensor(g, 0, &["indices"])?;
        let indices = g.cast(indices, DType::Int32)?;
        let values = a.tensor(g, 1, &["values"])?;
        let shape = a.tensor(g, 2, &["shape"])?;
        one(g.op("ScatterNd", &[indices, values, shape], &[]))
    }),
    ("scatter_update", |g, a| {
        let x = a.tensor(g, 0, &["inputs"])?;
        let indices = a.tensor(g, 1, &["indices"])?;
        let indices = g.cast(indices, DType::Int32)?;
        let updates = a.tensor(g, 2, &["updates"])?;
        a.refuse("reduction", &[Value::Null])?;
        let dtype = g.dtype(x);
        let updates = g.cast(updates, dtype)?;
        one(g.op("TensorScatterUpdate", &[x, indices, updates], &[]))
    }),
    ("select", |g, a| {
        let list = |arg: Option<Arg<Sym>>| match arg {
            Some(Arg::List(items)) => items,
            Some(other) => vec![other],
            None => Vec::new(),
        };
        let (conditions, choices) = (list(a.get(0, &["condlist"])), list(a.get(1, &["choicelist"])));
        let mut out = a.get(2, &["default"]).unwrap_or(Arg::Value(0.into()));
        for (condition, choice) in conditions.iter().zip(&choices).rev() {
            let condition = port(g, condition, Some(DType::Bool), &["condlist"])?;
            let (choice, other) = super::args::pair(g, choice, &out, &["choicelist"])?;
            out = Arg::Tensor(g.select(condition, choice, other)?.into());
        }
        one(port(g, &out, None, &["choicelist"]))
    }),
];

/// Indices counted from the back become those from the front.
fn from_front(g: &mut Emit, x: Port, axis: usize, indices: Port) -> Result<Port> {
    if g.fact(indices).ints().is_some_and(|known| known.iter().all(|&i| i >= 0)) {
        return Ok(indices);
    }
    let size = g.dim(x, axis)?;
    let (size, zero) = (g.dim_value(size)?, g.int(0));
    let negative = g.op("Less", &[indices, zero], &[])?;
    let turned = g.add(indices, size)?;
    g.select(negative, turned, indices)
}

/// One element of each line along `axis`, or several.
pub(super) fn take_along(g: &mut Emit, x: Port, indices: Port, axis: usize) -> Result<Port> {
    let indices = from_front(g, x, axis, indices)?;
    let coordinates = coordinates(g, indices, axis)?;
    g.op("GatherNd", &[x, coordinates], &[])
}

/// `indices` along `axis` with the places along the other axes beside them.
fn coordinates(g: &mut Emit, indices: Port, axis: usize) -> Result<Port> {
    let dims = g.dims(indices)?;
    let mut parts = Vec::new();
    let zero = g.unary("ZerosLike", indices)?;
    for (i, dim) in dims.iter().enumerate() {
        if i == axis {
            parts.push(indices);
            continue;
        }
        let (start, end, step) = (g.int(0), g.dim_value(*dim)?, g.int(1));
        let mut range = g.op("Range", &[start, end, step], &[("Tidx", attr::dtype(DType::Int32))])?;
        for _ in i + 1..dims.len() {
            let last = g.rank(range)?;
            range = g.expand_dims(range, last)?;
        }
        parts.push(g.add(range, zero)?);
    }
    g.op("Pack", &parts, &[("axis", attr::int(dims.len() as i64))])
}

pub(super) fn one_hot(g: &mut Emit, x: Port, depth: Port, on: Port, off: Port, axis: i64) -> Result<Port> {
    let rank = g.rank(x)?;
    let hot = g.op("OneHot", &[x, depth, on, off], &[("axis", attr::int(-1))])?;
    let place = if axis < 0 { axis + rank as i64 + 1 } else { axis };
    let place = usize::try_from(place).ok().filter(|&p| p <= rank);
    let place = place.ok_or_else(|| wrong(&["axis"], "there is no such axis"))?;
    // TF.js has codes along the last axis only.
    let mut order: Vec<usize> = (0..rank).collect();
    order.insert(place, rank);
    g.transpose(hot, &order)
}

/// Zeros above (or below) diagonal `k` of the last two axes.
pub(super) fn triangle(g: &mut Emit, x: Port, k: i64, lower: bool) -> Result<Port> {
    let rank = g.rank(x)?;
    if rank < 2 {
        return Err(wrong(&["x"], "it is no matrix"));
    }
    let (rows, columns) = (g.dim(x, rank - 2)?, g.dim(x, rank - 1)?);
    let mut places = |d, axis| -> Result<Port> {
        let (start, end, step) = (g.int(0), g.dim_value(d)?, g.int(1));
        let range = g.op("Range", &[start, end, step], &[("Tidx", attr::dtype(DType::Int32))])?;
        g.expand_dims(range, axis)
    };
    let (rows, columns) = (places(rows, 1)?, places(columns, 0)?);
    let distance = g.sub(columns, rows)?;
    let edge = g.int(k as i32);
    let keep = g.op(if lower { "LessEqual" } else { "GreaterEqual" }, &[distance, edge], &[])?;
    let zero = constant(g, 0.0, g.dtype(x));
    g.select(keep, x, zero)
}

fn diagonal(g: &mut Emit, a: &Args<'_>, x: Port) -> Result<Port> {
    let offset = a.int(NAMED, &["offset", "k"])?.unwrap_or(0);
    let (one, two) = (a.int(NAMED, &["axis1"])?.unwrap_or(0), a.int(NAMED, &["axis2"])?.unwrap_or(1));
    let (one, two) = (g.axis(x, one)?, g.axis(x, two)?);
    let rows = g.known_dim(x, one, "rows")?;
    let columns = g.known_dim(x, two, "columns")?;
    let order: Vec<usize> = (0..g.rank(x)?).filter(|i| *i != one && *i != two).collect();
    // Rows and columns to the front, where places are given.
    let front: Vec<usize> = [one, two].into_iter().chain(order.iter().copied()).collect();
    let moved = g.transpose(x, &front)?;
    let places: Vec<i32> = (0..rows as i64)
        .map(|r| (r, r + offset))
        .filter(|(_, c)| (0..columns as i64).contains(c))
        .flat_map(|(r, c)| [r as i32, c as i32])
        .collect();
    let places = g.constant(Tensor::new([places.len() / 2, 2], places)?);
    let picked = g.op("GatherNd", &[moved, places], &[])?;
    let last = g.rank(picked)?;
    let order: Vec<usize> = (1..last).chain([0]).collect();
    g.transpose(picked, &order)
}

fn spread_diagonal(g: &mut Emit, a: &Args<'_>, x: Port) -> Result<Port> {
    let offset = a.int(NAMED, &["k"])?.unwrap_or(0);
    let count = g.known_dim(x, 0, "length")?;
    let size = count + usize::try_from(offset.unsigned_abs()).unwrap_or(0);
    let places: Vec<i32> =
        (0..count as i64).flat_map(|i| [(i + (-offset).max(0)) as i32, (i + offset.max(0)) as i32]).collect();
    let places = g.constant(Tensor::new([count, 2], places)?);
    let shape = g.ints(&[size as i32, size as i32]);
    g.op("ScatterNd", &[places, x, shape], &[])
}

/// One entry of an index.
enum Entry {
    All,
    Range([Option<Port>; 3]),
    At(Port),
    Pick(Port),
    New,
    Ellipsis,
}

/// `x[key]`: integers, slices, an ellipsis, new axes, and a list of indices.
pub(super) fn get_item(g: &mut Emit, x: Port, key: &Arg<Sym>) -> Result<Port> {
    let is_list = |v: &Value| v.is_array();
    let items: Vec<Arg<Sym>> = match key {
        Arg::List(items) => items.clone(),
        Arg::Value(v) if v.get("class_name").and_then(Value::as_str) == Some("__tuple__") => {
            let items = v.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            items.into_iter().map(Arg::Value).collect()
        }
        Arg::Value(v) if is_list(v) => v.as_array().into_iter().flatten().cloned().map(Arg::Value).collect(),
        other => vec![other.clone()],
    };
    let entries: Vec<Entry> = items.iter().map(|i| entry(g, i)).collect::<Result<_>>()?;
    let rank = g.rank(x)?;
    let used = entries.iter().filter(|e| !matches!(e, Entry::New | Entry::Ellipsis)).count();
    let hidden =
        rank.checked_sub(used).ok_or_else(|| wrong(&["key"], "it has more entries than there are axes"))?;
    let mut full: Vec<Entry> = Vec::new();
    let mut seen = false;
    for e in entries {
        match e {
            Entry::Ellipsis => {
                seen = true;
                full.extend((0..hidden).map(|_| Entry::All));
            }
            e => full.push(e),
        }
    }
    if !seen {
        full.extend((0..hidden).map(|_| Entry::All));
    }
    slice(g, x, full)
}

fn entry(g: &mut Emit, arg: &Arg<Sym>) -> Result<Entry> {
    match arg {
        Arg::Value(Value::Null) => Ok(Entry::New),
        Arg::Value(v) if v.is_object() => {
            let class = v.get("class_name").and_then(Value::as_str);
            match class {
                Some("__ellipsis__") => Ok(Entry::Ellipsis),
                Some("__slice__") | None => {
                    let config = v.get("config").unwrap_or(v);
                    let bound = |name: &str| config.get(name).and_then(Value::as_i64);
                    Ok(Entry::Range(["start", "stop", "step"].map(|n| bound(n).map(|n| g.int(n as i32)))))
                }
                _ => port(g, arg, Some(DType::Int32), &["key"]).map(Entry::Pick),
            }
        }
        Arg::Value(v) if v.is_array() => port(g, arg, Some(DType::Int32), &["key"]).map(Entry::Pick),
        Arg::Value(v) => match v.as_i64() {
            Some(n) => Ok(Entry::At(g.int(n as i32))),
            None => Err(wrong(&["key"], "it is no index")),
        },
        Arg::Tensor(s) => {
            let index = g.cast(s.port, DType::Int32)?;
            Ok(if g.rank(index)? == 0 { Entry::At(index) } else { Entry::Pick(index) })
        }
        Arg::Dict(items) => {
            let mut ports = [None; 3];
            for (i, name) in ["start", "stop", "step"].iter().enumerate() {
                match items.iter().find(|(k, _)| k == name).map(|(_, a)| a) {
                    Some(Arg::Tensor(s)) => ports[i] = Some(g.cast(s.port, DType::Int32)?),
                    Some(Arg::Value(v)) => {
                        ports[i] = v.as_i64().map(|n| g.int(n as i32));
                    }
                    _ => {}
                }
            }
            Ok(Entry::Range(ports))
        }
        Arg::List(_) => port(g, arg, Some(DType::Int32), &["key"]).map(Entry::Pick),
    }
}

fn slice(g: &mut Emit, x: Port, entries: Vec<Entry>) -> Result<Port> {
    let zero = g.int(0);
    let step_one = g.int(1);
    let (mut begin, mut end, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    let (mut begin_mask, mut end_mask, mut shrink) = (0i64, 0i64, 0i64);
    // Positions in the result of new axes and of axes picked from.
    let (mut fresh, mut picked) = (Vec::new(), None);
    let mut out_axis = 0;
    let mut plain = true;
    for e in entries {
        let bit = 1i64 << begin.len().min(62);
        match e {
            Entry::New => {
                fresh.push(out_axis);
                out_axis += 1;
                continue;
            }
            Entry::All | Entry::Ellipsis => {
                (begin_mask, end_mask) = (begin_mask | bit, end_mask | bit);
                begin.push(zero);
                end.push(zero);
                steps.push(step_one);
            }
            Entry::Pick(indices) => {
                if picked.is_some() {
                    return Err(wrong(
                        &["key"],
                        "lists of indices along two axes have no form in a graph here",
                    ));
                }
                picked = Some((out_axis, indices));
                (begin_mask, end_mask) = (begin_mask | bit, end_mask | bit);
                begin.push(zero);
                end.push(zero);
                steps.push(step_one);
            }
            Entry::Range(ports) => {
                plain = false;
                if ports[0].is_none() {
                    begin_mask |= bit;
                }
                if ports[1].is_none() {
                    end_mask |= bit;
                }
                begin.push(ports[0].unwrap_or(zero));
                end.push(ports[1].unwrap_or(zero));
                steps.push(ports[2].unwrap_or(step_one));
            }
            Entry::At(index) => {
                plain = false;
                shrink |= bit;
                begin.push(index);
                let next = match g.fact(index).ints() {
                    // −1 + 1 would be the front.
                    Some(&[n]) => g.int(n.wrapping_add(1)),
                    _ => g.add(index, step_one)?,
                };
                if g.fact(index).ints() == Some(&[-1]) {
                    end_mask |= bit;
                }
                end.push(next);
                steps.push(step_one);
                continue;
            }
        }
        out_axis += 1;
    }
    let mut y = x;
    if !plain {
        let vector = |g: &mut Emit, parts: &[Port]| -> Result<Port> {
            let known: Option<Vec<i32>> =
                parts.iter().map(|&p| g.fact(p).ints().and_then(|v| v.first().copied())).collect();
            match known {
                Some(known) => Ok(g.ints(&known)),
                None => g.op("Pack", parts, &[("axis", attr::int(0))]),
            }
        };
        let (begin, end, steps) = (vector(g, &begin)?, vector(g, &end)?, vector(g, &steps)?);
        let attrs = [
            ("begin_mask", attr::int(begin_mask)),
            ("end_mask", attr::int(end_mask)),
            ("ellipsis_mask", attr::int(0)),
            ("new_axis_mask", attr::int(0)),
            ("shrink_axis_mask", attr::int(shrink)),
        ];
        y = g.op("StridedSlice", &[x, begin, end, steps], &attrs)?;
    }
    for axis in &fresh {
        y = g.expand_dims(y, *axis)?;
    }
    if let Some((axis, indices)) = picked {
        let indices = from_front(g, y, axis, indices)?;
        let axis = g.int(axis as i32);
        y = g.op("GatherV2", &[y, indices, axis], &[("batch_dims", attr::int(0))])?;
    }
    Ok(y)
}
