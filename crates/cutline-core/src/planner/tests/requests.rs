//! Requests that cannot be planned for, each with what is missing.

use super::*;

/// Two devices with a power, the second rented, and a workload.
fn priced() -> Value {
    let mut platform = platform(50);
    platform["device"][0]["power"] = json!("1W");
    platform["device"][1]["power"] = json!("2W");
    platform["device"][1]["rent"] = json!("7.5");
    platform["device"][1]["users_per_instance"] = json!(10);
    platform["workload"] = json!({ "users": 5, "frames_per_second": "1", "electricity": "0.3" });
    platform
}

/// A copy in which something was changed.
fn with(value: &Value, change: impl Fn(&mut Value)) -> Value {
    let mut value = value.clone();
    change(&mut value);
    value
}

fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().unwrap().remove(key);
}

#[test]
fn what_a_request_lacks_is_named() {
    let energy = Request { objective: Objective::DeviceEnergy, ..Request::default() };
    let money = Request { objective: Objective::Money, ..Request::default() };
    let limited = |quantity| Request { limits: vec![(quantity, 1 << 60)], ..Request::default() };
    let encodings = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let inputs =
        |names: &[&str]| Request { input_encodings: encodings(names), ..Request::default() };
    let cuts = |names: &[&str]| Request { cut_encodings: encodings(names), ..Request::default() };
    let ban = |what: &str, device: &str| Request {
        bans: vec![(what.into(), device.into())],
        ..Request::default()
    };
    let private = |layer: &str, pins: &[(&str, &str)]| Request {
        private: Some(layer.into()),
        pins: pins.iter().map(|(layer, device)| ((*layer).into(), (*device).into())).collect(),
        ..Request::default()
    };
    let given = |layers: usize| {
        with(&chain(), |costs| {
            for layer in 0..layers {
                costs["layers"][layer]["energy_nj"] = json!({ "cloud": 5 });
            }
        })
    };
    let dark = with(&priced(), |platform| remove(&mut platform["device"][1], "power"));
    let idle = with(&priced(), |platform| remove(platform, "workload"));
    let unclear = |users: bool, frames: bool| {
        with(&priced(), |platform| {
            if !users {
                remove(&mut platform["device"][1], "users_per_instance");
            }
            if !frames {
                remove(&mut platform["workload"], "frames_per_second");
            }
        })
    };
    let owned = with(&unclear(false, false), |platform| remove(&mut platform["device"][1], "rent"));
    let (costs, all) = (chain(), priced());
    let cases = [
        (&costs, &all, energy.clone(), ""),
        (&costs, &dark, energy.clone(), "device `cloud` has no `power`"),
        (&given(2), &dark, energy.clone(), "device `cloud` has no `power`"),
        (&given(3), &dark, energy.clone(), ""),
        (&costs, &dark, limited(Objective::Energy), "device `cloud` has no `power`"),
        (&costs, &platform(50), energy, "device `edge` has no `power`"),
        (&costs, &all, money.clone(), ""),
        (&costs, &idle, money.clone(), "no [workload]"),
        (&costs, &idle, limited(Objective::Money), "no [workload]"),
        (&costs, &unclear(false, true), money.clone(), ""),
        (&costs, &unclear(true, false), money.clone(), ""),
        (&costs, &unclear(false, false), money.clone(), "`cloud` is rented"),
        (&costs, &owned, money, ""),
        (&costs, &all, inputs(&[]), "no input encoding is allowed"),
        (&costs, &all, cuts(&[]), "no cut encoding is allowed"),
        (
            &costs,
            &all,
            inputs(&["png"]),
            "input encoding `png` is not known here; known are fp32, jpeg",
        ),
        (&costs, &all, inputs(&["jpeg", "fp32", "jpeg"]), ""),
        (&costs, &all, ban("x", "edge"), "layer `x`"),
        (&costs, &all, ban("a", "moon"), "device `moon`"),
        (&costs, &all, private("x", &[]), "layer `x`"),
        (&costs, &all, private("b", &[("a", "cloud")]), "layer `a` must stay on the source"),
        (&costs, &all, private("b", &[("a", "edge"), ("c", "cloud")]), ""),
        (&costs, &all, private("b", &[("a", "edge"), ("a", "edge")]), ""),
    ];
    for (costs, platform, request, expected) in cases {
        let (dag, costs) = read(costs, platform);
        let error = solve(&dag, &costs, &request).err().map(|error| error.to_string());
        match error {
            None => assert_eq!(expected, "", "{request:?}"),
            Some(error) => {
                assert!(!expected.is_empty() && error.contains(expected), "{expected}: {error}");
            }
        }
    }
    // Objectives of a front are looked at too.
    let (dag, table) = read(&chain(), &idle);
    let asked = [Objective::Latency, Objective::Money];
    let error = front(&dag, &table, &Request::default(), &asked, &mut || false).unwrap_err();
    assert_eq!(error, PlannerError::NoWorkload);
    assert!(!Objective::Money.is_known(&dag, &table) && Objective::Energy.is_known(&dag, &table));
    let error = solve(&Dag::new(), &table, &Request::default()).unwrap_err();
    assert_eq!(error, PlannerError::NoGroups);
}

#[test]
fn a_set_of_devices_is_a_word_of_bits() {
    for (devices, expected) in [(32, None), (33, Some(PlannerError::TooManyDevices(33)))] {
        let device: Vec<Value> =
            (0..devices).map(|at| json!({ "name": format!("d{at}") })).collect();
        let times: Value = (0..devices).map(|at| (format!("d{at}"), json!(100 - at))).collect();
        let layer = json!({ "name": "a", "output_bytes": 5, "time_ns": times });
        let costs =
            json!({ "version": 1, "input": { "fp32": 2 }, "outputs": ["a"], "layers": [layer] });
        let link = json!({ "between": ["d0", "d31"], "up": "8gbit" });
        let platform = json!({ "version": 1, "device": device, "link": [link] });
        let (dag, costs) = read(&costs, &platform);
        let answer = solve(&dag, &costs, &Request::default());
        assert_eq!(answer.as_ref().err(), expected.as_ref());
        if let Ok(answer) = answer {
            // 2 there, 69 in the last device and 5 back.
            let best = answer.best.unwrap();
            assert_eq!((best.mapping.0[0].index(), best.evaluation.latency.0), (31, 76));
        }
    }
}

#[test]
fn a_private_input_stays_where_it_is_though_not_all_that_reads_it_is_private() {
    let layer = |name: &str, inputs: &[&str], edge: u64| {
        json!({ "name": name, "inputs": inputs, "output_bytes": 5,
                "time_ns": { "edge": edge, "cloud": 1 } })
    };
    let layers = [layer("a", &[], 3), layer("b", &[], 9_000), layer("c", &["a", "b"], 9_000)];
    let costs =
        json!({ "version": 1, "input": { "fp32": 10 }, "outputs": ["c"], "layers": layers });
    let private = Request { private: Some("a".into()), ..Request::default() };
    let limits = vec![(Objective::Memory, 1 << 60)];
    let limited = Request { limits, ..private.clone() };
    for request in [private, limited] {
        let best = answer(&costs, &platform(1000), &request).best.unwrap();
        assert_eq!((places(&best).as_str(), best.evaluation.latency.0), ("eec", 9_019));
    }
}
