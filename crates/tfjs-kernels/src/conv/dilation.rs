use super::{Conv2dSpec, check_channels};
use crate::{
    DataFormat, KernelError, Result, Shape, Tensor,
    geometry::Geometry,
    par, pool,
    simd::{self, Isa, Kernel, Simd},
};

pub(crate) fn dilation_geometry(image: &[usize], filter: &[usize], spec: &Conv2dSpec) -> Result<Geometry> {
    let &[height, width, channels] = filter else {
        return Err(KernelError::Rank {
            what: "the filter",
            got: filter.into(),
            expected: "three dimensions: height, width, channels",
        });
    };
    if spec.data_format != DataFormat::ChannelsLast {
        return Err(KernelError::Argument {
            what: "the data format",
            got: "channels first".to_owned(),
            expected: "channels last, the only one that dilation has",
        });
    }
    let geometry = spec.geometry(image, [height, width])?;
    check_channels(channels, geometry.channels)?;
    Ok(geometry)
}

/// Shape of the result of [`dilation2d`].
///
/// # Errors
/// Those of [`dilation2d`].
pub fn dilation2d_output_shape(image: &[usize], filter: &[usize], spec: &Conv2dSpec) -> Result<Shape> {
    let geometry = dilation_geometry(image, filter, spec)?;
    geometry.output_shape::<2>(geometry.channels, DataFormat::ChannelsLast)
}

/// Grayscale dilation: `output[b, y, x, c] = max(image[b, y·s + i·d, x·s + j·d, c] + filter[i, j, c])` over the
/// window's cells inside the image.
///
/// `image: [batch, height, width, channels]`, `filter: [height, width, channels]`.
///
/// # Errors
/// When a tensor is not `float32`, shapes do not go together or an argument is out of range.
pub fn dilation2d(image: &Tensor, filter: &Tensor, spec: &Conv2dSpec) -> Result<Tensor> {
    let geometry = dilation_geometry(image.dims(), filter.dims(), spec)?;
    let (x, filter) = (image.typed::<f32>("the image")?.data(), filter.typed::<f32>("the filter")?.data());
    let shape = geometry.output_shape::<2>(geometry.channels, DataFormat::ChannelsLast)?;
    let mut out = pool::buffer(shape.checked_len()?);
    let line = geometry.axes[2].output * geometry.channels;
    let isa = Isa::current();
    if !out.is_empty() {
        let chunk = (par::GRAIN / (line * geometry.taps()).max(1)).max(1) * line;
        par::for_each_chunk(&mut out, chunk, |start, out| {
            simd::dispatch_on(isa, Lines { x, filter, geometry: &geometry, first: start / line, out });
        });
    }
    Tensor::from_buffer(shape, out)
}

struct Lines<'a> {
    x: &'a [f32],
    filter: &'a [f32],
    geometry: &'a Geometry,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Lines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [_, height, width] = self.geometry.axes;
        let channels = self.geometry.channels;
        for (i, out) in self.out.chunks_exact_mut(width.output * channels).enumerate() {
            let (image, oh) = ((self.first + i) / height.output, (self.first + i) % height.output);
            for (ow, cell) in out.chunks_exact_mut(channels).enumerate() {
                for c in (0..channels).step_by(S::LANES) {
                    let end = channels.min(c + S::LANES);
                    let mut best = s.splat(f32::MIN);
                    for kh in height.inside(oh) {
                        for kw in width.inside(ow) {
                            let line = image * height.input + height.cell(oh, kh);
                            let at = (line * width.input + width.cell(ow, kw)) * channels;
                            let tap = (kh * width.window + kw) * channels;
                            let x = s.load_part(&self.x[at + c..at + end]);
                            let f = s.load_part(&self.filter[tap + c..tap + end]);
                            // `max` gives its second operand for NaN: NaN is passed over, as TensorFlow does.
                            best = s.max(s.add(x, f), best);
                        }
                    }
                    s.store_part(&mut cell[c..end], best);
                }
            }
        }
    }
}
