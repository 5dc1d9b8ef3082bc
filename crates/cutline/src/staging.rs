//! From a planned choice to what agents are given: sub-model files, and a description per stage.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    codec::{CutCodecs, CutEncoding, Quantised},
    graph::{Graph, ValueId},
    hex::hex,
    package,
    picture::InputEncoding,
    plan::{Plan, PlannedChoice, PlannedStage},
    platform::{DeviceId, Platform, Server},
    split::{self, Format, Piece, Port, StageLabel, SubModel},
};
use cutline_runtime::{
    engine, files,
    model::Model,
    runner::{Deployment, Part, PartModel, PlanParts},
    stage::{FileSpec, MemoryEstimate, PictureInput, TensorSpec},
};
use tempfile::TempDir;

/// A deployment and the folder that holds its files until it is dropped.
pub struct Staged {
    /// What to run.
    pub deployment: Deployment,
    _folder: TempDir,
}

/// Splits the model as `choice` says and derives what every agent is told.
pub fn stage(model: &Model, plan: &Plan, choice: &PlannedChoice) -> anyhow::Result<Staged> {
    let partition = choice.resolve(&model.grouping.dag, &plan.platform)?.partition;
    check_servers(&plan.platform, choice)?;
    let format = format(choice);
    let stage_of = stages_of_layers(model, plan, choice)?;
    let (labels, codecs) = (labels(plan, choice), codecs(choice)?);
    let quantised = split::quantised_values(&model.graph, &stage_of, &labels, &codecs)?;
    let has_scale = |quantised: &&Quantised| codecs.quantizations.contains_key(&quantised.key());
    if let Some(Quantised { value, encoding }) = quantised.iter().find(|each| !has_scale(each)) {
        bail!(
            "the plan sends `{value}` as {encoding} but does not say what its bytes stand for; `cutline split MODEL --plan plan.json --calibrate PICTURES -o parts` writes a plan that does, `parts/plan.json`"
        );
    }
    let sub_models = model.split(format, &stage_of, &labels, &codecs)?;

    let folder = tempfile::tempdir().context("cannot make a folder for the parts")?;
    let mut parts: Vec<Part> = Vec::new();
    // Who calls the next stage.
    let mut at = DeviceId::SOURCE;
    let is_branch = |index: usize| partition.scatter_of(index).is_some();
    let first = partition.stages.first();
    if first.is_none_or(|stage| stage.device != at) || is_branch(0) {
        // Frames enter at the source even where it computes nothing, or branches at once.
        parts.push(part(&plan.platform, at, None, None));
    }
    let mut memory = Memory::new(choice, &sub_models);
    for (index, (sub_model, stage)) in sub_models.iter().zip(&partition.stages).enumerate() {
        let files = write_files(sub_model, &folder.path().join(index.to_string()), model.folder())?;
        let planned = &choice.stages[index];
        let model = PartModel {
            files,
            engine: (!planned.engine.is_empty()).then(|| planned.engine.clone()),
            threads: (planned.threads > 0).then_some(planned.threads),
            inputs: port_specs(&sub_model.inputs)?,
            outputs: port_specs(&sub_model.outputs)?,
            memory: memory.of(&planned.device, sub_model),
        };
        let from = parts.last().map(|_| at);
        let branch = is_branch(index);
        let part = part(&plan.platform, stage.device, from, Some(model));
        let name = package::package_name(index, &sub_model.name);
        let foreign = is_foreign(&plan.platform, &planned.device).then_some(name);
        parts.push(Part { branch, foreign, ..part });
        if !branch {
            at = stage.device;
        }
    }
    let stem = model.path.file_stem().unwrap_or_default().to_string_lossy();
    let mut deployment = Deployment::new(PlanParts {
        plan: format!("{stem}-{}", choice.id),
        inputs: specs(&model.graph, model.graph.inputs())?,
        outputs: specs(&model.graph, model.graph.outputs())?,
        picture: picture(&model.graph, plan, choice)?,
        parts,
    })?;
    check_picture(&deployment)?;
    let sent = sub_models.iter().flat_map(|sub_model| &sub_model.outputs);
    let coded = sent.filter(|port| port.encoding.is_entropy_coded());
    deployment.send_entropy_coded(&coded.map(|port| port.name.clone()).collect());
    Ok(Staged { deployment, _folder: folder })
}

