//! `cutline bench`: predicted against measured, part by part, and which part takes most.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use cutline_core::{graph::Graph, plan::Figures, units::Nanos};
use cutline_runtime::{
    client::ClientOptions,
    files::write_bytes,
    model::Model,
    runner::{Breakdown, Deployment, Frame, Measured, RunOptions, Runner},
    stats,
};
use indicatif::ProgressBar;

use crate::{
    frames,
    inputs::{IdentityArgs, ModelArgs, expand_paths},
    output::Output,
    planning, process,
    staging::{self, Staged},
};

mod cuts;
mod mqtt;
mod relay;
mod words;

use cuts::{Split, Wanted};
use mqtt::Broker;
use relay::Relays;
pub(crate) use words::{Path, Row, write_rows};

/// Most bytes of parts that agents are asked to hold at the same time for `--cuts`: cuts that are
/// measured in turn with each other.
const AT_ONCE: u64 = 1 << 30;

/// Run plans on their agents and say where the latency goes, predicted beside measured.
///
/// The parts are those of Wang et al. (2022): computing on the device that frames enter, writing and
/// reading messages, upload, waiting for a device, computing elsewhere, download, and what is left,
/// which is the platform's. They add up to the latency; the largest is named as the bottleneck.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline bench net.onnx --plan a.json b.json --input photo.jpg --frames 30\n  cutline bench net.onnx --cuts 8 --platform platform.toml    # eight cuts, all here and all there\n  cutline bench net.onnx --plan a.json --through-mqtt mqtt://127.0.0.1:1883    # and over a broker"
)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["plan", "cuts"])))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Plans to run, in turn.
    #[arg(long, value_name = "plan.json", num_args = 1..)]
    plan: Vec<PathBuf>,
    /// Candidate cuts between the first two devices of --platform, `all` or so many evenly spread,
    /// beside everything on one device and everything on the other.
    #[arg(long, value_name = "all|N", requires = "platform", conflicts_with_all = ["best_split", "write"])]
    cuts: Option<Wanted>,
    /// With --cuts: devices with the addresses of their agents.
    #[arg(long, value_name = "T.toml", requires = "cuts")]
    platform: Option<PathBuf>,
    /// Pictures or tensors [default: seeded random numbers].
    #[arg(long, value_name = "PATH", num_args = 1..)]
    input: Vec<PathBuf>,
    /// Frames of each plan.
    #[arg(long, value_name = "N", default_value_t = 20)]
    frames: usize,
    /// Every plan once more with the calls between its agents over this MQTT broker, as IoT platforms
    /// make them, in turn with the direct ones. Agents that call others must be on this machine.
    #[arg(long, value_name = "mqtt://HOST:PORT")]
    through_mqtt: Option<Broker>,
    /// The best plan that uses both devices, in place of the best plan.
    #[arg(long)]
    best_split: bool,
    /// Write the measured parts into the plan files, beside the predicted ones.
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    identity: IdentityArgs,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    ensure!(args.frames > 0, "--frames must be at least 1");
    let model = args.model.open()?;
    let splits = splits(&args, &model, output)?;
    let bench = Bench {
        frames: load_frames(&args.input, &model.graph)?,
        count: args.frames,
        client: args.identity.client()?,
        broker: args.through_mqtt.clone(),
    };
    let paths = 1 + u64::from(bench.broker.is_some());
    let bytes = std::fs::metadata(&model.path).map_or(0, |file| file.len()).max(1);
    let at_once = match args.cuts {
        // Plans that were named are compared with each other.
        None => splits.len(),
        Some(_) => usize::try_from(AT_ONCE / (bytes * paths)).unwrap_or(1).max(1),
    };
    let bar = output.progress("running", (splits.len() * (args.frames + 1)) as u64 * paths);
    let mut rows = Vec::new();
    for splits in splits.chunks(at_once.max(1)) {
        let staged = splits.iter().map(|split| {
            staging::stage(&model, &split.plan, planning::choice(&split.plan, args.best_split)?)
        });
        let staged: Vec<Staged> = staged.collect::<Result<_, _>>()?;
        for (split, measured) in splits.iter().zip(bench.measure(&staged, &bar)?) {
            let predicted = planning::choice(&split.plan, args.best_split)?.predicted;
            rows.extend(measured.into_iter().map(|(path, medians)| {
                Row::new((split.name.clone(), path), predicted, medians, args.frames)
            }));
        }
    }
    bar.finish_and_clear();
    if args.write {
        let direct = rows.iter().filter(|row| row.path == Path::Direct);
        for ((path, split), row) in args.plan.iter().zip(splits).zip(direct) {
            let mut plan = split.plan;
            let choice = if args.best_split { &mut plan.best_split } else { &mut plan.best };
            if let Some(choice) = choice {
                choice.measured = Some(row.measured);
            }
            write_bytes(path, serde_json::to_vec_pretty(&plan)?)?;
        }
    }
    output.print(&rows, |out| write_rows(&rows, out))?;
    Ok(ExitCode::SUCCESS)
}

