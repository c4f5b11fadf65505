//! Convolutions with windows of 3×3 by Winograd's method: fewer multiplications for more additions.
//!
//! The output is cut into tiles of `OUT`×`OUT`. Each tile's patch of the image and the filter are transformed, multiplied
//! element by element (a matrix product over channels for each of the `(OUT + 2)²` elements), and the products are transformed
//! back: `Y = Aᵀ[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]A`. With tiles of 4×4 that is a quarter of the multiplications, with 2×2 four ninths
//! (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015).
//!
//! The polynomials behind 4×4 are evaluated at 0, ±√½, ±√2 and ∞ instead of Lavin and Gray's 0, ±1, ±2 and ∞: errors are four
//! times smaller, about twice those of the plain sum (`docs/numerics.md`).

use std::{
    f32::consts::{FRAC_1_SQRT_2, SQRT_2},
    ops::Range,
};

use super::ConvSpec;
use crate::{
    epilogue::Finish,
    gemm::KC,
    gemm::tile::{self, Args, Layout, PANEL_STRIDE},
    geometry::Geometry,
    par::{self, Disjoint},
    scratch::{self, Aligned},
    simd::{self, Isa, Kernel, Simd},
};

/// Elements of the largest transformed tile.
const MOST: usize = 36;
/// Floats of transformed patches per task, about: a third of a 1 MiB second cache.
const PATCHES: usize = 80 * 1024;
/// With fewer blocks of tiles, threads share the blocks' columns.
const FEW_BLOCKS: usize = 4;
/// Channels below which transforming costs more than it gains.
const FEW_CHANNELS: usize = 32;

/// A transformed filter.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    isa: Isa,
    /// Outputs per side of a tile: 2 or 4.
    out: usize,
    channels: usize,
    filters: usize,
    /// For each panel of two vectors of filters and each element of a tile a row per channel.
    data: Aligned,
    /// Stands for cells outside the image.
    zeros: Aligned,
}

impl Winograd {
    /// Transforms a filter `[3, 3, channels, filters]`, if convolving images of this height and width gains by it.
    pub(super) fn new<const D: usize>(
        filter: &[f32],
        dims: &[usize],
        spec: &ConvSpec<D>,
        image: [usize; 2],
    ) -> Option<Winograd> {
        let &[3, 3, channels, filters] = dims else { return None };
        let isa = Isa::current();
        let lanes = isa.lanes();
        let whole = channels.is_multiple_of(lanes) && filters.is_multiple_of(lanes);
        let enough = channels.min(filters) >= FEW_CHANNELS;
        if isa == Isa::Scalar || !whole || !enough || spec.strides != [1; D] || spec.dilations != [1; D] {
            return None;
        }
        let geometry = spec.geometry(&[&[1], &image[..], &[channels]].concat(), [3; D]).ok()?;
        let [_, height, width] = geometry.axes;
        let out = best_tile(height.output, width.output)?;
        let elements = (out + 2) * (out + 2);
        let mut data = Aligned::zeroed(elements * channels * filters);
        let panel = elements * channels * 2 * lanes;
        par::for_each_chunk(data.as_mut_slice(), panel, |start, to| {
            let first = start / (elements * channels);
            let work = Transform { filter, channels, filters, first, out, to };
            simd::dispatch_on(isa, work);
        });
        Some(Winograd { isa, out, channels, filters, data, zeros: Aligned::zeroed(channels) })
    }

    /// Memory taken, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.data.as_slice())
    }

    /// The convolution with stride 1; `geometry` must be that of images with as many channels and a window of 3×3.
    pub(super) fn run(&self, x: &[f32], geometry: &Geometry, out: &mut [f32], finish: &Finish<'_>) {
        let [_, height, width] = &geometry.axes;
        assert!(geometry.channels == self.channels && height.window == 3 && width.window == 3);
        assert!(x.len() >= geometry.batch * geometry.input_cells() * self.channels);
        assert!(out.len() == geometry.output_rows() * self.filters);
        finish.check(geometry.output_rows(), self.filters);
        let out = Disjoint::new(out);
        match self.out {
            4 => Images::<4> { x, geometry, filter: self, out: &out, finish }.run(),
            _ => Images::<2> { x, geometry, filter: self, out: &out, finish }.run(),
        }
    }

    /// Filters of panel `panel`: the first of them and their number.
    fn panel(&self, panel: usize) -> (usize, usize) {
        let first = panel * 2 * self.isa.lanes();
        (first, (self.filters - first).min(2 * self.isa.lanes()))
    }

    fn panels(&self) -> usize {
        self.filters.div_ceil(2 * self.isa.lanes())
    }
}

