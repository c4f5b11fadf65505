//! Gradients of resizing and cropping: each pixel of the result hands its gradient to the pixels it was made of.
use crate::{
    KernelError, Result, Shape, Tensor,
    image::{CropMethod, Sampling, bicubic_taps, bilinear_taps, crop_position, nearest_index},
    par,
};

/// Pixels of the image and their weights, for one row or column of the result.
type Taps = Vec<(usize, f32)>;

fn nhwc(t: &Tensor) -> Result<[usize; 4]> {
    match *t.dims() {
        [n, h, w, c] => Ok([n, h, w, c]),
        _ => Err(KernelError::Rank { what: "the gradients", got: t.shape(), expected: "four dimensions" }),
    }
}

fn separable(dy: &Tensor, size: [usize; 2], ys: &[Taps], xs: &[Taps]) -> Result<Tensor> {
    let [n, oh, ow, c] = nhwc(dy)?;
    let g = dy.typed::<f32>("the gradients")?.data();
    let [h, w] = size;
    let shape = Shape::from([n, h, w, c]);
    let mut out = vec![0.0f32; shape.checked_len()?];
    if !out.is_empty() && !g.is_empty() {
        par::for_each_chunk(&mut out, h * w * c, |start, image| {
            let g = &g[start / (h * w * c) * oh * ow * c..][..oh * ow * c];
            for (y, rows) in ys.iter().enumerate() {
                for (x, cols) in xs.iter().enumerate() {
                    let pixel = &g[(y * ow + x) * c..][..c];
                    for &(iy, wy) in rows {
                        for &(ix, wx) in cols {
                            let to = &mut image[(iy * w + ix) * c..][..c];
                            for (to, g) in to.iter_mut().zip(pixel) {
                                *to += wy * wx * g;
                            }
                        }
                    }
                }
            }
        });
    }
    Tensor::new(shape, out)
}

fn not_empty(size: [usize; 2]) -> Result<()> {
    if size.contains(&0) {
        let got = format!("{size:?}");
        return Err(KernelError::Argument {
            what: "the size of the images",
            got,
            expected: "at least one pixel",
        });
    }
    Ok(())
}

/// Gradient of [`crate::image::resize_bilinear`] by images of `size: [height, width]`.
///
/// # Errors
/// When `dy` is not a `float32` tensor of four dimensions, or a size is zero.
pub fn resize_bilinear_grad(dy: &Tensor, size: [usize; 2], sampling: Sampling) -> Result<Tensor> {
    let [_, oh, ow, _] = nhwc(dy)?;
    not_empty(size)?;
    separable(dy, size, &bilinear_taps(size[0], oh, sampling), &bilinear_taps(size[1], ow, sampling))
}

/// Gradient of [`crate::image::resize_bicubic`] by images of `size: [height, width]`.
///
/// # Errors
/// Those of [`resize_bilinear_grad`].
pub fn resize_bicubic_grad(dy: &Tensor, size: [usize; 2], sampling: Sampling) -> Result<Tensor> {
    let [_, oh, ow, _] = nhwc(dy)?;
    not_empty(size)?;
    separable(dy, size, &bicubic_taps(size[0], oh, sampling), &bicubic_taps(size[1], ow, sampling))
}

/// Gradient of [`crate::image::resize_nearest`] by images of `size: [height, width]`.
///
/// # Errors
/// Those of [`resize_bilinear_grad`].
pub fn resize_nearest_grad(dy: &Tensor, size: [usize; 2], sampling: Sampling) -> Result<Tensor> {
    let [_, oh, ow, _] = nhwc(dy)?;
    not_empty(size)?;
    let taps = |from: usize, to: usize| -> Vec<Taps> {
        (0..to).map(|i| vec![(nearest_index(i, from, to, sampling), 1.0)]).collect()
    };
    separable(dy, size, &taps(size[0], oh), &taps(size[1], ow))
}

/// Gradient of [`crate::image::crop_and_resize`] by images of this shape.
///
/// # Errors
/// When shapes or types do not fit, or a box index is not that of an image.
pub fn crop_and_resize_grad(
    dy: &Tensor,
    boxes: &Tensor,
    box_indices: &Tensor,
    shape: [usize; 4],
    method: CropMethod,
) -> Result<Tensor> {
    let [count, oh, ow, c] = nhwc(dy)?;
    let [n, h, w, channels] = shape;
    let (boxes, indices) = (boxes.typed::<f32>("boxes")?, box_indices.typed::<i32>("box_ind")?);
    if boxes.dims() != [count, 4] || indices.dims() != [count] || channels != c {
        let why = "do not go together: there is one box and one index per crop";
        return Err(KernelError::Shapes { left: dy.shape(), right: boxes.shape(), why });
    }
    let g = dy.typed::<f32>("the gradients")?.data();
    let shape = Shape::from(shape);
    let mut out = vec![0.0f32; shape.checked_len()?];
    if g.is_empty() {
        return Tensor::new(shape, out);
    }
    not_empty([h, w])?;
    let taps = |from: usize, to: usize, low: f32, high: f32, at: usize| -> Taps {
        match crop_position(from, to, low, high, at) {
            None => Vec::new(),
            Some(p) if method == CropMethod::Nearest => vec![(p.round() as usize, 1.0)],
            Some(p) => {
                let weight = p - p.floor();
                vec![(p.floor() as usize, 1.0 - weight), (p.ceil() as usize, weight)]
            }
        }
    };
    for (b, (corners, &index)) in boxes.data().chunks_exact(4).zip(indices.data()).enumerate() {
        let image = crate::movement::index("box index", index, n)?;
        let out = &mut out[image * h * w * c..][..h * w * c];
        for y in 0..oh {
            let rows = taps(h, oh, corners[0], corners[2], y);
            for x in 0..ow {
                let pixel = &g[((b * oh + y) * ow + x) * c..][..c];
                for (ix, wx) in taps(w, ow, corners[1], corners[3], x) {
                    for &(iy, wy) in &rows {
                        for (to, g) in out[(iy * w + ix) * c..][..c].iter_mut().zip(pixel) {
                            *to += wy * wx * g;
                        }
                    }
                }
            }
        }
    }
    Tensor::new(shape, out)
}
