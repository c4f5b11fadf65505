//! Values arranged anew: reshaped, transposed, joined, split, repeated, padded.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::args::{Args, NAMED, wrong};
use super::{Result, Row, one, reduction::cut};
use crate::{Emit, LayersError, emit::Dim, layers::core::constant, topology::Arg};

pub(super) const OPS: &[Row] = &[
    ("reshape", |g, a| one(reshape(g, a))),
    ("ravel", |g, a| {
        let x = a.x(g)?;
        one(flat(g, x))
    }),
    ("transpose", |g, a| {
        let x = a.x(g)?;
        let rank = g.rank(x)?;
        let order = match a.ints(1, &["axes", "perm"])? {
            Some(order) => order.into_iter().map(|i| g.axis(x, i)).collect::<Result<Vec<_>>>()?,
            None => (0..rank).rev().collect(),
        };
        one(g.transpose(x, &order))
    }),
    ("swapaxes", |g, a| {
        let x = a.x(g)?;
        let (i, j) = (a.int(1, &["axis1"])?.unwrap_or(0), a.int(2, &["axis2"])?.unwrap_or(1));
        let mut order: Vec<usize> = (0..g.rank(x)?).collect();
        let (i, j) = (g.axis(x, i)?, g.axis(x, j)?);
        order.swap(i, j);
        one(g.transpose(x, &order))
    }),
    ("moveaxis", |g, a| {
        let x = a.x(g)?;
        let missing = || wrong(&["source"], "it is missing");
        let axes =
            |g: &Emit, list: Vec<i64>| list.into_iter().map(|i| g.axis(x, i)).collect::<Result<Vec<_>>>();
        let from = axes(g, a.ints(1, &["source"])?.ok_or_else(missing)?)?;
        let to = axes(g, a.ints(2, &["destination"])?.ok_or_else(missing)?)?;
        let mut rest = (0..g.rank(x)?).filter(|i| !from.contains(i));
        let mut order = Vec::new();
        for place in 0..g.rank(x)? {
            let moved = to.iter().position(|&t| t == place).and_then(|i| from.get(i).copied());
            order.extend(moved.or_else(|| rest.next()));
        }
        one(g.transpose(x, &order))
    }),
    ("expand_dims", |g, a| {
        let mut x = a.x(g)?;
        let mut axes = a.ints(1, &["axis", "dim"])?.unwrap_or_else(|| vec![0]);
        let rank = (g.rank(x)? + axes.len()) as i64;
        axes.iter_mut().filter(|i| **i < 0).for_each(|i| *i += rank);
        axes.sort_unstable();
        for axis in axes {
            let axis = usize::try_from(axis).ok().filter(|&i| i <= g.rank(x).unwrap_or(0));
            x = g.expand_dims(x, axis.ok_or_else(|| wrong(&["axis"], "there is no such axis"))?)?;
        }
        Ok(vec![x])
    }),
    ("squeeze", |g, a| {
        let x = a.x(g)?;
        let axes = match a.axes_of(g, x)? {
            Some(axes) => axes,
            None => {
                let shape = g.shape(x)?;
                (0..shape.len()).filter(|&i| shape[i] == Some(1)).collect()
            }
        };
        one(if axes.is_empty() { Ok(x) } else { g.squeeze(x, &axes) })
    }),
    ("concatenate", |g, a| {
        let parts = unified(g, a)?;
        let axis = first_axis(g, &parts, a.axis()?.unwrap_or(0))?;
        one(g.concat(&parts, axis))
    }),
    ("append", |g, a| {
        let (x, y) = a.pair(g)?;
        let Some(axis) = a.axis()? else {
            let (x, y) = (flat(g, x)?, flat(g, y)?);
            return one(g.concat(&[x, y], 0));
        };
        let axis = g.axis(x, axis)?;
        one(g.concat(&[x, y], axis))
    }),
    ("stack", |g, a| {
        let parts = unified(g, a)?;
        let rank = parts.first().map_or(Ok(0), |&p| g.rank(p))? as i64 + 1;
        let axis = a.axis()?.unwrap_or(0);
        let axis = if axis < 0 { axis + rank } else { axis };
        one(g.op("Pack", &parts, &[("axis", attr::int(axis))]))
    }),
    ("hstack", |g, a| {
        let parts = at_least(g, a, 1)?;
        let rank = parts.first().map_or(Ok(1), |&p| g.rank(p))?;
        one(g.concat(&parts, usize::from(rank > 1)))
    }),
    ("vstack", |g, a| {
        let parts = at_least(g, a, 2)?;
        one(g.concat(&parts, 0))
    }),
    ("dstack", |g, a| {
        let parts = at_least(g, a, 3)?;
        one(g.concat(&parts, 2))
    }),
    ("split", |g, a| {
        let x = a.x(g)?;
        let axis = a.axis_of(g, x, 0)?;
        split(g, a, x, axis)
    }),
    ("array_split", |g, a| {
        let x = a.x(g)?;
        let axis = a.axis_of(g, x, 0)?;
        split(g, a, x, axis)
    }),
    ("hsplit", |g, a| {
        let x = a.x(g)?;
        let axis = usize::from(g.rank(x)? > 1);
        split(g, a, x, axis)
    }),
    ("vsplit", |g, a| {
        let x = a.x(g)?;
        split(g, a, x, 0)
    }),
    ("dsplit", |g, a| {
        let x = a.x(g)?;
        split(g, a, x, 2)
    }),
    ("unstack", |g, a| {
        let x = a.x(g)?;
        let axis = a.axis_of(g, x, 0)?;
        let count = match a.int(NAMED, &["num"])? {
            Some(n) => usize::try_from(n).unwrap_or(0),
            None => g.known_dim(x, axis, "number of parts")?,
        };
        if count > MOST_OUTPUTS {
            return Err(wrong(&["num"], "it is no number of parts"));
        }
        let attrs = [("axis", attr::int(axis as i64)), ("num", attr::int(count as i64))];
        g.op_n("Unpack", &[x], &attrs, count)
    }),
    ("tile", |g, a| {
        let x = a.x(g)?;
        let mut times =
            a.ints(1, &["repeats", "multiples"])?.ok_or_else(|| wrong(&["repeats"], "it is missing"))?;
        let (rank, mut x) = (g.rank(x)?, x);
        while times.len() < rank {
            times.insert(0, 1);
        }
        for _ in rank..times.len() {
            x = g.expand_dims(x, 0)?;
        }
        let times: Vec<i32> = times.into_iter().map(|t| t as i32).collect();
        let times = g.ints(&times);
        one(g.op("Tile", &[x, times], &[]))
    }),
    ("repeat", |g, a| one(repeat(g, a))),
    ("flip", |g, a| {
        let x = a.x(g)?;
        let axes = super::reduction::axes(g, a, x)?;
        one(reverse(g, x, &axes))
    }),
    ("fliplr", |g, a| {
        let x = a.x(g)?;
        one(reverse(g, x, &[1]))
    }),
    ("flipud", |g, a| {
        let x = a.x(g)?;
        one(reverse(g, x, &[0]))
    }),
    ("rot90", |g, a| {
        let mut x = a.x(g)?;
        let axes = a.ints(NAMED, &["axes"])?.unwrap_or_else(|| vec![0, 1]);
        let [i, j] = axes.as_slice() else { return Err(wrong(&["axes"], "they are not two")) };
        let (i, j) = (g.axis(x, *i)?, g.axis(x, *j)?);
        for _ in 0..a.int(NAMED, &["k"])?.unwrap_or(1).rem_euclid(4) {
            let mut order: Vec<usize> = (0..g.rank(x)?).collect();
            order.swap(i, j);
            x = g.transpose(x, &order)?;
            x = reverse(g, x, &[i])?;
        }
        Ok(vec![x])
    }),
    ("roll", |g, a| one(roll(g, a))),
    ("pad", |g, a| one(pad(g, a))),
    ("broadcast_to", |g, a| {
        let x = a.x(g)?;
        let shape = a.tensor(g, 1, &["shape"])?;
        let known = g.fact(shape).ints().map(<[i32]>::to_vec);
        let y = g.op("BroadcastTo", &[x, shape], &[])?;
        if let Some(known) = known {
            let dims: Vec<Option<usize>> = known.into_iter().map(|d| usize::try_from(d).ok()).collect();
            g.set_shape(y, &dims);
        }
        Ok(vec![y])
    }),
    ("zeros_like", |g, a| one(filled_like(g, a, 0.0))),
    ("empty_like", |g, a| one(filled_like(g, a, 0.0))),
    ("ones_like", |g, a| one(filled_like(g, a, 1.0))),
    ("full_like", |g, a| {
        let x = a.x(g)?;
        let dtype = a.dtype(NAMED)?.unwrap_or_else(|| g.dtype(x));
        let value = a.tensor(g, 1, &["fill_value"])?;
        let value = g.cast(value, dtype)?;
        one(fill(g, x, value))
    }),
    ("shape", |g, a| {
        let x = a.x(g)?;
        one(g.op("Shape", &[x], &[("out_type", attr::dtype(DType::Int32))]))
    }),
    ("size", |g, a| {
        let x = a.x(g)?;
        one(g.op("Size", &[x], &[("out_type", attr::dtype(DType::Int32))]))
    }),
    ("ndim", |g, a| {
        let x = a.x(g)?;
        let rank = g.rank(x)? as i32;
        Ok(vec![g.int(rank)])
    }),
    ("meshgrid", |g, a| {
        let parts = match a.tensors(g, &["x"]) {
            Ok(parts) => parts,
            Err(e) => return Err(e),
        };
        let swapped = a.text(NAMED, &["indexing"])?.is_none_or(|i| i == "xy") && parts.len() > 1;
        let mut ones = Vec::new();
        for (i, &p) in parts.iter().enumerate() {
            let place = if swapped && i < 2 { 1 - i } else { i };
            let mut x = flat(g, p)?;
            for _ in place + 1..parts.len() {
                let last = g.rank(x)?;
                x = g.expand_dims(x, last)?;
            }
            for _ in 0..place {
                x = g.expand_dims(x, 0)?;
            }
            ones.push(x);
        }
        let mut sum = None;
        for &x in &ones {
            let zero = g.unary("ZerosLike", x)?;
            sum = Some(match sum {
                None => zero,
                Some(s) => g.add(s, zero)?,
            });
        }
        let zero = sum.ok_or_else(|| wrong(&["x"], "it is empty"))?;
        ones.into_iter().map(|x| g.add(x, zero)).collect()
    }),
    ("rearrange", |g, a| one(rearrange(g, a))),
];

