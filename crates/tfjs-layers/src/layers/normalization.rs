//! Batch, layer, group, unit, RMS and spectral normalisation.

mod batch;
mod spectral_norm;

use tfjs_graph::{Fact, Port};
use tfjs_kernels::DType;

use super::core::built;
use crate::{
    Call, Config, Dialect, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId, WeightInit,
    emit::Dim,
};

pub(crate) use batch::without_virtual_batch;

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("BatchNormalization", batch::new),
    LayerDef::new("BatchNormalizationV1", batch::new),
    LayerDef::new("BatchNormalizationV2", batch::new),
    LayerDef::new("SyncBatchNormalization", batch::new_synchronized),
    LayerDef::new("LayerNormalization", layer),
    LayerDef::new("GroupNormalization", group),
    LayerDef::new("UnitNormalization", |c| {
        c.known(&["activity_regularizer"]);
        Ok(Box::new(Unit { axes: c.opt_ints("axis")?.unwrap_or_else(|| vec![-1]) }))
    }),
    LayerDef::new("RMSNormalization", |c| {
        Ok(Box::new(Rms {
            axes: c.opt_ints("axis")?.unwrap_or_else(|| vec![-1]),
            epsilon: c.f32_or("epsilon", 1e-6)?,
            scale: None,
        }))
    }),
    LayerDef::new("SpectralNormalization", spectral_norm::new),
];

/// Sizes of some axes of the first input, which must be known, and the axes counted from the front. Keras 2 keeps their
/// order; Keras 3 sorts them as they are given.
fn axes_of(inputs: &[Fact], axes: &[i64], dialect: Dialect) -> Result<(Vec<usize>, Vec<usize>)> {
    let shape = inputs.first().and_then(|f| f.shape.as_ref());
    let shape = shape.ok_or_else(|| LayersError::Inputs("the rank of the input is not known".to_owned()))?;
    let rank = shape.len() as i64;
    let mut found: Vec<usize> = Vec::new();
    let mut axes = axes.to_vec();
    if dialect == Dialect::Keras3 {
        axes.sort_unstable();
    }
    for axis in axes {
        let positive = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
        let at = positive.filter(|&a| a < shape.len()).ok_or_else(|| {
            LayersError::Inputs(format!("axis {axis} does not exist in an input of {rank} dimensions"))
        })?;
        if !found.contains(&at) {
            found.push(at);
        }
    }
    let sizes = found.iter().map(|&a| {
        shape[a]
            .ok_or_else(|| LayersError::Inputs(format!("the size of axis {a} of the input must be known")))
    });
    let sizes = sizes.collect::<Result<_>>()?;
    Ok((found, sizes))
}

/// Lays the sizes of `axes` out over `rank` dimensions, so that a parameter can be broadcast.
fn spread(g: &mut Emit, parameter: Port, axes: &[usize], rank: usize) -> Result<Port> {
    if axes.iter().rev().zip((0..rank).rev()).all(|(&a, b)| a == b) {
        return Ok(parameter);
    }
    let sizes = g.dims(parameter)?;
    let mut dims = vec![Dim::Known(1); rank];
    for (&axis, size) in axes.iter().zip(sizes) {
        dims[axis] = size;
    }
    g.reshape(parameter, &dims)
}

/// `(x − mean) / √(variance + ε)` with moments over `axes`; also where only some elements count, by `weights`.
fn standardize(g: &mut Emit, x: Port, axes: &[usize], epsilon: f32, weights: Option<Port>) -> Result<Port> {
    let moment = |g: &mut Emit, x: Port| match weights {
        None => g.reduce("Mean", x, axes, true),
        Some(w) => {
            let weighted = g.mul(x, w)?;
            let sum = g.reduce("Sum", weighted, axes, true)?;
            let count = g.reduce("Sum", w, axes, true)?;
            g.div(sum, count)
        }
    };
    let mean = moment(g, x)?;
    let centred = g.sub(x, mean)?;
    let squares = g.unary("Square", centred)?;
    let variance = moment(g, squares)?;
    let inverse = inverse_root(g, variance, epsilon)?;
    g.mul(centred, inverse)
}

