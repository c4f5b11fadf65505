use super::{Patch, View, rewrite};
use crate::{Graph, Node, NodeId, Port};

/// Ops that treat every element alike.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "Elu",
    "Exp",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Relu6",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Square",
    "Tanh",
];

/// Convolutions of images, which have four dimensions.
const CONVOLUTIONS: &[&str] =
    &["Conv2D", "DepthwiseConv2dNative", "_FusedConv2D", "FusedDepthwiseConv2dNative"];

/// Moves `Squeeze` behind bias and activation, and cancels `ExpandDims` after it; says how many times. Convolutions of
/// sequences are those of images of height 1: so bias and activation come to stand next to them and can be fused.
///
/// The value in front gets a node of its own; the root keeps its name and value, and becomes the `Squeeze`.
pub fn sink_squeezes(graph: &mut Graph) -> usize {
    rewrite(graph, &[&cancel, &sink])
}

fn dims(squeeze: &Node) -> Option<Vec<i64>> {
    let dims =
        ["squeeze_dims", "axis"].iter().filter_map(|a| squeeze.attrs.ints(a).ok()).find(|d| !d.is_empty());
    dims.filter(|_| squeeze.controls.is_empty())
}

fn sink(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    let bias = node.op == "BiasAdd";
    if !(bias || ELEMENTWISE.contains(&node.op.as_str())) || !node.controls.is_empty() {
        return None;
    }
    let (squeeze_id, squeeze) = v.sole_producer(*node.inputs.first()?, &["Squeeze"])?;
    let dims = dims(squeeze)?;
    let source = squeeze.inputs[0];
    // A bias lies along the last axis, which has to stay the last.
    let (_, producer) = v.producer(source);
    let last_stays = || {
        CONVOLUTIONS.contains(&producer.op.as_str())
            && dims.iter().all(|d| [1, 2, -2, -3].contains(d))
            && [producer, node]
                .iter()
                .all(|n| n.attrs.str_or("data_format", "NHWC").is_ok_and(|f| f == "NHWC"))
    };
    if bias && !last_stays() {
        return None;
    }
    let inputs: Vec<Port> = [source].into_iter().chain(node.inputs[1..].iter().copied()).collect();
    let before = Node { name: format!("{}/wide", node.name), inputs, ..node.clone() };
    let after = Node { inputs: vec![v.graph.next_id().into()], ..squeeze.clone() };
    Some(Patch { add: vec![before], set: vec![(id, after)], chain: vec![squeeze_id] })
}

/// `ExpandDims(Squeeze(x))` with the same axis is `x`.
fn cancel(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if node.op != "ExpandDims" || node.inputs.len() != 2 {
        return None;
    }
    let (squeeze_id, squeeze) = v.producer(node.inputs[0]);
    if squeeze.op != "Squeeze" {
        return None;
    }
    let axis = v.small(node.inputs[1])?;
    let axis = axis.data::<i32>().ok()?;
    // Counted from the same side, the axis is the same in both ranks.
    (dims(squeeze)? == [i64::from(*axis.first()?)]).then(|| {
        let mut attrs = crate::Attrs::default();
        if let Some(t) = node.attrs.get("T") {
            attrs.set("T", t.clone());
        }
        let same = Node { controls: node.controls.clone(), ..Node::new("", "Identity").attrs(attrs) };
        Patch {
            set: vec![(id, same.inputs([squeeze.inputs[0]]))],
            chain: vec![squeeze_id],
            ..Patch::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use tfjs_kernels::{DType, Tensor};

    use super::*;
    use crate::builder::{Builder, attr};

    #[test]
    fn squeezes_between_convolutions_of_sequences_vanish() {
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[None, Some(1), Some(8), Some(2)]);
        let kernel = b.constant(Tensor::new([1, 3, 2, 2], vec![0.5f32; 12]).unwrap());
        let bias = b.constant(Tensor::vector(vec![1f32, 2.0]));
        let attrs = [("strides", attr::ints([1; 4])), ("padding", attr::text("SAME"))];
        let one = b.constant(Tensor::scalar(1i32));
        let mut y = x;
        for _ in 0..2 {
            y = b.op("Conv2D", &[y, kernel], &attrs).unwrap();
            y = b.op("Squeeze", &[y], &[("squeeze_dims", attr::ints([1]))]).unwrap();
            y = b.op("BiasAdd", &[y, bias], &[]).unwrap();
            y = b.op("Relu", &[y], &[]).unwrap();
            y = b.op("ExpandDims", &[y, one], &[]).unwrap();
        }
        b.output("y", y);
        let mut graph = b.finish();
        sink_squeezes(&mut graph);
        super::super::simplify(&mut graph);
        let ops: Vec<&str> = graph.iter().map(|(_, n)| n.op.as_str()).collect();
        assert!(!ops.contains(&"Squeeze"), "{ops:?}");
        assert_eq!(ops.iter().filter(|o| **o == "ExpandDims").count(), 0, "{ops:?}");
    }
}
