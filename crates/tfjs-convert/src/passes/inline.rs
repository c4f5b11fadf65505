//! Calls of functions replaced by their bodies.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{Function, Graph, GraphError, Node, NodeId, Port};

use super::effects::has_effect;
use crate::{ConvertError, model::mapped};

/// Inlines every call, in the graph and in the functions it still needs (bodies of loops and conditionals).
pub(crate) fn run(graph: &mut Graph) -> Result<usize, ConvertError> {
    let library = std::mem::take(&mut graph.library);
    let mut inliner = Inliner { library: &library, done: BTreeMap::new(), active: HashSet::new() };
    let mut count = inliner.inline_calls(graph)?;
    let mut pending: Vec<String> = graph.iter().flat_map(|(_, n)| referenced(n)).collect();
    while let Some(name) = pending.pop() {
        if graph.library.contains_key(&name) || !library.contains_key(&name) {
            continue;
        }
        let function = inliner.body(&name)?;
        pending.extend(function.graph.iter().flat_map(|(_, n)| referenced(n)));
        graph.library.insert(name, function);
        count += 1;
    }
    Ok(count)
}

/// Replaces the one call that a TensorFlow 2 signature consists of by its body, under the names that the body gives:
/// inputs are named as its arguments, outputs `Identity`, `Identity_1`, …
pub(crate) fn lift_signature_call(graph: &mut Graph) -> Result<(), ConvertError> {
    let mut calls = graph.outputs.iter().map(|o| o.port.node);
    let Some(call) = calls.next() else { return Ok(()) };
    if calls.any(|other| other != call) {
        return Ok(());
    }
    let Some(function) = callee(graph.node(call), &graph.library).cloned() else { return Ok(()) };
    // Names that the body needs are made free, arguments come first.
    let taken: Vec<String> = graph.iter().map(|(_, n)| n.name.clone()).collect();
    for name in taken.iter().filter(|n| function.graph.find(n).is_some()) {
        if let Some(id) = graph.find(name).filter(|id| *id != call) {
            graph.rename(id, &format!("{name}/outer"));
        }
    }
    let args = function.graph.inputs.iter().map(|e| e.key.clone());
    let mut named = HashSet::new();
    for (arg, port) in args.zip(graph.node(call).inputs.clone()) {
        if port.index == 0 && named.insert(port.node) {
            graph.rename(port.node, &arg);
        }
    }
    let library = std::mem::take(&mut graph.library);
    let inliner = Inliner { library: &library, done: BTreeMap::new(), active: HashSet::new() };
    let mut moved = Moved::default();
    let body = inliner.library[&function.signature.name].clone();
    inliner.splice(graph, call, &body, "", &mut moved)?;
    moved.apply(graph);
    graph.library = library;
    Ok(())
}

/// The function that a node calls.
fn callee<'a>(node: &Node, library: &'a BTreeMap<String, Arc<Function>>) -> Option<&'a Arc<Function>> {
    match node.attrs.get("f") {
        Some(Value::Func(f)) if matches!(node.op.as_str(), "PartitionedCall" | "StatefulPartitionedCall") => {
            library.get(&f.name)
        }
        _ => library.get(&node.op),
    }
}

/// Functions in the attributes of a node.
pub(crate) fn referenced(node: &Node) -> Vec<String> {
    let mut names = Vec::new();
    for attr in node.attrs.0.values() {
        match &attr.value {
            Some(Value::Func(f)) => names.push(f.name.clone()),
            Some(Value::List(list)) => names.extend(list.func.iter().map(|f| f.name.clone())),
            _ => {}
        }
    }
    names
}

struct Inliner<'a> {
    library: &'a BTreeMap<String, Arc<Function>>,
    /// Functions without calls.
    done: BTreeMap<String, Arc<Function>>,
    active: HashSet<String>,
}

