//! Convolutions as TensorFlow defines them: correlation of an image with a filter, summed over channels.
//!
//! All go through the matrix product of `crate::gemm`: its left operand is gathered from the image while the product
//! runs, so no intermediate image is built.

use crate::{
    DataFormat, Epilogue, KernelError, Padding, Result, Shape, Tensor,
    epilogue::Finish,
    gemm::{self, PackedRhs, Target},
    geometry::{self, Geometry},
    pool,
    simd::Isa,
};

mod backward;
mod depthwise;
mod dilation;
mod patches;
mod picture;
mod transpose;
mod winograd;

pub use backward::{conv_filter_grad, conv_image_grad, depthwise_filter_grad, depthwise_image_grad};
pub use depthwise::{DepthwiseFilter, depthwise_conv2d, depthwise_output_shape};
pub(crate) use dilation::dilation_geometry;
pub use dilation::{dilation2d, dilation2d_output_shape};
use patches::Patches;
pub use transpose::{TransposedFilter, conv2d_transpose, conv3d_transpose};
use winograd::Winograd;

/// How a filter moves over images of `D` spatial dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSpec<const D: usize> {
    /// Steps between outputs, in image cells.
    pub strides: [usize; D],
    /// Distances between the filter's elements, in image cells.
    pub dilations: [usize; D],
    /// What surrounds the image.
    pub padding: Padding<D>,
    /// Where image and result have their channels.
    pub data_format: DataFormat,
}

/// How a filter moves over an image.
pub type Conv2dSpec = ConvSpec<2>;
/// How a filter moves over a volume.
pub type Conv3dSpec = ConvSpec<3>;

impl<const D: usize> Default for ConvSpec<D> {
    fn default() -> ConvSpec<D> {
        ConvSpec {
            strides: [1; D],
            dilations: [1; D],
            padding: Padding::Valid,
            data_format: DataFormat::ChannelsLast,
        }
    }
}

impl<const D: usize> ConvSpec<D> {
    pub(crate) fn geometry(&self, image: &[usize], window: [usize; D]) -> Result<Geometry> {
        Geometry::new(image, window, self.strides, self.dilations, self.padding, self.data_format)
    }
}

/// The filter of a convolution of `D` spatial dimensions, laid out for the CPU's vector unit. Make it once per filter.
#[derive(Clone, Debug)]
pub struct PackedFilter<const D: usize = 2> {
    window: [usize; D],
    /// Per group.
    in_channels: usize,
    out_channels: usize,
    groups: usize,
    layout: Layout,
}

#[derive(Clone, Debug)]
enum Layout {
    /// The right operand of a product for each group.
    Product(Vec<PackedRhs>),
    /// Transformed, for stride 1 only.
    Winograd(Winograd),
}

impl<const D: usize> PackedFilter<D> {
    /// Packs a filter of shape `[window.., channels / groups, filters]`. With more than one group, the channels of the
    /// image and the filters are cut into that many parts, which are convolved part by part.
    ///
    /// # Errors
    /// When the filter is not `float32` or has another rank, or `groups` does not divide the number of filters.
    pub fn new(filter: &Tensor, groups: usize) -> Result<PackedFilter<D>> {
        PackedFilter::pack(filter, groups, |_, _| None)
    }

    fn pack(
        filter: &Tensor,
        groups: usize,
        transform: impl FnOnce(&[f32], &[usize]) -> Option<Winograd>,
    ) -> Result<PackedFilter<D>> {
        let typed = filter.typed::<f32>("the filter")?;
        let dims = typed.dims();
        let (&[in_channels, out_channels], Ok(window)) = (
            dims.last_chunk::<2>().unwrap_or(&[0, 0]),
            <[usize; D]>::try_from(&dims[..dims.len().saturating_sub(2)]),
        ) else {
            return Err(KernelError::Rank {
                what: "the filter",
                got: dims.into(),
                expected: if D == 3 {
                    "five dimensions: window, input channels, output channels"
                } else {
                    "four dimensions: window, input channels, output channels"
                },
            });
        };
        if groups == 0 || out_channels % groups != 0 {
            return Err(KernelError::Argument {
                what: "the number of groups",
                got: groups.to_string(),
                expected: "a divisor of the number of filters",
            });
        }
        let (k, n) = (window.iter().product::<usize>() * in_channels, out_channels / groups);
        let pack = |g: usize| {
            let from = typed.data().get(g * n..).unwrap_or_default();
            PackedRhs::new(Isa::current(), k, n, from, (out_channels, 1))
        };
        let transformed = if groups == 1 { transform(typed.data(), dims) } else { None };
        let layout = match transformed {
            Some(transformed) => Layout::Winograd(transformed),
            None => Layout::Product((0..groups).map(pack).collect()),
        };
        Ok(PackedFilter { window, in_channels, out_channels, groups, layout })
    }

