use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tfjs_format::{DType, proto::DataType};
use tracing::debug;

use crate::{
    Constant, Effect, Fact, Graph, GraphError, LoadError, Node, NodeId, Op, Port, Registry, Value,
    exec::eval_alone,
    op::{Build, Inputs},
};

/// Constants up to this many elements are looked at; larger ones are weights, and computing with them is put off
/// until they are written or packed.
const SMALL: usize = 1 << 14;

/// How many elements a fold may add beyond those it uses up.
const GROWTH: usize = 1 << 16;

/// Replaces nodes that always give the same value by constants; says how many.
///
/// A node folds when its inputs are constant, or when its value follows from shapes alone (`Shape` of an input of known
/// shape). Values are computed by the ops themselves. Nodes over large weights become deferred constants, so that
/// nothing is read ahead of time.
///
/// # Errors
/// When the graph has a cycle. A node that cannot be computed is left alone: it may lie on a branch never taken.
pub fn fold_constants(graph: &mut Graph, registry: &Registry) -> Result<usize, GraphError> {
    let analysis = Analysis::new(graph, registry)?;
    let mut folded = 0;
    for id in graph.topological_order()? {
        let node = graph.node(id);
        if node.value.is_some() {
            continue;
        }
        let Some(op) = analysis.ops.get(&id) else { continue };
        if !foldable(graph, id, op.as_ref(), analysis.frames) {
            continue;
        }
        let facts = analysis.outputs.get(&id).map_or(&[][..], |f| f);
        if let [Fact { value: Some(value), .. }] = facts {
            set_constant(graph, id, Constant::new(data_type(graph, id, value.dtype()), value.clone()));
            folded += 1;
            continue;
        }
        // All inputs constant (some large, or just made so): compute when needed.
        let node = graph.node(id);
        let inputs: Option<Vec<Constant>> = node
            .inputs
            .iter()
            .map(|p| graph.node(p.node).value.clone().filter(|_| graph.node(p.node).controls.is_empty()))
            .collect();
        let (Some(inputs), [fact]) = (inputs, facts) else { continue };
        let (Some(shape), Some(dtype)) = (fact.full_shape(), fact.dtype) else { continue };
        if inputs.is_empty() || shape.elements() > inputs.iter().map(Constant::len).sum::<usize>() + GROWTH {
            continue;
        }
        let (op, name) = (op.clone(), node.name.clone());
        let value = Constant::deferred(data_type(graph, id, dtype), &shape[..], move || {
            let values: Result<_, LoadError> = inputs.iter().map(|c| c.tensor().map(Value::Tensor)).collect();
            match eval_alone(op.as_ref(), &name, Inputs(values?))?.into_iter().next() {
                Some(Value::Tensor(t)) => Ok(t),
                _ => Err(format!("node `{name}` has no tensor to fold").into()),
            }
        });
        set_constant(graph, id, value);
        folded += 1;
    }
    debug!(folded, "constants folded");
    Ok(folded)
}

fn foldable(graph: &Graph, id: NodeId, op: &dyn Op, frames: bool) -> bool {
    let node = graph.node(id);
    // In a graph with frames a control input says on which branch a node is alive.
    let waits = |n: &Node| frames && !n.controls.is_empty();
    op.effect() == Effect::Pure
        && op.flow().is_none()
        && !node.op.starts_with("Placeholder")
        && !waits(node)
        && !node.inputs.iter().any(|p| waits(graph.node(p.node)))
}

/// TensorFlow's type of a folded value: that of the node's attributes where it fits, so that int64 stays int64.
fn data_type(graph: &Graph, id: NodeId, dtype: DType) -> DataType {
    let attrs = &graph.node(id).attrs;
    ["out_type", "output_type", "DstT", "dtype", "T", "Tout", "Tidx", "Tparams"]
        .iter()
        .filter_map(|a| attrs.opt_data_type(a).ok().flatten())
        .find(|t| DType::from_proto(*t) == Some(dtype))
        .unwrap_or_else(|| dtype.to_proto())
}

fn set_constant(graph: &mut Graph, id: NodeId, value: Constant) {
    let node = graph.node_mut(id);
    let name = std::mem::take(&mut node.name);
    let device = std::mem::take(&mut node.device);
    *node = crate::Node { device, ..crate::Node::constant(name, value) };
}

