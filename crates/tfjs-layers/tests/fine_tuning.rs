//! Graphs as layers: what is refused, how inputs and outputs are called, loops, other heads.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::json;
use tfjs_graph::{Constant, GraphError, GraphModel, ModelOptions, Port, builder::Builder};
use tfjs_kernels::{DType, Tensor};
use tfjs_layers::{
    Batch, Compile, FineTune, LayersError, Tuning,
    build::{Dense, Dropout},
    optimizers::Sgd,
};

fn weight(b: &mut Builder, name: &str, value: Tensor) -> Port {
    b.weight(name, Constant::new(value.dtype().to_proto(), value))
}

fn model(b: Builder) -> GraphModel {
    GraphModel::from_graph(b.finish(), ModelOptions::default())
}

fn sgd(rate: f64) -> Sgd {
    Sgd { learning_rate: rate.into(), ..Sgd::default() }
}

fn value(tuning: &Tuning, name: &str) -> Vec<f32> {
    tuning.get_weight(name).unwrap().data::<f32>().unwrap().to_vec()
}

/// `x · kernel + bias` by way of an op that has no gradient, if `rough`; and what else is in graphs.
fn linear(rough: bool) -> GraphModel {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[None, Some(2)]);
    let kernel = weight(&mut b, "kernel", Tensor::new([2, 1], vec![1f32, -1.0]).unwrap());
    let bias = weight(&mut b, "bias", Tensor::vector(vec![0.5f32]));
    weight(&mut b, "unused", Tensor::vector(vec![1f32]));
    weight(&mut b, "nothing", Tensor::new([0], Vec::<f32>::new()).unwrap());
    let mut y = b.op("MatMul", &[x, kernel], &[]).unwrap();
    if rough {
        let picture = b.constant(Tensor::vector(vec![-1i32, 1, 1, 1]));
        let pixel = b.constant(Tensor::vector(vec![1i32, 1]));
        let rows = b.constant(Tensor::vector(vec![-1i32, 1]));
        b.set_scope("rough");
        y = b.op("Reshape", &[y, picture], &[]).unwrap();
        y = b.op("ResizeArea", &[y, pixel], &[]).unwrap();
        y = b.op("Reshape", &[y, rows], &[]).unwrap();
        b.set_scope("");
    }
    y = b.op("AddV2", &[y, bias], &[]).unwrap();
    b.output("y", y);
    model(b)
}

#[test]
fn an_op_without_gradient_is_named_before_anything_changes() {
    let mut tuning = linear(true).fine_tune(&["kernel", "bias"]).unwrap();
    tuning.compile(sgd(0.1), "mse", ["mae"]).unwrap();
    let x = Tensor::new([1, 2], vec![1f32, 2.0]).unwrap();
    let batch = Batch::new(x.clone(), Tensor::new([1, 1], vec![0f32]).unwrap());
    let error = tuning.train_on_batch(&batch).unwrap_err();
    let LayersError::Graph(GraphError::NoGradient(ops)) = &error else { panic!("{error}") };
    assert_eq!((ops.len(), ops[0].node.as_str(), ops[0].op.as_str()), (1, "rough/ResizeArea", "ResizeArea"));
    assert_eq!((value(&tuning, "kernel"), value(&tuning, "bias")), (vec![1.0, -1.0], vec![0.5]));

    // What lies behind the op can be trained: its loss is (-1 + 0.5)².
    let mut tuning = linear(true).fine_tune(&["bias"]).unwrap();
    tuning.compile(sgd(0.5), "mse", ["mae"]).unwrap();
    assert_eq!(tuning.train_on_batch(&batch).unwrap().get("loss"), Some(0.25));
    assert_eq!(value(&tuning, "bias"), [1.0]);
}

#[test]
fn constants_without_use_or_elements_are_refused() {
    let model = linear(false);
    let error = |name: &str| model.fine_tune(&["kernel", name]).unwrap_err().to_string();
    assert_eq!(error("unused"), "`unused` cannot be trained: no output of the graph changes with it");
    assert_eq!(error("nothing"), "`nothing` cannot be trained: it has no elements");
    let all = model.fine_tune_where(|_, _| true).unwrap();
    assert_eq!(all.weights().map(|(_, w)| w.keras.clone()).collect::<Vec<_>>(), ["kernel", "bias"]);
}

