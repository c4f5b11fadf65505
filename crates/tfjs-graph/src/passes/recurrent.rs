//! Loops over the steps of a recurrent layer, as Keras exports them, become one op.
//!
//! A loop is replaced only if everything in it is understood: which variables count, which are handed on, which list is
//! written, that all steps of the input are read in order, and that the rest is one step of a cell (`step`). The product
//! with the input's kernel is done for all steps at once, before.

mod step;

use std::collections::HashMap;

use tfjs_format::{DType, proto::attr_value::Value};
use tfjs_kernels::Tensor;

use self::step::{Found, Key, Term};
use super::{infer_facts, prune};
use crate::{
    Attrs, Constant, Consumers, Fact, Graph, GraphError, Node, NodeId, Port, Registry, builder::attr,
};

/// Replaces loops of recurrent layers by ops for whole sequences, which exist in this runtime only; says how many.
///
/// # Errors
/// When the graph has a cycle.
pub fn fuse_recurrent_loops(graph: &mut Graph, registry: &Registry) -> Result<usize, GraphError> {
    let mut fused = 0;
    while graph.iter().any(|(_, n)| is_loop(n)) {
        let facts = infer_facts(graph, registry)?;
        let consumers = graph.consumers();
        let found = graph.iter().find_map(|(id, _)| Rewrite::new(graph, &facts, &consumers, id));
        let Some(rewrite) = found else { break };
        if rewrite.apply(graph).is_none() {
            break;
        }
        prune(graph);
        fused += 1;
    }
    Ok(fused)
}

fn is_loop(node: &Node) -> bool {
    matches!(node.op.as_str(), "While" | "StatelessWhile")
}

/// Behind `Identity`, or a few of them: bodies of functions may have cycles.
fn follow(graph: &Graph, mut port: Port) -> Port {
    for _ in 0..16 {
        match graph.node(port.node) {
            Node { op, inputs, controls, .. } if op == "Identity" && controls.is_empty() => {
                match inputs[..] {
                    [input] => port = input,
                    _ => break,
                }
            }
            _ => break,
        }
    }
    port
}

/// The integers of a small constant.
fn ints(graph: &Graph, port: Port) -> Option<Vec<i32>> {
    let value = graph.node(follow(graph, port).node).value.as_ref().filter(|v| v.len() <= 64)?;
    Some(value.tensor().ok()?.data::<i32>().ok()?.to_vec())
}

fn int(graph: &Graph, port: Port) -> Option<i32> {
    match ints(graph, port)?[..] {
        [x] => Some(x),
        _ => None,
    }
}

/// A number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Len {
    Known(i32),
    /// The first dimension of a value.
    Of(Port),
}

/// What a variable of the loop is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// Handed on.
    Same,
    /// 0, 1, 2, …
    Counter,
    /// A list that `value` is written to at `index`.
    List { index: Port, value: Port },
    /// Anything else.
    State,
}

/// A loop and what is known of it.
struct Loop<'a> {
    graph: &'a Graph,
    facts: &'a HashMap<Port, Fact>,
    node: &'a Node,
    cond: &'a Graph,
    body: &'a Graph,
    roles: Vec<Role>,
    /// The node of the body that reads the input of a step.
    item: NodeId,
    /// The variable that counts steps.
    time: usize,
    /// All inputs, time first.
    x: Port,
    /// The node of the body that reads which samples a step counts for, and all of them, `[time, batch, 1]`.
    mask: Option<(NodeId, Port)>,
}

