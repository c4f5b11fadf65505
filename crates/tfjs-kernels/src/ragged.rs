//! Ragged tensors: flat values with nested row splits.
use crate::{Element, KernelError, Result, Shape, Tensor, TensorOf, movement};

/// A nested dimension of [`ragged_to_tensor`]'s input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPartition {
    /// A scalar: the number of outermost rows. Only first, before [`RowPartition::ValueRowIds`].
    FirstDimSize,
    /// The row of each value, ascending.
    ValueRowIds,
    /// Where each row starts, and the end.
    RowSplits,
}

/// Splits as numbers, checked to ascend from 0 to at most `values`.
fn splits(t: &Tensor, values: usize) -> Result<&[i32]> {
    let s = t.typed::<i32>("row splits")?;
    let data = s.data();
    let good = s.dims().len() == 1
        && data.first() == Some(&0)
        && data.is_sorted()
        && data.last().is_some_and(|&last| usize::try_from(last).is_ok_and(|last| last <= values));
    if good {
        Ok(data)
    } else {
        Err(KernelError::Argument {
            what: "row splits",
            got: format!("{:?} over {values} values", &data[..data.len().min(16)]),
            expected: "ascending from 0 to the number of values",
        })
    }
}

/// All levels of splits, from the outermost on, each checked against the next.
fn nested<'a>(levels: &'a [Tensor], values: &Tensor) -> Result<Vec<&'a [i32]>> {
    let Some(&rows) = values.dims().first() else {
        return Err(KernelError::Rank {
            what: "the flat values",
            got: values.shape(),
            expected: "at least one dimension",
        });
    };
    let mut count = rows;
    let mut out = Vec::with_capacity(levels.len());
    for level in levels.iter().rev() {
        let s = splits(level, count)?;
        count = s.len() - 1;
        out.push(s);
    }
    out.reverse();
    Ok(out)
}

/// A number of values as an entry of splits.
fn entry(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| KernelError::TooLarge { shape: format!("[{n}]") })
}

/// Picks rows of a ragged tensor: the nested splits and the flat values of the result.
///
/// Each dimension of `indices` after the first adds a level of splits; a scalar takes one away.
///
/// # Errors
/// [`KernelError`] when types do not fit, splits are malformed, or an index is out of range.
pub fn ragged_gather(levels: &[Tensor], values: &Tensor, indices: &Tensor) -> Result<(Vec<Tensor>, Tensor)> {
    let params = nested(levels, values)?;
    let index = indices.typed::<i32>("indices")?;
    let Some(outermost) = params.first() else {
        return Err(KernelError::Argument {
            what: "params_nested_splits",
            got: "none".into(),
            expected: "at least one level",
        });
    };
    let rows = outermost.len() - 1;
    let mut out: Vec<Vec<i32>> = Vec::new();
    let mut count = 1;
    for pair in index.dims().windows(2) {
        count *= pair[0];
        entry(count.saturating_mul(pair[1]))?;
        out.push((0..=count).map(|i| (i * pair[1]) as i32).collect());
    }
    let first_level = out.len();
    out.extend(params.iter().map(|_| vec![0]));
    let mut slices = Vec::new();
    let mut total = 0usize;
    for &i in index.data() {
        let mut from = movement::index("index", i, rows)?;
        let mut to = from + 1;
        for (level, splits) in params.iter().enumerate() {
            let out = &mut out[first_level + level];
            let base = i64::from(out.last().copied().unwrap_or(0)) - i64::from(splits[from]);
            for &s in &splits[from + 1..=to] {
                out.push(entry((i64::from(s) + base) as usize)?);
            }
            (from, to) = (splits[from] as usize, splits[to] as usize);
        }
        total += to - from;
        slices.push(from..to);
    }
    let shape: Shape = [total].iter().chain(&values.dims()[1..]).copied().collect();
    let width: usize = values.dims()[1..].iter().product();
    let values = crate::match_tensor!(values, t => {
        let mut data = Vec::with_capacity(shape.checked_len()?);
        for s in slices {
            data.extend_from_slice(&t.data()[s.start * width..s.end * width]);
        }
        Tensor::new(shape, data)?
    });
    let skip = usize::from(index.dims().is_empty());
    Ok((out.into_iter().skip(skip).map(Tensor::vector).collect(), values))
}

