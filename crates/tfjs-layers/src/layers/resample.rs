//! Resizing of images with every interpolation of Keras.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::spatial;
use crate::{Config, Dialect, Emit, LayersError, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// How values between pixels are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    Nearest,
    Bilinear,
    Bicubic,
    Area,
    Lanczos(f32),
    Gaussian,
    Mitchell,
}

const METHODS: &[(&str, Method)] = &[
    ("nearest", Method::Nearest),
    ("bilinear", Method::Bilinear),
    ("bicubic", Method::Bicubic),
    ("area", Method::Area),
    ("lanczos3", Method::Lanczos(3.0)),
    ("lanczos5", Method::Lanczos(5.0)),
    ("gaussian", Method::Gaussian),
    ("mitchellcubic", Method::Mitchell),
];

/// The option `interpolation`.
pub(super) fn method(c: &Config<'_>, default: &'static str) -> Result<Method> {
    let words: Vec<&'static str> = METHODS.iter().map(|m| m.0).collect();
    let word = c.one_of("interpolation", &words, default)?;
    Ok(METHODS.iter().find(|m| m.0 == word).map_or(Method::Bilinear, |m| m.1))
}

/// How each new pixel along an axis is a sum of old ones, `[to, from]` row by row; `None` if there is no such interpolation.
pub(crate) fn matrix(interpolation: &str, from: usize, to: usize, antialias: bool) -> Option<Vec<f32>> {
    let (_, method) = METHODS.iter().find(|(word, _)| *word == interpolation)?;
    to.checked_mul(from).filter(|n| *n > 0)?;
    Some(weights(*method, from, to, antialias))
}

/// A new size along an axis.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    /// So many pixels.
    To(usize),
    /// So many times as many.
    Times(usize),
    /// As many as an int32 scalar says; for `Nearest` and `Bilinear` only.
    At(Port),
}

impl Size {
    fn known(self, from: Dim) -> Option<usize> {
        match (self, from) {
            (Size::To(n), _) => Some(n),
            (Size::Times(k), Dim::Known(n)) => n.checked_mul(k),
            (Size::Times(_), Dim::Of(..)) | (Size::At(_), _) => None,
        }
    }

    fn value(self, g: &mut Emit, from: Dim) -> Result<Port> {
        match (self, self.known(from)) {
            (_, Some(n)) => Ok(g.int(n as i32)),
            (Size::At(size), None) => Ok(size),
            (Size::To(n) | Size::Times(n), None) => {
                let (from, n) = (g.dim_value(from)?, g.int(n as i32));
                g.mul(from, n)
            }
        }
    }
}

/// Resizes `[batch, height, width, channels]`. The result is float, but for `Nearest`.
///
/// # Errors
/// When the graph cannot be written.
pub(super) fn resize(
    g: &mut Emit,
    x: Port,
    sizes: [Size; 2],
    method: Method,
    antialias: bool,
) -> Result<Port> {
    spatial::expect_rank(g, x, 4)?;
    let from = [g.dim(x, 1)?, g.dim(x, 2)?];
    let to = [sizes[0].known(from[0]), sizes[1].known(from[1])];
    if (0..2).all(|i| matches!((from[i], to[i]), (Dim::Known(a), Some(b)) if a == b)) {
        return if method == Method::Nearest { Ok(x) } else { g.cast(x, DType::Float32) };
    }
    let op = match method {
        Method::Nearest => Some("ResizeNearestNeighbor"),
        Method::Bilinear if !antialias => Some("ResizeBilinear"),
        _ => None,
    };
    let Some(op) = op else {
        let mut x = g.cast(x, DType::Float32)?;
        for axis in 0..2 {
            if !matches!((from[axis], to[axis]), (Dim::Known(a), Some(b)) if a == b) {
                x = along(g, x, axis, from[axis], sizes[axis], method, antialias)?;
            }
        }
        return Ok(x);
    };
    let size = match to {
        [Some(h), Some(w)] => g.ints(&[h as i32, w as i32]),
        _ => {
            let parts = [sizes[0].value(g, from[0])?, sizes[1].value(g, from[1])?];
            g.op("Pack", &parts, &[("axis", attr::int(0))])?
        }
    };
    // TF.js's own layers put pixels at their corners.
    let half = g.dialect != Dialect::Tfjs || method == Method::Nearest;
    let attrs = [("align_corners", attr::bool(false)), ("half_pixel_centers", attr::bool(half))];
    let y = g.op(op, &[x, size], &attrs)?;
    let shape = g.shape(x)?;
    g.set_shape(y, &[shape[0], to[0], to[1], shape[3]]);
    Ok(y)
}

