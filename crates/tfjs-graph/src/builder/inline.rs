//! One graph written into another.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tfjs_format::proto::attr_value::Value;

use super::{Builder, attr, constant_fact};
use crate::{Attrs, Fact, Function, Graph, GraphError, Node, NodeId, Port};

/// Where the parts of a graph went: see [`Builder::inline`].
#[derive(Clone, Debug)]
pub struct Inlined {
    /// The values of the graph's outputs.
    pub outputs: Vec<Port>,
    ports: HashMap<Port, Port>,
    nodes: HashMap<NodeId, NodeId>,
}

impl Inlined {
    /// Where a value of the graph is now, if it was needed.
    pub fn port(&self, port: Port) -> Option<Port> {
        let replaced = self.ports.get(&port).copied();
        replaced.or_else(|| Some(Port { node: *self.nodes.get(&port.node)?, index: port.index }))
    }
}

impl Builder {
    /// Writes another graph into this one: all that its outputs and targets need. `replace` says which of its values (inputs,
    /// constants, any others) are values of this graph from now on; inputs that are not among them become inputs of this
    /// graph. Names of nodes are put under the current scope; functions whose names are taken get others. Types and shapes
    /// are inferred anew.
    ///
    /// ```
    /// use tfjs_graph::{DType, Tensor, builder::Builder};
    ///
    /// let mut inner = Builder::default();
    /// let x = inner.placeholder("x", DType::Float32, &[None]);
    /// let y = inner.op("Square", &[x], &[])?;
    /// inner.output("y", y);
    ///
    /// let mut b = Builder::default();
    /// let two = b.constant(Tensor::vector(vec![1f32, 2.0]));
    /// let y = b.inline(inner.graph(), &[(x, two)])?.outputs[0];
    /// assert_eq!(b.fact(y).shape, Some(vec![Some(2)]));
    /// # Ok::<(), tfjs_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// [`GraphError::Cycle`] when the graph has one besides those of loops.
    ///
    /// # Panics
    /// When a port of `replace` is not of its graph.
    pub fn inline(&mut self, graph: &Graph, replace: &[(Port, Port)]) -> Result<Inlined, GraphError> {
        let ports: HashMap<Port, Port> = replace.iter().copied().collect();
        let functions = self.take_functions(graph);
        let needed = needed(graph, &ports);
        let order: Vec<NodeId> =
            graph.topological_order()?.into_iter().filter(|id| needed.contains(id)).collect();
        let mut done = Inlined { outputs: Vec::new(), ports, nodes: HashMap::new() };
        let start = self.graph.next_id().0;
        let mut open = Vec::new();
        for id in order {
            let old = graph.node(id);
            let mut node = Node { name: self.name(&old.name), ..old.clone() };
            functions.rename(&mut node);
            if node.op.ends_with("Enter")
                && let Ok(frame) = node.attrs.str_or("frame_name", "")
            {
                // Loops are told apart by this name, and the graph may be written more than once.
                let frame = format!("{frame}_{start}");
                node.attrs.set("frame_name", attr::text(&frame));
            }
            let inputs: Vec<Option<Port>> = old.inputs.iter().map(|&p| done.port(p)).collect();
            let controls: Vec<Option<NodeId>> = old.controls.iter().map(|&c| done.control(c)).collect();
            let facts: Vec<Fact> =
                inputs.iter().map(|p| p.map_or_else(Fact::unknown, |p| self.fact(p).clone())).collect();
            let outputs = self.facts_inlined(graph, id, &node, &facts);
            // The second input of a loop's merge comes later.
            let later = inputs.iter().any(Option::is_none) || controls.iter().any(Option::is_none);
            node.inputs =
                inputs.into_iter().map(|p| p.unwrap_or(Port { node: NodeId(0), index: 0 })).collect();
            node.controls = controls.into_iter().flatten().collect();
            let new = self.push(node, outputs);
            if later {
                open.push((id, new));
            }
            done.nodes.insert(id, new);
        }
        for (old, new) in open {
            let old = graph.node(old);
            let inputs = old.inputs.iter().filter_map(|&p| done.port(p)).collect();
            let controls = old.controls.iter().filter_map(|&c| done.control(c)).collect();
            let node = self.graph.node_mut(new);
            (node.inputs, node.controls) = (inputs, controls);
        }
        for endpoint in &graph.inputs {
            if !done.ports.contains_key(&endpoint.port)
                && let Some(port) = done.port(endpoint.port)
            {
                self.graph.inputs.push(crate::Endpoint { port, ..endpoint.clone() });
            }
        }
        self.graph.targets.extend(graph.targets.iter().filter_map(|id| done.nodes.get(id)));
        done.outputs = graph.outputs.iter().filter_map(|e| done.port(e.port)).collect();
        Ok(done)
    }

