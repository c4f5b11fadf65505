//! Metrics over several batches against Keras: every line of `fixtures/training/metrics_*.ndjson` is one, of tf_keras 2.19 or
//! Keras 3.15. `fixtures/make/losses_metrics.py` makes them. `CASES=text` chooses those that hold it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{chain, lines, tensor};
use serde_json::{Value, json};
use tfjs_graph::{Fact, GraphModel, ModelOptions, Port};
use tfjs_kernels::{
    DType, Tensor,
    binary::{BinaryOp, binary},
};
use tfjs_layers::{Dialect, Emit, Loss, Metric, Params, Sym};

/// The increments of a batch.
fn update(
    metric: &Metric,
    case: &Value,
    batch: &Value,
    weighted: bool,
    dialect: Dialect,
) -> Result<Vec<Tensor>, String> {
    let mut g = Emit::new(Params::default(), dialect);
    let mut fed = Vec::new();
    let mut input = |g: &mut Emit, name: &str| -> Option<Port> {
        let value = tensor(batch.get(name)?);
        let mut dims: Vec<Option<usize>> = value.dims().iter().map(|&d| Some(d)).collect();
        dims[0] = None;
        let port = g.builder().placeholder(name, value.dtype(), &dims);
        fed.push((name.to_owned(), value));
        Some(port)
    };
    let (y, x) = (input(&mut g, "y").unwrap(), input(&mut g, "x").unwrap());
    let mask = input(&mut g, "mask");
    let weight = if weighted { input(&mut g, "weight") } else { None };
    let p = if case["through"] == "softmax" { g.unary("Softmax", x).unwrap() } else { x };
    metric.check(&g.fact(y).clone(), &g.fact(p).clone()).map_err(|e| chain(&e))?;
    let state = metric.update(&mut g, y, Sym::masked(p, mask), weight).map_err(|e| chain(&e))?;
    let names: Vec<String> = (0..state.len()).map(|i| format!("state{i}")).collect();
    for (name, &port) in names.iter().zip(&state) {
        // Both may be one node.
        let port = g.unary("Identity", port).map_err(|e| chain(&e))?;
        g.builder().output(name, port);
    }
    let model = GraphModel::from_graph(g.finish().graph, ModelOptions::default());
    let out = model.run(fed.iter().map(|(n, v)| (n.as_str(), v.clone()))).map_err(|e| chain(&e))?;
    Ok(names.iter().map(|n| out[n.as_str()].clone()).collect())
}

fn run(case: &Value, dialect: Dialect) -> Result<(), String> {
    let metric = Metric::from_config(&case["metric"], dialect).map_err(|e| chain(&e))?;
    if metric.name() != case["name"].as_str().unwrap() {
        return Err(format!("its name is {}, expected {}", metric.name(), case["name"]));
    }
    for kind in ["results", "weighted"] {
        if case.get(kind).is_some() {
            stream(&metric, case, kind, dialect).map_err(|e| format!("{kind} {e}"))?;
        }
    }
    let again = Metric::from_config(&metric.config(), dialect).map_err(|e| chain(&e))?;
    if again != metric { Err(format!("it comes back as {}", again.config())) } else { Ok(()) }
}

/// Batch by batch.
fn stream(metric: &Metric, case: &Value, kind: &str, dialect: Dialect) -> Result<(), String> {
    let mut totals: Vec<Tensor> = Vec::new();
    let batches = case["batches"].as_array().unwrap().iter().zip(case[kind].as_array().unwrap());
    for (i, (batch, want)) in batches.enumerate() {
        let more = update(metric, case, batch, kind == "weighted", dialect)?;
        totals = if totals.is_empty() {
            more
        } else {
            let sums = totals.into_iter().zip(more).map(|(a, b)| binary(BinaryOp::Add, a, b).unwrap());
            sums.collect()
        };
        let got = metric.results(&totals).map_err(|e| chain(&e))?;
        let want: Vec<f64> =
            want.as_array().unwrap().iter().map(|v| tfjs_layers::number(v).unwrap()).collect();
        // Keras sums in float32.
        let same = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-5 * b.abs() + 2e-6 || a.is_nan() && b.is_nan();
        if got.len() != want.len() || !got.iter().zip(&want).all(same) {
            return Err(format!("after batch {i}: {got:?}, expected {want:?}"));
        }
    }
    Ok(())
}

