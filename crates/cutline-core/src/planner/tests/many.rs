//! More than two devices: plain alternatives, refusals, proofs of searches that are stopped or cannot
//! look at everything.

use super::{
    super::{
        scatter::is_too_wide,
        sequence::{Sequences, slack_of_a_stage},
    },
    *,
};

/// The chain on four devices: a fog node beside the edge, and two clouds of which the second is
/// slower and takes less power.
pub(super) fn four(tiers: bool) -> (Value, Value) {
    let mut costs = chain();
    for layer in costs["layers"].as_array_mut().unwrap() {
        let time = layer["time_ns"]["edge"].as_u64().unwrap();
        layer["time_ns"] =
            json!({ "edge": time, "fog": time / 20, "cloud": time / 10, "green": time / 5 });
    }
    let device = |name: &str, tier: &str, power: &str| {
        let mut device = json!({ "name": name, "power": power });
        if tiers {
            device["tier"] = json!(tier);
        }
        device
    };
    let names = ["edge", "fog", "cloud", "green"];
    let device = [
        device("edge", "device", "1W"),
        device("fog", "edge", "300W"),
        device("cloud", "cloud", "100W"),
        device("green", "cloud", "1W"),
    ];
    let link: Vec<Value> =
        names[1..].iter().map(|name| json!({ "between": ["edge", name], "up": "8gbit" })).collect();
    (costs, json!({ "version": 1, "device": device, "link": link }))
}

fn homes(answer: &Answer) -> Vec<Option<usize>> {
    let home = |baseline: &Baseline| Some(baseline.outcome.as_ref().ok()?.mapping.0[0].index());
    answer.baselines.iter().map(home).collect()
}

#[test]
fn all_in_the_cloud_is_on_the_best_device_of_the_cloud() {
    let jpeg = Some(vec!["jpeg".to_owned()]);
    let energy = Request { objective: Objective::Energy, ..Request::default() };
    let ban = |device: &str| Request {
        bans: vec![("b".into(), device.into())],
        input_encodings: jpeg.clone(),
        ..Request::default()
    };
    let lossless = [true, false, false, true];
    // Whether tiers are declared, request, where cloud-fp32 is, which baselines are allowed.
    let cases = [
        (true, Request::default(), 2, lossless),
        (false, Request::default(), 1, lossless),
        (true, energy.clone(), 3, lossless),
        (false, energy, 3, lossless),
        // Where plans on one device go does not depend on what the request allows.
        (true, ban("cloud"), 2, [true, false, false, false]),
        (true, ban("edge"), 2, [false, true, false, false]),
        (true, ban("fog"), 2, [true, true, false, false]),
    ];
    for (tiers, request, expected, allowed) in cases {
        let (costs, platform) = four(tiers);
        let answer = answer(&costs, &platform, &request);
        let expected = Some(expected);
        assert_eq!(homes(&answer), [Some(0), expected, None, expected], "{tiers}, {request:?}");
        let found: Vec<bool> = answer.baselines.iter().map(|baseline| baseline.allowed).collect();
        assert_eq!(found, allowed, "{request:?}");
        // What is not sent is the tensor.
        assert_eq!(answer.baselines[0].outcome.as_ref().unwrap().setting.input, 0);
        let lossy: Vec<bool> = answer.baselines.iter().map(|baseline| baseline.lossy).collect();
        assert_eq!(lossy, [false, true, false, false]);
        let why = answer.baselines[2].outcome.as_ref().unwrap_err();
        assert_eq!(*why, Infeasible::NoEncoding("uint8".into()));
    }
}