#[test]
fn inputs_and_outputs_keep_the_names_of_the_signature() {
    let mut b = Builder::default();
    let left = b.placeholder("left", DType::Float32, &[None, Some(1)]);
    let graph = b.placeholder("graph", DType::Int32, &[None, Some(1)]);
    let a = weight(&mut b, "a", Tensor::new([1, 1], vec![2f32]).unwrap());
    let product = b.op("MatMul", &[left, a], &[]).unwrap();
    let shift =
        b.op("Cast", &[graph], &[("DstT", tfjs_graph::builder::attr::dtype(DType::Float32))]).unwrap();
    let sum = b.op("AddV2", &[product, shift], &[]).unwrap();
    b.output("product", product);
    b.output("count", graph);
    b.output("sum", sum);
    let mut tuning = model(b).fine_tune(&["a"]).unwrap();
    assert_eq!(tuning.input_names(), ["left", "graph"]);
    assert_eq!(tuning.output_names(), ["product", "count", "sum"]);
    let compile = Compile {
        loss: json!({"sum": "mse", "product": "mae"}),
        metrics: json!({"sum": ["mae"]}),
        ..Compile::default()
    };
    tuning.compile_with(sgd(0.1).into(), compile).unwrap();
    let one = |v: f32| Tensor::new([1, 1], vec![v]).unwrap();
    let batch = Batch {
        x: vec![one(3.0), Tensor::new([1, 1], vec![1i32]).unwrap()],
        y: vec![Some(one(7.0)), None, Some(one(5.0))],
        sample_weight: Vec::new(),
    };
    // product = 6, sum = 7: |6 - 7| + (7 - 5)², whose gradient by a is -3 + 2·2·3.
    let logs = tuning.train_on_batch(&batch).unwrap();
    assert_eq!(logs.get("loss"), Some(5.0));
    assert_eq!(logs.get("sum_mae"), Some(2.0));
    assert!((value(&tuning, "a")[0] - (2.0 - 0.9)).abs() < 1e-6);
    let out = tuning.into_graph_model().unwrap();
    let y = out.run([("left", one(1.0)), ("graph", Tensor::new([1, 1], vec![4i32]).unwrap())]).unwrap();
    assert!((y["sum"].data::<f32>().unwrap()[0] - 5.1).abs() < 1e-6);
}

#[test]
fn weights_train_through_a_loop_and_those_inside_are_refused() {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[None, Some(1)]);
    let w = weight(&mut b, "w", Tensor::new([1, 1], vec![2f32]).unwrap());
    let i = b.constant(Tensor::scalar(0i32));
    let out = b
        .while_loop::<GraphError>(
            &[i, x, w],
            |b, v| {
                let end = b.constant(Tensor::scalar(3i32));
                b.op("Less", &[v[0], end], &[])
            },
            |b, v| {
                let one = b.constant(Tensor::scalar(1i32));
                let half = weight(b, "half", Tensor::vector(vec![0.5f32]));
                let y = b.op("MatMul", &[v[1], v[2]], &[])?;
                Ok(vec![b.op("AddV2", &[v[0], one], &[])?, b.op("Mul", &[y, half], &[])?, v[2]])
            },
        )
        .unwrap();
    b.output("y", out[1]);
    let model = model(b);
    let inside = model.graph().constants().into_iter().find(|(n, _)| n.ends_with("/half")).unwrap().0;
    let error = model.fine_tune(&[&inside]).unwrap_err().to_string();
    assert!(error.contains("it lies in a function"), "{error}");

    let mut tuning = model.fine_tune(&["w"]).unwrap();
    tuning.compile(sgd(1.0), "mse", ["mae"]).unwrap();
    let one = |v: f32| Tensor::new([1, 1], vec![v]).unwrap();
    // y = (w/2)³ = 1; the gradient of (y - 0.5)² is 2 · 0.5 · 3/2 · (w/2)².
    assert_eq!(tuning.train_on_batch(&Batch::new(one(1.0), one(0.5))).unwrap().get("loss"), Some(0.25));
    assert_eq!(value(&tuning, "w"), [0.5]);
}

#[test]
fn a_graph_gets_another_head_and_can_be_frozen_under_it() {
    let tuning = linear(false).fine_tune(&["kernel"]).unwrap();
    let mut model = tuning
        .into_layers_model()
        .with_head("graph", [Dropout::new(0.5), Dense::new(3).activation("softmax").name("classes")], 1)
        .unwrap();
    model.compile(sgd(0.1), "sparse_categorical_crossentropy", ["accuracy"]).unwrap();
    let x = Tensor::new([4, 2], vec![1f32, 2.0, -3.0, 1.0, 0.5, 0.5, 2.0, 2.0]).unwrap();
    let batch = Batch::new(x, Tensor::vector(vec![0i32, 1, 2, 0]));
    model.train_on_batch(&batch).unwrap();
    let kernel =
        |m: &tfjs_layers::LayersModel| m.get_weight("kernel").unwrap().data::<f32>().unwrap().to_vec();
    let trained = kernel(&model);
    assert_ne!(trained, [1.0, -1.0]);
    model.set_trainable("graph", false).unwrap();
    model.compile(sgd(0.1), "sparse_categorical_crossentropy", ["accuracy"]).unwrap();
    assert_eq!(model.trainable_weights().len(), 2);
    model.train_on_batch(&batch).unwrap();
    assert_eq!(kernel(&model), trained);
}

#[test]
fn an_input_without_shape_is_refused() {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[None]);
    let w = weight(&mut b, "w", Tensor::vector(vec![2f32]));
    let y = b.op("Mul", &[x, w], &[]).unwrap();
    b.output("y", y);
    let mut graph = b.finish();
    graph.inputs[0].shape = None;
    let id = graph.inputs[0].port.node;
    graph.node_mut(id).attrs.0.remove("shape");
    let error = GraphModel::from_graph(graph, ModelOptions::default()).fine_tune(&["w"]).unwrap_err();
    assert_eq!(error.to_string(), "input `x` of the graph has no declared shape, which training needs");
}
