use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Arg, CallConfig, LayerConfig, ModelConfig, ModelKind, Structure, TensorRef, keras1};
use crate::{Dialect, LayersError};

const MAX_DEPTH: usize = 32;

type Result<T> = std::result::Result<T, LayersError>;

impl ModelConfig {
    /// Reads a model: `{class_name, config}`, or the `{model_config: {…}, keras_version}` around it.
    ///
    /// # Errors
    /// When fields are missing, references dangle, or models are nested too deep.
    pub fn read(topology: &Value, dialect: Dialect) -> Result<ModelConfig> {
        let model = topology.get("model_config").unwrap_or(topology);
        read_model(model, dialect, "model", 0)
    }
}

/// The dialect that a topology is written in: what `keras_version` says, else what it looks like.
pub(crate) fn dialect_of(topology: &Value) -> Dialect {
    let version = topology.get("keras_version").and_then(Value::as_str);
    if let Some(dialect) = version.and_then(Dialect::from_version) {
        return dialect;
    }
    let text = topology.to_string();
    if text.contains("\"batch_shape\"") || text.contains("__keras_tensor__") || text.contains("DTypePolicy") {
        Dialect::Keras3
    } else {
        Dialect::Keras2
    }
}

fn field(place: &str, field: &str, expected: &'static str) -> LayersError {
    LayersError::Field { place: place.to_owned(), field: field.to_owned(), expected }
}

fn text<'v>(value: &'v Value, key: &str, place: &str) -> Result<&'v str> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| field(place, key, "a string"))
}

fn read_model(model: &Value, dialect: Dialect, place: &str, depth: usize) -> Result<ModelConfig> {
    if depth > MAX_DEPTH {
        return Err(LayersError::TooDeep(MAX_DEPTH));
    }
    let class_name = text(model, "class_name", place)?.to_owned();
    let config = model.get("config").ok_or_else(|| field(place, "config", "an object"))?;
    // Keras before 2.2.3 wrote a sequential model's config as the list itself.
    let list = config
        .get("layers")
        .unwrap_or(config)
        .as_array()
        .ok_or_else(|| field(place, "config.layers", "a list of layers"))?;
    let kind =
        if config.get("output_layers").is_some() { ModelKind::Functional } else { ModelKind::Sequential };
    let name = config.get("name").or_else(|| model.get("name")).and_then(Value::as_str);
    let name = name.unwrap_or(if kind == ModelKind::Sequential { "sequential" } else { "model" }).to_owned();
    let mut layers = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let mut layer = layer(value, dialect, &format!("{place}, layer {i}"), depth + 1)?;
        if let (Dialect::Keras1, Some(inner), None) =
            (dialect, &mut layer.model, value.pointer("/config/name"))
            && value.get("name").is_none()
        {
            // Keras 1 wrote a sequential model within another as the list of its layers, without its name.
            layer.name = format!("{}_{}", layer.name, i + 1);
            inner.name.clone_from(&layer.name);
        }
        layers.push(layer);
    }
    let trainable = config.get("trainable").and_then(Value::as_bool).unwrap_or(true);
    let mut model = ModelConfig {
        name,
        class_name,
        kind,
        layers,
        inputs: Structure::List(Vec::new()),
        outputs: Structure::List(Vec::new()),
        trainable,
    };
    match kind {
        ModelKind::Sequential => chain(&mut model, config, place)?,
        ModelKind::Functional => connect(&mut model, config, list, place)?,
    }
    Ok(model)
}

/// A layer without its calls.
pub(super) fn layer(value: &Value, dialect: Dialect, place: &str, depth: usize) -> Result<LayerConfig> {
    let mut class_name = keras1::class_name(text(value, "class_name", place)?).to_owned();
    let mut config = match value.get("config") {
        Some(Value::Object(config)) => config.clone(),
        // Sequential models of old files.
        Some(Value::Array(_)) => Map::new(),
        _ => return Err(field(place, "config", "an object")),
    };
    let name = value.get("name").or_else(|| config.get("name")).and_then(Value::as_str);
    let name = match name {
        Some(name) => name.to_owned(),
        None => class_name.to_lowercase(),
    };
    if dialect == Dialect::Keras1 {
        keras1::upgrade(&mut class_name, &mut config);
    }
    let layers = value.pointer("/config/layers").or(value.get("config")).and_then(Value::as_array);
    let layers = layers.filter(|l| !l.is_empty());
    let is_model = layers.is_some_and(|l| l.iter().all(|l| l.get("class_name").is_some()))
        && !matches!(class_name.as_str(), "StackedRNNCells" | "Pipeline");
    let model = if is_model { Some(Box::new(read_model(value, dialect, &name, depth)?)) } else { None };
    let own = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
    Ok(LayerConfig {
        name,
        class_name,
        module: own("module"),
        registered_name: own("registered_name"),
        config,
        calls: Vec::new(),
        model,
        implied: false,
        graph: None,
    })
}

