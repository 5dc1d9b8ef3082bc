//! What whole numbers bring: networks as TensorFlow Lite files, with floats and in bytes, in every
//! engine, and whether the bytes are the same in all of them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use cutline_core::onnx::ImportOptions;
use cutline_runtime::{
    engine::{self, ModelSource, Session, SharedEngine},
    model::Model,
    tensor::Tensor,
    verify::{random_inputs, run_whole},
};

use super::{
    Verdict,
    fleet::networks,
    measure::{BINARY, median, millis, shared, timed},
    parts::ONE_THREAD,
};

/// Pairs of files of the shared folder, with floats and in bytes.
const TRAINED: [(&str, &str, &str); 2] = [
    ("ResNet-8", "pretrainedResnet", "pretrainedResnet_quant"),
    ("visual wake words", "vww_96_float", "vww_96_int8"),
];
const ZOO: [&str; 3] = ["mobilenetv2", "squeezenet", "resnet50"];
const TURNS: usize = 15;
/// Inputs on which the engines' bytes are compared.
const INPUTS: u64 = 5;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let here = engine::available().into_iter().filter(|status| status.available);
    let engines: Vec<SharedEngine> =
        here.map(|status| engine::open(status.name)).collect::<Result<_, _>>()?;
    println!("one thread, medians of {TURNS} turns in which all take theirs\n");
    println!("| network | engine | floats, ms | bytes, ms | bytes / floats | bytes equal |");
    println!("|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    match shared("models/tflite") {
        None => println!("(the shared models are not here: skipped)"),
        Some(folder) => {
            for (name, float, bytes) in TRAINED {
                let file = |name: &str| folder.join(format!("{name}.tflite"));
                verdicts.push(network(name, [file(float), file(bytes)], &engines)?);
            }
        }
    }
    for name in networks(&ZOO) {
        let dir = tempfile::tempdir()?;
        let float = write(dir.path(), name, "float", &[])?;
        let bytes = write(dir.path(), name, "int8", &["--quantize", "int8"])?;
        verdicts.push(network(name, [float, bytes], &engines)?);
    }
    Ok(Verdict::all(verdicts))
}

fn write(folder: &Path, name: &str, kind: &str, options: &[&str]) -> anyhow::Result<PathBuf> {
    let file = folder.join(format!("{name}-{kind}.tflite"));
    let mut command = Command::new(BINARY);
    let done = command.args(["zoo", "write", name, "-o"]).arg(&file).args(options).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(file)
}

/// A network in one engine.
struct Loaded {
    session: Box<dyn Session>,
    times: Vec<f64>,
}

fn network(name: &str, files: [PathBuf; 2], engines: &[SharedEngine]) -> anyhow::Result<Verdict> {
    let mut models = Vec::new();
    for file in files {
        models.push(Model::open(&file, &ImportOptions::default())?);
    }
    let load = |engine: &SharedEngine, model: &Model| -> anyhow::Result<Loaded> {
        let session = engine.load(&ModelSource::File(model.path.clone()), ONE_THREAD)?;
        Ok(Loaded { session, times: Vec::new() })
    };
    let mut loaded = Vec::new();
    for engine in engines {
        loaded.push([load(engine, &models[0])?, load(engine, &models[1])?]);
    }
    let mut equal = vec![true; engines.len()];
    for seed in 0..INPUTS {
        let inputs = random_inputs(&models[1].graph, seed)?;
        let mut answers: Vec<Vec<(String, Tensor)>> = Vec::new();
        for [_, bytes] in &mut loaded {
            answers.push(run_whole(bytes.session.as_mut(), &models[1].graph, &inputs)?);
        }
        let last = answers.last().context("no engine is here")?;
        for (equal, answer) in equal.iter_mut().zip(&answers) {
            *equal &= answer == last;
        }
    }
    let inputs = [random_inputs(&models[0].graph, 1)?, random_inputs(&models[1].graph, 1)?];
    for turn in 0..=TURNS {
        for pair in &mut loaded {
            for (at, inputs) in inputs.iter().enumerate() {
                let run = || Ok(run_whole(pair[at].session.as_mut(), &models[at].graph, inputs)?);
                let (time, _) = timed(run)?;
                // The first turn warms up.
                if turn > 0 {
                    pair[at].times.push(millis(time));
                }
            }
        }
    }
    for ((engine, pair), equal) in engines.iter().zip(&loaded).zip(&equal) {
        let [float, bytes] = [0, 1].map(|at| median(&pair[at].times));
        let said = if *equal { "yes" } else { "NO" };
        println!(
            "| {name} | {} | {float:.2} | {bytes:.2} | {:.2} | {said} |",
            engine.name(),
            bytes / float
        );
    }
    Ok(Verdict::of(equal.iter().all(|&equal| equal)))
}
