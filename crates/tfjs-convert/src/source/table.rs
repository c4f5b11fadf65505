//! LevelDB tables: the index of a TensorBundle, and whole checkpoints of TensorFlow's first format.

use std::path::Path;

use bytes::Bytes;

use super::file::FileAt;
use crate::ConvertError;

/// A sorted string table. Opening reads the footer and the index block; data blocks are read when asked for.
#[derive(Debug)]
pub(crate) struct Table {
    file: FileAt,
    /// For each data block, a key not smaller than its last key, and where it lies.
    index: Vec<(Bytes, Handle)>,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    offset: u64,
    size: u64,
}

const FOOTER: u64 = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Compression type byte and checksum after each block.
const TRAILER: u64 = 5;

impl Table {
    pub(crate) fn open(path: &Path) -> Result<Table, ConvertError> {
        let file = FileAt::open(path)?;
        let bad = |what: &'static str| ConvertError::Table { path: path.to_path_buf(), what };
        let footer_at = file.len().checked_sub(FOOTER).ok_or_else(|| bad("shorter than a table footer"))?;
        let footer = file.read(footer_at, FOOTER)?;
        let (handles, magic) = footer.split_at(40);
        if magic != MAGIC.to_le_bytes() {
            return Err(bad("no table magic number at the end"));
        }
        let mut rest = handles;
        let index_handle = Handle::decode(&mut rest) // the meta index, which TensorFlow leaves empty
            .and_then(|_| Handle::decode(&mut rest))
            .ok_or_else(|| bad("broken footer"))?;
        let block = read_block(&file, index_handle)?;
        let index = entries(&block)
            .ok_or_else(|| bad("broken index block"))?
            .into_iter()
            .map(|(key, value)| Some((key, Handle::decode(&mut &value[..])?)))
            .collect::<Option<_>>()
            .ok_or_else(|| bad("broken block handle in the index"))?;
        Ok(Table { file, index })
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// All entries in key order.
    pub(crate) fn read_all(&self) -> Result<Vec<(Bytes, Bytes)>, ConvertError> {
        let mut all = Vec::new();
        for &(_, handle) in &self.index {
            all.extend(self.block(handle)?);
        }
        Ok(all)
    }

    /// The value stored under `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ConvertError> {
        let block = self.index.partition_point(|(last, _)| &last[..] < key);
        let Some(&(_, handle)) = self.index.get(block) else { return Ok(None) };
        Ok(self.block(handle)?.into_iter().find(|(k, _)| &k[..] == key).map(|(_, v)| v))
    }

    fn block(&self, handle: Handle) -> Result<Vec<(Bytes, Bytes)>, ConvertError> {
        entries(&read_block(&self.file, handle)?)
            .ok_or_else(|| ConvertError::Table { path: self.path().to_path_buf(), what: "broken data block" })
    }
}

impl Handle {
    fn decode(bytes: &mut &[u8]) -> Option<Handle> {
        Some(Handle { offset: varint(bytes)?, size: varint(bytes)? })
    }
}

fn read_block(file: &FileAt, handle: Handle) -> Result<Bytes, ConvertError> {
    let bad = |what: &'static str| ConvertError::Table { path: file.path().to_path_buf(), what };
    let with_trailer = handle.size.checked_add(TRAILER).ok_or_else(|| bad("block size overflows"))?;
    let mut raw = file.read(handle.offset, with_trailer)?;
    let body = raw.len() - TRAILER as usize;
    let stored = u32::from_le_bytes([raw[body + 1], raw[body + 2], raw[body + 3], raw[body + 4]]);
    if unmask(stored) != crc32c::crc32c(&raw[..=body]) {
        return Err(bad("block checksum does not match"));
    }
    match raw[body] {
        0 => {
            raw.truncate(body);
            Ok(Bytes::from(raw))
        }
        1 => {
            // A snappy stream expands at most about 22-fold; anything that claims more is broken.
            let claimed = snap::raw::decompress_len(&raw[..body]).map_err(|_| bad("broken snappy block"))?;
            if claimed / 64 > body {
                return Err(bad("broken snappy block"));
            }
            let block = snap::raw::Decoder::new().decompress_vec(&raw[..body]);
            block.map(Bytes::from).map_err(|_| bad("broken snappy block"))
        }
        _ => Err(bad("unknown block compression")),
    }
}

/// All entries of a block: keys share prefixes with their predecessors; restart offsets follow the entries.
fn entries(block: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let (rest, count) = block.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(4)?;
    let end = rest.len().checked_sub(restarts)?;
    let mut bytes = &block[..end];
    let mut key = Vec::new();
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let shared = usize::try_from(varint(&mut bytes)?).ok()?;
        let unshared = usize::try_from(varint(&mut bytes)?).ok()?;
        let value_len = usize::try_from(varint(&mut bytes)?).ok()?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(bytes.get(..unshared)?);
        bytes = &bytes[unshared..];
        let value = block.slice_ref(bytes.get(..value_len)?);
        bytes = &bytes[value_len..];
        out.push((Bytes::copy_from_slice(&key), value));
    }
    Some(out)
}

/// Undoes the mask that LevelDB puts on stored checksums.
pub(crate) fn unmask(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// A base-128 varint, taken off the front.
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
