//! Frozen graphs trained further, compared with TensorFlow (`fixtures/make/fine_tuning.py`).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use prost::Message;
use serde_json::Value;
use tfjs_convert::{
    ConvertOptions, GraphSaveOptions, InputFormat, convert, save_graph_model, save_graph_model_with,
};
use tfjs_format::proto::GraphDef;
use tfjs_graph::{Constant, Endpoint, Graph, GraphModel, ModelOptions, NodeId, Tensor};
use tfjs_layers::{Batch, Compile, FineTune, Tuning, optimizers::Sgd};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("training/fine_tuning.json")).unwrap()).unwrap()
}

/// The graph as TensorFlow froze it.
fn frozen() -> GraphModel {
    let def =
        GraphDef::decode(&fs::read(fixtures().join("models/digits_cnn/frozen.pb")).unwrap()[..]).unwrap();
    let mut graph =
        Graph::from_def(&def, &|_, value| Ok(value.map(Constant::from_proto).transpose()?)).unwrap();
    let endpoint = |graph: &Graph, name: &str, dims: &[i64]| Endpoint {
        key: name.to_owned(),
        port: graph.port(name).unwrap(),
        data_type: tfjs_format::proto::DataType::DtFloat,
        shape: Some(tfjs_format::proto::TensorShapeProto {
            dim: dims
                .iter()
                .map(|&size| tfjs_format::proto::tensor_shape_proto::Dim { size, name: String::new() })
                .collect(),
            unknown_rank: false,
        }),
        resource_id: None,
    };
    let (image, scores) =
        (endpoint(&graph, "image", &[-1, 8, 8, 1]), endpoint(&graph, "probabilities", &[-1, 10]));
    graph.inputs.push(image);
    graph.outputs.push(scores);
    GraphModel::from_graph(graph, ModelOptions::default())
}

/// The same as the converter writes it: folded and fused.
fn converted(directory: &Path) -> GraphModel {
    let options = ConvertOptions {
        input: fixtures().join("models/digits_cnn/frozen.pb").to_str().unwrap().to_owned(),
        output: directory.to_path_buf(),
        input_format: InputFormat::TfFrozenModel,
        output_node_names: vec!["probabilities".to_owned()],
        ..ConvertOptions::default()
    };
    convert(&options, &mut |_| {}).unwrap();
    GraphModel::open(directory).unwrap()
}

fn batch(index: usize, size: usize) -> Batch {
    let bytes = fs::read(fixtures().join("digits.bin")).unwrap();
    let rows: Vec<&[u8]> = bytes.chunks(65).skip(index * size).take(size).collect();
    let images: Vec<f32> = rows.iter().flat_map(|row| row[..64].iter().map(|&v| f32::from(v))).collect();
    let labels: Vec<i32> = rows.iter().map(|row| i32::from(row[64])).collect();
    Batch::new(Tensor::new([size, 8, 8, 1], images).unwrap(), Tensor::vector(labels))
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// A name of the fixture as it is in a graph: the converter drops nodes that only hand on.
fn name_in(model: &GraphModel, name: &str) -> String {
    let short = name.strip_suffix("/resource").unwrap();
    let found = [name, short]
        .into_iter()
        .find(|n| model.graph().find(n).is_some_and(|id| model.graph().node(id).value.is_some()));
    found.unwrap_or_else(|| panic!("{name} is not in the graph: {:?}", model.tunable())).to_owned()
}

fn sampled(values: &[f32], stride: usize) -> Vec<f32> {
    values.iter().step_by(if values.len() > 100 { stride } else { 1 }).copied().collect()
}

fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        // Sums over many pixels differ in their order: the error counts against the largest element.
        assert!((g - e).abs() <= tolerance * largest.max(1e-3), "{what}[{i}]: {g} instead of {e}");
    }
}

