//! TensorLists: values with copy-on-write, as in TensorFlow. (TF.js changes them in place, for all who hold them.)

use std::sync::Arc;

use smallvec::smallvec;
use tfjs_kernels::{
    DType, Tensor,
    binary::{BinaryOp, binary},
};

use super::{PartialShape, element_shape, fully_known, index_in, known, merge_shapes, rows, stack};
use crate::{
    Fact, OpError, Value,
    op::{Inputs, OpDef, Values, simple, unknown},
    value::TensorList,
};

pub(in crate::ops) const OPS: &[OpDef] = &[
    OpDef::new("EmptyTensorList", 2..=2, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            move |x| {
                let max = x.scalar::<i32>(1, "max_num_elements")?;
                let shape = element_shape(x.tensor(0)?)?;
                list(dtype, shape, Vec::new(), usize::try_from(max).ok())
            },
            unknown,
        )
    }),
    OpDef::new("TensorListReserve", 2..=2, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            move |x| {
                let n = x.scalar::<i32>(1, "num_elements")?;
                let n = usize::try_from(n)
                    .map_err(|_| OpError::input("num_elements", format!("{n} is negative")))?;
                list(dtype, element_shape(x.tensor(0)?)?, vec![None; n], None)
            },
            unknown,
        )
    }),
    OpDef::new("TensorListFromTensor", 2..=2, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            move |x| {
                let (t, shape) = (x.take(0)?, element_shape(x.tensor(1)?)?);
                let n = *t.dims().first().ok_or_else(|| OpError::input("tensor", "a scalar has no rows"))?;
                let inner = t.dims()[1..].to_vec();
                let shape = merge_shapes(&shape, &known(&inner))?;
                let items = (0..n)
                    .map(|i| Ok(Some(Value::Tensor(rows(&t, i, 1, &inner)?))))
                    .collect::<Result<_, OpError>>()?;
                list(dtype, shape, items, None)
            },
            unknown,
        )
    }),
    OpDef::new("TensorListSplit", 3..=3, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(move |x| split(dtype, x), unknown)
    }),
    OpDef::new("TensorListLength", 1..=1, |_| {
        simple(
            |x| Ok(smallvec![Tensor::scalar(borrow(x, 0)?.items.len() as i32).into()]),
            |_| Ok(vec![Fact::of(DType::Int32, &[])]),
        )
    }),
    OpDef::new("TensorListElementShape", 1..=1, |_| {
        simple(
            |x| {
                Ok(smallvec![
                    match &borrow(x, 0)?.element_shape {
                        None => Tensor::scalar(-1i32),
                        Some(s) => Tensor::vector(s.iter().map(|d| d.map_or(-1, |d| d as i32)).collect()),
                    }
                    .into()
                ])
            },
            unknown,
        )
    }),
    OpDef::new("TensorListResize", 2..=2, |_| {
        simple(
            |x| {
                let n = x.scalar::<i32>(1, "size")?;
                let n = usize::try_from(n).map_err(|_| OpError::input("size", format!("{n} is negative")))?;
                change(x, |l| {
                    l.items.resize(n, None);
                    Ok(())
                })
            },
            unknown,
        )
    }),
    OpDef::new("TensorListPushBack", 2..=2, |_| {
        simple(
            |x| {
                let item = x.take_value(1)?;
                change(x, move |l| {
                    if l.max_len.is_some_and(|m| l.items.len() >= m) {
                        return Err(OpError::input(
                            "input_handle",
                            format!("the list is full ({} elements)", l.items.len()),
                        ));
                    }
                    check_item(l, &item)?;
                    l.items.push(Some(item));
                    Ok(())
                })
            },
            unknown,
        )
    }),
    OpDef::new("TensorListPopBack", 2..=2, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            move |x| {
                let shape = element_shape(x.tensor(1)?)?;
                let mut last = None;
                let mut out = change(x, |l| {
                    let item =
                        l.items.pop().ok_or_else(|| OpError::input("input_handle", "the list is empty"))?;
                    last = Some(match item {
                        Some(item) => item,
                        None => zeros(l, &shape)?,
                    });
                    Ok(())
                })?;
                out.extend(last);
                Ok(out)
            },
            move |_| Ok(vec![Fact::unknown(), Fact { dtype, ..Fact::default() }]),
        )
    }),
    OpDef::new("TensorListGetItem", 3..=3, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            move |x| {
                let l = borrow(x, 0)?;
                if let (Some(asked), Some(held)) = (dtype, l.dtype)
                    && asked != held
                {
                    return Err(OpError::input(
                        "element_dtype",
                        format!("is {asked}, the list holds {held}"),
                    ));
                }
                let i = index_in(x.scalar::<i32>(1, "index")?, l.items.len())?;
                Ok(smallvec![match &l.items[i] {
                    Some(item) => item.clone(),
                    None => zeros(l, &element_shape(x.tensor(2)?)?)?,
                }])
            },
            move |f| Ok(vec![Fact { dtype, shape: shape_hint(f.get(2)), value: None }]),
        )
    }),
    OpDef::new("TensorListSetItem", 3..=3, |b| {
        let grow = b.attrs.bool_or("resize_if_index_out_of_bounds", false)?;
        simple(
            move |x| {
                let (i, item) = (x.scalar::<i32>(1, "index")?, x.take_value(2)?);
                change(x, move |l| {
                    if grow && i >= 0 && i as usize >= l.items.len() {
                        l.items.resize(i as usize + 1, None);
                    }
                    let i = index_in(i, l.items.len())?;
                    check_item(l, &item)?;
                    l.items[i] = Some(item);
                    Ok(())
                })
            },
            unknown,
        )
    }),
    OpDef::new("TensorListStack", 2..=2, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        let expected = b.attrs.int_or("num_elements", -1)?;
        simple(
            move |x| {
                let l = borrow(x, 0)?;
                if expected >= 0 && l.items.len() as i64 != expected {
                    let problem = format!("expected {expected} elements, the list has {}", l.items.len());
                    return Err(OpError::input("input_handle", problem));
                }
                gather(l, 0..l.items.len(), &element_shape(x.tensor(1)?)?)
            },
            move |f| {
                let n = usize::try_from(expected).ok();
                let shape = shape_hint(f.get(1)).map(|s| std::iter::once(n).chain(s).collect());
                Ok(vec![Fact { dtype, shape, value: None }])
            },
        )
    }),
    OpDef::new("TensorListGather", 3..=3, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            |x| {
                let l = borrow(x, 0)?;
                let indices: Vec<usize> = x
                    .elements::<i32>(1, "indices")?
                    .iter()
                    .map(|&i| index_in(i, l.items.len()))
                    .collect::<Result<_, _>>()?;
                gather(l, indices.into_iter(), &element_shape(x.tensor(2)?)?)
            },
            move |_| Ok(vec![Fact { dtype, ..Fact::default() }]),
        )
    }),
    OpDef::new("TensorListScatter", 3..=3, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(move |x| scatter(dtype, x, -1), unknown)
    }),
    OpDef::new("TensorListScatterV2", 4..=4, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            move |x| {
                let n = x.scalar::<i32>(3, "num_elements")?;
                scatter(dtype, x, n)
            },
            unknown,
        )
    }),
    OpDef::new("TensorListScatterIntoExistingList", 3..=3, |_| {
        simple(
            |x| {
                let (t, indices) = (x.take(1)?, x.elements::<i32>(2, "indices")?.to_vec());
                change(x, move |l| scatter_rows(l, &t, &indices))
            },
            unknown,
        )
    }),
    OpDef::new("TensorListConcat", 1..=1, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        let shape = b.attrs.shape("element_shape")?;
        simple(
            move |x| concat(borrow(x, 0)?, &shape, None),
            move |_| Ok(vec![Fact { dtype, ..Fact::default() }]),
        )
    }),
    OpDef::new("TensorListConcatV2", 3..=3, |b| {
        let dtype = b.attrs.dtype("element_dtype").ok();
        simple(
            |x| {
                concat(
                    borrow(x, 0)?,
                    &element_shape(x.tensor(1)?)?,
                    Some(x.elements::<i32>(2, "leading_dims")?),
                )
            },
            move |_| Ok(vec![Fact { dtype, ..Fact::default() }]),
        )
    }),
    OpDef::new("TensorListConcatLists", 2..=2, |_| {
        simple(
            |x| {
                let more = borrow(x, 1)?.items.clone();
                change(x, move |l| {
                    l.items.extend(more);
                    Ok(())
                })
            },
            unknown,
        )
    }),
];

