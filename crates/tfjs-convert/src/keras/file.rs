use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tfjs_layers::{StoredWeight, StoredWeights};

use super::{
    Assets, KerasError,
    archive::Archive,
    blob::Blob,
    h5::{Attribute, Attributes, H5File, Kind, join},
    npz,
};
use crate::ConvertError;

/// A Keras model file of any kind. Opening reads what describes the model; weights are read when asked for.
#[derive(Clone, Debug)]
pub struct KerasFile {
    /// Version of Keras that wrote it, such as `2.15.0` or `3.5.0`; unknown for weights alone.
    pub keras_version: Option<String>,
    /// Backend of the Keras that wrote it.
    pub backend: Option<String>,
    /// `model_config`, or the archive's `config.json`; none in a file of weights alone.
    pub config: Option<Value>,
    /// How the model was compiled: the attribute `training_config`, or `compile_config` inside `config.json`.
    pub training_config: Option<Value>,
    /// The archive's `metadata.json`.
    pub metadata: Map<String, Value>,
    /// Weights of the layers.
    pub weights: StoredWeights,
    /// Names of Keras objects by the path of their weights: `layers/dense_1` is the layer `my_output`.
    /// Files of Keras before 3.9 do not have them.
    pub object_names: IndexMap<String, String>,
    /// State of the optimizer, by name or by path (`optimizer/vars/0`), in the order of the file.
    pub optimizer: Vec<StoredWeight>,
    /// State of metrics, by path.
    pub metrics: Vec<StoredWeight>,
    /// Files in the archive's `assets` folder.
    pub assets: Assets,
}

/// Root attributes and groups of whole models.
const MODEL_CONFIG: &str = "model_config";
const LAYER_NAMES: &str = "layer_names";
const WEIGHT_NAMES: &str = "weight_names";

const CONFIG: &str = "config.json";
const METADATA: &str = "metadata.json";
const WEIGHTS: &str = "model.weights.h5";
const WEIGHTS_NPZ: &str = "model.weights.npz";

impl KerasFile {
    /// Opens a file by what is in it, whatever its name says: `.h5`, `.keras`, or the list of sharded weights
    /// (`.weights.json`). A directory is a SavedModel of Keras 2, or what a `.keras` archive would hold.
    ///
    /// # Errors
    /// [`ConvertError::Keras`] when it is not a Keras file or is broken, with the place.
    pub fn open(path: &Path) -> Result<KerasFile, ConvertError> {
        if path.is_dir() {
            let unzipped = super::folder::is_model(path);
            return if unzipped { super::folder::read(path) } else { super::saved_model::read(path) };
        }
        let blob = Blob::open(path)?;
        if blob.bytes().starts_with(b"{")
            && let Some(map) = super::folder::shard_map(blob.bytes())
        {
            return super::folder::read_shards(&map, path);
        }
        let file: Arc<Path> = path.into();
        read(blob, &file).map_err(|source| in_file(&file, source))
    }

    /// Whether a file is HDF5 or a zip archive, by its first bytes: what [`KerasFile::open`] can read.
    pub fn looks_like(path: &Path) -> bool {
        Blob::open(path).is_ok_and(|blob| is_hdf5(&blob) || is_zip(&blob))
    }
}

pub(super) fn in_file(path: &Path, source: KerasError) -> ConvertError {
    ConvertError::Keras { path: PathBuf::from(path), source }
}

fn read(blob: Blob, path: &Arc<Path>) -> Result<KerasFile, KerasError> {
    // First the archive: a member of it may lie where HDF5 after a user block would start.
    if is_zip(&blob) {
        return from_archive(&Archive::open(blob)?, path);
    }
    if is_hdf5(&blob) {
        return from_hdf5(&H5File::open(blob)?, path);
    }
    let bytes = blob.bytes();
    let found = match () {
        () if bytes.is_empty() => Some("it is empty"),
        () if bytes.starts_with(b"version https://git-lfs") => {
            Some("a Git LFS pointer; run `git lfs pull` in its repository")
        }
        () if bytes.starts_with(b"<") => Some("a web page"),
        () if bytes.starts_with(b"{") => Some("JSON text"),
        () => None,
    };
    Err(KerasError::UnknownFormat { found })
}

