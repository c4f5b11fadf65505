//! Every model under `fixtures/models` that TensorFlow wrote: converted, run, and compared with TensorFlow's outputs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tfjs_convert::{ConvertOptions, InputFormat, convert};
use tfjs_graph::{GraphModel, Registry, Tensor, passes};
use tfjs_kernels::TfString;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

fn cases() -> Vec<(PathBuf, Value)> {
    let mut cases = Vec::new();
    for model in fs::read_dir(models()).unwrap() {
        for file in fs::read_dir(model.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                let case = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                cases.push((path, case));
            }
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

/// The options that the flags of a case stand for; `None` for formats of other crates' concern.
fn options(dir: &Path, source: &Value, output: &Path) -> Option<ConvertOptions> {
    let mut options = ConvertOptions {
        input: dir.join(source["path"].as_str()?).to_str()?.to_owned(),
        output: output.to_path_buf(),
        input_format: InputFormat::from_name(source["format"].as_str()?)?,
        ..ConvertOptions::default()
    };
    use InputFormat::{TfFrozenModel, TfHub, TfSavedModel, TfSessionBundle};
    if ![TfFrozenModel, TfHub, TfSavedModel, TfSessionBundle].contains(&options.input_format) {
        return None;
    }
    for flag in source["flags"].as_array()? {
        let (name, value) = flag.as_str()?.split_once('=')?;
        let list = || value.split(',').map(str::to_owned).collect();
        match name {
            "--signature_name" => options.signature_name = Some(value.to_owned()),
            "--saved_model_tags" => options.saved_model_tags = list(),
            "--output_node_names" => options.output_node_names = list(),
            "--control_flow_v2" => options.control_flow_v2 = value == "True",
            "--use_structured_outputs_names" => options.use_structured_outputs_names = value == "True",
            other => panic!("flag {other}"),
        }
    }
    Some(options)
}

#[test]
fn converted_fixtures_give_tensorflows_outputs() {
    // Kernels that are built without optimisation want more stack than a test has.
    let thread = std::thread::Builder::new().stack_size(32 << 20).spawn(convert_and_run_all);
    thread.unwrap().join().unwrap();
}

fn convert_and_run_all() {
    let mut failures = Vec::new();
    let mut count = 0;
    for (path, case) in cases() {
        let dir = path.parent().unwrap();
        for source in case["sources"].as_array().unwrap() {
            let output = tempfile::tempdir().unwrap();
            let Some(options) = options(dir, source, output.path()) else { continue };
            count += 1;
            if let Err(problem) = check(dir, &case, &options) {
                let name = path.strip_prefix(models()).unwrap().display();
                failures.push(format!("{name} ({}): {problem}", source["path"].as_str().unwrap()));
            }
        }
    }
    assert!(count > 10);
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn loops_of_recurrent_layers_are_run_as_one_op_each() {
    for (name, loops) in [("lstm", 2), ("bidirectional_gru", 3)] {
        let output = tempfile::tempdir().unwrap();
        let options = ConvertOptions {
            input: models().join(name).join("saved_model").to_str().unwrap().to_owned(),
            output: output.path().to_path_buf(),
            ..ConvertOptions::default()
        };
        let summary = convert(&options, &mut |_| {}).unwrap();
        let mut graph = GraphModel::open(&summary.model).unwrap().graph().clone();
        let registry = Registry::default();
        passes::fold_constants(&mut graph, &registry).unwrap();
        assert_eq!(passes::fuse_recurrent_loops(&mut graph, &registry).unwrap(), loops, "{name}");
        assert!(!graph.iter().any(|(_, node)| node.op.ends_with("While")), "{name}");
    }
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

fn check(dir: &Path, case: &Value, options: &ConvertOptions) -> Result<(), String> {
    let summary = convert(options, &mut |_| {}).map_err(|e| chain(&e))?;
    let model = GraphModel::open(&summary.model).map_err(|e| chain(&e))?;
    let named = |entry: &Value, known: &[String]| {
        let aliases = entry["aliases"].as_array().into_iter().flatten().chain([&entry["name"]]);
        let mut names = aliases.filter_map(Value::as_str).map(str::to_owned);
        names.find(|n| known.contains(n)).ok_or_else(|| format!("no {} among {known:?}", entry["name"]))
    };
    let mut inputs = BTreeMap::new();
    for input in case["inputs"].as_array().unwrap() {
        inputs.insert(named(input, &summary.inputs)?, tensor(&dir.join(input["file"].as_str().unwrap())));
    }
    let outputs = model.run(inputs).map_err(|e| chain(&e))?;
    for output in case["outputs"].as_array().unwrap() {
        let name = named(output, &summary.outputs)?;
        let got = outputs.get(&name).ok_or_else(|| format!("no output {name}"))?;
        let expected = tensor(&dir.join(output["file"].as_str().unwrap()));
        let number = |key: &str| output[key].as_f64().unwrap_or(0.0);
        compare(got, &expected, number("rtol"), number("atol")).map_err(|p| format!("output {name} {p}"))?;
    }
    Ok(())
}

fn compare(got: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Result<(), String> {
    if got.dims() != expected.dims() || got.dtype() != expected.dtype() {
        return Err(format!("is {} {:?}, not {:?}", got.dtype(), got.dims(), expected.dims()));
    }
    let close = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= atol + rtol * b.abs();
    match (got, expected) {
        (Tensor::F32(a), Tensor::F32(b)) => {
            let far = a.data().iter().zip(b.data()).find(|(a, b)| !close(f64::from(**a), f64::from(**b)));
            far.map_or(Ok(()), |(a, b)| Err(format!("has {a} for {b}")))
        }
        (a, b) if a == b => Ok(()),
        _ => Err("has other values".to_owned()),
    }
}

/// Reads a `.npy` file of the types that fixtures have.
fn tensor(path: &Path) -> Tensor {
    let bytes = fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
    let data = &bytes[10 + header..];
    let descr = text.split("'descr': '").nth(1).unwrap().split('\'').next().unwrap();
    let dims = text.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let shape: Vec<usize> = dims.split(',').filter_map(|d| d.trim().parse().ok()).collect();
    let words = || data.as_chunks::<4>().0.iter();
    match descr {
        "<f4" => Tensor::new(shape, words().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()),
        "<i4" => Tensor::new(shape, words().map(|b| i32::from_le_bytes(*b)).collect::<Vec<_>>()),
        "|b1" => Tensor::new(shape, data.iter().map(|b| *b != 0).collect::<Vec<_>>()),
        other => {
            let width: usize = other.strip_prefix("|S").unwrap().parse().unwrap();
            let text = |cell: &[u8]| {
                let len = cell.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
                TfString::from(cell[..len].to_vec())
            };
            Tensor::new(shape, data.chunks(width).map(text).collect::<Vec<_>>())
        }
    }
    .unwrap()
}

fn written(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
    files.map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(p).unwrap())).collect()
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let input = models().join("digits_cnn/saved_model");
    let run = || {
        let output = tempfile::tempdir().unwrap();
        let options = ConvertOptions {
            input: input.to_str().unwrap().to_owned(),
            output: output.path().to_path_buf(),
            weight_shard_size_bytes: Some(1000),
            ..ConvertOptions::default()
        };
        let summary = convert(&options, &mut |_| {}).unwrap();
        assert_eq!(summary.shards as u64, summary.weight_bytes.div_ceil(1000));
        written(output.path())
    };
    assert_eq!(run(), run());
}

#[test]
fn quantization_follows_the_patterns() {
    let output = tempfile::tempdir().unwrap();
    let mut options = ConvertOptions {
        input: models().join("digits_cnn/saved_model").to_str().unwrap().to_owned(),
        output: output.path().to_path_buf(),
        ..ConvertOptions::default()
    };
    let plain = convert(&options, &mut |_| {}).unwrap().weight_bytes;
    options.quantization.add(tfjs_format::QuantizeTo::Uint8, None).unwrap();
    let small = convert(&options, &mut |_| {}).unwrap().weight_bytes;
    assert!(small < plain / 3, "{small} of {plain} bytes");
    options.quantization.add(tfjs_format::QuantizeTo::Uint16, Some("*")).unwrap();
    let patterns_first = convert(&options, &mut |_| {}).unwrap().weight_bytes;
    assert!(patterns_first > small && patterns_first < plain);
}

#[test]
fn what_does_not_exist_is_said() {
    let output = tempfile::tempdir().unwrap();
    let base = ConvertOptions {
        input: models().join("digits_cnn/saved_model").to_str().unwrap().to_owned(),
        output: output.path().join("model"),
        ..ConvertOptions::default()
    };
    let message = |options: &ConvertOptions| convert(options, &mut |_| {}).unwrap_err().to_string();
    let wrong = ConvertOptions { signature_name: Some("zz".to_owned()), ..base.clone() };
    assert!(message(&wrong).contains("\"serving_default\""), "{}", message(&wrong));
    let wrong = ConvertOptions { saved_model_tags: vec!["zz".to_owned()], ..base.clone() };
    assert!(message(&wrong).contains("tag-set zz") && message(&wrong).contains("[\"serve\"]"));
    let wrong = ConvertOptions { input: "nowhere".to_owned(), ..base.clone() };
    assert_eq!(message(&wrong), "SavedModel file does not exist at: nowhere");
    assert!(!base.output.exists(), "nothing is written");
}
