//! Contrast limited adaptive histogram equalization.

use super::{Result, on_images, to_range, value_range};
use crate::emit::table_size;
use crate::{
    Call, Config, Emit, Layer, LayersError, Sym,
    emit::Dim,
    layers::spatial::{self, times},
};
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let grid = c.sizes_or("tile_grid_size", 2, 8)?;
    if grid.contains(&0) {
        return Err(c.wrong("tile_grid_size", "sizes of at least 1"));
    }
    Ok(Box::new(Clahe {
        range: value_range(c)?,
        clip_limit: c.f32_or("clip_limit", 4.0)?,
        grid: [grid[0], grid[1]],
        channels_last: c.channels_last()?,
    }))
}

/// Every tile of the image gets a table that spreads its values evenly; between the middles of tiles, tables are
/// interpolated.
#[derive(Debug)]
struct Clahe {
    range: [f32; 2],
    clip_limit: f32,
    grid: [usize; 2],
    channels_last: bool,
}

const LEVELS: usize = 256;

impl Layer for Clahe {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let full = [0.0, 255.0];
        let y = on_images(g, call.one()?.port, self.channels_last, |g, x| {
            let dtype = g.dtype(x);
            let x = g.cast(x, DType::Float32)?;
            let x = to_range(g, x, self.range, full)?;
            let y = self.equalize(g, x)?;
            let y = to_range(g, y, full, self.range)?;
            g.cast(y, dtype)
        })?;
        Ok(vec![y.into()])
    }
}

/// For each place along an axis: the tiles before and after it (with one more tile at each end), and how near the second
/// one is.
fn neighbours(tile: usize, grid: usize) -> Vec<(usize, usize, f32)> {
    let last = (grid + 1) as f32;
    let place = |i: usize| {
        let at = (i as f32 - tile as f32 / 2.0) / tile as f32 + 1.0;
        let below = at.floor();
        (below.clamp(0.0, last) as usize, (below + 1.0).clamp(0.0, last) as usize, at - below)
    };
    (0..tile * grid).map(place).collect()
}

impl Clahe {
    fn equalize(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let [height, width, channels] = [1, 2, 3].map(|i| g.known_dim(x, i, "size of images"));
        let (height, width, channels) = (height?, width?, channels?);
        let [gh, gw] = self.grid;
        table_size(&[height, width])?;
        let (th, tw) = (height.div_ceil(gh), width.div_ceil(gw));
        let (all_h, all_w) = (times(th, gh)?, times(tw, gw)?);
        if all_h > 2 * height || all_w > 2 * width {
            return Err(LayersError::Inputs(format!(
                "images of {height} by {width} are too small for {gh} by {gw} tiles"
            )));
        }
        let batch = g.dim(x, 0)?;
        let x = self.mirrored(g, x, [all_h - height, all_w - width])?;
        let (zero, most) = (g.scalar(0.0), g.scalar(255.0));
        let clipped = g.op("ClipByValue", &[x, zero, most], &[])?;
        let pixels = g.cast(clipped, DType::Int32)?;
        let tables = self.tables(g, pixels, batch, [th, tw], channels)?;

        // Where each pixel's value lies in the tables of the four tiles around it.
        let (stride_x, stride_y) = (LEVELS * channels, LEVELS * channels * (gw + 2));
        let (rows, columns) = (neighbours(th, gh), neighbours(tw, gw));
        let corner = |g: &mut Emit, lower: bool, right: bool| -> Result<Port> {
            let mut offsets = Vec::with_capacity(rows.len() * columns.len() * channels);
            for &(y0, y1, _) in &rows {
                for &(x0, x1, _) in &columns {
                    let tile =
                        if lower { y1 } else { y0 } * stride_y + if right { x1 } else { x0 } * stride_x;
                    offsets.extend((0..channels).map(|c| (tile + c * LEVELS) as i32));
                }
            }
            let offsets = g.constant(Tensor::new([1, all_h, all_w, channels], offsets)?);
            let indices = g.add(pixels, offsets)?;
            let flat = spatial::reshape(g, indices, &[Some(batch), None])?;
            let axis = g.int(1);
            let values = g.op("GatherV2", &[tables, flat, axis], &[("batch_dims", attr::int(1))])?;
            g.reshape(values, &[batch, Dim::Known(all_h), Dim::Known(all_w), Dim::Known(channels)])
        };
        let weights =
            |g: &mut Emit, list: &[(usize, usize, f32)], shape: [usize; 4]| -> Result<(Port, Port)> {
                let after: Vec<f32> = list.iter().map(|n| n.2).collect();
                let before: Vec<f32> = after.iter().map(|w| 1.0 - w).collect();
                Ok((g.constant(Tensor::new(shape, before)?), g.constant(Tensor::new(shape, after)?)))
            };
        let (left, right) = weights(g, &columns, [1, 1, all_w, 1])?;
        let (above, below) = weights(g, &rows, [1, all_h, 1, 1])?;
        let mix = |g: &mut Emit, a: Port, wa: Port, b: Port, wb: Port| -> Result<Port> {
            let (a, b) = (g.mul(a, wa)?, g.mul(b, wb)?);
            g.add(a, b)
        };
        let (nw, ne) = (corner(g, false, false)?, corner(g, false, true)?);
        let (sw, se) = (corner(g, true, false)?, corner(g, true, true)?);
        let (top, bottom) = (mix(g, nw, left, ne, right)?, mix(g, sw, left, se, right)?);
        let y = mix(g, top, above, bottom, below)?;
        spatial::crop(g, y, &[(0, 0), (0, all_h - height), (0, all_w - width), (0, 0)])
    }

