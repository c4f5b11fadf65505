use crate::{
    KernelError, Result, Tensor, par,
    simd::{self, Isa, Kernel, Simd},
};

/// `(x - mean) / √(variance + ε) · scale + offset` with mean and variance of each row of `n` elements, where `n` is the
/// product of the last dimensions `dims`; `scale` and `offset` have `n` elements. Overwrites `x` when nobody else holds it.
///
/// # Errors
/// When a tensor is not `float32`, `x` has fewer dimensions, or a parameter has not one element per column.
pub fn layer_norm(
    x: Tensor,
    dims: usize,
    scale: Option<&Tensor>,
    offset: Option<&Tensor>,
    epsilon: f32,
) -> Result<Tensor> {
    let mut x = x.into_typed::<f32>("the values")?;
    let Some(first) = x.dims().len().checked_sub(dims.max(1)) else {
        return Err(KernelError::Rank {
            what: "the values",
            got: x.shape(),
            expected: "at least as many dimensions as are normalised over",
        });
    };
    let n: usize = x.dims()[first..].iter().product();
    let parameter = |t: Option<&Tensor>, what| -> Result<Vec<f32>> {
        let Some(t) = t else { return Ok(Vec::new()) };
        let data = t.typed::<f32>(what)?.data();
        if data.len() == n {
            Ok(data.to_vec())
        } else {
            Err(KernelError::Rank { what, got: t.shape(), expected: "one element per column" })
        }
    };
    let (mut scale, mut offset) = (parameter(scale, "the scale")?, parameter(offset, "the offset")?);
    if x.is_empty() {
        return Ok(Tensor::F32(x));
    }
    if !offset.is_empty() && scale.is_empty() {
        scale = vec![1.0; n];
    }
    if !scale.is_empty() && offset.is_empty() {
        offset = vec![0.0; n];
    }
    let isa = Isa::current();
    let rows = (par::GRAIN / 2 / n).max(1);
    par::for_each_chunk(x.data_mut(), rows * n, |_, x| {
        simd::dispatch_on(isa, LayerNorm { x, n, scale: &scale, offset: &offset, epsilon });
    });
    Ok(Tensor::F32(x))
}

/// Rows of `n`; scale and offset are both there or both empty.
struct LayerNorm<'a> {
    x: &'a mut [f32],
    n: usize,
    scale: &'a [f32],
    offset: &'a [f32],
    epsilon: f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.n) {
            let n = self.n as f32;
            let mean = s.splat(sum(s, row, None) / n);
            let variance = sum(s, row, Some(mean)) / n;
            let factor = s.splat(1.0 / (variance + self.epsilon).sqrt());
            for at in (0..row.len()).step_by(S::LANES) {
                let part = &mut row[at..self.n.min(at + S::LANES)];
                let mut y = s.mul(s.sub(s.load_part(part), mean), factor);
                if !self.scale.is_empty() {
                    y = s.fma(y, s.load_part(&self.scale[at..]), s.load_part(&self.offset[at..]));
                }
                s.store_part(part, y);
            }
        }
    }
}

/// The sum of a row, or of the squares of its distances from a mean.
#[inline(always)]
fn sum<S: Simd>(s: S, row: &[f32], mean: Option<S::F32>) -> f32 {
    // Four sums, as each addition waits for the one before.
    let mut sums = [s.zero(); 4];
    let mut pieces = row.chunks_exact(4 * S::LANES);
    for piece in &mut pieces {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = plus(s, *sum, s.load(&piece[i * S::LANES..]), mean);
        }
    }
    for (i, piece) in pieces.remainder().chunks(S::LANES).enumerate() {
        if piece.len() == S::LANES {
            sums[i] = plus(s, sums[i], s.load(piece), mean);
        } else {
            // Lanes that do not exist would count as zeros, whose distance from the mean is not zero.
            let mut last = s.to_array(s.zero());
            for (to, &x) in last.iter_mut().zip(piece) {
                *to = match mean {
                    None => x,
                    Some(mean) => {
                        let d = x - s.to_array(mean)[0];
                        d * d
                    }
                };
            }
            sums[i] = s.add(sums[i], s.load(&last));
        }
    }
    let [a, b, c, d] = sums;
    s.reduce_add(s.add(s.add(a, b), s.add(c, d)))
}

#[inline(always)]
fn plus<S: Simd>(s: S, sum: S::F32, x: S::F32, mean: Option<S::F32>) -> S::F32 {
    match mean {
        None => s.add(sum, x),
        Some(mean) => {
            let d = s.sub(x, mean);
            s.fma(d, d, sum)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::layer_norm;
    use crate::{
        Tensor, Threads,
        simd::Isa,
        testing::{assert_close, noise},
    };

    #[test]
    fn rows_agree_with_a_plain_loop_on_every_instruction_set() {
        for (rows, n) in [(3, 1), (5, 7), (2, 16), (4, 33), (130, 256), (9, 100), (2, 1000)] {
            for with in 0..4 {
                // Far from zero: the mean of squares would lose the variance.
                let x: Vec<f32> = noise(rows * n, 1).iter().map(|x| x + 40.0).collect();
                let (scale, offset) = (noise(n, 2), noise(n, 3));
                let want: Vec<f64> = x
                    .chunks(n)
                    .flat_map(|row| {
                        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                        let variance =
                            row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
                        let factor = 1.0 / (variance + 1e-3).sqrt();
                        let (scale, offset) = (&scale, &offset);
                        row.iter().enumerate().map(move |(i, &x)| {
                            let y = (f64::from(x) - mean) * factor;
                            let y = if with & 1 > 0 { y * f64::from(scale[i]) } else { y };
                            if with & 2 > 0 { y + f64::from(offset[i]) } else { y }
                        })
                    })
                    .collect();
                let (scale, offset) = (Tensor::vector(scale.clone()), Tensor::vector(offset.clone()));
                let x = Tensor::new([rows, n], x).unwrap();
                let run = || {
                    let (scale, offset) =
                        ((with & 1 > 0).then_some(&scale), (with & 2 > 0).then_some(&offset));
                    layer_norm(x.clone(), 1, scale, offset, 1e-3).unwrap()
                };
                for isa in Isa::available() {
                    let got = isa.scope(|| Threads::new(1).unwrap().run(run)).unwrap();
                    assert_eq!(got, isa.scope(|| Threads::new(2).unwrap().run(run)).unwrap());
                    // The rounding of the mean, relative to the deviation.
                    assert_close(got.data().unwrap(), &want, 2e-5, &format!("{isa} {rows} {n} {with}"));
                }
            }
        }
    }

    #[test]
    fn several_dimensions_are_one_and_wrong_parameters_are_refused() {
        let x = Tensor::new([2, 3, 4], noise(24, 1)).unwrap();
        let flat = x.clone().reshape([2, 12]).unwrap();
        let two = layer_norm(x.clone(), 2, None, None, 0.1).unwrap();
        let one = layer_norm(flat, 1, None, None, 0.1).unwrap();
        assert_eq!(two.data::<f32>().unwrap(), one.data::<f32>().unwrap());
        let four = Tensor::vector(vec![1f32; 4]);
        assert!(layer_norm(x.clone(), 1, Some(&four), None, 0.1).is_ok());
        assert!(layer_norm(x.clone(), 2, Some(&four), None, 0.1).is_err());
        assert!(layer_norm(x.clone(), 1, None, Some(&Tensor::scalar(1f32)), 0.1).is_err());
        assert!(layer_norm(x, 4, None, None, 0.1).is_err());
        assert!(layer_norm(Tensor::scalar(1i32), 1, None, None, 0.1).is_err());
    }
}
