//! Fourier transforms over the last one, two or three dimensions.
use num_complex::{Complex32, Complex64};
use rustfft::FftPlanner;

use crate::{
    KernelError, Result, Shape, Tensor,
    unary::{narrow, widen},
};

/// Complex transform over the last `axes` (1 to 3) dimensions; the inverse divides by the number of points.
///
/// # Errors
/// [`KernelError`] when `x` is not complex64 or has fewer dimensions.
pub fn fft(x: &Tensor, axes: usize, inverse: bool) -> Result<Tensor> {
    let z = x.typed::<Complex32>("the input")?;
    at_least(x, axes)?;
    let mut data: Vec<Complex64> = z.data().iter().map(|&v| widen(v)).collect();
    transform_all(&mut data, x.dims(), axes, inverse);
    Tensor::new(x.shape(), data.into_iter().map(narrow).collect::<Vec<_>>())
}

/// Real-to-complex transform over the last dimensions, one per element of `lengths`; the input is cropped to them.
/// The last dimension of the result has `lengths.last() / 2 + 1` points.
///
/// # Errors
/// [`KernelError`] when `x` is not float32 or is smaller than `lengths` somewhere.
pub fn rfft(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let r = x.typed::<f32>("the input")?;
    let axes = lengths.len();
    at_least(x, axes)?;
    let shape = cropped(x, lengths, lengths)?;
    let mut data = crop(r.data(), x.dims(), &shape, |v| Complex64::new(f64::from(v), 0.0));
    transform_all(&mut data, &shape, axes, false);
    let mut half = shape.clone();
    if let (Some(last), Some(&n)) = (half.last_mut(), lengths.last()) {
        *last = if n == 0 { 0 } else { n / 2 + 1 };
    }
    Tensor::new(half.clone(), crop(&data, &shape, &half, narrow))
}

/// Inverse of [`rfft`]: to `lengths` real numbers from the half that is not redundant.
///
/// # Errors
/// [`KernelError`] when `x` is not complex64 or has too few points for `lengths`.
pub fn irfft(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let z = x.typed::<Complex32>("the input")?;
    let axes = lengths.len();
    at_least(x, axes)?;
    let mut half = lengths.to_vec();
    if let Some(last) = half.last_mut() {
        *last = *last / 2 + 1;
    }
    let points: usize = lengths.iter().product();
    if points == 0 {
        return Err(KernelError::Argument {
            what: "fft_length",
            got: format!("{lengths:?}"),
            expected: "at least 1 in every dimension",
        });
    }
    let half_shape = cropped(x, &half, lengths)?;
    let mut data = crop(z.data(), x.dims(), &half_shape, widen);
    // The outer dimensions are full complex transforms; the last one is completed by symmetry.
    for axis in 0..axes - 1 {
        transform(&mut data, &half_shape, x.rank() - axes + axis, true);
    }
    let (n, h) = (lengths[axes - 1], half[axes - 1]);
    let rows = data.len() / h;
    let mut out = Vec::with_capacity(rows * n);
    let plan = FftPlanner::new().plan_fft_inverse(n);
    let mut row = vec![Complex64::default(); n];
    let mut scratch = vec![Complex64::default(); plan.get_inplace_scratch_len()];
    for part in data.chunks(h) {
        for (k, v) in row.iter_mut().enumerate() {
            *v = if k < h { part[k] } else { part[n - k].conj() };
        }
        // Imaginary parts of the points that are their own mirror images do not count.
        row[0].im = 0.0;
        if n.is_multiple_of(2) {
            row[n / 2].im = 0.0;
        }
        plan.process_with_scratch(&mut row, &mut scratch);
        out.extend(row.iter().map(|v| (v.re / points as f64) as f32));
    }
    let mut shape = half_shape;
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    Tensor::new(shape, out)
}

fn at_least(x: &Tensor, axes: usize) -> Result<()> {
    if x.rank() >= axes && axes > 0 {
        return Ok(());
    }
    let expected = match axes {
        2 => "at least 2 dimensions",
        3 => "at least 3 dimensions",
        _ => "at least 1 dimension",
    };
    Err(KernelError::Rank { what: "the input", got: x.shape(), expected })
}

/// The shape of `x` with its last dimensions cropped to `sizes`; none may grow. A length of 0 is an error of
/// the caller only for inverse transforms.
fn cropped(x: &Tensor, sizes: &[usize], lengths: &[usize]) -> Result<Shape> {
    let mut shape = x.shape();
    let first = shape.len() - sizes.len();
    for (d, &size) in shape[first..].iter_mut().zip(sizes) {
        if size > *d && !x.is_empty() {
            return Err(KernelError::Shapes {
                left: x.shape(),
                right: lengths.into(),
                why: "do not agree: the input has fewer points than fft_length asks for",
            });
        }
        *d = size;
    }
    shape.checked_len()?;
    Ok(shape)
}

