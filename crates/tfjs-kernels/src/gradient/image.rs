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

/// Gradient of [`crate::image::crop_and_resize`] with bilinear sampling by the boxes, `[n, 4]`.
///
/// # Errors
/// Those of [`crop_and_resize_grad`].
pub fn crop_and_resize_grad_boxes(
    dy: &Tensor,
    images: &Tensor,
    boxes: &Tensor,
    box_indices: &Tensor,
) -> Result<Tensor> {
    let [count, oh, ow, c] = nhwc(dy)?;
    let [n, h, w, channels] = nhwc(images)?;
    let (boxes, indices) = (boxes.typed::<f32>("boxes")?, box_indices.typed::<i32>("box_ind")?);
    if boxes.dims() != [count, 4] || indices.dims() != [count] || channels != c {
        let why = "do not go together: there is one box and one index per crop";
        return Err(KernelError::Shapes { left: dy.shape(), right: boxes.shape(), why });
    }
    let (g, src) = (dy.typed::<f32>("the gradients")?.data(), images.typed::<f32>("image")?.data());
    let mut out = vec![0.0f32; count * 4];
    if g.is_empty() {
        return Tensor::new([count, 4], out);
    }
    not_empty([h, w])?;
    // How the position of sample `at` moves with both ends of the box.
    let ends = |from: usize, to: usize, at: usize| {
        let last = (from - 1) as f32;
        let high = if to > 1 { last * at as f32 / (to - 1) as f32 } else { last * 0.5 };
        [last - high, high]
    };
    let all = boxes.data().chunks_exact(4).zip(indices.data()).zip(out.chunks_exact_mut(4));
    for (b, ((corners, &index), out)) in all.enumerate() {
        let image = &src[crate::movement::index("box index", index, n)? * h * w * c..][..h * w * c];
        let pixel_at = |y: f32, x: f32| &image[(y as usize * w + x as usize) * c..][..c];
        for y in 0..oh {
            let Some(py) = crop_position(h, oh, corners[0], corners[2], y) else { continue };
            for x in 0..ow {
                let Some(px) = crop_position(w, ow, corners[1], corners[3], x) else { continue };
                let (ty, by, lx, rx) = (py.floor(), py.ceil(), px.floor(), px.ceil());
                let (fy, fx) = (py - ty, px - lx);
                let (tl, tr) = (pixel_at(ty, lx), pixel_at(ty, rx));
                let (bl, br) = (pixel_at(by, lx), pixel_at(by, rx));
                let g = &g[((b * oh + y) * ow + x) * c..][..c];
                let (mut sy, mut sx) = (0.0, 0.0);
                for k in 0..c {
                    sy += g[k] * ((bl[k] - tl[k]) * (1.0 - fx) + (br[k] - tr[k]) * fx);
                    sx += g[k] * ((tr[k] - tl[k]) * (1.0 - fy) + (br[k] - bl[k]) * fy);
                }
                let ([y1, y2], [x1, x2]) = (ends(h, oh, y), ends(w, ow, x));
                for (out, v) in out.iter_mut().zip([sy * y1, sx * x1, sy * y2, sx * x2]) {
                    *out += v;
                }
            }
        }
    }
    Tensor::new([count, 4], out)
}
