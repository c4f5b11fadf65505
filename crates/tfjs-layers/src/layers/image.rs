//! Layers for images: resizing, cropping, contrast; and augmentation, which does nothing outside training.

mod augment;
mod clahe;
mod colors;

use serde_json::Value;
use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::DType;

use self::augment::Augment;
use super::{
    resample::{self, Method, Size},
    spatial,
};
use crate::{
    Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Scope, Sym, emit::Dim, topology::LayerConfig,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Rescaling", rescaling),
    LayerDef::new("Resizing", resizing),
    LayerDef::new("CenterCrop", |c| {
        Ok(Box::new(Crop {
            height: c.usize("height")?,
            width: c.usize("width")?,
            whole: false,
            random: None,
            channels_last: c.channels_last()?,
        }))
    }),
    LayerDef::new("RandomCrop", |c| {
        c.known(&["seed"]);
        if c.dialect == Dialect::Keras3 {
            c.known(&["height", "width"]);
            return augmentation(c, "RandomCrop");
        }
        Ok(Box::new(Crop {
            height: c.usize("height")?,
            width: c.usize("width")?,
            whole: true,
            random: Augment::new(c, "RandomCrop")?,
            channels_last: c.channels_last()?,
        }))
    }),
    LayerDef::new("AutoContrast", |c| {
        // Keras takes axes 1 and 2 wherever the channels are.
        c.known(&["data_format"]);
        Ok(Box::new(AutoContrast { range: value_range(c)? }))
    }),
    LayerDef::new("ContrastLimitedAdaptiveHistogramEqualization", clahe::new),
    LayerDef::new("CLAHE", clahe::new),
    LayerDef::new("Pipeline", pipeline),
    LayerDef::new("AugMix", |c| float_augmentation(c, "AugMix")),
    LayerDef::new("CutMix", |c| float_augmentation(c, "CutMix")),
    LayerDef::new("Equalization", |c| augmentation(c, "Equalization")),
    LayerDef::new("MaxNumBoundingBoxes", |c| augmentation(c, "MaxNumBoundingBoxes")),
    LayerDef::new("MixUp", |c| augmentation(c, "MixUp")),
    LayerDef::new("RandAugment", |c| float_augmentation(c, "RandAugment")),
    LayerDef::new("RandomBrightness", |c| augmentation(c, "RandomBrightness")),
    LayerDef::new("RandomColorDegeneration", |c| augmentation(c, "RandomColorDegeneration")),
    LayerDef::new("RandomColorJitter", |c| augmentation(c, "RandomColorJitter")),
    LayerDef::new("RandomContrast", |c| augmentation(c, "RandomContrast")),
    LayerDef::new("RandomElasticTransform", |c| float_augmentation(c, "RandomElasticTransform")),
    LayerDef::new("RandomErasing", |c| float_augmentation(c, "RandomErasing")),
    LayerDef::new("RandomFlip", |c| float_augmentation(c, "RandomFlip")),
    LayerDef::new("RandomGaussianBlur", |c| float_augmentation(c, "RandomGaussianBlur")),
    LayerDef::new("RandomGrayscale", |c| augmentation(c, "RandomGrayscale")),
    LayerDef::new("RandomHeight", |c| augmentation(c, "RandomHeight")),
    LayerDef::new("RandomHue", |c| augmentation(c, "RandomHue")),
    LayerDef::new("RandomInvert", |c| augmentation(c, "RandomInvert")),
    LayerDef::new("RandomPerspective", |c| float_augmentation(c, "RandomPerspective")),
    LayerDef::new("RandomPosterization", |c| augmentation(c, "RandomPosterization")),
    LayerDef::new("RandomRotation", |c| float_augmentation(c, "RandomRotation")),
    LayerDef::new("RandomSaturation", |c| augmentation(c, "RandomSaturation")),
    LayerDef::new("RandomSharpness", |c| float_augmentation(c, "RandomSharpness")),
    LayerDef::new("RandomShear", |c| float_augmentation(c, "RandomShear")),
    LayerDef::new("RandomTranslation", |c| float_augmentation(c, "RandomTranslation")),
    LayerDef::new("RandomWidth", |c| augmentation(c, "RandomWidth")),
    LayerDef::new("RandomZoom", |c| float_augmentation(c, "RandomZoom")),
    LayerDef::new("Solarization", |c| float_augmentation(c, "Solarization")),
];