/// Resizing along one axis (0 height, 1 width) is a product with a matrix of weights.
fn along(
    g: &mut Emit,
    x: Port,
    axis: usize,
    from: Dim,
    size: Size,
    method: Method,
    antialias: bool,
) -> Result<Port> {
    let to = size.known(from);
    let weights = match (from, to) {
        (Dim::Known(n), Some(m)) => {
            crate::emit::table_size(&[m, n])?;
            g.constant(Tensor::new([m, n], weights(method, n, m, antialias))?)
        }
        _ => {
            let to = size.value(g, from)?;
            let from = g.dim_value(from)?;
            emit_weights(g, method, from, to, antialias)?
        }
    };
    let no = || attr::bool(false);
    let product = |g: &mut Emit, x| g.op("BatchMatMulV2", &[weights, x], &[("adj_x", no()), ("adj_y", no())]);
    let dims = g.dims(x)?;
    let shape = g.shape(x)?;
    let y = if axis == 0 {
        let flat = spatial::reshape(g, x, &[Some(dims[0]), Some(dims[1]), None])?;
        product(g, flat)?
    } else {
        let flat = spatial::reshape(g, x, &[None, Some(dims[2]), Some(dims[3])])?;
        product(g, flat)?
    };
    let mut known = shape;
    known[axis + 1] = to;
    // Back to four dimensions, of which the new one is taken from the matrix.
    let mut target: Vec<Dim> = dims;
    target[axis + 1] = to.map_or(Dim::Of(weights, 0), Dim::Known);
    let y = g.reshape(y, &target)?;
    g.set_shape(y, &known);
    Ok(y)
}

/// The matrix `[to, from]` of weights, computed as TensorFlow does.
fn weights(method: Method, from: usize, to: usize, antialias: bool) -> Vec<f32> {
    let mut all = vec![0f32; from.saturating_mul(to)];
    let scale = from as f32 / to as f32;
    let stretch = if antialias { scale.max(1.0) } else { 1.0 };
    for (o, row) in all.chunks_exact_mut(from.max(1)).enumerate() {
        if method == Method::Area {
            let (begin, end) = (o as f32 * scale, (o + 1) as f32 * scale);
            for (i, w) in row.iter_mut().enumerate() {
                *w = ((i + 1) as f32).min(end) - (i as f32).max(begin);
                *w = w.max(0.0) / scale;
            }
            continue;
        }
        let mut at = (o as f32 + 0.5) * scale;
        if method == Method::Bicubic && !antialias {
            at = in_steps(at);
        }
        for (i, w) in row.iter_mut().enumerate() {
            *w = kernel(method, ((i as f32 + 0.5 - at) / stretch).abs());
        }
        let sum: f32 = row.iter().sum();
        if sum.abs() >= 1000.0 * f32::MIN_POSITIVE {
            row.iter_mut().for_each(|w| *w /= sum);
        }
    }
    all
}

/// TensorFlow looks bicubic weights up in a table of 1024 steps between pixels.
fn in_steps(at: f32) -> f32 {
    let at = at - 0.5;
    let pixel = at.floor();
    pixel + ((at - pixel) * 1024.0).round_ties_even() / 1024.0 + 0.5
}

/// The weight of a pixel at distance `x` ≥ 0.
fn kernel(method: Method, x: f32) -> f32 {
    use std::f32::consts::PI;
    match method {
        Method::Bilinear | Method::Nearest | Method::Area => (1.0 - x).max(0.0),
        Method::Bicubic if x >= 2.0 => 0.0,
        Method::Bicubic if x >= 1.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        Method::Bicubic => ((1.5 * x - 2.5) * x) * x + 1.0,
        Method::Mitchell if x >= 2.0 => 0.0,
        Method::Mitchell if x >= 1.0 => (((-7.0 / 18.0) * x + 2.0) * x - 10.0 / 3.0) * x + 16.0 / 9.0,
        Method::Mitchell => (((7.0 / 6.0) * x - 2.0) * x) * x + 8.0 / 9.0,
        Method::Gaussian if x >= 1.5 => 0.0,
        Method::Gaussian => (-x * x / 0.5).exp(),
        Method::Lanczos(r) if x > r => 0.0,
        Method::Lanczos(_) if x <= 1e-3 => 1.0,
        Method::Lanczos(r) => r * (PI * x).sin() * (PI * x / r).sin() / (PI * PI * x * x),
    }
}

