//! A network on a board with an instance: its plans at every rate, each with its time and its bill.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use cutline_core::{
    cost::{Costs, PIXELS, TENSOR},
    cut::Cut,
    dag::Dag,
    evaluate::{self, Evaluation, PartKind, Setting, evaluate},
    partition::Mapping,
    planner::{self, Answer, Choice, Request},
    platform::DeviceId,
    size::{self, Allowed, Candidate, Kind, Load, traffic_per_month},
    units::{Money, Nanos},
};
use serde_json::json;

use super::{
    build::layers,
    data::{Combination, Plan, Range},
    file::Study,
};
use crate::{
    report::at_rate,
    sizing::{self, Form},
};

/// The plans of one network, each once.
#[derive(Default)]
pub(super) struct Book {
    pub(super) plans: Vec<Plan>,
    known: BTreeMap<Decision, usize>,
}

/// What makes a plan: places that it uses, mapping, and the choices that count under it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Decision {
    board: usize,
    instance: Option<usize>,
    mapping: Vec<usize>,
    engines: Vec<Option<usize>>,
    input: Option<usize>,
    codec: Option<usize>,
}

/// A network on a board with an instance.
pub(super) struct Place<'a> {
    pub(super) study: &'a Study,
    /// Network, board, instance.
    pub(super) position: [usize; 3],
    dag: Dag,
    /// At each rate.
    pub(super) costs: Vec<Costs>,
    request: Request,
    /// Encodings that were allowed and that the table does not know.
    pub(super) missing: Vec<String>,
}

impl<'a> Place<'a> {
    /// The tables of costs of a place.
    pub(super) fn open(
        study: &'a Study,
        form: &Form,
        folder: &Path,
        position: [usize; 3],
    ) -> anyhow::Result<Self> {
        let [_, board, instance] = position;
        let (board, instance) = (&study.boards[board], &study.instances[instance]);
        let mut link = study.link.table.clone();
        link["between"] = json!([board.name, instance.name]);
        let platform = json!({
            "version": 1,
            "device": [board.table, instance.table],
            "link": [link],
            "workload": {
                "users": study.users,
                "frames_per_second": study.frames_per_second,
                "electricity": study.electricity,
                "currency": study.currency,
            },
        });
        let (dag, costs) = sizing::costs_on(form, platform, folder)?;
        if costs.devices()[1].price.rent.is_none() {
            bail!("[[instance]] `{}`: no `rent` is known; give it", instance.name);
        }
        let mut missing = Vec::new();
        let inputs = costs.inputs().iter().map(|input| input.name.as_str());
        let inputs = allowed(&study.inputs, &[TENSOR, PIXELS], inputs, &mut missing);
        let codecs = costs.codecs().iter().map(|codec| codec.name.as_str());
        let codecs = allowed(&study.codecs, &[TENSOR], codecs, &mut missing);
        let request = Request {
            input_encodings: Some(inputs),
            cut_encodings: Some(codecs),
            ..Request::default()
        };
        let costs = study.rates.iter().map(|&rate| at_rate(&costs, 0, rate)).collect();
        Ok(Self { study, position, dag, costs, request, missing })
    }

    /// From one frame of a user to the next; `None` where that is not known.
    pub(super) fn interval(&self) -> Option<Nanos> {
        let frames = self.costs[0].workload()?.frames_per_megasecond?;
        (1_000_000_000_000_000_u64).checked_div(frames).map(Nanos)
    }

    /// How long a frame keeps the board or a direction of the link, whichever is busier.
    fn busiest(&self, costs: &Costs, evaluation: &Evaluation) -> Option<Nanos> {
        let Load { board, up, down, .. } =
            Candidate::of(costs, evaluation, 0, self.study.link.traffic)?.load;
        let ways = [up, down].into_iter().flatten().map(|way| way.busy);
        ways.chain([board]).max()
    }

