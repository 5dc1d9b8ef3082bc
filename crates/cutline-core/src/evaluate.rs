//! What a plan costs, part by part, by the rules of `docs/cost-model.md`.
//!
//! Evaluation knows any number of stages in sequence, devices visited again included, and scatter
//! groups. It is a pure function of the table: every message is rounded up once, nothing is a float.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    cost::{Costs, EngineOption, InputEncoding, TENSOR},
    dag::{Dag, FlowId},
    partition::{
        Helper, Hop, Mapping, Misplaced, Partition, ScatterFault, Stage, derive_with_helpers,
    },
    platform::DeviceId,
    units::{Bytes, Money, Nanos},
};

mod energy;
mod memory;
#[cfg(test)]
mod scattered;
mod settle;

pub use energy::{Bill, EnergyUse, Rented, bill, rents};
pub(crate) use energy::{Work, device_energy, device_money, electricity, message_energy};
pub use memory::{MemoryUse, memory};
pub use settle::{Settled, settle, with_engines};

/// The choices of a plan besides the mapping, as positions in [`Costs`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// Engine option of each device.
    pub engines: Vec<usize>,
    /// Encoding of the network's input where it crosses.
    pub input: usize,
    /// Codec of the other values that each device sends on.
    pub codecs: Vec<usize>,
    /// Devices in the order in which a frame visits them; empty: as follows from the mapping.
    pub order: Vec<DeviceId>,
    /// Devices that run branches of a block for another device, each with that one, ascending; they
    /// are not in the order.
    pub helpers: Vec<Helper>,
}

impl Setting {
    /// The first engine of every device and the first codec, in the order of the mapping.
    pub fn first(costs: &Costs) -> Self {
        let devices = costs.devices().len();
        Setting {
            engines: vec![0; devices],
            input: 0,
            codecs: vec![0; devices],
            order: Vec::new(),
            helpers: Vec::new(),
        }
    }

    /// Stages and messages of a mapping under it; an error where a helper cannot be one.
    pub fn partition(&self, dag: &Dag, mapping: &Mapping) -> Result<Partition, Misplaced> {
        derive_with_helpers(dag, mapping, &self.order, &self.helpers)
    }
}

/// What a part of a frame's time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// Making the input from a picture, or the tensor from what travelled.
    Prepare,
    /// Running a stage.
    Compute,
    /// Encoding the values of a cut.
    Encode,
    /// A message on its way to the next stage.
    Send,
    /// Decoding the values of a cut.
    Decode,
    /// An answer on its way back.
    Return,
}

/// One part of a frame's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What happens.
    pub kind: PartKind,
    /// Where it happens, or who sends.
    pub device: DeviceId,
    /// Who receives; `None` for what happens on one device.
    pub to: Option<DeviceId>,
    /// How long it takes.
    pub nanos: Nanos,
    /// Bytes that travel; 0 for what happens on one device.
    pub bytes: Bytes,
    /// Whether it happens beside something slower, so that the frame does not wait for it.
    pub beside: bool,
}

/// What a plan costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// One frame in an empty system: the sum of the parts that it waits for.
    pub latency: Nanos,
    /// The same by the affine costs of links that solvers see; differs only under measured tables.
    pub solver_latency: Nanos,
    /// The busiest resource's time per frame.
    pub period: Nanos,
    /// Everything that happens to a frame, in order; members of a scatter group one after another.
    pub parts: Vec<Part>,
    /// Bytes over all links, answers included.
    pub bytes: Bytes,
    /// Memory of each device that runs a stage.
    pub memory: Vec<MemoryUse>,
    /// Energy of each device that does anything; `None` where one of them has an unknown power.
    pub energy: Option<Vec<EnergyUse>>,
    /// Cost for a month; `None` where the platform names no workload or no price.
    pub money: Option<Money>,
}

