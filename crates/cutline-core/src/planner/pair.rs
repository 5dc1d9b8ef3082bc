//! The plain alternatives on any platform; the best plan and split of the source and one other device.

use super::{
    Answer, Baseline, Choice, Infeasible, PlannerError, Proof, Request,
    exact::{Key, Scale},
    network::Forced,
    reason::reason,
    request::Prepared,
    search::Search,
};
use crate::{
    cost::{Costs, TENSOR},
    dag::Dag,
    evaluate::{MemoryUse, Setting, evaluate},
    partition::Mapping,
    platform::DeviceId,
    units::{Bytes, Nanos},
};

/// The answer for a source and at most one other device.
pub(super) fn solve(prepared: &Prepared, request: &Request) -> Result<Answer, PlannerError> {
    let problem = Problem {
        prepared,
        request,
        dag: &prepared.dag,
        costs: &prepared.costs,
        scale: Scale::new(&prepared.dag, &prepared.costs)?,
        forced: &prepared.forced,
        inputs: &prepared.inputs,
        codecs: &prepared.codecs,
        other: prepared.costs.device_ids().nth(1),
    };
    let baselines = problem.baselines();
    let (best_split, unknown_below) = problem.best_split();
    let best = problem.best(&baselines, &best_split, unknown_below);
    let reason =
        reason(&prepared.dag, &prepared.costs, request.objective, &baselines, &best, &best_split);
    Ok(Answer { baselines, best, best_split, reason })
}

struct Problem<'a> {
    prepared: &'a Prepared<'a>,
    request: &'a Request,
    dag: &'a Dag,
    costs: &'a Costs,
    scale: Scale,
    forced: &'a Forced,
    inputs: &'a [usize],
    codecs: &'a [usize],
    other: Option<DeviceId>,
}

impl Problem<'_> {
    fn baselines(&self) -> Vec<Baseline> {
        let tensor = self.costs.inputs().iter().position(|input| input.name == TENSOR);
        let edge = self.single(DeviceId::SOURCE, tensor.unwrap_or(0));
        let may = |device| self.prepared.allows_all_on(device);
        let mut baselines = vec![Baseline {
            name: "edge-only".to_owned(),
            lossy: false,
            allowed: may(DeviceId::SOURCE),
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
                    && self.other.is_some_and(may),
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
        let (dag, costs) = self.prepared.plain;
        let evaluation = evaluate(dag, costs, &mapping, &setting).map_err(Infeasible::CannotRun)?;
        let exceeded = |used| Infeasible::memory(costs, used);
        match evaluation.memory.iter().find_map(exceeded) {
            Some(exceeded) => Err(exceeded),
            None => Ok(Choice { mapping, setting, evaluation, proof: Proof::Optimal }),
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
            nodes: self.request.node_limit,
        };
        let found = search.run();
        let Some((key, setting)) = found.best else {
            return (Err(self.no_split(other, found.bound, found.excess)), found.bound);
        };
        let proof = match found.bound {
            Some(bound) if bound < key.time => {
                Proof::Within(self.scale.rounded(key.time - bound).0)
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
        let exceeded = excess.and_then(|used| Infeasible::memory(self.costs, &used));
        match (bound, exceeded) {
            (Some(_), _) => Infeasible::GaveUp(self.request.node_limit),
            (None, Some(exceeded)) => exceeded,
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
                for &input in self.inputs {
                    for &codec in self.codecs {
                        let (engines, codecs) = (vec![edge, cloud], vec![codec; 2]);
                        let setting =
                            Setting { engines, input, codecs, ..Setting::first(self.costs) };
                        settings.push(setting);
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
                _ => self.nothing(baselines, best_split),
            });
        };
        let time = self.key(best).time;
        let proof = match bound.filter(|&bound| bound < time) {
            Some(bound) => Proof::Within(self.scale.rounded(time - bound).0),
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

    /// Why none of the alternatives that come into question is a plan, each reason once.
    fn nothing(
        &self,
        baselines: &[Baseline],
        best_split: &Result<Choice, Infeasible>,
    ) -> Infeasible {
        let names = self.inputs.iter().map(|&input| &self.costs.inputs()[input].name);
        let clouds: Vec<String> = names.map(|name| format!("cloud-{name}")).collect();
        let mut all: Vec<(String, Infeasible)> = Vec::new();
        for Baseline { name, outcome, .. } in baselines {
            let device = match name.as_str() {
                "edge-only" => Some(DeviceId::SOURCE),
                _ if clouds.contains(name) => self.other,
                _ => continue,
            };
            let kept_off = || device.map_or(Infeasible::NoOther, |device| self.kept_off(device));
            let why = outcome.clone().err().unwrap_or_else(kept_off);
            all.push((name.clone(), why));
        }
        let split = best_split.as_ref().err().cloned();
        all.extend(split.map(|why| ("a split".to_owned(), why)));
        let mut reasons: Vec<(String, Infeasible)> = Vec::new();
        for (name, why) in all {
            if !reasons.iter().any(|(_, known)| *known == why) {
                reasons.push((name, why));
            }
        }
        Infeasible::Nothing(reasons)
    }

    /// What of the request keeps a device, which could do so, from running everything.
    fn kept_off(&self, device: DeviceId) -> Infeasible {
        let confined = self.dag.flows().iter().find(|flow| flow.confined);
        if let (Some(layer), Some(flow)) = (&self.request.private, confined)
            && device != DeviceId::SOURCE
        {
            return Infeasible::Private { value: flow.name.clone(), layer: layer.clone() };
        }
        let runs = |costs: &Costs, group: usize| {
            costs.device(device).options.iter().any(|option| option.groups[group].is_some())
        };
        let (_, plain) = self.prepared.plain;
        let mut groups = 0..self.dag.groups().len();
        let kept = groups.find(|&group| runs(plain, group) && !runs(self.costs, group));
        let layer = |group: usize| self.dag.groups()[group].name.clone();
        let name = |device: DeviceId| self.costs.device(device).name.clone();
        match kept.map(|group| (group, self.forced[group])) {
            Some((group, Some(home))) if home != device => {
                Infeasible::Pinned { layer: layer(group), device: name(home) }
            }
            Some((group, _)) => Infeasible::Banned { layer: layer(group), device: name(device) },
            None => Infeasible::NoPlan,
        }
    }

    fn key(&self, choice: &Choice) -> Key {
        self.scale.key(self.dag, self.costs, &choice.mapping, &choice.setting)
    }
}
