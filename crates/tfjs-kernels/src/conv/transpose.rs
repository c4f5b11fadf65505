use super::{ConvSpec, check_channels, with_channels_last};
use crate::{
    DataFormat, Epilogue, KernelError, Result, Tensor,
    epilogue::Finish,
    gemm::{self, Matrix, PackedRhs, Target},
    geometry::{self, Axis, Geometry},
    par, pool, scratch,
    simd::{self, Isa, Kernel, Simd},
};

/// The filter of a transposed convolution of `D` spatial dimensions, laid out for the CPU's vector unit.
#[derive(Clone, Debug)]
pub struct TransposedFilter<const D: usize = 2> {
    window: [usize; D],
    out_channels: usize,
    rhs: PackedRhs,
}

impl<const D: usize> TransposedFilter<D> {
    /// Packs a filter of shape `[window.., output channels, input channels]`, the shape that the convolution going the
    /// other way has.
    ///
    /// # Errors
    /// When the filter is not `float32` or has another rank.
    pub fn new(filter: &Tensor) -> Result<TransposedFilter<D>> {
        let typed = filter.typed::<f32>("the filter")?;
        let dims = typed.dims();
        let (Some(&[out_channels, in_channels]), Ok(window)) =
            (dims.last_chunk::<2>(), <[usize; D]>::try_from(&dims[..dims.len().saturating_sub(2)]))
        else {
            return Err(KernelError::Rank {
                what: "the filter",
                got: dims.into(),
                expected: "a dimension per one of space, then output and input channels",
            });
        };
        let columns = window.iter().product::<usize>() * out_channels;
        let rhs = PackedRhs::new(Isa::current(), in_channels, columns, typed.data(), (1, in_channels));
        Ok(TransposedFilter { window, out_channels, rhs })
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }
}

/// Transposed convolution, also known as the gradient of [`super::conv2d`] with respect to its image: scatters each
/// cell of `image: [batch, height, width, channels]`, times the filter, over a result of `output: [height, width]`.
/// `spec` describes the convolution that goes from the result to `image`.
///
/// # Errors
/// When the image is not `float32`, or a convolution of a result of this size would not give an image of this shape.
pub fn conv2d_transpose(
    image: &Tensor,
    filter: &TransposedFilter,
    output: [usize; 2],
    spec: &ConvSpec<2>,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    transpose(image, filter, output, spec, epilogue)
}

/// As [`conv2d_transpose`] with `image: [batch, depth, height, width, channels]` and `output: [depth, height, width]`.
///
/// # Errors
/// Those of [`conv2d_transpose`].
pub fn conv3d_transpose(
    image: &Tensor,
    filter: &TransposedFilter<3>,
    output: [usize; 3],
    spec: &ConvSpec<3>,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    transpose(image, filter, output, spec, epilogue)
}

pub(super) fn transpose<const D: usize>(
    image: &Tensor,
    filter: &TransposedFilter<D>,
    output: [usize; D],
    spec: &ConvSpec<D>,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let Some(dims) = geometry::split::<D>(image.dims(), spec.data_format) else {
        return Err(geometry::rank_error(image.dims(), D));
    };
    check_channels(filter.rhs.rows(), dims.channels)?;
    let shape = |format| geometry::join(dims.batch, output, filter.out_channels, format);
    let geometry = spec.geometry(&shape(spec.data_format), filter.window)?;
    let expected: [usize; D] = std::array::from_fn(|d| geometry.axes[3 - D + d].output);
    if expected != dims.spatial {
        return Err(KernelError::Shapes {
            left: image.shape(),
            right: shape(spec.data_format),
            why: "do not go together: a convolution from the second would not give the first",
        });
    }
    with_channels_last(image, spec, epilogue, |image, epilogue| {
        let x = image.typed::<f32>("the image")?.data();
        let shape = shape(DataFormat::ChannelsLast);
        let mut out = pool::buffer(shape.checked_len()?);
        out.fill(0.0);
        if !out.is_empty() {
            scatter(x, &geometry, filter, &mut out)?;
            epilogue.operands(&shape)?.finish(filter.out_channels).apply_all(&mut out, filter.out_channels);
        }
        Tensor::from_buffer(shape, out)
    })
}

fn scatter<const D: usize>(
    x: &[f32],
    geometry: &Geometry,
    filter: &TransposedFilter<D>,
    out: &mut [f32],
) -> Result<()> {
    let (rows, depth, cols) = (geometry.output_cells(), filter.rhs.rows(), filter.rhs.cols());
    if rows == 0 {
        return Ok(());
    }
    let len = crate::Shape::from([rows, cols]).checked_len()?;
    let per_image = geometry.input_cells() * filter.out_channels;
    let isa = Isa::current();
    scratch::with(len, |products| {
        for (image, out) in out.chunks_exact_mut(per_image).enumerate() {
            let lhs = Matrix { data: &x[image * rows * depth..][..rows * depth], rows, strides: (depth, 1) };
            gemm::gemm(&lhs, &filter.rhs, products, Target { start: 0, stride: cols }, &Finish::default());
            let line = geometry.axes[2].input * filter.out_channels;
            let products = &*products;
            let chunk = (par::GRAIN / line.max(1)).max(1) * line;
            par::for_each_chunk(out, chunk, |start, out| {
                simd::dispatch_on(
                    isa,
                    Gather { products, geometry, channels: filter.out_channels, first: start / line, out },
                );
            });
        }
    });
    Ok(())
}

/// Sums, for whole lines of the result, the products that fall on each cell; in a fixed order.
struct Gather<'a> {
    products: &'a [f32],
    geometry: &'a Geometry,
    channels: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [depth, height, width] = self.geometry.axes;
        let cols = self.geometry.taps() * self.channels;
        let line = width.input * self.channels;
        for (i, out) in self.out.chunks_exact_mut(line).enumerate() {
            let (id, ih) = ((self.first + i) / height.input, (self.first + i) % height.input);
            for (iw, cell) in out.chunks_exact_mut(self.channels).enumerate() {
                for (kd, od) in sources(&depth, id) {
                    for (kh, oh) in sources(&height, ih) {
                        for (kw, ow) in sources(&width, iw) {
                            let row = (od * height.output + oh) * width.output + ow;
                            let tap = (kd * height.window + kh) * width.window + kw;
                            add(s, &self.products[row * cols + tap * self.channels..][..self.channels], cell);
                        }
                    }
                }
            }
        }
    }
}

/// Pairs of a window position and an output whose window has cell `i` there.
#[inline(always)]
pub(super) fn sources(axis: &Axis, i: usize) -> impl Iterator<Item = (usize, usize)> {
    let axis = *axis;
    (0..axis.window).filter_map(move |k| {
        let at = (i + axis.before).checked_sub(k * axis.dilation)?;
        (at % axis.stride == 0 && at / axis.stride < axis.output).then_some((k, at / axis.stride))
    })
}

#[inline(always)]
fn add<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    for at in (0..to.len()).step_by(S::LANES) {
        let end = to.len().min(at + S::LANES);
        let y = s.add(s.load_part(&from[at..end]), s.load_part(&to[at..end]));
        s.store_part(&mut to[at..end], y);
    }
}
