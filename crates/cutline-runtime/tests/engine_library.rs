//! A library that is not what it should be ends in words, never in a panic or a signal.
//!
//! The library is looked for once per process, so each case asks a fresh process: this one again,
//! with another environment.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use cutline_runtime::engine;

/// What the asked process runs: it prints the state of every engine.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn print_status() {
    for status in engine::available() {
        println!("{} available: {}; {}", status.name, status.available, status.reason);
    }
    match engine::open("onnxruntime-cuda") {
        Ok(engine) => println!("computes on a GPU by {}", engine.version()),
        Err(error) => println!("no GPU: {error}"),
    }
    for name in ["onnxruntime", "litert"] {
        match engine::open(name) {
            Ok(engine) => println!("opened {}", engine.version()),
            Err(error) => println!("refused: {error}"),
        }
    }
}

fn ask(environment: &[(&str, &Path)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "print_status"]);
    for name in ["ORT_DYLIB_PATH", "LITERT_DYLIB_PATH", "XDG_DATA_HOME"] {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } =
        command.envs(environment.iter().copied()).output().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_library_that_is_none_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libonnxruntime.so");
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let cases: [(&str, &[u8]); 3] = [
        ("it is not a shared library", b"garbage, at least sixty-four bytes of it, and then some"),
        ("it is cut short", &own[..own.len() / 3]),
        ("but it", &own),
    ];
    for (words, content) in cases {
        fs::write(&file, content).unwrap();
        let said = ask(&[("ORT_DYLIB_PATH", &file)]);
        assert!(said.contains("onnxruntime available: false"), "{said}");
        assert!(said.contains("onnxruntime-cuda available: false"), "{said}");
        assert!(said.contains(words) && said.contains("ORT_DYLIB_PATH names"), "{said}");
        assert!(said.contains("refused: engine `onnxruntime` is not available"), "{said}");
    }
    let said = ask(&[("ORT_DYLIB_PATH", &folder.path().join("absent.so"))]);
    assert!(said.contains("cannot be read"), "{said}");
}

#[test]
fn an_installed_library_that_is_damaged_says_how_to_get_another() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("cutline/engines/onnxruntime-1.20.0");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("libonnxruntime.so.1.20.0"), b"half of it").unwrap();
    let said = ask(&[("XDG_DATA_HOME", data.path())]);
    assert!(said.contains("cutline engine install onnxruntime"), "{said}");
    assert!(said.contains("libonnxruntime.so.1.20.0"), "{said}");
}

#[test]
fn a_fit_library_is_opened_wherever_it_lies() {
    let Some(library) = std::env::var_os("ORT_DYLIB_PATH") else {
        eprintln!("skipped: ORT_DYLIB_PATH names no library");
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("cutline/engines/onnxruntime-1.20.0");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(&library, folder.join("libonnxruntime.so.1.20.0")).unwrap();
    let said = ask(&[("XDG_DATA_HOME", data.path())]);
    assert!(said.contains("onnxruntime available: true") && said.contains("opened 1."), "{said}");
}

#[test]
fn litert_is_opened_wherever_it_lies_and_stays_until_the_end() {
    let Some(library) = std::env::var_os("LITERT_DYLIB_PATH") else {
        eprintln!("skipped: LITERT_DYLIB_PATH names no library");
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("cutline/engines/litert-9.8.7");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("libLiteRt.so");
    fs::copy(&library, &file).unwrap();
    let said = ask(&[("XDG_DATA_HOME", data.path())]);
    assert!(said.contains("litert available: true") && said.contains("opened 9.8.7"), "{said}");
    fs::write(&file, b"half of it").unwrap();
    let said = ask(&[("XDG_DATA_HOME", data.path())]);
    assert!(said.contains("not a shared library"), "{said}");
    assert!(said.contains("cutline engine install litert"), "{said}");
    let own = std::env::current_exe().unwrap();
    let said = ask(&[("LITERT_DYLIB_PATH", &own)]);
    assert!(said.contains("litert available: false; LITERT_DYLIB_PATH names"), "{said}");
}

/// A GPU is found by computing on it: a library whose part for CUDA is missing, or is there and does
/// not load, is an engine on the processor only.
#[test]
fn a_gpu_is_tried_never_assumed() {
    let Some(library) = std::env::var_os("ORT_DYLIB_PATH") else {
        eprintln!("skipped: ORT_DYLIB_PATH names no library");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libonnxruntime.so");
    fs::copy(&library, &copy).unwrap();
    let said = ask(&[("ORT_DYLIB_PATH", &copy)]);
    assert!(said.contains("no GPU: engine `onnxruntime-cuda` is not available"), "{said}");
    assert!(said.contains("computes on the processor only"), "{said}");
    assert!(said.contains("onnxruntime-gpu"), "{said}");
    fs::write(folder.path().join("libonnxruntime_providers_cuda.so"), b"damaged").unwrap();
    let said = ask(&[("ORT_DYLIB_PATH", &copy)]);
    assert!(said.contains("onnxruntime-cuda available: false; a first run on the GPU"), "{said}");
    assert!(said.contains("opened 1."), "{said}");
}
