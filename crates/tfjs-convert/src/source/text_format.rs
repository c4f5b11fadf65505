//! Protobuf's text format (`.pbtxt`), for the messages of this workspace.
//!
//! The text is turned into wire format by a description of the messages, and decoded from there, so that binary and
//! text files take the same path. Fields that the description lacks are skipped, as in binary files.

use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

use super::schema::{Kind, Schema};
use crate::ConvertError;

/// Deepest nesting of messages, as in binary decoding.
const MAX_DEPTH: usize = 100;

/// Decodes a message named `message` in the `.proto` files.
///
/// # Errors
/// [`TextError`], with the line.
pub(crate) fn decode<M: Message + Default>(text: &str, message: &str) -> Result<M, TextError> {
    let mut parser = Parser { text, at: 0 };
    let mut wire = Vec::new();
    parser.message(message, None, &mut wire, 0)?;
    M::decode(bytes::Bytes::from(wire)).map_err(|_| parser.error("the values do not form a valid message"))
}

/// Text that is not a message, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TextError {
    line: usize,
    what: &'static str,
}

impl TextError {
    /// As an error of a file.
    pub(crate) fn in_file(self, path: &std::path::Path) -> ConvertError {
        ConvertError::Text { path: path.to_path_buf(), source: self }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &'static str) -> TextError {
        let before = &self.text.as_bytes()[..self.at.min(self.text.len())];
        TextError { line: 1 + before.iter().filter(|b| **b == b'\n').count(), what }
    }

