//! Exact search over sequences of stages on many devices, by labels.
//!
//! A label is the beginning of a plan: a chain of stages up to a border, with what it has cost so
//! far. Borders are taken in order, and every label of one is extended by every stage that can
//! follow. A label is dropped where another of the same border and last device, which has used no
//! other devices than it has, costs no more in anything: whatever completes the one completes the
//! other as well (label setting for the multi-criteria shortest path problem: Hansen 1980, Martins
//! 1984; over ideals and sets of devices as in PipeEdge, Hu et al. 2022). It is dropped, too, where
//! even the least that can follow breaks a limit, or exceeds a plan that is known already; and where
//! what known plans leave open of a front cannot be reached ([`Regions`]).
//!
//! The cost of a label is a vector of integers: the quantities asked for, then what couples later
//! stages to earlier ones (network cards and memories that several devices share). A sum only
//! grows by what is added and a maximum by what is larger, which is why dominance holds. A maximum is
//! raised to the least that must follow before labels are compared: it is reached in any case, and
//! what differs below it tells no labels apart.
//!
//! Time and space grow with the number of labels; it is small for one objective, and for a front it
//! is of the order of the front times borders and devices.

use super::{
    bounds::Bounds,
    kept::Kept,
    layout::{Layout, Quantity, Rule},
    regions::Regions,
    scatter::Scatters,
    steps::{HopCost, StageCost, Steps},
};
use crate::{
    evaluate::Setting,
    partition::Mapping,
    platform::DeviceId,
    units::{Bytes, Nanos},
};

mod going;

/// How far the last device of a label is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its last stage has ended, and what crosses is encoded for the next device.
    Ended,
    /// It goes on; the block that begins here is to be scattered.
    Paused,
    /// It goes on in the stage that joined the block that ends here.
    Joined,
}

/// How a label came about.
#[derive(Clone, Copy, Debug)]
struct Origin {
    parent: u32,
    border: u32,
    device: u8,
    option: u8,
    codec: u8,
    alive: bool,
    state: State,
    used: u32,
    /// For what is joined: by which way of the block.
    way: u32,
}

const ROOT: u32 = u32::MAX;
/// Stands for a whole plan that was known before the search.
const KNOWN: u32 = u32::MAX;

impl Origin {
    /// A label on a device, from one that has used nothing but the source.
    fn new(parent: u32, device: DeviceId, option: usize, codec: usize, border: usize) -> Self {
        Origin {
            parent,
            border: border as u32,
            device: device.index() as u8,
            option: option as u8,
            codec: codec as u8,
            alive: true,
            state: State::Ended,
            used: 1,
            way: 0,
        }
    }

    fn device(&self) -> DeviceId {
        DeviceId::new(self.device.into())
    }

    fn border(&self) -> usize {
        self.border as usize
    }
}

/// Label ends here: it is a whole plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Components of its label.
    pub(super) values: Vec<u64>,
    /// Where stages and bytes are among them.
    pub(super) ties_at: usize,
    /// The plan.
    pub(super) mapping: Mapping,
    /// Its engines, encodings and order.
    pub(super) setting: Setting,
}

/// How many stages a plan may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stages {
    Any,
    One,
    /// Work on at least two devices.
    Several,
}

/// What a search may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effort {
    /// Labels kept at each border, device and codec; `None`: all that may matter.
    pub(super) beam: Option<usize>,
    /// In millionths: a label is dropped, too, where another is at most this much worse.
    pub(super) slack_ppm: u64,
}

impl Effort {
    pub(super) const EXACT: Effort = Effort { beam: None, slack_ppm: 0 };
}

