//! TensorFlow.js on-disk formats.
mod dtype;
pub mod proto;

pub use dtype::DType;
