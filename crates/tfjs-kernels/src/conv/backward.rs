//! Gradients of convolutions.
//!
//! That by the filter is a product too: the patches of the image, turned on their side, times the gradients. That by the
//! image is, where the filter moves in steps of one, a convolution of the gradients with the filter turned around.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    Conv2dSpec, ConvSpec, DepthwiseFilter, PackedFilter, Patches, TransposedFilter, check_channels, conv,
    depthwise_conv2d,
    transpose::{sources, transpose},
};
use crate::{
    DataFormat, Epilogue, KernelError, Padding, Result, Shape, Tensor,
    buffer::Buffer,
    epilogue::Finish,
    gemm::{self, Lhs, PackedRhs, RowsRhs, Target, Turned},
    geometry::{self, Axis, Geometry},
    par, pool,
    simd::{self, Isa, Kernel, Simd},
    slice_join,
};

/// Results up to this many elements are summed in parts, so that each part reads its share of image and gradients once.
const SMALL_FILTER: usize = 1 << 16;
/// Parts that such a sum has.
const PARTS: usize = 16;

fn shapes_differ(left: &Tensor, right: Shape) -> KernelError {
    let why = "do not go together: the convolution would give another shape";
    KernelError::Shapes { left: left.shape(), right, why }
}

/// Gradient of a convolution by its filter, which has the shape `filter: [window.., channels / groups, filters]`.
///
/// `image` is what was convolved, `dy` the gradient of the result, both laid out as `spec` says.
///
/// # Errors
/// When a tensor is not `float32`, or shapes do not go together.
pub fn conv_filter_grad<const D: usize>(
    image: &Tensor,
    filter: &[usize],
    dy: &Tensor,
    spec: &ConvSpec<D>,
) -> Result<Tensor> {
    let (image, dy, spec) = channels_last(image, dy, spec)?;
    let (Ok(window), Some(&[own, filters])) =
        (<[usize; D]>::try_from(&filter[..filter.len().saturating_sub(2)]), filter.last_chunk::<2>())
    else {
        return Err(filter_rank(filter, D));
    };
    let geometry = spec.geometry(image.dims(), window)?;
    if own == 0 || !geometry.channels.is_multiple_of(own) || !filters.is_multiple_of(geometry.channels / own)
    {
        check_channels(own, geometry.channels)?;
    }
    let expected = geometry.output_shape::<D>(filters, DataFormat::ChannelsLast)?;
    if *expected != *dy.dims() {
        return Err(shapes_differ(&dy, expected));
    }
    let shape = Shape::from(filter);
    let len = shape.checked_len()?;
    let (x, g) = (image.typed::<f32>("the image")?.data(), dy.typed::<f32>("the gradients")?.data());
    let (rows, positions) = (geometry.taps() * own, geometry.output_rows());
    if len == 0 || positions == 0 {
        return Tensor::zeros(crate::DType::Float32, shape);
    }
    let isa = Isa::current();
    let groups = geometry.channels / own;
    let each = filters / groups;
    let part = |range: Range<usize>, out: &mut [f32]| {
        for group in 0..groups {
            let patches = Patches::new(x, &geometry, group * own, own);
            let lhs = Turned { inner: Positions { patches, first: range.start }, rows };
            let first = range.start * filters + group * each;
            let target = Target { start: group * each, stride: filters };
            let (g, finish) = (&g[first..], Finish::default());
            match RowsRhs::new(isa, (rows, range.len(), each), g, filters) {
                Some(rhs) => gemm::gemm(&lhs, &rhs, out, target, &finish),
                None => {
                    let rhs = PackedRhs::new(isa, range.len(), each, g, (filters, 1));
                    gemm::gemm(&lhs, &rhs, out, target, &finish);
                }
            }
        }
    };
    let flops = 2 * positions * rows * each;
    let parts = if len > SMALL_FILTER { 1 } else { (flops / par::GRAIN_FLOPS).clamp(1, PARTS) };
    if parts == 1 {
        let mut out = pool::buffer(len);
        part(0..positions, &mut out);
        return Tensor::from_buffer(shape, out);
    }
    let sums = par::map_ranges(positions, positions.div_ceil(parts), |range| {
        let mut out = pool::buffer(len);
        part(range, &mut out);
        out
    });
    Tensor::from_buffer(shape, add_all(sums))
}

