//! What tests of losses and metrics share.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{fmt::Write, fs, path::Path};

use serde_json::Value;
use tfjs_kernels::Tensor;

/// Classes of losses.
pub(crate) const LOSSES: &[&str] = &[
    "MeanSquaredError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredLogarithmicError",
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "SparseCategoricalCrossentropy",
    "Hinge",
    "SquaredHinge",
    "CategoricalHinge",
    "KLDivergence",
    "Poisson",
    "LogCosh",
    "CosineSimilarity",
    "Huber",
    "Tversky",
    "Dice",
    "CTC",
    "CategoricalGeneralizedCrossEntropy",
    "Circle",
];

pub(crate) fn tensor(json: &Value) -> Tensor {
    let shape: Vec<usize> =
        json["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let data = json["data"].as_array().unwrap();
    match json["dtype"].as_str().unwrap() {
        "float32" => {
            let number = |v: &Value| tfjs_layers::number(v).unwrap() as f32;
            Tensor::new(shape, data.iter().map(number).collect::<Vec<f32>>()).unwrap()
        }
        "int32" => Tensor::new(shape, data.iter().map(|v| v.as_i64().unwrap() as i32).collect()).unwrap(),
        "bool" => Tensor::new(shape, data.iter().map(|v| v.as_bool().unwrap()).collect()).unwrap(),
        other => panic!("type {other}"),
    }
}

pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let _ = write!(text, ": {s}");
        source = s.source();
    }
    text
}

/// Float32: Keras computes with another order of sums and other elementary functions.
pub(crate) fn close(got: &Tensor, want: &Tensor, rtol: f32, atol: f32) -> Result<(), String> {
    if got.dims() != want.dims() {
        return Err(format!("shape {}, expected {}", got.shape(), want.shape()));
    }
    let (got, want) = (got.data::<f32>().unwrap(), want.data::<f32>().unwrap());
    for (i, (&a, &b)) in got.iter().zip(want).enumerate() {
        let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= atol + rtol * b.abs();
        if !same {
            return Err(format!("number {i} is {a}, expected {b}"));
        }
    }
    Ok(())
}

pub(crate) fn lines(name: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fixtures/training/{name}.ndjson"));
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs all lines of a file and names all that fail.
pub(crate) fn all(name: &str, run: impl Fn(&Value) -> Result<(), String>) {
    let wanted = std::env::var("CASES").unwrap_or_default();
    let mut failed = String::new();
    for (i, case) in lines(name).iter().enumerate() {
        if !case.to_string().contains(&wanted) {
            continue;
        }
        if let Err(problem) = run(case) {
            let what = case.get("loss").or(case.get("metric")).map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(failed, "{name}:{} {what}: {problem}", i + 1);
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}
