//! Loops that write into lists, in a form that TensorFlow.js survives.
//!
//! When the body of a loop has run, TensorFlow.js frees all tensors made in it but the results, among them those that
//! were put into a list. So every element written has to be a result: either the state it came from, once no identity
//! stands between, or an extra loop variable.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tfjs_format::proto::{DataType, attr_value::Value, op_def::ArgDef};
use tfjs_graph::{Attrs, Constant, Endpoint, Function, Graph, Node, NodeId, Port, Tensor};

/// Ops that put a tensor into a list, and which of their inputs that is.
const WRITES: &[(&str, usize)] = &[("TensorListSetItem", 2), ("TensorListPushBack", 1)];

/// Makes every element that a loop writes into a list a result of the loop's body; says how many were not.
pub(crate) fn keep(graph: &mut Graph) -> usize {
    for function in graph.library.values_mut() {
        bypass_identities(&mut Arc::make_mut(function).graph);
    }
    let shared = shared_functions(graph);
    let mut library = std::mem::take(&mut graph.library);
    // Loops that share a function are left alone.
    let mut done: Done = shared.into_iter().map(|key| (key, Vec::new())).collect();
    let mut count = 0;
    // Functions may hold loops too; their bodies are found in the same library.
    for name in library.keys().cloned().collect::<Vec<_>>() {
        let Some(mut function) = library.get(&name).cloned() else { continue };
        if loops(&function.graph).is_empty() {
            continue;
        }
        let added = extend_loops(&mut Arc::make_mut(&mut function).graph, &mut library, &mut done);
        if added > 0 {
            // The loop may have been extended while this function was looked at on its own.
            library.insert(name, function);
        }
        count += added;
    }
    count += extend_loops(graph, &mut library, &mut done);
    graph.library = library;
    count
}

fn loops(graph: &Graph) -> Vec<NodeId> {
    let is_loop = |n: &Node| matches!(n.op.as_str(), "While" | "StatelessWhile");
    graph.iter().filter(|(_, n)| is_loop(n)).map(|(id, _)| id).collect()
}

/// Loops whose condition or body another loop has too, with a different other half.
fn shared_functions(graph: &Graph) -> HashSet<Key> {
    let bodies = graph.library.values().map(|f| &f.graph);
    let keys: HashSet<Key> =
        bodies.chain([graph]).flat_map(|g| loops(g).into_iter().filter_map(|id| key(g, id))).collect();
    let clash =
        |a: &Key| keys.iter().any(|b| a != b && (a.0 == b.0 || a.1 == b.1 || a.0 == b.1 || a.1 == b.0));
    keys.iter().filter(|k| clash(k)).cloned().collect()
}

/// The names of a loop's condition and body.
type Key = (String, String);

fn key(graph: &Graph, id: NodeId) -> Option<Key> {
    let attrs = &graph.node(id).attrs;
    Some((attrs.func("cond").ok()?.to_owned(), attrs.func("body").ok()?.to_owned()))
}

/// Results of a function are what identities hand on.
fn bypass_identities(graph: &mut Graph) {
    for i in 0..graph.outputs.len() {
        let mut port = graph.outputs[i].port;
        while let Some(node) = graph.get(port.node)
            && node.op == "Identity"
            && node.controls.is_empty()
            && let Some(&source) = node.inputs.first()
        {
            port = source;
        }
        graph.outputs[i].port = port;
    }
    crate::model::retain_reachable(graph);
}

/// The types of the variables that each loop got.
type Done = HashMap<Key, Vec<DataType>>;

fn extend_loops(
    graph: &mut Graph,
    library: &mut std::collections::BTreeMap<String, Arc<Function>>,
    done: &mut Done,
) -> usize {
    let mut count = 0;
    for id in loops(graph) {
        let Some(key) = key(graph, id) else { continue };
        let added = match done.get(&key) {
            Some(added) => added.clone(),
            None => {
                let (Some(body), Some(cond)) = (library.get(&key.1).cloned(), library.get(&key.0).cloned())
                else {
                    continue;
                };
                let (mut body, mut cond) = (body, cond);
                let added = extend_body(Arc::make_mut(&mut body));
                if !added.is_empty() {
                    extend_args(Arc::make_mut(&mut cond), &added);
                    library.insert(key.0.clone(), cond);
                    library.insert(key.1.clone(), body);
                }
                done.insert(key, added.clone());
                added
            }
        };
        for dtype in &added {
            let start = start_value(graph, id, *dtype);
            let node = graph.node_mut(id);
            node.inputs.push(start);
            push_type(&mut node.attrs, *dtype);
        }
        count += added.len();
    }
    count
}

