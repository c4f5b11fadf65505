//! Windows that slide over images: convolution and pooling share this.

use crate::{KernelError, Result, Shape, Tensor, buffer::Buffer, pool};

/// What surrounds an image of `D` spatial dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding<const D: usize = 2> {
    /// As much as makes the output `ceil(input / stride)` long; the odd cell goes to the end.
    Same,
    /// None.
    #[default]
    Valid,
    /// Cells before and after, for each spatial dimension.
    Explicit([[usize; 2]; D]),
}

/// Where the channels are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// `[batch, spatial.., channels]`, TensorFlow's `NHWC` and `NDHWC`.
    #[default]
    ChannelsLast,
    /// `[batch, channels, spatial..]`, TensorFlow's `NCHW` and `NCDHW`.
    ChannelsFirst,
}

/// How a window moves along one spatial dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) window: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    /// Padding cells before the image.
    pub(crate) before: usize,
    pub(crate) output: usize,
}

impl Axis {
    /// A dimension of size one that nothing happens to.
    pub(crate) const UNIT: Axis = Axis { input: 1, window: 1, stride: 1, dilation: 1, before: 0, output: 1 };

    fn new(input: usize, window: usize, stride: usize, dilation: usize, padding: Pad) -> Result<Axis> {
        // Sizes come from files: 2^31 keeps every sum and product below in range.
        let limit = 1usize << 31;
        let (before, after) = match padding {
            Pad::Explicit([before, after]) => (before, after),
            Pad::Same | Pad::Valid => (0, 0),
        };
        for (what, got) in [("the stride", stride), ("the dilation", dilation), ("the window", window)] {
            if got == 0 || got >= limit {
                return Err(KernelError::Argument {
                    what,
                    got: got.to_string(),
                    expected: "at least 1 and below 2^31",
                });
            }
        }
        for (what, got) in [("the padding", before), ("the padding", after), ("the image size", input)] {
            if got >= limit {
                return Err(KernelError::Argument { what, got: got.to_string(), expected: "below 2^31" });
            }
        }
        let reach = (window as u64 - 1) * dilation as u64 + 1;
        let (before, output) = match padding {
            Pad::Same => {
                let output = input.div_ceil(stride);
                let covered = (output as u64).saturating_sub(1) * stride as u64 + reach;
                (covered.saturating_sub(input as u64) / 2, output as u64)
            }
            Pad::Valid | Pad::Explicit(_) => {
                let cells = (input + before + after) as u64;
                // As TensorFlow: a window that is too large by less than a stride gives an empty output.
                if cells + 2 * stride as u64 <= reach {
                    return Err(KernelError::Window { window: reach, cells });
                }
                (before as u64, (cells + stride as u64).saturating_sub(reach) / stride as u64)
            }
        };
        Ok(Axis { input, window, stride, dilation, before: before as usize, output: output as usize })
    }

    /// The positions in the window that lie inside the image when the window is at output `o`.
    #[inline(always)]
    pub(crate) fn inside(&self, o: usize) -> std::ops::Range<usize> {
        let start = o * self.stride;
        let lo = if start >= self.before { 0 } else { (self.before - start).div_ceil(self.dilation) };
        let end = self.input + self.before;
        let hi = if start >= end { 0 } else { (end - start).div_ceil(self.dilation).min(self.window) };
        lo.min(hi)..hi
    }

    /// The image cell under position `w` of the window at output `o`, which must be inside.
    #[inline(always)]
    pub(crate) fn cell(&self, o: usize, w: usize) -> usize {
        o * self.stride + w * self.dilation - self.before
    }

    /// The outputs whose whole window is inside the image.
    pub(crate) fn interior(&self) -> std::ops::Range<usize> {
        let reach = (self.window - 1) * self.dilation;
        let lo = self.before.div_ceil(self.stride).min(self.output);
        let hi = match (self.input + self.before).checked_sub(reach + 1) {
            Some(last) => (last / self.stride + 1).min(self.output),
            None => 0,
        };
        lo..hi.max(lo)
    }

    /// Whether outputs and inputs are the same cells.
    pub(crate) fn is_identity(&self) -> bool {
        self.window == 1 && self.stride == 1 && self.before == 0 && self.output == self.input
    }
}

#[derive(Clone, Copy)]
enum Pad {
    Same,
    Valid,
    Explicit([usize; 2]),
}

