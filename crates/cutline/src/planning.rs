//! From files to a planning problem: platform, profiles, link tables, costs.

use std::{fs, path::Path};

use anyhow::Context;
use cutline_core::{
    cost::{Costs, EnergyOrigin, Origin, TENSOR},
    dag::Dag,
    graph::Graph,
    picture::{InputEncoding, Recipe},
    plan::{Figures, Plan, PlannedChoice, Refinement},
    planner::{Objective, Proof},
    platform::Platform,
    preset::{self, Presets},
    profile::{LinkTable, Profile},
    tensor::DType,
    units::{Bytes, Nanojoules, Nanos},
};
use cutline_runtime::model::Model;
use serde::de::DeserializeOwned;

use crate::output::table;

pub(crate) mod agreeing;
pub(crate) mod by_hand;
mod problem;
pub(crate) mod sweep;

pub(crate) use problem::{Problem, ProblemArgs};

/// A platform file, completed by the presets that it names.
pub(crate) fn read_platform(path: &Path) -> anyhow::Result<Platform> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read platform `{}`", path.display()))?;
    let context = || format!("in platform `{}`", path.display());
    let platform: Platform = toml::from_str(&text).with_context(context)?;
    preset::apply(&Presets::builtin(), platform).with_context(context)
}

/// The cost table of a model on a platform, from the profiles and link tables that it names, and
/// from the presets of devices without a profile.
pub(crate) fn costs_of(model: &Model, platform: &Platform, folder: &Path) -> anyhow::Result<Costs> {
    let dag = &model.grouping.dag;
    costs_for((dag, &model.graph), model.sha256()?, platform, folder)
}

/// The same of a network whose file has this hash.
pub(crate) fn costs_for(
    (dag, graph): (&Dag, &Graph),
    sha256: &str,
    platform: &Platform,
    folder: &Path,
) -> anyhow::Result<Costs> {
    Measured::read(platform, folder)?.costs((dag, graph), sha256, platform)
}

/// The files of measurements that a platform names.
pub(crate) struct Measured {
    /// By device.
    pub(crate) profiles: Vec<Vec<Profile>>,
    /// By link.
    pub(crate) tables: Vec<Option<LinkTable>>,
}

impl Measured {
    /// Reads them; relative paths start at `folder`.
    pub(crate) fn read(platform: &Platform, folder: &Path) -> anyhow::Result<Self> {
        let mut profiles: Vec<Vec<Profile>> = Vec::new();
        for device in platform.devices() {
            let read = device.profiles.iter().map(|file| read_json(&folder.join(file)));
            profiles.push(read.collect::<Result<_, _>>()?);
        }
        let table =
            |file: Option<&String>| file.map(|file| read_json(&folder.join(file))).transpose();
        let tables = platform.links().iter().map(|link| table(link.table.as_ref()));
        Ok(Self { profiles, tables: tables.collect::<Result<_, _>>()? })
    }

    /// The cost table of a network from them.
    pub(crate) fn costs(
        &self,
        (dag, graph): (&Dag, &Graph),
        sha256: &str,
        platform: &Platform,
    ) -> anyhow::Result<Costs> {
        let Self { profiles, tables } = self;
        let mut costs = Costs::from_profiles(dag, sha256, platform, profiles, tables)?;
        if let (Some([]), Some(pixels)) = (profiles.first().map(Vec::as_slice), pixels(graph)) {
            costs.offer_pixels(pixels);
        }
        Ok(costs)
    }
}

/// Bytes of the picture that a network reads, at 8 bits a channel, if its one input looks like one.
pub(crate) fn pixels(graph: &Graph) -> Option<Bytes> {
    let [input] = graph.inputs() else { return None };
    let value = graph.value(*input);
    let dtype = value.dtype.filter(|&dtype| dtype == DType::F32)?;
    let picture = Recipe::default().for_input(dtype, value.shape.as_ref()?).ok()?;
    Some(Bytes(picture.pixel_bytes() as u64))
}

/// A plan file, checked against its model.
pub(crate) fn read_plan(path: &Path, model: &Model) -> anyhow::Result<Plan> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read plan `{}`", path.display()))?;
    Plan::open(&text, &model.grouping.dag, model.sha256()?)
        .with_context(|| format!("cannot use plan `{}`", path.display()))
}

/// The choice of a plan that a command works on.
pub(crate) fn choice(plan: &Plan, best_split: bool) -> anyhow::Result<&PlannedChoice> {
    let (choice, what) = match best_split {
        true => (&plan.best_split, "split"),
        false => (&plan.best, "plan"),
    };
    choice
        .as_ref()
        .with_context(|| format!("the file holds no {what} that can be run: {}", plan.reason))
}

/// Reads a JSON file of ours.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("cannot use `{}`", path.display()))
}

