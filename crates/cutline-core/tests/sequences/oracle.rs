//! Every sequence of stages and scatter groups of a small `costs.json` on several devices, costed by
//! the sentences of `docs/cost-model.md`.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Microwatt, while it computes and while it waits.
    power: u64,
    idle_power: u64,
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
    /// From one frame of a source to its next, where idle power counts.
    interval: Option<u64>,
}

/// One way to run a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Device of each layer.
    pub(crate) on: Vec<usize>,
    /// Devices in the order of a frame's way, helpers apart.
    pub(crate) order: Vec<usize>,
    /// Helpers, each with the device that joins, ascending.
    pub(crate) helpers: Vec<(usize, usize)>,
    pub(crate) input: usize,
    /// Codec of what each device sends.
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
                    idle_power: unit(&device["idle_power"], "uW").unwrap_or(0),
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
        let frames_per_megasecond = millionths(&workload["frames_per_second"]).unwrap();
        let counts_idle = platform["device"][0]["idle_power"].is_string();
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
            interval: counts_idle.then_some(1_000_000_000_000_000 / frames_per_megasecond),
            frames_per_megasecond,
            electricity: millionths(&workload["electricity"]).unwrap(),
            links,
            codecs,
            inputs,
            devices,
            names,
        }
    }

    /// Every plan that can be run and fits, with what it costs; with `scatter`, those with helpers too.
    pub(crate) fn all(&self, scatter: bool) -> Vec<(Plan, Values)> {
        let fitting = self.every(scatter).into_iter().filter(|(_, _, excess)| *excess == 0);
        fitting.map(|(plan, values, _)| (plan, values)).collect()
    }

    /// The same whether it fits or not, and by how much a memory is exceeded at most.
    pub(crate) fn every(&self, scatter: bool) -> Vec<(Plan, Values, u64)> {
        let (layers, devices) = (self.names.len(), self.devices.len());
        let blocks = if scatter { self.blocks() } else { Vec::new() };
        let mut all = Vec::new();
        for number in 0..devices.pow(layers as u32) {
            let on: Vec<usize> =
                (0..layers).map(|layer| number / devices.pow(layer as u32) % devices).collect();
            for helpers in roles(&on, devices, !blocks.is_empty()) {
                let line = joined(&on, &helpers);
                for order in orders(&line, devices) {
                    let bare =
                        Plan { on: on.clone(), order, helpers: helpers.clone(), ..Plan::default() };
                    let Some(steps) = self.steps(&bare, &blocks) else { continue };
                    let sends = |device: &usize| {
                        let last = bare.order.last() == Some(device);
                        helpers.iter().any(|(helper, joiner)| helper == device || joiner == device)
                            || bare.order.contains(device) && !last
                    };
                    let senders: Vec<usize> = (0..devices).filter(sends).collect();
                    for input in 0..self.inputs.len() {
                        for choice in 0..self.codecs.len().pow(senders.len() as u32) {
                            let mut codecs = vec![0; devices];
                            for (k, &device) in senders.iter().enumerate() {
                                codecs[device] =
                                    choice / self.codecs.len().pow(k as u32) % self.codecs.len();
                            }
                            let plan = Plan { input, codecs, ..bare.clone() };
                            let cost = self.cost(&plan, &steps);
                            all.extend(cost.map(|(values, excess)| (plan, values, excess)));
                        }
                    }
                }
            }
        }
        all
    }

    /// Whether a plan of these values takes every frame before the next comes; where idle power does
    /// not count, nobody asks.
    pub(crate) fn keeps_up(&self, values: &Values) -> bool {
        self.interval.is_none_or(|interval| values[1] <= interval)
    }

    /// What a plan costs; `None` where it cannot be run or does not fit.
    pub(crate) fn values(&self, plan: &Plan) -> Option<Values> {
        let (values, excess) = self.cost(plan, &self.steps(plan, &self.blocks())?)?;
        (excess == 0).then_some(values)
    }

    /// The steps of a plan; `None` where it is none.
    fn steps(&self, plan: &Plan, blocks: &[Block]) -> Option<Vec<Step>> {
        let layers = 0..self.names.len();
        let line = joined(&plan.on, &plan.helpers);
        let place = |layer: usize| plan.order.iter().position(|&d| d == line[layer]).unwrap();
        let forward =
            layers.clone().all(|l| self.reads[l].iter().all(|&from| place(from) <= place(l)));
        if !forward || plan.order.contains(&0) && plan.order[0] != 0 {
            return None;
        }
        for &(helper, _) in &plan.helpers {
            let runs: Vec<usize> = layers.clone().filter(|&l| plan.on[l] == helper).collect();
            let whole = |block: &&Block| {
                runs.iter().all(|l| block.branches.iter().any(|branch| branch.contains(l)))
                    && block.branches.iter().all(|branch| {
                        let here = branch.iter().filter(|l| runs.contains(l)).count();
                        here == 0 || here == branch.len()
                    })
            };
            if helper == 0
                || runs.iter().any(|&l| self.output[l])
                || !blocks.iter().any(|b| whole(&b))
            {
                return None;
            }
        }
        let mut steps = Vec::new();
        for &device in &plan.order {
            let mut rest: Vec<usize> = layers.clone().filter(|&l| line[l] == device).collect();
            for block in blocks {
                let helped =
                    |&l: &usize| plan.helpers.iter().any(|(helper, _)| *helper == plan.on[l]);
                if !block.all.iter().any(|l| helped(l) && line[*l] == device) {
                    continue;
                }
                let whole = block.all.iter().all(|&l| line[l] == device);
                let made = match block.enters {
                    Some(enters) => rest.contains(&enters),
                    None => device == 0,
                };
                if !whole || !made {
                    return None;
                }
                let before: Vec<usize> =
                    rest.iter().copied().filter(|l| block.before.contains(l)).collect();
                if !before.is_empty() {
                    steps.push(Step { joiner: None, members: vec![(device, before)] });
                }
                let mut members = Vec::new();
                for member in
                    [device].into_iter().chain((0..self.devices.len()).filter(|&d| d != device))
                {
                    let branches = block.branches.iter().flatten().copied();
                    let mut runs: Vec<usize> = branches.filter(|&l| plan.on[l] == member).collect();
                    runs.sort();
                    if !runs.is_empty() {
                        members.push((member, runs));
                    }
                }
                rest.retain(|l| {
                    !block.before.contains(l) && members.iter().all(|(_, m)| !m.contains(l))
                });
                steps.push(Step { joiner: Some(device), members });
            }
            steps.push(Step { joiner: None, members: vec![(device, rest)] });
        }
        Some(steps)
    }

    fn cost(&self, plan: &Plan, steps: &[Step]) -> Option<(Values, u64)> {
        let devices = self.devices.len();
        let layers = 0..self.names.len();
        let encoding = &self.inputs[plan.input].0;
        let place = |layer: usize| {
            steps.iter().position(|s| s.members.iter().any(|(_, m)| m.contains(&layer))).unwrap()
        };
        let reads_input = |layer: &usize| self.reads[*layer].is_empty();
        let mut tally = Tally::new(self, plan);
        let mut latency = 0;
        let mut at = 0;
        for (k, step) in steps.iter().enumerate() {
            if let Some(joiner) = step.joiner {
                let mut slowest = 0;
                for (device, runs) in &step.members {
                    let mut time = tally.stage(*device, runs)?;
                    if *device != joiner {
                        let enters =
                            runs.iter().flat_map(|&l| &self.reads[l]).find(|l| !runs.contains(l));
                        time += tally.message(
                            joiner,
                            *device,
                            enters.map_or(0, |&l| self.bytes[l]),
                            enters.is_none(),
                        )?;
                        let leaves = |&&l: &&usize| {
                            layers.clone().any(|r| !runs.contains(&r) && self.reads[r].contains(&l))
                        };
                        let back = runs.iter().filter(leaves).map(|&l| self.bytes[l]).sum();
                        time += tally.message(*device, joiner, back, false)?;
                    }
                    slowest = slowest.max(time);
                }
                latency += slowest;
                continue;
            }
            let (device, runs) = &step.members[0];
            if *device != at {
                let crosses = |&layer: &usize| {
                    place(layer) < k
                        && layers.clone().any(|r| place(r) >= k && self.reads[r].contains(&layer))
                };
                let declared = layers.clone().filter(crosses).map(|layer| self.bytes[layer]).sum();
                let input = layers.clone().any(|l| place(l) >= k && reads_input(&l));
                latency += tally.message(at, *device, declared, input)?;
                let answers: Vec<usize> = layers
                    .clone()
                    .filter(|&l| self.output[l] && place(l) >= k && plan.on[l] != 0)
                    .collect();
                if !answers.is_empty() {
                    let size = answers.iter().map(|&layer| self.bytes[layer]).sum();
                    latency += tally.travel(*device, at, size)?;
                }
            }
            latency += tally.stage(*device, runs)?;
            at = *device;
        }
        let here = layers.clone().any(|l| plan.on[l] == 0 && reads_input(&l));
        let mut prepare = 0;
        if here || tally.input_crossed && encoding == "fp32" {
            prepare += self.prepare["fp32"][0];
        }
        if tally.input_crossed && encoding != "fp32" {
            prepare += self.prepare[encoding][0];
        }
        latency += prepare;
        let Tally { mut busy, given, radio, direction, card, bytes, mut money, .. } = tally;
        busy[0] += prepare;
        let period =
            busy.iter().chain(direction.values()).chain(card.values()).copied().max().unwrap();
        let mut energies = Vec::new();
        for device in 0..devices {
            let used = plan.on.contains(&device) || device == 0;
            let waits = match self.interval {
                Some(interval) if used => self.waits(device, busy[device], interval.max(period)),
                _ => 0,
            };
            let Device { power, idle_power, .. } = &self.devices[device];
            let own = given[device].1
                + (u128::from(*power) * u128::from(busy[device] - given[device].0)
                    + u128::from(*idle_power) * u128::from(waits))
                .div_ceil(1_000_000) as u64;
            if used {
                money += self.electricity(device, own);
                money += self.rent(device, busy[device]);
            }
            energies.push(own + radio[device]);
        }
        let mut hosts: BTreeMap<&str, u64> = BTreeMap::new();
        for device in 0..devices {
            *hosts.entry(&self.devices[device].host).or_default() += self.memory(steps, device);
        }
        let excess = self.devices.iter().map(|device| {
            let used = hosts.get(device.host.as_str()).copied().unwrap_or(0);
            device.memory.map_or(0, |memory| used.saturating_sub(memory))
        });
        let excess = excess.max().unwrap();
        let worst = energies.iter().copied().max().unwrap();
        let memory = hosts.values().copied().max().unwrap();
        let stages = steps.iter().map(|step| step.members.len() as u64).sum();
        let values = [latency, period, energies.iter().sum(), worst, memory, money, stages, bytes];
        Some((values, excess))
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

    /// For how long a used device waits after a frame until the next, or the share of a frame in the
    /// waiting of the instances that are rented for all users.
    fn waits(&self, device: usize, busy: u64, interval: u64) -> u64 {
        let share = match self.devices[device].rent {
            Some(_) => (u128::from(interval) * self.instances(device, busy))
                .div_ceil(u128::from(self.users)) as u64,
            None => interval,
        };
        share.saturating_sub(busy)
    }

    /// How many of a rented device serve all users; at least one.
    fn instances(&self, device: usize, busy: u64) -> u128 {
        let load = u128::from(self.frames_per_megasecond) * u128::from(busy);
        let per_instance = match (self.devices[device].users_per_instance, load) {
            (Some(users), _) => u128::from(users),
            (None, 0) => return 1,
            (None, load) => 1_000_000_000_000_000 / load,
        };
        let users = u128::from(self.users);
        match per_instance {
            0 => users * load.div_ceil(1_000_000_000_000_000),
            users_each => users.div_ceil(users_each),
        }
    }

    fn rent(&self, device: usize, busy: u64) -> u64 {
        let instances = self.instances(device, busy);
        let device = &self.devices[device];
        let mut money = 0;
        if let (Some(rent), true) = (device.rent, busy > 0) {
            money += (u128::from(rent) * instances) as u64;
        }
        if let Some((price, months)) = device.purchase {
            money += (price * self.users).div_ceil(months);
        }
        money
    }

    /// Parameters of all stages of a device, and the most that is alive at once in one of them.
    fn memory(&self, steps: &[Step], device: usize) -> u64 {
        let (mut parameters, mut most) = (0, 0);
        for (k, step) in steps.iter().enumerate() {
            for (_, runs) in step.members.iter().filter(|(member, _)| *member == device) {
                parameters += runs.iter().map(|&layer| self.parameters[layer]).sum::<u64>();
                most =
                    most.max(self.live(steps, k, runs, step.joiner.is_some_and(|j| j != device)));
            }
        }
        parameters + most
    }

    /// The most that is alive at once while a stage of step `k` runs these layers one by one.
    fn live(&self, steps: &[Step], k: usize, runs: &[usize], helps: bool) -> u64 {
        let place = |layer: usize| {
            steps.iter().position(|s| s.members.iter().any(|(_, m)| m.contains(&layer))).unwrap()
        };
        // (size, made at step, last needed at step): step i runs the i-th layer; `end` is after all.
        let end = runs.len();
        let mut values: Vec<(u64, usize, usize)> = Vec::new();
        let mut value =
            |size: u64, made: Option<usize>, before: bool, output: bool, readers: &[usize]| {
                let read = runs.iter().rposition(|l| readers.contains(l));
                let later = readers.iter().any(|&l| place(l) > k);
                // A helper gets what it reads; whoever goes on has all that is still to be read.
                let there = before && (read.is_some() || later && !helps);
                let Some(start) = made.or(there.then_some(0)) else { return };
                let stays = later && (made.is_some() || !helps) || made.is_some() && output;
                values.push((size, start, if stays { end } else { read.unwrap_or(start) }));
            };
        let layers = 0..self.names.len();
        let input: Vec<usize> = layers.clone().filter(|&l| self.reads[l].is_empty()).collect();
        let size = self.inputs.iter().find(|(name, _)| name == "fp32").unwrap().1;
        value(size, None, true, false, &input);
        for layer in layers.clone() {
            let readers: Vec<usize> =
                layers.clone().filter(|&l| self.reads[l].contains(&layer)).collect();
            let made = runs.iter().position(|&l| l == layer);
            // Results of helpers may be there from the beginning.
            let before = place(layer) < k || place(layer) == k && made.is_none() && !helps;
            value(self.bytes[layer], made, before, self.output[layer], &readers);
        }
        let alive = |step: usize| -> u64 {
            values.iter().filter(|(_, from, to)| (*from..=*to).contains(&step)).map(|v| v.0).sum()
        };
        (0..end).map(alive).max().unwrap_or(0)
    }

    /// All that a layer depends on, and itself.
    fn ancestors(&self, layer: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([layer]);
        for &from in &self.reads[layer] {
            all.extend(self.ancestors(from));
        }
        all
    }

    /// The blocks between values over which everything passes, in order.
    fn blocks(&self) -> Vec<Block> {
        let layers = 0..self.names.len();
        let mut borders: Vec<(BTreeSet<usize>, Option<usize>)> = vec![(BTreeSet::new(), None)];
        for layer in layers.clone() {
            let before = self.ancestors(layer);
            let alone = layers.clone().filter(|l| !before.contains(l)).all(|l| {
                !self.reads[l].is_empty()
                    && self.reads[l].iter().all(|from| *from == layer || !before.contains(from))
            });
            if alone {
                borders.push((before, Some(layer)));
            }
        }
        borders.sort_by_key(|(before, _)| before.len());
        let mut blocks = Vec::new();
        for pair in borders.windows(2) {
            let (before, enters) = pair[0].clone();
            let all: Vec<usize> = pair[1].0.difference(&before).copied().collect();
            let firsts: Vec<usize> = all
                .iter()
                .copied()
                .filter(|&l| self.reads[l].iter().all(|from| !all.contains(from)))
                .collect();
            let branch = |&first: &usize| -> Vec<usize> {
                let of = |l: &usize| {
                    let needs = self.ancestors(*l);
                    firsts.iter().filter(|f| needs.contains(f)).eq([&first])
                };
                all.iter().copied().filter(|l| Some(*l) != pair[1].1 && of(l)).collect()
            };
            let branches = firsts.iter().map(branch).filter(|b| !b.is_empty()).collect();
            blocks.push(Block { enters, before, all, branches });
        }
        blocks
    }
}

