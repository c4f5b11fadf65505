use std::ops::Range;

use smallvec::SmallVec;

use crate::{
    gemm::Lhs,
    geometry::Geometry,
    simd::{Simd, copy, fill_zero},
};

/// The left operand of a convolution: a row per output position, holding the image cells under the filter. Never exists
/// as a whole.
pub(super) struct Patches<'a> {
    x: &'a [f32],
    geometry: &'a Geometry,
    /// First channel of the group, and number of channels in it.
    first: usize,
    channels: usize,
}

/// A run of columns that lie together in the image.
struct Span {
    /// Position in the window of its first cell: depth, height, width.
    tap: (usize, usize, usize),
    /// The wanted columns of the run.
    lo: usize,
    hi: usize,
    /// Where they go in the packed row.
    to: usize,
    /// Where they come from, counted from the window's first cell.
    from: usize,
}

impl<'a> Patches<'a> {
    pub(super) fn new(x: &'a [f32], geometry: &'a Geometry, first: usize, channels: usize) -> Patches<'a> {
        Patches { x, geometry, first, channels }
    }

    /// Whether neighbouring cells of the window lie together in the image.
    fn joined(&self) -> bool {
        self.geometry.axes[2].dilation == 1 && self.channels == self.geometry.channels
    }

    /// The runs that make up columns `cols`.
    fn spans(&self, cols: &Range<usize>) -> SmallVec<[Span; 16]> {
        let [depth, height, width] = &self.geometry.axes;
        let (taps, len) =
            if self.joined() { (1, width.window * self.channels) } else { (width.window, self.channels) };
        if cols.is_empty() {
            return SmallVec::new();
        }
        (cols.start / len..cols.end.div_ceil(len))
            .map(|index| {
                let tap = (index / taps / height.window, index / taps % height.window, index % taps);
                let at = index * len;
                let (lo, hi) = (at.max(cols.start) - at, (at + len).min(cols.end) - at);
                let line = tap.0 * depth.dilation * height.input + tap.1 * height.dilation;
                let cell = line * width.input + tap.2 * width.dilation;
                let from = cell * self.geometry.channels + self.first + lo;
                Span { tap, lo, hi, to: at + lo - cols.start, from }
            })
            .collect()
    }

    /// A row whose window is partly outside the image, where all is zero.
    #[inline(always)]
    fn pack_border<S: Simd>(
        &self,
        s: S,
        (image, od, oh, ow): (usize, usize, usize, usize),
        spans: &[Span],
        dst: &mut [f32],
    ) {
        let [depth, height, width] = &self.geometry.axes;
        let all = self.geometry.channels;
        let (in_d, in_h, in_w) = (depth.inside(od), height.inside(oh), width.inside(ow));
        for &Span { tap: (kd, kh, kw), lo, hi, to, .. } in spans {
            let out = &mut dst[to..to + hi - lo];
            // The part of the run that is inside the image, and where that starts.
            let (inside, first) = if !in_d.contains(&kd) || !in_h.contains(&kh) {
                (lo..lo, 0)
            } else if self.joined() {
                let start = lo.max(in_w.start * all);
                (start..hi.min(in_w.end * all), in_w.start)
            } else if in_w.contains(&kw) {
                (lo..hi, kw)
            } else {
                (lo..lo, 0)
            };
            if inside.is_empty() {
                fill_zero(s, out);
                continue;
            }
            let line = (image * depth.input + depth.cell(od, kd)) * height.input + height.cell(oh, kh);
            let run = (line * width.input + width.cell(ow, first)) * all;
            let from = if self.joined() {
                run + inside.start - first * all
            } else {
                run + self.first + inside.start
            };
            let (before, out) = out.split_at_mut(inside.start - lo);
            let (middle, after) = out.split_at_mut(inside.len());
            fill_zero(s, before);
            copy(s, &self.x[from..from + middle.len()], middle);
            fill_zero(s, after);
        }
    }
}

impl Lhs for Patches<'_> {
    fn rows(&self) -> usize {
        self.geometry.output_rows()
    }

    fn direct(&self) -> Option<(&[f32], usize)> {
        // A filter of one cell that looks at every cell: the image is the matrix.
        let identity = self.geometry.axes.iter().all(|a| a.is_identity());
        identity.then(|| (self.x.get(self.first..).unwrap_or_default(), self.geometry.channels))
    }

    #[inline(always)]
    fn pack<S: Simd>(&self, s: S, rows: Range<usize>, cols: Range<usize>, dst: &mut [f32], stride: usize) {
        let [depth, height, width] = &self.geometry.axes;
        let spans = self.spans(&cols);
        let interior = width.interior();
        let (mut ow, mut line) = (rows.start % width.output, rows.start / width.output);
        for (_, dst) in rows.zip(dst.chunks_mut(stride)) {
            let oh = line % height.output;
            let od = line / height.output % depth.output;
            let image = line / height.output / depth.output;
            if interior.contains(&ow)
                && height.inside(oh).len() == height.window
                && depth.inside(od).len() == depth.window
            {
                let cell = (image * depth.input + depth.cell(od, 0)) * height.input + height.cell(oh, 0);
                let window = (cell * width.input + width.cell(ow, 0)) * self.geometry.channels;
                for span in &spans {
                    let n = span.hi - span.lo;
                    copy(s, &self.x[window + span.from..][..n], &mut dst[span.to..span.to + n]);
                }
            } else {
                self.pack_border(s, (image, od, oh, ow), &spans, dst);
            }
            ow += 1;
            if ow == width.output {
                ow = 0;
                line += 1;
            }
        }
    }
}
