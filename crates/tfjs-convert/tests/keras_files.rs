//! Keras files that Keras wrote, and files that are broken or mean harm.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tfjs_convert::{
    ConvertError,
    keras::{KerasError, KerasFile},
};
use tfjs_layers::{StoredWeight, StoredWeights};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/keras_files").join(name)
}

fn open(name: &str) -> KerasFile {
    KerasFile::open(&fixture(name)).unwrap()
}

fn names(weights: &[StoredWeight]) -> Vec<&str> {
    weights.iter().map(|w| w.name.as_str()).collect()
}

fn by_layer(file: &KerasFile) -> Vec<(&str, Vec<&str>)> {
    let StoredWeights::ByLayer(layers) = &file.weights else { panic!("{:?}", file.weights) };
    layers.iter().map(|(name, weights)| (name.as_str(), names(weights))).collect()
}

fn by_path(file: &KerasFile) -> Vec<&str> {
    let StoredWeights::ByPath(weights) = &file.weights else { panic!("{:?}", file.weights) };
    names(weights)
}

fn class(file: &KerasFile) -> Option<&str> {
    file.config.as_ref()?.get("class_name")?.as_str()
}

#[test]
fn whole_models_of_keras_2_and_3_in_hdf5() {
    let two = open("keras2.h5");
    assert_eq!(two.keras_version.as_deref(), Some("2.19.0"));
    assert_eq!(two.backend.as_deref(), Some("tensorflow"));
    assert_eq!(class(&two), Some("Functional"));
    assert_eq!(two.training_config.as_ref().unwrap()["loss"], "mse");
    let inner = vec![
        "deep/kernel",
        "deep/bias",
        "norm/gamma",
        "norm/beta",
        "norm/moving_mean",
        "norm/moving_variance",
    ];
    let memory = ["kernel", "recurrent_kernel", "bias"].map(|name| format!("memory/lstm_cell/{name}"));
    let memory: Vec<&str> = memory.iter().map(String::as_str).collect();
    let out = vec!["out/kernel", "out/bias"];
    assert_eq!(
        by_layer(&two),
        [("a", vec![]), ("b", vec![]), ("inner", inner), ("memory", memory), ("join", vec![]), ("out", out)]
    );
    // The iteration, and a momentum for each of nine weights.
    assert_eq!(two.optimizer.len(), 10);
    assert_eq!(two.optimizer[0].name, "iteration");

    let three = open("keras3.h5");
    assert!(three.keras_version.as_deref().unwrap().starts_with("3."));
    let layers = by_layer(&three);
    assert_eq!(layers.last(), Some(&("out", vec!["out/kernel", "out/bias"])));
    assert_eq!(layers[2].1[0], "inner/deep/kernel");
    let StoredWeights::ByLayer(layers) = &three.weights else { panic!() };
    let kernel = &layers.last().unwrap().1[0].value;
    assert_eq!(kernel.shape(), [5, 2]);
    assert_eq!(kernel.tensor().unwrap().dtype(), tfjs_format::DType::Float32);
}

#[test]
fn lists_of_names_in_several_attributes_and_weights_alone() {
    let layers = [("a", vec!["a/kernel", "a/bias"]), ("b", vec!["b/kernel", "b/bias"])];
    let split = open("keras2_split_names.h5");
    assert_eq!(class(&split), Some("Sequential"));
    assert_eq!(by_layer(&split), layers);
    let weights = open("keras2_weights.h5");
    assert_eq!(weights.config, None);
    assert_eq!(weights.keras_version.as_deref(), Some("2.19.0"));
    assert_eq!(by_layer(&weights), layers);
}

