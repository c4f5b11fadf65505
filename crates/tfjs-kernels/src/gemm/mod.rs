//! Matrix products, which convolutions are too.
//!
//! The right operand (weights) is packed into panels two vectors wide, once. The left operand is a [`Lhs`]: rows in
//! memory are read where they are; anything else (patches of an image, a transposed matrix) is gathered into panels
//! small enough for the second cache while the product runs. Bias, residual and activation are applied to a tile while
//! it is in registers or, where they take long, in the first cache.

use std::ops::Range;

use crate::{
    epilogue::Finish,
    par::{self, Disjoint},
    scratch::{self, Aligned},
    simd::{self, Isa, Kernel, Simd},
    vecmath::Rect,
};

mod borrowed;
pub(crate) mod tile;

pub(crate) use borrowed::BorrowedRhs;
use tile::{Args, Layout, PANEL_STRIDE};

/// Columns of the left operand per block: the block of a right panel stays in the first cache.
pub(crate) const KC: usize = 256;
/// Rows of the left operand per block, about: the packed block takes a quarter of a 1 MiB second cache.
const MC: usize = 224;
/// Tiles of at most so many rows read the left operand where it is.
const IN_PLACE_ROWS: usize = 6;
/// With fewer tiles one above the other a product is cut by columns.
const FEW_TILES: usize = 8;
/// Products of so many rows read a right operand that is not packed.
const MOST_ROWS: usize = 64;
/// Pieces that a large product is cut into for threads.
const TASKS: usize = 16;

/// The right operand of a product, `k` rows by `n` columns, in panels of two vectors.
#[derive(Clone, Debug)]
pub(crate) struct PackedRhs {
    isa: Isa,
    k: usize,
    n: usize,
    data: Aligned,
}

impl PackedRhs {
    /// Packs a matrix whose element `(row, column)` is `data[row * strides.0 + column * strides.1]`.
    ///
    /// # Panics
    /// When an element is outside `data`.
    pub(crate) fn new(isa: Isa, k: usize, n: usize, data: &[f32], strides: (usize, usize)) -> PackedRhs {
        let mut packed = PackedRhs { isa, k, n, data: Aligned::default() };
        let (lanes, width) = (isa.lanes(), 2 * isa.lanes());
        packed.data = Aligned::zeroed(k * n.next_multiple_of(lanes));
        par::for_each_chunk(packed.data.as_mut_slice(), (k * width).max(1), |start, panel| {
            let first = start / k;
            let cols = (n - first).min(width);
            // The last panel may be one vector wide.
            let width = panel.len() / k;
            if strides.1 == 1 {
                for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                    to[..cols].copy_from_slice(&data[row * strides.0 + first..][..cols]);
                }
                return;
            }
            // Transposed: neighbours in a column lie together, so blocks of rows reuse each line that they load.
            for (block, rows) in panel.chunks_mut(16 * width).enumerate() {
                for col in 0..cols {
                    let from = block * 16 * strides.0 + (first + col) * strides.1;
                    for (row, to) in rows[col..].iter_mut().step_by(width).enumerate() {
                        *to = data[from + row * strides.0];
                    }
                }
            }
        });
        packed
    }

    pub(crate) fn rows(&self) -> usize {
        self.k
    }

    pub(crate) fn cols(&self) -> usize {
        self.n
    }

    /// Memory taken, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.data.as_slice())
    }
}

/// The right operand of a product.
pub(crate) trait Rhs: Sync {
    /// For which unit it is laid out.
    fn isa(&self) -> Isa;
    /// Length of the sums.
    fn rows(&self) -> usize;
    /// Columns of the product.
    fn cols(&self) -> usize;
    /// `width` columns from `first` on of some rows: floats from the first of them on, and the distance of two rows.
    fn panel(&self, first: usize, width: usize, rows: Range<usize>) -> (&[f32], usize);

    /// Floats per vector.
    fn lanes(&self) -> usize {
        self.isa().lanes()
    }

    /// Panels of two vectors.
    fn panels(&self) -> usize {
        self.cols().div_ceil(2 * self.lanes())
    }
}

impl Rhs for PackedRhs {
    fn isa(&self) -> Isa {
        self.isa
    }

    fn rows(&self) -> usize {
        self.k
    }

    fn cols(&self) -> usize {
        self.n
    }

