use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;
use tfjs_format::proto::DataType;
use tfjs_kernels::{DType, MemoryLayout, Tensor, parallel_for_each};
use tracing::debug;

use crate::{
    Effect, Fact, Function, Graph, GraphError, Node, NodeId, Op, OpError, Port, Registry, Value,
    error::UnsupportedOp,
    exec::eval_alone,
    flow::FlowPlan,
    op::{Build, FunctionPlan, Inputs},
};

/// A graph made ready to run for given inputs and outputs: ops built, weights packed, order and lifetimes fixed.
#[derive(Debug)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Number of value slots.
    pub(crate) slots: usize,
    /// Slot of each fed value, in the order they were asked for.
    pub(crate) feeds: Vec<u32>,
    /// Where each output is found.
    pub(crate) fetches: Vec<Operand>,
    pub(crate) constants: Vec<Value>,
    /// Present when V1 control flow survived: then frames run the steps, not their order.
    pub(crate) flow: Option<FlowPlan>,
    /// What is known of each output.
    pub(crate) facts: Vec<Fact>,
    /// Where results lie in memory.
    pub(crate) memory: MemoryLayout,
    /// Bytes of results alive at the same time at most, as far as their shapes are known and nothing is overwritten.
    pub(crate) expected: usize,
}

/// One node of a plan.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: Arc<str>,
    pub(crate) op_name: String,
    pub(crate) op: Arc<dyn Op>,
    pub(crate) inputs: SmallVec<[Operand; 4]>,
    /// First of the slots for its outputs.
    pub(crate) first_output: u32,
    /// How many outputs somebody uses (the last used one counts).
    pub(crate) outputs: u32,
    /// Slots whose last use this step is, but which it does not take over.
    pub(crate) release: SmallVec<[u32; 2]>,
    /// Nodes that must have run before; only frames need to look.
    pub(crate) controls: SmallVec<[u32; 2]>,
}

/// Where a step finds an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// A slot that others read too.
    Slot(u32),
    /// A slot that nobody reads afterwards: the value is moved out, so that it can be overwritten.
    Take(u32),
    /// A constant.
    Const(u32),
}

impl Plan {
    /// Number of nodes that run.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether running it has no effect but its outputs.
    pub fn is_pure(&self) -> bool {
        self.steps.iter().all(|s| s.op.effect() == Effect::Pure)
    }

    /// What is known of each output.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Whether every output is a constant or an input.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Largest constant that planning computes ahead of time, in elements, unless its inputs are larger still.
const FOLD_LIMIT: usize = 1 << 20;

/// Constants of as many elements are weights: they are read where their op is specialised, and let go when it holds them
/// in its own form.
const WEIGHT: usize = 1 << 12;

/// Deepest nesting of functions.
const MAX_DEPTH: usize = 64;

/// Makes plans; remembers those of functions.
pub(crate) struct Compiler<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) library: &'a BTreeMap<String, Arc<Function>>,
    open: RefCell<Vec<String>>,
    done: RefCell<HashMap<String, FunctionPlan>>,
}

/// What a plan must do.
pub(crate) struct Request<'a> {
    pub(crate) feeds: &'a [(Port, Fact)],
    pub(crate) fetches: &'a [Port],
    pub(crate) targets: &'a [NodeId],
    /// What plans for other shapes share with this one.
    pub(crate) shared: Option<Shared<'a>>,
}

/// What plans of one graph for several shapes of inputs share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    /// What is known of each fed value whatever its shape.
    pub(crate) open: &'a [Fact],
    pub(crate) kit: &'a Mutex<Kit>,
}

