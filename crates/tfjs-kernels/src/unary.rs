//! Ops of one input, element by element.
use num_complex::{Complex32, Complex64};

use crate::{
    DType, KernelError, Result, Tensor, TensorOf,
    elementwise::{map, map_same, overwrite},
    simd::Simd,
    special,
    vecmath::{self, Unary},
};

/// Which element types an op takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Takes {
    float: bool,
    int: bool,
    complex: bool,
    bool: bool,
}

const F: Takes = Takes { float: true, int: false, complex: false, bool: false };
const FI: Takes = Takes { int: true, ..F };
const FC: Takes = Takes { complex: true, ..F };
const FIC: Takes = Takes { int: true, ..FC };
const C: Takes = Takes { float: false, ..FC };
const I: Takes = Takes { float: false, ..FI };
const B: Takes = Takes { float: false, bool: true, ..F };

macro_rules! ops {
    ($($op:ident $takes:ident $doc:literal)*) => {
        /// An op of one input, named as in TensorFlow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum UnaryOp { $(#[doc = $doc] $op,)* }

        impl UnaryOp {
            /// All of them.
            pub const ALL: &[UnaryOp] = &[$(UnaryOp::$op,)*];

            /// TensorFlow's name of the op.
            pub fn name(self) -> &'static str {
                match self { $(UnaryOp::$op => stringify!($op),)* }
            }

            fn takes(self) -> Takes {
                match self { $(UnaryOp::$op => $takes,)* }
            }
        }
    };
}
ops! {
    Abs FI "Absolute value; the smallest integer stays as it is."
    Acos FC "Arc cosine."
    Acosh FC "Inverse hyperbolic cosine."
    Angle C "Argument of a complex number."
    Asin FC "Arc sine."
    Asinh FC "Inverse hyperbolic sine."
    Atan FC "Arc tangent."
    Atanh FC "Inverse hyperbolic tangent."
    BesselI0 F "Modified Bessel function of the first kind, order 0."
    BesselI0e F "`BesselI0` times `exp(-|x|)`."
    BesselI1 F "Modified Bessel function of the first kind, order 1."
    BesselI1e F "`BesselI1` times `exp(-|x|)`."
    BesselJ0 F "Bessel function of the first kind, order 0."
    BesselJ1 F "Bessel function of the first kind, order 1."
    BesselK0 F "Modified Bessel function of the second kind, order 0."
    BesselK0e F "`BesselK0` times `exp(x)`."
    BesselK1 F "Modified Bessel function of the second kind, order 1."
    BesselK1e F "`BesselK1` times `exp(x)`."
    BesselY0 F "Bessel function of the second kind, order 0."
    BesselY1 F "Bessel function of the second kind, order 1."
    Ceil F "Smallest integer not below."
    ComplexAbs C "Modulus of a complex number."
    Conj C "Complex conjugate."
    Cos FC "Cosine."
    Cosh FC "Hyperbolic cosine."
    Dawsn F "Dawson's integral."
    Digamma F "Derivative of `Lgamma`."
    Elu F "`x` if positive, else `exp(x) - 1`."
    Erf F "Error function."
    Erfc F "`1 - Erf`, without cancellation."
    Erfinv F "Inverse of `Erf`."
    Exp FC "Exponential."
    Expint F "Exponential integral Ei."
    Expm1 FC "`exp(x) - 1`, without cancellation."
    Floor F "Largest integer not above."
    FresnelCos F "Fresnel cosine integral."
    FresnelSin F "Fresnel sine integral."
    Imag C "Imaginary part."
    Inv FC "`1 / x`."
    Invert I "All bits flipped."
    IsFinite F "Whether neither infinite nor NaN."
    IsInf F "Whether infinite."
    IsNan F "Whether NaN."
    Lgamma F "Logarithm of the absolute value of the gamma function."
    Log FC "Natural logarithm."
    Log1p FC "`log(1 + x)`, without cancellation."
    LogicalNot B "Negation."
    Ndtri F "Quantile function of the standard normal distribution."
    Neg FIC "Negative; wraps for the smallest integer."
    Real C "Real part."
    Reciprocal FC "`1 / x`."
    Relu FI "`max(x, 0)`; NaN stays."
    Relu6 FI "`min(max(x, 0), 6)`; NaN stays."
    Rint F "Nearest integer, ties to even."
    Round FI "Nearest integer, ties to even."
    Rsqrt FC "`1 / sqrt(x)`."
    Selu F "Scaled `Elu` of self-normalising networks."
    Sigmoid FC "`1 / (1 + exp(-x))`."
    Sign FIC "-1, 0 or 1 (NaN stays); `z / |z|` for complex numbers."
    Sin FC "Sine."
    Sinh FC "Hyperbolic sine."
    Softplus F "`log(1 + exp(x))`."
    Softsign F "`x / (1 + |x|)`."
    Spence F "Spence's function."
    Sqrt FC "Square root."
    Square FIC "`x * x`."
    Tan FC "Tangent."
    Tanh FC "Hyperbolic tangent."
}

