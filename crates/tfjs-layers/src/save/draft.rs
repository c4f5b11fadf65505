//! A model as it will stand in the file.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};
use tfjs_graph::{Constant, Fact};
use tfjs_kernels::DType;

use super::{
    ByLayer, Result, SaveReport, SaveWarning,
    fragment::{Fragment, From, Part},
    lower::{self, Outcome, Source},
    masks::Masks,
    spelling,
};
use crate::{
    Dialect, LayersError, LayersModel, ModelKind, Network, Weight,
    matching::without_last_scope,
    network::input_fact,
    topology::{Arg, CallConfig, LayerConfig, TensorRef},
};

/// A model as it will stand in the file.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) class_name: &'static str,
    pub(super) layers: Vec<DraftLayer>,
    pub(super) inputs: Vec<TensorRef>,
    pub(super) outputs: Vec<TensorRef>,
}

/// A layer as it will stand in the file.
#[derive(Debug)]
pub(super) struct DraftLayer {
    pub(super) name: String,
    pub(super) class_name: String,
    /// Python module of an operation, whose class may have the name of a layer.
    pub(super) module: Option<String>,
    pub(super) config: Map<String, Value>,
    /// With their whole names.
    pub(super) weights: Vec<(String, Constant)>,
    pub(super) calls: Vec<CallConfig>,
    pub(super) model: Option<Box<Draft>>,
}

impl Draft {
    /// All weights, by the layers of this model in the order of their names.
    pub(super) fn weights_by_layer(&self) -> ByLayer<'_> {
        let mut all = BTreeMap::new();
        for layer in &self.layers {
            let mut weights = Vec::new();
            layer.collect(&mut weights);
            if !weights.is_empty() {
                all.insert(layer.name.as_str(), weights);
            }
        }
        all
    }
}

impl DraftLayer {
    fn collect<'d>(&'d self, into: &mut Vec<(String, &'d Constant)>) {
        into.extend(self.weights.iter().map(|(name, value)| (name.clone(), value)));
        for layer in self.model.iter().flat_map(|m| &m.layers) {
            layer.collect(into);
        }
    }
}

/// What became of a layer.
enum Became {
    /// Nothing: only a mask was computed with it.
    Nothing,
    /// One layer of the draft.
    One(usize),
    /// The layers from this index on.
    Fragment(usize, Fragment),
}

pub(super) struct Drafter<'m> {
    model: &'m LayersModel,
    lower: bool,
    report: SaveReport,
    /// Names of layers with weights in the whole model: TF.js finds weights by them, wherever the layer is.
    owners: HashSet<String>,
}

