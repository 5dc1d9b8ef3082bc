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
    codec::{CutCodecs, CutEncoding, Quantizations},
    cut, package, partition,
    plan::{Engines, LayerMap, ModelRef, Plan},
    split::{Format, Port, StageLabel, SubModel},
    units::Bytes,
};
use cutline_runtime::{
    engine::{self, LoadOptions},
    files,
    model::Model,
};
use serde::Serialize;

use crate::{
    gallery::{Cuts, Gallery},
    inputs::{ModelArgs, PictureArgs, file_name},
    output::{Output, table},
    planning, process, staging,
};

/// Write the parts of a network in a Triton model repository, as ONNX or TensorFlow Lite files.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline split alexnet.onnx --at pool5 -o parts\n  cutline split net.onnx --at a,b --at c -o parts    # three parts; the first cut crosses two values\n  cutline split net.onnx --at a --platform platform.toml -o parts    # and a plan that `run` takes\n  cutline split net.onnx --at a --codec fp16 -o parts    # what crosses travels as half floats\n  cutline split net.onnx --at a --codec uint8 --calibrate photos/ -o parts\n  cutline split net.onnx --plan plan.json -o parts\n  cutline split net.onnx --mapping autodice.json -o parts\n  cutline split net.tflite --at conv2 --format tflite -o parts    # operators are copied, nothing is converted"
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
    /// How the fp32 values at the cuts travel: fp32, fp16, or with --calibrate as bytes: uint8, or
    /// between agents in an entropy code: bits8, bits4, bits2 [default: with --plan as it says, else fp32].
    #[arg(long, value_name = "CODEC", conflicts_with = "plan")]
    codec: Option<CutEncoding>,
    /// Pictures (or .npy tensors) whose values give the range of what travels as bytes.
    #[arg(long, value_name = "DIR")]
    calibrate: Option<PathBuf>,
    /// What the parts are: onnx, or of a .tflite file tflite, which litert runs [default: with --plan
    /// what its engines take, else onnx].
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// With --calibrate: the engine that runs the network on them.
    #[arg(long, default_value = "rten", requires = "calibrate")]
    engine: String,
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
    format: Format,
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
    #[serde(flatten)]
    travel: Travel,
    parts: &'a [PartRow],
}

/// How the values at the cuts travel.
#[derive(Serialize)]
struct Travel {
    cut_encoding: CutEncoding,
    #[serde(skip_serializing_if = "Quantizations::is_empty")]
    quantizations: Quantizations,
}

#[derive(Serialize)]
struct ModelName<'a> {
    name: String,
    sha256: &'a str,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if args.picture.preprocess.is_some() && args.platform.is_none() && args.calibrate.is_none() {
        bail!("--preprocess says how pictures are read; it goes with --platform or --calibrate");
    }
    let model = args.model.open()?;
    let Placement { stage_of, labels, mut codecs, decision } =
        match (&args.plan, &args.mapping, &args.platform) {
            (Some(path), ..) => {
                planned(&model, planning::read_plan(path, &model)?, args.best_split)?
            }
            (None, Some(path), _) => mapped(&model, path, &args)?,
            (None, None, Some(platform)) => {
                planned(&model, plan_by_hand(&model, &args, platform, output)?, false)?
            }
            (None, None, None) => manual(&model, &args)?,
        };
    let format = args.format.or(planned_format(&decision, args.best_split)?).unwrap_or_default();
    model.check_format(format, &codecs)?;
    let cuts = Cuts { model: &model, stage_of: &stage_of, labels: &labels };
    codecs.quantizations = quantizations(&args, &cuts, &codecs, &decision, output)?;
    let parts = model.split(format, &stage_of, &labels, &codecs)?;
    let sent = || parts.iter().flat_map(|part| &part.outputs);
    if let Some(codec) = args.codec.filter(|codec| *codec != CutEncoding::Fp32)
        && sent().all(|port| port.encoding == CutEncoding::Fp32)
    {
        output.warning(format!(
            "--codec {codec} changes nothing: no value at these cuts is fp32; what is quantised crosses as its own bytes"
        ));
    }
    let rows = part_rows(&parts);
    let packages = package::packages(&parts)?;
    let assembly = thread::scope(|scope| {
        // The plan names the model by its hash, which takes as long as writing the parts.
        scope.spawn(|| model.sha256());
        files::assemble(&args.output, &packages, &model)
    })?;
    let encoding = args.codec.unwrap_or_default();
    let travel = Travel { cut_encoding: encoding, quantizations: codecs.quantizations.clone() };
    let plan = match decision {
        Decision::Plan(plan) => {
            let plan = quantised(*plan, args.best_split, &codecs)?;
            serde_json::to_vec_pretty(&plan)?
        }
        Decision::Cuts(cuts) => manual_plan(&model, (cuts, None), travel, &rows)?,
        Decision::Mapping(map) => manual_plan(&model, (Vec::new(), Some(map)), travel, &rows)?,
    };
    model.check_unchanged()?;
    assembly.finish(&plan)?;

    let report = Report { folder: args.output, format, parts: rows };
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
    /// How what each part sends on travels.
    codecs: CutCodecs,
    decision: Decision,
}

