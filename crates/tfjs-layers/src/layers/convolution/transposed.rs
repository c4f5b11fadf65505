//! Transposed convolutions.

use tfjs_graph::{Fact, Port, builder::attr};

use super::{Padding, Result, Window};
use crate::{
    Call, Config, Dialect, Emit, Layer, LayersError, Scope, Sym, WeightId, WeightInit,
    emit::Dim,
    layers::{
        core::built,
        spatial::{self, times},
    },
};

pub(super) fn new(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["groups"]);
    let mut window = Window::new(c, rank)?;
    if window.padding == Padding::Causal {
        return Err(c.wrong("padding", "one of valid, same"));
    }
    // Its config says nothing of them, and they have no effect there.
    if c.dialect == Dialect::Keras2 && rank == 3 {
        window.dilations = vec![1; 3];
    }
    let output_padding =
        if c.get("output_padding").is_some() { Some(c.sizes("output_padding", rank)?) } else { None };
    Ok(Box::new(Transposed {
        window,
        filters: c.usize("filters")?,
        output_padding,
        kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
        weights: None,
    }))
}

/// Transposed convolution: every input place adds the kernel, times its value, to the output, `strides` apart.
///
/// kernel: `[window…, filters, in]`, bias: `[filters]`.
#[derive(Debug)]
struct Transposed {
    window: Window,
    filters: usize,
    output_padding: Option<Vec<usize>>,
    kernel_initializer: WeightInit,
    weights: Option<(WeightId, Option<WeightId>)>,
}

/// What becomes of an axis of length n: `n · stride + extra` places, after `before` have been cut off.
#[derive(Clone, Copy, Debug)]
struct Axis {
    kernel: usize,
    /// Reach of the kernel, holes included.
    reach: usize,
    dilation: usize,
    stride: usize,
    extra: i64,
    before: usize,
}

impl Layer for Transposed {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let mut shape = self.window.size.clone();
        shape.extend([self.filters, self.window.channels(inputs)?]);
        let kernel = scope.weight("kernel", &shape, self.kernel_initializer.clone());
        let bias = self.window.bias(scope, self.filters);
        self.weights = Some((kernel, bias));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (kernel, bias) = built(self.weights)?;
        let mut axes: Vec<Axis> = (0..self.window.rank()).map(|i| self.axis(i)).collect::<Result<_>>()?;
        self.window.apply(g, call, bias, |g, x| {
            let mut kernel = g.weight(kernel);
            if axes.len() == 1 {
                kernel = g.expand_dims(kernel, 0)?;
                axes.insert(0, Axis { kernel: 1, reach: 1, dilation: 1, stride: 1, extra: 0, before: 0 });
            }
            // TF.js has the op in two dimensions, without dilation.
            if axes.len() == 2 && axes.iter().all(|a| a.dilation == 1) {
                return self.backprop(g, x, kernel, &axes);
            }
            if axes.iter().all(|a| a.stride == 1) {
                return mirrored(g, x, kernel, &axes);
            }
            self.phases(g, x, kernel, &axes)
        })
    }
}

impl Transposed {
    fn axis(&self, i: usize) -> Result<Axis> {
        let (kernel, stride) = (self.window.size[i], self.window.strides[i]);
        let reach = self.window.reach(i)?;
        let same = self.window.padding == Padding::Same;
        let (stride_, reach_) = (stride as i64, reach as i64);
        // Length of the output minus n · stride.
        let extra = match self.output_padding.as_ref().map(|p| p[i] as i64) {
            None if same => 0,
            None => (reach_ - stride_).max(0),
            Some(p) if same => reach_ % 2 + p - stride_,
            Some(p) => reach_ + p - stride_,
        };
        // What is too much is cut off on both sides, the odd place at the end.
        let before = if same { (reach_ - stride_ - extra).max(0) as usize / 2 } else { 0 };
        Ok(Axis { kernel, reach, dilation: self.window.dilations[i], stride, extra, before })
    }

