use super::{Known, either, is_add, node, sizes::Size};
use crate::{
    Node, NodeId, Port,
    builder::attr,
    passes::{Patch, View},
};

/// `(x - mean) / √(variance + ε) · scale + offset`, whichever way it is spelled out, as `_LayerNorm`.
pub(super) fn recognize(v: &View<'_>, known: &Known, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    let found = combined(v, known, root).or_else(|| with_offset(v, known, id))?;
    let mut inputs = vec![found.x];
    inputs.extend(found.scale.into_iter().chain(found.offset));
    let mut set = node(root, "_LayerNorm", inputs);
    set.attrs.set("dims", attr::int(found.dims as i64));
    set.attrs.set("epsilon", attr::float(found.epsilon));
    set.attrs.set("scale", attr::bool(found.scale.is_some()));
    set.attrs.set("offset", attr::bool(found.offset.is_some()));
    Some(Patch { set: vec![(id, set)], chain: found.chain, ..Patch::default() })
}

/// A layer norm.
struct Found {
    x: Port,
    /// How many of the last dimensions are normalised over.
    dims: usize,
    epsilon: f32,
    scale: Option<Port>,
    offset: Option<Port>,
    chain: Vec<NodeId>,
}

/// Whether a constant has one element per column, that is the shape of the last dimensions. The root's users would see
/// another shape if it broadcast.
fn is_parameter(v: &View<'_>, known: &Known, port: Port, x: Port, dims: usize) -> bool {
    let Some(shape) = known.shape(x) else { return false };
    let columns = &shape[shape.len() - dims..];
    let parameter = v.constant(port).filter(|_| known.is_float(port));
    parameter.is_some_and(|c| {
        let own: Vec<_> = c.shape().iter().copied().map(Some).collect();
        let ones = own.len().saturating_sub(dims);
        own.len() <= shape.len() && own[..ones].iter().all(|&d| d == Some(1)) && &own[ones..] == columns
    })
}

/// `Add(Mul(norm, scale), offset)`, of which each may be missing. Only the last of the operations is a root.
fn with_offset(v: &View<'_>, known: &Known, id: NodeId) -> Option<Found> {
    let root = v.graph.node(id);
    if is_add(root) {
        let (mut found, offset) = either(root, |p| scaled(v, known, p, true))?;
        return is_parameter(v, known, offset, found.x, found.dims).then(|| {
            found.offset = Some(offset);
            found
        });
    }
    let found = scaled(v, known, id.into(), false)?;
    // An offset that follows would be fused in the same sweep.
    let added = |user: &crate::Use| {
        let user = v.graph.node(user.user);
        is_add(user) && user.inputs.iter().any(|&p| is_parameter(v, known, p, found.x, found.dims))
    };
    let multiplied = |user: &crate::Use| {
        let user = v.graph.node(user.user);
        user.op == "Mul" && user.inputs.iter().any(|&p| is_parameter(v, known, p, found.x, found.dims))
    };
    let users = v.consumers.of(id);
    let goes_on = users.len() == 1
        && (users.iter().any(added) || found.scale.is_none() && users.iter().any(multiplied));
    (!goes_on).then_some(found)
}

/// A norm, times a scale if there is one. Inner ones must have no other user.
fn scaled(v: &View<'_>, known: &Known, port: Port, inner: bool) -> Option<Found> {
    let (id, node) = v.producer(port);
    if port.index != 0 || inner && !v.consumers.sole(id) {
        return None;
    }
    let mut found = match node.op.as_str() {
        "Mul" => {
            let of_norm = either(node, |p| {
                let found = normalized(v, known, p)?;
                v.consumers.sole(p.node).then_some((found, p))
            });
            let scaled = of_norm.and_then(|((mut found, _), scale)| {
                is_parameter(v, known, scale, found.x, found.dims).then(|| {
                    found.scale = Some(scale);
                    found
                })
            });
            scaled.or_else(|| normalized(v, known, port))?
        }
        _ => normalized(v, known, port)?,
    };
    if inner {
        found.chain.push(id);
    }
    Some(found)
}

/// A norm without scale and offset.
fn normalized(v: &View<'_>, known: &Known, port: Port) -> Option<Found> {
    batch_norm(v, known, port).or_else(|| from_moments(v, known, port))
}

