//! `RNN`, `SimpleRNN`, `LSTM`, `GRU`, `ConvLSTM1D/2D/3D` and their cells.
//!
//! # The form of the graph
//!
//! What a cell computes from its input alone is hoisted out of the loop: `x·K + b` is one product over all steps, on
//! `[T, B, in]`. The rest is one `StatelessWhile`, the same for every layer:
//!
//! ```text
//! variables: time = 0, T, inputs = TensorListFromTensor(x·K + b), (mask = TensorListFromTensor(mask)),
//!            (outputs = TensorListReserve(T)), states…, (last output), weights of the step…
//! condition: Less(time, T)
//! body:      x = TensorListGetItem(inputs, time); (m = TensorListGetItem(mask, time));
//!            states' = step(x, states), with a mask SelectV2(m, states', states);
//!            (TensorListSetItem(outputs, time, states'[0]));  time + 1; all else as it was
//! after:     (TensorListStack(outputs)), states
//! ```
//!
//! with one `step` per kind of cell (h: hidden state, R: recurrent kernel; `Split` in the order of Keras):
//!
//! * `SimpleRNN`: `act(AddV2(x, MatMul(h, R)))`
//! * `LSTM`: `i, f, c̃, o = Split(AddV2(x, MatMul(h, R)))`; `c' = AddV2(Mul(σ(f), c), Mul(σ(i), act(c̃)))`;
//!   `h' = Mul(σ(o), act(c'))`. `ConvLSTM`: the same with `Conv2D` or `Conv3D` in place of `MatMul`.
//! * `GRU`, `reset_after`: `xz, xr, xh = Split(x)`, `hz, hr, hh = Split(BiasAdd(MatMul(h, R), b'))`,
//!   `z = σ(AddV2(xz, hz))`, `r = σ(AddV2(xr, hr))`, `h̃ = act(AddV2(xh, Mul(r, hh)))`,
//!   `h' = AddV2(Mul(z, h), Mul(Sub(1, z), h̃))`. Otherwise `hz, hr = Split(MatMul(h, R₁))` and
//!   `h̃ = act(AddV2(xh, MatMul(Mul(r, h), R₂)))`.
//!
//! The last output is a variable only where it is not a state: with a mask and initial states, or a mask, zeros in the
//! place of masked outputs, and no sequence wanted. A single step, and layers with `unroll`, have no loop.
//!
//! That is the form of graphs that are written to files. Graphs that are run here have one op in the place of the loop,
//! `_SequenceRNN`, `_SequenceLSTM` or `_SequenceGRU`, for cells whose activations it knows (`sequence`).
//!
//! # Stateful layers
//!
//! A layer with `stateful` starts where the run before ended, until
//! [`reset_states`](crate::LayersModel::reset_states). An exported graph has no memory: every run of it starts from zeros.

mod cell;
mod conv;
mod scan;
mod sequence;

use serde_json::Value;
use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::DType;

