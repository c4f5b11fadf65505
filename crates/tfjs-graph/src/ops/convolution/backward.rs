//! Gradients of convolutions and pooling.
use tfjs_kernels::{
    DType, Tensor,
    conv::{self, Conv2dSpec, ConvSpec},
    gradient,
    pooling::PoolSpec,
};

use super::{Result, data_format, padding, pool, spatial};
use crate::{
    Fact, Op, OpError,
    op::{Build, Inputs, one, simple},
    ops::infer::{choice, dims, dtype, fact, shape_from},
};

type Boxed = Result<Box<dyn Op>>;

fn spec<const D: usize>(b: &Build<'_>) -> Result<ConvSpec<D>> {
    let data_format = data_format::<D>(b)?;
    Ok(ConvSpec {
        strides: spatial("strides", &b.attrs.ints("strides")?, data_format, None)?,
        dilations: spatial("dilations", &b.attrs.ints("dilations")?, data_format, Some(1))?,
        padding: padding(b, data_format)?,
        data_format,
    })
}

/// The shape in input `i`.
fn sizes(x: &Inputs, i: usize, what: &'static str) -> Result<Vec<usize>> {
    let sizes = x.elements::<i32>(i, what)?;
    let wrong = || OpError::input(what, format!("{sizes:?} has a negative size"));
    sizes.iter().map(|&d| usize::try_from(d).map_err(|_| wrong())).collect()
}

fn sized(f: &[Fact], i: usize) -> Result<Vec<Fact>> {
    Ok(vec![fact(Some(DType::Float32), shape_from(f, i))])
}

/// Inputs: image, shape of the filter, gradients.
pub(super) fn filter<const D: usize>(b: &Build<'_>) -> Boxed {
    let spec = spec::<D>(b)?;
    simple(
        move |x| {
            let filter = sizes(x, 1, "filter_sizes")?;
            one(conv::conv_filter_grad(x.tensor(0)?, &filter, x.tensor(2)?, &spec))
        },
        |f| sized(f, 1),
    )
}

/// Inputs: image, shape of the filter, gradients.
pub(super) fn depthwise_filter(b: &Build<'_>) -> Boxed {
    let spec: Conv2dSpec = spec(b)?;
    simple(
        move |x| {
            let filter = sizes(x, 1, "filter_sizes")?;
            one(conv::depthwise_filter_grad(x.tensor(0)?, &filter, x.tensor(2)?, &spec))
        },
        |f| sized(f, 1),
    )
}

/// Inputs: shape of the image, filter, gradients.
pub(super) fn depthwise_input(b: &Build<'_>) -> Boxed {
    let spec: Conv2dSpec = spec(b)?;
    simple(
        move |x| {
            let shape = sizes(x, 0, "input_sizes")?;
            let first = super::first_spatial(spec.data_format);
            let &[height, width] = shape.get(first..first + 2).unwrap_or_default() else {
                return Err(OpError::input("input_sizes", format!("{shape:?} has not four dimensions")));
            };
            let out = conv::depthwise_image_grad(x.tensor(2)?, x.tensor(1)?, [height, width], &spec)?;
            if out.dims() != shape {
                let problem = format!("{shape:?} is not the shape of the result, {}", out.shape());
                return Err(OpError::input("input_sizes", problem));
            }
            one(Ok(out))
        },
        |f| sized(f, 0),
    )
}

/// Inputs: the image, the pooled image, gradients.
pub(super) fn max<const D: usize>(b: &Build<'_>) -> Boxed {
    let spec: PoolSpec<D> = pool::spec(b)?;
    simple(
        move |x| one(gradient::max_pool_grad(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, &spec)),
        |f| Ok(vec![fact(dtype(f, 0), dims(f, 0).map(<[_]>::to_vec))]),
    )
}

/// Inputs: shape of the image, gradients.
pub(super) fn average<const D: usize>(b: &Build<'_>) -> Boxed {
    let spec: PoolSpec<D> = pool::spec(b)?;
    simple(
        move |x| {
            let shape = sizes(x, 0, "orig_input_shape")?;
            one(gradient::avg_pool_grad(&shape, x.tensor(1)?, &spec))
        },
        |f| sized(f, 0),
    )
}

/// Inputs: image, filter, gradients. `part` picks the gradient by one of the first two.
pub(super) fn dilation(b: &Build<'_>, part: fn((Tensor, Tensor)) -> Tensor, like: usize) -> Boxed {
    let data_format = tfjs_kernels::DataFormat::ChannelsLast;
    let options = [("SAME", tfjs_kernels::Padding::Same), ("VALID", tfjs_kernels::Padding::Valid)];
    let spec = Conv2dSpec {
        strides: spatial("strides", &b.attrs.ints("strides")?, data_format, None)?,
        dilations: spatial("rates", &b.attrs.ints("rates")?, data_format, None)?,
        padding: choice(b, "padding", "", &options, "SAME and VALID")?,
        data_format,
    };
    simple(
        move |x| one(gradient::dilation2d_grad(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, &spec).map(part)),
        move |f| Ok(vec![fact(dtype(f, like), dims(f, like).map(<[_]>::to_vec))]),
    )
}