/// Constants, and ops with weights laid out, that hold for inputs of any shape.
#[derive(Debug, Default)]
pub(crate) struct Kit {
    ops: HashMap<NodeId, Arc<dyn Op>>,
    constants: HashMap<NodeId, Tensor>,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(registry: &'a Registry, library: &'a BTreeMap<String, Arc<Function>>) -> Compiler<'a> {
        Compiler { registry, library, open: RefCell::default(), done: RefCell::default() }
    }

    /// The plan of a function; `args` are facts known of its arguments (or none at all).
    fn function(&self, name: &str, args: &[Fact]) -> Result<FunctionPlan, GraphError> {
        // Facts vary by caller; only plans made without any are shared.
        if args.is_empty()
            && let Some(plan) = self.done.borrow().get(name)
        {
            return Ok(plan.clone());
        }
        let function =
            self.library.get(name).ok_or_else(|| GraphError::MissingFunction { name: name.to_owned() })?;
        let recursive = {
            let open = self.open.borrow();
            open.len() >= MAX_DEPTH || open.iter().any(|o| o == name)
        };
        if recursive {
            return Err(GraphError::RecursiveFunction { name: name.to_owned() });
        }
        let g = &function.graph;
        let feeds: Vec<(Port, Fact)> = g
            .inputs
            .iter()
            .enumerate()
            .map(|(i, e)| {
                let declared = Fact { dtype: tfjs_format::DType::from_proto(e.data_type), ..Fact::default() };
                (e.port, args.get(i).filter(|f| **f != Fact::default()).cloned().unwrap_or(declared))
            })
            .collect();
        let fetches: Vec<Port> = g.outputs.iter().map(|e| e.port).collect();
        self.open.borrow_mut().push(name.to_owned());
        let plan =
            self.compile(g, &Request { feeds: &feeds, fetches: &fetches, targets: &g.targets, shared: None });
        self.open.borrow_mut().pop();
        let plan = FunctionPlan { name: name.to_owned(), plan: Arc::new(plan?) };
        if args.is_empty() {
            self.done.borrow_mut().insert(name.to_owned(), plan.clone());
        }
        Ok(plan)
    }

    /// Prune, resolve (collecting all that is not supported), infer, fold, specialise, order, assign slots.
    pub(crate) fn compile(&self, graph: &Graph, request: &Request<'_>) -> Result<Plan, GraphError> {
        let fed: HashMap<Port, usize> = request.feeds.iter().enumerate().map(|(i, (p, _))| (*p, i)).collect();
        let order = needed(graph, &fed, request)?;
        let mut unsupported = Vec::new();
        self.check_ops(graph, &order, "", &mut Vec::new(), &mut unsupported);
        if !unsupported.is_empty() {
            return Err(GraphError::UnsupportedOps(unsupported));
        }
        let flow = order.iter().any(|&id| crate::ops::control::is_flow(&graph.node(id).op));
        let mut building = Building::new(graph, request, flow);
        for &id in &order {
            building.visit(self, id)?;
        }
        building.specialize()?;
        let plan = building.finish(request)?;
        debug!(
            nodes = order.len(),
            steps = plan.steps.len(),
            constants = plan.constants.len(),
            flow,
            "plan made"
        );
        Ok(plan)
    }

    /// Collects all ops that cannot run, those in called functions included.
    fn check_ops<'g>(
        &self,
        graph: &'g Graph,
        order: &[NodeId],
        place: &str,
        seen: &mut Vec<&'g str>,
        unsupported: &mut Vec<UnsupportedOp>,
    ) where
        'a: 'g,
    {
        for &id in order {
            let node = graph.node(id);
            if node.value.is_some() {
                continue;
            }
            if !self.registry.contains(&node.op) {
                unsupported
                    .push(UnsupportedOp { node: format!("{place}{}", node.name), op: node.op.clone() });
            }
            for name in node.attrs.functions() {
                if let Some((name, f)) = self.library.get_key_value(name)
                    && !seen.contains(&name.as_str())
                {
                    seen.push(name);
                    let ids = f.graph.ids();
                    self.check_ops(&f.graph, &ids, &format!("{name}/"), seen, unsupported);
                }
            }
        }
    }
}

/// The value of a constant node.
fn read_constant(node: &Node) -> Result<Tensor, GraphError> {
    let wrong = |source| GraphError::Constant { node: node.name.clone(), source };
    match &node.value {
        Some(value) => value.tensor().map_err(wrong),
        None => Err(wrong("it has no value".into())),
    }
}

