//! Which engine a device uses is part of the search: plans over several engines against all plans,
//! for every objective, under limits, memories that engines fill too, pins, bans and privacy.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cutline_core::{
    cost::Costs,
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::{Mapping, derive_in_order},
    planner::{self, Choice, Objective, Proof, Request},
    platform::{DeviceId, Platform},
    profile::{CodecTime, CodingTime, GroupTime, PROFILE_VERSION, Profile, ProfileKey},
    units::{Bytes, Macs, Nanos},
};
use serde_json::{Value, json};

mod random;
use random::Random;

/// Groups in blocks of two branches, now and then with a skip or a value that no codec encodes.
fn network(random: &mut Random, blocks: usize) -> Dag {
    let mut dag = Dag::new();
    let mut enters = dag.add_input("input", Some(Bytes(40 * (1 + random.below(9)))));
    let add = |dag: &mut Dag, reads: Vec<_>, random: &mut Random| {
        let name = format!("g{}", dag.groups().len());
        let makes = [(format!("{name}:0"), Some(Bytes(40 * (1 + random.below(9)))))];
        let id = dag.add_group(vec![name], reads, makes, Macs(1), Bytes(random.below(5) * 40));
        dag.set_ops(id, vec![["Conv", "Relu", "Add"][random.below(3) as usize].to_owned()]);
        let made = dag.group(id).makes[0];
        if random.one_in(4) {
            dag.mark_plain(made);
        }
        made
    };
    for _ in 0..blocks {
        let tips = [add(&mut dag, vec![enters], random), add(&mut dag, vec![enters], random)];
        let mut reads = tips.to_vec();
        if random.one_in(4) {
            reads.push(enters);
        }
        enters = add(&mut dag, reads, random);
    }
    dag.mark_output(enters);
    dag
}

/// An engine that may lack a group; times are such that nothing is rounded.
fn profile(random: &mut Random, dag: &Dag, threads: u32) -> Profile {
    let mut half =
        || CodingTime { fixed_ns: Nanos(random.below(9)), per_kb_ns: Nanos(random.below(8) * 25) };
    let fp16 = CodecTime { encode: half(), decode: half() };
    let groups = dag.groups().iter().filter_map(|group| {
        let time_ns = Nanos(random.below(12) * 20);
        (!random.one_in(15)).then(|| GroupTime { name: group.name.clone(), time_ns })
    });
    let groups: Vec<GroupTime> = groups.collect();
    Profile {
        version: PROFILE_VERSION,
        key: ProfileKey {
            model_sha256: String::new(),
            hardware: String::new(),
            engine: "x".into(),
            engine_version: "1".into(),
            threads,
            precision: "fp32".into(),
        },
        model: String::new(),
        slowdown_permille: 1000,
        call_ns: Nanos(random.below(8) * 15),
        groups,
        unsupported: Vec::new(),
        segments: Vec::new(),
        residual_permille: 0,
        prepare: BTreeMap::new(),
        coding: [("fp16".to_owned(), fp16)].into(),
        engine_bytes: Bytes(random.below(5) * 60),
        memory: None,
        energy: None,
        predicted: None,
    }
}

fn platform(random: &mut Random, devices: usize) -> Platform {
    let names = &["a", "b", "c"][..devices];
    let shared = devices == 3 && random.one_in(3);
    let device = |(at, name): (usize, &&str)| {
        let mut device =
            json!({ "name": name, "power": format!("{}uW", random.below(5) * 1_000_000) });
        if shared && at > 0 {
            device["host"] = json!("h");
        }
        if random.one_in(3) && !(shared && at == 2) {
            device["memory"] = json!(format!("{}", 200 + random.below(1200)));
        }
        match random.below(3) {
            0 => device["rent"] = json!("7.527"),
            1 => {
                device["purchase"] = json!("60");
                device["life_months"] = json!(1 + random.below(36));
            }
            _ => {}
        }
        device
    };
    let list: Vec<Value> = names.iter().enumerate().map(device).collect();
    let mut links = Vec::new();
    for (at, a) in names.iter().enumerate() {
        for b in &names[at + 1..] {
            links.push(json!({ "between": [a, b], "up": "8gbit", "down": "4gbit",
                "delay": format!("{}ns", random.below(3) * 30), "fixed": "9ns",
                "energy": ["500pJ/byte", format!("{}pJ/byte", random.below(3) * 500)] }));
        }
    }
    serde_json::from_value(json!({ "version": 1, "device": list, "link": links,
        "workload": { "users": 1 + random.below(3000), "frames_per_second": "25000.5",
                      "electricity": "0.3" } }))
    .unwrap()
}

