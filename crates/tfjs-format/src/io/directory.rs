//! Models on a file system.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    LoadOptions, ModelSink, ModelSource, ModelText, Progress, Unfinished, check_path, map_file, uninterrupted,
};
use crate::{FormatError, ModelJson};

const MODEL_JSON: &str = "model.json";
const MANIFEST: &str = "weights_manifest.json";
const LEGACY_GRAPH: &str = "tensorflowjs_model.pb";

/// A model on a file system.
#[derive(Clone)]
pub struct FileSource {
    model: PathBuf,
    /// The graph of a model before TF.js 1.0 has its manifest in a second file.
    manifest: Option<PathBuf>,
    weights: Weights,
    progress: Option<Progress>,
}

/// How weight paths become file paths.
#[derive(Clone)]
enum Weights {
    In(PathBuf),
    Prefixed(String),
}

impl FileSource {
    /// Opens a model by the path of its `model.json`, of a `weights_manifest.json`, of a
    /// `tensorflowjs_model.pb` with the manifest beside it, or of the directory that holds one of them.
    ///
    /// # Errors
    /// When there is no such file, or none or several candidates in the directory.
    pub fn open(path: impl AsRef<Path>) -> Result<FileSource, FormatError> {
        FileSource::open_with(path, &LoadOptions::default())
    }

    /// As [`FileSource::open`], with options.
    ///
    /// # Errors
    /// Also when an option is given that has a meaning for HTTP only.
    pub fn open_with(path: impl AsRef<Path>, options: &LoadOptions) -> Result<FileSource, FormatError> {
        let path = path.as_ref();
        let http_only = [
            ("headers", !options.headers.is_empty()),
            ("credentials", options.credentials.is_some()),
            ("weight_url_converter", options.weight_url_converter.is_some()),
            ("from_tf_hub", options.from_tf_hub),
        ];
        if let Some((option, _)) = http_only.into_iter().find(|&(_, given)| given) {
            return Err(FormatError::OptionNeedsHttp { option, path: path.display().to_string() });
        }
        let metadata =
            fs::metadata(path).map_err(|e| FormatError::io("read", path.display().to_string(), e))?;
        let model = if metadata.is_dir() { find_model(path)? } else { path.to_owned() };
        let dir = model.parent().map(Path::to_owned).unwrap_or_default();
        let is_graph = model.extension().is_some_and(|extension| extension == "pb");
        let manifest = Some(dir.join(MANIFEST)).filter(|manifest| is_graph && manifest.is_file());
        let weights = match &options.weight_path_prefix {
            Some(prefix) => Weights::Prefixed(prefix.clone()),
            None => Weights::In(dir),
        };
        Ok(FileSource { model, manifest, weights, progress: options.on_progress.clone() })
    }

    /// The model's main file.
    pub fn path(&self) -> &Path {
        &self.model
    }

    fn file(&self, path: &str) -> PathBuf {
        match &self.weights {
            Weights::In(dir) => dir.join(path),
            Weights::Prefixed(prefix) => PathBuf::from(format!("{prefix}{path}")),
        }
    }
}

fn find_model(dir: &Path) -> Result<PathBuf, FormatError> {
    for name in [MODEL_JSON, LEGACY_GRAPH, MANIFEST] {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let failed = |e| FormatError::io("read", dir.display().to_string(), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            found.push(name);
        }
    }
    found.sort();
    let mut named_so = found.iter().filter(|name| name.starts_with("model"));
    match (found.as_slice(), named_so.next(), named_so.next()) {
        ([only], _, _) | (_, Some(only), None) => Ok(dir.join(only)),
        _ => Err(FormatError::NoModelInDirectory { path: dir.display().to_string(), found }),
    }
}

impl ModelSource for FileSource {
    fn name(&self) -> String {
        self.model.display().to_string()
    }

    fn model(&self) -> Result<ModelText, FormatError> {
        let text = map_file(&self.model)?;
        Ok(match &self.manifest {
            Some(manifest) => ModelText::Legacy { graph: text, manifest: map_file(manifest)? },
            None => ModelText::Json(text),
        })
    }

    fn shard(&self, path: &str) -> Result<Bytes, FormatError> {
        map_file(self.file(path))
    }

    fn stream(&self, path: &str) -> Result<Box<dyn Read + Send>, FormatError> {
        let path = self.file(path);
        let file = File::open(&path).map_err(|e| FormatError::io("read", path.display().to_string(), e))?;
        Ok(Box::new(file))
    }

    fn shard_name(&self, path: &str) -> String {
        self.file(path).display().to_string()
    }

    fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }
}

/// Writes a model into a directory, all or nothing.
///
/// Files are written into a temporary directory beside their destination. [`ModelSink::finish`] renames it,
/// or, when the destination exists already, moves the files one by one, `model.json` last, and then removes
/// shards that only the model of that name before it had.
pub struct DirectorySink {
    target: PathBuf,
    model_name: String,
    temporary: Option<TempDir>,
    unfinished: Option<Unfinished>,
    written: BTreeSet<String>,
    current: Option<(PathBuf, File)>,
    /// Files of the model that is to be replaced, if it has to stay whole until that is done.
    kept: Option<BTreeSet<String>>,
}

