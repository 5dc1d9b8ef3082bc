//! The least largest load of a row of devices, by a dynamic programme over ideals.
//!
//! As the paper has it: the best way to run an ideal on so many accelerators and CPUs is the best way
//! to run a smaller one on one device less, and the difference on that device. Here the prefixes of
//! the topological order are solved first; their answer then cuts off, exactly, whatever reaches it
//! or leaves more work than the devices that are left can do within it.

use super::{
    Instance, Placement, PublishedError,
    ideals::{Ideals, Order},
};

/// More ideals are not enumerated.
const MOST_IDEALS: usize = 200_000;

/// An answer, and how good it is.
pub struct Answer {
    /// Who runs what.
    pub placement: Placement,
    /// Its largest load.
    pub load: u64,
    /// No placement in a row of devices has less. `None` where the ideals were too many.
    pub row_bound: Option<u64>,
    /// No placement at all has less, contiguous or not.
    pub any_bound: u64,
    /// Ideals that were looked at.
    pub ideals: usize,
}

/// The best placement in a row of devices; `None` where there is none.
pub fn solve(instance: &Instance) -> Result<Option<Answer>, PublishedError> {
    let prefixes = Ideals::prefixes(instance, Order::Time);
    let first = best(&prefixes, u64::MAX);
    let any_bound = any_bound(instance);
    match Ideals::all(instance, Order::Time, MOST_IDEALS) {
        Ok(ideals) => {
            let below = first.as_ref().map_or(u64::MAX, |(load, _)| *load);
            let better = best(&ideals, below);
            Ok(better.or(first).map(|(load, placement)| Answer {
                placement,
                load,
                row_bound: Some(load),
                any_bound,
                ideals: ideals.len(),
            }))
        }
        Err(PublishedError::TooMany(_)) => Ok(first.map(|(load, placement)| Answer {
            placement,
            load,
            row_bound: None,
            any_bound,
            ideals: prefixes.len(),
        })),
        Err(error) => Err(error),
    }
}

/// Work that even free communication leaves: all devices busy all the time, each CPU with what it
/// does best.
fn any_bound(instance: &Instance) -> u64 {
    let nodes = &instance.nodes;
    let work: u128 = nodes.iter().map(|node| u128::from(node.accelerator.unwrap_or(0))).sum();
    let (ratio, per) = best_ratio(instance);
    // In the time t, the accelerators do k t of the work, the CPUs at most l t ratio.
    let speed = instance.accelerators as u128 * per + instance.cpus as u128 * ratio;
    (work * per).div_ceil(speed.max(1)).try_into().unwrap_or(u64::MAX)
}

/// The most work of accelerators that a CPU can do in a time: a fraction.
fn best_ratio(instance: &Instance) -> (u128, u128) {
    const PER: u128 = 1_000_000;
    let of = |node: &super::Node| {
        let time = u128::from(node.accelerator.unwrap_or(0));
        (time * PER).div_ceil(u128::from(node.cpu).max(1))
    };
    (instance.nodes.iter().map(of).max().unwrap_or(0), PER)
}

/// How a state was reached: the ideal before, and whether by a CPU.
type Step = (u32, bool);

