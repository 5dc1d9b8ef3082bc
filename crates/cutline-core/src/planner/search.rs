//! The best split under constraints that a minimum cut cannot express: branch and bound.
//!
//! A minimum cut without those constraints bounds every plan of its subproblem from below, ties
//! included. Subproblems are taken in the order of their bounds, so the first whose cut meets the
//! constraints is optimal. Where a cut does not, its subproblem is divided:
//!
//! * nothing on one device: some first (last) group must be there, one branch for each;
//! * memory exceeded: a group of that device stays, or goes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::{
    exact::{Key, Scale},
    network::{Forced, Relaxation},
};
use crate::{
    cost::Costs,
    dag::{Dag, GroupId},
    evaluate::{MemoryUse, Setting, memory},
    partition::{Mapping, derive},
    platform::DeviceId,
    units::Bytes,
};

/// What is searched.
pub(super) struct Search<'a> {
    pub(super) dag: &'a Dag,
    pub(super) costs: &'a Costs,
    pub(super) scale: &'a Scale,
    pub(super) other: DeviceId,
    pub(super) settings: Vec<Setting>,
    pub(super) forced: Forced,
    pub(super) nodes: u64,
}

/// What was found.
pub(super) struct Found {
    /// The best split and the position of its setting.
    pub(super) best: Option<(Key, usize)>,
    /// Exact time below which no split is; `None` if the search finished.
    pub(super) bound: Option<i128>,
    /// The least excess of memory among the splits met that exceed one.
    pub(super) excess: Option<MemoryUse>,
}

type Node = Reverse<(Key, usize, u64, Forced)>;

