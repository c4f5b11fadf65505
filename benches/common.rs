//! What several benchmarks need.
use std::hint::black_box;

use criterion::Bencher;
use tfjs_kernels::{BufferPool, KernelError, MemoryLayout, Tensor};

/// Numbers between -0.5 and 0.5 that are the same on every run.
pub(crate) fn noise(shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let data = (0..n).map(|i: usize| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect::<Vec<_>>();
    Tensor::new(shape, data).expect("as many numbers as the shape holds")
}

#[allow(dead_code, reason = "not every benchmark has results to recycle")]
/// Times `f` as a session runs it: the results of one run lie where those of the last one lay.
pub(crate) fn recycled(bench: &mut Bencher<'_>, f: impl Fn() -> Tensor) {
    let (pool, layout) = (BufferPool::new(), MemoryLayout::default());
    bench.iter(|| {
        pool.run(&layout, 0, || {
            drop(black_box(f()));
            Ok::<(), KernelError>(())
        })
    });
}
