//! Session bundles, the exports of TensorFlow before SavedModel: `export.meta` and a checkpoint of either format.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;

use super::{
    checkpoint_v1::CheckpointV1,
    frozen::by_node_names,
    import::{Checkpoint, Imported, Variables},
    restore::restored,
    saved_model::{Selection, import, open_checkpoint},
    skim,
};
use crate::{ConvertError, proto::MetaGraphDef};

/// Reads a session bundle: its directory, or the path of its `.meta` file.
///
/// What is fetched are the nodes of `outputs`; without any, the signature of `selection`, if the file has one.
///
/// # Errors
/// When files are missing or malformed, or an output does not exist.
pub fn read(path: &Path, outputs: &[String], selection: &Selection<'_>) -> Result<Imported, ConvertError> {
    let (mut meta, contents) = load(path)?;
    let file = meta_file(path);
    let prefix = file.with_extension("");
    let checkpoint = open_either(&prefix)?;
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut imported = if outputs.is_empty() {
        import(dir, meta, selection.signature)?
    } else {
        let graph = meta.graph_def.take().unwrap_or_default();
        let signature = by_node_names(&graph, outputs, &file)?;
        let restored = restored(&graph, &meta.saver_def.map(|s| s.restore_op_name).unwrap_or_default());
        let variables = Variables { checkpoint: None, stored: restored.variables, tables: restored.tables };
        let tensorflow_version = meta.meta_info_def.map(|i| i.tensorflow_version).unwrap_or_default();
        Imported { graph, signature, variables, tensorflow_version, ..Imported::default() }
    };
    imported.variables.checkpoint = checkpoint;
    imported.contents = contents;
    Ok(imported)
}

/// The message of the `.meta` file; large constants are left in the file.
///
/// # Errors
/// When it cannot be read or decoded.
pub fn load(path: &Path) -> Result<(MetaGraphDef, skim::Contents), ConvertError> {
    let file = meta_file(path);
    let (bytes, contents) = skim::skim(&file, &skim::META_GRAPH)?;
    let meta = MetaGraphDef::decode(bytes).map_err(|source| ConvertError::Decode {
        path: file,
        what: "MetaGraphDef",
        source,
    })?;
    Ok((meta, contents))
}

fn meta_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("export.meta") } else { path.to_path_buf() }
}

/// A TensorBundle if there is an index, else the shards of a checkpoint of the first format.
fn open_either(prefix: &Path) -> Result<Option<Arc<Checkpoint>>, ConvertError> {
    if let Some(checkpoint) = open_checkpoint(prefix)? {
        return Ok(Some(checkpoint));
    }
    let files = v1_files(prefix)?;
    if files.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Checkpoint::V1(CheckpointV1::open(&files)?))))
}

/// `<prefix>-00000-of-00002`, …, or `<prefix>` itself.
fn v1_files(prefix: &Path) -> Result<Vec<PathBuf>, ConvertError> {
    let dir = prefix.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrap = |source| ConvertError::Io { path: dir.to_path_buf(), source };
    let stem = prefix.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut shards = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let is_shard = name.strip_prefix(&stem).is_some_and(|rest| {
            let of = rest.strip_prefix('-').and_then(|r| r.split_once("-of-"));
            of.is_some_and(|(i, n)| {
                [i, n].iter().all(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
            })
        });
        if is_shard || name == stem && path.is_file() {
            shards.insert(name, path);
        }
    }
    Ok(shards.into_values().collect())
}
