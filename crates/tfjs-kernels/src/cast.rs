//! `Cast`: TensorFlow's types as they map on the five types at run time.
use num_complex::Complex32;
use tfjs_format::proto::DataType;

use crate::{
    DType, Element, KernelError, Result, Tensor, TensorOf,
    elementwise::{map, map_same},
};

/// Converts to the TensorFlow type `to`, held as its type at run time.
///
/// Conversions round and wrap as the narrow type would: floats to integers go toward zero, to `uint8`
/// and the like modulo the type's range, to `half` and `bfloat16` through that type's precision
/// (rounded, or cut when `truncate`). A float outside the range of `int32` gives the smallest
/// integer, as on x86; one outside the range of a 64-bit type keeps the low 32 bits.
///
/// # Errors
/// [`KernelError`] for strings, and for types that no tensor holds.
pub fn cast(x: Tensor, to: DataType, truncate: bool) -> Result<Tensor> {
    let unsupported = || KernelError::Argument {
        what: "the type to cast to",
        got: format!("{to:?}"),
        expected: "a float, integer, bool or complex type",
    };
    let target = DType::from_proto(to).ok_or_else(unsupported)?;
    if (target == DType::String) != (x.dtype() == DType::String) {
        return Err(KernelError::DType {
            what: "the input",
            got: x.dtype(),
            expected: if target == DType::String { "string" } else { "a number or bool" },
        });
    }
    Ok(match target {
        DType::String => x,
        DType::Float32 => narrow_floats(to_f32(x)?, to, truncate).into(),
        DType::Int32 => wrap_integers(to_i32(x, to)?, to).into(),
        DType::Bool => to_bool(x)?.into(),
        DType::Complex64 => to_c64(x)?.into(),
    })
}

fn to_f32(x: Tensor) -> Result<TensorOf<f32>> {
    match x {
        Tensor::I32(x) => map(&x, |v| v as f32),
        Tensor::Bool(x) => map(&x, |v| if v { 1.0 } else { 0.0 }),
        Tensor::C64(x) => map(&x, |v| v.re),
        other => other.into_typed("the input"),
    }
}

fn to_i32(x: Tensor, to: DataType) -> Result<TensorOf<i32>> {
    use DataType::*;
    let wide = matches!(to, DtInt64 | DtUint64 | DtUint32);
    match x {
        Tensor::F32(x) => floats_to_i32(&x, wide, |v| v),
        Tensor::C64(x) => floats_to_i32(&x, wide, |v| v.re),
        Tensor::Bool(x) => map(&x, i32::from),
        other => other.into_typed("the input"),
    }
}

fn floats_to_i32<T: Element + Copy>(
    x: &TensorOf<T>,
    wide: bool,
    part: impl Fn(T) -> f32 + Sync,
) -> Result<TensorOf<i32>> {
    if wide {
        // Out of the 64-bit range: its smallest number, whose low bits are zero.
        return map(x, |v| {
            let v = part(v);
            if v.abs() < 9.223_372e18 { v as i64 as i32 } else { 0 }
        });
    }
    map(x, |v| {
        let v = part(v);
        // Not `as` alone: it saturates at the upper end and makes 0 of NaN.
        if v.abs() < 2_147_483_648.0 { v as i32 } else { i32::MIN }
    })
}

fn wrap_integers(x: TensorOf<i32>, to: DataType) -> TensorOf<i32> {
    use DataType::*;
    match to {
        DtUint8 | DtQuint8 | DtUint8Ref => map_same(x, |v| i32::from(v as u8)),
        DtInt8 | DtQint8 | DtInt8Ref => map_same(x, |v| i32::from(v as i8)),
        DtUint16 | DtQuint16 => map_same(x, |v| i32::from(v as u16)),
        DtInt16 | DtQint16 | DtInt16Ref => map_same(x, |v| i32::from(v as i16)),
        DtInt4 => map_same(x, |v| (v << 28) >> 28),
        DtUint4 => map_same(x, |v| v & 15),
        _ => x,
    }
}

