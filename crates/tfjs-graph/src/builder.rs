use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use tfjs_format::proto::{
    DataType, NameAttrList, OpDef, TensorShapeProto, attr_value::ListValue, attr_value::Value,
    op_def::ArgDef, tensor_shape_proto::Dim,
};
use tfjs_kernels::{DType, Tensor};

use crate::{
    Attrs, Constant, Effect, Endpoint, Fact, Function, Graph, GraphError, Node, NodeId, Port, Registry,
    attrs::partial_shape, op::Build,
};

mod inline;

pub use inline::Inlined;

/// Writes a graph node by node. What is known of each value (type, shape, and the value of small constants) is inferred
/// as its node is added, so that who builds can ask for it: this is where the shapes of Keras layers come from.
///
/// Attributes that follow from the inputs (`T`, `N`, `Tidx`, …) are filled in as TensorFlow's op definitions say.
///
/// ```
/// use tfjs_graph::{DType, GraphModel, ModelOptions, Tensor, builder::Builder};
///
/// let mut b = Builder::default();
/// let x = b.placeholder("x", DType::Float32, &[None, Some(2)]);
/// let w = b.constant(Tensor::new([2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0])?);
/// let y = b.op("MatMul", &[x, w], &[])?;
/// assert_eq!(b.fact(y).shape, Some(vec![None, Some(3)]));
/// b.output("y", y);
/// let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
/// let y = model.run([("x", Tensor::new([1, 2], vec![1f32, 1.0])?)])?;
/// assert_eq!(y["y"].data::<f32>()?, [5.0, 7.0, 9.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    graph: Graph,
    /// By node, then output.
    facts: Vec<Vec<Fact>>,
    scope: String,
    /// Functions made so far, here and in bodies: their names are unique in the whole model.
    functions: usize,
}

/// Attribute values.
pub mod attr {
    use super::{DType, ListValue, TensorShapeProto, Value, shape_proto};

    /// An integer.
    pub fn int(value: i64) -> Value {
        Value::I(value)
    }

    /// A list of integers.
    pub fn ints(values: impl IntoIterator<Item = i64>) -> Value {
        Value::List(Box::new(ListValue { i: values.into_iter().collect(), ..ListValue::default() }))
    }

    /// A float.
    pub fn float(value: f32) -> Value {
        Value::F(value)
    }

    /// A boolean.
    pub fn bool(value: bool) -> Value {
        Value::B(value)
    }

    /// A string.
    pub fn text(value: &str) -> Value {
        Value::S(value.as_bytes().to_vec().into())
    }

    /// A list of strings.
    pub fn texts<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Value {
        let s = values.into_iter().map(|v| v.as_ref().as_bytes().to_vec().into()).collect();
        Value::List(Box::new(ListValue { s, ..ListValue::default() }))
    }

    /// A type.
    pub fn dtype(value: DType) -> Value {
        Value::Type(value.to_proto() as i32)
    }

