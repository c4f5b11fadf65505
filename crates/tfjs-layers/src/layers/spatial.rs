//! What layers over images, sequences and volumes share: where channels lie, cutting, merging axes.

use tfjs_graph::{Port, builder::attr};

use crate::{Config, Emit, LayersError, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// Puts channels last: `[batch, channels, …]` becomes `[batch, …, channels]`.
///
/// # Errors
/// When the rank is not known.
pub(super) fn channels_last(g: &mut Emit, x: Port) -> Result<Port> {
    let rank = g.rank(x)?;
    let order: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    if rank > 2 { g.transpose(x, &order) } else { Ok(x) }
}

/// Puts channels first again.
///
/// # Errors
/// When the rank is not known.
pub(super) fn channels_first(g: &mut Emit, x: Port) -> Result<Port> {
    let rank = g.rank(x)?;
    let order: Vec<usize> = [0, rank.saturating_sub(1)].into_iter().chain(1..rank.max(1) - 1).collect();
    if rank > 2 { g.transpose(x, &order) } else { Ok(x) }
}

/// A sequence `[batch, steps, channels]` as an image of height 1; where it has just been made of one, that one.
///
/// # Errors
/// When the rank is too small.
pub(super) fn widen(g: &mut Emit, x: Port) -> Result<Port> {
    let graph = g.builder().graph();
    let node = graph.node(x.node);
    let wide = (node.op == "Squeeze" && node.attrs.ints("squeeze_dims").is_ok_and(|d| d == [1]))
        .then(|| node.inputs.first().copied())
        .flatten();
    match wide {
        Some(wide) if g.rank(wide)? == 4 => Ok(wide),
        _ => g.expand_dims(x, 1),
    }
}

/// Checks the rank of an input.
///
/// # Errors
/// When it has another.
pub(super) fn expect_rank(g: &Emit, x: Port, rank: usize) -> Result<()> {
    if g.rank(x)? == rank {
        return Ok(());
    }
    Err(LayersError::Inputs(format!("it takes an input of {rank} dimensions, not {}", g.fact(x))))
}

/// `x[begin : end : stride]` along each axis, as NumPy has it: a negative end counts from the end, `None` reaches it.
///
/// # Errors
/// When the graph cannot be written.
pub(super) fn strided_slice(g: &mut Emit, x: Port, axes: &[(i32, Option<i32>, i32)]) -> Result<Port> {
    if axes.iter().all(|&(begin, end, stride)| begin == 0 && end.is_none() && stride == 1) {
        return Ok(x);
    }
    let begins: Vec<i32> = axes.iter().map(|a| a.0).collect();
    let ends: Vec<i32> = axes.iter().map(|a| a.1.unwrap_or(0)).collect();
    let strides: Vec<i32> = axes.iter().map(|a| a.2).collect();
    let to_end = (0..).zip(axes).filter(|(_, a)| a.1.is_none()).map(|(i, _)| 1i64 << i).sum();
    let inputs = [x, g.ints(&begins), g.ints(&ends), g.ints(&strides)];
    let none = ["begin_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"];
    let mut attrs: Vec<_> = none.iter().map(|m| (*m, attr::int(0))).collect();
    attrs.push(("end_mask", attr::int(to_end)));
    g.op("StridedSlice", &inputs, &attrs)
}

/// Cuts off so many elements before and after, along each axis.
///
/// # Errors
/// When nothing would be left.
pub(super) fn crop(g: &mut Emit, x: Port, amounts: &[(usize, usize)]) -> Result<Port> {
    for (&size, &(before, after)) in g.shape(x)?.iter().zip(amounts) {
        if size.is_some_and(|n| (before > 0 || after > 0) && n <= before.saturating_add(after)) {
            return Err(LayersError::Inputs(format!("nothing is left of {} after cropping", g.fact(x))));
        }
    }
    let axes: Vec<_> = amounts
        .iter()
        .map(|&(before, after)| (before as i32, (after > 0).then_some(-(after as i32)), 1))
        .collect();
    strided_slice(g, x, &axes)
}

/// A new shape of which one part may be left to be found (`None`), whatever is known.
///
/// # Errors
/// When the numbers of elements are known to differ.
pub(super) fn reshape(g: &mut Emit, x: Port, dims: &[Option<Dim>]) -> Result<Port> {
    let unknown = dims.iter().filter(|d| !matches!(d, Some(Dim::Known(_)))).count();
    let known = |d: &Option<Dim>| match d {
        Some(Dim::Known(n)) => Some(*n),
        _ => None,
    };
    let facts: Vec<Option<usize>> = dims.iter().map(known).collect();
    let shape = if unknown <= 1 {
        let sizes: Vec<i32> = facts.iter().map(|d| d.map_or(-1, |n| n as i32)).collect();
        g.ints(&sizes)
    } else {
        let mut parts = Vec::with_capacity(dims.len());
        for d in dims {
            parts.push(match d {
                Some(d) => g.dim_value(*d)?,
                None => g.int(-1),
            });
        }
        g.op("Pack", &parts, &[("axis", attr::int(0))])?
    };
    let y = g.op("Reshape", &[x, shape], &[])?;
    g.set_shape(y, &facts);
    Ok(y)
}

/// Product of two sizes.
pub(super) fn times(a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).ok_or_else(|| LayersError::Inputs(format!("{a} times {b} is too large a size")))
}

/// Amounts before and after along `rank` axes: one number, one per axis, or pairs.
///
/// # Errors
/// When it is something else.
pub(super) fn pairs(
    c: &Config<'_>,
    key: &str,
    rank: usize,
    default: (usize, usize),
) -> Result<Vec<(usize, usize)>> {
    let wrong = || c.wrong(key, format!("a size, {rank} sizes or {rank} pairs of sizes"));
    let size = |v: &serde_json::Value| {
        crate::number(v).filter(|x| *x >= 0.0 && x.fract() == 0.0 && *x < 2f64.powi(31)).map(|x| x as usize)
    };
    let Some(value) = c.get(key) else { return Ok(vec![default; rank]) };
    let Some(list) = value.as_array() else {
        return size(value).map(|n| vec![(n, n); rank]).ok_or_else(wrong);
    };
    // Along one axis a pair stands by itself.
    if rank == 1 && list.len() == 2 && list.iter().all(|v| !v.is_array()) {
        let (before, after) = (size(&list[0]), size(&list[1]));
        return before.zip(after).map(|p| vec![p]).ok_or_else(wrong);
    }
    if list.len() != rank {
        return Err(wrong());
    }
    let pair = |v: &serde_json::Value| match v.as_array().map(Vec::as_slice) {
        Some([a, b]) => size(a).zip(size(b)),
        Some([a]) => size(a).map(|n| (n, n)),
        Some(_) => None,
        None => size(v).map(|n| (n, n)),
    };
    list.iter().map(|v| pair(v).ok_or_else(wrong)).collect()
}