use self::{
    cell::{Cell, GateCell, Kind, StackedCells, zero_states},
    conv::ConvLstmCell,
    scan::Scan,
};
use crate::{
    Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Scope, Sym, emit::Dim, topology::Arg,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("SimpleRNN", |c| rnn(c, "simple_rnn_cell", Box::new(GateCell::new(c, Kind::Simple)?))),
    LayerDef::new("LSTM", |c| fast(c, "lstm_cell", Kind::Lstm)),
    LayerDef::new("GRU", |c| fast(c, "gru_cell", Kind::gru(c)?)),
    LayerDef::new("ConvLSTM1D", |c| rnn(c, "conv_lstm_cell", Box::new(ConvLstmCell::new(c, 1)?))),
    LayerDef::new("ConvLSTM2D", |c| rnn(c, "conv_lstm_cell", Box::new(ConvLstmCell::new(c, 2)?))),
    LayerDef::new("ConvLSTM3D", |c| rnn(c, "conv_lstm_cell", Box::new(ConvLstmCell::new(c, 3)?))),
    LayerDef::new("RNN", |c| {
        let value = c.get("cell").ok_or_else(|| c.wrong("cell", "a cell"))?;
        // Lists of cells are stacked.
        let named = match value {
            Value::Array(cells) => {
                let stacked = serde_json::json!({"class_name": "StackedRNNCells",
                    "config": {"name": "stacked_rnn_cells", "cells": cells}});
                cell::cell(&stacked, c)?
            }
            one => cell::cell(one, c)?,
        };
        let trainable = Some(named.trainable);
        Ok(Box::new(Rnn { trainable, ..layer(c, &named.name, named.cell)? }))
    }),
    LayerDef::new("SimpleRNNCell", |c| Ok(Box::new(CellLayer(Box::new(GateCell::new(c, Kind::Simple)?))))),
    LayerDef::new("LSTMCell", |c| Ok(Box::new(CellLayer(Box::new(GateCell::new(c, Kind::Lstm)?))))),
    LayerDef::new("GRUCell", |c| Ok(Box::new(CellLayer(Box::new(GateCell::new(c, Kind::gru(c)?)?))))),
    LayerDef::new("ConvLSTM2DCell", |c| Ok(Box::new(CellLayer(Box::new(ConvLstmCell::new(c, 2)?))))),
    LayerDef::new("StackedRNNCells", |c| Ok(Box::new(CellLayer(Box::new(StackedCells::new(c)?))))),
];

/// A layer for which Keras 2 has a faster op, if its options are the usual ones.
fn fast(c: &Config<'_>, cell_name: &str, kind: Kind) -> Result<Box<dyn Layer>> {
    let cell = GateCell::new(c, kind)?;
    let usual = cell.is_usual() && !c.bool_or("unroll", false)?;
    let drops_anew = usual && matches!(c.dialect, Dialect::Keras1 | Dialect::Keras2);
    Ok(Box::new(Rnn { drops_anew, ..layer(c, cell_name, Box::new(cell))? }))
}

fn rnn(c: &Config<'_>, cell_name: &str, cell: Box<dyn Cell>) -> Result<Box<dyn Layer>> {
    Ok(Box::new(layer(c, cell_name, cell)?))
}

fn layer(c: &Config<'_>, cell_name: &str, cell: Box<dyn Cell>) -> Result<Rnn> {
    c.known(&["input_dim", "input_length", "num_constants", "use_cudnn"]);
    if c.int_or("num_constants", 0)? != 0 {
        return Err(c.wrong("num_constants", "0: no cell takes constants"));
    }
    Ok(Rnn {
        drops_anew: false,
        trainable: None,
        cell_name: cell_name.to_owned(),
        cell,
        return_sequences: c.bool_or("return_sequences", false)?,
        return_state: c.bool_or("return_state", false)?,
        go_backwards: c.bool_or("go_backwards", false)?,
        stateful: c.bool_or("stateful", false)?,
        unroll: c.bool_or("unroll", false)?,
        time_major: c.bool_or("time_major", false)?,
        zero_output_for_mask: c.bool_or("zero_output_for_mask", false)?,
    })
}

/// A cell run over time.
#[derive(Debug)]
struct Rnn {
    /// What Keras puts into the names of the cell's weights.
    cell_name: String,
    cell: Box<dyn Cell>,
    /// What a cell with a configuration of its own says of itself.
    trainable: Option<bool>,
    return_sequences: bool,
    return_state: bool,
    go_backwards: bool,
    stateful: bool,
    unroll: bool,
    time_major: bool,
    zero_output_for_mask: bool,
    /// Training drops other parts of the inputs in every step.
    drops_anew: bool,
}

