//! A camera whose frames are held while agents and links fail: what `failure` and `adaptation` run.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    routes::{Prepared, Subject},
    staging,
};
use cutline_core::{
    cost::Costs,
    onnx::ImportOptions,
    plan::{ModelRef, Plan, PlannedChoice},
    planner::{self, Request},
    platform::Platform,
    routing::{Settings, Table},
    units::{BytesPerSec, Nanos},
};
use cutline_runtime::{
    engine,
    link::{Link, LinkConfig, LinkHandle},
    model::Model,
    runner::{Frame, Outcome, Pipeline, Routed, Routing, RunOptions, Runner},
    tensor::Tensor,
    verify::random_inputs,
};
use tokio::runtime::Runtime;

use super::{
    fleet::profile_on,
    measure::{BINARY, median, millis, zoo},
};

/// The network, and how much slower than this machine its edge is, by engine.
const NETWORK: &str = "mobilenetv2";
const SLOWDOWNS: [(&str, f64); 2] = [("onnxruntime", 32.0), ("rten", 5.0)];

/// The link in good times.
pub(crate) const FAST: BytesPerSec = BytesPerSec(50 * 125_000);
const DELAY: Nanos = Nanos(5_000_000);

/// How a holder watches in these sections.
pub(crate) const HEARTBEAT: Nanos = Nanos(250_000_000);
const DWELL: Nanos = Nanos(1_000_000_000);
const DEADLINE: Nanos = Nanos(20_000_000_000);

/// Pictures that differ.
const PICTURES: usize = 4;

/// The largest difference to the whole network's answer, relative to its largest value.
const TOLERANCE: f64 = 1e-4;

/// How long anything may take to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that can be killed and started again where it was.
pub(crate) struct Agent {
    process: Option<AgentProcess>,
    pub(crate) options: AgentOptions,
    /// What is started; another command that starts it in the end.
    pub(crate) binary: PathBuf,
}

impl Agent {
    fn start(store: PathBuf, engine: &str, slowdown: Option<f64>) -> anyhow::Result<Self> {
        let engine = Some(engine.to_owned());
        let mut options =
            AgentOptions { engine, threads: Some(1), slowdown, store, ..AgentOptions::default() };
        let process = AgentProcess::start(Path::new(BINARY), &options)?;
        options.listen = Some(process.address.to_string());
        Ok(Self { process: Some(process), options, binary: BINARY.into() })
    }

    pub(crate) fn process(&self) -> anyhow::Result<&AgentProcess> {
        self.process.as_ref().context("the agent runs")
    }

    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the agent runs")?.kill()?;
        Ok(())
    }

    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.process = Some(AgentProcess::start(&self.binary, &self.options)?);
        Ok(())
    }

    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").args([name, &self.process()?.id().to_string()]).status();
        ensure!(status?.success(), "the agent cannot be sent {name}");
        Ok(())
    }
}

/// Two agents, a link that can be taken away, and a plan for every speed of it.
pub(crate) struct Rig {
    pub(crate) edge: Agent,
    pub(crate) cloud: Agent,
    link: Option<LinkHandle>,
    listen: SocketAddr,
    pub(crate) engine: &'static str,
    pub(crate) slowdown: f64,
    model: Model,
    plan: Plan,
    pub(crate) runtime: Runtime,
    _folder: tempfile::TempDir,
}

/// What is held of frames while the camera goes on.
pub(crate) struct Show {
    pub(crate) routed: Routed,
    answers: mpsc::Receiver<Seen>,
    stop: mpsc::Sender<()>,
    camera: Option<JoinHandle<anyhow::Result<()>>>,
    last: Option<Instant>,
    next: u64,
    /// Frames that were answered wrongly, or out of turn, or not at all.
    pub(crate) wrong: u64,
    _prepared: Vec<staging::Staged>,
}

/// A frame with its answer.
pub(crate) struct Seen {
    number: u64,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    right: bool,
    /// Name of its route; empty where it was not answered.
    pub(crate) route: String,
}

