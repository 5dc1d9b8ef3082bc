//! Scatter groups: a device gives branches of a block to helpers and joins what they make of them.
//!
//! ```text
//!                   ┌─► own member ─┐
//! stage before ─────┼─► helper ─────┼─► join stage ─► ...
//!  (one device)     └─► helper ─────┘  (same device)
//! ```
//!
//! The decision is the mapping and, for each helper, the device that joins. With every helper's groups
//! on that device the mapping is one of a sequence of stages; a stage that holds a block with helpers
//! falls into the parts of the drawing.

use thiserror::Error;

use super::{
    Mapping, Partition, Step, assemble,
    blocks::{Block, blocks},
    steps_in_order,
};
use crate::{
    dag::{Dag, GroupId},
    platform::DeviceId,
};

/// A helper, and the device that gives it its branches and joins.
pub type Helper = (DeviceId, DeviceId);

/// A helper whose groups are not branches that the other device can give away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// Who was to help.
    pub helper: DeviceId,
    /// Whom.
    pub joiner: DeviceId,
    /// What is wrong.
    pub why: ScatterFault,
}

/// What keeps a device from being a helper.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ScatterFault {
    #[error("it can help only one other device, which helps nobody itself")]
    Joiner,
    #[error(
        "`{0}` is in no branch between two values over which everything passes; give whole branches \
         away, not what joins them"
    )]
    NoBranch(String),
    #[error("`{0}` and `{1}` are of different blocks; a helper works in one")]
    TwoBlocks(String, String),
    #[error("`{0}` and `{1}` are of one branch; a branch stays whole")]
    TornBranch(String, String),
    #[error("its branch makes the answer `{0}`, so it stays with the device that joins")]
    Answers(String),
    #[error(
        "the device that joins must run all of the block but what helpers run, and the step before \
         it, unless it is the source and the block reads the network's input"
    )]
    NotJoined,
}

/// Stages and messages of a mapping, some of whose devices help others; without helpers what
/// [`derive_in_order`](super::derive_in_order) gives. Helpers without a group are none.
///
/// # Panics
///
/// If the mapping is not of the length of the DAG.
pub fn derive_with_helpers(
    dag: &Dag,
    mapping: &Mapping,
    order: &[DeviceId],
    helpers: &[Helper],
) -> Result<Partition, Misplaced> {
    assert_eq!(mapping.0.len(), dag.groups().len(), "a mapping has one device per group");
    let helpers: Vec<Helper> =
        helpers.iter().copied().filter(|(helper, _)| mapping.0.contains(helper)).collect();
    if helpers.is_empty() {
        return Ok(super::derive_in_order(dag, mapping, order));
    }
    let blocks = blocks(dag);
    let mut scattered: Vec<(&Block, DeviceId)> = Vec::new();
    for &(helper, joiner) in &helpers {
        let misplaced = |why| Misplaced { helper, joiner, why };
        let block =
            block_of(dag, mapping, &helpers, &blocks, (helper, joiner)).map_err(misplaced)?;
        match scattered.iter().find(|(known, _)| known.groups == block.groups) {
            Some((_, other)) if *other != joiner => return Err(misplaced(ScatterFault::NotJoined)),
            Some(_) => {}
            None => scattered.push((block, joiner)),
        }
    }
    scattered.sort_by_key(|(block, _)| block.groups.start);
    let joiner_of = |device: DeviceId| {
        helpers.iter().find(|(helper, _)| *helper == device).map_or(device, |(_, joiner)| *joiner)
    };
    let joined = Mapping(mapping.0.iter().map(|&device| joiner_of(device)).collect());
    let order: Vec<DeviceId> =
        order.iter().copied().filter(|&device| joiner_of(device) == device).collect();
    let mut steps = Vec::new();
    let mut left = scattered.as_slice();
    for (device, groups) in steps_in_order(dag, &joined, &order) {
        let first = steps.is_empty();
        let here = left.iter().take_while(|(block, _)| is_within(block, &groups)).count();
        let (inside, later) = left.split_at(here);
        left = later;
        divide(mapping, device, &groups, inside, &mut steps);
        let before = inside.first().map(|(block, _)| block.groups.start);
        let made = before.is_none_or(|start| match start.checked_sub(1) {
            Some(maker) => groups.contains(&GroupId::new(maker)),
            None => first && device == DeviceId::SOURCE,
        });
        if !made {
            left = inside;
            break;
        }
    }
    match left.first() {
        None => Ok(assemble(dag, steps)),
        Some((block, joiner)) => {
            let helps = |(helper, _): &&Helper| {
                block.branches.iter().any(|branch| mapping.device(branch.groups[0]) == *helper)
            };
            let helper = helpers.iter().find(helps).map_or(*joiner, |(helper, _)| *helper);
            Err(Misplaced { helper, joiner: *joiner, why: ScatterFault::NotJoined })
        }
    }
}

