//! Keras files that are written are read again as they were.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use serde_json::json;
use tfjs_convert::{
    ConvertError,
    keras::{H5Group, H5Model, KerasArchive, KerasError, KerasFile, write_h5},
};
use tfjs_format::proto::DataType;
use tfjs_graph::{Constant, Tensor};
use tfjs_layers::{StoredWeight, StoredWeights};

fn weight(name: &str, values: &[f32]) -> StoredWeight {
    let value = Constant::new(DataType::DtFloat, Tensor::vector(values.to_vec()));
    StoredWeight { name: name.to_owned(), value }
}

fn values(weight: &StoredWeight) -> Vec<f32> {
    weight.value.tensor().unwrap().data::<f32>().unwrap().to_vec()
}

fn model(layers: Vec<(String, Vec<StoredWeight>)>) -> H5Model {
    H5Model {
        keras_version: "2.15.0".to_owned(),
        backend: "tensorflow".to_owned(),
        model_config: Some(json!({"class_name": "Sequential", "config": {"name": "s", "layers": []}})),
        training_config: Some(json!({"loss": "mse"})),
        layers,
        optimizer: vec![weight("Adam/m/kernel", &[0.5])],
    }
}

#[test]
fn a_legacy_model_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.h5");
    let layers = vec![
        ("input".to_owned(), vec![]),
        ("b".to_owned(), vec![weight("b/kernel", &[1.0, 2.0]), weight("b/bias", &[3.0])]),
        ("a/nested".to_owned(), vec![weight("x", &[])]),
    ];
    let written = model(layers);
    written.write(&path).unwrap();
    let read = KerasFile::open(&path).unwrap();
    assert_eq!(read.keras_version.as_deref(), Some("2.15.0"));
    assert_eq!(read.backend.as_deref(), Some("tensorflow"));
    assert_eq!(read.config, written.model_config);
    assert_eq!(read.training_config, written.training_config);
    assert_eq!(read.optimizer[0].name, "Adam/m/kernel");
    let StoredWeights::ByLayer(layers) = read.weights else { panic!("{:?}", read.weights) };
    let found: Vec<_> = layers
        .iter()
        .map(|(name, list)| (name.as_str(), list.iter().map(|w| (w.name.as_str(), values(w))).collect()))
        .collect::<Vec<(&str, Vec<(&str, Vec<f32>)>)>>();
    assert_eq!(
        found,
        [
            ("input", vec![]),
            ("b", vec![("b/kernel", vec![1.0, 2.0]), ("b/bias", vec![3.0])]),
            ("a/nested", vec![("x", vec![])])
        ]
    );
}

#[test]
fn thousands_of_weights_in_one_group_and_a_config_of_a_megabyte_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.h5");
    let name = |i: usize| format!("{i:04}/a_name_that_makes_the_list_of_names_longer_than_64_kilobytes");
    let list: Vec<_> = (0..3000).map(|i| weight(&name(i), &[i as f32])).collect();
    let names: Vec<String> = (0..7000).map(|i| format!("l{i}")).collect();
    let layers = names.iter().map(|n| (n.clone(), vec![])).chain([("all".to_owned(), list)]).collect();
    let mut written = model(layers);
    written.model_config = Some(json!({"name": "x".repeat(1 << 20), "max_value": "Infinity"}));
    written.write(&path).unwrap();
    let read = KerasFile::open(&path).unwrap();
    assert_eq!(read.config, written.model_config);
    let StoredWeights::ByLayer(layers) = read.weights else { panic!() };
    assert_eq!(layers.len(), 7001);
    let (last, list) = layers.last().unwrap();
    assert_eq!((last.as_str(), list.len()), ("all", 3000));
    for (i, weight) in list.iter().enumerate() {
        assert_eq!((&weight.name, values(weight)), (&name(i), vec![i as f32]));
    }
}

