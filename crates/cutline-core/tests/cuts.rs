//! Groups and cuts over random networks, held against definitions written from scratch.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use cutline_core::{
    cut::{Cut, CutError, candidate_cuts, stages_at, stages_of_cut},
    graph::{Graph, GraphBuilder, Origin, ValueId},
    group::{Grouping, group},
    op::{Activation, Binary, ConvKind, Normalization, Op, PoolKind, Window},
    tensor::{DType, Shape},
    units::Bytes,
};
use proptest::prelude::*;

/// One random layer: what it does, and which earlier values it reads (modulo their number).
type Draw = (u8, Vec<u16>);

fn operator(kind: u8) -> (Op, usize) {
    let conv = Op::Conv { window: Window::default(), groups: 1, kind: ConvKind::Conv };
    match kind % 9 {
        0 | 1 => (conv, 1),
        2 => (Op::Activate(Activation::Relu), 1),
        3 => (Op::Activate(Activation::Sigmoid), 1),
        4 => (Op::Binary(Binary::Add), 2),
        5 => (Op::Binary(Binary::Mul), 2),
        6 => (Op::Reshape { allow_zero: false }, 1),
        7 => (Op::Normalize(Normalization::BatchNormalization), 1),
        _ => (Op::GlobalPool(PoolKind::Average), 1),
    }
}

/// A network whose answers are the values that nothing reads. Values are `in`, `v0`, `v1`, ...
fn network(draws: &[Draw]) -> Graph {
    let mut builder = GraphBuilder::new("random");
    let typed = |size: u64| (Some(DType::F32), Some(Shape(vec![size])));
    let (dtype, shape) = typed(1);
    let mut values = vec![builder.input("in", dtype, shape)];
    let mut read = BTreeSet::new();
    for (at, (kind, picks)) in draws.iter().enumerate() {
        let (op, arity) = operator(*kind);
        // Mostly recent values, so that chains form.
        let pick = |draw: u16| values[values.len() - 1 - usize::from(draw) % values.len().min(4)];
        let inputs: Vec<ValueId> = picks.iter().take(arity).map(|&draw| pick(draw)).collect();
        read.extend(inputs.iter().copied());
        let inputs = inputs.into_iter().map(Some).collect();
        let id =
            builder.layer(format!("l{at}"), op, at, inputs, vec![], vec![Some(format!("v{at}"))]);
        let value = builder.graph().layer(id).makes().next().unwrap();
        let (dtype, shape) = typed(at as u64 + 2);
        builder.set_type(value, dtype, shape);
        values.push(value);
    }
    for value in values.into_iter().skip(1).filter(|value| !read.contains(value)) {
        builder.output(value);
    }
    builder.build()
}

fn draws(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u16>(), 2)), count)
}

/// Direct readers of each layer, by index.
fn successors(graph: &Graph) -> Vec<BTreeSet<usize>> {
    let mut next = vec![BTreeSet::new(); graph.layers().len()];
    for (at, layer) in graph.layers().iter().enumerate() {
        for value in layer.reads() {
            if let Origin::Layer(maker) = graph.value(value).origin {
                next[maker.index()].insert(at);
            }
        }
    }
    next
}

fn reachable(next: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<usize> = next[from].iter().copied().collect();
    while let Some(at) = open.pop() {
        if seen.insert(at) {
            open.extend(&next[at]);
        }
    }
    seen
}

/// Names that cross from the layers with `before` to the others.
fn crossing(graph: &Graph, before: &[bool]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, layer) in graph.layers().iter().enumerate() {
        for value in layer.reads() {
            let value = graph.value(value);
            let is_made_before = match value.origin {
                Origin::Layer(maker) => before[maker.index()],
                _ => true,
            };
            if is_made_before && !before[at] {
                names.insert(value.name.clone());
            }
        }
    }
    names
}