/// The one block that a helper works in.
fn block_of<'b>(
    dag: &Dag,
    mapping: &Mapping,
    helpers: &[Helper],
    blocks: &'b [Block],
    (helper, joiner): Helper,
) -> Result<&'b Block, ScatterFault> {
    let name = |id: GroupId| dag.group(id).name.clone();
    let alone = helpers.iter().filter(|(other, _)| *other == helper).count() == 1
        && helpers.iter().all(|(other, _)| *other != joiner);
    if !alone {
        return Err(ScatterFault::Joiner);
    }
    let mut found: Option<(&Block, GroupId)> = None;
    for id in dag.group_ids().filter(|&id| mapping.device(id) == helper) {
        let block = blocks.iter().find(|block| block.groups.contains(&id.index()));
        let branch = block.and_then(|block| block.branches.iter().find(|b| b.groups.contains(&id)));
        let (Some(block), Some(branch)) = (block, branch) else {
            return Err(ScatterFault::NoBranch(name(id)));
        };
        let (known, first) = *found.get_or_insert((block, id));
        if known.groups != block.groups {
            return Err(ScatterFault::TwoBlocks(name(first), name(id)));
        }
        if let Some(&other) = branch.groups.iter().find(|&&other| mapping.device(other) != helper) {
            return Err(ScatterFault::TornBranch(name(id), name(other)));
        }
        if let Some(answer) = branch.answer {
            return Err(ScatterFault::Answers(dag.flow(answer).name.clone()));
        }
    }
    found.map(|(block, _)| block).ok_or(ScatterFault::Joiner)
}

fn is_within(block: &Block, groups: &[GroupId]) -> bool {
    block.groups.clone().all(|at| groups.binary_search(&GroupId::new(at)).is_ok())
}

/// Divides a stage at the blocks in it that have helpers.
fn divide(
    mapping: &Mapping,
    device: DeviceId,
    groups: &[GroupId],
    inside: &[(&Block, DeviceId)],
    steps: &mut Vec<Step>,
) {
    let mut stage: Vec<GroupId> = Vec::new();
    let mut rest = groups;
    for (block, _) in inside {
        let (before, behind) =
            rest.split_at(rest.partition_point(|id| id.index() < block.groups.start));
        stage.extend(before);
        rest = &behind[block.groups.len()..];
        if !stage.is_empty() {
            steps.push(Step::Stage(device, std::mem::take(&mut stage)));
        }
        let mut members: Vec<(DeviceId, Vec<GroupId>)> = Vec::new();
        for branch in &block.branches {
            let home = mapping.device(branch.groups[0]);
            match members.iter_mut().find(|(known, _)| *known == home) {
                Some((_, groups)) => groups.extend(&branch.groups),
                None => members.push((home, branch.groups.clone())),
            }
        }
        members.iter_mut().for_each(|(_, groups)| groups.sort_unstable());
        // What stays comes first, then helpers in the platform's order.
        members.sort_by_key(|(member, _)| (*member != device, *member));
        steps.push(Step::Scatter(device, members));
        stage.extend(&block.join);
    }
    stage.extend(rest);
    if !stage.is_empty() {
        steps.push(Step::Stage(device, stage));
    }
}
