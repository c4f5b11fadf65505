//! Single operations against the results of a TensorFlow session; `fixtures/make/op_cases.py` describes the files.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{collections::HashMap, error::Error, fs, path::Path};

use num_complex::Complex32;
use serde_json::{Value, json};
use tfjs_format::ModelJson;
use tfjs_graph::{Constant, DType, GraphModel, ModelOptions, Tensor};
use tfjs_kernels::{Element, TensorOf, TfString};

#[test]
fn arithmetic_agrees_with_tensorflow() {
    check_family("arithmetic");
}

#[test]
fn elementwise_ops_agree_with_tensorflow() {
    check_family("elementwise");
}

#[test]
fn shape_ops_agree_with_tensorflow() {
    check_family("shapes");
}

#[test]
fn indexing_agrees_with_tensorflow() {
    check_family("indexing");
}

#[test]
fn reductions_agree_with_tensorflow() {
    check_family("reductions");
}

#[test]
fn contractions_agree_with_tensorflow() {
    check_family("contractions");
}

#[test]
fn convolutions_agree_with_tensorflow() {
    check_family("convolutions");
}

#[test]
fn string_ops_agree_with_tensorflow() {
    check_family("strings");
}

fn check_family(name: &str) {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/ops").join(name).with_extension("ndjson");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut failures = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        // As in a real model, with constants that are packed or folded; and as it stands, with everything fed.
        for as_model in [true, false] {
            if let Err(reason) = check_case(&case, as_model) {
                let how = if as_model { "" } else { ", all inputs fed" };
                failures.push(format!("{}{how}: {reason}", case["id"].as_str().unwrap()));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn check_case(case: &Value, as_model: bool) -> Result<(), String> {
    let mut nodes = Vec::new();
    let (mut fed, mut constants) = (Vec::new(), HashMap::new());
    for (i, entry) in items(&case["in"]).iter().enumerate() {
        let name = format!("input{i}");
        let value = tensor(entry);
        let dtype = json!({"type": proto_type(value.dtype())});
        if as_model && entry["const"] == true {
            let empty = json!({"tensor": {"dtype": dtype["type"]}});
            nodes.push(json!({"name": name, "op": "Const", "attr": {"dtype": dtype, "value": empty}}));
            constants.insert(name, Constant::new(value.dtype().to_proto(), value));
        } else {
            nodes.push(json!({"name": name, "op": "Placeholder", "attr": {"dtype": dtype}}));
            fed.push((name, value));
        }
    }
    let inputs: Vec<_> = (0..nodes.len()).map(|i| format!("input{i}")).collect();
    nodes.push(json!({"name": "node", "op": case["op"], "input": inputs, "attr": case["attr"]}));
    let wanted: Vec<_> = items(&case["out"]).iter().enumerate().filter(|(_, o)| !o.is_null()).collect();
    let names: Vec<_> = wanted.iter().map(|(i, _)| format!("node:{i}")).collect();

    let got = run(nodes, &constants, fed, &names, as_model).map_err(|e| chain(&*e))?;
    for ((i, want), got) in wanted.iter().zip(got) {
        compare(&got, &tensor(want), &case["tol"]).map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(())
}

fn run(
    nodes: Vec<Value>,
    constants: &HashMap<String, Constant>,
    fed: Vec<(String, Tensor)>,
    outputs: &[String],
    optimize: bool,
) -> Result<Vec<Tensor>, Box<dyn Error>> {
    let graph = json!({"node": nodes, "versions": {"producer": 2129}});
    let manifest = json!([{"paths": [], "weights": []}]);
    let json = json!({"format": "graph-model", "modelTopology": graph, "weightsManifest": manifest});
    let model = ModelJson::parse(json.to_string().as_bytes())?;
    let weights = |name: &str| constants.get(name).cloned();
    let options = ModelOptions { optimize, ..ModelOptions::default() };
    let model = GraphModel::from_json(&model, &weights, options)?;
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    Ok(model.run_for(fed, &outputs)?.into_tensors())
}

/// The messages of an error and its causes.
fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn proto_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Float32 => "DT_FLOAT",
        DType::Int32 => "DT_INT32",
        DType::Bool => "DT_BOOL",
        DType::String => "DT_STRING",
        DType::Complex64 => "DT_COMPLEX64",
    }
}

fn tensor(entry: &Value) -> Tensor {
    let shape: Vec<usize> = items(&entry["shape"]).iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let data = items(&entry["data"]);
    match entry["dtype"].as_str().unwrap() {
        "float32" => Tensor::new(shape, data.iter().map(float).collect()),
        "int32" => Tensor::new(shape, data.iter().map(|v| v.as_i64().unwrap() as i32).collect()),
        "bool" => Tensor::new(shape, data.iter().map(|v| v.as_bool().unwrap()).collect()),
        "string" => Tensor::new(shape, data.iter().map(|v| TfString::from(v.as_str().unwrap())).collect()),
        "complex64" => {
            Tensor::new(shape, data.chunks(2).map(|c| Complex32::new(float(&c[0]), float(&c[1]))).collect())
        }
        other => panic!("dtype {other}"),
    }
    .unwrap()
}

fn float(value: &Value) -> f32 {
    match value.as_str() {
        Some("NaN") => f32::NAN,
        Some("Infinity") => f32::INFINITY,
        Some("-Infinity") => f32::NEG_INFINITY,
        _ => value.as_f64().unwrap() as f32,
    }
}

fn compare(got: &Tensor, want: &Tensor, tolerance: &Value) -> Result<(), String> {
    if got.dtype() != want.dtype() || got.dims() != want.dims() {
        let show = |t: &Tensor| format!("{}{:?}", t.dtype(), t.dims());
        return Err(format!("{} instead of {}", show(got), show(want)));
    }
    let (rtol, atol) = (tolerance[0].as_f64().unwrap(), tolerance[1].as_f64().unwrap());
    let near = |a: f32, b: f32| {
        a == b
            || (a.is_nan() && b.is_nan())
            || (f64::from(a) - f64::from(b)).abs() <= atol + rtol * f64::from(b).abs()
    };
    match (got, want) {
        (Tensor::F32(a), Tensor::F32(b)) => elements(a, b, |a, b| near(*a, *b)),
        (Tensor::C64(a), Tensor::C64(b)) => elements(a, b, |a, b| near(a.re, b.re) && near(a.im, b.im)),
        _ if got == want => Ok(()),
        _ => Err(format!("{got:?} instead of {want:?}")),
    }
}

fn elements<T: Element>(
    got: &TensorOf<T>,
    want: &TensorOf<T>,
    same: impl Fn(&T, &T) -> bool,
) -> Result<(), String> {
    let pairs = got.data().iter().zip(want.data());
    match pairs.enumerate().find(|(_, (a, b))| !same(a, b)) {
        None => Ok(()),
        Some((i, (a, b))) => Err(format!("[{i}] is {a:?}, expected {b:?}")),
    }
}
