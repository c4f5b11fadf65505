//! Pooling and `Dilation2D`.
use tfjs_kernels::{
    DType, DataFormat, Tensor,
    conv::{self, Conv2dSpec},
    pooling::{self, PoolSpec},
};

use super::{Result, check_window, data_format, padding, shape_with_open_sizes, spatial};
use crate::{
    Fact, Op, OpError,
    op::{Build, one, simple, values},
    ops::infer::{choice, dims, dtype, fact, full},
};

type Boxed = Result<Box<dyn Op>>;
type Kernel<const D: usize> = fn(&Tensor, &PoolSpec<D>) -> tfjs_kernels::Result<Tensor>;

/// The kernels for a number of spatial dimensions.
pub(super) trait Kernels<const D: usize> {
    const MAX: Kernel<D>;
    const MEAN: Kernel<D>;
}

/// Carries [`Kernels`].
pub(super) struct Pools;

impl Kernels<2> for Pools {
    const MAX: Kernel<2> = pooling::max_pool2d;
    const MEAN: Kernel<2> = pooling::avg_pool2d;
}

impl Kernels<3> for Pools {
    const MAX: Kernel<3> = pooling::max_pool3d;
    const MEAN: Kernel<3> = pooling::avg_pool3d;
}

pub(super) fn spec<const D: usize>(b: &Build<'_>) -> Result<PoolSpec<D>> {
    let data_format = data_format::<D>(b)?;
    Ok(PoolSpec {
        window: spatial("ksize", &b.attrs.ints("ksize")?, data_format, None)?,
        strides: spatial("strides", &b.attrs.ints("strides")?, data_format, None)?,
        padding: padding(b, data_format)?,
        data_format,
    })
}

