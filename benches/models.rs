//! Loading and running whole models: fixtures, converted on the spot.
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up ends here")]

use std::{hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use tfjs_convert::{ConvertOptions, convert};
use tfjs_graph::{DType, GraphModel, Tensor, TensorInfo};

const MODELS: [(&str, usize); 5] =
    [("digits_cnn", 1), ("digits_cnn", 32), ("mobile_net", 1), ("lstm", 1), ("transformer", 1)];

/// Halves, or class 1: what they are does not matter for the time.
fn input(info: &TensorInfo, batch: usize) -> Tensor {
    let dims = info.shape.as_deref().unwrap_or_default();
    let shape: Vec<usize> =
        dims.iter().enumerate().map(|(i, d)| d.unwrap_or(if i == 0 { batch } else { 8 })).collect();
    let n = shape.iter().product();
    match info.dtype {
        Some(DType::Int32) => Tensor::new(shape, vec![1i32; n]),
        _ => Tensor::new(shape, vec![0.5f32; n]),
    }
    .expect("a small shape")
}

fn models(c: &mut Criterion) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models");
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, batch) in MODELS {
        let source = fixtures.join(name).join("saved_model");
        let output = directory.path().join(name);
        let options = ConvertOptions {
            input: source.to_string_lossy().into_owned(),
            output: output.clone(),
            ..ConvertOptions::default()
        };
        convert(&options, &mut |_| {}).expect("the fixture converts");
        let model = GraphModel::open(&output).expect("the converted model loads");
        let inputs: Vec<(String, Tensor)> =
            model.inputs().iter().map(|info| (info.key.clone(), input(info, batch))).collect();
        let feed = || inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
        c.bench_function(&format!("run {name}, batch {batch}"), |b| {
            b.iter(|| black_box(model.run(feed()).expect("the model runs")));
        });
        if batch == 1 {
            c.bench_function(&format!("load and run {name}"), |b| {
                b.iter(|| {
                    let model = GraphModel::open(&output).expect("the converted model loads");
                    black_box(model.run(feed()).expect("the model runs"))
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = models
}
criterion_main!(benches);