impl UnaryOp {
    /// Element type of the result.
    ///
    /// # Errors
    /// [`KernelError::DType`] when the op does not take this type.
    pub fn output_dtype(self, input: DType) -> Result<DType> {
        let takes = self.takes();
        let fits = match input {
            DType::Float32 => takes.float,
            DType::Int32 => takes.int,
            DType::Complex64 => takes.complex,
            DType::Bool => takes.bool,
            DType::String => false,
        };
        if !fits {
            let expected = match takes {
                F => "float32",
                FI => "float32 or int32",
                FC => "float32 or complex64",
                FIC => "float32, int32 or complex64",
                C => "complex64",
                I => "int32",
                _ => "bool",
            };
            return Err(KernelError::DType { what: "the input", got: input, expected });
        }
        Ok(match self {
            UnaryOp::Angle | UnaryOp::ComplexAbs | UnaryOp::Real | UnaryOp::Imag => DType::Float32,
            UnaryOp::IsFinite | UnaryOp::IsInf | UnaryOp::IsNan => DType::Bool,
            _ => input,
        })
    }
}

/// Applies `op` to every element; overwrites `x` when it is the only owner of its data.
///
/// # Errors
/// [`KernelError::DType`] when the op does not take this type.
pub fn unary(op: UnaryOp, x: Tensor) -> Result<Tensor> {
    op.output_dtype(x.dtype())?;
    Ok(match x {
        Tensor::F32(mut x) => match op {
            UnaryOp::IsFinite => map(&x, f32::is_finite)?.into(),
            UnaryOp::IsInf => map(&x, f32::is_infinite)?.into(),
            UnaryOp::IsNan => map(&x, f32::is_nan)?.into(),
            _ => match vector_kernel(op) {
                Some(in_place) => {
                    in_place(x.data_mut());
                    x.into()
                }
                None => overwrite(x, f32_kernel(op)).into(),
            },
        },
        Tensor::I32(x) => unary_i32(op, x).into(),
        Tensor::C64(x) => match op {
            UnaryOp::Angle => map(&x, |v| v.im.atan2(v.re))?.into(),
            UnaryOp::ComplexAbs => map(&x, |v| f64::from(v.re).hypot(f64::from(v.im)) as f32)?.into(),
            UnaryOp::Real => map(&x, |v| v.re)?.into(),
            UnaryOp::Imag => map(&x, |v| v.im)?.into(),
            _ => {
                let f = c64_function(op);
                map_same(x, |v| narrow(f(widen(v)))).into()
            }
        },
        Tensor::Bool(x) => map_same(x, |v| !v).into(),
        Tensor::Str(x) => x.into(),
    })
}

