//! `ScatterNd`, `TensorScatter*`, `SparseToDense`.
use num_complex::Complex32;

use super::gather::{BadIndices, flat_offsets};
use crate::{Element, KernelError, Result, Shape, Tensor, TensorOf, TfString, movement::copy_block};

/// What happens to an element that an update meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterOp {
    /// The update replaces it; the last of several wins.
    Update,
    /// The update is added.
    Add,
    /// The update is subtracted.
    Sub,
    /// The smaller stays.
    Min,
    /// The larger stays.
    Max,
}

/// Adds `updates` into zeros of `shape` at `indices`; duplicates add up.
///
/// `indices: [.., k]`, `updates: indices[..-1] + shape[k..]`.
///
/// # Errors
/// [`KernelError`] when the shapes do not go together, or for an index out of range under
/// [`BadIndices::Error`].
pub fn scatter_nd(indices: &Tensor, updates: &Tensor, shape: &[i32], bad: BadIndices) -> Result<Tensor> {
    let dims = shape.iter().map(|&d| crate::movement::count("a dimension", d)).collect::<Result<Vec<_>>>()?;
    let zeros = Tensor::zeros(updates.dtype(), dims)?;
    tensor_scatter(zeros, indices, updates, ScatterOp::Add, bad)
}

/// Combines `updates` with the slices of `tensor` that `indices` point at.
///
/// `indices: [.., k]`, `updates: indices[..-1] + tensor[k..]`.
///
/// # Errors
/// [`KernelError`] when types differ, the shapes do not go together, the type knows no such combination, or
/// for an index out of range under [`BadIndices::Error`].
pub fn tensor_scatter(
    tensor: Tensor,
    indices: &Tensor,
    updates: &Tensor,
    op: ScatterOp,
    bad: BadIndices,
) -> Result<Tensor> {
    crate::match_tensor!(tensor, t => scatter(t, indices, updates, op, bad).map(Element::wrap))
}

fn scatter<T: Combine>(
    mut tensor: TensorOf<T>,
    indices: &Tensor,
    updates: &Tensor,
    op: ScatterOp,
    bad: BadIndices,
) -> Result<TensorOf<T>> {
    let updates = updates.typed::<T>("updates")?;
    let indices = indices.typed::<i32>("indices")?;
    let (&depth, lead) = indices.dims().split_last().ok_or_else(|| KernelError::Rank {
        what: "indices",
        got: indices.shape(),
        expected: "at least one dimension",
    })?;
    let dims = tensor.shape();
    if depth > dims.len() {
        return Err(KernelError::Shapes {
            left: indices.shape(),
            right: dims,
            why: "do not go together: the indices are longer than the indexed tensor has dimensions",
        });
    }
    let want: Shape = lead.iter().chain(&dims[depth..]).copied().collect();
    if updates.dims() != &want[..] {
        return Err(KernelError::Shapes {
            left: updates.shape(),
            right: want,
            why: "differ: the first is that of the updates, the second what the indices ask for",
        });
    }
    let rows = Shape::from(lead).checked_len()?;
    let offsets = flat_offsets(indices.data(), rows, depth, &dims, bad)?;
    let inner: usize = dims[depth..].iter().product();
    if inner == 0 || updates.is_empty() {
        return Ok(tensor);
    }
    let combine = T::combiner(op)?;
    let out = tensor.data_mut();
    for (update, offset) in updates.data().chunks_exact(inner).zip(offsets) {
        let Some(offset) = offset else { continue };
        let slice = &mut out[offset * inner..][..inner];
        match combine {
            None => copy_block(slice, update),
            Some(f) => slice.iter_mut().zip(update).for_each(|(o, u)| *o = f(o, u)),
        }
    }
    Ok(tensor)
}

/// `None` replaces.
type Combiner<T> = Option<fn(&T, &T) -> T>;

trait Combine: Element {
    fn combiner(op: ScatterOp) -> Result<Combiner<Self>>;
}

fn unsupported<T: Element>(expected: &'static str) -> KernelError {
    KernelError::DType { what: "updates", got: T::DTYPE, expected }
}

impl Combine for f32 {
    fn combiner(op: ScatterOp) -> Result<Combiner<f32>> {
        Ok(match op {
            ScatterOp::Update => None,
            ScatterOp::Add => Some(|a, b| a + b),
            ScatterOp::Sub => Some(|a, b| a - b),
            // As C++'s `std::min`: the first stays unless the second is strictly smaller.
            ScatterOp::Min => Some(|a, b| if b < a { *b } else { *a }),
            ScatterOp::Max => Some(|a, b| if a < b { *b } else { *a }),
        })
    }
}

