//! Recurrent cells run over a whole sequence: simple, LSTM and GRU.
//!
//! What a cell computes from its inputs alone, `x·K + b`, comes in as one product of all steps. Here the rest happens, in
//! place: the recurrent product of a step is added to its rows, then one pass over them makes gates and states.
//! Samples do not depend on each other, so threads share them and never wait for each other within the sequence. A sample
//! that is alone is run in another way (`alone`).
//!
//! For the gradient, [`Sequence::forward`] keeps what [`Sequence::backward`] needs: gates, and states before each step.
//! Gradients of weights are then one product over all steps.

mod alone;
mod backward;
mod function;
mod step;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::OnceLock};

use self::alone::{Alone, Interleaved};
pub use self::{
    backward::{Backward, Gradients},
    function::Gate,
};
use crate::{
    KernelError, Result, Tensor, TensorOf,
    buffer::Buffer,
    epilogue::Finish,
    gemm::{self, Lhs, Matrix, PackedRhs, Sum, Target},
    par::{self, Disjoint},
    pool, scratch,
    simd::Isa,
};

/// What a step computes; h, c: states before it, R: recurrent kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `h' = act(x + h·R)`
    Simple,
    /// `i, f, c̃, o = x + h·R`; `c' = σ(f)·c + σ(i)·act(c̃)`; `h' = σ(o)·act(c')`
    Lstm,
    /// `z, r = σ(x + h·R)`; `h̃ = act(x + (r·h)·R)`, or with `reset_after` `act(x + r·(h·R + b'))`;
    /// `h' = z·h + (1 − z)·h̃`
    Gru {
        /// The reset gate applies to the product rather than to the state.
        reset_after: bool,
    },
}

impl Cell {
    /// Number of gates, the candidate among them.
    pub fn gates(self) -> usize {
        match self {
            Cell::Simple => 1,
            Cell::Lstm => 4,
            Cell::Gru { .. } => 3,
        }
    }

    /// The gates whose recurrent products are computed together.
    fn parts(self) -> &'static [(usize, usize)] {
        match self {
            Cell::Simple => &[(0, 1)],
            Cell::Lstm => &[(0, 4)],
            Cell::Gru { .. } => &[(0, 2), (2, 3)],
        }
    }

    /// Whether anything besides gates and hidden states is kept for the gradient.
    fn keeps_more(self) -> bool {
        self != Cell::Simple
    }
}

/// A cell over a sequence. Inputs are `[batch, time, …]`, or `[time, batch, …]` with `time_major`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sequence {
    /// What a step computes.
    pub cell: Cell,
    /// `act` of the cell.
    pub activation: Gate,
    /// `σ` of the cell.
    pub recurrent_activation: Gate,
    /// Time comes first.
    pub time_major: bool,
    /// From the last step to the first; outputs come in the order in which they are made.
    pub go_backwards: bool,
    /// The output is that of all steps, not of the last.
    pub return_sequences: bool,
    /// Where the mask leaves out a step the output is zero; otherwise that of the step before, zero before the first. States
    /// stay as they were either way.
    pub zero_masked: bool,
}

/// A recurrent kernel `[units, gates · units]`, laid out for the products of a step when the first of them runs.
#[derive(Clone, Debug)]
pub struct RecurrentKernel {
    cell: Cell,
    units: usize,
    isa: Isa,
    source: TensorOf<f32>,
    transposed: bool,
    parts: OnceLock<Vec<PackedRhs>>,
    /// For one sample.
    interleaved: OnceLock<Interleaved>,
}

impl RecurrentKernel {
    /// # Errors
    /// When it is not a `float32` matrix of that shape.
    pub fn new(cell: Cell, kernel: &Tensor) -> Result<RecurrentKernel> {
        let (source, units) = checked(cell, kernel)?;
        Ok(RecurrentKernel {
            cell,
            units,
            isa: Isa::current(),
            source: source.clone(),
            transposed: false,
            parts: OnceLock::new(),
            interleaved: OnceLock::new(),
        })
    }

    /// The transposes of the parts.
    fn transposed(cell: Cell, kernel: &Tensor) -> Result<RecurrentKernel> {
        Ok(RecurrentKernel { transposed: true, ..RecurrentKernel::new(cell, kernel)? })
    }

    /// Size of a state.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Memory taken by layouts that were needed so far, in bytes.
    pub fn bytes(&self) -> usize {
        let parts = self.parts.get().map_or(0, |p| p.iter().map(PackedRhs::bytes).sum());
        parts + self.interleaved.get().map_or(0, Interleaved::bytes)
    }