/// The best chain of ideals with a largest load less than `below`.
fn best(ideals: &Ideals, below: u64) -> Option<(u64, Placement)> {
    let instance = ideals.instance;
    let (most, cpus) = (instance.accelerators, instance.cpus);
    // A state: devices used, accelerators fastest.
    let states = (most + 1) * (cpus + 1);
    let mut loads = vec![u64::MAX; ideals.len() * states];
    let mut steps: Vec<Step> = vec![(0, false); ideals.len() * states];
    loads[0] = 0;
    let mut below = below;
    let total = ideals.sums[ideals.last()];
    let (ratio, per) = best_ratio(instance);
    let can_finish = |ideal: usize, state: usize, below: u64| {
        let (left, cpus_left) = (most - state % (most + 1), cpus - state / (most + 1));
        let work = u128::from(total.accelerator - ideals.sums[ideal].accelerator) * per;
        work <= u128::from(below) * (left as u128 * per + cpus_left as u128 * ratio)
    };
    // Else a CPU could run more than an accelerator within a load, and one could not stop early.
    let slower = instance.nodes.iter().all(|node| node.cpu >= node.accelerator.unwrap_or(0));
    let mut open = Vec::new();
    for inner in 0..ideals.last() {
        open.clear();
        open.extend((0..states).filter(|state| {
            let load = loads[inner * states + state];
            load < below && can_finish(inner, *state, below)
        }));
        if open.is_empty() {
            continue;
        }
        for outer in inner + 1..ideals.len() {
            let (a, b) = (&ideals.sums[inner], &ideals.sums[outer]);
            if slower && b.accelerator - a.accelerator >= below {
                break;
            }
            if !ideals.is_within(inner, outer) {
                continue;
            }
            let on_cpu = b.cpu - a.cpu;
            let on_accelerator = ideals.load(inner, outer);
            for &state in &open {
                let so_far = loads[inner * states + state];
                let mut reach = |next: usize, load: u64, step: Step| {
                    let load = load.max(so_far);
                    let known = &mut loads[outer * states + next];
                    if load < *known && load < below && can_finish(outer, next, below) {
                        *known = load;
                        steps[outer * states + next] = step;
                        if outer == ideals.last() {
                            below = load;
                        }
                    }
                };
                if state / (most + 1) < cpus {
                    reach(state + most + 1, on_cpu, (inner as u32, true));
                }
                if let Some(load) = on_accelerator.filter(|_| state % (most + 1) < most) {
                    reach(state + 1, load, (inner as u32, false));
                }
            }
        }
    }
    let end = ideals.last() * states;
    let state = (0..states).min_by_key(|state| loads[end + state])?;
    let load = loads[end + state];
    (load < u64::MAX).then(|| (load, trace(ideals, &steps, states, state, most)))
}

fn trace(
    ideals: &Ideals,
    steps: &[Step],
    states: usize,
    mut state: usize,
    most: usize,
) -> Placement {
    let mut placement = Placement::default();
    let mut outer = ideals.last();
    while outer != 0 {
        let (inner, cpu) = steps[outer * states + state];
        let set = ideals.between(inner as usize, outer).collect();
        if cpu {
            placement.cpus.push(set);
            state -= most + 1;
        } else {
            placement.accelerators.push(set);
            state -= 1;
        }
        outer = inner as usize;
    }
    placement.accelerators.reverse();
    placement.cpus.reverse();
    placement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::tests::random;

    /// The least largest load over all ways to give each node a device whose sets form a row.
    fn by_hand(instance: &Instance) -> Option<u64> {
        let devices = instance.accelerators + instance.cpus;
        let mut least = None;
        let mut homes = vec![0; instance.nodes.len()];
        loop {
            let set = |device: usize| -> Vec<usize> {
                (0..homes.len()).filter(|&at| homes[at] == device).collect()
            };
            let sets: Vec<Vec<usize>> = (0..devices).map(set).collect();
            if is_row(instance, &homes, devices) {
                let (accelerators, cpus) = sets.split_at(instance.accelerators);
                let placement =
                    Placement { accelerators: accelerators.to_vec(), cpus: cpus.to_vec() };
                let load = instance.largest_load(&placement);
                least = least.into_iter().chain(load).min();
            }
            let Some(at) = homes.iter().position(|&home| home + 1 < devices) else { return least };
            homes[..at].fill(0);
            homes[at] += 1;
        }
    }

    /// Whether data flows between the devices without a circle.
    fn is_row(instance: &Instance, homes: &[usize], devices: usize) -> bool {
        let mut left: Vec<usize> = (0..devices).collect();
        while !left.is_empty() {
            let free = |device: &usize| {
                (0..homes.len()).filter(|&at| homes[at] == *device).all(|at| {
                    let mut before = instance.nodes[at].before.iter().map(|&b| homes[b]);
                    before.all(|home| home == *device || !left.contains(&home))
                })
            };
            let Some(at) = left.iter().position(free) else { return false };
            left.remove(at);
        }
        true
    }

    #[test]
    fn the_answer_is_the_best_of_all_rows() {
        let mut feasible = 0;
        for seed in 0..120 {
            let instance = random(seed, 6);
            let answer = solve(&instance).unwrap();
            let expected = by_hand(&instance);
            assert_eq!(answer.as_ref().map(|answer| answer.load), expected, "seed {seed}");
            let Some(answer) = answer else { continue };
            assert_eq!(instance.largest_load(&answer.placement), Some(answer.load), "seed {seed}");
            assert!(answer.any_bound <= answer.load, "seed {seed}");
            feasible += 1;
        }
        assert!(feasible > 40, "{feasible}");
    }
}
