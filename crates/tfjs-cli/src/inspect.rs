//! What is in a model, whatever its format.

mod layers;
mod target;
mod tensorflow;
mod tfjs;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use tfjs_convert::{ConvertOptions, InputFormat};
use tfjs_format::{
    DType,
    proto::{DataType, TensorShapeProto},
};

pub(crate) use self::target::{Finding, Target, TargetReport};
use crate::{CliError, show};

/// All that is told about a model.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) path: String,
    /// By the names of the converter's formats.
    pub(crate) format: &'static str,
    /// The format in words.
    #[serde(skip)]
    pub(crate) about: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generated_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) converted_by: Option<String>,
    /// Of the signature that is taken when none is named.
    pub(crate) inputs: Vec<TensorReport>,
    pub(crate) outputs: Vec<TensorReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) signatures: Vec<SignatureReport>,
    pub(crate) nodes: usize,
    pub(crate) functions: usize,
    pub(crate) ops: Histogram,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<LayerReport>,
    /// Elements of all weights of floating or complex type.
    pub(crate) parameters: u64,
    pub(crate) weights: Weights,
    /// Bytes of all files.
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) metadata: Vec<String>,
    /// What stands in the way of running or converting.
    pub(crate) problems: Vec<String>,
    /// What cannot run on the targets that were asked about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) targets: Vec<TargetReport>,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TensorReport {
    /// Signature key; the node's name without a signature.
    pub(crate) name: String,
    pub(crate) tensor: String,
    pub(crate) dtype: Option<String>,
    pub(crate) shape: Option<Vec<Option<usize>>>,
}

/// A signature of a SavedModel.
#[derive(Debug, Serialize)]
pub(crate) struct SignatureReport {
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) inputs: Vec<TensorReport>,
    pub(crate) outputs: Vec<TensorReport>,
}

/// A layer of a Keras model.
#[derive(Debug, Serialize)]
pub(crate) struct LayerReport {
    pub(crate) name: String,
    pub(crate) class_name: String,
    pub(crate) parameters: u64,
}

/// Weights, variables and constants by type.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Weights {
    pub(crate) count: usize,
    pub(crate) bytes: u64,
    pub(crate) by_dtype: BTreeMap<String, Amount>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Amount {
    pub(crate) count: usize,
    pub(crate) elements: u64,
    pub(crate) bytes: u64,
}

/// How often each op occurs, commonest first.
#[derive(Debug, Default)]
pub(crate) struct Histogram(pub(crate) Vec<(String, usize)>);

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (op, count) in &self.0 {
            map.serialize_entry(op, count)?;
        }
        map.end()
    }
}

impl<'a> FromIterator<&'a str> for Histogram {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ops: I) -> Histogram {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for op in ops {
            *counts.entry(op).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().map(|(op, n)| (op.to_owned(), n)).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Histogram(counts)
    }
}

impl Report {
    fn new(path: &str, format: &'static str, about: impl Into<String>) -> Report {
        Report { path: path.to_owned(), format, about: about.into(), ..Report::default() }
    }

    /// Says what targets make of a model that is converted for them.
    fn compare(&mut self, options: &ConvertOptions, targets: &[Target]) {
        if targets.is_empty() {
            return;
        }
        match tfjs_convert::compare(options) {
            Ok(graphs) => self.targets.extend(targets.iter().map(|t| t.of_source(&graphs))),
            Err(e) => {
                let problem = format!("targets cannot be compared: {}", layers::chain(&e));
                self.problems.push(problem);
            }
        }
    }

    /// Counts a weight.
    fn weigh(&mut self, dtype: &str, float: bool, elements: u64, bytes: u64) {
        if float {
            self.parameters = self.parameters.saturating_add(elements);
        }
        self.weights.count += 1;
        self.weights.bytes = self.weights.bytes.saturating_add(bytes);
        let amount = self.weights.by_dtype.entry(dtype.to_owned()).or_default();
        amount.count += 1;
        amount.elements = amount.elements.saturating_add(elements);
        amount.bytes = amount.bytes.saturating_add(bytes);
    }
}

