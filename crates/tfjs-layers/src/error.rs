use std::{io, path::PathBuf};

use tfjs_format::FormatError;
use tfjs_graph::{GraphError, LoadError};
use tfjs_kernels::KernelError;

/// What can go wrong between a layers model on disk and its predictions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayersError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The emitted graph does not fit together.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A value cannot be computed or has another type.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A field of the topology is missing or has another type.
    #[error("{place}: `{field}` is missing or not {expected}")]
    Field {
        /// Where in the topology.
        place: String,
        /// The field.
        field: String,
        /// What it should be, in words.
        expected: &'static str,
    },
    /// Models are nested too deep to be real.
    #[error("models are nested more than {0} deep")]
    TooDeep(usize),
    /// The cause lies in one layer.
    #[error("layer `{layer}` ({class})")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// Keras class.
        class: String,
        /// What is wrong.
        #[source]
        source: Box<LayersError>,
    },
    /// Layers that cannot be made: all of them at once.
    #[error("{} cannot be made:{}", if .0.len() == 1 { "a layer" } else { "some layers" }, list(.0))]
    Unsupported(
        /// One error per layer.
        Vec<LayersError>,
    ),
    /// There is no layer of this class.
    #[error("class `{class}` is not known{hint}")]
    UnknownClass {
        /// Keras class.
        class: String,
        /// What to do, if known.
        hint: String,
    },
    /// The layer holds foreign code, which is never run.
    #[error("class `{class}` holds {what}, which cannot be converted; {remedy}")]
    ForeignCode {
        /// Keras class.
        class: String,
        /// What it holds, such as "Python bytecode".
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// An option that the class does not have.
    #[error("`{class}` has no option `{key}`; it has {known}")]
    UnknownOption {
        /// Class of the optimizer or schedule.
        class: String,
        /// The key.
        key: String,
        /// Keys that it has.
        known: String,
    },
    /// An option of the layer has a value that it cannot have.
    #[error("`{key}` is {value}, expected {expected}")]
    Config {
        /// Key in the layer's config.
        key: String,
        /// Its value as JSON.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// The inputs do not fit the layer.
    #[error("{0}")]
    Inputs(
        /// What does not fit, with shapes.
        String,
    ),
    /// An argument of a call cannot be used.
    #[error("argument `{argument}`: {problem}")]
    Argument {
        /// Name of the argument.
        argument: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Layers whose inputs come from nowhere, or from themselves.
    #[error("layers cannot be connected: {}; their inputs are missing or form a cycle", .layers.join(", "))]
    Disconnected {
        /// Names of the layers.
        layers: Vec<String>,
    },
    /// A reference to a layer that does not exist.
    #[error("{place} refers to `{layer}`, call {call}, output {tensor}, which does not exist")]
    Dangling {
        /// Where.
        place: String,
        /// The layer it names.
        layer: String,
        /// Index of the call.
        call: usize,
        /// Index of the output.
        tensor: usize,
    },
    /// Two layers of a model share a name.
    #[error("two layers are named `{0}`")]
    DuplicateLayer(
        /// The name.
        String,
    ),
    /// The file lacks weights that layers need.
    #[error("{} not in the file: {}", if .names.len() == 1 { "a weight is" } else { "weights are" }, .names.join(", "))]
    MissingWeights {
        /// Names of the weights.
        names: Vec<String>,
    },
    /// The file holds weights that no layer has.
    #[error("the file holds weights that no layer takes: {}; loading with `strict` off leaves them out", .names.join(", "))]
    UnexpectedWeights {
        /// Names of the weights.
        names: Vec<String>,
    },
    /// A weight has another shape than its layer needs.
    #[error("weight `{weight}` has shape {got:?}, the layer needs {expected:?}")]
    WeightShape {
        /// Its name.
        weight: String,
        /// Shape in the file.
        got: Vec<usize>,
        /// Shape that the layer declares.
        expected: Vec<usize>,
    },
    /// A weight cannot be read.
    #[error("weight `{weight}` cannot be read")]
    WeightValue {
        /// Its name.
        weight: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// A file that belongs to the model cannot be read.
    #[error("asset `{path}` cannot be read")]
    Asset {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file holds another kind of model.
    #[error("{name} holds {found}, expected a layers model{hint}")]
    WrongKind {
        /// The file.
        name: String,
        /// What it holds.
        found: &'static str,
        /// What to do instead, if known.
        hint: &'static str,
    },
    /// Weights cannot be written.
    #[error(transparent)]
    Store(#[from] tfjs_graph::StoreError),
    /// Which weights to quantize is not clear.
    #[error("weights cannot be quantized as asked")]
    Quantization {
        /// Why.
        #[source]
        source: LoadError,
    },
    /// There is no loss or metric of this name.
    #[error("{what} `{name}` is not known{}; known are {}", nearest.map(|n| format!(", did you mean `{n}`")).unwrap_or_default(), .known.join(", "))]
    UnknownName {
        /// "loss", "metric".
        what: &'static str,
        /// The name.
        name: String,
        /// The known name most like it.
        nearest: Option<&'static str>,
        /// All known names.
        known: Vec<&'static str>,
    },
    /// A loss or metric does not fit an output or its labels.
    #[error("{what} `{name}`: {problem}")]
    Objective {
        /// "loss", "metric".
        what: &'static str,
        /// Its name.
        name: String,
        /// What does not fit, with shapes.
        problem: String,
    },
    /// Training, evaluation or saving of an optimizer was asked of a model that is not compiled.
    #[error("the model is not compiled: say first with what optimizer, loss and metrics it is to be trained")]
    NotCompiled,
    /// The code that makes batches panicked.
    #[error("the data set panicked: {0}")]
    DataPanicked(String),
    /// A callback looks for a value that nobody makes.
    #[error("nothing called `{name}` is measured; there are {}", .known.join(", "))]
    NotMeasured {
        /// What the callback watches.
        name: String,
        /// What is measured.
        known: Vec<String>,
    },
    /// Something about data, losses or the course of training.
    #[error("{0}")]
    Training(String),
    /// No constant of a graph has this name.
    #[error("no constant of the graph is named `{name}`; those that can be trained are {}", .known.join(", "))]
    UnknownConstant {
        /// The name.
        name: String,
        /// Names of constants that can be trained.
        known: Vec<String>,
    },
    /// A constant of a graph cannot be trained.
    #[error("`{name}` cannot be trained: {reason}")]
    NotTunable {
        /// Name of the constant.
        name: String,
        /// Why.
        reason: String,
    },
    /// A model that holds a graph was to be written as layers.
    #[error(
        "layer `{layer}` is a frozen graph, which no file of layers can hold; `Tuning::into_graph_model` gives it back to be written"
    )]
    HoldsGraph {
        /// Name of the layer.
        layer: String,
    },
    /// A file that training reads or writes.
    #[error("cannot {action} {}", path.display())]
    File {
        /// "read", "write", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A callback or data set failed for a reason of its own.
    #[error(transparent)]
    Callback(
        /// What it says.
        Box<dyn std::error::Error + Send + Sync>,
    ),
    /// There is no layer or weight of this name.
    #[error("no {what} is named `{name}`")]
    NotFound {
        /// "layer", "weight", "input".
        what: &'static str,
        /// The name.
        name: String,
    },
}

/// The first of each class on a line of its own, with its causes and the number of those like it.
fn list(errors: &[LayersError]) -> String {
    let class = |e: &LayersError| match e {
        LayersError::Layer { class, .. } => Some(class.clone()),
        _ => None,
    };
    let mut text = String::new();
    for (i, error) in errors.iter().enumerate() {
        let own = class(error);
        if own.is_some() && errors[..i].iter().any(|e| class(e) == own) {
            continue;
        }
        text += "\n  ";
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(e) = next {
            text += &e.to_string();
            next = e.source();
            text += if next.is_some() { ": " } else { "" };
        }
        let more = errors[i + 1..].iter().filter(|e| own.is_some() && class(e) == own).count();
        if more > 0 {
            text += &format!(" (and {more} more of this class)");
        }
    }
    text
}

impl LayersError {
    /// Says in which layer the error lies; an error that says so already keeps its place.
    #[must_use]
    pub fn in_layer(self, layer: &str, class: &str) -> LayersError {
        match self {
            LayersError::Unsupported(errors) => {
                LayersError::Unsupported(errors.into_iter().map(|e| e.in_layer(layer, class)).collect())
            }
            LayersError::Layer { layer: inner, class, source } => {
                LayersError::Layer { layer: format!("{layer}/{inner}"), class, source }
            }
            other => LayersError::Layer {
                layer: layer.to_owned(),
                class: class.to_owned(),
                source: Box::new(other),
            },
        }
    }
}
