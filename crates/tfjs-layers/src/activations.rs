use serde_json::{Map, Value};
use tfjs_graph::Port;

use crate::{Config, Dialect, Emit, LayersError};

/// An activation function of Keras.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Its name, the spelling of Keras 3 (`silu`, also where files say `swish`).
    pub name: &'static str,
    /// Options of activations given as layers or functions with arguments.
    pub config: Map<String, Value>,
}

/// Names in files, and the row of [`FUNCTIONS`] they mean.
const ALIASES: &[(&str, &str)] = &[
    ("swish", "silu"),
    ("hard_swish", "hard_silu"),
    ("gelu_new", "gelu_tanh"),
    ("hardSigmoid", "hard_sigmoid"),
    ("logSoftmax", "log_softmax"),
    ("geluNew", "gelu_tanh"),
    ("ReLU", "relu"),
    ("Relu6", "relu6"),
    ("ELU", "elu"),
    ("Elu", "elu"),
    ("Celu", "celu"),
    ("Gelu", "gelu"),
    ("Glu", "glu"),
    ("Softmax", "softmax"),
    ("LogSoftmax", "log_softmax"),
    ("logSigmoid", "log_sigmoid"),
    ("LeakyRelu", "leaky_relu"),
    ("leakyRelu", "leaky_relu"),
    ("SoftShrink", "soft_shrink"),
    ("HardShrink", "hard_shrink"),
    ("Squareplus", "squareplus"),
    ("Threshold", "threshold"),
];

