//! Gates and states of one step, after its recurrent product.
use std::ops::Range;

use super::{
    Cell, Run,
    function::{Function, Gate, Sigmoid, Tanh},
};
use crate::simd::{self, Kernel, Simd};

/// Makes the states after a step, and its outputs. `aside` holds the recurrent product of the candidate of a GRU that resets
/// after.
pub(super) fn step(run: &Run<'_>, samples: Range<usize>, step: usize, aside: &[f32]) {
    let isa = run.kernel.isa;
    match (run.seq.activation, run.seq.recurrent_activation) {
        (Gate::Tanh, Gate::Sigmoid) => {
            simd::dispatch_on(isa, Step { run, samples, step, aside, act: Tanh, gate: Sigmoid });
        }
        (act, gate) => simd::dispatch_on(isa, Step { run, samples, step, aside, act, gate }),
    }
}

/// Makes update and reset gates of a GRU that resets before, and `r·h` in `aside`.
pub(super) fn reset(run: &Run<'_>, samples: Range<usize>, step: usize, aside: &mut [f32]) {
    let isa = run.kernel.isa;
    match run.seq.recurrent_activation {
        Gate::Sigmoid => simd::dispatch_on(isa, Reset { run, samples, step, aside, gate: Sigmoid }),
        gate => simd::dispatch_on(isa, Reset { run, samples, step, aside, gate }),
    }
}

struct Step<'a, A, G> {
    run: &'a Run<'a>,
    samples: Range<usize>,
    step: usize,
    aside: &'a [f32],
    act: A,
    gate: G,
}

impl<A: Function, G: Function> Kernel for Step<'_, A, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { run, samples, step, aside, act, gate } = self;
        let (at, u) = (&run.at, run.at.units);
        let keep = run.before.is_some();
        for (i, sample) in samples.enumerate() {
            let row = at.row(sample, step);
            // SAFETY: rows of this sample are this task's.
            let (x, h) = unsafe {
                (run.x.slice(row * at.width..(row + 1) * at.width), run.h.slice(sample * u..(sample + 1) * u))
            };
            if let Some(before) = &run.before {
                // SAFETY: as above.
                simd::copy(s, h, unsafe { before.slice(row * u..(row + 1) * u) });
            }
            // SAFETY: as above.
            let more = run.more.as_ref().map(|m| unsafe { m.slice(row * u..(row + 1) * u) });
            let live = run.mask.live(row);
            match run.seq.cell {
                Cell::Simple => {
                    if live {
                        simple(s, act, x, h, keep);
                    }
                }
                Cell::Lstm => {
                    // SAFETY: as above.
                    let c = unsafe { run.c.slice(sample * u..(sample + 1) * u) };
                    if let Some(more) = more {
                        simd::copy(s, c, more);
                    }
                    if live {
                        lstm(s, act, gate, x, (h, c), keep);
                    }
                }
                Cell::Gru { reset_after } => {
                    let aside = &aside[i * u..(i + 1) * u];
                    if let Some(more) = more {
                        simd::copy(s, aside, more);
                    }
                    if live && reset_after {
                        gru_after(s, act, gate, x, aside, h, keep);
                    } else if live {
                        gru_before(s, act, x, h, keep);
                    }
                }
            }
            let to = if run.seq.return_sequences {
                at.output(sample, step)
            } else if step + 1 == at.time {
                sample
            } else {
                continue;
            };
            // SAFETY: as above.
            let y = unsafe { run.y.slice(to * u..(to + 1) * u) };
            if run.mask.shows(sample, step, row) {
                simd::copy(s, h, y);
            } else {
                simd::fill_zero(s, y);
            }
        }
    }
}

struct Reset<'a, G> {
    run: &'a Run<'a>,
    samples: Range<usize>,
    step: usize,
    aside: &'a mut [f32],
    gate: G,
}

impl<G: Function> Kernel for Reset<'_, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Reset { run, samples, step, aside, gate } = self;
        let (at, u) = (&run.at, run.at.units);
        for (sample, aside) in samples.zip(aside.chunks_exact_mut(u)) {
            let row = at.row(sample, step);
            // SAFETY: rows of this sample are this task's.
            let (x, h) = unsafe {
                (run.x.slice(row * at.width..(row + 1) * at.width), run.h.slice(sample * u..(sample + 1) * u))
            };
            let (z, rest) = x.split_at_mut(u);
            let r = &mut rest[..u];
            for j in (0..u).step_by(S::LANES) {
                let j = j..u.min(j + S::LANES);
                let update = gate.value(s, load(s, &z[j.clone()]));
                store(s, &mut z[j.clone()], update);
                let reset = gate.value(s, load(s, &r[j.clone()]));
                store(s, &mut r[j.clone()], reset);
                let kept = s.mul(reset, load(s, &h[j.clone()]));
                store(s, &mut aside[j], kept);
            }
        }
    }
}

