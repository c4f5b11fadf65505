//! Normalisations: batch norm, layer norm, softmax, local response normalisation.

mod backward;
mod layer;

pub use backward::{BatchNormGrads, batch_norm_grad, lrn_grad};
pub use layer::layer_norm;

use crate::{
    DataFormat, KernelError, Result, Tensor, TensorOf, par, pool,
    simd::{self, Isa, Kernel, MAX_LANES, Simd},
    vecmath,
};

/// Rows whose sums are formed together; sums of blocks are then added in order.
const SUM_BLOCK: usize = 512;

/// The parameters of a batch norm, each of shape `[channels]`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Factor of the normalised values.
    pub scale: &'a Tensor,
    /// Added last.
    pub offset: &'a Tensor,
    /// Added to the variance.
    pub epsilon: f32,
    /// Where the image has its channels.
    pub data_format: DataFormat,
}

/// What a batch norm in training computes; all but `y` of shape `[channels]`.
#[derive(Clone, Debug)]
pub struct BatchNormOutputs {
    /// The normalised image.
    pub y: Tensor,
    /// The new running mean.
    pub mean: Tensor,
    /// The new running variance, from the batch's unbiased estimate.
    pub variance: Tensor,
    /// The mean of this batch, for the gradient.
    pub saved_mean: Tensor,
    /// The biased variance of this batch, for the gradient.
    pub saved_variance: Tensor,
}

/// `(x - mean) · scale / √(variance + ε) + offset`, channel by channel, for `x: [batch, .., channels]` of two or more
/// dimensions. Overwrites `x` when nobody else holds it.
///
/// # Errors
/// When a tensor is not `float32`, or a parameter has not one element per channel.
pub fn batch_norm(x: Tensor, mean: &Tensor, variance: &Tensor, norm: &BatchNorm<'_>) -> Result<Tensor> {
    let mut x = x.into_typed::<f32>("the image")?;
    let layout = Layout::new(&x, norm.data_format)?;
    let mean = layout.parameter(mean, "the mean")?;
    let variance = layout.parameter(variance, "the variance")?;
    layout.normalize(&mut x, mean, variance, norm)?;
    Ok(Tensor::F32(x))
}

/// Normalises by the batch's own mean and variance. `running` holds the mean and variance so far and the weight of this
/// batch in the new ones; without it, the new ones are this batch's.
///
/// # Errors
/// Those of [`batch_norm`].
pub fn batch_norm_training(
    x: Tensor,
    running: Option<(&Tensor, &Tensor, f32)>,
    norm: &BatchNorm<'_>,
) -> Result<BatchNormOutputs> {
    let mut x = x.into_typed::<f32>("the image")?;
    let layout = Layout::new(&x, norm.data_format)?;
    let count = layout.batch * layout.cells;
    let saved_mean: Vec<f32> =
        layout.sums(x.data(), None).iter().map(|sum| sum / count.max(1) as f32).collect();
    let squares = layout.sums(x.data(), Some(&saved_mean));
    let saved_variance: Vec<f32> = squares.iter().map(|sum| sum / count.max(1) as f32).collect();
    // As TensorFlow: one observation has a variance of zero, none gives NaN.
    let unbiased = |sum: &f32| if count == 0 { f32::NAN } else { sum / (count - 1).max(1) as f32 };
    let mut mean: Vec<f32> = if count == 0 { vec![f32::NAN; layout.channels] } else { saved_mean.clone() };
    let mut variance: Vec<f32> = squares.iter().map(unbiased).collect();
    if let Some((old_mean, old_variance, weight)) = running {
        let blend = |new: &mut [f32], old: &[f32]| {
            for (new, old) in new.iter_mut().zip(old) {
                *new = (1.0 - weight) * old + weight * *new;
            }
        };
        blend(&mut mean, layout.parameter(old_mean, "the running mean")?);
        blend(&mut variance, layout.parameter(old_variance, "the running variance")?);
    }
    layout.normalize(&mut x, &saved_mean, &saved_variance, norm)?;
    Ok(BatchNormOutputs {
        y: Tensor::F32(x),
        mean: Tensor::vector(mean),
        variance: Tensor::vector(variance),
        saved_mean: Tensor::vector(saved_mean),
        saved_variance: Tensor::vector(saved_variance),
    })
}