    fn facts_inlined(&self, graph: &Graph, id: NodeId, node: &Node, inputs: &[Fact]) -> Vec<Fact> {
        if let Some(value) = &node.value {
            return vec![constant_fact(value)];
        }
        let declared = graph.inputs.iter().find(|e| e.port == id.into());
        if let Some(declared) = declared.filter(|_| node.inputs.is_empty()) {
            let dtype = crate::DType::from_proto(declared.data_type);
            return vec![Fact { dtype, shape: declared.dims(), value: None }];
        }
        if node.attrs.functions().is_empty() {
            // What does not fit may lie on a branch that is never taken.
            self.infer(node, inputs).unwrap_or_default()
        } else {
            self.declared_outputs(node, inputs)
        }
    }

    /// Takes over the functions of another graph.
    fn take_functions(&mut self, graph: &Graph) -> Renamed {
        let own = &self.graph.library;
        let taken = |name: &String| own.contains_key(name) || graph.library.contains_key(name);
        // The same functions may be there already, from the same graph.
        let clash = graph.library.iter().any(|(n, f)| own.get(n).is_some_and(|o| !Arc::ptr_eq(o, f)));
        let mut renamed = Renamed::default();
        for name in graph.library.keys().filter(|name| clash && own.contains_key(*name)) {
            let fresh = (self.functions..).map(|i| (i, format!("{name}_{i}"))).find(|(_, n)| !taken(n));
            if let Some((i, fresh)) = fresh {
                self.functions = i + 1;
                renamed.0.insert(name.clone(), fresh);
            }
        }
        for (name, function) in &graph.library {
            let name = renamed.get(name);
            self.graph.library.insert(name.to_owned(), renamed.function(function));
        }
        renamed
    }
}

impl Inlined {
    /// A node to wait for.
    fn control(&self, id: NodeId) -> Option<NodeId> {
        let replaced = self.ports.get(&id.into()).map(|p| p.node);
        self.nodes.get(&id).copied().or(replaced)
    }
}

/// Functions that got other names.
#[derive(Default)]
struct Renamed(HashMap<String, String>);

impl Renamed {
    fn get<'n>(&'n self, name: &'n str) -> &'n str {
        self.0.get(name).map_or(name, String::as_str)
    }

    fn function(&self, function: &Arc<Function>) -> Arc<Function> {
        if self.0.is_empty() {
            return function.clone();
        }
        let mut own = Function::clone(function);
        own.signature.name = self.get(&own.signature.name).to_owned();
        for id in own.graph.ids() {
            self.rename(own.graph.node_mut(id));
        }
        Arc::new(own)
    }

    /// The calls of a node.
    fn rename(&self, node: &mut Node) {
        if self.0.is_empty() {
            return;
        }
        if let Some(op) = self.0.get(&node.op) {
            node.op.clone_from(op);
        }
        let Attrs(attrs) = &mut node.attrs;
        for attr in attrs.values_mut() {
            match &mut attr.value {
                Some(Value::Func(f)) => f.name = self.get(&f.name).to_owned(),
                Some(Value::List(list)) => {
                    list.func.iter_mut().for_each(|f| f.name = self.get(&f.name).to_owned());
                }
                _ => {}
            }
        }
    }
}

