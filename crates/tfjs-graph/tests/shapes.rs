//! Plans for the shapes of inputs: what follows from them is computed once.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Value, json};
use tfjs_format::ModelJson;
use tfjs_graph::{GraphModel, ModelOptions, Tensor, op::Profile};

fn ints(name: &str, values: &[i32]) -> Value {
    let tensor =
        json!({"dtype": "DT_INT32", "tensorShape": {"dim": [{"size": values.len()}]}, "intVal": values});
    json!({"name": name, "op": "Const", "attr": {"dtype": {"type": "DT_INT32"}, "value": {"tensor": tensor}}})
}

/// `reshape(x · w, [batch of x, 2, 2])`, the batch read from the shape; `w` has weights of 64 by 4 that are all 1.
fn model() -> GraphModel {
    let weights = json!({"dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "64"}, {"size": "4"}]}, "floatVal": vec![1.0; 256]});
    let shape = json!({"dim": [{"size": "-1"}, {"size": "64"}]});
    let nodes = json!([
        {"name": "x", "op": "Placeholder", "attr": {"dtype": {"type": "DT_FLOAT"}, "shape": {"shape": shape}}},
        {"name": "w", "op": "Const", "attr": {"dtype": {"type": "DT_FLOAT"}, "value": {"tensor": weights}}},
        {"name": "product", "op": "MatMul", "input": ["x", "w"], "attr": {"T": {"type": "DT_FLOAT"}}},
        {"name": "shape", "op": "Shape", "input": ["x"], "attr": {"T": {"type": "DT_FLOAT"}}},
        ints("zero", &[0]), ints("one", &[1]), ints("two", &[2]),
        {"name": "batch", "op": "StridedSlice", "input": ["shape", "zero", "one", "one"],
         "attr": {"shrink_axis_mask": {"i": "0"}}},
        ints("axis", &[0]),
        {"name": "wanted", "op": "ConcatV2", "input": ["batch", "two", "two", "axis0"], "attr": {"N": {"i": "3"}}},
        {"name": "axis0", "op": "Const", "attr": {"dtype": {"type": "DT_INT32"},
         "value": {"tensor": {"dtype": "DT_INT32", "tensorShape": {}, "intVal": [0]}}}},
        {"name": "y", "op": "Reshape", "input": ["product", "wanted"], "attr": {"T": {"type": "DT_FLOAT"}}},
    ]);
    let json = json!({
        "format": "graph-model",
        "modelTopology": {"node": nodes, "versions": {"producer": 2129}},
        "weightsManifest": [],
    });
    let model = ModelJson::parse(json.to_string().as_bytes()).unwrap();
    GraphModel::from_json(&model, &|_| None, ModelOptions::default()).unwrap()
}

/// Runs a batch, checks the result, and tells whether the shape was computed.
fn computes_shape(model: &GraphModel, batch: usize) -> bool {
    let mut profile = Profile::default();
    let x = Tensor::new([batch, 64], vec![0.5f32; batch * 64]).unwrap();
    let y = model.run_profiled([("x", x)], &mut profile).unwrap();
    assert_eq!(y["y"].dims(), [batch, 2, 2]);
    assert_eq!(y["y"].data::<f32>().unwrap(), vec![32.0; batch * 4]);
    assert!(profile.nodes.contains_key("product"));
    profile.nodes.contains_key("shape")
}

#[test]
fn shapes_that_come_back_are_resolved_once() {
    let model = model();
    assert!(!computes_shape(&model, 3), "the first shapes have a plan of their own");
    assert!(computes_shape(&model, 5), "others are met for the first time");
    assert!(computes_shape(&model, 5));
    assert!(!computes_shape(&model, 5), "until they have come back");
    assert!(!computes_shape(&model, 3));
}

#[test]
fn plans_are_bounded_and_those_used_last_stay() {
    let model = model();
    for batch in 1..=20 {
        for _ in 0..3 {
            computes_shape(&model, batch);
        }
        assert!(!computes_shape(&model, batch));
    }
    assert!(!computes_shape(&model, 20));
    assert!(!computes_shape(&model, 13), "among the last eight");
    assert!(computes_shape(&model, 1), "given up long ago");
}

#[test]
fn runs_at_the_same_time_do_not_disturb_one_another() {
    let model = model();
    std::thread::scope(|s| {
        for t in 0..4 {
            let model = &model;
            s.spawn(move || {
                for i in 0..40 {
                    computes_shape(model, 1 + (t * 7 + i) % 60 * 5);
                }
            });
        }
    });
    let memory = model.memory().unwrap();
    let least = memory.minimal + memory.outliving;
    assert!(memory.used <= least + least * 3 / 10, "{memory:?}");
}