impl<'m> Drafter<'m> {
    pub(super) fn new(model: &'m LayersModel, lower: bool) -> Drafter<'m> {
        Drafter { model, lower, report: SaveReport::default(), owners: HashSet::new() }
    }

    pub(super) fn root(mut self) -> Result<(Draft, SaveReport)> {
        let network = &self.model.network;
        self.owners = network.config.layers.iter().map(|l| valid_name(&l.name)).collect();
        let draft = self.draft(network, &[])?;
        Ok((draft, self.report))
    }

    fn draft(&mut self, network: &Network, path: &[String]) -> Result<Draft> {
        let config = &network.config;
        let masks = Masks::of(network);
        let mut names = Names::default();
        let own: Vec<String> = config
            .layers
            .iter()
            .zip(&network.nodes)
            .map(|(layer, node)| {
                let name = valid_name(&layer.name);
                let clash = !path.is_empty() && !node.weights.is_empty() && self.owners.contains(&name);
                let outer = path.last().map_or("", String::as_str);
                names.fresh(&if clash { format!("{outer}_{name}") } else { name })
            })
            .collect();
        let mut layers = Vec::new();
        let mut became = Vec::new();
        for (i, layer) in config.layers.iter().enumerate() {
            let first = layers.len();
            if masks.dead.contains(&i) {
                became.push(Became::Nothing);
                continue;
            }
            let outcome = self.layer(network, i, &own[i], &masks, path)?;
            match outcome {
                Written::One(layer) => {
                    layers.push(*layer);
                    became.push(Became::One(first));
                }
                Written::Fragment(fragment) => {
                    let giver = fragment.outputs.first().and_then(|o| match o {
                        From::Part(p, _) => Some(*p),
                        From::Input(_) => None,
                    });
                    for (p, part) in fragment.parts.iter().enumerate() {
                        let name = if giver == Some(p) {
                            own[i].clone()
                        } else {
                            names.fresh(&format!("{}_{}", own[i], part.suffix))
                        };
                        layers.push(DraftLayer::of_part(name, part, layer));
                    }
                    became.push(Became::Fragment(first, fragment));
                }
            }
            let layer = &layers[first..];
            self.owners.extend(layer.iter().filter(|l| !l.weights.is_empty()).map(|l| l.name.clone()));
        }
        let keras2 = self.model.dialect() != Dialect::Keras3;
        let resolver = Resolver { network, became: &became, keras2 };
        for (i, became) in became.iter().enumerate() {
            let calls = &config.layers[i].calls;
            match became {
                Became::Nothing => {}
                Became::One(at) => {
                    let mut written = Vec::new();
                    for (c, call) in calls.iter().enumerate() {
                        let dropped = masks.dropped.contains(&(i, c));
                        written.push(resolver.call(&config.layers[i], call, dropped)?);
                    }
                    layers[*at].calls = written;
                }
                Became::Fragment(first, fragment) => {
                    for (p, part) in fragment.parts.iter().enumerate() {
                        let written = calls.iter().enumerate().map(|(c, call)| {
                            let input = |from: &From| match *from {
                                From::Part(q, tensor) => Ok(TensorRef { layer: first + q, call: c, tensor }),
                                From::Input(k) => {
                                    let input =
                                        flat_input(call, k).ok_or_else(|| no_input(&config.layers[i], k))?;
                                    resolver.tensor(input)
                                }
                            };
                            let inputs = part
                                .inputs
                                .iter()
                                .map(|f| Ok(Arg::Tensor(input(f)?)))
                                .collect::<Result<_>>()?;
                            Ok(CallConfig { args: vec![Arg::List(inputs)], kwargs: Vec::new() })
                        });
                        layers[first + p].calls = written.collect::<Result<_>>()?;
                    }
                }
            }
        }
        let endpoint = |t: &TensorRef| resolver.tensor(t);
        let inputs = config.inputs.flat().into_iter().map(endpoint).collect::<Result<Vec<_>>>()?;
        let outputs = config.outputs.flat().into_iter().map(endpoint).collect::<Result<Vec<_>>>()?;
        let chain = config.kind == ModelKind::Sequential && is_chain(&layers, &outputs);
        let class_name = match (chain, config.class_name.as_str()) {
            (true, _) => "Sequential",
            (_, "Model") => "Model",
            _ => "Functional",
        };
        Ok(Draft { name: valid_name(&config.name), class_name, layers, inputs, outputs })
    }

    fn layer(
        &mut self,
        network: &Network,
        i: usize,
        name: &str,
        masks: &Masks,
        path: &[String],
    ) -> Result<Written> {
        let (layer, node) = (&network.config.layers[i], &network.nodes[i]);
        if let Some(inner) = node.layer.network().filter(|_| layer.model.is_some()) {
            let mut path = path.to_vec();
            path.push(name.to_owned());
            let draft = self.draft(inner, &path)?;
            return Ok(Written::One(Box::new(DraftLayer {
                name: name.to_owned(),
                class_name: draft.class_name.to_owned(),
                module: None,
                config: Map::new(),
                weights: Vec::new(),
                calls: Vec::new(),
                model: Some(Box::new(draft)),
            })));
        }
        let mut notes = Vec::new();
        let mut config = spelling::layer(layer, self.model.dialect, &mut notes);
        config.insert("name".to_owned(), name.into());
        let weights: Vec<&Weight> = node.weights.clone().map(|w| &*self.model.params.weights[w]).collect();
        let whole =
            path.iter().map(String::as_str).chain([layer.name.as_str()]).collect::<Vec<_>>().join("/");
        self.report.notes.extend(notes.into_iter().map(|n| format!("layer `{whole}`: {n}")));
        let mut stored = Vec::new();
        for weight in &weights {
            match &weight.value {
                Some(value) => stored.push((*weight, value.clone())),
                None if weight.optional() => {}
                None => return Err(LayersError::MissingWeights { names: vec![weight.keras.clone()] }),
            }
        }
        for (weight, value) in &stored {
            if let Some(key) = violated(weight, value)? {
                clear(&mut config, &key);
                self.report.notes.push(format!(
                    "layer `{whole}`: {key} is left out: TensorFlow.js would apply it to the weight when it loads the model"
                ));
            }
        }
        if let Some(inner) = node.layer.network().filter(|_| layer.class_name == "TimeDistributed") {
            // The model inside is written like any other; its weights are found by the names of its layers.
            let mut path = path.to_vec();
            path.push(name.to_owned());
            let draft = self.draft(inner, &path)?;
            config.insert("layer".to_owned(), super::topology::model(&draft));
            let weights = draft.weights_by_layer().into_values().flatten();
            return Ok(Written::One(Box::new(DraftLayer {
                name: name.to_owned(),
                class_name: layer.class_name.clone(),
                module: module_of(layer, self.model.dialect()),
                config,
                weights: weights.map(|(name, value)| (name, value.clone())).collect(),
                calls: Vec::new(),
                model: None,
            })));
        }
        let fact = |t: &TensorRef| fact_of(network, t);
        let first = layer.calls.first();
        let inputs: Vec<Fact> = (0..).map_while(|k| flat_input(first?, k)).map(fact).collect();
        let masked = masks.masked.contains(&i);
        let mut source = Source {
            layer,
            class: &layer.class_name,
            config,
            dialect: self.model.dialect,
            masked,
            inputs,
            outputs: &node.outputs,
            weights: stored
                .iter()
                .map(|(w, value)| (within(&w.tfjs, &layer.name).to_owned(), value.clone()))
                .collect(),
        };
        let mut outcome = if self.lower { lower::lower(&mut source)? } else { Outcome::Keep };
        if masks.stale.contains(&i) && matches!(outcome, Outcome::Keep) {
            outcome = Outcome::Unsupported("TensorFlow.js hands it another mask than Keras, or none".into());
        }
        if let Outcome::Replace(fragment) = &outcome {
            // Layers that compute give floats; those that only move elements keep their type.
            let moves = |p: &Part| {
                ["Activation", "Reshape", "Permute", "Cropping2D", "Dropout"].contains(&p.class.as_str())
            };
            let integers = node.outputs.iter().any(|f| f.dtype.is_some_and(|t| t != DType::Float32));
            if integers && !fragment.parts.iter().all(moves) {
                outcome = Outcome::Unsupported(
                    "its result is not of floats, which TensorFlow.js would give".into(),
                );
            }
        }
        if let Outcome::Replace(fragment) = &outcome {
            let passes = |p: &Part| super::masks::PASSES_MASK.contains(&p.class.as_str());
            let uses =
                |p: &Part| crate::layers::RECURRENT.contains(&p.class.as_str()) || p.class == "Softmax";
            let lost = masked && node.masks.contains(&true) && !fragment.parts.iter().all(passes);
            if lost || (masks.after.contains(&i) && fragment.parts.iter().any(uses)) {
                outcome =
                    Outcome::Unsupported("TensorFlow.js lacks it, and a mask leaves no equivalent".into());
            }
        }
        let training =
            |c: &CallConfig| c.kwargs.contains(&("training".into(), Arg::Value(Value::Bool(true))));
        if self.model.dialect() != Dialect::Keras3 && layer.calls.iter().any(training) {
            outcome =
                Outcome::Unsupported("it is called with `training=True`, which TensorFlow.js ignores".into());
        }
        if let Outcome::Replace(fragment) = outcome {
            let classes = fragment.parts.iter().map(|p| p.class.clone()).collect();
            self.report.lowered.push((whole, layer.class_name.clone(), classes));
            return Ok(Written::Fragment(fragment));
        }
        let kept = matches!(outcome, Outcome::Keep);
        // An operation that is kept is one that the layer of that name computes too.
        let as_layer = self.lower && kept;
        if !as_layer {
            // Only this program reads it, and it goes by what the file says.
            for key in ["trainable", "dtype"] {
                match layer.config.get(key) {
                    Some(value) if !kept || key == "trainable" => {
                        source.config.insert(key.to_owned(), value.clone());
                    }
                    Some(_) => {}
                    None if layer.class_name != "InputLayer" => {
                        source.config.remove(key);
                    }
                    None => {}
                }
            }
        }
        if let Outcome::Unsupported(reason) = outcome {
            let class = layer.class_name.clone();
            self.report.warnings.push(SaveWarning { layer: whole, class, reason });
        }
        // A row may have changed values, or left out what TF.js does not have.
        let weights = stored.iter().filter_map(|(weight, _)| {
            let (_, value) = source.weights.iter().find(|(n, _)| n == within(&weight.tfjs, &layer.name))?;
            let mut written = written_name(weight, &layer.name, name);
            let inner = source
                .config
                .get("layer")
                .filter(|_| layer.class_name == "Bidirectional" && self.lower && kept);
            if let Some(inner) = inner {
                written = of_direction(&written, name, inner["config"]["name"].as_str().unwrap_or_default());
            }
            Some((written, value.clone()))
        });
        let weights: Vec<(String, Constant)> = weights.collect();
        Ok(Written::One(Box::new(DraftLayer {
            name: name.to_owned(),
            class_name: layer.class_name.clone(),
            module: module_of(layer, self.model.dialect()),
            config: source.config,
            weights,
            calls: Vec::new(),
            model: None,
        })))
    }
}

/// The module of an operation of Keras 3; `.h5` files do not say it.
fn module_of(layer: &LayerConfig, dialect: Dialect) -> Option<String> {
    let known = layer.module.clone().filter(|_| layer.is_operation());
    known.or_else(|| crate::layers::is_operation(layer, dialect).then(|| "keras.src.ops".to_owned()))
}

enum Written {
    One(Box<DraftLayer>),
    Fragment(Fragment),
}

impl DraftLayer {
    fn of_part(name: String, part: &Part, layer: &LayerConfig) -> DraftLayer {
        let mut config = Map::new();
        config.insert("name".to_owned(), name.clone().into());
        let trainable = layer.config.get("trainable").and_then(Value::as_bool).unwrap_or(true);
        config.insert("trainable".to_owned(), trainable.into());
        config.insert("dtype".to_owned(), "float32".into());
        config.extend(part.config.iter().filter(|(k, _)| *k != "name").map(|(k, v)| (k.clone(), v.clone())));
        let weights = part.weights.iter().map(|(w, value)| (format!("{name}/{w}"), value.clone())).collect();
        DraftLayer {
            name,
            class_name: part.class.clone(),
            module: None,
            config,
            weights,
            calls: Vec::new(),
            model: None,
        }
    }
}

fn no_input(layer: &LayerConfig, input: usize) -> LayersError {
    LayersError::Inputs(format!("layer `{}` has no input {input}", layer.name))
}

fn is_chain(layers: &[DraftLayer], outputs: &[TensorRef]) -> bool {
    let before = |i: usize| TensorRef { layer: i, call: 0, tensor: 0 };
    let follows = |(i, layer): (usize, &DraftLayer)| match i {
        0 => layer.class_name == "InputLayer",
        _ => {
            layer.calls.len() == 1
                && layer.calls[0].tensors() == [&before(i - 1)]
                && layer.calls[0].kwargs.is_empty()
        }
    };
    layers.iter().enumerate().all(follows) && outputs == [before(layers.len().wrapping_sub(1))]
}

/// Arguments that hold tensors of the layer's own, after those that have no name.
pub(super) const TENSOR_ARGUMENTS: [&str; 8] =
    ["initial_state", "query", "value", "key", "x1", "x2", "y", "b"];

/// Input `k` of a call: arguments by position, then [`TENSOR_ARGUMENTS`].
pub(super) fn flat_input(call: &CallConfig, k: usize) -> Option<&TensorRef> {
    let named =
        TENSOR_ARGUMENTS.iter().flat_map(|name| call.kwargs.iter().filter(move |(key, _)| key == name));
    call.args.iter().chain(named.map(|(_, a)| a)).flat_map(Arg::tensors).nth(k)
}

pub(super) fn fact_of(network: &Network, t: &TensorRef) -> Fact {
    let layer = &network.config.layers[t.layer];
    if layer.class_name == "InputLayer" {
        return input_fact(layer).unwrap_or_default();
    }
    network.nodes[t.layer].outputs.get(t.tensor).cloned().unwrap_or_default()
}

struct Resolver<'a> {
    network: &'a Network,
    became: &'a [Became],
    /// Calls may say that they train.
    keras2: bool,
}

