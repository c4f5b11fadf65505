//! Layers around layers: `Bidirectional`, `TimeDistributed`, `Wrapper`.

use serde_json::{Map, Value};
use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::DType;

use super::recurrent::used_mask;
use crate::{
    Call, Config, Dialect, Emit, Layer, LayerConfig, LayerDef, LayersError, Network, Scope, Sym, emit::Dim,
    topology::Arg,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Bidirectional", |c| Ok(Box::new(Bidirectional::new(c)?))),
    LayerDef::new("TimeDistributed", |c| {
        c.known(&["activity_regularizer"]);
        let mut config = inner(c, "layer")?;
        let stateful = config.config.get("stateful").and_then(Value::as_bool).unwrap_or(false);
        if c.dialect == Dialect::Keras3 {
            // It calls the layer past the code that adds penalties.
            config.config.remove("activity_regularizer");
        }
        Ok(Box::new(TimeDistributed { inner: Inner::new(config, c)?, stateful, moving: false }))
    }),
    LayerDef::new("Wrapper", |c| {
        c.known(&["activity_regularizer"]);
        Ok(Box::new(Wrapper(Inner::new(inner(c, "layer")?, c)?)))
    }),
];

fn inner(c: &Config<'_>, key: &str) -> Result<LayerConfig> {
    let value = c.get(key).ok_or_else(|| c.wrong(key, "a layer"))?;
    LayerConfig::nested(value, c.dialect)
}

/// A layer that another one holds.
#[derive(Debug)]
struct Inner {
    config: LayerConfig,
    layer: Box<dyn Layer>,
}

impl Inner {
    fn new(config: LayerConfig, c: &Config<'_>) -> Result<Inner> {
        let layer = c.make(&config)?;
        Ok(Inner { config, layer })
    }

    fn flag(&self, key: &str) -> bool {
        self.config.config.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn build(&mut self, scope: &mut Scope<'_>, facts: &[Fact]) -> Result<()> {
        let Inner { config, layer } = self;
        layer.build(scope, facts).map_err(|e| e.in_layer(&config.name, &config.class_name))
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let Inner { config, layer } = self;
        g.scoped(&config.name, |g| layer.call(g, call))
            .map_err(|e| e.in_layer(&config.name, &config.class_name))
    }
}

/// How the outputs of both directions become one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Merge {
    Concat,
    Sum,
    Mul,
    Ave,
    /// Two outputs.
    Apart,
}

/// A recurrent layer run forwards and backwards.
#[derive(Debug)]
struct Bidirectional {
    forward: Inner,
    backward: Inner,
    merge: Merge,
}

impl Bidirectional {
    fn new(c: &Config<'_>) -> Result<Bidirectional> {
        c.known(&["num_constants", "activity_regularizer"]);
        let config = inner(c, "layer")?;
        let merge = match c.get("merge_mode") {
            None if c.has("merge_mode") => Merge::Apart,
            None => Merge::Concat,
            Some(_) => match c.one_of("merge_mode", &["concat", "sum", "mul", "ave"], "concat")? {
                "sum" => Merge::Sum,
                "mul" => Merge::Mul,
                "ave" => Merge::Ave,
                _ => Merge::Concat,
            },
        };
        let mut backward = match c.get("backward_layer") {
            Some(value) => LayerConfig::nested(value, c.dialect)?,
            None => turned_around(&config, c.dialect),
        };
        let mut forward = config;
        let bare = |name: &str, prefix: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        forward.name = format!("forward_{}", bare(&forward.name, "forward_"));
        if c.get("backward_layer").is_none() {
            let name = bare(&bare(&backward.name, "forward_"), "backward_");
            backward.name = format!("backward_{name}");
        }
        for config in [&mut forward.config, &mut backward.config] {
            zero_masked_sequences(config);
        }
        let this =
            Bidirectional { forward: Inner::new(forward, c)?, backward: Inner::new(backward, c)?, merge };
        for key in ["stateful", "return_sequences", "return_state"] {
            if this.forward.flag(key) != this.backward.flag(key) {
                return Err(c.wrong("backward_layer", format!("a layer with the same `{key}` as `layer`")));
            }
        }
        Ok(this)
    }
}

/// The backward layer that Keras makes of the forward one.
fn turned_around(forward: &LayerConfig, dialect: Dialect) -> LayerConfig {
    let mut backward = forward.clone();
    let already = forward.config.get("go_backwards").and_then(Value::as_bool).unwrap_or(false);
    backward.config.insert("go_backwards".to_owned(), Value::Bool(dialect == Dialect::Keras3 || !already));
    backward
}

