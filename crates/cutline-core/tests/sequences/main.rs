//! The planner of many devices against an oracle that tries every sequence of stages.
//!
//! For every objective, under random limits, pins, encodings, shared memories and network cards, the
//! least value must be the oracle's, its ties (fewer stages, then fewer bytes) too, the plan found must
//! cost what the oracle says it costs, and the front of all objectives must be the oracle's front.
#![allow(clippy::unwrap_used)]

use cutline_core::{
    cost::{Costs, table, table::CostsFile},
    dag::Dag,
    evaluate::evaluate,
    planner::{self, Choice, Infeasible, Objective, Proof, Request, sweep},
    platform::Platform,
    units::BytesPerSec,
};
use serde_json::{Value, json};

mod oracle;
#[path = "../random/mod.rs"]
mod random;

use oracle::{Instance, Plan, Values};
use random::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Costs and platform of a random instance with at most so many mappings.
fn instance(random: &mut Random, most: u64) -> (Value, Value) {
    let devices = 2 + random.below(3);
    let mut layers = 1;
    // Large instances are as large as they may be; small ones of all sizes.
    let full = most > 1 << 10;
    while layers < 12 && devices.pow(layers as u32 + 1) <= most && (full || !random.one_in(7)) {
        layers += 1;
    }
    let coarse = 1 + random.below(4);
    let mut list = Vec::new();
    let mut read = vec![false; layers];
    for layer in 0..layers {
        let mut inputs = Vec::new();
        for (earlier, read) in read.iter_mut().enumerate().take(layer) {
            let near = layer - earlier <= 2;
            if near && random.below(10) < 6 || random.one_in(8) {
                inputs.push(format!("l{earlier}"));
                *read = true;
            }
        }
        let mut time = serde_json::Map::new();
        let mut energy = serde_json::Map::new();
        for (device, name) in NAMES.iter().enumerate().take(devices as usize) {
            if !random.one_in(25) {
                time.insert(
                    (*name).into(),
                    json!(random.below(6) * (4 - device as u64) * coarse * 10),
                );
            }
            if random.one_in(6) {
                energy.insert((*name).into(), json!(random.below(9) * 100));
            }
        }
        list.push(json!({ "name": format!("l{layer}"), "inputs": inputs,
            "output_bytes": random.below(5) * 7 * coarse, "parameter_bytes": random.below(4) * 50,
            "time_ns": time, "energy_nj": energy }));
    }
    let mut outputs: Vec<String> =
        (0..layers).filter(|&layer| !read[layer]).map(|layer| format!("l{layer}")).collect();
    let extra = format!("l{}", random.below(layers as u64));
    if random.one_in(3) && !outputs.contains(&extra) {
        outputs.push(extra);
    }
    let mut costs = json!({ "version": 1, "layers": list, "outputs": outputs,
        "input": { "fp32": 40 + random.below(4) * 40 } });
    if random.one_in(2) {
        costs["input"]["uint8"] = json!(random.below(4) * 10);
    }
    if random.one_in(3) {
        costs["codecs"] = json!([{ "name": "third", "num": 1, "den": 3,
            "enc_ns_per_kb": random.below(9) * 111, "dec_ns_per_kb": random.below(3) * 70 }]);
    }
    if random.one_in(2) {
        costs["call_ns"] = json!({ "a": random.below(4) * 5, "b": random.below(4) * 5 });
    }
    if random.one_in(2) {
        costs["prepare_ns"] = json!({ "fp32": { "a": random.below(4) * 9, "b": random.below(3) },
            "uint8": { "a": random.below(4) * 5, "c": random.below(4) * 5 } });
    }
    (costs, platform(random, devices as usize))
}

