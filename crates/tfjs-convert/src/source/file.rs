use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::ConvertError;

/// A file that is read at given places, from several threads if need be.
///
/// Reading instead of mapping keeps the resident memory of a conversion independent of the model's size.
#[derive(Debug)]
pub(crate) struct FileAt {
    path: PathBuf,
    file: File,
    len: u64,
}

impl FileAt {
    pub(crate) fn open(path: &Path) -> Result<FileAt, ConvertError> {
        let wrap = |source| ConvertError::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(wrap)?;
        let meta = file.metadata().map_err(wrap)?;
        if meta.is_dir() {
            return Err(wrap(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Ok(FileAt { path: path.to_path_buf(), file, len: meta.len() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// `size` bytes from `offset` on; a range outside the file is an error before anything is allocated.
    pub(crate) fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, ConvertError> {
        let mut bytes = vec![0; self.checked_size(offset, size)?];
        self.read_into(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// `size` bytes from `offset` on, as the little-endian floats they are; a rest of less than 4 bytes is left out.
    pub(crate) fn read_floats(&self, offset: u64, size: u64) -> Result<Vec<f32>, ConvertError> {
        let mut floats = vec![0f32; self.checked_size(offset, size)? / size_of::<f32>()];
        self.read_into(offset, bytemuck::cast_slice_mut(&mut floats))?;
        if cfg!(target_endian = "big") {
            floats.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits().swap_bytes()));
        }
        Ok(floats)
    }

    /// Fills `bytes` from `offset` on.
    pub(crate) fn read_into(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ConvertError> {
        read_exact_at(&self.file, bytes, offset)
            .map_err(|source| ConvertError::Io { path: self.path.clone(), source })
    }

    fn checked_size(&self, offset: u64, size: u64) -> Result<usize, ConvertError> {
        let end = offset.checked_add(size);
        match (end, usize::try_from(size)) {
            (Some(end), Ok(size)) if end <= self.len => Ok(size),
            _ => Err(ConvertError::PastEnd { path: self.path.clone(), offset, size, len: self.len }),
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
