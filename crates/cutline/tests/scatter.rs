//! A plan with a scatter group is split and verified, and not run.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

const PLATFORM: &str = "version = 1\n[[device]]\nname = \"pi\"\naddress = \"127.0.0.1:9001\"\n\
                        [[device]]\nname = \"cloud\"\naddress = \"127.0.0.1:9002\"\n\
                        [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n";

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
fn parts_of_a_scatter_group_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = |line: &str| cutline(folder, line);
    fs::write(folder.join("platform.toml"), PLATFORM).unwrap();
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

    let (ran, said) = run("run net.onnx --plan plan.json --input x.npy");
    assert!(
        !ran && said.contains("scatter groups is not supported yet, plan without --scatter"),
        "{said}"
    );
}
