//! What a scatter group adds to a plan, for every block and every device that may join it.
//!
//! What a block costs does not depend on what is before it. So for each block, joining device, engine
//! option and codec there is a list of ways to give branches to helpers, of which none has fewer
//! helpers than another and costs no more in anything. A way holds what it adds to each component of
//! a label, the stage that joins included; [`labels`](super::labels) applies it.

use std::cell::RefCell;

use super::{
    kept::Kept,
    layout::{Layout, Quantity, Rule},
    steps::Steps,
};
use crate::{
    cost::{LinkCosts, TENSOR},
    dag::{FlowId, GroupId, peak_of},
    evaluate::{Work, message_energy},
    partition::{Block, Branch, blocks},
    platform::DeviceId,
    units::{Bytes, Nanojoules, Nanos},
};

/// Assignments of branches to devices that are tried for a block; one with more is left whole.
const MOST_ASSIGNMENTS: usize = 100_000;

/// The ways to run blocks on several devices at once.
pub(super) struct Scatters {
    /// Blocks in order.
    pub(super) places: Vec<Place>,
    /// By border: the place that begins there, and the one that ends there.
    starting: Vec<Option<usize>>,
    ending: Vec<Option<usize>>,
    /// By place, device, option and codec.
    ways: Vec<Vec<Way>>,
    /// Engine options and codecs that are told apart.
    width: [usize; 2],
    /// Largest live sums of joining stages by place and border at their end, as far as asked for;
    /// `u64::MAX`: not yet.
    peaks: RefCell<Vec<u64>>,
}

/// A block between two borders.
pub(super) struct Place {
    pub(super) block: Block,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// One way to give branches of a block away.
pub(super) struct Way {
    /// Devices that help, as bits.
    pub(super) helpers: u32,
    /// What it adds to the components of a label, each by its rule.
    pub(super) adds: Vec<u64>,
    pub(super) members: Vec<Member>,
}

/// What one helper does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) device: DeviceId,
    pub(super) option: usize,
    /// Position among all codecs.
    pub(super) codec: usize,
    /// Its branches, as bits.
    pub(super) branches: u32,
}

/// Who joins, with which engine and codec.
#[derive(Clone, Copy)]
struct Joiner {
    device: DeviceId,
    option: usize,
    codec: usize,
}

/// Whether a block has too many branches for all assignments of them to be tried.
pub(super) fn is_too_wide(block: &Block, devices: usize) -> bool {
    // The source never helps, and no device helps itself.
    let homes = devices.saturating_sub(1).max(1);
    let all = u32::try_from(block.branches.len()).ok().and_then(|n| homes.checked_pow(n));
    block.branches.len() > 31 || all.is_none_or(|all| all > MOST_ASSIGNMENTS)
}

impl Scatters {
    pub(super) fn new(steps: &Steps, layout: &Layout, codecs: &[usize]) -> Self {
        let devices = steps.costs.devices();
        let options = devices.iter().map(|device| device.options.len()).max().unwrap_or(1);
        let border = |size: usize| {
            steps.ideals.borders.iter().position(|border| {
                border.size == size && (0..size).all(|at| border.holds(GroupId::new(at)))
            })
        };
        let place = |block: Block| {
            let (from, to) = (border(block.groups.start)?, border(block.groups.end)?);
            let sendable = steps.ideals.borders[from].passable;
            (sendable && !is_too_wide(&block, devices.len())).then_some(Place { block, from, to })
        };
        let places: Vec<Place> = blocks(steps.dag).into_iter().filter_map(place).collect();
        let mut ways = Vec::new();
        for place in &places {
            for device in steps.costs.device_ids() {
                for option in 0..options {
                    for &codec in codecs {
                        let exists = option < steps.costs.device(device).options.len();
                        let joiner = Joiner { device, option, codec };
                        let site = Site { steps, layout, codecs, place, joiner };
                        ways.push(if exists { site.ways() } else { Vec::new() });
                    }
                }
            }
        }
        let borders = steps.ideals.borders.len();
        let at = |of: &dyn Fn(&Place) -> usize| {
            (0..borders).map(|border| places.iter().position(|p| of(p) == border)).collect()
        };
        Scatters {
            starting: at(&|place| place.from),
            ending: at(&|place| place.to),
            peaks: RefCell::new(vec![u64::MAX; places.len() * borders]),
            width: [options, codecs.len()],
            ways,
            places,
        }
    }