/// Sequential: each layer calls the one before.
fn chain(model: &mut ModelConfig, config: &Value, place: &str) -> Result<()> {
    for (i, l) in model.layers.iter_mut().enumerate() {
        if l.name.is_empty() {
            l.name = format!("{}_{i}", l.class_name.to_lowercase());
        }
    }
    if model.layers.first().is_none_or(|l| l.class_name != "InputLayer") {
        let shape = model.layers.first().and_then(declared_shape).or_else(|| {
            let built =
                config.get("build_input_shape").or_else(|| config.pointer("/build_config/input_shape"));
            built.filter(|s| s.is_array()).cloned()
        });
        let shape = shape.ok_or_else(|| {
            field(place, "batch_input_shape", "given: the model was saved before its input shape was known; call it once (or `build` it) before saving")
        })?;
        let first = model.layers.first();
        let dtype = first.and_then(|l| l.config.get("dtype")).cloned();
        let first_name = first.map_or("", |l| l.name.as_str());
        let name = format!("{first_name}_input");
        let mut config = Map::new();
        config.insert("batch_input_shape".into(), shape);
        let integers = first.is_some_and(|l| l.class_name == "Embedding");
        config.insert(
            "dtype".into(),
            if integers { "float32".into() } else { dtype.unwrap_or("float32".into()) },
        );
        config.insert("name".into(), name.clone().into());
        let implied = LayerConfig { implied: true, name, ..LayerConfig::new("InputLayer", config) };
        model.layers.insert(0, implied);
    }
    for i in 0..model.layers.len() {
        let before = i.checked_sub(1).map(|layer| Arg::Tensor(TensorRef { layer, call: 0, tensor: 0 }));
        model.layers[i].calls = vec![CallConfig { args: before.into_iter().collect(), kwargs: Vec::new() }];
    }
    check_names(model)?;
    model.inputs = Structure::One(TensorRef { layer: 0, call: 0, tensor: 0 });
    model.outputs = Structure::One(TensorRef { layer: model.layers.len() - 1, call: 0, tensor: 0 });
    Ok(())
}

/// The batch shape that a first layer states.
fn declared_shape(layer: &LayerConfig) -> Option<Value> {
    if let Some(shape) = layer.config.get("batch_input_shape").or_else(|| layer.config.get("batch_shape")) {
        return Some(shape.clone()).filter(Value::is_array);
    }
    if let Some(shape) = layer.config.get("input_shape").and_then(Value::as_array) {
        return Some(std::iter::once(Value::Null).chain(shape.iter().cloned()).collect());
    }
    let inner = layer.model.as_ref()?;
    let TensorRef { layer, .. } = inner.inputs.flat().first().copied()?;
    declared_shape(&inner.layers[*layer])
}

fn check_names(model: &ModelConfig) -> Result<HashMap<String, usize>> {
    let mut names = HashMap::new();
    for (i, l) in model.layers.iter().enumerate() {
        if names.insert(l.name.clone(), i).is_some() {
            return Err(LayersError::DuplicateLayer(l.name.clone()));
        }
    }
    Ok(names)
}

/// Functional: calls and endpoints are written out.
fn connect(model: &mut ModelConfig, config: &Value, list: &[Value], place: &str) -> Result<()> {
    let names = check_names(model)?;
    for (i, value) in list.iter().enumerate() {
        let calls = match value.get("inbound_nodes") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(nodes)) => nodes.iter().map(|n| call(n, &names)).collect(),
            Some(_) => {
                let place = format!("layer `{}`", model.layers[i].name);
                return Err(field(&place, "inbound_nodes", "a list"));
            }
        };
        model.layers[i].calls = calls;
        if model.layers[i].calls.is_empty() && model.layers[i].class_name == "InputLayer" {
            model.layers[i].calls.push(CallConfig::default());
        }
    }
    let endpoint = |key: &str| {
        let value = config.get(key).unwrap_or(&Value::Null);
        structure(value, &names).ok_or_else(|| field(place, key, "references to layers of the model"))
    };
    model.inputs = endpoint("input_layers")?;
    model.outputs = endpoint("output_layers")?;
    // Keras 3 writes calls as objects, Keras 2 and TF.js as lists. Files for TF.js have objects where it has no word.
    let node = |l: &Value| l.get("inbound_nodes").and_then(|n| n.get(0)).cloned();
    let lists = list.iter().filter_map(node).any(|n| n.is_array());
    shift_nested(model, lists);
    check_references(model, place)
}

