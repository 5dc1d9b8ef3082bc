//! Energy measured by a recording, planned with, and told apart from what is modelled.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use serde_json::Value;

fn cutline(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cutline")).current_dir(dir).args(args).output().unwrap()
}

fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn succeeds(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = cutline(dir, args);
    assert!(output.status.success(), "{args:?}: {}", words(&output.stderr));
    output.stdout
}

fn read(dir: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap()
}

/// A folder with a small network and a recording of five watts.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows: String =
        (0..1200).map(|tenth| format!("{},5.0\n", f64::from(tenth) / 10.0)).collect();
    fs::write(dir.path().join("power.csv"), format!("time_s,power_w\n{rows}")).unwrap();
    succeeds(dir.path(), &["zoo", "write", "lenet5", "-o", "net.onnx"]);
    dir
}

const PROFILE: [&str; 9] =
    ["profile", "net.onnx", "--engine", "rten", "--threads", "1", "--budget", "80", "-o"];

#[test]
fn a_recordings_energy_stands_in_the_profile_and_the_plan_says_measured() {
    let dir = folder();
    let dir = dir.path();
    let measured = [&PROFILE[..], &["here.json", "--meter", "csv:power.csv"]].concat();
    let told = words(&succeeds(dir, &measured));
    assert!(told.contains("measured by csv over") && told.contains("idle included"), "{told}");
    let profile = read(dir, "here.json");
    let energy = &profile["energy"];
    let number = |name: &str| energy[name].as_f64().unwrap();
    assert!((number("idle_uw") - 5e6).abs() < 5e3, "{energy}");
    let watts = number("inference_nj") * number("inferences") / number("time_ns");
    assert!((watts - 5.0).abs() < 0.005, "{energy}");
    // A platform whose own figures are far off on purpose.
    let platform = "version = 1\n[[device]]\nname = \"here\"\npower = \"900W\"\nprofiles = [\"here.json\"]\n\
        [[device]]\nname = \"there\"\npreset = \"rpi4\"\n\
        [[link]]\nbetween = [\"here\", \"there\"]\nup = \"1mbit\"\ndelay = \"5s\"\n";
    fs::write(dir.join("two.toml"), platform).unwrap();
    let plan =
        ["plan", "net.onnx", "--platform", "two.toml", "--pin", "conv1=here", "-o", "plan.json"];
    let told = words(&succeeds(dir, &plan));
    assert!(told.contains("energy of a frame (measured)"), "{told}");
    let best = &read(dir, "plan.json")["best"];
    assert_eq!(best["energy_origin"], serde_json::json!({ "here": "measured" }), "{best}");
    let planned = best["energy_nj"]["here"].as_f64().unwrap();
    // Runs after a rest take longer than runs in a row, and a busy device takes its idle power at least.
    let busy = best["edge_compute_ns"].as_f64().unwrap();
    let expected = number("inference_nj").max(5.0 * busy);
    assert!((planned / expected - 1.0).abs() < 0.01, "{planned}, {expected} expected: {energy}");
    succeeds(dir, &[&PROFILE[..], &["here.json"]].concat());
    assert!(read(dir, "here.json")["energy"].is_null());
    let told = words(&succeeds(dir, &plan));
    assert!(told.contains("energy of a frame (modelled)"), "{told}");
}

#[test]
fn meters_that_are_not_there_are_told_before_anything_is_measured() {
    let dir = folder();
    let dir = dir.path();
    fs::write(dir.join("short.csv"), "time_s,power_w\n0,5\n1,5\n").unwrap();
    fs::write(dir.join("other.csv"), "watts\n5\n").unwrap();
    let cases = [
        ("csv:none.csv", "cannot read `none.csv`"),
        ("csv:other.csv", "the first line must be `time_s,power_w`"),
        ("csv:short.csv", "the recording is 1s long"),
        ("wattmeter", "expected auto, rapl, ina3221, pmic or csv:FILE"),
    ];
    for (meter, expected) in cases {
        let output = cutline(dir, &[&PROFILE[..], &["p.json", "--meter", meter]].concat());
        let told = words(&output.stderr);
        assert!(!output.status.success() && told.contains(expected), "{meter}: {told}");
        assert!(!dir.join("p.json").exists());
    }
}

#[test]
fn an_agent_reads_its_own_sensors_and_no_files() {
    let dir = folder();
    let dir = dir.path();
    let store = tempfile::tempdir().unwrap();
    let options = AgentOptions { store: store.path().to_owned(), ..AgentOptions::default() };
    let agent = AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_cutline")), &options).unwrap();
    let there = ["p.json", "--agent", &agent.plain(), "--meter", "csv:power.csv"];
    let output = cutline(dir, &[&PROFILE[..], &there].concat());
    let told = words(&output.stderr);
    assert!(!output.status.success() && told.contains("an agent plays no recordings"), "{told}");
}

#[test]
fn the_doctor_says_which_meters_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let found: Value =
        serde_json::from_slice(&succeeds(dir.path(), &["doctor", "--json"])).unwrap();
    let meters: Vec<&Value> =
        found.as_array().unwrap().iter().filter(|f| f["check"] == "energy meter").collect();
    assert!(!meters.is_empty());
    for meter in meters {
        let said = meter["found"].as_str().unwrap();
        assert!(
            ["none (rapl, ina3221, pmic", "rapl (", "ina3221 (", "pmic ("]
                .iter()
                .any(|known| said.starts_with(known)),
            "{said}"
        );
    }
}
