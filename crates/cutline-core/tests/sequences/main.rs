//! The planner of many devices against an oracle that tries every sequence of stages, and of scatter
//! groups.
//!
//! For every objective, under random limits, pins, encodings, shared memories and network cards, the
//! least value must be the oracle's, its ties (fewer stages, then fewer bytes) too, the plan found must
//! cost what the oracle says it costs, and the front of all objectives must be the oracle's front.
#![allow(clippy::unwrap_used)]

use cutline_core::{
    cost::Costs,
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::Mapping,
    planner::{self, Choice, Infeasible, Objective, Proof, Regime, Request, sweep},
    routing::Table,
    units::BytesPerSec,
};
use serde_json::Value;

mod invented;
mod oracle;
#[path = "../random/mod.rs"]
mod random;
mod refusals;
mod returning;

use invented::{almost_twins, instance, random_of, read};
use oracle::{Instance, Plan, Values};
use random::Random;
use refusals::{keeps_pins, refused, relaxed, too_slow};

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
    let mut all = instance.all(scatter);
    let late: Vec<_> = all.extract_if(.., |(_, values)| !instance.keeps_up(values)).collect();
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
            within && keeps_pins(&instance, &request, plan)
        };
        let key = |values: &Values| (values[at], values[6], values[7]);
        let best = all.iter().filter(admissible).map(|(_, values)| key(values)).min();
        let split = |(plan, _): &&(Plan, Values)| plan.order.len() + plan.helpers.len() > 1;
        let best_split = all.iter().filter(admissible).filter(split).map(|(_, v)| key(v)).min();
        if request.limits.is_empty()
            && request.objective == Objective::Latency
            && instance.devices.len() == 2
            && table.frame_interval().is_none()
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
        match (best, &answer.best) {
            (None, Err(Infeasible::Limit { quantity, least, .. })) => {
                relaxed(&all, &instance, &request, *quantity, *least)?;
                counts.relaxed += 1;
            }
            (None, Err(Infeasible::Rate { least, .. })) => {
                too_slow(&all, &late, &instance, &request, least.0)?;
                counts.late += 1;
            }
            (None, Err(why)) => {
                refused(&all, &instance, &request, why)
                    .map_err(|difference| format!("{why}, {request:?}: {difference}"))?;
                counts.refused += 1;
            }
            _ => {}
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

/// The front of some objectives is the oracle's; how many points it has, and how many of them with a
/// scatter group.
fn check_front(
    costs: &Value,
    platform: &Value,
    scatter: bool,
    objectives: &[Objective],
    random: &mut Random,
) -> Result<[usize; 2], String> {
    let (dag, table) = read(costs, platform);
    let instance = Instance::read(costs, platform);
    let mut all = instance.all(scatter);
    all.retain(|(_, values)| instance.keeps_up(values));
    let place = |objective| Objective::ALL.iter().position(|o| o == objective).unwrap();
    let asked = |values: &[u64]| objectives.iter().map(|o| values[place(o)]).collect();
    let mut request = Request { scatter, ..Request::default() };
    for (limited, &quantity) in Objective::ALL.iter().enumerate() {
        if random.one_in(9) && !all.is_empty() {
            let (_, values) = &all[random.below(all.len() as u64) as usize];
            request.limits.push((quantity, values[limited] + random.below(2)));
        }
    }
    let within = |values: &Values| request.limits.iter().all(|(o, most)| values[place(o)] <= *most);
    let all = all.iter().filter(|(_, values)| within(values));
    let mut values: Vec<Vec<u64>> = all.map(|(_, values)| asked(values)).collect();
    values.sort();
    values.dedup();
    let dominates = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a <= b) && a != b;
    let expected: Vec<&Vec<u64>> =
        values.iter().filter(|v| !values.iter().any(|other| dominates(other, v))).collect();
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
        false => Err(format!("{:?}: front {found:?}, expected {expected:?}", request.limits)),
    }
}

#[derive(Default)]
struct Counts {
    feasible: u32,
    infeasible: u32,
    split: u32,
    relaxed: u32,
    refused: u32,
    scattered: u32,
    late: u32,
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
                total.refused += counts.refused;
                total.scattered += counts.scattered;
                total.late += counts.late;
            }
            Err(difference) => panic!("seed {seed}: {difference}\n{costs:#}\n{platform:#}"),
        }
    }
    // The instances exercise all ends, or the agreement would mean little.
    let Counts { feasible, infeasible, split, relaxed, refused, scattered, late } = total;
    println!(
        "{feasible} feasible, {infeasible} not, {split} best split, {scattered} best with a scatter \
         group, {relaxed} relaxations, {refused} refusals, {late} too slow for the frames"
    );
    assert!(scattered * 25 > feasible && late > 50, "{scattered}, {late}");
    assert!(split * 5 > feasible / 2 && infeasible * 20 > feasible && relaxed * 40 > feasible);
    assert!(refused * 100 > feasible, "{refused}");
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
            match check_front(&costs, &platform, scatter, objectives, &mut random) {
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
    for seed in 1..=640 {
        let mut random = random_of(seed ^ 0xbeef);
        let (costs, platform) = instance(&mut random, 1 << 6, false);
        let (dag, table) = read(&costs, &platform);
        // Which plans keep up changes with the rate, so that the least latency is no envelope.
        if table.links().is_empty() || table.frame_interval().is_some() {
            continue;
        }
        let request = Request::default();
        // Whatever else is asked for, the table is of the least latency in one go.
        let (objective, scatter, revisits) =
            (Objective::Memory, seed % 4 == 0, seed % 4 == 1 && seed < 100);
        let asked = Request { objective, scatter, revisits, ..Request::default() };
        let ends = [BytesPerSec(1_000_000), BytesPerSec(8_000_000_000)];
        let regimes = sweep(&dag, &table, &asked, 0, ends, &mut || false).unwrap();
        corners += regimes.len();
        let routes = Table::of_sweep(&table, 0, &regimes, Err("not asked".to_owned()), &[]);
        // Some sends only against the declared direction of the link, which is not measured.
        let routes = routes.ok().map(|(routes, _)| routes);
        tables += usize::from(routes.is_some());
        // Ranges follow each other from end to end, and each plan is told as it costs at the highest
        // rate of its range; the same from where one ends.
        let mut begins = vec![ends[0]];
        begins.extend(regimes.first().map(|first| first.to).filter(|&to| to < ends[1]));
        for begin in begins {
            let ends = [begin, ends[1]];
            let regimes = sweep(&dag, &table, &request, 0, ends, &mut || false).unwrap();
            let of = |regime: &Regime| [regime.from, regime.to];
            let bounds: Vec<BytesPerSec> = regimes.iter().flat_map(of).collect();
            assert!(
                bounds.first().is_none_or(|&first| first == ends[0]),
                "seed {seed}: {bounds:?}"
            );
            assert!(bounds.last().is_none_or(|&last| last == ends[1]), "seed {seed}: {bounds:?}");
            for pair in bounds[bounds.len().min(1)..].chunks_exact(2) {
                assert_eq!(pair[0].0 + 1, pair[1].0, "seed {seed}: {bounds:?}");
            }
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
            let close = best.zip(found).is_none_or(|(best, found)| best.abs_diff(found) <= 8);
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
                let mut all = instance.all(false);
                all.retain(|(plan, values)| one(plan) && instance.keeps_up(values));
                for (_, values) in &all {
                    let values = asked(values);
                    assert!(points.iter().any(|point| covers(point, &values)), "{what}");
                }
            }
        }
    }
    assert!(short > 200, "{short}");
}
