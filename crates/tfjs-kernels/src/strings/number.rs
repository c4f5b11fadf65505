//! `AsString`, `StringToNumber`.
use num_complex::Complex32;

use crate::{DType, KernelError, Result, Tensor, TfString};

/// How floats are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumberStyle {
    /// `%f`
    #[default]
    Fixed,
    /// `%e`
    Scientific,
    /// `%g`
    Shortest,
}

/// Attributes of [`as_string`]; the words are those of C's `printf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberFormat {
    /// Of floats.
    pub style: NumberStyle,
    /// Digits after the point; 6 when `None`.
    pub precision: Option<usize>,
    /// Fewest characters.
    pub width: usize,
    /// A `printf` flag: `-` left, `0` zeros, `+` or space before positive numbers.
    pub fill: Option<u8>,
}

impl NumberFormat {
    fn float(&self, x: f64) -> String {
        let precision = self.precision.unwrap_or(6);
        let magnitude = x.abs();
        let digits = if x.is_nan() {
            "nan".into()
        } else if x.is_infinite() {
            "inf".into()
        } else {
            match self.style {
                NumberStyle::Fixed => format!("{magnitude:.precision$}"),
                NumberStyle::Scientific => exponent(magnitude, precision),
                NumberStyle::Shortest => general(magnitude, precision.max(1)),
            }
        };
        self.place(&digits, x.is_sign_negative() && !(x.is_nan()), x.is_finite())
    }

    /// Adds spaces to a string.
    fn pad(&self, text: &[u8]) -> TfString {
        let gap = vec![b' '; self.width.saturating_sub(text.len())];
        match self.fill {
            Some(b'-') => [text, &gap].concat().into(),
            _ => [&gap, text].concat().into(),
        }
    }

    /// Adds sign and padding.
    fn place(&self, digits: &str, negative: bool, zeros: bool) -> String {
        let sign = match (negative, self.fill) {
            (true, _) => "-",
            (false, Some(b'+')) => "+",
            (false, Some(b' ')) => " ",
            _ => "",
        };
        let gap = self.width.saturating_sub(sign.len() + digits.len());
        match self.fill {
            Some(b'-') => format!("{sign}{digits}{}", " ".repeat(gap)),
            Some(b'0') if zeros => format!("{sign}{}{digits}", "0".repeat(gap)),
            _ => format!("{}{sign}{digits}", " ".repeat(gap)),
        }
    }
}

/// `%.{precision}e`: at least two digits of exponent.
fn exponent(x: f64, precision: usize) -> String {
    let text = format!("{x:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%.{precision}g`: the shorter form, without zeros at the end.
fn general(x: f64, precision: usize) -> String {
    let scientific = exponent(x, precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => s.to_owned(),
    };
    if power < -4 || power >= precision as i64 {
        match scientific.split_once('e') {
            Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa)),
            None => scientific,
        }
    } else {
        let decimals = (precision as i64 - 1 - power).max(0) as usize;
        trim(&format!("{x:.decimals$}"))
    }
}

/// Writes every element as text.
///
/// # Errors
/// [`KernelError`] when a style or precision is asked for that the element type does not have, or width or
/// precision are larger than 4096.
pub fn as_string(input: &Tensor, format: &NumberFormat) -> Result<Tensor> {
    const MOST: usize = 4096;
    if format.width.max(format.precision.unwrap_or(0)) > MOST {
        return Err(KernelError::Argument {
            what: "width or precision",
            got: format!("{} and {:?}", format.width, format.precision),
            expected: "at most 4096",
        });
    }
    let is_float = matches!(input.dtype(), DType::Float32 | DType::Complex64);
    if !is_float && (format.precision.is_some() || format.style != NumberStyle::Fixed) {
        return Err(KernelError::DType {
            what: "input",
            got: input.dtype(),
            expected: "a float for this format",
        });
    }
    let complex = |z: &Complex32| format!("({},{})", format.float(z.re.into()), format.float(z.im.into()));
    let strings: Vec<TfString> = match input {
        Tensor::F32(t) => t.data().iter().map(|&x| format.float(x.into()).into()).collect(),
        Tensor::C64(t) => t.data().iter().map(|z| complex(z).into()).collect(),
        Tensor::I32(t) => t
            .data()
            .iter()
            .map(|&x| format.place(&x.unsigned_abs().to_string(), x < 0, true).into())
            .collect(),
        Tensor::Bool(t) => t.data().iter().map(|&x| if x { "true".into() } else { "false".into() }).collect(),
        Tensor::Str(t) => t.data().iter().map(|s| format.pad(s)).collect(),
    };
    Tensor::new(input.shape(), strings)
}