    /// The place that begins at a border.
    pub(super) fn starting_at(&self, border: usize) -> Option<usize> {
        self.starting[border]
    }

    /// The place that ends at a border.
    pub(super) fn ending_at(&self, border: usize) -> Option<usize> {
        self.ending[border]
    }

    /// Ways of a place under a device, an engine option and a codec, by its position among those
    /// that may be used.
    pub(super) fn ways(&self, place: usize, device: usize, option: usize, codec: usize) -> &[Way] {
        &self.ways[self.at(place, device, option, codec)]
    }

    /// The number of such a combination, below [`Self::combinations`].
    pub(super) fn at(&self, place: usize, device: usize, option: usize, codec: usize) -> usize {
        let [options, codecs] = self.width;
        let devices = self.ways.len() / (self.places.len() * options * codecs);
        ((place * devices + device) * options + option) * codecs + codec
    }

    pub(super) fn combinations(&self) -> usize {
        self.ways.len()
    }

    /// The most that is alive in a stage that joins a place and goes on to a border.
    pub(super) fn join_peak(&self, steps: &Steps, place: usize, to: usize) -> Bytes {
        let borders = &steps.ideals.borders;
        let peak = &mut self.peaks.borrow_mut()[place * borders.len() + to];
        if *peak == u64::MAX {
            let Place { block, to: end, .. } = &self.places[place];
            let mut groups = block.join.clone();
            groups.extend(borders[*end].until(&borders[to]));
            let leaves = block.branches.iter().flat_map(|branch| branch.leaves.iter().copied());
            let there: Vec<FlowId> =
                leaves.chain(block.join_reads_enters.then_some(block.enters)).collect();
            let made = groups.iter().flat_map(|&id| &steps.dag.group(id).makes).copied();
            let answers = made.filter(|&flow| steps.dag.flow(flow).is_output);
            let keeps: Vec<FlowId> = borders[to].crossing.iter().copied().chain(answers).collect();
            *peak = peak_of(steps.dag, &groups, &there, &keeps).0;
        }
        Bytes(*peak)
    }
}

/// One place and who joins there.
struct Site<'a> {
    steps: &'a Steps<'a>,
    layout: &'a Layout,
    codecs: &'a [usize],
    place: &'a Place,
    joiner: Joiner,
}

/// A member's share of a way: what it adds, the latency being its own time.
struct Share {
    member: Member,
    adds: Vec<u64>,
}

