//! Planning, measuring what was planned on its agents, and planning again.
//!
//! A table fitted to a profile is good to a few percent, and the best of many plans is the one whose
//! errors flatter it most. So the winner is run; where its stages or messages take longer or shorter
//! than predicted, the table is corrected by what was measured, and the planner is asked again. It
//! ends when the winner is one that was measured and its prediction holds.

use std::collections::BTreeMap;

use anyhow::Context;
use cutline_core::{
    cost::Costs,
    dag::GroupId,
    evaluate::PartKind,
    partition::derive_in_order,
    picture::PictureSpec,
    plan::{Correction, Figures, ModelRef, Plan, Refinement, Round},
    planner::{self, Answer, Choice, Request},
    platform::{DeviceId, Platform},
    units::Nanos,
};
use cutline_runtime::{
    model::Model,
    runner::{self, Frame, RunOptions, Runner},
    stats,
};
use tokio::runtime::Runtime;

use crate::staging;

/// Farthest that a prediction may be off and still hold, in thousandths.
pub const TOLERANCE_PERMILLE: u64 = 50;

/// A problem whose devices have agents.
pub struct Subject<'a> {
    /// The network.
    pub model: &'a Model,
    /// What the plan file calls it.
    pub name: ModelRef,
    /// Devices with addresses.
    pub platform: &'a Platform,
    /// How a picture becomes the input.
    pub picture: Option<PictureSpec>,
    /// What enters.
    pub frame: Frame,
    /// Counted frames of each measured plan.
    pub frames: usize,
}

/// Medians over the frames of a run: stages and hops in a frame's order.
pub struct Run {
    /// Device and engine call of each stage with a model.
    pub stages: Vec<(String, Nanos)>,
    /// Each message on its way.
    pub hops: Vec<Nanos>,
    /// The parts that plans predict; the period is the busiest of the stages and messages.
    pub figures: Figures,
}

/// Plans, measures and plans again, at most `rounds` times; the table is left corrected.
/// `note` is told of each round.
pub fn refine(
    subject: &Subject,
    costs: &mut Costs,
    request: &Request,
    rounds: usize,
    stop: &mut dyn FnMut() -> bool,
    note: &mut dyn FnMut(&Round),
) -> anyhow::Result<(Answer, Refinement)> {
    let runtime = crate::process::runtime()?;
    let dag = &subject.model.grouping.dag;
    let mut refinement = Refinement { rounds: Vec::new(), holds: false };
    let mut known = Known::default();
    let mut answer = planner::solve_until(dag, costs, request, stop)?;
    for _ in 0..rounds {
        let Ok(best) = answer.best.clone() else { break };
        let plan = plan_of(subject, costs, request, &answer);
        let run = measure(subject, &plan, &runtime)?;
        let predicted = Figures::from(&best.evaluation);
        let corrections = correct(subject, costs, &best, &run, &mut known);
        let off = run.figures.latency_ns.0.abs_diff(predicted.latency_ns.0) * 1000
            / run.figures.latency_ns.0.max(1);
        let round = Round {
            plan: plan.best.as_ref().map(|choice| choice.id.clone()).unwrap_or_default(),
            predicted,
            measured: run.figures,
            corrections,
            error_permille: off,
        };
        note(&round);
        refinement.rounds.push(round);
        answer = planner::solve_until(dag, costs, request, stop)?;
        let same = answer.best.as_ref().is_ok_and(|next| {
            next.mapping == best.mapping && next.setting.engines == best.setting.engines
        });
        if same && off <= TOLERANCE_PERMILLE {
            refinement.holds = true;
            break;
        }
    }
    Ok((answer, refinement))
}

/// The answer as a plan file.
fn plan_of(subject: &Subject, costs: &Costs, request: &Request, answer: &Answer) -> Plan {
    let dag = &subject.model.grouping.dag;
    let picture = subject.picture.clone();
    Plan::new(subject.name.clone(), dag, costs, subject.platform, request, answer, picture)
}

