//! `StridedSlice` and its inverses, `Slice`, `Reverse`, `ReverseSequence`, `Roll`.
use crate::{
    Element, KernelError, Result, Shape, Tensor, TensorOf,
    movement::{self, Axis, Run},
};

/// The arguments of `StridedSlice`: one `begin:end:stride` per entry, with TensorFlow's bit masks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceSpec {
    /// First index of each entry.
    pub begin: Vec<i32>,
    /// Index after the last, in the direction of the stride.
    pub end: Vec<i32>,
    /// Step of each entry; not 0.
    pub strides: Vec<i32>,
    /// Entries whose `begin` is ignored: from the first element.
    pub begin_mask: i32,
    /// Entries whose `end` is ignored: to the last element.
    pub end_mask: i32,
    /// The entry that stands for as many dimensions as needed (`...`).
    pub ellipsis_mask: i32,
    /// Entries that make a new dimension of size 1.
    pub new_axis_mask: i32,
    /// Entries that pick the element at `begin` and drop the dimension.
    pub shrink_axis_mask: i32,
}

/// One dimension of the input as the slice sees it.
#[derive(Clone, Copy, Debug)]
struct Dense {
    begin: Option<i64>,
    end: Option<i64>,
    stride: i64,
    shrink: bool,
}

/// One dimension of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Final {
    New,
    From(usize),
}

/// A resolved range of one dimension.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: usize,
    step: isize,
    len: usize,
}

impl SliceSpec {
    /// Shape of the result for an input whose dimensions may be unknown.
    ///
    /// # Errors
    /// [`KernelError`] for more entries than dimensions, two ellipses, a stride of 0, or a picked element out
    /// of range.
    pub fn output_dims(&self, dims: &[Option<usize>]) -> Result<Vec<Option<usize>>> {
        let (dense, finals) = self.dense(dims.len())?;
        let mut sizes = Vec::with_capacity(dims.len());
        for (&dim, spec) in dims.iter().zip(&dense) {
            sizes.push(match dim {
                Some(dim) => Some(resolve(spec, dim)?.len),
                None if spec.shrink => Some(1),
                None => None,
            });
        }
        Ok(finals
            .into_iter()
            .map(|f| match f {
                Final::New => Some(1),
                Final::From(d) => sizes[d],
            })
            .collect())
    }

    /// One entry per input dimension, and where the dimensions of the result come from.
    fn dense(&self, rank: usize) -> Result<(Vec<Dense>, Vec<Final>)> {
        let entries = self.begin.len();
        if self.end.len() != entries || self.strides.len() != entries || entries >= 32 {
            return Err(KernelError::Argument {
                what: "begin, end and strides",
                got: format!("{entries}, {} and {} values", self.end.len(), self.strides.len()),
                expected: "of one length below 32",
            });
        }
        let bit = |mask: i32, i: usize| mask >> i & 1 == 1;
        let ellipses = (0..entries).filter(|&i| bit(self.ellipsis_mask, i)).count();
        if ellipses > 1 {
            return Err(KernelError::Argument {
                what: "the number of ellipses",
                got: ellipses.to_string(),
                expected: "at most 1",
            });
        }
        let consumed =
            (0..entries).filter(|&i| !bit(self.ellipsis_mask, i) && !bit(self.new_axis_mask, i)).count();
        let Some(open) = rank.checked_sub(consumed) else {
            return Err(KernelError::Argument {
                what: "the number of slice entries",
                got: consumed.to_string(),
                expected: "at most one per dimension",
            });
        };
        let whole = Dense { begin: None, end: None, stride: 1, shrink: false };
        let (mut dense, mut finals) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
        let expand = |dense: &mut Vec<Dense>, finals: &mut Vec<Final>| {
            for _ in 0..open {
                finals.push(Final::From(dense.len()));
                dense.push(whole);
            }
        };
        for i in 0..entries {
            if bit(self.ellipsis_mask, i) {
                expand(&mut dense, &mut finals);
            } else if bit(self.new_axis_mask, i) {
                finals.push(Final::New);
            } else {
                let shrink = bit(self.shrink_axis_mask, i);
                let stride = i64::from(self.strides[i]);
                if stride == 0 || (shrink && stride < 0) {
                    return Err(KernelError::Argument {
                        what: "a stride",
                        got: stride.to_string(),
                        expected: if shrink { "positive where one element is picked" } else { "not 0" },
                    });
                }
                if !shrink {
                    finals.push(Final::From(dense.len()));
                }
                // A picked element is at `begin` whatever the mask says.
                let begin = (shrink || !bit(self.begin_mask, i)).then(|| self.begin[i].into());
                let end = (!bit(self.end_mask, i)).then(|| self.end[i].into());
                dense.push(Dense { begin, end, stride, shrink });
            }
        }
        if ellipses == 0 {
            expand(&mut dense, &mut finals);
        }
        Ok((dense, finals))
    }

