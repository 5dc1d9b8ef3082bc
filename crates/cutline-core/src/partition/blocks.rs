//! Where a network does several things that do not wait for each other: blocks and their branches.
//!
//! An articulation value is one over which everything passes: what its group makes besides, and what
//! comes before, is read by nobody behind it; its size is known. The network's input is one where it is the only input,
//! and the end of the network counts as one where a single group ends it. Two that follow each other
//! enclose a block.
//!
//! ```text
//!              ┌─► b ─► c ─┐
//! ... ─► u ────┼─► d ──────┼─► join ─► v ─► ...        branches: b c, d, e
//!              └─► e ──────┘
//! ```

use std::ops::Range;

use crate::dag::{Dag, FlowId, GroupId};

/// Groups between two articulation values that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The value that everything in it comes from.
    pub enters: FlowId,
    /// Its groups, as positions in the topological order: nothing else is between them.
    pub groups: Range<usize>,
    /// What may run at the same time; at least one.
    pub branches: Vec<Branch>,
    /// Groups that depend on more than one branch, and the one that ends the block.
    pub join: Vec<GroupId>,
    /// Whether one of these reads the value that enters, too.
    pub join_reads_enters: bool,
}

/// Groups of a block that depend on one of its first groups and on no other of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// In topological order.
    pub groups: Vec<GroupId>,
    /// What the join reads of it, ascending.
    pub leaves: Vec<FlowId>,
    /// An answer of the network that it makes.
    pub answer: Option<FlowId>,
}

/// Every block with a branch, in topological order. O(groups + reads).
///
/// All groups before an articulation value come before all groups behind it in any topological
/// order, so that a block is a range of it.
pub fn blocks(dag: &Dag) -> Vec<Block> {
    if dag.groups().iter().any(|group| group.reads.is_empty()) {
        // It would belong to no side of any value.
        return Vec::new();
    }
    let borders = articulations(dag);
    borders.windows(2).filter_map(|pair| block(dag, pair[0].1?, pair[0].0..pair[1].0)).collect()
}

/// Articulation values, each with how many groups are before it; `None` stands for the end.
fn articulations(dag: &Dag) -> Vec<(usize, Option<FlowId>)> {
    let count = dag.groups().len();
    // How many values begin and cease to cross at each position, and the last that began.
    let mut change = vec![0i64; count + 1];
    for flow in dag.flows() {
        let Some(last) = flow.to.last() else { continue };
        change[flow.from.map_or(0, |group| group.index() + 1)] += 1;
        change[last.index() + 1] -= 1;
    }
    let read = |flow: &FlowId| !dag.flow(*flow).to.is_empty();
    let mut found = Vec::new();
    let mut crossing = 0;
    for (before, change) in change.into_iter().enumerate() {
        crossing += change;
        let last = before.checked_sub(1).map(|last| &dag.groups()[last]);
        let value = match last {
            None => dag.flow_ids().find(|&id| dag.flow(id).from.is_none() && read(&id)),
            Some(group) => group.makes.iter().copied().find(read),
        };
        let known = |flow: FlowId| last.is_none() || dag.flow(flow).bytes.is_some();
        if before == count && crossing == 0 || crossing == 1 && value.is_some_and(known) {
            found.push((before, value));
        }
        if last.is_some() && value.is_none() {
            // Nobody reads this group's results: not everything passes over a value behind it.
            break;
        }
    }
    found
}

