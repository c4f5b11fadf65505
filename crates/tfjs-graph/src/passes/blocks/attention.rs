use super::{Known, either, node};
use crate::{
    Node, NodeId, Port,
    builder::attr,
    passes::{Patch, View},
};

/// Where batch, head, row and column stand among four dimensions.
type Order = [usize; 4];

const HEADS_FIRST: Order = [0, 1, 2, 3];

/// A product of two values of four dimensions: what is read, and in which order each lies.
struct Product {
    left: (Port, Order),
    right: (Port, Order),
    out: Order,
}

/// `softmax(q · kᵀ · scale + mask) · v` as `_Attention`.
pub(super) fn recognize(v: &View<'_>, known: &Known, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    // [batch, head, query, key] × [batch, head, key, column]
    let weighted = product(known, root)?;
    let (softmax_id, softmax) = v.sole_producer(weighted.left.0, &["Softmax"])?;
    let mut chain = vec![softmax_id];
    let (mut scale, mut mask) = (1.0, None);
    let mut scores = softmax.inputs[0];
    // The scores may be scaled, then masked.
    let product_node = loop {
        let (id, node) = v.producer(scores);
        if scores.index != 0 || !v.consumers.sole(id) {
            return None;
        }
        chain.push(id);
        match node.op.as_str() {
            "Add" | "AddV2" if mask.is_none() && scale == 1.0 => {
                let is_scores = |p: Port| leads_to_product(v, known, p).then_some(p);
                let (next, added) = either(node, is_scores)?;
                if !known.is_float(added) || known.rank(added)? > 4 {
                    return None;
                }
                (scores, mask) = (next, Some(added));
            }
            "Mul" => {
                let (factor, next) = either(node, |p| known.number(p).filter(|_| known.rank(p) == Some(0)))?;
                (scores, scale) = (next, scale * factor);
            }
            "RealDiv" | "Div" => {
                let divisor =
                    known.number(node.inputs[1]).filter(|_| known.rank(node.inputs[1]) == Some(0))?;
                (scores, scale) = (node.inputs[0], scale / divisor);
            }
            _ => break node,
        }
    };
    // Of other orders the mask would have to be turned, and the softmax might not be over the keys.
    let read = weighted.left.1;
    if read != HEADS_FIRST {
        return None;
    }
    let scored = product(known, product_node)?;
    let [(mut q, mut q_order), (mut k, mut k_order)] = [scored.left, scored.right];
    if transposed(scored.out) == read {
        // Keys come first: what were rows are columns.
        std::mem::swap(&mut q, &mut k);
        std::mem::swap(&mut q_order, &mut k_order);
        // Both were in the order of their own part of the product.
        (q_order, k_order) = (transposed(q_order), transposed(k_order));
    } else if scored.out != read {
        return None;
    }
    // The product's right operand has keys as columns.
    k_order = transposed(k_order);
    let (mut values, mut v_order) = weighted.right;
    let scalar = |p: Port| known.number(p).filter(|_| known.rank(p) == Some(0));
    for (port, order, scores) in
        [(&mut q, &mut q_order, true), (&mut k, &mut k_order, true), (&mut values, &mut v_order, false)]
    {
        loop {
            if let Some((id, from, before)) = untransposed(v, *port, *order) {
                chain.push(id);
                (*port, *order) = (from, before);
            } else if let Some((id, mul)) = v.sole_producer(*port, &["Mul"])
                && let Some((factor, from)) = either(mul, scalar)
                && scores
            {
                // A factor of the queries or keys is one of the scores.
                chain.push(id);
                scale *= factor;
                *port = from;
            } else {
                break;
            }
        }
    }
    if ![q, k, values].into_iter().all(|p| known.is_float(p)) || !scale.is_finite() {
        return None;
    }
    let mut set = node(root, "_Attention", [q, k, values].into_iter().chain(mask));
    set.attrs.set("scale", attr::float(scale));
    set.attrs.set("mask", attr::bool(mask.is_some()));
    for (name, order) in
        [("q_order", q_order), ("k_order", k_order), ("v_order", v_order), ("order", weighted.out)]
    {
        set.attrs.set(name, places(order));
    }
    Some(Patch { set: vec![(id, set)], chain, ..Patch::default() })
}

fn places(order: Order) -> tfjs_format::proto::attr_value::Value {
    attr::ints(order.map(|p| p as i64))
}

/// With rows and columns exchanged.
fn transposed([b, h, r, c]: Order) -> Order {
    [b, h, c, r]
}

