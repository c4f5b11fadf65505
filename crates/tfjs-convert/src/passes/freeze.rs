//! Variables replaced by constants.
//!
//! A variable's node becomes a constant with the stored value, and whatever carried the variable's handle carries the
//! value instead: through identities and loops, and into the functions of `While` and `If`, whose types change with it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tfjs_format::proto::{DataType, TensorShapeProto, attr_value::Value, tensor_shape_proto::Dim};
use tfjs_graph::{Attrs, Constant, Function, Graph, Node, NodeId, Port, Tensor};

use crate::{
    ConvertError,
    model::{Model, deferred},
    source::Variables,
    values::Ledger,
};

/// Freezes the variables of a graph and of the functions it needs; says how many.
pub(crate) fn run(graph: &mut Graph, variables: &Variables, ledger: &Ledger) -> Result<usize, ConvertError> {
    let library = std::mem::take(&mut graph.library);
    let mut freezer = Freezer {
        variables,
        ledger,
        library: &library,
        done: BTreeMap::new(),
        names: HashMap::new(),
        missing: Vec::new(),
        count: 0,
    };
    freezer.graph(graph, HashMap::new())?;
    if !freezer.missing.is_empty() {
        return Err(ConvertError::MissingVariables { names: freezer.missing });
    }
    let count = freezer.count;
    graph.library = freezer.done;
    Ok(count)
}

/// What is known of a frozen value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    dtype: DataType,
    shape: Vec<usize>,
}

struct Freezer<'a> {
    variables: &'a Variables,
    ledger: &'a Ledger,
    library: &'a BTreeMap<String, Arc<Function>>,
    done: BTreeMap<String, Arc<Function>>,
    /// Name of each function for each set of arguments that became values.
    names: HashMap<(String, Vec<Option<Held>>), String>,
    missing: Vec<String>,
    count: usize,
}

