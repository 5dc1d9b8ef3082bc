//! Scatter groups whose costs are computed by hand.

use serde_json::{Value, json};

use super::*;
use crate::cost::table;

/// `s`, then three branches `x`, `y` and `z`, then `j`. From `a` to `b` a byte takes 1 ns, F is 3 and
/// the delay 10; from `a` to `c` 2 ns, F is 1.
fn three_branches() -> Value {
    let layer = |name: &str, reads: &[&str], bytes: u64, time: u64, parameters: u64| {
        json!({ "name": name, "inputs": reads, "output_bytes": bytes, "parameter_bytes": parameters,
            "time_ns": { "a": time, "b": time, "c": time } })
    };
    json!({ "version": 1, "input": { "fp32": 8 }, "outputs": ["j"], "layers": [
            layer("s", &[], 100, 5, 10), layer("x", &["s"], 30, 40, 20),
            layer("y", &["s"], 20, 50, 30), layer("z", &["s"], 10, 60, 40),
            layer("j", &["x", "y", "z"], 4, 9, 50) ],
        "call_ns": { "a": 1, "b": 2, "c": 3 },
        "codecs": [{ "name": "third", "num": 1, "den": 3, "enc_ns_per_kb": 10 }] })
}

/// Two branches at the network's input.
fn at_the_input() -> Value {
    json!({ "version": 1, "input": { "fp32": 8, "uint8": 2 }, "outputs": ["r"], "layers": [
            { "name": "p", "output_bytes": 30, "time_ns": { "a": 40, "b": 40 } },
            { "name": "q", "output_bytes": 20, "time_ns": { "a": 50, "b": 50 } },
            { "name": "r", "inputs": ["p", "q"], "output_bytes": 4, "time_ns": { "a": 9, "b": 9 } } ],
        "call_ns": { "a": 1, "b": 2 },
        "prepare_ns": { "fp32": { "a": 7 }, "uint8": { "a": 2, "b": 4 } } })
}

fn tables(file: &Value) -> (Dag, Costs) {
    let platform = json!({ "version": 1,
        "device": [{ "name": "a", "power": "1W" }, { "name": "b", "power": "1W" }, { "name": "c", "power": "1W" }],
        "link": [ { "between": ["a", "b"], "up": "8gbit", "fixed": "3ns", "delay": "10ns" },
                  { "between": ["c", "a"], "up": "4gbit", "fixed": "1ns" } ] });
    let (file, platform) =
        (serde_json::from_value(file.clone()).unwrap(), serde_json::from_value(platform).unwrap());
    table::read(&file, &platform, &[None, None]).unwrap()
}

/// Devices by letter, one for each group; helpers with the device that joins.
fn cost_of(
    file: &Value,
    devices: &str,
    helpers: &[&str],
    [input, codec]: [usize; 2],
) -> Result<Evaluation, EvaluateError> {
    let (dag, costs) = tables(file);
    let device = |letter: char| costs.find_device(&letter.to_string()).unwrap();
    let pair = |text: &&str| (device(text.as_bytes()[0].into()), device(text.as_bytes()[1].into()));
    let setting = Setting {
        input,
        codecs: vec![codec; 3],
        helpers: helpers.iter().map(pair).collect(),
        ..Setting::first(&costs)
    };
    evaluate(&dag, &costs, &Mapping(devices.chars().map(device).collect()), &setting)
}

#[test]
fn scatter_groups_by_hand() {
    // Devices, helpers and who joins them, codec; latency, period, bytes, energy (one watt: all that
    // devices are busy for), the four parts, memory.
    type Case<'a> = (&'a str, &'a [&'a str], usize, [u64; 4], [u64; 4], &'a [u64]);
    let cases: [Case; 3] = [
        // Before 6; own 41, b 113 + 52 + 33, c 201 + 63 + 21; join 10. While `x` runs, `s` is there
        // and what comes back: 100 + 30 + 20 + 10.
        (
            "aabca",
            &["ba", "ca"],
            0,
            [6 + 285 + 10, 201, 230, 172],
            [16, 222, 63, 0],
            &[80 + 160, 150, 150],
        ),
        // Nothing of its own: out 113, 152, back 73.
        ("abbba", &["ba"], 0, [6 + 338 + 10, 152, 160, 168], [16, 186, 152, 0], &[168, 250]),
        // Encoded: 1 + 47, 112, 1 + 23; own 41.
        ("aabba", &["ba"], 1, [6 + 184 + 10, 113, 44, 171], [16, 70, 112, 2], &[240, 200]),
    ];
    for (devices, helpers, codec, sums, four, memory) in &cases {
        let found = cost_of(&three_branches(), devices, helpers, [0, *codec]).unwrap();
        let energy: u64 = found.energy.iter().flatten().map(|used| used.energy.0).sum();
        let found_sums = [found.latency.0, found.period.0, found.bytes.0, energy];
        assert_eq!(found_sums, *sums, "{devices}: {found:#?}");
        let parts = [found.edge_compute(), found.upload(), found.cloud_compute(), found.rest()];
        assert_eq!(parts.map(|part| part.0), *four, "{devices}");
        assert_eq!(found.solver_latency, found.latency, "{devices}");
        let used: Vec<u64> = found.memory.iter().map(|used| used.bytes.0).collect();
        assert_eq!(used, *memory, "{devices}");
    }
}

#[test]
fn a_block_may_begin_at_the_networks_input() {
    // As tensor: 7 for it; out 21, 52, back 33; own 41 beside; join 10. As picture: 2 more there, out
    // 15, 4 to make the tensor of it.
    for (input, latency) in [(0, 7 + 106 + 10), (1, 9 + 104 + 10)] {
        let found = cost_of(&at_the_input(), "aba", &["ba"], [input, 0]).unwrap();
        assert_eq!(found.latency.0, latency, "{found:#?}");
    }
}

#[test]
fn what_is_no_scatter_group_is_refused() {
    let cases: [(&str, &[&str], &str); 8] = [
        ("aaaab", &["ba"], "`j` is in no branch"),
        ("abaaa", &["bc"], "must run all of the block"),
        ("babaa", &["bc"], "`s` is in no branch"),
        ("aabca", &["ba", "cb"], "can help only one other device"),
        ("aabca", &["ba", "cc"], "can help only one other device"),
        ("aabca", &["ba"], "must run all of the block"),
        ("caaba", &["ba"], "and the step before it"),
        ("aabcb", &["ca"], "must run all of the block"),
    ];
    for (devices, helpers, expected) in cases {
        let error = cost_of(&three_branches(), devices, helpers, [0, 0]).unwrap_err().to_string();
        assert!(error.contains(expected), "{devices} {helpers:?}: {error}");
    }
    // Without helpers the same mapping visits a device again.
    let again = cost_of(&three_branches(), "aabca", &[], [0, 0]);
    assert_eq!(again.unwrap_err().to_string(), "no link between `b` and `c` is declared");
    let mut answers = three_branches();
    answers["outputs"] = json!(["j", "y"]);
    let error = cost_of(&answers, "aabaa", &["ba"], [0, 0]).unwrap_err().to_string();
    assert!(error.contains("makes the answer `y`"), "{error}");
    assert!(cost_of(&answers, "abaaa", &["ba"], [0, 0]).is_ok());
}