/// As Keras 2 exports it: rows are the channels of an image of one batch, which is normalised as in training.
fn batch_norm(v: &View<'_>, known: &Known, port: Port) -> Option<Found> {
    let (back_id, back) = v.producer(port);
    if back.op != "Reshape" {
        return None;
    }
    let mut chain = vec![back_id];
    let mut inside = back.inputs[0];
    // Converters that lack the other layout bring the image into this one and back.
    let turned = permutation(v, inside) == Some(vec![0, 3, 1, 2]);
    if turned {
        let (id, transpose) = v.sole_producer(inside, &["Transpose"])?;
        chain.push(id);
        inside = transpose.inputs[0];
    }
    let (norm_id, norm) =
        v.sole_producer(inside, &["FusedBatchNormV3", "FusedBatchNormV2", "FusedBatchNorm"])?;
    chain.push(norm_id);
    let format = norm.attrs.str_or("data_format", "NHWC").ok()?;
    let training = norm.attrs.bool_or("is_training", true).ok()?;
    if !training || (format == "NCHW") == turned {
        return None;
    }
    let filled = |port: Port, with: f32| {
        let fill = v.graph.node(port.node);
        let constant =
            v.small(port).is_some_and(|t| t.data::<f32>().is_ok_and(|d| d.iter().all(|&x| x == with)));
        constant || fill.op == "Fill" && known.number(fill.inputs[1]) == Some(with)
    };
    if !(filled(norm.inputs[1], 1.0) && filled(norm.inputs[2], 0.0)) {
        return None;
    }
    let mut image = norm.inputs[0];
    if turned {
        if permutation(v, image) != Some(vec![0, 2, 3, 1]) {
            return None;
        }
        let (id, transpose) = v.producer(image);
        chain.push(id);
        image = transpose.inputs[0];
    }
    let (there_id, there) = v.producer(image);
    if there.op != "Reshape" {
        return None;
    }
    chain.push(there_id);
    let x = there.inputs[0];
    let sizes = known.sizes(v);
    let own = sizes.dims(x)?;
    if !known.is_float(x) || !sizes.reshapes_to(back.inputs[1], &own) {
        return None;
    }
    // [1, rows, columns, 1], or the columns in the last place.
    let to = sizes.of(there.inputs[1])?;
    let (one, open) = (Size::known(1), Size::known(-1));
    let [first, rows, a, b] = &to[..] else { return None };
    let columns = if *b == one { a } else { b };
    if *first != one || !(*a == one || *b == one) {
        return None;
    }
    let dims = (1..own.len()).find(|&n| {
        let (Some(lead), Some(last)) =
            (Size::product(&own[..own.len() - n]), Size::product(&own[own.len() - n..]))
        else {
            return false;
        };
        let one_open = *rows != open || *columns != open;
        one_open && (lead == *rows || *rows == open) && (last == *columns || *columns == open)
    })?;
    let epsilon = norm.attrs.float_or("epsilon", 1e-4).ok()?;
    Some(Found { x, dims, epsilon, scale: None, offset: None, chain })
}

fn permutation(v: &View<'_>, port: Port) -> Option<Vec<i32>> {
    let (_, node) = v.producer(port);
    (node.op == "Transpose").then(|| v.small(node.inputs[1]))??.data::<i32>().ok().map(<[_]>::to_vec)
}

/// The last dimensions that a mean is taken over, which stay as ones.
fn mean_of(v: &View<'_>, known: &Known, port: Port) -> Option<(Port, usize)> {
    let (_, mean) = v.producer(port);
    if mean.op != "Mean" || !mean.attrs.bool_or("keep_dims", false).ok()? {
        return None;
    }
    let x = mean.inputs[0];
    let rank = known.rank(x)? as i64;
    let mut axes: Vec<i64> = known.fact(mean.inputs[1])?.ints()?.iter().map(|&a| i64::from(a)).collect();
    axes.iter_mut().filter(|a| **a < 0).for_each(|a| *a += rank);
    axes.sort_unstable();
    let dims = axes.len();
    let last: Vec<i64> = (rank - dims as i64..rank).collect();
    (dims > 0 && axes == last && known.is_float(x)).then_some((x, dims))
}

