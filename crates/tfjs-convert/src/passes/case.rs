//! `Case`, which TensorFlow.js lacks, as a chain of `If`: branch 0 if the index is 0, else branch 1 if it is 1, … and the
//! last one for every other index.

use std::{collections::BTreeMap, sync::Arc};

use tfjs_format::proto::{
    DataType, NameAttrList, OpDef,
    attr_value::{ListValue, Value},
    op_def::ArgDef,
};
use tfjs_graph::{Attrs, Constant, Endpoint, Function, Graph, Node, NodeId, Port, Tensor};

type Library = BTreeMap<String, Arc<Function>>;

/// Lowers every `Case` of the graph and its functions; says how many.
pub(crate) fn lower(graph: &mut Graph) -> usize {
    let mut library = std::mem::take(&mut graph.library);
    let mut count = 0;
    for name in library.keys().cloned().collect::<Vec<_>>() {
        let Some(mut function) = library.get(&name).cloned() else { continue };
        if cases(&function.graph).is_empty() {
            continue;
        }
        count += lower_in(&mut Arc::make_mut(&mut function).graph, &mut library);
        library.insert(name, function);
    }
    count += lower_in(graph, &mut library);
    graph.library = library;
    count
}

fn cases(graph: &Graph) -> Vec<NodeId> {
    let is_case = |n: &Node| matches!(n.op.as_str(), "Case" | "StatelessCase");
    graph.iter().filter(|(_, n)| is_case(n)).map(|(id, _)| id).collect()
}

fn lower_in(graph: &mut Graph, library: &mut Library) -> usize {
    let mut count = 0;
    for id in cases(graph) {
        if lower_case(graph, id, library).is_some() {
            count += 1;
        }
    }
    count
}

/// What all `If`s of one chain share.
struct Chain {
    op: &'static str,
    /// Types of the arguments, the index first.
    inputs: Vec<i32>,
    outputs: Vec<i32>,
    shapes: Option<Value>,
}

fn lower_case(graph: &mut Graph, id: NodeId, library: &mut Library) -> Option<()> {
    let node = graph.node(id);
    let branches: Vec<String> = node.attrs.funcs("branches").ok()?.into_iter().map(str::to_owned).collect();
    let types = |attr| match node.attrs.get(attr) {
        Some(Value::List(list)) => list.r#type.clone(),
        _ => Vec::new(),
    };
    let mut inputs = vec![DataType::DtInt32 as i32];
    inputs.extend(types("Tin"));
    let op = if node.op == "Case" { "If" } else { "StatelessIf" };
    let chain =
        Chain { op, inputs, outputs: types("Tout"), shapes: node.attrs.get("output_shapes").cloned() };
    let index = *node.inputs.first()?;
    let args: Vec<Port> = node.inputs.clone();
    let name = node.name.clone();
    let indexed: Vec<String> = branches.iter().map(|b| with_index(b, library)).collect::<Option<_>>()?;
    // From the end: each function tests one index and leaves the rest to the one before.
    let mut rest = indexed.last()?.clone();
    for k in (1..branches.len().saturating_sub(1)).rev() {
        rest = test(&chain, k, &indexed[k], &rest, library)?;
    }
    let first = indexed.first()?.clone();
    let is_first = equal(graph, &name, index, 0);
    let node = graph.node_mut(id);
    chain.op.clone_into(&mut node.op);
    node.inputs = std::iter::once(is_first).chain(args).collect();
    node.attrs = chain.attrs(&first, &rest);
    Some(())
}

