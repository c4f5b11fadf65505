//! Elementary functions on vectors. Errors are in ULP (units in the last place of the float nearest the true value),
//! measured against double precision over all magnitudes; they hold for every instruction set. Infinities, NaN and
//! denormals come out as IEEE 754 and C say.
//!
//! The polynomials are weighted minimax fits for the stated ranges.

use crate::{
    par,
    simd::{self, Isa, Kernel, Simd},
};

/// `ln 2` in two parts: multiples of the first by up to 10 bits are exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// A function of one number.
pub(crate) trait Unary: Copy + Send + Sync {
    /// Must be `#[inline(always)]`.
    fn eval<S: Simd>(self, s: S, x: S::F32) -> S::F32;
}

/// Applies `op` to every element, on all threads.
pub(crate) fn map_in_place<U: Unary>(op: U, data: &mut [f32]) {
    let isa = Isa::current();
    par::for_each_chunk(data, par::GRAIN, |_, data| simd::dispatch_on(isa, MapInPlace { op, data }));
}

/// One chunk of [`map_in_place`].
pub(crate) struct MapInPlace<'a, U> {
    pub(crate) op: U,
    pub(crate) data: &'a mut [f32],
}

impl<U: Unary> Kernel for MapInPlace<'_, U> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut pieces = self.data.chunks_exact_mut(S::LANES);
        for piece in &mut pieces {
            let y = self.op.eval(s, s.load(piece));
            s.store(piece, y);
        }
        let rest = pieces.into_remainder();
        if !rest.is_empty() {
            let y = self.op.eval(s, s.load_part(rest));
            s.store_part(rest, y);
        }
    }
}

/// `m` rows of `n` floats, `stride` apart, from `at` on: initialised, writable and nobody else's.
#[derive(Clone, Copy)]
pub(crate) struct Rect {
    pub(crate) at: *mut f32,
    pub(crate) stride: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
}

/// Applies `op` to a rectangle, in one loop so that its constants are loaded once.
pub(crate) struct MapRect<U> {
    pub(crate) op: U,
    pub(crate) rect: Rect,
}

impl<U: Unary> Kernel for MapRect<U> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rect { at, stride, m, n } = self.rect;
        let whole = n / S::LANES * S::LANES;
        for i in 0..m {
            let row = at.wrapping_add(i * stride);
            // SAFETY: the contract of `Rect`; only the `n` floats of each row are touched.
            unsafe {
                for j in (0..whole).step_by(S::LANES) {
                    let p = row.add(j);
                    s.store_ptr(p, self.op.eval(s, s.load_ptr(p)));
                }
                if whole < n {
                    let p = row.add(whole);
                    s.store_part_ptr(p, n - whole, self.op.eval(s, s.load_part_ptr(p, n - whole)));
                }
            }
        }
    }
}

/// `c[0] + c[1] x + c[2] x² + …`
#[inline(always)]
pub(crate) fn polynomial<S: Simd, const N: usize>(s: S, x: S::F32, c: [f32; N]) -> S::F32 {
    let mut y = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        y = s.fma(y, x, s.splat(c[i]));
    }
    y
}

/// `(n, e^r - 1)` with `x = n ln 2 + r` and `n` an integer, for `x` within ±150.
#[inline(always)]
fn reduced_expm1<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
    let n = s.round_even(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fnma(n, s.splat(LN2_HI), x);
    let r = s.fnma(n, s.splat(LN2_LO), r);
    let tail = polynomial(s, r, [0.499_999_94, 0.166_665_2, 0.041_668_4, 0.008_368_851, 0.001_381_432]);
    (n, s.fma(tail, s.mul(r, r), r))
}

/// `e^x`. Error at most 1.2 ULP; denormal results are right.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Beyond these the result is 0 or infinite. The order of operands keeps NaN.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let (n, p) = reduced_expm1(s, x);
    s.scale(s.add(p, s.splat(1.0)), n)
}

/// `e^x - 1`, precise near zero. Error at most 2 ULP.
#[inline(always)]
pub(crate) fn expm1<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let small = s.min(s.splat(20.0), s.max(s.splat(-20.0), x));
    let (n, p) = reduced_expm1(s, small);
    let scale = s.exp2_i32(s.to_i32(n));
    let y = s.fma(p, scale, s.sub(scale, one));
    // Zero keeps its sign; large values overflow as `exp` does.
    let y = s.select(s.eq(x, s.zero()), x, y);
    s.select(s.lt(s.splat(20.0), x), s.sub(exp(s, x), one), y)
}

