//! Ops of two inputs, element by element, with NumPy broadcasting.
use std::ops::Range;

use num_complex::{Complex32, Complex64};

use crate::{
    DType, Element, KernelError, Result, Shape, Tensor, TensorOf, TfString,
    broadcast::{Walk, broadcast_shape},
    par, pool,
    simd::{self, Isa, Kernel, Simd},
    special,
    unary::{narrow, widen},
};

/// Which element types an op takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Takes(&'static [DType], &'static str);

const F: Takes = Takes(&[DType::Float32], "float32");
const FC: Takes = Takes(&[DType::Float32, DType::Complex64], "float32 or complex64");
const FI: Takes = Takes(&[DType::Float32, DType::Int32], "float32 or int32");
const FIC: Takes = Takes(&[DType::Float32, DType::Int32, DType::Complex64], "float32, int32 or complex64");
const I: Takes = Takes(&[DType::Int32], "int32");
const B: Takes = Takes(&[DType::Bool], "bool");
const FICS: Takes = Takes(
    &[DType::Float32, DType::Int32, DType::Complex64, DType::String],
    "float32, int32, complex64 or string",
);
const ANY: Takes = Takes(&DType::ALL, "any type");

macro_rules! ops {
    ($($op:ident $takes:ident $doc:literal)*) => {
        /// An op of two inputs, named as in TensorFlow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum BinaryOp { $(#[doc = $doc] $op,)* }

        impl BinaryOp {
            /// All of them.
            pub const ALL: &[BinaryOp] = &[$(BinaryOp::$op,)*];

            /// TensorFlow's name of the op.
            pub fn name(self) -> &'static str {
                match self { $(BinaryOp::$op => stringify!($op),)* }
            }

            fn takes(self) -> Takes {
                match self { $(BinaryOp::$op => $takes,)* }
            }
        }
    };
}
ops! {
    Add FICS "Sum; strings are joined."
    Atan2 F "Angle of the point with ordinate `x` and abscissa `y` (TensorFlow's input order)."
    BitwiseAnd I "Bits set in both."
    BitwiseOr I "Bits set in either."
    BitwiseXor I "Bits set in one only."
    Div FIC "Quotient; integers round toward zero."
    DivNoNan FC "Quotient, 0 where the divisor is 0."
    Equal ANY "Whether equal."
    FloorDiv FI "Quotient rounded down."
    FloorMod FI "Remainder with the sign of the divisor."
    Greater FI "Whether greater."
    GreaterEqual FI "Whether greater or equal."
    Igamma F "Lower regularised incomplete gamma function."
    IgammaGradA F "Derivative of `Igamma` by its first input."
    Igammac F "Upper regularised incomplete gamma function."
    LeftShift I "Bits moved up; the distance is clamped to 0..=31."
    Less FI "Whether less."
    LessEqual FI "Whether less or equal."
    LogicalAnd B "Whether both."
    LogicalOr B "Whether either."
    Maximum FI "The larger; NaN wins."
    Minimum FI "The smaller; NaN wins."
    Mod FI "Remainder with the sign of the dividend."
    Mul FIC "Product."
    MulNoNan FC "Product, 0 where the second factor is 0."
    NextAfter F "Next representable number from the first towards the second."
    NotEqual ANY "Whether different."
    Polygamma F "Derivative of digamma, of the order of the first input."
    Pow FIC "Power; integers wrap."
    RealDiv FC "Quotient."
    RightShift I "Bits moved down, keeping the sign; the distance is clamped to 0..=31."
    SquaredDifference FIC "`(x - y)^2`, with the conjugate for complex numbers."
    Sub FIC "Difference."
    TruncateDiv FI "Quotient rounded toward zero."
    TruncateMod FI "Remainder with the sign of the dividend."
    Xdivy FC "Quotient, 0 where the dividend is 0."
    Xlog1py FC "`x log(1 + y)`, 0 where `x` is 0."
    Xlogy FC "`x log(y)`, 0 where `x` is 0."
    Zeta F "Hurwitz zeta function."
}