/// `1 / √(x + ε)`
fn inverse_root(g: &mut Emit, x: Port, epsilon: f32) -> Result<Port> {
    let safe = g.offset(x, epsilon)?;
    g.unary("Rsqrt", safe)
}

/// Options and weights of a learnt scale and shift.
#[derive(Debug)]
struct Affine {
    scale: bool,
    center: bool,
    gamma_initializer: WeightInit,
    beta_initializer: WeightInit,
}

impl Affine {
    fn new(c: &Config<'_>) -> Result<Affine> {
        c.known(&["activity_regularizer"]);
        Ok(Affine {
            scale: c.bool_or("scale", true)?,
            center: c.bool_or("center", true)?,
            gamma_initializer: c.initializer("gamma", "ones")?,
            beta_initializer: c.initializer("beta", "zeros")?,
        })
    }

    /// gamma and beta, as far as there are.
    fn build(&self, scope: &mut Scope<'_>, shape: &[usize]) -> (Option<WeightId>, Option<WeightId>) {
        let gamma = self.scale.then(|| scope.weight("gamma", shape, self.gamma_initializer.clone()));
        let beta = self.center.then(|| scope.weight("beta", shape, self.beta_initializer.clone()));
        (gamma, beta)
    }
}

/// Which axes are normalised, gamma, beta.
type Parts = (Vec<usize>, Option<WeightId>, Option<WeightId>);

/// `x · gamma + beta`, the parameters laid out along `axes`.
fn affine(g: &mut Emit, mut x: Port, (axes, gamma, beta): &Parts) -> Result<Port> {
    let rank = g.rank(x)?;
    if let Some(gamma) = gamma {
        let gamma = g.weight(*gamma);
        let gamma = spread(g, gamma, axes, rank)?;
        x = g.mul(x, gamma)?;
    }
    if let Some(beta) = beta {
        let beta = g.weight(*beta);
        let beta = spread(g, beta, axes, rank)?;
        x = g.add(x, beta)?;
    }
    Ok(x)
}

fn layer(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let rms_scaling = c.bool_or("rms_scaling", false)?;
    let mut affine = Affine::new(c)?;
    affine.scale |= rms_scaling;
    affine.center &= !rms_scaling;
    Ok(Box::new(LayerNormalization {
        axes: c.opt_ints("axis")?.unwrap_or_else(|| vec![-1]),
        epsilon: c.f32_or("epsilon", 1e-3)?,
        rms_scaling,
        affine,
        parts: None,
    }))
}

/// `(x − mean) / √(variance + ε) · gamma + beta`, the moments of each example by itself; with `rms_scaling` the mean
/// is not subtracted.
///
/// gamma, beta: the sizes of the normalised axes.
#[derive(Debug)]
struct LayerNormalization {
    axes: Vec<i64>,
    epsilon: f32,
    rms_scaling: bool,
    affine: Affine,
    parts: Option<Parts>,
}

impl Layer for LayerNormalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let (axes, sizes) = axes_of(inputs, &self.axes, scope.dialect)?;
        let (gamma, beta) = self.affine.build(scope, &sizes);
        self.parts = Some((axes, gamma, beta));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let parts = built(self.parts.as_ref())?;
        let x = call.one()?.port;
        let x = g.cast(x, DType::Float32)?;
        let y = if self.rms_scaling {
            let mean = g.reduce("Mean", x, &parts.0, true)?;
            let squares = g.op("SquaredDifference", &[x, mean], &[])?;
            let variance = g.reduce("Mean", squares, &parts.0, true)?;
            let inverse = inverse_root(g, variance, self.epsilon)?;
            g.mul(x, inverse)?
        } else {
            standardize(g, x, &parts.0, self.epsilon, None)?
        };
        let y = affine(g, y, parts)?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

fn group(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let groups = c.int_or("groups", 32)?;
    if groups == 0 || groups < -1 {
        return Err(c.wrong("groups", "a number of groups, or -1 for one per channel"));
    }
    Ok(Box::new(GroupNormalization {
        groups: usize::try_from(groups).ok(),
        axis: c.int_or("axis", -1)?,
        epsilon: c.f32_or("epsilon", 1e-3)?,
        affine: Affine::new(c)?,
        parts: None,
    }))
}

