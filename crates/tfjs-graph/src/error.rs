use tfjs_format::FormatError;
use tfjs_kernels::KernelError;

use crate::{AttrError, constant::LoadError};

/// What can go wrong between a graph on disk and its outputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file holds another kind of model.
    #[error("{name} holds {found}, expected a graph model{hint}")]
    WrongKind {
        /// The file.
        name: String,
        /// What it holds.
        found: &'static str,
        /// What to do instead, if known.
        hint: &'static str,
    },
    /// Two nodes of one name.
    #[error("two nodes are named `{node}`")]
    DuplicateNode {
        /// The name.
        node: String,
    },
    /// An input of a node does not exist.
    #[error("input `{input}` of node `{node}` does not exist{place}")]
    DanglingInput {
        /// The node.
        node: String,
        /// The name in its input list.
        input: String,
        /// Function it stands in, if any.
        place: String,
    },
    /// A signature names a node that does not exist.
    #[error("the {role} `{key}` refers to `{tensor}`, which is not in the graph")]
    DanglingEndpoint {
        /// "input" or "output".
        role: &'static str,
        /// Signature key.
        key: String,
        /// Tensor name.
        tensor: String,
    },
    /// The graph has a cycle that is not a loop.
    #[error("node `{node}` depends on itself")]
    Cycle {
        /// A node on the cycle.
        node: String,
    },
    /// A constant has no value in the file.
    #[error("constant `{node}` has neither a weight in the manifest nor a value in the graph")]
    MissingWeight {
        /// The constant.
        node: String,
    },
    /// A node that was to get another value is no constant.
    #[error("node `{node}` is no constant")]
    NotAConstant {
        /// The node.
        node: String,
    },
    /// A constant was to get a value of another type or shape.
    #[error("constant `{node}` holds {expected}; a value of {got} was given")]
    ConstantChanged {
        /// The constant.
        node: String,
        /// Type and shape of the value.
        got: String,
        /// Those of the constant.
        expected: String,
    },
    /// A constant cannot be read.
    #[error("the value of constant `{node}` cannot be read")]
    Constant {
        /// The constant.
        node: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// Ops that this runtime does not have: all of them at once.
    #[error("{} not supported:{}", if .0.len() == 1 { "an op is" } else { "some ops are" }, list(.0))]
    UnsupportedOps(
        /// The nodes.
        Vec<UnsupportedOp>,
    ),
    /// Ops on the way of a gradient that have no rule: all of them at once.
    #[error("{} no gradient:{}", if .0.len() == 1 { "an op has" } else { "some ops have" }, list(.0))]
    NoGradient(
        /// The nodes.
        Vec<UnsupportedOp>,
    ),
    /// The rule for an op's gradient does not cover how it is used here.
    #[error("node `{node}` ({op}) cannot be differentiated: {problem}")]
    Gradient {
        /// The node.
        node: String,
        /// Its op.
        op: String,
        /// What is not covered.
        problem: String,
    },
    /// A node cannot be prepared.
    #[error("node `{node}` ({op}) cannot be prepared")]
    Build {
        /// The node.
        node: String,
        /// Its op.
        op: String,
        /// Why.
        #[source]
        source: OpError,
    },
    /// An attribute that a change to the graph looks at is missing or malformed.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// A node failed.
    #[error("node `{node}` ({op}) with inputs {inputs}")]
    Run {
        /// The node.
        node: String,
        /// Its op.
        op: String,
        /// Types and shapes of its inputs.
        inputs: String,
        /// Why.
        #[source]
        source: OpError,
    },
    /// A function is called that the library does not have.
    #[error("function `{name}` is not in the library")]
    MissingFunction {
        /// Its name.
        name: String,
    },
    /// Functions call each other in a circle.
    #[error("function `{name}` calls itself")]
    RecursiveFunction {
        /// Its name.
        name: String,
    },
    /// An input was given that the model does not have.
    #[error("the model has no input `{name}`; its inputs are {}", quoted(.known))]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A bound run was given more or fewer inputs than were bound.
    #[error("{given} inputs are given, {wanted} were bound")]
    InputCount {
        /// How many were given.
        given: usize,
        /// How many there are.
        wanted: usize,
    },
    /// The same input was given twice, perhaps by key and by node name.
    #[error("input `{name}` is given twice")]
    InputTwice {
        /// Its name.
        name: String,
    },
    /// An input has the wrong type.
    #[error("input `{name}` is {got}, expected {expected}")]
    InputDType {
        /// Its name.
        name: String,
        /// The type given.
        got: String,
        /// The type declared.
        expected: String,
    },
    /// An input has the wrong shape.
    #[error("input `{name}` has shape {got}, expected {expected}")]
    InputShape {
        /// Its name.
        name: String,
        /// The shape given.
        got: String,
        /// The shape declared, `?` for any size.
        expected: String,
    },
    /// An output was asked for that the graph does not have.
    #[error("the model has neither an output nor a node `{name}`; its outputs are {}", quoted(.known))]
    UnknownOutput {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The outputs need inputs that were not given.
    #[error("the outputs need {} too, which {} not given", quoted(.names), if .names.len() == 1 { "was" } else { "were" })]
    MissingInputs {
        /// The missing inputs.
        names: Vec<String>,
    },
    /// An output was never computed: it lies on the branch that was not taken.
    #[error("output `{name}` was not computed: it depends on a branch that was not taken")]
    DeadOutput {
        /// Its name.
        name: String,
    },
    /// An output is a list or a handle, not a tensor.
    #[error("output `{name}` is {kind}, not a tensor")]
    NotATensor {
        /// Its name.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A pass met a graph it cannot work on.
    #[error("pass \"{pass}\" failed at node `{node}`")]
    Pass {
        /// The pass.
        pass: &'static str,
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: OpError,
    },
}

/// A node whose op has no implementation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedOp {
    /// The node.
    pub node: String,
    /// Its op.
    pub op: String,
}

fn list(ops: &[UnsupportedOp]) -> String {
    let mut text: String = ops.iter().take(20).map(|u| format!("\n  {} (node `{}`)", u.op, u.node)).collect();
    if ops.len() > 20 {
        text += &format!("\n  … and {} more", ops.len() - 20);
    }
    text
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// Why an op refused its attributes or inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// An attribute is missing, malformed or not supported.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// The arithmetic refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Too few or too many inputs.
    #[error("the node has {got} inputs, expected {expected}")]
    Arity {
        /// Inputs of the node.
        got: usize,
        /// What the op takes.
        expected: String,
    },
    /// An input is of another kind.
    #[error("input {index} is {got}, expected {expected}")]
    Kind {
        /// Which input.
        index: usize,
        /// What it is.
        got: &'static str,
        /// What the op takes.
        expected: &'static str,
    },
    /// An input that the op looks at has a value it cannot use.
    #[error("{what}: {problem}")]
    Input {
        /// Which input, by TensorFlow's name.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A called function failed, or cannot be prepared.
    #[error("function `{name}` failed")]
    Function {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<GraphError>,
    },
    /// A constant cannot be read.
    #[error("a constant cannot be read")]
    Constant(
        /// Why.
        #[source]
        LoadError,
    ),
    /// An op of the user's own failed.
    #[error("the registered op failed")]
    Custom(
        /// Why.
        #[source]
        Box<dyn std::error::Error + Send + Sync>,
    ),
}

impl OpError {
    /// An [`OpError::Input`].
    pub fn input(what: &'static str, problem: impl Into<String>) -> OpError {
        OpError::Input { what, problem: problem.into() }
    }
}
