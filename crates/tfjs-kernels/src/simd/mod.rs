//! One vocabulary for all vector units.
//!
//! A token type such as `Avx512` proves that the CPU has the instructions; kernels are generic over the token
//! ([`Simd`]) and written once. [`dispatch_on`] picks the token at run time, once per kernel call and chunk.
//! Everything that a [`Kernel`] calls with the token in hand must be `#[inline(always)]` (closures are not): the
//! instructions are only available inside the function that [`Simd::vectorize`] compiles for the CPU.

use std::{cell::Cell, fmt, str::FromStr, sync::OnceLock};

use crate::KernelError;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use self::{avx2::Avx2, avx512::Avx512};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;

/// Lanes of the widest vector.
pub(crate) const MAX_LANES: usize = 16;

/// A vector instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Portable code.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, VL, BW and DQ.
    Avx512,
    /// 64-bit ARM.
    Neon,
}

thread_local! {
    static OVERRIDE: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// Name as in the environment variable `TFJS_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// Whether this CPU has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Every instruction set of this CPU, the slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The fastest instruction set of this CPU.
    pub fn best() -> Isa {
        Isa::available().last().unwrap_or(Isa::Scalar)
    }

    /// What the environment variable `TFJS_ISA` asks for: [`Isa::best`] when it is unset or empty.
    ///
    /// # Errors
    /// [`KernelError::Argument`] when it names no instruction set, or one that this CPU does not have.
    pub fn from_env() -> Result<Isa, KernelError> {
        match std::env::var("TFJS_ISA") {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(Isa::best()),
        }
    }

    /// The instruction set that kernels use: that of `TFJS_ISA` if usable, otherwise the best.
    pub fn current() -> Isa {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        OVERRIDE
            .get()
            .unwrap_or_else(|| *CHOSEN.get_or_init(|| Isa::from_env().unwrap_or_else(|_| Isa::best())))
    }

    /// Floats per vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Scalar | Isa::Neon => 4,
        }
    }

    /// Rows of the register tile of matrix products, which is two vectors wide.
    pub(crate) fn gemm_rows(self) -> usize {
        match self {
            Isa::Avx512 => 14,
            Isa::Neon => 12,
            Isa::Avx2 => 6,
            Isa::Scalar => 4,
        }
    }

    /// Runs `f` with another instruction set: kernels called from it, on whatever thread, use this one.
    ///
    /// # Errors
    /// [`KernelError::Argument`] when this CPU does not have it.
    pub fn scope<R>(self, f: impl FnOnce() -> R) -> Result<R, KernelError> {
        if !self.is_available() {
            return Err(unavailable(self.name()));
        }
        Ok(with_override(Some(self), f))
    }
}

/// The override of this thread, for a helper thread to inherit.
pub(crate) fn current_override() -> Option<Isa> {
    OVERRIDE.get()
}

/// Runs `f` with the override that another thread had.
pub(crate) fn with_override<R>(isa: Option<Isa>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Isa>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    let _restore = Restore(OVERRIDE.replace(isa));
    f()
}

fn unavailable(name: &str) -> KernelError {
    KernelError::Argument {
        what: "the instruction set",
        got: name.to_owned(),
        expected: "one of this CPU's: scalar, avx2, avx512 or neon",
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;
    fn from_str(name: &str) -> Result<Isa, KernelError> {
        Isa::available().find(|isa| isa.name().eq_ignore_ascii_case(name)).ok_or_else(|| unavailable(name))
    }
}

/// Code that can be compiled for any vector unit. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel on `isa`, or on portable code if this CPU lacks it.
pub(crate) fn dispatch_on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => match Avx512::new() {
            Some(simd) => simd.vectorize(kernel),
            None => Scalar.vectorize(kernel),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => match Avx2::new() {
            Some(simd) => simd.vectorize(kernel),
            None => Scalar.vectorize(kernel),
        },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Neon::new().vectorize(kernel),
        _ => Scalar.vectorize(kernel),
    }
}

