//! Losses and their gradients: every line of `fixtures/training/losses_*.ndjson` is one, of tf_keras 2.19, Keras 3.15 or
//! TensorFlow.js 4.22. `fixtures/make/losses_metrics.py` and `losses_tfjs.js` make them. `CASES=text` chooses those that hold
//! it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{chain, close, lines, tensor};
use serde_json::{Value, json};
use tfjs_graph::{Fact, GraphModel, ModelOptions, gradients::gradients};
use tfjs_kernels::{DType, Tensor};
use tfjs_layers::{Dialect, Emit, LayersError, Loss, Params, Reduction, Sym};

fn run(case: &Value, dialect: Dialect) -> Result<(), String> {
    let loss = Loss::from_config(&case["loss"], dialect).map_err(|e| chain(&e))?;
    let mut g = Emit::new(Params::default(), dialect);
    let mut fed = Vec::new();
    let mut input = |g: &mut Emit, name: &str| {
        let value = tensor(case.get(name)?);
        let mut dims: Vec<Option<usize>> = value.dims().iter().map(|&d| Some(d)).collect();
        // The size of a batch is not known.
        if dims.len() > 1 || name == "y" {
            dims[0] = None;
        }
        let port = g.builder().placeholder(name, value.dtype(), &dims);
        fed.push((name.to_owned(), value));
        Some(port)
    };
    let (y, x) = (input(&mut g, "y").unwrap(), input(&mut g, "x").unwrap());
    let (mask, weight) = (input(&mut g, "mask"), input(&mut g, "weight"));
    let p = match case["through"].as_str() {
        Some("softmax") => g.unary("Softmax", x).unwrap(),
        Some("sigmoid") => g.unary("Sigmoid", x).unwrap(),
        _ => x,
    };
    let facts = (g.fact(y).clone(), g.fact(p).clone());
    loss.check(&facts.0, &facts.1).map_err(|e| chain(&e))?;
    let value = loss.call(&mut g, y, Sym::masked(p, mask), weight).map_err(|e| chain(&e))?;
    let grad = gradients(g.builder(), value, &[x]).map_err(|e| chain(&e))?[0].unwrap();
    let grad = grad.dense(g.builder()).map_err(|e| chain(&e))?;
    g.builder().output("value", value);
    g.builder().output("grad", grad);
    let model = GraphModel::from_graph(g.finish().graph, ModelOptions::default());
    let out = model.run(fed.iter().map(|(n, v)| (n.as_str(), v.clone()))).map_err(|e| chain(&e))?;
    close(&out["value"], &tensor(&case["value"]), 2e-5, 2e-6).map_err(|e| format!("value: {e}"))?;
    if let Some(grad) = case.get("grad") {
        close(&out["grad"], &tensor(grad), 5e-5, 2e-6).map_err(|e| format!("gradient: {e}"))?;
    }
    let again = Loss::from_config(&loss.config(), dialect).map_err(|e| chain(&e))?;
    if again != loss {
        return Err(format!("it comes back as {}", again.config()));
    }
    Ok(())
}

#[test]
fn losses_of_keras_2_and_their_gradients_are_those_of_tf_keras() {
    common::all("losses_keras2", |case| run(case, Dialect::Keras2));
}

#[test]
fn losses_of_keras_3_and_their_gradients_are_those_of_keras() {
    common::all("losses_keras3", |case| run(case, Dialect::Keras3));
}

#[test]
fn losses_of_tensorflow_js_and_their_gradients_are_its_own() {
    common::all("losses_tfjs", |case| run(case, Dialect::Tfjs));
}

#[test]
fn every_loss_has_a_case() {
    let cases = lines("losses_keras3");
    let covered: Vec<&str> =
        cases.iter().map(|c| Loss::from_config(&c["loss"], Dialect::Keras3).unwrap().class_name()).collect();
    for loss in common::LOSSES {
        assert!(covered.contains(loss), "{loss} has no case");
    }
}

#[test]
fn a_loss_goes_by_every_spelling_of_keras_and_tensorflow_js() {
    for name in ["mse", "MSE", "meanSquaredError", "mean_squared_error", "MeanSquaredError"] {
        assert_eq!(Loss::try_from(name).unwrap().name(), "mean_squared_error", "{name}");
    }
    for name in ["kld", "KLD", "kullback_leibler_divergence", "kullbackLeiblerDivergence", "kl_divergence"] {
        assert_eq!(Loss::try_from(name).unwrap().name(), "kl_divergence", "{name}");
    }
    assert_eq!(Loss::try_from("cosineProximity").unwrap().name(), "cosine_similarity");
    assert_eq!(Loss::try_from("logcosh").unwrap().name(), "log_cosh");
}

