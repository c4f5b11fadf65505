//! Matrix products and convolutions, in shapes of well-known models.
mod common;

use common::{noise, recycled};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tfjs_kernels::{
    Activation, Epilogue, Padding,
    conv::{Conv2dSpec, DepthwiseFilter, PackedFilter, conv2d, depthwise_conv2d},
    matmul::{PackedB, matmul_packed},
};

/// Rows, depth, columns. The first is the yardstick; the others are layers of classifiers and of a transformer.
const GEMM: &[[usize; 3]] = &[
    [1024, 1024, 1024],
    [784, 1152, 128],
    [12544, 27, 32],
    [1, 1280, 1000],
    [49, 4608, 512],
    [128, 512, 2048],
    [3136, 64, 64],
];

fn gemm(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    for &[m, k, n] in GEMM {
        let (a, b) = (noise(&[m, k]), PackedB::new(&noise(&[k, n]), false).expect("shapes that go together"));
        let none = Epilogue::default();
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{m}x{k}x{n}")), |bench| {
            recycled(bench, || matmul_packed(&a, &b, false, &none).expect("shapes that go together"));
        });
    }
}

/// Image size, input and output channels, window, stride.
const CONV: &[(&str, [usize; 5])] = &[
    ("mobilenet_v2", [224, 3, 32, 3, 2]),
    ("mobilenet_v2", [112, 32, 16, 1, 1]),
    ("mobilenet_v2", [112, 16, 96, 1, 1]),
    ("mobilenet_v2", [56, 24, 144, 1, 1]),
    ("mobilenet_v2", [28, 32, 192, 1, 1]),
    ("mobilenet_v2", [14, 96, 576, 1, 1]),
    ("mobilenet_v2", [7, 960, 320, 1, 1]),
    ("resnet50", [224, 3, 64, 7, 2]),
    ("resnet50", [56, 64, 64, 3, 1]),
    ("resnet50", [28, 128, 128, 3, 1]),
    ("resnet50", [14, 256, 256, 3, 1]),
    ("resnet50", [7, 512, 512, 3, 1]),
    ("resnet50", [56, 256, 512, 1, 2]),
    ("resnet50", [14, 1024, 256, 1, 1]),
];

fn conv(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d");
    for &(model, [size, inputs, outputs, window, stride]) in CONV {
        let image = noise(&[1, size, size, inputs]);
        let filter = PackedFilter::new(&noise(&[window, window, inputs, outputs]), 1)
            .expect("shapes that go together");
        let spec = same(stride);
        let epilogue = bias_relu6(outputs);
        let cells = size.div_ceil(stride) * size.div_ceil(stride);
        group.throughput(Throughput::Elements((2 * cells * inputs * outputs * window * window) as u64));
        let name = format!("{size}x{size}x{inputs} to {outputs}, {window}x{window}/{stride}");
        group.bench_function(BenchmarkId::new(model, name), |bench| {
            recycled(bench, || conv2d(&image, &filter, &spec, &epilogue).expect("shapes that go together"));
        });
    }
}

/// Image size, channels, window, stride; the last two are of EfficientNet.
const DEPTHWISE: &[[usize; 4]] = &[
    [112, 32, 3, 1],
    [112, 96, 3, 2],
    [56, 144, 3, 1],
    [28, 192, 3, 1],
    [14, 576, 3, 2],
    [7, 960, 3, 1],
    [28, 240, 5, 1],
    [14, 672, 5, 2],
];

fn depthwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("depthwise_conv2d");
    for &[size, channels, window, stride] in DEPTHWISE {
        let image = noise(&[1, size, size, channels]);
        let filter =
            DepthwiseFilter::new(&noise(&[window, window, channels, 1])).expect("shapes that go together");
        let spec = same(stride);
        let epilogue = bias_relu6(channels);
        let cells = size.div_ceil(stride) * size.div_ceil(stride);
        group.throughput(Throughput::Elements((2 * cells * channels * window * window) as u64));
        let name = format!("{size}x{size}x{channels}, {window}x{window}/{stride}");
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            recycled(bench, || {
                depthwise_conv2d(&image, &filter, &spec, &epilogue).expect("shapes that go together")
            });
        });
    }
}

fn same(stride: usize) -> Conv2dSpec {
    Conv2dSpec { strides: [stride, stride], padding: Padding::Same, ..Conv2dSpec::default() }
}

fn bias_relu6(channels: usize) -> Epilogue {
    Epilogue { bias: Some(noise(&[channels])), activation: Activation::Relu6, ..Epilogue::default() }
}

criterion_group!(benches, gemm, conv, depthwise);
criterion_main!(benches);
