//! Fourier transforms. The transform of complex numbers is its own adjoint but for the sign of the exponent and a factor.
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, row};
use crate::builder::attr;

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
    row("RFFT", rfft),
];

/// The number of elements of the innermost `rank` dimensions.
fn count(c: &mut GradCx<'_>, x: crate::Port, rank: usize) -> Result<crate::Port> {
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

/// Input shorter or longer than the transform would have to be padded or cut.
fn length(c: &mut GradCx<'_>, spectrum: crate::Port, signal: crate::Port) -> Result<usize> {
    let last = |c: &GradCx<'_>, p| c.dims(p).and_then(|d| d.last().copied().flatten());
    let Some(&[n]) = c.fact(c.x(1)).ints() else { return c.refuse("the length is not constant") };
    let n = usize::try_from(n).unwrap_or(0);
    if last(c, signal) != Some(n) || last(c, spectrum) != Some(n / 2 + 1) || n == 0 {
        return c.refuse("the input is padded or cut to the length of the transform");
    }
    Ok(n)
}

/// The spectrum holds each frequency once: the gradient of the missing half is that of the other, conjugated.
fn rfft(c: &mut GradCx<'_>) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
    let n = length(c, y, x)?;
    // Half the weight for frequencies that occur twice in the whole spectrum.
    let half: Vec<f32> =
        (0..n / 2 + 1).map(|k| if k == 0 || 2 * k == n { 1.0 } else { 0.5 }).map(|w| w * n as f32).collect();
    let half = c.b.constant(tfjs_kernels::Tensor::vector(half));
    let half = c.cast(half, DType::Complex64)?;
    let weighted = c.mul(dy, half)?;
    let len = c.ints(&[n as i32]);
    let g = c.bin("IRFFT", weighted, len)?;
    c.set(0, g)
}

fn irfft(c: &mut GradCx<'_>) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
    let n = length(c, x, y)?;
    let double: Vec<f32> =
        (0..n / 2 + 1).map(|k| if k == 0 || 2 * k == n { 1.0 } else { 2.0 }).map(|w| w / n as f32).collect();
    let double = c.b.constant(tfjs_kernels::Tensor::vector(double));
    let double = c.cast(double, DType::Complex64)?;
    let len = c.ints(&[n as i32]);
    let spectrum = c.bin("RFFT", dy, len)?;
    let g = c.mul(spectrum, double)?;
    c.set(0, g)
}
