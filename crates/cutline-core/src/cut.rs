//! Cuts: the candidate ones, and those a user names by their values.
//!
//! A cut divides the network in a part before and a part after, such that nothing flows back. Only
//! values cross it; weights and replicated layers are on both sides wherever they are needed.
//!
//! Candidates are cuts between groups, O(n) of them, for lists and measurements. The values that a
//! user names ([`stages_at`]) may cut anywhere, also inside a group.

use std::collections::BTreeSet;

use crate::{
    dag::{Dag, FlowId, GroupId},
    graph::Graph,
    group::Grouping,
    units::Bytes,
};

mod named;

pub(crate) use named::distance;
pub use named::{CutError, stages_at};

/// A division of the groups in two, such that nothing flows back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whether a group runs before the cut, by group index.
    pub before: Vec<bool>,
    /// What crosses, each once, ascending: values made before and read after, and network inputs
    /// that are read after.
    pub flows: Vec<FlowId>,
    /// Sum of their sizes; `None` where one is unknown.
    pub bytes: Option<Bytes>,
}

impl Cut {
    /// The cut after a set of groups, which must hold the ancestors of each of them.
    pub fn after(dag: &Dag, before: Vec<bool>) -> Self {
        let crosses = |&id: &FlowId| {
            let flow = dag.flow(id);
            flow.from.is_none_or(|group| before[group.index()])
                && flow.to.iter().any(|group| !before[group.index()])
        };
        let flows: Vec<FlowId> = dag.flow_ids().filter(crosses).collect();
        let bytes = flows.iter().map(|&id| dag.flow(id).bytes).sum();
        Self { before, flows, bytes }
    }
}

/// Largest number of candidate cuts times groups; beyond it, only every so many-th group gives cuts.
const LARGEST_TABLE: usize = 1 << 28;

/// The cuts worth trying first, from the input to the output: the prefixes of the topological
/// order, and each group with all its ancestors. Neither side is empty, something crosses, and the
/// size of all that crosses is known. O(n) cuts in O(n^2) time and space; networks of more than
/// 16,384 groups are sampled.
pub fn candidate_cuts(dag: &Dag) -> Vec<Cut> {
    let count = dag.groups().len();
    let stride = count.saturating_mul(count).div_ceil(LARGEST_TABLE).max(1);
    let mut sets = BTreeSet::new();
    for id in dag.group_ids().step_by(stride) {
        sets.insert((0..count).map(|at| at <= id.index()).collect::<Vec<bool>>());
        sets.insert(with_ancestors(dag, id));
    }
    let is_trivial = |before: &Vec<bool>| before.iter().all(|&is_before| is_before);
    let cuts = sets.into_iter().filter(|set| !is_trivial(set)).map(|set| Cut::after(dag, set));
    let mut cuts: Vec<Cut> =
        cuts.filter(|cut| !cut.flows.is_empty() && cut.bytes.is_some()).collect();
    cuts.sort_by_cached_key(|cut| {
        let last = cut.before.iter().rposition(|&is_before| is_before);
        (last, cut.before.iter().filter(|&&is_before| is_before).count())
    });
    cuts
}

/// The stage of each layer for a cut between groups: 0 before, 1 after, `None` where replicated.
pub fn stages_of_cut(graph: &Graph, grouping: &Grouping, cut: &Cut) -> Vec<Option<u32>> {
    let stage = |group: &Option<GroupId>| group.map(|id| u32::from(!cut.before[id.index()]));
    grouping.group_of.iter().take(graph.layers().len()).map(stage).collect()
}

fn with_ancestors(dag: &Dag, id: GroupId) -> Vec<bool> {
    let mut set = vec![false; dag.groups().len()];
    let mut open = vec![id];
    while let Some(group) = open.pop() {
        if !std::mem::replace(&mut set[group.index()], true) {
            open.extend(dag.predecessors(group));
        }
    }
    set
}
