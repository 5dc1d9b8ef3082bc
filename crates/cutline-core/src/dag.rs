//! What the planner decides over: groups of layers, and the values that flow between them.
//!
//! A [`Dag`] is all that is left of a network once its layers are grouped as engines fuse them. It
//! is made by [`group`](crate::group) from a graph, or by [`cost`](crate::cost) from a table of
//! published costs; the planner does not know which.
//!
//! ```text
//!            flow "data"        flow "relu1"       flow "fc" (output)
//! (source) ────────────► conv1+relu1 ────────► fc ────────────►
//! ```

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Macs, newtype};

newtype! {
    /// A group of one [`Dag`].
    id GroupId
}
newtype! {
    /// A flow of one [`Dag`].
    id FlowId
}

/// What the work of a group is bound by, which devices differ in most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpClass {
    /// Convolution over several pixels and all channels of its group: much work per byte.
    Conv,
    /// Convolution over one pixel: a matrix product.
    Pointwise,
    /// Convolution of each channel by itself: little work per byte.
    Depthwise,
    /// Product with a matrix of weights, each used once: a fully connected layer.
    Dense,
    /// No multiply-accumulates that count, or not known.
    #[default]
    Memory,
}

/// Layers that an engine runs as one: the unit of decision and of cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name of its first layer.
    pub name: String,
    /// Names of its layers, in topological order.
    pub layers: Vec<String>,
    /// Operators of its layers, in the same order; none in a table of published costs.
    pub ops: Vec<String>,
    /// Flows that it reads, each once, ascending.
    pub reads: Vec<FlowId>,
    /// Flows that it makes, ascending.
    pub makes: Vec<FlowId>,
    /// Work of one run.
    pub macs: Macs,
    /// Weights that it needs, those of replicated layers included; a weight shared by two groups is
    /// charged to both.
    pub parameter_bytes: Bytes,
    /// What kind of work it is.
    #[serde(default)]
    pub class: OpClass,
}

/// A value that leaves its group: it is read by another group, or it is an answer of the network,
/// or it is the network's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Name of the value.
    pub name: String,
    /// The group that makes it; `None` for an input of the network.
    pub from: Option<GroupId>,
    /// The groups that read it, ascending.
    pub to: Vec<GroupId>,
    /// Whether the network answers with it.
    pub is_output: bool,
    /// Size as declared; `None` where the shape is unknown, and then it must not cross a link.
    pub bytes: Option<Bytes>,
    /// Whether it must not leave the device that makes it.
    pub confined: bool,
    /// Whether codecs encode it; what they do not always travels as declared.
    #[serde(default = "encodable")]
    pub encodable: bool,
}

fn encodable() -> bool {
    true
}

impl Flow {
    /// Size of a value that may cross a link.
    pub fn sendable(&self) -> Option<Bytes> {
        self.bytes.filter(|_| !self.confined)
    }
}

/// Groups in topological order, and their flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dag {
    groups: Vec<Group>,
    flows: Vec<Flow>,
}

impl Dag {
    /// An empty one; grows by [`input`](Self::input) and [`group`](Self::add_group).
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input of the network.
    pub fn add_input(&mut self, name: impl Into<String>, bytes: Option<Bytes>) -> FlowId {
        self.add_flow(name.into(), None, bytes)
    }

    /// Adds a group that reads existing flows, and one flow for each result that leaves it.
    pub fn add_group(
        &mut self,
        layers: Vec<String>,
        reads: impl IntoIterator<Item = FlowId>,
        makes: impl IntoIterator<Item = (String, Option<Bytes>)>,
        macs: Macs,
        parameter_bytes: Bytes,
    ) -> GroupId {
        let id = GroupId::new(self.groups.len());
        let mut reads: Vec<FlowId> = reads.into_iter().collect();
        reads.sort_unstable();
        reads.dedup();
        for &flow in &reads {
            self.flows[flow.index()].to.push(id);
        }
        let makes =
            makes.into_iter().map(|(name, bytes)| self.add_flow(name, Some(id), bytes)).collect();
        let name = layers.first().cloned().unwrap_or_default();
        let (ops, class) = (Vec::new(), OpClass::default());
        self.groups.push(Group { name, layers, ops, reads, makes, macs, parameter_bytes, class });
        id
    }