/// Rows of evenly spaced numbers: the row splits and the flat values. Scalars go with every row.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit, a delta is 0, or the result is too large.
pub fn ragged_range(starts: &Tensor, limits: &Tensor, deltas: &Tensor) -> Result<[Tensor; 2]> {
    match starts {
        Tensor::F32(s) => ranges(
            s,
            limits.typed("limits")?,
            deltas.typed("deltas")?,
            |start, limit, delta| ((f64::from(limit) - f64::from(start)) / f64::from(delta)).abs().ceil(),
            |x, delta| x + delta,
        ),
        Tensor::I32(s) => ranges(
            s,
            limits.typed("limits")?,
            deltas.typed("deltas")?,
            |start, limit, delta| {
                let (span, step) = (i64::from(limit) - i64::from(start), i64::from(delta));
                (span.abs() as f64 / step.abs() as f64).ceil()
            },
            |x, delta| x.wrapping_add(delta),
        ),
        other => Err(KernelError::DType { what: "starts", got: other.dtype(), expected: "float32 or int32" }),
    }
}

fn ranges<T: Element + Copy + PartialOrd>(
    starts: &TensorOf<T>,
    limits: &TensorOf<T>,
    deltas: &TensorOf<T>,
    size: impl Fn(T, T, T) -> f64,
    next: impl Fn(T, T) -> T,
) -> Result<[Tensor; 2]> {
    let zero = T::default();
    let mut rows = None;
    for t in [starts, limits, deltas] {
        match (t.dims(), rows) {
            ([], _) => {}
            (&[n], None) => rows = Some(n),
            (&[n], Some(m)) if n == m => {}
            _ => {
                return Err(KernelError::Argument {
                    what: "starts, limits and deltas",
                    got: format!("{}, {} and {}", starts.shape(), limits.shape(), deltas.shape()),
                    expected: "scalars or vectors of one length",
                });
            }
        }
    }
    let at = |t: &TensorOf<T>, row: usize| t.data()[if t.dims().is_empty() { 0 } else { row }];
    let rows = rows.unwrap_or(1);
    let (mut splits, mut values) = (vec![0], Vec::new());
    for row in 0..rows {
        let (start, limit, delta) = (at(starts, row), at(limits, row), at(deltas, row));
        if delta == zero {
            return Err(KernelError::Argument { what: "a delta", got: "0".into(), expected: "not 0" });
        }
        let wrong_way = (delta > zero && limit < start) || (delta < zero && limit > start);
        let n = if wrong_way { 0.0 } else { size(start, limit, delta) };
        if n.is_nan() || n + values.len() as f64 > f64::from(i32::MAX) {
            return Err(KernelError::TooLarge { shape: format!("[{n}]") });
        }
        let mut x = start;
        for _ in 0..n as usize {
            values.push(x);
            x = next(x, delta);
        }
        splits.push(entry(values.len())?);
    }
    Ok([Tensor::vector(splits), Tensor::vector(values)])
}

/// A dense tensor with `default` where rows are short; what is beyond `shape` is cut off.
///
/// `shape` is a vector of the result's dimensions with -1 for "as long as needed", or a scalar -1. `default`
/// broadcasts to the values' shape without its first dimension.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit or a partition is malformed.
pub fn ragged_to_tensor(
    shape: &Tensor,
    values: &Tensor,
    default: Tensor,
    partitions: &[Tensor],
    kinds: &[RowPartition],
) -> Result<Tensor> {
    let Some((&count, inner)) = values.dims().split_first() else {
        return Err(KernelError::Rank {
            what: "values",
            got: values.shape(),
            expected: "at least one dimension",
        });
    };
    let lengths = row_lengths(partitions, kinds, count)?;
    let rank = lengths.len() + 1 + inner.len();
    let wanted = shape.typed::<i32>("shape")?;
    let wanted: Vec<Option<usize>> = match wanted.dims() {
        [] => vec![None; rank],
        [n] if *n == rank => wanted.data().iter().map(|&d| usize::try_from(d).ok()).collect(),
        _ => {
            return Err(KernelError::Shapes {
                left: wanted.shape(),
                right: Shape::from([rank]),
                why: "differ: the first is that of the shape given, the second what the values need",
            });
        }
    };
    let mut out = Shape::default();
    out.push(wanted[0].unwrap_or(lengths.first().map_or(count, Vec::len)));
    for (level, lengths) in lengths.iter().enumerate() {
        out.push(wanted[level + 1].unwrap_or(lengths.iter().copied().max().unwrap_or(0)));
    }
    for (d, &size) in inner.iter().enumerate() {
        if wanted[lengths.len() + 1 + d].is_some_and(|w| w != size) {
            return Err(KernelError::Shapes {
                left: values.shape(),
                right: wanted.iter().map(|w| w.unwrap_or(0)).collect(),
                why: "do not go together: dimensions inside the values cannot change",
            });
        }
        out.push(size);
    }
    out.checked_len()?;
    // Where each row of the current level goes, `None` when it is cut off.
    let first = lengths.first().map_or(count, Vec::len);
    let mut places: Vec<Option<usize>> = (0..first).map(|i| (i < out[0]).then_some(i)).collect();
    for (level, lengths) in lengths.iter().enumerate() {
        let width = out[level + 1];
        places = lengths
            .iter()
            .zip(places)
            .flat_map(|(&n, place)| (0..n).map(move |i| place.filter(|_| i < width).map(|p| p * width + i)))
            .collect();
    }
    let inner_shape: Vec<i32> = inner.iter().map(|&d| entry(d)).collect::<Result<_>>()?;
    let default = crate::transform::broadcast_to(default, &inner_shape)?;
    let width: usize = inner.iter().product();
    crate::match_tensor!(values, t => fill(t, &default, out, width, &places))
}

