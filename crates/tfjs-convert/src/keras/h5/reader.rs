//! The default back end: `hdf5-reader`, pure Rust.

use std::sync::Arc;

use bytes::Bytes;
use hdf5_reader::{
    Attribute as PlainAttribute, ByteOrder, Dataset, Datatype, ExternalFileResolver, ExternalLinkResolver,
    FilterRegistry, Hdf5File, OpenOptions, RawAttribute, StringSize, VarLenKind,
    error::Error,
    messages::{HdfMessage, layout::DataLayout},
    storage::DynStorage,
};

use super::{Attribute, Attributes, DatasetInfo, ElementType, Elements, Hdf5, Kind, expansion_limit, lzf};
use crate::keras::{KerasError, blob::Blob};

pub(super) struct Reader {
    file: Hdf5File,
    /// Addresses in the file count from here: after the user block.
    base: u64,
    /// Length of the file.
    len: u64,
}

impl Reader {
    pub(super) fn open(blob: &Blob) -> Result<Reader, KerasError> {
        let limit = usize::try_from(expansion_limit(blob.len())).unwrap_or(usize::MAX);
        let mut filters = FilterRegistry::new();
        let unpack = |_: &_, packed: &[u8], _| {
            lzf::unpack(packed).ok_or_else(|| Error::DecompressionError("broken LZF data".to_owned()))
        };
        filters.register(lzf::ID, Box::new(unpack));
        let options = OpenOptions {
            filter_registry: Some(filters),
            external_file_resolver: Some(Arc::new(Refuse)),
            external_link_resolver: Some(Arc::new(Refuse)),
            ..OpenOptions::default()
        }
        // Every dataset is read once.
        .with_chunk_cache_bytes(0)
        .with_max_read_bytes(limit);
        let file =
            Hdf5File::from_owner(blob.bytes().clone(), options).map_err(|e| KerasError::Open(Box::new(e)))?;
        let base = blob.len().saturating_sub(file.storage().len());
        Ok(Reader { file, base, len: blob.len() })
    }

    fn dataset(&self, path: &str) -> Result<Dataset, KerasError> {
        self.file.dataset(&normal(path)).map_err(|e| wrap(e, path, "dataset"))
    }

    fn decoded(
        &self,
        attributes: Vec<RawAttribute>,
        resolve: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
    ) -> Attributes {
        let decode = |attribute: RawAttribute| {
            let (message, _) = attribute.into_parts();
            let name = message.name.clone();
            let variable = matches!(
                message.datatype,
                Datatype::VarLen { kind: VarLenKind::String, .. }
                    | Datatype::String { size: StringSize::Variable, .. }
            );
            let value = match variable {
                true => {
                    let count = if message.raw_data.is_empty() {
                        0
                    } else {
                        message.dataspace.num_elements().unwrap_or(0)
                    };
                    match self.texts(&message.raw_data, count, &resolve) {
                        Ok(texts) => Attribute::Strings(texts),
                        Err(e) => Attribute::Unreadable(format!("cannot be read: {e}")),
                    }
                }
                false => attribute_value(&PlainAttribute::from_message(message)),
            };
            (name, value)
        };
        attributes.into_iter().map(decode).collect()
    }

