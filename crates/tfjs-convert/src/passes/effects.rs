//! Which nodes do something besides computing their outputs, and which control edges therefore matter.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use tfjs_graph::{Function, Graph, Node};

use super::inline::referenced;
use crate::ConvertError;

/// Op names, or their beginnings, that change state, print or fail on purpose.
const EFFECTS: &[&str] = &[
    "Assign",
    "ResourceApply",
    "ResourceSparseApply",
    "ResourceScatter",
    "Apply",
    "SparseApply",
    "ScatterAdd",
    "ScatterSub",
    "ScatterMul",
    "ScatterDiv",
    "ScatterMin",
    "ScatterMax",
    "ScatterUpdate",
    "ScatterNdUpdate",
    "LookupTableImport",
    "LookupTableInsert",
    "LookupTableRemove",
    "InitializeTable",
    "Assert",
    "Print",
    "Save",
    "MergeV2Checkpoints",
    "WriteFile",
    "Stack",
    "Queue",
    "DestroyResourceOp",
    "PyFunc",
    "EagerPyFunc",
    "StatefulPartitionedCall",
    "CountUpTo",
    "InitializeVariable",
    "IteratorGetNext",
    "MakeIterator",
];

/// Ops of the first kind of control flow: a node that waits for one of them runs only on its branch.
const FLOW: &[&str] = &["Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"];

/// Whether running a node changes something, prints, or may fail on purpose.
pub(crate) fn has_effect(node: &Node, library: &BTreeMap<String, Arc<Function>>) -> bool {
    fn any(node: &Node, library: &BTreeMap<String, Arc<Function>>, seen: &mut HashSet<String>) -> bool {
        if EFFECTS.iter().any(|e| node.op.starts_with(e)) {
            return true;
        }
        referenced(node).into_iter().any(|name| {
            let Some(function) = library.get(&name) else { return false };
            seen.insert(name) && function.graph.iter().any(|(_, n)| any(n, library, seen))
        })
    }
    any(node, library, &mut HashSet::new())
}

/// Removes control edges that order nothing: those from nodes with no effect among all that they need.
pub(crate) fn drop_idle_controls(
    graph: &mut Graph,
    library: &BTreeMap<String, Arc<Function>>,
) -> Result<usize, ConvertError> {
    let mut busy = vec![false; graph.id_bound()];
    for id in graph.topological_order()? {
        let node = graph.node(id);
        let flow = FLOW.contains(&node.op.strip_prefix("Ref").unwrap_or(&node.op));
        let inherited = node.inputs.iter().map(|p| p.node).chain(node.controls.iter().copied());
        busy[id.0 as usize] =
            flow || inherited.into_iter().any(|n| busy[n.0 as usize]) || has_effect(node, library);
    }
    let mut dropped = 0;
    for id in graph.ids() {
        let node = graph.node_mut(id);
        let before = node.controls.len();
        node.controls.retain(|c| busy[c.0 as usize]);
        dropped += before - node.controls.len();
    }
    graph.targets.retain(|t| busy[t.0 as usize]);
    Ok(dropped)
}