fn check_groups(graph: &Graph, grouping: &Grouping) {
    let next = successors(graph);
    let group_of: Vec<_> = grouping.group_of.iter().map(|group| group.unwrap()).collect();
    for from in 0..next.len() {
        for &to in &next[from] {
            assert!(group_of[from] <= group_of[to], "groups are in topological order");
            if group_of[from] != group_of[to] {
                let after = reachable(&next, to);
                assert!(after.iter().all(|&at| group_of[at] != group_of[from]), "convex");
                let last = group_of.iter().rposition(|&group| group == group_of[from]);
                assert_eq!(last, Some(from), "values leave a group at its last layer");
            }
        }
    }
    let names: Vec<&str> =
        grouping.dag.groups().iter().flat_map(|group| &group.layers).map(String::as_str).collect();
    assert_eq!(names.len(), graph.layers().len());
    assert_eq!(BTreeSet::from_iter(names).len(), graph.layers().len(), "each layer once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn groups_are_convex_and_leave_at_their_end(draws in draws(1..24)) {
        let graph = network(&draws);
        check_groups(&graph, &group(&graph));
    }

    #[test]
    fn candidate_cuts_are_cuts(draws in draws(1..20)) {
        let graph = network(&draws);
        let grouping = group(&graph);
        let cuts = candidate_cuts(&grouping.dag);
        let sets: BTreeSet<&Vec<bool>> = cuts.iter().map(|cut| &cut.before).collect();
        prop_assert_eq!(sets.len(), cuts.len(), "each once");
        for cut in &cuts {
            prop_assert!(cut.before.contains(&true) && cut.before.contains(&false));
            for group in grouping.dag.group_ids().filter(|group| cut.before[group.index()]) {
                prop_assert!(grouping.dag.predecessors(group).all(|earlier| cut.before[earlier.index()]));
            }
            let stages = stages_of_cut(&graph, &grouping, cut);
            let before: Vec<bool> = stages.iter().map(|stage| *stage == Some(0)).collect();
            let names: Vec<String> =
                cut.flows.iter().map(|&flow| grouping.dag.flow(flow).name.clone()).collect();
            prop_assert_eq!(BTreeSet::from_iter(names.clone()), crossing(&graph, &before));
            let bytes: Bytes =
                cut.flows.iter().map(|&flow| grouping.dag.flow(flow).bytes.unwrap()).sum();
            prop_assert_eq!(cut.bytes, Some(bytes));
            check_named(&graph, cut, &names);
        }
    }

    #[test]
    fn named_values_are_a_cut_exactly_if_a_division_exists(
        draws in draws(1..9),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let graph = network(&draws);
        let names: BTreeSet<String> =
            picks.iter().map(|pick| format!("v{}", pick.index(draws.len()))).collect();
        let names: Vec<String> = names.into_iter().collect();
        let result = stages_at(&graph, std::slice::from_ref(&names));
        prop_assert_eq!(result.is_ok(), division_exists(&graph, &names), "{:?}", result);
        if let Ok(stages) = result {
            let before: Vec<bool> = stages.iter().map(|stage| *stage == Some(0)).collect();
            let mut crossing = crossing(&graph, &before);
            crossing.remove("in");
            prop_assert_eq!(crossing.into_iter().collect::<Vec<_>>(), names);
        }
    }
}

/// Naming what crosses a cut gives a cut where just that crosses.
fn check_named(graph: &Graph, cut: &Cut, names: &[String]) {
    let made: Vec<String> = names.iter().filter(|name| *name != "in").cloned().collect();
    if made.is_empty() {
        assert!(!cut.flows.is_empty());
        return;
    }
    let stages = stages_at(graph, std::slice::from_ref(&made)).unwrap();
    let before: Vec<bool> = stages.iter().map(|stage| *stage == Some(0)).collect();
    let mut crossing = crossing(graph, &before);
    crossing.remove("in");
    assert_eq!(crossing, made.into_iter().collect());
}

/// Tries all divisions: nothing flows back, and exactly the named values and the input may cross.
fn division_exists(graph: &Graph, names: &[String]) -> bool {
    let count = graph.layers().len();
    (0..1u32 << count).any(|bits| {
        let before: Vec<bool> = (0..count).map(|at| bits >> at & 1 == 1).collect();
        let next = successors(graph);
        let flows_back =
            (0..count).any(|from| !before[from] && next[from].iter().any(|&to| before[to]));
        let mut crossing = crossing(graph, &before);
        crossing.remove("in");
        !flows_back && crossing.into_iter().eq(names.iter().cloned())
    })
}

