//! How long planning takes: `cargo bench -p cutline-core --bench planning`.
//!
//! For networks of the zoo on two invented devices, the median time of one complete answer
//! (baselines, best plan, best split, proof), the same
//! under a memory limit, and of fitting group times to as many measurements as
//! a profile holds.

use std::time::{Duration, Instant};

use cutline_core::{
    cost::Costs,
    cut::candidate_cuts,
    dag::Dag,
    fit::{Measurement, fit},
    group::group,
    onnx::{self, ImportOptions},
    planner::{Request, solve},
    platform::Platform,
    profile::{GroupTime, Part, Profile, ProfileKey},
    units::{Bytes, Nanos},
    zoo,
};

const NETWORKS: [&str; 6] =
    ["mobilenetv2", "resnet18", "resnet101", "densenet121", "inceptionv3", "efficientnet-b0"];
const ENGINE: Bytes = Bytes(20_000_000);
const RATES: [&str; 3] = ["5mbit", "20mbit", "2gbit"];

fn main() {
    println!(
        "network           groups  rate      plan        with limit  best                        fit"
    );
    for name in NETWORKS {
        let model = zoo::outline(name, None).expect("the zoo has it");
        let graph = onnx::import(&model, &ImportOptions::default()).expect("the zoo imports");
        let dag = group(&graph).dag;
        let measurements = measurements(&dag);
        let fitting = median(5, || fit(&dag, &measurements).expect("measurements are complete"));
        for rate in RATES {
            let costs = costs(&dag, rate, None);
            let answer = solve(&dag, &costs, &Request::default()).expect("two devices");
            let planning = median(11, || solve(&dag, &costs, &Request::default()));
            let tight = self::costs(&dag, rate, Some(half_the_weights(&dag)));
            let limited = median(3, || solve(&dag, &tight, &Request::default()));
            let words = answer.reason.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
            println!(
                "{name:<16} {:>7}  {rate:<8} {:>7.2} ms  {:>7.2} ms  {words:<26} {:>7.2} ms",
                dag.groups().len(),
                planning.as_secs_f64() * 1e3,
                limited.as_secs_f64() * 1e3,
                fitting.as_secs_f64() * 1e3
            );
        }
    }
}

/// A memory limit of the edge under which branch and bound has to work.
fn half_the_weights(dag: &Dag) -> Bytes {
    let weights: Bytes = dag.groups().iter().map(|group| group.parameter_bytes).sum();
    Bytes(ENGINE.0 + weights.0 / 2)
}

fn median<T>(runs: usize, work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[runs / 2]
}

/// An edge of 4 MAC/ns with a memory-bound share, a cloud ten times faster.
fn costs(dag: &Dag, rate: &str, memory: Option<Bytes>) -> Costs {
    let memory = memory.map(|Bytes(bytes)| bytes.to_string());
    let platform: Platform = serde_json::from_value(serde_json::json!({
        "version": 1, "device": [{ "name": "edge", "memory": memory }, { "name": "cloud" }],
        "link": [{ "between": ["edge", "cloud"], "up": rate, "delay": "5ms", "fixed": "150us" }] }))
    .expect("a valid platform");
    let profiles = [vec![profile(dag, 1)], vec![profile(dag, 10)]];
    Costs::from_profiles(dag, "", &platform, &profiles, &[None]).expect("profiles of this network")
}

fn profile(dag: &Dag, speed: u64) -> Profile {
    let time = |group: &cutline_core::dag::Group| {
        let made: u64 = group.makes.iter().filter_map(|&f| dag.flow(f).bytes).map(|b| b.0).sum();
        Nanos((group.macs.0 / 4 + made / 2) / speed)
    };
    let groups =
        dag.groups().iter().map(|g| GroupTime { name: g.name.clone(), time_ns: time(g) }).collect();
    let key = ProfileKey {
        model_sha256: String::new(),
        hardware: "invented".to_owned(),
        engine: "none".to_owned(),
        engine_version: "0".to_owned(),
        threads: 1,
        precision: "fp32".to_owned(),
    };
    Profile {
        version: 1,
        key,
        model: String::new(),
        slowdown_permille: 1000,
        call_ns: Nanos(30_000),
        groups,
        unsupported: Vec::new(),
        segments: Vec::new(),
        residual_permille: 0,
        coding: Default::default(),
        prepare: Default::default(),
        engine_bytes: ENGINE,
        memory: None,
        energy: None,
        predicted: None,
    }
}

/// Prefix and suffix of every candidate cut, and the whole, from the invented times.
fn measurements(dag: &Dag) -> Vec<Measurement> {
    let profile = profile(dag, 1);
    let time = |inside: &dyn Fn(usize) -> bool| {
        let groups = profile.groups.iter().enumerate().filter(|(index, _)| inside(*index));
        profile.call_ns + groups.map(|(_, group)| group.time_ns).sum()
    };
    let whole = Measurement { part: Part::Whole, before: Vec::new(), time: time(&|_| true) };
    let mut rows = vec![whole];
    for cut in candidate_cuts(dag) {
        let (before, after) = (time(&|i| cut.before[i]), time(&|i| !cut.before[i]));
        rows.push(Measurement { part: Part::Prefix, before: cut.before.clone(), time: before });
        rows.push(Measurement { part: Part::Suffix, before: cut.before, time: after });
    }
    rows
}