/// A window that slides over a batch of images; two-dimensional images have a depth of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    /// Depth, height, width.
    pub(crate) axes: [Axis; 3],
}

impl Geometry {
    /// # Errors
    /// When the image has another rank than `D + 2`, an argument is out of range, or the window does not fit.
    pub(crate) fn new<const D: usize>(
        image: &[usize],
        window: [usize; D],
        strides: [usize; D],
        dilations: [usize; D],
        padding: Padding<D>,
        format: DataFormat,
    ) -> Result<Geometry> {
        let Some(dims) = split::<D>(image, format) else {
            return Err(rank_error(image, D));
        };
        let mut axes = [Axis::UNIT; 3];
        for d in 0..D {
            let pad = match padding {
                Padding::Same => Pad::Same,
                Padding::Valid => Pad::Valid,
                Padding::Explicit(cells) => Pad::Explicit(cells[d]),
            };
            axes[3 - D + d] = Axis::new(dims.spatial[d], window[d], strides[d], dilations[d], pad)?;
        }
        Ok(Geometry { batch: dims.batch, channels: dims.channels, axes })
    }

    /// Image positions of the output in all images.
    pub(crate) fn output_rows(&self) -> usize {
        self.batch * self.output_cells()
    }

    /// Image positions of the output in one image.
    pub(crate) fn output_cells(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    /// Image positions of the input in one image.
    pub(crate) fn input_cells(&self) -> usize {
        self.axes.iter().map(|a| a.input).product()
    }

    /// Positions in the window.
    pub(crate) fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.window).product()
    }

    /// Shape of the output, checked to fit into memory.
    pub(crate) fn output_shape<const D: usize>(&self, channels: usize, format: DataFormat) -> Result<Shape> {
        let spatial: [usize; D] = std::array::from_fn(|d| self.axes[3 - D + d].output);
        let shape = join(self.batch, spatial, channels, format);
        shape.checked_len()?;
        Ok(shape)
    }
}

/// The dimensions of a batch of images by meaning.
pub(crate) struct Dims<const D: usize> {
    pub(crate) batch: usize,
    pub(crate) spatial: [usize; D],
    pub(crate) channels: usize,
}

/// Takes a shape apart; `None` when it has not `D + 2` dimensions.
pub(crate) fn split<const D: usize>(dims: &[usize], format: DataFormat) -> Option<Dims<D>> {
    let (&batch, rest) = dims.split_first()?;
    let (channels, spatial) = match format {
        DataFormat::ChannelsLast => {
            let (&c, s) = rest.split_last()?;
            (c, s)
        }
        DataFormat::ChannelsFirst => {
            let (&c, s) = rest.split_first()?;
            (c, s)
        }
    };
    Some(Dims { batch, spatial: spatial.try_into().ok()?, channels })
}

/// Puts a shape together.
pub(crate) fn join<const D: usize>(
    batch: usize,
    spatial: [usize; D],
    channels: usize,
    format: DataFormat,
) -> Shape {
    match format {
        DataFormat::ChannelsLast => [batch].into_iter().chain(spatial).chain([channels]).collect(),
        DataFormat::ChannelsFirst => [batch, channels].into_iter().chain(spatial).collect(),
    }
}

pub(crate) fn rank_error(image: &[usize], d: usize) -> KernelError {
    KernelError::Rank {
        what: "the image",
        got: image.into(),
        expected: if d == 3 {
            "five dimensions: batch, three of space, channels"
        } else {
            "four dimensions: batch, two of space, channels"
        },
    }
}

/// Moves the channels to the end: `[batch, channels, spatial..]` to `[batch, spatial.., channels]`.
///
/// # Errors
/// [`KernelError::DType`] unless `float32`, [`KernelError::Rank`] unless it has at least two dimensions.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    let dims = x.dims();
    if dims.len() < 2 {
        return Err(rank_error(dims, 2));
    }
    let shape: Shape = [dims[0]].into_iter().chain(dims[2..].iter().copied()).chain([dims[1]]).collect();
    let cells = dims[2..].iter().product();
    Tensor::from_buffer(shape, swap(x.typed::<f32>("the image")?.data(), dims[0], dims[1], cells))
}