    fn mirrored(&self, g: &mut Emit, x: Port, [bottom, right]: [usize; 2]) -> Result<Port> {
        if bottom == 0 && right == 0 {
            return Ok(x);
        }
        let pads = vec![0, 0, 0, bottom as i32, 0, right as i32, 0, 0];
        let pads = g.constant(Tensor::new([4, 2], pads)?);
        g.op("MirrorPad", &[x, pads], &[("mode", attr::text("SYMMETRIC"))])
    }

    /// The tables of all tiles, `[batch, (rows + 2) · (columns + 2) · channels · 256]`.
    fn tables(
        &self,
        g: &mut Emit,
        pixels: Port,
        batch: Dim,
        tile: [usize; 2],
        channels: usize,
    ) -> Result<Port> {
        let ([gh, gw], [th, tw]) = (self.grid, tile);
        let area = times(th, tw)?;
        let known = |n: usize| Some(Dim::Known(n));
        // Two steps, so that no more than six axes are needed: rows of tiles, then tiles.
        let split = [None, known(th), known(gw), known(tw), known(channels)];
        let tiles = spatial::reshape(g, pixels, &split)?;
        let tiles = g.transpose(tiles, &[0, 2, 4, 1, 3])?;
        let flat = spatial::reshape(g, tiles, &[None, known(area)])?;
        let size = g.int(LEVELS as i32);
        let none = g.constant(Tensor::new([0], Vec::<f32>::new())?);
        let mut counts =
            g.op("DenseBincount", &[flat, size, none], &[("binary_output", attr::bool(false))])?;
        g.set_shape(counts, &[None, Some(LEVELS)]);
        if self.clip_limit > 0.0 {
            let limit = g.scalar(self.clip_limit * area as f32 / 256.0);
            let clipped = g.op("Minimum", &[counts, limit], &[])?;
            let excess = g.sub(counts, clipped)?;
            let excess = g.reduce("Sum", excess, &[1], true)?;
            let share = g.scale(excess, 1.0 / 256.0)?;
            counts = g.add(clipped, share)?;
        }
        let axis = g.int(1);
        let no = || attr::bool(false);
        let sums = g.op("Cumsum", &[counts, axis], &[("exclusive", no()), ("reverse", no())])?;
        let least = g.reduce("Min", sums, &[1], true)?;
        let above = g.sub(sums, least)?;
        let above = g.scale(above, 255.0)?;
        let total = g.scalar(area as f32);
        let rest = g.sub(total, least)?;
        let (zero, one) = (g.scalar(0.0), g.scalar(1.0));
        let empty = g.op("Equal", &[rest, zero], &[])?;
        let rest = g.select(empty, one, rest)?;
        let table = g.div(above, rest)?;
        let most = g.scalar(255.0);
        let table = g.op("ClipByValue", &[table, zero, most], &[])?;
        let row = times(channels, LEVELS)?;
        let tables = g.reshape(table, &[batch, Dim::Known(gh), Dim::Known(gw), Dim::Known(row)])?;
        // The tiles at the border stand twice.
        let tables = doubled(g, tables, 1, gh)?;
        let tables = doubled(g, tables, 2, gw)?;
        g.reshape(tables, &[batch, Dim::Known(times(times(gh + 2, gw + 2)?, row)?)])
    }
}

/// Repeats the first and the last slice along an axis.
fn doubled(g: &mut Emit, x: Port, axis: usize, length: usize) -> Result<Port> {
    let rank = g.rank(x)?;
    let end = |g: &mut Emit, at: usize| {
        let (mut begin, mut size) = (vec![0; rank], vec![-1; rank]);
        begin[axis] = at as i32;
        size[axis] = 1;
        g.slice(x, &begin, &size)
    };
    let (first, last) = (end(g, 0)?, end(g, length - 1)?);
    g.concat(&[first, x, last], axis)
}
