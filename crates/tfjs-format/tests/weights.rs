//! Weights in shards: cutting, joining, mapping, streaming, and putting files in place.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::fs;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use tfjs_format::io::{
    DirectorySink, FileSource, LoadOptions, MemoryModel, MemorySink, ModelSink, ModelSource,
};
use tfjs_format::{
    Affine, Codec, DType, ModelJson, Payload, ShardOptions, ShardWriter, Storage, WeightGroup, WeightSpec,
    WeightStream, Weights, encode_strings, group_bytes, string_bytes,
};

/// A manifest with one weight of every kind, and the stored bytes.
fn every_kind() -> (Vec<WeightSpec>, Vec<Vec<u8>>) {
    let strings: Vec<Bytes> = ["", "ab", "\u{e9}"].into_iter().map(Bytes::from).collect();
    let mut plain8 = WeightSpec::new("uint8", [2], DType::Int32);
    plain8.dtype = Storage::Uint8;
    let line = Affine { min: -1.0, scale: 0.5 };
    let weights = vec![
        (WeightSpec::new("float32", [2, 1], DType::Float32), [1.5f32, -2.0].map(f32::to_le_bytes).concat()),
        (WeightSpec::new("bool", [3], DType::Bool), vec![1, 0, 1]),
        (WeightSpec::new("int32", [], DType::Int32), (-7i32).to_le_bytes().to_vec()),
        (WeightSpec::new("string", [3], DType::String), encode_strings(&strings).unwrap()),
        (WeightSpec::new("complex64", [1], DType::Complex64), [1.0f32, 2.0].map(f32::to_le_bytes).concat()),
        (WeightSpec::new("affine8", [3], DType::Float32).quantized(Codec::Uint8(line)), vec![0, 2, 255]),
        (WeightSpec::new("affine16", [1], DType::Int32).quantized(Codec::Uint16(line)), vec![0, 1]),
        (WeightSpec::new("float16", [1], DType::Float32).quantized(Codec::Float16), vec![0x00, 0x3c]),
        (WeightSpec::new("empty", [0, 4], DType::Float32), vec![]),
        (plain8, vec![200, 3]),
    ];
    weights.into_iter().unzip()
}

fn check_every_kind(weights: &Weights) {
    assert_eq!(*weights.get("float32").unwrap().f32s().unwrap(), [1.5, -2.0]);
    assert_eq!(weights.get("bool").unwrap().bools().unwrap(), [true, false, true]);
    assert_eq!(*weights.get("int32").unwrap().i32s().unwrap(), [-7]);
    assert_eq!(weights.get("string").unwrap().strings().unwrap(), ["", "ab", "\u{e9}"]);
    assert_eq!(*weights.get("complex64").unwrap().complex().unwrap(), [[1.0, 2.0]]);
    assert_eq!(*weights.get("affine8").unwrap().f32s().unwrap(), [-1.0, 0.0, 126.5]);
    assert_eq!(*weights.get("affine16").unwrap().i32s().unwrap(), [127]);
    assert_eq!(*weights.get("float16").unwrap().f32s().unwrap(), [1.0]);
    assert_eq!(weights.get("empty").unwrap().shape, [0, 4]);
    assert_eq!(*weights.get("uint8").unwrap().i32s().unwrap(), [200, 3]);
}

fn write(sink: &mut dyn ModelSink, size: u64, options: ShardOptions) -> ModelJson {
    let (specs, stored) = every_kind();
    let total = group_bytes(&specs, |_| stored[3].len() as u64).unwrap();
    let mut writer = ShardWriter::new(sink, 1, total, ShardOptions { size, ..options }).unwrap();
    for (spec, bytes) in specs.iter().zip(&stored) {
        writer.write_weight(spec, bytes).unwrap();
    }
    let shards = writer.finish().unwrap();
    assert_eq!(shards.bytes, total);
    ModelJson { weights_manifest: vec![WeightGroup::new(shards.paths, specs)], ..ModelJson::default() }
}

#[test]
fn every_kind_of_weight_survives_every_way_of_cutting() {
    for size in [1, 3, 7, 20, 1000] {
        let mut sink = MemorySink::default();
        let model = write(&mut sink, size, ShardOptions::default());
        sink.finish(&model.to_json().unwrap()).unwrap();
        let source = sink.into_model().unwrap();
        let model = ModelJson::load(&source).unwrap();
        let weights = Weights::open(&source, &model.weights_manifest).unwrap();
        check_every_kind(&weights);

        let mut stream = WeightStream::new(&source, &model.weights_manifest).unwrap();
        for (spec, values) in weights.iter() {
            let (streamed, streamed_values) = stream.next_weight().unwrap().unwrap();
            assert_eq!((streamed, streamed_values), (spec, values.unwrap()));
        }
        assert!(stream.next_weight().unwrap().is_none());
    }
}

