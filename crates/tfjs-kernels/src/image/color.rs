//! `RGBToHSV`, `HSVToRGB`, `AdjustContrastv2`, `AdjustHue`, `AdjustSaturation`.
use crate::{KernelError, Result, Tensor, TensorOf};

/// Applies `f` to each group of three channels.
fn per_pixel(images: Tensor, f: impl Fn([f32; 3]) -> [f32; 3]) -> Result<Tensor> {
    let mut t: TensorOf<f32> = images.into_typed("images")?;
    if t.dims().last() != Some(&3) {
        return Err(KernelError::Rank { what: "images", got: t.shape(), expected: "three channels, last" });
    }
    for pixel in t.data_mut().chunks_exact_mut(3) {
        let out = f([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&out);
    }
    Ok(Tensor::F32(t))
}

fn to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let v = r.max(g).max(b);
    let range = v - r.min(g).min(b);
    let s = if v > 0.0 { range / v } else { 0.0 };
    let norm = 1.0 / (6.0 * range);
    let hue = if range <= 0.0 {
        0.0
    } else if r == v {
        norm * (g - b)
    } else if g == v {
        norm * (b - r) + 2.0 / 6.0
    } else {
        norm * (r - g) + 4.0 / 6.0
    };
    [if hue < 0.0 { hue + 1.0 } else { hue }, s, v]
}

fn to_rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let dh = h * 6.0;
    let ramp = [(dh - 3.0).abs() - 1.0, 2.0 - (dh - 2.0).abs(), 2.0 - (dh - 4.0).abs()];
    ramp.map(|d| ((1.0 - s) + s * d.clamp(0.0, 1.0)) * v)
}

/// Red, green, blue (0 to 1) to hue, saturation, value, along the last dimension.
///
/// # Errors
/// [`KernelError`] when the input is not `float32` with three channels.
pub fn rgb_to_hsv(images: Tensor) -> Result<Tensor> {
    per_pixel(images, to_hsv)
}

/// Hue, saturation, value (0 to 1) to red, green, blue, along the last dimension.
///
/// # Errors
/// [`KernelError`] when the input is not `float32` with three channels.
pub fn hsv_to_rgb(images: Tensor) -> Result<Tensor> {
    per_pixel(images, to_rgb)
}

/// Turns the hue by `delta` (1 is a full turn).
///
/// # Errors
/// [`KernelError`] when the input is not `float32` with three channels.
pub fn adjust_hue(images: Tensor, delta: f32) -> Result<Tensor> {
    per_pixel(images, |pixel| {
        let [h, s, v] = to_hsv(pixel);
        let h = h + delta;
        to_rgb([h - h.floor(), s, v])
    })
}

/// Multiplies the saturation by `factor`, clamped to 0..1.
///
/// # Errors
/// [`KernelError`] when the input is not `float32` with three channels.
pub fn adjust_saturation(images: Tensor, factor: f32) -> Result<Tensor> {
    per_pixel(images, |pixel| {
        let [h, s, v] = to_hsv(pixel);
        to_rgb([h, (s * factor).clamp(0.0, 1.0), v])
    })
}

/// `(x - mean) · factor + mean`, the mean over height and width of each image and channel.
///
/// # Errors
/// [`KernelError`] when the input is not `float32` with at least three dimensions.
pub fn adjust_contrast(images: Tensor, factor: f32) -> Result<Tensor> {
    let mut t: TensorOf<f32> = images.into_typed("images")?;
    let Some(&[h, w, c]) = t.dims().last_chunk::<3>() else {
        return Err(KernelError::Rank {
            what: "images",
            got: t.shape(),
            expected: "at least three dimensions",
        });
    };
    let size = h * w * c;
    if t.is_empty() {
        return Ok(Tensor::F32(t));
    }
    for image in t.data_mut().chunks_exact_mut(size) {
        let mut means = vec![0f64; c];
        for pixel in image.chunks_exact(c) {
            means.iter_mut().zip(pixel).for_each(|(m, &v)| *m += f64::from(v));
        }
        let means: Vec<f32> = means.iter().map(|m| (m / (h * w) as f64) as f32).collect();
        for pixel in image.chunks_exact_mut(c) {
            pixel.iter_mut().zip(&means).for_each(|(v, m)| *v = (*v - m) * factor + m);
        }
    }
    Ok(Tensor::F32(t))
}
