use std::ops::Range;

use crate::{
    epilogue::Finish,
    gemm::{PackedRhs, Rhs},
    geometry::Geometry,
    par::{self, Disjoint},
    scratch,
    simd::{self, Kernel, Simd},
    vecmath::Rect,
};

/// Convolves images of three channels, as pictures have: sums are so short that gathering the left operand of a product
/// would take as long as the product. Lines are copied with zeros around them instead, and the operand is read there.
///
/// Says whether it did: strides must be 1 or 2, the window undilated, filters must fill whole vectors.
pub(super) fn convolve(
    x: &[f32],
    geometry: &Geometry,
    filter: &PackedRhs,
    out: &mut [f32],
    finish: &Finish<'_>,
) -> bool {
    let [depth, height, width] = geometry.axes;
    let (n, k) = (filter.cols(), width.window * geometry.channels);
    let fits = geometry.channels == 3
        && matches!(width.stride, 1 | 2)
        && width.dilation == 1
        && depth.input == 1
        && depth.window == 1
        && depth.output == 1
        && width.output >= filter.isa().gemm_rows()
        && n > 0
        && n.is_multiple_of(filter.lanes());
    if !fits {
        return false;
    }
    let lines = geometry.batch * height.output;
    assert!(filter.rows() == height.window * k);
    assert!(x.len() >= geometry.batch * geometry.input_cells() * 3 && out.len() == lines * width.output * n);
    finish.check(lines * width.output, n);
    let flops = 2 * width.output * n * k * height.window;
    let chunk = (par::GRAIN_FLOPS / flops.max(1)).clamp(1, lines.div_ceil(8).max(1));
    let out = Disjoint::new(out);
    par::for_each_range(lines, chunk, |lines| {
        simd::dispatch_on(filter.isa(), Lines { x, geometry, filter, out: &out, finish, lines });
    });
    true
}

/// Some lines of the output.
struct Lines<'a> {
    x: &'a [f32],
    geometry: &'a Geometry,
    filter: &'a PackedRhs,
    out: &'a Disjoint<'a, f32>,
    finish: &'a Finish<'a>,
    lines: Range<usize>,
}

impl Kernel for Lines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [_, height, width] = &self.geometry.axes;
        // As long as the windows of all outputs reach, and as the image is.
        let reach = (width.output - 1) * width.stride + width.window;
        let stride = 3 * reach.max(width.before + width.input);
        scratch::with(height.window * stride, |padded| {
            for line in self.lines.clone() {
                let (image, oh) = (line / height.output, line % height.output);
                let taps = height.inside(oh);
                for (tap, to) in taps.clone().zip(padded.chunks_exact_mut(stride)) {
                    let from = (image * height.input + height.cell(oh, tap)) * width.input * 3;
                    let (before, rest) = to.split_at_mut(3 * width.before);
                    let (cells, after) = rest.split_at_mut(3 * width.input);
                    before.fill(0.0);
                    cells.copy_from_slice(&self.x[from..][..3 * width.input]);
                    after.fill(0.0);
                }
                self.line(s, line, taps, padded, stride);
            }
        });
    }
}

impl Lines<'_> {
    /// One line of the output from the lines of the image in its window, with what surrounds them.
    #[inline(always)]
    fn line<S: Simd>(&self, s: S, line: usize, taps: Range<usize>, padded: &[f32], stride: usize) {
        let width = &self.geometry.axes[2];
        let k = 3 * width.window;
        let n = self.filter.cols();
        for first in (0..n).step_by(2 * S::LANES) {
            let vectors = ((n - first) / S::LANES).min(2);
            let (weights, row) = self.filter.panel(first, vectors * S::LANES, taps.start * k..taps.end * k);
            let mut start = 0;
            while start < width.output {
                // The last strip reaches back over what is done already.
                let at = start.min(width.output - S::GEMM_ROWS);
                let cell = line * width.output + at;
                let strip = Strip {
                    lines: &padded[at * width.stride * 3..],
                    stride,
                    count: taps.len(),
                    k,
                    weights,
                    row,
                    out: self.out.ptr().wrapping_add(cell * n + first),
                    ldc: n,
                    cell,
                    col: first,
                    finish: self.finish,
                };
                match (vectors, width.stride) {
                    (1, 1) => by_rows::<S, 1, 3>(s, strip),
                    (1, _) => by_rows::<S, 1, 6>(s, strip),
                    (_, 1) => by_rows::<S, 2, 3>(s, strip),
                    _ => by_rows::<S, 2, 6>(s, strip),
                }
                start = at + S::GEMM_ROWS;
            }
        }
    }
}