    /// The next byte that is neither space nor in a comment.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at)? {
                b'#' => self.at = self.text[self.at..].find('\n').map_or(bytes.len(), |n| self.at + n),
                b if b.is_ascii_whitespace() => self.at += 1,
                &b => return Some(b),
            }
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self) -> Result<&'a str, TextError> {
        self.peek();
        let rest = &self.text[self.at..];
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.error("expected a name or a value"));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// A message up to `end`; `name` empty means that nothing of it is known and all of it is skipped.
    fn message(
        &mut self,
        name: &str,
        end: Option<u8>,
        wire: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), TextError> {
        if depth > MAX_DEPTH {
            return Err(self.error("messages are nested too deeply"));
        }
        let fields = Schema::get().fields(name);
        loop {
            match (self.peek(), end) {
                (None, None) => return Ok(()),
                (None, Some(_)) => return Err(self.error("the text ends inside a message")),
                (Some(b), Some(end)) if b == end => {
                    self.at += 1;
                    return Ok(());
                }
                (Some(b'['), _) => {
                    self.any(wire, depth)?;
                }
                _ => {
                    let field = self.word()?;
                    let field = fields.and_then(|f| f.get(field));
                    self.field(field.map(|f| (f.number, &f.kind)), wire, depth)?;
                }
            }
            // Fields may be separated.
            let _ = self.accept(b',') || self.accept(b';');
        }
    }

    /// `[type.googleapis.com/package.Type] { … }`: a packed message written out.
    fn any(&mut self, wire: &mut Vec<u8>, depth: usize) -> Result<(), TextError> {
        self.at += 1;
        let len = self.text[self.at..].find(']').ok_or_else(|| self.error("a bracket is not closed"))?;
        let url = self.text[self.at..self.at + len].trim();
        self.at += len + 1;
        let message = url.rsplit(['/', '.']).next().unwrap_or_default();
        let mut packed = Vec::new();
        self.field(Some((2, &Kind::Message(message.to_owned()))), &mut packed, depth)?;
        put_bytes(1, url.as_bytes(), wire);
        wire.extend_from_slice(&packed);
        Ok(())
    }

    fn field(
        &mut self,
        field: Option<(u32, &Kind)>,
        wire: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), TextError> {
        let colon = self.accept(b':');
        if colon && self.accept(b'[') {
            while !self.accept(b']') {
                self.value(field, wire, depth)?;
                if !self.accept(b',') && self.peek() != Some(b']') {
                    return Err(self.error("expected `,` or `]`"));
                }
            }
            return Ok(());
        }
        if !colon && !matches!(self.peek(), Some(b'{' | b'<')) {
            return Err(self.error("expected `:` or `{`"));
        }
        self.value(field, wire, depth)
    }

    fn value(
        &mut self,
        field: Option<(u32, &Kind)>,
        wire: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), TextError> {
        let close = match self.peek() {
            Some(b'{') => Some(b'}'),
            Some(b'<') => Some(b'>'),
            _ => None,
        };
        if close.is_some() {
            self.at += 1;
            return match field {
                Some((number, Kind::Message(message))) => {
                    let mut inner = Vec::new();
                    self.message(message, close, &mut inner, depth + 1)?;
                    put_bytes(number, &inner, wire);
                    Ok(())
                }
                Some(_) => Err(self.error("a message stands where a value is expected")),
                None => self.message("", close, &mut Vec::new(), depth + 1),
            };
        }
        let Some((number, kind)) = field else {
            return if matches!(self.peek(), Some(b'"' | b'\'')) {
                self.string().map(drop)
            } else {
                self.word().map(drop)
            };
        };
        match kind {
            Kind::Bytes => {
                let bytes = self.string()?;
                put_bytes(number, &bytes, wire);
            }
            Kind::Message(_) => return Err(self.error("expected a message")),
            Kind::Float => {
                let value = self.float()? as f32;
                encode_key(number, WireType::ThirtyTwoBit, wire);
                wire.extend_from_slice(&value.to_le_bytes());
            }
            Kind::Double => {
                let value = self.float()?;
                encode_key(number, WireType::SixtyFourBit, wire);
                wire.extend_from_slice(&value.to_le_bytes());
            }
            Kind::Fixed32 => {
                let value = self.integer()? as u32;
                encode_key(number, WireType::ThirtyTwoBit, wire);
                wire.extend_from_slice(&value.to_le_bytes());
            }
            Kind::Integer => {
                let value = self.integer()?;
                encode_key(number, WireType::Varint, wire);
                encode_varint(value, wire);
            }
            Kind::Bool => {
                let value = match self.word()? {
                    "true" | "True" | "t" | "1" => 1,
                    "false" | "False" | "f" | "0" => 0,
                    _ => return Err(self.error("expected true or false")),
                };
                encode_key(number, WireType::Varint, wire);
                encode_varint(value, wire);
            }
            Kind::Enum(name) => {
                let word = self.word()?;
                let value = Schema::get().enum_value(name, word).or_else(|| word.parse().ok());
                let value = value.ok_or_else(|| self.error("unknown enum value"))?;
                encode_key(number, WireType::Varint, wire);
                encode_varint(i64::from(value) as u64, wire);
            }
        }
        Ok(())
    }

    /// The bits of a signed or unsigned 64-bit integer; decimal, hexadecimal or octal.
    fn integer(&mut self) -> Result<u64, TextError> {
        let word = self.word()?;
        let (negative, digits) = word.strip_prefix('-').map_or((false, word), |d| (true, d));
        let parsed = if let Some(hex) = digits.strip_prefix("0x") {
            u64::from_str_radix(hex, 16)
        } else if digits.len() > 1 && digits.starts_with('0') {
            u64::from_str_radix(digits, 8)
        } else {
            digits.parse()
        };
        let value = parsed.map_err(|_| self.error("expected an integer"))?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn float(&mut self) -> Result<f64, TextError> {
        let word = self.word()?;
        // Rust reads `inf`, `infinity` and `nan` in any case; C adds a suffix.
        let plain = if word.ends_with("inf") || word.ends_with("INF") {
            word
        } else {
            word.trim_end_matches(['f', 'F'])
        };
        plain.parse().map_err(|_| self.error("expected a number"))
    }

    /// One string, or several that follow each other.
    fn string(&mut self) -> Result<Vec<u8>, TextError> {
        let mut out = Vec::new();
        let mut any = false;
        while let Some(quote @ (b'"' | b'\'')) = self.peek() {
            self.at += 1;
            any = true;
            loop {
                let byte = self.next_byte()?;
                match byte {
                    b if b == quote => break,
                    b'\\' => self.escape(&mut out)?,
                    b => out.push(b),
                }
            }
        }
        if any { Ok(out) } else { Err(self.error("expected a string")) }
    }

    fn next_byte(&mut self) -> Result<u8, TextError> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| self.error("a string is not closed"))
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), TextError> {
        let byte = match self.next_byte()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'x' | b'X' => self.digits(16, 2)? as u8,
            b @ b'0'..=b'7' => {
                self.at -= 1;
                debug_assert!(b.is_ascii_digit());
                self.digits(8, 3)? as u8
            }
            b @ (b'u' | b'U') => {
                let code = self.digits(16, if b == b'u' { 4 } else { 8 })?;
                let c = char::from_u32(code).ok_or_else(|| self.error("no such character"))?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            other => other,
        };
        out.push(byte);
        Ok(())
    }

    /// Up to `most` digits.
    fn digits(&mut self, radix: u32, most: usize) -> Result<u32, TextError> {
        let bytes = self.text.as_bytes();
        let mut value = None;
        for _ in 0..most {
            let Some(digit) = bytes.get(self.at).and_then(|b| char::from(*b).to_digit(radix)) else { break };
            value = Some(value.unwrap_or(0u32).wrapping_mul(radix).wrapping_add(digit));
            self.at += 1;
        }
        value.ok_or_else(|| self.error("broken escape in a string"))
    }
}