impl<'a> Loop<'a> {
    fn new(graph: &'a Graph, facts: &'a HashMap<Port, Fact>, node: &'a Node) -> Option<Loop<'a>> {
        let function = |name| Some(&graph.library.get(node.attrs.func(name).ok()?)?.graph);
        let (cond, body) = (function("cond")?, function("body")?);
        let n = node.inputs.len();
        if [cond.inputs.len(), body.inputs.len(), body.outputs.len()] != [n; 3]
            || cond.outputs.len() != 1
            || !(body.targets.is_empty() && node.controls.is_empty())
        {
            return None;
        }
        let mut this = Loop {
            graph,
            facts,
            node,
            cond,
            body,
            roles: Vec::new(),
            item: NodeId(0),
            time: 0,
            x: Port::from(NodeId(0)),
            mask: None,
        };
        this.roles = (0..n).map(|i| this.role(i)).collect();
        let (mut items, mut masks) = (Vec::new(), Vec::new());
        for (id, read) in body.iter().filter(|(_, n)| n.op == "TensorListGetItem") {
            let (time, all) = this.read(read)?;
            let fact = this.fact(all).filter(|f| f.rank() == Some(3))?;
            let reads = if fact.dtype == Some(DType::Bool) { &mut masks } else { &mut items };
            reads.push((id, time, all, fact));
        }
        let [(item, time, x, fact)] = items[..] else { return None };
        (this.item, this.time, this.x) = (item, time, x);
        match masks[..] {
            [] => {}
            [(id, at, all, mask)] => {
                let (mask, of) = (mask.shape.as_ref()?, fact.shape.as_ref()?);
                // One value per sample, not one for all of them.
                if at != time || mask[2] != Some(1) || (mask[1] == Some(1) && of[1] != Some(1)) {
                    return None;
                }
                this.mask = Some((id, all));
            }
            _ => return None,
        }
        (fact.dtype == Some(DType::Float32) && this.reads_all()).then_some(this)
    }

    /// The counter by which a node of the body reads from a list of rows, and all rows.
    fn read(&self, read: &Node) -> Option<(usize, Port)> {
        let [list, index, ..] = read.inputs[..] else { return None };
        let time = self.arg(index).filter(|&t| self.roles[t] == Role::Counter)?;
        let list = self.arg(list).filter(|&l| self.roles[l] == Role::Same)?;
        let list = self.graph.node(follow(self.graph, self.node.inputs[list]).node);
        let rows = *list.inputs.first().filter(|_| list.op == "TensorListFromTensor")?;
        Some((time, follow(self.graph, rows)))
    }

    /// What `SelectV2` by the mask chooses from: where the step counts, and where it does not.
    fn chosen(&self, port: Port) -> Option<[Port; 2]> {
        let (mask, _) = self.mask?;
        let node = self.body.node(follow(self.body, port).node);
        let &[condition, new, old] = &node.inputs[..] else { return None };
        let condition = follow(self.body, condition);
        let wide = self.body.node(condition.node);
        // Some repeat the mask for every unit.
        let by_mask = match (wide.op.as_str(), &wide.inputs[..]) {
            ("Tile", &[narrow, times]) => {
                follow(self.body, narrow).node == mask
                    && matches!(ints(self.body, times)?[..], [1, n] if n > 0)
            }
            _ => condition.node == mask,
        };
        (node.op == "SelectV2" && by_mask).then(|| [follow(self.body, new), follow(self.body, old)])
    }

    /// What state `i` is after a step that counts. One that does not leaves it as it is.
    fn stepped(&self, i: usize) -> Option<Port> {
        let result = self.result(i);
        match self.mask {
            None => Some(result),
            Some(_) => {
                let [new, old] = self.chosen(result)?;
                (self.arg(old) == Some(i)).then_some(new)
            }
        }
    }

    /// Whether a value of the graph around is known to be zero.
    fn is_zero(&self, outer: Port) -> bool {
        let outer = follow(self.graph, outer);
        let node = self.graph.node(outer.node);
        let zero = |port: Port| {
            let value = self.fact(port).and_then(|f| f.value.as_ref());
            value.is_some_and(|v| v.data::<f32>().is_ok_and(|d| d.iter().all(|&x| x == 0.0)))
        };
        match (node.op.as_str(), &node.inputs[..]) {
            ("ZerosLike", _) => true,
            ("Fill", &[_, value]) => zero(value),
            _ => zero(outer),
        }
    }

    fn fact(&self, outer: Port) -> Option<&'a Fact> {
        self.facts.get(&outer)
    }

    /// The number of the argument of the body that a value is.
    fn arg(&self, port: Port) -> Option<usize> {
        let port = follow(self.body, port);
        self.body.inputs.iter().position(|e| e.port == port)
    }

    /// What variable `i` is after a step.
    fn result(&self, i: usize) -> Port {
        follow(self.body, self.body.outputs[i].port)
    }

    fn role(&self, i: usize) -> Role {
        let result = self.result(i);
        if self.arg(result) == Some(i) {
            return Role::Same;
        }
        let node = self.body.node(result.node);
        match (node.op.as_str(), &node.inputs[..]) {
            ("Add" | "AddV2", &[a, b]) => {
                let adds_one = |a, b| self.arg(a) == Some(i) && int(self.body, b) == Some(1);
                let zero = |f: &Fact| f.ints() == Some(&[0]);
                let from_zero = self.fact(self.node.inputs[i]).is_some_and(zero);
                if from_zero && (adds_one(a, b) || adds_one(b, a)) { Role::Counter } else { Role::State }
            }
            ("TensorListSetItem", &[list, index, value, ..]) if self.arg(list) == Some(i) => {
                Role::List { index, value: follow(self.body, value) }
            }
            _ => Role::State,
        }
    }

