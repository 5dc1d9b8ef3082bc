//! The order in which layers are imported, and the names that they get.
//!
//! ONNX asks for topological order and most files keep it; where one does not, the order is the one
//! that keeps as close to the file's as it can: always the first node that is ready.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
};

use crate::onnx::{
    ImportError,
    proto::{GraphProto, NodeProto},
};

/// Unique layer names, by node.
pub(super) fn layer_names(nodes: &[NodeProto]) -> Vec<String> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for node in nodes {
        *count.entry(node.name()).or_default() += 1;
    }
    let is_unique = |node: &NodeProto| !node.name().is_empty() && count[node.name()] == 1;
    let mut taken: HashSet<String> =
        nodes.iter().filter(|node| is_unique(node)).map(|node| node.name().to_owned()).collect();
    let mut suffixes: HashMap<String, usize> = HashMap::new();
    let fallback = |(index, node): (usize, &NodeProto)| {
        if is_unique(node) {
            return node.name().to_owned();
        }
        let output = node.output.iter().find(|output| !output.is_empty());
        let stem = output.cloned().unwrap_or_else(|| format!("{}_{index}", node.op_type()));
        let mut name = stem.clone();
        while !taken.insert(name.clone()) {
            // Counted per stem, so that a file full of equal names costs no more than it is long.
            let suffix = suffixes.entry(stem.clone()).or_insert(1usize);
            *suffix += 1;
            name = format!("{stem}_{suffix}");
        }
        name
    };
    nodes.iter().enumerate().map(fallback).collect()
}

/// Names of the enclosing graphs' values that a node's subgraphs read, in order of their names.
pub(super) fn captures(node: &NodeProto) -> BTreeSet<&str> {
    let mut captured = BTreeSet::new();
    let attributes = node.attribute.iter();
    for graph in attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
        captured.extend(free_names(graph));
    }
    captured
}

/// Names that a graph reads and does not make. Recursion is as deep as the decoder lets messages
/// nest.
fn free_names(graph: &GraphProto) -> BTreeSet<&str> {
    let mut made: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
    made.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
    made.extend(sparse.map(|values| values.name()));
    made.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    let mut free = BTreeSet::new();
    for node in &graph.node {
        free.extend(node.input.iter().map(String::as_str));
        free.extend(captures(node));
    }
    free.extend(graph.output.iter().map(|output| output.name()));
    free.retain(|name| !name.is_empty() && !made.contains(name));
    free
}

/// The nodes in topological order; `reads[i]` are the nodes that node `i` waits for.
pub(super) fn topological(
    waits_for: &[BTreeSet<usize>],
    names: &[String],
) -> Result<Vec<usize>, ImportError> {
    let mut open: Vec<usize> = waits_for.iter().map(BTreeSet::len).collect();
    let mut readers = vec![Vec::new(); waits_for.len()];
    for (node, makers) in waits_for.iter().enumerate() {
        for &maker in makers {
            readers[maker].push(node);
        }
    }
    let ready = (0..open.len()).filter(|&node| open[node] == 0).map(Reverse);
    let mut ready: BinaryHeap<Reverse<usize>> = ready.collect();
    let mut order = Vec::with_capacity(open.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for &reader in &readers[node] {
            open[reader] -= 1;
            if open[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    match open.iter().position(|&count| count > 0) {
        None => Ok(order),
        Some(stuck) => Err(ImportError::Cycle { layers: cycle(stuck, waits_for, &open, names) }),
    }
}

/// A cycle among the nodes that never became ready, as text.
fn cycle(start: usize, waits_for: &[BTreeSet<usize>], open: &[usize], names: &[String]) -> String {
    // A stuck node waits for a stuck node, so walking back must meet one twice.
    let mut seen_at = HashMap::new();
    let mut walk = Vec::new();
    let mut node = start;
    while !seen_at.contains_key(&node) {
        seen_at.insert(node, walk.len());
        walk.push(node);
        match waits_for[node].iter().find(|&&maker| open[maker] > 0) {
            Some(&maker) => node = maker,
            None => break,
        }
    }
    let first = seen_at.get(&node).copied().unwrap_or(0);
    let mut layers: Vec<&str> = walk[first..].iter().rev().map(|&at| names[at].as_str()).collect();
    layers.extend(layers.first().copied());
    if layers.len() > 9 {
        layers.splice(4..layers.len() - 4, ["..."]);
    }
    layers.join(" -> ")
}
