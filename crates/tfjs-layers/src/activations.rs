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
    ("leakyrelu", "leaky_relu"),
    ("LeakyReLU", "leaky_relu"),
    ("ReLU", "relu"),
    ("ELU", "elu"),
    ("Softmax", "softmax"),
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
    ("softsign", |g, x, _| g.unary("Softsign", x)),
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
    ("gelu", |g, x, c| {
        if c.bool_or("approximate", false)? {
            return gelu_tanh(g, x);
        }
        // x/2 · (1 + erf(x/√2))
        let scaled = g.scale(x, std::f32::consts::FRAC_1_SQRT_2)?;
        let erf = g.unary("Erf", scaled)?;
        let one = g.offset(erf, 1.0)?;
        let half = g.scale(x, 0.5)?;
        g.mul(half, one)
    }),
    ("gelu_tanh", |g, x, _| gelu_tanh(g, x)),
    ("mish", |g, x, _| {
        let s = g.unary("Softplus", x)?;
        let t = g.unary("Tanh", s)?;
        g.mul(x, t)
    }),
    ("leaky_relu", |g, x, c| {
        // Keras 2 and 3 agree on 0.2 for the function; the layer of that name has its own default.
        let slope = match c.opt_f64("negative_slope")? {
            Some(s) => s,
            None => c.f64_or("alpha", 0.2)?,
        };
        leaky_relu(g, x, slope as f32)
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
    pub fn parse(value: &Value, _dialect: Dialect) -> Result<Activation, LayersError> {
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

/// `max_value` where x ≥ `max_value`, x where x ≥ `threshold`, else `slope·(x − threshold)`.
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
    let out = match (slope, threshold) {
        (0.0, 0.0) if max == Some(6.0) => return g.unary("Relu6", x),
        (0.0, 0.0) => g.unary("Relu", x)?,
        (slope, 0.0) => leaky_relu(g, x, slope)?,
        (slope, threshold) => {
            let t = g.scalar(threshold);
            let above = g.op("GreaterEqual", &[x, t], &[])?;
            let below = g.sub(x, t)?;
            let below = g.scale(below, slope)?;
            g.select(above, x, below)?
        }
    };
    match max {
        None => Ok(out),
        Some(max) => {
            let max = g.scalar(max);
            g.op("Minimum", &[out, max], &[])
        }
    }
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

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715 x³)))
fn gelu_tanh(g: &mut Emit, x: Port) -> Result<Port, LayersError> {
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
