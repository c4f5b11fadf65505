//! Tensors at the border of this crate: little-endian bytes of one of the five run-time types.
use std::borrow::Cow;

use bytes::Bytes;

use crate::{DType, FormatError};

/// The elements of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorBytes {
    /// Type of the elements.
    pub dtype: DType,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Payload,
}

/// Bytes of fixed-size elements, or strings.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Little-endian elements without padding; often a slice of a mapped file, so not necessarily aligned.
    Plain(Bytes),
    /// One byte string per element.
    Strings(Vec<Bytes>),
}

impl TensorBytes {
    /// The elements of a `float32` tensor; borrowed when the bytes happen to be aligned.
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn f32s(&self) -> Result<Cow<'_, [f32]>, FormatError> {
        self.elements(DType::Float32, f32::from_le_bytes)
    }

    /// The elements of an `int32` tensor; borrowed when the bytes happen to be aligned.
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn i32s(&self) -> Result<Cow<'_, [i32]>, FormatError> {
        self.elements(DType::Int32, i32::from_le_bytes)
    }

    /// The elements of a `bool` tensor: every byte that is not zero is true.
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn bools(&self) -> Result<Vec<bool>, FormatError> {
        Ok(self.plain(DType::Bool)?.iter().map(|&b| b != 0).collect())
    }

    /// The elements of a `complex64` tensor as pairs (real, imaginary).
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn complex(&self) -> Result<Cow<'_, [[f32; 2]]>, FormatError> {
        self.elements(DType::Complex64, |bytes: [u8; 8]| {
            let [a, b, c, d, e, f, g, h] = bytes;
            [f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h])]
        })
    }

    /// The elements of a string tensor.
    ///
    /// # Errors
    /// When the tensor has another type.
    pub fn strings(&self) -> Result<&[Bytes], FormatError> {
        match &self.data {
            Payload::Strings(items) => Ok(items),
            Payload::Plain(_) => Err(FormatError::WrongDType { found: self.dtype, wanted: DType::String }),
        }
    }

    fn plain(&self, wanted: DType) -> Result<&Bytes, FormatError> {
        match &self.data {
            Payload::Plain(bytes) if self.dtype == wanted => Ok(bytes),
            _ => Err(FormatError::WrongDType { found: self.dtype, wanted }),
        }
    }

    fn elements<T: bytemuck::Pod, const N: usize>(
        &self,
        wanted: DType,
        from_le: fn([u8; N]) -> T,
    ) -> Result<Cow<'_, [T]>, FormatError> {
        let bytes = self.plain(wanted)?;
        if cfg!(target_endian = "little")
            && let Ok(items) = bytemuck::try_cast_slice(bytes)
        {
            return Ok(Cow::Borrowed(items));
        }
        Ok(Cow::Owned(bytes.as_chunks::<N>().0.iter().map(|&chunk| from_le(chunk)).collect()))
    }
}
