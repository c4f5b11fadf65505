//! Gradients of batch norm and of local response normalisation.
use super::{Layout, SUM_BLOCK};
use crate::{
    DataFormat, KernelError, Result, Tensor, par, pool,
    simd::{self, Isa, Kernel, Simd},
};

/// Gradients of a batch norm; all but `x` of shape `[channels]`.
#[derive(Clone, Debug)]
pub struct BatchNormGrads {
    /// By the image.
    pub x: Tensor,
    /// By the scale.
    pub scale: Tensor,
    /// By the offset.
    pub offset: Tensor,
}

/// Gradients of `(x - mean) · scale / √(variance + ε) + offset`. In training, mean and variance are those of `x` and
/// change with it; otherwise they are constants. Overwrites `dy` when nobody else holds it.
///
/// # Errors
/// When a tensor is not `float32`, shapes differ, or a parameter has not one element per channel.
pub fn batch_norm_grad(
    dy: Tensor,
    x: &Tensor,
    scale: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    epsilon: f32,
    data_format: DataFormat,
    training: bool,
) -> Result<BatchNormGrads> {
    if dy.dims() != x.dims() {
        return Err(KernelError::Shapes { left: dy.shape(), right: x.shape(), why: "differ" });
    }
    let mut dy = dy.into_typed::<f32>("the gradients")?;
    let image = x.typed::<f32>("the image")?;
    let layout = Layout::new(image, data_format)?;
    let x = image.data();
    let scale = layout.parameter(scale, "the scale")?;
    let mean = layout.parameter(mean, "the mean")?;
    let variance = layout.parameter(variance, "the variance")?;
    let inverse: Vec<f32> = variance.iter().map(|v| 1.0 / (v + epsilon).sqrt()).collect();
    let (sums, products) = sums(&layout, dy.data(), x, mean);
    let count = (layout.batch * layout.cells).max(1) as f32;
    let factor: Vec<f32> = scale.iter().zip(&inverse).map(|(s, i)| s * i).collect();
    let along: Vec<f32> = if training {
        (0..layout.channels).map(|c| -factor[c] * inverse[c] * inverse[c] * products[c] / count).collect()
    } else {
        vec![0.0; layout.channels]
    };
    // dx = factor · dy + along · x + shift, where the mean of x is part of the shift.
    let shift: Vec<f32> = if training {
        (0..layout.channels).map(|c| -factor[c] * sums[c] / count - along[c] * mean[c]).collect()
    } else {
        vec![0.0; layout.channels]
    };
    if !x.is_empty() {
        let isa = Isa::current();
        match data_format {
            DataFormat::ChannelsLast => {
                let chunk = (par::GRAIN / layout.channels).max(1) * layout.channels;
                par::for_each_chunk(dy.data_mut(), chunk, |start, dy| {
                    let x = &x[start..][..dy.len()];
                    let (factor, along, shift) = (&factor, &along, &shift);
                    simd::dispatch_on(isa, Combine { dy, x, factor, along, shift });
                });
            }
            DataFormat::ChannelsFirst => par::for_each_chunk(dy.data_mut(), layout.cells, |start, dy| {
                let c = start / layout.cells % layout.channels;
                for (g, x) in dy.iter_mut().zip(&x[start..]) {
                    *g = factor[c] * *g + along[c] * x + shift[c];
                }
            }),
        }
    }
    let scale = products.iter().zip(&inverse).map(|(p, i)| p * i).collect();
    Ok(BatchNormGrads { x: dy.into(), scale: Tensor::vector(scale), offset: Tensor::vector(sums) })
}

struct Combine<'a> {
    dy: &'a mut [f32],
    x: &'a [f32],
    factor: &'a [f32],
    along: &'a [f32],
    shift: &'a [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.factor.len();
        for (dy, x) in self.dy.chunks_exact_mut(n).zip(self.x.chunks_exact(n)) {
            let whole = n - n % S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                let load = |v: &[f32]| s.load(&v[at..at + S::LANES]);
                let y = s.fma(load(self.along), load(x), load(self.shift));
                let y = s.fma(load(self.factor), load(dy), y);
                s.store(&mut dy[at..at + S::LANES], y);
            }
            if whole < n {
                let part = whole..n;
                let load = |v: &[f32]| s.load_part(&v[part.clone()]);
                let y = s.fma(load(self.along), load(x), load(self.shift));
                let y = s.fma(load(self.factor), load(dy), y);
                s.store_part(&mut dy[part], y);
            }
        }
    }
}

