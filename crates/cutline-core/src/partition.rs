//! From the decision to what follows from it: stages, and the messages between them.
//!
//! A [`Mapping`] says which device runs each group, and nothing else. [`derive()`] orders the groups
//! into stages and finds what travels: every value made before a hop and used after it, each once.
//!
//! ```text
//! source ──hop──► stage 0 ──hop──► stage 1        (no first hop when stage 0 is on the source)
//! ```
//!
//! With [`derive_with_helpers()`] devices may also give branches of a block ([`blocks()`]) to others,
//! which run them at the same time.

use std::ops::Range;

use crate::{
    dag::{Dag, FlowId, GroupId},
    platform::DeviceId,
};

mod blocks;
mod scatter;

pub use blocks::{Block, Branch, blocks};
pub use scatter::{Helper, Misplaced, ScatterFault, derive_with_helpers};

/// One device per group of a [`Dag`], by group index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping(pub Vec<DeviceId>);

impl Mapping {
    /// Everything on one device.
    pub fn uniform(dag: &Dag, device: DeviceId) -> Self {
        Mapping(vec![device; dag.groups().len()])
    }

    /// The device that runs a group.
    pub fn device(&self, group: GroupId) -> DeviceId {
        self.0[group.index()]
    }
}

/// Groups that one device runs in one engine call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Who runs it.
    pub device: DeviceId,
    /// What it runs, in topological order; never empty.
    pub groups: Vec<GroupId>,
    /// Values that it receives: those that it reads, and those that it passes on.
    pub receives: Vec<FlowId>,
    /// Values that it sends on to the next stage.
    pub sends: Vec<FlowId>,
    /// Answers of the network that it makes.
    pub answers: Vec<FlowId>,
    /// Values that its device holds besides while it runs: they wait for the join of its scatter
    /// group.
    pub holds: Vec<FlowId>,
}

/// The passage of a frame into a stage on another device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Who sends.
    pub from: DeviceId,
    /// Who receives.
    pub to: DeviceId,
    /// Position of the stage that it leads into.
    pub into: usize,
    /// What travels, ascending: inputs of the network first.
    pub message: Vec<FlowId>,
    /// Answers that return over it, of every later stage that is not on the source, ascending.
    pub returns: Vec<FlowId>,
}

/// What a mapping amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Stages in the order of a frame's way; members of a scatter group follow each other, then comes
    /// the stage that joins them.
    pub stages: Vec<Stage>,
    /// Hops in the same order; each joins two devices. To a helper one leads out, and behind it one
    /// back into the stage that joins.
    pub hops: Vec<Hop>,
    /// Scatter groups, each as the positions of its members, which run at the same time.
    pub scatters: Vec<Range<usize>>,
}

impl Partition {
    /// The scatter group that a stage is a member of, and the device that joins it.
    pub fn scatter_of(&self, stage: usize) -> Option<(&Range<usize>, DeviceId)> {
        let members = self.scatters.iter().find(|members| members.contains(&stage))?;
        Some((members, self.stages[members.end].device))
    }

    /// The device that a stage helps: it is a member of a scatter group that another device joins.
    pub fn helps(&self, stage: usize) -> Option<DeviceId> {
        let (_, joiner) = self.scatter_of(stage)?;
        (joiner != self.stages[stage].device).then_some(joiner)
    }

    /// The hop that brings a frame to the device of a stage; `None` where it is there already.
    pub fn hop_into(&self, stage: usize) -> Option<&Hop> {
        let joins = self.scatters.iter().any(|members| members.end == stage);
        self.hops.iter().find(|hop| hop.into == stage && !joins)
    }

    /// The hop by which the results of a helper's stage return.
    pub fn hop_back(&self, stage: usize) -> Option<&Hop> {
        let (members, _) = self.scatter_of(stage)?;
        let from = self.stages[stage].device;
        self.hops.iter().find(|hop| hop.into == members.end && hop.from == from)
    }
}

/// What happens after what is before it.
enum Step {
    /// Groups that one device runs.
    Stage(DeviceId, Vec<GroupId>),
    /// Groups that several run at the same time, for the device that joins: its own come first.
    Scatter(DeviceId, Vec<(DeviceId, Vec<GroupId>)>),
}

impl Step {
    fn groups(&self) -> impl Iterator<Item = &GroupId> {
        let (one, several) = match self {
            Step::Stage(_, groups) => (Some(groups), None),
            Step::Scatter(_, members) => (None, Some(members)),
        };
        let several = several.into_iter().flatten().map(|(_, groups)| groups);
        one.into_iter().chain(several).flatten()
    }
}

/// Stages and messages of a mapping. O(groups x stages + reads).
///
/// A device that can finish all of its remaining groups goes next, the source first; where none
/// can, a device is visited more than once. Each stage takes every group that is ready, so that a
/// mapping with an acyclic order of devices gives one stage per device.
///
/// # Panics
///
/// If the mapping is not of the length of the DAG.
pub fn derive(dag: &Dag, mapping: &Mapping) -> Partition {
    derive_in_order(dag, mapping, &[])
}

