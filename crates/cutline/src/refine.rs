//! Planning, measuring the best plans on their agents, and planning again.
//!
//! A table fitted to a profile is good to a few percent, and the best of many plans is the one whose
//! errors flatter it most. So the best few are run, in turns, so that a slow moment of a machine meets
//! them alike; the table is corrected until it gives every stage and message the time that it took,
//! and the planner is asked again. It ends when the winner is one that was measured and its
//! prediction held.

use std::collections::BTreeMap;

use anyhow::Context;
use cutline_core::{
    cost::Costs,
    dag::GroupId,
    evaluate::{PartKind, evaluate},
    partition::{Hop, Partition, Stage, derive_in_order},
    picture::PictureSpec,
    plan::{Correction, Figures, ModelRef, Plan, Refinement, Trial},
    planner::{self, Answer, Choice, Infeasible, Objective, Request},
    platform::{DeviceId, Platform},
    units::Nanos,
};
use cutline_runtime::{
    client::ClientOptions,
    model::Model,
    runner::{self, Frame, RunOptions, Runner},
    stats,
};
use tokio::runtime::Runtime;

use crate::staging::{self, Staged};

/// Farthest that a prediction may be off and still hold, in thousandths.
pub const TOLERANCE_PERMILLE: u64 = 50;

/// Turns in which the plans of a round are measured.
const TURNS: usize = 4;

/// Times that all corrections are applied over again: plans that share groups settle in a few.
const SWEEPS: usize = 50;

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
    /// How to call the agents.
    pub client: ClientOptions,
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

/// What refining may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Times that it measures and plans again, at most.
    pub rounds: usize,
    /// Plans measured in a round: the winner, and the best that were not measured yet.
    pub plans: usize,
    /// Counted frames of each measured plan in a round.
    pub frames: usize,
}

/// Plans, measures and plans again, within a budget; the table is left corrected. `note` is told of
/// each plan that was measured.
pub fn refine(
    subject: &Subject,
    costs: &mut Costs,
    request: &Request,
    budget: Budget,
    stop: &mut dyn FnMut() -> bool,
    note: &mut dyn FnMut(&Trial),
) -> anyhow::Result<(Answer, Refinement)> {
    let runtime = crate::process::runtime()?;
    let dag = &subject.model.grouping.dag;
    let mut refinement = Refinement::default();
    let mut learnt = Learnt::default();
    let mut answer = planner::solve_until(dag, costs, request, stop)?;
    for round in 1..=budget.rounds {
        let Ok(best) = answer.best.clone() else { break };
        let choices = candidates(subject, costs, request, &best, &learnt, budget.plans, stop)?;
        let runs = in_turns(subject, costs, request, &choices, budget.frames, &runtime)?;
        refinement.frames += (choices.len() * budget.frames) as u64;
        // The winner comes last: the table must be right about it.
        for (choice, (_, run)) in choices.iter().zip(&runs).rev() {
            learnt.add(subject, choice, run);
        }
        let mut held = false;
        for (choice, (id, run)) in choices.iter().zip(runs) {
            let differences = learnt.differences(subject, costs, choice)?;
            let trial = Trial {
                round: round as u32,
                plan: id,
                predicted: Figures::from(&choice.evaluation),
                measured: run.figures,
                corrections: differences.iter().map(|d| d.correction(costs)).collect(),
            };
            held |= same(choice, &best) && trial.error_permille() <= TOLERANCE_PERMILLE;
            note(&trial);
            refinement.trials.push(trial);
        }
        learnt.correct(subject, costs)?;
        answer = planner::solve_until(dag, costs, request, stop)?;
        if held && answer.best.as_ref().is_ok_and(|next| same(next, &best)) {
            refinement.holds = true;
            break;
        }
    }
    Ok((answer, refinement))
}

fn same(a: &Choice, b: &Choice) -> bool {
    a.mapping == b.mapping && a.setting == b.setting
}

