//! Convolutions with a kernel of its own at every place.

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::Tensor;

use super::{Padding, Result, Window};
use crate::{
    Call, Config, Emit, Layer, LayersError, Scope, Sym, WeightId, WeightInit,
    emit::Dim,
    layers::{
        core::built,
        spatial::{self, times},
    },
};

pub(super) fn new(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    let window = Window::new(c, rank)?;
    let implementation = c.int_or("implementation", 1)?;
    if !(1..=3).contains(&implementation) {
        return Err(c.wrong("implementation", "1, 2 or 3"));
    }
    if window.padding == Padding::Causal || (window.padding == Padding::Same && implementation == 1) {
        return Err(c.wrong("padding", "valid, or with implementation 2 or 3 also same"));
    }
    Ok(Box::new(Local {
        window,
        filters: c.usize("filters")?,
        implementation,
        kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
        built: None,
    }))
}

/// A convolution whose kernel differs from place to place.
///
/// The kernel's shape depends on the implementation that Keras was told to use: 1 `[places, window · in, filters]`,
/// 2 `[in…, in channels, out…, filters]` of which only what the window reaches counts (channels before places when
/// they come first), 3 a list of just those elements. bias: `[out…, filters]`.
#[derive(Debug)]
struct Local {
    window: Window,
    filters: usize,
    implementation: i64,
    kernel_initializer: WeightInit,
    built: Option<Built>,
}

#[derive(Clone, Debug)]
struct Built {
    channels: usize,
    /// Spatial sizes.
    input: Vec<usize>,
    output: Vec<usize>,
    kernel: WeightId,
    bias: Option<WeightId>,
}

/// Elements that a matrix made for a layer may have: beyond that a file asks for more than any machine has.
const LARGEST: usize = 1 << 31;

impl Layer for Local {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let channels = self.window.channels(inputs)?;
        let rank = self.window.rank();
        let shape = inputs.first().and_then(|f| f.shape.as_deref()).unwrap_or_default();
        let first = if self.window.channels_last { 1 } else { 2 };
        let spatial: Option<Vec<usize>> =
            if shape.len() == rank + 2 { shape[first..first + rank].iter().copied().collect() } else { None };
        let input = spatial.ok_or_else(|| {
            LayersError::Inputs(format!("it needs an input of {} dimensions of known sizes", rank + 2))
        })?;
        let mut output = Vec::new();
        for (i, &n) in input.iter().enumerate() {
            let reached = if self.window.padding == Padding::Same {
                n
            } else {
                n.saturating_add(1).saturating_sub(self.window.size[i])
            };
            output.push(reached.div_ceil(self.window.strides[i]));
        }
        let places = output.iter().try_fold(1, |a, &b| times(a, b))?;
        let from = input.iter().try_fold(channels, |a, &b| times(a, b))?;
        let to = times(places, self.filters)?;
        if places == 0 || times(from, to)? > LARGEST {
            return Err(LayersError::Inputs(format!(
                "{input:?} gives an output of {output:?}, with too many weights or none"
            )));
        }
        let kernel = match self.implementation {
            1 => vec![places, self.window.size.iter().try_fold(channels, |a, &b| times(a, b))?, self.filters],
            2 if self.window.channels_last => {
                [&input[..], &[channels], &output[..], &[self.filters]].concat()
            }
            2 => [&[channels], &input[..], &[self.filters], &output[..]].concat(),
            _ => vec![times(self.connections(&input, &output).len(), times(channels, self.filters)?)?],
        };
        let kernel = scope.weight("kernel", &kernel, self.kernel_initializer.clone());
        let bias = [&output[..], &[self.filters]].concat();
        let bias =
            self.window.use_bias.then(|| scope.weight("bias", &bias, self.window.bias_initializer.clone()));
        self.built = Some(Built { channels, input, output, kernel, bias });
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let b = built(self.built.clone())?;
        let x = call.one()?.port;
        let rank = self.window.rank();
        spatial::expect_rank(g, x, rank + 2)?;
        let kernel = g.weight(b.kernel);
        let batch = g.dim(x, 0)?;
        let output: Vec<Dim> = b.output.iter().map(|&n| Dim::Known(n)).collect();
        // Either [batch, places, filters] or what the kernel's own layout gives.
        let mut y = match self.implementation {
            1 => {
                let y = self.gathered(g, x, kernel, &b)?;
                let dims: Vec<Dim> =
                    [batch].into_iter().chain(output).chain([Dim::Known(self.filters)]).collect();
                let y = g.reshape(y, &dims)?;
                if self.window.channels_last { y } else { spatial::channels_first(g, y)? }
            }
            2 => {
                let kernel = self.masked(g, kernel, &b)?;
                self.product(g, x, kernel, &b)?
            }
            _ => {
                let kernel = self.scattered(g, kernel, &b)?;
                self.product(g, x, kernel, &b)?
            }
        };
        if let Some(bias) = b.bias {
            let mut bias = g.weight(bias);
            if !self.window.channels_last {
                // Keras reshapes it: its elements stay in their order.
                let dims = [self.filters].into_iter().chain(b.output.iter().copied());
                bias = g.reshape(bias, &dims.map(Dim::Known).collect::<Vec<_>>())?;
            }
            y = g.add(y, bias)?;
        }
        let y = self.window.activation.emit(g, y)?;
        Ok(vec![y.into()])
    }
}

