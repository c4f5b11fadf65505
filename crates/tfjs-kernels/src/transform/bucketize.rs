//! `Bucketize`.
use crate::{KernelError, Result, Tensor};

/// For each element the number of `boundaries` (ascending) that are not greater than it.
///
/// # Errors
/// [`KernelError`] when the boundaries are not sorted or the input is not a number.
pub fn bucketize(input: &Tensor, boundaries: &[f32]) -> Result<Tensor> {
    if !boundaries.is_sorted() {
        return Err(KernelError::Argument {
            what: "boundaries",
            got: format!("{boundaries:?}"),
            expected: "in ascending order",
        });
    }
    let bucket = |x: f64| boundaries.partition_point(|&b| f64::from(b) <= x) as i32;
    let out: Vec<i32> = match input {
        // No boundary is less than or equal to NaN, but TensorFlow's binary search puts it last.
        Tensor::F32(t) => t
            .data()
            .iter()
            .map(|&x| if x.is_nan() { boundaries.len() as i32 } else { bucket(x.into()) })
            .collect(),
        Tensor::I32(t) => t.data().iter().map(|&x| bucket(x.into())).collect(),
        other => {
            return Err(KernelError::DType {
                what: "input",
                got: other.dtype(),
                expected: "float32 or int32",
            });
        }
    };
    Tensor::new(input.shape(), out)
}
