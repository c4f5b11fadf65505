use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use tfjs_format::proto::{DataType, OpDef, TensorShapeProto, VersionDef};

use crate::{Attrs, Constant, GraphError};

/// Index of a node in its [`Graph`]. Ids stay valid while other nodes come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The node.
    pub node: NodeId,
    /// Which of its outputs, counted flat over all output arguments.
    pub index: u32,
}

impl From<NodeId> for Port {
    fn from(node: NodeId) -> Port {
        Port { node, index: 0 }
    }
}

/// An operation, its attributes and where its inputs come from.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Unique in the graph.
    pub name: String,
    /// TensorFlow's op name.
    pub op: String,
    /// Attributes. A `Const` node's value is in `value`, not here.
    pub attrs: Attrs,
    /// Data inputs in order.
    pub inputs: Vec<Port>,
    /// Nodes that must run before this one.
    pub controls: Vec<NodeId>,
    /// The value of a `Const` node.
    pub value: Option<Constant>,
    /// Device string, kept for round trips.
    pub device: String,
}

impl Node {
    /// A node without inputs and attributes.
    pub fn new(name: impl Into<String>, op: impl Into<String>) -> Node {
        Node { name: name.into(), op: op.into(), ..Node::default() }
    }

    /// A `Const` node.
    pub fn constant(name: impl Into<String>, value: Constant) -> Node {
        use tfjs_format::proto::attr_value::Value;
        let attrs = Attrs::default().with("dtype", Value::Type(value.data_type() as i32));
        Node { attrs, value: Some(value), ..Node::new(name, "Const") }
    }

    /// Builder: data inputs.
    #[must_use]
    pub fn inputs(mut self, inputs: impl IntoIterator<Item = Port>) -> Node {
        self.inputs = inputs.into_iter().collect();
        self
    }

    /// Builder: attributes.
    #[must_use]
    pub fn attrs(mut self, attrs: Attrs) -> Node {
        self.attrs = attrs;
        self
    }
}

/// A named input or output of a graph: an entry of its signature.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Signature key.
    pub key: String,
    /// Where the value enters (a `Placeholder`) or leaves.
    pub port: Port,
    /// TensorFlow's type; `DtInvalid` when unknown.
    pub data_type: DataType,
    /// Declared shape.
    pub shape: Option<TensorShapeProto>,
    /// Ties a resource input to the initialiser's output of the same id.
    pub resource_id: Option<i64>,
}

/// A function of the library: the body of an `If`, `While` or call. Its arguments are `Placeholder` nodes.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name, argument names and types as in the file. `inputs` and `outputs` of `graph` are in the same order.
    pub signature: OpDef,
    /// Function attributes, kept for round trips.
    pub attrs: Attrs,
    /// The body. Keys of its endpoints are argument names.
    pub graph: Graph,
}

/// A TensorFlow graph: nodes with ids, endpoints, and a library of functions.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Option<Node>>,
    names: HashMap<String, NodeId>,
    /// What is fed, in signature order.
    pub inputs: Vec<Endpoint>,
    /// What is fetched, in signature order.
    pub outputs: Vec<Endpoint>,
    /// Nodes to run for their effect alone (control outputs of functions, initialisers).
    pub targets: Vec<NodeId>,
    /// Functions by name. Bodies have no library of their own: all share the outermost graph's.
    pub library: BTreeMap<String, Arc<Function>>,
    /// GraphDef versions.
    pub versions: VersionDef,
}

impl Graph {
    /// Adds a node.
    ///
    /// # Errors
    /// [`GraphError::DuplicateNode`] when the name is taken.
    pub fn add(&mut self, node: Node) -> Result<NodeId, GraphError> {
        let id = self.next_id();
        if self.names.contains_key(&node.name) {
            return Err(GraphError::DuplicateNode { node: node.name });
        }
        self.names.insert(node.name.clone(), id);
        self.nodes.push(Some(node));
        Ok(id)
    }

    /// Adds a node, changing its name to a free one if it is taken.
    pub fn add_fresh(&mut self, mut node: Node) -> NodeId {
        let id = self.next_id();
        node.name = self.fresh_name(&node.name);
        self.names.insert(node.name.clone(), id);
        self.nodes.push(Some(node));
        id
    }

    /// The id that the next added node gets.
    pub fn next_id(&self) -> NodeId {
        NodeId(self.nodes.len() as u32)
    }

    /// `base`, or `base_1`, `base_2`, … whichever is free first.
    pub fn fresh_name(&self, base: &str) -> String {
        if !self.names.contains_key(base) {
            return base.to_owned();
        }
        (1..).map(|i| format!("{base}_{i}")).find(|n| !self.names.contains_key(n)).unwrap_or_default()
    }

    /// A node.
    ///
    /// # Panics
    /// When the node was removed: ids come from this graph only.
    pub fn node(&self, id: NodeId) -> &Node {
        self.get(id).expect("node id of a removed node")
    }