fn build_error(node: &Node, source: OpError) -> GraphError {
    GraphError::Build { node: node.name.clone(), op: node.op.clone(), source }
}

/// The nodes that must run, producers first.
fn needed(
    graph: &Graph,
    fed: &HashMap<Port, usize>,
    request: &Request<'_>,
) -> Result<Vec<NodeId>, GraphError> {
    let mut seen = vec![false; graph.id_bound()];
    let mut stack: Vec<NodeId> = Vec::new();
    let want = |port: Port, stack: &mut Vec<NodeId>| {
        if !fed.contains_key(&port) {
            stack.push(port.node);
        }
    };
    for &port in request.fetches {
        want(port, &mut stack);
    }
    stack.extend_from_slice(request.targets);
    let is_fed: std::collections::HashSet<NodeId> = fed.keys().map(|p| p.node).collect();
    let mut missing = Vec::new();
    while let Some(id) = stack.pop() {
        if std::mem::replace(&mut seen[id.0 as usize], true) {
            continue;
        }
        let node = graph.node(id);
        if node.op == "Placeholder" || node.op == "PlaceholderV2" {
            if !is_fed.contains(&id)
                && node.attrs.data_type("dtype").ok() != Some(tfjs_format::proto::DataType::DtResource)
            {
                missing.push(node.name.clone());
            }
            if is_fed.contains(&id) {
                seen[id.0 as usize] = false;
                continue;
            }
        }
        for &p in &node.inputs {
            want(p, &mut stack);
        }
        // A fed node need not run for those who merely wait for it.
        stack.extend(node.controls.iter().filter(|c| !is_fed.contains(c)));
    }
    if !missing.is_empty() {
        missing.sort();
        missing.dedup();
        return Err(GraphError::MissingInputs { names: missing });
    }
    let mut order = graph.topological_order()?;
    order.retain(|id| seen[id.0 as usize]);
    Ok(order)
}

/// A step some of whose inputs are constant: it may have a faster form.
struct Special {
    step: u32,
    id: NodeId,
    facts: Vec<Fact>,
    /// The op and what is known of its inputs for any shape, if that can be shared.
    open: Option<(Arc<dyn Op>, Vec<Fact>)>,
    /// Inputs that are weights, which are not read before.
    weights: Vec<(usize, Port)>,
    found: Result<Option<(Box<dyn Op>, bool)>, GraphError>,
}

struct Building<'g> {
    graph: &'g Graph,
    /// Straight-line graphs may fold and ignore control inputs; frames may not.
    flow: bool,
    facts: HashMap<Port, Fact>,
    /// What is known whatever the shapes of inputs, if there are to be plans for others.
    open: Option<HashMap<Port, Fact>>,
    kit: Option<&'g Mutex<Kit>>,
    /// Large constants that nobody has asked the values of, and their places among the constants.
    weights: HashMap<Port, u32>,
    /// Where each port's value lives; `Take` is decided at the end.
    operands: HashMap<Port, Operand>,
    step_of: HashMap<NodeId, u32>,
    /// Number of outputs of each node that someone uses.
    used: HashMap<NodeId, u32>,
    steps: Vec<Step>,
    special: Vec<Special>,
    slots: u32,
    /// Bytes of each slot's value, where its shape is known.
    bytes: Vec<usize>,
    constants: Vec<Value>,
}

