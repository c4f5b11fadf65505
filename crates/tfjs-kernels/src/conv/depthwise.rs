use std::ops::Range;

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
            return Tensor::new(shape, out);
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
        Tensor::new(shape, out)
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

/// Neighbouring outputs computed together: they share the loads of the filter.
const TILE: usize = 8;

impl Kernel for Lines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.geometry.axes[2];
        let interior = width.interior();
        for line in self.lines.clone() {
            let mut ow = 0;
            while ow < width.output {
                // Columns whose window leaves the image are done one at a time.
                let n = if interior.contains(&ow) { (interior.end - ow).min(TILE) } else { 1 };
                let args = Columns { line, ow, part: &self };
                match n {
                    TILE => s.vectorize(Tile::<TILE>(args)),
                    4..TILE => s.vectorize(Tile::<4>(args)),
                    2..4 => s.vectorize(Tile::<2>(args)),
                    _ => s.vectorize(Tile::<1>(args)),
                }
                ow += match n {
                    TILE => TILE,
                    4..TILE => 4,
                    2..4 => 2,
                    _ => 1,
                };
            }
        }
    }
}

struct Columns<'a, 'b> {
    line: usize,
    ow: usize,
    part: &'b Lines<'a>,
}

/// `T` outputs of a line, all channels. With more than one, the window of each is inside the image sideways.
struct Tile<'a, 'b, const T: usize>(Columns<'a, 'b>);

impl<const T: usize> Kernel for Tile<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Columns { line, ow, part } = self.0;
        let Lines { x, geometry, filter, finish, .. } = *part;
        let [_, height, width] = geometry.axes;
        let channels = geometry.channels;
        let (image, oh) = (line / height.output, line % height.output);
        let (in_h, in_w) = (height.inside(oh), width.inside(ow));
        let row = line * width.output + ow;
        // SAFETY: each task has lines of its own.
        let out = unsafe { part.out.slice(row * channels..(row + T) * channels) };
        let clamp = finish.activation.range();
        let early = Finish { bias: None, ..*finish }.is_clamp();
        let (lo, hi) = clamp.filter(|_| early).unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi) = (s.splat(lo), s.splat(hi));
        let weights = filter.data.as_slice().as_ptr();
        let step = width.stride * channels;
        for c in (0..channels).step_by(S::LANES) {
            let n = (channels - c).min(S::LANES);
            let mut acc = [s.zero(); T];
            for kh in in_h.clone() {
                let base = (image * height.input + height.cell(oh, kh)) * width.input;
                for kw in in_w.clone() {
                    let cell = base + width.cell(ow, kw);
                    // SAFETY: the filter's rows are padded to whole vectors.
                    let w = unsafe { s.load_ptr(weights.add((kh * width.window + kw) * filter.stride + c)) };
                    let from = x.as_ptr().wrapping_add(cell * channels + c);
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let from = from.wrapping_add(t * step);
                        // SAFETY: `inside` and `interior` keep the cells of all `T` windows in the image, whose size
                        // `run` checked; of a last part of a vector only the channels that exist are read.
                        let v = unsafe {
                            if n == S::LANES { s.load_ptr(from) } else { s.load_part_ptr(from, n) }
                        };
                        *acc = s.fma(v, w, *acc);
                    }
                }
            }
            let bias = match finish.bias {
                Some(bias) => s.load_part(&bias[c..c + n]),
                None => s.zero(),
            };
            for (t, acc) in acc.iter().enumerate() {
                let y = if early {
                    let y = if finish.bias.is_some() { s.add(*acc, bias) } else { *acc };
                    s.min(hi, s.max(lo, y))
                } else {
                    *acc
                };
                s.store_part(&mut out[t * channels + c..t * channels + c + n], y);
            }
        }
        if !early {
            for (t, cells) in out.chunks_exact_mut(channels).enumerate() {
                finish.apply(s, row + t, 0, cells);
            }
        }
    }
}