#[test]
fn shards_are_numbered_and_cut_through_elements() {
    let mut sink = MemorySink::default();
    let model = write(&mut sink, 20, ShardOptions::default());
    let paths = &model.weights_manifest[0].paths;
    // 8 + 3 + 4 + 16 + 8 + 3 + 2 + 2 + 0 + 2 = 48 bytes.
    assert_eq!(*paths, ["group1-shard1of3.bin", "group1-shard2of3.bin", "group1-shard3of3.bin"]);
    sink.finish("{}").unwrap();
    let files = sink.into_model().unwrap().files;
    assert_eq!(paths.iter().map(|path| files[path].len()).collect::<Vec<_>>(), [20, 20, 8]);
}

#[test]
fn a_group_without_bytes_has_no_file() {
    let mut sink = MemorySink::default();
    let shards = ShardWriter::new(&mut sink, 1, 0, ShardOptions::default()).unwrap().finish().unwrap();
    assert!(shards.paths.is_empty());
    let manifest = [WeightGroup::new(vec![], vec![WeightSpec::new("none", [0], DType::Int32)])];
    let weights = Weights::open(&MemoryModel::default(), &manifest).unwrap();
    assert!(weights.get("none").unwrap().i32s().unwrap().is_empty());
}

#[test]
fn digests_are_those_of_the_shards() {
    let mut sink = MemorySink::default();
    let options = ShardOptions { size: 3, sha256: true };
    let mut writer = ShardWriter::new(&mut sink, 1, 4, options).unwrap();
    writer.write(b"abcd").unwrap();
    // printf abc | sha256sum; printf d | sha256sum
    assert_eq!(
        writer.finish().unwrap().sha256,
        [
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "18ac3e7343f016890c510e93f935261169d9e3f565436429830faf0934f4f8e4",
        ]
    );
}

#[test]
fn a_weight_inside_one_shard_is_not_copied() {
    let shard = Bytes::from(vec![0; 12]);
    let source =
        MemoryModel { files: [("w.bin".to_owned(), shard.clone())].into(), ..MemoryModel::default() };
    let manifest = [WeightGroup::new(
        vec!["w.bin".to_owned()],
        vec![WeightSpec::new("a", [1], DType::Float32), WeightSpec::new("b", [2], DType::Float32)],
    )];
    let weights = Weights::open(&source, &manifest).unwrap();
    let Payload::Plain(bytes) = weights.get("b").unwrap().data else { panic!("strings") };
    assert_eq!(bytes.as_ptr(), shard[4..].as_ptr());
}

#[test]
fn groups_are_independent_streams() {
    let file = |name: &str, bytes: &'static [u8]| (name.to_owned(), Bytes::from_static(bytes));
    let source = MemoryModel {
        files: [file("a", &[1, 0, 0, 0]), file("b", &[1, 0])].into(),
        ..MemoryModel::default()
    };
    let manifest = [
        WeightGroup::new(vec!["a".to_owned()], vec![WeightSpec::new("x", [], DType::Int32)]),
        WeightGroup::new(vec!["b".to_owned()], vec![WeightSpec::new("y", [2], DType::Bool)]),
    ];
    let weights = Weights::open(&source, &manifest).unwrap();
    assert_eq!(weights.get("y").unwrap().bools().unwrap(), [true, false]);
    assert_eq!(weights.specs().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
}

#[test]
fn a_directory_is_written_whole_or_not_at_all() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("deep/er/model");
    let mut sink = DirectorySink::create(&target).unwrap();
    sink.begin("group1-shard1of1.bin").unwrap();
    sink.write(b"half").unwrap();
    drop(sink);
    assert!(!target.exists());
    assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 0);

    let mut sink = DirectorySink::create(&target).unwrap();
    let model = write(&mut sink, 10, ShardOptions::default());
    sink.finish(&model.to_json().unwrap()).unwrap();
    let source = FileSource::open(&target).unwrap();
    let loaded = ModelJson::load(&source).unwrap();
    check_every_kind(&Weights::open(&source, &loaded.weights_manifest).unwrap());
    assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let ordinary = parent.path().join("ordinary");
        fs::create_dir(&ordinary).unwrap();
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&ordinary));
    }
}