    fn backprop(&self, g: &mut Emit, x: Port, kernel: Port, axes: &[Axis]) -> Result<Port> {
        let mut sizes = vec![g.dim(x, 0)?];
        let mut known = vec![g.shape(x)?[0]];
        let mut parts = vec![g.dim_value(sizes[0])?];
        for (i, a) in axes.iter().enumerate() {
            match g.dim(x, i + 1)? {
                Dim::Known(n) => {
                    let out = times(n, a.stride)? as i64 + a.extra;
                    let out = usize::try_from(out).ok().filter(|&n| n > 0).ok_or_else(|| {
                        LayersError::Inputs(format!("nothing is left of {} with this padding", g.fact(x)))
                    })?;
                    parts.push(g.int(out as i32));
                    sizes.push(Dim::Known(out));
                    known.push(Some(out));
                }
                dim => {
                    let (n, stride, extra) =
                        (g.dim_value(dim)?, g.int(a.stride as i32), g.int(a.extra as i32));
                    let scaled = g.mul(n, stride)?;
                    parts.push(g.add(scaled, extra)?);
                    sizes.push(dim);
                    known.push(None);
                }
            }
        }
        parts.push(g.int(self.filters as i32));
        known.push(Some(self.filters));
        sizes.push(Dim::Known(self.filters));
        let all_known = sizes.iter().all(|d| matches!(d, Dim::Known(_)));
        let shape =
            if all_known { g.shape_value(&sizes)? } else { g.op("Pack", &parts, &[("axis", attr::int(0))])? };
        let padding = if self.window.padding == Padding::Same { "SAME" } else { "VALID" };
        let strides = [1, axes[0].stride as i64, axes[1].stride as i64, 1];
        let attrs = [
            ("strides", attr::ints(strides)),
            ("padding", attr::text(padding)),
            ("dilations", attr::ints([1; 4])),
            ("data_format", attr::text("NHWC")),
        ];
        let y = g.op("Conv2DBackpropInput", &[shape, kernel, x], &attrs)?;
        g.set_shape(y, &known);
        Ok(y)
    }

    /// A convolution that computes, for every input place, all `strides` outputs that begin there as channels of their
    /// own, which then move to their places.
    fn phases(&self, g: &mut Emit, x: Port, kernel: Port, axes: &[Axis]) -> Result<Port> {
        let rank = axes.len();
        let channels = g.known_dim(x, rank + 1, "channels")?;
        // Kernel steps per axis: places of the input that an output place sees.
        let steps: Vec<usize> = axes.iter().map(|a| a.reach.div_ceil(a.stride)).collect();
        let mut kernel = spread(g, kernel, axes)?;
        let pads: Vec<(usize, usize)> = axes
            .iter()
            .zip(&steps)
            .map(|(a, m)| (0, m * a.stride - a.reach))
            .chain([(0, 0), (0, 0)])
            .collect();
        kernel = g.pad(kernel, &pads, 0.0)?;
        // [steps, stride] per axis, filters, channels → steps…, channels, strides…, filters
        let mut dims = Vec::new();
        for (a, &m) in axes.iter().zip(&steps) {
            dims.extend([Dim::Known(m), Dim::Known(a.stride)]);
        }
        dims.extend([Dim::Known(self.filters), Dim::Known(channels)]);
        kernel = g.reshape(kernel, &dims)?;
        kernel = reverse(g, kernel, &(0..rank).map(|i| 2 * i).collect::<Vec<_>>())?;
        let order: Vec<usize> = (0..rank)
            .map(|i| 2 * i)
            .chain([2 * rank + 1])
            .chain((0..rank).map(|i| 2 * i + 1))
            .chain([2 * rank])
            .collect();
        kernel = g.transpose(kernel, &order)?;
        let phases: usize = axes.iter().map(|a| a.stride).product();
        let dims: Vec<Dim> = steps.iter().map(|&m| Dim::Known(m)).collect();
        let last = [Dim::Known(channels), Dim::Known(times(phases, self.filters)?)];
        kernel = g.reshape(kernel, &dims.into_iter().chain(last).collect::<Vec<_>>())?;

        let around: Vec<(usize, usize)> =
            [(0, 0)].into_iter().chain(steps.iter().map(|m| (m - 1, m - 1))).chain([(0, 0)]).collect();
        let x = g.pad(x, &around, 0.0)?;
        let y = plain(g, x, kernel, &vec![1; rank])?;
        let y = interleave(g, y, axes, self.filters)?;
        let mut cuts = vec![(0, 0)];
        let mut more = vec![(0, 0)];
        for (a, m) in axes.iter().zip(&steps) {
            // (n + m − 1) · stride places are there, n · stride + extra are wanted after `before`.
            let after = ((m - 1) * a.stride) as i64 - a.extra - a.before as i64;
            cuts.push((a.before, after.max(0) as usize));
            more.push((0, (-after).max(0) as usize));
        }
        cuts.push((0, 0));
        more.push((0, 0));
        let y = spatial::crop(g, y, &cuts)?;
        g.pad(y, &more, 0.0)
    }
}

/// With strides of 1: an ordinary convolution with the kernel mirrored.
fn mirrored(g: &mut Emit, x: Port, kernel: Port, axes: &[Axis]) -> Result<Port> {
    let rank = axes.len();
    let order: Vec<usize> = (0..rank).chain([rank + 1, rank]).collect();
    let kernel = g.transpose(kernel, &order)?;
    let kernel = reverse(g, kernel, &(0..rank).collect::<Vec<_>>())?;
    let mut around = vec![(0, 0)];
    for a in axes {
        let before = a.reach - 1 - a.before.min(a.reach - 1);
        let after = a.extra + a.reach as i64 - 1 - before as i64;
        around.push((before, after.max(0) as usize));
    }
    around.push((0, 0));
    let x = g.pad(x, &around, 0.0)?;
    plain(g, x, kernel, &axes.iter().map(|a| a.dilation).collect::<Vec<_>>())
}

