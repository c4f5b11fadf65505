//! Reverse-mode differentiation, as a change to a graph: for every op on the way from a loss to what it is differentiated
//! by, the nodes that compute the op's gradient are added.
//!
//! # How a rule is written
//!
//! Rules stand in tables, one per family of ops, as the ops themselves do. A row names the op and writes nodes with
//! `GradCx`: `c.dy()` is the gradient of output 0, `c.x(i)` and `c.y(i)` are the node's inputs and outputs, `c.set(i, g)`
//! says what the gradient of input `i` is. An input without one has no gradient.
//!
//! ```text
//! row("Square", |c| { let (x, dy) = (c.x(0), c.dy()?); let double = c.scale(x, 2.0)?; let g = c.mul(dy, double)?; c.set(0, g) })
//! ```

use std::collections::HashMap;

use tfjs_kernels::{DType, Tensor};

use crate::{GraphError, NodeId, Port, UnsupportedOp, builder::Builder, builtin};

mod arithmetic;
mod basic_math;
mod calls;
mod compose;
mod convolution;
mod cx;
mod graph;
mod image;
mod list;
mod loops;
mod matrices;
mod none;
mod normalization;
mod ragged;
mod recurrent;
mod reduction;
mod slice_join;
mod spectral;
mod transformation;

pub(crate) use cx::GradCx;

type Result<T> = std::result::Result<T, GraphError>;

/// The gradient of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// As large as the value.
    Dense(Port),
    /// Rows of the value, as gathers of embeddings make them; the other rows have none. TensorFlow's `IndexedSlices`.
    Sparse {
        /// Which rows, `[n]`, int32. A row may occur more than once: then its gradients add up.
        indices: Port,
        /// Their gradients, `[n, …]`.
        values: Port,
        /// Shape of the whole value, an int32 vector.
        shape: Port,
    },
}

impl Gradient {
    /// The gradient as large as the value.
    ///
    /// # Errors
    /// Never for gradients made by [`gradients`].
    pub fn dense(self, b: &mut Builder) -> Result<Port> {
        match self {
            Gradient::Dense(port) => Ok(port),
            Gradient::Sparse { indices, values, shape } => {
                let rows = match b.fact(shape).ints().and_then(|s| s.first().copied()) {
                    Some(rows) => b.constant(Tensor::scalar(rows)),
                    None => {
                        let zero = b.constant(Tensor::scalar(0i32));
                        b.op("GatherV2", &[shape, zero, zero], &[])?
                    }
                };
                b.op("UnsortedSegmentSum", &[values, indices, rows], &[])
            }
        }
    }

    /// The sum of several gradients of `value`, if there are any: sparse if all of them are.
    ///
    /// # Errors
    /// Never for gradients made by [`gradients`].
    pub fn sum(b: &mut Builder, value: Port, parts: &[Gradient]) -> Result<Option<Gradient>> {
        Ok(match *parts {
            [] => None,
            [one] => Some(one),
            _ => Some(add(b, value, parts)?),
        })
    }
}

/// How an op is differentiated.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// Writes the gradients of its inputs.
    Grad(fn(&mut GradCx<'_>) -> Result<()>),
    /// Its outputs do not change with its inputs, or not smoothly: nothing flows back.
    Zero,
}

/// An op and its rule.
pub(crate) type Row = (&'static str, Rule);

pub(crate) const fn row(op: &'static str, rule: fn(&mut GradCx<'_>) -> Result<()>) -> Row {
    (op, Rule::Grad(rule))
}

fn rows() -> impl Iterator<Item = &'static Row> {
    [
        arithmetic::RULES,
        basic_math::RULES,
        calls::RULES,
        compose::RULES,
        convolution::RULES,
        graph::RULES,
        image::RULES,
        list::RULES,
        loops::RULES,
        matrices::RULES,
        none::RULES,
        normalization::RULES,
        ragged::RULES,
        recurrent::RULES,
        reduction::RULES,
        slice_join::RULES,
        spectral::RULES,
        transformation::RULES,
    ]
    .into_iter()
    .flatten()
}

/// The ops that have a rule.
pub fn rules() -> impl Iterator<Item = &'static str> {
    rows().filter(|(_, rule)| matches!(rule, Rule::Grad(_))).map(|&(op, _)| op)
}

fn rule(op: &str) -> Option<Rule> {
    static RULES: std::sync::LazyLock<HashMap<&'static str, Rule>> =
        std::sync::LazyLock::new(|| rows().copied().collect());
    RULES.get(op).copied()
}

/// What differentiation does at an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differentiable {
    /// There is a rule.
    Yes,
    /// Nothing flows back through it, as in TensorFlow.
    Zero,
    /// There is no rule: a gradient through it is refused.
    No,
}

