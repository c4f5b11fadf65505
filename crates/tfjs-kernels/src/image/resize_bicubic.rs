//! `ResizeBicubic`.
use super::{blank, floats, nhwc, resize::not_empty, target};
use crate::{Result, Shape, Tensor, image::Sampling, movement};

/// Steps into which TensorFlow rounds the position between two pixels.
const TABLE: i64 = 1 << 10;

/// Keys' cubic convolution at distance `x` (0..1) from the inner and 1 + `x` from the outer pixel.
fn cubic(a: f64, x: f32) -> (f32, f32) {
    let x = f64::from(x);
    let inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let x = x + 1.0;
    let outer = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    (inner as f32, outer as f32)
}

struct Taps {
    index: [usize; 4],
    weight: [f32; 4],
}

fn taps(at: usize, from: usize, scale: f32, sampling: Sampling) -> Taps {
    let centred = sampling.half_pixel_centers;
    let position = if centred { (at as f32 + 0.5) * scale - 0.5 } else { at as f32 * scale };
    let floor = position.floor();
    let step = ((position - floor) * TABLE as f32).round_ties_even() as i64;
    let a = if centred { -0.5 } else { -0.75 };
    let (w1, w0) = cubic(a, step as f32 / TABLE as f32);
    let (w2, w3) = cubic(a, (TABLE - step) as f32 / TABLE as f32);
    let mut weight = [w0, w1, w2, w3];
    let base = floor as i64;
    let max = from as i64 - 1;
    let index = [base - 1, base, base + 1, base + 2].map(|i| i.clamp(0, max) as usize);
    if centred {
        // Pixels outside the image have no weight; the others share it.
        for (w, i) in weight.iter_mut().zip([base - 1, base, base + 1, base + 2]) {
            if !(0..=max).contains(&i) {
                *w = 0.0;
            }
        }
        let sum: f32 = weight.iter().sum();
        if sum.abs() >= 1000.0 * f32::MIN_POSITIVE {
            weight.iter_mut().for_each(|w| *w *= 1.0 / sum);
        }
    }
    Taps { index, weight }
}

/// For each pixel of the result the pixels that it is made of, with their weights.
pub(crate) fn bicubic_taps(from: usize, to: usize, sampling: Sampling) -> Vec<Vec<(usize, f32)>> {
    let scale = sampling.scale(from, to);
    (0..to)
        .map(|i| {
            let taps = taps(i, from, scale, sampling);
            taps.index.into_iter().zip(taps.weight).collect()
        })
        .collect()
}

/// Resizes by cubic convolution; the result is `float32`.
///
/// # Errors
/// As [`super::resize_bilinear`].
pub fn resize_bicubic(images: &Tensor, size: &[i32], sampling: Sampling) -> Result<Tensor> {
    let [n, h, w, c] = nhwc(images)?;
    let [oh, ow] = target(size)?;
    sampling.check()?;
    not_empty(h, w, images)?;
    let shape = Shape::from([n, oh, ow, c]);
    let src = floats("images", images)?;
    let mut out = blank(&shape)?;
    let (y_scale, x_scale) = (sampling.scale(h, oh), sampling.scale(w, ow));
    let ys: Vec<Taps> = (0..oh).map(|y| taps(y, h, y_scale, sampling)).collect();
    let xs: Vec<Taps> = (0..ow).map(|x| taps(x, w, x_scale, sampling)).collect();
    let row = w * c;
    movement::rows(&mut out, ow * c, |first, lines| {
        for (i, line) in lines.chunks_exact_mut(ow * c).enumerate() {
            let (image, y) = ((first + i) / oh, &ys[(first + i) % oh]);
            let rows = y.index.map(|y| &src[(image * h + y) * row..][..row]);
            for (pixel, x) in line.chunks_exact_mut(c).zip(&xs) {
                for (channel, o) in pixel.iter_mut().enumerate() {
                    // Down each of the four columns first, then across.
                    let column =
                        |x: usize| -> f32 { (0..4).map(|k| rows[k][x * c + channel] * y.weight[k]).sum() };
                    *o = (0..4).map(|k| column(x.index[k]) * x.weight[k]).sum();
                }
            }
        }
    });
    Tensor::from_buffer(shape, out)
}