fn fill<T: Element>(
    values: &TensorOf<T>,
    default: &Tensor,
    shape: Shape,
    width: usize,
    places: &[Option<usize>],
) -> Result<Tensor> {
    let default = default.typed::<T>("default_value")?.data();
    let mut out = Vec::with_capacity(shape.checked_len()?);
    if width == 0 {
        return Tensor::new(shape, out);
    }
    if let [value] = default {
        out.resize(shape.elements(), value.clone());
    } else {
        (0..shape.elements() / width).for_each(|_| out.extend_from_slice(default));
    }
    for (row, place) in values.data().chunks_exact(width).zip(places) {
        if let Some(place) = place {
            out[place * width..][..width].clone_from_slice(row);
        }
    }
    Tensor::new(shape, out)
}

/// Row lengths per level, each level having as many rows as the one before has values.
fn row_lengths(partitions: &[Tensor], kinds: &[RowPartition], values: usize) -> Result<Vec<Vec<usize>>> {
    if partitions.len() != kinds.len() || kinds.is_empty() {
        return Err(KernelError::Argument {
            what: "row partitions",
            got: format!("{} tensors of {} kinds", partitions.len(), kinds.len()),
            expected: "one kind per tensor",
        });
    }
    let mut rows = None;
    let mut levels: Vec<Vec<usize>> = Vec::new();
    for (n, (t, kind)) in partitions.iter().zip(kinds).enumerate() {
        let data = t.typed::<i32>("a row partition")?.data();
        let wrong = |expected| KernelError::Argument {
            what: "a row partition",
            got: format!("{:?}", &data[..data.len().min(16)]),
            expected,
        };
        let lengths: Vec<usize> = match kind {
            RowPartition::FirstDimSize => {
                let (0, &[size]) = (n, data) else { return Err(wrong("one size, before all others")) };
                rows = Some(movement::count("the first dimension", size)?);
                continue;
            }
            RowPartition::RowSplits => {
                let s = splits(t, usize::MAX)?;
                s.windows(2).map(|w| (w[1] - w[0]) as usize).collect()
            }
            RowPartition::ValueRowIds => {
                let rows = rows.ok_or_else(|| wrong("after the number of rows"))?;
                // Rows that do not exist as values yet are bounded by what the caller already holds.
                Shape::from([rows]).checked_len()?;
                let mut lengths = vec![0; rows];
                if !data.is_sorted() {
                    return Err(wrong("in ascending order"));
                }
                for &row in data {
                    lengths[movement::index("a row id", row, rows)?] += 1;
                }
                lengths
            }
        };
        if rows.is_some_and(|rows| rows != lengths.len()) {
            return Err(wrong("as many rows as the level above has values"));
        }
        rows = Some(lengths.iter().sum());
        levels.push(lengths);
    }
    if rows != Some(values) {
        return Err(KernelError::Argument {
            what: "the number of values",
            got: values.to_string(),
            expected: "what the innermost row partition says",
        });
    }
    Ok(levels)
}

