//! Channels-first ops that TensorFlow.js takes for channels-last, whatever they say: transposed back and forth.
//!
//! `Conv2D` and `DepthwiseConv2dNative` are left alone: for these it looks at the layout.

use tfjs_format::proto::{DataType, attr_value::Value};
use tfjs_graph::{Attrs, Constant, Graph, Node, NodeId, Port, Tensor};

/// Ops with one image input, at this index, whose first output is an image; all other inputs are vectors.
const OPS: &[(&str, usize)] = &[
    ("AvgPool", 0),
    ("BiasAdd", 0),
    ("Conv2DBackpropInput", 2),
    ("FusedBatchNorm", 0),
    ("FusedBatchNormV2", 0),
    ("FusedBatchNormV3", 0),
    ("MaxPool", 0),
];
/// Attributes with one number per dimension.
const PER_DIMENSION: &[&str] = &["ksize", "strides", "dilations"];

/// Rewrites the ops that say `NCHW`; says how many.
pub(crate) fn to_channels_last(graph: &mut Graph) -> usize {
    let mut count = 0;
    for id in graph.ids() {
        let node = graph.node(id);
        let Some(&(_, image)) = OPS.iter().find(|(op, _)| *op == node.op) else { continue };
        if node.attrs.str_or("data_format", "NHWC") == Ok("NCHW") && rewrite(graph, id, image).is_some() {
            count += 1;
        }
    }
    count
}

fn rewrite(graph: &mut Graph, id: NodeId, image: usize) -> Option<()> {
    let node = graph.node(id).clone();
    let source = *node.inputs.get(image)?;
    let mut attrs = node.attrs.clone();
    attrs.set("data_format", Value::S("NHWC".into()));
    for name in PER_DIMENSION {
        let Some(Value::List(list)) = attrs.get(name) else { continue };
        let mut list = list.clone();
        if let &[n, c, h, w] = &list.i[..] {
            list.i = vec![n, h, w, c];
        }
        attrs.set(name, Value::List(list));
    }
    // Explicit padding has a pair per dimension.
    if let Some(Value::List(list)) = attrs.get("explicit_paddings") {
        let mut list = list.clone();
        if let &[n0, n1, c0, c1, h0, h1, w0, w1] = &list.i[..] {
            list.i = vec![n0, n1, h0, h1, w0, w1, c0, c1];
        }
        attrs.set("explicit_paddings", Value::List(list));
    }
    let dtype = attrs.opt_data_type("T").ok().flatten().unwrap_or(DataType::DtFloat);
    let channels_last = transpose(graph, &format!("{}/nhwc", node.name), dtype, source, [0, 2, 3, 1]);
    let mut inputs = node.inputs.clone();
    inputs[image] = channels_last;
    if node.op == "Conv2DBackpropInput" {
        inputs[0] = permuted_shape(graph, &node.name, inputs[0]);
    }
    // The op gets a name of its own: the old one belongs to the result in the layout that others expect.
    let name = graph.rename(id, &format!("{}/channels_last", node.name));
    let inner = graph.node_mut(id);
    debug_assert_eq!(inner.name, name);
    inner.inputs = inputs;
    inner.attrs = attrs;
    let perm = permutation(graph, &node.name, [0, 3, 1, 2]);
    let back = Node::new(&node.name, "Transpose").attrs(transpose_attrs(dtype));
    let back = graph.add_fresh(back);
    graph.replace_uses(id.into(), back.into());
    graph.node_mut(back).inputs = vec![id.into(), perm];
    Some(())
}

fn transpose(graph: &mut Graph, name: &str, dtype: DataType, source: Port, order: [i32; 4]) -> Port {
    let perm = permutation(graph, name, order);
    graph.add_fresh(Node::new(name, "Transpose").inputs([source, perm]).attrs(transpose_attrs(dtype))).into()
}

fn permutation(graph: &mut Graph, name: &str, order: [i32; 4]) -> Port {
    let value = Constant::new(DataType::DtInt32, Tensor::vector(order.to_vec()));
    graph.add_fresh(Node::constant(format!("{name}/perm"), value)).into()
}

fn transpose_attrs(dtype: DataType) -> Attrs {
    Attrs::default().with("T", Value::Type(dtype as i32)).with("Tperm", Value::Type(DataType::DtInt32 as i32))
}

/// The output shape of a transposed convolution, which is an input of it.
fn permuted_shape(graph: &mut Graph, name: &str, shape: Port) -> Port {
    let int = Value::Type(DataType::DtInt32 as i32);
    let indices = permutation(graph, &format!("{name}/shape"), [0, 2, 3, 1]);
    let axis = Constant::new(DataType::DtInt32, Tensor::scalar(0i32));
    let axis = graph.add_fresh(Node::constant(format!("{name}/shape/axis"), axis));
    let attrs = Attrs::default()
        .with("Tparams", int.clone())
        .with("Tindices", int.clone())
        .with("Taxis", int)
        .with("batch_dims", Value::I(0));
    let gather = Node::new(format!("{name}/shape"), "GatherV2").inputs([shape, indices, axis.into()]);
    graph.add_fresh(gather.attrs(attrs)).into()
}