impl Local {
    /// Which input places each output place sees, as (output, input) counted row by row.
    fn connections(&self, input: &[usize], output: &[usize]) -> Vec<(usize, usize)> {
        let mut list = vec![(0, 0)];
        for (axis, (&from, &to)) in input.iter().zip(output).enumerate() {
            let (size, stride) = (self.window.size[axis], self.window.strides[axis]);
            let mut longer = Vec::new();
            for &(o, i) in &list {
                for place in 0..to {
                    // With `same` the window is centred, and what lies outside does not exist.
                    let begin = match self.window.padding {
                        Padding::Same => (place * stride) as i64 - (size / 2) as i64,
                        _ => (place * stride) as i64,
                    };
                    let end = (begin + size as i64).clamp(0, from as i64) as usize;
                    for source in begin.max(0) as usize..end {
                        longer.push((o * to + place, i * from + source));
                    }
                }
            }
            list = longer;
        }
        list
    }

    /// Implementation 1: the windows of all places side by side, then a product per place: `[places, batch, filters]`
    /// brought to `[batch, places, filters]`.
    fn gathered(&self, g: &mut Emit, x: Port, kernel: Port, b: &Built) -> Result<Port> {
        let batch = g.dim(x, 0)?;
        let mut connections = self.connections(&b.input, &b.output);
        connections.sort_unstable();
        let indices: Vec<i32> = connections.iter().map(|&(_, i)| i as i32).collect();
        let places: usize = b.output.iter().product();
        let (all, window) = (b.input.iter().product(), indices.len() / places.max(1));
        let (c, indices) = (Dim::Known(b.channels), g.ints(&indices));
        let [all, places, window] = [all, places, window].map(Dim::Known);
        let x = if self.window.channels_last {
            let x = g.reshape(x, &[batch, all, c])?;
            let axis = g.int(1);
            let x = g.op("GatherV2", &[x, indices, axis], &[("batch_dims", attr::int(0))])?;
            let x = g.reshape(x, &[batch, places, window, c])?;
            g.transpose(x, &[1, 0, 2, 3])?
        } else {
            let x = g.reshape(x, &[batch, c, all])?;
            let axis = g.int(2);
            let x = g.op("GatherV2", &[x, indices, axis], &[("batch_dims", attr::int(0))])?;
            let x = g.reshape(x, &[batch, c, places, window])?;
            g.transpose(x, &[2, 0, 1, 3])?
        };
        let inner = Dim::Known(g.known_dim(kernel, 1, "rows of the kernel")?);
        let x = spatial::reshape(g, x, &[Some(places), Some(batch), Some(inner)])?;
        let no = || attr::bool(false);
        let y = g.op("BatchMatMulV2", &[x, kernel], &[("adj_x", no()), ("adj_y", no())])?;
        g.transpose(y, &[1, 0, 2])
    }

    /// Implementation 2: what no window reaches does not count.
    fn masked(&self, g: &mut Emit, kernel: Port, b: &Built) -> Result<Port> {
        let (from, to): (usize, usize) = (b.input.iter().product(), b.output.iter().product());
        let mut mask = vec![0f32; times(from, to)?];
        for (o, i) in self.connections(&b.input, &b.output) {
            mask[i * to + o] = 1.0;
        }
        let shape = if self.window.channels_last {
            [&b.input[..], &[1], &b.output[..], &[1]].concat()
        } else {
            [&[1], &b.input[..], &[1], &b.output[..]].concat()
        };
        let mask = g.constant(Tensor::new(shape, mask)?);
        let kernel = g.mul(kernel, mask)?;
        let [rows, columns] = [times(from, b.channels)?, times(to, self.filters)?].map(Dim::Known);
        g.reshape(kernel, &[rows, columns])
    }

    /// Implementation 3: the elements in the order of (output, input), put into a matrix.
    fn scattered(&self, g: &mut Emit, kernel: Port, b: &Built) -> Result<Port> {
        let (from, to): (usize, usize) = (b.input.iter().product(), b.output.iter().product());
        let last = self.window.channels_last;
        let place = |i: usize, c: usize, places: usize, channels: usize| {
            if last { i * channels + c } else { c * places + i }
        };
        let mut indices = Vec::new();
        for (o, i) in self.connections(&b.input, &b.output) {
            for c in 0..b.channels {
                for f in 0..self.filters {
                    indices
                        .push([place(o, f, to, self.filters) as i32, place(i, c, from, b.channels) as i32]);
                }
            }
        }
        indices.sort_unstable();
        let indices = g.constant(Tensor::new([indices.len(), 2], indices.concat())?);
        let shape = g.ints(&[times(to, self.filters)? as i32, times(from, b.channels)? as i32]);
        let matrix = g.op("ScatterNd", &[indices, kernel, shape], &[])?;
        g.transpose(matrix, &[1, 0])
    }

    /// `x`, flat, times a matrix.
    fn product(&self, g: &mut Emit, x: Port, matrix: Port, b: &Built) -> Result<Port> {
        let batch = g.dim(x, 0)?;
        let rows = Dim::Known(g.known_dim(matrix, 0, "rows of the kernel")?);
        let x = g.reshape(x, &[batch, rows])?;
        let y = g.matmul(x, matrix)?;
        let filters = Dim::Known(self.filters);
        let output = b.output.iter().map(|&n| Dim::Known(n));
        let dims: Vec<Dim> = if self.window.channels_last {
            [batch].into_iter().chain(output).chain([filters]).collect()
        } else {
            [batch, filters].into_iter().chain(output).collect()
        };
        g.reshape(y, &dims)
    }
}