/// Natural logarithm. Error at most 1.2 ULP.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let denormal = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let big = s.select(denormal, s.mul(x, s.splat(8_388_608.0)), x);
    let bits = s.to_bits(big);
    let base = s.splat_i32(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32);
    let e = s.shr_i32::<23>(s.sub_i32(bits, base));
    // m in [√½, √2)
    let m = s.from_bits(s.sub_i32(bits, s.shl_i32::<23>(e)));
    let e = s.sub(s.to_f32(e), s.select(denormal, s.splat(23.0), s.zero()));
    let f = s.sub(m, s.splat(1.0));
    let p = polynomial(
        s,
        f,
        [
            0.333_333_1,
            -0.250_000_1,
            0.200_021_67,
            -0.166_680_9,
            0.142_185_54,
            -0.124_030_836,
            0.118_935_13,
            -0.116_943_344,
            0.067_575_68,
        ],
    );
    let f2 = s.mul(f, f);
    let low = s.fma(s.mul(p, f), f2, s.mul(e, s.splat(LN2_LO)));
    let low = s.fnma(s.splat(0.5), f2, low);
    let y = s.fma(e, s.splat(LN2_HI), s.add(f, low));
    let y = s.select(s.lt(x, s.splat(f32::INFINITY)), y, x); // infinity and NaN stay
    let y = s.select(s.eq(x, s.zero()), s.splat(f32::NEG_INFINITY), y);
    s.select(s.lt(x, s.zero()), s.splat(f32::NAN), y)
}

/// `log(1 + x)`, precise near zero. Error at most 2.5 ULP.
#[inline(always)]
pub(crate) fn log1p<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    let u = s.add(x, one);
    // What rounding `1 + x` lost, to first order. From 2^24 on nothing below `x` matters.
    let lost = s.div(s.sub(x, s.sub(u, one)), u);
    let usable = s.mask_and(s.lt(x, s.splat(1e7)), s.lt(s.splat(-1.0), x));
    let y = s.add(log(s, u), s.select(usable, lost, s.zero()));
    s.select(s.eq(u, one), x, y)
}

/// Hyperbolic tangent. Error at most 2 ULP.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let a = s.abs(x);
    let one = s.splat(1.0);
    let q = s.mul(x, x);
    let p = polynomial(s, q, [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_086, -0.005_704_986_4]);
    let near = s.fma(s.mul(a, q), p, a);
    let e = exp(s, s.add(a, a));
    let far = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.with_sign_of(s.select(s.lt(a, s.splat(0.625)), near, far), x)
}

/// `1 / (1 + e^-x)`. Error at most 2.5 ULP, also where the result is tiny.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let one = s.splat(1.0);
    // With the exponential of a negative number nothing overflows.
    let e = exp(s, s.neg(s.abs(x)));
    s.div(s.select(s.lt(x, s.zero()), e, one), s.add(one, e))
}

/// `2^y` for functions that become 1 where `y` is small: the relative error grows with `|y|`, about `6e-8 |y| + 2e-7`.
#[inline(always)]
fn exp2_gate<S: Simd>(s: S, y: S::F32) -> S::F32 {
    let (f, e) = s.split_exp2(y);
    let p = polynomial(
        s,
        f,
        [0.999_999_94, 0.693_153_1, 0.240_153_61, 0.055_826_318, 0.008_989_341, 0.001_877_576_7],
    );
    s.scale(p, e)
}

/// `x / (1 + e^-x)`. Error at most 2.5e-7 of `x`, which is 4 ULP of the result for positive numbers; far below zero, where
/// the result is small, only relative to `x`.
#[inline(always)]
pub(crate) fn swish<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Where the exponential overflows the quotient is zero.
    let e = exp2_gate(s, s.mul(x, s.splat(-std::f32::consts::LOG2_E)));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `x Φ(x)` with the normal distribution function. Error at most 2.5e-7 of `x`, as for [`swish`].
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Φ(-t) = 2^(-1 - t P(t)); P stops growing where that no longer shows.
    let t = s.abs(x);
    let p = polynomial(
        s,
        s.min(s.splat(5.5), t),
        [
            -1.151_107_2,
            -0.459_191_14,
            -0.052_538_484,
            0.007_101_362_6,
            -0.000_138_179_05,
            -0.000_204_835_26,
            5.128_536e-5,
            -5.809_065_4e-6,
            2.688_372_8e-7,
        ],
    );
    let below = exp2_gate(s, s.fma(t, p, s.splat(-1.0)));
    s.mul(x, s.select(s.lt(x, s.zero()), below, s.sub(s.splat(1.0), below)))
}

/// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, with the bounds of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // (1 + tanh y) / 2 = 1 / (1 + e^-2y)
    let cubic = s.fma(s.mul(x, x), s.splat(-0.102_943_24), s.splat(-2.302_208_2));
    s.div(x, s.add(s.splat(1.0), exp2_gate(s, s.mul(x, cubic))))
}

/// The error function. Error at most 1.5 ULP.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let q = s.mul(x, x);
    let p = polynomial(
        s,
        q,
        [0.128_379_15, -0.376_125_25, 0.112_821_41, -0.026_778_908, 0.005_011_962_7, -0.000_609_036],
    );
    let near = s.fma(p, x, x);
    // 1 - erf(a) = exp(-a P(a)); beyond the clamp erf is 1. The order of operands keeps NaN.
    let a = s.min(s.splat(3.95), s.abs(x));
    let p = polynomial(
        s,
        a,
        [
            1.128_637_1,
            0.635_198_06,
            0.106_159_03,
            -0.023_694_552,
            0.003_610_334_8,
            -0.000_314_856_24,
            1.043_291_7e-5,
        ],
    );
    let far = s.sub(s.splat(1.0), exp(s, s.neg(s.mul(p, a))));
    s.select(s.lt(s.abs(x), s.splat(0.9)), near, s.with_sign_of(far, x))
}

/// `log(1 + e^x)`. Error at most 3 ULP.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let e = exp(s, s.neg(s.abs(x)));
    let positive = s.select(s.lt(x, s.zero()), s.zero(), x);
    s.add(positive, log1p(s, e))
}

#[cfg(test)]
mod tests {
    use super::{Unary, erf, exp, expm1, gelu, gelu_tanh, log, log1p, sigmoid, softplus, swish, tanh};
    use crate::simd::{Isa, Kernel, Simd, dispatch_on};

