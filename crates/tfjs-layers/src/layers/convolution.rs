//! Convolutions: plain, transposed, depthwise, separable, and with a kernel per place.

mod local;
mod separable;
mod transposed;

use tfjs_graph::{Fact, Port, builder::attr};

use super::{
    core::{Kernel, KernelIds, built},
    spatial::{self, times},
};
use crate::{
    Activation, Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Scope, Sym, WeightId, WeightInit,
    emit::Dim,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Conv1D", |c| conv(c, 1)),
    LayerDef::new("Conv2D", |c| conv(c, 2)),
    LayerDef::new("Conv3D", |c| conv(c, 3)),
    LayerDef::new("Convolution1D", |c| conv(c, 1)),
    LayerDef::new("Convolution2D", |c| conv(c, 2)),
    LayerDef::new("Convolution3D", |c| conv(c, 3)),
    LayerDef::new("Conv1DTranspose", |c| transposed::new(c, 1)),
    LayerDef::new("Conv2DTranspose", |c| transposed::new(c, 2)),
    LayerDef::new("Conv3DTranspose", |c| transposed::new(c, 3)),
    LayerDef::new("Convolution1DTranspose", |c| transposed::new(c, 1)),
    LayerDef::new("Convolution2DTranspose", |c| transposed::new(c, 2)),
    LayerDef::new("Convolution3DTranspose", |c| transposed::new(c, 3)),
    LayerDef::new("DepthwiseConv1D", |c| separable::depthwise(c, 1)),
    LayerDef::new("DepthwiseConv2D", |c| separable::depthwise(c, 2)),
    LayerDef::new("SeparableConv1D", |c| separable::separable(c, 1)),
    LayerDef::new("SeparableConv2D", |c| separable::separable(c, 2)),
    LayerDef::new("SeparableConvolution1D", |c| separable::separable(c, 1)),
    LayerDef::new("SeparableConvolution2D", |c| separable::separable(c, 2)),
    LayerDef::new("LocallyConnected1D", |c| local::new(c, 1)),
    LayerDef::new("LocallyConnected2D", |c| local::new(c, 2)),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Padding {
    Same,
    Valid,
    /// So much before a sequence that no output sees what comes after it.
    Causal,
}

/// How a window moves, and what is done with the result.
#[derive(Debug)]
struct Window {
    size: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
    channels_last: bool,
    activation: Activation,
    use_bias: bool,
    bias_initializer: WeightInit,
}

impl Window {
    fn new(c: &Config<'_>, rank: usize) -> Result<Window> {
        c.known(&["activity_regularizer"]);
        let words = ["valid", "same", "causal"];
        let words = if rank == 1 { &words[..] } else { &words[..2] };
        let at_least_one = |key: &str, list: Vec<usize>| {
            if list.contains(&0) { Err(c.wrong(key, "sizes of at least 1")) } else { Ok(list) }
        };
        Ok(Window {
            size: at_least_one("kernel_size", c.sizes("kernel_size", rank)?)?,
            strides: at_least_one("strides", c.sizes_or("strides", rank, 1)?)?,
            dilations: at_least_one("dilation_rate", c.sizes_or("dilation_rate", rank, 1)?)?,
            padding: match c.one_of("padding", words, "valid")? {
                "same" => Padding::Same,
                "causal" => Padding::Causal,
                _ => Padding::Valid,
            },
            channels_last: c.channels_last()?,
            activation: c.activation("activation", "linear")?,
            use_bias: c.bool_or("use_bias", true)?,
            bias_initializer: c.initializer("bias", "zeros")?,
        })
    }

    fn rank(&self) -> usize {
        self.size.len()
    }

    /// Number of channels of the input.
    fn channels(&self, inputs: &[Fact]) -> Result<usize> {
        let shape = inputs.first().and_then(|f| f.shape.as_ref());
        let at = shape.and_then(|s| {
            if s.len() < self.rank() + 2 {
                None
            } else {
                Some(if self.channels_last { s.len() - 1 } else { s.len() - self.rank() - 1 })
            }
        });
        shape.zip(at).and_then(|(s, at)| s[at]).ok_or_else(|| {
            let got = inputs.first().map_or("nothing".to_owned(), ToString::to_string);
            LayersError::Inputs(format!(
                "it takes an input of {} dimensions whose channels are known, not {got}",
                self.rank() + 2
            ))
        })
    }

    fn bias(&self, scope: &mut Scope<'_>, outputs: usize) -> Option<WeightId> {
        self.use_bias.then(|| scope.weight("bias", &[outputs], self.bias_initializer.clone()))
    }

    /// Writes a call. `compute` gets the image with channels last, a sequence as an image of height 1, and gives it back
    /// so; bias and activation follow right after, so that they can be fused.
    fn apply(
        &self,
        g: &mut Emit,
        call: &Call,
        bias: Option<WeightId>,
        compute: impl FnOnce(&mut Emit, Port) -> Result<Port>,
    ) -> Result<Vec<Sym>> {
        let mut x = call.one()?.port;
        let rank = self.rank();
        let outer = self.merge_batch(g, &mut x)?;
        if !self.channels_last {
            x = spatial::channels_last(g, x)?;
        }
        if rank == 1 {
            x = spatial::widen(g, x)?;
        }
        let mut y = compute(g, x)?;
        let mut late_bias = None;
        if let Some(bias) = bias {
            let bias = g.weight(bias);
            if self.bias_goes_astray(g, y)? {
                late_bias = Some(bias);
            } else {
                y = g.bias_add(y, bias)?;
            }
        }
        // Those along the last axis come last where channels do not.
        let along_last = matches!(self.activation.name, "softmax" | "log_softmax" | "glu" | "sparsemax");
        let early = late_bias.is_none() && (self.channels_last || !along_last);
        if early {
            y = self.activation.emit(g, y)?;
        }
        if rank == 1 {
            y = g.squeeze(y, &[1])?;
        }
        if !self.channels_last {
            y = spatial::channels_first(g, y)?;
        }
        if let Some(bias) = late_bias {
            y = g.add(y, bias)?;
        }
        if !early {
            y = self.activation.emit(g, y)?;
        }
        if let Some(outer) = outer {
            let inner = g.dims(y)?;
            let dims: Vec<Dim> = outer.into_iter().chain(inner.into_iter().skip(1)).collect();
            y = g.reshape(y, &dims)?;
        }
        Ok(vec![y.into()])
    }

    /// With channels first Keras 3 on TensorFlow adds the bias along the last axis when that has as many places as there
    /// are filters, and models were trained so. `y` has its channels last.
    fn bias_goes_astray(&self, g: &Emit, y: Port) -> Result<bool> {
        let shape = g.shape(y)?;
        Ok(g.dialect == Dialect::Keras3
            && !self.channels_last
            && matches!(shape[..], [.., Some(last), Some(filters)] if last == filters && filters > 1))
    }

    /// Several leading axes become one; Keras 2 allows that.
    fn merge_batch(&self, g: &mut Emit, x: &mut Port) -> Result<Option<Vec<Dim>>> {
        let dims = g.dims(*x)?;
        let inner = self.rank() + 1;
        if dims.len() <= inner {
            return Err(LayersError::Inputs(format!(
                "it takes an input of {} dimensions, not {}",
                inner + 1,
                g.fact(*x)
            )));
        }
        if dims.len() == inner + 1 {
            return Ok(None);
        }
        if g.dialect == Dialect::Keras3 {
            spatial::expect_rank(g, *x, inner + 1)?;
        }
        let (outer, rest) = dims.split_at(dims.len() - inner);
        let shape: Vec<Option<Dim>> = [None].into_iter().chain(rest.iter().map(|&d| Some(d))).collect();
        *x = spatial::reshape(g, *x, &shape)?;
        Ok(Some(outer.to_vec()))
    }

    /// A list with an entry per dimension, batch and channels 1; sequences are images of height 1.
    fn wide(&self, list: &[usize], height: usize) -> Vec<i64> {
        let height = (list.len() == 1).then_some(height);
        let inner = height.into_iter().chain(list.iter().copied()).map(|n| n as i64);
        [1].into_iter().chain(inner).chain([1]).collect()
    }

    /// The reach of the window along an axis.
    fn reach(&self, axis: usize) -> Result<usize> {
        Ok(times(self.size[axis] - 1, self.dilations[axis])? + 1)
    }

    /// What a padding adds before and after each axis of an image with channels last; `None` where sizes that are not
    /// known decide.
    fn pads(&self, g: &Emit, x: Port) -> Result<Option<Vec<(usize, usize)>>> {
        let mut pads = vec![(0, 0)];
        if self.rank() == 1 {
            pads.push((0, 0));
        }
        let first = pads.len();
        let shape = g.shape(x)?;
        for axis in 0..self.rank() {
            let reach = self.reach(axis)?;
            pads.push(match self.padding {
                Padding::Valid => (0, 0),
                Padding::Causal => (reach - 1, 0),
                Padding::Same => {
                    let stride = self.strides[axis];
                    let total = match shape.get(first + axis).copied().flatten() {
                        Some(n) => (n.div_ceil(stride).max(1) - 1)
                            .saturating_mul(stride)
                            .saturating_add(reach)
                            .saturating_sub(n),
                        None if stride == 1 => reach - 1,
                        None => return Ok(None),
                    };
                    (total / 2, total - total / 2)
                }
            });
        }
        pads.push((0, 0));
        Ok(Some(pads))
    }

    /// The convolution itself, over an image with channels last.
    fn convolve(&self, g: &mut Emit, x: Port, kernel: Port, depthwise: bool) -> Result<Port> {
        let uneven = depthwise && self.strides.iter().any(|&s| s != self.strides[0]);
        let both = self.strides.iter().any(|&s| s > 1) && self.dilations.iter().any(|&d| d > 1);
        // Neither TensorFlow nor TF.js has these in one op: every place is computed, then some are taken.
        if (uneven || both)
            && let Some(pads) = self.pads(g, x)?
        {
            let x = g.pad(x, &pads, 0.0)?;
            let ones = vec![1; self.rank()];
            let y = self.conv_op(g, x, kernel, depthwise, &ones, "VALID", &[])?;
            let strides = self.wide(&self.strides, 1);
            let axes: Vec<_> = strides.iter().map(|&s| (0, None, s as i32)).collect();
            return spatial::strided_slice(g, y, &axes);
        }
        match self.padding {
            Padding::Valid => self.conv_op(g, x, kernel, depthwise, &self.strides, "VALID", &[]),
            Padding::Same => self.conv_op(g, x, kernel, depthwise, &self.strides, "SAME", &[]),
            Padding::Causal => {
                let pads = self.pads(g, x)?.unwrap_or_default();
                self.conv_op(g, x, kernel, depthwise, &self.strides, "EXPLICIT", &pads)
            }
        }
    }

    /// A convolution with a window of size 1.
    fn pointwise(&self, g: &mut Emit, x: Port, kernel: Port) -> Result<Port> {
        let kernel = if self.rank() == 1 { g.expand_dims(kernel, 0)? } else { kernel };
        let attrs = [
            ("strides", attr::ints([1; 4])),
            ("padding", attr::text("VALID")),
            ("dilations", attr::ints([1; 4])),
            ("data_format", attr::text("NHWC")),
        ];
        g.op("Conv2D", &[x, kernel], &attrs)
    }

    fn conv_op(
        &self,
        g: &mut Emit,
        x: Port,
        kernel: Port,
        depthwise: bool,
        strides: &[usize],
        padding: &str,
        pads: &[(usize, usize)],
    ) -> Result<Port> {
        let kernel = if self.rank() == 1 { g.expand_dims(kernel, 0)? } else { kernel };
        let op = match (depthwise, self.rank()) {
            (true, _) => "DepthwiseConv2dNative",
            (false, 3) => "Conv3D",
            (false, _) => "Conv2D",
        };
        // A depthwise convolution wants the same stride along both axes.
        let height = if depthwise { strides[0] } else { 1 };
        let explicit = pads.iter().flat_map(|&(a, b)| [a as i64, b as i64]);
        let mut attrs = vec![
            ("strides", attr::ints(self.wide(strides, height))),
            ("padding", attr::text(padding)),
            ("dilations", attr::ints(self.wide(&self.dilations, 1))),
            ("data_format", attr::text(if self.rank() == 3 { "NDHWC" } else { "NHWC" })),
        ];
        if op != "Conv3D" {
            attrs.push(("explicit_paddings", attr::ints(explicit)));
        }
        g.op(op, &[x, kernel], &attrs)
    }
}

fn conv(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["input_dim", "input_length"]);
    let layer = Conv {
        window: Window::new(c, rank)?,
        filters: c.usize("filters")?,
        groups: c.usize_or("groups", 1)?,
        kernel: Kernel::new(c, "kernel", "glorot_uniform")?,
        weights: None,
    };
    if layer.groups == 0 || !layer.filters.is_multiple_of(layer.groups) {
        return Err(c.wrong("groups", format!("a divisor of the {} filters", layer.filters)));
    }
    Ok(Box::new(layer))
}

