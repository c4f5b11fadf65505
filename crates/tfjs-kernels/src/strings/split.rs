//! `StringSplit`, `StringSplitV2`.
use crate::{KernelError, Result, Tensor, TfString};

/// Tokens per string as a sparse tensor: `[n, 2]` indices, `[n]` values, `[2]` shape.
fn sparse(rows: Vec<Vec<&[u8]>>) -> Result<[Tensor; 3]> {
    let count: usize = rows.iter().map(Vec::len).sum();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if i32::try_from(count.max(rows.len())).is_err() {
        return Err(KernelError::TooLarge { shape: format!("[{count}]") });
    }
    let mut indices = Vec::with_capacity(count * 2);
    let mut values = Vec::with_capacity(count);
    let shape = vec![rows.len() as i32, columns as i32];
    for (r, tokens) in rows.into_iter().enumerate() {
        for (c, token) in tokens.into_iter().enumerate() {
            indices.extend([r as i32, c as i32]);
            values.push(TfString::from(token.to_vec()));
        }
    }
    Ok([Tensor::new([count, 2], indices)?, Tensor::vector(values), Tensor::vector(shape)])
}

fn vector(input: &Tensor) -> Result<&[TfString]> {
    let t = input.typed::<TfString>("input")?;
    if t.dims().len() != 1 {
        return Err(KernelError::Rank { what: "input", got: t.shape(), expected: "one dimension" });
    }
    Ok(t.data())
}

/// Splits each string at every byte that occurs in `delimiter`; an empty one splits into single bytes.
///
/// # Errors
/// [`KernelError`] when the input is not a vector of strings.
pub fn string_split(input: &Tensor, delimiter: &[u8], skip_empty: bool) -> Result<[Tensor; 3]> {
    let split = |s: &'_ [u8]| -> Vec<(usize, usize)> {
        if delimiter.is_empty() {
            return (0..s.len()).map(|i| (i, i + 1)).collect();
        }
        let mut tokens = Vec::new();
        let mut start = 0;
        for end in 0..=s.len() {
            if end == s.len() || delimiter.contains(&s[end]) {
                if end > start || !skip_empty {
                    tokens.push((start, end));
                }
                start = end + 1;
            }
        }
        tokens
    };
    sparse(
        vector(input)?
            .iter()
            .map(|s| split(s).into_iter().map(|(from, to)| &s[from..to]).collect())
            .collect(),
    )
}

/// Splits as Python's `str.split`: at every occurrence of `separator`, or at runs of white space when it is
/// empty; at most `max_split` times when that is not negative.
///
/// # Errors
/// [`KernelError`] when the input is not a vector of strings.
pub fn string_split_v2(input: &Tensor, separator: &[u8], max_split: i64) -> Result<[Tensor; 3]> {
    let limit = usize::try_from(max_split).unwrap_or(usize::MAX);
    sparse(
        vector(input)?
            .iter()
            .map(|s| if separator.is_empty() { words(s, limit) } else { pieces(s, separator, limit) })
            .collect(),
    )
}

/// White space as C's `isspace`.
pub(super) fn is_space(c: &u8) -> bool {
    matches!(c, b' ' | b'\t'..=b'\r')
}

fn words(s: &[u8], limit: usize) -> Vec<&[u8]> {
    let mut tokens = Vec::new();
    let mut rest = s;
    loop {
        let start = rest.iter().position(|c| !is_space(c)).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return tokens;
        }
        let end = rest.iter().position(is_space).filter(|_| tokens.len() < limit).unwrap_or(rest.len());
        tokens.push(&rest[..end]);
        rest = &rest[end..];
    }
}

fn pieces<'a>(s: &'a [u8], separator: &[u8], limit: usize) -> Vec<&'a [u8]> {
    let mut tokens = Vec::new();
    let mut rest = s;
    while tokens.len() < limit {
        let Some(at) = rest.windows(separator.len()).position(|w| w == separator) else { break };
        tokens.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    tokens.push(rest);
    tokens
}