impl BinaryOp {
    /// Element type of the result.
    ///
    /// # Errors
    /// [`KernelError::DType`] when the two types differ or the op does not take them.
    pub fn output_dtype(self, x: DType, y: DType) -> Result<DType> {
        let Takes(types, expected) = self.takes();
        if !types.contains(&x) {
            return Err(KernelError::DType { what: "the first input", got: x, expected });
        }
        if x != y {
            return Err(KernelError::DType { what: "the second input", got: y, expected: x.name() });
        }
        Ok(if self.compares() { DType::Bool } else { x })
    }

    fn compares(self) -> bool {
        use BinaryOp::*;
        matches!(self, Equal | NotEqual | Greater | GreaterEqual | Less | LessEqual)
    }
}

/// Applies `op` to the elements of `x` and `y`, broadcast to a common shape; overwrites an input
/// that has the result's shape and type and is the only owner of its data.
///
/// # Errors
/// [`KernelError`] when the types or shapes do not go together, an integer is divided by zero, or
/// an integer is raised to a negative power.
pub fn binary(op: BinaryOp, x: Tensor, y: Tensor) -> Result<Tensor> {
    op.output_dtype(x.dtype(), y.dtype())?;
    match (x, y) {
        (Tensor::F32(x), Tensor::F32(y)) => match compare_f32(op) {
            Some(f) => Ok(f(&x, &y)?.into()),
            None => Ok(arithmetic_f32(op, x, y)?.into()),
        },
        (Tensor::I32(x), Tensor::I32(y)) => match op {
            BinaryOp::Equal => compare(&x, &y, |a, b| a == b),
            BinaryOp::NotEqual => compare(&x, &y, |a, b| a != b),
            BinaryOp::Greater => compare(&x, &y, |a, b| a > b),
            BinaryOp::GreaterEqual => compare(&x, &y, |a, b| a >= b),
            BinaryOp::Less => compare(&x, &y, |a, b| a < b),
            BinaryOp::LessEqual => compare(&x, &y, |a, b| a <= b),
            _ => Ok(arithmetic_i32(op, x, y)?.into()),
        },
        (Tensor::C64(x), Tensor::C64(y)) => match op {
            BinaryOp::Equal => compare(&x, &y, |a, b| a == b),
            BinaryOp::NotEqual => compare(&x, &y, |a, b| a != b),
            _ => Ok(arithmetic_c64(op, x, y)?.into()),
        },
        (Tensor::Bool(x), Tensor::Bool(y)) => match op {
            BinaryOp::LogicalAnd => Ok(combine(x, y, |a, b| a & b)?.into()),
            BinaryOp::LogicalOr => Ok(combine(x, y, |a, b| a | b)?.into()),
            BinaryOp::NotEqual => Ok(combine(x, y, |a, b| a ^ b)?.into()),
            _ => Ok(combine(x, y, |a, b| a == b)?.into()),
        },
        (Tensor::Str(x), Tensor::Str(y)) => match op {
            BinaryOp::Equal => compare_ref(&x, &y, |a, b| a == b),
            BinaryOp::NotEqual => compare_ref(&x, &y, |a, b| a != b),
            _ => {
                Ok(map2(&x, &y, |a: &TfString, b: &TfString| TfString::from([&a[..], &b[..]].concat()))?
                    .into())
            }
        },
        // The types are equal: `output_dtype` said so.
        (x, y) => {
            Err(KernelError::DType { what: "the second input", got: y.dtype(), expected: x.dtype().name() })
        }
    }
}

/// Whether `|x - y| < tolerance`, for float32 tensors of one shape.
///
/// # Errors
/// [`KernelError`] when the shapes or types differ.
pub fn approximate_equal(x: &Tensor, y: &Tensor, tolerance: f32) -> Result<Tensor> {
    if x.dims() != y.dims() {
        return Err(KernelError::Shapes { left: x.shape(), right: y.shape(), why: "differ" });
    }
    match (x, y) {
        (Tensor::I32(x), Tensor::I32(y)) => {
            compare(x, y, |a: i32, b: i32| f64::from(a.wrapping_sub(b)).abs() < f64::from(tolerance))
        }
        _ => compare(x.typed("the first input")?, y.typed("the second input")?, |a: f32, b: f32| {
            (a - b).abs() < tolerance
        }),
    }
}