    /// The range of every input dimension and the shape of the result.
    fn ranges(&self, dims: &[usize]) -> Result<(Vec<Range>, Shape)> {
        let (dense, finals) = self.dense(dims.len())?;
        let ranges =
            dims.iter().zip(&dense).map(|(&dim, spec)| resolve(spec, dim)).collect::<Result<Vec<_>>>()?;
        let shape = finals
            .into_iter()
            .map(|f| match f {
                Final::New => 1,
                Final::From(d) => ranges[d].len,
            })
            .collect();
        Ok((ranges, shape))
    }
}

fn resolve(spec: &Dense, dim: usize) -> Result<Range> {
    let n = dim as i64;
    let forward = |x: i64| if x < 0 { x + n } else { x };
    if spec.shrink {
        let begin = spec.begin.unwrap_or(0);
        let at = forward(begin);
        if at < 0 || at >= n {
            return Err(KernelError::Range { what: "slice index", got: begin, min: -n, max: n });
        }
        return Ok(Range { start: at as usize, step: 1, len: 1 });
    }
    let (low, high) = if spec.stride > 0 { (0, n) } else { (-1, n - 1) };
    let begin = match spec.begin {
        None => {
            if spec.stride > 0 {
                low
            } else {
                high
            }
        }
        Some(x) => forward(x).clamp(low, high.max(low)),
    };
    let end = match spec.end {
        None => {
            if spec.stride > 0 {
                high
            } else {
                low
            }
        }
        Some(x) => forward(x).clamp(low, high.max(low)),
    };
    let span = end - begin;
    let len = if span == 0 || (span < 0) != (spec.stride < 0) {
        0
    } else {
        span / spec.stride + i64::from(span % spec.stride != 0)
    };
    // An empty range has no first element.
    let start = if len == 0 { 0 } else { begin };
    Ok(Range { start: start as usize, step: spec.stride as isize, len: len as usize })
}

/// `input[spec]`.
///
/// # Errors
/// As [`SliceSpec::output_dims`].
pub fn strided_slice(input: Tensor, spec: &SliceSpec) -> Result<Tensor> {
    let (ranges, shape) = spec.ranges(input.dims())?;
    pick(input, &ranges)?.reshape(shape)
}

/// `input` with `input[spec] = value`; `value` has the shape of the slice.
///
/// # Errors
/// [`KernelError`] as [`SliceSpec::output_dims`], or when type or shape of `value` do not fit.
pub fn strided_slice_update(input: Tensor, value: &Tensor, spec: &SliceSpec) -> Result<Tensor> {
    let (ranges, shape) = spec.ranges(input.dims())?;
    if value.dims() != &shape[..] {
        return Err(KernelError::Shapes {
            left: value.shape(),
            right: shape,
            why: "differ: the first is that of the new value, the second that of the slice",
        });
    }
    crate::match_tensor!(input, t => write(t, value, &ranges).map(Element::wrap))
}

/// Gradient of [`strided_slice`]: zeros of `shape` with `dy` written at the slice.
///
/// # Errors
/// As [`strided_slice_update`].
pub fn strided_slice_grad(shape: &[i32], dy: &Tensor, spec: &SliceSpec) -> Result<Tensor> {
    let dims = shape.iter().map(|&d| movement::count("a dimension", d)).collect::<Result<Vec<_>>>()?;
    strided_slice_update(Tensor::zeros(dy.dtype(), dims)?, dy, spec)
}

fn write<T: Element>(mut out: TensorOf<T>, value: &Tensor, ranges: &[Range]) -> Result<TensorOf<T>> {
    let value = value.typed::<T>("value")?;
    if value.is_empty() {
        return Ok(out);
    }
    let strides = out.shape().strides();
    let Some((last, outer)) = ranges.split_last() else {
        out.data_mut().clone_from_slice(value.data());
        return Ok(out);
    };
    let data = out.data_mut();
    for (n, row) in value.data().chunks_exact(last.len).enumerate() {
        let (mut rest, mut at) = (n, last.start);
        for (r, stride) in outer.iter().zip(&strides).rev() {
            at += r.start.wrapping_add_signed((rest % r.len) as isize * r.step) * stride;
            rest /= r.len;
        }
        for v in row {
            data[at] = v.clone();
            at = at.wrapping_add_signed(last.step);
        }
    }
    Ok(out)
}

