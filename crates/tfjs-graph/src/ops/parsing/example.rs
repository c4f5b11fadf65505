//! Reading `tf.Example` messages.
use std::collections::BTreeMap;

/// Values of one feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Feature<'a> {
    Bytes(Vec<&'a [u8]>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

/// Features by name; those without a value list are left out. `None` when the message is malformed.
pub(super) fn features(message: &[u8]) -> Option<BTreeMap<&[u8], Feature<'_>>> {
    let mut out = BTreeMap::new();
    for features in messages(message, 1)? {
        for entry in messages(features, 1)? {
            let name = messages(entry, 1)?.pop().unwrap_or_default();
            let value = messages(entry, 2)?.pop().unwrap_or_default();
            match feature(value)? {
                // The last entry of a name counts.
                Some(feature) => out.insert(name, feature),
                None => out.remove(name),
            };
        }
    }
    Some(out)
}

fn feature(message: &[u8]) -> Option<Option<Feature<'_>>> {
    let mut out = None;
    for (number, value) in Fields(message).collect::<Option<Vec<_>>>()? {
        let Wire::Bytes(list) = value else { return None };
        out = match number {
            1 => Some(Feature::Bytes(messages(list, 1)?)),
            2 => Some(Feature::Floats(floats(list)?)),
            3 => Some(Feature::Ints(ints(list)?)),
            _ => out,
        };
    }
    Some(out)
}

/// All length-delimited fields of one number.
fn messages(message: &[u8], number: u64) -> Option<Vec<&[u8]>> {
    let mut out = Vec::new();
    for field in Fields(message) {
        match field? {
            (n, Wire::Bytes(b)) if n == number => out.push(b),
            (n, _) if n == number => return None,
            _ => {}
        }
    }
    Some(out)
}

fn floats(message: &[u8]) -> Option<Vec<f32>> {
    let mut out = Vec::new();
    for field in Fields(message) {
        match field? {
            (1, Wire::Bytes(packed)) => {
                let (words, []) = packed.as_chunks::<4>() else { return None };
                out.extend(words.iter().map(|w| f32::from_le_bytes(*w)));
            }
            (1, Wire::Fixed32(word)) => out.push(f32::from_le_bytes(word)),
            (1, _) => return None,
            _ => {}
        }
    }
    Some(out)
}

fn ints(message: &[u8]) -> Option<Vec<i64>> {
    let mut out = Vec::new();
    for field in Fields(message) {
        match field? {
            (1, Wire::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    out.push(varint(&mut packed)? as i64);
                }
            }
            (1, Wire::Varint(v)) => out.push(v as i64),
            (1, _) => return None,
            _ => {}
        }
    }
    Some(out)
}

/// A field's value as protobuf's wire format has it.
enum Wire<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order; a `None` inside says that the rest is malformed.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn field<'a>(data: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let key = varint(data)?;
    let value = match key & 7 {
        0 => Wire::Varint(varint(data)?),
        1 => {
            take(data, 8)?;
            Wire::Fixed64
        }
        2 => {
            let len = usize::try_from(varint(data)?).ok()?;
            Wire::Bytes(take(data, len)?)
        }
        5 => Wire::Fixed32(*take(data, 4)?.first_chunk()?),
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = data.split_at_checked(len)?;
    *data = tail;
    Some(head)
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(data, 1)?.first()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Feature, features};

    // tf.train.Example with a: bytes [b"x", b""], b: float [1.5], c: int64 [-1, 300], from TensorFlow 2.19.
    const EXAMPLE: &[u8] = &[
        0x0a, 0x38, 0x0a, 0x0e, 0x0a, 0x01, 0x61, 0x12, 0x09, 0x0a, 0x07, 0x0a, 0x01, 0x78, 0x0a, 0x00, 0x0a,
        0x00, 0x0a, 0x0d, 0x0a, 0x01, 0x62, 0x12, 0x08, 0x12, 0x06, 0x0a, 0x04, 0x00, 0x00, 0xc0, 0x3f, 0x0a,
        0x17, 0x0a, 0x01, 0x63, 0x12, 0x12, 0x1a, 0x10, 0x0a, 0x0e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0x01, 0xac, 0x02, 0xac, 0x02,
    ];

    #[test]
    fn an_example_is_read_and_a_truncated_one_is_refused() {
        let parsed = features(EXAMPLE).unwrap();
        assert_eq!(parsed[&b"a"[..]], Feature::Bytes(vec![b"x", b"", b""]));
        assert_eq!(parsed[&b"b"[..]], Feature::Floats(vec![1.5]));
        assert_eq!(parsed[&b"c"[..]], Feature::Ints(vec![-1, 300, 300]));
        for len in 1..EXAMPLE.len() {
            assert_eq!(features(&EXAMPLE[..len]), None, "{len}");
        }
        assert_eq!(features(&[]).unwrap().len(), 0);
    }
}
