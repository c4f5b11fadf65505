//! What augmentation layers do in training: every image is changed by numbers of its own.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::{Length, Method, Size, Span, colors::Colors, cut, frame, on_images, resample};
use crate::{Config, Dialect, Emit, LayersError, emit::Dim, layers::regularization::seed};

pub(super) type Result<T> = std::result::Result<T, LayersError>;

/// A random change of images.
#[derive(Debug)]
pub(super) struct Augment {
    change: Change,
    channels_last: bool,
    seed: Option<i64>,
}

/// From, to.
pub(super) type Range = [f32; 2];

#[derive(Debug)]
enum Change {
    Flip {
        horizontal: bool,
        vertical: bool,
    },
    /// `x + delta`, within a range.
    Brightness {
        delta: Range,
        values: Range,
    },
    /// `(x − mean) · factor + mean`, within a range.
    Contrast {
        factor: Range,
        values: Range,
    },
    Colors(Colors),
    /// A part of this size, at the same place in all images.
    Crop([usize; 2]),
    /// Another height and width, by factors for all images.
    Resize([Option<Range>; 2], Method),
    /// Takes each point from another place.
    Warp {
        warp: Warp,
        interpolation: String,
        fill_mode: String,
        fill_value: f32,
    },
}

/// Ranges of fractions: of a turn, of the height, of the width.
#[derive(Debug)]
enum Warp {
    Rotation(Range),
    Zoom(Range, Option<Range>),
    Translation(Range, Range),
    /// Along x and y, both to the one side or the other.
    Shear(Range, Range),
}

impl Augment {
    /// The change that a layer of this class makes, if it can be made here.
    pub(super) fn new(c: &Config<'_>, class: &str) -> Result<Option<Augment>> {
        let around = |key: &str| match c.opt_floats(key)?.as_deref() {
            Some(&[one]) => Ok([-one.abs() as f32, one.abs() as f32]),
            Some(&[a, b]) => Ok([a.min(b) as f32, a.max(b) as f32]),
            _ => Err(c.wrong(key, "a number or two")),
        };
        let values = || match c.opt_floats("value_range")?.as_deref() {
            None => Ok([0.0, 255.0]),
            Some(&[a, b]) => Ok([a.min(b) as f32, a.max(b) as f32]),
            Some(_) => Err(c.wrong("value_range", "two numbers")),
        };
        let warped = |warp: Warp| -> Result<Change> {
            let words = ["reflect", "constant", "wrap", "nearest"];
            let fill_mode = c.one_of("fill_mode", &words, "reflect")?.to_uppercase();
            let interpolation = c.one_of("interpolation", &["nearest", "bilinear"], "bilinear")?;
            let interpolation = interpolation.to_uppercase();
            Ok(Change::Warp { warp, interpolation, fill_mode, fill_value: c.f32_or("fill_value", 0.0)? })
        };
        let change = match class {
            "RandomFlip" => {
                let words = ["horizontal_and_vertical", "horizontal", "vertical"];
                let mode = c.one_of("mode", &words, "horizontal_and_vertical")?;
                Change::Flip { horizontal: mode != "vertical", vertical: mode != "horizontal" }
            }
            "RandomBrightness" => {
                let ([low, high], values) = (around("factor")?, values()?);
                let width = values[1] - values[0];
                Change::Brightness { delta: [low * width, high * width], values }
            }
            "RandomContrast" => {
                let [low, high] = around("factor")?;
                // From one number Keras 3 takes the upper side only.
                let low = match (c.dialect, low < 0.0) {
                    (Dialect::Keras3, true) => 0.0,
                    (_, true) => -low,
                    (_, false) => low,
                };
                let values = if c.dialect == Dialect::Keras3 { values()? } else { [0.0, 255.0] };
                Change::Contrast { factor: [1.0 - low, 1.0 + high], values }
            }
            "RandomRotation" => warped(Warp::Rotation(around("factor")?))?,
            "RandomZoom" => {
                let width = c.get("width_factor").map(|_| around("width_factor")).transpose()?;
                warped(Warp::Zoom(around("height_factor")?, width))?
            }
            "RandomTranslation" => {
                warped(Warp::Translation(around("height_factor")?, around("width_factor")?))?
            }
            "RandomShear" => warped(Warp::Shear(around("x_factor")?, around("y_factor")?))?,
            "RandomCrop" => Change::Crop([c.usize("height")?, c.usize("width")?]),
            "RandomHeight" | "RandomWidth" => {
                let factors = [class == "RandomHeight", class == "RandomWidth"];
                let factor = around("factor")?;
                let method = resample::method(c, "bilinear")?;
                if !matches!(method, Method::Bilinear | Method::Nearest) {
                    return Ok(None);
                }
                Change::Resize(factors.map(|this| this.then_some(factor)), method)
            }
            _ => match Colors::new(c, class)? {
                Some(colors) => Change::Colors(colors),
                None => return Ok(None),
            },
        };
        Ok(Some(Augment { change, channels_last: c.channels_last()?, seed: seed(c) }))
    }