/// `x` where positive, `alpha * x` elsewhere.
///
/// # Errors
/// [`KernelError::DType`] when `x` is not float32.
pub fn leaky_relu(x: Tensor, alpha: f32) -> Result<Tensor> {
    let x = x.into_typed::<f32>("the input")?;
    Ok(map_same(x, |v| if v > 0.0 { v } else { alpha * v }).into())
}

/// `max(min(x, high), low)`, where the bounds are scalars or have the shape of `x`; NaN stays.
///
/// # Errors
/// [`KernelError`] when the types differ, are not numbers, or the shapes do not fit.
pub fn clip_by_value(x: Tensor, low: &Tensor, high: &Tensor) -> Result<Tensor> {
    fn clip<T: crate::Element + Copy>(
        mut x: TensorOf<T>,
        low: &TensorOf<T>,
        high: &TensorOf<T>,
        f: impl Fn(T, T, T) -> T + Sync,
    ) -> Result<TensorOf<T>> {
        let shape = x.shape();
        for bound in [low, high] {
            if bound.len() != 1 && bound.dims() != x.dims() {
                return Err(KernelError::Shapes {
                    left: shape,
                    right: bound.shape(),
                    why: "differ: a bound is a scalar or has the shape of the input",
                });
            }
        }
        let (l, h) = (low.data(), high.data());
        Ok(match (l, h) {
            (&[l], &[h]) => map_same(x, |v| f(v, l, h)),
            _ => {
                for (i, v) in x.data_mut().iter_mut().enumerate() {
                    *v = f(*v, l[if l.len() == 1 { 0 } else { i }], h[if h.len() == 1 { 0 } else { i }]);
                }
                x
            }
        })
    }
    match x {
        Tensor::F32(x) => {
            let (low, high) = (low.typed("the lower bound")?, high.typed("the upper bound")?);
            Ok(clip(x, low, high, |v, l: f32, h: f32| {
                let v = if v > h { h } else { v };
                if v < l { l } else { v }
            })?
            .into())
        }
        Tensor::I32(x) => {
            let (low, high) = (low.typed("the lower bound")?, high.typed("the upper bound")?);
            Ok(clip(x, low, high, |v, l: i32, h: i32| v.min(h).max(l))?.into())
        }
        other => {
            Err(KernelError::DType { what: "the input", got: other.dtype(), expected: "float32 or int32" })
        }
    }
}

fn unary_i32(op: UnaryOp, x: TensorOf<i32>) -> TensorOf<i32> {
    match op {
        UnaryOp::Abs => map_same(x, i32::wrapping_abs),
        UnaryOp::Invert => map_same(x, |v| !v),
        UnaryOp::Neg => map_same(x, i32::wrapping_neg),
        UnaryOp::Relu => map_same(x, |v| v.max(0)),
        UnaryOp::Relu6 => map_same(x, |v| v.clamp(0, 6)),
        UnaryOp::Sign => map_same(x, i32::signum),
        UnaryOp::Square => map_same(x, |v| v.wrapping_mul(v)),
        // Round; the table admits nothing else.
        _ => x,
    }
}

/// Scale and alpha of Klambauer et al. 2017, and their product.
const SELU: (f32, f32) = (1.050_701, 1.758_099_3);

/// The loop of an op over vectors of float32.
type VectorKernel = fn(&mut [f32]);