/// The alternatives, the best plan and the best split as a table for people.
pub(crate) fn write_plan(
    plan: &Plan,
    dag: &Dag,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    let mut rows: Vec<[String; 7]> = Vec::new();
    for baseline in &plan.baselines {
        let mark = if baseline.lossy { " (lossy)" } else { "" };
        let name = format!("{}{mark}", baseline.name);
        match (&baseline.choice, &baseline.infeasible) {
            (Some(choice), _) => rows.push(row(name, choice.predicted.as_ref(), choice)),
            (None, reason) => {
                writeln!(
                    out,
                    "{name}: not possible: {}",
                    reason.as_deref().unwrap_or("no reason given")
                )?;
            }
        }
    }
    for (name, choice) in [("best plan", &plan.best), ("best split", &plan.best_split)] {
        if let Some(choice) = choice {
            let mark = if lossy_input(choice, dag).is_some() { " (lossy)" } else { "" };
            rows.push(row(format!("{name}{mark}"), choice.predicted.as_ref(), choice));
        }
    }
    let header = ["plan", "latency", "edge", "upload", "cloud", "rest", "input"];
    writeln!(out, "{}", table(header, rows))?;
    for (name, choice) in [("best plan", &plan.best), ("best split", &plan.best_split)] {
        let Some(choice) = choice else { continue };
        writeln!(out, "\n{name}: {}", describe(choice, dag, plan.objective))?;
        writeln!(out, "{}", quantities(choice, plan.frame_interval_ns))?;
        if let Some(agreement) = &choice.agreement {
            writeln!(out, "the same best class as the whole network: {}", agreement.share)?;
        }
    }
    writeln!(out, "\n{}", plan.reason)?;
    if let Some(refinement) = &plan.refinement {
        write_refinement(refinement, out)?;
    }
    let baselines = plan.baselines.iter().filter_map(|baseline| baseline.choice.as_ref());
    let mut choices = baselines.chain(&plan.best).chain(&plan.best_split);
    if choices.any(|choice| lossy_input(choice, dag).is_some()) {
        writeln!(
            out,
            "\nlossy: the answer may differ; `cutline verify MODEL DIR --input PICTURE --input-encoding jpeg` says by how much"
        )?;
    }
    Ok(())
}

fn write_refinement(refinement: &Refinement, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let rows = refinement.trials.iter().map(|trial| {
        [
            trial.round.to_string(),
            trial.plan.clone(),
            trial.predicted.latency_ns.to_string(),
            trial.measured.latency_ns.to_string(),
            format!("{:.1} %", trial.error_permille() as f64 / 10.0),
            trial.corrections.len().to_string(),
        ]
    });
    let header = ["round", "plan", "predicted", "measured", "off by", "corrections"];
    writeln!(out, "\n{}", table(header, rows))?;
    let verdict = match refinement.holds {
        true => {
            "the winner of the last round is the best by the corrected table, and its prediction holds"
        }
        false => "the prediction does not hold yet; allow more --rounds, or more --frames",
    };
    writeln!(out, "{} frames measured; {verdict}", refinement.frames)
}

/// Which devices' times were predicted, and how far such predictions are off.
pub(crate) fn write_predictions(
    costs: &Costs,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    for device in costs.devices() {
        for option in &device.options {
            if let Some(permille) = option.error_permille {
                let memory = option.memory_error_permille.map_or(String::new(), |permille| {
                    format!(", its memory too (median error {:.1} %)", permille as f64 / 10.0)
                });
                writeln!(
                    out,
                    "times on `{}` with {} are predicted from kernels (median error {:.1} %){memory}; measure them with `cutline profile` to be sure",
                    device.name,
                    option.engine,
                    permille as f64 / 10.0
                )?;
            }
        }
    }
    Ok(())
}

/// The encoding in which a choice sends the network's input, where that may change the answer. An
/// input that does not travel is never encoded.
pub(crate) fn lossy_input(choice: &PlannedChoice, dag: &Dag) -> Option<InputEncoding> {
    let encoding: InputEncoding = choice.input_encoding.parse().ok()?;
    let inputs = input_names(dag);
    let travels = choice.cut.iter().any(|value| inputs.contains(&value.name.as_str()));
    (travels && encoding.is_lossy()).then_some(encoding)
}

/// Names of the network's inputs.
fn input_names(dag: &Dag) -> Vec<&str> {
    let inputs = dag.flows().iter().filter(|flow| flow.from.is_none());
    inputs.map(|flow| flow.name.as_str()).collect()
}

fn row(name: String, figures: Option<&Figures>, choice: &PlannedChoice) -> [String; 7] {
    let time =
        |pick: fn(&Figures) -> Nanos| figures.map_or("?".to_owned(), |f| pick(f).to_string());
    [
        name,
        time(|f| f.latency_ns),
        time(|f| f.edge_compute_ns),
        time(|f| f.upload_ns),
        time(|f| f.cloud_compute_ns),
        time(|f| f.rest_ns),
        choice.input_encoding.clone(),
    ]
}

