use std::{io, path::PathBuf};

use tfjs_format::{FormatError, Storage};
use tfjs_graph::{GraphError, UnsupportedOp};
use tfjs_layers::LayersError;

use crate::{Warning, keras::KerasError, source::TextError};

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
    /// A Keras file cannot be written.
    #[error("cannot write the Keras file {}", path.display())]
    WriteKeras {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: KerasError,
    },
    /// A Keras file is broken or refused.
    #[error("cannot read the Keras file {}", path.display())]
    Keras {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: KerasError,
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
    /// A required argument is empty.
    #[error("Missing {name} argument. For usage, use the --help flag.")]
    MissingArgument {
        /// "input_path" or "output_path".
        name: &'static str,
    },
    /// There is no way from the input format to the output format.
    #[error("Unsupported input_format - output_format pair: {input} - {output}")]
    UnsupportedPair {
        /// Input format.
        input: &'static str,
        /// Output format.
        output: &'static str,
    },
    /// A model of layers is malformed, or cannot be expressed.
    #[error("{}", path.display())]
    Layers {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: LayersError,
    },
    /// The output should be a file and is a directory.
    #[error("the output path should be {expected}, but it is an existing directory: {}", path.display())]
    OutputIsDirectory {
        /// The directory.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// The format cannot hold a model of this size.
    #[error("the model takes {bytes} bytes, and a {format} holds at most 2147483647")]
    OutputTooLarge {
        /// Output format.
        format: &'static str,
        /// Size of the model.
        bytes: u64,
    },
    /// The file holds weights and no layers.
    #[error("{} holds weights without a model; they can be written as {expected} only", path.display())]
    WeightsOnly {
        /// The file.
        path: PathBuf,
        /// Output formats.
        expected: &'static str,
    },
    /// A shard size was given for an output without shards.
    #[error(
        "The --weight_shard_size_bytes flag is only supported when output_format is tfjs_layers_model or tfjs_graph_model."
    )]
    ShardSizeUnused,
    /// Shards of no bytes.
    #[error("Expected weight_shard_size_bytes to be a positive integer, but got 0")]
    ShardSizeZero,
    /// A frozen graph needs to know what to fetch.
    #[error("The --output_node_names flag is required for \"tf_frozen_model\"")]
    OutputNodesRequired,
    /// A signature was named for an input without signatures.
    #[error(
        "The --signature_name flag is applicable only to \"tf_saved_model\" and \"tf_hub\" input format, but the current input format is \"{input}\"."
    )]
    SignatureUnused {
        /// Input format.
        input: &'static str,
    },
    /// Control flow was asked for in an output without control flow.
    #[error(
        "The --control_flow_v2 flag is applicable only to \"tfjs_graph_model\" as output format, but the current output format is \"{output}\""
    )]
    ControlFlowUnused {
        /// Output format.
        output: &'static str,
    },
    /// A metadata file is not JSON.
    #[error("Loading metadata error: {} is not JSON", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Two quantizations ask for all remaining weights.
    #[error("More than one quantization fallthrough provided, exactly one is supported")]
    TwoFallthroughs,
    /// The old and the new quantization flags together.
    #[error("--quantization_bytes cannot be used with the new quantization flags")]
    MixedQuantizationFlags,
    /// A number of bytes that nothing quantizes to.
    #[error("--quantization_bytes is 1 or 2, not {bytes}")]
    QuantizationBytes {
        /// The number.
        bytes: u64,
    },
    /// Two quantizations match one weight.
    #[error("Two quantization values {first}, {second} match the same node {name}")]
    TwoQuantizations {
        /// Stored type.
        first: Storage,
        /// Stored type.
        second: Storage,
        /// The weight.
        name: String,
    },
    /// The graph cannot be read or rewritten.
    #[error(transparent)]
    Graph(Box<GraphError>),
    /// The result cannot be written.
    #[error(transparent)]
    Format(Box<FormatError>),
    /// A value cannot be read.
    #[error("the value of `{name}` cannot be read")]
    Value {
        /// Constant or variable.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Weights cannot be written.
    #[error(transparent)]
    Store(#[from] tfjs_graph::StoreError),
    /// A call does not fit its function.
    #[error("node `{node}` gives {got} arguments to function `{function}`, expected {expected}")]
    CallArguments {
        /// The node.
        node: String,
        /// The function.
        function: String,
        /// Arguments given.
        got: usize,
        /// Arguments declared.
        expected: usize,
    },
    /// Variables without a value.
    #[error("the checkpoint has no value for {}", quoted(.names))]
    MissingVariables {
        /// The variables.
        names: Vec<String>,
    },
    /// A variable has another type than its stored value.
    #[error("variable `{name}` is declared as {declared}, its stored value is {stored}")]
    VariableType {
        /// The variable.
        name: String,
        /// Type in the graph.
        declared: &'static str,
        /// Type in the checkpoint.
        stored: &'static str,
    },
    /// Ops that TensorFlow.js does not have: all of them at once.
    #[error("Unsupported Ops in the model {when} optimization\n{}{}", op_names(.ops), op_nodes(.ops))]
    UnsupportedOps {
        /// "before" or "after".
        when: &'static str,
        /// The nodes.
        ops: Vec<UnsupportedOp>,
    },
    /// A graph that is to be written as it is has ops that TensorFlow.js does not have.
    #[error("TensorFlow.js does not have ops of the graph: {}{}", op_names(.ops), op_nodes(.ops))]
    NotInTfjs {
        /// The nodes.
        ops: Vec<UnsupportedOp>,
    },
    /// Lossy steps where none are allowed.
    #[error("the conversion is not exact:{}", lines(.warnings))]
    Lossy {
        /// The steps.
        warnings: Vec<Warning>,
    },
    /// The name of a vocabulary file is not a constant.
    #[error("the file name of table initialiser `{node}` is not known")]
    VocabularyName {
        /// The node.
        node: String,
    },
    /// A vocabulary file does not fit its table.
    #[error("line {line} of {}: {what}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A module cannot be downloaded.
    #[error("cannot download {url}")]
    Download {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was downloaded is not a compressed archive.
    #[error("{url} did not give a .tar.gz archive")]
    Archive {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry of a downloaded archive is refused.
    #[error("`{entry}` in the archive from {url} is refused: {what}")]
    ArchiveEntry {
        /// The address.
        url: String,
        /// The entry.
        entry: String,
        /// Why.
        what: &'static str,
    },
    /// An address in a build that cannot fetch.
    #[error("{url} cannot be fetched: this build has no HTTP support (feature `http`)")]
    NoHttp {
        /// The address.
        url: String,
    },
}

impl From<GraphError> for ConvertError {
    fn from(error: GraphError) -> ConvertError {
        ConvertError::Graph(Box::new(error))
    }
}

impl From<FormatError> for ConvertError {
    fn from(error: FormatError) -> ConvertError {
        ConvertError::Format(Box::new(error))
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

fn op_names(ops: &[UnsupportedOp]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for op in ops {
        if !names.contains(&op.op.as_str()) {
            names.push(&op.op);
        }
    }
    names.join(", ")
}

fn op_nodes(ops: &[UnsupportedOp]) -> String {
    ops.iter().map(|u| format!("\n  {} (node `{}`)", u.op, u.node)).collect()
}

fn lines(warnings: &[Warning]) -> String {
    warnings.iter().map(|w| format!("\n  {w}")).collect()
}