fn block(dag: &Dag, enters: FlowId, groups: Range<usize>) -> Option<Block> {
    let start = groups.start;
    // The branch of each group; `None`: it joins.
    let mut branch_of: Vec<Option<usize>> = Vec::with_capacity(groups.len());
    let mut branches: Vec<Branch> = Vec::new();
    let mut join = Vec::new();
    for at in groups.clone() {
        let id = GroupId::new(at);
        let mut before = dag
            .predecessors(id)
            .filter_map(|p| p.index().checked_sub(start))
            .map(|inside| branch_of[inside]);
        let branch = match before.next() {
            _ if at + 1 == groups.end => None,
            None => {
                branches.push(Branch { groups: Vec::new(), leaves: Vec::new(), answer: None });
                Some(branches.len() - 1)
            }
            Some(first) => first.filter(|_| before.all(|other| other == first)),
        };
        match branch {
            Some(branch) => branches[branch].groups.push(id),
            None => join.push(id),
        }
        branch_of.push(branch);
    }
    for (at, branch) in branches.iter_mut().enumerate() {
        let made: Vec<FlowId> =
            branch.groups.iter().flat_map(|&id| dag.group(id).makes.iter().copied()).collect();
        branch.answer = made.iter().copied().find(|&flow| dag.flow(flow).is_output);
        let leaves = |flow: &FlowId| {
            let mut readers = dag.flow(*flow).to.iter();
            readers.any(|reader| branch_of[reader.index() - start] != Some(at))
        };
        branch.leaves = made.into_iter().filter(leaves).collect();
    }
    let join_reads_enters = join.iter().any(|&id| dag.group(id).reads.contains(&enters));
    (!branches.is_empty()).then_some(Block { enters, groups, branches, join, join_reads_enters })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group::group,
        onnx,
        units::{Bytes, Macs},
        zoo,
    };

    /// Groups named by a letter each, with the letters that they read; `-` is the input. `!` marks an
    /// answer.
    fn network(text: &str) -> Dag {
        let mut dag = Dag::new();
        let input = dag.add_input("-", Some(Bytes(1)));
        let mut made = vec![('-', input)];
        for group in text.split(' ') {
            let (name, reads) = (group.chars().next().unwrap(), group[1..].chars());
            let find =
                |letter| made.iter().find(|(known, _)| *known == letter).map(|found| found.1);
            let reads: Vec<FlowId> = reads.filter_map(find).collect();
            let makes = [(name.to_string(), Some(Bytes(1)))];
            let id = dag.add_group(vec![name.to_string()], reads, makes, Macs::ZERO, Bytes::ZERO);
            let flow = dag.group(id).makes[0];
            made.push((name, flow));
            if group.contains('!') {
                dag.mark_output(flow);
            }
        }
        dag
    }

    #[test]
    fn blocks_lie_between_values_over_which_everything_passes() {
        // Per block: what enters, branches, join.
        let cases = [
            ("chain", "a- ba cb", ""),
            ("diamond", "a- ba ca dbc", "a: b | c > d"),
            ("at the input", "a- b- cab", "-: a | b > c"),
            ("a residual", "a- ba cb dac", "a: bc > d"),
            ("the end is one group", "a- ba ca dbc edc", "a: b | c > de"),
            ("two ends", "a- ba ca", ""),
            ("a branch forks and joins", "a- ba cb db ecd fa gef", "a: bcde | f > g"),
            ("two branches join first", "a- ba ca dbc ed fa gef", "a: b | c | f > deg"),
            ("two blocks", "a- ba ca dbc ed fd gef", "a: b | c > d; d: e | f > g"),
            ("nobody reads c", "a- ba c!a dab edb fde", ""),
            ("the input is read late", "a- ba cab dc- edc fde", "-: abcde > f"),
        ];
        for (what, text, expected) in cases {
            let dag = network(text);
            let names = |groups: &[GroupId]| -> String {
                groups.iter().map(|&id| dag.group(id).name.as_str()).collect()
            };
            let found = blocks(&dag).into_iter().map(|block| {
                let branches: Vec<String> =
                    block.branches.iter().map(|branch| names(&branch.groups)).collect();
                let enters = &dag.flow(block.enters).name;
                format!("{enters}: {} > {}", branches.join(" | "), names(&block.join))
            });
            let found: Vec<String> = found.collect();
            assert_eq!(found.join("; "), expected, "{what}");
        }
    }

    #[test]
    fn branches_say_what_leaves_them() {
        let dag = network("a- ba cb da ebcd fa");
        assert!(blocks(&dag).is_empty(), "f is read by nobody");
        let dag = network("a- b!a cb da eabcd");
        let [block] = &blocks(&dag)[..] else { panic!("one block") };
        let leaves = block.branches.iter().map(|branch| {
            let names = branch.leaves.iter().map(|&flow| dag.flow(flow).name.as_str());
            (names.collect::<String>(), branch.answer.is_some())
        });
        assert_eq!(leaves.collect::<Vec<_>>(), [("bc".to_owned(), true), ("d".to_owned(), false)]);
        assert!(block.join_reads_enters && block.groups == (1..5));
    }

    #[test]
    fn networks_of_the_zoo_have_blocks() {
        // Name, blocks, most branches of one.
        let cases =
            [("vgg19", 0, 0), ("resnet101", 33, 2), ("densenet121", 58, 1), ("inceptionv3", 11, 4)];
        for (name, count, most) in cases {
            let model = zoo::outline(name, None).unwrap();
            let dag = group(&onnx::import(&model, &Default::default()).unwrap()).dag;
            let blocks = blocks(&dag);
            let branches = blocks.iter().map(|block| block.branches.len()).max().unwrap_or(0);
            assert_eq!((blocks.len(), branches), (count, most), "{name}");
        }
    }
}
