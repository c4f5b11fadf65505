//! Reductions over groups of rows, and counting.
use num_complex::Complex32;

use crate::{DType, Element, KernelError, Result, Shape, Tensor, TensorOf};

/// How the rows of a segment are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentOp {
    /// Sum.
    Sum,
    /// Arithmetic mean.
    Mean,
    /// Product.
    Prod,
    /// Largest.
    Max,
    /// Smallest.
    Min,
}

/// Joins rows of `data` whose `ids` are equal; `ids` is a vector over the first dimension in increasing order.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit, or ids decrease or are negative.
pub fn segment(op: SegmentOp, data: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let list = ids.typed::<i32>("segment_ids")?;
    if list.dims().len() != 1 || data.dims().first() != Some(&list.len()) {
        return Err(KernelError::Shapes {
            left: data.shape(),
            right: list.shape(),
            why: "do not agree: segment_ids has one element per row",
        });
    }
    let ids = list.data();
    if ids.windows(2).any(|w| w[1] < w[0]) {
        return Err(KernelError::Argument {
            what: "segment_ids",
            got: format!("{:?}", &ids[..ids.len().min(8)]),
            expected: "values that do not decrease",
        });
    }
    let segments = match (ids.first(), ids.last()) {
        (Some(&first), _) if first < 0 => {
            return Err(KernelError::Range {
                what: "a segment id",
                got: first.into(),
                min: 0,
                max: i32::MAX.into(),
            });
        }
        (_, Some(&last)) => last as usize + 1,
        _ => 0,
    };
    // Gaps between sorted ids hold the neutral element of sums and products, and zero for the rest.
    join(op, data, ids, 1, segments, false)
}

/// Joins parts of `data` whose `ids` are equal; the shape of `ids` starts that of `data`. Parts with negative
/// ids are dropped. Segments without parts hold 0, 1, or the lowest or highest number for `Max` and `Min`.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit, or an id is not below `segments`.
pub fn unsorted_segment(op: SegmentOp, data: &Tensor, ids: &Tensor, segments: usize) -> Result<Tensor> {
    let list = ids.typed::<i32>("segment_ids")?;
    if !data.dims().starts_with(list.dims()) {
        return Err(KernelError::Shapes {
            left: data.shape(),
            right: list.shape(),
            why: "do not agree: the shape of segment_ids starts that of the data",
        });
    }
    if let Some(&id) = list.data().iter().find(|&&id| i64::from(id) >= segments as i64) {
        return Err(KernelError::Range {
            what: "a segment id",
            got: id.into(),
            min: 0,
            max: segments as i64,
        });
    }
    join(op, data, list.data(), list.dims().len(), segments, true)
}

fn join(
    op: SegmentOp,
    data: &Tensor,
    ids: &[i32],
    id_rank: usize,
    segments: usize,
    unsorted: bool,
) -> Result<Tensor> {
    let rest = &data.dims()[id_rank..];
    let shape: Shape = std::iter::once(segments).chain(rest.iter().copied()).collect();
    let row: usize = rest.iter().product();
    let wrong = |expected| KernelError::DType { what: "the data", got: data.dtype(), expected };
    Ok(match data {
        Tensor::F32(x) => {
            let (init, f): (f32, fn(f32, f32) -> f32) = match op {
                SegmentOp::Sum | SegmentOp::Mean => (0.0, |a, v| a + v),
                SegmentOp::Prod => (1.0, |a, v| a * v),
                SegmentOp::Max => (f32::MIN, |a, v| if v <= a || a.is_nan() { a } else { v }),
                SegmentOp::Min => (f32::MAX, |a, v| if v >= a || a.is_nan() { a } else { v }),
            };
            let (mut out, counts) = accumulate(x, ids, row, shape, init, f)?;
            finish(op, &mut out, &counts, row, unsorted, 0.0, |v, n| v / n as f32);
            out.into()
        }
        Tensor::I32(x) => {
            let (init, f): (i32, fn(i32, i32) -> i32) = match op {
                SegmentOp::Sum | SegmentOp::Mean => (0, i32::wrapping_add),
                SegmentOp::Prod => (1, i32::wrapping_mul),
                SegmentOp::Max => (i32::MIN, |a, v| a.max(v)),
                SegmentOp::Min => (i32::MAX, |a, v| a.min(v)),
            };
            let (mut out, counts) = accumulate(x, ids, row, shape, init, f)?;
            finish(op, &mut out, &counts, row, unsorted, 0, |v, n| v / n as i32);
            out.into()
        }
        Tensor::C64(x) => {
            let (init, f): (Complex32, fn(Complex32, Complex32) -> Complex32) = match op {
                SegmentOp::Sum | SegmentOp::Mean => (Complex32::default(), |a, v| a + v),
                SegmentOp::Prod => (Complex32::new(1.0, 0.0), |a, v| a * v),
                _ => return Err(wrong("float32 or int32")),
            };
            let (mut out, counts) = accumulate(x, ids, row, shape, init, f)?;
            finish(op, &mut out, &counts, row, unsorted, Complex32::default(), |v, n| v / n as f32);
            out.into()
        }
        _ => return Err(wrong("float32, int32 or complex64")),
    })
}

