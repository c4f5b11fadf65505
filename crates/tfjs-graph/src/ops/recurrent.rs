//! Recurrent layers over whole sequences. These ops are this runtime's own: layers write them where a graph is run and not
//! exported, and a pass puts them in the place of loops. No file holds them.
//!
//! Inputs: `x` (projected inputs, `[batch, time, gates · units]`), `recurrent_kernel`, then as attributes say: with `bias`
//! the recurrent bias of a GRU, with `states` the states before the first step, with `mask` a mask (`bool`, one element per
//! step). Outputs: `y`, `h`, `c`, and with `save` three tensors that the gradient needs. What does not exist is empty.
//!
//! Inputs of the gradient: `recurrent_kernel`, the three saved tensors, the gradients of those outputs that `dy`, `dh` and
//! `dc` say, with `mask` the mask. Outputs: the gradients of `x`, `recurrent_kernel`, recurrent bias, and of the states.
use tfjs_kernels::{
    DType, Tensor,
    recurrent::{Cell, Gate, Given, Gradients, RecurrentKernel, Saved, Sequence},
};

use super::infer::{Dims, choice, dims, fact};
use crate::{
    Cx, Fact, Op, OpError,
    op::{Build, Inputs, OpDef, Values, simple, values},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("_SequenceGRU", 2..=5, |b| forward(b, gru(b)?)),
    OpDef::new("_SequenceGRUGrad", 4..=7, |b| backward(b, gru(b)?)),
    OpDef::new("_SequenceLSTM", 2..=5, |b| forward(b, Cell::Lstm)),
    OpDef::new("_SequenceLSTMGrad", 4..=8, |b| backward(b, Cell::Lstm)),
    OpDef::new("_SequenceRNN", 2..=4, |b| forward(b, Cell::Simple)),
    OpDef::new("_SequenceRNNGrad", 4..=7, |b| backward(b, Cell::Simple)),
];

fn gru(b: &Build<'_>) -> Result<Cell> {
    Ok(Cell::Gru { reset_after: b.attrs.bool_or("reset_after", true)? })
}

fn sequence(b: &Build<'_>, cell: Cell) -> Result<Sequence> {
    let gate = |name, default| {
        let options = [
            ("linear", Gate::Linear),
            ("relu", Gate::Relu),
            ("tanh", Gate::Tanh),
            ("sigmoid", Gate::Sigmoid),
            ("hard_sigmoid", Gate::HardSigmoid),
            ("hard_sigmoid_fifth", Gate::HardSigmoidFifth),
        ];
        let expected = "linear, relu, tanh, sigmoid, hard_sigmoid and hard_sigmoid_fifth";
        choice(b, name, default, &options, expected)
    };
    let flag = |name| b.attrs.bool_or(name, false);
    Ok(Sequence {
        cell,
        activation: gate("activation", "tanh")?,
        recurrent_activation: gate("recurrent_activation", "sigmoid")?,
        time_major: flag("time_major")?,
        go_backwards: flag("go_backwards")?,
        return_sequences: flag("return_sequences")?,
        zero_masked: flag("zero_output_for_mask")?,
    })
}

/// A sequence and which inputs it has.
#[derive(Clone, Debug)]
struct Forward {
    seq: Sequence,
    bias: bool,
    states: bool,
    mask: bool,
    save: bool,
    /// The recurrent kernel, if it is constant.
    kernel: Option<RecurrentKernel>,
}

fn forward(b: &Build<'_>, cell: Cell) -> Boxed {
    let flag = |name| b.attrs.bool_or(name, false);
    let op = Forward {
        seq: sequence(b, cell)?,
        bias: flag("bias")? && cell == Cell::Gru { reset_after: true },
        states: flag("states")?,
        mask: flag("mask")?,
        save: flag("save")?,
        kernel: None,
    };
    let states = if cell == Cell::Lstm { 2 } else { 1 };
    let expected = 2 + usize::from(op.bias) + usize::from(op.mask) + if op.states { states } else { 0 };
    arity(b, expected)?;
    Ok(Box::new(op))
}

fn arity(b: &Build<'_>, expected: usize) -> Result<()> {
    if b.facts.len() == expected {
        return Ok(());
    }
    Err(OpError::Arity { got: b.facts.len(), expected: expected.to_string() })
}