/// The tile for which an output of this size takes the fewest multiplications.
fn best_tile(height: usize, width: usize) -> Option<usize> {
    if height < 4 || width < 4 {
        return None;
    }
    // The products' rows are tiles, of which there should be enough to use each row of the filter more than a few times.
    let tiles = |out: usize| height.div_ceil(out) * width.div_ceil(out);
    let cost = |out: usize| tiles(out) * (out + 2) * (out + 2);
    let out = if tiles(4) < 8 || cost(2) < cost(4) { 2 } else { 4 };
    // The transforms cost about a third of what is left.
    (tiles(out) >= 8 && cost(out) * 4 < height * width * 9 * 3).then_some(out)
}

/// Transforms one panel of a filter.
struct Transform<'a> {
    filter: &'a [f32],
    channels: usize,
    filters: usize,
    first: usize,
    out: usize,
    to: &'a mut [f32],
}

impl Kernel for Transform<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let size = self.out + 2;
        let width = self.to.len() / (size * size * self.channels);
        for channel in 0..self.channels {
            for col in (0..width).step_by(S::LANES) {
                let g = |i: usize, j: usize| {
                    let at = ((i * 3 + j) * self.channels + channel) * self.filters + self.first + col;
                    s.load(&self.filter[at..])
                };
                let mut half = [[s.zero(); 3]; 6];
                for j in 0..3 {
                    let column = filter_1d(s, self.out, [g(0, j), g(1, j), g(2, j)]);
                    for (row, v) in half.iter_mut().zip(column) {
                        row[j] = v;
                    }
                }
                for (i, &row) in half.iter().take(size).enumerate() {
                    for (j, &v) in filter_1d(s, self.out, row).iter().take(size).enumerate() {
                        let at = ((i * size + j) * self.channels + channel) * width + col;
                        s.store(&mut self.to[at..], v);
                    }
                }
            }
        }
    }
}

/// `G·g` for tiles of `out` outputs; for two, four numbers.
#[inline(always)]
fn filter_1d<S: Simd>(s: S, out: usize, [a, b, c]: [S::F32; 3]) -> [S::F32; 6] {
    let by = |v: S::F32, f: f32| s.mul(v, s.splat(f));
    let outer = s.add(a, c);
    if out == 2 {
        let zero = s.zero();
        return [a, by(s.add(outer, b), 0.5), by(s.sub(outer, b), 0.5), c, zero, zero];
    }
    let (even, even2) = (s.fma(c, s.splat(0.5), a), s.fma(c, s.splat(2.0), a));
    let (odd, odd2) = (by(b, FRAC_1_SQRT_2), by(b, SQRT_2));
    [
        a,
        by(s.add(even, odd), -2.0 / 3.0),
        by(s.sub(even, odd), -2.0 / 3.0),
        by(s.add(even2, odd2), 1.0 / 6.0),
        by(s.sub(even2, odd2), 1.0 / 6.0),
        c,
    ]
}

/// `Bᵀ·d`.
#[inline(always)]
fn image_1d<S: Simd, const OUT: usize>(s: S, d: [S::F32; 6]) -> [S::F32; 6] {
    let [d0, d1, d2, d3, d4, d5] = d;
    if OUT == 2 {
        return [s.sub(d0, d2), s.add(d1, d2), s.sub(d2, d1), s.sub(d1, d3), d4, d5];
    }
    let (half, two, middle) = (s.splat(0.5), s.splat(2.0), s.splat(2.5));
    let (low, high) = (s.splat(FRAC_1_SQRT_2), s.splat(SQRT_2));
    let (even, odd) = (s.fnma(two, d2, d4), s.fnma(two, d1, d3));
    let (even2, odd2) = (s.fnma(half, d2, d4), s.fnma(half, d1, d3));
    [
        s.fnma(middle, d2, s.add(d0, d4)),
        s.fma(low, odd, even),
        s.fnma(low, odd, even),
        s.fma(high, odd2, even2),
        s.fnma(high, odd2, even2),
        s.fnma(middle, d3, s.add(d1, d5)),
    ]
}