/// A complex tensor of broadcast real and imaginary parts.
///
/// # Errors
/// [`KernelError`] when a part is not float32 or the shapes do not go together.
pub fn complex(real: &Tensor, imag: &Tensor) -> Result<Tensor> {
    let (re, im) = (real.typed::<f32>("the real part")?, imag.typed::<f32>("the imaginary part")?);
    Ok(map2(re, im, |&a, &b| Complex32::new(a, b))?.into())
}

/// The regularised incomplete beta function of broadcast float32 tensors.
///
/// # Errors
/// [`KernelError`] when an input is not float32 or the shapes do not go together.
pub fn betainc(a: &Tensor, b: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (a, b, x) = (a.typed::<f32>("a")?, b.typed::<f32>("b")?, x.typed::<f32>("x")?);
    let shape = broadcast_shape(&broadcast_shape(a.dims(), b.dims())?, x.dims())?;
    let walk = Walk::new(&shape, [a.dims(), b.dims(), x.dims()]);
    let mut out = Vec::with_capacity(shape.checked_len()?);
    if !shape.contains(&0) {
        let [ma, mb, mx] = walk.moves.map(usize::from);
        walk.for_rows(0..walk.rows(), |_, [i, j, k]| {
            out.extend((0..walk.inner).map(|n| {
                let [a, b, x] =
                    [a.data()[i + ma * n], b.data()[j + mb * n], x.data()[k + mx * n]].map(f64::from);
                special::betainc(a, b, x) as f32
            }));
        });
    }
    Tensor::new(shape, out)
}

/// `x` where not negative, `alpha * x` elsewhere; `alpha` is broadcast to `x`'s shape.
///
/// # Errors
/// [`KernelError`] when an input is not float32 or the shapes do not go together.
pub fn prelu(x: Tensor, alpha: Tensor) -> Result<Tensor> {
    let (x, alpha) = (x.into_typed::<f32>("the input")?, alpha.into_typed::<f32>("alpha")?);
    Ok(combine(x, alpha, |v, a| if v < 0.0 { a * v } else { v })?.into())
}

/// Sum of one or more tensors of one shape.
///
/// # Errors
/// [`KernelError`] when there are none, or types or shapes differ.
pub fn add_n(tensors: Vec<Tensor>) -> Result<Tensor> {
    let mut rest = tensors.into_iter();
    let Some(first) = rest.next() else {
        return Err(KernelError::Argument {
            what: "the number of inputs",
            got: "0".into(),
            expected: "at least 1",
        });
    };
    if matches!(first, Tensor::Bool(_) | Tensor::Str(_)) {
        return Err(KernelError::DType { what: "the first input", got: first.dtype(), expected: FIC.1 });
    }
    rest.try_fold(first, |sum, t| {
        if sum.dims() != t.dims() {
            return Err(KernelError::Shapes { left: sum.shape(), right: t.shape(), why: "differ" });
        }
        binary(BinaryOp::Add, sum, t)
    })
}

/// Adds a vector to the channels of `x`: the last dimension, or dimension 1 if `channels_first`.
///
/// # Errors
/// [`KernelError`] when `bias` is not a vector of as many elements as there are channels, or the types differ.
pub fn bias_add(x: Tensor, bias: Tensor, channels_first: bool) -> Result<Tensor> {
    if x.rank() < 2 {
        return Err(KernelError::Rank {
            what: "the input",
            got: x.shape(),
            expected: "at least 2 dimensions",
        });
    }
    let axis = if channels_first { 1 } else { x.rank() - 1 };
    if bias.rank() != 1 || bias.len() != x.dims()[axis] {
        return Err(KernelError::Shapes {
            left: x.shape(),
            right: bias.shape(),
            why: "do not agree: the bias is a vector with one element per channel",
        });
    }
    if matches!(x, Tensor::Bool(_) | Tensor::Str(_)) {
        return Err(KernelError::DType { what: "the input", got: x.dtype(), expected: FIC.1 });
    }
    let mut shape: Shape = x.dims()[axis..].iter().map(|_| 1).collect();
    shape[0] = bias.len();
    binary(BinaryOp::Add, x, bias.reshape(shape)?)
}

