//! Networks predicted from kernels and from networks of other families, against what they take.
//!
//! `CUTLINE_BENCH_CACHE` names a folder where measurements are kept, and taken from when they are
//! there: the same data can then be predicted anew without measuring again.

use std::{collections::BTreeMap, env, fs, path::Path, time::Duration};

use cutline_core::{
    cut::candidate_cuts,
    onnx::ImportOptions,
    predict::{self, Counted, Measured, MemoryModel, Sample, Sweep, analyse, family, works},
    profile::{Part, Profile},
    split,
    zoo::{self, ZooOptions, kernel},
};
use cutline_runtime::{
    engine::Engine,
    files::write_atomic,
    model::Model,
    profiler::{self, ProfileJob, SweepJob},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Verdict,
    measure::{median, quantile},
    parts::{ONE_THREAD, engines},
};

const SIZES: [u32; 3] = [128, 176, 224];
/// Side of the networks whose cuts are compared.
const CUT_SIZE: u32 = 128;
const KERNELS: usize = 256;
/// Networks that take less than this are not judged.
const SHORTEST_MS: f64 = 1.0;
/// How much slower than this machine the edge is.
const EDGE: f64 = 4.0;
const MBITS: [f64; 3] = [5.0, 20.0, 100.0];
/// Time that a message takes whatever its size, in milliseconds.
const DELAY_MS: f64 = 1.0;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let mut verdicts = Vec::new();
    for engine in engines()? {
        let sweep: Sweep = kept(&format!("kernels-{}.json", engine.name()), || {
            let mut job = SweepJob { threads: ONE_THREAD.threads, ..SweepJob::default() };
            job.rounds = if engine.name() == "rten" { 6 } else { job.rounds };
            Ok(profiler::sweep(&samples(), engine.as_ref(), &job, &mut |_| {})?)
        })?;
        verdicts.push(networks(&sweep)?);
        memory(&sweep);
        verdicts.push(cuts(&sweep, engine.as_ref())?);
    }
    Ok(Verdict::all(verdicts))
}

/// Kernels, and every network in every size that it takes.
fn samples() -> Vec<Sample> {
    let kernels = kernel::sweep(KERNELS, 1).into_iter();
    let kernels = kernels.map(|kernel| Sample::Kernel { copies: kernel.copies(), kernel });
    let sized = zoo::names().into_iter().flat_map(|name| SIZES.map(|size| (name, size)));
    let taken = sized.filter(|&(name, size)| zoo::outline(name, Some(size)).is_ok());
    let networks = taken.map(|(network, size)| Sample::Network {
        network: network.to_owned(),
        input_size: Some(size),
    });
    kernels.chain(networks).collect()
}

/// What was measured before, or is measured now and kept.
fn kept<T: Serialize + DeserializeOwned>(
    name: &str,
    measure: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(folder) = env::var_os("CUTLINE_BENCH_CACHE") else { return measure() };
    let path = Path::new(&folder).join(name);
    if let Ok(bytes) = fs::read(&path) {
        return Ok(serde_json::from_slice(&bytes)?);
    }
    let measured = measure()?;
    fs::create_dir_all(&folder)?;
    fs::write(path, serde_json::to_vec_pretty(&measured)?)?;
    Ok(measured)
}

/// The networks of a sweep with their times in milliseconds.
fn measured(sweep: &Sweep) -> impl Iterator<Item = (&Measured, &str, f64)> {
    sweep.samples.iter().filter_map(|measured| match &measured.sample {
        Sample::Network { network, .. } => {
            Some((measured, network.as_str(), measured.time_ns.0 as f64 / 1e6))
        }
        Sample::Kernel { .. } => None,
    })
}

/// Laws without each family in turn.
fn laws(sweep: &Sweep) -> anyhow::Result<BTreeMap<&str, predict::Model>> {
    let mut laws = BTreeMap::new();
    for (_, network, _) in measured(sweep) {
        let family = family(network);
        if !laws.contains_key(family) {
            let law = predict::Model::fit_without(std::slice::from_ref(sweep), family)?;
            laws.insert(family, law);
        }
    }
    Ok(laws)
}