/// The corner of `data: [from]` of shape `to`; zeros where `data` is empty.
fn crop<T: Copy, O: Clone + Default>(data: &[T], from: &[usize], to: &[usize], f: impl Fn(T) -> O) -> Vec<O> {
    let n: usize = to.iter().product();
    if data.is_empty() || n == 0 {
        return vec![O::default(); n];
    }
    let (row_in, row_out) = (from[from.len() - 1], to[to.len() - 1]);
    let mut out = Vec::with_capacity(n);
    let outer = to.len() - 1;
    let mut index = vec![0usize; outer];
    for _ in 0..n / row_out {
        let at = index.iter().zip(from).fold(0, |at, (&i, &d)| at * d + i) * row_in;
        out.extend(data[at..at + row_out].iter().map(|&v| f(v)));
        for d in (0..outer).rev() {
            index[d] += 1;
            if index[d] < to[d] {
                break;
            }
            index[d] = 0;
        }
    }
    out
}

fn transform_all(data: &mut [Complex64], dims: &[usize], axes: usize, inverse: bool) {
    for axis in dims.len() - axes..dims.len() {
        transform(data, dims, axis, inverse);
    }
    if inverse {
        let points: usize = dims[dims.len() - axes..].iter().product();
        data.iter_mut().for_each(|v| *v /= points as f64);
    }
}

/// Unscaled transform along one dimension.
fn transform(data: &mut [Complex64], dims: &[usize], axis: usize, inverse: bool) {
    let n = dims[axis];
    if n <= 1 || data.is_empty() {
        return;
    }
    let mut planner = FftPlanner::new();
    let plan = if inverse { planner.plan_fft_inverse(n) } else { planner.plan_fft_forward(n) };
    let mut scratch = vec![Complex64::default(); plan.get_inplace_scratch_len()];
    let inner: usize = dims[axis + 1..].iter().product();
    if inner == 1 {
        plan.process_with_scratch(data, &mut scratch);
        return;
    }
    let mut line = vec![Complex64::default(); n];
    for block in data.chunks_mut(n * inner) {
        for j in 0..inner {
            for (k, v) in line.iter_mut().enumerate() {
                *v = block[k * inner + j];
            }
            plan.process_with_scratch(&mut line, &mut scratch);
            for (k, &v) in line.iter().enumerate() {
                block[k * inner + j] = v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Tensor {
        Tensor::new([3, 4], (0..12).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    /// `x + i * x` with rows in reverse order.
    fn complex_ramp() -> Tensor {
        let v = |i: usize| Complex32::new(i as f32, ((2 - i / 4) * 4 + i % 4) as f32);
        Tensor::new([3, 4], (0..12).map(v).collect::<Vec<_>>()).unwrap()
    }

    #[track_caller]
    fn close(got: &Tensor, want: &[(f32, f32)]) {
        let got: Vec<(f32, f32)> = match got {
            Tensor::F32(t) => t.data().iter().map(|&v| (v, 0.0)).collect(),
            other => other.data::<Complex32>().unwrap().iter().map(|v| (v.re, v.im)).collect(),
        };
        let ok = got.len() >= want.len()
            && got.iter().zip(want).all(|(g, w)| (g.0 - w.0).abs() < 1e-5 && (g.1 - w.1).abs() < 1e-5);
        assert!(ok, "{got:?}, not {want:?}");
    }

    #[test]
    fn transforms_agree_with_tensorflow() {
        close(
            &fft(&complex_ramp(), 2, false).unwrap(),
            &[(66.0, 66.0), (-12.0, 0.0), (-6.0, -6.0), (0.0, -12.0), (-10.143_594, 37.856_407)],
        );
        close(
            &fft(&complex_ramp(), 2, true).unwrap(),
            &[(5.5, 5.5), (0.0, -1.0), (-0.5, -0.5), (-1.0, 0.0), (-3.154_700_5, 0.845_299_5)],
        );
        let y = rfft(&ramp().reshape([1, 3, 4]).unwrap(), &[1, 3, 4]).unwrap();
        assert_eq!(y.dims(), [1, 3, 3]);
        close(&y, &[(66.0, 0.0), (-6.0, 6.0), (-6.0, 0.0), (-24.0, 13.856_406)]);
        let y = irfft(&complex_ramp(), &[2, 5]).unwrap();
        assert_eq!(y.dims(), [2, 5]);
        close(
            &y,
            &[
                (3.2, 0.0),
                (-5.067_478, 0.0),
                (1.321_189, 0.0),
                (-1.473_975_5, 0.0),
                (4.020_264_6, 0.0),
                (-2.0, 0.0),
            ],
        );
    }

    #[test]
    fn real_transforms_crop_and_do_not_pad() {
        let x = Tensor::vector(vec![0.0f32, 1.0, 2.0, 3.0]);
        close(&rfft(&x, &[3]).unwrap(), &[(3.0, 0.0), (-1.5, 0.866_025_4)]);
        assert!(rfft(&x, &[6]).is_err());
        let z = Tensor::vector(vec![Complex32::new(1.0, 0.0); 4]);
        assert!(irfft(&z, &[9]).is_err() && irfft(&z, &[0]).is_err());
        assert!(fft(&Tensor::scalar(Complex32::default()), 1, false).is_err());
    }
}
