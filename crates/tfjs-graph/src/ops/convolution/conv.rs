//! `Conv1D`, `Conv2D`, `Conv3D`, depthwise convolution, and their fused forms.
use std::sync::Arc;

use tfjs_kernels::{
    Activation, DType, DataFormat, Epilogue, Padding, Tensor,
    binary::{self, BinaryOp},
    conv::{self, Conv2dSpec, Conv3dSpec, ConvSpec, DepthwiseFilter, PackedFilter},
};

use super::{Result, check_window, data_format, fused::Fused, padding, shape_with_open_sizes, spatial};
use crate::{
    Cx, Fact, Op,
    op::{Build, Inputs, Values, one},
    ops::arithmetic::broadcast,
    ops::infer::{Dims, choice, dims, fact, full, unsupported},
};

type Boxed = Result<Box<dyn Op>>;

pub(super) fn plain(b: &Build<'_>) -> Boxed {
    Ok(Box::new(Conv2d { spec: spec(b)?, depthwise: false, fused: Fused::default(), filter: None }))
}

pub(super) fn fused(b: &Build<'_>) -> Boxed {
    choice(b, "filter_format", "HWIO", &[("HWIO", ())], "HWIO")?;
    Ok(Box::new(Conv2d { spec: spec(b)?, depthwise: false, fused: Fused::new(b, 2)?, filter: None }))
}

pub(super) fn depthwise(b: &Build<'_>) -> Boxed {
    Ok(Box::new(Conv2d { spec: depthwise_spec(b)?, depthwise: true, fused: Fused::default(), filter: None }))
}

pub(super) fn fused_depthwise(b: &Build<'_>) -> Boxed {
    Ok(Box::new(Conv2d { spec: depthwise_spec(b)?, depthwise: true, fused: Fused::new(b, 2)?, filter: None }))
}

fn spec<const D: usize>(b: &Build<'_>) -> Result<ConvSpec<D>> {
    let data_format = data_format::<D>(b)?;
    Ok(ConvSpec {
        strides: spatial("strides", &b.attrs.ints("strides")?, data_format, None)?,
        dilations: spatial("dilations", &b.attrs.ints("dilations")?, data_format, Some(1))?,
        padding: padding(b, data_format)?,
        data_format,
    })
}

fn depthwise_spec(b: &Build<'_>) -> Result<Conv2dSpec> {
    let spec: Conv2dSpec = spec(b)?;
    // TensorFlow has no other; a file that asks for them was not made by it.
    if spec.strides[0] != spec.strides[1] {
        return Err(unsupported(
            "strides",
            format!("{:?}", spec.strides),
            "equal strides in both directions",
        ));
    }
    Ok(spec)
}

/// A filter laid out for the CPU.
#[derive(Debug)]
enum Filter {
    Full(PackedFilter),
    Depthwise(DepthwiseFilter),
}

/// A filter that was constant, and what a batch norm adds after it.
#[derive(Debug)]
struct Prepared {
    filter: Filter,
    shift: Option<Tensor>,
    /// Whether the channels of the image, and so the number of groups, were known.
    certain: bool,
}

#[derive(Debug, Clone)]
struct Conv2d {
    spec: Conv2dSpec,
    depthwise: bool,
    fused: Fused,
    /// Present when the filter is constant.
    filter: Option<Arc<Prepared>>,
}

impl Conv2d {
    /// Lays out the filter for an image of so many channels, and height and width if they are known; a batch norm's
    /// factor goes into it.
    fn prepare(
        &self,
        channels: usize,
        size: Option<[usize; 2]>,
        filter: &Tensor,
        norm: Option<[&Tensor; 4]>,
    ) -> Result<Prepared> {
        let affine = norm.map(|parts| self.fused.affine(parts)).transpose()?;
        let scaled = match &affine {
            Some((factor, _)) => Some(self.scale(filter, factor)?),
            None => None,
        };
        let filter = scaled.as_ref().unwrap_or(filter);
        let packed = if self.depthwise {
            Filter::Depthwise(DepthwiseFilter::new(filter)?)
        } else {
            // A filter of fewer channels than the image convolves it in groups.
            let groups = match filter.dims().get(2) {
                Some(&own) if own > 0 && channels > own && channels.is_multiple_of(own) => channels / own,
                _ => 1,
            };
            Filter::Full(match size {
                Some(size) => PackedFilter::for_image(filter, groups, &self.spec, size)?,
                None => PackedFilter::new(filter, groups)?,
            })
        };
        let shift = affine.map(|(_, shift)| Tensor::vector(shift));
        Ok(Prepared { filter: packed, shift, certain: false })
    }

