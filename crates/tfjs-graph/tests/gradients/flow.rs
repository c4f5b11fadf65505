//! Loops, branches, calls; what stops a gradient; sparse gradients.
use tfjs_graph::{
    DType, GraphError, GraphModel, ModelOptions, Port, Tensor,
    builder::{Builder, attr},
    gradients::{Gradient, gradients},
};

use crate::{chain, check, custom, x};

/// Ops whose rules are tested here, or against TensorFlow's values.
pub(crate) const COVERED: &[&str] = &[
    "Case",
    "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVars",
    "FakeQuantWithMinMaxVarsPerChannel",
    "If",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "StatelessCase",
    "StatelessIf",
    "StatelessWhile",
    "While",
];

type Built = Result<Vec<Port>, GraphError>;

fn number(b: &mut Builder, value: i32) -> Port {
    b.constant(Tensor::scalar(value))
}

#[test]
fn a_loop_with_changing_and_unchanging_values_is_differentiated() {
    // h ← tanh(h · w) + x · i, three times.
    let case =
        custom(&[], vec![x(&[2, 2], -1.0, 1.0), x(&[2, 2], -1.0, 1.0), x(&[2, 2], -1.0, 1.0)], |b, p| {
            let (start, steps) = (number(b, 0), number(b, 3));
            let vars = [start, steps, p[0], p[1], p[2]];
            let done = b.while_loop(
                &vars,
                |b, v| b.op("Less", &[v[0], v[1]], &[]),
                |b, v| -> Built {
                    let one = number(b, 1);
                    let i = b.op("AddV2", &[v[0], one], &[])?;
                    let product = b.op("MatMul", &[v[2], v[3]], &[])?;
                    let tanh = b.op("Tanh", &[product], &[])?;
                    let float = b.op("Cast", &[i], &[("DstT", attr::dtype(DType::Float32))])?;
                    let scaled = b.op("Mul", &[v[4], float], &[])?;
                    let h = b.op("AddV2", &[tanh, scaled], &[])?;
                    Ok(vec![i, v[1], h, v[3], v[4]])
                },
            );
            vec![done.unwrap()[2]]
        });
    check(&case, false).unwrap();
    check(&case, true).unwrap();
}

#[test]
fn a_recurrent_layers_loop_over_lists_is_differentiated() {
    let case =
        custom(&[], vec![x(&[3, 2, 2], -1.0, 1.0), x(&[2, 2], -1.0, 1.0), x(&[2, 2], -1.0, 1.0)], |b, p| {
            let float = || [("element_dtype", attr::dtype(DType::Float32))];
            let shape = b.constant(Tensor::vector(vec![-1i32, 2]));
            let (start, steps) = (number(b, 0), number(b, 3));
            let items = b.op("TensorListFromTensor", &[p[0], shape], &[]).unwrap();
            let all = b.op("TensorListReserve", &[shape, steps], &float()).unwrap();
            let vars = [start, steps, items, all, p[1], p[2]];
            let done = b.while_loop(
                &vars,
                |b, v| b.op("Less", &[v[0], v[1]], &[]),
                |b, v| -> Built {
                    let one = number(b, 1);
                    let i = b.op("AddV2", &[v[0], one], &[])?;
                    let shape = b.constant(Tensor::vector(vec![-1i32, 2]));
                    let item = b.op(
                        "TensorListGetItem",
                        &[v[2], v[0], shape],
                        &[("element_dtype", attr::dtype(DType::Float32))],
                    )?;
                    let product = b.op("MatMul", &[v[4], v[5]], &[])?;
                    let sum = b.op("AddV2", &[product, item], &[])?;
                    let h = b.op("Tanh", &[sum], &[])?;
                    let all = b.op("TensorListSetItem", &[v[3], v[0], h], &[])?;
                    Ok(vec![i, v[1], v[2], all, h, v[5]])
                },
            );
            let done = done.unwrap();
            let stacked = b.op("TensorListStack", &[done[3], shape], &float()).unwrap();
            b.set_shape(stacked, &[Some(3), None, Some(2)]);
            vec![stacked, done[4]]
        });
    check(&case, false).unwrap();
    check(&case, true).unwrap();
}

