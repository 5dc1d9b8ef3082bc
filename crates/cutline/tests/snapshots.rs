//! What commands print, as people and programs see it, compared word for word.
//!
//! Only what is the same on every machine: no times, no paths. Where a change is wanted,
//! `INSTA_UPDATE=always cargo test -p cutline --test snapshots` and `git diff` show it.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    process::{Command, Stdio},
};

const PLATFORM: &str = "version = 1\n[[device]]\nname = \"pi\"\naddress = \"127.0.0.1:9001\"\n\
                        [[device]]\nname = \"cloud\"\naddress = \"127.0.0.1:9002\"\n\
                        [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\ndelay = \"10ms\"\n";

/// A folder with a network of the zoo in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.0.path().join("platform.toml"), PLATFORM).unwrap();
        folder.cutline("zoo write lenet5 -o lenet5.onnx");
        folder
    }

    /// The command line, how it ended, and what it wrote.
    fn cutline(&self, line: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_cutline"))
            .args(line.split(' '))
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut said = format!("$ cutline {line}\n");
        for (name, stream) in [("", &output.stdout), ("--- stderr\n", &output.stderr)] {
            let text = String::from_utf8_lossy(stream);
            if !text.is_empty() {
                said += name;
                // Columns are padded to their width; snapshots are kept without what nobody sees.
                said.extend(text.lines().map(|line| format!("{}\n", line.trim_end())));
            }
        }
        said + &format!("--- exit code {}\n", output.status.code().unwrap())
    }
}

#[test]
fn inspect() {
    let folder = Folder::new();
    insta::assert_snapshot!("inspect", folder.cutline("inspect lenet5.onnx"));
    insta::assert_snapshot!("inspect_json", folder.cutline("inspect lenet5.onnx --json"));
}

#[test]
fn split() {
    let folder = Folder::new();
    let two_cuts = "split lenet5.onnx --at pool1 --at fc1.relu -o three";
    insta::assert_snapshot!("split", folder.cutline(two_cuts));
    let with_devices = "split lenet5.onnx --at pool1 --platform platform.toml -o parts --json";
    insta::assert_snapshot!("split_json", folder.cutline(with_devices));
    let plan = fs::read_to_string(folder.0.path().join("parts/plan.json")).unwrap();
    let mut plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    // The planner's settings, of which none was used.
    plan.as_object_mut().unwrap().remove("request").unwrap();
    insta::assert_snapshot!("plan_by_hand", serde_json::to_string_pretty(&plan).unwrap());
}

#[test]
fn verify() {
    let folder = Folder::new();
    folder.cutline("split lenet5.onnx --at pool1 -o parts");
    insta::assert_snapshot!("verify", folder.cutline("verify lenet5.onnx parts --seed 1"));
}

#[test]
fn scatter() {
    let folder = Folder::new();
    let platform = "version = 1\n[[device]]\nname = \"pi\"\n[[device]]\nname = \"hub\"\n[[device]]\nname = \"cloud\"\n\
                    [[link]]\nbetween = [\"pi\", \"hub\"]\nup = \"8gbit\"\n[[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"8gbit\"\n";
    let layer = |name: &str, reads: &[&str], nanos: u64| {
        serde_json::json!({ "name": name, "inputs": reads, "output_bytes": 100,
            "time_ns": { "pi": nanos, "hub": nanos, "cloud": nanos } })
    };
    let layers = [
        layer("stem", &[], 50),
        layer("left", &["stem"], 5000),
        layer("middle", &["stem"], 4000),
        layer("right", &["stem"], 6000),
        layer("concat", &["left", "middle", "right"], 10),
    ];
    let costs = serde_json::json!({ "version": 1, "input": { "fp32": 90000 }, "layers": layers,
        "outputs": ["concat"] });
    fs::write(folder.0.path().join("three.toml"), platform).unwrap();
    fs::write(folder.0.path().join("costs.json"), costs.to_string()).unwrap();
    let line = "plan --costs costs.json --platform three.toml --scatter";
    insta::assert_snapshot!("scatter", folder.cutline(line));
}

#[test]
fn errors() {
    let folder = Folder::new();
    folder.cutline("split lenet5.onnx --at pool1 -o parts");
    let lines = [
        "inspect lenet6.onnx",
        "split lenet5.onnx --at pool3 -o out",
        "split lenet5.onnx --at pool2 --at pool1 -o out",
        "run lenet5.onnx --plan parts/plan.json --input x.npy --json",
        "zoo write lenet -o x.onnx",
        "agent --listen 0.0.0.0:9001",
    ];
    let said: Vec<String> = lines.iter().map(|line| folder.cutline(line)).collect();
    insta::assert_snapshot!("errors", said.join("\n"));
}
