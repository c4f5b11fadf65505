use std::{fmt, path::PathBuf, time::Duration};

use tfjs_layers::{SaveWarning, UnknownOption};

/// What a conversion did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The `model.json` that was written.
    pub model: PathBuf,
    /// Nodes that the signature needs, before the passes, with all functions inlined.
    pub nodes_before: usize,
    /// Nodes written, function bodies included.
    pub nodes_after: usize,
    /// Layers of a model of layers.
    pub layers: usize,
    /// Weights written.
    pub weights: usize,
    /// Weight files written.
    pub shards: usize,
    /// Bytes of all weight files.
    pub weight_bytes: u64,
    /// Number of rewrites of each pass, in order.
    pub passes: Vec<(&'static str, usize)>,
    /// Signature keys of the inputs.
    pub inputs: Vec<String>,
    /// Signature keys of the outputs.
    pub outputs: Vec<String>,
    /// Time from reading to the last byte.
    pub elapsed: Duration,
    /// Steps that lost something.
    pub warnings: Vec<Warning>,
}

/// A step that lost something, and where.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// Integers that do not fit 32 bits were moved to the nearest end of the range.
    IntegerOverflow {
        /// The constant.
        name: String,
        /// TensorFlow's name of its type.
        dtype: &'static str,
        /// How many values.
        count: usize,
        /// The first of them.
        first: i128,
    },
    /// Double precision was rounded to single precision.
    Precision {
        /// The constant.
        name: String,
        /// TensorFlow's name of its type.
        dtype: &'static str,
        /// Greatest relative error.
        relative: f64,
    },
    /// An op was written that TensorFlow.js does not have (`skip_op_check`).
    UnsupportedOp {
        /// The node.
        node: String,
        /// Its op.
        op: String,
    },
    /// A layer that stock TensorFlow.js cannot run was written as it is.
    Layer(SaveWarning),
    /// An option of a layer is not known, and has no effect.
    UnknownOption(UnknownOption),
    /// The module has only another signature than the default one, which was taken.
    OtherSignature {
        /// Signature key.
        signature: String,
    },
}

impl Warning {
    /// Whether values changed, or TensorFlow.js cannot use what was written.
    pub fn is_lossy(&self) -> bool {
        matches!(
            self,
            Warning::IntegerOverflow { .. }
                | Warning::Precision { .. }
                | Warning::Layer(_)
                | Warning::UnknownOption(_)
        )
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Layer(layer) => layer.fmt(f),
            Warning::UnknownOption(option) => option.fmt(f),
            Warning::IntegerOverflow { name, dtype, count, first } => write!(
                f,
                "constant `{name}` ({dtype}) has {count} values outside int32, the first is {first}; they move to its ends"
            ),
            Warning::Precision { name, dtype, relative } => write!(
                f,
                "constant `{name}` ({dtype}) is rounded to float32, with a relative error of up to {relative:.1e}"
            ),
            Warning::UnsupportedOp { node, op } => {
                write!(f, "node `{node}` needs op {op}, which TensorFlow.js does not have")
            }
            Warning::OtherSignature { signature } => {
                write!(f, "the module has no signature `default`; `{signature}` is converted")
            }
        }
    }
}

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress<'a> {
    /// A step begins.
    Step(&'a str),
    /// Weights are written.
    Weights {
        /// Bytes written.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}