#[test]
fn objects_of_keras_2_and_3_are_read() {
    let keras2 = json!({"module": "keras.losses", "class_name": "BinaryCrossentropy", "registered_name": null, "config":
        {"reduction": "auto", "name": "bc", "from_logits": true, "label_smoothing": 0.0, "axis": -1,
         "fn": "binary_crossentropy"}});
    let loss = Loss::from_config(&keras2, Dialect::Keras2).unwrap();
    assert_eq!((loss.name(), loss.get_reduction()), ("bc", Reduction::SumOverBatchSize));
    let function = json!({"module": "builtins", "class_name": "function", "config": "mse", "registered_name": "function"});
    assert_eq!(Loss::from_config(&function, Dialect::Keras3).unwrap().name(), "mse");
    let wrapped = json!({"class_name": "LossFunctionWrapper", "config": {"fn": "huber", "delta": 2.0}});
    assert_eq!(Loss::from_config(&wrapped, Dialect::Keras2).unwrap().config()["config"]["delta"], json!(2.0));
}

#[test]
fn unknown_names_and_options_are_refused_with_the_known_ones() {
    let text = chain(&Loss::try_from("mean_sqared_error").unwrap_err());
    assert!(text.contains("did you mean `mean_squared_error`") && text.contains("poisson"), "{text}");
    let text = chain(&Loss::Huber.with("epsilon", 1.0).unwrap_err());
    assert!(text.contains("delta"), "{text}");
    let text = chain(&Loss::Huber.with("delta", "x").unwrap_err());
    assert!(text.contains("a number"), "{text}");
    let object = json!({"class_name": "MeanSquaredError", "config": {"reduction": "average"}});
    let text = chain(&Loss::from_config(&object, Dialect::Keras3).unwrap_err());
    assert!(text.contains("sum_over_batch_size"), "{text}");
}

#[test]
fn a_loss_that_does_not_fit_the_output_is_refused_before_the_first_step() {
    let fact = |shape: &[usize]| {
        let mut dims: Vec<Option<usize>> = shape.iter().map(|&d| Some(d)).collect();
        dims[0] = None;
        Fact::new(DType::Float32, Some(dims))
    };
    let check = |loss: &Loss, y: &[usize], p: &[usize]| loss.check(&fact(y), &fact(p)).map_err(|e| chain(&e));
    let (categorical, sparse) = (Loss::CategoricalCrossentropy, Loss::SparseCategoricalCrossentropy);
    let text = check(&categorical, &[8, 1], &[8, 10]).unwrap_err();
    assert!(text.contains("(None, 1)") && text.contains("use `sparse_categorical_crossentropy`"), "{text}");
    let text = check(&categorical, &[8], &[8, 10]).unwrap_err();
    assert!(text.contains("use `sparse_categorical_crossentropy`"), "{text}");
    let text = check(&sparse, &[8, 10], &[8, 10]).unwrap_err();
    assert!(text.contains("use `categorical_crossentropy`"), "{text}");
    check(&Loss::BinaryCrossentropy, &[8, 2], &[8, 1]).unwrap_err();
    check(&Loss::MeanSquaredError, &[8, 3], &[8, 4]).unwrap_err();
    check(&Loss::CTC, &[8, 3], &[8, 4]).unwrap_err();
    for (loss, y, p) in [
        (&categorical, &[8usize, 10][..], &[8usize, 10][..]),
        (&sparse, &[8], &[8, 10]),
        (&sparse, &[8, 1], &[8, 10]),
        (&sparse, &[8, 5], &[8, 5, 10]),
        (&sparse, &[8, 5, 1], &[8, 5, 10]),
        (&Loss::BinaryCrossentropy, &[8], &[8, 1]),
        (&Loss::MeanSquaredError, &[8, 1], &[8]),
        (&Loss::MeanSquaredError, &[8], &[8, 1]),
    ] {
        check(loss, y, p).unwrap();
    }
}

#[test]
fn labels_out_of_range_are_named() {
    let loss = Loss::SparseCategoricalCrossentropy;
    loss.check_labels(&Tensor::vector(vec![0i32, 2]), 3).unwrap();
    let error = loss.check_labels(&Tensor::vector(vec![0i32, 3]), 3).unwrap_err();
    assert!(matches!(error, LayersError::Objective { .. }));
    assert!(chain(&error).contains("label 3 (number 1)"), "{}", chain(&error));
    loss.check_labels(&Tensor::vector(vec![-1f32]), 3).unwrap_err();
    loss.check_labels(&Tensor::vector(vec![f32::NAN]), 3).unwrap_err();
    let ignoring = loss.with("ignore_class", -1).unwrap();
    ignoring.check_labels(&Tensor::vector(vec![-1i32, 0]), 3).unwrap();
}