/// Patches from a position on.
struct Positions<'a> {
    patches: Patches<'a>,
    first: usize,
}

impl Lhs for Positions<'_> {
    fn rows(&self) -> usize {
        self.patches.rows() - self.first
    }

    fn direct(&self) -> Option<(&[f32], usize)> {
        None
    }

    #[inline(always)]
    fn pack<S: Simd>(&self, s: S, rows: Range<usize>, cols: Range<usize>, dst: &mut [f32], stride: usize) {
        self.patches.pack(s, rows.start + self.first..rows.end + self.first, cols, dst, stride);
    }
}

/// Element by element, in order.
fn add_all(parts: Vec<Buffer<f32>>) -> Buffer<f32> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        sum.iter_mut().zip(&part[..]).for_each(|(a, b)| *a += b);
    }
    sum
}

fn filter_rank(filter: &[usize], d: usize) -> KernelError {
    KernelError::Rank {
        what: "the filter",
        got: filter.into(),
        expected: if d == 3 { "five dimensions" } else { "four dimensions" },
    }
}

fn channels_last<const D: usize>(
    image: &Tensor,
    dy: &Tensor,
    spec: &ConvSpec<D>,
) -> Result<(Tensor, Tensor, ConvSpec<D>)> {
    Ok(match spec.data_format {
        DataFormat::ChannelsLast => (image.clone(), dy.clone(), *spec),
        DataFormat::ChannelsFirst => (
            geometry::channels_last(image)?,
            geometry::channels_last(dy)?,
            ConvSpec { data_format: DataFormat::ChannelsLast, ..*spec },
        ),
    })
}

/// Gradient of a convolution by its image, of spatial size `output` (a transposed convolution of `dy`).
///
/// `filter: [window.., channels / groups, filters]`, `dy` the gradient of the result, laid out as `spec` says.
///
/// # Errors
/// When a tensor is not `float32`, or a convolution of an image of this size would not give the shape of `dy`.
pub fn conv_image_grad<const D: usize>(
    dy: &Tensor,
    filter: &Tensor,
    output: [usize; D],
    channels: Option<usize>,
    spec: &ConvSpec<D>,
) -> Result<Tensor> {
    let typed = filter.typed::<f32>("the filter")?;
    let (Ok(window), Some(&[own, filters])) = (
        <[usize; D]>::try_from(&typed.dims()[..typed.dims().len().saturating_sub(2)]),
        typed.dims().last_chunk::<2>(),
    ) else {
        return Err(filter_rank(typed.dims(), D));
    };
    let channels = channels.unwrap_or(own);
    if own == 0 || !channels.is_multiple_of(own) || !filters.is_multiple_of((channels / own).max(1)) {
        check_channels(own, channels)?;
    }
    let groups = channels.checked_div(own).unwrap_or(1).max(1);
    let Some(dims) = geometry::split::<D>(dy.dims(), spec.data_format) else {
        return Err(geometry::rank_error(dy.dims(), D));
    };
    check_channels(filters, dims.channels)?;
    let image = geometry::join(dims.batch, output, channels, spec.data_format);
    let geometry = spec.geometry(&image, window)?;
    let expected: [usize; D] = std::array::from_fn(|d| geometry.axes[3 - D + d].output);
    if expected != dims.spatial {
        return Err(shapes_differ(dy, image));
    }
    let axes: [Axis; D] = std::array::from_fn(|d| geometry.axes[3 - D + d]);
    if let Some(around) = turned_padding(&axes) {
        let turned = ConvSpec { strides: [1; D], padding: Padding::Explicit(around), ..*spec };
        let filter = turned_filter(typed.data(), window, own, filters, groups)?;
        let packed = PackedFilter::new(&filter, groups)?;
        return conv(dy, &packed, &turned, &Epilogue::default());
    }
    if groups == 1 {
        let filter = TransposedFilter::new(filter)?;
        return transpose(dy, &filter, output, spec, &Epilogue::default());
    }
    let axis = if spec.data_format == DataFormat::ChannelsLast { D as i64 + 1 } else { 1 };
    let dys = slice_join::split(dy.clone(), groups, axis)?;
    let filters = slice_join::split(filter.clone(), groups, D as i64 + 1)?;
    let parts = dys.iter().zip(&filters).map(|(dy, filter)| {
        transpose(dy, &TransposedFilter::new(filter)?, output, spec, &Epilogue::default())
    });
    slice_join::concat(parts.collect::<Result<_>>()?, axis)
}