/// Why a mapping has no cost: it cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum EvaluateError {
    #[error(
        "device `{device}` with engine `{engine}` has no time for group `{group}`: it cannot run it"
    )]
    CannotRun { device: String, engine: String, group: String },
    #[error("no link between `{from}` and `{to}` is declared")]
    NoLink { from: String, to: String },
    #[error("value `{value}` would cross from `{from}` to `{to}`, but its size is not known")]
    UnknownSize { value: String, from: String, to: String },
    #[error("`{helper}` cannot run a part of what `{joiner}` runs at the same time: {why}")]
    Helper { helper: String, joiner: String, why: ScatterFault },
}

impl Evaluation {
    /// Stage times on the source.
    pub fn edge_compute(&self) -> Nanos {
        self.sum(|part| part.kind == PartKind::Compute && part.device == DeviceId::SOURCE)
    }

    /// Messages on their way to the next stage.
    pub fn upload(&self) -> Nanos {
        self.sum(|part| part.kind == PartKind::Send)
    }

    /// Stage times on all other devices.
    pub fn cloud_compute(&self) -> Nanos {
        self.sum(|part| part.kind == PartKind::Compute && part.device != DeviceId::SOURCE)
    }

    /// Everything else: preparation, codecs, answers.
    pub fn rest(&self) -> Nanos {
        self.sum(|part| !matches!(part.kind, PartKind::Compute | PartKind::Send))
    }

    /// Memory of the host that needs most.
    pub fn worst_memory(&self, costs: &Costs) -> Bytes {
        let mut hosts: BTreeMap<usize, Bytes> = BTreeMap::new();
        for used in &self.memory {
            *hosts.entry(costs.device(used.device).host).or_default() += used.bytes;
        }
        hosts.into_values().max().unwrap_or_default()
    }

    fn sum(&self, which: impl Fn(&Part) -> bool) -> Nanos {
        let waited = self.parts.iter().filter(|part| !part.beside && which(part));
        waited.map(|part| part.nanos).sum()
    }
}

/// What a mapping costs under a setting. O(flows x stages).
pub fn evaluate(
    dag: &Dag,
    costs: &Costs,
    mapping: &Mapping,
    setting: &Setting,
) -> Result<Evaluation, EvaluateError> {
    let frame = Frame { dag, costs, setting };
    let partition = setting.partition(dag, mapping).map_err(|misplaced| {
        let Misplaced { helper, joiner, why } = misplaced;
        EvaluateError::Helper { helper: frame.name(helper), joiner: frame.name(joiner), why }
    })?;
    let tracks = frame.tracks(&partition)?;
    let solver_latency = latency(&tracks, |part| frame.solver_nanos(part));
    let parts = in_order(tracks);
    let period = frame.period(&parts);
    // A plan that does not keep up takes the next frame as soon as it can.
    let interval = costs.frame_interval().map(|interval| interval.max(period));
    let energy = energy::energy(costs, &partition, setting, &parts, interval);
    let money = energy::money(costs, &partition, setting, &parts, interval);
    Ok(Evaluation {
        latency: parts.iter().filter(|part| !part.beside).map(|part| part.nanos).sum(),
        solver_latency,
        period,
        bytes: parts.iter().map(|part| part.bytes).sum(),
        memory: memory(dag, costs, &partition, setting),
        parts,
        energy,
        money,
    })
}

/// What happens one after another, each with the tracks that run at the same time in it.
type Tracks = Vec<Vec<Vec<Part>>>;

fn latency(tracks: &Tracks, nanos: impl Fn(&Part) -> Nanos) -> Nanos {
    let slowest = |together: &Vec<Vec<Part>>| {
        together.iter().map(|track| track.iter().map(&nanos).sum()).max().unwrap_or_default()
    };
    tracks.iter().map(slowest).sum::<Nanos>()
}

/// The parts of all tracks; those of the first slowest track of several are what is waited for.
fn in_order(tracks: Tracks) -> Vec<Part> {
    let time = |track: &Vec<Part>| track.iter().map(|part| part.nanos).sum::<Nanos>();
    let mut parts = Vec::new();
    for together in tracks {
        let times: Vec<Nanos> = together.iter().map(time).collect();
        let slowest = times.iter().max().and_then(|most| times.iter().position(|t| t == most));
        for (at, track) in together.into_iter().enumerate() {
            let beside = Some(at) != slowest;
            parts.extend(track.into_iter().map(|part| Part { beside, ..part }));
        }
    }
    parts.retain(|part| part.to.is_some() || part.nanos > Nanos::ZERO);
    parts
}