/// `variance + ε` for the mean at `mean`.
fn variance(v: &View<'_>, known: &Known, port: Port, x: Port, mean: Port) -> Option<f32> {
    let (_, add) = v.producer(port);
    if !is_add(add) {
        return None;
    }
    let ((), epsilon) = either(add, |p| {
        let (squares, dims) = mean_of(v, known, p)?;
        let (_, square) = v.producer(squares);
        let of_difference = |p: Port| {
            let (_, sub) = v.producer(p);
            sub.op == "Sub" && sub.inputs[..] == [x, mean]
        };
        let is_square = match square.op.as_str() {
            "SquaredDifference" => square.inputs[..] == [x, mean] || square.inputs[..] == [mean, x],
            "Square" => of_difference(square.inputs[0]),
            "Mul" => square.inputs[0] == square.inputs[1] && of_difference(square.inputs[0]),
            "Pow" => known.number(square.inputs[1]) == Some(2.0) && of_difference(square.inputs[0]),
            _ => false,
        };
        (is_square && mean_of(v, known, mean)? == (x, dims)).then_some(())
    })?;
    known.number(epsilon)
}

/// `1 / √(variance + ε)` of `x`, whose mean is at `mean`, or its root if `inverse` is not set. It has so many uses: in
/// training gradients use it too, and then it is better kept.
fn deviation(
    v: &View<'_>,
    known: &Known,
    port: Port,
    (x, mean): (Port, Port),
    inverse: bool,
    uses: usize,
) -> Option<f32> {
    let (id, node) = v.producer(port);
    if v.consumers.of(id).len() != uses || v.consumers.is_output(id) {
        return None;
    }
    match (node.op.as_str(), inverse) {
        ("Rsqrt", true) | ("Sqrt", false) => variance(v, known, node.inputs[0], x, mean),
        ("Reciprocal" | "Inv", true) => deviation(v, known, node.inputs[0], (x, mean), false, 1),
        ("RealDiv" | "Div", true) if known.number(node.inputs[0]) == Some(1.0) => {
            deviation(v, known, node.inputs[1], (x, mean), false, 1)
        }
        _ => None,
    }
}

/// `(x - mean) · rsqrt(variance + ε)`, or divided by the root.
fn from_moments(v: &View<'_>, known: &Known, port: Port) -> Option<Found> {
    let (_, node) = v.producer(port);
    let difference = |p: Port| -> Option<(Port, Port, usize)> {
        let (_, sub) = v.producer(p);
        let &[x, mean] = &sub.inputs[..] else { return None };
        let (of, dims) = mean_of(v, known, mean)?;
        (sub.op == "Sub" && of == x).then_some((x, mean, dims))
    };
    let ((x, dims), epsilon) = match node.op.as_str() {
        "Mul" => {
            let ((x, mean, dims), factor) = either(node, difference)?;
            ((x, dims), deviation(v, known, factor, (x, mean), true, 1)?)
        }
        "RealDiv" | "Div" => {
            let (x, mean, dims) = difference(node.inputs[0])?;
            ((x, dims), deviation(v, known, node.inputs[1], (x, mean), false, 1)?)
        }
        _ => return None,
    };
    Some(Found { x, dims, epsilon, scale: None, offset: None, chain: Vec::new() })
}

/// `x · f + (offset - mean · f)` with `f = rsqrt(variance + ε) · scale`, as `tf.nn.batch_normalization` writes it.
fn combined(v: &View<'_>, known: &Known, root: &Node) -> Option<Found> {
    if !is_add(root) {
        return None;
    }
    let product = |p: Port| {
        let (_, mul) = v.producer(p);
        (mul.op == "Mul").then_some(mul)
    };
    [(0, 1), (1, 0)].into_iter().find_map(|(main, shift)| {
        let (main, shift) = (product(root.inputs[main])?, v.producer(root.inputs[shift]).1);
        // `-mean · f` where there is no offset.
        let (offset, shift) = match shift.op.as_str() {
            "Sub" => (Some(shift.inputs[0]), product(shift.inputs[1])?),
            "Neg" => (None, product(shift.inputs[0])?),
            _ => return None,
        };
        [(0, 1), (1, 0)].into_iter().find_map(|(x, f)| {
            let (x, f) = (main.inputs[x], main.inputs[f]);
            let (mean, _) = either(shift, |p| (p != f).then_some(p)).filter(|&(_, other)| other == f)?;
            let (of, dims) = mean_of(v, known, mean)?;
            let plain = deviation(v, known, f, (x, mean), true, 2).map(|epsilon| (epsilon, None));
            let (epsilon, scale) = plain.or_else(|| {
                let (epsilon, scale) = either(product(f)?, |p| deviation(v, known, p, (x, mean), true, 1))?;
                Some((epsilon, Some(scale)))
            })?;
            let parameters = scale.into_iter().chain(offset);
            let ok = of == x && parameters.into_iter().all(|p| is_parameter(v, known, p, x, dims));
            ok.then(|| Found { x, dims, epsilon, scale, offset, chain: Vec::new() })
        })
    })
}
