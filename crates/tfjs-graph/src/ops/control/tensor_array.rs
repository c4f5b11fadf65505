//! TensorArrays: arrays behind a handle, ordered by the "flow" value that is passed along.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::smallvec;
use tfjs_kernels::{DType, Tensor};

use super::{fully_known, known, list::split_rows, merge_shapes, rows, stack};
use crate::{
    Cx, Effect, Fact, Op, OpError, Value,
    op::{Inputs, OpDef, Values},
    value::{ArrayItem, TensorArray},
};

pub(in crate::ops) const OPS: &[OpDef] = &[
    OpDef::new("TensorArrayV3", 1..=1, |b| {
        let array = TensorArray {
            name: b.node.name.clone(),
            dtype: b.attrs.dtype("dtype")?,
            element_shape: b.attrs.shape("element_shape")?,
            identical_shapes: b.attrs.bool_or("identical_element_shapes", false)?,
            dynamic_size: b.attrs.bool_or("dynamic_size", false)?,
            clear_after_read: b.attrs.bool_or("clear_after_read", true)?,
            items: Vec::new(),
            closed: false,
        };
        Ok(Box::new(ArrayOp { run: Run::New(array), dtype: None }))
    }),
    OpDef::new("TensorArrayWriteV3", 4..=4, |_| op(write, Some(DType::Float32))),
    OpDef::new("TensorArrayReadV3", 3..=3, |b| op(read, Some(b.attrs.dtype("dtype")?))),
    OpDef::new("TensorArrayGatherV3", 3..=3, |b| op(gather, Some(b.attrs.dtype("dtype")?))),
    OpDef::new("TensorArrayScatterV3", 4..=4, |_| op(scatter, Some(DType::Float32))),
    OpDef::new("TensorArrayConcatV3", 2..=2, |b| op(concat, Some(b.attrs.dtype("dtype")?))),
    OpDef::new("TensorArraySplitV3", 4..=4, |_| op(split, Some(DType::Float32))),
    OpDef::new("TensorArraySizeV3", 2..=2, |_| {
        op(|x| Ok(smallvec![Tensor::scalar(open(x)?.items.len() as i32).into()]), Some(DType::Int32))
    }),
    OpDef::new("TensorArrayCloseV3", 1..=1, |_| {
        op(
            |x| {
                let mut a = open(x)?;
                a.closed = true;
                a.items.clear();
                Ok(Values::new())
            },
            None,
        )
    }),
];

#[derive(Debug)]
struct ArrayOp {
    run: Run,
    /// Type of output 0.
    dtype: Option<DType>,
}

#[derive(Debug)]
enum Run {
    New(TensorArray),
    Use(fn(&mut Inputs) -> Result<Values, OpError>),
}

fn op(run: fn(&mut Inputs) -> Result<Values, OpError>, dtype: Option<DType>) -> Result<Box<dyn Op>, OpError> {
    Ok(Box::new(ArrayOp { run: Run::Use(run), dtype }))
}

impl Op for ArrayOp {
    fn eval(&self, _cx: &mut Cx<'_>, mut inputs: Inputs) -> Result<Values, OpError> {
        match &self.run {
            Run::Use(f) => f(&mut inputs),
            Run::New(array) => {
                let n = inputs.scalar::<i32>(0, "size")?;
                let n = usize::try_from(n).map_err(|_| OpError::input("size", format!("{n} is negative")))?;
                let array = TensorArray { items: vec![ArrayItem::default(); n], ..array.clone() };
                Ok(smallvec![Value::Array(Arc::new(Mutex::new(array))), Tensor::scalar(0f32).into()])
            }
        }
    }

    fn infer(&self, _inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        Ok(match self.run {
            Run::New(_) => vec![Fact::unknown(), Fact::of(DType::Float32, &[])],
            Run::Use(_) => vec![Fact { dtype: self.dtype, ..Fact::default() }],
        })
    }

    fn effect(&self) -> Effect {
        Effect::Stateful
    }
}

fn open(x: &Inputs) -> Result<MutexGuard<'_, TensorArray>, OpError> {
    let Value::Array(a) = x.value(0)? else {
        return Err(OpError::Kind { index: 0, got: x.value(0)?.kind(), expected: "a TensorArray" });
    };
    let guard = a.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.closed {
        return Err(OpError::input("handle", format!("TensorArray {} has been closed", guard.name)));
    }
    Ok(guard)
}

fn write_item(a: &mut TensorArray, index: i32, value: Tensor) -> Result<(), OpError> {
    let i = usize::try_from(index).map_err(|_| OpError::input("index", format!("{index} is negative")))?;
    if i >= a.items.len() {
        if !a.dynamic_size {
            let problem =
                format!("{i} is not in [0, {}), and TensorArray {} cannot grow", a.items.len(), a.name);
            return Err(OpError::input("index", problem));
        }
        if i > a.items.len().saturating_mul(2).max(1 << 20) {
            return Err(OpError::input("index", format!("{i} is far beyond the {} elements", a.items.len())));
        }
        a.items.resize(i + 1, ArrayItem::default());
    }
    if value.dtype() != a.dtype {
        return Err(OpError::input(
            "value",
            format!("is {}, TensorArray {} holds {}", value.dtype(), a.name, a.dtype),
        ));
    }
    if a.items[i].written {
        return Err(OpError::input(
            "index",
            format!("element {i} of TensorArray {} was written already", a.name),
        ));
    }
    let merged = merge_shapes(&a.element_shape, &known(value.dims()))?;
    if a.identical_shapes {
        a.element_shape = merged;
    }
    a.items[i] = ArrayItem { value: Some(value), cleared: false, written: true };
    Ok(())
}