fn start(model: &GraphModel, case: &Value, expected: &Value) -> (Tuning, Vec<String>) {
    let names: Vec<String> = case["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| name_in(model, w["name"].as_str().unwrap()))
        .collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut tuning = model.fine_tune(&refs).unwrap();
    let kernel = name_in(model, expected["kernel"].as_str().unwrap());
    let values = (0..3840).map(|i| (f64::from(i).sin() * 0.05) as f32).collect::<Vec<f32>>();
    tuning.set_weight(&kernel, Tensor::new([384, 10], values).unwrap()).unwrap();
    let bias = name_in(model, expected["bias"].as_str().unwrap());
    tuning.set_weight(&bias, Tensor::vector(vec![0f32; 10])).unwrap();
    let optimizer =
        Sgd { learning_rate: expected["learning_rate"].as_f64().unwrap().into(), ..Sgd::default() };
    tuning.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"]).unwrap();
    (tuning, names)
}

fn follows_tensorflow(model: &GraphModel, case: &str) {
    let expected = expected();
    let stride = expected["stride"].as_u64().unwrap() as usize;
    let size = expected["batch"].as_u64().unwrap() as usize;
    let rate = expected["learning_rate"].as_f64().unwrap() as f32;
    let case = &expected[case];
    let (mut tuning, names) = start(model, case, &expected);
    let weight =
        |tuning: &Tuning, name: &str| tuning.get_weight(name).unwrap().data::<f32>().unwrap().to_vec();
    let before: Vec<Vec<f32>> = names.iter().map(|n| weight(&tuning, n)).collect();
    let mut losses = Vec::new();
    for i in 0..10 {
        losses.push(tuning.train_on_batch(&batch(i, size)).unwrap().get("loss").unwrap() as f32);
        if i == 0 {
            for ((name, before), w) in names.iter().zip(&before).zip(case["weights"].as_array().unwrap()) {
                let after = weight(&tuning, name);
                let gradient: Vec<f32> = before.iter().zip(&after).map(|(b, a)| (b - a) / rate).collect();
                // What a difference of two floats of the size of the weight leaves of the gradient.
                let rounding = before.iter().fold(0f32, |m, v| m.max(v.abs())) * f32::EPSILON / rate;
                let wanted = numbers(&w["gradient"]);
                let largest = wanted.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                assert_close(
                    &format!("gradient of {name}"),
                    &sampled(&gradient, stride),
                    &wanted,
                    1e-3 + rounding / largest,
                );
            }
        }
    }
    assert_close("losses", &losses, &numbers(&case["losses"]), 2e-5);
    for (name, w) in names.iter().zip(case["weights"].as_array().unwrap()) {
        assert_close(name, &sampled(&weight(&tuning, name), stride), &numbers(&w["final"]), 2e-5);
    }
}

#[test]
fn a_frozen_graph_trains_as_in_tensorflow() {
    follows_tensorflow(&frozen(), "as_frozen");
}

#[test]
fn the_same_weights_train_alike_before_and_after_conversion() {
    follows_tensorflow(&frozen(), "as_converted");
    let directory = tempfile::tempdir().unwrap();
    let model = converted(directory.path());
    assert!(model.graph().iter().any(|(_, n)| n.op == "_FusedConv2D"), "nothing was fused");
    follows_tensorflow(&model, "as_converted");
}

#[test]
fn only_the_chosen_constants_change_and_the_rest_is_written_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let model = converted(directory.path());
    let expected = expected();
    let (mut tuning, names) = start(&model, &expected["as_converted"], &expected);
    tuning.train_on_batch(&batch(0, 32)).unwrap();
    let tuned = tuning.to_graph_model().unwrap();
    assert_eq!(tuned.signature(), model.signature());
    assert_eq!(tuned.metadata(), model.metadata());
    let value = |m: &GraphModel, id: NodeId| m.graph().node(id).value.as_ref().map(|v| v.tensor().unwrap());
    for ((id, was), (other, is)) in model.graph().iter().zip(tuned.graph().iter()) {
        assert_eq!((id, &was.name, &was.op, &was.inputs), (other, &is.name, &is.op, &is.inputs));
        assert_eq!(was.attrs, is.attrs, "{}", was.name);
        let same = value(&model, id).map(|t| format!("{t:?}")) == value(&tuned, id).map(|t| format!("{t:?}"));
        assert_eq!(same, !names.contains(&was.name), "{}", was.name);
    }

    // What is trained predicts as the tuned graph, and as what is written and read.
    let x = batch(11, 8).x.remove(0);
    let predicted = tuning.predict(x.clone()).unwrap().remove(0);
    let written = tempfile::tempdir().unwrap();
    save_graph_model(&tuned, written.path()).unwrap();
    let read = GraphModel::open(written.path()).unwrap();
    assert_eq!(read.inputs(), model.inputs());
    assert_eq!(read.outputs(), model.outputs());
    assert_eq!(read.signature(), model.signature());
    let key = &model.inputs()[0].key;
    for other in [&tuned, &read] {
        let y = other.run([(key, x.clone())]).unwrap();
        assert_close("prediction", y[0].data::<f32>().unwrap(), predicted.data::<f32>().unwrap(), 1e-5);
    }
}