#[test]
fn a_baseline_takes_the_best_engine_or_says_what_is_missing() {
    let (file, platform) = four(true);
    let (dag, mut costs) = read(&file, &platform);
    let mut quick = costs.devices[0].options[0].clone();
    quick.groups = vec![Some(Nanos(1)), Some(Nanos(2)), Some(Nanos(3))];
    let mut slow = quick.clone();
    slow.groups[0] = Some(Nanos(1_000_000));
    // Of two that do it equally well the first is taken.
    costs.devices[0].options.extend([quick.clone(), quick, slow]);
    for device in &mut costs.devices[1..] {
        device.memory = Some(Bytes(3299));
    }
    costs.devices[3].options[0].groups[1] = None;
    let answer = solve(&dag, &costs, &Request { scatter: true, ..Request::default() }).unwrap();
    let edge = answer.baselines[0].outcome.as_ref().unwrap();
    assert_eq!((edge.setting.engines[0], edge.evaluation.latency), (1, Nanos(6)));
    // Weights of 3000 and 300 live bytes.
    let expected = Infeasible::Memory {
        device: "cloud".into(),
        needed: Bytes(3300),
        others: Bytes::ZERO,
        limit: Bytes(3299),
        excess: Bytes(1),
    };
    assert_eq!(*answer.baselines[3].outcome.as_ref().unwrap_err(), expected);
    costs.devices[2].options[0].groups[1] = None;
    let answer = solve(&dag, &costs, &Request { scatter: true, ..Request::default() }).unwrap();
    let why = answer.baselines[3].outcome.as_ref().unwrap_err().to_string();
    assert!(why.contains("group `b`"), "{why}");
}

#[test]
fn refusals_of_many_devices_are_named() {
    let (costs, platform) = four(true);
    let limit = |quantity, most| Request { limits: vec![(quantity, most)], ..Request::default() };
    let both = |first, second| Request {
        limits: vec![(Objective::Latency, first), (Objective::Period, second)],
        ..Request::default()
    };
    let mut full = platform.clone();
    for device in full["device"].as_array_mut().unwrap() {
        // The last two layers need 2110, one layer at least 1015.
        device["memory"] = json!("1014");
    }
    let apart = {
        let mut apart = platform.clone();
        apart["link"] = json!([]);
        apart
    };
    let nowhere = |layer: usize| {
        let mut costs = costs.clone();
        costs["layers"][layer]["time_ns"] = json!({});
        costs
    };
    let cases = [
        // Split after b to the fog: 50 + 60 + 10 + 35 + 5 back, 160 in all.
        (costs.clone(), platform.clone(), limit(Objective::Latency, 159), "159 ns is not possible"),
        (costs.clone(), platform.clone(), both(1, 1), "contradict each other"),
        (costs.clone(), full, limit(Objective::Latency, 1_000_000), "too much"),
        (nowhere(1), platform.clone(), limit(Objective::Latency, 1000), "no plan can be run"),
        (
            costs.clone(),
            platform.clone(),
            Request { revisits: true, ..limit(Objective::Latency, 1) },
            "no plan that returns to a device is allowed, either",
        ),
        (costs.clone(), apart, Request { private: Some("c".into()), ..Request::default() }, ""),
    ];
    for (costs, platform, request, expected) in cases {
        let answer = answer(&costs, &platform, &request);
        match answer.best {
            Ok(best) => assert_eq!((places(&best).as_str(), expected), ("eee", "")),
            Err(why) => {
                assert!(!expected.is_empty() && why.to_string().contains(expected), "{why}");
            }
        }
    }
}

/// So many layers that read the input, and one that reads them all.
fn wide(layers: usize, devices: &[&str]) -> (Value, Value) {
    let times = |time: u64| -> Value {
        let all = devices.iter().enumerate();
        all.map(|(at, name)| ((*name).to_owned(), json!(time / (at as u64 + 1)))).collect()
    };
    let names: Vec<String> = (0..layers).map(|at| format!("l{at}")).collect();
    let mut list: Vec<Value> = names
        .iter()
        .map(|name| json!({ "name": name, "output_bytes": 8, "time_ns": times(600) }))
        .collect();
    list.push(json!({ "name": "join", "inputs": names, "output_bytes": 8, "time_ns": times(60) }));
    let costs =
        json!({ "version": 1, "input": { "fp32": 200 }, "layers": list, "outputs": ["join"] });
    let device: Vec<Value> = devices.iter().map(|name| json!({ "name": name })).collect();
    let mut link = Vec::new();
    for (at, a) in devices.iter().enumerate() {
        for b in &devices[at + 1..] {
            link.push(json!({ "between": [a, b], "up": "8gbit" }));
        }
    }
    (costs, json!({ "version": 1, "device": device, "link": link }))
}