#[test]
fn a_loop_within_a_loop_is_differentiated() {
    let case = custom(&[], vec![x(&[2], 0.5, 1.0), x(&[2], 0.5, 1.0)], |b, p| {
        let zero = number(b, 0);
        let below = |b: &mut Builder, v: &[Port]| {
            let two = number(b, 2);
            b.op("Less", &[v[0], two], &[])
        };
        let done = b.while_loop(&[zero, p[0], p[1]], below, move |b, v| -> Built {
            let zero = number(b, 0);
            let inner = b.while_loop(&[zero, v[1], v[2]], below, |b, v| -> Built {
                let one = number(b, 1);
                let i = b.op("AddV2", &[v[0], one], &[])?;
                let product = b.op("Mul", &[v[1], v[2]], &[])?;
                Ok(vec![i, b.op("Sin", &[product], &[])?, v[2]])
            })?;
            let one = number(b, 1);
            let i = b.op("AddV2", &[v[0], one], &[])?;
            let next = b.op("Mul", &[inner[1], v[1]], &[])?;
            Ok(vec![i, next, v[2]])
        });
        vec![done.unwrap()[1]]
    });
    check(&case, false).unwrap();
    check(&case, true).unwrap();
}

#[test]
fn branches_and_calls_are_differentiated() {
    for positive in [true, false] {
        let case = custom(&[], vec![x(&[3], 0.5, 1.0), x(&[3], 0.5, 1.0)], move |b, p| {
            let facts = [b.fact(p[0]).clone(), b.fact(p[1]).clone()];
            let square = |b: &mut Builder, v: &[Port]| -> Built {
                let product = b.op("Mul", &[v[0], v[1]], &[])?;
                Ok(vec![b.op("Square", &[product], &[])?])
            };
            let (yes, out) = b.function("yes", &facts, square).unwrap();
            let (no, _) =
                b.function("no", &facts, |b, v| -> Built { Ok(vec![b.op("Exp", &[v[0]], &[])?]) }).unwrap();
            let function = |name: &str| {
                use tfjs_format::proto::{NameAttrList, attr_value::Value};
                Value::Func(Box::new(NameAttrList { name: name.to_owned(), ..NameAttrList::default() }))
            };
            let condition = b.constant(Tensor::scalar(positive));
            let attrs = [("then_branch", function(&yes)), ("else_branch", function(&no))];
            let y = b.op("StatelessIf", &[condition, p[0], p[1]], &attrs).unwrap();
            b.set_dtype(y, DType::Float32);
            b.set_shape(y, out[0].shape.as_ref().unwrap());
            let z = b.op("PartitionedCall", &[y, p[1]], &[("f", function(&yes))]).unwrap();
            b.set_dtype(z, DType::Float32);
            vec![z]
        });
        check(&case, false).unwrap();
        check(&case, true).unwrap();
    }
}

fn square_and_gradient(stop: &str) -> Vec<Option<Gradient>> {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[Some(2)]);
    let y = b.op(stop, &[x], &[]).unwrap();
    let y = b.op("Square", &[y], &[]).unwrap();
    gradients(&mut b, y, &[x]).unwrap()
}

#[test]
fn gradients_stop_where_they_are_told_to_and_where_values_move_in_steps() {
    for op in ["StopGradient", "PreventGradient", "Floor", "Sign", "ZerosLike"] {
        assert_eq!(square_and_gradient(op), [None], "{op}");
    }
    assert!(square_and_gradient("Identity")[0].is_some());
}

#[test]
fn all_ops_without_a_rule_are_named_at_once() {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[Some(1), Some(4), Some(4), Some(3)]);
    let by = b.constant(Tensor::scalar(0.5f32));
    let y = b.op("AdjustHue", &[x, by], &[]).unwrap();
    let y = b.op("AdjustSaturation", &[y, by], &[]).unwrap();
    let message = chain(&gradients(&mut b, y, &[x]).unwrap_err());
    assert!(message.contains("AdjustHue (node `AdjustHue`)"), "{message}");
    assert!(message.contains("AdjustSaturation"), "{message}");
}

