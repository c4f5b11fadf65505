//! Layers against Keras: every line of `fixtures/layers/*.ndjson` is a model with inputs and the outputs that tf_keras 2.19
//! or Keras 3.15 gave. `fixtures/make/layer_cases` makes them. `CASES=regex` chooses some by id.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fmt::Write, fs, path::Path};

use serde_json::Value;
use tfjs_format::io::MemorySink;
use tfjs_graph::{Constant, GraphModel, ModelOptions, Registry, passes};
use tfjs_kernels::{Tensor, TfString};
use tfjs_layers::{Assets, LayersModel, LayersOptions, SaveOptions, StoredWeight, StoredWeights};

fn tensor(json: &Value) -> Tensor {
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
        "string" => {
            let text = |v: &Value| TfString(v.as_str().unwrap().as_bytes().to_vec().into());
            Tensor::new(shape, data.iter().map(text).collect()).unwrap()
        }
        other => panic!("type {other}"),
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let _ = write!(text, ": {s}");
        source = s.source();
    }
    text
}

fn load(case: &Value) -> Result<LayersModel, String> {
    let stored = |w: &Value| {
        let value = tensor(&w[1]);
        StoredWeight {
            name: w[0].as_str().unwrap().to_owned(),
            value: Constant::new(value.dtype().to_proto(), value),
        }
    };
    let weights = case["weights"].as_array().unwrap().iter().map(|l| {
        (l[0].as_str().unwrap().to_owned(), l[1].as_array().unwrap().iter().map(stored).collect::<Vec<_>>())
    });
    let weights = StoredWeights::ByLayer(weights.filter(|(_, w)| !w.is_empty()).collect());
    let files = case["assets"].clone();
    let assets = Assets::new(move |path| Ok(files[path].as_str().map(|text| text.as_bytes().to_vec())));
    let options = LayersOptions { assets, ..LayersOptions::default() };
    let model = LayersModel::new(&case["topology"], &weights, &options).map_err(|e| chain(&e))?;
    match model.unknown_options() {
        [] => Ok(model),
        [option, ..] => Err(option.to_string()),
    }
}

fn run(case: &Value) -> Result<(), String> {
    check(&load(case)?, case)
}