    /// One matrix for each of the cell's parts.
    fn parts(&self) -> &[PackedRhs] {
        self.parts.get_or_init(|| {
            let width = self.cell.gates() * self.units;
            let part = |&(first, end): &(usize, usize)| {
                let from = self.source.data().get(first * self.units..).unwrap_or_default();
                let cols = (end - first) * self.units;
                if self.transposed {
                    PackedRhs::new(self.isa, cols, self.units, from, (1, width))
                } else {
                    PackedRhs::new(self.isa, self.units, cols, from, (width, 1))
                }
            };
            self.cell.parts().iter().map(part).collect()
        })
    }

    fn interleaved(&self) -> &Interleaved {
        self.interleaved
            .get_or_init(|| Interleaved::new(self.isa, self.units, self.cell.gates(), self.source.data()))
    }
}

fn checked(cell: Cell, kernel: &Tensor) -> Result<(&TensorOf<f32>, usize)> {
    let typed = kernel.typed::<f32>("the recurrent kernel")?;
    match *typed.dims() {
        [units, width] if units.checked_mul(cell.gates()) == Some(width) => Ok((typed, units)),
        _ => Err(KernelError::Rank {
            what: "the recurrent kernel",
            got: typed.shape(),
            expected: "[units, gates · units]",
        }),
    }
}

/// What comes in besides inputs and weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Bias of the recurrent product, `[3 · units]`, of a GRU that resets after.
    pub bias: Option<&'a Tensor>,
    /// Hidden state before the first step, `[batch, units]`; zeros if there is none.
    pub h: Option<&'a Tensor>,
    /// Cell state of an LSTM before the first step.
    pub c: Option<&'a Tensor>,
    /// Which steps count, `bool`, of the shape of the inputs without their last dimension; all if there is none.
    pub mask: Option<&'a Tensor>,
}

/// What comes out.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The output of the last step, `[batch, units]`, or those of all, in the layout of the inputs.
    pub y: Tensor,
    /// Hidden state after the last step.
    pub h: Tensor,
    /// Cell state of an LSTM after the last step, else empty.
    pub c: Tensor,
    /// What the gradient needs, if it was asked for.
    pub saved: Option<Saved>,
}

/// What the gradient of a sequence needs; rows are those of the inputs.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Gates, `[…, gates · units]`.
    pub gates: Tensor,
    /// Hidden states before each step, `[…, units]`.
    pub before: Tensor,
    /// LSTM: cell states before each step. GRU: recurrent product of the candidate (with `reset_after`), or what it is the
    /// product of. Otherwise empty.
    pub more: Tensor,
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    batch: usize,
    time: usize,
    units: usize,
    /// Gates times units.
    width: usize,
    /// Rows between a sample and the next.
    sample: usize,
    /// Rows between a step and the next.
    step: usize,
    backwards: bool,
}

impl Layout {
    /// Row of a sample in the step that is made as number `step`.
    #[inline(always)]
    fn row(&self, sample: usize, step: usize) -> usize {
        let time = if self.backwards { self.time - 1 - step } else { step };
        sample * self.sample + time * self.step
    }

    /// Row of its output.
    #[inline(always)]
    fn output(&self, sample: usize, step: usize) -> usize {
        sample * self.sample + step * self.step
    }

    fn rows(&self) -> usize {
        self.batch * self.time
    }

    /// Samples are cut into pieces, at least two if there are enough to make that pay.
    fn blocks(&self) -> Vec<Range<usize>> {
        let flops = 2 * self.rows() * self.units * self.width;
        let pieces = match self.batch {
            _ if flops < par::GRAIN_FLOPS => 1,
            0..4 => 1,
            n => n.div_ceil(ROWS).clamp(2, MOST_BLOCKS),
        };
        let each = self.batch.div_ceil(pieces).max(1);
        (0..self.batch).step_by(each).map(|first| first..self.batch.min(first + each)).collect()
    }
}

/// Samples per piece, which the tiles of a product take at once.
const ROWS: usize = 8;
/// Every piece reads the recurrent kernel in every step.
const MOST_BLOCKS: usize = 16;

/// The mask of a sequence.
#[derive(Clone, Debug)]
struct Mask<'a> {
    data: Option<&'a [bool]>,
    /// For each sample the number of steps before the first that counts.
    first: Vec<usize>,
    zero: bool,
}

impl Mask<'_> {
    /// Whether the states change in a step.
    #[inline(always)]
    fn live(&self, row: usize) -> bool {
        self.data.is_none_or(|m| m[row])
    }

    /// Whether the output of a step is the state after it, else it is zero.
    #[inline(always)]
    fn shows(&self, sample: usize, step: usize, row: usize) -> bool {
        match self.data {
            None => true,
            Some(mask) if self.zero => mask[row],
            Some(_) => step >= self.first[sample],
        }
    }
}