fn arithmetic_f32(op: BinaryOp, x: TensorOf<f32>, y: TensorOf<f32>) -> Result<TensorOf<f32>> {
    // In double precision, rounded once.
    macro_rules! wide {
        (|$a:ident, $b:ident| $e:expr) => {
            combine(x, y, |a, b| {
                let ($a, $b) = (f64::from(a), f64::from(b));
                ($e) as f32
            })
        };
    }
    match op {
        BinaryOp::Add => combine(x, y, |a, b| a + b),
        BinaryOp::Sub => combine(x, y, |a, b| a - b),
        BinaryOp::Mul => combine(x, y, |a, b| a * b),
        BinaryOp::Div | BinaryOp::RealDiv => combine(x, y, |a, b| a / b),
        BinaryOp::DivNoNan => combine(x, y, |a, b| if b == 0.0 { 0.0 } else { a / b }),
        BinaryOp::MulNoNan => combine(x, y, |a, b| if b == 0.0 { 0.0 } else { a * b }),
        // NaN in either wins: a comparison with NaN is false, so the sum brings it in.
        BinaryOp::Maximum => combine(x, y, |a, b| {
            if a > b {
                a
            } else if b >= a {
                b
            } else {
                a + b
            }
        }),
        BinaryOp::Minimum => combine(x, y, |a, b| {
            if a < b {
                a
            } else if b <= a {
                b
            } else {
                a + b
            }
        }),
        BinaryOp::SquaredDifference => combine(x, y, |a, b| (a - b) * (a - b)),
        BinaryOp::FloorDiv => combine(x, y, |a, b| (a / b).floor()),
        BinaryOp::TruncateDiv => combine(x, y, |a, b| (a / b).trunc()),
        BinaryOp::FloorMod => combine(x, y, |a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }),
        BinaryOp::Mod | BinaryOp::TruncateMod => combine(x, y, |a, b| a % b),
        BinaryOp::Pow => wide!(|a, b| a.powf(b)),
        BinaryOp::Atan2 => wide!(|a, b| a.atan2(b)),
        BinaryOp::Xdivy => combine(x, y, |a, b| if a == 0.0 { 0.0 } else { a / b }),
        BinaryOp::Xlogy => wide!(|a, b| if a == 0.0 { 0.0 } else { a * b.ln() }),
        BinaryOp::Xlog1py => wide!(|a, b| if a == 0.0 { 0.0 } else { a * b.ln_1p() }),
        BinaryOp::NextAfter => combine(x, y, libm::nextafterf),
        BinaryOp::Igamma => wide!(|a, b| special::igamma(a, b, true)),
        BinaryOp::IgammaGradA => wide!(|a, b| special::igamma_grad_a(a, b)),
        BinaryOp::Igammac => wide!(|a, b| special::igamma(a, b, false)),
        BinaryOp::Polygamma => wide!(|a, b| special::polygamma(a, b)),
        BinaryOp::Zeta => wide!(|a, b| special::zeta(a, b)),
        _ => Err(KernelError::DType { what: "the input", got: DType::Float32, expected: op.takes().1 }),
    }
}

fn arithmetic_i32(op: BinaryOp, x: TensorOf<i32>, y: TensorOf<i32>) -> Result<TensorOf<i32>> {
    use BinaryOp::*;
    if matches!(op, Div | FloorDiv | TruncateDiv | Mod | FloorMod | TruncateMod) {
        // An empty result divides nothing.
        let len = broadcast_shape(x.dims(), y.dims())?.checked_len()?;
        if len > 0 && y.data().contains(&0) {
            return Err(KernelError::Argument {
                what: "the divisor",
                got: "0".into(),
                expected: "an integer other than 0",
            });
        }
    }
    if op == Pow
        && let Some(negative) = y.data().iter().find(|&&e| e < 0)
    {
        return Err(KernelError::Argument {
            what: "the exponent of an integer",
            got: negative.to_string(),
            expected: "at least 0",
        });
    }
    match op {
        Add => combine(x, y, i32::wrapping_add),
        Sub => combine(x, y, i32::wrapping_sub),
        Mul => combine(x, y, i32::wrapping_mul),
        Div | TruncateDiv => combine(x, y, i32::wrapping_div),
        FloorDiv => combine(x, y, |a, b| {
            let q = a.wrapping_div(b);
            if (a < 0) != (b < 0) && q.wrapping_mul(b) != a { q - 1 } else { q }
        }),
        Mod | TruncateMod => combine(x, y, i32::wrapping_rem),
        FloorMod => combine(x, y, |a, b| {
            let r = a.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }),
        Maximum => combine(x, y, |a, b| a.max(b)),
        Minimum => combine(x, y, |a, b| a.min(b)),
        SquaredDifference => combine(x, y, |a, b| {
            let d = a.wrapping_sub(b);
            d.wrapping_mul(d)
        }),
        Pow => combine(x, y, |a, b| a.wrapping_pow(b as u32)),
        BitwiseAnd => combine(x, y, |a, b| a & b),
        BitwiseOr => combine(x, y, |a, b| a | b),
        BitwiseXor => combine(x, y, |a, b| a ^ b),
        LeftShift => combine(x, y, |a, b| a.wrapping_shl(b.clamp(0, 31) as u32)),
        RightShift => combine(x, y, |a, b| a >> b.clamp(0, 31)),
        _ => Err(KernelError::DType { what: "the input", got: DType::Int32, expected: op.takes().1 }),
    }
}

