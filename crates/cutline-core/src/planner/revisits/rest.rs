//! The least that must follow a border, whichever devices run the rest and however often.
//!
//! Work that is left bounds what is largest on one device: with any weights of the devices, the
//! weighted sum of what they all come to is at least what it is now and, for every group that is left,
//! the least of its weighted costs; and the largest is at least the weighted mean. The weights are
//! the dual variables of dividing the groups freely (Lagrange), fitted in a few rounds.

use super::account::{Account, Prices};
use crate::{
    dag::GroupId,
    evaluate::Work,
    planner::{Objective, waiting},
    platform::DeviceId,
    units::Nanos,
};

/// Rounds in which weights are fitted.
const ROUNDS: usize = 60;
/// What a weight is a part of.
const WHOLE: u64 = 1 << 24;

/// Lower bounds by border.
pub(super) struct Rest {
    /// Time and energy of all groups behind a border, each where it takes least.
    time: Vec<u64>,
    energy: Vec<u64>,
    /// What devices are busy for, and their energy.
    busy: Shared,
    burden: Shared,
    /// Parameters behind a border.
    parameters: Vec<u64>,
    hosts: u64,
}

/// What is shared out among devices.
struct Shared {
    weights: Vec<u64>,
    /// Least weighted sum of all groups behind each border.
    behind: Vec<u128>,
}

impl Rest {
    pub(super) fn new(prices: &Prices) -> Self {
        let steps = &prices.steps;
        let devices = steps.costs.devices();
        // By group and device; nothing where the device cannot run it.
        let each =
            |amount: &dyn Fn(usize, usize, GroupId) -> Option<u64>| -> Vec<Vec<Option<u64>>> {
                let least = |id: GroupId, device: usize| {
                    (0..devices[device].options.len()).filter_map(|o| amount(device, o, id)).min()
                };
                let row = |id| (0..devices.len()).map(|device| least(id, device)).collect();
                steps.dag.group_ids().map(row).collect()
            };
        let time = |device: usize, option: usize, id: GroupId| {
            devices[device].options[option].groups[id.index()].map(|time| time.0)
        };
        let energy = |device: usize, option: usize, id: GroupId| {
            let given = devices[device].group_energy.get(id.index()).copied().flatten();
            let time = time(device, option, id)?;
            let (costs, device, time) = (steps.costs, DeviceId::new(device), Nanos(time));
            let work = given.map(|given| Work { busy: time, given_time: time, given });
            let work = work.unwrap_or(Work { busy: time, ..Work::default() });
            let carried = waiting::carried(costs, device, work);
            Some(waiting::least(costs, device, work.busy - work.given_time, carried))
        };
        let (times, energies) = (each(&time), each(&energy));
        let least =
            |row: &Vec<Option<u64>>| u128::from(row.iter().flatten().min().copied().unwrap_or(0));
        let behind = |amounts: &[Vec<Option<u64>>]| -> Vec<u64> {
            let sums = behind(prices, amounts, &least).into_iter();
            sums.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX)).collect()
        };
        let last = steps.ideals.last();
        let mut hosts: Vec<usize> = devices.iter().map(|device| device.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        Rest {
            time: behind(&times),
            energy: behind(&energies),
            busy: Shared::new(prices, &times),
            burden: Shared::new(prices, &energies),
            parameters: (0..=last).map(|border| steps.parameters(border, last).0).collect(),
            hosts: hosts.len() as u64,
        }
    }

    /// The least that an objective comes to in a plan that has cost this much up to a border.
    pub(super) fn least(
        &self,
        prices: &Prices,
        account: &Account,
        border: usize,
        objective: Objective,
    ) -> u64 {
        let costs = prices.steps.costs;
        let now = account.value(costs, objective);
        match objective {
            Objective::Latency => now.saturating_add(self.time[border]),
            Objective::Period => now.max(self.busy.least(border, |at| account.busy(at))),
            Objective::Energy => now.saturating_add(self.energy[border]),
            Objective::DeviceEnergy => {
                now.max(self.burden.least(border, |at| account.energy(costs, at)))
            }
            Objective::Memory => {
                let all = account.memory().0.saturating_add(self.parameters[border]);
                now.max(all.div_ceil(self.hosts))
            }
            Objective::Money => now,
        }
    }
}

impl Shared {
    fn new(prices: &Prices, amounts: &[Vec<Option<u64>>]) -> Self {
        let devices = prices.steps.costs.devices().len();
        let mut weights = vec![WHOLE; devices];
        let mut best: Option<(u128, Vec<u64>)> = None;
        for _ in 0..ROUNDS {
            let (bound, loads) = share_out(amounts, &weights);
            if best.as_ref().is_none_or(|(known, _)| bound > *known) {
                best = Some((bound, weights.clone()));
            }
            // A device that is given more than the mean is to be dearer.
            let most = loads.iter().copied().max().unwrap_or(0).max(1);
            let mean = loads.iter().sum::<u128>() / devices as u128;
            for (weight, load) in weights.iter_mut().zip(loads) {
                let by = u128::from(*weight) * (6 * most + load - mean) / (6 * most);
                *weight = u64::try_from(by).unwrap_or(WHOLE).clamp(1, WHOLE * 64);
            }
        }
        let weights = best.map_or(weights, |(_, weights)| weights);
        let least = |row: &Vec<Option<u64>>| cheapest(row, &weights).map_or(0, |(_, cost)| cost);
        Shared { behind: behind(prices, amounts, &least), weights }
    }

