//! TensorFlow.js on-disk formats.
mod data;
mod dtype;
mod error;
mod graph_json;
pub mod io;
mod json;
mod model_json;
pub mod proto;
mod quantize;
mod reader;
mod signature;
mod storage;
mod tensor_proto;
mod weights;
mod writer;

pub use data::{Payload, TensorBytes};
pub use dtype::DType;
pub use error::FormatError;
pub use graph_json::{GraphJson, UnknownFields};
pub use model_json::{ModelFormat, ModelJson, Topology};
pub use quantize::{QuantizeTo, Range};
pub use reader::{WeightStream, Weights};
pub use signature::{Signature, TensorInfo};
pub use storage::Storage;
pub use tensor_proto::{Lossy, MAX_REPEATED_ELEMENTS, TensorData, TensorValue, runtime_tensor, tensor_shape};
pub use weights::{Affine, Codec, Quantization, WeightGroup, WeightSpec};
pub use writer::{
    DEFAULT_SHARD_SIZE, ShardOptions, ShardWriter, Shards, encode_strings, group_bytes, string_bytes,
};
