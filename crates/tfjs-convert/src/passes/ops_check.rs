use std::{collections::HashSet, sync::LazyLock};

use tfjs_graph::{Graph, UnsupportedOp};

/// The ops of TensorFlow.js 4.22, by name.
static SUPPORTED: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("tfjs_ops.txt").lines().collect());

/// Whether stock TensorFlow.js has an op of this name.
pub fn is_supported(op: &str) -> bool {
    SUPPORTED.contains(op)
}

/// Every node, in the graph and its functions, whose op TensorFlow.js does not have.
pub(crate) fn unsupported(graph: &Graph) -> Vec<UnsupportedOp> {
    let own = graph.iter().map(|(_, n)| (n.name.clone(), n));
    let inner = graph.library.iter().flat_map(|(name, f)| {
        let args: HashSet<_> = f.graph.inputs.iter().map(|e| e.port.node).collect();
        f.graph
            .iter()
            .filter(move |(id, _)| !args.contains(id))
            .map(move |(_, n)| (format!("{name}/{}", n.name), n))
    });
    own.chain(inner)
        .filter(|(_, n)| !is_supported(&n.op))
        .map(|(node, n)| UnsupportedOp { node, op: n.op.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{SUPPORTED, is_supported};

    #[test]
    fn all_ops_of_the_reference_are_listed() {
        assert_eq!(SUPPORTED.len(), 248);
        assert!(is_supported("_FusedConv2D") && is_supported("StatelessWhile") && !is_supported("Erfc"));
    }
}