/// Both directions of all versions of Keras give zeros for masked steps of sequences, so that they can be merged.
fn zero_masked_sequences(config: &mut Map<String, Value>) {
    let sequences = config.get("return_sequences").and_then(Value::as_bool).unwrap_or(false);
    config.insert("zero_output_for_mask".to_owned(), Value::Bool(sequences));
}

impl Layer for Bidirectional {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        for (object, inner) in [("forward_layer", &mut self.forward), ("backward_layer", &mut self.backward)]
        {
            let (name, trainable) = (inner.config.name.clone(), inner.config.trainable());
            scope.enter_held([object, &name, &name], trainable, |s| inner.build(s, inputs))?;
        }
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = Sym::from(call.input(0)?.port);
        let passed_on = call.mask(0);
        let mask = used_mask(g.dialect, call);
        let mut states: Vec<Sym> = call.inputs.iter().skip(1).copied().collect();
        if let Some(arg) = call.kwarg("initial_state") {
            states = arg.tensors().into_iter().copied().collect();
        }
        if !states.len().is_multiple_of(2) {
            let problem = format!("{} initial states cannot be halved between two directions", states.len());
            return Err(LayersError::Inputs(problem));
        }
        let run = |g: &mut Emit, inner: &Inner, states: &[Sym]| {
            let mut call = call.inner([x].into_iter().chain(states.iter().copied()));
            call.kwargs.extend(mask.map(|m| ("mask".to_owned(), Arg::Tensor(Sym::from(m)))));
            inner.call(g, &call)
        };
        let half = states.len() / 2;
        let forward = run(g, &self.forward, &states[..half])?;
        let backward = run(g, &self.backward, &states[half..])?;
        let (Some((y, forward)), Some((z, backward))) = (forward.split_first(), backward.split_first())
        else {
            return Err(LayersError::Inputs("the wrapped layer has no outputs".to_owned()));
        };
        let (y, mut z) = (y.port, z.port);
        let sequences = self.forward.flag("return_sequences");
        if sequences {
            let time = i32::from(!self.forward.flag("time_major"));
            let axis = g.ints(&[time]);
            z = g.op("ReverseV2", &[z, axis], &[])?;
        }
        let merged = match self.merge {
            Merge::Concat => {
                let axis = g.rank(y)? - 1;
                vec![g.concat(&[y, z], axis)?]
            }
            Merge::Sum => vec![g.add(y, z)?],
            Merge::Mul => vec![g.mul(y, z)?],
            Merge::Ave => {
                let sum = g.add(y, z)?;
                vec![g.scale(sum, 0.5)?]
            }
            Merge::Apart => vec![y, z],
        };
        let mask = passed_on.filter(|_| sequences);
        let outputs = merged.into_iter().map(|port| Sym::masked(port, mask));
        Ok(outputs.chain(forward.iter().copied()).chain(backward.iter().copied()).collect())
    }
}

/// A layer applied to every step: to all of them at once, as one batch of `[batch · time]`.
#[derive(Debug)]
struct TimeDistributed {
    inner: Inner,
    /// The layer remembers the step before, so steps come one after the other.
    stateful: bool,
    /// It has weights that move in training.
    moving: bool,
}

