//! HDF5 files, read through one trait by either of two libraries, whose types stay in this module.
//!
//! The default is `hdf5-reader`, pure Rust. With the feature `hdf5`, `TFJS_HDF5=libhdf5` chooses the C library; a test
//! reads every fixture with both.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use indexmap::IndexMap;
use tfjs_format::proto::DataType;
use tfjs_graph::{Constant, Tensor};
use tfjs_kernels::{Element, TfString};

use super::{KerasError, blob::Blob};

#[cfg(feature = "hdf5")]
mod library;
mod lzf;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use writer::H5Group;

/// Data that fill more than this and more than [`MAX_EXPANSION`] times their file are taken for a bomb.
pub(crate) const MIN_LIMIT: u64 = 64 << 20;

/// How many times larger than its file compressed data may be. Deflate reaches 1032 with zeros only.
pub(crate) const MAX_EXPANSION: u64 = 200;

/// Nesting of groups beyond which links are taken to form a cycle.
const MAX_DEPTH: usize = 64;

/// The most bytes that compressed data in a file of `len` bytes may grow to.
pub(crate) fn expansion_limit(len: u64) -> u64 {
    len.saturating_mul(MAX_EXPANSION).max(MIN_LIMIT)
}

/// An open HDF5 file. Objects are named by their path from the root, `a/b/c`; the root is the empty path.
trait Hdf5: Send + Sync {
    /// Groups and datasets directly in a group. Soft links count as what they lead to; dangling ones are left out.
    fn members(&self, group: &str) -> Result<Vec<(String, Kind)>, KerasError>;
    /// All attributes of a group or dataset.
    fn attributes(&self, object: &str) -> Result<Attributes, KerasError>;
    /// Type and shape of a dataset, without its elements.
    fn info(&self, dataset: &str) -> Result<DatasetInfo, KerasError>;
    /// The elements of a dataset; the caller has checked their size.
    fn read(&self, dataset: &str) -> Result<Elements, KerasError>;
}

/// What a name in a group leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Dataset,
}

/// Attributes by name.
pub(crate) type Attributes = IndexMap<String, Attribute>;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    /// One string, or an array of them, of fixed or variable length.
    Strings(Vec<String>),
    /// Integers of any width, booleans and enumerations.
    Ints(Vec<i64>),
    /// Floating point numbers of any width.
    Floats(Vec<f64>),
    /// No value at all, or of another type, or broken: what is wrong with it.
    Unreadable(String),
}

/// Type and shape of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DatasetInfo {
    pub(crate) dtype: ElementType,
    pub(crate) shape: Vec<usize>,
    /// Stored as it is in the file, so never larger than the file; otherwise compressed, or not written at all.
    plain: bool,
}

/// Type of the elements of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    F16,
    Bf16,
    F32,
    F64,
    Int {
        bytes: usize,
        signed: bool,
    },
    Bool,
    Str,
    /// Anything else, described.
    Other(String),
}

/// The elements of a dataset in row-major order.
enum Elements {
    /// Where they lie in the file, as they are.
    At {
        offset: u64,
        len: usize,
        big_endian: bool,
    },
    /// Little-endian.
    Plain(Bytes),
    Strings(Vec<Bytes>),
}

/// An HDF5 file.
#[derive(Clone)]
pub(crate) struct H5File {
    inner: Arc<dyn Hdf5>,
    blob: Blob,
}

/// Which library reads HDF5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Rust,
    #[cfg(feature = "hdf5")]
    Library,
}

impl Backend {
    /// The one that `TFJS_HDF5` names: `rust` (default) or `libhdf5`.
    fn from_env() -> Result<Backend, KerasError> {
        match std::env::var("TFJS_HDF5").as_deref() {
            Err(_) | Ok("" | "rust") => Ok(Backend::Rust),
            #[cfg(feature = "hdf5")]
            Ok("libhdf5") => Ok(Backend::Library),
            Ok(name) => Err(KerasError::NoBackend { name: name.to_owned() }),
        }
    }
}

impl H5File {
    /// Opens a file with the library that the environment chooses.
    pub(crate) fn open(blob: Blob) -> Result<H5File, KerasError> {
        H5File::open_with(blob, Backend::from_env()?)
    }

    pub(crate) fn open_with(blob: Blob, backend: Backend) -> Result<H5File, KerasError> {
        let inner: Arc<dyn Hdf5> = match backend {
            Backend::Rust => Arc::new(reader::Reader::open(&blob)?),
            #[cfg(feature = "hdf5")]
            Backend::Library => Arc::new(library::Library::open(&blob)?),
        };
        Ok(H5File { inner, blob })
    }

    /// Groups and datasets directly in a group.
    pub(crate) fn members(&self, group: &str) -> Result<Vec<(String, Kind)>, KerasError> {
        self.inner.members(group)
    }

    /// All attributes of a group or dataset.
    pub(crate) fn attributes(&self, object: &str) -> Result<Attributes, KerasError> {
        self.inner.attributes(object)
    }

