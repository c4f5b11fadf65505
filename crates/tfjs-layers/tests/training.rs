//! Training: that it goes on where it ended, that what is frozen stays, and what is said of data that do not fit. Numbers
//! are held against Keras in `trajectories.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use serde_json::json;
use tfjs_format::io::MemorySink;
use tfjs_graph::Constant;
use tfjs_kernels::{Tensor, Threads};
use tfjs_layers::{
    Batch, ClassWeight, Compile, FitOptions, LayersModel, LayersOptions, Loss, Metric, Optimizer,
    SaveOptions, StoredWeight, StoredWeights, Validation,
    build::{BatchNormalization, Dense, Dropout, Embedding, GlobalAveragePooling1D, LSTM, Sequential},
    optimizers::Adam,
};

fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    Tensor::new(shape, (0..shape.iter().product()).map(|_| next()).collect::<Vec<f32>>()).unwrap()
}

fn classes(n: usize, of: i32) -> Tensor {
    Tensor::vector((0..n as i32).map(|i| (i * 7 + i / 3) % of).collect::<Vec<i32>>())
}

/// With everything that has a state: an optimizer with moments, moving averages, random numbers.
fn network() -> LayersModel {
    let mut model = Sequential::new()
        .add(Dense::new(6).activation("tanh").input_shape([4]).name("first"))
        .add(BatchNormalization::new().name("norm"))
        .add(Dropout::new(0.3))
        .add(Dense::new(3).activation("softmax").name("last"))
        .build(3)
        .unwrap();
    model.compile(Adam::default(), Loss::SparseCategoricalCrossentropy, [Metric::Accuracy]).unwrap();
    model
}

fn batch(i: u32) -> Batch {
    Batch::new(numbers(&[8, 4], i), classes(8, 3))
}

fn weights(model: &LayersModel) -> Vec<Vec<f32>> {
    let values = model.weights().map(|(_, w)| w.value.as_ref().unwrap().tensor().unwrap());
    values.map(|t| t.data::<f32>().unwrap().to_vec()).collect()
}

fn saved_and_loaded(model: &LayersModel) -> LayersModel {
    let mut sink = MemorySink::default();
    let options = SaveOptions { include_optimizer: true, ..SaveOptions::default() };
    model.save_to(&mut sink, &options).unwrap();
    let mut loaded = LayersModel::load(&sink.into_model().unwrap(), &LayersOptions::default()).unwrap();
    assert!(loaded.restore_training().unwrap());
    loaded
}

#[test]
fn a_training_that_is_saved_goes_on_as_if_it_had_not_ended() {
    for optimizer in ["adam", "adamw", "nadam", "rmsprop", "ftrl"] {
        let mut whole = network();
        let optimizer = Optimizer::from_config(&json!(optimizer), whole.dialect()).unwrap();
        whole.compile(optimizer, Loss::SparseCategoricalCrossentropy, [Metric::Accuracy]).unwrap();
        for i in 0..3 {
            whole.train_on_batch(&batch(i)).unwrap();
        }
        let mut resumed = saved_and_loaded(&whole);
        assert_eq!(resumed.steps(), 3);
        for i in 3..6 {
            let (a, b) =
                (whole.train_on_batch(&batch(i)).unwrap(), resumed.train_on_batch(&batch(i)).unwrap());
            assert_eq!(a, b);
        }
        assert_eq!(weights(&whole), weights(&resumed));
    }
}

#[test]
fn the_same_seed_trains_to_the_same_bits_on_any_number_of_threads() {
    let train = |seed, threads| {
        Threads::new(threads).unwrap().run(|| {
            let mut model = network();
            model.set_seed(seed).unwrap();
            let options = FitOptions { epochs: 3, batch_size: 16, ..FitOptions::default() };
            model.fit(numbers(&[50, 4], 5), classes(50, 3), options).unwrap();
            weights(&model)
        })
    };
    let first = train(1, 1);
    assert_eq!(first, train(1, 1));
    assert_eq!(first, train(1, 2));
    assert_ne!(first, train(2, 1));
}

