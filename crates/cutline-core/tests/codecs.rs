//! Plans with codecs against all plans: coding times of every engine with their fixed parts, values
//! that no codec encodes, and codecs that are forbidden where certain values cross.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use cutline_core::{
    cost::{Costs, table},
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::{Mapping, derive_in_order},
    planner::{
        Agreeing, AgreeingError, Choice, Kind, LossyStep, Objective, Proof, Request, lossy_steps,
        solve,
    },
    platform::{DeviceId, Platform},
    profile::{CodecTime, CodingTime, GroupTime, PROFILE_VERSION, Profile, ProfileKey},
    units::{Bytes, Macs, Nanos},
};
use serde_json::json;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// A chain of groups with skips; every fourth value is one that no codec encodes.
fn network(random: &mut Random, groups: usize) -> Dag {
    let mut dag = Dag::new();
    let mut flows = vec![dag.add_input("input", Some(Bytes(40 * (1 + random.below(200)))))];
    for at in 0..groups {
        let mut reads = vec![*flows.last().unwrap()];
        if at > 1 && random.below(3) == 0 {
            reads.push(flows[flows.len() - 2]);
        }
        let makes = [(format!("v{at}"), Some(Bytes(40 * (1 + random.below(300)))))];
        let id = dag.add_group(vec![format!("g{at}")], reads, makes, Macs(1), Bytes(10));
        let made = dag.group(id).makes[0];
        if random.below(4) == 0 {
            dag.mark_plain(made);
        }
        flows.push(made);
    }
    dag.mark_output(*flows.last().unwrap());
    dag
}

fn profile(random: &mut Random, dag: &Dag) -> Profile {
    let mut coding = |scale: u64| {
        let mut half = || CodingTime {
            fixed_ns: Nanos(random.below(400)),
            per_kb_ns: Nanos(random.below(scale)),
        };
        CodecTime { encode: half(), decode: half() }
    };
    let coding: BTreeMap<String, CodecTime> =
        [("fp16".to_owned(), coding(150)), ("uint8".to_owned(), coding(400))].into();
    let call_ns = Nanos(random.below(500));
    let groups = dag.groups().iter().map(|group| GroupTime {
        name: group.name.clone(),
        time_ns: Nanos(1 + random.below(9000)),
    });
    Profile {
        version: PROFILE_VERSION,
        key: ProfileKey {
            model_sha256: String::new(),
            hardware: String::new(),
            engine: "x".into(),
            engine_version: "1".into(),
            threads: 1,
            precision: "fp32".into(),
        },
        model: String::new(),
        slowdown_permille: 1000,
        call_ns,
        groups: groups.collect(),
        unsupported: Vec::new(),
        segments: Vec::new(),
        residual_permille: 0,
        prepare: BTreeMap::new(),
        coding,
        engine_bytes: Bytes(7),
        memory: None,
        energy: None,
        predicted: None,
    }
}

fn platform(devices: usize) -> Platform {
    let names: Vec<String> = (0..devices).map(|at| format!("d{at}")).collect();
    let device: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
    let mut link = Vec::new();
    for (at, a) in names.iter().enumerate() {
        for b in &names[at + 1..] {
            link.push(json!({ "between": [a, b], "up": "8gbit", "delay": "30ns", "fixed": "9ns" }));
        }
    }
    serde_json::from_value(json!({ "version": 1, "device": device, "link": link })).unwrap()
}

/// Whether a plan sends something under a codec that the request does not allow there.
fn is_forbidden(dag: &Dag, costs: &Costs, request: &Request, plan: &(Mapping, Setting)) -> bool {
    let partition = derive_in_order(dag, &plan.0, &plan.1.order);
    partition.hops.iter().any(|hop| {
        let values = hop.message.iter().map(|&id| dag.flow(id));
        let values: Vec<String> =
            values.filter(|flow| flow.from.is_some()).map(|flow| flow.name.clone()).collect();
        let codec = &costs.codecs()[plan.1.codecs[hop.from.index()]].name;
        hop.into > 0
            && request.forbidden.iter().any(|(banned, name)| *banned == values && name == codec)
    })
}

/// The least value over all mappings in which each device is visited once, and all codecs that are
/// allowed.
fn least(dag: &Dag, costs: &Costs, request: &Request) -> u64 {
    least_of(dag, costs, request.objective, &|plan| !is_forbidden(dag, costs, request, plan))
}

