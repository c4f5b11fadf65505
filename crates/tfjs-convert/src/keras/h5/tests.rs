//! What h5py reads from the files in `fixtures/keras_files`, each back end reads too.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::{Value, json};

use super::{Attribute, Backend, ElementType, H5File, Kind, Loaded, join};
use crate::keras::{KerasError, archive::Archive, blob::Blob};

const BACKENDS: &[Backend] = &[
    Backend::Rust,
    #[cfg(feature = "hdf5")]
    Backend::Library,
];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/keras_files").join(name)
}

fn open(name: &str, backend: Backend) -> Result<H5File, KerasError> {
    let mut blob = Blob::open(&fixture(name)).unwrap();
    if name.ends_with(".keras") {
        blob = Archive::open(blob).unwrap().blob("model.weights.h5").unwrap();
    }
    H5File::open_with(blob, backend)
}

fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// An attribute as the script that made the fixtures describes it.
fn described(attribute: &Attribute) -> Value {
    match attribute {
        Attribute::Strings(texts) => texts
            .iter()
            .map(|text| match text.chars().count() < 200 {
                true => json!(text),
                false => json!({"crc32": crc32(text.as_bytes())}),
            })
            .collect(),
        Attribute::Ints(values) => json!(values),
        Attribute::Floats(values) => json!(values),
        Attribute::Unreadable(what) => json!(what),
    }
}

fn dataset(file: &H5File, path: &str) -> Value {
    let info = file.info(path).unwrap();
    let dtype = match &info.dtype {
        ElementType::F16 => "float16".to_owned(),
        ElementType::Bf16 => "bfloat16".to_owned(),
        ElementType::F32 => "float32".to_owned(),
        ElementType::F64 => "float64".to_owned(),
        ElementType::Int { bytes, signed: true } => format!("int{}", bytes * 8),
        ElementType::Int { bytes, signed: false } => format!("uint{}", bytes * 8),
        ElementType::Bool => "bool".to_owned(),
        ElementType::Str => "string".to_owned(),
        ElementType::Other(_) => return json!({"dtype": null, "shape": info.shape}),
    };
    let elements = file.inner.read(path).unwrap();
    match file.bytes(elements, &info.dtype).unwrap() {
        Loaded::Plain(bytes) => json!({"dtype": dtype, "shape": info.shape, "crc32": crc32(&bytes)}),
        Loaded::Strings(items) => {
            let texts: Vec<_> = items.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect();
            json!({"dtype": dtype, "shape": info.shape, "texts": texts})
        }
    }
}

#[test]
fn every_file_reads_as_h5py_reads_it() {
    let text = fs::read(fixture("expected.json")).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>> =
        serde_json::from_slice(&text).unwrap();
    assert!(expected.len() >= 12);
    for (name, expected) in &expected {
        for &backend in BACKENDS {
            let file = open(name, backend).unwrap();
            let mut attributes = BTreeMap::new();
            let mut datasets = BTreeMap::new();
            let root = [(String::new(), Kind::Group)];
            for (path, kind) in root.into_iter().chain(file.tree("").unwrap()) {
                for (key, value) in file.attributes(&path).unwrap() {
                    attributes.insert(format!("{path}@{key}"), described(&value));
                }
                if kind == Kind::Dataset {
                    datasets.insert(path.clone(), dataset(&file, &path));
                }
            }
            for (kind, found) in [("attributes", attributes), ("datasets", datasets)] {
                let wanted = &expected[kind];
                let names = |map: &BTreeMap<String, Value>| map.keys().cloned().collect::<Vec<_>>();
                assert_eq!(names(&found), names(wanted), "{kind} of {name} ({backend:?})");
                for (path, value) in &found {
                    // h5py says `true`, and 0 for an attribute without a value is no integer.
                    let wanted = match &wanted[path] {
                        Value::Array(items) => items
                            .iter()
                            .map(|v| if *v == json!(true) { json!(1) } else { v.clone() })
                            .collect(),
                        other => other.clone(),
                    };
                    assert_eq!(*value, wanted, "{kind} `{path}` of {name} ({backend:?})");
                }
            }
        }
    }
}

#[test]
fn groups_that_keep_the_order_of_creation_list_it() {
    for &backend in BACKENDS {
        let members = open("ordered.h5", backend).unwrap().members("").unwrap();
        let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "a", "m"], "{backend:?}");
    }
}

#[test]
fn what_lies_in_other_files_is_refused() {
    for &backend in BACKENDS {
        for name in ["external_link_earliest.h5", "external_link_latest.h5"] {
            let file = open(name, backend).unwrap();
            // Everything else in the file is there.
            assert!(file.info("vars/0").is_ok());
            for error in [file.members("layers").map(drop), file.info("layers/a").map(drop)] {
                assert!(matches!(error, Err(KerasError::ExternalLink { .. })), "{error:?}");
            }
        }
        let file = open("external_data.h5", backend).unwrap();
        let error = file.info("vars/0").and_then(|_| file.inner.read("vars/0").map(drop)).unwrap_err();
        assert!(matches!(error, KerasError::ExternalLink { .. }), "{error:?}");
    }
}

#[test]
fn a_shape_beyond_the_file_is_refused_before_memory_is_asked_for() {
    for &backend in BACKENDS {
        let error = open("huge.h5", backend).unwrap().info("vars/0").unwrap_err();
        assert!(matches!(error, KerasError::TooLarge { .. }), "{error:?}");
    }
}

#[test]
fn groups_within_themselves_are_refused() {
    for &backend in BACKENDS {
        let error = open("cycle.h5", backend).unwrap().tree("").unwrap_err();
        assert!(matches!(error, KerasError::TooMany { .. }), "{error:?}");
    }
}

/// Reads everything; what it gives does not matter, only that it ends.
fn read_all(bytes: Vec<u8>, backend: Backend) {
    let Ok(file) = H5File::open_with(Blob::in_memory(bytes.into()), backend) else { return };
    let _ = file.attributes("");
    for (path, kind) in file.tree("").unwrap_or_default() {
        let _ = file.attributes(&path);
        if kind == Kind::Dataset
            && let Ok(info) = file.info(&path)
        {
            let _ = file.tensor(&path, &path, &info);
        }
        let _ = join(&path, "x");
    }
}

#[test]
fn damaged_files_give_errors_only() {
    // libhdf5 is left out: it is not meant for files that are not trusted.
    for name in ["ordered.h5", "keras2_weights.h5"] {
        let whole = fs::read(fixture(name)).unwrap();
        for len in (0..whole.len()).step_by(97) {
            read_all(whole[..len].to_vec(), Backend::Rust);
        }
        for at in (0..whole.len()).step_by(13) {
            for flip in [0x01, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                read_all(bytes, Backend::Rust);
            }
        }
    }
}

#[test]
fn lzf_repeats_reach_into_themselves_and_broken_data_are_refused() {
    use super::lzf::unpack;
    // "ab", then nine bytes from two back.
    assert_eq!(unpack(&[1, b'a', b'b', 0xe0, 0, 1]).as_deref(), Some(&b"abababababa"[..]));
    assert_eq!(unpack(&[]).as_deref(), Some(&b""[..]));
    for broken in [&[5, b'a'][..], &[0x20, 0], &[0, b'a', 0x20], &[0, b'a', 0xe0, 0]] {
        assert_eq!(unpack(broken), None, "{broken:?}");
    }
}
