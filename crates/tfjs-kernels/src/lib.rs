//! Tensors and the arithmetic of TensorFlow ops on the CPU.
pub mod conv;
mod epilogue;
mod error;
mod gemm;
mod geometry;
pub mod image;
pub mod matmul;
mod movement;
mod par;
pub mod pooling;
pub mod quantize;
pub mod ragged;
mod scratch;
mod simd;
pub mod slice_join;
pub mod sparse;
pub mod strings;
mod tensor;
#[cfg(test)]
mod testing;
pub mod transform;
mod vecmath;

pub use epilogue::{Activation, Epilogue};
pub use error::KernelError;
pub use geometry::{DataFormat, Padding};
pub use par::Threads;
pub use simd::Isa;
pub use tensor::{Element, Shape, Tensor, TensorOf, TfString};
pub use tfjs_format::DType;

/// Result of a tensor-level kernel.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;
