//! Frames per second of plans whose stages work at the same time, against what the slowest allows.
//!
//! Two agents with a core each: the bound is the rate of the slower stage, measured alone on its
//! core while frames keep coming, receiving and sending included, or of the link. Whoever sends the
//! frames runs on the first core, in all measurements of the section: the source of the frames is
//! the first device.
//!
//! Cores share caches, memory and sometimes more, so that a core is slower beside a busy one. What
//! that costs is shown apart: the bound of stages that are alone on their cores while the other
//! core computes the other stage, and how much faster two cores are than one where each runs the
//! whole network for itself.

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    staging::Staged,
};
use cutline_core::{
    cost::Costs,
    onnx::ImportOptions,
    partition::Mapping,
    planner::{self, Objective, Request},
    platform::{DeviceId, Platform},
    profile::Profile,
    tensor::{DType, Shape},
    units::{BytesPerSec, Nanos},
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine,
    link::{Link, LinkConfig},
    model::Model,
    pace::timer,
    runner::{Deployment, Frame, LocalRunner, Pipeline, Placement, RunOptions, Runner},
    stage::{Content, StageSpec},
    tensor::Tensor,
    verify::random_inputs,
};
use tokio::runtime::Runtime;

use super::{
    Verdict,
    fleet::{networks, profile_on, stage},
    measure::{BINARY, median, millis, timed, zoo},
};

/// Networks, and whether the targets hold for them.
const NETWORKS: [(&str, bool); 3] = [("vgg16", true), ("resnet50", true), ("mobilenetv2", false)];

/// Time of one measurement of a rate, and the fewest frames of it.
const SPAN: Duration = Duration::from_secs(3);
const FEWEST: usize = 12;

/// Turns in which everything is measured, one after the other; ratios are medians over the turns.
const TURNS: usize = 3;
const FLEET_TURNS: usize = 7;

/// Stages of the fleet that are measured in every turn: the slowest ones of a first look at all.
const SLOWEST: usize = 2;

/// Frames under way at one agent: one computes, one comes in, one waits.
const AT_ONE: usize = 3;

/// Devices of the paced fleet, and how slow each is: the sum of 1 / K is a quarter.
const DEVICES: usize = 8;
const SLOWDOWN: f64 = 32.0;

/// Rate and one-way delay of the link of `overlap`, and the frames of one turn there.
const RATE: BytesPerSec = BytesPerSec(50 * 125_000);
const DELAY: Nanos = Nanos(5_000_000);
const FRAMES: usize = 30;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    on_first_core(|engine, cores| {
        println!("two agents, one core and one thread each, {engine}; frames per second:\n");
        println!(
            "| network | cut, kB | stages alone | two agents | of the slower (0.90) | stages beside a busy core | of the slower | one agent | two / one (1.6) | two cores / one, each for itself |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let dir = tempfile::tempdir()?;
        let mut verdicts = Vec::new();
        let wanted = networks(&NETWORKS.map(|(name, _)| name));
        for (name, bound) in NETWORKS.into_iter().filter(|(name, _)| wanted.contains(name)) {
            let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
            let verdict = two_agents(&model, name, engine, cores)?;
            verdicts.push(if bound { verdict } else { Verdict::Skipped });
        }
        Ok(Verdict::all(verdicts))
    })
}

pub(crate) fn run_fleet() -> anyhow::Result<Verdict> {
    on_first_core(fleet_of_eight)
}

pub(crate) fn run_overlap() -> anyhow::Result<Verdict> {
    on_first_core(overlap)
}

