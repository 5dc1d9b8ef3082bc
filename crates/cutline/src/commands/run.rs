//! `cutline run`: deploy a plan and stream frames through it.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use cutline_core::{picture::InputEncoding, units::Nanos};
use cutline_runtime::{
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
    after_help = "Examples:\n  cutline run net.onnx --plan plan.json --input photos/ --labels imagenet_classes.txt\n  cutline run net.onnx --plan plan.json --input photo.jpg --local    # no agents needed"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan to run.
    #[arg(long, value_name = "plan.json")]
    plan: PathBuf,
    /// Pictures, tensors (.npy), or folders of them.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// Class names, one a line: answers become labels.
    #[arg(long, value_name = "F")]
    labels: Option<PathBuf>,
    /// How many labels of a frame to print.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Run every stage in this process, without agents.
    #[arg(long)]
    local: bool,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<OutputLine>,
    #[serde(flatten)]
    measured: Measured,
}

/// An output of the network as data.
#[derive(Serialize)]
struct OutputLine {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    values: Vec<f64>,
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
    if choice.input_encoding.parse::<InputEncoding>().is_ok_and(InputEncoding::is_lossy) {
        output.note(format!(
            "the input travels as {}, which is lossy: answers may differ from those of the picture itself",
            choice.input_encoding
        ));
    }
    let staged = staging::stage(&model, &plan, choice)?;
    let mut place = place(&staged, &args, output)?;
    for (index, file) in files.iter().enumerate() {
        let frame = frames::load(file, &model.graph)?;
        let answer = place
            .infer(frame)
            .with_context(|| format!("frame {index} (`{}`) was not answered", file.display()))?;
        let scored = labels.as_ref().and_then(|labels| scored(&answer, labels, args.top));
        let outputs = match scored {
            Some(_) => Vec::new(),
            None => answer.outputs.into_iter().map(output_line).collect(),
        };
        let input = &file.display().to_string();
        output.line(&Line {
            frame: index,
            input,
            labels: scored,
            outputs,
            measured: answer.measured,
        })?;
    }
    if let Place::Agents(runtime, runner) = place {
        runtime.block_on(runner.remove());
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

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos.0)
}

/// The best classes of the first output that looks like scores.
fn scored(answer: &Answer, labels: &Labels, count: usize) -> Option<Vec<Scored>> {
    answer.outputs.iter().find_map(|(_, tensor)| labels::top(tensor, labels, count))
}

fn output_line((name, tensor): (String, Tensor)) -> OutputLine {
    let (dtype, shape) = (tensor.dtype().oip(), tensor.shape().0.clone());
    OutputLine { name, dtype, shape, values: tensor.to_f64() }
}
