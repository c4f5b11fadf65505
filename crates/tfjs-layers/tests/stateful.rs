//! Layers that remember; the numbers are tf_keras 2.19's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::json;
use tfjs_graph::{Constant, GraphModel, ModelOptions};
use tfjs_kernels::Tensor;
use tfjs_layers::{LayersModel, LayersOptions, StoredWeight, StoredWeights};

const FIRST: [f32; 2] = [0.3751876, 0.1531413];
const SECOND: [f32; 2] = [0.2660564, 0.3908365];

fn model() -> LayersModel {
    let topology = json!({"keras_version": "2.19.0", "model_config": {"class_name": "Sequential", "config": {
        "name": "s", "layers": [{"class_name": "SimpleRNN", "config": {
            "name": "r", "units": 2, "stateful": true, "batch_input_shape": [1, 2, 1]}}]}}});
    let stored = |name: &str, shape: &[usize], data: Vec<f32>| {
        let value = Tensor::new(shape, data).unwrap();
        StoredWeight {
            name: name.to_owned(),
            value: Constant::new(tfjs_format::proto::DataType::DtFloat, value),
        }
    };
    let weights = StoredWeights::ByName(vec![
        stored("r/kernel", &[1, 2], vec![0.5, -1.0]),
        stored("r/recurrent_kernel", &[2, 2], vec![0.25, 0.75, -0.5, 1.0]),
        stored("r/bias", &[2], vec![0.125, 0.0]),
    ]);
    LayersModel::new(&topology, &weights, &LayersOptions::default()).unwrap()
}

fn predict(model: &LayersModel) -> Vec<f32> {
    let x = Tensor::new([1, 2, 1], vec![1f32, -0.5]).unwrap();
    model.run([("r_input", x)]).unwrap()[0].data::<f32>().unwrap().to_vec()
}

fn assert_close(got: &[f32], want: [f32; 2]) {
    assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5), "{got:?} is not {want:?}");
}

#[test]
fn a_stateful_layer_goes_on_where_the_run_before_ended() {
    let model = model();
    assert_close(&predict(&model), FIRST);
    assert_close(&predict(&model), SECOND);
    model.reset_states();
    assert_close(&predict(&model), FIRST);
}

#[test]
fn an_exported_graph_starts_every_run_from_zeros() {
    let emitted = model().to_graph().unwrap();
    assert!(emitted.states.is_empty());
    let graph = GraphModel::from_graph(emitted.graph, ModelOptions::default());
    for _ in 0..2 {
        let x = Tensor::new([1, 2, 1], vec![1f32, -0.5]).unwrap();
        assert_close(graph.run([("r_input", x)]).unwrap()[0].data::<f32>().unwrap(), FIRST);
    }
}
