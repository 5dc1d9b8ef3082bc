//! Fusion groups: which layers an engine runs as one, and which are replicated.
//!
//! Layers are taken in topological order; each joins the group of an operand or starts its own. It
//! may join only through the group's *exit*, the one value that leaves it, and only if nothing else
//! reads the exit and the network does not answer with it. What a group takes depends on what it
//! is so far:
//!
//! | group | takes | then it is |
//! |---|---|---|
//! | kernel: a convolution or matrix product | batch normalisation; elementwise layers whose other operands are constants | kernel |
//! | | an activation; the addition of one other value (a residual) | fused |
//! | fused | elementwise layers whose other operands are constants | fused |
//! | chain: elementwise layers, batch normalisation | more of them, whatever they read | chain |
//! | dequantised: DequantizeLinear alone; a network's input brought to another layout | any layer, which also takes its other such operands | as that layer alone |
//! | any | Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout | the same |
//! | any | QuantizeLinear; a change of layout from NCHW to NHWC | plain |
//! | plain: everything else | | |
//!
//! That is what ONNX Runtime and rten fuse. An activation that is written out, such as
//! `x * sigmoid(x)`, reads its operand several times; up to [`WRITTEN_OUT`] elementwise layers that
//! start at one value and end in one count as one elementwise layer.
//!
//! A model that was converted may need several layers for one *operator* of its file, a change of
//! layout in front of it included. These follow each other; they join a group only together, each one
//! taking its turn in the table, and otherwise are one, whatever they are. What goes from group to
//! group is then a tensor of the file, in the layout that it was made in.
//!
//! Whatever leaves a group of several layers leaves it at its last layer, which all its layers lead
//! to, or at its last operator, between whose layers there is no other. So groups are convex, no two
//! groups wait for each other, and ordering them by their last layer is topological.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    codec::is_encodable,
    dag::{Dag, FlowId, GroupId, OpClass},
    graph::{Graph, Layer, LayerId, Origin, Role, Value, ValueId},
    op::{Binary, ConvKind, Normalization, Op},
    units::{Bytes, Macs},
};

/// Longest written-out activation, in layers.
pub const WRITTEN_OUT: usize = 8;

/// A network seen as groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouping {
    /// The groups and what flows between them; a flow has the name of its value.
    pub dag: Dag,
    /// The group of each layer, by layer index; `None` for replicated layers.
    pub group_of: Vec<Option<GroupId>>,
}

/// Groups the layers of a network as engines fuse them. Linear in the size of the graph, apart from
/// sorting.
pub fn group(graph: &Graph) -> Grouping {
    group_operators(graph, &BTreeMap::new())
}

/// The same for a network that was converted: the layers of an operator stay together. `operator_of`
/// says the operator of each layer, by the layer's name; layers without one stand for themselves.
pub fn group_operators(graph: &Graph, operator_of: &BTreeMap<String, usize>) -> Grouping {
    let is_placed = |id: &LayerId| graph.layer(*id).role == Role::Compute;
    let layers: Vec<LayerId> = graph.layer_ids().filter(is_placed).collect();
    let operator = |id: LayerId| operator_of.get(&graph.layer(id).name);
    let same = |a: &LayerId, b: &LayerId| operator(*a).is_some() && operator(*a) == operator(*b);
    let operators: Vec<&[LayerId]> = layers.chunk_by(same).collect();
    let mut grouper = Grouper::new(graph, &operators);
    for layers in operators {
        if grouper.of[layers[0].index()].is_none() {
            grouper.place(layers);
        }
    }
    grouper.finish()
}

/// What a group is so far, and so what it takes.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Kernel,
    Fused,
    Chain,
    Dequantized,
    Plain,
}

impl Kind {
    /// What a layer alone is.
    fn of(op: &Op) -> Self {
        match op {
            Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Gemm { .. } | Op::MatMul(_) => {
                Self::Kernel
            }
            Op::Dequantize => Self::Dequantized,
            op if op.is_elementwise() || is_batch_norm(op) => Self::Chain,
            _ => Self::Plain,
        }
    }

    /// What the group is after it takes the layer; `None` if it does not. `alone`: the layer's
    /// other operands are constants.
    fn take(self, op: &Op, alone: bool) -> Option<Self> {
        match self {
            Self::Dequantized => Some(Self::of(op)),
            same if op.is_relabelling() => Some(same),
            _ if matches!(op, Op::Quantize(_)) || permutes(op, &TO_NHWC) => Some(Self::Plain),
            Self::Kernel if is_batch_norm(op) => Some(Self::Kernel),
            Self::Kernel if alone && matches!(op, Op::Activate(_)) => Some(Self::Fused),
            Self::Kernel if !alone && matches!(op, Op::Binary(Binary::Add | Binary::Sum)) => {
                Some(Self::Fused)
            }
            Self::Kernel | Self::Fused if alone && op.is_elementwise() => Some(self),
            Self::Chain if op.is_elementwise() || is_batch_norm(op) => Some(Self::Chain),
            _ => None,
        }
    }
}

