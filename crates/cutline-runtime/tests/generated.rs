//! The committed gRPC code is what the files of `proto` generate today.
//!
//! `CUTLINE_REGENERATE=1 cargo test -p cutline-runtime --test generated` writes it anew.

use std::{env, fs, path::Path};

#[test]
fn grpc_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = env::temp_dir().join(format!("cutline-grpc-{}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    let files = ["inference.proto", "control.proto", "otlp.proto"];
    let descriptors = protox::compile(files, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .disable_comments(["."])
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap();
    for (package, file) in [
        ("inference", "inference.rs"),
        ("cutline.v1", "control.rs"),
        ("opentelemetry.proto.collector.trace.v1", "otlp.rs"),
    ] {
        let fresh = fs::read_to_string(out.join(format!("{package}.rs"))).unwrap();
        let committed = root.join("src/wire").join(file);
        if env::var_os("CUTLINE_REGENERATE").is_some() {
            fs::write(&committed, &fresh).unwrap();
        }
        assert!(
            fs::read_to_string(&committed).unwrap_or_default() == fresh,
            "src/wire/{file} is stale: run this test with CUTLINE_REGENERATE=1"
        );
    }
    fs::remove_dir_all(&out).unwrap();
}