#[test]
fn what_was_not_all_looked_at_is_not_proven() {
    let request = Request { objective: Objective::Period, ..Request::default() };
    // 2^15 cuts are more than 20,000.
    for (layers, exact) in [(5, true), (15, false)] {
        let (costs, platform) = wide(layers, &["a", "b"]);
        let best = answer(&costs, &platform, &request).best.unwrap();
        let value = best.evaluation.period.0;
        let expected = if exact { Proof::Optimal } else { Proof::Within(value) };
        assert_eq!(best.proof, expected, "{layers}");
        let (dag, costs) = read(&costs, &platform);
        let front = front(&dag, &costs, &request, &[Objective::Period], &mut || false).unwrap();
        assert_eq!((front.complete, front.epsilon_ppm), (exact, 0));
    }
}

#[test]
fn blocks_with_too_many_assignments_are_left_whole() {
    let block = |layers: usize| {
        let (costs, platform) = wide(layers, &["a", "b"]);
        let (dag, _) = read(&costs, &platform);
        let blocks = crate::partition::blocks(&dag);
        blocks.into_iter().find(|block| block.branches.len() == layers).unwrap()
    };
    // Branches, devices, whether (devices - 1)^branches is more than 100,000, or more than 31 bits.
    let cases = [
        (16, 3, false),
        (17, 3, true),
        (10, 4, false),
        (11, 4, true),
        (31, 2, false),
        (32, 2, true),
        (31, 1, false),
        (5, 11, false),
        (5, 12, true),
    ];
    for (branches, devices, expected) in cases {
        assert_eq!(is_too_wide(&block(branches), devices), expected, "{branches}, {devices}");
    }
    let devices = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    for (layers, scatter, proven) in [(5, true, false), (5, false, true)] {
        let (costs, platform) = wide(layers, &devices);
        let request = Request { scatter, objective: Objective::Period, ..Request::default() };
        let best = answer(&costs, &platform, &request).best.unwrap();
        assert_eq!(best.proof == Proof::Optimal, proven);
    }
}

/// A chain of so many layers, some of which read one further back too, on three devices whose plans
/// differ in everything.
fn unlike(layers: usize) -> (Value, Value) {
    let mut state = 7u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % limit
    };
    let names = ["a", "b", "c"];
    let mut list = Vec::new();
    for at in 0..layers {
        let times: Value = names
            .iter()
            .map(|name| ((*name).to_owned(), json!(1_000_000 + below(4_000_000))))
            .collect();
        let far = at > 2 && below(3) == 0;
        let inputs = [(at > 0, 1), (far, 3)].into_iter().filter(|(reads, _)| *reads);
        let inputs: Vec<String> = inputs.map(|(_, back)| format!("l{}", at - back)).collect();
        list.push(json!({ "name": format!("l{at}"), "inputs": inputs, "time_ns": times,
            "output_bytes": 100_000 + below(3_000_000), "parameter_bytes": below(9_000_000) }));
    }
    let costs = json!({ "version": 1, "input": { "fp32": 500_000, "uint8": 300_000 },
        "layers": list, "outputs": [format!("l{}", layers - 1)] });
    let power = ["3W", "11W", "29W"];
    let device: Vec<Value> = names
        .iter()
        .zip(power)
        .map(|(name, power)| json!({ "name": name, "power": power }))
        .collect();
    let link = [("a", "b", "8gbit"), ("b", "c", "5gbit"), ("a", "c", "3gbit")];
    let link =
        link.map(|(a, b, up)| json!({ "between": [a, b], "up": up, "energy": "900pJ/byte" }));
    (costs, json!({ "version": 1, "device": device, "link": link }))
}

