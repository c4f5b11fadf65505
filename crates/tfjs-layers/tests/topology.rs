//! Configurations of every dialect come out as one form, and broken ones as errors that say where.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Value, json};
use tfjs_graph::Constant;
use tfjs_kernels::Tensor;
use tfjs_layers::{
    Dialect, LayersError, LayersModel, LayersOptions, ModelConfig, StoredWeight, StoredWeights,
    topology::{Arg, TensorRef},
};

fn read(model: &Value) -> Result<ModelConfig, LayersError> {
    ModelConfig::read(model, Dialect::Keras2)
}

fn input(name: &str) -> Value {
    json!({"class_name": "InputLayer", "name": name, "inbound_nodes": [],
        "config": {"name": name, "batch_input_shape": [null, 3], "dtype": "float32"}})
}

fn dense(name: &str, inbound: Value) -> Value {
    json!({"class_name": "Dense", "name": name, "inbound_nodes": inbound, "config": {"name": name, "units": 2}})
}

fn functional(layers: Value, outputs: Value) -> Value {
    json!({"class_name": "Functional", "config": {"name": "m", "layers": layers,
        "input_layers": [["x", 0, 0]], "output_layers": outputs}})
}

fn load(model: &Value, weights: Vec<StoredWeight>) -> Result<LayersModel, LayersError> {
    LayersModel::new(model, &StoredWeights::ByName(weights), &LayersOptions::default())
}

fn weight(name: &str, shape: &[usize]) -> StoredWeight {
    let value = Tensor::new(shape, vec![0.5f32; shape.iter().product()]).unwrap();
    StoredWeight { name: name.to_owned(), value: Constant::new(value.dtype().to_proto(), value) }
}

/// The message with its causes.
fn message(result: Result<LayersModel, LayersError>) -> String {
    let error = result.err().unwrap();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    text
}

#[test]
fn options_that_no_such_layer_has_are_told() {
    let config = json!({"class_name": "Sequential", "config": {"name": "s", "layers": [
        {"class_name": "InputLayer", "config": {"name": "x", "batch_input_shape": [null, 3, 4]}},
        {"class_name": "TimeDistributed", "config": {"name": "t", "layer": {"class_name": "Dense",
            "config": {"name": "d", "units": 2, "use_bias": false, "bias_initializer": "zeros", "rank": 3}}}}
    ]}});
    let options = LayersOptions { strict: false, ..LayersOptions::default() };
    let model = LayersModel::new(&config, &StoredWeights::ByName(Vec::new()), &options).unwrap();
    let told: Vec<String> = model.unknown_options().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["layer `d` (Dense): option `rank` is not known and has no effect"]);
}

#[test]
fn keras_2_and_keras_3_say_the_same_call_in_their_own_ways() {
    let two = dense("d", json!([[["x", 0, 0, {"training": false}]]]));
    let tensor = json!({"class_name": "__keras_tensor__", "config": {"shape": [null, 3], "keras_history": ["x", 0, 0]}});
    let three = dense("d", json!([{"args": [tensor], "kwargs": {"training": false}}]));
    let call = |layer: Value| {
        read(&functional(json!([input("x"), layer]), json!([["d", 0, 0]]))).unwrap().layers[1].calls.clone()
    };
    let (two, three) = (call(two), call(three));
    assert_eq!(two, three);
    assert_eq!(two[0].args, [Arg::Tensor(TensorRef { layer: 0, call: 0, tensor: 0 })]);
    assert_eq!(two[0].kwargs, [("training".to_owned(), Arg::Value(false.into()))]);
}

#[test]
fn calls_of_models_inside_count_from_one_or_from_zero() {
    let inner = |inbound: Value| {
        json!({"class_name": "Sequential", "name": "inner", "inbound_nodes": inbound, "config": {"name": "inner",
            "layers": [{"class_name": "Dense", "config": {"name": "e", "units": 3, "batch_input_shape": [null, 3]}}]}})
    };
    for first in [0, 1] {
        let twice = inner(json!([[["x", 0, 0, {}]], [["inner", first, 0, {}]]]));
        let model = functional(json!([input("x"), twice]), json!([["inner", first + 1, 0]]));
        let model = read(&model).unwrap();
        let tensors = model.layers[1].calls[1].tensors().into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(tensors, [TensorRef { layer: 1, call: 0, tensor: 0 }], "counted from {first}");
        assert_eq!(model.outputs.flat()[0].call, 1);
    }
}

#[test]
fn a_sequential_model_gets_the_input_layer_that_it_implies() {
    let first =
        json!({"class_name": "Dense", "config": {"name": "d", "units": 2, "batch_input_shape": [null, 4]}});
    // The list itself as config is how old files write it.
    for config in [json!({"name": "s", "layers": [first]}), json!([first])] {
        let model = read(&json!({"class_name": "Sequential", "config": config})).unwrap();
        assert!(model.layers[0].implied);
        assert_eq!((model.layers[0].name.as_str(), model.layers.len()), ("d_input", 2));
    }
}

