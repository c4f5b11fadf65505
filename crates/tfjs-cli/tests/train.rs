//! `tfjs train` and `tfjs evaluate` as a user types them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tfjs_layers::{
    LayersModel,
    build::{Conv2D, Dense, Flatten, Sequential},
};

fn tfjs(dir: &TempDir) -> Command {
    let mut command = Command::cargo_bin("tfjs").unwrap();
    command.current_dir(dir.path());
    command
}

fn npy(path: &Path, descr: &str, dims: &str, data: &[u8]) {
    let mut head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    while !(head.len() + 11).is_multiple_of(64) {
        head.push(' ');
    }
    head.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((head.len() as u16).to_le_bytes());
    bytes.extend(head.as_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// A classifier of four numbers into three classes, and 90 samples of which the largest number tells the class.
fn classes() -> TempDir {
    let dir = tempdir().unwrap();
    let model = Sequential::new()
        .add(Dense::new(12).activation("tanh").input_shape([4]).name("hidden"))
        .add(Dense::new(3).activation("softmax").name("scores"))
        .build(3)
        .unwrap();
    model.save(dir.path().join("model")).unwrap();
    let x: Vec<f32> = (0..360).map(|i| ((i * 71 % 97) as f32) / 48.0 - 1.0).collect();
    let best = |r: &[f32]| (0..3).max_by(|&a, &b| r[a].total_cmp(&r[b])).unwrap() as i32;
    let y: Vec<i32> = x.chunks(4).map(best).collect();
    let floats: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&dir.path().join("x.npy"), "<f4", "90, 4", &floats);
    npy(&dir.path().join("y.npy"), "<i4", "90,", &y.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let mut table = "a,b,c,d,class\n".to_owned();
    for (row, label) in x.chunks(4).zip(&y) {
        table += &format!("{},{},{},{},{label}\n", row[0], row[1], row[2], row[3]);
    }
    fs::write(dir.path().join("data.csv"), table).unwrap();
    dir
}

fn out(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn err(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stderr.clone()).unwrap()
}

const ARRAYS: [&str; 4] = ["--x", "x.npy", "--y", "y.npy"];

#[test]
fn a_model_is_trained_and_measured() {
    let dir = classes();
    let mut train = tfjs(&dir);
    train.args(["train", "model"]).args(ARRAYS).args(["--validation-split", "0.2", "--epochs", "40"]);
    train.args(["--learning-rate", "0.02", "--json", "out"]);
    let lines: Vec<Value> = out(&mut train).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 40);
    let (first, last) = (&lines[0], &lines[39]);
    assert!(last["loss"].as_f64().unwrap() < 0.5 * first["loss"].as_f64().unwrap(), "{first} {last}");
    assert!(last["accuracy"].as_f64().unwrap() > 0.9 && last["val_accuracy"].is_number(), "{last}");
    let table = fs::read_to_string(dir.path().join("out/history.csv")).unwrap();
    assert!(table.starts_with("epoch,loss,accuracy,val_loss,val_accuracy\n1,"), "{table}");
    let picture = fs::read_to_string(dir.path().join("out/history.svg")).unwrap();
    assert!(
        picture.contains("validation") && picture.contains(">accuracy<") && picture.ends_with("</svg>\n")
    );
    // The file says what it was trained for, so that need not be said again.
    let text = out(tfjs(&dir).args(["evaluate", "out"]).args(ARRAYS).arg("--json"));
    let measured: Value = serde_json::from_str(&text).unwrap();
    assert!(measured["accuracy"].as_f64().unwrap() > 0.85 && measured["samples"] == 90, "{measured}");
    let text = out(tfjs(&dir).args([
        "evaluate",
        "model",
        "--csv",
        "data.csv",
        "--label",
        "class",
        "--metrics",
        "acc",
    ]));
    assert!(text.starts_with("loss: ") && text.contains("\nacc: "), "{text}");
}

#[test]
fn a_training_in_two_parts_ends_as_one_in_one() {
    let dir = classes();
    let train = |epochs: &str, checkpoint: &str, rest: &[&str]| {
        let mut train = tfjs(&dir);
        train.args(["train", "model", "--csv", "data.csv", "--label", "class", "--batch-size", "16"]);
        train
            .args(["--epochs", epochs, "--seed", "7", "--checkpoint", checkpoint, "--threads", "1"])
            .args(rest);
        out(&mut train)
    };
    train("4", "whole", &["whole.keras"]);
    train("2", "parts", &["part.keras"]);
    let text = train("4", "parts", &["--resume", "parts.keras"]);
    assert!(text.starts_with("epoch 3/4: loss "), "{text}");
    let weights = |file: &str| {
        let out = dir.path().join(file.replace('.', "_"));
        tfjs(&dir)
            .args(["convert", "--input_format=keras_keras", "--output_format=tfjs_layers_model", file])
            .arg(&out)
            .assert()
            .success();
        fs::read(out.join("group1-shard1of1.bin")).unwrap()
    };
    assert_eq!(weights("whole.keras"), weights("parts.keras"));
    assert_ne!(weights("whole.keras"), weights("part.keras"));
    assert_eq!(fs::read_to_string(dir.path().join("history.csv")).unwrap().lines().count(), 5, "all epochs");
    LayersModel::open(dir.path().join("whole/best")).unwrap();
}

#[test]
fn frozen_layers_stay_and_early_stopping_stops() {
    let dir = classes();
    let mut train = tfjs(&dir);
    train.args(["train", "model"]).args(ARRAYS).args(["--freeze", "hidden", "--early-stopping", "loss:2"]);
    train.args(["--optimizer", "sgd", "--learning-rate", "0", "--no-shuffle", "--epochs", "9", "out"]);
    let text = out(&mut train);
    assert!(text.contains("epoch 3/9") && !text.contains("epoch 4/9"), "{text}");
    assert!(text.contains("ended early: `loss` was"), "{text}");
    let kernel =
        |m: &str| LayersModel::open(dir.path().join(m)).unwrap().get_weight("hidden/kernel").unwrap();
    assert_eq!(kernel("out"), kernel("model"));
    assert!(!LayersModel::open(dir.path().join("out")).unwrap().is_trainable("hidden").unwrap());
}

#[test]
fn folders_of_pictures_are_classes() {
    let dir = tempdir().unwrap();
    let model = Sequential::new()
        .add(Conv2D::new(2, 3).input_shape([6, 6, 1]))
        .add(Flatten::new())
        .add(Dense::new(2))
        .build(1)
        .unwrap();
    model.save(dir.path().join("model")).unwrap();
    for (class, gray) in [("dark", 40u8), ("light", 200)] {
        fs::create_dir_all(dir.path().join("pictures").join(class)).unwrap();
        for i in 0..8u8 {
            let picture = image::GrayImage::from_pixel(9, 7, image::Luma([gray + 4 * i]));
            picture.save(dir.path().join(format!("pictures/{class}/{i}.png"))).unwrap();
        }
    }
    let pictures = ["--images", "pictures", "--scale", "255"];
    let mut train = tfjs(&dir);
    train.args(["train", "model"]).args(pictures).args(["--validation-split", "0.25", "--epochs", "30"]);
    train.args(["--learning-rate", "0.05", "--batch-size", "4", "out"]);
    let told = train.assert().success();
    let told = String::from_utf8(told.get_output().stderr.clone()).unwrap();
    assert!(told.contains("SparseCategoricalCrossentropy from logits"), "{told}");
    assert_eq!(fs::read_to_string(dir.path().join("out/labels.txt")).unwrap(), "dark\nlight\n");
    let text = out(tfjs(&dir).args(["evaluate", "out"]).args(pictures).arg("--json"));
    let measured: Value = serde_json::from_str(&text).unwrap();
    assert!(measured["accuracy"].as_f64().unwrap() > 0.9, "{measured}");
    // A third class has no place; neither has what is no picture.
    fs::create_dir(dir.path().join("pictures/none")).unwrap();
    let train = |dir: &TempDir| err(tfjs(dir).args(["train", "model"]).args(pictures).arg("other"), 1);
    assert!(train(&dir).contains("no pictures are in it"));
    fs::write(dir.path().join("pictures/none/a.png"), "no picture").unwrap();
    assert!(train(&dir).contains("cannot use the picture pictures/none/a.png"));
    fs::copy(dir.path().join("pictures/dark/0.png"), dir.path().join("pictures/none/a.png")).unwrap();
    assert!(train(&dir).contains("3 folders (dark, light, none), the model's output [?, 2] has room for 2"));
    assert!(!dir.path().join("other").exists());
}

#[test]
fn mistakes_are_told_before_the_first_step() {
    let dir = classes();
    fs::write(dir.path().join("gap.csv"), "a,b,c,d,class\n1,2,3,4,0\n1,,3,4,0\n").unwrap();
    fs::write(dir.path().join("word.csv"), "a,b,c,d,class\n1,2,3,x,0\n").unwrap();
    fs::write(dir.path().join("short.csv"), "a,b,c,d,class\n1,2,3\n").unwrap();
    fs::write(dir.path().join("narrow.csv"), "a,class\n1,0\n").unwrap();
    fs::write(dir.path().join("file"), "in the way").unwrap();
    let labels: Vec<u8> = (0..90).flat_map(|i| i32::from(i == 89).wrapping_mul(3).to_le_bytes()).collect();
    npy(&dir.path().join("four.npy"), "<i4", "90,", &labels);
    let x = ["--x", "x.npy"];
    let table = |file: &'static str| vec!["--csv", file, "--label", "class"];
    let with = |more: &[&'static str]| [&ARRAYS[..], more].concat();
    for (args, part) in [
        (vec![], "give samples with --x, --csv or --images"),
        (x.to_vec(), "give labels with --y"),
        ([&x[..], &["--y", "none.npy"]].concat(), "cannot read none.npy"),
        ([&x[..], &["--y", "four.npy"]].concat(), "3"),
        (vec!["--x", "y.npy", "--y", "y.npy"], "the model expects float32[?, 4]"),
        (vec!["--x", "wrong=x.npy", "--y", "y.npy"], "no input of the model is named `wrong`"),
        (with(&["--optimizer", "adamm"]), "`adamm` is not known"),
        (with(&["--optimizer", "{\"class_name\":"]), "--optimizer is not JSON"),
        (with(&["--loss", "mean_squared"]), "loss `mean_squared` is not known"),
        (with(&["--metrics", "acuracy"]), "did you mean `Accuracy`"),
        (with(&["--loss", "categorical_crossentropy"]), "labels"),
        (with(&["--early-stopping", "val_loss"]), "data to validate with"),
        (with(&["--early-stopping", "loss:soon"]), "such as val_loss:5"),
        (with(&["--class-weight", "0:1"]), "such as 0=0.5,1=2"),
        (with(&["--freeze", "nothing"]), "no layer is named `nothing`"),
        (table("gap.csv"), "line 3 of gap.csv: column `b` has no value"),
        (table("word.csv"), "line 2 of word.csv: column `d` is `x`, which is no number"),
        (table("short.csv"), "line 2 of short.csv: 3 values, the header names 5 columns"),
        (table("narrow.csv"), "1 columns besides `class`, the model takes 4"),
        (vec!["--csv", "data.csv", "--label", "kind"], "no column `kind`; its columns are a, b, c, d, class"),
    ] {
        let message = err(tfjs(&dir).args(["train", "model"]).args(&args).arg("out"), 1);
        assert!(message.contains(part), "{args:?}: {message}");
        assert!(!dir.path().join("out").exists(), "{args:?}");
    }
    let message = err(tfjs(&dir).args(["train", "model"]).args(ARRAYS).arg("file"), 1);
    assert!(message.contains("file"), "{message}");
    for usage in
        [&["--resume"][..], &["--epochs", "0"], &["--validation-split", "1.5"], &["--csv", "data.csv"]]
    {
        err(tfjs(&dir).args(["train", "model"]).args(ARRAYS).args(usage).arg("out"), 2);
    }
    err(tfjs(&dir).args(["train", "model"]).args(ARRAYS), 2);
}

#[test]
fn a_model_that_came_to_nothing_is_not_saved() {
    let dir = classes();
    let x: Vec<u8> =
        [1f32, f32::INFINITY, 0.0, 0.0].repeat(90).iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&dir.path().join("x.npy"), "<f4", "90, 4", &x);
    let message = err(tfjs(&dir).args(["train", "model"]).args(ARRAYS).arg("out"), 1);
    assert!(message.contains("no model was saved: the loss was") && message.contains("layer"), "{message}");
    assert!(!dir.path().join("out").exists());
}

/// The first Ctrl-C ends training after the batch in work and saves the model.
#[cfg(unix)]
#[test]
fn an_interrupted_training_leaves_a_model() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    let dir = classes();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("tfjs"))
        .current_dir(dir.path())
        .args(["train", "model"])
        .args(ARRAYS)
        .args(["--epochs", "1000000", "out"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut model = LayersModel::open(dir.path().join("out")).unwrap();
    assert!(model.restore_training().unwrap() && model.steps() > 0);
    assert!(dir.path().join("out/history.csv").exists());
}

#[test]
fn a_file_that_only_bears_the_name_of_a_keras_file_is_said_to_be_none() {
    let dir = classes();
    let page = "it is neither an HDF5 file (.h5) nor a zip archive (.keras)";
    for (name, content, found) in [
        ("notes.h5", "these are notes", ""),
        ("page.keras", "<html>not found</html>", "a web page"),
        ("model.hdf5", "{\"class_name\": \"Sequential\"}", "JSON text"),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
        for args in [&["train", name, "--x", "x.npy", "--y", "y.npy", "out"][..], &["run", name]] {
            let text = err(tfjs(&dir).args(args), 1);
            assert!(text.contains(name) && text.contains(page) && text.contains(found), "{text}");
        }
        let text = out(tfjs(&dir).args(["inspect", name]));
        assert!(text.contains(page) && text.contains(found), "{text}");
    }
}

/// As on a full disk: nothing may grow beyond so many blocks.
#[cfg(unix)]
#[test]
fn a_save_that_finds_no_room_leaves_the_old_model_whole_and_names_the_file() {
    let dir = classes();
    let large = Sequential::new().add(Dense::new(300).input_shape([300]).name("large")).build(1).unwrap();
    large.save(dir.path().join("large")).unwrap();
    let files = |path: &Path| {
        let mut all: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|f| f.unwrap().path())
            .filter(|p| p.is_file())
            .map(|p| (p.file_name().unwrap().to_owned(), fs::read(&p).unwrap()))
            .collect();
        all.sort();
        all
    };
    for (format, to) in [("tfjs_layers_model", "model"), ("keras", "old.h5"), ("keras_keras", "old.keras")] {
        let convert = |from: &str, limit: &str| {
            let mut command = Command::new("sh");
            let tfjs = env!("CARGO_BIN_EXE_tfjs");
            let line = format!(
                "trap '' XFSZ; ulimit -f {limit}; exec '{tfjs}' convert --input_format tfjs_layers_model --output_format {format} {from}/model.json {to}"
            );
            command.current_dir(dir.path()).args(["-c", &line]);
            command
        };
        if format != "tfjs_layers_model" {
            convert("model", "unlimited").assert().success();
        }
        let place = dir.path().join(to);
        let place = if place.is_dir() { place } else { dir.path().to_owned() };
        let before = files(&place);
        let text = err(&mut convert("large", "64"), 1);
        assert!(
            text.contains("cannot write") && text.contains(to) && text.contains("File too large"),
            "{text}"
        );
        assert!(!text.contains("ZipWriter"), "{text}");
        assert_eq!(files(&place), before);
    }
}