    /// A list of types.
    pub fn dtypes(values: &[DType]) -> Value {
        let r#type = values.iter().map(|d| d.to_proto() as i32).collect();
        Value::List(Box::new(ListValue { r#type, ..ListValue::default() }))
    }

    /// A shape, of which dimensions (or, with `None`, the rank) may be unknown.
    pub fn shape(dims: Option<&[Option<usize>]>) -> Value {
        Value::Shape(Box::new(match dims {
            Some(dims) => shape_proto(dims),
            None => TensorShapeProto { unknown_rank: true, ..TensorShapeProto::default() },
        }))
    }
}

fn shape_proto(dims: &[Option<usize>]) -> TensorShapeProto {
    let size = |d: &Option<usize>| d.map_or(-1, |d| d as i64);
    let dim = dims.iter().map(|d| Dim { size: size(d), name: String::new() }).collect();
    TensorShapeProto { dim, unknown_rank: false }
}

impl Builder {
    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// What is known of a value.
    ///
    /// # Panics
    /// When the port is not of this builder.
    pub fn fact(&self, port: Port) -> &Fact {
        static UNKNOWN: Fact = Fact { dtype: None, shape: None, value: None };
        self.facts[port.node.0 as usize].get(port.index as usize).unwrap_or(&UNKNOWN)
    }

    /// A builder of an existing graph, to add to it. Types and shapes are inferred.
    ///
    /// # Errors
    /// [`GraphError::Cycle`] when the graph has one.
    pub fn from_graph(graph: Graph) -> Result<Builder, GraphError> {
        let declared: Vec<Fact> = graph
            .inputs
            .iter()
            .map(|e| Fact { dtype: DType::from_proto(e.data_type), shape: e.dims(), value: None })
            .collect();
        Self::with_inputs(graph, &declared)
    }

    /// As [`Builder::from_graph`], with what is known of the inputs.
    pub(crate) fn with_inputs(graph: Graph, inputs: &[Fact]) -> Result<Builder, GraphError> {
        let suffix = |name: &str| name.rsplit('_').next().and_then(|n| n.parse::<usize>().ok());
        let functions = graph.library.keys().filter_map(|n| suffix(n)).max().map_or(0, |n| n + 1);
        let mut this =
            Builder { facts: vec![Vec::new(); graph.id_bound()], graph, functions, ..Builder::default() };
        for id in this.graph.topological_order()? {
            let node = this.graph.node(id);
            let facts = if let Some(value) = &node.value {
                vec![constant_fact(value)]
            } else if let Some(i) = this.graph.inputs.iter().position(|e| e.port == id.into())
                && let Some(fact) = inputs.get(i)
                && (fact.dtype.is_some() || fact.shape.is_some())
            {
                vec![fact.clone()]
            } else {
                let facts: Vec<Fact> = node.inputs.iter().map(|&p| this.fact(p).clone()).collect();
                if node.attrs.functions().is_empty() {
                    // What does not fit may lie on a branch that is never taken.
                    this.infer(node, &facts).unwrap_or_default()
                } else {
                    this.declared_outputs(node, &facts)
                }
            };
            this.facts[id.0 as usize] = facts;
        }
        Ok(this)
    }

    /// What a node that calls functions says of its outputs.
    fn declared_outputs(&self, node: &Node, inputs: &[Fact]) -> Vec<Fact> {
        let shapes = node.attrs.shapes("output_shapes").unwrap_or_default();
        let types = node.attrs.data_types("Tout").unwrap_or_default();
        let looped = node.attrs.opt_func("body").ok().flatten().is_some();
        let count = if looped { inputs.len() } else { types.len() };
        (0..count)
            .map(|i| {
                let dtype = if looped { inputs[i].dtype } else { DType::from_proto(types[i]) };
                Fact { dtype, shape: shapes.get(i).cloned().flatten(), value: None }
            })
            .collect()
    }

    /// What is known of all outputs of a node.
    pub(crate) fn facts_of(&self, node: NodeId) -> &[Fact] {
        self.facts.get(node.0 as usize).map_or(&[], |f| f)
    }

    /// States that `port` has type and shape of `like`.
    pub(crate) fn refine(&mut self, port: Port, like: Port) {
        let Fact { dtype, shape, .. } = self.fact(like).without_value();
        if let (Some(dtype), None) = (dtype, self.fact(port).dtype) {
            self.set_dtype(port, dtype);
        }
        if let Some(shape) = shape {
            self.set_shape(port, &shape);
        }
    }

    /// What is known of a node's outputs, after its attributes have changed.
    pub(crate) fn infer_again(&mut self, id: NodeId) -> Result<(), GraphError> {
        let node = self.graph.node(id);
        let facts: Vec<Fact> = node.inputs.iter().map(|&p| self.fact(p).clone()).collect();
        self.facts[id.0 as usize] = self.infer(node, &facts)?;
        Ok(())
    }

    /// States what inference could not know of a value's shape. Dimensions that are known already stay.
    pub fn set_shape(&mut self, port: Port, shape: &[Option<usize>]) {
        let facts = &mut self.facts[port.node.0 as usize];
        let index = port.index as usize;
        if facts.len() <= index {
            facts.resize_with(index + 1, Fact::default);
        }
        let fact = &mut facts[index];
        let merged = match &fact.shape {
            Some(old) if old.len() == shape.len() => {
                old.iter().zip(shape).map(|(old, new)| old.or(*new)).collect()
            }
            _ => shape.to_vec(),
        };
        fact.shape = Some(merged);
    }

    /// States the type of a value, where inference could not know it.
    pub fn set_dtype(&mut self, port: Port, dtype: DType) {
        let facts = &mut self.facts[port.node.0 as usize];
        let index = port.index as usize;
        if facts.len() <= index {
            facts.resize_with(index + 1, Fact::default);
        }
        facts[index].dtype = Some(dtype);
    }

    /// Names of nodes added from now on start with `scope` and a slash; returns the scope before.
    pub fn set_scope(&mut self, scope: impl Into<String>) -> String {
        std::mem::replace(&mut self.scope, scope.into())
    }

    /// Current scope.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    fn name(&self, base: &str) -> String {
        if self.scope.is_empty() { base.to_owned() } else { format!("{}/{base}", self.scope) }
    }

    fn push(&mut self, node: Node, facts: Vec<Fact>) -> NodeId {
        let id = self.graph.add_fresh(node);
        self.facts.push(facts);
        id
    }

    /// An input of the graph under signature key `name`.
    pub fn placeholder(&mut self, name: &str, dtype: DType, shape: &[Option<usize>]) -> Port {
        let attrs =
            Attrs::default().with("dtype", attr::dtype(dtype)).with("shape", attr::shape(Some(shape)));
        let fact = Fact::new(dtype, shape.to_vec());
        let port = self.push(Node::new(name, "Placeholder").attrs(attrs), vec![fact]).into();
        self.graph.inputs.push(Endpoint {
            key: name.to_owned(),
            port,
            data_type: dtype.to_proto(),
            shape: Some(shape_proto(shape)),
            resource_id: None,
        });
        port
    }

    /// Makes a value an output of the graph under signature key `key`.
    pub fn output(&mut self, key: &str, port: Port) {
        let fact = self.fact(port);
        let data_type = fact.dtype.map_or(DataType::DtInvalid, DType::to_proto);
        let shape = fact.shape.as_deref().map(shape_proto);
        self.graph.outputs.push(Endpoint { key: key.to_owned(), port, data_type, shape, resource_id: None });
    }

    /// A constant at hand.
    pub fn constant(&mut self, value: Tensor) -> Port {
        let fact = Fact::constant(value.clone());
        let constant = Constant::new(value.dtype().to_proto(), value);
        let name = self.name("Const");
        self.push(Node::constant(name, constant), vec![fact]).into()
    }

    /// A weight: a constant that is read when it is needed. `name` is taken as it is, without the scope.
    pub fn weight(&mut self, name: &str, value: Constant) -> Port {
        let shape: Vec<Option<usize>> = value.shape().iter().map(|&d| Some(d)).collect();
        let fact = Fact { dtype: DType::from_proto(value.data_type()), shape: Some(shape), value: None };
        self.push(Node::constant(name, value), vec![fact]).into()
    }

    /// Adds an op with one output.
    ///
    /// # Errors
    /// As [`Builder::add`].
    pub fn op(&mut self, op: &str, inputs: &[Port], attrs: &[(&str, Value)]) -> Result<Port, GraphError> {
        Ok(self.add(op, inputs, attrs)?.into())
    }

    /// Adds an op with several outputs; `count` of them are returned.
    ///
    /// # Errors
    /// As [`Builder::add`].
    pub fn op_n(
        &mut self,
        op: &str,
        inputs: &[Port],
        attrs: &[(&str, Value)],
        count: usize,
    ) -> Result<Vec<Port>, GraphError> {
        let node = self.add(op, inputs, attrs)?;
        Ok((0..count as u32).map(|index| Port { node, index }).collect())
    }

    /// Adds an op.
    ///
    /// # Errors
    /// When there is no such op, or the inputs are known never to fit it.
    pub fn add(&mut self, op: &str, inputs: &[Port], attrs: &[(&str, Value)]) -> Result<NodeId, GraphError> {
        let facts: Vec<Fact> = inputs.iter().map(|&p| self.fact(p).clone()).collect();
        let mut all = type_attrs(op, &facts);
        for (name, value) in attrs {
            all.set(name, value.clone());
        }
        let node = Node::new(self.name(op), op).inputs(inputs.iter().copied()).attrs(all);
        let outputs = self.infer(&node, &facts)?;
        Ok(self.push(node, outputs))
    }

    fn infer(&self, node: &Node, facts: &[Fact]) -> Result<Vec<Fact>, GraphError> {
        if !node.attrs.functions().is_empty() {
            return Ok(Vec::new()); // whoever makes the call knows
        }
        let functions = |name: &str, _: &[Fact]| Err(GraphError::MissingFunction { name: name.to_owned() });
        let build =
            Build { node, attrs: &node.attrs, facts, library: &BTreeMap::new(), functions: &functions };
        let failed = |source| GraphError::Build { node: node.name.clone(), op: node.op.clone(), source };
        match Registry::default().build(&build) {
            Some(op) => op.and_then(|op| op.infer(facts)).map_err(failed),
            None => Err(GraphError::UnsupportedOps(vec![crate::UnsupportedOp {
                node: node.name.clone(),
                op: node.op.clone(),
            }])),
        }
    }

    /// A name for a function that no other has.
    fn function_name(&mut self, base: &str) -> String {
        let base = self.name(base).replace(['/', '.', '-'], "_");
        while self.graph.library.contains_key(&format!("{base}_{}", self.functions)) {
            self.functions += 1;
        }
        self.functions += 1;
        format!("{base}_{}", self.functions - 1)
    }

    /// Adds a finished body to the library under a new name.
    pub(crate) fn add_function(&mut self, base: &str, mut body: Builder) -> String {
        self.functions = self.functions.max(body.functions);
        self.graph.library.extend(std::mem::take(&mut body.graph.library));
        let name = self.function_name(base);
        let mut signature = OpDef { name: name.clone(), ..OpDef::default() };
        let arg =
            |e: &Endpoint| ArgDef { name: e.key.clone(), r#type: e.data_type as i32, ..ArgDef::default() };
        signature.input_arg = body.graph.inputs.iter().map(arg).collect();
        signature.output_arg = body.graph.outputs.iter().map(arg).collect();
        let function = Function { signature, attrs: Attrs::default(), graph: body.graph };
        self.graph.library.insert(name.clone(), Arc::new(function));
        name
    }

    /// A builder of a function's body (of a new one, if `name` is `None`) that knows this one's functions.
    pub(crate) fn body(&self, name: Option<&str>, args: &[Fact]) -> Result<Builder, GraphError> {
        let mut graph = match name {
            Some(name) => self.function_body(name)?.clone(),
            None => Graph::default(),
        };
        graph.library.clone_from(&self.graph.library);
        let inner = Builder::with_inputs(graph, args)?;
        Ok(Builder { functions: inner.functions.max(self.functions), ..inner })
    }

    /// A function's body.
    pub(crate) fn function_body(&self, name: &str) -> Result<&Graph, GraphError> {
        let function = self.graph.library.get(name);
        Ok(&function.ok_or_else(|| GraphError::MissingFunction { name: name.to_owned() })?.graph)
    }

    /// An argument of a function's body.
    pub(crate) fn argument(&mut self, fact: &Fact) -> Port {
        let (data_type, key) = (data_type_of(fact), format!("arg{}", self.graph.inputs.len()));
        let key = self.graph.fresh_name(&key);
        let attrs = Attrs::default().with("dtype", Value::Type(data_type as i32));
        let node = Node::new(key.as_str(), "Placeholder").attrs(attrs);
        let port: Port = self.push(node, vec![fact.without_value()]).into();
        let shape = fact.shape.as_deref().map(shape_proto);
        self.graph.inputs.push(Endpoint { key, port, data_type, shape, resource_id: None });
        port
    }

    /// A result of a function's body.
    pub(crate) fn result(&mut self, port: Port) {
        let key = format!("ret{}", self.graph.outputs.len());
        let data_type = data_type_of(self.fact(port));
        let shape = self.fact(port).shape.as_deref().map(shape_proto);
        self.graph.outputs.push(Endpoint { key, port, data_type, shape, resource_id: None });
    }

    /// The graph, to be changed by who keeps its types and shapes true.
    pub(crate) fn graph_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// States what is known of the outputs of a node.
    pub(crate) fn set_facts(&mut self, node: NodeId, facts: Vec<Fact>) {
        self.facts[node.0 as usize] = facts;
    }

    /// Adds a function to the library and returns its name. `body` gets a builder of its own and the arguments.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn function<E>(
        &mut self,
        base: &str,
        args: &[Fact],
        body: impl FnOnce(&mut Builder, &[Port]) -> Result<Vec<Port>, E>,
    ) -> Result<(String, Vec<Fact>), E> {
        let name = self.function_name(base);
        let mut inner = Builder { functions: self.functions, ..Builder::default() };
        let mut signature = OpDef { name: name.clone(), ..OpDef::default() };
        let mut ports = Vec::new();
        for (i, fact) in args.iter().enumerate() {
            let key = format!("arg{i}");
            let data_type = data_type_of(fact);
            let attrs = Attrs::default().with("dtype", Value::Type(data_type as i32));
            let port: Port = inner
                .push(Node::new(key.as_str(), "Placeholder").attrs(attrs), vec![fact.without_value()])
                .into();
            let shape = fact.shape.as_deref().map(shape_proto);
            inner.graph.inputs.push(Endpoint { key: key.clone(), port, data_type, shape, resource_id: None });
            signature.input_arg.push(ArgDef { name: key, r#type: data_type as i32, ..ArgDef::default() });
            ports.push(port);
        }
        let results = body(&mut inner, &ports)?;
        let mut facts = Vec::new();
        for (i, port) in results.into_iter().enumerate() {
            let fact = inner.fact(port).without_value();
            let data_type = data_type_of(&fact);
            let key = format!("ret{i}");
            inner.output(&key, port);
            signature.output_arg.push(ArgDef { name: key, r#type: data_type as i32, ..ArgDef::default() });
            facts.push(fact);
        }
        self.functions = inner.functions;
        let library = std::mem::take(&mut inner.graph.library);
        self.graph.library.extend(library);
        let function = Function { signature, attrs: Attrs::default(), graph: inner.graph };
        self.graph.library.insert(name.clone(), Arc::new(function));
        Ok((name, facts))
    }

    /// The attributes of a loop that follow from its variables.
    pub(crate) fn loop_attrs(vars: &[Fact]) -> [(&'static str, Value); 3] {
        let shapes = vars.iter().map(|f| match &f.shape {
            Some(dims) => shape_proto(dims),
            None => TensorShapeProto { unknown_rank: true, ..TensorShapeProto::default() },
        });
        let shapes = Value::List(Box::new(ListValue { shape: shapes.collect(), ..ListValue::default() }));
        [("T", Self::types(vars)), ("output_shapes", shapes), ("parallel_iterations", attr::int(10))]
    }

    /// A list of functions.
    pub(crate) fn function_list(names: &[String]) -> Value {
        let func = names.iter().map(|name| NameAttrList { name: name.clone(), ..NameAttrList::default() });
        Value::List(Box::new(ListValue { func: func.collect(), ..ListValue::default() }))
    }

    /// A list of the types of values.
    pub(crate) fn types(values: &[Fact]) -> Value {
        let r#type = values.iter().map(|f| data_type_of(f) as i32).collect();
        Value::List(Box::new(ListValue { r#type, ..ListValue::default() }))
    }

    /// A node taken over from another graph, its inputs already this one's.
    pub(crate) fn copy_node(&mut self, node: Node, facts: Vec<Fact>) -> NodeId {
        self.push(node, facts)
    }

    /// What a node does besides computing its outputs, in the functions that it calls too.
    pub(crate) fn effect(&self, id: NodeId) -> Effect {
        self.effect_in(&self.graph, id, 0)
    }

    fn effect_in(&self, graph: &Graph, id: NodeId, depth: usize) -> Effect {
        let node = graph.node(id);
        if node.value.is_some() || node.op.starts_with("Placeholder") {
            return Effect::Pure;
        }
        let called = node.attrs.functions();
        if !called.is_empty() {
            let pure = depth < 64
                && called.iter().all(|name| {
                    let body = self.graph.library.get(*name).map(|f| &f.graph);
                    body.is_some_and(|g| {
                        g.ids().into_iter().all(|id| self.effect_in(g, id, depth + 1) == Effect::Pure)
                    })
                });
            return if pure { Effect::Pure } else { Effect::Stateful };
        }
        let facts: Vec<Fact> = node.inputs.iter().map(|_| Fact::unknown()).collect();
        let functions = |name: &str, _: &[Fact]| Err(GraphError::MissingFunction { name: name.to_owned() });
        let build = Build {
            node,
            attrs: &node.attrs,
            facts: &facts,
            library: &BTreeMap::new(),
            functions: &functions,
        };
        match Registry::default().build(&build) {
            Some(Ok(op)) if op.flow().is_none() => op.effect(),
            _ => Effect::Stateful,
        }
    }

    /// A loop: `body` maps the variables to their next values (of the same types and shapes) while `cond` holds.
    /// Values that do not change must be variables too, handed on by `body`.
    ///
    /// # Errors
    /// Those of `cond` and `body`.
    pub fn while_loop<E: From<GraphError>>(
        &mut self,
        vars: &[Port],
        cond: impl FnOnce(&mut Builder, &[Port]) -> Result<Port, E>,
        body: impl FnOnce(&mut Builder, &[Port]) -> Result<Vec<Port>, E>,
    ) -> Result<Vec<Port>, E> {
        let facts: Vec<Fact> = vars.iter().map(|&p| self.fact(p).without_value()).collect();
        let (cond, _) = self.function("while_cond", &facts, |b, args| Ok::<_, E>(vec![cond(b, args)?]))?;
        let (body, _) = self.function("while_body", &facts, body)?;
        let mut attrs = vec![("cond", function_attr(&cond)), ("body", function_attr(&body))];
        attrs.extend(Self::loop_attrs(&facts));
        let node = self.add("StatelessWhile", vars, &attrs)?;
        self.facts[node.0 as usize] = facts;
        Ok((0..vars.len() as u32).map(|index| Port { node, index }).collect())
    }
}

/// Constants up to this many elements are looked at.
const SMALL: usize = 1 << 10;

fn constant_fact(value: &Constant) -> Fact {
    if value.len() <= SMALL
        && let Ok(tensor) = value.tensor()
    {
        return Fact::constant(tensor);
    }
    let shape = value.shape().iter().map(|&d| Some(d)).collect();
    Fact { dtype: DType::from_proto(value.data_type()), shape: Some(shape), value: None }
}

pub(crate) fn function_attr(name: &str) -> Value {
    Value::Func(Box::new(NameAttrList { name: name.to_owned(), ..NameAttrList::default() }))
}

/// Values without a type of tensors are lists.
fn data_type_of(fact: &Fact) -> DataType {
    fact.dtype.map_or(DataType::DtVariant, DType::to_proto)
}

/// Words of `ops/type_attrs.txt` by op; see `fixtures/make/op_type_attrs.py`.
static TYPE_ATTRS: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let line = |l: &'static str| {
        let mut words = l.split(' ');
        Some((words.next()?, words.collect()))
    };
    include_str!("ops/type_attrs.txt").lines().filter_map(line).collect()
});

/// The attributes of an op that follow from its inputs.
fn type_attrs(op: &str, inputs: &[Fact]) -> Attrs {
    let mut attrs = Attrs::default();
    let Some(words) = TYPE_ATTRS.get(op) else { return attrs };
    let is_list = |w: &str| w.starts_with('@') || w.contains('*');
    let lists = words.iter().filter(|w| is_list(w)).count();
    // With two lists, as in `Case`, lengths do not follow from the number of inputs; such ops say them themselves.
    let list_len = match lists {
        1 => (inputs.len() + 1).saturating_sub(words.len()),
        _ => return single_types(words, inputs),
    };
    let mut rest = inputs;
    for word in words {
        let len = if is_list(word) { list_len } else { 1 };
        let (these, others) = rest.split_at(len.min(rest.len()));
        rest = others;
        if let Some(list) = word.strip_prefix('@') {
            let r#type = these.iter().map(|f| data_type_of(f) as i32).collect();
            attrs.set(list, Value::List(Box::new(ListValue { r#type, ..ListValue::default() })));
            continue;
        }
        let (count, element) = word.split_once('*').map_or((None, *word), |(n, t)| (Some(n), t));
        if let Some(count) = count {
            attrs.set(count, Value::I(len as i64));
        }
        if let Some(fact) = these.first()
            && element != "."
        {
            attrs.set(element, Value::Type(data_type_of(fact) as i32));
        }
    }
    attrs
}

fn single_types(words: &[&str], inputs: &[Fact]) -> Attrs {
    let mut attrs = Attrs::default();
    for (word, fact) in words.iter().zip(inputs) {
        if word.starts_with('@') || word.contains('*') {
            break;
        }
        if *word != "." {
            attrs.set(word, Value::Type(data_type_of(fact) as i32));
        }
    }
    attrs
}

impl Endpoint {
    /// Declared dimensions, if the rank is known.
    pub fn dims(&self) -> Option<Vec<Option<usize>>> {
        partial_shape(self.shape.as_ref()?)
    }
}
