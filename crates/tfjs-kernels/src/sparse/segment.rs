//! `SparseSegmentSum`, `Mean`, `SqrtN`, with and without `WithNumSegments`; `SparseTensorDenseMatMul`.
use crate::{KernelError, Result, Shape, Tensor, linalg, movement, par};

/// What becomes of the rows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentReduce {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// Their sum divided by the square root of their number.
    SqrtN,
}

/// Reduces rows `data[indices[i]]` into row `segment_ids[i]` of the result; ids ascend.
///
/// The result has `num_segments` rows, by default one more than the last id; segments without rows are zeros.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit, an index is out of range, or ids descend or are out of
/// range.
pub fn sparse_segment(
    data: &Tensor,
    indices: &Tensor,
    segment_ids: &Tensor,
    num_segments: Option<i32>,
    reduce: SegmentReduce,
) -> Result<Tensor> {
    let (index, ids) = (indices.typed::<i32>("indices")?, segment_ids.typed::<i32>("segment_ids")?);
    if index.dims().len() != 1 || index.dims() != ids.dims() {
        return Err(KernelError::Shapes {
            left: index.shape(),
            right: ids.shape(),
            why: "are not those of two vectors of one length",
        });
    }
    let Some((&rows, rest)) = data.dims().split_first() else {
        return Err(KernelError::Rank {
            what: "data",
            got: data.shape(),
            expected: "at least one dimension",
        });
    };
    let (index, ids) = (index.data(), ids.data());
    if !ids.is_sorted() {
        return Err(KernelError::Argument {
            what: "segment_ids",
            got: format!("{:?}", &ids[..ids.len().min(16)]),
            expected: "in ascending order",
        });
    }
    let segments = match num_segments {
        Some(n) => movement::count("num_segments", n)?,
        None => ids.last().map_or(0, |&last| i64::from(last) + 1).max(0) as usize,
    };
    for (&i, &id) in index.iter().zip(ids) {
        movement::index("index", i, rows)?;
        movement::index("segment id", id, segments)?;
    }
    let shape: Shape = [segments].iter().chain(rest).copied().collect();
    let len = shape.checked_len()?;
    let width: usize = rest.iter().product();
    match data {
        Tensor::F32(t) => {
            let src = t.data();
            let mut out = vec![0f32; len];
            if width == 0 {
                return Tensor::new(shape, out);
            }
            movement::rows(&mut out, width, |first, lines| {
                for (n, line) in lines.chunks_exact_mut(width).enumerate() {
                    let id = (first + n) as i32;
                    let from = ids.partition_point(|&x| x < id);
                    let count = ids[from..].partition_point(|&x| x <= id);
                    for &i in &index[from..from + count] {
                        line.iter_mut().zip(&src[i as usize * width..]).for_each(|(o, v)| *o += v);
                    }
                    let scale = match reduce {
                        SegmentReduce::Mean if count > 1 => 1.0 / count as f32,
                        SegmentReduce::SqrtN if count > 1 => 1.0 / (count as f32).sqrt(),
                        _ => continue,
                    };
                    line.iter_mut().for_each(|o| *o *= scale);
                }
            });
            Tensor::new(shape, out)
        }
        Tensor::I32(t) if reduce == SegmentReduce::Sum => {
            let mut out = vec![0i32; len];
            for (&i, &id) in index.iter().zip(ids) {
                let from = &t.data()[i as usize * width..][..width];
                let to = &mut out[id as usize * width..][..width];
                to.iter_mut().zip(from).for_each(|(o, v)| *o = o.wrapping_add(*v));
            }
            Tensor::new(shape, out)
        }
        other => Err(KernelError::DType {
            what: "data",
            got: other.dtype(),
            expected: "float32 (sums also int32)",
        }),
    }
}

/// Product of a sparse matrix (`indices: [n, 2]`, `values: [n]`, `dense_shape: [2]`) and a dense one, either
/// transposed on demand.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit or an index is out of range.
pub fn sparse_tensor_dense_matmul(
    indices: &Tensor,
    values: &Tensor,
    dense_shape: &[i32],
    dense: &Tensor,
    adjoint_a: bool,
    adjoint_b: bool,
) -> Result<Tensor> {
    let index = indices.typed::<i32>("a_indices")?;
    let value = values.typed::<f32>("a_values")?;
    let b = dense.typed::<f32>("b")?;
    let (&[n, 2], &[count]) = (index.dims(), value.dims()) else {
        return Err(KernelError::Rank { what: "a_indices", got: index.shape(), expected: "two columns" });
    };
    let (&[b_rows, b_cols], &[a_rows, a_cols]) = (b.dims(), dense_shape) else {
        return Err(KernelError::Rank { what: "b", got: b.shape(), expected: "two dimensions, as a has" });
    };
    let a = [movement::count("a dimension", a_rows)?, movement::count("a dimension", a_cols)?];
    let (rows, inner) = if adjoint_a { (a[1], a[0]) } else { (a[0], a[1]) };
    let (b_inner, cols) = if adjoint_b { (b_cols, b_rows) } else { (b_rows, b_cols) };
    if n != count || inner != b_inner {
        return Err(KernelError::Shapes {
            left: Shape::from([rows, inner]),
            right: Shape::from([b_inner, cols]),
            why: "cannot be multiplied",
        });
    }
    let shape = Shape::from([rows, cols]);
    let mut out = vec![0f32; shape.checked_len()?];
    let (index, value) = (index.data(), value.data());
    for pair in index.chunks_exact(2) {
        movement::index("a row", pair[0], a[0])?;
        movement::index("a column", pair[1], a[1])?;
    }
    if out.is_empty() {
        return Tensor::new(shape, out);
    }
    let turned;
    let b = if adjoint_b {
        turned = linalg::permuted(b, &[1, 0]);
        &turned[..]
    } else {
        b.data()
    };
    // Entries come in any order, so threads share columns, not rows.
    let piece = (par::GRAIN / rows.max(1)).clamp(16, cols.max(16));
    let parts = par::map_ranges(cols, piece, |range| {
        let mut part = vec![0f32; rows * range.len()];
        for (pair, &v) in index.chunks_exact(2).zip(value) {
            let (r, c) = if adjoint_a { (pair[1], pair[0]) } else { (pair[0], pair[1]) };
            let from = &b[c as usize * cols..][range.clone()];
            let to = &mut part[r as usize * range.len()..][..range.len()];
            to.iter_mut().zip(from).for_each(|(o, x)| *o += v * x);
        }
        (range, part)
    });
    for (range, part) in parts {
        for (row, line) in out.chunks_exact_mut(cols).zip(part.chunks_exact(range.len())) {
            row[range.clone()].copy_from_slice(line);
        }
    }
    Tensor::new(shape, out)
}
