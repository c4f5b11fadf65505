//! Constants inside a graph: `TensorProto` to plain values and back.
use bytes::Bytes;
use half::{bf16, f16};

use crate::data::{Payload, TensorBytes};
use crate::proto::tensor_shape_proto::Dim;
use crate::proto::{DataType, TensorProto, TensorShapeProto};
use crate::weights::element_count;
use crate::{DType, FormatError};

/// The most elements that are made out of fewer stored values (TensorFlow repeats the last value).
///
/// A few bytes in a file could otherwise ask for any amount of memory.
pub const MAX_REPEATED_ELEMENTS: usize = 1 << 28;

/// A constant with its values in their own type.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorValue {
    /// TensorFlow's type.
    pub dtype: DataType,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order.
    pub data: TensorData,
}

/// Elements of a constant. Quantized and 4-bit integers are held by the integer type that stores them.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// `DT_FLOAT`
    Float32(Vec<f32>),
    /// `DT_DOUBLE`
    Float64(Vec<f64>),
    /// `DT_HALF`
    Float16(Vec<f16>),
    /// `DT_BFLOAT16`
    Bfloat16(Vec<bf16>),
    /// `DT_INT8`, `DT_QINT8`, `DT_INT4`
    Int8(Vec<i8>),
    /// `DT_UINT8`, `DT_QUINT8`, `DT_UINT4`
    Uint8(Vec<u8>),
    /// `DT_INT16`, `DT_QINT16`
    Int16(Vec<i16>),
    /// `DT_UINT16`, `DT_QUINT16`
    Uint16(Vec<u16>),
    /// `DT_INT32`, `DT_QINT32`
    Int32(Vec<i32>),
    /// `DT_UINT32`
    Uint32(Vec<u32>),
    /// `DT_INT64`
    Int64(Vec<i64>),
    /// `DT_UINT64`
    Uint64(Vec<u64>),
    /// `DT_BOOL`
    Bool(Vec<bool>),
    /// `DT_STRING`
    String(Vec<Bytes>),
    /// `DT_COMPLEX64`: real part, imaginary part
    Complex64(Vec<[f32; 2]>),
    /// `DT_COMPLEX128`: real part, imaginary part
    Complex128(Vec<[f64; 2]>),
}

/// What a conversion to the five run-time types changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lossy {
    /// Integers outside the range of `int32`, moved to its nearest end.
    pub int64_out_of_range: usize,
    /// Doubles that are not exactly a `float32`.
    pub float64_rounded: usize,
}

impl Lossy {
    /// Whether any value changed.
    pub fn any(self) -> bool {
        self != Lossy::default()
    }
}

/// The shape of a constant.
///
/// # Errors
/// When a dimension is unknown or negative, or the number of elements overflows.
pub fn tensor_shape(proto: &TensorProto) -> Result<Vec<usize>, FormatError> {
    let Some(shape) = &proto.tensor_shape else { return Ok(Vec::new()) };
    let sizes = || shape.dim.iter().map(|d| d.size).collect::<Vec<_>>();
    if shape.unknown_rank {
        return Err(FormatError::TensorShape { shape: sizes() });
    }
    let dims: Option<Vec<usize>> = shape.dim.iter().map(|d| usize::try_from(d.size).ok()).collect();
    let dims = dims.ok_or_else(|| FormatError::TensorShape { shape: sizes() })?;
    match element_count(&dims) {
        Some(n) if n <= isize::MAX as usize / 16 => Ok(dims),
        _ => Err(FormatError::SizeOverflow { name: "tensor constant".to_owned(), shape: sizes() }),
    }
}

