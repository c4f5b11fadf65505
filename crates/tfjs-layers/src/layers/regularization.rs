//! Dropout, noise, and penalties on what layers give. Dropout and noise do nothing at inference, except where a call of a
//! Keras 2 model says `training=True` (dropout for estimates of uncertainty): there the file's own word wins over `predict`.

use tfjs_graph::{Fact, Port};
use tfjs_kernels::DType;

use super::core::Identity;
use crate::{
    Call, Config, Dialect, Emit, Layer, LayerConfig, LayerDef, LayersError, Network, Regularizer, Scope, Sym,
    emit::Dim,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("ActivityRegularization", |c| {
        c.known(&["l1", "l2"]);
        Ok(Box::new(Identity))
    }),
    LayerDef::new("Dropout", |c| noise(c, Kind::Dropout, Shared::Given)),
    LayerDef::new("SpatialDropout1D", |c| noise(c, Kind::Dropout, Shared::Spatial)),
    LayerDef::new("SpatialDropout2D", |c| noise(c, Kind::Dropout, Shared::Spatial)),
    LayerDef::new("SpatialDropout3D", |c| noise(c, Kind::Dropout, Shared::Spatial)),
    LayerDef::new("AlphaDropout", |c| noise(c, Kind::Alpha, Shared::Given)),
    LayerDef::new("GaussianDropout", |c| noise(c, Kind::GaussianDropout, Shared::Given)),
    LayerDef::new("GaussianNoise", |c| noise(c, Kind::GaussianNoise, Shared::Given)),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dropout,
    Alpha,
    GaussianDropout,
    GaussianNoise,
}

/// Along which axes a drawn number is shared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shared {
    /// Those of size 1 in `noise_shape`.
    Given,
    /// All but batch and channels.
    Spatial,
}

fn noise(c: &Config<'_>, kind: Kind, shared: Shared) -> Result<Box<dyn Layer>> {
    let key = if kind == Kind::GaussianNoise { "stddev" } else { "rate" };
    c.known(&["noise_shape"]);
    let mut shape = None;
    if shared == Shared::Given
        && matches!(kind, Kind::Dropout | Kind::Alpha)
        && let Some(value) = c.get("noise_shape")
    {
        let list = value.as_array().ok_or_else(|| c.wrong("noise_shape", "a list of sizes"))?;
        shape = Some(list.iter().map(|d| d.as_u64().and_then(|d| usize::try_from(d).ok())).collect());
    }
    let channels_last = shared != Shared::Spatial || c.channels_last()?;
    let rate = c.opt_f64(key)?.ok_or_else(|| c.wrong(key, "a number"))?;
    let rate = match kind {
        Kind::GaussianNoise => rate,
        _ if (0.0..=1.0).contains(&rate) => rate,
        _ if c.dialect == Dialect::Tfjs && !rate.is_nan() => rate.clamp(0.0, 1.0),
        _ => return Err(c.wrong(key, "between 0 and 1")),
    };
    let seed = seed(c);
    Ok(Box::new(Noise { kind, shared, rate: rate as f32, shape, channels_last, seed }))
}

#[derive(Debug)]
struct Noise {
    kind: Kind,
    shared: Shared,
    rate: f32,
    shape: Option<Vec<Option<usize>>>,
    channels_last: bool,
    seed: Option<i64>,
}

impl Layer for Noise {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.input(0)?.port;
        let y = if call.training(g) && self.rate > 0.0 { self.emit(g, x)? } else { x };
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

impl Noise {
    fn emit(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let keep = 1.0 - self.rate;
        match self.kind {
            Kind::GaussianNoise => {
                let dims = self.dims(g, x)?;
                let noise = g.random_normal(&dims, self.seed)?;
                let noise = g.scale(noise, self.rate)?;
                g.add(x, noise)
            }
            // Keras 2 leaves these out, Keras 3 fails in them.
            Kind::GaussianDropout | Kind::Alpha if keep <= 0.0 => match g.dialect {
                Dialect::Keras3 => Err(LayersError::Inputs("a rate of 1 leaves nothing to train".to_owned())),
                _ => Ok(x),
            },
            Kind::GaussianDropout => {
                let dims = self.dims(g, x)?;
                let noise = g.random_normal(&dims, self.seed)?;
                let noise = g.scale(noise, (self.rate / keep).sqrt())?;
                let factor = g.offset(noise, 1.0)?;
                g.mul(x, factor)
            }
            Kind::Dropout => {
                let dims = self.dims(g, x)?;
                dropout(g, x, self.rate, &dims, self.seed)
            }
            Kind::Alpha => {
                // −scale · alpha of SELU: what dropped elements are set to.
                let low = -1.673_263_2_f32 * 1.050_701;
                let a = ((1.0 - self.rate) * (1.0 + self.rate * low * low)).powf(-0.5);
                let b = -a * low * self.rate;
                let dims = self.dims(g, x)?;
                let kept = kept(g, self.rate, &dims, self.seed)?;
                let value = g.mul(x, kept)?;
                let one = g.scalar(1.0);
                let dropped = g.sub(one, kept)?;
                let dropped = g.scale(dropped, low)?;
                let mixed = g.add(value, dropped)?;
                let scaled = g.scale(mixed, a)?;
                g.offset(scaled, b)
            }
        }
    }

