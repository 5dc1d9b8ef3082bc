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
    evaluate::{EvaluateError, Evaluation, MemoryUse, Setting, evaluate},
    partition::Mapping,
    platform::DeviceId,
    units::{Bytes, Nanos},
};

mod exact;
mod flow;
mod network;
mod reason;
mod search;
#[cfg(test)]
mod tests;

use exact::{Key, Scale};
use network::Forced;
use search::Search;

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Time of one frame in an empty system.
    #[default]
    Latency,
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
    /// Layers that must run on a device: (layer, device).
    pub pins: Vec<(String, String)>,
    /// Subproblems after which branch and bound gives up and answers with a bound.
    pub node_limit: u64,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            objective: Objective::Latency,
            input_encodings: None,
            cut_encodings: None,
            pins: Vec::new(),
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
    /// Nothing is better by more than this.
    WithinNs(Nanos),
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
    #[error("it needs {needed} on `{device}`, which has {limit}: {excess} too much")]
    Memory { device: String, needed: Bytes, limit: Bytes, excess: Bytes },
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
    #[error("no allowed plan can be run; edge-only: {0}")]
    Nothing(Box<Infeasible>),
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
    #[error(
        "the platform has {0} devices; plans over more than two devices are not searched for yet"
    )]
    TooManyDevices(usize),
    #[error("the network has no layers to place")]
    NoGroups,
    #[error("{kind} encoding `{name}` is not known here; known are {known}")]
    UnknownEncoding { kind: &'static str, name: String, known: String },
    #[error("no {0} encoding is allowed; allow at least `fp32`")]
    NoEncodingAllowed(&'static str),
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
}

/// The answer to a request. Exact unless the node limit is reached.
pub fn solve(dag: &Dag, costs: &Costs, request: &Request) -> Result<Answer, PlannerError> {
    if dag.groups().is_empty() {
        return Err(PlannerError::NoGroups);
    }
    if costs.devices().len() > 2 {
        return Err(PlannerError::TooManyDevices(costs.devices().len()));
    }
    let inputs = costs.inputs().iter().map(|input| (input.name.as_str(), input.lossy));
    let codecs = costs.codecs().iter().map(|codec| (codec.name.as_str(), codec.lossy));
    let inputs = allowed("input", &request.input_encodings, inputs)?;
    let codecs = allowed("cut", &request.cut_encodings, codecs)?;
    let problem = Problem {
        dag,
        costs,
        scale: Scale::new(dag, costs)?,
        forced: pins(dag, costs, request)?,
        inputs,
        codecs,
        node_limit: request.node_limit,
        other: costs.device_ids().nth(1),
    };
    let baselines = problem.baselines();
    let (best_split, unknown_below) = problem.best_split();
    let best = problem.best(&baselines, &best_split, unknown_below);
    let reason = reason::reason(dag, costs, &baselines, &best, &best_split);
    Ok(Answer { baselines, best, best_split, reason })
}

struct Problem<'a> {
    dag: &'a Dag,
    costs: &'a Costs,
    scale: Scale,
    forced: Forced,
    inputs: Vec<usize>,
    codecs: Vec<usize>,
    node_limit: u64,
    other: Option<DeviceId>,
}