    /// A node, to be changed. Use [`Graph::rename`] for its name.
    ///
    /// # Panics
    /// When the node was removed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("node id of a removed node")
    }

    /// A node, if it is still there.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)?.as_ref()
    }

    /// The node of a name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// Gives a node another name (a free one is found when it is taken) and returns it.
    pub fn rename(&mut self, id: NodeId, name: &str) -> String {
        let old = std::mem::take(&mut self.node_mut(id).name);
        self.names.remove(&old);
        let name = self.fresh_name(name);
        self.names.insert(name.clone(), id);
        self.node_mut(id).name.clone_from(&name);
        name
    }

    /// Removes a node. Whoever refers to it must be changed or removed too.
    pub fn remove(&mut self, id: NodeId) -> Option<Node> {
        let node = self.nodes.get_mut(id.0 as usize)?.take()?;
        self.names.remove(&node.name);
        Some(node)
    }

    /// All nodes in the order they were added.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(i, n)| Some((NodeId(i as u32), n.as_ref()?)))
    }

    /// Ids of all nodes in the order they were added.
    pub fn ids(&self) -> Vec<NodeId> {
        self.iter().map(|(id, _)| id).collect()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// One more than the largest id: the length of a table indexed by node.
    pub fn id_bound(&self) -> usize {
        self.nodes.len()
    }

    /// Re-points every use of a port (inputs of nodes and outputs of the graph).
    pub fn replace_uses(&mut self, old: Port, new: Port) {
        self.redirect(|p| if p == old { new } else { p });
    }

    /// Maps every use of a port (inputs of nodes and outputs of the graph), in one sweep.
    pub fn redirect(&mut self, f: impl Fn(Port) -> Port) {
        for node in self.nodes.iter_mut().flatten() {
            for p in &mut node.inputs {
                *p = f(*p);
            }
        }
        for e in &mut self.outputs {
            e.port = f(e.port);
        }
    }

    /// Who uses each node.
    pub fn consumers(&self) -> Consumers {
        let mut uses = vec![Vec::new(); self.nodes.len()];
        let mut control_uses = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.iter() {
            for (i, p) in node.inputs.iter().enumerate() {
                uses[p.node.0 as usize].push(Use { user: id, input: i, port: *p });
            }
            for c in &node.controls {
                control_uses[c.0 as usize].push(id);
            }
        }
        let mut is_output = vec![false; self.nodes.len()];
        for e in &self.outputs {
            is_output[e.port.node.0 as usize] = true;
        }
        for t in &self.targets {
            is_output[t.0 as usize] = true;
        }
        Consumers { uses, control_uses, is_output }
    }

    /// All nodes, producers before users; back edges of V1 loops (into `Merge` from `NextIteration`) are ignored.
    ///
    /// # Errors
    /// [`GraphError::Cycle`] when another cycle is left.
    pub fn topological_order(&self) -> Result<Vec<NodeId>, GraphError> {
        // Depth first without recursion: graphs may be a hundred thousand nodes deep.
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::with_capacity(self.len());
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        for (root, _) in self.iter() {
            if marks[root.0 as usize] != Mark::New {
                continue;
            }
            marks[root.0 as usize] = Mark::Open;
            stack.push((root, 0));
            while let Some(top) = stack.last_mut() {
                let (id, next) = (top.0, top.1);
                let node = self.node(id);
                let dependency = node
                    .inputs
                    .get(next)
                    .map(|p| p.node)
                    .or_else(|| node.controls.get(next.checked_sub(node.inputs.len())?).copied());
                let Some(dependency) = dependency else {
                    marks[id.0 as usize] = Mark::Done;
                    order.push(id);
                    stack.pop();
                    continue;
                };
                top.1 += 1;
                let back_edge = self.node(dependency).op.ends_with("NextIteration");
                match marks[dependency.0 as usize] {
                    Mark::Done => {}
                    _ if back_edge && node.op.ends_with("Merge") => {}
                    Mark::New => {
                        marks[dependency.0 as usize] = Mark::Open;
                        stack.push((dependency, 0));
                    }
                    Mark::Open => return Err(GraphError::Cycle { node: self.node(dependency).name.clone() }),
                }
            }
        }
        Ok(order)
    }

    /// The tensor name of a port: `node` or `node:1`.
    pub fn port_name(&self, port: Port) -> String {
        let name = &self.node(port.node).name;
        if port.index == 0 { name.clone() } else { format!("{name}:{}", port.index) }
    }

    /// The node that makes a port.
    pub fn producer(&self, port: Port) -> &Node {
        self.node(port.node)
    }
}

/// One use of a port as a data input.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// The node that uses it.
    pub user: NodeId,
    /// As which of its inputs.
    pub input: usize,
    /// The port used.
    pub port: Port,
}

/// Who uses each node; see [`Graph::consumers`].
#[derive(Clone, Debug)]
pub struct Consumers {
    uses: Vec<Vec<Use>>,
    control_uses: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
}

impl Consumers {
    /// Data uses of any output of a node.
    pub fn of(&self, id: NodeId) -> &[Use] {
        self.uses.get(id.0 as usize).map_or(&[], |v| v)
    }

    /// Nodes that wait for a node.
    pub fn controls_of(&self, id: NodeId) -> &[NodeId] {
        self.control_uses.get(id.0 as usize).map_or(&[], |v| v)
    }

    /// Whether a node is an output or a target of the graph.
    pub fn is_output(&self, id: NodeId) -> bool {
        self.is_output.get(id.0 as usize).copied().unwrap_or(false)
    }

    /// Whether the value of a node goes to exactly one input of one node and nowhere else: then the two may
    /// be fused. This is the one place where fan-out is checked.
    pub fn sole(&self, id: NodeId) -> bool {
        self.of(id).len() == 1 && self.controls_of(id).is_empty() && !self.is_output(id)
    }
}
