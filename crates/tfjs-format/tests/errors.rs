//! One test per way a model can be wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::error::Error;
use std::fs;

use bytes::Bytes;
use serde_json::{Value, json};
use tfjs_format::io::{
    DirectorySink, FileSource, LoadOptions, MemoryModel, MemorySink, ModelSink, check_path,
};
use tfjs_format::proto::tensor_shape_proto::Dim;
use tfjs_format::proto::{DataType, TensorProto, TensorShapeProto};
use tfjs_format::{
    DType, FormatError, ModelJson, Payload, QuantizeTo, Range, ShardOptions, ShardWriter, TensorBytes,
    TensorValue, WeightGroup, WeightSpec, WeightStream, Weights,
};

macro_rules! fails {
    ($result:expr, $pattern:pat $(if $guard:expr)?, $text:expr) => {{
        let error = $result.err().expect("an error");
        assert!(matches!(error.cause(), $pattern $(if $guard)?), "{error:?}");
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        assert!(text.contains($text), "{text}");
    }};
}

fn parse(text: impl AsRef<[u8]>) -> Result<ModelJson, FormatError> {
    ModelJson::parse(text.as_ref())
}

fn weight(spec: Value) -> Result<ModelJson, FormatError> {
    parse(json!([{"paths": [], "weights": [spec]}]).to_string())
}

