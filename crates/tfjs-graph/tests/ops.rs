//! Operations and small graphs against the results of a TensorFlow session, on every instruction set of this CPU;
//! `fixtures/make/op_case.py` describes the files.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error,
    fs,
    path::Path,
};

use num_complex::Complex32;
use serde_json::{Value, json};
use tfjs_format::ModelJson;
use tfjs_graph::{Constant, DType, GraphModel, ModelOptions, Tensor, builtin, ops};
use tfjs_kernels::{Element, Isa, TensorOf, TfString};

/// Ops that TensorFlow cannot be asked about, and what holds them instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "_SequenceRNN",
        "our own: tests/cases.rs of tfjs-layers against Keras, central differences in tests/gradients",
    ),
    ("_SequenceRNNGrad", "its gradient"),
    ("_SequenceGRU", "as _SequenceRNN"),
    ("_SequenceGRUGrad", "its gradient"),
    ("_SequenceLSTM", "as _SequenceRNN"),
    ("_SequenceLSTMGrad", "its gradient"),
    ("_Gelu", "our own: `activations_match_tensorflow` in tfjs-kernels"),
    ("_GeluTanh", "as _Gelu"),
    ("_HardSigmoid", "as _Gelu"),
    ("_HardSwish", "as _Gelu"),
    ("_Swish", "as _Gelu"),
    ("_Attention", "our own: against what it stands for in src/passes/blocks/tests.rs"),
    ("_Dense", "as _Attention"),
    ("_LayerNorm", "as _Attention"),
];

#[test]
fn portable_code_agrees_with_tensorflow() {
    check_on(Isa::Scalar);
}

#[test]
fn avx2_agrees_with_tensorflow() {
    check_on(Isa::Avx2);
}

#[test]
fn avx512_agrees_with_tensorflow() {
    check_on(Isa::Avx512);
}

#[test]
fn neon_agrees_with_tensorflow() {
    check_on(Isa::Neon);
}

#[test]
fn every_registered_op_has_a_case_or_a_reason() {
    let cases = cases();
    let covered: BTreeSet<&str> = cases
        .iter()
        .flat_map(|c| match c.get("covers") {
            Some(ops) => items(ops).iter().collect(),
            None => vec![&c["op"]],
        })
        .map(|op| op.as_str().unwrap())
        .collect();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(op, _)| *op).collect();
    let registered = ops::families().flat_map(|(_, defs)| defs).map(|d| d.name);
    let missing: Vec<&str> =
        registered.filter(|op| !covered.contains(op) && !elsewhere.contains(op)).collect();
    assert!(missing.is_empty(), "{} without a case in fixtures/make/op_families: {missing:?}", missing.len());
    let needless: Vec<&&str> =
        elsewhere.iter().filter(|op| covered.contains(**op) || builtin(op).is_none()).collect();
    assert!(needless.is_empty(), "has a case, or is not an op: {needless:?}");
}

/// `ops/dtypes.txt`: the types of the input that gives an op its type, in cases and in trials with other types.
#[test]
fn types_that_ops_take_are_those_listed() {
    let words = include_str!("../src/ops/type_attrs.txt");
    let attrs: HashMap<&str, Vec<&str>> = words
        .lines()
        .filter_map(|l| l.split_once(' '))
        .map(|(op, words)| (op, words.split(' ').map(|w| w.rsplit('*').next().unwrap()).collect()))
        .collect();
    let mut types: BTreeMap<String, BTreeSet<DType>> = BTreeMap::new();
    for case in cases().iter().filter(|c| c.get("op").is_some() && c.get("error").is_none()) {
        let op = case["op"].as_str().unwrap();
        let words = attrs.get(op).cloned().unwrap_or_default();
        let main = words.iter().position(|w| *w == "T").or_else(|| words.iter().position(|w| *w != "."));
        let at = main.unwrap_or(0);
        let Some(given) = items(&case["in"]).get(at).map(|i| tensor(i).dtype()) else { continue };
        let taken = types.entry(op.to_owned()).or_default();
        taken.insert(given);
        for dtype in [DType::Float32, DType::Int32, DType::Bool, DType::String, DType::Complex64] {
            if main.is_some() && !taken.contains(&dtype) && takes(case, &words, at, dtype) {
                taken.insert(dtype);
            }
        }
    }
    let line = |(op, types): (&String, &BTreeSet<DType>)| {
        let names: Vec<_> = types.iter().map(|t| t.name()).collect();
        format!("{op} {}\n", names.join(" "))
    };
    let text: String = types.iter().map(line).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops/dtypes.txt");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &text).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap() == text, "src/ops/dtypes.txt is not up to date: UPDATE_DOCS=1");
}