#[test]
fn frozen_layers_stay_and_a_new_head_learns() {
    let mut model = network();
    model.train_on_batch(&batch(0)).unwrap();
    let mut model = model.with_head("norm", [Dense::new(5).activation("softmax").name("head")], 4).unwrap();
    for layer in ["first", "norm"] {
        model.set_trainable(layer, false).unwrap();
        assert!(!model.is_trainable(layer).unwrap());
    }
    assert_eq!(model.trainable_weights().len(), 2);
    let before = weights(&model);
    model.compile(Optimizer::sgd(0.5), Loss::SparseCategoricalCrossentropy, [Metric::Accuracy]).unwrap();
    let x = numbers(&[40, 4], 9);
    let options = || FitOptions { epochs: 30, ..FitOptions::default() };
    let history = model.fit(x.clone(), classes(40, 5), options()).unwrap();
    let losses = history.get("loss");
    assert!(losses[29] < losses[0], "{losses:?}");
    let after = weights(&model);
    // Kernel and bias of the frozen layer, and all of the batch norm, its statistics included.
    assert_eq!(before[..6], after[..6]);
    assert_ne!(before[6], after[6]);
    // What is frozen stays so in files.
    let loaded = saved_and_loaded(&model);
    assert_eq!(loaded.trainable_weights().len(), 2);
    assert_eq!(weights(&loaded), after);
    // Predictions use the weights as they are now.
    let predicted = model.predict(x.clone()).unwrap();
    assert_eq!(predicted[0].data::<f32>().unwrap(), loaded.predict(x).unwrap()[0].data::<f32>().unwrap());
}

#[test]
fn rows_of_an_embedding_that_do_not_occur_stay_under_plain_descent() {
    let mut model = Sequential::new()
        .add(Embedding::new(10, 4).input_shape([3]).name("words"))
        .add(GlobalAveragePooling1D::new())
        .add(Dense::new(1))
        .build(1)
        .unwrap();
    model.compile(Optimizer::sgd(0.1), "mse", [""; 0]).unwrap();
    let before = weights(&model);
    let x = Tensor::new([2, 3], vec![1i32, 1, 4, 4, 7, 1]).unwrap();
    model.train_on_batch(&Batch::new(x, numbers(&[2, 1], 1))).unwrap();
    let after = weights(&model);
    for row in 0..10 {
        let part = row * 4..row * 4 + 4;
        let same = before[0][part.clone()] == after[0][part];
        assert_eq!(same, ![1, 4, 7].contains(&row), "row {row}");
    }
}

#[test]
fn states_of_recurrent_layers_last_from_step_to_step() {
    let build = |stateful: bool| {
        let lstm = LSTM::new(3).set("stateful", stateful).set("batch_input_shape", json!([2, 4, 2]));
        let mut model = Sequential::new().add(lstm).add(Dense::new(1)).build(2).unwrap();
        model.compile(Optimizer::sgd(0.0), "mse", [""; 0]).unwrap();
        model
    };
    let b = Batch::new(numbers(&[2, 4, 2], 3), numbers(&[2, 1], 4));
    let losses = |mut model: LayersModel| -> Vec<f64> {
        (0..2).map(|_| model.train_on_batch(&b).unwrap().get("loss").unwrap()).collect()
    };
    let (with, without) = (losses(build(true)), losses(build(false)));
    assert_eq!(without[0], without[1]);
    assert_eq!(with[0], without[0]);
    assert_ne!(with[0], with[1]);
}

