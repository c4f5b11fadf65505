//! The loop over time.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::cell::Cell;
use crate::{Emit, LayersError, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// What to run over time.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    /// What a step computes.
    pub cell: &'a dyn Cell,
    /// Weights of the step.
    pub weights: &'a [Port],
    /// Projected inputs, `[T, B, …]`, in the order they are taken.
    pub inputs: Port,
    /// Which steps count, `[T, B, 1, …]`, in the same order.
    pub mask: Option<Port>,
    /// States before the first step.
    pub states: Vec<Port>,
    /// The states before the first step are zeros.
    pub from_zeros: bool,
    /// Masked steps give zeros; otherwise the output before.
    pub zero_masked: bool,
    /// Outputs of all steps are wanted, not only that of the last.
    pub sequence: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The last output, or all of them, `[T, B, …]`.
    pub output: Port,
    /// States after the last step.
    pub states: Vec<Port>,
}

impl Scan<'_> {
    /// Writes a loop.
    ///
    /// # Errors
    /// When the cell does not fit its input.
    pub(super) fn looped(&self, g: &mut Emit) -> Result<Scanned> {
        let dims = g.dims(self.inputs)?;
        let time = dims.first().copied().unwrap_or(Dim::Known(1));
        let steps = g.dim_value(time)?;
        let start = g.int(0);
        let mut vars = vec![start, steps];
        let items = list_of(g, self.inputs)?;
        vars.push(items.0);
        let mask = self.mask.map(|mask| list_of(g, mask)).transpose()?;
        vars.extend(mask.as_ref().map(|m| m.0));
        let state_shape = g.shape(self.states[self.cell.output_state()])?;
        if self.sequence {
            let shape = element_shape(g, &state_shape)?;
            let attrs = [("element_dtype", attr::dtype(DType::Float32))];
            vars.push(g.op("TensorListReserve", &[shape, steps], &attrs)?);
        }
        let first_state = vars.len();
        vars.extend(&self.states);
        let carried = self.carries_output().then_some(vars.len());
        if carried.is_some() {
            vars.push(g.op("ZerosLike", &[self.states[self.cell.output_state()]], &[])?);
        }
        let first_weight = vars.len();
        vars.extend(self.weights);
        let dtype = g.dtype(self.inputs);
        let body = |g: &mut Emit, args: &[Port]| {
            let mut next = args.to_vec();
            let one = g.int(1);
            next[0] = g.add(args[0], one)?;
            let x = item(g, args[2], args[0], &items.1, dtype)?;
            let mask = match &mask {
                Some((_, shape)) => Some(item(g, args[3], args[0], shape, DType::Bool)?),
                None => None,
            };
            let range = first_state..first_state + self.states.len();
            let before = &args[range.clone()];
            let last = carried.map(|at| args[at]);
            let (output, states) = self.step(g, &args[first_weight..], x, mask, before, last)?;
            if self.sequence {
                let list = first_state - 1;
                next[list] = g.op("TensorListSetItem", &[args[list], args[0], output], &[])?;
            }
            next[range].copy_from_slice(&states);
            if let Some(at) = carried {
                next[at] = output;
            }
            Ok(next)
        };
        let done = g.while_loop(&vars, |g, args| g.op("Less", &[args[0], args[1]], &[]), body)?;
        let states = done[first_state..first_state + self.states.len()].to_vec();
        let output = if self.sequence {
            let shape = element_shape(g, &state_shape)?;
            let known = match time {
                Dim::Known(n) => n as i64,
                Dim::Of(..) => -1,
            };
            let attrs = [("element_dtype", attr::dtype(DType::Float32)), ("num_elements", attr::int(known))];
            let all = g.op("TensorListStack", &[done[first_state - 1], shape], &attrs)?;
            let length = usize::try_from(known).ok();
            g.set_shape(all, &[&[length], &state_shape[..]].concat());
            all
        } else {
            match carried {
                Some(at) => done[at],
                None => states[self.cell.output_state()],
            }
        };
        Ok(Scanned { output, states })
    }

    /// Writes `steps` steps one after the other. Returns the outputs of all.
    ///
    /// # Errors
    /// When the cell does not fit its input.
    pub(super) fn unrolled(&self, g: &mut Emit, steps: usize) -> Result<(Vec<Port>, Vec<Port>)> {
        let unpack = |g: &mut Emit, all: Port| {
            g.op_n("Unpack", &[all], &[("num", attr::int(steps as i64)), ("axis", attr::int(0))], steps)
        };
        let inputs = unpack(g, self.inputs)?;
        let masks = self.mask.map(|m| unpack(g, m)).transpose()?;
        let mut states = self.states.clone();
        let mut last = if self.carries_output() {
            Some(g.op("ZerosLike", &[states[self.cell.output_state()]], &[])?)
        } else {
            None
        };
        let mut outputs = Vec::with_capacity(steps);
        for (t, &x) in inputs.iter().enumerate() {
            let mask = masks.as_ref().map(|m| m[t]);
            let (output, next) = self.step(g, self.weights, x, mask, &states, last)?;
            states = next;
            last = last.map(|_| output);
            outputs.push(output);
        }
        Ok((outputs, states))
    }

    /// Whether the output of a step is needed in the next one, or after the loop, and is not one of the states.
    fn carries_output(&self) -> bool {
        let differs = self.mask.is_some() && (self.zero_masked || !self.from_zeros);
        differs && !(self.zero_masked && self.sequence)
    }

    fn step(
        &self,
        g: &mut Emit,
        weights: &[Port],
        x: Port,
        mask: Option<Port>,
        before: &[Port],
        last: Option<Port>,
    ) -> Result<(Port, Vec<Port>)> {
        let mut states = self.cell.step(g, weights, x, before)?;
        let at = self.cell.output_state();
        let Some(mask) = mask else { return Ok((states[at], states)) };
        let raw = states[at];
        for (new, &old) in states.iter_mut().zip(before) {
            *new = g.select(mask, *new, old)?;
        }
        let output = if self.zero_masked {
            let zeros = g.op("ZerosLike", &[raw], &[])?;
            g.select(mask, raw, zeros)?
        } else {
            match last {
                Some(last) => g.select(mask, raw, last)?,
                None => states[at],
            }
        };
        Ok((output, states))
    }
}

/// A list of the rows of a value, and their shape.
fn list_of(g: &mut Emit, rows: Port) -> Result<(Port, Vec<Option<usize>>)> {
    let shape = g.shape(rows)?.split_off(1);
    let element = element_shape(g, &shape)?;
    Ok((g.op("TensorListFromTensor", &[rows, element], &[])?, shape))
}

fn item(g: &mut Emit, list: Port, index: Port, shape: &[Option<usize>], dtype: DType) -> Result<Port> {
    let element = element_shape(g, shape)?;
    let item =
        g.op("TensorListGetItem", &[list, index, element], &[("element_dtype", attr::dtype(dtype))])?;
    g.set_shape(item, shape);
    Ok(item)
}

fn element_shape(g: &mut Emit, shape: &[Option<usize>]) -> Result<Port> {
    let dims: Vec<i32> = shape.iter().map(|d| d.map_or(-1, |n| n as i32)).collect();
    Ok(g.ints(&dims))
}