fn arithmetic_c64(
    op: BinaryOp,
    x: TensorOf<Complex32>,
    y: TensorOf<Complex32>,
) -> Result<TensorOf<Complex32>> {
    macro_rules! wide {
        (|$a:ident, $b:ident| $e:expr) => {
            combine(x, y, |a, b| {
                let ($a, $b) = (widen(a), widen(b));
                narrow($e)
            })
        };
    }
    let zero = Complex64::new(0.0, 0.0);
    match op {
        BinaryOp::Add => combine(x, y, |a, b| a + b),
        BinaryOp::Sub => combine(x, y, |a, b| a - b),
        BinaryOp::Mul => combine(x, y, |a, b| a * b),
        BinaryOp::Div | BinaryOp::RealDiv => wide!(|a, b| a / b),
        BinaryOp::DivNoNan => wide!(|a, b| if b == zero { zero } else { a / b }),
        BinaryOp::MulNoNan => wide!(|a, b| if b == zero { zero } else { a * b }),
        BinaryOp::Xdivy => wide!(|a, b| if a == zero { zero } else { a / b }),
        BinaryOp::Xlogy => wide!(|a, b| if a == zero { zero } else { a * b.ln() }),
        BinaryOp::Xlog1py => wide!(|a, b| if a == zero { zero } else { a * (b + 1.0).ln() }),
        BinaryOp::SquaredDifference => wide!(|a, b| Complex64::new((a - b).norm_sqr(), 0.0)),
        BinaryOp::Pow => {
            wide!(|a, b| if a == zero && b == zero { Complex64::new(1.0, 0.0) } else { a.powc(b) })
        }
        _ => Err(KernelError::DType { what: "the input", got: DType::Complex64, expected: op.takes().1 }),
    }
}

type CompareF32 = fn(&TensorOf<f32>, &TensorOf<f32>) -> Result<TensorOf<bool>>;

fn compare_f32(op: BinaryOp) -> Option<CompareF32> {
    Some(match op {
        BinaryOp::Equal => |x, y| map2(x, y, |a, b| a == b),
        BinaryOp::NotEqual => |x, y| map2(x, y, |a, b| a != b),
        BinaryOp::Greater => |x, y| map2(x, y, |a, b| a > b),
        BinaryOp::GreaterEqual => |x, y| map2(x, y, |a, b| a >= b),
        BinaryOp::Less => |x, y| map2(x, y, |a, b| a < b),
        BinaryOp::LessEqual => |x, y| map2(x, y, |a, b| a <= b),
        _ => return None,
    })
}

fn compare<T: Element + Copy>(
    x: &TensorOf<T>,
    y: &TensorOf<T>,
    f: impl Fn(T, T) -> bool + Sync + Send,
) -> Result<Tensor> {
    Ok(map2(x, y, |&a, &b| f(a, b))?.into())
}

fn compare_ref<T: Element>(
    x: &TensorOf<T>,
    y: &TensorOf<T>,
    f: impl Fn(&T, &T) -> bool + Sync + Send,
) -> Result<Tensor> {
    Ok(map2(x, y, f)?.into())
}

