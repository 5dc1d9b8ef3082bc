//! Plans that return to a device, against all of them one by one.
//!
//! Every mapping, in every order in which devices can take turns, each running all that is ready; with
//! every input encoding and every codec of each device.

use std::collections::BTreeSet;

use cutline_core::{
    cost::Costs,
    dag::{Dag, GroupId},
    evaluate::{Setting, evaluate},
    partition::Mapping,
    planner::{self, Choice, Objective, Proof, Request},
    platform::DeviceId,
};

use serde_json::{Value, json};

use super::invented::{instance, random_of, read};

/// All orders of turns in which a mapping can be run.
fn orders(dag: &Dag, mapping: &Mapping) -> Vec<Vec<DeviceId>> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), vec![false; dag.groups().len()])];
    while let Some((order, done)) = open.pop() {
        if done.iter().all(|&done| done) {
            found.push(order);
            continue;
        }
        let devices: BTreeSet<DeviceId> = mapping.0.iter().copied().collect();
        for device in devices.into_iter().filter(|device| order.last() != Some(device)) {
            let mut next = done.clone();
            for id in dag.group_ids().filter(|&id| mapping.device(id) == device) {
                let ready = |before: GroupId| next[before.index()];
                if !next[id.index()] && dag.predecessors(id).all(ready) {
                    next[id.index()] = true;
                }
            }
            if next != done {
                open.push(([&order[..], &[device]].concat(), next));
            }
        }
    }
    found
}

/// What every plan costs, as far as it can be run and its memory is there.
fn all(dag: &Dag, costs: &Costs, objectives: &[Objective]) -> BTreeSet<Vec<u64>> {
    let devices: Vec<DeviceId> = costs.device_ids().collect();
    let codecs = costs.codecs().len();
    let mut values = BTreeSet::new();
    for number in 0..devices.len().pow(dag.groups().len() as u32) {
        let digit = |at: usize| devices[number / devices.len().pow(at as u32) % devices.len()];
        let mapping = Mapping((0..dag.groups().len()).map(digit).collect());
        for order in orders(dag, &mapping) {
            for input in 0..costs.inputs().len() {
                for choice in 0..codecs.pow(devices.len() as u32) {
                    let codec = |at: usize| choice / codecs.pow(at as u32) % codecs;
                    let setting = Setting {
                        input,
                        codecs: (0..devices.len()).map(codec).collect(),
                        order: order.clone(),
                        ..Setting::first(costs)
                    };
                    let Ok(evaluation) = evaluate(dag, costs, &mapping, &setting) else { continue };
                    let late = costs.frame_interval().is_some_and(|i| evaluation.period > i);
                    if !late && evaluation.memory.iter().all(|used| used.excess().is_none()) {
                        let value = |o: &Objective| o.of(&evaluation, costs).unwrap();
                        values.insert(objectives.iter().map(value).collect());
                    }
                }
            }
        }
    }
    values
}

fn covers(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b)
}

fn values(choice: &Choice, costs: &Costs, objectives: &[Objective]) -> Vec<u64> {
    objectives.iter().map(|o| o.of(&choice.evaluation, costs).unwrap()).collect()
}

/// Whether a device runs more than one stage, or the source one that is not the first.
fn returns(choice: &Choice) -> bool {
    let order = &choice.setting.order;
    let starts = order.first().filter(|first| first.index() != 0).map(|_| 0);
    let mut devices: Vec<usize> = order.iter().map(|device| device.index()).chain(starts).collect();
    devices.sort_unstable();
    devices.windows(2).any(|pair| pair[0] == pair[1])
}