/// What surrounds the gradients when they are convolved back; `None` where that is not possible.
fn turned_padding<const D: usize>(axes: &[Axis; D]) -> Option<[[usize; 2]; D]> {
    let mut out = [[0; 2]; D];
    for (out, a) in out.iter_mut().zip(axes) {
        let reach = (a.window - 1) * a.dilation;
        let before = reach.checked_sub(a.before)?;
        let after = (a.input + reach).checked_sub(a.output + before)?;
        if a.stride != 1 || a.output == 0 {
            return None;
        }
        *out = [before, after];
    }
    Some(out)
}

/// The filter from the gradients to the image: positions in reverse order, channels and filters exchanged.
fn turned_filter<const D: usize>(
    filter: &[f32],
    window: [usize; D],
    own: usize,
    filters: usize,
    groups: usize,
) -> Result<Tensor> {
    let taps: usize = window.iter().product();
    let (each, channels) = (filters / groups, own * groups);
    let mut out = vec![0.0; taps * each * channels];
    for (tap, out) in out.chunks_exact_mut((each * channels).max(1)).enumerate() {
        let from = &filter[(taps - 1 - tap) * own * filters..][..own * filters];
        for (n, row) in out.chunks_exact_mut(channels.max(1)).enumerate() {
            for (at, w) in row.iter_mut().enumerate() {
                let (group, c) = (at / own, at % own);
                *w = from[c * filters + group * each + n];
            }
        }
    }
    let shape: Shape = window.into_iter().chain([each, channels]).collect();
    Tensor::new(shape, out)
}

/// Gradient of a depthwise convolution by its filter, of shape `filter: [height, width, channels, multiplier]`.
///
/// # Errors
/// Those of [`conv_filter_grad`].
pub fn depthwise_filter_grad(
    image: &Tensor,
    filter: &[usize],
    dy: &Tensor,
    spec: &Conv2dSpec,
) -> Result<Tensor> {
    let (image, dy, spec) = channels_last(image, dy, spec)?;
    let &[height, width, channels, multiplier] = filter else { return Err(filter_rank(filter, 2)) };
    let mut geometry = spec.geometry(image.dims(), [height, width])?;
    check_channels(channels, geometry.channels)?;
    let shape = Shape::from(filter);
    let len = shape.checked_len()?;
    let expected = geometry.output_shape::<2>(channels * multiplier, DataFormat::ChannelsLast)?;
    if *expected != *dy.dims() {
        return Err(shapes_differ(&dy, expected));
    }
    let (x, g) = (image.typed::<f32>("the image")?.data(), dy.typed::<f32>("the gradients")?.data());
    if len == 0 || g.is_empty() {
        return Tensor::zeros(crate::DType::Float32, shape);
    }
    // As the convolution itself: each channel repeated, so that every output channel has one of its own.
    let repeated: Vec<f32>;
    let x = if multiplier == 1 {
        x
    } else {
        repeated = x.iter().flat_map(|&x| std::iter::repeat_n(x, multiplier)).collect();
        geometry.channels *= multiplier;
        &repeated
    };
    let lines = geometry.batch * geometry.axes[1].output;
    let flops = 2 * lines * geometry.axes[2].output * len;
    let parts = (flops / par::GRAIN_FLOPS).clamp(1, PARTS);
    let isa = Isa::current();
    let sums = par::map_ranges(lines, lines.div_ceil(parts), |lines| {
        let mut out = pool::buffer(len);
        simd::dispatch_on(isa, DepthwiseFilterLines { x, g, geometry: &geometry, lines, out: &mut out });
        out
    });
    Tensor::from_buffer(shape, add_all(sums))
}