    /// Whether the loop goes on exactly as long as there are steps.
    fn reads_all(&self) -> bool {
        let graph = self.cond;
        let goes_on = follow(graph, graph.outputs[0].port);
        let node = graph.node(goes_on.node);
        let conditions = if node.op == "LogicalAnd" { node.inputs.clone() } else { vec![goes_on] };
        let mut exact = false;
        let all = conditions.iter().all(|&port| {
            let node = graph.node(follow(graph, port).node);
            let (("Less", &[counter, bound]), true) = ((node.op.as_str(), &node.inputs[..]), port.index == 0)
            else {
                return false;
            };
            let arg = |port| {
                let port = follow(graph, port);
                graph.inputs.iter().position(|e| e.port == port)
            };
            let Some(counter) = arg(counter).filter(|&i| self.roles[i] == Role::Counter) else {
                return false;
            };
            let bound = match (int(graph, bound), arg(bound)) {
                (Some(n), _) => Some(Len::Known(n)),
                (None, Some(i)) if self.roles[i] == Role::Same => self.len(self.node.inputs[i]),
                _ => None,
            };
            let Some(bound) = bound else { return false };
            exact |= counter == self.time && self.is_all(bound);
            self.is_all(bound) || matches!((bound, self.steps()), (Len::Known(n), Some(steps)) if n > steps)
        });
        all && exact
    }

    /// A number that the graph around computes.
    fn len(&self, outer: Port) -> Option<Len> {
        let outer = follow(self.graph, outer);
        if let Some(&[n]) = self.fact(outer).and_then(Fact::ints) {
            return Some(Len::Known(n));
        }
        let node = self.graph.node(outer.node);
        let &[shape, begin, end, strides] = &node.inputs[..] else { return None };
        let mask = |name| node.attrs.int_or(name, 0).ok();
        let first = node.op == "StridedSlice"
            && ints(self.graph, begin)? == [0]
            && ints(self.graph, end)? == [1]
            && ints(self.graph, strides)? == [1]
            && mask("shrink_axis_mask")? == 1
            && [mask("new_axis_mask")?, mask("ellipsis_mask")?] == [0, 0];
        let shape = self.graph.node(follow(self.graph, shape).node);
        match (first, shape.op.as_str(), &shape.inputs[..]) {
            (true, "Shape", &[of]) => Some(Len::Of(follow(self.graph, of))),
            _ => None,
        }
    }

    /// Number of steps, if it is known.
    fn steps(&self) -> Option<i32> {
        self.rows(self.x)
    }

    fn rows(&self, outer: Port) -> Option<i32> {
        let dim = self.fact(outer)?.shape.as_ref()?.first().copied().flatten()?;
        i32::try_from(dim).ok()
    }

    fn is_all(&self, len: Len) -> bool {
        match len {
            Len::Known(n) => self.steps() == Some(n),
            Len::Of(port) => {
                // A layer that goes backwards measures its inputs before it turns them around.
                let turned = |port: Port| match self.graph.node(port.node) {
                    Node { op, inputs, .. } if op == "ReverseV2" => {
                        inputs.first().map_or(port, |&input| follow(self.graph, input))
                    }
                    _ => port,
                };
                turned(port) == turned(self.x) || self.rows(port).is_some_and(|n| self.steps() == Some(n))
            }
        }
    }
}

/// What takes the place of a loop.
struct Rewrite {
    id: NodeId,
    name: String,
    x: Port,
    /// Dimensions of `x`.
    dims: Vec<Option<usize>>,
    inputs: Vec<Port>,
    roles: Vec<Role>,
    found: Found,
    /// Constants of the body.
    constants: HashMap<NodeId, Constant>,
    /// Nodes that stack the list of all outputs.
    stacks: Vec<NodeId>,
    /// Nodes that stack a list of the last output.
    stacks_of_last: Vec<NodeId>,
    /// All masks, if there are any.
    mask: Option<Port>,
    /// Outputs of steps that do not count are zero.
    zero_masked: bool,
}

