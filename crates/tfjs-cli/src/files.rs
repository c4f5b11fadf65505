//! Reading and writing files, whole or not at all.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use tfjs_format::io::{Unfinished, uninterrupted};

use crate::CliError;

/// All bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|source| CliError::File { action: "read", path: path.to_owned(), source })
}

/// The lines of a text file, without empty ones at the end.
pub(crate) fn lines(path: &Path) -> Result<Vec<String>, CliError> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    Ok(text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
}

/// Files of one directory that appear together, once all are written.
pub(crate) struct Together {
    directory: PathBuf,
    files: Vec<(NamedTempFile, Unfinished, PathBuf)>,
}

impl Together {
    /// Nothing yet; makes the directory if necessary.
    pub(crate) fn in_directory(directory: &Path) -> Result<Together, CliError> {
        fs::create_dir_all(directory).map_err(|e| failed("create", directory, e))?;
        Ok(Together { directory: directory.to_owned(), files: Vec::new() })
    }

    /// Writes a file under a temporary name.
    pub(crate) fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CliError> {
        let path = self.directory.join(name);
        let (file, unfinished) = (|| {
            let mut file = tempfile::Builder::new().prefix(".tfjs-").tempfile_in(&self.directory)?;
            let unfinished = Unfinished::new(file.path());
            let mut out = BufWriter::with_capacity(1 << 16, &mut file);
            write(&mut out)?;
            out.flush()?;
            drop(out);
            readable(&file)?;
            Ok((file, unfinished))
        })()
        .map_err(|e| failed("write", &path, e))?;
        self.files.push((file, unfinished, path));
        Ok(())
    }

    /// Gives all files their names.
    pub(crate) fn finish(self) -> Result<(), CliError> {
        let whole = uninterrupted();
        let mut failure = Ok(());
        let mut unfinished = Vec::with_capacity(self.files.len());
        for (file, listed, path) in self.files {
            unfinished.push(listed);
            if failure.is_ok() {
                failure = file.persist(&path).map(drop).map_err(|e| failed("write", &path, e.error));
            }
        }
        drop(whole);
        failure
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CliError {
    CliError::File { action, path: path.to_owned(), source }
}

/// Temporary files are for their owner only; results are for whoever may read files here.
#[cfg(unix)]
fn readable(file: &NamedTempFile) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &NamedTempFile) -> io::Result<()> {
    Ok(())
}