#[test]
fn losses_of_several_outputs_and_weights_of_samples_add_up() {
    use tfjs_layers::build::Functional;
    let mut f = Functional::new("two");
    let x = f.input("x", [4]);
    let a = f.call(Dense::new(1).name("a"), [x]);
    let b = f.call(Dense::new(1).name("b"), [x]);
    let mut model = f.build([x], [a, b], 5).unwrap();
    let compile = Compile {
        loss: json!({"a": "mse", "b": "mae"}),
        loss_weights: json!({"a": 0.25, "b": 2.0}),
        metrics: json!({"b": ["mse"]}),
        ..Compile::default()
    };
    model.compile_with(Optimizer::sgd(0.0), compile).unwrap();
    let y = numbers(&[6, 1], 2);
    let mut batch =
        Batch { x: vec![numbers(&[6, 4], 1)], y: vec![Some(y.clone()), Some(y)], sample_weight: Vec::new() };
    let logs = model.train_on_batch(&batch).unwrap();
    let value = |name: &str| logs.get(name).unwrap_or_else(|| panic!("no {name} in {logs:?}"));
    let sum = 0.25 * value("a_loss") + 2.0 * value("b_loss");
    assert!((value("loss") - sum).abs() < 1e-6);
    assert!(value("b_mse") > 0.0);
    // No weight at all, no loss.
    batch.sample_weight = vec![Some(Tensor::vector(vec![0f32; 6]))];
    assert_eq!(model.train_on_batch(&batch).unwrap().get("loss"), Some(0.0));
}

#[test]
fn weights_of_classes_are_those_of_their_samples() {
    let mut model = network();
    model.compile(Optimizer::sgd(0.0), Loss::SparseCategoricalCrossentropy, [""; 0]).unwrap();
    model.set_trainable("norm", false).unwrap();
    model.compile(Optimizer::sgd(0.0), Loss::SparseCategoricalCrossentropy, [""; 0]).unwrap();
    let b = batch(1);
    let by_class = b.clone().weighted_by_class(&ClassWeight(BTreeMap::from([(0, 0.5), (2, 3.0)]))).unwrap();
    let each = classes(8, 3)
        .data::<i32>()
        .unwrap()
        .iter()
        .map(|c| [0.5, 1.0, 3.0][*c as usize])
        .collect::<Vec<f32>>();
    let by_sample = b.weighted(Tensor::vector(each));
    assert_eq!(model.test_on_batch(&by_class).unwrap(), model.test_on_batch(&by_sample).unwrap());
}

#[test]
fn a_part_of_the_data_is_kept_for_validation() {
    let mut model = network();
    let options = FitOptions { epochs: 2, validation: Validation::Split(0.25), ..FitOptions::default() };
    let history = model.fit(numbers(&[40, 4], 5), classes(40, 3), options).unwrap();
    assert_eq!(history.names(), ["loss", "accuracy", "val_loss", "val_accuracy"]);
    assert_eq!(history.epochs, [0, 1]);
    let rest = (30 * 4..40 * 4).map(|i| numbers(&[40, 4], 5).data::<f32>().unwrap()[i]).collect::<Vec<f32>>();
    let labels = classes(40, 3).data::<i32>().unwrap()[30..].to_vec();
    let logs = model.evaluate(Tensor::new([10, 4], rest).unwrap(), Tensor::vector(labels)).unwrap();
    assert_eq!(logs.get("loss"), history.get("val_loss").last().copied());
}

#[test]
fn the_layer_that_made_no_number_is_named() {
    let mut model = network();
    model.set_weight("last/bias", Tensor::vector(vec![f32::NAN, 0.0, 0.0])).unwrap();
    model.train_on_batch(&batch(0)).unwrap();
    assert_eq!(model.first_bad_layer(), Some("last"));
    let mut model = network();
    model.set_weight("first/kernel", Tensor::new([4, 6], vec![f32::INFINITY; 24]).unwrap()).unwrap();
    model.train_on_batch(&batch(0)).unwrap();
    // tanh makes ±1 of infinities and no number of their difference.
    assert_eq!(model.first_bad_layer(), Some("first"));
}