/// The signature stands at the start, or after a user block of 512, 1024, 2048, … bytes.
fn is_hdf5(blob: &Blob) -> bool {
    const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
    let starts = std::iter::once(0).chain((9..32).map(|bits| 1usize << bits));
    starts.map_while(|start| blob.bytes().get(start..)).any(|bytes| bytes.starts_with(MAGIC))
}

fn is_zip(blob: &Blob) -> bool {
    // A file, or the end of an empty archive.
    [b"PK\x03\x04", b"PK\x05\x06"].iter().any(|magic| blob.bytes().starts_with(*magic))
}

fn from_archive(archive: &Archive, path: &Arc<Path>) -> Result<KerasFile, KerasError> {
    let config = json_member(archive, CONFIG)?;
    let metadata = match archive.has(METADATA) {
        true => match json_member(archive, METADATA)? {
            Value::Object(map) => map,
            _ => Map::new(),
        },
        false => Map::new(),
    };
    let weights = if !archive.has(WEIGHTS) && archive.has(WEIGHTS_NPZ) {
        let mut read = ByPath::default();
        for weight in npz::read(&Archive::open(archive.blob(WEIGHTS_NPZ)?)?, path)? {
            read.list(&weight.name).push(weight);
        }
        read
    } else {
        let h5 = H5File::open(archive.blob(WEIGHTS)?)?;
        ByPath::read(&h5, &h5.tree("")?, path)?
    };
    let training_config = config.get("compile_config").filter(|c| !c.is_null()).cloned();
    Ok(KerasFile {
        keras_version: metadata.get("keras_version").and_then(Value::as_str).map(str::to_owned),
        training_config,
        config: Some(config),
        metadata,
        assets: Assets::of(archive),
        ..weights.into_file()
    })
}

fn json_member(archive: &Archive, name: &str) -> Result<Value, KerasError> {
    json(&archive.bytes(name)?, name)
}

pub(super) fn json(text: &[u8], place: &str) -> Result<Value, KerasError> {
    let wrong = |source| KerasError::Json { place: place.to_owned(), source };
    let value = serde_json::from_slice(text);
    if value.is_err()
        && let Some(text) = non_finite(text)
    {
        return serde_json::from_slice(&text).map_err(wrong);
    }
    value.map_err(wrong)
}

/// The text with Python's `NaN` and `Infinity`, which are not JSON, as strings; `None` when it has none.
fn non_finite(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let (mut in_string, mut at, mut found) = (false, 0, false);
    while let Some(&byte) = text.get(at) {
        let word = [&b"NaN"[..], b"-Infinity", b"Infinity"];
        let word = word.into_iter().find(|word| !in_string && text[at..].starts_with(word));
        if let Some(word) = word {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            at += word.len();
            found = true;
            continue;
        }
        let escaped = in_string && byte == b'\\';
        in_string ^= byte == b'"';
        out.push(byte);
        at += 1;
        if escaped && let Some(&next) = text.get(at) {
            out.push(next);
            at += 1;
        }
    }
    found.then_some(out)
}

fn from_hdf5(h5: &H5File, path: &Arc<Path>) -> Result<KerasFile, KerasError> {
    let attributes = h5.attributes("")?;
    if attributes.contains_key(MODEL_CONFIG) {
        return whole_model(h5, &attributes, path);
    }
    if has_list(&attributes, LAYER_NAMES) {
        let weights = by_layer(h5, "", &attributes, path)?;
        return Ok(KerasFile {
            keras_version: text(&attributes, "", "keras_version")?,
            backend: text(&attributes, "", "backend")?,
            ..KerasFile::of(weights)
        });
    }
    let tree = h5.tree("")?;
    if !tree.iter().any(|(place, kind)| *kind == Kind::Group && owner(&modern(place)).is_some()) {
        return Err(KerasError::NotKeras);
    }
    Ok(ByPath::read(h5, &tree, path)?.into_file())
}

impl KerasFile {
    pub(super) fn of(weights: StoredWeights) -> KerasFile {
        KerasFile {
            keras_version: None,
            backend: None,
            config: None,
            training_config: None,
            metadata: Map::new(),
            weights,
            object_names: IndexMap::new(),
            optimizer: Vec::new(),
            metrics: Vec::new(),
            assets: Assets::default(),
        }
    }
}

