//! What the components of a label are, and how each grows.

use super::{Objective, waiting};
use crate::{
    cost::{Costs, DeviceCosts},
    evaluate::Work,
    platform::DeviceId,
};

/// What a component of a label counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    Latency,
    Period,
    Energy,
    DeviceEnergy,
    Memory,
    Money,
    /// By how much a host's memory is exceeded, at most; where it is asked for, memory is no limit.
    Excess,
}

impl From<Objective> for Quantity {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Latency => Quantity::Latency,
            Objective::Period => Quantity::Period,
            Objective::Energy => Quantity::Energy,
            Objective::DeviceEnergy => Quantity::DeviceEnergy,
            Objective::Memory => Quantity::Memory,
            Objective::Money => Quantity::Money,
        }
    }
}

/// How a component of a label grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Sum,
    Max,
}

impl Rule {
    pub(super) fn apply(self, value: &mut u64, more: u64) {
        *value = match self {
            Rule::Sum => value.saturating_add(more),
            Rule::Max => (*value).max(more),
        };
    }
}

/// What the components of a label are.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Quantities asked for, the objective first, then those that are only limited.
    pub(super) quantities: Vec<Quantity>,
    /// How many of them are asked for.
    pub(super) asked: usize,
    /// Largest admissible value of each quantity.
    pub(super) limits: Vec<u64>,
    /// Whether stages and bytes follow the quantities: they decide ties.
    pub(super) ties: bool,
    /// Shared network cards: out and in of each.
    pub(super) cards: usize,
    /// Hosts of several devices, by the number of their device that gives the host its number.
    pub(super) hosts: Vec<usize>,
    /// Whether the energy of the last device so far is carried: a hop adds to it.
    pub(super) open_energy: bool,
    /// What is carried of a device that goes on behind a scatter group; nothing without them.
    pub(super) own: Own,
}

/// What is not known of a device before its last stage has ended, as far as anything depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    /// What it is busy for.
    pub(super) busy: bool,
    /// What of that its power counts for, and the energy that is given of the rest, as [`waiting`]
    /// carries it.
    pub(super) energy: bool,
    /// Parameters, and the largest live sum.
    pub(super) memory: bool,
}

impl Layout {
    pub(super) fn rule(quantity: Quantity) -> Rule {
        match quantity {
            Quantity::Latency | Quantity::Energy | Quantity::Money => Rule::Sum,
            Quantity::Period | Quantity::DeviceEnergy | Quantity::Memory | Quantity::Excess => {
                Rule::Max
            }
        }
    }

    pub(super) fn has(&self, quantity: Quantity) -> bool {
        self.quantities.contains(&quantity)
    }

    pub(super) fn ties_at(&self) -> usize {
        self.quantities.len()
    }

    pub(super) fn cards_at(&self) -> usize {
        self.ties_at() + if self.ties { 2 } else { 0 }
    }

    pub(super) fn hosts_at(&self) -> usize {
        self.cards_at() + 2 * self.cards
    }

    pub(super) fn open_at(&self) -> usize {
        self.hosts_at() + self.hosts.len()
    }

    fn own_at(&self) -> usize {
        self.open_at() + usize::from(self.open_energy)
    }

    pub(super) fn own_busy_at(&self) -> Option<usize> {
        self.own.busy.then_some(self.own_at())
    }

    pub(super) fn own_energy_at(&self) -> Option<[usize; 2]> {
        let at = self.own_at() + usize::from(self.own.busy);
        self.own.energy.then_some([at, at + 1])
    }

    pub(super) fn own_memory_at(&self) -> Option<[usize; 2]> {
        let at = self.width().checked_sub(2)?;
        self.own.memory.then_some([at, at + 1])
    }

    pub(super) fn width(&self) -> usize {
        let Own { busy, energy, memory } = self.own;
        self.own_at() + usize::from(busy) + 2 * usize::from(energy) + 2 * usize::from(memory)
    }

    /// Where a quantity is, if it is asked for.
    pub(super) fn position(&self, quantity: Quantity) -> Option<usize> {
        self.quantities.iter().position(|&known| known == quantity)
    }

    /// How each component grows.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.quantities.iter().map(|&q| Layout::rule(q)).collect();
        rules.resize(self.width(), Rule::Sum);
        if let Some([_, peak]) = self.own_memory_at() {
            rules[peak] = Rule::Max;
        }
        rules
    }

    /// Adds to what a device does that goes on.
    pub(super) fn add_work(&self, values: &mut [u64], costs: &Costs, device: DeviceId, work: Work) {
        let mut add = |at: usize, more: u64| values[at] = values[at].saturating_add(more);
        if let Some(at) = self.own_busy_at() {
            add(at, work.busy.0);
        }
        if let Some([powered, given]) = self.own_energy_at() {
            add(powered, (work.busy - work.given_time).0);
            add(given, waiting::carried(costs, device, work));
        }
    }

    /// Whether anything depends on the memory that a device needs. What one device of a host has, all
    /// of them have, so that without it nothing limits the host.
    pub(super) fn counts_memory(&self, device: &DeviceCosts) -> bool {
        self.has(Quantity::Memory) || device.memory.is_some()
    }
}
