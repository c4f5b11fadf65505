//! `ResizeArea`.
use super::{blank, floats, nhwc, resize::not_empty, target};
use crate::{Result, Shape, Tensor, image::Sampling, movement};

/// The source pixels under one pixel of the result, with their shares of it.
fn cover(at: usize, scale: f32, from: usize) -> Vec<(usize, f32)> {
    let start = at as f32 * scale;
    let end = (at + 1) as f32 * scale;
    let (first, last) = (start.floor() as i64, end.ceil() as i64);
    (first..last)
        .map(|i| {
            let (low, high) = (i as f32, (i + 1) as f32);
            let share = if low < start {
                if high > end { scale } else { high - start }
            } else if high > end {
                end - low
            } else {
                1.0
            };
            ((i.max(0) as usize).min(from - 1), share)
        })
        .collect()
}

/// Resizes by averaging the area that each pixel of the result covers; the result is `float32`.
///
/// # Errors
/// [`crate::KernelError`] when the images are not numbers in four dimensions, a size is not positive, or the
/// image is empty.
pub fn resize_area(images: &Tensor, size: &[i32], align_corners: bool) -> Result<Tensor> {
    let [n, h, w, c] = nhwc(images)?;
    let [oh, ow] = target(size)?;
    not_empty(h, w, images)?;
    let shape = Shape::from([n, oh, ow, c]);
    let mut out = blank(&shape)?;
    let sampling = Sampling { align_corners, half_pixel_centers: false };
    let (y_scale, x_scale) = (sampling.scale(h, oh), sampling.scale(w, ow));
    let xs: Vec<_> = (0..ow).map(|x| cover(x, x_scale, w)).collect();
    let ys: Vec<_> = (0..oh).map(|y| cover(y, y_scale, h)).collect();
    let share = 1.0 / (y_scale * x_scale);
    let src = floats("images", images)?;
    movement::rows(&mut out, ow * c, |first, lines| {
        for (i, line) in lines.chunks_exact_mut(ow * c).enumerate() {
            let (image, y) = ((first + i) / oh, (first + i) % oh);
            for (pixel, xs) in line.chunks_exact_mut(c).zip(&xs) {
                for (channel, o) in pixel.iter_mut().enumerate() {
                    let mut sum = 0.0;
                    for &(y, y_share) in &ys[y] {
                        let row = &src[(image * h + y) * w * c..][..w * c];
                        let across: f32 = xs.iter().map(|&(x, s)| row[x * c + channel] * s).sum();
                        sum += across * y_share;
                    }
                    *o = sum * share;
                }
            }
        }
    });
    Tensor::from_buffer(shape, out)
}