    /// Type and shape of a dataset, without its elements.
    ///
    /// # Errors
    /// Also when it claims more bytes than the file can hold.
    pub(crate) fn info(&self, dataset: &str) -> Result<DatasetInfo, KerasError> {
        let info = self.inner.info(dataset)?;
        // A string of no bytes takes a reference at least.
        let width = info.dtype.width().unwrap_or(1) as u128;
        let size = match info.shape.contains(&0) {
            true => 0,
            false => info.shape.iter().fold(width, |n, &d| n.saturating_mul(d as u128)),
        };
        let len = self.blob.len();
        let limit = if info.plain { len } else { expansion_limit(len) };
        if size > u128::from(limit) {
            return Err(KerasError::TooLarge { object: dataset.to_owned(), size, limit });
        }
        Ok(info)
    }

    /// Every group and dataset below a group: paths from that group, parents first, in the order of the file;
    /// members that are numbered, as Keras numbers variables, in the order of their numbers.
    ///
    /// # Errors
    /// Also when links form a cycle.
    pub(crate) fn tree(&self, group: &str) -> Result<Vec<(String, Kind)>, KerasError> {
        // An object takes about a hundred bytes at least.
        let limit = usize::try_from(self.blob.len() / 64).unwrap_or(usize::MAX).saturating_add(1024);
        let mut found = Vec::new();
        self.walk(group, "", 0, limit, &mut found)?;
        Ok(found)
    }

    fn walk(
        &self,
        root: &str,
        below: &str,
        depth: usize,
        limit: usize,
        found: &mut Vec<(String, Kind)>,
    ) -> Result<(), KerasError> {
        let mut members = self.members(&join(root, below))?;
        let number = |name: &str| name.parse::<u64>().ok();
        if members.iter().all(|(name, _)| number(name).is_some()) {
            members.sort_by_key(|(name, _)| number(name));
        }
        for (name, kind) in members {
            let path = join(below, &name);
            if found.len() >= limit || depth > MAX_DEPTH {
                return Err(KerasError::TooMany { object: join(root, &path), limit });
            }
            found.push((path.clone(), kind));
            if kind == Kind::Group {
                self.walk(root, &path, depth + 1, limit, found)?;
            }
        }
        Ok(())
    }

    /// A dataset as a constant under a name for messages; its elements are read when they are needed.
    pub(crate) fn constant(
        &self,
        dataset: &str,
        name: &str,
        in_file: impl Fn(KerasError) -> tfjs_graph::LoadError + Send + Sync + 'static,
    ) -> Result<Constant, KerasError> {
        let info = self.info(dataset)?;
        let data_type = info.dtype.data_type().ok_or_else(|| KerasError::ElementType {
            object: dataset.to_owned(),
            found: info.dtype.describe(),
        })?;
        let (file, dataset, name, shape) =
            (self.clone(), dataset.to_owned(), name.to_owned(), info.shape.clone());
        Ok(Constant::deferred(data_type, shape, move || {
            file.tensor(&dataset, &name, &info).map_err(&in_file)
        }))
    }

    /// The elements of a dataset as a tensor of one of TensorFlow.js's types.
    fn tensor(&self, dataset: &str, name: &str, info: &DatasetInfo) -> Result<Tensor, KerasError> {
        self.blob.verify()?;
        let elements = self.inner.read(dataset)?;
        let object = || dataset.to_owned();
        if let (ElementType::F32, &Elements::At { offset, len, big_endian: false }) = (&info.dtype, &elements)
        {
            return build(info, self.blob.read_floats(offset, len)?, object);
        }
        let bytes = match self.bytes(elements, &info.dtype)? {
            Loaded::Plain(bytes) => bytes,
            Loaded::Strings(items) => return build(info, items.into_iter().map(TfString).collect(), object),
        };
        tensor_of(&bytes, info, name, object)
    }

    /// Elements with those that lie in the file read, as little-endian bytes.
    fn bytes(&self, elements: Elements, dtype: &ElementType) -> Result<Loaded, KerasError> {
        Ok(match elements {
            Elements::Plain(bytes) => Loaded::Plain(bytes),
            Elements::Strings(items) => Loaded::Strings(items),
            Elements::At { offset, len, big_endian } => {
                let bytes = self.blob.slice(offset, len)?;
                match dtype.width() {
                    Some(width) if big_endian && width > 1 => Loaded::Plain(swapped(&bytes, width)),
                    _ => Loaded::Plain(bytes),
                }
            }
        })
    }
}

enum Loaded {
    Plain(Bytes),
    Strings(Vec<Bytes>),
}

impl ElementType {
    /// Bytes per element; `None` for strings and others.
    pub(super) fn width(&self) -> Option<usize> {
        Some(match self {
            ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::F32 => 4,
            ElementType::F64 => 8,
            ElementType::Int { bytes, .. } => *bytes,
            ElementType::Bool => 1,
            ElementType::Str | ElementType::Other(_) => return None,
        })
    }

