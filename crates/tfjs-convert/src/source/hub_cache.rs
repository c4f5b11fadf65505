//! TF-Hub modules from the network, kept where `tensorflow_hub` keeps them.

use std::{
    env, fs, io,
    path::{Component, Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::read::GzDecoder;
use sha1::{Digest, Sha1};
use tar::{Archive, EntryType};

use crate::ConvertError;

/// Most bytes that an unpacked module may have: 64 GiB.
const MAX_BYTES: u64 = 64 << 30;
/// Most files and folders of a module.
const MAX_ENTRIES: usize = 100_000;

/// The folder of the module at `handle`, downloaded unless it is in the cache: `TFHUB_CACHE_DIR`, or a folder for
/// temporary files.
///
/// # Errors
/// When it cannot be fetched, or the archive is not a module's.
pub(super) fn fetch(handle: &str) -> Result<PathBuf, ConvertError> {
    let cache = match env::var_os("TFHUB_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => env::temp_dir().join("tfhub_modules"),
    };
    fetch_into(handle, &cache)
}

fn fetch_into(handle: &str, cache: &Path) -> Result<PathBuf, ConvertError> {
    let key: String = Sha1::digest(handle.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = cache.join(&key);
    if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(dir);
    }
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ConvertError::Io { path, source }
    };
    fs::create_dir_all(cache).map_err(at(cache))?;
    let url = compressed(handle);
    tracing::info!(url, "downloading module");
    let response = ureq::get(&url)
        .call()
        .map_err(|source| ConvertError::Download { url: url.clone(), source: Box::new(source) })?;
    // Unpacked beside its place and moved there whole, so that nobody finds half a module.
    let unpacked = tempfile::Builder::new().prefix(&key).tempdir_in(cache).map_err(at(cache))?;
    unpack(response.into_body().into_reader(), unpacked.path(), &url)?;
    let unpacked = unpacked.keep();
    if let Err(error) = fs::rename(&unpacked, &dir) {
        // Somebody else may have been faster.
        let _ = fs::remove_dir_all(&unpacked);
        if !dir.is_dir() {
            return Err(at(&dir)(error));
        }
    }
    let descriptor = cache.join(format!("{key}.descriptor.txt"));
    fs::write(&descriptor, describe(handle)).map_err(at(&descriptor))?;
    Ok(dir)
}

/// The address of the module as an archive.
fn compressed(handle: &str) -> String {
    if handle.contains("tf-hub-format=") {
        return handle.to_owned();
    }
    let separator = if handle.contains('?') { '&' } else { '?' };
    format!("{handle}{separator}tf-hub-format=compressed")
}

/// Unpacks a `.tar.gz` into `dir`: plain files and folders below it, nothing else.
fn unpack(archive: impl io::Read, dir: &Path, url: &str) -> Result<(), ConvertError> {
    let wrap = |source| ConvertError::Archive { url: url.to_owned(), source };
    let refuse = |path: &Path, what: &'static str| ConvertError::ArchiveEntry {
        url: url.to_owned(),
        entry: path.display().to_string(),
        what,
    };
    let mut archive = Archive::new(GzDecoder::new(archive));
    let (mut total, mut count) = (0u64, 0);
    for entry in archive.entries().map_err(wrap)? {
        let mut entry = entry.map_err(wrap)?;
        let path = entry.path().map_err(wrap)?.into_owned();
        count += 1;
        total = total.saturating_add(entry.size());
        if count > MAX_ENTRIES || total > MAX_BYTES {
            return Err(refuse(&path, "the archive is larger than any module"));
        }
        if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(refuse(&path, "its path leads out of the module"));
        }
        let target = dir.join(&path);
        let at = |source| ConvertError::Io { path: target.clone(), source };
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&target).map_err(at)?,
            EntryType::Regular | EntryType::Continuous => {
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(at)?;
                }
                let mut file = fs::File::create(&target).map_err(at)?;
                io::copy(&mut entry, &mut file).map_err(at)?;
            }
            EntryType::XGlobalHeader | EntryType::XHeader => {}
            _ => return Err(refuse(&path, "it is neither a file nor a folder")),
        }
    }
    Ok(())
}

