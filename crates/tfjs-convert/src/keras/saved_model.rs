//! SavedModels of Keras 2: the config from `keras_metadata.pb` (or the graph of objects, before TensorFlow 2.5), the
//! weights from the checkpoint by the objects that own them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value};
use tfjs_format::proto::{DataType, attr_value};
use tfjs_graph::{Constant, LoadError, Tensor};
use tfjs_layers::{StoredWeight, StoredWeights};

use super::{Assets, KerasError, KerasFile, file::json, h5::join};
use crate::{
    ConvertError, Warning,
    proto::{KerasMetadata, MetaGraphDef, SavedObject, TrackableObjectGraph, saved_object::Kind},
    source::{Bundle, Contents, RawData, RawTensor, raw_tensor, saved_model},
    values::{Ledger, to_tensor},
};

/// Objects visited at most; the graph may reach one on many ways.
const MAX_VISITS: usize = 1 << 18;

/// What leads to objects that other names lead to as well, or that hold no weights of layers.
const ASIDE: &[&str] = &[
    "keras_api",
    "signatures",
    "variables",
    "trainable_variables",
    "non_trainable_variables",
    "regularization_losses",
    "losses",
    "metrics",
    "keras_metrics",
    "layers",
];

/// Reads the Keras model that a SavedModel holds.
///
/// # Errors
/// When there is no SavedModel, Keras did not write it, or it is broken.
pub(super) fn read(dir: &Path) -> Result<KerasFile, ConvertError> {
    let (model, contents) = match exported(dir) {
        Some(json) => return from_export(dir, &json),
        None => saved_model::load(dir)?,
    };
    let serving = |meta: &MetaGraphDef| {
        meta.meta_info_def.as_ref().is_some_and(|info| info.tags.iter().any(|tag| tag == "serve"))
    };
    let mut graphs = model.meta_graphs;
    let index = graphs.iter().position(serving).unwrap_or(0);
    let not_keras = || super::file::in_file(dir, KerasError::NotKerasSavedModel);
    if graphs.is_empty() {
        return Err(not_keras());
    }
    let graph = graphs.swap_remove(index);
    let described = descriptions(dir, &graph)?;
    let root = described.get(&0).ok_or_else(not_keras)?;
    let config = match root.get("model_config") {
        Some(config) if !config.is_null() => config.clone(),
        _ => match (root.get("class_name"), root.get("config")) {
            (Some(class), Some(config)) => Value::Object(Map::from_iter([
                ("class_name".to_owned(), class.clone()),
                ("config".to_owned(), config.clone()),
            ])),
            _ => return Err(not_keras()),
        },
    };
    let text = |key: &str| root.get(key).and_then(Value::as_str).map(str::to_owned);
    let (keras_version, backend) = (text("keras_version"), text("backend"));
    let training_config = root.get("training_config").filter(|c| !c.is_null()).cloned();
    let mut walk = Walk::new(dir, Some((&graph, &contents)), described)?;
    walk.visit(0, Some(0), "", Some(&config), 0)?;
    Ok(KerasFile {
        keras_version,
        backend,
        training_config,
        assets: Assets::in_memory(walk.vocabularies),
        optimizer: walk.optimizer,
        config: Some(config),
        ..KerasFile::of(StoredWeights::ByPath(walk.weights))
    })
}

/// The model's JSON as TensorFlow 1.13 exported it beside a checkpoint.
fn exported(dir: &Path) -> Option<PathBuf> {
    let path = dir.join("assets").join("saved_model.json");
    path.is_file().then_some(path)
}

fn from_export(dir: &Path, path: &Path) -> Result<KerasFile, ConvertError> {
    let text = tfjs_format::io::map_file(path)?;
    let config = json(&text, "saved_model.json").map_err(|source| super::file::in_file(path, source))?;
    let mut walk = Walk::new(dir, None, HashMap::new())?;
    walk.visit(0, None, "", Some(&config), 0)?;
    let version = config.get("keras_version").and_then(Value::as_str).map(str::to_owned);
    Ok(KerasFile {
        keras_version: version,
        config: Some(config),
        optimizer: walk.optimizer,
        ..KerasFile::of(StoredWeights::ByPath(walk.weights))
    })
}

