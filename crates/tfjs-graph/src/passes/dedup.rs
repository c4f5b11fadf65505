use std::collections::HashMap;

use crate::{Effect, Graph, NodeId, Port, Registry, op::Build};

/// Merges nodes that compute the same: same op, attributes and inputs, no effect. Says how many it merged.
///
/// Outputs of the graph keep their nodes. Of constants, small ones of equal value are merged.
pub fn dedup(graph: &mut Graph, registry: &Registry) -> usize {
    if super::has_frames(graph) {
        return 0; // equal nodes may live in different frames
    }
    let Ok(order) = graph.topological_order() else { return 0 };
    let consumers = graph.consumers();
    let mut first: HashMap<String, NodeId> = HashMap::new();
    let mut merged: HashMap<NodeId, NodeId> = HashMap::new();
    for id in order {
        for p in &mut graph.node_mut(id).inputs {
            if let Some(&to) = merged.get(&p.node) {
                p.node = to;
            }
        }
        let Some(key) = key(graph, registry, id) else { continue };
        match first.get(&key) {
            Some(&to) if !consumers.is_output(id) => {
                merged.insert(id, to);
            }
            Some(_) => {}
            None => {
                first.insert(key, id);
            }
        }
    }
    if !merged.is_empty() {
        graph.redirect(|p| Port { node: merged.get(&p.node).copied().unwrap_or(p.node), ..p });
        for id in graph.ids() {
            for c in &mut graph.node_mut(id).controls {
                if let Some(&to) = merged.get(c) {
                    *c = to;
                }
            }
        }
        super::prune(graph);
    }
    merged.len()
}

/// What two nodes must share to be one; `None` for nodes that must stay apart.
fn key(graph: &Graph, registry: &Registry, id: NodeId) -> Option<String> {
    let node = graph.node(id);
    if !node.controls.is_empty() {
        return None;
    }
    if let Some(c) = &node.value {
        if c.len() > 64 {
            return None;
        }
        // Bit patterns, so that NaN equals NaN and 0 differs from -0.
        let bits = match c.tensor().ok()? {
            tfjs_kernels::Tensor::F32(t) => {
                format!("{:?}", t.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            }
            tfjs_kernels::Tensor::I32(t) => format!("{:?}", t.data()),
            tfjs_kernels::Tensor::Bool(t) => format!("{:?}", t.data()),
            _ => return None,
        };
        return Some(format!("Const {:?} {:?} {bits}", c.data_type(), c.shape()));
    }
    // TF.js changes lists and arrays in place: two that start out equal must stay two.
    let is_list = ["TensorList", "EmptyTensorList", "TensorArray"].iter().any(|p| node.op.starts_with(p));
    if is_list || node.op.starts_with("Placeholder") || !node.attrs.functions().is_empty() {
        return None;
    }
    let functions =
        |name: &str, _: &[crate::Fact]| Err(crate::GraphError::MissingFunction { name: name.to_owned() });
    let facts = vec![crate::Fact::default(); node.inputs.len()];
    let library = Default::default();
    let build = Build { node, attrs: &node.attrs, facts: &facts, library: &library, functions: &functions };
    let op = registry.build(&build)?.ok()?;
    if op.effect() != Effect::Pure || op.flow().is_some() {
        return None;
    }
    Some(format!("{} {:?} {:?}", node.op, node.inputs, node.attrs))
}
