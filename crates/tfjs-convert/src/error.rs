use std::{io, path::PathBuf};

use crate::source::TextError;

/// What can go wrong in a conversion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file cannot be read or written.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is shorter than what refers to it says.
    #[error("{} has {len} bytes, expected {size} bytes from offset {offset} on", path.display())]
    PastEnd {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        size: u64,
        /// Length of the file.
        len: u64,
    },
    /// A checkpoint's table is malformed.
    #[error("{} is not a readable checkpoint table: {what}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A protobuf message cannot be decoded.
    #[error("cannot decode the {what} in {}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Which message.
        what: &'static str,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// A checkpoint from a big-endian machine.
    #[error("{} was written on a big-endian machine, which is not supported", path.display())]
    BigEndian {
        /// The index file.
        path: PathBuf,
    },
    /// A tensor is not in the checkpoint.
    #[error("tensor `{tensor}` is not in the checkpoint {}", path.display())]
    NoSuchTensor {
        /// Its name.
        tensor: String,
        /// The index file.
        path: PathBuf,
    },
    /// A stored tensor is malformed.
    #[error("tensor `{tensor}` in {} is broken: {what}", path.display())]
    BrokenTensor {
        /// Its name.
        tensor: String,
        /// The data file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A slice of a partitioned variable does not fit the variable.
    #[error("a slice of `{tensor}` in {} does not fit its shape", path.display())]
    BadSlice {
        /// The variable.
        tensor: String,
        /// The index file.
        path: PathBuf,
    },
    /// The stored slices of a partitioned variable do not cover it.
    #[error("the stored slices of `{tensor}` do not cover it")]
    MissingSlices {
        /// The variable.
        tensor: String,
    },
    /// A stored value has a shape with unknown dimensions.
    #[error("the shape of `{tensor}` has unknown or negative dimensions")]
    PartialShape {
        /// The tensor.
        tensor: String,
    },
    /// A tensor does not fit in memory.
    #[error("tensor `{tensor}` is too large")]
    TooLarge {
        /// The tensor.
        tensor: String,
    },
    /// A tensor message has the wrong number of values.
    #[error("tensor `{tensor}` has {got} values, expected {expected}")]
    TensorValues {
        /// The tensor.
        tensor: String,
        /// Values found.
        got: usize,
        /// Values that its shape asks for.
        expected: usize,
    },
    /// An element type that TensorFlow.js has no place for.
    #[error("`{name}` has type {dtype}, which TensorFlow.js cannot hold")]
    UnsupportedType {
        /// Node or tensor.
        name: String,
        /// TensorFlow's name of the type.
        dtype: &'static str,
    },
    /// A text-format file is malformed.
    #[error("cannot read the text of {}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: TextError,
    },
    /// A protobuf file is malformed.
    #[error("{} is not a protobuf message: broken field at byte {offset}", path.display())]
    Message {
        /// The file.
        path: PathBuf,
        /// Where the field starts.
        offset: u64,
    },
    /// A directory holds no SavedModel.
    #[error("SavedModel file does not exist at: {}", path.display())]
    NoSavedModel {
        /// The directory.
        path: PathBuf,
    },
    /// No meta graph has the tags.
    #[error(
        "MetaGraphDef associated with tag-set {tags} could not be found in the SavedModel. Please use one of the following tag-sets: {available:?}"
    )]
    NoSuchTags {
        /// Tags asked for.
        tags: String,
        /// Tag sets of the file.
        available: Vec<String>,
    },
    /// The signature does not exist.
    #[error(
        "Signature '{signature}' does not exist in the saved model. The following signatures are available: {available:?}"
    )]
    NoSuchSignature {
        /// Key asked for.
        signature: String,
        /// Keys of the file.
        available: Vec<String>,
    },
    /// A signature has an input or output that is not a dense tensor.
    #[error(
        "Signature \"{signature}\" has a SparseTensor on {side} \"{key}\". SparseTensors are not supported."
    )]
    SparseTensor {
        /// Signature key.
        signature: String,
        /// "input" or "output".
        side: &'static str,
        /// Which one.
        key: String,
    },
    /// Output nodes that the graph does not have.
    #[error("{} has no node named {}", path.display(), .nodes.join(", "))]
    NoSuchNodes {
        /// The file.
        path: PathBuf,
        /// Names asked for.
        nodes: Vec<String>,
    },
}
