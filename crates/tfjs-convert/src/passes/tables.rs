//! Tables split off into a graph of their own that runs once; the two are tied together by resource ids.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use tfjs_format::{
    DType,
    proto::{DataType, TensorShapeProto, attr_value::Value},
};
use tfjs_graph::{Attrs, Constant, Endpoint, Graph, Node, NodeId, Port, Tensor};
use tfjs_kernels::TfString;

use crate::{
    ConvertError,
    model::{Model, STORED_NAME, deferred, reachable, retain_reachable},
    source::Variables,
    values::Ledger,
};

/// Ops that make a table.
const TABLES: &[&str] = &[
    "HashTable",
    "HashTableV2",
    "MutableHashTable",
    "MutableHashTableV2",
    "MutableDenseHashTable",
    "MutableDenseHashTableV2",
    "MutableHashTableOfTensors",
    "MutableHashTableOfTensorsV2",
    "AnonymousHashTable",
    "AnonymousMutableHashTable",
    "AnonymousMutableDenseHashTable",
];
/// Ops that fill one.
const IMPORTS: &[&str] =
    &["LookupTableImport", "LookupTableImportV2", "InitializeTable", "InitializeTableV2"];
const FROM_FILE: &[&str] = &["InitializeTableFromTextFile", "InitializeTableFromTextFileV2"];

/// Moves the tables that the outputs need into `model.initializer`, and forgets all other initialisation.
pub(crate) fn run(model: &mut Model) -> Result<usize, ConvertError> {
    if model.initializer.is_some() {
        return Ok(0);
    }
    let graph = &mut model.graph;
    let needed = reachable(graph, graph.outputs.iter().map(|o| o.port.node));
    let tables: Vec<NodeId> = graph
        .iter()
        .filter(|(id, n)| needed.contains(id) && TABLES.contains(&n.op.as_str()))
        .map(|(id, _)| id)
        .collect();
    if tables.is_empty() {
        graph.targets.clear();
        retain_reachable(graph);
        return Ok(0);
    }
    let fills = fills(graph);
    let mut initializer = Graph::default();
    initializer.versions.clone_from(&graph.versions);
    let mut copied = HashMap::new();
    for (i, &table) in tables.iter().enumerate() {
        let resource_id = i as i64;
        let fill = fills.get(&table).copied();
        let node = graph.node(table).clone();
        let handle = add_table(&mut initializer, &node)?;
        let import = match fill {
            Some(fill) if FROM_FILE.contains(&graph.node(fill).op.as_str()) => {
                Some(from_file(graph, fill, &node, &mut initializer)?)
            }
            Some(fill) => {
                let from = graph.node(fill);
                let (name, inputs) = (from.name.clone(), from.inputs.clone());
                let keys = copy(graph, inputs[1], &mut initializer, &mut copied)?;
                let values = copy(graph, inputs[2], &mut initializer, &mut copied)?;
                Some((name, keys, values))
            }
            None => stored(&model.variables, &model.ledger, &node, &mut initializer)?,
        };
        let mut controls = Vec::new();
        if let Some((name, keys, values)) = import {
            let mut import = Node::new(name, "LookupTableImportV2").inputs([handle.into(), keys, values]);
            for (to, from) in [("Tin", "key_dtype"), ("Tout", "value_dtype")] {
                if let Some(dtype) = node.attrs.get(from) {
                    import.attrs.set(to, dtype.clone());
                }
            }
            controls.push(initializer.add_fresh(import));
        }
        let output = if i == 0 { "Identity".to_owned() } else { format!("Identity_{i}") };
        let mut output = Node::new(output, "Identity").inputs([handle.into()]);
        output.attrs.set("T", Value::Type(DataType::DtResource as i32));
        output.controls = controls;
        let output = initializer.add_fresh(output);
        let key = format!("{}:0", initializer.node(output).name);
        initializer.outputs.push(resource(key, output, resource_id));
        become_input(graph, table, resource_id);
    }
    graph.targets.clear();
    retain_reachable(graph);
    initializer.library.clone_from(&graph.library);
    model.initializer = Some(initializer);
    Ok(tables.len())
}

fn resource(key: String, node: NodeId, resource_id: i64) -> Endpoint {
    Endpoint {
        key,
        port: node.into(),
        data_type: DataType::DtResource,
        shape: Some(TensorShapeProto::default()),
        resource_id: Some(resource_id),
    }
}

