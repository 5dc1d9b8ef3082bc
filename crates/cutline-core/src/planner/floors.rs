//! The least that a device does between two borders where it may scatter blocks on the way.
//!
//! For the bounds of a search: every block between the borders counts as what it costs least, on the
//! device alone or by any of its ways, each quantity by itself and helpers free to be used again.

use super::{
    layout::{Layout, Quantity},
    scatter::Scatters,
    steps::Steps,
    waiting,
};
use crate::{cost::Costs, evaluate::device_money, platform::DeviceId, units::Nanos};

/// Sums over blocks, for each device and engine option.
pub(super) struct Floors<'a> {
    steps: &'a Steps<'a>,
    layout: &'a Layout,
    scatters: &'a Scatters,
    lines: Vec<Vec<Line>>,
    /// By border: the first place that does not begin before it, and the first that does not end at
    /// it or before.
    first: Vec<usize>,
    end: Vec<usize>,
}

/// One device with one engine option along all places.
struct Line {
    /// Over the places before each, what is between them included.
    sums: Vec<Floor>,
    unable: Vec<u32>,
    /// From the place before to each; `None`: it cannot be done.
    gaps: Vec<Option<Floor>>,
}

/// The least of each quantity, the engine's call left out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Floor {
    /// Of the frame.
    pub(super) latency: u64,
    /// Of the device.
    pub(super) busy: u64,
    /// Of all devices; nothing where it is not asked for.
    pub(super) energy: u64,
}

impl Floor {
    fn and(self, other: Floor) -> Floor {
        Floor {
            latency: self.latency.saturating_add(other.latency),
            busy: self.busy.saturating_add(other.busy),
            energy: self.energy.saturating_add(other.energy),
        }
    }

    fn less(self, other: Floor) -> Floor {
        Floor {
            latency: self.latency - other.latency,
            busy: self.busy - other.busy,
            energy: self.energy - other.energy,
        }
    }

    pub(super) fn or(self, other: Floor) -> Floor {
        Floor {
            latency: self.latency.min(other.latency),
            busy: self.busy.min(other.busy),
            energy: self.energy.min(other.energy),
        }
    }

    /// The least of a quantity of a stage that does at least this, the engine's call included.
    pub(super) fn stage(
        self,
        costs: &Costs,
        quantity: Quantity,
        (device, option): (DeviceId, usize),
    ) -> u64 {
        let engine = &costs.device(device).options[option];
        let busy = self.busy.saturating_add(engine.call.0);
        match quantity {
            Quantity::Latency => self.latency.saturating_add(engine.call.0),
            Quantity::Period => busy,
            Quantity::Energy => {
                self.energy.saturating_add(waiting::standing(costs, device, Nanos(busy)))
            }
            Quantity::Money => device_money(costs, device, Nanos(busy)).unwrap_or_default().0,
            Quantity::Memory => engine.engine_bytes.0,
            Quantity::DeviceEnergy | Quantity::Excess => 0,
        }
    }
}

impl<'a> Floors<'a> {
    pub(super) fn new(
        steps: &'a Steps,
        layout: &'a Layout,
        scatters: &'a Scatters,
        codecs: usize,
    ) -> Self {
        let borders = &steps.ideals.borders;
        let places = &scatters.places;
        let first = borders.iter().map(|border| {
            let begins = |place: &super::scatter::Place| border.is_within(&borders[place.from]);
            places.iter().position(begins).unwrap_or(places.len())
        });
        let end = borders.iter().map(|border| {
            places.iter().filter(|place| borders[place.to].is_within(border)).count()
        });
        let (first, end) = (first.collect(), end.collect());
        let lines = steps.costs.device_ids().map(|device| {
            let options = 0..steps.costs.device(device).options.len();
            options.map(|option| line(steps, layout, scatters, (device, option), codecs)).collect()
        });
        let lines = lines.collect();
        Floors { steps, layout, scatters, lines, first, end }
    }

    /// The least between two borders; `None` where it cannot be done.
    pub(super) fn between(
        &self,
        device: DeviceId,
        option: usize,
        [from, to]: [usize; 2],
    ) -> Option<Floor> {
        let plain = |borders| plain(self.steps, self.layout, device, option, borders);
        let (first, end) = (self.first[from], self.end[to]);
        if first >= end {
            return plain([from, to]);
        }
        let line = &self.lines[device.index()][option];
        let places = &self.scatters.places;
        let before = plain([from, places[first].from])?;
        let after = plain([places[end - 1].to, to])?;
        let gap = &line.gaps[first];
        let unable = line.unable[first] + u32::from(gap.is_none());
        let inside = line.sums[end].less(line.sums[first]).less(gap.unwrap_or_default());
        (line.unable[end] == unable).then(|| before.and(inside).and(after))
    }

    /// Whether a block between two borders may be scattered.
    pub(super) fn may_scatter(&self, from: usize, to: usize) -> bool {
        self.first[from] < self.end[to]
    }
}

fn plain(
    steps: &Steps,
    layout: &Layout,
    device: DeviceId,
    option: usize,
    borders: [usize; 2],
) -> Option<Floor> {
    let work = steps.work(device, option, borders)?;
    let energy = match layout.has(Quantity::Energy) {
        true => {
            let carried = waiting::carried(steps.costs, device, work);
            waiting::least(steps.costs, device, work.busy - work.given_time, carried)
        }
        false => 0,
    };
    Some(Floor { latency: work.busy.0, busy: work.busy.0, energy })
}

fn line(
    steps: &Steps,
    layout: &Layout,
    scatters: &Scatters,
    (device, option): (DeviceId, usize),
    codecs: usize,
) -> Line {
    let plain = |borders| plain(steps, layout, device, option, borders);
    let mut line = Line { sums: vec![Floor::default()], unable: vec![0], gaps: Vec::new() };
    for (at, place) in scatters.places.iter().enumerate() {
        let gap = match at.checked_sub(1) {
            Some(before) => plain([scatters.places[before].to, place.from]),
            None => Some(Floor::default()),
        };
        let alone = plain([place.from, place.to]);
        let ways = (0..codecs).flat_map(|codec| scatters.ways(at, device.index(), option, codec));
        let least = ways.map(|way| floor_of(steps, layout, device, &way.adds)).chain(alone);
        let least = least.reduce(Floor::or);
        let (sum, unable) = (line.sums[at], line.unable[at]);
        line.sums.push(sum.and(gap.unwrap_or_default()).and(least.unwrap_or_default()));
        line.unable.push(unable + u32::from(gap.is_none()) + u32::from(least.is_none()));
        line.gaps.push(gap);
    }
    line
}

/// What a way adds at least.
fn floor_of(steps: &Steps, layout: &Layout, device: DeviceId, adds: &[u64]) -> Floor {
    let of = |quantity| layout.position(quantity).map_or(0, |at| adds[at]);
    let own = layout.own_energy_at().filter(|_| layout.has(Quantity::Energy));
    let own = own.map_or(0, |[powered, carried]| {
        waiting::least(steps.costs, device, Nanos(adds[powered]), adds[carried])
    });
    Floor {
        latency: of(Quantity::Latency),
        busy: layout.own_busy_at().map_or(0, |at| adds[at]),
        energy: of(Quantity::Energy).saturating_add(own),
    }
}
