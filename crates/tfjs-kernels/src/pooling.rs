//! Pooling as TensorFlow defines it: padding is never part of a window.

use crate::{
    DataFormat, KernelError, Padding, Result, Shape, Tensor,
    geometry::{self, Geometry},
    par, pool,
    simd::{self, Isa, Kernel, Simd},
};

/// How a pooling window moves over images of `D` spatial dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSpec<const D: usize> {
    /// Size of the window.
    pub window: [usize; D],
    /// Steps between outputs, in image cells.
    pub strides: [usize; D],
    /// What surrounds the image.
    pub padding: Padding<D>,
    /// Where image and result have their channels.
    pub data_format: DataFormat,
}

/// A window on an image.
pub type Pool2dSpec = PoolSpec<2>;
/// A window on a volume.
pub type Pool3dSpec = PoolSpec<3>;

impl<const D: usize> PoolSpec<D> {
    pub(crate) fn geometry(&self, image: &[usize]) -> Result<Geometry> {
        Geometry::new(image, self.window, self.strides, [1; D], self.padding, self.data_format)
    }

    /// Shape of the result for an image of this shape.
    ///
    /// # Errors
    /// When the image has another rank than `D + 2`, an argument is out of range or the window does not fit.
    pub fn output_shape(&self, image: &[usize]) -> Result<Shape> {
        let geometry = self.geometry(image)?;
        geometry.output_shape::<D>(geometry.channels, self.data_format)
    }
}

/// The largest value in each window of `image: [batch, height, width, channels]`. NaN is passed over; a window without
/// numbers gives negative infinity.
///
/// # Errors
/// When the image is not `float32` or has another rank, an argument is out of range or the window does not fit.
pub fn max_pool2d(image: &Tensor, spec: &Pool2dSpec) -> Result<Tensor> {
    pool::<2, Max>(image, spec)
}

/// As [`max_pool2d`] for `image: [batch, depth, height, width, channels]`.
///
/// # Errors
/// Those of [`max_pool2d`].
pub fn max_pool3d(image: &Tensor, spec: &Pool3dSpec) -> Result<Tensor> {
    pool::<3, Max>(image, spec)
}

/// The mean of each window of `image: [batch, height, width, channels]`, over its cells inside the image.
///
/// # Errors
/// Those of [`max_pool2d`].
pub fn avg_pool2d(image: &Tensor, spec: &Pool2dSpec) -> Result<Tensor> {
    pool::<2, Mean>(image, spec)
}

/// As [`avg_pool2d`] for `image: [batch, depth, height, width, channels]`.
///
/// # Errors
/// Those of [`max_pool2d`].
pub fn avg_pool3d(image: &Tensor, spec: &Pool3dSpec) -> Result<Tensor> {
    pool::<3, Mean>(image, spec)
}

