//! Plans under a limit of agreement: what travels compressed is what the pictures allow.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// A slow link between a board and a cloud: every byte counts.
const PLATFORM: &str = "version = 1\n[[device]]\nname = \"pi\"\npreset = \"rpi4\"\n\
                        [[device]]\nname = \"cloud\"\npreset = \"c5.large\"\n\
                        [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"2mbit\"\n";

struct Folder {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Folder {
    fn new(model: &str) -> Option<Self> {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
        let Ok(model) = shared.join("models/onnx").join(model).canonicalize() else {
            eprintln!("skipped: the shared folder is absent");
            return None;
        };
        let here = Self { folder: tempfile::tempdir().unwrap(), model };
        fs::write(here.path("platform.toml"), PLATFORM).unwrap();
        fs::create_dir(here.path("photos")).unwrap();
        for photo in ["pelican.jpeg", "burger.jpg", "bald_eagle.jpeg", "coral/owl.jpg"] {
            let name = Path::new(photo).file_name().unwrap();
            let to = here.path("photos").join(name);
            fs::copy(shared.join("images").join(photo), to).unwrap();
        }
        Some(here)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, name: &str, arguments: &[&str]) -> (bool, Value, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        command.arg(name).arg(&self.model).args(arguments).arg("--json").stdin(Stdio::null());
        let output = command.current_dir(self.folder.path()).output().unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.success(), document, String::from_utf8(output.stderr).unwrap())
    }

    /// Plans with these arguments; the input must stay on the board, so that something is cut.
    fn plan(&self, arguments: &[&str]) -> (bool, Value, String) {
        let fixed = ["--platform", "platform.toml", "--private", "conv1_2", "-o", "plan.json"];
        self.run("plan", &[&fixed[..], &["--preprocess", "imagenet-bgr"], arguments].concat())
    }
}

#[test]
fn compressed_plans_are_allowed_as_far_as_the_pictures_agree() {
    let Some(folder) = Folder::new("squeezenet1.1_imagenet_fp32.onnx") else { return };
    let (fine, plain, words) = folder.plan(&[]);
    assert!(fine, "{words}");
    let split = &plain["best_split"];
    assert_eq!(split["stages"][0]["cut_encoding"], "fp32", "nothing lossy unless it is allowed");
    assert_eq!(split.get("agreement"), None);

    let images = ["--images", "photos"];
    let (fine, easy, words) = folder.plan(&[&["--limit", "agreement=0"][..], &images].concat());
    assert!(fine, "{words}");
    let split = &easy["best_split"];
    assert_eq!(split["stages"][0]["cut_encoding"], "uint8", "{words}");
    assert!(split["latency_ns"].as_u64() < plain["best_split"]["latency_ns"].as_u64());
    assert_eq!(split["proof"], json!("optimal"));
    assert_eq!(
        split["quantizations"].as_object().unwrap().len(),
        split["cut"].as_array().unwrap().len()
    );
    let agreement = &split["agreement"];
    assert_eq!(agreement["of"], 4);
    let end = |key: &str| agreement[key].as_u64().unwrap();
    assert!(end("low_ppm") < end("high_ppm") && end("high_ppm") <= 1_000_000);
    assert_eq!(agreement["images_sha256"].as_str().unwrap().len(), 64);

    // The very plan runs, and its parts agree as often as it says.
    let (fine, _, words) =
        folder.run("split", &["--plan", "plan.json", "--best-split", "-o", "parts"]);
    assert!(fine, "{words}");
    let (fine, report, words) = folder.run("verify", &["parts", "--images", "photos"]);
    assert!(fine, "{words}");
    assert_eq!(report["images"]["agreement"]["count"], agreement["count"]);
    let run = ["--plan", "plan.json", "--best-split", "--local", "--input", "photos/pelican.jpeg"];
    let (fine, _, words) = folder.run("run", &run);
    assert!(fine, "{words}");

    let (fine, strict, words) = folder.plan(&[&["--limit", "agreement=1"][..], &images].concat());
    assert!(fine, "{words}");
    let agreement = &strict["best_split"]["agreement"];
    assert!(agreement.is_null() || agreement["count"] == agreement["of"], "{agreement}");
    assert!(
        strict["best_split"]["latency_ns"].as_u64() >= easy["best_split"]["latency_ns"].as_u64()
    );
}

#[test]
fn an_agreement_that_cannot_be_measured_is_refused() {
    let Some(folder) = Folder::new("squeezenet1.1_imagenet_fp32.onnx") else { return };
    fs::create_dir(folder.path("empty")).unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["--limit", "agreement=0.99"], "--images"),
        (&["--limit", "agreement=99", "--images", "photos"], "from 0 to 1"),
        (&["--limit", "agreement", "--images", "photos"], "agreement=0.99"),
        (&["--limit", "agreement=0.9", "--images", "empty"], "no picture"),
    ];
    for (arguments, words) in cases {
        let (fine, _, stderr) = folder.plan(arguments);
        assert!(!fine && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    let explore = ["--platform", "platform.toml", "--limit", "agreement=0.9", "-o", "report"];
    let (fine, _, stderr) = folder.run("explore", &explore);
    assert!(!fine && stderr.contains("cutline plan"), "{stderr}");
    let detector = Folder::new("FastestDet.onnx").unwrap();
    let plan = ["--platform", "platform.toml", "--limit", "agreement=0.9", "--images", "photos"];
    let cut = ["--private", "Relu_1", "--ban", "Sigmoid=pi", "--cut-encoding", "fp16"];
    let (fine, _, stderr) = detector.run("plan", &[&plan[..], &cut].concat());
    assert!(!fine && stderr.contains("no list of scores"), "{stderr}");
}