    /// The best plans at every rate; those that may be on a front go into the book besides.
    pub(super) fn plan(&self, book: &mut Book) -> anyhow::Result<Combination> {
        let [network, board, instance] = self.position;
        let mut found = Combination {
            network,
            board,
            instance,
            best: Vec::new(),
            split: Vec::new(),
            edge: Vec::new(),
            cloud: Vec::new(),
            changes: Vec::new(),
            refused: Vec::new(),
        };
        for costs in &self.costs {
            let answer = planner::solve(&self.dag, costs, &self.request)?;
            let mut at = |choice: Option<&Choice>| -> anyhow::Result<Option<usize>> {
                choice.map(|choice| self.add(choice, book)).transpose()
            };
            found.best.push(at(answer.best.as_ref().ok())?);
            found.split.push(at(answer.best_split.as_ref().ok())?);
            found.edge.push(at(fastest(&answer, "edge-"))?);
            found.cloud.push(at(fastest(&answer, "cloud-"))?);
            if found.refused.is_empty() {
                found.refused = refused(&answer);
            }
        }
        let (low, high) = (self.study.rates[0], self.study.rates[self.study.rates.len() - 1]);
        let ends = [low, high];
        let regimes =
            planner::sweep(&self.dag, &self.costs[0], &self.request, 0, ends, &mut || false)?;
        for regime in regimes {
            let plan = self.add(&regime.choice, book)?;
            found.changes.push(Range { from: regime.from, to: regime.to, plan });
        }
        self.add_candidates(book)?;
        Ok(found)
    }

    /// Plans at the candidate cuts that no other is better than in time and money.
    fn add_candidates(&self, book: &mut Book) -> anyhow::Result<()> {
        let slowest = &self.costs[0];
        let allowed = Allowed {
            kinds: vec![Kind::Edge, Kind::Cloud, Kind::Split],
            inputs: self.request.input_encodings.clone(),
            codecs: self.request.cut_encodings.clone(),
        };
        let (plans, _) = size::plans(&self.dag, slowest, &allowed);
        let traffic = self.study.link.traffic;
        let mut candidates = Vec::with_capacity(plans.len());
        for plan in plans {
            let candidate = Candidate::of(slowest, &plan.evaluation, 0, traffic);
            let candidate = candidate.context("what a month costs is not known")?;
            candidates.push((candidate, (plan.mapping, plan.setting)));
        }
        for (_, (mapping, setting)) in size::undominated(candidates) {
            self.add_plan(&mapping, &setting, book)?;
        }
        Ok(())
    }

    fn add(&self, choice: &Choice, book: &mut Book) -> anyhow::Result<usize> {
        self.add_plan(&choice.mapping, &choice.setting, book)
    }

    fn add_plan(
        &self,
        mapping: &Mapping,
        setting: &Setting,
        book: &mut Book,
    ) -> anyhow::Result<usize> {
        let crossing = Crossing::of(&self.dag, mapping);
        let [_, board, instance] = self.position;
        let uses = |id: &DeviceId| mapping.0.contains(id);
        let devices = self.costs[0].device_ids();
        let decision = Decision {
            board,
            instance: (crossing.kind != Kind::Edge).then_some(instance),
            mapping: mapping.0.iter().map(|device| device.index()).collect(),
            engines: devices.map(|id| uses(&id).then(|| setting.engines[id.index()])).collect(),
            input: crossing.input.then_some(setting.input),
            codec: crossing.coded.then(|| setting.codecs[DeviceId::SOURCE.index()]),
        };
        if let Some(&at) = book.known.get(&decision) {
            return Ok(at);
        }
        let plan = self.describe(mapping, setting, crossing)?;
        book.plans.push(plan);
        book.known.insert(decision, book.plans.len() - 1);
        Ok(book.plans.len() - 1)
    }