impl TensorValue {
    /// Decodes a constant.
    ///
    /// As in TensorFlow, values may be raw bytes (`tensor_content`) or typed lists; a list that is too short
    /// repeats its last value, an empty one stands for zeros, a long one is cut.
    ///
    /// # Errors
    /// When the type has no values (resources, variants, 8-bit floats), the shape is not complete, the raw bytes do not fit,
    /// or values would have to be repeated beyond [`MAX_REPEATED_ELEMENTS`].
    pub fn from_proto(proto: &TensorProto) -> Result<TensorValue, FormatError> {
        use DataType::*;
        let dtype = data_type(proto)?;
        let shape = tensor_shape(proto)?;
        let from =
            Source { proto, dtype, shape: &shape, elements: element_count(&shape).unwrap_or(usize::MAX) };
        let data = match dtype {
            DtFloat | DtFloatRef => {
                TensorData::Float32(from.values(&proto.float_val, |&x| x, f32::from_le_bytes)?)
            }
            DtDouble | DtDoubleRef => {
                TensorData::Float64(from.values(&proto.double_val, |&x| x, f64::from_le_bytes)?)
            }
            DtHalf | DtHalfRef => TensorData::Float16(from.values(
                &proto.half_val,
                |&x| f16::from_bits(x as u16),
                f16::from_le_bytes,
            )?),
            DtBfloat16 | DtBfloat16Ref => TensorData::Bfloat16(from.values(
                &proto.half_val,
                |&x| bf16::from_bits(x as u16),
                bf16::from_le_bytes,
            )?),
            DtInt8 | DtInt8Ref | DtQint8 | DtInt4 => {
                TensorData::Int8(from.values(&proto.int_val, |&x| x as i8, i8::from_le_bytes)?)
            }
            DtUint8 | DtUint8Ref | DtQuint8 | DtUint4 => {
                TensorData::Uint8(from.values(&proto.int_val, |&x| x as u8, u8::from_le_bytes)?)
            }
            DtInt16 | DtInt16Ref | DtQint16 => {
                TensorData::Int16(from.values(&proto.int_val, |&x| x as i16, i16::from_le_bytes)?)
            }
            DtUint16 | DtQuint16 => {
                TensorData::Uint16(from.values(&proto.int_val, |&x| x as u16, u16::from_le_bytes)?)
            }
            DtInt32 | DtInt32Ref | DtQint32 => {
                TensorData::Int32(from.values(&proto.int_val, |&x| x, i32::from_le_bytes)?)
            }
            DtUint32 => TensorData::Uint32(from.values(&proto.uint32_val, |&x| x, u32::from_le_bytes)?),
            DtInt64 | DtInt64Ref => {
                TensorData::Int64(from.values(&proto.int64_val, |&x| x, i64::from_le_bytes)?)
            }
            DtUint64 => TensorData::Uint64(from.values(&proto.uint64_val, |&x| x, u64::from_le_bytes)?),
            DtBool | DtBoolRef => {
                TensorData::Bool(from.values(&proto.bool_val, |&x| x, |[byte]: [u8; 1]| byte != 0)?)
            }
            DtString | DtStringRef => TensorData::String(from.strings()?),
            DtComplex64 | DtComplex64Ref => {
                let pairs = from.pairs(&proto.scomplex_val)?;
                TensorData::Complex64(from.values(
                    pairs,
                    |&x| x,
                    |bytes: [u8; 8]| {
                        let ([re, im], _) = bytes.as_chunks::<4>() else { return [0.0; 2] };
                        [f32::from_le_bytes(*re), f32::from_le_bytes(*im)]
                    },
                )?)
            }
            DtComplex128 | DtComplex128Ref => {
                let pairs = from.pairs(&proto.dcomplex_val)?;
                TensorData::Complex128(from.values(
                    pairs,
                    |&x| x,
                    |bytes: [u8; 16]| {
                        let ([re, im], _) = bytes.as_chunks::<8>() else { return [0.0; 2] };
                        [f64::from_le_bytes(*re), f64::from_le_bytes(*im)]
                    },
                )?)
            }
            _ => return Err(FormatError::TensorType { dtype: dtype.as_str_name().to_owned() }),
        };
        Ok(TensorValue { dtype, shape, data })
    }

