//! Classes that only TF.js has: which models are refused. What they compute is in `fixtures/layers/tfjs.ndjson`.

use serde_json::{Value, json};
use tfjs_layers::{LayersModel, LayersOptions, StoredWeights};

fn refusal(version: &str, class: &str, config: Value, kwargs: Value) -> String {
    let mut config = config;
    config["name"] = "a".into();
    let topology = json!({"class_name": "Model", "keras_version": version, "config": {"name": "m", "layers": [
        {"name": "x", "class_name": "InputLayer", "inbound_nodes": [],
         "config": {"name": "x", "batch_input_shape": [null, 4, 6], "dtype": "float32", "sparse": false}},
        {"name": "a", "class_name": class, "config": config, "inbound_nodes": [[["x", 0, 0, kwargs]]]}],
        "input_layers": [["x", 0, 0]], "output_layers": [["a", 0, 0]]}});
    let options = LayersOptions { strict: false, ..LayersOptions::default() };
    let model = LayersModel::new(&topology, &StoredWeights::ByName(Vec::new()), &options);
    let mut error: Box<dyn std::error::Error> = match model.and_then(|m| m.to_graph().map(|_| ())) {
        Ok(()) => return String::new(),
        Err(e) => Box::new(e),
    };
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source.to_string().into();
    }
    text
}

const TFJS: &str = "tfjs-layers 4.22.0";

#[test]
fn classes_of_kerasnlp_with_the_same_names_are_refused_in_files_of_keras() {
    for (class, config) in [
        ("PositionEmbedding", json!({"sequence_length": 7})),
        ("TransformerDecoder", json!({"intermediate_dim": 5, "num_heads": 2})),
    ] {
        assert_eq!(refusal(TFJS, class, config.clone(), json!({})), "");
        for version in ["2.15.0", "3.5.0"] {
            let text = refusal(version, class, config.clone(), json!({}));
            assert!(text.contains(class) && text.contains("SavedModel"), "{text}");
        }
    }
}

#[test]
fn tools_around_a_model_are_refused_by_name_with_a_way_out() {
    for class in ["StartEndPacker", "GPT2Backbone", "BytePairTokenizer", "GPT2CausalLM", "Preprocessor"] {
        let text = refusal(TFJS, class, json!({}), json!({}));
        assert!(text.contains(class) && text.contains("turn text into numbers"), "{text}");
    }
}

#[test]
fn sequences_longer_than_the_table_of_places_are_refused() {
    let places =
        |length: u32, kwargs| refusal(TFJS, "PositionEmbedding", json!({"sequence_length": length}), kwargs);
    assert_eq!(places(4, json!({})), "");
    assert!(places(3, json!({})).contains("4 steps from place 0"));
    assert!(places(5, json!({"start_index": 2})).contains("4 steps from place 2"));
    assert!(!places(5, json!({"start_index": -1})).is_empty());
    assert!(!places(5, json!({"start_index": "x"})).is_empty());
}

#[test]
fn decoders_without_heads_or_with_a_second_sequence_are_refused() {
    let block = |heads: u32, kwargs| {
        refusal(TFJS, "TransformerDecoder", json!({"intermediate_dim": 5, "num_heads": heads}), kwargs)
    };
    assert!(block(0, json!({})).contains("num_heads"));
    assert!(block(7, json!({})).contains("7 heads"));
    assert!(block(2, json!({"encoder_sequence": ["x", 0, 0]})).contains("encoder_sequence"));
}