/// `f` of broadcast elements into a new tensor.
fn map2<A: Element, B: Element, O: Element>(
    x: &TensorOf<A>,
    y: &TensorOf<B>,
    f: impl Fn(&A, &B) -> O + Sync + Send,
) -> Result<TensorOf<O>> {
    let shape = broadcast_shape(x.dims(), y.dims())?;
    let mut out = pool::elements(shape.checked_len()?);
    let walk = Walk::new(&shape, [x.dims(), y.dims()]);
    let isa = Isa::current();
    pieces(&mut out, &walk, |rows, at, out| {
        simd::dispatch_on(isa, Map2 { a: x.data(), b: y.data(), walk: &walk, rows, at, out, f: &f });
    });
    TensorOf::from_buffer(shape, out)
}

/// `f` of broadcast elements, overwriting an input of the result's shape where possible.
fn combine<T: Element + Copy>(
    mut x: TensorOf<T>,
    mut y: TensorOf<T>,
    f: impl Fn(T, T) -> T + Sync + Send,
) -> Result<TensorOf<T>> {
    let shape = broadcast_shape(x.dims(), y.dims())?;
    let len = shape.checked_len()?;
    if let Some(row) = short_row(&shape, x.dims(), &y) {
        return Ok(with_row(x, &row, f));
    }
    if let Some(row) = short_row(&shape, y.dims(), &x) {
        return Ok(with_row(y, &row, |b, a| f(a, b)));
    }
    let walk = Walk::new(&shape, [x.dims(), y.dims()]);
    let isa = Isa::current();
    if x.dims() == &shape[..] && x.is_unique() {
        let other = y.data();
        pieces(x.data_mut(), &walk, |rows, at, target| {
            simd::dispatch_on(isa, Assign { target, other, walk: &walk, k: 1, rows, at, f: &f });
        });
        return Ok(x);
    }
    if y.dims() == &shape[..] && y.is_unique() {
        let (other, f) = (x.data(), |b: T, a: T| f(a, b));
        pieces(y.data_mut(), &walk, |rows, at, target| {
            simd::dispatch_on(isa, Assign { target, other, walk: &walk, k: 0, rows, at, f: &f });
        });
        return Ok(y);
    }
    // Piece by piece a copy of one operand, then in place while the copy is in the cache.
    let (a, b) = (x.data(), y.data());
    let mut out = pool::elements(len);
    pieces(&mut out, &walk, |rows, at, target| {
        let n = target.len() / rows.len().max(1);
        let mut part = target.chunks_exact_mut(n);
        walk.for_rows(rows.clone(), |_, [i, _]| {
            if let Some(run) = part.next() {
                if walk.moves[0] { run.copy_from_slice(&a[i + at..][..n]) } else { run.fill(a[i]) }
            }
        });
        simd::dispatch_on(isa, Assign { target, other: b, walk: &walk, k: 1, rows, at, f: &f });
    });
    TensorOf::from_buffer(shape, out)
}

/// A row that the other operand, of shape `whole`, has one after the other; repeated to a length that is worth a loop.
fn short_row<T: Element + Copy>(shape: &[usize], whole: &[usize], row: &TensorOf<T>) -> Option<Vec<T>> {
    const SHORT: std::ops::Range<usize> = 2..4096;
    let n = row.len();
    let lead = row.dims().iter().take_while(|&&d| d == 1).count();
    let fits = SHORT.contains(&n)
        && whole == shape
        && shape.ends_with(&row.dims()[lead..])
        && shape.iter().product::<usize>() >= 16 * n;
    fits.then(|| row.data().repeat((256 / n).max(1)))
}

/// `f` of every element of `x` and the row's element at the same place, overwriting `x` where possible.
fn with_row<T: Element + Copy>(
    mut x: TensorOf<T>,
    row: &[T],
    f: impl Fn(T, T) -> T + Sync + Send,
) -> TensorOf<T> {
    let isa = Isa::current();
    let chunk = par::GRAIN / row.len() * row.len();
    par::for_each_chunk(x.data_mut(), chunk, |_, target| {
        simd::dispatch_on(isa, WithRow { target, row, f: &f });
    });
    x
}

/// One chunk of [`with_row`].
struct WithRow<'a, T, F> {
    target: &'a mut [T],
    row: &'a [T],
    f: &'a F,
}

