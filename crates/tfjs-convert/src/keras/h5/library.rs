//! The other back end: libhdf5, through the `hdf5` crate.
//!
//! It never asks for the name of an object: that takes milliseconds each in files of old style.

use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use hdf5::{
    Container, Dataset, Group, LinkType, Location, LocationType,
    dataset::Layout,
    types::{FixedAscii, FixedUnicode, FloatSize, IntSize, TypeDescriptor, VarLenAscii, VarLenUnicode},
};

use super::{Attribute, Attributes, DatasetInfo, ElementType, Elements, Hdf5, Kind, join};
use crate::keras::{KerasError, blob::Blob};

pub(super) struct Library {
    file: hdf5::File,
    /// Addresses in the file count from here: after the user block.
    base: u64,
    links: Mutex<HashMap<String, Arc<Vec<Link>>>>,
    /// Whether any group that hard links lead to has a link into another file.
    has_external: OnceLock<bool>,
    /// Removed with the last user of the file.
    _temporary: Option<tempfile::TempPath>,
}

struct Link {
    name: String,
    kind: LinkType,
}

impl Library {
    pub(super) fn open(blob: &Blob) -> Result<Library, KerasError> {
        let (path, temporary) = match blob.path() {
            Some(path) => (path, None),
            None => {
                // The library opens files only.
                blob.verify()?;
                let mut file = tempfile::Builder::new().prefix("tfjs-").suffix(".h5").tempfile()?;
                file.write_all(blob.bytes())?;
                let path = file.into_temp_path();
                (PathBuf::from(&*path), Some(path))
            }
        };
        let file = hdf5::File::open(&path).map_err(|e| KerasError::Open(Box::new(e)))?;
        let base = file.userblock();
        Ok(Library {
            file,
            base,
            links: Mutex::default(),
            has_external: OnceLock::new(),
            _temporary: temporary,
        })
    }

    /// The links of a group whose path was checked.
    fn links(&self, path: &str, group: &Group) -> Result<Arc<Vec<Link>>, KerasError> {
        let mut cache = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(links) = cache.get(path) {
            return Ok(links.clone());
        }
        let links = group.iter_visit_default(Vec::new(), |_, name, info, found: &mut Vec<_>| {
            found.push((info.creation_order, Link { name: name.to_owned(), kind: info.link_type }));
            true
        });
        let mut links = links.map_err(|e| wrap(e, path))?;
        // In the order of creation where the group keeps it, as the other back end.
        if links.iter().all(|(order, _)| order.is_some()) {
            links.sort_by_key(|(order, _)| *order);
        }
        let links = Arc::new(links.into_iter().map(|(_, link)| link).collect::<Vec<_>>());
        cache.insert(path.to_owned(), links.clone());
        Ok(links)
    }

    /// Goes down a path, one link at a time, so that none leads into another file.
    fn locate(&self, path: &str, kind: &'static str) -> Result<Found, KerasError> {
        let mut group = (*self.file).clone();
        let mut below = String::new();
        let missing = || KerasError::NoSuchObject { object: path.to_owned(), kind };
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        while let Some(part) = parts.next() {
            let links = self.links(&below, &group)?;
            let link = links.iter().find(|link| link.name == part).ok_or_else(missing)?;
            below = join(&below, part);
            self.check(link, &below)?;
            match group.loc_type_by_name(part).map_err(|_| missing())? {
                LocationType::Group => group = group.group(part).map_err(|e| wrap(e, path))?,
                LocationType::Dataset if parts.peek().is_none() => {
                    return Ok(Found::Dataset(group.dataset(part).map_err(|e| wrap(e, path))?));
                }
                _ => return Err(missing()),
            }
        }
        Ok(Found::Group(group, below))
    }

    fn check(&self, link: &Link, path: &str) -> Result<(), KerasError> {
        let refused =
            || KerasError::ExternalLink { object: path.to_owned(), target: "of a name not read".to_owned() };
        match link.kind {
            LinkType::Hard => Ok(()),
            LinkType::External => Err(refused()),
            // It might go through a link into another file.
            LinkType::Soft if self.has_external() => Err(refused()),
            LinkType::Soft => Ok(()),
        }
    }

    fn has_external(&self) -> bool {
        *self.has_external.get_or_init(|| self.external_below(&self.file, "", 0))
    }

    fn external_below(&self, group: &Group, path: &str, depth: usize) -> bool {
        let Ok(links) = self.links(path, group) else { return true };
        // Deeper than anything: a cycle, of which nothing is known.
        depth > super::MAX_DEPTH
            || links.iter().any(|link| match link.kind {
                LinkType::External => true,
                LinkType::Soft => false,
                LinkType::Hard => match group.loc_type_by_name(&link.name) {
                    Ok(LocationType::Group) => group.group(&link.name).map_or(true, |inner| {
                        self.external_below(&inner, &join(path, &link.name), depth + 1)
                    }),
                    _ => false,
                },
            })
    }

