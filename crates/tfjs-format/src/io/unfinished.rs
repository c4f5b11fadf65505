//! Files and directories that are being written, so that a program that is interrupted can remove them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn all() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file or directory that is listed as unfinished until this is dropped.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Lists a path.
    pub fn new(path: &Path) -> Unfinished {
        all().insert(path.to_owned());
        Unfinished(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        all().remove(&self.0);
    }
}

/// While this is held, [`discard_unfinished`] waits: for the moment when finished files get their names.
#[derive(Debug)]
pub struct Uninterrupted(
    #[allow(dead_code, reason = "held, not read")] MutexGuard<'static, BTreeSet<PathBuf>>,
);

/// Makes [`discard_unfinished`] wait. No [`Unfinished`] may be made or dropped by this thread meanwhile.
pub fn uninterrupted() -> Uninterrupted {
    Uninterrupted(all())
}

/// Removes everything that is being written. For signal handlers of programs, which end right after.
pub fn discard_unfinished() {
    discard(std::mem::take(&mut *all()));
}

fn discard(paths: BTreeSet<PathBuf>) {
    for path in paths {
        // Nobody is left to hear of a failure.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Unfinished, all, discard};

    #[test]
    fn what_is_unfinished_is_listed_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("folder"), dir.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("shard"), "x").unwrap();
        fs::write(&file, "x").unwrap();
        let open = Unfinished::new(&folder);
        assert!(all().contains(&folder));
        drop(open);
        assert!(!all().contains(&folder));
        discard([folder.clone(), file.clone()].into());
        assert!(!folder.exists() && !file.exists());
    }
}
