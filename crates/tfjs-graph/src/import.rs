use std::{collections::HashMap, sync::Arc};

use tfjs_format::proto::{
    self, DataType, FunctionDef, GraphDef, NodeDef, attr_value::Value as AttrValueKind,
};

use crate::{
    Attrs, Constant, Endpoint, Function, Graph, GraphError, LoadError, Node, NodeId, Port,
    registry::output_args,
};

/// Finds the value of a constant: by its name, and by its `value` attribute when the file carries one.
pub type Constants<'a> =
    dyn Fn(&str, Option<&proto::TensorProto>) -> Result<Option<Constant>, LoadError> + 'a;

impl Graph {
    /// A graph from its message form. Endpoints are left empty: the signature decides them.
    ///
    /// `constants` gives the values of `Const` nodes; those of a function's body are asked for as
    /// `function/node`, and then as `node`.
    ///
    /// # Errors
    /// When names clash, inputs do not exist or constants have no value.
    pub fn from_def(def: &GraphDef, constants: &Constants<'_>) -> Result<Graph, GraphError> {
        let mut graph = Graph::default();
        graph.versions = def.versions.clone().unwrap_or_default();
        for f in def.library.iter().flat_map(|l| &l.function) {
            let function = Function::from_def(f, constants)?;
            graph.library.insert(function.signature.name.clone(), Arc::new(function));
        }
        add_nodes(&mut graph, &def.node, &|node, value| constants(&node.name, value))?;
        connect(&mut graph, &def.node, &HashMap::new(), "")?;
        Ok(graph)
    }

    /// The port of a tensor name: `node`, `node:1`, or `node:output_arg:1` inside functions.
    pub fn port(&self, tensor: &str) -> Option<Port> {
        resolve(self, tensor, &HashMap::new())
    }
}

impl Function {
    /// A function from its message form.
    ///
    /// # Errors
    /// When names clash, inputs do not exist or constants have no value.
    pub fn from_def(def: &FunctionDef, constants: &Constants<'_>) -> Result<Function, GraphError> {
        let signature = def.signature.clone().unwrap_or_default();
        let function = signature.name.clone();
        let place = format!(" in function `{function}`");
        let mut graph = Graph::default();
        let mut args = HashMap::new();
        for arg in &signature.input_arg {
            let data_type = DataType::try_from(arg.r#type).unwrap_or(DataType::DtInvalid);
            let attrs = Attrs::default().with("dtype", AttrValueKind::Type(arg.r#type));
            let id = graph.add(Node::new(&arg.name, "Placeholder").attrs(attrs))?;
            args.insert(arg.name.clone(), id);
            graph.inputs.push(endpoint(&arg.name, id.into(), data_type));
        }
        let by_name = |node: &NodeDef, value: Option<&proto::TensorProto>| match constants(
            &format!("{function}/{}", node.name),
            None,
        )? {
            Some(c) => Ok(Some(c)),
            None => constants(&node.name, value),
        };
        add_nodes(&mut graph, &def.node_def, &by_name)?;
        connect(&mut graph, &def.node_def, &args, &place)?;
        for ret in &signature.output_arg {
            let tensor = def.ret.get(&ret.name).cloned().unwrap_or_default();
            let port = resolve(&graph, &tensor, &args).ok_or_else(|| GraphError::DanglingEndpoint {
                role: "output",
                key: ret.name.clone(),
                tensor: format!("{tensor}{place}"),
            })?;
            let data_type = DataType::try_from(ret.r#type).unwrap_or(DataType::DtInvalid);
            graph.outputs.push(endpoint(&ret.name, port, data_type));
        }
        for node in def.control_ret.values() {
            graph.targets.extend(graph.find(node));
        }
        Ok(Function { signature, attrs: Attrs(def.attr.clone()), graph })
    }
}

fn endpoint(key: &str, port: Port, data_type: DataType) -> Endpoint {
    Endpoint { key: key.to_owned(), port, data_type, shape: None, resource_id: None }
}

type NodeConstants<'a> =
    dyn Fn(&NodeDef, Option<&proto::TensorProto>) -> Result<Option<Constant>, LoadError> + 'a;

fn add_nodes(graph: &mut Graph, nodes: &[NodeDef], constants: &NodeConstants<'_>) -> Result<(), GraphError> {
    for def in nodes {
        let mut attrs = Attrs(def.attr.clone());
        let mut value = None;
        if def.op == "Const" {
            let proto = match attrs.0.remove("value").and_then(|a| a.value) {
                Some(AttrValueKind::Tensor(t)) => Some(t),
                _ => None,
            };
            value = constants(def, proto.as_deref())
                .map_err(|source| GraphError::Constant { node: def.name.clone(), source })?;
            if value.is_none() {
                return Err(GraphError::MissingWeight { node: def.name.clone() });
            }
        }
        graph.add(Node {
            name: def.name.clone(),
            op: def.op.clone(),
            attrs,
            inputs: Vec::with_capacity(def.input.len()),
            controls: Vec::new(),
            value,
            device: def.device.clone(),
        })?;
    }
    Ok(())
}

fn connect(
    graph: &mut Graph,
    nodes: &[NodeDef],
    args: &HashMap<String, NodeId>,
    place: &str,
) -> Result<(), GraphError> {
    for def in nodes {
        let Some(id) = graph.find(&def.name) else { continue };
        let (mut inputs, mut controls) = (Vec::with_capacity(def.input.len()), Vec::new());
        for input in &def.input {
            let dangling = || GraphError::DanglingInput {
                node: def.name.clone(),
                input: input.clone(),
                place: place.to_owned(),
            };
            match input.strip_prefix('^') {
                Some(control) => controls.push(graph.find(control).ok_or_else(dangling)?),
                None => inputs.push(resolve(graph, input, args).ok_or_else(dangling)?),
            }
        }
        let node = graph.node_mut(id);
        node.inputs = inputs;
        node.controls = controls;
    }
    Ok(())
}

fn resolve(graph: &Graph, tensor: &str, args: &HashMap<String, NodeId>) -> Option<Port> {
    if let Some(&id) = args.get(tensor) {
        return Some(id.into());
    }
    let mut parts = tensor.split(':');
    let node = graph.find(parts.next()?)?;
    let (second, third) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    let index = match (second, third) {
        (None, _) => 0,
        (Some(index), None) => match index.parse() {
            Ok(index) => index,
            // `node:output` without an index
            Err(_) => output_index(graph.node(node), index, 0),
        },
        (Some(arg), Some(index)) => output_index(graph.node(node), arg, index.parse().ok()?),
    };
    Some(Port { node, index })
}

/// The flat index of element `k` of an output argument.
fn output_index(node: &Node, arg: &str, k: u32) -> u32 {
    let mut start = 0;
    for (name, len) in output_args(&node.op, &node.attrs) {
        if name == arg {
            return start + k;
        }
        start += len as u32;
    }
    // An op that TensorFlow does not know: all its outputs are taken to be one argument.
    k
}