/// How what the parts of a choice send on travels.
pub(crate) fn codecs(choice: &PlannedChoice) -> anyhow::Result<CutCodecs> {
    let codecs = choice.codecs()?;
    if codecs.stages.iter().any(|encoding| *encoding != CutEncoding::Fp32)
        && choice.stages.iter().any(|stage| stage.joined_by.is_some())
    {
        bail!(
            "this plan encodes cuts and has branches on several devices at the same time; parts of both kinds at once are not written yet: plan without --scatter, or with --cut-encoding fp32"
        );
    }
    Ok(codecs)
}

/// What the parts of a choice are: where one of them is for an engine that takes TensorFlow Lite files
/// only, all are, so that values cross in one layout; other engines convert them when they load.
pub(crate) fn format(choice: &PlannedChoice) -> Format {
    let formats = choice.stages.iter().map(|stage| engine::part_format(&stage.engine));
    match formats.into_iter().any(|format| format == Format::Tflite) {
        true => Format::Tflite,
        false => Format::Onnx,
    }
}

fn is_foreign(platform: &Platform, name: &str) -> bool {
    let device = platform.devices().iter().find(|device| device.name == name);
    device.is_some_and(|device| device.server == Server::Oip)
}

/// Whether every stage that calls another is on an agent: a server that is none calls nobody. It can
/// have the last stage, or branches.
pub(crate) fn check_servers(platform: &Platform, choice: &PlannedChoice) -> anyhow::Result<()> {
    let foreign = choice.stages.iter().find(|stage| is_foreign(platform, &stage.device));
    if let Some(stage) = foreign.filter(|_| format(choice) == Format::Tflite) {
        bail!(
            "in this plan the parts are TensorFlow Lite files, since one is for litert, and `{}` has server = \"oip\", which takes ONNX only; profile the other devices with another engine, or leave `{}` out of the platform",
            stage.device,
            stage.device
        );
    }
    let chain: Vec<&str> = choice
        .stages
        .iter()
        .filter(|stage| stage.joined_by.is_none())
        .map(|stage| stage.device.as_str())
        .collect();
    if let Some(pair) = chain.windows(2).find(|pair| is_foreign(platform, pair[0])) {
        let [name, next] = [pair[0], pair[1]];
        bail!(
            "in this plan `{name}` would have to call `{next}`, but it has server = \"oip\", and only agents call the next device: it can have the last stage only, or branches of a block; leave one of the two out of the platform, or cut by hand with `cutline split MODEL --at VALUE --platform PLATFORM -o DIR`"
        );
    }
    Ok(())
}

/// A picture that is not sent as the tensor that it becomes is for agents to read.
fn check_picture(deployment: &Deployment) -> anyhow::Result<()> {
    let foreign = deployment.stages.iter().filter(|placement| placement.foreign);
    let mut pictures =
        foreign.filter_map(|placement| Some((placement, placement.spec.picture.as_ref()?)));
    let encoded = pictures.find(|(_, picture)| picture.encoding != InputEncoding::Fp32);
    if let Some((placement, picture)) = encoded {
        bail!(
            "in this plan the input goes to `{name}` as {}, which only agents read, and `{name}` has server = \"oip\"; cut behind the layers that read the input",
            picture.encoding,
            name = placement.spec.device
        );
    }
    Ok(())
}

/// The stage of each layer under a choice; `None` for layers that go wherever they are needed.
pub(crate) fn stages_of_layers(
    model: &Model,
    plan: &Plan,
    choice: &PlannedChoice,
) -> anyhow::Result<Vec<Option<u32>>> {
    let of_group = choice.resolve(&model.grouping.dag, &plan.platform)?.stage_of_group();
    let groups = model.grouping.group_of.iter();
    Ok(groups.map(|group| group.map(|id| of_group[id.index()])).collect())
}

