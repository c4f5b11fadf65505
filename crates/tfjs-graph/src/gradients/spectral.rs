//! Fourier transforms. The transform of complex numbers is its own adjoint but for the sign of the exponent and a factor.
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, compose::compose, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("BatchFFT", |c| forward(c, "IFFT", 1)),
    row("BatchIFFT", |c| inverse(c, "FFT", 1)),
    row("FFT", |c| forward(c, "IFFT", 1)),
    row("FFT2D", |c| forward(c, "IFFT2D", 2)),
    row("FFT3D", |c| forward(c, "IFFT3D", 3)),
    row("IFFT", |c| inverse(c, "FFT", 1)),
    row("IFFT2D", |c| inverse(c, "FFT2D", 2)),
    row("IFFT3D", |c| inverse(c, "FFT3D", 3)),
    row("IRFFT", irfft),
    row("IRFFT2D", |c| many(c, false, 2)),
    row("IRFFT3D", |c| many(c, false, 3)),
    row("RFFT", rfft),
    row("RFFT2D", |c| many(c, true, 2)),
    row("RFFT3D", |c| many(c, true, 3)),
];

/// The number of elements of the innermost `rank` dimensions.
fn count(c: &mut GradCx<'_>, x: Port, rank: usize) -> Result<Port> {
    let shape = c.shape(x)?;
    let (begin, size) = match c.fact(x).rank() {
        Some(all) if all >= rank => (c.ints(&[(all - rank) as i32]), c.ints(&[rank as i32])),
        _ => return c.refuse("the number of dimensions is not known"),
    };
    let inner = c.op("Slice", &[shape, begin, size], &[])?;
    let zero = c.ints(&[0]);
    let n = c.op("Prod", &[inner, zero], &[("keep_dims", attr::bool(false))])?;
    let n = c.cast(n, DType::Float32)?;
    c.cast(n, DType::Complex64)
}

fn forward(c: &mut GradCx<'_>, op: &str, rank: usize) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let n = count(c, x, rank)?;
    let g = c.un(op, dy)?;
    let g = c.mul(g, n)?;
    c.set(0, g)
}

fn inverse(c: &mut GradCx<'_>, op: &str, rank: usize) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let n = count(c, x, rank)?;
    let g = c.un(op, dy)?;
    let g = c.div(g, n)?;
    c.set(0, g)
}

/// The length of the transform, a constant.
fn length(c: &mut GradCx<'_>) -> Result<usize> {
    match c.fact(c.x(1)).ints() {
        Some(&[n]) if n > 0 => Ok(n as usize),
        _ => c.refuse("the length is not constant"),
    }
}

/// `g`, whose last dimension is `n`, padded with zeros or cut as the input was cut or padded to `n`.
fn as_given(c: &mut GradCx<'_>, g: Port, x: Port, n: usize) -> Result<Port> {
    if c.dims(x).and_then(|d| d.last().copied().flatten()) == Some(n) {
        return Ok(g);
    }
    let rank = c.rank(x)?;
    if rank == 0 {
        return c.refuse("the input is a scalar");
    }
    let (shape, zero) = (c.shape(x)?, c.int(0));
    let last = c.element(shape, rank as i32 - 1)?;
    let own = c.int(n as i32);
    let more = c.sub(last, own)?;
    let more = c.bin("Maximum", more, zero)?;
    let before = vec![0i32; 2 * rank - 1];
    let before = c.ints(&before);
    let flat = c.ints(&[1]);
    let more = c.op("Reshape", &[more, flat], &[])?;
    let pairs = c.op("ConcatV2", &[before, more, zero], &[])?;
    let table = c.ints(&[rank as i32, 2]);
    let pairs = c.op("Reshape", &[pairs, table], &[])?;
    let padded = c.bin("Pad", g, pairs)?;
    let begin = c.ints(&vec![0; rank]);
    c.op("Slice", &[padded, begin, shape], &[])
}

/// The spectrum holds each frequency once: the gradient of the missing half is that of the other, conjugated.
fn rfft(c: &mut GradCx<'_>) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let n = length(c)?;
    // Half the weight for frequencies that occur twice in the whole spectrum.
    let half: Vec<f32> =
        (0..n / 2 + 1).map(|k| if k == 0 || 2 * k == n { 1.0 } else { 0.5 }).map(|w| w * n as f32).collect();
    let half = c.b.constant(tfjs_kernels::Tensor::vector(half));
    let half = c.cast(half, DType::Complex64)?;
    let weighted = c.mul(dy, half)?;
    let len = c.ints(&[n as i32]);
    let g = c.bin("IRFFT", weighted, len)?;
    let g = as_given(c, g, x, n)?;
    c.set(0, g)
}

fn irfft(c: &mut GradCx<'_>) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let n = length(c)?;
    let double: Vec<f32> =
        (0..n / 2 + 1).map(|k| if k == 0 || 2 * k == n { 1.0 } else { 2.0 }).map(|w| w / n as f32).collect();
    let double = c.b.constant(tfjs_kernels::Tensor::vector(double));
    let double = c.cast(double, DType::Complex64)?;
    let len = c.ints(&[n as i32]);
    let spectrum = c.bin("RFFT", dy, len)?;
    let g = c.mul(spectrum, double)?;
    let g = as_given(c, g, x, n / 2 + 1)?;
    c.set(0, g)
}

/// Transforms of real numbers over several dimensions: of the last one, and complex ones over the others.
fn many(c: &mut GradCx<'_>, forward: bool, dims: usize) -> Result<()> {
    let Some(lengths) = c.ints_of(1).filter(|l| l.len() == dims) else {
        return c.refuse("the lengths are not constant");
    };
    let rank = c.rank(c.x(0))?;
    if rank < dims {
        return c.refuse(format!("{rank} dimensions"));
    }
    for (i, &length) in lengths[..dims - 1].iter().enumerate() {
        let given = c.dims(c.x(0)).and_then(|d| d[rank - dims + i]);
        if given.is_some_and(|d| i32::try_from(d) != Ok(length)) {
            return c.refuse("the input is padded or cut to the lengths of the transform");
        }
    }
    compose(c, |c, x| {
        let last = c.ints(&[lengths[dims - 1]]);
        let mut y = if forward { c.bin("RFFT", x[0], last)? } else { x[0] };
        for axis in rank - dims..rank - 1 {
            let mut swap: Vec<i32> = (0..rank as i32).collect();
            swap.swap(axis, rank - 1);
            let turned = c.transpose(y, &swap)?;
            let turned = c.un(if forward { "FFT" } else { "IFFT" }, turned)?;
            y = c.transpose(turned, &swap)?;
        }
        if forward { Ok(y) } else { c.bin("IRFFT", y, last) }
    })
}
