//! Kernels measured, a network predicted from them, and planned with that.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Output};

use assert_cmd::Command;

fn cutline(dir: &Path, args: &[&str]) -> Output {
    Command::cargo_bin("cutline").unwrap().current_dir(dir).args(args).output().unwrap()
}

fn succeeds(dir: &Path, args: &[&str]) -> String {
    let output = cutline(dir, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Every line of a command on one line, as its tables wrap text by the width of the terminal.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_network_that_was_never_run_is_planned_and_the_report_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let measure = [
        "kernels",
        "--engine",
        "rten",
        "--threads",
        "1",
        "--kernels",
        "24",
        "--rounds",
        "1",
        "--networks",
        "squeezenet:32,resnet18:32",
        "-o",
        "kernels.json",
    ];
    let told = succeeds(dir, &measure);
    assert!(told.contains("2 networks of families that the fit had not seen"), "{told}");
    succeeds(dir, &["zoo", "write", "mobilenetv2", "--input-size", "32", "-o", "net.onnx"]);
    let predict = ["profile", "net.onnx", "--predict", "kernels.json", "-o", "p.json"];
    let told = words(&succeeds(dir, &predict));
    assert!(told.contains("predicted from kernels.json, not measured"), "{told}");
    let profile: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("p.json")).unwrap()).unwrap();
    assert_eq!(profile["predicted"]["from"][0], "kernels.json");
    assert_eq!(profile["key"]["engine"], "rten");
    let platform = "version = 1\n[[device]]\nname = \"here\"\nprofiles = [\"p.json\"]\n\
        [[device]]\nname = \"there\"\npreset = \"t2.micro\"\n\
        [[link]]\nbetween = [\"here\", \"there\"]\nup = \"8mbit\"\ndown = \"8mbit\"\ndelay = \"1ms\"\n";
    fs::write(dir.join("two.toml"), platform).unwrap();
    let told = words(&succeeds(dir, &["plan", "net.onnx", "--platform", "two.toml"]));
    assert!(told.contains("its time predicted from kernels"), "{told}");
    assert!(
        told.contains("times on `here` with rten are predicted from kernels (median error"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_measured_or_predicted_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    succeeds(dir, &["zoo", "write", "lenet5", "-o", "net.onnx"]);
    fs::write(dir.join("none.json"), r#"{"version":1,"hardware":"x","engine":"rten","engine_version":"1","threads":1,"samples":[]}"#).unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["profile", "net.onnx", "--predict", "none.json", "-o", "p.json"], "no samples"),
        (&["profile", "net.onnx", "--predict", "net.onnx", "-o", "p.json"], "cannot use"),
        (
            &["kernels", "--engine", "rten", "--networks", "resnot:64", "-o", "k.json"],
            "did you mean",
        ),
        (
            &["kernels", "--engine", "rten", "--networks", "resnet18:big", "-o", "k.json"],
            "NAME:PIXELS",
        ),
    ];
    for (args, expected) in cases {
        let output = cutline(dir, args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(expected), "{args:?}: {told}");
    }
}