impl<'g> Building<'g> {
    fn new(graph: &'g Graph, request: &Request<'g>, flow: bool) -> Building<'g> {
        let mut used: HashMap<NodeId, u32> = HashMap::new();
        let mut count = |p: Port| {
            let n = used.entry(p.node).or_default();
            *n = (*n).max(p.index + 1);
        };
        for (_, node) in graph.iter() {
            node.inputs.iter().for_each(|&p| count(p));
        }
        request.fetches.iter().for_each(|&p| count(p));
        let mut building = Building {
            graph,
            flow,
            facts: HashMap::new(),
            open: request
                .shared
                .map(|s| request.feeds.iter().map(|(port, _)| *port).zip(s.open.iter().cloned()).collect()),
            kit: request.shared.map(|s| s.kit),
            weights: HashMap::new(),
            operands: HashMap::new(),
            step_of: HashMap::new(),
            used,
            steps: Vec::new(),
            special: Vec::new(),
            slots: request.feeds.len() as u32,
            // Those are the caller's.
            bytes: vec![0; request.feeds.len()],
            constants: Vec::new(),
        };
        for (slot, (port, fact)) in request.feeds.iter().enumerate() {
            building.facts.insert(*port, fact.clone());
            let operand = match &fact.value {
                Some(v) => building.constant(v.clone()),
                None => Operand::Slot(slot as u32),
            };
            building.operands.insert(*port, operand);
        }
        building
    }

    fn constant(&mut self, tensor: tfjs_kernels::Tensor) -> Operand {
        self.constants.push(Value::Tensor(tensor));
        Operand::Const(self.constants.len() as u32 - 1)
    }

    fn visit(&mut self, compiler: &Compiler<'_>, id: NodeId) -> Result<(), GraphError> {
        let node = self.graph.node(id);
        if node.value.is_some() {
            return self.visit_const(id, node);
        }
        let constant =
            |p: &Port| self.facts.get(p).is_some_and(|f| f.value.is_some()) || self.weights.contains_key(p);
        if node.inputs.iter().all(constant) || !node.attrs.functions().is_empty() {
            // It may fold; or plans of the functions that it calls are made with it.
            node.inputs.iter().try_for_each(|p| self.read_weight(*p))?;
        }
        let facts: Vec<Fact> =
            node.inputs.iter().map(|p| self.facts.get(p).cloned().unwrap_or_default()).collect();
        let functions = |name: &str, args: &[Fact]| compiler.function(name, args);
        let build = Build {
            node,
            attrs: &node.attrs,
            facts: &facts,
            library: compiler.library,
            functions: &functions,
        };
        let op: Arc<dyn Op> = match compiler.registry.build(&build) {
            Some(op) => op.map_err(|e| build_error(node, e))?.into(),
            None => {
                let (node, op) = (node.name.clone(), node.op.clone());
                return Err(GraphError::UnsupportedOps(vec![UnsupportedOp { node, op }]));
            }
        };
        let open = self.open.as_ref().map(|open| -> Vec<Fact> {
            node.inputs.iter().map(|p| open.get(p).cloned().unwrap_or_default()).collect()
        });
        let controlled = self.flow && !node.controls.is_empty();
        // Inputs that cannot fit are reported when the node runs: it may lie on a branch that is never taken.
        let mut outs = op.infer(&facts).unwrap_or_default();
        let outputs = self.used.get(&id).copied().unwrap_or(0);
        if controlled || op.flow().is_some() || op.effect() != Effect::Pure {
            outs.iter_mut().for_each(|f| f.value = None);
        } else {
            Self::fold(node, op.as_ref(), &facts, outputs, &mut outs);
        }
        outs.resize(outs.len().max(outputs as usize), Fact::default());
        let open = open.map(|open| {
            let build = Build { facts: &open, ..build };
            let (op, outs) = self.open_form(compiler, &build, &op, &facts, &outs);
            for (index, fact) in outs.into_iter().enumerate() {
                let port = Port { node: id, index: index as u32 };
                if let Some(known) = &mut self.open {
                    known.entry(port).or_insert(fact);
                }
            }
            (op, open)
        });
        let all_known = outputs > 0 && outs.iter().take(outputs as usize).all(|f| f.value.is_some());
        for (index, fact) in outs.into_iter().enumerate() {
            let port = Port { node: id, index: index as u32 };
            if self.facts.contains_key(&port) {
                continue; // fed
            }
            if let Some(value) = &fact.value {
                let operand = self.constant(value.clone());
                self.operands.insert(port, operand);
            } else {
                self.operands.insert(port, Operand::Slot(self.slots + index as u32));
            }
            self.facts.insert(port, fact);
        }
        if all_known {
            return Ok(());
        }
        let shared = self.kit.and_then(|kit| lock(kit).ops.get(&id).cloned());
        let is_shared = shared.is_some();
        self.push_step(id, node, shared.unwrap_or(op), outputs);
        let weights: Vec<(usize, Port)> =
            node.inputs.iter().copied().enumerate().filter(|(_, p)| self.weights.contains_key(p)).collect();
        if !is_shared && (!weights.is_empty() || facts.iter().any(|f| f.value.is_some())) {
            let step = self.steps.len() as u32 - 1;
            let open = open.and_then(|(op, facts)| Some((op?, facts)));
            self.special.push(Special { step, id, facts, open, weights, found: Ok(None) });
        }
        Ok(())
    }

    /// The op for inputs of any shape, if it can be made, and what is known of its outputs then.
    fn open_form(
        &self,
        compiler: &Compiler<'_>,
        build: &Build<'_>,
        op: &Arc<dyn Op>,
        facts: &[Fact],
        outs: &[Fact],
    ) -> (Option<Arc<dyn Op>>, Vec<Fact>) {
        // Values that are known for any shape are those that are known for this one.
        let same = |a: &Fact, b: &Fact| {
            a.value.is_some() == b.value.is_some() && a.shape == b.shape && a.dtype == b.dtype
        };
        if facts.iter().zip(build.facts).all(|(a, b)| same(a, b)) {
            return (Some(op.clone()), outs.to_vec());
        }
        let Some(Ok(op)) = compiler.registry.build(build) else { return (None, Vec::new()) };
        let mut outs = op.infer(build.facts).unwrap_or_default();
        if op.flow().is_some() || op.effect() != Effect::Pure {
            outs.iter_mut().for_each(|f| f.value = None);
        }
        (Some(op.into()), outs)
    }

    /// Gives ops with constant inputs their faster forms. Most of the time that a plan takes goes into laying out weights,
    /// so all threads do it.
    fn specialize(&mut self) -> Result<(), GraphError> {
        let mut jobs = std::mem::take(&mut self.special);
        let (steps, graph) = (&self.steps, self.graph);
        let special = |job: &mut Special| {
            let (mut facts, mut open) = (std::mem::take(&mut job.facts), job.open.take());
            for &(index, port) in &job.weights {
                let value = Some(read_constant(graph.node(port.node))?);
                if let Some((_, facts)) = &mut open {
                    facts[index].value.clone_from(&value);
                }
                facts[index].value = value;
            }
            // As in `visit`: constants that do not fit are an error of the run.
            let open = open.and_then(|(op, facts)| op.specialize(&facts).unwrap_or_default());
            let own = || steps[job.step as usize].op.specialize(&facts).unwrap_or_default();
            Ok(open.map(|op| (op, true)).or_else(|| own().map(|op| (op, false))))
        };
        parallel_for_each(&mut jobs, |job| job.found = special(job));
        for job in jobs {
            let Some((op, is_open)) = job.found? else { continue };
            let op: Arc<dyn Op> = op.into();
            if let Some(kit) = self.kit.filter(|_| is_open) {
                lock(kit).ops.insert(job.id, op.clone());
            }
            self.steps[job.step as usize].op = op;
        }
        Ok(())
    }

    /// Gets the value of a large constant, which is otherwise left until ops are specialised.
    fn read_weight(&mut self, port: Port) -> Result<(), GraphError> {
        let Some(index) = self.weights.remove(&port) else { return Ok(()) };
        let tensor = self.shared_constant(port.node)?;
        for facts in [Some(&mut self.facts), self.open.as_mut()].into_iter().flatten() {
            facts.insert(port, Fact::constant(tensor.clone()));
        }
        self.constants[index as usize] = Value::Tensor(tensor);
        Ok(())
    }

    /// The value of a constant node, read once for all plans.
    fn shared_constant(&self, id: NodeId) -> Result<Tensor, GraphError> {
        if let Some(tensor) = self.kit.and_then(|kit| lock(kit).constants.get(&id).cloned()) {
            return Ok(tensor);
        }
        let tensor = read_constant(self.graph.node(id))?;
        if let Some(kit) = self.kit {
            lock(kit).constants.insert(id, tensor.clone());
        }
        Ok(tensor)
    }

    /// Large constants that some step still reads get their values; those that ops hold in another form are let go.
    fn read_weights(&mut self, fetches: &[Operand]) -> Result<(), GraphError> {
        let mut read = vec![false; self.constants.len()];
        let mut note = |operand: &Operand| {
            if let Operand::Const(c) = operand {
                read[*c as usize] = true;
            }
        };
        fetches.iter().for_each(&mut note);
        for step in &self.steps {
            let inputs = step.inputs.iter().enumerate();
            inputs.filter(|(k, _)| !step.op.holds(*k)).for_each(|(_, operand)| note(operand));
        }
        for (port, index) in std::mem::take(&mut self.weights) {
            let index = index as usize;
            if read[index] {
                self.constants[index] = Value::Tensor(self.shared_constant(port.node)?);
            }
        }
        Ok(())
    }

    fn visit_const(&mut self, id: NodeId, node: &Node) -> Result<(), GraphError> {
        let Some(value) = &node.value else { return Ok(()) };
        if !self.flow && value.len() >= WEIGHT && value.data_type() == DataType::DtFloat {
            let fact = Fact::of(DType::Float32, value.shape());
            let blank = Tensor::blank(value.shape())
                .map_err(|e| GraphError::Constant { node: node.name.clone(), source: e.into() })?;
            let operand = self.constant(blank);
            self.weights.insert(id.into(), self.constants.len() as u32 - 1);
            self.operands.insert(id.into(), operand);
            self.facts.insert(id.into(), fact.clone());
            if let Some(open) = &mut self.open {
                open.insert(id.into(), fact);
            }
            return Ok(());
        }
        let tensor = self.shared_constant(id)?;
        if self.flow && !node.controls.is_empty() {
            // It is alive only where what it waits for is: a value of one branch.
            let fact = Fact::constant(tensor.clone()).without_value();
            self.facts.insert(id.into(), fact.clone());
            if let Some(open) = &mut self.open {
                open.insert(id.into(), fact);
            }
            self.operands.insert(id.into(), Operand::Slot(self.slots));
            self.push_step(id, node, Arc::new(crate::ops::graph_const(tensor)), 1);
            return Ok(());
        }
        self.facts.insert(id.into(), Fact::constant(tensor.clone()));
        if let Some(open) = &mut self.open {
            open.insert(id.into(), Fact::constant(tensor.clone()));
        }
        let operand = self.constant(tensor);
        self.operands.insert(id.into(), operand);
        Ok(())
    }

    fn push_step(&mut self, id: NodeId, node: &Node, op: Arc<dyn Op>, outputs: u32) {
        self.step_of.insert(id, self.steps.len() as u32);
        self.steps.push(Step {
            name: node.name.as_str().into(),
            op_name: node.op.clone(),
            op,
            inputs: SmallVec::new(),
            first_output: self.slots,
            outputs,
            release: SmallVec::new(),
            controls: SmallVec::new(),
        });
        self.slots += outputs;
        for index in 0..outputs {
            let fact = self.facts.get(&Port { node: id, index });
            // Shapes may be too large to exist: that is an error of the run.
            let elements = fact.and_then(Fact::full_shape).and_then(|s| s.checked_len().ok()).unwrap_or(0);
            let width = if fact.and_then(|f| f.dtype) == Some(DType::Bool) { 1 } else { 4 };
            self.bytes.push(elements.saturating_mul(width));
        }
    }

    /// Computes a node whose inputs are all constant, by the op's own `eval`.
    fn fold(node: &Node, op: &dyn Op, facts: &[Fact], outputs: u32, outs: &mut Vec<Fact>) {
        let known = outs.len() >= outputs as usize && outs.iter().all(|f| f.value.is_some());
        if known || facts.is_empty() && outs.is_empty() {
            return;
        }
        let inputs = facts.iter().map(|f| f.value.clone().map(Value::Tensor)).collect::<Option<_>>();
        let Some(inputs) = inputs else { return };
        let size = |f: &Fact| f.full_shape().map_or(0, |s| s.elements());
        let limit = facts.iter().map(size).sum::<usize>().max(FOLD_LIMIT);
        if outs.iter().any(|f| size(f) > limit) {
            return;
        }
        let Ok(values) = eval_alone(op, &node.name, Inputs(inputs)) else { return };
        let tensors: Option<Vec<Fact>> =
            values.iter().map(|v| v.as_tensor().cloned().map(Fact::constant)).collect();
        if let Some(tensors) = tensors {
            *outs = tensors;
        }
    }

    fn finish(mut self, request: &Request<'_>) -> Result<Plan, GraphError> {
        // Operands are filled in only now: a loop's back edge refers to a later node.
        let ids: Vec<(NodeId, u32)> = self.step_of.iter().map(|(&id, &s)| (id, s)).collect();
        for (id, step) in ids {
            let node = self.graph.node(id);
            let inputs = node
                .inputs
                .iter()
                .map(|p| {
                    self.operands.get(p).copied().ok_or_else(|| GraphError::DanglingInput {
                        node: node.name.clone(),
                        input: self.graph.port_name(*p),
                        place: String::new(),
                    })
                })
                .collect::<Result<_, _>>()?;
            let controls = node.controls.iter().filter_map(|c| self.step_of.get(c).copied()).collect();
            let step = &mut self.steps[step as usize];
            step.inputs = inputs;
            step.controls = controls;
        }
        let fetches: Vec<Operand> = request
            .fetches
            .iter()
            .map(|p| {
                self.operands.get(p).copied().ok_or_else(|| GraphError::UnknownOutput {
                    name: self.graph.port_name(*p),
                    known: Vec::new(),
                })
            })
            .collect::<Result<_, _>>()?;
        let facts = request.fetches.iter().map(|p| self.facts.get(p).cloned().unwrap_or_default()).collect();
        self.read_weights(&fetches)?;
        let slots = self.slots as usize;
        let flow = if self.flow { Some(FlowPlan::new(&mut self.steps, slots)) } else { None };
        if flow.is_none() {
            decide_last_uses(&mut self.steps, slots, &fetches);
        }
        let expected = if flow.is_none() { most_alive(&self.steps, &self.bytes) } else { 0 };
        Ok(Plan {
            steps: self.steps,
            slots,
            feeds: (0..request.feeds.len() as u32).collect(),
            fetches,
            constants: self.constants,
            flow,
            facts,
            memory: MemoryLayout::default(),
            expected,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of values alive at the same time at most.
fn most_alive(steps: &[Step], bytes: &[usize]) -> usize {
    let size = |slot: u32| bytes.get(slot as usize).copied().unwrap_or(0);
    let (mut alive, mut most) = (0usize, 0usize);
    for step in steps {
        for s in step.first_output..step.first_output + step.outputs {
            alive = alive.saturating_add(size(s));
        }
        most = most.max(alive);
        let taken = step.inputs.iter().filter_map(|o| match o {
            Operand::Take(s) => Some(*s),
            _ => None,
        });
        for s in taken.chain(step.release.iter().copied()) {
            alive = alive.saturating_sub(size(s));
        }
    }
    most
}

/// Turns the last reading of every slot into a taking.
fn decide_last_uses(steps: &mut [Step], slots: usize, fetches: &[Operand]) {
    let mut later = vec![false; slots];
    for f in fetches {
        if let Operand::Slot(s) = f {
            later[*s as usize] = true;
        }
    }
    for step in steps.iter_mut().rev() {
        // From the last input on: if a value enters twice, the earlier one is a shared copy.
        for operand in step.inputs.iter_mut().rev() {
            if let Operand::Slot(s) = *operand
                && !std::mem::replace(&mut later[s as usize], true)
            {
                *operand = Operand::Take(s);
            }
        }
    }
    // Outputs that nobody reads are dropped where they are made.
    for step in steps.iter_mut() {
        for s in step.first_output..step.first_output + step.outputs {
            if !later[s as usize] {
                step.release.push(s);
            }
        }
    }
}
