//! The best plan, the best split, the plain alternatives, and the proof.
//!
//! Source and one other device, any DAG, least latency: every plan is either all on one device
//! (evaluated one by one) or a split, and the best split is found exactly by minimum cuts
//! (`network`) under branch and bound (`search`). Engine options, input encodings and codecs are
//! enumerated. Plans are compared in exact fractions of a nanosecond (`exact`), so no rounding
//! decides; ties go to fewer stages, then fewer bytes, then the lexicographically smaller mapping,
//! then the option listed first.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    cost::{Costs, TENSOR},
    dag::Dag,
    evaluate::{EvaluateError, Evaluation, MemoryUse, Setting},
    partition::Mapping,
    units::{Bytes, Money, Nanojoules, Nanos, UnitError},
};

mod agreeing;
mod bounds;
mod check;
mod exact;
mod floors;
mod flow;
mod ideals;
mod kept;
mod labels;
mod layout;
mod many;
mod network;
mod pair;
mod reason;
mod regions;
mod request;
mod revisits;
mod scatter;
mod search;
mod sequence;
mod steps;
mod sweep;
#[cfg(test)]
mod tests;
mod waiting;

pub use agreeing::{Agreeing, AgreeingError, Kind, LossyStep, lossy_steps};
pub use check::violation;
use request::Prepared;
pub use sweep::{Regime, sweep};

/// What is minimised, or limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Time of one frame in an empty system, in nanoseconds.
    #[default]
    Latency,
    /// Time per frame of the busiest resource, in nanoseconds: 1 / throughput.
    Period,
    /// Energy of a frame on all devices, in nanojoule.
    Energy,
    /// Energy of a frame on the device that needs most, in nanojoule.
    DeviceEnergy,
    /// Memory of the host that needs most, in bytes.
    Memory,
    /// Money for a month, in millionths of the currency unit.
    Money,
}

impl Objective {
    /// All of them.
    pub const ALL: [Objective; 6] = [
        Objective::Latency,
        Objective::Period,
        Objective::Energy,
        Objective::DeviceEnergy,
        Objective::Memory,
        Objective::Money,
    ];

    /// Its name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Latency => "latency",
            Objective::Period => "period",
            Objective::Energy => "energy",
            Objective::DeviceEnergy => "device-energy",
            Objective::Memory => "memory",
            Objective::Money => "money",
        }
    }

    /// A value of it with its unit.
    pub fn show(self, value: u64) -> String {
        match self {
            Objective::Latency | Objective::Period => Nanos(value).to_string(),
            Objective::Energy | Objective::DeviceEnergy => Nanojoules(value).to_string(),
            Objective::Memory => Bytes(value).to_string(),
            Objective::Money => Money(value).to_string(),
        }
    }

    /// A value with its unit, as people write it: `300ms`, `2J`, `512MiB`, `165.5`.
    pub fn parse(self, text: &str) -> Result<u64, UnitError> {
        Ok(match self {
            Objective::Latency | Objective::Period => text.parse::<Nanos>()?.0,
            Objective::Energy | Objective::DeviceEnergy => text.parse::<Nanojoules>()?.0,
            Objective::Memory => text.parse::<Bytes>()?.0,
            Objective::Money => text.parse::<Money>()?.0,
        })
    }

    /// Whether the costs know it: energy needs powers, money a workload.
    pub fn is_known(self, dag: &Dag, costs: &Costs) -> bool {
        request::known(dag, costs, self).is_ok()
    }

    /// Its value in an evaluation; `None` where it is not known.
    pub fn of(self, evaluation: &Evaluation, costs: &Costs) -> Option<u64> {
        let energies = || evaluation.energy.iter().flatten().map(|used| used.energy);
        Some(match self {
            Objective::Latency => evaluation.latency.0,
            Objective::Period => evaluation.period.0,
            Objective::Energy => {
                evaluation.energy.as_ref()?;
                energies().sum::<Nanojoules>().0
            }
            Objective::DeviceEnergy => {
                evaluation.energy.as_ref()?;
                energies().max().unwrap_or_default().0
            }
            Objective::Memory => evaluation.worst_memory(costs).0,
            Objective::Money => evaluation.money?.0,
        })
    }
}

