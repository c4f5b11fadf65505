//! Tensors and numbers as people read them.

use std::fmt;

use num_complex::Complex32;
use serde::Serialize;
use tfjs_kernels::{Tensor, TfString};

use crate::CliError;

/// Dimensions as `[1, ?, 3]`.
pub(crate) fn shape(dims: &[Option<usize>]) -> String {
    let dims: Vec<String> =
        dims.iter().map(|d| d.map_or_else(|| "?".to_owned(), |n| n.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// `float32[1, 10]`
pub(crate) fn kind(tensor: &Tensor) -> String {
    format!("{}{}", tensor.dtype(), tensor.shape())
}

/// Bytes as `3.4 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{n} bytes") } else { format!("{value:.1} {unit}") }
}

/// A count with its noun: `1 node`, `3 nodes`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The elements, shortened in the middle when there are many.
pub(crate) fn values(tensor: &Tensor) -> String {
    match tensor {
        Tensor::F32(t) => t.view().map(|&x| Number(x)).to_string(),
        Tensor::I32(t) => t.view().to_string(),
        Tensor::Bool(t) => t.view().to_string(),
        Tensor::Str(t) => t.view().map(|s| Text(s.clone())).to_string(),
        Tensor::C64(t) => t.view().map(|&x| Complex(x)).to_string(),
    }
}

/// A float with up to six significant digits.
pub(crate) struct Number(pub(crate) f32);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if self.0 == 0.0 || !self.0.is_finite() {
            return write!(f, "{}", self.0);
        }
        if !(1e-4..1e6).contains(&magnitude) {
            return write!(f, "{:.5e}", self.0);
        }
        let before = magnitude.log10().floor() as i32 + 1;
        let text = format!("{:.*}", usize::try_from(6 - before).unwrap_or(0), self.0);
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        f.write_str(text)
    }
}

struct Complex(Complex32);

impl fmt::Display for Complex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0.im.is_sign_negative() { '-' } else { '+' };
        write!(f, "{}{sign}{}i", Number(self.0.re), Number(self.0.im.abs()))
    }
}

/// Text in quotes, bytes that are no text escaped.
struct Text(TfString);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match str::from_utf8(&self.0) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// JSON on one line, so that a program can tell it from whatever else is printed.
///
/// # Errors
/// When a value cannot be written as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string(value).map(|text| text + "\n").map_err(CliError::Json)
}

/// Text in columns, two spaces apart; the columns whose header starts with `>` are right-aligned.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let right: Vec<bool> = header.iter().map(|h| h.starts_with('>')).collect();
    let header: Vec<String> = header.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&header).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let titled = header.iter().any(|h| !h.is_empty());
    let mut out = String::new();
    for row in titled.then_some(&header).into_iter().chain(rows) {
        let mut line = String::from(" ");
        for ((cell, &width), &right) in row.iter().zip(&widths).zip(&right) {
            let cell = if right { format!(" {cell:>width$}") } else { format!(" {cell:<width$}") };
            line += &cell;
            line.push(' ');
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use tfjs_kernels::{Tensor, TfString};

    use super::{Number, bytes, table, values};

    #[test]
    fn numbers_have_six_significant_digits() {
        let text = |x: f32| Number(x).to_string();
        assert_eq!(text(0.1), "0.1");
        assert_eq!(text(-12.345678), "-12.3457");
        assert_eq!(text(123456.0), "123456");
        assert_eq!(text(1234567.0), "1.23457e6");
        assert_eq!(text(1e-7), "1.00000e-7");
        assert_eq!(text(f32::NAN), "NaN");
        assert_eq!(text(1200.0), "1200");
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(bytes(17), "17 bytes");
        assert_eq!(bytes(4 << 20), "4.0 MiB");
    }

    #[test]
    fn strings_are_quoted_and_bytes_escaped() {
        let strings = vec![TfString::from("a\"b"), TfString::from(vec![0xff, b'x'])];
        assert_eq!(values(&Tensor::vector(strings)), r#"["a\"b", "\xffx"]"#);
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["bcd".to_owned(), "7".to_owned()]];
        assert_eq!(table(&["op", ">n"], &rows), "  op    n\n  a    10\n  bcd   7\n");
    }
}
