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
        // Nothing has no token, not even an empty one.
        if s.is_empty() {
            return tokens;
        }
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
/// empty; at most `max_split` times when that is positive, and not at all when it is 0.
///
/// As in TensorFlow, after `max_split` words the rest is a token even if it is empty.
///
/// # Errors
/// [`KernelError`] when the input is not a vector of strings.
pub fn string_split_v2(input: &Tensor, separator: &[u8], max_split: i64) -> Result<[Tensor; 3]> {
    let limit = usize::try_from(max_split).unwrap_or(usize::MAX);
    sparse(
        vector(input)?
            .iter()
            .map(|s| match separator {
                _ if limit == 0 => vec![&s[..]],
                [] => words(s, limit),
                _ => pieces(s, separator, limit),
            })
            .collect(),
    )
}

/// White space as C's `isspace`.
pub(super) fn is_space(c: &u8) -> bool {
    matches!(c, b' ' | b'\t'..=b'\r')
}

fn words(s: &[u8], limit: usize) -> Vec<&[u8]> {
    let skip = |s: &[u8]| s.iter().position(|c| !is_space(c)).unwrap_or(s.len());
    let mut tokens = Vec::new();
    let mut rest = &s[skip(s)..];
    while !rest.is_empty() {
        let end = rest.iter().position(is_space).unwrap_or(rest.len());
        tokens.push(&rest[..end]);
        rest = &rest[end..];
        rest = &rest[skip(rest)..];
        if tokens.len() == limit {
            tokens.push(rest);
            break;
        }
    }
    tokens
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

#[cfg(test)]
mod tests {
    use super::{string_split, string_split_v2};
    use crate::{Tensor, TfString};

    fn tokens(result: [Tensor; 3]) -> (Vec<String>, Vec<i32>) {
        let [_, values, shape] = result;
        let values =
            values.data::<TfString>().unwrap().iter().map(|s| String::from_utf8_lossy(s).into_owned());
        (values.collect(), shape.data::<i32>().unwrap().to_vec())
    }

    fn words(of: &[&str]) -> Tensor {
        Tensor::vector(of.iter().map(|&s| TfString::from(s)).collect::<Vec<_>>())
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn version_1_splits_at_any_byte_of_the_delimiter() {
        let input = words(&["a b  c", "", " x", "abc"]);
        let (values, shape) = tokens(string_split(&input, b" ", true).unwrap());
        assert_eq!((values.join(","), shape), ("a,b,c,x,abc".into(), vec![4, 3]));
        let (values, shape) = tokens(string_split(&input, b" ", false).unwrap());
        assert_eq!((values.join(","), shape), ("a,b,,c,,x,abc".into(), vec![4, 4]));
        let (values, _) = tokens(string_split(&words(&["a-b,c"]), b"-,", true).unwrap());
        assert_eq!(values, ["a", "b", "c"]);
        let (values, shape) = tokens(string_split(&words(&["abc", ""]), b"", true).unwrap());
        assert_eq!((values.join(","), shape), ("a,b,c".into(), vec![2, 3]));
    }

    #[test]
    fn version_2_splits_as_python_does_with_tensorflows_exceptions() {
        let input = words(&["  a b  c ", "a,b,,c", "", "xabyab"]);
        for (separator, max, want, columns) in [
            ("", -1, "a;b;c;a,b,,c;xabyab", 3),
            ("", 1, "a;b  c ;a,b,,c;;xabyab;", 2),
            (",", -1, "  a b  c ;a;b;;c;;xabyab", 4),
            (",", 1, "  a b  c ;a;b,,c;;xabyab", 2),
            (",", 0, "  a b  c ;a,b,,c;;xabyab", 1),
            ("", 0, "  a b  c ;a,b,,c;;xabyab", 1),
            ("ab", -1, "  a b  c ;a,b,,c;;x;y;", 3),
        ] {
            let (values, shape) = tokens(string_split_v2(&input, separator.as_bytes(), max).unwrap());
            assert_eq!((values.join(";"), shape), (want.into(), vec![4, columns]), "{separator} {max}");
        }
    }
}
