//! Fusion groups: which layers an engine runs as one, and which are replicated.
use crate::{
    dag::{Dag, GroupId},
    graph::Graph,
};

/// A network seen as groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouping {
    /// The groups and what flows between them; a flow has the name of its value.
    pub dag: Dag,
    /// The group of each layer, by layer index; `None` for replicated layers.
    pub group_of: Vec<Option<GroupId>>,
}

/// Groups the layers of a network as engines fuse them.
pub fn group(_graph: &Graph) -> Grouping {
    Grouping { dag: Dag::new(), group_of: Vec::new() }
}
