//! The committed protobuf code is what `proto/onnx.proto` generates today.
//!
//! `CUTLINE_REGENERATE=1 cargo test -p cutline-core --test generated` writes it anew.

use std::{env, fs, path::Path};

#[test]
fn onnx_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["onnx.proto"], [root.join("proto")]).unwrap();
    let out = env::temp_dir().join(format!("cutline-onnx-{}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    prost_build::Config::new()
        .bytes(["."])
        .disable_comments(["."])
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap();
    let fresh = fs::read_to_string(out.join("onnx.rs")).unwrap();
    fs::remove_dir_all(&out).unwrap();
    let committed = root.join("src/onnx/proto.rs");
    if env::var_os("CUTLINE_REGENERATE").is_some() {
        fs::write(&committed, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&committed).unwrap_or_default() == fresh,
        "src/onnx/proto.rs is stale: run this test with CUTLINE_REGENERATE=1"
    );
}
