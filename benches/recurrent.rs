//! Recurrent cells over sequences: forwards, and forwards and back as in training; and a model of two LSTM layers.
mod common;

use common::noise;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tfjs_graph::{
    GraphModel, ModelOptions, Port,
    builder::{Builder, attr},
    gradients::gradients,
};
use tfjs_kernels::{
    DType, Tensor,
    recurrent::{Cell, Gate, Given, Gradients, RecurrentKernel, Sequence},
};

const FITS: &str = "shapes that go together";

/// Batch, steps, units.
const SIZES: &[[usize; 3]] = &[[1, 50, 128], [1, 100, 256], [16, 50, 128], [32, 30, 256], [1, 30, 512]];

fn copy(t: &Tensor) -> Tensor {
    Tensor::new(t.shape(), t.data::<f32>().expect("floats").to_vec()).expect(FITS)
}

fn cells(c: &mut Criterion) {
    let cells = [("lstm", Cell::Lstm), ("gru", Cell::Gru { reset_after: true })];
    for (name, cell) in cells {
        let mut group = c.benchmark_group(name);
        for &[batch, time, units] in SIZES {
            let width = cell.gates() * units;
            let (x, kernel) = (noise(&[batch, time, width]), noise(&[units, width]));
            let packed = RecurrentKernel::new(cell, &kernel).expect(FITS);
            let seq = Sequence {
                cell,
                activation: Gate::Tanh,
                recurrent_activation: Gate::Sigmoid,
                time_major: false,
                go_backwards: false,
                return_sequences: true,
                zero_masked: false,
            };
            let flops = 2 * batch * time * units * width;
            let size = format!("{batch}x{time}x{units}");
            group.throughput(Throughput::Elements(flops as u64));
            group.bench_function(BenchmarkId::new("forward", &size), |bench| {
                let run = |x| seq.forward(x, &packed, Given::default(), false).expect(FITS);
                bench.iter_batched(|| copy(&x), run, BatchSize::LargeInput);
            });
            group.throughput(Throughput::Elements(3 * flops as u64));
            let dy = noise(&[batch, time, units]);
            group.bench_function(BenchmarkId::new("forward and back", &size), |bench| {
                let run = |x| {
                    let kernel_now = RecurrentKernel::new(cell, &kernel).expect(FITS);
                    let out = seq.forward(x, &kernel_now, Given::default(), true).expect(FITS);
                    let gradients = Gradients { y: Some(&dy), ..Gradients::default() };
                    let saved = out.saved.expect("it was asked for");
                    seq.backward(gradients, &kernel, saved, None, true).expect(FITS)
                };
                bench.iter_batched(|| copy(&x), run, BatchSize::LargeInput);
            });
        }
    }
}

/// Two LSTM layers of 128 units over 50 steps of 64 numbers, and a dense layer.
fn model(batch: usize, train: bool) -> GraphModel {
    let mut b = Builder::default();
    let x = b.placeholder("x", DType::Float32, &[Some(batch), Some(50), Some(64)]);
    let mut weights: Vec<Port> = Vec::new();
    let mut weight = |b: &mut Builder, shape: &[usize]| {
        let port = if train {
            let dims: Vec<_> = shape.iter().map(|&d| Some(d)).collect();
            b.placeholder(&format!("w{}", weights.len()), DType::Float32, &dims)
        } else {
            b.constant(noise(shape))
        };
        weights.push(port);
        port
    };
    let mut y = x;
    for (i, inputs) in [64i32, 128].into_iter().enumerate() {
        let kernel = weight(&mut b, &[inputs as usize, 512]);
        let recurrent = weight(&mut b, &[128, 512]);
        let bias = weight(&mut b, &[512]);
        let rows = b.constant(Tensor::vector(vec![-1, inputs]));
        let flat = b.op("Reshape", &[y, rows], &[]).expect(FITS);
        let product = b.op("MatMul", &[flat, kernel], &[]).expect(FITS);
        let shape = b.constant(Tensor::vector(vec![batch as i32, 50, 512]));
        let product = b.op("Reshape", &[product, shape], &[]).expect(FITS);
        let sum = b.op("BiasAdd", &[product, bias], &[("data_format", attr::text("NHWC"))]).expect(FITS);
        let attrs = [("return_sequences", attr::bool(i == 0))];
        y = b.op("_SequenceLSTM", &[sum, recurrent], &attrs).expect(FITS);
    }
    let last = weight(&mut b, &[128, 10]);
    let y = b.op("MatMul", &[y, last], &[]).expect(FITS);
    if train {
        let loss = b.op("L2Loss", &[y], &[]).expect(FITS);
        for (i, g) in gradients(&mut b, loss, &weights).expect("all ops have rules").into_iter().enumerate() {
            let g = g.expect("the loss depends on all").dense(&mut b).expect(FITS);
            b.output(&format!("g{i}"), g);
        }
        b.output("loss", loss);
    } else {
        b.output("y", y);
    }
    GraphModel::from_graph(b.finish(), ModelOptions::default())
}

fn two_layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("two lstm layers");
    for batch in [1, 16] {
        let flops = 2 * batch * 50 * 512 * (64 + 128 + 128 + 128);
        for train in [false, true] {
            let model = model(batch, train);
            let mut feeds = vec![("x".to_owned(), noise(&[batch, 50, 64]))];
            if train {
                for (i, shape) in
                    [[64, 512], [128, 512], [512, 0], [128, 512], [128, 512], [512, 0], [128, 10]]
                        .into_iter()
                        .enumerate()
                {
                    let shape = if shape[1] == 0 { &shape[..1] } else { &shape[..] };
                    feeds.push((format!("w{i}"), noise(shape)));
                }
            }
            let name = if train { "gradients" } else { "forward" };
            // The first layer's inputs have no gradient.
            group.throughput(Throughput::Elements(if train { 3 * flops } else { flops } as u64));
            group.bench_function(BenchmarkId::new(name, batch), |bench| {
                bench.iter(|| model.run(feeds.iter().map(|(n, t)| (n, t.clone()))).expect(FITS));
            });
        }
    }
}

criterion_group!(benches, cells, two_layers);
criterion_main!(benches);
