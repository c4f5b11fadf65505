use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fmt,
    ops::RangeInclusive,
    sync::Arc,
};

use smallvec::SmallVec;
use tfjs_kernels::{Element, Tensor};

use crate::{
    Attrs, Fact, Function, GraphError, Node, OpError, Value, plan::Plan, resources::Resources, work::Work,
};

/// Outputs of a node.
pub type Values = SmallVec<[Value; 2]>;

/// A node's operation, ready to run: attributes are parsed, and what can be prepared is.
pub trait Op: fmt::Debug + Send + Sync {
    /// Computes the outputs. Inputs that nobody else needs are owned and may be overwritten.
    ///
    /// # Errors
    /// When the inputs do not fit the op; never panics on them.
    fn eval(&self, cx: &mut Cx<'_>, inputs: Inputs) -> Result<Values, OpError>;

    /// What is known of the outputs from what is known of the inputs. An empty list says "nothing", and facts
    /// beyond the list are unknown.
    ///
    /// # Errors
    /// When the inputs are known never to fit.
    fn infer(&self, _inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        Ok(Vec::new())
    }

    /// A faster form of this op for inputs of which some are constant: weights packed, axes resolved.
    /// It takes the same inputs.
    ///
    /// # Errors
    /// When the constants do not fit the op.
    fn specialize(&self, _inputs: &[Fact]) -> Result<Option<Box<dyn Op>>, OpError> {
        Ok(None)
    }

    /// Whether of input `index`, a constant when this op was made by [`Op::specialize`], only type and shape are still
    /// asked for: its elements are held in another form, and the constant itself is let go.
    fn holds(&self, _index: usize) -> bool {
        false
    }

    /// Whether the same inputs always give the same outputs and nothing else happens.
    fn effect(&self) -> Effect {
        Effect::Pure
    }

    /// For ops of V1 control flow, which part of it; the frame executor runs these itself.
    fn flow(&self) -> Option<Flow> {
        None
    }
}

/// What an op does besides computing its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: may be folded, shared and dropped.
    Pure,
    /// Depends on or changes state (tables, random numbers, arrays, messages): neither folded nor shared.
    Stateful,
}

/// Ops of V1 control flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Sends its input to output 0 (false) or 1 (true).
    Switch,
    /// Passes on the input that is alive.
    Merge,
    /// Brings a value into a loop's frame.
    Enter {
        /// Name of the frame.
        frame: String,
        /// The value is the same in every iteration.
        constant: bool,
    },
    /// Brings a value out of the frame.
    Exit,
    /// Brings a value into the next iteration.
    NextIteration,
}

/// The inputs of one evaluation, by value.
#[derive(Debug)]
pub struct Inputs(pub SmallVec<[Value; 4]>);

impl Inputs {
    /// Number of inputs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Input `index` as it is.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(&self, index: usize) -> Result<&Value, OpError> {
        self.0
            .get(index)
            .ok_or(OpError::Arity { got: self.0.len(), expected: format!("at least {}", index + 1) })
    }

    /// Takes input `index`, leaving an empty tensor.
    ///
    /// # Errors
    /// When there is none.
    pub fn take_value(&mut self, index: usize) -> Result<Value, OpError> {
        let got = self.0.len();
        let slot = self
            .0
            .get_mut(index)
            .ok_or_else(|| OpError::Arity { got, expected: format!("at least {}", index + 1) })?;
        Ok(std::mem::replace(slot, Value::Optional(None)))
    }

    /// Takes input `index` as a tensor: owned, so that a kernel may overwrite it if nobody else holds it.
    ///
    /// # Errors
    /// When it is not a tensor.
    pub fn take(&mut self, index: usize) -> Result<Tensor, OpError> {
        match self.take_value(index)? {
            Value::Tensor(t) => Ok(t),
            other => Err(OpError::Kind { index, got: other.kind(), expected: "a tensor" }),
        }
    }

    /// Input `index` as a tensor.
    ///
    /// # Errors
    /// When it is not a tensor.
    pub fn tensor(&self, index: usize) -> Result<&Tensor, OpError> {
        match self.value(index)? {
            Value::Tensor(t) => Ok(t),
            other => Err(OpError::Kind { index, got: other.kind(), expected: "a tensor" }),
        }
    }

    /// All inputs from `index` on, as tensors.
    ///
    /// # Errors
    /// When one is not a tensor.
    pub fn take_tensors(&mut self, range: std::ops::Range<usize>) -> Result<Vec<Tensor>, OpError> {
        range.map(|i| self.take(i)).collect()
    }

    /// The elements of input `index`, which must be of type `T`; `what` is TensorFlow's name of the argument.
    ///
    /// # Errors
    /// When it is not a tensor of that type.
    pub fn elements<T: Element>(&self, index: usize, what: &'static str) -> Result<&[T], OpError> {
        Ok(self.tensor(index)?.typed::<T>(what)?.data())
    }

    /// The only element of input `index`; `what` is TensorFlow's name of the argument.
    ///
    /// # Errors
    /// When it is not a tensor of that type with one element.
    pub fn scalar<T: Element>(&self, index: usize, what: &'static str) -> Result<T, OpError> {
        match self.elements::<T>(index, what)? {
            [x] => Ok(x.clone()),
            other => Err(OpError::input(what, format!("expected one value, got {}", other.len()))),
        }
    }
}

