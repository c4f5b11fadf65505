//! A model between reading and writing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use tfjs_format::proto::{self, DataType, FunctionDef, GraphDef, NodeDef, attr_value::Value};
use tfjs_graph::{Constant, Endpoint, Graph, NodeId, Port, Tensor};
use tfjs_kernels::TfString;

use crate::{
    ConvertError, Warning,
    passes::inline,
    source::{Imported, Lazy, Signature, Variables, node_name, raw_tensor},
    values::{Ledger, to_tensor},
};

/// Attribute under which a variable or table keeps the name it had in the file, whatever it is called later.
pub(crate) const STORED_NAME: &str = "_stored_name";

/// What passes work on.
#[derive(Debug)]
pub(crate) struct Model {
    /// The graph that runs for each prediction. Until tables are split off, its targets are the initialisation ops.
    pub(crate) graph: Graph,
    /// The graph that runs once, with the tables as outputs.
    pub(crate) initializer: Option<Graph>,
    pub(crate) variables: Variables,
    pub(crate) ledger: Ledger,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) tensorflow_version: String,
}

impl Model {
    /// Brings a graph into the form that passes work on: only what outputs and initialisation need, endpoints set,
    /// constants deferred, and the call that a TensorFlow 2 signature consists of replaced by its body.
    pub(crate) fn new(mut imported: Imported) -> Result<Model, ConvertError> {
        let ledger = Ledger::default();
        keep_needed(&mut imported);
        mark_stored(&mut imported.graph);
        give_assets(&mut imported);
        let mut graph = build(&imported, &ledger)?;
        set_endpoints(&mut graph, &imported.signature)?;
        graph.targets = imported.init_ops.iter().filter_map(|op| graph.find(op)).collect();
        if let Some(prefix) = &imported.prefix {
            add_prefix(&mut graph, prefix);
        } else if imported.signature.declared {
            inline::lift_signature_call(&mut graph)?;
        }
        Ok(Model {
            graph,
            initializer: None,
            variables: imported.variables,
            ledger,
            warnings: Vec::new(),
            tensorflow_version: imported.tensorflow_version,
        })
    }

    /// A graph that is whole already: all its weights are constants.
    pub(crate) fn from_graph(graph: Graph) -> Model {
        Model {
            graph,
            initializer: None,
            variables: Variables::default(),
            ledger: Ledger::default(),
            warnings: Vec::new(),
            tensorflow_version: String::new(),
        }
    }

    /// The stored value of a variable node.
    pub(crate) fn variable(
        variables: &Variables,
        node: &tfjs_graph::Node,
    ) -> Result<Option<Lazy>, ConvertError> {
        let names = [STORED_NAME, "shared_name"].map(|attr| node.attrs.str_or(attr, "").unwrap_or_default());
        let names: Vec<&str> =
            names.into_iter().chain([node.name.as_str()]).filter(|n| !n.is_empty()).collect();
        variables.find(&names)
    }
}

/// A value in a checkpoint as a constant that is read when needed.
pub(crate) fn deferred(lazy: &Lazy, name: &str, ledger: &Ledger) -> Constant {
    let (lazy, name, ledger) = (lazy.clone(), name.to_owned(), ledger.clone());
    Constant::deferred(lazy.meta.dtype, lazy.meta.shape.clone(), move || {
        Ok(to_tensor(lazy.read()?, &name, &ledger)?)
    })
}

/// Drops nodes and functions that neither outputs nor initialisation need: training and saving, mostly.
fn keep_needed(imported: &mut Imported) {
    let roots = imported.signature.outputs.values().map(|t| node_name(&t.name));
    let roots: Vec<String> =
        roots.chain(imported.init_ops.iter().map(String::as_str)).map(str::to_owned).collect();
    let graph = &mut imported.graph;
    let index: HashMap<&str, usize> =
        graph.node.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let mut keep = vec![false; graph.node.len()];
    let mut stack: Vec<usize> = roots.iter().filter_map(|r| index.get(r.as_str()).copied()).collect();
    // A signature may name inputs that no output needs: they are reported later, so they stay for now.
    stack.extend(imported.signature.inputs.values().filter_map(|t| index.get(node_name(&t.name))));
    while let Some(i) = stack.pop() {
        if std::mem::replace(&mut keep[i], true) {
            continue;
        }
        stack.extend(graph.node[i].input.iter().filter_map(|input| index.get(node_name(input))));
    }
    let mut kept = keep.into_iter();
    graph.node.retain(|_| kept.next().unwrap_or(true));
    keep_called_functions(graph);
}

