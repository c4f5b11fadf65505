//! `Gather`, `GatherV2`, `GatherNd`.
use crate::{
    Element, KernelError, Result, Shape, Tensor, TensorOf,
    movement::{self, copy_block},
    pool,
};

/// What an index outside its range does (`bad_indices_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadIndices {
    /// It is an error.
    #[default]
    Error,
    /// It reads zeros, or writes nothing.
    Ignore,
}

/// Picks slices of `params` along `axis` by `indices`.
///
/// The result's shape is `params[..axis] + indices[batch_dims..] + params[axis + 1..]`. Both `axis` and
/// `batch_dims` may be negative; the latter counts from the rank of `indices`.
///
/// # Errors
/// [`KernelError`] for an index outside the dimension, an axis out of range, or batch dimensions that differ.
pub fn gather(params: &Tensor, indices: &Tensor, axis: i64, batch_dims: i64) -> Result<Tensor> {
    let (shape, axis, batch) = gather_shape(&params.shape(), &indices.shape(), axis, batch_dims)?;
    shape.checked_len()?;
    let indices = indices.typed::<i32>("indices")?;
    crate::match_tensor!(params, t => gather_of(t, indices.data(), shape, axis, batch))
}

/// Shape of [`gather`]'s result, with the axis and the number of batch dimensions made positive.
///
/// # Errors
/// As [`gather`].
pub fn gather_shape(
    params: &Shape,
    indices: &Shape,
    axis: i64,
    batch_dims: i64,
) -> Result<(Shape, usize, usize)> {
    let axis = movement::axis(axis, params.len())?;
    let rank = indices.len() as i64;
    let batch = if batch_dims < 0 { batch_dims + rank } else { batch_dims };
    if batch < 0 || batch > rank || batch > axis as i64 {
        return Err(KernelError::Range {
            what: "batch_dims",
            got: batch_dims,
            min: -rank,
            max: rank.min(axis as i64) + 1,
        });
    }
    let batch = batch as usize;
    if params[..batch] != indices[..batch] {
        return Err(KernelError::Shapes {
            left: params.clone(),
            right: indices.clone(),
            why: "differ in the batch dimensions",
        });
    }
    let shape = params[..axis].iter().chain(&indices[batch..]).chain(&params[axis + 1..]).copied().collect();
    Ok((shape, axis, batch))
}

fn gather_of<T: Element>(
    params: &TensorOf<T>,
    indices: &[i32],
    shape: Shape,
    axis: usize,
    batch: usize,
) -> Result<Tensor> {
    let dims = params.dims();
    let dim = dims[axis];
    for &i in indices {
        movement::index("index", i, dim)?;
    }
    let batches: usize = dims[..batch].iter().product();
    let outer: usize = dims[batch..axis].iter().product();
    let inner: usize = dims[axis + 1..].iter().product();
    let picks = indices.len() / batches.max(1);
    let src = params.data();
    let mut out = pool::elements(shape.checked_len()?);
    if !out.is_empty() {
        movement::rows(&mut out, inner, |first, lines| {
            for (n, row) in lines.chunks_exact_mut(inner).enumerate() {
                let at = first + n;
                // Row order of the result: batch, outer, pick.
                let (slab, pick) = (at / picks, at % picks);
                let i = indices[slab / outer * picks + pick] as usize;
                copy_block(row, &src[(slab * dim + i) * inner..][..inner]);
            }
        });
    }
    Tensor::from_buffer(shape, out)
}

/// Picks slices of `params`: the last dimension of `indices` indexes the first dimensions of `params`.
///
/// `indices: [.., k]`, result `indices[..-1] + params[k..]`.
///
/// # Errors
/// [`KernelError`] when `k` exceeds the rank of `params`, or for an index out of range under
/// [`BadIndices::Error`].
pub fn gather_nd(params: &Tensor, indices: &Tensor, bad: BadIndices) -> Result<Tensor> {
    let indices = indices.typed::<i32>("indices")?;
    let (&depth, lead) = indices.dims().split_last().ok_or_else(|| KernelError::Rank {
        what: "indices",
        got: indices.shape(),
        expected: "at least one dimension",
    })?;
    if depth > params.rank() {
        return Err(KernelError::Shapes {
            left: indices.shape(),
            right: params.shape(),
            why: "do not go together: the indices are longer than the indexed tensor has dimensions",
        });
    }
    let shape: Shape = lead.iter().chain(&params.dims()[depth..]).copied().collect();
    let len = shape.checked_len()?;
    let rows = Shape::from(lead).checked_len()?;
    let offsets = flat_offsets(indices.data(), rows, depth, params.dims(), bad)?;
    crate::match_tensor!(params, t => {
        let inner: usize = params.dims()[depth..].iter().product();
        let src = t.data();
        let mut out = pool::zeros(len);
        if !out.is_empty() {
            movement::rows(&mut out, inner, |first, chunk| {
                for (row, offset) in chunk.chunks_exact_mut(inner).zip(&offsets[first..]) {
                    if let Some(o) = offset {
                        copy_block(row, &src[o * inner..][..inner]);
                    }
                }
            });
        }
        Tensor::from_buffer(shape, out)
    })
}

/// For each row of `depth` indices the number of the slice they point at, `None` when ignored.
pub(super) fn flat_offsets(
    indices: &[i32],
    rows: usize,
    depth: usize,
    dims: &[usize],
    bad: BadIndices,
) -> Result<Vec<Option<usize>>> {
    if depth == 0 {
        return Ok(vec![Some(0); rows]);
    }
    indices
        .chunks_exact(depth)
        .map(|row| {
            let mut flat = 0;
            for (&i, &dim) in row.iter().zip(dims) {
                match movement::index("index", i, dim) {
                    Ok(i) => flat = flat * dim + i,
                    Err(_) if bad == BadIndices::Ignore => return Ok(None),
                    Err(e) => return Err(e),
                }
            }
            Ok(Some(flat))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{BadIndices, gather, gather_nd};
    use crate::Tensor;

    fn range(shape: &[usize]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product::<usize>() as i32).collect::<Vec<_>>()).unwrap()
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn gather_takes_batch_dimensions() {
        let index = Tensor::new([2, 2], vec![1, 0, 2, 2]).unwrap();
        let t = gather(&range(&[2, 3, 2]), &index, 1, 1).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[2, 2, 2][..], &[2, 3, 0, 1, 10, 11, 10, 11][..]));
    }

    #[test]
    fn indices_out_of_range_are_errors_or_zeros() {
        assert!(gather(&range(&[3]), &Tensor::vector(vec![3]), 0, 0).is_err());
        assert!(gather(&range(&[3]), &Tensor::vector(vec![-1]), 0, 0).is_err());
        assert!(gather(&range(&[3]), &Tensor::vector(vec![0]), 1, 0).is_err());
        let index = Tensor::new([2, 1], vec![2, 5]).unwrap();
        assert!(gather_nd(&range(&[3]), &index, BadIndices::Error).is_err());
        let t = gather_nd(&range(&[3]), &index, BadIndices::Ignore).unwrap();
        assert_eq!(t.data::<i32>().unwrap(), [2, 0]);
    }
}
