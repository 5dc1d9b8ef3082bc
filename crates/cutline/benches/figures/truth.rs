//! Predicted against measured: every part of ten cuts at three bandwidths, and the plan called best.
//!
//! What a user does: both agents profile the network, the link is measured, plans are deployed, and
//! frames run through each, one after the other, as a deployed plan is used. Since the speed of a
//! shared machine changes by the second, every plan has its turn several times at every bandwidth,
//! and the profiles are taken between turns. No profile sees a frame.

use std::cell::RefCell;

use anyhow::Context;
use cutline_core::{
    cost::Costs,
    cut::candidate_cuts,
    evaluate::{Setting, evaluate},
    onnx::ImportOptions,
    plan::Figures,
    profile::LinkTable,
    units::{BytesPerSec, Nanos},
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine,
    link::{Change, Link, LinkConfig},
    model::Model,
    runner::{Frame, Measured, Runner},
    stats,
    verify::random_inputs,
};

use super::{
    Verdict,
    fleet::{self, Fleet, cut_limit, mapping, networks, rates, sample, stage},
    measure::{median, quantile, zoo},
    namespace::{self, Uplink},
};

const NETWORKS: [&str; 3] = ["mobilenetv2", "resnet18", "squeezenet"];
const MEGABITS: [u64; 3] = [5, 20, 100];
const SLOWDOWN: u32 = 4;
/// Candidate cuts, unless told otherwise; all in one place or the other come on top.
const CUTS: usize = 10;
/// Turns of each plan at each bandwidth.
const TURNS: usize = 8;
/// Turns before which the devices are profiled.
const EDGE_PROFILED_BEFORE: usize = 2;
const CLOUD_PROFILED_BEFORE: usize = 6;
/// Counted frames of one turn; one more, before them, is not.
const FRAMES: usize = 1;
const DELAY: Nanos = Nanos(10_000_000);

