//! Numbers scaled and put into bins.

use tfjs_graph::{Fact, Port};
use tfjs_kernels::{DType, Tensor};

use super::encode::{Mode, encode};
use crate::emit::table_size;
use crate::{Call, Config, Dialect, Emit, Initializer, Layer, LayersError, Scope, Sym, WeightId, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// `(x − mean) / max(√variance, 1e-7)`, or with `invert` the other way round. Mean and variance are in the config, or
/// weights of the shape of the kept axes.
#[derive(Debug)]
struct Normalization {
    axes: Vec<i64>,
    invert: bool,
    given: Option<(Vec<f64>, Vec<f64>)>,
    weights: Option<(WeightId, WeightId)>,
}

pub(super) fn normalization(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["count"]);
    let given = match (c.opt_floats("mean")?, c.opt_floats("variance")?) {
        (Some(mean), Some(variance)) => Some((mean, variance)),
        (None, None) => None,
        _ => return Err(c.wrong("variance", "given when `mean` is, and only then")),
    };
    let axes = match c.opt_ints("axis")? {
        Some(axes) => axes,
        // Null is no axis; a missing key is the default.
        None if c.has("axis") => Vec::new(),
        None => vec![-1],
    };
    Ok(Box::new(Normalization { axes, invert: c.bool_or("invert", false)?, given, weights: None }))
}

/// Smallest standard deviation.
const EPSILON: f32 = 1e-7;

impl Normalization {
    fn kept(&self, rank: usize) -> Result<Vec<usize>> {
        let axis =
            |&a: &i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|&a| a < rank);
        let kept: Option<Vec<usize>> = self.axes.iter().map(axis).collect();
        let mut kept =
            kept.ok_or_else(|| LayersError::Inputs(format!("axes {:?} of {rank} do not exist", self.axes)))?;
        kept.sort_unstable();
        Ok(kept)
    }
}

/// Values repeated until there is one for each place of the kept axes: a lone value, or values of the last axes.
fn spread(values: &[f64], count: usize) -> Result<Vec<f32>> {
    if values.is_empty() || !count.is_multiple_of(values.len()) {
        let problem = format!("{} values of mean or variance for {count} features", values.len());
        return Err(LayersError::Inputs(problem));
    }
    Ok(values.iter().cycle().take(count).map(|&v| v as f32).collect())
}

impl Layer for Normalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        if self.given.is_some() {
            return Ok(());
        }
        let shape = inputs.first().and_then(|f| f.shape.clone()).unwrap_or_default();
        let kept = self.kept(shape.len())?;
        let dims: Option<Vec<usize>> = kept.iter().map(|&a| shape[a]).collect();
        let dims = dims.ok_or_else(|| {
            LayersError::Inputs(format!("axes {kept:?} of the input must be known, it is {shape:?}"))
        })?;
        let mean = scope.state("mean", &dims, Initializer::zeros());
        let variance = scope.state("variance", &dims, Initializer::ones());
        scope.declare("count", &[], DType::Int32, Initializer::zeros(), false);
        self.weights = Some((mean, variance));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let input = call.one()?;
        let x = g.cast(input.port, DType::Float32)?;
        let kept = self.kept(g.rank(x)?)?;
        let mut dims = vec![1; g.rank(x)?];
        for &axis in &kept {
            dims[axis] = g.known_dim(x, axis, "axis to normalise along")?;
        }
        let (mean, deviation) = match (&self.given, self.weights) {
            (Some((mean, variance)), _) => {
                let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
                let mean = Tensor::new(&dims[..], spread(mean, count)?)?;
                let deviation =
                    spread(variance, count)?.into_iter().map(|v| v.sqrt().max(EPSILON)).collect::<Vec<f32>>();
                (g.constant(mean), g.constant(Tensor::new(&dims[..], deviation)?))
            }
            (None, Some((mean, variance))) => {
                let shape: Vec<Dim> = dims.iter().map(|&d| Dim::Known(d)).collect();
                let (mean, variance) = (g.weight(mean), g.weight(variance));
                let mean = g.reshape(mean, &shape)?;
                let variance = g.reshape(variance, &shape)?;
                let root = g.unary("Sqrt", variance)?;
                let least = g.scalar(EPSILON);
                (mean, g.op("Maximum", &[root, least], &[])?)
            }
            (None, None) => crate::layers::core::built(None)?,
        };
        let y = if self.invert {
            let scaled = g.mul(x, deviation)?;
            g.add(mean, scaled)?
        } else {
            let centred = g.sub(x, mean)?;
            g.div(centred, deviation)?
        };
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

