//! The least that must follow a border, whoever comes before it.
//!
//! For every quantity by itself a backward pass over the borders, the devices that may be there last,
//! and the sets of devices that are used up, leaves coding out: a relaxation, so nothing that is
//! really possible costs less. Where there are too many sets, devices may be used again.

use super::{
    floors::{Floor, Floors},
    layout::{Layout, Quantity, Rule},
    scatter::Scatters,
    steps::Steps,
};
use crate::platform::DeviceId;

/// Lower bounds by quantity, border, last device and devices used up.
pub(super) struct Bounds {
    rest: Vec<Vec<u64>>,
    devices: usize,
    /// Sets of devices that are told apart: all of those without the source, or one.
    sets: usize,
    /// Least and greatest energy that passing on over a border takes of a device, by border and
    /// device.
    send: Vec<[u64; 2]>,
    /// Least energy that what comes over a border takes of a device, by border and device.
    receive: Vec<u64>,
    /// Time of all groups behind each border, each on the device that is fastest for it.
    work: Vec<u64>,
    /// How much of that a device does in its own time, at most, in millionths.
    share: Vec<u64>,
    /// As `rest`, where the last device goes on: by quantity, then border and device; empty where
    /// none does.
    going: Vec<Vec<Vec<u64>>>,
}

/// Beyond this many pairs of borders times sets of devices, bounds cost more than they save.
const MOST_WORK: usize = 400_000_000;
/// The same of numbers to be held.
const MOST_BOUNDS: usize = 1 << 24;

/// The hop from one device to another over a border: of each quantity the least of any codec.
pub(super) type Hops = Vec<Option<Vec<u64>>>;

impl Bounds {
    /// `scatters`: ways to run blocks on several devices at once, where they may be taken.
    pub(super) fn new(
        steps: &Steps,
        layout: &Layout,
        codecs: &[usize],
        scatters: Option<&Scatters>,
    ) -> Self {
        let borders = steps.ideals.borders.len();
        let devices = steps.costs.devices().len();
        let work = borders * borders / 2 * devices * layout.quantities.len();
        let all = 1usize.checked_shl(devices as u32 - 1).unwrap_or(usize::MAX);
        let many = work.saturating_mul(all) / 2 > MOST_WORK
            || (borders * devices * layout.quantities.len()).saturating_mul(all) > MOST_BOUNDS;
        let sets = if many { 1 } else { all };
        let mut bounds = Bounds {
            rest: vec![vec![0; borders * devices * sets]; layout.quantities.len()],
            devices,
            sets,
            send: Vec::new(),
            receive: Vec::new(),
            work: Vec::new(),
            share: Vec::new(),
            going: Vec::new(),
        };
        bounds.capacities(steps);
        if layout.open_energy {
            bounds.sending(steps, codecs);
        }
        if work <= MOST_WORK {
            let floors = scatters.map(|s| Floors::new(steps, layout, s, codecs.len()));
            bounds.backward(steps, layout, codecs, floors.as_ref());
            if let (Some(scatters), Some(floors)) = (scatters, &floors) {
                bounds.going_on(steps, layout, scatters, floors);
            }
        }
        bounds
    }

    /// The least that is still to come of a quantity behind a border, for who is there on one device
    /// with these devices used up.
    pub(super) fn rest(&self, quantity: usize, border: usize, last: usize, used: u32) -> u64 {
        let set = used as usize >> 1 & (self.sets - 1);
        self.rest[quantity][(border * self.devices + last) * self.sets + set]
    }

    /// The same where the last device goes on behind the border.
    pub(super) fn rest_going(&self, quantity: usize, border: usize, last: usize, used: u32) -> u64 {
        let set = used as usize >> 1 & (self.sets - 1);
        let sets = self.going.get(quantity).map(|all| &all[border * self.devices + last]);
        sets.and_then(|sets| sets.get(set)).copied().unwrap_or(0)
    }

    /// The least and the greatest energy that passing on over a border takes of a device.
    pub(super) fn send(&self, border: usize, device: usize) -> [u64; 2] {
        self.send[border * self.devices + device]
    }

    /// Whether the devices not used yet can do what is left in this period.
    pub(super) fn fits(&self, border: usize, used: u32, period: u64) -> bool {
        // The source runs the first stage or none: behind a border it does nothing more.
        let used = used | 1 << DeviceId::SOURCE.index();
        let shares = self.share.iter().enumerate().filter(|(device, _)| used >> device & 1 == 0);
        let share: u128 = shares.map(|(_, &share)| u128::from(share)).sum();
        u128::from(self.work[border]) * 1_000_000 <= u128::from(period) * share
    }

    /// As [`Self::fits`], with what is left of the time of a device that goes on.
    pub(super) fn fits_going(
        &self,
        border: usize,
        used: u32,
        period: u64,
        (device, busy): (DeviceId, u64),
    ) -> bool {
        let shares = self.share.iter().enumerate().skip(1);
        let free = shares.filter(|&(at, _)| used >> at & 1 == 0);
        let free: u128 = free.map(|(_, &share)| u128::from(share)).sum();
        let own = u128::from(period.saturating_sub(busy)) * u128::from(self.share[device.index()]);
        u128::from(self.work[border]) * 1_000_000 <= u128::from(period) * free + own
    }

