//! `cutline run`: deploy a plan and stream frames through it.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use cutline_core::{picture::Fit, units::Nanos};
use cutline_runtime::{
    boxes::{self, Detection, Thresholds},
    engine,
    labels::{self, Labels, Scored},
    runner::{Answer, Frame, LocalRunner, Measured, RunOptions, Runner},
    tensor::Tensor,
};
use serde::Serialize;

use crate::{
    frames,
    inputs::{ModelArgs, expand_paths},
    output::Output,
    planning, process,
    staging::{self, Staged},
};

/// Deploy a plan and stream pictures or tensors through it; one JSON line per frame.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline run net.onnx --plan plan.json --input photos/ --labels imagenet_classes.txt\n  cutline run net.onnx --plan plan.json --input photo.jpg --local    # no agents needed\n  cutline run net.onnx --plan plan.json --keep    # deploy only; any client may call the first agent"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan to run.
    #[arg(long, value_name = "plan.json")]
    plan: PathBuf,
    /// Pictures, tensors (.npy), or folders of them.
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "keep")]
    input: Vec<PathBuf>,
    /// Class names, one a line: answers become labels, or boxes where the network is a detector.
    #[arg(long, value_name = "F")]
    labels: Option<PathBuf>,
    /// How many labels of a frame to print.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Lowest score of a box.
    #[arg(long, value_name = "0..1", default_value = "0.5", value_parser = parse_share)]
    min_score: f32,
    /// Largest overlap of two boxes of one class, as intersection over union.
    #[arg(long, value_name = "0..1", default_value = "0.5", value_parser = parse_share)]
    max_iou: f32,
    /// Run every stage in this process, without agents.
    #[arg(long)]
    local: bool,
    /// Leave the stages on their agents, and print first where clients of the Open Inference
    /// Protocol find them and under which name.
    #[arg(long, conflicts_with = "local")]
    keep: bool,
    /// Run the best plan that uses both devices, even where not splitting is better.
    #[arg(long)]
    best_split: bool,
    /// Give up on a frame after this long.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: cutline_core::units::Nanos,
}

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    frame: usize,
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<Scored>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes: Option<Vec<Detection>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<OutputLine>>,
    #[serde(flatten)]
    measured: Measured,
}

/// First line of output where the stages are kept.
#[derive(Serialize)]
struct Kept<'a> {
    deployed: Deployed<'a>,
}

/// Where a client finds the whole network.
#[derive(Serialize)]
struct Deployed<'a> {
    device: &'a str,
    address: Option<&'a str>,
    model: &'a str,
}

/// An output of the network as data.
#[derive(Serialize)]
struct OutputLine {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    values: Vec<f64>,
}

/// What a frame's answer says.
enum Reading {
    Labels(Vec<Scored>),
    Boxes(Vec<Detection>),
    Tensors,
}

/// Agents, or this process.
enum Place {
    Agents(tokio::runtime::Runtime, Runner),
    Here(LocalRunner),
}

impl Place {
    fn infer(&mut self, frame: Frame) -> anyhow::Result<Answer> {
        Ok(match self {
            Place::Agents(runtime, runner) => runtime.block_on(runner.infer(frame))?,
            Place::Here(runner) => runner.infer(frame)?,
        })
    }
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let model = args.model.open()?;
    let plan = planning::read_plan(&args.plan, &model)?;
    let choice = planning::choice(&plan, args.best_split)?;
    let labels = match &args.labels {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read labels `{}`", path.display()))?;
            Some(Labels::parse(&text))
        }
        None => None,
    };
    let files = expand_paths(&args.input)?;
    if let Some(encoding) = planning::lossy_input(choice, &model.grouping.dag) {
        output.note(format!(
            "the input travels as {}, which is lossy: answers may differ from those of the picture itself; `cutline verify MODEL DIR --input PICTURE` says by how much",
            encoding.name()
        ));
    }
    let staged = staging::stage(&model, &plan, choice)?;
    let mut place = place(&staged, &args, output)?;
    if args.keep {
        output.line(&Kept { deployed: deployed(&staged) })?;
    }
    for (index, file) in files.iter().enumerate() {
        let frame = frames::load(file, &model.graph)?;
        let answer = place
            .infer(frame)
            .with_context(|| format!("frame {index} (`{}`) was not answered", file.display()))?;
        let reading = match &labels {
            Some(labels) => read(&answer, labels, &args),
            None => Reading::Tensors,
        };
        if index == 0 && labels.is_some() {
            note_reading(&reading, plan.picture.as_ref().map(|spec| spec.fit), output);
        }
        let measured = answer.measured;
        let (mut labels, mut boxes, mut outputs) = (None, None, None);
        match reading {
            Reading::Labels(scored) => labels = Some(scored),
            Reading::Boxes(found) => boxes = Some(found),
            Reading::Tensors => {
                outputs = Some(answer.outputs.into_iter().map(output_line).collect());
            }
        }
        let input = &file.display().to_string();
        output.line(&Line { frame: index, input, labels, boxes, outputs, measured })?;
    }
    match place {
        Place::Agents(runtime, runner) if !args.keep => runtime.block_on(runner.remove()),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn place(staged: &Staged, args: &Args, output: &Output) -> anyhow::Result<Place> {
    let deployment = &staged.deployment;
    if args.local {
        let open = |name: Option<&str>| engine::open(name.unwrap_or("rten"));
        let runner = LocalRunner::load(deployment, open, process::cores())?;
        return Ok(Place::Here(runner));
    }
    let runtime = process::runtime()?;
    let options = RunOptions { frame_timeout: duration(args.timeout), ..RunOptions::default() };
    let bar = output.progress("deploying", deployment.stages.len() as u64);
    let deployed = runtime.block_on(Runner::deploy(deployment.clone(), options, |_| bar.inc(1)));
    bar.finish_and_clear();
    Ok(Place::Agents(runtime, deployed?))
}

fn deployed(staged: &Staged) -> Deployed<'_> {
    let first = &staged.deployment.stages[0];
    let (device, address) = (&first.spec.device, first.address.as_deref());
    Deployed { device, address, model: staged.deployment.model_name() }
}

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos.0)
}

/// The objects of a detector, else the best classes of the first output that is a list of scores.
fn read(answer: &Answer, labels: &Labels, args: &Args) -> Reading {
    let thresholds = Thresholds { min_score: args.min_score, max_iou: args.max_iou };
    if let Some(found) = boxes::detections(&answer.outputs, labels, thresholds) {
        return Reading::Boxes(found);
    }
    let mut outputs = answer.outputs.iter();
    match outputs.find_map(|(_, tensor)| labels::top(tensor, labels, args.top)) {
        Some(scored) => Reading::Labels(scored),
        None => Reading::Tensors,
    }
}

/// What a person should know about how the answers are read.
fn note_reading(reading: &Reading, fit: Option<Fit>, output: &Output) {
    match reading {
        Reading::Tensors => output.note(
            "the labels are not used: no output is a list of scores (such as 1x1000), and none are scores 1xNxC with boxes 1xNx4; printing tensors",
        ),
        Reading::Boxes(_) if fit == Some(Fit::Crop) => output.note(
            "the plan crops pictures to their middle: boxes are fractions of what is left",
        ),
        _ => {}
    }
}

/// A number from 0 to 1.
fn parse_share(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn output_line((name, tensor): (String, Tensor)) -> OutputLine {
    let (dtype, shape) = (tensor.dtype().oip(), tensor.shape().0.clone());
    OutputLine { name, dtype, shape, values: tensor.to_f64() }
}
