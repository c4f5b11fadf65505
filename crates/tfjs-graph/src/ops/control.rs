//! Control flow of both generations, and the lists and arrays that loops fill.

mod functional;
mod list;
mod tensor_array;

use smallvec::smallvec;
use tfjs_kernels::{Shape, Tensor, match_tensor};

use crate::{
    Cx, Effect, Fact, Flow, Op, OpError, Value,
    op::{ANY, Inputs, OpDef, Values, same, simple},
};

/// Ops that only the frame executor runs.
pub(crate) fn is_flow(op: &str) -> bool {
    FLOW.iter().any(|d| d.name == op)
}

pub(super) const FLOW: &[OpDef] = &[
    OpDef::new("Switch", 2..=2, |_| Ok(Box::new(FlowOp(Flow::Switch)))),
    OpDef::new("RefSwitch", 2..=2, |_| Ok(Box::new(FlowOp(Flow::Switch)))),
    OpDef::new("Merge", 1..=ANY, |_| Ok(Box::new(FlowOp(Flow::Merge)))),
    OpDef::new("RefMerge", 1..=ANY, |_| Ok(Box::new(FlowOp(Flow::Merge)))),
    OpDef::new("Enter", 1..=1, |b| {
        let frame = b.attrs.str_or("frame_name", "")?.to_owned();
        Ok(Box::new(enter(frame, b.attrs.bool_or("is_constant", false)?)))
    }),
    OpDef::new("RefEnter", 1..=1, |b| {
        let frame = b.attrs.str_or("frame_name", "")?.to_owned();
        Ok(Box::new(enter(frame, b.attrs.bool_or("is_constant", false)?)))
    }),
    OpDef::new("Exit", 1..=1, |_| Ok(Box::new(FlowOp(Flow::Exit)))),
    OpDef::new("RefExit", 1..=1, |_| Ok(Box::new(FlowOp(Flow::Exit)))),
    OpDef::new("NextIteration", 1..=1, |_| Ok(Box::new(FlowOp(Flow::NextIteration)))),
    OpDef::new("RefNextIteration", 1..=1, |_| Ok(Box::new(FlowOp(Flow::NextIteration)))),
];

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("LoopCond", 1..=1, |_| {
        simple(
            |x| {
                x.tensor(0)?.typed::<bool>("input")?;
                Ok(smallvec![x.take_value(0)?])
            },
            same,
        )
    }),
    OpDef::new("If", 1..=ANY, functional::conditional),
    OpDef::new("StatelessIf", 1..=ANY, functional::conditional),
    OpDef::new("Case", 1..=ANY, functional::case),
    OpDef::new("StatelessCase", 1..=ANY, functional::case),
    OpDef::new("While", 0..=ANY, functional::while_loop),
    OpDef::new("StatelessWhile", 0..=ANY, functional::while_loop),
    OpDef::new("PartitionedCall", 0..=ANY, functional::call),
    OpDef::new("StatefulPartitionedCall", 0..=ANY, functional::call),
];

pub(super) use list::{OPS as LIST_OPS, add_lists, zero_list};
pub(super) use tensor_array::OPS as ARRAY_OPS;

/// A part of V1 control flow; see [`crate::flow`].
#[derive(Debug)]
struct FlowOp(Flow);

/// The `Enter` of a frame.
pub(crate) fn enter(frame: String, constant: bool) -> impl Op {
    FlowOp(Flow::Enter { frame, constant })
}

impl Op for FlowOp {
    fn eval(&self, _cx: &mut Cx<'_>, _inputs: Inputs) -> Result<Values, OpError> {
        Err(OpError::input("frame", "this op runs only as part of a loop or a branch"))
    }

    fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        // Shapes may differ between branches and iterations; types do not.
        let data = match self.0 {
            Flow::Merge => inputs.iter().find(|f| f.dtype.is_some()).cloned().unwrap_or_default(),
            _ => inputs.first().cloned().unwrap_or_default(),
        };
        let typed = Fact { dtype: data.dtype, shape: None, value: None };
        Ok(match self.0 {
            Flow::Switch => vec![data.without_value(), data.without_value()],
            Flow::Merge => vec![typed, Fact::of(tfjs_kernels::DType::Int32, &[])],
            Flow::Enter { .. } => vec![data.without_value()],
            Flow::Exit | Flow::NextIteration => vec![typed],
        })
    }

    fn flow(&self) -> Option<Flow> {
        Some(self.0.clone())
    }
}

/// A constant that is alive only where the nodes it waits for are.
pub(crate) fn constant(value: Tensor) -> impl Op {
    ControlledConst(value)
}

#[derive(Debug)]
struct ControlledConst(Tensor);

impl Op for ControlledConst {
    fn eval(&self, _cx: &mut Cx<'_>, _inputs: Inputs) -> Result<Values, OpError> {
        Ok(smallvec![Value::Tensor(self.0.clone())])
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }
}

/// Tensors of `inner` shape one after another, under `outer + inner`.
fn stack(parts: &[Tensor], outer: &[usize], inner: &[usize]) -> Result<Tensor, OpError> {
    let shape: Shape = outer.iter().chain(inner).copied().collect();
    let Some(first) = parts.first() else {
        return Err(OpError::input("handle", "an empty list has no type"));
    };
    Ok(match_tensor!(first, t => {
        let mut data = Vec::with_capacity(shape.checked_len()?);
        extend(&mut data, t.data());
        for p in &parts[1..] {
            data.extend_from_slice(p.data()?);
        }
        Tensor::new(shape, data)?
    }))
}

fn extend<T: Clone>(to: &mut Vec<T>, from: &[T]) {
    to.extend_from_slice(from);
}

/// Rows `start..start + len` of a tensor, under `shape`.
fn rows(t: &Tensor, start: usize, len: usize, shape: &[usize]) -> Result<Tensor, OpError> {
    let row: usize = t.dims()[1..].iter().product();
    let range = start * row..(start + len) * row;
    Ok(match_tensor!(t, a => {
        let data = a.data().get(range).ok_or_else(|| OpError::input("lengths", "they add up to more rows than there are"))?;
        Tensor::new(shape, data.to_vec())?
    }))
}

/// An element shape given as a tensor: a vector of dimensions with -1 for unknown, or a scalar -1 for an unknown rank.
fn element_shape(t: &Tensor) -> Result<Option<Vec<Option<usize>>>, OpError> {
    let dims = t.typed::<i32>("element_shape")?;
    Ok((t.rank() > 0).then(|| dims.data().iter().map(|&d| usize::try_from(d).ok()).collect()))
}

type PartialShape = Option<Vec<Option<usize>>>;

/// The shape that satisfies both, or an error.
fn merge_shapes(a: &PartialShape, b: &PartialShape) -> Result<PartialShape, OpError> {
    let (Some(x), Some(y)) = (a, b) else { return Ok(a.clone().or_else(|| b.clone())) };
    let clash = || {
        let show = |s: &[Option<usize>]| Fact { shape: Some(s.to_vec()), ..Fact::default() }.to_string();
        OpError::input("element_shape", format!("{} and {} do not agree", &show(x)[1..], &show(y)[1..]))
    };
    if x.len() != y.len() {
        return Err(clash());
    }
    x.iter()
        .zip(y)
        .map(|(&p, &q)| match (p, q) {
            (Some(p), Some(q)) if p != q => Err(clash()),
            (p, q) => Ok(p.or(q)),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

fn known(shape: &[usize]) -> PartialShape {
    Some(shape.iter().map(|&d| Some(d)).collect())
}

fn fully_known(shape: &PartialShape) -> Option<Vec<usize>> {
    shape.as_ref()?.iter().copied().collect()
}

/// A non-negative index below `len`.
fn index_in(i: i32, len: usize) -> Result<usize, OpError> {
    usize::try_from(i)
        .ok()
        .filter(|&i| i < len)
        .ok_or_else(|| OpError::input("index", format!("{i} is not in [0, {len})")))
}
