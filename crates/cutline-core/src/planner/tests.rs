//! Small platforms and networks whose best plans are computed by hand.

use serde_json::{Value, json};

use super::*;
use crate::{cost::table, evaluate::evaluate, platform::DeviceId};

mod many;
mod pair;
mod reasons;
mod requests;

/// A chain a → b → c of 100, 10 and 5 bytes behind an input of 200 (fp32) or 40 (jpeg) bytes.
fn chain() -> Value {
    let layer = |name: &str, input: &[&str], bytes: u64, edge: u64, cloud: u64| {
        json!({ "name": name, "inputs": input, "output_bytes": bytes, "parameter_bytes": 1000,
                "time_ns": { "edge": edge, "cloud": cloud } })
    };
    json!({ "version": 1, "input": { "fp32": 200, "jpeg": 40 }, "outputs": ["c"],
        "layers": [ layer("a", &[], 100, 50, 5), layer("b", &["a"], 10, 60, 6),
                    layer("c", &["b"], 5, 700, 70) ] })
}

/// Rates in bytes per microsecond.
fn platform(up: u64) -> Value {
    json!({ "version": 1, "device": [{ "name": "edge" }, { "name": "cloud" }],
        "link": [{ "between": ["edge", "cloud"], "up": format!("{}kbit", up * 8000) }] })
}

fn read(costs: &Value, platform: &Value) -> (Dag, Costs) {
    let platform: crate::platform::Platform = serde_json::from_value(platform.clone()).unwrap();
    let file: table::CostsFile = serde_json::from_value(costs.clone()).unwrap();
    let tables = vec![None; platform.links().len()];
    table::read(&file, &platform, &tables).unwrap()
}

fn answer(costs: &Value, platform: &Value, request: &Request) -> Answer {
    let (dag, costs) = read(costs, platform);
    solve(&dag, &costs, request).unwrap()
}

fn places(choice: &Choice) -> String {
    choice.mapping.0.iter().map(|device| if device.index() == 0 { 'e' } else { 'c' }).collect()
}

#[test]
fn the_best_plan_moves_with_the_bandwidth() {
    // Rate, best mapping, its latency; then best split and its latency.
    let cases = [
        // Bytes cost 1000 ns each: stay at home. Split after b: 50+60+10000+70+5000.
        (1, "eee", 810, "eec", 15_180),
        // 20 ns per byte: 110+200+70 + 5 bytes of answer back at the same rate.
        (50, "eec", 480, "eec", 480),
        // 1 ns per byte: all in the cloud costs 200+81+5.
        (1000, "eec", 195, "eec", 195),
        // 0.1 ns per byte: 20+81+1 (rounded up).
        (10_000, "ccc", 102, "ecc", 137),
    ];
    for (rate, best, latency, split, split_latency) in cases {
        let answer = answer(&chain(), &platform(rate), &Request::default());
        let (found, found_split) = (answer.best.unwrap(), answer.best_split.unwrap());
        assert_eq!(
            (places(&found).as_str(), found.evaluation.latency.0),
            (best, latency),
            "{rate}"
        );
        let found_split = (places(&found_split), found_split.evaluation.latency.0);
        assert_eq!(found_split, (split.to_owned(), split_latency), "{rate}");
    }
}

#[test]
fn lossy_encodings_are_compared_but_only_chosen_when_allowed() {
    let jpeg = Request { input_encodings: Some(vec!["jpeg".into()]), ..Request::default() };
    let costs = chain();
    for (request, allowed, best) in [(Request::default(), false, 195), (jpeg, true, 126)] {
        let answer = answer(&costs, &platform(1000), &request);
        let cloud = &answer.baselines[1];
        assert_eq!(
            (cloud.name.as_str(), cloud.lossy, cloud.allowed),
            ("cloud-jpeg", true, allowed)
        );
        assert_eq!(cloud.outcome.as_ref().unwrap().evaluation.latency, Nanos(126));
        assert_eq!(answer.best.unwrap().evaluation.latency, Nanos(best));
    }
}

