//! `explore.json`: everything that a report shows.
//!
//! Plans stand in one list, each once; the front, the baselines, the cuts and the bandwidth table
//! name them by their position in it. Groups, flows and devices are named by position as well.
//! Times are nanoseconds, sizes bytes, rates bytes per second, energies nanojoule, money millionths
//! of the currency unit for a month; all are integers. Every cost is predicted, none measured.
//!
//! ```json
//! { "version": 1, "headline": { "what": "...", "why": "..." }, "best": 2,
//!   "front": { "plans": [0, 2], "epsilon_ppm": 0 },
//!   "plans": [ { "label": "all on pi", "latency_ns": 9000000, "stages": [ ... ] } ] }
//! ```

use cutline_core::{
    cost::{EnergyOrigin, Origin},
    evaluate::PartKind,
    plan::{Figures, ModelRef},
    planner::{Objective, Proof},
    units::{Bytes, BytesPerSec, Macs, Money, Nanojoules, Nanos},
};
use serde::Serialize;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Data {
    /// Format version: 1.
    pub(crate) version: u32,
    /// Version of the program that wrote it.
    pub(crate) cutline: &'static str,
    pub(crate) model: ModelRef,
    /// What to do and why, one sentence each.
    pub(crate) headline: Headline,
    /// Why, in the planner's words.
    pub(crate) reason: String,
    /// Name of the currency of all money; empty where there is none.
    pub(crate) currency: String,
    /// Where the times of plans come from, each origin once.
    pub(crate) origins: Vec<Origin>,
    /// What the points of the front are compared by: all that is known on this platform.
    pub(crate) objectives: Vec<Objective>,
    /// From one frame of a source to its next, where idle power is part of energy and money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frame_interval_ns: Option<Nanos>,
    pub(crate) devices: Vec<Device>,
    pub(crate) links: Vec<Link>,
    pub(crate) groups: Vec<Group>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) baselines: Vec<Baseline>,
    /// The plan of least latency; absent where none can be run.
    pub(crate) best: Option<usize>,
    /// The best with work on several devices.
    pub(crate) best_split: Option<usize>,
    pub(crate) front: Front,
    pub(crate) cuts: Vec<CutRow>,
    /// Absent where no link starts at the source.
    pub(crate) bandwidth: Option<Bandwidth>,
}

/// Two sentences for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Headline {
    /// What to do.
    pub(crate) what: String,
    /// Why.
    pub(crate) why: String,
}

/// A device of the platform.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// What its host's stages may occupy.
    pub(crate) memory_limit: Option<Bytes>,
    /// `measured` where its profiles have the energy of a meter.
    pub(crate) energy_origin: EnergyOrigin,
}

/// A link of the platform.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Link {
    pub(crate) between: [usize; 2],
    pub(crate) up: BytesPerSec,
    pub(crate) down: BytesPerSec,
    pub(crate) delay_ns: Nanos,
    /// `measured` where a table describes it, else `assumed`: as the platform file says.
    pub(crate) origin: Origin,
}

/// Layers that run as one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// How many layers it holds.
    pub(crate) layers: usize,
    pub(crate) macs: Macs,
    pub(crate) parameter_bytes: Bytes,
}

/// A value between groups, an input, or an answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flow {
    pub(crate) name: String,
    /// Absent for an input of the network.
    pub(crate) from: Option<usize>,
    pub(crate) to: Vec<usize>,
    pub(crate) bytes: Option<Bytes>,
    pub(crate) is_output: bool,
}

/// A plan with its predicted costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// Hash of the decision; the same as in a `plan.json`.
    pub(crate) id: String,
    /// Its stages in a few words.
    pub(crate) label: String,
    /// What it is called besides: baselines, `best plan`, `best split`.
    pub(crate) names: Vec<String>,
    /// Whether it is a point of the front.
    pub(crate) on_front: bool,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) energy_nj: Option<Nanojoules>,
    pub(crate) memory_bytes: Bytes,
    pub(crate) money: Option<Money>,
    /// How the network's input travels; absent where it does not.
    pub(crate) input_encoding: Option<String>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) parts: Vec<Part>,
    pub(crate) devices: Vec<DeviceUse>,
    pub(crate) proof: Proof,
    /// The proof in words.
    pub(crate) proof_text: String,
}

