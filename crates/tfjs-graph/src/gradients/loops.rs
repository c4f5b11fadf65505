//! `While`: the loop is run backwards.
//!
//! The forward loop is changed to count its iterations and to push the values that the backward body needs onto lists;
//! the backward loop pops them. Values that the loop hands on unchanged (weights) are not stored.

use std::collections::{HashMap, HashSet};

use tfjs_format::proto::attr_value::Value;
use tfjs_kernels::{DType, Tensor};

use super::{GradCx, Gradient, Need, Result, Row, gradients_of, row};
use crate::{
    Effect, Fact, Graph, NodeId, Port,
    builder::{Builder, attr, function_attr},
};

pub(super) const RULES: &[Row] = &[row("StatelessWhile", while_loop), row("While", while_loop)];

/// Number of iterations, of the variables added to a loop.
const COUNT: Fact = Fact { dtype: Some(DType::Int32), shape: Some(Vec::new()), value: None };

fn while_loop(c: &mut GradCx<'_>) -> Result<()> {
    let (cond, body) = (c.attrs().func("cond")?.to_owned(), c.attrs().func("body")?.to_owned());
    let n = c.inputs();
    let original = c.b.function_body(&body)?;
    if original.inputs.len() != n || original.outputs.len() != n {
        return c.refuse(format!(
            "its body has {} arguments and {} results",
            original.inputs.len(),
            original.outputs.len()
        ));
    }
    let invariant: Vec<bool> = (0..n).map(|i| passes_through(original, i)).collect();
    let bound = original.id_bound() as u32;
    let facts: Vec<Fact> = (0..n)
        .map(|i| {
            let input = c.fact(c.x(i)).without_value();
            if invariant[i] { input } else { Fact { shape: c.fact(c.y(i)).shape.clone(), ..input } }
        })
        .collect();

    // The body, with its gradient behind it.
    let mut inner = c.b.body(Some(&body), &facts)?;
    let args: Vec<Port> = inner.graph().inputs.iter().map(|e| e.port).collect();
    let results: Vec<Port> = inner.graph().outputs.iter().map(|e| e.port).collect();
    let wanted: Vec<bool> = (0..n).map(|i| c.wants(i)).collect();
    let active = active(&inner, &args, &results, wanted)?;
    let seeds: Vec<Port> = active.iter().map(|&i| inner.argument(&facts[i])).collect();
    let ys: Vec<(Port, Option<Port>)> =
        active.iter().zip(&seeds).map(|(&i, &seed)| (results[i], Some(seed))).collect();
    let wrt: Vec<Port> = active.iter().map(|&i| args[i]).collect();
    let mut grads = Vec::with_capacity(active.len());
    for (gradient, &seed) in gradients_of(&mut inner, &ys, &wrt)?.into_iter().zip(&seeds) {
        grads.push(match gradient {
            Some(gradient) => gradient.dense(&mut inner)?,
            None => inner.op("ZerosLike", &[seed], &[])?,
        });
    }

    let split = Split::new(&inner, bound, &args, &invariant, &seeds, &grads)?;
    let stored = split.stored.clone();

    // Forward: count, and push what is needed.
    let mut forward = inner.clone();
    forward.graph_mut().inputs.truncate(n);
    let count = forward.argument(&COUNT);
    let lists: Vec<Port> = stored.iter().map(|_| forward.argument(&Fact::unknown())).collect();
    let one = forward.constant(Tensor::scalar(1i32));
    let next = forward.op("AddV2", &[count, one], &[])?;
    forward.result(next);
    for (&list, &value) in lists.iter().zip(&stored) {
        let pushed = forward.op("TensorListPushBack", &[list, value], &[])?;
        forward.result(pushed);
    }
    prune(forward.graph_mut())?;
    let forward = c.b.add_function("while_forward", forward);
    let mut condition = c.b.body(Some(&cond), &facts)?;
    condition.argument(&COUNT);
    for _ in &stored {
        condition.argument(&Fact::unknown());
    }
    let condition = c.b.add_function("while_cond", condition);

    // The loop itself gets more variables.
    let mut extra = vec![c.int(0)];
    for &value in &stored {
        let dtype = inner.fact(value).dtype;
        let element = match dtype {
            Some(dtype) => attr::dtype(dtype),
            None => Value::Type(tfjs_format::proto::DataType::DtVariant as i32),
        };
        let (shape, limit) = (c.int(-1), c.int(-1));
        extra.push(c.op("EmptyTensorList", &[shape, limit], &[("element_dtype", element)])?);
    }
    let mut all = facts.clone();
    all.push(COUNT);
    all.resize(n + 1 + stored.len(), Fact::unknown());
    let id = c.id;
    let inputs: Vec<Port> = (0..n).map(|i| c.x(i)).chain(extra).collect();
    let node = c.b.graph_mut().node_mut(id);
    node.inputs = inputs;
    node.attrs.set("cond", function_attr(&condition));
    node.attrs.set("body", function_attr(&forward));
    for (name, value) in Builder::loop_attrs(&all) {
        node.attrs.set(name, value);
    }
    c.b.set_facts(id, all);
    let output = |i: usize| Port { node: id, index: i as u32 };

    // Backward.
    let kept: Vec<usize> = (0..n).filter(|&i| split.reads.contains(&args[i])).collect();
    let mut vars = vec![output(n)];
    for &i in &active {
        vars.push(c.dy_or_zeros(i)?);
    }
    vars.extend((0..stored.len()).map(|j| output(n + 1 + j)));
    vars.extend(kept.iter().map(|&i| c.x(i)));
    let mut back_facts = vec![COUNT];
    back_facts.extend(active.iter().map(|&i| facts[i].clone()));
    back_facts.resize(1 + active.len() + stored.len(), Fact::unknown());
    back_facts.extend(kept.iter().map(|&i| facts[i].clone()));
    let mut back = c.b.body(None, &[])?;
    let ports: Vec<Port> = back_facts.iter().map(|f| back.argument(f)).collect();
    let mut map: HashMap<Port, Port> = HashMap::new();
    map.extend(seeds.iter().copied().zip(ports[1..].iter().copied()));
    let minus = back.constant(Tensor::scalar(-1i32));
    let less = back.op("AddV2", &[ports[0], minus], &[])?;
    let mut rest = Vec::with_capacity(stored.len());
    for (j, &value) in stored.iter().enumerate() {
        let fact = inner.fact(value).without_value();
        let attrs = match fact.dtype {
            Some(dtype) => vec![("element_dtype", attr::dtype(dtype))],
            None => Vec::new(),
        };
        let list = ports[1 + active.len() + j];
        let popped = back.add("TensorListPopBack", &[list, minus], &attrs)?;
        back.set_facts(popped, vec![Fact::unknown(), fact]);
        rest.push(Port { node: popped, index: 0 });
        map.insert(value, Port { node: popped, index: 1 });
    }
    for (j, &i) in kept.iter().enumerate() {
        map.insert(args[i], ports[1 + active.len() + stored.len() + j]);
    }
    split.copy(&inner, &mut back, &mut map)?;
    back.result(less);
    for g in &grads {
        back.result(map.get(g).copied().unwrap_or(*g));
    }
    rest.iter().for_each(|&list| back.result(list));
    kept.iter().enumerate().for_each(|(j, _)| back.result(ports[1 + active.len() + stored.len() + j]));
    let back = c.b.add_function("while_backward", back);
    let mut more = c.b.body(None, &[])?;
    let ports: Vec<Port> = back_facts.iter().map(|f| more.argument(f)).collect();
    let zero = more.constant(Tensor::scalar(0i32));
    let answer = more.op("Greater", &[ports[0], zero], &[])?;
    more.result(answer);
    let more = c.b.add_function("while_backward_cond", more);
    let mut attrs = vec![("cond", function_attr(&more)), ("body", function_attr(&back))];
    attrs.extend(Builder::loop_attrs(&back_facts));
    let node = c.b.add("StatelessWhile", &vars, &attrs)?;
    c.b.set_facts(node, back_facts);
    for (j, &i) in active.iter().enumerate() {
        if c.wants(i) {
            c.set_any(i, Gradient::Dense(Port { node, index: 1 + j as u32 }))?;
        }
    }
    Ok(())
}

