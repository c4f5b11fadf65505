//! Reading JSON values with errors that say where, and writing JSON as Python's `json.dump` does.
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, Value};

use crate::FormatError;

/// JSON nested deeper than this is refused: the limit of serde_json. Real models stay below 40.
pub(crate) const MAX_DEPTH: usize = 127;

/// A place inside a JSON file, built on the stack on the way down and printed only when needed.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Root(&'a str),
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
    /// Something known by its name, as in "node `conv1`".
    Named(&'a Place<'a>, &'static str, &'a str),
}

impl<'a> Place<'a> {
    pub(crate) fn key(&'a self, key: &'a str) -> Place<'a> {
        Place::Key(self, key)
    }

    pub(crate) fn index(&'a self, index: usize) -> Place<'a> {
        Place::Index(self, index)
    }

    /// The element of a list under its own name instead of its index.
    pub(crate) fn named(&'a self, kind: &'static str, name: &'a str) -> Place<'a> {
        match self {
            Place::Index(Place::Key(parent, _), _) => Place::Named(parent, kind, name),
            other => Place::Named(other, kind, name),
        }
    }

    pub(crate) fn wrong(&self, expected: &'static str, found: &Value) -> FormatError {
        FormatError::Field { at: self.to_string(), expected, found: describe(found) }
    }

    pub(crate) fn missing(&self, field: &'static str) -> FormatError {
        FormatError::MissingField { at: self.to_string(), field }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root(name) => f.write_str(name),
            Place::Key(parent, key) => write!(f, "{parent}.{key}"),
            Place::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Place::Named(parent, kind, name) => write!(f, "{parent} {kind} `{name}`"),
        }
    }
}

fn describe(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => return format!("an array of {}", items.len()),
        Value::Object(map) => return format!("an object of {} fields", map.len()),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Parses a JSON text, with typed errors for what is commonly found in its place.
pub(crate) fn parse(text: &[u8]) -> Result<Value, FormatError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let start = text.trim_ascii_start();
    match start.first() {
        Some(b'<') => return Err(FormatError::HtmlInsteadOfJson),
        Some(b'{' | b'[') | None => {}
        // Field 1 of GraphDef and SavedModel: a length-delimited message or a varint.
        Some(b'\x08') => return Err(FormatError::ProtobufInsteadOfJson),
        Some(b'v') if is_lfs_pointer(start) => return Err(FormatError::GitLfsPointer),
        Some(_) => {}
    }
    // A GraphDef begins with its first node: tag 0x0A, which is also a line feed, then a length.
    if text.first() == Some(&0x0A) && text.iter().take(64).any(|&b| b < 0x20 && !b"\t\n\r".contains(&b)) {
        return Err(FormatError::ProtobufInsteadOfJson);
    }
    serde_json::from_slice(text).map_err(|error| match depth(text) > MAX_DEPTH {
        true => FormatError::TooDeep { limit: MAX_DEPTH },
        false => FormatError::JsonSyntax(error),
    })
}

/// Whether these bytes are a Git LFS pointer file.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// How deeply brackets are nested, in text that need not be valid.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

pub(crate) fn object(value: Value, at: &Place<'_>) -> Result<Map<String, Value>, FormatError> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(at.wrong("an object", &other)),
    }
}

pub(crate) fn array(value: Value, at: &Place<'_>) -> Result<Vec<Value>, FormatError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(at.wrong("an array", &other)),
    }
}

pub(crate) fn string(value: Value, at: &Place<'_>) -> Result<String, FormatError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(at.wrong("a string", &other)),
    }
}

pub(crate) fn boolean(value: &Value, at: &Place<'_>) -> Result<bool, FormatError> {
    match value {
        Value::Bool(b) => Ok(*b),
        Value::String(s) if s == "true" => Ok(true),
        Value::String(s) if s == "false" => Ok(false),
        other => Err(at.wrong("true or false", other)),
    }
}

/// An integer written as a number (`3`, `3.0`) or as a string (`"3"`).
pub(crate) fn integer<T: TryFrom<i128>>(value: &Value, at: &Place<'_>) -> Result<T, FormatError> {
    let wide = match value {
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) => Some(i128::from(i)),
            (_, Some(u), _) => Some(i128::from(u)),
            // Exact: the condition leaves only integers far below 2^127.
            (_, _, Some(f)) if f.fract() == 0.0 && f.abs() < 1e20 => Some(f as i128),
            _ => None,
        },
        Value::String(text) => text.trim().parse::<i128>().ok(),
        _ => None,
    };
    wide.and_then(|i| T::try_from(i).ok()).ok_or_else(|| at.wrong("an integer in range", value))
}