fn keep_called_functions(graph: &mut GraphDef) {
    let Some(library) = &mut graph.library else { return };
    let by_name: HashMap<&str, &FunctionDef> =
        library.function.iter().filter_map(|f| Some((f.signature.as_ref()?.name.as_str(), f))).collect();
    let mut called: HashSet<String> = HashSet::new();
    let mut stack: Vec<&[NodeDef]> = vec![&graph.node];
    while let Some(nodes) = stack.pop() {
        for name in nodes.iter().flat_map(function_names) {
            if let Some(function) = by_name.get(name).filter(|_| !called.contains(name)) {
                called.insert(name.to_owned());
                stack.push(&function.node_def);
            }
        }
    }
    library.function.retain(|f| f.signature.as_ref().is_some_and(|s| called.contains(&s.name)));
    library.gradient.clear();
}

/// Names that a node might call: its op, and functions in its attributes.
fn function_names(node: &NodeDef) -> Vec<&str> {
    let mut names = vec![node.op.as_str()];
    for attr in node.attr.values() {
        match &attr.value {
            Some(Value::Func(f)) => names.push(&f.name),
            Some(Value::List(list)) => names.extend(list.func.iter().map(|f| f.name.as_str())),
            _ => {}
        }
    }
    names
}

/// Variables and tables of the main graph remember their names: restore ops know them by these.
fn mark_stored(graph: &mut GraphDef) {
    for node in &mut graph.node {
        if node.op.starts_with("Var") || node.op.contains("Variable") || node.op.contains("HashTable") {
            let value = Some(Value::S(node.name.clone().into()));
            node.attr.insert(STORED_NAME.to_owned(), proto::AttrValue { value });
        }
    }
}

/// Paths of assets that the loader of TensorFlow would feed are constants like the others.
fn give_assets(imported: &mut Imported) {
    for node in &mut imported.graph.node {
        if node.op.starts_with("Placeholder") && imported.assets.contains_key(&node.name) {
            let dtype = DataType::DtString as i32;
            let scalar = Some(proto::TensorShapeProto::default());
            let path = proto::TensorProto { dtype, tensor_shape: scalar, ..proto::TensorProto::default() };
            let attr = |value| proto::AttrValue { value: Some(value) };
            node.op = "Const".to_owned();
            node.input.clear();
            node.attr.clear();
            node.attr.insert("dtype".to_owned(), attr(Value::Type(dtype)));
            // The value is found by name.
            node.attr.insert("value".to_owned(), attr(Value::Tensor(Box::new(path))));
        }
    }
}

fn build(imported: &Imported, ledger: &Ledger) -> Result<Graph, ConvertError> {
    let constants = |name: &str, value: Option<&proto::TensorProto>| match value {
        Some(value) => Ok(Some(constant(imported, ledger, name, value)?)),
        None => Ok(None),
    };
    Ok(Graph::from_def(&imported.graph, &constants)?)
}

fn constant(
    imported: &Imported,
    ledger: &Ledger,
    name: &str,
    value: &proto::TensorProto,
) -> Result<Constant, ConvertError> {
    if let Some(path) = imported.assets.get(name) {
        return Ok(Constant::new(DataType::DtString, Tensor::scalar(path_bytes(path))));
    }
    if let Some(content) = imported.contents.find(value, name)? {
        let (meta, owned, ledger) = (content.meta.clone(), name.to_owned(), ledger.clone());
        return Ok(Constant::deferred(meta.dtype, meta.shape, move || {
            Ok(to_tensor(content.read()?, &owned, &ledger)?)
        }));
    }
    let raw = raw_tensor(value, name)?;
    Ok(Constant::new(raw.dtype, to_tensor(raw, name, ledger)?))
}

fn path_bytes(path: &Path) -> TfString {
    TfString::from(path.to_string_lossy().into_owned())
}