    /// `filter · factor` per output channel.
    fn scale(&self, filter: &Tensor, factor: &[f32]) -> Result<Tensor> {
        let outputs = match filter.dims() {
            [_, _, channels, multiplier] if self.depthwise => channels.saturating_mul(*multiplier),
            other => other.last().copied().unwrap_or(0),
        };
        if outputs != factor.len() {
            let problem = format!("{} values for {outputs} channels", factor.len());
            return Err(crate::OpError::input("scale", problem));
        }
        let mut scaled = filter.clone().into_typed::<f32>("the filter")?;
        if outputs > 0 {
            for row in scaled.data_mut().chunks_exact_mut(outputs) {
                row.iter_mut().zip(factor).for_each(|(x, f)| *x *= f);
            }
        }
        Ok(Tensor::F32(scaled))
    }

    fn channels(&self, image: &[usize]) -> usize {
        let at = match self.spec.data_format {
            DataFormat::ChannelsLast => 3,
            DataFormat::ChannelsFirst => 1,
        };
        image.get(at).copied().unwrap_or(0)
    }
}

impl Conv2d {
    /// Takes a residual that the result would be broadcast to, and not the other way round, out of the epilogue, with
    /// the activation after it.
    fn too_large_to_fuse(
        &self,
        image: &[usize],
        filter: &[usize],
        epilogue: &mut Epilogue,
    ) -> Result<Option<(Tensor, Activation)>> {
        let Some(residual) = &epilogue.residual else { return Ok(None) };
        let shape = if self.depthwise {
            conv::depthwise_output_shape(image, filter, &self.spec)?
        } else {
            conv::output_shape(image, filter, &self.spec)?
        };
        let fits = residual.rank() <= shape.len()
            && residual.dims().iter().rev().zip(shape.iter().rev()).all(|(&r, &s)| r == s || r == 1);
        if fits {
            return Ok(None);
        }
        let activation = std::mem::take(&mut epilogue.activation);
        Ok(epilogue.residual.take().map(|residual| (residual, activation)))
    }
}

impl Op for Conv2d {
    fn eval(&self, _cx: &mut Cx<'_>, mut x: Inputs) -> Result<Values> {
        let image = x.take(0)?;
        check::<2>(image.dims(), x.tensor(1)?.dims(), &self.spec)?;
        let channels = self.channels(image.dims());
        let fresh;
        let prepared = match &self.filter {
            Some(p) if !matches!(&p.filter, Filter::Full(f) if f.in_channels() != channels) => p.as_ref(),
            Some(p) if p.certain => {
                return Err(tfjs_kernels::KernelError::Argument {
                    what: "the number of channels",
                    got: channels.to_string(),
                    expected: "that of the filter",
                }
                .into());
            }
            // Not constant, or laid out for another number of groups.
            _ => {
                let norm = match self.fused.batch_norm() {
                    Some(i) => Some([x.tensor(i)?, x.tensor(i + 1)?, x.tensor(i + 2)?, x.tensor(i + 3)?]),
                    None => None,
                };
                // Used once, so not transformed.
                fresh = self.prepare(channels, None, x.tensor(1)?, norm)?;
                &fresh
            }
        };
        let mut epilogue = self.fused.epilogue(&mut x)?;
        if let Some(shift) = &prepared.shift {
            epilogue.bias = Some(shift.clone());
        }
        let late = self.too_large_to_fuse(image.dims(), x.tensor(1)?.dims(), &mut epilogue)?;
        let y = match &prepared.filter {
            Filter::Full(f) => conv::conv2d(&image, f, &self.spec, &epilogue),
            Filter::Depthwise(f) => conv::depthwise_conv2d(&image, f, &self.spec, &epilogue),
        };
        one(match late {
            None => y,
            Some((residual, activation)) => y
                .and_then(|y| binary::binary(BinaryOp::Add, y, residual))
                .and_then(|sum| activation.apply(sum)),
        })
    }