/// Stages and messages of a mapping whose devices are visited in the order given, where each of
/// them can run all of its groups when its turn comes; as [`derive()`] has it where they cannot, or
/// the order is empty.
///
/// # Panics
///
/// If the mapping is not of the length of the DAG.
pub fn derive_in_order(dag: &Dag, mapping: &Mapping, order: &[DeviceId]) -> Partition {
    assert_eq!(mapping.0.len(), dag.groups().len(), "a mapping has one device per group");
    let steps = steps_in_order(dag, mapping, order);
    assemble(dag, steps.into_iter().map(|(device, groups)| Step::Stage(device, groups)).collect())
}

fn steps_in_order(
    dag: &Dag,
    mapping: &Mapping,
    order: &[DeviceId],
) -> Vec<(DeviceId, Vec<GroupId>)> {
    stages_in_order(dag, mapping, order).unwrap_or_else(|| stage_groups(dag, mapping))
}

/// Stages and hops of what happens one after another.
fn assemble(dag: &Dag, steps: Vec<Step>) -> Partition {
    let mut step_of = vec![0; dag.groups().len()];
    for (at, step) in steps.iter().enumerate() {
        for group in step.groups() {
            step_of[group.index()] = at;
        }
    }
    let mut partition = Partition { stages: Vec::new(), hops: Vec::new(), scatters: Vec::new() };
    let mut at = DeviceId::SOURCE;
    // Hops that answers of later stages return over.
    let mut line = Vec::new();
    let mut joins = false;
    for (number, step) in steps.into_iter().enumerate() {
        let crossing = crossing(dag, &step_of, number);
        let into = partition.stages.len();
        if let (false, Some(last)) = (joins, partition.stages.last_mut()) {
            last.sends = crossing.clone();
        }
        joins = matches!(step, Step::Scatter(..));
        match step {
            Step::Stage(device, groups) => {
                if device != at {
                    let (message, returns) = (crossing.clone(), Vec::new());
                    line.push(partition.hops.len());
                    partition.hops.push(Hop { from: at, to: device, into, message, returns });
                }
                partition.stages.push(stage(dag, device, groups, crossing));
                at = device;
            }
            Step::Scatter(device, members) => {
                let waiting = self::crossing(dag, &step_of, number + 1);
                partition.scatter(dag, device, members, &crossing, &waiting);
            }
        }
    }
    for hop in line {
        let hop = &mut partition.hops[hop];
        let later = &partition.stages[hop.into..];
        let remote = later.iter().filter(|stage| stage.device != DeviceId::SOURCE);
        hop.returns = remote.flat_map(|stage| stage.answers.iter().copied()).collect();
        hop.returns.sort_unstable();
    }
    partition
}

impl Partition {
    /// Adds the members of a scatter group, and the hops out to helpers and back. `crossing` is what is
    /// there before, `waiting` what is there when all have ended.
    fn scatter(
        &mut self,
        dag: &Dag,
        joiner: DeviceId,
        members: Vec<(DeviceId, Vec<GroupId>)>,
        crossing: &[FlowId],
        waiting: &[FlowId],
    ) {
        let first = self.stages.len();
        let end = first + members.len();
        for (device, groups) in members {
            let reads = |flow: &&FlowId| dag.flow(**flow).to.iter().any(|to| groups.contains(to));
            let receives: Vec<FlowId> = crossing.iter().filter(reads).copied().collect();
            let made_here =
                |flow: &&FlowId| dag.flow(**flow).from.is_some_and(|from| groups.contains(&from));
            let (sends, others): (Vec<FlowId>, Vec<FlowId>) =
                waiting.iter().partition(|flow| made_here(flow));
            if device != joiner {
                let (into, message) = (self.stages.len(), receives.clone());
                let (from, to, returns) = (joiner, device, Vec::new());
                self.hops.push(Hop { from, to, into, message, returns });
                let (message, returns) = (sends.clone(), Vec::new());
                self.hops.push(Hop { from: device, to: joiner, into: end, message, returns });
            }
            let holds = if device == joiner { others } else { Vec::new() };
            let stage = stage(dag, device, groups, receives);
            self.stages.push(Stage { sends, holds, ..stage });
        }
        self.scatters.push(first..end);
    }
}

fn stage(dag: &Dag, device: DeviceId, groups: Vec<GroupId>, receives: Vec<FlowId>) -> Stage {
    let makes = groups.iter().flat_map(|&group| dag.group(group).makes.iter().copied());
    let answers = makes.filter(|&flow| dag.flow(flow).is_output).collect();
    Stage { device, groups, receives, sends: Vec::new(), answers, holds: Vec::new() }
}

/// Values made before a stage (inputs: before all) and read in it or later.
fn crossing(dag: &Dag, stage_of: &[usize], into: usize) -> Vec<FlowId> {
    let crosses = |&id: &FlowId| {
        let flow = dag.flow(id);
        flow.from.is_none_or(|group| stage_of[group.index()] < into)
            && flow.to.iter().any(|group| stage_of[group.index()] >= into)
    };
    dag.flow_ids().filter(crosses).collect()
}

