//! The sequence of one sample: each step multiplies a vector by the recurrent kernel, whose reading is what takes time.
//!
//! The kernel is laid out by blocks of units, a vector wide, with the gates of a block side by side: gates and states of a
//! block are made while its sums are in registers. Threads share the blocks, so that each keeps its own part of the kernel
//! in its second cache. Every other step takes the blocks from the last to the first: what was read last is still there.

use std::ops::Range;

use super::{
    Cell, Layout, Mask, Sequence,
    function::{Function, Gate, Sigmoid, Tanh},
    step::{load, mixed, store},
};
use crate::{
    par::{self, Disjoint},
    scratch::Aligned,
    simd::{self, Isa, Kernel, Simd},
};

/// Bytes of the kernel per thread below which waiting for each other would cost more than it gains: these take one or two
/// microseconds to read.
const PART: usize = 128 * 1024;

/// A recurrent kernel by blocks of units: rows of a block follow each other, each a vector per gate.
#[derive(Clone, Debug)]
pub(super) struct Interleaved {
    isa: Isa,
    units: usize,
    gates: usize,
    data: Aligned,
}

impl Interleaved {
    /// Lays out `kernel: [units, gates · units]`.
    pub(super) fn new(isa: Isa, units: usize, gates: usize, kernel: &[f32]) -> Interleaved {
        let lanes = isa.lanes();
        let mut data = Aligned::zeroed(units.next_multiple_of(lanes) * units * gates);
        for (i, to) in data.as_mut_slice().chunks_exact_mut(lanes).enumerate() {
            let (block, row, gate) = (i / gates / units, i / gates % units, i % gates);
            let first = block * lanes;
            let n = lanes.min(units - first);
            to[..n].copy_from_slice(&kernel[(row * gates + gate) * units + first..][..n]);
        }
        Interleaved { isa, units, gates, data }
    }

    /// Memory taken, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.data.as_slice())
    }
}

/// A sequence that is being run.
pub(super) struct Alone<'a> {
    pub(super) seq: &'a Sequence,
    pub(super) at: Layout,
    pub(super) mask: &'a Mask<'a>,
    pub(super) kernel: &'a Interleaved,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) x: &'a [f32],
}

impl Alone<'_> {
    /// Runs all steps from hidden state `h`; returns that after them. `c` is the cell state before and after.
    ///
    /// # Panics
    /// When the kernel, inputs, states or outputs are not of the sizes that the layout says.
    pub(super) fn run(&self, h: &[f32], c: &mut [f32], y: &mut [f32]) -> Vec<f32> {
        let Layout { units, width, time, .. } = self.at;
        assert!(self.kernel.units == units && self.kernel.gates * units == width);
        if units == 0 {
            return Vec::new();
        }
        let lanes = self.kernel.isa.lanes();
        let blocks = units.div_ceil(lanes);
        // States before and after a step, in turn.
        let mut states = [h, &vec![0.0; units]].concat();
        {
            let (h, c, y) = (Disjoint::new(&mut states), Disjoint::new(c), Disjoint::new(y));
            let least = PART.div_ceil(self.kernel.bytes() / blocks);
            par::in_step(blocks, least, time, |step, blocks| {
                let part = Part { run: self, h: &h, c: &c, y: &y, step, blocks };
                match (self.seq.activation, self.seq.recurrent_activation) {
                    (Gate::Tanh, Gate::Sigmoid) => part.with(Tanh, Sigmoid),
                    (act, gate) => part.with(act, gate),
                }
            });
        }
        let last = time % 2 * units;
        states[last..last + units].to_vec()
    }
}

/// Some blocks of units in one step. Blocks of a step are different tasks', and steps do not overlap.
struct Part<'a> {
    run: &'a Alone<'a>,
    h: &'a Disjoint<'a, f32>,
    c: &'a Disjoint<'a, f32>,
    y: &'a Disjoint<'a, f32>,
    step: usize,
    blocks: Range<usize>,
}

impl Part<'_> {
    fn with(self, act: impl Function, gate: impl Function) {
        let isa = self.run.kernel.isa;
        match self.run.seq.cell {
            Cell::Simple => simd::dispatch_on(isa, Step::<_, _, 1> { part: self, act, gate }),
            Cell::Gru { .. } => simd::dispatch_on(isa, Step::<_, _, 3> { part: self, act, gate }),
            Cell::Lstm => simd::dispatch_on(isa, Step::<_, _, 4> { part: self, act, gate }),
        }
    }
}

/// [`Part`] of a cell of `G` gates.
struct Step<'a, A, F, const G: usize> {
    part: Part<'a>,
    act: A,
    gate: F,
}

