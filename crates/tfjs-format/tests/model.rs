//! `model.json` in its dialects.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use serde_json::json;
use tfjs_format::{Codec, FormatError, ModelFormat, ModelJson, Quantization, Storage, Topology, WeightSpec};

fn parse(value: serde_json::Value) -> Result<ModelJson, FormatError> {
    ModelJson::parse(value.to_string().as_bytes())
}

/// As the reference writes it: key order, separators, floats.
const HASH_TABLE_MODEL: &str = concat!(
    r#"{"format": "graph-model", "generatedBy": "2.19.0", "convertedBy": "TensorFlow.js Converter v4.22.0", "#,
    r#""signature": {"inputs": {"unknown:0": {"name": "unknown:0", "dtype": "DT_RESOURCE", "tensorShape": {}, "#,
    r#""resourceId": 2726}, "x": {"name": "x:0", "dtype": "DT_STRING", "tensorShape": {"dim": [{"size": "-1"}]}}}, "#,
    r#""outputs": {"id": {"name": "Identity:0", "dtype": "DT_INT64", "tensorShape": {"unknownRank": true}}}}, "#,
    r#""modelTopology": {"node": [{"name": "x", "op": "Placeholder", "attr": {"dtype": {"type": "DT_STRING"}}}], "#,
    r#""library": {}, "versions": {"producer": 2129}}, "userDefinedMetadata": {"note": "gr\u00fc\u00df"}, "#,
    r#""modelInitializer": {"node": [{"name": "t", "op": "HashTableV2"}]}, "#,
    r#""initializerSignature": {"outputs": {"Identity:0": {"name": "Identity:0", "dtype": "DT_RESOURCE", "#,
    r#""tensorShape": {}, "resourceId": 2726}}}, "#,
    r#""weightsManifest": [{"paths": ["group1-shard1of1.bin"], "weights": [{"name": "w", "shape": [2, 0], "#,
    r#""dtype": "float32", "quantization": {"dtype": "uint8", "min": -0.0, "scale": 1e-05, "#,
    r#""original_dtype": "float32"}}, {"name": "h", "shape": [], "dtype": "float32", "quantization": "#,
    r#"{"dtype": "float16", "original_dtype": "float32"}}]}]}"#
);

#[test]
fn a_graph_model_is_written_byte_for_byte_as_it_was() {
    let model = ModelJson::parse(HASH_TABLE_MODEL.as_bytes()).unwrap();
    assert_eq!(model.to_json().unwrap(), HASH_TABLE_MODEL);
    let signature = model.effective_signature().unwrap().unwrap();
    assert_eq!(signature.inputs["x"].dims(), Some(vec![None]));
    assert_eq!(signature.inputs["unknown:0"].resource_id, Some(2726));
    assert_eq!(signature.outputs["id"].dims(), None);
    assert_eq!(model.initializer.unwrap().def.node[0].op, "HashTableV2");
}

#[test]
fn a_layers_model_keeps_its_topology_and_nulls() {
    let text = concat!(
        r#"{"format": "layers-model", "generatedBy": null, "convertedBy": null, "modelTopology": "#,
        r#"{"class_name": "Sequential", "config": {"layers": []}, "keras_version": "tfjs-layers 4.22.0"}, "#,
        r#""trainingConfig": {"loss": "mse"}, "weightsManifest": [{"paths": ["weights.bin"], "weights": "#,
        r#"[{"name": "a/b", "shape": [1], "dtype": "float32", "group": "optimizer"}], "note": 1}], "custom": [1.5]}"#
    );
    let model = ModelJson::parse(text.as_bytes()).unwrap();
    assert_eq!(model.to_json().unwrap(), text);
    assert_eq!(model.topology.format(), Some(ModelFormat::LayersModel));
    assert_eq!(model.training_config.unwrap()["loss"], "mse");
}

#[test]
fn files_without_a_format_are_told_apart_by_their_topology() {
    let layers =
        parse(json!({"modelTopology": {"model_config": {"class_name": "Model"}}, "weightsManifest": []}));
    assert!(matches!(layers.unwrap().topology, Topology::Layers(_)));
    let graph = parse(json!({"modelTopology": {"node": []}, "weightsManifest": []})).unwrap();
    assert!(matches!(graph.topology, Topology::Graph(_)));
    assert_eq!(graph.format, None);
    let weights = parse(json!({"modelTopology": null, "weightsManifest": []})).unwrap();
    assert_eq!(weights.topology, Topology::None);
    assert!(weights.to_json().unwrap().contains(r#""modelTopology": null"#));
}

#[test]
fn a_bare_manifest_is_a_model_of_weights_only() {
    let model = parse(
        json!([{"paths": ["group1-shard1of1"], "weights": [{"name": "three", "shape": [1], "dtype": "float32"}]}]),
    );
    let model = model.unwrap();
    assert_eq!(model.topology, Topology::None);
    assert_eq!(model.weights_manifest[0].weights[0].name, "three");
}

#[test]
fn a_signature_in_the_metadata_comes_first() {
    let model = parse(json!({
        "signature": {"inputs": {"new": {"name": "new:0"}}},
        "userDefinedMetadata": {"signature": {"inputs": {"old": {"name": "old:0"}}}, "structuredOutputKeys": ["a", "b"]},
        "modelTopology": {"node": []},
    }));
    let model = model.unwrap();
    assert!(model.effective_signature().unwrap().unwrap().inputs.contains_key("old"));
    assert_eq!(model.structured_output_keys(), Some(vec!["a", "b"]));
}

#[test]
fn keys_of_a_signature_keep_their_order() {
    let text = r#"{"signature": {"outputs": {"z": {"name": "1"}, "a": {"name": "2"}, "m": {"name": "3"}}}, "modelTopology": {"node": []}}"#;
    let signature = ModelJson::parse(text.as_bytes()).unwrap().signature.unwrap();
    assert_eq!(signature.outputs.keys().collect::<Vec<_>>(), ["z", "a", "m"]);
}

#[test]
fn weight_specs_go_through_serde() {
    let spec: WeightSpec = serde_json::from_value(json!({
        "name": "w", "shape": [3], "dtype": "int32",
        "quantization": {"dtype": "uint16", "scale": 2.5, "min": -1, "extra": true},
    }))
    .unwrap();
    assert_eq!((spec.storage(), spec.byte_len().unwrap()), (Storage::Uint16, Some(6)));
    let Some(Quantization { codec: Codec::Uint16(line), original_dtype: None, .. }) = &spec.quantization
    else {
        panic!("{spec:?}")
    };
    assert_eq!((line.min, line.scale), (-1.0, 2.5));
    assert_eq!(serde_json::to_value(&spec).unwrap()["quantization"]["extra"], true);
}