/// In the main graph a table is fed like any other input.
fn become_input(graph: &mut Graph, table: NodeId, resource_id: i64) {
    let node = graph.node_mut(table);
    node.op = "Placeholder".to_owned();
    node.inputs.clear();
    node.controls.clear();
    node.attrs = Attrs::default()
        .with("dtype", Value::Type(DataType::DtResource as i32))
        .with("shape", Value::Shape(Box::default()));
    let key = format!("{}:0", node.name);
    graph.inputs.push(resource(key, table, resource_id));
}

/// Which node fills each table, among those that initialisation runs.
fn fills(graph: &Graph) -> BTreeMap<NodeId, NodeId> {
    let run = reachable(graph, graph.targets.iter().copied());
    let mut fills = BTreeMap::new();
    for (id, node) in graph.iter().filter(|(id, _)| run.contains(id)) {
        let op = node.op.as_str();
        if !IMPORTS.contains(&op) && !FROM_FILE.contains(&op) {
            continue;
        }
        let arity = if FROM_FILE.contains(&op) { 2 } else { 3 };
        if let Some(&handle) = node.inputs.first().filter(|_| node.inputs.len() >= arity) {
            fills.insert(origin(graph, handle).node, id);
        }
    }
    fills
}

/// The port behind a chain of identities, and behind variables that initialisation assigns (names of asset files).
fn origin(graph: &Graph, mut port: Port) -> Port {
    // A chain is no longer than the graph; files may hold circles.
    for _ in 0..graph.len() {
        let Some(node) = graph.get(port.node) else { break };
        let Some(&input) = node.inputs.first() else { break };
        port = match node.op.as_str() {
            "Identity" => input,
            "ReadVariableOp" => match assigned(graph, origin_of_handle(graph, input)) {
                Some(value) => value,
                None => break,
            },
            _ => break,
        };
    }
    port
}

fn origin_of_handle(graph: &Graph, mut port: Port) -> NodeId {
    while let Some(node) = graph.get(port.node).filter(|n| n.op == "Identity")
        && let Some(&input) = node.inputs.first()
    {
        port = input;
    }
    port.node
}

/// What initialisation assigns to a variable.
fn assigned(graph: &Graph, variable: NodeId) -> Option<Port> {
    let assign = graph.iter().find(|(_, n)| {
        n.op == "AssignVariableOp"
            && n.inputs.first().is_some_and(|p| origin_of_handle(graph, *p) == variable)
    });
    assign?.1.inputs.get(1).copied()
}

/// TensorFlow.js has one kind of table, which cannot be changed once it is filled.
fn add_table(initializer: &mut Graph, node: &Node) -> Result<NodeId, ConvertError> {
    let mut table = Node::new(&node.name, "HashTableV2");
    for attr in ["key_dtype", "value_dtype", "shared_name", "container", "use_node_name_sharing"] {
        if let Some(value) = node.attrs.get(attr) {
            table.attrs.set(attr, value.clone());
        }
    }
    Ok(initializer.add_fresh(table))
}

/// A table whose contents are in the checkpoint.
fn stored(
    variables: &Variables,
    ledger: &Ledger,
    node: &Node,
    initializer: &mut Graph,
) -> Result<Option<(String, Port, Port)>, ConvertError> {
    let name = node.attrs.str_or(STORED_NAME, &node.name).unwrap_or(&node.name);
    let Some((keys, values)) = variables.find_table(name)? else { return Ok(None) };
    let mut add = |part: &str, lazy| {
        let name = format!("{}/{part}", node.name);
        let constant = deferred(&lazy, &name, ledger);
        Port::from(initializer.add_fresh(Node::constant(name, constant)))
    };
    let (keys, values) = (add("keys", keys), add("values", values));
    Ok(Some((format!("{}/import", node.name), keys, values)))
}

/// Copies what a port needs into the other graph.
fn copy(
    graph: &Graph,
    port: Port,
    into: &mut Graph,
    copied: &mut HashMap<NodeId, NodeId>,
) -> Result<Port, ConvertError> {
    let port = origin(graph, port);
    // Producers first; the depth of what computes a table's contents is small, but files may lie.
    let mut stack = vec![port.node];
    let mut open = std::collections::HashSet::new();
    while let Some(&id) = stack.last() {
        let node = graph.node(id);
        let waiting: Vec<NodeId> =
            node.inputs.iter().map(|p| origin(graph, *p).node).filter(|n| !copied.contains_key(n)).collect();
        if !waiting.is_empty() && open.insert(id) {
            stack.extend(waiting);
            continue;
        }
        stack.pop();
        if copied.contains_key(&id) {
            continue;
        }
        let mut node = node.clone();
        node.controls.clear();
        for input in &mut node.inputs {
            let source = origin(graph, *input);
            let Some(&new) = copied.get(&source.node) else {
                return Err(tfjs_graph::GraphError::Cycle { node: node.name }.into());
            };
            *input = Port { node: new, index: source.index };
        }
        copied.insert(id, into.add_fresh(node));
    }
    let node = copied[&port.node];
    Ok(Port { node, index: port.index })
}

