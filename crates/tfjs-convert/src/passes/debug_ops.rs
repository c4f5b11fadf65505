use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{Attrs, Graph, NodeId};

/// Removes `Assert` and `Print` without outputs; `CheckNumerics` and `Print` hand on their input. Says how many.
pub(crate) fn strip(graph: &mut Graph) -> usize {
    let mut removed: Vec<NodeId> = Vec::new();
    let mut count = 0;
    for id in graph.ids() {
        let node = graph.node_mut(id);
        match node.op.as_str() {
            "Assert" | "PrintV2" => removed.push(id),
            "CheckNumerics" | "CheckNumericsV2" | "Print" => {
                let dtype = node.attrs.get("T").cloned();
                node.inputs.truncate(1);
                node.op = "Identity".to_owned();
                node.attrs = Attrs::default();
                if let Some(Value::Type(dtype)) = dtype {
                    node.attrs.set("T", Value::Type(dtype));
                }
                count += 1;
            }
            _ => {}
        }
    }
    for id in &removed {
        graph.remove(*id);
    }
    for id in graph.ids() {
        graph.node_mut(id).controls.retain(|c| !removed.contains(c));
    }
    graph.targets.retain(|t| !removed.contains(t));
    count + removed.len()
}