enum Decision {
    Plan(Box<Plan>),
    Cuts(Vec<Vec<String>>),
    Mapping(LayerMap),
}

/// What the engines of a plan take.
fn planned_format(decision: &Decision, best_split: bool) -> anyhow::Result<Option<Format>> {
    match decision {
        Decision::Plan(plan) => Ok(Some(staging::format(planning::choice(plan, best_split)?))),
        Decision::Cuts(_) | Decision::Mapping(_) => Ok(None),
    }
}

fn planned(model: &Model, plan: Plan, best_split: bool) -> anyhow::Result<Placement> {
    let choice = planning::choice(&plan, best_split)?;
    let stage_of = staging::stages_of_layers(model, &plan, choice)?;
    let labels = staging::labels(&plan, choice);
    let codecs = staging::codecs(choice)?;
    Ok(Placement { stage_of, labels, codecs, decision: Decision::Plan(Box::new(plan)) })
}

/// The same encoding for every cut.
fn same_codec(args: &Args, stages: usize) -> CutCodecs {
    let encoding = args.codec.unwrap_or_default();
    CutCodecs { stages: vec![encoding; stages], ..CutCodecs::default() }
}

/// Scales of what travels as bytes: from the pictures, or from the plan.
fn quantizations(
    args: &Args,
    cuts: &Cuts,
    codecs: &CutCodecs,
    decision: &Decision,
    output: &Output,
) -> anyhow::Result<Quantizations> {
    let planned = match decision {
        Decision::Plan(plan) => plan.picture.as_ref(),
        Decision::Cuts(_) | Decision::Mapping(_) => None,
    };
    let gallery = match &args.calibrate {
        Some(folder) => Some(Gallery::open(folder, &cuts.model.graph, planned, &args.picture)?),
        None => None,
    };
    let options = LoadOptions { threads: process::cores() };
    let engine = engine::open(&args.engine)?;
    cuts.quantizations(codecs, gallery.as_ref(), (engine.as_ref(), options), output)
}

/// The plan with what was calibrated: what is run from it are the very parts written here.
fn quantised(mut plan: Plan, best_split: bool, codecs: &CutCodecs) -> anyhow::Result<Plan> {
    let id = planning::choice(&plan, best_split)?.id.clone();
    let Plan { model, picture, best, best_split, .. } = &mut plan;
    for choice in best.iter_mut().chain(best_split).filter(|choice| choice.id == id) {
        choice.quantise(codecs.quantizations.clone(), model, picture.as_ref());
    }
    Ok(plan)
}