/// What differentiation does at an op of this name.
pub fn differentiable(op: &str) -> Differentiable {
    match rule(op) {
        Some(Rule::Grad(_)) => Differentiable::Yes,
        Some(Rule::Zero) => Differentiable::Zero,
        None => Differentiable::No,
    }
}

/// Adds nodes that compute the gradients of the sum of `loss` by each of `wrt`; `None` where the loss does not depend on
/// it. Nodes are named after the node that they differentiate, under `gradients/`.
///
/// Gradients stop at `StopGradient` and `PreventGradient`. Integers and booleans have none, nor do ops whose value moves in
/// steps (`Floor`, comparisons, `ArgMax`, …). Loops are changed to keep the values that their gradient needs.
///
/// ```
/// use tfjs_graph::{DType, GraphModel, ModelOptions, Tensor, builder::Builder, gradients::gradients};
///
/// let mut b = Builder::default();
/// let x = b.placeholder("x", DType::Float32, &[Some(2)]);
/// let y = b.op("Square", &[x], &[])?;
/// let g = gradients(&mut b, y, &[x])?[0].expect("y depends on x").dense(&mut b)?;
/// b.output("g", g);
/// let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
/// let out = model.run([("x", Tensor::vector(vec![3f32, -1.0]))])?;
/// assert_eq!(out["g"].data::<f32>()?, [6.0, -2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`GraphError::NoGradient`] with all ops on the way that have no rule, [`GraphError::Gradient`] for a use of an op that
/// its rule does not cover, and [`GraphError::Cycle`].
pub fn gradients(b: &mut Builder, loss: Port, wrt: &[Port]) -> Result<Vec<Option<Gradient>>> {
    gradients_of(b, &[(loss, None)], wrt)
}

/// As [`gradients`], of several values, each with the gradient that comes from behind it (ones where there is none given).
///
/// # Errors
/// Those of [`gradients`].
pub fn gradients_of(
    b: &mut Builder,
    ys: &[(Port, Option<Port>)],
    wrt: &[Port],
) -> Result<Vec<Option<Gradient>>> {
    let order = b.graph().topological_order()?;
    let need = Need::new(b, &order, wrt);
    let path = path(b, &order, ys, &need)?;
    let outer = b.scope().to_owned();
    let prefix = if outer.is_empty() { "gradients".to_owned() } else { format!("{outer}/gradients") };
    let mut sums: HashMap<Port, Vec<Gradient>> = HashMap::new();
    let result = (|| {
        for &(y, dy) in ys {
            if !need.port(b, y) {
                continue;
            }
            b.set_scope(prefix.clone());
            let dy = match dy {
                Some(dy) => dy,
                None => ones_like(b, y)?,
            };
            sums.entry(y).or_default().push(Gradient::Dense(dy));
        }
        for &id in order.iter().rev() {
            if !path[id.0 as usize] {
                continue;
            }
            let node = b.graph().node(id).clone();
            let Some(Rule::Grad(rule)) = rule(&node.op) else { continue };
            if builtin(&node.op).is_some_and(|def| !def.arity.contains(&node.inputs.len())) {
                let problem = format!("it has {} inputs", node.inputs.len());
                return Err(GraphError::Gradient { node: node.name, op: node.op, problem });
            }
            let count = outputs(b, id, &sums);
            b.set_scope(format!("{prefix}/{}", node.name));
            let mut grads = Vec::with_capacity(count);
            for index in 0..count as u32 {
                grads.push(total(b, &mut sums, Port { node: id, index })?);
            }
            if grads.iter().all(Option::is_none) {
                continue;
            }
            let wanted: Vec<bool> = node.inputs.iter().map(|&p| need.port(b, p)).collect();
            let mut cx = GradCx::new(b, id, node, grads, wanted);
            rule(&mut cx)?;
            for (port, gradient) in cx.finish() {
                sums.entry(port).or_default().push(gradient);
            }
        }
        b.set_scope(prefix.clone());
        wrt.iter().map(|&port| total(b, &mut sums, port)).collect()
    })();
    b.set_scope(outer);
    result
}