#[test]
fn an_archive_comes_back_with_names_and_assets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.keras");
    let paths: Vec<String> = (0..12).map(|i| format!("layers/dense/vars/{i}")).collect();
    let written = KerasArchive {
        config: json!({"class_name": "Sequential", "compile_config": {"loss": "mse"}}),
        metadata: json!({"keras_version": "3.5.0"}).as_object().unwrap().clone(),
        weights: paths
            .iter()
            .map(|p| weight(p, &[1.0]))
            .chain([weight("optimizer/vars/0", &[2.0])])
            .collect(),
        object_names: [
            ("layers/dense".to_owned(), "out".to_owned()),
            ("layers/input".to_owned(), String::new()),
        ]
        .into(),
        assets: vec![("layers/lookup/vocabulary.txt".to_owned(), "a\nb\n".into())],
    };
    written.write(&path).unwrap();
    let read = KerasFile::open(&path).unwrap();
    assert_eq!(read.config, Some(written.config));
    assert_eq!(read.training_config, Some(json!({"loss": "mse"})));
    assert_eq!(read.keras_version.as_deref(), Some("3.5.0"));
    assert_eq!(read.object_names, written.object_names);
    assert_eq!(read.optimizer.len(), 1);
    assert_eq!(read.assets.paths(), ["layers/lookup/vocabulary.txt"]);
    assert_eq!(read.assets.read("layers/lookup/vocabulary.txt").unwrap().as_deref(), Some(&b"a\nb\n"[..]));
    assert_eq!(read.assets.read("layers/other").unwrap(), None);
    let StoredWeights::ByPath(weights) = read.weights else { panic!() };
    assert_eq!(weights.iter().map(|w| &w.name).collect::<Vec<_>>(), paths.iter().collect::<Vec<_>>());
}

#[test]
fn every_type_that_keras_stores_is_written_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.weights.h5");
    let floats = Tensor::vector(vec![0.5f32, -2.0]);
    let ints = Tensor::vector(vec![7i32, -3]);
    let bools = Tensor::vector(vec![true, false]);
    let cases = [
        (DataType::DtHalf, &floats),
        (DataType::DtBfloat16, &floats),
        (DataType::DtFloat, &floats),
        (DataType::DtDouble, &floats),
        (DataType::DtInt8, &ints),
        (DataType::DtInt16, &ints),
        (DataType::DtInt32, &ints),
        (DataType::DtInt64, &ints),
        (DataType::DtBool, &bools),
    ];
    let mut root = H5Group::new();
    for (i, (dtype, tensor)) in cases.iter().enumerate() {
        root.dataset(&format!("vars/{i}"), Constant::new(*dtype, (*tensor).clone())).unwrap();
    }
    write_h5(&path, &root).unwrap();
    let StoredWeights::ByPath(weights) = KerasFile::open(&path).unwrap().weights else { panic!() };
    assert_eq!(weights.len(), cases.len());
    for (weight, (dtype, tensor)) in weights.iter().zip(cases) {
        assert_eq!(weight.value.data_type(), dtype);
        assert_eq!(&weight.value.tensor().unwrap(), tensor, "{dtype:?}");
    }
}

#[test]
fn nothing_is_left_behind_when_a_value_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.h5");
    let value = Constant::deferred(DataType::DtFloat, vec![1], || Err("gone".into()));
    let broken = StoredWeight { name: "kernel".to_owned(), value };
    let error = model(vec![("dense".to_owned(), vec![broken])]).write(&path).unwrap_err();
    assert!(
        matches!(&error, ConvertError::WriteKeras { source: KerasError::Object { object, .. }, .. }
        if object == "model_weights/dense/kernel"),
        "{error:?}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn two_weights_of_one_name_are_refused() {
    let list = vec![weight("kernel", &[1.0]), weight("kernel", &[2.0])];
    let error = model(vec![("dense".to_owned(), list)]).write(Path::new("never.h5")).unwrap_err();
    assert!(matches!(&error, ConvertError::Keras { source: KerasError::Unwritable { .. }, .. }), "{error:?}");
}
