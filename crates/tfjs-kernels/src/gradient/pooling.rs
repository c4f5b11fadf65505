//! Gradients of pooling and of grayscale dilation.
use crate::{
    DataFormat, KernelError, Result, Tensor,
    conv::{Conv2dSpec, dilation_geometry},
    geometry::{self, Geometry},
    par, pool,
    pooling::PoolSpec,
    simd::{self, Isa, Kernel, Simd},
};

/// Hands the gradient of each window to its largest cell (the first of equal ones).
///
/// `image` is what was pooled, `pooled` the result, `dy` its gradient; the result has the shape of `image`.
///
/// # Errors
/// When a tensor is not `float32`, or shapes do not go together.
pub fn max_pool_grad<const D: usize>(
    image: &Tensor,
    pooled: &Tensor,
    dy: &Tensor,
    spec: &PoolSpec<D>,
) -> Result<Tensor> {
    if spec.data_format == DataFormat::ChannelsFirst {
        let last = PoolSpec { data_format: DataFormat::ChannelsLast, ..*spec };
        let [image, pooled, dy] = [image, pooled, dy].map(geometry::channels_last);
        return geometry::channels_first(&max_pool_grad(&image?, &pooled?, &dy?, &last)?);
    }
    let geometry = checked(image.dims(), dy, spec)?;
    super::same_shape(pooled, dy)?;
    let x = image.typed::<f32>("the image")?.data();
    let y = pooled.typed::<f32>("the pooled image")?.data();
    let dy = dy.typed::<f32>("the gradients")?.data();
    scatter(&geometry, image, dy, Some((x, y)))
}

/// Spreads the gradient of each window evenly over its cells inside the image. `shape` is that of the image.
///
/// # Errors
/// When a tensor is not `float32`, or shapes do not go together.
pub fn avg_pool_grad<const D: usize>(shape: &[usize], dy: &Tensor, spec: &PoolSpec<D>) -> Result<Tensor> {
    if spec.data_format == DataFormat::ChannelsFirst {
        let last = PoolSpec { data_format: DataFormat::ChannelsLast, ..*spec };
        let mut shape = shape.to_vec();
        if shape.len() > 1 {
            shape[1..].rotate_left(1);
        }
        let dy = geometry::channels_last(dy)?;
        return geometry::channels_first(&avg_pool_grad(&shape, &dy, &last)?);
    }
    let geometry = checked(shape, dy, spec)?;
    let like = crate::Shape::from(shape);
    like.checked_len()?;
    let zeros = Tensor::zeros(crate::DType::Float32, like)?;
    scatter(&geometry, &zeros, dy.typed::<f32>("the gradients")?.data(), None)
}

fn checked<const D: usize>(image: &[usize], dy: &Tensor, spec: &PoolSpec<D>) -> Result<Geometry> {
    let geometry = spec.geometry(image)?;
    let shape = geometry.output_shape::<D>(geometry.channels, DataFormat::ChannelsLast)?;
    if *shape == *dy.dims() {
        return Ok(geometry);
    }
    let why = "do not go together: pooling the first would give another shape";
    Err(KernelError::Shapes { left: image.into(), right: dy.shape(), why })
}

fn scatter(
    geometry: &Geometry,
    image: &Tensor,
    dy: &[f32],
    largest: Option<(&[f32], &[f32])>,
) -> Result<Tensor> {
    let mut out = pool::buffer(image.len());
    let channels = geometry.channels;
    let (inner, outer) = (geometry.input_cells() * channels, geometry.output_cells() * channels);
    let isa = Isa::current();
    if !out.is_empty() {
        par::for_each_chunk(&mut out, inner, |start, out| {
            let i = start / inner;
            let dy = &dy[i * outer..][..outer];
            let largest = largest.map(|(x, y)| (&x[i * inner..][..inner], &y[i * outer..][..outer]));
            simd::dispatch_on(isa, Scatter { geometry, dy, largest, out });
        });
    }
    Tensor::from_buffer(image.shape(), out)
}

