//! The checked-in messages are what the `.proto` file says.
use std::path::Path;

#[test]
fn checked_in_messages_match_their_proto_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let include = [root.join("proto"), root.join("../tfjs-format/proto")];
    let files = protox::compile(["saved_model.proto"], include).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .btree_map(["."])
        .bytes(["."])
        .extern_path(".tensorflow", "::tfjs_format::proto")
        .out_dir(out.path())
        .compile_fds(files)
        .unwrap();
    let generated = std::fs::read_to_string(out.path().join("saved.rs")).unwrap();
    let checked_in = root.join("src/proto/saved.rs");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&checked_in, &generated).unwrap();
    }
    assert!(
        generated == std::fs::read_to_string(checked_in).unwrap(),
        "run this test once with UPDATE_GENERATED=1"
    );
}
