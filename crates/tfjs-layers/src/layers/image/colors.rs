//! Random changes of images that leave every point where it is. The formulas are Keras 3's.

use serde_json::{Map, Value};
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::augment::{Augment, Range, Result, draw};
use crate::{Config, Emit, activations::clip, emit::Dim};

/// A change of colours. `values` is the range that they have.
#[derive(Debug)]
pub(super) enum Colors {
    /// Turns the hue, half round at most.
    Hue { factor: Range, values: Range },
    /// Multiplies the saturation by f / (1 − f).
    Saturation { factor: Range, values: Range },
    /// Makes some of the images grey.
    Grayscale(f32),
    /// Makes negatives of some: `white − x`.
    Invert { factor: Range, white: f32 },
    /// `x + f · (grey − x)`
    Degenerate { factor: Range, values: Range },
    /// `x + (1 − 2f) · (smoothed − x)`
    Sharpen { factor: Range, values: Range },
    /// Keeps so many of eight bits.
    Posterize { bits: Range, values: Range },
    /// Adds, and turns round what is above a threshold; both for values up to 255.
    Solarize { addition: Range, threshold: Range, values: Range },
    /// Fills a rectangle of some of the images, with noise where no colour is given.
    Erase { factor: Range, scale: Range, fill: Option<Vec<f32>>, values: Range },
    /// One change after the other.
    Jitter(Vec<Augment>),
}

/// The range of a factor: a number `f` means from −f to f, but not below `least`.
fn factor(c: &Config<'_>, key: &str, default: Range, least: f32) -> Result<Range> {
    match c.opt_floats(key)?.as_deref() {
        None => Ok(default),
        Some(&[one]) => Ok([least.max(-one.abs() as f32), one.abs() as f32]),
        Some(&[a, b]) => Ok([a.min(b) as f32, a.max(b) as f32]),
        Some(_) => Err(c.wrong(key, "a number or two")),
    }
}

impl Colors {
    /// The change that a layer of this class makes, if it is one of colours.
    pub(super) fn new(c: &Config<'_>, class: &str) -> Result<Option<Colors>> {
        let [first, second] = super::value_range(c)?;
        let values = [first.min(second), first.max(second)];
        let unit = |key: &str| factor(c, key, [0.0, 1.0], 0.0);
        Ok(Some(match class {
            "RandomHue" => Colors::Hue { factor: unit("factor")?, values: [first, second] },
            "RandomSaturation" => Colors::Saturation { factor: unit("factor")?, values: [first, second] },
            "RandomGrayscale" => Colors::Grayscale(c.f32_or("factor", 0.5)?),
            "RandomInvert" => Colors::Invert { factor: factor(c, "factor", [0.0, 1.0], 0.0)?, white: second },
            "RandomColorDegeneration" => Colors::Degenerate { factor: unit("factor")?, values },
            "RandomSharpness" => Colors::Sharpen { factor: unit("factor")?, values },
            "RandomPosterization" => {
                Colors::Posterize { bits: factor(c, "factor", [1.0, 8.0], 1.0)?, values }
            }
            "Solarization" => {
                let addition = factor(c, "addition_factor", [0.0, 0.0], 0.0)?;
                let threshold = factor(c, "threshold_factor", [0.0, 0.0], 0.0)?;
                // Keras scales the upper ends alone.
                let wide = |[low, high]: Range| [low, high * 255.0];
                Colors::Solarize { addition: wide(addition), threshold: wide(threshold), values }
            }
            "RandomErasing" => {
                let fill = c.opt_floats("fill_value")?.map(|v| v.into_iter().map(|v| v as f32).collect());
                let scale = factor(c, "scale", [0.02, 0.33], 0.0)?;
                Colors::Erase { factor: unit("factor")?, scale, fill, values }
            }
            "RandomColorJitter" => {
                let parts = [
                    ("brightness_factor", "RandomBrightness"),
                    ("contrast_factor", "RandomContrast"),
                    ("saturation_factor", "RandomSaturation"),
                    ("hue_factor", "RandomHue"),
                ];
                let mut changes = Vec::new();
                for (key, class) in parts {
                    let Some(factor) = c.get(key) else { continue };
                    let mut config = Map::new();
                    config.insert("factor".to_owned(), factor.clone());
                    config.insert("value_range".to_owned(), Value::from(vec![first, second]));
                    config.extend(c.get("seed").map(|seed| ("seed".to_owned(), seed.clone())));
                    changes.extend(Augment::new(&c.inner(&config), class)?);
                }
                Colors::Jitter(changes)
            }
            _ => return Ok(None),
        }))
    }

