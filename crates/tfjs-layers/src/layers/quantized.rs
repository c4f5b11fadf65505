//! What Keras 3 computes in layers quantized to int8: activations are rounded to 255 steps of their own range, products are
//! exact, and the scales of both sides divide the result.

use tfjs_graph::Port;
use tfjs_kernels::DType;

use crate::{Emit, LayersError};

type Result<T> = std::result::Result<T, LayersError>;

/// `x` in steps of 1/127 of its greatest magnitude along `axes`, and the number of steps per unit (without those axes, or
/// with size 1 there).
///
/// # Errors
/// When an axis does not exist.
pub(super) fn quantize(g: &mut Emit, x: Port, axes: &[usize], keep_dims: bool) -> Result<(Port, Port)> {
    let magnitude = g.unary("Abs", x)?;
    let top = g.reduce("Max", magnitude, axes, true)?;
    let top = g.offset(top, 1e-7)?;
    let most = g.scalar(127.0);
    let steps = g.div(most, top)?;
    let scaled = g.mul(x, steps)?;
    let rounded = g.unary("Round", scaled)?;
    let clipped = crate::activations::clip(g, rounded, -127.0, 127.0)?;
    let steps = if keep_dims { steps } else { g.squeeze(steps, axes)? };
    Ok((clipped, steps))
}

/// `[…, k] · [k, n]` with a kernel of int8 and its steps per unit, `[n]`.
///
/// # Errors
/// When the inner dimensions differ.
pub(super) fn matmul(g: &mut Emit, x: Port, kernel: Port, scale: Port) -> Result<Port> {
    let last = g.rank(x)?.saturating_sub(1);
    let (x, steps) = quantize(g, x, &[last], true)?;
    let kernel = g.cast(kernel, DType::Float32)?;
    let y = g.matmul(x, kernel)?;
    let scale = g.mul(scale, steps)?;
    g.div(y, scale)
}