/// Adds a result for each element that the body writes and does not return; gives their types.
fn extend_body(function: &mut Function) -> Vec<DataType> {
    let graph = &function.graph;
    let mut kept: HashSet<Port> = graph.outputs.iter().map(|o| o.port).collect();
    kept.extend(graph.inputs.iter().map(|e| e.port));
    let mut written = Vec::new();
    for (_, node) in graph.iter() {
        let Some((_, input)) = WRITES.iter().find(|(op, _)| *op == node.op) else { continue };
        let Some(&element) = node.inputs.get(*input) else { continue };
        // Constants are weights, which are never freed.
        if graph.node(element.node).value.is_none() && kept.insert(element) {
            let dtype = node.attrs.opt_data_type("element_dtype").ok().flatten().unwrap_or(DataType::DtFloat);
            written.push((element, dtype));
        }
    }
    let types: Vec<DataType> = written.iter().map(|(_, dtype)| *dtype).collect();
    extend_args(function, &types);
    for (i, (element, dtype)) in written.into_iter().enumerate() {
        let key = format!("kept_element_{i}");
        function.signature.output_arg.push(ArgDef {
            name: key.clone(),
            r#type: dtype as i32,
            ..ArgDef::default()
        });
        function.graph.outputs.push(endpoint(key, element, dtype));
    }
    types
}

/// Adds arguments that nobody uses.
fn extend_args(function: &mut Function, types: &[DataType]) {
    for (i, dtype) in types.iter().enumerate() {
        let attrs = Attrs::default().with("dtype", Value::Type(*dtype as i32));
        let id =
            function.graph.add_fresh(Node::new(format!("kept_element_in_{i}"), "Placeholder").attrs(attrs));
        let key = function.graph.node(id).name.clone();
        function.signature.input_arg.push(ArgDef {
            name: key.clone(),
            r#type: *dtype as i32,
            ..ArgDef::default()
        });
        function.graph.inputs.push(endpoint(key, id.into(), *dtype));
    }
}

fn endpoint(key: String, port: Port, data_type: DataType) -> Endpoint {
    Endpoint { key, port, data_type, shape: None, resource_id: None }
}

/// What the extra variable holds before the first round: nothing looks at it.
fn start_value(graph: &mut Graph, id: NodeId, dtype: DataType) -> Port {
    let tensor = match tfjs_format::DType::from_proto(dtype) {
        Some(tfjs_format::DType::Int32) => Tensor::scalar(0i32),
        Some(tfjs_format::DType::Bool) => Tensor::scalar(false),
        Some(tfjs_format::DType::String) => Tensor::scalar(tfjs_kernels::TfString::default()),
        Some(tfjs_format::DType::Complex64) => Tensor::scalar(num_complex::Complex32::default()),
        _ => Tensor::scalar(0f32),
    };
    let name = format!("{}/kept_element", graph.node(id).name);
    graph.add_fresh(Node::constant(name, Constant::new(dtype, tensor))).into()
}

fn push_type(attrs: &mut Attrs, dtype: DataType) {
    if let Some(Value::List(list)) = attrs.get("T") {
        let mut list = list.clone();
        list.r#type.push(dtype as i32);
        attrs.set("T", Value::List(list));
    }
    if let Some(Value::List(list)) =
        attrs.get("output_shapes").filter(|v| matches!(v, Value::List(l) if !l.shape.is_empty()))
    {
        let mut list = list.clone();
        // A start value of another shape than the elements: the rank changes.
        list.shape.push(tfjs_format::proto::TensorShapeProto { unknown_rank: true, ..Default::default() });
        attrs.set("output_shapes", Value::List(list));
    }
}
