//! `StringLower`, `StringUpper`, `StringStrip`, `StringLength`, `Substr`.
use super::split::is_space;
use crate::{KernelError, Result, Tensor, TfString, transform::broadcast_shapes, transform::broadcast_to};

/// What lengths and positions count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LengthUnit {
    /// Bytes.
    #[default]
    Byte,
    /// Unicode characters of UTF-8 text.
    Utf8Char,
}

fn cased(input: Tensor, ascii: fn(&[u8]) -> Vec<u8>, unicode: Option<fn(&str) -> String>) -> Result<Tensor> {
    super::map(input, |s| match unicode {
        None => Ok(TfString::from(ascii(s))),
        Some(f) => Ok(TfString::from(f(&String::from_utf8_lossy(s)))),
    })
}

/// Lower case: of ASCII letters, or of all with `utf8`.
///
/// # Errors
/// [`KernelError`] when the input is not strings.
pub fn string_lower(input: Tensor, utf8: bool) -> Result<Tensor> {
    cased(input, |s| s.to_ascii_lowercase(), utf8.then_some(|s| s.to_lowercase()))
}

/// Upper case: of ASCII letters, or of all with `utf8`.
///
/// # Errors
/// [`KernelError`] when the input is not strings.
pub fn string_upper(input: Tensor, utf8: bool) -> Result<Tensor> {
    cased(input, |s| s.to_ascii_uppercase(), utf8.then_some(|s| s.to_uppercase()))
}

/// Removes white space at both ends.
///
/// # Errors
/// [`KernelError`] when the input is not strings.
pub fn string_strip(input: Tensor) -> Result<Tensor> {
    super::map(input, |s| {
        let start = s.iter().position(|c| !is_space(c)).unwrap_or(s.len());
        let end = s.iter().rposition(|c| !is_space(c)).map_or(start, |i| i + 1);
        Ok(TfString::from(s[start..end].to_vec()))
    })
}

/// Whether a byte starts a character (is not a continuation byte of UTF-8).
fn starts_char(c: &u8) -> bool {
    c & 0xc0 != 0x80
}

/// Length of every string.
///
/// # Errors
/// [`KernelError`] when the input is not strings.
pub fn string_length(input: &Tensor, unit: LengthUnit) -> Result<Tensor> {
    let t = input.typed::<TfString>("input")?;
    let length = |s: &TfString| match unit {
        LengthUnit::Byte => s.len(),
        LengthUnit::Utf8Char => s.iter().filter(|c| starts_char(c)).count(),
    };
    let lengths: Vec<i32> = t.data().iter().map(|s| length(s).min(i32::MAX as usize) as i32).collect();
    Tensor::new(t.shape(), lengths)
}

/// `len` units of every string from `pos` on; a negative `pos` counts from the end. Shapes broadcast.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit, or a position is outside its string.
pub fn substr(input: Tensor, pos: Tensor, len: Tensor, unit: LengthUnit) -> Result<Tensor> {
    if pos.dims() != len.dims() {
        return Err(KernelError::Shapes {
            left: pos.shape(),
            right: len.shape(),
            why: "of pos and len differ",
        });
    }
    let shape = broadcast_shapes(&input.shape(), &pos.shape())?;
    shape.checked_len()?;
    let target: Vec<i32> = shape.iter().map(|&d| d as i32).collect();
    let (pos, len) = (broadcast_to(pos, &target)?, broadcast_to(len, &target)?);
    let (pos, len) = (pos.data::<i32>()?, len.data::<i32>()?);
    let input = broadcast_to(input, &target)?;
    let strings = input.typed::<TfString>("input")?.data();
    let mut out = Vec::with_capacity(strings.len());
    for ((s, &pos), &len) in strings.iter().zip(pos).zip(len) {
        // Byte offset of every unit, and the end.
        let starts: Vec<usize> = match unit {
            LengthUnit::Byte => (0..=s.len()).collect(),
            LengthUnit::Utf8Char => {
                let chars = (0..s.len()).filter(|&i| starts_char(&s[i]));
                chars.chain([s.len()]).collect()
            }
        };
        let units = starts.len() - 1;
        let outside =
            KernelError::Range { what: "pos", got: pos.into(), min: -(units as i64), max: units as i64 + 1 };
        let at = if pos < 0 { i64::from(pos) + units as i64 } else { pos.into() };
        let Some(&from) = usize::try_from(at).ok().and_then(|at| starts.get(at)) else {
            return Err(outside);
        };
        // A negative length reaches the end, as in TensorFlow.
        let to = usize::try_from(len).ok().and_then(|len| starts.get(at as usize + len)).copied();
        out.push(TfString(s.0.slice(from..to.unwrap_or(s.len()))));
    }
    Tensor::new(shape, out)
}