impl Op for Forward {
    fn eval(&self, _cx: &mut Cx<'_>, mut x: Inputs) -> Result<Values> {
        let mut next = 1;
        let mut take = |x: &mut Inputs, there: bool| {
            next += usize::from(there);
            there.then(|| x.take(next)).transpose()
        };
        let bias = take(&mut x, self.bias)?;
        let h = take(&mut x, self.states)?;
        let c = take(&mut x, self.states && self.seq.cell == Cell::Lstm)?;
        let mask = take(&mut x, self.mask)?;
        let packed = match &self.kernel {
            Some(_) => None,
            None => Some(RecurrentKernel::new(self.seq.cell, x.tensor(1)?)?),
        };
        let kernel = self.kernel.as_ref().or(packed.as_ref()).ok_or_else(|| missing("recurrent_kernel"))?;
        let given = Given { bias: bias.as_ref(), h: h.as_ref(), c: c.as_ref(), mask: mask.as_ref() };
        let out = self.seq.forward(x.take(0)?, kernel, given, self.save)?;
        let (gates, before, more) = match out.saved {
            Some(s) => (s.gates, s.before, s.more),
            None => (empty()?, empty()?, empty()?),
        };
        Ok(values([out.y, out.h, out.c, gates, before, more]))
    }

    fn infer(&self, facts: &[Fact]) -> Result<Vec<Fact>> {
        let f32 = |shape: Dims| fact(Some(DType::Float32), shape);
        let nothing = Fact::of(DType::Float32, &[0]);
        let x = dims(facts, 0);
        if x.is_some_and(|d| d.len() != 3) {
            return Err(OpError::input("x", "expected three dimensions"));
        }
        let units = dims(facts, 1).and_then(|d| d.first().copied().flatten());
        let batch = x.and_then(|d| d[usize::from(self.seq.time_major)]);
        let state = f32(Some(vec![batch, units]));
        let all = f32(x.map(|d| vec![d[0], d[1], units]));
        let y = if self.seq.return_sequences { all.clone() } else { state.clone() };
        let c = if self.seq.cell == Cell::Lstm { state.clone() } else { nothing.clone() };
        let saved = if self.save {
            let more = if self.seq.cell == Cell::Simple { nothing } else { all.clone() };
            [f32(x.map(<[_]>::to_vec)), all, more]
        } else {
            [nothing.clone(), nothing.clone(), nothing]
        };
        Ok([y, state, c].into_iter().chain(saved).collect())
    }

    fn holds(&self, index: usize) -> bool {
        index == 1 && self.kernel.is_some()
    }

    /// Packs a constant kernel.
    fn specialize(&self, facts: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        let Some(kernel @ Tensor::F32(_)) = facts.get(1).and_then(|f| f.value.as_ref()) else {
            return Ok(None);
        };
        let kernel = Some(RecurrentKernel::new(self.seq.cell, kernel)?);
        Ok(Some(Box::new(Forward { kernel, ..self.clone() })))
    }
}

fn missing(what: &'static str) -> OpError {
    OpError::input(what, "it is missing")
}

fn empty() -> Result<Tensor> {
    Ok(Tensor::zeros(DType::Float32, [0])?)
}

fn backward(b: &Build<'_>, cell: Cell) -> Boxed {
    let seq = sequence(b, cell)?;
    let flags = [
        b.attrs.bool_or("dy", false)?,
        b.attrs.bool_or("dh", false)?,
        b.attrs.bool_or("dc", false)? && cell == Cell::Lstm,
        b.attrs.bool_or("mask", false)?,
    ];
    let weights = b.attrs.bool_or("weights", true)?;
    arity(b, 4 + flags.iter().filter(|&&there| there).count())?;
    simple(
        move |x| {
            let mut next = 3;
            let mut given: [Option<Tensor>; 4] = [None, None, None, None];
            for (slot, there) in given.iter_mut().zip(flags) {
                if there {
                    next += 1;
                    *slot = Some(x.take(next)?);
                }
            }
            let [y, h, c, mask] = &given;
            let saved = Saved { gates: x.take(1)?, before: x.take(2)?, more: x.take(3)? };
            let gradients = Gradients { y: y.as_ref(), h: h.as_ref(), c: c.as_ref() };
            let out = seq.backward(gradients, x.tensor(0)?, saved, mask.as_ref(), weights)?;
            Ok(values([out.x, out.kernel, out.bias, out.h, out.c]))
        },
        move |facts| {
            let f32 = |shape: Dims| fact(Some(DType::Float32), shape);
            let nothing = || Fact::of(DType::Float32, &[0]);
            let x = dims(facts, 1).filter(|d| d.len() == 3);
            let kernel = dims(facts, 0).filter(|d| d.len() == 2);
            let batch = x.and_then(|d| d[usize::from(seq.time_major)]);
            let state = f32(Some(vec![batch, kernel.and_then(|d| d[0])]));
            let after = weights && cell == Cell::Gru { reset_after: true };
            Ok(vec![
                f32(x.map(<[_]>::to_vec)),
                if weights { f32(kernel.map(<[_]>::to_vec)) } else { nothing() },
                if after { f32(Some(vec![kernel.and_then(|d| d[1])])) } else { nothing() },
                state.clone(),
                if cell == Cell::Lstm { state } else { nothing() },
            ])
        },
    )
}
