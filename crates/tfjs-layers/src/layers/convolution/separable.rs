//! Depthwise and separable convolutions.

use tfjs_graph::Fact;

use super::{Result, Window};
use crate::{
    Call, Config, Dialect, Emit, Layer, Scope, Sym, WeightId, WeightInit,
    layers::{core::built, spatial::times},
};

pub(super) fn depthwise(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["groups", "filters", "kernel_initializer", "kernel_regularizer", "kernel_constraint"]);
    Ok(Box::new(Depthwise {
        window: Window::new(c, rank)?,
        multiplier: c.usize_or("depth_multiplier", 1)?,
        initializer: c.initializer("depthwise", "glorot_uniform")?,
        weights: None,
    }))
}

/// Every channel convolved by itself, with `multiplier` kernels.
///
/// depthwise_kernel (Keras 3: kernel): `[window…, in, multiplier]`, bias: `[in · multiplier]`.
#[derive(Debug)]
struct Depthwise {
    window: Window,
    multiplier: usize,
    initializer: WeightInit,
    weights: Option<(WeightId, Option<WeightId>)>,
}

impl Layer for Depthwise {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let channels = self.window.channels(inputs)?;
        let mut shape = self.window.size.clone();
        shape.extend([channels, self.multiplier]);
        let name = if scope.dialect == Dialect::Keras3 { "kernel" } else { "depthwise_kernel" };
        let kernel = scope.weight(name, &shape, self.initializer.clone());
        scope.rename_tfjs(kernel, "depthwise_kernel");
        let bias = self.window.bias(scope, times(channels, self.multiplier)?);
        self.weights = Some((kernel, bias));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (kernel, bias) = built(self.weights)?;
        self.window.apply(g, call, bias, |g, x| {
            let kernel = g.weight(kernel);
            self.window.convolve(g, x, kernel, true)
        })
    }
}

pub(super) fn separable(c: &Config<'_>, rank: usize) -> Result<Box<dyn Layer>> {
    c.known(&["groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"]);
    Ok(Box::new(Separable {
        window: Window::new(c, rank)?,
        filters: c.usize("filters")?,
        multiplier: c.usize_or("depth_multiplier", 1)?,
        depthwise_initializer: c.initializer("depthwise", "glorot_uniform")?,
        pointwise_initializer: c.initializer("pointwise", "glorot_uniform")?,
        weights: None,
    }))
}

/// A depthwise convolution, then one with a window of size 1.
///
/// depthwise_kernel: `[window…, in, multiplier]`, pointwise_kernel: `[1…, in · multiplier, filters]`, bias: `[filters]`.
#[derive(Debug)]
struct Separable {
    window: Window,
    filters: usize,
    multiplier: usize,
    depthwise_initializer: WeightInit,
    pointwise_initializer: WeightInit,
    weights: Option<(WeightId, WeightId, Option<WeightId>)>,
}

impl Layer for Separable {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let channels = self.window.channels(inputs)?;
        let mut shape = self.window.size.clone();
        shape.extend([channels, self.multiplier]);
        let depthwise = scope.weight("depthwise_kernel", &shape, self.depthwise_initializer.clone());
        let mut shape = vec![1; self.window.rank()];
        shape.extend([times(channels, self.multiplier)?, self.filters]);
        let pointwise = scope.weight("pointwise_kernel", &shape, self.pointwise_initializer.clone());
        let bias = self.window.bias(scope, self.filters);
        self.weights = Some((depthwise, pointwise, bias));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (depthwise, pointwise, bias) = built(self.weights)?;
        self.window.apply(g, call, bias, |g, x| {
            let depthwise = g.weight(depthwise);
            let y = self.window.convolve(g, x, depthwise, true)?;
            let pointwise = g.weight(pointwise);
            self.window.pointwise(g, y, pointwise)
        })
    }
}