/// The layout of Keras 1 and 2, which Keras 3 still writes as `.h5`.
fn whole_model(h5: &H5File, attributes: &Attributes, path: &Arc<Path>) -> Result<KerasFile, KerasError> {
    const MODEL_WEIGHTS: &str = "model_weights";
    let parsed = |name: &str| -> Result<Option<Value>, KerasError> {
        let Some(text) = text(attributes, "", name)? else { return Ok(None) };
        json(text.as_bytes(), name).map(Some)
    };
    let members = h5.members("")?;
    let is_group = |name: &str| members.contains(&(name.to_owned(), Kind::Group));
    // A model saved without weights has no group for them.
    let (weights, inner) = match is_group(MODEL_WEIGHTS) {
        true => {
            let inner = h5.attributes(MODEL_WEIGHTS)?;
            (by_layer(h5, MODEL_WEIGHTS, &inner, path)?, inner)
        }
        false => (StoredWeights::ByLayer(Vec::new()), Attributes::new()),
    };
    let mut optimizer = Vec::new();
    const OPTIMIZER: &str = "optimizer_weights";
    if is_group(OPTIMIZER) {
        let names = list(&h5.attributes(OPTIMIZER)?, OPTIMIZER, WEIGHT_NAMES)?;
        for name in names.unwrap_or_default() {
            optimizer.push(weight(h5, &join(OPTIMIZER, &name), stripped(&name), path)?);
        }
    }
    let either = |name: &str| -> Result<Option<String>, KerasError> {
        Ok(text(attributes, "", name)?.or(text(&inner, MODEL_WEIGHTS, name)?))
    };
    Ok(KerasFile {
        keras_version: either("keras_version")?,
        backend: either("backend")?,
        config: parsed(MODEL_CONFIG)?,
        training_config: parsed("training_config")?.filter(|c| !c.is_null()),
        optimizer,
        ..KerasFile::of(weights)
    })
}

/// The weights below a group that has the attribute `layer_names`.
fn by_layer(
    h5: &H5File,
    group: &str,
    attributes: &Attributes,
    path: &Arc<Path>,
) -> Result<StoredWeights, KerasError> {
    // Weights that belong to the model itself; neither Keras 2 nor 3 lists them among the layers.
    const TOP_LEVEL: &str = "top_level_model_weights";
    let names = list(attributes, group, LAYER_NAMES)?.ok_or_else(|| KerasError::Attribute {
        object: group.to_owned(),
        name: LAYER_NAMES.to_owned(),
        what: "is missing".to_owned(),
    })?;
    let mut layers = Vec::with_capacity(names.len());
    for layer in names {
        let weights = layer_weights(h5, &join(group, &layer), path)?;
        layers.push((layer, weights));
    }
    if h5.members(group)?.contains(&(TOP_LEVEL.to_owned(), Kind::Group)) {
        let weights = layer_weights(h5, &join(group, TOP_LEVEL), path)?;
        if !weights.is_empty() {
            layers.push((TOP_LEVEL.to_owned(), weights));
        }
    }
    Ok(StoredWeights::ByLayer(layers))
}

fn layer_weights(h5: &H5File, group: &str, path: &Arc<Path>) -> Result<Vec<StoredWeight>, KerasError> {
    let names = list(&h5.attributes(group)?, group, WEIGHT_NAMES)?;
    let names = match names {
        Some(names) => names,
        None => {
            let datasets = h5.tree(group)?.into_iter().filter(|(_, kind)| *kind == Kind::Dataset);
            datasets.map(|(path, _)| path).collect()
        }
    };
    names.iter().map(|name| weight(h5, &join(group, name), stripped(name), path)).collect()
}

/// The name of a variable without the number of its output.
fn stripped(name: &str) -> &str {
    name.strip_suffix(":0").unwrap_or(name)
}

fn weight(h5: &H5File, dataset: &str, name: &str, path: &Arc<Path>) -> Result<StoredWeight, KerasError> {
    let path = path.clone();
    let value = h5.constant(dataset, name, move |source| Box::new(in_file(&path, source)))?;
    Ok(StoredWeight { name: name.to_owned(), value })
}

/// The layout of `.weights.h5`: `<path of an object>/vars/<index>`.
#[derive(Default)]
pub(super) struct ByPath {
    weights: Vec<StoredWeight>,
    optimizer: Vec<StoredWeight>,
    metrics: Vec<StoredWeight>,
    object_names: IndexMap<String, String>,
}

