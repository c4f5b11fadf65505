//! Pooling: windows, global, adaptive.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::spatial;
use crate::emit::table_size;
use crate::{Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Sym};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("MaxPooling1D", |c| window(c, 1, Kind::Max)),
    LayerDef::new("MaxPooling2D", |c| window(c, 2, Kind::Max)),
    LayerDef::new("MaxPooling3D", |c| window(c, 3, Kind::Max)),
    LayerDef::new("MaxPool1D", |c| window(c, 1, Kind::Max)),
    LayerDef::new("MaxPool2D", |c| window(c, 2, Kind::Max)),
    LayerDef::new("MaxPool3D", |c| window(c, 3, Kind::Max)),
    LayerDef::new("AveragePooling1D", |c| window(c, 1, Kind::Average)),
    LayerDef::new("AveragePooling2D", |c| window(c, 2, Kind::Average)),
    LayerDef::new("AveragePooling3D", |c| window(c, 3, Kind::Average)),
    LayerDef::new("AvgPool1D", |c| window(c, 1, Kind::Average)),
    LayerDef::new("AvgPool2D", |c| window(c, 2, Kind::Average)),
    LayerDef::new("AvgPool3D", |c| window(c, 3, Kind::Average)),
    LayerDef::new("GlobalMaxPooling1D", |c| global(c, 1, Kind::Max)),
    LayerDef::new("GlobalMaxPooling2D", |c| global(c, 2, Kind::Max)),
    LayerDef::new("GlobalMaxPooling3D", |c| global(c, 3, Kind::Max)),
    LayerDef::new("GlobalMaxPool1D", |c| global(c, 1, Kind::Max)),
    LayerDef::new("GlobalMaxPool2D", |c| global(c, 2, Kind::Max)),
    LayerDef::new("GlobalMaxPool3D", |c| global(c, 3, Kind::Max)),
    LayerDef::new("GlobalAveragePooling1D", |c| global(c, 1, Kind::Average)),
    LayerDef::new("GlobalAveragePooling2D", |c| global(c, 2, Kind::Average)),
    LayerDef::new("GlobalAveragePooling3D", |c| global(c, 3, Kind::Average)),
    LayerDef::new("GlobalAvgPool1D", |c| global(c, 1, Kind::Average)),
    LayerDef::new("GlobalAvgPool2D", |c| global(c, 2, Kind::Average)),
    LayerDef::new("GlobalAvgPool3D", |c| global(c, 3, Kind::Average)),
    LayerDef::new("AdaptiveMaxPooling1D", |c| adaptive(c, 1, Kind::Max)),
    LayerDef::new("AdaptiveMaxPooling2D", |c| adaptive(c, 2, Kind::Max)),
    LayerDef::new("AdaptiveMaxPooling3D", |c| adaptive(c, 3, Kind::Max)),
    LayerDef::new("AdaptiveAveragePooling1D", |c| adaptive(c, 1, Kind::Average)),
    LayerDef::new("AdaptiveAveragePooling2D", |c| adaptive(c, 2, Kind::Average)),
    LayerDef::new("AdaptiveAveragePooling3D", |c| adaptive(c, 3, Kind::Average)),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Max,
    Average,
}

fn window(c: &Config<'_>, rank: usize, kind: Kind) -> Result<Box<dyn Layer>> {
    c.known(&["activity_regularizer"]);
    let size = c.sizes_or("pool_size", rank, 2)?;
    let strides = if c.get("strides").is_some() { c.sizes("strides", rank)? } else { size.clone() };
    if size.contains(&0) || strides.contains(&0) {
        return Err(c.wrong("pool_size", "sizes and strides of at least 1"));
    }
    Ok(Box::new(Window {
        kind,
        size,
        strides,
        same: c.one_of("padding", &["valid", "same"], "valid")? == "same",
        channels_last: c.channels_last()?,
    }))
}

/// Largest or mean value of a moving window. Padding counts as nothing.
#[derive(Debug)]
struct Window {
    kind: Kind,
    size: Vec<usize>,
    strides: Vec<usize>,
    same: bool,
    channels_last: bool,
}

impl Layer for Window {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let rank = self.size.len();
        spatial::expect_rank(g, x, rank + 2)?;
        let x = enter(g, x, rank, self.channels_last)?;
        let y = pool(g, x, self.kind, &self.size, &self.strides, self.same)?;
        Ok(vec![leave(g, y, rank, self.channels_last)?.into()])
    }
}

/// Brings channels to the end; a sequence becomes an image of height 1.
fn enter(g: &mut Emit, x: Port, rank: usize, channels_last: bool) -> Result<Port> {
    let x = if channels_last { x } else { spatial::channels_last(g, x)? };
    if rank == 1 { spatial::widen(g, x) } else { Ok(x) }
}

/// Undoes [`enter`].
fn leave(g: &mut Emit, y: Port, rank: usize, channels_last: bool) -> Result<Port> {
    let y = if rank == 1 { g.squeeze(y, &[1])? } else { y };
    if channels_last { Ok(y) } else { spatial::channels_first(g, y) }
}

/// Pools an image as [`enter`] makes it.
fn pool(g: &mut Emit, x: Port, kind: Kind, size: &[usize], strides: &[usize], same: bool) -> Result<Port> {
    let op = match (kind, size.len()) {
        (Kind::Max, 3) => "MaxPool3D",
        (Kind::Max, _) => "MaxPool",
        (Kind::Average, 3) => "AvgPool3D",
        (Kind::Average, _) => "AvgPool",
    };
    let wide = |list: &[usize]| {
        let height = (list.len() == 1).then_some(1);
        let inner: Vec<i64> = height.into_iter().chain(list.iter().map(|&n| n as i64)).collect();
        attr::ints([&[1], &inner[..], &[1]].concat())
    };
    let attrs = [
        ("ksize", wide(size)),
        ("strides", wide(strides)),
        ("padding", attr::text(if same { "SAME" } else { "VALID" })),
        ("data_format", attr::text(if size.len() == 3 { "NDHWC" } else { "NHWC" })),
    ];
    g.op(op, &[x], &attrs)
}

