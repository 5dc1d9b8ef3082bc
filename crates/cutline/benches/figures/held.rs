//! Two agents, a link that can be taken away, and a plan for every speed of it: where `failure` and
//! `adaptation` run; and agents that can be killed, stopped and started again.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    routes::Subject,
    staging::{self, Staged},
};
use cutline_core::{
    cost::Costs,
    onnx::ImportOptions,
    plan::{ModelRef, Plan},
    planner::{self, Request},
    platform::Platform,
    routing::{Settings, Table},
    units::{BytesPerSec, Nanos},
};
use cutline_runtime::{
    engine,
    link::{Link, LinkConfig, LinkHandle},
    model::Model,
    runner::{RunOptions, Runner},
};
use tokio::runtime::Runtime;

use super::{
    camera::{Held, Reel, Show},
    fleet::profile_on,
    measure::{BINARY, median, millis, zoo},
};

/// The network, and how much slower than this machine its edge is, by engine.
const NETWORK: &str = "mobilenetv2";
const SLOWDOWNS: [(&str, f64); 2] = [("onnxruntime", 32.0), ("rten", 5.0)];

/// The link in good times.
pub(crate) const FAST: BytesPerSec = BytesPerSec(50 * 125_000);
const DELAY: Nanos = Nanos(5_000_000);

/// Time between two signs of life.
pub(crate) const HEARTBEAT: Nanos = Nanos(250_000_000);
const DWELL: Nanos = Nanos(1_000_000_000);
pub(crate) const DEADLINE: Nanos = Nanos(20_000_000_000);

/// An agent that can be killed and started again where it was.
pub(crate) struct Agent {
    process: Option<AgentProcess>,
    pub(crate) options: AgentOptions,
    /// What is started; another command that starts it in the end.
    pub(crate) binary: PathBuf,
}

impl Agent {
    pub(crate) fn start(
        store: PathBuf,
        engine: &str,
        slowdown: Option<f64>,
    ) -> anyhow::Result<Self> {
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

    /// As a power cut and its end.
    pub(crate) fn again(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.restart()
    }

    /// Comes back with so much memory, as the command line spells it, or with all of it.
    pub(crate) fn again_with(&mut self, memory: Option<&str>) -> anyhow::Result<()> {
        self.options.memory = memory.map(str::to_owned);
        self.again()
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
    pub(crate) model: Model,
    pub(crate) plan: Plan,
    pub(crate) runtime: Runtime,
    pub(crate) folder: tempfile::TempDir,
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
        Ok(Self { edge, cloud, link, listen, engine, slowdown, model, plan, runtime, folder })
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
        let staged = self.whole()?;
        let deploy = Runner::deploy(staged.deployment.clone(), RunOptions::default(), |_| {});
        let runner = self.runtime.block_on(deploy)?;
        let frame = Reel::of(&self.model, &staged.deployment, self.engine)?.first();
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
        let prepared = match (&what, &plan.routes) {
            (What::EverySpeed, Some(swept)) => subject.swept_routes(swept, &self.runtime)?,
            _ => subject.routes_of(choice, &staged, &self.runtime)?,
        };
        let held = Held::start(&self.runtime, staged, prepared, settings(in_flight))?;
        let reel = Reel::of(model, &self.whole()?.deployment, self.engine)?;
        Show::start(&self.runtime, held, reel, in_flight, Some(interval))
    }

    /// The whole network at the source.
    fn whole(&self) -> anyhow::Result<Staged> {
        self.whole_of(&self.plan)
    }

    /// The same, as a plan of this rig's says that pictures are read.
    pub(crate) fn whole_of(&self, plan: &Plan) -> anyhow::Result<Staged> {
        let edge_only = plan.baselines.iter().find(|baseline| baseline.name == "edge-only");
        let choice = edge_only.and_then(|baseline| baseline.choice.as_ref());
        staging::stage(&self.model, plan, choice.context("the edge can hold the network")?)
    }
}

/// How a holder watches in these sections.
pub(crate) fn settings(in_flight: usize) -> Settings {
    Settings {
        heartbeat: HEARTBEAT,
        dwell: DWELL,
        deadline: DEADLINE,
        most_frames: in_flight,
        ..Settings::default()
    }
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
