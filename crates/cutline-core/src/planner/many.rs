//! Answers over any number of devices and any objective, put together from searches over sequences.

use super::{
    Answer, Baseline, Choice, Front, Infeasible, Objective, PlannerError, Proof, Request,
    labels::{Ended, Stages},
    reason::reason,
    request::Prepared,
    revisits,
    sequence::{Best, Sequences},
};
use crate::{
    cost::{Costs, TENSOR},
    dag::Dag,
    evaluate::{Setting, evaluate},
    partition::Mapping,
    platform::{DeviceId, Tier},
};

/// The answer for any number of devices.
pub(super) fn solve(
    prepared: &Prepared,
    request: &Request,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Answer, PlannerError> {
    let (dag, costs) = (&*prepared.dag, &*prepared.costs);
    let Prepared { inputs, codecs, .. } = prepared;
    let sequences = Sequences::new(dag, costs, inputs, codecs, &request.limits, request.scatter);
    let task = Task { dag, costs, prepared, request, sequences: &sequences };
    let baselines = task.baselines();
    // What is not split runs on one device: all plans are these few and the splits.
    let objective = request.objective;
    let split = match costs.devices().len() {
        1 => None,
        _ => Some(sequences.best(objective, Stages::Several, stop)),
    };
    let one = sequences.best(objective, Stages::One, &mut || false);
    let best = match &split {
        None => one,
        Some(split) => one.or(split),
    };
    let best_split = match split {
        None => Err(Infeasible::NoOther),
        Some(split) => task.choice(split, Stages::Several, stop),
    };
    let best = task.choice(best, Stages::Any, stop);
    let (best, best_split) = match request.revisits {
        true => task.returning(best, best_split, stop),
        false => (best, best_split),
    };
    let reason = reason(dag, costs, request.objective, &baselines, &best, &best_split);
    Ok(Answer { baselines, best, best_split, reason })
}

/// The front of several objectives.
pub(super) fn front(
    prepared: &Prepared,
    request: &Request,
    objectives: &[Objective],
    stop: &mut dyn FnMut() -> bool,
) -> Front {
    let (dag, costs) = (&*prepared.dag, &*prepared.costs);
    let Prepared { inputs, codecs, .. } = prepared;
    let sequences = Sequences::new(dag, costs, inputs, codecs, &request.limits, request.scatter);
    let found = sequences.front(objectives, stop);
    let complete = found.complete && sequences.is_complete();
    let (epsilon_ppm, once_complete) = (found.epsilon_ppm, complete);
    let mut front = Front {
        objectives: objectives.to_vec(),
        points: Vec::new(),
        epsilon_ppm,
        complete,
        once_complete,
        labels: found.labels,
    };
    if cfg!(debug_assertions) {
        for Ended { values, mapping, setting, .. } in found.ended.clone() {
            let choice = choice(prepared.plain, (mapping, setting), Proof::Unproven);
            sequences.assert_costs(objectives, &values, &choice.evaluation);
        }
    }
    let mut decisions: Vec<_> = found.ended.into_iter().map(|e| (e.mapping, e.setting)).collect();
    if request.revisits {
        if decisions.is_empty() {
            decisions.extend(sequences.nearest(Stages::Any, stop));
        }
        let problem = sequences.with_returns(Stages::Any);
        let returning = revisits::search(&problem, objectives, &decisions, stop);
        decisions = returning.plans;
        front.labels += returning.effort;
        front.complete = returning.open.is_none() && sequences.is_complete();
        if front.complete {
            // Every plan was looked at, whatever the search before could not tell apart.
            (front.epsilon_ppm, front.once_complete) = (0, true);
        }
    }
    let proof = match front.complete {
        true => Proof::Front(front.epsilon_ppm),
        false => Proof::Unproven,
    };
    let points = decisions.into_iter().map(|decision| choice(prepared.plain, decision, proof));
    front.points = points.collect();
    let values = |choice: &Choice| -> Vec<u64> {
        let value = |o: &Objective| o.of(&choice.evaluation, costs).unwrap_or_default();
        objectives.iter().map(value).collect()
    };
    front.points.sort_by_cached_key(|point| (values(point), point.mapping.clone()));
    front
}

/// A plan, or why there is none.
type Planned = Result<Choice, Infeasible>;

struct Task<'a> {
    dag: &'a Dag,
    costs: &'a Costs,
    prepared: &'a Prepared<'a>,
    request: &'a Request,
    sequences: &'a Sequences<'a>,
}

