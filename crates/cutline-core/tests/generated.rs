//! The committed code is what `proto/onnx.proto` and `proto/tflite.fbs` generate today.
//!
//! `CUTLINE_REGENERATE=1 cargo test -p cutline-core --test generated` writes it anew.
#![allow(clippy::unwrap_used)]

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
    assert_fresh("src/onnx/proto.rs", &fresh);
}

#[test]
fn tflite_code_is_fresh() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tflite.fbs");
    let tables = planus_translation::translate_files(&[schema]).unwrap();
    let code = planus_codegen::generate_rust(&tables, false).unwrap();
    // Its comments name the schema by the path it has here.
    let lines = code.lines().map(str::trim_end);
    let kept = lines.filter(|line| !line.is_empty() && !line.trim_start().starts_with("//"));
    let fresh: String = kept.flat_map(|line| [line, "\n"]).collect();
    assert_fresh(
        "src/tflite/schema.rs",
        &fresh.replace("::serde::Serialize, ::serde::Deserialize", ""),
    );
}

/// Fails where a committed file, relative to the crate, differs from what is generated today, or
/// writes it.
fn assert_fresh(committed: &str, fresh: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(committed);
    if env::var_os("CUTLINE_REGENERATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == fresh,
        "{committed} is stale: run this test with CUTLINE_REGENERATE=1"
    );
}