macro_rules! vector_ops {
    ($(|$s:ident, $x:ident| $($op:ident)|+ => $e:expr;)*) => {
        /// The vector form of an op, if it has one.
        fn vector_kernel(op: UnaryOp) -> Option<VectorKernel> {
            $({
                #[derive(Clone, Copy)]
                struct Form;
                impl Unary for Form {
                    #[inline(always)]
                    fn eval<S: Simd>(self, $s: S, $x: S::F32) -> S::F32 {
                        $e
                    }
                }
                if matches!(op, $(UnaryOp::$op)|+) {
                    return Some(|data| vecmath::map_in_place(Form, data));
                }
            })*
            None
        }
    };
}
vector_ops! {
    |s, x| Abs => s.abs(x);
    |s, x| Ceil => s.ceil(x);
    |s, x| Elu => s.select(s.lt(x, s.zero()), vecmath::expm1(s, x), x);
    |s, x| Erf => vecmath::erf(s, x);
    |s, x| Exp => vecmath::exp(s, x);
    |s, x| Expm1 => vecmath::expm1(s, x);
    |s, x| Floor => s.floor(x);
    |s, x| Inv | Reciprocal => s.div(s.splat(1.0), x);
    |s, x| Log => vecmath::log(s, x);
    |s, x| Log1p => vecmath::log1p(s, x);
    |s, x| Neg => s.neg(x);
    // The order of operands keeps NaN.
    |s, x| Relu => s.max(s.zero(), x);
    |s, x| Relu6 => s.min(s.splat(6.0), s.max(s.zero(), x));
    |s, x| Rint | Round => s.round_even(x);
    |s, x| Rsqrt => s.div(s.splat(1.0), s.sqrt(x));
    |s, x| Selu => s.select(
        s.lt(x, s.zero()),
        s.mul(s.splat(SELU.1), vecmath::expm1(s, x)),
        s.mul(s.splat(SELU.0), x)
    );
    |s, x| Sigmoid => vecmath::sigmoid(s, x);
    |s, x| Softplus => vecmath::softplus(s, x);
    |s, x| Softsign => s.div(x, s.add(s.splat(1.0), s.abs(x)));
    |s, x| Sqrt => s.sqrt(x);
    |s, x| Square => s.mul(x, x);
    |s, x| Tanh => vecmath::tanh(s, x);
}

/// The loop of an op over float32 that has no vector form.
fn f32_kernel(op: UnaryOp) -> fn(&mut [f32]) {
    macro_rules! each {
        ($v:ident => $e:expr) => {
            |s: &mut [f32]| {
                s.iter_mut().for_each(|p| {
                    let $v = *p;
                    *p = $e;
                })
            }
        };
        // In double precision, rounded once: for functions whose cost is the function itself.
        (wide $v:ident => $e:expr) => {
            |s: &mut [f32]| {
                s.iter_mut().for_each(|p| {
                    let $v = f64::from(*p);
                    *p = ($e) as f32;
                })
            }
        };
    }
    match op {
        UnaryOp::Acos => each!(wide v => v.acos()),
        UnaryOp::Acosh => each!(wide v => libm::acosh(v)),
        UnaryOp::Asin => each!(wide v => v.asin()),
        UnaryOp::Asinh => each!(wide v => libm::asinh(v)),
        UnaryOp::Atan => each!(wide v => v.atan()),
        UnaryOp::Atanh => each!(wide v => libm::atanh(v)),
        UnaryOp::BesselI0 => each!(wide v => special::bessel_ie(0, v) * v.abs().exp()),
        UnaryOp::BesselI0e => each!(wide v => special::bessel_ie(0, v)),
        UnaryOp::BesselI1 => each!(wide v => special::bessel_ie(1, v) * v.abs().exp()),
        UnaryOp::BesselI1e => each!(wide v => special::bessel_ie(1, v)),
        UnaryOp::BesselJ0 => each!(wide v => libm::j0(v)),
        UnaryOp::BesselJ1 => each!(wide v => libm::j1(v)),
        UnaryOp::BesselK0 => each!(wide v => special::bessel_ke(0, v) * (-v).exp()),
        UnaryOp::BesselK0e => each!(wide v => special::bessel_ke(0, v)),
        UnaryOp::BesselK1 => each!(wide v => special::bessel_ke(1, v) * (-v).exp()),
        UnaryOp::BesselK1e => each!(wide v => special::bessel_ke(1, v)),
        UnaryOp::BesselY0 => each!(wide v => if v < 0.0 { f64::NEG_INFINITY } else { libm::y0(v) }),
        UnaryOp::BesselY1 => each!(wide v => if v < 0.0 { f64::NEG_INFINITY } else { libm::y1(v) }),
        UnaryOp::Cos => each!(wide v => v.cos()),
        UnaryOp::Cosh => each!(wide v => v.cosh()),
        UnaryOp::Dawsn => each!(wide v => special::dawson(v)),
        UnaryOp::Digamma => each!(wide v => special::digamma(v)),
        UnaryOp::Erfc => each!(wide v => libm::erfc(v)),
        UnaryOp::Erfinv => each!(wide v => special::erfinv(v)),
        UnaryOp::Expint => each!(wide v => special::expint(v)),
        UnaryOp::FresnelCos => each!(wide v => special::fresnel(v, false)),
        UnaryOp::FresnelSin => each!(wide v => special::fresnel(v, true)),
        UnaryOp::Lgamma => each!(wide v => special::lgamma(v)),
        UnaryOp::Ndtri => each!(wide v => special::ndtri(v)),
        UnaryOp::Sign => each!(v => if v > 0.0 { 1.0 } else if v < 0.0 { -1.0 } else { v }),
        UnaryOp::Sin => each!(wide v => v.sin()),
        UnaryOp::Sinh => each!(wide v => v.sinh()),
        UnaryOp::Spence => each!(wide v => special::spence(v)),
        UnaryOp::Tan => each!(wide v => v.tan()),
        // Ops with a vector form, and complex, integer and predicate ops, never come here.
        _ => |_| {},
    }
}

