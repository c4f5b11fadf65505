use crate::{Graph, NodeId};

/// Removes nodes that no output depends on, and functions that no node names; says how many. Inputs of the
/// signature stay.
pub fn prune(graph: &mut Graph) -> usize {
    let mut seen = vec![false; graph.id_bound()];
    let mut stack: Vec<NodeId> = graph.outputs.iter().map(|e| e.port.node).collect();
    stack.extend(&graph.targets);
    stack.extend(graph.inputs.iter().map(|e| e.port.node));
    while let Some(id) = stack.pop() {
        if std::mem::replace(&mut seen[id.0 as usize], true) {
            continue;
        }
        let node = graph.node(id);
        stack.extend(node.inputs.iter().map(|p| p.node));
        stack.extend(&node.controls);
    }
    let dead: Vec<NodeId> = graph.iter().map(|(id, _)| id).filter(|id| !seen[id.0 as usize]).collect();
    for id in &dead {
        graph.remove(*id);
    }
    dead.len() + prune_functions(graph)
}

fn prune_functions(graph: &mut Graph) -> usize {
    let mut wanted: Vec<String> = functions(graph);
    let mut keep = std::collections::BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if keep.contains_key(&name) {
            continue;
        }
        if let Some(f) = graph.library.get(&name) {
            wanted.extend(functions(&f.graph));
            keep.insert(name, f.clone());
        }
    }
    let removed = graph.library.len() - keep.len();
    if removed > 0 {
        graph.library = keep;
    }
    removed
}

fn functions(graph: &Graph) -> Vec<String> {
    graph.iter().flat_map(|(_, n)| n.attrs.functions()).map(str::to_owned).collect()
}