/// Turns the signature into endpoints. Inputs that no output needs stay: whoever feeds the whole signature may do so.
fn set_endpoints(graph: &mut Graph, signature: &Signature) -> Result<(), ConvertError> {
    let endpoint = |graph: &Graph, key: &str, tensor: &crate::source::TensorRef, role| {
        let port = graph.port(&tensor.name).ok_or_else(|| tfjs_graph::GraphError::DanglingEndpoint {
            role,
            key: key.to_owned(),
            tensor: tensor.name.clone(),
        })?;
        let shape = tensor.shape.clone();
        Ok::<_, ConvertError>(Endpoint {
            key: key.to_owned(),
            port,
            data_type: tensor.dtype,
            shape,
            resource_id: None,
        })
    };
    for (key, tensor) in &signature.outputs {
        let output = endpoint(graph, key, tensor, "output")?;
        graph.outputs.push(output);
    }
    if signature.declared {
        for (key, tensor) in &signature.inputs {
            let input = endpoint(graph, key, tensor, "input")?;
            graph.inputs.push(input);
        }
        feed_inputs(graph);
        return Ok(());
    }
    let needed = reachable(graph, graph.outputs.iter().map(|o| o.port.node));
    let placeholders: Vec<_> = graph
        .iter()
        .filter(|(id, n)| needed.contains(id) && matches!(n.op.as_str(), "Placeholder" | "PlaceholderV2"))
        .map(|(id, n)| Endpoint {
            key: n.name.clone(),
            port: id.into(),
            data_type: n.attrs.data_type("dtype").unwrap_or(DataType::DtInvalid),
            shape: shape_attr(n),
            resource_id: None,
        })
        .collect();
    graph.inputs = placeholders;
    graph.inputs.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(())
}

pub(crate) fn shape_attr(node: &tfjs_graph::Node) -> Option<proto::TensorShapeProto> {
    match node.attrs.get("shape") {
        Some(Value::Shape(shape)) => Some((**shape).clone()),
        _ => None,
    }
}

/// A signature may feed any tensor: whatever is not a placeholder becomes one.
fn feed_inputs(graph: &mut Graph) {
    for i in 0..graph.inputs.len() {
        let Endpoint { port, data_type, shape, .. } = graph.inputs[i].clone();
        let node = graph.node(port.node);
        if node.op == "Placeholder" {
            continue;
        }
        let name = node.name.clone();
        let dtype = Value::Type(data_type as i32);
        let mut placeholder = tfjs_graph::Node::new(&name, "Placeholder");
        placeholder.attrs.set("dtype", dtype);
        if let Some(shape) = shape {
            placeholder.attrs.set("shape", Value::Shape(Box::new(shape)));
        }
        if port.index == 0 {
            graph.rename(port.node, &format!("{name}/unfed"));
        }
        let id = graph.add_fresh(placeholder);
        graph.replace_uses(port, id.into());
        graph.inputs[i].port = id.into();
    }
}

/// Nodes that `roots` need, themselves included.
pub(crate) fn reachable(graph: &Graph, roots: impl Iterator<Item = NodeId>) -> HashSet<NodeId> {
    let mut seen = HashSet::new();
    let mut stack: Vec<NodeId> = roots.collect();
    while let Some(id) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        if let Some(node) = graph.get(id) {
            stack.extend(node.inputs.iter().map(|p| p.node));
            stack.extend(&node.controls);
        }
    }
    seen
}

/// Removes what is not needed any more, and references to it.
pub(crate) fn retain_reachable(graph: &mut Graph) -> usize {
    let roots = graph.outputs.iter().map(|e| e.port.node).chain(graph.inputs.iter().map(|e| e.port.node));
    let needed = reachable(graph, roots.chain(graph.targets.iter().copied()).collect::<Vec<_>>().into_iter());
    let before = graph.len();
    for id in graph.ids() {
        if !needed.contains(&id) {
            graph.remove(id);
        }
    }
    before - graph.len()
}

/// TF-Hub version 1 names: the module's nodes under a prefix, its inputs by signature key.
fn add_prefix(graph: &mut Graph, prefix: &str) {
    let inputs: BTreeMap<NodeId, String> =
        graph.inputs.iter().map(|e| (e.port.node, e.key.clone())).collect();
    for id in graph.ids() {
        if !inputs.contains_key(&id) {
            let name = format!("{prefix}/{}", graph.node(id).name);
            graph.rename(id, &name);
        }
    }
    for (id, key) in inputs {
        graph.rename(id, &key);
    }
}

/// The same port after nodes got other ids; ports of nodes without one stay.
pub(crate) fn mapped(ids: &HashMap<NodeId, Port>, port: Port) -> Option<Port> {
    let base = ids.get(&port.node)?;
    Some(Port { node: base.node, index: base.index + port.index })
}