/// An image as `batch` × `cells` rows of `channels`, or `batch` × `channels` rows of `cells`.
struct Layout {
    batch: usize,
    cells: usize,
    channels: usize,
    format: DataFormat,
}

impl Layout {
    fn new(x: &TensorOf<f32>, format: DataFormat) -> Result<Layout> {
        let (&[batch, ref middle @ .., last], true) = (x.dims(), x.dims().len() >= 2) else {
            return Err(KernelError::Rank {
                what: "the image",
                got: x.shape(),
                expected: "two or more dimensions",
            });
        };
        Ok(match format {
            DataFormat::ChannelsLast => {
                Layout { batch, cells: middle.iter().product(), channels: last, format }
            }
            DataFormat::ChannelsFirst => {
                Layout { batch, cells: x.dims()[2..].iter().product(), channels: x.dims()[1], format }
            }
        })
    }

    fn parameter<'a>(&self, t: &'a Tensor, what: &'static str) -> Result<&'a [f32]> {
        let data = t.typed::<f32>(what)?.data();
        if data.len() == self.channels {
            Ok(data)
        } else {
            Err(KernelError::Rank { what, got: t.shape(), expected: "one element per channel" })
        }
    }

    fn normalize(
        &self,
        x: &mut TensorOf<f32>,
        mean: &[f32],
        variance: &[f32],
        norm: &BatchNorm<'_>,
    ) -> Result<()> {
        let scale = self.parameter(norm.scale, "the scale")?;
        let offset = self.parameter(norm.offset, "the offset")?;
        let factor: Vec<f32> = scale
            .iter()
            .zip(variance)
            .map(|(scale, variance)| scale / (variance + norm.epsilon).sqrt())
            .collect();
        let isa = Isa::current();
        if x.is_empty() {
            return Ok(());
        }
        match self.format {
            DataFormat::ChannelsLast => {
                let rows = (par::GRAIN / self.channels).max(1);
                par::for_each_chunk(x.data_mut(), rows * self.channels, |_, x| {
                    simd::dispatch_on(isa, Affine { x, mean, factor: &factor, offset });
                });
            }
            DataFormat::ChannelsFirst => par::for_each_chunk(x.data_mut(), self.cells, |start, x| {
                let c = start / self.cells % self.channels;
                for x in x {
                    *x = (*x - mean[c]) * factor[c] + offset[c];
                }
            }),
        }
        Ok(())
    }

    /// Per channel the sum of `x`, or of `(x - mean)²`.
    fn sums(&self, x: &[f32], mean: Option<&[f32]>) -> Vec<f32> {
        let c = self.channels;
        if x.is_empty() {
            return vec![0.0; c];
        }
        let add = |mut a: Vec<f32>, b: Vec<f32>| {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
            a
        };
        let isa = Isa::current();
        match self.format {
            DataFormat::ChannelsLast => par::reduce(
                self.batch * self.cells,
                SUM_BLOCK,
                vec![0.0; c],
                |rows| {
                    simd::dispatch_on(isa, Sums { x: &x[rows.start * c..rows.end * c], channels: c, mean })
                },
                add,
            ),
            DataFormat::ChannelsFirst => par::reduce(
                self.batch,
                1,
                vec![0.0; c],
                |images| {
                    let planes = x[images.start * c * self.cells..].chunks_exact(self.cells);
                    let term = |ch: usize, x: f32| mean.map_or(x, |m| (x - m[ch]) * (x - m[ch]));
                    // Blocks again, so that long planes lose no precision.
                    let sum = |(ch, plane): (usize, &[f32])| -> f32 {
                        plane.chunks(SUM_BLOCK).map(|b| b.iter().map(|&x| term(ch, x)).sum::<f32>()).sum()
                    };
                    planes.take(c).enumerate().map(sum).collect()
                },
                add,
            ),
        }
    }
}

