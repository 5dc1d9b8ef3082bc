//! Cuts that a user names by the values that are to cross.
//!
//! What the named values are made from runs before the cut. A value that is not named must not
//! cross, so its maker and its readers run on the same side: they form one *piece*. Named values
//! connect pieces. A piece that holds an ancestor of a named value is before the cut; any other
//! that reads a named value is after it. The named values separate the network if each of them is
//! read after the cut. Pieces that have nothing to do with any named value stay with the input.
//!
//! With several cuts, given from the input to the output, a layer's stage is the number of cuts
//! that it is after. What is made in an early stage may be read in any later one, so nothing flows
//! back.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use crate::graph::{Graph, LayerId, Origin, Role, ValueId};

/// Names longer than this get no suggestions.
const LONGEST_SUGGESTED: usize = 128;

/// Why named values are not a cut.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum CutError {
    #[error("no value is called `{name}`{suggestion}")]
    Unknown { name: String, suggestion: String },
    #[error("`{name}` depends on no input: weights and what is made from them are never sent")]
    Static { name: String },
    #[error("cut {number} names no value")]
    Empty { number: usize },
    #[error("nothing is computed before {names}")]
    NothingBefore { names: String },
    #[error("nothing is computed after {names}")]
    NothingAfter { names: String },
    #[error(
        "{names} does not separate the network: `{value}` goes round it ({path}); name that too, \
         e.g. --at {fixed}"
    )]
    Bypass { names: String, value: String, path: String, fixed: String },
    #[error(
        "`{name}` does not cross the cut at {names}: whatever reads it runs before; for a cut of \
         its own give it another --at"
    )]
    NotCrossing { name: String, names: String },
    #[error(
        "cut {number} at {names} lies before an earlier one, so data would flow back; give the \
         cuts in order from the input to the output"
    )]
    Backward { number: usize, names: String },
}

/// The stage of each layer when a network is cut at named values, `None` where the layer is
/// replicated. Each element of `cuts` holds the values of one cut, in order from the input to the
/// output; k cuts make k + 1 stages, none of them empty. Network inputs may cross without being
/// named. O(k n).
pub fn stages_at(graph: &Graph, cuts: &[Vec<String>]) -> Result<Vec<Option<u32>>, CutError> {
    let network = Network::new(graph);
    let cuts: Vec<Vec<ValueId>> = cuts
        .iter()
        .enumerate()
        .map(|(at, names)| network.resolve(at + 1, names))
        .collect::<Result<_, _>>()?;
    let mut is_named = vec![false; graph.values().len()];
    for value in cuts.iter().flatten() {
        is_named[value.index()] = true;
    }
    let mut stages: Vec<Option<u32>> =
        network.is_placed.iter().map(|&is| is.then_some(0)).collect();
    let mut before = vec![false; graph.layers().len()];
    for (at, cut) in cuts.iter().enumerate() {
        let names = || network.names(cut);
        let mut grew = false;
        for (layer, is_before) in network.before(cut, &is_named)?.into_iter().enumerate() {
            grew |= is_before && !before[layer];
            before[layer] |= is_before;
        }
        if !grew {
            return Err(CutError::Backward { number: at + 1, names: names() });
        }
        let after = stages.iter_mut().zip(&before).filter(|(_, is_before)| !**is_before);
        let mut after: Vec<&mut u32> = after.filter_map(|(stage, _)| stage.as_mut()).collect();
        if after.is_empty() {
            return Err(CutError::NothingAfter { names: names() });
        }
        after.iter_mut().for_each(|stage| **stage += 1);
    }
    Ok(stages)
}

/// From which layer, through which value, a search reached a layer.
type CameBy = BTreeMap<LayerId, (LayerId, ValueId)>;

/// A graph as cuts see it: only layers that have a place, and the values between them.
struct Network<'a> {
    graph: &'a Graph,
    readers: Vec<Vec<LayerId>>,
    is_placed: Vec<bool>,
}