impl Layer for Rnn {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let mut shape = inputs.first().and_then(|f| f.shape.clone()).unwrap_or_default();
        if shape.len() < 3 {
            let problem = format!("inputs of shape [batch, time, …] are needed, they are {shape:?}");
            return Err(LayersError::Inputs(problem));
        }
        shape.remove(usize::from(!self.time_major));
        let (rank, channels_last) = self.cell.layout();
        if rank > 0 && !channels_last {
            let channels = shape.remove(1);
            shape.push(channels);
        }
        let name = self.cell_name.clone();
        let place = ["cell", name.as_str(), ""];
        match self.trainable {
            Some(trainable) => scope.enter_held(place, trainable, |s| self.cell.build(s, &shape)),
            None => scope.enter(place[0], place[1], place[2], |s| self.cell.build(s, &shape)),
        }
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.input(0)?.port;
        let passed_on = call.mask(0);
        let mask = used_mask(g.dialect, call);
        let x = self.channels_to_end(g, x, 2)?;
        let (x, drops) = self.dropped(g, call, x)?;
        let done = if drops { None } else { self.as_sequence(g, call, x, mask)? };
        let (output, mut states) = match done {
            Some(done) => done,
            None => self.step_by_step(g, call, x, mask, drops)?,
        };
        for (i, state) in states.iter_mut().enumerate() {
            if self.stateful {
                g.set_state(&format!("state_{i}"), *state);
            }
            *state = self.channels_to_front(g, *state, 1)?;
        }
        let output = self.channels_to_front(g, output, if self.return_sequences { 2 } else { 1 })?;
        let mut outputs = vec![Sym::masked(output, passed_on.filter(|_| self.return_sequences))];
        if self.return_state {
            outputs.extend(states.into_iter().map(Sym::from));
        }
        Ok(outputs)
    }
}

impl Rnn {
    /// The input as training drops parts of it; and whether more is to be dropped in the cell.
    fn dropped(&self, g: &mut Emit, call: &Call, x: Port) -> Result<(Port, bool)> {
        let (inputs, steps) = if call.training(g) { self.cell.mask_counts() } else { (0, 0) };
        if inputs == 0 || steps > 0 || (inputs > 1 && !self.drops_anew) {
            return Ok((x, inputs + steps > 0));
        }
        let mut dims = g.dims(x)?;
        if !self.drops_anew {
            dims[usize::from(!self.time_major)] = Dim::Known(1);
        }
        let masks = self.cell.input_masks(g, &dims)?;
        Ok((g.mul(x, masks[0])?, false))
    }

    /// A loop, or all steps written out. The output in the layout of the layer, and the states after the last step. `drops`
    /// says whether the cell does as in training.
    fn step_by_step(
        &self,
        g: &mut Emit,
        call: &Call,
        x: Port,
        mask: Option<Port>,
        drops: bool,
    ) -> Result<(Port, Vec<Port>)> {
        let rank = g.rank(x)?;
        let x = self.to_time_major(g, x)?;
        let mut sequence = self.to_order(g, x)?;
        let mut weights = self.cell.weights(g)?;
        if drops {
            let dims = g.dims(sequence)?;
            weights.input.extend(self.cell.input_masks(g, &dims[1..])?);
        }
        sequence = self.cell.project(g, &weights.input, sequence, 2)?;
        let ordered = match mask {
            Some(mask) => Some(self.ordered_mask(g, mask, rank)?),
            None => None,
        };
        let dims = g.dims(sequence)?;
        let leading = &dims[1..dims.len() - 1];
        if drops {
            weights.step.extend(self.cell.step_masks(g, leading)?);
        }
        let given = self.given_states(g, call, leading)?;
        let from_zeros = given.is_none();
        let states = match given {
            Some(states) => states,
            None => zero_states(g, self.cell.as_ref(), leading)?,
        };
        let scan = Scan {
            cell: self.cell.as_ref(),
            weights: &weights.step,
            inputs: sequence,
            mask: ordered,
            states,
            from_zeros,
            zero_masked: self.zero_output_for_mask,
            sequence: self.return_sequences,
        };
        match g.dim(sequence, 0)? {
            Dim::Known(steps) if steps == 1 || (self.unroll && steps > 0) => self.unrolled(g, &scan, steps),
            _ => {
                let done = scan.looped(g)?;
                let output = if self.return_sequences && !self.time_major {
                    swap_first(g, done.output)?
                } else {
                    done.output
                };
                Ok((output, done.states))
            }
        }
    }

