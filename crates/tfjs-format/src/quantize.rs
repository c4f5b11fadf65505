//! Quantized weights: the reference converter's rules, bit for bit.
//!
//! All arithmetic is in double precision, ties round to even. The line is nudged so that zero, where it lies
//! inside the range, is exactly one of the codes.
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::{Affine, Codec, FormatError, Storage};

/// A quantization that can be asked for, before the values are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizeTo {
    /// One byte per value.
    Uint8,
    /// Two bytes per value.
    Uint16,
    /// IEEE half precision.
    Float16,
}

impl QuantizeTo {
    /// The stored type.
    pub fn storage(self) -> Storage {
        match self {
            QuantizeTo::Uint8 => Storage::Uint8,
            QuantizeTo::Uint16 => Storage::Uint16,
            QuantizeTo::Float16 => Storage::Float16,
        }
    }

    /// Number of the greatest code.
    fn max_code(self) -> f64 {
        match self {
            QuantizeTo::Uint8 => 255.0,
            QuantizeTo::Uint16 | QuantizeTo::Float16 => 65535.0,
        }
    }
}

/// Smallest and greatest value seen, to fit a line before encoding in a second pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    min: f32,
    max: f32,
    finite: bool,
}

impl Default for Range {
    fn default() -> Range {
        Range { min: f32::INFINITY, max: f32::NEG_INFINITY, finite: true }
    }
}

impl Range {
    /// Takes these values into account.
    pub fn update(&mut self, values: &[f32]) {
        for &x in values {
            self.min = self.min.min(x);
            self.max = self.max.max(x);
            self.finite &= x.is_finite();
        }
    }

    /// The codec for values in this range.
    ///
    /// Without any value the line is that of a single zero (the reference fails there).
    ///
    /// # Errors
    /// When an affine codec is asked for and a value was NaN or infinite. `weight` names it in the error.
    pub fn codec(&self, to: QuantizeTo, weight: &str) -> Result<Codec, FormatError> {
        match to {
            QuantizeTo::Float16 => return Ok(Codec::Float16),
            _ if !self.finite => {
                return Err(FormatError::QuantizeNonFinite {
                    weight: weight.to_owned(),
                    storage: to.storage(),
                });
            }
            QuantizeTo::Uint8 | QuantizeTo::Uint16 => {}
        }
        let (min, max) = match self.min <= self.max {
            true => (f64::from(self.min), f64::from(self.max)),
            false => (0.0, 0.0),
        };
        let affine = if min == max {
            Affine { min, scale: 1.0 }
        } else {
            let scale = (max - min) / to.max_code();
            // `0 - min`, not `-min`: a minimum of 0 becomes -0.0, as in the reference.
            let zero = ((0.0 - min) / scale).round_ties_even();
            let min = if min <= 0.0 && 0.0 <= max { -zero * scale } else { min };
            Affine { min, scale }
        };
        Ok(if to == QuantizeTo::Uint8 { Codec::Uint8(affine) } else { Codec::Uint16(affine) })
    }
}

impl Codec {
    /// Appends the stored bytes of these values to `out`.
    ///
    /// Values outside the codec's range are clamped to it (half precision overflows to infinity).
    ///
    /// ```
    /// use tfjs_format::{Codec, QuantizeTo, Range};
    /// let values = [-2.0, -1.0, -0.5];
    /// let mut range = Range::default();
    /// range.update(&values);
    /// let codec = range.codec(QuantizeTo::Uint8, "kernel")?;
    /// let mut bytes = Vec::new();
    /// codec.encode(&values, &mut bytes);
    /// assert_eq!(bytes, [0x00, 0xaa, 0xff]);
    /// # Ok::<(), tfjs_format::FormatError>(())
    /// ```
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Codec::Uint8(line) => {
                let code = line.coder(255.0);
                out.extend(values.iter().map(|&x| code(x) as u8));
            }
            Codec::Uint16(line) => {
                let code = line.coder(65535.0);
                out.extend(values.iter().flat_map(|&x| (code(x) as u16).to_le_bytes()));
            }
            Codec::Float16 => {
                let mut block = [f16::ZERO; 1024];
                for chunk in values.chunks(block.len()) {
                    let halves = &mut block[..chunk.len()];
                    halves.convert_from_f32_slice(chunk);
                    out.extend(halves.iter().flat_map(|h| h.to_le_bytes()));
                }
            }
        }
    }

    /// Appends the values of these stored bytes to `out`, as `float32`.
    ///
    /// Bytes that do not fill a whole element are ignored; callers check sizes before.
    pub fn decode_f32(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Codec::Uint8(line) => out.extend(bytes.iter().map(|&c| line.value(f64::from(c)) as f32)),
            Codec::Uint16(line) => out.extend(words(bytes).map(|c| line.value(f64::from(c)) as f32)),
            Codec::Float16 => {
                let mut block = [f16::ZERO; 1024];
                for chunk in bytes.chunks(2 * block.len()) {
                    let halves = &mut block[..chunk.len() / 2];
                    for (half, bits) in halves.iter_mut().zip(words(chunk)) {
                        *half = f16::from_bits(bits);
                    }
                    let start = out.len();
                    out.resize(start + halves.len(), 0.0);
                    halves.convert_to_f32_slice(&mut out[start..]);
                }
            }
        }
    }

    /// Appends the values of these stored bytes to `out`, as `int32`: halves round up, as in TF.js.
    ///
    /// Bytes that do not fill a whole element are ignored; callers check sizes before.
    pub fn decode_i32(self, bytes: &[u8], out: &mut Vec<i32>) {
        let round = |x: f64| (x + 0.5).floor() as i32;
        match self {
            Codec::Uint8(line) => out.extend(bytes.iter().map(|&c| round(line.value(f64::from(c))))),
            Codec::Uint16(line) => out.extend(words(bytes).map(|c| round(line.value(f64::from(c))))),
            Codec::Float16 => {
                out.extend(words(bytes).map(|bits| round(f64::from(f16::from_bits(bits)))));
            }
        }
    }
}

