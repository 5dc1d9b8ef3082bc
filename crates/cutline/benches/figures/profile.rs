//! What a profile says of cuts against the same cuts measured directly, held-out ones included.

use std::{collections::BTreeSet, thread, time::Duration};

use cutline_core::{
    cut::{Cut, candidate_cuts},
    onnx::ImportOptions,
    profile::{Part as Side, Profile},
};
use cutline_runtime::{
    engine::{self, Engine},
    model::Model,
    profiler::{self, ProfileJob},
    verify::{Part, random_inputs, run_parts},
};

use super::{
    Verdict,
    fleet::{cut_limit, networks, sample},
    measure::{median, millis, quantile, timed, zoo},
    parts::{self, ONE_THREAD},
};

const NETWORKS: [&str; 3] = ["mobilenetv2", "squeezenet", "resnet18"];
/// Candidate cuts, unless told otherwise.
const CUTS: usize = 24;
/// Turns of each cut; in each, one run that is not counted and two that are.
const TURNS: usize = 4;
const RUNS: usize = 2;
/// Rest before each run, about as long as a device waits for its next frame.
const REST: Duration = Duration::from_millis(30);

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    println!(
        "|predicted - measured| / measured of first part + second part, one thread; held out are the cuts that the profile did not measure:\n"
    );
    println!(
        "| network | engine | cuts | median | p90 | held out | median | p90 | targets | bias |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for status in engine::available().into_iter().filter(|status| status.available) {
        let engine = engine::open(status.name)?;
        for name in networks(&NETWORKS) {
            let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
            verdicts.push(network(&model, name, engine.as_ref())?);
        }
    }
    Ok(Verdict::all(verdicts))
}

fn network(model: &Model, name: &str, engine: &dyn Engine) -> anyhow::Result<Verdict> {
    let job = ProfileJob { threads: ONE_THREAD.threads, ..ProfileJob::default() };
    let profile = profiler::profile(model, engine, &job, &mut |_| {})?;
    let dag = &model.grouping.dag;
    let cuts = sample(candidate_cuts(dag), cut_limit(CUTS));
    let measured = measure(model, &cuts, engine)?;
    let known: BTreeSet<&[String]> = profile
        .segments
        .iter()
        .filter(|segment| segment.part != Side::Whole)
        .map(|segment| segment.cut.as_slice())
        .collect();
    let (mut all, mut held_out, mut signed) = (Vec::new(), Vec::new(), Vec::new());
    for (cut, measured) in cuts.iter().zip(measured) {
        let error = (predicted(&profile) - measured).abs() / measured;
        signed.push((predicted(&profile) - measured) / measured);
        all.push(error);
        let values: Vec<String> = cut.flows.iter().map(|&f| dag.flow(f).name.clone()).collect();
        if !known.contains(values.as_slice()) {
            held_out.push(error);
        }
    }
    let figures = |errors: &[f64]| (median(errors) * 100.0, quantile(errors, 0.9) * 100.0);
    let ((middle, p90), (held_middle, held_p90)) = (figures(&all), figures(&held_out));
    println!(
        "| {name} | {} | {} | {middle:.1} % | {p90:.1} % | {} | {held_middle:.1} % | {held_p90:.1} % | 5 %, 12 % | {:+.1} % |",
        engine.name(),
        all.len(),
        held_out.len(),
        median(&signed) * 100.0,
    );
    Ok(Verdict::of(middle <= 5.0 && p90 <= 12.0))
}

/// Milliseconds of both parts of any cut: every group runs once, and the engine is called twice.
fn predicted(profile: &Profile) -> f64 {
    let groups: u64 = profile.groups.iter().map(|group| group.time_ns.0).sum();
    (groups + 2 * profile.call_ns.0) as f64 / 1e6
}

/// Milliseconds of both parts of each cut, medians of turns taken one cut after the other.
fn measure(model: &Model, cuts: &[Cut], engine: &dyn Engine) -> anyhow::Result<Vec<f64>> {
    let inputs = random_inputs(&model.graph, 1)?;
    let mut loaded: Vec<Vec<Part>> =
        cuts.iter().map(|cut| parts::load(model, cut, engine)).collect::<Result<_, _>>()?;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); cuts.len()];
    for _ in 0..TURNS {
        for (parts, times) in loaded.iter_mut().zip(&mut times) {
            for run in 0..=RUNS {
                thread::sleep(REST);
                let (time, _) = timed(|| Ok(run_parts(parts, &model.graph, &inputs)?))?;
                if run > 0 {
                    times.push(millis(time));
                }
            }
        }
    }
    Ok(times.iter().map(|times| median(times)).collect())
}