#[inline(always)]
pub(super) fn load<S: Simd>(s: S, x: &[f32]) -> S::F32 {
    if x.len() == S::LANES { s.load(x) } else { s.load_part(x) }
}

#[inline(always)]
pub(super) fn store<S: Simd>(s: S, to: &mut [f32], v: S::F32) {
    if to.len() == S::LANES { s.store(to, v) } else { s.store_part(to, v) }
}

#[inline(always)]
fn simple<S: Simd>(s: S, act: impl Function, x: &mut [f32], h: &mut [f32], keep: bool) {
    let u = h.len();
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let y = act.value(s, load(s, &x[j.clone()]));
        if keep {
            store(s, &mut x[j.clone()], y);
        }
        store(s, &mut h[j], y);
    }
}

#[inline(always)]
fn lstm<S: Simd>(
    s: S,
    act: impl Function,
    gate: impl Function,
    x: &mut [f32],
    (h, c): (&mut [f32], &mut [f32]),
    keep: bool,
) {
    let u = h.len();
    let (xi, rest) = x.split_at_mut(u);
    let (xf, rest) = rest.split_at_mut(u);
    let (xc, xo) = rest.split_at_mut(u);
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let input = gate.value(s, load(s, &xi[j.clone()]));
        let forget = gate.value(s, load(s, &xf[j.clone()]));
        let candidate = act.value(s, load(s, &xc[j.clone()]));
        let output = gate.value(s, load(s, &xo[j.clone()]));
        let cell = s.fma(forget, load(s, &c[j.clone()]), s.mul(input, candidate));
        store(s, &mut c[j.clone()], cell);
        let hidden = s.mul(output, act.value(s, cell));
        store(s, &mut h[j.clone()], hidden);
        if keep {
            store(s, &mut xi[j.clone()], input);
            store(s, &mut xf[j.clone()], forget);
            store(s, &mut xc[j.clone()], candidate);
            store(s, &mut xo[j], output);
        }
    }
}

#[inline(always)]
fn gru_after<S: Simd>(
    s: S,
    act: impl Function,
    gate: impl Function,
    x: &mut [f32],
    product: &[f32],
    h: &mut [f32],
    keep: bool,
) {
    let u = h.len();
    let (xz, rest) = x.split_at_mut(u);
    let (xr, xh) = rest.split_at_mut(u);
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let update = gate.value(s, load(s, &xz[j.clone()]));
        let reset = gate.value(s, load(s, &xr[j.clone()]));
        let sum = s.fma(reset, load(s, &product[j.clone()]), load(s, &xh[j.clone()]));
        let candidate = act.value(s, sum);
        let hidden = mixed(s, update, load(s, &h[j.clone()]), candidate);
        store(s, &mut h[j.clone()], hidden);
        if keep {
            store(s, &mut xz[j.clone()], update);
            store(s, &mut xr[j.clone()], reset);
            store(s, &mut xh[j], candidate);
        }
    }
}

/// Update and reset gates are made already.
#[inline(always)]
fn gru_before<S: Simd>(s: S, act: impl Function, x: &mut [f32], h: &mut [f32], keep: bool) {
    let u = h.len();
    let (xz, rest) = x.split_at_mut(u);
    let xh = &mut rest[u..];
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let update = load(s, &xz[j.clone()]);
        let candidate = act.value(s, load(s, &xh[j.clone()]));
        let hidden = mixed(s, update, load(s, &h[j.clone()]), candidate);
        store(s, &mut h[j.clone()], hidden);
        if keep {
            store(s, &mut xh[j], candidate);
        }
    }
}

/// `z h + (1 - z) h̃`
#[inline(always)]
pub(super) fn mixed<S: Simd>(s: S, z: S::F32, h: S::F32, candidate: S::F32) -> S::F32 {
    let rest = s.sub(s.splat(1.0), z);
    s.fma(z, h, s.mul(rest, candidate))
}
