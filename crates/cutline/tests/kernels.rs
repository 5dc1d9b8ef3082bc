//! Kernels measured, a network predicted from them, and planned with that.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Output};

use assert_cmd::Command;
use cutline::fleet::{AgentOptions, AgentProcess};
use serde_json::Value;

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
    let plan = ["plan", "net.onnx", "--platform", "two.toml", "-o", "plan.json"];
    let told = words(&succeeds(dir, &plan));
    assert!(told.contains("its time predicted from kernels"), "{told}");
    assert!(
        told.contains("times on `here` with rten are predicted from kernels (median error"),
        "{told}"
    );
    let file: Value = serde_json::from_slice(&fs::read(dir.join("plan.json")).unwrap()).unwrap();
    let printed: Value =
        serde_json::from_str(&succeeds(dir, &[&plan[..], &["--json"]].concat())).unwrap();
    for plan in [file, printed] {
        let stages = plan["best"]["stages"].as_array().unwrap();
        assert!(stages.iter().any(|stage| stage["device"] == "here"), "{stages:?}");
        for stage in stages {
            let expected = match stage["device"].as_str() {
                Some("here") => (&profile["predicted"]["median_permille"], "predicted"),
                _ => (&Value::Null, "preset"),
            };
            assert_eq!((&stage["error_permille"], stage["origin"].as_str().unwrap()), expected);
        }
    }
}

#[test]
fn memory_of_a_network_that_was_never_run_is_predicted_with_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let networks = "squeezenet:64,resnet18:64,mobilenetv2:64,shufflenetv2:64,densenet121:64";
    let measure = [
        "kernels",
        "--engine",
        "rten",
        "--threads",
        "1",
        "--kernels",
        "0",
        "--rounds",
        "1",
        "--networks",
        networks,
        "-o",
        "k.json",
    ];
    let told = words(&succeeds(dir, &measure));
    let sweep: Value = serde_json::from_slice(&fs::read(dir.join("k.json")).unwrap()).unwrap();
    if sweep["engine_bytes"].is_null() {
        println!("skipped: this system does not say what a process has");
        return;
    }
    assert!(told.contains("memory of a network:") && told.contains("families left out"), "{told}");
    succeeds(dir, &["zoo", "write", "resnet50", "--input-size", "64", "-o", "net.onnx"]);
    let told =
        words(&succeeds(dir, &["profile", "net.onnx", "--predict", "k.json", "-o", "p.json"]));
    assert!(
        told.contains("5 networks of families that the fit had not seen were off by"),
        "{told}"
    );
    succeeds(
        dir,
        &[
            "profile",
            "net.onnx",
            "--engine",
            "rten",
            "--threads",
            "1",
            "--budget",
            "20",
            "--time",
            "5s",
            "-o",
            "m.json",
        ],
    );
    let of = |file: &str| {
        let profile: Value = serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap();
        profile["memory"].clone()
    };
    let platform = "version = 1\n[[device]]\nname = \"here\"\nprofiles = [\"p.json\"]\n";
    fs::write(dir.join("one.toml"), platform).unwrap();
    let plan = ["plan", "net.onnx", "--platform", "one.toml", "-o", "plan.json"];
    let told = words(&succeeds(dir, &plan));
    assert!(told.contains("its memory too (median error"), "{told}");
    let plan: Value = serde_json::from_slice(&fs::read(dir.join("plan.json")).unwrap()).unwrap();
    let (predicted, measured) = (of("p.json"), of("m.json"));
    let stage = &plan["best"]["stages"][0];
    assert_eq!(stage["memory_error_permille"], predicted["predicted"]["median_permille"]);
    let engine = sweep["engine_bytes"].as_u64().unwrap();
    let expected = engine + predicted["network_bytes"].as_u64().unwrap();
    assert_eq!(plan["best"]["memory"]["here"], expected, "the whole takes what is predicted");
    assert_eq!(predicted["counted_bytes"], measured["counted_bytes"]);
    assert_eq!(predicted["predicted"]["count"], 5);
    assert!(measured["predicted"].is_null());
    let bytes = |memory: &Value| memory["network_bytes"].as_f64().unwrap();
    let ratio = bytes(&predicted) / bytes(&measured);
    assert!(ratio > 0.7 && ratio < 1.5, "{predicted} predicted, {measured} measured");
}

#[test]
fn an_agent_measures_kernels_at_its_pace_within_its_bounds() {
    let store = tempfile::tempdir().unwrap();
    let options = AgentOptions {
        store: store.path().to_owned(),
        slowdown: Some(3.0),
        threads: Some(1),
        ..AgentOptions::default()
    };
    let agent = AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_cutline")), &options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let small = ["--kernels", "6", "--rounds", "1", "--networks", "squeezenet:32"];
    let kernels = |more: &[&str]| {
        let base = ["kernels", "--engine", "rten", "-o", "k.json"];
        cutline(dir, &[&base[..], &small[..], more].concat())
    };
    let sweep =
        || -> Value { serde_json::from_slice(&fs::read(dir.join("k.json")).unwrap()).unwrap() };
    assert!(kernels(&["--agent", &agent.plain()]).status.success());
    let there = sweep();
    assert!(kernels(&["--threads", "1"]).status.success());
    let here = sweep();
    for name in ["hardware", "engine", "engine_version", "threads"] {
        assert_eq!(there[name], here[name], "{name}");
    }
    let network = |sweep: &Value| {
        let samples = sweep["samples"].as_array().unwrap();
        let found = samples.iter().find(|sample| sample["network"] == "squeezenet").unwrap();
        found["time_ns"].as_f64().unwrap()
    };
    // A single round on a machine that does other work: three times, but not exactly.
    let ratio = network(&there) / network(&here);
    assert!(ratio > 1.2, "the agent is {ratio} times slower");
    let output = kernels(&["--agent", "127.0.0.1:1"]);
    let told = words(&String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && told.contains("not reachable"), "{told}");
    let refused: [(&[&str], &str); 2] = [
        (&["--engine", "none", "--kernels", "6"], "this agent has no engine `none`"),
        (&["--engine", "rten", "--kernels", "5000"], "at most 4096"),
    ];
    for (what, expected) in refused {
        let rest = ["--networks", "", "--agent", &agent.plain(), "-o", "other.json"];
        let output = cutline(dir, &[&["kernels"], what, &rest[..]].concat());
        let told = words(&String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && told.contains(expected), "{what:?}: {told}");
        assert!(!dir.join("other.json").exists());
    }
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