/// The same as a sparse tensor: indices, values, dense shape.
///
/// # Errors
/// [`KernelError`] when splits are malformed.
pub fn ragged_to_sparse(levels: &[Tensor], values: &Tensor) -> Result<[Tensor; 3]> {
    let levels = nested(levels, values)?;
    let inner = &values.dims()[1..];
    let Some(outermost) = levels.first() else {
        return Err(KernelError::Argument {
            what: "row splits",
            got: "none".into(),
            expected: "at least one level",
        });
    };
    // The index of every row of the current level.
    let mut index: Vec<Vec<i32>> = (0..outermost.len() as i32 - 1).map(|i| vec![i]).collect();
    let mut shape = vec![entry(index.len())?];
    for splits in &levels {
        shape.push(splits.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0));
        index = splits
            .windows(2)
            .zip(index)
            .flat_map(|(w, prefix)| {
                (0..w[1] - w[0]).map(move |i| prefix.iter().copied().chain([i]).collect::<Vec<i32>>())
            })
            .collect();
    }
    for &d in inner {
        shape.push(entry(d)?);
        index = index
            .into_iter()
            .flat_map(|prefix| (0..d as i32).map(move |i| prefix.iter().copied().chain([i]).collect()))
            .collect();
    }
    let count = index.len();
    let flat = values.clone().reshape([values.len()])?;
    // Splits may end before the values do.
    let flat =
        if count < flat.len() { crate::slice_join::slice(flat, &[0], &[entry(count)?])? } else { flat };
    Ok([Tensor::new([count, shape.len()], index.concat())?, flat, Tensor::vector(shape)])
}

#[cfg(test)]
mod tests {
    use super::{RowPartition, ragged_gather, ragged_range, ragged_to_sparse, ragged_to_tensor};
    use crate::Tensor;

    fn ints(t: &Tensor) -> &[i32] {
        t.data::<i32>().unwrap()
    }

    fn vector(v: &[i32]) -> Tensor {
        Tensor::vector(v.to_vec())
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn gather_picks_whole_rows_of_all_levels() {
        let levels = [vector(&[0, 2, 2, 3]), vector(&[0, 1, 4, 5])];
        let values = vector(&[1, 2, 3, 4, 5]);
        let index = Tensor::new([2, 2], vec![2, 0, 1, 2]).unwrap();
        let (splits, values) = ragged_gather(&levels, &values, &index).unwrap();
        assert_eq!(
            splits.iter().map(ints).collect::<Vec<_>>(),
            [&[0, 2, 4][..], &[0, 1, 3, 3, 4], &[0, 1, 2, 5, 6]]
        );
        assert_eq!(ints(&values), [5, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn ranges_stop_before_their_limit() {
        let v = |x: [f32; 3]| Tensor::vector(x.to_vec());
        let [splits, values] = ragged_range(&v([0., 5., 8.]), &v([3.5, 2., 8.]), &v([1., -1.5, 1.])).unwrap();
        assert_eq!(ints(&splits), [0, 4, 6, 6]);
        assert_eq!(values.data::<f32>().unwrap(), [0., 1., 2., 3., 5., 3.5]);
        assert!(ragged_range(&v([0.; 3]), &v([1.; 3]), &v([0.; 3])).is_err());
        assert!(ragged_range(&v([0.; 3]), &v([f32::INFINITY; 3]), &v([1.; 3])).is_err());
    }

    #[test]
    fn dense_form_pads_and_cuts() {
        let kinds = [RowPartition::FirstDimSize, RowPartition::ValueRowIds];
        let parts = [Tensor::scalar(3), vector(&[0, 0, 0, 2])];
        let t =
            ragged_to_tensor(&vector(&[-1, 2]), &vector(&[1, 2, 3, 4]), Tensor::scalar(9), &parts, &kinds)
                .unwrap();
        assert_eq!((t.dims(), ints(&t)), (&[3, 2][..], &[1, 2, 9, 9, 4, 9][..]));
        let values = Tensor::new([3, 2], vec![1, 2, 3, 4, 5, 6]).unwrap();
        let splits = [vector(&[0, 1, 3, 3])];
        let t = ragged_to_tensor(
            &Tensor::scalar(-1),
            &values,
            vector(&[8, 9]),
            &splits,
            &[RowPartition::RowSplits],
        )
        .unwrap();
        assert_eq!((t.dims(), ints(&t)), (&[3, 2, 2][..], &[1, 2, 8, 9, 3, 4, 5, 6, 8, 9, 8, 9][..]));
    }

    #[test]
    fn sparse_form_lists_every_value() {
        let [index, values, shape] =
            ragged_to_sparse(&[vector(&[0, 2, 2, 3]), vector(&[0, 1, 3, 4])], &vector(&[1, 2, 3, 4]))
                .unwrap();
        assert_eq!(ints(&index), [0, 0, 0, 0, 1, 0, 0, 1, 1, 2, 0, 0]);
        assert_eq!((ints(&values), ints(&shape)), (&[1, 2, 3, 4][..], &[3, 2, 2][..]));
    }
}
