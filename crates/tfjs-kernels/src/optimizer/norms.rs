use std::sync::atomic::{AtomicBool, Ordering};

use super::{Loop, Prepare};
use crate::{
    par,
    simd::{self, Isa, Kernel, Simd},
};

/// Most blocks of a sum: their results lie on the stack.
const BLOCKS: usize = 64;

/// `Σ f(block)` over blocks that depend on `n` alone, added in their order.
pub(super) fn sum_blocks(n: usize, f: impl Fn(std::ops::Range<usize>) -> f64 + Sync + Send) -> f64 {
    let mut sums = [0.0; BLOCKS];
    let block = par::GRAIN.max(n.div_ceil(BLOCKS));
    par::for_each_chunk(&mut sums[..n.div_ceil(block)], 1, |i, sum| {
        sum[0] = f(i * block..n.min((i + 1) * block));
    });
    sums.iter().sum()
}

/// Sum of the squares of a gradient, each multiplied by `unscale` and clipped as `prepare` says.
pub fn sum_squares(x: &[f32], prepare: Prepare) -> f64 {
    let isa = Isa::current();
    sum_blocks(x.len(), |r| simd::dispatch_on(isa, Squares { x: &x[r], prepare }))
}

/// One block of [`sum_squares`].
struct Squares<'a> {
    x: &'a [f32],
    prepare: Prepare,
}

impl Kernel for Squares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let prepare = Prepare { scale: 1.0, ..self.prepare };
        let mut total = 0.0;
        // Short runs in single precision, their sums in double.
        for run in self.x.chunks(1024) {
            let mut sums = [s.zero(); 4];
            let mut pieces = run.chunks_exact(4 * S::LANES);
            for piece in &mut pieces {
                for (k, sum) in sums.iter_mut().enumerate() {
                    let v = prepare.vector(s, s.load(&piece[k * S::LANES..]));
                    *sum = s.fma(v, v, *sum);
                }
            }
            for piece in pieces.remainder().chunks(S::LANES) {
                let v = prepare.vector(s, s.load_part(piece));
                sums[0] = s.fma(v, v, sums[0]);
            }
            total += f64::from(s.reduce_add(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))));
        }
        total
    }
}

/// Whether no element is infinite or not a number.
pub fn all_finite(x: &[f32]) -> bool {
    let isa = Isa::current();
    let finite = AtomicBool::new(true);
    par::for_each_range(x.len(), par::GRAIN, |r| {
        let x = &x[r];
        if !simd::dispatch_on(isa, Loop(|| x.iter().fold(true, |ok, v| ok & (v.abs() <= f32::MAX)))) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.load(Ordering::Relaxed)
}
