//! The way back: through time, then the gradients of the weights as products over all steps.
use std::ops::Range;

use super::{
    Cell, Layout, Mask, RecurrentKernel, Saved, Sequence,
    function::{Function, Gate, Sigmoid, Tanh},
    of_shape,
    step::{load, store},
};
use crate::{
    KernelError, Result, Tensor,
    epilogue::Finish,
    gemm::{self, Matrix, PackedRhs, Sum, Target, Turned},
    par::{self, Disjoint},
    reduce::{ReduceOp, reduce},
    scratch,
    simd::{self, Isa, Kernel, Simd},
};

/// Gradients of what [`Sequence::forward`] gave; none is zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gradients<'a> {
    /// Of the output.
    pub y: Option<&'a Tensor>,
    /// Of the hidden state after the last step.
    pub h: Option<&'a Tensor>,
    /// Of the cell state after the last step.
    pub c: Option<&'a Tensor>,
}

/// Gradients of what it took.
#[derive(Clone, Debug)]
pub struct Backward {
    /// Of the projected inputs.
    pub x: Tensor,
    /// Of the recurrent kernel, empty if it is not wanted.
    pub kernel: Tensor,
    /// Of the recurrent bias of a GRU that resets after, if it is wanted, else empty.
    pub bias: Tensor,
    /// Of the hidden state before the first step.
    pub h: Tensor,
    /// Of the cell state of an LSTM before the first step, else empty.
    pub c: Tensor,
}

impl Sequence {
    /// Gradients from those of the outputs and what the run forward saved, which is overwritten when nobody else holds it.
    /// Those of recurrent kernel and bias only if `weights` are wanted.
    ///
    /// # Errors
    /// When types or shapes do not go together.
    pub fn backward(
        &self,
        gradients: Gradients<'_>,
        kernel: &Tensor,
        saved: Saved,
        mask: Option<&Tensor>,
        weights: bool,
    ) -> Result<Backward> {
        let cell = self.cell;
        let packed = RecurrentKernel::transposed(cell, kernel)?;
        let mut gates = saved.gates.into_typed::<f32>("the saved gates")?;
        let dims = gates.shape();
        let at = self.layout(&dims, packed.units)?;
        let mask = self.mask(mask, &at, &dims)?;
        let all = [dims[0], dims[1], at.units];
        let state = [at.batch, at.units];
        let shape: &[usize] = if self.return_sequences { &all } else { &state };
        let y = gradients.y.map(|y| of_shape(y, "the gradient of the output", shape)).transpose()?;
        let before = of_shape(&saved.before, "the saved states", &all)?;
        let mut h = self.state(gradients.h, "the gradient of the state", &at)?;
        let lstm = cell == Cell::Lstm;
        let mut c =
            if lstm { self.state(gradients.c, "the gradient of the state", &at)? } else { Vec::new() };
        let mut more = saved.more.into_typed::<f32>("the saved states")?;
        if cell.keeps_more() && more.dims() != all {
            let why = "differ: the first is of what was saved, the second what the gates ask for";
            return Err(KernelError::Shapes { left: more.shape(), right: all.as_slice().into(), why });
        }
        let run = Run {
            seq: self,
            at,
            mask: &mask,
            kernel: &packed,
            y,
            before,
            gates: Disjoint::new(gates.data_mut()),
            more: Disjoint::new(more.data_mut()),
            h: Disjoint::new(&mut h),
            c: Disjoint::new(&mut c),
        };
        let blocks = at.blocks();
        if at.units > 0 {
            par::for_each(blocks.len(), |i| run.block(blocks[i].clone()));
        }
        // With `reset_after` the gradient of the candidate's product differs from that of its input.
        let after = cell == Cell::Gru { reset_after: true };
        let width = at.width;
        let mut dk = vec![0.0; if weights { at.units * width } else { 0 }];
        if !dk.is_empty() {
            let (gates, more) = (gates.data(), more.data());
            match cell {
                Cell::Simple | Cell::Lstm => {
                    products(before, gates, &at, (0, width), (width, width), &mut dk)
                }
                Cell::Gru { .. } => {
                    let u = at.units;
                    products(before, gates, &at, (0, 2 * u), (width, width), &mut dk);
                    if after {
                        products(before, more, &at, (2 * u, u), (u, width), &mut dk);
                    } else {
                        let from = gates.get(2 * u..).unwrap_or_default();
                        products(more, from, &at, (2 * u, u), (width, width), &mut dk);
                    }
                }
            }
        }
        let x = Tensor::from(gates);
        let bias = if after && weights {
            let mut sums = reduce(ReduceOp::Sum, x.clone(), &[0, 1], false)?.into_typed::<f32>("the sums")?;
            let candidate = reduce(ReduceOp::Sum, more.into(), &[0, 1], false)?;
            sums.data_mut()[2 * at.units..].copy_from_slice(candidate.data::<f32>()?);
            sums.into()
        } else {
            Tensor::new([0], Vec::<f32>::new())?
        };
        Ok(Backward {
            x,
            kernel: if weights { Tensor::new([at.units, width], dk)? } else { Tensor::new([0], dk)? },
            bias,
            h: Tensor::new(state, h)?,
            c: if lstm { Tensor::new(state, c)? } else { Tensor::new([0], c)? },
        })
    }
}

