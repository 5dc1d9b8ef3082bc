//! Two agents and perhaps a link between them, for the sections that time whole plans.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    staging::{self, Staged},
};
use cutline_core::{
    codec::CutEncoding,
    cut::Cut,
    partition::Mapping,
    plan::{LayerMap, ModelRef, Plan, PlannedChoice},
    planner::{Objective, Request},
    platform::Platform,
    profile::Profile,
};
use cutline_runtime::{
    agent::RemoteJob,
    client::{AgentClient, ClientOptions},
    model::Model,
    profiler::ProfileJob,
    runner::{Frame, RunOptions, Runner},
    stage::FileSpec,
};
use tokio::runtime::Runtime;

use super::measure::BINARY;

/// Two agents on this machine.
pub(crate) struct Fleet {
    pub(crate) edge: AgentProcess,
    pub(crate) cloud: AgentProcess,
    pub(crate) runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Fleet {
    /// Starts both with the same engine and threads; the edge is `slowdown` times slower.
    pub(crate) fn start(
        engine: &str,
        threads: usize,
        slowdown: Option<f64>,
    ) -> anyhow::Result<Self> {
        Self::start_apart(engine, threads, slowdown, Command::new(BINARY), None)
    }

    /// The same, the cloud started by another command and listening elsewhere.
    pub(crate) fn start_apart(
        engine: &str,
        threads: usize,
        slowdown: Option<f64>,
        far: Command,
        listen: Option<String>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = |name: &str, slowdown: Option<f64>| AgentOptions {
            engine: Some(engine.to_owned()),
            slowdown,
            threads: Some(threads),
            store: folder.path().join(name),
            ..AgentOptions::default()
        };
        let edge = AgentProcess::start(Path::new(BINARY), &options("edge", slowdown))?;
        let cloud = AgentOptions { listen, ..options("cloud", None) };
        let cloud = AgentProcess::start_as(far, &cloud)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the asynchronous runtime")?;
        Ok(Self { edge, cloud, runtime, _folder: folder })
    }

    /// The platform of both, the cloud dialled at `via` where given.
    pub(crate) fn platform(&self, via: Option<String>) -> anyhow::Result<Platform> {
        let via = via.map(|via| format!("via = \"{via}\"\n")).unwrap_or_default();
        let text = format!(
            "version = 1\n[[device]]\nname = \"edge\"\naddress = \"{}\"\n[[device]]\nname = \"cloud\"\naddress = \"{}\"\n[[link]]\nbetween = [\"edge\", \"cloud\"]\nup = \"1gbit\"\ntable = \"measured\"\n{via}",
            self.edge.plain(),
            self.cloud.plain()
        );
        Ok(toml::from_str(&text)?)
    }

    /// Deploys a choice.
    pub(crate) fn deploy(&self, staged: &Staged) -> anyhow::Result<Runner> {
        let deploy = Runner::deploy(staged.deployment.clone(), RunOptions::default(), |_| {});
        Ok(self.runtime.block_on(deploy)?)
    }

    /// Runs one frame.
    pub(crate) fn infer(
        &self,
        runner: &Runner,
        frame: &Frame,
    ) -> anyhow::Result<cutline_runtime::runner::Answer> {
        Ok(self.runtime.block_on(runner.infer(frame.clone()))?)
    }
}

/// Has an agent measure a model with the product's own budget, as `cutline profile --agent` does.
pub(crate) fn profile(
    fleet: &Fleet,
    agent: &AgentProcess,
    model: &Model,
    engine: &str,
) -> anyhow::Result<Profile> {
    profile_on(&fleet.runtime, agent, model, engine)
}

/// The same, over any runtime.
pub(crate) fn profile_on(
    runtime: &Runtime,
    agent: &AgentProcess,
    model: &Model,
    engine: &str,
) -> anyhow::Result<Profile> {
    let sha256 = model.sha256()?.to_owned();
    let bytes = std::fs::metadata(&model.path)?.len();
    let defaults = ProfileJob::default();
    let job = RemoteJob {
        files: vec![FileSpec { name: "model.onnx".to_owned(), sha256: sha256.clone(), bytes }],
        input_shapes: BTreeMap::new(),
        engine: Some(engine.to_owned()),
        threads: None,
        max_inferences: defaults.max_inferences,
        max_millis: u64::try_from(defaults.max_time.as_millis())?,
        picture: None,
        meter: None,
    };
    let job = serde_json::to_string(&job)?;
    runtime.block_on(async {
        let address = agent.plain();
        let client = AgentClient::connect("agent", &address, ClientOptions::default()).await?;
        let places = [(sha256.clone(), model.path.clone())].into();
        client.send_missing(vec![sha256], &places).await?;
        Ok(client.profile(job, |_| {}).await?)
    })
}

/// A mapping: the groups before a cut on the edge, the others in the cloud.
pub(crate) fn mapping(model: &Model, platform: &Platform, before: &[bool]) -> Mapping {
    let devices: Vec<_> = platform.device_ids().collect();
    debug_assert_eq!(before.len(), model.grouping.dag.groups().len());
    Mapping(before.iter().map(|&before| devices[usize::from(!before)]).collect())
}

/// Splits the model between the devices as a hand-made plan would.
pub(crate) fn stage(
    model: &Model,
    platform: &Platform,
    mapping: &Mapping,
) -> anyhow::Result<Staged> {
    let (plan, choice) = by_hand(model, platform, mapping)?;
    staging::stage(model, &plan, &choice)
}

/// A hand-made plan.
pub(crate) fn by_hand(
    model: &Model,
    platform: &Platform,
    mapping: &Mapping,
) -> anyhow::Result<(Plan, PlannedChoice)> {
    let dag = &model.grouping.dag;
    let layers = dag.group_ids().flat_map(|id| {
        let device = platform.device(mapping.device(id)).name.clone();
        dag.group(id).layers.iter().map(move |layer| (layer.clone(), device.clone()))
    });
    let name = ModelRef { name: "bench".to_owned(), sha256: model.sha256()?.to_owned() };
    let map = LayerMap(layers.collect());
    let choice = PlannedChoice::manual(dag, platform, (map, CutEncoding::Fp32), &name, None)?;
    let plan = Plan {
        version: 1,
        model: name,
        platform: platform.clone(),
        objective: Objective::Latency,
        request: Request::default(),
        picture: None,
        baselines: Vec::new(),
        best: None,
        best_split: None,
        reason: String::new(),
        frame_interval_ns: None,
        refinement: None,
        routes: None,
    };
    Ok((plan, choice))
}

/// The networks that a section takes: `CUTLINE_BENCH_NETWORKS`, separated by commas, else all of
/// its own.
pub(crate) fn networks(own: &[&'static str]) -> Vec<&'static str> {
    let Ok(wanted) = std::env::var("CUTLINE_BENCH_NETWORKS") else { return own.to_vec() };
    own.iter().copied().filter(|name| wanted.split(',').any(|word| word == *name)).collect()
}

/// The rates in Mbit/s that a section takes: `CUTLINE_BENCH_RATES`, separated by commas, else all of
/// its own.
pub(crate) fn rates(own: &[u64]) -> Vec<u64> {
    let Ok(wanted) = std::env::var("CUTLINE_BENCH_RATES") else { return own.to_vec() };
    own.iter()
        .copied()
        .filter(|rate| wanted.split(',').any(|word| word == rate.to_string()))
        .collect()
}

/// At most `count` of the cuts, evenly spread.
pub(crate) fn sample(mut cuts: Vec<Cut>, count: usize) -> Vec<Cut> {
    if cuts.len() > count && count > 1 {
        let last = cuts.len() - 1;
        let keep: Vec<usize> = (0..count).map(|i| i * last / (count - 1)).collect();
        let mut index = 0;
        cuts.retain(|_| {
            index += 1;
            keep.contains(&(index - 1))
        });
    }
    cuts
}

/// How many cuts of a network a timed section takes: `CUTLINE_BENCH_CUTS`, else its own number.
pub(crate) fn cut_limit(default: usize) -> usize {
    let limit = std::env::var("CUTLINE_BENCH_CUTS").ok().and_then(|text| text.parse().ok());
    limit.unwrap_or(default)
}

/// A file beside the benchmark's sources.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/figures").join(name)
}
