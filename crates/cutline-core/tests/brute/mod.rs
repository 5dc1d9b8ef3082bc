//! Every plan of a small `costs.json` on two devices, costed by the sentences of
//! `docs/cost-model.md` and ordered by exact fractions.

use std::{cmp::Ordering, collections::BTreeMap};

use cutline_core::planner::Request;
use serde_json::Value;

/// What both sides must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) mapping: Vec<(String, String)>,
    pub(crate) input: String,
    pub(crate) codec: String,
    pub(crate) latency: u64,
    pub(crate) period: u64,
    pub(crate) bytes: u64,
    pub(crate) four: [u64; 4],
    pub(crate) memory: BTreeMap<String, u64>,
}

/// The oracle's answer; `None` where there is no plan of that kind.
pub(crate) struct Expected {
    pub(crate) best: Option<Report>,
    pub best_split: Option<Report>,
    pub(crate) baselines: BTreeMap<String, Option<Report>>,
}

/// Numbers of one instance. Device 0 is `edge`, the source; device 1 is `cloud`.
pub(crate) struct Instance {
    names: Vec<String>,
    reads: Vec<Vec<usize>>,
    reads_input: Vec<bool>,
    output_bytes: Vec<u64>,
    parameter_bytes: Vec<u64>,
    time: Vec<[Option<u64>; 2]>,
    is_output: Vec<bool>,
    inputs: Vec<(String, Option<u64>)>,
    prepare: BTreeMap<String, [u64; 2]>,
    codecs: Vec<Codec>,
    call: [u64; 2],
    memory: [Option<u64>; 2],
    link: Option<Link>,
}

struct Codec {
    name: String,
    num: u64,
    den: u64,
    enc: u64,
    dec: u64,
    lossy: bool,
}

struct Link {
    fixed: u64,
    delay: u64,
    /// Bytes per second edge to cloud, cloud to edge.
    rates: [u64; 2],
}

const DEVICES: [&str; 2] = ["edge", "cloud"];

impl Instance {
    pub(crate) fn read(costs: &Value, platform: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let layers = costs["layers"].as_array().unwrap();
        let names: Vec<String> = layers.iter().map(|layer| text(&layer["name"])).collect();
        let position =
            |name: &Value| names.iter().position(|n| n == name.as_str().unwrap()).unwrap();
        let reads: Vec<Vec<usize>> = layers
            .iter()
            .map(|layer| layer["inputs"].as_array().unwrap().iter().map(position).collect())
            .collect();
        let number = |value: &Value| value.as_u64();
        let on = |table: &Value| DEVICES.map(|device| number(&table[device]));
        let outputs: Vec<usize> =
            costs["outputs"].as_array().unwrap().iter().map(position).collect();
        let size = |name: &str| number(&costs["input"][name]);
        // Lossless before lossy, the tensor first; it is on offer even where its size is unknown.
        let mut inputs = vec![("fp32".to_owned(), size("fp32"))];
        for name in ["uint8", "jpeg"] {
            inputs.extend(size(name).map(|bytes| (name.to_owned(), Some(bytes))));
        }
        let mut codecs =
            vec![Codec { name: "fp32".into(), num: 1, den: 1, enc: 0, dec: 0, lossy: false }];
        for codec in costs["codecs"].as_array().unwrap_or(&vec![]) {
            codecs.push(Codec {
                name: text(&codec["name"]),
                num: number(&codec["num"]).unwrap(),
                den: number(&codec["den"]).unwrap(),
                enc: number(&codec["enc_ns_per_kb"]).unwrap(),
                dec: number(&codec["dec_ns_per_kb"]).unwrap(),
                lossy: codec["lossy"].as_bool().unwrap(),
            });
        }
        let prepare = |name: &str| on(&costs["prepare_ns"][name]).map(|time| time.unwrap_or(0));
        let memory =
            |i: usize| platform["device"][i]["memory"].as_str().map(|m| m.parse().unwrap());
        Instance {
            reads_input: reads.iter().map(Vec::is_empty).collect(),
            output_bytes: layers.iter().map(|l| number(&l["output_bytes"]).unwrap()).collect(),
            parameter_bytes: layers
                .iter()
                .map(|l| number(&l["parameter_bytes"]).unwrap())
                .collect(),
            time: layers.iter().map(|layer| on(&layer["time_ns"])).collect(),
            is_output: (0..names.len()).map(|layer| outputs.contains(&layer)).collect(),
            prepare: ["fp32", "uint8", "jpeg"].map(|name| (name.to_owned(), prepare(name))).into(),
            call: on(&costs["call_ns"]).map(|time| time.unwrap_or(0)),
            memory: [memory(0), memory(1)],
            link: platform["link"].as_array().unwrap().first().map(Link::read),
            names,
            reads,
            inputs,
            codecs,
        }
    }
}