#[test]
fn writing_again_replaces_the_model_and_removes_only_its_old_shards() {
    let target = tempfile::tempdir().unwrap();
    let mut sink = DirectorySink::create(target.path()).unwrap();
    let model = write(&mut sink, 10, ShardOptions::default());
    sink.finish(&model.to_json().unwrap()).unwrap();
    fs::write(target.path().join("README.md"), "mine").unwrap();
    fs::write(target.path().join("group9-shard1of1.bin"), "of another model").unwrap();

    let mut sink = DirectorySink::create(target.path()).unwrap();
    let model = write(&mut sink, 1000, ShardOptions::default());
    sink.finish(&model.to_json().unwrap()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(target.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["README.md", "group1-shard1of1.bin", "group9-shard1of1.bin", "model.json"]);
    let source = FileSource::open(target.path().join("model.json")).unwrap();
    check_every_kind(&Weights::open(&source, &model.weights_manifest).unwrap());
}

#[test]
fn a_model_that_is_replaced_at_once_is_whole_until_then() {
    let target = tempfile::tempdir().unwrap();
    let files = || {
        let mut names: Vec<_> = fs::read_dir(target.path())
            .unwrap()
            .map(|e| e.unwrap())
            .filter(|e| e.file_type().unwrap().is_file())
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    for round in 0..4 {
        let before: Vec<_> = files().iter().map(|n| fs::read(target.path().join(n)).unwrap()).collect();
        let mut sink = DirectorySink::create(target.path()).unwrap().replacing_at_once();
        let model = write(&mut sink, 1000, ShardOptions::default());
        let now: Vec<_> = files().iter().map(|n| fs::read(target.path().join(n)).unwrap()).collect();
        assert_eq!(before, now, "nothing is touched before the end");
        if round == 2 {
            // As if the program had ended here.
            drop(sink);
            continue;
        }
        let old = fs::read(target.path().join("model.json")).ok();
        sink.finish(&model.to_json().unwrap()).unwrap();
        let shard = if round == 1 { "group1-shard1of1-2.bin" } else { "group1-shard1of1.bin" };
        assert_eq!(files(), [shard, "model.json"]);
        assert_ne!(old, fs::read(target.path().join("model.json")).ok(), "the new one lists its own file");
        let source = FileSource::open(target.path()).unwrap();
        let loaded = ModelJson::load(&source).unwrap();
        check_every_kind(&Weights::open(&source, &loaded.weights_manifest).unwrap());
    }
}

#[test]
fn a_directory_with_one_oddly_named_model_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("group1-shard1of1"), 3.0f32.to_le_bytes()).unwrap();
    let manifest = r#"[{"paths": ["group1-shard1of1"], "weights": [{"name": "three", "shape": [1], "dtype": "float32"}]}]"#;
    fs::write(dir.path().join("model-stride16.json"), manifest).unwrap();
    let source = FileSource::open(dir.path()).unwrap();
    assert_eq!(source.path().file_name().unwrap(), "model-stride16.json");
}

#[test]
fn models_of_two_files_from_before_1_0_are_read() {
    use prost::Message;
    use tfjs_format::Topology;
    use tfjs_format::proto::{GraphDef, NodeDef};
    let dir = tempfile::tempdir().unwrap();
    let node = NodeDef { name: "three".into(), op: "Const".into(), ..NodeDef::default() };
    let graph = GraphDef { node: vec![node], ..GraphDef::default() };
    fs::write(dir.path().join("tensorflowjs_model.pb"), graph.encode_to_vec()).unwrap();
    fs::write(dir.path().join("group1-shard1of1"), 3.0f32.to_le_bytes()).unwrap();
    let manifest = r#"[{"paths": ["group1-shard1of1"], "weights": [{"name": "three", "shape": [1], "dtype": "float32"}]}]"#;
    fs::write(dir.path().join("weights_manifest.json"), manifest).unwrap();
    for path in [dir.path().to_owned(), dir.path().join("tensorflowjs_model.pb")] {
        let source = FileSource::open(path).unwrap();
        let model = ModelJson::load(&source).unwrap();
        let Topology::Graph(loaded) = &model.topology else { panic!("no graph") };
        assert_eq!(loaded.def, graph);
        let weights = Weights::open(&source, &model.weights_manifest).unwrap();
        assert_eq!(*weights.get("three").unwrap().f32s().unwrap(), [3.0]);
    }
    // The manifest alone loads just the weights.
    let source = FileSource::open(dir.path().join("weights_manifest.json")).unwrap();
    assert_eq!(ModelJson::load(&source).unwrap().topology, Topology::None);
}

