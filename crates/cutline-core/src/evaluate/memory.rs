//! What the stages of a plan occupy on each device.
//!
//! Engine constant, plus parameters, plus the largest sum of values alive at once: everything that
//! the stage received or made and that is still to be read there, sent on or answered. Groups run
//! in topological order; a value inside a group is not counted, nor is one of unknown size.

use super::Setting;
use crate::{
    cost::Costs,
    dag::{Dag, FlowId, peak_of},
    partition::{Partition, Stage},
    platform::DeviceId,
    units::Bytes,
};

/// Memory of one device under a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// The device.
    pub device: DeviceId,
    /// Engine, parameters and live values, with one frame in flight.
    pub bytes: Bytes,
    /// The same of all other devices of its host, which share its memory.
    pub others: Bytes,
    /// What the host has for it and them; `None`: unlimited.
    pub limit: Option<Bytes>,
}

impl MemoryUse {
    /// How much the limit is exceeded by, if it is.
    pub fn excess(&self) -> Option<Bytes> {
        let used = self.bytes + self.others;
        self.limit.filter(|&limit| used > limit).map(|limit| used - limit)
    }

    /// What the host's other devices leave to it, if that is limited.
    pub fn left(&self) -> Option<Bytes> {
        self.limit.map(|limit| limit - self.others)
    }
}

/// Memory of every device that runs a stage; of a device with several, parameters add up and the
/// largest live set counts.
pub fn memory(
    dag: &Dag,
    costs: &Costs,
    partition: &Partition,
    setting: &Setting,
) -> Vec<MemoryUse> {
    let on = |device: DeviceId| {
        let stages = partition.stages.iter().filter(move |stage| stage.device == device);
        let parameters: Bytes = stages
            .clone()
            .flat_map(|stage| &stage.groups)
            .map(|&group| dag.group(group).parameter_bytes)
            .sum();
        let live = stages.map(|stage| peak(dag, stage)).max()?;
        let costs = costs.device(device);
        let engine = costs.options[setting.engines[device.index()]].engine_bytes;
        let bytes = engine + parameters + live;
        Some(MemoryUse { device, bytes, others: Bytes::ZERO, limit: costs.memory })
    };
    let mut uses: Vec<MemoryUse> = costs.device_ids().filter_map(on).collect();
    let host = |used: &MemoryUse| costs.device(used.device).host;
    let sums: Vec<Bytes> = uses
        .iter()
        .map(|used| uses.iter().filter(|o| host(o) == host(used)).map(|o| o.bytes).sum())
        .collect();
    for (used, sum) in uses.iter_mut().zip(sums) {
        used.others = sum - used.bytes;
    }
    uses
}

/// Largest sum of live values while the stage runs group after group.
fn peak(dag: &Dag, stage: &Stage) -> Bytes {
    let kept =
        stage.sends.iter().chain(&stage.answers).chain(&stage.holds).copied().collect::<Vec<_>>();
    let mut there: Vec<FlowId> = stage.receives.iter().chain(&stage.holds).copied().collect();
    there.sort_unstable();
    there.dedup();
    peak_of(dag, &stage.groups, &there, &kept)
}