/// The parts that are compared; the last is the total.
type Part = (&'static str, fn(&Figures) -> Nanos);
const PARTS: [Part; 4] = [
    ("edge compute", |figures| figures.edge_compute_ns),
    ("upload", |figures| figures.upload_ns),
    ("cloud compute", |figures| figures.cloud_compute_ns),
    ("total", |figures| figures.latency_ns),
];

/// Over the link simulator.
pub(crate) fn run() -> anyhow::Result<Verdict> {
    over(&format!("a simulated link of {DELAY} each way"), |engine| {
        let fleet = Fleet::start(engine, 1, Some(f64::from(SLOWDOWN)))?;
        let mut config = LinkConfig::new("127.0.0.1:0", fleet.cloud.address.to_string());
        config.delay = DELAY;
        let link = Link::start(config)?;
        let via = Some(link.local_addr().to_string());
        let shape = move |megabits: u64| {
            let rate = Some(Some(BytesPerSec(megabits * 125_000)));
            link.set(Change { up: rate, down: rate, ..Change::default() });
            Ok(())
        };
        Ok(Scene { fleet, via, shape: Box::new(shape) })
    })
}

/// Over a real kernel queue: the cloud's agent in a network namespace of its own.
pub(crate) fn run_tbf() -> anyhow::Result<Verdict> {
    if !namespace::inside() {
        return namespace::enter("truth-tbf");
    }
    over("a link between network namespaces, shaped by tbf", |engine| {
        let link = Uplink::new()?;
        let slowdown = Some(f64::from(SLOWDOWN));
        let fleet = Fleet::start_apart(engine, 1, slowdown, link.far(), Some(link.listen()))?;
        let link = RefCell::new(link);
        let shape = move |megabits| link.borrow_mut().shape(megabits);
        Ok(Scene { fleet, via: None, shape: Box::new(shape) })
    })
}

/// Two agents, and the link between them at a rate in Mbit/s.
struct Scene {
    fleet: Fleet,
    via: Option<String>,
    shape: Box<dyn Fn(u64) -> anyhow::Result<()>>,
}

fn over(
    link: &str,
    scene: impl Fn(&'static str) -> anyhow::Result<Scene>,
) -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let engine = engine::for_onnx().next_back().context("no engine is here")?.name;
    println!("{engine}, one thread each, edge {SLOWDOWN} times slower, {link}");
    println!(
        "|predicted - measured| / measured over the cuts, medians of {TURNS} turns of {FRAMES} frames; bias is the median with its sign:\n"
    );
    println!(
        "| network | Mbit/s | cuts | part | median | p90 | targets | bias | best plan / best measured |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for name in networks(&NETWORKS) {
        let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
        verdicts.push(network(&model, name, engine, &scene(engine)?)?);
    }
    Ok(Verdict::all(verdicts))
}

fn network(model: &Model, name: &str, engine: &str, scene: &Scene) -> anyhow::Result<Verdict> {
    let fleet = &scene.fleet;
    let platform = fleet.platform(scene.via.clone())?;
    let dag = &model.grouping.dag;
    let groups = dag.groups().len();
    let mut befores: Vec<Vec<bool>> = vec![vec![true; groups], vec![false; groups]];
    let cuts = sample(candidate_cuts(dag), cut_limit(CUTS));
    befores.extend(cuts.iter().map(|cut| cut.before.clone()));
    let mut runners = Vec::new();
    for before in &befores {
        let staged = stage(model, &platform, &mapping(model, &platform, before))?;
        runners.push(fleet.deploy(&staged)?);
    }
    let rates = rates(&MEGABITS);
    let tables = link_tables(scene, &rates)?;

    let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
    let mut samples = vec![vec![Vec::new(); runners.len()]; rates.len()];
    let mut profiles = Vec::new();
    for turn in 0..TURNS {
        // Each device is profiled between two turns, so that profile and frames meet the same good
        // and bad moments of the machine.
        match turn {
            EDGE_PROFILED_BEFORE => {
                profiles.push(vec![fleet::profile(fleet, &fleet.edge, model, engine)?]);
            }
            CLOUD_PROFILED_BEFORE => {
                profiles.push(vec![fleet::profile(fleet, &fleet.cloud, model, engine)?]);
            }
            _ => {}
        }
        for (&megabits, samples) in rates.iter().zip(&mut samples) {
            (scene.shape)(megabits)?;
            take_turn(fleet, &runners, &frame, samples)?;
        }
    }

    let mut verdicts = Vec::new();
    for ((megabits, table), samples) in rates.into_iter().zip(tables).zip(samples) {
        let costs =
            Costs::from_profiles(dag, model.sha256()?, &platform, &profiles, &[Some(table)])?;
        let setting = Setting::first(&costs);
        let mut predicted = Vec::new();
        for before in &befores {
            let mapping = mapping(model, &platform, before);
            predicted.push(Figures::from(&evaluate(dag, &costs, &mapping, &setting)?));
        }
        let measured: Vec<Figures> = samples.iter().map(|samples| medians(samples)).collect();
        verdicts.push(report(name, megabits, &predicted, &measured));
    }
    Ok(Verdict::all(verdicts))
}

/// The cost of the link at each rate, measured as a user would.
fn link_tables(scene: &Scene, rates: &[u64]) -> anyhow::Result<Vec<LinkTable>> {
    let fleet = &scene.fleet;
    let address = fleet.edge.address.to_string();
    let source = AgentClient::connect("edge", &address, ClientOptions::default());
    let source = fleet.runtime.block_on(source)?;
    let target = scene.via.clone().unwrap_or_else(|| fleet.cloud.plain());
    let table = |&megabits: &u64| {
        (scene.shape)(megabits)?;
        Ok(fleet.runtime.block_on(source.measure_link(&target, &[], 9, |_| {}))?)
    };
    rates.iter().map(table).collect()
}

/// Adds the counted frames of one turn of every plan to its samples.
fn take_turn(
    fleet: &Fleet,
    runners: &[Runner],
    frame: &Frame,
    samples: &mut [Vec<Measured>],
) -> anyhow::Result<()> {
    for (runner, samples) in runners.iter().zip(samples) {
        fleet.infer(runner, frame)?;
        for _ in 0..FRAMES {
            samples.push(fleet.infer(runner, frame)?.measured);
        }
    }
    Ok(())
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
        let signed: Vec<f64> = predicted[2..]
            .iter()
            .zip(&measured[2..])
            .map(|(p, m)| (of(p).0 as f64, of(m).0.max(1) as f64))
            .map(|(p, m)| (p - m) / m)
            .collect();
        let errors: Vec<f64> = signed.iter().map(|error| error.abs()).collect();
        let (middle, p90) = (median(&errors), quantile(&errors, 0.9));
        println!(
            "| {name} | {megabits} | {} | {part} | {:.1} % | {:.1} % | 10 %, 25 % | {:+.1} % | {} |",
            errors.len(),
            middle * 100.0,
            p90 * 100.0,
            median(&signed) * 100.0,
            if part == "total" { format!("{regret:.3}") } else { String::new() }
        );
        met &= middle <= 0.10 && p90 <= 0.25;
    }
    Verdict::of(met)
}
