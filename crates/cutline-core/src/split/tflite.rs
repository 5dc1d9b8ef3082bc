//! Parts of a TensorFlow Lite file as files of that format.
//!
//! The decision is made over the layers of the network that the file was converted to; what is
//! divided here are the operators of the file itself. An operator goes where its layers go. One that
//! the conversion left out stands where what it reads is made, or, where it works on weights alone,
//! in every part that needs it. What crosses are then the tensors of the file, in its own layout:
//! those that one part makes and a later one reads.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Port, SplitError, StageLabel, SubModel};
use crate::{
    codec::CutEncoding,
    graph::{Graph, LayerId, Role, ValueId},
    onnx::proto::ModelProto,
    tflite::split::{Part, PartError, Wiring, part, wiring},
};

/// A TensorFlow Lite file, and how the network that was made of it refers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TfliteFile {
    /// The file.
    pub bytes: Bytes,
    /// The operator of each layer, by the layer's name.
    pub operator_of: BTreeMap<String, usize>,
    /// The tensor of each value, by the value's name.
    pub tensor_of: BTreeMap<String, usize>,
}

/// Splits a network as [`split`](super::split()) does, into TensorFlow Lite files: values cross under
/// the names and in the layout of the file's tensors. O(parts x operators + bytes of the file).
pub fn split_tflite(
    file: &TfliteFile,
    graph: &Graph,
    stage_of: &[Option<u32>],
    labels: &[StageLabel],
) -> Result<Vec<SubModel>, SplitError> {
    if stage_of.len() != graph.layers().len() {
        let (layers, given) = (graph.layers().len(), stage_of.len());
        return Err(SplitError::WrongLength { layers, given });
    }
    let wiring = wiring(&file.bytes).map_err(PartError::File)?;
    let own = Own::new((file, &wiring), graph, stage_of, labels)?;
    let division = Division::new(&wiring, &own.of_operator, file)?;
    let value_of = values(file, graph);
    // A tensor that the conversion left out stands for what it was made of.
    let any = graph.inputs().iter().chain(graph.outputs()).copied().next();
    let port = |&tensor: &usize| {
        let (dtype, shape) = wiring.tensors[tensor].clone();
        let value = value_of.get(&tensor).copied().or(any)?;
        let name = wiring.names[tensor].clone();
        Some(Port { value, name, encoding: CutEncoding::Fp32, dtype, shape })
    };
    let stages = labels.iter().enumerate().map(|(index, label)| {
        let content = division.part(index, labels.len());
        let layers = own.layers(graph, index);
        let name = label.name.clone();
        let Some(&last) = layers.last().filter(|_| !content.operators.is_empty()) else {
            return Err(SplitError::Empty { stage: index, name });
        };
        if content.outputs.is_empty() {
            let layer = graph.layer(last).name.clone();
            return Err(SplitError::Unread { stage: index, name, layer });
        }
        Ok(SubModel {
            name,
            inputs: content.inputs.iter().filter_map(port).collect(),
            outputs: content.outputs.iter().filter_map(port).collect(),
            cut_encoding: None,
            layers,
            model: ModelProto::default(),
            tflite: Some(part(&file.bytes, &wiring.names, &content)?),
        })
    });
    stages.collect()
}

/// A value of the network for each tensor that has one.
fn values(file: &TfliteFile, graph: &Graph) -> BTreeMap<usize, ValueId> {
    let made = graph.layers().iter().flat_map(|layer| layer.makes());
    let mut found = BTreeMap::new();
    for id in graph.inputs().iter().copied().chain(made) {
        if let Some(&tensor) = file.tensor_of.get(&graph.value(id).name) {
            found.entry(tensor).or_insert(id);
        }
    }
    found
}

/// Where each layer goes, and with it its operator.
struct Own<'a> {
    stage_of: &'a [Option<u32>],
    of_operator: BTreeMap<usize, usize>,
}

impl<'a> Own<'a> {
    fn new(
        (file, wiring): (&TfliteFile, &Wiring),
        graph: &Graph,
        stage_of: &'a [Option<u32>],
        labels: &[StageLabel],
    ) -> Result<Self, SplitError> {
        let mut settled = BTreeSet::new();
        let mut of_operator: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
        let placed = graph.layers().iter().zip(stage_of);
        for (layer, stage) in placed.filter(|(layer, _)| layer.role != Role::Replicated) {
            let name = || layer.name.clone();
            let stage = stage.ok_or_else(|| SplitError::Unplaced { layer: name() })?;
            if stage as usize >= labels.len() {
                let stages = labels.len();
                return Err(SplitError::NoSuchStage { layer: name(), stage, stages });
            }
            let Some(&operator) = file.operator_of.get(&layer.name) else { continue };
            // Another order of the axes of what the operator reads, or of what it already made, is no
            // part of its work: it may be on either side.
            let holds = |id: ValueId| file.tensor_of.get(&graph.value(id).name);
            let tensors: Vec<usize> = layer.makes().filter_map(holds).copied().collect();
            let made = wiring.operators.get(operator).map_or(&[][..], |(_, makes)| makes);
            let makes = tensors.iter().any(|tensor| made.contains(tensor));
            let reorders = !tensors.is_empty() && !makes;
            if reorders || (makes && tensors.iter().all(|&tensor| settled.contains(&tensor))) {
                continue;
            }
            settled.extend(tensors);
            let known = *of_operator.entry(operator).or_insert((stage as usize, &layer.name));
            if known.0 != stage as usize {
                return Err(SplitError::Inside { layer: known.1.to_owned(), other: name() });
            }
        }
        let of_operator = of_operator.into_iter().map(|(at, (stage, _))| (at, stage)).collect();
        Ok(Self { stage_of, of_operator })
    }