/// What is run.
pub(crate) enum What {
    /// The best split, with the network here to fall back on.
    Split,
    /// The best plan at every speed of the link.
    EverySpeed,
}

impl Rig {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let known = |name: &str| engine::open(name).is_ok();
        let (engine, slowdown) =
            SLOWDOWNS.into_iter().find(|(name, _)| known(name)).context("no engine")?;
        let edge = Agent::start(folder.path().join("edge"), engine, Some(slowdown))?;
        let cloud = Agent::start(folder.path().join("cloud"), engine, None)?;
        let link = link("127.0.0.1:0", &cloud)?;
        let listen = link.local_addr();
        let model = Model::open(&zoo(folder.path(), NETWORK)?, &ImportOptions::default())?;
        let text = format!(
            "version = 1\n[[device]]\nname = \"edge\"\naddress = \"{}\"\n[[device]]\nname = \"cloud\"\naddress = \"{}\"\n[[link]]\nbetween = [\"edge\", \"cloud\"]\nup = \"50mbit\"\ndelay = \"5ms\"\nfixed = \"300us\"\nvia = \"{listen}\"",
            edge.process()?.address,
            cloud.process()?.address
        );
        let platform: Platform = toml::from_str(&text)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let profiles = [&edge, &cloud].map(|agent| -> anyhow::Result<_> {
            Ok(vec![profile_on(&runtime, agent.process()?, &model, engine)?])
        });
        let [first, second] = profiles;
        let plan = plan(&model, &platform, &[first?, second?])?;
        let link = Some(link);
        Ok(Self {
            edge,
            cloud,
            link,
            listen,
            engine,
            slowdown,
            model,
            plan,
            runtime,
            _folder: folder,
        })
    }

    /// The link, where there is one now.
    pub(crate) fn link(&self) -> anyhow::Result<&LinkHandle> {
        self.link.as_ref().context("the link is there")
    }

    pub(crate) fn take_link(&mut self) {
        self.link = None;
    }

    pub(crate) fn give_link(&mut self) -> anyhow::Result<()> {
        self.link = Some(link(&self.listen.to_string(), &self.cloud)?);
        Ok(())
    }

    /// Latencies of the whole network at the source, alone.
    pub(crate) fn alone(&self) -> anyhow::Result<Vec<f64>> {
        let edge_only = self.plan.baselines.iter().find(|baseline| baseline.name == "edge-only");
        let choice = edge_only.and_then(|baseline| baseline.choice.as_ref());
        let choice = choice.context("the edge can hold the network")?;
        let staged = staging::stage(&self.model, &self.plan, choice)?;
        let deploy = Runner::deploy(staged.deployment.clone(), RunOptions::default(), |_| {});
        let runner = self.runtime.block_on(deploy)?;
        let frame = frames(&self.model)?.remove(0);
        let mut times = Vec::new();
        for _ in 0..12 {
            let began = Instant::now();
            self.runtime.block_on(runner.infer(frame.clone()))?;
            times.push(millis(began.elapsed()));
        }
        self.runtime.block_on(runner.remove());
        // The first ones warm up.
        Ok(times.split_off(2))
    }

    /// Plans by the speed of the link, for people.
    pub(crate) fn describe(&self) -> Vec<String> {
        let Some(routes) = &self.plan.routes else { return Vec::new() };
        let text = |range: &cutline_core::plan::PlannedRange| {
            let plan = &routes.routes.get(range.route)?.plan;
            let crossing: Vec<&str> = plan.cut.iter().map(|value| value.name.as_str()).collect();
            let latency = plan.predicted?.latency_ns;
            let name = if crossing.is_empty() {
                "all on the edge".to_owned()
            } else {
                format!("`{}` crosses", crossing.join("`, `"))
            };
            Some(format!("from {}: {name}, {latency} at the upper end", range.from_bytes_per_s))
        };
        routes.best.iter().filter_map(text).collect()
    }

    /// Starts the holder and the camera.
    pub(crate) fn show(&self, what: What, interval: Duration) -> anyhow::Result<Show> {
        let choice = self.plan.best_split.as_ref().context("there is a split")?;
        let in_flight = choice.frames_in_flight().get() as usize;
        let (model, plan) = (&self.model, &self.plan);
        let subject = Subject { model, plan, in_flight, unknown: DEADLINE };
        let staged = staging::stage(model, plan, choice)?;
        let Prepared { routes, mut files } = match (&what, &plan.routes) {
            (What::EverySpeed, Some(swept)) => subject.swept_routes(swept, &self.runtime)?,
            _ => subject.routes_of(choice, &staged, &self.runtime)?,
        };
        let settings = Settings {
            heartbeat: HEARTBEAT,
            dwell: DWELL,
            deadline: DEADLINE,
            most_frames: in_flight,
            ..Settings::default()
        };
        let options = RunOptions::default();
        let (routed, _changes) = self.runtime.block_on(async {
            let first = Runner::deploy(staged.deployment.clone(), options.clone(), |_| {}).await?;
            Routed::start(routes, first, settings, options).await
        })?;
        files.push(staged);
        let frames = frames(&self.model)?;
        let mut expected = Vec::new();
        for frame in &frames {
            expected.push(self.answer(choice, frame)?);
        }
        let limit = in_flight.try_into().context("at least one frame")?;
        let pipeline = Pipeline::new(routed.clone(), limit);
        let (stop, stopped) = mpsc::channel();
        let (sender, answers) = mpsc::channel();
        let handle = self.runtime.handle().clone();
        let camera = thread::spawn(move || {
            handle.block_on(film(pipeline, &frames, &expected, interval, &stopped, &sender))
        });
        let camera = Some(camera);
        Ok(Show { routed, answers, stop, camera, last: None, next: 0, wrong: 0, _prepared: files })
    }

    /// What the whole network answers, in this process.
    fn answer(
        &self,
        choice: &PlannedChoice,
        frame: &Frame,
    ) -> anyhow::Result<Vec<(String, Tensor)>> {
        let whole = self.plan.baselines.iter().find_map(|baseline| match baseline.name.as_str() {
            "edge-only" => baseline.choice.as_ref(),
            _ => None,
        });
        let staged = staging::stage(&self.model, &self.plan, whole.unwrap_or(choice))?;
        let open = |name: Option<&str>| engine::open(name.unwrap_or(self.engine));
        let mut runner = cutline_runtime::runner::LocalRunner::load(&staged.deployment, open, 1)?;
        Ok(runner.infer(frame.clone())?.outputs)
    }
}

