//! Text as indices or counts of its words.

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor, TfString};

use super::{encode::Mode, lookup::Lookup};
use crate::{Call, Config, Emit, Layer, LayersError, Scope, Sym, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// Standardises, splits, joins n-grams and looks them up.
#[derive(Debug)]
struct TextVectorization {
    lower: bool,
    strip: bool,
    split: Option<Split>,
    ngrams: Option<Vec<i64>>,
    length: Option<usize>,
    lookup: Lookup,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    Whitespace,
    Character,
}

/// What `strip_punctuation` takes away.
const PUNCTUATION: &str = r##"[!"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~\']"##;
/// Stands between characters while they are split: a code point that text does not have.
const BETWEEN: &str = "\u{10FFFF}";

pub(super) fn text_vectorization(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let ours = "; functions of your own are code that the file does not hold";
    let word = |key: &'static str, words: &[&'static str], default: &'static str| match c.get(key) {
        None if c.has(key) => Ok(None),
        Some(value) if !value.is_string() => Err(c.wrong(key, format!("one of {}{ours}", words.join(", ")))),
        _ => c.one_of(key, words, default).map(Some),
    };
    let styles = ["lower_and_strip_punctuation", "lower", "strip_punctuation"];
    let standardize = word("standardize", &styles, "lower_and_strip_punctuation")?;
    let split = word("split", &["whitespace", "character"], "whitespace")?;
    if c.bool_or("ragged", false)? {
        return Err(c.wrong("ragged", "false: outputs are dense here"));
    }
    if c.get("output_mode").is_none() && c.has("output_mode") {
        return Err(c.wrong("output_mode", "a mode: tokens alone would be ragged strings"));
    }
    let ngrams = match (c.opt_ints("ngrams")?, c.get("ngrams").is_some_and(|v| v.is_number())) {
        (Some(n), true) if n[0] > MOST_NGRAMS => {
            return Err(c.wrong("ngrams", format!("at most {MOST_NGRAMS}")));
        }
        (Some(n), true) => Some((1..=n[0]).collect::<Vec<i64>>()),
        (list, _) => list,
    };
    if ngrams.as_ref().is_some_and(|n| n.is_empty() || n.iter().any(|&w| w < 1)) {
        return Err(c.wrong("ngrams", "positive widths"));
    }
    Ok(Box::new(TextVectorization {
        lower: matches!(standardize, Some("lower" | "lower_and_strip_punctuation")),
        strip: matches!(standardize, Some("strip_punctuation" | "lower_and_strip_punctuation")),
        split: split.map(|s| if s == "character" { Split::Character } else { Split::Whitespace }),
        ngrams,
        length: c.opt_usize("output_sequence_length")?,
        lookup: Lookup::new(c, true, Some(""))?,
    }))
}

/// Up to how many tokens are joined.
const MOST_NGRAMS: i64 = 1 << 10;

/// Tokens in rows of different lengths, or of the same.
enum Tokens {
    /// A dense tensor.
    Dense(Port),
    /// `StringSplit`'s indices, values and shape.
    Sparse { indices: Port, values: Port, shape: Port },
    /// Values and where each row ends.
    Ragged { values: Port, splits: Port },
}

impl Layer for TextVectorization {
    fn build(&mut self, scope: &mut Scope<'_>, _inputs: &[Fact]) -> Result<()> {
        self.lookup.build(scope)
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let mut x = call.one()?.port;
        if self.lower {
            x = g.op("StringLower", &[x], &[("encoding", attr::text(""))])?;
        }
        if self.strip {
            x = replace(g, x, PUNCTUATION, "")?;
        }
        let batch = if g.rank(x)? > 0 { g.dim(x, 0)? } else { Dim::Known(1) };
        let mut tokens = match self.split {
            None => Tokens::Dense(x),
            Some(split) => split_rows(g, x, split)?,
        };
        if let Some(widths) = &self.ngrams {
            tokens = self.ngrams(g, tokens, widths, batch)?;
        }
        let indices = self.looked_up(g, tokens, batch)?;
        if self.lookup.mode() != Mode::Int {
            return Ok(vec![self.lookup.encoded(g, indices)?.into()]);
        }
        let y = match self.length {
            Some(length) => to_length(g, indices, length)?,
            None => indices,
        };
        Ok(vec![y.into()])
    }
}

