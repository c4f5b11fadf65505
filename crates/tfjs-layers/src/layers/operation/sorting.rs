//! Order: sorting, quantiles, ranks, memberships.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::args::{Args, NAMED, wrong};
use super::{Result, Row, one, shape::flat};
use crate::{Emit, emit::Dim};

pub(super) const OPS: &[Row] = &[
    ("sort", |g, a| one(ordered(g, a).map(|(values, _)| values))),
    ("argsort", |g, a| one(ordered(g, a).map(|(_, places)| places))),
    ("top_k", |g, a| {
        let x = a.x(g)?;
        let k = a.int(1, &["k"])?.unwrap_or(1);
        let sorted = a.bool(NAMED, &["sorted"], true)?;
        let k = g.int(k as i32);
        g.op_n("TopKV2", &[x, k], &[("sorted", attr::bool(sorted))], 2)
    }),
    ("in_top_k", |g, a| {
        let targets = a.tensor(g, 0, &["targets"])?;
        let targets = g.cast(targets, DType::Int32)?;
        let scores = a.tensor(g, 1, &["predictions"])?;
        let k = a.int(2, &["k"])?.unwrap_or(1);
        let places = g.expand_dims(targets, 1)?;
        let own = super::index::take_along(g, scores, places, 1)?;
        let better = g.op("Greater", &[scores, own], &[])?;
        let better = g.cast(better, DType::Int32)?;
        let count = g.reduce("Sum", better, &[1], false)?;
        let k = g.int(k as i32);
        one(g.op("Less", &[count, k], &[]))
    }),
    ("median", |g, a| one(quantile(g, a, Some(&[0.5]), 1.0))),
    ("quantile", |g, a| one(quantile(g, a, None, 1.0))),
    ("percentile", |g, a| one(quantile(g, a, None, 0.01))),
    ("search_sorted", |g, a| {
        let sorted = a.tensor(g, 0, &["sorted_sequence"])?;
        let values = a.opt_tensor(g, 1, &["values"], DType::Float32)?;
        let values = values.ok_or_else(|| wrong(&["values"], "it is missing"))?;
        let op =
            if a.text(NAMED, &["side"])?.is_some_and(|s| s == "right") { "UpperBound" } else { "LowerBound" };
        let dims = g.dims(values)?;
        let dtype = super::args::common(g.dtype(sorted), g.dtype(values));
        let (sorted, values) = (g.cast(sorted, dtype)?, g.cast(values, dtype)?);
        let (sorted, values) = (g.expand_dims(sorted, 0)?, flat(g, values)?);
        let values = g.expand_dims(values, 0)?;
        let found = g.op(op, &[sorted, values], &[("out_type", attr::dtype(DType::Int32))])?;
        one(g.reshape(found, &dims))
    }),
    ("digitize", |g, a| {
        let x = a.float_x(g)?;
        let bins = a.tensor(g, 1, &["bins"])?;
        let bins = g.cast(bins, DType::Float32)?;
        let rank = g.rank(x)?;
        let x = g.expand_dims(x, rank)?;
        let over = g.op("GreaterEqual", &[x, bins], &[])?;
        let over = g.cast(over, DType::Int32)?;
        one(g.reduce("Sum", over, &[rank], false))
    }),
    ("is_in", |g, a| {
        let (x, set) = a.pair(g)?;
        let set = flat(g, set)?;
        let rank = g.rank(x)?;
        let x = g.expand_dims(x, rank)?;
        let same = g.op("Equal", &[x, set], &[])?;
        let found = g.reduce("Any", same, &[rank], false)?;
        one(if a.bool(NAMED, &["invert"], false)? { g.unary("LogicalNot", found) } else { Ok(found) })
    }),
    ("bincount", |g, a| {
        let x = a.x(g)?;
        let x = g.cast(x, DType::Int32)?;
        let least = a.int(NAMED, &["minlength"])?.unwrap_or(0);
        let weights = match a.opt_tensor(g, 1, &["weights"], DType::Float32)? {
            Some(weights) => weights,
            None => g.constant(tfjs_kernels::Tensor::new([0], Vec::<i32>::new())?),
        };
        let axes: Vec<usize> = (0..g.rank(x)?).collect();
        let top = g.reduce("Max", x, &axes, false)?;
        let (one_, least) = (g.int(1), g.int(least as i32));
        let size = g.add(top, one_)?;
        let size = g.op("Maximum", &[size, least], &[])?;
        one(g.op("DenseBincount", &[x, size, weights], &[("binary_output", attr::bool(false))]))
    }),
    ("nonzero", |g, a| {
        let x = a.x(g)?;
        let x = g.cast(x, DType::Bool)?;
        let rank = g.rank(x)?;
        let places = g.op("Where", &[x], &[])?;
        let places = g.cast(places, DType::Int32)?;
        g.set_shape(places, &[None, Some(rank)]);
        let attrs = [("axis", attr::int(1)), ("num", attr::int(rank as i64))];
        g.op_n("Unpack", &[places], &attrs, rank)
    }),
];

