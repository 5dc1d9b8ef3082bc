//! Two devices: proofs at their edges, refusals, and what is said where there is no split.

use super::{super::exact::Scale, *};
use crate::{
    profile::{CodecTime, CodingTime},
    units::BytesPerSec,
};

fn pinned(pins: &[(&str, &str)]) -> Request {
    let pins = pins.iter().map(|(layer, device)| ((*layer).into(), (*device).into()));
    Request { pins: pins.collect(), ..Request::default() }
}

#[test]
fn a_bound_that_is_reached_proves_the_plan() {
    // c takes no time anywhere and what crosses before it has no bytes: after b is as good as not at
    // all, so the best prefix costs what the first cut says is the least.
    let mut costs = chain();
    costs["layers"][1]["output_bytes"] = json!(0);
    costs["layers"][2]["output_bytes"] = json!(0);
    costs["layers"][2]["time_ns"] = json!({ "edge": 0, "cloud": 0 });
    let request = Request { node_limit: 0, ..Request::default() };
    let answer = answer(&costs, &platform(50), &request);
    let (best, split) = (answer.best.unwrap(), answer.best_split.unwrap());
    assert_eq!((places(&best).as_str(), best.evaluation.latency.0), ("eee", 110));
    assert_eq!((places(&split).as_str(), split.evaluation.latency.0), ("eec", 110));
    assert_eq!((best.proof, split.proof), (Proof::Optimal, Proof::Optimal));
}

