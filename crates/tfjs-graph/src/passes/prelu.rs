use tfjs_kernels::Tensor;

use super::{Patch, View, rewrite};
use crate::{Attrs, Graph, Node, NodeId, Port};

/// Recognises `relu(x) + c·relu(−x)`, in any order, as `Prelu(x, −c)`; says how many.
///
/// The `Prelu` takes the addition's name, and the negated slopes are a constant of their own, so that other users of
/// either keep what they had (the reference converter renames the output and negates in place).
pub fn recognize_prelu(graph: &mut Graph) -> usize {
    rewrite(graph, &[&recognize])
}

fn recognize(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if !matches!(node.op.as_str(), "Add" | "AddV2") {
        return None;
    }
    for (positive, negative) in [(0, 1), (1, 0)] {
        let Some((relu_id, relu)) = v.sole_producer(node.inputs[positive], &["Relu"]) else { continue };
        let Some((mul_id, mul)) = v.sole_producer(node.inputs[negative], &["Mul"]) else { continue };
        let x = relu.inputs[0];
        for (slope, side) in [(0, 1), (1, 0)] {
            let Some(c) = v.constant(mul.inputs[slope]) else { continue };
            let Some(chain) = negated_relu(v, mul.inputs[side], x) else { continue };
            let alpha = c.map(c.shape(), |t| {
                let mut t = t.into_typed::<f32>("alpha")?;
                t.data_mut().iter_mut().for_each(|a| *a = -*a);
                Ok(Tensor::F32(t))
            });
            let name = format!("{}/neg", v.graph.node(mul.inputs[slope].node).name);
            let alpha = Node::constant(name, alpha);
            let set = Node::new("", "Prelu").attrs(Attrs::default()).inputs([x, v.graph.next_id().into()]);
            let set = Node { controls: node.controls.clone(), ..set };
            let chain = [vec![relu_id, mul_id], chain].concat();
            return Some(Patch { add: vec![alpha], set: vec![(id, set)], chain });
        }
    }
    None
}

/// The nodes of `relu(−x)`.
fn negated_relu(v: &View<'_>, port: Port, x: Port) -> Option<Vec<NodeId>> {
    let (relu_id, relu) = v.sole_producer(port, &["Relu"])?;
    let (neg_id, neg) = v.sole_producer(relu.inputs[0], &["Neg"])?;
    (neg.inputs[0] == x).then(|| vec![relu_id, neg_id])
}