/// What devices, links and cards do for one frame.
struct Tally<'a> {
    instance: &'a Instance,
    plan: &'a Plan,
    busy: Vec<u64>,
    given: Vec<(u64, u64)>,
    radio: Vec<u64>,
    direction: BTreeMap<(usize, usize), u64>,
    card: BTreeMap<(String, String, bool), u64>,
    bytes: u64,
    money: u64,
    input_crossed: bool,
}

impl<'a> Tally<'a> {
    fn new(instance: &'a Instance, plan: &'a Plan) -> Self {
        let devices = instance.devices.len();
        Tally {
            instance,
            plan,
            busy: vec![0; devices],
            given: vec![(0, 0); devices],
            radio: vec![0; devices],
            direction: BTreeMap::new(),
            card: BTreeMap::new(),
            bytes: 0,
            money: 0,
            input_crossed: false,
        }
    }

    /// Time of a stage, the making of the input tensor elsewhere than on the source included.
    fn stage(&mut self, device: usize, runs: &[usize]) -> Option<u64> {
        let i = self.instance;
        let mut time = i.devices[device].call;
        for &layer in runs {
            time += i.time[layer][device]?;
            if let Some(energy) = i.energy[layer][device] {
                self.given[device].0 += i.time[layer][device]?;
                self.given[device].1 += energy;
            }
        }
        if device != 0 && runs.iter().any(|&layer| i.reads[layer].is_empty()) {
            time += i.prepare[&i.inputs[self.plan.input].0][device];
        }
        self.busy[device] += time;
        Some(time)
    }

