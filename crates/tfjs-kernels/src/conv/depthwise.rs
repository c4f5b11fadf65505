use std::ops::Range;

use smallvec::SmallVec;

use super::{Conv2dSpec, check_channels, with_channels_last};
use crate::{
    DataFormat, Epilogue, KernelError, Result, Shape, Tensor,
    epilogue::Finish,
    geometry::Geometry,
    par::{self, Disjoint},
    pool,
    scratch::Aligned,
    simd::{self, Isa, Kernel, MAX_LANES, Simd},
    vecmath::Rect,
};

/// The filter of a depthwise convolution, laid out for vector loads. Make it once per filter.
#[derive(Clone, Debug)]
pub struct DepthwiseFilter {
    window: [usize; 2],
    in_channels: usize,
    multiplier: usize,
    /// A row per position in the window, padded to whole vectors.
    data: Aligned,
    stride: usize,
}

impl DepthwiseFilter {
    /// Packs a filter of shape `[height, width, channels, multiplier]`.
    ///
    /// # Errors
    /// When the filter is not `float32` or has another rank.
    pub fn new(filter: &Tensor) -> Result<DepthwiseFilter> {
        let typed = filter.typed::<f32>("the filter")?;
        let &[height, width, in_channels, multiplier] = typed.dims() else {
            return Err(KernelError::Rank {
                what: "the filter",
                got: typed.shape(),
                expected: "four dimensions: height, width, channels, multiplier",
            });
        };
        let channels = in_channels * multiplier;
        let stride = channels.next_multiple_of(MAX_LANES);
        let mut data = Aligned::zeroed(height * width * stride);
        if channels > 0 {
            for (to, from) in
                data.as_mut_slice().chunks_exact_mut(stride).zip(typed.data().chunks_exact(channels))
            {
                to[..channels].copy_from_slice(from);
            }
        }
        Ok(DepthwiseFilter { window: [height, width], in_channels, multiplier, data, stride })
    }

    /// Channels of the image.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.in_channels * self.multiplier
    }
}

/// Shape of a depthwise convolution's result.
///
/// # Errors
/// Those of [`depthwise_conv2d`].
pub fn depthwise_output_shape(image: &[usize], filter: &[usize], spec: &Conv2dSpec) -> Result<Shape> {
    let &[height, width, channels, multiplier] = filter else {
        return Err(KernelError::Rank {
            what: "the filter",
            got: filter.into(),
            expected: "four dimensions: height, width, channels, multiplier",
        });
    };
    let out = channels
        .checked_mul(multiplier)
        .ok_or_else(|| KernelError::TooLarge { shape: format!("{filter:?}") })?;
    spec.geometry(image, [height, width])?.output_shape::<2>(out, spec.data_format)
}

/// Depthwise convolution: `output[b, y, x, c·m + q] = Σ image[b, y·s + i·d, x·s + j·d, c] · filter[i, j, c, q]` for
/// multiplier `m`, then the epilogue.
///
/// `image: [batch, height, width, channels]`, or with the channels second as `spec` says (see [`super::conv2d`]).
///
/// # Errors
/// When the image is not `float32`, shapes do not go together, an argument is out of range, or the result would be too
/// large.
pub fn depthwise_conv2d(
    image: &Tensor,
    filter: &DepthwiseFilter,
    spec: &Conv2dSpec,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let mut geometry = spec.geometry(image.dims(), filter.window)?;
    check_channels(filter.in_channels, geometry.channels)?;
    geometry.output_shape::<2>(filter.out_channels(), spec.data_format)?;
    with_channels_last(image, spec, epilogue, |image, epilogue| {
        let x = image.typed::<f32>("the image")?.data();
        let shape = geometry.output_shape::<2>(filter.out_channels(), DataFormat::ChannelsLast)?;
        let mut out = pool::buffer(shape.checked_len()?);
        if out.is_empty() {
            return Tensor::from_buffer(shape, out);
        }
        let operands = epilogue.operands(&shape)?;
        let finish = operands.finish(filter.out_channels());
        if filter.multiplier == 1 {
            run(x, &geometry, filter, &mut out, &finish);
        } else {
            // Each channel repeated: then every output channel has an input channel of its own.
            let repeated: Vec<f32> =
                x.iter().flat_map(|&x| std::iter::repeat_n(x, filter.multiplier)).collect();
            geometry.channels *= filter.multiplier;
            run(&repeated, &geometry, filter, &mut out, &finish);
        }
        Tensor::from_buffer(shape, out)
    })
}

