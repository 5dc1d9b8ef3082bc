//! `cutline run`: deploy a plan and stream frames through it.

use std::{
    fs,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::deploy::on_agents;
use crate::{
    frames::{
        Loader,
        source::{Rate, Source},
    },
    inputs::{IdentityArgs, ModelArgs, OtlpArgs, Telling, topic_level},
    output::Output,
    planning, process,
    staging::{self, Staged},
};
use anyhow::Context;
use cutline_core::{
    plan::{MOST_IN_FLIGHT, Plan, PlannedChoice, PlannedRoutes},
    platform::DeviceId,
    units::Nanos,
};
use cutline_runtime::{
    engine,
    labels::Labels,
    runner::{LocalRunner, Pipeline, RunOptions, WhenFull},
    telemetry::Telemetry,
};
use serde_json::{Value, json};

mod hold;
mod journaling;
mod publishing;
mod reading;
mod status;
mod stream;
mod tracing;

use hold::{Holding, Wanted};
use journaling::Notes;
use publishing::{Publishing, RunMqttArgs};
use reading::Reader;
use status::Status;
use stream::{Place, Told};
use tracing::Tracing;

/// Shortest time between two signs of life: on a busy machine some come late by as much.
const SHORTEST_HEARTBEAT: Nanos = Nanos(20_000_000);

/// Shortest time between two lines on how a run goes.
const SHORTEST_STATUS: Nanos = Nanos(100_000_000);

/// Deploy a plan and stream pictures or tensors through it; one JSON line per frame, in order.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline run net.onnx --plan plan.json --input photos/ --labels imagenet_classes.txt\n  cutline run net.onnx --plan plan.json --input photo.jpg --local    # no agents needed\n  ffmpeg -i /dev/video0 -f mjpeg - | cutline run net.onnx --plan plan.json --input - --when-full drop-oldest\n  cutline run net.onnx --plan plan.json --input photos/ --trace t.json    # for ui.perfetto.dev\n\nSeveral frames are under way at a time, so that every device computes while it sends and receives; a summary follows the last answer, on standard error, or as the last line with --json."
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan to run.
    #[arg(long, value_name = "plan.json")]
    plan: PathBuf,
    /// Pictures, tensors (.npy), videos of JPEG pictures (.mjpeg), folders, patterns in quotes such
    /// as 'photos/*.jpg'; `-` reads JPEG pictures one after another from standard input.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
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
    /// Run the best plan that uses both devices, even where not splitting is better.
    #[arg(long)]
    best_split: bool,
    /// Give up on a frame after this long.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: Nanos,
    /// Ask every agent so often for a sign of life. Who is silent for twice as long is taken for gone:
    /// frames take another way from then on, and come back to this one when it answers again.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_heartbeat)]
    heartbeat: Nanos,
    /// Keep no second way: the first frame that an agent does not answer ends the run. Otherwise this
    /// process holds the whole network, and finishes the frames of agents and links that fail.
    #[arg(long)]
    no_fallback: bool,
    /// Note in this file which frames are held, so that the next run with it tells which are lost when
    /// this one is killed.
    #[arg(long, value_name = "F")]
    journal: Option<PathBuf>,
    /// Write where the time of each frame went to a file that Perfetto (ui.perfetto.dev) opens: a
    /// row for each stage and for each link.
    #[arg(long, value_name = "t.json")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    otlp: OtlpArgs,
    /// Print so often how the run goes: frames per second, latencies, who is busy, the route
    /// [default: on a terminal, in one line that changes].
    #[arg(long, value_name = "TIME", value_parser = parse_status)]
    status: Option<Nanos>,
    /// Stay with the best plan, although the file knows the best one at every speed of the link.
    #[arg(long)]
    no_adapt: bool,
    // Last: its heading is that of all that follow.
    #[command(flatten)]
    mqtt: RunMqttArgs,
}