    /// The constant as a message: raw bytes, or typed values for a single element and for strings.
    pub fn to_proto(&self) -> TensorProto {
        let dim = |&d| Dim { size: i64::try_from(d).unwrap_or(i64::MAX), name: String::new() };
        let mut proto = TensorProto {
            dtype: self.dtype as i32,
            tensor_shape: Some(TensorShapeProto {
                dim: self.shape.iter().map(dim).collect(),
                unknown_rank: false,
            }),
            ..TensorProto::default()
        };
        let scalar = element_count(&self.shape) == Some(1);
        /// One value into its list, or all values into raw bytes.
        macro_rules! put {
            ($values:ident, $field:ident, |$x:ident| $item:expr) => {
                match $values.as_slice() {
                    [$x] if scalar => proto.$field = vec![$item],
                    values => {
                        proto.tensor_content =
                            values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into();
                    }
                }
            };
        }
        match &self.data {
            TensorData::Float32(v) => put!(v, float_val, |x| *x),
            TensorData::Float64(v) => put!(v, double_val, |x| *x),
            TensorData::Float16(v) => put!(v, half_val, |x| i32::from(x.to_bits())),
            TensorData::Bfloat16(v) => put!(v, half_val, |x| i32::from(x.to_bits())),
            TensorData::Int8(v) => put!(v, int_val, |x| i32::from(*x)),
            TensorData::Uint8(v) => put!(v, int_val, |x| i32::from(*x)),
            TensorData::Int16(v) => put!(v, int_val, |x| i32::from(*x)),
            TensorData::Uint16(v) => put!(v, int_val, |x| i32::from(*x)),
            TensorData::Int32(v) => put!(v, int_val, |x| *x),
            TensorData::Uint32(v) => put!(v, uint32_val, |x| *x),
            TensorData::Int64(v) => put!(v, int64_val, |x| *x),
            TensorData::Uint64(v) => put!(v, uint64_val, |x| *x),
            TensorData::Bool(v) => match v.as_slice() {
                [x] if scalar => proto.bool_val = vec![*x],
                values => {
                    proto.tensor_content = values.iter().map(|&x| u8::from(x)).collect::<Vec<_>>().into();
                }
            },
            TensorData::String(v) => proto.string_val.clone_from(v),
            TensorData::Complex64(v) => {
                let parts = v.as_flattened();
                if scalar {
                    proto.scomplex_val = parts.to_vec();
                } else {
                    proto.tensor_content =
                        parts.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into();
                }
            }
            TensorData::Complex128(v) => {
                let parts = v.as_flattened();
                if scalar {
                    proto.dcomplex_val = parts.to_vec();
                } else {
                    proto.tensor_content =
                        parts.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into();
                }
            }
        }
        proto
    }

    /// The constant in one of the five run-time types, and what that changed.
    ///
    /// All floats become `float32`, all integers `int32`; integers out of range saturate.
    pub fn into_runtime(self) -> (TensorBytes, Lossy) {
        let mut lossy = Lossy::default();
        let (dtype, data) = match self.data {
            TensorData::Float32(v) => (DType::Float32, le_bytes(v.into_iter().map(f32::to_le_bytes))),
            TensorData::Float64(v) => {
                (DType::Float32, le_bytes(v.into_iter().map(|x| lossy.float(x).to_le_bytes())))
            }
            TensorData::Float16(v) => {
                (DType::Float32, le_bytes(v.into_iter().map(|x| x.to_f32().to_le_bytes())))
            }
            TensorData::Bfloat16(v) => {
                (DType::Float32, le_bytes(v.into_iter().map(|x| x.to_f32().to_le_bytes())))
            }
            TensorData::Int8(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| i32::from(x).to_le_bytes())))
            }
            TensorData::Uint8(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| i32::from(x).to_le_bytes())))
            }
            TensorData::Int16(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| i32::from(x).to_le_bytes())))
            }
            TensorData::Uint16(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| i32::from(x).to_le_bytes())))
            }
            TensorData::Int32(v) => (DType::Int32, le_bytes(v.into_iter().map(i32::to_le_bytes))),
            TensorData::Uint32(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| lossy.int(x.into()).to_le_bytes())))
            }
            TensorData::Int64(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| lossy.int(x.into()).to_le_bytes())))
            }
            TensorData::Uint64(v) => {
                (DType::Int32, le_bytes(v.into_iter().map(|x| lossy.int(x.into()).to_le_bytes())))
            }
            TensorData::Bool(v) => (DType::Bool, le_bytes(v.into_iter().map(|x| [u8::from(x)]))),
            TensorData::String(v) => (DType::String, Payload::Strings(v)),
            TensorData::Complex64(v) => {
                (DType::Complex64, le_bytes(v.into_iter().flatten().map(f32::to_le_bytes)))
            }
            TensorData::Complex128(v) => {
                (DType::Complex64, le_bytes(v.into_iter().flatten().map(|x| lossy.float(x).to_le_bytes())))
            }
        };
        (TensorBytes { dtype, shape: self.shape, data }, lossy)
    }
}

/// A constant in one of the five run-time types. Raw bytes that need no conversion are not copied.
///
/// # Errors
/// As for [`TensorValue::from_proto`].
pub fn runtime_tensor(proto: &TensorProto) -> Result<(TensorBytes, Lossy), FormatError> {
    let dtype = match data_type(proto)? {
        DataType::DtFloat => DType::Float32,
        DataType::DtInt32 => DType::Int32,
        DataType::DtBool => DType::Bool,
        DataType::DtComplex64 => DType::Complex64,
        _ => return Ok(TensorValue::from_proto(proto)?.into_runtime()),
    };
    let shape = tensor_shape(proto)?;
    let size = element_count(&shape).zip(dtype.size()).and_then(|(n, size)| n.checked_mul(size));
    if size == Some(proto.tensor_content.len()) {
        let data = Payload::Plain(proto.tensor_content.clone());
        return Ok((TensorBytes { dtype, shape, data }, Lossy::default()));
    }
    Ok(TensorValue::from_proto(proto)?.into_runtime())
}