/// Convolution: `activation(x ∗ kernel + bias)`.
///
/// kernel: `[window…, in / groups, filters]`, bias: `[filters]`.
#[derive(Debug)]
struct Conv {
    window: Window,
    filters: usize,
    groups: usize,
    kernel: Kernel,
    weights: Option<(KernelIds, Option<WeightId>)>,
}

impl Layer for Conv {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let channels = self.window.channels(inputs)?;
        if channels % self.groups != 0 {
            return Err(LayersError::Inputs(format!(
                "{channels} channels cannot be divided into {} groups",
                self.groups
            )));
        }
        let mut shape = self.window.size.clone();
        shape.extend([channels / self.groups, self.filters]);
        let mut kernel = self.kernel.declare(scope, &shape);
        let bias = self.window.bias(scope, self.filters);
        self.kernel.declare_lora(scope, &shape, &mut kernel);
        self.weights = Some((kernel, bias));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (kernel, bias) = built(self.weights)?;
        self.window.apply(g, call, bias, |g, x| {
            let kernel = self.kernel.emit(g, kernel)?;
            if self.groups == 1 {
                return self.window.convolve(g, x, kernel, false);
            }
            self.grouped(g, x, kernel)
        })
    }
}

impl Conv {
    /// TF.js has no groups: with one channel per group it is a depthwise convolution, else one convolution per group.
    fn grouped(&self, g: &mut Emit, x: Port, kernel: Port) -> Result<Port> {
        let rank = self.window.rank();
        let own = g.known_dim(kernel, rank, "channels of the kernel")?;
        if own == 1 && rank < 3 {
            let mut dims: Vec<Dim> = self.window.size.iter().map(|&n| Dim::Known(n)).collect();
            dims.extend([Dim::Known(self.groups), Dim::Known(self.filters / self.groups)]);
            let kernel = g.reshape(kernel, &dims)?;
            return self.window.convolve(g, x, kernel, true);
        }
        let axis = g.rank(x)? - 1;
        let parts = g.split(x, axis, self.groups)?;
        let kernels = g.split(kernel, rank + 1, self.groups)?;
        let mut outputs = Vec::with_capacity(self.groups);
        for (x, kernel) in parts.into_iter().zip(kernels) {
            outputs.push(self.window.convolve(g, x, kernel, false)?);
        }
        g.concat(&outputs, axis)
    }
}