/// Runs a section on a thread that is bound to the first core, with whatever it starts.
fn on_first_core(
    section: impl FnOnce(&'static str, &[usize]) -> anyhow::Result<Verdict> + Send,
) -> anyhow::Result<Verdict> {
    if engine::open("onnxruntime").is_err() {
        println!("(ONNX Runtime is not here; cutline engine install onnxruntime: skipped)");
        return Ok(Verdict::Skipped);
    }
    let cores = timer::allowed();
    if cores.len() < 2 {
        println!("(two cores are needed: skipped)");
        return Ok(Verdict::Skipped);
    }
    let section = move || {
        timer::pin(&cores[..1]);
        section("onnxruntime", &cores)
    };
    thread::scope(|scope| {
        scope.spawn(section).join().map_err(|_| anyhow!("the section panicked"))?
    })
}

/// Agents with a core each, or with the same slowdown, and a runtime to call them.
struct Agents {
    agents: Vec<AgentProcess>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Agents {
    fn start(
        count: usize,
        slowdown: Option<f64>,
        engine: &str,
        cores: &[usize],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let agents = (0..count).map(|index| {
            // Paced devices take turns on the cores that the source of the frames leaves free.
            let cores = match slowdown {
                Some(_) => cores[1..].iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                None => cores[index % cores.len()].to_string(),
            };
            let options = AgentOptions {
                engine: Some(engine.to_owned()),
                slowdown,
                threads: Some(1),
                cores: Some(cores),
                store: folder.path().join(index.to_string()),
                ..AgentOptions::default()
            };
            AgentProcess::start(Path::new(BINARY), &options)
        });
        let agents = agents.collect::<anyhow::Result<_>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(timer::short_turns)
            .enable_all()
            .build()?;
        Ok(Self { agents, runtime, _folder: folder })
    }

    fn address(&self, index: usize) -> String {
        self.agents[index].address.to_string()
    }

    /// All devices, named `d0` and so on, each linked to the next; the last link through `via`.
    fn platform(&self, rate: &str, via: Option<&str>) -> anyhow::Result<Platform> {
        let mut text = "version = 1\n".to_owned();
        for index in 0..self.agents.len() {
            let address = self.address(index);
            text += &format!("[[device]]\nname = \"d{index}\"\naddress = \"{address}\"\n");
        }
        for index in 1..self.agents.len() {
            let before = index - 1;
            text += &format!(
                "[[link]]\nbetween = [\"d{before}\", \"d{index}\"]\nup = \"{rate}\"\nfixed = \"300us\"\n"
            );
            if let Some(via) = via {
                text += &format!("via = \"{via}\"\n");
            }
        }
        Ok(toml::from_str(&text)?)
    }

    fn connect(&self, index: usize) -> anyhow::Result<AgentClient> {
        let address = self.address(index);
        let client = AgentClient::connect("device", &address, ClientOptions::default());
        Ok(self.runtime.block_on(client)?)
    }

    fn deploy(&self, deployment: Deployment) -> anyhow::Result<Runner> {
        Ok(self.runtime.block_on(Runner::deploy(deployment, RunOptions::default(), |_| {}))?)
    }

    /// Frames per second with so many under way, once the first are through.
    fn rate(&self, runner: &Runner, frame: &Frame, in_flight: usize) -> anyhow::Result<f64> {
        self.runtime.block_on(async {
            let limit = NonZeroUsize::new(in_flight).context("no frame under way")?;
            let mut pipeline = Pipeline::new(runner.clone(), limit);
            let mut answered = 0;
            let mut began = Instant::now();
            loop {
                while !pipeline.is_full() {
                    pipeline.send((), frame.clone()).ok().context("the pipeline is full")?;
                }
                pipeline.next().await.context("nothing is under way")?.result?;
                answered += 1;
                // The first frames fill the pipeline.
                if answered == in_flight + 2 {
                    began = Instant::now();
                }
                let counted = answered.saturating_sub(in_flight + 2);
                if counted >= FEWEST && began.elapsed() >= SPAN {
                    return Ok(counted as f64 / began.elapsed().as_secs_f64());
                }
            }
        })
    }
}

/// The cut with the least period by the planner, from one agent's profile: all agents are alike.
fn best_split(model: &Model, platform: &Platform, profile: &Profile) -> anyhow::Result<Staged> {
    let dag = &model.grouping.dag;
    let devices = platform.device_ids().count();
    let profiles = vec![vec![profile.clone()]; devices];
    let tables = vec![None; devices - 1];
    let costs = Costs::from_profiles(dag, model.sha256()?, platform, &profiles, &tables)?;
    let request = Request { objective: Objective::Period, ..Request::default() };
    let answer = planner::solve_until(dag, &costs, &request, &mut || false)?;
    let choice = answer.best_split.map_err(|why| anyhow!("no split: {why:?}"))?;
    stage(model, platform, &choice.mapping)
}

/// A stage of a deployment alone: what it would send on goes to the same place over the same link,
/// where it is dropped and answered at once.
fn alone(deployment: &Deployment, at: usize) -> Deployment {
    let mut placement = deployment.stages[at].clone();
    placement.model_name = format!("{}.alone{at}", deployment.model_name());
    let mut stages = Vec::new();
    if let Some(next) = &mut placement.spec.next {
        let after = &deployment.stages[at + 1];
        let spec = StageSpec {
            name: format!("{}-drop", at + 1),
            picture: None,
            model: None,
            answers: Vec::new(),
            next: None,
            ..after.spec.clone()
        };
        next.model_name = format!("{}.drop{at}", deployment.model_name());
        stages.push(Placement { spec, model_name: next.model_name.clone(), ..after.clone() });
        let own = placement.spec.model.iter().flat_map(|model| &model.outputs);
        let own: Vec<String> = own.map(|output| output.name.clone()).collect();
        placement.spec.answers.retain(|answer| own.contains(&answer.name));
    }
    stages.insert(0, placement);
    Deployment { stages, files: deployment.files.clone() }
}

/// What each stage receives of a frame: each is run once, and asked for what it would send on.
fn received(agents: &Agents, deployment: &Deployment, frame: Frame) -> anyhow::Result<Vec<Frame>> {
    let mut frames = vec![frame];
    for (at, after) in deployment.stages.iter().enumerate().skip(1) {
        let mut placement = deployment.stages[at - 1].clone();
        placement.model_name = format!("{}.asked{at}", deployment.model_name());
        placement.spec.answers = after.spec.inputs.clone();
        placement.spec.next = None;
        let asked = Deployment { stages: vec![placement], files: deployment.files.clone() };
        let runner = agents.deploy(asked)?;
        let frame = frames.last().context("the first frame was given")?.clone();
        let answer = agents.runtime.block_on(runner.infer(frame))?;
        agents.runtime.block_on(runner.remove());
        frames.push(Frame::Tensors(answer.outputs));
    }
    Ok(frames)
}

/// A core that computes one stage over and over in this process, until dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Busy {
    /// Returns once the core computes.
    fn start(core: usize, placement: &Placement, of: &Deployment, frame: &Frame) -> Self {
        let mut placement = placement.clone();
        placement.spec.next = None;
        placement.spec.answers =
            placement.spec.model.iter().flat_map(|model| model.outputs.clone()).collect();
        let alone = Deployment { stages: vec![placement], files: of.files.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, frame) = (Arc::clone(&stop), frame.clone());
        let (ready, computes) = mpsc::channel();
        let thread = thread::spawn(move || {
            timer::pin(&[core]);
            let mut runner = LocalRunner::load(&alone, |_| engine::open("onnxruntime"), 1)?;
            while !stopped.load(Ordering::Relaxed) {
                runner.infer(frame.clone())?;
                let _ = ready.send(());
            }
            Ok(())
        });
        // A thread that fails hangs up, and says why when it is joined.
        let _ = computes.recv();
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a core was busy")?;
        thread.join().map_err(|_| anyhow!("the thread that kept a core busy panicked"))?
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Bytes that the plan's first hop carries.
fn bytes_sent(agents: &Agents, runner: &Runner, frame: &Frame) -> anyhow::Result<u64> {
    let answer = agents.runtime.block_on(runner.infer(frame.clone()))?;
    Ok(answer.trace.hops.first().context("the plan has one stage")?.bytes_up)
}

fn input(model: &Model) -> anyhow::Result<Frame> {
    Ok(Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect()))
}

fn two_agents(model: &Model, name: &str, engine: &str, cores: &[usize]) -> anyhow::Result<Verdict> {
    let agents = Agents::start(2, None, engine, cores)?;
    let profile = profile_on(&agents.runtime, &agents.agents[0], model, engine)?;
    let platform = agents.platform("10gbit", None)?;
    let staged = best_split(model, &platform, &profile)?;
    let deployment = &staged.deployment;
    ensure!(deployment.stages.len() == 2, "{} stages", deployment.stages.len());
    let frame = input(model)?;
    let frames = received(&agents, deployment, frame.clone())?;
    let stages = [alone(deployment, 0), alone(deployment, 1)];
    let stages = stages.map(|stage| agents.deploy(stage));
    let [first, second] = stages;
    let (first, second) = (first?, second?);
    let two = agents.deploy(deployment.clone())?;
    let whole = Mapping::uniform(&model.grouping.dag, DeviceId::SOURCE);
    let whole = stage(model, &platform, &whole)?;
    let one = agents.deploy(whole.deployment.clone())?;
    let bytes = bytes_sent(&agents, &two, &frame)?;
    let source = agents.connect(0)?;
    let (far, sizes) = (agents.address(1), [bytes]);
    let link = source.measure_link(&far, &sizes, 15, |_| {});
    let link = agents.runtime.block_on(link)?;
    let link = link.up.first().context("the link was measured")?.timing.median_ns;
    let in_flight = in_flight(deployment);
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let mut turn = Turn {
            alone: [
                agents.rate(&first, &frames[0], AT_ONE)?,
                agents.rate(&second, &frames[1], AT_ONE)?,
            ],
            two: agents.rate(&two, &frame, in_flight)?,
            one: agents.rate(&one, &frame, AT_ONE)?,
            ..Turn::default()
        };
        let beside = Busy::start(cores[1], &deployment.stages[1], deployment, &frames[1]);
        turn.beside[0] = agents.rate(&first, &frames[0], AT_ONE)?;
        beside.end()?;
        let beside = Busy::start(cores[0], &deployment.stages[0], deployment, &frames[0]);
        turn.beside[1] = agents.rate(&second, &frames[1], AT_ONE)?;
        beside.end()?;
        let beside = Busy::start(cores[1], &whole.deployment.stages[0], &whole.deployment, &frame);
        turn.one_beside = agents.rate(&one, &frame, AT_ONE)?;
        beside.end()?;
        turns.push(turn);
    }
    let link = 1e9 / link.0.max(1) as f64;
    let slower = |rates: [f64; 2]| rates[0].min(rates[1]).min(link);
    let middle = |of: &dyn Fn(&Turn) -> f64| median(&turns.iter().map(of).collect::<Vec<_>>());
    let of_bound = middle(&|turn| turn.two / slower(turn.alone));
    let gain = middle(&|turn| turn.two / turn.one);
    println!(
        "| {name} | {:.0} | {:.2}, {:.2} | {:.2} | {of_bound:.3} | {:.2}, {:.2} | {:.3} | {:.2} | {gain:.3} | {:.3} |",
        bytes as f64 / 1e3,
        middle(&|turn| turn.alone[0]),
        middle(&|turn| turn.alone[1]),
        middle(&|turn| turn.two),
        middle(&|turn| turn.beside[0]),
        middle(&|turn| turn.beside[1]),
        middle(&|turn| turn.two / slower(turn.beside)),
        middle(&|turn| turn.one),
        middle(&|turn| 2.0 * turn.one_beside / turn.one),
    );
    Ok(Verdict::of(of_bound >= 0.90 && gain >= 1.6))
}

/// Frames per second of everything that is compared, measured one after the other.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// Each stage on its core, the other core at rest.
    alone: [f64; 2],
    /// Each stage on its core, the other core computing the other stage.
    beside: [f64; 2],
    /// The plan.
    two: f64,
    /// The whole network on one core, the other at rest.
    one: f64,
    /// The same, the other core computing the whole network too.
    one_beside: f64,
}

