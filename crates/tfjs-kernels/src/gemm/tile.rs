//! The register tile: everything that runs once per multiply-add.

use crate::simd::{Kernel, Simd};

/// Row stride of packed left panels, a constant so that all rows are displacements from one register. Seventeen cache
/// lines, an odd number, put the rows of a tile into different sets of the first cache.
pub(crate) const PANEL_STRIDE: usize = super::KC + 16;

/// How the left operand of a tile lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Rows, any distance apart.
    InPlace,
    /// Rows, [`PANEL_STRIDE`] apart.
    Packed,
    /// Columns, any distance apart.
    Turned,
}

/// [`Layout`] as a constant.
const IN_PLACE: u8 = Layout::InPlace as u8;
const PACKED: u8 = Layout::Packed as u8;
const TURNED: u8 = Layout::Turned as u8;

/// Computes `MR` rows by `NV` vectors of the product from `k` columns of the left and `k` rows of the right operand.
///
/// The pointers must satisfy: `MR` rows of `k` floats, or `k` columns of `MR` floats if `TURNED`, `a_stride` apart
/// (`PANEL_STRIDE` if `PACKED`), readable at `a`;
/// `k` rows of `NV` vectors, `b_stride` apart, readable at `b`; `MR` rows of `NV` vectors, `ldc` apart, writable at `c`
/// and, when `load` is set, initialised; `NV` vectors readable at `bias` unless it is null; `MR` rows of `NV` vectors,
/// `residual_stride` apart, readable at `residual` unless it is null.
#[derive(Clone, Copy)]
pub(crate) struct Tile<const MR: usize, const NV: usize, const LAYOUT: u8> {
    pub(crate) args: Args,
}

#[derive(Clone, Copy)]
pub(crate) struct Args {
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    pub(crate) b: *const f32,
    pub(crate) b_stride: usize,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    /// Whether `c` holds the sums of earlier blocks.
    pub(crate) load: bool,
    pub(crate) bias: *const f32,
    pub(crate) residual: *const f32,
    pub(crate) residual_stride: usize,
    /// Results are clamped to this range; NaN stays NaN.
    pub(crate) clamp: (f32, f32),
}

impl<const MR: usize, const NV: usize, const LAYOUT: u8> Tile<MR, NV, LAYOUT> {
    /// Independent sums per element: tiles of one or two rows alone would wait for each addition.
    const SPLIT: usize = match MR {
        1 => 4,
        2 => 2,
        _ => 1,
    };

    /// Distance of two rows of the left operand.
    #[inline(always)]
    fn row_step(&self) -> usize {
        match LAYOUT {
            TURNED => 1,
            PACKED => PANEL_STRIDE,
            _ => self.args.a_stride,
        }
    }

    /// Distance of two columns of the left operand.
    #[inline(always)]
    fn col_step(&self) -> usize {
        if LAYOUT == TURNED { self.args.a_stride } else { 1 }
    }

    /// One step of the sum.
    ///
    /// # Safety
    /// `a` points at a column and `b` at a row of the operands described above.
    #[inline(always)]
    unsafe fn step<S: Simd>(&self, s: S, acc: &mut [[S::F32; NV]; MR], a: *const f32, b: *const f32) {
        let mut bv = [s.zero(); NV];
        for (j, v) in bv.iter_mut().enumerate() {
            // SAFETY: a row of the right operand has `NV` vectors.
            *v = unsafe { s.load_ptr(b.add(j * S::LANES)) };
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the left operand has `MR` rows.
            let x = s.splat(unsafe { *a.add(i * self.row_step()) });
            for (acc, &v) in acc.iter_mut().zip(&bv) {
                *acc = s.fma(x, v, *acc);
            }
        }
    }
}

