//! TensorFlow.js layers models: Keras layers that predict (and, in time, train) natively.
//!
//! ```text
//! model.json, Keras config ──topology──▶ ModelConfig ──layers──▶ Network ──emit──▶ tfjs_graph::Graph ──▶ Plan
//!  (any dialect)                         (one form)             (weights)         (ops)
//! ```
//!
//! A layer computes nothing itself: it declares weights ([`Layer::build`]) and writes graph nodes ([`Layer::call`]). So every
//! kernel, fusion and pass of graph models serves layers models too, and a layers model becomes a graph model by writing
//! that graph to a file.

mod activations;
mod assets;
pub mod build;
mod config;
mod constraints;
mod dialect;
mod edit;
mod einsum;
pub mod emit;
mod error;
mod fine_tune;
mod initializers;
mod keras;
mod layer;
pub mod layers;
mod losses;
mod matching;
mod metrics;
mod model;
mod network;
pub mod optimizers;
mod options;
#[cfg(test)]
mod phase;
mod predict;
mod regularizers;
mod save;
mod summary;
pub mod topology;
mod train;
pub mod weights;

pub use activations::Activation;
pub use assets::Assets;
pub use config::{Config, UnknownOption, dtype_of, number};
pub use constraints::Constraint;
pub use dialect::Dialect;
pub use emit::Emit;
pub use error::LayersError;
pub use fine_tune::{FineTune, Tuning};
pub use initializers::Initializer;
pub use layer::{Call, Constructor, Layer, LayerDef, Sym};
pub use losses::{Loss, Reduction};
pub use metrics::Metric;
pub use model::{LayersModel, LayersOptions};
pub use network::{Network, Node, make};
pub use optimizers::Optimizer;
pub use predict::{Inputs, PredictOptions};
pub use regularizers::Regularizer;
pub use save::{Quantizer, SaveOptions, SaveReport, SaveWarning};
pub use summary::LayerView;
pub use topology::{LayerConfig, ModelConfig, ModelKind};
pub use train::{
    Arrays, BackupAndRestore, Batch, Callback, CallbackState, ClassWeight, Compile, Context, CsvLogger,
    Dataset, EarlyStopping, FitOptions, History, LambdaCallback, LearningRateScheduler, Logs, Mode,
    ModelCheckpoint, ReduceLrOnPlateau, SaveFreq, Stream, TensorBoard, TerminateOnNan, TrainingState,
    UpdateFreq, Validation,
};
pub use weights::{Params, Scope, StoredWeight, StoredWeights, Weight, WeightId, WeightInit};
