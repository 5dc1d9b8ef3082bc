//! Every sequence of stages of a small `costs.json` on several devices, costed by the sentences of
//! `docs/cost-model.md`.

use std::collections::BTreeMap;

use serde_json::Value;

/// The six quantities of a plan, in the order of `Objective::ALL`, then its stages and its bytes.
pub(crate) type Values = [u64; 8];

pub(crate) struct Codec {
    num: u64,
    den: u64,
    enc: u64,
    dec: u64,
}

pub(crate) struct Link {
    ends: [usize; 2],
    fixed: u64,
    delay: u64,
    /// Bytes per second from the first end, from the second end.
    rates: [u64; 2],
    /// Picojoule per byte at each end.
    energy: [u64; 2],
    cards: [Option<String>; 2],
}

pub(crate) struct Device {
    pub(crate) name: String,
    host: String,
    memory: Option<u64>,
    /// Microwatt.
    power: u64,
    rent: Option<u64>,
    users_per_instance: Option<u64>,
    purchase: Option<(u64, u64)>,
    call: u64,
}

pub(crate) struct Instance {
    pub(crate) names: Vec<String>,
    pub(crate) devices: Vec<Device>,
    pub(crate) codecs: Vec<Codec>,
    pub(crate) inputs: Vec<(String, u64)>,
    reads: Vec<Vec<usize>>,
    output: Vec<bool>,
    bytes: Vec<u64>,
    parameters: Vec<u64>,
    time: Vec<Vec<Option<u64>>>,
    energy: Vec<Vec<Option<u64>>>,
    prepare: BTreeMap<String, Vec<u64>>,
    links: Vec<Link>,
    users: u64,
    frames_per_megasecond: u64,
    electricity: u64,
}

/// One way to run a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Device of each layer.
    pub(crate) on: Vec<usize>,
    /// Devices in the order of a frame's way.
    pub(crate) order: Vec<usize>,
    pub(crate) input: usize,
    /// Codec of what each device sends on.
    pub(crate) codecs: Vec<usize>,
}

fn unit(value: &Value, suffix: &str) -> Option<u64> {
    let text = value.as_str()?;
    Some(text.strip_suffix(suffix).unwrap().parse().unwrap())
}

/// A decimal number in millionths.
fn millionths(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    Some(format!("{whole}{fraction:0<6}").parse().unwrap())
}

