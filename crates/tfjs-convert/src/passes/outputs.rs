use std::{collections::HashSet, sync::Arc};

use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{Graph, Node};

/// Gives every output a node of its own; says how many were added.
///
/// TensorFlow.js knows one key per node: of two outputs of one node, or of an input that is an output too, it would lose
/// one. In a function it keeps one output number per node.
pub(crate) fn separate(graph: &mut Graph) -> usize {
    let mut count = separate_in(graph, false);
    for function in graph.library.values_mut() {
        count += separate_in(&mut Arc::make_mut(function).graph, true);
    }
    count
}

fn separate_in(graph: &mut Graph, function: bool) -> usize {
    let mut taken: HashSet<_> =
        if function { HashSet::new() } else { graph.inputs.iter().map(|e| e.port.node).collect() };
    let mut count = 0;
    for i in 0..graph.outputs.len() {
        let output = graph.outputs[i].clone();
        let first = taken.insert(output.port.node);
        if first && !(function && output.port.index > 0) {
            continue;
        }
        let mut node = Node::new(format!("Identity_{i}"), "Identity").inputs([output.port]);
        node.attrs.set("T", Value::Type(output.data_type as i32));
        let id = graph.add_fresh(node);
        graph.outputs[i].port = id.into();
        taken.insert(id);
        count += 1;
    }
    count
}
