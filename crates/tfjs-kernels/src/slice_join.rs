//! Cutting, joining and indexing tensors.
mod concat;
mod gather;
mod partition;
mod scatter;
mod strided_slice;

pub use concat::{concat, pack, split, split_v, split_v_sizes, tile, unpack};
pub use gather::{BadIndices, gather, gather_nd, gather_shape};
pub use partition::{dynamic_partition, dynamic_stitch, invert_permutation};
pub use scatter::{ScatterOp, scatter_nd, sparse_to_dense, tensor_scatter};
pub use strided_slice::{
    SliceSpec, reverse, reverse_sequence, roll, slice, slice_shape, strided_slice, strided_slice_grad,
    strided_slice_update,
};
