//! Tensors and the arithmetic of TensorFlow ops on the CPU.
mod error;
pub mod image;
mod movement;
mod par;
pub mod quantize;
pub mod ragged;
mod simd;
pub mod slice_join;
pub mod sparse;
pub mod strings;
mod tensor;
pub mod transform;
mod vecmath;

pub use error::KernelError;
pub use par::Threads;
pub use simd::Isa;
pub use tensor::{Element, Shape, Tensor, TensorOf, TfString};
pub use tfjs_format::DType;

/// Result of a tensor-level kernel.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;