/// What each sub-model's file says about the plan that it belongs to.
pub(crate) fn labels(plan: &Plan, choice: &PlannedChoice) -> Vec<StageLabel> {
    let label = |stage: &PlannedStage| {
        let mut label = StageLabel::new(stage.device.clone());
        label.metadata.insert("plan".to_owned(), choice.id.clone());
        label.metadata.insert("model_sha256".to_owned(), plan.model.sha256.clone());
        label
    };
    choice.stages.iter().map(label).collect()
}

fn part(
    platform: &Platform,
    device: DeviceId,
    from: Option<DeviceId>,
    model: Option<PartModel>,
) -> Part {
    let via = from.and_then(|from| platform.find_link(from, device)).and_then(|link| {
        let link = &platform.links()[link];
        // `via` stands in front of the second end of the link.
        (link.between[1] == device).then(|| link.via.clone()).flatten()
    });
    let device = platform.device(device);
    Part {
        device: device.name.clone(),
        address: device.address.clone(),
        replicas: device.replicas.clone(),
        via,
        model,
        branch: false,
        foreign: None,
    }
}

fn specs(graph: &Graph, ids: &[ValueId]) -> anyhow::Result<Vec<TensorSpec>> {
    let ports: Vec<Port> = ids.iter().map(|&id| Port::plain(graph, id)).collect();
    port_specs(&ports)
}

/// What travels, as agents are told of it.
fn port_specs(ports: &[Port]) -> anyhow::Result<Vec<TensorSpec>> {
    let spec = |port: &Port| {
        let dtype =
            port.dtype.with_context(|| format!("the type of `{}` is unknown", port.name))?;
        Ok(TensorSpec { name: port.name.clone(), dtype, shape: port.shape.clone() })
    };
    ports.iter().map(spec).collect()
}

fn picture(
    graph: &Graph,
    plan: &Plan,
    choice: &PlannedChoice,
) -> anyhow::Result<Option<PictureInput>> {
    let (Some(spec), [input]) = (&plan.picture, graph.inputs()) else { return Ok(None) };
    let encoding = choice.input_encoding.parse()?;
    Ok(Some(PictureInput { input: graph.value(*input).name.clone(), spec: spec.clone(), encoding }))
}

/// Memory as the plan predicts it for each device, to be shared out among its stages: the weights of
/// each, which its file itself tells, and with the first what the device needs besides, since it runs
/// one stage at a time.
struct Memory {
    besides: BTreeMap<String, u64>,
}

impl Memory {
    fn new(choice: &PlannedChoice, sub_models: &[SubModel]) -> Self {
        let predicted = choice.memory.iter();
        let mut besides: BTreeMap<String, u64> =
            predicted.map(|(device, bytes)| (device.clone(), bytes.0)).collect();
        for (stage, sub_model) in choice.stages.iter().zip(sub_models) {
            if let Some(left) = besides.get_mut(&stage.device) {
                *left = left.saturating_sub(sub_model.files().bytes());
            }
        }
        Self { besides }
    }

    fn of(&mut self, device: &str, sub_model: &SubModel) -> MemoryEstimate {
        let parameter_bytes = sub_model.files().bytes();
        let activation_bytes = self.besides.remove(device).unwrap_or_default();
        MemoryEstimate { parameter_bytes, activation_bytes, engine_bytes: 0 }
    }
}

/// Writes a sub-model's files and tells what they are.
fn write_files(
    sub_model: &SubModel,
    folder: &Path,
    source: &Path,
) -> anyhow::Result<Vec<(FileSpec, PathBuf)>> {
    fs::create_dir_all(folder)?;
    let files = sub_model.files();
    let data = files.data.map(|pieces| (split::DATA_FILE, pieces));
    let mut written = Vec::new();
    let model = (files.format.file_name(), files.model);
    for (name, pieces) in [model].into_iter().chain(data) {
        let path = folder.join(name);
        files::write_atomic(&path, &pieces, source)?;
        let sha256 = hex(&files::sha256(&path)?);
        let bytes = pieces.iter().map(Piece::bytes).sum();
        written.push((FileSpec { name: name.to_owned(), sha256, bytes }, path));
    }
    Ok(written)
}