#[test]
fn why_there_is_no_split_or_no_plan() {
    let mut apart = platform(50);
    apart["link"] = json!([]);
    let mut tight = platform(50);
    tight["device"][0]["memory"] = json!("1299");
    tight["device"][1]["memory"] = json!("1014");
    let limited = Request { node_limit: 0, ..Request::default() };
    let home = pinned(&[("a", "edge"), ("b", "edge"), ("c", "edge")]);
    let torn = pinned(&[("a", "edge"), ("c", "cloud")]);
    let banned = Request { bans: vec![("c".into(), "edge".into())], ..Request::default() };
    let mut alone = platform(50);
    alone["device"].as_array_mut().unwrap().pop();
    alone["link"] = json!([]);
    // What is private to a layer that must not run at home has no place at all.
    let kept = Request {
        private: Some("b".into()),
        bans: vec![("b".into(), "edge".into())],
        ..Request::default()
    };
    let private = kept.clone();
    // Platform, request, words about the split, words about the best plan or where it runs.
    let cases = [
        (&apart, Request::default(), "no link joins them", Ok("eee")),
        (
            &apart,
            torn.clone(),
            "no link joins them",
            Err("edge-only: layer `c` is pinned to `cloud`; cloud-fp32: no link between `edge`"),
        ),
        (
            &apart,
            banned.clone(),
            "no link joins them",
            Err("edge-only: layer `c` must not run on `edge`; cloud-fp32: no link between `edge` \
                 and `cloud` is declared; a split: no division"),
        ),
        (
            &alone,
            banned,
            "no second device",
            Err("edge-only: layer `c` must not run on `edge`; cloud-fp32: the platform has no \
                 second device"),
        ),
        (
            &apart,
            private,
            "no link joins them",
            Err("edge-only: layer `b` must not run on `edge`; cloud-fp32: no link"),
        ),
        (
            &platform(50),
            kept,
            "forbid every cut",
            Err("edge-only: layer `b` must not run on `edge`; cloud-fp32: `input` would leave"),
        ),
        (&platform(50), home, "forbid every cut", Ok("eee")),
        (&tight, limited, "none was found in 0 steps", Err("edge-only: it needs 3.3 kB on `edge`")),
        (&tight, Request::default(), "1.0 kB too much", Err("1.0 kB too much")),
        // The edge cannot hold a and the cloud cannot hold c: each needs 110 or 15 bytes more.
        (&tight, torn, "on `edge`", Err("on `edge`")),
    ];
    for (platform, request, split, best) in cases {
        let answer = answer(&chain(), platform, &request);
        let why = answer.best_split.unwrap_err().to_string();
        assert!(why.contains(split), "{split}: {why}");
        match (answer.best, best) {
            (Ok(found), Ok(expected)) => assert_eq!(places(&found), expected),
            (Err(why), Err(expected)) => {
                assert!(why.to_string().contains(expected), "{expected}: {why}");
            }
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn baselines_say_whether_they_are_allowed() {
    let encodings =
        |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let jpeg = Request { input_encodings: encodings(&["jpeg"]), ..Request::default() };
    let private = Request { private: Some("a".into()), ..Request::default() };
    // Request; edge-only, cloud-jpeg, cloud-uint8 and cloud-fp32 allowed.
    let cases = [
        (Request::default(), [true, false, false, true]),
        (jpeg.clone(), [true, true, false, false]),
        (pinned(&[("b", "edge")]), [true, false, false, false]),
        (pinned(&[("b", "cloud")]), [false, false, false, true]),
        (Request { pins: pinned(&[("b", "edge")]).pins, ..jpeg }, [true, false, false, false]),
        (private, [true, false, false, false]),
    ];
    for (request, expected) in cases {
        let answer = answer(&chain(), &platform(50), &request);
        let found: Vec<bool> = answer.baselines.iter().map(|baseline| baseline.allowed).collect();
        assert_eq!(found, expected, "{request:?}");
        let lossy: Vec<bool> = answer.baselines.iter().map(|baseline| baseline.lossy).collect();
        assert_eq!(lossy, [false, true, false, false]);
        let names: Vec<&str> = answer.baselines.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["edge-only", "cloud-jpeg", "cloud-uint8", "cloud-fp32"]);
        let why = answer.baselines[2].outcome.as_ref().unwrap_err();
        assert_eq!(*why, Infeasible::NoEncoding("uint8".into()));
    }
}

#[test]
fn a_link_of_rate_zero_carries_what_has_no_bytes() {
    let mut free = chain();
    free["layers"][1]["output_bytes"] = json!(0);
    free["layers"][2]["output_bytes"] = json!(0);
    for (file, expected) in [(chain(), None), (free, Some(("eec", 180)))] {
        let (dag, mut costs) = read(&file, &platform(50));
        costs.links[0].up.rate = BytesPerSec(0);
        costs.links[0].down.rate = BytesPerSec(0);
        let scale = Scale::new(&dag, &costs).unwrap();
        assert_eq!(scale.rounded(scale.nanos(Nanos(7)).time), Nanos(7));
        let answer = solve(&dag, &costs, &Request::default()).unwrap();
        let split = answer.best_split.as_ref().ok();
        // Evaluation knows no message on such a link, not even an empty one: only the key counts.
        let key = split.map(|split| {
            let key = scale.key(&dag, &costs, &split.mapping, &split.setting);
            (places(split), scale.rounded(key.time).0)
        });
        assert_eq!(key, expected.map(|(on, time)| (on.to_owned(), time)));
    }
}

/// Costs with one number that is large, by the name of the number.
fn with_large(what: &str, value: u64) -> (Dag, Costs) {
    let mut file = chain();
    match what {
        "flow" => file["layers"][0]["output_bytes"] = json!(value),
        // 1000 bytes in all.
        _ => file["layers"][0]["output_bytes"] = json!(985),
    }
    let (dag, mut costs) = read(&file, &platform(1_000));
    // An odd rate: times are counted in fractions of 2^57 - 13.
    costs.links[0].down.rate = BytesPerSec((1 << 57) - 13);
    let coding = |encode: CodingTime, decode: CodingTime| CodecTime { encode, decode };
    let [mut first, mut second] = [CodingTime::default(), CodingTime::default()];
    let option = &mut costs.devices[1].options[0];
    match what {
        "call" => option.call = Nanos(value),
        "group" => option.groups[2] = Some(Nanos(value)),
        "encode" => costs.inputs[0].encode[0] = Nanos(value),
        "decode" => costs.inputs[0].decode[1] = Nanos(value),
        "input" => costs.inputs[1].bytes = Some(Bytes(value)),
        "fixed" => costs.links[0].up.fixed = Nanos(value),
        "delay" => costs.links[0].down.delay = Nanos(value),
        "encoding" => first.fixed_ns = Nanos(value),
        "decoding" => second.fixed_ns = Nanos(value),
        // A multiple of 1000 is no fraction for a byte.
        "encoding a kB" => first.per_kb_ns = Nanos((value / 1000 + 1) * 1000),
        "decoding a kB" => second.per_kb_ns = Nanos((value / 1000 + 1) * 1000),
        _ => {}
    }
    costs.devices[1].options[0].coding = vec![coding(first, second)];
    (dag, costs)
}

#[test]
fn costs_that_cannot_be_added_exactly_are_refused() {
    let small = with_large("", 0);
    assert!(Scale::new(&small.0, &small.1).is_ok());
    let once = ["call", "group", "encode", "decode", "fixed", "delay", "encoding", "decoding"];
    let per_kb = ["encoding a kB", "decoding a kB"];
    // What travels may be sent as it is and encoded.
    let twice = ["input", "flow"];
    let cases = once.iter().chain(&per_kb).map(|what| (what, 63));
    for (what, bits) in cases.chain(twice.iter().map(|what| (what, 62))) {
        // In fractions of 1 / 2^57 ns, 2^63 ns are 2^120, which is too much; half of it is not.
        let (dag, costs) = with_large(what, 1 << bits);
        assert!(matches!(Scale::new(&dag, &costs), Err(PlannerError::TooLarge)), "{what}");
        let (dag, costs) = with_large(what, 1 << (bits - 1));
        assert!(Scale::new(&dag, &costs).is_ok(), "{what}");
    }
    // A slow link makes a small message long.
    let (dag, mut costs) = with_large("flow", 1 << 40);
    assert!(Scale::new(&dag, &costs).is_ok());
    costs.links[0].up.rate = BytesPerSec(100);
    assert!(matches!(Scale::new(&dag, &costs), Err(PlannerError::TooLarge)));
    assert_eq!(solve(&dag, &costs, &Request::default()), Err(PlannerError::TooLarge));
}

#[test]
fn the_least_excess_of_all_plans_met_is_named() {
    let mut tight = platform(50);
    tight["device"][0]["memory"] = json!("1000");
    tight["device"][1]["memory"] = json!("2000");
    // After b, where the first cut is, the edge needs 2300; after a it needs 1300, the cloud 2110.
    let answer = answer(&chain(), &tight, &Request::default());
    for why in [answer.best.unwrap_err(), answer.best_split.unwrap_err()] {
        let Infeasible::Memory { device, excess, .. } = &why else { panic!("{why}") };
        assert_eq!((device.as_str(), *excess), ("edge", Bytes(300)));
    }
}

#[test]
fn the_limit_of_steps_is_how_many_subproblems_are_divided() {
    // Sending is dear, so the first cut leaves all at home; dividing it once gives the best split.
    for (limit, proven) in [(0, false), (1, true), (2, true)] {
        let request = Request { node_limit: limit, ..Request::default() };
        let split = answer(&chain(), &platform(1), &request).best_split.unwrap();
        assert_eq!((places(&split).as_str(), split.evaluation.latency.0), ("eec", 15_180));
        assert_eq!(split.proof == Proof::Optimal, proven, "{limit}");
    }
    // Where it gives up, the best prefix keeps to the pins too.
    let request = Request { node_limit: 0, ..pinned(&[("b", "cloud")]) };
    let mut tight = platform(50);
    tight["device"][0]["memory"] = json!("1299");
    assert!(answer(&chain(), &tight, &request).best_split.is_err());
    tight["device"][0]["memory"] = json!("1300");
    let split = answer(&chain(), &tight, &request).best_split.unwrap();
    assert_eq!(places(&split), "ecc");
}

#[test]
fn the_key_of_a_plan_is_what_evaluation_says_of_it() {
    // Two inputs, one of which two groups read; a value that no codec encodes; fixed parts of coding.
    let mut dag = Dag::new();
    let [x, y] = ["x", "y"].map(|name| dag.add_input(name, Some(Bytes(30))));
    let add = |dag: &mut Dag, name: &str, reads: &[_], bytes: u64| {
        let makes = [(format!("{name}:0"), Some(Bytes(bytes)))];
        let id = dag.add_group(
            vec![name.to_owned()],
            reads.iter().copied(),
            makes,
            crate::units::Macs(1),
            Bytes(1),
        );
        dag.group(id).makes[0]
    };
    let a = add(&mut dag, "a", &[x], 120);
    let b = add(&mut dag, "b", &[x, y], 60);
    let c = add(&mut dag, "c", &[a, b], 240);
    let d = add(&mut dag, "d", &[b, c], 360);
    dag.mark_plain(b);
    dag.mark_output(c);
    dag.mark_output(d);
    let (_, mut costs) = read(&chain(), &platform(1000));
    let coding =
        |fixed: u64, per_kb: u64| CodingTime { fixed_ns: Nanos(fixed), per_kb_ns: Nanos(per_kb) };
    for (at, device) in costs.devices.iter_mut().enumerate() {
        let option = &mut device.options[0];
        option.call = Nanos(7);
        option.groups = [11, 13, 17, 19].map(|time| Some(Nanos(time * (2 - at as u64)))).to_vec();
        let time = CodecTime { encode: coding(3, 50), decode: coding(5, 25) };
        option.coding = vec![CodecTime::default(), time];
        device.group_energy = Vec::new();
    }
    costs.codecs.push(crate::cost::Codec { name: "q".into(), num: 2, den: 3, lossy: false });
    costs.links[0].up.fixed = Nanos(2);
    costs.links[0].down.delay = Nanos(9);
    costs.inputs[0].encode[0] = Nanos(23);
    costs.inputs[1].decode[1] = Nanos(29);
    let scale = Scale::new(&dag, &costs).unwrap();
    let one_byte = scale.raw(&costs.links[0].up, Bytes(1)).bytes;
    for input_bytes in [None, Some(Bytes(60))] {
        costs.inputs[0].bytes = input_bytes;
        for plan in 0..16 {
            let on = (0..4).map(|at| DeviceId::new(plan >> at & 1));
            let mapping = Mapping(on.collect());
            for (input, codec) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let codecs = vec![codec; 2];
                let setting = Setting { input, codecs, ..Setting::first(&costs) };
                let found = evaluate(&dag, &costs, &mapping, &setting).unwrap();
                let key = scale.key(&dag, &costs, &mapping, &setting);
                // Sizes are such that nothing is rounded.
                let exact = (found.latency, i128::from(found.bytes.0) * one_byte);
                assert_eq!((scale.rounded(key.time), key.bytes), exact, "{mapping:?}, {setting:?}");
            }
        }
    }
}