/// What is measured.
fn splits(args: &Args, model: &Model, output: &Output) -> anyhow::Result<Vec<Split>> {
    if let Some(wanted) = args.cuts {
        let platform = args.platform.as_deref().context("--cuts needs --platform")?;
        return cuts::splits(model, platform, wanted, output);
    }
    let split = |path: &PathBuf| {
        let plan = planning::read_plan(path, model)?;
        Ok(Split { name: path.display().to_string(), plan })
    };
    args.plan.iter().map(split).collect()
}

fn load_frames(paths: &[PathBuf], graph: &Graph) -> anyhow::Result<Vec<Frame>> {
    if paths.is_empty() {
        return Ok(vec![frames::random(graph, 0)?]);
    }
    let loader = frames::Loader::new(graph);
    expand_paths(paths)?.iter().map(|path| loader.load(path)).collect()
}

/// What a deployment took, over its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Medians {
    /// As plans predict it.
    pub(crate) figures: Figures,
    /// Part by part.
    pub(crate) parts: Breakdown,
    /// How long a broker and its clients held messages; part of the platform's.
    pub(crate) held: Nanos,
}

/// Runs `count` frames through each deployment in turn, after one that does not count, and takes
/// the median of each part.
pub(crate) fn measure(
    staged: &[Staged],
    frames: &[Frame],
    count: usize,
    client: ClientOptions,
    output: &Output,
) -> anyhow::Result<Vec<Medians>> {
    let bench = Bench { frames: frames.to_vec(), count, client, broker: None };
    let bar = output.progress("running", ((count + 1) * staged.len()) as u64);
    let measured = bench.measure(staged, &bar)?;
    bar.finish_and_clear();
    Ok(measured.into_iter().flatten().map(|(_, medians)| medians).collect())
}

/// What every plan is run with.
struct Bench {
    frames: Vec<Frame>,
    count: usize,
    client: ClientOptions,
    /// Whom each is run over once more.
    broker: Option<Broker>,
}

/// What a frame took, and how long a broker held its messages.
type Sample = (Measured, Breakdown, Nanos);

/// A deployment's way, and the frames that took it.
struct Lane {
    /// Position of its plan.
    of: usize,
    path: Path,
    runner: Runner,
    samples: Vec<Sample>,
}

impl Bench {
    /// The medians of each plan, by the ways that its frames took; the direct one comes first.
    fn measure(
        &self,
        staged: &[Staged],
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<Vec<(Path, Medians)>>> {
        let lanes = process::runtime()?.block_on(async {
            let mut relays =
                self.broker.clone().map(|broker| Relays::new(broker, self.client.clone()));
            let mut lanes = Vec::new();
            for (of, staged) in staged.iter().enumerate() {
                let direct = staged.deployment.clone();
                let through = match &mut relays {
                    Some(relays) => relays.through(&direct).await?,
                    None => None,
                };
                lanes.push(self.lane(of, Path::Direct, direct).await?);
                if let Some(through) = through {
                    lanes.push(self.lane(of, Path::Mqtt, through).await?);
                }
            }
            for round in 0..=self.count {
                for lane in &mut lanes {
                    let frame = self.frames[round % self.frames.len()].clone();
                    let answer = lane.runner.infer(frame).await?;
                    let held = relays.as_ref().map(Relays::take_held).unwrap_or_default();
                    // The first frame warms connections and caches up.
                    if round > 0 {
                        let parts = Breakdown::of(&answer.trace, held);
                        lane.samples.push((answer.measured, parts, held));
                    }
                    bar.inc(1);
                }
            }
            for lane in &lanes {
                lane.runner.clone().remove().await;
            }
            anyhow::Ok(lanes)
        })?;
        let mut of_plan: Vec<Vec<(Path, Medians)>> = staged.iter().map(|_| Vec::new()).collect();
        for lane in lanes {
            of_plan[lane.of].push((lane.path, medians(&lane.samples)));
        }
        Ok(of_plan)
    }

    async fn lane(&self, of: usize, path: Path, deployment: Deployment) -> anyhow::Result<Lane> {
        let options = RunOptions { client: self.client.clone(), ..RunOptions::default() };
        let runner = Runner::deploy(deployment, options, |_| {}).await?;
        Ok(Lane { of, path, runner, samples: Vec::new() })
    }
}

fn medians(samples: &[Sample]) -> Medians {
    let middle = |mut values: Vec<Nanos>| stats::median(&mut values).unwrap_or_default();
    let median = |part: fn(&Measured) -> Nanos| {
        middle(samples.iter().map(|(sample, ..)| part(sample)).collect())
    };
    let busiest = |sample: &Measured| {
        sample.edge_compute_ns.max(sample.upload_ns).max(sample.cloud_compute_ns)
    };
    let figures = Figures {
        latency_ns: median(|sample| sample.latency_ns),
        period_ns: median(busiest),
        edge_compute_ns: median(|sample| sample.edge_compute_ns),
        upload_ns: median(|sample| sample.upload_ns),
        cloud_compute_ns: median(|sample| sample.cloud_compute_ns),
        rest_ns: median(|sample| sample.rest_ns),
    };
    let parts: Vec<Breakdown> = samples.iter().map(|(_, parts, _)| *parts).collect();
    let held = middle(samples.iter().map(|(.., held)| *held).collect());
    Medians { figures, parts: Breakdown::medians(&parts), held }
}