/// What Keras says of the objects of the graph, by their number.
fn descriptions(dir: &Path, graph: &MetaGraphDef) -> Result<HashMap<usize, Value>, ConvertError> {
    let path = dir.join("keras_metadata.pb");
    let mut found = HashMap::new();
    let mut add = |id: usize, text: &str, file: &Path| {
        let value = json(text.as_bytes(), &format!("object {id}"))
            .map_err(|source| super::file::in_file(file, source))?;
        found.insert(id, plain(value));
        Ok::<_, ConvertError>(())
    };
    if path.is_file() {
        let bytes = tfjs_format::io::map_file(&path)?;
        let metadata = KerasMetadata::decode(bytes).map_err(|source| ConvertError::Decode {
            path: path.clone(),
            what: "Keras metadata",
            source,
        })?;
        for node in metadata.nodes {
            if let Ok(id) = usize::try_from(node.node_id) {
                add(id, &node.metadata, &path)?;
            }
        }
        return Ok(found);
    }
    for (id, node) in objects(graph).iter().enumerate() {
        if let Some(Kind::UserObject(object)) = &node.kind
            && object.identifier.starts_with("_tf_keras_")
            && !object.metadata.is_empty()
        {
            add(id, &object.metadata, dir)?;
        }
    }
    Ok(found)
}

fn objects(graph: &MetaGraphDef) -> &[SavedObject] {
    graph.object_graph_def.as_ref().map_or(&[], |objects| &objects.nodes)
}

/// JSON without the marks that TensorFlow puts on tuples and shapes.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            let marked = matches!(
                map.get("class_name").and_then(Value::as_str),
                Some("__tuple__" | "TensorShape" | "__list__")
            );
            match map.swap_remove("items") {
                Some(items @ Value::Array(_)) if marked && map.len() == 1 => return plain(items),
                Some(items) => {
                    map.insert("items".to_owned(), items);
                }
                None => {}
            }
            Value::Object(map.into_iter().map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        value => value,
    }
}

/// Walks the objects of a checkpoint, and beside them those of the SavedModel, which have names.
struct Walk<'a> {
    dir: &'a Path,
    bundle: Option<Arc<Bundle>>,
    saved: TrackableObjectGraph,
    graph: Option<(&'a MetaGraphDef, &'a Contents)>,
    described: HashMap<usize, Value>,
    /// Objects on the way to the one in hand.
    above: HashSet<usize>,
    /// The same objects by their numbers in the SavedModel, outermost first.
    owners: Vec<Option<usize>>,
    visits: usize,
    weights: Vec<StoredWeight>,
    optimizer: Vec<StoredWeight>,
    vocabularies: BTreeMap<String, Bytes>,
}

