//! Augmentation against Keras's: `fixtures/training/augmentation.json`, which `fixtures/make/augmentation.py` writes. The numbers that
//! are drawn are fixed there, but for signs and places, of which all have to occur.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tfjs_kernels::Tensor;

use super::pass;
use crate::{LayersModel, LayersOptions, StoredWeights};

fn model(keras: &Value, class: &str, config: &Value) -> LayersModel {
    let (version, shape) =
        if keras == 3 { ("3.15.0", "batch_shape") } else { ("2.19.0", "batch_input_shape") };
    let mut config = config.clone();
    config["name"] = json!("layer");
    let layers = json!([
        {"class_name": "InputLayer", "config": {"name": "x", "dtype": "float32", shape: [null, 4, 6, 3]}},
        {"class_name": class, "config": config}]);
    let topology = json!({"keras_version": version,
        "model_config": {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}});
    LayersModel::new(&topology, &StoredWeights::ByName(Vec::new()), &LayersOptions::default()).unwrap()
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn batch(image: &[f32], count: usize) -> Tensor {
    Tensor::new([count, 4, 6, 3], image.repeat(count)).unwrap()
}

fn drawn(model: &LayersModel, x: &Tensor, step: u64) -> Tensor {
    pass(model, std::slice::from_ref(x), true, 3, step).unwrap().outputs.remove(0)
}

#[test]
fn images_are_changed_as_keras_changes_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/training/augmentation.json");
    let fixture: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let image = numbers(&fixture["image"]);
    let mut failed = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let unit = case["unit"] == true;
        let image: Vec<f32> = image.iter().map(|v| if unit { v / 255.0 } else { *v }).collect();
        // Hues are sums and quotients of large numbers.
        let tolerance = if unit { 2e-5 } else { 5e-3 };
        let class = case["class"].as_str().unwrap();
        let model = model(&case["keras"], class, &case["config"]);
        let outputs = case["outputs"].as_array().unwrap();
        let mut seen = vec![0; outputs.len()];
        // What holds for a whole batch differs from step to step.
        for step in 0..if class == "RandomCrop" { 120 } else { 1 } {
            let y = drawn(&model, &batch(&image, 16), step);
            for one in y.data::<f32>().unwrap().chunks(y.len() / 16) {
                let like = |output: &Value| {
                    let expected = numbers(&output["data"]);
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
                    json!(y.dims()[1..]) == output["shape"] && one.iter().zip(&expected).all(close)
                };
                match outputs.iter().position(like) {
                    Some(at) => seen[at] += 1,
                    None => failed.push(format!("{class} {}: {one:?}", case["config"])),
                }
            }
        }
        if seen.contains(&0) {
            failed.push(format!("{class} {}: of the outputs of Keras came {seen:?}", case["config"]));
        }
        failed.dedup();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn some_images_are_changed_as_often_as_the_factor_says() {
    let image = vec![100f32; 72];
    let share = |class: &str, config: &Value| {
        let y = drawn(&model(&json!(3), class, config), &batch(&image, 2000), 0);
        y.data::<f32>().unwrap().chunks(72).filter(|one| **one != image[..]).count() as f64 / 2000.0
    };
    // Five standard errors of a share.
    let about = |got: f64, expected: f64| (got - expected).abs() < 5.0 * 0.5 / 2000f64.sqrt();
    let inverted = share("RandomInvert", &json!({"factor": [0.3, 0.3]}));
    assert!(about(inverted, 0.3), "{inverted}");
    let inverted = share("RandomInvert", &json!({"factor": [0.0, 1.0]}));
    assert!(about(inverted, 0.5), "{inverted}");
    let erased = share("RandomErasing", &json!({"factor": [0.7, 0.7], "scale": [0.3, 0.3]}));
    assert!(about(erased, 0.7), "{erased}");
}

#[test]
fn a_rectangle_is_erased() {
    let config = json!({"factor": [1.0, 1.0], "scale": [0.25, 0.25], "fill_value": 9.0});
    let y = drawn(&model(&json!(3), "RandomErasing", &config), &batch(&[100.0; 72], 300), 0);
    let mut corners = std::collections::BTreeSet::new();
    for one in y.data::<f32>().unwrap().chunks(72) {
        let erased: Vec<(usize, usize)> =
            (0..72).filter(|i| one[*i] == 9.0).map(|i| (i / 18, i / 3 % 6)).collect();
        let (rows, columns): (Vec<_>, Vec<_>) = erased.iter().copied().unzip();
        let span = |v: &[usize]| v.iter().max().unwrap() + 1 - v.iter().min().unwrap();
        // Half of each side: 2 of 4 rows, 3 of 6 columns, all channels.
        assert_eq!((span(&rows), span(&columns), erased.len()), (2, 3, 18));
        assert!(one.iter().all(|v| *v == 9.0 || *v == 100.0));
        corners.insert(erased[0]);
    }
    // It begins behind a fraction of what is left beside it.
    let expected = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)];
    assert!(corners.iter().eq(&expected), "{corners:?}");
}