/// What can be busy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Resource {
    Device(DeviceId),
    Direction(DeviceId, DeviceId),
    CardOut(usize),
    CardIn(usize),
}

/// What all parts of one evaluation depend on.
struct Frame<'a> {
    dag: &'a Dag,
    costs: &'a Costs,
    setting: &'a Setting,
}

impl Frame<'_> {
    /// The parts in the order in which a frame meets them.
    fn tracks(&self, partition: &Partition) -> Result<Tracks, EvaluateError> {
        let mut tracks = vec![vec![vec![self.prepare(partition)]]];
        for index in 0..partition.stages.len() {
            let Some((members, _)) = partition.scatter_of(index) else {
                tracks.push(vec![self.stage(partition, index)?]);
                continue;
            };
            if index == members.start {
                let member = |index| {
                    let mut track = self.stage(partition, index)?;
                    let back = partition.hop_back(index).map(|hop| self.hop(hop)).transpose()?;
                    track.extend(back.into_iter().flatten());
                    Ok(track)
                };
                tracks.push(members.clone().map(member).collect::<Result<_, _>>()?);
            }
        }
        for hop in partition.hops.iter().rev().filter(|hop| !hop.returns.is_empty()) {
            let bytes = self.declared(&hop.returns, hop.to, hop.from)?;
            tracks.push(vec![vec![self.transfer(PartKind::Return, hop.to, hop.from, bytes)?]]);
        }
        Ok(tracks)
    }

    /// A stage and the hop onto its device.
    fn stage(&self, partition: &Partition, index: usize) -> Result<Vec<Part>, EvaluateError> {
        let stage = &partition.stages[index];
        let hop = partition.hop_into(index);
        let mut parts: Vec<Part> =
            hop.map(|hop| self.hop(hop)).transpose()?.into_iter().flatten().collect();
        if stage.device != DeviceId::SOURCE && self.reads_input(stage) {
            let nanos = self.input().decode[stage.device.index()];
            parts.push(local(PartKind::Prepare, stage.device, nanos));
        }
        parts.push(self.compute(stage)?);
        Ok(parts)
    }

    /// On the source: the tensor if it is used there or travels as such, and what else travels.
    fn prepare(&self, partition: &Partition) -> Part {
        let source = DeviceId::SOURCE.index();
        let on_source = |stage: &&Stage| stage.device == DeviceId::SOURCE;
        let used = partition.stages.iter().filter(on_source).any(|stage| self.reads_input(stage));
        let crosses = partition.hops.iter().any(|hop| self.carries_input(hop));
        let as_tensor = self.input().name == TENSOR;
        let mut nanos = Nanos::ZERO;
        if used || crosses && as_tensor {
            nanos += self.costs.tensor_time();
        }
        if crosses && !as_tensor {
            nanos += self.input().encode[source];
        }
        local(PartKind::Prepare, DeviceId::SOURCE, nanos)
    }

    fn compute(&self, stage: &Stage) -> Result<Part, EvaluateError> {
        let option = self.option(stage.device);
        let mut nanos = option.call;
        for &group in &stage.groups {
            nanos += option.groups[group.index()].ok_or_else(|| EvaluateError::CannotRun {
                device: self.name(stage.device),
                engine: option.engine.clone(),
                group: self.dag.group(group).name.clone(),
            })?;
        }
        Ok(local(PartKind::Compute, stage.device, nanos))
    }

    fn hop(&self, hop: &Hop) -> Result<[Part; 3], EvaluateError> {
        let is_input = |&&flow: &&FlowId| self.dag.flow(flow).from.is_none();
        let (inputs, values): (Vec<&FlowId>, Vec<&FlowId>) = hop.message.iter().partition(is_input);
        let input_bytes = match self.input().bytes {
            _ if inputs.is_empty() => Bytes::ZERO,
            Some(bytes) => bytes,
            None => self.declared(inputs, hop.from, hop.to)?,
        };
        let (values, plain): (Vec<&FlowId>, Vec<&FlowId>) =
            values.into_iter().partition(|&&flow| self.dag.flow(flow).encodable);
        let declared = self.declared(values, hop.from, hop.to)?;
        let plain = self.declared(plain, hop.from, hop.to)?;
        let codec = self.setting.codecs[hop.from.index()];
        let bytes = input_bytes + self.costs.codecs()[codec].encoded(declared) + plain;
        let coding = |device: DeviceId| {
            self.costs.coding(device, self.setting.engines[device.index()], codec)
        };
        Ok([
            local(PartKind::Encode, hop.from, coding(hop.from).encode.of(declared)),
            self.transfer(PartKind::Send, hop.from, hop.to, bytes)?,
            local(PartKind::Decode, hop.to, coding(hop.to).decode.of(declared)),
        ])
    }

    fn transfer(
        &self,
        kind: PartKind,
        device: DeviceId,
        to: DeviceId,
        bytes: Bytes,
    ) -> Result<Part, EvaluateError> {
        let no_link = || EvaluateError::NoLink { from: self.name(device), to: self.name(to) };
        let direction = self.costs.direction(device, to).ok_or_else(no_link)?;
        Ok(Part { kind, device, to: Some(to), nanos: direction.time(bytes), bytes, beside: false })
    }

    fn solver_nanos(&self, part: &Part) -> Nanos {
        let direction = part.to.and_then(|to| self.costs.direction(part.device, to));
        direction.map_or(part.nanos, |direction| direction.affine_time(part.bytes))
    }

    /// Largest busy time of a device, of one direction of a link, or of one direction of a network
    /// card that several links share.
    fn period(&self, parts: &[Part]) -> Nanos {
        let mut busy: BTreeMap<Resource, Nanos> = BTreeMap::new();
        let mut add = |resource, nanos| *busy.entry(resource).or_default() += nanos;
        for part in parts {
            let Some((to, (link, back))) =
                part.to.and_then(|to| Some((to, self.costs.link(part.device, to)?)))
            else {
                add(Resource::Device(part.device), part.nanos);
                continue;
            };
            let direction = if back { &link.down } else { &link.up };
            let nanos = direction.busy(part.bytes);
            add(Resource::Direction(part.device, to), nanos);
            let [sender, receiver] = if back { [1, 0] } else { [0, 1] };
            if let Some(card) = link.cards[sender] {
                add(Resource::CardOut(card), nanos);
            }
            if let Some(card) = link.cards[receiver] {
                add(Resource::CardIn(card), nanos);
            }
        }
        busy.into_values().max().unwrap_or_default()
    }

    fn declared<'f>(
        &self,
        flows: impl IntoIterator<Item = &'f FlowId>,
        from: DeviceId,
        to: DeviceId,
    ) -> Result<Bytes, EvaluateError> {
        let size = |&id: &FlowId| {
            let flow = self.dag.flow(id);
            flow.bytes.ok_or_else(|| EvaluateError::UnknownSize {
                value: flow.name.clone(),
                from: self.name(from),
                to: self.name(to),
            })
        };
        flows.into_iter().map(size).sum()
    }

    fn reads_input(&self, stage: &Stage) -> bool {
        let reads = stage.groups.iter().flat_map(|&group| &self.dag.group(group).reads);
        reads.into_iter().any(|&flow| self.dag.flow(flow).from.is_none())
    }

    fn carries_input(&self, hop: &Hop) -> bool {
        hop.message.iter().any(|&flow| self.dag.flow(flow).from.is_none())
    }

    fn input(&self) -> &InputEncoding {
        &self.costs.inputs()[self.setting.input]
    }

    fn option(&self, device: DeviceId) -> &EngineOption {
        &self.costs.device(device).options[self.setting.engines[device.index()]]
    }

    fn name(&self, device: DeviceId) -> String {
        self.costs.device(device).name.clone()
    }
}

