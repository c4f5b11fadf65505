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
    let chunk = (par::GRAIN_FLOPS / flops.max(1)).clamp(1, lines.div_ceil(8).max(1));
    let isa = Isa::current();
    let out = Disjoint::new(out);
    par::for_each_range(lines, chunk, |lines| {
        simd::dispatch_on(isa, Lines { x, geometry, filter, out: &out, finish, lines });
    });
}

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
        let width = self.geometry.axes[2];
        let interior = width.interior();
        let part = &self;
        // Neighbouring outputs share the loads of filter and image, as many as registers hold.
        let most = if S::LANES >= 16 { 8 } else { 4 };
        let height = &self.geometry.axes[1];
        let mut rows = SmallVec::<[(usize, usize); 8]>::new();
        for line in self.lines.clone() {
            let (image, oh) = (line / height.output, line % height.output);
            rows.clear();
            rows.extend(
                height.inside(oh).map(|kh| {
                    ((image * height.input + height.cell(oh, kh)) * width.input, kh * width.window)
                }),
            );
            let mut ow = 0;
            while ow < width.output {
                // Columns whose window leaves the image are done one at a time.
                let n = if interior.contains(&ow) { (interior.end - ow).min(most) } else { 1 };
                let kw = width.inside(ow);
                let at = Columns {
                    out: line * width.output + ow,
                    col: width.cell(ow, kw.start),
                    kw,
                    rows: &rows,
                    part,
                };
                ow += match (n, width.window, width.stride, width.dilation) {
                    (8, 3, 1, 1) => s.vectorize(Tile::<8, 3, 1>(at)),
                    (8, 3, 2, 1) => s.vectorize(Tile::<8, 3, 2>(at)),
                    (8, 5, 1, 1) => s.vectorize(Tile::<8, 5, 1>(at)),
                    (8, 5, 2, 1) => s.vectorize(Tile::<8, 5, 2>(at)),
                    (4..8, 3, 1, 1) => s.vectorize(Tile::<4, 3, 1>(at)),
                    (4..8, 3, 2, 1) => s.vectorize(Tile::<4, 3, 2>(at)),
                    (4..8, 5, 1, 1) => s.vectorize(Tile::<4, 5, 1>(at)),
                    (4..8, 5, 2, 1) => s.vectorize(Tile::<4, 5, 2>(at)),
                    (4..=8, ..) => s.vectorize(Tile::<4, 0, 0>(at)),
                    (2..4, ..) => s.vectorize(Tile::<2, 0, 0>(at)),
                    _ => s.vectorize(Tile::<1, 0, 0>(at)),
                };
            }
            let row = line * width.output;
            if !early(self.finish) {
                s.vectorize(Late { part, rows: row..row + width.output });
            }
        }
    }
}

/// Whether bias and activation fit into registers.
fn early(finish: &Finish<'_>) -> bool {
    Finish { bias: None, ..*finish }.is_clamp()
}

/// Where a tile is; worked out before the loop over channels, which divisions would dominate.
struct Columns<'a, 'b> {
    /// First output, counted in cells.
    out: usize,
    /// Column of the first cell inside the image that the first output looks at.
    col: usize,
    /// Positions across the window that are inside.
    kw: Range<usize>,
    /// For each position down the window that is inside: first cell of the image's line, first row of the filter.
    rows: &'b [(usize, usize)],
    part: &'b Lines<'a>,
}

/// `T` outputs of a line, all channels; returns `T`. With more than one, the window of each is inside the image
/// sideways. Windows `KW` wide that move by `STRIDE` have their own code; 0 stands for any.
struct Tile<'a, 'b, const T: usize, const KW: usize, const STRIDE: usize>(Columns<'a, 'b>);

impl<const T: usize, const KW: usize, const STRIDE: usize> Kernel for Tile<'_, '_, T, KW, STRIDE> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let channels = self.0.part.geometry.channels;
        let whole = channels / S::LANES * S::LANES;
        for c in (0..whole).step_by(S::LANES) {
            // SAFETY: the channels exist.
            unsafe { self.channels::<S, false>(s, c, S::LANES) };
        }
        if whole < channels {
            // SAFETY: as above.
            unsafe { self.channels::<S, true>(s, whole, channels - whole) };
        }
        T
    }
}