    /// All steps written out; the output in the layout of the layer.
    fn unrolled(&self, g: &mut Emit, scan: &Scan<'_>, steps: usize) -> Result<(Port, Vec<Port>)> {
        let (mut outputs, states) = scan.unrolled(g, steps)?;
        let last = outputs[outputs.len() - 1];
        if !self.return_sequences {
            return Ok((last, states));
        }
        let axis = usize::from(!self.time_major);
        if let Some(mask) = scan.mask
            && self.zeroes_masks_turned_around()
        {
            let forward = self.to_order(g, mask)?;
            let masks = g.op_n(
                "Unpack",
                &[forward],
                &[("num", attr::int(steps as i64)), ("axis", attr::int(0))],
                steps,
            )?;
            let carried =
                Scan { zero_masked: false, from_zeros: false, states: scan.states.clone(), ..*scan };
            outputs = carried.unrolled(g, steps)?.0;
            for (output, mask) in outputs.iter_mut().zip(masks) {
                let zeros = g.op("ZerosLike", &[*output], &[])?;
                *output = g.select(mask, *output, zeros)?;
            }
        }
        let all = g.op("Pack", &outputs, &[("axis", attr::int(axis as i64))])?;
        Ok((all, states))
    }

    /// Keras forgets to turn the mask around when it zeroes the outputs of an unrolled layer that goes backwards.
    fn zeroes_masks_turned_around(&self) -> bool {
        self.unroll && self.go_backwards && self.zero_output_for_mask
    }

    /// `[B, T, …]` as `[T, B, …]`, unless it is so already.
    fn to_time_major(&self, g: &mut Emit, x: Port) -> Result<Port> {
        if self.time_major { Ok(x) } else { swap_first(g, x) }
    }

    /// Steps in the order they are taken; time comes first.
    fn to_order(&self, g: &mut Emit, x: Port) -> Result<Port> {
        if !self.go_backwards || g.dim(x, 0)? == Dim::Known(1) {
            return Ok(x);
        }
        let axis = g.ints(&[0]);
        g.op("ReverseV2", &[x, axis], &[])
    }

    /// The mask in the order of the steps, with axes of size 1 so that it fits states, which have as many axes as one
    /// step of the input.
    fn ordered_mask(&self, g: &mut Emit, mask: Port, rank: usize) -> Result<Port> {
        let mut mask = g.cast(mask, DType::Bool)?;
        if g.rank(mask)? < 2 {
            return Err(LayersError::Inputs("a mask has shape [batch, time]".to_owned()));
        }
        mask = self.to_time_major(g, mask)?;
        mask = self.to_order(g, mask)?;
        for axis in g.rank(mask)?..rank {
            mask = g.expand_dims(mask, axis)?;
        }
        Ok(mask)
    }