impl Problem<'_> {
    fn baselines(&self) -> Vec<Baseline> {
        let tensor = self.costs.inputs().iter().position(|input| input.name == TENSOR);
        let edge = self.single(DeviceId::SOURCE, tensor.unwrap_or(0));
        let pinned = |device| self.forced.iter().flatten().all(|forced| *forced == device);
        let mut baselines = vec![Baseline {
            name: "edge-only".to_owned(),
            lossy: false,
            allowed: pinned(DeviceId::SOURCE),
            outcome: edge,
        }];
        for encoding in ["jpeg", "uint8", TENSOR] {
            let input = self.costs.inputs().iter().position(|input| input.name == encoding);
            let outcome = match (self.other, input) {
                (None, _) => Err(Infeasible::NoOther),
                (_, None) => Err(Infeasible::NoEncoding(encoding.to_owned())),
                (Some(other), Some(input)) => self.single(other, input),
            };
            baselines.push(Baseline {
                name: format!("cloud-{encoding}"),
                lossy: input.is_some_and(|input| self.costs.inputs()[input].lossy),
                allowed: input.is_some_and(|input| self.inputs.contains(&input))
                    && self.other.is_some_and(pinned),
                outcome,
            });
        }
        baselines
    }

    /// Everything on one device, with the engine that is fastest there.
    fn single(&self, device: DeviceId, input: usize) -> Result<Choice, Infeasible> {
        let mapping = Mapping::uniform(self.dag, device);
        let plans = (0..self.costs.device(device).options.len()).map(|option| {
            let mut setting = Setting { input, ..Setting::first(self.costs) };
            setting.engines[device.index()] = option;
            self.choice(mapping.clone(), setting)
        });
        let (good, bad): (Vec<_>, Vec<_>) = plans.partition(Result::is_ok);
        let best = good
            .into_iter()
            .flatten()
            .min_by_key(|choice| (self.key(choice), choice.setting.clone()));
        let why = || bad.into_iter().find_map(Result::err).unwrap_or(Infeasible::NoOther);
        best.ok_or_else(why)
    }

    /// The cost of a plan, if it can be run and fits.
    fn choice(&self, mapping: Mapping, setting: Setting) -> Result<Choice, Infeasible> {
        let evaluation =
            evaluate(self.dag, self.costs, &mapping, &setting).map_err(Infeasible::CannotRun)?;
        let exceeded = evaluation.memory.iter().find(|used| used.excess().is_some());
        match exceeded {
            Some(used) => Err(self.exceeded(used)),
            None => Ok(Choice { mapping, setting, evaluation, proof: Proof::Optimal }),
        }
    }

    fn exceeded(&self, used: &MemoryUse) -> Infeasible {
        Infeasible::Memory {
            device: self.costs.device(used.device).name.clone(),
            needed: used.bytes,
            limit: used.limit.unwrap_or_default(),
            excess: used.excess().unwrap_or_default(),
        }
    }

    /// The best split, and the exact time below which no split is where the search gave up.
    fn best_split(&self) -> (Result<Choice, Infeasible>, Option<i128>) {
        let Some(other) = self.other else { return (Err(Infeasible::NoOther), None) };
        let settings = self.settings(other);
        let search = Search {
            dag: self.dag,
            costs: self.costs,
            scale: &self.scale,
            other,
            settings,
            forced: self.forced.clone(),
            nodes: self.node_limit,
        };
        let found = search.run();
        let Some((key, setting)) = found.best else {
            return (Err(self.no_split(other, found.bound, found.excess)), found.bound);
        };
        let proof = match found.bound {
            Some(bound) if bound < key.time => {
                Proof::WithinNs(self.scale.rounded(key.time - bound))
            }
            _ => Proof::Optimal,
        };
        let choice = self.choice(key.mapping, search.settings[setting].clone());
        (choice.map(|choice| Choice { proof, ..choice }), found.bound)
    }

    fn no_split(
        &self,
        other: DeviceId,
        bound: Option<i128>,
        excess: Option<MemoryUse>,
    ) -> Infeasible {
        match (bound, excess) {
            (Some(_), _) => Infeasible::GaveUp(self.node_limit),
            (None, Some(used)) => self.exceeded(&used),
            (None, None) if self.dag.groups().len() < 2 => {
                Infeasible::NoSplit("the engines run the whole network as one group")
            }
            (None, None) if self.costs.direction(DeviceId::SOURCE, other).is_none() => {
                Infeasible::NoSplit("no link joins them")
            }
            (None, None) => Infeasible::NoSplit(
                "pins, layers that a device cannot run, memory, or values of unknown size \
                 forbid every cut",
            ),
        }
    }

    /// Every combination of engines, input encoding and codec, in the order of the table.
    fn settings(&self, other: DeviceId) -> Vec<Setting> {
        let options = |device| 0..self.costs.device(device).options.len();
        let mut settings = Vec::new();
        for edge in options(DeviceId::SOURCE) {
            for cloud in options(other) {
                for &input in &self.inputs {
                    for &codec in &self.codecs {
                        let (engines, codecs) = (vec![edge, cloud], vec![codec; 2]);
                        settings.push(Setting { engines, input, codecs, order: Vec::new() });
                    }
                }
            }
        }
        settings
    }

    /// The best of the allowed baselines and the best split.
    ///
    /// Where links have measured tables, these few finished plans are compared by the tables.
    fn best(
        &self,
        baselines: &[Baseline],
        best_split: &Result<Choice, Infeasible>,
        bound: Option<i128>,
    ) -> Result<Choice, Infeasible> {
        let tables = self.costs.links().iter().any(|l| !l.up.table.is_empty());
        let rank = |choice: &&Choice| {
            let measured = if tables { choice.evaluation.latency } else { Nanos::ZERO };
            (measured, self.key(choice), choice.setting.clone())
        };
        let single = baselines.iter().filter(|baseline| baseline.allowed);
        let finished = single.map(|baseline| &baseline.outcome).chain([best_split]);
        let Some(best) = finished.flatten().min_by_key(rank) else {
            let why = baselines[0].outcome.clone().err();
            return Err(match (why, best_split) {
                (Some(memory @ Infeasible::Memory { .. }), Err(Infeasible::Memory { .. })) => {
                    self.least_memory(memory, best_split, baselines)
                }
                (Some(why), _) => Infeasible::Nothing(Box::new(why)),
                (None, _) => Infeasible::Nothing(Box::new(self.pinned())),
            });
        };
        let time = self.key(best).time;
        let proof = match bound.filter(|&bound| bound < time) {
            Some(bound) => Proof::WithinNs(self.scale.rounded(time - bound)),
            None => Proof::Optimal,
        };
        Ok(Choice { proof, ..best.clone() })
    }

    /// Of the plans that exceed a memory, the one that exceeds it least.
    fn least_memory(
        &self,
        edge: Infeasible,
        split: &Result<Choice, Infeasible>,
        baselines: &[Baseline],
    ) -> Infeasible {
        let others =
            baselines.iter().filter(|b| b.allowed).filter_map(|b| b.outcome.as_ref().err());
        let all = [&edge].into_iter().chain(split.as_ref().err()).chain(others);
        let excess = |why: &&Infeasible| match why {
            Infeasible::Memory { excess, .. } => *excess,
            _ => Bytes(u64::MAX),
        };
        all.min_by_key(excess).cloned().unwrap_or(Infeasible::NoOther)
    }

    fn pinned(&self) -> Infeasible {
        let held = self.forced.iter().zip(self.dag.groups());
        let found = held.filter_map(|(device, group)| Some((device.as_ref()?, group))).next();
        match found {
            Some((&device, group)) => Infeasible::Pinned {
                layer: group.name.clone(),
                device: self.costs.device(device).name.clone(),
            },
            None => Infeasible::NoOther,
        }
    }

    fn key(&self, choice: &Choice) -> Key {
        self.scale.key(self.dag, self.costs, &choice.mapping, &choice.setting)
    }
}