fn plain(g: &mut Emit, x: Port, kernel: Port, dilations: &[usize]) -> Result<Port> {
    let rank = dilations.len();
    let dilations = [1].into_iter().chain(dilations.iter().map(|&d| d as i64)).chain([1]);
    let attrs = [
        ("strides", attr::ints(vec![1; rank + 2])),
        ("padding", attr::text("VALID")),
        ("dilations", attr::ints(dilations)),
        ("data_format", attr::text(if rank == 3 { "NDHWC" } else { "NHWC" })),
    ];
    g.op(if rank == 3 { "Conv3D" } else { "Conv2D" }, &[x, kernel], &attrs)
}

fn reverse(g: &mut Emit, x: Port, axes: &[usize]) -> Result<Port> {
    let axes: Vec<i32> = axes.iter().map(|&a| a as i32).collect();
    let axes = g.ints(&axes);
    g.op("ReverseV2", &[x, axes], &[])
}

/// A dilated kernel with its holes written out as zeros.
fn spread(g: &mut Emit, mut kernel: Port, axes: &[Axis]) -> Result<Port> {
    for (i, a) in axes.iter().enumerate().filter(|(_, a)| a.dilation > 1) {
        let shape = g.dims(kernel)?;
        let rank = shape.len();
        let mut dims = shape.clone();
        dims.insert(i + 1, Dim::Known(1));
        kernel = g.reshape(kernel, &dims)?;
        let mut pads = vec![(0, 0); rank + 1];
        pads[i + 1] = (0, a.dilation - 1);
        kernel = g.pad(kernel, &pads, 0.0)?;
        let mut dims = shape;
        dims[i] = Dim::Known(times(a.kernel, a.dilation)?);
        kernel = g.reshape(kernel, &dims)?;
        let mut cuts = vec![(0, 0); rank];
        cuts[i] = (0, a.dilation - 1);
        kernel = spatial::crop(g, kernel, &cuts)?;
    }
    Ok(kernel)
}

/// Moves the phases in the channels to their places: `[batch, n…, stride… · filters]` becomes
/// `[batch, n · stride…, filters]`, with no more than six axes on the way.
fn interleave(g: &mut Emit, y: Port, axes: &[Axis], filters: usize) -> Result<Port> {
    let rank = axes.len();
    let dims = g.dims(y)?;
    let some = |d: &[Dim]| d.iter().map(|&d| Some(d)).collect::<Vec<_>>();
    let strides: Vec<usize> = axes.iter().map(|a| a.stride).collect();
    let last = Dim::Known(times(strides[rank - 1], filters)?);
    // The phase of the last axis changes places with nothing but that axis: it stays with the filters.
    let outer: usize = strides[..rank - 1].iter().product();
    let mut split = some(&dims[..=rank]);
    split.extend([Some(Dim::Known(outer)), Some(last)]);
    let y = spatial::reshape(g, y, &split)?;
    let order: Vec<usize> = (0..rank).chain([rank + 1, rank, rank + 2]).collect();
    let mut y = g.transpose(y, &order)?;
    if rank == 3 {
        let mut split = some(&dims[..3]);
        split.extend([Some(Dim::Known(strides[0])), Some(Dim::Known(strides[1])), None]);
        y = spatial::reshape(g, y, &split)?;
        y = g.transpose(y, &[0, 1, 3, 2, 4, 5])?;
    }
    let mut parts = vec![g.dim_value(dims[0])?];
    let mut facts = vec![g.shape(y)?[0]];
    for (d, &stride) in dims[1..=rank].iter().zip(&strides) {
        let size = g.dim_value(*d)?;
        let stride_value = g.int(stride as i32);
        parts.push(g.mul(size, stride_value)?);
        facts.push(match d {
            Dim::Known(n) => Some(times(*n, stride)?),
            Dim::Of(..) => None,
        });
    }
    parts.push(g.int(filters as i32));
    facts.push(Some(filters));
    let unknown = facts.iter().filter(|f| f.is_none()).count();
    let shape = if unknown <= 1 {
        g.ints(&facts.iter().map(|f| f.map_or(-1, |n| n as i32)).collect::<Vec<_>>())
    } else {
        g.op("Pack", &parts, &[("axis", attr::int(0))])?
    };
    let y = g.op("Reshape", &[y, shape], &[])?;
    g.set_shape(y, &facts);
    Ok(y)
}