/// What a network that was made for the layout NHWC begins with, where it is run in NCHW.
const TO_NCHW: [i64; 4] = [0, 3, 1, 2];
/// What such a network ends with.
const TO_NHWC: [i64; 4] = [0, 2, 3, 1];

/// Whether a layer is a transpose by this order.
fn permutes(op: &Op, order: &[i64; 4]) -> bool {
    matches!(op, Op::Transpose { permutation: Some(by) } if by == order)
}

fn is_batch_norm(op: &Op) -> bool {
    matches!(op, Op::Normalize(Normalization::BatchNormalization))
}

/// A group in the making.
struct Members {
    layers: Vec<LayerId>,
    kind: Kind,
    exit: Option<ValueId>,
}

struct Grouper<'a> {
    graph: &'a Graph,
    /// Layers that have a place and read the value, by value index.
    readers: Vec<Vec<LayerId>>,
    is_answer: Vec<bool>,
    /// The operator that a layer is of, and how many layers that has, by layer index.
    operator: Vec<(usize, usize)>,
    groups: Vec<Members>,
    of: Vec<Option<usize>>,
}

impl<'a> Grouper<'a> {
    fn new(graph: &'a Graph, operators: &[&[LayerId]]) -> Self {
        let mut readers = graph.readers();
        for list in &mut readers {
            list.retain(|&reader| graph.layer(reader).role == Role::Compute);
        }
        let mut is_answer = vec![false; graph.values().len()];
        for output in graph.outputs() {
            is_answer[output.index()] = true;
        }
        let of = vec![None; graph.layers().len()];
        let mut operator = vec![(0, 0); graph.layers().len()];
        for (at, layers) in operators.iter().enumerate() {
            layers.iter().for_each(|id| operator[id.index()] = (at, layers.len()));
        }
        Self { graph, readers, is_answer, operator, groups: Vec::new(), of }
    }

    /// The layer that has a place and makes a value.
    fn maker(&self, value: ValueId) -> Option<LayerId> {
        match self.graph.value(value).origin {
            Origin::Layer(id) if self.graph.layer(id).role == Role::Compute => Some(id),
            _ => None,
        }
    }

    /// The values that a layer reads and another layer or the network's caller makes.
    fn live_operands(&self, id: LayerId) -> BTreeSet<ValueId> {
        let is_live = |&value: &ValueId| {
            self.maker(value).is_some() || self.graph.value(value).origin == Origin::Input
        };
        self.graph.layer(id).reads().filter(is_live).collect()
    }

    /// Places a layer, or all those of an operator.
    fn place(&mut self, layers: &[LayerId]) {
        let operands: BTreeSet<ValueId> =
            layers.iter().flat_map(|&id| self.live_operands(id)).collect();
        if let Some(run) = operands.iter().find_map(|&value| self.written_out(value)) {
            return self.place_run(run);
        }
        let mut hosts = self.private_groups(&operands, layers);
        let dequantized: Vec<usize> =
            hosts.extract_if(.., |&mut at| self.groups[at].kind == Kind::Dequantized).collect();
        let taken = |at: usize| {
            let mut each = layers.iter();
            each.try_fold(self.groups[at].kind, |kind, &id| self.take(kind, id))
        };
        let host = hosts.into_iter().find_map(|at| Some((at, taken(at)?)));
        let (at, kind) = host.unwrap_or_else(|| (self.new_group(), self.kind_alone(layers)));
        for other in dequantized {
            self.absorb(other, at);
        }
        self.append(at, layers, kind);
    }

    /// What a group is after it takes a layer; `None` if it does not.
    fn take(&self, kind: Kind, id: LayerId) -> Option<Kind> {
        kind.take(&self.graph.layer(id).op, self.live_operands(id).len() == 1)
    }

    /// What layers are that no group takes.
    fn kind_alone(&self, layers: &[LayerId]) -> Kind {
        let alone = |id: LayerId| match self.lays_out_input(id) {
            true => Kind::Dequantized,
            false => Kind::of(&self.graph.layer(id).op),
        };
        let first = layers.first().map_or(Kind::Plain, |&id| alone(id));
        let rest = layers.iter().skip(1);
        rest.fold(first, |kind, &id| self.take(kind, id).unwrap_or_else(|| alone(id)))
    }