impl Layer for TimeDistributed {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let mut facts = Vec::new();
        for fact in inputs {
            let shape = fact.shape.clone().unwrap_or_default();
            if shape.len() < 2 {
                let problem = format!("inputs of shape [batch, time, …] are needed, one is {fact}");
                return Err(LayersError::Inputs(problem));
            }
            let steps = if self.stateful { Some(1) } else { shape[1] };
            let batch = shape[0].zip(steps).and_then(|(b, t)| b.checked_mul(t));
            let dims: Vec<_> = [batch].into_iter().chain(shape[2..].iter().copied()).collect();
            facts.push(Fact::new(fact.dtype.unwrap_or(DType::Float32), dims));
        }
        let name = self.inner.config.name.clone();
        // Keras 2 and TF.js leave out the name of the wrapped layer.
        let keras =
            if scope.dialect == Dialect::Keras3 && self.inner.config.model.is_none() { &name } else { "" };
        let first = scope.count();
        let trainable = self.inner.config.trainable();
        scope.enter_held(["layer", keras, ""], trainable, |s| self.inner.build(s, &facts))?;
        self.moving = scope.params().weights[first..].iter().any(|w| !w.trainable && !w.frozen);
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.input(0)?.port;
        if g.rank(x)? < 2 {
            return Err(LayersError::Inputs("an input of shape [batch, time, …] is needed".to_owned()));
        }
        let mask = call.mask(0);
        // Keras 3 normalises each step by itself, one after the other.
        let apart = self.moving && call.training(g) && g.dialect == Dialect::Keras3;
        if self.stateful || apart && matches!(g.dim(x, 1)?, Dim::Known(_)) {
            return self.step_by_step(g, call, mask);
        }
        let leading = [g.dim(x, 0)?, g.dim(x, 1)?];
        // A mask of one value per step says nothing to a layer that sees single steps, unless it counts them.
        let inner_mask = match mask {
            Some(mask) if g.rank(mask)? > 2 || self.moving => Some(g.join_leading(mask, 2)?),
            _ => None,
        };
        let mut inputs = Vec::new();
        for (i, input) in call.inputs.iter().enumerate() {
            let port = g.join_leading(input.port, 2)?;
            inputs.push(Sym::masked(port, inner_mask.filter(|_| i == 0)));
        }
        let mut outputs = Vec::new();
        let made = self.inner.call(g, &call.inner(inputs.iter().copied()))?;
        if matches!(g.dialect, Dialect::Keras1 | Dialect::Keras2)
            && self.inner.config.model.is_some()
            && call.training(g)
        {
            // Keras 2 runs a model again to find its mask, which moves averages and adds penalties once more.
            self.inner.call(g, &call.inner(inputs))?;
        }
        for sym in made {
            let port = g.split_leading(sym.port, &leading)?;
            let mask = match (g.dialect, sym.mask, mask) {
                (Dialect::Keras1 | Dialect::Keras2, Some(inner), _) => {
                    Some(g.split_leading(inner, &leading)?)
                }
                (Dialect::Keras1 | Dialect::Keras2, None, Some(mask)) => Some(per_step(g, mask)?),
                (_, _, mask) => mask,
            };
            outputs.push(Sym::masked(port, mask));
        }
        Ok(outputs)
    }

    fn network(&self) -> Option<&Network> {
        self.inner.layer.network()
    }

    fn held_as(&self) -> &'static str {
        if self.inner.layer.held_as().is_empty() { "layer" } else { "layer/layer" }
    }
}

impl TimeDistributed {
    fn step_by_step(&self, g: &mut Emit, call: &Call, mask: Option<Port>) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let Dim::Known(steps) = g.dim(x, 1)? else {
            return Err(LayersError::Inputs(
                "the number of steps must be known around a stateful layer".to_owned(),
            ));
        };
        let attrs = [("num", attr::int(steps as i64)), ("axis", attr::int(1))];
        let mut outputs: Vec<Vec<Port>> = Vec::new();
        let masks = match mask.filter(|_| self.moving && !self.stateful) {
            Some(mask) => g.op_n("Unpack", &[mask], &attrs, steps)?,
            None => Vec::new(),
        };
        for (i, step) in g.op_n("Unpack", &[x], &attrs, steps)?.into_iter().enumerate() {
            let step = Sym::masked(step, masks.get(i).copied());
            let made = self.inner.call(g, &call.inner([step]))?;
            outputs.resize_with(made.len(), Vec::new);
            for (all, sym) in outputs.iter_mut().zip(made) {
                all.push(sym.port);
            }
        }
        outputs
            .iter()
            .map(|parts| Ok(Sym::masked(g.op("Pack", parts, &[("axis", attr::int(1))])?, mask)))
            .collect()
    }
}

/// Whether anything of a step counts.
fn per_step(g: &mut Emit, mask: Port) -> Result<Port> {
    let axes: Vec<usize> = (2..g.rank(mask)?).collect();
    if axes.is_empty() { Ok(mask) } else { g.reduce("Any", mask, &axes, false) }
}

/// Keras's base class of wrappers: the layer itself.
#[derive(Debug)]
struct Wrapper(Inner);

impl Layer for Wrapper {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let name = self.0.config.name.clone();
        let keras = if scope.dialect == Dialect::Keras3 { &name } else { "" };
        scope.enter_held(["layer", keras, ""], self.0.config.trainable(), |s| self.0.build(s, inputs))
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        self.0.call(g, call)
    }

    fn network(&self) -> Option<&Network> {
        self.0.layer.network()
    }

    fn held_as(&self) -> &'static str {
        "layer"
    }
}
