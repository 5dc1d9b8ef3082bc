//! What `cutline size` answers, as a document and in words.

use std::collections::BTreeMap;

use cutline_core::{
    cost::{EnergyOrigin, Origin},
    size::{Deployment, Limit, Simulated, Station},
    units::{Bytes, Money, Nanojoules, Nanos},
};
use serde::Serialize;

/// The answer to a workload.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) cameras: u64,
    pub(crate) deadline_ns: Nanos,
    pub(crate) percentile_ppm: u32,
    pub(crate) headroom_ppm: u32,
    pub(crate) currency: String,
    /// The cheapest first.
    pub(crate) deployments: Vec<Row>,
    /// Of each limit that something does not keep, what comes nearest.
    pub(crate) missed: Vec<Missed>,
    /// What is not accurate enough.
    pub(crate) left_out: Vec<String>,
    /// Networks x boards x instances x links.
    pub(crate) combinations: usize,
    /// Plans of these that no other is better than in everything.
    pub(crate) candidates: usize,
    pub(crate) predicted: usize,
    pub(crate) simulated: usize,
    pub(crate) seed: u64,
}

/// Where a network runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Place {
    pub(crate) network: String,
    pub(crate) board: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

/// A deployment.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) place: Place,
    /// `edge`, `cloud` or `split`.
    pub(crate) plan: &'static str,
    pub(crate) crosses: Vec<String>,
    #[serde(rename = "upload_bytes")]
    pub(crate) upload: Bytes,
    pub(crate) input_encoding: Option<String>,
    pub(crate) cut_encoding: Option<String>,
    /// By device.
    pub(crate) engines: BTreeMap<String, Engine>,
    #[serde(rename = "cost_per_month")]
    pub(crate) cost: Money,
    #[serde(rename = "rent_per_month")]
    pub(crate) rent: Money,
    /// By device; `None` where a power is not known. Modelled.
    pub(crate) energy_nj_per_frame: Option<BTreeMap<String, Nanojoules>>,
    pub(crate) energy_wh_per_month: Option<u64>,
    #[serde(flatten)]
    pub(crate) found: Found,
}

/// With what a device runs its part, and how its times are known.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Engine {
    pub(crate) engine: String,
    pub(crate) threads: u32,
    pub(crate) origin: Origin,
    /// Of its energy.
    pub(crate) energy_origin: EnergyOrigin,
}

/// What the search found of a deployment.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) instances: u64,
    /// Cameras that share an instance as they are shared out, and at most.
    pub(crate) cameras_per_instance: u64,
    pub(crate) most_cameras_per_instance: u64,
    /// Instances that one camera needs.
    pub(crate) instances_per_camera: u64,
    /// By the formulas.
    pub(crate) latency_ns: Nanos,
    pub(crate) simulated: Option<Checked>,
    /// Cameras of an instance by the formulas, where the simulator let it bear fewer.
    pub(crate) promised_cameras_per_instance: Option<u64>,
    pub(crate) busy_ppm: BTreeMap<&'static str, u64>,
    /// Factors of growth in thousandths, the first to break first.
    pub(crate) breaks: Vec<Break>,
    pub(crate) more_cameras: Option<u64>,
}

/// What the simulator says.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    pub(crate) latency_ns: Option<Nanos>,
    pub(crate) dropped: u64,
    pub(crate) frames: u64,
    pub(crate) cells: u64,
    pub(crate) represented_frames: u64,
}

/// What breaks at which growth of the frames of every camera.
#[derive(Debug, Serialize)]
pub(crate) struct Break {
    /// `deadline`, or a station that is then busy all the time.
    pub(crate) what: &'static str,
    pub(crate) growth_permille: u64,
}

/// What comes nearest to keeping a limit.
#[derive(Debug, Serialize)]
pub(crate) struct Missed {
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) limit: &'static str,
    pub(crate) says: String,
    pub(crate) excess_ppm: u64,
}

impl Missed {
    pub(crate) fn new(place: Place, limit: &Limit) -> Self {
        let name = match limit {
            Limit::Deadline { .. } => "deadline",
            Limit::Headroom { .. } => "headroom",
            Limit::Budget { .. } => "budget",
            Limit::Memory { .. } => "memory",
        };
        let (says, excess_ppm) = (describe_limit(limit), limit.excess_ppm());
        Self { place, limit: name, says, excess_ppm }
    }
}

impl From<&Deployment> for Found {
    fn from(found: &Deployment) -> Self {
        let deadline = Break { what: "deadline", growth_permille: found.growth.deadline };
        let stations = found.growth.stations.iter();
        let stations = stations
            .map(|&(station, growth)| Break { what: station.name(), growth_permille: growth });
        let mut breaks: Vec<Break> = [deadline].into_iter().chain(stations).collect();
        breaks.sort_by_key(|one| one.growth_permille);
        let busy = found.busy.iter().map(|&(station, ppm): &(Station, u64)| (station.name(), ppm));
        Self {
            instances: found.instances,
            cameras_per_instance: found.share.cameras,
            most_cameras_per_instance: found.most.cameras,
            instances_per_camera: found.share.instances,
            latency_ns: found.latency,
            simulated: found.simulated.as_ref().map(Checked::from),
            promised_cameras_per_instance: found.promised.map(|share| share.cameras),
            busy_ppm: busy.collect(),
            breaks,
            more_cameras: found.growth.cameras,
        }
    }
}

impl From<&Simulated> for Checked {
    fn from(found: &Simulated) -> Self {
        let Simulated { latency, dropped, frames, cells, represented } = *found;
        let represented_frames = represented;
        Self { latency_ns: latency, dropped, frames, cells, represented_frames }
    }
}

/// Energy of so many millionths of frames, in watt-hours.
pub(crate) fn watt_hours(frame: Nanojoules, frames_ppm: u128) -> u64 {
    let nanojoules = frames_ppm.saturating_mul(frame.0.into()) / 1_000_000;
    u64::try_from(nanojoules / 3_600_000_000_000).unwrap_or(u64::MAX)
}

/// A limit that is not kept, in words.
fn describe_limit(limit: &Limit) -> String {
    let over = limit.excess_ppm() as f64 / 1e4;
    match limit {
        Limit::Deadline { needs, deadline } if needs.0 == u64::MAX => {
            format!("the deadline of {deadline} is missed by any load")
        }
        Limit::Deadline { needs, deadline } => {
            format!("it takes {needs}, {over:.1} % over the deadline of {deadline}")
        }
        Limit::Headroom { station, busy_ppm, most_ppm } => format!(
            "one camera keeps its {} busy for {:.1} % of the time, {:.1} % are allowed by the headroom",
            station.name(),
            *busy_ppm as f64 / 1e4,
            *most_ppm as f64 / 1e4
        ),
        Limit::Budget { needs, budget } => {
            format!("a month costs {needs}, {over:.1} % over the budget of {budget}")
        }
        Limit::Memory { device, needs, limit } => {
            format!("it needs {needs} on `{device}`, which has {limit}: {over:.1} % too much")
        }
    }
}
