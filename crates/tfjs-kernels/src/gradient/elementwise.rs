//! Gradients of functions of single elements, from the gradient behind them and the input or output.
use num_complex::Complex32;

use super::same_shape;
use crate::{
    KernelError, Result, Tensor, TensorOf, par,
    simd::{self, Isa, Kernel, Simd},
    vecmath,
};

/// A function of single elements whose gradient is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ActivationGrad {
    /// From input or output.
    Relu,
    /// From input or output.
    Relu6,
    /// From the output.
    Elu,
    /// From the output.
    Selu,
    /// From the input, with the slope of its negative side.
    LeakyRelu(f32),
    /// From the output.
    Sigmoid,
    /// From the output.
    Tanh,
    /// From the input.
    Softplus,
    /// From the input.
    Softsign,
    /// From the output.
    Sqrt,
    /// From the output.
    Rsqrt,
    /// From the output.
    Reciprocal,
}

/// `dy` times the function's derivative at `v`, its input or output as [`ActivationGrad`] says. Overwrites `dy` when
/// nobody else holds it. `float32`; the functions that are smooth also `complex64`.
///
/// # Errors
/// When types or shapes differ, or the type is another.
pub fn activation_grad(op: ActivationGrad, dy: Tensor, v: &Tensor) -> Result<Tensor> {
    same_shape(&dy, v)?;
    match dy {
        Tensor::F32(dy) => Ok(float(op, dy, v.typed::<f32>("the features")?.data()).into()),
        Tensor::C64(dy) => complex(op, dy, v),
        other => Err(KernelError::DType {
            what: "the gradients",
            got: other.dtype(),
            expected: "float32 or complex64",
        }),
    }
}

fn float(op: ActivationGrad, mut dy: TensorOf<f32>, v: &[f32]) -> TensorOf<f32> {
    let isa = Isa::current();
    par::for_each_chunk(dy.data_mut(), par::GRAIN, |start, dy| {
        let v = &v[start..][..dy.len()];
        simd::dispatch_on(isa, Piece { op, dy, v });
    });
    dy
}

struct Piece<'a> {
    op: ActivationGrad,
    dy: &'a mut [f32],
    v: &'a [f32],
}

/// The constants of self-normalising networks.
const SELU_SCALE: f32 = 1.050_701;
const SELU_SCALE_ALPHA: f32 = 1.758_099_3;

impl Kernel for Piece<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Piece { op, dy, v } = self;
        let one = s.splat(1.0);
        match op {
            ActivationGrad::Relu => each(s, dy, v, |g, v| s.select(s.gt(v, s.zero()), g, s.zero())),
            ActivationGrad::Relu6 => each(s, dy, v, |g, v| {
                let inside = s.mask_and(s.gt(v, s.zero()), s.lt(v, s.splat(6.0)));
                s.select(inside, g, s.zero())
            }),
            ActivationGrad::Elu => {
                each(s, dy, v, |g, v| s.select(s.lt(v, s.zero()), s.mul(g, s.add(v, one)), g))
            }
            ActivationGrad::Selu => each(s, dy, v, |g, v| {
                let below = s.mul(g, s.add(v, s.splat(SELU_SCALE_ALPHA)));
                s.select(s.lt(v, s.zero()), below, s.mul(g, s.splat(SELU_SCALE)))
            }),
            ActivationGrad::LeakyRelu(alpha) => {
                each(s, dy, v, |g, v| s.select(s.gt(v, s.zero()), g, s.mul(g, s.splat(alpha))))
            }
            ActivationGrad::Sigmoid => each(s, dy, v, |g, v| s.mul(g, s.mul(v, s.sub(one, v)))),
            ActivationGrad::Tanh => each(s, dy, v, |g, v| s.mul(g, s.fnma(v, v, one))),
            ActivationGrad::Softplus => each(s, dy, v, |g, v| s.mul(g, vecmath::sigmoid(s, v))),
            ActivationGrad::Softsign => each(s, dy, v, |g, v| {
                let base = s.add(one, s.abs(v));
                s.div(g, s.mul(base, base))
            }),
            ActivationGrad::Sqrt => each(s, dy, v, |g, v| s.div(s.mul(g, s.splat(0.5)), v)),
            ActivationGrad::Rsqrt => {
                each(s, dy, v, |g, v| s.mul(s.mul(g, s.splat(-0.5)), s.mul(v, s.mul(v, v))))
            }
            ActivationGrad::Reciprocal => each(s, dy, v, |g, v| s.neg(s.mul(g, s.mul(v, v)))),
        }
    }
}

