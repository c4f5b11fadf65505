//! Tensors and the arithmetic of TensorFlow ops on the CPU.
mod error;
mod par;
mod simd;
mod tensor;
mod vecmath;

pub use error::KernelError;
pub use par::Threads;
pub use simd::Isa;
pub use tensor::{Element, Shape, Tensor, TensorOf, TfString};
pub use tfjs_format::DType;

/// Result of a tensor-level kernel.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;