impl Sequence {
    fn layout(&self, dims: &[usize], units: usize) -> Result<Layout> {
        let width = self.cell.gates() * units;
        let &[first, second, last] = dims else {
            return Err(KernelError::Rank {
                what: "the projected inputs",
                got: dims.into(),
                expected: "three dimensions",
            });
        };
        if last != width {
            let why = "do not go together: inputs have as many columns as the recurrent kernel";
            return Err(KernelError::Shapes {
                left: dims.into(),
                right: [units, width].as_slice().into(),
                why,
            });
        }
        let (batch, time) = if self.time_major { (second, first) } else { (first, second) };
        let (sample, step) = if self.time_major { (1, batch) } else { (time, 1) };
        Ok(Layout { batch, time, units, width, sample, step, backwards: self.go_backwards })
    }

    fn mask<'a>(&self, mask: Option<&'a Tensor>, at: &Layout, dims: &[usize]) -> Result<Mask<'a>> {
        let zero = self.zero_masked;
        let Some(mask) = mask else { return Ok(Mask { data: None, first: Vec::new(), zero }) };
        let mask = mask.typed::<bool>("the mask")?;
        if mask.dims() != &dims[..2] {
            let why = "do not go together: the mask has one element per step";
            return Err(KernelError::Shapes { left: mask.shape(), right: dims.into(), why });
        }
        let data = mask.data();
        let first = |b| (0..at.time).find(|&s| data[at.row(b, s)]).unwrap_or(at.time);
        Ok(Mask { data: Some(data), first: (0..at.batch).map(first).collect(), zero })
    }

    fn state(&self, given: Option<&Tensor>, what: &'static str, at: &Layout) -> Result<Vec<f32>> {
        let Some(state) = given else { return Ok(vec![0.0; at.batch * at.units]) };
        Ok(of_shape(state, what, &[at.batch, at.units])?.to_vec())
    }

    /// Runs the cell over projected inputs `x`, `[…, gates · units]`, which are overwritten when nobody else holds them.
    ///
    /// # Errors
    /// When types or shapes do not go together.
    pub fn forward(
        &self,
        x: Tensor,
        kernel: &RecurrentKernel,
        given: Given<'_>,
        save: bool,
    ) -> Result<Forward> {
        let mut x = x.into_typed::<f32>("the projected inputs")?;
        let dims = x.shape();
        let at = self.layout(&dims, kernel.units)?;
        let mask = self.mask(given.mask, &at, &dims)?;
        let mut h = self.state(given.h, "the initial state", &at)?;
        let mut c = match self.cell {
            Cell::Lstm => self.state(given.c, "the initial cell state", &at)?,
            _ => Vec::new(),
        };
        let bias = given.bias.map(|b| of_shape(b, "the recurrent bias", &[at.width])).transpose()?;
        let rows = at.rows() * at.units;
        let mut y = match (self.return_sequences, at.time) {
            (true, _) => pool::buffer(rows),
            // Without steps the last output is the first state.
            (false, 0) if mask.data.is_none() => h.clone().into(),
            (false, _) => pool::zeros(h.len()),
        };
        if at.batch == 1 && !save && self.cell != (Cell::Gru { reset_after: false }) {
            let kernel = kernel.interleaved();
            let alone = Alone { seq: self, at, mask: &mask, kernel, bias, x: x.data() };
            h = alone.run(&h, &mut c, &mut y);
            return self.results(&dims, &at, y, h, c);
        }
        let mut before = if save { pool::buffer(rows) } else { Buffer::default() };
        let mut more = if save && self.cell.keeps_more() { pool::buffer(rows) } else { Buffer::default() };
        let run = Run {
            seq: self,
            at,
            mask: &mask,
            kernel,
            bias,
            x: Disjoint::new(x.data_mut()),
            h: Disjoint::new(&mut h),
            c: Disjoint::new(&mut c),
            y: Disjoint::new(&mut y),
            before: save.then(|| Disjoint::new(&mut before)),
            more: (save && self.cell.keeps_more()).then(|| Disjoint::new(&mut more)),
        };
        let blocks = at.blocks();
        if at.units > 0 {
            par::for_each(blocks.len(), |i| run.block(blocks[i].clone()));
        }
        let all = [dims[0], dims[1], at.units];
        let saved = if save {
            let more = if self.cell.keeps_more() {
                Tensor::from_buffer(all, more)?
            } else {
                Tensor::from_buffer([0], more)?
            };
            Some(Saved { gates: x.into(), before: Tensor::from_buffer(all, before)?, more })
        } else {
            None
        };
        Ok(Forward { saved, ..self.results(&dims, &at, y, h, c)? })
    }

    fn results(
        &self,
        dims: &[usize],
        at: &Layout,
        y: Buffer<f32>,
        h: Vec<f32>,
        c: Vec<f32>,
    ) -> Result<Forward> {
        let state = [at.batch, at.units];
        Ok(Forward {
            y: if self.return_sequences {
                Tensor::from_buffer([dims[0], dims[1], at.units], y)?
            } else {
                Tensor::from_buffer(state, y)?
            },
            h: Tensor::new(state, h)?,
            c: if self.cell == Cell::Lstm { Tensor::new(state, c)? } else { Tensor::new([0], c)? },
            saved: None,
        })
    }
}

