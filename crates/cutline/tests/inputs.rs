//! Where numbers and mappings come from when they are not measured: presets, files of AutoDiCE.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use cutline_core::zoo::{self, ZooOptions};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with LeNet-5 as `net.onnx`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    fs::write(folder.path().join("net.onnx"), model.encode_to_vec()).unwrap();
    folder
}

fn cutline(folder: &Path, arguments: &[&str]) -> (bool, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
    let output = command.current_dir(folder).args(arguments).arg("--json").output().unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.success(), document, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn presets_stand_in_for_profiles() {
    let folder = folder();
    let platform = "version = 1\n[[device]]\nname = \"pi\"\npreset = \"rpi4\"\n\
                    [[device]]\nname = \"cloud\"\npreset = \"c5.large\"\n\
                    [[link]]\nbetween = [\"pi\", \"cloud\"]\npreset = \"wifi-rpi4\"\ndelay = \"9ms\"\n";
    fs::write(folder.path().join("platform.toml"), platform).unwrap();
    let (fine, plan, words) =
        cutline(folder.path(), &["plan", "net.onnx", "--platform", "platform.toml"]);
    assert!(fine, "{words}");
    let split = &plan["best_split"];
    let origins: Vec<&Value> =
        split["stages"].as_array().unwrap().iter().map(|stage| &stage["origin"]).collect();
    assert_eq!(origins, ["preset", "preset"], "{split:#}");
    let link = &plan["platform"]["link"][0];
    assert_eq!((&link["up"], &link["delay"]), (&json!("108000kbit"), &json!("9000us")));
    assert!(plan["baselines"].as_array().unwrap().iter().any(|b| b["name"] == "cloud-uint8"));

    let wrong = platform.replace("rpi4", "rpi44");
    fs::write(folder.path().join("platform.toml"), wrong).unwrap();
    let (fine, _, words) =
        cutline(folder.path(), &["plan", "net.onnx", "--platform", "platform.toml"]);
    assert!(!fine && words.contains("did you mean `rpi4`?"), "{words}");
}

#[test]
fn presets_are_listed_with_their_sources() {
    let folder = tempfile::tempdir().unwrap();
    let (fine, all, _) = cutline(folder.path(), &["presets"]);
    assert!(fine);
    for preset in all["presets"].as_array().unwrap() {
        for figure in preset["figures"].as_array().unwrap() {
            assert!(figure["source"].as_str().is_some_and(|source| source.len() > 10), "{figure}");
            let letter = figure["letter"].as_str().unwrap();
            assert!(["M", "S", "C", "R", "est"].contains(&letter), "{figure}");
        }
    }
    let (fine, one, _) = cutline(folder.path(), &["presets", "rpi5"]);
    assert!(fine);
    assert_eq!(one["presets"].as_array().unwrap().len(), 1);
    let (fine, _, words) = cutline(folder.path(), &["presets", "rpi6"]);
    assert!(!fine && words.contains("rpi5"), "{words}");
}

#[test]
fn a_mapping_of_autodice_is_split_and_verified() {
    let folder = folder();
    let (_, inspected, _) = cutline(folder.path(), &["inspect", "net.onnx"]);
    let names: Vec<String> = inspected["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["name"].as_str().unwrap().to_owned())
        .collect();
    let cut = names.iter().position(|name| name == "pool1").unwrap() + 1;
    let (a, b) = names.split_at(cut);
    let mapping = json!({ "nx01_arm0123": a, "nx02_gpu": b });
    fs::write(folder.path().join("mapping.json"), mapping.to_string()).unwrap();
    fs::write(
        folder.path().join("hosts.txt"),
        "nx01, arm, slots=0-5\nnx02, gpu=NVIDIAVolta (CUDA)\n",
    )
    .unwrap();
    let split = [
        "split",
        "net.onnx",
        "--mapping",
        "mapping.json",
        "--autodice-platform",
        "hosts.txt",
        "-o",
        "parts",
    ];
    let (fine, _, words) = cutline(folder.path(), &split);
    assert!(fine, "{words}");
    let plan = fs::read(folder.path().join("parts/plan.json")).unwrap();
    let plan: Value = serde_json::from_slice(&plan).unwrap();
    assert_eq!(plan["mapping"]["conv1"], "nx01_arm0123");
    assert!(folder.path().join("parts/1-nx02_gpu/1/model.onnx").exists());
    let (fine, verified, words) = cutline(folder.path(), &["verify", "net.onnx", "parts"]);
    assert!(fine, "{words}");
    assert_eq!(verified["outputs"][0]["bit_equal"], true, "{verified:#}");

    fs::write(folder.path().join("hosts.txt"), "nx01, arm, slots=0-2\nnx02\n").unwrap();
    let (fine, _, words) = cutline(folder.path(), &split);
    assert!(!fine && words.contains("uses core 3"), "{words}");
    let mapping = json!({ "nx01_cpu0": a, "nx02_gpu": &b[1..] });
    fs::write(folder.path().join("mapping.json"), mapping.to_string()).unwrap();
    let (fine, _, words) = cutline(
        folder.path(),
        &split[..4].iter().chain(&["-o", "new"]).copied().collect::<Vec<_>>(),
    );
    assert!(!fine && words.contains("is in no list"), "{words}");
}
