//! `cutline run` on frames in a row: where they may come from, what comes out, and the summary.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::zoo::{self, ZooOptions};
use image::{GrayImage, ImageFormat, Luma};
use prost::Message;
use serde_json::Value;

/// LeNet-5 as `net.onnx`, split over two agents by `parts/plan.json`, and a folder of pictures.
struct Folder {
    folder: tempfile::TempDir,
    agents: Vec<AgentProcess>,
}

/// What a run printed.
struct Said {
    fine: bool,
    lines: Vec<Value>,
    stderr: String,
}

impl Said {
    /// The lines of frames, without what differs from run to run.
    fn answers(&self) -> Vec<(u64, &Value)> {
        let lines = self.lines.iter().filter(|line| line["outputs"].is_array());
        lines.map(|line| (line["frame"].as_u64().unwrap(), &line["outputs"])).collect()
    }

    fn summary(&self) -> &Value {
        &self.lines.last().unwrap()["summary"]
    }
}

fn jpeg(seed: u32) -> Vec<u8> {
    let noise = |x: u32, y: u32| Luma([(x * seed + y * 31 + x * y * (seed + 5)) as u8]);
    let mut file = Cursor::new(Vec::new());
    GrayImage::from_fn(28, 28, noise).write_to(&mut file, ImageFormat::Jpeg).unwrap();
    file.into_inner()
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
        fs::write(folder.path().join("net.onnx"), lenet.encode_to_vec()).unwrap();
        fs::create_dir(folder.path().join("pictures")).unwrap();
        for seed in 0..6 {
            fs::write(folder.path().join(format!("pictures/{seed}.jpg")), jpeg(seed)).unwrap();
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_cutline"));
        let agents = ["edge", "cloud"].map(|name| {
            let options = AgentOptions {
                engine: Some("rten".to_owned()),
                threads: Some(1),
                store: folder.path().join(name),
                ..AgentOptions::default()
            };
            AgentProcess::start(binary, &options).unwrap()
        });
        let platform = format!(
            "version = 1\n[[device]]\nname = \"pi\"\naddress = \"{}\"\n[[device]]\n\
             name = \"cloud\"\naddress = \"{}\"\n[[link]]\nbetween = [\"pi\", \"cloud\"]\n\
             up = \"20mbit\"\n",
            agents[0].address, agents[1].address
        );
        fs::write(folder.path().join("platform.toml"), platform).unwrap();
        let here = Self { folder, agents: agents.into() };
        let split = ["--at", "pool1", "--platform", "platform.toml", "-o", "parts"];
        assert!(here.command("split", &split).output().unwrap().status.success());
        here
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        command.arg(name).arg("net.onnx").args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the plan with these arguments, and this on standard input.
    fn run(&self, arguments: &[&str], input: &[u8]) -> Said {
        let fixed = ["--plan", "parts/plan.json"];
        let mut child = self.command("run", &[&fixed[..], arguments].concat()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // The command may end before it has read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        Said {
            fine: output.status.success(),
            lines: stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn frames_are_the_same_from_a_folder_a_pattern_a_stream_and_a_video() {
    let folder = Folder::new();
    let files = folder.run(&["--input", "pictures", "--in-flight", "1"], b"");
    assert!(files.fine, "{}", files.stderr);
    let frames: Vec<u64> = files.answers().iter().map(|(frame, _)| *frame).collect();
    assert_eq!(frames, [0, 1, 2, 3, 4, 5]);
    assert_ne!(files.answers()[0].1, files.answers()[1].1, "the pictures differ");

    let stream: Vec<u8> = (0..6).flat_map(jpeg).collect();
    fs::write(folder.path("video.mjpeg"), &stream).unwrap();
    for (input, local, stdin) in [
        ("pictures", false, &b""[..]),
        ("pictures/?.j*g", false, b""),
        ("-", false, &stream),
        ("video.mjpeg", false, b""),
        ("-", true, &stream),
    ] {
        let local: &[&str] = if local { &["--local"] } else { &[] };
        let said = folder.run(&[&["--input", input][..], local].concat(), stdin);
        assert!(said.fine, "{input}: {}", said.stderr);
        assert_eq!(said.answers(), files.answers(), "{input} {local:?}");
        let name = said.lines[0]["input"].as_str().unwrap();
        assert!(name == input || name == "pictures/0.jpg", "{name}");
    }
}

#[test]
fn a_run_ends_with_its_figures() {
    let folder = Folder::new();
    let said = folder.run(&["--input", "pictures", "--json"], b"");
    assert!(said.fine, "{}", said.stderr);
    assert_eq!(said.lines.len(), 7, "a line for each frame, and the summary");
    assert_eq!(said.lines[3]["trace"]["stages"].as_array().unwrap().len(), 2);
    let summary = said.summary();
    let counts = ["answered", "dropped", "failed"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(counts, [6, 0, 0]);
    let seconds = summary["time_ns"].as_f64().unwrap() / 1e9;
    let rate = summary["frames_per_second"].as_f64().unwrap();
    assert!((rate * seconds - 6.0).abs() < 1e-6, "{summary}");
    let latency = ["p50_ns", "p90_ns", "p99_ns", "max_ns"]
        .map(|key| summary["latency"][key].as_u64().unwrap());
    assert!(latency[0] > 0 && latency.is_sorted(), "{summary}");
    let names = |key: &str| -> Vec<&str> {
        let parts = summary[key].as_array().unwrap().iter();
        parts.map(|part| part["name"].as_str().unwrap()).collect()
    };
    assert_eq!((names("stages"), names("hops")), (vec!["0-pi", "1-cloud"], vec!["pi to cloud"]));

    let said = folder.run(&["--input", "pictures"], b"");
    assert!(said.lines.iter().all(|line| line.get("summary").is_none()));
    for words in ["6 frames answered", "frames per second", "0 dropped, 0 failed", "p99", "pi to"] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
}

#[test]
fn a_frame_that_is_no_picture_is_named_and_the_others_are_answered() {
    let folder = Folder::new();
    let whole = jpeg(1);
    let cut = &whole[..whole.len() - 9];
    let stream = [&whole, cut, &whole, &whole].concat();
    let said = folder.run(&["--input", "-", "--json"], &stream);
    assert!(!said.fine);
    assert!(said.stderr.contains("frame 1 (`-`) was not sent"), "{}", said.stderr);
    let answered: Vec<u64> = said.answers().iter().map(|(frame, _)| *frame).collect();
    assert_eq!(answered, [0, 2, 3]);
    assert!(said.lines.iter().any(|line| line["frame"] == 1 && line["error"].is_string()));
    let summary = said.lines.iter().find_map(|line| line.get("summary")).unwrap();
    assert_eq!((&summary["answered"], &summary["failed"]), (&3.into(), &1.into()));

    // A file of another kind is found out by the device that decodes it.
    fs::write(folder.path("pictures/2.jpg"), b"no picture").unwrap();
    let said = folder.run(&["--input", "pictures"], b"");
    assert!(!said.fine && said.stderr.contains("frame 2 (`pictures/2.jpg`)"), "{}", said.stderr);
    let answered: Vec<u64> = said.answers().iter().map(|(frame, _)| *frame).collect();
    assert_eq!(answered, [0, 1, 3, 4, 5]);
}

#[test]
fn a_camera_that_outruns_the_plan_drops_the_oldest_and_says_so() {
    let folder = Folder::new();
    // All at once, while each frame's answer comes over two connections.
    let stream: Vec<u8> = (0..200).flat_map(|seed| jpeg(seed % 7)).collect();
    let drop = ["--input", "-", "--when-full", "drop-oldest", "--in-flight", "1", "--json"];
    let said = folder.run(&drop, &stream);
    assert!(said.fine, "{}", said.stderr);
    let summary = said.summary();
    let count = |key: &str| summary[key].as_u64().unwrap();
    assert!(count("dropped") > 0, "{summary}");
    assert_eq!(count("answered") + count("dropped"), 200);
    let frames: Vec<u64> = said.answers().iter().map(|(frame, _)| *frame).collect();
    assert_eq!(frames.len() as u64, count("answered"));
    assert!(frames.is_sorted_by(|a, b| a < b), "in order, each once: {frames:?}");
    assert_eq!(frames.last(), Some(&199), "what is run is the newest");
}

#[test]
fn without_a_fallback_a_run_whose_device_dies_ends_with_the_frame_that_was_lost() {
    let mut folder = Folder::new();
    let fixed = ["--plan", "parts/plan.json", "--input", "-", "--in-flight", "2", "--no-fallback"];
    let mut child = folder.command("run", &fixed).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&jpeg(1)).unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert!(line.starts_with("{\"frame\":0,"), "{line}");
    folder.agents[1].kill().unwrap();
    // Standard input stays open: the run ends by itself.
    stdin.write_all(&jpeg(2)).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for words in ["frame 1 (`-`) was not answered", "stage `1-cloud`", "device `cloud`"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
}

#[test]
fn sources_that_are_none_are_refused() {
    let folder = Folder::new();
    let cases: [(&[&str], &[u8], &str); 6] = [
        (&["--input", "-"], b"\0\0\0\x18ftypmp42", "-f mjpeg -"),
        (&["--input", "-", "-"], b"", "given twice"),
        (&["--input", "pictures/*.png"], b"", "no file is named like `pictures/*.png`"),
        (&["--input", "absent.mjpeg"], b"", "cannot use input `absent.mjpeg`"),
        (&["--input", "pictures", "--rate", "0"], b"", "frames per second"),
        (&["--input", "pictures", "--in-flight", "1000"], b"", "from 1 to 48"),
    ];
    for (arguments, stdin, words) in cases {
        let said = folder.run(arguments, stdin);
        assert!(!said.fine && said.stderr.contains(words), "{arguments:?}: {}", said.stderr);
    }
}

#[test]
fn a_trace_has_a_row_for_each_stage_and_link_and_a_slice_for_each_frame() {
    let folder = Folder::new();
    let said = folder.run(&["--input", "pictures", "--trace", "t.json", "--json"], b"");
    assert!(said.fine, "{}", said.stderr);
    let events: Vec<Value> =
        serde_json::from_slice(&fs::read(folder.path("t.json")).unwrap()).unwrap();
    let rows: Vec<&str> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .map(|event| event["args"]["name"].as_str().unwrap())
        .collect();
    for row in ["frames", "0-pi", "pi to cloud", "1-cloud", "cloud to pi"] {
        assert!(rows.contains(&row), "{row} is not in {rows:?}");
    }
    for what in ["frame", "send", "answer"] {
        let frames: Vec<u64> = (0..6)
            .filter(|index| events.iter().any(|event| event["name"] == format!("{what} {index}")))
            .collect();
        assert_eq!(frames, [0, 1, 2, 3, 4, 5], "{what}");
    }
    let computed = events.iter().filter(|event| event["cat"] == "compute").count();
    assert_eq!(computed, 12, "two stages, six frames");
    let refused = folder.run(&["--input", "pictures", "--trace", "absent/t.json"], b"");
    assert!(!refused.fine && refused.stderr.contains("cannot write the trace `absent/t.json`"));
    assert!(refused.answers().is_empty());
}

#[test]
fn lines_now_and_then_say_how_the_run_goes() {
    let folder = Folder::new();
    let said = folder.run(&["--input", "pictures", "--rate", "10", "--status", "150ms"], b"");
    assert!(said.fine, "{}", said.stderr);
    let line = said.stderr.lines().find(|line| line.contains(" frames, ") && line.contains("p99"));
    let line = line.unwrap_or_else(|| panic!("no line in {}", said.stderr));
    for words in ["/s; p50 ", "0-pi ", "pi to cloud ", "1-cloud "] {
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn a_plan_is_left_on_its_agents_and_taken_away() {
    let folder = Folder::new();
    let deploy = |more: &[&str]| -> Value {
        let fixed = ["--plan", "parts/plan.json", "--json"];
        let done = folder.command("deploy", &[&fixed[..], more].concat()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    };
    for _ in 0..2 {
        let deployed = deploy(&[]);
        let stages = deployed["stages"].as_array().unwrap();
        assert_eq!(stages[0]["model"], deployed["model"]);
        for (stage, agent) in stages.iter().zip(&folder.agents) {
            assert_eq!(stage["address"], agent.address.to_string());
        }
    }
    let removed = |document: &Value| -> Vec<bool> {
        let stages = document["stages"].as_array().unwrap();
        stages.iter().map(|stage| stage["removed"].as_bool().unwrap()).collect()
    };
    assert_eq!(removed(&deploy(&["--remove"])), [true, true]);
    assert_eq!(removed(&deploy(&["--remove"])), [false, false]);
}
