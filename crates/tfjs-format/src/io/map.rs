//! The one place of this crate with `unsafe`: mapping a file.
#![allow(unsafe_code)]
use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::FormatError;

/// The bytes of a file, mapped: pages are read when touched and dropped under memory pressure.
///
/// The file must not be shortened while the bytes are in use: the system would end the process when a page
/// that no longer exists is touched. Writers that replace files by renaming, as [`DirectorySink`] does, are
/// harmless: a mapping keeps the old file.
///
/// [`DirectorySink`]: crate::io::DirectorySink
///
/// # Errors
/// When the file cannot be opened or mapped.
pub fn map_file(path: impl AsRef<Path>) -> Result<Bytes, FormatError> {
    let path = path.as_ref();
    let failed = |source| FormatError::io("read", path.display().to_string(), source);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    // Empty files and pipes cannot be mapped.
    if !metadata.is_file() || metadata.len() == 0 {
        return std::fs::read(path).map(Bytes::from).map_err(failed);
    }
    // SAFETY: the map is read-only and private to the returned `Bytes`, which gives out only `&[u8]` and
    // keeps it alive. That no other process shortens or rewrites the file meanwhile is the documented
    // condition of this function; all readers of this crate take bytes as they are and check what they rely
    // on again where they use it, so changed contents give wrong values but no invalid ones.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    Ok(Bytes::from_owner(map))
}
