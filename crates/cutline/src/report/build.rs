//! From a problem and the planner's answer to the [`Data`] of a report.

use std::collections::BTreeSet;

use cutline_core::{
    cost::{Costs, Origin},
    dag::Dag,
    evaluate::evaluate,
    planner::{self, Answer, Objective, PlannerError, Regime, Request},
    platform::DeviceId,
};

use super::{
    data::{Bandwidth, Baseline, CutRow, Data, Device, Flow, Front, Group, Link, Sample, Step},
    headline::headline,
    plans::Plans,
    search,
};
use crate::{
    output::Output,
    planning::{Problem, sweep},
};

const BEST: &str = "no plan that is allowed is faster, by the table of costs";
const BEST_SPLIT: &str = "no plan with work on several devices that is allowed is faster, by the \
                          table of costs";
const PLAIN: &str = "not searched for: it leaves no choice but its engine";
const CUT: &str = "the fastest engines and encodings of this cut; other cuts may be better";

/// Objectives of the front, the least latency first; the most burdened device's energy is shown by
/// device instead.
const OBJECTIVES: [Objective; 5] =
    [Objective::Latency, Objective::Period, Objective::Energy, Objective::Memory, Objective::Money];

/// Searches for everything that a report shows; `link` is the one whose rates are varied, the
/// source's first by default. Progress goes to `output`; `stop` is asked now and then whether to give
/// up what can be cut short.
pub(crate) fn build(
    problem: &Problem,
    request: &Request,
    link: Option<usize>,
    output: &Output,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Data, PlannerError> {
    let Problem { model, dag, costs, platform, picture, .. } = problem;
    output.note("planning");
    let answer = planner::solve_until(dag, costs, request, stop)?;
    output.note("evaluating the candidate cuts");
    let tried = search::cuts(dag, costs, request);
    output.note("searching for the front");
    let known = OBJECTIVES.into_iter().filter(|objective| objective.is_known(dag, costs));
    let known: Vec<Objective> = known.collect();
    let found = planner::front(dag, costs, request, &known, stop)?;

    let mut plans = Plans::new(dag, costs, model, picture.as_ref());
    let best = answer.best.as_ref().ok().map(|plan| plans.add_named(plan, "best plan", BEST));
    let best_split =
        answer.best_split.as_ref().ok().map(|plan| plans.add_named(plan, "best split", BEST_SPLIT));
    let baselines = answer
        .baselines
        .iter()
        .map(|baseline| Baseline {
            name: baseline.name.clone(),
            lossy: baseline.lossy,
            allowed: baseline.allowed,
            plan: baseline
                .outcome
                .as_ref()
                .ok()
                .map(|plan| plans.add_named(plan, &baseline.name, PLAIN)),
            infeasible: baseline.outcome.as_ref().err().map(ToString::to_string),
        })
        .collect();
    let points: Vec<usize> = found.points.iter().map(|choice| plans.add(choice, BEST)).collect();
    points.iter().for_each(|&at| plans.mark_front(at));
    let cuts = tried
        .into_iter()
        .map(|tried| CutRow {
            position: tried.position,
            to: tried.to.index(),
            values: tried.cut.flows.iter().map(|&flow| dag.flow(flow).name.clone()).collect(),
            bytes: tried.cut.bytes,
            plan: tried.outcome.as_ref().ok().map(|choice| plans.add(choice, CUT)),
            infeasible: tried.outcome.err(),
        })
        .collect();
    output.note("searching for the best plan over the bandwidth");
    let bandwidth = match link.or_else(|| sweep::first_link(costs)) {
        Some(link) => {
            let rates = search::rates(costs.links()[link].up.rate);
            let ends = [rates[0], rates[rates.len() - 1]];
            let regimes = planner::sweep(dag, costs, request, link, ends, stop)?;
            let left_out = left_out(costs, request);
            Some(bandwidth(problem, (link, left_out), &answer, &regimes, &mut plans))
        }
        None => None,
    };
    let headline = headline(dag, costs, &answer, best.map(|at| plans.get(at)));
    Ok(Data {
        version: 1,
        cutline: env!("CARGO_PKG_VERSION"),
        model: model.clone(),
        headline,
        reason: answer.reason,
        currency: platform.workload().map(|w| w.currency.clone()).unwrap_or_default(),
        origins: origins(costs),
        objectives: known,
        frame_interval_ns: costs.frame_interval(),
        devices: devices(costs),
        links: links(costs),
        groups: groups(dag),
        flows: flows(dag),
        plans: plans.into_list(),
        baselines,
        best,
        best_split,
        front: Front {
            plans: points,
            epsilon_ppm: found.epsilon_ppm,
            complete: found.complete,
            once_complete: found.once_complete,
            proof_text: front_words(&found),
        },
        cuts,
        bandwidth,
    })
}

fn front_words(front: &planner::Front) -> String {
    match (front.complete, front.epsilon_ppm) {
        (false, 0) if front.once_complete => {
            "no plan that visits each device once at most is missing; of those that return to a \
             device not all were looked at, so that there may be better ones"
                .to_owned()
        }
        (false, _) => "the search was stopped before its end, so that there may be better plans; \
                       allow more time"
            .to_owned(),
        (true, 0) => "the front is exact".to_owned(),
        (true, epsilon) => {
            format!("every plan is matched by one of them up to {} %", epsilon as f64 / 1e4)
        }
    }
}

/// The first link of the source.
fn bandwidth(
    Problem { dag, costs, .. }: &Problem,
    (link, left_out): (usize, String),
    answer: &Answer,
    regimes: &[Regime],
    plans: &mut Plans<'_>,
) -> Bandwidth {
    let declared = costs.links()[link].up.rate;
    let mut steps = Vec::with_capacity(regimes.len());
    let mut curve = Vec::new();
    for step in regimes {
        // The list of plans holds costs at the declared rates, whatever rate a plan is best at.
        let here = evaluate(dag, costs, &step.choice.mapping, &step.choice.setting);
        let Ok(evaluation) = here else { continue };
        let choice = planner::Choice { evaluation, ..step.choice.clone() };
        let plan = plans.add(&choice, "the fastest at another rate of the link");
        steps.push(Step { from: step.from, to: step.to, plan });
        let within: BTreeSet<_> = search::rates(declared)
            .into_iter()
            .filter(|&rate| rate > step.from && rate < step.to)
            .chain([step.from, step.to])
            .collect();
        for rate in within {
            let costs = search::at_rate(costs, link, rate);
            let latency = |choice: &planner::Choice| {
                evaluate(dag, &costs, &choice.mapping, &choice.setting).ok().map(|e| e.latency)
            };
            let Some(latency_ns) = latency(&step.choice) else { continue };
            let baselines = answer.baselines.iter().map(|b| b.outcome.as_ref().ok());
            let baselines_ns = baselines.map(|choice| choice.and_then(latency)).collect();
            curve.push(Sample { rate, plan, latency_ns, baselines_ns });
        }
    }
    Bandwidth { link, declared, steps, curve, left_out }
}

/// What of a request the best plans over all rates leave out, in sentences.
fn left_out(costs: &Costs, request: &Request) -> String {
    let by_rate = |&(limited, _): &(Objective, u64)| {
        matches!(limited, Objective::Latency | Objective::Period)
    };
    let limited = request.limits.iter().any(by_rate) || costs.frame_interval().is_some();
    let sentences = [
        (
            request.scatter,
            "Plans with scatter groups are left out here, since the slowest of their members \
             changes with the rate: at the rate of all other figures the best plan may be faster.",
        ),
        (
            request.revisits,
            "Plans that return to a device are left out here: at the rate of all other figures the \
             best plan may be faster.",
        ),
        (
            limited,
            "Which plans keep within the limits changes with the rate: inside a range a plan that is \
             allowed from there on may be faster.",
        ),
    ];
    let said = sentences.into_iter().filter_map(|(holds, sentence)| holds.then_some(sentence));
    said.collect::<Vec<_>>().join(" ")
}

fn origins(costs: &Costs) -> Vec<Origin> {
    let mut origins: Vec<Origin> = Vec::new();
    for option in costs.devices().iter().flat_map(|device| &device.options) {
        if !origins.contains(&option.origin) {
            origins.push(option.origin);
        }
    }
    origins
}

fn devices(costs: &Costs) -> Vec<Device> {
    let device = |device: &cutline_core::cost::DeviceCosts| Device {
        name: device.name.clone(),
        memory_limit: device.memory,
        energy_origin: device.energy_origin,
    };
    costs.devices().iter().map(device).collect()
}

fn links(costs: &Costs) -> Vec<Link> {
    let link = |link: &cutline_core::cost::LinkCosts| Link {
        between: link.between.map(DeviceId::index),
        up: link.up.rate,
        down: link.down.rate,
        delay_ns: link.up.delay,
        origin: match link.up.table.is_empty() {
            true => Origin::Assumed,
            false => Origin::Measured,
        },
    };
    costs.links().iter().map(link).collect()
}

fn groups(dag: &Dag) -> Vec<Group> {
    let group = |group: &cutline_core::dag::Group| Group {
        name: group.name.clone(),
        layers: group.layers.len(),
        macs: group.macs,
        parameter_bytes: group.parameter_bytes,
    };
    dag.groups().iter().map(group).collect()
}

fn flows(dag: &Dag) -> Vec<Flow> {
    let flow = |flow: &cutline_core::dag::Flow| Flow {
        name: flow.name.clone(),
        from: flow.from.map(|group| group.index()),
        to: flow.to.iter().map(|group| group.index()).collect(),
        bytes: flow.bytes,
        is_output: flow.is_output,
    };
    dag.flows().iter().map(flow).collect()
}