fn unified(g: &mut Emit, a: &Args<'_>) -> Result<Vec<Port>> {
    let parts = a.tensors(g, &["xs", "x", "values", "arrays"])?;
    let common = parts.iter().map(|&p| g.dtype(p)).reduce(super::args::common).unwrap_or(DType::Float32);
    if common == DType::String {
        return Ok(parts);
    }
    parts.into_iter().map(|p| g.cast(p, common)).collect()
}

fn at_least(g: &mut Emit, a: &Args<'_>, rank: usize) -> Result<Vec<Port>> {
    let parts = unified(g, a)?;
    let mut out = Vec::new();
    for mut p in parts {
        while g.rank(p)? < rank {
            // As numpy has it: rows in front, depth behind.
            let axis = if g.rank(p)? == 2 { 2 } else { 0 };
            p = g.expand_dims(p, axis)?;
        }
        out.push(p);
    }
    Ok(out)
}

fn first_axis(g: &Emit, parts: &[Port], axis: i64) -> Result<usize> {
    let first = parts.first().ok_or_else(|| wrong(&["xs"], "it is empty"))?;
    g.axis(*first, axis)
}

/// All elements in a row.
pub(super) fn flat(g: &mut Emit, x: Port) -> Result<Port> {
    if g.rank(x)? == 1 {
        return Ok(x);
    }
    let shape = g.ints(&[-1]);
    g.op("Reshape", &[x, shape], &[])
}