/// Per channel `Σ dy` and `Σ dy · (x - mean)`.
fn sums(layout: &Layout, dy: &[f32], x: &[f32], mean: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = layout.channels;
    let zeros = || (vec![0.0f32; n], vec![0.0f32; n]);
    if x.is_empty() {
        return zeros();
    }
    let isa = Isa::current();
    let add = |mut a: (Vec<f32>, Vec<f32>), b: (Vec<f32>, Vec<f32>)| {
        a.0.iter_mut().zip(&b.0).for_each(|(a, b)| *a += b);
        a.1.iter_mut().zip(&b.1).for_each(|(a, b)| *a += b);
        a
    };
    match layout.format {
        DataFormat::ChannelsLast => par::reduce(
            layout.batch * layout.cells,
            SUM_BLOCK,
            zeros(),
            |rows| {
                let part = rows.start * n..rows.end * n;
                simd::dispatch_on(isa, Sums { dy: &dy[part.clone()], x: &x[part], mean })
            },
            add,
        ),
        DataFormat::ChannelsFirst => par::reduce(
            layout.batch,
            1,
            zeros(),
            |images| {
                let mut out = zeros();
                for (c, mean) in mean.iter().enumerate() {
                    let at = (images.start * n + c) * layout.cells;
                    for block in (0..layout.cells).step_by(SUM_BLOCK) {
                        let part = at + block..at + layout.cells.min(block + SUM_BLOCK);
                        out.0[c] += dy[part.clone()].iter().sum::<f32>();
                        out.1[c] +=
                            dy[part.clone()].iter().zip(&x[part]).map(|(g, x)| g * (x - mean)).sum::<f32>();
                    }
                }
                out
            },
            add,
        ),
    }
}

struct Sums<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
}

impl Kernel for Sums<'_> {
    type Output = (Vec<f32>, Vec<f32>);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (Vec<f32>, Vec<f32>) {
        let n = self.mean.len();
        let (mut sums, mut products) = (vec![0.0; n], vec![0.0; n]);
        // Two vectors at a time: the sums of one wait for each other.
        let whole = n - n % (2 * S::LANES);
        for at in (0..whole).step_by(2 * S::LANES) {
            let load = |v: &[f32]| {
                let v = &v[at..at + 2 * S::LANES];
                [s.load(&v[..S::LANES]), s.load(&v[S::LANES..])]
            };
            let mean = load(self.mean);
            let (mut sum, mut product) = ([s.zero(); 2], [s.zero(); 2]);
            for (dy, x) in self.dy.chunks_exact(n).zip(self.x.chunks_exact(n)) {
                let (g, x) = (load(dy), load(x));
                for i in 0..2 {
                    sum[i] = s.add(sum[i], g[i]);
                    product[i] = s.fma(g[i], s.sub(x[i], mean[i]), product[i]);
                }
            }
            for i in 0..2 {
                let at = at + i * S::LANES;
                s.store(&mut sums[at..at + S::LANES], sum[i]);
                s.store(&mut products[at..at + S::LANES], product[i]);
            }
        }
        for at in (whole..n).step_by(S::LANES) {
            let part = at..n.min(at + S::LANES);
            let mean = s.load_part(&self.mean[part.clone()]);
            let (mut sum, mut product) = (s.zero(), s.zero());
            for (dy, x) in self.dy.chunks_exact(n).zip(self.x.chunks_exact(n)) {
                let g = s.load_part(&dy[part.clone()]);
                sum = s.add(sum, g);
                product = s.fma(g, s.sub(s.load_part(&x[part.clone()]), mean), product);
            }
            s.store_part(&mut sums[part.clone()], sum);
            s.store_part(&mut products[part], product);
        }
        (sums, products)
    }
}

/// Gradient of [`super::lrn`]: `dy / Nᵝ - 2αβ · x · Σ dy · y / N` over the channels whose window holds this one, where `N` is
/// `bias + α Σ x²`.
///
/// `dy, x, y: [batch, height, width, channels]`.
///
/// # Errors
/// When a tensor is not `float32`, has not four dimensions, or shapes differ.
pub fn lrn_grad(
    dy: &Tensor,
    x: &Tensor,
    y: &Tensor,
    depth_radius: usize,
    bias: f32,
    alpha: f32,
    beta: f32,
) -> Result<Tensor> {
    let (g, x, y) = (dy.typed::<f32>("the gradients")?, x.typed::<f32>("the image")?, y.typed::<f32>("y")?);
    let (&[_, _, _, channels], true) = (x.dims(), g.dims() == x.dims() && y.dims() == x.dims()) else {
        return Err(KernelError::Rank {
            what: "the image",
            got: x.shape(),
            expected: "four dimensions, those of the gradients and of the result",
        });
    };
    let shape = x.shape();
    let (g, x, y) = (g.data(), x.data(), y.data());
    let mut out = pool::buffer(x.len());
    if !out.is_empty() {
        let radius = depth_radius.min(channels);
        let chunk = (par::GRAIN / 4 / channels).max(1) * channels;
        par::for_each_chunk(&mut out, chunk, |start, out| {
            let (mut norms, mut parts) = (vec![0.0f32; channels], vec![0.0f32; channels]);
            for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                let at = start + i * channels..start + (i + 1) * channels;
                let (g, x, y) = (&g[at.clone()], &x[at.clone()], &y[at]);
                let window = |c: usize| c.saturating_sub(radius)..channels.min(c + radius + 1);
                for c in 0..channels {
                    let squares: f32 = x[window(c)].iter().map(|x| x * x).sum();
                    norms[c] = bias + alpha * squares;
                    parts[c] = g[c] * y[c] / norms[c];
                }
                for c in 0..channels {
                    let sum: f32 = parts[window(c)].iter().sum();
                    out[c] = g[c] * norms[c].powf(-beta) - 2.0 * alpha * beta * x[c] * sum;
                }
            }
        });
    }
    Tensor::from_buffer(shape, out)
}