#[test]
fn metrics_of_keras_2_are_those_of_tf_keras() {
    common::all("metrics_keras2", |case| run(case, Dialect::Keras2));
}

#[test]
fn metrics_of_keras_3_are_those_of_keras() {
    common::all("metrics_keras3", |case| run(case, Dialect::Keras3));
}

#[test]
fn every_metric_has_a_case() {
    let all = ["metrics_keras2", "metrics_keras3"].map(lines).concat();
    let covered: Vec<&str> = all
        .iter()
        .map(|case| Metric::from_config(&case["metric"], Dialect::Keras3).unwrap().class_name())
        .collect();
    let error = Metric::try_from("?").unwrap_err();
    let tfjs_layers::LayersError::UnknownName { known, .. } = error else { panic!("{error}") };
    // What cannot be compiled into a model of Keras.
    let plain = ["Mean", "Sum", "MeanTensor"];
    for class in known.into_iter().filter(|name| name.starts_with(char::is_uppercase)) {
        assert!(covered.contains(&class) || plain.contains(&class), "{class} has no case");
    }
}

#[test]
fn names_are_those_in_keras_logs() {
    let name = |word: &str, dialect| Metric::from_config(&json!(word), dialect).unwrap().name().into_owned();
    assert_eq!(name("acc", Dialect::Keras2), "acc");
    assert_eq!(name("accuracy", Dialect::Keras3), "accuracy");
    assert_eq!(name("accuracy", Dialect::Tfjs), "acc");
    assert_eq!(name("crossentropy", Dialect::Tfjs), "ce");
    assert_eq!(name("mse", Dialect::Keras2), "mse");
    assert_eq!(name("MeanSquaredError", Dialect::Keras2), "mean_squared_error");
    assert_eq!(name("MeanSquaredError", Dialect::Keras3), "MeanSquaredError");
    assert_eq!(name("AUC", Dialect::Keras2), "auc");
    assert_eq!(Metric::Accuracy.name(), "accuracy");
    assert_eq!(Metric::MeanIoU.name(), "mean_io_u");
    assert_eq!(Metric::from(Loss::Huber).name(), "huber_loss");
}

#[test]
fn plain_means_and_sums_are_of_the_predictions() {
    let case = json!({});
    let x = json!({"dtype": "float32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]});
    let weight = json!({"dtype": "float32", "shape": [2], "data": [1.0, 3.0]});
    let batch = json!({"y": x, "x": x, "weight": weight});
    let result = |metric: &Metric| {
        metric.results(&update(metric, &case, &batch, true, Dialect::Keras2).unwrap()).unwrap()
    };
    assert_eq!(result(&Metric::Sum), [24.0]);
    assert_eq!(result(&Metric::Mean), [3.0]);
    assert_eq!(result(&Metric::MeanTensor), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_step() {
    let fact = |dims: &[usize]| {
        let mut shape: Vec<Option<usize>> = dims.iter().map(|&d| Some(d)).collect();
        shape[0] = None;
        Fact::new(DType::Float32, Some(shape))
    };
    let check = |m: &Metric, y: &[usize], p: &[usize]| chain(&m.check(&fact(y), &fact(p)).unwrap_err());
    let text = check(&Metric::MeanIoU, &[8, 5], &[8, 5]);
    assert!(text.contains("num_classes"), "{text}");
    let text = check(&Metric::SensitivityAtSpecificity, &[8, 1], &[8, 1]);
    assert!(text.contains("specificity"), "{text}");
    let text = check(&Metric::Precision.with("class_id", 7).unwrap(), &[8, 3], &[8, 3]);
    assert!(text.contains("class 7"), "{text}");
    let text = check(&Metric::F1Score, &[8, 3, 2], &[8, 3, 2]);
    assert!(text.contains("(batch, outputs)"), "{text}");
    let text = chain(&Metric::try_from("acuracy").unwrap_err());
    assert!(text.contains("did you mean"), "{text}");
    assert!(
        Metric::AUC
            .with("curve", "XY")
            .unwrap()
            .result(&vec![Tensor::zeros(DType::Float32, [200]).unwrap(); 4])
            .is_err()
    );
    assert!(Metric::MeanSquaredError.result(&[]).is_err());
}