fn accumulate<T: Element + Copy>(
    x: &TensorOf<T>,
    ids: &[i32],
    row: usize,
    shape: Shape,
    init: T,
    f: fn(T, T) -> T,
) -> Result<(TensorOf<T>, Vec<usize>)> {
    let mut counts = vec![0usize; shape[0]];
    let mut out = TensorOf::full(shape, init)?;
    let target = out.data_mut();
    for (i, &id) in ids.iter().enumerate() {
        let Ok(id) = usize::try_from(id) else { continue };
        counts[id] += 1;
        for (a, &v) in target[id * row..][..row].iter_mut().zip(&x.data()[i * row..][..row]) {
            *a = f(*a, v);
        }
    }
    Ok((out, counts))
}

/// Divides means, and writes zero to the gaps that sorted maxima and minima leave.
fn finish<T: Element + Copy>(
    op: SegmentOp,
    out: &mut TensorOf<T>,
    counts: &[usize],
    row: usize,
    unsorted: bool,
    zero: T,
    divide: fn(T, usize) -> T,
) {
    for (i, &n) in counts.iter().enumerate() {
        let part = &mut out.data_mut()[i * row..][..row];
        match (op, n) {
            (SegmentOp::Mean, 1..) => part.iter_mut().for_each(|v| *v = divide(*v, n)),
            (SegmentOp::Max | SegmentOp::Min, 0) if !unsorted => part.fill(zero),
            _ => {}
        }
    }
}

/// Counts, or sums of weights, of the integers below `size` in `x`; others are not counted.
///
/// # Errors
/// [`KernelError`] when an integer is negative, or the weights are not empty and not of the shape of `x`.
pub fn bincount(x: &Tensor, size: usize, weights: &Tensor) -> Result<Tensor> {
    let flat = x.clone().reshape([x.len()])?;
    if !weights.is_empty() && weights.len() != x.len() {
        return Err(KernelError::Shapes {
            left: x.shape(),
            right: weights.shape(),
            why: "differ: weights are empty or one per element",
        });
    }
    let weights = if weights.is_empty() { weights.clone() } else { weights.clone().reshape([x.len()])? };
    dense_bincount(&flat, size, &weights, false)
}

/// [`bincount`] of a scalar, a vector, or each row of a matrix; `binary` writes 1 for what occurs at all.
///
/// # Errors
/// [`KernelError`] when an integer is negative, the input has more than two dimensions, or the weights are not
/// empty and not of the shape of `x`.
pub fn dense_bincount(x: &Tensor, size: usize, weights: &Tensor, binary: bool) -> Result<Tensor> {
    let ints = x.typed::<i32>("the input")?;
    if x.rank() > 2 {
        return Err(KernelError::Rank {
            what: "the input",
            got: x.shape(),
            expected: "at most 2 dimensions",
        });
    }
    if !weights.is_empty() && weights.dims() != x.dims() {
        return Err(KernelError::Shapes {
            left: x.shape(),
            right: weights.shape(),
            why: "differ: weights are empty or one per element",
        });
    }
    if let Some(&v) = ints.data().iter().find(|&&v| v < 0) {
        return Err(KernelError::Range { what: "a value", got: v.into(), min: 0, max: i32::MAX.into() });
    }
    let shape: Shape = match x.dims() {
        &[rows, _] => Shape::from([rows, size]),
        _ => Shape::from([size]),
    };
    let row = if x.rank() == 2 { x.dims()[1] } else { x.len() };
    match weights {
        Tensor::F32(w) => count(ints, w, row, size, shape, binary, 1.0, |a, b| a + b),
        Tensor::I32(w) => count(ints, w, row, size, shape, binary, 1, i32::wrapping_add),
        other => {
            Err(KernelError::DType { what: "weights", got: other.dtype(), expected: "float32 or int32" })
        }
    }
}