/// `--when-full` as the command line spells it.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Full {
    Block,
    DropOldest,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let collector = args.otlp.collector()?;
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
    let notes = Notes::begin(args.journal.as_deref(), output)?;
    let staged = staging::stage(&model, &plan, choice)?;
    let runtime = process::runtime()?;
    let telling = {
        let _within = runtime.enter();
        Telling::start(collector, "cutline-run", output)?
    };
    let options = options(&args, telling.telemetry())?;
    let runner = match args.local {
        true => None,
        false => Some(on_agents(&staged.deployment, options.clone(), &runtime, output)?),
    };
    let swept = plan.routes.as_ref().filter(|_| !args.no_adapt && !args.best_split);
    let in_flight = args.in_flight.unwrap_or_else(|| in_flight(choice, swept));
    let (place, held) = match &runner {
        None => (Place::here(load(&staged)?, options.telemetry), None),
        Some(runner) if args.no_fallback => {
            (Place::Agents(Pipeline::new(runner.clone(), in_flight)), None)
        }
        Some(runner) => {
            let wanted = Wanted {
                model: &model,
                plan: &plan,
                choice,
                staged: &staged,
                swept,
                in_flight: in_flight.get(),
                heartbeat: args.heartbeat,
                deadline: args.timeout,
                options,
            };
            let held = Holding::start(&wanted, runner.clone(), &runtime, output)?;
            (Place::Agents(Pipeline::new(held.routed.clone(), in_flight)), Some(held))
        }
    };
    let fit = plan.picture.as_ref().map(|spec| spec.fit);
    let reader = Reader::new(&args, labels, fit, &model.graph);
    let live = source.is_live();
    let room = source.start(Loader::new(&model.graph), args.rate, args.when_full.into())?;
    let tracing = args.trace.as_deref().map(Tracing::start).transpose()?;
    let status = Status::new(args.status, output);
    let publishing = {
        let _within = runtime.enter();
        let source = || topic_level(&plan.platform.device(DeviceId::SOURCE).name);
        Publishing::start(&args.mqtt, source, about(&plan, choice, swept), output)?
    };
    let told = Told { notes, tracing, status, publishing };
    let mut run = stream::Run::new(place, held, reader, told, output);
    let streamed = runtime.block_on(run.stream(&room, live));
    match (run.into_routed(), runner) {
        (Some(routed), _) => runtime.block_on(routed.remove()),
        (None, Some(runner)) => runtime.block_on(runner.remove()),
        (None, None) => {}
    }
    runtime.block_on(telling.finish(output));
    streamed?;
    Ok(ExitCode::SUCCESS)
}

/// The stages in this process.
fn load(staged: &Staged) -> anyhow::Result<LocalRunner> {
    let open = |name: Option<&str>| engine::open(name.unwrap_or("rten"));
    Ok(LocalRunner::load(&staged.deployment, open, process::cores())?)
}

fn options(args: &Args, telemetry: Telemetry) -> anyhow::Result<RunOptions> {
    let (client, frame_timeout) = (args.identity.client()?, duration(args.timeout));
    Ok(RunOptions { client, frame_timeout, telemetry })
}

/// What a run is, for those who read its status.
fn about(plan: &Plan, choice: &PlannedChoice, swept: Option<&PlannedRoutes>) -> Value {
    let routes = swept.iter().flat_map(|swept| &swept.routes);
    json!({
        "model": plan.model.name,
        "model_sha256": plan.model.sha256,
        "plan": choice.id,
        "stages": choice.stages.iter().map(|stage| json!({
            "device": stage.device,
            "engine": stage.engine,
        })).collect::<Vec<_>>(),
        "routes": routes.map(|route| &route.plan.id).collect::<Vec<_>>(),
    })
}

/// Frames that the plan keeps under way, or the one of its routes that keeps most.
fn in_flight(choice: &PlannedChoice, swept: Option<&PlannedRoutes>) -> NonZeroUsize {
    let routes = swept.iter().flat_map(|swept| &swept.routes);
    let frames = routes.map(|route| route.plan.frames_in_flight());
    let most = frames.fold(choice.frames_in_flight(), NonZeroU32::max);
    most.try_into().unwrap_or(NonZeroUsize::MIN)
}

fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos.0)
}

/// A time that a sign of life may well take.
fn parse_heartbeat(text: &str) -> Result<Nanos, String> {
    let time = text.parse::<Nanos>().map_err(|error| error.to_string())?;
    match time {
        time if time < SHORTEST_HEARTBEAT => Err(format!("at least {SHORTEST_HEARTBEAT}")),
        time => Ok(time),
    }
}

/// A time between two lines.
fn parse_status(text: &str) -> Result<Nanos, String> {
    let time = text.parse::<Nanos>().map_err(|error| error.to_string())?;
    match time {
        time if time < SHORTEST_STATUS => Err(format!("at least {SHORTEST_STATUS}")),
        time => Ok(time),
    }
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
