//! TensorFlow Lite models on our engines against what LiteRT answers.
//!
//! `tests/interop/tflite_cases.py` writes the models, their inputs and LiteRT's outputs, with the
//! Python that `CUTLINE_PYTHON` names; without it these tests say that they skip.
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use cutline_core::tensor::DType;
use cutline_runtime::{
    engine::{self, Engine, LoadOptions, ModelSource, SharedEngine},
    tensor::Tensor,
    verify::read_npy,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    runs: usize,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

/// How far an engine is from LiteRT over the runs of a case.
#[derive(Default)]
struct Distance {
    values: usize,
    unequal: usize,
    beyond_one: usize,
    beyond_three: usize,
    worst: f64,
    unlike_best: usize,
}

/// Operators whose integers LiteRT rounds by rules of its own, now and then a step from ours: the
/// first four always; transposed convolutions whose steps are wider than their kernel, means that
/// leave no axis, and operands that are spread over several axes at a half.
const ROUNDED_OTHERWISE: [&str; 7] = [
    "leaky_relu",
    "prelu",
    "reduced-sum",
    "resize-BILINEAR",
    "transposed-kernel2_stride3",
    "mean_of_everything",
    "broadcasts",
];

fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/tflite")
}

/// Models of the shared folder that LiteRT takes.
fn shared_models() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(shared()) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|it| it == "tflite") && !path.ends_with("person_detect.tflite")
    });
    files.sort();
    files
}

fn write_cases(folder: &Path, files: &[PathBuf]) -> Option<Vec<Case>> {
    let Some(python) = env::var_os("CUTLINE_PYTHON") else {
        eprintln!("skipped: CUTLINE_PYTHON names no Python with ai-edge-litert");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/tflite_cases.py");
    let done = Command::new(python).arg(script).arg(folder).args(files).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap())
}

/// The engines of this machine.
fn engines() -> Vec<SharedEngine> {
    ["rten", "onnxruntime", "litert"].iter().filter_map(|name| engine::open(name).ok()).collect()
}

fn read(folder: &Path, run: usize, kind: &str, at: usize) -> Tensor {
    read_npy(&folder.join(format!("{run}.{kind}.{at}.npy"))).unwrap()
}

/// The position of the largest element, where it is the only one.
fn best(values: &[f64]) -> Option<usize> {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut found = values.iter().enumerate().filter(|(_, value)| **value == most);
    let first = found.next().map(|(at, _)| at);
    first.filter(|_| found.next().is_none())
}

fn distance(engine: &dyn Engine, folder: &Path, case: &Case) -> Result<Distance, String> {
    let folder = folder.join(&case.name);
    let model = ModelSource::File(folder.join("model.tflite"));
    let loaded = engine.load(&model, LoadOptions { threads: 1 });
    let mut session = loaded.map_err(|error| error.to_string())?;
    let mut distance = Distance::default();
    for run in 0..case.runs {
        let inputs: Vec<Tensor> =
            (0..case.inputs.len()).map(|at| read(&folder, run, "in", at)).collect();
        let named: Vec<(&str, &Tensor)> =
            case.inputs.iter().map(String::as_str).zip(&inputs).collect();
        let outputs: Vec<&str> = case.outputs.iter().map(String::as_str).collect();
        let answers = session.run(&named, &outputs).map_err(|error| error.to_string())?;
        for (at, answer) in answers.iter().enumerate() {
            let expected = read(&folder, run, "out", at);
            if (expected.dtype(), expected.shape()) != (answer.dtype(), answer.shape()) {
                return Err(format!(
                    "{} {}, LiteRT has {} {}",
                    answer.dtype(),
                    answer.shape(),
                    expected.dtype(),
                    expected.shape()
                ));
            }
            distance.add(&expected, answer);
        }
    }
    Ok(distance)
}

impl Distance {
    fn add(&mut self, expected: &Tensor, answer: &Tensor) {
        let (expected_values, values) = (expected.to_f64(), answer.to_f64());
        for (expected, value) in expected_values.iter().zip(&values) {
            let difference = (expected - value).abs();
            self.values += 1;
            self.unequal += usize::from(expected != value);
            self.beyond_one += usize::from(difference > 1.0);
            self.beyond_three += usize::from(difference > 3.0);
            // Also where one of them is no number.
            self.worst = if difference <= self.worst { self.worst } else { difference };
        }
        let expected_best = best(&expected_values);
        if expected.dtype() == DType::F32 {
            // A difference in the last bits is no other class.
            return;
        }
        if let (Some(expected_best), 2..) = (expected_best, values.len()) {
            let chosen = values[expected_best];
            self.unlike_best += usize::from(values.iter().any(|&value| value > chosen));
        }
    }

    fn is_small(&self, is_float: bool) -> bool {
        match is_float {
            true => self.worst <= 1e-4,
            false => {
                self.beyond_one * 100 <= self.values * 5 && self.beyond_three * 1000 <= self.values
            }
        }
    }
}

/// Models of one operator each, or whole networks. Their integers must all be LiteRT's, but for those
/// of [`ROUNDED_OTHERWISE`].
fn compare(files: &[PathBuf]) {
    let folder = tempfile::tempdir().unwrap();
    let Some(cases) = write_cases(folder.path(), files) else { return };
    assert!(!cases.is_empty());
    let are_networks = !files.is_empty();
    let mut wrong = Vec::new();
    for engine in engines() {
        let (mut of_integers, mut inexact) = (0, Vec::new());
        for case in &cases {
            let name = format!("{} {}", engine.name(), case.name);
            let is_float = read(&folder.path().join(&case.name), 0, "out", 0).dtype() == DType::F32;
            let found = match distance(&*engine, folder.path(), case) {
                Ok(found) => found,
                Err(error) => {
                    wrong.push(format!("{name}: {error}"));
                    continue;
                }
            };
            let line = format!(
                "{name}: of {} values {} unequal, {} beyond one step, {} beyond three, worst {}, \
                 {} other best",
                found.values,
                found.unequal,
                found.beyond_one,
                found.beyond_three,
                found.worst,
                found.unlike_best
            );
            if are_networks {
                println!("{line}");
            }
            of_integers += usize::from(!is_float);
            if !is_float && found.unequal > 0 {
                inexact.push(case.name.as_str());
            }
            let may_differ = ROUNDED_OTHERWISE.iter().any(|op| case.name.starts_with(op));
            let is_inexact = !is_float && found.unequal > 0 && !may_differ;
            let is_unlike = are_networks && found.unlike_best > 0;
            if !found.is_small(is_float) || is_inexact || is_unlike {
                wrong.push(line);
            }
        }
        println!(
            "{}: of {of_integers} models of integers {} answer bit for bit; not: {}",
            engine.name(),
            of_integers - inexact.len(),
            inexact.join(" ")
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_operator_answers_as_in_litert() {
    compare(&[]);
}

#[test]
fn shared_models_answer_as_in_litert() {
    let files = shared_models();
    match files.is_empty() {
        true => eprintln!("skipped: the shared folder is absent"),
        false => compare(&files),
    }
}
