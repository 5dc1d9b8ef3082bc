//! The planner of many devices against an oracle that tries every sequence of stages, and of scatter
//! groups.
//!
//! For every objective, under random limits, pins, encodings, shared memories and network cards, the
//! least value must be the oracle's, its ties (fewer stages, then fewer bytes) too, the plan found must
//! cost what the oracle says it costs, and the front of all objectives must be the oracle's front.
#![allow(clippy::unwrap_used)]

use cutline_core::{
    cost::{Costs, table, table::CostsFile},
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::Mapping,
    planner::{self, Choice, Infeasible, Objective, Proof, Regime, Request, sweep},
    platform::Platform,
    routing::Table,
    units::BytesPerSec,
};
use serde_json::{Value, json};

mod oracle;
#[path = "../random/mod.rs"]
mod random;
mod returning;

use oracle::{Instance, Plan, Values};
use random::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Costs and platform of a random instance with at most so many mappings; with `blocks`, of a network
/// most of whose layers lie in blocks of several branches.
fn instance(random: &mut Random, most: u64, blocks: bool) -> (Value, Value) {
    let devices = 2 + random.below(3);
    let mut layers = 1;
    // Large instances are as large as they may be; small ones of all sizes.
    let full = most > 1 << 10;
    while layers < 12 && devices.pow(layers as u32 + 1) <= most && (full || !random.one_in(7)) {
        layers += 1;
    }
    let coarse = 1 + random.below(4);
    let mut list = Vec::new();
    let reads = if blocks { blocks_of(random, layers) } else { any_reads(random, layers) };
    let read = |layer: usize| reads.iter().any(|reads| reads.contains(&layer));
    for (layer, reads) in reads.iter().enumerate() {
        let inputs: Vec<String> = reads.iter().map(|earlier| format!("l{earlier}")).collect();
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
        (0..layers).filter(|&layer| !read(layer)).map(|layer| format!("l{layer}")).collect();
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

/// What each layer reads; nothing stands for the network's input.
fn any_reads(random: &mut Random, layers: usize) -> Vec<Vec<usize>> {
    let reads = |layer: usize| {
        let near = |earlier: usize, random: &mut Random| {
            layer - earlier <= 2 && random.below(10) < 6 || random.one_in(8)
        };
        (0..layer).filter(|&earlier| near(earlier, random)).collect()
    };
    (0..layers).map(reads).collect()
}

/// The same of blocks that follow each other, and now and then a layer between them.
fn blocks_of(random: &mut Random, layers: usize) -> Vec<Vec<usize>> {
    let mut reads: Vec<Vec<usize>> = Vec::new();
    let mut enters: Vec<usize> = Vec::new();
    while reads.len() < layers {
        let left = layers - reads.len();
        if left == 1 || random.one_in(4) {
            reads.push(enters);
            enters = vec![reads.len() - 1];
            continue;
        }
        let branches = 1 + random.below((left as u64 - 1).min(3)) as usize;
        let inside = branches + random.below((left - branches) as u64) as usize;
        let mut tips = Vec::new();
        for _ in 0..branches {
            tips.push(reads.len());
            reads.push(enters.clone());
        }
        for _ in branches..inside {
            let at = random.below(branches as u64) as usize;
            let mut from = vec![tips[at]];
            if random.one_in(4) {
                from.extend(&enters);
            }
            if random.one_in(8) {
                from.push(tips[(at + 1) % branches]);
            }
            from.sort_unstable();
            from.dedup();
            tips[at] = reads.len();
            reads.push(from);
        }
        if random.one_in(4) {
            tips.extend(&enters);
        }
        tips.sort_unstable();
        reads.push(tips);
        enters = vec![reads.len() - 1];
    }
    reads
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
        if shared && devices > 3 && (*name == "a" || *name == "d") {
            device["host"] = json!("g");
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
        let host_has_it = shared && (*name == "c" || *name == "d");
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
    let helpers = choice.setting.helpers.iter();
    Plan {
        on: instance.names.iter().map(device).collect(),
        order,
        helpers: helpers.map(|(helper, joiner)| (helper.index(), joiner.index())).collect(),
        input: choice.setting.input,
        codecs: choice.setting.codecs.clone(),
    }
}

fn found_values(choice: &Choice, dag: &Dag, costs: &Costs) -> Vec<u64> {
    let values = Objective::ALL.iter().map(|o| o.of(&choice.evaluation, costs).unwrap());
    let stages = choice.setting.partition(dag, &choice.mapping).unwrap().stages.len();
    values.chain([stages as u64, choice.evaluation.bytes.0]).collect()
}

/// Compares everything that can be asked of one instance.
fn check(
    costs: &Value,
    platform: &Value,
    scatter: bool,
    random: &mut Random,
) -> Result<Counts, String> {
    let (dag, table) = read(costs, platform);
    let instance = Instance::read(costs, platform);
    let all = instance.all(scatter);
    let mut counts = Counts::default();
    for (at, &objective) in Objective::ALL.iter().enumerate() {
        let mut request = Request { objective, scatter, ..Request::default() };
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
        let split = |(plan, _): &&(Plan, Values)| plan.order.len() + plan.helpers.len() > 1;
        let best_split = all.iter().filter(admissible).filter(split).map(|(_, v)| key(v)).min();
        if request.limits.is_empty()
            && request.objective == Objective::Latency
            && instance.devices.len() == 2
            && !scatter
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
        counts.scattered +=
            u32::from(answer.best.as_ref().is_ok_and(|best| !best.setting.helpers.is_empty()));
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
    if found_values(choice, dag, table) != values {
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

/// The least relaxation that an infeasible request is told of really is the least, and no other limit
/// need give way by a smaller part.
fn relaxed(
    all: &[(Plan, Values)],
    instance: &Instance,
    request: &Request,
    quantity: Objective,
    least: u64,
) -> Result<(), String> {
    let at = |objective: &Objective| Objective::ALL.iter().position(|o| o == objective).unwrap();
    let pinned = |plan: &Plan| {
        request.pins.iter().all(|(layer, device)| {
            let layer = instance.names.iter().position(|name| name == layer).unwrap();
            instance.devices[plan.on[layer]].name == *device
        })
    };
    let really = |quantity: Objective| {
        let others = |values: &Values| {
            let mut others = request.limits.iter().filter(|(o, _)| *o != quantity);
            others.all(|(o, most)| values[at(o)] <= *most)
        };
        let possible = all.iter().filter(|(plan, values)| pinned(plan) && others(values));
        possible.map(|(_, values)| values[at(&quantity)]).min()
    };
    if really(quantity) != Some(least) {
        let really = really(quantity);
        return Err(format!("least {} said to be {least}, is {really:?}", quantity.name()));
    }
    let part = |least: u64, limit: u64| u128::from(least) * 1_000_000 / u128::from(limit.max(1));
    let limit = request.limits.iter().find(|(o, _)| *o == quantity).unwrap().1;
    let smaller = request.limits.iter().find(|&&(other, limit_of_other)| {
        really(other).is_some_and(|other| part(other, limit_of_other) < part(least, limit))
    });
    match smaller {
        None => Ok(()),
        Some(smaller) => Err(format!("{smaller:?} gives way less than {quantity:?} to {least}")),
    }
}

/// The front of some objectives is the oracle's; how many points it has, and how many of them with a
/// scatter group.
fn check_front(
    costs: &Value,
    platform: &Value,
    scatter: bool,
    objectives: &[Objective],
) -> Result<[usize; 2], String> {
    let (dag, table) = read(costs, platform);
    let all = Instance::read(costs, platform).all(scatter);
    let place = |objective| Objective::ALL.iter().position(|o| o == objective).unwrap();
    let asked = |values: &[u64]| objectives.iter().map(|o| values[place(o)]).collect();
    let mut values: Vec<Vec<u64>> = all.iter().map(|(_, values)| asked(values)).collect();
    values.sort();
    values.dedup();
    let dominates = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a <= b) && a != b;
    let expected: Vec<&Vec<u64>> =
        values.iter().filter(|v| !values.iter().any(|other| dominates(other, v))).collect();
    let request = Request { scatter, ..Request::default() };
    let front = planner::front(&dag, &table, &request, objectives, &mut || false)
        .map_err(|error| error.to_string())?;
    let mut found: Vec<Vec<u64>> =
        front.points.iter().map(|choice| asked(&found_values(choice, &dag, &table))).collect();
    found.sort();
    match found.iter().eq(expected.iter().copied()) && front.epsilon_ppm == 0 && front.complete {
        true => {
            let scattered = |choice: &&Choice| !choice.setting.helpers.is_empty();
            Ok([found.len(), front.points.iter().filter(scattered).count()])
        }
        false => Err(format!("front {found:?}, expected {expected:?}")),
    }
}

#[derive(Default)]
struct Counts {
    feasible: u32,
    infeasible: u32,
    split: u32,
    relaxed: u32,
    scattered: u32,
}

fn random_of(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The mapping and the setting of a plan of the oracle.
fn decided(instance: &Instance, dag: &Dag, table: &Costs, plan: &Plan) -> (Mapping, Setting) {
    let device = |at: usize| table.find_device(&instance.devices[at].name).unwrap();
    let group = |group: &cutline_core::dag::Group| {
        let layer = instance.names.iter().position(|name| *name == group.name).unwrap();
        device(plan.on[layer])
    };
    let pair = |&(helper, joiner): &(usize, usize)| (device(helper), device(joiner));
    let setting = Setting {
        input: plan.input,
        codecs: plan.codecs.clone(),
        order: plan.order.iter().map(|&at| device(at)).collect(),
        helpers: plan.helpers.iter().map(pair).collect(),
        ..Setting::first(table)
    };
    (Mapping(dag.groups().iter().map(group).collect()), setting)
}

#[test]
fn every_plan_costs_what_the_oracle_says() {
    let (mut plans, mut scattered) = (0, 0);
    for seed in 1..=600 {
        let mut random = random_of(seed ^ 0xcafe);
        let (costs, platform) = instance(&mut random, 1 << 7, true);
        let (dag, table) = read(&costs, &platform);
        let instance = Instance::read(&costs, &platform);
        for (plan, values) in instance.all(true) {
            let (mapping, setting) = decided(&instance, &dag, &table, &plan);
            let evaluation = evaluate(&dag, &table, &mapping, &setting).unwrap();
            let choice = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
            let found = found_values(&choice, &dag, &table);
            assert_eq!(found, values, "seed {seed}: {plan:?}\n{costs:#}\n{platform:#}");
            plans += 1;
            scattered += u32::from(!plan.helpers.is_empty());
        }
    }
    assert!(scattered > 3_000 && scattered < plans, "{scattered} of {plans}");
}

#[test]
fn planner_and_oracle_agree_on_many_devices() {
    let mut total = Counts::default();
    // Each instance is asked six questions. Most are small; `CUTLINE_ORACLE_MAPPINGS` makes them larger.
    let most = std::env::var("CUTLINE_ORACLE_MAPPINGS").ok().and_then(|text| text.parse().ok());
    let seeds = if most.is_some() { 200 } else { 10_000 };
    for seed in 1..=seeds {
        let mut random = random_of(seed);
        // Half of them with scatter groups, most of these in networks that are made for them.
        let scatter = seed % 2 == 0;
        let few = if scatter { 1 << 7 } else { 1 << 6 };
        let mappings = most.unwrap_or(if seed % 100 < 2 { 1 << 10 } else { few });
        let (costs, platform) = instance(&mut random, mappings, scatter && seed % 10 != 0);
        match check(&costs, &platform, scatter, &mut random) {
            Ok(counts) => {
                total.feasible += counts.feasible;
                total.infeasible += counts.infeasible;
                total.split += counts.split;
                total.relaxed += counts.relaxed;
                total.scattered += counts.scattered;
            }
            Err(difference) => panic!("seed {seed}: {difference}\n{costs:#}\n{platform:#}"),
        }
    }
    // The instances exercise all ends, or the agreement would mean little.
    let Counts { feasible, infeasible, split, relaxed, scattered } = total;
    println!(
        "{feasible} feasible, {infeasible} not, {split} best split, {scattered} best with a scatter \
         group, {relaxed} relaxations"
    );
    assert!(scattered * 25 > feasible, "{scattered}");
    assert!(split * 5 > feasible / 2 && infeasible * 20 > feasible && relaxed * 40 > feasible);
}

#[test]
fn the_front_is_the_oracles() {
    // Maxima by themselves are searched for otherwise than beside sums.
    let maxima = [Objective::Period, Objective::DeviceEnergy, Objective::Memory];
    let (mut points, mut scattered) = ([0; 4], 0);
    for seed in 1..=1000 {
        let mut random = random_of(seed ^ 0xf00d);
        let scatter = seed % 2 == 0;
        let (costs, platform) = instance(&mut random, 1 << 7, scatter);
        let asked = [&Objective::ALL[..], &maxima, &maxima[..2], &maxima[1..]];
        for (points, objectives) in points.iter_mut().zip(asked) {
            match check_front(&costs, &platform, scatter, objectives) {
                Ok([all, some]) => (*points, scattered) = (*points + all, scattered + some),
                Err(difference) => {
                    panic!("seed {seed}, {objectives:?}: {difference}\n{costs:#}\n{platform:#}")
                }
            }
        }
    }
    assert!(points[0] > 3000 && points[1] > 1000, "{points:?} points in all");
    assert!(scattered > 500, "{scattered} scattered");
}

#[test]
fn the_table_of_bandwidths_holds_the_best_plan_at_every_rate() {
    let (mut corners, mut tables) = (0, 0);
    for seed in 1..=400 {
        let mut random = random_of(seed ^ 0xbeef);
        let (costs, platform) = instance(&mut random, 1 << 6, false);
        let (dag, table) = read(&costs, &platform);
        if table.links().is_empty() {
            continue;
        }
        let request = Request::default();
        let ends = [BytesPerSec(1_000_000), BytesPerSec(8_000_000_000)];
        let regimes = sweep(&dag, &table, &request, 0, ends, &mut || false).unwrap();
        corners += regimes.len();
        let routes = Table::of_sweep(&table, 0, &regimes, Err("not asked".to_owned()), &[]);
        // Some sends only against the declared direction of the link, which is not measured.
        let routes = routes.ok().map(|(routes, _)| routes);
        tables += usize::from(routes.is_some());
        // Ranges follow each other from end to end, and each plan is told as it costs at the highest
        // rate of its range.
        let of = |regime: &Regime| [regime.from, regime.to];
        let bounds: Vec<BytesPerSec> = regimes.iter().flat_map(of).collect();
        assert!(bounds.first().is_none_or(|&first| first == ends[0]), "seed {seed}: {bounds:?}");
        assert!(bounds.last().is_none_or(|&last| last == ends[1]), "seed {seed}: {bounds:?}");
        for pair in bounds[bounds.len().min(1)..].chunks_exact(2) {
            assert_eq!(pair[0].0 + 1, pair[1].0, "seed {seed}: {bounds:?}");
        }
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
            let routed =
                routes.as_ref().and_then(|routes| Some(routes.latency(routes.best_at(at)?, at).0));
            let same = routed.is_none_or(|routed| found.is_some_and(|f| f.abs_diff(routed) <= 8));
            assert!(same, "seed {seed}, {rate} B/s: {found:?}, as a route {routed:?}");
            rate = rate * 3 / 2;
        }
    }
    assert!(corners > 600, "{corners} ranges in all");
    assert!(tables > 200, "{tables} tables of routes");
}

/// Makes the third device like the second, but for one thing or nothing.
fn almost_twins(random: &mut Random, costs: &mut Value, platform: &mut Value) {
    let other = |value: &Value| json!(value.as_u64().unwrap_or(0) + 10);
    for layer in costs["layers"].as_array_mut().unwrap() {
        for key in ["time_ns", "energy_nj"] {
            let like = layer[key].get("b").cloned();
            let of = layer[key].as_object_mut().unwrap();
            match like {
                Some(like) => drop(of.insert("c".into(), like)),
                None => drop(of.remove("c")),
            }
        }
    }
    if let Some(call) = costs.get_mut("call_ns") {
        call["c"] = call["b"].clone();
    }
    if let Some(prepare) = costs.get_mut("prepare_ns") {
        for times in prepare.as_object_mut().unwrap().values_mut() {
            times["b"] = json!(random.below(4) * 5);
            times["c"] = times["b"].clone();
        }
    }
    for name in ["b", "c"] {
        let at = usize::from(name == "c") + 1;
        let mut like = platform["device"][1].clone();
        like["name"] = json!(name);
        like.as_object_mut().unwrap().remove("host");
        platform["device"][at] = like;
    }
    let link = |between: [&str; 2], up: &str, down: &str| {
        json!({ "between": between, "up": up, "down": down, "delay": "10ns", "fixed": "5ns",
            "energy": ["500pJ/byte", "700pJ/byte"] })
    };
    let mut links =
        vec![link(["a", "b"], "8000mbit", "2000mbit"), link(["c", "a"], "2000mbit", "8000mbit")];
    links[1]["energy"] = json!(["700pJ/byte", "500pJ/byte"]);
    links.push(link(["b", "c"], "8000mbit", "8000mbit"));
    links[2]["energy"] = json!(["500pJ/byte", "500pJ/byte"]);
    if platform["device"].as_array().unwrap().len() > 3 && random.one_in(2) {
        links.push(link(["b", "d"], "800mbit", "8000mbit"));
        links.push(link(["c", "d"], "800mbit", "8000mbit"));
    }
    let device = &mut platform["device"][2];
    let layers = costs["layers"].as_array().unwrap().len() as u64;
    let layer = random.below(layers) as usize;
    match random.below(16) {
        0 => {
            costs["layers"][layer]["time_ns"]["c"] = other(&costs["layers"][layer]["time_ns"]["b"])
        }
        1 => {
            costs["layers"][layer]["energy_nj"]["c"] =
                other(&costs["layers"][layer]["energy_nj"]["b"]);
        }
        2 => costs["call_ns"] = json!({ "a": 5, "b": 10, "c": 5 }),
        3 => costs["prepare_ns"] = json!({ "fp32": { "b": 5, "c": 0 }, "uint8": { "b": 5 } }),
        4 => device["memory"] = json!("150"),
        5 => device["power"] = json!("9000000uW"),
        6 => device["purchase"] = json!("10"),
        7 => links[1]["up"] = json!("800mbit"),
        8 => links[1]["down"] = json!("800mbit"),
        9 => links[1]["delay"] = json!("0ns"),
        10 => links[1]["energy"] = json!(["200pJ/byte", "500pJ/byte"]),
        11 => links[1]["energy"] = json!(["700pJ/byte", "200pJ/byte"]),
        12 => links[2]["up"] = json!("2000mbit"),
        13 => links[2]["energy"] = json!(["500pJ/byte", "100pJ/byte"]),
        14 => drop(links.remove(1)),
        _ => {}
    }
    if device.get("purchase").is_some() {
        device["life_months"] = json!(12);
    }
    platform["link"] = json!(links);
}

#[test]
fn devices_that_are_almost_alike_are_told_apart() {
    let mut total = 0;
    for seed in 1..=1500 {
        let mut random = random_of(seed ^ 0xa11ce);
        let scatter = seed % 2 == 0;
        let (mut costs, mut platform) = instance(&mut random, 1 << 7, scatter);
        if platform["device"].as_array().unwrap().len() < 3 {
            continue;
        }
        almost_twins(&mut random, &mut costs, &mut platform);
        match check(&costs, &platform, scatter, &mut random) {
            Ok(counts) => total += counts.split,
            Err(difference) => panic!("seed {seed}: {difference}\n{costs:#}\n{platform:#}"),
        }
    }
    assert!(total > 500, "{total}");
}

/// Says when to stop: after so many questions.
fn patience(questions: u32) -> impl FnMut() -> bool {
    let mut left = questions;
    move || {
        left = left.saturating_sub(1);
        left == 0
    }
}

#[test]
fn a_search_that_is_stopped_says_how_far_it_may_be_off() {
    let (mut stopped, mut exact, mut within, mut useful) = (0, 0, 0, 0);
    for seed in 1..=400 {
        let mut random = random_of(seed ^ 0xdead);
        let scatter = seed % 2 == 0;
        let (costs, platform) = instance(&mut random, 1 << 7, scatter);
        let (dag, table) = read(&costs, &platform);
        for &objective in &Objective::ALL {
            let mut request = Request { objective, scatter, ..Request::default() };
            if objective == Objective::Latency {
                // Two devices are not searched by labels without a limit.
                request.limits.push((Objective::Memory, 1_000_000));
            }
            let best = planner::solve(&dag, &table, &request).unwrap();
            for questions in [1, 2, 3, 5, 9, 14, 20, 1000] {
                let mut stop = patience(questions);
                let answer = planner::solve_until(&dag, &table, &request, &mut stop).unwrap();
                let pairs = [(&answer.best, &best.best), (&answer.best_split, &best.best_split)];
                for (found, best) in pairs {
                    let value = |choice: &Choice| objective.of(&choice.evaluation, &table).unwrap();
                    let what =
                        format!("seed {seed}, {objective:?}, {questions}: {found:?}, {best:?}");
                    match (found, best) {
                        (Err(Infeasible::Stopped), _) => stopped += 1,
                        (Err(why), Err(known)) => assert_eq!(why, known, "{what}"),
                        (Ok(found), Ok(best)) => match found.proof {
                            Proof::Optimal => {
                                assert_eq!(value(found), value(best), "{what}");
                                exact += 1;
                            }
                            Proof::Within(gap) => {
                                assert!(questions < 1000 && gap > 0, "{what}");
                                assert!(value(found) - gap <= value(best), "{what}");
                                assert!(value(found) >= value(best), "{what}");
                                within += 1;
                                useful += u32::from(gap < value(found));
                            }
                            Proof::Front(_) | Proof::Unproven => panic!("{what}"),
                        },
                        _ => panic!("{what}"),
                    }
                }
            }
        }
    }
    println!(
        "{stopped} without a plan, {exact} proven, {within} within, {useful} of them by less than all"
    );
    assert!(stopped > 100 && exact > 1000 && useful * 2 > within && within > 1000);
}

#[test]
fn a_front_that_is_stopped_has_what_one_device_can_do() {
    let mut short = 0;
    for seed in 1..=200 {
        let mut random = random_of(seed ^ 0xface);
        let scatter = seed % 2 == 0;
        let (costs, platform) = instance(&mut random, 1 << 7, scatter);
        let (dag, table) = read(&costs, &platform);
        let instance = Instance::read(&costs, &platform);
        let request = Request { scatter, ..Request::default() };
        let maxima = [Objective::Period, Objective::DeviceEnergy, Objective::Memory];
        for objectives in [&Objective::ALL[..], &maxima] {
            let asked = |values: &[u64]| -> Vec<u64> {
                let at = |o| Objective::ALL.iter().position(|known| known == o).unwrap();
                objectives.iter().map(|o| values[at(o)]).collect()
            };
            let front = |questions| {
                let mut stop = patience(questions);
                let found = planner::front(&dag, &table, &request, objectives, &mut stop).unwrap();
                let of = |choice: &Choice| asked(&found_values(choice, &dag, &table));
                let points: Vec<Vec<u64>> = found.points.iter().map(of).collect();
                assert_eq!(found.epsilon_ppm, 0, "stopped, not too many labels");
                (points, found.complete)
            };
            let covers = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a <= b);
            let (all, complete) = front(u32::MAX);
            assert!(complete);
            for questions in [1, 2, 4, 8, 16, 32] {
                let (points, complete) = front(questions);
                let what = format!("seed {seed}, {objectives:?}, {questions}: {points:?}, {all:?}");
                for (at, point) in points.iter().enumerate() {
                    assert!(all.iter().any(|best| covers(best, point)), "{what}");
                    let mut others = points.iter().enumerate().filter(|(other, _)| *other != at);
                    assert!(!others.any(|(_, other)| covers(other, point)), "{what}");
                }
                let missing = all.iter().any(|best| !points.contains(best));
                assert!(!missing || !complete, "{what}");
                short += u32::from(missing);
                let one = |plan: &Plan| plan.order.len() == 1 && plan.helpers.is_empty();
                for (_, values) in instance.all(false).iter().filter(|(plan, _)| one(plan)) {
                    let values = asked(values);
                    assert!(points.iter().any(|point| covers(point, &values)), "{what}");
                }
            }
        }
    }
    assert!(short > 200, "{short}");
}
