//! `StringNGrams`.
use crate::{KernelError, Result, Tensor, TfString};

/// Attributes of [`string_ngrams`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NGrams {
    /// Goes between tokens.
    pub separator: Vec<u8>,
    /// Sizes of the n-grams.
    pub widths: Vec<usize>,
    /// Put before a sequence.
    pub left_pad: Vec<u8>,
    /// Put after a sequence.
    pub right_pad: Vec<u8>,
    /// How many pads on each side at most; `None` for one less than the width.
    pub pad_width: Option<usize>,
    /// A sequence that is too short for any n-gram makes one of itself.
    pub preserve_short_sequences: bool,
}

impl NGrams {
    fn pads(&self, width: usize) -> usize {
        let most = width.saturating_sub(1);
        self.pad_width.map_or(most, |p| p.min(most))
    }

    /// How many n-grams of this width a sequence of `length` tokens has.
    fn count(&self, length: usize, width: usize) -> usize {
        (length + 2 * self.pads(width) + 1).saturating_sub(width)
    }

    fn emit(&self, tokens: &[TfString], count: usize, width: usize, out: &mut Vec<TfString>) {
        let pads = self.pads(width);
        for i in 0..count {
            let left = pads.saturating_sub(i);
            let right = pads.saturating_sub(count - (i + 1));
            let from = i.saturating_sub(pads);
            let n = width.saturating_sub(left + right);
            let mut pieces: Vec<&[u8]> = vec![&self.left_pad; left];
            pieces.extend(tokens.iter().skip(from).take(n).map(|t| &t[..]));
            pieces.extend(std::iter::repeat_n(&self.right_pad[..], right));
            out.push(TfString::from(pieces.join(&self.separator[..])));
        }
    }
}

/// N-grams of the token sequences `data[splits[i]..splits[i + 1]]`: the n-grams and their splits.
///
/// # Errors
/// [`KernelError`] when types or ranks do not fit, or the splits do not start at 0, ascend, and end at the
/// number of tokens.
pub fn string_ngrams(data: &Tensor, splits: &Tensor, attrs: &NGrams) -> Result<[Tensor; 2]> {
    let tokens = data.typed::<TfString>("data")?;
    let bounds = splits.typed::<i32>("data_splits")?;
    if tokens.dims().len() != 1 || bounds.dims().len() != 1 {
        return Err(KernelError::Shapes {
            left: tokens.shape(),
            right: bounds.shape(),
            why: "are not those of two vectors",
        });
    }
    if attrs.widths.contains(&0) {
        return Err(KernelError::Argument {
            what: "ngram_widths",
            got: format!("{:?}", attrs.widths),
            expected: "positive widths",
        });
    }
    let (tokens, bounds) = (tokens.data(), bounds.data());
    let mut ngrams = Vec::new();
    if bounds.is_empty() {
        return Ok([Tensor::vector(ngrams), Tensor::vector(Vec::<i32>::new())]);
    }
    if bounds[0] != 0 || !bounds.is_sorted() || usize::try_from(bounds[bounds.len() - 1]) != Ok(tokens.len())
    {
        return Err(KernelError::Argument {
            what: "data_splits",
            got: format!("{:?}", &bounds[..bounds.len().min(16)]),
            expected: "ascending from 0 to the number of tokens",
        });
    }
    let mut out_splits = Vec::with_capacity(bounds.len());
    out_splits.push(0);
    for pair in bounds.windows(2) {
        let sequence = &tokens[pair[0] as usize..pair[1] as usize];
        let before = ngrams.len();
        for &width in &attrs.widths {
            let count = attrs.count(sequence.len(), width);
            attrs.emit(sequence, count, width, &mut ngrams);
        }
        if attrs.preserve_short_sequences && ngrams.len() == before && !sequence.is_empty() {
            // Without a limit on the pads there would have been an n-gram.
            attrs.emit(sequence, 1, sequence.len() + 2 * attrs.pad_width.unwrap_or(0), &mut ngrams);
        }
        out_splits.push(
            i32::try_from(ngrams.len())
                .map_err(|_| KernelError::TooLarge { shape: format!("[{}]", ngrams.len()) })?,
        );
    }
    Ok([Tensor::vector(ngrams), Tensor::vector(out_splits)])
}

#[cfg(test)]
mod tests {
    use super::{NGrams, string_ngrams};
    use crate::{Tensor, TfString};

    fn run(widths: &[usize], pad_width: Option<usize>, preserve: bool) -> (String, Vec<i32>) {
        let data = Tensor::vector(["a", "b", "c", "d"].map(TfString::from).to_vec());
        let attrs = NGrams {
            separator: b"|".to_vec(),
            widths: widths.to_vec(),
            left_pad: b"L".to_vec(),
            right_pad: b"R".to_vec(),
            pad_width,
            preserve_short_sequences: preserve,
        };
        let [grams, splits] = string_ngrams(&data, &Tensor::vector(vec![0, 3, 3, 4]), &attrs).unwrap();
        let grams: Vec<_> = grams
            .data::<TfString>()
            .unwrap()
            .iter()
            .map(|s| String::from_utf8_lossy(s).into_owned())
            .collect();
        (grams.join(" "), splits.data::<i32>().unwrap().to_vec())
    }

    // Values from TensorFlow 2.19.
    #[test]
    fn ngrams_agree_with_tensorflow() {
        let want = "L|a a|b b|c c|R L|a|b a|b|c b|c|R L|R L|d d|R L|d|R";
        assert_eq!(run(&[2, 3], Some(1), true), (want.into(), vec![0, 7, 8, 11]));
        assert_eq!(run(&[4], Some(1), true), ("L|a|b|c a|b|c|R L|d|R".into(), vec![0, 2, 2, 3]));
        let want = "L|L|a L|a|b a|b|c b|c|R c|R|R L|L|R L|R|R L|L|d L|d|R d|R|R";
        assert_eq!(run(&[3], None, false), (want.into(), vec![0, 5, 7, 10]));
    }

    #[test]
    fn splits_must_cover_the_tokens() {
        let data = Tensor::vector(vec![TfString::from("a")]);
        for splits in [vec![1], vec![0], vec![0, 2], vec![0, 1, 0], vec![-1, 1]] {
            assert!(string_ngrams(&data, &Tensor::vector(splits), &NGrams::default()).is_err());
        }
    }
}