#[test]
fn a_front_of_too_many_labels_matches_every_plan_within_its_slack() {
    let (costs, platform) = unlike(100);
    let (dag, costs) = read(&costs, &platform);
    let objectives = [Objective::Latency, Objective::Period, Objective::Energy, Objective::Memory];
    let front = |most_labels: usize| {
        let mut sequences = Sequences::new(&dag, &costs, &[0, 1], &[0], &[], false);
        sequences.most_labels = most_labels;
        let found = sequences.front(&objectives, &mut || false);
        let values = found.ended.iter().map(|ended| ended.values[..4].to_vec());
        (values.collect::<Vec<Vec<u64>>>(), found.epsilon_ppm, found.complete)
    };
    let (all, slack, complete) = front(usize::MAX);
    assert_eq!((slack, complete), (0, true));
    let mut seen = Vec::new();
    for most_labels in (0..45).map(|step| 3_600 + 60 * step) {
        let (points, slack, complete) = front(most_labels);
        seen.push((slack, complete));
        assert!(complete || slack == 10_000, "{most_labels}");
        for plan in all.iter().filter(|_| complete) {
            let near = |point: &Vec<u64>| {
                let mut pairs = point.iter().zip(plan);
                pairs.all(|(&point, &plan)| point * 1_000_000 <= plan * (1_000_000 + slack))
            };
            assert!(points.iter().any(near), "{most_labels}: {plan:?}");
        }
    }
    for expected in [(0, true), (1_000, true), (10_000, false)] {
        assert!(seen.contains(&expected), "{expected:?}: {seen:?}");
    }
}

#[test]
fn a_front_keeps_within_limits_that_are_no_objectives() {
    let (costs, platform) = unlike(10);
    let (dag, costs) = read(&costs, &platform);
    let front = |objectives: &[Objective], limits: &[(Objective, u64)]| -> Vec<Vec<u64>> {
        let request = Request { limits: limits.to_vec(), ..Request::default() };
        let front = super::super::front(&dag, &costs, &request, objectives, &mut || false);
        let values = |choice: &Choice| {
            let value = |objective: &Objective| objective.of(&choice.evaluation, &costs).unwrap();
            objectives.iter().map(value).collect()
        };
        front.unwrap().points.iter().map(values).collect()
    };
    let all = [Objective::Latency, Objective::Memory, Objective::Energy, Objective::DeviceEnergy];
    let everything = front(&all, &[]);
    for limited in [2, 3] {
        let mut each: Vec<u64> = everything.iter().map(|values| values[limited]).collect();
        each.sort_unstable();
        let limit = each[each.len() / 3];
        let within = everything.iter().filter(|values| values[limited] <= limit);
        let mut points: Vec<Vec<u64>> = within.map(|values| values[..2].to_vec()).collect();
        points.sort();
        points.dedup();
        let covers = |a: &Vec<u64>, b: &Vec<u64>| a != b && a[0] <= b[0] && a[1] <= b[1];
        let expected: Vec<_> =
            points.iter().filter(|b| !points.iter().any(|a| covers(a, b))).cloned().collect();
        assert!(expected.len() > 1 && expected.len() < points.len(), "{limited}: {expected:?}");
        assert_eq!(front(&all[..2], &[(all[limited], limit)]), expected, "{limited}");
    }
}

#[test]
fn the_slack_of_all_stages_is_no_more_than_allowed() {
    for devices in 1..=32 {
        for epsilon_ppm in [0, 1_000, 10_000] {
            let slack = slack_of_a_stage(epsilon_ppm, devices);
            let all = (1.0 + slack as f64 / 1e6).powi(devices as i32);
            assert!(all <= 1.0 + epsilon_ppm as f64 / 1e6, "{devices}, {epsilon_ppm}: {slack}");
            // Nor is much of it left unused.
            assert!((slack + 1) * (devices as u64 + 1) > epsilon_ppm, "{devices}, {epsilon_ppm}");
        }
    }
}