fn global(c: &Config<'_>, rank: usize, kind: Kind) -> Result<Box<dyn Layer>> {
    c.known(&["activity_regularizer"]);
    Ok(Box::new(Global {
        kind,
        rank,
        keep_dims: c.bool_or("keepdims", false)?,
        channels_last: c.channels_last()?,
    }))
}

/// Largest or mean value over all places.
#[derive(Debug)]
struct Global {
    kind: Kind,
    rank: usize,
    keep_dims: bool,
    channels_last: bool,
}

impl Layer for Global {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        spatial::expect_rank(g, x, self.rank + 2)?;
        let first = if self.channels_last { 1 } else { 2 };
        let axes: Vec<usize> = (first..first + self.rank).collect();
        let mask = call.mask(0).filter(|_| self.kind == Kind::Average && self.rank == 1);
        if let Some(mask) = mask
            && g.dialect != Dialect::Tfjs
        {
            return Ok(vec![self.masked(g, x, mask, first)?.into()]);
        }
        let op = if self.kind == Kind::Max { "Max" } else { "Mean" };
        Ok(vec![g.reduce(op, x, &axes, self.keep_dims)?.into()])
    }
}

impl Global {
    /// The mean of the steps that count.
    fn masked(&self, g: &mut Emit, x: Port, mask: Port, steps: usize) -> Result<Port> {
        let mask = g.expand_dims(mask, if self.channels_last { 2 } else { 1 })?;
        let count = g.cast(mask, DType::Float32)?;
        let x = match g.dialect {
            // What does not count may be NaN.
            Dialect::Keras3 => {
                let mask = g.cast(mask, DType::Bool)?;
                let zero = g.scalar(0.0);
                g.select(mask, x, zero)?
            }
            _ => g.mul(x, count)?,
        };
        let sum = g.reduce("Sum", x, &[steps], self.keep_dims)?;
        let count = g.reduce("Sum", count, &[steps], self.keep_dims)?;
        g.div(sum, count)
    }
}

fn adaptive(c: &Config<'_>, rank: usize, kind: Kind) -> Result<Box<dyn Layer>> {
    let size = c.sizes("output_size", rank)?;
    if size.contains(&0) {
        return Err(c.wrong("output_size", "sizes of at least 1"));
    }
    Ok(Box::new(Adaptive { kind, size, channels_last: c.channels_last()? }))
}

/// Windows such that a certain number of them covers each axis: window i of n reaches from ⌊i · L / n⌋ to
/// ⌈(i + 1) · L / n⌉.
#[derive(Debug)]
struct Adaptive {
    kind: Kind,
    size: Vec<usize>,
    channels_last: bool,
}

impl Layer for Adaptive {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let rank = self.size.len();
        spatial::expect_rank(g, x, rank + 2)?;
        let mut x = enter(g, x, rank, self.channels_last)?;
        let first = if rank == 1 { 2 } else { 1 };
        let lengths: Vec<usize> =
            (0..rank).map(|i| g.known_dim(x, first + i, "size to be pooled")).collect::<Result<_>>()?;
        if lengths.contains(&0) {
            return Err(LayersError::Inputs(format!("there is nothing to pool in {}", g.fact(x))));
        }
        // Those that divide evenly go at once.
        let even: Vec<usize> = lengths
            .iter()
            .zip(&self.size)
            .map(|(&length, &n)| if length % n == 0 { length / n } else { 1 })
            .collect();
        if even.iter().any(|&w| w > 1) {
            x = pool(g, x, self.kind, &even, &even, false)?;
        }
        for (i, (&length, &n)) in lengths.iter().zip(&self.size).enumerate() {
            if length % n != 0 {
                x = self.uneven(g, x, i, length, n, first)?;
            }
        }
        Ok(vec![leave(g, x, rank, self.channels_last)?.into()])
    }
}

impl Adaptive {
    /// All windows of each length that occurs, of which those wanted are gathered.
    fn uneven(
        &self,
        g: &mut Emit,
        x: Port,
        axis: usize,
        length: usize,
        n: usize,
        first: usize,
    ) -> Result<Port> {
        table_size(&[n])?;
        let bounds = |i: usize| {
            (
                (i as u128 * length as u128 / n as u128) as usize,
                ((i as u128 + 1) * length as u128).div_ceil(n as u128) as usize,
            )
        };
        let mut widths: Vec<usize> = (0..n).map(|i| bounds(i).1 - bounds(i).0).collect();
        widths.sort_unstable();
        widths.dedup();
        let mut parts = Vec::new();
        let mut starts = Vec::new();
        let mut before = 0;
        for &width in &widths {
            let mut size = vec![1; self.size.len()];
            size[axis] = width;
            parts.push(pool(g, x, self.kind, &size, &vec![1; self.size.len()], false)?);
            starts.push(before);
            before += length - width + 1;
        }
        let all = g.concat(&parts, first + axis)?;
        let mut indices = Vec::with_capacity(n);
        for i in 0..n {
            let (begin, end) = bounds(i);
            let which = widths.binary_search(&(end - begin)).unwrap_or_default();
            indices.push((starts[which] + begin) as i32);
        }
        let (indices, at) = (g.ints(&indices), g.int((first + axis) as i32));
        g.op("GatherV2", &[all, indices, at], &[("batch_dims", attr::int(0))])
    }
}
