//! Batch normalisation.

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::{Affine, Result, axes_of, inverse_root, spread};
use crate::emit::{Dim, table_size};
use crate::{
    Call, Config, Dialect, Emit, Layer, LayersError, Scope, Sym, WeightId, WeightInit,
    config::number,
    layers::{core::built, spatial},
};

pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    make(c, c.bool_or("synchronized", false)?)
}

/// The class of Keras 2 that is synchronized by its name.
pub(super) fn new_synchronized(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["synchronized"]);
    make(c, true)
}

fn make(c: &Config<'_>, synchronized: bool) -> Result<Box<dyn Layer>> {
    c.known(&["adjustment", "mode"]);
    c.known(&["renorm_clipping", "renorm_momentum"]);
    let renorm = c.bool_or("renorm", false)?.then(|| Renorm::new(c)).transpose()?;
    let virtual_batch = c.opt_usize("virtual_batch_size")?;
    if virtual_batch == Some(0) {
        return Err(c.wrong("virtual_batch_size", "a size above 0"));
    }
    let axes = c.opt_ints("axis")?.unwrap_or_else(|| vec![-1]);
    let usual = matches!(axes[..], [-4 | -3 | -1 | 1 | 3 | 4]);
    let can_fuse = usual && !synchronized && renorm.is_none() && virtual_batch.is_none();
    let fused = match c.dialect {
        Dialect::Keras1 | Dialect::Keras2 => can_fuse && c.bool_or("fused", true)?,
        Dialect::Keras3 | Dialect::Tfjs => {
            c.known(&["fused"]);
            false
        }
    };
    Ok(Box::new(BatchNormalization {
        axes,
        epsilon: c.f32_or("epsilon", 1e-3)?,
        momentum: c.f32_or("momentum", 0.99)?,
        renorm,
        fused,
        virtual_batch,
        affine: Affine::new(c)?,
        mean_initializer: c.initializer("moving_mean", "zeros")?,
        variance_initializer: c.initializer("moving_variance", "ones")?,
        built: None,
    }))
}

/// Batch renormalisation: in training, too, each channel comes near to what the moving statistics would make of it.
#[derive(Debug)]
struct Renorm {
    momentum: f32,
    /// Bounds of the factor, and of the magnitude of the shift.
    rmin: Option<f32>,
    rmax: Option<f32>,
    dmax: Option<f32>,
}

impl Renorm {
    fn new(c: &Config<'_>) -> Result<Renorm> {
        let clipping = c.get("renorm_clipping");
        let bound = |key: &str| match clipping.and_then(|o| o.get(key)).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(value) => match number(value) {
                Some(bound) => Ok(Some(bound as f32)),
                None => Err(c.wrong("renorm_clipping", "numbers named `rmin`, `rmax` and `dmax`")),
            },
        };
        let (rmin, rmax, dmax) = (bound("rmin")?, bound("rmax")?, bound("dmax")?);
        Ok(Renorm { momentum: c.f32_or("renorm_momentum", 0.99)?, rmin, rmax, dmax })
    }
}

/// `(x − moving_mean) / √(moving_variance + ε) · gamma + beta`; in training with the moments of the batch, which the moving
/// ones follow.
///
/// All four: `[channels]`; with several axes, their sizes among ones; with virtual batches likewise, and one more 1 after the
/// first.
#[derive(Debug)]
struct BatchNormalization {
    axes: Vec<i64>,
    epsilon: f32,
    /// How much of the moving statistics a step keeps.
    momentum: f32,
    renorm: Option<Renorm>,
    /// Keras 2 takes another op for inputs of 4 and 5 axes, which ignores masks and gives the moving variance an unbiased
    /// estimate.
    fused: bool,
    /// Samples that are normalised together in training; which ones, see [`Ghosts::of`].
    virtual_batch: Option<usize>,
    affine: Affine,
    mean_initializer: WeightInit,
    variance_initializer: WeightInit,
    built: Option<Built>,
}

#[derive(Clone, Debug)]
struct Built {
    axes: Vec<usize>,
    /// Whether weights have the axes of what is normalised, and need not be laid out.
    wide: bool,
    gamma: Option<WeightId>,
    beta: Option<WeightId>,
    mean: WeightId,
    variance: WeightId,
    /// Moving deviation, and mean and deviation of renormalisation.
    renorm: Option<[WeightId; 3]>,
}