/// Keys of augmentation layers: what training would do.
const AUGMENTATION: &[&str] = &[
    "addition_factor",
    "all_ops",
    "alpha",
    "bins",
    "bounding_box_format",
    "brightness_factor",
    "chain_depth",
    "contrast_factor",
    "data_format",
    "factor",
    "fill_mode",
    "fill_value",
    "height_factor",
    "hue_factor",
    "interpolation",
    "kernel_size",
    "max_number",
    "mode",
    "num_chains",
    "num_ops",
    "saturation_factor",
    "scale",
    "seed",
    "sigma",
    "threshold_factor",
    "value_range",
    "width_factor",
    "x_factor",
    "y_factor",
];

/// One that makes whole numbers float.
fn float_augmentation(c: &Config<'_>, class: &'static str) -> Result<Box<dyn Layer>> {
    c.known(AUGMENTATION);
    Ok(Box::new(Augmentation { class, float: true, augment: Augment::new(c, class)? }))
}

/// The error of a layer whose random changes cannot be made here.
fn untrainable(class: &str) -> LayersError {
    LayersError::Inputs(format!(
        "what `{class}` does in training is not there yet: change the images before they are given to the model, and take the layer out"
    ))
}

/// A layer that changes images only while training.
fn augmentation(c: &Config<'_>, class: &'static str) -> Result<Box<dyn Layer>> {
    c.known(AUGMENTATION);
    // Keras 2 turns numbers into floats in any case.
    Ok(Box::new(Augmentation {
        class,
        float: c.dialect != Dialect::Keras3,
        augment: Augment::new(c, class)?,
    }))
}

#[derive(Debug)]
struct Augmentation {
    class: &'static str,
    /// It makes whole numbers float.
    float: bool,
    /// What it does in training, if that can be done here.
    augment: Option<Augment>,
}

impl Layer for Augmentation {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        if g.training() && call.training(g) {
            match &self.augment {
                Some(augment) => return Ok(vec![augment.emit(g, call.one()?.port)?.into()]),
                // These change no pictures, or always do the same.
                None if matches!(self.class, "MaxNumBoundingBoxes") => {}
                None => return Err(untrainable(self.class)),
            }
        }
        let mut out = Vec::new();
        for s in &call.inputs {
            let number = matches!(g.dtype(s.port), DType::Int32 | DType::Bool);
            out.push(if self.float && number {
                g.cast(s.port, DType::Float32)?.into()
            } else {
                s.port.into()
            });
        }
        Ok(out)
    }
}

fn rescaling(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let one_or_more = |key: &str, default: f64| -> Result<Vec<f32>> {
        let list = c.opt_floats(key)?.unwrap_or_else(|| vec![default]);
        Ok(list.into_iter().map(|x| x as f32).collect())
    };
    Ok(Box::new(Rescaling { scale: one_or_more("scale", 1.0)?, offset: one_or_more("offset", 0.0)? }))
}

/// `x · scale + offset`, with numbers or one per channel.
#[derive(Debug)]
struct Rescaling {
    scale: Vec<f32>,
    offset: Vec<f32>,
}

impl Layer for Rescaling {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let mut y = g.cast(x, DType::Float32)?;
        let constant = |g: &mut Emit, list: &[f32]| match list {
            [one] => g.scalar(*one),
            many => g.floats(many),
        };
        if self.scale != [1.0] {
            let scale = constant(g, &self.scale);
            y = g.mul(y, scale)?;
        }
        if self.offset != [0.0] {
            let offset = constant(g, &self.offset);
            y = g.add(y, offset)?;
        }
        // Keras 3 passes masks on.
        let mask = call.mask(0).filter(|_| g.dialect == Dialect::Keras3);
        Ok(vec![Sym::masked(y, mask)])
    }
}

/// What to do where the aspect ratio is another.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fit {
    Stretch,
    Crop,
    Pad(f32),
}

fn resizing(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["fill_mode"]);
    let crop = c.bool_or("crop_to_aspect_ratio", false)?;
    let fill = c.f32_or("fill_value", 0.0)?;
    let fit = match (crop, c.bool_or("pad_to_aspect_ratio", false)?) {
        (true, true) => {
            return Err(c.wrong("pad_to_aspect_ratio", "false where `crop_to_aspect_ratio` is true"));
        }
        (true, false) => Fit::Crop,
        (false, true) => Fit::Pad(fill),
        (false, false) => Fit::Stretch,
    };
    Ok(Box::new(Resizing {
        height: c.usize("height")?,
        width: c.usize("width")?,
        method: resample::method(c, "bilinear")?,
        antialias: c.bool_or("antialias", false)?,
        fit,
        channels_last: c.channels_last()?,
    }))
}