impl Combine for i32 {
    fn combiner(op: ScatterOp) -> Result<Combiner<i32>> {
        Ok(match op {
            ScatterOp::Update => None,
            ScatterOp::Add => Some(|a, b| a.wrapping_add(*b)),
            ScatterOp::Sub => Some(|a, b| a.wrapping_sub(*b)),
            ScatterOp::Min => Some(|a, b| *a.min(b)),
            ScatterOp::Max => Some(|a, b| *a.max(b)),
        })
    }
}

impl Combine for bool {
    fn combiner(op: ScatterOp) -> Result<Combiner<bool>> {
        match op {
            ScatterOp::Update => Ok(None),
            ScatterOp::Add => Ok(Some(|a, b| a | b)),
            _ => Err(unsupported::<bool>("a number")),
        }
    }
}

impl Combine for Complex32 {
    fn combiner(op: ScatterOp) -> Result<Combiner<Complex32>> {
        match op {
            ScatterOp::Update => Ok(None),
            ScatterOp::Add => Ok(Some(|a, b| a + b)),
            ScatterOp::Sub => Ok(Some(|a, b| a - b)),
            _ => Err(unsupported::<Complex32>("an ordered type")),
        }
    }
}

impl Combine for TfString {
    fn combiner(op: ScatterOp) -> Result<Combiner<TfString>> {
        match op {
            ScatterOp::Update => Ok(None),
            ScatterOp::Add => Ok(Some(|a, b| TfString::from([&a[..], &b[..]].concat()))),
            _ => Err(unsupported::<TfString>("a number")),
        }
    }
}

/// A dense tensor of `output_shape` with `default` everywhere but at `indices`.
///
/// `indices: [n, rank]`, `[n]` (rank 1) or scalar (one index); `values: [n]` or scalar. With `validate` the
/// indices must be in lexicographic order without repeats.
///
/// # Errors
/// [`KernelError`] when the shapes do not go together or an index is out of range, repeated or out of order.
pub fn sparse_to_dense(
    indices: &Tensor,
    output_shape: &[i32],
    values: &Tensor,
    default: &Tensor,
    validate: bool,
) -> Result<Tensor> {
    let rank = output_shape.len();
    let indices = indices.typed::<i32>("sparse_indices")?;
    let wrong_rank = |expected| KernelError::Rank { what: "sparse_indices", got: indices.shape(), expected };
    let (count, depth) = match *indices.dims() {
        [] => (1, 1),
        [n] => (n, 1),
        [n, d] => (n, d),
        _ => return Err(wrong_rank("at most two dimensions")),
    };
    if depth != rank {
        return Err(wrong_rank("one index per dimension of the result"));
    }
    let value_shape = values.dims();
    if !(value_shape.is_empty() || value_shape == [count]) {
        return Err(KernelError::Rank {
            what: "sparse_values",
            got: values.shape(),
            expected: "a scalar or one value per index",
        });
    }
    if default.rank() != 0 {
        return Err(KernelError::Rank { what: "default_value", got: default.shape(), expected: "a scalar" });
    }
    let dims: Shape = output_shape
        .iter()
        .map(|&d| crate::movement::count("a dimension", d))
        .collect::<Result<Vec<_>>>()?
        .into();
    dims.checked_len()?;
    if validate && depth > 0 {
        let rows: Vec<&[i32]> = indices.data().chunks_exact(depth).collect();
        for pair in rows.windows(2) {
            if pair[0] >= pair[1] {
                return Err(KernelError::Argument {
                    what: "a sparse index",
                    got: format!("{:?} after {:?}", pair[1], pair[0]),
                    expected: "in lexicographic order without repeats",
                });
            }
        }
    }
    let offsets = flat_offsets(indices.data(), count, depth, &dims, BadIndices::Error)?;
    crate::match_tensor!(values, values => fill_sparse(values, default, dims, &offsets))
}

fn fill_sparse<T: Element>(
    values: &TensorOf<T>,
    default: &Tensor,
    dims: Shape,
    offsets: &[Option<usize>],
) -> Result<Tensor> {
    let default = default.typed::<T>("default_value")?.data().first().cloned().unwrap_or_default();
    let mut out = TensorOf::full(dims, default)?;
    let data = out.data_mut();
    for (n, offset) in offsets.iter().enumerate() {
        // A scalar stands for every value.
        let value = &values.data()[if values.len() == 1 { 0 } else { n }];
        if let Some(slot) = offset.and_then(|o| data.get_mut(o)) {
            *slot = value.clone();
        }
    }
    Ok(T::wrap(out))
}