/// Lets calls of models inside count from 0.
///
/// Keras 2 and TF.js count the creation of a model as its call 0. Keras 3 does so in some versions, and in the endpoints of
/// functional models always.
fn shift_nested(model: &mut ModelConfig, lists: bool) {
    let inbound: Vec<TensorRef> =
        model.layers.iter().flat_map(|l| &l.calls).flat_map(CallConfig::tensors).cloned().collect();
    let endpoints: Vec<TensorRef> = model.outputs.flat().into_iter().cloned().collect();
    let mut shifted = vec![false; model.layers.len()];
    for (i, layer) in model.layers.iter().enumerate() {
        let Some(inner) = &layer.model else { continue };
        let calls_of =
            |refs: &[TensorRef]| refs.iter().filter(|t| t.layer == i).map(|t| t.call).collect::<Vec<_>>();
        let (own, ends) = (calls_of(&inbound), calls_of(&endpoints));
        let from_one = |calls: &[usize]| !calls.is_empty() && !calls.contains(&0);
        let beyond = |calls: &[usize]| calls.iter().any(|&c| c >= layer.calls.len());
        let both: Vec<usize> = own.iter().chain(&ends).copied().collect();
        let functional = inner.kind == ModelKind::Functional;
        let (shift_own, shift_ends) = match lists {
            true => (from_one(&both), from_one(&both)),
            false => (beyond(&own), beyond(&ends) || (functional && from_one(&ends))),
        };
        let shift = |t: &mut TensorRef| {
            if t.layer == i {
                t.call = t.call.saturating_sub(1);
            }
        };
        if shift_ends {
            model.outputs.each_mut(&shift);
        }
        shifted[i] = shift_own;
    }
    let shift = |t: &mut TensorRef| {
        if shifted[t.layer] {
            t.call = t.call.saturating_sub(1);
        }
    };
    for call in model.layers.iter_mut().flat_map(|l| &mut l.calls) {
        call.args.iter_mut().chain(call.kwargs.iter_mut().map(|(_, a)| a)).for_each(|a| a.each_mut(&shift));
    }
}

fn check_references(model: &ModelConfig, place: &str) -> Result<()> {
    let check = |t: &TensorRef, place: &str| {
        if t.call < model.layers[t.layer].calls.len() {
            return Ok(());
        }
        let layer = model.layers[t.layer].name.clone();
        Err(LayersError::Dangling { place: place.to_owned(), layer, call: t.call, tensor: t.tensor })
    };
    for l in &model.layers {
        let place = format!("layer `{}`", l.name);
        l.calls.iter().flat_map(CallConfig::tensors).try_for_each(|t| check(t, &place))?;
    }
    model.inputs.flat().into_iter().chain(model.outputs.flat()).try_for_each(|t| check(t, place))
}

impl<T> Arg<T> {
    fn each_mut(&mut self, f: &impl Fn(&mut T)) {
        match self {
            Arg::Tensor(t) => f(t),
            Arg::Value(_) => {}
            Arg::List(items) => items.iter_mut().for_each(|a| a.each_mut(f)),
            Arg::Dict(items) => items.iter_mut().for_each(|(_, a)| a.each_mut(f)),
        }
    }
}

impl Structure {
    fn each_mut(&mut self, f: &impl Fn(&mut TensorRef)) {
        match self {
            Structure::One(t) => f(t),
            Structure::List(items) => items.iter_mut().for_each(|s| s.each_mut(f)),
            Structure::Dict(items) => items.iter_mut().for_each(|(_, s)| s.each_mut(f)),
        }
    }
}

type Names = HashMap<String, usize>;

/// One call, in the form of any dialect.
fn call(node: &Value, names: &Names) -> CallConfig {
    // Keras 3: {args: […], kwargs: {…}}.
    if let Some(args) = node.get("args").and_then(Value::as_array) {
        let kwargs = node.get("kwargs").and_then(Value::as_object);
        return CallConfig {
            args: args.iter().map(|a| keras3_arg(a, names, 0)).collect(),
            kwargs: kwargs.into_iter().flatten().map(|(k, v)| (k.clone(), keras3_arg(v, names, 0))).collect(),
        };
    }
    // Keras 2: [[layer, node, tensor, kwargs], …], the first entry's kwargs are those of the call;
    // of a raw op one level less; of dictionaries one entry per key.
    let mut kwargs = Vec::new();
    let arg = keras2_arg(node, names, &mut kwargs, 0);
    let args = match arg {
        // A list of one is how a lone tensor is written.
        Arg::List(items) if items.len() == 1 => items,
        other => vec![other],
    };
    CallConfig { args, kwargs }
}