/// Writes the model for TensorFlow.js, reads that, and predicts.
fn round_trip(case: &Value, lower: bool) -> Result<(), String> {
    let model = load(case)?;
    let mut sink = MemorySink::default();
    let options = SaveOptions { lower, ..SaveOptions::default() };
    let report = model.save_to(&mut sink, &options).map_err(|e| chain(&e))?;
    let written = sink.into_model().unwrap();
    if let (Ok(folder), true) = (std::env::var("TFJS_SAVE_TO"), lower) {
        // For `fixtures/make/tfjs_check/layers.js`.
        let folder = Path::new(&folder).join(case["id"].as_str().unwrap().replace(['/', ' '], "__"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.json"), &written.model_json).unwrap();
        for (name, bytes) in &written.files {
            fs::write(folder.join(name), bytes).unwrap();
        }
        let warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
        let mut case = case.clone();
        case["warnings"] = warnings.into();
        case["weights"] = Value::Null;
        fs::write(folder.join("case.json"), case.to_string()).unwrap();
    }
    let again = LayersModel::load(&written, &LayersOptions::default()).map_err(|e| chain(&e))?;
    if let [option, ..] = again.unknown_options() {
        return Err(format!("when it is read again, {option}"));
    }
    check(&again, case)
}

/// The graph that is written to files, node by node as it stands, and after the passes of a loader.
fn exported(case: &Value) -> Result<(), String> {
    let model = load(case)?;
    let emitted = model.to_graph().map_err(|e| chain(&e))?;
    let foreign = emitted.graph.iter().find(|(_, node)| node.op.starts_with("_Sequence"));
    assert!(foreign.is_none(), "ops of this runtime are no part of a file");
    // With `optimize` loops of recurrent layers are recognised.
    for optimize in [false, true] {
        let options = ModelOptions { optimize, ..ModelOptions::default() };
        let graph = GraphModel::from_graph(emitted.graph.clone(), options);
        let graph = graph.with_initializer(emitted.initializer.clone());
        let outputs = graph.run(inputs(&model, case)).map_err(|e| chain(&e))?;
        compare(outputs.into_tensors(), case)?;
    }
    Ok(())
}

/// No loop is left of layers whose loops a loader knows.
fn recognised(case: &Value) -> Result<(), String> {
    let id = case["id"].as_str().unwrap();
    let known = ["SimpleRNN", "LSTM", "GRU"].iter().any(|class| case["class"] == *class);
    // Hard sigmoids, and last outputs that are zero where the mask says so, are left to the loop.
    if !known || ["hard_sigmoid", "masked_zero", "stacked"].iter().any(|other| id.contains(other)) {
        return Ok(());
    }
    let (mut graph, registry) = (load(case)?.to_graph().map_err(|e| chain(&e))?.graph, Registry::default());
    passes::prune(&mut graph);
    passes::fold_constants(&mut graph, &registry).map_err(|e| chain(&e))?;
    passes::fuse_recurrent_loops(&mut graph, &registry).map_err(|e| chain(&e))?;
    let left = graph.iter().filter(|(_, node)| node.op.ends_with("While")).count();
    if left == 0 { Ok(()) } else { Err(format!("{left} loops are left")) }
}

fn inputs(model: &LayersModel, case: &Value) -> Vec<(String, Tensor)> {
    let inputs = case["inputs"].as_array().unwrap();
    model.input_names().into_iter().zip(inputs.iter().map(tensor)).collect()
}

fn check(model: &LayersModel, case: &Value) -> Result<(), String> {
    let outputs = model.run(inputs(model, case)).map_err(|e| chain(&e))?;
    compare(outputs.into_tensors(), case)
}

fn compare(outputs: Vec<Tensor>, case: &Value) -> Result<(), String> {
    let wanted = case["outputs"].as_array().unwrap();
    if outputs.len() != wanted.len() {
        return Err(format!("{} outputs, expected {}", outputs.len(), wanted.len()));
    }
    let (rtol, atol) = (case["rtol"].as_f64().unwrap() as f32, case["atol"].as_f64().unwrap() as f32);
    for (i, (got, want)) in outputs.iter().zip(wanted.iter().map(tensor)).enumerate() {
        if got.dims() != want.dims() {
            return Err(format!("output {i} has shape {:?}, expected {:?}", got.dims(), want.dims()));
        }
        if got.dtype() != want.dtype() {
            return Err(format!("output {i} is {}, expected {}", got.dtype(), want.dtype()));
        }
        match (got.data::<f32>(), want.data::<f32>()) {
            (Ok(g), Ok(w)) => {
                let close = |g: f32, w: f32| {
                    g == w || (g - w).abs() <= atol + rtol * w.abs() || (g.is_nan() && w.is_nan())
                };
                if let Some(at) = (0..g.len()).find(|&i| !close(g[i], w[i])) {
                    return Err(format!("output {i}[{at}] is {}, expected {}", g[at], w[at]));
                }
            }
            _ if *got == want => {}
            _ => return Err(format!("output {i} is {got:?}, expected {want:?}")),
        }
    }
    Ok(())
}

fn walk(run: impl Fn(&Value) -> Result<(), String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/layers");
    let only = std::env::var("CASES").unwrap_or_default();
    let (mut passed, mut failures) = (0, String::new());
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "ndjson")) {
        for line in fs::read_to_string(file).unwrap().lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let id = case["id"].as_str().unwrap();
            if !id.contains(&only) {
                continue;
            }
            match run(&case) {
                Ok(()) => passed += 1,
                Err(e) => {
                    let _ = writeln!(failures, "{id}: {e}");
                }
            }
        }
    }
    assert!(failures.is_empty(), "{passed} passed, {} failed:\n{failures}", failures.lines().count());
    assert!(passed > 0);
}

#[test]
fn every_layer_computes_what_keras_computes() {
    walk(run);
}

#[test]
fn the_graph_of_a_model_computes_the_same() {
    walk(exported);
}

#[test]
fn loops_of_recurrent_layers_are_recognised() {
    walk(recognised);
}

#[test]
fn what_is_written_for_tfjs_computes_the_same() {
    walk(|case| round_trip(case, true));
}

#[test]
fn what_is_written_without_lowering_computes_the_same() {
    walk(|case| round_trip(case, false));
}