/// What a path holds.
pub(crate) enum Kind {
    Tfjs,
    TensorFlow(InputFormat, PathBuf),
    Keras(InputFormat),
}

/// Looks into a model.
///
/// # Errors
/// When nothing is there or a file is malformed.
pub(crate) fn report(location: &str, targets: &[Target]) -> Result<Report, CliError> {
    match detect(location)? {
        Kind::Tfjs => tfjs::report(location, targets),
        Kind::TensorFlow(format, path) => tensorflow::report(location, format, &path, targets),
        Kind::Keras(format) => {
            let about = match format {
                InputFormat::KerasKeras => "Keras file (.keras)",
                _ => "Keras HDF5 file",
            };
            layers::report(location, format, about, targets)
        }
    }
}

pub(crate) fn detect(location: &str) -> Result<Kind, CliError> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Ok(Kind::Tfjs);
    }
    let path = Path::new(location);
    if path.is_dir() {
        let has = |name: &str| path.join(name).is_file();
        let format = if has("tfhub_module.pb") {
            InputFormat::TfHub
        } else if has("saved_model.pb") || has("saved_model.pbtxt") {
            InputFormat::TfSavedModel
        } else if has("export.meta") {
            InputFormat::TfSessionBundle
        } else if has("config.json") && !has("model.json") {
            return Ok(Kind::Keras(InputFormat::KerasKeras));
        } else {
            return Ok(Kind::Tfjs);
        };
        return Ok(Kind::TensorFlow(format, path.to_owned()));
    }
    let mut start = Vec::new();
    let failed = |source| CliError::File { action: "read", path: path.to_owned(), source };
    File::open(path).map_err(failed)?.take(64).read_to_end(&mut start).map_err(failed)?;
    let text = start.iter().copied().find(|b| !b.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(b));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
    // What only bears the name of a Keras file is said to be none when it is opened.
    Ok(if start.starts_with(b"\x89HDF\r\n\x1a\n") || ends(&[".h5", ".hdf5", ".weights.json"]) {
        Kind::Keras(InputFormat::Keras)
    } else if start.starts_with(b"PK\x03\x04") || ends(&[".keras"]) {
        Kind::Keras(InputFormat::KerasKeras)
    } else if name.starts_with("saved_model.pb") {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Kind::TensorFlow(InputFormat::TfSavedModel, parent.to_owned())
    } else if name.ends_with(".meta") {
        Kind::TensorFlow(InputFormat::TfSessionBundle, path.to_owned())
    } else if name == "tensorflowjs_model.pb" || name.ends_with(".json") || matches!(text, Some(b'{' | b'['))
    {
        Kind::Tfjs
    } else {
        Kind::TensorFlow(InputFormat::TfFrozenModel, path.to_owned())
    })
}

/// Bytes of a file, or of all files below a directory.
fn size(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if !metadata.is_dir() {
        return path.metadata().map_or(0, |m| m.len());
    }
    let entries = path.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).fold(0, u64::saturating_add)
}

/// The run-time type that stands for TensorFlow's, or TensorFlow's own name where there is none.
fn dtype_name(dtype: DataType) -> Option<String> {
    match DType::from_proto(dtype) {
        Some(dtype) => Some(dtype.name().to_owned()),
        None if dtype == DataType::DtInvalid => None,
        None => Some(dtype.as_str_name().to_owned()),
    }
}

fn dims(shape: Option<&TensorShapeProto>) -> Option<Vec<Option<usize>>> {
    let shape = shape.filter(|shape| !shape.unknown_rank)?;
    Some(shape.dim.iter().map(|dim| usize::try_from(dim.size).ok()).collect())
}

impl TensorReport {
    /// `image  float32[?, 8, 8, 1]`
    pub(crate) fn kind(&self) -> String {
        let dtype = self.dtype.as_deref().unwrap_or("any type");
        let shape = self.shape.as_deref().map_or_else(|| " of any shape".to_owned(), show::shape);
        format!("{dtype}{shape}")
    }
}
