//! The commands as a user types them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn tfjs() -> Command {
    Command::cargo_bin("tfjs").unwrap()
}

fn converter() -> Command {
    Command::cargo_bin("tensorflowjs_converter").unwrap()
}

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/digits_cnn")
}

/// The digits model, converted.
fn converted() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let model = dir.path().join("a model");
    tfjs().arg("convert").arg(digits().join("saved_model")).arg(&model).assert().success();
    (dir, model)
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn stderr(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stderr.clone()).unwrap()
}

#[test]
fn a_picture_is_classified_with_labels() {
    let (_dir, model) = converted();
    for (picture, label) in [("digit-3.png", "three"), ("digit-8.png", "eight")] {
        let input = format!("image={}", digits().join(picture).display());
        let text = stdout(
            tfjs()
                .arg("run")
                .arg(&model)
                .args(["--input", &input])
                .arg("--labels")
                .arg(digits().join("labels.txt")),
        );
        let first = text.lines().nth(1).unwrap();
        assert!(text.starts_with("output_0: float32[1, 10]\n") && first.contains(label), "{text}");
    }
}

#[test]
fn inputs_and_outputs_are_found_by_key_node_and_tensor_name() {
    let (dir, model) = converted();
    let input = digits().join("in0.npy");
    let out = dir.path().join("out");
    for name in ["image=", "image:0=", ""] {
        let arg = format!("{name}{}", input.display());
        tfjs()
            .arg("run")
            .arg(model.join("model.json"))
            .args(["--input", &arg])
            .arg("--output-dir")
            .arg(&out)
            .assert()
            .success();
        assert!(out.join("output_0.npy").exists());
        fs::remove_dir_all(&out).unwrap();
    }
    let node = "StatefulPartitionedCall/digits_cnn/probabilities/Softmax";
    let args = ["--output", node, "--output", "output_0", "--threads", "1"];
    tfjs()
        .arg("run")
        .arg(&model)
        .arg("--input")
        .arg(&input)
        .args(args)
        .arg("--output-dir")
        .arg(&out)
        .assert()
        .success();
    let node = fs::read(out.join("StatefulPartitionedCall_digits_cnn_probabilities_Softmax.npy")).unwrap();
    assert_eq!(node, fs::read(out.join("output_0.npy")).unwrap());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "no temporary files stay behind");
}

#[test]
fn failures_say_why_and_leave_nothing_behind() {
    let (dir, model) = converted();
    let out = dir.path().join("out");
    let run = |input: &str| {
        let mut command = tfjs();
        command.arg("run").arg(&model).args(["--input", input]).arg("--output-dir").arg(&out);
        stderr(&mut command, 1)
    };
    let array = digits().join("out0.npy");
    assert!(
        run(&format!("image={}", array.display()))
            .starts_with("error: input `image` has shape [6, 10], expected")
    );
    assert!(run(&format!("picture={}", array.display())).contains("its inputs are `image`"));
    assert!(run("image=none.npy").starts_with("error: cannot read none.npy\n  caused by: "));
    assert!(run(&format!("image={}", digits().join("labels.txt").display())).contains("not a picture"));
    assert!(!out.exists());
    fs::remove_file(model.join("group1-shard1of1.bin")).unwrap();
    let message = run(&format!("image={}", digits().join("in0.npy").display()));
    assert!(message.contains("group1-shard1of1.bin"), "{message}");
}

#[test]
fn mistyped_flags_are_usage_errors_with_a_suggestion() {
    let message = stderr(tfjs().args(["run", "model.json", "--inptu", "x=y"]), 2);
    assert!(message.contains("'--input'"), "{message}");
    let message = stderr(tfjs().args(["convert", "--input_fromat=tf_hub", "a", "b"]), 2);
    assert!(message.contains("'--input_format'"), "{message}");
    stderr(tfjs().args(["convert", "only_one_path"]), 2);
    stderr(tfjs().args(["frobnicate"]), 2);
    stderr(tfjs().args(["run", "model.json", "--threads", "0"]), 2);
    stderr(converter().args(["--input_format=onnx", "a", "b"]), 2);
}

#[test]
fn the_converter_fails_as_the_python_tool_does() {
    let message = |args: &[&str]| stderr(converter().args(args), 1);
    assert!(message(&[]).contains("Missing input_path argument. For usage, use the --help flag."));
    assert!(message(&["in"]).contains("Missing output_path argument"));
    assert!(
        message(&["--input_format=tf_frozen_model", "a", "b"])
            .contains("The --output_node_names flag is required")
    );
    assert!(
        message(&["--output_format=keras", "a", "b"])
            .contains("Unsupported input_format - output_format pair: tf_saved_model - keras")
    );
    assert!(
        message(&["--quantize_uint8", "--quantize_uint16", "a", "b"])
            .contains("More than one quantization fallthrough")
    );
    assert!(
        message(&["--weight_shard_size_bytes=0", "a", "b"])
            .contains("Expected weight_shard_size_bytes to be a positive integer, but got 0")
    );
    assert!(message(&["nowhere", "b"]).contains("SavedModel file does not exist at: nowhere"));
    assert!(!Path::new("b").exists());
    assert!(
        stdout(converter().arg("--version")).starts_with("\ntensorflowjs 4.22.0\n\nDependency versions:\n")
    );
}