/// What an op may use while it runs.
#[derive(Debug)]
pub struct Cx<'a> {
    /// Name of the node that runs.
    pub node: &'a str,
    /// Tables and other resources that outlive a run.
    pub resources: &'a Resources,
    /// State of single nodes within this session (random generators), by node name.
    pub state: &'a mut HashMap<String, Box<dyn Any + Send>>,
    /// How deep function calls are nested.
    pub depth: usize,
    /// Where times are noted, when asked for.
    pub(crate) profile: Option<&'a mut Profile>,
}

/// Time spent per node of one or more runs; functions count for themselves and within their caller.
#[derive(Debug, Default, Clone)]
pub struct Profile {
    /// By node name: op, calls and total time.
    pub nodes: HashMap<String, NodeTime>,
}

/// Time spent in one node.
#[derive(Debug, Default, Clone)]
pub struct NodeTime {
    /// TensorFlow's op name.
    pub op: String,
    /// How often it ran.
    pub calls: u64,
    /// Total time.
    pub total: std::time::Duration,
    /// Multiplications and additions of products and convolutions, by their definition (no fast algorithm counts as less).
    /// Zero for other ops, which memory bounds.
    pub flops: u64,
    /// Bytes of inputs and outputs, each counted once per call.
    pub bytes: u64,
}

impl Profile {
    pub(crate) fn record(&mut self, node: &str, op: &str, time: std::time::Duration, work: Work) {
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), NodeTime { op: op.to_owned(), ..NodeTime::default() });
        }
        if let Some(n) = self.nodes.get_mut(node) {
            n.calls += 1;
            n.total += time;
            n.flops = n.flops.saturating_add(work.flops);
            n.bytes = n.bytes.saturating_add(work.bytes);
        }
    }
}

impl Cx<'_> {
    /// The state that this node keeps within a session, made by `init` on first use.
    pub fn node_state<T: Any + Send>(&mut self, init: impl FnOnce() -> T) -> &mut T {
        let fresh = !self.state.get(self.node).is_some_and(|s| s.is::<T>());
        if fresh {
            self.state.insert(self.node.to_owned(), Box::new(init()));
        }
        self.state
            .get_mut(self.node)
            .and_then(|s| s.downcast_mut::<T>())
            .expect("inserted above with this very type")
    }

    /// Runs a prepared function.
    ///
    /// # Errors
    /// When a node of it fails.
    pub fn call(&mut self, function: &FunctionPlan, args: Values) -> Result<Values, OpError> {
        crate::exec::call(self, function, args)
            .map_err(|e| OpError::Function { name: function.name.clone(), source: Box::new(e) })
    }
}

/// A function of the library, prepared to run.
#[derive(Debug, Clone)]
pub struct FunctionPlan {
    /// Its name.
    pub name: String,
    /// Its body.
    pub plan: Arc<Plan>,
}

