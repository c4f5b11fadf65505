use std::fmt;

use bytes::Bytes;
use tfjs_format::proto::DataType;

use crate::ConvertError;

/// A tensor as TensorFlow stores it: any of its types, row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor {
    /// TensorFlow's type.
    pub dtype: DataType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: RawData,
}

/// Elements of a [`RawTensor`].
#[derive(Clone, PartialEq)]
pub enum RawData {
    /// Elements of fixed width, little-endian.
    Bytes(Bytes),
    /// Elements of a `DT_FLOAT` tensor, as they are used: large weights are not copied once more.
    Floats(Vec<f32>),
    /// Elements of a string tensor.
    Strings(Vec<Bytes>),
}

impl fmt::Debug for RawData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawData::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            RawData::Floats(floats) => write!(f, "{} floats", floats.len()),
            RawData::Strings(strings) => write!(f, "{} strings", strings.len()),
        }
    }
}

/// Type and shape of a stored tensor, known without reading its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMeta {
    /// TensorFlow's type.
    pub dtype: DataType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorMeta {
    /// Number of elements; `None` when it overflows.
    pub fn elements(&self) -> Option<usize> {
        element_count(&self.shape)
    }

    /// Number of bytes of the elements; `None` for strings, types of no fixed width, and on overflow.
    pub fn byte_len(&self) -> Option<usize> {
        self.elements()?.checked_mul(width(self.dtype)?)
    }
}

/// Product of the dimensions; `None` when it overflows.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Bytes per element of a type of fixed width. Four-bit types take a byte per element.
pub fn width(dtype: DataType) -> Option<usize> {
    use DataType::*;
    Some(match dtype {
        DtBool | DtInt8 | DtUint8 | DtQint8 | DtQuint8 | DtFloat8E5m2 | DtFloat8E4m3fn | DtInt4 | DtUint4 => {
            1
        }
        DtInt16 | DtUint16 | DtQint16 | DtQuint16 | DtHalf | DtBfloat16 => 2,
        DtFloat | DtInt32 | DtUint32 | DtQint32 => 4,
        DtDouble | DtInt64 | DtUint64 | DtComplex64 => 8,
        DtComplex128 => 16,
        _ => return None,
    })
}

/// The type that a reference to it holds: `DT_FLOAT_REF` becomes `DT_FLOAT`.
pub(crate) fn base_type(dtype: i32) -> DataType {
    DataType::try_from(if dtype > 100 { dtype - 100 } else { dtype }).unwrap_or(DataType::DtInvalid)
}

/// A shape that must be known in full, as the shape of a stored value is.
pub(crate) fn full_shape(
    shape: Option<&tfjs_format::proto::TensorShapeProto>,
    name: &str,
) -> Result<Vec<usize>, ConvertError> {
    let Some(shape) = shape else { return Ok(Vec::new()) };
    let dims = shape.dim.iter().map(|d| usize::try_from(d.size).ok());
    let dims: Option<Vec<usize>> = if shape.unknown_rank { None } else { dims.collect() };
    dims.ok_or_else(|| ConvertError::PartialShape { tensor: name.to_owned() })
}