#[test]
fn progress_counts_shards_and_a_prefix_moves_weights() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = DirectorySink::create(dir.path().join("m")).unwrap();
    let model = write(&mut sink, 24, ShardOptions::default());
    sink.finish(&model.to_json().unwrap()).unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    for path in &model.weights_manifest[0].paths {
        fs::rename(dir.path().join("m").join(path), dir.path().join("elsewhere").join(path)).unwrap();
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&seen);
    let options = LoadOptions {
        weight_path_prefix: Some(format!("{}/elsewhere/", dir.path().display())),
        on_progress: Some(Arc::new(move |fraction| listener.lock().unwrap().push(fraction))),
        ..LoadOptions::default()
    };
    let source = tfjs_format::io::open(dir.path().join("m/model.json").to_str().unwrap(), &options).unwrap();
    check_every_kind(&Weights::open(&*source, &model.weights_manifest).unwrap());
    assert_eq!(*seen.lock().unwrap(), [0.0, 0.5, 1.0]);
}

#[test]
fn sizes_of_strings_count_their_lengths() {
    let items = [Bytes::from("abc"), Bytes::new()];
    assert_eq!(string_bytes(&items), encode_strings(&items).unwrap().len() as u64);
    assert_eq!(encode_strings(&items).unwrap(), b"\x03\0\0\0abc\0\0\0\0");
}

proptest! {
    #[test]
    fn strings_survive_any_cut(items in prop::collection::vec(any::<Vec<u8>>(), 0..6), size in 1u64..40) {
        let items: Vec<Bytes> = items.into_iter().map(Bytes::from).collect();
        let spec = WeightSpec::new("s", [items.len()], DType::String);
        let mut sink = MemorySink::default();
        let mut writer = ShardWriter::new(&mut sink, 1, string_bytes(&items), ShardOptions { size, sha256: false }).unwrap();
        writer.write_weight(&spec, &encode_strings(&items).unwrap()).unwrap();
        let manifest = [WeightGroup::new(writer.finish().unwrap().paths, vec![spec])];
        sink.finish("{}").unwrap();
        let source = sink.into_model().unwrap();
        let weights = Weights::open(&source, &manifest).unwrap();
        let values = weights.get("s").unwrap();
        prop_assert_eq!(values.strings().unwrap(), &items[..]);
    }

    #[test]
    fn no_shard_makes_the_reader_panic(shard in any::<Vec<u8>>(), shape in prop::collection::vec(any::<usize>(), 0..3), kind in 0usize..8) {
        let mut spec = WeightSpec::new("w", shape, DType::Float32);
        spec.dtype = Storage::ALL[kind];
        let manifest = [WeightGroup::new(vec!["w".to_owned()], vec![spec])];
        let source = MemoryModel { files: [("w".to_owned(), shard.into())].into(), ..MemoryModel::default() };
        let opened = Weights::open(&source, &manifest).and_then(|weights| weights.get("w"));
        let streamed = WeightStream::new(&source, &manifest).and_then(|mut stream| {
            let first = stream.next_weight()?;
            stream.next_weight()?;
            Ok(first)
        });
        prop_assert_eq!(opened.is_ok(), streamed.is_ok());
    }

    #[test]
    fn affine_codes_are_within_half_a_step(values in prop::collection::vec(-1e6f32..1e6, 1..50)) {
        let mut range = tfjs_format::Range::default();
        range.update(&values);
        let codec = range.codec(tfjs_format::QuantizeTo::Uint16, "w").unwrap();
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        codec.encode(&values, &mut bytes);
        codec.decode_f32(&bytes, &mut back);
        // Half a step, half a step of nudging zero, and the rounding to float32.
        let step = codec.affine().unwrap().scale;
        for (x, y) in values.iter().zip(&back) {
            proptest::prop_assert!((f64::from(*x) - f64::from(*y)).abs() <= step + f64::from(x.abs()) * 1e-7, "{x} {y}");
        }
    }
}

#[test]
fn sources_name_their_files() {
    let source = MemoryModel::default();
    assert_eq!(source.shard_name("w.bin"), "w.bin (in memory)");
}
