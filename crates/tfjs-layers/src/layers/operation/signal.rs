//! Fourier transforms, frames of sequences, segments.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::args::{Args, NAMED, wrong};
use super::{Result, Row, linalg, one};
use crate::{Emit, emit::table_size, topology::Arg};

pub(super) const OPS: &[Row] = &[
    ("fft", |g, a| complex(g, a, "FFT")),
    ("fft2", |g, a| complex(g, a, "FFT2D")),
    ("ifft2", |g, a| complex(g, a, "IFFT2D")),
    ("rfft", |g, a| {
        let x = a.float_x(g)?;
        let length = match a.int(1, &["fft_length"])? {
            Some(n) => i32::try_from(n).map_err(|_| wrong(&["fft_length"], "it is no size"))?,
            None => g.known_dim(x, g.axis(x, -1)?, "length of the sequence")? as i32,
        };
        let x = at_least(g, x, length)?;
        real_transform(g, x, length)
    }),
    ("irfft", |g, a| {
        let mut x = joined(g, a)?;
        let length = match a.int(1, &["fft_length"])? {
            Some(n) => {
                let length = i32::try_from(n).map_err(|_| wrong(&["fft_length"], "it is no size"))?;
                let mut parts = apart(g, x)?;
                for part in &mut parts {
                    *part = at_least(g, *part, length / 2 + 1)?;
                }
                x = g.op("Complex", &parts, &[])?;
                length
            }
            None => 2 * (g.known_dim(x, g.axis(x, -1)?, "number of frequencies")? as i32 - 1),
        };
        let length = g.ints(&[length]);
        one(g.op("IRFFT", &[x, length], &[("Treal", attr::dtype(DType::Float32))]))
    }),
    ("stft", stft),
    ("extract_sequences", |g, a| {
        let x = a.x(g)?;
        let (length, stride) = (size(a, 1, "sequence_length")?, size(a, 2, "sequence_stride")?);
        one(frames(g, x, length, stride))
    }),
    ("segment_sum", |g, a| one(segment(g, a, "UnsortedSegmentSum"))),
    ("segment_max", |g, a| one(segment(g, a, "UnsortedSegmentMax"))),
    ("segment_min", |g, a| one(segment(g, a, "UnsortedSegmentMin"))),
    ("segment_prod", |g, a| one(segment(g, a, "UnsortedSegmentProd"))),
    ("solve_triangular", |g, a| {
        let x = a.float_x(g)?;
        let b = a.tensor(g, 1, &["b"])?;
        let lower = a.bool(NAMED, &["lower"], false)?;
        let x = super::index::triangle(g, x, 0, lower)?;
        one(linalg::solve(g, x, b))
    }),
    ("cholesky_inverse", |g, a| {
        let factor = a.float_x(g)?;
        let upper = a.bool(NAMED, &["upper"], false)?;
        let whole = linalg::matmul(g, factor, factor, upper, !upper)?;
        one(linalg::inverse(g, whole))
    }),
];

fn size(a: &Args<'_>, position: usize, name: &'static str) -> Result<usize> {
    let given = a.int(position, &[name])?.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    given.ok_or_else(|| wrong(&[name], "it is no size"))
}

/// Real and imaginary part, given as a pair, as complex numbers.
fn joined(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    match a.tensors(g, &["x"])?.as_slice() {
        &[real, imaginary] => {
            let (real, imaginary) = (g.cast(real, DType::Float32)?, g.cast(imaginary, DType::Float32)?);
            g.op("Complex", &[real, imaginary], &[])
        }
        _ => Err(wrong(&["x"], "it is no pair of a real and an imaginary part")),
    }
}

fn apart(g: &mut Emit, x: Port) -> Result<Vec<Port>> {
    let types = [("Tout", attr::dtype(DType::Float32))];
    Ok(vec![g.op("Real", &[x], &types)?, g.op("Imag", &[x], &types)?])
}

fn complex(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let x = joined(g, a)?;
    let y = g.unary(op, x)?;
    apart(g, y)
}

/// With zeros behind, up to a length.
fn at_least(g: &mut Emit, x: Port, length: i32) -> Result<Port> {
    let last = g.axis(x, -1)?;
    let more = usize::try_from(length).unwrap_or(0).saturating_sub(g.known_dim(x, last, "length")?);
    table_size(&[more])?;
    if more == 0 {
        return Ok(x);
    }
    let mut pads = vec![(0, 0); last + 1];
    pads[last] = (0, more);
    g.pad(x, &pads, 0.0)
}

