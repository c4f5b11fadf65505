//! Dense layers, layer norms and attention, as frameworks export them, become one op each (`ops/blocks.rs`).
//!
//! These ops exist in this runtime only: the pass runs when a plan is made, never for graphs that are written or
//! differentiated.

mod attention;
mod dense;
mod layer_norm;
mod sizes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use tfjs_format::DType;

use self::sizes::Sizes;
use super::{View, infer_facts, rewrite, simplify};
use crate::{Attrs, Fact, Graph, GraphError, Node, Port, Registry, builder::attr};

/// Puts ops of this runtime's own in the place of dense layers on sequences, layer norms and attention; says how many.
///
/// # Errors
/// When the graph has a cycle.
pub fn recognize_blocks(graph: &mut Graph, registry: &Registry) -> Result<usize, GraphError> {
    // Without any of these there is nothing to find.
    const PARTS: &[&str] = &[
        "Einsum",
        "MatMul",
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "FusedBatchNorm",
        "FusedBatchNormV2",
        "FusedBatchNormV3",
        "Rsqrt",
        "Sqrt",
    ];
    if super::has_frames(graph) || !graph.iter().any(|(_, n)| PARTS.contains(&n.op.as_str())) {
        return Ok(0);
    }
    simplify(graph);
    // What nodes compute does not change, so what is known of them stays true; of new ones nothing is known.
    let mut known = Known { facts: infer_facts(graph, registry)? };
    let mut n = rewrite(graph, &[&|v, id| attention::recognize(v, &known, id)]);
    n += rewrite(graph, &[&|v, id| attention::fold_transpose(v, id)]);
    n += rewrite(graph, &[&|v, id| layer_norm::recognize(v, &known, id)]);
    // More is known of what comes after a dense layer once it is one.
    for _ in 0..ROUNDS {
        match rewrite(graph, &[&|v, id| dense::recognize(v, &known, id)]) {
            0 => break,
            found => n += found,
        }
        known.facts = infer_facts(graph, registry)?;
    }
    n += rewrite(graph, &[&|v, id| dense::fuse_bias(v, id)]);
    Ok(n)
}

/// How often dense layers are looked for: layer norms and attention make shapes known again.
const ROUNDS: usize = 4;

/// What is known of the values of a graph.
struct Known {
    facts: HashMap<Port, Fact>,
}

impl Known {
    fn fact(&self, port: Port) -> Option<&Fact> {
        self.facts.get(&port)
    }

    fn shape(&self, port: Port) -> Option<&[Option<usize>]> {
        self.fact(port)?.shape.as_deref()
    }

    fn rank(&self, port: Port) -> Option<usize> {
        self.shape(port).map(<[_]>::len)
    }

    fn is_float(&self, port: Port) -> bool {
        self.fact(port).is_some_and(|f| f.dtype == Some(DType::Float32))
    }

    fn sizes<'a>(&'a self, v: &'a View<'_>) -> Sizes<'a> {
        Sizes { graph: v.graph, known: self }
    }

    /// The only element of a constant number, whatever its rank.
    fn number(&self, port: Port) -> Option<f32> {
        match self.fact(port)?.value.as_ref()?.data::<f32>().ok()? {
            &[x] => Some(x),
            _ => None,
        }
    }
}

/// A node of one of these ops with these two inputs, in either order if they may be exchanged: the first satisfies `first`.
fn either<T>(node: &Node, first: impl Fn(Port) -> Option<T>) -> Option<(T, Port)> {
    let &[a, b] = &node.inputs[..] else { return None };
    first(a).map(|t| (t, b)).or_else(|| first(b).map(|t| (t, a)))
}

fn is_add(node: &Node) -> bool {
    matches!(node.op.as_str(), "Add" | "AddV2")
}

/// A node that takes the place of `root`.
fn node(root: &Node, op: &str, inputs: impl IntoIterator<Item = Port>) -> Node {
    let attrs = Attrs::default().with("T", attr::dtype(DType::Float32));
    Node { controls: root.controls.clone(), ..Node::new("", op).attrs(attrs).inputs(inputs) }
}