impl Affine {
    fn value(self, code: f64) -> f64 {
        code * self.scale + self.min
    }

    fn coder(self, max_code: f64) -> impl Fn(f32) -> f64 {
        let max = max_code * self.scale + self.min;
        // A constant tensor has scale 1 and every value equal to `min`.
        move |x| ((f64::from(x).max(self.min).min(max) - self.min) / self.scale).round_ties_even()
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|&word| u16::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::{QuantizeTo, Range};
    use crate::{Affine, Codec, FormatError, Storage};

    fn quantize(values: &[f32], to: QuantizeTo) -> (Codec, Vec<u8>) {
        let mut range = Range::default();
        range.update(values);
        let codec = range.codec(to, "w").unwrap();
        let mut bytes = Vec::new();
        codec.encode(values, &mut bytes);
        (codec, bytes)
    }

    #[test]
    fn uint8_gives_the_bytes_of_the_reference() {
        // tensorflowjs 4.22 under numpy 2.1.
        let cases: [(&[f32], &[u8], f64, f64); 5] = [
            (&[0.0, 0.5, 1.0], &[0x00, 0x80, 0xff], -0.0, 0.00392156862745098),
            (&[-2.0, -1.0, -0.5], &[0x00, 0xaa, 0xff], -2.0, 0.0058823529411764705),
            (&[0.5, 0.75, 1.0], &[0x00, 0x80, 0xff], 0.5, 0.00196078431372549),
            (&[-1.0, -0.3, 0.7], &[0x00, 0x69, 0xff], -0.9999999929876889, 0.006666666619917926),
            (&[3.0, 3.0, 3.0], &[0x00, 0x00, 0x00], 3.0, 1.0),
        ];
        for (values, bytes, min, scale) in cases {
            let (codec, found) = quantize(values, QuantizeTo::Uint8);
            assert_eq!(found, bytes, "{values:?}");
            let Codec::Uint8(line) = codec else { panic!("{codec:?}") };
            assert_eq!((line.min.to_bits(), line.scale), (min.to_bits(), scale), "{values:?}");
        }
    }

    #[test]
    fn float16_rounds_to_even_and_overflows_to_infinity() {
        // numpy.array([...], 'float32').astype('float16').tobytes()
        let values = [1.0, 65504.0, 65520.0, 2049.0, 2051.0, 6e-8, -0.1];
        let (codec, bytes) = quantize(&values, QuantizeTo::Float16);
        assert_eq!(
            bytes,
            [0x00, 0x3c, 0xff, 0x7b, 0x00, 0x7c, 0x00, 0x68, 0x02, 0x68, 0x01, 0x00, 0x66, 0xae]
        );
        let mut back = Vec::new();
        codec.decode_f32(&bytes, &mut back);
        assert_eq!(back, [1.0, 65504.0, f32::INFINITY, 2048.0, 2052.0, 5.9604645e-8, -0.099975586]);
    }

    #[test]
    fn decoding_is_one_double_precision_multiply_add() {
        let line = Affine { min: -0.9999999929876889, scale: 0.006666666619917926 };
        let mut out = Vec::new();
        Codec::Uint8(line).decode_f32(&[0, 0x69, 0xff], &mut out);
        // numpy: (np.array([0, 105, 255]) * scale + min).astype('float32')
        assert_eq!(out, [-1.0, -0.3, 0.7]);
    }

    #[test]
    fn int32_codes_round_halves_up() {
        let mut out = Vec::new();
        Codec::Uint16(Affine { min: -1.5, scale: 1.0 }).decode_i32(&[0, 0, 1, 0, 2, 0], &mut out);
        assert_eq!(out, [-1, 0, 1]);
    }

    #[test]
    fn nan_cannot_be_quantized() {
        let mut range = Range::default();
        range.update(&[0.0, f32::NAN]);
        let error = range.codec(QuantizeTo::Uint16, "kernel").unwrap_err();
        assert!(matches!(error, FormatError::QuantizeNonFinite { storage: Storage::Uint16, .. }));
        assert_eq!(range.codec(QuantizeTo::Float16, "kernel").unwrap(), Codec::Float16);
    }

    #[test]
    fn no_values_quantize_to_no_bytes() {
        let (codec, bytes) = quantize(&[], QuantizeTo::Uint8);
        assert_eq!((codec, bytes.len()), (Codec::Uint8(Affine { min: 0.0, scale: 1.0 }), 0));
    }
}
