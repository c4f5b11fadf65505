//! Where models come from and go to: directories, memory, HTTP.
//!
//! A [`ModelSource`] gives the text of a model and its weight files; a [`ModelSink`] takes them. This module
//! is the only one of the crate that opens files.
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;

use crate::{FormatError, ModelJson};

mod directory;
#[cfg(feature = "http")]
mod http;
mod map;
mod memory;
mod unfinished;

pub use directory::{DirectorySink, FileSource};
#[cfg(feature = "http")]
pub use http::HttpSource;
pub use map::map_file;
pub use memory::{MemoryModel, MemorySink};
pub use unfinished::{Unfinished, Uninterrupted, discard_unfinished, uninterrupted};

/// A model that can be read.
pub trait ModelSource: Send + Sync {
    /// Path or address of the model's main file, for messages.
    fn name(&self) -> String;

    /// The text of the model, without weights.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn model(&self) -> Result<ModelText, FormatError>;

    /// All bytes of a weight file: mapped where possible.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn shard(&self, path: &str) -> Result<Bytes, FormatError>;

    /// A weight file, to be read from its beginning.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn stream(&self, path: &str) -> Result<Box<dyn Read + Send>, FormatError>;

    /// Path or address of a weight file, for messages.
    fn shard_name(&self, path: &str) -> String;

    /// Who wants to know how far loading has come.
    fn progress(&self) -> Option<&Progress> {
        None
    }
}

/// The text of a model, as it was found.
#[derive(Clone, Debug)]
pub enum ModelText {
    /// A `model.json`, or a `weights_manifest.json` alone.
    Json(Bytes),
    /// The two files of TF.js before 1.0.
    Legacy {
        /// `tensorflowjs_model.pb`
        graph: Bytes,
        /// `weights_manifest.json`
        manifest: Bytes,
    },
}

/// A model that can be written: weight files first, the model's text last.
pub trait ModelSink: Send {
    /// The path to take for a weight file that would have this one, if it must be another.
    fn path_for(&self, path: &str) -> String {
        path.to_owned()
    }

    /// Begins a file; the one before it is complete.
    ///
    /// # Errors
    /// When the path leads elsewhere than below the model, or the file cannot be made.
    fn begin(&mut self, path: &str) -> Result<(), FormatError>;

    /// Appends to the file begun last.
    ///
    /// # Errors
    /// When writing fails or no file was begun.
    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError>;

    /// Writes the model's text and puts everything in place. Without it nothing is left behind.
    ///
    /// # Errors
    /// When writing or renaming fails.
    fn finish(&mut self, model_json: &str) -> Result<(), FormatError>;
}

/// Receives a fraction from 0 to 1.
pub type Progress = Arc<dyn Fn(f64) + Send + Sync>;

/// Gives the address of a weight file by its path in the manifest.
pub type UrlConverter = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// How to load a model: the options of TF.js's `loadGraphModel` and `loadLayersModel`.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// HTTP headers sent with every request.
    pub headers: Vec<(String, String)>,
    /// HTTP credentials sent with every request.
    pub credentials: Option<Credentials>,
    /// Stands before every weight path, in place of the model's directory (with its `/` at the end).
    pub weight_path_prefix: Option<String>,
    /// HTTP only: gives the whole address of a weight file.
    pub weight_url_converter: Option<UrlConverter>,
    /// HTTP only: the address is that of a TF-Hub model, not of its `model.json`.
    pub from_tf_hub: bool,
    /// Decode weights one by one while they arrive instead of holding the files first.
    pub stream_weights: bool,
    /// Layers models only: every weight of the file must belong to a layer. On by default in TF.js.
    pub strict: Option<bool>,
    /// Told the fraction of weight files that have arrived.
    pub on_progress: Option<Progress>,
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            // Values of headers can be secrets.
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("credentials", &self.credentials)
            .field("weight_path_prefix", &self.weight_path_prefix)
            .field("weight_url_converter", &self.weight_url_converter.is_some())
            .field("from_tf_hub", &self.from_tf_hub)
            .field("stream_weights", &self.stream_weights)
            .field("strict", &self.strict)
            .field("on_progress", &self.on_progress.is_some())
            .finish()
    }
}

/// HTTP credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `Authorization: Basic …`
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// `Authorization: Bearer …`
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Basic { .. } => "Basic(…)",
            Credentials::Bearer(_) => "Bearer(…)",
        })
    }
}

/// Opens a model by path (of its file or directory, also as `file://…`) or by HTTP address.
///
/// # Errors
/// When nothing is there, when options do not fit, or when an address is given to a build without HTTP.
pub fn open(location: &str, options: &LoadOptions) -> Result<Box<dyn ModelSource>, FormatError> {
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| location.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    if !is_url {
        let location = location.strip_prefix("file://").unwrap_or(location);
        return Ok(Box::new(FileSource::open_with(location, options)?));
    }
    #[cfg(feature = "http")]
    return Ok(Box::new(HttpSource::new(location, options.clone())));
    #[cfg(not(feature = "http"))]
    Err(FormatError::NoHttp { url: location.to_owned() })
}

impl ModelJson {
    /// Reads the text of a model, current or old.
    ///
    /// # Errors
    /// When it cannot be reached, and as for [`ModelJson::parse`]; the error names the file.
    pub fn load(source: &dyn ModelSource) -> Result<ModelJson, FormatError> {
        let model = match source.model()? {
            ModelText::Json(text) => ModelJson::parse(&text),
            ModelText::Legacy { graph, manifest } => ModelJson::from_legacy(graph, &manifest),
        };
        model.map_err(|error| error.in_file(source.name()))
    }
}

/// Refuses paths that lead out of the model's directory.
///
/// # Errors
/// When the path is empty, absolute, or has a `..` component.
pub fn check_path(path: &str) -> Result<(), FormatError> {
    let bad = |reason| Err(FormatError::BadPath { path: path.to_owned(), reason });
    let bytes = path.as_bytes();
    if path.is_empty() {
        bad("it is empty")
    } else if path.contains('\0') {
        bad("it contains a NUL byte")
    } else if path.starts_with(['/', '\\']) || bytes.get(1) == Some(&b':') || path.contains("://") {
        bad("it is absolute, expected a path relative to the model")
    } else if path.split(['/', '\\']).any(|part| part == "..") {
        bad("it leads out of the model's directory")
    } else {
        Ok(())
    }
}
