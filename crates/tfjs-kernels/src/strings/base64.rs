//! `EncodeBase64`, `DecodeBase64`: the web-safe alphabet.
use crate::{KernelError, Result, Tensor, TfString};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Encodes every string; `pad` fills up to a multiple of four characters with `=`.
///
/// # Errors
/// [`KernelError`] when the input is not strings.
pub fn encode_base64(input: Tensor, pad: bool) -> Result<Tensor> {
    super::map(input, |s| {
        let mut out = Vec::with_capacity(s.len().div_ceil(3) * 4);
        for chunk in s.chunks(3) {
            let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
            for i in 0..4 {
                if i <= chunk.len() {
                    out.push(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]);
                } else if pad {
                    out.push(b'=');
                }
            }
        }
        Ok(TfString::from(out))
    })
}

/// Decodes every string, padded or not.
///
/// # Errors
/// [`KernelError`] when the input is not strings, or one is not web-safe base64.
pub fn decode_base64(input: Tensor) -> Result<Tensor> {
    super::map(input, |s| {
        let wrong = || KernelError::Argument {
            what: "a string",
            got: format!("{:?}", String::from_utf8_lossy(s)),
            expected: "web-safe base64",
        };
        let padding = s.iter().rev().take_while(|&&c| c == b'=').count();
        let body = &s[..s.len() - padding];
        if padding > 2 || body.len() % 4 == 1 || (padding > 0 && s.len() % 4 != 0) {
            return Err(wrong());
        }
        let mut out = Vec::with_capacity(body.len() / 4 * 3 + 2);
        for chunk in body.chunks(4) {
            let mut bits = 0u32;
            for i in 0..4 {
                let digit = match chunk.get(i) {
                    Some(c) => ALPHABET.iter().position(|a| a == c).ok_or_else(wrong)?,
                    None => 0,
                };
                bits = bits << 6 | digit as u32;
            }
            out.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
        }
        Ok(TfString::from(out))
    })
}