impl Show {
    /// The next answer, and for how long before it frames were held and none was answered, counted
    /// from `since` on.
    pub(crate) fn next(&mut self, since: Instant) -> anyhow::Result<(Seen, Duration)> {
        let seen = self.answers.recv_timeout(PATIENCE).map_err(|_| {
            anyhow!("no frame was answered for {PATIENCE:?}: {:?}", self.routed.routing())
        })?;
        self.wrong += u64::from(seen.number != self.next || !seen.right);
        self.next = seen.number + 1;
        let before = self.last.replace(seen.answered).unwrap_or(seen.sent);
        let from = before.max(seen.sent).max(since);
        let quiet = seen.answered.saturating_duration_since(from);
        Ok((seen, quiet))
    }

    /// Frames that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.next
    }

    /// Ends the camera; every frame that it showed is answered then.
    pub(crate) fn end(mut self, rig: &Rig) -> anyhow::Result<(Routing, u64)> {
        let _ = self.stop.send(());
        while let Ok(seen) = self.answers.recv_timeout(PATIENCE) {
            self.wrong += u64::from(seen.number != self.next || !seen.right);
            self.next = seen.number + 1;
        }
        let camera = self.camera.take().context("the camera runs")?;
        camera.join().map_err(|_| anyhow!("the camera panicked"))??;
        let routing = self.routed.routing();
        rig.runtime.block_on(self.routed.remove());
        Ok((routing, self.wrong))
    }
}