/// What an op's constructor sees of its node.
pub struct Build<'a> {
    /// The node.
    pub node: &'a Node,
    /// Its attributes.
    pub attrs: &'a Attrs,
    /// What is known of its data inputs, one fact each.
    pub facts: &'a [Fact],
    /// The functions it may name.
    pub library: &'a BTreeMap<String, Arc<Function>>,
    /// Prepares functions of the library for arguments of which something (or, with an empty list, nothing) is known.
    pub functions: &'a dyn Fn(&str, &[Fact]) -> Result<FunctionPlan, GraphError>,
}

impl Build<'_> {
    /// Prepares the function that attribute `attr` names.
    ///
    /// # Errors
    /// When the attribute is missing, or the function is or cannot be prepared.
    pub fn function(&self, attr: &str) -> Result<FunctionPlan, OpError> {
        self.function_named(self.attrs.func(attr)?, &[])
    }

    /// Prepares a function of the library.
    ///
    /// # Errors
    /// When it is missing or cannot be prepared.
    pub fn function_named(&self, name: &str, args: &[Fact]) -> Result<FunctionPlan, OpError> {
        (self.functions)(name, args)
            .map_err(|e| OpError::Function { name: name.to_owned(), source: Box::new(e) })
    }
}

/// Makes an op from its node's attributes.
pub type Constructor = fn(&Build<'_>) -> Result<Box<dyn Op>, OpError>;

/// A row of the registry.
#[derive(Clone)]
pub struct OpDef {
    /// TensorFlow's op name.
    pub name: &'static str,
    /// How many data inputs it takes.
    pub arity: RangeInclusive<usize>,
    /// Makes the op.
    pub build: Constructor,
}

impl OpDef {
    /// A row: name, number of data inputs, constructor.
    pub const fn new(name: &'static str, arity: RangeInclusive<usize>, build: Constructor) -> OpDef {
        OpDef { name, arity, build }
    }
}

/// Any number of inputs.
pub const ANY: usize = usize::MAX;

/// An op without attributes whose outputs are one function of its inputs. Most rows are made of it:
/// `OpDef::new("Neg", 1..=1, |_| simple(|i| one(unary::neg(i.take(0)?)), same))`.
pub struct Simple<E, I> {
    eval: E,
    infer: I,
}

impl<E, I> fmt::Debug for Simple<E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simple")
    }
}

impl<E, I> Op for Simple<E, I>
where
    E: Fn(&mut Inputs) -> Result<Values, OpError> + Send + Sync,
    I: Fn(&[Fact]) -> Result<Vec<Fact>, OpError> + Send + Sync,
{
    fn eval(&self, _cx: &mut Cx<'_>, mut inputs: Inputs) -> Result<Values, OpError> {
        (self.eval)(&mut inputs)
    }

    fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        (self.infer)(inputs)
    }
}

/// Boxes a [`Simple`] op made of closures, which may capture parsed attributes.
///
/// # Errors
/// Never; the type is that of [`Constructor`].
pub fn simple<E, I>(eval: E, infer: I) -> Result<Box<dyn Op>, OpError>
where
    E: Fn(&mut Inputs) -> Result<Values, OpError> + Send + Sync + 'static,
    I: Fn(&[Fact]) -> Result<Vec<Fact>, OpError> + Send + Sync + 'static,
{
    Ok(Box::new(Simple { eval, infer }))
}

/// One output from a kernel's result.
///
/// # Errors
/// The kernel's.
pub fn one(result: Result<Tensor, tfjs_kernels::KernelError>) -> Result<Values, OpError> {
    Ok(values([result?]))
}

/// Outputs from tensors.
pub fn values(tensors: impl IntoIterator<Item = Tensor>) -> Values {
    tensors.into_iter().map(Value::Tensor).collect()
}

/// Inference: one output like input 0.
///
/// # Errors
/// Never.
pub fn same(inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(inputs.first().map(Fact::without_value).into_iter().collect())
}

/// Inference: nothing known.
///
/// # Errors
/// Never.
pub fn unknown(_: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(Vec::new())
}