fn list(
    dtype: Option<DType>,
    element_shape: PartialShape,
    items: Vec<Option<Value>>,
    max_len: Option<usize>,
) -> Result<Values, OpError> {
    Ok(smallvec![Value::List(Arc::new(TensorList { dtype, element_shape, items, max_len }))])
}

/// A list of as many elements that were never set.
pub(in crate::ops) fn zero_list(like: &TensorList) -> Values {
    let items = vec![None; like.items.len()];
    smallvec![Value::List(Arc::new(TensorList { items, ..like.clone() }))]
}

/// The sum of lists, element by element.
pub(in crate::ops) fn add_lists(x: &mut Inputs) -> Result<Values, OpError> {
    let n = x.len();
    let mut rest = Vec::with_capacity(n);
    for i in 1..n {
        match x.take_value(i)? {
            Value::List(l) => rest.push(l),
            other => return Err(OpError::Kind { index: i, got: other.kind(), expected: "a TensorList" }),
        }
    }
    change(x, |sum| {
        for list in rest {
            if list.items.len() != sum.items.len() {
                let problem = format!("lists of {} and {} elements", sum.items.len(), list.items.len());
                return Err(OpError::input("inputs", problem));
            }
            for (to, from) in sum.items.iter_mut().zip(&list.items) {
                let Some(from) = from else { continue };
                *to = Some(match (to.take(), from) {
                    (Some(Value::Tensor(a)), Value::Tensor(b)) => binary(BinaryOp::Add, a, b.clone())?.into(),
                    (Some(Value::List(a)), Value::List(b)) => {
                        let mut pair = Inputs([Value::List(a), Value::List(b.clone())].into_iter().collect());
                        match add_lists(&mut pair)?.pop() {
                            Some(sum) => sum,
                            None => continue,
                        }
                    }
                    (None, from) => from.clone(),
                    (Some(other), _) => {
                        return Err(OpError::Kind {
                            index: 0,
                            got: other.kind(),
                            expected: "a list of tensors",
                        });
                    }
                });
            }
        }
        Ok(())
    })
}

