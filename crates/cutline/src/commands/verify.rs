//! `cutline verify`: the parts answer as the whole does.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use cutline_core::{
    package,
    picture::InputEncoding,
    plan::{Plan, PlanError, PlannedChoice},
};
use cutline_runtime::{
    engine::{self, Engine, LoadOptions, ModelSource},
    files,
    labels::{self, Labels},
    model::Model,
    tensor::Tensor,
    verify::{self, OutputDiff},
};
use serde::Serialize;

use crate::{
    inputs::{InputArgs, ModelArgs},
    output::{Output, table},
    planning,
};

/// Largest difference, relative to the largest output, of two fp32 computations of one network.
const TOLERANCE: f64 = 1e-5;
/// The same for networks that store or compute fp16.
const HALF_TOLERANCE: f64 = 2e-3;

/// Run the whole network and its parts on the same input, and compare every output.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline verify net.onnx parts\n  cutline verify net.onnx parts --input photo.jpg --engine onnxruntime\n  cutline verify net.onnx parts --input photo.jpg --input-encoding jpeg    # what does JPEG do to the answer?\n\nExit code 1 where an output differs by more than 1e-5 of the largest output (2e-3 for fp16).\nWhat a lossy input encoding changes is reported, and does not count."
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder that `cutline split` wrote.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// Also report what it does to the answer to send the picture so [default: as the plan does].
    #[arg(long, value_name = "ENCODING")]
    input_encoding: Option<InputEncoding>,
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
    /// What sending the picture in a lossy encoding does.
    #[serde(skip_serializing_if = "Option::is_none")]
    lossy: Option<Lossy>,
}

/// How far the answer of the parts is from the whole network's on the undamaged picture.
#[derive(Serialize)]
struct Lossy {
    input_encoding: InputEncoding,
    outputs: Vec<LossyRow>,
}

#[derive(Serialize)]
struct LossyRow {
    #[serde(flatten)]
    row: Row,
    /// Whether the best class stays; absent where the output is no list of scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_top1: Option<bool>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    diff: OutputDiff,
    relative: f64,
}

impl From<OutputDiff> for Row {
    fn from(diff: OutputDiff) -> Self {
        Row { relative: diff.relative(), diff }
    }
}

impl Row {
    fn cells(&self) -> [String; 3] {
        let number = |number: f64| format!("{number:.3e}");
        [self.diff.name.clone(), number(self.diff.max_abs_diff), number(self.relative)]
    }
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let engine = engine::open(&args.engine)?;
    let plan = plan_beside(&args, &model, output);
    let spec = plan.as_ref().and_then(|plan| plan.picture.as_ref());
    let lossless = args.input.tensors(&model.graph, spec, InputEncoding::Fp32, output)?;
    let options = LoadOptions { threads: args.threads };
    let source = ModelSource::File(model.path.clone());
    let whole = (&source, &model.graph);
    let diffs = verify::verify(engine.as_ref(), options, whole, &args.folder, &lossless)?;
    let planned = plan.as_ref().and_then(|plan| choice_of(plan, &args));
    let planned = planned.and_then(|choice| planning::lossy_input(choice, &model.grouping.dag));
    let lossy = match args.input_encoding.or(planned).filter(|encoding| encoding.is_lossy()) {
        Some(encoding) if args.input.has_picture() => {
            let sent = args.input.tensors(&model.graph, spec, encoding, output)?;
            let outputs = lossy_rows(engine.as_ref(), &args, &model, &lossless, &sent)?;
            Some(Lossy { input_encoding: encoding, outputs })
        }
        Some(encoding) => {
            output.note(format!(
                "the input travels as {}, which is lossy: give a picture with --input to see what that does to the answer",
                encoding.name()
            ));
            None
        }
        None => None,
    };
    let tolerance = if uses_half(&model) { HALF_TOLERANCE } else { TOLERANCE };
    let outputs: Vec<Row> = diffs.into_iter().map(Row::from).collect();
    let equal = outputs.iter().all(|row| row.relative <= tolerance);
    let report = Report { engine: &args.engine, tolerance, equal, outputs, lossy };
    output.print(&report, |out| write_report(&report, out))?;
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_report(report: &Report<'_>, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let rows = report.outputs.iter().map(|row| {
        let [name, difference, relative] = row.cells();
        [name, difference, relative, yes_or_no(row.diff.bit_equal)]
    });
    let header = ["output", "largest difference", "of the largest output", "bit-equal"];
    writeln!(out, "{}", table(header, rows))?;
    let verdict = if report.equal { "equal" } else { "NOT equal" };
    let (tolerance, engine) = (report.tolerance, report.engine);
    writeln!(out, "\nparts and whole are {verdict} within {tolerance:e} ({engine})")?;
    let Some(lossy) = &report.lossy else { return Ok(()) };
    writeln!(
        out,
        "\nthe picture sent as {}, against the whole network on the picture itself:\n",
        lossy.input_encoding.name()
    )?;
    let rows = lossy.outputs.iter().map(|LossyRow { row, same_top1 }| {
        let [name, difference, relative] = row.cells();
        [name, difference, relative, same_top1.map_or("-".to_owned(), yes_or_no)]
    });
    let header = ["output", "largest difference", "of the largest output", "same best class"];
    writeln!(out, "{}", table(header, rows))
}

