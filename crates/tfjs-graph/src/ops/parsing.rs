//! Serialized examples and raw bytes.
mod example;

use example::Feature;
use tfjs_format::proto::DataType;
use tfjs_kernels::{DType, Element, Shape, Tensor, TensorOf, TfString};

use super::infer::{Dims, count, fact, unsupported};
use crate::{
    Fact, Op, OpError,
    op::{ANY, Build, Inputs, OpDef, Values, simple, values},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("DecodeRaw", 1..=1, decode_raw),
    OpDef::new("ParseExample", 2..=ANY, |b| {
        let (sparse, dense) =
            (count(b, "Nsparse", 0, 0, "0 or more")?, count(b, "Ndense", 0, 0, "0 or more")?);
        let parser = Parser::new(b, sparse, dense)?;
        arity(b, 2 + sparse + 2 * dense)?;
        parser.op(move |x| {
            let key = |i: usize, what| x.scalar::<TfString>(i, what);
            Ok(Keys {
                sparse: (2..2 + sparse).map(|i| key(i, "sparse_keys")).collect::<Result<_>>()?,
                dense: (2 + sparse..2 + sparse + dense)
                    .map(|i| key(i, "dense_keys"))
                    .collect::<Result<_>>()?,
                ragged: Vec::new(),
                first_default: 2 + sparse + dense,
            })
        })
    }),
    OpDef::new("ParseExampleV2", 5..=ANY, |b| {
        let sparse = count(b, "num_sparse", 0, 0, "0 or more")?;
        let parser = Parser::new(b, sparse, b.node.inputs.len() - 5)?;
        parser.op(|x| {
            let keys = |i, what| Ok::<_, OpError>(x.elements::<TfString>(i, what)?.to_vec());
            Ok(Keys {
                sparse: keys(2, "sparse_keys")?,
                dense: keys(3, "dense_keys")?,
                ragged: keys(4, "ragged_keys")?,
                first_default: 5,
            })
        })
    }),
    OpDef::new("ParseSingleExample", 1..=ANY, |b| {
        let sparse = count(b, "num_sparse", 0, 0, "0 or more")?;
        let parser = Parser::new(b, sparse, b.node.inputs.len() - 1)?;
        let keys =
            |name| Ok::<_, OpError>(b.attrs.strings(name)?.into_iter().map(|k| k.to_vec().into()).collect());
        let (sparse, dense): (Vec<TfString>, Vec<TfString>) = (keys("sparse_keys")?, keys("dense_keys")?);
        parser.op(move |_| {
            Ok(Keys { sparse: sparse.clone(), dense: dense.clone(), ragged: Vec::new(), first_default: 1 })
        })
    }),
];

fn arity(b: &Build<'_>, expected: usize) -> Result<()> {
    match b.node.inputs.len() {
        n if n == expected => Ok(()),
        got => Err(OpError::Arity { got, expected: expected.to_string() }),
    }
}

/// Names of the features, and the first input with a default of a dense one.
struct Keys {
    sparse: Vec<TfString>,
    dense: Vec<TfString>,
    ragged: Vec<TfString>,
    first_default: usize,
}

/// Types and shapes of the features to read.
#[derive(Clone)]
struct Parser {
    sparse: Vec<DType>,
    dense: Vec<(DType, Vec<Option<usize>>)>,
    ragged: Vec<DType>,
}

