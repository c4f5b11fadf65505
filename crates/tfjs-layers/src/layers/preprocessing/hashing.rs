//! Categories by hash.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor, TfString};

use super::encode::{Mode, encode};
use crate::{Call, Config, Emit, Layer, LayersError, Sym, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

/// Strings and integers as one of several bins, by FarmHash64, or by SipHash64 with a salt.
#[derive(Debug)]
struct Hashing {
    bins: usize,
    mask: Option<Value>,
    salt: Option<[i64; 2]>,
    mode: Mode,
    dtype: DType,
}

pub(super) fn hashing(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["sparse"]);
    let mode = Mode::of(c, "int")?;
    Ok(Box::new(Hashing {
        bins: bins(c)?,
        mask: c.get("mask_value").cloned(),
        salt: salt(c)?,
        mode,
        dtype: encoded_dtype(c, mode),
    }))
}

fn bins(c: &Config<'_>) -> Result<usize> {
    let bins = c.usize("num_bins")?;
    if bins == 0 || i32::try_from(bins).is_err() {
        return Err(c.wrong("num_bins", "between 1 and 2³¹ − 1"));
    }
    Ok(bins)
}

/// The type that `dtype` asks for; by default int32 for indices and float32 for vectors.
fn encoded_dtype(c: &Config<'_>, mode: Mode) -> DType {
    let given = c.dtype().filter(|d| matches!(d, DType::Int32 | DType::Float32));
    given.unwrap_or(if mode == Mode::Int { DType::Int32 } else { DType::Float32 })
}

/// One number counts twice.
pub(super) fn salt(c: &Config<'_>) -> Result<Option<[i64; 2]>> {
    match c.opt_ints("salt")?.as_deref() {
        None => Ok(None),
        Some(&[one]) => Ok(Some([one, one])),
        Some(&[a, b]) => Ok(Some([a, b])),
        Some(_) => Err(c.wrong("salt", "one or two integers")),
    }
}

/// The bin of each string; integers are hashed as they are written.
pub(super) fn hash(g: &mut Emit, x: Port, bins: usize, salt: Option<[i64; 2]>) -> Result<Port> {
    let mut x = x;
    if g.dtype(x) == DType::Float32 {
        x = g.cast(x, DType::Int32)?;
    }
    if g.dtype(x) != DType::String {
        x = g.op("AsString", &[x], &[])?;
    }
    let buckets = ("num_buckets", attr::int(bins as i64));
    match salt {
        None => g.op("StringToHashBucketFast", &[x], &[buckets]),
        Some(key) => g.op("StringToHashBucketStrong", &[x], &[buckets, ("key", attr::ints(key))]),
    }
}

impl Layer for Hashing {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        // The first bin is kept for masked values.
        let masked = self.mask.as_ref().filter(|_| self.bins > 1);
        let bins = if masked.is_some() { self.bins - 1 } else { self.bins };
        let mut y = hash(g, x, bins, self.salt)?;
        if let Some(value) = masked {
            let value = scalar(value, g.dtype(x))?;
            let value = g.constant(value);
            let masked = g.op("Equal", &[x, value], &[])?;
            let (zero, one) = (g.int(0), g.int(1));
            y = g.add(y, one)?;
            y = g.select(masked, zero, y)?;
        }
        Ok(vec![encode(g, y, self.mode, self.bins, self.dtype, None)?.into()])
    }
}

/// A JSON value as a scalar of a type.
fn scalar(value: &Value, dtype: DType) -> Result<Tensor> {
    let wrong = || LayersError::Config {
        key: "mask_value".to_owned(),
        value: value.to_string(),
        expected: format!("a value of the input's type, {dtype}"),
    };
    Ok(match dtype {
        DType::String => {
            let text = value.as_str().ok_or_else(wrong)?;
            Tensor::scalar(TfString(text.as_bytes().to_vec().into()))
        }
        DType::Float32 => Tensor::scalar(value.as_f64().ok_or_else(wrong)? as f32),
        _ => {
            let number = value.as_f64().filter(|x| x.fract() == 0.0).ok_or_else(wrong)?;
            Tensor::scalar(number as i32)
        }
    })
}

/// Several features crossed into one category by hash.
#[derive(Debug)]
struct HashedCrossing {
    bins: usize,
    mode: Mode,
    dtype: DType,
}

pub(super) fn hashed_crossing(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["sparse"]);
    let mode = Mode::of(c, "int")?;
    Ok(Box::new(HashedCrossing { bins: bins(c)?, mode, dtype: encoded_dtype(c, mode) }))
}

/// TensorFlow's key for crossings.
const HASH_KEY: i64 = 0x00DE_CAFC_AFFE;

impl Layer for HashedCrossing {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let first = call.input(0)?.port;
        let shape = g.dims(first)?;
        if shape.len() > 2 || matches!(shape.get(1), Some(d) if *d != Dim::Known(1)) {
            let problem =
                format!("inputs of shape [batch] or [batch, 1] are needed, one is {}", g.fact(first));
            return Err(LayersError::Inputs(problem));
        }
        let mut columns = Vec::new();
        for sym in &call.inputs {
            let mut x = sym.port;
            if g.dtype(x) != DType::String {
                x = g.cast(x, DType::Int32)?;
            }
            for _ in g.rank(x)?..2 {
                let rank = g.rank(x)?;
                x = g.expand_dims(x, rank)?;
            }
            columns.push(x);
        }
        let types: Vec<DType> = columns.iter().map(|&x| g.dtype(x)).collect();
        let internal = if types.iter().all(|&t| t == DType::String) { DType::String } else { DType::Int32 };
        let attrs = [
            ("N", attr::int(0)),
            ("sparse_types", attr::dtypes(&[])),
            ("dense_types", attr::dtypes(&types)),
            ("hashed_output", attr::bool(true)),
            ("num_buckets", attr::int(self.bins as i64)),
            ("hash_key", attr::int(HASH_KEY)),
            ("out_type", attr::dtype(DType::Int32)),
            ("internal_type", attr::dtype(internal)),
        ];
        let crossed = g.op_n("SparseCross", &columns, &attrs, 3)?;
        let y = match shape.as_slice() {
            [] => g.reshape(crossed[1], &[])?,
            [batch] => g.reshape(crossed[1], &[*batch])?,
            _ => g.reshape(crossed[1], &shape)?,
        };
        Ok(vec![encode(g, y, self.mode, self.bins, self.dtype, None)?.into()])
    }
}