/// Values along an axis in ascending order, and where they stood; the first of equal ones comes first.
fn ordered(g: &mut Emit, a: &Args<'_>) -> Result<(Port, Port)> {
    let mut x = a.x(g)?;
    let is_bool = g.dtype(x) == DType::Bool;
    if is_bool {
        x = g.cast(x, DType::Int32)?;
    }
    // Keras 3 flattens if the axis is null; that is not the same as leaving it out, which its files never do.
    let axis = match a.axis()? {
        Some(axis) => g.axis(x, axis)?,
        None if g.dialect == crate::Dialect::Keras3 => {
            x = flat(g, x)?;
            0
        }
        None => g.axis(x, -1)?,
    };
    let descending = a.text(NAMED, &["direction"])?.is_some_and(|d| d.eq_ignore_ascii_case("descending"));
    sorted(g, x, axis, descending)
}

pub(super) fn sorted(g: &mut Emit, x: Port, axis: usize, descending: bool) -> Result<(Port, Port)> {
    let last = g.rank(x)?.saturating_sub(1);
    let mut order: Vec<usize> = (0..=last).collect();
    order.swap(axis, last);
    let moved = g.transpose(x, &order)?;
    let moved = if descending { moved } else { g.unary("Neg", moved)? };
    let count = g.dim(moved, last)?;
    let k = g.dim_value(count)?;
    let shape = g.shape(moved)?;
    let (values, places) = match g.op_n("TopKV2", &[moved, k], &[("sorted", attr::bool(true))], 2)?.as_slice()
    {
        &[values, places] => (values, places),
        _ => return Err(wrong(&["x"], "it cannot be sorted")),
    };
    g.set_shape(values, &shape);
    g.set_shape(places, &shape);
    let values = if descending { values } else { g.unary("Neg", values)? };
    Ok((g.transpose(values, &order)?, g.transpose(places, &order)?))
}

fn quantile(g: &mut Emit, a: &Args<'_>, fixed: Option<&[f64]>, unit: f64) -> Result<Port> {
    let mut x = a.float_x(g)?;
    let keep = super::reduction::keep_dims(a)?;
    let mut kept = None;
    let axis = match a.axes_of(g, x)? {
        Some(axes) if axes.len() == 1 => axes[0],
        given => {
            // Several axes become one, at the end.
            let rank = g.rank(x)?;
            let axes = given.unwrap_or_else(|| (0..rank).collect());
            let mut dims = g.dims(x)?;
            let rest: Vec<usize> = (0..rank).filter(|i| !axes.contains(i)).collect();
            let order: Vec<usize> = rest.iter().chain(&axes).copied().collect();
            let moved = g.transpose(x, &order)?;
            let mut count = 1usize;
            for &i in &axes {
                count = count.saturating_mul(g.known_dim(x, i, "number of values")?);
            }
            let target: Vec<Dim> = rest.iter().map(|&i| dims[i]).chain([Dim::Known(count)]).collect();
            x = g.reshape(moved, &target)?;
            for &i in &axes {
                dims[i] = Dim::Known(1);
            }
            kept = Some(dims);
            rest.len()
        }
    };
    let count = g.known_dim(x, axis, "number of values")?;
    let (values, _) = sorted(g, x, axis, false)?;
    let scalar = fixed.is_some() || a.float(1, &["q"]).is_ok_and(|q| q.is_some());
    let fractions: Vec<f64> = match fixed {
        Some(fixed) => fixed.to_vec(),
        None => {
            let q = a.tensor(g, 1, &["q"])?;
            let q = g.fact(q).value.clone().ok_or_else(|| wrong(&["q"], "it is not constant"))?;
            match q.data::<f32>() {
                Ok(q) => q.iter().map(|&v| f64::from(v) * unit).collect(),
                Err(_) => q.data::<i32>()?.iter().map(|&v| f64::from(v) * unit).collect(),
            }
        }
    };
    let method = a.text(NAMED, &["method"])?.unwrap_or_else(|| "linear".to_owned());
    let mut results = Vec::new();
    for q in fractions {
        let place = q * (count.saturating_sub(1)) as f64;
        let (low, high) = (place.floor(), place.ceil());
        let (first, second, weight) = match method.as_str() {
            "linear" => (low, high, (place - low) as f32),
            "lower" => (low, low, 0.0),
            "higher" => (high, high, 0.0),
            "nearest" => (place.round_ties_even(), place.round_ties_even(), 0.0),
            "midpoint" => (low, high, if low == high { 0.0 } else { 0.5 }),
            _ => return Err(wrong(&["method"], "it is not known")),
        };
        let mut pick = |index: f64| -> Result<Port> {
            let (index, along) = (g.int(index as i32), g.int(axis as i32));
            g.op("GatherV2", &[values, index, along], &[("batch_dims", attr::int(0))])
        };
        let first = pick(first)?;
        let y = if weight == 0.0 {
            first
        } else {
            let second = pick(second)?;
            let step = g.sub(second, first)?;
            let step = g.scale(step, weight)?;
            g.add(first, step)?
        };
        results.push(match (keep, &kept) {
            (true, Some(dims)) => g.reshape(y, dims)?,
            (true, None) => g.expand_dims(y, axis)?,
            _ => y,
        });
    }
    match results.as_slice() {
        [one] if scalar => Ok(*one),
        many => g.op("Pack", many, &[("axis", attr::int(0))]),
    }
}
