//! The checked-in messages are what the `.proto` file says.
use std::path::Path;

#[test]
fn checked_in_messages_match_their_proto_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["graph.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut config = prost_build::Config::new();
    config.btree_map(["."]).bytes(["."]).out_dir(out.path());
    for large in ["tensor", "list", "func", "shape"] {
        config.boxed(format!("tensorflow.AttrValue.value.{large}"));
    }
    config.compile_fds(files).unwrap();
    let generated = std::fs::read_to_string(out.path().join("tensorflow.rs")).unwrap();
    let checked_in = root.join("src/proto/tensorflow.rs");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&checked_in, &generated).unwrap();
    }
    assert!(
        generated == std::fs::read_to_string(checked_in).unwrap(),
        "run this test once with UPDATE_GENERATED=1"
    );
}
