//! Where a network can be cut: the ideals of its groups.
//!
//! An ideal is a set of groups that holds everything its members depend on, so its border is a cut
//! with data flowing one way only, and a sequence of stages is a chain of ideals from nothing to
//! everything (Tarnawski, Phanishayee, Devanur, Mahajan and Nina Paravecino, "Efficient algorithms
//! for device placement of DNN graph operators", NeurIPS 2020). Networks of layers in sequence have
//! as many ideals as layers; parallel branches multiply.

use std::collections::HashMap;

use crate::{
    dag::{Dag, FlowId, GroupId},
    units::Bytes,
};

/// One place where a network can be cut.
#[derive(Clone, Debug)]
pub(super) struct Border {
    /// Groups before it, as bits.
    set: Box<[u64]>,
    /// How many groups are before it.
    pub(super) size: usize,
    /// What crosses it, ascending: inputs of the network first.
    pub(super) crossing: Vec<FlowId>,
    /// Whether an input of the network crosses.
    pub(super) input_crosses: bool,
    /// Declared bytes of the inputs that cross; `None`: not known.
    pub(super) inputs: Option<Bytes>,
    /// Whether everything that crosses may leave its device.
    pub(super) passable: bool,
    /// Declared bytes of the other values that cross and that codecs encode.
    pub(super) values: Bytes,
    /// Declared bytes of those that always travel as declared.
    pub(super) plain: Bytes,
    /// Whether an answer is made behind it.
    pub(super) answers: bool,
    /// Declared bytes of those answers; `None`: not known.
    pub(super) answer_bytes: Option<Bytes>,
}

/// Every border that data can cross, fewest groups first: the first has nothing before it, the last
/// everything.
pub(super) struct Ideals {
    pub(super) borders: Vec<Border>,
    /// Whether there are more than were enumerated; then only prefixes of the topological order
    /// were.
    pub(super) truncated: bool,
}

impl Ideals {
    /// All ideals; where there are more than `most`, the prefixes of the topological order alone.
    /// O(ideals x groups).
    pub(super) fn new(dag: &Dag, most: usize) -> Self {
        let all = enumerate(dag, most);
        let truncated = all.is_none();
        let sets = all.unwrap_or_else(|| prefixes(dag));
        let mut borders: Vec<Border> =
            sets.into_iter().filter_map(|set| Border::new(dag, set)).collect();
        // Nothing passes the others; the first is where every plan begins.
        borders.retain(|border| border.passable || border.size == 0);
        Ideals { borders, truncated }
    }

    /// Borders at which a stage that begins at this one may end, ascending. O(borders).
    pub(super) fn after(&self, from: usize) -> Vec<usize> {
        let here = &self.borders[from];
        (from + 1..self.borders.len()).filter(|&to| here.is_within(&self.borders[to])).collect()
    }

    pub(super) fn last(&self) -> usize {
        self.borders.len() - 1
    }
}

impl Border {
    /// `None` where a value of unknown size would cross.
    fn new(dag: &Dag, set: Box<[u64]>) -> Option<Self> {
        let has = |group: GroupId| holds(&set, group);
        let crosses = |id: &FlowId| {
            let flow = dag.flow(*id);
            flow.from.is_none_or(has) && flow.to.iter().any(|&group| !has(group))
        };
        let crossing: Vec<FlowId> = dag.flow_ids().filter(crosses).collect();
        let (inputs, values): (Vec<FlowId>, Vec<FlowId>) =
            crossing.iter().partition(|&&id| dag.flow(id).from.is_none());
        let (values, plain): (Vec<FlowId>, Vec<FlowId>) =
            values.into_iter().partition(|&id| dag.flow(id).encodable);
        let total = |flows: &[FlowId]| -> Option<Bytes> {
            flows.iter().map(|&id| dag.flow(id).bytes).sum()
        };
        let behind = |id: &FlowId| {
            let flow = dag.flow(*id);
            flow.is_output && flow.from.is_some_and(|group| !has(group))
        };
        let answers: Vec<FlowId> = dag.flow_ids().filter(behind).collect();
        let passable = crossing.iter().all(|&id| !dag.flow(id).confined);
        Some(Border {
            passable,
            size: set.iter().map(|word| word.count_ones() as usize).sum(),
            input_crosses: !inputs.is_empty(),
            inputs: total(&inputs),
            values: total(&values)?,
            plain: total(&plain)?,
            answers: !answers.is_empty(),
            answer_bytes: total(&answers),
            crossing,
            set,
        })
    }