fn run(x: &[f32], geometry: &Geometry, filter: &DepthwiseFilter, out: &mut [f32], finish: &Finish<'_>) {
    let [_, height, width] = geometry.axes;
    let lines = geometry.batch * height.output;
    let line = width.output * geometry.channels;
    assert!(
        x.len() >= geometry.batch * geometry.input_cells() * geometry.channels && out.len() == lines * line
    );
    assert!(
        filter.stride >= geometry.channels && filter.data.as_slice().len() >= geometry.taps() * filter.stride
    );
    finish.check(lines * width.output, geometry.channels);
    let flops = 2 * line * geometry.taps();
    // An even number, as lines are computed in pairs.
    let chunk = (GRAIN_FLOPS / flops.max(1)).clamp(1, lines.div_ceil(8).max(1)).next_multiple_of(2);
    let isa = Isa::current();
    let out = Disjoint::new(out);
    par::for_each_range(lines, chunk, |lines| {
        simd::dispatch_on(isa, Lines { x, geometry, filter, out: &out, finish, lines });
    });
}

/// Half of what a compute-bound kernel does per chunk: the first cache feeds these at half the speed.
const GRAIN_FLOPS: usize = par::GRAIN_FLOPS / 2;

/// Some lines of the output.
struct Lines<'a> {
    x: &'a [f32],
    geometry: &'a Geometry,
    filter: &'a DepthwiseFilter,
    out: &'a Disjoint<'a, f32>,
    finish: &'a Finish<'a>,
    lines: Range<usize>,
}

impl Kernel for Lines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [_, height, width] = &self.geometry.axes;
        let interior = width.interior();
        // Two lines at a time share most of the image's lines, where registers allow it.
        let pairs = S::GEMM_ROWS > 8;
        let mut rows = SmallVec::<[Row; 16]>::new();
        let mut line = self.lines.start;
        while line < self.lines.end {
            let (image, oh) = (line / height.output, line % height.output);
            let pair = pairs && oh + 1 < height.output && line + 1 < self.lines.end;
            rows.clear();
            let last = if pair { oh + 1 } else { oh };
            // From the first image line under the first window to the last one under the last.
            let from = (oh * height.stride).saturating_sub(height.before);
            let to = (last * height.stride + (height.window - 1) * height.dilation + 1)
                .saturating_sub(height.before)
                .min(height.input);
            for ih in from..to {
                let tap = |oh: usize| {
                    let offset = (ih + height.before).checked_sub(oh * height.stride)?;
                    let tap = offset / height.dilation;
                    (offset.is_multiple_of(height.dilation) && tap < height.window)
                        .then_some(tap * width.window)
                };
                let taps = [tap(oh), if pair { tap(last) } else { None }];
                if taps != [None, None] {
                    rows.push(Row { cell: (image * height.input + ih) * width.input, taps });
                }
            }
            let mut ow = 0;
            while ow < width.output {
                let rest = width.output - ow;
                // The last tile of a line reaches back over what is done already instead of being narrower.
                let (tile, start) = match rest {
                    TILE.. => (TILE, ow),
                    _ if width.output >= TILE => (TILE, width.output - TILE),
                    HALF.. => (HALF, ow),
                    _ if width.output >= HALF => (HALF, width.output - HALF),
                    _ => (1, ow),
                };
                let inside = interior.start <= start && start + tile <= interior.end;
                let at = Columns {
                    out: line * width.output + start,
                    col: (start * width.stride) as isize - width.before as isize,
                    rows: &rows,
                    part: &self,
                };
                match (pair, tile, inside) {
                    (true, TILE, true) if const { S::GEMM_ROWS > 8 } => by_window::<S, 2, TILE, false>(s, at),
                    (true, TILE, false) if const { S::GEMM_ROWS > 8 } => by_window::<S, 2, TILE, true>(s, at),
                    (true, HALF, _) if const { S::GEMM_ROWS > 8 } => by_window::<S, 2, HALF, true>(s, at),
                    (true, ..) if const { S::GEMM_ROWS > 8 } => by_window::<S, 2, 1, true>(s, at),
                    (_, TILE, true) => by_window::<S, 1, TILE, false>(s, at),
                    (_, TILE, false) => by_window::<S, 1, TILE, true>(s, at),
                    (_, HALF, _) => by_window::<S, 1, HALF, true>(s, at),
                    _ => by_window::<S, 1, 1, true>(s, at),
                }
                ow = start + tile;
            }
            line = line - oh + last + 1;
        }
    }
}

/// Outputs of a line that are computed together. The sizes of images that nets work on are multiples of seven.
const TILE: usize = 7;
/// The same for narrower images.
const HALF: usize = 4;