type Emitter = fn(&mut Emit, Port, &Config<'_>) -> Result<Port, LayersError>;

/// Every activation: one row each.
const FUNCTIONS: &[(&str, Emitter)] = &[
    ("linear", |_, x, _| Ok(x)),
    ("relu", |g, x, c| relu(g, x, c)),
    ("relu6", |g, x, _| g.unary("Relu6", x)),
    ("elu", |g, x, c| elu(g, x, c.f32_or("alpha", 1.0)?)),
    ("selu", |g, x, _| g.unary("Selu", x)),
    ("sigmoid", |g, x, _| g.unary("Sigmoid", x)),
    ("tanh", |g, x, _| g.unary("Tanh", x)),
    ("softplus", |g, x, _| g.unary("Softplus", x)),
    ("softsign", |g, x, _| softsign(g, x)),
    ("softmax", |g, x, c| {
        let axis = g.axis(x, c.int_or("axis", -1)?)?;
        softmax(g, x, axis)
    }),
    ("log_softmax", |g, x, _| g.unary("LogSoftmax", x)),
    ("exponential", |g, x, _| g.unary("Exp", x)),
    ("hard_sigmoid", |g, x, _| match g.dialect {
        // relu6(x + 3) / 6
        Dialect::Keras3 => {
            let shifted = g.offset(x, 3.0)?;
            let clipped = g.unary("Relu6", shifted)?;
            g.scale(clipped, 1.0 / 6.0)
        }
        // clip(0.2 x + 0.5, 0, 1)
        _ => {
            let scaled = g.scale(x, 0.2)?;
            let shifted = g.offset(scaled, 0.5)?;
            let (zero, one) = (g.scalar(0.0), g.scalar(1.0));
            g.op("ClipByValue", &[shifted, zero, one], &[])
        }
    }),
    ("silu", |g, x, _| {
        let s = g.unary("Sigmoid", x)?;
        g.mul(x, s)
    }),
    ("gelu", |g, x, c| if c.bool_or("approximate", false)? { gelu_tanh(g, x) } else { gelu(g, x) }),
    ("gelu_tanh", |g, x, _| gelu_tanh(g, x)),
    ("mish", |g, x, _| {
        let s = g.unary("Softplus", x)?;
        let t = g.unary("Tanh", s)?;
        g.mul(x, t)
    }),
    ("leaky_relu", |g, x, c| {
        // The function's default; the layer of that name has another.
        let slope = slope(c, 0.2)?;
        leaky_relu(g, x, slope)
    }),
    ("LeakyReLU", |g, x, c| {
        let slope = slope(c, 0.3)?;
        leaky_relu(g, x, slope)
    }),
    ("ThresholdedReLU", |g, x, c| {
        let theta = c.f32_or("theta", 1.0)?;
        above(g, x, theta, 0.0)
    }),
    // x · relu6(x + 3) / 6
    ("hard_silu", |g, x, _| {
        let shifted = g.offset(x, 3.0)?;
        let clipped = g.unary("Relu6", shifted)?;
        let gate = g.scale(clipped, 1.0 / 6.0)?;
        g.mul(x, gate)
    }),
    ("celu", |g, x, c| {
        let alpha = c.f32_or("alpha", 1.0)?;
        celu(g, x, alpha)
    }),
    ("glu", |g, x, c| {
        let axis = g.axis(x, c.int_or("axis", -1)?)?;
        glu(g, x, axis)
    }),
    ("log_sigmoid", |g, x, _| log_sigmoid(g, x)),
    ("squareplus", |g, x, c| {
        let b = c.f32_or("b", 4.0)?;
        squareplus(g, x, b)
    }),
    ("sparse_plus", |g, x, _| sparse_plus(g, x)),
    ("sparse_sigmoid", |g, x, _| sparse_sigmoid(g, x)),
    ("sparsemax", |g, x, c| {
        let axis = g.axis(x, c.int_or("axis", -1)?)?;
        sparsemax(g, x, axis)
    }),
    ("soft_shrink", |g, x, c| {
        let threshold = c.f32_or("threshold", 0.5)?;
        soft_shrink(g, x, threshold)
    }),
    ("hard_shrink", |g, x, c| {
        let threshold = c.f32_or("threshold", 0.5)?;
        hard_shrink(g, x, threshold)
    }),
    ("hard_tanh", |g, x, _| clip(g, x, -1.0, 1.0)),
    ("tanh_shrink", |g, x, _| {
        let tanh = g.unary("Tanh", x)?;
        g.sub(x, tanh)
    }),
    ("threshold", |g, x, c| {
        let (threshold, value) = (c.f32_or("threshold", 0.0)?, c.f32_or("default_value", 0.0)?);
        above(g, x, threshold, value)
    }),
];

impl Activation {
    /// The identity.
    pub fn linear() -> Activation {
        Activation { name: "linear", config: Map::new() }
    }

    /// From a name, or an object `{class_name, config}`; null is linear.
    ///
    /// # Errors
    /// When the function is not known.
    pub fn parse(value: &Value) -> Result<Activation, LayersError> {
        let unknown = || LayersError::Config {
            key: "activation".to_owned(),
            value: value.to_string(),
            expected: "the name of an activation of Keras".to_owned(),
        };
        let (name, config) = match value {
            Value::Null => return Ok(Activation::linear()),
            Value::String(name) => (name.as_str(), Map::new()),
            Value::Object(o) => {
                let class = o.get("class_name").and_then(Value::as_str).ok_or_else(unknown)?;
                match (class, o.get("config")) {
                    // The layer of that name, or a layer saved by name only.
                    ("Activation", Some(Value::Object(config))) => {
                        return Activation::parse(config.get("activation").unwrap_or(&Value::Null));
                    }
                    // Keras 3 writes plain functions as {class_name: "function", config: "relu"}.
                    ("function", Some(Value::String(name))) => (name.as_str(), Map::new()),
                    (class, Some(Value::Object(config))) => (class, config.clone()),
                    (class, _) => (class, Map::new()),
                }
            }
            _ => return Err(unknown()),
        };
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, n)| n);
        let row = FUNCTIONS.iter().find(|(n, _)| *n == name).ok_or_else(unknown)?;
        Ok(Activation { name: row.0, config })
    }

    /// Whether it changes nothing.
    pub fn is_linear(&self) -> bool {
        self.name == "linear"
    }

    /// Writes it.
    ///
    /// # Errors
    /// When an option is wrong or the input does not fit.
    pub fn emit(&self, g: &mut Emit, x: Port) -> Result<Port, LayersError> {
        let config = Config::new(&self.config, g.dialect);
        let (_, emit) = FUNCTIONS
            .iter()
            .find(|(n, _)| *n == self.name)
            .ok_or_else(|| config.wrong("activation", "the name of an activation of Keras"))?;
        emit(g, x, &config)
    }
}

fn relu(g: &mut Emit, x: Port, c: &Config<'_>) -> Result<Port, LayersError> {
    let slope = c.f32_or("negative_slope", c.f32_or("alpha", 0.0)?)?;
    let max = c.opt_f64("max_value")?.map(|m| m as f32);
    let threshold = c.f32_or("threshold", 0.0)?;
    general_relu(g, x, slope, max, threshold)
}

fn slope(c: &Config<'_>, default: f32) -> Result<f32, LayersError> {
    let alpha = c.f32_or("alpha", default)?;
    c.f32_or("negative_slope", alpha)
}

