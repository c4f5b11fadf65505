//! Resizing, cropping, warping and recolouring images, `[batch, height, width, channels]`.
mod color;
mod crop;
mod patches;
mod project;
mod resize;
mod resize_area;
mod resize_bicubic;
#[cfg(test)]
mod tests;

pub use color::{adjust_contrast, adjust_hue, adjust_saturation, hsv_to_rgb, rgb_to_hsv};
pub(crate) use crop::crop_position;
pub use crop::{CropMethod, crop_and_resize};
pub use patches::extract_image_patches;
pub use project::{FillMode, Interpolation, project};
pub use resize::{Sampling, resize_bilinear, resize_nearest};
pub(crate) use resize::{bilinear_taps, nearest_index};
pub use resize_area::resize_area;
pub(crate) use resize_bicubic::bicubic_taps;
pub use resize_bicubic::resize_bicubic;

use crate::{KernelError, Result, Shape, Tensor, buffer::Buffer, pool};

/// Batch, height, width, channels of an image tensor.
fn nhwc(images: &Tensor) -> Result<[usize; 4]> {
    match *images.dims() {
        [n, h, w, c] => Ok([n, h, w, c]),
        _ => Err(KernelError::Rank { what: "images", got: images.shape(), expected: "four dimensions" }),
    }
}

/// The numbers of an image as `f32`.
fn floats<'a>(what: &'static str, images: &'a Tensor) -> Result<std::borrow::Cow<'a, [f32]>> {
    match images {
        Tensor::F32(t) => Ok(t.data().into()),
        Tensor::I32(t) => Ok(t.data().iter().map(|&v| v as f32).collect::<Vec<_>>().into()),
        other => Err(KernelError::DType { what, got: other.dtype(), expected: "float32 or int32" }),
    }
}

/// Height and width of a result, `size: [2]`, both positive.
fn target(size: &[i32]) -> Result<[usize; 2]> {
    match *size {
        [h, w] if h > 0 && w > 0 => Ok([h as usize, w as usize]),
        _ => Err(KernelError::Argument {
            what: "size",
            got: format!("{size:?}"),
            expected: "two positive sizes",
        }),
    }
}

/// Zeros of `shape`, checked for size.
fn blank(shape: &Shape) -> Result<Buffer<f32>> {
    Ok(pool::zeros(shape.checked_len()?))
}