impl Rewrite {
    fn new(graph: &Graph, facts: &HashMap<Port, Fact>, consumers: &Consumers, id: NodeId) -> Option<Rewrite> {
        let node = graph.node(id);
        if !is_loop(node) || !consumers.controls_of(id).is_empty() {
            return None;
        }
        let this = Loop::new(graph, facts, node)?;
        let found = step::find(&this)?;
        let known = |i: usize| match this.roles[i] {
            Role::State => i == found.h || Some(i) == found.c || Some(i) == found.last,
            _ => true,
        };
        let endpoints = graph.outputs.iter().filter(|e| e.port.node == id);
        // Lists and counters are no values of the op.
        let value = |i: u32| matches!(this.roles.get(i as usize), Some(Role::Same | Role::State));
        if !(0..this.roles.len()).all(known) || !endpoints.into_iter().all(|e| value(e.port.index)) {
            return None;
        }
        let (mut stacks, mut stacks_of_last) = (Vec::new(), Vec::new());
        let mut zero_masked = None;
        for user in consumers.of(id).iter().filter(|u| !value(u.port.index)) {
            let list = user.port.index as usize;
            let Some(&Role::List { index, value }) = this.roles.get(list) else { return None };
            let stacks_it = graph.node(user.user).op == "TensorListStack" && user.input == 0;
            let reserve = graph.node(follow(graph, node.inputs[list]).node);
            let ("TensorListReserve", &[_, size]) = (reserve.op.as_str(), &reserve.inputs[..]) else {
                return None;
            };
            let size = this.len(size)?;
            let zeros = step::zeroes_masked(&this, &found, value)?;
            if !stacks_it || *zero_masked.get_or_insert(zeros) != zeros {
                return None;
            }
            if this.arg(index) == Some(this.time) && this.is_all(size) {
                stacks.push(user.user);
            } else if int(this.body, index) == Some(0) && size == Len::Known(1) {
                stacks_of_last.push(user.user);
            } else {
                return None;
            }
        }
        let mask = this.mask.map(|(_, all)| all);
        // With a mask the output of the last step is not its state: there is one output, of all steps or of the last.
        let last = |p: Port| p.node == id && Some(p.index as usize) == found.last;
        let wants_last = consumers.of(id).iter().any(|u| last(u.port))
            || graph.outputs.iter().any(|e| last(e.port))
            || !stacks_of_last.is_empty();
        if mask.is_some() && wants_last && (!stacks.is_empty() || zero_masked == Some(true)) {
            return None;
        }
        let constants = this.body.iter().filter_map(|(id, n)| Some((id, n.value.clone()?))).collect();
        Some(Rewrite {
            id,
            name: format!("{}/sequence", node.name),
            x: this.x,
            dims: this.fact(this.x)?.shape.clone()?,
            inputs: node.inputs.clone(),
            roles: this.roles,
            found,
            constants,
            stacks,
            stacks_of_last,
            mask,
            zero_masked: zero_masked.unwrap_or(false),
        })
    }

    fn node(
        &self,
        graph: &mut Graph,
        op: &str,
        inputs: impl IntoIterator<Item = Port>,
        attrs: &[(&str, Value)],
    ) -> Port {
        let mut all = Attrs::default();
        for (name, value) in attrs {
            all.set(name, value.clone());
        }
        graph.add_fresh(Node::new(self.name.as_str(), op).inputs(inputs).attrs(all)).into()
    }

    fn constant(&self, graph: &mut Graph, value: Tensor) -> Port {
        let value = Constant::new(value.dtype().to_proto(), value);
        graph.add_fresh(Node::constant(self.name.as_str(), value)).into()
    }

    fn weight(&self, graph: &mut Graph, key: Key) -> Option<Port> {
        match key {
            Key::Arg(i) => self.inputs.get(i).copied(),
            Key::Const(id) => {
                let constant = self.constants.get(&id)?.clone();
                Some(graph.add_fresh(Node::constant(self.name.as_str(), constant)).into())
            }
        }
    }

    /// A bias, or a row of several.
    fn vector(&self, graph: &mut Graph, key: Key, row: Option<usize>) -> Option<Port> {
        let all = self.weight(graph, key)?;
        let Some(row) = row else { return Some(all) };
        let (row, axis) =
            (self.constant(graph, Tensor::scalar(row as i32)), self.constant(graph, Tensor::scalar(0i32)));
        Some(self.node(graph, "GatherV2", [all, row, axis], &[("batch_dims", attr::int(0))]))
    }