struct DepthwiseFilterLines<'a> {
    x: &'a [f32],
    g: &'a [f32],
    geometry: &'a Geometry,
    lines: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for DepthwiseFilterLines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let DepthwiseFilterLines { x, g, geometry, lines, out } = self;
        let [_, height, width] = geometry.axes;
        let channels = geometry.channels;
        out.fill(0.0);
        // Outputs whose window has a position inside the image, for each position.
        let columns: Vec<Range<usize>> = (0..width.window)
            .map(|kw| {
                let first = (0..width.output).position(|o| width.inside(o).contains(&kw));
                let last = (0..width.output).rposition(|o| width.inside(o).contains(&kw));
                first.zip(last).map_or(0..0, |(a, b)| a..b + 1)
            })
            .collect();
        let step = width.stride * channels;
        let inner = columns.iter().fold(0..width.output, |a, b| a.start.max(b.start)..a.end.min(b.end));
        for line in lines {
            let (image, oh) = (line / height.output, line % height.output);
            for kh in height.inside(oh) {
                let row = (image * height.input + height.cell(oh, kh)) * width.input;
                if !inner.is_empty() && matches!(width.window, 3 | 5) {
                    let window = width.window * channels;
                    let x = &x[row * channels..][..width.input * channels];
                    let g = &g[line * width.output * channels..][..width.output * channels];
                    let part =
                        Line { x, g, channels, width: &width, columns: &columns, inner: inner.clone() };
                    let sums = &mut out[kh * window..][..window];
                    if width.window == 3 {
                        part.add::<S, 3>(s, sums)
                    } else {
                        part.add::<S, 5>(s, sums)
                    }
                    continue;
                }
                for (kw, columns) in columns.iter().enumerate() {
                    if columns.is_empty() {
                        continue;
                    }
                    let mut from = (row + width.cell(columns.start, kw)) * channels;
                    let mut at = (line * width.output + columns.start) * channels;
                    let tap = (kh * width.window + kw) * channels;
                    let sums = &mut out[tap..tap + channels];
                    for _ in columns.clone() {
                        let (x, g) = (&x[from..from + channels], &g[at..at + channels]);
                        for c in (0..channels).step_by(S::LANES) {
                            let part = c..channels.min(c + S::LANES);
                            let sum = s.fma(
                                s.load_part(&x[part.clone()]),
                                s.load_part(&g[part.clone()]),
                                s.load_part(&sums[part.clone()]),
                            );
                            s.store_part(&mut sums[part], sum);
                        }
                        from += step;
                        at += channels;
                    }
                }
            }
        }
    }
}

/// A line of gradients, and the row of the image that one row of the window saw.
struct Line<'a> {
    x: &'a [f32],
    g: &'a [f32],
    channels: usize,
    width: &'a Axis,
    /// For each position of the window the outputs that have it inside the image.
    columns: &'a [Range<usize>],
    /// The outputs that have all of them; not empty.
    inner: Range<usize>,
}