    fn describe(
        &self,
        mapping: &Mapping,
        setting: &Setting,
        crossing: Crossing,
    ) -> anyhow::Result<Plan> {
        let at_each = self.costs.iter().map(|costs| evaluate(&self.dag, costs, mapping, setting));
        let evaluations: Vec<Evaluation> = at_each.collect::<Result<_, _>>()?;
        let busiest = self.costs.iter().zip(&evaluations);
        let busiest: Option<Vec<Nanos>> = busiest.map(|(c, one)| self.busiest(c, one)).collect();
        let (costs, one) = (&self.costs[0], &evaluations[0]);
        let bill = evaluate::bill(costs, one).context("what a month costs is not known")?;
        let traffic =
            costs.workload().and_then(|w| traffic_per_month(w, one.bytes, self.study.link.traffic));
        let traffic = traffic.context("how many frames a month has is not known")?;
        let rents = evaluate::rents(costs, one).unwrap_or_default();
        let [network, board, instance] = self.position;
        let source = DeviceId::SOURCE;
        let on_board = layers(&self.dag, |at| mapping.0[at] == source);
        let all = layers(&self.dag, |_| true);
        let option = |id: DeviceId| {
            let option = &costs.device(id).options[setting.engines[id.index()]];
            mapping.0.contains(&id).then_some(option.origin)
        };
        let input = crossing.input.then(|| costs.inputs()[setting.input].name.clone());
        let codec =
            crossing.coded.then(|| costs.codecs()[setting.codecs[source.index()]].name.clone());
        let sent = one.parts.iter().filter(|part| part.kind == PartKind::Send);
        let energies = one.energy.as_ref();
        let [board_name, instance_name] = [0, 1].map(|at| costs.devices()[at].name.as_str());
        let coding = input.iter().map(|input| format!(", input as {input}"));
        let coding: String = coding
            .chain(codec.iter().filter(|name| *name != TENSOR).map(|codec| format!(", {codec}")))
            .collect();
        let label = match crossing.kind {
            Kind::Edge => format!("all on {board_name}"),
            Kind::Cloud => format!("all on {instance_name}{coding}"),
            Kind::Split => {
                format!("{board_name} {on_board} → {instance_name} {}{coding}", all - on_board)
            }
        };
        Ok(Plan {
            label,
            kind: crossing.kind.name(),
            network,
            board,
            instance: (crossing.kind != Kind::Edge).then_some(instance),
            layers_on_board: on_board,
            crosses: crossing.names,
            input_encoding: input,
            cut_encoding: codec,
            upload_bytes: sent.map(|part| part.bytes).sum(),
            origins: [option(source), costs.device_ids().nth(1).and_then(option)],
            edge_compute_ns: one.edge_compute(),
            cloud_compute_ns: one.cloud_compute(),
            latency_ns: evaluations.iter().map(|one| one.latency).collect(),
            upload_ns: evaluations.iter().map(Evaluation::upload).collect(),
            rest_ns: evaluations.iter().map(Evaluation::rest).collect(),
            busiest_ns: busiest.context("how long a frame keeps the board is not known")?,
            energy_nj: energies.map(|uses| uses.iter().map(|used| used.energy).sum()),
            instances: rents.iter().map(|rented| rented.instances).sum(),
            rent: bill.rent,
            purchase: bill.purchase,
            electricity: bill.electricity,
            traffic,
            money: [bill.rent, bill.purchase, bill.electricity, traffic].into_iter().sum::<Money>(),
        })
    }
}

/// What of a mapping travels.
struct Crossing {
    kind: Kind,
    names: Vec<String>,
    /// Whether the network's input is among it.
    input: bool,
    /// Whether anything else is.
    coded: bool,
}

impl Crossing {
    fn of(dag: &Dag, mapping: &Mapping) -> Self {
        let before: Vec<bool> = mapping.0.iter().map(|&id| id == DeviceId::SOURCE).collect();
        let kind = match (before.contains(&true), before.contains(&false)) {
            (_, false) => Kind::Edge,
            (false, true) => Kind::Cloud,
            (true, true) => Kind::Split,
        };
        let flows: Vec<_> = match kind {
            Kind::Edge => Vec::new(),
            _ => Cut::after(dag, before).flows.into_iter().map(|flow| dag.flow(flow)).collect(),
        };
        Self {
            kind,
            names: flows.iter().map(|flow| flow.name.clone()).collect(),
            input: flows.iter().any(|flow| flow.from.is_none()),
            coded: flows.iter().any(|flow| flow.from.is_some()),
        }
    }
}

/// Encodings that lose nothing and those that are allowed besides, as far as they are known here.
fn allowed<'n>(
    named: &[String],
    lossless: &[&str],
    known: impl Iterator<Item = &'n str> + Clone,
    missing: &mut Vec<String>,
) -> Vec<String> {
    let is_known = |name: &str| known.clone().any(|known| known == name);
    missing.extend(named.iter().filter(|name| !is_known(name)).cloned());
    let is_allowed =
        |name: &&str| lossless.contains(name) || named.iter().any(|allowed| allowed == name);
    known.filter(is_allowed).map(str::to_owned).collect()
}

/// The fastest allowed baseline of a kind.
fn fastest<'a>(answer: &'a Answer, kind: &str) -> Option<&'a Choice> {
    let baselines = answer.baselines.iter();
    let allowed = baselines.filter(|baseline| baseline.allowed && baseline.name.starts_with(kind));
    let choices = allowed.filter_map(|baseline| baseline.outcome.as_ref().ok());
    choices.min_by_key(|choice| choice.evaluation.latency)
}

/// What cannot be run, and why.
fn refused(answer: &Answer) -> Vec<String> {
    let baselines = answer.baselines.iter().filter(|baseline| baseline.allowed);
    let whys = baselines.filter_map(|baseline| {
        let why = baseline.outcome.as_ref().err()?;
        Some(format!("{}: {why}", baseline.name))
    });
    let split = answer.best_split.as_ref().err().map(|why| format!("split: {why}"));
    whys.chain(split).collect()
}