/// The objective, stages and bytes of a plan.
type Key = (u64, usize, u64);

struct Plan {
    choice: Choice,
    /// In the order of the objectives.
    values: [u64; 6],
    stages: usize,
}

impl Plan {
    fn key(&self, at: usize) -> Key {
        (self.values[at], self.stages, self.choice.evaluation.bytes.0)
    }
}

/// Every plan without scatter groups that fits.
fn all(dag: &Dag, costs: &Costs) -> Vec<Plan> {
    let devices: Vec<DeviceId> = costs.device_ids().collect();
    let (groups, codecs) = (dag.groups().len() as u32, costs.codecs().len());
    let options = |device: usize| costs.devices()[device].options.len();
    let mut found = Vec::new();
    for index in 0..devices.len().pow(groups) {
        let digit = |at: u32| index / devices.len().pow(at) % devices.len();
        let mapping = Mapping((0..groups).map(|at| devices[digit(at)]).collect());
        let partition = derive_in_order(dag, &mapping, &[]);
        let mut visited: Vec<DeviceId> = partition.stages.iter().map(|s| s.device).collect();
        let source_first =
            visited.iter().position(|&d| d == DeviceId::SOURCE).is_none_or(|at| at == 0);
        let used = visited.clone();
        visited.sort();
        visited.dedup();
        if visited.len() < partition.stages.len() || !source_first {
            continue;
        }
        // Engines of the devices that run a stage; codecs of those that send.
        let mut settings = vec![Setting::first(costs)];
        for &device in &used {
            let of = |setting: &Setting| {
                let setting = setting.clone();
                (0..options(device.index())).map(move |option| {
                    let mut setting = setting.clone();
                    setting.engines[device.index()] = option;
                    setting
                })
            };
            settings = settings.iter().flat_map(of).collect();
        }
        for hop in &partition.hops {
            let of = |setting: &Setting| {
                let setting = setting.clone();
                (0..codecs).map(move |codec| {
                    let mut setting = setting.clone();
                    setting.codecs[hop.from.index()] = codec;
                    setting
                })
            };
            settings = settings.iter().flat_map(of).collect();
        }
        for setting in settings {
            let Ok(evaluation) = evaluate(dag, costs, &mapping, &setting) else { continue };
            if evaluation.memory.iter().any(|used| used.excess().is_some()) {
                continue;
            }
            let values = Objective::ALL.map(|objective| objective.of(&evaluation, costs).unwrap());
            let mapping = mapping.clone();
            let choice = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
            found.push(Plan { choice, values, stages: partition.stages.len() });
        }
    }
    found
}

struct Case {
    dag: Dag,
    platform: Platform,
    profiles: Vec<Vec<Profile>>,
}

impl Case {
    fn new(seed: u64) -> (Case, Random) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let devices = 2 + usize::from(!seed.is_multiple_of(4));
        let dag = network(&mut random, 1 + usize::from(devices == 2));
        let platform = platform(&mut random, devices);
        let profiles = (0..devices)
            .map(|_| (1..=2).map(|threads| profile(&mut random, &dag, threads)).collect())
            .collect();
        (Case { dag, platform, profiles }, random)
    }

    fn costs(&self, profiles: &[Vec<Profile>]) -> Costs {
        let tables = vec![None; self.platform.links().len()];
        Costs::from_profiles(&self.dag, "", &self.platform, profiles, &tables).unwrap()
    }

    /// The same with one engine on each device, every combination of them.
    fn restricted(&self) -> Vec<Costs> {
        let combinations = 0..1usize << self.profiles.len();
        let pick = |bits: usize| {
            let picked = self.profiles.iter().enumerate();
            let picked: Vec<Vec<Profile>> =
                picked.map(|(at, all)| vec![all[bits >> at & 1].clone()]).collect();
            self.costs(&picked)
        };
        combinations.map(pick).collect()
    }
}

