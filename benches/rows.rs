//! Pooling, softmax and activations: kernels that memory feeds.
mod common;

use common::{noise, recycled};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tfjs_kernels::{
    Activation, DataFormat, Padding,
    normalize::softmax,
    pooling::{Pool2dSpec, avg_pool2d, max_pool2d},
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
    for activation in
        [Activation::Relu6, Activation::Sigmoid, Activation::Tanh, Activation::Swish, Activation::Gelu]
    {
        group.bench_function(BenchmarkId::from_parameter(format!("{activation:?}")), |bench| {
            recycled(bench, || activation.apply(x.clone()).expect("shapes that go together"));
        });
    }
}

criterion_group!(benches, pooling, row_wise, activations);
criterion_main!(benches);