/// The first part on the first device of the platform, the next on the next; by the engines that the
/// platform's profiles are of.
fn plan_by_hand(model: &Model, args: &Args, file: &Path, output: &Output) -> anyhow::Result<Plan> {
    let platform = planning::read_platform(file)?;
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
    let layers = placed.filter_map(|(layer, stage)| {
        stage.map(|stage| (layer.name.clone(), devices[stage as usize].name.clone()))
    });
    let picture = args.picture.spec_if_picture(&model.graph)?;
    let name = ModelRef { name: file_name(&model.path), sha256: model.sha256()?.to_owned() };
    let reason = format!("cut by hand at {}; compared with nothing", args.at.join(" and "));
    let (dag, layers) = (&model.grouping.dag, LayerMap(layers.collect()));
    let encoding = args.codec.unwrap_or_default();
    let by_hand = (layers.clone(), encoding);
    let mut plan = Plan::by_hand(name, dag, &platform, by_hand, picture, reason).context(
        "these parts cannot be a plan; `cutline inspect` lists cuts between what engines run as one",
    )?;
    if devices.iter().any(|device| !device.profiles.is_empty()) {
        let folder = file.parent().unwrap_or(Path::new("."));
        let mapping = layers.resolve(dag, &platform)?;
        match planning::costs_of(model, &platform, folder) {
            Ok(costs) => {
                let encoded = encoding != CutEncoding::Fp32;
                planning::by_hand::settle(&mut plan, dag, &costs, &mapping, encoded);
            }
            Err(error) => output.note(format!(
                "each device takes its own engine, and nothing is predicted: {error:#}"
            )),
        }
    }
    if args.format == Some(Format::Tflite) {
        plan.use_engines(&on_tflite(&plan));
    }
    Ok(plan)
}

/// The engine of TensorFlow Lite files for the devices of which none is known: whoever asks for such
/// parts means to run them.
fn on_tflite(plan: &Plan) -> Engines {
    let takes_them = |name: &&&str| engine::part_format(name) == Format::Tflite;
    let Some(&engine) = engine::NAMES.iter().find(takes_them) else { return Engines::new() };
    let stages = plan.best.iter().flat_map(|choice| &choice.stages);
    let open = stages.filter(|stage| stage.engine.is_empty());
    open.map(|stage| (stage.device.clone(), (engine.to_owned(), 0))).collect()
}

fn manual(model: &Model, args: &Args) -> anyhow::Result<Placement> {
    let cuts = cuts_of(&args.at);
    let stage_of = cut::stages_at(&model.graph, &cuts)?;
    let labels = (0..=cuts.len()).map(|_| StageLabel::new("part")).collect();
    let codecs = same_codec(args, cuts.len() + 1);
    Ok(Placement { stage_of, labels, codecs, decision: Decision::Cuts(cuts) })
}

/// Stages of a mapping file: one for each resource, or several for one that is visited again.
fn mapped(model: &Model, path: &Path, args: &Args) -> anyhow::Result<Placement> {
    let context = || format!("cannot use mapping `{}`", path.display());
    let file = MappingFile::parse(&read(path)?).with_context(context)?;
    if let Some(hosts) = &args.autodice_platform {
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
        codecs: same_codec(args, partition.stages.len()),
        decision: Decision::Mapping(LayerMap(places.collect())),
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

fn manual_plan(
    model: &Model,
    (cuts, mapping): (Vec<Vec<String>>, Option<LayerMap>),
    travel: Travel,
    parts: &[PartRow],
) -> anyhow::Result<Vec<u8>> {
    let name = file_name(&model.path);
    let model = ModelName { name, sha256: model.sha256()? };
    let plan = ManualSplit { version: 1, model, cuts, mapping, travel, parts };
    Ok(serde_json::to_vec_pretty(&plan)?)
}

fn cuts_of(at: &[String]) -> Vec<Vec<String>> {
    at.iter().map(|cut| cut.split(',').map(|value| value.trim().to_owned()).collect()).collect()
}

fn part_rows(parts: &[SubModel]) -> Vec<PartRow> {
    let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect();
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