#[test]
fn a_model_without_an_input_shape_says_what_to_do() {
    let layer = json!({"class_name": "Dense", "config": {"name": "d", "units": 2}});
    let text = message(load(
        &json!({"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}),
        vec![],
    ));
    assert!(text.contains("batch_input_shape") && text.contains("before saving"), "{text}");
}

#[test]
fn layers_that_wait_for_each_other_are_named() {
    let a = dense("a", json!([[["b", 0, 0, {}]]]));
    let b = dense("b", json!([[["a", 0, 0, {}]]]));
    let text = message(load(&functional(json!([input("x"), a, b]), json!([["b", 0, 0]])), vec![]));
    assert_eq!(text, "layers cannot be connected: a, b; their inputs are missing or form a cycle");
}

#[test]
fn references_to_nothing_are_errors() {
    let d = dense("d", json!([[["x", 3, 0, {}]]]));
    let text = message(load(&functional(json!([input("x"), d]), json!([["d", 0, 0]])), vec![]));
    assert_eq!(text, "layer `d` refers to `x`, call 3, output 0, which does not exist");
    let d = dense("d", json!([[["x", 0, 0, {}]]]));
    let text = message(load(&functional(json!([input("x"), d]), json!([["nobody", 0, 0]])), vec![]));
    assert_eq!(text, "model: `output_layers` is missing or not references to layers of the model");
}

#[test]
fn nesting_without_end_is_an_error() {
    let mut model = json!({"class_name": "Sequential", "config": {"name": "s", "layers": [
        {"class_name": "Dense", "config": {"name": "d", "units": 1, "batch_input_shape": [null, 1]}}]}});
    for _ in 0..100 {
        model = json!({"class_name": "Sequential", "config": {"name": "s", "layers": [model]}});
    }
    assert!(matches!(read(&model), Err(LayersError::TooDeep(_))));
}

#[test]
fn weights_that_are_missing_left_over_or_of_another_shape_are_named() {
    let model = functional(json!([input("x"), dense("d", json!([[["x", 0, 0, {}]]]))]), json!([["d", 0, 0]]));
    let kernel = || weight("d/kernel", &[3, 2]);
    assert_eq!(message(load(&model, vec![kernel()])), "a weight is not in the file: d/bias");
    let text = message(load(&model, vec![kernel(), weight("d/bias", &[2]), weight("e/bias", &[2])]));
    assert!(text.starts_with("the file holds weights that no layer takes: e/bias"), "{text}");
    let text = message(load(&model, vec![kernel(), weight("d/bias", &[5])]));
    assert_eq!(text, "weight `d/bias` has shape [5], the layer needs [2]");
    let loose = LayersOptions { strict: false, ..LayersOptions::default() };
    assert!(LayersModel::new(&model, &StoredWeights::ByName(vec![kernel()]), &loose).is_ok());
}

#[test]
fn weight_names_of_keras_and_of_tfjs_are_found() {
    let model = functional(json!([input("x"), dense("d", json!([[["x", 0, 0, {}]]]))]), json!([["d", 0, 0]]));
    for prefix in ["d", "sequential/d", "d/inner_scope"] {
        let list =
            vec![weight(&format!("{prefix}/kernel"), &[3, 2]), weight(&format!("{prefix}/bias"), &[2])];
        assert!(load(&model, list).is_ok(), "{prefix}");
    }
}

#[test]
fn foreign_code_is_refused_by_layer_and_class() {
    let lambda = json!({"class_name": "Lambda", "name": "twice", "inbound_nodes": [[["x", 0, 0, {}]]],
        "config": {"name": "twice", "function": ["4wEAAAAAAAAA", null, null]}});
    let text = message(load(&functional(json!([input("x"), lambda]), json!([["twice", 0, 0]])), vec![]));
    assert!(text.contains("layer `twice` (Lambda)") && text.contains("Python code"), "{text}");
}

#[test]
fn a_class_that_nobody_knows_is_named_once_however_often_it_occurs() {
    let own = |name: &str, from: &str| json!({"class_name": "MyLayer", "name": name, "config": {"name": name}, "inbound_nodes": [[[from, 0, 0, {}]]]});
    let layers = json!([input("x"), own("a", "x"), own("b", "a"), own("c", "b")]);
    let text = message(load(&functional(layers, json!([["c", 0, 0]])), vec![]));
    assert!(text.contains("layer `a` (MyLayer)") && text.contains("(and 2 more of this class)"), "{text}");
}