    /// Applies `op` to every element of `src`.
    struct Map<'a, U> {
        op: U,
        src: &'a [f32],
        dst: &'a mut [f32],
    }

    impl<U: Unary> Kernel for Map<'_, U> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let mut from = self.src.chunks_exact(S::LANES);
            let mut to = self.dst.chunks_exact_mut(S::LANES);
            for (x, y) in (&mut from).zip(&mut to) {
                s.store(y, self.op.eval(s, s.load(x)));
            }
            if !from.remainder().is_empty() {
                s.store_part(to.into_remainder(), self.op.eval(s, s.load_part(from.remainder())));
            }
        }
    }

    macro_rules! ops {
        ($($op:ident = $f:ident;)*) => { $(
            #[derive(Clone, Copy)]
            struct $op;
            impl Unary for $op {
                #[inline(always)]
                fn eval<S: Simd>(self, s: S, x: S::F32) -> S::F32 { $f(s, x) }
            }
        )* };
    }
    ops! {
        Exp = exp; Expm1 = expm1; Log = log; Log1p = log1p; Tanh = tanh; Sigmoid = sigmoid; Erf = erf;
        Softplus = softplus; Swish = swish; Gelu = gelu; GeluTanh = gelu_tanh;
    }

    /// The error function in double precision: its Taylor series, or the continued fraction of its complement.
    fn erf64(x: f64) -> f64 {
        let a = x.abs();
        let y = if a.is_nan() {
            a
        } else if a < 2.5 {
            let (mut term, mut sum) = (a, a);
            for n in 1..80 {
                term *= -a * a / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let fraction = (1..60).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
            1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()
        };
        y.copysign(x)
    }

    /// Distance of `got` from `want` in ULP of the float nearest `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = want as f32;
        if near.is_nan() || got.is_nan() {
            return if near.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
        }
        if near.is_infinite() || got.is_infinite() {
            return if near == got { 0.0 } else { f64::INFINITY };
        }
        let exponent = (near.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127 - 23;
        (f64::from(got) - want).abs() / 2f64.powi(exponent)
    }

    #[track_caller]
    fn check<U: Unary>(op: U, reference: fn(f64) -> f64, bound: f64) {
        // Every 2039th float of all magnitudes and both signs, infinities and NaN; then a dense grid where it matters.
        let mut x: Vec<f32> = (0..u32::MAX).step_by(2039).map(f32::from_bits).collect();
        x.extend([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1.0,
            -1.0,
            f32::MIN_POSITIVE,
            f32::MAX,
        ]);
        x.extend((-400_000..400_000).map(|i| i as f32 * 2.7e-4));
        x.extend((-200_000..200_000).map(|i| i as f32 * 1.1e-5));
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            dispatch_on(isa, Map { op, src: &x, dst: &mut y });
            let (worst, at) = x
                .iter()
                .zip(&y)
                .map(|(&x, &y)| (ulps(y, reference(f64::from(x))), x))
                .fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
            assert!(worst <= bound, "{isa}: {worst} ULP at {at:e}");
        }
    }

    #[test]
    fn exp_stays_within_its_bound() {
        check(Exp, f64::exp, 1.2);
    }
    #[test]
    fn expm1_stays_within_its_bound() {
        check(Expm1, f64::exp_m1, 2.0);
    }
    #[test]
    fn log_stays_within_its_bound() {
        check(Log, f64::ln, 1.2);
    }
    #[test]
    fn log1p_stays_within_its_bound() {
        check(Log1p, f64::ln_1p, 2.5);
    }
    #[test]
    fn tanh_stays_within_its_bound() {
        check(Tanh, f64::tanh, 2.0);
    }
    #[test]
    fn sigmoid_stays_within_its_bound() {
        check(Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 2.5);
    }
    #[test]
    fn erf_stays_within_its_bound() {
        check(Erf, erf64, 1.5);
    }
    #[test]
    fn softplus_stays_within_its_bound() {
        check(Softplus, |x| if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }, 3.0);
    }
    /// Functions `x · g(x)` with `g` between 0 and 1 need their precision relative to `x`.
    fn check_gate<U: Unary>(op: U, reference: fn(f64) -> f64) {
        let mut x: Vec<f32> = (-30_000..30_000).map(|i| i as f32 * 3.1e-3).collect();
        x.extend((0..78).flat_map(|e| [10f32.powi(e - 40), -(10f32.powi(e - 40))]));
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            dispatch_on(isa, Map { op, src: &x, dst: &mut y });
            for (&x, &y) in x.iter().zip(&y) {
                let want = reference(f64::from(x));
                let error = (f64::from(y) - want).abs();
                assert!(error <= 2.5e-7 * f64::from(x).abs() + 1e-35, "{isa}: {y} for {want} at {x:e}");
            }
            let mut y = [0.0];
            dispatch_on(isa, Map { op, src: &[f32::NAN], dst: &mut y });
            assert!(y[0].is_nan());
            dispatch_on(isa, Map { op, src: &[f32::INFINITY], dst: &mut y });
            assert_eq!(y[0], f32::INFINITY);
        }
    }

    #[test]
    fn swish_stays_within_its_bound() {
        check_gate(Swish, |x| x / (1.0 + (-x).exp()));
    }
    #[test]
    fn gelu_stays_within_its_bound() {
        check_gate(Gelu, |x| x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2));
        check_gate(GeluTanh, |x| {
            let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * y).exp())
        });
    }
    #[test]
    fn signs_of_zero_survive_odd_functions() {
        for isa in Isa::available() {
            let mut y = [1.0; 2];
            dispatch_on(isa, Map { op: Tanh, src: &[0.0, -0.0], dst: &mut y });
            assert_eq!(y.map(f32::to_bits), [0.0f32, -0.0].map(f32::to_bits));
            dispatch_on(isa, Map { op: Erf, src: &[0.0, -0.0], dst: &mut y });
            assert_eq!(y.map(f32::to_bits), [0.0f32, -0.0].map(f32::to_bits));
            dispatch_on(isa, Map { op: Expm1, src: &[0.0, -0.0], dst: &mut y });
            assert_eq!(y.map(f32::to_bits), [0.0f32, -0.0].map(f32::to_bits));
        }
    }
}