#[test]
fn a_model_may_be_written_where_it_came_from_and_quantized() {
    let directory = tempfile::tempdir().unwrap();
    let model = converted(directory.path());
    let x = batch(0, 8).x.remove(0);
    let key = model.inputs()[0].key.clone();
    let before = model.run([(&key, x.clone())]).unwrap();
    save_graph_model(&model, directory.path()).unwrap();
    let again = GraphModel::open(directory.path()).unwrap().run([(&key, x.clone())]).unwrap();
    assert_eq!(before[0].data::<f32>().unwrap(), again[0].data::<f32>().unwrap());

    let mut options = GraphSaveOptions::default();
    options.quantization.add_bytes(2).unwrap();
    let small = save_graph_model_with(&model, directory.path(), &options, &mut |_| {}).unwrap();
    let quantized = GraphModel::open(directory.path()).unwrap();
    let close = quantized.run([(&key, x)]).unwrap();
    assert_close("quantized", close[0].data::<f32>().unwrap(), before[0].data::<f32>().unwrap(), 1e-3);
    // Quantized weights are floats when they are trained, and when they are written again.
    let whole = save_graph_model(&quantized, directory.path()).unwrap();
    assert!(whole.weight_bytes > small.weight_bytes * 3 / 2, "{} {}", whole.weight_bytes, small.weight_bytes);
}

#[test]
fn constants_that_cannot_be_trained_are_refused_with_a_reason() {
    let model = frozen();
    let error = |names: &[&str]| model.fine_tune(names).unwrap_err().to_string();
    let unknown = error(&["dense/kernel"]);
    assert!(unknown.contains("no constant of the graph is named `dense/kernel`"), "{unknown}");
    assert!(unknown.contains("digits_cnn/conv2/Conv2D/ReadVariableOp/resource"), "{unknown}");
    assert!(error(&["digits_cnn/flatten/Const"]).contains("it holds int32, and only floats have gradients"));
    assert!(error(&["digits_cnn/conv2/Relu"]).contains("it is no constant but the result of `Relu`"));
    assert!(error(&[]).contains("no constants were chosen"));
    let all = model.fine_tune_where(|_, _| true).unwrap();
    assert_eq!(all.weights().count(), model.tunable().len());
    assert!(model.fine_tune_where(|name, _| name.contains("probabilities")).unwrap().weights().count() == 2);
}

#[test]
fn a_frozen_graph_is_not_written_as_layers() {
    let model = frozen();
    let tuning = model.fine_tune_where(|name, _| name.contains("probabilities")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let error = tuning.save(directory.path().join("layers")).unwrap_err().to_string();
    assert!(error.contains("layer `graph` is a frozen graph"), "{error}");
    assert!(!directory.path().join("layers").join("model.json").exists());
    tfjs_convert::save_keras(&tuning, directory.path().join("model.h5")).unwrap_err();
}

#[test]
fn an_embedding_behind_tables_trains_and_the_tables_are_written_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = ConvertOptions {
        input: fixtures().join("models/text_tables/saved_model").to_str().unwrap().to_owned(),
        output: directory.path().to_path_buf(),
        input_format: InputFormat::TfSavedModel,
        ..ConvertOptions::default()
    };
    convert(&options, &mut |_| {}).unwrap();
    let model = GraphModel::open(directory.path()).unwrap();
    let mut tuning = model.fine_tune_where(|_, shape| shape == [11, 4]).unwrap();
    let compile = Compile { loss: serde_json::json!({"pooled": "mse"}), ..Compile::default() };
    tuning.compile_with(Sgd { learning_rate: 0.05.into(), ..Sgd::default() }.into(), compile).unwrap();
    let sentences = ["the cat sat on the mat.", "a naïve dog ran!", "猫 purred", ""];
    let x = Tensor::vector(sentences.map(tfjs_kernels::TfString::from).to_vec());
    let batch = Batch {
        x: vec![x.clone()],
        ..Batch::new(x.clone(), Tensor::zeros(tfjs_graph::DType::Float32, [4, 4]).unwrap())
    };
    // What TensorFlow pooled: behind the header, sixteen floats.
    let bytes = fs::read(fixtures().join("models/text_tables/out1.npy")).unwrap();
    let pooled = bytes[bytes.len() - 64..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let expected = pooled.map(|v| f64::from(v * v)).sum::<f64>() / 16.0;
    let losses: Vec<f64> =
        (0..5).map(|_| tuning.train_on_batch(&batch).unwrap().get("loss").unwrap()).collect();
    assert!((losses[0] - expected).abs() < 1e-5 * expected, "{losses:?} {expected}");
    assert!(losses.windows(2).all(|w| w[1] < w[0]), "{losses:?}");

    let written = tempfile::tempdir().unwrap();
    save_graph_model(&tuning.to_graph_model().unwrap(), written.path()).unwrap();
    let read = GraphModel::open(written.path()).unwrap();
    let (old, new) = (model.run([("sentences", x.clone())]).unwrap(), read.run([("sentences", x)]).unwrap());
    assert_eq!(old["ids"].data::<i32>().unwrap(), new["ids"].data::<i32>().unwrap());
    let size = |t: &Tensor| t.data::<f32>().unwrap().iter().map(|v| v * v).sum::<f32>();
    assert!(size(&new["pooled"]) < size(&old["pooled"]), "{} {}", size(&new["pooled"]), size(&old["pooled"]));
}