    /// Layers of a part, in topological order.
    fn layers(&self, graph: &Graph, index: usize) -> Vec<LayerId> {
        let is_own = |id: &LayerId| self.stage_of[id.index()] == Some(index as u32);
        graph.layer_ids().filter(is_own).collect()
    }
}

/// Every operator's part.
struct Division<'a> {
    wiring: &'a Wiring,
    /// By operator; `None`: works on weights alone, and is wherever it is needed.
    stage_of: Vec<Option<usize>>,
    /// By tensor; `None`: an input of the network, or stored.
    maker: Vec<Option<usize>>,
}

impl<'a> Division<'a> {
    fn new(
        wiring: &'a Wiring,
        given: &BTreeMap<usize, usize>,
        file: &TfliteFile,
    ) -> Result<Self, SplitError> {
        let mut maker: Vec<Option<usize>> = vec![None; wiring.tensors.len()];
        let mut stage_of: Vec<Option<usize>> = Vec::with_capacity(wiring.operators.len());
        for (at, (reads, makes)) in wiring.operators.iter().enumerate() {
            // Inputs of the network are there from the first part on.
            let from = |&tensor: &usize| match maker[tensor] {
                Some(operator) => stage_of[operator].map(|stage| (stage, tensor)),
                None => wiring.inputs.contains(&tensor).then_some((0, tensor)),
            };
            let latest = reads.iter().filter_map(from).max_by_key(|&(stage, _)| stage);
            let stage = given.get(&at).copied().or(latest.map(|(stage, _)| stage));
            if let (Some(stage), Some((later, tensor))) = (stage, latest)
                && later > stage
            {
                let name = |operator: usize| {
                    let layer = file.operator_of.iter().find(|(_, at)| **at == operator);
                    layer.map_or_else(|| format!("operator {operator}"), |(name, _)| name.clone())
                };
                return Err(SplitError::Backward {
                    layer: name(at),
                    stage,
                    value: wiring.names[tensor].clone(),
                    maker: maker[tensor].map(name).unwrap_or_default(),
                    later,
                });
            }
            stage_of.push(stage);
            makes.iter().for_each(|&tensor| maker[tensor] = Some(at));
        }
        Ok(Self { wiring, stage_of, maker })
    }

    /// Whether a tensor is there only once the network has an input.
    fn is_fed(&self, tensor: usize) -> bool {
        match self.maker[tensor] {
            Some(operator) => self.stage_of[operator].is_some(),
            None => self.wiring.inputs.contains(&tensor),
        }
    }

    /// The part of an index, of so many.
    fn part(&self, index: usize, parts: usize) -> Part {
        let own = |&at: &usize| self.stage_of[at] == Some(index);
        let mut operators: BTreeSet<usize> = (0..self.stage_of.len()).filter(own).collect();
        let is_last = index + 1 == parts;
        let answers = |tensor: &&usize| match self.maker[**tensor] {
            Some(operator) => self.stage_of[operator].unwrap_or(parts - 1) == index,
            None => is_last,
        };
        let answers: Vec<usize> = self.wiring.outputs.iter().filter(answers).copied().collect();
        // What works on weights alone comes along.
        let mut wanted: Vec<usize> = answers.clone();
        wanted.extend(operators.iter().flat_map(|&at| &self.wiring.operators[at].0));
        while let Some(tensor) = wanted.pop() {
            let Some(operator) = self.maker[tensor] else { continue };
            if self.stage_of[operator].is_none() && operators.insert(operator) {
                wanted.extend(&self.wiring.operators[operator].0);
            }
        }
        let outputs = self.sent(index, &answers);
        Part {
            inputs: self.received(&operators),
            outputs,
            operators: operators.into_iter().collect(),
        }
    }

    /// Inputs of the network in their order, then what earlier parts make, in the order of making.
    fn received(&self, operators: &BTreeSet<usize>) -> Vec<usize> {
        let reads = operators.iter().flat_map(|&at| &self.wiring.operators[at].0).copied();
        let outside = reads.filter(|&tensor| {
            self.is_fed(tensor) && self.maker[tensor].is_none_or(|at| !operators.contains(&at))
        });
        let mut found: Vec<usize> = outside.collect::<BTreeSet<_>>().into_iter().collect();
        let place = |tensor: &usize| self.wiring.inputs.iter().position(|input| input == tensor);
        found.sort_by_key(|tensor| (self.maker[*tensor], place(tensor)));
        found
    }

    /// What later parts read, in the order of making, then the network's answers that are not among
    /// that.
    fn sent(&self, index: usize, answers: &[usize]) -> Vec<usize> {
        let is_later = |stage: &Option<usize>| stage.is_some_and(|stage| stage > index);
        let later = self.stage_of.iter().zip(&self.wiring.operators);
        let reads = later.filter(|(stage, _)| is_later(stage)).flat_map(|(_, (reads, _))| reads);
        let own =
            |tensor: &usize| self.maker[*tensor].is_some_and(|at| self.stage_of[at] == Some(index));
        let mut found: Vec<usize> =
            reads.copied().filter(own).collect::<BTreeSet<_>>().into_iter().collect();
        found.sort_by_key(|tensor| self.maker[*tensor]);
        let rest = answers.iter().filter(|tensor| !found.contains(tensor)).copied();
        let rest: Vec<usize> = rest.collect();
        found.extend(rest);
        found
    }
}