/// `lhsᵀ · gates` over all steps, into columns `first..first + n` of the gradient; rows of `gates` are `strides.0` apart,
/// those of the gradient `strides.1`.
fn products(
    lhs: &[f32],
    gates: &[f32],
    at: &Layout,
    (first, n): (usize, usize),
    strides: (usize, usize),
    out: &mut [f32],
) {
    if at.rows() == 0 {
        return;
    }
    let inner = Matrix { data: lhs, rows: at.rows(), strides: (at.units, 1) };
    let rhs = PackedRhs::new(Isa::current(), at.rows(), n, gates, (strides.0, 1));
    let target = Target { start: first, stride: strides.1 };
    gemm::gemm(&Turned { inner, rows: at.units }, &rhs, out, target, &Finish::default());
}

/// A sequence on its way back. Rows of different samples are different threads'.
struct Run<'a> {
    seq: &'a Sequence,
    at: Layout,
    mask: &'a Mask<'a>,
    /// Transposed.
    kernel: &'a RecurrentKernel,
    y: Option<&'a [f32]>,
    before: &'a [f32],
    /// Gates, then their gradients.
    gates: Disjoint<'a, f32>,
    /// What was saved more; with `reset_after` then the gradient of the candidate's product.
    more: Disjoint<'a, f32>,
    h: Disjoint<'a, f32>,
    c: Disjoint<'a, f32>,
}

impl Run<'_> {
    /// All steps of some samples.
    fn block(&self, samples: Range<usize>) {
        let Layout { units: u, width, sample, time, .. } = self.at;
        let before = self.seq.cell == Cell::Gru { reset_after: false };
        let aside = if before { samples.len() * u } else { 0 };
        scratch::with(aside, |aside| {
            for step in (0..time).rev() {
                let rows = samples.len();
                let first = self.at.row(samples.start, step);
                let len = |width: usize| (rows - 1) * sample * width + width;
                self.step(samples.clone(), step);
                let product = |from: &Disjoint<'_, f32>, at: usize, w: usize, part: usize| {
                    // SAFETY: rows from the first to the last of these samples, in one step or in all of a sample, are this
                    // task's, and nobody writes them during the product.
                    let data = unsafe { from.slice(first * w + at..first * w + len(w)) };
                    let lhs = Matrix { data, rows, strides: (sample * w, 1) };
                    let target = Target { start: samples.start * u, stride: u };
                    // SAFETY: the states of these samples are this task's.
                    unsafe {
                        let kernel = &self.kernel.parts()[part];
                        gemm::gemm_part(&lhs, kernel, &self.h, target, &Finish::default(), Sum::Onto);
                    }
                };
                if before {
                    // SAFETY: as above.
                    let data = unsafe { self.gates.slice(first * width + 2 * u..first * width + len(width)) };
                    let lhs = Matrix { data, rows, strides: (sample * width, 1) };
                    let target = Target { start: 0, stride: u };
                    gemm::gemm(&lhs, &self.kernel.parts()[1], aside, target, &Finish::default());
                    self.reset(samples.clone(), step, aside);
                }
                product(&self.gates, 0, width, 0);
                if self.seq.cell == (Cell::Gru { reset_after: true }) {
                    product(&self.more, 0, u, 1);
                }
            }
        });
    }

    fn step(&self, samples: Range<usize>, step: usize) {
        let isa = self.kernel.isa;
        match (self.seq.activation, self.seq.recurrent_activation) {
            (Gate::Tanh, Gate::Sigmoid) => {
                simd::dispatch_on(isa, Step { run: self, samples, step, act: Tanh, gate: Sigmoid });
            }
            (act, gate) => simd::dispatch_on(isa, Step { run: self, samples, step, act, gate }),
        }
    }

    /// The reset gate of a GRU that resets before, from the gradient of `r·h` in `aside`.
    fn reset(&self, samples: Range<usize>, step: usize, aside: &[f32]) {
        let (isa, gate) = (self.kernel.isa, self.seq.recurrent_activation);
        simd::dispatch_on(isa, Reset { run: self, samples, step, aside, gate });
    }
}