pub(super) fn average<const D: usize>(b: &Build<'_>) -> Boxed
where
    Pools: Kernels<D>,
{
    let spec = spec::<D>(b)?;
    simple(
        move |x| {
            check(x.tensor(0)?.dims(), &spec)?;
            one(Pools::MEAN(x.tensor(0)?, &spec))
        },
        move |f| pooled(f, &spec),
    )
}

pub(super) fn max<const D: usize>(b: &Build<'_>) -> Boxed
where
    Pools: Kernels<D>,
{
    let spec = spec::<D>(b)?;
    simple(
        move |x| {
            one(Ok(by_rank(x.tensor(0)?, |x| check(x.dims(), &spec).and_then(|()| Pools::MAX(x, &spec)))?))
        },
        move |f| pooled(f, &spec),
    )
}

/// `MaxPoolV2` has window and strides as inputs.
pub(super) fn max_v2(b: &Build<'_>) -> Boxed {
    let data_format = data_format::<2>(b)?;
    let padding = padding(b, data_format)?;
    simple(
        move |x| {
            let sizes = |i, what| {
                let list: Vec<i64> = x.elements::<i32>(i, what)?.iter().map(|&v| v.into()).collect();
                spatial::<2>(what, &list, data_format, None)
            };
            let spec =
                PoolSpec { window: sizes(1, "ksize")?, strides: sizes(2, "strides")?, padding, data_format };
            one(Ok(by_rank(x.tensor(0)?, |x| {
                check(x.dims(), &spec)?;
                pooling::max_pool2d(x, &spec)
            })?))
        },
        |f| Ok(vec![fact(dtype(f, 0), Some(vec![None; 4]))]),
    )
}

pub(super) fn max_with_argmax(b: &Build<'_>) -> Boxed {
    let spec = spec::<2>(b)?;
    let batch = b.attrs.bool_or("include_batch_in_index", false)?;
    simple(
        move |x| {
            let mut index = None;
            let largest = by_rank(x.tensor(0)?, |x| {
                check(x.dims(), &spec)?;
                let (largest, at) = pooling::max_pool_with_argmax(x, &spec, batch)?;
                index = Some(at);
                Ok(largest)
            })?;
            let index = index.ok_or_else(|| OpError::input("input", "no index came out"))?;
            Ok(values([largest, index]))
        },
        move |f| {
            let mut facts = pooled(f, &spec)?;
            facts.extend(facts.first().map(|f| fact(Some(DType::Int32), f.shape.clone())));
            Ok(facts)
        },
    )
}

/// Refuses a window that is larger than the image.
fn check<const D: usize>(image: &[usize], spec: &PoolSpec<D>) -> tfjs_kernels::Result<()> {
    check_window(image, &spec.window, [1; D], spec.padding, spec.data_format)
}

fn pooled<const D: usize>(f: &[Fact], spec: &PoolSpec<D>) -> Result<Vec<Fact>> {
    let shape = shape_with_open_sizes(dims(f, 0), spec.data_format, |image| {
        check(image, spec)?;
        spec.output_shape(image)
    })?;
    Ok(vec![fact(dtype(f, 0), shape.or_else(|| Some(vec![None; D + 2])))])
}

pub(super) fn dilation(b: &Build<'_>) -> Boxed {
    let data_format = DataFormat::ChannelsLast;
    let options = [("SAME", tfjs_kernels::Padding::Same), ("VALID", tfjs_kernels::Padding::Valid)];
    let spec = Conv2dSpec {
        strides: spatial("strides", &b.attrs.ints("strides")?, data_format, None)?,
        dilations: spatial("rates", &b.attrs.ints("rates")?, data_format, None)?,
        padding: choice(b, "padding", "", &options, "SAME and VALID")?,
        data_format,
    };
    simple(
        move |x| match (x.tensor(0)?, x.tensor(1)?) {
            (Tensor::I32(image), Tensor::I32(filter)) => {
                // Sums of numbers below 2^23 are exact in float32.
                let exact = |t: &tfjs_kernels::TensorOf<i32>| {
                    let small = t.data().iter().all(|v| v.unsigned_abs() < 1 << 23);
                    let floats = t.data().iter().map(|&v| v as f32).collect::<Vec<_>>();
                    if small { Ok(Tensor::new(t.shape(), floats)?) } else { Err(too_large()) }
                };
                let out = conv::dilation2d(&exact(image)?, &exact(filter)?, &spec)?;
                let ints: Vec<i32> = out.data::<f32>()?.iter().map(|&v| v as i32).collect();
                one(Tensor::new(out.shape(), ints))
            }
            (image, filter) => one(conv::dilation2d(image, filter, &spec)),
        },
        move |f| {
            let shape = match full(f, 1) {
                Some(filter) => shape_with_open_sizes(dims(f, 0), spec.data_format, |image| {
                    conv::dilation2d_output_shape(image, &filter, &spec)
                })?,
                None => None,
            };
            Ok(vec![fact(dtype(f, 0), shape.or_else(|| Some(vec![None; 4])))])
        },
    )
}

fn too_large() -> OpError {
    OpError::input("input", "integers from 2^23 up are not supported here")
}

/// Runs a kernel that only compares its values on integers too: on their ranks, which are exact as floats.
fn by_rank(x: &Tensor, mut kernel: impl FnMut(&Tensor) -> tfjs_kernels::Result<Tensor>) -> Result<Tensor> {
    let Tensor::I32(ints) = x else { return Ok(kernel(x)?) };
    let mut sorted = ints.data().to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() >= 1 << 24 {
        return Err(OpError::input("input", "it has too many different integers"));
    }
    let ranks: Vec<f32> = ints.data().iter().map(|v| sorted.partition_point(|s| s < v) as f32).collect();
    let out = kernel(&Tensor::new(ints.shape(), ranks)?)?;
    let back = out.data::<f32>()?.iter().map(|&r| sorted.get(r as usize).copied().unwrap_or(i32::MIN));
    Ok(Tensor::new(out.shape(), back.collect::<Vec<i32>>())?)
}