    #[inline(always)]
    fn panel(&self, first: usize, width: usize, rows: Range<usize>) -> (&[f32], usize) {
        (&self.data.as_slice()[self.k * first + rows.start * width..][..rows.len() * width], width)
    }
}

/// A right operand whose rows are read where they are: for products of so few rows that packing would not pay.
pub(crate) struct RowsRhs<'a> {
    isa: Isa,
    k: usize,
    n: usize,
    data: &'a [f32],
    stride: usize,
}

impl<'a> RowsRhs<'a> {
    /// `k` rows of `n` floats, `stride` apart; `None` where they have to be packed, or should be for a product of `m` rows.
    pub(crate) fn new(
        isa: Isa,
        (m, k, n): (usize, usize, usize),
        data: &'a [f32],
        stride: usize,
    ) -> Option<RowsRhs<'a>> {
        let width = 2 * isa.lanes();
        // Rows that are one panel, or so few rows of the product that each panel is read a few times only.
        let pays = n.is_multiple_of(isa.lanes()) && (n <= width || m <= MOST_ROWS);
        let fits = k > 0 && n <= stride && data.len() >= (k - 1) * stride + n;
        (pays && fits).then_some(RowsRhs { isa, k, n, data, stride })
    }
}

impl Rhs for RowsRhs<'_> {
    fn isa(&self) -> Isa {
        self.isa
    }

    fn rows(&self) -> usize {
        self.k
    }

    fn cols(&self) -> usize {
        self.n
    }

    #[inline(always)]
    fn panel(&self, first: usize, width: usize, rows: Range<usize>) -> (&[f32], usize) {
        let len = if rows.is_empty() { 0 } else { (rows.len() - 1) * self.stride + width };
        (&self.data[rows.start * self.stride + first..][..len], self.stride)
    }
}

/// The left operand of a product.
pub(crate) trait Lhs: Sync {
    /// It is packed with its columns one after the other instead of its rows.
    const TURNED: bool = false;
    /// Rows of the product.
    fn rows(&self) -> usize;
    /// The matrix and the distance of its rows, if its rows lie in memory.
    fn direct(&self) -> Option<(&[f32], usize)>;
    /// Writes the elements `rows` × `cols` to rows of `dst` that are `stride` apart. Must be `#[inline(always)]`.
    fn pack<S: Simd>(&self, s: S, rows: Range<usize>, cols: Range<usize>, dst: &mut [f32], stride: usize);
}

/// The transpose of `inner`, which has `rows` columns: packed as `inner` is, so that nothing is transposed in memory.
pub(crate) struct Turned<L> {
    pub(crate) inner: L,
    pub(crate) rows: usize,
}

impl<L: Lhs> Lhs for Turned<L> {
    const TURNED: bool = true;

    fn rows(&self) -> usize {
        self.rows
    }

    fn direct(&self) -> Option<(&[f32], usize)> {
        None
    }

    /// Writes columns.
    #[inline(always)]
    fn pack<S: Simd>(&self, s: S, rows: Range<usize>, cols: Range<usize>, dst: &mut [f32], stride: usize) {
        self.inner.pack(s, cols, rows, dst, stride);
    }
}

/// A matrix whose element `(row, column)` is `data[row * strides.0 + column * strides.1]`.
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) strides: (usize, usize),
}

impl Lhs for Matrix<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn direct(&self) -> Option<(&[f32], usize)> {
        (self.strides.1 == 1).then_some((self.data, self.strides.0))
    }

    #[inline(always)]
    fn pack<S: Simd>(&self, s: S, rows: Range<usize>, cols: Range<usize>, dst: &mut [f32], stride: usize) {
        if self.strides.1 == 1 {
            for (row, to) in rows.zip(dst.chunks_mut(stride)) {
                simd::copy(
                    s,
                    &self.data[row * self.strides.0 + cols.start..][..cols.len()],
                    &mut to[..cols.len()],
                );
            }
        } else {
            // Transposed: neighbours in a column lie together, so blocks of columns reuse each line that they load.
            for block in cols.clone().step_by(16) {
                let block_end = cols.end.min(block + 16);
                for (row, to) in rows.clone().zip(dst.chunks_mut(stride)) {
                    for col in block..block_end {
                        to[col - cols.start] = self.data[row * self.strides.0 + col * self.strides.1];
                    }
                }
            }
        }
    }
}

/// Where a product goes: rows of `cols` floats, `stride` apart, from offset `start`.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

