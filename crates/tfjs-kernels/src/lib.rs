//! Tensors and the arithmetic of TensorFlow ops on the CPU.
pub mod binary;
mod broadcast;
mod buffer;
pub mod cast;
pub mod conv;
pub mod creation;
pub mod einsum;
mod elementwise;
mod epilogue;
mod error;
pub mod evaluation;
mod gemm;
mod geometry;
pub mod gradient;
pub mod image;
pub mod linalg;
pub mod matmul;
mod movement;
pub mod nms;
pub mod normalize;
pub mod optimizer;
mod par;
mod pool;
pub mod pooling;
pub mod quantize;
pub mod ragged;
pub mod random;
pub mod recurrent;
pub mod reduce;
mod scratch;
pub mod segment;
pub mod select;
mod simd;
pub mod slice_join;
pub mod sparse;
mod special;
pub mod spectral;
pub mod strings;
mod tensor;
#[cfg(test)]
mod testing;
pub mod transform;
pub mod unary;
mod vecmath;

pub use broadcast::broadcast_shape;
pub use epilogue::{Activation, Epilogue};
pub use error::KernelError;
pub use geometry::{DataFormat, Padding};
pub use par::Threads;
pub use pool::{BufferPool, MemoryLayout, MemoryUse};
pub use simd::Isa;
pub use tensor::{Element, Shape, Tensor, TensorOf, TfString};
pub use tfjs_format::DType;

/// Result of a tensor-level kernel.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;
