use tfjs_format::proto::{
    DataType,
    attr_value::{ListValue, Value as Attr},
};

use super::{Patch, View, rewrite};
use crate::{Graph, Node, NodeId, Port};

/// Who will run the fused graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuseTarget {
    /// Stock TF.js, on any of its backends: only activations that all of them have.
    Tfjs,
    /// This crate.
    Native,
}

impl FuseTarget {
    /// Activations that may be fused after a bias, in the order of TF.js's documentation.
    ///
    /// The reference converter also fuses `Tanh` and `Sigmoid` into matrix products, which TF.js's backends do
    /// not all run.
    fn activations(self) -> &'static [&'static str] {
        match self {
            FuseTarget::Tfjs => &["Relu", "Relu6", "Elu", "LeakyRelu"],
            FuseTarget::Native => &[
                "Relu",
                "Relu6",
                "Elu",
                "LeakyRelu",
                "Selu",
                "Sigmoid",
                "Softplus",
                "Tanh",
                "_Gelu",
                "_GeluTanh",
                "_HardSigmoid",
                "_HardSwish",
                "_Swish",
            ],
        }
    }
}

/// The fused form of each contraction.
const FUSED: &[(&str, &str)] = &[
    ("Conv2D", "_FusedConv2D"),
    ("MatMul", "_FusedMatMul"),
    ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"),
    // Of this runtime alone, and always with its bias already.
    ("_Dense", "_Dense"),
];

/// Fuses `contraction + BiasAdd [+ activation]`, and activations after an already fused bias, into one node; says how many.
/// For this runtime also `convolution + BiasAdd + Add [+ activation]`, the residual connection.
///
/// The fused node takes the name of the last one. Nothing is fused that someone else uses.
pub fn fuse_activations(graph: &mut Graph, target: FuseTarget) -> usize {
    let bias = |v: &View<'_>, id| fuse_bias(v, id, target);
    let activation = move |v: &View<'_>, id| fuse_activation(v, id, target);
    let mut n = rewrite(graph, &[&bias]) + rewrite(graph, &[&activation]);
    if target == FuseTarget::Native {
        n += rewrite(graph, &[&fuse_residual]) + rewrite(graph, &[&activation]);
    }
    n
}

fn fuse_bias(v: &View<'_>, id: NodeId, target: FuseTarget) -> Option<Patch> {
    let node = v.graph.node(id);
    if node.op != "BiasAdd" {
        return None;
    }
    let names: Vec<&str> = FUSED.iter().map(|f| f.0).collect();
    let (producer_id, producer) = v.sole_producer(node.inputs[0], &names)?;
    if !producer.attrs.strings("fused_ops").ok()?.is_empty() {
        return None;
    }
    let nhwc = |n: &Node| n.attrs.str_or("data_format", "NHWC").is_ok_and(|f| f == "NHWC");
    let float = producer.attrs.opt_data_type("T").ok()?.unwrap_or(DataType::DtFloat) == DataType::DtFloat;
    // Fused kernels add the bias along the last axis; those of TF.js take other layouts for NHWC altogether.
    if !float || !nhwc(node) || target == FuseTarget::Tfjs && !nhwc(producer) {
        return None;
    }
    let set = fused(producer, Some(node.inputs[1]), None, &node.controls)?;
    Some(Patch { set: vec![(id, set)], chain: vec![producer_id], ..Patch::default() })
}

fn fuse_activation(v: &View<'_>, id: NodeId, target: FuseTarget) -> Option<Patch> {
    let node = v.graph.node(id);
    if !target.activations().contains(&node.op.as_str()) {
        return None;
    }
    // A depthwise convolution may be fused with an activation alone; the others need a bias before it.
    let ops: Vec<&str> = FUSED.iter().map(|f| f.1).chain(["DepthwiseConv2dNative"]).collect();
    let (producer_id, producer) = v.sole_producer(node.inputs[0], &ops)?;
    let depthwise = producer.op.ends_with("DepthwiseConv2dNative");
    if depthwise && target == FuseTarget::Tfjs && !["Relu", "Relu6", "Elu"].contains(&node.op.as_str()) {
        return None;
    }
    let steps = producer.attrs.strings("fused_ops").ok()?;
    if producer.op != "DepthwiseConv2dNative" && !matches!(steps[..], [b"BiasAdd"] | [.., b"Add"]) {
        return None;
    }
    let set = fused(producer, None, Some(node), &node.controls)?;
    Some(Patch { set: vec![(id, set)], chain: vec![producer_id], ..Patch::default() })
}

