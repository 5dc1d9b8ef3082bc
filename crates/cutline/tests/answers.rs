//! What people get to see of an answer: labels, boxes, and what a lossy encoding does to it.
//!
//! Every network runs cut in two, here in this process. Trained networks and photographs are those
//! of `../shared`, beside the project; what needs them says that it skips where they are absent.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

const PLATFORM: &str = "version = 1\n[[device]]\nname = \"pi\"\n[[device]]\nname = \"cloud\"\n\
                        [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n";

/// A network, cut in two by hand.
struct Split {
    folder: tempfile::TempDir,
    model: PathBuf,
}

/// What a command wrote.
struct Said {
    stdout: String,
    stderr: String,
}

impl Split {
    /// Cuts a network at one of its candidate cuts.
    fn new(model: PathBuf, preprocess: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), model }.cut(preprocess)
    }

    fn lenet() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("lenet5.onnx");
        let mut write = command("zoo");
        write.args(["write", "lenet5", "-o"]).arg(&model);
        assert!(write.output().unwrap().status.success());
        Self { folder, model }.cut("unit")
    }

    fn cut(self, preprocess: &str) -> Self {
        let split = self;
        fs::write(split.path("platform.toml"), PLATFORM).unwrap();
        let cuts: Value = serde_json::from_str(&split.run("inspect", &["--json"]).stdout).unwrap();
        let cuts = cuts["cuts"].as_array().unwrap();
        let values = cuts[cuts.len() / 2]["values"].as_array().unwrap();
        let at = values.iter().map(|value| value.as_str().unwrap()).collect::<Vec<_>>().join(",");
        let platform = ["--platform", "platform.toml", "--preprocess", preprocess, "-o", "parts"];
        split.run("split", &[&["--at", at.as_str()][..], &platform].concat());
        split
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command on the network; it must succeed.
    fn run(&self, name: &str, arguments: &[&str]) -> Said {
        let mut command = command(name);
        command.arg(&self.model).args(arguments).current_dir(self.folder.path());
        let output = command.output().unwrap();
        let said = Said {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(output.status.success(), "{command:?}\n{}", said.stderr);
        said
    }

    /// Runs frames through both parts: one document per frame, and the notes.
    fn answers(&self, arguments: &[&str]) -> (Vec<Value>, String) {
        let fixed = ["--plan", "parts/plan.json", "--local"];
        let said = self.run("run", &[&fixed[..], arguments].concat());
        let lines = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
        (lines.collect(), said.stderr)
    }

    /// Has the plan written anew: everything in the cloud, to which the input travels encoded.
    fn send_as(&self, encoding: &str) {
        let mut plan: Value =
            serde_json::from_slice(&fs::read(self.path("parts/plan.json")).unwrap()).unwrap();
        let best = &mut plan["best"];
        best["input_encoding"] = encoding.into();
        for device in best["mapping"].as_object_mut().unwrap().values_mut() {
            *device = "cloud".into();
        }
        plan["best_split"] = Value::Null;
        fs::write(self.path("edited.json"), plan.to_string()).unwrap();
        self.run("split", &["--plan", "edited.json", "-o", "parts"]);
    }
}

fn command(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
    command.arg(name).stdin(Stdio::null());
    command
}

/// A file of the shared folder, if that is there.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    let path = path.canonicalize().ok();
    if path.is_none() {
        eprintln!("skipped: the shared folder is absent");
    }
    path
}

#[test]
fn a_detector_answers_with_boxes() {
    let Some(model) = shared("models/onnx/version-RFB-320.onnx") else { return };
    let Some(faces) = shared("images/coral/face.jpg") else { return };
    let Some(pets) = shared("images/coral/pets.jpg") else { return };
    let split = Split::new(model, "symmetric");
    fs::write(split.path("labels.txt"), "face\n").unwrap();
    let pictures = ["--input", faces.to_str().unwrap(), pets.to_str().unwrap()];
    let with = |more: &[&str]| split.answers(&[&pictures[..], more].concat());

    let (lines, _) = with(&["--labels", "labels.txt"]);
    let found = lines[0]["boxes"].as_array().unwrap();
    // The numbers are those of ONNX Runtime for the whole network, on the picture resized by
    // another library.
    let faces = [
        [0.255, 0.226, 0.434, 0.573],
        [0.508, 0.132, 0.678, 0.474],
        [0.857, 0.333, 0.955, 0.520],
        [0.013, 0.283, 0.098, 0.449],
    ];
    assert_eq!(found.len(), faces.len(), "{found:#?}");
    for (found, face) in found.iter().zip(faces) {
        assert_eq!(found["label"], "face");
        assert!(found["score"].as_f64().unwrap() > 0.9, "{found}");
        for (side, expected) in ["left", "top", "right", "bottom"].iter().zip(face) {
            let actual = found[*side].as_f64().unwrap();
            assert!((actual - expected).abs() < 0.02, "{side} is {actual}, not {expected}");
        }
    }
    assert_eq!(lines[1]["boxes"], serde_json::json!([]), "no person is among the pets");

    let (lines, _) = with(&["--labels", "labels.txt", "--max-iou", "0.9"]);
    assert!(lines[0]["boxes"].as_array().unwrap().len() > faces.len(), "overlaps are wanted");
    let (lines, _) = with(&["--labels", "labels.txt", "--min-score", "0.9999"]);
    assert_eq!(lines[0]["boxes"].as_array().unwrap().len(), 1, "one face is beyond doubt");
    let (lines, _) = with(&[]);
    assert_eq!(lines[0].get("boxes"), None);
    assert_eq!(lines[0]["outputs"][1]["shape"], serde_json::json!([1, 4420, 4]));
}