/// conv -> relu -> (conv -> relu, skip) -> add -> relu -> pool, with a head on the first relu.
fn residual() -> Graph {
    let conv = || Op::Conv { window: Window::default(), groups: 1, kind: ConvKind::Conv };
    let relu = || Op::Activate(Activation::Relu);
    let layers: [(&str, Op, &[&str]); 8] = [
        ("c1", conv(), &["x"]),
        ("r1", relu(), &["c1"]),
        ("c2", conv(), &["r1"]),
        ("r2", relu(), &["c2"]),
        ("c3", conv(), &["r2"]),
        ("add", Op::Binary(Binary::Add), &["c3", "r1"]),
        ("r3", relu(), &["add"]),
        ("pool", Op::GlobalPool(PoolKind::Average), &["r3"]),
    ];
    let mut builder = GraphBuilder::new("residual");
    builder.input("x", Some(DType::F32), Some(Shape(vec![1])));
    for (at, (name, op, reads)) in layers.into_iter().enumerate() {
        let inputs = reads.iter().map(|name| builder.graph().find_value(name)).collect();
        builder.layer(format!("layer-{name}"), op, at, inputs, vec![], vec![Some(name.to_owned())]);
        let value = builder.graph().find_value(name).unwrap();
        builder.set_type(value, Some(DType::F32), Some(Shape(vec![1])));
    }
    let output = builder.graph().find_value("pool").unwrap();
    builder.output(output);
    builder.build()
}

fn at(cuts: &[&[&str]]) -> Result<Vec<u32>, CutError> {
    let cuts: Vec<Vec<String>> =
        cuts.iter().map(|cut| cut.iter().map(|name| (*name).to_owned()).collect()).collect();
    let stages = stages_at(&residual(), &cuts)?;
    Ok(stages.into_iter().map(Option::unwrap).collect())
}

#[test]
fn a_residual_block_is_grouped_as_engines_fuse_it() {
    let grouping = group(&residual());
    let layers: Vec<String> =
        grouping.dag.groups().iter().map(|group| group.layers.join(" ")).collect();
    assert_eq!(
        layers,
        ["layer-c1 layer-r1", "layer-c2 layer-r2", "layer-c3 layer-add layer-r3", "layer-pool"]
    );
    let cuts = candidate_cuts(&grouping.dag);
    let names: Vec<Vec<&str>> = cuts
        .iter()
        .map(|cut| cut.flows.iter().map(|&flow| &grouping.dag.flow(flow).name[..]).collect())
        .collect();
    assert_eq!(names, [vec!["r1"], vec!["r1", "r2"], vec!["r3"]]);
}

#[test]
fn named_values_cut_anywhere_they_separate() {
    assert_eq!(at(&[&["r1"]]), Ok(vec![0, 0, 1, 1, 1, 1, 1, 1]));
    assert_eq!(at(&[&["c2", "r1"]]), Ok(vec![0, 0, 0, 1, 1, 1, 1, 1]), "inside a group");
    assert_eq!(at(&[&["r1"], &["r3"]]), Ok(vec![0, 0, 1, 1, 1, 1, 1, 2]));
    assert_eq!(at(&[&["r1"], &["r1", "r2"], &["r3"]]), Ok(vec![0, 0, 1, 1, 2, 2, 2, 3]));
}

#[test]
fn what_is_not_a_cut_says_why() {
    let cases: [(&[&[&str]], &str); 8] = [
        (
            &[&["r2"]],
            "`r2` does not separate the network: `r1` goes round it (layer-r1 -> layer-add \
            -> layer-c3); name that too, e.g. --at r2,r1",
        ),
        (&[&["r4"]], "no value is called `r4`; close to it are `r1`, `r2`, `r3`"),
        (&[&["layer-c2"]], "no value is called `layer-c2`; it is a layer, which makes `c2`"),
        (&[&["pool"]], "nothing is computed after `pool`"),
        (&[&["x"]], "nothing is computed before `x`"),
        (
            &[&["c1", "r1"]],
            "`c1` does not cross the cut at `c1`, `r1`: whatever reads it runs \
            before; for a cut of its own give it another --at",
        ),
        (
            &[&["r3"], &["r1"]],
            "cut 2 at `r1` lies before an earlier one, so data would flow back; \
            give the cuts in order from the input to the output",
        ),
        (&[&[]], "cut 1 names no value"),
    ];
    for (cuts, message) in cases {
        assert_eq!(at(cuts).unwrap_err().to_string(), message);
    }
}
