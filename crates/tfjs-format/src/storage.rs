use std::fmt;

use crate::DType;

/// How an element of a weight is stored, the names that `dtype` can have in a weights manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Storage {
    /// 32-bit IEEE float.
    Float32,
    /// 32-bit signed integer.
    Int32,
    /// One byte, 0 or 1.
    Bool,
    /// Per element a little-endian `u32` length, then that many bytes.
    String,
    /// Two 32-bit floats, real part first.
    Complex64,
    /// One byte: quantized values, or plain integers that TF.js itself refuses to load.
    Uint8,
    /// Two bytes: quantized values, or plain integers that TF.js itself refuses to load.
    Uint16,
    /// 16-bit IEEE float.
    Float16,
}

impl Storage {
    /// All of them, in the order of the enum.
    pub const ALL: [Storage; 8] = [
        Storage::Float32,
        Storage::Int32,
        Storage::Bool,
        Storage::String,
        Storage::Complex64,
        Storage::Uint8,
        Storage::Uint16,
        Storage::Float16,
    ];

    /// The name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Storage::Float32 => "float32",
            Storage::Int32 => "int32",
            Storage::Bool => "bool",
            Storage::String => "string",
            Storage::Complex64 => "complex64",
            Storage::Uint8 => "uint8",
            Storage::Uint16 => "uint16",
            Storage::Float16 => "float16",
        }
    }

    /// The inverse of [`Storage::name`].
    pub fn from_name(name: &str) -> Option<Storage> {
        Storage::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Bytes per element; `None` for strings.
    pub fn size(self) -> Option<usize> {
        match self {
            Storage::Float32 | Storage::Int32 => Some(4),
            Storage::Bool | Storage::Uint8 => Some(1),
            Storage::Uint16 | Storage::Float16 => Some(2),
            Storage::Complex64 => Some(8),
            Storage::String => None,
        }
    }

    /// The type that elements have at run time.
    pub fn dtype(self) -> DType {
        match self {
            Storage::Float32 | Storage::Float16 => DType::Float32,
            Storage::Int32 | Storage::Uint8 | Storage::Uint16 => DType::Int32,
            Storage::Bool => DType::Bool,
            Storage::String => DType::String,
            Storage::Complex64 => DType::Complex64,
        }
    }
}

impl From<DType> for Storage {
    fn from(dtype: DType) -> Storage {
        match dtype {
            DType::Float32 => Storage::Float32,
            DType::Int32 => Storage::Int32,
            DType::Bool => Storage::Bool,
            DType::String => Storage::String,
            DType::Complex64 => Storage::Complex64,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