impl ByPath {
    /// Everything in `tree`, which is all of the file.
    pub(super) fn read(h5: &H5File, tree: &[(String, Kind)], path: &Arc<Path>) -> Result<ByPath, KerasError> {
        let mut read = ByPath::default();
        for (place, kind) in tree {
            let name = modern(place);
            match kind {
                Kind::Dataset => read.list(&name).push(weight(h5, place, &name, path)?),
                Kind::Group => {
                    let Some(object) = owner(&name) else { continue };
                    if let Some(Attribute::Strings(names)) = h5.attributes(place)?.swap_remove("name")
                        && let [name] = &names[..]
                    {
                        read.object_names.insert(object.to_owned(), name.clone());
                    }
                }
            }
        }
        Ok(read)
    }

    /// All that was read.
    pub(super) fn all(&self) -> impl Iterator<Item = &StoredWeight> {
        self.weights.iter().chain(&self.optimizer).chain(&self.metrics)
    }

    /// Adds what was read from another file.
    pub(super) fn append(&mut self, mut other: ByPath) {
        self.weights.append(&mut other.weights);
        self.optimizer.append(&mut other.optimizer);
        self.metrics.append(&mut other.metrics);
        self.object_names.extend(other.object_names);
    }

    /// Where a weight of this name belongs.
    pub(super) fn list(&mut self, name: &str) -> &mut Vec<StoredWeight> {
        match name.split('/').next() {
            Some("optimizer") => &mut self.optimizer,
            Some("metrics") => &mut self.metrics,
            _ => &mut self.weights,
        }
    }

    pub(super) fn into_file(self) -> KerasFile {
        KerasFile {
            optimizer: self.optimizer,
            metrics: self.metrics,
            object_names: self.object_names,
            ..KerasFile::of(StoredWeights::ByPath(self.weights))
        }
    }
}

/// The path of the object whose variables a group holds.
fn owner(group: &str) -> Option<&str> {
    let object = group.strip_suffix("vars")?;
    if object.is_empty() { Some("") } else { object.strip_suffix('/') }
}

/// A path as Keras writes it today: on Windows it once had backslashes, and until 2.13 another name for `layers`.
fn modern(path: &str) -> String {
    let parts = path.split(['/', '\\']).map(|part| match part {
        "_layer_checkpoint_dependencies" => "layers",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn has_list(attributes: &Attributes, name: &str) -> bool {
    attributes.contains_key(name) || attributes.contains_key(&format!("{name}0"))
}

/// A list of strings, which Keras splits over `name0`, `name1`, … when it is long; `None` when there is none.
fn list(attributes: &Attributes, object: &str, name: &str) -> Result<Option<Vec<String>>, KerasError> {
    if attributes.contains_key(name) {
        return strings(attributes, object, name);
    }
    let mut all = None;
    for chunk in 0.. {
        let Some(mut part) = strings(attributes, object, &format!("{name}{chunk}"))? else { break };
        all.get_or_insert_with(Vec::new).append(&mut part);
    }
    Ok(all)
}

fn strings(attributes: &Attributes, object: &str, name: &str) -> Result<Option<Vec<String>>, KerasError> {
    let wrong = |what: String| KerasError::Attribute { object: shown(object), name: name.to_owned(), what };
    match attributes.get(name) {
        None => Ok(None),
        Some(Attribute::Strings(values)) => Ok(Some(values.clone())),
        // NumPy makes an empty list one of numbers.
        Some(Attribute::Floats(values)) if values.is_empty() => Ok(Some(Vec::new())),
        Some(Attribute::Ints(values)) if values.is_empty() => Ok(Some(Vec::new())),
        Some(Attribute::Unreadable(what)) => Err(wrong(what.clone())),
        Some(Attribute::Ints(_) | Attribute::Floats(_)) => {
            Err(wrong("holds numbers, expected text".to_owned()))
        }
    }
}

/// One string; `None` when there is no such attribute.
fn text(attributes: &Attributes, object: &str, name: &str) -> Result<Option<String>, KerasError> {
    let Some(mut values) = strings(attributes, object, name)? else { return Ok(None) };
    match (values.pop(), values.is_empty()) {
        (Some(value), true) => Ok(Some(value)),
        _ => Err(KerasError::Attribute {
            object: shown(object),
            name: name.to_owned(),
            what: "holds several texts or none, expected one".to_owned(),
        }),
    }
}

fn shown(object: &str) -> String {
    if object.is_empty() { "/".to_owned() } else { object.to_owned() }
}
