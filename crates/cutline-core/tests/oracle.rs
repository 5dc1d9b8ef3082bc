//! The planner against an oracle that tries every plan.
//!
//! The oracle is written from `docs/cost-model.md` alone: it shares no code with evaluation or
//! planning, works on the `costs.json` structure itself, and compares plans by exact fractions. On
//! thousands of small random networks both must name the same best plan, the same best split, and
//! the same numbers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cutline_core::{
    cost::{self, table::CostsFile},
    planner::{self, Request},
    platform::Platform,
};
use serde_json::{Value, json};

mod brute;
mod random;

use brute::{Instance, Oracle};
use random::Random;

/// Costs drawn from few values, so that ties are common.
fn random_costs(random: &mut Random) -> Value {
    let layers = 1 + random.below(8);
    let coarse = 1 + random.below(4);
    let mut list = Vec::new();
    let mut read = vec![false; layers as usize];
    for layer in 0..layers {
        let mut inputs = Vec::new();
        for earlier in 0..layer {
            let near = layer - earlier <= 2;
            if near && random.below(10) < 6 || random.one_in(8) {
                inputs.push(format!("l{earlier}"));
                read[earlier as usize] = true;
            }
        }
        let mut time = BTreeMap::new();
        for (device, scale) in [("edge", 3), ("cloud", 1)] {
            if !random.one_in(25) {
                time.insert(device, random.below(6) * scale * coarse * 10);
            }
        }
        list.push(json!({ "name": format!("l{layer}"), "inputs": inputs,
            "output_bytes": random.below(5) * 7 * coarse, "parameter_bytes": random.below(4) * 50,
            "time_ns": time }));
    }
    let mut outputs: Vec<String> =
        (0..layers).filter(|&l| !read[l as usize]).map(|l| format!("l{l}")).collect();
    if outputs.len() > 1 && random.one_in(4) {
        // A result that nobody reads and nobody asked for.
        outputs.pop();
    }
    let extra = format!("l{}", random.below(layers));
    if random.one_in(3) && !outputs.contains(&extra) {
        outputs.push(extra);
    }
    let mut input = BTreeMap::new();
    for (name, size) in [("fp32", 40), ("uint8", 10), ("jpeg", 3)] {
        if !random.one_in(5) {
            input.insert(name, random.below(4) * size);
        }
    }
    let mut costs = json!({ "version": 1, "input": input, "layers": list, "outputs": outputs });
    if random.one_in(2) {
        costs["codecs"] = json!([
            { "name": "fp16", "num": 1, "den": 2, "enc_ns_per_kb": 300, "dec_ns_per_kb": 70, "lossy": false },
            { "name": "third", "num": 1 + random.below(4), "den": 3, "enc_ns_per_kb": random.below(9) * 111,
              "dec_ns_per_kb": 0, "lossy": true } ]);
    }
    if random.one_in(2) {
        costs["call_ns"] = json!({ "edge": random.below(4) * 5, "cloud": random.below(4) * 5 });
    }
    if random.one_in(2) {
        costs["prepare_ns"] = json!({
            "fp32": { "edge": random.below(4) * 9, "cloud": random.below(3) },
            "uint8": { "edge": random.below(4) * 5, "cloud": random.below(4) * 5 },
            "jpeg": { "cloud": random.below(9) * 5 } });
    }
    costs
}

fn random_platform(random: &mut Random) -> Value {
    let mut devices = vec![json!({ "name": "edge" }), json!({ "name": "cloud" })];
    for device in &mut devices {
        if random.one_in(3) {
            device["memory"] = json!(format!("{}", 20 + random.below(600)));
        }
    }
    // Rates that divide a second evenly, and rates that do not.
    let rates = ["8gbit", "2gbit", "800mbit", "56mbit", "104000024bit"];
    let mut rate = || rates[random.below(rates.len() as u64) as usize];
    let (up, down) = (rate(), rate());
    let between = if random.one_in(4) { ["cloud", "edge"] } else { ["edge", "cloud"] };
    let link = json!({ "between": between, "up": up, "down": down,
        "delay": format!("{}ns", random.below(4) * 10), "fixed": format!("{}ns", random.below(4) * 5) });
    let links = if random.one_in(40) { vec![] } else { vec![link] };
    json!({ "version": 1, "device": devices, "link": links })
}

