//! From a workload file to the cheapest deployments: every network on every board, link and instance.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use cutline_core::{
    cost::{
        Costs, Origin, TENSOR,
        table::{self, CostsFile},
    },
    cut::Cut,
    dag::Dag,
    graph::Graph,
    group::group,
    hex::hex,
    onnx::{self, ImportOptions},
    partition::Mapping,
    platform::{DeviceId, Platform},
    preset::{self, Presets},
    size::{self, Allowed, Candidate, Check, Deployment, Kind, Limit, Replay, frames_per_month},
    units::{Bytes, Money, Nanojoules},
    zoo,
};
use cutline_runtime::model::Model;
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    output::Output,
    planning::{costs_for, read_json},
};

mod accuracy;
mod replay;
mod report;
pub(crate) mod workload;

pub(crate) use report::{Report, Row};
pub(crate) use workload::Workload;
use workload::{Network, Source};

/// Most combinations of network, board, instance and link.
const MOST_COMBINATIONS: usize = 10_000;

/// A network as it was read.
struct Loaded {
    form: Form,
    allowed: Allowed,
}

/// What is known of a network.
pub(crate) enum Form {
    Graph { dag: Box<Dag>, graph: Box<Graph>, sha256: String },
    Table(Box<CostsFile>),
}

/// Positions in the workload; an edge-only combination has no instance and no link.
#[derive(Clone, Copy, Debug)]
struct Combination {
    network: usize,
    board: usize,
    cloud: Option<(usize, usize)>,
}

/// A plan, as far as it is kept for every candidate.
struct Kept {
    combination: usize,
    kind: Kind,
    mapping: Mapping,
    setting: cutline_core::evaluate::Setting,
}

/// The cheapest deployments for the workload in a file.
pub(crate) fn size(
    file: &Path,
    count: usize,
    check: &Check,
    output: &Output,
) -> anyhow::Result<Report> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read workload `{}`", file.display()))?;
    let context = || format!("cannot use workload `{}`", file.display());
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let workload = Workload::parse(&text, &folder).with_context(context)?;
    let sizing = Sizing::open(workload, folder).with_context(context)?;
    sizing.run(count, check, output).with_context(context)
}

/// A workload with its networks.
struct Sizing {
    workload: Workload,
    folder: PathBuf,
    /// By position in the workload; `None` where a network is not accurate enough.
    networks: Vec<Option<Loaded>>,
    /// What each link replays.
    replays: Vec<Option<Arc<Replay>>>,
    left_out: Vec<String>,
}

impl Sizing {
    fn open(workload: Workload, folder: PathBuf) -> anyhow::Result<Self> {
        let (mut networks, mut left_out) = (Vec::new(), Vec::new());
        for network in &workload.networks {
            let allowed = allowed(&workload, network, &mut left_out);
            let loaded = allowed.map(|allowed| -> anyhow::Result<Loaded> {
                let form = load(&network.source);
                let form = form.with_context(|| format!("[[network]] `{}`", network.name))?;
                Ok(Loaded { form, allowed })
            });
            networks.push(loaded.transpose()?);
        }
        let replays = workload.links.iter().map(|link| replay::read(link, &folder));
        let replays = replays.collect::<anyhow::Result<_>>()?;
        Ok(Self { workload, folder, networks, replays, left_out })
    }