/// The nodes behind outputs and targets, up to what is replaced.
fn needed(graph: &Graph, replaced: &HashMap<Port, Port>) -> HashSet<NodeId> {
    let mut needed = HashSet::new();
    let outputs = graph.outputs.iter().map(|e| e.port).filter(|p| !replaced.contains_key(p));
    let mut stack: Vec<NodeId> = outputs.map(|p| p.node).chain(graph.targets.iter().copied()).collect();
    while let Some(id) = stack.pop() {
        if !needed.insert(id) {
            continue;
        }
        let node = graph.node(id);
        stack.extend(node.inputs.iter().filter(|p| !replaced.contains_key(p)).map(|p| p.node));
        stack.extend(node.controls.iter().filter(|&&c| !replaced.contains_key(&c.into())));
    }
    needed
}

#[cfg(test)]
mod tests {
    use crate::{DType, Graph, GraphError, GraphModel, ModelOptions, Port, Tensor, builder::Builder};

    /// Three times `op` with 2, as a loop.
    fn looped(op: &str) -> Result<Graph, GraphError> {
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[None]);
        let two = b.weight("two", crate::Constant::new(DType::Float32.to_proto(), Tensor::scalar(2f32)));
        let i = b.constant(Tensor::scalar(0i32));
        let out = b.while_loop::<GraphError>(
            &[i, x, two],
            |b, v| {
                let end = b.constant(Tensor::scalar(3i32));
                b.op("Less", &[v[0], end], &[])
            },
            |b, v| {
                let one = b.constant(Tensor::scalar(1i32));
                Ok(vec![b.op("AddV2", &[v[0], one], &[])?, b.op(op, &[v[1], v[2]], &[])?, v[2]])
            },
        )?;
        b.output("y", out[1]);
        Ok(b.finish())
    }

    #[test]
    fn functions_of_one_name_do_not_get_in_each_others_way() -> Result<(), Box<dyn std::error::Error>> {
        let (mul, add) = (looped("Mul")?, looped("AddV2")?);
        assert_eq!(mul.library.keys().collect::<Vec<_>>(), add.library.keys().collect::<Vec<_>>());
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[Some(2)]);
        let mut values = vec![x];
        for (i, graph) in [&mul, &add, &mul, &mul].into_iter().enumerate() {
            b.set_scope(format!("part{i}"));
            let input = graph.inputs[0].port;
            let from = *values.last().ok_or("no value")?;
            values.extend(b.inline(graph, &[(input, from)])?.outputs);
        }
        assert!(b.graph().find("part1/two").is_some());
        assert_eq!(b.fact(values[4]).dtype, Some(DType::Float32));
        for (i, &v) in values.iter().enumerate() {
            b.output(&format!("y{i}"), v);
        }
        let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
        let out = model.run([("x", Tensor::vector(vec![1f32, -2.0]))])?;
        for (i, expected) in [[1.0, -2.0], [8.0, -16.0], [14.0, -10.0], [112.0, -80.0], [896.0, -640.0]]
            .into_iter()
            .enumerate()
        {
            assert_eq!(out[i].data::<f32>()?, expected, "y{i}");
        }
        Ok(())
    }

    #[test]
    fn constants_and_inner_values_can_be_replaced_and_inputs_left() -> Result<(), Box<dyn std::error::Error>>
    {
        let graph = looped("Mul")?;
        let two: Port = graph.find("two").ok_or("no constant")?.into();
        let mut b = Builder::default();
        let w = b.placeholder("w", DType::Float32, &[]);
        let y = b.inline(&graph, &[(two, w)])?;
        assert!(b.graph().find("two").is_none());
        assert_eq!(y.port(two), Some(w));
        b.output("y", y.outputs[0]);
        let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
        let out = model.run([("w", Tensor::scalar(3f32)), ("x", Tensor::vector(vec![1f32]))])?;
        assert_eq!(out["y"].data::<f32>()?, [27.0]);

        // The whole graph is replaced: nothing is left of it.
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[]);
        assert_eq!(b.inline(&graph, &[(graph.outputs[0].port, x)])?.outputs, [x]);
        assert_eq!(b.graph().len(), 1);
        Ok(())
    }
}