/// Whole line, line number, or the n-th column.
#[derive(Clone, Copy)]
enum Column {
    Line,
    Number,
    Field(usize),
}

impl Column {
    fn of(index: i64) -> Option<Column> {
        match index {
            -2 => Some(Column::Line),
            -1 => Some(Column::Number),
            n => usize::try_from(n).ok().map(Column::Field),
        }
    }
}

/// Reads the vocabulary file of a table into two constants.
fn from_file(
    graph: &Graph,
    fill: NodeId,
    table: &Node,
    initializer: &mut Graph,
) -> Result<(String, Port, Port), ConvertError> {
    let node = graph.node(fill);
    let name = &node.name;
    let path = file_name(graph, node.inputs[1])
        .ok_or_else(|| ConvertError::VocabularyName { node: name.clone() })?;
    let bytes = fs::read(&path).map_err(|source| ConvertError::Io { path: path.clone(), source })?;
    let bad = |line: usize, what: &'static str| ConvertError::Vocabulary { path: path.clone(), line, what };
    let delimiter =
        node.attrs.str_or("delimiter", "\t").unwrap_or("\t").as_bytes().first().copied().unwrap_or(b'\t');
    let column = |attr: &str| {
        node.attrs.int_or(attr, -2).ok().and_then(Column::of).ok_or_else(|| bad(0, "unknown column"))
    };
    let (key_column, value_column) = (column("key_index")?, column("value_index")?);
    let size = node.attrs.int_or("vocab_size", -1).unwrap_or(-1);
    let offset = usize::try_from(node.attrs.int_or("offset", 0).unwrap_or(0)).unwrap_or(0);
    let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    if lines.last().is_some_and(|l| l.is_empty()) {
        lines.pop();
    }
    let lines: Vec<&[u8]> =
        lines.into_iter().skip(offset).map(|l| l.strip_suffix(b"\r").unwrap_or(l)).collect();
    let count = usize::try_from(size).map_or(lines.len(), |n| n);
    let lines = lines
        .get(..count)
        .ok_or_else(|| bad(lines.len(), "the file has fewer lines than vocab_size says"))?;
    let types = [("key_dtype", key_column, "keys"), ("value_dtype", value_column, "values")];
    let mut ports = Vec::new();
    for (attr, column, part) in types {
        let dtype = table.attrs.data_type(attr).unwrap_or(DataType::DtString);
        let mut cells = Vec::with_capacity(lines.len());
        for (i, line) in lines.iter().enumerate() {
            cells.push(match column {
                Column::Line => line.to_vec(),
                Column::Number => i.to_string().into_bytes(),
                Column::Field(n) => {
                    let mut fields = line.split(|b| *b == delimiter);
                    fields.nth(n).ok_or_else(|| bad(i + offset + 1, "too few columns"))?.to_vec()
                }
            });
        }
        let tensor =
            parse(cells, dtype, offset).map_err(|line| bad(line, "not a number of the table's type"))?;
        let constant = Node::constant(format!("{name}/{part}"), Constant::new(dtype, tensor));
        ports.push(Port::from(initializer.add_fresh(constant)));
    }
    Ok((name.clone(), ports[0], ports[1]))
}

/// The cells as a vector, or the line of the first that is not a value of the type.
fn parse(cells: Vec<Vec<u8>>, dtype: DataType, offset: usize) -> Result<Tensor, usize> {
    fn numbers<T: std::str::FromStr>(cells: &[Vec<u8>], offset: usize) -> Result<Vec<T>, usize> {
        let number = |cell: &Vec<u8>| std::str::from_utf8(cell).ok()?.trim().parse().ok();
        cells.iter().enumerate().map(|(i, c)| number(c).ok_or(i + offset + 1)).collect()
    }
    Ok(match DType::from_proto(dtype) {
        Some(DType::Float32) => Tensor::vector(numbers::<f32>(&cells, offset)?),
        Some(DType::Int32) => Tensor::vector(numbers::<i32>(&cells, offset)?),
        _ => Tensor::vector(cells.into_iter().map(TfString::from).collect()),
    })
}

/// The value of a constant file name.
fn file_name(graph: &Graph, port: Port) -> Option<PathBuf> {
    let tensor = graph.node(origin(graph, port).node).value.as_ref()?.tensor().ok()?;
    let Tensor::Str(text) = tensor else { return None };
    let text = text.data().first()?;
    Some(Path::new(std::str::from_utf8(text).ok()?).to_path_buf())
}
