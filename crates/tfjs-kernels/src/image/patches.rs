//! `ExtractImagePatches`.
use super::nhwc;
use crate::{KernelError, Result, Shape, Tensor, movement};

/// Cuts overlapping windows out of images and lays each out along the channels.
///
/// `sizes`, `strides` and `rates` are height and width of the window, its steps and its dilation; `same` pads
/// with zeros so that every step fits. The result is `[n, rows, columns, height · width · channels]`.
///
/// # Errors
/// [`KernelError`] when the images have not four dimensions or a size, stride or rate is 0.
pub fn extract_image_patches(
    images: &Tensor,
    sizes: [usize; 2],
    strides: [usize; 2],
    rates: [usize; 2],
    same: bool,
) -> Result<Tensor> {
    let [n, h, w, c] = nhwc(images)?;
    if sizes.iter().chain(&strides).chain(&rates).any(|&v| v == 0) {
        return Err(KernelError::Argument {
            what: "ksizes, strides and rates",
            got: format!("{sizes:?}, {strides:?}, {rates:?}"),
            expected: "positive sizes",
        });
    }
    let mut out_size = [0; 2];
    let mut pad = [0; 2];
    for (d, dim) in [h, w].into_iter().enumerate() {
        let window = (sizes[d] - 1)
            .checked_mul(rates[d])
            .and_then(|n| n.checked_add(1))
            .ok_or_else(|| KernelError::TooLarge { shape: format!("{sizes:?} x {rates:?}") })?;
        if same {
            out_size[d] = dim.div_ceil(strides[d]);
            pad[d] = ((out_size[d].saturating_sub(1)) * strides[d] + window).saturating_sub(dim) / 2;
        } else {
            out_size[d] = (dim + 1).saturating_sub(window).div_ceil(strides[d]);
        }
    }
    let [oh, ow] = out_size;
    let depth = sizes[0]
        .checked_mul(sizes[1])
        .and_then(|n| n.checked_mul(c))
        .ok_or_else(|| KernelError::TooLarge { shape: format!("{sizes:?} x {c}") })?;
    let shape = Shape::from([n, oh, ow, depth]);
    let len = shape.checked_len()?;
    crate::match_tensor!(images, t => {
        let src = t.data();
        let mut out = vec![Default::default(); len];
        if !out.is_empty() {
            movement::rows(&mut out, c, |first, lines| {
                for (i, line) in lines.chunks_exact_mut(c).enumerate() {
                    let at = first + i;
                    let (kx, ky) = (at % sizes[1], at / sizes[1] % sizes[0]);
                    let patch = at / (sizes[0] * sizes[1]);
                    let (x, y, image) = (patch % ow, patch / ow % oh, patch / (ow * oh));
                    let y = (y * strides[0] + ky * rates[0]).checked_sub(pad[0]).filter(|&y| y < h);
                    let x = (x * strides[1] + kx * rates[1]).checked_sub(pad[1]).filter(|&x| x < w);
                    if let (Some(y), Some(x)) = (y, x) {
                        movement::copy_block(line, &src[((image * h + y) * w + x) * c..][..c]);
                    }
                }
            });
        }
        Tensor::new(shape, out)
    })
}