fn local(kind: PartKind, device: DeviceId, nanos: Nanos) -> Part {
    Part { kind, device, to: None, nanos, bytes: Bytes::ZERO, beside: false }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cost::table;

    /// `l2` reads `l1` and, past it, `l0`; the network answers with `l1` and `l2`. Between `a` and
    /// `b` a byte takes 1 ns, F is 3 and the delay 10; between `b` and `c` 2 ns, F is 1.
    fn three_devices() -> (Dag, Costs) {
        let platform = json!({ "version": 1,
            "device": [{ "name": "a" }, { "name": "b" }, { "name": "c" }],
            "link": [ { "between": ["a", "b"], "up": "8gbit", "fixed": "3ns", "delay": "10ns" },
                      { "between": ["b", "c"], "up": "4gbit", "fixed": "1ns" } ] });
        let times = |nanos: u64| json!({ "a": nanos, "b": nanos, "c": nanos });
        let file = json!({ "version": 1, "input": { "fp32": 8 }, "outputs": ["l1", "l2"],
            "layers": [
                { "name": "l0", "output_bytes": 100, "time_ns": times(5) },
                { "name": "l1", "inputs": ["l0"], "output_bytes": 20, "time_ns": times(7) },
                { "name": "l2", "inputs": ["l1", "l0"], "output_bytes": 4, "time_ns": times(9) } ],
            "codecs": [{ "name": "third", "num": 1, "den": 3, "enc_ns_per_kb": 10 }] });
        let file = serde_json::from_value(file).unwrap();
        table::read(&file, &serde_json::from_value(platform).unwrap(), &[None, None]).unwrap()
    }

    fn cost_of(devices: [usize; 3], codec: usize) -> Result<Evaluation, EvaluateError> {
        let (dag, costs) = three_devices();
        let ids: Vec<DeviceId> = costs.device_ids().collect();
        let mapping = Mapping(devices.map(|device| ids[device]).to_vec());
        let setting = Setting { codecs: vec![codec; 3], ..Setting::first(&costs) };
        evaluate(&dag, &costs, &mapping, &setting)
    }

    #[test]
    fn latency_period_and_bytes_by_hand() {
        // Devices of l0, l1, l2 and the codec; latency, period, bytes, four parts.
        let cases = [
            ([0, 0, 0], 0, 21, 21, 0, [21, 0, 0, 0]),
            // Out 113 and 241; back 9 (l2) and 37 (l1 and l2).
            ([0, 1, 2], 0, 421, 241, 248, [5, 354, 16, 46]),
            // Out 13 + 34 and 1 + 2 x 40, encoding 1 and 2 (rounded up).
            ([0, 1, 2], 1, 21 + 47 + 81 + 3 + 46, 81, 34 + 40 + 28, [5, 128, 16, 49]),
            // Back on the source: l0 travels both ways, l2 is at home; l1 returns besides, so that
            // the way back is busy for 123 and 23.
            ([0, 1, 0], 0, 21 + 113 + 133 + 33, 146, 240, [14, 246, 7, 33]),
            // First on b: the input goes there, l0 and l1 come back.
            ([1, 1, 0], 0, 21 + 21 + 133 + 33, 146, 148, [9, 154, 12, 33]),
        ];
        for (devices, codec, latency, period, bytes, four) in cases {
            let found = cost_of(devices, codec).unwrap();
            let parts = [found.edge_compute(), found.upload(), found.cloud_compute(), found.rest()];
            assert_eq!(parts.map(|part| part.0), four, "{devices:?}");
            let sums = (found.latency.0, found.period.0, found.bytes.0);
            assert_eq!(sums, (latency, period, bytes), "{devices:?}");
        }
    }

    #[test]
    fn memory_by_hand() {
        let memory = cost_of([0, 1, 2], 0).unwrap().memory;
        // a: input and l0; b: l0, kept for c, and l1; c: both, and l2.
        assert_eq!(memory.iter().map(|used| used.bytes.0).collect::<Vec<_>>(), [108, 120, 124]);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let error = cost_of([0, 2, 2], 0).unwrap_err().to_string();
        assert_eq!(error, "no link between `a` and `c` is declared");
    }
}
