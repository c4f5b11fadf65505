//! TensorFlow.js on-disk formats.
mod dtype;
mod error;
#[allow(dead_code, reason = "used by the readers that follow")]
mod json;
pub mod proto;
mod quantize;
mod storage;
mod weights;

pub use dtype::DType;
pub use error::FormatError;
pub use quantize::{QuantizeTo, Range};
pub use storage::Storage;
pub use weights::{Affine, Codec, Quantization, WeightGroup, WeightSpec};