impl Lossy {
    fn int(&mut self, x: i128) -> i32 {
        i32::try_from(x).unwrap_or_else(|_| {
            self.int64_out_of_range += 1;
            if x < 0 { i32::MIN } else { i32::MAX }
        })
    }

    fn float(&mut self, x: f64) -> f32 {
        let short = x as f32;
        if f64::from(short) != x && !x.is_nan() {
            self.float64_rounded += 1;
        }
        short
    }
}

fn le_bytes<const N: usize>(items: impl Iterator<Item = [u8; N]>) -> Payload {
    let mut out = Vec::with_capacity(items.size_hint().0.saturating_mul(N));
    items.for_each(|item| out.extend_from_slice(&item));
    Payload::Plain(out.into())
}

fn data_type(proto: &TensorProto) -> Result<DataType, FormatError> {
    DataType::try_from(proto.dtype).map_err(|_| FormatError::TensorType { dtype: proto.dtype.to_string() })
}

/// A constant while it is decoded.
struct Source<'a> {
    proto: &'a TensorProto,
    dtype: DataType,
    shape: &'a [usize],
    elements: usize,
}

impl Source<'_> {
    fn values<V, T: Copy + Default, const N: usize>(
        &self,
        list: &[V],
        item: impl Fn(&V) -> T,
        from_le: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, FormatError> {
        let content = &self.proto.tensor_content;
        if !content.is_empty() {
            // `tensor_shape` bounds the number of elements, so the product cannot overflow.
            let expected = self.elements.saturating_mul(N);
            if content.len() != expected {
                return Err(FormatError::TensorBytes {
                    dtype: self.dtype.as_str_name(),
                    shape: self.shape.to_vec(),
                    expected,
                    found: content.len(),
                });
            }
            return Ok(content.as_chunks::<N>().0.iter().map(|&chunk| from_le(chunk)).collect());
        }
        self.check_repeat(list.len())?;
        let mut values: Vec<T> = list.iter().take(self.elements).map(item).collect();
        values.resize(self.elements, values.last().copied().unwrap_or_default());
        Ok(values)
    }

    fn check_repeat(&self, found: usize) -> Result<(), FormatError> {
        if found < self.elements && self.elements > MAX_REPEATED_ELEMENTS {
            return Err(FormatError::TensorTooLarge {
                shape: self.shape.to_vec(),
                found,
                elements: self.elements,
                limit: MAX_REPEATED_ELEMENTS,
            });
        }
        Ok(())
    }

    fn pairs<'v, T>(&self, parts: &'v [T]) -> Result<&'v [[T; 2]], FormatError> {
        match parts.as_chunks::<2>() {
            (pairs, []) => Ok(pairs),
            _ => Err(FormatError::TensorValues {
                dtype: self.dtype.as_str_name(),
                shape: self.shape.to_vec(),
                expected: self.elements.saturating_mul(2),
                found: parts.len(),
            }),
        }
    }

    /// Strings stand in their own list or, seldom, as raw bytes: all lengths as varints, then all characters.
    fn strings(&self) -> Result<Vec<Bytes>, FormatError> {
        let content = &self.proto.tensor_content;
        if content.is_empty() {
            self.check_repeat(self.proto.string_val.len())?;
            let mut values: Vec<Bytes> = self.proto.string_val.iter().take(self.elements).cloned().collect();
            values.resize(self.elements, values.last().cloned().unwrap_or_default());
            return Ok(values);
        }
        let wrong = |expected| FormatError::TensorBytes {
            dtype: self.dtype.as_str_name(),
            shape: self.shape.to_vec(),
            expected,
            found: content.len(),
        };
        // Each string needs at least the byte of its length.
        if self.elements > content.len() {
            return Err(wrong(self.elements));
        }
        let mut rest = content.clone();
        let mut lengths = Vec::with_capacity(self.elements);
        for _ in 0..self.elements {
            let length = prost::encoding::decode_varint(&mut rest).map_err(|_| wrong(self.elements))?;
            lengths.push(usize::try_from(length).unwrap_or(usize::MAX));
        }
        let total = lengths.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        if total != rest.len() {
            return Err(wrong((content.len() - rest.len()).saturating_add(total)));
        }
        Ok(lengths.into_iter().map(|length| rest.split_to(length)).collect())
    }
}
