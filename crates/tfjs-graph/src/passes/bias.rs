use tfjs_format::proto::attr_value::Value as Attr;

use super::{Patch, View, rewrite};
use crate::{Attrs, Graph, Node, NodeId};

const CONTRACTIONS: &[&str] = &["Conv2D", "DepthwiseConv2dNative", "MatMul"];

/// Turns additions of one constant per channel to a convolution or matrix product into `BiasAdd`; says how many.
///
/// Unlike the reference converter, which turns every `Add` after a convolution into a `BiasAdd`, the other operand must
/// be a constant vector of the right length: a residual connection stays an addition. Either order is recognised.
pub fn normalize_bias_adds(graph: &mut Graph) -> usize {
    rewrite(graph, &[&normalize])
}

fn normalize(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if !matches!(node.op.as_str(), "Add" | "AddV2") {
        return None;
    }
    let side = usize::from(v.constant(node.inputs[0]).is_some());
    let (producer_id, producer) = v.sole_producer(node.inputs[side], CONTRACTIONS)?;
    if producer.attrs.str_or("data_format", "NHWC").ok()? != "NHWC" {
        return None;
    }
    let weights = v.constant(producer.inputs[1])?;
    let channels = match (producer.op.as_str(), weights.shape()) {
        ("Conv2D", [.., o]) => *o,
        ("DepthwiseConv2dNative", [_, _, c, m]) => c * m,
        ("MatMul", [rows, columns]) => {
            if producer.attrs.bool_or("transpose_b", false).ok()? {
                *rows
            } else {
                *columns
            }
        }
        _ => return None,
    };
    let bias = node.inputs[1 - side];
    let shape = v.constant(bias)?.shape();
    if shape != [channels] {
        return None;
    }
    let mut attrs = Attrs::default().with("data_format", Attr::S("NHWC".into()));
    if let Some(t) = node.attrs.get("T") {
        attrs.set("T", t.clone());
    }
    let set = Node::new("", "BiasAdd").attrs(attrs).inputs([node.inputs[side], bias]);
    let set = Node { controls: node.controls.clone(), ..set };
    Some(Patch { set: vec![(id, set)], chain: vec![producer_id], ..Patch::default() })
}