/// What is asked of a search besides its layout.
pub(super) struct Search<'a> {
    pub(super) steps: &'a Steps<'a>,
    pub(super) layout: &'a Layout,
    pub(super) bounds: &'a Bounds,
    pub(super) codecs: &'a [usize],
    /// Ways to run blocks on several devices at once, where they are searched.
    pub(super) scatters: Option<&'a Scatters>,
    /// A device of a lower number that is like it in everything, by device.
    pub(super) twins: &'a [Option<usize>],
    pub(super) stages: Stages,
    /// Labels after which it stops by itself.
    pub(super) most_labels: usize,
    pub(super) effort: Effort,
    /// Whole plans that are known already, by what is asked for: what they are as good as in
    /// everything is not looked for.
    pub(super) known: &'a [Vec<u64>],
    /// Where a front is searched for: what those leave open.
    pub(super) regions: Option<&'a Regions>,
}

/// What was found, and what is known of the rest.
pub(super) struct Found {
    /// Whole plans that none other dominates.
    pub(super) ended: Vec<Ended>,
    /// Where the search was stopped: the least objective that a plan not seen could have.
    pub(super) open: Option<u64>,
    /// Labels made.
    pub(super) labels: usize,
}

struct Table<'a> {
    search: &'a Search<'a>,
    width: usize,
    values: Vec<u64>,
    origins: Vec<Origin>,
    /// Labels by border, last device and codec.
    at: Vec<Kept>,
    /// Labels whose last device goes on, by state, place, device, option and codec.
    going: Vec<Kept>,
    /// Whole plans.
    ends: Kept,
    /// Least objective, stages and bytes of a whole plan; what is worse is of no use.
    best: Option<Vec<u64>>,
    scratch: Vec<u64>,
    least: Vec<u64>,
    /// A label while the scratch holds what it would be if its device ended.
    held: Vec<u64>,
    /// Labels of devices that go on, extended since it was asked whether to give up.
    since: usize,
}

impl<'a> Search<'a> {
    /// Finds all whole plans that no other dominates; with one objective and ties, the best, and what
    /// exceeds a known one is not looked for. `stop` is asked now and then whether to give up.
    pub(super) fn run(&self, stop: &mut dyn FnMut() -> bool) -> Found {
        let width = self.layout.width();
        let borders = self.steps.ideals.borders.len();
        let lists = borders * self.steps.costs.devices().len() * self.codecs.len();
        let known = self.known.iter().map(|known| known[0]).min();
        let best = known.filter(|_| self.layout.ties).map(|known| vec![known, u64::MAX, u64::MAX]);
        let mut table = Table {
            search: self,
            width,
            values: Vec::new(),
            origins: Vec::new(),
            at: vec![Kept::default(); lists],
            going: vec![Kept::default(); self.scatters.map_or(0, |s| 2 * s.combinations())],
            ends: Kept::default(),
            best,
            scratch: vec![0; width],
            least: Vec::new(),
            held: Vec::new(),
            since: 0,
        };
        if !self.layout.ties {
            for values in self.known {
                if !table.ends.beats(values, 0, 0) {
                    table.ends.insert(KNOWN, 0, values, |_| {});
                }
            }
        }
        let open = table.fill(stop);
        let ends = table.ends.labels().iter().filter(|&&end| end != KNOWN);
        let ended = ends.map(|&end| table.ended(end)).collect();
        Found { ended, open, labels: table.origins.len() }
    }
}

