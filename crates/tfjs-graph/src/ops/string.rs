//! Byte strings.
use tfjs_kernels::{
    DType,
    strings::{self, LengthUnit, NGrams, NumberFormat, NumberStyle, Pattern, Rewrite},
};

use super::infer::{choice, count, dims, dtype, fact, full, ints, unsupported};
use crate::{
    Fact, Op, OpError,
    op::{ANY, Build, OpDef, one, same, simple, values},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("AsString", 1..=1, as_string),
    OpDef::new("DecodeBase64", 1..=1, |_| simple(|x| one(strings::decode_base64(x.take(0)?)), same)),
    OpDef::new("EncodeBase64", 1..=1, |b| {
        let pad = b.attrs.bool_or("pad", false)?;
        simple(move |x| one(strings::encode_base64(x.take(0)?, pad)), same)
    }),
    OpDef::new("ReduceJoin", 2..=2, |b| {
        let keep = b.attrs.bool_or("keep_dims", false)?;
        let separator = bytes(b, "separator")?;
        simple(
            move |x| {
                let axes = x.elements(1, "reduction_indices")?;
                one(strings::reduce_join(x.tensor(0)?, axes, keep, &separator))
            },
            move |f| {
                let shape = dims(f, 0).zip(ints(f, 1)).map(|(dims, axes)| {
                    let rank = dims.len() as i64;
                    let gone = |d: usize| axes.iter().any(|&a| i64::from(a).rem_euclid(rank) == d as i64);
                    let kept = dims.iter().enumerate().filter(|(d, _)| keep || !gone(*d));
                    kept.map(|(d, size)| if gone(d) { Some(1) } else { *size }).collect()
                });
                Ok(vec![fact(Some(DType::String), shape)])
            },
        )
    }),
    OpDef::new("RegexFullMatch", 2..=2, |_| {
        simple(
            |x| {
                let pattern = Pattern::new(&x.scalar::<tfjs_kernels::TfString>(1, "pattern")?)?;
                one(pattern.full_match(x.tensor(0)?))
            },
            |f| like(f, DType::Bool),
        )
    }),
    OpDef::new("RegexReplace", 3..=3, |b| {
        let global = b.attrs.bool_or("replace_global", true)?;
        simple(
            move |x| {
                let pattern = Pattern::new(&x.scalar::<tfjs_kernels::TfString>(1, "pattern")?)?;
                let rewrite = Rewrite::new(&x.scalar::<tfjs_kernels::TfString>(2, "rewrite")?);
                one(pattern.replace(x.take(0)?, &rewrite, global))
            },
            same,
        )
    }),
    OpDef::new("StaticRegexFullMatch", 1..=1, |b| {
        let pattern = Pattern::new(b.attrs.bytes("pattern")?)?;
        simple(move |x| one(pattern.full_match(x.tensor(0)?)), |f| like(f, DType::Bool))
    }),
    OpDef::new("StaticRegexReplace", 1..=1, |b| {
        let pattern = Pattern::new(b.attrs.bytes("pattern")?)?;
        let rewrite = Rewrite::new(b.attrs.bytes("rewrite")?);
        let global = b.attrs.bool_or("replace_global", true)?;
        simple(move |x| one(pattern.replace(x.take(0)?, &rewrite, global)), same)
    }),
    OpDef::new("StringJoin", 1..=ANY, |b| {
        let separator = bytes(b, "separator")?;
        simple(
            move |x| {
                let inputs = x.take_tensors(0..x.len())?;
                one(strings::string_join(&inputs, &separator))
            },
            |f| {
                let shape =
                    f.iter().find(|f| f.rank() != Some(0)).or(f.first()).and_then(|f| f.shape.clone());
                Ok(vec![fact(Some(DType::String), shape)])
            },
        )
    }),
    OpDef::new("StringLength", 1..=1, |b| {
        let unit = unit(b)?;
        simple(move |x| one(strings::string_length(x.tensor(0)?, unit)), |f| like(f, DType::Int32))
    }),
    OpDef::new("StringLower", 1..=1, |b| {
        let utf8 = encoding(b)?;
        simple(move |x| one(strings::string_lower(x.take(0)?, utf8)), same)
    }),
    OpDef::new("StringNGrams", 2..=2, |b| {
        let widths = b.attrs.ints("ngram_widths")?;
        let wrong = || unsupported("ngram_widths", format!("{widths:?}"), "positive widths");
        let widths =
            widths.iter().map(|&w| usize::try_from(w).ok().filter(|&w| w > 0)).collect::<Option<Vec<_>>>();
        let ngrams = NGrams {
            separator: b.attrs.bytes("separator")?.to_vec(),
            widths: widths.ok_or_else(wrong)?,
            left_pad: b.attrs.bytes("left_pad")?.to_vec(),
            right_pad: b.attrs.bytes("right_pad")?.to_vec(),
            pad_width: usize::try_from(b.attrs.int("pad_width")?).ok(),
            preserve_short_sequences: b.attrs.bool_or("preserve_short_sequences", false)?,
        };
        simple(
            move |x| Ok(values(strings::string_ngrams(x.tensor(0)?, x.tensor(1)?, &ngrams)?)),
            |f| {
                let splits = dims(f, 1).map(<[_]>::to_vec);
                Ok(vec![fact(Some(DType::String), Some(vec![None])), fact(dtype(f, 1), splits)])
            },
        )
    }),
    OpDef::new("StringSplit", 2..=2, |b| {
        let skip_empty = b.attrs.bool_or("skip_empty", true)?;
        simple(
            move |x| {
                let delimiter = x.scalar::<tfjs_kernels::TfString>(1, "delimiter")?;
                Ok(values(strings::string_split(x.tensor(0)?, &delimiter, skip_empty)?))
            },
            tokens,
        )
    }),
    OpDef::new("StringSplitV2", 2..=2, |b| {
        let max_split = b.attrs.int_or("maxsplit", -1)?;
        simple(
            move |x| {
                let separator = x.scalar::<tfjs_kernels::TfString>(1, "sep")?;
                Ok(values(strings::string_split_v2(x.tensor(0)?, &separator, max_split)?))
            },
            tokens,
        )
    }),
    OpDef::new("StringStrip", 1..=1, |_| simple(|x| one(strings::string_strip(x.take(0)?)), same)),
    OpDef::new("StringToHashBucketFast", 1..=1, |b| {
        let buckets = buckets(b)?;
        simple(move |x| one(strings::hash_bucket_fast(x.tensor(0)?, buckets)), |f| like(f, DType::Int32))
    }),
    OpDef::new("StringToHashBucketStrong", 1..=1, |b| {
        let buckets = buckets(b)?;
        let key = match b.attrs.ints("key")?[..] {
            // The key is 128 bits; TensorFlow writes them as signed numbers.
            [a, b] => [a as u64, b as u64],
            ref other => return Err(unsupported("key", format!("{other:?}"), "two numbers")),
        };
        simple(
            move |x| one(strings::hash_bucket_strong(x.tensor(0)?, buckets, key)),
            |f| like(f, DType::Int32),
        )
    }),
    OpDef::new("StringToNumber", 1..=1, |b| {
        let out = b.attrs.dtype_or("out_type", DType::Float32)?;
        if !matches!(out, DType::Float32 | DType::Int32) {
            return Err(unsupported("out_type", out, "number types"));
        }
        simple(move |x| one(strings::string_to_number(x.tensor(0)?, out)), move |f| like(f, out))
    }),
    OpDef::new("StringUpper", 1..=1, |b| {
        let utf8 = encoding(b)?;
        simple(move |x| one(strings::string_upper(x.take(0)?, utf8)), same)
    }),
    OpDef::new("Substr", 3..=3, |b| {
        let unit = unit(b)?;
        simple(
            move |x| one(strings::substr(x.take(0)?, x.take(1)?, x.take(2)?, unit)),
            |f| {
                let shape = match (full(f, 0), full(f, 1)) {
                    (Some(a), Some(b)) => {
                        super::infer::known(&tfjs_kernels::transform::broadcast_shapes(&a, &b)?)
                    }
                    _ => None,
                };
                Ok(vec![fact(Some(DType::String), shape)])
            },
        )
    }),
];