impl TextVectorization {
    /// The indices of all tokens, dense; places without a token hold what stands for the mask token.
    fn looked_up(&self, g: &mut Emit, tokens: Tokens, batch: Dim) -> Result<Port> {
        let nothing = g.int(if self.lookup.mode() == Mode::Int { 0 } else { i32::MAX });
        let rows = match batch {
            Dim::Known(n) => Some(n),
            Dim::Of(..) => None,
        };
        match tokens {
            Tokens::Dense(x) => self.lookup.indices(g, x),
            Tokens::Sparse { indices, values, shape } => {
                let found = self.lookup.indices(g, values)?;
                let attrs = [("validate_indices", attr::bool(true))];
                let dense = g.op("SparseToDense", &[indices, shape, found, nothing], &attrs)?;
                g.set_shape(dense, &[rows, None]);
                Ok(dense)
            }
            Tokens::Ragged { values, splits } => {
                let found = self.lookup.indices(g, values)?;
                let (indices, shape) = positions(g, values, splits)?;
                let attrs = [("validate_indices", attr::bool(true))];
                let dense = g.op("SparseToDense", &[indices, shape, found, nothing], &attrs)?;
                g.set_shape(dense, &[rows, None]);
                Ok(dense)
            }
        }
    }

    fn ngrams(&self, g: &mut Emit, tokens: Tokens, widths: &[i64], batch: Dim) -> Result<Tokens> {
        let (values, splits) = match tokens {
            Tokens::Dense(x) => {
                let rank = g.rank(x)?;
                if rank != 2 {
                    let problem = format!(
                        "n-grams of tokens of shape [batch, tokens] are possible, not of {}",
                        g.fact(x)
                    );
                    return Err(LayersError::Inputs(problem));
                }
                let width = g.dim(x, 1)?;
                let (width, rows) = (g.dim_value(width)?, g.dim_value(batch)?);
                let (zero, one) = (g.int(0), g.int(1));
                let end = g.mul(width, rows)?;
                let end = g.add(end, one)?;
                let splits = g.op("Range", &[zero, end, width], &[])?;
                g.set_shape(splits, &[None]);
                (g.join_leading(x, 2)?, splits)
            }
            Tokens::Sparse { indices, values, .. } => {
                // Row of each token, counted, then summed up.
                let rows = g.slice(indices, &[0, 0], &[-1, 1])?;
                let rows = g.squeeze(rows, &[1])?;
                let count = g.dim_value(batch)?;
                let none = g.constant(Tensor::zeros(DType::Int32, [0])?);
                let lengths =
                    g.op("DenseBincount", &[rows, count, none], &[("binary_output", attr::bool(false))])?;
                g.set_shape(lengths, &[None]);
                let axis = g.int(0);
                let ends = g.op("Cumsum", &[lengths, axis], &[])?;
                let start = g.ints(&[0]);
                (values, g.concat(&[start, ends], 0)?)
            }
            Tokens::Ragged { values, splits } => (values, splits),
        };
        let attrs = [
            ("separator", attr::text(" ")),
            ("ngram_widths", attr::ints(widths.iter().copied())),
            ("left_pad", attr::text("")),
            ("right_pad", attr::text("")),
            ("pad_width", attr::int(0)),
            ("preserve_short_sequences", attr::bool(false)),
        ];
        let joined = g.op_n("StringNGrams", &[values, splits], &attrs, 2)?;
        Ok(Tokens::Ragged { values: joined[0], splits: joined[1] })
    }
}

