//! Readers of TensorFlow's files.

mod bundle;
mod checkpoint_v1;
mod file;
pub mod frozen;
pub mod hub;
#[cfg(feature = "http")]
mod hub_cache;
mod import;
mod ordered_code;
mod restore;
pub mod saved_model;
mod schema;
pub mod session_bundle;
pub mod skim;
mod slices;
mod table;
mod tensor;
mod tensor_proto;
mod text_format;

pub use bundle::Bundle;
pub use checkpoint_v1::CheckpointV1;
pub(crate) use file::FileAt;
pub use import::{Checkpoint, Imported, Lazy, Signature, Stored, TensorRef, Variables};
pub(crate) use restore::node_name;
pub(crate) use skim::Contents;
pub(crate) use tensor::element_count;
pub use tensor::{RawData, RawTensor, TensorMeta, width};
pub(crate) use tensor_proto::raw_tensor;
pub use text_format::TextError;