    /// The states given, or those kept; `None` for zeros. `leading` are their dimensions but the last.
    fn given_states(&self, g: &mut Emit, call: &Call, leading: &[Dim]) -> Result<Option<Vec<Port>>> {
        let sizes = self.cell.state_sizes();
        let mut given: Vec<Port> = call.inputs.iter().skip(1).map(|s| s.port).collect();
        if let Some(arg) = call.kwarg("initial_state") {
            given = arg.tensors().into_iter().map(|s| s.port).collect();
        }
        if let Some(constants) = call.kwarg("constants")
            && *constants != Arg::List(Vec::new())
        {
            return Err(LayersError::Argument {
                argument: "constants".to_owned(),
                problem: "no cell takes constants".to_owned(),
            });
        }
        if !given.is_empty() {
            if given.len() != sizes.len() {
                let problem = format!("{} initial states are given, it has {}", given.len(), sizes.len());
                return Err(LayersError::Inputs(problem));
            }
            return given.into_iter().map(|s| self.channels_to_end(g, s, 1)).collect::<Result<_>>().map(Some);
        }
        if !self.stateful {
            return Ok(None);
        }
        let leading = sequence::fixed(leading)?;
        let mut states = Vec::new();
        for (i, size) in sizes.into_iter().enumerate() {
            let shape: Vec<usize> = leading.iter().copied().chain([size]).collect();
            states.push(g.state(&format!("state_{i}"), &shape)?);
        }
        Ok(Some(states))
    }

    /// For cells with channels first: channels last, after `leading` axes.
    fn channels_to_end(&self, g: &mut Emit, x: Port, leading: usize) -> Result<Port> {
        let (rank, channels_last) = self.cell.layout();
        if rank == 0 || channels_last {
            return Ok(x);
        }
        let order: Vec<usize> = (0..leading).chain(leading + 1..=leading + rank).chain([leading]).collect();
        g.transpose(x, &order)
    }

    /// The other way round.
    fn channels_to_front(&self, g: &mut Emit, x: Port, leading: usize) -> Result<Port> {
        let (rank, channels_last) = self.cell.layout();
        if rank == 0 || channels_last {
            return Ok(x);
        }
        let order: Vec<usize> = (0..leading).chain([leading + rank]).chain(leading..leading + rank).collect();
        g.transpose(x, &order)
    }
}

/// The mask that a recurrent layer computes with. Keras 3 gives a layer with initial states no mask but one that is an
/// argument of the call.
pub(super) fn used_mask(dialect: Dialect, call: &Call) -> Option<Port> {
    let with_states = call.inputs.len() > 1 || call.kwarg("initial_state").is_some();
    if dialect == Dialect::Keras3 && with_states {
        return call.tensor_kwarg("mask").map(|s| s.port);
    }
    call.mask(0)
}

/// The first two axes changed for each other.
fn swap_first(g: &mut Emit, x: Port) -> Result<Port> {
    let rank = g.rank(x)?;
    let order: Vec<usize> = [1, 0].into_iter().chain(2..rank).collect();
    g.transpose(x, &order)
}

/// A cell called by itself: inputs and states in, output and states out.
#[derive(Debug)]
struct CellLayer(Box<dyn Cell>);

impl Layer for CellLayer {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let shape = inputs.first().and_then(|f| f.shape.clone()).unwrap_or_default();
        self.0.build(scope, &shape)
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.input(0)?.port;
        let mut states: Vec<Port> = call.inputs.iter().skip(1).map(|s| s.port).collect();
        if let Some(arg) = call.kwarg("states") {
            states = arg.tensors().into_iter().map(|s| s.port).collect();
        }
        let wanted = self.0.state_sizes().len();
        if states.len() != wanted {
            let problem = format!("{} states are given, the cell has {wanted}", states.len());
            return Err(LayersError::Inputs(problem));
        }
        let mut weights = self.0.weights(g)?;
        let drops = call.training(g);
        if drops {
            let dims = g.dims(x)?;
            weights.input.extend(self.0.input_masks(g, &dims)?);
        }
        let x = self.0.project(g, &weights.input, x, 1)?;
        if drops {
            let dims = g.dims(x)?;
            weights.step.extend(self.0.step_masks(g, dims.split_last().map_or(&[], |(_, rest)| rest))?);
        }
        let states = self.0.step(g, &weights.step, x, &states)?;
        let output = states[self.0.output_state()];
        Ok([output].into_iter().chain(states).map(Sym::from).collect())
    }
}
