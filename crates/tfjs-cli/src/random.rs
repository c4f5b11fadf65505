//! Inputs made up for measuring, the same in every process.

use num_complex::Complex32;
use tfjs_graph::{DType, TensorInfo};
use tfjs_kernels::{Tensor, TfString};

use crate::{CliError, show};

/// A tensor for an input: numbers from 0 to 1, whole ones 0 or 1; `unknown` stands for dimensions that are not known.
///
/// # Errors
/// When the input's rank is not known, or the shape is too large.
pub(crate) fn tensor(input: &TensorInfo, unknown: usize, seed: u64) -> Result<Tensor, CliError> {
    let refused = |what: String| CliError::NoRandomInput { input: input.key.clone(), what };
    let Some(dims) = &input.shape else { return Err(refused("of unknown shape".to_owned())) };
    let shape: Vec<usize> = dims.iter().map(|d| d.unwrap_or(unknown)).collect();
    let too_large = || refused(format!("of shape {}, which does not fit in memory", show::shape(dims)));
    let n = tfjs_kernels::Shape::from(&shape[..]).checked_len().map_err(|_| too_large())?;
    let mut state = SplitMix64(seed.wrapping_add(1));
    let mut unit = || (state.next() >> 40) as f32 / (1u32 << 24) as f32;
    match input.dtype.unwrap_or(DType::Float32) {
        DType::Float32 => Tensor::new(shape, (0..n).map(|_| unit()).collect()),
        DType::Int32 => Tensor::new(shape, (0..n).map(|_| i32::from(unit() >= 0.5)).collect()),
        DType::Bool => Tensor::new(shape, (0..n).map(|_| unit() >= 0.5).collect()),
        DType::Complex64 => Tensor::new(shape, (0..n).map(|_| Complex32::new(unit(), unit())).collect()),
        DType::String => Tensor::new(shape, vec![TfString::from("text"); n]),
    }
    .map_err(|_| too_large())
}

/// A generator of numbers; the upper half has the better bits.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Orders of samples: the same for the same seed and epoch.
pub(crate) struct Order(SplitMix64);

impl Order {
    pub(crate) fn new(seed: i32, epoch: u64) -> Order {
        let mut state = SplitMix64(i64::from(seed).cast_unsigned());
        let first = state.next();
        Order(SplitMix64(first ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Puts things into another order.
    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            let j = (u128::from(self.0.next()) * (i as u128 + 1)) >> 64;
            all.swap(i, j as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use tfjs_graph::{DType, TensorInfo};

    use super::tensor;

    #[test]
    fn made_up_inputs_have_the_declared_type_and_shape() {
        for dtype in [DType::Float32, DType::Int32, DType::Bool, DType::Complex64, DType::String] {
            let shape = Some(vec![None, Some(3)]);
            let info = TensorInfo { key: "x".into(), name: "x:0".into(), dtype: Some(dtype), shape };
            let made = tensor(&info, 1, 0).unwrap();
            assert_eq!((made.dtype(), made.dims()), (dtype, &[1, 3][..]));
            assert_eq!(made, tensor(&info, 1, 0).unwrap());
        }
        let info = TensorInfo { key: "x".into(), name: "x:0".into(), dtype: None, shape: None };
        assert!(tensor(&info, 1, 0).is_err());
    }
}
