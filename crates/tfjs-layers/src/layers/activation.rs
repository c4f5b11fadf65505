//! Activations that are layers: ReLU and its kin, PReLU with weights, Softmax over any axes with a mask.

use tfjs_graph::{Fact, Port};
use tfjs_kernels::DType;

use super::core::built;
use crate::{
    Activation, Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Scope, Sym, WeightId, WeightInit,
    activations::softmax,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Activation", |c| Ok(Box::new(Function(c.activation("activation", "linear")?)))),
    LayerDef::new("ReLU", |c| function(c, "relu", &["max_value", "negative_slope", "threshold"])),
    LayerDef::new("LeakyReLU", |c| function(c, "LeakyReLU", &["alpha", "negative_slope"])),
    LayerDef::new("ELU", |c| function(c, "elu", &["alpha"])),
    LayerDef::new("ThresholdedReLU", |c| function(c, "ThresholdedReLU", &["theta"])),
    LayerDef::new("PReLU", |c| {
        Ok(Box::new(PRelu {
            initializer: c.initializer("alpha", "zeros")?,
            shared: c.opt_ints("shared_axes")?.unwrap_or_default(),
            alpha: None,
        }))
    }),
    LayerDef::new("Softmax", |c| {
        let default = if c.dialect == Dialect::Tfjs { 1 } else { -1 };
        Ok(Box::new(Softmax { axes: c.opt_ints("axis")?.unwrap_or_else(|| vec![default]) }))
    }),
];

fn function(c: &Config<'_>, name: &'static str, keys: &[&str]) -> Result<Box<dyn Layer>> {
    let mut config = serde_json::Map::new();
    for key in keys {
        if let Some(value) = c.get(key) {
            c.opt_f64(key)?;
            config.insert((*key).to_owned(), value.clone());
        }
    }
    Ok(Box::new(Function(Activation { name, config })))
}

/// A function of each element (or along the last axis).
#[derive(Debug)]
struct Function(Activation);

impl Layer for Function {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let y = self.0.emit(g, call.one()?.port)?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

/// x where positive, `alpha`·x elsewhere.
///
/// alpha: the shape of the input without the batch, 1 along shared axes.
#[derive(Debug)]
struct PRelu {
    initializer: WeightInit,
    /// Counted from the batch axis.
    shared: Vec<i64>,
    alpha: Option<WeightId>,
}

impl Layer for PRelu {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let shape = inputs.first().and_then(|f| f.shape.clone()).unwrap_or_default();
        let mut sizes = Vec::new();
        for (axis, dim) in shape.iter().enumerate().skip(1) {
            let is_shared = self.shared.contains(&(axis as i64));
            sizes.push(if is_shared { Some(1) } else { *dim });
        }
        let sizes: Option<Vec<usize>> = sizes.into_iter().collect();
        let sizes = sizes.ok_or_else(|| {
            let given = inputs.first().map_or("nothing".to_owned(), ToString::to_string);
            LayersError::Inputs(format!(
                "dimensions that `shared_axes` leaves out must be known, the input is {given}"
            ))
        })?;
        self.alpha = Some(scope.weight("alpha", &sizes, self.initializer.clone()));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let alpha = g.weight(built(self.alpha)?);
        let y = g.op("Prelu", &[x, alpha], &[])?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

#[derive(Debug)]
struct Softmax {
    axes: Vec<i64>,
}

impl Layer for Softmax {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        // A second argument is a mask too.
        let x = call.input(0)?.port;
        let mask = call.inputs.get(1).map(|s| s.port).or_else(|| call.mask(0));
        let axes: Vec<usize> = self.axes.iter().map(|&a| g.axis(x, a)).collect::<Result<_>>()?;
        let y = match mask {
            Some(mask) => masked_softmax(g, x, mask, &axes)?,
            None => softmax_over(g, x, &axes)?,
        };
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

/// Softmax of what the mask lets through. Keras 2 adds −10⁹ elsewhere; Keras 3 puts −10⁹ there and zeros in the result.
///
/// # Errors
/// When the mask cannot be broadcast to `x`.
pub(super) fn masked_softmax(g: &mut Emit, x: Port, mask: Port, axes: &[usize]) -> Result<Port> {
    if g.dialect == Dialect::Keras3 {
        let mask = boolean(g, mask, 0.5)?;
        let low = g.scalar(-1e9);
        let x = g.select(mask, x, low)?;
        let y = softmax_over(g, x, axes)?;
        let zero = g.scalar(0.0);
        return g.select(mask, y, zero);
    }
    let mask = g.cast(mask, DType::Float32)?;
    let one = g.scalar(1.0);
    let out = g.sub(one, mask)?;
    let out = g.scale(out, -1e9)?;
    let x = g.add(x, out)?;
    softmax_over(g, x, axes)
}

/// Softmax over several axes together.
///
/// # Errors
/// When there are none.
pub(crate) fn softmax_over(g: &mut Emit, x: Port, axes: &[usize]) -> Result<Port> {
    match axes {
        [] => Err(LayersError::Inputs("softmax needs an axis".to_owned())),
        [axis] => softmax(g, x, *axis),
        axes => {
            let max = g.reduce("Max", x, axes, true)?;
            let shifted = g.sub(x, max)?;
            let exp = g.unary("Exp", shifted)?;
            let sum = g.reduce("Sum", exp, axes, true)?;
            g.div(exp, sum)
        }
    }
}

/// A mask as `bool`: numbers count from `threshold` on.
///
/// # Errors
/// When it is no number.
pub(super) fn boolean(g: &mut Emit, mask: Port, threshold: f32) -> Result<Port> {
    match g.dtype(mask) {
        DType::Bool => Ok(mask),
        DType::Float32 => {
            let t = g.scalar(threshold);
            g.op("Greater", &[mask, t], &[])
        }
        _ => g.cast(mask, DType::Bool),
    }
}