/// A byte string attribute that is empty by default.
fn bytes(b: &Build<'_>, name: &str) -> Result<Vec<u8>> {
    Ok(b.attrs.opt_bytes(name)?.unwrap_or_default().to_vec())
}

/// One output of another type with the shape of input 0.
fn like(f: &[Fact], dtype: DType) -> Result<Vec<Fact>> {
    Ok(vec![fact(Some(dtype), dims(f, 0).map(<[_]>::to_vec))])
}

/// A sparse matrix of tokens: indices, values, shape.
fn tokens(_: &[Fact]) -> Result<Vec<Fact>> {
    Ok(vec![
        fact(Some(DType::Int32), Some(vec![None, Some(2)])),
        fact(Some(DType::String), Some(vec![None])),
        Fact::of(DType::Int32, &[2]),
    ])
}

fn unit(b: &Build<'_>) -> Result<LengthUnit> {
    let options = [("BYTE", LengthUnit::Byte), ("UTF8_CHAR", LengthUnit::Utf8Char)];
    choice(b, "unit", "BYTE", &options, "BYTE and UTF8_CHAR")
}

fn encoding(b: &Build<'_>) -> Result<bool> {
    choice(b, "encoding", "", &[("", false), ("utf-8", true)], "none and utf-8")
}

fn buckets(b: &Build<'_>) -> Result<i32> {
    let n = count(b, "num_buckets", 0, 1, "1 to 2^31 - 1")?;
    i32::try_from(n).map_err(|_| unsupported("num_buckets", n, "1 to 2^31 - 1"))
}

fn as_string(b: &Build<'_>) -> Boxed {
    let style = match (b.attrs.bool_or("scientific", false)?, b.attrs.bool_or("shortest", false)?) {
        (false, false) => NumberStyle::Fixed,
        (true, false) => NumberStyle::Scientific,
        (false, true) => NumberStyle::Shortest,
        (true, true) => return Err(unsupported("shortest", "true", "false where scientific is true")),
    };
    let fill = match *b.attrs.opt_bytes("fill")?.unwrap_or_default() {
        [] => None,
        [c @ (b' ' | b'+' | b'-' | b'0')] => Some(c),
        ref other => {
            return Err(unsupported("fill", String::from_utf8_lossy(other), "one of space, +, - and 0"));
        }
    };
    let format = NumberFormat {
        style,
        precision: usize::try_from(b.attrs.int_or("precision", -1)?).ok(),
        width: usize::try_from(b.attrs.int_or("width", -1)?).unwrap_or(0),
        fill,
    };
    simple(move |x| one(strings::as_string(x.tensor(0)?, &format)), |f| like(f, DType::String))
}