fn networks(sweep: &Sweep) -> anyhow::Result<Verdict> {
    let laws = laws(sweep)?;
    let mut errors: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (sample, network, time) in measured(sweep).filter(|(.., time)| *time > SHORTEST_MS) {
        let outlines = sample.sample.outlines().unwrap_or_default();
        let works = outlines.first().and_then(analyse).map(|(_, works)| works).unwrap_or_default();
        let law = &laws[family(network)];
        let predicted = law.call().0 + works.iter().map(|work| law.group(work).0).sum::<u64>();
        errors.entry(family(network)).or_default().push(predicted as f64 / 1e6 / time - 1.0);
    }
    println!(
        "{}: whole networks of 1 ms and more at {SIZES:?}, each family predicted from {KERNELS} kernels and from the other families:\n",
        sweep.subject()
    );
    println!("| family | networks x sizes | median error | mean error | bias |");
    println!("|---|---|---|---|---|");
    let figures = |errors: &[f64]| {
        let absolute: Vec<f64> = errors.iter().map(|error| error.abs() * 100.0).collect();
        (median(&absolute), absolute.iter().sum::<f64>() / absolute.len() as f64)
    };
    let line = |name: &str, errors: &[f64]| {
        let ((middle, mean), bias) = (figures(errors), 100.0 * median(errors));
        println!("| {name} | {} | {middle:.1} % | {mean:.1} % | {bias:+.1} % |", errors.len());
        (middle, mean)
    };
    for (family, errors) in &errors {
        line(family, errors);
    }
    let all: Vec<f64> = errors.into_values().flatten().collect();
    let (middle, mean) = line("**all** (target 12 %, 25 %)", &all);
    Ok(Verdict::of(middle <= 12.0 && mean <= 25.0))
}

/// Memory of the sweep's networks against what the law without their family says, and against what
/// the cost model counts besides the engine.
fn memory(sweep: &Sweep) {
    let Some(model) = MemoryModel::fit(std::slice::from_ref(sweep)) else {
        return println!("\n{}: no memory was measured", sweep.engine);
    };
    let (session, parameters, live) = model.law();
    let percent = |permille: u64| permille as f64 / 10.0;
    println!(
        "\n{}: memory of whole networks is {session} + {:.2} x parameters + {:.2} x live values:\n",
        sweep.engine,
        parameters as f64 / 1000.0,
        live as f64 / 1000.0
    );
    println!("| | networks x sizes | median error | mean error |");
    println!("|---|---|---|---|");
    for (name, error) in
        [("nothing left out", model.fitted), ("each family left out", model.validation)]
    {
        let [median, mean] = [error.median_permille, error.mean_permille].map(percent);
        println!("| {name} | {} | {median:.1} % | {mean:.1} % |", error.count);
    }
    let counted: Vec<f64> = measured(sweep)
        .filter_map(|(sample, ..)| {
            let taken = sample.memory_bytes?.0 as f64;
            let (grouping, _) = sample.sample.outlines()?.first().and_then(analyse)?;
            Some(100.0 * (Counted::of(&grouping.dag).total().0 as f64 / taken - 1.0).abs())
        })
        .collect();
    let mean = counted.iter().sum::<f64>() / counted.len().max(1) as f64;
    println!(
        "| parameters and live values alone | {} | {:.1} % | {mean:.1} % |",
        counted.len(),
        median(&counted)
    );
}

/// A measured cut: bytes that cross, measured and predicted milliseconds of both sides.
struct Choice {
    bytes: f64,
    measured: [f64; 2],
    predicted: [f64; 2],
}

