//! Models written out by hand; the numbers are tf_keras 2.19's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::json;
use tfjs_graph::Constant;
use tfjs_kernels::Tensor;
use tfjs_layers::{LayersModel, LayersOptions, StoredWeight, StoredWeights};

fn stored(name: &str, shape: &[usize], data: Vec<f32>) -> StoredWeight {
    let value = Tensor::new(shape, data).unwrap();
    StoredWeight { name: name.to_owned(), value: Constant::new(tfjs_format::proto::DataType::DtFloat, value) }
}

#[test]
fn a_dense_layer_predicts_as_keras_does() {
    let topology = json!({"keras_version": "2.15.0", "model_config": {"class_name": "Sequential", "config": {
        "name": "s", "layers": [{"class_name": "Dense", "config": {
            "name": "d", "units": 2, "activation": "relu", "batch_input_shape": [null, 3]}}]}}});
    let weights = StoredWeights::ByName(vec![
        stored("d/kernel", &[3, 2], vec![1.0, -1.0, 2.0, 0.5, -1.5, 1.0]),
        stored("d/bias", &[2], vec![0.5, -0.25]),
    ]);
    let model = LayersModel::new(&topology, &weights, &LayersOptions::default()).unwrap();
    let x = Tensor::new([2, 3], vec![1f32, 2.0, 3.0, -1.0, 0.5, 0.25]).unwrap();
    let y = model.run([("d_input", x)]).unwrap();
    assert_eq!(y[0].data::<f32>().unwrap(), [1.0, 2.75, 0.125, 1.25]);
}