/// x where x > `threshold` (at most `max`), else `slope·(x − threshold)`.
///
/// # Errors
/// When the input is not float.
pub(crate) fn general_relu(
    g: &mut Emit,
    x: Port,
    slope: f32,
    max: Option<f32>,
    threshold: f32,
) -> Result<Port, LayersError> {
    if threshold == 0.0 {
        match (slope, max) {
            (0.0, Some(6.0)) => return g.unary("Relu6", x),
            (0.0, None) => return g.unary("Relu", x),
            (slope, None) => return leaky_relu(g, x, slope),
            _ => {}
        }
    }
    let mut out = if threshold == 0.0 { g.unary("Relu", x)? } else { above(g, x, threshold, 0.0)? };
    if let Some(max) = max {
        let max = g.scalar(max);
        out = g.op("Minimum", &[out, max], &[])?;
    }
    if slope == 0.0 {
        return Ok(out);
    }
    let t = g.scalar(threshold);
    let below = g.sub(t, x)?;
    let below = g.unary("Relu", below)?;
    let below = g.scale(below, slope)?;
    g.sub(out, below)
}

/// x where it is greater than `threshold`, else `value`.
///
/// # Errors
/// When the input is not float.
pub(crate) fn above(g: &mut Emit, x: Port, threshold: f32, value: f32) -> Result<Port, LayersError> {
    let (t, value) = (g.scalar(threshold), g.scalar(value));
    let is_above = g.op("Greater", &[x, t], &[])?;
    g.select(is_above, x, value)
}

/// x between `low` and `high`.
///
/// # Errors
/// When the input is not float.
pub(crate) fn clip(g: &mut Emit, x: Port, low: f32, high: f32) -> Result<Port, LayersError> {
    let (low, high) = (g.scalar(low), g.scalar(high));
    g.op("ClipByValue", &[x, low, high], &[])
}

/// x / (1 + |x|)
pub(crate) fn softsign(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
    let magnitude = g.unary("Abs", x)?;
    let below = g.offset(magnitude, 1.0)?;
    g.div(x, below)
}

/// max(x, 0) + α·expm1(min(x, 0) / α)
pub(crate) fn celu(g: &mut Emit, x: Port, alpha: f32) -> Result<Port, LayersError> {
    let zero = g.scalar(0.0);
    let positive = g.op("Maximum", &[x, zero], &[])?;
    let negative = g.op("Minimum", &[x, zero], &[])?;
    let scaled = g.scale(negative, 1.0 / alpha)?;
    let curve = g.unary("Expm1", scaled)?;
    let curve = g.scale(curve, alpha)?;
    g.add(positive, curve)
}

/// One half of the channels, gated by the sigmoid of the other.
pub(crate) fn glu(g: &mut Emit, x: Port, axis: usize) -> Result<Port, LayersError> {
    match g.split(x, axis, 2)?.as_slice() {
        &[a, b] => {
            let gate = g.unary("Sigmoid", b)?;
            g.mul(a, gate)
        }
        _ => Err(LayersError::Inputs("halves of the channels are missing".to_owned())),
    }
}

/// −softplus(−x)
pub(crate) fn log_sigmoid(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
    let minus = g.unary("Neg", x)?;
    let plus = g.unary("Softplus", minus)?;
    g.unary("Neg", plus)
}

/// (x + √(x² + b)) / 2
pub(crate) fn squareplus(g: &mut Emit, x: Port, b: f32) -> Result<Port, LayersError> {
    let square = g.unary("Square", x)?;
    let inside = g.offset(square, b)?;
    let root = g.unary("Sqrt", inside)?;
    let sum = g.add(x, root)?;
    g.scale(sum, 0.5)
}

/// 0 below −1, x above 1, (x + 1)² / 4 between.
pub(crate) fn sparse_plus(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
    let shifted = g.offset(x, 1.0)?;
    let square = g.unary("Square", shifted)?;
    let curve = g.scale(square, 0.25)?;
    let one = g.scalar(1.0);
    let is_curve = g.op("Less", &[x, one], &[])?;
    let upper = g.select(is_curve, curve, x)?;
    let (low, zero) = (g.scalar(-1.0), g.scalar(0.0));
    let is_zero = g.op("LessEqual", &[x, low], &[])?;
    g.select(is_zero, zero, upper)
}

/// (x + 1) / 2 between 0 and 1.
pub(crate) fn sparse_sigmoid(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
    let shifted = g.offset(x, 1.0)?;
    let half = g.scale(shifted, 0.5)?;
    clip(g, half, 0.0, 1.0)
}