impl Resolver<'_> {
    fn tensor(&self, t: &TensorRef) -> Result<TensorRef> {
        let mut t = t.clone();
        // A layer that became nothing hands on its input; no chain of those is longer than the model.
        for _ in 0..=self.became.len() {
            match &self.became[t.layer] {
                Became::One(at) => return Ok(TensorRef { layer: *at, ..t }),
                Became::Nothing => break,
                Became::Fragment(first, fragment) => match fragment.outputs.get(t.tensor) {
                    Some(From::Part(p, tensor)) => {
                        return Ok(TensorRef { layer: first + p, call: t.call, tensor: *tensor });
                    }
                    Some(From::Input(k)) => {
                        let call = &self.network.config.layers[t.layer].calls[t.call];
                        match flat_input(call, *k) {
                            Some(input) => t = input.clone(),
                            None => break,
                        }
                    }
                    None => break,
                },
            }
        }
        Err(no_input(&self.network.config.layers[t.layer], t.tensor))
    }

    /// A call of a layer that keeps its class.
    fn call(&self, layer: &LayerConfig, call: &CallConfig, mask_is_implicit: bool) -> Result<CallConfig> {
        let mut f = |t: &TensorRef| self.tensor(t);
        let mut args: Vec<Arg<TensorRef>> = call.args.iter().map(|a| a.map(&mut f)).collect::<Result<_>>()?;
        let mut kwargs = Vec::new();
        // Operations of Keras 3 may need an argument that is nothing.
        let operation = !self.keras2 && crate::layers::is_operation(layer, Dialect::Keras3);
        for (key, arg) in &call.kwargs {
            let null = matches!(arg, Arg::Value(Value::Null)) && !operation;
            // What says "training" only matters where Keras 2 follows it for ever.
            let training = key == "training" && !(self.keras2 && *arg == Arg::Value(Value::Bool(true)));
            if null || (key == "mask" && mask_is_implicit) || training {
                continue;
            }
            kwargs.push((key.clone(), arg.map(&mut f)?));
        }
        if crate::layers::RECURRENT.contains(&layer.class_name.as_str()) {
            // TF.js takes initial states as further inputs.
            let (states, rest): (Vec<_>, Vec<_>) =
                kwargs.into_iter().partition(|(k, _)| k == "initial_state");
            kwargs = rest;
            if !states.is_empty() {
                let all = args.iter().chain(states.iter().map(|(_, a)| a)).flat_map(Arg::tensors).cloned();
                args = vec![Arg::List(all.map(Arg::Tensor).collect())];
            }
        }
        Ok(CallConfig { args, kwargs })
    }
}

