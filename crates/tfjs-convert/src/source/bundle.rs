//! TensorBundle: `<prefix>.index` (a table of entries) and `<prefix>.data-NNNNN-of-MMMMM` (the elements).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use bytes::Bytes;
use prost::Message;
use tfjs_format::proto::DataType;

use super::{
    file::FileAt,
    ordered_code::{Slice, slice_key},
    slices::{Region, assemble},
    table::{Table, unmask, varint},
    tensor::{RawData, RawTensor, TensorMeta, base_type, full_shape, width},
};
use crate::{
    ConvertError,
    proto::{BundleEntryProto, BundleHeaderProto, TensorSliceProto, bundle_header_proto::Endianness},
};

/// A checkpoint of TensorFlow's second format. Opening reads the index only; each tensor is read when asked for.
#[derive(Debug)]
pub struct Bundle {
    index: PathBuf,
    entries: HashMap<Bytes, BundleEntryProto>,
    shards: Vec<(PathBuf, OnceLock<FileAt>)>,
}

impl Bundle {
    /// Opens `<prefix>.index`.
    ///
    /// # Errors
    /// When the index cannot be read, is not a table, fails a checksum, or was written on a big-endian machine.
    pub fn open(prefix: &Path) -> Result<Bundle, ConvertError> {
        let index = suffixed(prefix, ".index");
        let table = Table::open(&index)?;
        let mut header = None;
        let mut entries = HashMap::new();
        for (key, value) in table.read_all()? {
            let wrap = |source| ConvertError::Decode { path: index.clone(), what: "bundle entry", source };
            if key.is_empty() {
                header = Some(BundleHeaderProto::decode(value).map_err(wrap)?);
            } else {
                entries.insert(key, BundleEntryProto::decode(value).map_err(wrap)?);
            }
        }
        let header =
            header.ok_or_else(|| ConvertError::Table { path: index.clone(), what: "no bundle header" })?;
        if header.endianness() == Endianness::Big {
            return Err(ConvertError::BigEndian { path: index });
        }
        let count = header.num_shards;
        if !(1..=99_999).contains(&count) {
            return Err(ConvertError::Table { path: index, what: "impossible number of shards" });
        }
        let shards = (0..count)
            .map(|i| (suffixed(prefix, &format!(".data-{i:05}-of-{count:05}")), OnceLock::new()))
            .collect();
        Ok(Bundle { index, entries, shards })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let text = |key: &Bytes| String::from_utf8(key.to_vec()).ok();
        // Keys of slices start with a byte 0, which no tensor name does.
        let keys = self.entries.keys().filter(|k| k.first() != Some(&0));
        let mut names: Vec<String> = keys.filter_map(text).collect();
        names.sort_unstable();
        names
    }

    /// Type and shape of a tensor, if it is there.
    ///
    /// # Errors
    /// When the entry is broken.
    pub fn meta(&self, name: &str) -> Result<Option<TensorMeta>, ConvertError> {
        let Some(entry) = self.entries.get(name.as_bytes()) else { return Ok(None) };
        self.entry_meta(entry, name).map(Some)
    }

    fn entry_meta(&self, entry: &BundleEntryProto, name: &str) -> Result<TensorMeta, ConvertError> {
        let shape = full_shape(entry.shape.as_ref(), name)?;
        Ok(TensorMeta { dtype: base_type(entry.dtype), shape })
    }

    /// Reads a whole tensor, putting a partitioned variable together, and verifies its checksum.
    ///
    /// # Errors
    /// [`ConvertError::NoSuchTensor`], or when what is stored is broken.
    pub fn read(&self, name: &str) -> Result<RawTensor, ConvertError> {
        let entry = self.entry(name.as_bytes(), name)?;
        let meta = self.entry_meta(entry, name)?;
        if entry.slices.is_empty() {
            return self.read_entry(entry, &meta, name);
        }
        let whole = Region::whole(&meta.shape);
        self.gather(entry, &meta, name, &whole)
    }

    /// Reads a part of a tensor: `slice` as `(first index, extent)` per dimension of the full shape.
    ///
    /// # Errors
    /// As [`Bundle::read`]; also when the slice lies outside the tensor.
    pub(crate) fn read_slice(&self, name: &str, slice: &Slice) -> Result<RawTensor, ConvertError> {
        let entry = self.entry(name.as_bytes(), name)?;
        let meta = self.entry_meta(entry, name)?;
        let region = Region::of(slice, &meta.shape)
            .ok_or_else(|| ConvertError::BadSlice { tensor: name.to_owned(), path: self.index.clone() })?;
        if entry.slices.is_empty() {
            let full = self.read_entry(entry, &meta, name)?;
            return assemble(
                name,
                &meta.dtype,
                &region,
                [(Region::whole(&meta.shape), full)].into_iter().map(Ok),
            );
        }
        self.gather(entry, &meta, name, &region)
    }

    /// Puts together the part `wanted` of a tensor that is stored in slices.
    fn gather(
        &self,
        entry: &BundleEntryProto,
        meta: &TensorMeta,
        name: &str,
        wanted: &Region,
    ) -> Result<RawTensor, ConvertError> {
        let bad = || ConvertError::BadSlice { tensor: name.to_owned(), path: self.index.clone() };
        let parts = entry.slices.iter().map(|proto| {
            let slice = slice_of(proto);
            let region = Region::of(&slice, &meta.shape).ok_or_else(bad)?;
            if !region.overlaps(wanted) {
                return Ok(None);
            }
            let part = self.entry(&slice_key(name, &slice), name)?;
            let part_meta = self.entry_meta(part, name)?;
            if part_meta.shape != region.extent || part_meta.dtype != meta.dtype {
                return Err(bad());
            }
            Ok(Some((region, self.read_entry(part, &part_meta, name)?)))
        });
        assemble(name, &meta.dtype, wanted, parts.filter_map(Result::transpose))
    }