impl Freezer<'_> {
    /// Freezes one graph, in which the arguments `held` are values already. Returns which ports hold values.
    fn graph(
        &mut self,
        graph: &mut Graph,
        mut held: HashMap<Port, Held>,
    ) -> Result<HashMap<Port, Held>, ConvertError> {
        let mut replaced: HashMap<Port, Port> = HashMap::new();
        let is_output = |graph: &Graph, id| graph.outputs.iter().any(|o| o.port.node == id);
        for id in graph.topological_order()? {
            let node = graph.node(id);
            let first = node.inputs.first().copied();
            let input = first.and_then(|p| held.get(&p)).cloned();
            match (node.op.as_str(), input) {
                ("VarHandleOp" | "Variable" | "VariableV2" | "AutoReloadVariable" | "_VarHandlesOp", _) => {
                    if let Some(value) = self.variable(graph, id)? {
                        held.insert(id.into(), value);
                    }
                }
                ("Placeholder", _) if held.contains_key(&id.into()) => {
                    let dtype = held[&id.into()].dtype;
                    graph.node_mut(id).attrs.set("dtype", Value::Type(dtype as i32));
                }
                ("Identity" | "Enter" | "Exit" | "NextIteration" | "StopGradient", Some(value)) => {
                    graph.node_mut(id).attrs.set("T", Value::Type(value.dtype as i32));
                    held.insert(id.into(), value);
                }
                ("Switch" | "Merge", Some(value)) => {
                    graph.node_mut(id).attrs.set("T", Value::Type(value.dtype as i32));
                    held.insert(id.into(), value.clone());
                    if graph.node(id).op == "Switch" {
                        held.insert(Port { node: id, index: 1 }, value);
                    }
                }
                ("ReadVariableOp", Some(value)) => {
                    let Some(source) = first else { continue };
                    let of_constant = graph.node(source.node).value.is_some();
                    if of_constant && !is_output(graph, id) {
                        // The constant is called as its first reader, which is how the reference names it.
                        let name = graph.node(id).name.clone();
                        graph.remove(id);
                        if !graph.node(source.node).attrs.0.contains_key(NAMED) {
                            graph.rename(source.node, &name);
                            graph.node_mut(source.node).attrs.set(NAMED, Value::B(true));
                        }
                        replaced.insert(id.into(), source);
                    } else {
                        become_node(graph, id, "Identity", &[source], &[("T", value.dtype)]);
                    }
                    held.insert(id.into(), value);
                }
                ("ResourceGather", Some(value)) => self.gather(graph, id, &value),
                ("ResourceGatherNd", Some(value)) => {
                    let node = graph.node_mut(id);
                    node.op = "GatherNd".to_owned();
                    node.attrs.remove("dtype");
                    node.attrs.set("Tparams", Value::Type(value.dtype as i32));
                }
                ("VariableShape", Some(value)) => {
                    let dims: Vec<i32> =
                        value.shape.iter().map(|&d| i32::try_from(d).unwrap_or(i32::MAX)).collect();
                    let dtype =
                        node.attrs.opt_data_type("out_type").ok().flatten().unwrap_or(DataType::DtInt32);
                    let constant = Constant::new(dtype, Tensor::vector(dims));
                    replace_by_constant(graph, id, constant);
                }
                ("VarIsInitializedOp" | "IsVariableInitialized", Some(_)) => {
                    replace_by_constant(graph, id, Constant::new(DataType::DtBool, Tensor::scalar(true)));
                }
                ("While" | "StatelessWhile" | "If" | "StatelessIf" | "Case" | "StatelessCase", _) => {
                    self.functional(graph, id, &mut held)?;
                }
                _ => self.keep_functions(graph.node(id))?,
            }
            // What was read through a removed node is now read from the constant.
            if let Some(source) = replaced.get(&id.into())
                && let Some(value) = held.get(source).cloned()
            {
                held.insert(id.into(), value);
            }
        }
        for node in graph.ids() {
            graph.node_mut(node).attrs.remove(NAMED);
        }
        graph.redirect(|p| replaced.get(&p).copied().unwrap_or(p));
        for id in graph.ids() {
            let controls = std::mem::take(&mut graph.node_mut(id).controls);
            graph.node_mut(id).controls = controls.into_iter().filter(|c| graph.get(*c).is_some()).collect();
        }
        let targets = std::mem::take(&mut graph.targets);
        graph.targets = targets.into_iter().filter(|t| graph.get(*t).is_some()).collect();
        Ok(held)
    }

    /// Turns a variable's node into a constant; `None` when the checkpoint has no value for it.
    fn variable(&mut self, graph: &mut Graph, id: NodeId) -> Result<Option<Held>, ConvertError> {
        if self.variables.checkpoint.is_none() {
            // Nothing was ever stored: the op check reports the variable with whatever else cannot be run.
            return Ok(None);
        }
        let node = graph.node(id);
        let Some(lazy) = Model::variable(self.variables, node)? else {
            self.missing.push(node.name.clone());
            return Ok(None);
        };
        let declared = node.attrs.opt_data_type("dtype").ok().flatten();
        if declared.is_some_and(|d| d != lazy.meta.dtype) {
            return Err(ConvertError::VariableType {
                name: node.name.clone(),
                declared: declared.unwrap_or(DataType::DtInvalid).as_str_name(),
                stored: lazy.meta.dtype.as_str_name(),
            });
        }
        let constant = deferred(&lazy, &node.name, self.ledger);
        // A plain variable is known under its own name; the name of a handle means nothing to users.
        let named = node.op != "VarHandleOp";
        replace_by_constant(graph, id, constant);
        if named {
            graph.node_mut(id).attrs.set(NAMED, Value::B(true));
        }
        self.count += 1;
        Ok(Some(Held { dtype: lazy.meta.dtype, shape: lazy.meta.shape }))
    }

    fn gather(&self, graph: &mut Graph, id: NodeId, value: &Held) {
        let node = graph.node(id);
        let batch_dims = node.attrs.int_or("batch_dims", 0).unwrap_or(0);
        let name = format!("{}/axis", node.name);
        // Gathering after the batch dimensions is gathering along the next one.
        let axis = Tensor::scalar(i32::try_from(batch_dims).unwrap_or(0));
        let axis = graph.add_fresh(Node::constant(name, Constant::new(DataType::DtInt32, axis)));
        let node = graph.node_mut(id);
        node.op = "GatherV2".to_owned();
        node.inputs.push(axis.into());
        node.attrs.remove("dtype");
        node.attrs.remove("validate_indices");
        node.attrs.set("batch_dims", Value::I(batch_dims));
        node.attrs.set("Tparams", Value::Type(value.dtype as i32));
        node.attrs.set("Taxis", Value::Type(DataType::DtInt32 as i32));
    }

    /// `While`, `If` and `Case`: frozen arguments change the types of node and functions.
    fn functional(
        &mut self,
        graph: &mut Graph,
        id: NodeId,
        held: &mut HashMap<Port, Held>,
    ) -> Result<(), ConvertError> {
        let node = graph.node(id);
        let is_while = node.op.ends_with("While");
        // The first input of a conditional selects the branch and is not an argument.
        let args: Vec<Option<Held>> =
            node.inputs.iter().skip(usize::from(!is_while)).map(|p| held.get(p).cloned()).collect();
        let attrs = node.attrs.clone();
        let node_name = node.name.clone();
        let mut results: Vec<Option<Held>> = Vec::new();
        let mut renamed = attrs.clone();
        for (key, attr) in &attrs.0 {
            match &attr.value {
                Some(Value::Func(f)) => {
                    let (name, outputs) = self.function(&f.name, &args, &node_name)?;
                    let mut f = f.clone();
                    f.name = name;
                    renamed.set(key, Value::Func(f));
                    if key != "cond" {
                        results = outputs;
                    }
                }
                Some(Value::List(list)) if !list.func.is_empty() => {
                    let mut list = list.clone();
                    for f in &mut list.func {
                        let (name, outputs) = self.function(&f.name, &args, &node_name)?;
                        f.name = name;
                        results = outputs;
                    }
                    renamed.set(key, Value::List(list));
                }
                _ => {}
            }
        }
        let (inputs, outputs) = if is_while { ("T", "T") } else { ("Tin", "Tout") };
        set_types(&mut renamed, inputs, &args);
        set_types(&mut renamed, outputs, &results);
        if is_while {
            set_shapes(&mut renamed, &args);
        }
        graph.node_mut(id).attrs = renamed;
        for (index, result) in results.into_iter().enumerate() {
            if let Some(result) = result {
                held.insert(Port { node: id, index: index as u32 }, result);
            }
        }
        Ok(())
    }

    /// The function for these arguments, and which of its results are values of variables.
    fn function(
        &mut self,
        name: &str,
        args: &[Option<Held>],
        node: &str,
    ) -> Result<(String, Vec<Option<Held>>), ConvertError> {
        let key = (name.to_owned(), args.to_vec());
        if let Some(known) = self.names.get(&key) {
            let results = self.results(known);
            return Ok((known.clone(), results));
        }
        let Some(function) = self.library.get(name) else {
            return Err(tfjs_graph::GraphError::MissingFunction { name: name.to_owned() }.into());
        };
        let mut function = Function::clone(function);
        if args.len() != function.graph.inputs.len() {
            return Err(ConvertError::CallArguments {
                node: node.to_owned(),
                function: name.to_owned(),
                got: args.len(),
                expected: function.graph.inputs.len(),
            });
        }
        let mut held = HashMap::new();
        for (i, arg) in args.iter().enumerate() {
            let Some(value) = arg else { continue };
            let input = &mut function.graph.inputs[i];
            input.data_type = value.dtype;
            held.insert(input.port, value.clone());
            if let Some(arg) = function.signature.input_arg.get_mut(i) {
                arg.r#type = value.dtype as i32;
            }
        }
        let held = self.graph(&mut function.graph, held)?;
        for (i, output) in function.graph.outputs.iter_mut().enumerate() {
            if let Some(value) = held.get(&output.port).filter(|_| output.data_type == DataType::DtResource) {
                output.data_type = value.dtype;
                output.shape = Some(shape_proto(&value.shape));
                if let Some(arg) = function.signature.output_arg.get_mut(i) {
                    arg.r#type = value.dtype as i32;
                }
            }
        }
        let free = std::iter::once(name.to_owned()).chain((1..).map(|n| format!("{name}_{n}")));
        let free = free.into_iter().find(|n| !self.done.contains_key(n)).unwrap_or_else(|| name.to_owned());
        function.signature.name.clone_from(&free);
        self.done.insert(free.clone(), Arc::new(function));
        self.names.insert(key, free.clone());
        let results = self.results(&free);
        Ok((free, results))
    }

    /// Results that stand for variables are those whose shape was noted when they were frozen.
    fn results(&self, name: &str) -> Vec<Option<Held>> {
        let Some(function) = self.done.get(name) else { return Vec::new() };
        let held = |output: &tfjs_graph::Endpoint| {
            let shape = output.shape.as_ref()?;
            let shape = shape.dim.iter().map(|d| usize::try_from(d.size).ok()).collect::<Option<_>>()?;
            Some(Held { dtype: output.data_type, shape })
        };
        function.graph.outputs.iter().map(held).collect()
    }

    /// Functions of ops that take no part in freezing stay as they are.
    fn keep_functions(&mut self, node: &Node) -> Result<(), ConvertError> {
        let mut pending = super::inline::referenced(node);
        while let Some(name) = pending.pop() {
            if let (false, Some(function)) = (self.done.contains_key(&name), self.library.get(&name)) {
                pending.extend(function.graph.iter().flat_map(|(_, n)| super::inline::referenced(n)));
                self.done.insert(name, function.clone());
            }
        }
        Ok(())
    }
}