impl DirectorySink {
    /// A sink for `directory`, which is made if necessary.
    ///
    /// # Errors
    /// When the directory cannot be made or is a file.
    pub fn create(directory: impl Into<PathBuf>) -> Result<DirectorySink, FormatError> {
        let target = directory.into();
        let failed = |path: &Path, e| FormatError::io("write", path.display().to_string(), e);
        // Beside files of an existing directory they are surely on the same file system.
        let beside = match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => target.as_path(),
            Ok(_) => return Err(failed(&target, std::io::ErrorKind::NotADirectory.into())),
            Err(_) => match target.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => target.as_path(),
            },
        };
        fs::create_dir_all(beside).map_err(|e| failed(beside, e))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tfjs-");
        // The directory itself becomes the target, so it gets the permissions of any new directory.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let temporary = builder.tempdir_in(beside).map_err(|e| failed(beside, e))?;
        Ok(DirectorySink {
            target,
            model_name: MODEL_JSON.to_owned(),
            unfinished: Some(Unfinished::new(temporary.path())),
            temporary: Some(temporary),
            written: BTreeSet::new(),
            current: None,
            kept: None,
        })
    }

    /// Lets the model that is there be whole until the new one takes its place in a single step, which is the renaming of
    /// `model.json`: whoever loads it, and whenever a program or machine stops, there is one of the two. For that, weight
    /// files do not take the names of those that are there; those have `-2` in their names or lose it in turn.
    #[must_use]
    pub fn replacing_at_once(mut self) -> DirectorySink {
        self.kept = Some(self.shards_of_the_model_before());
        self
    }

    /// Gives the model's text another name than `model.json`.
    #[must_use]
    pub fn model_name(mut self, name: impl Into<String>) -> DirectorySink {
        self.model_name = name.into();
        self
    }

    fn temporary(&self) -> Result<&Path, FormatError> {
        self.temporary.as_ref().map(TempDir::path).ok_or(FormatError::NoShardBegun)
    }

    /// Ends the file in work. One that replaces another at once has to be on the disk before.
    fn complete(&mut self) -> Result<(), FormatError> {
        match self.current.take() {
            Some((path, file)) if self.kept.is_some() => {
                file.sync_all().map_err(|e| FormatError::io("write", path.display().to_string(), e))
            }
            _ => Ok(()),
        }
    }

    fn put_in_place(&mut self, temporary: &Path) -> Result<(), FormatError> {
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|e| FormatError::io("rename", to.display().to_string(), e))
        };
        if !self.target.exists() {
            rename(temporary, &self.target)?;
            // Nothing is left to remove.
            if let Some(moved) = self.temporary.take() {
                let _ = moved.keep();
            }
            return Ok(());
        }
        let stale = self.shards_of_the_model_before();
        for path in self.written.iter().filter(|path| **path != self.model_name) {
            let to = self.target.join(path);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)
                    .map_err(|e| FormatError::io("write", parent.display().to_string(), e))?;
            }
            rename(&temporary.join(path), &to)?;
        }
        rename(&temporary.join(&self.model_name), &self.target.join(&self.model_name))?;
        for path in stale.difference(&self.written) {
            match fs::remove_file(self.target.join(path)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FormatError::io("remove", self.target.join(path).display().to_string(), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Files with names as converters give them that the model to be replaced lists.
    fn shards_of_the_model_before(&self) -> BTreeSet<String> {
        let Ok(text) = fs::read(self.target.join(&self.model_name)) else { return BTreeSet::new() };
        let Ok(model) = ModelJson::parse(&text) else { return BTreeSet::new() };
        let paths = model.weights_manifest.into_iter().flat_map(|group| group.paths);
        paths.filter(|path| is_shard_name(path)).collect()
    }
}

/// Whether a name is `group<n>-shard<n>of<n>` with or without `-2` and `.bin`.
fn is_shard_name(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let name = name.strip_suffix(".bin").unwrap_or(name);
    let name = name.strip_suffix("-2").unwrap_or(name);
    name.strip_prefix("group")
        .and_then(|rest| rest.split_once("-shard"))
        .and_then(|(group, rest)| Some((group, rest.split_once("of")?)))
        .is_some_and(|(group, (shard, of))| digits(group) && digits(shard) && digits(of))
}

impl ModelSink for DirectorySink {
    fn path_for(&self, path: &str) -> String {
        match path.strip_suffix(".bin") {
            Some(stem) if self.kept.as_ref().is_some_and(|kept| kept.contains(path)) => {
                format!("{stem}-2.bin")
            }
            _ => path.to_owned(),
        }
    }

    fn begin(&mut self, path: &str) -> Result<(), FormatError> {
        check_path(path)?;
        let file_path = self.temporary()?.join(path);
        let failed = |e| FormatError::io("write", file_path.display().to_string(), e);
        if let Some(parent) = file_path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = File::create(&file_path).map_err(failed)?;
        self.complete()?;
        self.written.insert(path.to_owned());
        self.current = Some((file_path, file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let (path, file) = self.current.as_mut().ok_or(FormatError::NoShardBegun)?;
        file.write_all(bytes).map_err(|e| FormatError::io("write", path.display().to_string(), e))
    }

    fn finish(&mut self, model_json: &str) -> Result<(), FormatError> {
        let name = self.model_name.clone();
        self.begin(&name)?;
        self.write(model_json.as_bytes())?;
        self.complete()?;
        let temporary = self.temporary()?.to_owned();
        let whole = uninterrupted();
        let result = self.put_in_place(&temporary);
        drop(whole);
        self.temporary = None;
        self.unfinished = None;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::is_shard_name;

    #[test]
    fn only_names_of_converters_count_as_shards() {
        for name in
            ["group1-shard1of1.bin", "group12-shard3of40.bin", "group1-shard1of1", "group1-shard1of1-2.bin"]
        {
            assert!(is_shard_name(name), "{name}");
        }
        for name in ["weights.bin", "group1-shard1of.bin", "group-shard1of1.bin", "a/group1-shard1of1.bin"] {
            assert!(!is_shard_name(name), "{name}");
        }
    }
}