/// `Aᵀ·m`.
#[inline(always)]
fn output_1d<S: Simd, const OUT: usize>(s: S, m: [S::F32; 6]) -> [S::F32; 4] {
    let [m0, m1, m2, m3, m4, m5] = m;
    let (sum, difference) = (s.add(m1, m2), s.sub(m1, m2));
    if OUT == 2 {
        return [s.add(m0, sum), s.sub(difference, m3), m4, m5];
    }
    let (sum2, difference2) = (s.add(m3, m4), s.sub(m3, m4));
    let (low, high) = (s.splat(FRAC_1_SQRT_2), s.splat(SQRT_2));
    [
        s.add(m0, s.add(sum, sum2)),
        s.fma(high, difference2, s.mul(low, difference)),
        s.fma(s.splat(2.0), sum2, s.mul(s.splat(0.5), sum)),
        s.fma(s.splat(2.0 * SQRT_2), difference2, s.fma(s.splat(SQRT_2 / 4.0), difference, m5)),
    ]
}

/// The images of a batch and what they are convolved with, in tiles of `OUT`×`OUT` outputs.
struct Images<'a, const OUT: usize> {
    x: &'a [f32],
    geometry: &'a Geometry,
    filter: &'a Winograd,
    out: &'a Disjoint<'a, f32>,
    finish: &'a Finish<'a>,
}

impl<const OUT: usize> Images<'_, OUT> {
    /// Elements of a transformed tile.
    const ELEMENTS: usize = (OUT + 2) * (OUT + 2);

    fn run(&self) {
        let filter = self.filter;
        let across = self.across();
        let tiles = self.geometry.batch * across[0] * across[1];
        let rows = filter.isa.gemm_rows();
        // Blocks of nearly equal numbers of whole register tiles.
        let most = (PATCHES / (Self::ELEMENTS * filter.channels) / rows).max(1) * rows;
        let blocks = tiles.div_ceil(most);
        let block = tiles.div_ceil(blocks);
        let tile_rows = block.div_ceil(block.div_ceil(rows));
        let floats = Self::ELEMENTS * filter.channels.div_ceil(KC) * block * PANEL_STRIDE;
        let range = |b: usize| b * block..tiles.min((b + 1) * block);
        if blocks >= FEW_BLOCKS {
            par::for_each(blocks, |b| {
                scratch::with(floats, |patches| {
                    let work = Block { images: self, tiles: range(b), block, rows: tile_rows };
                    let all = Disjoint::new(patches);
                    simd::dispatch_on(
                        filter.isa,
                        Gather { of: &work, to: &all, channels: 0..filter.channels },
                    );
                    // SAFETY: nobody writes them any more.
                    let patches = unsafe { all.slice(0..floats) };
                    simd::dispatch_on(
                        filter.isa,
                        Multiply { of: &work, patches, panels: 0..filter.panels() },
                    );
                });
            });
            return;
        }
        for b in 0..blocks {
            let work = Block { images: self, tiles: range(b), block, rows: tile_rows };
            scratch::with(floats, |patches| {
                let all = Disjoint::new(patches);
                let piece = 2 * filter.isa.lanes();
                par::for_each_range(filter.channels, piece, |channels| {
                    simd::dispatch_on(filter.isa, Gather { of: &work, to: &all, channels });
                });
                // SAFETY: nobody writes them any more.
                let patches: &[f32] = unsafe { all.slice(0..floats) };
                let flops = 2 * Self::ELEMENTS * work.tiles.len() * filter.channels * 2 * filter.isa.lanes();
                let panels = (par::GRAIN_FLOPS / 4).div_ceil(flops.max(1));
                par::for_each_range(filter.panels(), panels, |panels| {
                    simd::dispatch_on(filter.isa, Multiply { of: &work, patches, panels });
                });
            });
        }
    }

    /// Tiles down and across one image.
    fn across(&self) -> [usize; 2] {
        let [_, height, width] = &self.geometry.axes;
        [height.output.div_ceil(OUT), width.output.div_ceil(OUT)]
    }

    /// The image of a tile, and its first output there.
    #[inline(always)]
    fn place(&self, tile: usize, across: [usize; 2]) -> (usize, usize, usize) {
        let (line, column) = (tile / across[1], tile % across[1]);
        (line / across[0], line % across[0] * OUT, column * OUT)
    }
}

