use std::{io, path::PathBuf};

use tfjs_convert::ConvertError;
use tfjs_format::FormatError;
use tfjs_graph::GraphError;
use tfjs_kernels::KernelError;
use tfjs_layers::LayersError;

use crate::{image::ImageError, npy::NpyError};

/// Why a command failed. Causes that need no words of our own pass through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Layers(#[from] LayersError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error("cannot start the threads")]
    Threads(#[source] KernelError),
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write to the terminal or pipe")]
    Stdout(#[source] io::Error),
    #[error("cannot write JSON")]
    Json(#[source] serde_json::Error),
    #[error("cannot read the array in {}", path.display())]
    Array { path: PathBuf, source: NpyError },
    #[error("cannot use {} for input `{input}`", path.display())]
    Picture { input: String, path: PathBuf, source: ImageError },
    #[error("{} is for no particular input; write NAME={} with one of {}", path.display(), path.display(), known.join(", "))]
    UnnamedInput { path: PathBuf, known: Vec<String> },
    #[error("{} holds no array for input `{input}`; it holds {}", path.display(), found.join(", "))]
    NoSuchArray { path: PathBuf, input: String, found: Vec<String> },
    #[error("outputs `{first}` and `{second}` would both be written to {file}")]
    SameFile { first: String, second: String, file: String },
    #[error("the model's input `{input}` is {what}; give it with --input {input}=FILE.npy")]
    NoRandomInput { input: String, what: String },
    #[error("Expected weight_shard_size_bytes to be a positive integer, but got {bytes}")]
    ShardSize { bytes: i64 },
    #[error("cannot read how to train from {}", path.display())]
    TrainConfig { path: PathBuf, source: serde_json::Error },
    #[error("{model} does not say how it was trained, and {} names no optimizer", config.display())]
    NothingToTrainFor { model: String, config: PathBuf },
    #[error("{} holds no batches: arrays x0, x1, … and y0, … of shape [batches, batch size, …] are expected, it holds {}", path.display(), found.join(", "))]
    Batches { path: PathBuf, found: Vec<String> },
    #[error("the data do not say what the model is to learn: {missing}")]
    NoData { missing: &'static str },
    #[error("no {what} of the model is named `{name}`; there are {}", known.join(", "))]
    NoSuchName { what: &'static str, name: String, known: Vec<String> },
    #[error("{what} `{name}` is given twice")]
    Twice { what: &'static str, name: String },
    #[error("no file is given for {what} `{name}`; give it with {flag} {name}=FILE.npy")]
    NotGiven { what: &'static str, name: String, flag: &'static str },
    #[error("{} holds {found}", path.display())]
    Table { path: PathBuf, found: String },
    #[error("line {line} of {}: {problem}", path.display())]
    TableLine { path: PathBuf, line: u64, problem: String },
    #[error("cannot read the table in {}", path.display())]
    Csv { path: PathBuf, source: csv::Error },
    #[error("{}: {problem}", path.display())]
    Images { path: PathBuf, problem: String },
    #[error("cannot use the picture {}", path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error("{flag} is `{given}`, expected {expected}")]
    Value { flag: &'static str, given: String, expected: &'static str },
    #[error("{flag} is not JSON")]
    NotJson { flag: &'static str, source: serde_json::Error },
    #[error(
        "what {model} was trained with cannot be taken up again; say it with --optimizer, --loss and --metrics"
    )]
    Restore { model: String, source: LayersError },
    #[error("training came to nothing and no model was saved: {why}")]
    NotFinite { why: String },
    #[error("interrupted after {epochs} of {of} epochs; the model as it is now stands in {}", out.display())]
    Interrupted { epochs: usize, of: usize, out: PathBuf },
    #[error("--metadata has `{item}`, expected KEY:FILE")]
    Metadata { item: String },
}