#[inline(always)]
fn each<S: Simd>(s: S, dy: &mut [f32], v: &[f32], f: impl Fn(S::F32, S::F32) -> S::F32) {
    // `f` is called in one place, so that it is compiled there, for the vector unit.
    for at in (0..dy.len()).step_by(S::LANES) {
        let y = f(s.load_part(&dy[at..]), s.load_part(&v[at..]));
        s.store_part(&mut dy[at..], y);
    }
}

fn complex(op: ActivationGrad, mut dy: TensorOf<Complex32>, v: &Tensor) -> Result<Tensor> {
    let v = v.typed::<Complex32>("the features")?.data();
    let slope: fn(Complex32) -> Complex32 = match op {
        ActivationGrad::Sigmoid => |y| y * (1.0 - y),
        ActivationGrad::Tanh => |y| 1.0 - y * y,
        ActivationGrad::Sqrt => |y| 0.5 / y,
        ActivationGrad::Rsqrt => |y| -0.5 * y * y * y,
        ActivationGrad::Reciprocal => |y| -y * y,
        _ => {
            let got = crate::DType::Complex64;
            return Err(KernelError::DType { what: "the gradients", got, expected: "float32" });
        }
    };
    for (g, &v) in dy.data_mut().iter_mut().zip(v) {
        *g *= slope(v).conj();
    }
    Ok(dy.into())
}

#[cfg(test)]
mod tests {
    use super::{ActivationGrad, activation_grad};
    use crate::{
        Tensor,
        simd::Isa,
        testing::{assert_close, noise},
    };

    #[test]
    fn gradients_match_double_precision_on_every_unit() {
        let n = 1000;
        let dy = noise(n, 1);
        let v: Vec<f32> = noise(n, 2).iter().map(|x| x * 8.0).collect();
        type F = fn(f64) -> f64;
        let cases: [(ActivationGrad, F); 10] = [
            (ActivationGrad::Relu, |v| f64::from(v > 0.0)),
            (ActivationGrad::Relu6, |v| f64::from(v > 0.0 && v < 6.0)),
            (ActivationGrad::Elu, |v| if v < 0.0 { v + 1.0 } else { 1.0 }),
            (ActivationGrad::Selu, |v| if v < 0.0 { v + 1.7580993408473766 } else { 1.0507009873554805 }),
            (ActivationGrad::LeakyRelu(0.25), |v| if v > 0.0 { 1.0 } else { 0.25 }),
            (ActivationGrad::Sigmoid, |v| v * (1.0 - v)),
            (ActivationGrad::Tanh, |v| 1.0 - v * v),
            (ActivationGrad::Softplus, |v| 1.0 / (1.0 + (-v).exp())),
            (ActivationGrad::Softsign, |v| (1.0 + v.abs()).powi(-2)),
            (ActivationGrad::Sqrt, |v| 0.5 / v),
        ];
        for (op, slope) in cases {
            let want: Vec<f64> =
                dy.iter().zip(&v).map(|(&g, &v)| f64::from(g) * slope(f64::from(v))).collect();
            for isa in Isa::available() {
                let got = isa.scope(|| {
                    activation_grad(op, Tensor::vector(dy.clone()), &Tensor::vector(v.clone())).unwrap()
                });
                assert_close(got.unwrap().data::<f32>().unwrap(), &want, 1e-6, &format!("{op:?} {isa}"));
            }
        }
    }
}