    fn least(&self, border: usize, load: impl Fn(usize) -> u64) -> u64 {
        let loads = self.weights.iter().enumerate();
        let now: u128 = loads.map(|(at, &weight)| u128::from(weight) * u128::from(load(at))).sum();
        let whole: u128 = self.weights.iter().map(|&weight| u128::from(weight)).sum();
        let least = now.saturating_add(self.behind[border]).div_ceil(whole.max(1));
        u64::try_from(least).unwrap_or(u64::MAX)
    }
}

/// The device on which a group costs least by these weights, and how much that is.
fn cheapest(row: &[Option<u64>], weights: &[u64]) -> Option<(usize, u128)> {
    let each = row.iter().zip(weights).enumerate();
    each.filter_map(|(at, (amount, &weight))| {
        Some((at, u128::from((*amount)?).saturating_mul(weight.into())))
    })
    .min_by_key(|&(_, cost)| cost)
}

/// The bound of the weighted mean by these weights, and what each device is given.
fn share_out(amounts: &[Vec<Option<u64>>], weights: &[u64]) -> (u128, Vec<u128>) {
    let mut loads = vec![0; weights.len()];
    let mut total = 0u128;
    for row in amounts {
        if let Some((device, cost)) = cheapest(row, weights) {
            loads[device] += u128::from(row[device].unwrap_or(0));
            total = total.saturating_add(cost);
        }
    }
    (total / weights.iter().map(|&weight| u128::from(weight)).sum::<u128>().max(1), loads)
}

/// Sums over the groups behind each border.
fn behind(
    prices: &Prices,
    amounts: &[Vec<Option<u64>>],
    of: &dyn Fn(&Vec<Option<u64>>) -> u128,
) -> Vec<u128> {
    let each: Vec<u128> = amounts.iter().map(of).collect();
    let sum = |border: &crate::planner::ideals::Border| {
        let open = prices.steps.dag.group_ids().filter(|&id| !border.holds(id));
        open.map(|id| each[id.index()]).fold(0, u128::saturating_add)
    };
    prices.steps.ideals.borders.iter().map(sum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cost::table,
        planner::{ideals::Ideals, revisits::route::Visit, steps::Steps},
        platform::Platform,
    };

    const GROUPS: usize = 4;

    proptest! {
        /// Every way to divide a chain among devices, without what its messages cost, against what is
        /// said of each of its beginnings.
        #[test]
        fn nothing_costs_less_than_what_is_left(
            devices in 1..4usize,
            numbers in prop::collection::vec(0..5u64, 3 * GROUPS * 3),
            large in prop::bool::ANY,
        ) {
            let number = |kind: usize, group: usize, device: usize| {
                numbers[(kind * GROUPS + group) * 3 + device]
            };
            let scale = if large { 1_000_003 } else { 1 };
            let names = ["a", "b", "c"];
            let layer = |group: usize| {
                let of = |kind: usize, scale: u64| -> Value {
                    let each = (0..devices).filter(|&at| number(kind, group, at) < 4);
                    each.map(|at| (names[at], json!(number(kind, group, at) * scale))).collect()
                };
                let inputs: Vec<String> =
                    group.checked_sub(1).iter().map(|before| format!("l{before}")).collect();
                json!({ "name": format!("l{group}"), "inputs": inputs, "output_bytes": 0,
                    "parameter_bytes": number(2, group, 0), "time_ns": of(0, scale),
                    "energy_nj": of(1, 3) })
            };
            let layers: Vec<Value> = (0..GROUPS).map(layer).collect();
            let file = json!({ "version": 1, "input": { "fp32": 0 }, "layers": layers,
                "outputs": ["l3"] });
            let device: Vec<Value> =
                (0..devices).map(|at| json!({ "name": names[at], "power": "1.5W" })).collect();
            let platform = json!({ "version": 1, "device": device, "link": [],
                "workload": { "users": 3, "electricity": "0.3" } });
            let platform: Platform = serde_json::from_value(platform).unwrap();
            let file: table::CostsFile = serde_json::from_value(file).unwrap();
            let (dag, costs) = table::read(&file, &platform, &[]).unwrap();
            let ideals = Ideals::new(&dag, 100);
            let prices = Prices::new(Steps::new(&dag, &costs, &ideals, 0), &[0], true);
            let rest = Rest::new(&prices);
            for division in 0..devices.pow(GROUPS as u32) {
                let mut account = Account::new(&costs);
                let mut least = Vec::new();
                let all = (0..GROUPS).all(|from| {
                    let device = DeviceId::new(division / devices.pow(from as u32) % devices);
                    let of = |o: &Objective| rest.least(&prices, &account, from, *o);
                    least.push(Objective::ALL.iter().map(of).collect::<Vec<u64>>());
                    let visit = Visit { device, to: from + 1 };
                    account.visit(&prices, visit, from, 0).is_some()
                });
                let values = Objective::ALL.map(|o| account.value(&costs, o));
                for least in least.iter().filter(|_| all) {
                    let bounded = least.iter().zip(values).all(|(least, value)| *least <= value);
                    prop_assert!(bounded, "{division}: {least:?}, {values:?}");
                }
            }
        }
    }
}