    /// Changes a batch of images, as float32.
    pub(super) fn emit(&self, g: &mut Emit, x: Port) -> Result<Port> {
        on_images(g, x, self.channels_last, |g, x| {
            let x = g.cast(x, DType::Float32)?;
            match &self.change {
                Change::Flip { horizontal, vertical } => self.flip(g, x, *horizontal, *vertical),
                Change::Brightness { delta, values } => {
                    let batch = g.dim(x, 0)?;
                    let delta = self.draw(g, batch, 4, *delta)?;
                    let y = g.add(x, delta)?;
                    crate::activations::clip(g, y, values[0], values[1])
                }
                Change::Contrast { factor, values } => {
                    // One factor for the whole batch in Keras 2.
                    let of = if g.dialect == Dialect::Keras3 { g.dim(x, 0)? } else { Dim::Known(1) };
                    let factor = self.draw(g, of, 4, *factor)?;
                    let mean = g.reduce("Mean", x, &[1, 2], true)?;
                    let centred = g.sub(x, mean)?;
                    let stretched = g.mul(centred, factor)?;
                    let y = g.add(stretched, mean)?;
                    crate::activations::clip(g, y, values[0], values[1])
                }
                Change::Colors(colors) => colors.emit(g, x, self.seed),
                Change::Crop(size) => self.crop(g, x, *size),
                Change::Resize(factors, method) => {
                    let shape = g.shape(x)?;
                    let mut sizes = [Size::Times(1); 2];
                    for (i, factor) in factors.iter().enumerate() {
                        let Some([low, high]) = factor else { continue };
                        let dim = g.dim(x, i + 1)?;
                        let size = g.dim_value(dim)?;
                        let size = g.cast(size, DType::Float32)?;
                        let drawn = self.draw(g, Dim::Known(1), 1, [1.0 + low, 1.0 + high])?;
                        let drawn = g.reshape(drawn, &[])?;
                        let size = g.mul(drawn, size)?;
                        sizes[i] = Size::At(g.cast(size, DType::Int32)?);
                    }
                    let y = resample::resize(g, x, sizes, *method, false)?;
                    let known = |i: usize| shape[i + 1].filter(|_| factors[i].is_none());
                    g.set_shape(y, &[shape[0], known(0), known(1), shape[3]]);
                    Ok(y)
                }
                Change::Warp { warp, interpolation, fill_mode, fill_value } => {
                    let transforms = self.transforms(g, x, warp)?;
                    let (height, width) = (g.dim(x, 1)?, g.dim(x, 2)?);
                    let size = g.shape_value(&[height, width])?;
                    let fill = g.scalar(*fill_value);
                    let attrs =
                        [("interpolation", attr::text(interpolation)), ("fill_mode", attr::text(fill_mode))];
                    let y = g.op("ImageProjectiveTransformV3", &[x, transforms, size, fill], &attrs)?;
                    let shape = g.shape(x)?;
                    g.set_shape(y, &shape);
                    Ok(y)
                }
            }
        })
    }

    /// Numbers from a range, `[batch, 1, …]`.
    fn draw(&self, g: &mut Emit, batch: Dim, rank: usize, range: Range) -> Result<Port> {
        draw(g, batch, rank, range, self.seed)
    }

    /// A part at a random place; of images that are too small, the middle, resized.
    fn crop(&self, g: &mut Emit, x: Port, size: [usize; 2]) -> Result<Port> {
        let own = [g.known_dim(x, 1, "height")?, g.known_dim(x, 2, "width")?];
        let larger = |i: usize| own[i] > size[i] || own[i] == size[i] && g.dialect != Dialect::Keras3;
        let random = larger(0) && larger(1);
        let mut spans = frame(g, x, size, true)?;
        for i in 0..2 {
            if random {
                let place = self.draw(g, Dim::Known(1), 1, [0.0, (own[i] - size[i] + 1) as f32])?;
                let place = g.reshape(place, &[])?;
                let begin = Length::At(g.cast(place, DType::Int32)?);
                spans[i] = Span { begin, size: Length::Known(size[i]) };
            } else if let (Dialect::Keras3, Length::Known(begin)) = (g.dialect, spans[i].begin) {
                // Keras 3 takes as much as it wants from where that part begins.
                spans[i].size = Length::Known(size[i].min(own[i].saturating_sub(begin)));
            }
        }
        let part = cut(g, x, spans)?;
        resample::resize(g, part, size.map(Size::To), Method::Bilinear, false)
    }

