//! Padding, cropping, upsampling.

use tfjs_graph::Port;

use super::{
    resample::{self, Method, Size},
    spatial,
};
use crate::{Call, Config, Emit, Layer, LayerDef, LayersError, Sym, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("ZeroPadding1D", |c| padding(c, 1)),
    LayerDef::new("ZeroPadding2D", |c| padding(c, 2)),
    LayerDef::new("ZeroPadding3D", |c| padding(c, 3)),
    LayerDef::new("Cropping1D", |c| cropping(c, 1)),
    LayerDef::new("Cropping2D", |c| cropping(c, 2)),
    LayerDef::new("Cropping3D", |c| cropping(c, 3)),
    LayerDef::new("UpSampling1D", |c| upsampling(c, 1)),
    LayerDef::new("UpSampling2D", |c| upsampling(c, 2)),
    LayerDef::new("UpSampling3D", |c| upsampling(c, 3)),
];

fn padding(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["activity_regularizer"]);
    let amounts = spatial::pairs(c, "padding", rank, (1, 1))?;
    Ok(Box::new(ZeroPadding { amounts, channels_last: c.channels_last()? }))
}

fn cropping(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["activity_regularizer"]);
    let default = if rank == 2 { (0, 0) } else { (1, 1) };
    let amounts = spatial::pairs(c, "cropping", rank, default)?;
    Ok(Box::new(Cropping { amounts, channels_last: c.channels_last()? }))
}

/// Amounts for all dimensions from those of the spatial ones.
fn everywhere(amounts: &[(usize, usize)], channels_last: bool) -> Vec<(usize, usize)> {
    let none: &[(usize, usize)] = &[(0, 0)];
    if channels_last { [none, amounts, none].concat() } else { [none, none, amounts].concat() }
}

/// Zeros around the places.
#[derive(Debug)]
struct ZeroPadding {
    amounts: Vec<(usize, usize)>,
    channels_last: bool,
}

impl Layer for ZeroPadding {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        spatial::expect_rank(g, x, self.amounts.len() + 2)?;
        Ok(vec![g.pad(x, &everywhere(&self.amounts, self.channels_last), 0.0)?.into()])
    }
}

/// Cuts places off.
#[derive(Debug)]
struct Cropping {
    amounts: Vec<(usize, usize)>,
    channels_last: bool,
}

impl Layer for Cropping {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        spatial::expect_rank(g, x, self.amounts.len() + 2)?;
        Ok(vec![spatial::crop(g, x, &everywhere(&self.amounts, self.channels_last))?.into()])
    }
}

fn upsampling(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["activity_regularizer"]);
    let size = c.sizes_or("size", rank, 2)?;
    if size.contains(&0) {
        return Err(c.wrong("size", "factors of at least 1"));
    }
    let method = if rank == 2 { resample::method(c, "nearest")? } else { Method::Nearest };
    Ok(Box::new(UpSampling { size, method, channels_last: c.channels_last()? }))
}

/// Makes places `size` times as many: repeated, or in two dimensions interpolated.
#[derive(Debug)]
struct UpSampling {
    size: Vec<usize>,
    method: Method,
    channels_last: bool,
}

impl Layer for UpSampling {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let mut x = call.one()?.port;
        let rank = self.size.len();
        spatial::expect_rank(g, x, rank + 2)?;
        if !self.channels_last {
            x = spatial::channels_last(g, x)?;
        }
        let mut y = match self.size[..] {
            [n] => {
                let wide = g.expand_dims(x, 1)?;
                let y = resample::resize(g, wide, [Size::Times(1), Size::Times(n)], Method::Nearest, false)?;
                g.squeeze(y, &[1])?
            }
            [h, w] => resample::resize(g, x, [Size::Times(h), Size::Times(w)], self.method, false)?,
            _ => self.volume(g, x)?,
        };
        if !self.channels_last {
            y = spatial::channels_first(g, y)?;
        }
        Ok(vec![y.into()])
    }
}

impl UpSampling {
    /// Height and width of all slices, then depth of all columns.
    fn volume(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let dims = g.dims(x)?;
        let times = |i: usize| Size::Times(self.size[i]);
        let slices = spatial::reshape(g, x, &[None, Some(dims[2]), Some(dims[3]), Some(dims[4])])?;
        let slices = resample::resize(g, slices, [times(1), times(2)], Method::Nearest, false)?;
        let (height, width) = (g.dim(slices, 1)?, g.dim(slices, 2)?);
        let columns = spatial::reshape(g, slices, &[Some(dims[0]), Some(dims[1]), None, Some(dims[4])])?;
        let y = resample::resize(g, columns, [times(0), Size::Times(1)], Method::Nearest, false)?;
        let depth = g.dim(y, 1)?;
        let dims: Vec<Dim> = vec![dims[0], depth, height, width, dims[4]];
        g.reshape(y, &dims)
    }
}
