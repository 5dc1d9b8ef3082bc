//! Every candidate cut of every network, on every engine: parts against the whole.

use std::path::PathBuf;

use cutline_core::{cut::candidate_cuts, onnx::ImportOptions, tensor::DType};
use cutline_runtime::{
    engine::ModelSource,
    model::Model,
    verify::{compare, run_parts, run_whole},
};

use super::{
    Verdict,
    inputs::typical,
    measure::{shared, zoo},
    parts::{ONE_THREAD, engines, load},
};

const ZOO: [&str; 5] = ["squeezenet", "mobilenetv2", "resnet18", "lenet5", "densenet121"];

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let mut models: Vec<PathBuf> = Vec::new();
    match shared("models/onnx") {
        Some(folder) => {
            let files = folder.read_dir()?.filter_map(|entry| Some(entry.ok()?.path()));
            models.extend(files.filter(|path| !path.ends_with("candy.onnx")));
        }
        None => println!("(the shared models are not here: skipped)"),
    }
    models.sort();
    for name in ZOO {
        models.push(zoo(dir.path(), name)?);
    }
    println!("| network | engine | cuts | largest relative difference | target | bit-equal cuts |");
    println!("|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for path in models {
        verdicts.push(network(&path)?);
    }
    Ok(Verdict::all(verdicts))
}

fn network(path: &std::path::Path) -> anyhow::Result<Verdict> {
    let model = Model::open(path, &ImportOptions::default())?;
    let half = model.graph.values().iter().any(|value| value.dtype == Some(DType::F16));
    let target = if half { 2e-3 } else { 1e-5 };
    let inputs = typical(&model)?;
    let cuts = candidate_cuts(&model.grouping.dag);
    let mut met = true;
    for engine in engines()? {
        let mut whole = engine.load(&ModelSource::File(model.path.clone()), ONE_THREAD)?;
        let expected = run_whole(whole.as_mut(), &model.graph, &inputs)?;
        let (mut worst, mut bit_equal) = (0.0f64, 0);
        for cut in &cuts {
            let mut parts = load(&model, cut, engine.as_ref())?;
            let actual = run_parts(&mut parts, &model.graph, &inputs)?;
            let mut equal = true;
            for ((name, a), (_, b)) in expected.iter().zip(&actual) {
                let diff = compare(name, a, b)?;
                worst = worst.max(diff.relative());
                equal &= diff.bit_equal;
            }
            bit_equal += usize::from(equal);
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let (engine, count) = (engine.name(), cuts.len());
        println!("| {name} | {engine} | {count} | {worst:.1e} | {target:.0e} | {bit_equal} |");
        met &= worst <= target;
    }
    Ok(Verdict::of(met))
}