impl Link {
    fn read(link: &Value) -> Self {
        let nanos =
            |key: &str| link[key].as_str().unwrap().strip_suffix("ns").unwrap().parse().unwrap();
        let rate = |key: &str| {
            let text = link[key].as_str().unwrap();
            let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("bit", 1)];
            let (number, unit) = units
                .iter()
                .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
                .unwrap();
            number.parse::<u64>().unwrap() * unit / 8
        };
        let mut rates = [rate("up"), rate("down")];
        if link["between"][0] == "cloud" {
            rates.reverse();
        }
        Link { fixed: nanos("fixed"), delay: nanos("delay"), rates }
    }
}

/// An exact fraction of small numbers.
#[derive(Clone, Copy, Debug)]
struct Fraction {
    num: u128,
    den: u128,
}

impl Fraction {
    fn new(num: u128, den: u128) -> Self {
        let (mut a, mut b) = (num, den);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Fraction { num: num / a.max(1), den: den / a.max(1) }
    }

    fn plus(self, num: u64, den: u64) -> Self {
        self.add(Fraction::new(num.into(), den.into()))
    }

    fn add(self, other: Fraction) -> Self {
        Fraction::new(self.num * other.den + other.num * self.den, self.den * other.den)
    }

    fn compare(&self, other: &Fraction) -> Ordering {
        (self.num * other.den).cmp(&(other.num * self.den))
    }

    fn ceil(self) -> u64 {
        self.num.div_ceil(self.den) as u64
    }
}

/// One costed plan.
struct Plan {
    time: Fraction,
    stages: usize,
    bytes: Fraction,
    devices: Vec<usize>,
    options: [usize; 2],
    report: Report,
}

impl Plan {
    /// Time, then fewer stages, fewer bytes, the smaller mapping, the option listed first.
    fn compare(&self, other: &Plan) -> Ordering {
        self.time
            .compare(&other.time)
            .then(self.stages.cmp(&other.stages))
            .then(self.bytes.compare(&other.bytes))
            .then(self.devices.cmp(&other.devices))
            .then(self.options.cmp(&other.options))
    }
}

/// Tries every plan of an instance.
pub(crate) struct Oracle(Instance);

impl Oracle {
    pub(crate) fn new(instance: Instance) -> Self {
        Oracle(instance)
    }

