use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::KerasError;
use crate::{ConvertError, source::FileAt};

/// Bytes of a file or of a member of an archive: mapped for what is read in pieces, and read into place for large
/// tensors, which neither fault pages in one by one nor count as memory of the process twice.
#[derive(Clone)]
pub(crate) struct Blob {
    bytes: Bytes,
    file: Option<(Arc<FileAt>, u64)>,
    checksum: Option<Arc<Checksum>>,
}

/// What the archive says that the bytes sum to; checked once, before the first tensor is read.
struct Checksum {
    member: String,
    expected: u32,
    matches: OnceLock<bool>,
}

impl Blob {
    /// A file.
    pub(crate) fn open(path: &Path) -> Result<Blob, ConvertError> {
        let file = FileAt::open(path)?;
        let bytes = tfjs_format::io::map_file(path)?;
        // Pipes are read as a whole, and cannot be read a second time.
        let file = (file.len() == bytes.len() as u64).then(|| (Arc::new(file), 0));
        Ok(Blob { bytes, file, checksum: None })
    }

    /// Bytes in memory.
    pub(crate) fn in_memory(bytes: Bytes) -> Blob {
        Blob { bytes, file: None, checksum: None }
    }

    /// A part of these bytes: the stored member of an archive, with its CRC-32.
    pub(crate) fn member(&self, offset: u64, len: u64, name: &str, crc: u32) -> Result<Blob, KerasError> {
        let bytes = self.slice_u64(offset, len)?;
        let file = self.file.as_ref().map(|(file, start)| (file.clone(), start + offset));
        let checksum = Checksum { member: name.to_owned(), expected: crc, matches: OnceLock::new() };
        Ok(Blob { bytes, file, checksum: Some(Arc::new(checksum)) })
    }

    /// The path of the file, if these are all of its bytes.
    #[cfg(feature = "hdf5")]
    pub(crate) fn path(&self) -> Option<std::path::PathBuf> {
        let (file, start) = self.file.as_ref()?;
        (*start == 0 && file.len() == self.len()).then(|| file.path().to_path_buf())
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Checks the sum of all bytes, if there is one and it has not been checked yet.
    pub(crate) fn verify(&self) -> Result<(), KerasError> {
        let Some(checksum) = &self.checksum else { return Ok(()) };
        if *checksum.matches.get_or_init(|| self.crc().is_ok_and(|crc| crc == checksum.expected)) {
            return Ok(());
        }
        let what = "is damaged: its checksum does not match".to_owned();
        Err(KerasError::Member { name: checksum.member.clone(), what })
    }

    fn crc(&self) -> Result<u32, ConvertError> {
        const PIECE: usize = 1 << 20;
        let mut hasher = crc32fast::Hasher::new();
        match &self.file {
            None => hasher.update(&self.bytes),
            Some((file, start)) => {
                let mut buffer = vec![0; PIECE.min(self.bytes.len())];
                for at in (0..self.bytes.len()).step_by(PIECE) {
                    let piece = &mut buffer[..PIECE.min(self.bytes.len() - at)];
                    file.read_into(start + at as u64, piece)?;
                    hasher.update(piece);
                }
            }
        }
        Ok(hasher.finalize())
    }

    /// A part of the bytes, without copying.
    pub(crate) fn slice(&self, offset: u64, len: usize) -> Result<Bytes, KerasError> {
        self.slice_u64(offset, len as u64)
    }

    fn slice_u64(&self, offset: u64, len: u64) -> Result<Bytes, KerasError> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len());
        match (usize::try_from(offset), end.and_then(|end| usize::try_from(end).ok())) {
            (Ok(start), Some(end)) => Ok(self.bytes.slice(start..end)),
            _ => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// `len` bytes as the little-endian floats they are.
    pub(crate) fn read_floats(&self, offset: u64, len: usize) -> Result<Vec<f32>, KerasError> {
        let bytes = self.slice(offset, len)?;
        match &self.file {
            Some((file, start)) => {
                file.read_floats(start + offset, len as u64).map_err(|e| std::io::Error::other(e).into())
            }
            None => Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        }
    }
}
