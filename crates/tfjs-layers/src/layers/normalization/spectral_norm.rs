//! Spectral normalisation.

use tfjs_graph::{Fact, Port, builder::attr};

use super::Result;
use crate::{
    Call, Config, Dialect, Emit, Initializer, Layer, LayersError, Scope, Sym, Weight, WeightId, emit::Dim,
    layers::core::built, topology::LayerConfig,
};

pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let iterations = c.usize_or("power_iterations", 1)?;
    if iterations == 0 {
        return Err(c.wrong("power_iterations", "at least 1"));
    }
    let inner = c.get("layer").ok_or_else(|| c.wrong("layer", "a layer"))?;
    let inner = LayerConfig::nested(inner, c.dialect)?;
    let layer = c.make(&inner)?;
    Ok(Box::new(SpectralNormalization {
        trainable: inner.trainable(),
        name: inner.name,
        class: inner.class_name,
        layer,
        iterations,
        weights: None,
    }))
}

/// A layer whose kernel training divides by its largest singular value. The kernel in the file is the divided one, so
/// that prediction is that of the layer alone. Each step of training divides it again.
///
/// vector_u: `[1, last size of the kernel]`, an estimate of its last singular vector, which only training uses.
#[derive(Debug)]
struct SpectralNormalization {
    name: String,
    class: String,
    /// What the layer inside says of itself.
    trainable: bool,
    layer: Box<dyn Layer>,
    /// How often the estimate is improved in a step.
    iterations: usize,
    /// kernel and vector_u.
    weights: Option<(WeightId, WeightId)>,
}

impl Layer for SpectralNormalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let first = scope.count();
        scope
            .enter_held(["layer", &self.name, ""], self.trainable, |scope| self.layer.build(scope, inputs))
            .map_err(|e| e.in_layer(&self.name, &self.class))?;
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let is_kernel = |w: &Weight| matches!(last(&w.object).as_str(), "kernel" | "embeddings");
        let kernel = scope.params().weights[first..].iter().position(|w| is_kernel(w)).map(|at| first + at);
        let width = kernel.and_then(|id| scope.params().weights[id].shape.last().copied());
        let (Some(kernel), Some(width)) = (kernel, width) else {
            return Err(LayersError::Inputs(format!(
                "{} `{}` has neither a kernel nor embeddings",
                self.class, self.name
            )));
        };
        scope.list(WeightId(kernel));
        scope.hold(WeightId(kernel));
        let mut initializer = Initializer::named("truncated_normal");
        initializer.config.insert("stddev".to_owned(), 0.02.into());
        let vector = scope.state("vector_u", &[1, width], initializer);
        scope.hold(vector);
        self.weights = Some((WeightId(kernel), vector));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (kernel, vector) = built(self.weights)?;
        if call.training(g) {
            self.divide(g, kernel, vector)?;
        }
        let mut outputs = self.layer.call(g, call).map_err(|e| e.in_layer(&self.name, &self.class))?;
        // Keras 3 gives what it was given, even whole numbers for the rows of an embedding.
        if let (Dialect::Keras3, Some(input), [output]) = (g.dialect, call.inputs.first(), &mut outputs[..]) {
            output.port = g.cast(output.port, g.dtype(input.port))?;
        }
        Ok(outputs)
    }
}

impl SpectralNormalization {
    /// Improves the estimate of the singular vectors, and replaces the kernel by that divided by the singular value. The
    /// gradient is that of the new kernel.
    fn divide(&self, g: &mut Emit, kernel_id: WeightId, vector_id: WeightId) -> Result<()> {
        let (kernel, vector) = (g.weight(kernel_id), g.weight(vector_id));
        let dims = g.dims(kernel)?;
        let width = dims.last().copied().unwrap_or(Dim::Known(1));
        let rows = dims.split_last().map_or(Some(1), |(_, rest)| {
            rest.iter().try_fold(1usize, |n, d| match d {
                Dim::Known(size) => n.checked_mul(*size),
                Dim::Of(..) => None,
            })
        });
        let rows = rows.ok_or_else(|| LayersError::Inputs("the kernel is too large".to_owned()))?;
        let matrix = g.reshape(kernel, &[Dim::Known(rows), width])?;
        let (mut left, mut right) = (vector, vector);
        for _ in 0..self.iterations {
            left = product(g, right, matrix, true)?;
            left = unit(g, left)?;
            right = product(g, left, matrix, false)?;
            right = unit(g, right)?;
        }
        let value = product(g, left, matrix, false)?;
        let value = product(g, value, right, true)?;
        let value = g.reshape(value, &[])?;
        let divided = g.div(kernel, value)?;
        // A kernel of zeros stays as it is.
        let zero = g.scalar(0.0);
        let zeros = g.op("Equal", &[kernel, zero], &[])?;
        let axes: Vec<usize> = (0..dims.len()).collect();
        let zeros = g.reduce("All", zeros, &axes, false)?;
        let kernel = g.select(zeros, kernel, divided)?;
        let right = g.select(zeros, vector, right)?;
        g.update(kernel_id, kernel)?;
        g.update(vector_id, right)
    }
}

fn product(g: &mut Emit, a: Port, b: Port, transpose: bool) -> Result<Port> {
    g.op("MatMul", &[a, b], &[("transpose_a", attr::bool(false)), ("transpose_b", attr::bool(transpose))])
}

/// A vector of length 1 in the same direction.
fn unit(g: &mut Emit, x: Port) -> Result<Port> {
    let squares = g.unary("Square", x)?;
    let sum = g.reduce("Sum", squares, &[0, 1], true)?;
    // What Keras adds here is that no vector becomes longer than 10⁷ or 10⁶ times itself.
    let least = g.scalar(if g.dialect == Dialect::Keras3 { 1e-14 } else { 1e-12 });
    let sum = g.op("Maximum", &[sum, least], &[])?;
    let inverse = g.unary("Rsqrt", sum)?;
    g.mul(x, inverse)
}
