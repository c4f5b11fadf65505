//! What the gradients of ops need that the ops themselves do not.
mod ctc;
mod elementwise;
mod image;
mod loss;
mod pad;
mod pooling;
mod quantize;

pub use ctc::{Ctc, ctc_loss};
pub use elementwise::{ActivationGrad, activation_grad};
pub use image::{
    crop_and_resize_grad, crop_and_resize_grad_boxes, resize_bicubic_grad, resize_bilinear_grad,
    resize_nearest_grad,
};
pub use loss::{softmax_cross_entropy, sparse_softmax_cross_entropy};
pub use pad::mirror_pad_grad;
pub use pooling::{avg_pool_grad, dilation2d_grad, max_pool_grad};
pub use quantize::{fake_quant_grad, fake_quant_per_channel_grad};

use crate::{KernelError, Result, Tensor};

/// Checks that two tensors have one shape.
fn same_shape(left: &Tensor, right: &Tensor) -> Result<()> {
    if left.dims() == right.dims() {
        return Ok(());
    }
    Err(KernelError::Shapes { left: left.shape(), right: right.shape(), why: "differ" })
}