/// `(x - mean) · factor + offset` for rows of channels.
struct Affine<'a> {
    x: &'a mut [f32],
    mean: &'a [f32],
    factor: &'a [f32],
    offset: &'a [f32],
}

impl Kernel for Affine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.mean.len();
        for row in self.x.chunks_exact_mut(n) {
            let whole = n - n % S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                let load = |v: &[f32]| s.load(&v[at..at + S::LANES]);
                let x = s.sub(load(row), load(self.mean));
                let y = s.fma(x, load(self.factor), load(self.offset));
                s.store(&mut row[at..at + S::LANES], y);
            }
            if whole < n {
                let (at, end) = (whole, n);
                let x = s.sub(s.load_part(&row[at..end]), s.load_part(&self.mean[at..end]));
                let y = s.fma(x, s.load_part(&self.factor[at..end]), s.load_part(&self.offset[at..end]));
                s.store_part(&mut row[at..end], y);
            }
        }
    }
}

/// Sums over rows, per channel.
struct Sums<'a> {
    x: &'a [f32],
    channels: usize,
    mean: Option<&'a [f32]>,
}

impl Kernel for Sums<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![0.0; self.channels];
        // Two vectors at a time: the sum of one waits for itself.
        let whole = self.channels - self.channels % (2 * S::LANES);
        for at in (0..whole).step_by(2 * S::LANES) {
            let load = |v: &[f32]| {
                let v = &v[at..at + 2 * S::LANES];
                [s.load(&v[..S::LANES]), s.load(&v[S::LANES..])]
            };
            let mut sum = [s.zero(); 2];
            let rows = self.x.chunks_exact(self.channels);
            match self.mean.map(load) {
                Some(mean) => rows.for_each(|row| {
                    for (sum, (x, mean)) in sum.iter_mut().zip(load(row).into_iter().zip(mean)) {
                        let d = s.sub(x, mean);
                        *sum = s.fma(d, d, *sum);
                    }
                }),
                None => rows.for_each(|row| {
                    for (sum, x) in sum.iter_mut().zip(load(row)) {
                        *sum = s.add(*sum, x);
                    }
                }),
            }
            for (sum, out) in sum.into_iter().zip(out[at..].chunks_exact_mut(S::LANES)) {
                s.store(out, sum);
            }
        }
        for at in (whole..self.channels).step_by(S::LANES) {
            let end = self.channels.min(at + S::LANES);
            let mut sum = s.zero();
            for row in self.x.chunks_exact(self.channels) {
                let x = s.load_part(&row[at..end]);
                sum = match self.mean {
                    Some(mean) => {
                        let d = s.sub(x, s.load_part(&mean[at..end]));
                        s.fma(d, d, sum)
                    }
                    None => s.add(sum, x),
                };
            }
            s.store_part(&mut out[at..end], sum);
        }
        out
    }
}

/// `e^x / Σ e^x` along the last dimension. Overwrites `x` when nobody else holds it.
///
/// # Errors
/// When `x` is not `float32` or has no dimensions.
pub fn softmax(x: Tensor) -> Result<Tensor> {
    rows(x, false)
}

/// `x - log Σ e^x` along the last dimension. Overwrites `x` when nobody else holds it.
///
/// # Errors
/// When `x` is not `float32` or has no dimensions.
pub fn log_softmax(x: Tensor) -> Result<Tensor> {
    rows(x, true)
}

fn rows(x: Tensor, log: bool) -> Result<Tensor> {
    let mut x = x.into_typed::<f32>("the logits")?;
    let Some(&n) = x.dims().last() else {
        return Err(KernelError::Rank {
            what: "the logits",
            got: x.shape(),
            expected: "at least one dimension",
        });
    };
    if !x.is_empty() {
        let isa = Isa::current();
        let chunk = (par::GRAIN / 4 / n).max(1) * n;
        par::for_each_chunk(x.data_mut(), chunk, |_, x| simd::dispatch_on(isa, Softmax { x, n, log }));
    }
    Ok(Tensor::F32(x))
}