impl<A: Function, F: Function, const G: usize> Kernel for Step<'_, A, F, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { part, act, gate } = self;
        let Part { run, step, blocks, .. } = part;
        let (at, u) = (&run.at, run.at.units);
        let row = at.row(0, step);
        let x = &run.x[row * at.width..][..G * u];
        let (before, after) = (step % 2 * u, (step + 1) % 2 * u);
        // SAFETY: nobody writes the states before a step while it runs.
        let h: &[f32] = unsafe { part.h.slice(before..before + u) };
        let live = run.mask.live(row);
        let shows = run.mask.shows(0, step, row);
        let output = match run.seq.return_sequences {
            true => Some(at.output(0, step) * u),
            false => (step + 1 == at.time).then_some(0),
        };
        for i in blocks.clone() {
            let block = if step % 2 == 0 { i } else { blocks.start + blocks.end - 1 - i };
            let units = block * S::LANES..u.min((block + 1) * S::LANES);
            let old = load(s, &h[units.clone()]);
            let hidden = if live {
                let w = &run.kernel.data.as_slice()[block * S::LANES * G * u..][..S::LANES * G * u];
                let sums: [S::F32; G] = product(s, h, w);
                let mut inputs = [s.zero(); G];
                for (g, v) in inputs.iter_mut().enumerate() {
                    *v = load(s, &x[g * u + units.start..g * u + units.end]);
                }
                match G {
                    1 => act.value(s, s.add(sums[0], inputs[0])),
                    3 => {
                        let mut bias = [s.zero(); G];
                        if let Some(b) = run.bias {
                            for (g, v) in bias.iter_mut().enumerate() {
                                *v = load(s, &b[g * u + units.start..g * u + units.end]);
                            }
                        }
                        let update = gate.value(s, s.add(s.add(sums[0], bias[0]), inputs[0]));
                        let reset = gate.value(s, s.add(s.add(sums[1], bias[1]), inputs[1]));
                        let candidate = act.value(s, s.fma(reset, s.add(sums[2], bias[2]), inputs[2]));
                        mixed(s, update, old, candidate)
                    }
                    _ => {
                        // SAFETY: the cell states of a block are its task's.
                        let c = unsafe { part.c.slice(units.clone()) };
                        let input = gate.value(s, s.add(sums[0], inputs[0]));
                        let forget = gate.value(s, s.add(sums[1], inputs[1]));
                        let candidate = act.value(s, s.add(sums[2], inputs[2]));
                        let output = gate.value(s, s.add(sums[3], inputs[3]));
                        let cell = s.fma(forget, load(s, c), s.mul(input, candidate));
                        store(s, c, cell);
                        s.mul(output, act.value(s, cell))
                    }
                }
            } else {
                old
            };
            // SAFETY: the states after a step of a block are its task's, and so are its outputs.
            let (new, y) = unsafe {
                let y = output.map(|o| part.y.slice(o + units.start..o + units.end));
                (part.h.slice(after + units.start..after + units.end), y)
            };
            store(s, new, hidden);
            if let Some(y) = y {
                store(s, y, if shows { hidden } else { s.zero() });
            }
        }
    }
}

/// `h` times the rows of a block.
#[inline(always)]
fn product<S: Simd, const G: usize>(s: S, h: &[f32], w: &[f32]) -> [S::F32; G] {
    assert!(w.len() >= h.len() * G * S::LANES);
    // Sums of rows in turn, as each addition waits for the one before.
    let split = if G == 1 { 8 } else { 2 };
    let mut acc = [[s.zero(); G]; 8];
    let whole = h.len() - h.len() % split;
    let mut p = w.as_ptr();
    for x in h[..whole].chunks_exact(split) {
        for (acc, &x) in acc.iter_mut().zip(x) {
            let x = s.splat(x);
            for (g, sum) in acc.iter_mut().enumerate() {
                // SAFETY: the length was checked above.
                *sum = s.fma(x, unsafe { s.load_ptr(p.wrapping_add(g * S::LANES)) }, *sum);
            }
            p = p.wrapping_add(G * S::LANES);
        }
    }
    for &x in &h[whole..] {
        let x = s.splat(x);
        for (g, sum) in acc[0].iter_mut().enumerate() {
            // SAFETY: the length was checked above.
            *sum = s.fma(x, unsafe { s.load_ptr(p.wrapping_add(g * S::LANES)) }, *sum);
        }
        p = p.wrapping_add(G * S::LANES);
    }
    let mut n = split / 2;
    while n > 0 {
        let (low, high) = acc.split_at_mut(n);
        for (low, high) in low.iter_mut().zip(high) {
            for (a, &b) in low.iter_mut().zip(&*high) {
                *a = s.add(*a, b);
            }
        }
        n /= 2;
    }
    acc[0]
}