fn platform(random: &mut Random, devices: usize) -> Value {
    let shared = random.one_in(3);
    let mut list: Vec<Value> = Vec::new();
    for name in NAMES.iter().take(devices) {
        let mut device =
            json!({ "name": name, "power": format!("{}uW", random.below(5) * 1_000_000) });
        if shared && devices > 2 && (*name == "b" || *name == "c") {
            device["host"] = json!("h");
        }
        match random.below(4) {
            0 => {
                device["rent"] = json!("7.527");
                if random.one_in(2) {
                    device["users_per_instance"] = json!(1 + random.below(300));
                }
            }
            1 => {
                device["purchase"] = json!("60");
                device["life_months"] = json!(1 + random.below(36));
            }
            _ => {}
        }
        let host_has_it = shared && *name == "c";
        if random.one_in(4) && !host_has_it {
            device["memory"] = json!(format!("{}", 60 + random.below(600)));
        }
        list.push(device);
    }
    let mut links = Vec::new();
    for (a, first) in NAMES.iter().enumerate().take(devices) {
        for second in &NAMES[a + 1..devices] {
            if random.one_in(6) {
                continue;
            }
            let rate = |random: &mut Random| [8000, 2000, 800, 56][random.below(4) as usize];
            let mut link = json!({ "between": [first, second],
                "up": format!("{}mbit", rate(random)), "down": format!("{}mbit", rate(random)),
                "delay": format!("{}ns", random.below(4) * 10), "fixed": format!("{}ns", random.below(4) * 5),
                "energy": [format!("{}pJ/byte", random.below(3) * 500), format!("{}pJ/byte", random.below(3) * 700)] });
            if random.one_in(2) {
                let mut card = || ["", "net"][random.below(2) as usize];
                link["cards"] = json!([card(), card()]);
            }
            if random.one_in(4) {
                link["between"] = json!([second, first]);
            }
            links.push(link);
        }
    }
    json!({ "version": 1, "device": list, "link": links,
        "workload": { "users": 1 + random.below(5000), "frames_per_second": "25000.5", "electricity": "0.3" } })
}

fn read(costs: &Value, platform: &Value) -> (Dag, Costs) {
    let file: CostsFile = serde_json::from_value(costs.clone()).unwrap();
    let parsed: Platform = serde_json::from_value(platform.clone()).unwrap();
    let tables = vec![None; parsed.links().len()];
    table::read(&file, &parsed, &tables).unwrap()
}

/// The oracle's plan that a choice of the planner is, in the order of the file's layers.
fn plan_of(instance: &Instance, dag: &Dag, choice: &Choice) -> Plan {
    let device = |name: &String| {
        let group = dag.groups().iter().position(|group| group.name == *name).unwrap();
        choice.mapping.0[group].index()
    };
    let mut order: Vec<usize> = choice.setting.order.iter().map(|id| id.index()).collect();
    order.dedup();
    Plan {
        on: instance.names.iter().map(device).collect(),
        order,
        input: choice.setting.input,
        codecs: choice.setting.codecs.clone(),
    }
}

fn found_values(choice: &Choice, costs: &Costs) -> Vec<u64> {
    let values = Objective::ALL.iter().map(|o| o.of(&choice.evaluation, costs).unwrap());
    values.chain([choice.setting.order.len() as u64, choice.evaluation.bytes.0]).collect()
}

/// Compares everything that can be asked of one instance.
fn check(costs: &Value, platform: &Value, random: &mut Random) -> Result<Counts, String> {
    let (dag, table) = read(costs, platform);
    let instance = Instance::read(costs, platform);
    let all = instance.all();
    let mut counts = Counts::default();
    for (at, &objective) in Objective::ALL.iter().enumerate() {
        let mut request = Request { objective, ..Request::default() };
        for (limited, &quantity) in Objective::ALL.iter().enumerate() {
            if random.one_in(4) && !all.is_empty() {
                // Around what some plan needs, so that limits bind.
                let (_, values) = &all[random.below(all.len() as u64) as usize];
                request.limits.push((quantity, values[limited] + random.below(2)));
            }
        }
        if random.one_in(4) {
            let layer = random.below(instance.names.len() as u64) as usize;
            let device = random.below(instance.devices.len() as u64) as usize;
            request
                .pins
                .push((instance.names[layer].clone(), instance.devices[device].name.clone()));
        }
        let admissible = |(plan, values): &&(Plan, Values)| {
            let within = request.limits.iter().all(|(limited, most)| {
                values[Objective::ALL.iter().position(|o| o == limited).unwrap()] <= *most
            });
            within
                && request.pins.iter().all(|(layer, device)| {
                    let layer = instance.names.iter().position(|name| name == layer).unwrap();
                    instance.devices[plan.on[layer]].name == *device
                })
        };
        let key = |values: &Values| (values[at], values[6], values[7]);
        let best = all.iter().filter(admissible).map(|(_, values)| key(values)).min();
        let split = |(plan, _): &&(Plan, Values)| plan.order.len() > 1;
        let best_split = all.iter().filter(admissible).filter(split).map(|(_, v)| key(v)).min();
        if request.limits.is_empty()
            && request.objective == Objective::Latency
            && instance.devices.len() == 2
        {
            // Two devices are compared by exact fractions; the other oracle checks them.
            continue;
        }
        let answer = planner::solve(&dag, &table, &request).map_err(|error| error.to_string())?;
        for (what, found, expected) in
            [("best", &answer.best, best), ("split", &answer.best_split, best_split)]
        {
            compare(&instance, &dag, &table, found, expected, &key)
                .map_err(|difference| format!("{what}, {request:?}: {difference}"))?;
        }
        counts.feasible += u32::from(best.is_some());
        counts.infeasible += u32::from(best.is_none());
        counts.split += u32::from(best.is_some() && best == best_split);
        if let (None, Err(Infeasible::Limit { quantity, least, .. })) = (best, &answer.best) {
            relaxed(&all, &instance, &request, *quantity, *least)?;
            counts.relaxed += 1;
        }
    }
    Ok(counts)
}