/// `size[d]` elements from `begin[d]` on; a size of -1 means all that are left.
///
/// # Errors
/// [`KernelError`] when there is not one entry per dimension or an entry leaves the input.
pub fn slice(input: Tensor, begin: &[i32], size: &[i32]) -> Result<Tensor> {
    let shape = slice_shape(input.dims(), begin, size)?;
    let ranges: Vec<Range> =
        begin.iter().zip(shape.iter()).map(|(&b, &len)| Range { start: b as usize, step: 1, len }).collect();
    pick(input, &ranges)
}

/// Shape of [`slice()`]'s result.
///
/// # Errors
/// As [`slice()`].
pub fn slice_shape(dims: &[usize], begin: &[i32], size: &[i32]) -> Result<Shape> {
    if begin.len() != dims.len() || size.len() != dims.len() {
        return Err(KernelError::Argument {
            what: "begin and size",
            got: format!("{} and {} values", begin.len(), size.len()),
            expected: "one value per dimension",
        });
    }
    dims.iter()
        .zip(begin.iter().zip(size))
        .map(|(&dim, (&begin, &size))| {
            let n = dim as i64;
            let (b, s) = (i64::from(begin), i64::from(size));
            if b < 0 || b > n {
                return Err(KernelError::Range { what: "begin", got: b, min: 0, max: n + 1 });
            }
            let s = if s == -1 { n - b } else { s };
            if s < 0 || b + s > n {
                return Err(KernelError::Range { what: "size", got: s, min: -1, max: n - b + 1 });
            }
            Ok(s as usize)
        })
        .collect()
}

fn pick(input: Tensor, ranges: &[Range]) -> Result<Tensor> {
    let dims = input.shape();
    let axes: Vec<Axis> = ranges.iter().map(|r| Axis::range(r.start, r.step, r.len)).collect();
    let shape = movement::gathered_shape(&axes)?;
    if shape == dims && ranges.iter().all(|r| r.step == 1) {
        return Ok(input);
    }
    crate::match_tensor!(&input, t => Tensor::from_buffer(shape, movement::gather(t.data(), &dims, &axes, &Default::default())))
}

/// Reverses the order along each of `axes` (negative counts from the end).
///
/// # Errors
/// [`KernelError`] when an axis is out of range or named twice.
pub fn reverse(input: Tensor, axes: &[i32]) -> Result<Tensor> {
    let dims = input.shape();
    let mut flip = vec![false; dims.len()];
    for &a in axes {
        let a = movement::axis(a.into(), dims.len())?;
        if std::mem::replace(&mut flip[a], true) {
            return Err(KernelError::Argument {
                what: "the axes",
                got: format!("{axes:?}"),
                expected: "different from each other",
            });
        }
    }
    let ranges: Vec<Range> = dims
        .iter()
        .zip(flip)
        .map(|(&d, flip)| match flip {
            true => Range { start: d.saturating_sub(1), step: -1, len: d },
            false => Range { start: 0, step: 1, len: d },
        })
        .collect();
    pick(input, &ranges)
}

/// Reverses the first `lengths[b]` elements along `seq_axis` of every slice `b` along `batch_axis`.
///
/// # Errors
/// [`KernelError`] when an axis is out of range, both are the same, or the lengths do not fit.
pub fn reverse_sequence(input: Tensor, lengths: &[i32], seq_axis: i64, batch_axis: i64) -> Result<Tensor> {
    let dims = input.shape();
    let seq = movement::axis(seq_axis, dims.len())?;
    let batch = movement::axis(batch_axis, dims.len())?;
    if seq == batch || lengths.len() != dims[batch] {
        return Err(KernelError::Argument {
            what: "the sequence lengths",
            got: format!("{} values for batch axis {batch} and sequence axis {seq}", lengths.len()),
            expected: "one value per batch entry and two different axes",
        });
    }
    let mut sizes = Vec::with_capacity(lengths.len());
    for &l in lengths {
        sizes.push(movement::index("sequence length", l, dims[seq] + 1)?);
    }
    let strides = dims.strides();
    let inner: usize = dims[seq.max(batch) + 1..].iter().product();
    crate::match_tensor!(&input, t => {
        let src = t.data();
        let mut out = vec![Default::default(); src.len()];
        if !out.is_empty() {
            movement::rows(&mut out, inner, |first, lines| {
                for (n, row) in lines.chunks_exact_mut(inner).enumerate() {
                    let at = (first + n) * inner;
                    let (b, s) = (at / strides[batch] % dims[batch], at / strides[seq] % dims[seq]);
                    let from = if s < sizes[b] { sizes[b] - 1 - s } else { s };
                    movement::copy_block(row, &src[at - s * strides[seq] + from * strides[seq]..][..inner]);
                }
            });
        }
        Tensor::new(dims, out)
    })
}