fn reshape(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.x(g)?;
    let names = ["newshape", "shape", "new_shape"];
    // Keras 3 writes the dimension of the batch as null.
    if let Some(Arg::Value(Value::Array(items))) = a.get(1, &names) {
        let sizes: Option<Vec<Option<usize>>> = items
            .iter()
            .map(|v| match v {
                Value::Null => Some(None),
                v => match v.as_i64()? {
                    -1 => Some(None),
                    n => usize::try_from(n).ok().map(Some),
                },
            })
            .collect();
        let sizes = sizes.ok_or_else(|| wrong(&names, "they are no sizes"))?;
        let open = sizes.iter().filter(|s| s.is_none()).count();
        if open > 1 {
            return Err(wrong(&names, "more than one size is open"));
        }
        let flat: Vec<i32> = sizes.iter().map(|s| s.map_or(-1, |n| n as i32)).collect();
        let shape = g.ints(&flat);
        let y = g.op("Reshape", &[x, shape], &[])?;
        g.set_shape(y, &sizes);
        return Ok(y);
    }
    let shape = a.tensor(g, 1, &names)?;
    g.op("Reshape", &[x, shape], &[])
}

/// `value` in the shape of `x`.
pub(super) fn fill(g: &mut Emit, x: Port, value: Port) -> Result<Port> {
    let dims = g.dims(x)?;
    let shape = g.shape_value(&dims)?;
    let known = g.shape(x)?;
    let y = if g.rank(value)? == 0 {
        g.op("Fill", &[shape, value], &[])?
    } else {
        g.op("BroadcastTo", &[value, shape], &[])?
    };
    g.set_shape(y, &known);
    Ok(y)
}