#[test]
fn archives_and_weights_of_the_new_layout() {
    let paths = [
        "layers/dense/vars/0",
        "layers/dense/vars/1",
        "layers/lstm/cell/vars/0",
        "layers/lstm/cell/vars/1",
        "layers/lstm/cell/vars/2",
        "layers/sequential/layers/batch_normalization/vars/0",
        "layers/sequential/layers/batch_normalization/vars/1",
        "layers/sequential/layers/batch_normalization/vars/2",
        "layers/sequential/layers/batch_normalization/vars/3",
        "layers/sequential/layers/dense/vars/0",
        "layers/sequential/layers/dense/vars/1",
    ];
    let files = [
        "keras3.keras",
        "keras3_folder.keras",
        "keras3_unzipped",
        "keras3.weights.h5",
        "keras3.weights.json",
    ];
    for name in files {
        let file = open(name);
        let mut found = by_path(&file);
        found.sort_unstable(); // shards are in the order in which they were written
        assert_eq!(found, paths, "{name}");
        assert_eq!(file.object_names["layers/dense"], "out", "{name}");
        assert_eq!(file.object_names["layers/sequential/layers/dense"], "deep", "{name}");
    }
    let file = open("keras3.keras");
    assert_eq!(class(&file), Some("Functional"));
    assert_eq!(file.training_config.as_ref().unwrap()["loss"], "mse");
    assert!(file.keras_version.as_deref().unwrap().starts_with("3."));
    // Iteration, learning rate, and a momentum for each of nine weights.
    assert_eq!(file.optimizer.len(), 11);
    assert_eq!(file.optimizer[10].name, "optimizer/vars/10");
    assert_eq!(open("keras3.weights.h5").config, None);

    let two = open("keras2.keras");
    assert_eq!(two.keras_version.as_deref(), Some("2.19.0"));
    assert_eq!(by_path(&two), paths);
    assert!(two.object_names.is_empty());
}

#[test]
fn a_list_of_shards_leads_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("m.weights.json");
    for (name, said) in
        [("../m.h5", "never opened"), ("/etc/hosts", "never opened"), ("missing.h5", "missing.h5")]
    {
        let text = serde_json::json!({"metadata": {}, "weight_map": {"/layers/dense/vars": [name]}});
        std::fs::write(&list, text.to_string()).unwrap();
        let error = KerasFile::open(&list).unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(e) = source {
            text += &format!(": {e}");
            source = e.source();
        }
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn weights_in_the_form_of_numpy() {
    let (file, expected) = (open("keras3_npz.keras"), open("keras3.keras"));
    assert_eq!(by_path(&file), by_path(&expected));
    let (StoredWeights::ByPath(found), StoredWeights::ByPath(expected)) = (&file.weights, &expected.weights)
    else {
        panic!()
    };
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.value.data_type(), expected.value.data_type());
        assert_eq!(found.value.tensor().unwrap(), expected.value.tensor().unwrap(), "{}", found.name);
    }
}

#[test]
fn a_pickle_that_calls_anything_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.keras");
    let mut array =
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".to_vec();
    array.resize(128, b' ');
    array.extend_from_slice(b"\x80\x04cos\nsystem\n\x8c\x04true\x85R.");
    let weights = archive(&[("layers/a.npy", &array)]);
    fs::write(&path, archive(&[("config.json", b"{}"), ("model.weights.npz", &weights)])).unwrap();
    let message = cause(&path).to_string();
    assert!(message.contains("`os.system`, which is never executed"), "{message}");
}