    /// How many numbers are drawn along each axis.
    fn dims(&self, g: &mut Emit, x: Port) -> Result<Vec<Dim>> {
        let mut dims = g.dims(x)?;
        let rank = dims.len();
        for (axis, dim) in dims.iter_mut().enumerate() {
            let is_channel = axis == if self.channels_last { rank - 1 } else { 1 };
            match (&self.shape, self.shared) {
                (_, Shared::Spatial) if axis > 0 && !is_channel => *dim = Dim::Known(1),
                (Some(shape), Shared::Given) => {
                    if let Some(Some(size)) = shape.get(axis) {
                        *dim = Dim::Known(*size);
                    }
                }
                _ => {}
            }
        }
        Ok(dims)
    }
}

/// The option `activity_regularizer`.
pub(super) fn activity_regularizer(c: &Config<'_>) -> Option<Regularizer> {
    Regularizer::parse(c.get("activity_regularizer")?, c.dialect)
}

/// The option `seed`.
pub(super) fn seed(c: &Config<'_>) -> Option<i64> {
    // Keras 3 also writes a generator of seeds here.
    c.opt_int("seed").ok().flatten()
}

/// `x` with a share of `rate` of its elements set to zero, the others scaled up to the same mean. As many numbers are drawn
/// as `dims` say, and shared along axes of size 1.
pub(super) fn dropout(g: &mut Emit, x: Port, rate: f32, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
    if rate <= 0.0 {
        return Ok(x);
    }
    if rate >= 1.0 {
        return g.unary("ZerosLike", x);
    }
    let factors = dropout_factors(g, rate, dims, seed)?;
    g.mul(x, factors)
}

/// Zeros, a share of `rate` of them, and else `1 / (1 − rate)`.
pub(super) fn dropout_factors(g: &mut Emit, rate: f32, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
    if rate >= 1.0 {
        return g.zeros(dims);
    }
    let kept = kept(g, rate, dims, seed)?;
    g.scale(kept, 1.0 / (1.0 - rate))
}

/// 1 where an element is kept, else 0.
fn kept(g: &mut Emit, rate: f32, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
    let uniform = g.random_uniform(dims, seed)?;
    let rate = g.scalar(rate);
    let kept = g.op("GreaterEqual", &[uniform, rate], &[])?;
    g.cast(kept, DType::Float32)
}

/// A layer whose outputs are penalised: the mean penalty of a sample is added to the loss.
#[derive(Debug)]
struct Penalised {
    layer: Box<dyn Layer>,
    regularizer: Regularizer,
}

/// The layer with the penalty on its outputs that its configuration asks for.
pub(super) fn penalised(layer: Box<dyn Layer>, config: &LayerConfig, dialect: Dialect) -> Box<dyn Layer> {
    let regularizer = match config.class_name.as_str() {
        "ActivityRegularization" => {
            let factor = |key: &str| config.config.get(key).cloned().unwrap_or(serde_json::json!(0.0));
            let options = serde_json::json!({"l1": factor("l1"), "l2": factor("l2")});
            Regularizer::parse(&serde_json::json!({"class_name": "L1L2", "config": options}), dialect)
        }
        // Keras 3 hands the penalty on to the projections only.
        "MultiHeadAttention" if dialect == Dialect::Keras3 => None,
        // Keras 2 forgets it.
        "EinsumDense" if dialect != Dialect::Keras3 => None,
        _ => config.config.get("activity_regularizer").and_then(|value| Regularizer::parse(value, dialect)),
    };
    match regularizer {
        Some(regularizer) => Box::new(Penalised { layer, regularizer }),
        None => layer,
    }
}

/// Adds the penalty on one output to the loss, divided by the number of samples.
pub(super) fn penalise(g: &mut Emit, regularizer: &Regularizer, output: Port) -> Result<()> {
    if !g.feeds_weights() {
        return Ok(());
    }
    let output = g.cast(output, DType::Float32)?;
    let mut penalty = regularizer.loss(g, output)?;
    if g.rank(output)? > 0 {
        let batch = g.dim(output, 0)?;
        let batch = g.dim_value(batch)?;
        let batch = g.cast(batch, DType::Float32)?;
        penalty = g.op("DivNoNan", &[penalty, batch], &[])?;
    }
    g.add_loss(penalty);
    Ok(())
}

impl Layer for Penalised {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        self.layer.build(scope, inputs)
    }

    fn build_for(&mut self, scope: &mut Scope<'_>, g: &Emit, call: &Call) -> Result<()> {
        self.layer.build_for(scope, g, call)
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let outputs = self.layer.call(g, call)?;
        for output in &outputs {
            penalise(g, &self.regularizer, output.port)?;
        }
        Ok(outputs)
    }

    fn network(&self) -> Option<&Network> {
        self.layer.network()
    }

    fn held_as(&self) -> &'static str {
        self.layer.held_as()
    }
}