#[test]
fn devices_that_nothing_reaches_change_no_plan() {
    // A chain has no blocks: with scatter groups there are the same plans, searched without regions.
    let (mut costs, few) = unlike(70);
    let layers = costs["layers"].as_array_mut().unwrap();
    for (at, layer) in layers.iter_mut().enumerate().skip(1) {
        layer["inputs"] = json!([format!("l{}", at - 1)]);
    }
    // Sets of so many devices are too many to be told apart.
    let lost = |from: usize, count: usize| {
        (from..from + count).map(|at| json!({ "name": format!("lost{at}"), "power": "1W" }))
    };
    let [a, b, c] = [0, 1, 2].map(|at| few["device"][at].clone());
    let device = [a].into_iter().chain(lost(0, 6)).chain([b]).chain(lost(6, 8)).chain([c]);
    let mut many = few.clone();
    many["device"] = device.collect();
    let maxima = [Objective::Period, Objective::DeviceEnergy, Objective::Memory];
    let found = |platform: &Value, scatter: bool| {
        let (dag, costs) = read(&costs, platform);
        let value = |o: Objective, choice: &Choice| o.of(&choice.evaluation, &costs).unwrap();
        let request = Request { scatter, ..Request::default() };
        let front = front(&dag, &costs, &request, &maxima, &mut || false).unwrap();
        assert!(front.complete);
        let points = front.points.iter().map(|point| maxima.map(|o| value(o, point)));
        let best = Objective::ALL[..5].iter().map(|&objective| {
            let limits = vec![(Objective::Memory, 1 << 60)];
            let request = Request { objective, scatter, limits, ..Request::default() };
            value(objective, &solve(&dag, &costs, &request).unwrap().best.unwrap())
        });
        (points.collect::<Vec<_>>(), best.collect::<Vec<_>>())
    };
    let expected = found(&few, true);
    // Of n points in three objectives there are about 2 n + 1 regions: more than bits of a word.
    assert!(expected.0.len() > 40, "{}", expected.0.len());
    for (platform, scatter) in [(&few, false), (&many, false), (&many, true)] {
        assert!(found(platform, scatter) == expected, "{scatter}");
    }
}

#[test]
fn one_device_has_no_other_to_split_with() {
    let alone = json!({ "version": 1, "device": [{ "name": "edge" }] });
    let request = Request { limits: vec![(Objective::Latency, 810)], ..Request::default() };
    let answer = answer(&chain(), &alone, &request);
    assert_eq!(places(&answer.best.unwrap()), "eee");
    assert_eq!(answer.best_split, Err(Infeasible::NoOther));
}

#[test]
fn long_networks_are_planned_alike_by_cuts_and_by_labels() {
    for layers in [63, 64, 65, 127, 130] {
        let (costs, mut platform) = unlike(layers);
        platform["device"].as_array_mut().unwrap().truncate(2);
        platform["link"].as_array_mut().unwrap().truncate(1);
        // Answers and inputs are small beside the network: the best plan is a split.
        platform["link"][0]["up"] = json!("90gbit");
        let limits = vec![(Objective::Memory, 1 << 60)];
        let [cut, labels] = [Request::default(), Request { limits, ..Request::default() }]
            .map(|request| answer(&costs, &platform, &request).best_split.unwrap());
        assert_eq!(cut.mapping, labels.mapping, "{layers}");
        assert_eq!(cut.evaluation.latency, labels.evaluation.latency, "{layers}");
        assert_eq!((cut.proof, labels.proof), (Proof::Optimal, Proof::Optimal), "{layers}");
    }
}

#[test]
fn measured_tables_count_where_labels_are_searched() {
    let (file, platform) = four(true);
    let (dag, mut costs) = read(&file, &platform);
    for link in &mut costs.links {
        link.up.table = vec![(Bytes(0), Nanos(1000)), (Bytes(1000), Nanos(2000))];
        link.down.table = vec![(Bytes(0), Nanos(300)), (Bytes(10), Nanos(400))];
    }
    // After b to the fog: 50 + 60, 10 bytes in 1010, 35, and 5 bytes back in 350.
    let split = solve(&dag, &costs, &Request::default()).unwrap().best_split.unwrap();
    assert_eq!(split.evaluation.latency, Nanos(1505));
    for &objective in &Objective::ALL[..5] {
        for scatter in [false, true] {
            let request = Request { objective, scatter, ..Request::default() };
            let answer = solve(&dag, &costs, &request).unwrap();
            assert!(answer.best.is_ok() && answer.best_split.is_ok(), "{objective:?}");
        }
    }
}