/// Whether a case runs when its inputs of one type attribute have another type.
fn takes(case: &Value, words: &[&str], at: usize, dtype: DType) -> bool {
    let mut case = case.clone();
    let of = |i: usize| words.get(i).or(words.last());
    let given = case["in"][at]["dtype"].clone();
    for i in 0..items(&case["in"]).len() {
        if of(i) != of(at) || case["in"][i]["dtype"] != given {
            continue;
        }
        let entry = &mut case["in"][i];
        let parts = if given == "complex64" { 2 } else { 1 };
        let number = |v: &Value| if v.is_number() { float(v) } else { 1.0 };
        let numbers: Vec<f32> = items(&entry["data"]).iter().step_by(parts).map(number).collect();
        entry["dtype"] = json!(dtype.name());
        entry["data"] = match dtype {
            DType::Float32 => json!(numbers),
            DType::Int32 => json!(numbers.iter().map(|x| *x as i32).collect::<Vec<_>>()),
            DType::Bool => json!(numbers.iter().map(|x| *x > 0.0).collect::<Vec<_>>()),
            DType::String => json!(numbers.iter().map(|x| x.to_string()).collect::<Vec<_>>()),
            DType::Complex64 => json!(numbers.iter().flat_map(|x| [*x, 0.5]).collect::<Vec<_>>()),
        };
    }
    if let Some(attr) = case["attr"].get_mut(words[at]) {
        *attr = json!({"type": proto_type(dtype)});
    }
    case["out"] = json!([{}]);
    outputs(&case, false).is_ok()
}

fn cases() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/ops");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check_on(isa: Isa) {
    if !isa.is_available() {
        return;
    }
    let mut failures = Vec::new();
    for case in cases() {
        // As in a real model, with constants that are packed or folded; and as it stands, with everything fed.
        for as_model in [true, false] {
            if let Err(reason) = isa.scope(|| check_case(&case, as_model)).unwrap() {
                let how = if as_model { "" } else { ", all inputs fed" };
                failures.push(format!("{}{how}: {reason}", case["id"].as_str().unwrap()));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed on {isa}:\n{}", failures.len(), failures.join("\n"));
}

fn check_case(case: &Value, as_model: bool) -> Result<(), String> {
    let got = outputs(case, as_model);
    if case["error"] == true {
        return match got {
            Ok(got) => Err(format!("{got:?} instead of an error")),
            Err(e) if e.contains("`node`") => Ok(()),
            Err(e) => Err(format!("the error does not name the node: {e}")),
        };
    }
    let wanted = items(&case["out"]).iter().enumerate().filter(|(_, o)| !o.is_null());
    for ((i, want), got) in wanted.zip(got?) {
        compare(&got, &tensor(want), &case["tol"]).map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(())
}

/// What comes out where the case has a value.
fn outputs(case: &Value, as_model: bool) -> Result<Vec<Tensor>, String> {
    let is_graph = case.get("graph").is_some();
    let (mut nodes, mut fed, mut constants) = (Vec::new(), Vec::new(), HashMap::new());
    for (i, entry) in items(&case["in"]).iter().enumerate() {
        let name = entry["name"].as_str().map_or_else(|| format!("input{i}"), str::to_owned);
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
    let outs = case["out"].as_array().map_or(&[][..], Vec::as_slice);
    let wanted: Vec<_> = outs.iter().enumerate().filter(|(_, o)| !o.is_null()).collect();
    let (graph, fetch) = if is_graph {
        let fetch = items(&case["fetch"]);
        (case["graph"].clone(), wanted.iter().map(|(i, _)| fetch[*i].as_str().unwrap().to_owned()).collect())
    } else {
        let inputs: Vec<_> = (0..nodes.len()).map(|i| format!("input{i}")).collect();
        nodes.push(json!({"name": "node", "op": case["op"], "input": inputs, "attr": case["attr"]}));
        let fetch = if case["error"] == true {
            vec!["node:0".to_owned()]
        } else {
            wanted.iter().map(|(i, _)| format!("node:{i}")).collect()
        };
        (json!({"node": nodes}), fetch)
    };
    run(graph, &constants, fed, &fetch, as_model).map_err(|e| chain(&*e))
}

fn run(
    mut graph: Value,
    constants: &HashMap<String, Constant>,
    fed: Vec<(String, Tensor)>,
    outputs: &[String],
    optimize: bool,
) -> Result<Vec<Tensor>, Box<dyn Error>> {
    graph["versions"] = json!({"producer": 2129});
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
        "string" => Tensor::new(shape, data.iter().map(string).collect()),
        "complex64" => {
            Tensor::new(shape, data.chunks(2).map(|c| Complex32::new(float(&c[0]), float(&c[1]))).collect())
        }
        other => panic!("dtype {other}"),
    }
    .unwrap()
}

fn string(value: &Value) -> TfString {
    match value.as_str() {
        Some(text) => TfString::from(text),
        None => items(&value["bytes"]).iter().map(|b| b.as_u64().unwrap() as u8).collect::<Vec<u8>>().into(),
    }
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