impl<'a> Walk<'a> {
    fn new(
        dir: &'a Path,
        graph: Option<(&'a MetaGraphDef, &'a Contents)>,
        described: HashMap<usize, Value>,
    ) -> Result<Walk<'a>, ConvertError> {
        const OBJECTS: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";
        let prefix = dir.join("variables").join("variables");
        let mut saved = TrackableObjectGraph::default();
        let mut bundle = None;
        // A model without variables and tables has no checkpoint.
        if dir.join("variables").join("variables.index").is_file() {
            let opened = Bundle::open(&prefix)?;
            if let RawData::Strings(strings) = opened.read(OBJECTS)?.data
                && let [bytes] = &strings[..]
            {
                saved = TrackableObjectGraph::decode(bytes.clone())
                    .map_err(|source| ConvertError::Decode { path: prefix, what: "object graph", source })?;
            }
            bundle = Some(Arc::new(opened));
        }
        Ok(Walk {
            dir,
            bundle,
            saved,
            graph,
            described,
            above: HashSet::new(),
            owners: Vec::new(),
            visits: 0,
            weights: Vec::new(),
            optimizer: Vec::new(),
            vocabularies: BTreeMap::new(),
        })
    }

    /// Visits an object: its number in the checkpoint and, if known, in the SavedModel; its path; its config.
    fn visit(
        &mut self,
        id: usize,
        object: Option<usize>,
        path: &str,
        config: Option<&Value>,
        depth: usize,
    ) -> Result<(), ConvertError> {
        const MAX_DEPTH: usize = 64;
        self.visits += 1;
        if self.visits > MAX_VISITS || depth > MAX_DEPTH {
            let limit = MAX_VISITS;
            return Err(self.fail(KerasError::TooMany { object: path.to_owned(), limit }));
        }
        if !self.above.insert(id) {
            return Ok(());
        }
        self.owners.push(object);
        let result = self.look(id, object, path, config, depth);
        self.owners.pop();
        self.above.remove(&id);
        result
    }

    fn look(
        &mut self,
        id: usize,
        object: Option<usize>,
        path: &str,
        config: Option<&Value>,
        depth: usize,
    ) -> Result<(), ConvertError> {
        let Some(node) = self.saved.nodes.get(id).cloned() else { return Ok(()) };
        for attribute in &node.attributes {
            if attribute.name == "VARIABLE_VALUE" {
                let weight = self.variable(path, &attribute.checkpoint_key)?;
                let optimizer = path == "optimizer" || path.starts_with("optimizer/");
                if optimizer { &mut self.optimizer } else { &mut self.weights }.push(weight);
            } else if attribute.name == "table" {
                self.stored_table(path, &attribute.checkpoint_key)?;
            }
        }
        if let Some(object) = object {
            self.initialized_table(path, object)?;
        }
        let layers = node.children.iter().filter(|child| layer_index(&child.local_name).is_some());
        let mut seen: HashSet<i32> = HashSet::new();
        // Each layer is there as `layer-2` and perhaps as `layer_with_weights-1`; the former has its place.
        let mut places: Vec<_> = layers.clone().filter(|c| c.local_name.starts_with("layer-")).collect();
        places.sort_by_key(|child| layer_index(&child.local_name));
        let is_model = !places.is_empty();
        for child in places {
            let Ok(child_id) = usize::try_from(child.node_id) else { continue };
            seen.insert(child.node_id);
            let next = self.child_object(object, &child.local_name);
            let index = layer_index(&child.local_name).unwrap_or_default();
            let inner = config.and_then(|config| layer_config(config, index));
            let name = next
                .and_then(|object| self.described.get(&object)?.get("name")?.as_str())
                .or_else(|| inner?.get("config")?.get("name")?.as_str())
                .unwrap_or(&child.local_name)
                .to_owned();
            let path = join(path, &join("layers", &name));
            self.visit(child_id, next, &path, inner, depth + 1)?;
        }
        for child in &node.children {
            let name = child.local_name.as_str();
            let aside = ASIDE.contains(&name) && (is_model || name != "layers");
            if aside || layer_index(name).is_some() || !seen.insert(child.node_id) {
                continue;
            }
            let Ok(child_id) = usize::try_from(child.node_id) else { continue };
            let next = self.child_object(object, name);
            let inner = config.and_then(|config| config.get("config")?.get(name));
            self.visit(child_id, next, &join(path, name), inner, depth + 1)?;
        }
        if path == "optimizer" {
            self.slots(&node)?;
        }
        Ok(())
    }

    fn fail(&self, source: KerasError) -> ConvertError {
        super::file::in_file(self.dir, source)
    }

    fn object(&self, id: usize) -> Option<&'a SavedObject> {
        objects(self.graph?.0).get(id)
    }

    fn child_object(&self, object: Option<usize>, name: &str) -> Option<usize> {
        let child = self.object(object?)?.children.iter().find(|child| child.local_name == name)?;
        usize::try_from(child.node_id).ok()
    }

    fn variable(&self, name: &str, key: &str) -> Result<StoredWeight, ConvertError> {
        let missing = || ConvertError::NoSuchTensor {
            tensor: key.to_owned(),
            path: self.dir.join("variables").join("variables.index"),
        };
        let bundle = self.bundle.clone().ok_or_else(missing)?;
        let meta = bundle.meta(key)?.ok_or_else(missing)?;
        let (owned, key) = (name.to_owned(), key.to_owned());
        let value =
            Constant::deferred(meta.dtype, meta.shape, move || read_exactly(bundle.read(&key)?, &owned));
        Ok(StoredWeight { name: name.to_owned(), value })
    }

    /// What an optimizer of TensorFlow 2.10 and before keeps for each variable.
    fn slots(
        &mut self,
        node: &crate::proto::trackable_object_graph::TrackableObject,
    ) -> Result<(), ConvertError> {
        for slot in &node.slot_variables {
            let attribute = |id: i32| {
                let node = self.saved.nodes.get(usize::try_from(id).ok()?)?;
                node.attributes.iter().find(|a| a.name == "VARIABLE_VALUE")
            };
            let (Some(original), Some(value)) =
                (attribute(slot.original_variable_node_id), attribute(slot.slot_variable_node_id))
            else {
                continue;
            };
            let name = format!("optimizer/{}/{}", slot.slot_name, original.full_name);
            let weight = self.variable(&name, &value.checkpoint_key)?;
            self.optimizer.push(weight);
        }
        Ok(())
    }

    /// A table that is saved in the checkpoint: the vocabulary of a layer that may still adapt.
    fn stored_table(&mut self, path: &str, key: &str) -> Result<(), ConvertError> {
        let is_vocabulary = path.ends_with("/lookup_table") || path.ends_with("/_table");
        let (Some(bundle), true) = (self.bundle.clone(), is_vocabulary) else { return Ok(()) };
        let (keys, values) = (format!("{key}-keys"), format!("{key}-values"));
        if bundle.meta(&keys)?.is_none() || bundle.meta(&values)?.is_none() {
            return Ok(());
        }
        let (keys, values) = (bundle.read(&keys)?, bundle.read(&values)?);
        self.vocabulary(path, keys, values);
        Ok(())
    }

    /// A table whose initialiser fills it with constants or from a file.
    fn initialized_table(&mut self, path: &str, object: usize) -> Result<(), ConvertError> {
        let Some((graph, contents)) = self.graph else { return Ok(()) };
        let Some(Kind::Resource(_)) = self.object(object).and_then(|o| o.kind.as_ref()) else {
            return Ok(());
        };
        let function = self.child_object(Some(object), "_initialize").and_then(|id| self.object(id));
        let Some(Kind::Function(function)) = function.and_then(|f| f.kind.as_ref()) else { return Ok(()) };
        let functions = graph.object_graph_def.as_ref().map(|objects| &objects.concrete_functions);
        let captures = function.concrete_functions.iter().find_map(|name| {
            let captures = functions?.get(name)?.bound_inputs.iter();
            let others = captures.filter_map(|&id| usize::try_from(id).ok()).filter(|&id| id != object);
            Some(others.filter_map(|id| self.object(id)?.kind.as_ref()).collect::<Vec<_>>())
        });
        match captures.as_deref() {
            Some([Kind::Constant(keys), Kind::Constant(values)]) => {
                let keys = constant(graph, contents, &keys.operation)?;
                let values = constant(graph, contents, &values.operation)?;
                if let (Some(keys), Some(values)) = (keys, values) {
                    self.vocabulary(path, keys, values);
                }
            }
            Some([Kind::Asset(asset)]) => {
                let def = usize::try_from(asset.asset_file_def_index)
                    .ok()
                    .and_then(|index| graph.asset_file_def.get(index));
                if let Some(file) = def.and_then(|def| saved_model::asset_path(self.dir, &def.filename)) {
                    let text = tfjs_format::io::map_file(&file)?;
                    let lines = text.strip_suffix(b"\n").unwrap_or(&text).split(|&b| b == b'\n');
                    let tokens =
                        lines.map(|line| Bytes::copy_from_slice(line.strip_suffix(b"\r").unwrap_or(line)));
                    let first = self.special_tokens().len();
                    self.tokens(path, tokens.enumerate().map(|(i, token)| (i + first, token)).collect());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the vocabulary of a lookup layer, in the form in which `.keras` archives have it.
    fn vocabulary(&mut self, path: &str, keys: RawTensor, values: RawTensor) {
        let invert = self.lookup_config().and_then(|c| c.get("invert")).and_then(Value::as_bool);
        let (tokens, indices) = if invert == Some(true) { (values, keys) } else { (keys, values) };
        let Some(indices) = integers(&indices) else { return };
        let tokens: Vec<Bytes> = match tokens.data {
            RawData::Strings(strings) => strings,
            _ => match integers(&tokens) {
                Some(values) => values.iter().map(|v| Bytes::from(v.to_string())).collect(),
                None => return,
            },
        };
        let indexed = indices.into_iter().filter_map(|i| usize::try_from(i).ok()).zip(tokens);
        self.tokens(path, indexed.collect());
    }

    /// The config of the layer that owns the table in hand.
    fn lookup_config(&self) -> Option<&Value> {
        let owner = self.owners.iter().rev().nth(1).copied().flatten()?;
        self.described.get(&owner)?.get("config")
    }

    /// What stands before the tokens of a vocabulary: the mask, and one token for all that are not in it.
    fn special_tokens(&self) -> Vec<Bytes> {
        const MOST: u64 = 1 << 20;
        let Some(config) = self.lookup_config() else { return Vec::new() };
        let token = |key: &str, old: &str| match config.get(key).or_else(|| config.get(old))? {
            Value::Null => None,
            Value::String(text) => Some(Bytes::from(text.clone())),
            other => Some(Bytes::from(other.to_string())),
        };
        let is_int = config.get("output_mode").and_then(Value::as_str).is_none_or(|mode| mode == "int");
        let mask = token("mask_token", "mask_value").filter(|_| is_int);
        let unknown = token("oov_token", "oov_value").unwrap_or_default();
        let count = config.get("num_oov_indices").and_then(Value::as_u64).unwrap_or(1).min(MOST);
        mask.into_iter().chain((0..count).map(|_| unknown.clone())).collect()
    }

    fn tokens(&mut self, path: &str, tokens: BTreeMap<usize, Bytes>) {
        let special = self.special_tokens();
        let mut all: Vec<Bytes> = special;
        for (index, token) in tokens {
            // Indices follow each other; a table that leaves some out is not a vocabulary.
            if index > all.len() {
                return;
            }
            match all.get_mut(index) {
                Some(place) => *place = token,
                None => all.push(token),
            }
        }
        let text = Bytes::from(all.join(&b"\n"[..]));
        let layer = path.rsplit_once('/').map_or("", |(layer, _)| layer);
        let file = |layer: &str| format!("{layer}/vocabulary.txt");
        if let Some(outer) =
            layer.strip_suffix("/_lookup_layer").or(layer.strip_suffix("/_index_lookup_layer"))
        {
            self.vocabularies.insert(file(outer), text.clone());
        }
        self.vocabularies.insert(file(layer), text);
    }
}

/// The number in `layer-2` and `layer_with_weights-2`.
fn layer_index(name: &str) -> Option<usize> {
    name.strip_prefix("layer-").or(name.strip_prefix("layer_with_weights-"))?.parse().ok()
}

/// The config of a model's layer by its place among `model.layers`, where Sequential leaves out its input.
fn layer_config(config: &Value, index: usize) -> Option<&Value> {
    let class = |config: &Value| config.get("class_name").and_then(Value::as_str).map(str::to_owned);
    let inner = config.get("config")?;
    let layers = inner.get("layers").unwrap_or(inner).as_array()?;
    if class(config).as_deref() != Some("Sequential") {
        return layers.get(index);
    }
    layers.iter().filter(|layer| class(layer).as_deref() != Some("InputLayer")).nth(index)
}

/// A constant of the main graph.
fn constant(
    graph: &MetaGraphDef,
    contents: &Contents,
    name: &str,
) -> Result<Option<RawTensor>, ConvertError> {
    let nodes = graph.graph_def.as_ref().map_or(&[][..], |graph| &graph.node);
    let value = nodes.iter().find(|node| node.name == name).and_then(|node| node.attr.get("value"));
    let Some(attr_value::Value::Tensor(proto)) = value.and_then(|v| v.value.as_ref()) else {
        return Ok(None);
    };
    match contents.find(proto, name)? {
        Some(content) => content.read().map(Some),
        None => raw_tensor(proto, name).map(Some),
    }
}

fn integers(raw: &RawTensor) -> Option<Vec<i64>> {
    let RawData::Bytes(bytes) = &raw.data else { return None };
    match raw.dtype {
        DataType::DtInt64 => Some(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        DataType::DtInt32 => {
            Some(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect())
        }
        _ => None,
    }
}

/// The tensor at run time; an integer outside int32 is an error.
fn read_exactly(raw: RawTensor, name: &str) -> Result<Tensor, LoadError> {
    let ledger = Ledger::default();
    let tensor = to_tensor(raw, name, &ledger)?;
    for warning in ledger.entries() {
        if let Warning::IntegerOverflow { name, first: value, .. } = warning {
            return Err(KerasError::OutsideInt32 { name, value }.into());
        }
    }
    Ok(tensor)
}
