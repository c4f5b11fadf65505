//! SavedModel of TensorFlow 1 and 2: `saved_model.pb` or `.pbtxt`, `variables/`, `assets/`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;

use super::{
    bundle::{Bundle, suffixed},
    import::{Checkpoint, Imported, Signature, Variables},
    restore::{node_name, restored},
    skim, text_format,
};
use crate::{
    ConvertError,
    proto::{AssetFileDef, MetaGraphDef, SavedModel, collection_def::Kind, tensor_info::Encoding},
};

const INIT_SIGNATURE: &str = "__saved_model_init_op";

/// Which graph of a SavedModel, and which of its signatures.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// All tags of the meta graph.
    pub tags: &'a [String],
    /// Signature key.
    pub signature: &'a str,
}

/// Reads the chosen signature of the SavedModel in `dir`.
///
/// # Errors
/// When there is no SavedModel, tags or signature do not exist, or a file is malformed.
pub fn read(dir: &Path, selection: &Selection<'_>) -> Result<Imported, ConvertError> {
    let (model, contents) = load(dir)?;
    let meta = meta_graph(model, selection.tags)?;
    let mut imported = import(dir, meta, selection.signature)?;
    imported.contents = contents;
    Ok(imported)
}

/// The message of `saved_model.pb` or `saved_model.pbtxt`; large constants are left in the file.
///
/// # Errors
/// When there is neither, or it is malformed.
pub fn load(dir: &Path) -> Result<(SavedModel, skim::Contents), ConvertError> {
    let binary = dir.join("saved_model.pb");
    if binary.is_file() {
        let (bytes, contents) = skim::skim(&binary, &skim::SAVED_MODEL)?;
        let model = SavedModel::decode(bytes).map_err(|source| ConvertError::Decode {
            path: binary,
            what: "SavedModel",
            source,
        })?;
        return Ok((model, contents));
    }
    let text = dir.join("saved_model.pbtxt");
    if text.is_file() {
        let content =
            fs::read_to_string(&text).map_err(|source| ConvertError::Io { path: text.clone(), source })?;
        let model = text_format::decode(&content, "SavedModel").map_err(|e| e.in_file(&text))?;
        return Ok((model, skim::Contents::default()));
    }
    Err(ConvertError::NoSavedModel { path: dir.to_path_buf() })
}

/// The meta graph whose tags are exactly `tags`.
///
/// # Errors
/// [`ConvertError::NoSuchTags`], which lists those that exist.
pub fn meta_graph(model: SavedModel, tags: &[String]) -> Result<MetaGraphDef, ConvertError> {
    let sorted = |tags: &[String]| {
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        tags.dedup();
        tags
    };
    let wanted = sorted(tags);
    let of = |meta: &MetaGraphDef| meta.meta_info_def.as_ref().map(|i| i.tags.clone()).unwrap_or_default();
    let available = model.meta_graphs.iter().map(|m| of(m).join(",")).collect();
    model
        .meta_graphs
        .into_iter()
        .find(|m| sorted(&of(m)) == wanted)
        .ok_or_else(|| ConvertError::NoSuchTags { tags: tags.join(","), available })
}

/// A signature of a meta graph with all that its graph refers to.
pub(super) fn import(dir: &Path, mut meta: MetaGraphDef, signature: &str) -> Result<Imported, ConvertError> {
    let def = meta.signature_def.get(signature).ok_or_else(|| ConvertError::NoSuchSignature {
        signature: signature.to_owned(),
        available: meta.signature_def.keys().filter(|k| *k != INIT_SIGNATURE).cloned().collect(),
    })?;
    let signature = Signature::from_proto(def, signature)?;
    let init_ops = init_ops(&meta);
    let assets = assets(dir, &meta);
    let graph = meta.graph_def.take().unwrap_or_default();
    let restore_op = meta.saver_def.map(|s| s.restore_op_name).unwrap_or_default();
    let restored = restored(&graph, &restore_op);
    let checkpoint = open_checkpoint(&dir.join("variables").join("variables"))?;
    Ok(Imported {
        graph,
        signature,
        variables: Variables { checkpoint, stored: restored.variables, tables: restored.tables },
        init_ops,
        assets,
        tensorflow_version: meta.meta_info_def.map(|i| i.tensorflow_version).unwrap_or_default(),
        ..Imported::default()
    })
}

/// The TensorBundle of a prefix; a model without variables has none.
pub(super) fn open_checkpoint(prefix: &Path) -> Result<Option<Arc<Checkpoint>>, ConvertError> {
    if !suffixed(prefix, ".index").is_file() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Checkpoint::Bundle(Bundle::open(prefix)?))))
}

/// Ops that the loader of TensorFlow runs once: from a signature (2.x) or collections (1.x).
fn init_ops(meta: &MetaGraphDef) -> Vec<String> {
    let mut ops = Vec::new();
    if let Some(info) = meta.signature_def.get(INIT_SIGNATURE).and_then(|s| s.outputs.get(INIT_SIGNATURE))
        && let Some(Encoding::Name(name)) = &info.encoding
    {
        ops.push(node_name(name).to_owned());
    }
    for collection in ["saved_model_main_op", "legacy_init_op", "init_op", "table_initializer"] {
        if let Some(Kind::NodeList(list)) = meta.collection_def.get(collection).and_then(|c| c.kind.as_ref())
        {
            ops.extend(list.value.iter().map(|name| node_name(name).to_owned()));
        }
    }
    ops.sort_unstable();
    ops.dedup();
    ops
}

/// Paths of the asset files by the node whose value they replace.
fn assets(dir: &Path, meta: &MetaGraphDef) -> HashMap<String, PathBuf> {
    let mut defs = meta.asset_file_def.clone();
    if let Some(Kind::AnyList(list)) =
        meta.collection_def.get("saved_model_assets").and_then(|c| c.kind.as_ref())
    {
        defs.extend(list.value.iter().filter_map(|any| AssetFileDef::decode(any.value.clone()).ok()));
    }
    let mut files = HashMap::new();
    for def in defs {
        let Some(Encoding::Name(tensor)) = def.tensor_info.and_then(|i| i.encoding) else { continue };
        if let Some(path) = asset_path(dir, &def.filename) {
            files.insert(node_name(&tensor).to_owned(), path);
        }
    }
    files
}

/// An asset's path. Only plain names below `assets/`: a file of the model, not one of the machine.
pub(crate) fn asset_path(dir: &Path, name: &str) -> Option<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    plain.then(|| dir.join("assets").join(relative))
}
