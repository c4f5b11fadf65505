use std::ops::Range;

use crate::{gemm::Lhs, geometry::Geometry, simd::Simd};

/// The left operand of a convolution: a row per output position, holding the image cells under the filter. Never exists
/// as a whole.
pub(super) struct Patches<'a> {
    x: &'a [f32],
    geometry: &'a Geometry,
    /// First channel of the group, and number of channels in it.
    first: usize,
    channels: usize,
}

impl<'a> Patches<'a> {
    pub(super) fn new(x: &'a [f32], geometry: &'a Geometry, first: usize, channels: usize) -> Patches<'a> {
        Patches { x, geometry, first, channels }
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
        let all = self.geometry.channels;
        // Neighbouring cells of a row of the image lie together if they belong to the window wholly.
        let joined = width.dilation == 1 && self.channels == all;
        let (taps, span) = if joined { (1, width.window * all) } else { (width.window, self.channels) };
        let spans = cols.start / span..cols.end.div_ceil(span);
        let (mut ow, mut rest) = (rows.start % width.output, rows.start / width.output);
        for (row, dst) in rows.zip(dst.chunks_mut(stride)) {
            let oh = rest % height.output;
            let od = rest / height.output % depth.output;
            let image = rest / height.output / depth.output;
            debug_assert_eq!(row % width.output, ow);
            let (in_d, in_h, in_w) = (depth.inside(od), height.inside(oh), width.inside(ow));
            for index in spans.clone() {
                let (kh, kd) = (index / taps % height.window, index / taps / height.window);
                // The part of the span that is wanted, and of it the part that is inside the image.
                let at = index * span;
                let (lo, hi) = (at.max(cols.start) - at, (at + span).min(cols.end) - at);
                let outside = !in_d.contains(&kd) || !in_h.contains(&kh);
                let (mut from, mut to) = (lo, lo);
                let mut source = 0;
                if !outside {
                    let line =
                        (image * depth.input + depth.cell(od, kd)) * height.input + height.cell(oh, kh);
                    if joined {
                        if !in_w.is_empty() {
                            from = lo.max(in_w.start * all);
                            to = hi.min(in_w.end * all).max(from);
                            let cell = line * width.input + width.cell(ow, in_w.start);
                            source = cell * all + from - in_w.start * all;
                        }
                    } else if in_w.contains(&(index % taps)) {
                        to = hi;
                        let cell = line * width.input + width.cell(ow, index % taps);
                        source = cell * all + self.first + lo;
                    }
                }
                let out = &mut dst[at + lo - cols.start..at + hi - cols.start];
                if from >= to {
                    fill_zero(s, out);
                } else {
                    let (before, out) = out.split_at_mut(from - lo);
                    let (inside, after) = out.split_at_mut(to - from);
                    fill_zero(s, before);
                    copy(s, &self.x[source..source + inside.len()], inside);
                    fill_zero(s, after);
                }
            }
            ow += 1;
            if ow == width.output {
                ow = 0;
                rest += 1;
            }
        }
    }
}

/// Short copies, for which calling `memcpy` would cost more than copying.
#[inline(always)]
fn copy<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    let mut from = from.chunks_exact(S::LANES);
    let mut to = to.chunks_exact_mut(S::LANES);
    for (x, y) in (&mut from).zip(&mut to) {
        s.store(y, s.load(x));
    }
    if !from.remainder().is_empty() {
        s.store_part(to.into_remainder(), s.load_part(from.remainder()));
    }
}

#[inline(always)]
fn fill_zero<S: Simd>(s: S, to: &mut [f32]) {
    let mut to = to.chunks_exact_mut(S::LANES);
    for y in &mut to {
        s.store(y, s.zero());
    }
    let rest = to.into_remainder();
    if !rest.is_empty() {
        s.store_part(rest, s.zero());
    }
}