fn least_of(
    dag: &Dag,
    costs: &Costs,
    objective: Objective,
    allowed: &dyn Fn(&(Mapping, Setting)) -> bool,
) -> u64 {
    let devices: Vec<DeviceId> = costs.device_ids().collect();
    let (groups, codecs) = (dag.groups().len() as u32, costs.codecs().len());
    let mut least = u64::MAX;
    for index in 0..devices.len().pow(groups) {
        let digit = |at: u32| index / devices.len().pow(at) % devices.len();
        let mapping = Mapping((0..groups).map(|at| devices[digit(at)]).collect());
        let partition = derive_in_order(dag, &mapping, &[]);
        let mut visited: Vec<DeviceId> = partition.stages.iter().map(|s| s.device).collect();
        let source_first =
            visited.iter().position(|&d| d == DeviceId::SOURCE).is_none_or(|at| at == 0);
        visited.sort();
        visited.dedup();
        if visited.len() < partition.stages.len() || !source_first {
            continue;
        }
        for combination in 0..codecs.pow(devices.len() as u32) {
            let codecs: Vec<usize> =
                (0..devices.len() as u32).map(|at| combination / codecs.pow(at) % codecs).collect();
            for input in 0..costs.inputs().len() {
                let codecs = codecs.clone();
                let plan = (mapping.clone(), Setting { input, codecs, ..Setting::first(costs) });
                if !allowed(&plan) {
                    continue;
                }
                if let Ok(found) = evaluate(dag, costs, &plan.0, &plan.1) {
                    least = least.min(objective.of(&found, costs).unwrap());
                }
            }
        }
    }
    least
}

#[test]
fn plans_with_codecs_are_the_best_of_all() {
    let every = ["fp32", "fp16", "uint8"].map(str::to_owned).to_vec();
    for seed in 0..60 {
        let mut random = Random(seed);
        let devices = 2 + (seed % 2) as usize;
        let dag = network(&mut random, 5);
        let platform = platform(devices);
        let profiles: Vec<Vec<Profile>> =
            (0..devices).map(|_| vec![profile(&mut random, &dag)]).collect();
        let tables = vec![None; platform.links().len()];
        let costs = Costs::from_profiles(&dag, "", &platform, &profiles, &tables).unwrap();
        for objective in [Objective::Latency, Objective::Period] {
            let cut_encodings = Some(every.clone());
            let mut request = Request { objective, cut_encodings, ..Request::default() };
            // Each round forbids what the best plan did.
            for round in 0..4 {
                let answer = solve(&dag, &costs, &request).unwrap();
                let best = answer.best.unwrap();
                assert_eq!(best.proof, Proof::Optimal);
                let plan = (best.mapping.clone(), best.setting.clone());
                assert!(!is_forbidden(&dag, &costs, &request, &plan));
                assert_eq!(
                    objective.of(&best.evaluation, &costs),
                    Some(least(&dag, &costs, &request)),
                    "seed {seed}, round {round}, {objective:?}, {:?}",
                    request.forbidden
                );
                let partition = derive_in_order(&dag, &plan.0, &plan.1.order);
                for hop in partition.hops.iter().filter(|hop| hop.into > 0) {
                    let values = hop.message.iter().map(|&id| dag.flow(id));
                    let values = values.filter(|flow| flow.from.is_some());
                    let codec = &costs.codecs()[plan.1.codecs[hop.from.index()]];
                    if codec.lossy {
                        let names = values.map(|flow| flow.name.clone()).collect();
                        request.forbidden.push((names, codec.name.clone()));
                    }
                }
            }
        }
    }
}

/// How much a set of lossy steps harms the answer: the sum of what each does by itself.
fn harm(steps: &BTreeSet<LossyStep>, seed: u64) -> u64 {
    let of = |step: &LossyStep| {
        let mut hasher = Random(seed);
        for byte in format!("{step:?}").bytes() {
            hasher.0 ^= u64::from(byte);
            hasher.below(1);
        }
        hasher.below(100)
    };
    steps.iter().map(of).sum()
}

