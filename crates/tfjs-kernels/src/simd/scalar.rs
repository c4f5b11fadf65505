use std::array;

use super::{Isa, Kernel, Simd};

/// Portable code: four lanes, so that a compiler for a CPU with 128-bit vectors can use them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

const LANES: usize = 4;

macro_rules! map {
    ($a:expr, $x:ident => $body:expr) => {{
        let a = $a;
        array::from_fn(|i| {
            let $x = a[i];
            $body
        })
    }};
    ($a:expr, $b:expr, $x:ident, $y:ident => $body:expr) => {{
        let (a, b) = ($a, $b);
        array::from_fn(|i| {
            let ($x, $y) = (a[i], b[i]);
            $body
        })
    }};
}

macro_rules! unary {
    ($($name:ident: $a:ty => $r:ty, $x:ident => $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, a: $a) -> $r { map!(a, $x => $body) }
    )* };
}

macro_rules! binary {
    ($($name:ident: $a:ty => $r:ty, $x:ident, $y:ident => $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, a: $a, b: $a) -> $r { map!(a, b, $x, $y => $body) }
    )* };
}

impl Simd for Scalar {
    type F32 = [f32; LANES];
    type I32 = [i32; LANES];
    type Mask = [bool; LANES];
    const LANES: usize = LANES;
    const ISA: Isa = Isa::Scalar;
    const GEMM_ROWS: usize = 4;

    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> Self::F32 {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> Self::F32 {
        // SAFETY: only the first `n` are read.
        array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: Self::F32) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part_ptr(self, p: *mut f32, n: usize, v: Self::F32) {
        for (i, &x) in v.iter().enumerate().take(n) {
            // SAFETY: only the first `n` are written.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_i32_ptr(self, p: *const i32) -> Self::I32 {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i32_ptr(self, p: *mut i32, v: Self::I32) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[i32; LANES]>().write_unaligned(v) }
    }

    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn fnma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        array::from_fn(|i| c[i] - a[i] * b[i])
    }
    binary! {
        add: Self::F32 => Self::F32, x, y => x + y;
        sub: Self::F32 => Self::F32, x, y => x - y;
        mul: Self::F32 => Self::F32, x, y => x * y;
        div: Self::F32 => Self::F32, x, y => x / y;
        min: Self::F32 => Self::F32, x, y => if x < y { x } else { y };
        max: Self::F32 => Self::F32, x, y => if x > y { x } else { y };
        lt: Self::F32 => Self::Mask, x, y => x < y;
        le: Self::F32 => Self::Mask, x, y => x <= y;
        eq: Self::F32 => Self::Mask, x, y => x == y;
        mask_and: Self::Mask => Self::Mask, x, y => x & y;
        mask_or: Self::Mask => Self::Mask, x, y => x | y;
        add_i32: Self::I32 => Self::I32, x, y => x.wrapping_add(y);
        sub_i32: Self::I32 => Self::I32, x, y => x.wrapping_sub(y);
        mul_i32: Self::I32 => Self::I32, x, y => x.wrapping_mul(y);
        min_i32: Self::I32 => Self::I32, x, y => x.min(y);
        max_i32: Self::I32 => Self::I32, x, y => x.max(y);
        and_i32: Self::I32 => Self::I32, x, y => x & y;
        or_i32: Self::I32 => Self::I32, x, y => x | y;
        xor_i32: Self::I32 => Self::I32, x, y => x ^ y;
        eq_i32: Self::I32 => Self::Mask, x, y => x == y;
        lt_i32: Self::I32 => Self::Mask, x, y => x < y;
    }
    unary! {
        sqrt: Self::F32 => Self::F32, x => x.sqrt();
        floor: Self::F32 => Self::F32, x => x.floor();
        ceil: Self::F32 => Self::F32, x => x.ceil();
        trunc: Self::F32 => Self::F32, x => x.trunc();
        round_even: Self::F32 => Self::F32, x => x.round_ties_even();
        mask_not: Self::Mask => Self::Mask, x => !x;
        to_bits: Self::F32 => Self::I32, x => x.to_bits() as i32;
        from_bits: Self::I32 => Self::F32, x => f32::from_bits(x as u32);
        to_i32: Self::F32 => Self::I32, x => x as i32;
        to_f32: Self::I32 => Self::F32, x => x as f32;
    }
    #[inline(always)]
    fn select(self, m: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32 {
        array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn select_i32(self, m: Self::Mask, a: Self::I32, b: Self::I32) -> Self::I32 {
        array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn any(self, a: Self::Mask) -> bool {
        a.contains(&true)
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        [x; LANES]
    }
    #[inline(always)]
    fn shl_i32<const N: u32>(self, a: Self::I32) -> Self::I32 {
        a.map(|x| x << N)
    }
    #[inline(always)]
    fn shr_i32<const N: u32>(self, a: Self::I32) -> Self::I32 {
        a.map(|x| x >> N)
    }
}