/// What is asked of the planner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// What is minimised.
    pub objective: Objective,
    /// Input encodings to consider; `None`: every lossless one.
    pub input_encodings: Option<Vec<String>>,
    /// Codecs to consider; `None`: every lossless one.
    pub cut_encodings: Option<Vec<String>>,
    /// Largest admissible values.
    pub limits: Vec<(Objective, u64)>,
    /// Layers that must run on a device: (layer, device).
    pub pins: Vec<(String, String)>,
    /// Layers or operators that must not run on a device: (layer or operator, device).
    pub bans: Vec<(String, String)>,
    /// Codecs that must not be used where exactly these values cross: (values, the network's inputs
    /// apart; codec).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<(Vec<String>, String)>,
    /// The layer whose result is the first that may leave the source; neither the input nor anything
    /// before that result may.
    pub private: Option<String>,
    /// Whether branches of a block may run on several devices at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scatter: bool,
    /// Whether plans that return to a device are searched for, too; not together with `scatter`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revisits: bool,
    /// Subproblems after which branch and bound gives up and answers with a bound.
    pub node_limit: u64,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            objective: Objective::Latency,
            input_encodings: None,
            cut_encodings: None,
            limits: Vec::new(),
            pins: Vec::new(),
            bans: Vec::new(),
            forbidden: Vec::new(),
            private: None,
            scatter: false,
            revisits: false,
            node_limit: 2_000,
        }
    }
}

/// How far a plan is known to be from the optimum of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Nothing that the request allows is better.
    Optimal,
    /// Nothing is better by more than this, in the unit of the objective.
    Within(u64),
    /// One point of a front that matches every plan up to this factor, in millionths.
    Front(u64),
    /// Found by a search that did not come to its end: there may be better plans.
    Unproven,
}

/// One plan and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who computes what.
    pub mapping: Mapping,
    /// With which engines and encodings.
    pub setting: Setting,
    /// At which cost.
    pub evaluation: Evaluation,
    /// How good it is among its kind.
    pub proof: Proof,
}

/// Why there is no plan of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Infeasible {
    #[error("{0}")]
    CannotRun(EvaluateError),
    #[error(
        "it needs {needed} on `{device}`{beside}, which has {limit}: {excess} too much",
        beside = beside(*.others)
    )]
    Memory { device: String, needed: Bytes, others: Bytes, limit: Bytes, excess: Bytes },
    #[error("the input cannot be sent as {0}: its size in that encoding is not known")]
    NoEncoding(String),
    #[error("the platform has no second device")]
    NoOther,
    #[error("no division of the layers between the two devices is possible: {0}")]
    NoSplit(&'static str),
    #[error("none was found in {0} steps of branch and bound; raise the limit")]
    GaveUp(u64),
    #[error("layer `{layer}` is pinned to `{device}`")]
    Pinned { layer: String, device: String },
    #[error("layer `{layer}` must not run on `{device}`")]
    Banned { layer: String, device: String },
    #[error("`{value}` would leave the source before layer `{layer}`, which is to be private")]
    Private { value: String, layer: String },
    #[error(
        "its {name} is {value}, {more} over the limit of {limit}", name = .quantity.name(),
        value = .quantity.show(*.value), limit = .quantity.show(*.limit),
        more = .quantity.show(.value.saturating_sub(*.limit))
    )]
    Exceeds { quantity: Objective, limit: u64, value: u64 },
    #[error("no allowed plan can be run; {}", each_of(.0))]
    Nothing(Vec<(String, Infeasible)>),
    #[error(
        "{name} within {limit} is not possible; the least that is, with all else as asked, is {least}: \
         allow {more} more",
        name = .quantity.name(), limit = .quantity.show(*.limit), least = .quantity.show(*.least),
        more = .quantity.show(.least.saturating_sub(*.limit))
    )]
    Limit { quantity: Objective, limit: u64, least: u64 },
    #[error(
        "no plan keeps up with the frames, one every {interval} by the workload; the least period that \
         is possible is {least}: lower `frames_per_second`, or plan without idle power"
    )]
    Rate { interval: Nanos, least: Nanos },
    #[error("it can take a frame every {period}, and by the workload one comes every {interval}")]
    Late { interval: Nanos, period: Nanos },
    #[error("the limits contradict each other; the least of each by itself is {}", least_of(.0))]
    Limits(Vec<(Objective, u64, u64)>),
    #[error(
        "no plan can be run: operators that devices lack, pins, bans, missing links or values of \
         unknown size forbid all"
    )]
    NoPlan,
    #[error("the search was stopped before it found a plan, or why there is none; allow more time")]
    Stopped,
    #[error(
        "{once}, where each device is visited once at most; {}",
        match all_seen {
            true => "no plan that returns to a device is allowed, either",
            false => "none that returns to a device was found, but not all were looked at",
        }
    )]
    Returning { once: Box<Infeasible>, all_seen: bool },
}

