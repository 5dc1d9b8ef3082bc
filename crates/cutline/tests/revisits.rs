//! Plans that return to a device: asked for, split, verified, and run on agents.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use cutline::fleet::{AgentOptions, AgentProcess};
use serde_json::{Value, json};

/// How a command ended, what it wrote, and what it said.
fn cutline(folder: &Path, line: &str) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.success(), stdout, stderr)
}

/// The same; it must end well.
fn run(folder: &Path, line: &str) -> String {
    let (fine, stdout, stderr) = cutline(folder, line);
    assert!(fine, "{line}\n{stdout}{stderr}");
    stdout
}

/// Two devices at these addresses.
fn platform(folder: &Path, addresses: [&str; 2]) {
    let [pi, cloud] = addresses;
    let text = format!(
        "version = 1\n[[device]]\nname = \"pi\"\npreset = \"rpi4\"\naddress = \"{pi}\"\n\
         [[device]]\nname = \"cloud\"\npreset = \"rpi4\"\naddress = \"{cloud}\"\n\
         [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n"
    );
    fs::write(folder.join("platform.toml"), text).unwrap();
}

#[test]
fn a_plan_that_returns_is_found_verified_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let agents = ["edge", "cloud"].map(|name| {
        let (engine, store) = (Some("rten".to_owned()), folder.join(name));
        let options = AgentOptions { engine, threads: Some(1), store, ..AgentOptions::default() };
        AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_cutline")), &options).unwrap()
    });
    platform(folder, [&agents[0].address.to_string(), &agents[1].address.to_string()]);
    run(folder, "zoo write lenet5 -o net.onnx");
    // Only a plan that comes back to the pi keeps these layers where they are to be.
    let plan = "plan net.onnx --platform platform.toml --pin conv1=pi --pin conv2=cloud --pin fc3=pi -o plan.json --json";
    let (found, _, _) = cutline(folder, plan);
    assert!(!found, "each device once cannot do it");
    let planned: Value = serde_json::from_str(&run(folder, &format!("{plan} --revisits"))).unwrap();
    let devices: Vec<&Value> = planned["best"]["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| &stage["device"])
        .collect();
    assert_eq!(devices, ["pi", "cloud", "pi"]);
    assert_eq!(planned["best"]["proof"], json!("optimal"), "LeNet-5 is small");
    run(folder, "split net.onnx --plan plan.json -o parts");
    run(folder, "verify net.onnx parts");

    let picture = image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * 7 + y * 5) as u8]));
    picture.save(folder.join("x.png")).unwrap();
    let answers = |more: &str| -> Value {
        let line = format!("run net.onnx --plan plan.json --input x.png --json{more}");
        let answer: Value =
            serde_json::from_str(run(folder, &line).lines().next().unwrap()).unwrap();
        answer["outputs"].clone()
    };
    assert!(answers(" --local")[0]["values"].is_array());
    assert_eq!(answers(""), answers(" --local"));
}

#[test]
fn a_front_says_what_it_does_not_prove() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    platform(folder, ["127.0.0.1:9001", "127.0.0.1:9002"]);
    // LeNet-5 is proven, SqueezeNet is too large for that.
    for (name, proven) in [("lenet5", true), ("squeezenet", false)] {
        let size = if proven { "" } else { " --input-size 64" };
        run(folder, &format!("zoo write {name} -o net.onnx{size}"));
        let line = "explore net.onnx --platform platform.toml --revisits --time-limit 20s --json -o report";
        let report: Value = serde_json::from_str(&run(folder, line)).unwrap();
        let front = &report["front"];
        let flags = [&front["complete"], &front["once_complete"]];
        assert_eq!(flags, [&json!(proven), &json!(true)], "{name}: {front}");
        let text = front["proof_text"].as_str().unwrap();
        let expected = if proven { "the front is exact" } else { "not all were looked at" };
        assert!(text.contains(expected), "{name}: {text}");
    }
    let line = "plan net.onnx --platform platform.toml --revisits --scatter";
    let (fine, _, said) = cutline(folder, line);
    assert!(!fine && said.contains("--scatter"), "{said}");
}
