//! Random networks on random platforms: the instances that planner and oracle are asked about.
//!
//! One number decides an instance. Every rule of the cost model binds in some of them: shared memories
//! and cards, given energies, rents, codecs, blocks of branches, idle power.

use cutline_core::{
    cost::{Costs, table, table::CostsFile},
    dag::Dag,
    platform::Platform,
};
use serde_json::{Value, json};

use super::random::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// The random numbers of an instance.
pub(crate) fn random_of(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Costs and platform of a random instance with at most so many mappings; with `blocks`, of a network
/// most of whose layers lie in blocks of several branches.
pub(crate) fn instance(random: &mut Random, most: u64, blocks: bool) -> (Value, Value) {
    let devices = 2 + random.below(3);
    let mut layers = 1;
    // Large instances are as large as they may be; small ones of all sizes.
    let full = most > 1 << 10;
    while layers < 12 && devices.pow(layers as u32 + 1) <= most && (full || !random.one_in(7)) {
        layers += 1;
    }
    let coarse = 1 + random.below(4);
    let mut list = Vec::new();
    let reads = if blocks { blocks_of(random, layers) } else { any_reads(random, layers) };
    let read = |layer: usize| reads.iter().any(|reads| reads.contains(&layer));
    for (layer, reads) in reads.iter().enumerate() {
        let inputs: Vec<String> = reads.iter().map(|earlier| format!("l{earlier}")).collect();
        let mut time = serde_json::Map::new();
        let mut energy = serde_json::Map::new();
        for (device, name) in NAMES.iter().enumerate().take(devices as usize) {
            if !random.one_in(25) {
                time.insert(
                    (*name).into(),
                    json!(random.below(6) * (4 - device as u64) * coarse * 10),
                );
            }
            if random.one_in(6) {
                energy.insert((*name).into(), json!(random.below(9) * 100));
            }
        }
        list.push(json!({ "name": format!("l{layer}"), "inputs": inputs,
            "output_bytes": random.below(5) * 7 * coarse, "parameter_bytes": random.below(4) * 50,
            "time_ns": time, "energy_nj": energy }));
    }
    let mut outputs: Vec<String> =
        (0..layers).filter(|&layer| !read(layer)).map(|layer| format!("l{layer}")).collect();
    let extra = format!("l{}", random.below(layers as u64));
    if random.one_in(3) && !outputs.contains(&extra) {
        outputs.push(extra);
    }
    let mut costs = json!({ "version": 1, "layers": list, "outputs": outputs,
        "input": { "fp32": 40 + random.below(4) * 40 } });
    if random.one_in(2) {
        costs["input"]["uint8"] = json!(random.below(4) * 10);
    }
    if random.one_in(3) {
        costs["codecs"] = json!([{ "name": "third", "num": 1, "den": 3,
            "enc_ns_per_kb": random.below(9) * 111, "dec_ns_per_kb": random.below(3) * 70 }]);
    }
    if random.one_in(2) {
        costs["call_ns"] = json!({ "a": random.below(4) * 5, "b": random.below(4) * 5 });
    }
    if random.one_in(2) {
        costs["prepare_ns"] = json!({ "fp32": { "a": random.below(4) * 9, "b": random.below(3) },
            "uint8": { "a": random.below(4) * 5, "c": random.below(4) * 5 } });
    }
    let mut platform = platform(random, devices as usize);
    if random.one_in(3) {
        idle(random, &mut platform);
        busy_takes_more(&mut costs, &platform);
    }
    (costs, platform)
}

/// Gives every device an idle power, which then counts, and the frames a rate that many plans keep up
/// with, or most, or all.
fn idle(random: &mut Random, platform: &mut Value) {
    for device in platform["device"].as_array_mut().unwrap() {
        let most = microwatts(&device["power"]);
        device["idle_power"] = json!(format!("{}uW", random.below(4) * most / 3));
    }
    let rates = ["2000000", "400000.25", "25000.5"];
    platform["workload"]["frames_per_second"] = json!(rates[random.below(3) as usize]);
}

/// Raises the given energy of layers to what their devices would take idle.
fn busy_takes_more(costs: &mut Value, platform: &Value) {
    for device in platform["device"].as_array().unwrap() {
        let (name, idle) = (device["name"].as_str().unwrap(), microwatts(&device["idle_power"]));
        for layer in costs["layers"].as_array_mut().unwrap() {
            let least = (layer["time_ns"][name].as_u64().unwrap_or(0) * idle).div_ceil(1_000_000);
            if let Some(energy) = layer["energy_nj"].get_mut(name) {
                *energy = json!(energy.as_u64().unwrap().max(least));
            }
        }
    }
}

fn microwatts(value: &Value) -> u64 {
    value.as_str().unwrap().strip_suffix("uW").unwrap().parse().unwrap()
}

/// What each layer reads; nothing stands for the network's input.
fn any_reads(random: &mut Random, layers: usize) -> Vec<Vec<usize>> {
    let reads = |layer: usize| {
        let near = |earlier: usize, random: &mut Random| {
            layer - earlier <= 2 && random.below(10) < 6 || random.one_in(8)
        };
        (0..layer).filter(|&earlier| near(earlier, random)).collect()
    };
    (0..layers).map(reads).collect()
}

/// The same of blocks that follow each other, and now and then a layer between them.
fn blocks_of(random: &mut Random, layers: usize) -> Vec<Vec<usize>> {
    let mut reads: Vec<Vec<usize>> = Vec::new();
    let mut enters: Vec<usize> = Vec::new();
    while reads.len() < layers {
        let left = layers - reads.len();
        if left == 1 || random.one_in(4) {
            reads.push(enters);
            enters = vec![reads.len() - 1];
            continue;
        }
        let branches = 1 + random.below((left as u64 - 1).min(3)) as usize;
        let inside = branches + random.below((left - branches) as u64) as usize;
        let mut tips = Vec::new();
        for _ in 0..branches {
            tips.push(reads.len());
            reads.push(enters.clone());
        }
        for _ in branches..inside {
            let at = random.below(branches as u64) as usize;
            let mut from = vec![tips[at]];
            if random.one_in(4) {
                from.extend(&enters);
            }
            if random.one_in(8) {
                from.push(tips[(at + 1) % branches]);
            }
            from.sort_unstable();
            from.dedup();
            tips[at] = reads.len();
            reads.push(from);
        }
        if random.one_in(4) {
            tips.extend(&enters);
        }
        tips.sort_unstable();
        reads.push(tips);
        enters = vec![reads.len() - 1];
    }
    reads
}

fn platform(random: &mut Random, devices: usize) -> Value {
    let shared = random.one_in(3);
    let mut list: Vec<Value> = Vec::new();
    for name in NAMES.iter().take(devices) {
        let mut device =
            json!({ "name": name, "power": format!("{}uW", random.below(5) * 1_000_000) });
        if shared && devices > 2 && (*name == "b" || *name == "c") {
            device["host"] = json!("h");
        }
        if shared && devices > 3 && (*name == "a" || *name == "d") {
            device["host"] = json!("g");
        }
        match random.below(4) {
            0 => {
                device["rent"] = json!("7.527");
                if random.one_in(2) {
                    device["users_per_instance"] = json!(1 + random.below(300));
                }
            }
            1 => {
                device["purchase"] = json!("60");
                device["life_months"] = json!(1 + random.below(36));
            }
            _ => {}
        }
        let host_has_it = shared && (*name == "c" || *name == "d");
        if random.one_in(4) && !host_has_it {
            device["memory"] = json!(format!("{}", 60 + random.below(600)));
        }
        list.push(device);
    }
    let mut links = Vec::new();
    for (a, first) in NAMES.iter().enumerate().take(devices) {
        for second in &NAMES[a + 1..devices] {
            if random.one_in(6) {
                continue;
            }
            let rate = |random: &mut Random| [8000, 2000, 800, 56][random.below(4) as usize];
            let mut link = json!({ "between": [first, second],
                "up": format!("{}mbit", rate(random)), "down": format!("{}mbit", rate(random)),
                "delay": format!("{}ns", random.below(4) * 10), "fixed": format!("{}ns", random.below(4) * 5),
                "energy": [format!("{}pJ/byte", random.below(3) * 500), format!("{}pJ/byte", random.below(3) * 700)] });
            if random.one_in(2) {
                let mut card = || ["", "net"][random.below(2) as usize];
                link["cards"] = json!([card(), card()]);
            }
            if random.one_in(4) {
                link["between"] = json!([second, first]);
            }
            links.push(link);
        }
    }
    json!({ "version": 1, "device": list, "link": links,
        "workload": { "users": 1 + random.below(5000), "frames_per_second": "25000.5", "electricity": "0.3" } })
}

pub(crate) fn read(costs: &Value, platform: &Value) -> (Dag, Costs) {
    let file: CostsFile = serde_json::from_value(costs.clone()).unwrap();
    let parsed: Platform = serde_json::from_value(platform.clone()).unwrap();
    let tables = vec![None; parsed.links().len()];
    let (dag, mut costs) = table::read(&file, &parsed, &tables).unwrap();
    if platform["device"][0]["idle_power"].is_string() {
        costs.count_idle(&dag).unwrap();
    }
    (dag, costs)
}

/// Puts the second device on the first one's host, and the third on that of the fourth if there is one.
fn beside_others(platform: &mut Value) {
    for (at, device) in platform["device"].as_array_mut().unwrap().iter_mut().enumerate() {
        device["host"] = json!(if at < 2 { "g" } else { "h" });
        match at {
            1 | 2 => device["memory"] = json!("400"),
            _ => drop(device.as_object_mut().unwrap().remove("memory")),
        }
    }
}

/// Makes the third device like the second, but for one thing or nothing.
pub(crate) fn almost_twins(random: &mut Random, costs: &mut Value, platform: &mut Value) {
    let other = |value: &Value| json!(value.as_u64().unwrap_or(0) + 10);
    for layer in costs["layers"].as_array_mut().unwrap() {
        for key in ["time_ns", "energy_nj"] {
            let like = layer[key].get("b").cloned();
            let of = layer[key].as_object_mut().unwrap();
            match like {
                Some(like) => drop(of.insert("c".into(), like)),
                None => drop(of.remove("c")),
            }
        }
    }
    if let Some(call) = costs.get_mut("call_ns") {
        call["c"] = call["b"].clone();
    }
    if let Some(prepare) = costs.get_mut("prepare_ns") {
        for times in prepare.as_object_mut().unwrap().values_mut() {
            times["b"] = json!(random.below(4) * 5);
            times["c"] = times["b"].clone();
        }
    }
    for name in ["b", "c"] {
        let at = usize::from(name == "c") + 1;
        let mut like = platform["device"][1].clone();
        like["name"] = json!(name);
        like.as_object_mut().unwrap().remove("host");
        platform["device"][at] = like;
    }
    let link = |between: [&str; 2], up: &str, down: &str| {
        json!({ "between": between, "up": up, "down": down, "delay": "10ns", "fixed": "5ns",
            "energy": ["500pJ/byte", "700pJ/byte"] })
    };
    let mut links =
        vec![link(["a", "b"], "8000mbit", "2000mbit"), link(["c", "a"], "2000mbit", "8000mbit")];
    links[1]["energy"] = json!(["700pJ/byte", "500pJ/byte"]);
    links.push(link(["b", "c"], "8000mbit", "8000mbit"));
    links[2]["energy"] = json!(["500pJ/byte", "500pJ/byte"]);
    if platform["device"].as_array().unwrap().len() > 3 && random.one_in(2) {
        links.push(link(["b", "d"], "800mbit", "8000mbit"));
        links.push(link(["c", "d"], "800mbit", "8000mbit"));
        if random.one_in(2) {
            links.push(link(["a", "d"], "8000mbit", "8000mbit"));
        }
    }
    let device = &mut platform["device"][2];
    let layers = costs["layers"].as_array().unwrap().len() as u64;
    let layer = random.below(layers) as usize;
    let unlike = random.below(18);
    match unlike {
        0 => {
            costs["layers"][layer]["time_ns"]["c"] = other(&costs["layers"][layer]["time_ns"]["b"])
        }
        1 => {
            costs["layers"][layer]["energy_nj"]["c"] =
                other(&costs["layers"][layer]["energy_nj"]["b"]);
        }
        2 => costs["call_ns"] = json!({ "a": 5, "b": 10, "c": 5 }),
        3 => costs["prepare_ns"] = json!({ "fp32": { "b": 5, "c": 0 }, "uint8": { "b": 5 } }),
        4 => device["memory"] = json!("150"),
        5 => device["power"] = json!("9000000uW"),
        6 => device["purchase"] = json!("10"),
        7 => links[1]["up"] = json!("800mbit"),
        8 => links[1]["down"] = json!("800mbit"),
        9 => links[1]["delay"] = json!("0ns"),
        10 => links[1]["energy"] = json!(["200pJ/byte", "500pJ/byte"]),
        11 => links[1]["energy"] = json!(["700pJ/byte", "200pJ/byte"]),
        12 => links[2]["up"] = json!("2000mbit"),
        13 => links[2]["energy"] = json!(["500pJ/byte", "100pJ/byte"]),
        14 => drop(links.remove(1)),
        15 if device.get("idle_power").is_some() => device["idle_power"] = json!("0uW"),
        _ => {}
    }
    if device.get("purchase").is_some() {
        device["life_months"] = json!(12);
    }
    if random.one_in(4) {
        links.retain(|link| link["between"] != json!(["b", "c"]));
    }
    platform["link"] = json!(links);
    if unlike == 16 {
        beside_others(platform);
    }
    // Not only the second and the third are alike.
    let devices = platform["device"].as_array_mut().unwrap();
    if devices.len() > 3 && random.one_in(2) {
        let last = devices.remove(3);
        devices.insert(1, last);
    }
    if platform["device"][0].get("idle_power").is_some() {
        busy_takes_more(costs, platform);
    }
}
