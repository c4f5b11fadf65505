//! Tensors inside messages.

use bytes::Bytes;
use tfjs_format::proto::{DataType, TensorProto};

use super::tensor::{RawData, RawTensor, base_type, element_count, full_shape, width};
use crate::ConvertError;

/// Most bytes that a message may blow up to by repeating its last value: 4 GiB.
const MAX_REPEATED: usize = 1 << 32;

/// The tensor of a message: raw content, or typed values of which the last one is repeated.
///
/// # Errors
/// When values and shape do not agree, or the type cannot be stored.
pub(crate) fn raw_tensor(proto: &TensorProto, name: &str) -> Result<RawTensor, ConvertError> {
    let dtype = base_type(proto.dtype);
    let shape = full_shape(proto.tensor_shape.as_ref(), name)?;
    let count = element_count(&shape).ok_or_else(|| ConvertError::TooLarge { tensor: name.to_owned() })?;
    let data = if dtype == DataType::DtString {
        strings(proto, count, name)?
    } else {
        numbers(proto, dtype, count, name)?
    };
    Ok(RawTensor { dtype, shape, data })
}

fn numbers(proto: &TensorProto, dtype: DataType, count: usize, name: &str) -> Result<RawData, ConvertError> {
    use DataType::*;
    let unit = width(dtype)
        .ok_or_else(|| ConvertError::UnsupportedType { name: name.to_owned(), dtype: dtype.as_str_name() })?;
    let wrong = |got: usize| ConvertError::TensorValues { tensor: name.to_owned(), got, expected: count };
    let expected =
        count.checked_mul(unit).ok_or_else(|| ConvertError::TooLarge { tensor: name.to_owned() })?;
    if !proto.tensor_content.is_empty() {
        if proto.tensor_content.len() != expected {
            return Err(wrong(proto.tensor_content.len() / unit));
        }
        return Ok(RawData::Bytes(proto.tensor_content.clone()));
    }
    let mut bytes: Vec<u8> = match dtype {
        DtFloat => proto.float_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtDouble => proto.double_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtComplex64 => proto.scomplex_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtComplex128 => proto.dcomplex_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtInt64 => proto.int64_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtUint64 => proto.uint64_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtUint32 => proto.uint32_val.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DtBool => proto.bool_val.iter().map(|&v| u8::from(v)).collect(),
        DtHalf | DtBfloat16 => proto.half_val.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect(),
        DtFloat8E5m2 | DtFloat8E4m3fn => proto.float8_val.to_vec(),
        _ => proto.int_val.iter().flat_map(|v| v.to_le_bytes().into_iter().take(unit)).collect(),
    };
    if bytes.len() > expected || !bytes.len().is_multiple_of(unit) {
        return Err(wrong(bytes.len() / unit));
    }
    if bytes.len() < expected {
        if expected > MAX_REPEATED {
            return Err(ConvertError::TooLarge { tensor: name.to_owned() });
        }
        // No value at all stands for zeros.
        let last = if bytes.is_empty() { vec![0; unit] } else { bytes[bytes.len() - unit..].to_vec() };
        bytes.reserve_exact(expected - bytes.len());
        while bytes.len() < expected {
            bytes.extend_from_slice(&last);
        }
    }
    Ok(RawData::Bytes(Bytes::from(bytes)))
}

fn strings(proto: &TensorProto, count: usize, name: &str) -> Result<RawData, ConvertError> {
    let mut strings = proto.string_val.clone();
    if strings.len() > count {
        return Err(ConvertError::TensorValues {
            tensor: name.to_owned(),
            got: strings.len(),
            expected: count,
        });
    }
    if count > MAX_REPEATED / size_of::<Bytes>() {
        return Err(ConvertError::TooLarge { tensor: name.to_owned() });
    }
    let last = strings.last().cloned().unwrap_or_default();
    strings.resize(count, last);
    Ok(RawData::Strings(strings))
}
