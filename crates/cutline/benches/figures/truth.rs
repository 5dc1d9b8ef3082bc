//! Predicted against measured: every part of every cut at three bandwidths, and the plan called best.

use std::time::Duration;

use anyhow::Context;
use cutline_core::{
    cost::Costs,
    cut::candidate_cuts,
    evaluate::{Setting, evaluate},
    onnx::ImportOptions,
    plan::Figures,
    profile::Profile,
    units::{BytesPerSec, Nanos},
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine,
    link::{Change, Link, LinkConfig},
    model::Model,
    profiler::{self, ProfileJob},
    runner::{Frame, Measured, Runner},
    stats,
    verify::random_inputs,
};

use super::{
    Verdict,
    fleet::{Fleet, cut_limit, mapping, sample, stage},
    measure::{median, quantile, zoo},
};

const NETWORKS: [&str; 3] = ["mobilenetv2", "resnet18", "squeezenet"];
const MEGABITS: [u64; 3] = [5, 20, 100];
const SLOWDOWN: u32 = 4;
/// Counted frames of one burst.
const FRAMES: usize = 3;
const DELAY: Nanos = Nanos(10_000_000);

/// The parts that are compared; the last is the total.
type Part = (&'static str, fn(&Figures) -> Nanos);
const PARTS: [Part; 4] = [
    ("edge compute", |figures| figures.edge_compute_ns),
    ("upload", |figures| figures.upload_ns),
    ("cloud compute", |figures| figures.cloud_compute_ns),
    ("total", |figures| figures.latency_ns),
];

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let here = engine::available().into_iter().rfind(|status| status.available);
    let engine = here.context("no engine is here")?.name;
    println!("{engine}, one thread each, edge {SLOWDOWN} times slower, link of {DELAY} each way");
    println!(
        "|predicted - measured| / measured over the cuts, medians of two bursts of {FRAMES} frames:\n"
    );
    println!(
        "| network | Mbit/s | cuts | part | median | p90 | targets | best plan / best measured |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for name in NETWORKS {
        let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
        verdicts.push(network(&model, name, engine)?);
    }
    Ok(Verdict::all(verdicts))
}

fn network(model: &Model, name: &str, engine: &str) -> anyhow::Result<Verdict> {
    let fleet = Fleet::start(engine, 1, Some(f64::from(SLOWDOWN)))?;
    let mut config = LinkConfig::new("127.0.0.1:0", fleet.cloud.address.to_string());
    config.delay = DELAY;
    let link = Link::start(config)?;
    let via = link.local_addr().to_string();
    let platform = fleet.platform(Some(via.clone()))?;
    let profiles = profiles(model, engine)?;
    let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());

    let dag = &model.grouping.dag;
    let groups = dag.groups().len();
    let mut befores: Vec<Vec<bool>> = vec![vec![true; groups], vec![false; groups]];
    let cuts = sample(candidate_cuts(dag), cut_limit());
    befores.extend(cuts.iter().map(|cut| cut.before.clone()));
    let mut runners = Vec::new();
    for before in &befores {
        let staged = stage(model, &platform, &mapping(model, &platform, before))?;
        runners.push(fleet.deploy(&staged)?);
    }
    let address = fleet.edge.address.to_string();
    let source = AgentClient::connect("edge", &address, ClientOptions::default());
    let source = fleet.runtime.block_on(source)?;
    let mut verdicts = Vec::new();
    for megabits in MEGABITS {
        let rate = Some(Some(BytesPerSec(megabits * 125_000)));
        link.set(Change { up: rate, down: rate, ..Change::default() });
        let table = fleet.runtime.block_on(source.measure_link(&via, &[], 9, |_| {}))?;
        let costs =
            Costs::from_profiles(dag, model.sha256()?, &platform, &profiles, &[Some(table)])?;
        let setting = Setting::first(&costs);
        let mut predicted = Vec::new();
        for before in &befores {
            let mapping = mapping(model, &platform, before);
            predicted.push(Figures::from(&evaluate(dag, &costs, &mapping, &setting)?));
        }
        let measured = measure(&fleet, &runners, &frame)?;
        verdicts.push(report(name, megabits, &predicted, &measured));
    }
    Ok(Verdict::all(verdicts))
}

/// One profile, measured here and stretched for the edge, as agents do it.
fn profiles(model: &Model, engine: &str) -> anyhow::Result<Vec<Vec<Profile>>> {
    let engine = engine::open(engine)?;
    let profile = |slowdown: u64| {
        let job = ProfileJob {
            slowdown_permille: slowdown * 1000,
            max_time: Duration::from_secs(10),
            ..ProfileJob::default()
        };
        profiler::profile(model, engine.as_ref(), &job, &mut |_| {})
    };
    Ok(vec![vec![profile(u64::from(SLOWDOWN))?], vec![profile(1)?]])
}

/// Medians of each plan's parts. Plans run frame after frame, as a deployed plan does, in two bursts
/// far apart; the first frame of a burst is not counted.
fn measure(fleet: &Fleet, runners: &[Runner], frame: &Frame) -> anyhow::Result<Vec<Figures>> {
    let mut samples: Vec<Vec<Measured>> = vec![Vec::new(); runners.len()];
    for _ in 0..2 {
        for (runner, samples) in runners.iter().zip(&mut samples) {
            fleet.infer(runner, frame)?;
            for _ in 0..FRAMES {
                samples.push(fleet.infer(runner, frame)?.measured);
            }
        }
    }
    Ok(samples.iter().map(|samples| medians(samples)).collect())
}

fn medians(samples: &[Measured]) -> Figures {
    let of = |part: fn(&Measured) -> Nanos| {
        let mut values: Vec<Nanos> = samples.iter().map(part).collect();
        stats::median(&mut values).unwrap_or_default()
    };
    Figures {
        latency_ns: of(|m| m.latency_ns),
        period_ns: Nanos::ZERO,
        edge_compute_ns: of(|m| m.edge_compute_ns),
        upload_ns: of(|m| m.upload_ns),
        cloud_compute_ns: of(|m| m.cloud_compute_ns),
        rest_ns: of(|m| m.rest_ns),
    }
}

/// The first two plans are everything on the edge and everything in the cloud; the others are cuts.
fn report(name: &str, megabits: u64, predicted: &[Figures], measured: &[Figures]) -> Verdict {
    let best = |figures: &[Figures]| {
        (0..figures.len()).min_by_key(|&i| figures[i].latency_ns).unwrap_or_default()
    };
    let time = |plan: usize| measured[plan].latency_ns.0 as f64;
    let regret = time(best(predicted)) / time(best(measured));
    let mut met = regret <= 1.05;
    for (part, of) in PARTS {
        let errors: Vec<f64> = predicted[2..]
            .iter()
            .zip(&measured[2..])
            .map(|(p, m)| (of(p).0 as f64, of(m).0.max(1) as f64))
            .map(|(p, m)| (p - m).abs() / m)
            .collect();
        let (middle, p90) = (median(&errors), quantile(&errors, 0.9));
        let count = errors.len();
        println!(
            "| {name} | {megabits} | {count} | {part} | {:.1} % | {:.1} % | 10 %, 25 % | {} |",
            middle * 100.0,
            p90 * 100.0,
            if part == "total" { format!("{regret:.3}") } else { String::new() }
        );
        met &= middle <= 0.10 && p90 <= 0.25;
    }
    Verdict::of(met)
}
