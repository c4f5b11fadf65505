//! Writing constants into weight files.

use std::collections::HashSet;

use bytes::Bytes;
use tfjs_format::{
    Affine, Codec, DType, FormatError, QuantizeTo, Range, ShardOptions, ShardWriter, WeightGroup, WeightSpec,
    encode_strings, io::ModelSink, string_bytes,
};
use tfjs_kernels::Tensor;

use crate::{Constant, LoadError};

/// Why weights cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The files cannot be written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A value cannot be read.
    #[error("the value of `{name}` cannot be read")]
    Value {
        /// The weight.
        name: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// A value has another type than its constant says.
    #[error("the value of `{name}` is {got}, expected {expected}")]
    Type {
        /// The weight.
        name: String,
        /// Type that is declared.
        expected: DType,
        /// Type of the value.
        got: DType,
    },
    /// A value has another shape than its constant says.
    #[error("the value of `{name}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The weight.
        name: String,
        /// Shape that is declared.
        expected: Vec<usize>,
        /// Shape of the value.
        got: Vec<usize>,
    },
    /// An element type that TensorFlow.js has no place for.
    #[error("`{name}` has type {dtype}, which TensorFlow.js cannot hold")]
    UnsupportedType {
        /// The weight.
        name: String,
        /// TensorFlow's name of the type.
        dtype: &'static str,
    },
    /// Two weights of one name.
    #[error("two weights are named {name}")]
    Duplicate {
        /// The name.
        name: String,
    },
}

/// A weight to be written.
#[derive(Debug)]
pub struct WeightFile<'a> {
    spec: WeightSpec,
    constant: &'a Constant,
    quantize: Option<QuantizeTo>,
    /// Elements of a string weight: their size has to be known before anything is written.
    strings: Option<Vec<Bytes>>,
}

impl<'a> WeightFile<'a> {
    /// A weight under its name, quantized if asked for (which only float weights are).
    ///
    /// # Errors
    /// When TensorFlow.js has no such type, or strings cannot be read.
    pub fn new(
        name: impl Into<String>,
        constant: &'a Constant,
        quantize: Option<QuantizeTo>,
    ) -> Result<WeightFile<'a>, StoreError> {
        let name = name.into();
        let data_type = constant.data_type();
        let dtype = DType::from_proto(data_type).ok_or_else(|| StoreError::UnsupportedType {
            name: name.clone(),
            dtype: data_type.as_str_name(),
        })?;
        let strings = (dtype == DType::String).then(|| strings(constant, &name)).transpose()?;
        let quantize = quantize.filter(|_| dtype == DType::Float32);
        Ok(WeightFile { spec: WeightSpec::new(name, constant.shape(), dtype), constant, quantize, strings })
    }

    /// Its entry in the manifest, which can be changed: group and other fields.
    pub fn spec_mut(&mut self) -> &mut WeightSpec {
        &mut self.spec
    }

    /// The specification with any codec of the right width, to count bytes before the values are known.
    fn sized(&self) -> WeightSpec {
        let line = Affine { min: 0.0, scale: 1.0 };
        match self.quantize {
            None => self.spec.clone(),
            Some(QuantizeTo::Uint8) => self.spec.clone().quantized(Codec::Uint8(line)),
            Some(QuantizeTo::Uint16) => self.spec.clone().quantized(Codec::Uint16(line)),
            Some(QuantizeTo::Float16) => self.spec.clone().quantized(Codec::Float16),
        }
    }

    /// Bytes in the file.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn bytes(&self) -> Result<u64, FormatError> {
        let strings = self.strings.as_deref().map_or(0, string_bytes);
        tfjs_format::group_bytes(&[self.sized()], |_| strings)
    }

    fn write(&mut self, writer: &mut ShardWriter<'_>) -> Result<u64, StoreError> {
        let name = self.spec.name.clone();
        if let Some(strings) = self.strings.take() {
            let bytes = encode_strings(&strings)?;
            writer.write_weight(&self.spec, &bytes)?;
            return Ok(bytes.len() as u64);
        }
        let tensor = load(self.constant, &name)?;
        if tensor.dims() != self.spec.shape {
            let (expected, got) = (self.spec.shape.clone(), tensor.dims().to_vec());
            return Err(StoreError::Shape { name, expected, got });
        }
        let (expected, got) = (self.spec.runtime_dtype(), tensor.dtype());
        if expected != got {
            return Err(StoreError::Type { name, expected, got });
        }
        let bytes = match tensor {
            Tensor::F32(t) => {
                if let Some(to) = self.quantize {
                    let mut range = Range::default();
                    range.update(t.data());
                    let codec = range.codec(to, &name)?;
                    self.spec = self.spec.clone().quantized(codec);
                    write_pieces(writer, t.data(), |piece, out| codec.encode(piece, out))?
                } else {
                    write_pieces(writer, t.data(), |piece, out| {
                        out.extend(piece.iter().flat_map(|x| x.to_le_bytes()))
                    })?
                }
            }
            Tensor::I32(t) => write_pieces(writer, t.data(), |piece, out| {
                out.extend(piece.iter().flat_map(|x| x.to_le_bytes()))
            })?,
            Tensor::Bool(t) => {
                write_pieces(writer, t.data(), |piece, out| out.extend(piece.iter().map(|&b| u8::from(b))))?
            }
            Tensor::C64(t) => write_pieces(writer, t.data(), |piece, out| {
                out.extend(piece.iter().flat_map(|c| [c.re, c.im]).flat_map(f32::to_le_bytes));
            })?,
            Tensor::Str(_) => return Err(StoreError::Type { name, expected, got }),
        };
        Ok(bytes)
    }
}