#[test]
fn the_front_of_plans_that_return_is_that_of_all() {
    let maxima = [Objective::Period, Objective::DeviceEnergy, Objective::Memory];
    let request = Request { revisits: true, ..Request::default() };
    let (mut points, mut returning) = (0, 0);
    for seed in 1..=150 {
        let mut random = random_of(seed ^ 0xbac);
        let (costs, platform) = instance(&mut random, 1 << 6, seed % 3 == 0);
        let (dag, costs) = read(&costs, &platform);
        for objectives in [&maxima[..], &Objective::ALL, &[Objective::Latency]] {
            let all = all(&dag, &costs, objectives);
            let expected: Vec<&Vec<u64>> = all
                .iter()
                .filter(|one| !all.iter().any(|other| other != *one && covers(other, one)))
                .collect();
            let front = planner::front(&dag, &costs, &request, objectives, &mut || false).unwrap();
            let mut found: Vec<Vec<u64>> =
                front.points.iter().map(|choice| values(choice, &costs, objectives)).collect();
            found.sort();
            assert!(front.complete, "seed {seed}");
            assert!(
                found.iter().eq(expected.iter().copied()),
                "seed {seed}, {objectives:?}: {found:?}, expected {expected:?}"
            );
            points += found.len();
            returning += front.points.iter().filter(|choice| returns(choice)).count();
        }
    }
    assert!(points > 1000 && returning * 20 > points, "{returning} of {points} return");
}

#[test]
fn the_best_plan_may_return() {
    let mut better = 0;
    for seed in 1..=100 {
        let mut random = random_of(seed ^ 0x5ca1e);
        let (costs, platform) = instance(&mut random, 1 << 6, seed % 2 == 0);
        let (dag, costs) = read(&costs, &platform);
        for objective in Objective::ALL {
            let all = all(&dag, &costs, &[objective]);
            let mut request = Request { objective, ..Request::default() };
            let once = planner::solve(&dag, &costs, &request).unwrap().best.ok();
            request.revisits = true;
            let best = planner::solve(&dag, &costs, &request).unwrap().best;
            let least = best.as_ref().ok().map(|best| values(best, &costs, &[objective]));
            assert_eq!(least.as_ref(), all.first(), "seed {seed}, {objective:?}");
            if let Ok(best) = &best {
                assert_eq!(best.proof, Proof::Optimal, "seed {seed}, {objective:?}");
            }
            let once = once.map(|once| values(&once, &costs, &[objective]));
            better += u32::from(once != least);
        }
    }
    assert!(better > 30, "{better} are better than without returning");
}

/// Light layers around a heavy one, on two devices. With memory for one half of it all, what is before
/// the heavy one must share a device with what is behind it.
fn heavy_in_the_middle(light: usize, memory: u64) -> (Dag, Costs) {
    let layer = |at: usize| {
        let inputs: Vec<String> = at.checked_sub(1).iter().map(|at| format!("l{at}")).collect();
        json!({ "name": format!("l{at}"), "inputs": inputs, "output_bytes": 1,
            "parameter_bytes": if at == light { 400 } else { 200 / light as u64 },
            "time_ns": { "a": 10, "b": 10 } })
    };
    let layers: Vec<Value> = (0..=2 * light).map(layer).collect();
    let costs = json!({ "version": 1, "input": { "fp32": 1 }, "layers": layers,
        "outputs": [format!("l{}", 2 * light)] });
    let platform = json!({ "version": 1,
        "device": [{ "name": "a", "memory": memory.to_string() },
                   { "name": "b", "memory": memory.to_string() }],
        "link": [{ "between": ["a", "b"], "up": "8gbit" }] });
    read(&costs, &platform)
}

#[test]
fn where_only_returning_fits_it_is_found() {
    // Layers before the heavy one and behind it; whether that is few enough to look at everything.
    for (light, is_small) in [(4, true), (20, false)] {
        let (dag, costs) = heavy_in_the_middle(light, 450);
        let mut request = Request::default();
        let once = planner::solve(&dag, &costs, &request).unwrap();
        assert!(once.best.is_err());
        request.revisits = true;
        let best = planner::solve(&dag, &costs, &request).unwrap().best.unwrap();
        let order: Vec<usize> = best.setting.order.iter().map(|id| id.index()).collect();
        assert_eq!(order, [0, 1, 0], "{light}");
        assert_eq!(best.proof == Proof::Optimal, is_small, "{light}: {:?}", best.proof);
        let objectives = [Objective::Latency, Objective::Memory];
        let front = planner::front(&dag, &costs, &request, &objectives, &mut || false).unwrap();
        assert!(!front.points.is_empty() && front.once_complete);
        assert_eq!(front.complete, is_small, "{light}");
        let unproven = |choice: &Choice| choice.proof == Proof::Unproven;
        assert!(front.points.iter().all(|choice| unproven(choice) != is_small));
    }
}

