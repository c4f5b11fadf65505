//! Changing the shape of tensors.
mod bucketize;
mod pad;
mod reshape;
mod space;

pub use bucketize::bucketize;
pub use pad::{MirrorMode, mirror_pad, pad, padded_shape};
pub use reshape::{
    broadcast_args, broadcast_shapes, broadcast_to, expand_dims, expand_dims_shape, reshape, reshape_dims,
    squeeze, squeeze_shape,
};
pub use space::{
    SpaceFormat, batch_to_space, batch_to_space_shape, depth_to_space, space_to_batch, space_to_batch_shape,
    space_to_depth,
};