    fn infer(&self, f: &[Fact]) -> Result<Vec<Fact>> {
        let Some(filter) = full(f, 1) else {
            return Ok(vec![fact(Some(DType::Float32), Some(vec![None; 4]))]);
        };
        let shape = shape_with_open_sizes(dims(f, 0), self.spec.data_format, |image| {
            check::<2>(image, &filter, &self.spec)?;
            if self.depthwise {
                conv::depthwise_output_shape(image, &filter, &self.spec)
            } else {
                check_groups(self.channels(image), &filter)?;
                conv::output_shape(image, &filter, &self.spec)
            }
        })?;
        let outputs = match *filter {
            [_, _, c, m] if self.depthwise => c.checked_mul(m),
            [.., n] => Some(n),
            _ => None,
        };
        let mut shape = shape.or_else(|| open_shape(f, outputs, self.spec.data_format, 4));
        if let Some(i) = self.fused.residual() {
            shape = broadcast(shape.as_deref(), dims(f, i))?;
        }
        Ok(vec![fact(Some(DType::Float32), shape)])
    }

    fn holds(&self, index: usize) -> bool {
        index == 1 && self.filter.as_ref().is_some_and(|p| p.certain)
    }

    fn specialize(&self, f: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        let value = |i: usize| f.get(i)?.value.as_ref();
        let Some(filter) = value(1) else { return Ok(None) };
        let norm = match self.fused.batch_norm() {
            None => None,
            Some(i) => match (value(i), value(i + 1), value(i + 2), value(i + 3)) {
                (Some(a), Some(b), Some(c), Some(d)) => Some([a, b, c, d]),
                _ => return Ok(None),
            },
        };
        let (at, height) = match self.spec.data_format {
            DataFormat::ChannelsLast => (3, 1),
            DataFormat::ChannelsFirst => (1, 2),
        };
        let image = |at: usize| dims(f, 0).and_then(|d| *d.get(at)?);
        // Groups are rare: where the image's channels are not known there is one.
        let known = image(at);
        let channels = known.or(filter.dims().get(2).copied()).unwrap_or(0);
        let certain = known.is_some() || self.depthwise;
        let size = image(height).zip(image(height + 1)).map(<[usize; 2]>::from);
        let prepared = Prepared { certain, ..self.prepare(channels, size, filter, norm)? };
        Ok(Some(Box::new(Conv2d { filter: Some(Arc::new(prepared)), ..self.clone() })))
    }
}

/// What is left to know of an output shape when the image's is not known whole.
fn open_shape(f: &[Fact], outputs: Option<usize>, format: DataFormat, rank: usize) -> Dims {
    let mut shape = vec![None; rank];
    shape[0] = dims(f, 0).and_then(|d| *d.first()?);
    shape[if format == DataFormat::ChannelsLast { rank - 1 } else { 1 }] = outputs;
    Some(shape)
}

/// Refuses a filter that is larger than the image.
fn check<const D: usize>(image: &[usize], filter: &[usize], spec: &ConvSpec<D>) -> tfjs_kernels::Result<()> {
    let window = &filter[..filter.len().min(D)];
    check_window(image, window, spec.dilations, spec.padding, spec.data_format)
}

/// The channels of an image must be those of the filter, or a multiple.
fn check_groups(image: usize, filter: &[usize]) -> tfjs_kernels::Result<()> {
    match filter.len().checked_sub(2).map(|at| filter[at]) {
        Some(own) if own == image || (own > 0 && image.is_multiple_of(own)) => Ok(()),
        own => Err(tfjs_kernels::KernelError::Argument {
            what: "the number of channels",
            got: image.to_string(),
            expected: if own.is_some() { "that of the filter" } else { "a filter with channels" },
        }),
    }
}

pub(super) fn conv1d(b: &Build<'_>) -> Boxed {
    choice(b, "data_format", "NWC", &[("NWC", ()), ("NHWC", ())], "NWC")?;
    let positive = |name: &'static str| {
        let got = b.attrs.int_or(name, 1)?;
        usize::try_from(got).ok().filter(|&n| n > 0).ok_or_else(|| unsupported(name, got, "1 or more"))
    };
    let options = [("SAME", Padding::Same), ("VALID", Padding::Valid)];
    let spec = Conv2dSpec {
        strides: [1, positive("stride")?],
        dilations: [1, positive("dilation")?],
        padding: choice(b, "padding", "", &options, "SAME and VALID")?,
        data_format: DataFormat::ChannelsLast,
    };
    Ok(Box::new(Conv1d { spec, filter: None }))
}

/// A convolution of images of height 1.
#[derive(Debug, Clone)]
struct Conv1d {
    spec: Conv2dSpec,
    filter: Option<Arc<PackedFilter>>,
}

