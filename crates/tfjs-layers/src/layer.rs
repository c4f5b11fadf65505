use std::fmt;

use serde_json::Value;
use tfjs_graph::{Fact, Port};

use crate::{Config, Dialect, Emit, LayersError, Network, topology::Arg, weights::Scope};

/// A Keras layer: it declares weights, and writes the nodes that compute it into a graph. It computes nothing itself.
pub trait Layer: fmt::Debug + Send + Sync {
    /// Declares the weights, from what is known of the inputs of the first call. Runs once.
    ///
    /// # Errors
    /// When the inputs do not fit.
    fn build(&mut self, _scope: &mut Scope<'_>, _inputs: &[Fact]) -> Result<(), LayersError> {
        Ok(())
    }

    /// As [`Layer::build`], for layers whose weights depend on keyword arguments too.
    ///
    /// # Errors
    /// When the arguments do not fit.
    fn build_for(&mut self, scope: &mut Scope<'_>, g: &Emit, call: &Call) -> Result<(), LayersError> {
        let facts: Vec<Fact> = call.inputs.iter().map(|s| g.fact(s.port).clone()).collect();
        self.build(scope, &facts)
    }

    /// Writes one call of the layer. What it returns carries masks: a layer that does not pass a mask on drops it.
    ///
    /// # Errors
    /// When the inputs do not fit.
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>, LayersError>;

    /// The model that this layer is or holds, if it does: for summaries and for finding its layers.
    fn network(&self) -> Option<&Network> {
        None
    }

    /// The attribute that holds the model of [`Layer::network`]; empty when the layer is the model.
    fn held_as(&self) -> &'static str {
        ""
    }
}

/// A value in the graph and the mask that belongs to it: `bool`, of the shape of the value's leading axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sym {
    /// The value.
    pub port: Port,
    /// Which steps count; all, if there is none.
    pub mask: Option<Port>,
}

impl From<Port> for Sym {
    fn from(port: Port) -> Sym {
        Sym { port, mask: None }
    }
}

impl Sym {
    /// A value with a mask.
    pub fn masked(port: Port, mask: Option<Port>) -> Sym {
        Sym { port, mask }
    }
}

/// The arguments of one call of a layer.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// All tensors of the positional arguments, in order.
    pub inputs: Vec<Sym>,
    /// The positional arguments as they stand, for operations.
    pub args: Vec<Arg<Sym>>,
    /// Keyword arguments.
    pub kwargs: Vec<(String, Arg<Sym>)>,
}

impl Call {
    /// A call with tensors only.
    pub fn of(inputs: impl IntoIterator<Item = Sym>) -> Call {
        let inputs: Vec<Sym> = inputs.into_iter().collect();
        Call { args: inputs.iter().map(|&s| Arg::Tensor(s)).collect(), inputs, kwargs: Vec::new() }
    }

    /// The only input.
    ///
    /// # Errors
    /// When there are none or several.
    pub fn one(&self) -> Result<Sym, LayersError> {
        match self.inputs.as_slice() {
            [one] => Ok(*one),
            other => Err(LayersError::Inputs(format!("it takes one input, {} were given", other.len()))),
        }
    }

    /// A call of a layer inside, with these inputs; what this one says of the phase of training holds for it too.
    pub fn inner(&self, inputs: impl IntoIterator<Item = Sym>) -> Call {
        let mut inner = Call::of(inputs);
        inner.kwargs.extend(self.kwargs.iter().filter(|(name, _)| name == "training").cloned());
        inner
    }

    /// The same within a call of a model, whose word on the phase of training holds where this call has none of its own.
    pub(crate) fn within(mut self, outer: &Call) -> Call {
        if self.kwarg("training").is_none() {
            self.kwargs.retain(|(name, _)| name != "training");
            self.kwargs.extend(outer.kwargs.iter().filter(|(name, _)| name == "training").cloned());
        }
        self
    }

    /// Input `index`.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn input(&self, index: usize) -> Result<Sym, LayersError> {
        self.inputs.get(index).copied().ok_or_else(|| {
            LayersError::Inputs(format!(
                "it takes at least {} inputs, {} were given",
                index + 1,
                self.inputs.len()
            ))
        })
    }

    /// A keyword argument that is not null.
    pub fn kwarg(&self, name: &str) -> Option<&Arg<Sym>> {
        let (_, arg) = self.kwargs.iter().find(|(k, _)| k == name)?;
        (*arg != Arg::Value(Value::Null)).then_some(arg)
    }

    /// A keyword argument that is one tensor.
    pub fn tensor_kwarg(&self, name: &str) -> Option<Sym> {
        match self.kwarg(name)? {
            Arg::Tensor(t) => Some(*t),
            _ => None,
        }
    }

    /// Whether this call runs in the phase of training. What a model of Keras 2 says of a call (`training=True`) holds for
    /// ever; Keras 3 lets `fit` and `predict` decide.
    pub fn training(&self, g: &Emit) -> bool {
        match self.kwarg("training") {
            Some(Arg::Value(Value::Bool(asked))) if g.dialect != Dialect::Keras3 => *asked,
            _ => g.training(),
        }
    }

    /// The mask of input `index`: the one given as argument `mask`, else the one that came with the input.
    pub fn mask(&self, index: usize) -> Option<Port> {
        let given = match self.kwarg("mask") {
            Some(Arg::Tensor(t)) if index == 0 => Some(t.port),
            Some(Arg::List(items)) => match items.get(index) {
                Some(Arg::Tensor(t)) => Some(t.port),
                _ => None,
            },
            _ => None,
        };
        given.or_else(|| self.inputs.get(index)?.mask)
    }
}

/// Makes a layer from its configuration.
pub type Constructor = fn(&Config<'_>) -> Result<Box<dyn Layer>, LayersError>;

/// A row of the table of layers.
#[derive(Clone, Copy, Debug)]
pub struct LayerDef {
    /// Keras class.
    pub class: &'static str,
    /// Makes the layer.
    pub new: Constructor,
}

impl LayerDef {
    /// A row.
    pub const fn new(class: &'static str, new: Constructor) -> LayerDef {
        LayerDef { class, new }
    }
}
