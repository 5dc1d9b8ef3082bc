//! The layers of a network as rows for people.
//!
//! In a network of integers an operator is many layers: what dequantises each of its operands, its
//! weights among them, the operator itself, and what quantises its result. They are one row here, under
//! the name of the quantised result, where a cut can be.

use cutline_core::{
    graph::{Graph, Layer},
    op::Op,
    units::{Bytes, Macs},
};

/// A row of cells, in the order of [`HEADER`].
pub(super) type Row = [String; 6];

pub(super) const HEADER: [&str; 6] =
    ["layer", "operator", "output", "work", "parameters", "output size"];

/// The rows of a network, in the order of its layers. O(layers).
pub(super) fn rows(graph: &Graph) -> Vec<Row> {
    let homes = homes(graph);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); homes.len()];
    for (layer, &home) in homes.iter().enumerate() {
        members[home].push(layer);
    }
    let rows = members.iter().enumerate().filter(|(_, members)| !members.is_empty());
    rows.map(|(home, members)| row(graph, home, members)).collect()
}

/// The layer in whose row each layer stands.
fn homes(graph: &Graph) -> Vec<usize> {
    let layers = graph.layers();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.values().len()];
    let mut maker: Vec<Option<usize>> = vec![None; graph.values().len()];
    for (index, layer) in layers.iter().enumerate() {
        layer.reads().for_each(|value| readers[value.index()].push(index));
        layer.makes().for_each(|value| maker[value.index()] = Some(index));
    }
    let mut homes: Vec<usize> = (0..layers.len()).collect();
    // Every layer moves to a later one, whose own row is thus known already.
    for (index, layer) in layers.iter().enumerate().rev() {
        let [Some(made)] = layer.outputs[..] else { continue };
        let is_answer = graph.outputs().contains(&made);
        let next = match readers[made.index()].as_slice() {
            [first, ..] if matches!(layer.op, Op::Dequantize) => *first,
            &[only] if matches!(layers[only].op, Op::Quantize(_)) => only,
            _ => continue,
        };
        if !is_answer && next > index {
            homes[index] = homes[next];
        }
    }
    homes
}

fn row(graph: &Graph, home: usize, members: &[usize]) -> Row {
    let layers = || members.iter().map(|&index| &graph.layers()[index]);
    let shown = &graph.layers()[home];
    let first = shown.makes().next().map(|id| graph.value(id));
    let moves = |layer: &&Layer| matches!(layer.op, Op::Quantize(_) | Op::Dequantize);
    let computes = layers().find(|layer| !moves(layer));
    let operator = match (computes, first.and_then(|value| value.dtype)) {
        (Some(layer), Some(dtype)) if members.len() > 1 => {
            format!("{} {}", layer.op.name(), dtype.oip())
        }
        _ => shown.op.name().to_owned(),
    };
    let macs: Macs = layers().map(|layer| layer.macs).sum();
    let parameters: Bytes = layers().map(|layer| graph.parameter_bytes(layer)).sum();
    let made: Option<Bytes> = shown.makes().map(|id| graph.value(id).bytes()).sum();
    let unless_none = |none: bool, text: String| if none { String::new() } else { text };
    [
        shown.name.clone(),
        operator,
        first.and_then(|it| it.shape.as_ref()).map_or("?".to_owned(), ToString::to_string),
        unless_none(macs.0 == 0, macs.to_string()),
        unless_none(parameters.0 == 0, parameters.to_string()),
        made.map_or("?".to_owned(), |bytes| bytes.to_string()),
    ]
}
