//! `CropAndResize`.
use super::{blank, floats, nhwc, resize::not_empty, target};
use crate::{KernelError, Result, Shape, Tensor, movement};

/// How a crop is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropMethod {
    /// Interpolate between four pixels.
    Bilinear,
    /// Take the nearest pixel.
    Nearest,
}

/// Cuts `boxes` (`y1, x1, y2, x2` as fractions of the image) out of images and resizes them to one size.
///
/// `boxes: [n, 4]`, `box_indices: [n]` (which image), result `[n, crop height, crop width, channels]`. Samples
/// outside the image are `extrapolation`.
///
/// # Errors
/// [`KernelError`] when shapes or types do not fit, a crop size is not positive, or a box index is not that of
/// an image.
pub fn crop_and_resize(
    images: &Tensor,
    boxes: &Tensor,
    box_indices: &Tensor,
    size: &[i32],
    method: CropMethod,
    extrapolation: f32,
) -> Result<Tensor> {
    let [n, h, w, c] = nhwc(images)?;
    let [oh, ow] = target(size)?;
    let boxes = boxes.typed::<f32>("boxes")?;
    let indices = box_indices.typed::<i32>("box_ind")?;
    let (&[count, 4], true) = (boxes.dims(), indices.dims().len() == 1) else {
        return Err(KernelError::Rank { what: "boxes", got: boxes.shape(), expected: "four values per box" });
    };
    if indices.len() != count {
        return Err(KernelError::Shapes {
            left: boxes.shape(),
            right: indices.shape(),
            why: "do not go together: there is one index per box",
        });
    }
    for &i in indices.data() {
        movement::index("box index", i, n)?;
    }
    let shape = Shape::from([count, oh, ow, c]);
    let mut out = blank(&shape)?;
    if out.is_empty() {
        return Tensor::from_buffer(shape, out);
    }
    not_empty(h, w, images)?;
    let src = floats("image", images)?;
    let (boxes, indices) = (boxes.data(), indices.data());
    movement::rows(&mut out, ow * c, |first, lines| {
        for (i, line) in lines.chunks_exact_mut(ow * c).enumerate() {
            let (b, y) = ((first + i) / oh, (first + i) % oh);
            let [y1, x1, y2, x2] = [0, 1, 2, 3].map(|k| boxes[b * 4 + k]);
            let Some(y) = crop_position(h, oh, y1, y2, y) else {
                line.fill(extrapolation);
                continue;
            };
            let image = &src[indices[b] as usize * h * w * c..][..h * w * c];
            let pixel_at = |y: usize, x: usize| &image[(y * w + x) * c..][..c];
            for (x, pixel) in line.chunks_exact_mut(c).enumerate() {
                let Some(x) = crop_position(w, ow, x1, x2, x) else {
                    pixel.fill(extrapolation);
                    continue;
                };
                if method == CropMethod::Nearest {
                    pixel.copy_from_slice(pixel_at(y.round() as usize, x.round() as usize));
                    continue;
                }
                let (top, bottom, left, right) = (y.floor(), y.ceil(), x.floor(), x.ceil());
                let (dy, dx) = (y - top, x - left);
                let top_row =
                    pixel_at(top as usize, left as usize).iter().zip(pixel_at(top as usize, right as usize));
                let bottom_row = pixel_at(bottom as usize, left as usize)
                    .iter()
                    .zip(pixel_at(bottom as usize, right as usize));
                for (o, ((tl, tr), (bl, br))) in pixel.iter_mut().zip(top_row.zip(bottom_row)) {
                    let top = tl + (tr - tl) * dx;
                    let bottom = bl + (br - bl) * dx;
                    *o = top + (bottom - top) * dy;
                }
            }
        }
    });
    Tensor::from_buffer(shape, out)
}

/// Where sample `at` of `to` between `low` and `high` lies in `from` pixels; `None` outside of them.
pub(crate) fn crop_position(from: usize, to: usize, low: f32, high: f32, at: usize) -> Option<f32> {
    let last = (from - 1) as f32;
    let position = if to > 1 {
        let scale = (high - low) * last / (to - 1) as f32;
        low * last + at as f32 * scale
    } else {
        0.5 * (low + high) * last
    };
    // NaN is outside too.
    (position >= 0.0 && position <= last).then_some(position)
}
