use std::collections::HashMap;

use tfjs_kernels::Tensor;

use super::{Patch, View, has_frames, rewrite};
use crate::{Attrs, Graph, Node, NodeId, Port, builtin};

/// Removes what does nothing: identities, control inputs without meaning, double transposes, reshapes of reshapes,
/// casts to the same type, additions of 0 and multiplications by 1. Says how many changes it made.
pub fn simplify(graph: &mut Graph) -> usize {
    let frames = has_frames(graph);
    let mut n = if frames { 0 } else { drop_controls(graph) };
    n += bypass(graph, frames);
    n += rewrite(graph, &[&double_transpose, &double_reshape, &trivial, &neutral]);
    n + super::prune(graph)
}

/// Re-points users of identities to what these hand on. Outputs keep theirs: its name is the output's name.
///
/// With `frames` (V1 loops), constants are read where they stand instead of being brought into the loop, and the
/// identities behind a `Switch` stay: TensorFlow.js ends without a result when a constant enters nested loops, or when
/// a branch feeds a loop directly.
fn bypass(graph: &mut Graph, frames: bool) -> usize {
    // One with a control input makes its value wait for something.
    let skip = |port: Port, graph: &Graph| -> Option<Port> {
        let node = graph.get(port.node)?;
        let source = graph.get(node.inputs.first()?.node)?;
        let through = match node.op.as_str() {
            "Identity" | "StopGradient" | "PreventGradient" | "Snapshot" | "DeepCopy" => {
                !(frames && source.op == "Switch")
            }
            "Enter" => source.value.is_some() && node.attrs.bool_or("is_constant", false) == Ok(true),
            _ => false,
        };
        (through && port.index == 0 && node.inputs.len() == 1 && node.controls.is_empty())
            .then(|| node.inputs[0])
    };
    let mut changes = 0;
    for id in graph.ids() {
        let inputs = graph.node(id).inputs.clone();
        let mut new = inputs.clone();
        for p in &mut new {
            while let Some(source) = skip(*p, graph) {
                *p = source;
            }
        }
        if new != inputs {
            changes += 1;
            graph.node_mut(id).inputs = new;
        }
    }
    changes
}

/// Drops control inputs on nodes that have no effect, following no-ops to those that have.
fn drop_controls(graph: &mut Graph) -> usize {
    let mut changes = 0;
    // A constant waits for nobody: whoever uses it waits instead.
    let waiting: HashMap<NodeId, Vec<NodeId>> = graph
        .iter()
        .filter(|(_, n)| n.value.is_some() && !n.controls.is_empty())
        .map(|(id, n)| (id, n.controls.clone()))
        .collect();
    for id in graph.ids().into_iter().filter(|_| !waiting.is_empty()) {
        let node = graph.node_mut(id);
        let inherited: Vec<NodeId> =
            node.inputs.iter().filter_map(|p| waiting.get(&p.node)).flatten().copied().collect();
        node.controls.extend(inherited);
    }
    for id in graph.ids() {
        if graph.node(id).controls.is_empty() {
            continue;
        }
        let mut kept: Vec<NodeId> = Vec::new();
        let mut stack = graph.node(id).controls.clone();
        let mut seen = std::collections::HashSet::new();
        while let Some(c) = stack.pop() {
            if !seen.insert(c) {
                continue;
            }
            let node = graph.node(c);
            if has_effect(node) {
                kept.push(c);
            } else {
                stack.extend(&node.controls);
                stack.extend(node.inputs.iter().map(|p| p.node));
            }
        }
        // A constant waits for nobody.
        if graph.node(id).value.is_some() {
            kept.clear();
        }
        kept.sort();
        let node = graph.node_mut(id);
        if node.controls != kept {
            node.controls = kept;
            changes += 1;
        }
    }
    changes
}