/// Reads every string as a number of type `dtype` (`float32` or `int32`).
///
/// # Errors
/// [`KernelError`] when a string is not a number, or `dtype` is not one of the two.
pub fn string_to_number(input: &Tensor, dtype: DType) -> Result<Tensor> {
    let input = input.typed::<TfString>("string_tensor")?;
    let wrong = |s: &TfString| KernelError::Argument {
        what: "a string",
        got: format!("{s:?}"),
        expected: "a number of the output type",
    };
    let text = |s: &TfString| {
        let start = s.iter().position(|c| !super::split::is_space(c))?;
        let end = s.iter().rposition(|c| !super::split::is_space(c))? + 1;
        std::str::from_utf8(&s[start..end]).ok().map(str::to_owned)
    };
    match dtype {
        DType::Float32 => {
            let parse = |s| text(s).and_then(|t| float(&t)).ok_or_else(|| wrong(s));
            Tensor::new(input.shape(), input.data().iter().map(parse).collect::<Result<Vec<f32>>>()?)
        }
        DType::Int32 => {
            let parse = |s| text(s).and_then(|t| t.parse::<i32>().ok()).ok_or_else(|| wrong(s));
            Tensor::new(input.shape(), input.data().iter().map(parse).collect::<Result<Vec<i32>>>()?)
        }
        other => Err(KernelError::DType { what: "the output", got: other, expected: "float32 or int32" }),
    }
}

/// A decimal number, or a whole one in hexadecimal.
fn float(text: &str) -> Option<f32> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(hex, 16).ok().map(|n| sign * n as f32)
        }
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{NumberFormat, NumberStyle, as_string, string_to_number};
    use crate::{DType, Tensor, TfString};

    fn text(t: &Tensor) -> Vec<String> {
        t.data::<TfString>().unwrap().iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn floats_are_written_as_printf_writes_them() {
        let x = Tensor::vector(vec![1.5f32, -2.25e10, 1e-7, f32::NAN, f32::NEG_INFINITY]);
        let plain = NumberFormat::default();
        let cases: [(NumberFormat, [&str; 5]); 6] = [
            (plain.clone(), ["1.500000", "-22499999744.000000", "0.000000", "nan", "-inf"]),
            (
                NumberFormat { style: NumberStyle::Shortest, ..plain.clone() },
                ["1.5", "-2.25e+10", "1e-07", "nan", "-inf"],
            ),
            (
                NumberFormat { style: NumberStyle::Scientific, ..plain.clone() },
                ["1.500000e+00", "-2.250000e+10", "1.000000e-07", "nan", "-inf"],
            ),
            (
                NumberFormat { precision: Some(3), width: 10, fill: Some(b'0'), ..plain.clone() },
                ["000001.500", "-22499999744.000", "000000.000", "       nan", "      -inf"],
            ),
            (
                NumberFormat { width: 12, fill: Some(b'-'), ..plain.clone() },
                ["1.500000    ", "-22499999744.000000", "0.000000    ", "nan         ", "-inf        "],
            ),
            (
                NumberFormat { precision: Some(0), style: NumberStyle::Shortest, ..plain },
                ["2", "-2e+10", "1e-07", "nan", "-inf"],
            ),
        ];
        for (format, want) in cases {
            assert_eq!(text(&as_string(&x, &format).unwrap()), want, "{format:?}");
        }
    }

    #[test]
    fn integers_are_padded_as_printf_pads_them() {
        let x = Tensor::vector(vec![5, -42]);
        for (fill, want) in [
            (Some(b'0'), ["000005", "-00042"]),
            (Some(b'-'), ["5     ", "-42   "]),
            (None, ["     5", "   -42"]),
        ] {
            let got = as_string(&x, &NumberFormat { width: 6, fill, ..NumberFormat::default() }).unwrap();
            assert_eq!(text(&got), want);
        }
    }

    #[test]
    fn text_that_is_no_number_is_refused() {
        let read = |s: &str, d| string_to_number(&Tensor::vector(vec![TfString::from(s)]), d);
        assert_eq!(read(" 1.5 ", DType::Float32).unwrap().data::<f32>().unwrap(), [1.5]);
        assert_eq!(read("+3", DType::Int32).unwrap().data::<i32>().unwrap(), [3]);
        assert!(read("1.5f", DType::Float32).is_err());
        assert!(read("", DType::Float32).is_err());
        assert!(read("99999999999", DType::Int32).is_err());
    }
}