/// The elements of a `float32` tensor of this shape.
fn of_shape<'a>(t: &'a Tensor, what: &'static str, shape: &[usize]) -> Result<&'a [f32]> {
    let typed = t.typed::<f32>(what)?;
    if typed.dims() != shape {
        let why = "differ: the first is of a state or weight, the second what the inputs ask for";
        return Err(KernelError::Shapes { left: typed.shape(), right: shape.into(), why });
    }
    Ok(typed.data())
}

/// A sequence that is being run. Rows of different samples are different threads'.
struct Run<'a> {
    seq: &'a Sequence,
    at: Layout,
    mask: &'a Mask<'a>,
    kernel: &'a RecurrentKernel,
    bias: Option<&'a [f32]>,
    x: Disjoint<'a, f32>,
    h: Disjoint<'a, f32>,
    c: Disjoint<'a, f32>,
    y: Disjoint<'a, f32>,
    before: Option<Disjoint<'a, f32>>,
    more: Option<Disjoint<'a, f32>>,
}

impl Run<'_> {
    /// All steps of some samples.
    fn block(&self, samples: Range<usize>) {
        let u = self.at.units;
        let aside = if matches!(self.seq.cell, Cell::Gru { .. }) { samples.len() * u } else { 0 };
        scratch::with(aside, |aside| {
            for step in 0..self.at.time {
                match self.seq.cell {
                    Cell::Simple | Cell::Lstm => self.add_states(&samples, step, 0),
                    Cell::Gru { reset_after: true } => {
                        self.add_states(&samples, step, 0);
                        let bias = self.bias.map(|b| &b[2 * u..]);
                        let finish = Finish { bias, ..Finish::default() };
                        let target = Target { start: 0, stride: u };
                        // SAFETY: the states of these samples are this task's.
                        let h = unsafe { self.h.slice(samples.start * u..samples.end * u) };
                        let lhs = Matrix { data: h, rows: samples.len(), strides: (u, 1) };
                        gemm::gemm(&lhs, &self.kernel.parts()[1], aside, target, &finish);
                    }
                    Cell::Gru { reset_after: false } => {
                        self.add_states(&samples, step, 0);
                        step::reset(self, samples.clone(), step, aside);
                        let lhs = Matrix { data: aside, rows: samples.len(), strides: (u, 1) };
                        self.add_to_gates(&lhs, &samples, step, 1, None);
                    }
                }
                step::step(self, samples.clone(), step, aside);
            }
        });
    }

    /// Adds the product of the states with part `part` of the kernel to the gates of a step.
    fn add_states(&self, samples: &Range<usize>, step: usize, part: usize) {
        let u = self.at.units;
        // SAFETY: the states of these samples are this task's.
        let h = unsafe { self.h.slice(samples.start * u..samples.end * u) };
        let lhs = Matrix { data: h, rows: samples.len(), strides: (u, 1) };
        self.add_to_gates(&lhs, samples, step, part, self.bias);
    }

    fn add_to_gates(
        &self,
        lhs: &impl Lhs,
        samples: &Range<usize>,
        step: usize,
        part: usize,
        bias: Option<&[f32]>,
    ) {
        let Layout { units, width, sample, .. } = self.at;
        let (first, _) = self.seq.cell.parts()[part];
        let start = self.at.row(samples.start, step) * width + first * units;
        let target = Target { start, stride: sample * width };
        let finish = Finish { bias, ..Finish::default() };
        // SAFETY: rows of these samples are this task's.
        unsafe { gemm::gemm_part(lhs, &self.kernel.parts()[part], &self.x, target, &finish, Sum::Onto) };
    }
}