    /// Whether a layer brings an input of the network from NHWC to NCHW: in front of the layer that
    /// reads it, as dequantisation is. With one channel it is a reshape.
    fn lays_out_input(&self, id: LayerId) -> bool {
        let layer = self.graph.layer(id);
        let Some(input) = layer.inputs.first().copied().flatten() else { return false };
        let shape = |id: ValueId| self.graph.value(id).shape.as_ref().map(|shape| &shape.0[..]);
        let made = layer.makes().next().and_then(shape);
        let one_channel = match (shape(input), made) {
            (Some(&[n, h, w, 1]), Some(made)) => made == [n, 1, h, w],
            _ => false,
        };
        self.graph.value(input).origin == Origin::Input
            && (permutes(&layer.op, &TO_NCHW)
                || one_channel && matches!(layer.op, Op::Reshape { .. }))
    }

    /// Places a written-out activation: with the group of its operand, else as a chain.
    fn place_run(&mut self, run: Vec<LayerId>) {
        let host = self.live_operands(run[0]).into_iter().find_map(|value| {
            let group = self.of[self.maker(value)?.index()]?;
            let members = &self.groups[group];
            let is_host = members.exit == Some(value)
                && matches!(members.kind, Kind::Kernel | Kind::Fused | Kind::Chain);
            is_host.then_some(group)
        });
        let (at, kind) = match host {
            Some(at) if self.groups[at].kind == Kind::Chain => (at, Kind::Chain),
            Some(at) => (at, Kind::Fused),
            None => (self.new_group(), Kind::Chain),
        };
        self.append(at, &run, kind);
    }

    /// Groups whose exit is one of the values and is read by nothing but `layers`, which ascend; the
    /// group that ends latest comes first.
    fn private_groups(&self, values: &BTreeSet<ValueId>, layers: &[LayerId]) -> Vec<usize> {
        let mut groups: Vec<usize> = values
            .iter()
            .filter_map(|&value| {
                let group = self.of[self.maker(value)?.index()]?;
                let is_private = self.groups[group].exit == Some(value)
                    && !self.is_answer[value.index()]
                    && self.readers[value.index()]
                        .iter()
                        .all(|id| layers.binary_search(id).is_ok());
                is_private.then_some(group)
            })
            .collect();
        groups.sort_unstable_by_key(|&at| std::cmp::Reverse(self.groups[at].layers.last()));
        groups
    }

    /// The elementwise layers between `start` and one value that replaces it, if several read it.
    fn written_out(&self, start: ValueId) -> Option<Vec<LayerId>> {
        let first_readers = &self.readers[start.index()];
        if self.is_answer[start.index()] || !(2..=WRITTEN_OUT).contains(&first_readers.len()) {
            return None;
        }
        let mut made = BTreeSet::from([start]);
        let mut waiting: BTreeSet<LayerId> = first_readers.iter().copied().collect();
        let mut run = Vec::new();
        while let Some(id) = waiting.pop_first() {
            let layer = self.graph.layer(id);
            if run.len() == WRITTEN_OUT
                || !layer.op.is_elementwise()
                || !self.live_operands(id).is_subset(&made)
            {
                return None;
            }
            run.push(id);
            if waiting.is_empty() && self.are_whole(&run) {
                return (run.len() > 1).then_some(run);
            }
            for value in layer.makes() {
                if self.is_answer[value.index()] {
                    return None;
                }
                made.insert(value);
                waiting.extend(&self.readers[value.index()]);
            }
        }
        None
    }

    /// Whether of each operator in a short list all layers are there.
    fn are_whole(&self, run: &[LayerId]) -> bool {
        let operator = |id: &LayerId| self.operator[id.index()];
        run.iter()
            .map(operator)
            .all(|of| run.iter().filter(|id| operator(id) == of).count() == of.1)
    }

    fn new_group(&mut self) -> usize {
        self.groups.push(Members { layers: Vec::new(), kind: Kind::Plain, exit: None });
        self.groups.len() - 1
    }

    fn absorb(&mut self, other: usize, into: usize) {
        let layers = std::mem::take(&mut self.groups[other].layers);
        for &layer in &layers {
            self.of[layer.index()] = Some(into);
        }
        self.groups[into].layers.extend(layers);
    }

    fn append(&mut self, at: usize, layers: &[LayerId], kind: Kind) {
        for &layer in layers {
            self.of[layer.index()] = Some(at);
        }
        let used = |value: &ValueId| {
            let is_outside = |reader: &LayerId| self.of[reader.index()] != Some(at);
            self.is_answer[value.index()] || self.readers[value.index()].iter().any(is_outside)
        };
        let made = layers.iter().flat_map(|&id| self.graph.layer(id).makes());
        let mut exits = made.filter(used);
        let exit = exits.next().filter(|_| exits.next().is_none());
        let members = &mut self.groups[at];
        members.layers.extend(layers);
        members.layers.sort_unstable();
        members.kind = kind;
        members.exit = exit;
    }

