use std::arch::aarch64::*;

use super::{Isa, Kernel, Simd};

/// NEON, which every 64-bit ARM has: four lanes, 32 registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Neon {
        Neon(())
    }
}

/// Methods that are one or two instructions each.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $t:ty),*) -> $r:ty = $body:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            // SAFETY: NEON is part of the architecture.
            unsafe { $body }
        }
    )* };
}

impl Simd for Neon {
    type F32 = float32x4_t;
    type I32 = int32x4_t;
    type Mask = uint32x4_t;
    const LANES: usize = 4;
    const ISA: Isa = Isa::Neon;
    const GEMM_ROWS: usize = 12;

    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> float32x4_t {
        let mut lanes = [0.0f32; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            // SAFETY: only the first `n` are read.
            *lane = unsafe { *p.add(i) };
        }
        // SAFETY: `lanes` has four floats.
        unsafe { vld1q_f32(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part_ptr(self, p: *mut f32, n: usize, v: float32x4_t) {
        let mut lanes = [0.0f32; 4];
        // SAFETY: `lanes` has four floats.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), v) };
        for (i, &lane) in lanes.iter().enumerate().take(n) {
            // SAFETY: only the first `n` are written.
            unsafe { *p.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn load_i32_ptr(self, p: *const i32) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_s32(p) }
    }
    #[inline(always)]
    unsafe fn store_i32_ptr(self, p: *mut i32, v: int32x4_t) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_s32(p, v) }
    }

    intrinsics! {
        splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmsq_f32(c, a, b);
        sqrt(a: float32x4_t) -> float32x4_t = vsqrtq_f32(a);
        // The instructions `fmin` and `fmax` treat NaN and zeros otherwise than the trait says.
        min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        floor(a: float32x4_t) -> float32x4_t = vrndmq_f32(a);
        ceil(a: float32x4_t) -> float32x4_t = vrndpq_f32(a);
        trunc(a: float32x4_t) -> float32x4_t = vrndq_f32(a);
        round_even(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        lt(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        le(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcleq_f32(a, b);
        eq(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vceqq_f32(a, b);
        select(m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(m, a, b);
        mask_and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        mask_or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        mask_not(a: uint32x4_t) -> uint32x4_t = vmvnq_u32(a);
        any(a: uint32x4_t) -> bool = vmaxvq_u32(a) != 0;
        splat_i32(x: i32) -> int32x4_t = vdupq_n_s32(x);
        add_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vaddq_s32(a, b);
        sub_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vsubq_s32(a, b);
        mul_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmulq_s32(a, b);
        min_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vminq_s32(a, b);
        max_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmaxq_s32(a, b);
        and_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vandq_s32(a, b);
        or_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = vorrq_s32(a, b);
        xor_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t = veorq_s32(a, b);
        eq_i32(a: int32x4_t, b: int32x4_t) -> uint32x4_t = vceqq_s32(a, b);
        lt_i32(a: int32x4_t, b: int32x4_t) -> uint32x4_t = vcltq_s32(a, b);
        select_i32(m: uint32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t = vbslq_s32(m, a, b);
        to_bits(a: float32x4_t) -> int32x4_t = vreinterpretq_s32_f32(a);
        from_bits(a: int32x4_t) -> float32x4_t = vreinterpretq_f32_s32(a);
        to_i32(a: float32x4_t) -> int32x4_t = vcvtq_s32_f32(a);
        to_f32(a: int32x4_t) -> float32x4_t = vcvtq_f32_s32(a);
    }
    #[inline(always)]
    fn shl_i32<const N: u32>(self, a: int32x4_t) -> int32x4_t {
        // SAFETY: NEON is part of the architecture.
        unsafe { vshlq_s32(a, vdupq_n_s32(N as i32)) }
    }
    #[inline(always)]
    fn shr_i32<const N: u32>(self, a: int32x4_t) -> int32x4_t {
        // SAFETY: NEON is part of the architecture. A negative count shifts right.
        unsafe { vshlq_s32(a, vdupq_n_s32(-(N as i32))) }
    }
}