/// Whether output `i` of a function is its argument `i`.
fn passes_through(g: &Graph, i: usize) -> bool {
    let (Some(arg), Some(ret)) = (g.inputs.get(i), g.outputs.get(i)) else { return false };
    let mut port: Port = ret.port;
    while g.node(port.node).op == "Identity" && !g.node(port.node).inputs.is_empty() {
        port = g.node(port.node).inputs[0];
    }
    port == arg.port
}

/// The variables that change with what is differentiated by, in some iteration.
fn active(body: &Builder, args: &[Port], results: &[Port], mut on: Vec<bool>) -> Result<Vec<usize>> {
    let order = body.graph().topological_order()?;
    loop {
        let wrt: Vec<Port> = args.iter().zip(&on).filter(|(_, on)| **on).map(|(&p, _)| p).collect();
        let need = Need::new(body, &order, &wrt);
        let mut grew = false;
        for (i, on) in on.iter_mut().enumerate() {
            let smooth =
                !matches!(body.fact(args[i]).dtype, Some(DType::Int32 | DType::Bool | DType::String));
            if !*on && smooth && need.port(body, results[i]) {
                *on = true;
                grew = true;
            }
        }
        if !grew {
            return Ok((0..on.len()).filter(|&i| on[i]).collect());
        }
    }
}

