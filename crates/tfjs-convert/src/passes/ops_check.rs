use std::collections::HashSet;

use tfjs_graph::{Graph, UnsupportedOp, ops::in_tfjs};

/// Every node, in the graph and its functions, whose op TensorFlow.js does not have.
pub(crate) fn unsupported(graph: &Graph) -> Vec<UnsupportedOp> {
    let own = graph.iter().map(|(_, n)| (n.name.clone(), n));
    let inner = graph.library.iter().flat_map(|(name, f)| {
        let args: HashSet<_> = f.graph.inputs.iter().map(|e| e.port.node).collect();
        let nodes = f.graph.iter().filter(move |(id, _)| !args.contains(id));
        nodes.map(move |(_, n)| (format!("{name}/{}", n.name), n))
    });
    own.chain(inner)
        .filter(|(_, n)| !in_tfjs(&n.op))
        .map(|(node, n)| UnsupportedOp { node, op: n.op.clone() })
        .collect()
}