/// Whether bias and activation fit into registers.
fn early(finish: &Finish<'_>) -> bool {
    Finish { bias: None, ..*finish }.is_clamp()
}

/// A line of the image, and the part of the filter that meets it.
struct Row {
    /// First cell of the line.
    cell: usize,
    /// First row of the filter, for each of the two lines of the output.
    taps: [Option<usize>; 2],
}

/// Where a tile is; worked out before the loop over channels, which divisions would dominate.
#[derive(Clone, Copy)]
struct Columns<'a, 'b> {
    /// First output, counted in cells.
    out: usize,
    /// Column of the first cell that the first output looks at; may lie outside the image.
    col: isize,
    rows: &'b [Row],
    part: &'b Lines<'a>,
}

#[inline(always)]
fn by_window<S: Simd, const R: usize, const T: usize, const EDGE: bool>(s: S, at: Columns<'_, '_>) {
    let width = &at.part.geometry.axes[2];
    match (width.window, width.stride, width.dilation) {
        (3, 1, 1) => s.vectorize(Tile::<R, T, 3, 1, EDGE>(at)),
        (3, 2, 1) => s.vectorize(Tile::<R, T, 3, 2, EDGE>(at)),
        (5, 1, 1) => s.vectorize(Tile::<R, T, 5, 1, EDGE>(at)),
        (5, 2, 1) => s.vectorize(Tile::<R, T, 5, 2, EDGE>(at)),
        _ => s.vectorize(Tile::<R, T, 0, 0, EDGE>(at)),
    }
}

/// `T` neighbouring outputs of `R` lines, all channels. Windows `KW` wide that move by `STRIDE` have their own code; 0
/// stands for any. Unless `EDGE`, all windows are inside the image sideways.
struct Tile<'a, 'b, const R: usize, const T: usize, const KW: usize, const STRIDE: usize, const EDGE: bool>(
    Columns<'a, 'b>,
);

impl<const R: usize, const T: usize, const KW: usize, const STRIDE: usize, const EDGE: bool> Kernel
    for Tile<'_, '_, R, T, KW, STRIDE, EDGE>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Columns { out, part, .. } = self.0;
        let channels = part.geometry.channels;
        let whole = channels / S::LANES * S::LANES;
        for c in (0..whole).step_by(S::LANES) {
            // SAFETY: the channels exist.
            unsafe { self.channels::<S, false>(s, c, S::LANES) };
        }
        if whole < channels {
            // SAFETY: as above.
            unsafe { self.channels::<S, true>(s, whole, channels - whole) };
        }
        if !early(part.finish) {
            // What does not fit into registers is done while the tile is in the first cache.
            let late = Finish { bias: None, ..*part.finish };
            for r in 0..R {
                let row = out + r * part.geometry.axes[2].output;
                let at = part.out.ptr().wrapping_add(row * channels);
                let operands = late.first.is_some() || late.residual.is_some() || late.prelu.is_some();
                // The outputs lie in one piece; only operands tell them apart.
                let (m, n) = if operands { (T, channels) } else { (1, T * channels) };
                s.vectorize(Late { finish: &late, row, rect: Rect { at, stride: channels, m, n } });
            }
        }
    }
}