#[inline(always)]
fn by_rows<S: Simd, const NV: usize, const STEP: usize>(s: S, strip: Strip<'_>) {
    macro_rules! tiles {
        ($($rows:literal)*) => {
            // The constant condition keeps other units' tiles out of the binary.
            match S::GEMM_ROWS {
                $($rows if const { $rows == S::GEMM_ROWS } => s.vectorize(Tile::<$rows, NV, STEP>(strip)),)*
                _ => {}
            }
        };
    }
    tiles!(4 6 12 14);
}

/// Neighbouring outputs of a line, some vectors of their channels.
struct Strip<'a> {
    /// Lines of the image, `stride` apart, from the first cell of the first output's window on.
    lines: &'a [f32],
    stride: usize,
    count: usize,
    /// Floats of a line in a window.
    k: usize,
    /// Rows of the filter, `row` apart.
    weights: &'a [f32],
    row: usize,
    out: *mut f32,
    ldc: usize,
    /// First output and channel.
    cell: usize,
    col: usize,
    finish: &'a Finish<'a>,
}

/// `MR` outputs whose windows are `STEP` floats apart, `NV` vectors each. The outputs of the strip are this task's alone.
struct Tile<'a, const MR: usize, const NV: usize, const STEP: usize>(Strip<'a>);

impl<const MR: usize, const NV: usize, const STEP: usize> Kernel for Tile<'_, MR, NV, STEP> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Strip { lines, stride, count, k, weights, row, out, ldc, cell, col, finish } = self.0;
        let last = count.saturating_sub(1) * stride + (MR - 1) * STEP + k;
        assert!(
            count == 0 || (lines.len() >= last && weights.len() >= (count * k - 1) * row + NV * S::LANES)
        );
        let mut acc = [[s.zero(); NV]; MR];
        let mut b = weights.as_ptr();
        for line in 0..count {
            let mut a = lines.as_ptr().wrapping_add(line * stride);
            for _ in 0..k {
                let mut w = [s.zero(); NV];
                for (j, w) in w.iter_mut().enumerate() {
                    // SAFETY: the filter has `count * k` rows, as was checked.
                    *w = unsafe { s.load_ptr(b.add(j * S::LANES)) };
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the windows of all outputs are inside the lines, as was checked.
                    let x = s.splat(unsafe { *a.add(i * STEP) });
                    for (acc, &w) in acc.iter_mut().zip(&w) {
                        *acc = s.fma(x, w, *acc);
                    }
                }
                a = a.wrapping_add(1);
                b = b.wrapping_add(row);
            }
        }
        let late = Finish { bias: None, ..*finish };
        let range = if late.is_clamp() { finish.activation.range() } else { None };
        if let Some(bias) = finish.bias {
            for j in 0..NV {
                let x = s.load(&bias[col + j * S::LANES..]);
                for row in &mut acc {
                    row[j] = s.add(row[j], x);
                }
            }
        }
        let (lo, hi) = range.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (s.splat(lo), s.splat(hi));
        for (i, row) in acc.iter().enumerate() {
            for (j, &v) in row.iter().enumerate() {
                // The order of operands keeps NaN and the sign of zero.
                let v = s.min(hi, s.max(lo, v));
                // SAFETY: the outputs of the strip are inside the result and this task's alone.
                unsafe { s.store_ptr(out.add(i * ldc + j * S::LANES), v) };
            }
        }
        if range.is_none() {
            let rect = Rect { at: out, stride: ldc, m: MR, n: NV * S::LANES };
            s.vectorize(Late { finish: &late, cell, col, rect });
        }
    }
}

/// What does not fit into registers, for outputs that have just been written and belong to this task alone.
struct Late<'a> {
    finish: &'a Finish<'a>,
    cell: usize,
    col: usize,
    rect: Rect,
}

impl Kernel for Late<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the struct's contract.
        unsafe { self.finish.apply_rect(s, self.cell, self.col, self.rect) };
    }
}