#[test]
fn what_is_known_is_never_lost_and_the_same_every_time() {
    let (dag, costs) = heavy_in_the_middle(20, 10_000);
    let (objectives, mut asked) = ([Objective::Period, Objective::Memory], 0);
    // Stopped at once, or after a while.
    for patience in [0, 200] {
        let mut front = |revisits: bool| {
            asked = 0;
            let request = Request { revisits, ..Request::default() };
            let mut stop = || {
                asked += 1;
                asked > patience
            };
            planner::front(&dag, &costs, &request, &objectives, &mut stop).unwrap()
        };
        let (once, returning) = (front(false), front(true));
        let covered = |point: &Choice| {
            let point = values(point, &costs, &objectives);
            returning.points.iter().any(|p| covers(&values(p, &costs, &objectives), &point))
        };
        assert!(!once.points.is_empty() && once.points.iter().all(covered));
        assert_eq!(front(true), returning);
    }
    let both = Request { revisits: true, scatter: true, ..Request::default() };
    assert!(planner::solve(&dag, &costs, &both).is_err());
}

#[test]
fn long_networks_return_where_that_is_quicker() {
    // Each device is quick at every other ten of forty layers. What crosses is small at first and large
    // later, so that a codec pays only where the source sends again.
    let layers: Vec<Value> = (0..40usize)
        .map(|at| {
            let (a, b) = if at / 10 % 2 == 0 { (10, 900) } else { (900, 10) };
            let inputs: Vec<String> = at.checked_sub(1).iter().map(|at| format!("l{at}")).collect();
            json!({ "name": format!("l{at}"), "inputs": inputs, "parameter_bytes": 1,
                "output_bytes": if (25..39).contains(&at) { 4000 } else { 4 }, "time_ns": { "a": a, "b": b } })
        })
        .collect();
    let costs = json!({ "version": 1, "input": { "fp32": 100_000 }, "layers": layers,
        "outputs": ["l39"], "codecs": [{ "name": "quarter", "num": 1, "den": 4,
            "enc_ns_per_kb": 10, "dec_ns_per_kb": 10 }] });
    let platform = json!({ "version": 1, "device": [{ "name": "a" }, { "name": "b" }],
        "link": [{ "between": ["a", "b"], "up": "8gbit" }] });
    let (dag, costs) = read(&costs, &platform);
    let request = Request { revisits: true, ..Request::default() };
    let best = planner::solve(&dag, &costs, &request).unwrap().best.unwrap();
    let order: Vec<usize> = best.setting.order.iter().map(|id| id.index()).collect();
    assert_eq!((order, best.setting.codecs[0]), (vec![0, 1, 0, 1], 1));
    let moves = best.mapping.0.iter().enumerate().map(|(at, id)| (at / 10 % 2, id.index()));
    assert!(moves.into_iter().all(|(quick, on)| quick == on), "{best:?}");
    assert!(matches!(best.proof, Proof::Within(_)));
    // Stopped before anything is varied: the codecs of what is known are kept with it.
    let objectives = [Objective::Latency, Objective::Period];
    let front = |revisits: bool, patience: u32| {
        let request = Request { revisits, ..Request::default() };
        let mut asked = 0;
        let mut stop = || {
            asked += 1;
            asked > patience
        };
        let front = planner::front(&dag, &costs, &request, &objectives, &mut stop).unwrap();
        (front.points, asked)
    };
    let (once, asked) = front(false, u32::MAX);
    assert!(
        once.iter().any(|point| point.setting.order.len() == 2 && point.setting.codecs[0] == 1)
    );
    let (returning, _) = front(true, asked);
    for point in once.iter().map(|point| values(point, &costs, &objectives)) {
        assert!(returning.iter().any(|p| covers(&values(p, &costs, &objectives), &point)));
    }
}
