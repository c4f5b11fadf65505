//! `StringJoin`, `ReduceJoin`.
use crate::{KernelError, Result, Shape, Tensor, TensorOf, TfString, linalg, movement};

/// Joins corresponding strings of several tensors; scalars go with every element.
///
/// # Errors
/// [`KernelError`] when an input is not strings or shapes that are not scalars differ.
pub fn string_join(inputs: &[Tensor], separator: &[u8]) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(inputs.len());
    for t in inputs {
        parts.push(t.typed::<TfString>("inputs")?);
    }
    let mut shape = Shape::default();
    for t in parts.iter().filter(|t| !t.dims().is_empty()) {
        if !shape.is_empty() && t.dims() != &shape[..] {
            return Err(KernelError::Shapes {
                left: shape,
                right: t.shape(),
                why: "differ, so the strings cannot be joined",
            });
        }
        shape = t.shape();
    }
    let strings = (0..shape.checked_len()?)
        .map(|i| {
            let pieces: Vec<&[u8]> =
                parts.iter().map(|t| &t.data()[if t.dims().is_empty() { 0 } else { i }][..]).collect();
            TfString::from(pieces.join(separator))
        })
        .collect();
    Tensor::new(shape, strings)
}

/// Joins strings along `axes`, in the order in which they are named; no axes means all, from first to last.
///
/// # Errors
/// [`KernelError`] when the input is not strings, or an axis is out of range or named twice.
pub fn reduce_join(input: &Tensor, axes: &[i32], keep_dims: bool, separator: &[u8]) -> Result<Tensor> {
    let input: &TensorOf<TfString> = input.typed("inputs")?;
    let dims = input.shape();
    let mut reduced = vec![false; dims.len()];
    let mut order = Vec::with_capacity(axes.len());
    for &a in axes {
        let a = movement::axis(a.into(), dims.len())?;
        if std::mem::replace(&mut reduced[a], true) {
            return Err(KernelError::Argument {
                what: "reduction_indices",
                got: format!("{axes:?}"),
                expected: "different axes",
            });
        }
        order.push(a);
    }
    let kept: Vec<usize> = (0..dims.len()).filter(|&d| !reduced[d]).collect();
    let outer: Shape = kept.iter().map(|&d| dims[d]).collect();
    let shape: Shape = if keep_dims {
        (0..dims.len()).map(|d| if reduced[d] { 1 } else { dims[d] }).collect()
    } else {
        outer.clone()
    };
    let perm: Vec<usize> = kept.iter().chain(order.iter().rev()).copied().collect();
    let count: usize = order.iter().map(|&d| dims[d]).product();
    let moved = linalg::permuted(input, &perm);
    let strings = (0..outer.checked_len()?)
        .map(|i| {
            let pieces: Vec<&[u8]> = moved[i * count..][..count].iter().map(|s| &s[..]).collect();
            TfString::from(pieces.join(separator))
        })
        .collect();
    Tensor::new(shape, strings)
}
