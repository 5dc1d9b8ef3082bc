//! Plans over TensorFlow Lite files: split into such files, verified, and run on agents with LiteRT,
//! alone and beside another engine.
//!
//! Needs the shared models, and LiteRT's library; says that it skips where one is absent.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_runtime::engine;
use serde_json::Value;

/// A network of some milliseconds, its input's shape, and a tensor in it to cut at.
const MODEL: &str = "pretrainedResnet_quant.tflite";
const SHAPE: &str = "(1, 32, 32, 3)";

fn model() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/tflite");
    let path = folder.join(MODEL);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    let opened = engine::open("litert").inspect_err(|error| eprintln!("skipped: {error}"));
    opened.is_ok().then_some(path)
}

/// How a command ended, what it wrote, and what it said.
fn cutline(folder: &Path, line: &str) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
    let output = command.args(line.split(' ')).current_dir(folder).output().unwrap();
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

fn json(folder: &Path, line: &str) -> Value {
    let text = run(folder, line);
    serde_json::from_str(text.lines().next().filter(|l| l.ends_with('}')).unwrap_or(&text)).unwrap()
}

/// Any bytes as the network's input.
fn write_input(folder: &Path) {
    let header = format!("{{'descr': '|i1', 'fortran_order': False, 'shape': {SHAPE}, }}");
    let header = format!("{header:<117}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend((0..32 * 32 * 3u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8));
    fs::write(folder.join("x.npy"), file).unwrap();
}

/// The model, an input, and the network's first and last layer.
fn prepare() -> Option<(tempfile::TempDir, String, String)> {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model()?, folder.path().join("net.tflite")).unwrap();
    write_input(folder.path());
    let model = cutline_runtime::model::Model::open(
        &folder.path().join("net.tflite"),
        &cutline_core::onnx::ImportOptions::default(),
    );
    let groups = model.unwrap().grouping.dag.groups().to_vec();
    let name = |at: usize| groups[at].layers.last().unwrap().clone();
    Some((folder, name(0), name(groups.len() - 1)))
}

#[test]
fn parts_of_either_format_answer_as_the_whole() {
    let Some((folder, ..)) = prepare() else { return };
    let folder = folder.path();
    let cuts = json(folder, "inspect net.tflite --json");
    let candidates = cuts["cuts"].as_array().unwrap();
    let middle = &candidates[candidates.len() / 2];
    let at = middle["values"][0]["name"].as_str().or(middle["values"][0].as_str()).unwrap();
    for (format, file) in [("tflite", "model.tflite"), ("onnx", "model.onnx")] {
        let parts = format!("split net.tflite --at {at} --format {format} -o {format}");
        run(folder, &parts);
        assert!(folder.join(format).join("0-part/1").join(file).exists());
        let config = fs::read_to_string(folder.join(format).join("1-part/config.pbtxt")).unwrap();
        assert!(config.contains(at), "{config}");
        for engine in ["litert", "rten"] {
            let line = format!("verify net.tflite {format} --input x.npy --engine {engine} --json");
            match (format, engine) {
                ("onnx", "litert") => {
                    let (fine, _, said) = cutline(folder, &line);
                    assert!(!fine && said.contains("TensorFlow Lite files only"), "{said}");
                }
                _ => {
                    let report = json(folder, &line);
                    assert_eq!(report["outputs"][0]["bit_equal"], Value::Bool(true), "{report}");
                }
            }
        }
    }
    let (fine, _, said) =
        cutline(folder, &format!("split net.tflite --at {at} --format tflite --codec fp16 -o x"));
    assert!(!fine && said.contains("a quarter of that"), "{said}");
    run(folder, "zoo write lenet5 -o net.onnx");
    let (fine, _, said) = cutline(folder, "split net.onnx --at pool1 --format tflite -o x");
    assert!(!fine && said.contains("no TensorFlow Lite file"), "{said}");
}

#[test]
fn a_plan_with_litert_runs_on_agents_as_the_whole_does_here() {
    let Some((folder, first, last)) = prepare() else { return };
    let folder = folder.path();
    for engine in ["litert", "rten"] {
        run(
            folder,
            &format!(
                "profile net.tflite --engine {engine} --threads 1 --budget 40 --time 1s -o {engine}.json"
            ),
        );
    }
    let answers: Vec<Value> = [["litert", "litert"], ["rten", "litert"], ["litert", "rten"]]
        .into_iter()
        .map(|engines| {
            let agents = engines.map(|engine| {
                let store = folder.join(format!("{}-{engine}", engines.concat()));
                let engine = Some(engine.to_owned());
                let options =
                    AgentOptions { engine, threads: Some(1), store, ..AgentOptions::default() };
                AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_cutline")), &options).unwrap()
            });
            let device = |name: &str, at: usize| {
                let address = agents[at].address;
                let profile = engines[at];
                format!(
                    "[[device]]\nname = \"{name}\"\nprofiles = [\"{profile}.json\"]\naddress = \"{address}\"\n"
                )
            };
            let text = format!(
                "version = 1\n{}{}[[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n",
                device("pi", 0),
                device("cloud", 1)
            );
            fs::write(folder.join("platform.toml"), text).unwrap();
            let plan = format!(
                "plan net.tflite --platform platform.toml --pin {first}=pi --pin {last}=cloud -o plan.json"
            );
            let planned = json(folder, &format!("{plan} --json"));
            assert_eq!(planned["best"]["stages"].as_array().unwrap().len(), 2);
            let (fine, _, said) = cutline(folder, &format!("{plan} --cut-encoding fp16"));
            assert!(!fine && said.contains("a quarter of fp32"), "{said}");
            run(folder, "split net.tflite --plan plan.json -o parts");
            let files: Vec<_> = ["0-pi", "1-cloud"].map(|p| folder.join("parts").join(p)).into();
            assert!(files.iter().all(|part| part.join("1/model.tflite").exists()));
            let here = json(folder, "run net.tflite --plan plan.json --input x.npy --json --local");
            let there = json(folder, "run net.tflite --plan plan.json --input x.npy --json");
            assert_eq!(here["outputs"], there["outputs"], "{engines:?}");
            assert!(there["outputs"][0]["values"].is_array(), "{there}");
            there["outputs"].clone()
        })
        .collect();
    // LiteRT in both parts is LiteRT on the whole.
    let mut whole = engine::open("litert")
        .unwrap()
        .load(
            &engine::ModelSource::File(folder.join("net.tflite")),
            engine::LoadOptions { threads: 1 },
        )
        .unwrap();
    let x = cutline_runtime::verify::read_npy(&folder.join("x.npy")).unwrap();
    let expected = whole.run(&[("input_1_int8", &x)], &["Identity_int8"]).unwrap().remove(0);
    let expected: Vec<f64> = expected.data().iter().map(|&byte| f64::from(byte as i8)).collect();
    let values = |answer: &Value| -> Vec<f64> {
        answer[0]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    assert_eq!(values(&answers[0]), expected);
    // Another engine rounds otherwise, by a step or two of quantisation.
    for answer in &answers[1..] {
        let differences = values(answer).into_iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(differences.fold(0.0, f64::max) <= 3.0, "{answer} {expected:?}");
    }
}