impl Parser {
    fn new(b: &Build<'_>, sparse: usize, dense: usize) -> Result<Parser> {
        let types = |name: &'static str, count: Option<usize>| {
            let list = b.attrs.data_types(name)?;
            let wrong = || unsupported(name, format!("{list:?}"), "float, int64 and string, one per feature");
            if count.is_some_and(|n| n != list.len()) {
                return Err(wrong());
            }
            let of = |t: &DataType| match DType::from_proto(*t) {
                Some(d @ (DType::Float32 | DType::Int32 | DType::String)) => Ok(d),
                _ => Err(wrong()),
            };
            list.iter().map(of).collect::<Result<Vec<_>>>()
        };
        let shapes = b.attrs.shapes("dense_shapes")?;
        let dense_types = types("Tdense", Some(dense))?;
        let expected = "known but for the first dimension, one per dense feature";
        if shapes.len() != dense {
            return Err(unsupported("dense_shapes", format!("{shapes:?}"), expected));
        }
        let dense = dense_types.into_iter().zip(shapes).map(|(dtype, shape)| match shape {
            Some(s) if s.iter().skip(1).all(Option::is_some) => Ok((dtype, s)),
            other => Err(unsupported("dense_shapes", format!("{other:?}"), expected)),
        });
        Ok(Parser {
            sparse: types("sparse_types", Some(sparse))?,
            dense: dense.collect::<Result<_>>()?,
            ragged: types("ragged_value_types", None)?,
        })
    }

    fn op(self, keys: impl Fn(&Inputs) -> Result<Keys> + Send + Sync + 'static) -> Boxed {
        let facts = self.clone();
        simple(
            move |x| {
                let keys = keys(x)?;
                self.run(x, &keys)
            },
            move |f| Ok(facts.facts(f)),
        )
    }

    fn facts(&self, f: &[Fact]) -> Vec<Fact> {
        let batch = f.first().and_then(|f| f.shape.clone());
        let rank = batch.as_ref().map(|b| b.len() + 1);
        let mut out = vec![fact(Some(DType::Int32), Some(vec![None, rank])); self.sparse.len()];
        out.extend(self.sparse.iter().map(|&d| fact(Some(d), Some(vec![None]))));
        out.extend(vec![fact(Some(DType::Int32), Some(vec![rank])); self.sparse.len()]);
        out.extend(self.dense.iter().map(|(dtype, shape)| {
            let shape: Dims = batch.as_ref().map(|b| b.iter().chain(shape).copied().collect());
            fact(Some(*dtype), shape)
        }));
        out.extend(self.ragged.iter().map(|&d| fact(Some(d), Some(vec![None]))));
        out.extend(vec![fact(Some(DType::Int32), Some(vec![None])); self.ragged.len()]);
        out
    }

    fn run(&self, x: &Inputs, keys: &Keys) -> Result<Values> {
        let serialized = x.tensor(0)?.typed::<TfString>("serialized")?;
        if serialized.dims().len() > 1 {
            return Err(OpError::input("serialized", "a vector or a scalar is expected"));
        }
        let single = serialized.dims().is_empty();
        if single && !self.ragged.is_empty() {
            return Err(OpError::input("serialized", "ragged features need a vector of examples"));
        }
        for (what, keys, declared) in [
            ("sparse_keys", &keys.sparse, self.sparse.len()),
            ("dense_keys", &keys.dense, self.dense.len()),
            ("ragged_keys", &keys.ragged, self.ragged.len()),
        ] {
            if keys.len() != declared {
                return Err(OpError::input(what, format!("{} names for {declared} types", keys.len())));
            }
        }
        let malformed =
            |i: usize| OpError::input("serialized", format!("example {i} is not a tf.Example message"));
        let examples = serialized.data().iter().enumerate();
        let examples = examples.map(|(i, e)| example::features(e).ok_or_else(|| malformed(i)));
        let examples = examples.collect::<Result<Vec<_>>>()?;
        let rows = |key: &TfString| -> Vec<Option<&Feature<'_>>> {
            examples.iter().map(|e| e.get(&key[..])).collect()
        };

        let (mut indices, mut flat, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for (key, &dtype) in keys.sparse.iter().zip(&self.sparse) {
            let rows = rows(key);
            let (tensor, lengths) = concatenated(key, &rows, dtype)?;
            let mut index = Vec::new();
            for (row, &n) in lengths.iter().enumerate() {
                (0..n).for_each(|i| {
                    index.extend((!single).then_some(row as i32).into_iter().chain([i as i32]))
                });
            }
            let longest = lengths.iter().copied().max().unwrap_or(0) as i32;
            let shape = if single { vec![longest] } else { vec![rows.len() as i32, longest] };
            indices.push(Tensor::new([tensor.len(), shape.len()], index)?);
            flat.push(tensor);
            shapes.push(Tensor::vector(shape));
        }
        let mut dense = Vec::new();
        for (n, (key, (dtype, shape))) in keys.dense.iter().zip(&self.dense).enumerate() {
            let default = x.tensor(keys.first_default + n)?;
            let rows = rows(key);
            dense.push(match dtype {
                DType::Float32 => self::dense::<f32>(key, &rows, shape, default, single)?,
                DType::Int32 => self::dense::<i32>(key, &rows, shape, default, single)?,
                _ => self::dense::<TfString>(key, &rows, shape, default, single)?,
            });
        }
        let (mut ragged, mut splits) = (Vec::new(), Vec::new());
        for (key, &dtype) in keys.ragged.iter().zip(&self.ragged) {
            let (tensor, lengths) = concatenated(key, &rows(key), dtype)?;
            ragged.push(tensor);
            let mut end = 0;
            let ends = lengths.iter().map(|&n| {
                end += n as i32;
                end
            });
            splits.push(Tensor::vector([0].into_iter().chain(ends).collect::<Vec<i32>>()));
        }
        Ok(values([indices, flat, shapes, dense, ragged, splits].into_iter().flatten()))
    }
}