/// Some tiles.
struct Block<'a, const OUT: usize> {
    images: &'a Images<'a, OUT>,
    tiles: Range<usize>,
    /// Tiles for which the patches have room.
    block: usize,
    /// Rows per register tile.
    rows: usize,
}

impl<const OUT: usize> Block<'_, OUT> {
    /// Where channels `KC·part..` of an element of the first patch are.
    #[inline(always)]
    fn patch(&self, element: usize, part: usize) -> usize {
        let parts = self.images.filter.channels.div_ceil(KC);
        (element * parts + part) * self.block * PANEL_STRIDE
    }
}

/// Transforms some channels of a block's patches.
struct Gather<'a, const OUT: usize> {
    of: &'a Block<'a, OUT>,
    to: &'a Disjoint<'a, f32>,
    channels: Range<usize>,
}

impl<const OUT: usize> Kernel for Gather<'_, OUT> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let images = self.of.images;
        let across = images.across();
        for (index, tile) in self.of.tiles.clone().enumerate() {
            let cells = self.cells(tile, across);
            for channel in self.channels.clone().step_by(S::LANES) {
                let mut half = [[s.zero(); 6]; 6];
                for j in 0..OUT + 2 {
                    let mut column = [s.zero(); 6];
                    for (i, v) in column.iter_mut().take(OUT + 2).enumerate() {
                        // SAFETY: `cells` points at whole cells; `channels` are those of a cell, in whole vectors.
                        *v = unsafe { s.load_ptr(cells[i * 6 + j].add(channel)) };
                    }
                    let column = image_1d::<S, OUT>(s, column);
                    for (row, v) in half.iter_mut().zip(column) {
                        row[j] = v;
                    }
                }
                let (part, at) = (channel / KC, index * PANEL_STRIDE + channel % KC);
                for (i, &row) in half.iter().take(OUT + 2).enumerate() {
                    let row = image_1d::<S, OUT>(s, row);
                    for (j, &v) in row.iter().take(OUT + 2).enumerate() {
                        let at = self.of.patch(i * (OUT + 2) + j, part) + at;
                        debug_assert!(at + S::LANES <= self.to.len());
                        // SAFETY: inside the patches, and these channels are this task's.
                        unsafe { s.store_ptr(self.to.ptr().add(at), v) };
                    }
                }
            }
        }
    }
}

impl<const OUT: usize> Gather<'_, OUT> {
    /// The cells of a tile's patch, six per line.
    #[inline(always)]
    fn cells(&self, tile: usize, across: [usize; 2]) -> [*const f32; MOST] {
        let Images { x, geometry, filter, .. } = *self.of.images;
        let [_, height, width] = &geometry.axes;
        let (image, row, col) = self.of.images.place(tile, across);
        let mut cells = [filter.zeros.as_slice().as_ptr(); MOST];
        for i in 0..OUT + 2 {
            let Some(y) = (row + i).checked_sub(height.before).filter(|&y| y < height.input) else {
                continue;
            };
            for j in 0..OUT + 2 {
                let Some(x_at) = (col + j).checked_sub(width.before).filter(|&x| x < width.input) else {
                    continue;
                };
                let cell = (image * height.input + y) * width.input + x_at;
                cells[i * 6 + j] = x[cell * geometry.channels..][..geometry.channels].as_ptr();
            }
        }
        cells
    }
}

/// Multiplies a block's patches by some panels of the filter, and transforms the products into outputs.
struct Multiply<'a, const OUT: usize> {
    of: &'a Block<'a, OUT>,
    patches: &'a [f32],
    panels: Range<usize>,
}

impl<const OUT: usize> Kernel for Multiply<'_, OUT> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Images { filter, .. } = *self.of.images;
        let n = self.of.tiles.len();
        let mut products = scratch::take(Images::<OUT>::ELEMENTS * n * 2 * S::LANES);
        for panel in self.panels.clone() {
            let (first, width) = filter.panel(panel);
            for element in 0..Images::<OUT>::ELEMENTS {
                let rhs = (first * Images::<OUT>::ELEMENTS + element * width) * filter.channels;
                let rhs = &filter.data.as_slice()[rhs..][..filter.channels * width];
                self.product(s, element, rhs, width, &mut products[element * n * width..][..n * width]);
            }
            self.outputs(s, first, width, &products);
        }
    }
}

