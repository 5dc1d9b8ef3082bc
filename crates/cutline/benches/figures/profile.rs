//! What a profile says of cuts against the same cuts measured directly, held-out ones included.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use cutline_core::{
    cut::{Cut, candidate_cuts},
    onnx::ImportOptions,
    profile::{Part as Side, Profile},
};
use cutline_runtime::{
    engine::{self, Engine},
    model::Model,
    profiler::{self, ProfileJob},
    tensor::Tensor,
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
/// Inferences of the profile after which some cuts are visited: both sides then meet the same good
/// and bad moments of the machine, and the profile never sees what it is compared to.
const EVERY: u32 = 5;
/// Cuts that are visited then; the next ones the next time.
const AT_A_TIME: usize = 6;
/// Runs of a visit that are counted, after one that is not.
const RUNS: usize = 2;
/// Visits that make a turn. A shared machine has two speeds, which alternate within seconds; the
/// median of single runs jumps between them, the median of means over several moments does not.
const VISITS: usize = 5;
/// Least number of turns; what is missing when the profile is done comes after it.
const TURNS: usize = 3;
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
    for status in engine::for_onnx() {
        let engine = engine::open(status.name)?;
        for name in networks(&NETWORKS) {
            let model = Model::open(&zoo(dir.path(), name)?, &ImportOptions::default())?;
            verdicts.push(network(&model, name, engine.as_ref())?);
        }
    }
    Ok(Verdict::all(verdicts))
}

fn network(model: &Model, name: &str, engine: &dyn Engine) -> anyhow::Result<Verdict> {
    let dag = &model.grouping.dag;
    let cuts = sample(candidate_cuts(dag), cut_limit(CUTS));
    let mut direct = Direct::load(model, &cuts, engine)?;
    let mut outcome = Ok(());
    let job = ProfileJob { threads: ONE_THREAD.threads, ..ProfileJob::default() };
    let profile = profiler::profile(model, engine, &job, &mut |progress| {
        if progress.done % EVERY == 0 && outcome.is_ok() {
            outcome = direct.visit();
        }
    })?;
    outcome?;
    while direct.rounds() < TURNS * VISITS {
        direct.visit()?;
    }
    let measured = direct.medians();
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
    let (middle, p90) = figures(&all);
    let unseen = match held_out.is_empty() {
        true => "0 | - | -".to_owned(),
        false => {
            let (middle, p90) = figures(&held_out);
            format!("{} | {middle:.1} % | {p90:.1} %", held_out.len())
        }
    };
    println!(
        "| {name} | {} | {} | {middle:.1} % | {p90:.1} % | {unseen} | 5 %, 12 % | {:+.1} % |",
        engine.name(),
        all.len(),
        median(&signed) * 100.0,
    );
    Ok(Verdict::of(middle <= 5.0 && p90 <= 12.0))
}

/// Milliseconds of both parts of any cut: every group runs once, and the engine is called twice.
fn predicted(profile: &Profile) -> f64 {
    let groups: u64 = profile.groups.iter().map(|group| group.time_ns.0).sum();
    (groups + 2 * profile.call_ns.0) as f64 / 1e6
}

/// Cuts that are measured directly.
struct Direct<'a> {
    model: &'a Model,
    inputs: BTreeMap<String, Tensor>,
    cuts: Vec<Vec<Part>>,
    /// Milliseconds of each cut's counted runs.
    times: Vec<Vec<f64>>,
    /// Visits of all cuts together.
    visits: usize,
}

impl<'a> Direct<'a> {
    fn load(model: &'a Model, cuts: &[Cut], engine: &dyn Engine) -> anyhow::Result<Self> {
        let loaded: Vec<Vec<Part>> =
            cuts.iter().map(|cut| parts::load(model, cut, engine)).collect::<Result<_, _>>()?;
        let inputs = random_inputs(&model.graph, 1)?;
        Ok(Self { model, inputs, times: vec![Vec::new(); loaded.len()], cuts: loaded, visits: 0 })
    }

    /// The next cuts, both parts of each run one after the other.
    fn visit(&mut self) -> anyhow::Result<()> {
        for _ in 0..AT_A_TIME {
            let cut = self.visits % self.cuts.len();
            for run in 0..=RUNS {
                thread::sleep(REST);
                let parts = &mut self.cuts[cut];
                let (time, _) = timed(|| Ok(run_parts(parts, &self.model.graph, &self.inputs)?))?;
                if run > 0 {
                    self.times[cut].push(millis(time));
                }
            }
            self.visits += 1;
        }
        Ok(())
    }

    /// How often every cut was visited.
    fn rounds(&self) -> usize {
        self.visits / self.cuts.len()
    }

    /// Medians over turns of the mean of each turn.
    fn medians(&self) -> Vec<f64> {
        let mean = |runs: &[f64]| runs.iter().sum::<f64>() / runs.len() as f64;
        let of = |times: &Vec<f64>| {
            median(&times.chunks_exact(VISITS * RUNS).map(mean).collect::<Vec<f64>>())
        };
        self.times.iter().map(of).collect()
    }
}
