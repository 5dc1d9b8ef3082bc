//! The minimum of latency over two devices as a minimum cut.
//!
//! A group on the sink's side runs on the other device. Each value that several groups read has a
//! vertex of its own, so that sending it is paid once (auxiliary vertices as in project selection).
//!
//! ```text
//!           cloud time                edge time
//! SOURCE ───────────────► group ───────────────► SINK        (only the difference is kept)
//! maker ──bytes──► value ──∞──► each reader                  a reader in the cloud: sent once
//! reader ──∞──► maker                                        nothing flows back
//! SOURCE ──bytes──► maker of an answer                       made in the cloud: it returns
//! ```
//!
//! What every split pays whatever the cut is (both engine calls, F and delay of the hop, the fixed
//! parts of the codec) is a constant, which is right because the search asks for work on both sides.

use super::{
    exact::Scale,
    flow::{Amount, Network, Rank, SINK, SOURCE, Vertex},
};
use crate::{
    cost::{Costs, TENSOR, link::Direction},
    dag::{Dag, GroupId},
    evaluate::Setting,
    partition::Mapping,
    platform::DeviceId,
    profile::CodingTime,
};

/// One setting's minimum cut problem, to be solved under growing constraints.
pub(super) struct Relaxation {
    network: Network,
    constant: Amount,
    groups: usize,
    other: DeviceId,
}

/// Where a constraint holds a group; `None`: free.
pub(super) type Forced = Vec<Option<DeviceId>>;

impl Relaxation {
    /// The problem of source and `other` under a setting; `None` if they share no link or a group
    /// runs on neither.
    pub(super) fn new(
        dag: &Dag,
        costs: &Costs,
        scale: &Scale,
        setting: &Setting,
        other: DeviceId,
    ) -> Option<Self> {
        let up = costs.direction(DeviceId::SOURCE, other)?;
        let down = costs.direction(other, DeviceId::SOURCE)?;
        let build = Build { dag, costs, scale, setting, other, up, down };
        let mut relaxation = Relaxation {
            network: Network::new(),
            constant: scale.call(up),
            groups: dag.groups().len(),
            other,
        };
        for group in dag.group_ids() {
            relaxation.network.vertex(rank(dag, group));
        }
        build.groups(&mut relaxation)?;
        build.values(&mut relaxation.network);
        build.answers(&mut relaxation.network);
        build.input(&mut relaxation);
        Some(relaxation)
    }

    /// Least exact amount under the constraints and its mapping, the smallest of the optimal ones;
    /// `None` if they contradict each other.
    pub(super) fn solve(&self, forced: &Forced) -> Option<(Amount, Mapping)> {
        let mut network = self.network.clone();
        for (group, device) in forced.iter().enumerate() {
            match device {
                None => {}
                Some(DeviceId::SOURCE) => {
                    network.arc(SOURCE, vertex(group), Amount::INFINITE, Amount::ZERO);
                }
                Some(_) => network.arc(vertex(group), SINK, Amount::INFINITE, Amount::ZERO),
            }
        }
        let (amount, sink_side) = network.minimum_cut()?;
        let device = |group| if sink_side[vertex(group)] { self.other } else { DeviceId::SOURCE };
        Some((self.constant + amount, Mapping((0..self.groups).map(device).collect())))
    }
}

fn vertex(group: usize) -> Vertex {
    group + 2
}

fn of(group: GroupId) -> Vertex {
    vertex(group.index())
}

/// Groups descend in topological order; between two there is room for the values of the first.
fn rank(dag: &Dag, group: GroupId) -> Rank {
    (dag.groups().len() - group.index()) as Rank * 2 + 1
}

struct Build<'a> {
    dag: &'a Dag,
    costs: &'a Costs,
    scale: &'a Scale,
    setting: &'a Setting,
    other: DeviceId,
    up: &'a Direction,
    down: &'a Direction,
}

