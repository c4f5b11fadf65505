//! `ImageProjectiveTransformV2`, `V3`.
use super::{nhwc, target};
use crate::{Element, KernelError, Result, Shape, Tensor, TensorOf, movement};

/// How a pixel is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Take the nearest pixel.
    Nearest,
    /// Interpolate between four pixels.
    Bilinear,
}

/// What lies outside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillMode {
    /// The fill value.
    Constant,
    /// The image mirrored at its edges.
    Reflect,
    /// The image again.
    Wrap,
    /// The nearest edge pixel.
    Nearest,
}

/// Source coordinate inside an axis of `len` pixels, for the modes that extend the image.
fn map(mode: FillMode, at: f32, len: usize) -> f32 {
    let (n, last) = (len as f32, len as f32 - 1.0);
    // Whole turns, truncated as TensorFlow's cast to an integer does.
    let turns = |x: f32, period: f32| (x / period).trunc();
    let inside = match mode {
        FillMode::Constant => return at,
        FillMode::Nearest => at,
        FillMode::Reflect if at < 0.0 => {
            if len <= 1 {
                0.0
            } else {
                let period = 2.0 * n;
                let x = if at < period { period * turns(-at, period) + at } else { at };
                if x < -n { x + period } else { -x - 1.0 }
            }
        }
        FillMode::Reflect if at > last => {
            if len <= 1 {
                0.0
            } else {
                let period = 2.0 * n;
                let x = at - period * turns(at, period);
                if x >= n { period - x - 1.0 } else { x }
            }
        }
        FillMode::Wrap if at < 0.0 => {
            if len <= 1 {
                0.0
            } else {
                at + n * (turns(-at, last) + 1.0)
            }
        }
        FillMode::Wrap if at > last => {
            if len <= 1 {
                0.0
            } else {
                at - n * turns(at, last)
            }
        }
        FillMode::Reflect | FillMode::Wrap => at,
    };
    // As C++'s nested min and max: NaN becomes 0.
    inside.max(0.0).min(last)
}

/// Pixel types of [`project`].
trait Pixel: Element + Copy {
    fn float(self) -> f32;
    fn from_float(x: f32) -> Self;
}

impl Pixel for f32 {
    fn float(self) -> f32 {
        self
    }
    fn from_float(x: f32) -> f32 {
        x
    }
}

impl Pixel for i32 {
    fn float(self) -> f32 {
        self as f32
    }
    fn from_float(x: f32) -> i32 {
        x as i32
    }
}

/// Warps images by projective transforms.
///
/// `transforms: [n or 1, 8]` with rows `a0 a1 a2 b0 b1 b2 c0 c1`: the result at `(x, y)` is the image at
/// `((a0·x + a1·y + a2) / k, (b0·x + b1·y + b2) / k)`, `k = c0·x + c1·y + 1`. `size` is the height and width of
/// the result, by default those of the image.
///
/// # Errors
/// [`KernelError`] when shapes or types do not fit, or a size is not positive.
pub fn project(
    images: &Tensor,
    transforms: &Tensor,
    size: Option<&[i32]>,
    interpolation: Interpolation,
    mode: FillMode,
    fill: f32,
) -> Result<Tensor> {
    let [n, h, w, _] = nhwc(images)?;
    let transforms = transforms.typed::<f32>("transforms")?;
    let single = match *transforms.dims() {
        [1, 8] => true,
        [rows, 8] if rows == n => false,
        _ => {
            return Err(KernelError::Rank {
                what: "transforms",
                got: transforms.shape(),
                expected: "eight values, once or per image",
            });
        }
    };
    let size = match size {
        Some(size) => target(size)?,
        None => [h, w],
    };
    let warp = Warp { transforms: transforms.data(), single, size, interpolation, mode, fill };
    match images {
        Tensor::F32(t) => warp.run(t),
        Tensor::I32(t) => warp.run(t),
        other => Err(KernelError::DType { what: "images", got: other.dtype(), expected: "float32 or int32" }),
    }
}

struct Warp<'a> {
    transforms: &'a [f32],
    single: bool,
    size: [usize; 2],
    interpolation: Interpolation,
    mode: FillMode,
    fill: f32,
}

impl Warp<'_> {
    fn run<T: Pixel>(&self, images: &TensorOf<T>) -> Result<Tensor> {
        let &[n, h, w, c] = images.dims() else {
            return Err(KernelError::Rank {
                what: "images",
                got: images.shape(),
                expected: "four dimensions",
            });
        };
        let [oh, ow] = self.size;
        let shape = Shape::from([n, oh, ow, c]);
        let mut out = vec![T::default(); shape.checked_len()?];
        let src = images.data();
        movement::rows(&mut out, ow * c, |first, lines| {
            for (i, line) in lines.chunks_exact_mut(ow * c).enumerate() {
                let (image, y) = ((first + i) / oh, ((first + i) % oh) as f32);
                let t = &self.transforms[if self.single { 0 } else { image * 8 }..][..8];
                let data = &src[image * h * w * c..][..h * w * c];
                for (x, pixel) in line.chunks_exact_mut(c).enumerate() {
                    let x = x as f32;
                    let k = t[6] * x + t[7] * y + 1.0;
                    if k == 0.0 {
                        pixel.fill(T::from_float(self.fill));
                        continue;
                    }
                    let at_x = map(self.mode, (t[0] * x + t[1] * y + t[2]) / k, w);
                    let at_y = map(self.mode, (t[3] * x + t[4] * y + t[5]) / k, h);
                    self.sample(data, [h, w, c], at_y, at_x, pixel);
                }
            }
        });
        Tensor::new(shape, out)
    }

    fn sample<T: Pixel>(&self, data: &[T], [h, w, c]: [usize; 3], y: f32, x: f32, pixel: &mut [T]) {
        // Position of a pixel, `None` outside the image (NaN included).
        let offset = |y: f32, x: f32| {
            (y >= 0.0 && y < h as f32 && x >= 0.0 && x < w as f32).then(|| (y as usize * w + x as usize) * c)
        };
        if self.interpolation == Interpolation::Nearest {
            match offset(y.round(), x.round()) {
                Some(at) => pixel.copy_from_slice(&data[at..][..c]),
                None => pixel.fill(T::from_float(self.fill)),
            }
            return;
        }
        let (y0, x0) = (y.floor(), x.floor());
        let (y1, x1) = (y0 + 1.0, x0 + 1.0);
        let corners = [offset(y0, x0), offset(y0, x1), offset(y1, x0), offset(y1, x1)];
        for (channel, o) in pixel.iter_mut().enumerate() {
            let [tl, tr, bl, br] = corners.map(|at| at.map_or(self.fill, |at| data[at + channel].float()));
            let top = (x1 - x) * tl + (x - x0) * tr;
            let bottom = (x1 - x) * bl + (x - x0) * br;
            *o = T::from_float((y1 - y) * top + (y - y0) * bottom);
        }
    }
}