fn narrow_floats(x: TensorOf<f32>, to: DataType, truncate: bool) -> TensorOf<f32> {
    use DataType::*;
    // Clearing the bits that the narrow type lacks makes its rounding a truncation.
    let cut = |v: f32, bits: u32| f32::from_bits(v.to_bits() & !((1 << bits) - 1));
    match (to, truncate) {
        (DtHalf | DtHalfRef, false) => map_same(x, |v| half::f16::from_f32(v).to_f32()),
        (DtHalf | DtHalfRef, true) => {
            map_same(x, |v| if v.is_nan() { v } else { half::f16::from_f32(cut(v, 13)).to_f32() })
        }
        (DtBfloat16 | DtBfloat16Ref, false) => map_same(x, |v| half::bf16::from_f32(v).to_f32()),
        (DtBfloat16 | DtBfloat16Ref, true) => map_same(x, |v| if v.is_nan() { v } else { cut(v, 16) }),
        _ => x,
    }
}

fn to_bool(x: Tensor) -> Result<TensorOf<bool>> {
    match x {
        Tensor::F32(x) => map(&x, |v| v != 0.0),
        Tensor::I32(x) => map(&x, |v| v != 0),
        // TensorFlow looks at the real part only.
        Tensor::C64(x) => map(&x, |v| v.re != 0.0),
        other => other.into_typed("the input"),
    }
}

fn to_c64(x: Tensor) -> Result<TensorOf<Complex32>> {
    match x {
        Tensor::C64(x) => Ok(x),
        other => map(&to_f32(other)?, |v| Complex32::new(v, 0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(to: DataType) -> Vec<i32> {
        let x = vec![3e9, 1e20, f32::NAN, 1.9, -1.9, 300.5, -1.5, 70000.7, 256.0];
        cast(Tensor::vector(x), to, false).unwrap().data().unwrap().to_vec()
    }

    fn ints(to: DataType) -> Vec<i32> {
        let x = vec![-1, 300, -300, 70000, i32::MAX, i32::MIN];
        cast(Tensor::vector(x), to, false).unwrap().data().unwrap().to_vec()
    }

    #[test]
    fn floats_become_integers_as_in_tensorflow() {
        let low = i32::MIN;
        assert_eq!(floats(DataType::DtInt32), [low, low, low, 1, -1, 300, -1, 70000, 256]);
        assert_eq!(floats(DataType::DtUint8), [0, 0, 0, 1, 255, 44, 255, 112, 0]);
        assert_eq!(floats(DataType::DtInt16), [0, 0, 0, 1, -1, 300, -1, 4464, 256]);
        // 3e9 does not fit the run-time type: its low 32 bits.
        assert_eq!(floats(DataType::DtInt64)[0], 3_000_000_000u32 as i32);
    }

    #[test]
    fn integers_wrap_to_narrow_types() {
        assert_eq!(ints(DataType::DtUint8), [255, 44, 212, 112, 255, 0]);
        assert_eq!(ints(DataType::DtInt8), [-1, 44, -44, 112, -1, 0]);
        assert_eq!(ints(DataType::DtUint16), [65535, 300, 65236, 4464, 65535, 0]);
    }

    #[test]
    fn half_and_bfloat16_lose_precision_as_in_tensorflow() {
        let x = || Tensor::vector(vec![1.9f32, 300.5, 70000.7, 255.9]);
        let run = |to, cut| cast(x(), to, cut).unwrap().data::<f32>().unwrap().to_vec();
        assert_eq!(run(DataType::DtHalf, false), [1.900_390_6, 300.5, f32::INFINITY, 255.875]);
        assert_eq!(run(DataType::DtBfloat16, false), [1.8984375, 300.0, 70144.0, 256.0]);
        let cut = cast(Tensor::vector(vec![1.234_567_9f32, 70000.3]), DataType::DtBfloat16, true).unwrap();
        assert_eq!(cut.data::<f32>().unwrap(), [1.234375, 69632.0]);
    }

    #[test]
    fn strings_are_not_cast() {
        assert!(cast(Tensor::scalar(crate::TfString::from("1")), DataType::DtFloat, false).is_err());
        assert!(cast(Tensor::scalar(1.0f32), DataType::DtString, false).is_err());
        assert!(cast(Tensor::scalar(1.0f32), DataType::DtResource, false).is_err());
    }

    #[test]
    fn complex_numbers_keep_their_real_part() {
        let z = Tensor::vector(vec![Complex32::new(1.9, 2.0), Complex32::new(0.0, 2.0)]);
        assert_eq!(cast(z.clone(), DataType::DtInt32, false).unwrap().data::<i32>().unwrap(), [1, 0]);
        assert_eq!(cast(z, DataType::DtBool, false).unwrap().data::<bool>().unwrap(), [true, false]);
    }
}