    /// Says what kind of work a group is.
    pub fn set_class(&mut self, id: GroupId, class: OpClass) {
        self.groups[id.index()].class = class;
    }

    /// Marks a flow as an answer of the network.
    pub fn mark_output(&mut self, flow: FlowId) {
        self.flows[flow.index()].is_output = true;
    }

    /// Says that a flow travels as declared under every codec.
    pub fn mark_plain(&mut self, flow: FlowId) {
        self.flows[flow.index()].encodable = false;
    }

    /// Says which operators the layers of a group are.
    pub fn set_ops(&mut self, group: GroupId, ops: Vec<String>) {
        self.groups[group.index()].ops = ops;
    }

    /// Confines these flows to where they are made.
    pub(crate) fn confine(&mut self, which: impl Fn(&Flow) -> bool) {
        for flow in self.flows.iter_mut().filter(|flow| which(flow)) {
            flow.confined = true;
        }
    }

    /// Groups in topological order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Ids of the groups in topological order.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.groups.len()).map(GroupId::new)
    }

    /// The group behind an id.
    pub fn group(&self, id: GroupId) -> &Group {
        &self.groups[id.index()]
    }

    /// Flows: inputs first met, then results in the order of their groups.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Ids of the flows.
    pub fn flow_ids(&self) -> impl Iterator<Item = FlowId> + use<> {
        (0..self.flows.len()).map(FlowId::new)
    }

    /// The flow behind an id.
    pub fn flow(&self, id: FlowId) -> &Flow {
        &self.flows[id.index()]
    }

    /// The groups whose results a group reads.
    pub fn predecessors(&self, id: GroupId) -> impl Iterator<Item = GroupId> + '_ {
        self.group(id).reads.iter().filter_map(|&flow| self.flow(flow).from)
    }

    /// The groups that read a group's results; one that reads two of them appears twice.
    pub fn successors(&self, id: GroupId) -> impl Iterator<Item = GroupId> + '_ {
        self.group(id).makes.iter().flat_map(|&flow| self.flow(flow).to.iter().copied())
    }

    fn add_flow(&mut self, name: String, from: Option<GroupId>, bytes: Option<Bytes>) -> FlowId {
        let id = FlowId::new(self.flows.len());
        self.flows.push(Flow {
            name,
            from,
            to: Vec::new(),
            is_output: false,
            bytes,
            confined: false,
            encodable: true,
        });
        id
    }
}

/// Largest sum of live values while groups run one after another, in topological order: of what they
/// receive, which is there from the beginning, and what they make, until its last reader among them
/// has run, or to the end for what stays. Values of unknown size count nothing.
pub(crate) fn peak_of(
    dag: &Dag,
    groups: &[GroupId],
    receives: &[FlowId],
    keeps: &[FlowId],
) -> Bytes {
    let size = |flow: FlowId| dag.flow(flow).bytes.unwrap_or_default();
    let mut kept = vec![false; dag.flows().len()];
    for flow in keeps {
        kept[flow.index()] = true;
    }
    let mut reads_left = vec![0u32; dag.flows().len()];
    for flow in groups.iter().flat_map(|&group| &dag.group(group).reads) {
        reads_left[flow.index()] += 1;
    }
    let mut live: Bytes = receives.iter().copied().map(size).sum();
    let mut peak = live;
    for &group in groups {
        let group = dag.group(group);
        live += group.makes.iter().map(|&flow| size(flow)).sum();
        peak = peak.max(live);
        for &flow in &group.reads {
            reads_left[flow.index()] -= 1;
        }
        let over = |flow: &FlowId| reads_left[flow.index()] == 0 && !kept[flow.index()];
        let ended = group.reads.iter().chain(&group.makes).copied().filter(|flow| over(flow));
        live = live - ended.map(size).sum();
    }
    peak
}
