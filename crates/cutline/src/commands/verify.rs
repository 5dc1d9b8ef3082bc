//! `cutline verify`: the parts answer as the whole does.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
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
    agree::{self, ShareRow, Truth},
    gallery::Gallery,
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
    after_help = "Examples:\n  cutline verify net.onnx parts\n  cutline verify net.onnx parts --input photo.jpg --engine onnxruntime\n  cutline verify net.onnx parts --input photo.jpg --input-encoding jpeg    # what does JPEG do to the answer?\n  cutline verify net.onnx parts --images photos/ --truth truth.tsv    # how often is the best class the same, and the right one?\n\nExit code 1 where an output differs by more than 1e-5 of the largest output (2e-3 for fp16).\nWhat a lossy input encoding or a compressed cut changes is reported, and does not count."
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
    /// Count over the pictures (or .npy tensors) of this folder how often parts and whole have the
    /// same best class, with the interval of 95 %.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// With --images: the true classes, a line each: file name, tab, class (a number or a label).
    #[arg(long, value_name = "FILE", requires = "images")]
    truth: Option<PathBuf>,
    /// With --truth: class names, one a line, where the classes are names.
    #[arg(long, value_name = "FILE", requires = "truth")]
    labels: Option<PathBuf>,
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
    /// Whether the outputs differ by no more than the tolerance.
    equal: bool,
    outputs: Vec<Row>,
    /// How values travel at the cuts that are compressed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cut_encodings: Vec<String>,
    /// Over a folder of pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Images>,
    /// What sending the picture in a lossy encoding does.
    #[serde(skip_serializing_if = "Option::is_none")]
    lossy: Option<Lossy>,
}

/// How parts and whole classify a folder of pictures.
#[derive(Serialize)]
struct Images {
    count: usize,
    folder_sha256: String,
    input_encoding: InputEncoding,
    /// How many have the same best class.
    agreement: ShareRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<Accuracy>,
}

/// How many of the pictures whose class is known have that class.
#[derive(Serialize)]
struct Accuracy {
    whole: ShareRow,
    parts: ShareRow,
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
    let cut_encodings = verify::cut_encodings(&args.folder)?;
    let planned = plan.as_ref().and_then(|plan| choice_of(plan, &args));
    let planned = planned.and_then(|choice| planning::lossy_input(choice, &model.grouping.dag));
    let lossy_input = args.input_encoding.or(planned).filter(|encoding| encoding.is_lossy());
    let lossy = match lossy_input {
        Some(encoding) if args.input.has_picture() => {
            let sent = args.input.tensors(&model.graph, spec, encoding, output)?;
            let outputs = lossy_rows(engine.as_ref(), &args, &model, &lossless, &sent)?;
            Some(Lossy { input_encoding: encoding, outputs })
        }
        Some(encoding) if args.images.is_none() => {
            output.note(format!(
                "the input travels as {}, which is lossy: give a picture with --input to see what that does to the answer",
                encoding.name()
            ));
            None
        }
        _ => None,
    };
    let images = match &args.images {
        Some(folder) => {
            let gallery = Gallery::open(folder, &model.graph, spec, &args.input.picture)?;
            let encoding = lossy_input.unwrap_or(InputEncoding::Fp32);
            Some(classified(&args, &model, (&gallery, encoding), engine.as_ref(), output)?)
        }
        None => None,
    };
    let tolerance = if uses_half(&model) { HALF_TOLERANCE } else { TOLERANCE };
    let outputs: Vec<Row> = diffs.into_iter().map(Row::from).collect();
    let equal = outputs.iter().all(|row| row.relative <= tolerance);
    let engine = args.engine.as_str();
    let report = Report { engine, tolerance, equal, outputs, cut_encodings, images, lossy };
    output.print(&report, |out| write_report(&report, out))?;
    let is_fine = equal || !report.cut_encodings.is_empty();
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What whole and parts say of every picture.
fn classified(
    args: &Args,
    model: &Model,
    (gallery, encoding): (&Gallery, InputEncoding),
    engine: &dyn Engine,
    output: &Output,
) -> anyhow::Result<Images> {
    let options = LoadOptions { threads: args.threads };
    let whole = agree::of_whole(model, gallery, (engine, options), output)?;
    let mut parts = verify::load_parts(engine, options, &args.folder)?;
    let parts = agree::of_parts(&mut parts, model, (gallery, encoding), output)?;
    let accuracy = match &args.truth {
        Some(path) => {
            let truth = Truth::read(path)?;
            let labels = match &args.labels {
                Some(path) => fs::read_to_string(path)
                    .with_context(|| format!("cannot read labels `{}`", path.display()))?,
                None => String::new(),
            };
            let labels = Labels::parse(&labels);
            let whole = truth.accuracy(gallery, &whole, &labels)?.into();
            let parts = truth.accuracy(gallery, &parts, &labels)?.into();
            Some(Accuracy { whole, parts })
        }
        None => None,
    };
    Ok(Images {
        count: gallery.len(),
        folder_sha256: gallery.sha256()?,
        input_encoding: encoding,
        agreement: agree::agreement(&whole, &parts).into(),
        accuracy,
    })
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
    if !report.cut_encodings.is_empty() {
        let encodings = report.cut_encodings.join(" and ");
        writeln!(out, "values cross as {encodings}, so they are not expected to be")?;
    }
    if let Some(images) = &report.images {
        writeln!(out, "\nsame best class: {}", images.agreement.share())?;
        if let Some(Accuracy { whole, parts }) = &images.accuracy {
            writeln!(out, "right class: {} by the whole", whole.share())?;
            writeln!(out, "             {} by the parts", parts.share())?;
        }
    }
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
        Err(PlanError::PartsOnly { .. }) => {
            let list: serde_json::Value = serde_json::from_str(&text).ok()?;
            if list["model"]["sha256"].as_str() != model.sha256().ok() {
                output.warning(format!(
                    "`{}` says that these are the parts of another file, `{}`",
                    path.display(),
                    list["model"]["name"].as_str().unwrap_or("?")
                ));
            }
            None
        }
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