/// Runs the best plan on its agents: one frame that does not count, then the counted ones.
pub fn measure(subject: &Subject, plan: &Plan, runtime: &Runtime) -> anyhow::Result<Run> {
    let choice = plan.best.as_ref().context("there is no plan to measure")?;
    let staged = staging::stage(subject.model, plan, choice)?;
    let answers = runtime.block_on(async {
        let runner =
            Runner::deploy(staged.deployment.clone(), RunOptions::default(), |_| {}).await?;
        let mut answers = Vec::new();
        for frame in 0..=subject.frames {
            let answer = runner.infer(subject.frame.clone()).await?;
            if frame > 0 {
                answers.push(answer);
            }
        }
        runner.remove().await;
        anyhow::Ok(answers)
    })?;
    let median = |of: &dyn Fn(&runner::Answer) -> Nanos| {
        let mut values: Vec<Nanos> = answers.iter().map(of).collect();
        stats::median(&mut values).unwrap_or_default()
    };
    let first = answers.first().context("no frame was counted")?;
    let stages: Vec<(String, Nanos)> = (0..first.trace.stages.len())
        .map(|at| {
            let compute = median(&|answer| answer.trace.stages[at].compute_ns);
            (first.trace.stages[at].device.clone(), compute)
        })
        .collect();
    let hops: Vec<Nanos> = (0..first.trace.hops.len())
        .map(|at| median(&|answer| answer.trace.hops[at].upload_ns))
        .collect();
    let busiest = stages.iter().map(|(_, time)| *time).chain(hops.iter().copied()).max();
    let figures = Figures {
        latency_ns: median(&|answer| answer.measured.latency_ns),
        period_ns: busiest.unwrap_or_default(),
        edge_compute_ns: median(&|answer| answer.measured.edge_compute_ns),
        upload_ns: median(&|answer| answer.measured.upload_ns),
        cloud_compute_ns: median(&|answer| answer.measured.cloud_compute_ns),
        rest_ns: median(&|answer| answer.measured.rest_ns),
    };
    Ok(Run { stages, hops, figures })
}

/// What every stage and message took, each time it was run.
#[derive(Default)]
struct Known(BTreeMap<(DeviceId, Option<DeviceId>, Vec<GroupId>), Vec<Nanos>>);

impl Known {
    /// The median of what was measured of a stage, or of the message into one, this time included:
    /// one slow moment of a machine does not decide.
    fn add(
        &mut self,
        from: DeviceId,
        to: Option<DeviceId>,
        groups: &[GroupId],
        time: Nanos,
    ) -> Nanos {
        let times = self.0.entry((from, to, groups.to_vec())).or_default();
        times.push(time);
        stats::median(&mut times.clone()).unwrap_or(time)
    }
}

/// Puts what was measured in the place of what was predicted.
fn correct(
    subject: &Subject,
    costs: &mut Costs,
    best: &Choice,
    run: &Run,
    known: &mut Known,
) -> Vec<Correction> {
    let partition =
        derive_in_order(&subject.model.grouping.dag, &best.mapping, &best.setting.order);
    let mut corrections = Vec::new();
    let name = |costs: &Costs, id: DeviceId| costs.device(id).name.clone();
    // A source without a stage of its own forwards, and its time is preparation.
    let forwards = run.stages.len() - partition.stages.len();
    let sends = best.evaluation.parts.iter().filter(|p| p.kind == PartKind::Send);
    for ((hop, part), &measured) in partition.hops.iter().zip(sends).zip(&run.hops) {
        let groups = &partition.stages[hop.into].groups;
        let measured = known.add(hop.from, Some(hop.to), groups, measured);
        costs.correct_hop(hop.from, hop.to, part.nanos, measured);
        corrections.push(Correction {
            what: format!("message from `{}` to `{}`", name(costs, hop.from), name(costs, hop.to)),
            predicted_ns: part.nanos,
            measured_ns: measured,
        });
    }
    for (stage, (device, measured)) in partition.stages.iter().zip(&run.stages[forwards..]) {
        let measured = known.add(stage.device, None, &stage.groups, *measured);
        let option = best.setting.engines[stage.device.index()];
        let times = &costs.device(stage.device).options[option];
        let groups = stage.groups.iter().filter_map(|group| times.groups[group.index()]);
        let predicted = times.call + groups.sum();
        costs.correct_stage(stage.device, option, &stage.groups, measured);
        corrections.push(Correction {
            what: format!("{} groups on `{device}`", stage.groups.len()),
            predicted_ns: predicted,
            measured_ns: measured,
        });
    }
    corrections
}
