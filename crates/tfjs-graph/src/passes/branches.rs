use std::collections::{HashMap, HashSet};

use tfjs_format::proto::{DataType, attr_value::Value};
use tfjs_kernels::Tensor;

use crate::{Attrs, Constant, Graph, Node, NodeId, Port};

/// Decides `Switch` nodes whose predicate is constant; says how many nodes changed.
///
/// What lies on the branch that is never taken is left without users, for pruning. `TensorFlow.js` holds the constants
/// of that branch ready from the start and may take one of them for the result.
pub fn resolve_branches(graph: &mut Graph) -> usize {
    let taken = decided(graph);
    if taken.is_empty() {
        return 0;
    }
    let dead = dead_nodes(graph, &taken);
    let is_dead =
        |p: &Port| dead.contains(&p.node) || taken.get(&p.node).is_some_and(|live| *live != p.index);
    let mut changes = 0;
    let mut redirected = HashMap::new();
    for (&switch, &live) in &taken {
        if !dead.contains(&switch) {
            redirected.insert(Port { node: switch, index: live }, graph.node(switch).inputs[0]);
        }
    }
    for id in graph.ids() {
        let node = graph.node(id);
        let in_loop = node.inputs.iter().any(|p| graph.node(p.node).op == "NextIteration");
        if node.op != "Merge" || in_loop || dead.contains(&id) {
            continue;
        }
        let alive: Vec<usize> = (0..node.inputs.len()).filter(|&i| !is_dead(&node.inputs[i])).collect();
        let &[only] = &alive[..] else { continue };
        let (name, input) = (format!("{}/value_index", node.name), node.inputs[only]);
        let mut attrs = Attrs::default();
        if let Some(t) = node.attrs.get("T") {
            attrs.set("T", t.clone());
        }
        let identity = Node::new("", "Identity").inputs([input]).attrs(attrs);
        let old = std::mem::take(graph.node_mut(id));
        *graph.node_mut(id) = Node { name: old.name, controls: old.controls, ..identity };
        let index = Port { node: id, index: 1 };
        if graph.iter().any(|(_, n)| n.inputs.contains(&index))
            || graph.outputs.iter().any(|o| o.port == index)
        {
            let value = Constant::new(DataType::DtInt32, Tensor::scalar(i32::try_from(only).unwrap_or(0)));
            let mut constant = Node::constant(name, value);
            constant.attrs.set("dtype", Value::Type(DataType::DtInt32 as i32));
            redirected.insert(index, graph.add_fresh(constant).into());
        }
        changes += 1;
    }
    changes += redirected.len();
    // A value may pass through several switches.
    graph.redirect(|mut p| {
        for _ in 0..=redirected.len() {
            let Some(&next) = redirected.get(&p) else { break };
            p = next;
        }
        p
    });
    graph.targets.retain(|t| !dead.contains(t));
    changes
}

/// Switches of constant predicate, each with its output that is alive.
fn decided(graph: &Graph) -> HashMap<NodeId, u32> {
    let predicate = |node: &Node| {
        let [_, predicate] = node.inputs[..] else { return None };
        match graph.node(predicate.node).value.as_ref()?.tensor().ok()? {
            Tensor::Bool(b) => b.data().first().map(|&b| u32::from(b)),
            _ => None,
        }
    };
    let switches = graph.iter().filter(|(_, n)| n.op == "Switch");
    switches.filter_map(|(id, n)| Some((id, predicate(n)?))).collect()
}

/// Nodes that never run.
fn dead_nodes(graph: &Graph, taken: &HashMap<NodeId, u32>) -> HashSet<NodeId> {
    let mut dead = HashSet::new();
    loop {
        let before = dead.len();
        for (id, node) in graph.iter().filter(|(_, n)| !n.inputs.is_empty() || !n.controls.is_empty()) {
            let is_dead =
                |p: &Port| dead.contains(&p.node) || taken.get(&p.node).is_some_and(|live| *live != p.index);
            let inputs = if node.op == "Merge" {
                node.inputs.iter().all(is_dead)
            } else {
                node.inputs.iter().any(is_dead)
            };
            if inputs || node.controls.iter().any(|c| dead.contains(c)) {
                dead.insert(id);
            }
        }
        if dead.len() == before {
            return dead;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, passes::prune};

    #[test]
    fn the_branch_that_is_never_taken_disappears() {
        let mut g = Graph::default();
        let mut add = |node: Node| Port::from(g.add(node).unwrap());
        let x = add(Node::new("x", "Placeholder"));
        let on = add(Node::constant("on", Constant::new(DataType::DtBool, Tensor::scalar(true))));
        let switch = add(Node::new("switch", "Switch").inputs([x, on]));
        let taken = add(Node::new("taken", "Neg").inputs([Port { node: switch.node, index: 1 }]));
        let other = add(Node::new("other", "Abs").inputs([switch]));
        let merge = add(Node::new("merge", "Merge").inputs([other, taken]));
        let which = Port { node: merge.node, index: 1 };
        let sum = add(Node::new("sum", "Cast").inputs([which]));
        for port in [merge, sum] {
            g.outputs.push(Endpoint {
                key: String::new(),
                port,
                data_type: DataType::DtFloat,
                shape: None,
                resource_id: None,
            });
        }
        assert!(resolve_branches(&mut g) > 0);
        prune(&mut g);
        let mut ops: Vec<_> = g.iter().map(|(_, n)| (n.name.as_str(), n.op.as_str())).collect();
        ops.sort_unstable();
        let expected = [
            ("merge", "Identity"),
            ("merge/value_index", "Const"),
            ("sum", "Cast"),
            ("taken", "Neg"),
            ("x", "Placeholder"),
        ];
        assert_eq!(ops, expected);
        assert_eq!(g.node(taken.node).inputs[..], [x]);
        assert_eq!(g.node(merge.node).inputs[..], [taken]);
    }
}