impl<const OUT: usize> Multiply<'_, OUT> {
    /// One element of all tiles: a row per tile, a column per filter.
    #[inline(always)]
    fn product<S: Simd>(&self, s: S, element: usize, rhs: &[f32], width: usize, products: &mut [f32]) {
        let (n, channels) = (self.of.tiles.len(), self.of.images.filter.channels);
        for (part, k) in (0..channels).step_by(KC).enumerate() {
            let depth = (channels - k).min(KC);
            let patches = &self.patches[self.of.patch(element, part)..][..n * PANEL_STRIDE];
            let rhs = &rhs[k * width..][..depth * width];
            for row in (0..n).step_by(self.of.rows) {
                let rows = (n - row).min(self.of.rows);
                let args = Args {
                    k: depth,
                    a: patches[row * PANEL_STRIDE..].as_ptr(),
                    a_stride: PANEL_STRIDE,
                    b: rhs.as_ptr(),
                    b_stride: width,
                    c: products[row * width..][..rows * width].as_mut_ptr(),
                    ldc: width,
                    load: k > 0,
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    residual_stride: 0,
                    clamp: (f32::NEG_INFINITY, f32::INFINITY),
                };
                // SAFETY: the slices hold `rows` rows of `depth` floats, `depth` rows of `width`, and `rows` rows of `width`.
                unsafe { tile::call(s, rows, width / S::LANES, Layout::Packed, args) };
            }
        }
    }

    /// Transforms the products of filters `first..first + width` and writes the outputs.
    #[inline(always)]
    fn outputs<S: Simd>(&self, s: S, first: usize, width: usize, products: &[f32]) {
        let Images { geometry, filter, out, finish, .. } = *self.of.images;
        let [_, height, cols] = &geometry.axes;
        let across = self.of.images.across();
        let n = self.of.tiles.len();
        assert!(products.len() >= Images::<OUT>::ELEMENTS * n * width);
        let late = !Finish { bias: None, ..*finish }.is_clamp();
        let (lo, hi) =
            finish.activation.range().filter(|_| !late).unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        for (index, tile) in self.of.tiles.clone().enumerate() {
            let (image, row, col) = self.of.images.place(tile, across);
            let down = (height.output - row).min(OUT);
            let right = (cols.output - col).min(OUT);
            let corner = (image * height.output + row) * cols.output + col;
            for v in (0..width).step_by(S::LANES) {
                let mut half = [[s.zero(); 6]; 4];
                for j in 0..OUT + 2 {
                    let mut column = [s.zero(); 6];
                    for (i, m) in column.iter_mut().take(OUT + 2).enumerate() {
                        let at = ((i * (OUT + 2) + j) * n + index) * width + v;
                        // SAFETY: inside the products, whose length was checked.
                        *m = unsafe { s.load_ptr(products.as_ptr().add(at)) };
                    }
                    let column = output_1d::<S, OUT>(s, column);
                    for (row, y) in half.iter_mut().zip(column) {
                        row[j] = y;
                    }
                }
                let bias = match finish.bias {
                    Some(bias) if !late => s.load(&bias[first + v..]),
                    _ => s.zero(),
                };
                for (i, &line) in half.iter().take(down).enumerate() {
                    for (j, &y) in output_1d::<S, OUT>(s, line).iter().take(right).enumerate() {
                        // The order of operands keeps NaN.
                        let y = s.min(s.splat(hi), s.max(s.splat(lo), s.add(y, bias)));
                        let at = (corner + i * cols.output + j) * filter.filters + first + v;
                        debug_assert!(at + S::LANES <= out.len());
                        // SAFETY: outputs of this tile and these filters, which are this task's.
                        unsafe { s.store_ptr(out.ptr().add(at), y) };
                    }
                }
            }
            if late {
                for i in 0..down {
                    for j in 0..right {
                        let row = corner + i * cols.output + j;
                        let at = row * filter.filters + first;
                        // SAFETY: as above.
                        finish.apply(s, row, first, unsafe { out.slice(at..at + width) });
                    }
                }
            }
        }
    }
}