/// Marks constants that have their final name, while a graph is being frozen.
const NAMED: &str = "_named";

fn replace_by_constant(graph: &mut Graph, id: NodeId, constant: Constant) {
    let node = graph.node_mut(id);
    let name = std::mem::take(&mut node.name);
    *node = Node::constant(name, constant);
}

fn become_node(graph: &mut Graph, id: NodeId, op: &str, inputs: &[Port], types: &[(&str, DataType)]) {
    let node = graph.node_mut(id);
    node.op = op.to_owned();
    node.inputs = inputs.to_vec();
    node.attrs = Attrs::default();
    for (key, dtype) in types {
        node.attrs.set(key, Value::Type(*dtype as i32));
    }
}

/// Changes the types of a list attribute where an argument became a value.
fn set_types(attrs: &mut Attrs, key: &str, held: &[Option<Held>]) {
    let Some(Value::List(list)) = attrs.get(key) else { return };
    let mut list = list.clone();
    for (slot, value) in list.r#type.iter_mut().zip(held) {
        if let Some(value) = value {
            *slot = value.dtype as i32;
        }
    }
    attrs.set(key, Value::List(list));
}

fn set_shapes(attrs: &mut Attrs, held: &[Option<Held>]) {
    let Some(Value::List(list)) = attrs.get("output_shapes") else { return };
    let mut list = list.clone();
    for (slot, value) in list.shape.iter_mut().zip(held) {
        if let Some(value) = value {
            *slot = shape_proto(&value.shape);
        }
    }
    attrs.set("output_shapes", Value::List(list));
}

fn shape_proto(dims: &[usize]) -> TensorShapeProto {
    let dim = |&d: &usize| Dim { size: i64::try_from(d).unwrap_or(i64::MAX), name: String::new() };
    TensorShapeProto { dim: dims.iter().map(dim).collect(), unknown_rank: false }
}
