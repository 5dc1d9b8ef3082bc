//! What the layers of a network do, as far as their time depends on it.

use crate::{
    graph::{Graph, Layer, Origin, Role, ValueId},
    group::Grouping,
    op::{Activation, Binary, ConvKind, Op, PoolKind},
};

/// Kinds of layers whose times follow one law each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Convolution over several pixels.
    Conv,
    /// Convolution over one pixel.
    Pointwise,
    /// Convolution of each channel by itself.
    Depthwise,
    /// Product with a matrix of weights.
    Dense,
    /// Largest element of each window.
    MaxPool,
    /// Mean of each window.
    MeanPool,
    /// Reduction of whole maps.
    GlobalPool,
    /// A rectifier, with or without an upper end.
    Rectify,
    /// An activation with a sigmoid, an exponential or a product in it; softmax.
    Smooth,
    /// An elementwise function of several maps of one shape.
    Combine,
    /// A map times or plus something that is broadcast.
    Scale,
    /// A normalisation.
    Normalize,
    /// Maps joined or parted; anything else that moves elements.
    Join,
    /// A permutation of axes.
    Permute,
    /// The same elements under another shape.
    Relabel,
}

/// One layer's work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Which law it follows.
    pub kind: Kind,
    /// Whether it follows another layer of its group at once, so that an engine may fuse it.
    pub follows: bool,
    /// Multiply-accumulates.
    pub macs: f64,
    /// Elements that it reads, weights excluded.
    pub read: f64,
    /// Elements that it makes.
    pub made: f64,
    /// Elements of its weights.
    pub weights: f64,
    /// Channels that it reads.
    pub channels: f64,
    /// Channels that it makes.
    pub filters: f64,
    /// Elements of the kernel's window; 1 where there is none.
    pub window: f64,
}

/// The work of every group of a network, layer by layer; replicated layers cost nothing.
pub fn works(graph: &Graph, grouping: &Grouping) -> Vec<Vec<Work>> {
    let mut groups = vec![Vec::new(); grouping.dag.groups().len()];
    for id in graph.layer_ids() {
        let layer = graph.layer(id);
        let Some(group) = grouping.group_of[id.index()] else { continue };
        if layer.role == Role::Compute {
            let works: &mut Vec<Work> = &mut groups[group.index()];
            let follows = !works.is_empty();
            works.push(work(graph, layer, follows));
        }
    }
    groups
}

fn work(graph: &Graph, layer: &Layer, follows: bool) -> Work {
    let is_live = |id: &ValueId| graph.value(*id).origin != Origin::Weight;
    let elements = |id: ValueId| {
        let shape = graph.value(id).shape.as_ref();
        shape.and_then(|shape| shape.elements()).unwrap_or(0) as f64
    };
    let axis = |id: Option<ValueId>| {
        let shape = id.and_then(|id| graph.value(id).shape.as_ref());
        shape.and_then(|shape| shape.0.get(1).copied()).unwrap_or(1) as f64
    };
    let live: Vec<ValueId> = layer.reads().filter(is_live).collect();
    let first = layer.makes().next();
    Work {
        kind: kind(graph, layer, &live),
        follows,
        macs: layer.macs.0 as f64,
        read: live.iter().map(|&id| elements(id)).sum(),
        made: layer.makes().map(elements).sum(),
        weights: layer.reads().filter(|id| !is_live(id)).map(elements).sum(),
        channels: axis(live.first().copied()),
        filters: axis(first),
        window: window(graph, layer),
    }
}

/// Elements of the window.
fn window(graph: &Graph, layer: &Layer) -> f64 {
    let (Op::Conv { window, .. } | Op::ConvTranspose { window, .. } | Op::Pool { window, .. }) =
        &layer.op
    else {
        return 1.0;
    };
    match window.kernel.is_empty() {
        true => {
            let weights = layer.inputs.get(1).copied().flatten();
            let shape = weights.and_then(|id| graph.value(id).shape.as_ref());
            let spatial = shape.and_then(|shape| shape.0.get(2..)).unwrap_or_default();
            spatial.iter().map(|&side| side as f64).product()
        }
        false => window.kernel.iter().map(|&side| side as f64).product(),
    }
}

fn kind(graph: &Graph, layer: &Layer, live: &[ValueId]) -> Kind {
    match &layer.op {
        Op::Conv { groups, kind, .. } => {
            let position = if *kind == ConvKind::QLinear { 3 } else { 1 };
            let weights = layer.inputs.get(position).copied().flatten();
            let shape = weights.and_then(|id| graph.value(id).shape.as_ref());
            let shape = shape.map(|shape| shape.0.as_slice()).unwrap_or_default();
            match (groups, shape.get(1)) {
                (2.., Some(1)) => Kind::Depthwise,
                _ if window(graph, layer) == 1.0 => Kind::Pointwise,
                _ => Kind::Conv,
            }
        }
        Op::ConvTranspose { .. } => Kind::Conv,
        Op::Gemm { .. } | Op::MatMul(_) => Kind::Dense,
        Op::Pool { kind: PoolKind::Max, .. } => Kind::MaxPool,
        Op::Pool { .. } => Kind::MeanPool,
        Op::GlobalPool(_) | Op::Reduce { .. } => Kind::GlobalPool,
        Op::Activate(Activation::Relu | Activation::Clip) => Kind::Rectify,
        Op::Activate(_) | Op::Unary(_) | Op::Softmax(_) => Kind::Smooth,
        Op::Binary(Binary::Min | Binary::Max) if live.len() < 2 => Kind::Rectify,
        Op::Binary(_) | Op::Where => {
            let shape = |id: &ValueId| graph.value(*id).shape.as_ref();
            let same = live.windows(2).all(|pair| shape(&pair[0]) == shape(&pair[1]));
            if same && live.len() > 1 { Kind::Combine } else { Kind::Scale }
        }
        Op::Normalize(_) => Kind::Normalize,
        Op::Transpose { .. } | Op::DepthToSpace { .. } | Op::SpaceToDepth { .. } => Kind::Permute,
        op if op.is_relabelling() => Kind::Relabel,
        _ => Kind::Join,
    }
}