struct Step<'a, A, G> {
    run: &'a Run<'a>,
    samples: Range<usize>,
    step: usize,
    act: A,
    gate: G,
}

impl<A: Function, G: Function> Kernel for Step<'_, A, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { run, samples, step, act, gate } = self;
        let (at, u) = (&run.at, run.at.units);
        let after = run.seq.cell == Cell::Gru { reset_after: true };
        for sample in samples {
            let row = at.row(sample, step);
            // SAFETY: rows of this sample are this task's.
            let (x, dh) = unsafe {
                (
                    run.gates.slice(row * at.width..(row + 1) * at.width),
                    run.h.slice(sample * u..(sample + 1) * u),
                )
            };
            if let Some(dy) = run.y
                && run.mask.shows(sample, step, row)
                && (run.seq.return_sequences || step + 1 == at.time)
            {
                let from = if run.seq.return_sequences { at.output(sample, step) } else { sample };
                add(s, dh, &dy[from * u..(from + 1) * u]);
            }
            if !run.mask.live(row) {
                simd::fill_zero(s, x);
                if after {
                    // SAFETY: as above.
                    simd::fill_zero(s, unsafe { run.more.slice(row * u..(row + 1) * u) });
                }
                continue;
            }
            let h = &run.before[row * u..(row + 1) * u];
            match run.seq.cell {
                Cell::Simple => simple(s, act, x, dh),
                Cell::Lstm => {
                    // SAFETY: as above.
                    let (c, dc) = unsafe {
                        (run.more.slice(row * u..(row + 1) * u), run.c.slice(sample * u..(sample + 1) * u))
                    };
                    lstm(s, act, gate, x, c, (dh, dc));
                }
                Cell::Gru { reset_after: true } => {
                    // SAFETY: as above.
                    let product = unsafe { run.more.slice(row * u..(row + 1) * u) };
                    gru_after(s, act, gate, x, product, h, dh);
                }
                Cell::Gru { reset_after: false } => gru_before(s, act, gate, x, h, dh),
            }
        }
    }
}

struct Reset<'a, G> {
    run: &'a Run<'a>,
    samples: Range<usize>,
    step: usize,
    aside: &'a [f32],
    gate: G,
}

impl<G: Function> Kernel for Reset<'_, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Reset { run, samples, step, aside, gate } = self;
        let (at, u) = (&run.at, run.at.units);
        for (sample, aside) in samples.zip(aside.chunks_exact(u)) {
            let row = at.row(sample, step);
            if !run.mask.live(row) {
                continue;
            }
            // SAFETY: rows of this sample are this task's.
            let (x, dh) = unsafe {
                (
                    run.gates.slice(row * at.width + u..row * at.width + 2 * u),
                    run.h.slice(sample * u..(sample + 1) * u),
                )
            };
            let h = &run.before[row * u..(row + 1) * u];
            for j in (0..u).step_by(S::LANES) {
                let j = j..u.min(j + S::LANES);
                let (r, d) = (load(s, &x[j.clone()]), load(s, &aside[j.clone()]));
                let dr = s.mul(s.mul(d, load(s, &h[j.clone()])), gate.slope(s, r));
                store(s, &mut x[j.clone()], dr);
                let sum = s.fma(d, r, load(s, &dh[j.clone()]));
                store(s, &mut dh[j], sum);
            }
        }
    }
}

#[inline(always)]
fn add<S: Simd>(s: S, to: &mut [f32], from: &[f32]) {
    let n = to.len();
    for j in (0..n).step_by(S::LANES) {
        let j = j..n.min(j + S::LANES);
        let sum = s.add(load(s, &to[j.clone()]), load(s, &from[j.clone()]));
        store(s, &mut to[j], sum);
    }
}

