//! `DynamicPartition`, `DynamicStitch`, `InvertPermutation`.
use crate::{
    Element, KernelError, Result, Shape, Tensor,
    movement::{self, copy_block},
};

/// Distributes the slices of `data` over `count` tensors by `partitions`, whose shape is a prefix of `data`'s.
///
/// # Errors
/// [`KernelError`] when the shapes do not go together or a partition is not in `0..count`.
pub fn dynamic_partition(data: &Tensor, partitions: &Tensor, count: usize) -> Result<Vec<Tensor>> {
    let partitions = partitions.typed::<i32>("partitions")?;
    let Some(rest) = data.dims().strip_prefix(partitions.dims()) else {
        return Err(KernelError::Shapes {
            left: data.shape(),
            right: partitions.shape(),
            why: "do not go together: the second has to be a prefix of the first",
        });
    };
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (row, &p) in partitions.data().iter().enumerate() {
        rows[movement::index("partition", p, count)?].push(row);
    }
    let inner: usize = rest.iter().product();
    rows.into_iter()
        .map(|rows| {
            let shape: Shape = [rows.len()].iter().chain(rest).copied().collect();
            crate::match_tensor!(data, t => {
                let mut out = Vec::with_capacity(rows.len() * inner);
                for row in rows {
                    out.extend_from_slice(&t.data()[row * inner..][..inner]);
                }
                Tensor::new(shape, out)
            })
        })
        .collect()
}

/// Interleaves the slices of several tensors: slice `i` of `data[n]` goes to row `indices[n][i]`.
///
/// Later tensors win where rows repeat; rows that nobody names are zeros.
///
/// # Errors
/// [`KernelError`] when the lists have different lengths, a shape of `data` does not start with that of its
/// indices, the rest differs, or an index is negative.
pub fn dynamic_stitch(indices: &[Tensor], data: &[Tensor]) -> Result<Tensor> {
    let (Some(first), Some(first_index)) = (data.first(), indices.first()) else {
        return Err(lists(indices.len(), data.len()));
    };
    if indices.len() != data.len() {
        return Err(lists(indices.len(), data.len()));
    }
    let tail = first.dims().get(first_index.rank()..).unwrap_or_default().to_vec();
    let mut rows = 0;
    for (index, part) in indices.iter().zip(data) {
        if part.dims().strip_prefix(index.dims()) != Some(&tail[..]) {
            return Err(KernelError::Shapes {
                left: part.shape(),
                right: index.shape(),
                why: "do not go together: data starts with the shape of its indices, and the rest is the same for all",
            });
        }
        for &i in index.typed::<i32>("indices")?.data() {
            rows = rows.max(movement::count("an index", i)? + 1);
        }
    }
    let shape: Shape = [rows].into_iter().chain(tail.iter().copied()).collect();
    shape.checked_len()?;
    match first {
        Tensor::F32(_) => stitch::<f32>(indices, data, shape),
        Tensor::I32(_) => stitch::<i32>(indices, data, shape),
        Tensor::Bool(_) => stitch::<bool>(indices, data, shape),
        Tensor::Str(_) => stitch::<crate::TfString>(indices, data, shape),
        Tensor::C64(_) => stitch::<num_complex::Complex32>(indices, data, shape),
    }
}

fn stitch<T: Element>(indices: &[Tensor], data: &[Tensor], shape: Shape) -> Result<Tensor> {
    let inner: usize = shape[1..].iter().product();
    let mut out = vec![T::default(); shape.checked_len()?];
    for (index, part) in indices.iter().zip(data) {
        let part = part.typed::<T>("data")?.data();
        for (n, &row) in index.typed::<i32>("indices")?.data().iter().enumerate() {
            copy_block(&mut out[row as usize * inner..][..inner], &part[n * inner..][..inner]);
        }
    }
    Tensor::new(shape, out)
}

fn lists(indices: usize, data: usize) -> KernelError {
    KernelError::Argument {
        what: "indices and data",
        got: format!("{indices} and {data} tensors"),
        expected: "one of each, at least one pair",
    }
}

/// `y[x[i]] = i` for a permutation `x` of `0..n`.
///
/// # Errors
/// [`KernelError`] when the input is not a vector, or not a permutation.
pub fn invert_permutation(x: &Tensor) -> Result<Tensor> {
    if x.rank() != 1 {
        return Err(KernelError::Rank { what: "the permutation", got: x.shape(), expected: "one dimension" });
    }
    let x = x.typed::<i32>("the permutation")?.data();
    let mut out = vec![-1; x.len()];
    for (i, &to) in x.iter().enumerate() {
        let slot = &mut out[movement::index("a permutation entry", to, x.len())?];
        if *slot != -1 {
            return Err(KernelError::Argument {
                what: "the permutation",
                got: format!("{to} twice"),
                expected: "every index once",
            });
        }
        *slot = i as i32;
    }
    Ok(Tensor::vector(out))
}
