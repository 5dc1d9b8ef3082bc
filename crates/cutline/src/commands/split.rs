//! `cutline split`: the parts of a network as deployable packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use anyhow::{Context, bail};
use cutline_core::{
    autodice::{self, MappingFile},
    cut,
    graph::ValueId,
    package, partition,
    plan::{LayerMap, ModelRef, Plan},
    platform::Platform,
    split::{self, StageLabel, SubModel},
    units::Bytes,
};
use cutline_runtime::{files, model::Model};
use serde::Serialize;

use crate::{
    inputs::{ModelArgs, PictureArgs, file_name},
    output::{Output, table},
    planning, staging,
};

/// Write the parts of a network as ONNX files in a Triton model repository.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline split alexnet.onnx --at pool5 -o parts\n  cutline split net.onnx --at a,b --at c -o parts    # three parts; the first cut crosses two values\n  cutline split net.onnx --at a --platform platform.toml -o parts    # and a plan that `run` takes\n  cutline split net.onnx --plan plan.json -o parts\n  cutline split net.onnx --mapping autodice.json -o parts"
)]
#[command(group(clap::ArgGroup::new("where").required(true).args(["plan", "at", "mapping"])))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Split as this plan says (its best plan).
    #[arg(long, value_name = "plan.json")]
    plan: Option<PathBuf>,
    /// Cut at these values; once per cut, commas join the values of one cut.
    #[arg(long, value_name = "VALUE[,VALUE]...", value_delimiter = None)]
    at: Vec<String>,
    /// With --at: the devices that the parts are for, in this file's order; `plan.json` then is a
    /// plan that `run` and `bench` take.
    #[arg(long, value_name = "T.toml", requires = "at")]
    platform: Option<PathBuf>,
    #[command(flatten)]
    picture: PictureArgs,
    /// Split as this mapping file of AutoDiCE says.
    #[arg(long, value_name = "autodice.json")]
    mapping: Option<PathBuf>,
    /// With --mapping: the hosts that it may use, a platform file of AutoDiCE.
    #[arg(long, value_name = "FILE", requires = "mapping")]
    autodice_platform: Option<PathBuf>,
    /// With --plan: the best plan that uses both devices, even where not splitting is better.
    #[arg(long, requires = "plan")]
    best_split: bool,
    /// Folder to write; it must not exist, or be one that this command wrote.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Report {
    folder: PathBuf,
    parts: Vec<PartRow>,
}

#[derive(Serialize)]
struct PartRow {
    name: String,
    layers: usize,
    bytes: u64,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

/// `plan.json` of a split at named values without devices, or by a mapping file: what was cut.
#[derive(Serialize)]
struct ManualSplit<'a> {
    version: u32,
    model: ModelName<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cuts: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mapping: Option<LayerMap>,
    parts: &'a [PartRow],
}

