//! From TensorFlow's types to the five of TensorFlow.js, and what that loses.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use half::{bf16, f16};
use tfjs_format::proto::DataType;
use tfjs_graph::Tensor;
use tfjs_kernels::TfString;

use crate::{
    ConvertError, Warning,
    source::{RawData, RawTensor},
};

/// The lossy steps of one conversion, by constant. Clones share it: values are often read long after the graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<String, Warning>>>);

impl Ledger {
    fn note(&self, name: &str, warning: Warning) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), warning);
    }

    /// All entries so far, by constant.
    pub(crate) fn entries(&self) -> Vec<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The tensor at run time: every float is `float32`, every integer `int32`.
///
/// Integers out of range move to the nearest end and are noted, as is double precision that is rounded away.
///
/// # Errors
/// When the type has no values, or shape and elements do not agree.
pub(crate) fn to_tensor(raw: RawTensor, name: &str, ledger: &Ledger) -> Result<Tensor, ConvertError> {
    use DataType::*;
    let RawTensor { dtype, shape, data } = raw;
    let bytes = match data {
        RawData::Strings(strings) => {
            return build(shape, strings.into_iter().map(TfString).collect::<Vec<_>>(), name);
        }
        RawData::Floats(floats) => return build(shape, floats, name),
        RawData::Bytes(bytes) => bytes,
    };
    let wide = |values: Vec<i128>| integers(values, dtype, name, ledger);
    match dtype {
        DtFloat => build(shape, elements(&bytes, f32::from_le_bytes), name),
        DtDouble => build(shape, doubles(&elements(&bytes, f64::from_le_bytes), dtype, name, ledger), name),
        DtHalf => build(shape, elements(&bytes, |b| f16::from_le_bytes(b).to_f32()), name),
        DtBfloat16 => build(shape, elements(&bytes, |b| bf16::from_le_bytes(b).to_f32()), name),
        DtInt32 | DtQint32 => build(shape, elements(&bytes, i32::from_le_bytes), name),
        DtInt8 | DtQint8 | DtInt4 => {
            build(shape, elements(&bytes, |b| i32::from(i8::from_le_bytes(b))), name)
        }
        DtUint8 | DtQuint8 | DtUint4 => build(shape, elements(&bytes, |[b]| i32::from(b)), name),
        DtInt16 | DtQint16 => build(shape, elements(&bytes, |b| i32::from(i16::from_le_bytes(b))), name),
        DtUint16 | DtQuint16 => build(shape, elements(&bytes, |b| i32::from(u16::from_le_bytes(b))), name),
        DtInt64 => build(shape, wide(elements(&bytes, |b| i128::from(i64::from_le_bytes(b)))), name),
        DtUint32 => build(shape, wide(elements(&bytes, |b| i128::from(u32::from_le_bytes(b)))), name),
        DtUint64 => build(shape, wide(elements(&bytes, |b| i128::from(u64::from_le_bytes(b)))), name),
        DtBool => build(shape, elements(&bytes, |[b]| b != 0), name),
        DtComplex64 => {
            let parts = elements(&bytes, f32::from_le_bytes);
            build(shape, pairs(&parts), name)
        }
        DtComplex128 => {
            let parts = doubles(&elements(&bytes, f64::from_le_bytes), dtype, name, ledger);
            build(shape, pairs(&parts), name)
        }
        _ => Err(ConvertError::UnsupportedType { name: name.to_owned(), dtype: dtype.as_str_name() }),
    }
}

fn build<T: tfjs_kernels::Element>(
    shape: Vec<usize>,
    data: Vec<T>,
    name: &str,
) -> Result<Tensor, ConvertError> {
    Tensor::new(shape, data)
        .map_err(|source| ConvertError::Value { name: name.to_owned(), source: Box::new(source) })
}

fn elements<T, const N: usize>(bytes: &Bytes, f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
}

fn pairs(parts: &[f32]) -> Vec<num_complex::Complex32> {
    parts.as_chunks::<2>().0.iter().map(|&[re, im]| num_complex::Complex32::new(re, im)).collect()
}

fn integers(values: Vec<i128>, dtype: DataType, name: &str, ledger: &Ledger) -> Vec<i32> {
    let range = i128::from(i32::MIN)..=i128::from(i32::MAX);
    let mut outside = values.iter().filter(|v| !range.contains(v));
    if let Some(&first) = outside.next() {
        let count = outside.count() + 1;
        let dtype = dtype.as_str_name();
        ledger.note(name, Warning::IntegerOverflow { name: name.to_owned(), dtype, count, first });
    }
    values.into_iter().map(|v| v.clamp(*range.start(), *range.end()) as i32).collect()
}

fn doubles(values: &[f64], dtype: DataType, name: &str, ledger: &Ledger) -> Vec<f32> {
    let error = |&v: &f64| {
        let rounded = f64::from(v as f32);
        if v == rounded || v.is_nan() { 0.0 } else { ((v - rounded) / v).abs() }
    };
    let relative = values.iter().map(error).fold(0.0, f64::max);
    if relative > 0.0 {
        let dtype = dtype.as_str_name();
        ledger.note(name, Warning::Precision { name: name.to_owned(), dtype, relative });
    }
    values.iter().map(|&v| v as f32).collect()
}