fn codecs() -> Option<Vec<String>> {
    Some(["fp32", "fp16"].map(str::to_owned).to_vec())
}

fn key(case: &Case, costs: &Costs, objective: Objective, choice: &Choice) -> Key {
    let partition = choice.setting.partition(&case.dag, &choice.mapping).unwrap();
    let value = objective.of(&choice.evaluation, costs).unwrap();
    (value, partition.stages.len(), choice.evaluation.bytes.0)
}

/// A request with limits around what some plan needs.
fn request(random: &mut Random, objective: Objective, values: &[[u64; 6]]) -> Request {
    let mut request = Request { objective, cut_encodings: codecs(), ..Request::default() };
    for (at, &limited) in Objective::ALL.iter().enumerate() {
        if random.one_in(4) && !values.is_empty() {
            let most = values[random.below(values.len() as u64) as usize][at] + random.below(2);
            request.limits.push((limited, most));
        }
    }
    request
}

#[test]
fn every_device_takes_the_engine_that_suits_the_plan() {
    let (mut feasible, mut second) = (0, 0);
    for seed in 1..=300 {
        let (case, mut random) = Case::new(seed);
        let costs = case.costs(&case.profiles);
        let all = all(&case.dag, &costs);
        let values: Vec<[u64; 6]> = all.iter().map(|plan| plan.values).collect();
        for (at, &objective) in Objective::ALL.iter().enumerate() {
            let request = request(&mut random, objective, &values);
            let within = |values: &[u64; 6]| {
                let mut limits = request.limits.iter();
                let position = |o| Objective::ALL.iter().position(|known| *known == o).unwrap();
                limits.all(|&(limited, most)| values[position(limited)] <= most)
            };
            let allowed = all.iter().filter(|plan| within(&plan.values));
            let expected: Option<Key> = allowed.map(|plan| plan.key(at)).min();
            let best = planner::solve(&case.dag, &costs, &request).unwrap().best;
            let found = best.as_ref().ok().map(|best| key(&case, &costs, objective, best));
            assert_eq!(found, expected, "seed {seed}, {request:?}: {best:?}");
            if let Ok(best) = best {
                assert_eq!(best.proof, Proof::Optimal, "seed {seed}, {request:?}");
                feasible += 1;
                let used = best.mapping.0.iter().map(|device| device.index());
                second += u32::from(used.into_iter().any(|at| best.setting.engines[at] == 1));
            }
        }
    }
    assert!(second * 3 > feasible && second < feasible, "{second} of {feasible}");
}

#[test]
fn a_choice_of_engines_is_as_good_as_the_best_of_each() {
    let mut scattered = 0;
    for seed in 1..=150 {
        let (case, mut random) = Case::new(seed);
        let costs = case.costs(&case.profiles);
        let restricted = case.restricted();
        let values: Vec<[u64; 6]> = all(&case.dag, &costs).iter().map(|plan| plan.values).collect();
        for &objective in &Objective::ALL {
            let request = Request { scatter: true, ..request(&mut random, objective, &values) };
            let best = |costs: &Costs| {
                let best = planner::solve(&case.dag, costs, &request).unwrap().best.ok()?;
                let helpers = !best.setting.helpers.is_empty();
                Some((key(&case, costs, objective, &best), helpers))
            };
            let expected = restricted.iter().filter_map(best).map(|(key, _)| key).min();
            let found = best(&costs);
            scattered += u32::from(found.is_some_and(|(_, helpers)| helpers));
            assert_eq!(found.map(|(key, _)| key), expected, "seed {seed}, {request:?}");
        }
        for objectives in [&Objective::ALL[..], &Objective::ALL[1..4]] {
            for scatter in [false, true] {
                let request = Request { scatter, cut_encodings: codecs(), ..Request::default() };
                let front = |costs: &Costs| {
                    let front =
                        planner::front(&case.dag, costs, &request, objectives, &mut || false);
                    let of = |choice: Choice| -> Vec<u64> {
                        let of = |o: &Objective| o.of(&choice.evaluation, costs).unwrap();
                        objectives.iter().map(of).collect()
                    };
                    front.unwrap().points.into_iter().map(of).collect::<Vec<_>>()
                };
                let mut all: Vec<Vec<u64>> = restricted.iter().flat_map(&front).collect();
                all.sort();
                all.dedup();
                let covers = |a: &[u64], b: &[u64]| a != b && a.iter().zip(b).all(|(a, b)| a <= b);
                let expected: Vec<&Vec<u64>> =
                    all.iter().filter(|b| !all.iter().any(|a| covers(a, b))).collect();
                let mut found = front(&costs);
                found.sort();
                assert!(
                    found.iter().eq(expected.iter().copied()),
                    "seed {seed}, {objectives:?}, {scatter}: {found:?}, expected {expected:?}"
                );
            }
        }
    }
    assert!(scattered > 50, "{scattered}");
}