/// Resizes images.
#[derive(Debug)]
struct Resizing {
    height: usize,
    width: usize,
    method: Method,
    antialias: bool,
    fit: Fit,
    channels_last: bool,
}

impl Layer for Resizing {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let y = on_images(g, call.one()?.port, self.channels_last, |g, x| {
            let dtype = g.dtype(x);
            let x = if g.dialect == Dialect::Keras3 { x } else { g.cast(x, DType::Float32)? };
            let x = match self.fit {
                Fit::Stretch => x,
                Fit::Crop => {
                    let [height, width] = frame(g, x, [self.height, self.width], true)?;
                    cut(g, x, [height, width])?
                }
                Fit::Pad(value) => self.padded(g, x, value)?,
            };
            let sizes = [Size::To(self.height), Size::To(self.width)];
            let y = resample::resize(g, x, sizes, self.method, self.antialias)?;
            // Keras 3 keeps whole numbers.
            if g.dialect == Dialect::Keras3 && dtype == DType::Int32 && g.dtype(y) != dtype {
                let whole = g.unary("Round", y)?;
                return g.cast(whole, dtype);
            }
            Ok(y)
        })?;
        Ok(vec![y.into()])
    }
}

impl Resizing {
    fn padded(&self, g: &mut Emit, x: Port, value: f32) -> Result<Port> {
        let dtype = g.dtype(x);
        let boxes = frame(g, x, [self.height, self.width], false)?;
        let float = g.cast(x, DType::Float32)?;
        let y = match boxes {
            [Span { begin: Length::Known(h), .. }, Span { begin: Length::Known(w), .. }] => {
                g.pad(float, &[(0, 0), (h, h), (w, w), (0, 0)], value)?
            }
            [h, w] => {
                let zero = g.int(0);
                let (h, w) = (h.begin.value(g), w.begin.value(g));
                let rows: Vec<Port> = [zero, h, w, zero]
                    .into_iter()
                    .map(|p| g.op("Pack", &[p, p], &[("axis", attr::int(0))]))
                    .collect::<Result<_>>()?;
                let pads = g.op("Pack", &rows, &[("axis", attr::int(0))])?;
                let value = g.scalar(value);
                let shape = g.shape(x)?;
                let y = g.op("PadV2", &[float, pads, value], &[])?;
                g.set_shape(y, &[shape[0], None, None, shape[3]]);
                y
            }
        };
        if dtype == DType::Int32 { g.cast(y, dtype) } else { Ok(y) }
    }
}

/// Cuts out the middle; images too small for that, or with `whole` all, are cut to the aspect ratio and resized.
#[derive(Debug)]
struct Crop {
    height: usize,
    width: usize,
    whole: bool,
    /// What training does instead.
    random: Option<Augment>,
    channels_last: bool,
}

impl Layer for Crop {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        if let Some(random) = self.random.as_ref().filter(|_| g.training() && call.training(g)) {
            return Ok(vec![random.emit(g, call.one()?.port)?.into()]);
        }
        let y = on_images(g, call.one()?.port, self.channels_last, |g, x| {
            let x = g.cast(x, DType::Float32)?;
            let target = [self.height, self.width];
            let spans = self.spans(g, x)?;
            let part = cut(g, x, spans)?;
            resample::resize(g, part, target.map(Size::To), Method::Bilinear, false)
        })?;
        Ok(vec![y.into()])
    }
}

impl Crop {
    fn spans(&self, g: &mut Emit, x: Port) -> Result<[Span; 2]> {
        let target = [self.height, self.width];
        let smart = frame(g, x, target, true)?;
        if self.whole {
            return Ok(smart);
        }
        let sizes = [g.dim(x, 1)?, g.dim(x, 2)?];
        if let [Dim::Known(h), Dim::Known(w)] = sizes {
            if h < target[0] || w < target[1] {
                return Ok(smart);
            }
            let middle =
                |n: usize, to: usize| Span { begin: Length::Known((n - to) / 2), size: Length::Known(to) };
            return Ok([middle(h, target[0]), middle(w, target[1])]);
        }
        // Decided when sizes are known: resizing to the same size changes nothing.
        let (mut fits, mut middles) = (Vec::new(), Vec::new());
        for (dim, to) in sizes.into_iter().zip(target) {
            let (n, to) = (g.dim_value(dim)?, g.int(to as i32));
            let rest = g.sub(n, to)?;
            let zero = g.int(0);
            fits.push(g.op("GreaterEqual", &[rest, zero], &[])?);
            let two = g.int(2);
            middles.push((g.op("FloorDiv", &[rest, two], &[])?, to));
        }
        let fits = g.op("LogicalAnd", &[fits[0], fits[1]], &[])?;
        let mut choose = |middle: (Port, Port), smart: Span| -> Result<Span> {
            let (begin, size) = (smart.begin.value(g), smart.size.value(g));
            Ok(Span {
                begin: Length::At(g.select(fits, middle.0, begin)?),
                size: Length::At(g.select(fits, middle.1, size)?),
            })
        };
        Ok([choose(middles[0], smart[0])?, choose(middles[1], smart[1])?])
    }
}

