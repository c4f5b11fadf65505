use tfjs_kernels::Tensor;

use super::{Known, is_add, node, sizes::Size};
use crate::{
    Constant, Node, NodeId, Port,
    builder::attr,
    passes::{Patch, View},
};

/// Products of the last dimensions of a value with constant weights, as `_Dense`.
pub(super) fn recognize(v: &View<'_>, known: &Known, id: NodeId) -> Option<Patch> {
    match v.graph.node(id).op.as_str() {
        "Reshape" => tensordot(v, known, id),
        "Einsum" => einsum(v, known, id),
        "BatchMatMulV2" | "BatchMatMulV3" => batches(v, known, id),
        _ => None,
    }
}

/// Constant weights of `float32`.
fn weights<'a>(v: &'a View<'_>, known: &Known, port: Port) -> Option<&'a Constant> {
    v.constant(port).filter(|c| known.is_float(port) && !c.is_empty())
}

fn dense(root: &Node, x: Port, w: Port, contracted: usize, output: &[usize]) -> Node {
    let mut set = node(root, "_Dense", [x, w]);
    set.attrs.set("contracted", attr::int(contracted as i64));
    set.attrs.set("output_dims", attr::ints(output.iter().map(|&d| d as i64)));
    set
}

/// `Reshape(MatMul(Reshape(x), w))` that puts the leading dimensions back.
fn tensordot(v: &View<'_>, known: &Known, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    let (product_id, product) = v.sole_producer(root.inputs[0], &["MatMul"])?;
    let (flat_id, flat) = v.producer(product.inputs[0]);
    if flat.op != "Reshape" || product.attrs.bool_or("transpose_a", false).ok()? {
        return None;
    }
    let turned = product.attrs.bool_or("transpose_b", false).ok()?;
    let &[a, b] = weights(v, known, product.inputs[1])?.shape() else { return None };
    let (rows, columns) = if turned { (b, a) } else { (a, b) };
    let x = flat.inputs[0];
    let sizes = known.sizes(v);
    let mut dims = sizes.dims(x)?;
    // The product has made sure that rows of `rows` elements were multiplied: these are the last dimension.
    if *dims.last()? != Size::known(rows as i64) {
        return None;
    }
    *dims.last_mut()? = Size::known(columns as i64);
    if !sizes.reshapes_to(root.inputs[1], &dims) {
        return None;
    }
    let mut set = dense(root, x, product.inputs[1], 1, &[columns]);
    set.attrs.set("transpose_b", attr::bool(turned));
    Some(Patch { set: vec![(id, set)], chain: vec![product_id, flat_id], ..Patch::default() })
}

/// `abc,cde->abde`: the last labels of `x` are the first of `w`, and the others of `w` follow those of `x`.
fn einsum(v: &View<'_>, known: &Known, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    let &[x, w] = &root.inputs[..] else { return None };
    let equation: String =
        root.attrs.str_or("equation", "").ok()?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = equation.split_once("->")?;
    let (a, b) = left.split_once(',')?;
    let once = |s: &str| s.char_indices().all(|(i, c)| c.is_ascii_alphabetic() && s.find(c) == Some(i));
    let a = a.strip_prefix("...").unwrap_or(a);
    let right = match right.strip_prefix("...") {
        Some(rest) if left.starts_with("...") => rest,
        None if !left.starts_with("...") => right,
        _ => return None,
    };
    if ![a, b, right].into_iter().all(once) {
        return None;
    }
    let contracted = a.chars().filter(|&c| b.contains(c)).count();
    let (kept, summed) = a.split_at_checked(a.len() - contracted)?;
    let new = b.strip_prefix(summed)?;
    if contracted == 0 || right.strip_prefix(kept)? != new || known.rank(x)? < a.len() || !known.is_float(x) {
        return None;
    }
    let weights = weights(v, known, w).filter(|c| c.shape().len() == b.len())?;
    let (rows, columns) = weights.shape().split_at(contracted);
    let sizes: Vec<Size> = rows.iter().map(|&d| Size::known(d as i64)).collect();
    // Sizes that do not agree are an error of the sum, but might be none of the product.
    if !known.sizes(v).dims(x)?.ends_with(&sizes) {
        return None;
    }
    let shape = [rows.iter().product::<usize>(), columns.iter().product()];
    let matrix = weights.map(shape, move |t| Ok(t.reshape(shape)?));
    let matrix = Node::constant(format!("{}/matrix", v.graph.node(w.node).name), matrix);
    let set = dense(root, x, v.graph.next_id().into(), contracted, columns);
    Some(Patch { add: vec![matrix], set: vec![(id, set)], ..Patch::default() })
}

/// A batch of products with one matrix.
fn batches(v: &View<'_>, known: &Known, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    let &[x, w] = &root.inputs[..] else { return None };
    let turned = root.attrs.bool_or("adj_y", false).ok()?;
    let &[a, b] = weights(v, known, w)?.shape() else { return None };
    let (rows, columns) = if turned { (b, a) } else { (a, b) };
    let last = known.shape(x)?;
    let fits = last.len() >= 2 && *last.last()? == Some(rows) && known.is_float(x);
    if !fits || root.attrs.bool_or("adj_x", false).ok()? {
        return None;
    }
    let mut set = dense(root, x, w, 1, &[columns]);
    set.attrs.set("transpose_b", attr::bool(turned));
    Some(Patch { set: vec![(id, set)], ..Patch::default() })
}

/// A constant added to `_Dense` that has nothing fused yet.
pub(super) fn fuse_bias(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    let biased = root.op == "BiasAdd" && root.attrs.str_or("data_format", "NHWC").ok()? == "NHWC";
    if !(biased || is_add(root)) {
        return None;
    }
    let sides: &[(usize, usize)] = if biased { &[(0, 1)] } else { &[(0, 1), (1, 0)] };
    sides.iter().find_map(|&(from, bias)| {
        let (dense_id, dense) = v.sole_producer(root.inputs[from], &["_Dense"])?;
        if !dense.attrs.strings("fused_ops").ok()?.is_empty() {
            return None;
        }
        let output: Vec<usize> = dense.attrs.ints("output_dims").ok()?.iter().map(|&d| d as usize).collect();
        let bias = root.inputs[bias];
        let constant = v.constant(bias)?;
        let shape = constant.shape();
        // The same for all rows, and it makes the result no larger.
        if shape != output || constant.data_type() != tfjs_format::proto::DataType::DtFloat {
            return None;
        }
        let mut patch = Patch { chain: vec![dense_id], ..Patch::default() };
        let mut set = Node { controls: root.controls.clone(), ..dense.clone() };
        if output.len() == 1 {
            set.inputs.push(bias);
        } else {
            let n: usize = output.iter().product();
            let vector = constant.map([n], move |t: Tensor| Ok(t.reshape([n])?));
            patch.add.push(Node::constant(format!("{}/vector", v.graph.node(bias.node).name), vector));
            set.inputs.push(v.graph.next_id().into());
        }
        set.attrs.set("fused_ops", attr::texts(["BiasAdd"]));
        set.attrs.set("num_args", attr::int(1));
        patch.set.push((id, set));
        Some(patch)
    })
}