impl Inliner<'_> {
    fn inline_calls(&mut self, graph: &mut Graph) -> Result<usize, ConvertError> {
        let mut moved = Moved::default();
        let mut count = 0;
        for id in graph.ids() {
            let Some(function) = callee(graph.node(id), self.library) else { continue };
            let body = self.body(&function.signature.name.clone())?;
            let prefix = format!("{}/", graph.node(id).name);
            self.splice(graph, id, &body, &prefix, &mut moved)?;
            count += 1;
        }
        moved.apply(graph);
        Ok(count)
    }

    /// A function with all its calls inlined.
    fn body(&mut self, name: &str) -> Result<Arc<Function>, ConvertError> {
        if let Some(done) = self.done.get(name) {
            return Ok(done.clone());
        }
        let Some(function) = self.library.get(name) else {
            return Err(GraphError::MissingFunction { name: name.to_owned() }.into());
        };
        if !self.active.insert(name.to_owned()) {
            return Err(GraphError::RecursiveFunction { name: name.to_owned() }.into());
        }
        let mut function = function.clone();
        if function.graph.iter().any(|(_, n)| callee(n, self.library).is_some()) {
            self.inline_calls(&mut Arc::make_mut(&mut function).graph)?;
        }
        self.active.remove(name);
        self.done.insert(name.to_owned(), function.clone());
        Ok(function)
    }

    /// Replaces the call `id` by a copy of the body. Uses of the call are re-pointed by `moved`, all in one go.
    fn splice(
        &self,
        graph: &mut Graph,
        id: NodeId,
        function: &Function,
        prefix: &str,
        moved: &mut Moved,
    ) -> Result<(), ConvertError> {
        let body = &function.graph;
        let Some(call) = graph.remove(id) else { return Ok(()) };
        if call.inputs.len() < body.inputs.len() {
            return Err(ConvertError::CallArguments {
                node: call.name,
                function: function.signature.name.clone(),
                got: call.inputs.len(),
                expected: body.inputs.len(),
            });
        }
        let mut ids: HashMap<NodeId, Port> =
            body.inputs.iter().zip(&call.inputs).map(|(arg, port)| (arg.port.node, *port)).collect();
        let mut added = Vec::with_capacity(body.len());
        for (old, node) in body.iter().filter(|(old, _)| !body.inputs.iter().any(|e| e.port.node == *old)) {
            let mut node = node.clone();
            node.name = format!("{prefix}{}", node.name);
            bind_attributes(&mut node, &call);
            let new = graph.add_fresh(node);
            ids.insert(old, new.into());
            added.push(new);
        }
        let mut effects = Vec::new();
        for new in added {
            let effect = has_effect(graph.node(new), self.library);
            let node = graph.node_mut(new);
            for port in &mut node.inputs {
                *port = mapped(&ids, *port).unwrap_or(*port);
            }
            node.controls = node.controls.iter().filter_map(|c| ids.get(c)).map(|p| p.node).collect();
            if effect {
                node.controls.extend(&call.controls);
                effects.push(new);
            }
        }
        for (k, output) in body.outputs.iter().enumerate() {
            let port = mapped(&ids, output.port).unwrap_or(output.port);
            moved.ports.insert(Port { node: id, index: k as u32 }, port);
        }
        let targets: Vec<NodeId> = body.targets.iter().filter_map(|t| ids.get(t)).map(|p| p.node).collect();
        // Whoever waited for the call waits for its effects, and for what the call waited for.
        let waits = targets.into_iter().chain(effects).chain(call.controls).collect();
        moved.controls.insert(id, waits);
        Ok(())
    }
}

/// Attributes of a generic function's body that stand for attributes of the call.
fn bind_attributes(node: &mut Node, call: &Node) {
    for attr in node.attrs.0.values_mut() {
        if let Some(Value::Placeholder(name)) = &attr.value
            && let Some(bound) = call.attrs.get(name)
        {
            attr.value = Some(bound.clone());
        }
    }
}

/// Where the outputs of removed calls went, and what waiting for them means now.
#[derive(Default)]
struct Moved {
    ports: HashMap<Port, Port>,
    controls: HashMap<NodeId, Vec<NodeId>>,
}

impl Moved {
    fn apply(self, graph: &mut Graph) {
        if self.controls.is_empty() {
            return;
        }
        // A result may be the result of another call.
        let follow = |mut port: Port| {
            while let Some(next) = self.ports.get(&port) {
                port = *next;
            }
            port
        };
        graph.redirect(follow);
        for id in graph.ids() {
            let node = graph.node_mut(id);
            if node.controls.iter().any(|c| self.controls.contains_key(c)) {
                let controls = std::mem::take(&mut node.controls);
                node.controls = self.expand(controls);
                node.controls.retain(|c| *c != id);
            }
        }
        let targets = std::mem::take(&mut graph.targets);
        graph.targets = self.expand(targets);
    }

    fn expand(&self, controls: Vec<NodeId>) -> Vec<NodeId> {
        let mut out: Vec<NodeId> = Vec::new();
        let mut seen = HashSet::new();
        let mut stack = controls;
        stack.reverse();
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.controls.get(&id) {
                Some(waits) => stack.extend(waits.iter().rev()),
                None => out.push(id),
            }
        }
        out
    }
}