    fn dataset(&self, path: &str) -> Result<Dataset, KerasError> {
        match self.locate(path, "dataset")? {
            Found::Dataset(dataset) => Ok(dataset),
            Found::Group(..) => Err(KerasError::NoSuchObject { object: path.to_owned(), kind: "dataset" }),
        }
    }
}

enum Found {
    Group(Group, String),
    Dataset(Dataset),
}

impl Hdf5 for Library {
    fn members(&self, path: &str) -> Result<Vec<(String, Kind)>, KerasError> {
        let Found::Group(group, path) = self.locate(path, "group")? else {
            return Err(KerasError::NoSuchObject { object: path.to_owned(), kind: "group" });
        };
        let (mut groups, mut datasets) = (Vec::new(), Vec::new());
        for link in self.links(&path, &group)?.iter() {
            self.check(link, &join(&path, &link.name))?;
            match (group.loc_type_by_name(&link.name), link.kind) {
                (Ok(LocationType::Group), _) => groups.push((link.name.clone(), Kind::Group)),
                (Ok(LocationType::Dataset), _) => datasets.push((link.name.clone(), Kind::Dataset)),
                (Ok(_), _) | (Err(_), LinkType::Soft) => {}
                (Err(e), _) => return Err(wrap(e, &join(&path, &link.name))),
            }
        }
        groups.append(&mut datasets);
        Ok(groups)
    }

    fn attributes(&self, path: &str) -> Result<Attributes, KerasError> {
        let found = self.locate(path, "group")?;
        let object: &Location = match &found {
            Found::Group(group, _) => group,
            Found::Dataset(dataset) => dataset,
        };
        let names = object.attr_names().map_err(|e| wrap(e, path))?;
        let read = |name: String| {
            let value = object.attr(&name).and_then(|a| attribute(&a));
            let value = value.unwrap_or_else(|e| Attribute::Unreadable(format!("cannot be read: {e}")));
            (name, value)
        };
        Ok(names.into_iter().map(read).collect())
    }

    fn info(&self, path: &str) -> Result<DatasetInfo, KerasError> {
        let dataset = self.dataset(path)?;
        let fail = |e| wrap(e, path);
        let external = dataset.dcpl().map_err(fail)?.external();
        if let Some(file) = external.first() {
            return Err(KerasError::ExternalLink { object: path.to_owned(), target: file.name.clone() });
        }
        let layout = dataset.layout();
        if matches!(layout, Layout::Virtual) {
            let target = "of a virtual dataset".to_owned();
            return Err(KerasError::ExternalLink { object: path.to_owned(), target });
        }
        let plain = matches!(layout, Layout::Compact) || dataset.offset().is_some();
        Ok(DatasetInfo { dtype: element_type(&dataset), shape: dataset.get_shape().map_err(fail)?, plain })
    }

    fn read(&self, path: &str) -> Result<Elements, KerasError> {
        let info = self.info(path)?;
        let dataset = self.dataset(path)?;
        let fail = |e| wrap(e, path);
        fn plain<T: hdf5::H5Type + bytemuck::Pod + Send + Sync>(dataset: &Dataset) -> hdf5::Result<Elements> {
            Ok(Elements::Plain(Bytes::from_owner(Numbers(dataset.read_raw::<T>()?))))
        }
        match (&info.dtype, dataset.offset()) {
            (ElementType::F16, _) => {
                // Read as the wider type that holds each of its values: the crate's own is not known here.
                let wide = dataset.read_raw::<f32>().map_err(fail)?;
                let bytes = wide.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes());
                Ok(Elements::Plain(bytes.collect()))
            }
            (ElementType::F32, _) => plain::<f32>(&dataset).map_err(fail),
            (ElementType::F64, _) => plain::<f64>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 1, signed: true }, _) => plain::<i8>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 2, signed: true }, _) => plain::<i16>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 4, signed: true }, _) => plain::<i32>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 8, signed: true }, _) => plain::<i64>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 1, signed: false }, _) => plain::<u8>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 2, signed: false }, _) => plain::<u16>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 4, signed: false }, _) => plain::<u32>(&dataset).map_err(fail),
            (ElementType::Int { bytes: 8, signed: false }, _) => plain::<u64>(&dataset).map_err(fail),
            (ElementType::Bool, _) => {
                let values = dataset.read_raw::<bool>().map_err(fail)?;
                Ok(Elements::Plain(values.into_iter().map(u8::from).collect()))
            }
            (ElementType::Str, _) => {
                let items = strings(&dataset).map_err(fail)?;
                Ok(Elements::Strings(items.into_iter().map(Bytes::from).collect()))
            }
            // Opaque, so that the library has nothing to read it as.
            (ElementType::Bf16, Some(offset)) => {
                let len = info.shape.iter().try_fold(2usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
                Ok(Elements::At { offset: self.base.saturating_add(offset), len, big_endian: false })
            }
            (other, _) => Err(KerasError::ElementType { object: path.to_owned(), found: other.describe() }),
        }
    }
}

