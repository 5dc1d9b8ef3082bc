//! `cutline pki`: a controller, an agent that it pairs over the network, a client with a copied folder.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use cutline_core::zoo::{self, ZooOptions};
use prost::Message;
use serde_json::Value;

/// Runs a command in a folder; its exit, JSON and words.
fn cutline(folder: &Path, arguments: &str) -> (bool, Value, String) {
    cutline_of(folder, "", arguments)
}

/// The same with a folder of credentials in the environment.
fn cutline_of(folder: &Path, identity: &str, arguments: &str) -> (bool, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
    let output = command
        .args(arguments.split_whitespace())
        .args(["--json", "--quiet"])
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .env("CUTLINE_IDENTITY", identity)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.success(), json, String::from_utf8(output.stderr).unwrap())
}

/// An agent that is killed when it is dropped.
struct Agent {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    fn start(folder: &Path, listen: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        let identity = ["--pair", "--identity", "board", "--store", "store"];
        command.args(["agent", "--json", "--quiet", "--listen", listen]).args(identity);
        command.current_dir(folder).stdout(Stdio::piped()).env_remove("CUTLINE_IDENTITY");
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn says(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_board_is_paired_and_then_serves_its_controller_only() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    std::fs::write(here.join("net.onnx"), lenet.encode_to_vec()).unwrap();

    // In the user's own folder, as nobody names another.
    let (fine, made, words) = cutline(here, "pki init");
    assert!(fine && made["roles"] == serde_json::json!(["controller"]), "{made} {words}");
    let (fine, _, words) = cutline(here, "pki init");
    assert!(!fine && words.contains("ca.key` exists"), "{words}");

    let mut agent = Agent::start(here, "127.0.0.1:0");
    let waiting = agent.says();
    let address = waiting["pairing"].as_str().unwrap();
    let code = waiting["code"].as_str().unwrap();
    let (fine, _, words) =
        cutline(here, &format!("pki pair {address} --code AAAAA-{}", &code[6..]));
    assert!(!fine && words.contains("was not paired"), "{words}");
    let (fine, paired, words) = cutline(here, &format!("pki pair {address} --code {code}"));
    assert!(fine && paired["name"] == "127.0.0.1", "{paired} {words}");
    let listening = agent.says()["listening"].as_str().unwrap().to_owned();

    let profile = format!("profile net.onnx --agent https://{listening} --budget 20 -o p.json");
    let (fine, _, words) = cutline(here, &profile);
    assert!(fine, "{words}");

    // A client may infer, not have things measured; a stranger may do nothing.
    assert!(cutline(here, "pki issue viewer --role client -o viewer").0);
    let (fine, _, words) = cutline(here, &format!("{profile} --identity viewer"));
    assert!(!fine && words.contains("only a controller may order this"), "{words}");
    assert!(cutline(here, "pki init --identity stranger").0);
    let (fine, _, words) = cutline(here, &format!("{profile} --identity stranger"));
    assert!(!fine && words.contains("another authority"), "{words}");

    // Started again, it is paired already.
    drop(agent);
    let mut agent = Agent::start(here, &listening);
    assert_eq!(agent.says()["listening"].as_str(), Some(listening.as_str()));
    let (_, shown, _) = cutline(here, "pki show --identity board");
    assert_eq!(
        (&shown["roles"][0], &shown["fingerprint"]),
        (&"agent".into(), &paired["fingerprint"])
    );
    let (fine, _, words) = cutline(here, "pki issue more -o more --identity board");
    assert!(!fine && words.contains("is not a controller's folder"), "{words}");
}

#[test]
fn the_environment_names_the_folder_that_the_command_line_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let print = |shown: &Value| shown["fingerprint"].as_str().unwrap().to_owned();
    let (fine, own, words) = cutline(here, "pki init");
    assert!(fine, "{words}");
    let (fine, other, words) = cutline_of(here, "other", "pki init");
    assert!(fine && here.join("other/identity.key").exists(), "{words}");
    assert_ne!(print(&own), print(&other));
    let own_folder = here.join("config/cutline/pki").display().to_string();
    for (environment, argument, expected) in [
        ("", "", &own),
        ("other", "", &other),
        (own_folder.as_str(), "", &own),
        (own_folder.as_str(), "--identity other", &other),
    ] {
        let (fine, shown, words) = cutline_of(here, environment, &format!("pki show {argument}"));
        assert!(fine, "{environment:?} {argument}: {words}");
        assert_eq!(print(&shown), print(expected), "{environment:?} {argument}");
    }

    // A folder that is named must be there, or calls would go unencrypted where they should not.
    let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    std::fs::write(here.join("net.onnx"), lenet.encode_to_vec()).unwrap();
    let profile = "profile net.onnx --agent 127.0.0.1:1 -o p.json";
    let (fine, _, words) = cutline_of(here, "absent", profile);
    assert!(!fine && words.contains("absent"), "{words}");
    let exposed = "agent --listen 0.0.0.0:0 --store store";
    let (fine, _, words) = cutline_of(here, "absent", exposed);
    assert!(!fine && words.contains("absent"), "{words}");

    for command in ["agent", "run", "deploy", "plan", "profile", "bench", "pki init", "pki pair"] {
        let help = Command::new(env!("CARGO_BIN_EXE_cutline"))
            .args(command.split(' '))
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("CUTLINE_IDENTITY"), "{command}: {help}");
    }
}