    /// Time of values on their way in the sender's codec, and of the input in its encoding.
    fn message(&mut self, from: usize, to: usize, declared: u64, input: bool) -> Option<u64> {
        let i = self.instance;
        let codec = &i.codecs[self.plan.codecs[from]];
        let sent = (declared * codec.num).div_ceil(codec.den);
        let input_bytes = if input { i.inputs[self.plan.input].1 } else { 0 };
        self.input_crossed |= input;
        let [encode, decode] = [codec.enc, codec.dec].map(|ns| (declared * ns).div_ceil(1000));
        self.busy[from] += encode;
        self.busy[to] += decode;
        Some(encode + self.travel(from, to, sent + input_bytes)? + decode)
    }

    fn travel(&mut self, from: usize, to: usize, size: u64) -> Option<u64> {
        let i = self.instance;
        let link = i.links.iter().find(|l| l.ends == [from, to] || l.ends == [to, from])?;
        let end = usize::from(link.ends[0] != from);
        let wire =
            link.fixed + (u128::from(size) * 1_000_000_000).div_ceil(link.rates[end].into()) as u64;
        self.bytes += size;
        *self.direction.entry((from, to)).or_default() += wire;
        for (device, end, out) in [(from, end, true), (to, 1 - end, false)] {
            if let Some(name) = &link.cards[end] {
                let host = i.devices[device].host.clone();
                *self.card.entry((host, name.clone(), out)).or_default() += wire;
            }
            let energy = (u128::from(link.energy[end]) * u128::from(size)).div_ceil(1000) as u64;
            self.radio[device] += energy;
            self.money += i.electricity(device, energy);
        }
        Some(wire + link.delay)
    }
}