impl Infeasible {
    /// That a memory is exceeded, if it is.
    fn memory(costs: &Costs, used: &MemoryUse) -> Option<Self> {
        Some(Self::Memory {
            device: costs.device(used.device).name.clone(),
            needed: used.bytes,
            others: used.others,
            limit: used.limit?,
            excess: used.excess()?,
        })
    }
}

/// What shares a memory with the device that was named before.
fn beside(others: Bytes) -> String {
    match others {
        Bytes::ZERO => String::new(),
        others => format!(", beside {others} on the other devices of its host"),
    }
}

fn each_of(reasons: &[(String, Infeasible)]) -> String {
    reasons.iter().map(|(plan, why)| format!("{plan}: {why}")).collect::<Vec<_>>().join("; ")
}

fn least_of(limits: &[(Objective, u64, u64)]) -> String {
    let each = limits.iter().map(|&(quantity, limit, least)| {
        let (least, limit) = (quantity.show(least), quantity.show(limit));
        format!("{} {least} (asked: {limit})", quantity.name())
    });
    each.collect::<Vec<_>>().join(", ")
}

/// A plain alternative that everybody would think of first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// `edge-only`, `cloud-jpeg`, `cloud-uint8` or `cloud-fp32`.
    pub name: String,
    /// Whether its input encoding may change the answer.
    pub lossy: bool,
    /// Whether the request's encodings and pins allow it as a plan.
    pub allowed: bool,
    /// The plan, or why there is none.
    pub outcome: Result<Choice, Infeasible>,
}

/// What the planner answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The plain alternatives, allowed or not.
    pub baselines: Vec<Baseline>,
    /// The best of everything that is allowed.
    pub best: Result<Choice, Infeasible>,
    /// The best with work on both devices.
    pub best_split: Result<Choice, Infeasible>,
    /// Why, in words with numbers.
    pub reason: String,
}

/// Why a request cannot be planned at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PlannerError {
    #[error("the platform has {0} devices; plans over at most 32 are searched for")]
    TooManyDevices(usize),
    #[error(
        "energy cannot be planned for: device `{0}` has no `power`; give it in the platform file, \
         such as `power = \"6.4W\"`, or name a preset"
    )]
    UnknownPower(String),
    #[error(
        "money cannot be planned for: the platform file has no [workload] that says how many `users`"
    )]
    NoWorkload,
    #[error(
        "money cannot be planned for: device `{0}` is rented, so give its `users_per_instance`, or \
         `frames_per_second` in [workload]"
    )]
    UnknownLoad(String),
    #[error("layer `{0}` must stay on the source to be private, and is pinned elsewhere")]
    PrivateElsewhere(String),
    #[error("the network has no layers to place")]
    NoGroups,
    #[error("{kind} encoding `{name}` is not known here; known are {known}")]
    UnknownEncoding { kind: &'static str, name: String, known: String },
    #[error("no {0} encoding is allowed; allow at least `fp32`")]
    NoEncodingAllowed(&'static str),
    #[error("value `{0}`, for which a codec is forbidden, is not one that can cross")]
    UnknownValue(String),
    #[error("layer `{0}`, which is pinned, is not a layer that can be placed")]
    UnknownLayer(String),
    #[error("device `{0}`, which a layer is pinned to, is not on the platform")]
    UnknownDevice(String),
    #[error(
        "layer `{layer}` is pinned to `{first}` and, itself or with what it is fused with, to `{second}`"
    )]
    Contradiction { layer: String, first: String, second: String },
    #[error("the costs are too large to be compared exactly; check their units")]
    TooLarge,
    #[error("plans that return to a device are not searched for together with scatter groups")]
    ReturningScatter,
}