#[test]
fn data_that_do_not_fit_are_refused_and_change_nothing() {
    let mut model = network();
    let before = weights(&model);
    let x = || numbers(&[8, 4], 0);
    let refused = [
        (Batch::new(numbers(&[8, 5], 0), classes(8, 3)), "has shape [8, 5]"),
        (Batch::new(x(), classes(7, 3)), "same number of samples"),
        (Batch::new(x(), Tensor::vector(vec![3i32; 8])), "3"),
        (Batch { x: vec![x(), x()], ..Batch::new(x(), classes(8, 3)) }, "takes 1 inputs"),
        (Batch { y: Vec::new(), ..Batch::new(x(), classes(8, 3)) }, "labels for 1 outputs are needed"),
        (Batch::new(x(), Tensor::vector(vec![tfjs_kernels::TfString::from("a"); 8])), "str"),
    ];
    for (batch, expected) in refused {
        let message = chain(&model.train_on_batch(&batch).unwrap_err());
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert_eq!(weights(&model), before);
    }
    let unknown = model.compile(Optimizer::sgd(0.1), "mean_square_error", [""; 0]).unwrap_err();
    assert!(chain(&unknown).contains("mean_squared_error"), "{unknown}");
    let mut fresh = Sequential::new().add(Dense::new(1).input_shape([4])).build(1).unwrap();
    assert!(fresh.train_on_batch(&batch(0)).unwrap_err().to_string().contains("not compiled"));
}

/// What tf_keras 2.19 predicts with the same weights, which its own files cannot be asked for.
#[test]
fn virtual_batches_are_for_training_alone() {
    let config = json!({"name": "norm", "trainable": true, "axis": [2], "momentum": 0.99, "epsilon": 0.001,
        "virtual_batch_size": 2});
    let topology = json!({"class_name": "Sequential", "keras_version": "2.19.0", "config": {"name": "model", "layers": [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [null, 3], "dtype": "float32", "name": "x"}},
        {"class_name": "BatchNormalization", "config": config}]}});
    let weight = |name: &str, values: [f32; 3]| {
        let value = Tensor::new([1, 1, 3], values.to_vec()).unwrap();
        StoredWeight { name: name.to_owned(), value: Constant::new(value.dtype().to_proto(), value) }
    };
    let weights = vec![
        weight("norm/gamma:0", [1.0, 2.0, 0.5]),
        weight("norm/beta:0", [0.0, 1.0, -1.0]),
        weight("norm/moving_mean:0", [0.5, -0.5, 1.0]),
        weight("norm/moving_variance:0", [1.0, 4.0, 0.25]),
    ];
    let stored = StoredWeights::ByLayer(vec![("norm".to_owned(), weights)]);
    let mut model = LayersModel::new(&topology, &stored, &LayersOptions::default()).unwrap();
    let expected = [0.4997502, 3.4996877, 0.996012, -0.4997502, 0.50006247, -1.499003];
    let x = || Tensor::new([2, 3], vec![1f32, 2.0, 3.0, 0.0, -1.0, 0.5]).unwrap();
    let check = |model: &LayersModel| {
        let y = model.predict(x()).unwrap();
        for (got, expected) in y[0].data::<f32>().unwrap().iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{got} is not {expected}");
        }
    };
    check(&model);
    let mut sink = MemorySink::default();
    model.save_to(&mut sink, &SaveOptions { lower: true, ..SaveOptions::default() }).unwrap();
    let lowered = LayersModel::load(&sink.into_model().unwrap(), &LayersOptions::default()).unwrap();
    assert!(lowered.weights().all(|(_, w)| w.shape == [3]));
    check(&lowered);
    model.compile(Optimizer::sgd(0.1), Loss::MeanSquaredError, [""; 0]).unwrap();
    let odd = Batch::new(numbers(&[5, 3], 0), numbers(&[5, 3], 1));
    let message = chain(&model.train_on_batch(&odd).unwrap_err());
    assert!(message.contains("a batch of 5 cannot be divided by `virtual_batch_size` 2"), "{message}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}