/// A vector unit: a token whose existence proves that the CPU has it.
///
/// `F32` and `I32` are vectors of `LANES` numbers, `Mask` one truth value per lane. Comparisons with NaN are false.
#[allow(dead_code)] // a vocabulary, not a list of what today's kernels happen to use
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    type F32: Copy;
    type I32: Copy;
    type Mask: Copy;
    /// Numbers per vector.
    const LANES: usize;
    const ISA: Isa;
    /// Rows of the register tile of matrix products, which is two vectors wide.
    const GEMM_ROWS: usize;

    /// Compiles `kernel` for this unit and calls it; never inlined into the caller.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::F32;
    /// # Safety
    /// `LANES` floats are readable at `p`, which need not be aligned.
    unsafe fn load_ptr(self, p: *const f32) -> Self::F32;
    /// The first `n` (at most `LANES`) floats at `p`, then zeros.
    ///
    /// # Safety
    /// `n` floats are readable at `p`.
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> Self::F32;
    /// # Safety
    /// `LANES` floats are writable at `p`.
    unsafe fn store_ptr(self, p: *mut f32, v: Self::F32);
    /// # Safety
    /// `n` (at most `LANES`) floats are writable at `p`.
    unsafe fn store_part_ptr(self, p: *mut f32, n: usize, v: Self::F32);
    /// # Safety
    /// `LANES` integers are readable at `p`.
    unsafe fn load_i32_ptr(self, p: *const i32) -> Self::I32;
    /// # Safety
    /// `LANES` integers are writable at `p`.
    unsafe fn store_i32_ptr(self, p: *mut i32, v: Self::I32);

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the unit can, else twice (scalar).
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a * b`, rounded as [`Simd::fma`].
    fn fnma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    fn sqrt(self, a: Self::F32) -> Self::F32;
    /// `a < b ? a : b`: `b` when either is NaN or both are zeros.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a > b ? a : b`: `b` when either is NaN or both are zeros.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn floor(self, a: Self::F32) -> Self::F32;
    fn ceil(self, a: Self::F32) -> Self::F32;
    fn trunc(self, a: Self::F32) -> Self::F32;
    /// To the nearest integer, ties to even.
    fn round_even(self, a: Self::F32) -> Self::F32;

    fn lt(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    fn le(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    fn eq(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// Lane by lane `m ? a : b`.
    fn select(self, m: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mask_and(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn mask_or(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn mask_not(self, a: Self::Mask) -> Self::Mask;
    /// Whether any lane is true.
    fn any(self, a: Self::Mask) -> bool;

    fn splat_i32(self, x: i32) -> Self::I32;
    /// Wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Wrapping.
    fn sub_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Wrapping.
    fn mul_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn min_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn max_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn and_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn or_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn xor_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn shl_i32<const N: u32>(self, a: Self::I32) -> Self::I32;
    /// Arithmetic: copies of the sign come in.
    fn shr_i32<const N: u32>(self, a: Self::I32) -> Self::I32;
    fn eq_i32(self, a: Self::I32, b: Self::I32) -> Self::Mask;
    fn lt_i32(self, a: Self::I32, b: Self::I32) -> Self::Mask;
    fn select_i32(self, m: Self::Mask, a: Self::I32, b: Self::I32) -> Self::I32;

    /// The same 32 bits as integers.
    fn to_bits(self, a: Self::F32) -> Self::I32;
    /// The same 32 bits as floats.
    #[allow(clippy::wrong_self_convention)] // `self` is the token
    fn from_bits(self, a: Self::I32) -> Self::F32;
    /// Truncated; the result for values that do not fit is unspecified.
    fn to_i32(self, a: Self::F32) -> Self::I32;
    fn to_f32(self, a: Self::I32) -> Self::F32;

    // From here on in terms of the above.

    #[inline(always)]
    fn zero(self) -> Self::F32 {
        self.splat(0.0)
    }
    /// # Panics
    /// When `s` has fewer than `LANES` elements.
    #[inline(always)]
    fn load(self, s: &[f32]) -> Self::F32 {
        assert!(s.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.load_ptr(s.as_ptr()) }
    }
    /// The first `LANES` elements, zeros where `s` is shorter.
    #[inline(always)]
    fn load_part(self, s: &[f32]) -> Self::F32 {
        // SAFETY: at most `s.len()` floats are read.
        unsafe { self.load_part_ptr(s.as_ptr(), s.len().min(Self::LANES)) }
    }
    /// # Panics
    /// When `s` has fewer than `LANES` elements.
    #[inline(always)]
    fn store(self, s: &mut [f32], v: Self::F32) {
        assert!(s.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.store_ptr(s.as_mut_ptr(), v) }
    }
    /// As many lanes as `s` has room for.
    #[inline(always)]
    fn store_part(self, s: &mut [f32], v: Self::F32) {
        // SAFETY: at most `s.len()` floats are written.
        unsafe { self.store_part_ptr(s.as_mut_ptr(), s.len().min(Self::LANES), v) }
    }
    /// # Panics
    /// When `s` has fewer than `LANES` elements.
    #[inline(always)]
    fn load_i32(self, s: &[i32]) -> Self::I32 {
        assert!(s.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.load_i32_ptr(s.as_ptr()) }
    }
    /// # Panics
    /// When `s` has fewer than `LANES` elements.
    #[inline(always)]
    fn store_i32(self, s: &mut [i32], v: Self::I32) {
        assert!(s.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.store_i32_ptr(s.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn gt(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        self.lt(b, a)
    }
    #[inline(always)]
    fn ge(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        self.le(b, a)
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F32) -> Self::Mask {
        self.mask_not(self.eq(a, a))
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        self.from_bits(self.and_i32(self.to_bits(a), self.splat_i32(i32::MAX)))
    }
    #[inline(always)]
    fn neg(self, a: Self::F32) -> Self::F32 {
        self.from_bits(self.xor_i32(self.to_bits(a), self.splat_i32(i32::MIN)))
    }
    /// The magnitude of `a` (which must not be negative) with the sign of `b`.
    #[inline(always)]
    fn with_sign_of(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        let sign = self.and_i32(self.to_bits(b), self.splat_i32(i32::MIN));
        self.from_bits(self.or_i32(self.to_bits(a), sign))
    }
    /// `2^n` for `n` in -126..=127.
    #[inline(always)]
    fn exp2_i32(self, n: Self::I32) -> Self::F32 {
        self.from_bits(self.shl_i32::<23>(self.add_i32(n, self.splat_i32(127))))
    }
    /// `y · 2^n` for an integer `n` within ±250, rounded once.
    #[inline(always)]
    fn scale(self, y: Self::F32, n: Self::F32) -> Self::F32 {
        // Two steps, as 2^n itself may be too large or too small.
        let n = self.to_i32(n);
        let half = self.shr_i32::<1>(n);
        self.mul(self.mul(y, self.exp2_i32(half)), self.exp2_i32(self.sub_i32(n, half)))
    }
    /// `(f, e)` for which `scale(2^f, e)` is `2^y`, with `f` in 0..=1, also where that is zero or infinite.
    #[inline(always)]
    fn split_exp2(self, y: Self::F32) -> (Self::F32, Self::F32) {
        // The order of operands keeps NaN.
        let y = self.min(self.splat(200.0), self.max(self.splat(-200.0), y));
        let n = self.floor(y);
        (self.sub(y, n), n)
    }
    /// `max(x, y)` that is NaN when either is.
    #[inline(always)]
    fn max_nan(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // `max` gives `b` when either is NaN, so only a NaN in `a` needs care.
        self.select(self.is_nan(a), a, self.max(a, b))
    }
    /// `min(x, y)` that is NaN when either is.
    #[inline(always)]
    fn min_nan(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        self.select(self.is_nan(a), a, self.min(a, b))
    }
    #[inline(always)]
    fn to_array(self, a: Self::F32) -> [f32; MAX_LANES] {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: no vector has more than `MAX_LANES` lanes.
        unsafe { self.store_ptr(lanes.as_mut_ptr(), a) };
        lanes
    }
    /// The sum of all lanes, halves added to halves.
    #[inline(always)]
    fn reduce_add(self, a: Self::F32) -> f32 {
        let mut lanes = self.to_array(a);
        let mut n = Self::LANES / 2;
        while n > 0 {
            for i in 0..n {
                lanes[i] += lanes[i + n];
            }
            n /= 2;
        }
        lanes[0]
    }
    /// The largest lane; NaN if any lane is.
    #[inline(always)]
    fn reduce_max(self, a: Self::F32) -> f32 {
        let lanes = self.to_array(a);
        lanes[1..Self::LANES].iter().fold(lanes[0], |m, &x| if m > x || m.is_nan() { m } else { x })
    }
    /// The smallest lane; NaN if any lane is.
    #[inline(always)]
    fn reduce_min(self, a: Self::F32) -> f32 {
        let lanes = self.to_array(a);
        lanes[1..Self::LANES].iter().fold(lanes[0], |m, &x| if m < x || m.is_nan() { m } else { x })
    }
}

/// As `copy_from_slice`, for slices so short that calling `memcpy` would cost more than copying.
#[inline(always)]
pub(crate) fn copy<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    let mut from = from.chunks_exact(S::LANES);
    let mut to = to.chunks_exact_mut(S::LANES);
    for (x, y) in (&mut from).zip(&mut to) {
        s.store(y, s.load(x));
    }
    if !from.remainder().is_empty() {
        s.store_part(to.into_remainder(), s.load_part(from.remainder()));
    }
}

/// As `fill(0.0)`, for short slices.
#[inline(always)]
pub(crate) fn fill_zero<S: Simd>(s: S, to: &mut [f32]) {
    let mut to = to.chunks_exact_mut(S::LANES);
    for y in &mut to {
        s.store(y, s.zero());
    }
    let rest = to.into_remainder();
    if !rest.is_empty() {
        s.store_part(rest, s.zero());
    }
}

#[cfg(test)]
mod tests;