/// A number of pixels, known now or when the graph runs.
#[derive(Clone, Copy, Debug)]
enum Length {
    Known(usize),
    At(Port),
}

impl Length {
    fn value(self, g: &mut Emit) -> Port {
        match self {
            Length::Known(n) => g.int(n as i32),
            Length::At(port) => port,
        }
    }
}

/// Part of an axis.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin: Length,
    size: Length,
}

/// The largest part (`inside`) with the aspect ratio of `target`, or by how much the smallest image around has to start
/// before this one; in the middle, rounded as Keras does.
fn frame(g: &mut Emit, x: Port, target: [usize; 2], inside: bool) -> Result<[Span; 2]> {
    let sizes = [g.dim(x, 1)?, g.dim(x, 2)?];
    let mut spans = Vec::with_capacity(2);
    for axis in 0..2 {
        let (own, other) = (sizes[axis], sizes[1 - axis]);
        let (to, to_other) = (target[axis], target[1 - axis]);
        if let (Dim::Known(n), Dim::Known(m)) = (own, other) {
            let ideal = (spatial::times(m, to)? as f32 / to_other.max(1) as f32) as usize;
            let size = if inside { n.min(ideal).max(1) } else { n.max(ideal) };
            spans.push(Span { begin: Length::Known(n.abs_diff(size) / 2), size: Length::Known(size) });
            continue;
        }
        let (n, m, to) = (g.dim_value(own)?, g.dim_value(other)?, g.int(to as i32));
        let product = g.mul(m, to)?;
        let product = g.cast(product, DType::Float32)?;
        let to_other = g.scalar(to_other.max(1) as f32);
        let ideal = g.div(product, to_other)?;
        let ideal = g.cast(ideal, DType::Int32)?;
        let size = if inside {
            let one = g.int(1);
            let size = g.op("Minimum", &[n, ideal], &[])?;
            g.op("Maximum", &[size, one], &[])?
        } else {
            g.op("Maximum", &[n, ideal], &[])?
        };
        let rest = if inside { g.sub(n, size)? } else { g.sub(size, n)? };
        let two = g.int(2);
        let begin = g.op("FloorDiv", &[rest, two], &[])?;
        spans.push(Span { begin: Length::At(begin), size: Length::At(size) });
    }
    Ok([spans[0], spans[1]])
}

/// Cuts a part out of images.
fn cut(g: &mut Emit, x: Port, spans: [Span; 2]) -> Result<Port> {
    let shape = g.shape(x)?;
    let known = |l: Length| match l {
        Length::Known(n) => Some(n),
        Length::At(_) => None,
    };
    if let [Some(y0), Some(h), Some(x0), Some(w)] =
        [spans[0].begin, spans[0].size, spans[1].begin, spans[1].size].map(known)
    {
        if shape[1] == Some(h) && shape[2] == Some(w) {
            return Ok(x);
        }
        return g.slice(x, &[0, y0 as i32, x0 as i32, 0], &[-1, h as i32, w as i32, -1]);
    }
    let pack = |g: &mut Emit, ends: i32, parts: [Length; 2]| {
        let ends = g.int(ends);
        let parts = [ends, parts[0].value(g), parts[1].value(g), ends];
        g.op("Pack", &parts, &[("axis", attr::int(0))])
    };
    let begin = pack(g, 0, [spans[0].begin, spans[1].begin])?;
    let size = pack(g, -1, [spans[0].size, spans[1].size])?;
    let y = g.op("Slice", &[x, begin, size], &[])?;
    g.set_shape(y, &[shape[0], known(spans[0].size), known(spans[1].size), shape[3]]);
    Ok(y)
}

