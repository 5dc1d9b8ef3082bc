//! A plan with a scatter group is split, verified, and run on agents.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use cutline::fleet::{AgentOptions, AgentProcess};
use serde_json::{Value, json};

/// Whether it ended well, and all that it said.
fn cutline(folder: &Path, line: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The layers of one branch of the first block on the cloud, all others on the pi, which joins.
fn give_branch_away(plan: &mut Value) {
    let best = &mut plan["best"];
    for (layer, device) in best["mapping"].as_object_mut().unwrap() {
        *device = json!(if layer.starts_with("fire2.expand1x1") { "cloud" } else { "pi" });
    }
    best["stages"] = json!([
        { "device": "pi", "layers": [], "inputs": [], "outputs": [] },
        { "device": "cloud", "joined_by": "pi", "layers": [], "inputs": [], "outputs": [] } ]);
    plan["best_split"] = plan["best"].clone();
}

#[test]
fn branches_on_two_devices_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = |line: &str| cutline(folder, line);
    let agents = ["pi", "cloud"].map(|name| {
        let (engine, store) = (Some("rten".to_owned()), folder.join(name));
        let options = AgentOptions { engine, threads: Some(1), store, ..AgentOptions::default() };
        AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_cutline")), &options).unwrap()
    });
    let [pi, cloud] = agents.each_ref().map(|agent| agent.address.to_string());
    let platform = format!(
        "version = 1\n[[device]]\nname = \"pi\"\naddress = \"{pi}\"\n\
         [[device]]\nname = \"cloud\"\naddress = \"{cloud}\"\n\
         [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n"
    );
    fs::write(folder.join("platform.toml"), platform).unwrap();
    let (made, said) = run("zoo write squeezenet -o net.onnx --input-size 64");
    assert!(made, "{said}");
    let (_, layers) = run("inspect net.onnx --json");
    let layers: Value = serde_json::from_str(&layers[..=layers.rfind('}').unwrap()]).unwrap();
    let cut = layers["cuts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|cut| cut["values"].as_array().unwrap().len() == 1);
    let cut = cut.unwrap()["values"][0].as_str().unwrap().to_owned();
    let (split, said) =
        run(&format!("split net.onnx --at {cut} --platform platform.toml -o chain"));
    assert!(split, "{said}");

    let text = fs::read_to_string(folder.join("chain/plan.json")).unwrap();
    let mut plan: Value = serde_json::from_str(&text).unwrap();
    give_branch_away(&mut plan);
    fs::write(folder.join("plan.json"), plan.to_string()).unwrap();
    let (split, said) = run("split net.onnx --plan plan.json -o parts");
    assert!(split, "{said}");
    let plan: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("parts/plan.json")).unwrap()).unwrap();
    let stages = plan["best"]["stages"].as_array().unwrap().iter();
    let devices: Vec<(&str, Option<&str>)> = stages
        .map(|stage| (stage["device"].as_str().unwrap(), stage["joined_by"].as_str()))
        .collect();
    assert_eq!(devices, [("pi", None), ("pi", None), ("cloud", Some("pi")), ("pi", None)]);
    let (same, said) = run("verify net.onnx parts");
    assert!(same, "{said}");

    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 99]));
    picture.save(folder.join("x.png")).unwrap();
    let answer = |plan: &str, more: &str| -> Value {
        let line = format!("run net.onnx --plan {plan} --input x.png --json{more}");
        let (ran, said) = run(&line);
        assert!(ran, "{said}");
        serde_json::from_str(said.lines().next().unwrap()).unwrap()
    };
    let whole = answer("chain/plan.json", " --local");
    assert!(whole["outputs"][0]["values"].is_array(), "{whole}");
    for plan in ["plan.json", "parts/plan.json"] {
        let (here, there) = (answer(plan, " --local"), answer(plan, ""));
        assert_eq!(here["outputs"], whole["outputs"], "{plan}");
        assert_eq!(there["outputs"], whole["outputs"], "{plan}");
        // The branch on the cloud is waited for, or the one beside it on the pi.
        let part = |name: &str| there[name].as_u64().unwrap();
        let parts = ["edge_compute_ns", "upload_ns", "cloud_compute_ns", "rest_ns"].map(part);
        assert_eq!(parts.iter().sum::<u64>(), part("latency_ns"));
    }
    let (measured, said) = run("bench net.onnx --plan parts/plan.json --frames 3 --input x.png");
    assert!(measured, "{said}");
}