/// Shows a frame every interval, unless as many are under way as may be, and tells of every answer.
async fn film(
    mut pipeline: Pipeline<(u64, Instant)>,
    frames: &[Frame],
    expected: &[Vec<(String, Tensor)>],
    interval: Duration,
    stopped: &mpsc::Receiver<()>,
    answers: &mpsc::Sender<Seen>,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut number, mut open) = (0u64, true);
    while open || !pipeline.is_empty() {
        let (can_send, waits) = (open && !pipeline.is_full(), !pipeline.is_empty());
        tokio::select! {
            outcome = pipeline.next(), if waits => {
                let Some(Outcome { tag: (number, sent), result, .. }) = outcome else { continue };
                let answered = Instant::now();
                let (right, route) = match result {
                    Ok(answer) => {
                        let wanted = &expected[number as usize % expected.len()];
                        let route = answer.route.as_deref().unwrap_or_default().to_owned();
                        (alike(&answer.outputs, wanted), route)
                    }
                    Err(error) => {
                        println!("frame {number}: {error}");
                        (false, String::new())
                    }
                };
                let _ = answers.send(Seen { number, sent, answered, right, route });
            }
            _ = ticks.tick(), if can_send => {
                open = stopped.try_recv().is_err();
                if open {
                    let frame = frames[number as usize % frames.len()].clone();
                    let full = pipeline.send((number, Instant::now()), frame).is_err();
                    ensure!(!full, "the pipeline is full");
                    number += 1;
                }
            }
        }
    }
    Ok(())
}

fn alike(answer: &[(String, Tensor)], wanted: &[(String, Tensor)]) -> bool {
    answer.len() == wanted.len()
        && answer.iter().zip(wanted).all(|((name, a), (other, b))| {
            let (a, b) = (a.to_f64(), b.to_f64());
            let largest = b.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE * largest;
            name == other && a.len() == b.len() && a.iter().zip(&b).all(near)
        })
}

fn frames(model: &Model) -> anyhow::Result<Vec<Frame>> {
    let frame = |seed| -> anyhow::Result<Frame> {
        Ok(Frame::Tensors(random_inputs(&model.graph, seed)?.into_iter().collect()))
    };
    (0..PICTURES as u64).map(frame).collect()
}

fn link(listen: &str, cloud: &Agent) -> anyhow::Result<LinkHandle> {
    let mut config = LinkConfig::new(listen, cloud.process()?.address.to_string());
    (config.up, config.down, config.delay) = (Some(FAST), Some(FAST), DELAY);
    Ok(Link::start(config)?)
}

fn plan(
    model: &Model,
    platform: &Platform,
    profiles: &[Vec<cutline_core::profile::Profile>; 2],
) -> anyhow::Result<Plan> {
    let dag = &model.grouping.dag;
    let sha256 = model.sha256()?;
    let costs = Costs::from_profiles(dag, sha256, platform, profiles, &[None])?;
    let request = Request::default();
    let answer = planner::solve(dag, &costs, &request)?;
    let name = ModelRef { name: NETWORK.to_owned(), sha256: sha256.to_owned() };
    let mut plan = Plan::new(name, dag, &costs, platform, &request, &answer, None);
    let ends = [BytesPerSec(12_500), BytesPerSec(1_250_000_000)];
    let regimes = planner::sweep(dag, &costs, &request, 0, ends, &mut || false)?;
    let edge_only = answer.baselines.iter().find(|baseline| baseline.name == "edge-only");
    let edge_only = edge_only.context("edge-only is a baseline")?;
    let fallback = edge_only.outcome.as_ref().map_err(ToString::to_string);
    let (table, choices) = Table::of_sweep(&costs, 0, &regimes, fallback, &[])?;
    plan.add_routes(dag, &costs, &table, &choices);
    Ok(plan)
}

/// The middle and the largest of some times in milliseconds.
pub(crate) fn middle_and_most(times: &[f64]) -> (f64, f64) {
    (median(times), times.iter().copied().fold(0.0, f64::max))
}