/// The largest value in each window, and where it is: `(row · width + column) · channels + channel` (`int32`), plus the
/// image's number times its size if `include_batch_in_index`. Of equal values the first counts; NaN only if it is
/// the window's first cell.
///
/// # Errors
/// Those of [`max_pool2d`]; also when an index does not fit `int32`.
pub fn max_pool_with_argmax(
    image: &Tensor,
    spec: &Pool2dSpec,
    include_batch_in_index: bool,
) -> Result<(Tensor, Tensor)> {
    let geometry = spec.geometry(image.dims())?;
    let last = geometry.output_shape::<2>(geometry.channels, DataFormat::ChannelsLast)?;
    if spec.data_format == DataFormat::ChannelsFirst {
        return Err(KernelError::Argument {
            what: "the data format",
            got: "channels first".to_owned(),
            expected: "channels last, the only one that positions are defined for",
        });
    }
    if image.len() > i32::MAX as usize {
        return Err(KernelError::TooLarge { shape: image.shape().to_string() });
    }
    let x = image.typed::<f32>("the image")?.data();
    let (mut best, mut at) = (pool::zeros(last.checked_len()?), pool::zeros(last.checked_len()?));
    let [_, height, width] = geometry.axes;
    let channels = geometry.channels;
    let line = width.output * channels;
    if !best.is_empty() {
        par::for_each_chunk2((&mut best, line), (&mut at, line), |line, best, at| {
            let (image, oh) = (line / height.output, line % height.output);
            let offset = image * geometry.input_cells() * channels;
            for (ow, (best, at)) in
                best.chunks_exact_mut(channels).zip(at.chunks_exact_mut(channels)).enumerate()
            {
                let mut first = true;
                for kh in height.inside(oh) {
                    for kw in width.inside(ow) {
                        let cell = (height.cell(oh, kh) * width.input + width.cell(ow, kw)) * channels;
                        let values = &x[offset + cell..][..channels];
                        for (c, (&x, (best, at))) in
                            values.iter().zip(best.iter_mut().zip(at.iter_mut())).enumerate()
                        {
                            if first || x > *best {
                                *best = x;
                                *at = (cell + c + if include_batch_in_index { offset } else { 0 }) as i32;
                            }
                        }
                        first = false;
                    }
                }
            }
        });
    }
    Ok((Tensor::from_buffer(last.clone(), best)?, Tensor::from_buffer(last, at)?))
}

fn pool<const D: usize, R: Reduce>(image: &Tensor, spec: &PoolSpec<D>) -> Result<Tensor> {
    let geometry = spec.geometry(image.dims())?;
    let shape = geometry.output_shape::<D>(geometry.channels, DataFormat::ChannelsLast)?;
    if spec.data_format == DataFormat::ChannelsFirst {
        let last = PoolSpec { data_format: DataFormat::ChannelsLast, ..*spec };
        return geometry::channels_first(&pool::<D, R>(&geometry::channels_last(image)?, &last)?);
    }
    let x = image.typed::<f32>("the image")?.data();
    let mut out = pool::buffer(shape.checked_len()?);
    let line = geometry.axes[2].output * geometry.channels;
    if !out.is_empty() {
        let isa = Isa::current();
        let chunk = (par::GRAIN * 4 / (line * geometry.taps()).max(1)).max(1);
        par::for_each_chunk(&mut out, chunk * line, |start, out| {
            let first = start / line;
            simd::dispatch_on(isa, Lines { x, geometry: &geometry, first, out, reduce: R::default() });
        });
    }
    Tensor::from_buffer(shape, out)
}

/// How the cells of a window become one.
trait Reduce: Copy + Default + Send + Sync {
    const START: f32;
    fn add<S: Simd>(self, s: S, sum: S::F32, x: S::F32) -> S::F32;
    fn finish<S: Simd>(self, s: S, sum: S::F32, count: S::F32) -> S::F32;
}

#[derive(Clone, Copy, Default)]
struct Max;

impl Reduce for Max {
    // As TensorFlow: a window of −∞ gives the lowest finite number.
    const START: f32 = f32::MIN;
    #[inline(always)]
    fn add<S: Simd>(self, s: S, sum: S::F32, x: S::F32) -> S::F32 {
        // `max` gives its second operand when either is NaN.
        s.max(x, sum)
    }
    #[inline(always)]
    fn finish<S: Simd>(self, _: S, sum: S::F32, _: S::F32) -> S::F32 {
        sum
    }
}

#[derive(Clone, Copy, Default)]
struct Mean;

impl Reduce for Mean {
    const START: f32 = 0.0;
    #[inline(always)]
    fn add<S: Simd>(self, s: S, sum: S::F32, x: S::F32) -> S::F32 {
        s.add(sum, x)
    }
    #[inline(always)]
    fn finish<S: Simd>(self, s: S, sum: S::F32, count: S::F32) -> S::F32 {
        s.div(sum, count)
    }
}