fn put_bytes(number: u32, bytes: &[u8], wire: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, wire);
    encode_varint(bytes.len() as u64, wire);
    wire.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use tfjs_format::proto::{GraphDef, attr_value::Value};

    use super::decode;
    use crate::proto::CollectionDef;

    #[test]
    fn nodes_attributes_and_tensors_are_read() {
        let text = r#"
            node { name: "c" op: "Const"   # a comment
              attr { key: "dtype" value { type: DT_FLOAT } }
              attr { key: "value" value { tensor { dtype: DT_FLOAT tensor_shape { dim { size: -1 } }
                float_val: [1.5, -inf, 2e3] tensor_content: "\000\x01\n" 'b' } } } }
            versions < producer: 27 >  unknown_field { a: 1 b: "x" c: [1, 2] }
        "#;
        let graph: GraphDef = decode(text, "GraphDef").unwrap();
        assert_eq!(graph.versions.unwrap().producer, 27);
        let Some(Value::Tensor(t)) = &graph.node[0].attr["value"].value else { panic!("no tensor") };
        assert_eq!(t.float_val, [1.5, f32::NEG_INFINITY, 2000.0]);
        assert_eq!(&t.tensor_content[..], b"\0\x01\nb");
        assert_eq!(t.tensor_shape.as_ref().unwrap().dim[0].size, -1);
    }

    #[test]
    fn packed_messages_are_written_out() {
        let text =
            r#"any_list { value { [type.googleapis.com/tensorflow.AssetFileDef] { filename: "foo.txt" } } }"#;
        let collection: CollectionDef = decode(text, "CollectionDef").unwrap();
        let Some(crate::proto::collection_def::Kind::AnyList(list)) = collection.kind else {
            panic!("no list")
        };
        assert_eq!(list.value[0].type_url, "type.googleapis.com/tensorflow.AssetFileDef");
        assert_eq!(&list.value[0].value[..], b"\x12\x07foo.txt");
    }

    #[test]
    fn errors_name_the_line() {
        let broken = decode::<GraphDef>("node {\n  name: 5\n}", "GraphDef").unwrap_err();
        assert_eq!(broken.to_string(), "line 2: expected a string");
        let deep = "node { attr { value { func { attr { value { func {".repeat(60);
        assert!(decode::<GraphDef>(&deep, "GraphDef").is_err());
    }
}
