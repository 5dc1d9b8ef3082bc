//! `cutline run`: deploy a plan and stream frames through it.

use std::{fs, num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use cutline_core::{
    plan::{MOST_IN_FLIGHT, PlannedChoice},
    units::Nanos,
};
use cutline_runtime::{
    engine,
    labels::Labels,
    runner::{LocalRunner, Pipeline, RunOptions, Runner, WhenFull},
};
use serde::Serialize;

use crate::{
    frames::{
        Loader,
        source::{Rate, Source},
    },
    inputs::{IdentityArgs, ModelArgs},
    output::Output,
    planning, process,
    staging::{self, Staged},
};

mod reading;
mod stream;

use reading::Reader;
use stream::Place;

/// Deploy a plan and stream pictures or tensors through it; one JSON line per frame, in order.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline run net.onnx --plan plan.json --input photos/ --labels imagenet_classes.txt\n  cutline run net.onnx --plan plan.json --input photo.jpg --local    # no agents needed\n  ffmpeg -i /dev/video0 -f mjpeg - | cutline run net.onnx --plan plan.json --input - --when-full drop-oldest\n  cutline run net.onnx --plan plan.json --keep    # deploy only; any client may call the first agent\n\nSeveral frames are under way at a time, so that every device computes while it sends and receives; a summary follows the last answer, on standard error, or as the last line with --json."
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan to run.
    #[arg(long, value_name = "plan.json")]
    plan: PathBuf,
    /// Pictures, tensors (.npy), videos of JPEG pictures (.mjpeg), folders, patterns in quotes such
    /// as 'photos/*.jpg'; `-` reads JPEG pictures one after another from standard input.
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "keep")]
    input: Vec<PathBuf>,
    /// Send so many frames a second at most, as a camera would.
    #[arg(long, value_name = "FPS")]
    rate: Option<Rate>,
    /// Frames under way at a time [default: what the plan says, else what reaches its period].
    #[arg(long, value_name = "N", value_parser = parse_in_flight, conflicts_with = "local")]
    in_flight: Option<NonZeroUsize>,
    /// What to do with a frame when as many are under way: make it wait, or drop the one that has
    /// waited longest.
    #[arg(long, value_name = "HOW", value_enum, default_value = "block")]
    when_full: Full,
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
    #[command(flatten)]
    identity: IdentityArgs,
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

/// `--when-full` as the command line spells it.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Full {
    Block,
    DropOldest,
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
    let source = Source::new(&args.input)?;
    if let Some(encoding) = planning::lossy_input(choice, &model.grouping.dag) {
        output.note(format!(
            "the input travels as {}, which is lossy: answers may differ from those of the picture itself; `cutline verify MODEL DIR --input PICTURE` says by how much",
            encoding.name()
        ));
    }
    let staged = staging::stage(&model, &plan, choice)?;
    let runtime = process::runtime()?;
    let runner = match args.local {
        true => None,
        false => Some(deploy(&staged, &args, &runtime, output)?),
    };
    if args.keep {
        output.line(&Kept { deployed: deployed(&staged) })?;
    }
    if !args.input.is_empty() {
        let place = match &runner {
            Some(runner) => {
                let limit = args.in_flight.unwrap_or_else(|| in_flight(choice));
                Place::Agents(Pipeline::new(runner.clone(), limit))
            }
            None => Place::here(load(&staged)?),
        };
        let reader = Reader::new(&args, labels, plan.picture.as_ref().map(|spec| spec.fit));
        let live = source.is_live();
        let room = source.start(Loader::new(&model.graph), args.rate, args.when_full.into())?;
        let streamed = runtime.block_on(stream::run(place, &room, reader, live, output));
        if !args.keep
            && let Some(runner) = runner
        {
            runtime.block_on(runner.remove());
        }
        streamed?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The stages in this process.
fn load(staged: &Staged) -> anyhow::Result<LocalRunner> {
    let open = |name: Option<&str>| engine::open(name.unwrap_or("rten"));
    Ok(LocalRunner::load(&staged.deployment, open, process::cores())?)
}

/// The stages on their agents.
fn deploy(
    staged: &Staged,
    args: &Args,
    runtime: &tokio::runtime::Runtime,
    output: &Output,
) -> anyhow::Result<Runner> {
    let deployment = &staged.deployment;
    let (client, frame_timeout) = (args.identity.client()?, duration(args.timeout));
    let options = RunOptions { client, frame_timeout };
    let bar = output.progress("deploying", deployment.stages.len() as u64);
    let deployed = runtime.block_on(Runner::deploy(deployment.clone(), options, |_| bar.inc(1)));
    bar.finish_and_clear();
    Ok(deployed?)
}

/// Frames that the plan keeps under way.
fn in_flight(choice: &PlannedChoice) -> NonZeroUsize {
    choice.frames_in_flight().try_into().unwrap_or(NonZeroUsize::MIN)
}

fn deployed(staged: &Staged) -> Deployed<'_> {
    let first = &staged.deployment.stages[0];
    let (device, address) = (&first.spec.device, first.address.as_deref());
    Deployed { device, address, model: staged.deployment.model_name() }
}

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos.0)
}

/// A number from 0 to 1.
fn parse_share(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// How many frames may be under way: from 1 to what agents admit.
fn parse_in_flight(text: &str) -> Result<NonZeroUsize, String> {
    let most = MOST_IN_FLIGHT.get() as usize;
    let number = text.parse().ok().filter(|frames: &NonZeroUsize| frames.get() <= most);
    number.ok_or_else(|| format!("expected a number of frames from 1 to {most}"))
}

impl From<Full> for WhenFull {
    fn from(full: Full) -> Self {
        match full {
            Full::Block => WhenFull::Block,
            Full::DropOldest => WhenFull::DropOldest,
        }
    }
}
