//! Spectral normalisation.

use tfjs_graph::Fact;

use super::Result;
use crate::{
    Call, Config, Emit, Initializer, Layer, LayersError, Scope, Sym, Weight, WeightId, network,
    topology::LayerConfig,
};

pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["power_iterations"]);
    let inner = c.get("layer").ok_or_else(|| c.wrong("layer", "a layer"))?;
    let inner = LayerConfig::nested(inner, c.dialect)?;
    let layer = network::make(&inner, c.dialect).map_err(|e| e.in_layer(&inner.name, &inner.class_name))?;
    Ok(Box::new(SpectralNormalization { name: inner.name, class: inner.class_name, layer }))
}

/// A layer whose kernel training divides by its largest singular value. The kernel in the file is the divided one, so
/// that prediction is that of the layer alone.
///
/// vector_u: `[1, last size of the kernel]`, which only training uses.
#[derive(Debug)]
struct SpectralNormalization {
    name: String,
    class: String,
    layer: Box<dyn Layer>,
}

impl Layer for SpectralNormalization {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let first = scope.count();
        scope
            .enter("layer", &self.name, "", |scope| self.layer.build(scope, inputs))
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
        scope.state("vector_u", &[1, width], Initializer::named("truncated_normal"));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        self.layer.call(g, call).map_err(|e| e.in_layer(&self.name, &self.class))
    }
}