/// The name of a weight without that of its layer.
fn within<'n>(name: &'n str, layer: &str) -> &'n str {
    name.strip_prefix(layer).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name)
}

/// The name of a weight of a `Bidirectional` whose layer is called `inner`.
fn of_direction(name: &str, layer: &str, inner: &str) -> String {
    let Some((scope, rest)) = within(name, layer).split_once('/') else { return name.to_owned() };
    match ["forward_", "backward_"].iter().find(|d| scope.starts_with(*d)) {
        Some(direction) => format!("{layer}/{direction}{inner}/{rest}"),
        None => name.to_owned(),
    }
}

/// The name under which TF.js finds a weight: Keras's own, where TF.js's rule leads from it to the weight.
fn written_name(weight: &Weight, layer: &str, written: &str) -> String {
    let found =
        weight.keras == weight.tfjs || without_last_scope(&weight.keras).as_deref() == Some(&weight.tfjs);
    let name = if found { &weight.keras } else { &weight.tfjs };
    let inner = within(name, layer);
    let name = if inner == name { name.clone() } else { format!("{written}/{inner}") };
    name.split('/').map(valid_name).collect::<Vec<_>>().join("/")
}

/// A name that TF.js takes: `^[A-Za-z0-9][-A-Za-z0-9._/]*$`.
fn valid_name(name: &str) -> String {
    let mend = |c: char| if c.is_ascii_alphanumeric() || "-._/".contains(c) { c } else { '_' };
    let mended: String = name.chars().map(mend).collect();
    match mended.chars().next() {
        Some(c) if c.is_ascii_alphanumeric() => mended,
        _ => format!("layer{mended}"),
    }
}