/// The winner, and the best plans of the front that were not measured yet.
fn candidates(
    subject: &Subject,
    costs: &Costs,
    request: &Request,
    best: &Choice,
    learnt: &Learnt,
    most: usize,
    stop: &mut dyn FnMut() -> bool,
) -> anyhow::Result<Vec<Choice>> {
    let mut choices = vec![best.clone()];
    if most < 2 {
        return Ok(choices);
    }
    // The front holds whatever is nearly best in the objective and better in something else.
    let others = [Objective::Latency, Objective::Period, Objective::Memory];
    let others = others.into_iter().filter(|&other| other != request.objective);
    let objectives: Vec<Objective> = [request.objective].into_iter().chain(others).collect();
    let dag = &subject.model.grouping.dag;
    let front = planner::front(dag, costs, request, &objectives, stop)?;
    let new =
        |choice: &Choice| !same(choice, best) && !learnt.tried.iter().any(|t| same(t, choice));
    choices.extend(front.points.into_iter().filter(new).take(most - 1));
    Ok(choices)
}

/// Measures plans in turns: id and medians of each.
fn in_turns(
    subject: &Subject,
    costs: &Costs,
    request: &Request,
    choices: &[Choice],
    frames: usize,
    runtime: &Runtime,
) -> anyhow::Result<Vec<(String, Run)>> {
    let plans: Vec<Plan> =
        choices.iter().map(|choice| plan_of(subject, costs, request, choice)).collect();
    let staged: Vec<Staged> =
        plans.iter().map(|plan| stage(subject, plan)).collect::<anyhow::Result<_>>()?;
    let turns = TURNS.min(frames).max(1);
    let mut answers: Vec<Vec<runner::Answer>> = plans.iter().map(|_| Vec::new()).collect();
    for turn in 0..turns {
        // The frames are spread over the turns as evenly as whole numbers allow.
        let frames = frames * (turn + 1) / turns - frames * turn / turns;
        for (staged, answers) in staged.iter().zip(&mut answers) {
            answers.extend(run(subject, staged, frames, runtime)?);
        }
    }
    let id = |plan: &Plan| plan.best.as_ref().map(|choice| choice.id.clone()).unwrap_or_default();
    plans.iter().zip(&answers).map(|(plan, answers)| Ok((id(plan), Run::of(answers)?))).collect()
}

/// A choice as a plan file.
fn plan_of(subject: &Subject, costs: &Costs, request: &Request, choice: &Choice) -> Plan {
    let dag = &subject.model.grouping.dag;
    let answer = Answer {
        baselines: Vec::new(),
        best: Ok(choice.clone()),
        best_split: Err(Infeasible::NoOther),
        reason: String::new(),
    };
    let picture = subject.picture.clone();
    Plan::new(subject.name.clone(), dag, costs, subject.platform, request, &answer, picture)
}

/// Runs the best plan of a file on its agents and takes the medians over so many frames.
pub fn measure(
    subject: &Subject,
    plan: &Plan,
    frames: usize,
    runtime: &Runtime,
) -> anyhow::Result<Run> {
    Run::of(&run(subject, &stage(subject, plan)?, frames, runtime)?)
}

/// The parts of the best plan of a file.
fn stage(subject: &Subject, plan: &Plan) -> anyhow::Result<Staged> {
    let choice = plan.best.as_ref().context("there is no plan to measure")?;
    staging::stage(subject.model, plan, choice)
}

/// Deploys a plan, infers one frame that does not count and then the counted ones.
fn run(
    subject: &Subject,
    staged: &Staged,
    frames: usize,
    runtime: &Runtime,
) -> anyhow::Result<Vec<runner::Answer>> {
    let options = RunOptions { client: subject.client.clone(), ..RunOptions::default() };
    runtime.block_on(async {
        let runner = Runner::deploy(staged.deployment.clone(), options, |_| {}).await?;
        let mut answers = Vec::new();
        for frame in 0..=frames {
            let answer = runner.infer(subject.frame.clone()).await?;
            if frame > 0 {
                answers.push(answer);
            }
        }
        runner.remove().await;
        anyhow::Ok(answers)
    })
}

impl Run {
    fn of(answers: &[runner::Answer]) -> anyhow::Result<Run> {
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
}

/// A stage of a device with one engine, or the message into it in one codec.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Stage(DeviceId, usize, Vec<GroupId>),
    Message(DeviceId, DeviceId, usize, Vec<GroupId>),
}

/// What was measured so far: the plans, the one measured last behind the others, and how long each of
/// their segments took, each time it was run.
#[derive(Default)]
struct Learnt {
    tried: Vec<Choice>,
    times: BTreeMap<Segment, Vec<Nanos>>,
}