impl Build<'_> {
    fn groups(&self, relaxation: &mut Relaxation) -> Option<()> {
        let option = |device: DeviceId| {
            &self.costs.device(device).options[self.setting.engines[device.index()]]
        };
        let (edge, cloud) = (option(DeviceId::SOURCE), option(self.other));
        let Relaxation { network, constant, .. } = relaxation;
        *constant += self.scale.nanos(edge.call) + self.scale.nanos(cloud.call);
        for half in self.coding(self.setting.codecs[DeviceId::SOURCE.index()]) {
            *constant += self.scale.nanos(half.fixed_ns);
        }
        for group in 0..self.dag.groups().len() {
            let group_vertex = vertex(group);
            match (edge.groups[group], cloud.groups[group]) {
                (None, None) => return None,
                (Some(time), None) => {
                    *constant += self.scale.nanos(time);
                    network.arc(SOURCE, group_vertex, Amount::INFINITE, Amount::ZERO);
                }
                (None, Some(time)) => {
                    *constant += self.scale.nanos(time);
                    network.arc(group_vertex, SINK, Amount::INFINITE, Amount::ZERO);
                }
                (Some(here), Some(there)) => {
                    let (here, there) = (self.scale.nanos(here), self.scale.nanos(there));
                    *constant += here.min(there);
                    match here > there {
                        true => network.arc(group_vertex, SINK, here - there, Amount::ZERO),
                        false if here == there => {}
                        false => network.arc(SOURCE, group_vertex, there - here, Amount::ZERO),
                    }
                }
            }
        }
        Some(())
    }

    /// Encoding on the source and decoding on the other device.
    fn coding(&self, codec: usize) -> [CodingTime; 2] {
        let on = |device: DeviceId| {
            self.costs.coding(device, self.setting.engines[device.index()], codec)
        };
        [on(DeviceId::SOURCE).encode, on(self.other).decode]
    }

    fn values(&self, network: &mut Network) {
        let codec = self.setting.codecs[DeviceId::SOURCE.index()];
        let coding = self.coding(codec);
        let codec = &self.costs.codecs()[codec];
        for flow in self.dag.flows() {
            let Some(maker) = flow.from.map(of) else { continue };
            let sent = flow.sendable().map(|size| match flow.encodable {
                true => self.scale.encoded(self.up, codec, coding, size),
                false => self.scale.raw(self.up, size),
            });
            let sent = sent.unwrap_or(Amount::INFINITE);
            if let [reader] = flow.to[..] {
                network.arc(maker, of(reader), sent, Amount::INFINITE);
                continue;
            }
            self.sent_once(network, maker, sent, flow.to.iter().copied());
            for &reader in &flow.to {
                network.arc(of(reader), maker, Amount::INFINITE, Amount::ZERO);
            }
        }
    }

    /// `amount` is paid once if any reader is on the other side of `maker`.
    fn sent_once(
        &self,
        network: &mut Network,
        maker: Vertex,
        amount: Amount,
        readers: impl Iterator<Item = GroupId>,
    ) {
        let value = network.vertex(network.rank(maker) - 1);
        network.arc(maker, value, amount, Amount::ZERO);
        for reader in readers {
            network.arc(value, of(reader), Amount::INFINITE, Amount::ZERO);
        }
    }

    fn answers(&self, network: &mut Network) {
        let outputs = self.dag.flows().iter().filter(|flow| flow.is_output);
        let made: Vec<_> = outputs.filter_map(|flow| Some((flow, flow.from?))).collect();
        for (flow, maker) in &made {
            let returned = flow.bytes.map(|size| self.scale.raw(self.down, size));
            let returned = returned.unwrap_or(Amount::INFINITE);
            network.arc(SOURCE, of(*maker), returned, Amount::ZERO);
        }
        let call = self.scale.call(self.down);
        self.sent_once(network, SOURCE, call, made.iter().map(|(_, maker)| *maker));
    }

    fn input(&self, relaxation: &mut Relaxation) {
        let encoding = &self.costs.inputs()[self.setting.input];
        let Relaxation { network, constant, .. } = relaxation;
        let inputs = || self.dag.flows().iter().filter(|flow| flow.from.is_none());
        let readers: Vec<GroupId> = inputs().flat_map(|flow| flow.to.iter().copied()).collect();
        let mut crossing = self.scale.nanos(encoding.decode[self.other.index()]);
        let tensor = self.scale.nanos(self.costs.tensor_time());
        if encoding.name == TENSOR {
            // Made on the source whether it is used there, travels, or both.
            if !readers.is_empty() {
                *constant += tensor;
            }
        } else {
            crossing += self.scale.nanos(encoding.encode[DeviceId::SOURCE.index()]);
            let used = network.vertex(1);
            network.arc(used, SINK, tensor, Amount::ZERO);
            for &reader in &readers {
                network.arc(of(reader), used, Amount::INFINITE, Amount::ZERO);
            }
        }
        match encoding.bytes {
            _ if inputs().any(|flow| flow.confined) => crossing = Amount::INFINITE,
            Some(bytes) => crossing += self.scale.raw(self.up, bytes),
            None => {
                for flow in inputs() {
                    let sent = flow.bytes.map(|size| self.scale.raw(self.up, size));
                    let sent = sent.unwrap_or(Amount::INFINITE);
                    self.sent_once(network, SOURCE, sent, flow.to.iter().copied());
                }
            }
        }
        self.sent_once(network, SOURCE, crossing, readers.into_iter());
    }
}