/// What happens at once: one stage, or the members of a scatter group and who joins them.
struct Step {
    joiner: Option<usize>,
    members: Vec<(usize, Vec<usize>)>,
}

/// Layers between two values over which everything passes.
struct Block {
    /// The layer that makes the first; `None`: it is the network's input.
    enters: Option<usize>,
    before: BTreeSet<usize>,
    all: Vec<usize>,
    branches: Vec<Vec<usize>>,
}

/// The mapping with every helper's layers on the device that joins.
fn joined(on: &[usize], helpers: &[(usize, usize)]) -> Vec<usize> {
    let joiner = |device: usize| helpers.iter().find(|(helper, _)| *helper == device);
    on.iter().map(|&device| joiner(device).map_or(device, |(_, joiner)| *joiner)).collect()
}

/// Every way to make some of the devices that run something helpers of others of them.
fn roles(on: &[usize], devices: usize, scatter: bool) -> Vec<Vec<(usize, usize)>> {
    let used: Vec<usize> = (0..devices).filter(|device| on.contains(device)).collect();
    let mut all: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
    for &device in used.iter().filter(|_| scatter) {
        let helping = all.iter().flat_map(|roles| {
            let joiners = used.iter().filter(|&&joiner| joiner != device);
            joiners.map(|&joiner| [roles.as_slice(), &[(device, joiner)]].concat())
        });
        all = all.iter().cloned().chain(helping).collect();
    }
    all.retain(|roles| roles.iter().all(|(_, joiner)| roles.iter().all(|(h, _)| h != joiner)));
    all
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