/// What `cutline run` keeps under way for a plan without predictions.
fn in_flight(deployment: &Deployment) -> usize {
    2 * deployment.stages.len() + 1
}

fn fleet_of_eight(engine: &str, cores: &[usize]) -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let model = Model::open(&zoo(dir.path(), "resnet101")?, &ImportOptions::default())?;
    let profile = {
        let profiled = Agents::start(1, None, engine, cores)?;
        profile_on(&profiled.runtime, &profiled.agents[0], &model, engine)?
    };
    let agents = Agents::start(DEVICES, Some(SLOWDOWN), engine, cores)?;
    let platform = agents.platform("10gbit", None)?;
    let staged = best_split(&model, &platform, &profile)?;
    let deployment = &staged.deployment;
    ensure!(deployment.stages.len() == DEVICES, "{} stages", deployment.stages.len());
    let frame = input(&model)?;
    let frames = received(&agents, deployment, frame.clone())?;
    let fleet = agents.deploy(deployment.clone())?;
    let stages: Vec<Runner> = (0..DEVICES)
        .map(|at| agents.deploy(alone(deployment, at)))
        .collect::<anyhow::Result<_>>()?;
    let alone = |at: usize| agents.rate(&stages[at], &frames[at], AT_ONE);
    let first: Vec<f64> = (0..DEVICES).map(alone).collect::<anyhow::Result<_>>()?;
    let mut slowest: Vec<usize> = (0..DEVICES).collect();
    slowest.sort_by(|&a, &b| first[a].total_cmp(&first[b]));
    slowest.truncate(SLOWEST);
    let bound = || -> anyhow::Result<f64> {
        slowest.iter().try_fold(f64::INFINITY, |least, &at| Ok(alone(at)?.min(least)))
    };
    let mut turns = Vec::new();
    // The machine's speed changes from one measurement to the next: the fleet is compared with the
    // bound's mean of just before and just after.
    let mut before = bound()?;
    for _ in 0..FLEET_TURNS {
        let rate = agents.rate(&fleet, &frame, in_flight(deployment))?;
        let after = bound()?;
        turns.push(((before + after) / 2.0, rate));
        before = after;
    }
    let middle = |of: fn(&(f64, f64)) -> f64| median(&turns.iter().map(of).collect::<Vec<_>>());
    let of_bound = middle(|(bound, rate)| rate / bound);
    println!(
        "ResNet-101 on {DEVICES} agents, each {SLOWDOWN} times slower than a core, {engine}; frames per second, {FLEET_TURNS} turns:\n"
    );
    println!("| slowest stage alone | fleet | of the bound | target |");
    println!("|---|---|---|---|");
    println!(
        "| {:.3} | {:.3} | {of_bound:.3} | 0.95 |",
        middle(|(bound, _)| *bound),
        middle(|(_, rate)| *rate)
    );
    let each: Vec<String> =
        turns.iter().map(|(bound, rate)| format!("{:.3}", rate / bound)).collect();
    println!("\nof the bound in each turn: {}", each.join(", "));
    Ok(Verdict::of(of_bound >= 0.95))
}

