use std::fmt;

use crate::proto::DataType;

/// Element type of a tensor at run time: the five types of TensorFlow.js.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit IEEE float.
    Float32,
    /// 32-bit signed integer; also stands for all of TensorFlow's other integer types.
    Int32,
    /// Boolean, one byte.
    Bool,
    /// Byte string of any length.
    String,
    /// Two 32-bit floats, real part first.
    Complex64,
}

impl DType {
    /// All five, in the order of the enum.
    pub const ALL: [DType; 5] = [DType::Float32, DType::Int32, DType::Bool, DType::String, DType::Complex64];

    /// The name in `model.json` and in TensorFlow.js.
    pub fn name(self) -> &'static str {
        match self {
            DType::Float32 => "float32",
            DType::Int32 => "int32",
            DType::Bool => "bool",
            DType::String => "string",
            DType::Complex64 => "complex64",
        }
    }

    /// The inverse of [`DType::name`].
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Bytes per element; `None` for strings.
    pub fn size(self) -> Option<usize> {
        match self {
            DType::Float32 | DType::Int32 => Some(4),
            DType::Bool => Some(1),
            DType::String => None,
            DType::Complex64 => Some(8),
        }
    }

    /// The type at run time of a TensorFlow type: every float is `float32`, every integer `int32`.
    ///
    /// `None` for resources, variants and 4- or 8-bit floats. Unlike TF.js, which knows only some of
    /// them, all integer types and `bfloat16` are mapped.
    pub fn from_proto(dtype: DataType) -> Option<DType> {
        use DataType::*;
        Some(match dtype {
            DtFloat | DtDouble | DtHalf | DtBfloat16 | DtFloatRef | DtDoubleRef | DtHalfRef
            | DtBfloat16Ref => DType::Float32,
            DtInt32 | DtInt64 | DtInt16 | DtInt8 | DtUint8 | DtUint16 | DtUint32 | DtUint64 | DtInt4
            | DtUint4 | DtQint8 | DtQuint8 | DtQint16 | DtQuint16 | DtQint32 | DtInt32Ref | DtInt64Ref
            | DtInt16Ref | DtInt8Ref | DtUint8Ref => DType::Int32,
            DtBool | DtBoolRef => DType::Bool,
            DtString | DtStringRef => DType::String,
            DtComplex64 | DtComplex128 | DtComplex64Ref | DtComplex128Ref => DType::Complex64,
            _ => return None,
        })
    }

    /// TensorFlow's type of the same name.
    pub fn to_proto(self) -> DataType {
        match self {
            DType::Float32 => DataType::DtFloat,
            DType::Int32 => DataType::DtInt32,
            DType::Bool => DataType::DtBool,
            DType::String => DataType::DtString,
            DType::Complex64 => DataType::DtComplex64,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