impl Built {
    /// A weight so that it can be broadcast.
    fn laid_out(&self, g: &mut Emit, weight: Port, rank: usize) -> Result<Port> {
        if self.wide { Ok(weight) } else { spread(g, weight, &self.axes, rank) }
    }
}

/// What a step normalised, and by what.
struct Normalised {
    y: Port,
    /// Of the shape of the weights.
    mean: Port,
    variance: Port,
    /// What the moving variance follows.
    estimate: Port,
}

impl Layer for BatchNormalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let given = self.virtual_batch.map(|_| without_virtual_batch(&self.axes));
        let (axes, sizes) = axes_of(inputs, given.as_ref().unwrap_or(&self.axes), scope.dialect)?;
        let wide = axes.len() > 1 || self.virtual_batch.is_some();
        let shape = if wide {
            let rank = inputs.first().and_then(|f| f.shape.as_ref()).map_or(0, Vec::len);
            let mut shape = vec![1; rank];
            axes.iter().zip(sizes).for_each(|(&a, n)| shape[a] = n);
            if self.virtual_batch.is_some() {
                if axes.contains(&0) {
                    let problem = "axis 0 cannot be normalised with `virtual_batch_size`";
                    return Err(LayersError::Inputs(problem.to_owned()));
                }
                shape.insert(1, 1);
            }
            shape
        } else {
            sizes
        };
        let (gamma, beta) = self.affine.build(scope, &shape);
        let mean = scope.state("moving_mean", &shape, self.mean_initializer.clone());
        let variance = scope.state("moving_variance", &shape, self.variance_initializer.clone());
        let renorm = self.renorm.is_some().then(|| {
            let deviation = scope.state("moving_stddev", &shape, self.variance_initializer.clone());
            let mean = scope.state("renorm_mean", &shape, self.mean_initializer.clone());
            [deviation, mean, scope.state("renorm_stddev", &shape, self.variance_initializer.clone())]
        });
        self.built = Some(Built { axes, wide, gamma, beta, mean, variance, renorm });
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let b = built(self.built.as_ref())?;
        let x = call.one()?.port;
        let x = g.cast(x, DType::Float32)?;
        let rank = g.rank(x)?;
        // A frozen layer uses its moving statistics, whatever a call says.
        if call.training(g) && !g.frozen(b.mean) {
            let y = match self.virtual_batch {
                Some(size) if call.mask(0).is_none() => {
                    let ghosts = Ghosts::of(g, x, b, size)?;
                    let y = self.by_batch(g, ghosts.x, &ghosts.built, rank + 1, None)?;
                    let dims = g.dims(x)?;
                    g.reshape(y, &dims)?
                }
                Some(size) => {
                    let problem = format!("a mask does not go with `virtual_batch_size` {size}");
                    return Err(LayersError::Inputs(problem));
                }
                None => self.by_batch(g, x, b, rank, call.mask(0))?,
            };
            return Ok(vec![Sym::masked(y, call.mask(0))]);
        }
        // What is left out of scale and shift is 1 and 0.
        let y = match (rank, &b.axes[..]) {
            (4, [3]) if !b.wide => self.fused(g, x, b)?,
            (3, [2]) if !b.wide => {
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
    /// Normalises by the moments of the batch, and moves the moving ones.
    fn by_batch(&self, g: &mut Emit, x: Port, b: &Built, rank: usize, mask: Option<Port>) -> Result<Port> {
        let fused = self.fused && matches!((rank, &b.axes[..]), (4, [1 | 3]) | (5, [1 | 4]));
        let mask = mask.filter(|_| !fused);
        let gamma = b.gamma.map(|id| g.weight(id));
        let beta = b.beta.map(|id| g.weight(id));
        let (gamma, beta, n) = match (&self.renorm, b.renorm) {
            (Some(renorm), Some(ids)) => {
                let n = self.moments(g, x, b, rank, (None, None), mask)?;
                let (factor, shift) = self.corrections(g, renorm, ids, &n)?;
                self.move_deviations(g, renorm, ids, b, &n)?;
                let gamma = match gamma {
                    Some(gamma) => (g.mul(factor, gamma)?, g.mul(shift, gamma)?),
                    None => (factor, shift),
                };
                let beta = match beta {
                    Some(beta) => g.add(gamma.1, beta)?,
                    None => gamma.1,
                };
                (Some(gamma.0), Some(beta), n)
            }
            _ => {
                let n = self.moments(g, x, b, rank, (gamma, beta), mask)?;
                follow(g, b.variance, if fused { n.estimate } else { n.variance }, self.momentum)?;
                (None, None, n)
            }
        };
        follow(g, b.mean, n.mean, self.momentum)?;
        let mut y = n.y;
        if let Some(gamma) = gamma {
            let gamma = b.laid_out(g, gamma, rank)?;
            y = g.mul(y, gamma)?;
        }
        if let Some(beta) = beta {
            let beta = b.laid_out(g, beta, rank)?;
            y = g.add(y, beta)?;
        }
        Ok(y)
    }

    /// Normalises by the moments of the batch, scales and shifts.
    fn moments(
        &self,
        g: &mut Emit,
        x: Port,
        b: &Built,
        rank: usize,
        (gamma, beta): (Option<Port>, Option<Port>),
        mask: Option<Port>,
    ) -> Result<Normalised> {
        // One op does it all for a last or second axis, if only there are axes enough.
        let (wide, extra, format) = match (rank, &b.axes[..]) {
            _ if mask.is_some() || self.virtual_batch.is_some() => (x, &[][..], ""),
            (2, [1]) => (spread_out(g, x, &[1, 2])?, &[1, 2][..], "NHWC"),
            (3, [2]) => (spread_out(g, x, &[1])?, &[1][..], "NHWC"),
            (3, [1]) => (spread_out(g, x, &[2])?, &[2][..], "NCHW"),
            (4.., &[last]) if last + 1 == rank => (x, &[][..], "NHWC"),
            (4.., [1]) => (x, &[][..], "NCHW"),
            _ => (x, &[][..], ""),
        };
        if format.is_empty() {
            return self.moments_by_hand(g, x, b, rank, (gamma, beta), mask);
        }
        let channels = table_size(&[g.known_dim(x, b.axes[0], "number of channels")?])?;
        let full = |g: &mut Emit, port: Option<Port>, value: f32| match port {
            Some(port) => Ok(port),
            None => Ok::<_, LayersError>(g.constant(Tensor::new([channels], vec![value; channels])?)),
        };
        let none = g.constant(Tensor::vector(Vec::<f32>::new()));
        let inputs = [wide, full(g, gamma, 1.0)?, full(g, beta, 0.0)?, none, none];
        let attrs = [
            ("epsilon", attr::float(self.epsilon)),
            ("data_format", attr::text(format)),
            ("is_training", attr::bool(true)),
        ];
        let out = g.op_n("FusedBatchNormV3", &inputs, &attrs, 6)?;
        let y = if extra.is_empty() { out[0] } else { g.squeeze(out[0], extra)? };
        Ok(Normalised { y, mean: out[1], variance: out[4], estimate: out[2] })
    }

    /// The same with several axes, with virtual batches, or where only some elements count.
    fn moments_by_hand(
        &self,
        g: &mut Emit,
        x: Port,
        b: &Built,
        rank: usize,
        (gamma, beta): (Option<Port>, Option<Port>),
        mask: Option<Port>,
    ) -> Result<Normalised> {
        let ghosts = self.virtual_batch.map(|_| GHOSTS);
        let others: Vec<usize> = (0..rank).filter(|a| !b.axes.contains(a) && ghosts != Some(*a)).collect();
        let weights = mask.map(|mask| weights(g, x, mask, &others)).transpose()?;
        let moment = |g: &mut Emit, x: Port| match weights {
            None => g.reduce("Mean", x, &others, true),
            Some((mask, count)) => {
                let zero = g.scalar(0.0);
                let counted = g.select(mask, x, zero)?;
                let sum = g.reduce("Sum", counted, &others, true)?;
                g.div(sum, count)
            }
        };
        let mean = moment(g, x)?;
        let centred = g.sub(x, mean)?;
        let squares = g.unary("Square", centred)?;
        let variance = moment(g, squares)?;
        let inverse = inverse_root(g, variance, self.epsilon)?;
        let mut y = g.mul(centred, inverse)?;
        if let Some(gamma) = gamma {
            let gamma = b.laid_out(g, gamma, rank)?;
            y = g.mul(y, gamma)?;
        }
        if let Some(beta) = beta {
            let beta = b.laid_out(g, beta, rank)?;
            y = g.add(y, beta)?;
        }
        let (mut means, mut variances) = (mean, variance);
        if let Some(axis) = ghosts {
            means = g.reduce("Mean", mean, &[axis], true)?;
            variances = g.reduce("Mean", variance, &[axis], true)?;
        } else if let &[axis] = &b.axes[..] {
            let channels = [Dim::Known(g.known_dim(x, axis, "number of channels")?)];
            means = g.reshape(mean, &channels)?;
            variances = g.reshape(variance, &channels)?;
        }
        Ok(Normalised { y, mean: means, variance: variances, estimate: variances })
    }

    /// Factor and shift that bring what the batch normalised to what the moving statistics would. They count as constants.
    fn corrections(
        &self,
        g: &mut Emit,
        renorm: &Renorm,
        [_, mean, deviation]: [WeightId; 3],
        n: &Normalised,
    ) -> Result<(Port, Port)> {
        let own = g.offset(n.variance, self.epsilon)?;
        let own = g.unary("Sqrt", own)?;
        let least = g.scalar(self.epsilon.sqrt());
        let deviation = g.weight(deviation);
        let deviation = g.op("Maximum", &[deviation, least], &[])?;
        let mut factor = g.div(own, deviation)?;
        let mean = g.weight(mean);
        let mut shift = g.sub(n.mean, mean)?;
        shift = g.div(shift, deviation)?;
        let bound = |g: &mut Emit, op: &str, x: Port, bound: Option<f32>| match bound {
            Some(bound) => {
                let bound = g.scalar(bound);
                g.op(op, &[x, bound], &[])
            }
            None => Ok(x),
        };
        factor = bound(g, "Maximum", factor, renorm.rmin)?;
        factor = bound(g, "Minimum", factor, renorm.rmax)?;
        shift = bound(g, "Maximum", shift, renorm.dmax.map(|d| -d))?;
        shift = bound(g, "Minimum", shift, renorm.dmax)?;
        Ok((g.unary("StopGradient", factor)?, g.unary("StopGradient", shift)?))
    }

    /// The moving statistics of renormalisation; the moving variance is the square of a moving deviation then.
    fn move_deviations(
        &self,
        g: &mut Emit,
        renorm: &Renorm,
        [moving, mean, deviation]: [WeightId; 3],
        b: &Built,
        n: &Normalised,
    ) -> Result<()> {
        let own = g.offset(n.variance, self.epsilon)?;
        let own = g.unary("Sqrt", own)?;
        follow(g, mean, n.mean, renorm.momentum)?;
        follow(g, deviation, own, renorm.momentum)?;
        follow(g, moving, own, self.momentum)?;
        let moved = g.weight(moving);
        let square = g.unary("Square", moved)?;
        let variance = g.offset(square, -self.epsilon)?;
        let variance = g.unary("Relu", variance)?;
        g.update(b.variance, variance)?;
        Ok(())
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
        let variance = self.plain(g, b, b.variance, rank)?;
        let mut factor = inverse_root(g, variance, self.epsilon)?;
        if let Some(gamma) = b.gamma {
            let gamma = self.plain(g, b, gamma, rank)?;
            factor = g.mul(factor, gamma)?;
        }
        let mean = self.plain(g, b, b.mean, rank)?;
        let mut shift = g.mul(mean, factor)?;
        shift = match b.beta {
            Some(beta) => {
                let beta = self.plain(g, b, beta, rank)?;
                g.sub(beta, shift)?
            }
            None => g.unary("Neg", shift)?,
        };
        factor = b.laid_out(g, factor, rank)?;
        shift = b.laid_out(g, shift, rank)?;
        let scaled = g.mul(x, factor)?;
        g.add(scaled, shift)
    }

    /// A weight without the axis of virtual batches.
    fn plain(&self, g: &mut Emit, b: &Built, id: WeightId, rank: usize) -> Result<Port> {
        let weight = g.weight(id);
        if self.virtual_batch.is_none() {
            return Ok(weight);
        }
        let mut dims = vec![Dim::Known(1); rank];
        for &axis in &b.axes {
            dims[axis] = g.dim(weight, axis + 1)?;
        }
        g.reshape(weight, &dims)
    }
}

/// The axis of the number of virtual batches.
const GHOSTS: usize = 1;

/// Virtual batches of a batch, and the layer as it normalises them.
struct Ghosts {
    /// Samples of a virtual batch, virtual batches, the other axes.
    x: Port,
    built: Built,
}

impl Ghosts {
    /// Of `n` virtual batches one has every `n`th sample.
    fn of(g: &mut Emit, x: Port, b: &Built, size: usize) -> Result<Ghosts> {
        let dims = g.dims(x)?;
        let x = match dims[0] {
            Dim::Known(batch) if batch % size != 0 => {
                return Err(LayersError::Inputs(format!(
                    "a batch of {batch} cannot be divided by `virtual_batch_size` {size}"
                )));
            }
            Dim::Known(batch) => {
                let mut split = vec![Dim::Known(size), Dim::Known(batch / size)];
                split.extend(dims.into_iter().skip(1));
                g.reshape(x, &split)?
            }
            Dim::Of(..) => {
                let shape = g.unary("Shape", x)?;
                let size = i32::try_from(size).map_err(|_| {
                    LayersError::Inputs(format!("a `virtual_batch_size` of {size} is too large"))
                })?;
                let (begin, all, split, axis) =
                    (g.ints(&[1]), g.ints(&[-1]), g.ints(&[size, -1]), g.constant(Tensor::scalar(0i32)));
                let rest = g.op("Slice", &[shape, begin, all], &[])?;
                let split = g.op("ConcatV2", &[split, rest, axis], &[])?;
                g.op("Reshape", &[x, split], &[])?
            }
        };
        let mut built = b.clone();
        built.axes.iter_mut().for_each(|axis| *axis += 1);
        Ok(Ghosts { x, built })
    }
}

/// The axes of the input, given those of a file. Keras 2 counts the axis of virtual batches in once a layer is built, and
/// writes its axes like that; as neither this one nor the batch can be normalised, smaller ones were written before.
pub(crate) fn without_virtual_batch(axes: &[i64]) -> Vec<i64> {
    let counted = axes.iter().all(|&axis| axis > GHOSTS as i64);
    axes.iter().map(|&axis| if counted { axis - 1 } else { axis }).collect()
}

/// Moves a moving average towards the value of a batch.
fn follow(g: &mut Emit, id: WeightId, value: Port, momentum: f32) -> Result<()> {
    let old = g.weight(id);
    let kept = g.scale(old, momentum)?;
    let new = g.scale(value, 1.0 - momentum)?;
    let moved = g.add(kept, new)?;
    g.update(id, moved)?;
    Ok(())
}

/// New axes of size 1.
fn spread_out(g: &mut Emit, x: Port, axes: &[usize]) -> Result<Port> {
    axes.iter().try_fold(x, |x, &axis| g.expand_dims(x, axis))
}

/// Which elements of `x` count, of its rank, and how many for each channel.
fn weights(g: &mut Emit, x: Port, mask: Port, others: &[usize]) -> Result<(Port, Port)> {
    let (rank, given) = (g.rank(x)?, g.rank(mask)?);
    if given + 1 != rank {
        return Err(LayersError::Inputs(format!(
            "the mask must have one axis less than the input, they are {} and {}",
            g.fact(mask),
            g.fact(x)
        )));
    }
    let mask = g.cast(mask, DType::Bool)?;
    let mask = g.expand_dims(mask, given)?;
    let ones = g.unary("OnesLike", x)?;
    let zero = g.scalar(0.0);
    let counted = g.select(mask, ones, zero)?;
    let mut count = g.reduce("Sum", counted, others, true)?;
    if g.dialect == Dialect::Keras3 {
        count = g.offset(count, 1e-7)?;
    }
    Ok((mask, count))
}
