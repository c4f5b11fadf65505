//! Sparse tensors (`indices: [n, rank]`, `values: [n]`, `dense_shape: [rank]`) and sums over rows.
mod segment;
mod shape;

pub use segment::{SegmentReduce, sparse_segment, sparse_tensor_dense_matmul};
pub use shape::{sparse_fill_empty_rows, sparse_reshape};
