//! Planning, measuring, correcting, planning again: does the winner's prediction hold on its agents?

use anyhow::Context;
use cutline::refine::{self, Budget, Subject, TOLERANCE_PERMILLE};
use cutline_core::{
    cost::Costs,
    onnx::ImportOptions,
    plan::{Figures, ModelRef, Plan, Trial},
    planner::{Objective, Request},
    units::{BytesPerSec, Nanos},
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine,
    link::{Link, LinkConfig},
    model::Model,
    runner::Frame,
    verify::random_inputs,
};

use super::{
    Verdict,
    fleet::{self, Fleet, networks},
    measure::{median, zoo},
};

const NETWORKS: [&str; 2] = ["mobilenetv2", "resnet18"];
const OBJECTIVES: [Objective; 2] = [Objective::Latency, Objective::Period];
const RATE: BytesPerSec = BytesPerSec(50 * 125_000);
const DELAY: Nanos = Nanos(5_000_000);
/// What refining may spend.
const BUDGET: Budget = Budget { rounds: 6, plans: 3, frames: 12 };
/// Frames of one run of the winner.
const FRAMES: usize = 10;
/// Runs of the winner afterwards.
const RUNS: usize = 5;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let engine = engine::for_onnx().next_back().context("no engine is here")?.name;
    println!("{engine}, one thread each, edge 4 times slower, 50 Mbit/s, 5 ms");
    println!("after refining, predicted against the median of {RUNS} runs of {FRAMES} frames:\n");
    println!("| network | objective | rounds | first error | latency | period | target |");
    println!("|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for name in networks(&NETWORKS) {
        let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
        verdicts.push(network(&model, name, engine)?);
    }
    Ok(Verdict::all(verdicts))
}

fn network(model: &Model, name: &str, engine: &str) -> anyhow::Result<Verdict> {
    let fleet = Fleet::start(engine, 1, Some(4.0))?;
    let mut config = LinkConfig::new("127.0.0.1:0", fleet.cloud.address.to_string());
    (config.up, config.down, config.delay) = (Some(RATE), Some(RATE), DELAY);
    let link = Link::start(config)?;
    let via = link.local_addr().to_string();
    let platform = fleet.platform(Some(via.clone()))?;
    let profiles = vec![
        vec![fleet::profile(&fleet, &fleet.edge, model, engine)?],
        vec![fleet::profile(&fleet, &fleet.cloud, model, engine)?],
    ];
    let address = fleet.edge.address.to_string();
    let source = AgentClient::connect("edge", &address, ClientOptions::default());
    let source = fleet.runtime.block_on(source)?;
    let table = fleet.runtime.block_on(source.measure_link(&via, &[], 9, |_| {}))?;
    let dag = &model.grouping.dag;
    let costs = Costs::from_profiles(dag, model.sha256()?, &platform, &profiles, &[Some(table)])?;
    let subject = Subject {
        model,
        name: ModelRef { name: name.to_owned(), sha256: model.sha256()?.to_owned() },
        platform: &platform,
        picture: None,
        frame: Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect()),
        client: ClientOptions::default(),
    };
    let mut met = true;
    for objective in OBJECTIVES {
        let request = Request { objective, ..Request::default() };
        let mut costs = costs.clone();
        let (answer, refinement) =
            refine::refine(&subject, &mut costs, &request, BUDGET, &mut || false, &mut |_| {})?;
        let best = answer.best.as_ref().ok().context("no plan")?;
        let predicted = Figures::from(&best.evaluation);
        let plan = Plan::new(subject.name.clone(), dag, &costs, &platform, &request, &answer, None);
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(refine::measure(&subject, &plan, FRAMES, &fleet.runtime)?.figures);
        }
        let off = |of: fn(&Figures) -> Nanos| {
            let times: Vec<f64> = runs.iter().map(|run| of(run).0 as f64).collect();
            let measured = median(&times);
            (of(&predicted).0 as f64 - measured).abs() / measured
        };
        let (latency, period) = (off(|f| f.latency_ns), off(|f| f.period_ns));
        let tolerance = TOLERANCE_PERMILLE as f64 / 1000.0;
        met &= latency <= tolerance && period <= tolerance;
        let first = refinement.trials.first().map_or(0, Trial::error_permille);
        let rounds = refinement.trials.last().map_or(0, |trial| trial.round);
        println!(
            "| {name} | {} | {} | {:.1} % | {:.1} % | {:.1} % | 5 % |",
            objective.name(),
            rounds,
            first as f64 / 10.0,
            latency * 100.0,
            period * 100.0
        );
    }
    Ok(Verdict::of(met))
}
