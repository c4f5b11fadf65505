//! Checkpoints written by TensorFlow 2.19 (`tests/data/make.py`).
use std::path::{Path, PathBuf};

use tfjs_convert::{
    ConvertError,
    source::{Bundle, CheckpointV1, RawData},
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn floats(data: &RawData) -> Vec<f32> {
    match data {
        RawData::Floats(floats) => floats.clone(),
        RawData::Bytes(bytes) => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        RawData::Strings(_) => panic!("not numbers"),
    }
}

#[test]
fn a_partitioned_variable_is_put_together_from_its_slices() {
    let bundle = Bundle::open(&data("part_v2/export")).unwrap();
    assert_eq!(bundle.names(), ["b", "emb", "h", "i", "s"]);
    let emb = bundle.read("emb").unwrap();
    assert_eq!(emb.shape, [200, 3]);
    assert_eq!(floats(&emb.data), (0..600).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn strings_and_wide_integers_come_out_of_a_bundle() {
    let bundle = Bundle::open(&data("part_v2/export")).unwrap();
    let RawData::Strings(strings) = bundle.read("s").unwrap().data else { panic!("not strings") };
    assert_eq!(strings[0], "hello");
    assert_eq!(strings[1], "");
    assert_eq!(strings[2], "x".repeat(200));
    let RawData::Bytes(i) = bundle.read("i").unwrap().data else { panic!("not numbers") };
    assert_eq!(i[8..], (1i64 << 40).to_le_bytes());
    assert!(matches!(bundle.read("nothing"), Err(ConvertError::NoSuchTensor { .. })));
}

#[test]
fn a_checkpoint_of_the_first_format_is_read() {
    let checkpoint = CheckpointV1::open(&[data("part_v1/export-00000-of-00001")]).unwrap();
    assert_eq!(checkpoint.names(), ["b", "emb", "h", "i"]);
    let emb = checkpoint.read("emb").unwrap();
    assert_eq!(floats(&emb.data), (0..600).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(floats(&checkpoint.read("b").unwrap().data), [1.5, 2.5]);
}

#[test]
fn a_flipped_bit_in_a_tensor_or_an_index_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    for (file, at) in [("export.data-00000-of-00001", 100), ("export.index", 40)] {
        for name in ["export.data-00000-of-00001", "export.index"] {
            std::fs::copy(data("part_v2").join(name), dir.path().join(name)).unwrap();
        }
        let path = dir.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        let broken = Bundle::open(&dir.path().join("export")).and_then(|b| b.read("emb"));
        assert!(
            matches!(broken, Err(ConvertError::BrokenTensor { .. } | ConvertError::Table { .. })),
            "{broken:?}"
        );
    }
}

#[test]
fn a_truncated_data_file_is_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(data("part_v2/export.index"), dir.path().join("export.index")).unwrap();
    std::fs::write(dir.path().join("export.data-00000-of-00001"), [0; 10]).unwrap();
    let bundle = Bundle::open(&dir.path().join("export")).unwrap();
    assert!(matches!(bundle.read("emb"), Err(ConvertError::PastEnd { .. })));
}