/// [`weights`] as graph, for sizes that are known only when it runs.
fn emit_weights(g: &mut Emit, method: Method, from: Port, to: Port, antialias: bool) -> Result<Port> {
    let count = |g: &mut Emit, n: Port| {
        let (zero, one) = (g.int(0), g.int(1));
        let range = g.op("Range", &[zero, n, one], &[])?;
        g.set_shape(range, &[None]);
        g.cast(range, DType::Float32)
    };
    let (rows, columns) = (count(g, to)?, count(g, from)?);
    let rows = g.expand_dims(rows, 1)?;
    let (from, to) = (g.cast(from, DType::Float32)?, g.cast(to, DType::Float32)?);
    let scale = g.div(from, to)?;
    if method == Method::Area {
        let begin = g.mul(rows, scale)?;
        let next = g.offset(rows, 1.0)?;
        let end = g.mul(next, scale)?;
        let after = g.offset(columns, 1.0)?;
        let high = g.op("Minimum", &[after, end], &[])?;
        let low = g.op("Maximum", &[columns, begin], &[])?;
        let covered = g.sub(high, low)?;
        let covered = g.unary("Relu", covered)?;
        return g.div(covered, scale);
    }
    let centre = g.offset(rows, 0.5)?;
    let mut at = g.mul(centre, scale)?;
    if method == Method::Bicubic && !antialias {
        let corner = g.offset(at, -0.5)?;
        let pixel = g.unary("Floor", corner)?;
        let between = g.sub(corner, pixel)?;
        let steps = g.scale(between, 1024.0)?;
        let steps = g.unary("Round", steps)?;
        let between = g.scale(steps, 1.0 / 1024.0)?;
        let sum = g.add(pixel, between)?;
        at = g.offset(sum, 0.5)?;
    }
    let pixels = g.offset(columns, 0.5)?;
    let mut x = g.sub(pixels, at)?;
    if antialias {
        let one = g.scalar(1.0);
        let stretch = g.op("Maximum", &[scale, one], &[])?;
        x = g.div(x, stretch)?;
    }
    let x = g.unary("Abs", x)?;
    let w = emit_kernel(g, method, x)?;
    let sum = g.reduce("Sum", w, &[1], true)?;
    g.div(w, sum)
}

/// `((a·x + b)·x + c)·x + d`
fn cubic(g: &mut Emit, x: Port, [a, b, c, d]: [f32; 4]) -> Result<Port> {
    let mut y = g.scale(x, a)?;
    for (i, term) in [b, c, d].into_iter().enumerate() {
        if i > 0 {
            y = g.mul(y, x)?;
        }
        y = g.offset(y, term)?;
    }
    Ok(y)
}

/// [`kernel`] as graph.
fn emit_kernel(g: &mut Emit, method: Method, x: Port) -> Result<Port> {
    use std::f32::consts::PI;
    let below = |g: &mut Emit, bound: f32, inside: Port, outside: Port| {
        let bound = g.scalar(bound);
        let less = g.op("Less", &[x, bound], &[])?;
        g.select(less, inside, outside)
    };
    let zero = g.scalar(0.0);
    let piecewise = |g: &mut Emit, near: [f32; 4], far: [f32; 4]| {
        let (near, far) = (cubic(g, x, near)?, cubic(g, x, far)?);
        let far = below(g, 2.0, far, zero)?;
        below(g, 1.0, near, far)
    };
    match method {
        Method::Nearest | Method::Bilinear | Method::Area => {
            let one = g.scalar(1.0);
            let rest = g.sub(one, x)?;
            g.unary("Relu", rest)
        }
        Method::Bicubic => piecewise(g, [1.5, -2.5, 0.0, 1.0], [-0.5, 2.5, -4.0, 2.0]),
        Method::Mitchell => {
            piecewise(g, [7.0 / 6.0, -2.0, 0.0, 8.0 / 9.0], [-7.0 / 18.0, 2.0, -10.0 / 3.0, 16.0 / 9.0])
        }
        Method::Gaussian => {
            let square = g.unary("Square", x)?;
            let scaled = g.scale(square, -2.0)?;
            let y = g.unary("Exp", scaled)?;
            below(g, 1.5, y, zero)
        }
        Method::Lanczos(r) => {
            let tiny = g.scalar(1e-3);
            let safe = g.op("Maximum", &[x, tiny], &[])?;
            let (a, b) = (g.scale(safe, PI)?, g.scale(safe, PI / r)?);
            let (a, b) = (g.unary("Sin", a)?, g.unary("Sin", b)?);
            let product = g.mul(a, b)?;
            let product = g.scale(product, r / (PI * PI))?;
            let square = g.unary("Square", safe)?;
            let y = g.div(product, square)?;
            let one = g.scalar(1.0);
            let y = below(g, r, y, zero)?;
            below(g, 1e-3, one, y)
        }
    }
}
