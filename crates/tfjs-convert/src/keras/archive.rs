use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    sync::Arc,
};

use bytes::Bytes;
use indexmap::IndexMap;
use tfjs_format::io::check_path;
use zip::{CompressionMethod, ZipArchive};

use super::{KerasError, blob::Blob, h5::expansion_limit};

/// A zip archive whose members are read in place; nothing is extracted.
#[derive(Clone)]
pub(super) struct Archive(Arc<Inner>);

struct Inner {
    blob: Blob,
    zip: ZipArchive<Cursor<Bytes>>,
    /// By name, without the folder that all may lie in.
    members: IndexMap<String, Member>,
}

struct Member {
    index: usize,
    start: u64,
    stored: u64,
    size: u64,
    method: CompressionMethod,
    crc: u32,
}

impl Archive {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// When it is broken, when two members have one name, or a name leads out of the archive.
    pub(super) fn open(blob: Blob) -> Result<Archive, KerasError> {
        let broken = |e| KerasError::Zip(Box::new(e));
        let mut zip = ZipArchive::new(Cursor::new(blob.bytes().clone())).map_err(broken)?;
        if zip.has_duplicate_names() {
            return Err(KerasError::Zip("two of its members have the same name".into()));
        }
        let mut members = IndexMap::new();
        for index in 0..zip.len() {
            let file = zip.by_index_raw(index).map_err(broken)?;
            let name = String::from_utf8(file.name_raw().to_vec())
                .map_err(|_| KerasError::NotText { place: file.name_raw().escape_ascii().to_string() })?;
            // Windows writes either.
            let name = name.replace('\\', "/");
            let refused = |what: String| KerasError::Member { name: name.clone(), what };
            check_path(&name).map_err(|e| refused(format!("is refused: {e}")))?;
            if file.is_dir() {
                continue;
            }
            if file.encrypted() {
                return Err(refused("is encrypted".to_owned()));
            }
            let start = file.data_start().ok_or_else(|| refused("has no data".to_owned()))?;
            let member = Member {
                index,
                start,
                stored: file.compressed_size(),
                size: file.size(),
                method: file.compression(),
                crc: file.crc32(),
            };
            if members.insert(name.clone(), member).is_some() {
                return Err(refused("is there twice".to_owned()));
            }
        }
        let members = unfold(members);
        Ok(Archive(Arc::new(Inner { blob, zip, members })))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.members.contains_key(name)
    }

    /// Names of all members.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.members.keys().map(String::as_str)
    }

    /// The bytes of a member: a part of the archive where it is stored as it is.
    ///
    /// # Errors
    /// When it is not there, is damaged, or would grow beyond the limit.
    pub(super) fn blob(&self, name: &str) -> Result<Blob, KerasError> {
        let Inner { blob, zip, members } = &*self.0;
        let member = members.get(name).ok_or_else(|| KerasError::MissingMember {
            name: name.to_owned(),
            found: members.keys().take(8).cloned().collect(),
        })?;
        let bad = |what: String| KerasError::Member { name: name.to_owned(), what };
        match member.method {
            CompressionMethod::Stored if member.size == member.stored => blob
                .member(member.start, member.stored, name, member.crc)
                .map_err(|_| bad("ends behind the archive: the file is truncated".to_owned())),
            CompressionMethod::Stored => Err(bad("is stored with two different sizes".to_owned())),
            CompressionMethod::Deflated => {
                let limit = expansion_limit(member.stored.min(blob.len()));
                if member.size > limit {
                    let object = name.to_owned();
                    return Err(KerasError::TooLarge { object, size: member.size.into(), limit });
                }
                let broken = |e: &dyn std::fmt::Display| bad(format!("cannot be unpacked: {e}"));
                let mut zip = zip.clone();
                let file = zip.by_index(member.index).map_err(|e| broken(&e))?;
                let mut bytes = Vec::new();
                // One more byte than it says shows that it says too little.
                file.take(member.size + 1).read_to_end(&mut bytes).map_err(|e| broken(&e))?;
                if bytes.len() as u64 != member.size {
                    return Err(bad(format!(
                        "unpacks to another size than the {} bytes it says",
                        member.size
                    )));
                }
                Ok(Blob::in_memory(bytes.into()))
            }
            other => Err(bad(format!("is compressed with {other}, expected none or deflate"))),
        }
    }

    /// The bytes of a member, checked.
    ///
    /// # Errors
    /// As [`Archive::blob`].
    pub(super) fn bytes(&self, name: &str) -> Result<Bytes, KerasError> {
        let blob = self.blob(name)?;
        blob.verify()?;
        Ok(blob.bytes().clone())
    }
}

/// Without the folder that they lie in, if the model lies in one.
fn unfold(members: IndexMap<String, Member>) -> IndexMap<String, Member> {
    const MAIN: &str = "config.json";
    if members.contains_key(MAIN) {
        return members;
    }
    let folders: Vec<&str> =
        members.keys().filter_map(|name| name.strip_suffix(MAIN)).filter(|f| f.ends_with('/')).collect();
    // Where there are several, the outermost is the model's; the others are assets.
    let Some(folder) = folders.into_iter().min_by_key(|f| f.matches('/').count()).map(str::to_owned) else {
        return members;
    };
    let inside = |(name, member): (String, Member)| Some((name.strip_prefix(&folder)?.to_owned(), member));
    members.into_iter().filter_map(inside).collect()
}

/// Files that belong to a model, such as vocabularies. Read when asked for.
#[derive(Clone, Default)]
pub struct Assets(Place);

#[derive(Clone, Default)]
enum Place {
    #[default]
    Nowhere,
    Archive(Archive),
    Memory(Arc<BTreeMap<String, Bytes>>),
}

const ASSETS: &str = "assets/";

impl Assets {
    pub(super) fn of(archive: &Archive) -> Assets {
        Assets(Place::Archive(archive.clone()))
    }

    pub(super) fn in_memory(files: BTreeMap<String, Bytes>) -> Assets {
        Assets(Place::Memory(Arc::new(files)))
    }

    /// Paths of all assets, such as `layers/text_vectorization/vocabulary.txt`.
    pub fn paths(&self) -> Vec<String> {
        match &self.0 {
            Place::Nowhere => Vec::new(),
            Place::Archive(archive) => {
                archive.names().filter_map(|name| name.strip_prefix(ASSETS)).map(str::to_owned).collect()
            }
            Place::Memory(files) => files.keys().cloned().collect(),
        }
    }

    /// The contents of an asset; `None` when there is no such path.
    ///
    /// # Errors
    /// When it is damaged or would grow beyond the limit.
    pub fn read(&self, path: &str) -> Result<Option<Bytes>, KerasError> {
        match &self.0 {
            Place::Nowhere => Ok(None),
            Place::Archive(archive) => {
                let name = format!("{ASSETS}{path}");
                archive.has(&name).then(|| archive.bytes(&name)).transpose()
            }
            Place::Memory(files) => Ok(files.get(path).cloned()),
        }
    }
}

impl std::fmt::Debug for Assets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Assets").field(&self.paths()).finish()
    }
}