impl<'a> Network<'a> {
    fn new(graph: &'a Graph) -> Self {
        let is_placed: Vec<bool> =
            graph.layers().iter().map(|layer| layer.role == Role::Compute).collect();
        let mut readers = graph.readers();
        for list in &mut readers {
            list.retain(|reader| is_placed[reader.index()]);
        }
        Self { graph, readers, is_placed }
    }

    fn resolve(&self, number: usize, names: &[String]) -> Result<Vec<ValueId>, CutError> {
        if names.is_empty() {
            return Err(CutError::Empty { number });
        }
        let values = names.iter().map(|name| {
            let id = self.graph.find_value(name).ok_or_else(|| CutError::Unknown {
                name: name.clone(),
                suggestion: suggestion(self.graph, name),
            })?;
            match self.graph.value(id).origin {
                Origin::Input => Ok(id),
                Origin::Layer(_) if self.maker(id).is_some() => Ok(id),
                _ => Err(CutError::Static { name: name.clone() }),
            }
        });
        values.collect()
    }

    fn names(&self, values: &[ValueId]) -> String {
        let names = values.iter().map(|&id| format!("`{}`", self.graph.value(id).name));
        names.collect::<Vec<_>>().join(", ")
    }

    fn maker(&self, value: ValueId) -> Option<LayerId> {
        match self.graph.value(value).origin {
            Origin::Layer(id) if self.is_placed[id.index()] => Some(id),
            _ => None,
        }
    }

    /// The layers before one cut, by layer index. `is_named` marks the values of all cuts.
    fn before(&self, cut: &[ValueId], is_named: &[bool]) -> Result<Vec<bool>, CutError> {
        let mut crosses = vec![false; is_named.len()];
        for value in cut {
            crosses[value.index()] = true;
        }
        let ancestors = self.ancestors(cut);
        if !ancestors.contains(&true) {
            return Err(CutError::NothingBefore { names: self.names(cut) });
        }
        let (mut before, came_by) = self.pieces_of(&ancestors, &crosses);
        for &value in cut.iter().filter(|&&value| self.maker(value).is_some()) {
            let readers = &self.readers[value.index()];
            if readers.iter().all(|reader| before[reader.index()]) {
                let pulled = readers.iter().find(|reader| !ancestors[reader.index()]);
                return Err(match pulled {
                    Some(&reader) => self.bypass(cut, reader, &came_by),
                    None => self.not_crossing(cut, value),
                });
            }
        }
        self.add_unrelated(&mut before, &crosses, is_named);
        Ok(before)
    }

    fn ancestors(&self, cut: &[ValueId]) -> Vec<bool> {
        let mut is_in = vec![false; self.is_placed.len()];
        let mut open: Vec<LayerId> = cut.iter().filter_map(|&value| self.maker(value)).collect();
        while let Some(layer) = open.pop() {
            if !std::mem::replace(&mut is_in[layer.index()], true) {
                open.extend(self.graph.layer(layer).reads().filter_map(|value| self.maker(value)));
            }
        }
        is_in
    }

    /// The layers that share a side with a layer through a value that must not cross: readers
    /// first, makers last.
    fn neighbours(&self, layer: LayerId, crosses: &[bool]) -> Vec<(LayerId, ValueId)> {
        let stays = |value: &ValueId| !crosses[value.index()];
        let layer = self.graph.layer(layer);
        let siblings =
            |value: ValueId| self.readers[value.index()].iter().map(move |&reader| (reader, value));
        let makers = layer.reads().filter(stays);
        let makers = makers.filter_map(|value| Some((self.maker(value)?, value)));
        layer.makes().filter(stays).flat_map(siblings).chain(makers).collect()
    }

