//! Compressed cuts from end to end: split, calibrated, verified, run here and on agents.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::zoo::{self, ZooOptions};
use prost::Message;
use serde_json::Value;

/// LeNet-5 as `net.onnx`, a folder of pictures, and a platform.
struct Folder {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("net.onnx");
        let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
        fs::write(&model, lenet.encode_to_vec()).unwrap();
        let here = Self { folder, model };
        fs::create_dir(here.path("pictures")).unwrap();
        for (index, seed) in [97u32, 61, 13, 7, 151].into_iter().enumerate() {
            let noise = image::GrayImage::from_fn(28, 28, |x, y| {
                image::Luma([(x * seed + y * 31 + x * y * seed) as u8])
            });
            noise.save(here.path(&format!("pictures/{index}.png"))).unwrap();
        }
        here.platform("", "");
        here
    }

    /// Two devices with these entries.
    fn platform(&self, edge: &str, cloud: &str) {
        let text = format!(
            "version = 1\n[[device]]\nname = \"pi\"\n{edge}\n[[device]]\nname = \"cloud\"\n{cloud}\n\
             [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n"
        );
        fs::write(self.path("platform.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command on the network.
    fn try_run(&self, name: &str, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        command.arg(name).arg(&self.model).args(arguments).stdin(Stdio::null());
        let output = command.current_dir(self.folder.path()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// The same; it must succeed, and its lines of JSON come back.
    fn run(&self, name: &str, arguments: &[&str]) -> Vec<Value> {
        let (fine, stdout, stderr) = self.try_run(name, &[arguments, &["--json"]].concat());
        assert!(fine, "{name} {arguments:?}\n{stderr}");
        let documents = serde_json::Deserializer::from_str(&stdout).into_iter();
        documents.map(Result::unwrap).collect()
    }

    /// Splits in the middle of the network, with these arguments besides.
    fn split(&self, arguments: &[&str]) -> Value {
        let inspected = self.run("inspect", &[]).remove(0);
        let cuts = inspected["cuts"].as_array().unwrap();
        let at = cuts[cuts.len() / 2]["values"][0].as_str().unwrap().to_owned();
        let fixed = ["--at", at.as_str(), "-o", "parts"];
        self.run("split", &[&fixed[..], arguments].concat()).remove(0)
    }
}

fn values(answer: &Value) -> Vec<f64> {
    serde_json::from_value(answer["outputs"][0]["values"].clone()).unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn compressed_parts_answer_nearly_as_the_whole() {
    let folder = Folder::new();
    let calibrate = ["--calibrate", "pictures"];
    // Codec, its arguments, and how far the outputs may move, relative to the largest.
    let cases: [(&str, &[&str], f64); 5] = [
        ("fp16", &[], 2e-3),
        ("uint8", &calibrate, 5e-2),
        ("bits8", &calibrate, 5e-2),
        ("bits4", &calibrate, 0.3),
        ("bits2", &calibrate, 1.0),
    ];
    for (codec, arguments, tolerance) in cases {
        let report = folder.split(&[&["--codec", codec][..], arguments].concat());
        let sent = report["parts"][0]["outputs"][0].as_str().unwrap();
        assert!(sent.ends_with(&format!(".{codec}")), "{report}");
        assert_eq!(report["parts"][1]["inputs"][0], sent);

        let verify = ["parts", "--input", "pictures/0.png", "--images", "pictures"];
        let report = folder.run("verify", &verify).remove(0);
        assert_eq!(report["cut_encodings"], serde_json::json!([codec]));
        let relative = report["outputs"][0]["relative"].as_f64().unwrap();
        assert!(relative > 0.0 && relative < tolerance, "{codec}: {relative}");
        let agreement = &report["images"]["agreement"];
        assert_eq!(agreement["of"], 5);
        let [low, high] = ["low", "high"].map(|end| agreement[end].as_f64().unwrap());
        let value = agreement["value"].as_f64().unwrap();
        assert!(low <= value && value <= high && high - low < 1.0, "{agreement}");
    }
}

#[test]
fn truth_says_how_often_whole_and_parts_are_right() {
    let folder = Folder::new();
    folder.split(&["--codec", "fp16"]);
    // What the whole network says is declared to be true of all but one picture.
    folder.platform("", "");
    let mut truth = String::new();
    for index in 0..5 {
        let input = format!("pictures/{index}.png");
        folder.split(&["--platform", "platform.toml"]);
        let run = ["--plan", "parts/plan.json", "--local", "--input", &input];
        let scores = values(&folder.run("run", &run)[0]);
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        let class = if index == 4 { (best + 1) % scores.len() } else { best };
        truth.push_str(&format!("{index}.png\t{class}\n"));
    }
    fs::write(folder.path("truth.tsv"), &truth).unwrap();
    let verify = ["parts", "--images", "pictures", "--truth", "truth.tsv"];
    let report = folder.run("verify", &verify).remove(0);
    let accuracy = &report["images"]["accuracy"];
    assert_eq!((&accuracy["whole"]["count"], &accuracy["whole"]["of"]), (&4.into(), &5.into()));
    assert_eq!(accuracy["parts"]["count"], 4, "parts that are not compressed are as right");

    fs::write(folder.path("names.tsv"), truth.replace('\t', "\tclass ")).unwrap();
    let labels: Vec<String> = (0..10).map(|class| format!("class {class}")).collect();
    fs::write(folder.path("labels.txt"), labels.join("\n")).unwrap();
    let named = ["parts", "--images", "pictures", "--truth", "names.tsv"];
    let (fine, _, words) = folder.try_run("verify", &named);
    assert!(!fine && words.contains("--labels"), "{words}");
    let labelled = folder.run("verify", &[&named[..], &["--labels", "labels.txt"]].concat());
    assert_eq!(labelled[0]["images"]["accuracy"], *accuracy);
}

#[test]
fn compressed_plans_run_here_and_on_agents() {
    let folder = Folder::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_cutline"));
    let agents: Vec<AgentProcess> = ["edge", "cloud"]
        .map(|name| {
            let options = AgentOptions {
                engine: Some("rten".to_owned()),
                threads: Some(1),
                store: folder.path(name),
                ..AgentOptions::default()
            };
            AgentProcess::start(binary, &options).unwrap()
        })
        .into();
    let address = |agent: &AgentProcess| format!("address = \"{}\"", agent.address);
    folder.platform(&address(&agents[0]), &address(&agents[1]));
    let input = ["--input", "pictures/1.png"];
    let answers = |codec: &[&str], place: &[&str]| {
        folder.split(&[&["--platform", "platform.toml"][..], codec].concat());
        let plan = ["--plan", "parts/plan.json"];
        values(&folder.run("run", &[&plan[..], &input, place].concat())[0])
    };
    let plain = answers(&[], &["--local"]);
    let largest = plain.iter().copied().fold(0.0, |a: f64, b| a.max(b.abs()));
    let uint8 = ["--codec", "uint8", "--calibrate", "pictures"];
    for (codec, tolerance) in [(&["--codec", "fp16"][..], 2e-3), (&uint8, 5e-2)] {
        let here = answers(codec, &["--local"]);
        let off = distance(&plain, &here) / largest;
        assert!(off > 0.0 && off < tolerance, "{codec:?}: {off}");
        assert_eq!(answers(codec, &[]), here, "{codec:?} on agents");
    }
    // In the entropy code the same bytes come out: exact here and there, and coarser ones take less.
    let fine = ["--codec", "bits8", "--calibrate", "pictures"];
    assert_eq!(answers(&fine, &[]), answers(&uint8, &["--local"]));
    let sent = |codec: &[&str], place: &[&str]| {
        folder.split(&[&["--platform", "platform.toml"][..], codec].concat());
        let run = [&["--plan", "parts/plan.json"][..], &input, place].concat();
        folder.run("run", &run)[0]["trace"]["stages"][1]["bytes_in"].as_u64().unwrap()
    };
    let uncoded = sent(&uint8, &[]);
    // Fine bytes of noise are not shortened, and have one byte in front.
    let mut most = uncoded + 2;
    for codec in ["bits8", "bits4", "bits2"] {
        let arguments = ["--codec", codec, "--calibrate", "pictures"];
        let here = answers(&arguments, &["--local"]);
        assert_eq!(answers(&arguments, &[]), here, "{codec} on agents");
        let bytes = sent(&arguments, &[]);
        assert_eq!(bytes, sent(&arguments, &["--local"]), "{codec}");
        assert!(bytes < most, "{codec}: {bytes} after {most}");
        most = bytes;
    }
    assert!(most * 3 < uncoded, "2 bits a value on average: {most} of {uncoded}");
    // The parts in the folder are those that are run.
    let off = distance(&plain, &answers(&uint8, &["--local"]));
    let verify = folder.run("verify", &[&["parts"][..], &input].concat()).remove(0);
    let written = verify["outputs"][0]["max_abs_diff"].as_f64().unwrap();
    assert!((written - off).abs() < 1e-5);
}

#[test]
fn what_a_codec_lacks_is_named() {
    let folder = Folder::new();
    fs::create_dir(folder.path("empty")).unwrap();
    let inspected = folder.run("inspect", &[]).remove(0);
    let at = inspected["cuts"][1]["values"][0].as_str().unwrap().to_owned();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--codec", "uint8"], &["cannot travel as uint8", "--calibrate"]),
        (&["--codec", "bits2"], &["cannot travel as bits2", "--calibrate"]),
        (&["--codec", "int4"], &["unknown cut encoding `int4`", "fp16"]),
        (&["--codec", "uint8", "--calibrate", "empty"], &["no picture", "empty"]),
        (&["--codec", "uint8", "--calibrate", "net.onnx"], &["is not a folder"]),
        (&["--codec", "uint8", "--calibrate", "absent"], &["is not a folder", "absent"]),
    ];
    for (arguments, words) in cases {
        let fixed = ["--at", at.as_str(), "-o", "parts"];
        let (fine, _, stderr) = folder.try_run("split", &[&fixed[..], arguments].concat());
        assert!(!fine, "{arguments:?}");
        for word in words {
            assert!(stderr.contains(word), "{arguments:?}: {stderr} lacks `{word}`");
        }
        assert!(!folder.path("parts").exists(), "{arguments:?}");
    }
    // A plan that names bytes without their meaning is not run, and can be completed.
    folder.split(&["--platform", "platform.toml", "--codec", "fp16"]);
    let plan = fs::read_to_string(folder.path("parts/plan.json")).unwrap();
    fs::write(folder.path("plan.json"), plan.replace("\"fp16\"", "\"uint8\"")).unwrap();
    let run = ["--plan", "plan.json", "--local", "--input", "pictures/0.png"];
    let (fine, _, stderr) = folder.try_run("run", &run);
    assert!(!fine && stderr.contains("--calibrate"), "{stderr}");
    folder.run("split", &["--plan", "plan.json", "--calibrate", "pictures", "-o", "parts"]);
    folder.run("run", &["--plan", "parts/plan.json", "--local", "--input", "pictures/0.png"]);
}
