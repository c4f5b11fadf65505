use std::io;

use crate::{DType, Storage};

/// What can be wrong with a model on disk, or with reaching it.
///
/// Every variant is one cause; [`FormatError::InFile`] says in which file it was found. Sources chain, so
/// that a caller prints the whole story by walking [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Wraps the cause with the file it was found in.
    #[error("in {file}")]
    InFile {
        /// Path or address.
        file: String,
        /// The cause.
        source: Box<FormatError>,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write`, `rename`, …
        action: &'static str,
        /// Path or address.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no such file.
    #[error("{path} does not exist")]
    NotFound {
        /// Path or address.
        path: String,
    },
    /// A directory without anything that looks like a TensorFlow.js model.
    #[error(
        "{path} holds no model: expected model.json, weights_manifest.json or tensorflowjs_model.pb{}",
        found_files(.found)
    )]
    NoModelInDirectory {
        /// The directory.
        path: String,
        /// Files that could be meant.
        found: Vec<String>,
    },
    /// The text is not JSON.
    #[error("not valid JSON")]
    JsonSyntax(#[source] serde_json::Error),
    /// Arrays and objects are nested deeper than any model needs.
    #[error("JSON is nested deeper than {limit} levels")]
    TooDeep {
        /// The greatest depth that is read.
        limit: usize,
    },
    /// A web page came instead of JSON, as servers send for a missing file.
    #[error(
        "this is an HTML page, not JSON; check that the path or address is that of the model.json itself"
    )]
    HtmlInsteadOfJson,
    /// A binary protobuf came instead of JSON.
    #[error(
        "this is a binary protobuf, not JSON; a SavedModel or frozen graph must be converted first, \
         and a `tensorflowjs_model.pb` needs its weights_manifest.json beside it"
    )]
    ProtobufInsteadOfJson,
    /// A Git LFS pointer stands where the file should be.
    #[error("this is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")]
    GitLfsPointer,
    /// JSON, but neither a topology nor a weights manifest in it.
    #[error("JSON has neither a model topology nor a weights manifest")]
    NotAModel,
    /// `format` names something else than a graph model or a layers model.
    #[error("unknown model format `{found}`: expected `graph-model` or `layers-model`")]
    UnknownModelFormat {
        /// The value of `format`.
        found: String,
    },
    /// A JSON value of the wrong kind.
    #[error("{at}: expected {expected}, found {found}")]
    Field {
        /// The place, from the top of the file.
        at: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there, shortened.
        found: String,
    },
    /// A JSON object lacks a field.
    #[error("{at}: field `{field}` is missing")]
    MissingField {
        /// The place of the object.
        at: String,
        /// The field.
        field: &'static str,
    },
    /// A binary message cannot be decoded.
    #[error("not a valid {message} message")]
    Protobuf {
        /// Name of the message type.
        message: &'static str,
        /// The decoder's reason.
        source: prost::DecodeError,
    },
    /// Two weights of a manifest have the same name.
    #[error("weight `{name}` is listed twice in the weights manifest")]
    DuplicateWeight {
        /// The name.
        name: String,
    },
    /// A weight that the manifest does not list.
    #[error("there is no weight `{name}` in the weights manifest")]
    UnknownWeight {
        /// The name.
        name: String,
    },
    /// A weight has a type that cannot be read.
    #[error(
        "weight `{weight}` has unsupported dtype `{dtype}`: expected float32, int32, bool, string or complex64"
    )]
    UnsupportedDType {
        /// The weight.
        weight: String,
        /// Its type.
        dtype: String,
    },
    /// A weight is quantized in a way that is not known.
    #[error("weight `{weight}` has unknown quantization `{dtype}`: expected uint8, uint16 or float16")]
    UnknownQuantization {
        /// The weight.
        weight: String,
        /// The stored type.
        dtype: String,
    },
    /// Affine quantization without its numbers.
    #[error("weight `{weight}` is quantized as {storage} but has no `{field}`")]
    MissingQuantization {
        /// The weight.
        weight: String,
        /// The stored type.
        storage: Storage,
        /// `min` or `scale`.
        field: &'static str,
    },
    /// The stored type cannot stand for the declared one.
    #[error("weight `{weight}` is quantized as {storage}, which cannot stand for {dtype}")]
    QuantizationMismatch {
        /// The weight.
        weight: String,
        /// The stored type.
        storage: Storage,
        /// The declared type.
        dtype: Storage,
    },
    /// Values that affine quantization cannot represent.
    #[error("cannot quantize `{weight}` to {storage}: it holds NaN or infinity")]
    QuantizeNonFinite {
        /// The weight.
        weight: String,
        /// The type asked for.
        storage: Storage,
    },
    /// The product of dimensions and element size does not fit.
    #[error("size of `{name}` with shape {shape:?} overflows")]
    SizeOverflow {
        /// Weight, tensor or node.
        name: String,
        /// Its shape.
        shape: Vec<i64>,
    },
    /// The shards of a group are shorter or longer than their weights.
    #[error(
        "weight group {group} needs {expected} bytes but its {} hold{} {found}{}",
        if *.shards == 1 { "shard".to_owned() } else { format!("{} shards", .shards) },
        if *.shards == 1 { "s" } else { "" },
        last_weight(.weight)
    )]
    GroupSize {
        /// Number of the group, from 1.
        group: usize,
        /// Bytes of its weights.
        expected: u64,
        /// Bytes of its shards.
        found: u64,
        /// How many shards it has.
        shards: usize,
        /// The first weight that is not whole, when shards are too short.
        weight: Option<String>,
    },
    /// A stream ended inside a weight.
    #[error("weight `{weight}` is cut off: {missing} of {size} bytes are missing")]
    Truncated {
        /// The weight.
        weight: String,
        /// Its size in bytes.
        size: u64,
        /// How many did not come.
        missing: u64,
    },
    /// The lengths inside a string weight do not agree with its bytes.
    #[error("string weight `{weight}`: element {element} at byte {offset} runs past the end of its group")]
    BadString {
        /// The weight.
        weight: String,
        /// Index of the element in row-major order.
        element: usize,
        /// Offset from the weight's first byte.
        offset: u64,
    },
    /// A path in the manifest leads out of the model's directory.
    #[error("shard path `{path}` is not allowed: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A value of one type was asked for as another.
    #[error("the tensor is {found}, not {wanted}")]
    WrongDType {
        /// The type it has.
        found: DType,
        /// The type asked for.
        wanted: DType,
    },
    /// A tensor of a type that has no values of its own, or that is not known.
    #[error("tensors of type {dtype} have no values that can be read")]
    TensorType {
        /// TensorFlow's name of the type, or its number.
        dtype: String,
    },
    /// A tensor constant whose shape is not complete.
    #[error("tensor constant has an unknown or negative dimension in its shape {shape:?}")]
    TensorShape {
        /// The dimensions.
        shape: Vec<i64>,
    },
    /// A tensor constant whose values do not fit its shape.
    #[error("tensor constant of type {dtype} and shape {shape:?} needs {expected} values but has {found}")]
    TensorValues {
        /// TensorFlow's name of the type.
        dtype: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// Number of elements.
        expected: usize,
        /// Number of values given.
        found: usize,
    },
    /// A tensor constant's raw bytes do not fit its shape.
    #[error("tensor constant of type {dtype} and shape {shape:?} needs {expected} bytes but has {found}")]
    TensorBytes {
        /// TensorFlow's name of the type.
        dtype: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A few values that would be repeated into a tensor beyond the limit.
    #[error(
        "tensor constant of shape {shape:?} repeats {found} values into {elements} elements, \
         more than the limit of {limit}"
    )]
    TensorTooLarge {
        /// Its shape.
        shape: Vec<usize>,
        /// Number of values given.
        found: usize,
        /// Number of elements.
        elements: usize,
        /// The limit on elements.
        limit: usize,
    },
    /// A writer was given bytes that do not fit the declared weight.
    #[error("weight `{weight}` should have {expected} bytes, {found} were written")]
    WriteSize {
        /// The weight, or the group.
        weight: String,
        /// Bytes by its shape and type.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A shard size of zero.
    #[error("the shard size must be at least one byte")]
    ZeroShardSize,
    /// Writers must be used in order: begin, write, finish.
    #[error("no shard was begun before its bytes were written")]
    NoShardBegun,
    /// The server answered, but not with the file.
    #[error("request to {url} failed with status {status}; check that the address is right")]
    HttpStatus {
        /// The address.
        url: String,
        /// HTTP status code.
        status: u16,
    },
    /// The server could not be reached, or the connection broke.
    #[error("request to {url} failed")]
    HttpTransport {
        /// The address.
        url: String,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An HTTP address, but the crate was built without the feature `http`.
    #[error("cannot load {url}: this build has no HTTP support (feature `http`)")]
    NoHttp {
        /// The address.
        url: String,
    },
    /// A load option that has a meaning only for HTTP was given for a file.
    #[error("load option `{option}` applies to HTTP addresses only, not to {path}")]
    OptionNeedsHttp {
        /// The option.
        option: &'static str,
        /// The path.
        path: String,
    },
}

impl FormatError {
    /// The same error, with the file it was found in.
    pub fn in_file(self, file: impl Into<String>) -> FormatError {
        match self {
            // These name their file already.
            FormatError::InFile { .. }
            | FormatError::Io { .. }
            | FormatError::NotFound { .. }
            | FormatError::HttpStatus { .. }
            | FormatError::HttpTransport { .. } => self,
            cause => FormatError::InFile { file: file.into(), source: Box::new(cause) },
        }
    }

    /// The cause below any [`FormatError::InFile`].
    pub fn cause(&self) -> &FormatError {
        match self {
            FormatError::InFile { source, .. } => source.cause(),
            other => other,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<String>, source: io::Error) -> FormatError {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound if action == "read" => FormatError::NotFound { path },
            _ => FormatError::Io { action, path, source },
        }
    }
}

fn found_files(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(" (it holds {})", found.join(", ")) }
}

fn last_weight(weight: &Option<String>) -> String {
    weight.as_ref().map(|w| format!("; `{w}` is the first weight that is not whole")).unwrap_or_default()
}