/// A sum with the result of a convolution or dense layer that nothing else follows yet.
fn fuse_residual(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if !matches!(node.op.as_str(), "Add" | "AddV2") {
        return None;
    }
    const PRODUCERS: &[&str] = &["Conv2D", "_FusedConv2D", "_Dense"];
    (0..2).find_map(|side| {
        let (producer_id, producer) = v.sole_producer(node.inputs[side], PRODUCERS)?;
        let float =
            |n: &Node| n.attrs.opt_data_type("T").is_ok_and(|t| t.is_none_or(|t| t == DataType::DtFloat));
        let steps = producer.attrs.strings("fused_ops").ok()?;
        let nhwc = producer.attrs.str_or("data_format", "NHWC").ok()? == "NHWC";
        if !float(node) || !float(producer) || !nhwc || !matches!(steps[..], [] | [b"BiasAdd"]) {
            return None;
        }
        let set = fused_with(producer, Some(("Add", node.inputs[1 - side])), None, &node.controls)?;
        Some(Patch { set: vec![(id, set)], chain: vec![producer_id], ..Patch::default() })
    })
}

/// A contraction with one more thing fused behind it.
fn fused(
    producer: &Node,
    bias: Option<Port>,
    activation: Option<&Node>,
    controls: &[NodeId],
) -> Option<Node> {
    fused_with(producer, bias.map(|port| ("BiasAdd", port)), activation, controls)
}

/// A contraction with an operand, under the name of the op that takes it, or an activation fused behind it.
fn fused_with(
    producer: &Node,
    operand: Option<(&str, Port)>,
    activation: Option<&Node>,
    controls: &[NodeId],
) -> Option<Node> {
    let op = FUSED.iter().find(|f| f.0 == producer.op || f.1 == producer.op)?.1;
    let mut node = Node { op: op.to_owned(), controls: controls.to_vec(), ..producer.clone() };
    let mut steps: Vec<String> = producer
        .attrs
        .strings("fused_ops")
        .ok()?
        .iter()
        .map(|s| String::from_utf8_lossy(s).into_owned())
        .collect();
    let mut args = producer.attrs.int_or("num_args", 0).ok()?;
    if let Some((step, port)) = operand {
        node.inputs.push(port);
        steps.push(step.to_owned());
        args += 1;
    }
    if let Some(activation) = activation {
        if steps.is_empty() {
            steps.push("NoOp".to_owned());
        }
        steps.push(activation.op.clone());
        if activation.op == "LeakyRelu" {
            node.attrs.set("leakyrelu_alpha", Attr::F(activation.attrs.float_or("alpha", 0.2).ok()?));
        }
    }
    node.attrs.set("num_args", Attr::I(args));
    let steps = steps.into_iter().map(Into::into).collect();
    node.attrs.set("fused_ops", Attr::List(Box::new(ListValue { s: steps, ..ListValue::default() })));
    if op != "FusedDepthwiseConv2dNative" {
        if node.attrs.get("leakyrelu_alpha").is_none() {
            node.attrs.set("leakyrelu_alpha", Attr::F(0.2));
        }
        node.attrs.set("epsilon", Attr::F(0.0));
    }
    if op == "_FusedConv2D" {
        let types = ListValue {
            r#type: vec![DataType::DtFloat as i32; args.max(0) as usize],
            ..ListValue::default()
        };
        node.attrs.set("TArgs", Attr::List(Box::new(types)));
        node.attrs.set("num_host_args", Attr::I(0));
        node.attrs.set("filter_format", Attr::S("HWIO".into()));
    }
    Some(node)
}

/// Fuses `Prelu` into the contraction before it when that has at most a bias fused already; says how many.
pub fn fuse_prelu(graph: &mut Graph) -> usize {
    rewrite(graph, &[&prelu])
}

fn prelu(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if node.op != "Prelu" {
        return None;
    }
    let ops: Vec<&str> = FUSED.iter().map(|f| f.1).collect();
    let (producer_id, producer) = v.sole_producer(node.inputs[0], &ops)?;
    if producer.attrs.strings("fused_ops").ok()? != [b"BiasAdd"] {
        return None;
    }
    let mut set = fused(producer, Some(node.inputs[1]), None, &node.controls)?;
    let steps = vec!["BiasAdd".into(), "Prelu".into()];
    set.attrs.set("fused_ops", Attr::List(Box::new(ListValue { s: steps, ..ListValue::default() })));
    if set.op == "_FusedConv2D" {
        // As the reference writes it: the type list counts the bias alone.
        let types = ListValue { r#type: vec![DataType::DtFloat as i32], ..ListValue::default() };
        set.attrs.set("TArgs", Attr::List(Box::new(types)));
    }
    Some(Patch { set: vec![(id, set)], chain: vec![producer_id], ..Patch::default() })
}