/// Inserts a dimension of size 1 at `at`.
fn widened(shape: &[usize], at: usize) -> Vec<usize> {
    let mut wide = shape.to_vec();
    wide.insert(at.min(shape.len()), 1);
    wide
}

impl Op for Conv1d {
    fn eval(&self, _cx: &mut Cx<'_>, mut x: Inputs) -> Result<Values> {
        let image = x.take(0)?;
        let wide = widened(image.dims(), 1);
        check::<2>(&wide, &widened(x.tensor(1)?.dims(), 0), &self.spec)?;
        let image = image.reshape(wide)?;
        let fresh;
        let filter = match &self.filter {
            Some(f) => f.as_ref(),
            None => {
                let filter = x.take(1)?;
                let wide = widened(filter.dims(), 0);
                fresh = PackedFilter::new(&filter.reshape(wide)?, 1)?;
                &fresh
            }
        };
        let out = conv::conv2d(&image, filter, &self.spec, &Epilogue::default())?;
        let shape: Vec<usize> =
            out.dims().iter().enumerate().filter(|(d, _)| *d != 1).map(|(_, &n)| n).collect();
        one(out.reshape(shape))
    }

    fn infer(&self, f: &[Fact]) -> Result<Vec<Fact>> {
        let Some(filter) = full(f, 1) else {
            return Ok(vec![fact(Some(DType::Float32), Some(vec![None; 3]))]);
        };
        let shape = shape_with_open_sizes(dims(f, 0), self.spec.data_format, |image| {
            let (image, filter) = (widened(image, 1), widened(&filter, 0));
            check::<2>(&image, &filter, &self.spec)?;
            let mut shape = conv::output_shape(&image, &filter, &self.spec)?.to_vec();
            shape.remove(1);
            Ok(shape.into())
        })?;
        let outputs = filter.last().copied();
        Ok(vec![fact(
            Some(DType::Float32),
            shape.or_else(|| open_shape(f, outputs, self.spec.data_format, 3)),
        )])
    }

    fn holds(&self, index: usize) -> bool {
        index == 1 && self.filter.is_some()
    }

    fn specialize(&self, f: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        let Some(filter) = f.get(1).and_then(|f| f.value.clone()) else { return Ok(None) };
        let wide = widened(filter.dims(), 0);
        let filter = PackedFilter::new(&filter.reshape(wide)?, 1)?;
        Ok(Some(Box::new(Conv1d { filter: Some(Arc::new(filter)), ..self.clone() })))
    }
}

pub(super) fn conv3d(b: &Build<'_>) -> Boxed {
    Ok(Box::new(Conv3d { spec: spec(b)?, filter: None }))
}

#[derive(Debug, Clone)]
struct Conv3d {
    spec: Conv3dSpec,
    filter: Option<Arc<PackedFilter<3>>>,
}

impl Op for Conv3d {
    fn eval(&self, _cx: &mut Cx<'_>, x: Inputs) -> Result<Values> {
        check::<3>(x.tensor(0)?.dims(), x.tensor(1)?.dims(), &self.spec)?;
        let fresh;
        let filter = match &self.filter {
            Some(f) => f.as_ref(),
            None => {
                fresh = PackedFilter::new(x.tensor(1)?, 1)?;
                &fresh
            }
        };
        one(conv::conv3d(x.tensor(0)?, filter, &self.spec, &Epilogue::default()))
    }

    fn infer(&self, f: &[Fact]) -> Result<Vec<Fact>> {
        let Some(filter) = full(f, 1) else {
            return Ok(vec![fact(Some(DType::Float32), Some(vec![None; 5]))]);
        };
        let shape = shape_with_open_sizes(dims(f, 0), self.spec.data_format, |image| {
            check::<3>(image, &filter, &self.spec)?;
            conv::output_shape(image, &filter, &self.spec)
        })?;
        let outputs = filter.last().copied();
        Ok(vec![fact(
            Some(DType::Float32),
            shape.or_else(|| open_shape(f, outputs, self.spec.data_format, 5)),
        )])
    }

    fn holds(&self, index: usize) -> bool {
        index == 1 && self.filter.is_some()
    }

    fn specialize(&self, f: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        let Some(filter) = f.get(1).and_then(|f| f.value.as_ref()) else { return Ok(None) };
        let filter = Some(Arc::new(PackedFilter::new(filter, 1)?));
        Ok(Some(Box::new(Conv3d { filter, ..self.clone() })))
    }
}