/// One stage per device, in this order; `None` where that is not possible.
fn stages_in_order(
    dag: &Dag,
    mapping: &Mapping,
    order: &[DeviceId],
) -> Option<Vec<(DeviceId, Vec<GroupId>)>> {
    let mut done = vec![false; dag.groups().len()];
    let mut stages = Vec::new();
    for &device in order {
        let groups = runnable(dag, mapping, &done, device);
        groups.iter().for_each(|group| done[group.index()] = true);
        if !groups.is_empty() {
            stages.push((device, groups));
        }
    }
    done.iter().all(|&done| done).then_some(stages)
}

fn stage_groups(dag: &Dag, mapping: &Mapping) -> Vec<(DeviceId, Vec<GroupId>)> {
    let devices = mapping.0.iter().map(|device| device.index() + 1).max().unwrap_or(0);
    let mut open: Vec<usize> = vec![0; devices];
    for device in &mapping.0 {
        open[device.index()] += 1;
    }
    let mut done = vec![false; dag.groups().len()];
    let mut stages: Vec<(DeviceId, Vec<GroupId>)> = Vec::new();
    while open.iter().any(|&count| count > 0) {
        let last = stages.last().map(|stage| stage.0);
        let candidates: Vec<_> = (0..devices)
            .map(DeviceId::new)
            .filter(|&device| open[device.index()] > 0 && Some(device) != last)
            .map(|device| (device, runnable(dag, mapping, &done, device)))
            .filter(|(_, groups)| !groups.is_empty())
            .collect();
        let finishes = candidates.iter().position(|(d, groups)| groups.len() == open[d.index()]);
        let (device, groups) = candidates.into_iter().nth(finishes.unwrap_or(0)).expect(
            "the first group left in topological order is ready, on a device that is not \
                     the last one, which took all that was ready",
        );
        for group in &groups {
            done[group.index()] = true;
        }
        open[device.index()] -= groups.len();
        stages.push((device, groups));
    }
    stages
}

/// Groups that a device can run now, one after another, without waiting for another device.
fn runnable(dag: &Dag, mapping: &Mapping, done: &[bool], device: DeviceId) -> Vec<GroupId> {
    let mut ready = done.to_vec();
    let mut groups = Vec::new();
    for id in dag.group_ids() {
        if !done[id.index()]
            && mapping.device(id) == device
            && dag.predecessors(id).all(|before| ready[before.index()])
        {
            ready[id.index()] = true;
            groups.push(id);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Bytes, Macs};

    /// A diamond with a skip: a → b → d, a → c → d, input → d, answers c and d.
    fn diamond() -> Dag {
        let mut dag = Dag::new();
        let input = dag.add_input("input", Some(Bytes(10)));
        let mut add = |name: &str, reads: &[FlowId]| {
            let makes = [(name.to_owned(), Some(Bytes(1)))];
            let reads = reads.iter().copied();
            let id = dag.add_group(vec![name.into()], reads, makes, Macs::ZERO, Bytes::ZERO);
            dag.group(id).makes[0]
        };
        let a = add("a", &[input]);
        let b = add("b", &[a]);
        let c = add("c", &[a]);
        let d = add("d", &[b, c, input]);
        dag.mark_output(c);
        dag.mark_output(d);
        dag
    }

    fn names(dag: &Dag, flows: &[FlowId]) -> String {
        let names: Vec<&str> = flows.iter().map(|&flow| dag.flow(flow).name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn stages_and_messages_follow_from_the_mapping() {
        // Devices of a, b, c, d; then per stage: device, groups; per hop: message > returns.
        let cases: [([usize; 4], &str, &str); 7] = [
            ([0, 0, 0, 0], "0:abcd", ""),
            ([1, 1, 1, 1], "1:abcd", "0-1 input > c d"),
            ([0, 0, 0, 1], "0:abc 1:d", "0-1 input b c > d"),
            ([0, 0, 1, 1], "0:ab 1:cd", "0-1 input a b > c d"),
            ([0, 1, 2, 2], "0:a 1:b 2:cd", "0-1 input a > c d; 1-2 input a b > c d"),
            ([0, 1, 0, 0], "0:ac 1:b 0:d", "0-1 input a c > ; 1-0 input b c > "),
            ([1, 1, 0, 0], "1:ab 0:cd", "0-1 input > ; 1-0 input a b > "),
        ];
        let dag = diamond();
        for (devices, stages, hops) in cases {
            let mapping = Mapping(devices.map(DeviceId::new).to_vec());
            let partition = derive(&dag, &mapping);
            let group = |&id: &GroupId| dag.group(id).name.clone();
            let stage = |s: &Stage| {
                format!("{}:{}", s.device.index(), s.groups.iter().map(group).collect::<String>())
            };
            let found: Vec<String> = partition.stages.iter().map(stage).collect();
            assert_eq!(found.join(" "), stages, "{devices:?}");
            let hop = |h: &Hop| {
                let (message, returns) = (names(&dag, &h.message), names(&dag, &h.returns));
                format!("{}-{} {message} > {returns}", h.from.index(), h.to.index())
            };
            let found: Vec<String> = partition.hops.iter().map(hop).collect();
            assert_eq!(found.join("; "), hops, "{devices:?}");
        }
    }
}