impl Table<'_> {
    /// Extends all labels border by border; the least open objective where it was stopped.
    fn fill(&mut self, stop: &mut dyn FnMut() -> bool) -> Option<u64> {
        let steps = self.search.steps;
        self.first_stages();
        self.first_pauses();
        let borders = match self.search.stages {
            Stages::One => 0..1,
            Stages::Any | Stages::Several => 0..steps.ideals.last(),
        };
        for border in borders {
            if stop() || self.origins.len() > self.search.most_labels {
                return Some(self.least_open(border));
            }
            self.thin(border);
            if self.scatter_at(border, stop) || self.extend_all(border, stop) {
                return Some(self.least_open(border));
            }
        }
        let last = steps.ideals.last();
        self.scatter_at(last, stop).then(|| self.least_open(last))
    }

    /// Plans whose first stage is on the source; and the one label of a source without a stage.
    fn first_stages(&mut self) {
        let steps = self.search.steps;
        let source = DeviceId::SOURCE;
        for to in self.first_border(1)..steps.ideals.borders.len() {
            for option in 0..steps.costs.device(source).options.len() {
                for codec in 0..self.codecs_at(to) {
                    let encode = self.search.codecs[codec];
                    let Some(stage) = steps.stage(source, option, [0, to], None, encode) else {
                        continue;
                    };
                    self.scratch.fill(0);
                    if self.add_stage(source, option, [0, to], stage) {
                        self.count(1, Bytes::ZERO);
                        self.keep(Origin::new(ROOT, source, option, codec, to));
                    }
                }
            }
        }
        let stage = steps.forward_only();
        self.scratch.fill(0);
        self.add_busy(stage);
        self.keep(Origin::new(ROOT, source, 0, 0, 0));
    }

    /// The first border from one on that a stage may end at.
    fn first_border(&self, from: usize) -> usize {
        match self.search.stages {
            Stages::One => self.search.steps.ideals.last(),
            Stages::Any | Stages::Several => from,
        }
    }

    /// Codecs do not matter where nothing is sent on.
    fn codecs_at(&self, border: usize) -> usize {
        match border == self.search.steps.ideals.last() {
            true => 1,
            false => self.search.codecs.len(),
        }
    }

    fn list(&self, border: usize, device: usize, codec: usize) -> usize {
        let devices = self.search.steps.costs.devices().len();
        (border * devices + device) * self.search.codecs.len() + codec
    }

    /// Leaves only the most promising labels of a border where a beam is set.
    fn thin(&mut self, border: usize) {
        let Some(beam) = self.search.effort.beam else { return };
        let devices = self.search.steps.costs.devices().len();
        for device in 0..devices {
            for codec in 0..self.search.codecs.len() {
                let list = self.list(border, device, codec);
                let mut labels = self.at[list].labels().to_vec();
                if labels.len() <= beam {
                    continue;
                }
                // The best by each quantity in turn, so that a front is broad.
                for turn in 0..beam {
                    let at = turn % self.search.layout.quantities.len();
                    let key = |label: u32| {
                        let start = label as usize * self.width;
                        let values = &self.values[start..start + self.width];
                        let sum = values.iter().fold(0u64, |sum, v| sum.saturating_add(*v));
                        (self.least(at, label), sum)
                    };
                    let best = (turn..labels.len()).min_by_key(|&i| key(labels[i]));
                    if let Some(best) = best {
                        labels.swap(turn, best);
                    }
                }
                for &label in labels.iter().skip(beam) {
                    self.origins[label as usize].alive = false;
                }
            }
        }
    }

    /// True where it was stopped on the way.
    fn extend_all(&mut self, border: usize, stop: &mut dyn FnMut() -> bool) -> bool {
        let steps = self.search.steps;
        let devices = steps.costs.devices().len();
        let here = &steps.ideals.borders[border];
        let next: Vec<usize> = (self.first_border(border + 1)..steps.ideals.borders.len())
            .filter(|&to| here.is_within(&steps.ideals.borders[to]))
            .collect();
        let mut since = 0;
        for to_device in 1..devices {
            let device = DeviceId::new(to_device);
            let mut hops: Vec<(Vec<u32>, usize, HopCost)> = Vec::new();
            for from in (0..devices).filter(|&from| from != to_device) {
                let Some(link) = steps.costs.link(DeviceId::new(from), device) else { continue };
                for codec in 0..self.search.codecs.len() {
                    let labels = self.extendable(border, from, codec, to_device);
                    if labels.is_empty() {
                        continue;
                    }
                    let encoding = self.search.codecs[codec];
                    if let Some(hop) = steps.hop(link, border, encoding) {
                        hops.push((labels, encoding, hop));
                    }
                }
            }
            if hops.is_empty() {
                continue;
            }
            self.pauses(border, device, &hops);
            for option in 0..steps.costs.device(device).options.len() {
                for &to in &next {
                    if !self.may_matter(device, option, border, to) {
                        continue;
                    }
                    for codec in 0..self.codecs_at(to) {
                        let mut stage: Option<(usize, StageCost)> = None;
                        for (labels, decode, hop) in &hops {
                            if stage.is_none_or(|(known, _)| known != *decode) {
                                let encode = self.search.codecs[codec];
                                let cost = steps.stage(
                                    device,
                                    option,
                                    [border, to],
                                    Some(*decode),
                                    encode,
                                );
                                let Some(cost) = cost else { break };
                                stage = Some((*decode, cost));
                            }
                            let Some((_, cost)) = stage else { break };
                            for &label in labels {
                                since += 1;
                                let next = Origin::new(label, device, option, codec, to);
                                self.extend(next, cost, hop);
                            }
                        }
                    }
                    if since > 100_000 {
                        since = 0;
                        if stop() || self.origins.len() > self.search.most_labels {
                            return true;
                        }
                    }
                }
            }
        }
        false
    }

    /// Labels here that may go on to a device: it is not used yet, nor is a twin of it left.
    fn extendable(&self, border: usize, from: usize, codec: usize, to: usize) -> Vec<u32> {
        let free = |used: u32| {
            let twin = self.search.twins[to];
            used >> to & 1 == 0 && twin.is_none_or(|twin| used >> twin & 1 == 1)
        };
        let labels = self.at[self.list(border, from, codec)].labels().iter().copied();
        labels
            .filter(|&label| {
                let origin = &self.origins[label as usize];
                origin.alive && free(origin.used)
            })
            .collect()
    }

    /// Whether the stage alone leaves any hope.
    fn may_matter(&self, device: DeviceId, option: usize, from: usize, to: usize) -> bool {
        let Search { steps, layout, bounds, .. } = self.search;
        let Some(compute) = steps.compute(device, option, from, to) else { return false };
        let memory = steps.costs.device(device).memory;
        if let Some(limit) = memory
            && !layout.has(Quantity::Excess)
            && steps.memory(device, option, from, to) > limit
        {
            return false;
        }
        let rest = |at| bounds.rest(at, to, device.index(), 1 << device.index());
        if let Some(regions) = self.search.regions
            && !regions.may_hold_stage(steps, layout, bounds, (device, option), [from, to])
        {
            return false;
        }
        layout.quantities.iter().enumerate().all(|(at, &quantity)| {
            let least = match quantity {
                Quantity::Latency => compute.0.saturating_add(rest(at)),
                Quantity::Period => compute.0.max(rest(at)),
                _ => 0,
            };
            least <= layout.limits[at]
                && (at > 0 || self.best.as_ref().is_none_or(|best| least <= best[0]))
        })
    }

    /// Goes on from a label by a hop and a stage; `next` is what comes of it.
    fn extend(&mut self, next: Origin, stage: StageCost, hop: &HopCost) {
        let parent = self.origins[next.parent as usize];
        let start = next.parent as usize * self.width;
        self.scratch.copy_from_slice(&self.values[start..start + self.width]);
        self.add_hop(hop);
        let borders = [parent.border(), next.border()];
        if self.add_stage(next.device(), next.option.into(), borders, stage) {
            self.count(1, hop.bytes);
            self.keep(Origin { used: parent.used | 1 << next.device, ..next });
        }
    }

    fn count(&mut self, stages: u64, bytes: Bytes) {
        if self.search.layout.ties {
            let at = self.search.layout.ties_at();
            self.scratch[at] += stages;
            self.scratch[at + 1] = self.scratch[at + 1].saturating_add(bytes.0);
        }
    }

    fn add_hop(&mut self, hop: &HopCost) {
        let layout = self.search.layout;
        let mut busiest = hop.out.max(hop.back);
        // What goes out at one end comes in at the other: messages at the sender's end go out.
        let ends = [[hop.out, hop.back], [hop.back, hop.out]];
        for (card, times) in hop.cards.into_iter().zip(ends) {
            let Some(card) = card.filter(|&card| card < layout.cards) else { continue };
            for (direction, time) in times.into_iter().enumerate() {
                let at = layout.cards_at() + 2 * card + direction;
                self.scratch[at] = self.scratch[at].saturating_add(time.0);
                busiest = busiest.max(Nanos(self.scratch[at]));
            }
        }
        let [sender, receiver] = hop.energy;
        for (at, quantity) in layout.quantities.iter().enumerate() {
            let value = &mut self.scratch[at];
            match quantity {
                Quantity::Latency => *value = value.saturating_add(hop.latency.0),
                Quantity::Period => *value = (*value).max(busiest.0),
                Quantity::Energy => {
                    *value = value.saturating_add((sender + receiver).0);
                }
                Quantity::Money => *value = value.saturating_add(hop.money),
                Quantity::DeviceEnergy | Quantity::Memory | Quantity::Excess => {}
            }
        }
        if layout.open_energy {
            let open = layout.open_at();
            let total = self.scratch[open].saturating_add(sender.0);
            self.raise(Quantity::DeviceEnergy, total);
            self.scratch[open] = receiver.0;
        }
    }

    /// Adds a stage; false where its host's memory is exceeded.
    fn add_stage(
        &mut self,
        device: DeviceId,
        option: usize,
        [from, to]: [usize; 2],
        stage: StageCost,
    ) -> bool {
        let Search { steps, layout, .. } = self.search;
        if layout.counts_memory(steps.costs.device(device)) {
            let bytes = steps.memory(device, option, from, to).0;
            if !self.add_memory(device, bytes) {
                return false;
            }
        }
        self.add_busy(stage);
        true
    }

    /// Adds what a device occupies; false where its host's memory is exceeded.
    fn add_memory(&mut self, device: DeviceId, mut bytes: u64) -> bool {
        let Search { steps, layout, .. } = self.search;
        let costs = steps.costs.device(device);
        if let Some(position) = layout.hosts.iter().position(|&host| host == costs.host) {
            let at = layout.hosts_at() + position;
            bytes = bytes.saturating_add(self.scratch[at]);
            self.scratch[at] = bytes;
        }
        let excess = costs.memory.map_or(0, |limit| bytes.saturating_sub(limit.0));
        if excess > 0 && !layout.has(Quantity::Excess) {
            return false;
        }
        self.raise(Quantity::Memory, bytes);
        self.raise(Quantity::Excess, excess);
        true
    }

    fn add_busy(&mut self, stage: StageCost) {
        self.add_cost(stage, stage.busy);
    }

    /// What a device does in all, of which the frame has not yet waited for `latency`.
    fn add_cost(&mut self, stage: StageCost, latency: Nanos) {
        let layout = self.search.layout;
        for (at, quantity) in layout.quantities.iter().enumerate() {
            let value = &mut self.scratch[at];
            match quantity {
                Quantity::Latency => *value = value.saturating_add(latency.0),
                Quantity::Period => *value = (*value).max(stage.busy.0),
                Quantity::Energy => *value = value.saturating_add(stage.energy.0),
                Quantity::Money => *value = value.saturating_add(stage.money),
                Quantity::DeviceEnergy | Quantity::Memory | Quantity::Excess => {}
            }
        }
        if layout.open_energy {
            let open = layout.open_at();
            self.scratch[open] = self.scratch[open].saturating_add(stage.energy.0);
            let energy = self.scratch[open];
            self.raise(Quantity::DeviceEnergy, energy);
        }
    }

    fn raise(&mut self, quantity: Quantity, to: u64) {
        if let Some(at) = self.search.layout.quantities.iter().position(|&q| q == quantity) {
            self.scratch[at] = self.scratch[at].max(to);
        }
    }

    /// Keeps the label in the scratch if it may lead to a plan that is asked for.
    fn keep(&mut self, origin: Origin) {
        let (border, used) = (origin.border(), origin.used);
        let last = border == self.search.steps.ideals.last();
        if last
            && self.search.stages == Stages::Several
            && used.count_ones() < 2 + u32::from(!self.source_works(&origin))
        {
            return;
        }
        self.lift(&origin);
        if !self.may_be_asked_for(&origin) || !self.has_capacity(border, used) {
            return;
        }
        let slack = self.search.effort.slack_ppm;
        let list = self.list(border, origin.device.into(), origin.codec.into());
        if last {
            if self.search.layout.ties {
                self.end_best(origin);
                return;
            }
            // Whole plans are compared by what was asked for; what they share is past.
            let asked = self.search.layout.asked;
            let mut ends = std::mem::take(&mut self.ends);
            if !ends.beats(&self.scratch[..asked], 0, slack) {
                let label = self.push(origin);
                ends.insert(label, 0, &self.scratch[..asked], |_| {});
            }
            self.ends = ends;
            return;
        }
        let asked = self.search.layout.asked;
        if !self.search.layout.ties && self.ends.beats(&self.least[..asked], 0, slack) {
            return;
        }
        let mut labels = std::mem::take(&mut self.at[list]);
        if !labels.beats(&self.scratch, used, slack) {
            let label = self.push(origin);
            let origins = &mut self.origins;
            labels.insert(label, used, &self.scratch, |gone| origins[gone as usize].alive = false);
        }
        self.at[list] = labels;
    }

    /// Whether the source runs a stage of the plan that a new label belongs to.
    fn source_works(&self, origin: &Origin) -> bool {
        let mut first = *origin;
        while first.parent != ROOT {
            first = self.origins[first.parent as usize];
        }
        first.border > 0 || first.state == State::Paused
    }

    /// Of whole plans only the best is kept: objective, stages, bytes, then the smaller mapping.
    fn end_best(&mut self, origin: Origin) {
        let at = self.search.layout.ties_at();
        let key = vec![self.scratch[0], self.scratch[at], self.scratch[at + 1]];
        if self.best.as_ref().is_some_and(|best| key > *best) {
            return;
        }
        let tie = self.best.as_ref() == Some(&key);
        let label = self.push(origin);
        if let (true, Some(&known)) = (tie, self.ends.labels().last()) {
            let order = |ended: Ended| (ended.mapping, ended.setting);
            if order(self.ended(known)) <= order(self.ended(label)) {
                return;
            }
        }
        self.best = Some(key);
        self.ends = Kept::default();
        self.ends.insert(label, 0, &[], |_| {});
    }

    fn push(&mut self, origin: Origin) -> u32 {
        let label = self.origins.len() as u32;
        self.values.extend_from_slice(&self.scratch);
        self.origins.push(origin);
        label
    }

    /// Raises what the label in the scratch has cost to what every plan that begins with it will
    /// cost, where that is a maximum: what is lost in the maximum anyhow tells no labels apart. Notes
    /// the least that each quantity comes to.
    fn lift(&mut self, origin: &Origin) {
        let Search { steps, layout, bounds, .. } = self.search;
        let (border, device) = (origin.border(), usize::from(origin.device));
        let open = (layout.open_energy && border != steps.ideals.last())
            .then(|| (layout.open_at(), bounds.send(border, device)));
        if let Some((at, [send, _])) = open {
            self.raise(Quantity::DeviceEnergy, self.scratch[at].saturating_add(send));
        }
        self.least.clear();
        for (at, &quantity) in layout.quantities.iter().enumerate() {
            let rest = bounds.rest(at, border, device, origin.used);
            let value = &mut self.scratch[at];
            self.least.push(match Layout::rule(quantity) {
                Rule::Sum => value.saturating_add(rest),
                Rule::Max => {
                    *value = rest.max(*value);
                    *value
                }
            });
            if let (Some((at, [_, send])), Quantity::DeviceEnergy) = (open, quantity) {
                // Whatever the last device spends on sending, it is not the one that spends most.
                let harmless = self.least[self.least.len() - 1].saturating_sub(send);
                self.scratch[at] = harmless.max(self.scratch[at]);
            }
        }
        if layout.open_energy && open.is_none() {
            self.scratch[layout.open_at()] = 0;
        }
    }

    /// Whether the least that the label in the scratch comes to is within the limits, and not more
    /// than a plan that is known.
    fn may_be_asked_for(&self, origin: &Origin) -> bool {
        let limits = &self.search.layout.limits;
        let device = usize::from(origin.device);
        let open = |regions: &Regions| {
            regions.may_hold(&self.least, [origin.border(), device], origin.used)
        };
        self.least.iter().zip(limits).all(|(least, limit)| least <= limit)
            && self.best.as_ref().is_none_or(|best| self.least[0] <= best[0])
            && self.search.regions.is_none_or(open)
    }

    /// Whether the devices that are left can do the rest in the period that is known already.
    fn has_capacity(&self, border: usize, used: u32) -> bool {
        let Search { layout, bounds, .. } = self.search;
        match (&self.best, layout.quantities[0]) {
            (Some(best), Quantity::Period) => bounds.fits(border, used, best[0]),
            _ => true,
        }
    }

    /// Least objective of anything that the labels from a border on could become.
    fn least_open(&self, border: usize) -> u64 {
        let open = self.origins.iter().enumerate().filter(|(_, origin)| {
            origin.alive
                && origin.border as usize >= border
                && (origin.border() != self.search.steps.ideals.last()
                    || origin.state != State::Ended)
        });
        open.map(|(label, _)| self.least(0, label as u32)).min().unwrap_or(u64::MAX)
    }

    /// The least that a quantity comes to in a plan that begins with a label.
    fn least(&self, at: usize, label: u32) -> u64 {
        let Search { layout, bounds, .. } = self.search;
        let origin = &self.origins[label as usize];
        let value = self.values[label as usize * self.width + at];
        let (border, device) = (origin.border(), usize::from(origin.device));
        let rest = match origin.state {
            State::Ended => bounds.rest(at, border, device, origin.used),
            State::Paused | State::Joined => bounds.rest_going(at, border, device, origin.used),
        };
        match Layout::rule(layout.quantities[at]) {
            Rule::Sum => value.saturating_add(rest),
            Rule::Max => value.max(rest),
        }
    }

    /// Whether a plan costs what its beginning was said to come to at least, and leaves no less of
    /// the period.
    fn is_bounded(&self, label: u32, values: &[u64]) -> bool {
        let Search { layout, bounds, .. } = self.search;
        let origin = &self.origins[label as usize];
        let fits = || bounds.fits(origin.border(), origin.used, values[0]);
        let ended = layout.quantities[0] == Quantity::Period && origin.state == State::Ended;
        (0..layout.quantities.len()).all(|at| self.least(at, label) <= values[at])
            && (!ended || fits())
    }

    /// The plan that ends with a label.
    fn ended(&self, end: u32) -> Ended {
        let steps = self.search.steps;
        let mut mapping = Mapping::uniform(steps.dag, DeviceId::SOURCE);
        let mut setting = Setting { input: steps.input, ..Setting::first(steps.costs) };
        let start = end as usize * self.width;
        let values = self.values[start..start + self.width].to_vec();
        let mut label = end;
        loop {
            debug_assert!(self.is_bounded(label, &values), "{label} of {end}: {values:?}");
            let origin = &self.origins[label as usize];
            let device = origin.device();
            let from = match origin.parent {
                ROOT => 0,
                parent => self.origins[parent as usize].border as usize,
            };
            let (first, second) =
                (&steps.ideals.borders[from], &steps.ideals.borders[origin.border as usize]);
            for group in first.until(second) {
                mapping.0[group.index()] = device;
            }
            if origin.state == State::Joined {
                self.give_to_helpers(origin, &mut mapping, &mut setting);
            }
            if second.size > first.size {
                setting.engines[device.index()] = origin.option.into();
                setting.order.push(device);
            }
            if origin.border() != steps.ideals.last() || origin.state != State::Ended {
                setting.codecs[device.index()] = self.search.codecs[usize::from(origin.codec)];
            }
            if origin.parent == ROOT {
                break;
            }
            label = origin.parent;
        }
        setting.order.reverse();
        setting.order.dedup();
        setting.helpers.sort_unstable();
        Ended { values, ties_at: self.search.layout.ties_at(), mapping, setting }
    }
}
