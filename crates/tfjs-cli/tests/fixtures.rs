//! Every fixture model is converted and run; the outputs are TensorFlow's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::tempdir;

fn cases() -> Vec<(PathBuf, Value)> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let mut cases = Vec::new();
    for model in fs::read_dir(models).unwrap() {
        for file in fs::read_dir(model.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("case") && name.ends_with(".json") {
                let case = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                cases.push((path, case));
            }
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn every_fixture_model_gives_tensorflows_outputs() {
    let mut failures = Vec::new();
    let mut count = 0;
    for (path, case) in cases() {
        for source in case["sources"].as_array().unwrap() {
            count += 1;
            if let Err(e) = check(path.parent().unwrap(), &case, source) {
                failures.push(format!("{} {source}: {e}", path.display()));
            }
        }
    }
    assert!(count >= 20, "only {count} cases were found");
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

fn check(folder: &Path, case: &Value, source: &Value) -> Result<(), String> {
    let dir = tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("out"));
    let mut convert = Command::cargo_bin("tfjs").unwrap();
    convert
        .args(["convert", "--input_format", source["format"].as_str().unwrap()])
        .args(texts(&source["flags"]));
    run(convert.arg(folder.join(source["path"].as_str().unwrap())).arg(&model))?;
    let mut command = Command::cargo_bin("tfjs").unwrap();
    command.arg("run").arg(model.join("model.json")).arg("--output-dir").arg(&out);
    for input in case["inputs"].as_array().unwrap() {
        let file = folder.join(input["file"].as_str().unwrap());
        command.arg("--input").arg(format!("{}={}", input["name"].as_str().unwrap(), file.display()));
    }
    run(&mut command)?;
    for expected in case["outputs"].as_array().unwrap() {
        let names = std::iter::once(expected["name"].as_str().unwrap()).chain(texts(&expected["aliases"]));
        let file = names
            .map(|name| out.join(format!("{}.npy", name.replace([':', '/'], "_"))))
            .find(|file| file.exists())
            .ok_or_else(|| format!("there is no output {}", expected["name"]))?;
        let got = fs::read(file).unwrap();
        let want = fs::read(folder.join(expected["file"].as_str().unwrap())).unwrap();
        compare(&got, &want, expected).map_err(|e| format!("output {}: {e}", expected["name"]))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Compares two .npy files of version 1, which NumPy and `tfjs` write.
fn compare(got: &[u8], want: &[u8], expected: &Value) -> Result<(), String> {
    let split = |file: &[u8]| {
        let start = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
        (String::from_utf8_lossy(&file[10..start]).trim().to_owned(), file[start..].to_vec())
    };
    let ((got_header, got), (want_header, want)) = (split(got), split(want));
    if got_header != want_header {
        return Err(format!("{got_header}, expected {want_header}"));
    }
    if expected["dtype"] != "float32" {
        return if got == want { Ok(()) } else { Err("values differ".to_owned()) };
    }
    let (rtol, atol) = (expected["rtol"].as_f64().unwrap(), expected["atol"].as_f64().unwrap());
    let numbers = |bytes: &[u8]| -> Vec<f64> {
        bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    };
    for (i, (got, want)) in numbers(&got).into_iter().zip(numbers(&want)).enumerate() {
        let near =
            got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= atol + rtol * want.abs();
        if !near {
            return Err(format!("[{i}] is {got}, expected {want}"));
        }
    }
    Ok(())
}

/// `fixtures/make/keras_round_trip.py` let Keras load these files and compare their predictions; here the same bytes must
/// come out again.
#[test]
fn keras_files_come_back_as_keras_read_them() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let recorded = fs::read(fixtures.join("round_trips.json")).unwrap();
    let recorded: serde_json::Map<String, Value> = serde_json::from_slice(&recorded).unwrap();
    assert!(recorded.len() >= 15, "only {} files were recorded", recorded.len());
    for (name, expected) in recorded {
        let dir = tempdir().unwrap();
        let (layers, back) = (dir.path().join("layers"), dir.path().join("back"));
        let convert = |input: &Path, output: &Path, format: &str| {
            let format = format!("--output_format={format}");
            Command::cargo_bin("tfjs")
                .unwrap()
                .arg("convert")
                .args([input, output])
                .arg(format)
                .assert()
                .success();
        };
        convert(&fixtures.join(&name), &layers, "tfjs_layers_model");
        convert(&layers.join("model.json"), &back, expected["to"].as_str().unwrap());
        let digest: String =
            Sha256::digest(fs::read(back).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, expected["sha256"].as_str().unwrap(), "{name}");
    }
}
