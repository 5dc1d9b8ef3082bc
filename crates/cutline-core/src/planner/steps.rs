//! What one stage adds to a plan, for every pair of borders and every device.
//!
//! A plan is a chain of borders; between two of them one device works. [`Steps`] holds the sums over
//! all groups before each border, so that the time of any stage is a difference. What it answers is
//! exactly what [`evaluate`](crate::evaluate) would say of that part of a plan.

use std::cell::RefCell;

use super::ideals::{Border, Ideals};
use crate::{
    cost::{Codec, Costs, InputEncoding, LinkCosts, TENSOR, link::Direction},
    dag::{Dag, FlowId, GroupId, peak_of},
    evaluate::{Work, device_energy, device_money, electricity, message_energy},
    platform::DeviceId,
    units::{Bytes, Nanojoules, Nanos},
};

/// One engine option of one device, summed over the groups before each border.
struct Sums {
    /// Time of the groups that it can run.
    time: Vec<Nanos>,
    /// Groups that it cannot run.
    unable: Vec<u32>,
    /// Time of the groups whose energy is given, and that energy.
    given: Vec<(Nanos, Nanojoules)>,
}

/// Stages and hops between the borders of a network under one input encoding.
pub(super) struct Steps<'a> {
    pub(super) dag: &'a Dag,
    pub(super) costs: &'a Costs,
    pub(super) ideals: &'a Ideals,
    pub(super) input: usize,
    /// By device and option.
    sums: Vec<Vec<Sums>>,
    /// Groups before each border that read an input of the network.
    input_readers: Vec<u32>,
    /// Parameters before each border.
    parameters: Vec<Bytes>,
    /// Largest live sums by pair of borders, as far as asked for; `u64::MAX`: not yet.
    peaks: RefCell<Vec<u64>>,
}

/// What a stage does to its device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StageCost {
    /// Everything that the device does for a frame: decode, prepare, compute, encode.
    pub(super) busy: Nanos,
    /// Energy of that.
    pub(super) energy: Nanojoules,
    /// Rent, purchase and electricity.
    pub(super) money: u64,
}

/// A message to the next stage and the answers that return over the same link.
#[derive(Clone, Copy, Debug)]
pub(super) struct HopCost {
    /// Time out and back.
    pub(super) latency: Nanos,
    /// For how long each direction is busy.
    pub(super) out: Nanos,
    pub(super) back: Nanos,
    /// Energy of the sender and of the receiver, answers included.
    pub(super) energy: [Nanojoules; 2],
    /// Electricity of both.
    pub(super) money: u64,
    /// Bytes in both directions.
    pub(super) bytes: Bytes,
    /// Network cards of the sender and of the receiver.
    pub(super) cards: [Option<usize>; 2],
}

impl HopCost {
    /// Both over the same link.
    fn and(self, other: HopCost) -> HopCost {
        HopCost {
            latency: self.latency + other.latency,
            out: self.out + other.out,
            back: self.back + other.back,
            energy: [0, 1].map(|end| self.energy[end] + other.energy[end]),
            money: self.money.saturating_add(other.money),
            bytes: self.bytes + other.bytes,
            cards: self.cards,
        }
    }
}

/// Sender and receiver of a hop.
fn ends((link, backwards): (&LinkCosts, bool)) -> [DeviceId; 2] {
    let [a, b] = link.between;
    if backwards { [b, a] } else { [a, b] }
}

impl<'a> Steps<'a> {
    pub(super) fn new(dag: &'a Dag, costs: &'a Costs, ideals: &'a Ideals, input: usize) -> Self {
        let borders = &ideals.borders;
        let over = |value: &dyn Fn(GroupId) -> u64| -> Vec<u64> {
            let sum = |border: &Border| {
                dag.group_ids()
                    .filter(|&id| border.holds(id))
                    .map(value)
                    .fold(0, u64::saturating_add)
            };
            borders.iter().map(sum).collect()
        };
        let sums = costs.devices().iter().map(|device| {
            let given = |id: GroupId| device.group_energy.get(id.index()).copied().flatten();
            let option = |option: &crate::cost::EngineOption| {
                let time = |id: GroupId| option.groups[id.index()];
                let nanos = |id: GroupId| time(id).unwrap_or_default().0;
                let given_time = over(&|id| given(id).map_or(0, |_| nanos(id)));
                let given_energy = over(&|id| given(id).map_or(0, |energy| energy.0));
                let unable = over(&|id| u64::from(time(id).is_none()));
                Sums {
                    time: over(&nanos).into_iter().map(Nanos).collect(),
                    unable: unable.into_iter().map(|count| count as u32).collect(),
                    given: given_time
                        .into_iter()
                        .zip(given_energy)
                        .map(|(time, energy)| (Nanos(time), Nanojoules(energy)))
                        .collect(),
                }
            };
            device.options.iter().map(option).collect()
        });
        let sums = sums.collect();
        let reads_input = |id: GroupId| {
            u64::from(dag.group(id).reads.iter().any(|&flow| dag.flow(flow).from.is_none()))
        };
        let input_readers = over(&reads_input).into_iter().map(|count| count as u32).collect();
        let parameters =
            over(&|id| dag.group(id).parameter_bytes.0).into_iter().map(Bytes).collect();
        Steps {
            dag,
            costs,
            ideals,
            input,
            sums,
            input_readers,
            parameters,
            peaks: RefCell::default(),
        }
    }