/// Takes the gradient apart from the body whose values it reads.
struct Split {
    /// Nodes of the gradient, producers first, and those of the body that are computed again.
    nodes: Vec<NodeId>,
    /// Values of the body that are stored for it.
    stored: Vec<Port>,
    /// Unchanging arguments that it reads.
    reads: HashSet<Port>,
}

impl Split {
    fn new(
        b: &Builder,
        bound: u32,
        args: &[Port],
        invariant: &[bool],
        seeds: &[Port],
        grads: &[Port],
    ) -> Result<Split> {
        let graph = b.graph();
        let order = graph.topological_order()?;
        // Nodes of the body, those that its inner loops were given included.
        let mut own = vec![false; graph.id_bound()];
        for &id in order.iter().rev() {
            if id.0 < bound {
                own[id.0 as usize] = true;
            }
            if own[id.0 as usize] {
                graph.node(id).inputs.iter().for_each(|p| own[p.node.0 as usize] = true);
            }
        }
        let unchanging: HashSet<Port> =
            args.iter().zip(invariant).filter(|(_, same)| **same).map(|(&p, _)| p).collect();
        // Nodes that give the same in every iteration.
        let mut again = vec![false; graph.id_bound()];
        for &id in &order {
            let node = graph.node(id);
            again[id.0 as usize] = if node.value.is_some() || unchanging.contains(&id.into()) {
                true
            } else {
                !node.inputs.is_empty()
                    && node.attrs.functions().is_empty()
                    && node.inputs.iter().all(|p| again[p.node.0 as usize])
                    && b.effect(id) == Effect::Pure
            };
        }
        let mut split = Split { nodes: Vec::new(), stored: Vec::new(), reads: HashSet::new() };
        let mut seen = vec![false; graph.id_bound()];
        let mut stack: Vec<Port> = grads.to_vec();
        while let Some(port) = stack.pop() {
            if seeds.contains(&port) {
                continue;
            }
            if unchanging.contains(&port) {
                split.reads.insert(port);
                continue;
            }
            let at = port.node.0 as usize;
            if own[at] && !again[at] {
                if !split.stored.contains(&port) {
                    split.stored.push(port);
                }
                continue;
            }
            if !std::mem::replace(&mut seen[at], true) {
                stack.extend(&graph.node(port.node).inputs);
            }
        }
        split.stored.sort_unstable();
        split.nodes = order.into_iter().filter(|id| seen[id.0 as usize]).collect();
        Ok(split)
    }

    /// Writes the gradient into a body of its own.
    fn copy(&self, from: &Builder, to: &mut Builder, map: &mut HashMap<Port, Port>) -> Result<()> {
        for &id in &self.nodes {
            let mut node = from.graph().node(id).clone();
            node.controls.clear();
            node.inputs.iter_mut().for_each(|p| *p = map.get(p).copied().unwrap_or(*p));
            let facts = from.facts_of(id).to_vec();
            let count = facts.len().max(1) as u32;
            let new = to.copy_node(node, facts);
            // Outputs of which nothing is known are counted by who reads them.
            let uses = self.nodes.iter().flat_map(|&n| &from.graph().node(n).inputs).filter(|p| p.node == id);
            let count = uses.map(|p| p.index + 1).max().unwrap_or(0).max(count);
            for index in 0..count {
                map.insert(Port { node: id, index }, Port { node: new, index });
            }
        }
        Ok(())
    }
}

/// Removes what the outputs do not need.
fn prune(graph: &mut Graph) -> Result<()> {
    let mut seen = vec![false; graph.id_bound()];
    let inputs = graph.inputs.iter().map(|e| e.port.node);
    let mut stack: Vec<NodeId> = graph.outputs.iter().map(|e| e.port.node).chain(inputs).collect();
    stack.extend(&graph.targets);
    while let Some(id) = stack.pop() {
        if !std::mem::replace(&mut seen[id.0 as usize], true) {
            let node = graph.node(id);
            stack.extend(node.inputs.iter().map(|p| p.node).chain(node.controls.iter().copied()));
        }
    }
    for id in graph.ids() {
        if !seen[id.0 as usize] {
            graph.remove(id);
        }
    }
    Ok(())
}