impl Instance {
    pub(crate) fn read(costs: &Value, platform: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let layers = list(&costs["layers"]);
        let names: Vec<String> = layers.iter().map(|layer| text(&layer["name"])).collect();
        let at = |name: &Value| names.iter().position(|n| n == name.as_str().unwrap()).unwrap();
        let devices: Vec<Device> = list(&platform["device"])
            .iter()
            .map(|device| {
                let name = text(&device["name"]);
                Device {
                    host: device["host"].as_str().unwrap_or(&name).to_owned(),
                    memory: unit(&device["memory"], ""),
                    power: unit(&device["power"], "uW").unwrap(),
                    rent: millionths(&device["rent"]),
                    users_per_instance: device["users_per_instance"].as_u64(),
                    purchase: millionths(&device["purchase"]).zip(device["life_months"].as_u64()),
                    call: costs["call_ns"][&name].as_u64().unwrap_or(0),
                    name,
                }
            })
            .collect();
        let find = |name: &Value| devices.iter().position(|d| d.name == name.as_str().unwrap());
        let links = list(&platform["link"]).into_iter().map(|link| Link {
            ends: [find(&link["between"][0]).unwrap(), find(&link["between"][1]).unwrap()],
            fixed: unit(&link["fixed"], "ns").unwrap(),
            delay: unit(&link["delay"], "ns").unwrap(),
            rates: [
                unit(&link["up"], "mbit").unwrap() * 125_000,
                unit(&link["down"], "mbit").unwrap() * 125_000,
            ],
            energy: [0, 1].map(|end| unit(&link["energy"][end], "pJ/byte").unwrap()),
            cards: [0, 1].map(|end| {
                link["cards"][end].as_str().filter(|c| !c.is_empty()).map(str::to_owned)
            }),
        });
        let links = links.collect();
        let by_device = |table: &Value| -> Vec<Option<u64>> {
            devices.iter().map(|device| table[&device.name].as_u64()).collect()
        };
        let mut codecs = vec![Codec { num: 1, den: 1, enc: 0, dec: 0 }];
        for codec in list(&costs["codecs"]) {
            let number = |key: &str| codec[key].as_u64().unwrap();
            codecs.push(Codec {
                num: number("num"),
                den: number("den"),
                enc: number("enc_ns_per_kb"),
                dec: number("dec_ns_per_kb"),
            });
        }
        let outputs: Vec<usize> = list(&costs["outputs"]).iter().map(at).collect();
        let number = |key: &str| layers.iter().map(|layer| layer[key].as_u64().unwrap()).collect();
        let inputs: Vec<(String, u64)> = ["fp32", "uint8"]
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), costs["input"][name].as_u64()?)))
            .collect();
        let prepare = inputs.iter().map(|(name, _)| {
            let times = by_device(&costs["prepare_ns"][name]);
            (name.clone(), times.into_iter().map(|time| time.unwrap_or(0)).collect())
        });
        let workload = &platform["workload"];
        Instance {
            reads: layers
                .iter()
                .map(|layer| list(&layer["inputs"]).iter().map(at).collect())
                .collect(),
            output: (0..names.len()).map(|layer| outputs.contains(&layer)).collect(),
            bytes: number("output_bytes"),
            parameters: number("parameter_bytes"),
            time: layers.iter().map(|layer| by_device(&layer["time_ns"])).collect(),
            energy: layers.iter().map(|layer| by_device(&layer["energy_nj"])).collect(),
            prepare: prepare.collect(),
            users: workload["users"].as_u64().unwrap(),
            frames_per_megasecond: millionths(&workload["frames_per_second"]).unwrap(),
            electricity: millionths(&workload["electricity"]).unwrap(),
            links,
            codecs,
            inputs,
            devices,
            names,
        }
    }

    /// Every plan that can be run, with what it costs.
    pub(crate) fn all(&self) -> Vec<(Plan, Values)> {
        let (layers, devices) = (self.names.len(), self.devices.len());
        let mut all = Vec::new();
        for number in 0..devices.pow(layers as u32) {
            let on: Vec<usize> =
                (0..layers).map(|layer| number / devices.pow(layer as u32) % devices).collect();
            for order in orders(&on, devices) {
                let place = |layer: usize| order.iter().position(|&d| d == on[layer]).unwrap();
                let forward = (0..layers)
                    .all(|layer| self.reads[layer].iter().all(|&from| place(from) <= place(layer)));
                if !forward || (order.contains(&0) && order[0] != 0) {
                    continue;
                }
                for input in 0..self.inputs.len() {
                    let senders = order.len() - 1;
                    for choice in 0..self.codecs.len().pow(senders as u32) {
                        let mut codecs = vec![0; devices];
                        for (k, &device) in order[..senders].iter().enumerate() {
                            codecs[device] =
                                choice / self.codecs.len().pow(k as u32) % self.codecs.len();
                        }
                        let plan = Plan { on: on.clone(), order: order.clone(), input, codecs };
                        all.extend(self.values(&plan).map(|values| (plan, values)));
                    }
                }
            }
        }
        all
    }

    /// What a plan costs; `None` where it cannot be run or does not fit.
    pub(crate) fn values(&self, plan: &Plan) -> Option<Values> {
        let devices = self.devices.len();
        let (encoding, input_bytes) = &self.inputs[plan.input];
        let stage = |device: usize| -> Vec<usize> {
            (0..self.names.len()).filter(|&layer| plan.on[layer] == device).collect()
        };
        let place = |layer: usize| plan.order.iter().position(|&d| d == plan.on[layer]).unwrap();
        let reads_input = |layer: &usize| self.reads[*layer].is_empty();
        // Stations: the source even where it has no stage.
        let mut stations: Vec<Option<usize>> = (0..plan.order.len()).map(Some).collect();
        if plan.order[0] != 0 {
            stations.insert(0, None);
        }
        let device_of = |station: Option<usize>| station.map_or(0, |at| plan.order[at]);

        let mut busy = vec![0u64; devices];
        let mut worked = vec![false; devices];
        let mut given = vec![(0u64, 0u64); devices];
        for &device in &plan.order {
            worked[device] = true;
            busy[device] += self.devices[device].call;
            for layer in stage(device) {
                busy[device] += self.time[layer][device]?;
                if let Some(energy) = self.energy[layer][device] {
                    given[device].0 += self.time[layer][device]?;
                    given[device].1 += energy;
                }
            }
            if device != 0 && stage(device).iter().any(reads_input) {
                busy[device] += self.prepare[encoding][device];
            }
        }
        let here = stage(0).iter().any(reads_input);
        let mut input_crossed = false;
        let (mut latency, mut bytes, mut money) = (0u64, 0u64, 0u64);
        let mut direction: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let mut card: BTreeMap<(String, String, bool), u64> = BTreeMap::new();
        let mut radio = vec![0u64; devices];
        for hop in stations.windows(2) {
            let (from, to) = (device_of(hop[0]), device_of(hop[1]));
            let into = hop[1].unwrap();
            let link = self.links.iter().find(|l| l.ends == [from, to] || l.ends == [to, from])?;
            let codec = &self.codecs[plan.codecs[from]];
            let crosses = |&layer: &usize| {
                place(layer) < into
                    && (0..self.names.len())
                        .any(|reader| place(reader) >= into && self.reads[reader].contains(&layer))
            };
            let declared: u64 =
                (0..self.names.len()).filter(crosses).map(|layer| self.bytes[layer]).sum();
            let input = (0..self.names.len()).any(|l| place(l) >= into && reads_input(&l));
            input_crossed |= input;
            let sent =
                if input { *input_bytes } else { 0 } + (declared * codec.num).div_ceil(codec.den);
            let sender_codes = hop[0].is_some();
            if sender_codes {
                busy[from] += (declared * codec.enc).div_ceil(1000);
                busy[to] += (declared * codec.dec).div_ceil(1000);
            }
            let answers: Vec<usize> = (0..self.names.len())
                .filter(|&layer| self.output[layer] && place(layer) >= into && plan.on[layer] != 0)
                .collect();
            let mut travel = |from: usize, to: usize, size: u64| {
                let end = usize::from(link.ends[0] != from);
                let wire = link.fixed
                    + (u128::from(size) * 1_000_000_000).div_ceil(link.rates[end].into()) as u64;
                latency += wire + link.delay;
                bytes += size;
                *direction.entry((from, to)).or_default() += wire;
                for (device, end, out) in [(from, end, true), (to, 1 - end, false)] {
                    if let Some(name) = &link.cards[end] {
                        *card
                            .entry((self.devices[device].host.clone(), name.clone(), out))
                            .or_default() += wire;
                    }
                    let energy =
                        (u128::from(link.energy[end]) * u128::from(size)).div_ceil(1000) as u64;
                    radio[device] += energy;
                    money += self.electricity(device, energy);
                }
            };
            travel(from, to, sent);
            if !answers.is_empty() {
                travel(to, from, answers.iter().map(|&layer| self.bytes[layer]).sum());
            }
        }
        if here || input_crossed && encoding == "fp32" {
            busy[0] += self.prepare["fp32"][0];
        }
        if input_crossed && encoding != "fp32" {
            busy[0] += self.prepare[encoding][0];
        }
        latency += busy.iter().sum::<u64>();
        let period =
            busy.iter().chain(direction.values()).chain(card.values()).copied().max().unwrap();
        let mut energies = Vec::new();
        for device in 0..devices {
            let own = given[device].1
                + (u128::from(self.devices[device].power)
                    * u128::from(busy[device] - given[device].0))
                .div_ceil(1_000_000) as u64;
            if worked[device] || device == 0 {
                money += self.electricity(device, own);
                money += self.rent(device, busy[device]);
            }
            energies.push(own + radio[device]);
        }
        let mut hosts: BTreeMap<&str, u64> = BTreeMap::new();
        for &device in &plan.order {
            *hosts.entry(&self.devices[device].host).or_default() += self.memory(plan, device);
        }
        for device in &self.devices {
            let used = hosts.get(device.host.as_str()).copied().unwrap_or(0);
            if device.memory.is_some_and(|memory| used > memory) {
                return None;
            }
        }
        let worst = energies.iter().copied().max().unwrap();
        let memory = hosts.values().copied().max().unwrap();
        let stages = plan.order.len() as u64;
        Some([latency, period, energies.iter().sum(), worst, memory, money, stages, bytes])
    }

    fn electricity(&self, device: usize, energy: u64) -> u64 {
        if self.devices[device].rent.is_some() {
            return 0;
        }
        // Frames of all users in 730 hours, in millionths; 3.6e15 nJ are a kWh.
        let frames = u128::from(self.frames_per_megasecond) * u128::from(self.users) * 730 * 3600;
        let energy = frames * u128::from(energy) / 1_000_000;
        (energy * u128::from(self.electricity)).div_ceil(3_600_000_000_000_000) as u64
    }

    fn rent(&self, device: usize, busy: u64) -> u64 {
        let device = &self.devices[device];
        let mut money = 0;
        if let (Some(rent), true) = (device.rent, busy > 0) {
            let load = u128::from(self.frames_per_megasecond) * u128::from(busy);
            let per_instance = match device.users_per_instance {
                Some(users) => u128::from(users),
                None => 1_000_000_000_000_000 / load,
            };
            let users = u128::from(self.users);
            let instances = match per_instance {
                0 => users * load.div_ceil(1_000_000_000_000_000),
                users_each => users.div_ceil(users_each),
            };
            money += (u128::from(rent) * instances) as u64;
        }
        if let Some((price, months)) = device.purchase {
            money += (price * self.users).div_ceil(months);
        }
        money
    }

    /// Parameters, and the most that is alive at once while the stage runs.
    fn memory(&self, plan: &Plan, device: usize) -> u64 {
        let at = plan.order.iter().position(|&d| d == device).unwrap();
        let place = |layer: usize| plan.order.iter().position(|&d| d == plan.on[layer]).unwrap();
        let layers: Vec<usize> = (0..self.names.len()).filter(|&l| plan.on[l] == device).collect();
        let parameters: u64 = layers.iter().map(|&layer| self.parameters[layer]).sum();
        let read_from = |value: usize, from: usize| {
            (0..self.names.len()).any(|l| place(l) >= from && self.reads[l].contains(&value))
        };
        // (size, made at step, last needed at step): step k runs the k-th layer; `end` is after all.
        let end = layers.len();
        let last_read = |reads: &dyn Fn(usize) -> bool| layers.iter().rposition(|&l| reads(l));
        let mut values: Vec<(u64, usize, usize)> = Vec::new();
        let input_on = |from: usize| {
            (0..self.names.len()).any(|l| place(l) >= from && self.reads[l].is_empty())
        };
        if input_on(at) {
            let size = self.inputs.iter().find(|(name, _)| name == "fp32").unwrap().1;
            let until = match (input_on(at + 1), last_read(&|l| self.reads[l].is_empty())) {
                (true, _) => end,
                (false, read) => read.unwrap_or(0),
            };
            values.push((size, 0, until));
        }
        for value in 0..self.names.len() {
            let received = place(value) < at && read_from(value, at);
            let made = layers.iter().position(|&layer| layer == value);
            let (Some(start), true) = (made.or(received.then_some(0)), received || made.is_some())
            else {
                continue;
            };
            let stays = read_from(value, at + 1) || made.is_some() && self.output[value];
            let read = last_read(&|l| self.reads[l].contains(&value));
            let until = if stays { end } else { read.unwrap_or(start) };
            values.push((self.bytes[value], start, until));
        }
        let alive = |step: usize| -> u64 {
            values.iter().filter(|(_, from, to)| (*from..=*to).contains(&step)).map(|v| v.0).sum()
        };
        parameters + (0..layers.len()).map(alive).max().unwrap_or(0)
    }
}

/// Every order of the devices that run something.
fn orders(on: &[usize], devices: usize) -> Vec<Vec<usize>> {
    let used: Vec<usize> = (0..devices).filter(|device| on.contains(device)).collect();
    let mut all = vec![Vec::new()];
    for _ in 0..used.len() {
        let longer = all.iter().flat_map(|order: &Vec<usize>| {
            used.iter().filter(|device| !order.contains(device)).map(|&device| {
                let mut order = order.clone();
                order.push(device);
                order
            })
        });
        all = longer.collect();
    }
    all
}