    pub(super) fn encoding(&self) -> &'a InputEncoding {
        &self.costs.inputs()[self.input]
    }

    fn codec(&self, codec: usize) -> &'a Codec {
        &self.costs.codecs()[codec]
    }

    fn border(&self, at: usize) -> &'a Border {
        &self.ideals.borders[at]
    }

    /// Time of the engine's call between two borders; `None` where the device lacks a group.
    pub(super) fn compute(
        &self,
        device: DeviceId,
        option: usize,
        from: usize,
        to: usize,
    ) -> Option<Nanos> {
        let sums = &self.sums[device.index()][option];
        let call = self.costs.device(device).options[option].call;
        (sums.unable[from] == sums.unable[to]).then(|| call + (sums.time[to] - sums.time[from]))
    }

    /// The groups between two borders, without an engine's call; `None` where the device lacks one.
    pub(super) fn work(
        &self,
        device: DeviceId,
        option: usize,
        [from, to]: [usize; 2],
    ) -> Option<Work> {
        let sums = &self.sums[device.index()][option];
        let ((early, spent), (late, total)) = (sums.given[from], sums.given[to]);
        (sums.unable[from] == sums.unable[to]).then(|| Work {
            busy: sums.time[to] - sums.time[from],
            given_time: late - early,
            given: total - spent,
        })
    }

    /// Parameters of the groups between two borders.
    pub(super) fn parameters(&self, from: usize, to: usize) -> Bytes {
        self.parameters[to] - self.parameters[from]
    }

    /// Time of a device to encode what crosses a border, or to decode it.
    pub(super) fn coding(
        &self,
        (device, option): (DeviceId, usize),
        border: usize,
        codec: usize,
    ) -> [Nanos; 2] {
        let values = self.border(border).values;
        let coding = self.costs.coding(device, option, codec);
        [coding.encode.of(values), coding.decode.of(values)]
    }

    /// What the source does before anything else where it runs no stage: it prepares what it sends.
    pub(super) fn forward_only(&self) -> StageCost {
        let first = self.border(0);
        let as_tensor = self.encoding().name == TENSOR;
        let busy = match (first.input_crosses, as_tensor) {
            (false, _) => Nanos::ZERO,
            (true, true) => self.costs.tensor_time(),
            (true, false) => self.encoding().encode[DeviceId::SOURCE.index()],
        };
        self.cost_of(DeviceId::SOURCE, Work { busy, ..Work::default() })
    }

    /// A stage between two borders: what came over the first in `decode`, what leaves over the second
    /// in `encode`. `None` where the device cannot run it.
    pub(super) fn stage(
        &self,
        device: DeviceId,
        option: usize,
        [from, to]: [usize; 2],
        decode: Option<usize>,
        encode: usize,
    ) -> Option<StageCost> {
        let mut busy = self.compute(device, option, from, to)?;
        busy += self.prepare(device, from, to);
        if let Some(codec) = decode {
            busy += self.coding((device, option), from, codec)[1];
        }
        if to != self.ideals.last() {
            busy += self.coding((device, option), to, encode)[0];
        }
        let given = &self.sums[device.index()][option].given;
        let ((early, spent), (late, total)) = (given[from], given[to]);
        Some(self.cost_of(device, Work { busy, given_time: late - early, given: total - spent }))
    }

    /// The same without what surrounds the engine's call: never more than the stage costs, since no
    /// device takes less busy than idle.
    pub(super) fn bare_stage(
        &self,
        device: DeviceId,
        option: usize,
        from: usize,
        to: usize,
    ) -> StageCost {
        let Some(busy) = self.compute(device, option, from, to) else {
            return StageCost::default();
        };
        let given = &self.sums[device.index()][option].given;
        let ((early, spent), (late, total)) = (given[from], given[to]);
        self.cost_of(device, Work { busy, given_time: late - early, given: total - spent })
    }

    /// Whether a group between two borders reads an input of the network.
    pub(super) fn reads_input(&self, from: usize, to: usize) -> bool {
        self.input_readers[to] > self.input_readers[from]
    }

    pub(super) fn prepare(&self, device: DeviceId, from: usize, to: usize) -> Nanos {
        let reads = self.reads_input(from, to);
        if device != DeviceId::SOURCE {
            return if reads { self.encoding().decode[device.index()] } else { Nanos::ZERO };
        }
        let as_tensor = self.encoding().name == TENSOR;
        let crosses = self.border(to).input_crosses;
        let mut time = Nanos::ZERO;
        if reads || crosses && as_tensor {
            time += self.costs.tensor_time();
        }
        if crosses && !as_tensor {
            time += self.encoding().encode[DeviceId::SOURCE.index()];
        }
        time
    }

    pub(super) fn cost_of(&self, device: DeviceId, work: Work) -> StageCost {
        let energy = device_energy(self.costs, device, self.costs.frame_interval(), work);
        let fixed = device_money(self.costs, device, work.busy).unwrap_or_default();
        let money = fixed + electricity(self.costs, device, energy);
        StageCost { busy: work.busy, energy, money: money.0 }
    }

    /// The hop over a border, and the answers of all that is behind it; `None` where something of
    /// unknown size would travel, or the codec is forbidden there.
    pub(super) fn hop(&self, link: (&LinkCosts, bool), at: usize, codec: usize) -> Option<HopCost> {
        let ends = ends(link);
        let paid = |hop: HopCost| HopCost { money: self.electricity_of(ends, hop.energy), ..hop };
        let message = paid(self.message(link, at, codec)?);
        let border = self.border(at);
        match border.answers {
            true => Some(message.and(paid(self.answer(link, border.answer_bytes?)))),
            false => Some(message),
        }
    }

    /// The message over a border alone, its electricity left out.
    pub(super) fn message(
        &self,
        (link, backwards): (&LinkCosts, bool),
        at: usize,
        codec: usize,
    ) -> Option<HopCost> {
        let border = Some(self.border(at)).filter(|border| border.passable)?;
        let there: &Direction = if backwards { &link.down } else { &link.up };
        let input = match (border.input_crosses, self.encoding().bytes) {
            (false, _) => Bytes::ZERO,
            (true, Some(bytes)) => bytes,
            (true, None) => border.inputs?,
        };
        let values = border.crossing.iter().copied();
        if self.costs.forbids(codec, values.filter(|&id| self.dag.flow(id).from.is_some())) {
            return None;
        }
        let sent = input + self.codec(codec).encoded(border.values) + border.plain;
        let energy = message_energy(link, backwards, sent);
        Some(HopCost {
            latency: there.time(sent),
            out: there.busy(sent),
            back: Nanos::ZERO,
            energy,
            money: 0,
            bytes: sent,
            cards: if backwards { [link.cards[1], link.cards[0]] } else { link.cards },
        })
    }

    /// Answers of so many bytes that return over the link of a hop, their electricity left out; ends
    /// are those of the hop.
    pub(super) fn answer(&self, (link, backwards): (&LinkCosts, bool), bytes: Bytes) -> HopCost {
        let back: &Direction = if backwards { &link.up } else { &link.down };
        let [receiver, sender] = message_energy(link, !backwards, bytes);
        HopCost {
            latency: back.time(bytes),
            out: Nanos::ZERO,
            back: back.busy(bytes),
            energy: [sender, receiver],
            money: 0,
            bytes,
            cards: if backwards { [link.cards[1], link.cards[0]] } else { link.cards },
        }
    }

    pub(super) fn electricity_of(&self, ends: [DeviceId; 2], energy: [Nanojoules; 2]) -> u64 {
        ends.into_iter()
            .zip(energy)
            .map(|(end, energy)| electricity(self.costs, end, energy).0)
            .sum()
    }

    /// What a stage occupies: engine, parameters, live values.
    pub(super) fn memory(&self, device: DeviceId, option: usize, from: usize, to: usize) -> Bytes {
        let engine = self.costs.device(device).options[option].engine_bytes;
        engine + (self.parameters[to] - self.parameters[from]) + self.peak(from, to)
    }

    pub(super) fn peak(&self, from: usize, to: usize) -> Bytes {
        let borders = self.ideals.borders.len();
        let mut peaks = self.peaks.borrow_mut();
        if peaks.is_empty() {
            peaks.resize(borders * borders, u64::MAX);
        }
        let peak = &mut peaks[from * borders + to];
        if *peak == u64::MAX {
            let (first, second) = (self.border(from), self.border(to));
            let groups: Vec<GroupId> = first.until(second).collect();
            let made = groups.iter().flat_map(|&id| &self.dag.group(id).makes);
            let answers = made.copied().filter(|&flow| self.dag.flow(flow).is_output);
            let keeps: Vec<FlowId> = second.crossing.iter().copied().chain(answers).collect();
            *peak = peak_of(self.dag, &groups, &first.crossing, &keeps).0;
        }
        Bytes(*peak)
    }
}
