//! Labels whose last device goes on: scatter groups in a search.
//!
//! ```text
//! label ──hop, stage──► paused at a block ──way──► joined behind it ──rest of its stage──► label
//!                               ▲                        │
//!                               └──── to the next block ─┘
//! ```
//!
//! What such a device costs is known only when its last stage has ended, so these labels carry what it
//! did so far. They are compared among those of the same place, device, option and codec.

use super::{
    super::{
        layout::{Layout, Quantity},
        scatter::{Member, Scatters},
        steps::HopCost,
        waiting,
    },
    Mapping, Origin, ROOT, Search, Setting, State, Table,
};
use crate::{
    evaluate::Work,
    platform::DeviceId,
    units::{Bytes, Nanos},
};

/// Labels that are extended before it is asked again whether to give up.
const OFTEN: usize = 10_000;

/// One stage of a device that goes on, or the rest of it.
#[derive(Clone, Copy)]
struct Stretch {
    device: DeviceId,
    work: Work,
    parameters: Bytes,
    peak: Bytes,
}

/// Who goes on, with what, and the labels of it.
struct Going {
    device: DeviceId,
    option: usize,
    codec: usize,
    labels: Vec<u32>,
}

impl Table<'_> {
    /// Beginnings of plans in which the source goes on after its first stage, or begins with a block.
    pub(super) fn first_pauses(&mut self) {
        let Some(scatters) = self.search.scatters else { return };
        for (place, at) in scatters.places.iter().map(|place| place.from).enumerate() {
            let source = DeviceId::SOURCE;
            for option in 0..self.search.steps.costs.device(source).options.len() {
                let Some(stretch) = self.stretch(source, option, [0, at], Nanos::ZERO) else {
                    continue;
                };
                for codec in 0..self.search.codecs.len() {
                    if scatters.ways(place, source.index(), option, codec).is_empty() {
                        continue;
                    }
                    self.scratch.fill(0);
                    if at > 0 {
                        self.go(stretch);
                        self.count(1, Bytes::ZERO);
                    }
                    let origin = Origin::new(ROOT, source, option, codec, at);
                    self.keep_going(Origin { state: State::Paused, ..origin });
                }
            }
        }
    }

    /// Goes on from labels of a border by a hop and a stage that ends where a block begins.
    pub(super) fn pauses(
        &mut self,
        border: usize,
        device: DeviceId,
        hops: &[(Vec<u32>, usize, HopCost)],
    ) {
        let Some(scatters) = self.search.scatters else { return };
        let steps = self.search.steps;
        let here = &steps.ideals.borders[border];
        for (place, at) in scatters.places.iter().map(|place| place.from).enumerate() {
            if at <= border || !here.is_within(&steps.ideals.borders[at]) {
                continue;
            }
            for option in 0..steps.costs.device(device).options.len() {
                for codec in 0..self.search.codecs.len() {
                    if scatters.ways(place, device.index(), option, codec).is_empty() {
                        continue;
                    }
                    for (labels, decode, hop) in hops {
                        let [_, decode] = steps.coding((device, option), border, *decode);
                        let stretch = self.stretch(device, option, [border, at], decode);
                        let Some(stretch) = stretch else { break };
                        for &label in labels {
                            self.take_up(label);
                            self.add_hop(hop);
                            self.go(stretch);
                            self.count(1, hop.bytes);
                            let used = self.origins[label as usize].used | 1 << device.index();
                            let origin = Origin::new(label, device, option, codec, at);
                            self.keep_going(Origin { state: State::Paused, used, ..origin });
                        }
                    }
                }
            }
        }
    }

    /// Extends the labels of a border whose device goes on; true where it was stopped on the way.
    pub(super) fn scatter_at(&mut self, border: usize, stop: &mut dyn FnMut() -> bool) -> bool {
        let Some(scatters) = self.search.scatters else { return false };
        if let Some(place) = scatters.ending_at(border)
            && self.go_on(scatters, place, stop)
        {
            return true;
        }
        scatters.starting_at(border).is_some_and(|place| self.give_away(scatters, place, stop))
    }

    /// From behind a block to every border at which the stage that joined it may end.
    fn go_on(&mut self, scatters: &Scatters, place: usize, stop: &mut dyn FnMut() -> bool) -> bool {
        let steps = self.search.steps;
        let (from, last) = (scatters.places[place].to, steps.ideals.last());
        let borders = &steps.ideals.borders;
        let next: Vec<usize> =
            (from..=last).filter(|&to| borders[from].is_within(&borders[to])).collect();
        let counts_memory = self.search.layout.own_memory_at().is_some();
        for Going { device, option, codec, labels } in self.going_at(scatters, place, State::Joined)
        {
            for &to in &next {
                if self.is_over(labels.len(), stop) {
                    return true;
                }
                let Some(work) = steps.work(device, option, [from, to]) else { continue };
                let peak =
                    if counts_memory { scatters.join_peak(steps, place, to) } else { Bytes::ZERO };
                let parameters = steps.parameters(from, to);
                let stretch = Stretch { device, work, parameters, peak };
                let encode = match to == last {
                    true => Nanos::ZERO,
                    false => steps.coding((device, option), to, self.search.codecs[codec])[0],
                };
                for &label in &labels {
                    let used = self.origins[label as usize].used;
                    let origin = Origin { used, ..Origin::new(label, device, option, codec, to) };
                    self.take_up(label);
                    self.go(stretch);
                    if scatters.starting_at(to).is_some() {
                        self.keep_going(Origin { state: State::Paused, ..origin });
                    }
                    self.work(device, Work { busy: encode, ..Work::default() });
                    if self.end_device(device, option) {
                        self.keep(origin);
                    }
                }
            }
        }
        false
    }

    /// By every way that a block has from where it begins to where it is joined.
    fn give_away(
        &mut self,
        scatters: &Scatters,
        place: usize,
        stop: &mut dyn FnMut() -> bool,
    ) -> bool {
        let rules = self.search.layout.rules();
        let to = scatters.places[place].to;
        for Going { device, option, codec, labels } in self.going_at(scatters, place, State::Paused)
        {
            let ways = scatters.ways(place, device.index(), option, codec);
            for (number, way) in (0u32..).zip(ways) {
                if self.is_over(labels.len(), stop) {
                    return true;
                }
                for &label in &labels {
                    let used = self.origins[label as usize].used;
                    if way.helpers & used != 0 || !self.in_turn(way.helpers, used) {
                        continue;
                    }
                    self.take_up(label);
                    for ((value, &more), rule) in self.scratch.iter_mut().zip(&way.adds).zip(&rules)
                    {
                        rule.apply(value, more);
                    }
                    if self.settle_shared() {
                        let origin = Origin::new(label, device, option, codec, to);
                        let used = used | way.helpers;
                        let (state, way) = (State::Joined, number);
                        self.keep_going(Origin { state, used, way, ..origin });
                    }
                }
            }
        }
        false
    }

    /// Whether to give up before so many labels are extended; asked once for many of them.
    fn is_over(&mut self, labels: usize, stop: &mut dyn FnMut() -> bool) -> bool {
        self.since += labels;
        if self.since < OFTEN {
            return false;
        }
        self.since = 0;
        stop() || self.origins.len() > self.search.most_labels
    }

    /// Whether no helper is left unused that is like one of these and of a lower number.
    fn in_turn(&self, helpers: u32, used: u32) -> bool {
        let twins = self.search.twins.iter().enumerate();
        let mut twins = twins.filter(|(device, _)| helpers >> device & 1 == 1);
        twins.all(|(_, twin)| twin.is_none_or(|twin| (helpers | used) >> twin & 1 == 1))
    }

    /// Labels of a place in a state; where a beam is set, the most promising.
    fn going_at(&self, scatters: &Scatters, place: usize, state: State) -> Vec<Going> {
        let costs = self.search.steps.costs;
        let mut all = Vec::new();
        for device in costs.device_ids() {
            for option in 0..costs.device(device).options.len() {
                for codec in 0..self.search.codecs.len() {
                    let at = going_list(scatters, place, state, (device, option, codec));
                    let mut labels = self.going[at].labels().to_vec();
                    if let Some(beam) = self.search.effort.beam {
                        labels.sort_by_key(|&label| self.promise(label));
                        labels.truncate(beam);
                    }
                    if !labels.is_empty() {
                        all.push(Going { device, option, codec, labels });
                    }
                }
            }
        }
        all
    }

    /// The objective as far as it is known.
    fn promise(&self, label: u32) -> u64 {
        let layout = self.search.layout;
        let busy = layout.own_busy_at().filter(|_| layout.quantities[0] == Quantity::Period);
        let busy = busy.map_or(0, |at| self.values[label as usize * self.width + at]);
        self.least(0, label).max(busy)
    }

    fn take_up(&mut self, label: u32) {
        let start = label as usize * self.width;
        self.scratch.copy_from_slice(&self.values[start..start + self.width]);
    }

    /// A stage from an engine's call to where a block begins.
    fn stretch(
        &self,
        device: DeviceId,
        option: usize,
        [from, to]: [usize; 2],
        decode: Nanos,
    ) -> Option<Stretch> {
        let steps = self.search.steps;
        let mut work = steps.work(device, option, [from, to])?;
        let call = steps.costs.device(device).options[option].call;
        work.busy += call + steps.prepare(device, from, to) + decode;
        let counts_memory = self.search.layout.own_memory_at().is_some();
        let peak = if counts_memory { steps.peak(from, to) } else { Bytes::ZERO };
        Some(Stretch { device, work, parameters: steps.parameters(from, to), peak })
    }

    fn go(&mut self, Stretch { device, work, parameters, peak }: Stretch) {
        self.work(device, work);
        if let Some([sum, most]) = self.search.layout.own_memory_at() {
            self.scratch[sum] = self.scratch[sum].saturating_add(parameters.0);
            self.scratch[most] = self.scratch[most].max(peak.0);
        }
    }

    fn work(&mut self, device: DeviceId, work: Work) {
        if let Some(at) = self.search.layout.position(Quantity::Latency) {
            self.scratch[at] = self.scratch[at].saturating_add(work.busy.0);
        }
        let Search { steps, layout, .. } = self.search;
        layout.add_work(&mut self.scratch, steps.costs, device, work);
    }

    /// Counts what cards and shared memories have come to; false where a memory is exceeded.
    fn settle_shared(&mut self) -> bool {
        let layout = self.search.layout;
        let cards = layout.cards_at()..layout.hosts_at();
        if let Some(busiest) = self.scratch[cards].iter().copied().max() {
            self.raise(Quantity::Period, busiest);
        }
        for (position, &host) in layout.hosts.iter().enumerate() {
            let bytes = self.scratch[layout.hosts_at() + position];
            let limit = self.search.steps.costs.devices()[host].memory;
            let excess = limit.map_or(0, |limit| bytes.saturating_sub(limit.0));
            if excess > 0 && !layout.has(Quantity::Excess) {
                return false;
            }
            self.raise(Quantity::Memory, bytes);
            self.raise(Quantity::Excess, excess);
        }
        true
    }

    /// Turns what the device has done into what it costs; false where its memory is exceeded.
    fn end_device(&mut self, device: DeviceId, option: usize) -> bool {
        let (steps, layout) = (self.search.steps, self.search.layout);
        let costs = steps.costs.device(device);
        let mut take = |at: usize| std::mem::take(&mut self.scratch[at]);
        let busy = layout.own_busy_at().map(&mut take);
        let energy = layout.own_energy_at().map(|at| at.map(&mut take));
        let memory = layout.own_memory_at().map(|at| at.map(&mut take));
        if busy.is_some() || energy.is_some() {
            let [powered, carried] = energy.unwrap_or_default();
            let busy = Nanos(busy.unwrap_or(powered));
            let given_time = busy - Nanos(powered);
            let given = waiting::given(steps.costs, device, given_time, carried);
            let cost = steps.cost_of(device, Work { busy, given_time, given });
            self.add_cost(cost, Nanos::ZERO);
        }
        let Some([parameters, peak]) = memory.filter(|_| layout.counts_memory(costs)) else {
            return true;
        };
        let engine = costs.options[option].engine_bytes.0;
        self.add_memory(device, engine.saturating_add(parameters).saturating_add(peak))
    }

    /// Keeps the label in the scratch, whose device goes on, if it may lead to a plan that is asked
    /// for: its device costs no less than if it ended here.
    fn keep_going(&mut self, origin: Origin) {
        let Some(scatters) = self.search.scatters else { return };
        let (border, used, device) = (origin.border(), origin.used, origin.device());
        let place = match origin.state {
            State::Joined => scatters.ending_at(border),
            State::Paused | State::Ended => scatters.starting_at(border),
        };
        let Some(place) = place else { return };
        let busy = self.search.layout.own_busy_at().map(|at| self.scratch[at]);
        let mut held = std::mem::take(&mut self.held);
        held.clear();
        held.extend_from_slice(&self.scratch);
        let hopeful = self.end_device(device, origin.option.into())
            && self.may_go_on(&origin)
            && self.has_capacity_going(&origin, busy.unwrap_or(0));
        self.scratch.copy_from_slice(&held);
        self.held = held;
        if !hopeful {
            return;
        }
        let who = (device, origin.option.into(), origin.codec.into());
        let at = going_list(scatters, place, origin.state, who);
        let mut labels = std::mem::take(&mut self.going[at]);
        // No slack: what a device has done so far may count more than once.
        if !labels.beats(&self.scratch, used, 0) {
            let label = self.push(origin);
            let origins = &mut self.origins;
            labels.insert(label, used, &self.scratch, |gone| origins[gone as usize].alive = false);
        }
        self.going[at] = labels;
    }

    /// Whether the least that the label in the scratch comes to, if its device has done all by now, is
    /// within the limits and better than what is known.
    fn may_go_on(&mut self, origin: &Origin) -> bool {
        let Search { layout, bounds, effort, .. } = self.search;
        let (border, device) = (origin.border(), usize::from(origin.device));
        self.least.clear();
        for (at, &quantity) in layout.quantities.iter().enumerate() {
            let mut value = self.scratch[at];
            let rest = bounds.rest_going(at, border, device, origin.used);
            Layout::rule(quantity).apply(&mut value, rest);
            self.least.push(value);
        }
        self.least.iter().zip(&layout.limits).all(|(least, limit)| least <= limit)
            && self.best.as_ref().is_none_or(|best| self.least[0] <= best[0])
            && (layout.ties || !self.ends.beats(&self.least[..layout.asked], 0, effort.slack_ppm))
    }

    fn has_capacity_going(&self, origin: &Origin, busy: u64) -> bool {
        match (&self.best, self.search.layout.quantities[0]) {
            (Some(best), Quantity::Period) => {
                let device = (origin.device(), busy);
                self.search.bounds.fits_going(origin.border(), origin.used, best[0], device)
            }
            _ => true,
        }
    }

    /// Writes into a plan what helpers do on the way to a joined label.
    pub(super) fn give_to_helpers(
        &self,
        origin: &Origin,
        mapping: &mut Mapping,
        setting: &mut Setting,
    ) {
        let scatters = self.search.scatters;
        let place = scatters.and_then(|s| Some((s, s.ending_at(origin.border())?)));
        let Some((scatters, place)) = place else { return };
        let device = usize::from(origin.device);
        let ways = scatters.ways(place, device, origin.option.into(), origin.codec.into());
        let branches = &scatters.places[place].block.branches;
        for &Member { device, option, codec, branches: bits } in &ways[origin.way as usize].members
        {
            let given = branches.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
            for group in given.flat_map(|(_, branch)| &branch.groups) {
                mapping.0[group.index()] = device;
            }
            setting.engines[device.index()] = option;
            setting.codecs[device.index()] = codec;
            setting.helpers.push((device, origin.device()));
        }
    }
}

fn going_list(
    scatters: &Scatters,
    place: usize,
    state: State,
    (device, option, codec): (DeviceId, usize, usize),
) -> usize {
    2 * scatters.at(place, device.index(), option, codec) + usize::from(state == State::Joined)
}
