//! Convolutions and pooling.
mod backward;
mod conv;
mod fused;
mod pool;
mod transpose;

use tfjs_kernels::{DataFormat, KernelError, Padding};

use super::infer::{choice, unsupported};
use crate::{
    OpError,
    op::{Build, OpDef},
};

type Result<T> = std::result::Result<T, OpError>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("AvgPool", 1..=1, pool::average::<2>),
    OpDef::new("AvgPool3D", 1..=1, pool::average::<3>),
    OpDef::new("AvgPool3DGrad", 2..=2, backward::average::<3>),
    OpDef::new("AvgPoolGrad", 2..=2, backward::average::<2>),
    OpDef::new("Conv1D", 2..=2, conv::conv1d),
    OpDef::new("Conv2D", 2..=2, conv::plain),
    OpDef::new("Conv2DBackpropFilter", 3..=3, backward::filter::<2>),
    OpDef::new("Conv2DBackpropInput", 3..=3, transpose::build::<2>),
    OpDef::new("Conv3D", 2..=2, conv::conv3d),
    OpDef::new("Conv3DBackpropFilterV2", 3..=3, backward::filter::<3>),
    OpDef::new("Conv3DBackpropInputV2", 3..=3, transpose::build::<3>),
    OpDef::new("DepthwiseConv2d", 2..=2, conv::depthwise),
    OpDef::new("DepthwiseConv2dNative", 2..=2, conv::depthwise),
    OpDef::new("DepthwiseConv2dNativeBackpropFilter", 3..=3, backward::depthwise_filter),
    OpDef::new("DepthwiseConv2dNativeBackpropInput", 3..=3, backward::depthwise_input),
    OpDef::new("Dilation2D", 2..=2, pool::dilation),
    OpDef::new("Dilation2DBackpropFilter", 3..=3, |b| backward::dilation(b, |g| g.1, 1)),
    OpDef::new("Dilation2DBackpropInput", 3..=3, |b| backward::dilation(b, |g| g.0, 0)),
    OpDef::new("FusedDepthwiseConv2dNative", 2..=5, conv::fused_depthwise),
    OpDef::new("MaxPool", 1..=1, pool::max::<2>),
    OpDef::new("MaxPool3D", 1..=1, pool::max::<3>),
    OpDef::new("MaxPool3DGrad", 3..=3, backward::max::<3>),
    OpDef::new("MaxPoolGrad", 3..=3, backward::max::<2>),
    OpDef::new("MaxPoolV2", 3..=3, pool::max_v2),
    OpDef::new("MaxPoolWithArgmax", 1..=1, pool::max_with_argmax),
    OpDef::new("_FusedConv2D", 2..=8, conv::fused),
];

/// `data_format`, which also says where the spatial dimensions of every list attribute are.
fn data_format<const D: usize>(b: &Build<'_>) -> Result<DataFormat> {
    use DataFormat::{ChannelsFirst, ChannelsLast};
    match D {
        3 => choice(
            b,
            "data_format",
            "NDHWC",
            &[("NDHWC", ChannelsLast), ("NCDHW", ChannelsFirst)],
            "NDHWC and NCDHW",
        ),
        _ => choice(
            b,
            "data_format",
            "NHWC",
            &[("NHWC", ChannelsLast), ("NCHW", ChannelsFirst)],
            "NHWC and NCHW",
        ),
    }
}

/// Index of the first spatial dimension.
fn first_spatial(format: DataFormat) -> usize {
    match format {
        DataFormat::ChannelsLast => 1,
        DataFormat::ChannelsFirst => 2,
    }
}

/// Sizes of the spatial dimensions in a list with an entry per dimension, whose other entries are 1.
fn spatial<const D: usize>(
    name: &'static str,
    list: &[i64],
    format: DataFormat,
    default: Option<usize>,
) -> Result<[usize; D]> {
    if let (true, Some(default)) = (list.is_empty(), default) {
        return Ok([default; D]);
    }
    let expected = "positive sizes, one per dimension, 1 for batch and channels";
    let wrong = || unsupported(name, format!("{list:?}"), expected);
    if list.len() != D + 2 {
        return Err(wrong());
    }
    let first = first_spatial(format);
    let mut out = [1; D];
    for (d, &size) in list.iter().enumerate() {
        let size = usize::try_from(size).ok().filter(|&s| s > 0).ok_or_else(wrong)?;
        if (first..first + D).contains(&d) {
            out[d - first] = size;
        } else if size != 1 {
            return Err(wrong());
        }
    }
    Ok(out)
}