struct Softmax<'a> {
    x: &'a mut [f32],
    n: usize,
    log: bool,
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.n) {
            softmax_row(s, row, self.log);
        }
    }
}

#[inline(always)]
fn softmax_row<S: Simd>(s: S, row: &mut [f32], log: bool) {
    let n = row.len();
    let largest = s.splat(max(s, row));
    let mut sum = s.zero();
    for at in (0..n).step_by(S::LANES) {
        let part = &mut row[at..n.min(at + S::LANES)];
        let x = s.sub(s.load_part(part), largest);
        let e = vecmath::exp(s, x);
        // Only the lanes that exist count.
        let mut lanes = [0.0; MAX_LANES];
        let e = if part.len() == S::LANES {
            e
        } else {
            s.store_part(&mut lanes[..part.len()], e);
            s.load(&lanes)
        };
        sum = s.add(sum, e);
        s.store_part(part, if log { x } else { e });
    }
    let total = s.splat(s.reduce_add(sum));
    let shift = if log { vecmath::log(s, total) } else { s.div(s.splat(1.0), total) };
    for at in (0..n).step_by(S::LANES) {
        let part = &mut row[at..n.min(at + S::LANES)];
        let y = s.load_part(part);
        s.store_part(part, if log { s.sub(y, shift) } else { s.mul(y, shift) });
    }
}

/// The largest element; whether NaN counts does not matter here, as it makes the sum NaN.
#[inline(always)]
fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    if x.len() < S::LANES {
        return x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    let mut best = s.load(x);
    for at in (S::LANES..x.len()).step_by(S::LANES) {
        // The last vector may overlap the one before: a maximum does not mind.
        best = s.max(s.load(&x[at.min(x.len() - S::LANES)..]), best);
    }
    s.reduce_max(best)
}

/// Local response normalisation: `x / (bias + α Σ x²)^β`, the sum over channels at most `depth_radius` away.
///
/// `x: [batch, height, width, channels]`.
///
/// # Errors
/// When `x` is not `float32` or has not four dimensions.
pub fn lrn(x: &Tensor, depth_radius: usize, bias: f32, alpha: f32, beta: f32) -> Result<Tensor> {
    let typed = x.typed::<f32>("the image")?;
    let &[_, _, _, channels] = typed.dims() else {
        return Err(KernelError::Rank {
            what: "the image",
            got: typed.shape(),
            expected: "four dimensions: batch, height, width, channels",
        });
    };
    let x = typed.data();
    let mut out = pool::buffer(x.len());
    if !out.is_empty() {
        let isa = Isa::current();
        let radius = depth_radius.min(channels);
        let chunk = (par::GRAIN / 4 / channels).max(1) * channels;
        par::for_each_chunk(&mut out, chunk, |start, out| {
            let x = &x[start..][..out.len()];
            simd::dispatch_on(isa, Lrn { x, out, channels, radius, bias, alpha, beta });
        });
    }
    Tensor::from_buffer(typed.shape(), out)
}

struct Lrn<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    channels: usize,
    radius: usize,
    bias: f32,
    alpha: f32,
    beta: f32,
}