/// One image.
struct Scatter<'a> {
    geometry: &'a Geometry,
    dy: &'a [f32],
    largest: Option<(&'a [f32], &'a [f32])>,
    out: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Scatter { geometry, dy, largest, out } = self;
        let [depth, height, width] = geometry.axes;
        let channels = geometry.channels;
        out.fill(0.0);
        for at in 0..geometry.output_cells() {
            let (ow, oh, od) =
                (at % width.output, at / width.output % height.output, at / width.output / height.output);
            let (in_d, in_h, in_w) = (depth.inside(od), height.inside(oh), width.inside(ow));
            let count = s.splat((in_d.len() * in_h.len() * in_w.len()) as f32);
            for c in (0..channels).step_by(S::LANES) {
                let end = channels.min(c + S::LANES);
                let mut rest = s.load_part(&dy[at * channels + c..at * channels + end]);
                let best = match largest {
                    Some((_, y)) => s.load_part(&y[at * channels + c..at * channels + end]),
                    None => {
                        rest = s.div(rest, count);
                        rest
                    }
                };
                for kd in in_d.clone() {
                    for kh in in_h.clone() {
                        let row = depth.cell(od, kd) * height.input + height.cell(oh, kh);
                        for kw in in_w.clone() {
                            let from = (row * width.input + width.cell(ow, kw)) * channels;
                            let cell = from + c..from + end;
                            let share = match largest {
                                Some((x, _)) => {
                                    let hit = s.eq(s.load_part(&x[cell.clone()]), best);
                                    let share = s.select(hit, rest, s.zero());
                                    rest = s.select(hit, s.zero(), rest);
                                    share
                                }
                                None => rest,
                            };
                            let sum = s.add(s.load_part(&out[cell.clone()]), share);
                            s.store_part(&mut out[cell], sum);
                        }
                    }
                }
            }
        }
    }
}

/// Gradients of [`crate::conv::dilation2d`] by image and filter: that of each output goes to the cell of the image, and
/// the element of the filter, whose sum it was.
///
/// # Errors
/// When a tensor is not `float32`, or shapes do not go together.
pub fn dilation2d_grad(
    image: &Tensor,
    filter: &Tensor,
    dy: &Tensor,
    spec: &Conv2dSpec,
) -> Result<(Tensor, Tensor)> {
    let geometry = dilation_geometry(image.dims(), filter.dims(), spec)?;
    let shape = geometry.output_shape::<2>(geometry.channels, DataFormat::ChannelsLast)?;
    if *shape != *dy.dims() {
        let why = "do not go together: dilating the first would give another shape";
        return Err(KernelError::Shapes { left: image.shape(), right: dy.shape(), why });
    }
    let (x, w) = (image.typed::<f32>("the image")?.data(), filter.typed::<f32>("the filter")?.data());
    let dy = dy.typed::<f32>("the gradients")?.data();
    let [_, height, width] = geometry.axes;
    let channels = geometry.channels;
    let (mut dx, mut dw) = (vec![0.0f32; x.len()], vec![0.0f32; w.len()]);
    for (i, &g) in dy.iter().enumerate() {
        let (c, cell) = (i % channels, i / channels);
        let (ow, line) = (cell % width.output, cell / width.output);
        let (oh, b) = (line % height.output, line / height.output);
        let mut best: Option<(f32, usize, usize)> = None;
        for kh in height.inside(oh) {
            for kw in width.inside(ow) {
                let row = b * height.input + height.cell(oh, kh);
                let at = (row * width.input + width.cell(ow, kw)) * channels + c;
                let tap = (kh * width.window + kw) * channels + c;
                let sum = x[at] + w[tap];
                if best.is_none_or(|(most, ..)| sum > most) {
                    best = Some((sum, at, tap));
                }
            }
        }
        if let Some((_, at, tap)) = best {
            dx[at] += g;
            dw[tap] += g;
        }
    }
    Ok((Tensor::new(image.shape(), dx)?, Tensor::new(filter.shape(), dw)?))
}