/// `out = finish(lhs × rhs)`.
///
/// # Panics
/// When `out` or an operand of `finish` is too small.
pub(crate) fn gemm<L: Lhs, R: Rhs>(lhs: &L, rhs: &R, out: &mut [f32], target: Target, finish: &Finish<'_>) {
    let (m, n) = (lhs.rows(), rhs.cols());
    if m == 0 || n == 0 {
        return;
    }
    let out = Disjoint::new(out);
    // SAFETY: nobody else has the output.
    unsafe { gemm_part(lhs, rhs, &out, target, finish, Sum::Fresh) };
}

/// What a product is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// Nothing: the output is overwritten.
    Fresh,
    /// What the output holds.
    Onto,
}

/// As [`gemm`], into a part of a matrix whose other parts are others' at the same time.
///
/// # Safety
/// Nobody else uses the `lhs.rows()` rows of `rhs.cols()` floats of `out` that `target` names.
///
/// # Panics
/// As [`gemm`].
pub(crate) unsafe fn gemm_part<L: Lhs, R: Rhs>(
    lhs: &L,
    rhs: &R,
    out: &Disjoint<'_, f32>,
    target: Target,
    finish: &Finish<'_>,
    sum: Sum,
) {
    let (m, n) = (lhs.rows(), rhs.cols());
    if m == 0 || n == 0 {
        return;
    }
    assert!(target.stride >= n && out.len() >= target.start + (m - 1) * target.stride + n);
    finish.check(m, n);
    let cut = Cut::new(m, rhs);
    par::for_each(cut.row_blocks * cut.panel_blocks, |task| {
        let (r, p) = (task % cut.row_blocks, task / cut.row_blocks);
        let rows = r * cut.rows..m.min((r + 1) * cut.rows);
        let panels = p * cut.panels..rhs.panels().min((p + 1) * cut.panels);
        simd::dispatch_on(
            rhs.isa(),
            Block { lhs, rhs, rows, panels, tile: cut.tile, out, target, finish, sum },
        );
    });
}

/// How a product is cut into tasks; depends on its shape only.
struct Cut {
    /// Rows per register tile.
    tile: usize,
    rows: usize,
    row_blocks: usize,
    panels: usize,
    panel_blocks: usize,
}

impl Cut {
    fn new(m: usize, rhs: &impl Rhs) -> Cut {
        let most = rhs.isa().gemm_rows();
        // Tiles of nearly equal height: 49 rows are 13 + 13 + 13 + 10, not 14 + 14 + 14 + 7.
        let tiles = m.div_ceil(most);
        let tile = m.div_ceil(tiles);
        let flops = 2.0 * m as f64 * rhs.cols() as f64 * rhs.rows() as f64;
        let wanted = ((flops / par::GRAIN_FLOPS as f64) as usize).clamp(1, TASKS);
        let panels = rhs.panels();
        let (mut rows, mut panels_each) = (MC.div_ceil(tile) * tile, panels);
        if m.div_ceil(rows) < wanted {
            if tiles >= FEW_TILES {
                // At least two tiles, so that each panel of weights is used more than once.
                rows = tiles.div_ceil(wanted).max(2) * tile;
            } else {
                // Few rows: each task streams its own columns of the weights, and gathers the rows again.
                panels_each = panels.div_ceil(wanted.div_ceil(m.div_ceil(rows))).max(2);
            }
        }
        Cut {
            tile,
            rows,
            row_blocks: m.div_ceil(rows),
            panels: panels_each,
            panel_blocks: panels.div_ceil(panels_each),
        }
    }
}

/// One task of a product.
struct Block<'a, L, R> {
    lhs: &'a L,
    rhs: &'a R,
    rows: Range<usize>,
    panels: Range<usize>,
    tile: usize,
    out: &'a Disjoint<'a, f32>,
    target: Target,
    finish: &'a Finish<'a>,
    sum: Sum,
}