/// A type that features hold.
trait Cell: Element {
    /// The values of a feature; an error when it is of another type or does not fit.
    fn cells(key: &TfString, feature: &Feature<'_>) -> Result<Vec<Self>>;
}

fn wrong_type(key: &TfString, expected: &str) -> OpError {
    OpError::input("serialized", format!("feature {key:?} does not hold {expected}"))
}

impl Cell for f32 {
    fn cells(key: &TfString, feature: &Feature<'_>) -> Result<Vec<f32>> {
        match feature {
            Feature::Floats(f) => Ok(f.clone()),
            _ => Err(wrong_type(key, "floats")),
        }
    }
}

impl Cell for i32 {
    fn cells(key: &TfString, feature: &Feature<'_>) -> Result<Vec<i32>> {
        let Feature::Ints(ints) = feature else { return Err(wrong_type(key, "integers")) };
        ints.iter().map(|&i| i32::try_from(i).map_err(|_| wrong_type(key, "integers of 32 bits"))).collect()
    }
}

impl Cell for TfString {
    fn cells(key: &TfString, feature: &Feature<'_>) -> Result<Vec<TfString>> {
        match feature {
            Feature::Bytes(b) => Ok(b.iter().map(|b| b.to_vec().into()).collect()),
            _ => Err(wrong_type(key, "strings")),
        }
    }
}

/// All values of a feature, one example after the other, and how many each has.
fn concatenated(key: &TfString, rows: &[Option<&Feature<'_>>], dtype: DType) -> Result<(Tensor, Vec<usize>)> {
    fn of<T: Cell>(key: &TfString, rows: &[Option<&Feature<'_>>]) -> Result<(Tensor, Vec<usize>)> {
        let (mut data, mut lengths) = (Vec::<T>::new(), Vec::new());
        for row in rows {
            let cells = row.map_or(Ok(Vec::new()), |f| T::cells(key, f))?;
            lengths.push(cells.len());
            data.extend(cells);
        }
        if i32::try_from(data.len()).is_err() {
            return Err(OpError::input("serialized", format!("feature {key:?} has too many values")));
        }
        Ok((Tensor::vector(data), lengths))
    }
    match dtype {
        DType::Float32 => of::<f32>(key, rows),
        DType::Int32 => of::<i32>(key, rows),
        _ => of::<TfString>(key, rows),
    }
}

/// A feature of one shape in all examples, or with a first dimension that is filled up with the default.
fn dense<T: Cell>(
    key: &TfString,
    rows: &[Option<&Feature<'_>>],
    shape: &[Option<usize>],
    default: &Tensor,
    single: bool,
) -> Result<Tensor> {
    let default: &TensorOf<T> = default.typed("dense_defaults")?;
    let wrong = |problem: String| OpError::input("serialized", format!("feature {key:?} {problem}"));
    let open = shape.first() == Some(&None);
    let inner: Shape = shape.iter().flatten().copied().collect();
    let stride = inner.checked_len()?;
    let cells = rows.iter().map(|r| r.map(|f| T::cells(key, f)).transpose()).collect::<Result<Vec<_>>>()?;
    let longest = cells.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let steps = if open { longest.checked_div(stride).unwrap_or(0) } else { 1 };
    let leading = (!single).then_some(rows.len()).into_iter().chain(open.then_some(steps));
    let out: Shape = leading.chain(inner.iter().copied()).collect();
    let mut data = Vec::with_capacity(out.checked_len()?);
    for row in cells {
        match row {
            Some(cells) if !open && cells.len() != stride => {
                return Err(wrong(format!("has {} values, expected {stride}", cells.len())));
            }
            Some(cells) if open && (stride == 0 || cells.len() % stride != 0) => {
                return Err(wrong(format!("has {} values, expected a multiple of {stride}", cells.len())));
            }
            None if !open && default.len() != stride => {
                return Err(wrong("is required but missing".to_owned()));
            }
            None if !open => data.extend_from_slice(default.data()),
            row => {
                let cells = row.unwrap_or_default();
                let gap = (steps * stride).saturating_sub(cells.len());
                data.extend(cells);
                if gap > 0 {
                    let fill = match default.data() {
                        [fill] => fill.clone(),
                        [] => T::default(),
                        _ => return Err(wrong("has a default that is not one value".to_owned())),
                    };
                    data.extend(std::iter::repeat_n(fill, gap));
                }
            }
        }
    }
    Ok(Tensor::new(out, data)?)
}

/// The bytes of each string as numbers, little-endian or big-endian.
fn decode_raw(b: &Build<'_>) -> Boxed {
    use DataType::{DtBool, DtDouble, DtFloat, DtInt8, DtInt16, DtInt32, DtInt64, DtUint8, DtUint16};
    let data_type = b.attrs.data_type("out_type")?;
    let size = match data_type {
        DtBool | DtInt8 | DtUint8 => 1,
        DtInt16 | DtUint16 => 2,
        DtInt32 | DtFloat => 4,
        DtInt64 | DtDouble => 8,
        other => {
            return Err(unsupported("out_type", other.as_str_name(), "bool, integers, float and double"));
        }
    };
    let little = b.attrs.bool_or("little_endian", true)?;
    let dtype = match data_type {
        DtFloat | DtDouble => DType::Float32,
        DtBool => DType::Bool,
        _ => DType::Int32,
    };
    simple(
        move |x| {
            let input = x.tensor(0)?.typed::<TfString>("bytes")?;
            let width = input.data().first().map_or(0, |s| s.len());
            if input.data().iter().any(|s| s.len() != width) || width % size != 0 {
                let problem = format!("strings of one length, a multiple of {size}, are expected");
                return Err(OpError::input("bytes", problem));
            }
            let words = input.data().iter().flat_map(|s| s.chunks_exact(size)).map(|w| {
                // Sign-extended later: the word as the low bytes of 64 bits.
                let mut bytes = [0u8; 8];
                bytes[..size].copy_from_slice(w);
                if !little {
                    bytes[..size].reverse();
                }
                u64::from_le_bytes(bytes)
            });
            let shape: Shape = input.dims().iter().copied().chain([width / size]).collect();
            let int = |w: u64| match data_type {
                DtInt8 => Ok(i32::from(w as u8 as i8)),
                DtInt16 => Ok(i32::from(w as u16 as i16)),
                DtInt64 => {
                    let wide = w as i64;
                    i32::try_from(wide)
                        .map_err(|_| OpError::input("bytes", format!("{wide} does not fit an int32")))
                }
                _ => Ok(w as u32 as i32),
            };
            Ok(values([match data_type {
                DtFloat => Tensor::new(shape, words.map(|w| f32::from_bits(w as u32)).collect::<Vec<_>>())?,
                DtDouble => Tensor::new(shape, words.map(|w| f64::from_bits(w) as f32).collect::<Vec<_>>())?,
                DtBool => Tensor::new(shape, words.map(|w| w != 0).collect::<Vec<_>>())?,
                _ => Tensor::new(shape, words.map(int).collect::<Result<Vec<_>>>()?)?,
            }]))
        },
        move |f| {
            let shape = f.first().and_then(|f| f.shape.clone());
            Ok(vec![fact(Some(dtype), shape.map(|s| s.into_iter().chain([None]).collect()))])
        },
    )
}