impl<T: Copy, F: Fn(T, T) -> T> Kernel for WithRow<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for part in self.target.chunks_mut(self.row.len()) {
            part.iter_mut().zip(self.row).for_each(|(t, &o)| *t = (self.f)(*t, o));
        }
    }
}

/// Cuts an output into pieces for threads: whole runs of the walk, or parts of the only one. Calls `f` with the
/// runs, how far into the run the piece starts, and the piece.
fn pieces<O: Send>(out: &mut [O], walk: &Walk<2>, f: impl Fn(Range<usize>, usize, &mut [O]) + Sync + Send) {
    let n = walk.inner;
    if out.is_empty() {
        return;
    }
    if walk.rows() == 1 {
        par::for_each_chunk(out, par::GRAIN, |at, out| f(0..1, at, out));
        return;
    }
    let rows = (par::GRAIN / n).max(1);
    par::for_each_chunk(out, rows * n, |start, out| f(start / n..(start + out.len()) / n, 0, out));
}

/// One piece of [`map2`].
struct Map2<'a, A, B, O, F> {
    a: &'a [A],
    b: &'a [B],
    walk: &'a Walk<2>,
    rows: Range<usize>,
    at: usize,
    out: &'a mut [O],
    f: &'a F,
}

impl<A, B, O, F: Fn(&A, &B) -> O> Kernel for Map2<'_, A, B, O, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Map2 { a, b, walk, rows, at, out, f } = self;
        let n = out.len() / rows.len().max(1);
        let mut part = out.chunks_exact_mut(n.max(1));
        walk.for_rows(rows, |_, [i, j]| {
            let Some(out) = part.next() else { return };
            match walk.moves {
                [true, true] => {
                    let operands = a[i + at..][..n].iter().zip(&b[j + at..][..n]);
                    out.iter_mut().zip(operands).for_each(|(o, (a, b))| *o = f(a, b));
                }
                [true, false] => out.iter_mut().zip(&a[i + at..][..n]).for_each(|(o, a)| *o = f(a, &b[j])),
                [false, moves] => {
                    let b = if moves { &b[j + at..][..n] } else { &b[j..][..1] };
                    out.iter_mut().zip(b).for_each(|(o, b)| *o = f(&a[i], b));
                }
            }
        });
    }
}

/// One piece of [`combine`]: `target = f(target, other)`, where `other` is operand `k` of the walk.
struct Assign<'a, T, F> {
    target: &'a mut [T],
    other: &'a [T],
    walk: &'a Walk<2>,
    k: usize,
    rows: Range<usize>,
    at: usize,
    f: &'a F,
}