impl<const T: usize, const KW: usize, const STRIDE: usize> Tile<'_, '_, T, KW, STRIDE> {
    /// # Safety
    /// Channels `c..c + n` exist, and `n` is a whole vector unless `PART`.
    #[inline(always)]
    unsafe fn channels<S: Simd, const PART: bool>(&self, s: S, c: usize, n: usize) {
        let Columns { out, col, ref kw, rows, part } = self.0;
        let Lines { x, geometry, filter, finish, .. } = *part;
        let width = &geometry.axes[2];
        let channels = geometry.channels;
        let step = width.stride * channels;
        let mut acc = [s.zero(); T];
        // SAFETY: `inside` and `interior` keep the cells of all `T` windows in the image, whose size `run` checked, and
        // of a part of a vector only the channels that exist are touched; the filter's rows are padded to whole
        // vectors; each task writes lines of its own.
        unsafe {
            for &(line, tap) in rows {
                let from = x.as_ptr().add((line + col) * channels + c);
                let weights = filter.data.as_slice().as_ptr().add((tap + kw.start) * filter.stride + c);
                if KW == 0 {
                    for kw in 0..kw.len() {
                        let w = s.load_ptr(weights.add(kw * filter.stride));
                        let from = from.add(kw * width.dilation * channels);
                        for (t, acc) in acc.iter_mut().enumerate() {
                            *acc = s.fma(load::<S, PART>(s, from.add(t * step), n), w, *acc);
                        }
                    }
                } else {
                    // The window is wholly inside: each cell is loaded once for all outputs that it belongs to.
                    let mut w = [s.zero(); 5];
                    for (kw, w) in w.iter_mut().enumerate().take(KW) {
                        *w = s.load_ptr(weights.add(kw * filter.stride));
                    }
                    let mut v = [s.zero(); 19];
                    for (i, v) in v.iter_mut().enumerate().take((T - 1) * STRIDE + KW) {
                        *v = load::<S, PART>(s, from.add(i * channels), n);
                    }
                    for (t, acc) in acc.iter_mut().enumerate() {
                        for kw in 0..KW {
                            *acc = s.fma(v[t * STRIDE + kw], w[kw], *acc);
                        }
                    }
                }
            }
            let out = part.out.ptr().add(out * channels + c);
            let range = if early(finish) { finish.activation.range() } else { None };
            for (t, &acc) in acc.iter().enumerate() {
                let mut y = acc;
                if let Some((lo, hi)) = range {
                    if let Some(bias) = finish.bias {
                        y = s.add(y, load::<S, PART>(s, bias.as_ptr().add(c), n));
                    }
                    y = s.min(s.splat(hi), s.max(s.splat(lo), y));
                }
                let to = out.add(t * channels);
                if PART { s.store_part_ptr(to, n, y) } else { s.store_ptr(to, y) }
            }
        }
    }
}

/// # Safety
/// `n` floats are readable at `p`, a whole vector unless `PART`.
#[inline(always)]
unsafe fn load<S: Simd, const PART: bool>(s: S, p: *const f32, n: usize) -> S::F32 {
    // SAFETY: the caller's promise.
    unsafe { if PART { s.load_part_ptr(p, n) } else { s.load_ptr(p) } }
}

/// What did not fit into registers, for rows of the output that have just been written.
struct Late<'a, 'b> {
    part: &'b Lines<'a>,
    rows: Range<usize>,
}

impl Kernel for Late<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.part.geometry.channels;
        // SAFETY: each task has lines of its own.
        let out = unsafe { self.part.out.slice(self.rows.start * channels..self.rows.end * channels) };
        for (row, cells) in self.rows.zip(out.chunks_exact_mut(channels)) {
            self.part.finish.apply(s, row, 0, cells);
        }
    }
}
