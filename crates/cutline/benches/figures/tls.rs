//! What mutual TLS costs a frame: the same split between agents that speak it and agents that do not.
//!
//! Frames of both are run in turns. The frame crosses two connections, from the caller to the first
//! agent and from there to the second, and its answer comes back over both.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::{cut::candidate_cuts, onnx::ImportOptions};
use cutline_runtime::{
    client::ClientOptions,
    engine,
    model::Model,
    pki::{Authority, Role},
    runner::{Frame, RunOptions, Runner},
    verify::random_inputs,
};
use tokio::runtime::Runtime;

use super::{
    Verdict,
    fleet::{mapping, networks, stage},
    measure::{BINARY, median, millis, timed, zoo},
};

const NETWORKS: [&str; 3] = ["lenet5", "mobilenetv2", "resnet50"];
/// Frames of either side in a row, of which the first is not counted, and turns of both.
const BURST: usize = 6;
const TURNS: usize = 20;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let engine = engine::for_onnx().next_back().context("no engine is here")?.name;
    println!(
        "two agents on loopback, {engine}, one thread each, cut nearest to half of the work:\n"
    );
    println!(
        "| network | bytes in, over the cut | plain, ms | mutual TLS, ms | ratio | more, µs | target |"
    );
    println!("|---|---|---|---|---|---|---|");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let authority = Authority::generate()?;
    let credentials = Arc::new(authority.issue("bench", Role::Controller, &[])?);
    let secure = ClientOptions { credentials: Some(credentials), ..ClientOptions::default() };
    for name in networks(&NETWORKS) {
        let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
        let plain = Pair::start(&dir.path().join(name).join("plain"), engine, None)?;
        let tls = Pair::start(&dir.path().join(name).join("tls"), engine, Some(&authority))?;
        let (plain, cut) = plain.split(&runtime, &model, ClientOptions::default())?;
        let (tls, _) = tls.split(&runtime, &model, secure.clone())?;
        let values = random_inputs(&model.graph, 1)?;
        let bytes: usize = values.values().map(|tensor| tensor.data().len()).sum();
        let frame = Frame::Tensors(values.into_iter().collect());
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            without.extend(plain.frames(&runtime, &frame)?);
            with.extend(tls.frames(&runtime, &frame)?);
        }
        let (without, with) = (median(&without), median(&with));
        println!(
            "| {name} | {bytes}, {cut} | {without:.3} | {with:.3} | {:.3} | {:.0} | printed |",
            with / without,
            (with - without) * 1e3
        );
    }
    Ok(Verdict::Met)
}

/// Two agents, with certificates of an authority or without.
struct Pair {
    agents: Vec<AgentProcess>,
    scheme: &'static str,
}

impl Pair {
    fn start(folder: &Path, engine: &str, authority: Option<&Authority>) -> anyhow::Result<Self> {
        let agents = ["edge", "cloud"].map(|name| {
            let identity = folder.join(name).join("identity");
            if let Some(authority) = authority {
                authority.issue(name, Role::Agent, &[])?.write(&identity)?;
            }
            let options = AgentOptions {
                engine: Some(engine.to_owned()),
                threads: Some(1),
                store: folder.join(name).join("store"),
                identity: authority.map(|_| identity),
                ..AgentOptions::default()
            };
            AgentProcess::start(Path::new(BINARY), &options)
        });
        let agents = agents.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(Self { agents, scheme: if authority.is_some() { "https" } else { "http" } })
    }

    /// Deploys the cut nearest to half of the work; with the bytes that cross it.
    fn split(
        self,
        runtime: &Runtime,
        model: &Model,
        client: ClientOptions,
    ) -> anyhow::Result<(Deployed, u64)> {
        let mut text = "version = 1\n".to_owned();
        for (name, agent) in ["edge", "cloud"].iter().zip(&self.agents) {
            let address = format!("{}://{}", self.scheme, agent.address);
            text += &format!("[[device]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        text += "[[link]]\nbetween = [\"edge\", \"cloud\"]\nup = \"10gbit\"\n";
        let platform = toml::from_str(&text)?;
        let groups = model.grouping.dag.groups();
        let work = |before: &[bool]| -> u64 {
            groups.iter().zip(before).map(|(group, &in_it)| group.macs.0 * u64::from(in_it)).sum()
        };
        let half = work(&vec![true; groups.len()]) / 2;
        let cuts = candidate_cuts(&model.grouping.dag);
        let cut = cuts.iter().min_by_key(|cut| work(&cut.before).abs_diff(half));
        let cut = cut.context("the network has no cut")?;
        let staged = stage(model, &platform, &mapping(model, &platform, &cut.before))?;
        let options = RunOptions { client, ..RunOptions::default() };
        let runner = Runner::deploy(staged.deployment.clone(), options, |_| {});
        let runner = runtime.block_on(runner)?;
        let bytes = cut.bytes.unwrap_or_default().0;
        Ok((Deployed { runner, _agents: self.agents }, bytes))
    }
}

/// A split on its agents.
struct Deployed {
    runner: Runner,
    _agents: Vec<AgentProcess>,
}

impl Deployed {
    /// Milliseconds of each counted frame of a burst.
    fn frames(&self, runtime: &Runtime, frame: &Frame) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        for _ in 0..BURST {
            let (time, _) = timed(|| Ok(runtime.block_on(self.runner.infer(frame.clone()))?))?;
            times.push(millis(time));
        }
        Ok(times.split_off(1))
    }
}
