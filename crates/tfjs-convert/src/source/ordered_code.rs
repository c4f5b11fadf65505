//! The order-preserving encoding of the keys under which checkpoints store slices of a partitioned variable.

/// A box in a tensor: per dimension its first index and its extent; an absent extent means the whole dimension.
pub(crate) type Slice = Vec<(i64, Option<i64>)>;

/// The key of one slice of tensor `name`.
pub(crate) fn slice_key(name: &str, slice: &Slice) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 4 + 4 * slice.len());
    write_unsigned(&mut key, 0);
    write_string(&mut key, name.as_bytes());
    write_unsigned(&mut key, slice.len() as u64);
    for &(start, extent) in slice {
        // The whole dimension is written as start 0 and extent -1.
        write_signed(&mut key, if extent.is_some() { start } else { 0 });
        write_signed(&mut key, extent.unwrap_or(-1));
    }
    key
}

/// Length byte, then the significant bytes, most significant first.
fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let skip = (value.leading_zeros() / 8) as usize;
    out.push((8 - skip) as u8);
    out.extend_from_slice(&bytes[skip..]);
}

/// The bytes with 0x00 and 0xff escaped, then a terminator that sorts before everything.
fn write_string(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            0 => out.extend_from_slice(&[0, 0xff]),
            0xff => out.extend_from_slice(&[0xff, 0]),
            _ => out.push(byte),
        }
    }
    out.extend_from_slice(&[0, 1]);
}

/// The number of leading one bits tells the length; negative numbers are the complement of their complement.
fn write_signed(out: &mut Vec<u8>, value: i64) {
    let magnitude = if value < 0 { !value } else { value } as u64;
    if magnitude < 64 {
        out.push(0x80 ^ value as u8);
        return;
    }
    // A length of n bytes carries 7n - 1 bits besides the sign.
    let bits = 64 - magnitude.leading_zeros() as usize;
    let len = (bits / 7 + 1).min(10);
    let sign = if value < 0 { 0xff } else { 0 };
    let mut buf = [sign; 10];
    buf[2..].copy_from_slice(&value.to_be_bytes());
    let header: [u8; 2] = match len {
        1..=8 => [!(0xffu16 >> len) as u8, 0],
        9 => [0xff, 0x80],
        _ => [0xff, 0xc0],
    };
    let bytes = &mut buf[10 - len..];
    bytes[0] ^= header[0];
    bytes[1] ^= header[1];
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::{slice_key, write_signed, write_unsigned};

    /// Expected bytes follow TensorFlow's `ordered_code_test.cc` definitions: header bits 10, 110, 1110, …
    #[test]
    fn signed_numbers_have_a_unary_length_in_front() {
        let encode = |v| {
            let mut out = Vec::new();
            write_signed(&mut out, v);
            out
        };
        assert_eq!(encode(0), [0x80]);
        assert_eq!(encode(-1), [0x7f]);
        assert_eq!(encode(63), [0xbf]);
        assert_eq!(encode(64), [0xc0, 0x40]);
        assert_eq!(encode(-64), [0x40]);
        assert_eq!(encode(-65), [0x3f, 0xbf]);
        assert_eq!(encode(8191), [0xdf, 0xff]);
        assert_eq!(encode(8192), [0xe0, 0x20, 0x00]);
    }

    #[test]
    fn unsigned_numbers_have_a_length_byte_in_front() {
        let mut out = Vec::new();
        write_unsigned(&mut out, 0);
        write_unsigned(&mut out, 2);
        write_unsigned(&mut out, 256);
        assert_eq!(out, [0, 1, 2, 2, 1, 0]);
    }

    #[test]
    fn slice_keys_hold_name_and_extents() {
        let key = slice_key("v", &vec![(0, Some(5)), (0, None)]);
        assert_eq!(key, [0, b'v', 0, 1, 1, 2, 0x80, 0x85, 0x80, 0x7f]);
    }
}