/// Numbers as the index of the bin they fall in: the number of boundaries that are not larger.
#[derive(Debug)]
struct Discretization {
    boundaries: Option<Vec<f32>>,
    num_bins: Option<usize>,
    mode: Mode,
    dtype: DType,
    /// What Keras 2 keeps of the data: quantiles and their weights.
    summary: Option<WeightId>,
}

pub(super) fn discretization(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["sparse", "epsilon"]);
    let given = match c.opt_floats("bin_boundaries")? {
        Some(given) => Some(given),
        // Before Keras 2.5.
        None => c.opt_floats("bins")?,
    };
    let boundaries = given.map(|b| b.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    let num_bins = c.opt_usize("num_bins")?;
    if boundaries.is_none() && num_bins.is_none_or(|n| n == 0) {
        return Err(c.wrong("bin_boundaries", "given, or `num_bins`"));
    }
    let mode = Mode::of(c, "int")?;
    let dtype = if mode == Mode::Int { DType::Int32 } else { DType::Float32 };
    Ok(Box::new(Discretization { boundaries, num_bins, mode, dtype, summary: None }))
}

impl Layer for Discretization {
    fn build(&mut self, scope: &mut Scope<'_>, _inputs: &[Fact]) -> Result<()> {
        if self.boundaries.is_none() {
            if scope.dialect == Dialect::Keras3 {
                return Err(LayersError::Inputs(
                    "the layer was saved before it was adapted: it has no bin boundaries".to_owned(),
                ));
            }
            // As many columns as the file has.
            self.summary = Some(scope.state("summary", &[2, 0], Initializer::zeros()));
        }
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = g.cast(call.one()?.port, DType::Float32)?;
        let boundaries = match (&self.boundaries, self.summary) {
            (Some(boundaries), _) => boundaries.clone(),
            (None, Some(summary)) => match g.weight_value(summary)? {
                Some(summary) => quantiles(&summary, self.num_bins.unwrap_or(1))?,
                // Not loaded yet: only the number matters.
                None => vec![0.0; table_size(&[self.num_bins.unwrap_or(1).saturating_sub(1)])?],
            },
            (None, None) => crate::layers::core::built(None)?,
        };
        let depth = boundaries.len() + 1;
        let index = bucketize(g, x, boundaries)?;
        Ok(vec![encode(g, index, self.mode, depth, self.dtype, None)?.into()])
    }
}

/// The number of boundaries not larger than each element; of NaN all, as TensorFlow counts.
fn bucketize(g: &mut Emit, x: Port, boundaries: Vec<f32>) -> Result<Port> {
    let rank = g.rank(x)?;
    let wide = g.expand_dims(x, rank)?;
    let boundaries = g.constant(Tensor::vector(boundaries));
    let below = g.op("Less", &[wide, boundaries], &[])?;
    let reached = g.unary("LogicalNot", below)?;
    let reached = g.cast(reached, DType::Int32)?;
    g.reduce("Sum", reached, &[rank], false)
}

/// Boundaries of equally full bins, as Keras interpolates them from its summary `[values, weights]`.
fn quantiles(summary: &Tensor, bins: usize) -> Result<Vec<f32>> {
    let data = summary.data::<f32>()?;
    let (values, weights) = data.split_at(data.len() / 2);
    let step = 1.0 / bins as f64;
    if (values.len() as f64) * step < 1.0 {
        return Ok(values.get(..values.len().saturating_sub(1)).unwrap_or_default().to_vec());
    }
    let mut total = 0f64;
    let cumulative: Vec<f64> = weights
        .iter()
        .map(|&w| {
            total += f64::from(w);
            total
        })
        .collect();
    let share: Vec<f64> = cumulative.iter().map(|c| c / total).collect();
    // As numpy's arange counts.
    let count = table_size(&[(1.0 / step).ceil() as usize])?;
    let at = |i: usize| interpolate(step + i as f64 * step, &share, values);
    Ok((0..count.saturating_sub(1)).map(|i| at(i) as f32).collect())
}

fn interpolate(x: f64, xs: &[f64], ys: &[f32]) -> f64 {
    let after = xs.partition_point(|&v| v <= x);
    match (after.checked_sub(1), xs.get(after)) {
        (None, _) => f64::from(ys[0]),
        (Some(last), None) => f64::from(ys[last]),
        (Some(i), Some(&next)) => {
            let (y, z) = (f64::from(ys[i]), f64::from(ys[after]));
            y + (z - y) * (x - xs[i]) / (next - xs[i])
        }
    }
}