    /// Changes float32 images with channels last.
    pub(super) fn emit(&self, g: &mut Emit, x: Port, seed: Option<i64>) -> Result<Port> {
        let batch = g.dim(x, 0)?;
        let each = |g: &mut Emit, range: Range| draw(g, batch, 4, range, seed);
        // Whether something happens to an image: with a probability that is drawn too.
        let happens = |g: &mut Emit, range: Range| {
            let (probability, number) = (each(g, range)?, each(g, [0.0, 1.0])?);
            g.op("Less", &[number, probability], &[])
        };
        match self {
            Colors::Hue { factor, values } => {
                let [hue, saturation, value] = {
                    let x = scaled(g, x, *values, [0.0, 1.0])?;
                    hsv(g, x)?
                };
                let (sign, factor, half) = (each(g, [0.0, 1.0])?, each(g, *factor)?, g.scalar(0.5));
                let back = g.op("Greater", &[sign, half], &[])?;
                let turn = g.mul(factor, half)?;
                let other = g.unary("Neg", turn)?;
                let turn = g.select(back, other, turn)?;
                let (zero, one) = (g.scalar(0.0), g.scalar(1.0));
                let hue = g.add(hue, turn)?;
                let above = g.op("Greater", &[hue, one], &[])?;
                let less = g.sub(hue, one)?;
                let hue = g.select(above, less, hue)?;
                let below = g.op("Less", &[hue, zero], &[])?;
                let more = g.add(hue, one)?;
                let hue = g.select(below, more, hue)?;
                let y = rgb(g, [hue, saturation, value])?;
                let y = clip(g, y, 0.0, 1.0)?;
                scaled(g, y, [0.0, 1.0], *values)
            }
            Colors::Saturation { factor, values } => {
                let factor = each(g, *factor)?;
                let one = g.scalar(1.0);
                let rest = g.sub(one, factor)?;
                let rest = g.offset(rest, 1e-7)?;
                let factor = g.div(factor, rest)?;
                let [hue, saturation, value] = hsv(g, x)?;
                let saturation = g.mul(saturation, factor)?;
                let saturation = clip(g, saturation, values[0], values[1])?;
                rgb(g, [hue, saturation, value])
            }
            Colors::Grayscale(probability) => {
                let (number, limit) = (each(g, [0.0, 1.0])?, g.scalar(*probability));
                let chosen = g.op("Less", &[number, limit], &[])?;
                let grey = grey(g, x)?;
                g.select(chosen, grey, x)
            }
            Colors::Invert { factor, white } => {
                let chosen = happens(g, *factor)?;
                let white = g.scalar(*white);
                let negative = g.sub(white, x)?;
                g.select(chosen, negative, x)
            }
            Colors::Degenerate { factor, values } => {
                let factor = each(g, *factor)?;
                let grey = grey(g, x)?;
                between(g, x, grey, factor, *values)
            }
            Colors::Sharpen { factor, values } => {
                let factor = each(g, *factor)?;
                let double = g.scale(factor, -2.0)?;
                let factor = g.offset(double, 1.0)?;
                let smooth = smoothed(g, x)?;
                between(g, x, smooth, factor, *values)
            }
            Colors::Posterize { bits, values } => {
                let bits = each(g, *bits)?;
                let bits = g.unary("Floor", bits)?;
                let (eight, two) = (g.scalar(8.0), g.scalar(2.0));
                let lost = g.sub(eight, bits)?;
                let step = g.op("Pow", &[two, lost], &[])?;
                let step = g.unary("Round", step)?;
                let x = scaled(g, x, *values, [0.0, 255.0])?;
                let x = g.unary("Floor", x)?;
                let steps = g.div(x, step)?;
                let steps = g.unary("Floor", steps)?;
                let y = g.mul(steps, step)?;
                scaled(g, y, [0.0, 255.0], *values)
            }
            Colors::Solarize { addition, threshold, values } => {
                let (addition, threshold) = (each(g, *addition)?, each(g, *threshold)?);
                let x = scaled(g, x, *values, [0.0, 255.0])?;
                let y = g.add(x, addition)?;
                let y = clip(g, y, 0.0, 255.0)?;
                let below = g.op("Less", &[y, threshold], &[])?;
                let white = g.scalar(255.0);
                let turned = g.sub(white, y)?;
                let y = g.select(below, y, turned)?;
                scaled(g, y, [0.0, 255.0], *values)
            }
            Colors::Erase { factor, scale, fill, values } => {
                let inside = rectangle(g, x, *scale, seed)?;
                let chosen = happens(g, *factor)?;
                let erased = g.op("LogicalAnd", &[inside, chosen], &[])?;
                let fill = match fill {
                    Some(fill) => g.floats(fill),
                    None => {
                        let dims = g.dims(x)?;
                        let noise = g.random_normal(&dims, seed)?;
                        g.scale(noise, values[1])?
                    }
                };
                let fill = clip(g, fill, values[0], values[1])?;
                g.select(erased, fill, x)
            }
            Colors::Jitter(changes) => changes.iter().try_fold(x, |x, change| change.emit(g, x)),
        }
    }
}