fn count<T: Element + Copy>(
    x: &TensorOf<i32>,
    weights: &TensorOf<T>,
    row: usize,
    size: usize,
    shape: Shape,
    binary: bool,
    one: T,
    add: fn(T, T) -> T,
) -> Result<Tensor> {
    let mut out = TensorOf::full(shape, T::default())?;
    if row == 0 || size == 0 {
        return Ok(T::wrap(out));
    }
    let bins = out.data_mut();
    for (i, &v) in x.data().iter().enumerate() {
        let v = v as usize;
        if v < size {
            let bin = &mut bins[i / row * size + v];
            let w = weights.data().get(i).copied().unwrap_or(one);
            *bin = if binary { one } else { add(*bin, w) };
        }
    }
    Ok(T::wrap(out))
}

/// The type that [`segment`] and [`unsorted_segment`] take, for checks ahead of running.
///
/// # Errors
/// [`KernelError::DType`] for bools and strings, and for complex numbers where order is needed.
pub fn check_segment(op: SegmentOp, dtype: DType) -> Result<()> {
    let ordered = matches!(op, SegmentOp::Max | SegmentOp::Min);
    match dtype {
        DType::Float32 | DType::Int32 => Ok(()),
        DType::Complex64 if !ordered => Ok(()),
        got => Err(KernelError::DType {
            what: "the data",
            got,
            expected: if ordered { "float32 or int32" } else { "float32, int32 or complex64" },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Tensor {
        Tensor::vector(vec![1.0f32, 2.0, 3.0, 4.0])
    }

    fn ids(v: &[i32]) -> Tensor {
        Tensor::vector(v.to_vec())
    }

    #[test]
    fn sorted_segments_agree_with_tensorflow() {
        let run = |op| segment(op, &data(), &ids(&[0, 0, 2, 2])).unwrap().data::<f32>().unwrap().to_vec();
        assert_eq!(run(SegmentOp::Sum), [3.0, 0.0, 7.0]);
        assert_eq!(run(SegmentOp::Mean), [1.5, 0.0, 3.5]);
        assert_eq!(run(SegmentOp::Prod), [2.0, 1.0, 12.0]);
        assert_eq!(run(SegmentOp::Max), [2.0, 0.0, 4.0]);
        assert_eq!(run(SegmentOp::Min), [1.0, 0.0, 3.0]);
    }

    #[test]
    fn segment_ids_must_not_decrease_nor_be_negative() {
        assert!(segment(SegmentOp::Sum, &data(), &ids(&[0, 2, 1, 2])).is_err());
        assert!(segment(SegmentOp::Sum, &data(), &ids(&[-1, 0, 1, 2])).is_err());
        assert!(segment(SegmentOp::Sum, &data(), &ids(&[0, 1])).is_err());
    }

    #[test]
    fn unsorted_segments_agree_with_tensorflow() {
        let run = |op| {
            let y = unsorted_segment(op, &data(), &ids(&[0, 2, -1, 2]), 4).unwrap();
            y.data::<f32>().unwrap().to_vec()
        };
        assert_eq!(run(SegmentOp::Sum), [1.0, 0.0, 6.0, 0.0]);
        assert_eq!(run(SegmentOp::Max), [1.0, f32::MIN, 4.0, f32::MIN]);
        assert_eq!(run(SegmentOp::Prod), [1.0, 1.0, 8.0, 1.0]);
        assert!(unsorted_segment(SegmentOp::Sum, &data(), &ids(&[0, 5, 1, 2]), 4).is_err());
    }

    #[test]
    fn counts_agree_with_tensorflow() {
        let none = Tensor::vector(Vec::<f32>::new());
        let x = Tensor::new([2, 3], vec![1, 1, 5, 0, 1, 2]).unwrap();
        let run =
            |w: &Tensor, binary| dense_bincount(&x, 3, w, binary).unwrap().data::<f32>().unwrap().to_vec();
        assert_eq!(run(&none, false), [0.0, 2.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(run(&none, true), [0.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
        let w = Tensor::new([2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(run(&w, false), [0.0, 3.0, 0.0, 4.0, 5.0, 6.0]);
        assert!(dense_bincount(&ids(&[-1]), 3, &none, false).is_err());
        assert_eq!(bincount(&x, 3, &none).unwrap().data::<f32>().unwrap(), [1.0, 3.0, 1.0]);
    }
}