fn overlap(engine: &str, cores: &[usize]) -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let model = Model::open(&zoo(dir.path(), "resnet50")?, &ImportOptions::default())?;
    let agents = Agents::start(2, None, engine, cores)?;
    let mut config = LinkConfig::new("127.0.0.1:0", agents.address(1));
    (config.up, config.down, config.delay) = (Some(RATE), Some(RATE), DELAY);
    let link = Link::start(config)?;
    let via = link.local_addr().to_string();
    let profile = profile_on(&agents.runtime, &agents.agents[0], &model, engine)?;
    // The plan of a fast link, whose message the slow link takes much longer for than the stages.
    let platform = agents.platform("10gbit", Some(&via))?;
    let staged = best_split(&model, &platform, &profile)?;
    let deployment = &staged.deployment;
    let frame = input(&model)?;
    let runner = agents.deploy(deployment.clone())?;
    let bytes = bytes_sent(&agents, &runner, &frame)?;
    let far = AgentClient::connect("d1", &via, ClientOptions::default());
    let far = agents.runtime.block_on(far)?;
    println!("ResNet-50 cut where {bytes} bytes cross a link of 50 Mbit/s and 5 ms, {engine}\n");
    println!("| one transfer, Mbit/s | frames in a row, Mbit/s | ratio | target |");
    println!("|---|---|---|---|");
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let total = bytes * FRAMES as u64;
        let data = vec![0; usize::try_from(total)?];
        let tensor = Tensor::new(DType::U8, Shape(vec![total]), data)?;
        let values = vec![("data".to_owned(), Content::Tensor(tensor))];
        let patience = Duration::from_secs(120);
        let transfer = far.infer("cutline.echo", values, false, patience);
        let (time, _) = timed(|| Ok(agents.runtime.block_on(transfer)?))?;
        let one = total as f64 * 8e-3 / millis(time);
        let rate = agents.rate(&runner, &frame, in_flight(deployment))?;
        let row = rate * bytes as f64 * 8e-6;
        println!("| {one:.2} | {row:.2} | {:.3} | 0.95 |", row / one);
        ratios.push(row / one);
    }
    println!("\nmedian {:.3}", median(&ratios));
    Ok(Verdict::of(median(&ratios) >= 0.95))
}