/// Applies `f` to images with channels last; a single image is a batch of one.
fn on_images(
    g: &mut Emit,
    x: Port,
    channels_last: bool,
    f: impl FnOnce(&mut Emit, Port) -> Result<Port>,
) -> Result<Port> {
    let single = g.rank(x)? == 3;
    let mut x = if single { g.expand_dims(x, 0)? } else { x };
    spatial::expect_rank(g, x, 4)?;
    if !channels_last {
        x = spatial::channels_last(g, x)?;
    }
    let mut y = f(g, x)?;
    if !channels_last {
        y = spatial::channels_first(g, y)?;
    }
    if single { g.squeeze(y, &[0]) } else { Ok(y) }
}

/// The option `value_range`.
fn value_range(c: &Config<'_>) -> Result<[f32; 2]> {
    match c.opt_floats("value_range")?.as_deref() {
        None => Ok([0.0, 255.0]),
        Some(&[a, b]) => Ok([a as f32, b as f32]),
        Some(_) => Err(c.wrong("value_range", "two numbers")),
    }
}

/// Values of one range brought to another.
fn to_range(g: &mut Emit, x: Port, from: [f32; 2], to: [f32; 2]) -> Result<Port> {
    if from == to {
        return Ok(x);
    }
    let low = g.offset(x, -from[0])?;
    let width = g.scalar(from[1] - from[0]);
    let unit = g.div(low, width)?;
    let wide = g.scale(unit, to[1] - to[0])?;
    g.offset(wide, to[0])
}

/// Stretches the values of every image and channel over the whole range.
#[derive(Debug)]
struct AutoContrast {
    range: [f32; 2],
}

impl Layer for AutoContrast {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let x = g.cast(x, DType::Float32)?;
        spatial::expect_rank(g, x, 4)?;
        let full = [0.0, 255.0];
        let [low, high] = self.range;
        let range = [low.min(high), low.max(high)];
        let images = to_range(g, x, range, full)?;
        let low = g.reduce("Min", images, &[1, 2], true)?;
        let high = g.reduce("Max", images, &[1, 2], true)?;
        let (all, spread) = (g.scalar(255.0), g.sub(high, low)?);
        let scale = g.div(all, spread)?;
        let shift = g.mul(low, scale)?;
        let scaled = g.mul(images, scale)?;
        let stretched = g.sub(scaled, shift)?;
        let (zero, most) = (g.scalar(0.0), g.scalar(255.0));
        let clipped = g.op("ClipByValue", &[stretched, zero, most], &[])?;
        let y = to_range(g, clipped, full, range)?;
        // Where all values are the same there is nothing to stretch.
        let nothing = g.unary("IsNan", stretched)?;
        Ok(vec![g.select(nothing, x, y)?.into()])
    }
}

fn pipeline(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let list =
        c.get("layers").and_then(Value::as_array).ok_or_else(|| c.wrong("layers", "a list of layers"))?;
    let mut layers = Vec::new();
    for value in list {
        let config = LayerConfig::nested(value, c.dialect)?;
        let layer = c.make(&config)?;
        layers.push((config, layer));
    }
    Ok(Box::new(Pipeline { layers }))
}

/// One layer after the other.
#[derive(Debug)]
struct Pipeline {
    layers: Vec<(LayerConfig, Box<dyn Layer>)>,
}

impl Layer for Pipeline {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        // What a layer gets is found by writing those before it.
        let mut g = Emit::new(scope.params().clone(), scope.dialect);
        let mut values: Vec<Sym> = Vec::new();
        for (i, fact) in inputs.iter().enumerate() {
            let shape = fact.shape.clone().unwrap_or_default();
            let dtype = fact.dtype.unwrap_or(DType::Float32);
            values.push(g.builder().placeholder(&format!("input_{i}"), dtype, &shape).into());
        }
        for (config, layer) in &mut self.layers {
            let located = |e: LayersError| e.in_layer(&config.name, &config.class_name);
            let facts: Vec<Fact> = values.iter().map(|s| g.fact(s.port).clone()).collect();
            scope
                .enter(&config.name, &config.name, &config.name, |scope| layer.build(scope, &facts))
                .map_err(located)?;
            g.set_params(scope.params());
            values = layer.call(&mut g, &Call::of(values)).map_err(located)?;
        }
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let mut values = call.inputs.clone();
        for (config, layer) in &self.layers {
            values =
                layer.call(g, &Call::of(values)).map_err(|e| e.in_layer(&config.name, &config.class_name))?;
        }
        Ok(values)
    }
}