fn model(
    paths: &[&str],
    specs: Vec<WeightSpec>,
    files: &[(&str, &'static [u8])],
) -> (MemoryModel, Vec<WeightGroup>) {
    let files = files.iter().map(|&(name, bytes)| (name.to_owned(), Bytes::from_static(bytes))).collect();
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    (MemoryModel { files, ..MemoryModel::default() }, vec![WeightGroup::new(paths, specs)])
}

fn open(
    paths: &[&str],
    specs: Vec<WeightSpec>,
    files: &[(&str, &'static [u8])],
) -> Result<Weights, FormatError> {
    let (source, manifest) = model(paths, specs, files);
    Weights::open(&source, &manifest)
}

fn stream(
    paths: &[&str],
    specs: Vec<WeightSpec>,
    files: &[(&str, &'static [u8])],
) -> Result<(), FormatError> {
    let (source, manifest) = model(paths, specs, files);
    let mut stream = WeightStream::new(&source, &manifest)?;
    while stream.next_weight()?.is_some() {}
    Ok(())
}

fn f32_spec(name: &str, shape: &[usize]) -> WeightSpec {
    WeightSpec::new(name, shape, DType::Float32)
}

fn proto(dtype: DataType, dims: &[i64]) -> TensorProto {
    let dim = dims.iter().map(|&size| Dim { size, name: String::new() }).collect();
    TensorProto {
        dtype: dtype as i32,
        tensor_shape: Some(TensorShapeProto { dim, unknown_rank: false }),
        ..TensorProto::default()
    }
}

#[test]
fn html_instead_of_json() {
    fails!(
        parse("\n<!DOCTYPE html><html>"),
        FormatError::HtmlInsteadOfJson,
        "check that the path or address"
    );
}

#[test]
fn a_protobuf_instead_of_json() {
    fails!(
        parse(b"\x0a\x20\x0a\x01x\x12\x0bPlaceholder"),
        FormatError::ProtobufInsteadOfJson,
        "must be converted"
    );
    fails!(parse(b"\x08\x01\x12\xff"), FormatError::ProtobufInsteadOfJson, "must be converted");
}

#[test]
fn a_git_lfs_pointer_instead_of_a_file() {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n";
    fails!(parse(POINTER), FormatError::GitLfsPointer, "git lfs pull");
    fails!(
        open(&["w"], vec![f32_spec("a", &[1])], &[("w", POINTER)]),
        FormatError::GitLfsPointer,
        "in w (in memory)"
    );
    fails!(
        ModelJson::from_legacy(Bytes::from_static(POINTER), b"[]"),
        FormatError::GitLfsPointer,
        "tensorflowjs_model.pb"
    );
}

#[test]
fn text_that_is_not_json() {
    fails!(parse(r#"{"modelTopology": }"#), FormatError::JsonSyntax(_), "line 1 column 19");
    fails!(parse(""), FormatError::JsonSyntax(_), "not valid JSON");
}

#[test]
fn json_nested_too_deeply() {
    let text = format!(r#"{{"modelTopology": {}"#, r#"{"a":["#.repeat(100_000));
    fails!(parse(text), FormatError::TooDeep { limit: 127 }, "127 levels");
}

#[test]
fn json_that_is_no_model() {
    fails!(parse("{}"), FormatError::NotAModel, "neither a model topology nor");
}

#[test]
fn an_unknown_format() {
    let text = r#"{"format": "onnx", "weightsManifest": []}"#;
    fails!(parse(text), FormatError::UnknownModelFormat { .. }, "`onnx`: expected `graph-model`");
}

#[test]
fn a_field_of_the_wrong_kind() {
    fails!(
        parse(r#"{"weightsManifest": {}}"#),
        FormatError::Field { .. },
        "weightsManifest: expected an array"
    );
    fails!(parse("7"), FormatError::Field { .. }, "expected an object, found 7");
    fails!(
        weight(json!({"name": "k", "dtype": "float32", "shape": [2, -1]})),
        FormatError::Field { .. },
        "weights manifest[0].weights[0].shape[1]: expected an integer in range, found -1"
    );
}

#[test]
fn a_missing_field() {
    fails!(
        weight(json!({"name": "k", "dtype": "float32"})),
        FormatError::MissingField { .. },
        "weight `k`: field `shape`"
    );
}

#[test]
fn a_file_that_does_not_exist() {
    fails!(
        FileSource::open("/no/such/model.json"),
        FormatError::NotFound { .. },
        "/no/such/model.json does not exist"
    );
    fails!(open(&["w"], vec![], &[]), FormatError::NotFound { .. }, "w (in memory) does not exist");
}

#[test]
fn a_file_that_cannot_be_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fails!(DirectorySink::create(file.path()), FormatError::Io { action: "write", .. }, "not a directory");
}

#[test]
fn a_directory_without_a_model() {
    let dir = tempfile::tempdir().unwrap();
    fails!(FileSource::open(dir.path()), FormatError::NoModelInDirectory { .. }, "expected model.json");
    fs::write(dir.path().join("model-a.json"), "").unwrap();
    fs::write(dir.path().join("model-b.json"), "").unwrap();
    fails!(
        FileSource::open(dir.path()),
        FormatError::NoModelInDirectory { .. },
        "it holds model-a.json, model-b.json"
    );
}

#[test]
fn an_error_in_a_file_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.json");
    fs::write(&path, "<html>").unwrap();
    let error = ModelJson::load(&FileSource::open(&path).unwrap()).unwrap_err();
    assert!(matches!(error, FormatError::InFile { .. }));
    assert!(error.to_string().ends_with("model.json"), "{error}");
}

#[test]
fn a_graph_that_is_no_protobuf() {
    let graph = Bytes::from_static(b"\xff\xff\xff");
    fails!(
        ModelJson::from_legacy(graph, b"[]"),
        FormatError::Protobuf { message: "GraphDef", .. },
        "not a valid GraphDef"
    );
}

#[test]
fn two_weights_of_one_name() {
    let specs = || vec![f32_spec("k", &[1]), f32_spec("k", &[1])];
    fails!(
        open(&["w"], specs(), &[("w", &[0; 8])]),
        FormatError::DuplicateWeight { .. },
        "`k` is listed twice"
    );
    fails!(
        stream(&["w"], specs(), &[("w", &[0; 8])]),
        FormatError::DuplicateWeight { .. },
        "`k` is listed twice"
    );
}

#[test]
fn a_weight_that_is_not_there() {
    let weights = open(&[], vec![], &[]).unwrap();
    fails!(weights.get("k"), FormatError::UnknownWeight { .. }, "no weight `k`");
}

#[test]
fn an_unsupported_dtype() {
    fails!(
        weight(json!({"name": "k", "shape": [], "dtype": "int8"})),
        FormatError::UnsupportedDType { .. },
        "weight `k` has unsupported dtype `int8`: expected float32"
    );
}

#[test]
fn an_unknown_quantization() {
    fails!(
        weight(json!({"name": "k", "shape": [], "dtype": "float32", "quantization": {"dtype": "int4"}})),
        FormatError::UnknownQuantization { .. },
        "weight `k` has unknown quantization `int4`"
    );
}

#[test]
fn affine_quantization_without_its_numbers() {
    fails!(
        weight(
            json!({"name": "k", "shape": [], "dtype": "float32", "quantization": {"dtype": "uint8", "min": 0}})
        ),
        FormatError::MissingQuantization { field: "scale", .. },
        "weight `k` is quantized as uint8 but has no `scale`"
    );
}

#[test]
fn quantization_that_does_not_fit_the_type() {
    fails!(
        weight(json!({"name": "k", "shape": [], "dtype": "int32", "quantization": {"dtype": "float16"}})),
        FormatError::QuantizationMismatch { .. },
        "weight `k` is quantized as float16, which cannot stand for int32"
    );
}

#[test]
fn values_that_cannot_be_quantized() {
    let mut range = Range::default();
    range.update(&[f32::INFINITY]);
    fails!(
        range.codec(QuantizeTo::Uint8, "k"),
        FormatError::QuantizeNonFinite { .. },
        "cannot quantize `k` to uint8"
    );
}

#[test]
fn sizes_that_overflow() {
    for shape in [vec![1 << 40, 1 << 40], vec![usize::MAX / 2]] {
        let specs = || vec![f32_spec("k", &shape)];
        fails!(
            open(&["w"], specs(), &[("w", &[])]),
            FormatError::SizeOverflow { .. },
            "size of `k` with shape"
        );
    }
    let specs = vec![
        f32_spec("a", &[1 << 60]),
        f32_spec("b", &[1 << 60]),
        f32_spec("c", &[1 << 60]),
        f32_spec("d", &[1 << 60]),
    ];
    fails!(open(&["w"], specs, &[("w", &[])]), FormatError::SizeOverflow { .. }, "size of `d`");
}

#[test]
fn shards_that_are_too_short() {
    let specs = || vec![f32_spec("a", &[2]), f32_spec("b", &[2])];
    fails!(
        open(&["x", "y"], specs(), &[("x", &[0; 8]), ("y", &[0; 3])]),
        FormatError::GroupSize { expected: 16, found: 11, .. },
        "weight group 1 needs 16 bytes but its 2 shards hold 11; `b` is the first weight that is not whole"
    );
    fails!(
        stream(&["x", "y"], specs(), &[("x", &[0; 8]), ("y", &[0; 3])]),
        FormatError::Truncated { missing: 5, .. },
        "weight `b` is cut off: 5 of 8 bytes are missing"
    );
}

#[test]
fn shards_that_are_too_long() {
    let specs = || vec![f32_spec("a", &[2])];
    let text = "weight group 1 needs 8 bytes but its shard holds 9";
    fails!(open(&["x"], specs(), &[("x", &[0; 9])]), FormatError::GroupSize { weight: None, .. }, text);
    fails!(stream(&["x"], specs(), &[("x", &[0; 9])]), FormatError::GroupSize { weight: None, .. }, text);
}

#[test]
fn a_hostile_size_reserves_no_memory() {
    let specs = || vec![f32_spec("a", &[1 << 40])];
    fails!(open(&["x"], specs(), &[("x", &[0; 9])]), FormatError::GroupSize { .. }, "`a` is the first");
    fails!(stream(&["x"], specs(), &[("x", &[0; 9])]), FormatError::Truncated { .. }, "`a` is cut off");
}

#[test]
fn strings_that_run_past_their_group() {
    let spec = WeightSpec::new("s", [2], DType::String);
    fails!(
        open(&["x"], vec![spec], &[("x", b"\x01\0\0\0a\xff\xff\xff\xffb")]),
        FormatError::BadString { element: 1, offset: 5, .. },
        "string weight `s`: element 1 at byte 5"
    );
}

#[test]
fn paths_that_lead_elsewhere() {
    for path in ["/etc/passwd", "../w.bin", "a/../../w", "a\\..\\w", "C:\\w", "https://host/w", "", "a\0b"] {
        fails!(check_path(path), FormatError::BadPath { .. }, "is not allowed");
        fails!(open(&[path], vec![], &[]), FormatError::BadPath { .. }, "is not allowed");
        fails!(MemorySink::default().begin(path), FormatError::BadPath { .. }, "is not allowed");
    }
    for path in ["./w.bin", "a/b.bin", "..w", "a..b"] {
        check_path(path).unwrap();
    }
}

#[test]
fn values_asked_for_as_another_type() {
    let tensor =
        TensorBytes { dtype: DType::Bool, shape: vec![1], data: Payload::Plain(Bytes::from_static(&[1])) };
    fails!(tensor.f32s(), FormatError::WrongDType { .. }, "the tensor is bool, not float32");
    fails!(tensor.strings(), FormatError::WrongDType { .. }, "the tensor is bool, not string");
}

#[test]
fn constants_of_types_without_values() {
    fails!(
        TensorValue::from_proto(&proto(DataType::DtResource, &[])),
        FormatError::TensorType { .. },
        "DT_RESOURCE"
    );
    let unknown = TensorProto { dtype: 77, ..TensorProto::default() };
    fails!(TensorValue::from_proto(&unknown), FormatError::TensorType { .. }, "77");
}

#[test]
fn constants_of_unknown_shape() {
    let tensor = proto(DataType::DtFloat, &[2, -1]);
    fails!(TensorValue::from_proto(&tensor), FormatError::TensorShape { .. }, "[2, -1]");
    let huge = proto(DataType::DtFloat, &[i64::MAX, i64::MAX]);
    fails!(TensorValue::from_proto(&huge), FormatError::SizeOverflow { .. }, "overflows");
}

#[test]
fn constants_with_half_a_complex_number() {
    let tensor = TensorProto { scomplex_val: vec![1.0], ..proto(DataType::DtComplex64, &[1]) };
    fails!(
        TensorValue::from_proto(&tensor),
        FormatError::TensorValues { expected: 2, found: 1, .. },
        "DT_COMPLEX64"
    );
}

#[test]
fn constants_whose_raw_bytes_do_not_fit() {
    let tensor =
        TensorProto { tensor_content: Bytes::from_static(&[0; 7]), ..proto(DataType::DtFloat, &[2]) };
    fails!(
        TensorValue::from_proto(&tensor),
        FormatError::TensorBytes { expected: 8, found: 7, .. },
        "needs 8 bytes but has 7"
    );
    let tensor =
        TensorProto { tensor_content: Bytes::from_static(b"\x02a"), ..proto(DataType::DtString, &[1]) };
    fails!(TensorValue::from_proto(&tensor), FormatError::TensorBytes { .. }, "DT_STRING");
}

#[test]
fn one_value_repeated_a_million_million_times() {
    let tensor = TensorProto { float_val: vec![1.0], ..proto(DataType::DtFloat, &[1_000_000, 1_000_000]) };
    fails!(
        TensorValue::from_proto(&tensor),
        FormatError::TensorTooLarge { found: 1, .. },
        "the limit of 268435456"
    );
}

#[test]
fn bytes_that_do_not_fit_the_weight_they_are_written_for() {
    let mut sink = MemorySink::default();
    let mut writer = ShardWriter::new(&mut sink, 1, 4, ShardOptions::default()).unwrap();
    fails!(
        writer.write_weight(&f32_spec("k", &[1]), &[0; 3]),
        FormatError::WriteSize { .. },
        "`k` should have 4 bytes"
    );
    fails!(
        writer.write(&[0; 5]),
        FormatError::WriteSize { .. },
        "`group 1` should have 4 bytes, 5 were written"
    );
    fails!(writer.finish(), FormatError::WriteSize { found: 0, .. }, "group 1");
}

#[test]
fn shards_of_no_size() {
    let mut sink = MemorySink::default();
    let options = ShardOptions { size: 0, sha256: false };
    fails!(ShardWriter::new(&mut sink, 1, 4, options), FormatError::ZeroShardSize, "at least one byte");
}

#[test]
fn bytes_before_a_shard_was_begun() {
    fails!(MemorySink::default().write(b"x"), FormatError::NoShardBegun, "no shard was begun");
}

#[test]
fn options_that_have_no_meaning_for_files() {
    let options = LoadOptions { from_tf_hub: true, ..LoadOptions::default() };
    fails!(
        tfjs_format::io::open("model.json", &options),
        FormatError::OptionNeedsHttp { option: "from_tf_hub", .. },
        "`from_tf_hub` applies to HTTP addresses only"
    );
}

#[cfg(not(feature = "http"))]
#[test]
fn an_address_without_http_support() {
    let opened = tfjs_format::io::open("https://example.com/model.json", &LoadOptions::default());
    fails!(opened, FormatError::NoHttp { .. }, "no HTTP support");
}
