//! Files of Keras 1: the same model in the words and layouts of Keras 2 (whose numbers are checked elsewhere) and of Keras 1,
//! as tf_keras's `preprocess_weights_for_loading` reads them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Value, json};
use tfjs_graph::Constant;
use tfjs_kernels::Tensor;
use tfjs_layers::{LayersModel, LayersOptions, StoredWeight, StoredWeights};

fn numbers(n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.71 + phase).sin() * 0.8).collect()
}

fn stored(name: &str, shape: &[usize], data: Vec<f32>) -> StoredWeight {
    let value = Tensor::new(shape, data).unwrap();
    StoredWeight { name: name.to_owned(), value: Constant::new(value.dtype().to_proto(), value) }
}

fn predict(version: &str, backend: &str, layer: Value, weights: Vec<StoredWeight>, x: &Tensor) -> Vec<f32> {
    let topology = json!({"keras_version": version, "backend": backend,
        "model_config": {"class_name": "Sequential", "config": [layer]}});
    let weights = StoredWeights::ByLayer(vec![("a".to_owned(), weights)]);
    let model = LayersModel::new(&topology, &weights, &LayersOptions::default()).unwrap();
    model.predict(x.clone()).unwrap()[0].data::<f32>().unwrap().to_vec()
}

#[test]
fn gates_of_an_lstm_that_are_stored_apart_are_joined() {
    let (k, r, b) = (numbers(2 * 12, 0.1), numbers(3 * 12, 0.2), numbers(12, 0.3));
    let x = Tensor::new([2, 4, 2], numbers(16, 0.5)).unwrap();
    let new = json!({"class_name": "LSTM", "config": {"name": "a", "units": 3, "activation": "tanh",
        "recurrent_activation": "hard_sigmoid", "batch_input_shape": [null, 4, 2]}});
    let whole = vec![
        stored("a/kernel", &[2, 12], k.clone()),
        stored("a/recurrent_kernel", &[3, 12], r.clone()),
        stored("a/bias", &[12], b.clone()),
    ];
    let expected = predict("2.1.0", "tensorflow", new, whole, &x);
    let old = json!({"class_name": "LSTM", "config": {"name": "a", "output_dim": 3, "activation": "tanh",
        "inner_activation": "hard_sigmoid", "init": "glorot_uniform", "inner_init": "orthogonal", "forget_bias_init": "one",
        "W_regularizer": null, "dropout_W": 0.0, "consume_less": "cpu", "batch_input_shape": [null, 4, 2]}});
    let cut = |data: &[f32], rows: usize, gate: usize| -> Vec<f32> {
        (0..rows).flat_map(|row| data[row * 12 + gate * 3..row * 12 + gate * 3 + 3].to_vec()).collect()
    };
    // Keras 1 stores input, candidate, forget, output; Keras 2 joins input, forget, candidate, output.
    let mut apart = Vec::new();
    for (name, gate) in [("i", 0), ("c", 2), ("f", 1), ("o", 3)] {
        apart.push(stored(&format!("a_W_{name}"), &[2, 3], cut(&k, 2, gate)));
        apart.push(stored(&format!("a_U_{name}"), &[3, 3], cut(&r, 3, gate)));
        apart.push(stored(&format!("a_b_{name}"), &[3], cut(&b, 1, gate)));
    }
    assert_eq!(predict("1.2.2", "tensorflow", old, apart, &x), expected);
}

#[test]
fn kernels_of_theano_are_turned_round_and_channels_first_ones_transposed() {
    // [rows, columns, in, out] of Keras 2.
    let (rows, columns, inner, out) = (2, 3, 2, 4);
    let kernel = numbers(rows * columns * inner * out, 0.4);
    let bias = numbers(out, 0.9);
    let x = Tensor::new([1, 2, 5, 5], numbers(50, 0.2)).unwrap();
    let new = json!({"class_name": "Conv2D", "config": {"name": "a", "filters": 4, "kernel_size": [2, 3],
        "data_format": "channels_first", "padding": "valid", "batch_input_shape": [null, 2, 5, 5]}});
    let weights =
        vec![stored("a/kernel", &[2, 3, 2, 4], kernel.clone()), stored("a/bias", &[4], bias.clone())];
    let expected = predict("2.1.0", "tensorflow", new, weights, &x);
    let old = json!({"class_name": "Convolution2D", "config": {"name": "a", "nb_filter": 4, "nb_row": 2, "nb_col": 3,
        "dim_ordering": "th", "border_mode": "valid", "subsample": [1, 1], "bias": true, "init": "uniform",
        "batch_input_shape": [null, 2, 5, 5]}});
    // [out, in, rows, columns], both axes of space in the opposite direction.
    let mut turned = vec![0.0; kernel.len()];
    for (at, value) in kernel.iter().enumerate() {
        let (o, rest) = (at % out, at / out);
        let (i, rest) = (rest % inner, rest / inner);
        let (c, r) = (rest % columns, rest / columns);
        turned[((o * inner + i) * rows + (rows - 1 - r)) * columns + (columns - 1 - c)] = *value;
    }
    let weights = vec![stored("a_W", &[4, 2, 2, 3], turned), stored("a_b", &[4], bias)];
    assert_eq!(predict("1.2.2", "theano", old, weights, &x), expected);
}