    pub(crate) fn solve(&self, order: &[String], request: &Request) -> Expected {
        let Oracle(instance) = self;
        assert_eq!(order, instance.names, "instances list layers in topological order");
        let layers = instance.names.len();
        let input_allowed = |index: usize| match &request.input_encodings {
            Some(names) => names.contains(&instance.inputs[index].0),
            None => instance.inputs[index].0 != "jpeg",
        };
        let codec_allowed = |index: usize| match &request.cut_encodings {
            Some(names) => names.contains(&instance.codecs[index].name),
            None => !instance.codecs[index].lossy,
        };
        let pinned = |devices: &[usize]| {
            request.pins.iter().all(|(layer, device)| {
                let layer = instance.names.iter().position(|name| name == layer).unwrap();
                DEVICES[devices[layer]] == device
            })
        };
        let mut splits = Vec::new();
        for bits in 1..(1usize << layers) - 1 {
            let devices: Vec<usize> = (0..layers).map(|layer| bits >> layer & 1).collect();
            if !pinned(&devices) {
                continue;
            }
            for input in (0..instance.inputs.len()).filter(|&i| input_allowed(i)) {
                for codec in (0..instance.codecs.len()).filter(|&i| codec_allowed(i)) {
                    splits.extend(self.plan(&devices, input, codec));
                }
            }
        }
        let best_split = least(&splits);
        let mut baselines = BTreeMap::from([("edge-only".to_owned(), None)]);
        let mut singles = Vec::new();
        for (device, name) in
            [(0, "edge-only"), (1, "cloud-jpeg"), (1, "cloud-uint8"), (1, "cloud-fp32")]
        {
            let encoding = name.strip_prefix("cloud-").unwrap_or("fp32");
            let input = instance.inputs.iter().position(|(known, _)| known == encoding);
            let devices = vec![device; layers];
            let plan = input.and_then(|input| self.plan(&devices, input, 0));
            baselines.insert(name.to_owned(), plan.as_ref().map(|plan| plan.report.clone()));
            if pinned(&devices) && (device == 0 || input.is_some_and(input_allowed)) {
                singles.extend(plan);
            }
        }
        let all: Vec<Plan> = splits.into_iter().chain(singles).collect();
        Expected { best: least(&all), best_split, baselines }
    }

    /// The cost of one plan; `None` where it cannot be run or does not fit.
    fn plan(&self, devices: &[usize], input: usize, codec: usize) -> Option<Plan> {
        let i = &self.0;
        let all = 0..i.names.len();
        let on = |device: usize| all.clone().filter(move |&layer| devices[layer] == device);
        let flows_back =
            |layer: usize| i.reads[layer].iter().any(|&from| devices[from] > devices[layer]);
        if all.clone().any(flows_back) {
            return None;
        }
        let used: Vec<usize> = (0..2).filter(|&device| on(device).next().is_some()).collect();
        let mut compute = [0u64; 2];
        for &device in &used {
            compute[device] = i.call[device];
            for layer in on(device) {
                compute[device] += i.time[layer][device]?;
            }
        }
        let (encoding, input_size) = &i.inputs[input];
        let codec_cost = &i.codecs[codec];
        let here = on(0).any(|layer| i.reads_input[layer]);
        let away = on(1).any(|layer| i.reads_input[layer]);
        let mut prepare = [0u64; 2];
        if here || away && encoding == "fp32" {
            prepare[0] += i.prepare["fp32"][0];
        }
        if away {
            prepare[0] += if encoding == "fp32" { 0 } else { i.prepare[encoding][0] };
            prepare[1] += i.prepare[encoding][1];
        }
        let crosses = |&layer: &usize| on(1).any(|reader| i.reads[reader].contains(&layer));
        let cut: Vec<usize> = on(0).filter(crosses).collect();
        let answers: Vec<usize> = on(1).filter(|&layer| i.is_output[layer]).collect();
        let whole = |time: u64| Fraction::new(time.into(), 1);
        let mut time = whole(compute.iter().chain(&prepare).sum());
        let mut bytes = whole(0);
        let [mut encode, mut decode, mut up, mut down] = [0u64; 4];
        let (mut up_bytes, mut down_bytes, mut busy) = (0u64, 0u64, [0u64; 2]);
        if used.contains(&1) {
            let link = i.link.as_ref()?;
            let sent_input = if away { (*input_size)? } else { 0 };
            let declared: u64 = cut.iter().map(|&layer| i.output_bytes[layer]).sum();
            let encoded = Fraction::new((declared * codec_cost.num).into(), codec_cost.den.into());
            up_bytes = sent_input + encoded.ceil();
            let transfer =
                Fraction::new(u128::from(up_bytes) * 1_000_000_000, link.rates[0].into());
            busy[0] = link.fixed + transfer.ceil();
            up = busy[0] + link.delay;
            let declared_wide = Fraction::new((declared * codec_cost.enc).into(), 1000);
            encode = declared_wide.ceil();
            decode = Fraction::new((declared * codec_cost.dec).into(), 1000).ceil();
            let exact_bytes = encoded.plus(sent_input, 1);
            bytes = bytes.add(exact_bytes);
            let rate = u128::from(link.rates[0]);
            time = time
                .plus(link.fixed + link.delay, 1)
                .plus(declared * (codec_cost.enc + codec_cost.dec), 1000)
                .add(Fraction::new(exact_bytes.num * 1_000_000_000, exact_bytes.den * rate));
            if !answers.is_empty() {
                down_bytes = answers.iter().map(|&layer| i.output_bytes[layer]).sum();
                let transfer =
                    Fraction::new(u128::from(down_bytes) * 1_000_000_000, link.rates[1].into());
                busy[1] = link.fixed + transfer.ceil();
                down = busy[1] + link.delay;
                bytes = bytes.plus(down_bytes, 1);
                time = time.plus(link.fixed + link.delay, 1).add(transfer);
            }
        }
        let mut memory = BTreeMap::new();
        for &device in &used {
            let needed = self.memory(devices, device, away);
            if i.memory[device].is_some_and(|limit| needed > limit) {
                return None;
            }
            memory.insert(DEVICES[device].to_owned(), needed);
        }
        let rest = prepare[0] + prepare[1] + encode + decode + down;
        let busiest =
            [prepare[0] + compute[0] + encode, prepare[1] + compute[1] + decode, busy[0], busy[1]];
        let named = |layer: usize| (i.names[layer].clone(), DEVICES[devices[layer]].to_owned());
        let report = Report {
            mapping: all.clone().map(named).collect(),
            input: encoding.clone(),
            codec: codec_cost.name.clone(),
            latency: compute[0] + up + compute[1] + rest,
            period: busiest.into_iter().max().unwrap(),
            bytes: up_bytes + down_bytes,
            four: [compute[0], up, compute[1], rest],
            memory,
        };
        let stages = used.len();
        Some(Plan {
            time,
            stages,
            bytes,
            devices: devices.to_vec(),
            options: [input, codec],
            report,
        })
    }