fn shape_hint(f: Option<&Fact>) -> PartialShape {
    element_shape(f?.value.as_ref()?).ok().flatten()
}

fn borrow(x: &Inputs, index: usize) -> Result<&TensorList, OpError> {
    match x.value(index)? {
        Value::List(l) => Ok(l),
        other => Err(OpError::Kind { index, got: other.kind(), expected: "a TensorList" }),
    }
}

/// Changes the list of input 0: in place when nobody else holds it.
fn change(x: &mut Inputs, f: impl FnOnce(&mut TensorList) -> Result<(), OpError>) -> Result<Values, OpError> {
    match x.take_value(0)? {
        Value::List(mut l) => {
            f(Arc::make_mut(&mut l))?;
            Ok(smallvec![Value::List(l)])
        }
        other => Err(OpError::Kind { index: 0, got: other.kind(), expected: "a TensorList" }),
    }
}

fn check_item(l: &TensorList, item: &Value) -> Result<(), OpError> {
    let Value::Tensor(t) = item else { return Ok(()) };
    if let Some(d) = l.dtype
        && d != t.dtype()
    {
        return Err(OpError::input("item", format!("is {}, the list holds {d}", t.dtype())));
    }
    merge_shapes(&l.element_shape, &known(t.dims())).map(|_| ())
}