    /// All layers in one piece with any of `ancestors`, and how the others among them were reached.
    fn pieces_of(&self, ancestors: &[bool], crosses: &[bool]) -> (Vec<bool>, CameBy) {
        let mut is_in = ancestors.to_vec();
        let mut came_by = CameBy::new();
        let seeds = self.graph.layer_ids().filter(|layer| ancestors[layer.index()]);
        let mut open: VecDeque<LayerId> = seeds.collect();
        while let Some(layer) = open.pop_front() {
            for (next, value) in self.neighbours(layer, crosses) {
                if !std::mem::replace(&mut is_in[next.index()], true) {
                    came_by.insert(next, (layer, value));
                    open.push_back(next);
                }
            }
        }
        (is_in, came_by)
    }

    fn not_crossing(&self, cut: &[ValueId], value: ValueId) -> CutError {
        let names = self.names(cut);
        match self.readers[value.index()].is_empty() && cut.len() == 1 {
            true => CutError::NothingAfter { names },
            false => CutError::NotCrossing { name: self.graph.value(value).name.clone(), names },
        }
    }

    /// The error that tells how `layer`, which reads a named value, is reached round the cut.
    fn bypass(&self, cut: &[ValueId], layer: LayerId, came_by: &CameBy) -> CutError {
        let mut path = vec![self.graph.layer(layer).name.as_str()];
        let (mut at, mut round) = (layer, None);
        while let Some(&(from, value)) = came_by.get(&at) {
            path.push(&self.graph.layer(from).name);
            (at, round) = (from, Some(value));
        }
        path.reverse();
        if path.len() > 9 {
            path.splice(4..path.len() - 4, ["..."]);
        }
        let value = round.map_or("", |value| &self.graph.value(value).name).to_owned();
        let named = cut.iter().map(|&id| self.graph.value(id).name.as_str());
        let fixed = named.chain([value.as_str()]).collect::<Vec<_>>().join(",");
        CutError::Bypass { names: self.names(cut), value, path: path.join(" -> "), fixed }
    }

    /// Adds the pieces that touch no value of any cut: what they read is at the input.
    fn add_unrelated(&self, before: &mut [bool], crosses: &[bool], is_named: &[bool]) {
        let mut seen = before.to_vec();
        for start in self.graph.layer_ids() {
            if seen[start.index()] || !self.is_placed[start.index()] {
                continue;
            }
            let (mut piece, mut is_related) = (vec![start], false);
            seen[start.index()] = true;
            let mut at = 0;
            while let Some(&layer) = piece.get(at) {
                let values = self.graph.layer(layer);
                is_related |= values.reads().chain(values.makes()).any(|id| is_named[id.index()]);
                for (next, _) in self.neighbours(layer, crosses) {
                    if !std::mem::replace(&mut seen[next.index()], true) {
                        piece.push(next);
                    }
                }
                at += 1;
            }
            if !is_related {
                piece.into_iter().for_each(|layer| before[layer.index()] = true);
            }
        }
    }
}

/// What the user may have meant: the results of a layer of that name, or the closest names.
fn suggestion(graph: &Graph, name: &str) -> String {
    if let Some(layer) = graph.find_layer(name) {
        let results: Vec<String> = graph
            .layer(layer)
            .makes()
            .map(|value| format!("`{}`", graph.value(value).name))
            .collect();
        return format!("; it is a layer, which makes {}", results.join(", "));
    }
    if name.len() > LONGEST_SUGGESTED {
        return String::new();
    }
    let values = graph.values().iter().filter(|value| value.origin != Origin::Weight);
    let close = values.filter(|value| value.name.len() <= LONGEST_SUGGESTED);
    let mut close: Vec<(usize, &str)> =
        close.map(|value| (distance(name, &value.name), value.name.as_str())).collect();
    close.retain(|&(distance, _)| distance <= name.len() / 3 + 1);
    close.sort_unstable();
    let names: Vec<String> = close.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    match names.is_empty() {
        true => "; `cutline inspect` lists the values that can be cut".to_owned(),
        false => format!("; close to it are {}", names.join(", ")),
    }
}

/// Edit distance between two short texts (Wagner and Fischer 1974), in bytes.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, a) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