fn filled_like(g: &mut Emit, a: &Args<'_>, value: f64) -> Result<Port> {
    let x = a.x(g)?;
    let dtype = a.dtype(NAMED)?.unwrap_or_else(|| g.dtype(x));
    let value = constant(g, value, dtype);
    fill(g, x, value)
}

/// More parts than any model cuts a value into.
const MOST_OUTPUTS: usize = 1 << 16;

/// Parts along an axis: a number of equal ones, places where to cut (Keras 3), or sizes (TensorFlow).
fn split(g: &mut Emit, a: &Args<'_>, x: Port, axis: usize) -> Result<Vec<Port>> {
    let names = ["indices_or_sections", "num_or_size_splits"];
    let given = a.get(1, &names);
    let is_list = matches!(&given, Some(Arg::Value(v)) if v.is_array() || v.is_object());
    let list = a.ints(1, &names)?.ok_or_else(|| wrong(&names, "it is missing"))?;
    if !is_list {
        let count = list.first().and_then(|&n| usize::try_from(n).ok());
        let count = count.filter(|n| (1..=MOST_OUTPUTS).contains(n));
        let count = count.ok_or_else(|| wrong(&names, "it is no number of parts"))?;
        return match g.shape(x)?.get(axis).copied().flatten() {
            // `array_split` makes the first parts larger.
            Some(total) if total % count != 0 => {
                let (size, more) = (total / count, total % count);
                let sizes: Vec<i32> = (0..count).map(|i| (size + usize::from(i < more)) as i32).collect();
                split_sizes(g, x, axis, &sizes)
            }
            _ => g.split(x, axis, count),
        };
    }
    if a.get(NAMED, &["num_or_size_splits"]).is_some() {
        let sizes: Vec<i32> = list.into_iter().map(|n| n as i32).collect();
        return split_sizes(g, x, axis, &sizes);
    }
    let mut parts = Vec::new();
    let mut start = 0;
    for place in list {
        parts.push(cut(g, x, axis, start, Some(place))?);
        start = place;
    }
    parts.push(cut(g, x, axis, start, None)?);
    Ok(parts)
}

fn split_sizes(g: &mut Emit, x: Port, axis: usize, sizes: &[i32]) -> Result<Vec<Port>> {
    let count = sizes.len();
    let (sizes, axis) = (g.ints(sizes), g.int(axis as i32));
    g.op_n("SplitV", &[x, sizes, axis], &[("num_split", attr::int(count as i64))], count)
}