impl<const R: usize, const T: usize, const KW: usize, const STRIDE: usize, const EDGE: bool>
    Tile<'_, '_, R, T, KW, STRIDE, EDGE>
{
    /// # Safety
    /// Channels `c..c + n` exist, and `n` is a whole vector unless `PART`.
    #[inline(always)]
    unsafe fn channels<S: Simd, const PART: bool>(&self, s: S, c: usize, n: usize) {
        let Columns { out, rows, part, .. } = self.0;
        let Lines { geometry, filter, finish, .. } = *part;
        let width = &geometry.axes[2];
        let channels = geometry.channels;
        let mut acc = [[s.zero(); T]; R];
        // SAFETY: as for `line`, and each task writes lines of its own.
        unsafe {
            for row in rows {
                let weights = filter.data.as_slice().as_ptr().add(c);
                let [a, b] = row.taps.map(|tap| weights.add(tap.unwrap_or(0) * filter.stride));
                match row.taps {
                    [Some(_), Some(_)] if R == 2 => {
                        self.line::<S, PART, R>(s, &mut acc, row.cell, [a, b], c, n)
                    }
                    [Some(_), _] => {
                        let mut one = [acc[0]];
                        self.line::<S, PART, 1>(s, &mut one, row.cell, [a; 2], c, n);
                        acc[0] = one[0];
                    }
                    [None, Some(_)] => {
                        let mut one = [acc[R - 1]];
                        self.line::<S, PART, 1>(s, &mut one, row.cell, [b; 2], c, n);
                        acc[R - 1] = one[0];
                    }
                    [None, None] => {}
                }
            }
            let range = if early(finish) { finish.activation.range() } else { None };
            let bias = match finish.bias {
                Some(bias) => load::<S, PART>(s, bias.as_ptr().add(c), n),
                None => s.zero(),
            };
            for (r, acc) in acc.iter().enumerate() {
                let out = part.out.ptr().add((out + r * width.output) * channels + c);
                for (t, &acc) in acc.iter().enumerate() {
                    let mut y = acc;
                    if finish.bias.is_some() {
                        y = s.add(y, bias);
                    }
                    if let Some((lo, hi)) = range {
                        y = s.min(s.splat(hi), s.max(s.splat(lo), y));
                    }
                    let to = out.add(t * channels);
                    if PART { s.store_part_ptr(to, n, y) } else { s.store_ptr(to, y) }
                }
            }
        }
    }

    /// Adds what one line of the image gives to `N` lines of the output, whose rows of the filter start at `weights`.
    /// Each cell is loaded once for all outputs that it belongs to.
    ///
    /// # Safety
    /// Those of [`Tile::channels`], and `cell` and `weights` are those of a [`Row`]. `run` checked the sizes of image
    /// and filter; cells outside the image are not touched, nor channels that do not exist; the filter's rows are padded to
    /// whole vectors.
    #[inline(always)]
    unsafe fn line<S: Simd, const PART: bool, const N: usize>(
        &self,
        s: S,
        acc: &mut [[S::F32; T]; N],
        cell: usize,
        weights: [*const f32; 2],
        c: usize,
        n: usize,
    ) {
        let Columns { col, part, .. } = self.0;
        let Lines { x, geometry, filter, .. } = *part;
        let width = &geometry.axes[2];
        let channels = geometry.channels;
        let line = x.as_ptr().wrapping_add(cell * channels + c);
        let first = line.wrapping_offset(col * channels as isize);
        // SAFETY: the caller's promise.
        unsafe {
            macro_rules! value {
                ($i:expr) => {
                    if EDGE && (col + $i as isize) as usize >= width.input {
                        s.zero()
                    } else {
                        load::<S, PART>(s, first.wrapping_add($i * channels), n)
                    }
                };
            }
            if KW == 0 {
                for kw in 0..width.window {
                    let mut w = [s.zero(); N];
                    for (w, weights) in w.iter_mut().zip(weights) {
                        *w = s.load_ptr(weights.add(kw * filter.stride));
                    }
                    for t in 0..T {
                        let at = t * width.stride + kw * width.dilation;
                        let v = value!(at);
                        for (acc, &w) in acc.iter_mut().zip(&w) {
                            acc[t] = s.fma(v, w, acc[t]);
                        }
                    }
                }
                return;
            }
            let mut w = [[s.zero(); 5]; N];
            for (w, weights) in w.iter_mut().zip(weights) {
                for (kw, w) in w.iter_mut().enumerate().take(KW) {
                    *w = s.load_ptr(weights.add(kw * filter.stride));
                }
            }
            // Written out, as the compiler leaves the longer of these loops as they are, with the sums in memory.
            macro_rules! cells {
                ($($i:literal)*) => { $(
                    if $i < (T - 1) * STRIDE + KW {
                        let v = value!($i);
                        for kw in 0..KW {
                            // The output whose window has this cell at `kw`, if there is one.
                            if $i >= kw && ($i - kw) % STRIDE == 0 && ($i - kw) / STRIDE < T {
                                let t = ($i - kw) / STRIDE;
                                for r in 0..N {
                                    acc[r][t] = s.fma(v, w[r][kw], acc[r][t]);
                                }
                            }
                        }
                    }
                )* };
            }
            const { assert!(KW == 0 || (TILE - 1) * STRIDE + KW <= 17) };
            cells!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
        }
    }
}

/// What is left to do to outputs from `row` on, which have just been written and belong to this task alone.
struct Late<'a> {
    finish: &'a Finish<'a>,
    row: usize,
    rect: Rect,
}

impl Kernel for Late<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the struct's contract.
        unsafe { self.finish.apply_rect(s, self.row, 0, self.rect) };
    }
}

/// # Safety
/// `n` floats are readable at `p`, a whole vector unless `PART`.
#[inline(always)]
unsafe fn load<S: Simd, const PART: bool>(s: S, p: *const f32, n: usize) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe { if PART { s.load_part_ptr(p, n) } else { s.load_ptr(p) } }
}
