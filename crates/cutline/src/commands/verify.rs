//! `cutline verify`: the parts answer as the whole does.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use cutline_runtime::{
    engine::{self, LoadOptions, ModelSource},
    verify::{self, OutputDiff},
};
use serde::Serialize;

use crate::{
    inputs::{InputArgs, ModelArgs},
    output::{Output, table},
};

/// Largest difference, relative to the largest output, of two fp32 computations of one network.
const TOLERANCE: f64 = 1e-5;
/// The same for networks that store or compute fp16.
const HALF_TOLERANCE: f64 = 2e-3;

/// Run the whole network and its parts on the same input, and compare every output.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline verify net.onnx parts\n  cutline verify net.onnx parts --input photo.jpg --engine onnxruntime\n\nExit code 1 where an output differs by more than 1e-5 of the largest output (2e-3 for fp16)."
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder that `cutline split` wrote.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// Engine that runs both.
    #[arg(long, default_value = "rten")]
    engine: String,
    /// Threads of the engine.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
}

#[derive(Serialize)]
struct Report<'a> {
    engine: &'a str,
    tolerance: f64,
    equal: bool,
    outputs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    diff: OutputDiff,
    relative: f64,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let engine = engine::open(&args.engine)?;
    let inputs: BTreeMap<_, _> = args.input.tensors(&model.graph, output)?;
    let options = LoadOptions { threads: args.threads };
    let source = ModelSource::File(model.path.clone());
    let diffs =
        verify::verify(engine.as_ref(), options, (&source, &model.graph), &args.folder, &inputs)?;
    let tolerance = if uses_half(&model) { HALF_TOLERANCE } else { TOLERANCE };
    let outputs: Vec<Row> =
        diffs.into_iter().map(|diff| Row { relative: diff.relative(), diff }).collect();
    let equal = outputs.iter().all(|row| row.relative <= tolerance);
    let report = Report { engine: &args.engine, tolerance, equal, outputs };
    output.print(&report, |out| {
        let rows = report.outputs.iter().map(|row| {
            [
                row.diff.name.clone(),
                format!("{:.3e}", row.diff.max_abs_diff),
                format!("{:.3e}", row.relative),
                if row.diff.bit_equal { "yes" } else { "no" }.to_owned(),
            ]
        });
        let header = ["output", "largest difference", "of the largest output", "bit-equal"];
        writeln!(out, "{}", table(header, rows))?;
        let verdict = if report.equal { "equal" } else { "NOT equal" };
        writeln!(out, "\nparts and whole are {verdict} within {tolerance:e} ({})", report.engine)
    })?;
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn uses_half(model: &cutline_runtime::model::Model) -> bool {
    use cutline_core::tensor::DType;
    model.graph.values().iter().any(|value| value.dtype == Some(DType::F16))
}