    /// Channels of the image.
    pub fn in_channels(&self) -> usize {
        self.in_channels * self.groups
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Spatial size.
    pub fn window(&self) -> [usize; D] {
        self.window
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.layout {
            Layout::Product(groups) => groups.iter().map(PackedRhs::bytes).sum(),
            Layout::Winograd(filter) => filter.bytes(),
        }
    }

    #[cfg(test)]
    fn is_transformed(&self) -> bool {
        matches!(self.layout, Layout::Winograd(_))
    }

    /// Whether it can move as `spec` says.
    fn check(&self, spec: &ConvSpec<D>) -> Result<()> {
        let moves = spec.strides.iter().chain(&spec.dilations).any(|&n| n != 1);
        if moves && matches!(self.layout, Layout::Winograd(_)) {
            return Err(KernelError::Argument {
                what: "the filter",
                got: format!("strides {:?}, dilations {:?}", spec.strides, spec.dilations),
                expected: "those for which it was packed: all 1",
            });
        }
        Ok(())
    }
}

impl PackedFilter {
    /// As [`PackedFilter::new`], laid out for convolutions as `spec` says of images of about `height`×`width`: where it
    /// pays, windows of 3×3 are transformed for Winograd's method. Such a filter is refused for other strides.
    ///
    /// # Errors
    /// Those of [`PackedFilter::new`].
    pub fn for_image(
        filter: &Tensor,
        groups: usize,
        spec: &Conv2dSpec,
        [height, width]: [usize; 2],
    ) -> Result<PackedFilter> {
        let last = Conv2dSpec { data_format: DataFormat::ChannelsLast, ..*spec };
        PackedFilter::pack(filter, groups, |data, dims| Winograd::new(data, dims, &last, [height, width]))
    }
}

/// Shape of a convolution's result.
///
/// # Errors
/// When the shapes do not go together, an argument is out of range, or the result would be too large.
pub fn output_shape<const D: usize>(image: &[usize], filter: &[usize], spec: &ConvSpec<D>) -> Result<Shape> {
    let (Ok(window), Some(&out_channels)) =
        (<[usize; D]>::try_from(&filter[..filter.len().saturating_sub(2)]), filter.last())
    else {
        return Err(KernelError::Rank {
            what: "the filter",
            got: filter.into(),
            expected: "a dimension per one of space, then input and output channels",
        });
    };
    spec.geometry(image, window)?.output_shape::<D>(out_channels, spec.data_format)
}

/// Two-dimensional convolution: `output[b, y, x, o] = Σ image[b, y·s + i·d, x·s + j·d, c] · filter[i, j, c, o]`, then
/// the epilogue.
///
/// `image: [batch, height, width, channels]`, or with the channels second as `spec` says. With channels second, a
/// one-dimensional bias is per channel; everything else broadcasts to the result as it is.
///
/// # Errors
/// When the image is not `float32`, shapes do not go together, an argument is out of range, or the result would be too
/// large.
pub fn conv2d(
    image: &Tensor,
    filter: &PackedFilter,
    spec: &Conv2dSpec,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    conv(image, filter, spec, epilogue)
}

/// Three-dimensional convolution; `image: [batch, depth, height, width, channels]`, otherwise as [`conv2d`].
///
/// # Errors
/// Those of [`conv2d`].
pub fn conv3d(
    image: &Tensor,
    filter: &PackedFilter<3>,
    spec: &Conv3dSpec,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    conv(image, filter, spec, epilogue)
}

fn conv<const D: usize>(
    image: &Tensor,
    filter: &PackedFilter<D>,
    spec: &ConvSpec<D>,
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let geometry = spec.geometry(image.dims(), filter.window)?;
    check_channels(filter.in_channels(), geometry.channels)?;
    filter.check(spec)?;
    geometry.output_shape::<D>(filter.out_channels, spec.data_format)?;
    with_channels_last(image, spec, epilogue, |image, epilogue| {
        let x = image.typed::<f32>("the image")?.data();
        let shape = geometry.output_shape::<D>(filter.out_channels, DataFormat::ChannelsLast)?;
        let mut out = pool::buffer(shape.checked_len()?);
        if !out.is_empty() {
            let operands = epilogue.operands(&shape)?;
            run(x, &geometry, filter, &mut out, &operands.finish(filter.out_channels));
        }
        Tensor::from_buffer(shape, out)
    })
}

/// The convolution proper, on images with channels last.
fn run<const D: usize>(
    x: &[f32],
    geometry: &Geometry,
    filter: &PackedFilter<D>,
    out: &mut [f32],
    finish: &Finish<'_>,
) {
    let groups = match &filter.layout {
        Layout::Winograd(filter) => return filter.run(x, geometry, out, finish),
        Layout::Product(groups) => groups,
    };
    if let [rhs] = &groups[..]
        && picture::convolve(x, geometry, rhs, out, finish)
    {
        return;
    }
    for (g, rhs) in groups.iter().enumerate() {
        let lhs = Patches::new(x, geometry, g * filter.in_channels, filter.in_channels);
        let target = Target { start: g * rhs.cols(), stride: filter.out_channels };
        gemm::gemm(&lhs, rhs, out, target, &finish.columns(g * rhs.cols(), rhs.cols()));
    }
}

fn check_channels(expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(KernelError::Channels { expected, got }) }
}

/// Runs `f` on an image with channels last, whatever the format of the one given.
fn with_channels_last<const D: usize>(
    image: &Tensor,
    spec: &ConvSpec<D>,
    epilogue: &Epilogue,
    f: impl FnOnce(&Tensor, &Epilogue) -> Result<Tensor>,
) -> Result<Tensor> {
    match spec.data_format {
        DataFormat::ChannelsLast => f(image, epilogue),
        DataFormat::ChannelsFirst => {
            let y = f(&geometry::channels_last(image)?, &Epilogue::default())?;
            epilogue.with_channels_first::<D>()?.apply(geometry::channels_first(&y)?)
        }
    }
}

#[cfg(test)]
mod tests;