/// What `tensorflow_hub` writes beside a module.
fn describe(handle: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    format!(
        "Module: {handle}\nDownload Time: {}\nDownloader Hostname: {host} (PID:{})",
        utc(seconds),
        process::id()
    )
}

/// Date and time of a Unix time stamp.
fn utc(seconds: u64) -> String {
    // Days since 0000-03-01, in eras of 400 years: leap days come last in each year.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        path::Path,
        thread,
    };

    use super::{compressed, fetch_into, utc};
    use crate::ConvertError;

    /// Serves one answer to one request; the join handle gives the request line.
    fn serve(body: Vec<u8>) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/module/1", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let len = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                .unwrap();
            stream.write_all(&body).unwrap();
            String::from_utf8_lossy(&request[..len]).lines().next().unwrap_or_default().to_owned()
        });
        (address, server)
    }

    fn archive(path: &str, link: bool) -> Vec<u8> {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(if link { 0 } else { 5 });
        header.set_mode(0o644);
        if link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name("/etc/passwd").unwrap();
        }
        // `set_path` refuses paths that lead out; a malicious archive does not.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, if link { &b""[..] } else { &b"hello"[..] }).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_module_is_downloaded_once_and_described() {
        let cache = tempfile::tempdir().unwrap();
        let (address, server) = serve(archive("./saved_model.pb", false));
        let dir = fetch_into(&address, cache.path()).unwrap();
        assert_eq!(server.join().unwrap(), "GET /module/1?tf-hub-format=compressed HTTP/1.1");
        assert_eq!(std::fs::read(dir.join("saved_model.pb")).unwrap(), b"hello");
        let descriptor = dir.with_extension("descriptor.txt");
        assert!(std::fs::read_to_string(descriptor).unwrap().starts_with(&format!("Module: {address}\n")));
        // The server is gone: this one comes from the cache.
        assert_eq!(fetch_into(&address, cache.path()).unwrap(), dir);
    }

    #[test]
    fn paths_that_leave_the_module_and_links_are_refused() {
        for (path, link) in [("../escaped", false), ("/tmp/escaped", false), ("link", true)] {
            let cache = tempfile::tempdir().unwrap();
            let (address, server) = serve(archive(path, link));
            let error = fetch_into(&address, cache.path()).unwrap_err();
            server.join().unwrap();
            assert!(matches!(error, ConvertError::ArchiveEntry { .. }), "{error}");
            assert!(!cache.path().join("escaped").exists() && !Path::new("/tmp/escaped").exists());
            assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "nothing is left behind");
        }
    }

    #[test]
    fn the_cache_folder_is_the_sha1_of_the_handle() {
        // hashlib.sha1(b"https://tfhub.dev/google/x/1").hexdigest()
        let cache = tempfile::tempdir().unwrap();
        let handle = "https://tfhub.dev/google/x/1";
        let key = "732ee1a03c694cd720c572c9cecc15965237dbf0";
        std::fs::create_dir(cache.path().join(key)).unwrap();
        std::fs::write(cache.path().join(key).join("saved_model.pb"), b"").unwrap();
        assert_eq!(fetch_into(handle, cache.path()).unwrap(), cache.path().join(key));
    }

    #[test]
    fn addresses_ask_for_an_archive() {
        assert_eq!(compressed("http://h/m"), "http://h/m?tf-hub-format=compressed");
        assert_eq!(compressed("http://h/m?a=b"), "http://h/m?a=b&tf-hub-format=compressed");
        assert_eq!(compressed("http://h/m?tf-hub-format=compressed"), "http://h/m?tf-hub-format=compressed");
        assert_eq!(utc(1_709_210_096), "2024-02-29 12:34:56");
    }
}