/// Whether running a node matters beyond its outputs. Unknown ops are taken to matter.
fn has_effect(node: &Node) -> bool {
    const WITHOUT: &[&str] = &[
        "NoOp",
        "Const",
        "Placeholder",
        "Identity",
        "IdentityN",
        "VarHandleOp",
        "ReadVariableOp",
        "Assert",
        "CheckNumerics",
    ];
    const READS: &[&str] = &[
        "LookupTableFind",
        "LookupTableFindV2",
        "LookupTableSize",
        "LookupTableSizeV2",
        "HashTable",
        "HashTableV2",
    ];
    if WITHOUT.contains(&node.op.as_str())
        || READS.contains(&node.op.as_str())
        || node.op.starts_with("Random")
    {
        return false;
    }
    let prefixes = [
        "LookupTable",
        "InitializeTable",
        "Mutable",
        "TensorArray",
        "Print",
        "Stateful",
        "While",
        "If",
        "Case",
    ];
    builtin(&node.op).is_none() || prefixes.iter().any(|p| node.op.starts_with(p))
}

fn identity_of(node: &Node, source: Port) -> Node {
    let mut attrs = Attrs::default();
    if let Some(t) = node.attrs.get("T").or_else(|| node.attrs.get("DstT")) {
        attrs.set("T", t.clone());
    }
    Node { controls: node.controls.clone(), ..Node::new("", "Identity").attrs(attrs).inputs([source]) }
}

fn double_transpose(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if node.op != "Transpose" {
        return None;
    }
    let outer = v.small(node.inputs[1])?;
    let outer = outer.data::<i32>().ok()?;
    // What is no permutation of the input's dimensions stays, to be reported when the op is prepared.
    let (_, source) = v.producer(node.inputs[0]);
    if source.attrs.shape("shape").ok().flatten().is_some_and(|s| s.len() != outer.len()) {
        return None;
    }
    if outer.iter().enumerate().all(|(i, &p)| p == i as i32) {
        return Some(Patch { set: vec![(id, identity_of(node, node.inputs[0]))], ..Patch::default() });
    }
    let (inner_id, inner) = v.producer(node.inputs[0]);
    if inner.op != "Transpose" || node.inputs[0].index != 0 {
        return None;
    }
    let first = v.small(inner.inputs[1])?;
    let first = first.data::<i32>().ok()?;
    let undone = outer.iter().enumerate().all(|(i, &p)| first.get(p as usize) == Some(&(i as i32)));
    undone.then(|| Patch {
        set: vec![(id, identity_of(node, inner.inputs[0]))],
        chain: vec![inner_id],
        ..Patch::default()
    })
}

fn double_reshape(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if node.op != "Reshape" || node.inputs[0].index != 0 {
        return None;
    }
    let (inner_id, inner) = v.producer(node.inputs[0]);
    (inner.op == "Reshape").then(|| {
        let set = Node { inputs: vec![inner.inputs[0], node.inputs[1]], ..node.clone() };
        Patch { set: vec![(id, set)], chain: vec![inner_id], ..Patch::default() }
    })
}

/// Casts to the same type, sums of one, concatenations of one.
fn trivial(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    let same = match node.op.as_str() {
        "Cast" => node.attrs.data_type("SrcT").ok()? == node.attrs.data_type("DstT").ok()?,
        "AddN" => node.inputs.len() == 1,
        "ConcatV2" => node.inputs.len() == 2,
        _ => false,
    };
    same.then(|| Patch { set: vec![(id, identity_of(node, node.inputs[0]))], ..Patch::default() })
}

/// `x + 0`, `x - 0`, `x * 1`, `x / 1`, with a scalar that cannot broadcast `x`.
fn neutral(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    let (neutral, sides): (f32, &[usize]) = match node.op.as_str() {
        // -0 + 0 is +0, so additions are left alone in floating point.
        "Mul" => (1.0, &[0, 1]),
        "Div" | "RealDiv" => (1.0, &[1]),
        "Sub" => (0.0, &[1]),
        _ => return None,
    };
    for &side in sides {
        let Some(c) = v.constant(node.inputs[side]) else { continue };
        if !c.shape().is_empty() {
            continue;
        }
        let is_neutral = match c.tensor() {
            Ok(Tensor::F32(t)) => t.data() == [neutral],
            Ok(Tensor::I32(t)) => t.data() == [neutral as i32] && node.op != "Div",
            _ => false,
        };
        if is_neutral {
            let set = identity_of(node, node.inputs[1 - side]);
            return Some(Patch { set: vec![(id, set)], ..Patch::default() });
        }
    }
    None
}
