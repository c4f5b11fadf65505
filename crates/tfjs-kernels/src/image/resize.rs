//! `ResizeBilinear`, `ResizeNearestNeighbor`.
use super::{blank, floats, nhwc, target};
use crate::{
    KernelError, Result, Shape, Tensor,
    movement::{self, Axis, Run},
};

/// How pixels of the result correspond to pixels of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// The centres of the corner pixels coincide.
    pub align_corners: bool,
    /// Pixels have their centres at half coordinates.
    pub half_pixel_centers: bool,
}

impl Sampling {
    /// Source step per pixel of the result, in the precision TensorFlow computes it.
    pub(super) fn scale(self, from: usize, to: usize) -> f32 {
        if self.align_corners && to > 1 {
            (from as f32 - 1.0) / (to as f32 - 1.0)
        } else {
            from as f32 / to as f32
        }
    }

    pub(super) fn check(self) -> Result<()> {
        if self.align_corners && self.half_pixel_centers {
            return Err(KernelError::Argument {
                what: "half_pixel_centers",
                got: "true".into(),
                expected: "false when align_corners is true",
            });
        }
        Ok(())
    }
}

/// Two source indices and the weight of the second.
#[derive(Clone, Copy)]
struct Lerp {
    lower: usize,
    upper: usize,
    weight: f32,
}

fn lerps(from: usize, to: usize, sampling: Sampling) -> Vec<Lerp> {
    let scale = sampling.scale(from, to);
    (0..to)
        .map(|i| {
            let at =
                if sampling.half_pixel_centers { (i as f32 + 0.5) * scale - 0.5 } else { i as f32 * scale };
            let floor = at.floor();
            Lerp {
                lower: floor.max(0.0) as usize,
                upper: (at.ceil().max(0.0) as usize).min(from - 1),
                weight: at - floor,
            }
        })
        .map(|l| Lerp { lower: l.lower.min(from - 1), ..l })
        .collect()
}

/// For each pixel of the result the pixels that it is made of, with their weights.
pub(crate) fn bilinear_taps(from: usize, to: usize, sampling: Sampling) -> Vec<Vec<(usize, f32)>> {
    lerps(from, to, sampling)
        .into_iter()
        .map(|l| vec![(l.lower, 1.0 - l.weight), (l.upper, l.weight)])
        .collect()
}

/// Resizes by bilinear interpolation; the result is `float32`.
///
/// # Errors
/// [`KernelError`] when the images are not numbers in four dimensions, a size is not positive, the image is
/// empty, or both sampling flags are set.
pub fn resize_bilinear(images: Tensor, size: &[i32], sampling: Sampling) -> Result<Tensor> {
    let [n, h, w, c] = nhwc(&images)?;
    let [oh, ow] = target(size)?;
    sampling.check()?;
    let shape = Shape::from([n, oh, ow, c]);
    not_empty(h, w, &images)?;
    let src = floats("images", &images)?;
    if (h, w) == (oh, ow) {
        return match &images {
            Tensor::F32(_) => Ok(images),
            _ => Tensor::new(shape, src.into_owned()),
        };
    }
    let mut out = blank(&shape)?;
    let (ys, xs) = (lerps(h, oh, sampling), lerps(w, ow, sampling));
    let row = w * c;
    movement::rows(&mut out, ow * c, |first, lines| {
        for (i, line) in lines.chunks_exact_mut(ow * c).enumerate() {
            let (image, y) = ((first + i) / oh, ys[(first + i) % oh]);
            let top = &src[(image * h + y.lower) * row..][..row];
            let bottom = &src[(image * h + y.upper) * row..][..row];
            for (pixel, x) in line.chunks_exact_mut(c).zip(&xs) {
                let (l, r) = (x.lower * c, x.upper * c);
                let corners = top[l..l + c]
                    .iter()
                    .zip(&top[r..r + c])
                    .zip(bottom[l..l + c].iter().zip(&bottom[r..r + c]));
                for (o, ((tl, tr), (bl, br))) in pixel.iter_mut().zip(corners) {
                    let top = tl + (tr - tl) * x.weight;
                    let bottom = bl + (br - bl) * x.weight;
                    *o = top + (bottom - top) * y.weight;
                }
            }
        }
    });
    Tensor::from_buffer(shape, out)
}

/// Resizes by taking the nearest pixel; keeps the element type.
///
/// # Errors
/// As [`resize_bilinear`], but for any element type.
pub fn resize_nearest(images: Tensor, size: &[i32], sampling: Sampling) -> Result<Tensor> {
    let [n, h, w, c] = nhwc(&images)?;
    let [oh, ow] = target(size)?;
    sampling.check()?;
    not_empty(h, w, &images)?;
    let axes = [Axis::whole(n), nearest(h, oh, sampling), nearest(w, ow, sampling), Axis::whole(c)];
    let shape = movement::gathered_shape(&axes)?;
    let dims = images.shape();
    crate::match_tensor!(&images, t => Tensor::from_buffer(shape, movement::gather(t.data(), &dims, &axes, &Default::default())))
}

fn nearest(from: usize, to: usize, sampling: Sampling) -> Axis {
    let run = |i| Run::Copy { start: nearest_index(i, from, to, sampling), step: 1, len: 1 };
    Axis::from_runs((0..to).map(run))
}

/// The pixel that pixel `i` of the result is.
pub(crate) fn nearest_index(i: usize, from: usize, to: usize, sampling: Sampling) -> usize {
    let scale = sampling.scale(from, to);
    let at = if sampling.half_pixel_centers { (i as f32 + 0.5) * scale } else { i as f32 * scale };
    let at = if sampling.align_corners { at.round() } else { at.floor() };
    (at.max(0.0) as usize).min(from - 1)
}

pub(super) fn not_empty(h: usize, w: usize, images: &Tensor) -> Result<()> {
    if h == 0 || w == 0 {
        return Err(KernelError::Rank {
            what: "images",
            got: images.shape(),
            expected: "at least one pixel",
        });
    }
    Ok(())
}
