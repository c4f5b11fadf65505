//! Models and weights in several files beside each other.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Assets, KerasError,
    blob::Blob,
    file::{ByPath, KerasFile, in_file, json},
    h5::H5File,
    npz,
};
use crate::ConvertError;

type Result<T> = std::result::Result<T, ConvertError>;

const CONFIG: &str = "config.json";
const ASSETS: &str = "assets";

/// How deep folders of assets are, at most.
const MAX_DEPTH: usize = 16;

/// Whether a directory holds what `.keras` archives hold (`zipped=False`).
pub(super) fn is_model(path: &Path) -> bool {
    path.join(CONFIG).is_file() && !path.join("saved_model.pb").exists()
}

/// Reads the contents of a `.keras` archive from a directory.
pub(super) fn read(path: &Path) -> Result<KerasFile> {
    let parsed = |name: &str| -> Result<Value> {
        let file = path.join(name);
        json(Blob::open(&file)?.bytes(), name).map_err(|e| in_file(&file, e))
    };
    let config = parsed(CONFIG)?;
    let metadata = match path.join("metadata.json").is_file() {
        true => match parsed("metadata.json")? {
            Value::Object(map) => map,
            _ => Map::new(),
        },
        false => Map::new(),
    };
    let (h5, npz) = (path.join("model.weights.h5"), path.join("model.weights.npz"));
    let weights = if !h5.is_file() && npz.is_file() {
        let file: Arc<Path> = npz.as_path().into();
        let mut read = ByPath::default();
        let weights = Blob::open(&npz).and_then(|blob| {
            npz::read(&super::archive::Archive::open(blob).map_err(|e| in_file(&file, e))?, &file)
                .map_err(|e| in_file(&file, e))
        })?;
        for weight in weights {
            read.list(&weight.name).push(weight);
        }
        read
    } else {
        weights(&h5)?
    };
    let mut assets = BTreeMap::new();
    let folder = path.join(ASSETS);
    if folder.is_dir() {
        collect(&folder, "", &mut assets, 0)?;
    }
    Ok(KerasFile {
        keras_version: metadata.get("keras_version").and_then(Value::as_str).map(str::to_owned),
        training_config: config.get("compile_config").filter(|c| !c.is_null()).cloned(),
        config: Some(config),
        metadata,
        assets: Assets::in_memory(assets),
        ..weights.into_file()
    })
}

fn weights(path: &Path) -> Result<ByPath> {
    let file: Arc<Path> = path.into();
    let wrong = |e| in_file(&file, e);
    let h5 = H5File::open(Blob::open(path)?).map_err(wrong)?;
    let tree = h5.tree("").map_err(wrong)?;
    ByPath::read(&h5, &tree, &file).map_err(wrong)
}

/// Files below a folder, by their paths in it. Links are not followed.
fn collect(folder: &Path, prefix: &str, into: &mut BTreeMap<String, Bytes>, depth: usize) -> Result<()> {
    let failed = |source| ConvertError::Io { path: folder.to_path_buf(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        if kind.is_dir() && depth < MAX_DEPTH {
            collect(&entry.path(), &format!("{name}/"), into, depth + 1)?;
        } else if kind.is_file() {
            into.insert(name, tfjs_format::io::map_file(entry.path())?);
        }
    }
    Ok(())
}

/// The list of shards in a `.weights.json` file: which file has the variables of which object.
pub(super) fn shard_map(text: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice::<Value>(text).ok()?.get_mut("weight_map")?.take() {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// Reads weights in several files, which lie beside the list.
pub(super) fn read_shards(map: &Map<String, Value>, path: &Path) -> Result<KerasFile> {
    let wrong = |what: String| in_file(path, KerasError::Shards { what });
    let mut names: Vec<&str> = Vec::new();
    for (object, files) in map {
        let files = match files {
            Value::Array(files) => files.iter().collect(),
            one => vec![one],
        };
        for file in files {
            let name = file.as_str().ok_or_else(|| wrong(format!("`{object}` has no list of files")))?;
            if Path::new(name).file_name() != Some(name.as_ref()) || name.contains(['/', '\\']) {
                return Err(wrong(format!("`{name}` does not lie beside it, and is never opened")));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let mut all = ByPath::default();
    let mut taken = HashSet::new();
    for name in names {
        let shard = weights(&path.with_file_name(name))?;
        for weight in shard.all() {
            if !taken.insert(weight.name.clone()) {
                return Err(wrong(format!("weight `{}` is in two files", weight.name)));
            }
        }
        all.append(shard);
    }
    Ok(all.into_file())
}
