//! Configurations with numbers, words and structures where they do not belong: an error or a model, never a panic and never
//! memory without bound.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use serde_json::{Value, json};
use tfjs_layers::{LayersModel, LayersOptions, StoredWeights};

/// Paths of all values in a config that may be changed.
fn places(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, v) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(v, &format!("{path}/{key}"), out);
            }
            out.push(path.to_owned());
        }
        Value::Array(items) => {
            for (i, v) in items.iter().enumerate() {
                places(v, &format!("{path}/{i}"), out);
            }
            out.push(path.to_owned());
        }
        _ => out.push(path.to_owned()),
    }
}

#[test]
fn no_configuration_makes_loading_panic() {
    let hostile = [
        json!(-1),
        json!(0),
        json!(7),
        json!(2_147_483_648u64),
        json!(9_007_199_254_740_992u64),
        json!(u64::MAX),
        json!(-2.5),
        json!("x"),
        json!(null),
        json!([]),
        json!([0, 1, 2, 3, 4, 5, 6, 7, 8]),
        json!({}),
        json!(true),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/layers");
    let options = LayersOptions { strict: false, ..LayersOptions::default() };
    let mut tried = 0;
    let mut seen = std::collections::HashSet::new();
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "ndjson")) {
        for line in fs::read_to_string(file).unwrap().lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            // One case of each class and version is enough: the others have the same keys.
            if !seen.insert((case["class"].to_string(), case["topology"]["keras_version"].to_string())) {
                continue;
            }
            let mut all = Vec::new();
            places(&case["topology"]["config"], "/config", &mut all);
            for (i, place) in all.iter().enumerate() {
                // Every place gets three of the values, others in every place.
                for k in 0..3 {
                    let mut topology = case["topology"].clone();
                    let Some(spot) = topology.pointer_mut(place) else { continue };
                    *spot = hostile[(i * 3 + k * 5 + tried) % hostile.len()].clone();
                    let _ = LayersModel::new(&topology, &StoredWeights::ByName(Vec::new()), &options);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 1000, "only {tried} configurations were tried");
}
