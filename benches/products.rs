//! Matrix products and convolutions, in shapes of well-known models.
mod common;

use common::{noise, recycled};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tfjs_kernels::{
    Activation, Epilogue, Padding,
    conv::{
        Conv2dSpec, DepthwiseFilter, PackedFilter, conv_filter_grad, conv_image_grad, conv2d,
        depthwise_conv2d, depthwise_filter_grad, depthwise_image_grad,
    },
    matmul::{Orientation, PackedB, matmul, matmul_packed},
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

/// Batch, image size, input and output channels, window, stride: layers in training.
const TRAINING: &[[usize; 6]] =
    &[[32, 28, 16, 32, 3, 1], [16, 28, 64, 64, 3, 1], [16, 14, 128, 256, 3, 2], [16, 28, 32, 192, 1, 1]];

/// A convolution and its two gradients; the filter is packed anew each time, as in training.
fn backward(c: &mut Criterion) {
    let mut group = c.benchmark_group("training");
    for &[batch, size, inputs, outputs, window, stride] in TRAINING {
        let image = noise(&[batch, size, size, inputs]);
        let shape = [window, window, inputs, outputs];
        let filter = noise(&shape);
        let spec = same(stride);
        let out = size.div_ceil(stride);
        let dy = noise(&[batch, out, out, outputs]);
        let flops = 2 * batch * out * out * inputs * outputs * window * window;
        group.throughput(Throughput::Elements(flops as u64));
        let name = format!("{batch}x{size}x{size}x{inputs} to {outputs}, {window}x{window}/{stride}");
        let fits = "shapes that go together";
        group.bench_function(BenchmarkId::new("forward", &name), |bench| {
            recycled(bench, || {
                let filter = PackedFilter::new(&filter, 1).expect(fits);
                conv2d(&image, &filter, &spec, &Epilogue::default()).expect(fits)
            });
        });
        group.bench_function(BenchmarkId::new("by filter", &name), |bench| {
            recycled(bench, || conv_filter_grad(&image, &shape, &dy, &spec).expect(fits));
        });
        group.bench_function(BenchmarkId::new("by image", &name), |bench| {
            recycled(bench, || conv_image_grad(&dy, &filter, [size, size], Some(inputs), &spec).expect(fits));
        });
    }
    // A dense layer of 784 by 512 on a batch of 128: forward, by its weights, by its input.
    let (x, w, dy) = (noise(&[128, 784]), noise(&[784, 512]), noise(&[128, 512]));
    let (plain, turned) = (Orientation::Plain, Orientation::Transposed);
    group.throughput(Throughput::Elements(2 * 128 * 784 * 512));
    for (name, a, b, a_as, b_as) in [
        ("forward", &x, &w, plain, plain),
        ("by filter", &x, &dy, turned, plain),
        ("by image", &dy, &w, plain, turned),
    ] {
        group.bench_function(BenchmarkId::new(name, "128x784 to 512"), |bench| {
            recycled(bench, || matmul(a, b, a_as, b_as).expect("shapes that go together"));
        });
    }
    for [size, channels, window, stride] in [[48, 96, 3, 1], [48, 96, 3, 2]] {
        let image = noise(&[16, size, size, channels]);
        let shape = [window, window, channels, 1];
        let (filter, spec, out) = (noise(&shape), same(stride), size.div_ceil(stride));
        let dy = noise(&[16, out, out, channels]);
        group.throughput(Throughput::Elements((2 * 16 * out * out * channels * window * window) as u64));
        let name = format!("depthwise 16x{size}x{size}x{channels}, {window}x{window}/{stride}");
        let fits = "shapes that go together";
        group.bench_function(BenchmarkId::new("forward", &name), |bench| {
            recycled(bench, || {
                let filter = DepthwiseFilter::new(&filter).expect(fits);
                depthwise_conv2d(&image, &filter, &spec, &Epilogue::default()).expect(fits)
            });
        });
        group.bench_function(BenchmarkId::new("by filter", &name), |bench| {
            recycled(bench, || depthwise_filter_grad(&image, &shape, &dy, &spec).expect(fits));
        });
        group.bench_function(BenchmarkId::new("by image", &name), |bench| {
            recycled(bench, || depthwise_image_grad(&dy, &filter, [size, size], &spec).expect(fits));
        });
    }
}

fn same(stride: usize) -> Conv2dSpec {
    Conv2dSpec { strides: [stride, stride], padding: Padding::Same, ..Conv2dSpec::default() }
}

fn bias_relu6(channels: usize) -> Epilogue {
    Epilogue { bias: Some(noise(&[channels])), activation: Activation::Relu6, ..Epilogue::default() }
}

criterion_group!(benches, gemm, conv, depthwise, backward);
criterion_main!(benches);