/// Positions of the encodings to consider.
fn allowed<'a>(
    kind: &'static str,
    named: &Option<Vec<String>>,
    known: impl Iterator<Item = (&'a str, bool)>,
) -> Result<Vec<usize>, PlannerError> {
    let known: Vec<(&str, bool)> = known.collect();
    let Some(named) = named else {
        return Ok((0..known.len()).filter(|&i| !known[i].1).collect());
    };
    let mut positions = Vec::new();
    for name in named {
        let position = known.iter().position(|(known, _)| known == name).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            PlannerError::UnknownEncoding { kind, name: name.clone(), known: names.join(", ") }
        })?;
        if !positions.contains(&position) {
            positions.push(position);
        }
    }
    if positions.is_empty() {
        return Err(PlannerError::NoEncodingAllowed(kind));
    }
    positions.sort_unstable();
    Ok(positions)
}

fn pins(dag: &Dag, costs: &Costs, request: &Request) -> Result<Forced, PlannerError> {
    let mut forced: Forced = vec![None; dag.groups().len()];
    for (layer, device) in &request.pins {
        let holds = |group: &crate::dag::Group| group.layers.contains(layer);
        let Some(group) = dag.groups().iter().position(holds) else {
            return Err(PlannerError::UnknownLayer(layer.clone()));
        };
        let id = costs.find_device(device);
        let id = id.ok_or_else(|| PlannerError::UnknownDevice(device.clone()))?;
        match forced[group] {
            Some(first) if first != id => {
                let (layer, second) = (layer.clone(), device.clone());
                let first = costs.device(first).name.clone();
                return Err(PlannerError::Contradiction { layer, first, second });
            }
            _ => forced[group] = Some(id),
        }
    }
    Ok(forced)
}