struct Numbers<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for Numbers<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn element_type(dataset: &Dataset) -> ElementType {
    let Ok(dtype) = dataset.dtype() else { return ElementType::Other("unknown".to_owned()) };
    match dtype.to_descriptor() {
        Ok(TypeDescriptor::Float(FloatSize::U2)) => ElementType::F16,
        Ok(TypeDescriptor::Float(FloatSize::U4)) => ElementType::F32,
        Ok(TypeDescriptor::Float(FloatSize::U8)) => ElementType::F64,
        Ok(TypeDescriptor::Integer(size)) => ElementType::Int { bytes: size as usize, signed: true },
        Ok(TypeDescriptor::Unsigned(size)) => ElementType::Int { bytes: size as usize, signed: false },
        Ok(TypeDescriptor::Enum(e)) => ElementType::Int { bytes: e.size as usize, signed: e.signed },
        Ok(TypeDescriptor::Boolean) => ElementType::Bool,
        Ok(
            TypeDescriptor::FixedAscii(_)
            | TypeDescriptor::FixedUnicode(_)
            | TypeDescriptor::VarLenAscii
            | TypeDescriptor::VarLenUnicode,
        ) => ElementType::Str,
        Ok(other) => ElementType::Other(other.to_string()),
        Err(_) => {
            let mark = dataset.attr("dtype").and_then(|a| strings(&a));
            match mark.as_deref() {
                Ok([mark]) if mark == "bfloat16" && dtype.size() == 2 => ElementType::Bf16,
                _ => ElementType::Other(format!("opaque of {} bytes", dtype.size())),
            }
        }
    }
}

fn attribute(attribute: &hdf5::Attribute) -> hdf5::Result<Attribute> {
    use TypeDescriptor as T;
    let descriptor = attribute.dtype()?.to_descriptor()?;
    let empty = attribute.space()?.is_null();
    fn ints<V: hdf5::H5Type + Into<i64>>(a: &hdf5::Attribute, empty: bool) -> hdf5::Result<Attribute> {
        let values = if empty { Vec::new() } else { a.read_raw::<V>()? };
        Ok(Attribute::Ints(values.into_iter().map(Into::into).collect()))
    }
    match descriptor {
        T::FixedAscii(_) | T::FixedUnicode(_) | T::VarLenAscii | T::VarLenUnicode => {
            Ok(Attribute::Strings(if empty { Vec::new() } else { strings(attribute)? }))
        }
        T::Float(FloatSize::U2) => Ok(Attribute::Unreadable("has elements of type float16".to_owned())),
        T::Float(_) => Ok(Attribute::Floats(if empty { Vec::new() } else { attribute.read_raw::<f64>()? })),
        T::Integer(_) | T::Unsigned(IntSize::U1 | IntSize::U2 | IntSize::U4) => ints::<i64>(attribute, empty),
        T::Unsigned(IntSize::U8) => {
            let values = if empty { Vec::new() } else { attribute.read_raw::<u64>()? };
            let values: Result<Vec<_>, _> = values.into_iter().map(i64::try_from).collect();
            values.map(Attribute::Ints).map_err(|_| "it overflows".into())
        }
        T::Boolean => {
            let values = if empty { Vec::new() } else { attribute.read_raw::<bool>()? };
            Ok(Attribute::Ints(values.into_iter().map(i64::from).collect()))
        }
        other => Ok(Attribute::Unreadable(format!("has elements of type {other}"))),
    }
}

/// Strings of any kind.
fn strings(from: &Container) -> hdf5::Result<Vec<String>> {
    /// Fixed strings must be read into a type at least as wide: a narrower one cuts them off without a word.
    macro_rules! fixed {
        ($kind:ident, $size:expr, $($width:literal),+) => {
            match $size {
                $(0..=$width => bytes(from.read_raw::<$kind<$width>>()?, |s| s.as_bytes().to_vec()),)+
                size => return Err(format!("strings of {size} bytes").into()),
            }
        };
    }
    fn bytes<T>(items: Vec<T>, f: impl Fn(&T) -> Vec<u8>) -> Vec<Vec<u8>> {
        items.iter().map(f).collect()
    }
    let items = match from.dtype()?.to_descriptor()? {
        TypeDescriptor::VarLenAscii => bytes(from.read_raw::<VarLenAscii>()?, |s| s.as_bytes().to_vec()),
        TypeDescriptor::VarLenUnicode => bytes(from.read_raw::<VarLenUnicode>()?, |s| s.as_bytes().to_vec()),
        TypeDescriptor::FixedAscii(size) => fixed!(FixedAscii, size, 64, 1024, 16384, 131_072),
        TypeDescriptor::FixedUnicode(size) => fixed!(FixedUnicode, size, 64, 1024, 16384, 131_072),
        other => return Err(format!("elements of type {other}, expected text").into()),
    };
    let text = |bytes| String::from_utf8(bytes).map_err(|e| hdf5::Error::from(e.to_string()));
    items.into_iter().map(text).collect()
}

fn wrap(error: hdf5::Error, object: &str) -> KerasError {
    KerasError::Object { object: object.to_owned(), source: Box::new(error) }
}
