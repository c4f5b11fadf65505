//! Pooling, softmax, activations, sums and scaling: kernels that memory feeds.
mod common;

use common::{noise, recycled};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tfjs_kernels::{
    Activation, DataFormat, Padding,
    binary::{BinaryOp, binary},
    normalize::softmax,
    pooling::{Pool2dSpec, avg_pool2d, max_pool2d},
    reduce::{ReduceOp, reduce},
};

fn pooling(c: &mut Criterion) {
    let mut group = c.benchmark_group("pooling");
    let spec = |window: usize, stride: usize| Pool2dSpec {
        window: [window; 2],
        strides: [stride; 2],
        padding: Padding::Same,
        data_format: DataFormat::ChannelsLast,
    };
    let image = noise(&[1, 112, 112, 64]);
    group.throughput(Throughput::Bytes(4 * image.len() as u64));
    let max = spec(3, 2);
    group.bench_function("max 3x3/2 of 112x112x64", |bench| {
        recycled(bench, || max_pool2d(&image, &max).expect("shapes that go together"));
    });
    let mean = spec(3, 1);
    for (size, channels) in [(35, 288), (17, 768)] {
        let image = noise(&[1, size, size, channels]);
        group.throughput(Throughput::Bytes(4 * image.len() as u64));
        group.bench_function(format!("mean 3x3 of {size}x{size}x{channels}"), |bench| {
            recycled(bench, || avg_pool2d(&image, &mean).expect("shapes that go together"));
        });
    }
    let features = noise(&[1, 7, 7, 1280]);
    group.throughput(Throughput::Bytes(4 * features.len() as u64));
    let mean = spec(7, 7);
    group.bench_function("mean of 7x7x1280", |bench| {
        recycled(bench, || avg_pool2d(&features, &mean).expect("shapes that go together"));
    });
}

fn row_wise(c: &mut Criterion) {
    let mut group = c.benchmark_group("softmax");
    for shape in [[1, 1000], [1024, 128], [4096, 16]] {
        let x = noise(&shape);
        group.throughput(Throughput::Bytes(4 * x.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{}x{}", shape[0], shape[1])), |bench| {
            recycled(bench, || softmax(x.clone()).expect("shapes that go together"));
        });
    }
}

fn activations(c: &mut Criterion) {
    let mut group = c.benchmark_group("activation");
    let x = noise(&[100_352]);
    group.throughput(Throughput::Bytes(4 * x.len() as u64));
    for activation in [
        Activation::Relu6,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::HardSwish,
        Activation::Swish,
        Activation::Gelu,
        Activation::GeluTanh,
    ] {
        group.bench_function(BenchmarkId::from_parameter(format!("{activation:?}")), |bench| {
            recycled(bench, || activation.apply(x.clone()).expect("shapes that go together"));
        });
    }
}

/// Height and channels of images whose channels are weighted by squeeze and excitation in EfficientNetB0.
const WEIGHTED: &[[usize; 2]] = &[[112, 32], [56, 96], [28, 240], [14, 480], [7, 1152]];

fn channels(c: &mut Criterion) {
    let mut group = c.benchmark_group("channels");
    for &[size, channels] in WEIGHTED {
        let (image, weights) = (noise(&[1, size, size, channels]), noise(&[1, 1, 1, channels]));
        group.throughput(Throughput::Bytes(4 * image.len() as u64));
        group.bench_function(format!("scale {size}x{size}x{channels}"), |bench| {
            recycled(bench, || binary(BinaryOp::Mul, image.clone(), weights.clone()).expect(FITS));
        });
        group.bench_function(format!("mean of {size}x{size}x{channels}"), |bench| {
            recycled(bench, || reduce(ReduceOp::Mean, image.clone(), &[1, 2], true).expect(FITS));
        });
    }
    let (image, weights) = (noise(&[1, 224, 224, 3]), noise(&[3]));
    group.throughput(Throughput::Bytes(4 * image.len() as u64));
    group.bench_function("scale 224x224x3", |bench| {
        recycled(bench, || binary(BinaryOp::Mul, image.clone(), weights.clone()).expect(FITS));
    });
}

const FITS: &str = "shapes that go together";

criterion_group!(benches, pooling, row_wise, activations, channels);
criterion_main!(benches);