    /// How many sets of devices used up are told apart.
    pub(super) fn sets(&self) -> usize {
        self.sets
    }

    fn sending(&mut self, steps: &Steps, codecs: &[usize]) {
        for border in 0..steps.ideals.last() {
            let energy = |from: DeviceId, to: DeviceId| {
                let link = steps.costs.link(from, to).filter(|_| from != to);
                let hops = codecs.iter().filter_map(move |&codec| steps.hop(link?, border, codec));
                hops.map(|hop| hop.energy.map(|energy| energy.0))
            };
            for here in steps.costs.device_ids() {
                let sent = steps.costs.device_ids().skip(1).flat_map(|to| energy(here, to));
                let both = sent.fold([u64::MAX, 0], |[least, most], [sender, _]| {
                    [least.min(sender), most.max(sender)]
                });
                // Where nobody can be sent to, no plan goes on.
                self.send.push(if both[0] > both[1] { [0, u64::MAX] } else { both });
                let received = steps.costs.device_ids().flat_map(|from| energy(from, here));
                let least = received.map(|[_, receiver]| receiver).min();
                self.receive.push(least.unwrap_or(0));
            }
        }
        self.send.resize(steps.ideals.borders.len() * self.devices, [0, 0]);
    }

    /// The least of a quantity that a stage takes between two borders.
    pub(super) fn alone(
        &self,
        steps: &Steps,
        quantity: Quantity,
        (device, option): (DeviceId, usize),
        [from, to]: [usize; 2],
    ) -> u64 {
        let bare = || steps.bare_stage(device, option, from, to);
        match quantity {
            Quantity::Latency | Quantity::Period => {
                steps.compute(device, option, from, to).map_or(u64::MAX, |time| time.0)
            }
            Quantity::Memory => steps.memory(device, option, from, to).0,
            Quantity::DeviceEnergy => {
                let [send, _] = self.send(to, device.index());
                let receive = self.receive[from * self.devices + device.index()];
                bare().energy.0.saturating_add(send).saturating_add(receive)
            }
            Quantity::Energy => bare().energy.0,
            Quantity::Money => bare().money,
            Quantity::Excess => 0,
        }
    }

    fn capacities(&mut self, steps: &Steps) {
        let options = || steps.costs.devices().iter().flat_map(|device| &device.options);
        let least: Vec<Option<u64>> = steps
            .dag
            .group_ids()
            .map(|id| options().filter_map(|option| option.groups[id.index()]).map(|t| t.0).min())
            .collect();
        for border in &steps.ideals.borders {
            let behind = steps.dag.group_ids().filter(|&id| !border.holds(id));
            let work = behind.filter_map(|id| least[id.index()]).fold(0u64, u64::saturating_add);
            self.work.push(work);
        }
        for device in steps.costs.devices() {
            let share = device.options.iter().map(|option| {
                let times = option.groups.iter().zip(&least);
                let ratios = times.filter_map(|(time, least)| {
                    let (time, least) = ((*time)?.0, (*least)?);
                    (least > 0)
                        .then(|| (u128::from(least) * 1_000_000).div_ceil(time.max(1).into()))
                });
                ratios.max().unwrap_or(0) as u64
            });
            self.share.push(share.max().unwrap_or(0));
        }
    }

    fn backward(
        &mut self,
        steps: &Steps,
        layout: &Layout,
        codecs: &[usize],
        floors: Option<&Floors>,
    ) {
        let last = steps.ideals.last();
        let row = self.devices * self.sets;
        for rest in &mut self.rest {
            rest[..last * row].fill(u64::MAX);
        }
        let mut via = vec![vec![0; self.sets]; layout.quantities.len()];
        for from in (0..last).rev() {
            let next = steps.ideals.after(from);
            for device in steps.costs.device_ids().skip(1) {
                let hops = hops_into(steps, layout, codecs, from, device);
                if hops.iter().all(Option::is_none) {
                    continue;
                }
                via.iter_mut().for_each(|via| via.fill(u64::MAX));
                for option in 0..steps.costs.device(device).options.len() {
                    for &to in &next {
                        let floors = floors.filter(|floors| floors.may_scatter(from, to));
                        self.relax(steps, layout, (device, option), [from, to], floors, &mut via);
                    }
                }
                for (sender, hop) in hops.iter().enumerate() {
                    let Some(hop) = hop else { continue };
                    for (at, &quantity) in layout.quantities.iter().enumerate() {
                        let start = from * row + sender * self.sets;
                        let least = &mut self.rest[at][start..start + self.sets];
                        for (least, &via) in least.iter_mut().zip(&via[at]) {
                            let value = match Layout::rule(quantity) {
                                Rule::Sum => via.saturating_add(hop[at]),
                                Rule::Max => via.max(hop[at]),
                            };
                            *least = (*least).min(value);
                        }
                    }
                }
            }
        }
    }