/// Whether a value is a product, possibly scaled.
fn leads_to_product(v: &View<'_>, known: &Known, port: Port) -> bool {
    let (_, node) = v.producer(port);
    match node.op.as_str() {
        "Mul" => either(node, |p| known.number(p).map(|_| ()))
            .is_some_and(|((), p)| product(known, v.producer(p).1).is_some()),
        "RealDiv" | "Div" => product(known, v.producer(node.inputs[0]).1).is_some(),
        _ => product(known, node).is_some(),
    }
}

/// A product over batches and heads. Orders are those of batch, head, row and column of each matrix.
fn product(known: &Known, node: &Node) -> Option<Product> {
    let &[left, right] = &node.inputs[..] else { return None };
    match node.op.as_str() {
        "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3" => {
            if known.rank(left)? != 4 || known.rank(right)? != 4 {
                return None;
            }
            let order = |name| {
                let turned = node.attrs.bool_or(name, false).ok()?;
                Some(if turned { transposed(HEADS_FIRST) } else { HEADS_FIRST })
            };
            Some(Product { left: (left, order("adj_x")?), right: (right, order("adj_y")?), out: HEADS_FIRST })
        }
        "Einsum" => {
            let equation: String =
                node.attrs.str_or("equation", "").ok()?.chars().filter(|c| !c.is_whitespace()).collect();
            let (operands, out) = equation.split_once("->")?;
            let (a, b) = operands.split_once(',')?;
            let labels = |s: &str| -> Option<[char; 4]> {
                let labels: [char; 4] = s.chars().collect::<Vec<_>>().try_into().ok()?;
                let once = labels.iter().all(|c| labels.iter().filter(|d| *d == c).count() == 1);
                (once && labels.iter().all(char::is_ascii_alphabetic)).then_some(labels)
            };
            let (a, b, out) = (labels(a)?, labels(b)?, labels(out)?);
            let place = |of: [char; 4], c: char| of.iter().position(|&x| x == c);
            // Batch and head in their order in the result: which is which does not matter, as long as both agree.
            let shared: Vec<char> = out.into_iter().filter(|c| a.contains(c) && b.contains(c)).collect();
            let &[batch, head] = &shared[..] else { return None };
            let summed = a.into_iter().find(|c| b.contains(c) && !out.contains(c))?;
            let row = out.into_iter().find(|c| a.contains(c) && !b.contains(c))?;
            let column = out.into_iter().find(|c| b.contains(c) && !a.contains(c))?;
            let order = |of: [char; 4], row: char, column: char| -> Option<Order> {
                Some([place(of, batch)?, place(of, head)?, place(of, row)?, place(of, column)?])
            };
            Some(Product {
                left: (left, order(a, row, summed)?),
                right: (right, order(b, summed, column)?),
                out: order(out, row, column)?,
            })
        }
        _ => None,
    }
}

/// What a transposition reads, and the order in which that lies.
fn untransposed(v: &View<'_>, port: Port, order: Order) -> Option<(NodeId, Port, Order)> {
    let (id, node) = v.sole_producer(port, &["Transpose"])?;
    let perm = permutation(v, node)?;
    Some((id, node.inputs[0], order.map(|place| perm[place])))
}

fn permutation(v: &View<'_>, node: &Node) -> Option<Order> {
    let perm = v.small(node.inputs[1])?;
    let perm: Vec<usize> =
        perm.data::<i32>().ok()?.iter().map(|&p| usize::try_from(p).ok()).collect::<Option<_>>()?;
    let perm = Order::try_from(perm).ok()?;
    (0..4).all(|i| perm.contains(&i)).then_some(perm)
}

/// A transposition of the result: attention writes it in that order.
pub(super) fn fold_transpose(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let root = v.graph.node(id);
    if root.op != "Transpose" {
        return None;
    }
    let (inner_id, inner) = v.sole_producer(root.inputs[0], &["_Attention"])?;
    let perm = permutation(v, root)?;
    let order =
        Order::try_from(inner.attrs.ints("order").ok()?.into_iter().map(|p| p as usize).collect::<Vec<_>>())
            .ok()?;
    // Where each dimension has gone.
    let mut to = [0; 4];
    perm.iter().enumerate().for_each(|(i, &from)| to[from] = i);
    let mut set = Node { controls: root.controls.clone(), ..inner.clone() };
    set.attrs.set("order", places(order.map(|place| to[place])));
    Some(Patch { set: vec![(id, set)], chain: vec![inner_id], ..Patch::default() })
}
