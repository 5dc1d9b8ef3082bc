//! Invented, unlike devices, and networks to plan over them: what benchmarks of planning share.
//!
//! Each device has its own ratio of arithmetic to memory bandwidth, its own power and price, and links
//! of many rates.

use cutline_core::{
    cost::{
        Costs,
        table::{self, CostsFile, LayerCosts},
    },
    dag::Dag,
    group::group,
    onnx::{self, ImportOptions},
    platform::Platform,
    units::{Bytes, Nanos},
    zoo,
};
use serde_json::json;

/// A network as what planning needs of it: work and bytes of each group, and who reads whom.
pub(crate) struct Network {
    input: u64,
    /// Multiply-accumulates, bytes made, bytes of weights, groups read.
    layers: Vec<(u64, u64, u64, Vec<usize>)>,
}

/// A network of the zoo.
pub(crate) fn zoo_network(name: &str) -> Network {
    let model = zoo::outline(name, None).expect("the zoo has it");
    let graph = onnx::import(&model, &ImportOptions::default()).expect("the zoo imports");
    let dag = group(&graph).dag;
    let layer = |group: &cutline_core::dag::Group| {
        let made = group.makes.iter().filter_map(|&flow| dag.flow(flow).bytes).map(|b| b.0).sum();
        let reads = group.reads.iter().filter_map(|&flow| dag.flow(flow).from);
        let reads = reads.map(|id| id.index()).collect();
        (group.macs.0, made, group.parameter_bytes.0, reads)
    };
    let input = dag.flows().iter().filter(|flow| flow.from.is_none()).filter_map(|f| f.bytes);
    Network {
        input: input.map(|bytes| bytes.0).sum(),
        layers: dag.groups().iter().map(layer).collect(),
    }
}

/// A chain in which every fourth layer is read again two layers later.
pub(crate) fn synthetic(layers: usize) -> Network {
    let layer = |at: usize| {
        let noise = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let mut reads: Vec<usize> = at.checked_sub(1).into_iter().collect();
        if at % 4 == 3 {
            reads.push(at - 3);
        }
        (20_000_000 + noise * 4, 100_000 + noise % 400_000, 50_000 + noise, reads)
    };
    Network { input: 602_112, layers: (0..layers).map(layer).collect() }
}

/// Invented devices: multiply-accumulates and bytes per microsecond, milliwatts.
const DEVICES: [(&str, u64, u64, u64); 8] = [
    ("camera", 4_000, 2_000, 2_500),
    ("pi", 9_000, 2_500, 6_400),
    ("nano", 40_000, 9_000, 10_000),
    ("phone", 22_000, 8_000, 4_000),
    ("gateway", 30_000, 5_000, 18_000),
    ("nx", 90_000, 20_000, 15_000),
    ("desk", 70_000, 25_000, 65_000),
    ("cloud", 300_000, 60_000, 250_000),
];

/// A network on so many of the devices, two to eight of them unlike.
pub(crate) fn on_devices(network: &Network, count: usize) -> (Dag, Costs) {
    // Two devices are the ends of the list; more than eight repeat it a little slower.
    let device = |at: usize| {
        let at = if count == 2 {
            at * 7
        } else if count == 4 {
            [0, 2, 5, 7][at]
        } else {
            at
        };
        let (name, macs, bytes, milliwatts) = DEVICES[at % 8];
        let slower = 20 + 3 * (at as u64 / 8);
        (format!("{name}{}", at / 8), macs * 20 / slower, bytes * 20 / slower, milliwatts)
    };
    let devices: Vec<_> = (0..count).map(device).collect();
    let list = devices.iter().enumerate().map(|(at, (name, _, _, power))| {
        let mut device = json!({ "name": name, "power": format!("{power}mW") });
        if at + 1 == count {
            device["rent"] = json!("60.0");
            device["tier"] = json!("cloud");
        } else {
            device["purchase"] = json!(format!("{}", 20 + power / 50));
            device["life_months"] = json!(36);
        }
        device
    });
    let mut links = Vec::new();
    for a in 0..count {
        for b in a + 1..count {
            let up = if b + 1 == count { 20 + 5 * a } else { 90 + 40 * ((a * 5 + b * 3) % 7) };
            let delay = if b + 1 == count { 10 } else { 1 };
            links.push(json!({ "between": [devices[a].0, devices[b].0], "up": format!("{up}mbit"),
                "down": format!("{}mbit", up * 2), "delay": format!("{delay}ms"), "fixed": "200us",
                "energy": "6nJ/bit" }));
        }
    }
    let platform: Platform = serde_json::from_value(json!({ "version": 1,
        "device": list.collect::<Vec<_>>(), "link": links,
        "workload": { "users": 1000, "frames_per_second": "0.5", "electricity": "0.30" } }))
    .expect("a valid platform");
    let layers = network.layers.iter().enumerate().map(|(at, (macs, made, weights, reads))| {
        let time = |(name, speed, bandwidth, _): &(String, u64, u64, u64)| {
            let micros = |amount: u64, rate: u64| amount * 1000 / rate;
            (name.clone(), Nanos(micros(*macs, *speed) + micros(made * 2 + weights, *bandwidth)))
        };
        LayerCosts {
            name: format!("l{at}"),
            inputs: reads.iter().map(|read| format!("l{read}")).collect(),
            output_bytes: Bytes(*made),
            parameter_bytes: Bytes(*weights),
            time_ns: devices.iter().map(time).collect(),
            energy_nj: Default::default(),
        }
    });
    let layers: Vec<LayerCosts> = layers.collect();
    let file = CostsFile {
        version: 1,
        input: [("fp32".to_owned(), Bytes(network.input))].into(),
        outputs: vec![layers.last().expect("not empty").name.clone()],
        layers,
        codecs: Vec::new(),
        call_ns: devices.iter().map(|(name, ..)| (name.clone(), Nanos(50_000))).collect(),
        prepare_ns: Default::default(),
    };
    let tables = vec![None; platform.links().len()];
    table::read(&file, &platform, &tables).expect("a valid table")
}
