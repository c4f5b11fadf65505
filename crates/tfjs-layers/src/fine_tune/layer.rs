//! A graph as a layer.

use std::sync::Arc;

use tfjs_graph::{Fact, Graph, NodeId, Port};

use crate::{Call, Emit, Initializer, Layer, LayersError, Scope, Sym, WeightId};

/// A graph of which some constants are weights.
#[derive(Clone, Debug)]
pub(crate) struct FrozenGraph(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    graph: Graph,
    initializer: Option<Graph>,
    /// What the layer's inputs are.
    inputs: Vec<Port>,
    /// What its weights are.
    weights: Vec<NodeId>,
}

impl PartialEq for FrozenGraph {
    fn eq(&self, other: &FrozenGraph) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl FrozenGraph {
    pub(super) fn new(
        graph: &Graph,
        initializer: Option<&Graph>,
        inputs: Vec<Port>,
        weights: Vec<NodeId>,
    ) -> FrozenGraph {
        let parts = Parts { graph: graph.clone(), initializer: initializer.cloned(), inputs, weights };
        FrozenGraph(Arc::new(parts))
    }

    /// A layer that writes the graph.
    pub(crate) fn layer(&self) -> Box<dyn Layer> {
        Box::new(GraphLayer { frozen: self.clone(), weights: Vec::new() })
    }
}

#[derive(Debug)]
struct GraphLayer {
    frozen: FrozenGraph,
    weights: Vec<WeightId>,
}

impl Layer for GraphLayer {
    fn build(&mut self, scope: &mut Scope<'_>, _: &[Fact]) -> Result<(), LayersError> {
        let Parts { graph, weights, .. } = &*self.frozen.0;
        for &id in weights {
            let node = graph.node(id);
            let shape = node.value.as_ref().map_or(&[][..], |v| v.shape());
            let weight = scope.weight(&node.name, shape, Initializer::zeros());
            scope.rename(weight, &node.name);
            self.weights.push(weight);
        }
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>, LayersError> {
        let Parts { graph, initializer, inputs, weights } = &*self.frozen.0;
        if call.inputs.len() != inputs.len() {
            let (wanted, given) = (inputs.len(), call.inputs.len());
            return Err(LayersError::Inputs(format!("the graph takes {wanted} inputs, {given} were given")));
        }
        let given = call.inputs.iter().map(|s| s.port);
        let mut replace: Vec<(Port, Port)> = inputs.iter().copied().zip(given).collect();
        for (&node, &weight) in weights.iter().zip(&self.weights) {
            replace.push((node.into(), g.weight(weight)));
        }
        // Nodes keep their names, by which errors and tables know them.
        let scope = g.builder().set_scope("");
        let inlined = g.builder().inline(graph, &replace);
        g.builder().set_scope(scope);
        let outputs = inlined?.outputs;
        if let Some(initializer) = initializer {
            g.initialize_with(initializer)?;
        }
        Ok(outputs.into_iter().map(Sym::from).collect())
    }
}