    fn flip(&self, g: &mut Emit, x: Port, horizontal: bool, vertical: bool) -> Result<Port> {
        let batch = g.dim(x, 0)?;
        let mut y = x;
        let mut flips = None;
        for (_, axis) in [(horizontal, 2), (vertical, 1)].into_iter().filter(|(wanted, _)| *wanted) {
            // Keras 3 flips an image both ways or not at all.
            let flip = match flips.filter(|_| g.dialect == Dialect::Keras3) {
                Some(flip) => flip,
                None => {
                    let drawn = self.draw(g, batch, 4, [0.0, 1.0])?;
                    let half = g.scalar(0.5);
                    g.op("Less", &[drawn, half], &[])?
                }
            };
            flips = Some(flip);
            let axis = g.ints(&[axis]);
            let turned = g.op("ReverseV2", &[y, axis], &[])?;
            y = g.select(flip, turned, y)?;
        }
        Ok(y)
    }

    /// `[batch, 8]`: the first two rows of the matrices that give the place a point comes from, and two zeros.
    fn transforms(&self, g: &mut Emit, x: Port, warp: &Warp) -> Result<Port> {
        let batch = g.dim(x, 0)?;
        let mut size = |axis: usize| {
            let dim = g.dim(x, axis)?;
            let size = g.dim_value(dim)?;
            g.cast(size, DType::Float32)
        };
        let (height, width) = (size(1)?, size(2)?);
        let centre = |g: &mut Emit, size: Port| {
            let last = g.offset(size, -1.0)?;
            g.scale(last, 0.5)
        };
        let (cx, cy) = (centre(g, width)?, centre(g, height)?);
        let shape = g.shape_value(&[batch, Dim::Known(1)])?;
        let zero = g.scalar(0.0);
        let zeros = g.op("Fill", &[shape, zero], &[])?;
        let one = g.constant(Tensor::scalar(1f32));
        let ones = g.add(zeros, one)?;
        // What keeps the centre where it is: c − a·c.
        let fixed = |g: &mut Emit, factor: Port, centre: Port| {
            let rest = g.sub(one, factor)?;
            g.mul(rest, centre)
        };
        let parts = match warp {
            Warp::Rotation([low, high]) => {
                let turn = std::f32::consts::TAU;
                let angle = self.draw(g, batch, 2, [low * turn, high * turn])?;
                let (cos, sin) = (g.unary("Cos", angle)?, g.unary("Sin", angle)?);
                let minus = g.unary("Neg", sin)?;
                let (sx, sy) = (g.mul(sin, cx)?, g.mul(sin, cy)?);
                let (fx, fy) = (fixed(g, cos, cx)?, fixed(g, cos, cy)?);
                [cos, minus, g.add(fx, sy)?, sin, cos, g.sub(fy, sx)?]
            }
            Warp::Zoom(tall, wide) => {
                let beyond = |[low, high]: Range| [1.0 + low, 1.0 + high];
                let tall = self.draw(g, batch, 2, beyond(*tall))?;
                let wide = match wide {
                    Some(wide) => self.draw(g, batch, 2, beyond(*wide))?,
                    None => tall,
                };
                let (fx, fy) = (fixed(g, wide, cx)?, fixed(g, tall, cy)?);
                [wide, zeros, fx, zeros, tall, fy]
            }
            Warp::Shear(x_factor, y_factor) => {
                let (sign, half) = (self.draw(g, batch, 2, [0.0, 1.0])?, g.scalar(0.5));
                let back = g.op("Greater", &[sign, half], &[])?;
                let mut factors = [zeros; 2];
                for (factor, range) in factors.iter_mut().zip([x_factor, y_factor]) {
                    let drawn = self.draw(g, batch, 2, *range)?;
                    let other = g.unary("Neg", drawn)?;
                    *factor = g.select(back, other, drawn)?;
                }
                [ones, factors[0], zeros, factors[1], ones, zeros]
            }
            Warp::Translation(down, right) => {
                let down = self.draw(g, batch, 2, *down)?;
                let right = self.draw(g, batch, 2, *right)?;
                let (dx, dy) = (g.mul(right, width)?, g.mul(down, height)?);
                [ones, zeros, g.unary("Neg", dx)?, zeros, ones, g.unary("Neg", dy)?]
            }
        };
        let all: Vec<Port> = parts.into_iter().chain([zeros, zeros]).collect();
        g.concat(&all, 1)
    }
}

/// Numbers from a range, `[batch, 1, …]`.
pub(super) fn draw(
    g: &mut Emit,
    batch: Dim,
    rank: usize,
    [low, high]: Range,
    seed: Option<i64>,
) -> Result<Port> {
    let mut dims = vec![Dim::Known(1); rank];
    dims[0] = batch;
    let unit = g.random_uniform(&dims, seed)?;
    let wide = g.scale(unit, high - low)?;
    g.offset(wide, low)
}