    fn entry(&self, key: &[u8], name: &str) -> Result<&BundleEntryProto, ConvertError> {
        self.entries
            .get(key)
            .ok_or_else(|| ConvertError::NoSuchTensor { tensor: name.to_owned(), path: self.index.clone() })
    }

    fn read_entry(
        &self,
        entry: &BundleEntryProto,
        meta: &TensorMeta,
        name: &str,
    ) -> Result<RawTensor, ConvertError> {
        let file = self.shard(entry, name)?;
        let broken = |what| ConvertError::BrokenTensor {
            tensor: name.to_owned(),
            path: file.path().to_path_buf(),
            what,
        };
        let (Ok(offset), Ok(size)) = (u64::try_from(entry.offset), u64::try_from(entry.size)) else {
            return Err(broken("negative offset or size"));
        };
        let count = meta.elements().ok_or_else(|| broken("its shape overflows"))?;
        let dtype = meta.dtype;
        let data = if dtype == DataType::DtString {
            let bytes = Bytes::from(file.read(offset, size)?);
            let (strings, crc) =
                split_strings(&bytes, count).ok_or_else(|| broken("its string lengths are broken"))?;
            if crc != unmask(entry.crc32c) {
                return Err(broken("its checksum does not match"));
            }
            RawData::Strings(strings)
        } else {
            let width = width(dtype).ok_or_else(|| ConvertError::UnsupportedType {
                name: name.to_owned(),
                dtype: dtype.as_str_name(),
            })?;
            if count.checked_mul(width).and_then(|n| u64::try_from(n).ok()) != Some(size) {
                return Err(broken("its size does not match its shape"));
            }
            let (data, crc) = if dtype == DataType::DtFloat {
                let floats = file.read_floats(offset, size)?;
                let crc = floats_crc(&floats);
                (RawData::Floats(floats), crc)
            } else {
                let bytes = file.read(offset, size)?;
                let crc = crc32c::crc32c(&bytes);
                (RawData::Bytes(Bytes::from(bytes)), crc)
            };
            if crc != unmask(entry.crc32c) {
                return Err(broken("its checksum does not match"));
            }
            data
        };
        Ok(RawTensor { dtype, shape: meta.shape.clone(), data })
    }

    fn shard(&self, entry: &BundleEntryProto, name: &str) -> Result<&FileAt, ConvertError> {
        let slot = usize::try_from(entry.shard_id).ok().and_then(|i| self.shards.get(i));
        let (path, cell) = slot.ok_or_else(|| ConvertError::BrokenTensor {
            tensor: name.to_owned(),
            path: self.index.clone(),
            what: "it names a shard that does not exist",
        })?;
        if let Some(file) = cell.get() {
            return Ok(file);
        }
        let file = FileAt::open(path)?;
        Ok(cell.get_or_init(|| file))
    }
}

/// The elements of a string tensor and their checksum.
///
/// Layout: a varint length per element, the masked checksum of the lengths, then all bytes. The checksum runs over
/// the lengths as integers of 4 bytes (8 if they need it), the stored checksum of the lengths, and the bytes.
fn split_strings(bytes: &Bytes, count: usize) -> Option<(Vec<Bytes>, u32)> {
    let mut rest = &bytes[..];
    // Each element takes at least one byte, which bounds what is allocated.
    if count > rest.len() {
        return None;
    }
    let mut crc = 0;
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        let len = varint(&mut rest)?;
        crc = match u32::try_from(len) {
            Ok(short) => crc32c::crc32c_append(crc, &short.to_le_bytes()),
            Err(_) => crc32c::crc32c_append(crc, &len.to_le_bytes()),
        };
        lengths.push(usize::try_from(len).ok()?);
    }
    let (stored, mut rest) = rest.split_first_chunk::<4>()?;
    if unmask(u32::from_le_bytes(*stored)) != crc {
        return None;
    }
    crc = crc32c::crc32c_append(crc, stored);
    crc = crc32c::crc32c_append(crc, rest);
    let mut strings = Vec::with_capacity(count);
    for len in lengths {
        strings.push(bytes.slice_ref(rest.get(..len)?));
        rest = &rest[len..];
    }
    rest.is_empty().then_some((strings, crc))
}

/// The checksum of floats as they lie in the file.
fn floats_crc(floats: &[f32]) -> u32 {
    if cfg!(target_endian = "little") {
        return crc32c::crc32c(bytemuck::cast_slice(floats));
    }
    floats.iter().fold(0, |crc, x| crc32c::crc32c_append(crc, &x.to_le_bytes()))
}

/// A slice as a message says it.
pub(crate) fn slice_of(proto: &TensorSliceProto) -> Slice {
    use crate::proto::tensor_slice_proto::extent::HasLength;
    proto.extent.iter().map(|e| (e.start, e.has_length.map(|HasLength::Length(n)| n))).collect()
}

/// `prefix` with `suffix` appended to its last component.
pub(crate) fn suffixed(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}