/// Pins, bans and a private layer, so that some plan is often left.
fn confine(random: &mut Random, case: &Case, request: &mut Request) {
    let groups = case.dag.groups();
    let layer =
        |random: &mut Random| groups[random.below(groups.len() as u64) as usize].layers[0].clone();
    let devices = case.platform.devices();
    let device =
        |random: &mut Random| devices[random.below(devices.len() as u64) as usize].name.clone();
    if random.one_in(3) {
        request.pins.push((layer(random), device(random)));
    }
    if random.one_in(3) {
        let op = ["Conv", "Relu", "Add"][random.below(3) as usize].to_owned();
        let what = if random.one_in(2) { layer(random) } else { op };
        let known = |group: &cutline_core::dag::Group| {
            group.ops.contains(&what) || group.layers.contains(&what)
        };
        if groups.iter().any(known) {
            request.bans.push((what, device(random)));
        }
    }
    if random.one_in(2) {
        request.private = Some(layer(random));
    }
}

#[test]
fn the_best_of_what_is_allowed_is_found() {
    let (mut feasible, mut refused, mut splits) = (0, 0, 0);
    for seed in 1..=400 {
        let (case, mut random) = Case::new(seed);
        let costs = case.costs(&case.profiles);
        let all = all(&case.dag, &costs);
        for (at, &objective) in Objective::ALL.iter().enumerate() {
            let cut_encodings = codecs();
            let mut request = Request { objective, cut_encodings, ..Request::default() };
            confine(&mut random, &case, &mut request);
            let allowed = |plan: &&Plan| {
                planner::violation(&case.dag, &costs, &request, &plan.choice).is_none()
            };
            let expected: Option<Key> = all.iter().filter(allowed).map(|plan| plan.key(at)).min();
            let split = |plan: &&Plan| plan.stages > 1 && allowed(plan);
            let split: Option<Key> = all.iter().filter(split).map(|plan| plan.key(at)).min();
            let answer = match planner::solve(&case.dag, &costs, &request) {
                Ok(answer) => answer,
                Err(planner::PlannerError::PrivateElsewhere(_)) => {
                    assert_eq!(expected, None, "seed {seed}, {request:?}");
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("seed {seed}, {request:?}: {error}"),
            };
            let found = |choice: &Result<Choice, planner::Infeasible>| {
                choice.as_ref().ok().map(|choice| key(&case, &costs, objective, choice))
            };
            assert_eq!(found(&answer.best), expected, "seed {seed}, {request:?}");
            assert_eq!(found(&answer.best_split), split, "split, seed {seed}, {request:?}");
            for baseline in &answer.baselines {
                let Ok(choice) = &baseline.outcome else { continue };
                let why = planner::violation(&case.dag, &costs, &request, choice);
                assert_eq!(baseline.allowed, why.is_none(), "seed {seed}, {request:?}, {why:?}");
            }
            feasible += u32::from(expected.is_some());
            splits += u32::from(split.is_some() && split == expected);
            refused += u32::from(expected.is_none());
        }
    }
    assert!(feasible > 1000 && refused > 200 && splits > 100, "{feasible} {refused} {splits}");
}