/// Like layer normalisation over groups of channels.
///
/// gamma, beta: `[channels]`.
#[derive(Debug)]
struct GroupNormalization {
    /// One per channel, if `None`.
    groups: Option<usize>,
    axis: i64,
    epsilon: f32,
    affine: Affine,
    parts: Option<Parts>,
}

impl Layer for GroupNormalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let (axes, sizes) = axes_of(inputs, &[self.axis], scope.dialect)?;
        if let (Some(groups), &[channels]) = (self.groups, &sizes[..])
            && channels % groups != 0
        {
            return Err(LayersError::Inputs(format!(
                "{channels} channels cannot be divided into {groups} groups"
            )));
        }
        let (gamma, beta) = self.affine.build(scope, &sizes);
        self.parts = Some((axes, gamma, beta));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let parts = built(self.parts.as_ref())?;
        let x = call.one()?.port;
        let axis = parts.0.first().copied().unwrap_or_default();
        let channels = g.known_dim(x, axis, "number of channels")?;
        let groups = self.groups.unwrap_or(channels);
        let dims = g.dims(x)?;
        let mut grouped = dims.clone();
        grouped[axis] = Dim::Known(channels / groups);
        grouped.insert(axis, Dim::Known(groups));
        let axes: Vec<usize> = (1..grouped.len()).filter(|&a| a != axis).collect();
        let mask = call.mask(0);
        // Keras 2 broadcasts the mask against the input itself.
        let weights = match mask.filter(|_| g.dialect != Dialect::Keras3) {
            Some(mask) => {
                let mask = g.cast(mask, DType::Float32)?;
                let ones = g.unary("OnesLike", x)?;
                let weights = g.mul(ones, mask)?;
                Some(g.reshape(weights, &grouped)?)
            }
            None => None,
        };
        let x = g.reshape(x, &grouped)?;
        let y = standardize(g, x, &axes, self.epsilon, weights)?;
        let y = g.reshape(y, &dims)?;
        let y = affine(g, y, parts)?;
        Ok(vec![Sym::masked(y, mask)])
    }
}

/// `x / ‖x‖₂`
#[derive(Debug)]
struct Unit {
    axes: Vec<i64>,
}

impl Layer for Unit {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let axes: Vec<usize> = self.axes.iter().map(|&a| g.axis(x, a)).collect::<Result<_>>()?;
        let squares = g.unary("Square", x)?;
        let sum = g.reduce("Sum", squares, &axes, true)?;
        let inverse = match g.dialect {
            // Bounds the norm, not its square.
            Dialect::Keras3 => {
                let (inverse, bound) = (g.unary("Rsqrt", sum)?, g.scalar(1e12));
                g.op("Minimum", &[inverse, bound], &[])?
            }
            _ => {
                let bound = g.scalar(1e-12);
                let safe = g.op("Maximum", &[sum, bound], &[])?;
                g.unary("Rsqrt", safe)?
            }
        };
        let y = g.mul(x, inverse)?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

/// `x / √(mean of x² + ε) · scale`
///
/// scale: the sizes of the normalised axes.
#[derive(Debug)]
struct Rms {
    axes: Vec<i64>,
    epsilon: f32,
    scale: Option<(Vec<usize>, WeightId)>,
}

impl Layer for Rms {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let (axes, sizes) = axes_of(inputs, &self.axes, scope.dialect)?;
        self.scale = Some((axes, scope.weight("scale", &sizes, Initializer::ones())));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (axes, scale) = built(self.scale.as_ref())?;
        let x = call.one()?.port;
        let squares = g.unary("Square", x)?;
        let mean = g.reduce("Mean", squares, axes, true)?;
        let inverse = inverse_root(g, mean, self.epsilon)?;
        let y = g.mul(x, inverse)?;
        // Broadcast against the last axes, whichever were normalised.
        let scale = g.weight(*scale);
        Ok(vec![g.mul(y, scale)?.into()])
    }
}
