//! Loading without `strict`: weights that the file lacks start as their initializers say.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::json;
use tfjs_kernels::Tensor;
use tfjs_layers::{LayersModel, LayersOptions, StoredWeights};

#[test]
fn weights_that_are_missing_start_as_their_initializers_say() {
    let topology = json!({"keras_version": "2.15.0", "model_config": {"class_name": "Sequential", "config": {
        "name": "s", "layers": [{"class_name": "Dense", "config": {
            "name": "d", "units": 2, "batch_input_shape": [null, 3],
            "kernel_initializer": "ones", "bias_initializer": {"class_name": "Constant", "config": {"value": 0.5}}}}]}}});
    let options = LayersOptions { strict: false, ..LayersOptions::default() };
    let model = LayersModel::new(&topology, &StoredWeights::ByName(Vec::new()), &options).unwrap();
    let x = Tensor::new([1, 3], vec![1f32, 2.0, 3.0]).unwrap();
    assert_eq!(model.run([("d_input", x)]).unwrap()[0].data::<f32>().unwrap(), [6.5, 6.5]);
}