fn cuts(sweep: &Sweep, engine: &dyn Engine) -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let names: Vec<&str> = zoo::names()
        .into_iter()
        .filter(|name| zoo::outline(name, Some(CUT_SIZE)).is_ok())
        .collect();
    let mut models = BTreeMap::new();
    for &name in &names {
        let options = ZooOptions { input_size: Some(CUT_SIZE), seed: 0 };
        let path = dir.path().join(format!("{name}.onnx"));
        write_atomic(&path, &split::encode(&zoo::build(name, &options)?), Path::new("."))?;
        models.insert(name, Model::open(&path, &ImportOptions::default())?);
    }
    let profiles: BTreeMap<String, Profile> =
        kept(&format!("cuts-{}.json", engine.name()), || {
            let job = ProfileJob {
                threads: ONE_THREAD.threads,
                max_time: Duration::from_secs(4),
                pause: Duration::from_millis(3),
                ..ProfileJob::default()
            };
            let measure = |(name, model): (&&str, &Model)| {
                Ok((name.to_string(), profiler::profile(model, engine, &job, &mut |_| {})?))
            };
            models.iter().map(measure).collect()
        })?;
    let laws = laws(sweep)?;
    println!(
        "\n{}: the split predicted best against the one measured best, edge {EDGE} times slower:\n",
        engine.name()
    );
    println!("| bandwidth | networks | splits each | extra latency, median | worst | of |");
    println!("|---|---|---|---|---|---|");
    let mut met = true;
    for mbits in MBITS {
        let mut regrets: Vec<(f64, &str)> = Vec::new();
        let mut counts = Vec::new();
        for (name, profile) in &profiles {
            let (Some(model), Some(law)) = (models.get(name.as_str()), laws.get(family(name)))
            else {
                continue;
            };
            let choices = choices(model, profile, law);
            counts.push(choices.len() as f64);
            let sent = |choice: &Choice| DELAY_MS + choice.bytes * 8.0 / (mbits * 1e3);
            let cost =
                |choice: &Choice, [edge, cloud]: [f64; 2]| EDGE * edge + sent(choice) + cloud;
            let of_measured = |choice: &Choice| cost(choice, choice.measured);
            let best = choices.iter().map(of_measured).fold(f64::INFINITY, f64::min);
            let chosen =
                choices.iter().min_by(|a, b| cost(a, a.predicted).total_cmp(&cost(b, b.predicted)));
            if let Some(chosen) = chosen {
                regrets.push((of_measured(chosen) / best - 1.0, name));
            }
        }
        let values: Vec<f64> = regrets.iter().map(|(regret, _)| regret * 100.0).collect();
        let worst = regrets.iter().max_by(|a, b| a.0.total_cmp(&b.0));
        let worst = worst.copied().unwrap_or((f64::NAN, "-"));
        met &= worst.0 <= 0.05;
        println!(
            "| {mbits} Mbit/s | {} | {} | {:.1} % | {:.1} % (target 5 %) | {} |",
            values.len(),
            quantile(&counts, 0.5),
            median(&values),
            worst.0 * 100.0,
            worst.1
        );
    }
    Ok(Verdict::of(met))
}

/// The cuts of which both parts were measured.
fn choices(model: &Model, profile: &Profile, law: &predict::Model) -> Vec<Choice> {
    let dag = &model.grouping.dag;
    let times: Vec<f64> = works(&model.graph, &model.grouping)
        .iter()
        .map(|works| law.group(works).0 as f64 / 1e6)
        .collect();
    let call = law.call().0 as f64 / 1e6;
    let part = |part: Part, names: &[String]| {
        let found = profile.segments.iter().find(|s| s.part == part && s.cut == names)?;
        Some(found.timing.median_ns.0 as f64 / 1e6)
    };
    let choice = |cut: cutline_core::cut::Cut| {
        let names: Vec<String> = cut.flows.iter().map(|&f| dag.flow(f).name.clone()).collect();
        let measured = [part(Part::Prefix, &names)?, part(Part::Suffix, &names)?];
        let side = |before: bool| {
            let inside = cut.before.iter().zip(&times).filter(|(is, _)| **is == before);
            call + inside.map(|(_, time)| time).sum::<f64>()
        };
        let predicted = [side(true), side(false)];
        Some(Choice { bytes: cut.bytes?.0 as f64, measured, predicted })
    };
    candidate_cuts(dag).into_iter().filter_map(choice).collect()
}