impl Learnt {
    fn add(&mut self, subject: &Subject, choice: &Choice, run: &Run) {
        let partition =
            derive_in_order(&subject.model.grouping.dag, &choice.mapping, &choice.setting.order);
        // A source without a stage of its own forwards, and its time is preparation.
        let forwards = run.stages.len() - partition.stages.len();
        for (stage, &(_, time)) in partition.stages.iter().zip(&run.stages[forwards..]) {
            // Encoding and decoding happen in the same call, and the table holds them apart.
            let coding = choice.evaluation.parts.iter().filter(|part| {
                part.device == stage.device
                    && matches!(part.kind, PartKind::Encode | PartKind::Decode)
            });
            let time = time - coding.map(|part| part.nanos).sum();
            self.times.entry(Segment::of_stage(choice, stage)).or_default().push(time);
        }
        for (hop, &time) in partition.hops.iter().zip(&run.hops) {
            self.times.entry(Segment::of_message(choice, &partition, hop)).or_default().push(time);
        }
        self.tried.retain(|tried| !same(tried, choice));
        self.tried.push(choice.clone());
    }

    /// The median of what was measured: one slow moment of a machine does not decide.
    fn time(&self, segment: &Segment) -> Option<Nanos> {
        stats::median(&mut self.times.get(segment)?.clone())
    }

    /// Puts what was measured in the place of what the table predicts, plan after plan and again,
    /// since plans share groups and links: where measurements agree the table comes to give them all
    /// (Kaczmarz's method, 1937, for systems of equations), and where they do not, those of the plan
    /// measured last hold.
    fn correct(&self, subject: &Subject, costs: &mut Costs) -> anyhow::Result<()> {
        for _ in 0..SWEEPS {
            for choice in &self.tried {
                for difference in self.differences(subject, costs, choice)? {
                    difference.settle(costs);
                }
            }
        }
        Ok(())
    }

    /// What the table says of each segment of a plan, beside what was measured.
    fn differences(
        &self,
        subject: &Subject,
        costs: &Costs,
        choice: &Choice,
    ) -> anyhow::Result<Vec<Difference>> {
        let dag = &subject.model.grouping.dag;
        let partition = derive_in_order(dag, &choice.mapping, &choice.setting.order);
        let parts = evaluate(dag, costs, &choice.mapping, &choice.setting)?.parts;
        let sends = parts.iter().filter(|part| part.kind == PartKind::Send);
        let hops = partition.hops.iter().zip(sends);
        let messages =
            hops.map(|(hop, part)| (Segment::of_message(choice, &partition, hop), part.nanos));
        let stages = partition.stages.iter().map(|stage| {
            let engine = choice.setting.engines[stage.device.index()];
            let times = &costs.device(stage.device).options[engine];
            let groups = stage.groups.iter().filter_map(|group| times.groups[group.index()]);
            (Segment::of_stage(choice, stage), times.call + groups.sum())
        });
        let known = |(segment, predicted)| {
            let measured = self.time(&segment)?;
            Some(Difference { segment, predicted, measured })
        };
        Ok(messages.chain(stages).filter_map(known).collect())
    }
}

impl Segment {
    fn of_stage(choice: &Choice, stage: &Stage) -> Self {
        let engine = choice.setting.engines[stage.device.index()];
        Segment::Stage(stage.device, engine, stage.groups.clone())
    }

    fn of_message(choice: &Choice, partition: &Partition, hop: &Hop) -> Self {
        let codec = choice.setting.codecs[hop.from.index()];
        Segment::Message(hop.from, hop.to, codec, partition.stages[hop.into].groups.clone())
    }
}

/// A segment whose time was measured.
struct Difference {
    segment: Segment,
    predicted: Nanos,
    measured: Nanos,
}

impl Difference {
    fn settle(&self, costs: &mut Costs) {
        match &self.segment {
            Segment::Stage(device, engine, groups) => {
                costs.correct_stage(*device, *engine, groups, self.measured);
            }
            Segment::Message(from, to, ..) => {
                costs.correct_hop(*from, *to, self.predicted, self.measured);
            }
        }
    }

    fn correction(&self, costs: &Costs) -> Correction {
        let name = |id: &DeviceId| &costs.device(*id).name;
        let what = match &self.segment {
            Segment::Stage(device, _, groups) => {
                format!("{} groups on `{}`", groups.len(), name(device))
            }
            Segment::Message(from, to, ..) => {
                format!("message from `{}` to `{}`", name(from), name(to))
            }
        };
        Correction { what, predicted_ns: self.predicted, measured_ns: self.measured }
    }
}