#[test]
fn a_classifier_answers_with_labels() {
    let Some(model) = shared("models/onnx/squeezenet1.1_imagenet_fp32.onnx") else { return };
    let Some(picture) = shared("images/pelican.jpeg") else { return };
    let Some(labels) = shared("images/imagenet_classes.txt") else { return };
    let split = Split::new(model, "imagenet-bgr");
    let picture = ["--input", picture.to_str().unwrap()];
    let labels = ["--labels", labels.to_str().unwrap(), "--top", "3"];
    let (lines, _) = split.answers(&[&picture[..], &labels].concat());
    let found = lines[0]["labels"].as_array().unwrap();
    assert_eq!((found.len(), &found[0]["label"]), (3, &"pelican".into()), "{found:?}");

    let verify = ["parts", "--json", "--input-encoding", "jpeg"];
    let report = split.run("verify", &[&verify[..], &picture].concat());
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["lossy"]["input_encoding"], "jpeg", "{report}");
    assert_eq!(report["lossy"]["outputs"][0]["same_top1"], true, "{report}");
}

#[test]
fn an_answer_that_labels_do_not_fit_is_printed_as_tensors_with_a_note() {
    let Some(model) = shared("models/onnx/FastestDet.onnx") else { return };
    let Some(picture) = shared("images/coral/pets.jpg") else { return };
    let split = Split::new(model, "unit");
    fs::write(split.path("labels.txt"), "person\n").unwrap();
    let input = ["--labels", "labels.txt", "--input", picture.to_str().unwrap()];
    let (lines, notes) = split.answers(&input);
    assert_eq!(lines[0]["outputs"][0]["shape"], serde_json::json!([1, 85, 22, 22]));
    assert!(notes.contains("the labels are not used"), "{notes}");
}

#[test]
fn what_a_lossy_encoding_does_is_reported() {
    let split = Split::lenet();
    // Noise is what JPEG is worst at.
    let noise = image::GrayImage::from_fn(28, 28, |x, y| {
        image::Luma([(x * 97 + y * 61 + x * y * 13) as u8])
    });
    noise.save(split.path("noise.png")).unwrap();
    let verify = |arguments: &[&str]| {
        let said = split.run("verify", &[&["parts", "--json"][..], arguments].concat());
        (serde_json::from_str::<Value>(&said.stdout).unwrap(), said.stderr)
    };
    let picture = ["--input", "noise.png"];
    let (report, _) = verify(&picture);
    assert_eq!((&report["equal"], report.get("lossy")), (&true.into(), None), "nothing is lossy");
    let (report, _) = verify(&[&picture[..], &["--input-encoding", "uint8"]].concat());
    assert_eq!(report.get("lossy"), None, "uint8 loses nothing");
    let (asked, _) = verify(&[&picture[..], &["--input-encoding", "jpeg"]].concat());
    assert_eq!(asked["equal"], true, "what JPEG does is not the parts' fault");

    let logits = || -> Vec<f64> {
        let (lines, _) = split.answers(&picture);
        serde_json::from_value(lines[0]["outputs"][0]["values"].clone()).unwrap()
    };
    split.send_as("fp32");
    let undamaged = logits();
    split.send_as("jpeg");
    let (planned, _) = verify(&picture);
    assert_eq!(asked, planned, "the plan's encoding is reported unasked");
    let reported = &planned["lossy"]["outputs"][0];
    assert!(reported["name"] == "logits" && reported["same_top1"].is_boolean(), "{planned}");
    let moved = reported["max_abs_diff"].as_f64().unwrap();
    assert!(moved > 0.0, "JPEG loses nothing? {planned}");
    let distance = logits().iter().zip(undamaged).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!((distance - moved).abs() < 1e-6, "runs differ by {distance}, verify says {moved}");

    let (report, notes) = verify(&[]);
    assert_eq!(report.get("lossy"), None);
    assert!(notes.contains("give a picture"), "{notes}");
}