#[test]
fn an_answer_of_unknown_size_is_made_at_home_by_plans_that_return() {
    // All is quicker in the cloud; nothing says how long the answer of the last group is, nor one that
    // the first makes besides what it sends on.
    let (mut table, platform) = (chain(), platform(1000));
    for (layer, edge) in [50, 9000, 600].into_iter().enumerate() {
        table["layers"][layer]["time_ns"] = json!({ "edge": edge, "cloud": 1 });
    }
    let (_, costs) = read(&table, &platform);
    let mut dag = Dag::new();
    let mut flow = dag.add_input("input", Some(Bytes(200)));
    for (name, bytes) in [("a", Some(100)), ("b", Some(10)), ("c", None)] {
        let side = (name == "a").then(|| ("side".to_owned(), None));
        let makes = [(name.to_owned(), bytes.map(Bytes))].into_iter().chain(side);
        let (macs, weights) = (crate::units::Macs(1), Bytes(1000));
        let group = dag.add_group(vec![name.to_owned()], [flow], makes, macs, weights);
        let makes = dag.group(group).makes.clone();
        flow = makes[0];
        makes[1..].iter().for_each(|&side| dag.mark_output(side));
        if name != "a" {
            dag.mark_output(flow);
        }
    }
    for objective in [Objective::Latency, Objective::Period] {
        let request = Request { objective, revisits: true, ..Request::default() };
        let answer = solve(&dag, &costs, &request).unwrap();
        let (best, split) = (answer.best.unwrap(), answer.best_split.unwrap());
        assert_eq!((places(&best).as_str(), best.proof), ("ece", Proof::Optimal));
        // 50 + 100 there + 1 + 10 back as a value and 10 as an answer + 600.
        assert_eq!((best.evaluation.latency.0, best.evaluation.period.0), (771, 650));
        assert_eq!((split.mapping, split.evaluation), (best.mapping, best.evaluation));
    }
}

/// Devices in order, a letter each; layers, each with what it reads and who can run it, in 100 ns. All
/// links take 1 ns for a byte, all values have 8 of them, and the last layer is the answer.
fn lettered(devices: &str, layers: &str) -> (Value, Value) {
    let layer = |text: &str| {
        let (name, rest) = text.split_once('<').unwrap();
        let (reads, able) = rest.split_once('@').unwrap();
        let reads: Vec<&str> = reads.split(',').filter(|name| !name.is_empty()).collect();
        let times: Value = able.chars().map(|on| (on.to_string(), json!(100))).collect();
        json!({ "name": name, "inputs": reads, "output_bytes": 8, "time_ns": times })
    };
    let layers: Vec<Value> = layers.split(' ').map(layer).collect();
    let last = layers[layers.len() - 1]["name"].clone();
    let costs =
        json!({ "version": 1, "input": { "fp32": 8 }, "outputs": [last], "layers": layers });
    let names: Vec<String> = devices.chars().map(String::from).collect();
    let device: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let pairs = names.iter().enumerate();
    let pairs = pairs.flat_map(|(at, a)| names[at + 1..].iter().map(move |b| [a, b]));
    let link: Vec<Value> = pairs.map(|pair| json!({ "between": pair, "up": "8gbit" })).collect();
    (costs, json!({ "version": 1, "device": device, "link": link }))
}

#[test]
fn layers_are_run_by_those_who_can() {
    // Devices, layers, whether blocks are scattered; the least latency, or period.
    let cases = [
        // b and c are alike. One after the other, behind a third: each is busy with one layer.
        ("abcd", "x<@d y<x@bc z<y@bc", false, Objective::Period, 100),
        // Both help: 100, 8 + 100 + 8 at the same time, 100.
        ("abcd", "in<@a x<in@bc y<in@bc out<x,y@a", true, Objective::Latency, 316),
        // One helps after the other had a stage: 8 + 100 + 8, then as before, and 8 + 8 back.
        (
            "abcd",
            "go<@bc in<go@d x<in@bcd y<in@bcd out<x,y@d",
            true,
            Objective::Latency,
            116 + 316 + 16,
        ),
        // A third helps, and neither of them.
        ("adbc", "in<@a x<in@ad y<in@ad out<x,y@a", true, Objective::Latency, 316),
        // b cannot run what follows the first block, but begins behind it.
        (
            "ab",
            "in<@a x<in@a y<in@a out<x,y@a on<out@a go<on@b v<go@b w<go@b end<v,w@b",
            true,
            Objective::Latency,
            500 + 8 + 400 + 8,
        ),
        // b joins both blocks, and c, which helps in the second, cannot run what is between.
        (
            "abc",
            "in<@b x<in@b y<in@b out<x,y@b go<out@b v<go@bc w<go@bc end<v,w@b",
            true,
            Objective::Latency,
            8 + 400 + 316 + 8,
        ),
        // Each of two helps in one of two blocks, one behind the other.
        (
            "abc",
            "in<@a x<in@ab y<in@ab mid<x,y@a v<mid@ac w<mid@ac end<v,w@a",
            true,
            Objective::Latency,
            316 + 116 + 100,
        ),
    ];
    for (devices, layers, scatter, objective, expected) in cases {
        let (costs, platform) = lettered(devices, layers);
        let request = Request { objective, scatter, ..Request::default() };
        let best = answer(&costs, &platform, &request).best.unwrap();
        let value = match objective {
            Objective::Latency => best.evaluation.latency.0,
            _ => best.evaluation.period.0,
        };
        assert_eq!((value, best.proof), (expected, Proof::Optimal), "{devices}: {best:?}");
    }
}