/// What a choice costs besides its latency, where frames come in an interval if idle power counts.
fn quantities(choice: &PlannedChoice, interval: Option<Nanos>) -> String {
    let mut parts = Vec::new();
    if let Some(figures) = &choice.predicted {
        parts.push(format!("a frame every {}", figures.period_ns));
    }
    let each = |amounts: Vec<(&String, String)>| {
        let amounts = amounts.iter().map(|(device, amount)| format!("{amount} on `{device}`"));
        amounts.collect::<Vec<_>>().join(", ")
    };
    if !choice.memory.is_empty() {
        let amounts = choice.memory.iter().map(|(d, bytes)| (d, bytes.to_string())).collect();
        parts.push(format!("memory {}", each(amounts)));
    }
    if !choice.energy_nj.is_empty() {
        let amount = |(device, energy): (_, &Nanojoules)| match choice.idle_nj.get(device) {
            Some(idle) => (device, format!("{energy} ({idle} of it idle)")),
            None => (device, energy.to_string()),
        };
        let origin = energy_origin(choice);
        let how = match interval {
            Some(interval) => format!("{origin}, idle power included, one every {interval}"),
            None => origin,
        };
        parts.push(format!(
            "energy of a frame ({how}) {}",
            each(choice.energy_nj.iter().map(amount).collect())
        ));
    }
    if let Some(money) = choice.money_per_month {
        parts.push(format!("{money} a month"));
    }
    parts.join("; ")
}

/// Whether energy is measured or modelled; where it is not the same everywhere, on which devices.
fn energy_origin(choice: &PlannedChoice) -> String {
    let of = |wanted: EnergyOrigin| -> Vec<String> {
        let devices = choice.energy_origin.iter().filter(|(_, origin)| **origin == wanted);
        devices.map(|(device, _)| format!("`{device}`")).collect()
    };
    let (measured, modelled) = (of(EnergyOrigin::Measured), of(EnergyOrigin::Modelled));
    match (measured.as_slice(), modelled.as_slice()) {
        ([], _) => "modelled".to_owned(),
        (_, []) => "measured".to_owned(),
        _ => format!("measured on {}, modelled on {}", measured.join(", "), modelled.join(", ")),
    }
}

/// A choice in one sentence: who computes what, what crosses, how sure it is.
pub(crate) fn describe(choice: &PlannedChoice, dag: &Dag, objective: Objective) -> String {
    let layers: usize = dag.groups().iter().map(|group| group.layers.len()).sum();
    let stages: Vec<String> = choice
        .stages
        .iter()
        .map(|stage| {
            let engine = if stage.engine.is_empty() { "its own engine" } else { &stage.engine };
            let estimated = match stage.origin {
                Some(Origin::Preset) => ", its time estimated by preset",
                Some(Origin::Predicted) => ", its time predicted from kernels",
                _ => "",
            };
            let sends = choice.stages.last().is_some_and(|last| last.device != stage.device);
            let travel = match stage.cut_encoding.as_str() {
                encoding if sends && encoding != TENSOR => {
                    format!(" that sends what crosses as {encoding}")
                }
                _ => String::new(),
            };
            let count = stage.layers.len();
            let beside = match &stage.joined_by {
                Some(joiner) => format!(" at the same time for `{joiner}`"),
                None => String::new(),
            };
            format!(
                "{count} of {layers} layers on `{}`{beside} with {engine}{estimated}{travel}",
                stage.device
            )
        })
        .collect();
    let inputs = input_names(dag);
    let crossing: Vec<String> = choice
        .cut
        .iter()
        .map(|value| match value.bytes {
            _ if inputs.contains(&value.name.as_str()) => {
                format!("the input `{}` as {}", value.name, choice.input_encoding)
            }
            Some(bytes) => format!("`{}` ({bytes})", value.name),
            None => format!("`{}`", value.name),
        })
        .collect();
    let crossing = if crossing.is_empty() { "nothing".to_owned() } else { crossing.join(", ") };
    let proof = match choice.proof {
        Some(Proof::Optimal) => "proven optimal by the table".to_owned(),
        Some(Proof::Within(gap)) => {
            format!("at most {} from the optimum of the table", objective.show(gap))
        }
        Some(Proof::Front(ppm)) => format!("on a front that is exact to {} %", ppm as f64 / 1e4),
        Some(Proof::Unproven) => "found by a search that did not come to its end".to_owned(),
        None => "not proven (edited by hand)".to_owned(),
    };
    format!("{}; {crossing} crosses; {proof}", stages.join(", "))
}