/// Names that are taken.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while self.0.contains_key(&name) {
            let count = self.0.entry(wanted.to_owned()).or_insert(0);
            *count += 1;
            name = format!("{wanted}_{count}");
        }
        self.0.insert(name.clone(), 0);
        name
    }
}

/// The option with the constraint of a weight that does not satisfy it. Keras applies constraints after steps of training
/// alone, TF.js whenever a weight is set.
fn violated(weight: &Weight, value: &Constant) -> Result<Option<String>> {
    let Some(constraint) = &weight.constraint else { return Ok(None) };
    let unread = |source| LayersError::WeightValue { weight: weight.keras.clone(), source };
    let value = value.tensor().map_err(unread)?;
    let Ok(before) = value.data::<f32>() else { return Ok(None) };
    let mut after = before.to_vec();
    // One that is not known here is not known to TF.js either, and left out with a note.
    if constraint.apply(value.dims(), &mut after).is_err() {
        return Ok(None);
    }
    let moved = before.iter().zip(&after).any(|(b, a)| (a - b).abs() > 1e-6 * (1.0 + b.abs()));
    let name = weight.object.rsplit('/').next().unwrap_or_default();
    Ok(moved.then(|| format!("{name}_constraint")))
}

/// Sets an option to null, in configurations inside too.
fn clear(config: &mut Map<String, Value>, key: &str) {
    for (name, value) in config {
        if name == key {
            *value = Value::Null;
        } else if let Value::Object(inner) = value {
            clear(inner, key);
        }
    }
}