impl Line<'_> {
    /// Adds to the sums of a row of the window, `[W, channels]`, which stay in registers along the line.
    #[inline(always)]
    fn add<S: Simd, const W: usize>(&self, s: S, sums: &mut [f32]) {
        let lanes = S::LANES;
        let mut c = 0;
        while c + 2 * lanes <= self.channels {
            self.block::<S, W, 2>(s, c, lanes, sums);
            c += 2 * lanes;
        }
        while c < self.channels {
            self.block::<S, W, 1>(s, c, lanes.min(self.channels - c), sums);
            c += lanes;
        }
    }

    /// `V` vectors of channels from `c` on; `n` of the lanes of the last one are channels.
    #[inline(always)]
    fn block<S: Simd, const W: usize, const V: usize>(&self, s: S, c: usize, n: usize, sums: &mut [f32]) {
        let Line { x, g, channels, width, columns, inner } = self;
        let channels = *channels;
        let lanes = S::LANES;
        let starts: [usize; W] = std::array::from_fn(|kw| width.cell(inner.start, kw) * channels + c);
        let step = width.stride * channels;
        let span = (V - 1) * lanes + n;
        assert!(c + span <= channels && n <= lanes && columns.len() == W && sums.len() == W * channels);
        assert!(inner.end * channels <= g.len());
        assert!(starts.iter().all(|at| at + (inner.len() - 1) * step + span <= x.len()));
        let load = |p: &[f32], at: usize, v: usize| {
            debug_assert!(at + span <= p.len());
            // SAFETY: `at + span` is within the slice: above for the inner outputs, below for those at the edges.
            unsafe {
                let p = p.as_ptr().add(at + v * lanes);
                if n == lanes { s.load_ptr(p) } else { s.load_part_ptr(p, n) }
            }
        };
        let mut acc = [[s.zero(); V]; W];
        for (kw, acc) in acc.iter_mut().enumerate() {
            let edges = (columns[kw].start..inner.start).chain(inner.end..columns[kw].end);
            for ow in edges {
                let (from, at) = (width.cell(ow, kw) * channels + c, ow * channels + c);
                assert!(from + span <= x.len() && at + span <= g.len());
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = s.fma(load(x, from, v), load(g, at, v), *acc);
                }
            }
        }
        for i in 0..inner.len() {
            let at = (inner.start + i) * channels + c;
            let g: [S::F32; V] = std::array::from_fn(|v| load(g, at, v));
            for (start, acc) in starts.iter().zip(&mut acc) {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = s.fma(load(x, start + i * step, v), g[v], *acc);
                }
            }
        }
        for (kw, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                let first = kw * channels + c + v * lanes;
                let sums = &mut sums[first..first + n];
                s.store_part(sums, s.add(s.load_part(sums), acc));
            }
        }
    }
}

/// Gradient of a depthwise convolution by its image, of spatial size `output`.
///
/// # Errors
/// Those of [`conv_image_grad`].
pub fn depthwise_image_grad(
    dy: &Tensor,
    filter: &Tensor,
    output: [usize; 2],
    spec: &Conv2dSpec,
) -> Result<Tensor> {
    let typed = filter.typed::<f32>("the filter")?;
    let &[kh, kw, channels, multiplier] = typed.dims() else { return Err(filter_rank(typed.dims(), 2)) };
    let Some(dims) = geometry::split::<2>(dy.dims(), spec.data_format) else {
        return Err(geometry::rank_error(dy.dims(), 2));
    };
    check_channels(channels * multiplier, dims.channels)?;
    let image = geometry::join(dims.batch, output, channels, spec.data_format);
    let geometry = spec.geometry(&image, [kh, kw])?;
    if [geometry.axes[1].output, geometry.axes[2].output] != dims.spatial {
        return Err(shapes_differ(dy, image));
    }
    if multiplier == 1
        && let Some(around) = turned_padding(&[geometry.axes[1], geometry.axes[2]])
    {
        let turned = ConvSpec { strides: [1; 2], padding: Padding::Explicit(around), ..*spec };
        let data: Vec<f32> = typed.data().chunks_exact(channels.max(1)).rev().flatten().copied().collect();
        let filter = DepthwiseFilter::new(&Tensor::new(typed.shape(), data)?)?;
        return depthwise_conv2d(dy, &filter, &turned, &Epilogue::default());
    }
    if spec.data_format == DataFormat::ChannelsFirst {
        let last = ConvSpec { data_format: DataFormat::ChannelsLast, ..*spec };
        let dy = geometry::channels_last(dy)?;
        return geometry::channels_first(&depthwise_image_grad(&dy, filter, output, &last)?);
    }
    let (g, w) = (dy.typed::<f32>("the gradients")?.data(), typed.data());
    let mut out = pool::buffer(image.checked_len()?);
    let line = output[1] * channels;
    if !out.is_empty() {
        let isa = Isa::current();
        let flops = 2 * line * geometry.taps() * multiplier.max(1);
        let chunk = (par::GRAIN_FLOPS / 4 / flops.max(1)).max(1) * line;
        par::for_each_chunk(&mut out, chunk, |start, out| {
            let first = start / line;
            simd::dispatch_on(isa, DepthwiseImageLines { g, w, geometry: &geometry, multiplier, first, out });
        });
    }
    Tensor::from_buffer(image, out)
}

