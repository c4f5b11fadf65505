//! `SparseFillEmptyRows`, `SparseReshape`.
use crate::{Element, KernelError, Result, Tensor, TensorOf, movement};

/// Number of entries and dimensions of `indices`, and its data.
fn entries<'a>(indices: &'a Tensor, dense_shape: &'a Tensor) -> Result<(usize, &'a [i32], &'a [i32])> {
    let rank = |t: &Tensor, what, expected| KernelError::Rank { what, got: t.shape(), expected };
    let &[n, columns] = indices.dims() else { return Err(rank(indices, "indices", "two dimensions")) };
    let &[dims] = dense_shape.dims() else { return Err(rank(dense_shape, "dense_shape", "one dimension")) };
    if dims != columns {
        return Err(KernelError::Shapes {
            left: indices.shape(),
            right: dense_shape.shape(),
            why: "do not go together: indices have one column per dimension",
        });
    }
    let (indices, shape) = (indices.typed("indices")?.data(), dense_shape.typed("dense_shape")?.data());
    Ok((n, indices, shape))
}

/// Gives every row without an entry one, `default`, in column 0.
///
/// Returns the new indices, the new values, whether each row was empty, and the new position of each old entry.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit or a row is out of range.
pub fn sparse_fill_empty_rows(
    indices: &Tensor,
    values: &Tensor,
    dense_shape: &Tensor,
    default: &Tensor,
) -> Result<[Tensor; 4]> {
    let (n, index, shape) = entries(indices, dense_shape)?;
    if values.dims() != [n] {
        return Err(KernelError::Shapes {
            left: values.shape(),
            right: indices.shape(),
            why: "do not go together: there is one value per index",
        });
    }
    if default.rank() != 0 {
        return Err(KernelError::Rank { what: "default_value", got: default.shape(), expected: "a scalar" });
    }
    let &rows = shape.first().ok_or(KernelError::Rank {
        what: "dense_shape",
        got: dense_shape.shape(),
        expected: "at least one dimension",
    })?;
    let rows = movement::count("dense_shape[0]", rows)?;
    // A count of rows without entries is a promise that the caller makes, not memory that exists.
    crate::Shape::from([rows, shape.len()]).checked_len()?;
    let rank = shape.len();
    let mut start = vec![0usize; rows];
    for entry in index.chunks_exact(rank) {
        start[movement::index("a row index", entry[0], rows)?] += 1;
    }
    let empty: Vec<bool> = start.iter().map(|&c| c == 0).collect();
    let mut total = 0;
    for s in &mut start {
        total += std::mem::replace(s, total).max(1);
    }
    let mut next = start.clone();
    let mut reverse = Vec::with_capacity(n);
    for entry in index.chunks_exact(rank) {
        let at = &mut next[entry[0] as usize];
        reverse.push(*at);
        *at += 1;
    }
    let mut out = vec![0; total * rank];
    for (row, &at) in start.iter().enumerate() {
        // Overwritten below where the row has entries.
        out[at * rank] = row as i32;
    }
    for (entry, &at) in index.chunks_exact(rank).zip(&reverse) {
        out[at * rank..][..rank].copy_from_slice(entry);
    }
    let new_values = crate::match_tensor!(values, v => place(v, default, &reverse, total)?);
    let reverse: Vec<i32> = reverse.into_iter().map(|at| at as i32).collect();
    Ok([Tensor::new([total, rank], out)?, new_values, Tensor::vector(empty), Tensor::vector(reverse)])
}

fn place<T: Element>(values: &TensorOf<T>, default: &Tensor, at: &[usize], total: usize) -> Result<Tensor> {
    let default = default.typed::<T>("default_value")?.data().first().cloned().unwrap_or_default();
    let mut out = vec![default; total];
    for (value, &at) in values.data().iter().zip(at) {
        out[at] = value.clone();
    }
    Ok(Tensor::vector(out))
}

/// The indices of the same elements in a dense tensor of another shape (one size may be -1), and that shape.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit, or the numbers of elements differ.
pub fn sparse_reshape(indices: &Tensor, dense_shape: &Tensor, new_shape: &Tensor) -> Result<[Tensor; 2]> {
    let (n, index, shape) = entries(indices, dense_shape)?;
    let target = new_shape.typed::<i32>("new_shape")?;
    if target.dims().len() != 1 {
        return Err(KernelError::Rank {
            what: "new_shape",
            got: new_shape.shape(),
            expected: "one dimension",
        });
    }
    let target = target.data();
    let wrong = |expected| KernelError::Argument {
        what: "new_shape",
        got: format!("{target:?} for {shape:?}"),
        expected,
    };
    let too_large = || KernelError::TooLarge { shape: format!("{shape:?} as {target:?}") };
    let product = |dims: &[i32]| -> Result<i64> {
        dims.iter().try_fold(1i64, |n, &d| {
            let d = movement::count("a dimension", d)? as i64;
            n.checked_mul(d).ok_or_else(too_large)
        })
    };
    let elements = product(shape)?;
    let open = target.iter().filter(|&&d| d == -1).count();
    if open > 1 {
        return Err(wrong("a shape with at most one -1"));
    }
    let known: Vec<i32> = target.iter().copied().filter(|&d| d != -1).collect();
    let known = product(&known)?;
    let rest = if open == 1 {
        if known == 0 || elements % known != 0 {
            return Err(wrong("a shape whose -1 can be filled in"));
        }
        i32::try_from(elements / known).map_err(|_| too_large())?
    } else if known == elements {
        0
    } else {
        return Err(wrong("a shape with as many elements"));
    };
    let resolved: Vec<i32> = target.iter().map(|&d| if d == -1 { rest } else { d }).collect();
    let mut out = Vec::with_capacity(n.saturating_mul(resolved.len()));
    let mut entry = vec![0; resolved.len()];
    for row in index.chunks_exact(shape.len().max(1)) {
        let mut flat = 0i64;
        for (&i, &d) in row.iter().zip(shape) {
            // Sparse entries outside the shape are the caller's mistake; they must not overflow here.
            flat = flat.wrapping_mul(d.into()).wrapping_add(i.into());
        }
        for (slot, &d) in entry.iter_mut().zip(&resolved).rev() {
            let d = i64::from(d).max(1);
            *slot = flat.rem_euclid(d) as i32;
            flat = flat.div_euclid(d);
        }
        out.extend_from_slice(&entry);
    }
    Ok([Tensor::new([n, resolved.len()], out)?, Tensor::vector(resolved)])
}