    /// Lowers what a device can begin at a border with, for every set of devices used up before it,
    /// by one stage and the least that follows it.
    fn relax(
        &self,
        steps: &Steps,
        layout: &Layout,
        (device, option): (DeviceId, usize),
        [from, to]: [usize; 2],
        floors: Option<&Floors>,
        via: &mut [Vec<u64>],
    ) {
        // What the stage does at least, where it may scatter a block.
        let floor = match floors {
            Some(floors) => floors.between(device, option, [from, to]).map(Some),
            None => steps.compute(device, option, from, to).map(|_| None),
        };
        let Some(floor) = floor else { return };
        // The bit of the device in a set; none where devices may be used again.
        let bit = if self.sets > 1 { 1 << (device.index() - 1) } else { 0 };
        for (at, &quantity) in layout.quantities.iter().enumerate() {
            let here = match (floor, quantity) {
                (None, _) => self.alone(steps, quantity, (device, option), [from, to]),
                (Some(_), Quantity::DeviceEnergy) => {
                    let receive = self.receive[from * self.devices + device.index()];
                    self.send(to, device.index())[0].saturating_add(receive)
                }
                (Some(floor), _) => floor.stage(steps.costs, quantity, (device, option)),
            };
            let start = (to * self.devices + device.index()) * self.sets;
            let rest = &self.rest[at][start..start + self.sets];
            let rule = Layout::rule(quantity);
            let lower = |least: &mut [u64], rest: &[u64]| {
                for (least, &rest) in least.iter_mut().zip(rest) {
                    let value = match rule {
                        Rule::Sum => here.saturating_add(rest),
                        Rule::Max => here.max(rest),
                    };
                    *least = (*least).min(value);
                }
            };
            match bit {
                0 => lower(&mut via[at], rest),
                // Sets without the device, and the same sets with it.
                _ => {
                    let halves = via[at].chunks_exact_mut(2 * bit).zip(rest.chunks_exact(2 * bit));
                    halves.for_each(|(least, rest)| lower(&mut least[..bit], &rest[bit..]));
                }
            }
        }
    }
}

impl Bounds {
    /// The least behind every border at which a device may go on, before a scatter group or behind it.
    fn going_on(&mut self, steps: &Steps, layout: &Layout, scatters: &Scatters, floors: &Floors) {
        let borders = &steps.ideals.borders;
        let mut places: Vec<usize> = scatters.places.iter().flat_map(|p| [p.from, p.to]).collect();
        places.sort_unstable();
        places.dedup();
        self.going = vec![vec![Vec::new(); borders.len() * self.devices]; layout.quantities.len()];
        for from in places {
            for device in steps.costs.device_ids() {
                let mut least = vec![vec![u64::MAX; self.sets]; layout.quantities.len()];
                let ends =
                    (from..borders.len()).filter(|&to| borders[from].is_within(&borders[to]));
                for to in ends {
                    let options = 0..steps.costs.device(device).options.len();
                    let floor =
                        options.filter_map(|option| floors.between(device, option, [from, to]));
                    if let Some(floor) = floor.reduce(Floor::or) {
                        self.lower_going(layout, floor, (to, device), &mut least);
                    }
                }
                for (going, least) in self.going.iter_mut().zip(least) {
                    going[from * self.devices + device.index()] = least;
                }
            }
        }
    }

    /// Lowers what is still to come by what a device does up to a border, and what follows that.
    fn lower_going(
        &self,
        layout: &Layout,
        floor: Floor,
        (to, device): (usize, DeviceId),
        least: &mut [Vec<u64>],
    ) {
        for (at, &quantity) in layout.quantities.iter().enumerate() {
            let here = match quantity {
                Quantity::Latency => floor.latency,
                Quantity::Period => floor.busy,
                Quantity::Energy => floor.energy,
                // What the device has cost so far counts already, and these are no sums of parts.
                _ => 0,
            };
            let start = (to * self.devices + device.index()) * self.sets;
            let rest = &self.rest[at][start..start + self.sets];
            for (least, &rest) in least[at].iter_mut().zip(rest) {
                let mut value = here;
                Layout::rule(quantity).apply(&mut value, rest);
                *least = (*least).min(value);
            }
        }
    }
}

/// Of every quantity the least that a hop into a device costs, by sender.
pub(super) fn hops_into(
    steps: &Steps,
    layout: &Layout,
    codecs: &[usize],
    border: usize,
    to: DeviceId,
) -> Hops {
    let from = |from: DeviceId| {
        let link = steps.costs.link(from, to).filter(|_| from != to)?;
        let hops = codecs.iter().filter_map(|&codec| steps.hop(link, border, codec));
        let costs = hops.map(|hop| -> Vec<u64> {
            let of = |quantity: &Quantity| match quantity {
                Quantity::Latency => hop.latency.0,
                Quantity::Period => hop.out.max(hop.back).0,
                Quantity::Energy => (hop.energy[0] + hop.energy[1]).0,
                Quantity::Money => hop.money,
                Quantity::DeviceEnergy => hop.energy[1].0,
                Quantity::Memory | Quantity::Excess => 0,
            };
            layout.quantities.iter().map(of).collect()
        });
        costs.reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| a.min(b)).collect())
    };
    steps.costs.device_ids().map(from).collect()
}
