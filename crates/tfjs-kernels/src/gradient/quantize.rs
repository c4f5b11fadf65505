//! Gradients of fake quantization: straight through inside the range, to the nearer end outside.
use super::same_shape;
use crate::{Result, Tensor, quantize::nudged};

/// The gradient by the input, and the sums of what was below and above the range, which are those by its ends.
///
/// # Errors
/// When types or shapes differ, or `bits` is not in 2 to 16.
pub fn fake_quant_grad(
    dy: Tensor,
    x: &Tensor,
    min: f32,
    max: f32,
    bits: u32,
    narrow: bool,
) -> Result<(Tensor, f32, f32)> {
    let ends = Tensor::vector(vec![min]);
    let (flat, shape) = (x.clone().reshape([x.len(), 1])?, dy.shape());
    same_shape(&dy, x)?;
    let dy = dy.reshape([flat.len(), 1])?;
    let (dx, low, high) =
        fake_quant_per_channel_grad(dy, &flat, &ends, &Tensor::vector(vec![max]), bits, narrow)?;
    let first = |t: &Tensor| Ok::<_, crate::KernelError>(t.data::<f32>()?.first().copied().unwrap_or(0.0));
    Ok((dx.reshape(shape)?, first(&low)?, first(&high)?))
}

/// [`fake_quant_grad`] with a range per entry of the last dimension.
///
/// # Errors
/// Those of [`fake_quant_grad`].
pub fn fake_quant_per_channel_grad(
    dy: Tensor,
    x: &Tensor,
    min: &Tensor,
    max: &Tensor,
    bits: u32,
    narrow: bool,
) -> Result<(Tensor, Tensor, Tensor)> {
    same_shape(&dy, x)?;
    let ranges = nudged(x, min, max, bits, narrow)?;
    let mut dy = dy.into_typed::<f32>("the gradients")?;
    let x = x.typed::<f32>("inputs")?.data();
    let (mut low, mut high) = (vec![0.0f32; ranges.len()], vec![0.0f32; ranges.len()]);
    if !ranges.is_empty() {
        for (row, x) in dy.data_mut().chunks_exact_mut(ranges.len()).zip(x.chunks_exact(ranges.len())) {
            for (i, (g, &x)) in row.iter_mut().zip(x).enumerate() {
                // A range that is a point at zero lets everything through.
                let Some((min, max)) = ranges[i] else { continue };
                if x < min {
                    low[i] += std::mem::take(g);
                } else if x > max {
                    high[i] += std::mem::take(g);
                }
            }
        }
    }
    Ok((dy.into(), Tensor::vector(low), Tensor::vector(high)))
}
