//! Loops that are one step of a recurrent cell after the other become one op; those that only look like it stay.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use tfjs_graph::{
    DType, Graph, GraphError, GraphModel, ModelOptions, Port, Registry, Tensor,
    builder::{Builder, attr},
    passes,
};

/// What is different from a loop of Keras's LSTM.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Twist {
    None,
    StopsEarly,
    StartsLate,
    TakesEveryOther,
    GatesInAnotherOrder,
    AnotherActivation,
    ForgetsNothing,
    CellInTheProduct,
    KernelOfTheCandidateTwice,
    WritesTheCell,
    ListIsLonger,
    CounterIsUsed,
}

const OTHERS: [Twist; 11] = [
    Twist::StopsEarly,
    Twist::StartsLate,
    Twist::TakesEveryOther,
    Twist::GatesInAnotherOrder,
    Twist::AnotherActivation,
    Twist::ForgetsNothing,
    Twist::CellInTheProduct,
    Twist::KernelOfTheCandidateTwice,
    Twist::WritesTheCell,
    Twist::ListIsLonger,
    Twist::CounterIsUsed,
];

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let data = (0..n).map(|i| ((i * 7919 + seed * 31) % 101) as f32 / 101.0 - 0.4).collect::<Vec<f32>>();
    Tensor::new(shape, data).unwrap()
}

/// Three steps of two samples of two numbers, two units.
fn graph(twist: Twist) -> Graph {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[Some(3), None, Some(2)]);
    let int = |b: &mut Builder, v: i32| b.constant(Tensor::scalar(v));
    let shape = b.constant(Tensor::vector(vec![-1i32, 2]));
    let list = b.op("TensorListFromTensor", &[x, shape], &[("element_dtype", attr::dtype(DType::Float32))]);
    let start = int(&mut b, i32::from(twist == Twist::StartsLate));
    let steps = int(&mut b, if twist == Twist::StopsEarly { 2 } else { 3 });
    let size = int(&mut b, if twist == Twist::ListIsLonger { 4 } else { 3 });
    let float = [("element_dtype", attr::dtype(DType::Float32))];
    let out = b.op("TensorListReserve", &[shape, size], &float).unwrap();
    let weights = [numbers(&[2, 8], 1), numbers(&[2, 8], 2), numbers(&[8], 3)].map(|t| b.constant(t));
    let states = [numbers(&[2, 2], 4), numbers(&[2, 2], 5)].map(|t| b.constant(t));
    let vars = [&[start, steps, list.unwrap(), out], &states[..], &weights[..]].concat();
    let body = |b: &mut Builder, v: &[Port]| -> Result<Vec<Port>, GraphError> {
        let one = int(b, if twist == Twist::TakesEveryOther { 2 } else { 1 });
        let shape = b.constant(Tensor::vector(vec![-1i32, 2]));
        let axis = int(b, 1);
        let item = b.op("TensorListGetItem", &[v[2], v[0], shape], &float)?;
        b.set_shape(item, &[None, Some(2)]);
        let (h, c) = (v[4], v[5]);
        let x = b.op("MatMul", &[item, v[6]], &[])?;
        let recurrent = b.op("MatMul", &[if twist == Twist::CellInTheProduct { c } else { h }, v[7]], &[])?;
        let sum = b.op("AddV2", &[x, recurrent], &[])?;
        let sum = b.op("BiasAdd", &[sum, v[8]], &[("data_format", attr::text("NHWC"))])?;
        let split = b.op_n("Split", &[axis, sum], &[("num_split", attr::int(4))], 4)?;
        let (i, f) = if twist == Twist::GatesInAnotherOrder { (1, 0) } else { (0, 1) };
        let candidate = if twist == Twist::KernelOfTheCandidateTwice { 3 } else { 2 };
        let input = b.op("Sigmoid", &[split[i]], &[])?;
        let forget = b.op("Sigmoid", &[split[f]], &[])?;
        let other = twist == Twist::AnotherActivation;
        let candidate = b.op(if other { "Softsign" } else { "Tanh" }, &[split[candidate]], &[])?;
        let output = b.op("Sigmoid", &[split[3]], &[])?;
        let kept = b.op("Mul", &[forget, if twist == Twist::ForgetsNothing { h } else { c }], &[])?;
        let new = b.op("Mul", &[input, candidate], &[])?;
        let c = b.op("AddV2", &[kept, new], &[])?;
        let shown = b.op("Tanh", &[c], &[])?;
        let h = b.op("Mul", &[output, shown], &[])?;
        let written = if twist == Twist::WritesTheCell { c } else { h };
        let list = b.op("TensorListSetItem", &[v[3], v[0], written], &[])?;
        let time = b.op("AddV2", &[v[0], one], &[])?;
        Ok([&[time, v[1], v[2], list, h, c], &v[6..]].concat())
    };
    let done = b.while_loop(&vars, |b, v| b.op("Less", &[v[0], v[1]], &[]), body).unwrap();
    let zeros = b.constant(Tensor::vector(vec![2i32, 2]));
    let all = b.op("TensorListStack", &[done[3], zeros], &float).unwrap();
    b.output("all", all);
    b.output("h", done[4]);
    b.output("c", done[5]);
    if twist == Twist::CounterIsUsed {
        b.output("time", done[0]);
    }
    b.finish()
}

fn run(graph: &Graph, optimize: bool) -> Vec<Tensor> {
    let options = ModelOptions { optimize, ..ModelOptions::default() };
    let model = GraphModel::from_graph(graph.clone(), options);
    model.run([("x", numbers(&[3, 2, 2], 9))]).unwrap().into_tensors()
}

fn fused(graph: &Graph) -> usize {
    let mut graph = graph.clone();
    passes::fuse_recurrent_loops(&mut graph, &Registry::default()).unwrap()
}

#[test]
fn an_lstm_is_one_op_and_computes_the_same() {
    let graph = graph(Twist::None);
    assert_eq!(fused(&graph), 1);
    for (got, want) in run(&graph, true).iter().zip(run(&graph, false)) {
        assert_eq!(got.dims(), want.dims());
        let (got, want) = (got.data::<f32>().unwrap(), want.data::<f32>().unwrap());
        // The order of the sums is another.
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {want:?}");
    }
}

#[test]
fn loops_that_are_something_else_stay_as_they_are() {
    for twist in OTHERS {
        let graph = graph(twist);
        assert_eq!(fused(&graph), 0, "{twist:?}");
        assert_eq!(run(&graph, true).len(), graph.outputs.len(), "{twist:?}");
    }
}
