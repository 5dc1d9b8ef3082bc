//! Cuts: the candidate ones, and those a user names by their values.
use thiserror::Error;

use crate::{
    dag::{Dag, FlowId},
    graph::Graph,
    group::Grouping,
    units::Bytes,
};

/// A division of the groups in two, such that nothing flows back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whether a group runs before the cut, by group index.
    pub before: Vec<bool>,
    /// What crosses, each once, ascending: values made before and read after, and network inputs
    /// that are read after.
    pub flows: Vec<FlowId>,
    /// Sum of their sizes; `None` where one is unknown.
    pub bytes: Option<Bytes>,
}

/// Why named values are not a cut.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum CutError {
    #[error("no value is called `{name}`{suggestion}")]
    Unknown { name: String, suggestion: String },
}

/// The cuts worth trying first: the prefixes of the topological order, and each group with all its
/// ancestors.
pub fn candidate_cuts(_dag: &Dag) -> Vec<Cut> {
    Vec::new()
}

/// The stage of each layer when a network is cut at named values.
pub fn stages_at(graph: &Graph, _cuts: &[Vec<String>]) -> Result<Vec<Option<u32>>, CutError> {
    Ok(vec![None; graph.layers().len()])
}

/// The stage of each layer for a cut between groups: 0 before, 1 after.
pub fn stages_of_cut(graph: &Graph, _grouping: &Grouping, _cut: &Cut) -> Vec<Option<u32>> {
    vec![None; graph.layers().len()]
}