    /// TensorFlow's name of the type.
    pub(crate) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            ElementType::F16 => DataType::DtHalf,
            ElementType::Bf16 => DataType::DtBfloat16,
            ElementType::F32 => DataType::DtFloat,
            ElementType::F64 => DataType::DtDouble,
            ElementType::Int { bytes: 1, signed: true } => DataType::DtInt8,
            ElementType::Int { bytes: 2, signed: true } => DataType::DtInt16,
            ElementType::Int { bytes: 4, signed: true } => DataType::DtInt32,
            ElementType::Int { bytes: 8, signed: true } => DataType::DtInt64,
            ElementType::Int { bytes: 1, signed: false } => DataType::DtUint8,
            ElementType::Int { bytes: 2, signed: false } => DataType::DtUint16,
            ElementType::Int { bytes: 4, signed: false } => DataType::DtUint32,
            ElementType::Int { bytes: 8, signed: false } => DataType::DtUint64,
            ElementType::Int { .. } | ElementType::Other(_) => return None,
            ElementType::Bool => DataType::DtBool,
            ElementType::Str => DataType::DtString,
        })
    }

    fn describe(&self) -> String {
        match self {
            ElementType::Other(what) => what.clone(),
            known => format!("{known:?}"),
        }
    }
}

/// Little-endian elements as a tensor.
pub(super) fn tensor_of(
    bytes: &Bytes,
    info: &DatasetInfo,
    name: &str,
    object: impl Fn() -> String,
) -> Result<Tensor, KerasError> {
    use ElementType::{Bf16, Bool, F16, F32, F64, Int};
    let expected = info.elements().and_then(|n| n.checked_mul(info.dtype.width()?));
    if expected != Some(bytes.len()) {
        let expected = expected.unwrap_or(usize::MAX);
        return Err(KerasError::Length { object: object(), got: bytes.len(), expected });
    }
    let ints = |values: Result<Vec<i32>, i128>| {
        values.map_err(|value| KerasError::OutsideInt32 { name: name.to_owned(), value })
    };
    match info.dtype {
        F32 => build(info, each(bytes, f32::from_le_bytes), object),
        F64 => build(info, each(bytes, |b| f64::from_le_bytes(b) as f32), object),
        F16 => build(info, each(bytes, |b| f16::from_le_bytes(b).to_f32()), object),
        Bf16 => build(info, each(bytes, |b| bf16::from_le_bytes(b).to_f32()), object),
        Bool => build(info, each(bytes, |[b]| b != 0), object),
        Int { bytes: 1, signed: true } => {
            build(info, each(bytes, |b| i32::from(i8::from_le_bytes(b))), object)
        }
        Int { bytes: 1, signed: false } => build(info, each(bytes, |[b]| i32::from(b)), object),
        Int { bytes: 2, signed: true } => {
            build(info, each(bytes, |b| i32::from(i16::from_le_bytes(b))), object)
        }
        Int { bytes: 2, signed: false } => {
            build(info, each(bytes, |b| i32::from(u16::from_le_bytes(b))), object)
        }
        Int { bytes: 4, signed: true } => build(info, each(bytes, i32::from_le_bytes), object),
        Int { bytes: 4, signed: false } => {
            build(info, ints(narrow(bytes, |b| u32::from_le_bytes(b).into()))?, object)
        }
        Int { bytes: 8, signed: true } => {
            build(info, ints(narrow(bytes, |b| i64::from_le_bytes(b).into()))?, object)
        }
        Int { bytes: 8, signed: false } => {
            build(info, ints(narrow(bytes, |b| u64::from_le_bytes(b).into()))?, object)
        }
        Int { .. } | ElementType::Str | ElementType::Other(_) => {
            Err(KerasError::ElementType { object: object(), found: info.dtype.describe() })
        }
    }
}

impl DatasetInfo {
    /// Of elements that are at hand.
    pub(super) fn new(dtype: ElementType, shape: Vec<usize>) -> DatasetInfo {
        DatasetInfo { dtype, shape, plain: true }
    }

    /// Number of elements; `None` when it overflows.
    fn elements(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }
}

fn build<T: Element>(
    info: &DatasetInfo,
    data: Vec<T>,
    object: impl Fn() -> String,
) -> Result<Tensor, KerasError> {
    Tensor::new(info.shape.clone(), data)
        .map_err(|source| KerasError::Object { object: object(), source: Box::new(source) })
}

fn each<T, const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
}

/// Integers as `int32`, or the first that does not fit.
fn narrow<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> i128) -> Result<Vec<i32>, i128> {
    let fit = |b: &[u8; N]| i32::try_from(f(*b)).map_err(|_| f(*b));
    bytes.as_chunks::<N>().0.iter().map(fit).collect()
}

pub(super) fn swapped(bytes: &[u8], width: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    bytes.into()
}

/// `a/b`; either may be empty.
pub(crate) fn join(a: &str, b: &str) -> String {
    match (a, b) {
        ("", path) | (path, "") => path.to_owned(),
        (a, b) => format!("{a}/{b}"),
    }
}
