//! What this machine can do at most: the measure of every kernel.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{
    buffer::Memory,
    par,
    simd::{self, Isa, Kernel, Simd},
};

/// Measured limits of the CPU, on as many threads as kernels would use where they are measured
/// (see [`Threads::run`](crate::Threads::run)).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Threads that took part.
    pub threads: usize,
    /// Fused multiply-adds of vectors in registers, in floating-point operations (two each) per second.
    pub flops: f64,
    /// Bytes read per second from memory.
    pub read: f64,
    /// Bytes copied per second from memory to memory; each is read and written once.
    pub copied: f64,
}

impl Limits {
    /// Measures with the vector instructions of `isa` (the portable ones, if this CPU lacks them); takes about half a second.
    pub fn measure(isa: Isa) -> Limits {
        let (read, copied) = bandwidth();
        Limits { threads: par::threads(), flops: peak(isa), read, copied }
    }
}

/// Multiply-adds per accumulator and call.
const STEPS: usize = 1 << 14;
/// Independent accumulators: two units of four cycles need eight; sixteen registers have room for twelve.
const ACCUMULATORS: usize = 12;

struct Fma;

impl Kernel for Fma {
    /// Floating-point operations done.
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (factor, term) = (s.splat(black_box(0.999)), s.splat(black_box(1e-3)));
        let mut sums = [s.splat(black_box(1.0)); ACCUMULATORS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.fma(*sum, factor, term);
            }
        }
        let mut total = s.zero();
        for sum in sums {
            total = s.add(total, sum);
        }
        black_box(s.reduce_add(total));
        (2 * STEPS * ACCUMULATORS * S::LANES) as f64
    }
}

/// The best of several short measurements: others on the machine only make it slower.
fn best(seconds: f64, mut measure: impl FnMut() -> f64) -> f64 {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut best = measure();
    while Instant::now() < until {
        best = best.max(measure());
    }
    best
}

fn peak(isa: Isa) -> f64 {
    let parts = par::threads() * 8;
    let isa = if isa.is_available() { isa } else { Isa::Scalar };
    best(0.1, || {
        let start = Instant::now();
        let done: f64 = par::map_ranges(parts, 1, |_| simd::dispatch_on(isa, Fma)).iter().sum();
        done / start.elapsed().as_secs_f64()
    })
}

/// Bytes of the memory that is read: more than caches hold.
const BYTES: usize = 128 << 20;

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.zero(); 8];
        for block in self.0.chunks_exact(8 * S::LANES) {
            for (sum, x) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
                *sum = s.add(*sum, s.load(x));
            }
        }
        sums.iter().map(|&sum| s.reduce_add(sum)).sum()
    }
}

/// Bytes per second read, and copied.
fn bandwidth() -> (f64, f64) {
    let mut data = crate::pool::lasting(Memory::zeroed(BYTES), BYTES / size_of::<f32>());
    // Untouched pages are all the same one.
    data.fill(1.0);
    let chunk = 1 << 16;
    let isa = Isa::current();
    let read = best(0.15, || {
        let start = Instant::now();
        let parts = par::map_ranges(data.len(), chunk, |range| simd::dispatch_on(isa, Sum(&data[range])));
        black_box(parts);
        BYTES as f64 / start.elapsed().as_secs_f64()
    });
    let (from, to) = data.split_at_mut(BYTES / size_of::<f32>() / 2);
    let copied = best(0.15, || {
        let start = Instant::now();
        par::for_each_chunk(to, chunk, |at, to| to.copy_from_slice(&from[at..][..to.len()]));
        black_box(&to);
        (BYTES / 2) as f64 / start.elapsed().as_secs_f64()
    });
    (read, copied)
}

#[cfg(test)]
mod tests {
    use super::peak;
    use crate::{Isa, Threads};

    #[test]
    fn every_instruction_set_has_a_peak() {
        Threads::new(2).unwrap().run(|| {
            for isa in Isa::available() {
                assert!(peak(isa) > 1e6, "{isa}");
            }
        });
    }
}
