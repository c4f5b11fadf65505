//! The loop over time as one op of this runtime, for graphs that are run and not written to a file.

use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::{
    Rnn,
    cell::{GateCell, Kind},
};
use crate::{Activation, Call, Dialect, Emit, LayersError, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// How a cell runs over a sequence.
#[derive(Clone, Copy, Debug)]
pub(in crate::layers) struct Over<'a> {
    /// One element per step, in the layout of the inputs.
    pub mask: Option<Port>,
    /// States before the first step, unless they are zeros.
    pub states: Option<&'a [Port]>,
    pub time_major: bool,
    pub go_backwards: bool,
    pub return_sequences: bool,
    pub zero_masked: bool,
}

/// The output and the states after the last step.
pub(in crate::layers) type Outcome = (Port, Vec<Port>);

impl Rnn {
    /// The output and the states after the last step, if there is an op for this layer.
    pub(super) fn as_sequence(
        &self,
        g: &mut Emit,
        call: &Call,
        x: Port,
        mask: Option<Port>,
    ) -> Result<Option<Outcome>> {
        if !g.is_for_running() || g.rank(x)? != 3 || g.fact(x).dtype != Some(DType::Float32) {
            return Ok(None);
        }
        if let Some(mask) = mask
            && (g.rank(mask)? != 2 || self.zeroes_masks_turned_around())
        {
            return Ok(None);
        }
        if !self.cell.has_sequence(g.dialect) {
            return Ok(None);
        }
        let mask = mask.map(|m| g.cast(m, DType::Bool)).transpose()?;
        let batch = g.dim(x, usize::from(self.time_major))?;
        let states = self.given_states(g, call, &[batch])?;
        let over = Over {
            mask,
            states: states.as_deref(),
            time_major: self.time_major,
            go_backwards: self.go_backwards,
            return_sequences: self.return_sequences,
            zero_masked: self.zero_output_for_mask,
        };
        self.cell.sequence(g, x, &over).map(Some)
    }
}

/// The word of an op for an activation, if it has one.
fn word(activation: &Activation, dialect: Dialect) -> Option<&'static str> {
    if !activation.config.is_empty() {
        return None;
    }
    match activation.name {
        "hard_sigmoid" if dialect != Dialect::Keras3 => Some("hard_sigmoid_fifth"),
        name @ ("linear" | "relu" | "tanh" | "sigmoid" | "hard_sigmoid") => Some(name),
        _ => None,
    }
}

impl GateCell {
    /// Whether there are functions for its gates.
    pub(super) fn has_words(&self, dialect: Dialect) -> bool {
        word(&self.activation, dialect).is_some() && word(&self.recurrent_activation, dialect).is_some()
    }

    /// Writes the op.
    pub(super) fn write_sequence(&self, g: &mut Emit, x: Port, over: &Over<'_>) -> Result<Outcome> {
        use super::cell::Cell;
        let weights = self.weights(g)?;
        let projected = self.project(g, &weights.input, x, 2)?;
        let mut inputs = vec![projected, self.recurrent_kernel(g)?];
        let after = self.kind == Kind::Gru { reset_after: true };
        let bias = weights.step.get(1).copied().filter(|_| after);
        inputs.extend(bias);
        inputs.extend(over.states.unwrap_or_default());
        inputs.extend(over.mask);
        let words = (word(&self.activation, g.dialect), word(&self.recurrent_activation, g.dialect));
        let (Some(activation), Some(recurrent)) = words else {
            return Err(LayersError::Inputs(
                "an activation of the cell has no place in a sequence".to_owned(),
            ));
        };
        let mut attrs: Vec<(&str, Value)> = vec![
            ("activation", attr::text(activation)),
            ("time_major", attr::bool(over.time_major)),
            ("go_backwards", attr::bool(over.go_backwards)),
            ("return_sequences", attr::bool(over.return_sequences)),
            ("zero_output_for_mask", attr::bool(over.zero_masked)),
            ("states", attr::bool(over.states.is_some())),
            ("mask", attr::bool(over.mask.is_some())),
        ];
        let op = match self.kind {
            Kind::Simple => "_SequenceRNN",
            Kind::Lstm => "_SequenceLSTM",
            Kind::Gru { reset_after } => {
                attrs.push(("reset_after", attr::bool(reset_after)));
                attrs.push(("bias", attr::bool(bias.is_some())));
                "_SequenceGRU"
            }
        };
        if self.kind != Kind::Simple {
            attrs.push(("recurrent_activation", attr::text(recurrent)));
        }
        let outputs = g.op_n(op, &inputs, &attrs, 3)?;
        let states = if self.kind == Kind::Lstm { &outputs[1..] } else { &outputs[1..2] };
        Ok((outputs[0], states.to_vec()))
    }
}

/// Cells on top of each other: one sequence after the other. `cells` come with where their states start.
pub(super) fn stacked<'a>(
    g: &mut Emit,
    mut x: Port,
    over: &Over<'_>,
    cells: impl ExactSizeIterator<Item = (&'a dyn super::cell::Cell, usize)>,
) -> Result<Outcome> {
    let mut states: Vec<(usize, Vec<Port>)> = Vec::new();
    let (last, mut mask) = (cells.len().saturating_sub(1), over.mask);
    for (i, (cell, offset)) in cells.enumerate() {
        let own = offset..offset + cell.state_sizes().len();
        let this = Over {
            mask,
            states: over.states.and_then(|s| s.get(own)),
            // The first cell turns the order around.
            go_backwards: over.go_backwards && i == 0,
            return_sequences: over.return_sequences || i < last,
            ..*over
        };
        if i == 0
            && over.go_backwards
            && let Some(forward) = mask
        {
            let time = g.ints(&[i32::from(!over.time_major)]);
            mask = Some(g.op("ReverseV2", &[forward, time], &[])?);
        }
        let (y, after) = cell.sequence(g, x, &this)?;
        x = y;
        states.push((offset, after));
    }
    states.sort_by_key(|(offset, _)| *offset);
    Ok((x, states.into_iter().flat_map(|(_, s)| s).collect()))
}

/// The error of a cell that has no op.
pub(super) fn none<T>() -> Result<T> {
    Err(LayersError::Inputs("this cell does not run over a sequence by itself".to_owned()))
}

/// The axes of a state before the last.
pub(super) fn fixed(leading: &[Dim]) -> Result<Vec<usize>> {
    leading
        .iter()
        .map(|dim| match dim {
            Dim::Known(n) => Ok(*n),
            Dim::Of(..) => Err(LayersError::Inputs(
                "a stateful layer needs a fixed batch size and fixed spatial sizes".to_owned(),
            )),
        })
        .collect()
}