impl<const MR: usize, const NV: usize, const LAYOUT: u8> Kernel for Tile<MR, NV, LAYOUT> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Args { k, mut a, mut b, b_stride, .. } = self.args;
        let step = self.col_step();
        let mut acc = [[[s.zero(); NV]; MR]; 4];
        let unroll = if Self::SPLIT > 1 { Self::SPLIT } else { 2 };
        for _ in 0..k / unroll {
            for u in 0..unroll {
                // SAFETY: `k` steps stay inside the operands.
                unsafe { self.step(s, &mut acc[u % Self::SPLIT], a.add(u * step), b.add(u * b_stride)) };
            }
            a = a.wrapping_add(unroll * step);
            b = b.wrapping_add(unroll * b_stride);
        }
        for _ in 0..k % unroll {
            // SAFETY: as above.
            unsafe { self.step(s, &mut acc[0], a, b) };
            a = a.wrapping_add(step);
            b = b.wrapping_add(b_stride);
        }
        let [mut sum, second, third, fourth] = acc;
        if Self::SPLIT > 1 {
            for i in 0..MR {
                for j in 0..NV {
                    sum[i][j] = s.add(sum[i][j], second[i][j]);
                    if Self::SPLIT > 2 {
                        sum[i][j] = s.add(sum[i][j], s.add(third[i][j], fourth[i][j]));
                    }
                }
            }
        }
        // SAFETY: the struct's contract.
        unsafe { self.finish(s, sum) };
    }
}

impl<const MR: usize, const NV: usize, const LAYOUT: u8> Tile<MR, NV, LAYOUT> {
    /// # Safety
    /// The struct's contract.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, mut sum: [[S::F32; NV]; MR]) {
        let Args { c, ldc, load, bias, residual, residual_stride, clamp, .. } = self.args;
        if load {
            for (i, row) in sum.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    // SAFETY: inside the tile.
                    *v = s.add(*v, unsafe { s.load_ptr(c.add(i * ldc + j * S::LANES)) });
                }
            }
        }
        if !bias.is_null() {
            for j in 0..NV {
                // SAFETY: `NV` vectors of bias.
                let x = unsafe { s.load_ptr(bias.add(j * S::LANES)) };
                for row in &mut sum {
                    row[j] = s.add(row[j], x);
                }
            }
        }
        if !residual.is_null() {
            for (i, row) in sum.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    // SAFETY: inside the tile.
                    *v = s.add(*v, unsafe { s.load_ptr(residual.add(i * residual_stride + j * S::LANES)) });
                }
            }
        }
        let (lo, hi) = (s.splat(clamp.0), s.splat(clamp.1));
        for (i, row) in sum.iter().enumerate() {
            for (j, &v) in row.iter().enumerate() {
                // The order of operands keeps NaN and the sign of zero.
                let v = s.min(hi, s.max(lo, v));
                // SAFETY: inside the tile.
                unsafe { s.store_ptr(c.add(i * ldc + j * S::LANES), v) };
            }
        }
    }
}

/// Calls the tile of `rows` rows, which must be between 1 and `S::GEMM_ROWS`, and `vectors` (1 or 2) vectors.
///
/// # Safety
/// The contract of [`Tile`] for these sizes.
#[inline(always)]
pub(crate) unsafe fn call<S: Simd>(s: S, rows: usize, vectors: usize, layout: Layout, args: Args) {
    match (vectors, layout) {
        (1, Layout::Packed) => by_rows::<S, 1, PACKED>(s, rows, args),
        (1, Layout::InPlace) => by_rows::<S, 1, IN_PLACE>(s, rows, args),
        (1, Layout::Turned) => by_rows::<S, 1, TURNED>(s, rows, args),
        (_, Layout::Packed) => by_rows::<S, 2, PACKED>(s, rows, args),
        (_, Layout::InPlace) => by_rows::<S, 2, IN_PLACE>(s, rows, args),
        (_, Layout::Turned) => by_rows::<S, 2, TURNED>(s, rows, args),
    }
}

#[inline(always)]
fn by_rows<S: Simd, const NV: usize, const LAYOUT: u8>(s: S, rows: usize, args: Args) {
    debug_assert!(rows >= 1 && rows <= S::GEMM_ROWS);
    macro_rules! tiles {
        ($($rows:literal)*) => {
            // Tiles taller than the unit's registers allow are never called; the constant condition keeps them out of
            // the binary.
            match rows {
                $($rows if const { $rows <= S::GEMM_ROWS } => s.vectorize(Tile::<$rows, NV, LAYOUT> { args }),)*
                _ => {}
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}