#[derive(Serialize)]
struct ModelName<'a> {
    name: String,
    sha256: &'a str,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if args.picture.preprocess.is_some() && args.platform.is_none() {
        bail!("--preprocess becomes part of a plan; it goes with --platform");
    }
    let model = args.model.open()?;
    let Placement { stage_of, labels, plan } = match (&args.plan, &args.mapping, &args.platform) {
        (Some(path), ..) => planned(&model, planning::read_plan(path, &model)?, args.best_split)?,
        (None, Some(path), _) => mapped(&model, path, args.autodice_platform.as_deref())?,
        (None, None, Some(platform)) => {
            let plan = plan_by_hand(&model, &args, &planning::read_platform(platform)?)?;
            planned(&model, plan, false)?
        }
        (None, None, None) => manual(&model, &args.at)?,
    };
    let parts = split::split(&model.proto, &model.graph, &stage_of, &labels)?;
    let rows = part_rows(&model, &parts);
    let packages = package::packages(&model.graph, &parts)?;
    let assembly = thread::scope(|scope| {
        // The plan names the model by its hash, which takes as long as writing the parts.
        scope.spawn(|| model.sha256());
        files::assemble(&args.output, &packages, &model)
    })?;
    let plan = match plan {
        Decision::Plan(plan) => plan,
        Decision::Cuts(cuts) => manual_plan(&model, cuts, None, &rows)?,
        Decision::Mapping(mapping) => manual_plan(&model, Vec::new(), Some(mapping), &rows)?,
    };
    model.check_unchanged()?;
    assembly.finish(&plan)?;

    let report = Report { folder: args.output, parts: rows };
    output.print(&report, |out| {
        let rows = report.parts.iter().map(|part| {
            [
                part.name.clone(),
                part.layers.to_string(),
                Bytes(part.bytes).to_string(),
                part.inputs.join(", "),
                part.outputs.join(", "),
            ]
        });
        writeln!(out, "{}", table(["part", "layers", "size", "reads", "makes"], rows))?;
        writeln!(out, "\nwrote {}; check it with `cutline verify`", report.folder.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where every layer goes, and what that rests on.
struct Placement {
    /// By layer; `None`: wherever it is needed.
    stage_of: Vec<Option<u32>>,
    labels: Vec<StageLabel>,
    plan: Decision,
}

enum Decision {
    Plan(Vec<u8>),
    Cuts(Vec<Vec<String>>),
    Mapping(LayerMap),
}

fn planned(model: &Model, plan: Plan, best_split: bool) -> anyhow::Result<Placement> {
    let choice = planning::choice(&plan, best_split)?;
    let stage_of = staging::stages_of_layers(model, &plan, choice)?;
    let labels = staging::labels(&plan, choice);
    Ok(Placement { stage_of, labels, plan: Decision::Plan(serde_json::to_vec_pretty(&plan)?) })
}

/// The first part on the first device of the platform, the next on the next.
fn plan_by_hand(model: &Model, args: &Args, platform: &Platform) -> anyhow::Result<Plan> {
    let cuts = cuts_of(&args.at);
    let stage_of = cut::stages_at(&model.graph, &cuts)?;
    let devices = platform.devices();
    if devices.len() <= cuts.len() {
        bail!(
            "{} parts need as many devices, and the platform has {}; give fewer --at, or more devices",
            cuts.len() + 1,
            devices.len()
        );
    }
    let placed = model.graph.layers().iter().zip(stage_of);
    let mapping = placed.filter_map(|(layer, stage)| {
        stage.map(|stage| (layer.name.clone(), devices[stage as usize].name.clone()))
    });
    let picture = args.picture.spec_if_picture(&model.graph)?;
    let name = ModelRef { name: file_name(&model.path), sha256: model.sha256()?.to_owned() };
    let reason = format!("cut by hand at {}; compared with nothing", args.at.join(" and "));
    let (dag, mapping) = (&model.grouping.dag, LayerMap(mapping.collect()));
    Plan::by_hand(name, dag, platform, mapping, picture, reason).context(
        "these parts cannot be a plan; `cutline inspect` lists cuts between what engines run as one",
    )
}

fn manual(model: &Model, at: &[String]) -> anyhow::Result<Placement> {
    let cuts = cuts_of(at);
    let stage_of = cut::stages_at(&model.graph, &cuts)?;
    let labels = (0..=cuts.len()).map(|_| StageLabel::new("part")).collect();
    Ok(Placement { stage_of, labels, plan: Decision::Cuts(cuts) })
}

/// Stages of a mapping file: one for each resource, or several for one that is visited again.
fn mapped(model: &Model, path: &Path, hosts: Option<&Path>) -> anyhow::Result<Placement> {
    let context = || format!("cannot use mapping `{}`", path.display());
    let file = MappingFile::parse(&read(path)?).with_context(context)?;
    if let Some(hosts) = hosts {
        let listed = autodice::parse_hosts(&read(hosts)?)
            .with_context(|| format!("cannot use platform `{}`", hosts.display()))?;
        autodice::check_hosts(&file, &listed).with_context(context)?;
    }
    let imported = autodice::import(&model.graph, &model.grouping, &file).with_context(context)?;
    let mapping = imported.onto(&imported.platform().with_context(context)?)?;
    let partition = partition::derive(&model.grouping.dag, &mapping);
    let name = |device: usize| imported.resources[device].name.clone();
    let mut stage_of_group = vec![0; mapping.0.len()];
    for (position, stage) in (0u32..).zip(&partition.stages) {
        for group in &stage.groups {
            stage_of_group[group.index()] = position;
        }
    }
    let groups = model.grouping.group_of.iter();
    let stage_of = groups.clone().map(|group| group.map(|id| stage_of_group[id.index()]));
    let places = model.graph.layers().iter().zip(groups).filter_map(|(layer, group)| {
        Some((layer.name.clone(), name(mapping.device((*group)?).index())))
    });
    Ok(Placement {
        stage_of: stage_of.collect(),
        labels: partition.stages.iter().map(|s| StageLabel::new(name(s.device.index()))).collect(),
        plan: Decision::Mapping(LayerMap(places.collect())),
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn manual_plan(
    model: &Model,
    cuts: Vec<Vec<String>>,
    mapping: Option<LayerMap>,
    parts: &[PartRow],
) -> anyhow::Result<Vec<u8>> {
    let name = file_name(&model.path);
    let model = ModelName { name, sha256: model.sha256()? };
    let plan = ManualSplit { version: 1, model, cuts, mapping, parts };
    Ok(serde_json::to_vec_pretty(&plan)?)
}

fn cuts_of(at: &[String]) -> Vec<Vec<String>> {
    at.iter().map(|cut| cut.split(',').map(|value| value.trim().to_owned()).collect()).collect()
}

fn part_rows(model: &Model, parts: &[SubModel]) -> Vec<PartRow> {
    let names =
        |ids: &[ValueId]| ids.iter().map(|&id| model.graph.value(id).name.clone()).collect();
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| PartRow {
            name: package::package_name(index, &part.name),
            layers: part.layers.len(),
            bytes: part.files().bytes(),
            inputs: names(&part.inputs),
            outputs: names(&part.outputs),
        })
        .collect()
}