impl Task<'_> {
    /// The best plan as an answer, or why there is none.
    fn choice(
        &self,
        best: Best,
        stages: Stages,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Choice, Infeasible> {
        let Best { ended: Some(ended), open } = best else {
            return Err(match (best.open, stages) {
                (Some(_), _) => Infeasible::Stopped,
                (None, Stages::Several) => Infeasible::NoSplit(
                    "limits, pins, layers that devices cannot run, memory, links or values of \
                     unknown size forbid every cut",
                ),
                (None, _) => self.sequences.infeasible(stop),
            });
        };
        let bound = open.map_or(ended.values[0], |open| open.min(ended.values[0]));
        let objective = ended.values[0];
        let proof = match objective - bound {
            0 if self.sequences.is_complete() => Proof::Optimal,
            // Cuts that are not prefixes were not looked at: nothing is known of them.
            _ if !self.sequences.is_complete() => Proof::Within(objective),
            gap => Proof::Within(gap),
        };
        let Ended { values, ties_at, mapping, setting } = ended;
        let choice = choice(self.prepared.plain, (mapping, setting), proof);
        self.sequences.assert_costs(&[self.request.objective], &values, &choice.evaluation);
        debug_assert_eq!(choice.evaluation.bytes.0, values[ties_at + 1], "bytes that decide ties");
        Ok(choice)
    }

    /// The best plan and the best split where devices may be visited again, from those where they
    /// may not.
    fn returning(
        &self,
        best: Planned,
        split: Planned,
        stop: &mut dyn FnMut() -> bool,
    ) -> (Planned, Planned) {
        if self.costs.devices().len() < 2 {
            return (best, split);
        }
        let known = match &split {
            Ok(split) => Some((split.mapping.clone(), split.setting.clone())),
            Err(_) => self.sequences.nearest(Stages::Several, stop),
        };
        let known: Vec<_> = known.into_iter().collect();
        let problem = self.sequences.with_returns(Stages::Several);
        let objective = self.request.objective;
        let found = revisits::search(&problem, &[objective], &known, stop);
        let all_seen = found.open.is_none() && self.sequences.is_complete();
        let value = |choice: &Choice| objective.of(&choice.evaluation, self.costs).unwrap_or(0);
        let proven = |choice: Choice| {
            let gap = value(&choice).saturating_sub(found.open.unwrap_or(0));
            let proof = match all_seen {
                true => Proof::Optimal,
                false => Proof::Within(gap),
            };
            Choice { proof, ..choice }
        };
        // A plan that visits each device once is taken where one that returns is no better.
        let plans = found.plans.iter().cloned();
        let plans = plans.map(|decision| choice(self.prepared.plain, decision, Proof::Unproven));
        let returning = plans.min_by_key(value);
        let better = |once: Planned| -> Planned {
            let all = once.as_ref().ok().into_iter().chain(&returning);
            match (all.min_by_key(|choice| value(choice)).cloned(), once) {
                (Some(choice), _) => Ok(proven(choice)),
                (None, Err(why)) => Err(Infeasible::Returning { once: Box::new(why), all_seen }),
                (None, Ok(choice)) => Ok(choice),
            }
        };
        (better(best), better(split))
    }

    fn baselines(&self) -> Vec<Baseline> {
        let tensor = self.costs.inputs().iter().position(|input| input.name == TENSOR);
        let mut baselines = vec![Baseline {
            name: "edge-only".to_owned(),
            lossy: false,
            allowed: self.prepared.allows_all_on(DeviceId::SOURCE),
            outcome: self.single(DeviceId::SOURCE, tensor.unwrap_or(0)),
        }];
        for encoding in ["jpeg", "uint8", TENSOR] {
            let input = self.costs.inputs().iter().position(|input| input.name == encoding);
            let outcome = match input {
                None => Err(Infeasible::NoEncoding(encoding.to_owned())),
                Some(input) => self.best_single(input),
            };
            let home = outcome.as_ref().ok().and_then(|choice| choice.mapping.0.first().copied());
            baselines.push(Baseline {
                name: format!("cloud-{encoding}"),
                lossy: input.is_some_and(|input| self.costs.inputs()[input].lossy),
                allowed: input.is_some_and(|input| self.prepared.inputs.contains(&input))
                    && home.is_some_and(|home| self.prepared.allows_all_on(home)),
                outcome,
            });
        }
        baselines
    }

    /// Everything on the one device of the cloud, or of all but the source, that does it best.
    fn best_single(&self, input: usize) -> Result<Choice, Infeasible> {
        let cloud = |id: &DeviceId| self.costs.device(*id).tier == Some(Tier::Cloud);
        let any_cloud = self.costs.device_ids().skip(1).any(|id| cloud(&id));
        let others = self.costs.device_ids().skip(1).filter(|id| !any_cloud || cloud(id));
        let (good, bad): (Vec<_>, Vec<_>) =
            others.map(|device| self.single(device, input)).partition(Result::is_ok);
        let value = |choice: &Choice| self.request.objective.of(&choice.evaluation, self.costs);
        let best = good.into_iter().flatten().min_by_key(value);
        best.ok_or_else(|| bad.into_iter().find_map(Result::err).unwrap_or(Infeasible::NoOther))
    }

    /// Everything on one device, with the engine that does it best there.
    fn single(&self, device: DeviceId, input: usize) -> Result<Choice, Infeasible> {
        let mapping = Mapping::uniform(self.dag, device);
        let mut why = Infeasible::NoOther;
        let mut best: Option<Choice> = None;
        for option in 0..self.costs.device(device).options.len() {
            let mut setting = Setting { input, ..Setting::first(self.costs) };
            setting.engines[device.index()] = option;
            let (dag, costs) = self.prepared.plain;
            let evaluation = match evaluate(dag, costs, &mapping, &setting) {
                Ok(evaluation) => evaluation,
                Err(error) => {
                    why = Infeasible::CannotRun(error);
                    continue;
                }
            };
            let exceeded = |used| Infeasible::memory(self.costs, used);
            if let Some(exceeded) = evaluation.memory.iter().find_map(exceeded) {
                why = exceeded;
                continue;
            }
            let value = |choice: &Choice| self.request.objective.of(&choice.evaluation, self.costs);
            let mapping = mapping.clone();
            let found = Choice { mapping, setting, evaluation, proof: Proof::Optimal };
            if best.as_ref().is_none_or(|best| value(&found) < value(best)) {
                best = Some(found);
            }
        }
        best.ok_or(why)
    }
}

/// A decision, evaluated.
fn choice(
    (dag, costs): (&Dag, &Costs),
    (mapping, setting): (Mapping, Setting),
    proof: Proof,
) -> Choice {
    let evaluation = evaluate(dag, costs, &mapping, &setting)
        .expect("the search only makes plans whose stages and hops exist");
    Choice { mapping, setting, evaluation, proof }
}
