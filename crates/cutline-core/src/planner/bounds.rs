//! The least that must follow a border, whoever comes before it.
//!
//! For every quantity by itself a backward pass over the borders, and over the sets of devices that
//! are used up, lets a hop begin at whichever device is cheapest and leaves coding out: a relaxation,
//! so nothing that is really possible costs less. Where there are too many sets, devices may be used
//! again.

use super::{
    labels::{Layout, Quantity, Rule},
    steps::Steps,
};
use crate::platform::DeviceId;

/// Lower bounds by quantity, border and devices used up.
pub(super) struct Bounds {
    rest: Vec<Vec<u64>>,
    /// Sets of devices that are told apart: all of those without the source, or one.
    sets: usize,
    /// Time of all groups behind each border, each on the device that is fastest for it.
    work: Vec<u64>,
    /// How much of that a device does in its own time, at most, in millionths.
    share: Vec<u64>,
}

/// Beyond this many pairs of borders times sets of devices, bounds cost more than they save.
const MOST_WORK: usize = 60_000_000;

impl Bounds {
    pub(super) fn new(steps: &Steps, layout: &Layout, codecs: &[usize]) -> Self {
        let borders = steps.ideals.borders.len();
        let devices = steps.costs.devices().len();
        let work = borders * borders / 2 * devices * layout.quantities.len();
        let all = 1usize.checked_shl(devices as u32 - 1).unwrap_or(usize::MAX);
        let sets = if work.saturating_mul(all) / 2 <= MOST_WORK { all } else { 1 };
        let mut bounds = Bounds {
            rest: vec![vec![0; borders * sets]; layout.quantities.len()],
            sets,
            work: Vec::new(),
            share: Vec::new(),
        };
        bounds.capacities(steps);
        if work <= MOST_WORK {
            bounds.backward(steps, layout, codecs);
        }
        bounds
    }

    /// The least that is still to come of a quantity behind a border, with these devices used up.
    pub(super) fn rest(&self, quantity: usize, border: usize, used: u32) -> u64 {
        self.rest[quantity][border * self.sets + (used as usize >> 1 & (self.sets - 1))]
    }

    /// Whether the devices not used yet can do what is left in this period.
    pub(super) fn fits(&self, border: usize, used: u32, period: u64) -> bool {
        let shares = self.share.iter().enumerate().filter(|(device, _)| used >> device & 1 == 0);
        let share: u128 = shares.map(|(_, &share)| u128::from(share)).sum();
        u128::from(self.work[border]) * 1_000_000 <= u128::from(period) * share
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
        // The source runs the first stage or none: behind a border it does nothing more.
        self.share[DeviceId::SOURCE.index()] = 0;
    }

    fn backward(&mut self, steps: &Steps, layout: &Layout, codecs: &[usize]) {
        let last = steps.ideals.last();
        let devices: Vec<DeviceId> = steps.costs.device_ids().skip(1).collect();
        for rest in &mut self.rest {
            rest[..last * self.sets].fill(u64::MAX);
        }
        for from in (0..last).rev() {
            let here = &steps.ideals.borders[from];
            let next: Vec<usize> =
                (from + 1..=last).filter(|&to| here.is_within(&steps.ideals.borders[to])).collect();
            for &device in &devices {
                let Some(hop) = cheapest_hop(steps, layout, codecs, from, device) else { continue };
                for option in 0..steps.costs.device(device).options.len() {
                    for &to in &next {
                        self.relax(steps, layout, (device, option), [from, to], &hop);
                    }
                }
            }
        }
    }

    fn relax(
        &mut self,
        steps: &Steps,
        layout: &Layout,
        (device, option): (DeviceId, usize),
        [from, to]: [usize; 2],
        hop: &[u64],
    ) {
        let Some(compute) = steps.compute(device, option, from, to) else { return };
        let mut stage = None;
        for (at, &quantity) in layout.quantities.iter().enumerate() {
            let alone = match quantity {
                Quantity::Latency | Quantity::Period => compute.0,
                Quantity::Memory => steps.memory(device, option, from, to).0,
                Quantity::DeviceEnergy | Quantity::Excess => 0,
                Quantity::Energy | Quantity::Money => {
                    let cost =
                        stage.get_or_insert_with(|| steps.bare_stage(device, option, from, to));
                    if quantity == Quantity::Energy { cost.energy.0 } else { cost.money }
                }
            };
            let rule = Layout::rule(quantity);
            let here = match rule {
                Rule::Sum => alone.saturating_add(hop[at]),
                Rule::Max => alone.max(hop[at]),
            };
            // Borders are in order, so what comes later is in the second half.
            let (before, after) = self.rest[at].split_at_mut((from + 1) * self.sets);
            let least = &mut before[from * self.sets..];
            let rest = &after[(to - from - 1) * self.sets..][..self.sets];
            // The bit of the device in a set; none where devices may be used again.
            let bit = if self.sets > 1 { 1 << (device.index() - 1) } else { 0 };
            for used in (0..self.sets).filter(|used| used & bit == 0) {
                let value = match rule {
                    Rule::Sum => here.saturating_add(rest[used | bit]),
                    Rule::Max => here.max(rest[used | bit]),
                };
                least[used] = least[used].min(value);
            }
        }
    }
}

/// Of every quantity the least that a hop into a device costs, whoever sends; `None` where nobody
/// can.
fn cheapest_hop(
    steps: &Steps,
    layout: &Layout,
    codecs: &[usize],
    border: usize,
    to: DeviceId,
) -> Option<Vec<u64>> {
    let mut least: Option<Vec<u64>> = None;
    for from in steps.costs.device_ids().filter(|&from| from != to) {
        let Some(link) = steps.costs.link(from, to) else { continue };
        for &codec in codecs {
            let Some(hop) = steps.hop(link, border, codec) else { continue };
            let of = |quantity: &Quantity| match quantity {
                Quantity::Latency => hop.latency.0,
                Quantity::Period => hop.out.max(hop.back).0,
                Quantity::Energy => (hop.energy[0] + hop.energy[1]).0,
                Quantity::Money => hop.money,
                Quantity::Memory | Quantity::DeviceEnergy | Quantity::Excess => 0,
            };
            let costs: Vec<u64> = layout.quantities.iter().map(of).collect();
            least = Some(match least {
                None => costs,
                Some(least) => least.into_iter().zip(costs).map(|(a, b)| a.min(b)).collect(),
            });
        }
    }
    least
}