fn compare(
    instance: &Instance,
    dag: &Dag,
    table: &Costs,
    found: &Result<Choice, Infeasible>,
    expected: Option<(u64, u64, u64)>,
    key: &dyn Fn(&Values) -> (u64, u64, u64),
) -> Result<(), String> {
    let choice = match (found, expected) {
        (Err(_), None) => return Ok(()),
        (Err(why), Some(expected)) => {
            return Err(format!("found none ({why}), expected {expected:?}"));
        }
        (Ok(choice), None) => return Err(format!("found {choice:?}, expected none")),
        (Ok(choice), Some(_)) => choice,
    };
    let plan = plan_of(instance, dag, choice);
    let Some(values) = instance.values(&plan) else {
        return Err(format!("found {choice:?}, which cannot be run"));
    };
    if found_values(choice, table) != values {
        return Err(format!("{choice:?} costs {values:?}"));
    }
    if Some(key(&values)) != expected || choice.proof != Proof::Optimal {
        return Err(format!(
            "found {:?} by {plan:?}, {:?}, expected {expected:?}",
            key(&values),
            choice.proof
        ));
    }
    Ok(())
}

/// The least relaxation that an infeasible request is told of really is the least.
fn relaxed(
    all: &[(Plan, Values)],
    instance: &Instance,
    request: &Request,
    quantity: Objective,
    least: u64,
) -> Result<(), String> {
    let at = |objective: &Objective| Objective::ALL.iter().position(|o| o == objective).unwrap();
    let others = |values: &Values| {
        request
            .limits
            .iter()
            .filter(|(o, _)| *o != quantity)
            .all(|(o, most)| values[at(o)] <= *most)
    };
    let pinned = |plan: &Plan| {
        request.pins.iter().all(|(layer, device)| {
            let layer = instance.names.iter().position(|name| name == layer).unwrap();
            instance.devices[plan.on[layer]].name == *device
        })
    };
    let really =
        all.iter().filter(|(p, v)| pinned(p) && others(v)).map(|(_, v)| v[at(&quantity)]).min();
    match really == Some(least) {
        true => Ok(()),
        false => Err(format!("least {} said to be {least}, is {really:?}", quantity.name())),
    }
}

/// The front of some objectives is the oracle's.
fn check_front(costs: &Value, platform: &Value, objectives: &[Objective]) -> Result<usize, String> {
    let (dag, table) = read(costs, platform);
    let all = Instance::read(costs, platform).all();
    let place = |objective| Objective::ALL.iter().position(|o| o == objective).unwrap();
    let asked = |values: &[u64]| objectives.iter().map(|o| values[place(o)]).collect();
    let mut values: Vec<Vec<u64>> = all.iter().map(|(_, values)| asked(values)).collect();
    values.sort();
    values.dedup();
    let dominates = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a <= b) && a != b;
    let expected: Vec<&Vec<u64>> =
        values.iter().filter(|v| !values.iter().any(|other| dominates(other, v))).collect();
    let front = planner::front(&dag, &table, &Request::default(), objectives, &mut || false)
        .map_err(|error| error.to_string())?;
    let mut found: Vec<Vec<u64>> =
        front.points.iter().map(|choice| asked(&found_values(choice, &table))).collect();
    found.sort();
    match found.iter().eq(expected.iter().copied()) && front.epsilon_ppm == 0 && front.complete {
        true => Ok(found.len()),
        false => Err(format!("front {found:?}, expected {expected:?}")),
    }
}