fn real_transform(g: &mut Emit, x: Port, length: i32) -> Result<Vec<Port>> {
    let length = g.ints(&[length]);
    let y = g.op("RFFT", &[x, length], &[("Tcomplex", attr::dtype(DType::Complex64))])?;
    apart(g, y)
}

/// Pieces of the last axis, `stride` apart: `[…, pieces, length]`.
fn frames(g: &mut Emit, x: Port, length: usize, stride: usize) -> Result<Port> {
    let last = g.axis(x, -1)?;
    let total = g.known_dim(x, last, "length of the sequence")?;
    let count = total.checked_sub(length).map_or(0, |rest| rest / stride + 1);
    table_size(&[count, length])?;
    let places: Vec<i32> =
        (0..count).flat_map(|i| (0..length).map(move |j| (i * stride + j) as i32)).collect();
    let places = g.constant(Tensor::new([count, length], places)?);
    let axis = g.int(last as i32);
    g.op("GatherV2", &[x, places, axis], &[("batch_dims", attr::int(0))])
}

/// Frames in the middle of which each moment lies, weighed by a window, transformed.
fn stft(g: &mut Emit, a: &Args<'_>) -> Result<Vec<Port>> {
    let mut x = a.float_x(g)?;
    let (length, stride) = (size(a, 1, "sequence_length")?, size(a, 2, "sequence_stride")?);
    let fft_length = size(a, 3, "fft_length")?;
    let Some(spare) = fft_length.checked_sub(length) else {
        return Err(wrong(&["fft_length"], "it is smaller than `sequence_length`"));
    };
    if a.bool(5, &["center"], true)? {
        let last = g.axis(x, -1)?;
        let rank = last + 1;
        let mut pads = vec![0i32; rank * 2];
        let half = (fft_length / 2) as i32;
        pads[last * 2..].copy_from_slice(&[half, half]);
        let pads = g.constant(Tensor::new([rank, 2], pads)?);
        x = g.op("MirrorPad", &[x, pads], &[("mode", attr::text("REFLECT"))])?;
    }
    let window = window(a, length)?;
    table_size(&[fft_length])?;
    let mut padded = vec![0.0; spare / 2];
    padded.extend(window);
    padded.resize(fft_length, 0.0);
    let frames = frames(g, x, fft_length, stride)?;
    let window = g.floats(&padded);
    let frames = g.mul(frames, window)?;
    real_transform(g, frames, fft_length as i32)
}

fn window(a: &Args<'_>, length: usize) -> Result<Vec<f32>> {
    table_size(&[length])?;
    let cosine = |mean: f64| -> Vec<f32> {
        // TensorFlow's windows of odd lengths are symmetric.
        let period = if length.is_multiple_of(2) { length } else { length - 1 };
        if period == 0 {
            return vec![1.0];
        }
        let angle = |i: usize| 2.0 * std::f64::consts::PI * i as f64 / period as f64;
        (0..length).map(|i| (mean - (1.0 - mean) * angle(i).cos()) as f32).collect()
    };
    match a.get(4, &["window"]) {
        Some(Arg::Value(serde_json::Value::String(name))) => match name.as_str() {
            "hann" => Ok(cosine(0.5)),
            "hamming" => Ok(cosine(0.54)),
            _ => Err(wrong(&["window"], "it is none of hann and hamming")),
        },
        Some(Arg::Value(values)) => {
            let values = super::constant(&values, Some(DType::Float32));
            let values = values.filter(|t| t.dims() == [length]);
            let values = values.ok_or_else(|| wrong(&["window"], "it has another length"))?;
            Ok(values.data::<f32>()?.to_vec())
        }
        Some(_) => Err(wrong(&["window"], "it is not constant")),
        None if a.is_null(4, "window") => Ok(vec![1.0; length]),
        None => Ok(cosine(0.5)),
    }
}

fn segment(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Port> {
    let x = a.tensor(g, 0, &["data"])?;
    let places = a.tensor(g, 1, &["segment_ids"])?;
    let places = g.cast(places, DType::Int32)?;
    let count = a.int(2, &["num_segments"])?.and_then(|n| i32::try_from(n).ok());
    let count = count.ok_or_else(|| {
        wrong(&["num_segments"], "without it the shape of the result depends on values: give the number")
    })?;
    let count = g.int(count);
    g.op(op, &[x, places, count], &[])
}