/// The answer to a request. Exact, unless a limit of branch and bound is reached.
pub fn solve(dag: &Dag, costs: &Costs, request: &Request) -> Result<Answer, PlannerError> {
    solve_until(dag, costs, request, &mut || false)
}

/// The same; `stop` is asked now and then whether to give up. An answer that was cut short says how
/// far from the best it may be.
pub fn solve_until(
    dag: &Dag,
    costs: &Costs,
    request: &Request,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Answer, PlannerError> {
    let prepared = Prepared::new(dag, costs, request)?;
    if is_pair(costs, request) {
        pair::solve(&prepared, request)
    } else {
        many::solve(&prepared, request, stop)
    }
}

/// Two devices, and a sum over stages and hops to minimise: a minimum cut, whatever the network's shape.
fn is_pair(costs: &Costs, request: &Request) -> bool {
    let [first, rest @ ..] = costs.devices() else { return true };
    rest.len() < 2
        && request.objective == Objective::Latency
        && request.limits.is_empty()
        && costs.frame_interval().is_none()
        && !request.scatter
        && !request.revisits
        && request.forbidden.is_empty()
        && is_additive(costs, request)
        && rest.iter().all(|device| device.host != first.host)
}

/// A cut of which nothing but the network's input crosses pays no fixed part of a codec; a minimum
/// cut lets every cut pay it, which is right if that cut can be had without a codec.
fn is_additive(costs: &Costs, request: &Request) -> bool {
    let identity = |names: &Vec<String>| names.iter().any(|name| name == TENSOR);
    let mut coding = costs.devices().iter().flat_map(|d| &d.options).flat_map(|o| &o.coding);
    request.cut_encodings.as_ref().is_none_or(identity)
        || coding.all(|time| time.encode.fixed_ns.0 == 0 && time.decode.fixed_ns.0 == 0)
}

/// Every balance of several objectives that is worth choosing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The objectives.
    pub objectives: Vec<Objective>,
    /// Plans of which none is at least as good as another in every objective, in the order of the
    /// first objective.
    pub points: Vec<Choice>,
    /// Every possible plan is matched by a point up to this factor in every objective, in
    /// millionths; 0: the front is exact.
    pub epsilon_ppm: u64,
    /// Whether the search came to its end; if not, there may be better plans.
    pub complete: bool,
    /// The same of plans that visit each device once at most: where the request lets them return, the
    /// search among those may have come to its end though that among all did not.
    pub once_complete: bool,
    /// Labels that the search made, and routes that it tried: its effort.
    pub labels: usize,
}

/// The front of these objectives over everything that the request allows, within its limits.
pub fn front(
    dag: &Dag,
    costs: &Costs,
    request: &Request,
    objectives: &[Objective],
    stop: &mut dyn FnMut() -> bool,
) -> Result<Front, PlannerError> {
    let asked =
        Request { objective: objectives.first().copied().unwrap_or_default(), ..request.clone() };
    let prepared = Prepared::new(dag, costs, &asked)?;
    for &objective in objectives {
        request::known(dag, costs, objective)?;
    }
    Ok(many::front(&prepared, request, objectives, stop))
}