fn random_request(random: &mut Random, costs: &Value) -> Request {
    let mut request = Request::default();
    if random.one_in(2) {
        let known = costs["input"].as_object().unwrap().keys().cloned();
        request.input_encodings = Some(known.chain(["fp32".to_owned()]).collect());
    }
    if random.one_in(2) && costs.get("codecs").is_some() {
        let names = ["third", "fp16", "fp32"];
        let kept = names[random.below(3) as usize..].iter();
        request.cut_encodings = Some(kept.map(|name| (*name).to_owned()).collect());
    }
    if random.one_in(4) {
        let layers = costs["layers"].as_array().unwrap().len() as u64;
        let device = if random.one_in(2) { "edge" } else { "cloud" };
        request.pins.push((format!("l{}", random.below(layers)), device.to_owned()));
    }
    request
}

fn check(costs: &Value, platform: &Value, request: &Request) -> Result<(), String> {
    let file: CostsFile = serde_json::from_value(costs.clone()).unwrap();
    let parsed: Platform = serde_json::from_value(platform.clone()).unwrap();
    let tables = vec![None; parsed.links().len()];
    let (dag, table) = cost::table::read(&file, &parsed, &tables).unwrap();
    let answer = planner::solve(&dag, &table, request).map_err(|error| error.to_string())?;
    let oracle = Oracle::new(Instance::read(costs, platform));

    let describe = |choice: &planner::Choice| {
        let names = dag.groups().iter().map(|group| group.name.clone());
        let devices = choice.mapping.0.iter().map(|&d| table.device(d).name.clone());
        let mut mapping: Vec<(String, String)> = names.zip(devices).collect();
        mapping.sort();
        let evaluation = &choice.evaluation;
        let memory =
            evaluation.memory.iter().map(|m| (table.device(m.device).name.clone(), m.bytes.0));
        brute::Report {
            mapping,
            input: table.inputs()[choice.setting.input].name.clone(),
            codec: table.codecs()[choice.setting.codecs[0]].name.clone(),
            latency: evaluation.latency.0,
            period: evaluation.period.0,
            bytes: evaluation.bytes.0,
            four: [
                evaluation.edge_compute().0,
                evaluation.upload().0,
                evaluation.cloud_compute().0,
                evaluation.rest().0,
            ],
            memory: memory.collect(),
        }
    };
    let order: Vec<String> = dag.groups().iter().map(|group| group.name.clone()).collect();
    let expected = oracle.solve(&order, request);
    let compare = |what: &str, found: Option<brute::Report>, expected: &Option<brute::Report>| {
        if found == *expected {
            Ok(())
        } else {
            Err(format!("{what}: found {found:#?}\nexpected {expected:#?}"))
        }
    };
    compare("best split", answer.best_split.as_ref().ok().map(describe), &expected.best_split)?;
    compare("best", answer.best.as_ref().ok().map(describe), &expected.best)?;
    for baseline in &answer.baselines {
        let found = baseline.outcome.as_ref().ok().map(describe);
        compare(&baseline.name, found, &expected.baselines[&baseline.name])?;
    }
    for choice in [&answer.best, &answer.best_split].into_iter().flatten() {
        if choice.proof != planner::Proof::Optimal {
            return Err(format!("proof {:?} of a small instance", choice.proof));
        }
    }
    Ok(())
}

#[test]
fn planner_and_oracle_agree_on_random_networks() {
    let (mut splits, mut infeasible) = (0, 0);
    for seed in 1..=4000u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let costs = random_costs(&mut random);
        let platform = random_platform(&mut random);
        let request = random_request(&mut random, &costs);
        let order: Vec<String> = costs["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["name"].as_str().unwrap().to_owned())
            .collect();
        let expected = Oracle::new(Instance::read(&costs, &platform)).solve(&order, &request);
        splits += u32::from(expected.best == expected.best_split && expected.best.is_some());
        infeasible += u32::from(expected.best.is_none());
        if let Err(difference) = check(&costs, &platform, &request) {
            panic!("seed {seed}: {difference}\n{costs:#}\n{platform:#}\n{request:#?}");
        }
    }
    // The instances exercise both ends, or the agreement would mean little.
    assert!(splits > 200 && infeasible > 100, "{splits} splits, {infeasible} infeasible");
}
