//! Branches of a block on several devices at once: does what such a plan promises hold?
//!
//! Three paced agents alike, the first linked to both others. The best plan with scatter groups and
//! the best one without are run in turns; each is held to its prediction, and what the groups gain
//! to what they were said to gain.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    staging,
};
use cutline_core::{
    cost::Costs,
    onnx::ImportOptions,
    plan::{ModelRef, Plan},
    planner::{self, Request},
    platform::Platform,
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine,
    model::Model,
    runner::{Frame, RunOptions, Runner},
    verify::random_inputs,
};
use tokio::runtime::Runtime;

use super::{
    Verdict,
    fleet::profile_on,
    measure::{BINARY, median, millis, timed, zoo},
};

const NETWORK: &str = "inceptionv3";
const DEVICES: usize = 3;
/// How slow each device is; the sum of 1 / K is 3/16.
const SLOWDOWN: f64 = 16.0;
/// Frames of each plan in a row, of which the first is not counted, and turns of both.
const FRAMES: usize = 3;
const TURNS: usize = 8;
/// How far a prediction may be off.
const TOLERANCE: f64 = 0.10;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let engine = engine::for_onnx().next_back().context("no engine is here")?.name;
    let model = Model::open(&zoo(dir.path(), NETWORK)?, &ImportOptions::default())?;
    let agents = (0..DEVICES).map(|index| {
        let options = AgentOptions {
            engine: Some(engine.to_owned()),
            slowdown: Some(SLOWDOWN),
            threads: Some(1),
            store: dir.path().join(index.to_string()),
            ..AgentOptions::default()
        };
        AgentProcess::start(Path::new(BINARY), &options)
    });
    let agents: Vec<AgentProcess> = agents.collect::<anyhow::Result<_>>()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let platform = star(&agents)?;
    let costs = measured(&agents, &runtime, &model, &platform, engine)?;
    let without = Planned::best(&runtime, &model, &costs, &platform, false)?;
    let with = Planned::best(&runtime, &model, &costs, &platform, true)?;
    ensure!(with.branches > 0, "the best plan scatters nothing");
    println!(
        "{NETWORK} on {DEVICES} agents, each {SLOWDOWN} times slower than a core, {engine}; {} stages on helpers:\n",
        with.branches
    );
    let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
    let (mut one, mut several) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        one.extend(frames(&runtime, &without.runner, &frame)?);
        several.extend(frames(&runtime, &with.runner, &frame)?);
    }
    println!("| plan | predicted, ms | measured, ms | error |");
    println!("|---|---|---|---|");
    let mut met = true;
    for (name, plan, times) in [("without", &without, &one), ("with", &with, &several)] {
        let measured = median(times);
        let error = plan.predicted / measured - 1.0;
        met &= error.abs() <= TOLERANCE;
        let (predicted, percent) = (plan.predicted, error * 100.0);
        println!("| {name} scatter groups | {predicted:.0} | {measured:.0} | {percent:+.1} % |");
    }
    println!(
        "\ntime with scatter groups by time without: predicted {:.3}, measured {:.3}; target: each prediction within 10 %",
        with.predicted / without.predicted,
        median(&several) / median(&one)
    );
    Ok(Verdict::of(met))
}

/// The first device linked to each other one; names are `d0` and so on.
fn star(agents: &[AgentProcess]) -> anyhow::Result<Platform> {
    let mut text = "version = 1\n".to_owned();
    for (index, agent) in agents.iter().enumerate() {
        text += &format!("[[device]]\nname = \"d{index}\"\naddress = \"{}\"\n", agent.address);
    }
    for index in 1..agents.len() {
        text += &format!(
            "[[link]]\nbetween = [\"d0\", \"d{index}\"]\nup = \"1gbit\"\ntable = \"measured\"\n"
        );
    }
    Ok(toml::from_str(&text)?)
}

/// One profile stands for all devices, which are alike; every link is measured.
fn measured(
    agents: &[AgentProcess],
    runtime: &Runtime,
    model: &Model,
    platform: &Platform,
    engine: &str,
) -> anyhow::Result<Costs> {
    let profile = profile_on(runtime, &agents[0], model, engine)?;
    let address = agents[0].address.to_string();
    let tables = agents[1..].iter().map(|agent| {
        runtime.block_on(async {
            let source = AgentClient::connect("d0", &address, ClientOptions::default()).await?;
            Ok(Some(source.measure_link(&agent.address.to_string(), &[], 9, |_| {}).await?))
        })
    });
    let tables = tables.collect::<anyhow::Result<Vec<_>>>()?;
    let profiles = vec![vec![profile]; agents.len()];
    let dag = &model.grouping.dag;
    Ok(Costs::from_profiles(dag, model.sha256()?, platform, &profiles, &tables)?)
}

/// A deployed plan with its predicted latency in milliseconds.
struct Planned {
    predicted: f64,
    branches: usize,
    runner: Runner,
}

impl Planned {
    /// The fastest plan, with or without scatter groups.
    fn best(
        runtime: &Runtime,
        model: &Model,
        costs: &Costs,
        platform: &Platform,
        scatter: bool,
    ) -> anyhow::Result<Self> {
        let dag = &model.grouping.dag;
        let request = Request { scatter, ..Request::default() };
        let answer = planner::solve_until(dag, costs, &request, &mut || false)?;
        let best = answer.best.as_ref().map_err(|why| anyhow!("no plan: {why:?}"))?;
        let predicted = best.evaluation.latency.0 as f64 / 1e6;
        let name = ModelRef { name: NETWORK.to_owned(), sha256: model.sha256()?.to_owned() };
        let plan = Plan::new(name, dag, costs, platform, &request, &answer, None);
        let choice = plan.best.as_ref().context("the plan is empty")?;
        let branches = choice.stages.iter().filter(|stage| stage.joined_by.is_some()).count();
        let staged = staging::stage(model, &plan, choice)?;
        let deploy = Runner::deploy(staged.deployment.clone(), RunOptions::default(), |_| {});
        Ok(Self { predicted, branches, runner: runtime.block_on(deploy)? })
    }
}

fn frames(runtime: &Runtime, runner: &Runner, frame: &Frame) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..=FRAMES {
        let (time, _) = timed(|| Ok(runtime.block_on(runner.infer(frame.clone()))?))?;
        times.push(millis(time));
    }
    Ok(times.split_off(1))
}