struct DepthwiseImageLines<'a> {
    g: &'a [f32],
    w: &'a [f32],
    geometry: &'a Geometry,
    multiplier: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for DepthwiseImageLines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let DepthwiseImageLines { g, w, geometry, multiplier, first, out } = self;
        let [_, height, width] = geometry.axes;
        let channels = geometry.channels;
        let outputs = channels * multiplier;
        // Which outputs look at a column, and from where in their windows; the same for every line.
        let columns: Vec<SmallVec<[(usize, usize); 4]>> =
            (0..width.input).map(|iw| sources(&width, iw).collect()).collect();
        // Pairs of a row of gradients and a row of the filter that meet in a cell.
        let mut pairs: SmallVec<[(usize, usize); 32]> = SmallVec::new();
        for (i, line) in out.chunks_exact_mut(width.input * channels).enumerate() {
            let (image, ih) = ((first + i) / height.input, (first + i) % height.input);
            let rows: SmallVec<[(usize, usize); 8]> = sources(&height, ih).collect();
            for (columns, cell) in columns.iter().zip(line.chunks_exact_mut(channels)) {
                pairs.clear();
                for &(kh, oh) in &rows {
                    let row = (image * height.output + oh) * width.output;
                    pairs.extend(
                        columns
                            .iter()
                            .map(|&(kw, ow)| ((row + ow) * outputs, (kh * width.window + kw) * outputs)),
                    );
                }
                if multiplier == 1 {
                    let whole = channels - channels % S::LANES;
                    for c in (0..whole).step_by(S::LANES) {
                        let mut sum = s.zero();
                        for &(from, tap) in &pairs {
                            let g = s.load(&g[from + c..from + c + S::LANES]);
                            sum = s.fma(g, s.load(&w[tap + c..tap + c + S::LANES]), sum);
                        }
                        s.store(&mut cell[c..c + S::LANES], sum);
                    }
                    if whole < channels {
                        let part = whole..channels;
                        let mut sum = s.zero();
                        for &(from, tap) in &pairs {
                            let g = s.load_part(&g[from + part.start..from + part.end]);
                            sum = s.fma(g, s.load_part(&w[tap + part.start..tap + part.end]), sum);
                        }
                        s.store_part(&mut cell[part], sum);
                    }
                    continue;
                }
                cell.fill(0.0);
                for &(from, tap) in &pairs {
                    let products = g[from..from + outputs]
                        .chunks_exact(multiplier)
                        .zip(w[tap..tap + outputs].chunks_exact(multiplier))
                        .map(|(g, w)| g.iter().zip(w).map(|(g, w)| g * w).sum::<f32>());
                    cell.iter_mut().zip(products).for_each(|(cell, product)| *cell += product);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{conv_filter_grad, conv_image_grad, depthwise_filter_grad, depthwise_image_grad};
    use crate::{
        DataFormat, Padding, Tensor,
        conv::{Conv2dSpec, ConvSpec},
        geometry::{channels_first, channels_last},
        simd::Isa,
        testing::{assert_close, noise},
    };

    fn tensor(shape: &[usize], seed: u64) -> Tensor {
        Tensor::new(shape, noise(shape.iter().product(), seed)).unwrap()
    }

    /// Gradients by image and filter, cell by cell in double precision. `own` channels of the image per filter; for
    /// depthwise convolutions the filter has one channel per output.
    fn naive(x: &Tensor, w: &Tensor, dy: &Tensor, spec: &Conv2dSpec, depthwise: bool) -> [Vec<f64>; 2] {
        let &[kh, kw, own, last] = w.dims() else { panic!() };
        let g = spec.geometry(x.dims(), [kh, kw]).unwrap();
        let [_, ah, aw] = g.axes;
        let outputs = *dy.dims().last().unwrap();
        let groups = g.channels / own;
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        let (xs, ws, gs) = (x.data::<f32>().unwrap(), w.data::<f32>().unwrap(), dy.data::<f32>().unwrap());
        for (at, &grad) in gs.iter().enumerate() {
            let (n, cell) = (at % outputs, at / outputs);
            let (ow, oh, b) = (cell % aw.output, cell / aw.output % ah.output, cell / aw.output / ah.output);
            for i in ah.inside(oh) {
                for j in aw.inside(ow) {
                    let pixel = (b * ah.input + ah.cell(oh, i)) * aw.input + aw.cell(ow, j);
                    let mut add = |c: usize, tap: usize| {
                        dx[pixel * g.channels + c] += f64::from(grad) * f64::from(ws[tap]);
                        dw[tap] += f64::from(grad) * f64::from(xs[pixel * g.channels + c]);
                    };
                    if depthwise {
                        add(n / last, ((i * kw + j) * own) * last + n);
                    } else {
                        let group = n / (outputs / groups);
                        for c in 0..own {
                            add(group * own + c, ((i * kw + j) * own + c) * last + n);
                        }
                    }
                }
            }
        }
        [dx, dw]
    }

    const WAYS: [([usize; 2], [usize; 2], Padding); 5] = [
        ([1, 1], [1, 1], Padding::Same),
        ([2, 2], [1, 1], Padding::Same),
        ([1, 1], [2, 1], Padding::Valid),
        ([2, 1], [1, 1], Padding::Valid),
        ([1, 1], [1, 1], Padding::Explicit([[0, 3], [2, 4]])),
    ];

    #[test]
    fn gradients_match_double_precision_on_every_unit_and_in_every_layout() {
        for (channels, own, filters) in [(3, 3, 5), (16, 16, 33), (6, 2, 9), (40, 40, 16)] {
            for (strides, dilations, padding) in WAYS {
                let spec = ConvSpec { strides, dilations, padding, data_format: DataFormat::ChannelsLast };
                let (x, w) = (tensor(&[3, 9, 7, channels], 1), tensor(&[3, 2, own, filters], 2));
                let geometry = spec.geometry(x.dims(), [3, 2]).unwrap();
                let shape = geometry.output_shape::<2>(filters, DataFormat::ChannelsLast).unwrap();
                let dy = tensor(&shape, 3);
                let [dx, dw] = naive(&x, &w, &dy, &spec, false);
                for isa in Isa::available() {
                    isa.scope(|| {
                        let what = format!("{isa} {channels} {filters} {spec:?}");
                        let got = conv_filter_grad(&x, w.dims(), &dy, &spec).unwrap();
                        assert_close(got.data::<f32>().unwrap(), &dw, 2e-5, &what);
                        let got = conv_image_grad(&dy, &w, [9, 7], Some(channels), &spec).unwrap();
                        assert_close(got.data::<f32>().unwrap(), &dx, 2e-5, &what);
                    })
                    .unwrap();
                }
                let first = ConvSpec { data_format: DataFormat::ChannelsFirst, ..spec };
                let (xf, dyf) = (channels_first(&x).unwrap(), channels_first(&dy).unwrap());
                let got = conv_filter_grad(&xf, w.dims(), &dyf, &first).unwrap();
                assert_close(got.data::<f32>().unwrap(), &dw, 2e-5, "channels first");
                let got = conv_image_grad(&dyf, &w, [9, 7], Some(channels), &first).unwrap();
                assert_close(
                    channels_last(&got).unwrap().data::<f32>().unwrap(),
                    &dx,
                    2e-5,
                    "channels first",
                );
            }
        }
    }

    #[test]
    fn gradients_of_depthwise_convolutions_match_double_precision_on_every_unit() {
        // Widths of three and five have a way of their own, on inputs as narrow as the window too.
        let windows = [[3, 2], [2, 3], [5, 5], [3, 7]];
        for ((channels, multiplier), [kh, kw]) in
            [(3, 1), (37, 1), (5, 3)].into_iter().flat_map(|c| windows.map(|w| (c, w)))
        {
            for (strides, dilations, padding) in WAYS {
                if (kw - 1) * dilations[1] >= 7 || (kh - 1) * dilations[0] >= 9 {
                    continue;
                }
                let spec = ConvSpec { strides, dilations, padding, data_format: DataFormat::ChannelsLast };
                let (x, w) = (tensor(&[2, 9, 7, channels], 1), tensor(&[kh, kw, channels, multiplier], 2));
                let geometry = spec.geometry(x.dims(), [kh, kw]).unwrap();
                let shape =
                    geometry.output_shape::<2>(channels * multiplier, DataFormat::ChannelsLast).unwrap();
                let dy = tensor(&shape, 3);
                let [dx, dw] = naive(&x, &w, &dy, &spec, true);
                for isa in Isa::available() {
                    isa.scope(|| {
                        let what = format!("{isa} {kh}x{kw} {channels} {multiplier} {spec:?}");
                        let got = depthwise_filter_grad(&x, w.dims(), &dy, &spec).unwrap();
                        assert_close(got.data::<f32>().unwrap(), &dw, 2e-5, &what);
                        let got = depthwise_image_grad(&dy, &w, [9, 7], &spec).unwrap();
                        assert_close(got.data::<f32>().unwrap(), &dx, 2e-5, &what);
                    })
                    .unwrap();
                }
            }
        }
    }

    #[test]
    fn a_long_sum_in_parts_has_the_same_bits_on_any_number_of_threads() {
        let (x, dy) = (tensor(&[8, 32, 32, 16], 1), tensor(&[8, 32, 32, 24], 2));
        let spec = ConvSpec { padding: Padding::Same, ..ConvSpec::default() };
        let grad = || conv_filter_grad(&x, &[3, 3, 16, 24], &dy, &spec).unwrap();
        let one = crate::Threads::new(1).unwrap().run(grad);
        let three = crate::Threads::new(3).unwrap().run(grad);
        assert_eq!(one.data::<f32>().unwrap(), three.data::<f32>().unwrap());
        let [_, dw] = naive(&x, &tensor(&[3, 3, 16, 24], 3), &dy, &spec, false);
        assert_close(one.data::<f32>().unwrap(), &dw, 1e-4, "in parts");
    }

    #[test]
    fn shapes_that_do_not_go_together_are_refused() {
        let (x, dy) = (tensor(&[1, 4, 4, 3], 1), tensor(&[1, 4, 4, 2], 2));
        let spec = ConvSpec::default();
        assert!(conv_filter_grad(&x, &[3, 3, 3, 2], &dy, &spec).is_err());
        assert!(conv_filter_grad(&x, &[1, 1, 2, 2], &dy, &spec).is_err());
        assert!(conv_filter_grad(&x, &[1, 1, 0, 2], &dy, &spec).is_err());
        assert!(conv_filter_grad(&x, &[2], &dy, &spec).is_err());
        assert!(conv_image_grad(&dy, &tensor(&[3, 3, 3, 2], 3), [4, 4], None, &spec).is_err());
        assert!(conv_image_grad(&dy, &tensor(&[1, 1, 3, 5], 3), [4, 4], None, &spec).is_err());
        assert!(depthwise_image_grad(&dy, &tensor(&[3, 3, 3, 1], 3), [4, 4], &spec).is_err());
        assert!(depthwise_filter_grad(&x, &[3, 3, 3, 1], &dy, &spec).is_err());
    }
}
