//! Plans whose agreement with the whole network is measured: the parts of a lossy plan are made,
//! calibrated and run here on the user's pictures, whatever device they are for.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cutline_core::{
    agreement::Share,
    codec::Quantizations,
    picture::InputEncoding,
    plan::{MeasuredAgreement, Plan, PlannedChoice},
    planner::{self, Agreeing, AgreeingError, Answer, Choice, Kind, LossyStep, Request},
    split::{self, StageLabel},
};
use cutline_runtime::{
    engine::{self, LoadOptions, SharedEngine, unsupported_layers},
    model::Model,
    parts,
};

use super::{Problem, lossy_input};
use crate::{
    agree::{self, Classes},
    gallery::{Cuts, Gallery},
    output::Output,
    process,
};

/// Runs lossy plans on pictures and remembers what came of it.
pub(crate) struct Judge<'a> {
    problem: &'a Problem,
    model: &'a Model,
    gallery: Gallery,
    engine: SharedEngine,
    output: &'a Output,
    whole: Option<Classes>,
    scales: Quantizations,
    shares: BTreeMap<BTreeSet<LossyStep>, Share>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        problem: &'a Problem,
        gallery: Gallery,
        output: &'a Output,
    ) -> anyhow::Result<Self> {
        let model = problem.network.as_ref().context("a table of costs has no network to run")?;
        let (whole, scales, shares) = (None, Quantizations::new(), BTreeMap::new());
        let engine = able(model)?;
        Ok(Self { problem, model, gallery, engine, output, whole, scales, shares })
    }

    /// To how many of the pictures a plan gives the whole network's best class.
    fn share(&mut self, choice: &Choice) -> anyhow::Result<Share> {
        let Problem { dag, costs, .. } = self.problem;
        let steps = planner::lossy_steps(dag, costs, &choice.mapping, &choice.setting);
        if let Some(&known) = self.shares.get(&steps) {
            return Ok(known);
        }
        let planned = PlannedChoice::new(dag, costs, choice);
        let (stage_of, labels) = self.stages(&planned)?;
        let mut codecs = planned.codecs()?;
        codecs.quantizations = self.quantizations(&planned)?;
        let model = self.model;
        let sub_models =
            split::split_encoded(&model.proto, &model.graph, &stage_of, &labels, &codecs)?;
        let with = (self.engine.as_ref(), options());
        if self.whole.is_none() {
            self.whole = Some(agree::of_whole(model, &self.gallery, with, self.output)?);
        }
        let mut parts = parts::load(with.0, with.1, &sub_models, model.folder())?;
        let encoding = lossy_input(&planned, dag).unwrap_or(InputEncoding::Fp32);
        let found = agree::of_parts(&mut parts, model, (&self.gallery, encoding), self.output)?;
        let share = agree::agreement(self.whole.as_ref().unwrap_or(&Vec::new()), &found);
        self.output.note(format!("{}: {share} agree", words(&steps)));
        self.shares.insert(steps, share);
        Ok(share)
    }

    /// What the bytes of a plan's values stand for; values are calibrated once.
    fn quantizations(&mut self, planned: &PlannedChoice) -> anyhow::Result<Quantizations> {
        let (stage_of, labels) = self.stages(planned)?;
        let cuts = Cuts { model: self.model, stage_of: &stage_of, labels: &labels };
        let mut codecs = planned.codecs()?;
        codecs.quantizations = self.scales.clone();
        let values = split::quantised_values(&self.model.graph, &stage_of, &labels, &codecs)?;
        let is_known = values.iter().all(|value| self.scales.contains_key(&value.key()));
        let gallery = (!is_known).then_some(&self.gallery);
        let with = (self.engine.as_ref(), options());
        let found = cuts.quantizations(&codecs, gallery, with, self.output)?;
        self.scales.extend(found.clone());
        Ok(found)
    }

    fn stages(
        &self,
        planned: &PlannedChoice,
    ) -> anyhow::Result<(Vec<Option<u32>>, Vec<StageLabel>)> {
        let grouping = &self.model.grouping;
        let of_group = planned.resolve(&grouping.dag, &self.problem.platform)?.stage_of_group();
        let groups = grouping.group_of.iter();
        let stage_of = groups.map(|group| group.map(|id| of_group[id.index()])).collect();
        let labels = planned.stages.iter().map(|stage| StageLabel::new(stage.device.clone()));
        Ok((stage_of, labels.collect()))
    }

    /// Writes into a plan what was calibrated and measured of its two choices.
    pub(crate) fn complete(&mut self, plan: &mut Plan, answer: &Answer) -> anyhow::Result<()> {
        let images = self.gallery.sha256()?;
        let Plan { model, picture, best, best_split, .. } = plan;
        let pairs = [(best, &answer.best), (best_split, &answer.best_split)];
        for (planned, choice) in pairs {
            let (Some(planned), Ok(choice)) = (planned, choice) else { continue };
            let scales = self.quantizations(planned)?;
            if !scales.is_empty() {
                planned.quantise(scales, model, picture.as_ref());
            }
            let Problem { dag, costs, .. } = self.problem;
            if !planner::lossy_steps(dag, costs, &choice.mapping, &choice.setting).is_empty() {
                let share = self.share(choice)?;
                planned.agreement = Some(MeasuredAgreement::new(share, images.clone()));
            }
        }
        Ok(())
    }
}

/// The best plan and the best split whose agreement reaches the limit, in millionths.
pub(crate) fn solve(
    judge: &mut Judge,
    request: &Request,
    limit_ppm: u64,
    time_limit: Duration,
) -> anyhow::Result<Answer> {
    let Problem { dag, costs, .. } = judge.problem;
    let mut search = Agreeing::new(dag, costs, request);
    // The time limit is for planning: what is spent on pictures is given back.
    let start = Rc::new(Cell::new(Instant::now()));
    let mut holds = |choice: &Choice| -> anyhow::Result<bool> {
        let began = Instant::now();
        let share = judge.share(choice)?;
        start.set(start.get() + began.elapsed());
        Ok(share.reaches(limit_ppm))
    };
    let mut stop = || start.get().elapsed() > time_limit;
    let mut find = |kind: Kind| {
        search.find(kind, &mut holds, &mut stop).map_err(|error| match error {
            AgreeingError::Planner(error) => error.into(),
            AgreeingError::Judge(error) => error.context("cannot measure the agreement of a plan"),
        })
    };
    let best = find(Kind::Best)?;
    let split = find(Kind::Split)?;
    Ok(Answer { best_split: split.best_split, ..best })
}

/// The first engine that runs the whole network.
fn able(model: &Model) -> anyhow::Result<SharedEngine> {
    let mut lacking = Vec::new();
    for status in engine::available().iter().filter(|status| status.available) {
        let engine = engine::open(status.name)?;
        let layers = unsupported_layers(engine.as_ref(), &model.proto, &model.graph);
        if layers.is_empty() {
            return Ok(engine);
        }
        lacking.push(format!("{} lacks {}", status.name, layers.join(", ")));
    }
    bail!(
        "no engine here runs the whole network, so agreement cannot be measured: {}",
        lacking.join("; ")
    )
}

fn options() -> LoadOptions {
    LoadOptions { threads: process::cores() }
}

/// Lossy steps for people.
fn words(steps: &BTreeSet<LossyStep>) -> String {
    let each = steps.iter().map(|step| match step {
        LossyStep::Input(encoding) => format!("the input as {encoding}"),
        LossyStep::Cut { values, codec } => format!("{} as {codec}", values.join(", ")),
    });
    each.collect::<Vec<_>>().join(" and ")
}