#[inline(always)]
fn simple<S: Simd>(s: S, act: impl Function, x: &mut [f32], dh: &mut [f32]) {
    let u = dh.len();
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let y = load(s, &x[j.clone()]);
        let d = s.mul(load(s, &dh[j.clone()]), act.slope(s, y));
        store(s, &mut x[j.clone()], d);
        store(s, &mut dh[j], s.zero());
    }
}

#[inline(always)]
fn lstm<S: Simd>(
    s: S,
    act: impl Function,
    gate: impl Function,
    x: &mut [f32],
    c: &[f32],
    (dh, dc): (&mut [f32], &mut [f32]),
) {
    let u = dh.len();
    let (xi, rest) = x.split_at_mut(u);
    let (xf, rest) = rest.split_at_mut(u);
    let (xc, xo) = rest.split_at_mut(u);
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let (i, f) = (load(s, &xi[j.clone()]), load(s, &xf[j.clone()]));
        let (g, o) = (load(s, &xc[j.clone()]), load(s, &xo[j.clone()]));
        let before = load(s, &c[j.clone()]);
        // As the way forward made it.
        let shown = act.value(s, s.fma(f, before, s.mul(i, g)));
        let hidden = load(s, &dh[j.clone()]);
        let cell = s.fma(s.mul(hidden, o), act.slope(s, shown), load(s, &dc[j.clone()]));
        store(s, &mut xo[j.clone()], s.mul(s.mul(hidden, shown), gate.slope(s, o)));
        store(s, &mut xi[j.clone()], s.mul(s.mul(cell, g), gate.slope(s, i)));
        store(s, &mut xf[j.clone()], s.mul(s.mul(cell, before), gate.slope(s, f)));
        store(s, &mut xc[j.clone()], s.mul(s.mul(cell, i), act.slope(s, g)));
        store(s, &mut dc[j.clone()], s.mul(cell, f));
        store(s, &mut dh[j], s.zero());
    }
}

#[inline(always)]
fn gru_after<S: Simd>(
    s: S,
    act: impl Function,
    gate: impl Function,
    x: &mut [f32],
    product: &mut [f32],
    h: &[f32],
    dh: &mut [f32],
) {
    let u = dh.len();
    let (xz, rest) = x.split_at_mut(u);
    let (xr, xh) = rest.split_at_mut(u);
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let (z, r, y) = (load(s, &xz[j.clone()]), load(s, &xr[j.clone()]), load(s, &xh[j.clone()]));
        let (d, p) = (load(s, &dh[j.clone()]), load(s, &product[j.clone()]));
        let candidate = s.mul(s.mul(d, s.sub(s.splat(1.0), z)), act.slope(s, y));
        let update = s.mul(s.mul(d, s.sub(load(s, &h[j.clone()]), y)), gate.slope(s, z));
        store(s, &mut xz[j.clone()], update);
        store(s, &mut xr[j.clone()], s.mul(s.mul(candidate, p), gate.slope(s, r)));
        store(s, &mut xh[j.clone()], candidate);
        store(s, &mut product[j.clone()], s.mul(candidate, r));
        store(s, &mut dh[j], s.mul(d, z));
    }
}

/// All but the reset gate.
#[inline(always)]
fn gru_before<S: Simd>(
    s: S,
    act: impl Function,
    gate: impl Function,
    x: &mut [f32],
    h: &[f32],
    dh: &mut [f32],
) {
    let u = dh.len();
    let (xz, rest) = x.split_at_mut(u);
    let xh = &mut rest[u..];
    for j in (0..u).step_by(S::LANES) {
        let j = j..u.min(j + S::LANES);
        let (z, y, d) = (load(s, &xz[j.clone()]), load(s, &xh[j.clone()]), load(s, &dh[j.clone()]));
        let candidate = s.mul(s.mul(d, s.sub(s.splat(1.0), z)), act.slope(s, y));
        let update = s.mul(s.mul(d, s.sub(load(s, &h[j.clone()]), y)), gate.slope(s, z));
        store(s, &mut xz[j.clone()], update);
        store(s, &mut xh[j.clone()], candidate);
        store(s, &mut dh[j], s.mul(d, z));
    }
}