/// Row and column of each value of rows that end at `splits`, and the shape that holds them. (TensorFlow.js has no
/// `RaggedTensorToTensor` that runs.)
fn positions(g: &mut Emit, values: Port, splits: Port) -> Result<(Port, Port)> {
    let count = g.dim(values, 0)?;
    let count = g.dim_value(count)?;
    let (zero, one) = (g.int(0), g.int(1));
    let places = g.op("Range", &[zero, count, one], &[])?;
    g.set_shape(places, &[None]);
    let ends = g.slice(splits, &[1], &[-1])?;
    let batch = g.dim(ends, 0)?;
    let batch = g.dim_value(batch)?;
    // The row of a value is the number of rows that ended before it.
    let none = g.constant(Tensor::zeros(DType::Int32, [0])?);
    let bins = g.add(count, one)?;
    let ended = g.op("DenseBincount", &[ends, bins, none], &[("binary_output", attr::bool(false))])?;
    g.set_shape(ended, &[None]);
    let ended = g.op("Cumsum", &[ended, zero], &[])?;
    let rows = g.op("GatherV2", &[ended, places, zero], &[])?;
    let starts = g.op("GatherV2", &[splits, rows, zero], &[])?;
    let columns = g.sub(places, starts)?;
    let indices = g.op("Pack", &[rows, columns], &[("axis", attr::int(1))])?;
    let all = g.op("Range", &[zero, batch, one], &[])?;
    let before = g.op("GatherV2", &[splits, all, zero], &[])?;
    let lengths = g.sub(ends, before)?;
    let none = g.ints(&[0]);
    let lengths = g.concat(&[lengths, none], 0)?;
    let longest = g.reduce("Max", lengths, &[0], false)?;
    let shape = g.op("Pack", &[batch, longest], &[("axis", attr::int(0))])?;
    Ok((indices, shape))
}

fn text(text: &str) -> Tensor {
    Tensor::scalar(TfString(text.as_bytes().to_vec().into()))
}

fn replace(g: &mut Emit, x: Port, pattern: &str, with: &str) -> Result<Port> {
    let attrs = [
        ("pattern", attr::text(pattern)),
        ("rewrite", attr::text(with)),
        ("replace_global", attr::bool(true)),
    ];
    g.op("StaticRegexReplace", &[x], &attrs)
}

fn split_rows(g: &mut Emit, x: Port, split: Split) -> Result<Tokens> {
    let shape = g.shape(x)?;
    let mut x = x;
    match shape.as_slice() {
        [] => x = g.expand_dims(x, 0)?,
        [_] => {}
        [_, Some(1)] => x = g.squeeze(x, &[1])?,
        _ => {
            let problem =
                format!("text of shape [batch] or [batch, 1] is needed to be split, it is {}", g.fact(x));
            return Err(LayersError::Inputs(problem));
        }
    }
    let separator = match split {
        Split::Whitespace => "",
        Split::Character => {
            x = replace(g, x, "(?s)(.)", &format!("\\1{BETWEEN}"))?;
            // None after the last one: it would be followed by an empty token.
            x = replace(g, x, &format!("{BETWEEN}$"), "")?;
            BETWEEN
        }
    };
    let separator = g.constant(text(separator));
    let parts = g.op_n("StringSplitV2", &[x, separator], &[("maxsplit", attr::int(-1))], 3)?;
    Ok(Tokens::Sparse { indices: parts[0], values: parts[1], shape: parts[2] })
}

/// Rows cut or filled up with zeros.
fn to_length(g: &mut Emit, x: Port, length: usize) -> Result<Port> {
    let rank = g.rank(x)?;
    let size = i32::try_from(length)
        .map_err(|_| LayersError::Inputs(format!("a length of {length} is too large")))?;
    let mut pads = vec![(0, 0); rank.saturating_sub(1)];
    pads.push((0, length));
    let padded = g.pad(x, &pads, 0.0)?;
    let mut sizes = vec![-1; rank.saturating_sub(1)];
    sizes.push(size);
    g.slice(padded, &vec![0; rank], &sizes)
}