impl Search<'_> {
    pub(super) fn run(&self) -> Found {
        let relax =
            |setting| Relaxation::new(self.dag, self.costs, self.scale, setting, self.other);
        let relaxations: Vec<Option<Relaxation>> = self.settings.iter().map(relax).collect();
        let mut open = BinaryHeap::new();
        let mut found = Found { best: None, bound: None, excess: None };
        let mut visited = 0;
        for setting in 0..self.settings.len() {
            self.push(&mut open, &relaxations, setting, 0, self.forced.clone());
        }
        while let Some(Reverse((key, setting, _, forced))) = open.pop() {
            let on = |device: DeviceId| key.mapping.0.contains(&device);
            let branches = if !on(DeviceId::SOURCE) {
                self.first_on(DeviceId::SOURCE, &forced)
            } else if !on(self.other) {
                self.first_on(self.other, &forced)
            } else if let Some(excess) = self.excess(&key.mapping, &self.settings[setting]) {
                let branches = self.divide(&key.mapping, &forced, &excess, setting);
                note_excess(&mut found.excess, excess);
                branches
            } else {
                found.best = Some((key, setting));
                return found;
            };
            visited += 1;
            if visited > self.nodes {
                found.bound = Some(key.time);
                found.best = self.prefixes(&mut found.excess);
                return found;
            }
            for forced in branches {
                self.push(&mut open, &relaxations, setting, visited, forced);
            }
        }
        if found.excess.is_some() {
            // Nothing fits: prefixes are natural plans to name the smallest excess of.
            self.prefixes(&mut found.excess);
        }
        found
    }

    fn push(
        &self,
        open: &mut BinaryHeap<Node>,
        relaxations: &[Option<Relaxation>],
        setting: usize,
        age: u64,
        forced: Forced,
    ) {
        let Some(relaxation) = &relaxations[setting] else { return };
        if !self.may_fit(&forced, setting) {
            return;
        }
        if let Some((amount, mapping)) = relaxation.solve(&forced) {
            let key = Key { time: amount.time, stages: 2, bytes: amount.bytes, mapping };
            open.push(Reverse((key, setting, age, forced)));
        }
    }

    /// One branch for each group that could be the first (on the source) or the last (on the other
    /// device) of a stage that must not be empty.
    fn first_on(&self, device: DeviceId, forced: &Forced) -> Vec<Forced> {
        let opposite = if device == DeviceId::SOURCE { self.other } else { DeviceId::SOURCE };
        let is_end = |&id: &GroupId| match device {
            DeviceId::SOURCE => self.dag.predecessors(id).next().is_none(),
            _ => self.dag.successors(id).next().is_none(),
        };
        let mut rest = forced.clone();
        let mut branches = Vec::new();
        for id in self.dag.group_ids().filter(is_end) {
            let at = id.index();
            if rest[at].is_none() {
                let mut branch = rest.clone();
                branch[at] = Some(device);
                branches.push(branch);
                rest[at] = Some(opposite);
            }
        }
        branches
    }

    /// Two branches on the group that decides most about the memory exceeded: the one with which
    /// the weights alone would no longer fit, else the one that holds most at once.
    fn divide(
        &self,
        mapping: &Mapping,
        forced: &Forced,
        excess: &MemoryUse,
        setting: usize,
    ) -> Vec<Forced> {
        let device = excess.device;
        let fixed = self.closure(forced, device);
        let mut used = self.weights(&fixed, device, setting);
        let limit = excess.left().unwrap_or(Bytes(u64::MAX));
        let free = |id: &GroupId| forced[id.index()].is_none() && !fixed[id.index()];
        let mut candidates: Vec<GroupId> =
            self.dag.group_ids().filter(|id| free(id) && mapping.device(*id) == device).collect();
        if device != DeviceId::SOURCE {
            candidates.reverse();
        }
        let breaking = candidates.iter().copied().find(|&id| {
            used += self.dag.group(id).parameter_bytes;
            used > limit
        });
        let held = |id: GroupId| -> Bytes {
            let group = self.dag.group(id);
            let flows = group.reads.iter().chain(&group.makes);
            flows.filter_map(|&flow| self.dag.flow(flow).bytes).sum()
        };
        let largest = || candidates.iter().copied().max_by_key(|&id| (held(id), Reverse(id)));
        let any = || self.dag.group_ids().find(free);
        let Some(group) = breaking.or_else(largest).or_else(any) else { return Vec::new() };
        let branch = |device| {
            let mut branch = forced.clone();
            branch[group.index()] = Some(device);
            branch
        };
        vec![branch(DeviceId::SOURCE), branch(self.other)]
    }

    /// Whether the weights of what is forced onto each device leave any hope.
    fn may_fit(&self, forced: &Forced, setting: usize) -> bool {
        [DeviceId::SOURCE, self.other].into_iter().all(|device| {
            let Some(limit) = self.costs.device(device).memory else { return true };
            self.weights(&self.closure(forced, device), device, setting) <= limit
        })
    }

    fn weights(&self, on: &[bool], device: DeviceId, setting: usize) -> Bytes {
        let option = self.settings[setting].engines[device.index()];
        let engine = self.costs.device(device).options[option].engine_bytes;
        let groups = self.dag.groups().iter().zip(on).filter(|(_, on)| **on);
        engine + groups.map(|(group, _)| group.parameter_bytes).sum()
    }

    /// What is forced onto a device, and what that pulls along: all before it onto the source, all
    /// after it onto the other device.
    fn closure(&self, forced: &Forced, device: DeviceId) -> Vec<bool> {
        let mut on: Vec<bool> = forced.iter().map(|forced| *forced == Some(device)).collect();
        let pull = |on: &mut Vec<bool>, id: GroupId| {
            if on[id.index()] {
                match device {
                    DeviceId::SOURCE => {
                        self.dag.predecessors(id).for_each(|p| on[p.index()] = true)
                    }
                    _ => self.dag.successors(id).for_each(|s| on[s.index()] = true),
                }
            }
        };
        let ids: Vec<GroupId> = self.dag.group_ids().collect();
        match device {
            DeviceId::SOURCE => ids.into_iter().rev().for_each(|id| pull(&mut on, id)),
            _ => ids.into_iter().for_each(|id| pull(&mut on, id)),
        }
        on
    }

    fn excess(&self, mapping: &Mapping, setting: &Setting) -> Option<MemoryUse> {
        if [DeviceId::SOURCE, self.other].iter().all(|d| self.costs.device(*d).memory.is_none()) {
            return None;
        }
        let uses = memory(self.dag, self.costs, &derive(self.dag, mapping), setting);
        uses.into_iter().max_by_key(MemoryUse::excess).filter(|most| most.excess().is_some())
    }

    /// The best feasible split among the prefixes of the topological order.
    fn prefixes(&self, least_excess: &mut Option<MemoryUse>) -> Option<(Key, usize)> {
        let groups = self.dag.groups().len();
        let mut best: BTreeMap<Key, usize> = BTreeMap::new();
        for before in 1..groups {
            let device = |group| if group < before { DeviceId::SOURCE } else { self.other };
            let mapping = Mapping((0..groups).map(device).collect());
            for (index, setting) in self.settings.iter().enumerate() {
                // What breaks a pin cannot be run by these costs.
                if crate::evaluate::evaluate(self.dag, self.costs, &mapping, setting).is_err() {
                    continue;
                }
                match self.excess(&mapping, setting) {
                    Some(excess) => note_excess(least_excess, excess),
                    None => {
                        let key = self.scale.key(self.dag, self.costs, &mapping, setting);
                        best.entry(key).or_insert(index);
                    }
                }
            }
        }
        best.into_iter().next()
    }
}

fn note_excess(least: &mut Option<MemoryUse>, excess: MemoryUse) {
    if least.as_ref().is_none_or(|known| excess.excess() < known.excess()) {
        *least = Some(excess);
    }
}