/// The nodes that gradients pass through.
fn path(b: &Builder, order: &[NodeId], ys: &[(Port, Option<Port>)], need: &Need) -> Result<Vec<bool>> {
    let mut path = vec![false; b.graph().id_bound()];
    for (y, _) in ys {
        path[y.node.0 as usize] = need.node(y.node);
    }
    let mut missing = Vec::new();
    for &id in order.iter().rev() {
        if !path[id.0 as usize] {
            continue;
        }
        let node = b.graph().node(id);
        let inputs = node.inputs.iter().filter(|p| need.port(b, **p));
        let mut some = false;
        for p in inputs {
            some = true;
            path[p.node.0 as usize] |= need.node(p.node);
        }
        if some && rule(&node.op).is_none() {
            missing.push(UnsupportedOp { node: node.name.clone(), op: node.op.clone() });
        }
    }
    if let Some(old) = missing.iter().find(|m| OF_TENSORFLOW_1.contains(&m.op.as_str())) {
        return Err(GraphError::Gradient {
            node: old.node.clone(),
            op: old.op.clone(),
            problem: "loops and branches of TensorFlow 1 have no gradient here: export the model with \
                      tf.compat.v1.enable_control_flow_v2(), which writes While and If instead"
                .to_owned(),
        });
    }
    if missing.is_empty() { Ok(path) } else { Err(GraphError::NoGradient(missing)) }
}

/// Ops that only stand in control flow of TensorFlow 1, whose loops are cycles in the graph.
const OF_TENSORFLOW_1: &[&str] = &[
    "Enter",
    "Exit",
    "Merge",
    "NextIteration",
    "RefEnter",
    "RefExit",
    "RefMerge",
    "RefNextIteration",
    "RefSwitch",
    "Switch",
    "TensorArrayConcatV3",
    "TensorArrayGatherV3",
    "TensorArrayReadV3",
    "TensorArrayScatterV3",
    "TensorArraySplitV3",
    "TensorArrayWriteV3",
];

/// How many outputs of a node have a gradient or are known.
fn outputs(b: &Builder, id: NodeId, sums: &HashMap<Port, Vec<Gradient>>) -> usize {
    let used = sums.keys().filter(|p| p.node == id).map(|p| p.index as usize + 1).max().unwrap_or(0);
    used.max(b.facts_of(id).len())
}

/// The sum of what was found for a value.
fn total(b: &mut Builder, sums: &mut HashMap<Port, Vec<Gradient>>, port: Port) -> Result<Option<Gradient>> {
    let Some(parts) = sums.get_mut(&port) else { return Ok(None) };
    let parts = std::mem::take(parts);
    let sum = Gradient::sum(b, port, &parts)?;
    sums.insert(port, sum.into_iter().collect());
    Ok(sum)
}

fn add(b: &mut Builder, port: Port, parts: &[Gradient]) -> Result<Gradient> {
    let sparse: Option<Vec<(Port, Port, Port)>> = parts
        .iter()
        .map(|g| match *g {
            Gradient::Sparse { indices, values, shape } => Some((indices, values, shape)),
            Gradient::Dense(_) => None,
        })
        .collect();
    if let Some(all) = sparse {
        let zero = b.constant(Tensor::scalar(0i32));
        let join = |b: &mut Builder, parts: Vec<Port>| {
            let inputs: Vec<Port> = parts.into_iter().chain([zero]).collect();
            b.op("ConcatV2", &inputs, &[])
        };
        let indices = join(b, all.iter().map(|s| s.0).collect())?;
        let values = join(b, all.iter().map(|s| s.1).collect())?;
        return Ok(Gradient::Sparse { indices, values, shape: all[0].2 });
    }
    let dense = parts.iter().map(|g| g.dense(b)).collect::<Result<Vec<Port>>>()?;
    let sum = b.op("AddN", &dense, &[])?;
    b.refine(sum, port);
    Ok(Gradient::Dense(sum))
}

fn ones_like(b: &mut Builder, y: Port) -> Result<Port> {
    let fact = b.fact(y);
    if fact.dtype == Some(DType::Float32) && fact.shape.as_ref().is_some_and(Vec::is_empty) {
        return Ok(b.constant(Tensor::scalar(1f32)));
    }
    b.op("OnesLike", &[y], &[])
}

/// Which values change with those that a loss is differentiated by.
pub(crate) struct Need {
    nodes: Vec<bool>,
    ports: Vec<Port>,
}

impl Need {
    pub(crate) fn new(b: &Builder, order: &[NodeId], wrt: &[Port]) -> Need {
        let mut need = Need { nodes: vec![false; b.graph().id_bound()], ports: wrt.to_vec() };
        for &id in order {
            let node = b.graph().node(id);
            let stops = matches!(rule(&node.op), Some(Rule::Zero));
            need.nodes[id.0 as usize] = !stops && node.inputs.iter().any(|&p| need.port(b, p));
        }
        need
    }

    /// Whether a node's outputs change.
    fn node(&self, id: NodeId) -> bool {
        self.nodes.get(id.0 as usize).copied().unwrap_or(false)
    }

    /// Whether a value changes, and has a gradient.
    pub(crate) fn port(&self, b: &Builder, port: Port) -> bool {
        let smooth = !matches!(b.fact(port).dtype, Some(DType::Int32 | DType::Bool | DType::String));
        smooth && (self.node(port.node) || self.ports.contains(&port))
    }
}