/// Each element several times in a row.
fn repeat(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.x(g)?;
    let times = a.ints(1, &["repeats"])?.ok_or_else(|| wrong(&["repeats"], "it is missing"))?;
    let (x, axis) = match a.axis()? {
        Some(axis) => (x, g.axis(x, axis)?),
        None => (flat(g, x)?, 0),
    };
    if let [times] = times.as_slice() {
        let rank = g.rank(x)?;
        let wide = g.expand_dims(x, axis + 1)?;
        let mut multiples = vec![1; rank + 1];
        multiples[axis + 1] = *times as i32;
        let multiples = g.ints(&multiples);
        let wide = g.op("Tile", &[wide, multiples], &[])?;
        let mut dims = g.dims(x)?;
        if let Some(Dim::Known(n)) = dims.get(axis).copied() {
            let times = usize::try_from(*times).map_err(|_| wrong(&["repeats"], "it is negative"))?;
            dims[axis] = Dim::Known(n.saturating_mul(times));
            return g.reshape(wide, &dims);
        }
        // The repeated axis is not known: it is what is left.
        let mut parts = Vec::new();
        for (i, d) in dims.iter().enumerate() {
            parts.push(if i == axis { g.int(-1) } else { g.dim_value(*d)? });
        }
        let shape = g.op("Pack", &parts, &[("axis", attr::int(0))])?;
        return g.op("Reshape", &[wide, shape], &[]);
    }
    let total = times.iter().try_fold(0usize, |n, &t| n.checked_add(usize::try_from(t).unwrap_or(0)));
    crate::emit::table_size(&[total.unwrap_or(usize::MAX)])?;
    let each = times.iter().enumerate().map(|(i, &n)| (i as i32, usize::try_from(n).unwrap_or(0)));
    let indices: Vec<i32> = each.flat_map(|(i, n)| std::iter::repeat_n(i, n)).collect();
    let (indices, axis) = (g.ints(&indices), g.int(axis as i32));
    g.op("GatherV2", &[x, indices, axis], &[("batch_dims", attr::int(0))])
}

pub(super) fn reverse(g: &mut Emit, x: Port, axes: &[usize]) -> Result<Port> {
    let axes: Vec<i32> = axes.iter().map(|&a| a as i32).collect();
    let axes = g.ints(&axes);
    g.op("ReverseV2", &[x, axes], &[])
}

fn roll(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.x(g)?;
    let shifts = a.ints(1, &["shift"])?.ok_or_else(|| wrong(&["shift"], "it is missing"))?;
    let Some(axes) = a.axes_of(g, x)? else {
        let dims = g.dims(x)?;
        let row = flat(g, x)?;
        let total: i64 = shifts.iter().sum();
        let rolled = roll_axis(g, row, 0, total)?;
        return g.reshape(rolled, &dims);
    };
    let mut y = x;
    for (i, axis) in axes.into_iter().enumerate() {
        let shift = shifts.get(i).or(shifts.first()).copied().unwrap_or(0);
        y = roll_axis(g, y, axis, shift)?;
    }
    Ok(y)
}

fn roll_axis(g: &mut Emit, x: Port, axis: usize, shift: i64) -> Result<Port> {
    let shift = match g.shape(x)?.get(axis).copied().flatten() {
        Some(0) => return Ok(x),
        Some(n) => shift.rem_euclid(n as i64),
        None => shift,
    };
    if shift == 0 {
        return Ok(x);
    }
    let (back, front) = (cut(g, x, axis, -shift, None)?, cut(g, x, axis, 0, Some(-shift))?);
    g.concat(&[back, front], axis)
}

fn pad(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.x(g)?;
    let rank = g.rank(x)?;
    let names = ["pad_width", "paddings"];
    let missing = || wrong(&names, "it is no list of pairs");
    let value = match a.get(1, &names) {
        Some(Arg::Value(v)) => v,
        _ => return Err(missing()),
    };
    let value = value.pointer("/config/value").unwrap_or(&value).clone();
    let pair = |v: &Value| -> Option<[i32; 2]> {
        match v {
            Value::Array(items) if items.len() == 1 => {
                let n = i32::try_from(items[0].as_i64()?).ok()?;
                Some([n, n])
            }
            Value::Array(items) if items.len() == 2 => {
                Some([i32::try_from(items[0].as_i64()?).ok()?, i32::try_from(items[1].as_i64()?).ok()?])
            }
            v => {
                let n = i32::try_from(v.as_i64()?).ok()?;
                Some([n, n])
            }
        }
    };
    let pads: Option<Vec<[i32; 2]>> = match &value {
        Value::Array(items) if items.iter().all(Value::is_array) && items.len() == rank => {
            items.iter().map(pair).collect()
        }
        Value::Array(items) if items.len() == 1 => pair(&items[0]).map(|p| vec![p; rank]),
        other => pair(other).map(|p| vec![p; rank]),
    };
    let flat: Vec<i32> = pads.ok_or_else(missing)?.into_iter().flatten().collect();
    let mode = a.text(NAMED, &["mode"])?.unwrap_or_else(|| "constant".to_owned()).to_uppercase();
    let pads = g.constant(Tensor::new([rank, 2], flat)?);
    match mode.as_str() {
        "CONSTANT" => {
            let dtype = g.dtype(x);
            match a.opt_tensor(g, NAMED, &["constant_values"], dtype)? {
                None => g.op("Pad", &[x, pads], &[]),
                Some(value) => {
                    let value = g.cast(value, dtype)?;
                    g.op("PadV2", &[x, pads, value], &[])
                }
            }
        }
        "REFLECT" | "SYMMETRIC" => g.op("MirrorPad", &[x, pads], &[("mode", attr::text(&mode))]),
        _ => Err(wrong(&["mode"], "it is none of constant, reflect and symmetric")),
    }
}