impl Chain {
    fn attrs(&self, then: &str, otherwise: &str) -> Attrs {
        let list = |types: &[i32]| {
            Value::List(Box::new(ListValue { r#type: types.to_vec(), ..ListValue::default() }))
        };
        let function = |name: &str| {
            Value::Func(Box::new(NameAttrList { name: name.to_owned(), ..NameAttrList::default() }))
        };
        let mut attrs = Attrs::default()
            .with("Tcond", Value::Type(DataType::DtBool as i32))
            .with("Tin", list(&self.inputs))
            .with("Tout", list(&self.outputs))
            .with("then_branch", function(then))
            .with("else_branch", function(otherwise));
        if let Some(shapes) = &self.shapes {
            attrs.set("output_shapes", shapes.clone());
        }
        attrs
    }
}

/// `index == k`
fn equal(graph: &mut Graph, name: &str, index: Port, k: i32) -> Port {
    let value = Constant::new(DataType::DtInt32, Tensor::scalar(k));
    let k = graph.add_fresh(Node::constant(format!("{name}/branch"), value));
    let attrs = Attrs::default().with("T", Value::Type(DataType::DtInt32 as i32));
    graph
        .add_fresh(Node::new(format!("{name}/is_branch"), "Equal").inputs([index, k.into()]).attrs(attrs))
        .into()
}

const INDEX: &str = "branch_index";

/// A copy of a branch that takes the index as its first argument and ignores it.
fn with_index(branch: &str, library: &mut Library) -> Option<String> {
    let mut function = Function::clone(library.get(branch)?);
    let (id, arg) = argument(&mut function.graph, INDEX, DataType::DtInt32 as i32);
    function.graph.inputs.insert(0, endpoint(&arg.name, id.into(), arg.r#type));
    function.signature.input_arg.insert(0, arg);
    Some(insert(function, format!("{branch}_of_case"), library))
}

/// The function that runs `then` if the index is `k`, and `otherwise` if not.
fn test(chain: &Chain, k: usize, then: &str, otherwise: &str, library: &mut Library) -> Option<String> {
    let k = i32::try_from(k).ok()?;
    let mut graph = Graph::default();
    let mut signature = OpDef::default();
    for (i, &dtype) in chain.inputs.iter().enumerate() {
        let name = if i == 0 { INDEX.to_owned() } else { format!("arg_{i}") };
        let (id, arg) = argument(&mut graph, &name, dtype);
        graph.inputs.push(endpoint(&arg.name, id.into(), dtype));
        signature.input_arg.push(arg);
    }
    let args: Vec<Port> = graph.inputs.iter().map(|e| e.port).collect();
    let is_k = equal(&mut graph, "case", args[0], k);
    let node = Node::new("case", chain.op).inputs(std::iter::once(is_k).chain(args));
    let id = graph.add_fresh(node.attrs(chain.attrs(then, otherwise)));
    for (i, &dtype) in chain.outputs.iter().enumerate() {
        let key = format!("output_{i}");
        graph.outputs.push(endpoint(&key, Port { node: id, index: i as u32 }, dtype));
        signature.output_arg.push(ArgDef { name: key, r#type: dtype, ..ArgDef::default() });
    }
    let function = Function { signature, attrs: Attrs::default(), graph };
    Some(insert(function, format!("{then}_or_rest"), library))
}

fn argument(graph: &mut Graph, name: &str, dtype: i32) -> (NodeId, ArgDef) {
    let attrs = Attrs::default().with("dtype", Value::Type(dtype));
    let id = graph.add_fresh(Node::new(name, "Placeholder").attrs(attrs));
    (id, ArgDef { name: graph.node(id).name.clone(), r#type: dtype, ..ArgDef::default() })
}

fn endpoint(key: &str, port: Port, dtype: i32) -> Endpoint {
    let data_type = DataType::try_from(dtype).unwrap_or(DataType::DtInvalid);
    Endpoint { key: key.to_owned(), port, data_type, shape: None, resource_id: None }
}

/// Adds a function under a free name.
fn insert(mut function: Function, name: String, library: &mut Library) -> String {
    let names = std::iter::once(name.clone()).chain((1..).map(|i| format!("{name}_{i}")));
    let name = names.into_iter().find(|n| !library.contains_key(n)).unwrap_or(name);
    function.signature.name.clone_from(&name);
    library.insert(name.clone(), Arc::new(function));
    name
}
