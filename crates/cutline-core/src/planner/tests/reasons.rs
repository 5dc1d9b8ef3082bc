//! What an answer says in words, to the letter: every number of it was added up by hand.

use super::{many::four, *};

/// So many layers beside each other that the edge does quickly, and a join that it does slowly.
fn fan(layers: usize) -> Value {
    let names: Vec<String> = (0..layers).map(|at| format!("l{at}")).collect();
    let layer = |name: &str, inputs: &[String], edge: u64, cloud: u64| {
        json!({ "name": name, "inputs": inputs, "output_bytes": 3,
                "time_ns": { "edge": edge, "cloud": cloud } })
    };
    let mut list: Vec<Value> = names.iter().map(|name| layer(name, &[], 10, 400)).collect();
    list.push(layer("join", &names, 9_000, 100));
    json!({ "version": 1, "input": { "fp32": 200 }, "outputs": ["join"], "layers": list })
}

#[test]
fn reasons_are_told_to_the_letter() {
    let mut lacking = chain();
    lacking["layers"][2]["time_ns"] = json!({ "cloud": 70 });
    let mut apart = platform(50);
    apart["link"] = json!([]);
    let mut full = platform(50);
    full["device"][0]["memory"] = json!("2310");
    full["device"][1]["memory"] = json!("1200");
    let (wide, clouds) = four(true);
    let of = |objective| Request { objective, ..Request::default() };
    let split = Request {
        pins: vec![("c".into(), "fog".into())],
        bans: vec![("a".into(), "fog".into())],
        ..Request::default()
    };
    let names = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(layer, device)| ((*layer).into(), (*device).into())).collect()
    };
    let returning = |pins: &[(&str, &str)], bans: &[(&str, &str)]| Request {
        pins: names(pins),
        bans: names(bans),
        revisits: true,
        ..Request::default()
    };
    let plain = Request::default();
    let cases = [
        (
            chain(),
            platform(1),
            plain.clone(),
            "do not split: the best cut, at `b`, sends 10 B in 10.0 us and computes for 70 \
             ns more on `cloud`, where `edge` needs 700 ns for the same layers; it costs \
             14.4 us more than doing all there",
        ),
        (
            chain(),
            platform(50),
            plain.clone(),
            "split at `b`: 10 B of upload take 200 ns, the rest of the work 70 ns in place \
             of 700 ns; together 480 ns against edge-only 810 ns, cloud-jpeg 981 ns (not \
             allowed), cloud-fp32 4.2 us",
        ),
        (
            chain(),
            platform(10_000),
            plain.clone(),
            "do not split: sending the input (200 B) takes 20 ns and `cloud` computes all \
             in 81 ns; the best cut, at `a`, sends 100 B in 10 ns after 50 ns on `edge`, \
             and costs 35 ns more",
        ),
        (
            lacking,
            platform(50),
            plain.clone(),
            "split at `b`: 10 B of upload take 200 ns, the rest of the work 70 ns in place \
             of layers that `edge` cannot run; together 480 ns against cloud-jpeg 981 ns \
             (not allowed), cloud-fp32 4.2 us",
        ),
        (
            chain(),
            apart.clone(),
            plain.clone(),
            "everything on `edge`; there is no split to compare with: no division of the \
             layers between the two devices is possible: no link joins them",
        ),
        (
            chain(),
            full.clone(),
            plain.clone(),
            "split at `b`: 10 B of upload take 200 ns, the rest of the work 70 ns in place \
             of 700 ns; together 480 ns against no plan on one device",
        ),
        (
            fan(3),
            platform(50),
            plain.clone(),
            "split at `l0`, `l1`, `l2`: 9 B of upload take 180 ns, the rest of the work 100 \
             ns in place of 9.0 us; together 370 ns against edge-only 9.0 us, cloud-fp32 \
             5.4 us",
        ),
        (
            fan(4),
            platform(50),
            plain.clone(),
            "split at `l0`, `l1` and 2 more: 12 B of upload take 240 ns, the rest of the \
             work 100 ns in place of 9.0 us; together 440 ns against edge-only 9.0 us, \
             cloud-fp32 5.8 us",
        ),
        (
            chain(),
            platform(50),
            of(Objective::Period),
            "split over `edge` (2 of 3 groups), `cloud` (1 of 3 groups): period 200 ns \
             against 810 ns for edge-only (on `edge`), 800 ns for cloud-jpeg (on `cloud`, \
             not allowed), 4.0 us for cloud-fp32 (on `cloud`)",
        ),
        (
            chain(),
            platform(10_000),
            of(Objective::Period),
            "split over `edge` (1 of 3 groups), `cloud` (2 of 3 groups): period 76 ns \
             against 810 ns for edge-only (on `edge`), 81 ns for cloud-jpeg (on `cloud`, \
             not allowed), 81 ns for cloud-fp32 (on `cloud`)",
        ),
        (
            chain(),
            apart,
            of(Objective::Period),
            "do not split: everything on `edge` has the least period, 810 ns; there is no \
             split to compare with: no division of the layers between the two devices is \
             possible: limits, pins, layers that devices cannot run, memory, links or \
             values of unknown size forbid every cut",
        ),
        (
            chain(),
            full,
            of(Objective::Period),
            "split over `edge` (2 of 3 groups), `cloud` (1 of 3 groups): period 200 ns \
             against no plan on one device",
        ),
        (
            wide.clone(),
            clouds.clone(),
            plain,
            "split over `edge` (2 of 3 groups), `fog` (1 of 3 groups): latency 160 ns \
             against 810 ns for edge-only (on `edge`), 126 ns for cloud-jpeg (on `cloud`, \
             not allowed), 286 ns for cloud-fp32 (on `cloud`)",
        ),
        (
            wide.clone(),
            clouds.clone(),
            split,
            "split over `edge` (2 of 3 groups), `fog` (1 of 3 groups): latency 160 ns \
             against 810 ns for edge-only (on `edge`, not allowed), 126 ns for cloud-jpeg \
             (on `cloud`, not allowed), 286 ns for cloud-fp32 (on `cloud`, not allowed)",
        ),
        // 50 + 100 + 6 + 10 back + 700.
        (
            chain(),
            platform(1000),
            returning(&[("a", "edge"), ("b", "cloud"), ("c", "edge")], &[]),
            "split over `edge` (2 of 3 groups), `cloud` (1 of 3 groups), `edge` again: latency \
             866 ns against 810 ns for edge-only (on `edge`, not allowed), 126 ns for cloud-jpeg \
             (on `cloud`, not allowed), 286 ns for cloud-fp32 (on `cloud`, not allowed)",
        ),
        // 200 + 5 + 100 back + 760.
        (
            chain(),
            platform(1000),
            returning(&[("a", "cloud"), ("b", "edge"), ("c", "edge")], &[]),
            "split over `cloud` (1 of 3 groups), `edge` (2 of 3 groups): latency 1.1 us against \
             810 ns for edge-only (on `edge`, not allowed), 126 ns for cloud-jpeg (on `cloud`, not \
             allowed), 286 ns for cloud-fp32 (on `cloud`, not allowed)",
        ),
        // The best split returns, the best plan does not.
        (
            chain(),
            platform(1),
            returning(&[], &[("c", "cloud")]),
            "do not split: everything on `edge` has the least latency, 810 ns; the best split, \
             over `edge` (2 of 3 groups), `cloud` (1 of 3 groups), `edge` again, has 110.8 us",
        ),
        // The best split has a helper: 200 B of input, 400 and 3 B back while the edge needs less.
        (
            fan(3),
            platform(50),
            Request { scatter: true, revisits: false, ..returning(&[("join", "edge")], &[]) },
            "do not split: everything on `edge` has the least latency, 9.0 us; the best split, \
             over `edge` (3 of 4 groups), `cloud` (1 of 4 groups), has 13.5 us",
        ),
        // None returns, though it may.
        (
            chain(),
            platform(50),
            returning(&[], &[]),
            "split at `b`: 10 B of upload take 200 ns, the rest of the work 70 ns in place \
             of 700 ns; together 480 ns against edge-only 810 ns, cloud-jpeg 981 ns (not \
             allowed), cloud-fp32 4.2 us",
        ),
        (
            wide,
            clouds,
            of(Objective::Energy),
            "do not split: everything on `green` has the least energy, 162 nJ; the best \
             split, over `edge` (1 of 3 groups), `green` (2 of 3 groups), has 202 nJ",
        ),
    ];
    for (costs, platform, request, expected) in cases {
        let reason = answer(&costs, &platform, &request).reason;
        assert_eq!(reason, expected);
    }
}