/// Moves the channels to the front: `[batch, spatial.., channels]` to `[batch, channels, spatial..]`.
///
/// # Errors
/// As [`channels_last`].
pub(crate) fn channels_first(x: &Tensor) -> Result<Tensor> {
    let dims = x.dims();
    if dims.len() < 2 {
        return Err(rank_error(dims, 2));
    }
    let (last, spatial) = (dims[dims.len() - 1], &dims[1..dims.len() - 1]);
    let shape: Shape = [dims[0], last].into_iter().chain(spatial.iter().copied()).collect();
    let cells = spatial.iter().product();
    Tensor::from_buffer(shape, swap(x.typed::<f32>("the image")?.data(), dims[0], cells, last))
}

/// Transposes each of `batch` matrices of `rows` by `cols`.
fn swap(x: &[f32], batch: usize, rows: usize, cols: usize) -> Buffer<f32> {
    let mut out = pool::buffer(batch * rows * cols);
    if out.is_empty() {
        return out;
    }
    for (from, to) in x.chunks_exact(rows * cols).zip(out.chunks_exact_mut(rows * cols)) {
        // Blocks, so that the lines read and written stay in the first cache.
        for r0 in (0..rows).step_by(16) {
            for c0 in (0..cols).step_by(16) {
                for c in c0..cols.min(c0 + 16) {
                    for r in r0..rows.min(r0 + 16) {
                        to[c * rows + r] = from[r * cols + c];
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{DataFormat, Geometry, Padding};

    fn output(
        input: usize,
        window: usize,
        stride: usize,
        dilation: usize,
        padding: Padding,
    ) -> Option<usize> {
        let g = Geometry::new(
            &[1, input, 1, 1],
            [window, 1],
            [stride, 1],
            [dilation, 1],
            padding,
            DataFormat::ChannelsLast,
        );
        g.ok().map(|g| g.axes[1].output)
    }

    #[test]
    fn output_sizes_are_those_of_tensorflow() {
        // From tf.nn.conv2d of TensorFlow 2.19.
        assert_eq!(output(3, 4, 1, 1, Padding::Valid), Some(0));
        assert_eq!(output(3, 5, 1, 1, Padding::Valid), None);
        assert_eq!(output(3, 5, 2, 1, Padding::Valid), Some(0));
        assert_eq!(output(224, 3, 2, 1, Padding::Same), Some(112));
        assert_eq!(output(225, 7, 2, 1, Padding::Same), Some(113));
        assert_eq!(output(225, 7, 2, 2, Padding::Valid), Some(107));
        assert_eq!(output(224, 7, 2, 1, Padding::Explicit([[3, 3], [0, 0]])), Some(112));
        assert_eq!(output(0, 3, 1, 1, Padding::Same), Some(0));
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert_eq!(output(3, 0, 1, 1, Padding::Same), None);
        assert_eq!(output(3, 1, 0, 1, Padding::Same), None);
        assert_eq!(output(3, 1, 1, 0, Padding::Same), None);
        assert_eq!(output(3, 1, 1, usize::MAX, Padding::Same), None);
        assert_eq!(output(usize::MAX, 1, 1, 1, Padding::Same), None);
        assert_eq!(output(3, 1, 1, 1, Padding::Explicit([[usize::MAX, usize::MAX], [0, 0]])), None);
    }

    #[test]
    fn inside_and_interior_agree_with_counting() {
        for input in 1..9usize {
            for window in 1..5 {
                for stride in 1..4 {
                    for dilation in 1..3 {
                        for padding in [Padding::Same, Padding::Valid, Padding::Explicit([[2, 1], [0, 0]])] {
                            let Ok(g) = Geometry::new(
                                &[1, input, 1, 1],
                                [window, 1],
                                [stride, 1],
                                [dilation, 1],
                                padding,
                                DataFormat::ChannelsLast,
                            ) else {
                                continue;
                            };
                            let a = g.axes[1];
                            for o in 0..a.output {
                                let valid: Vec<usize> = (0..window)
                                    .filter(|w| {
                                        let at = (o * stride + w * dilation) as isize - a.before as isize;
                                        at >= 0 && (at as usize) < input
                                    })
                                    .collect();
                                assert_eq!(a.inside(o).collect::<Vec<_>>(), valid);
                                assert_eq!(a.interior().contains(&o), valid.len() == window);
                            }
                        }
                    }
                }
            }
        }
    }
}