impl<T: Copy, F: Fn(T, T) -> T> Kernel for Assign<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Assign { target, other, walk, k, rows, at, f } = self;
        let n = target.len() / rows.len().max(1);
        let mut part = target.chunks_exact_mut(n.max(1));
        walk.for_rows(rows, |_, start| {
            let Some(target) = part.next() else { return };
            if walk.moves[k] {
                let other = &other[start[k] + at..][..n];
                target.iter_mut().zip(other).for_each(|(t, &o)| *t = f(*t, o));
            } else {
                let o = other[start[k]];
                target.iter_mut().for_each(|t| *t = f(*t, o));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(op: BinaryOp, x: &[f32], y: &[f32]) -> Vec<f32> {
        binary(op, Tensor::vector(x.to_vec()), Tensor::vector(y.to_vec())).unwrap().data().unwrap().to_vec()
    }

    fn i(op: BinaryOp, x: &[i32], y: &[i32]) -> Vec<i32> {
        binary(op, Tensor::vector(x.to_vec()), Tensor::vector(y.to_vec())).unwrap().data().unwrap().to_vec()
    }

    #[test]
    fn integer_division_rounds_as_in_tensorflow() {
        let (x, y) = ([5, -5, 5, -5, i32::MAX, i32::MIN, 7], [3, 3, -3, -3, -1, -1, 2]);
        assert_eq!(i(BinaryOp::FloorMod, &x, &y), [2, 1, -1, -2, 0, 0, 1]);
        assert_eq!(i(BinaryOp::Mod, &x, &y), [2, -2, 2, -2, 0, 0, 1]);
        assert_eq!(i(BinaryOp::FloorDiv, &x, &y), [1, -2, -2, 1, -i32::MAX, i32::MIN, 3]);
        assert_eq!(i(BinaryOp::Div, &x, &y), [1, -1, -1, 1, -i32::MAX, i32::MIN, 3]);
    }

    #[test]
    fn integer_division_by_zero_and_negative_exponents_are_errors() {
        for op in
            [BinaryOp::Div, BinaryOp::FloorDiv, BinaryOp::Mod, BinaryOp::FloorMod, BinaryOp::TruncateDiv]
        {
            assert!(binary(op, Tensor::scalar(1i32), Tensor::scalar(0i32)).is_err());
        }
        assert!(binary(BinaryOp::Pow, Tensor::scalar(2i32), Tensor::scalar(-1i32)).is_err());
    }

    #[test]
    fn shift_distances_are_clamped() {
        assert_eq!(
            i(BinaryOp::LeftShift, &[1, -1, 5, 5], &[31, 32, -1, 100]),
            [i32::MIN, i32::MIN, 5, i32::MIN]
        );
        assert_eq!(i(BinaryOp::RightShift, &[1, -1, 5, -5], &[31, 32, -1, 100]), [0, -1, 5, -1]);
    }

    #[test]
    fn float_remainders_agree_with_tensorflow() {
        let inf = f32::INFINITY;
        let (x, y) = ([5.0, -5.0, 5.0, -5.0, 1.0, -1.0], [3.0, 3.0, -3.0, -3.0, inf, inf]);
        assert_eq!(f(BinaryOp::FloorMod, &x, &y), [2.0, 1.0, -1.0, -2.0, 1.0, inf]);
        assert_eq!(f(BinaryOp::Mod, &x, &y), [2.0, -2.0, 2.0, -2.0, 1.0, -1.0]);
        assert!(f(BinaryOp::FloorMod, &[5.0], &[0.0])[0].is_nan());
    }

    #[test]
    fn nan_wins_in_maximum_and_minimum() {
        for op in [BinaryOp::Maximum, BinaryOp::Minimum] {
            assert!(f(op, &[f32::NAN, 1.0], &[1.0, f32::NAN]).iter().all(|v| v.is_nan()));
        }
    }

    #[test]
    fn no_nan_ops_give_zero() {
        assert_eq!(f(BinaryOp::DivNoNan, &[5.0, 0.0], &[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(f(BinaryOp::MulNoNan, &[f32::NAN], &[0.0]), [0.0]);
        assert_eq!(f(BinaryOp::Xlogy, &[0.0], &[0.0]), [0.0]);
    }

    #[test]
    fn every_way_to_broadcast_gives_the_same_numbers() {
        let (x, y) = (
            Tensor::new([2, 1, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            Tensor::new([2, 1], vec![10.0f32, 20.0]).unwrap(),
        );
        let want: Vec<f32> =
            vec![-9.0, -8.0, -7.0, -19.0, -18.0, -17.0, -6.0, -5.0, -4.0, -16.0, -15.0, -14.0];
        let got = binary(BinaryOp::Sub, x.clone(), y.clone()).unwrap();
        assert_eq!((got.dims(), got.data::<f32>().unwrap()), (&[2usize, 2, 3][..], &want[..]));
        // In place on either side.
        let whole = Tensor::zeros(DType::Float32, [2, 2, 3]).unwrap();
        let left = binary(BinaryOp::Sub, whole, y.clone()).unwrap();
        assert_eq!(left.data::<f32>().unwrap()[..6], [-10.0, -10.0, -10.0, -20.0, -20.0, -20.0]);
        let whole = Tensor::zeros(DType::Float32, [2, 2, 3]).unwrap();
        let right = binary(BinaryOp::Sub, y, whole).unwrap();
        assert_eq!(right.data::<f32>().unwrap()[..6], [10.0, 10.0, 10.0, 20.0, 20.0, 20.0]);
    }

    #[test]
    fn strings_are_joined() {
        let s = |v: &[&str]| Tensor::vector(v.iter().map(|&s| TfString::from(s)).collect());
        assert_eq!(binary(BinaryOp::Add, s(&["a", "b"]), s(&["c"])).unwrap(), s(&["ac", "bc"]));
    }
}