/// A number, or a string such as `"NaN"`, `"Infinity"`, `"-Infinity"` or `"0.5"`.
pub(crate) fn number(value: &Value, at: &Place<'_>) -> Result<f64, FormatError> {
    let found = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    found.ok_or_else(|| at.wrong("a number", value))
}

/// Bytes as base64 (standard or URL-safe, padded or not) or as an array of byte values.
pub(crate) fn bytes(value: Value, at: &Place<'_>) -> Result<Bytes, FormatError> {
    use base64::Engine;
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const EITHER: [GeneralPurpose; 2] =
        [GeneralPurpose::new(&STANDARD, LENIENT), GeneralPurpose::new(&URL_SAFE, LENIENT)];
    match value {
        Value::String(text) => EITHER
            .iter()
            .find_map(|engine| engine.decode(&text).ok())
            .map(Bytes::from)
            .ok_or_else(|| at.wrong("base64 text or an array of bytes", &Value::String(text))),
        Value::Array(items) => {
            let mut out = Vec::with_capacity(items.len());
            for (i, item) in items.iter().enumerate() {
                out.push(integer::<u8>(item, &at.index(i))?);
            }
            Ok(out.into())
        }
        other => Err(at.wrong("base64 text or an array of bytes", &other)),
    }
}

/// Base64 as protobuf's JSON writes it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The shortest decimal (6 to 9 digits) that reads back as the same `f32`, as protobuf prints floats.
pub(crate) fn shortest_f32(x: f32) -> f64 {
    for digits in 5..8 {
        let text = format!("{x:.digits$e}");
        if text.parse::<f32>().is_ok_and(|back| back == x)
            && let Ok(short) = text.parse()
        {
            return short;
        }
    }
    format!("{x:.8e}").parse().unwrap_or(f64::from(x))
}

/// JSON text as Python's `json.dump` writes it: `", "` and `": "`, ASCII only, floats by `repr`.
pub(crate) fn to_python_json<T: Serialize>(value: &T) -> Result<String, FormatError> {
    let mut out = Vec::with_capacity(1 << 16);
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, Python))
        .map_err(FormatError::JsonSyntax)?;
    // The formatter writes ASCII only, so nothing is ever replaced.
    Ok(String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, w: &mut W, x: f64) -> io::Result<()> {
        w.write_all(python_repr(x).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, w: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|b| !matches!(b, b' '..=b'~')) {
            w.write_all(&rest.as_bytes()[..at])?;
            rest = &rest[at..];
            let Some(c) = rest.chars().next() else { break };
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(w, "\\u{unit:04x}")?;
            }
            rest = &rest[c.len_utf8()..];
        }
        w.write_all(rest.as_bytes())
    }
}

/// A finite double as Python's `repr` prints it.
fn python_repr(x: f64) -> String {
    let text = format!("{x:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::{python_repr, shortest_f32, to_python_json};

    #[test]
    fn doubles_print_as_python_repr() {
        // Printed by CPython 3.
        let cases = [
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9999999999999998.0, "9999999999999998.0"),
            (5e-324, "5e-324"),
            (0.00392156862745098, "0.00392156862745098"),
        ];
        for (x, text) in cases {
            assert_eq!(python_repr(x), text);
        }
    }

    #[test]
    fn floats_print_with_the_fewest_digits_as_protobuf_does() {
        // Values of google.protobuf.internal.type_checkers.ToShortestFloat.
        assert_eq!(shortest_f32(0.2), 0.2);
        assert_eq!(shortest_f32(f32::MAX), 3.4028235e38);
        assert_eq!(shortest_f32(f32::from_bits(1)), 1.4013e-45);
        assert_eq!(shortest_f32(16777216.0), 16777216.0);
        assert_eq!(shortest_f32(0.001), 0.001);
    }

    #[test]
    fn text_outside_ascii_is_escaped() {
        let text = to_python_json(&"aé\u{7f}😀\n\"").unwrap();
        assert_eq!(text, r#""a\u00e9\u007f\ud83d\ude00\n\"""#);
    }
}
