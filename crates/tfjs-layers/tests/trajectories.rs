//! Whole trainings against Keras: every line of `fixtures/training/trajectories/*.ndjson.gz` is a small model that tf_keras 2.19
//! or Keras 3.15 trained 20 steps; `fixtures/make/training_cases.py` makes and describes them. `CASES=text` chooses some by id.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{collections::BTreeSet, fmt::Write, fs, io, path::PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use common::chain;
use flate2::read::GzDecoder;
use serde_json::Value;
use tfjs_graph::Constant;
use tfjs_kernels::Tensor;
use tfjs_layers::{
    Batch, ClassWeight, Compile, Dialect, LayersModel, LayersOptions, Loss, Optimizer, StoredWeight,
    StoredWeights, Weight, layers,
};

const STEPS: usize = 20;
/// Both compute in float32, with sums in another order and other elementary functions; 20 steps carry that on.
const RTOL: f64 = 2e-4;
const ATOL: f64 = 2e-5;

const FAMILIES: [&str; 14] = [
    "attention",
    "convolution",
    "core",
    "losses",
    "merging",
    "metrics",
    "networks",
    "normalization",
    "operations",
    "optimizers",
    "penalties",
    "pooling",
    "preprocessing",
    "recurrent",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/training/trajectories")
}

fn cases(family: &str) -> Vec<Value> {
    let file = fs::File::open(folder().join(format!("{family}.ndjson.gz"))).unwrap();
    let text = io::read_to_string(GzDecoder::new(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn dims(json: &Value) -> Vec<usize> {
    json[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect()
}

/// Elements from one on, as a tensor of this shape.
fn tensor(json: &Value, shape: &[usize], from: usize) -> Tensor {
    let bytes = BASE64_STANDARD.decode(json[2].as_str().unwrap()).unwrap();
    let size: usize = shape.iter().product();
    let small = || bytes[from..from + size].iter().map(|b| b.cast_signed());
    let words =
        || bytes[4 * from..4 * (from + size)].chunks_exact(4).map(|b| <[u8; 4]>::try_from(b).unwrap());
    match json[0].as_str().unwrap() {
        "64ths" => Tensor::new(shape, small().map(|b| f32::from(b) / 64.0).collect::<Vec<f32>>()),
        "int8" => Tensor::new(shape, small().map(i32::from).collect::<Vec<i32>>()),
        "int32" => Tensor::new(shape, words().map(i32::from_le_bytes).collect::<Vec<i32>>()),
        "float32" => Tensor::new(shape, words().map(f32::from_le_bytes).collect::<Vec<f32>>()),
        other => panic!("type {other}"),
    }
    .unwrap()
}

/// The model with the weights before training, or others in the same order.
fn load(case: &Value, weights: Option<&Value>) -> Result<LayersModel, String> {
    let mut others = weights.map(|w| w.as_array().unwrap().iter());
    let mut layers = Vec::new();
    for layer in case["weights"].as_array().unwrap() {
        let mut list = Vec::new();
        for weight in layer[1].as_array().unwrap() {
            let own = Value::from(&weight.as_array().unwrap()[1..]);
            let data = others.as_mut().map_or(&own, |o| o.next().unwrap());
            let value = tensor(data, &dims(data), 0);
            let value = Constant::new(value.dtype().to_proto(), value);
            list.push(StoredWeight { name: weight[0].as_str().unwrap().to_owned(), value });
        }
        layers.push((layer[0].as_str().unwrap().to_owned(), list));
    }
    let weights = StoredWeights::ByLayer(layers);
    LayersModel::new(&case["topology"], &weights, &LayersOptions::default()).map_err(|e| chain(&e))
}

fn batches(json: &Value, step: usize) -> Vec<Option<Tensor>> {
    let Some(list) = json.as_array() else { return Vec::new() };
    let one = |json: &Value| {
        let shape = dims(json);
        let size: usize = shape[1..].iter().product();
        tensor(json, &shape[1..], step % shape[0] * size)
    };
    list.iter().map(|json| (!json.is_null()).then(|| one(json))).collect()
}

fn dialect(case: &Value) -> Dialect {
    if case["keras"] == 3 { Dialect::Keras3 } else { Dialect::Keras2 }
}

struct Close {
    rtol: f64,
    atol: f64,
}

impl Close {
    fn is(&self, got: f64, expected: f64) -> bool {
        (got - expected).abs() <= self.atol + self.rtol * expected.abs()
    }
}

fn run(case: &Value) -> Result<(), String> {
    let close =
        Close { rtol: case["rtol"].as_f64().unwrap_or(RTOL), atol: case["atol"].as_f64().unwrap_or(ATOL) };
    let mut model = load(case, None)?;
    let compile = &case["compile"];
    let optimizer = Optimizer::from_config(&compile["optimizer"], dialect(case)).map_err(|e| chain(&e))?;
    let what = Compile {
        loss: compile["loss"].clone(),
        loss_weights: compile["loss_weights"].clone(),
        metrics: compile["metrics"].clone(),
        weighted_metrics: compile["weighted_metrics"].clone(),
    };
    model.compile_with(optimizer, what).map_err(|e| chain(&e))?;
    let classes = &compile["class_weight"];
    let logs = case["logs"].as_object().unwrap();
    for step in 0..STEPS {
        let mut batch = Batch {
            x: batches(&case["x"], step).into_iter().flatten().collect(),
            y: batches(&case["y"], step),
            sample_weight: batches(&case["sw"], step),
        };
        if !classes.is_null() {
            batch = batch
                .weighted_by_class(&ClassWeight::from_config(classes).unwrap())
                .map_err(|e| chain(&e))?;
        }
        let got = model.train_on_batch(&batch).map_err(|e| format!("step {step}: {}", chain(&e)))?;
        for (name, expected) in logs {
            let expected = expected[step].as_f64().unwrap();
            let all = || got.iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", ");
            let value = got.get(name).ok_or_else(|| format!("no {name}: {}", all()))?;
            if !close.is(value, expected) {
                return Err(format!("step {step}: {name} is {value}, expected {expected}"));
            }
        }
    }
    let expected = load(case, Some(&case["final"]))?;
    for ((_, got), (_, want)) in model.weights().zip(expected.weights()) {
        let value = |w: &Weight| w.value.as_ref().unwrap().tensor().unwrap();
        let (a, b) = (value(got), value(want));
        let (Ok(a), Ok(b)) = (a.data::<f32>(), b.data::<f32>()) else { continue };
        for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
            if !close.is(f64::from(a), f64::from(b)) {
                return Err(format!("in the end {} has {a} at {i}, expected {b}", want.keras));
            }
        }
    }
    Ok(())
}

fn check(family: &str) {
    let wanted = std::env::var("CASES").unwrap_or_default();
    let mut failed = String::new();
    let mut count = 0;
    for case in cases(family) {
        let id = case["id"].as_str().unwrap();
        if !id.contains(&wanted) {
            continue;
        }
        if let Err(problem) = run(&case) {
            let _ = writeln!(failed, "{family} {id}: {problem}");
            count += 1;
        }
    }
    assert!(failed.is_empty(), "{count} fail\n{failed}");
}

#[test]
fn attention_layers_train_as_in_keras() {
    check("attention");
}

#[test]
fn convolutions_train_as_in_keras() {
    check("convolution");
}

#[test]
fn dense_layers_activations_and_embeddings_train_as_in_keras() {
    check("core");
}

#[test]
fn models_with_every_loss_train_as_in_keras() {
    check("losses");
}

#[test]
fn layers_that_merge_train_as_in_keras() {
    check("merging");
}

#[test]
fn metrics_while_training_train_as_in_keras() {
    check("metrics");
}

#[test]
fn networks_with_many_parts_weights_and_masks_train_as_in_keras() {
    check("networks");
}

#[test]
fn normalizations_train_as_in_keras() {
    check("normalization");
}

#[test]
fn operations_as_layers_train_as_in_keras() {
    check("operations");
}

#[test]
fn models_with_every_optimizer_train_as_in_keras() {
    check("optimizers");
}

#[test]
fn regularizers_and_constraints_train_as_in_keras() {
    check("penalties");
}

#[test]
fn layers_without_weights_between_others_train_as_in_keras() {
    check("pooling");
}

#[test]
fn preprocessing_before_others_train_as_in_keras() {
    check("preprocessing");
}

#[test]
fn recurrent_layers_train_as_in_keras() {
    check("recurrent");
}

/// Layers of which no trajectory has one, and why.
const WITHOUT: &[(&str, &[&str])] = &[
    (
        "another name of a class that has one",
        &[
            "Convolution1D",
            "Convolution2D",
            "Convolution3D",
            "Convolution1DTranspose",
            "Convolution2DTranspose",
            "Convolution3DTranspose",
            "SeparableConvolution1D",
            "SeparableConvolution2D",
            "MaxPool1D",
            "MaxPool2D",
            "MaxPool3D",
            "AvgPool1D",
            "AvgPool2D",
            "AvgPool3D",
            "GlobalMaxPool1D",
            "GlobalMaxPool2D",
            "GlobalMaxPool3D",
            "GlobalAvgPool1D",
            "GlobalAvgPool2D",
            "GlobalAvgPool3D",
            "GroupedQueryAttention",
            "BatchNormalizationV1",
            "BatchNormalizationV2",
        ],
    ),
    ("of a library beside Keras, and trained as `MultiHeadAttention` is", &["CachedMultiHeadAttention"]),
    ("TF.js's only, and there not to be trained", &["PositionEmbedding", "TransformerDecoder"]),
    ("the layer inside, nothing else; Keras's own has no `call`", &["Wrapper"]),
    ("only within `ConvLSTM2D`", &["ConvLSTM2DCell"]),
    ("takes text, no gradient reaches it", &["StringLookup", "TextVectorization", "HashedCrossing"]),
    (
        "draws random numbers, which are not Keras's",
        &[
            "AugMix",
            "CutMix",
            "MixUp",
            "RandAugment",
            "RandomBrightness",
            "RandomColorDegeneration",
            "RandomColorJitter",
            "RandomContrast",
            "RandomCrop",
            "RandomElasticTransform",
            "RandomErasing",
            "RandomFlip",
            "RandomGaussianBlur",
            "RandomGrayscale",
            "RandomHeight",
            "RandomHue",
            "RandomInvert",
            "RandomPerspective",
            "RandomPosterization",
            "RandomRotation",
            "RandomSaturation",
            "RandomSharpness",
            "RandomShear",
            "RandomTranslation",
            "RandomWidth",
            "RandomZoom",
        ],
    ),
    (
        "changes pictures or sound before a model, without weights",
        &[
            "AutoContrast",
            "ContrastLimitedAdaptiveHistogramEqualization",
            "CLAHE",
            "Equalization",
            "MaxNumBoundingBoxes",
            "Pipeline",
            "Solarization",
            "STFTSpectrogram",
            "MelSpectrogram",
        ],
    ),
    (
        "a single op of TensorFlow 1 in models of Keras 2; ops have gradients of their own",
        &["TensorFlowOpLayer"],
    ),
];

/// Optimizers of which no trajectory has one, and why.
const OPTIMIZERS_WITHOUT: &[(&str, &str)] = &[("Momentum", "TF.js's only: `tests/optimizers.rs` has it")];

fn classes(json: &Value, found: &mut BTreeSet<String>) {
    match json {
        Value::Array(items) => items.iter().for_each(|v| classes(v, found)),
        Value::Object(map) => {
            found.extend(map.get("class_name").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|v| classes(v, found));
        }
        _ => {}
    }
}

#[test]
fn every_layer_loss_and_optimizer_is_trained_or_says_why_not() {
    let (mut layers_trained, mut losses, mut optimizers) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for case in FAMILIES.iter().flat_map(|family| cases(family)) {
        classes(&case["topology"], &mut layers_trained);
        let compile = &case["compile"];
        let optimizer = Optimizer::from_config(&compile["optimizer"], dialect(&case)).unwrap();
        optimizers.insert(optimizer.class_name());
        if let Ok(loss) = Loss::from_config(&compile["loss"], dialect(&case)) {
            losses.insert(loss.class_name());
        }
    }
    let without: BTreeSet<&str> = WITHOUT.iter().flat_map(|(_, classes)| classes.iter().copied()).collect();
    for (family, row) in layers::families().flat_map(|(family, rows)| rows.iter().map(move |r| (family, r))) {
        let trained = layers_trained.contains(row.class);
        assert!(trained || without.contains(row.class), "{family}: {} is trained nowhere", row.class);
        assert!(!(trained && without.contains(row.class)), "{} needs no reason any more", row.class);
    }
    for loss in Loss::classes() {
        assert!(losses.contains(loss), "{loss} is trained nowhere");
    }
    for optimizer in Optimizer::classes() {
        let reason = OPTIMIZERS_WITHOUT.iter().any(|(class, _)| *class == optimizer);
        assert!(optimizers.contains(optimizer) || reason, "{optimizer} is trained nowhere");
    }
}

#[test]
fn every_file_of_trajectories_is_run() {
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let family = name.trim_end_matches(".ndjson.gz");
        assert!(FAMILIES.contains(&family), "{name}");
    }
}