#[test]
fn memory_moves_the_cut_or_is_named() {
    // Weights of 1000 per layer; live values 300, 110 and 15.
    let cases = [
        ("edge", "2310", "eec"),
        ("edge", "2299", "ecc"),
        ("edge", "1299", "ccc"),
        ("cloud", "1014", "eee"),
    ];
    for (device, memory, expected) in cases {
        let mut platform = platform(50);
        let index = usize::from(device == "cloud");
        platform["device"][index]["memory"] = json!(memory);
        let best = answer(&chain(), &platform, &Request::default()).best.unwrap();
        assert_eq!(places(&best), expected, "{device} {memory}");
    }
    let mut tight = platform(50);
    tight["device"][0]["memory"] = json!("1299");
    tight["device"][1]["memory"] = json!("1014");
    let why = answer(&chain(), &tight, &Request::default()).best.unwrap_err();
    // The split after b: the edge needs 2300, 1001 too much. After a, the cloud needs 2110.
    let Infeasible::Memory { device, excess, .. } = &why else { panic!("{why}") };
    assert_eq!((device.as_str(), *excess), ("edge", Bytes(1001)));
}

#[test]
fn pins_are_kept_or_contradict() {
    let pin = |layer: &str, device: &str| Request {
        pins: vec![(layer.into(), device.into())],
        ..Request::default()
    };
    let best = |request: &Request| answer(&chain(), &platform(50), request).best;
    assert_eq!(places(&best(&pin("a", "cloud")).unwrap()), "ccc");
    assert_eq!(places(&best(&pin("c", "edge")).unwrap()), "eee");
    let file: table::CostsFile = serde_json::from_value(chain()).unwrap();
    let parsed = serde_json::from_value(platform(50)).unwrap();
    let (dag, costs) = table::read(&file, &parsed, &[None]).unwrap();
    let both = Request {
        pins: vec![("a".into(), "edge".into()), ("a".into(), "cloud".into())],
        ..Request::default()
    };
    let cases = [
        (pin("x", "edge"), "layer `x`"),
        (pin("a", "moon"), "device `moon`"),
        (both, "pinned to `edge` and"),
        (
            Request { cut_encodings: Some(vec!["zip".into()]), ..Request::default() },
            "known are fp32",
        ),
    ];
    for (request, expected) in cases {
        let error = solve(&dag, &costs, &request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_layer_that_runs_nowhere_is_named() {
    let mut costs = chain();
    costs["layers"][1]["time_ns"] = json!({});
    let answer = answer(&costs, &platform(50), &Request::default());
    let why = answer.best.unwrap_err().to_string();
    assert!(why.contains("group `b`"), "{why}");
    assert!(answer.reason.starts_with("no plan: "), "{}", answer.reason);
}

#[test]
fn one_device_has_one_plan() {
    let alone = json!({ "version": 1, "device": [{ "name": "edge" }] });
    let answer = answer(&chain(), &alone, &Request::default());
    assert_eq!(places(&answer.best.unwrap()), "eee");
    assert_eq!(answer.best_split.unwrap_err(), Infeasible::NoOther);
}

#[test]
fn the_reason_has_numbers() {
    let costs = chain();
    let request = Request::default();
    let cases = [
        (1, ["do not split", "`b`", "10 B", "700 ns"]),
        (50, ["split at `b`", "10 B", "edge-only 810 ns", "cloud-jpeg"]),
        (10_000, ["do not split", "200 B", "`cloud` computes all", "35 ns more"]),
    ];
    for (rate, words) in cases {
        let reason = answer(&costs, &platform(rate), &request).reason;
        for word in words {
            assert!(reason.contains(word), "{word}: {reason}");
        }
    }
}

#[test]
fn giving_up_says_how_far_the_answer_may_be_off() {
    let mut tight = platform(50);
    tight["device"][0]["memory"] = json!("2299");
    let request = Request { node_limit: 0, ..Request::default() };
    let split = answer(&chain(), &tight, &request).best_split.unwrap();
    // The unlimited optimum of 480 is the bound; the prefix after a costs 50+2000+76+100.
    assert_eq!((places(&split).as_str(), split.evaluation.latency.0), ("ecc", 2226));
    assert_eq!(split.proof, Proof::Within(1746));
    // As JPEG, everything in the cloud costs 800 + 81 + 100: no more than 501 over the bound.
    let both = Some(vec!["fp32".into(), "jpeg".into()]);
    let jpeg = Request { input_encodings: both, ..request.clone() };
    let answer_as_jpeg = answer(&chain(), &tight, &jpeg);
    let (best, split) = (answer_as_jpeg.best.unwrap(), answer_as_jpeg.best_split.unwrap());
    assert_eq!((places(&best).as_str(), best.evaluation.latency.0), ("ccc", 981));
    assert_eq!((best.proof, split.proof), (Proof::Within(501), Proof::Within(1746)));
    // Nor is a plan taken that breaks a pin.
    let pinned = Request { pins: vec![("b".into(), "edge".into())], ..request };
    let why = answer(&chain(), &tight, &pinned).best_split.unwrap_err();
    assert_eq!(why, Infeasible::GaveUp(0));
    let pinned = Request { pins: vec![("a".into(), "edge".into())], ..pinned };
    let split = answer(&chain(), &tight, &pinned).best_split.unwrap();
    assert_eq!((places(&split).as_str(), split.evaluation.latency.0), ("ecc", 2226));
}

#[test]
fn each_device_takes_the_engine_that_makes_the_whole_fastest() {
    let parsed = serde_json::from_value(platform(50)).unwrap();
    let file: table::CostsFile = serde_json::from_value(chain()).unwrap();
    let (dag, mut costs) = table::read(&file, &parsed, &[None]).unwrap();
    // On the edge an engine with quick layers and a slow call; in the cloud one that lacks `c`.
    let mut quick = costs.devices[0].options[0].clone();
    quick.call = Nanos(40);
    quick.groups = vec![Some(Nanos(20)); 3];
    costs.devices[0].options.push(quick);
    let mut partial = costs.devices[1].options[0].clone();
    partial.groups = vec![Some(Nanos(0)), Some(Nanos(0)), None];
    costs.devices[1].options.insert(0, partial);
    let answer = solve(&dag, &costs, &Request::default()).unwrap();
    // Quick on the edge: 40 + 3 x 20. Split after b: 40 + 2 x 20 + 200 + 70 + 100.
    let best = answer.best.unwrap();
    assert_eq!((places(&best).as_str(), best.evaluation.latency.0), ("eee", 100));
    assert_eq!(best.setting.engines[0], 1);
    let split = answer.best_split.unwrap();
    assert_eq!((split.setting.engines.as_slice(), split.evaluation.latency.0), (&[1, 1][..], 450));
    let cloud = answer.baselines[3].outcome.as_ref().unwrap();
    assert_eq!(cloud.setting.engines, [0, 1], "the first option cannot run all");
}

#[test]
fn finished_plans_are_compared_by_the_measured_table() {
    let parsed = serde_json::from_value(platform(50)).unwrap();
    let file: table::CostsFile = serde_json::from_value(chain()).unwrap();
    let (dag, mut costs) = table::read(&file, &parsed, &[None]).unwrap();
    // By the rate, the split after b takes 480; the table says that any message takes 1000.
    costs.links[0].up.table = vec![(Bytes(0), Nanos(1000)), (Bytes(1000), Nanos(1000))];
    let answer = solve(&dag, &costs, &Request::default()).unwrap();
    assert_eq!(places(&answer.best.unwrap()), "eee");
    let split = answer.best_split.unwrap().evaluation;
    assert_eq!((split.latency, split.solver_latency), (Nanos(1280), Nanos(480)));
}

#[test]
fn plans_made_by_hand_meet_the_checks_of_searched_ones() {
    let with = |set: &dyn Fn(&mut Request)| {
        let mut request = Request::default();
        set(&mut request);
        request
    };
    let pin = |layer: &str, device: &str| {
        with(&|request| request.pins.push((layer.into(), device.into())))
    };
    let ban =
        |what: &str, device: &str| with(&|request| request.bans.push((what.into(), device.into())));
    let private = |layer: &str| with(&|request| request.private = Some(layer.into()));
    let limit = |limit| with(&|request| request.limits.push((Objective::Latency, limit)));
    // Request, where a, b and c run, what is said of it.
    let cases = [
        (Request::default(), "ece", None),
        (pin("b", "edge"), "eec", None),
        (pin("b", "edge"), "ecc", Some("pinned")),
        (pin("c", "cloud"), "eee", Some("pinned")),
        (ban("c", "edge"), "eec", None),
        (ban("c", "cloud"), "eec", Some("`c`")),
        // What b makes may leave, what comes before it may not.
        (private("b"), "eec", None),
        (private("b"), "eee", None),
        (private("b"), "ecc", Some("`a`")),
        (private("a"), "ecc", None),
        (private("a"), "ccc", Some("`input`")),
        // 50 + 60 + 200 + 70 + 100, as above.
        (limit(480), "eec", None),
        (limit(479), "eec", Some("480 ns")),
    ];
    let parsed = serde_json::from_value(platform(50)).unwrap();
    let file: table::CostsFile = serde_json::from_value(chain()).unwrap();
    let (dag, mut costs) = table::read(&file, &parsed, &[None]).unwrap();
    let check = |costs: &Costs, request: &Request, on: &str| {
        let device = |place| DeviceId::new(usize::from(place == 'c'));
        let mapping = Mapping(on.chars().map(device).collect());
        let setting = Setting::first(costs);
        let evaluation = evaluate(&dag, costs, &mapping, &setting).unwrap();
        let choice = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
        violation(&dag, costs, request, &choice).map(|why| why.to_string())
    };
    for (request, on, expected) in cases {
        let found = check(&costs, &request, on);
        match (&found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) if found.contains(expected) => {}
            _ => panic!("{on}, {request:?}: {found:?}, expected {expected:?}"),
        }
    }
    // Messages take 200 of every frame.
    for (interval, expected) in [(200, None), (199, Some("every 200 ns"))] {
        costs.frame_interval = Some(Nanos(interval));
        let found = check(&costs, &Request::default(), "eec");
        assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
        assert!(found.zip(expected).is_none_or(|(found, expected)| found.contains(expected)));
    }
    costs.frame_interval = None;
    // Weights of 1000 per layer, live values of 110.
    costs.devices[1].memory = Some(Bytes(2109));
    let found = check(&costs, &Request::default(), "ecc").unwrap();
    assert!(found.contains("`cloud`") && found.contains("2.1"), "{found}");
}

#[test]
fn one_group_cannot_be_split() {
    let layer = json!({ "name": "a", "output_bytes": 5, "time_ns": { "edge": 7, "cloud": 5 } });
    let costs =
        json!({ "version": 1, "input": { "fp32": 200 }, "outputs": ["a"], "layers": [layer] });
    let answer = answer(&costs, &platform(50), &Request::default());
    assert_eq!(places(&answer.best.unwrap()), "e");
    let why = answer.best_split.unwrap_err();
    assert!(matches!(why, Infeasible::NoSplit(words) if words.contains("as one group")), "{why}");
    let mut two = chain();
    two["layers"].as_array_mut().unwrap().pop();
    two["outputs"] = json!(["b"]);
    let mut apart = platform(50);
    apart["link"] = json!([]);
    let why = self::answer(&two, &apart, &Request::default()).best_split.unwrap_err();
    assert!(matches!(why, Infeasible::NoSplit(words) if words.contains("no link")), "{why}");
}