#[test]
fn the_best_plan_that_agrees_is_found_by_judging_few() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let devices = 2 + (seed % 2) as usize;
        let dag = network(&mut random, 5);
        let platform = platform(devices);
        let profiles: Vec<Vec<Profile>> =
            (0..devices).map(|_| vec![profile(&mut random, &dag)]).collect();
        let tables = vec![None; platform.links().len()];
        let costs = Costs::from_profiles(&dag, "", &platform, &profiles, &tables).unwrap();
        for limit in [0, 30, 60, 90, 1000] {
            let request = Request::default();
            let mut search = Agreeing::new(&dag, &costs, &request);
            let mut judged = BTreeSet::new();
            let mut judge = |choice: &Choice| -> Result<bool, ()> {
                let steps = lossy_steps(&dag, &costs, &choice.mapping, &choice.setting);
                assert!(judged.insert(steps.clone()), "judged twice: {steps:?}");
                Ok(harm(&steps, seed) <= limit)
            };
            let answer = search.find(Kind::Best, &mut judge, &mut || false).unwrap();
            let best = answer.best.unwrap();
            assert_eq!(best.proof, Proof::Optimal);
            let holds = |plan: &(Mapping, Setting)| {
                harm(&lossy_steps(&dag, &costs, &plan.0, &plan.1), seed) <= limit
            };
            assert!(holds(&(best.mapping.clone(), best.setting.clone())));
            let least = least_of(&dag, &costs, request.objective, &holds);
            assert_eq!(best.evaluation.latency.0, least, "seed {seed}, limit {limit}");
            // The split is found with what is known already.
            let split = search.find(Kind::Split, &mut judge, &mut || false).unwrap();
            let split = split.best_split.unwrap();
            assert!(holds(&(split.mapping.clone(), split.setting.clone())));
            assert!(split.evaluation.latency >= best.evaluation.latency);
        }
    }
}

/// A chain with skips, an input that can be sent in three ways, and four codecs, one of which besides
/// the plain one loses nothing.
fn lossy_instance(random: &mut Random, devices: usize) -> (Dag, Costs) {
    let names: Vec<String> = (0..devices).map(|at| format!("d{at}")).collect();
    let mut layers = Vec::new();
    for at in 0..4u64 {
        let inputs = (0..at).filter(|&read| read + 1 == at || random.below(3) == 0);
        let inputs: Vec<String> = inputs.map(|read| format!("l{read}")).collect();
        // The source is slow, so that most of the best plans send something.
        let slow = |at: usize| if at == 0 { 6 } else { 1 };
        let times = names.iter().enumerate();
        let times =
            times.map(|(at, name)| (name.clone(), json!(slow(at) * (1 + random.below(700)))));
        let times: serde_json::Value = times.collect();
        let bytes = 40 * (1 + random.below(20));
        let name = format!("l{at}");
        layers.push(json!({ "name": name, "inputs": inputs, "output_bytes": bytes,
            "time_ns": times }));
    }
    let codec = |name: &str, den: u64, lossy: bool| {
        json!({ "name": name, "num": 1, "den": den, "lossy": lossy,
            "enc_ns_per_kb": 100, "dec_ns_per_kb": 100 })
    };
    let codecs = [codec("zip", 2, false), codec("fp16", 4, true), codec("uint8", 8, true)];
    let file = json!({ "version": 1, "input": { "fp32": 900, "uint8": 300, "jpeg": 40 },
        "layers": layers, "outputs": ["l3"], "codecs": codecs });
    let platform = platform(devices);
    let tables = vec![None; platform.links().len()];
    let file: table::CostsFile = serde_json::from_value(file).unwrap();
    table::read(&file, &platform, &tables).unwrap()
}

/// What a plan loses on its way, hop by hop.
fn losses(dag: &Dag, costs: &Costs, plan: &(Mapping, Setting)) -> BTreeSet<LossyStep> {
    let mut steps = BTreeSet::new();
    for hop in &derive_in_order(dag, &plan.0, &plan.1.order).hops {
        let sent = || hop.message.iter().map(|&id| dag.flow(id));
        let input = &costs.inputs()[plan.1.input].name;
        if input == "jpeg" && sent().any(|flow| flow.from.is_none()) {
            steps.insert(LossyStep::Input(input.clone()));
        }
        let values: Vec<String> =
            sent().filter(|flow| flow.from.is_some()).map(|flow| flow.name.clone()).collect();
        let codec = costs.codecs()[plan.1.codecs[hop.from.index()]].name.clone();
        if !values.is_empty() && ["fp16", "uint8"].contains(&codec.as_str()) {
            steps.insert(LossyStep::Cut { values, codec });
        }
    }
    steps
}