#[test]
fn a_bare_quantization_flag_may_stand_before_the_paths() {
    let dir = tempdir().unwrap();
    let (plain, small) = (dir.path().join("plain"), dir.path().join("small"));
    let source = digits().join("saved_model");
    converter().arg(&source).arg(&plain).assert().success();
    converter().arg("--quantize_float16").arg(&source).arg(&small).assert().success();
    let size = |dir: &Path| fs::metadata(dir.join("group1-shard1of1.bin")).unwrap().len();
    assert!(size(&small) < size(&plain) * 6 / 10);
    let text = stdout(tfjs().arg("inspect").arg(&small));
    assert!(text.contains("float16"), "{text}");
}

#[test]
fn summaries_and_reports_come_as_json() {
    let dir = tempdir().unwrap();
    let model = dir.path().join("m");
    let source = digits().join("saved_model");
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let summary = json(stdout(tfjs().args(["convert", "--json"]).arg(&source).arg(&model)));
    assert_eq!(summary["outputs"], serde_json::json!(["output_0"]));
    assert!(summary["nodes_after"].as_u64().unwrap() < summary["nodes_before"].as_u64().unwrap());
    assert_eq!(summary["shards"], 1);

    let report = json(stdout(tfjs().args(["inspect", "--json"]).arg(&model)));
    assert_eq!(report["format"], "tfjs_graph_model");
    assert_eq!(report["inputs"][0]["name"], "image");
    assert_eq!(report["inputs"][0]["shape"], serde_json::json!([null, 8, 8, 1]));
    assert_eq!(report["outputs"][0]["name"], "output_0");
    assert_eq!(report["weights"]["bytes"], summary["weight_bytes"]);
    assert_eq!(report["problems"], serde_json::json!([]));

    let bench = json(stdout(
        tfjs().args(["bench", "--runs", "3", "--threads", "1", "--json", "--profile"]).arg(&model),
    ));
    assert_eq!(bench["runs"], 3);
    for field in ["median_ms", "min_ms", "p90_ms", "load_and_first_s"] {
        assert!(bench[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(!bench["profile"]["ops"].as_array().unwrap().is_empty());
}

#[test]
fn every_format_is_recognised() {
    let models = digits().join("..");
    let cases = [
        ("digits_cnn/saved_model", "tf_saved_model"),
        ("digits_cnn/saved_model/saved_model.pb", "tf_saved_model"),
        ("digits_cnn/frozen.pb", "tf_frozen_model"),
        ("digits_cnn/model.h5", "keras"),
        ("digits_cnn/model.keras", "keras_keras"),
        ("tf1_saved_model/saved_model_text", "tf_saved_model"),
        ("hub_tf1/module", "tf_hub"),
        ("session_bundle/v1", "tf_session_bundle"),
        ("session_bundle/v2", "tf_session_bundle"),
    ];
    for (path, format) in cases {
        let text = stdout(tfjs().args(["inspect", "--json"]).arg(models.join(path)));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["format"], format, "{path}");
        assert!(report["problems"].as_array().unwrap().is_empty(), "{path}: {report}");
        assert!(!report["outputs"].as_array().unwrap().is_empty(), "{path}");
    }
}

#[test]
fn a_report_says_what_a_target_cannot_run_and_what_a_conversion_does_about_it() {
    let models = digits().join("..");
    let target = |path: &str, target: &str| {
        let mut command = tfjs();
        let text = stdout(command.args(["inspect", "--json", "--target", target]).arg(models.join(path)));
        serde_json::from_str::<Value>(&text).unwrap()["targets"][0].take()
    };
    // An exact GELU: TensorFlow.js has no `Erfc`.
    let report = target("transformer/saved_model", "webgl");
    let of_erfc = |f: &&Value| f["op"] == "Erfc";
    let finding = report["findings"].as_array().unwrap().iter().find(of_erfc).unwrap();
    assert_eq!(finding["reason"], "TensorFlow.js does not have the op");
    assert_eq!(finding["conversion"], "expressed by 1 − Erf");
    assert_eq!((&finding["solved"], &report["left"]), (&Value::Bool(true), &serde_json::json!(0)));
    // Every kind of model; these need nothing that is missing.
    for path in
        ["digits_cnn/saved_model", "digits_cnn/frozen.pb", "digits_cnn/model.h5", "digits_cnn/model.keras"]
    {
        for name in ["node", "cpu", "wasm", "webgl", "webgpu", "rust"] {
            let report = target(path, name);
            assert_eq!(report["left"], 0, "{path} on {name}: {report}");
            assert!(report["nodes"].as_u64().unwrap() > 3, "{path}");
        }
    }
}

#[test]
fn a_model_of_tensorflow_js_is_held_against_a_backend_as_it_stands() {
    let dir = tempdir().unwrap();
    let node = |name: &str, op: &str, inputs: &[&str], types: &[&str]| {
        let attr: serde_json::Map<String, Value> =
            types.iter().map(|a| ((*a).to_owned(), serde_json::json!({"type": "DT_COMPLEX64"}))).collect();
        serde_json::json!({"name": name, "op": op, "input": inputs, "attr": attr})
    };
    let nodes = [node("x", "Placeholder", &[], &["dtype"]), node("y", "FFT", &["x"], &["Tcomplex"])];
    let model = serde_json::json!({
        "format": "graph-model",
        "modelTopology": {"node": nodes, "versions": {"producer": 1}},
        "weightsManifest": [],
    });
    fs::write(dir.path().join("model.json"), model.to_string()).unwrap();
    let text = stdout(tfjs().args(["inspect", "--target", "wasm", "--target", "webgl"]).arg(dir.path()));
    assert!(text.contains("target wasm: 2 of 2 nodes cannot run, 2 after a conversion"), "{text}");
    assert!(text.contains("wasm has no kernel FFT"), "{text}");
    assert!(text.contains("target webgl: all of 2 nodes can run"), "{text}");
    tfjs().args(["inspect", "--target", "abacus"]).arg(dir.path()).assert().code(2);
}

#[test]
fn a_dump_holds_the_graph_after_each_pass() {
    let dir = tempdir().unwrap();
    let dump = dir.path().join("dump");
    tfjs()
        .arg("convert")
        .arg("--dump")
        .arg(&dump)
        .arg(digits().join("saved_model"))
        .arg(dir.path().join("m"))
        .assert()
        .success();
    assert!(fs::read_dir(&dump).unwrap().count() > 5);
}

#[test]
fn the_format_of_an_input_is_guessed() {
    let dir = tempdir().unwrap();
    for (path, out) in [("model.h5", "layers"), ("model.keras", "layers"), ("saved_model", "graph")] {
        let model = dir.path().join(path);
        tfjs().arg("convert").arg(digits().join(path)).arg(&model).assert().success();
        let json: Value = serde_json::from_slice(&fs::read(model.join("model.json")).unwrap()).unwrap();
        assert_eq!(json["format"], format!("{out}-model"), "{path}");
    }
    // From what was just written, back to Keras.
    let back = dir.path().join("back.h5");
    let model = dir.path().join("model.h5");
    tfjs().args(["convert", "--output_format=keras"]).args([&model, &back]).assert().success();
    assert!(fs::read(back).unwrap().starts_with(b"\x89HDF"));
}

#[test]
fn layers_that_tensorflow_js_lacks_are_named() {
    let dir = tempdir().unwrap();
    let text = digits().join("../keras2_text/model.h5");
    let run = |flag: &str| tfjs().args(["convert", flag]).arg(&text).arg(dir.path().join("m")).assert();
    let warned = run("--output_format=tfjs_layers_model").success();
    let warned = String::from_utf8_lossy(&warned.get_output().stderr).into_owned();
    assert!(warned.contains("layer `words` (TextVectorization)"), "{warned}");
    assert!(warned.contains("--output_format=tfjs_graph_model"), "{warned}");
    let refused = run("--strict").failure().code(1);
    let refused = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(refused.contains("TextVectorization"), "{refused}");
}

#[test]
fn options_that_no_layer_has_are_named() {
    let dir = tempdir().unwrap();
    let layers = serde_json::json!([{"class_name": "Activation",
        "config": {"name": "act", "activation": "relu", "batch_input_shape": [null, 2], "sharpness": 3}}]);
    let config = serde_json::json!({"name": "s", "layers": layers});
    let model = serde_json::json!({"format": "layers-model", "weightsManifest": [],
        "modelTopology": {"model_config": {"class_name": "Sequential", "config": config}}});
    fs::write(dir.path().join("model.json"), model.to_string()).unwrap();
    let mut convert = tfjs();
    convert.arg("convert").arg(dir.path().join("model.json")).arg(dir.path().join("graph"));
    convert.args(["--input_format=tfjs_layers_model", "--output_format=tfjs_graph_model"]);
    let text = stderr(&mut convert, 0);
    assert!(text.contains("layer `act` (Activation): option `sharpness` is not known"), "{text}");
    let text = stderr(convert.arg("--strict"), 1);
    assert!(text.contains("option `sharpness` is not known"), "{text}");
}

#[test]
fn broken_keras_files_are_refused_with_their_name_and_leave_nothing() {
    let dir = tempdir().unwrap();
    let whole = fs::read(digits().join("model.h5")).unwrap();
    let (broken, out) = (dir.path().join("broken.h5"), dir.path().join("out"));
    for end in [0, 7, 100, 2000, whole.len() / 2] {
        fs::write(&broken, &whole[..end]).unwrap();
        let convert = tfjs().args(["convert", "--input_format=keras"]).args([&broken, &out]).assert();
        let output = convert.failure().code(1);
        let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(message.contains("broken.h5"), "cut at {end}: {message}");
        assert!(!out.join("model.json").exists(), "cut at {end}");
    }
}
