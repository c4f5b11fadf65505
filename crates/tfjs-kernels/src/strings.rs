//! Byte strings: splitting, joining, matching, hashing, converting.
mod base64;
mod hash;
mod join;
mod ngrams;
mod number;
mod regex;
mod split;
mod text;

pub use base64::{decode_base64, encode_base64};
pub use hash::{cross_hashed, fingerprint64, hash_bucket_fast, hash_bucket_strong};
pub use join::{reduce_join, string_join};
pub use ngrams::{NGrams, string_ngrams};
pub use number::{NumberFormat, NumberStyle, as_string, string_to_number};
pub use regex::{Pattern, Rewrite};
pub use split::{string_split, string_split_v2};
pub use text::{LengthUnit, string_length, string_lower, string_strip, string_upper, substr};

use crate::{Result, Tensor, TensorOf, TfString};

/// Applies `f` to every string.
fn map(input: Tensor, f: impl Fn(&[u8]) -> Result<TfString>) -> Result<Tensor> {
    let mut t: TensorOf<TfString> = input.into_typed("input")?;
    for s in t.data_mut() {
        *s = f(s)?;
    }
    Ok(Tensor::Str(t))
}