    /// Whether everything before this is before the other one too.
    pub(super) fn is_within(&self, other: &Border) -> bool {
        self.set.iter().zip(&other.set).all(|(a, b)| a & !b == 0)
    }

    /// Whether a group is before it.
    pub(super) fn holds(&self, group: GroupId) -> bool {
        holds(&self.set, group)
    }

    /// Groups before the other border but not before this one, in topological order.
    pub(super) fn until(&self, other: &Border) -> impl Iterator<Item = GroupId> {
        let words = self.set.iter().zip(&other.set).enumerate();
        words.flat_map(|(word, (a, b))| {
            let mut bits = b & !a;
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits.checked_sub(1)?;
                Some(GroupId::new(word * 64 + bit))
            })
        })
    }
}

fn holds(set: &[u64], group: GroupId) -> bool {
    set[group.index() / 64] >> (group.index() % 64) & 1 == 1
}

fn with(set: &[u64], group: GroupId) -> Box<[u64]> {
    let mut set: Box<[u64]> = set.into();
    set[group.index() / 64] |= 1 << (group.index() % 64);
    set
}

/// Level by level: every ideal of k + 1 groups is one of k groups and a group that is ready.
fn enumerate(dag: &Dag, most: usize) -> Option<Vec<Box<[u64]>>> {
    let words = dag.groups().len().div_ceil(64).max(1);
    let mut all = vec![vec![0u64; words].into_boxed_slice()];
    let mut level = 0..1;
    while !level.is_empty() {
        let mut known: HashMap<Box<[u64]>, ()> = HashMap::new();
        let start = all.len();
        for at in level {
            let set = all[at].clone();
            let ready = |&id: &GroupId| {
                !holds(&set, id) && dag.predecessors(id).all(|before| holds(&set, before))
            };
            for id in dag.group_ids().filter(ready) {
                let next = with(&set, id);
                if known.insert(next.clone(), ()).is_none() {
                    all.push(next);
                }
            }
            if all.len() > most {
                return None;
            }
        }
        level = start..all.len();
    }
    Some(all)
}

fn prefixes(dag: &Dag) -> Vec<Box<[u64]>> {
    let words = dag.groups().len().div_ceil(64).max(1);
    let mut all = vec![vec![0u64; words].into_boxed_slice()];
    for id in dag.group_ids() {
        all.push(with(all.last().expect("starts with one"), id));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{group::group, onnx, zoo};

    #[test]
    fn networks_have_about_as_many_ideals_as_groups() {
        // Name, groups, ideals: branches of Inception multiply, all else is nearly a chain.
        let cases = [
            ("vgg19", 24, 25),
            ("resnet101", 107, 116),
            ("densenet121", 246, 247),
            ("inceptionv3", 120, 1208),
        ];
        for (name, groups, count) in cases {
            let model = zoo::outline(name, None).unwrap();
            let dag = group(&onnx::import(&model, &Default::default()).unwrap()).dag;
            let ideals = Ideals::new(&dag, 100_000);
            assert_eq!((dag.groups().len(), ideals.borders.len()), (groups, count), "{name}");
            for (most, truncated) in [(count - 1, true), (count, false), (count + 1, false)] {
                assert_eq!(Ideals::new(&dag, most).truncated, truncated, "{name}, {most}");
            }
        }
    }
}