#[derive(Default)]
struct Counts {
    feasible: u32,
    infeasible: u32,
    split: u32,
    relaxed: u32,
}

fn random_of(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn planner_and_oracle_agree_on_many_devices() {
    let mut total = Counts::default();
    // Each instance is asked six questions. Most are small; `CUTLINE_ORACLE_MAPPINGS` makes them larger.
    let most = std::env::var("CUTLINE_ORACLE_MAPPINGS").ok().and_then(|text| text.parse().ok());
    let seeds = if most.is_some() { 200 } else { 10_000 };
    for seed in 1..=seeds {
        let mut random = random_of(seed);
        let mappings = most.unwrap_or(if seed % 100 == 0 { 1 << 10 } else { 1 << 6 });
        let (costs, platform) = instance(&mut random, mappings);
        match check(&costs, &platform, &mut random) {
            Ok(counts) => {
                total.feasible += counts.feasible;
                total.infeasible += counts.infeasible;
                total.split += counts.split;
                total.relaxed += counts.relaxed;
            }
            Err(difference) => panic!("seed {seed}: {difference}\n{costs:#}\n{platform:#}"),
        }
    }
    // The instances exercise all ends, or the agreement would mean little.
    let Counts { feasible, infeasible, split, relaxed } = total;
    println!("{feasible} feasible, {infeasible} not, {split} best split, {relaxed} relaxations");
    assert!(split * 5 > feasible / 2 && infeasible * 20 > feasible && relaxed * 40 > feasible);
}

#[test]
fn the_front_is_the_oracles() {
    // Maxima by themselves are searched for otherwise than beside sums.
    let maxima = [Objective::Period, Objective::DeviceEnergy, Objective::Memory];
    let mut points = [0; 4];
    for seed in 1..=1000 {
        let mut random = random_of(seed ^ 0xf00d);
        let (costs, platform) = instance(&mut random, 1 << 7);
        let asked = [&Objective::ALL[..], &maxima, &maxima[..2], &maxima[1..]];
        for (points, objectives) in points.iter_mut().zip(asked) {
            match check_front(&costs, &platform, objectives) {
                Ok(count) => *points += count,
                Err(difference) => {
                    panic!("seed {seed}, {objectives:?}: {difference}\n{costs:#}\n{platform:#}")
                }
            }
        }
    }
    assert!(points[0] > 3000 && points[1] > 1500, "{points:?} points in all");
}

#[test]
fn the_table_of_bandwidths_holds_the_best_plan_at_every_rate() {
    let mut corners = 0;
    for seed in 1..=400 {
        let mut random = random_of(seed ^ 0xbeef);
        let (costs, platform) = instance(&mut random, 1 << 6);
        let (dag, table) = read(&costs, &platform);
        if table.links().is_empty() {
            continue;
        }
        let request = Request::default();
        let ends = [BytesPerSec(1_000_000), BytesPerSec(8_000_000_000)];
        let regimes = sweep(&dag, &table, &request, 0, ends, &mut || false).unwrap();
        corners += regimes.len();
        let [up, down] = [table.links()[0].up.rate.0, table.links()[0].down.rate.0];
        let mut rate = ends[0].0;
        while rate <= ends[1].0 {
            let at = BytesPerSec(rate);
            let costs_here = table.with_rates(0, at, BytesPerSec((rate * down / up).max(1)));
            let best = planner::solve(&dag, &costs_here, &request).unwrap().best.ok();
            let regime = regimes.iter().find(|regime| regime.from <= at && at <= regime.to);
            let found = regime.map(|regime| {
                let Choice { mapping, setting, .. } = &regime.choice;
                evaluate(&dag, &costs_here, mapping, setting).unwrap().latency.0
            });
            // Messages round up one by one, so that lines are crooked by a few nanoseconds.
            let best = best.map(|choice| choice.evaluation.latency.0);
            let close = best.zip(found).is_none_or(|(best, found)| found <= best + 8);
            assert!(
                close && best.is_some() == found.is_some(),
                "seed {seed}, {rate} B/s: {best:?}, {found:?}\n{costs:#}\n{platform:#}"
            );
            rate = rate * 3 / 2;
        }
    }
    assert!(corners > 600, "{corners} ranges in all");
}