/// max(x − τ, 0). Where the projection onto the simplex has for τ the sum of the support, Keras has the sum of its running
/// sums; models are trained with what Keras computes.
///
/// # Errors
/// When the length of the axis is not known.
pub(crate) fn sparsemax(g: &mut Emit, x: Port, axis: usize) -> Result<Port, LayersError> {
    let count = g.known_dim(x, axis, "number of logits")?;
    let last = g.rank(x)?.saturating_sub(1);
    let mut order: Vec<usize> = (0..=last).collect();
    order.swap(axis, last);
    let moved = g.transpose(x, &order)?;
    let k = g.int(count as i32);
    let sorted = g.op_n("TopKV2", &[moved, k], &[("sorted", tfjs_graph::builder::attr::bool(true))], 2)?[0];
    let along = g.int(last as i32);
    let no = || tfjs_graph::builder::attr::bool(false);
    let sums = g.op("Cumsum", &[sorted, along], &[("exclusive", no()), ("reverse", no())])?;
    // Element r is in the support if 1 + r·z_r exceeds the sum of those up to it.
    let ranks: Vec<f32> = (1..=count).map(|r| r as f32).collect();
    let ranks = g.floats(&ranks);
    let excess = g.offset(sums, -1.0)?;
    let bound = g.div(excess, ranks)?;
    let inside = g.op("Greater", &[sorted, bound], &[])?;
    let inside = g.cast(inside, tfjs_kernels::DType::Float32)?;
    let size = g.reduce("Sum", inside, &[last], true)?;
    let kept = g.mul(sums, inside)?;
    let total = g.reduce("Sum", kept, &[last], true)?;
    let excess = g.offset(total, -1.0)?;
    let tau = g.div(excess, size)?;
    let over = g.sub(moved, tau)?;
    let y = g.unary("Relu", over)?;
    g.transpose(y, &order)
}

/// x moved towards 0 by the threshold, 0 within it.
pub(crate) fn soft_shrink(g: &mut Emit, x: Port, threshold: f32) -> Result<Port, LayersError> {
    let up = g.offset(x, -threshold)?;
    let up = g.unary("Relu", up)?;
    let down = g.unary("Neg", x)?;
    let down = g.offset(down, -threshold)?;
    let down = g.unary("Relu", down)?;
    g.sub(up, down)
}

/// x, 0 within the threshold.
pub(crate) fn hard_shrink(g: &mut Emit, x: Port, threshold: f32) -> Result<Port, LayersError> {
    let magnitude = g.unary("Abs", x)?;
    let (t, zero) = (g.scalar(threshold), g.scalar(0.0));
    let beyond = g.op("Greater", &[magnitude, t], &[])?;
    g.select(beyond, x, zero)
}

pub(crate) fn leaky_relu(g: &mut Emit, x: Port, slope: f32) -> Result<Port, LayersError> {
    g.op("LeakyRelu", &[x], &[("alpha", tfjs_graph::builder::attr::float(slope))])
}

pub(crate) fn elu(g: &mut Emit, x: Port, alpha: f32) -> Result<Port, LayersError> {
    let e = g.unary("Elu", x)?;
    if alpha == 1.0 {
        return Ok(e);
    }
    let scaled = g.scale(e, alpha)?;
    let zero = g.scalar(0.0);
    let positive = g.op("Greater", &[x, zero], &[])?;
    g.select(positive, x, scaled)
}

/// Softmax along any axis.
///
/// # Errors
/// When the rank is not known.
pub(crate) fn softmax(g: &mut Emit, x: Port, axis: usize) -> Result<Port, LayersError> {
    let rank = g.rank(x)?;
    if axis + 1 == rank {
        return g.unary("Softmax", x);
    }
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, rank - 1);
    let moved = g.transpose(x, &order)?;
    let soft = g.unary("Softmax", moved)?;
    g.transpose(soft, &order)
}

/// x/2 · (1 + erf(x/√2))
pub(crate) fn gelu(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
    let scaled = g.scale(x, std::f32::consts::FRAC_1_SQRT_2)?;
    let erf = g.unary("Erf", scaled)?;
    let one = g.offset(erf, 1.0)?;
    let half = g.scale(x, 0.5)?;
    g.mul(half, one)
}

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715 x³)))
pub(crate) fn gelu_tanh(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
    let square = g.mul(x, x)?;
    let cube = g.mul(square, x)?;
    let cubic = g.scale(cube, 0.044_715)?;
    let inner = g.add(x, cubic)?;
    let scaled = g.scale(inner, (2.0 / std::f32::consts::PI).sqrt())?;
    let tanh = g.unary("Tanh", scaled)?;
    let one = g.offset(tanh, 1.0)?;
    let half = g.scale(x, 0.5)?;
    g.mul(half, one)
}
