//! Rewrites of a graph that keep what it computes: used ahead of time by the converter and just in time by the loader.
//!
//! A rewrite looks at one node, the *root*, and answers with a [`Patch`]: the root gets another op and other inputs
//! but keeps its name and id, so outputs survive every fusion; what it replaced is left unused and pruned later.

mod activations;
mod batch_norm;
mod bias;
mod blocks;
mod branches;
mod dedup;
mod fold;
mod fuse;
mod pads;
mod prelu;
mod prune;
mod recurrent;
mod simplify;
mod squeeze;

use std::collections::HashSet;

use tfjs_kernels::Tensor;

pub use self::{
    activations::recognize_activations,
    batch_norm::fold_batch_norms,
    bias::normalize_bias_adds,
    blocks::recognize_blocks,
    branches::resolve_branches,
    dedup::dedup,
    fold::{fold_constants, infer_facts},
    fuse::{FuseTarget, fuse_activations, fuse_prelu},
    pads::fold_pads,
    prelu::recognize_prelu,
    prune::prune,
    recurrent::fuse_recurrent_loops,
    simplify::simplify,
    squeeze::sink_squeezes,
};
use crate::{Constant, Consumers, Graph, Node, NodeId, Port};

/// What a rewrite wants done.
#[derive(Debug, Default)]
pub struct Patch {
    /// Nodes to add; the first gets the id `graph.next_id()`, and so on. Their names are made unique.
    pub add: Vec<Node>,
    /// Nodes to replace, by id; they keep their names.
    pub set: Vec<(NodeId, Node)>,
    /// Nodes that were looked at. Two patches of one sweep never overlap.
    pub chain: Vec<NodeId>,
}

/// Looks at a root and says what to change, if anything.
pub type Rewrite<'a> = dyn Fn(&View<'_>, NodeId) -> Option<Patch> + 'a;

/// A graph and who uses what in it, for rewrites.
pub struct View<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// Who uses each node.
    pub consumers: Consumers,
}

impl<'g> View<'g> {
    /// The node that makes a port, with its id.
    pub fn producer(&self, port: Port) -> (NodeId, &'g Node) {
        (port.node, self.graph.node(port.node))
    }

    /// The producer of a port, if it is one of these ops and nobody else uses it: then it may be fused away.
    pub fn sole_producer(&self, port: Port, ops: &[&str]) -> Option<(NodeId, &'g Node)> {
        let (id, node) = self.producer(port);
        (port.index == 0 && ops.contains(&node.op.as_str()) && self.consumers.sole(id)).then_some((id, node))
    }

    /// The constant behind a port.
    pub fn constant(&self, port: Port) -> Option<&'g Constant> {
        self.graph.node(port.node).value.as_ref()
    }

    /// The value of a small constant (a scalar, an axis, a permutation), read at once.
    pub fn small(&self, port: Port) -> Option<Tensor> {
        let c = self.constant(port)?;
        if c.len() > 4096 { None } else { c.tensor().ok() }
    }
}

/// Applies rewrites until none applies, and prunes what they left behind; says how many were applied.
pub fn rewrite(graph: &mut Graph, rewrites: &[&Rewrite<'_>]) -> usize {
    let mut total = 0;
    loop {
        let mut patches = Vec::new();
        {
            let view = View { graph, consumers: graph.consumers() };
            let mut touched = HashSet::new();
            let mut next = graph.next_id().0;
            for (id, _) in graph.iter() {
                if touched.contains(&id) {
                    continue;
                }
                for r in rewrites {
                    let Some(mut patch) = r(&view, id) else { continue };
                    if patch.chain.iter().chain(patch.set.iter().map(|(s, _)| s)).any(|n| touched.contains(n))
                    {
                        continue;
                    }
                    touched.insert(id);
                    touched.extend(patch.chain.iter().copied().chain(patch.set.iter().map(|(s, _)| *s)));
                    // The rewrite counted new ids from the graph as it is; earlier patches come first.
                    shift(&mut patch, graph.next_id().0, next);
                    next += patch.add.len() as u32;
                    patches.push(patch);
                    break;
                }
            }
        }
        if patches.is_empty() {
            return total;
        }
        total += patches.len();
        for patch in patches {
            for node in patch.add {
                graph.add_fresh(node);
            }
            for (id, node) in patch.set {
                let slot = graph.node_mut(id);
                let name = std::mem::take(&mut slot.name);
                *slot = Node { name, ..node };
            }
        }
        prune(graph);
    }
}

fn shift(patch: &mut Patch, from: u32, to: u32) {
    for node in patch.add.iter_mut().chain(patch.set.iter_mut().map(|(_, n)| n)) {
        for p in &mut node.inputs {
            if p.node.0 >= from {
                p.node.0 += to - from;
            }
        }
    }
}

/// Runs a pass over the graph and over every function body; says how many changes it made in all.
pub fn everywhere(graph: &mut Graph, pass: &mut dyn FnMut(&mut Graph) -> usize) -> usize {
    let mut n = pass(graph);
    for f in graph.library.values_mut() {
        n += pass(&mut std::sync::Arc::make_mut(f).graph);
    }
    n
}

/// Whether V1 control flow stands in the graph: then control inputs carry which branch is alive.
pub fn has_frames(graph: &Graph) -> bool {
    graph.iter().any(|(_, n)| crate::ops::control::is_flow(&n.op))
}
