//! Attention and layer norm, of the sizes of small and middling transformers.
mod common;

use common::{noise, recycled};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tfjs_kernels::{
    attention::{Attention, Order, attention},
    normalize::layer_norm,
};

const FITS: &str = "shapes that go together";

fn attentions(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let how = Attention {
        q: Order::ROWS_FIRST,
        k: Order::ROWS_FIRST,
        v: Order::ROWS_FIRST,
        out: Order::ROWS_FIRST,
        scale: 0.125,
    };
    for [batch, rows, heads, depth] in [[1, 128, 4, 64], [1, 512, 12, 64], [8, 197, 12, 64], [1, 2048, 8, 64]]
    {
        let [q, k, v] = [(); 3].map(|()| noise(&[batch, rows, heads, depth]));
        group.throughput(Throughput::Elements((4 * batch * heads * rows * rows * depth) as u64));
        let name = format!("{batch}x{rows}x{heads}x{depth}");
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            recycled(bench, || attention(&q, &k, &v, None, &how).expect(FITS));
        });
    }
}

fn layer_norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("layer norm");
    for shape in [[128, 256], [512, 768], [4096, 64]] {
        let x = noise(&shape);
        let (scale, offset) = (noise(&shape[1..]), noise(&shape[1..]));
        group.throughput(Throughput::Bytes(4 * x.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{}x{}", shape[0], shape[1])), |bench| {
            recycled(bench, || layer_norm(x.clone(), 1, Some(&scale), Some(&offset), 1e-3).expect(FITS));
        });
    }
}

criterion_group!(benches, attentions, layer_norms);
criterion_main!(benches);