    /// The inputs of all steps as the gates see them, `[time, batch, gates · units]`.
    fn projected(&self, graph: &mut Graph) -> Option<Port> {
        let width = i32::try_from(self.found.width).ok()?;
        let mut sum: Option<Port> = None;
        let flat = |this: &Self, graph: &mut Graph, depth: usize| {
            let shape = this.constant(graph, Tensor::vector(vec![-1, depth as i32]));
            this.node(graph, "Reshape", [this.x, shape], &[])
        };
        for part in &self.found.base {
            let Term::FromItem { kernel, depth } = part.term else { continue };
            let (x, kernel) = (flat(self, graph, depth), self.weight(graph, kernel)?);
            let product = self.node(graph, "MatMul", [x, kernel], &[]);
            sum = Some(match sum {
                Some(sum) => self.node(graph, "AddV2", [sum, product], &[]),
                None => product,
            });
        }
        let projects = sum.is_some();
        let mut sum = sum.unwrap_or(self.x);
        for part in &self.found.base {
            let Term::Bias { key, row } = part.term else { continue };
            let bias = self.vector(graph, key, row)?;
            sum = self.node(graph, "BiasAdd", [sum, bias], &[("data_format", attr::text("NHWC"))]);
        }
        if !projects {
            return Some(sum);
        }
        let leading: Option<Vec<i32>> = match self.dims[..2] {
            [None, None] => None,
            ref dims => dims.iter().map(|d| d.map_or(Some(-1), |d| i32::try_from(d).ok())).collect(),
        };
        let shape = match leading {
            Some(dims) => self.constant(graph, Tensor::vector([dims, vec![width]].concat())),
            None => {
                let shape = self.node(graph, "Shape", [self.x], &[]);
                let begin = self.constant(graph, Tensor::vector(vec![0i32]));
                let size = self.constant(graph, Tensor::vector(vec![2i32]));
                let leading = self.node(graph, "Slice", [shape, begin, size], &[]);
                let width = self.constant(graph, Tensor::vector(vec![width]));
                let axis = self.constant(graph, Tensor::scalar(0i32));
                self.node(graph, "ConcatV2", [leading, width, axis], &[("N", attr::int(2))])
            }
        };
        Some(self.node(graph, "Reshape", [sum, shape], &[]))
    }

    /// Writes the op, and lets it take the place of the loop for all who use that.
    fn apply(&self, graph: &mut Graph) -> Option<()> {
        let sequence = self.write(graph)?;
        let port = |index| Port { node: sequence, index };
        let last = (!self.stacks_of_last.is_empty()).then(|| {
            let axis = self.constant(graph, Tensor::scalar(0i32));
            let y = port(if self.mask.is_some() { 0 } else { 1 });
            self.node(graph, "ExpandDims", [y, axis], &[])
        });
        graph.redirect(|p| {
            if p.node == self.id {
                return match self.roles.get(p.index as usize) {
                    Some(Role::Same) => self.inputs[p.index as usize],
                    Some(Role::State) if p.index as usize == self.found.h => port(1),
                    Some(Role::State) if Some(p.index as usize) == self.found.last => port(0),
                    Some(Role::State) => port(2),
                    _ => p,
                };
            }
            match last {
                _ if self.stacks.contains(&p.node) => port(0),
                Some(last) if self.stacks_of_last.contains(&p.node) => last,
                _ => p,
            }
        });
        Some(())
    }

    fn write(&self, graph: &mut Graph) -> Option<NodeId> {
        let found = &self.found;
        let mut inputs = vec![self.projected(graph)?];
        let parts: Option<Vec<Port>> = found.recurrent.iter().map(|&key| self.weight(graph, key)).collect();
        inputs.push(match parts?[..] {
            [whole] => whole,
            ref parts => {
                let axis = self.constant(graph, Tensor::scalar(1i32));
                let count = attr::int(parts.len() as i64);
                self.node(graph, "ConcatV2", parts.iter().copied().chain([axis]), &[("N", count)])
            }
        });
        if let Some((key, row)) = found.bias {
            inputs.push(self.vector(graph, key, row)?);
        }
        inputs.push(self.inputs[found.h]);
        inputs.extend(found.c.map(|c| self.inputs[c]));
        if let Some(mask) = self.mask {
            inputs.push(self.node(graph, "Squeeze", [mask], &[("squeeze_dims", attr::ints([2]))]));
        }
        let mut attrs = vec![
            ("activation", attr::text(found.activation)),
            ("recurrent_activation", attr::text(found.recurrent_activation)),
            ("time_major", attr::bool(true)),
            ("return_sequences", attr::bool(!self.stacks.is_empty())),
            ("states", attr::bool(true)),
            ("mask", attr::bool(self.mask.is_some())),
            ("zero_output_for_mask", attr::bool(self.zero_masked)),
        ];
        if let Some(after) = found.reset_after {
            attrs.push(("reset_after", attr::bool(after)));
            attrs.push(("bias", attr::bool(found.bias.is_some())));
        }
        Some(self.node(graph, found.op, inputs, &attrs).node)
    }
}
