//! Batch normalisation.

use serde_json::Value;
use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::{Affine, Result, axes_of, inverse_root, spread, standardize};
use crate::emit::table_size;
use crate::{
    Call, Config, Dialect, Emit, Layer, Scope, Sym, WeightId, WeightInit,
    layers::{core::built, spatial},
    topology::Arg,
};

pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&[
        "momentum",
        "synchronized",
        "renorm_clipping",
        "renorm_momentum",
        "fused",
        "virtual_batch_size",
        "adjustment",
        "mode",
    ]);
    Ok(Box::new(BatchNormalization {
        axes: c.opt_ints("axis")?.unwrap_or_else(|| vec![-1]),
        epsilon: c.f32_or("epsilon", 1e-3)?,
        renorm: c.bool_or("renorm", false)?,
        trainable: c.bool_or("trainable", true)?,
        affine: Affine::new(c)?,
        mean_initializer: c.initializer("moving_mean", "zeros")?,
        variance_initializer: c.initializer("moving_variance", "ones")?,
        built: None,
    }))
}

/// `(x − moving_mean) / √(moving_variance + ε) · gamma + beta`
///
/// All four: `[channels]`; with several axes, their sizes among ones.
#[derive(Debug)]
struct BatchNormalization {
    axes: Vec<i64>,
    epsilon: f32,
    /// Keeps statistics that only training uses.
    renorm: bool,
    /// A frozen layer uses its moving statistics whatever a call says.
    trainable: bool,
    affine: Affine,
    mean_initializer: WeightInit,
    variance_initializer: WeightInit,
    built: Option<Built>,
}

#[derive(Clone, Debug)]
struct Built {
    axes: Vec<usize>,
    gamma: Option<WeightId>,
    beta: Option<WeightId>,
    mean: WeightId,
    variance: WeightId,
}

impl Layer for BatchNormalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let (axes, sizes) = axes_of(inputs, &self.axes, scope.dialect)?;
        let shape = if axes.len() == 1 {
            sizes
        } else {
            let rank = inputs.first().and_then(|f| f.shape.as_ref()).map_or(0, Vec::len);
            let mut shape = vec![1; rank];
            axes.iter().zip(sizes).for_each(|(&a, n)| shape[a] = n);
            shape
        };
        let (gamma, beta) = self.affine.build(scope, &shape);
        let mean = scope.state("moving_mean", &shape, self.mean_initializer.clone());
        let variance = scope.state("moving_variance", &shape, self.variance_initializer.clone());
        if self.renorm {
            scope.state("moving_stddev", &shape, self.variance_initializer.clone());
            scope.state("renorm_mean", &shape, self.mean_initializer.clone());
            scope.state("renorm_stddev", &shape, self.variance_initializer.clone());
        }
        self.built = Some(Built { axes, gamma, beta, mean, variance });
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let b = built(self.built.as_ref())?;
        let x = call.one()?.port;
        let x = g.cast(x, DType::Float32)?;
        let rank = g.rank(x)?;
        // Keras 2 honours for ever what a call says; Keras 3 predicts with `training=False`.
        let asked = call.kwarg("training") == Some(&Arg::Value(Value::Bool(true)));
        if asked && self.trainable && matches!(g.dialect, Dialect::Keras1 | Dialect::Keras2) {
            let y = self.by_batch(g, x, b, rank)?;
            return Ok(vec![Sym::masked(y, call.mask(0))]);
        }
        // What is left out of scale and shift is 1 and 0.
        let y = match (rank, &b.axes[..]) {
            (4, [3]) => self.fused(g, x, b)?,
            (3, [2]) => {
                let wide = spatial::widen(g, x)?;
                let y = self.fused(g, wide, b)?;
                g.squeeze(y, &[1])?
            }
            _ => self.composed(g, x, b, rank)?,
        };
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

impl BatchNormalization {
    /// Normalises by the moments of the batch.
    fn by_batch(&self, g: &mut Emit, x: Port, b: &Built, rank: usize) -> Result<Port> {
        let others: Vec<usize> = (0..rank).filter(|a| !b.axes.contains(a)).collect();
        let mut y = standardize(g, x, &others, self.epsilon, None)?;
        if let Some(gamma) = b.gamma {
            let gamma = g.weight(gamma);
            let gamma = spread(g, gamma, &b.axes, rank)?;
            y = g.mul(y, gamma)?;
        }
        if let Some(beta) = b.beta {
            let beta = g.weight(beta);
            let beta = spread(g, beta, &b.axes, rank)?;
            y = g.add(y, beta)?;
        }
        Ok(y)
    }

    /// The op that passes fold into a convolution before it.
    fn fused(&self, g: &mut Emit, x: Port, b: &Built) -> Result<Port> {
        let channels = table_size(&[g.known_dim(x, 3, "number of channels")?])?;
        let full = |g: &mut Emit, id: Option<WeightId>, value: f32| match id {
            Some(id) => Ok(g.weight(id)),
            None => Ok::<_, crate::LayersError>(g.constant(Tensor::new([channels], vec![value; channels])?)),
        };
        let inputs =
            [x, full(g, b.gamma, 1.0)?, full(g, b.beta, 0.0)?, g.weight(b.mean), g.weight(b.variance)];
        let attrs = [
            ("epsilon", attr::float(self.epsilon)),
            ("data_format", attr::text("NHWC")),
            ("is_training", attr::bool(false)),
        ];
        Ok(g.op_n("FusedBatchNormV3", &inputs, &attrs, 1)?[0])
    }

    /// A factor and a shift, both computed from weights alone.
    fn composed(&self, g: &mut Emit, x: Port, b: &Built, rank: usize) -> Result<Port> {
        let variance = g.weight(b.variance);
        let mut factor = inverse_root(g, variance, self.epsilon)?;
        if let Some(gamma) = b.gamma {
            let gamma = g.weight(gamma);
            factor = g.mul(factor, gamma)?;
        }
        let mean = g.weight(b.mean);
        let mut shift = g.mul(mean, factor)?;
        shift = match b.beta {
            Some(beta) => {
                let beta = g.weight(beta);
                g.sub(beta, shift)?
            }
            None => g.unary("Neg", shift)?,
        };
        if b.axes.len() == 1 {
            factor = spread(g, factor, &b.axes, rank)?;
            shift = spread(g, shift, &b.axes, rank)?;
        }
        let scaled = g.mul(x, factor)?;
        g.add(scaled, shift)
    }
}