/// The shape of elements that were never set: that of the list, refined by the op's argument and by its elements.
fn unset_shape(l: &TensorList, asked: &PartialShape) -> Result<Vec<usize>, OpError> {
    let mut shape = merge_shapes(&l.element_shape, asked)?;
    if fully_known(&shape).is_none() {
        for item in l.items.iter().flatten() {
            if let Value::Tensor(t) = item {
                shape = merge_shapes(&shape, &known(t.dims()))?;
            }
        }
    }
    fully_known(&shape).ok_or_else(|| {
        OpError::input("element_shape", "an element was never set, and its shape is not fully known")
    })
}

fn zeros(l: &TensorList, asked: &PartialShape) -> Result<Value, OpError> {
    let Some(dtype) = l.dtype else { return Err(OpError::input("index", "the element was never set")) };
    Ok(Tensor::zeros(dtype, unset_shape(l, asked)?)?.into())
}

fn gather(
    l: &TensorList,
    indices: impl ExactSizeIterator<Item = usize>,
    asked: &PartialShape,
) -> Result<Values, OpError> {
    let Some(dtype) = l.dtype else {
        return Err(OpError::input("input_handle", "a list of lists cannot be stacked"));
    };
    let n = indices.len();
    if n == 0 {
        // With no elements, unknown dimensions count as zero-sized only if the shape is known.
        let shape = unset_shape(l, asked)?;
        return Ok(smallvec![Tensor::zeros(dtype, [&[0], &shape[..]].concat())?.into()]);
    }
    let mut parts = Vec::with_capacity(n);
    for i in indices {
        match &l.items[i] {
            Some(Value::Tensor(t)) => parts.push(t.clone()),
            Some(other) => {
                return Err(OpError::Kind { index: 0, got: other.kind(), expected: "a list of tensors" });
            }
            None => match zeros(l, asked)? {
                Value::Tensor(t) => parts.push(t),
                _ => continue,
            },
        }
    }
    let inner = parts[0].dims().to_vec();
    merge_shapes(asked, &known(&inner))?;
    if let Some(odd) = parts.iter().find(|p| p.dims() != inner) {
        let problem =
            format!("elements of shapes {} and {} cannot be stacked", parts[0].shape(), odd.shape());
        return Err(OpError::input("input_handle", problem));
    }
    Ok(smallvec![stack(&parts, &[n], &inner)?.into()])
}

fn scatter(dtype: Option<DType>, x: &mut Inputs, n: i32) -> Result<Values, OpError> {
    let (t, shape) = (x.take(0)?, element_shape(x.tensor(2)?)?);
    let indices = x.elements::<i32>(1, "indices")?;
    let largest = indices.iter().copied().max().unwrap_or(-1);
    let len = usize::try_from(n.max(largest.saturating_add(1))).unwrap_or(0);
    if n >= 0 && largest >= n {
        return Err(OpError::input("indices", format!("{largest} is not in [0, {n})")));
    }
    // Each element is stored apart, so a huge index alone would make a huge list.
    if len > indices.len().saturating_mul(1024).max(1 << 20) {
        return Err(OpError::input("indices", format!("a list of {len} elements is too long")));
    }
    let mut l = TensorList { dtype, element_shape: shape, items: vec![None; len], max_len: None };
    scatter_rows(&mut l, &t, indices)?;
    Ok(smallvec![Value::List(Arc::new(l))])
}

fn scatter_rows(l: &mut TensorList, t: &Tensor, indices: &[i32]) -> Result<(), OpError> {
    if t.dims().first() != Some(&indices.len()) {
        let problem = format!("{} rows expected for as many indices, got shape {}", indices.len(), t.shape());
        return Err(OpError::input("tensor", problem));
    }
    let inner = t.dims()[1..].to_vec();
    for (row, &i) in indices.iter().enumerate() {
        let i = index_in(i, l.items.len())?;
        let item = Value::Tensor(rows(t, row, 1, &inner)?);
        check_item(l, &item)?;
        l.items[i] = Some(item);
    }
    Ok(())
}