    /// Strings of variable length by the references to them; together they are no longer than the file.
    fn texts(
        &self,
        references: &[u8],
        count: u64,
        resolve: impl Fn(&[u8]) -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<String>, Error> {
        let width = 8 + usize::from(self.file.superblock().offset_size);
        let whole = references.chunks_exact(width);
        if whole.len() as u64 != count {
            return Err(Error::InvalidData("it has another number of elements than its shape".to_owned()));
        }
        let len = |reference: &[u8]| reference.first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
        let total: u64 = whole.clone().map(|reference| u64::from(len(reference))).sum();
        if total > self.len {
            return Err(Error::ResourceLimit(format!("its strings have {total} bytes, more than the file")));
        }
        let text = |reference: &[u8]| {
            let mut bytes = resolve(reference)?;
            bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
            String::from_utf8(bytes).map_err(|e| Error::InvalidData(format!("it is not UTF-8: {e}")))
        };
        whole.map(text).collect()
    }

    /// Where the elements lie, if they lie in one piece.
    fn place(&self, dataset: &Dataset) -> Result<Place, Error> {
        let header = self.file.get_or_parse_header(dataset.address())?;
        let mut place = Place::Elsewhere;
        for message in &header.messages {
            match message {
                HdfMessage::ExternalFiles(_) => return Ok(Place::Elsewhere),
                HdfMessage::DataLayout(message) => match &message.layout {
                    // An undefined address stands for data that were never written.
                    DataLayout::Contiguous { address, size } if *address != u64::MAX && *size > 0 => {
                        place = Place::At { offset: self.base.saturating_add(*address), size: *size };
                    }
                    DataLayout::Compact { .. } => place = Place::Inline,
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(place)
    }
}

enum Place {
    At { offset: u64, size: u64 },
    Inline,
    Elsewhere,
}

impl Hdf5 for Reader {
    fn members(&self, group: &str) -> Result<Vec<(String, Kind)>, KerasError> {
        let fail = |e| wrap(e, group, "group");
        let (groups, datasets) =
            self.file.group(&normal(group)).and_then(|group| group.member_names()).map_err(fail)?;
        let groups = groups.into_iter().map(|name| (name, Kind::Group));
        Ok(groups.chain(datasets.into_iter().map(|name| (name, Kind::Dataset))).collect())
    }

    fn attributes(&self, object: &str) -> Result<Attributes, KerasError> {
        // Raw, because the library would unpack all strings at once, however often they refer to one.
        match self.file.group(&normal(object)) {
            Ok(group) => {
                let raw = group.raw_attributes().map_err(|e| wrap(e, object, "group"))?;
                Ok(self.decoded(raw, |reference| group.resolve_vlen_reference_bytes(reference, 1)))
            }
            Err(Error::GroupNotFound(_)) => {
                let dataset = self.dataset(object)?;
                let raw = dataset.raw_attributes().map_err(|e| wrap(e, object, "dataset"))?;
                Ok(self.decoded(raw, |reference| dataset.resolve_vlen_reference_bytes(reference, 1)))
            }
            Err(e) => Err(wrap(e, object, "group")),
        }
    }

    fn info(&self, path: &str) -> Result<DatasetInfo, KerasError> {
        let dataset = self.dataset(path)?;
        let fail = |e| wrap(e, path, "dataset");
        let shape = dataset.shape().iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| fail(Error::Other("a dimension overflows".to_owned())))?;
        let plain = !matches!(self.place(&dataset).map_err(fail)?, Place::Elsewhere);
        Ok(DatasetInfo { dtype: element_type(&dataset), shape, plain })
    }

    fn read(&self, path: &str) -> Result<Elements, KerasError> {
        let dataset = self.dataset(path)?;
        let fail = |e| wrap(e, path, "dataset");
        let dtype = element_type(&dataset);
        if dtype == ElementType::Str {
            let items = match dataset.dtype() {
                Datatype::String { size: StringSize::Fixed(_), .. } => dataset.read_strings(),
                _ => dataset.read_raw_bytes().and_then(|references| {
                    let resolve = |reference: &[u8]| dataset.resolve_vlen_reference_bytes(reference, 1);
                    self.texts(&references, dataset.num_elements()?, resolve)
                }),
            };
            let items = items.map_err(fail)?;
            return Ok(Elements::Strings(items.into_iter().map(Bytes::from).collect()));
        }
        let Some(width) = dtype.width() else {
            return Err(KerasError::ElementType { object: path.to_owned(), found: dtype.describe() });
        };
        let big_endian = byte_order(dataset.dtype()) == Some(ByteOrder::BigEndian);
        if let Place::At { offset, size } = self.place(&dataset).map_err(fail)? {
            let expected = dataset.raw_byte_len().map_err(fail)?;
            return match usize::try_from(size) {
                Ok(len) if len == expected => Ok(Elements::At { offset, len, big_endian }),
                got => {
                    let got = got.unwrap_or(usize::MAX);
                    Err(KerasError::Length { object: path.to_owned(), got, expected })
                }
            };
        }
        let bytes = dataset.read_raw_bytes().map_err(fail)?;
        Ok(Elements::Plain(if big_endian { super::swapped(&bytes, width) } else { bytes.into() }))
    }
}

fn element_type(dataset: &Dataset) -> ElementType {
    type_of(dataset, dataset.dtype())
}

fn type_of(dataset: &Dataset, datatype: &Datatype) -> ElementType {
    let bfloat16 = || {
        let mark = dataset.attribute("dtype").ok().and_then(|a| a.read_strings().ok());
        mark.is_some_and(|values| values == ["bfloat16"])
    };
    match datatype {
        Datatype::FloatingPoint { size: 2, .. } => ElementType::F16,
        Datatype::FloatingPoint { size: 4, .. } => ElementType::F32,
        Datatype::FloatingPoint { size: 8, .. } => ElementType::F64,
        Datatype::FixedPoint { size, signed, .. } => {
            ElementType::Int { bytes: usize::from(*size), signed: *signed }
        }
        Datatype::Enum { members, .. } if is_bool(members.iter().map(|m| m.name.as_str())) => {
            ElementType::Bool
        }
        Datatype::Enum { base, .. } => type_of(dataset, base),
        Datatype::String { .. } | Datatype::VarLen { kind: VarLenKind::String, .. } => ElementType::Str,
        // NumPy has no bfloat16 of its own: h5py stores two opaque bytes, and Keras says what they are.
        Datatype::Opaque { size: 2, .. } if bfloat16() => ElementType::Bf16,
        other => ElementType::Other(describe(other)),
    }
}

/// How h5py stores booleans.
pub(super) fn is_bool<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.next() == Some("FALSE") && names.next() == Some("TRUE") && names.next().is_none()
}

fn byte_order(datatype: &Datatype) -> Option<ByteOrder> {
    match datatype {
        Datatype::FloatingPoint { byte_order, .. } | Datatype::FixedPoint { byte_order, .. } => {
            Some(*byte_order)
        }
        Datatype::Enum { base, .. } => byte_order(base),
        _ => None,
    }
}

fn describe(datatype: &Datatype) -> String {
    match datatype {
        Datatype::FloatingPoint { size, .. } => format!("float{}", u32::from(*size) * 8),
        Datatype::Compound { size, .. } => format!("compound of {size} bytes"),
        Datatype::Opaque { size, tag } => format!("opaque of {size} bytes, tag `{tag}`"),
        Datatype::Enum { .. } => "enumeration".to_owned(),
        Datatype::Array { .. } => "array".to_owned(),
        Datatype::VarLen { .. } => "variable-length sequence".to_owned(),
        Datatype::Reference { .. } => "reference".to_owned(),
        Datatype::Bitfield { .. } => "bit field".to_owned(),
        Datatype::String { .. } | Datatype::FixedPoint { .. } => format!("{datatype:?}"),
    }
}

fn attribute_value(attribute: &PlainAttribute) -> Attribute {
    let value = match &attribute.datatype {
        _ if attribute.num_elements().is_ok_and(|n| n == 0) => match &attribute.datatype {
            Datatype::String { .. } | Datatype::VarLen { kind: VarLenKind::String, .. } => {
                Ok(Attribute::Strings(Vec::new()))
            }
            Datatype::FloatingPoint { .. } => Ok(Attribute::Floats(Vec::new())),
            _ => Ok(Attribute::Ints(Vec::new())),
        },
        Datatype::String { size: StringSize::Fixed(0), .. } => {
            let count = attribute.num_elements().ok().and_then(|n| usize::try_from(n).ok());
            // Only as many as anyone writes: the elements take no room that would bound them.
            let count = count.filter(|&n| n <= 1 << 16);
            count
                .map(|n| Attribute::Strings(vec![String::new(); n]))
                .ok_or_else(|| Error::InvalidData("it has too many elements".to_owned()))
        }
        Datatype::String { .. } | Datatype::VarLen { kind: VarLenKind::String, .. } => {
            attribute.read_strings().map(Attribute::Strings)
        }
        Datatype::FloatingPoint { size: 8, .. } => attribute.read_1d::<f64>().map(Attribute::Floats),
        Datatype::FloatingPoint { size: 4, .. } => {
            attribute.read_1d::<f32>().map(|v| Attribute::Floats(v.into_iter().map(f64::from).collect()))
        }
        Datatype::FixedPoint { size, signed, .. } => integers(attribute, *size, *signed),
        Datatype::Enum { base, .. } => match &**base {
            Datatype::FixedPoint { size, signed, .. } => {
                let plain = PlainAttribute { datatype: (**base).clone(), ..attribute.clone() };
                integers(&plain, *size, *signed)
            }
            other => return Attribute::Unreadable(format!("has elements of type {}", describe(other))),
        },
        other => return Attribute::Unreadable(format!("has elements of type {}", describe(other))),
    };
    value.unwrap_or_else(|e| Attribute::Unreadable(format!("cannot be read: {e}")))
}

fn integers(attribute: &PlainAttribute, size: u8, signed: bool) -> Result<Attribute, Error> {
    fn wide<T: Into<i64>>(values: Vec<T>) -> Attribute {
        Attribute::Ints(values.into_iter().map(Into::into).collect())
    }
    Ok(match (size, signed) {
        (1, true) => wide(attribute.read_1d::<i8>()?),
        (1, false) => wide(attribute.read_1d::<u8>()?),
        (2, true) => wide(attribute.read_1d::<i16>()?),
        (2, false) => wide(attribute.read_1d::<u16>()?),
        (4, true) => wide(attribute.read_1d::<i32>()?),
        (4, false) => wide(attribute.read_1d::<u32>()?),
        (8, true) => wide(attribute.read_1d::<i64>()?),
        (8, false) => {
            let values = attribute.read_1d::<u64>()?;
            let values: Result<_, _> = values.into_iter().map(i64::try_from).collect();
            Attribute::Ints(values.map_err(|_| Error::InvalidData("it overflows".to_owned()))?)
        }
        _ => return Err(Error::InvalidData(format!("integers of {size} bytes"))),
    })
}

/// HDF5 and h5py take `a/./b` for `a/b`.
fn normal(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Refuses what lies in other files, by name.
struct Refuse;

#[derive(Debug, thiserror::Error)]
#[error("links to other files are not followed")]
struct OtherFile {
    name: String,
}

impl ExternalLinkResolver for Refuse {
    fn resolve_external_link(&self, name: &str) -> Result<Option<Hdf5File>, Error> {
        Err(std::io::Error::other(OtherFile { name: name.to_owned() }).into())
    }
}

impl ExternalFileResolver for Refuse {
    fn resolve_external_file(&self, name: &str) -> Result<Option<DynStorage>, Error> {
        Err(std::io::Error::other(OtherFile { name: name.to_owned() }).into())
    }
}

fn wrap(error: Error, object: &str, kind: &'static str) -> KerasError {
    let mut cause = &error;
    while let Error::Context { source, .. } = cause {
        cause = source;
    }
    let object = object.to_owned();
    match cause {
        Error::GroupNotFound(_) | Error::DatasetNotFound(_) => KerasError::NoSuchObject { object, kind },
        Error::Io(io) => match io.get_ref().and_then(|e| e.downcast_ref::<OtherFile>()) {
            Some(other) => KerasError::ExternalLink { object, target: other.name.clone() },
            None => KerasError::Object { object, source: Box::new(error) },
        },
        _ => KerasError::Object { object, source: Box::new(error) },
    }
}