/// `padding` and, where it is `EXPLICIT`, `explicit_paddings`.
fn padding<const D: usize>(b: &Build<'_>, format: DataFormat) -> Result<Padding<D>> {
    let list = b.attrs.ints("explicit_paddings")?;
    let options = [("SAME", Some(Padding::Same)), ("VALID", Some(Padding::Valid)), ("EXPLICIT", None)];
    if let Some(padding) = choice(b, "padding", "", &options, "SAME, VALID and EXPLICIT")? {
        return Ok(padding);
    }
    let wrong = || {
        let expected = "two values from 0 up per dimension, 0 for batch and channels";
        unsupported("explicit_paddings", format!("{list:?}"), expected)
    };
    if list.len() != 2 * (D + 2) {
        return Err(wrong());
    }
    let first = first_spatial(format);
    let mut out = [[0; 2]; D];
    for (d, pair) in list.chunks_exact(2).enumerate() {
        let size = |v: i64| usize::try_from(v).map_err(|_| wrong());
        let pair = [size(pair[0])?, size(pair[1])?];
        if (first..first + D).contains(&d) {
            out[d - first] = pair;
        } else if pair != [0, 0] {
            return Err(wrong());
        }
    }
    Ok(Padding::Explicit(out))
}

/// Shape of a result by the kernel's own rule, when batch size and spatial sizes may be unknown: those it has come from
/// one axis each.
fn shape_with_open_sizes(
    image: Option<&[Option<usize>]>,
    format: DataFormat,
    rule: impl FnOnce(&[usize]) -> tfjs_kernels::Result<tfjs_kernels::Shape>,
) -> Result<Option<Vec<Option<usize>>>> {
    /// Stands for a size that is not known: larger than any window.
    const LARGE: usize = 1 << 16;
    let Some(image) = image else { return Ok(None) };
    if image.is_empty() {
        return Err(OpError::input("input", "it has no dimensions"));
    }
    let channels = match format {
        DataFormat::ChannelsLast => image.len() - 1,
        DataFormat::ChannelsFirst => 1,
    };
    if image.get(channels).copied().flatten().is_none() {
        return Ok(None);
    }
    let size = |(i, d): (usize, &Option<usize>)| d.unwrap_or(if i == 0 { 1 } else { LARGE });
    let known: Vec<usize> = image.iter().enumerate().map(size).collect();
    let mut shape: Vec<Option<usize>> = rule(&known)?.iter().map(|&d| Some(d)).collect();
    for (i, (out, size)) in shape.iter_mut().zip(image).enumerate() {
        if size.is_none() || i == 0 {
            *out = *size;
        }
    }
    Ok(Some(shape))
}

/// Refuses a window larger than the padded image, as TensorFlow's shape inference does.
fn check_window<const D: usize>(
    image: &[usize],
    window: &[usize],
    dilations: [usize; D],
    padding: Padding<D>,
    format: DataFormat,
) -> tfjs_kernels::Result<()> {
    let Some(sizes) = image.get(first_spatial(format)..) else { return Ok(()) };
    for (d, ((&size, &window), dilation)) in sizes.iter().zip(window).zip(dilations).enumerate() {
        let around = match padding {
            Padding::Same => return Ok(()),
            Padding::Valid => 0,
            Padding::Explicit(amounts) => amounts[d][0].saturating_add(amounts[d][1]),
        };
        let reach = window.saturating_sub(1).saturating_mul(dilation).saturating_add(1);
        if size.saturating_add(around) < reach {
            return Err(KernelError::Range {
                what: "the reach of the window",
                got: reach as i64,
                min: 1,
                max: size.saturating_add(around) as i64 + 1,
            });
        }
    }
    Ok(())
}