fn split(dtype: Option<DType>, x: &mut Inputs) -> Result<Values, OpError> {
    let (t, shape) = (x.take(0)?, element_shape(x.tensor(1)?)?);
    if t.rank() == 0 {
        return Err(OpError::input("tensor", "a scalar has no rows"));
    }
    let (items, _) = split_rows(&t, x.elements::<i32>(2, "lengths")?)?;
    // The shape argument describes whole elements; its first dimension is usually unknown.
    let l = TensorList { dtype, element_shape: shape, items: Vec::new(), max_len: None };
    let items = items
        .into_iter()
        .map(|t| {
            let item = Value::Tensor(t);
            check_item(&l, &item).map(|()| Some(item))
        })
        .collect::<Result<_, _>>()?;
    list(dtype, l.element_shape, items, None)
}

/// Consecutive pieces of the given numbers of rows, and how many rows they are in all.
pub(super) fn split_rows(t: &Tensor, lengths: &[i32]) -> Result<(Vec<Tensor>, usize), OpError> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(lengths.len());
    for &n in lengths {
        let n = usize::try_from(n).map_err(|_| OpError::input("lengths", format!("{n} is negative")))?;
        if start + n > t.dims()[0] {
            return Err(OpError::input(
                "lengths",
                format!("they add up to more than the {} rows there are", t.dims()[0]),
            ));
        }
        let shape: Vec<usize> = std::iter::once(n).chain(t.dims()[1..].iter().copied()).collect();
        parts.push(rows(t, start, n, &shape)?);
        start += n;
    }
    if start != t.dims()[0] {
        return Err(OpError::input(
            "lengths",
            format!("they add up to {start}, there are {} rows", t.dims()[0]),
        ));
    }
    Ok((parts, start))
}

fn concat(l: &TensorList, asked: &PartialShape, leading: Option<&[i32]>) -> Result<Values, OpError> {
    let Some(dtype) = l.dtype else {
        return Err(OpError::input("input_handle", "a list of lists cannot be joined"));
    };
    // Elements agree in all but their first dimension.
    let tail = |s: &PartialShape| s.as_ref().filter(|s| !s.is_empty()).map(|s| s[1..].to_vec());
    let mut inner = merge_shapes(&tail(&l.element_shape), &tail(asked))?;
    let mut parts = Vec::with_capacity(l.items.len());
    for item in l.items.iter().flatten() {
        let Value::Tensor(t) = item else {
            return Err(OpError::Kind { index: 0, got: item.kind(), expected: "a list of tensors" });
        };
        if t.rank() == 0 {
            return Err(OpError::input("input_handle", "scalars cannot be concatenated"));
        }
        inner = merge_shapes(&inner, &known(&t.dims()[1..]))?;
    }
    for (i, item) in l.items.iter().enumerate() {
        parts.push(match item {
            Some(Value::Tensor(t)) => t.clone(),
            _ => {
                let first = leading.and_then(|d| d.get(i)).and_then(|&d| usize::try_from(d).ok());
                let first =
                    first.or_else(|| l.element_shape.as_ref().or(asked.as_ref()).and_then(|s| *s.first()?));
                let (Some(first), Some(rest)) = (first, fully_known(&inner)) else {
                    return Err(OpError::input(
                        "leading_dims",
                        "an element was never set, and its shape is not fully known",
                    ));
                };
                Tensor::zeros(dtype, [&[first], &rest[..]].concat())?
            }
        });
    }
    let lengths: Vec<i32> = parts.iter().map(|p| p.dims()[0] as i32).collect();
    let total: usize = parts.iter().map(|p| p.dims()[0]).sum();
    let Some(inner) = fully_known(&inner) else {
        return Err(OpError::input(
            "element_shape",
            "an empty list can be joined only if its element shape is known",
        ));
    };
    let joined = match parts.is_empty() {
        true => Tensor::zeros(dtype, [&[0], &inner[..]].concat())?,
        false => stack(&parts, &[total], &inner)?,
    };
    Ok(smallvec![joined.into(), Tensor::vector(lengths).into()])
}