    fn finish(self) -> Grouping {
        let mut order: Vec<usize> =
            (0..self.groups.len()).filter(|&at| !self.groups[at].layers.is_empty()).collect();
        order.sort_unstable_by_key(|&at| self.groups[at].layers.last());
        let mut dag = Dag::new();
        let mut flows: BTreeMap<ValueId, FlowId> = BTreeMap::new();
        for &input in self.graph.inputs() {
            let value = self.graph.value(input);
            flows.insert(input, dag.add_input(value.name.clone(), value.bytes()));
        }
        let mut group_of = vec![None; self.graph.layers().len()];
        for at in order {
            let id = self.add(at, &mut dag, &mut flows);
            for layer in &self.groups[at].layers {
                group_of[layer.index()] = Some(id);
            }
        }
        for output in self.graph.outputs() {
            if let Some(&flow) = flows.get(output) {
                dag.mark_output(flow);
            }
        }
        Grouping { dag, group_of }
    }

    /// Adds a finished group to the DAG.
    fn add(&self, at: usize, dag: &mut Dag, flows: &mut BTreeMap<ValueId, FlowId>) -> GroupId {
        let layers = || self.groups[at].layers.iter().map(|&id| self.graph.layer(id));
        let reads: BTreeSet<FlowId> = layers()
            .flat_map(|layer| layer.reads())
            .filter_map(|id| flows.get(&id))
            .copied()
            .collect();
        let leaves = |id: &ValueId| {
            let is_outside = |reader: &LayerId| self.of[reader.index()] != Some(at);
            self.is_answer[id.index()] || self.readers[id.index()].iter().any(is_outside)
        };
        let makes: Vec<ValueId> = layers().flat_map(|layer| layer.makes()).filter(leaves).collect();
        let described = makes.iter().map(|&id| {
            let value = self.graph.value(id);
            (value.name.clone(), value.bytes())
        });
        let names = layers().map(|layer| layer.name.clone()).collect();
        let macs: Macs = layers().map(|layer| layer.macs).sum();
        let id = dag.add_group(names, reads, described, macs, self.parameter_bytes(at));
        dag.set_ops(id, layers().map(|layer| layer.op.name()).collect());
        let made: Vec<FlowId> = dag.group(id).makes.clone();
        for (&value, &flow) in makes.iter().zip(&made) {
            if !self.graph.value(value).dtype.is_some_and(is_encodable) {
                dag.mark_plain(flow);
            }
        }
        flows.extend(makes.into_iter().zip(made));
        let heaviest = layers().max_by_key(|layer| layer.macs);
        dag.set_class(id, heaviest.map_or(OpClass::Memory, |layer| class(self.graph, layer)));
        id
    }

    /// Bytes of the constants that a group's layers need: weights, and what replicated layers make
    /// from weights, by the weights that it is made from.
    fn parameter_bytes(&self, at: usize) -> Bytes {
        let layers = self.groups[at].layers.iter();
        let mut open: Vec<ValueId> = layers.flat_map(|&id| self.graph.layer(id).reads()).collect();
        let mut seen = BTreeSet::new();
        let mut total = Bytes::ZERO;
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let value = self.graph.value(id);
            match value.origin {
                Origin::Weight => total += stored_bytes(value),
                Origin::Input => {}
                Origin::Layer(maker) => {
                    let layer = self.graph.layer(maker);
                    if layer.role == Role::Compute {
                        continue;
                    }
                    if value.constant.is_some() || layer.op == Op::Constant {
                        total += stored_bytes(value);
                    } else {
                        open.extend(layer.reads());
                    }
                }
            }
        }
        total
    }
}

/// The kind of work of a layer.
fn class(graph: &Graph, layer: &Layer) -> OpClass {
    match &layer.op {
        Op::Conv { groups, window, kind } => {
            let weights = match kind {
                ConvKind::QLinear => layer.inputs.get(3),
                ConvKind::Conv | ConvKind::ConvInteger => layer.inputs.get(1),
            };
            let weights = weights.copied().flatten().map(|id| graph.value(id));
            let shape = weights.and_then(|value| value.shape.as_ref());
            let shape = shape.map(|shape| shape.0.as_slice()).unwrap_or_default();
            let spatial = if window.kernel.is_empty() {
                shape.get(2..).unwrap_or_default()
            } else {
                &window.kernel
            };
            match (groups, shape.get(1)) {
                (2.., Some(1)) => OpClass::Depthwise,
                _ if !spatial.is_empty() && spatial.iter().all(|&size| size == 1) => {
                    OpClass::Pointwise
                }
                _ => OpClass::Conv,
            }
        }
        Op::ConvTranspose { .. } => OpClass::Conv,
        Op::Gemm { .. } | Op::MatMul(_) => OpClass::Dense,
        _ => OpClass::Memory,
    }
}

fn stored_bytes(value: &Value) -> Bytes {
    value.bytes().unwrap_or(Bytes::ZERO)
}