/// einops' `rearrange`: `b (h w) c -> b h w c`.
fn rearrange(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.x(g)?;
    let pattern = a.text(1, &["pattern"])?.ok_or_else(|| wrong(&["pattern"], "it is missing"))?;
    let malformed = || wrong(&["pattern"], "it is no pattern such as `b (h w) c -> b h w c`");
    let groups = |side: &str| -> Result<Vec<Vec<String>>> {
        let mut out: Vec<Vec<String>> = Vec::new();
        let spaced = side.replace('(', " ( ").replace(')', " ) ");
        let mut inside = None;
        for word in spaced.split_whitespace() {
            match (word, &mut inside) {
                ("(", None) => inside = Some(Vec::new()),
                (")", group @ Some(_)) => out.extend(group.take()),
                ("(" | ")", _) => return Err(malformed()),
                (name, Some(group)) => group.push(name.to_owned()),
                (name, None) => out.push(vec![name.to_owned()]),
            }
        }
        Ok(out)
    };
    let (left, right) = pattern.split_once("->").ok_or_else(malformed)?;
    let (left, right) = (groups(left)?, groups(right)?);
    if left.len() != g.rank(x)? {
        return Err(malformed());
    }
    // Sizes of single axes: given, taken from the input, or what a group leaves.
    let given = |name: &str| -> Result<Option<usize>> {
        let direct = a.int(NAMED, &[name])?;
        let listed = match a.get(NAMED, &["axes_lengths"]) {
            Some(Arg::Value(v)) => v.get(name).and_then(Value::as_i64),
            _ => None,
        };
        Ok(direct.or(listed).and_then(|n| usize::try_from(n).ok()))
    };
    let mut sizes: Vec<(String, Dim)> = Vec::new();
    for (axis, group) in left.iter().enumerate() {
        let whole = g.dim(x, axis)?;
        if let [name] = group.as_slice() {
            sizes.push((name.clone(), whole));
            continue;
        }
        let mut known = 1usize;
        for name in group {
            known = known.saturating_mul(given(name)?.unwrap_or(1)).max(1);
        }
        for name in group {
            let size = match (given(name)?, whole) {
                (Some(n), _) => n,
                (None, Dim::Known(total)) => total / known,
                (None, Dim::Of(..)) => {
                    return Err(wrong(&["pattern"], "the size of an axis does not follow"));
                }
            };
            sizes.push((name.clone(), Dim::Known(size)));
        }
    }
    let all: Vec<Dim> = sizes.iter().map(|(_, d)| *d).collect();
    let x = g.reshape(x, &all)?;
    let place = |name: &String| sizes.iter().position(|(n, _)| n == name).ok_or_else(malformed);
    let order = right.iter().flatten().map(place).collect::<Result<Vec<_>>>()?;
    if order.len() != sizes.len() {
        return Err(malformed());
    }
    let x = g.transpose(x, &order)?;
    let mut dims = Vec::new();
    for group in &right {
        let mut product = Dim::Known(1);
        for name in group {
            product = match (product, sizes[place(name)?].1) {
                (Dim::Known(a), Dim::Known(b)) => Dim::Known(a.saturating_mul(b)),
                (Dim::Known(1), d) => d,
                (d, Dim::Known(1)) => d,
                _ => return Err(LayersError::Inputs("sizes of joined axes must be known".to_owned())),
            };
        }
        dims.push(product);
    }
    g.reshape(x, &dims)
}
