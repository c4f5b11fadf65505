//! `Conv2DBackpropInput` and `Conv3DBackpropInputV2`: transposed convolutions.
use std::sync::Arc;

use tfjs_kernels::{
    DType, Epilogue, Tensor,
    conv::{self, ConvSpec, TransposedFilter},
};

use super::{Result, data_format, first_spatial, padding, spatial};
use crate::{
    Cx, Fact, Op, OpError,
    op::{Build, Inputs, Values, one},
    ops::infer::{fact, ints},
};

pub(super) fn build<const D: usize>(b: &Build<'_>) -> Result<Box<dyn Op>>
where
    Transposed<D>: Op + 'static,
{
    let data_format = data_format::<D>(b)?;
    let spec = ConvSpec {
        strides: spatial("strides", &b.attrs.ints("strides")?, data_format, None)?,
        dilations: spatial("dilations", &b.attrs.ints("dilations")?, data_format, Some(1))?,
        padding: padding(b, data_format)?,
        data_format,
    };
    Ok(Box::new(Transposed { spec, filter: None }))
}

/// Inputs: the result's shape, the filter `[window.., result channels, image channels]`, the image.
#[derive(Debug, Clone)]
pub(super) struct Transposed<const D: usize> {
    spec: ConvSpec<D>,
    /// Present when the filter is constant.
    filter: Option<Arc<TransposedFilter<D>>>,
}

impl<const D: usize> Transposed<D> {
    /// The spatial part of `input_sizes`, whose batch and channels must be those that come out.
    fn sizes(&self, sizes: &[i32], batch: usize, channels: usize) -> Result<[usize; D]> {
        let wrong = |problem: &str| OpError::input("input_sizes", format!("{sizes:?} {problem}"));
        let first = first_spatial(self.spec.data_format);
        // The spatial sizes alone are allowed too.
        let (spatial, others) = match sizes.len() {
            n if n == D => (sizes, None),
            n if n == D + 2 => {
                let channel = if first == 1 { D + 1 } else { 1 };
                (&sizes[first..first + D], Some((sizes[0], sizes[channel])))
            }
            _ => return Err(wrong("has not one value per dimension")),
        };
        if let Some((b, c)) = others
            && (usize::try_from(b) != Ok(batch) || usize::try_from(c) != Ok(channels))
        {
            return Err(wrong(&format!("does not have batch size {batch} and {channels} channels")));
        }
        let mut out = [0; D];
        for (o, &s) in out.iter_mut().zip(spatial) {
            *o = usize::try_from(s).map_err(|_| wrong("has a negative size"))?;
        }
        Ok(out)
    }

    fn run(
        &self,
        x: &Inputs,
        kernel: impl Fn(
            &Tensor,
            &TransposedFilter<D>,
            [usize; D],
            &ConvSpec<D>,
            &Epilogue,
        ) -> tfjs_kernels::Result<Tensor>,
    ) -> Result<Values> {
        let image = x.tensor(2)?;
        let batch = image.dims().first().copied().unwrap_or(0);
        let Some(filter) = &self.filter else {
            // A filter that changes is not worth packing: whatever is fastest for this shape.
            let filter = x.tensor(1)?;
            let own = filter.dims().get(D).copied().unwrap_or(0);
            let sizes = x.elements::<i32>(0, "input_sizes")?;
            let channels = match sizes.len() {
                n if n == D + 2 => {
                    let at = if first_spatial(self.spec.data_format) == 1 { D + 1 } else { 1 };
                    usize::try_from(sizes[at]).ok()
                }
                _ => None,
            };
            let output = self.sizes(sizes, batch, channels.unwrap_or(own))?;
            return one(conv::conv_image_grad(image, filter, output, channels, &self.spec));
        };
        let output = self.sizes(x.elements(0, "input_sizes")?, batch, filter.out_channels())?;
        one(kernel(image, filter, output, &self.spec, &Epilogue::default()))
    }

    fn facts(f: &[Fact]) -> Vec<Fact> {
        let shape = ints(f, 0).filter(|s| s.len() == D + 2);
        let shape = shape.map(|s| s.iter().map(|&d| usize::try_from(d).ok()).collect());
        vec![fact(Some(DType::Float32), shape.or(Some(vec![None; D + 2])))]
    }

    fn packed(&self, f: &[Fact]) -> Result<Option<Transposed<D>>> {
        let Some(filter) = f.get(1).and_then(|f| f.value.as_ref()) else { return Ok(None) };
        Ok(Some(Transposed { filter: Some(Arc::new(TransposedFilter::new(filter)?)), ..self.clone() }))
    }
}

impl Op for Transposed<2> {
    fn eval(&self, _cx: &mut Cx<'_>, x: Inputs) -> Result<Values> {
        self.run(&x, conv::conv2d_transpose)
    }

    fn infer(&self, f: &[Fact]) -> Result<Vec<Fact>> {
        Ok(Self::facts(f))
    }

    fn holds(&self, index: usize) -> bool {
        index == 1 && self.filter.is_some()
    }

    fn specialize(&self, f: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        Ok(self.packed(f)?.map(|op| Box::new(op) as _))
    }
}

impl Op for Transposed<3> {
    fn eval(&self, _cx: &mut Cx<'_>, x: Inputs) -> Result<Values> {
        self.run(&x, conv::conv3d_transpose)
    }

    fn infer(&self, f: &[Fact]) -> Result<Vec<Fact>> {
        Ok(Self::facts(f))
    }

    fn holds(&self, index: usize) -> bool {
        index == 1 && self.filter.is_some()
    }

    fn specialize(&self, f: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        Ok(self.packed(f)?.map(|op| Box::new(op) as _))
    }
}