impl<L: Lhs, R: Rhs> Kernel for Block<'_, L, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.rhs.rows();
        let blocks = k.div_ceil(KC).max(1);
        let depth = k.div_ceil(blocks);
        for block in 0..blocks {
            let cols = block * depth..k.min((block + 1) * depth);
            if L::TURNED {
                // An odd number of cache lines, as for rows.
                let stride = self.rows.len().next_multiple_of(32) + 16;
                let mut panel = scratch::take(cols.len() * stride);
                self.lhs.pack(s, self.rows.clone(), cols.clone(), &mut panel, stride);
                self.multiply(s, &panel, Layout::Turned, stride, cols, block + 1 == blocks);
                continue;
            }
            match self.lhs.direct() {
                Some((data, stride)) if self.reads_in_place(stride) => {
                    let last = (self.rows.end - 1) * stride + cols.end;
                    let a = &data[self.rows.start * stride + cols.start
                        ..last.max(self.rows.start * stride + cols.start)];
                    self.multiply(s, a, Layout::InPlace, stride, cols, block + 1 == blocks);
                }
                direct => {
                    let mut panel = scratch::take(self.rows.len() * PANEL_STRIDE);
                    match direct {
                        Some((data, stride)) => {
                            let lhs = Matrix { data, rows: self.rows.end, strides: (stride, 1) };
                            lhs.pack(s, self.rows.clone(), cols.clone(), &mut panel, PANEL_STRIDE);
                        }
                        None => self.lhs.pack(s, self.rows.clone(), cols.clone(), &mut panel, PANEL_STRIDE),
                    }
                    self.multiply(s, &panel, Layout::Packed, PANEL_STRIDE, cols, block + 1 == blocks);
                }
            }
        }
    }
}

impl<L: Lhs, R: Rhs> Block<'_, L, R> {
    /// Whether the tiles read rows this far apart where they are, or a copy of them.
    #[inline(always)]
    fn reads_in_place(&self, stride: usize) -> bool {
        // Tall and wide tiles leave no registers for the addresses of rows that are not a constant apart: copied rows
        // are then twice as fast. For one vector of columns, or few rows, copying would cost more than it gains.
        let small = self.rhs.cols() <= self.rhs.lanes() || self.tile <= IN_PLACE_ROWS;
        // Rows that fall into the same few sets of the first cache throw each other out.
        small && (self.tile <= 2 || self.panels.len() <= 2 || !stride.is_multiple_of(256))
    }

    /// Adds the product of columns `cols`, whose left elements are in `a`, to the output.
    #[inline(always)]
    fn multiply<S: Simd>(
        &self,
        s: S,
        a: &[f32],
        layout: Layout,
        stride: usize,
        cols: Range<usize>,
        last: bool,
    ) {
        let plain = Finish::default();
        let finish = if last { self.finish } else { &plain };
        let mut aside = [0.0f32; 16 * 2 * simd::MAX_LANES];
        for panel in self.panels.clone() {
            let first = panel * 2 * S::LANES;
            let n = (self.rhs.cols() - first).min(2 * S::LANES);
            let vectors = n.div_ceil(S::LANES);
            let width = vectors * S::LANES;
            let (b, b_stride) = self.rhs.panel(first, width, cols.clone());
            for row in self.rows.clone().step_by(self.tile) {
                let m = (self.rows.end - row).min(self.tile);
                let first_row = row - self.rows.start;
                let (from, end) = if layout == Layout::Turned {
                    (first_row, first_row + cols.len().saturating_sub(1) * stride + m)
                } else {
                    (first_row * stride, (first_row + m - 1) * stride + cols.len())
                };
                assert!(cols.is_empty() || a.len() >= end);
                let args = Args {
                    k: cols.len(),
                    a: a.as_ptr().wrapping_add(from),
                    a_stride: stride,
                    b: b.as_ptr(),
                    b_stride,
                    c: self.out.ptr().wrapping_add(self.target.start + row * self.target.stride + first),
                    ldc: self.target.stride,
                    load: cols.start > 0 || self.sum == Sum::Onto,
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    residual_stride: 0,
                    clamp: finish.activation.range().unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
                };
                if n == width {
                    self.whole(s, row, first, m, vectors, layout, args, finish);
                } else {
                    self.part(s, row, first, (m, n), layout, args, finish, &mut aside);
                }
            }
        }
    }

    /// A tile all of whose columns exist.
    #[inline(always)]
    fn whole<S: Simd>(
        &self,
        s: S,
        row: usize,
        col: usize,
        m: usize,
        vectors: usize,
        layout: Layout,
        mut args: Args,
        finish: &Finish<'_>,
    ) {
        let n = vectors * S::LANES;
        if let Some(bias) = finish.bias {
            args.bias = bias[col..][..n].as_ptr();
        }
        // A residual that does not repeat within the tile is added in registers.
        let residual = finish.residual.and_then(|r| r.tile(row, m, col, n));
        if let Some((data, stride)) = residual {
            args.residual = data.as_ptr();
            args.residual_stride = stride;
        }
        let late = Finish {
            bias: None,
            residual: if residual.is_some() { None } else { finish.residual },
            ..*finish
        };
        if !late.is_clamp() {
            args.clamp = (f32::NEG_INFINITY, f32::INFINITY);
        }
        // SAFETY: `multiply` checked the operands, `gemm` the output, and the slices above the rest.
        unsafe { tile::call(s, m, vectors, layout, args) };
        if !late.is_clamp() {
            // SAFETY: the tile was just written and belongs to this task alone.
            s.vectorize(Late { c: args.c, stride: args.ldc, row, col, m, n, finish: &late });
        }
    }

    /// A tile at the right edge: computed aside, as its vectors are wider than the output.
    #[inline(always)]
    fn part<S: Simd>(
        &self,
        s: S,
        row: usize,
        col: usize,
        (m, n): (usize, usize),
        layout: Layout,
        mut args: Args,
        finish: &Finish<'_>,
        aside: &mut [f32],
    ) {
        let vectors = n.div_ceil(S::LANES);
        let width = vectors * S::LANES;
        let (c, ldc) = (args.c, args.ldc);
        let beside = aside.as_mut_ptr();
        assert!(aside.len() >= m * width);
        let mut bias_row = [0.0f32; 2 * simd::MAX_LANES];
        if let Some(bias) = finish.bias {
            bias_row[..n].copy_from_slice(&bias[col..][..n]);
            args.bias = bias_row.as_ptr();
        }
        // The tile reads sums or residual where it writes its result, so there is room for one of them.
        let residual = if args.load { None } else { finish.residual.and_then(|r| r.tile(row, m, col, n)) };
        if args.load {
            // SAFETY: the output has `m` rows of `n` columns here, `aside` room for as many wider ones.
            unsafe { copy_rows(s, (c.cast_const(), ldc), (beside, width), m, n) };
        }
        if let Some((data, stride)) = residual {
            // SAFETY: as above; `tile` gave `m` rows.
            unsafe { copy_rows(s, (data.as_ptr(), stride), (beside, width), m, n) };
            args.residual = beside;
            args.residual_stride = width;
        }
        let late = Finish {
            bias: None,
            residual: if residual.is_some() { None } else { finish.residual },
            ..*finish
        };
        if !late.is_clamp() {
            args.clamp = (f32::NEG_INFINITY, f32::INFINITY);
        }
        args.c = beside;
        args.ldc = width;
        // SAFETY: the left and right operands as in `whole`; a tile fits `aside`, and the bias its row.
        unsafe { tile::call(s, m, vectors, layout, args) };
        // SAFETY: as for the sums.
        unsafe { copy_rows(s, (beside.cast_const(), width), (c, ldc), m, n) };
        if !late.is_clamp() {
            s.vectorize(Late { c, stride: ldc, row, col, m, n, finish: &late });
        }
    }
}