#[test]
fn a_source_that_reads_no_input_makes_no_tensor() {
    // The first group reads nothing, the second, in the cloud, the picture and what the first makes.
    let (_, mut costs) = read(&chain(), &platform(1000));
    for input in &mut costs.inputs {
        input.encode[0] = Nanos(if input.name == "fp32" { 1000 } else { 23 });
    }
    let mut dag = Dag::new();
    let picture = dag.add_input("picture", Some(Bytes(200)));
    let mut add = |name: &str, reads: &[_], bytes: u64| {
        let makes = [(name.to_owned(), Some(Bytes(bytes)))];
        let reads = reads.iter().copied();
        let group = dag.add_group(vec![name.into()], reads, makes, crate::units::Macs(1), Bytes(1));
        dag.group(group).makes[0]
    };
    let a = add("a", &[], 100);
    let b = add("b", &[picture, a], 10);
    let c = add("c", &[b], 5);
    dag.mark_output(c);
    let pinned = Request {
        input_encodings: Some(vec!["jpeg".into()]),
        pins: vec![("a".into(), "edge".into()), ("b".into(), "cloud".into())],
        ..Request::default()
    };
    // By a minimum cut, by labels, and by varying what is known.
    let limited = Request { limits: vec![(Objective::Memory, 1 << 60)], ..pinned.clone() };
    let returning = Request { revisits: true, ..pinned.clone() };
    for request in [pinned, limited, returning] {
        let best = solve(&dag, &costs, &request).unwrap().best.unwrap();
        // 23 + 50, 40 + 100 bytes, 6 + 70, and 5 back.
        assert_eq!(
            (places(&best).as_str(), best.evaluation.latency.0),
            ("ecc", 294),
            "{request:?}"
        );
    }
}

#[test]
fn an_answer_that_a_branch_makes_stays_in_memory() {
    // While b runs w, a runs x, y and z: at last it holds x, y, z and what w makes, or will have made.
    let (mut costs, platform) = lettered("ab", "in<@a x<in@a y<x@a z<y@a w<in@b out<z,w@a");
    let request = Request { objective: Objective::Memory, scatter: true, ..Request::default() };
    for (outputs, expected) in [(json!(["out"]), 24), (json!(["out", "x"]), 32)] {
        costs["outputs"] = outputs;
        let best = answer(&costs, &platform, &request).best.unwrap();
        let uses = best.evaluation.memory.iter().map(|used| used.bytes.0);
        assert_eq!(uses.max(), Some(expected), "{best:?}");
    }
}

#[test]
fn what_a_joiner_is_sent_is_decoded_first() {
    let (mut costs, platform) = lettered("abc", "go<@a in<go@b x<in@bc y<in@bc out<x,y@b");
    costs["codecs"] = json!([{ "name": "half", "num": 1, "den": 2,
        "enc_ns_per_kb": 1000, "dec_ns_per_kb": 2000 }]);
    let cut_encodings = Some(vec!["half".to_owned()]);
    let request = Request { cut_encodings, scatter: true, ..Request::default() };
    let best = answer(&costs, &platform, &request).best.unwrap();
    // Every message of 8 bytes takes 8 + 4 + 16; the answer goes back as it is.
    let expected = 100 + 28 + 100 + (28 + 100 + 28) + 100 + 8;
    assert_eq!((best.evaluation.latency.0, best.setting.helpers.len()), (expected, 1), "{best:?}");
}