/// Writes a group of weights, one value in memory at a time, and gives its entry in the manifest and its bytes. `number`
/// counts groups from 1; `progress` is told the bytes written so far.
///
/// # Errors
/// When a value cannot be read, or the sink fails.
pub fn write_group(
    number: usize,
    mut weights: Vec<WeightFile<'_>>,
    sink: &mut dyn ModelSink,
    shards: ShardOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<(WeightGroup, u64), StoreError> {
    let mut names = HashSet::new();
    let mut total = 0u64;
    for weight in &weights {
        let name = &weight.spec.name;
        if !names.insert(name.clone()) {
            return Err(StoreError::Duplicate { name: name.clone() });
        }
        total = total.checked_add(weight.bytes()?).ok_or_else(|| FormatError::SizeOverflow {
            name: name.clone(),
            shape: weight.spec.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
        })?;
    }
    let mut writer = ShardWriter::new(sink, number, total, shards)?;
    let mut done = 0;
    for weight in &mut weights {
        done += weight.write(&mut writer)?;
        progress(done);
    }
    let shards = writer.finish()?;
    let specs = weights.into_iter().map(|w| w.spec).collect();
    Ok((WeightGroup::new(shards.paths, specs), shards.bytes))
}

fn load(constant: &Constant, name: &str) -> Result<Tensor, StoreError> {
    constant.tensor().map_err(|source| StoreError::Value { name: name.to_owned(), source })
}

fn strings(constant: &Constant, name: &str) -> Result<Vec<Bytes>, StoreError> {
    match load(constant, name)? {
        Tensor::Str(t) => Ok(t.into_vec().into_iter().map(|s| s.0).collect()),
        other => Err(StoreError::Type { name: name.to_owned(), expected: DType::String, got: other.dtype() }),
    }
}

/// Elements encoded at a time, so that a large tensor is not held twice.
const PIECE: usize = 1 << 16;

fn write_pieces<T>(
    writer: &mut ShardWriter<'_>,
    values: &[T],
    encode: impl Fn(&[T], &mut Vec<u8>),
) -> Result<u64, StoreError> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    for piece in values.chunks(PIECE) {
        buffer.clear();
        encode(piece, &mut buffer);
        writer.write(&buffer)?;
        bytes += buffer.len() as u64;
    }
    Ok(bytes)
}