pub(crate) fn widen(v: Complex32) -> Complex64 {
    Complex64::new(f64::from(v.re), f64::from(v.im))
}

pub(crate) fn narrow(v: Complex64) -> Complex32 {
    Complex32::new(v.re as f32, v.im as f32)
}

/// Complex functions in double precision: the textbook formulas cancel, but not 29 bits' worth.
fn c64_function(op: UnaryOp) -> fn(Complex64) -> Complex64 {
    match op {
        UnaryOp::Acos => Complex64::acos,
        UnaryOp::Acosh => Complex64::acosh,
        UnaryOp::Asin => Complex64::asin,
        UnaryOp::Asinh => Complex64::asinh,
        UnaryOp::Atan => Complex64::atan,
        UnaryOp::Atanh => Complex64::atanh,
        UnaryOp::Conj => |z| z.conj(),
        UnaryOp::Cos => Complex64::cos,
        UnaryOp::Cosh => Complex64::cosh,
        UnaryOp::Exp => Complex64::exp,
        UnaryOp::Expm1 => |z| {
            // exp(x) cos y - 1 = expm1(x) cos y - 2 sin^2(y/2)
            let half = (z.im / 2.0).sin();
            Complex64::new(z.re.exp_m1() * z.im.cos() - 2.0 * half * half, z.re.exp() * z.im.sin())
        },
        UnaryOp::Log => Complex64::ln,
        UnaryOp::Log1p => |z| {
            // log|1+z| = log1p(2x + x^2 + y^2) / 2
            let re = 0.5 * (z.re * (2.0 + z.re) + z.im * z.im).ln_1p();
            Complex64::new(re, z.im.atan2(1.0 + z.re))
        },
        UnaryOp::Neg => |z| -z,
        UnaryOp::Inv | UnaryOp::Reciprocal => |z| z.inv(),
        UnaryOp::Rsqrt => |z| z.sqrt().inv(),
        UnaryOp::Sigmoid => |z| ((-z).exp() + 1.0).inv(),
        UnaryOp::Sign => |z| {
            let r = z.re.hypot(z.im);
            if r == 0.0 { Complex64::new(0.0, 0.0) } else { z / r }
        },
        UnaryOp::Sin => Complex64::sin,
        UnaryOp::Sinh => Complex64::sinh,
        UnaryOp::Sqrt => Complex64::sqrt,
        UnaryOp::Square => |z| z * z,
        UnaryOp::Tan => Complex64::tan,
        UnaryOp::Tanh => Complex64::tanh,
        _ => |z| z,
    }
}

#[cfg(test)]
mod tests;