fn read_item(a: &mut TensorArray, index: i32) -> Result<Tensor, OpError> {
    let len = a.items.len();
    let i = super::index_in(index, len)?;
    let item = &mut a.items[i];
    if item.cleared {
        let problem = format!("element {i} of TensorArray {} was read and cleared already", a.name);
        return Err(OpError::input("index", problem));
    }
    match (&item.value, a.clear_after_read) {
        (Some(_), true) => {
            item.cleared = true;
            item.value.take().ok_or_else(|| OpError::input("index", "the element is gone"))
        }
        (Some(v), false) => Ok(v.clone()),
        (None, _) => match fully_known(&a.element_shape) {
            Some(shape) => Ok(Tensor::zeros(a.dtype, shape)?),
            None => Err(OpError::input(
                "index",
                format!("element {i} of TensorArray {} was never written", a.name),
            )),
        },
    }
}

fn flow() -> Result<Values, OpError> {
    Ok(smallvec![Tensor::scalar(0f32).into()])
}

fn write(x: &mut Inputs) -> Result<Values, OpError> {
    let (index, value) = (x.scalar::<i32>(1, "index")?, x.take(2)?);
    write_item(&mut *open(x)?, index, value)?;
    flow()
}

fn read(x: &mut Inputs) -> Result<Values, OpError> {
    let index = x.scalar::<i32>(1, "index")?;
    Ok(smallvec![read_item(&mut *open(x)?, index)?.into()])
}

fn gather(x: &mut Inputs) -> Result<Values, OpError> {
    let indices = x.elements::<i32>(1, "indices")?;
    let mut a = open(x)?;
    let parts = indices.iter().map(|&i| read_item(&mut a, i)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = parts.first() else {
        let inner = fully_known(&a.element_shape).ok_or_else(|| {
            OpError::input("element_shape", "nothing is gathered, and the element shape is not fully known")
        })?;
        return Ok(smallvec![Tensor::zeros(a.dtype, [&[0], &inner[..]].concat())?.into()]);
    };
    if let Some(odd) = parts.iter().find(|p| p.dims() != first.dims()) {
        let problem = format!("elements of shapes {} and {} cannot be stacked", first.shape(), odd.shape());
        return Err(OpError::input("handle", problem));
    }
    Ok(smallvec![stack(&parts, &[parts.len()], first.dims())?.into()])
}

fn scatter(x: &mut Inputs) -> Result<Values, OpError> {
    let t = x.take(2)?;
    let indices = x.elements::<i32>(1, "indices")?;
    if t.dims().first() != Some(&indices.len()) {
        let problem = format!("{} rows expected for as many indices, got shape {}", indices.len(), t.shape());
        return Err(OpError::input("value", problem));
    }
    let mut a = open(x)?;
    for (row, &i) in indices.iter().enumerate() {
        let item = rows(&t, row, 1, &t.dims()[1..])?;
        write_item(&mut a, i, item)?;
    }
    flow()
}

fn concat(x: &mut Inputs) -> Result<Values, OpError> {
    let mut a = open(x)?;
    let parts = (0..a.items.len()).map(|i| read_item(&mut a, i as i32)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = parts.first() else {
        let inner = fully_known(&a.element_shape).unwrap_or_default();
        let shape: Vec<usize> = std::iter::once(0).chain(inner.into_iter().skip(1)).collect();
        return Ok(smallvec![
            Tensor::zeros(a.dtype, shape)?.into(),
            Tensor::vector(Vec::<i32>::new()).into()
        ]);
    };
    if first.rank() == 0 || parts.iter().any(|p| p.dims().get(1..) != first.dims().get(1..)) {
        return Err(OpError::input("handle", "elements differ in more than their first dimension"));
    }
    let lengths: Vec<i32> = parts.iter().map(|p| p.dims()[0] as i32).collect();
    let total = parts.iter().map(|p| p.dims()[0]).sum();
    Ok(smallvec![stack(&parts, &[total], &first.dims()[1..])?.into(), Tensor::vector(lengths).into()])
}

fn split(x: &mut Inputs) -> Result<Values, OpError> {
    let t = x.take(1)?;
    if t.rank() == 0 {
        return Err(OpError::input("value", "a scalar has no rows"));
    }
    let (parts, _) = split_rows(&t, x.elements::<i32>(2, "lengths")?)?;
    let mut a = open(x)?;
    if !a.dynamic_size && parts.len() != a.items.len() {
        let problem = format!("{} pieces for a TensorArray of {}", parts.len(), a.items.len());
        return Err(OpError::input("lengths", problem));
    }
    for (i, part) in parts.into_iter().enumerate() {
        write_item(&mut a, i as i32, part)?;
    }
    flow()
}