    /// Parameters, and the most that is alive while any layer of the stage runs.
    fn memory(&self, devices: &[usize], device: usize, away: bool) -> u64 {
        let i = &self.0;
        let stage: Vec<usize> = (0..i.names.len()).filter(|&l| devices[l] == device).collect();
        let parameters: u64 = stage.iter().map(|&layer| i.parameter_bytes[layer]).sum();
        // (size, first step at which it is there, last step at which it is there)
        let mut values: Vec<(u64, usize, usize)> = Vec::new();
        let end = stage.len();
        let step_of_last_reader = |reads: &dyn Fn(usize) -> bool| {
            stage.iter().rposition(|&layer| reads(layer)).map_or(0, |step| step)
        };
        let input_size = i.inputs.iter().find(|(name, _)| name == "fp32").unwrap().1.unwrap_or(0);
        let input_read = stage.iter().any(|&layer| i.reads_input[layer]);
        if input_read || device == 0 && away {
            let last = step_of_last_reader(&|layer| i.reads_input[layer]);
            values.push((input_size, 0, if device == 0 && away { end } else { last }));
        }
        for layer in 0..i.names.len() {
            let reads = |reader: usize| i.reads[reader].contains(&layer);
            let read_here = stage.iter().any(|&reader| reads(reader));
            let last = step_of_last_reader(&reads);
            match stage.iter().position(|&made| made == layer) {
                Some(step) => {
                    let sent = (0..i.names.len()).any(|r| devices[r] != device && reads(r));
                    let last = if sent || i.is_output[layer] { end } else { last.max(step) };
                    values.push((i.output_bytes[layer], step, last));
                }
                None if read_here => values.push((i.output_bytes[layer], 0, last)),
                None => {}
            }
        }
        let alive = |step: usize| -> u64 {
            values.iter().filter(|(_, from, to)| (*from..=*to).contains(&step)).map(|v| v.0).sum()
        };
        parameters + (0..end).map(alive).max().unwrap_or(0)
    }
}

fn least(plans: &[Plan]) -> Option<Report> {
    plans.iter().min_by(|a, b| a.compare(b)).map(|plan| plan.report.clone())
}