fn keras2_arg(
    value: &Value,
    names: &Names,
    kwargs: &mut Vec<(String, Arg<TensorRef>)>,
    depth: usize,
) -> Arg<TensorRef> {
    match value {
        Value::Array(items) if depth < MAX_DEPTH => {
            if let Some(kw) = items.get(3).and_then(Value::as_object)
                && matches!(items[0], Value::String(_))
                && kwargs.is_empty()
            {
                *kwargs = kw.iter().map(|(k, v)| (k.clone(), keras2_kwarg(v, names, depth))).collect();
            }
            if let Some(t) = reference(value, names) {
                return Arg::Tensor(t);
            }
            if let [Value::String(s), _, constant, ..] = items.as_slice()
                && s == "_CONSTANT_VALUE"
            {
                return Arg::Value(constant.clone());
            }
            Arg::List(items.iter().map(|v| keras2_arg(v, names, kwargs, depth + 1)).collect())
        }
        Value::Object(map) if depth < MAX_DEPTH => {
            Arg::Dict(map.iter().map(|(k, v)| (k.clone(), keras2_arg(v, names, kwargs, depth + 1))).collect())
        }
        other => Arg::Value(other.clone()),
    }
}

/// A keyword argument of Keras 2: tensors are `[layer, node, tensor]` wherever they stand.
fn keras2_kwarg(value: &Value, names: &Names, depth: usize) -> Arg<TensorRef> {
    if let Some(t) = reference(value, names) {
        return Arg::Tensor(t);
    }
    match value {
        Value::Array(items) if depth < MAX_DEPTH && has_reference(value, names, depth) => {
            Arg::List(items.iter().map(|v| keras2_kwarg(v, names, depth + 1)).collect())
        }
        Value::Object(map) if depth < MAX_DEPTH && has_reference(value, names, depth) => {
            Arg::Dict(map.iter().map(|(k, v)| (k.clone(), keras2_kwarg(v, names, depth + 1))).collect())
        }
        other => Arg::Value(other.clone()),
    }
}

fn has_reference(value: &Value, names: &Names, depth: usize) -> bool {
    depth < MAX_DEPTH
        && (reference(value, names).is_some()
            || match value {
                Value::Array(items) => items.iter().any(|v| has_reference(v, names, depth + 1)),
                Value::Object(map) => map.values().any(|v| has_reference(v, names, depth + 1)),
                _ => false,
            })
}

/// `[layer, node, tensor, …]` with a layer of the model.
fn reference(value: &Value, names: &Names) -> Option<TensorRef> {
    let items = value.as_array()?;
    if !(3..=4).contains(&items.len()) {
        return None;
    }
    let index = |v: &Value| usize::try_from(v.as_u64()?).ok();
    Some(TensorRef {
        layer: *names.get(items[0].as_str()?)?,
        call: index(&items[1])?,
        tensor: index(&items[2])?,
    })
}

fn keras3_arg(value: &Value, names: &Names, depth: usize) -> Arg<TensorRef> {
    if depth >= MAX_DEPTH {
        return Arg::Value(value.clone());
    }
    match value {
        Value::Object(map) => match map.get("class_name").and_then(Value::as_str) {
            Some("__keras_tensor__") => match reference(&value["config"]["keras_history"], names) {
                Some(t) => Arg::Tensor(t),
                None => Arg::Value(value.clone()),
            },
            Some("__tuple__") => keras3_arg(&value["items"], names, depth + 1),
            // Bounds may be tensors.
            Some("__slice__") => match keras3_arg(&value["config"], names, depth + 1) {
                Arg::Dict(items) if items.iter().any(|(_, a)| matches!(a, Arg::Tensor(_))) => {
                    Arg::Dict(items)
                }
                _ => Arg::Value(value.clone()),
            },
            Some(_) => Arg::Value(value.clone()),
            None => {
                Arg::Dict(map.iter().map(|(k, v)| (k.clone(), keras3_arg(v, names, depth + 1))).collect())
            }
        },
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|v| keras3_arg(v, names, depth + 1)).collect();
            // Plain lists of constants stay JSON.
            if items.iter().all(|a| matches!(a, Arg::Value(_))) {
                return Arg::Value(value.clone());
            }
            Arg::List(items)
        }
        other => Arg::Value(other.clone()),
    }
}

/// `input_layers` and `output_layers`: one reference, a list or a dictionary, at any depth.
fn structure(value: &Value, names: &Names) -> Option<Structure> {
    if let Some(t) = reference(value, names) {
        return Some(Structure::One(t));
    }
    match value {
        Value::Array(items) => {
            Some(Structure::List(items.iter().map(|v| structure(v, names)).collect::<Option<_>>()?))
        }
        Value::Object(map) => match map.get("class_name").and_then(Value::as_str) {
            Some("__keras_tensor__") => {
                reference(&value["config"]["keras_history"], names).map(Structure::One)
            }
            Some("__tuple__") => structure(&value["items"], names),
            _ => {
                let entries = map.iter().map(|(k, v)| Some((k.clone(), structure(v, names)?)));
                Some(Structure::Dict(entries.collect::<Option<_>>()?))
            }
        },
        _ => None,
    }
}
