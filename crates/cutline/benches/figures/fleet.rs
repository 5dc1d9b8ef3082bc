//! Two agents and perhaps a link between them, for the sections that time whole plans.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    staging::{self, Staged},
};
use cutline_core::{
    cut::Cut,
    partition::Mapping,
    plan::{LayerMap, ModelRef, Plan, PlannedChoice},
    planner::{Objective, Request},
    platform::Platform,
};
use cutline_runtime::{
    model::Model,
    runner::{Frame, RunOptions, Runner},
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
        let folder = tempfile::tempdir()?;
        let agent = |name: &str, slowdown: Option<f64>| {
            let options = AgentOptions {
                engine: Some(engine.to_owned()),
                slowdown,
                threads: Some(threads),
                memory: None,
                store: folder.path().join(name),
            };
            AgentProcess::start(Path::new(BINARY), &options)
        };
        let edge = agent("edge", slowdown)?;
        let cloud = agent("cloud", None)?;
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
            self.edge.address, self.cloud.address
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

/// A mapping: the groups before a cut on the edge, the others in the cloud.
pub(crate) fn mapping(model: &Model, platform: &Platform, before: &[bool]) -> Mapping {
    let devices: Vec<_> = platform.device_ids().collect();
    debug_assert_eq!(before.len(), model.grouping.dag.groups().len());
    Mapping(before.iter().map(|&before| devices[usize::from(!before)]).collect())
}

/// Splits the model between the two devices as a hand-made plan would.
pub(crate) fn stage(
    model: &Model,
    platform: &Platform,
    mapping: &Mapping,
) -> anyhow::Result<Staged> {
    let dag = &model.grouping.dag;
    let layers = dag.group_ids().flat_map(|id| {
        let device = platform.device(mapping.device(id)).name.clone();
        dag.group(id).layers.iter().map(move |layer| (layer.clone(), device.clone()))
    });
    let name = ModelRef { name: "bench".to_owned(), sha256: model.sha256()?.to_owned() };
    let map = LayerMap(layers.collect());
    let choice = PlannedChoice::manual(dag, platform, map, &name, None)?;
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
    };
    staging::stage(model, &plan, &choice)
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

/// How many cuts of a network the timed sections take: `CUTLINE_BENCH_CUTS`, else all.
pub(crate) fn cut_limit() -> usize {
    let limit = std::env::var("CUTLINE_BENCH_CUTS").ok().and_then(|text| text.parse().ok());
    limit.unwrap_or(usize::MAX)
}

/// A file beside the benchmark's sources.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/figures").join(name)
}
