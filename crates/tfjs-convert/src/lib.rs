//! Converts TensorFlow models to TensorFlow.js graph models, without TensorFlow.
//!
//! ```text
//! SavedModel, frozen graph, TF-Hub module, session bundle
//!   └─ source ─▶ Imported ─▶ Model ─ pipeline ─▶ Model ─ export ─▶ model.json + group1-shardNofM.bin
//!                (messages)  (graph)             (smaller)
//! ```
//!
//! Weights stay where they are until they are written: a conversion holds one tensor at a time.

mod convert;
mod error;
mod export;
mod fnmatch;
mod graph_model;
pub mod keras;
mod layers;
mod model;
mod options;
mod passes;
mod pipeline;
pub mod proto;
pub mod source;
mod summary;
mod target;
mod values;

pub use convert::{Comparison, check, compare, convert};
pub use error::ConvertError;
pub use graph_model::{GraphSaveOptions, save_graph_model, save_graph_model_with};
pub use layers::{open_keras, save_keras};
pub use options::{ConvertOptions, InputFormat, OutputFormat, QuantizationMap};
pub use passes::lower::lowerings;
pub use summary::{Progress, Summary, Warning};