/// The plan in the folder of the parts, if there is one and it is this model's.
fn plan_beside(args: &Args, model: &Model, output: &Output) -> Option<Plan> {
    let path = args.folder.join(files::PLAN_FILE);
    let text = fs::read_to_string(&path).ok()?;
    match Plan::open(&text, &model.grouping.dag, model.sha256().ok()?) {
        Ok(plan) => Some(plan),
        Err(PlanError::PartsOnly { .. }) => None,
        Err(error) => {
            output.note(format!("`{}` is not used: {error}", path.display()));
            None
        }
    }
}

/// The choice whose parts lie in the folder. The best plan may be one part, and the folder of the
/// best split begins with the same one, so that is looked for first.
fn choice_of<'a>(plan: &'a Plan, args: &Args) -> Option<&'a PlannedChoice> {
    plan.best_split.iter().chain(&plan.best).find(|choice| {
        let mut stages = choice.stages.iter().enumerate();
        stages.all(|(index, stage)| {
            args.folder.join(package::package_name(index, &stage.device)).is_dir()
        })
    })
}

/// The parts on what arrives, against the whole on what was sent.
fn lossy_rows(
    engine: &dyn Engine,
    args: &Args,
    model: &Model,
    lossless: &BTreeMap<String, Tensor>,
    sent: &BTreeMap<String, Tensor>,
) -> anyhow::Result<Vec<LossyRow>> {
    let options = LoadOptions { threads: args.threads };
    let mut whole = engine.load(&ModelSource::File(model.path.clone()), options)?;
    let expected = verify::run_whole(whole.as_mut(), &model.graph, lossless)?;
    drop(whole);
    let mut parts = verify::load_parts(engine, options, &args.folder)?;
    let actual = verify::run_parts(&mut parts, &model.graph, sent)?;
    let best = |tensor| {
        labels::top(tensor, &Labels::parse(""), 1).and_then(|best| Some(best.first()?.class))
    };
    let rows = expected.iter().zip(&actual).map(|((name, whole), (_, parts))| {
        let row = Row::from(verify::compare(name, whole, parts)?);
        let same_top1 = best(whole).map(|class| best(parts) == Some(class));
        Ok(LossyRow { row, same_top1 })
    });
    rows.collect()
}

fn uses_half(model: &Model) -> bool {
    use cutline_core::tensor::DType;
    model.graph.values().iter().any(|value| value.dtype == Some(DType::F16))
}
