//! Which cuts are measured when the budget does not bear all of them.

use cutline_core::{cut::Cut, dag::Dag};

/// Bytes that move in the time of a thousand multiply-accumulates: only the order of magnitude
/// matters, so that layers without arithmetic count for something.
const BYTES_PER_THOUSAND_MACS: u64 = 100;

/// At most `count` of the cuts, evenly spaced by the expected share of the time before the cut.
/// Cuts with an empty side, or of unknown size, are never chosen.
pub(super) fn choose(dag: &Dag, cuts: Vec<Cut>, count: usize) -> Vec<Cut> {
    let weights: Vec<u64> = dag.groups().iter().map(|group| expected(dag, group)).collect();
    let before = |cut: &Cut| -> u64 {
        let inside = cut.before.iter().zip(&weights).filter(|(before, _)| **before);
        inside.map(|(_, weight)| *weight).sum()
    };
    let real = |cut: &Cut| {
        cut.bytes.is_some() && cut.before.contains(&true) && cut.before.contains(&false)
    };
    let mut placed: Vec<(u64, Cut)> =
        cuts.into_iter().filter(real).map(|cut| (before(&cut), cut)).collect();
    placed.sort_by_key(|(place, _)| *place);
    if placed.len() <= count {
        return placed.into_iter().map(|(_, cut)| cut).collect();
    }
    let total: u64 = weights.iter().sum();
    let mut wanted = vec![false; placed.len()];
    for step in 0..count as u64 {
        let target = (u128::from(total) * u128::from(2 * step + 1) / (2 * count as u128)) as u64;
        let free = (0..placed.len()).filter(|&index| !wanted[index]);
        if let Some(nearest) = free.min_by_key(|&index| placed[index].0.abs_diff(target)) {
            wanted[nearest] = true;
        }
    }
    let chosen = placed.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
    chosen.map(|((_, cut), _)| cut).collect()
}

/// What a group is expected to cost, in units of its own.
fn expected(dag: &Dag, group: &cutline_core::dag::Group) -> u64 {
    let moved = group.reads.iter().chain(&group.makes).filter_map(|&flow| dag.flow(flow).bytes);
    let moved = moved.map(|bytes| bytes.0).sum::<u64>().saturating_add(group.parameter_bytes.0);
    let macs = group.macs.0.saturating_mul(BYTES_PER_THOUSAND_MACS) / 1000;
    macs.saturating_add(moved).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use cutline_core::units::{Bytes, Macs};

    use super::*;

    /// A chain of groups of this much work, and its cuts after each group.
    fn chain(macs: &[u64]) -> (Dag, Vec<Cut>) {
        let mut dag = Dag::new();
        let mut flow = dag.add_input("x", Some(Bytes(4)));
        for (index, &macs) in macs.iter().enumerate() {
            let name = format!("g{index}");
            let makes = [(name.clone(), Some(Bytes(4)))];
            let id = dag.add_group(vec![name], [flow], makes, Macs(macs), Bytes(0));
            flow = dag.group(id).makes[0];
        }
        let cut = |after: usize| Cut {
            before: (0..macs.len()).map(|group| group <= after).collect(),
            flows: vec![dag.groups()[after].makes[0]],
            bytes: Some(Bytes(4)),
        };
        let cuts = (0..macs.len()).map(cut).collect();
        (dag, cuts)
    }

    fn sizes(cuts: &[Cut]) -> Vec<usize> {
        cuts.iter().map(|cut| cut.before.iter().filter(|before| **before).count()).collect()
    }

    #[test]
    fn all_real_cuts_are_chosen_where_the_budget_bears_them() {
        let (dag, cuts) = chain(&[1, 1, 1, 1]);
        assert_eq!(sizes(&choose(&dag, cuts, 9)), [1, 2, 3]);
    }

    #[test]
    fn a_few_cuts_spread_over_the_work_not_over_the_layers() {
        // Eight light groups, then eight that each cost as much as a thousand light ones.
        let macs: Vec<u64> = [vec![1_000; 8], vec![1_000_000; 8]].concat();
        let (dag, cuts) = chain(&macs);
        assert_eq!(sizes(&choose(&dag, cuts, 4)), [9, 11, 13, 15]);
    }

    #[test]
    fn no_budget_no_cuts() {
        let (dag, cuts) = chain(&[5, 5]);
        assert!(choose(&dag, cuts, 0).is_empty());
    }
}
