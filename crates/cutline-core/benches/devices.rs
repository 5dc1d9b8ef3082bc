//! How long planning over many devices takes: `cargo bench -p cutline-core --bench devices`.
//!
//! Networks of the zoo on invented, unlike devices (each with its own ratio of arithmetic to memory
//! bandwidth, its own power and price, and links of many rates): the optimum of the period over eight
//! devices, the front of five objectives over four, the best plan over all bandwidths, and how time
//! grows with layers and devices. `-- SECTION` runs one of `pair`, `eight`, `front`, `growth`.

use std::time::{Duration, Instant};

use cutline_core::{
    cost::{
        Costs,
        table::{self, CostsFile, LayerCosts},
    },
    dag::Dag,
    group::group,
    onnx::{self, ImportOptions},
    planner::{Objective, Proof, Request, front, solve, sweep},
    platform::Platform,
    units::{Bytes, BytesPerSec, Nanos},
    zoo,
};
use serde_json::json;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let sections: [(&str, fn()); 4] =
        [("pair", pair), ("eight", eight), ("front", fronts), ("growth", growth)];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            section();
            println!();
        }
    }
}

/// Two devices: one plan, and the whole table of bandwidths.
fn pair() {
    println!("two devices: least latency, and the best plan from 0.1 to 1000 Mbit/s\n");
    println!("| network | groups | one plan | whole table | regimes |\n|---|---|---|---|---|");
    for name in ["densenet121", "inceptionv3", "resnet101"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 2);
        let request = Request::default();
        let one = median(11, || solve(&dag, &costs, &request).expect("two devices"));
        let rates = [BytesPerSec(12_500), BytesPerSec(125_000_000)];
        let table = || sweep(&dag, &costs, &request, 0, rates).expect("two devices");
        let all = median(5, table);
        println!(
            "| {name} | {} | {} | {} | {} |",
            dag.groups().len(),
            millis(one),
            millis(all),
            table().len()
        );
    }
}

/// Eight unlike devices: the optimum of the period, with its proof.
fn eight() {
    println!("eight unlike devices: least period\n");
    println!("| network | groups | time | stages | period against one device | proof |");
    println!("|---|---|---|---|---|---|");
    for name in ["resnet101", "vgg19", "densenet121", "inceptionv3"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 8);
        let request = Request { objective: Objective::Period, ..Request::default() };
        let time = median(3, || solve(&dag, &costs, &request).expect("eight devices"));
        let answer = solve(&dag, &costs, &request).expect("eight devices");
        let best = answer.best.expect("no limits");
        let alone = answer.baselines.iter().filter_map(|b| b.outcome.as_ref().ok());
        let alone = alone.map(|choice| choice.evaluation.period.0).min().unwrap_or(0);
        println!(
            "| {name} | {} | {} | {} | 1/{:.2} | {} |",
            dag.groups().len(),
            millis(time),
            best.setting.order.len(),
            alone as f64 / best.evaluation.period.0 as f64,
            proof(best.proof)
        );
    }
}

/// Four unlike devices: the front of five objectives.
fn fronts() {
    println!("four unlike devices: the front of latency, period, energy, memory and money\n");
    println!("| network | groups | time | points | exact to | labels |\n|---|---|---|---|---|---|");
    let objectives = [
        Objective::Latency,
        Objective::Period,
        Objective::Energy,
        Objective::Memory,
        Objective::Money,
    ];
    for name in ["resnet101", "vgg19", "densenet121"] {
        let network = zoo_network(name);
        let (dag, costs) = on_devices(&network, 4);
        let start = Instant::now();
        let found = front(&dag, &costs, &Request::default(), &objectives, &mut || false)
            .expect("four devices");
        let time = start.elapsed();
        let exact = match (found.complete, found.epsilon_ppm) {
            (true, 0) => "exact".to_owned(),
            (true, ppm) => format!("{:.1} %", ppm as f64 / 1e4),
            (false, _) => "not finished".to_owned(),
        };
        println!(
            "| {name} | {} | {} | {} | {exact} | {} |",
            dag.groups().len(),
            millis(time),
            found.points.len(),
            found.labels
        );
    }
}

/// Time against layers and devices.
fn growth() {
    println!("growth: least period of a synthetic chain with skips, time by layers and devices\n");
    let devices = [2, 4, 8, 16];
    println!("| layers | 2 devices | 4 | 8 | 16 |\n|---|---|---|---|---|");
    for layers in [50, 100, 200, 500, 1000, 2000] {
        let network = synthetic(layers);
        let cells = devices.map(|count| {
            let (dag, costs) = on_devices(&network, count);
            let request = Request { objective: Objective::Period, ..Request::default() };
            let start = Instant::now();
            let mut stop = || start.elapsed() > Duration::from_secs(10);
            let answer = cutline_core::planner::solve_until(&dag, &costs, &request, &mut stop)
                .expect("at most 32 devices");
            let time = start.elapsed();
            match answer.best.map(|best| best.proof) {
                Ok(Proof::Optimal) => millis(time),
                Ok(other) => format!("{} ({})", millis(time), proof(other)),
                Err(why) => format!("{} ({why})", millis(time)),
            }
        });
        println!("| {layers} | {} |", cells.join(" | "));
    }
}

/// A network as what planning needs of it: work and bytes of each group, and who reads whom.
struct Network {
    input: u64,
    /// Multiply-accumulates, bytes made, bytes of weights, groups read.
    layers: Vec<(u64, u64, u64, Vec<usize>)>,
}

fn zoo_network(name: &str) -> Network {
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
fn synthetic(layers: usize) -> Network {
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

fn on_devices(network: &Network, count: usize) -> (Dag, Costs) {
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

fn median<T>(runs: usize, work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[runs / 2]
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn proof(proof: Proof) -> String {
    match proof {
        Proof::Optimal => "optimal".to_owned(),
        Proof::Within(gap) => format!("within {}", Nanos(gap)),
        Proof::Front(ppm) => format!("front to {ppm} ppm"),
    }
}