impl Kernel for Lrn<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Lrn { channels, radius, .. } = self;
        // Squares with zeros on both sides, so that every window has the same length.
        let mut squares = vec![0.0; channels + 2 * radius + S::LANES];
        for (x, out) in self.x.chunks_exact(channels).zip(self.out.chunks_exact_mut(channels)) {
            for (square, x) in squares[radius..].iter_mut().zip(x) {
                *square = x * x;
            }
            for c in (0..channels).step_by(S::LANES) {
                let end = channels.min(c + S::LANES);
                let mut sum = s.zero();
                for d in 0..=2 * radius {
                    sum = s.add(sum, s.load(&squares[c + d..]));
                }
                let base = s.fma(sum, s.splat(self.alpha), s.splat(self.bias));
                let x = s.load_part(&x[c..end]);
                let y = if self.beta == 0.5 {
                    s.div(x, s.sqrt(base))
                } else if self.beta == 1.0 {
                    s.div(x, base)
                } else if self.beta == 0.0 {
                    x
                } else {
                    s.mul(x, vecmath::exp(s, s.mul(s.splat(-self.beta), vecmath::log(s, base))))
                };
                s.store_part(&mut out[c..end], y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchNorm, batch_norm, batch_norm_training, log_softmax, lrn, softmax};
    use crate::{
        DataFormat, Tensor, Threads,
        geometry::{channels_first, channels_last},
        simd::Isa,
        testing::{assert_close, noise},
    };

    fn vector(x: &[f32]) -> Tensor {
        Tensor::vector(x.to_vec())
    }

    #[track_caller]
    fn check(got: &Tensor, want: &[f64]) {
        assert_close(got.data().unwrap(), want, 2e-6, "against TensorFlow");
    }

    #[test]
    fn batch_norm_matches_tensorflow() {
        // tf.raw_ops.FusedBatchNormV3 of TensorFlow 2.19, epsilon 1e-3.
        let x = Tensor::new([2, 1, 2, 2], vec![1.0f32, -2., 3., 0.5, -1., 4., 2., 2.5]).unwrap();
        let (scale, offset) = (vector(&[1.5, -0.5]), vector(&[0.25, 1.0]));
        let (mean, variance) = (vector(&[0.5, 1.0]), vector(&[2.0, 0.25]));
        let inference = [
            0.7801975607872009,
            3.994018077850342,
            2.9009878635406494,
            1.4990030527114868,
            -1.340592622756958,
            -1.9940180778503418,
            1.840592622756958,
            -0.4970090389251709,
        ];
        let training = [
            -0.0034883320331573486,
            1.7221509218215942,
            2.024418354034424,
            1.1666501760482788,
            -2.0313949584960938,
            0.38894927501678467,
            1.0104650259017944,
            0.7222496271133423,
        ];
        let last = BatchNorm {
            scale: &scale,
            offset: &offset,
            epsilon: 1e-3,
            data_format: DataFormat::ChannelsLast,
        };
        let first = BatchNorm { data_format: DataFormat::ChannelsFirst, ..last };
        let flipped = channels_first(&x).unwrap();
        for isa in Isa::available() {
            isa.scope(|| {
                check(&batch_norm(x.clone(), &mean, &variance, &last).unwrap(), &inference);
                let y = batch_norm(flipped.clone(), &mean, &variance, &first).unwrap();
                check(&channels_last(&y).unwrap(), &inference);
                let out = batch_norm_training(x.clone(), None, &last).unwrap();
                check(&out.y, &training);
                check(&out.mean, &[1.25, 1.25]);
                check(&out.variance, &[2.9166667461395264, 6.75]);
                check(&out.saved_mean, &[1.25, 1.25]);
                check(&out.saved_variance, &[2.1875, 5.0625]);
                let running = Some((&mean, &variance, 0.25));
                let out = batch_norm_training(flipped.clone(), running, &first).unwrap();
                check(&channels_last(&out.y).unwrap(), &training);
                check(&out.mean, &[0.6875, 1.0625]);
                check(&out.variance, &[2.2291667461395264, 1.875]);
                check(&out.saved_variance, &[2.1875, 5.0625]);
            })
            .unwrap();
        }
        let one = Tensor::new([1, 1, 1, 2], vec![1.0f32, -2.0]).unwrap();
        let out = batch_norm_training(one, None, &last).unwrap();
        check(&out.y, &[0.25, 1.0]);
        check(&out.variance, &[0.0, 0.0]);
        let none = Tensor::new([0, 1, 1, 2], Vec::<f32>::new()).unwrap();
        let out = batch_norm_training(none, None, &last).unwrap();
        check(&out.mean, &[f64::NAN, f64::NAN]);
        check(&out.saved_mean, &[0.0, 0.0]);
        assert!(batch_norm(x, &vector(&[1.0]), &variance, &last).is_err());
    }

    #[test]
    fn softmax_matches_double_precision() {
        for n in [1, 3, 4, 5, 8, 15, 16, 17, 33, 1000] {
            let x: Vec<f32> = noise(7 * n, 3).iter().map(|x| x * 20.0).collect();
            let t = Tensor::new([7, n], x.clone()).unwrap();
            let (mut plain, mut logs) = (Vec::new(), Vec::new());
            for row in x.chunks(n) {
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                plain.extend(row.iter().map(|&x| f64::from(x).exp() / sum));
                logs.extend(row.iter().map(|&x| f64::from(x) - sum.ln()));
            }
            for isa in Isa::available() {
                isa.scope(|| {
                    assert_close(softmax(t.clone()).unwrap().data().unwrap(), &plain, 1e-6, "softmax");
                    assert_close(log_softmax(t.clone()).unwrap().data().unwrap(), &logs, 1e-6, "log softmax");
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn softmax_of_extreme_numbers_is_that_of_tensorflow() {
        let (i, n) = (f32::INFINITY, f64::NAN);
        // tf.nn.softmax and tf.nn.log_softmax of TensorFlow 2.19.
        let x = Tensor::new([4, 2], vec![-i, -i, -i, 0.0, 1e30, -1e30, -1e3, 1e3]).unwrap();
        for isa in Isa::available() {
            isa.scope(|| {
                check(&softmax(x.clone()).unwrap(), &[n, n, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
                let logs = [n, n, f64::NEG_INFINITY, 0.0, 0.0, -2.0000000300949324e30, -2000.0, 0.0];
                check(&log_softmax(x.clone()).unwrap(), &logs);
                let bad = softmax(Tensor::new([1, 3], vec![0.0, f32::NAN, 1.0]).unwrap()).unwrap();
                check(&bad, &[n, n, n]);
            })
            .unwrap();
        }
        assert!(softmax(Tensor::scalar(1.0f32)).is_err());
        assert_eq!(softmax(Tensor::new([3, 0], Vec::<f32>::new()).unwrap()).unwrap().dims(), [3, 0]);
    }

    #[test]
    fn lrn_matches_tensorflow() {
        // tf.nn.lrn of TensorFlow 2.19.
        let x = Tensor::new([1, 1, 1, 7], (1..8).map(|i| i as f32 / 4.0).collect::<Vec<f32>>()).unwrap();
        for isa in Isa::available() {
            isa.scope(|| {
                check(
                    &lrn(&x, 2, 1.0, 0.5, 0.75).unwrap(),
                    &[
                        0.1904294490814209,
                        0.3044659495353699,
                        0.3542291224002838,
                        0.36651572585105896,
                        0.36202216148376465,
                        0.4528568387031555,
                        0.5723797678947449,
                    ],
                );
                check(
                    &lrn(&x, 0, 2.0, 1.5, 0.5).unwrap(),
                    &[
                        0.17277368903160095,
                        0.3244428336620331,
                        0.4447495937347412,
                        0.5345224738121033,
                        0.5997601747512817,
                        0.6469966173171997,
                        0.6815093159675598,
                    ],
                );
            })
            .unwrap();
        }
        assert_eq!(lrn(&x, usize::MAX, 1.0, 0.5, 0.0).unwrap(), x);
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (one, two) = (Threads::new(1).unwrap(), Threads::new(2).unwrap());
        let x = Tensor::new([50, 10, 10, 33], noise(165_000, 1)).unwrap();
        let (scale, offset) = (vector(&noise(33, 2)), vector(&noise(33, 3)));
        let norm = BatchNorm {
            scale: &scale,
            offset: &offset,
            epsilon: 1e-3,
            data_format: DataFormat::ChannelsLast,
        };
        let all = || {
            let out = batch_norm_training(x.clone(), None, &norm).unwrap();
            (out.y, out.mean, out.variance, softmax(x.clone()).unwrap())
        };
        assert_eq!(one.run(all), two.run(all));
    }
}