    fn run(mut self, count: usize, check: &Check, output: &Output) -> anyhow::Result<Report> {
        let combinations = self.combinations()?;
        let (mut candidates, mut kept) = (Vec::new(), Vec::new());
        let mut memory: Option<(usize, Limit)> = None;
        let bar = output.progress("plans", combinations.len() as u64);
        for (at, &combination) in combinations.iter().enumerate() {
            let Some(loaded) = &self.networks[combination.network] else { continue };
            let (dag, costs) = self.problem(combination)?;
            let kinds = loaded.allowed.kinds.iter().copied();
            let kinds = kinds.filter(|&kind| (kind == Kind::Edge) == combination.cloud.is_none());
            let allowed = Allowed { kinds: kinds.collect(), ..loaded.allowed.clone() };
            let (plans, limits) = size::plans(&dag, &costs, &allowed);
            let traffic = combination
                .cloud
                .map_or(Money::ZERO, |(_, link)| self.workload.links[link].traffic);
            let replay = combination.cloud.and_then(|(_, link)| self.replays[link].clone());
            let mut found = Vec::new();
            for plan in plans {
                let candidate = Candidate::of(&costs, &plan.evaluation, at, traffic);
                let candidate = candidate.context("what a month costs is not known")?;
                let candidate = Candidate { replay: replay.clone(), ..candidate };
                let (kind, mapping, setting) = (plan.kind, plan.mapping, plan.setting);
                found.push((candidate, Kept { combination: at, kind, mapping, setting }));
            }
            for (candidate, plan) in size::undominated(found) {
                candidates.push(candidate);
                kept.push(plan);
            }
            for limit in limits {
                let nearer = memory
                    .as_ref()
                    .is_none_or(|(_, known)| limit.excess_ppm() < known.excess_ppm());
                if nearer {
                    memory = Some((at, limit));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let demand = &self.workload.demand;
        let answer = size::deployments(demand, &candidates, count, check, &mut || false)?;
        let mut rows = Vec::new();
        for deployment in &answer.deployments {
            let plan = &kept[deployment.candidate];
            rows.push(self.row(combinations[plan.combination], plan, deployment)?);
        }
        let mut missed: Vec<(usize, Limit)> = answer
            .misses
            .into_iter()
            .map(|miss| (kept[miss.candidate].combination, miss.limit))
            .collect();
        missed.extend(memory);
        missed.sort_by_key(|(_, limit)| limit.excess_ppm());
        let missed = missed
            .into_iter()
            .map(|(at, limit)| report::Missed::new(self.place(combinations[at]), &limit));
        Ok(Report {
            cameras: demand.cameras,
            deadline_ns: demand.deadline,
            percentile_ppm: demand.percentile_ppm,
            headroom_ppm: demand.headroom_ppm,
            currency: self.currency(),
            missed: missed.collect(),
            deployments: rows,
            left_out: std::mem::take(&mut self.left_out),
            combinations: combinations.len(),
            candidates: candidates.len(),
            predicted: answer.predicted,
            simulated: answer.simulated,
            seed: check.seed,
        })
    }

    fn combinations(&self) -> anyhow::Result<Vec<Combination>> {
        let Workload { networks, boards, instances, links, .. } = &self.workload;
        let pairs = (0..instances.len()).flat_map(|i| (0..links.len()).map(move |l| Some((i, l))));
        let clouds: Vec<Option<(usize, usize)>> = [None].into_iter().chain(pairs).collect();
        let count = networks.len() * boards.len() * clouds.len();
        if count > MOST_COMBINATIONS {
            bail!(
                "{count} combinations of network, board, instance and link; {MOST_COMBINATIONS} are the most"
            );
        }
        let wants = |cloud: &&Option<(usize, usize)>| match cloud {
            None => self.workload.kinds.contains(&Kind::Edge),
            Some(_) => self.workload.kinds.iter().any(|&kind| kind != Kind::Edge),
        };
        let mut combinations = Vec::new();
        for network in (0..networks.len()).filter(|&at| self.networks[at].is_some()) {
            for board in 0..boards.len() {
                for &cloud in clouds.iter().filter(wants) {
                    combinations.push(Combination { network, board, cloud });
                }
            }
        }
        Ok(combinations)
    }

    /// The costs of a network on a combination's devices.
    fn problem(&self, combination: Combination) -> anyhow::Result<(Dag, Costs)> {
        let Combination { network, board, cloud } = combination;
        let workload = &self.workload;
        let mut devices = vec![workload.boards[board].table.clone()];
        let mut links = Vec::new();
        if let Some((instance, link)) = cloud {
            let (board, instance) = (&workload.boards[board], &workload.instances[instance]);
            if board.name == instance.name {
                bail!(
                    "a [[board]] and an [[instance]] are both `{}`; give one a `name`",
                    board.name
                );
            }
            devices.push(instance.table.clone());
            let mut link = workload.links[link].table.clone();
            link["between"] = json!([board.name, instance.name]);
            links.push(link);
        }
        let file = json!({
            "version": 1, "device": devices, "link": links, "workload": workload.platform
        });
        let loaded = self.networks[network].as_ref().context("the network was left out")?;
        let (dag, mut costs) = costs_on(&loaded.form, file, &self.folder)?;
        if let Some((instance, _)) = cloud
            && costs.devices().iter().skip(1).any(|device| device.price.rent.is_none())
        {
            bail!(
                "[[instance]] `{}`: no `rent` is known; give it",
                workload.instances[instance].name
            );
        }
        if workload.include_idle {
            costs.count_idle(&dag)?;
        }
        Ok((dag, costs))
    }

    fn place(&self, combination: Combination) -> report::Place {
        let Combination { network, board, cloud } = combination;
        report::Place {
            network: self.workload.networks[network].name.clone(),
            board: self.workload.boards[board].name.clone(),
            instance: cloud.map(|(at, _)| self.workload.instances[at].name.clone()),
            link: cloud.map(|(_, at)| self.workload.links[at].name.clone()),
        }
    }

    fn row(
        &self,
        combination: Combination,
        plan: &Kept,
        deployment: &Deployment,
    ) -> anyhow::Result<Row> {
        let (dag, costs) = self.problem(combination)?;
        let evaluation =
            cutline_core::evaluate::evaluate(&dag, &costs, &plan.mapping, &plan.setting)?;
        let before = plan.mapping.0.iter().map(|&device| device == DeviceId::SOURCE);
        let cut = match plan.kind {
            Kind::Edge => Vec::new(),
            _ => Cut::after(&dag, before.collect()).flows,
        };
        let crossing = cut.iter().map(|&flow| dag.flow(flow));
        let input = crossing.clone().any(|flow| flow.from.is_none());
        let coded = crossing.clone().any(|flow| flow.from.is_some());
        let source = DeviceId::SOURCE.index();
        let codec = &costs.codecs()[plan.setting.codecs[source]].name;
        let mut engines = BTreeMap::new();
        for device in costs.device_ids().filter(|id| plan.mapping.0.contains(id)) {
            let option = &costs.device(device).options[plan.setting.engines[device.index()]];
            engines.insert(
                costs.device(device).name.clone(),
                report::Engine {
                    engine: option.engine.clone(),
                    threads: option.threads,
                    origin: option.origin,
                    energy_origin: costs.device(device).energy_origin,
                },
            );
        }
        let energies = evaluation.energy.as_ref().map(|uses| {
            let name = |id| costs.device(id).name.clone();
            uses.iter().map(|used| (name(used.device), used.energy)).collect::<BTreeMap<_, _>>()
        });
        let frames = costs.workload().and_then(frames_per_month).unwrap_or_default();
        let rent = cloud_rent(&costs) * deployment.instances;
        Ok(Row {
            place: self.place(combination),
            plan: plan.kind.name(),
            crosses: crossing.map(|flow| flow.name.clone()).collect(),
            upload: evaluation
                .parts
                .iter()
                .filter(|part| part.kind == cutline_core::evaluate::PartKind::Send)
                .map(|part| part.bytes)
                .sum::<Bytes>(),
            input_encoding: input.then(|| costs.inputs()[plan.setting.input].name.clone()),
            cut_encoding: coded.then(|| codec.clone()),
            engines,
            cost: deployment.cost,
            rent,
            energy_wh_per_month: energies.as_ref().map(|energies| {
                report::watt_hours(energies.values().copied().sum::<Nanojoules>(), frames)
            }),
            energy_nj_per_frame: energies,
            found: deployment.into(),
        })
    }

    fn currency(&self) -> String {
        match self.workload.platform["currency"].as_str() {
            Some("") | None => Presets::builtin().currency,
            Some(currency) => currency.to_owned(),
        }
    }
}

/// The costs of a network on a platform that is given as the tables of its file; presets fill in what
/// it leaves out, and files that it names are relative to `folder`.
pub(crate) fn costs_on(
    form: &Form,
    platform: serde_json::Value,
    folder: &Path,
) -> anyhow::Result<(Dag, Costs)> {
    let platform: Platform = serde_json::from_value(platform)?;
    let platform = preset::apply(&Presets::builtin(), platform)?;
    match form {
        Form::Table(file) => Ok(table::read(file, &platform, &vec![None; platform.links().len()])?),
        Form::Graph { dag, graph, sha256 } => {
            let costs = costs_for((dag.as_ref(), graph.as_ref()), sha256, &platform, folder)?;
            Ok((dag.as_ref().clone(), costs))
        }
    }
}

fn cloud_rent(costs: &Costs) -> Money {
    costs.devices().get(1).and_then(|device| device.price.rent).unwrap_or_default()
}

/// What is allowed of a network that is accurate enough; lossy encodings only if they leave it so.
fn allowed(workload: &Workload, network: &Network, left_out: &mut Vec<String>) -> Option<Allowed> {
    let percent = |ppm: u32| format!("{} %", f64::from(ppm) / 1e4);
    let (mut inputs, mut codecs) = (network.inputs.clone(), network.codecs.clone());
    if let (Some(floor), Some(own)) = (workload.accuracy_ppm, network.accuracy_ppm) {
        let name = &network.name;
        if own < floor {
            let (own, floor) = (percent(own), percent(floor));
            left_out.push(format!("`{name}`: its accuracy is {own}, below {floor}"));
            return None;
        }
        let lossy = network.lossy_accuracy_ppm;
        if (inputs.is_some() || codecs.is_some()) && lossy.is_none_or(|lossy| lossy < floor) {
            let why = match lossy {
                Some(lossy) => format!("its `lossy_accuracy` is {}", percent(lossy)),
                None => "its `lossy_accuracy` is not given".to_owned(),
            };
            left_out.push(format!(
                "`{name}` with lossy encodings: {why}, {} is asked for",
                percent(floor)
            ));
            (inputs, codecs) = (None, None);
        }
    }
    // Naming a lossy encoding adds it to those that lose nothing.
    let with = |names: Option<Vec<String>>, lossless: &[&str]| {
        names.map(|mut names| {
            names.extend(lossless.iter().map(|&name| name.to_owned()));
            names
        })
    };
    let inputs = with(inputs, &[TENSOR, cutline_core::cost::PIXELS]);
    Some(Allowed { kinds: workload.kinds.clone(), inputs, codecs: with(codecs, &[TENSOR]) })
}

/// Reads a network.
pub(crate) fn load(source: &Source) -> anyhow::Result<Form> {
    match source {
        Source::Costs(path) => Ok(Form::Table(Box::new(read_json(path)?))),
        Source::Model(path) => load_model(path, &ImportOptions::default()),
        Source::Zoo { name, input_size } => {
            let outline = zoo::outline(name, *input_size)?;
            let sha256 = hex(&Sha256::digest(outline.encode_to_vec()));
            let graph = onnx::import(&outline, &ImportOptions::default())?;
            let dag = Box::new(group(&graph).dag);
            Ok(Form::Graph { dag, graph: Box::new(graph), sha256 })
        }
    }
}

/// Reads an ONNX file whose inputs have these shapes where it leaves them open.
pub(crate) fn load_model(path: &Path, options: &ImportOptions) -> anyhow::Result<Form> {
    let model = Model::open(path, options)
        .with_context(|| format!("cannot use model `{}`", path.display()))?;
    let sha256 = model.sha256()?.to_owned();
    let (dag, graph) = (Box::new(model.grouping.dag), Box::new(model.graph));
    Ok(Form::Graph { dag, graph, sha256 })
}

/// Whether a device's times were measured on it.
pub(crate) fn is_modelled(origin: Origin) -> bool {
    origin == Origin::Preset
}