impl Site<'_> {
    /// All ways of which none betters another.
    fn ways(&self) -> Vec<Way> {
        let block = &self.place.block;
        if block.groups.start == 0 && self.joiner.device != DeviceId::SOURCE {
            return Vec::new();
        }
        let Some(join) = self.join() else { return Vec::new() };
        let all = (1u32 << block.branches.len()) - 1;
        let movable = (0..block.branches.len()).filter(|&at| block.branches[at].answer.is_none());
        let movable = movable.fold(0u32, |bits, at| bits | 1 << at);
        let helpers = self.steps.costs.device_ids().skip(1).filter(|&d| d != self.joiner.device);
        // By helper and by the branches that it runs.
        let shares: Vec<Vec<Vec<Share>>> = helpers
            .map(|helper| {
                let of = |branches: u32| match branches & !movable {
                    0 if branches > 0 => self.shares(helper, branches),
                    _ => Vec::new(),
                };
                (0..=all).map(of).collect()
            })
            .collect();
        let mut found = Found::default();
        let mut chosen: Vec<&Share> = Vec::new();
        self.choose(&shares, all, &join, &mut chosen, &mut found);
        let mut kept = found.kept.labels().to_vec();
        kept.sort_unstable();
        let mut ways: Vec<Option<Way>> = found.ways.into_iter().map(Some).collect();
        kept.into_iter().filter_map(|at| ways[at as usize].take()).collect()
    }

    /// Gives every subset of the branches left to the next helper; what nobody takes stays.
    fn choose<'s>(
        &self,
        shares: &'s [Vec<Vec<Share>>],
        left: u32,
        join: &[u64],
        chosen: &mut Vec<&'s Share>,
        found: &mut Found,
    ) {
        let Some((next, later)) = shares.split_first() else {
            if !chosen.is_empty() {
                self.way(left, join, chosen).into_iter().for_each(|way| found.add(way));
            }
            return;
        };
        self.choose(later, left, join, chosen, found);
        let mut taken = left;
        while taken > 0 {
            for share in &next[taken as usize] {
                chosen.push(share);
                self.choose(later, left & !taken, join, chosen, found);
                chosen.pop();
            }
            taken = (taken - 1) & left;
        }
    }

    /// The whole of a way: its members, the slowest of which counts, then the join. `None` where the
    /// device that joins cannot run what stays.
    fn way(&self, stays: u32, join: &[u64], chosen: &[&Share]) -> Option<Way> {
        let rules = self.layout.rules();
        let latency = self.layout.position(Quantity::Latency);
        let mut adds = self.own(stays)?;
        for share in chosen {
            for (at, (sum, &more)) in adds.iter_mut().zip(&share.adds).enumerate() {
                let rule = if Some(at) == latency { Rule::Max } else { rules[at] };
                rule.apply(sum, more);
            }
        }
        for (at, (sum, &more)) in adds.iter_mut().zip(join).enumerate() {
            rules[at].apply(sum, more);
        }
        self.add_stage(&mut adds, Work { busy: self.prepare(stays), ..Work::default() });
        let members: Vec<Member> = chosen.iter().map(|share| share.member).collect();
        let helpers = members.iter().fold(0, |bits, member| bits | 1 << member.device.index());
        Some(Way { helpers, adds, members })
    }

    /// What the source prepares where the block begins at the network's input.
    fn prepare(&self, stays: u32) -> Nanos {
        let block = &self.place.block;
        if block.groups.start > 0 {
            return Nanos::ZERO;
        }
        let encoding = self.steps.encoding();
        let as_tensor = encoding.name == TENSOR;
        let mut time = Nanos::ZERO;
        if stays > 0 || block.join_reads_enters || as_tensor {
            time += self.steps.costs.tensor_time();
        }
        if !as_tensor {
            time += encoding.encode[DeviceId::SOURCE.index()];
        }
        time
    }

    /// The own member, with these branches.
    fn own(&self, stays: u32) -> Option<Vec<u64>> {
        let mut adds = vec![0; self.layout.width()];
        if stays == 0 {
            return Some(adds);
        }
        let groups = self.groups(stays);
        let Joiner { device, option, .. } = self.joiner;
        self.add_stage(&mut adds, self.work(device, option, &groups)?);
        self.add_parameters(&mut adds, &groups);
        if let Some([_, peak]) = self.layout.own_memory_at() {
            let block = &self.place.block;
            let mut holds = self.leaves(!stays);
            holds.extend(block.join_reads_enters.then_some(block.enters));
            let mut there = holds.clone();
            there.push(block.enters);
            there.sort_unstable();
            there.dedup();
            let keeps: Vec<FlowId> =
                holds.into_iter().chain(self.leaves(stays)).chain(self.answers(&groups)).collect();
            adds[peak] = peak_of(self.steps.dag, &groups, &there, &keeps).0;
        }
        self.count(&mut adds, 1, Bytes::ZERO);
        Some(adds)
    }

    /// The part of the joining stage that belongs to the block, but for what it holds.
    fn join(&self) -> Option<Vec<u64>> {
        let mut adds = vec![0; self.layout.width()];
        let Joiner { device, option, .. } = self.joiner;
        let groups = &self.place.block.join;
        self.add_stage(&mut adds, self.work(device, option, groups)?);
        self.add_parameters(&mut adds, groups);
        self.count(&mut adds, 1, Bytes::ZERO);
        Some(adds)
    }

    /// The ways for a helper to run these branches of which none betters another.
    fn shares(&self, device: DeviceId, branches: u32) -> Vec<Share> {
        let mut kept = Kept::default();
        let mut shares: Vec<Option<Share>> = Vec::new();
        for option in 0..self.steps.costs.device(device).options.len() {
            for &codec in self.codecs {
                let member = Member { device, option, codec, branches };
                let Some(adds) = self.share(member) else { continue };
                if !kept.beats(&adds, 0, 0) {
                    kept.insert(shares.len() as u32, 0, &adds, |_| {});
                    shares.push(Some(Share { member, adds }));
                }
            }
        }
        kept.labels().iter().filter_map(|&at| shares[at as usize].take()).collect()
    }

    fn share(&self, member: Member) -> Option<Vec<u64>> {
        let Site { steps, layout, joiner, .. } = *self;
        let Place { block, .. } = self.place;
        let Member { device, option, codec, branches } = member;
        let groups = self.groups(branches);
        let leaves = self.leaves(branches);
        let size = |flow: FlowId| steps.dag.flow(flow).bytes;
        // What codecs encode, and what travels as it is.
        let sizes = |flows: &[FlowId]| -> Option<[Bytes; 2]> {
            let of = |encodable: bool| {
                let flows = flows.iter().filter(|&&id| steps.dag.flow(id).encodable == encodable);
                flows.map(|&flow| size(flow)).sum::<Option<Bytes>>()
            };
            Some([of(true)?, of(false)?])
        };
        let at_input = block.groups.start == 0;
        let enters = match at_input {
            true => [Bytes::ZERO, steps.encoding().bytes.or(size(block.enters))?],
            false => sizes(&[block.enters])?,
        };
        let ends = [(joiner.device, joiner.option), (device, option)];
        let out = self.message(ends, joiner.codec, enters)?;
        let back = self.message([ends[1], ends[0]], codec, sizes(&leaves)?)?;

        let mut work = self.work(device, option, &groups)?;
        work.busy += out.decode + back.encode;
        if at_input {
            work.busy += steps.encoding().decode[device.index()];
        }
        let cost = steps.cost_of(device, work);
        let mut adds = vec![0; layout.width()];
        let own = out.encode + back.decode;
        let own_work = Work { busy: own, ..Work::default() };
        layout.add_work(&mut adds, steps.costs, joiner.device, own_work);
        self.count(&mut adds, 1, out.bytes + back.bytes);
        self.add_memory(&mut adds, member, &groups, &leaves)?;
        for message in [&out, &back] {
            for (card, direction) in message.cards.into_iter().zip([0, 1]) {
                if let Some(card) = card.filter(|&card| card < layout.cards) {
                    let sum = &mut adds[layout.cards_at() + 2 * card + direction];
                    *sum = sum.saturating_add(message.busy.0);
                }
            }
        }
        if layout.open_energy {
            adds[layout.open_at()] = (out.energy[0] + back.energy[1]).0;
        }
        for (at, quantity) in layout.quantities.iter().enumerate() {
            let radio: Nanojoules = out.energy.into_iter().chain(back.energy).sum();
            adds[at] = match quantity {
                Quantity::Latency => (own + work.busy + out.time + back.time).0,
                Quantity::Period => cost.busy.max(out.busy).max(back.busy).0,
                Quantity::Energy => (cost.energy + radio).0,
                Quantity::Money => cost.money + out.money + back.money,
                Quantity::DeviceEnergy => (cost.energy + out.energy[1] + back.energy[0]).0,
                Quantity::Memory | Quantity::Excess => adds[at],
            };
        }
        Some(adds)
    }

    /// What the helper occupies; `None` where it does not fit by itself.
    fn add_memory(
        &self,
        adds: &mut [u64],
        Member { device, option, .. }: Member,
        groups: &[GroupId],
        leaves: &[FlowId],
    ) -> Option<()> {
        let Site { steps, layout, .. } = self;
        let costs = steps.costs.device(device);
        if !layout.counts_memory(costs) {
            return Some(());
        }
        let dag = steps.dag;
        let parameters: Bytes = groups.iter().map(|&id| dag.group(id).parameter_bytes).sum();
        let live = peak_of(dag, groups, &[self.place.block.enters], leaves);
        let bytes = costs.options[option].engine_bytes + parameters + live;
        match layout.hosts.iter().position(|&host| host == costs.host) {
            Some(position) => adds[layout.hosts_at() + position] = bytes.0,
            None => {
                let excess = costs.memory.map_or(0, |limit| bytes.0.saturating_sub(limit.0));
                match layout.position(Quantity::Excess) {
                    Some(at) => adds[at] = excess,
                    None if excess > 0 => return None,
                    None => {}
                }
                if let Some(at) = layout.position(Quantity::Memory) {
                    adds[at] = bytes.0;
                }
            }
        }
        Some(())
    }

    fn message(
        &self,
        [sender, receiver]: [(DeviceId, usize); 2],
        codec: usize,
        [values, plain]: [Bytes; 2],
    ) -> Option<Message> {
        let (costs, [from, to]) = (self.steps.costs, [sender.0, receiver.0]);
        let (link, backwards): (&LinkCosts, bool) = costs.link(from, to)?;
        let direction = if backwards { &link.down } else { &link.up };
        let bytes = costs.codecs()[codec].encoded(values) + plain;
        let coding = |(device, option)| costs.coding(device, option, codec);
        let energy = message_energy(link, backwards, bytes);
        Some(Message {
            encode: coding(sender).encode.of(values),
            decode: coding(receiver).decode.of(values),
            time: direction.time(bytes),
            busy: direction.busy(bytes),
            bytes,
            energy,
            money: self.steps.electricity_of([from, to], energy),
            cards: if backwards { [link.cards[1], link.cards[0]] } else { link.cards },
        })
    }

    fn work(&self, device: DeviceId, option: usize, groups: &[GroupId]) -> Option<Work> {
        let costs = self.steps.costs.device(device);
        let mut work = Work { busy: costs.options[option].call, ..Work::default() };
        for at in groups.iter().map(|id| id.index()) {
            let time = costs.options[option].groups[at]?;
            work.busy += time;
            if let Some(energy) = costs.group_energy.get(at).copied().flatten() {
                work.given_time += time;
                work.given += energy;
            }
        }
        Some(work)
    }

    /// Groups of these branches, in topological order.
    fn groups(&self, branches: u32) -> Vec<GroupId> {
        let chosen = self.chosen(branches);
        let mut groups: Vec<GroupId> =
            chosen.flat_map(|branch| branch.groups.iter().copied()).collect();
        groups.sort_unstable();
        groups
    }

    /// What leaves these branches, ascending.
    fn leaves(&self, branches: u32) -> Vec<FlowId> {
        let chosen = self.chosen(branches);
        let mut leaves: Vec<FlowId> =
            chosen.flat_map(|branch| branch.leaves.iter().copied()).collect();
        leaves.sort_unstable();
        leaves
    }

    fn chosen(&self, branches: u32) -> impl Iterator<Item = &Branch> {
        let all = self.place.block.branches.iter().enumerate();
        all.filter(move |(at, _)| branches >> at & 1 == 1).map(|(_, branch)| branch)
    }

    fn answers(&self, groups: &[GroupId]) -> Vec<FlowId> {
        let made = groups.iter().flat_map(|&id| &self.steps.dag.group(id).makes).copied();
        made.filter(|&flow| self.steps.dag.flow(flow).is_output).collect()
    }

    /// A stage of the joining device: what it is busy for is waited for.
    fn add_stage(&self, adds: &mut [u64], work: Work) {
        if let Some(at) = self.layout.position(Quantity::Latency) {
            adds[at] = adds[at].saturating_add(work.busy.0);
        }
        self.layout.add_work(adds, self.steps.costs, self.joiner.device, work);
    }

    fn add_parameters(&self, adds: &mut [u64], groups: &[GroupId]) {
        if let Some([parameters, _]) = self.layout.own_memory_at() {
            let all = groups.iter().map(|&id| self.steps.dag.group(id).parameter_bytes);
            adds[parameters] = adds[parameters].saturating_add(all.sum::<Bytes>().0);
        }
    }

    fn count(&self, adds: &mut [u64], stages: u64, bytes: Bytes) {
        if self.layout.ties {
            let at = self.layout.ties_at();
            adds[at] += stages;
            adds[at + 1] = adds[at + 1].saturating_add(bytes.0);
        }
    }
}

/// One message of a scatter group.
struct Message {
    encode: Nanos,
    decode: Nanos,
    time: Nanos,
    busy: Nanos,
    bytes: Bytes,
    /// Of the sender and of the receiver.
    energy: [Nanojoules; 2],
    money: u64,
    cards: [Option<usize>; 2],
}

/// The ways of a site that none other betters, while they are found.
#[derive(Default)]
struct Found {
    kept: Kept,
    ways: Vec<Way>,
}

impl Found {
    fn add(&mut self, way: Way) {
        if !self.kept.beats(&way.adds, way.helpers, 0) {
            self.kept.insert(self.ways.len() as u32, way.helpers, &way.adds, |_| {});
            self.ways.push(way);
        }
    }
}