#[test]
fn a_saved_model_gives_config_weights_and_vocabularies() {
    let file = open("saved_model");
    assert_eq!(class(&file), Some("Functional"));
    assert_eq!(file.keras_version.as_deref(), Some("2.19.0"));
    assert_eq!(file.training_config.as_ref().unwrap()["loss"], "mse");
    assert_eq!(by_path(&file), ["layers/embedding/embeddings"]);
    let read = |path: &str| {
        let bytes = file.assets.read(path).unwrap().unwrap_or_else(|| panic!("{path}: {:?}", file.assets));
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    // What `get_vocabulary()` of each layer gives in tf_keras.
    assert_eq!(read("layers/text/vocabulary.txt"), "\n[UNK]\nthe\nsat\ndog\ncat");
    assert_eq!(read("layers/number/vocabulary.txt"), "-1\n-1\n7\n5\n9");
    assert_eq!(read("layers/back/vocabulary.txt"), "[UNK]\nx\ny");
    // Shapes are lists, without the marks of tuples.
    let layers = file.config.as_ref().unwrap()["config"]["layers"].as_array().unwrap();
    assert_eq!(layers[0]["config"]["batch_input_shape"], serde_json::json!([null, 1]));
}

#[test]
fn files_are_known_by_their_contents() {
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in [("keras2.h5", "a.keras"), ("keras3.keras", "b.h5"), ("user_block.h5", "c")] {
        let path = dir.path().join(to);
        fs::copy(fixture(from), &path).unwrap();
        assert!(KerasFile::looks_like(&path));
        assert_eq!(KerasFile::open(&path).unwrap().keras_version, open(from).keras_version);
    }
}

/// The cause inside, which names neither file nor chain.
fn cause(path: &Path) -> KerasError {
    match KerasFile::open(path) {
        Err(ConvertError::Keras { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.h5");
    for (contents, expected) in [
        ("", "it is empty"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("<!DOCTYPE html>", "a web page"),
        ("{\"format\": 1}", "JSON"),
        ("something", "neither an HDF5 file"),
    ] {
        fs::write(&path, contents).unwrap();
        assert!(!KerasFile::looks_like(&path));
        let message = cause(&path).to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert!(matches!(cause(&fixture("features_old.h5")), KerasError::NotKeras));
    let message = KerasFile::open(&dir.path().join("absent.h5")).unwrap_err().to_string();
    assert!(message.contains("absent.h5"), "{message}");
    assert!(KerasFile::open(dir.path()).is_err());
}

#[test]
fn harmful_hdf5_is_refused() {
    for name in ["external_link_earliest.h5", "external_link_latest.h5"] {
        assert!(matches!(cause(&fixture(name)), KerasError::ExternalLink { .. }));
    }
    assert!(matches!(cause(&fixture("cycle.h5")), KerasError::TooMany { .. }));
    assert!(matches!(cause(&fixture("huge.h5")), KerasError::TooLarge { .. }));
    let StoredWeights::ByPath(weights) = open("external_data.h5").weights else { panic!() };
    let error = weights[0].value.tensor().unwrap_err();
    let inner = error.source().and_then(|e| e.downcast_ref::<KerasError>());
    assert!(
        matches!(inner, Some(KerasError::ExternalLink { target, .. }) if target == "other.bin"),
        "{error:?}"
    );
}

/// An archive with these members, all deflated.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, contents) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Replaces bytes everywhere.
fn replaced(bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes;
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

/// Changes the size before compression that the directory gives for a member.
fn with_size(mut bytes: Vec<u8>, member: &str, size: u32) -> Vec<u8> {
    let entry = (0..bytes.len())
        .find(|&at| bytes[at..].starts_with(b"PK\x01\x02") && bytes[at + 46..].starts_with(member.as_bytes()))
        .unwrap();
    bytes[entry + 24..entry + 28].copy_from_slice(&size.to_le_bytes());
    bytes
}

#[test]
fn harmful_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.keras");
    let config = ("config.json", &b"{\"class_name\": \"Sequential\"}"[..]);
    let zeros = vec![0; 1 << 20];
    let bomb = archive(&[config, ("model.weights.h5", &zeros)]);
    type Check = fn(&KerasError) -> bool;
    let is_member: Check = |e| matches!(e, KerasError::Member { .. });
    let cases: Vec<(Vec<u8>, Check)> = vec![
        (archive(&[config, ("../evil", b"")]), is_member),
        (archive(&[config, ("assets/../../evil", b"")]), is_member),
        (archive(&[config, ("/etc/passwd", b"")]), is_member),
        (archive(&[config, ("c:\\evil", b"")]), is_member),
        (with_size(bomb.clone(), "model.weights.h5", u32::MAX - 9), |e| {
            matches!(e, KerasError::TooLarge { .. })
        }),
        (with_size(bomb, "model.weights.h5", 100), is_member),
        (
            replaced(archive(&[config, ("config.jsonX", b"{}"), ("config.jsonY", b"")]), b"jsonY", b"jsonX"),
            |e| matches!(e, KerasError::Zip(_)),
        ),
        (
            archive(&[("metadata.json", b"{}")]),
            |e| matches!(e, KerasError::MissingMember { name, found } if name == "config.json" && found.len() == 1),
        ),
        (archive(&[config]), |e| matches!(e, KerasError::MissingMember { .. })),
        (archive(&[("config.json", b"{")]), |e| matches!(e, KerasError::Json { .. })),
        (archive(&[config, ("model.weights.npz", b"")]), |e| matches!(e, KerasError::Zip(_))),
        (archive(&[config, ("model.weights.h5", b"not HDF5")]), |e| matches!(e, KerasError::Open(_))),
    ];
    for (index, (bytes, expected)) in cases.into_iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let error = cause(&path);
        assert!(expected(&error), "case {index}: {error:?}");
    }
}

#[test]
fn damaged_archives_and_saved_models_give_errors_only() {
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &Path| {
        let Ok(file) = KerasFile::open(path) else { return };
        if let StoredWeights::ByPath(weights) = &file.weights {
            weights.iter().for_each(|w| drop(w.value.tensor()));
        }
        file.assets.paths().iter().for_each(|path| drop(file.assets.read(path)));
    };
    let damage = |whole: &[u8], write: &dyn Fn(&[u8])| {
        for len in (0..whole.len()).step_by(whole.len() / 20 + 1) {
            write(&whole[..len]);
        }
        for at in (0..whole.len()).step_by(whole.len() / 100 + 1) {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0xff;
            write(&bytes);
        }
    };
    let path = dir.path().join("model.keras");
    for name in ["keras3.keras", "keras3_folder.keras", "keras3_npz.keras"] {
        damage(&fs::read(fixture(name)).unwrap(), &|bytes| {
            fs::write(&path, bytes).unwrap();
            read(&path);
        });
    }
    let files = ["keras_metadata.pb", "saved_model.pb", "variables/variables.index"];
    fs::create_dir(dir.path().join("variables")).unwrap();
    for name in files.into_iter().chain(["variables/variables.data-00000-of-00001"]) {
        fs::copy(fixture("saved_model").join(name), dir.path().join(name)).unwrap();
    }
    for name in files {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        damage(&whole, &|bytes| {
            fs::write(&path, bytes).unwrap();
            read(dir.path());
        });
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_changed_weight_in_an_archive_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.keras");
    let StoredWeights::ByPath(weights) = open("keras3.keras").weights else { panic!() };
    let kernel = weights.iter().find(|w| w.name == "layers/lstm/cell/vars/0").unwrap();
    let values: Vec<u8> =
        kernel.value.tensor().unwrap().data::<f32>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes = fs::read(fixture("keras3.keras")).unwrap();
    let mut other = values.clone();
    other[5] ^= 1;
    fs::write(&path, replaced(bytes, &values, &other)).unwrap();
    let StoredWeights::ByPath(weights) = KerasFile::open(&path).unwrap().weights else { panic!() };
    let error = weights[0].value.tensor().unwrap_err();
    let inner = error.source().and_then(|e| e.downcast_ref::<KerasError>());
    assert!(
        matches!(inner, Some(KerasError::Member { name, .. }) if name == "model.weights.h5"),
        "{error:?}"
    );
}

#[test]
fn numbers_that_are_not_finite_are_strings_in_configs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.keras");
    let config = br#"{"class_name": "S", "config": [NaN, -Infinity, {"a \" NaN": Infinity, "b": "NaN \\"}]}"#;
    let weights = {
        let whole = fs::read(fixture("ordered.h5")).unwrap();
        archive(&[("config.json", config), ("model.weights.h5", &whole)])
    };
    fs::write(&path, weights).unwrap();
    let expected: Value =
        serde_json::from_str(r#"["NaN", "-Infinity", {"a \" NaN": "Infinity", "b": "NaN \\"}]"#).unwrap();
    assert_eq!(KerasFile::open(&path).unwrap().config.unwrap()["config"], expected);
}