/// Values of one range as those of another.
fn scaled(g: &mut Emit, x: Port, from: Range, to: Range) -> Result<Port> {
    if from == to {
        return Ok(x);
    }
    let x = g.offset(x, -from[0])?;
    let width = g.scalar(from[1] - from[0]);
    let x = g.div(x, width)?;
    let x = g.scale(x, to[1] - to[0])?;
    g.offset(x, to[0])
}

/// Hue, saturation and value, `[batch, height, width, 1]` each.
fn hsv(g: &mut Emit, x: Port) -> Result<[Port; 3]> {
    let hsv = g.op("RGBToHSV", &[x], &[])?;
    let parts = g.split(hsv, 3, 3)?;
    Ok([parts[0], parts[1], parts[2]])
}

fn rgb(g: &mut Emit, hsv: [Port; 3]) -> Result<Port> {
    let hsv = g.concat(&hsv, 3)?;
    g.op("HSVToRGB", &[hsv], &[])
}

/// Brightness, `[batch, height, width, 1]`.
fn grey(g: &mut Emit, x: Port) -> Result<Port> {
    if g.dim(x, 3)? == Dim::Known(1) {
        return Ok(x);
    }
    let weights = g.floats(&[0.2989, 0.5870, 0.1140]);
    let x = g.mul(x, weights)?;
    g.reduce("Sum", x, &[3], true)
}

/// `x + factor · (other − x)`, within a range.
fn between(g: &mut Emit, x: Port, other: Port, factor: Port, values: Range) -> Result<Port> {
    let rest = g.sub(other, x)?;
    let part = g.mul(factor, rest)?;
    let y = g.add(x, part)?;
    clip(g, y, values[0], values[1])
}

/// Every point mixed with those around it.
fn smoothed(g: &mut Emit, x: Port) -> Result<Port> {
    let channels = g.known_dim(x, 3, "number of channels")?;
    let kernel = (0..9).flat_map(|i| vec![if i == 4 { 5.0 / 13.0 } else { 1.0f32 / 13.0 }; channels]);
    let kernel = g.constant(Tensor::new([3, 3, channels, 1], kernel.collect::<Vec<f32>>())?);
    let attrs = [
        ("strides", attr::ints([1, 1, 1, 1])),
        ("padding", attr::text("SAME")),
        ("dilations", attr::ints([1, 1, 1, 1])),
        ("data_format", attr::text("NHWC")),
    ];
    g.op("DepthwiseConv2dNative", &[x, kernel], &attrs)
}

/// Whether a point lies in a rectangle of its image, whose sides are roots of `scale` of the image's.
fn rectangle(g: &mut Emit, x: Port, scale: Range, seed: Option<i64>) -> Result<Port> {
    let batch = g.dim(x, 0)?;
    let mut inside = None;
    for axis in [2, 1] {
        let dim = g.dim(x, axis)?;
        let size = g.dim_value(dim)?;
        let (zero, one) = (g.int(0), g.int(1));
        let places = g.op("Range", &[zero, size, one], &[])?;
        let places = g.cast(places, DType::Float32)?;
        let mut shape = [Dim::Known(1); 4];
        shape[axis] = dim;
        let places = g.reshape(places, &shape)?;
        let size = g.cast(size, DType::Float32)?;
        let part = draw(g, batch, 4, scale, seed)?;
        let part = g.unary("Sqrt", part)?;
        let length = g.mul(part, size)?;
        let rest = g.sub(size, length)?;
        let begin = draw(g, batch, 4, [0.0, 1.0], seed)?;
        let begin = g.mul(begin, rest)?;
        let end = g.add(begin, length)?;
        let after = g.op("GreaterEqual", &[places, begin], &[])?;
        let before = g.op("Less", &[places, end], &[])?;
        for half in [after, before] {
            inside = Some(match inside {
                Some(inside) => g.op("LogicalAnd", &[inside, half], &[])?,
                None => half,
            });
        }
    }
    inside.map_or_else(|| Ok(g.constant(Tensor::scalar(false))), Ok)
}