/// What one device runs in one call.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) device: usize,
    /// The device that it helps: it runs at the same time as stages of that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joined_by: Option<usize>,
    /// Runs of consecutive groups: first and last of each.
    pub(crate) groups: Vec<[usize; 2]>,
    pub(crate) layers: usize,
    /// Empty: not named in the table of costs.
    pub(crate) engine: String,
    pub(crate) threads: u32,
    pub(crate) origin: Origin,
}

/// A passage between two devices.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Hop {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Flows that travel on.
    pub(crate) values: Vec<usize>,
    /// Flows that return.
    pub(crate) returns: Vec<usize>,
    /// How the values travel, the network's input apart.
    pub(crate) encoding: String,
    /// What the message weighs as encoded.
    pub(crate) bytes: Bytes,
}

/// Something that a frame waits for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) device: usize,
    pub(crate) to: Option<usize>,
    pub(crate) time_ns: Nanos,
    pub(crate) bytes: Bytes,
}

/// What a plan asks of one device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceUse {
    pub(crate) device: usize,
    pub(crate) memory_bytes: Bytes,
    /// Absent where the power of a device is not known.
    pub(crate) energy_nj: Option<Nanojoules>,
    /// How much of that it takes for waiting; absent where idle power does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle_nj: Option<Nanojoules>,
}

/// A plain alternative.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Baseline {
    pub(crate) name: String,
    pub(crate) lossy: bool,
    pub(crate) allowed: bool,
    pub(crate) plan: Option<usize>,
    /// Why it cannot be run.
    pub(crate) infeasible: Option<String>,
}

/// The plans that no other beats in everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Front {
    /// In the order of the first objective.
    pub(crate) plans: Vec<usize>,
    /// Every plan is matched by a point up to this factor in every objective, in millionths; 0: the
    /// front is exact.
    pub(crate) epsilon_ppm: u64,
    /// Whether the search came to its end; if not, there may be better plans.
    pub(crate) complete: bool,
    /// The same of plans that visit each device once at most.
    pub(crate) once_complete: bool,
    /// What is known of it, in words.
    pub(crate) proof_text: String,
}

/// A candidate cut between the source and another device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CutRow {
    /// Position among the candidates, from the input to the output.
    pub(crate) position: usize,
    pub(crate) to: usize,
    pub(crate) values: Vec<String>,
    /// As declared.
    pub(crate) bytes: Option<Bytes>,
    /// Its fastest plan.
    pub(crate) plan: Option<usize>,
    pub(crate) infeasible: Option<String>,
}

/// The best plan for every rate of one link.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bandwidth {
    /// The link, by position. Rates are its up rates; the down rate keeps its ratio to them.
    pub(crate) link: usize,
    /// The rate that all other figures hold for.
    pub(crate) declared: BytesPerSec,
    /// Ranges of rates, ascending.
    pub(crate) steps: Vec<Step>,
    /// Samples of each range, ascending.
    pub(crate) curve: Vec<Sample>,
    /// What of the request is not answered over all rates; empty: nothing.
    pub(crate) left_out: String,
}

/// A range of rates with one best plan.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) from: BytesPerSec,
    pub(crate) to: BytesPerSec,
    pub(crate) plan: usize,
}

/// What one rate costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) rate: BytesPerSec,
    pub(crate) plan: usize,
    pub(crate) latency_ns: Nanos,
    /// By baseline, in their order; absent where one cannot be run.
    pub(crate) baselines_ns: Vec<Option<Nanos>>,
}