/// Some lines of the output.
struct Lines<'a, R> {
    x: &'a [f32],
    geometry: &'a Geometry,
    first: usize,
    out: &'a mut [f32],
    reduce: R,
}

/// Vectors of channels reduced together, so that each row of the image is read in long runs.
const GROUP: usize = 4;

impl<R: Reduce> Kernel for Lines<'_, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Lines { x, geometry, first, out, reduce } = self;
        let [depth, height, width] = geometry.axes;
        let channels = geometry.channels;
        for (i, out) in out.chunks_exact_mut(width.output * channels).enumerate() {
            let line = first + i;
            let oh = line % height.output;
            let od = line / height.output % depth.output;
            let image = line / height.output / depth.output;
            let (in_d, in_h) = (depth.inside(od), height.inside(oh));
            for (ow, out) in out.chunks_exact_mut(channels).enumerate() {
                let in_w = width.inside(ow);
                let count = s.splat((in_d.len() * in_h.len() * in_w.len()) as f32);
                let mut c = 0;
                while c < channels {
                    let wide = channels - c >= GROUP * S::LANES;
                    let step = if wide { GROUP * S::LANES } else { (channels - c).min(S::LANES) };
                    let mut sum = [s.splat(R::START); GROUP];
                    for kd in in_d.clone() {
                        for kh in in_h.clone() {
                            let row = (image * depth.input + depth.cell(od, kd)) * height.input
                                + height.cell(oh, kh);
                            for kw in in_w.clone() {
                                let cell = (row * width.input + width.cell(ow, kw)) * channels + c;
                                let values = &x[cell..cell + step];
                                if wide {
                                    for (j, sum) in sum.iter_mut().enumerate() {
                                        *sum = reduce.add(s, *sum, s.load(&values[j * S::LANES..]));
                                    }
                                } else {
                                    sum[0] = reduce.add(s, sum[0], s.load_part(values));
                                }
                            }
                        }
                    }
                    let out = &mut out[c..c + step];
                    if wide {
                        for (j, &sum) in sum.iter().enumerate() {
                            s.store(&mut out[j * S::LANES..], reduce.finish(s, sum, count));
                        }
                    } else {
                        s.store_part(out, reduce.finish(s, sum[0], count));
                    }
                    c += step;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Pool2dSpec, Pool3dSpec, avg_pool2d, avg_pool3d, max_pool_with_argmax, max_pool2d, max_pool3d,
    };
    use crate::{
        DataFormat, Padding, Tensor,
        geometry::{channels_first, channels_last},
        simd::Isa,
        testing::{assert_close, noise},
    };

    fn spec(window: [usize; 2], strides: [usize; 2], padding: Padding) -> Pool2dSpec {
        Pool2dSpec { window, strides, padding, data_format: DataFormat::ChannelsLast }
    }

    const SAME: Padding = Padding::Same;
    const VALID: Padding = Padding::Valid;

    #[test]
    fn pooling_matches_double_precision_on_every_unit() {
        for channels in [1, 3, 16, 37, 130] {
            let x = Tensor::new([2, 7, 9, channels], noise(2 * 7 * 9 * channels, 1)).unwrap();
            let data = x.data::<f32>().unwrap();
            for padding in [SAME, VALID, Padding::Explicit([[1, 0], [1, 1]])] {
                for (window, strides) in
                    [([2, 2], [2, 2]), ([3, 3], [1, 2]), ([7, 7], [7, 7]), ([1, 4], [3, 1])]
                {
                    let spec = spec(window, strides, padding);
                    let shape = spec.output_shape(x.dims()).unwrap();
                    let a = spec.geometry(x.dims()).unwrap().axes;
                    let (mut max, mut mean) =
                        (vec![f64::from(f32::MIN); shape.elements()], vec![0.0; shape.elements()]);
                    for i in 0..shape.elements() {
                        let (c, ow) = (i % channels, i / channels % shape[2]);
                        let (oh, b) =
                            (i / channels / shape[2] % shape[1], i / channels / shape[2] / shape[1]);
                        let mut count = 0;
                        for h in 0..7isize {
                            for w in 0..9isize {
                                let dh = h + a[1].before as isize - (oh * strides[0]) as isize;
                                let dw = w + a[2].before as isize - (ow * strides[1]) as isize;
                                if (0..window[0] as isize).contains(&dh)
                                    && (0..window[1] as isize).contains(&dw)
                                {
                                    let v = data[((b * 7 + h as usize) * 9 + w as usize) * channels + c];
                                    max[i] = max[i].max(f64::from(v));
                                    mean[i] += f64::from(v);
                                    count += 1;
                                }
                            }
                        }
                        mean[i] /= f64::from(count);
                    }
                    for isa in Isa::available() {
                        let what = format!("{isa} {spec:?} {channels}");
                        let got = isa.scope(|| max_pool2d(&x, &spec).unwrap()).unwrap();
                        assert_eq!(got.dims(), &shape[..]);
                        assert_close(got.data().unwrap(), &max, 0.0, &what);
                        let got = isa.scope(|| avg_pool2d(&x, &spec).unwrap()).unwrap();
                        assert_close(got.data().unwrap(), &mean, 1e-6, &what);
                    }
                }
            }
        }
    }

    #[test]
    fn averages_count_only_cells_inside_as_in_tensorflow() {
        // tf.nn.avg_pool2d of TensorFlow 2.19 on this image.
        let x = Tensor::new([1, 3, 3, 1], vec![1.0f32, 5., 5., 5., 2., 5., 0., 0., 0.]).unwrap();
        let got = avg_pool2d(&x, &spec([2, 2], [1, 1], SAME)).unwrap();
        assert_eq!(got.data::<f32>().unwrap(), [3.25, 4.25, 5., 1.75, 1.75, 2.5, 0., 0., 0.]);
        let got = avg_pool2d(&x, &spec([3, 3], [2, 2], SAME)).unwrap();
        assert_eq!(got.data::<f32>().unwrap(), [3.25, 4.25, 1.75, 1.75]);
        // tf.nn.max_pool2d with padding [[0, 0], [1, 1], [1, 0], [0, 0]].
        let got = max_pool2d(&x, &spec([2, 2], [1, 1], Padding::Explicit([[1, 1], [1, 0]]))).unwrap();
        assert_eq!(got.data::<f32>().unwrap(), [1., 5., 5., 5., 5., 5., 5., 5., 5., 0., 0., 0.]);
    }

    #[test]
    fn positions_of_maxima_are_those_of_tensorflow() {
        // tf.nn.max_pool_with_argmax of TensorFlow 2.19; the image has ties everywhere.
        let image = [1.0f32, 5., 5., 5., 2., 5., 0., 0., 0.];
        let x = Tensor::new([2, 3, 3, 1], [image, image].concat()).unwrap();
        let spec = spec([2, 2], [1, 1], SAME);
        let (best, at) = max_pool_with_argmax(&x, &spec, false).unwrap();
        assert_eq!(best.data::<f32>().unwrap()[..9], [5., 5., 5., 5., 5., 5., 0., 0., 0.]);
        assert_eq!(at.data::<i32>().unwrap(), [1, 1, 2, 3, 5, 5, 6, 7, 8, 1, 1, 2, 3, 5, 5, 6, 7, 8]);
        let (_, at) = max_pool_with_argmax(&x, &spec, true).unwrap();
        assert_eq!(
            at.data::<i32>().unwrap(),
            [1, 1, 2, 3, 5, 5, 6, 7, 8, 10, 10, 11, 12, 14, 14, 15, 16, 17]
        );
    }

    #[test]
    fn not_a_number_is_passed_over_as_in_tensorflow() {
        let n = f32::NAN;
        let spec = spec([2, 2], [2, 2], VALID);
        for isa in Isa::available() {
            for (at, want) in [(0, 5.0), (1, 5.0), (4, 5.0), (5, 4.0)] {
                let mut data: Vec<f32> = (0..16).map(|i| i as f32).collect();
                data[at] = n;
                let x = Tensor::new([1, 4, 4, 1], data).unwrap();
                let got = isa.scope(|| max_pool2d(&x, &spec).unwrap()).unwrap();
                assert_eq!(got.data::<f32>().unwrap(), [want, 7., 13., 15.]);
                assert!(avg_pool2d(&x, &spec).unwrap().data::<f32>().unwrap()[0].is_nan());
                // With positions a leading NaN stays, any other is passed over.
                let (best, index) = max_pool_with_argmax(&x, &spec, false).unwrap();
                let (best, index) = (best.data::<f32>().unwrap()[0], index.data::<i32>().unwrap()[0]);
                assert_eq!((best.is_nan(), index), if at == 0 { (true, 0) } else { (false, want as i32) });
            }
        }
        let low = Tensor::new([1, 2, 2, 1], vec![f32::NEG_INFINITY; 4]).unwrap();
        assert_eq!(max_pool2d(&low, &spec).unwrap().data::<f32>().unwrap(), [f32::MIN]);
    }

    #[test]
    fn volumes_and_channels_first_go_the_same_way() {
        let x = Tensor::new([1, 3, 4, 5, 6], noise(360, 2)).unwrap();
        let spec3 = Pool3dSpec {
            window: [3, 2, 2],
            strides: [3, 2, 2],
            padding: Padding::Same,
            data_format: DataFormat::ChannelsLast,
        };
        let got = max_pool3d(&x, &spec3).unwrap();
        assert_eq!(got.dims(), [1, 1, 2, 3, 6]);
        // The same maximum in two steps.
        let planes = x.clone().reshape([3, 4, 5, 6]).unwrap();
        let flat = max_pool2d(&planes, &spec([2, 2], [2, 2], SAME)).unwrap();
        let flat = flat.data::<f32>().unwrap();
        let want: Vec<f64> =
            (0..36).map(|i| f64::from(flat[i].max(flat[36 + i]).max(flat[72 + i]))).collect();
        assert_close(got.data().unwrap(), &want, 0.0, "maximum of planes");
        let first3 = Pool3dSpec { data_format: DataFormat::ChannelsFirst, ..spec3 };
        let got = avg_pool3d(&channels_first(&x).unwrap(), &first3).unwrap();
        assert_eq!(channels_last(&got).unwrap(), avg_pool3d(&x, &spec3).unwrap());
    }

    #[test]
    fn empty_images_and_wrong_arguments_do_not_panic() {
        let zeros = |shape: &[usize]| Tensor::zeros(crate::DType::Float32, shape).unwrap();
        let p = spec([2, 2], [1, 1], SAME);
        assert_eq!(max_pool2d(&zeros(&[0, 3, 3, 2]), &p).unwrap().dims(), [0, 3, 3, 2]);
        assert_eq!(max_pool2d(&zeros(&[1, 3, 3, 0]), &p).unwrap().dims(), [1, 3, 3, 0]);
        assert_eq!(
            avg_pool2d(&zeros(&[1, 1, 3, 2]), &spec([2, 2], [1, 1], VALID)).unwrap().dims(),
            [1, 0, 2, 2]
        );
        assert!(max_pool2d(&zeros(&[1, 3, 3, 2]), &spec([5, 5], [1, 1], VALID)).is_err());
        assert!(max_pool2d(&zeros(&[3, 3, 2]), &p).is_err());
        assert!(max_pool2d(&zeros(&[1, 3, 3, 2]), &spec([0, 1], [1, 1], SAME)).is_err());
        assert!(max_pool_with_argmax(&zeros(&[1, 3, 3, 2]), &spec([1, 1], [0, 1], SAME), false).is_err());
    }
}