#[test]
fn branches_of_tensorflow_1_are_refused_by_name_and_with_the_way_out() {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[Some(2)]);
    let on = b.constant(Tensor::scalar(true));
    let y = b.op_n("Switch", &[x, on], &[], 2).unwrap()[1];
    let y = b.op("Square", &[y], &[]).unwrap();
    let message = chain(&gradients(&mut b, y, &[x]).unwrap_err());
    assert!(message.contains("node `Switch` (Switch)"), "{message}");
    assert!(message.contains("enable_control_flow_v2"), "{message}");
}

#[test]
fn nodes_that_no_file_should_have_are_refused() {
    use tfjs_graph::{Attrs, Graph, Node};
    let differentiate = |node: Node| {
        let mut graph = Graph::default();
        let shape = attr::shape(Some(&[Some(2), Some(3)]));
        let attrs = Attrs::default().with("dtype", attr::dtype(DType::Float32)).with("shape", shape);
        let x = graph.add(Node::new("x", "Placeholder").attrs(attrs)).unwrap();
        let axis = tfjs_graph::Constant::new(DType::Int32.to_proto(), Tensor::vector(vec![7i32]));
        let axis = graph.add(Node::constant("axis", axis)).unwrap();
        let inputs: Vec<Port> =
            node.inputs.iter().map(|p| if p.index == 0 { x.into() } else { axis.into() }).collect();
        let y = graph.add(node.inputs(inputs)).unwrap();
        let mut b = Builder::from_graph(graph).unwrap();
        gradients(&mut b, y.into(), &[x.into()])
    };
    let port = |index| Port { node: tfjs_graph::NodeId(0), index };
    let node = |op: &str, inputs: &[u32]| Node::new("y", op).inputs(inputs.iter().map(|&i| port(i)));
    assert!(differentiate(node("Mul", &[0])).is_err());
    assert!(differentiate(node("Prod", &[0, 1])).is_err());
    assert!(differentiate(node("GatherV2", &[0, 1, 1])).is_err());
    let many = Attrs::default().with("num", attr::int(i64::MAX));
    assert!(differentiate(node("Unpack", &[0]).attrs(many)).is_err());
    assert!(differentiate(node("While", &[0])).is_err());
}

#[test]
fn embeddings_keep_their_gradients_sparse() {
    let mut b = Builder::default();
    let table = b.placeholder("table", DType::Float32, &[Some(5), Some(2)]);
    let ids = b.constant(Tensor::new([2, 2], vec![4i32, 1, 4, 0]).unwrap());
    let axis = number(&mut b, 0);
    let rows = b.op("GatherV2", &[table, ids, axis], &[]).unwrap();
    let more = b.op("GatherV2", &[table, axis, axis], &[]).unwrap();
    let squares = b.op("Square", &[rows], &[]).unwrap();
    let y = b.op("AddV2", &[squares, more], &[]).unwrap();
    let gradient = gradients(&mut b, y, &[table]).unwrap()[0].unwrap();
    assert!(matches!(gradient, Gradient::Sparse { .. }), "two gathers together are sparse too");
    let dense = gradient.dense(&mut b).unwrap();
    b.output("g", dense);
    let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
    let table: Vec<f32> = (0..10).map(|i| i as f32).collect();
    let out = model.run([("table", Tensor::new([5, 2], table).unwrap())]).unwrap();
    // From tf.GradientTape of TensorFlow 2.19.
    assert_eq!(out["g"].data::<f32>().unwrap(), [4.0, 6.0, 4.0, 6.0, 0.0, 0.0, 0.0, 0.0, 32.0, 36.0]);
}

#[test]
fn an_existing_graph_is_differentiated() {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[None, Some(2)]);
    let w = b.weight(
        "w",
        tfjs_graph::Constant::new(DType::Float32.to_proto(), Tensor::new([2, 1], vec![1f32, -1.0]).unwrap()),
    );
    let y = b.op("MatMul", &[x, w], &[]).unwrap();
    b.output("y", y);
    let mut b = Builder::from_graph(b.finish()).unwrap();
    assert_eq!(b.fact(y).shape, Some(vec![None, Some(1)]));
    let g = gradients(&mut b, y, &[w]).unwrap()[0].unwrap().dense(&mut b).unwrap();
    b.output("g", g);
    let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
    let out = model.run([("x", Tensor::new([2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap())]).unwrap();
    assert_eq!(out["g"].data::<f32>().unwrap(), [4.0, 6.0]);
}