/// Type, shape and (of small values) value of every port, as far as they are known.
///
/// # Errors
/// When the graph has a cycle.
pub fn infer_facts(graph: &Graph, registry: &Registry) -> Result<HashMap<Port, Fact>, GraphError> {
    let Analysis { outputs, .. } = Analysis::new(graph, registry)?;
    let ports = outputs.into_iter().flat_map(|(node, facts)| {
        facts.into_iter().enumerate().map(move |(i, f)| (Port { node, index: i as u32 }, f))
    });
    Ok(ports.collect())
}

/// Ops and facts of a whole graph. Ops that cannot be built, and calls of functions, have no entry.
struct Analysis {
    ops: HashMap<NodeId, Arc<dyn Op>>,
    outputs: HashMap<NodeId, Vec<Fact>>,
    frames: bool,
}

impl Analysis {
    fn new(graph: &Graph, registry: &Registry) -> Result<Analysis, GraphError> {
        let mut this =
            Analysis { ops: HashMap::new(), outputs: HashMap::new(), frames: super::has_frames(graph) };
        let empty = BTreeMap::new();
        let declared: HashMap<Port, Fact> = graph
            .inputs
            .iter()
            .map(|e| {
                let shape = e.shape.as_ref().and_then(crate::partial_shape);
                (e.port, Fact { dtype: DType::from_proto(e.data_type), shape, value: None })
            })
            .collect();
        for id in graph.topological_order()? {
            let node = graph.node(id);
            if let Some(c) = &node.value {
                let alone = !this.frames || node.controls.is_empty();
                let fact = if c.len() <= SMALL
                    && alone
                    && let Ok(t) = c.tensor()
                {
                    Fact::constant(t)
                } else {
                    let shape = c.shape().iter().map(|&d| Some(d)).collect::<Vec<_>>();
                    Fact { dtype: DType::from_proto(c.data_type()), shape: Some(shape), value: None }
                };
                this.outputs.insert(id, vec![fact]);
                continue;
            }
            if let Some(fact) = declared.get(&id.into())
                && fact.shape.is_some()
            {
                this.outputs.insert(id, vec![fact.clone()]);
                continue;
            }
            let facts: Vec<Fact> = node.inputs.iter().map(|p| this.fact(*p)).collect();
            // Functions are not looked into: a call's outputs are unknown.
            let functions =
                |name: &str, _: &[Fact]| Err(GraphError::MissingFunction { name: name.to_owned() });
            let build =
                Build { node, attrs: &node.attrs, facts: &facts, library: &empty, functions: &functions };
            let Some(Ok(op)) = registry.build(&build) else { continue };
            let mut outs = op.infer(&facts).unwrap_or_default();
            let pure = foldable(graph, id, op.as_ref(), this.frames);
            if !pure {
                outs.iter_mut().for_each(|f| f.value = None);
            } else if outs.iter().any(|f| f.value.is_none()) || outs.is_empty() {
                Self::compute(&node.name, op.as_ref(), &facts, &mut outs);
            }
            this.outputs.insert(id, outs);
            this.ops.insert(id, op.into());
        }
        Ok(this)
    }

    fn fact(&self, port: Port) -> Fact {
        self.outputs.get(&port.node).and_then(|f| f.get(port.index as usize)).cloned().unwrap_or_default()
    }

    /// Runs an op whose inputs are all small constants.
    fn compute(name: &str, op: &dyn Op, facts: &[Fact], outs: &mut Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        let Some(inputs) = facts.iter().map(|f| f.value.clone().map(Value::Tensor)).collect::<Option<_>>()
        else {
            return;
        };
        let elements: usize = facts.iter().filter_map(Fact::full_shape).map(|s| s.elements()).sum();
        if outs.iter().filter_map(Fact::full_shape).any(|s| s.elements() > elements + GROWTH) {
            return;
        }
        let Ok(values) = eval_alone(op, name, Inputs(inputs)) else { return };
        if values.iter().any(|v| v.as_tensor().is_none_or(|t| t.len() > elements + GROWTH)) {
            return;
        }
        *outs = values.into_iter().filter_map(|v| v.as_tensor().cloned().map(Fact::constant)).collect();
    }
}