#[test]
fn the_best_plan_that_agrees_may_send_another_input() {
    let named = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    // What may be used: all, or only what is named, some of which loses nothing.
    let asked: [[Option<Vec<String>>; 2]; 3] = [
        [None, None],
        [named(&["jpeg", "uint8"]), named(&["zip", "uint8"])],
        [named(&["jpeg", "fp32"]), named(&["fp16", "fp32"])],
    ];
    let (mut inputs, mut cuts) = (0, 0);
    for seed in 0..24 {
        let mut random = Random(seed);
        let (dag, costs) = lossy_instance(&mut random, 2 + (seed % 2) as usize);
        for [input_encodings, cut_encodings] in &asked {
            let request = Request {
                input_encodings: input_encodings.clone(),
                cut_encodings: cut_encodings.clone(),
                ..Request::default()
            };
            let is_asked = |(mapping, setting): &(Mapping, Setting)| {
                let input = &costs.inputs()[setting.input].name;
                let mut codecs = costs.device_ids().map(|id| setting.codecs[id.index()]);
                let hops = derive_in_order(&dag, mapping, &setting.order).hops;
                let encodes = |id: usize| {
                    let mut sent = hops.iter().filter(|hop| hop.from.index() == id);
                    sent.any(|hop| hop.message.iter().any(|&flow| dag.flow(flow).from.is_some()))
                };
                let crosses = hops.iter().flat_map(|hop| &hop.message);
                let sent = crosses.copied().any(|flow| dag.flow(flow).from.is_none());
                (!sent || input_encodings.as_ref().is_none_or(|names| names.contains(input)))
                    && cut_encodings.as_ref().is_none_or(|names| {
                        let all = codecs.by_ref().enumerate();
                        all.filter(|(id, _)| encodes(*id))
                            .all(|(_, codec)| names.contains(&costs.codecs()[codec].name))
                    })
            };
            for limit in [0, 40, 1000] {
                let holds = |plan: &(Mapping, Setting)| {
                    harm(&losses(&dag, &costs, plan), seed) <= limit && is_asked(plan)
                };
                let mut judge = |choice: &Choice| -> Result<bool, ()> {
                    let plan = (choice.mapping.clone(), choice.setting.clone());
                    let steps = lossy_steps(&dag, &costs, &choice.mapping, &choice.setting);
                    assert_eq!(steps, losses(&dag, &costs, &plan));
                    Ok(harm(&steps, seed) <= limit)
                };
                let mut search = Agreeing::new(&dag, &costs, &request);
                let answer = search.find(Kind::Best, &mut judge, &mut || false).unwrap();
                let best = answer.best.unwrap();
                let plan = (best.mapping.clone(), best.setting.clone());
                assert!(holds(&plan), "seed {seed}, limit {limit}, {request:?}: {plan:?}");
                let least = least_of(&dag, &costs, Objective::Latency, &holds);
                assert_eq!(best.evaluation.latency.0, least, "seed {seed}, limit {limit}");
                let steps = losses(&dag, &costs, &plan);
                inputs += u32::from(steps.iter().any(|s| matches!(s, LossyStep::Input(_))));
                cuts += u32::from(steps.iter().any(|s| matches!(s, LossyStep::Cut { .. })));
            }
        }
    }
    assert!(inputs > 20 && cuts > 10, "{inputs} lossy inputs, {cuts} lossy cuts");
}

#[test]
fn a_search_that_is_stopped_falls_back_to_what_loses_nothing() {
    let mut random = Random(4);
    let dag = network(&mut random, 5);
    let profiles = [vec![profile(&mut random, &dag)], vec![profile(&mut random, &dag)]];
    let costs = Costs::from_profiles(&dag, "", &platform(2), &profiles, &[None]).unwrap();
    let mut search = Agreeing::new(&dag, &costs, &Request::default());
    let mut judge = |_: &Choice| -> Result<bool, ()> { Ok(false) };
    let answer = search.find(Kind::Split, &mut judge, &mut || true).unwrap();
    let mut judged = 0;
    let mut count = |_: &Choice| -> Result<bool, ()> {
        judged += 1;
        Ok(false)
    };
    let same = Agreeing::new(&dag, &costs, &Request::default());
    assert_eq!({ same }.find(Kind::Split, &mut count, &mut || true).unwrap(), answer);
    assert_eq!(judged, 1, "nothing more is judged");
    let split = answer.best_split.unwrap();
    assert!(lossy_steps(&dag, &costs, &split.mapping, &split.setting).is_empty());
    let exact = solve(&dag, &costs, &Request::default()).unwrap().best_split.unwrap();
    assert_eq!(split.evaluation, exact.evaluation);
    let mut broken = |_: &Choice| -> Result<bool, &str> { Err("no pictures") };
    let error = Agreeing::new(&dag, &costs, &Request::default())
        .find(Kind::Split, &mut broken, &mut || false)
        .unwrap_err();
    assert!(matches!(error, AgreeingError::Judge("no pictures")));
}

#[test]
fn what_is_forbidden_must_be_there() {
    let mut random = Random(1);
    let dag = network(&mut random, 3);
    let profiles = [vec![profile(&mut random, &dag)]];
    let costs = Costs::from_profiles(&dag, "", &platform(1), &profiles, &[]).unwrap();
    for (value, codec, expected) in [("v9", "fp16", "`v9`"), ("v1", "int4", "`int4`")] {
        let forbidden = vec![(vec![value.to_owned()], codec.to_owned())];
        let request = Request { forbidden, ..Request::default() };
        let error = solve(&dag, &costs, &request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