/// Shifts along each of `axes`, wrapping around; several shifts of one axis add up.
///
/// # Errors
/// [`KernelError`] when the lists have different lengths or an axis is out of range.
pub fn roll(input: Tensor, shifts: &[i32], axes: &[i32]) -> Result<Tensor> {
    let dims = input.shape();
    if shifts.len() != axes.len() || dims.is_empty() {
        return Err(KernelError::Argument {
            what: "shift",
            got: format!("{shifts:?} for axes {axes:?} of shape {dims}"),
            expected: "one value per axis, and at least one dimension",
        });
    }
    let mut by = vec![0i64; dims.len()];
    for (&s, &a) in shifts.iter().zip(axes) {
        let a = movement::axis(a.into(), dims.len())?;
        by[a] = (by[a] + i64::from(s)).rem_euclid((dims[a] as i64).max(1));
    }
    if by.iter().all(|&s| s == 0) {
        return Ok(input);
    }
    let axes: Vec<Axis> = dims
        .iter()
        .zip(by)
        .map(|(&d, s)| {
            let s = s as usize;
            Axis::from_runs([
                Run::Copy { start: d - s, step: 1, len: s },
                Run::Copy { start: 0, step: 1, len: d - s },
            ])
        })
        .collect();
    crate::match_tensor!(&input, t => {
        let data = movement::gather(t.data(), &dims, &axes, &Default::default());
        Tensor::from_buffer(dims, data)
    })
}

#[cfg(test)]
mod tests {
    use super::{SliceSpec, reverse_sequence, roll, slice, strided_slice, strided_slice_update};
    use crate::Tensor;

    fn x() -> Tensor {
        Tensor::new([3, 4], (0..12).collect::<Vec<i32>>()).unwrap()
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn a_picked_index_ignores_the_begin_mask() {
        let spec = SliceSpec {
            begin: vec![1, 0],
            end: vec![2, 0],
            strides: vec![1, -1],
            begin_mask: 3,
            end_mask: 2,
            shrink_axis_mask: 1,
            ..SliceSpec::default()
        };
        let t = strided_slice(x(), &spec).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[4][..], &[7, 6, 5, 4][..]));
        assert_eq!(spec.output_dims(&[None, Some(4)]).unwrap(), [Some(4)]);
    }

    #[test]
    fn negative_strides_clamp_at_both_ends() {
        let spec = SliceSpec {
            begin: vec![-1, 5],
            end: vec![-100, 0],
            strides: vec![-2, -2],
            ..SliceSpec::default()
        };
        let t = strided_slice(x(), &spec).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[2, 2][..], &[11, 9, 3, 1][..]));
        let back =
            strided_slice_update(x(), &Tensor::new([2, 2], vec![-1, -2, -3, -4]).unwrap(), &spec).unwrap();
        assert_eq!(back.data::<i32>().unwrap(), [0, -4, 2, -3, 4, 5, 6, 7, 8, -2, 10, -1]);
    }

    #[test]
    fn new_axes_and_ellipsis_keep_their_places() {
        let spec = SliceSpec {
            begin: vec![0, 0, 1],
            end: vec![0, 0, 2],
            strides: vec![1, 1, 1],
            new_axis_mask: 1,
            ellipsis_mask: 2,
            shrink_axis_mask: 4,
            ..SliceSpec::default()
        };
        let t = strided_slice(x(), &spec).unwrap();
        assert_eq!((t.dims(), t.data::<i32>().unwrap()), (&[1, 3][..], &[1, 5, 9][..]));
    }

    #[test]
    fn reverse_sequence_and_roll_agree_with_tensorflow() {
        let t = reverse_sequence(x(), &[2, 4, 0], 1, 0).unwrap();
        assert_eq!(t.data::<i32>().unwrap(), [1, 0, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]);
        let t = roll(x(), &[1, -1, 6], &[0, 1, 1]).unwrap();
        assert_eq!(t.data::<i32>().unwrap(), [11, 8, 9, 10, 3, 0, 1, 2, 7, 4, 5, 6]);
    }

    #[test]
    fn slices_that_leave_the_tensor_are_errors() {
        assert!(slice(x(), &[0, 0], &[4, 1]).is_err());
        assert!(slice(x(), &[-1, 0], &[1, 1]).is_err());
        assert!(slice(x(), &[0], &[1]).is_err());
        let zero = SliceSpec { begin: vec![0], end: vec![1], strides: vec![0], ..SliceSpec::default() };
        assert!(strided_slice(x(), &zero).is_err());
        let many =
            SliceSpec { begin: vec![0; 3], end: vec![1; 3], strides: vec![1; 3], ..SliceSpec::default() };
        assert!(strided_slice(x(), &many).is_err());
    }
}