/// Copies `m` rows of `n` floats, which are a given distance apart on either side.
///
/// # Safety
/// The rows are readable and writable.
#[inline(always)]
unsafe fn copy_rows<S: Simd>(s: S, from: (*const f32, usize), to: (*mut f32, usize), m: usize, n: usize) {
    for i in 0..m {
        for j in (0..n).step_by(S::LANES) {
            let lanes = (n - j).min(S::LANES);
            // SAFETY: inside the rows.
            unsafe {
                s.store_part_ptr(
                    to.0.add(i * to.1 + j),
                    lanes,
                    s.load_part_ptr(from.0.add(i * from.1 + j), lanes),
                );
            }
        }
    }
}

/// Applies to a tile in the first cache what did not fit into registers.
///
/// `m` rows of `n` floats, `stride` apart, are initialised and writable at `c`.
struct Late<'a> {
    c: *mut f32,
    stride: usize,
    row: usize,
    col: usize,
    m: usize,
    n: usize,
    finish: &'a Finish<'a>,
}

impl Kernel for Late<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rect = Rect { at: self.c, stride: self.stride, m: self.m, n: self.n };
        // SAFETY: the struct's contract.
        unsafe { self.finish.apply_rect(s, self.row, self.col, rect) };
    }
}

#[cfg(test)]
mod tests;
