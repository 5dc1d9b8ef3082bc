//! The least that must follow a border, whoever comes before it.
//!
//! For every quantity a backward pass over the borders lets devices be used again and hops begin at
//! whichever device is cheapest: a relaxation, so nothing that is really possible costs less.

use super::{
    labels::{Layout, Quantity, Rule},
    steps::Steps,
};
use crate::{platform::DeviceId, units::Nanos};

/// Lower bounds by quantity and border.
pub(super) struct Bounds {
    rest: Vec<Vec<u64>>,
    /// Time of all groups behind each border, each on the device that is fastest for it.
    work: Vec<u64>,
    /// How much of that a device does in its own time, at most, in millionths.
    share: Vec<u64>,
}

/// Beyond this many pairs of borders, bounds cost more than they save.
const MOST_PAIRS: usize = 20_000_000;

impl Bounds {
    pub(super) fn new(steps: &Steps, layout: &Layout, codecs: &[usize]) -> Self {
        let borders = steps.ideals.borders.len();
        let mut bounds = Bounds {
            rest: vec![vec![0; borders]; layout.quantities.len()],
            work: Vec::new(),
            share: Vec::new(),
        };
        bounds.capacities(steps);
        let devices = steps.costs.devices().len();
        if borders * borders / 2 * devices <= MOST_PAIRS {
            bounds.backward(steps, layout, codecs);
        }
        bounds
    }

    /// The least that is still to come of a quantity behind a border.
    pub(super) fn rest(&self, quantity: usize, border: usize) -> u64 {
        self.rest[quantity][border]
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
        for at in 0..layout.quantities.len() {
            self.rest[at][..last].fill(u64::MAX);
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
        // Without decoding and encoding: at most what it really is.
        let Some(compute) = steps.compute(device, option, from, to) else { return };
        let mut stage = None;
        for (at, &quantity) in layout.quantities.iter().enumerate() {
            let alone = match quantity {
                Quantity::Latency | Quantity::Period => compute.0,
                Quantity::Memory | Quantity::DeviceEnergy | Quantity::Excess => 0,
                Quantity::Energy | Quantity::Money => {
                    let cost =
                        stage.get_or_insert_with(|| steps.bare_stage(device, option, from, to));
                    if quantity == Quantity::Energy { cost.energy.0 } else { cost.money }
                }
            };
            let rest = self.rest[at][to];
            let value = match Layout::rule(quantity) {
                Rule::Sum => alone.saturating_add(hop[at]).saturating_add(rest),
                Rule::Max => alone.max(hop[at]).max(rest),
            };
            let least = &mut self.rest[at][from];
            *least = (*least).min(value);
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
                Quantity::Period => hop.out.max(hop.back).max(Nanos::ZERO).0,
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
