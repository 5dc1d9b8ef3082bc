//! What each part holds, reads and answers, before any file is made of it.

use std::collections::BTreeSet;

use super::{SplitError, StageLabel};
use crate::graph::{Graph, LayerId, Origin, Role, ValueId};

/// The content of one part, each list ascending except `outputs`.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Own and replicated layers, in topological order.
    pub(super) layers: BTreeSet<LayerId>,
    /// Weights that they read.
    pub(super) weights: BTreeSet<ValueId>,
    /// Results of shape arithmetic that are known, to be stored.
    pub(super) folded: BTreeSet<ValueId>,
    /// Inputs of the network and results of earlier parts.
    pub(super) inputs: BTreeSet<ValueId>,
    /// What later parts read, then the network's outputs in their order.
    pub(super) outputs: Vec<ValueId>,
}

/// Derives the parts from the place of each layer.
pub(super) fn derive(
    graph: &Graph,
    stage_of: &[Option<u32>],
    labels: &[StageLabel],
) -> Result<Vec<Stage>, SplitError> {
    let place = Placement::new(graph, stage_of, labels)?;
    let mut stages: Vec<Stage> =
        (0..labels.len()).map(|index| place.closure(index)).collect::<Result<_, _>>()?;
    place.connect(&mut stages);
    for (index, stage) in stages.iter().enumerate() {
        let Some(&last) = stage.layers.last() else {
            return Err(SplitError::Empty { stage: index, name: labels[index].name.clone() });
        };
        if stage.outputs.is_empty() {
            let layer = graph.layer(last).name.clone();
            return Err(SplitError::Unread {
                stage: index,
                name: labels[index].name.clone(),
                layer,
            });
        }
    }
    Ok(stages)
}

/// A checked placement: every compute layer has a stage that exists.
struct Placement<'a> {
    graph: &'a Graph,
    /// By layer; `None` for replicated ones.
    stage_of: Vec<Option<usize>>,
    last: usize,
    /// By layer: whether it depends on anything but weights.
    fed: Vec<bool>,
}

impl<'a> Placement<'a> {
    fn new(
        graph: &'a Graph,
        given: &[Option<u32>],
        labels: &[StageLabel],
    ) -> Result<Self, SplitError> {
        let layers = graph.layers();
        if given.len() != layers.len() {
            return Err(SplitError::WrongLength { layers: layers.len(), given: given.len() });
        }
        let stage = |(layer, &stage): (&crate::graph::Layer, &Option<u32>)| {
            if layer.role == Role::Replicated {
                return Ok(None);
            }
            let name = || layer.name.clone();
            let stage = stage.ok_or_else(|| SplitError::Unplaced { layer: name() })?;
            if stage as usize >= labels.len() {
                let stages = labels.len();
                return Err(SplitError::NoSuchStage { layer: name(), stage, stages });
            }
            Ok(Some(stage as usize))
        };
        let stage_of = layers.iter().zip(given).map(stage).collect::<Result<_, _>>()?;
        let last = labels.len().saturating_sub(1);
        Ok(Self { graph, stage_of, last, fed: fed_layers(graph) })
    }

    /// All that one stage needs, followed from its layers up to what other stages make.
    fn closure(&self, index: usize) -> Result<Stage, SplitError> {
        let mut stage = Stage::default();
        let own = self.graph.layer_ids().filter(|id| self.stage_of[id.index()] == Some(index));
        stage.layers.extend(own);
        let mut wanted: Vec<(ValueId, Option<LayerId>)> = Vec::new();
        for &id in &stage.layers {
            wanted.extend(self.graph.layer(id).reads().map(|value| (value, Some(id))));
        }
        if index == self.last {
            // Outputs that no compute layer makes have no place of their own.
            let outputs = self.graph.outputs().iter().copied();
            wanted.extend(outputs.filter(|&v| self.maker(v).is_none()).map(|value| (value, None)));
        }
        while let Some((value, reader)) = wanted.pop() {
            let new_layer = self.demand(index, &mut stage, value, reader)?;
            if let Some(id) = new_layer {
                let reads = self.graph.layer(id).reads();
                wanted.extend(reads.map(|value| (value, reader.or(Some(id)))));
            }
        }
        Ok(stage)
    }

    /// Makes a value available in a stage; returns the replicated layer that this brought along.
    fn demand(
        &self,
        index: usize,
        stage: &mut Stage,
        id: ValueId,
        reader: Option<LayerId>,
    ) -> Result<Option<LayerId>, SplitError> {
        let value = self.graph.value(id);
        let layer = match value.origin {
            Origin::Input => {
                stage.inputs.insert(id);
                return Ok(None);
            }
            Origin::Weight => {
                stage.weights.insert(id);
                return Ok(None);
            }
            Origin::Layer(layer) => layer,
        };
        let from = self.stage_of[layer.index()];
        if from == Some(index) {
            return Ok(None);
        }
        let known = value.constant.is_some() && value.bytes().is_some();
        if known && self.fed[layer.index()] {
            stage.folded.insert(id);
            return Ok(None);
        }
        let Some(from) = from else {
            return Ok(stage.layers.insert(layer).then_some(layer));
        };
        if from > index {
            let reader = reader.map_or(value.name.as_str(), |id| &self.graph.layer(id).name);
            return Err(SplitError::Backward {
                layer: reader.to_owned(),
                stage: index,
                value: value.name.clone(),
                maker: self.graph.layer(layer).name.clone(),
                later: from,
            });
        }
        let unknown = match (value.dtype, &value.shape) {
            (None, _) => Some("element type"),
            (_, None) => Some("shape"),
            _ => None,
        };
        if let Some(unknown) = unknown {
            let value = value.name.clone();
            return Err(SplitError::UnknownType { value, from, to: index, unknown });
        }
        stage.inputs.insert(id);
        Ok(None)
    }

    /// Gives every stage its outputs: what others read of it, then answers of the network.
    fn connect(&self, stages: &mut [Stage]) {
        let crossing: BTreeSet<ValueId> =
            stages.iter().flat_map(|stage| stage.inputs.iter().copied()).collect();
        for &value in &crossing {
            if let Some(from) = self.maker(value) {
                stages[from].outputs.push(value);
            }
        }
        for &value in self.graph.outputs() {
            let from = self.maker(value).unwrap_or(self.last);
            if !stages[from].outputs.contains(&value) {
                stages[from].outputs.push(value);
            }
        }
    }

    /// The stage whose compute layer makes a value.
    fn maker(&self, value: ValueId) -> Option<usize> {
        match self.graph.value(value).origin {
            Origin::Layer(layer) => self.stage_of[layer.index()],
            Origin::Input | Origin::Weight => None,
        }
    }
}

/// By layer: whether anything but weights flows into it.
fn fed_layers(graph: &Graph) -> Vec<bool> {
    let mut fed = vec![false; graph.layers().len()];
    for id in graph.layer_ids() {
        fed[id.index()] = graph.layer(id).reads().any(|value| match graph.value(value).origin {
            Origin::Input => true,
            Origin::Weight => false,
            Origin::Layer(maker) => fed[maker.index()],
        });
    }
    fed
}
