//! From a planned choice to what agents are given: sub-model files, and a description per stage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    codec::Quantised,
    graph::{Graph, ValueId},
    hex::hex,
    plan::{Plan, PlannedChoice, PlannedStage},
    platform::{DeviceId, Platform},
    split::{self, Piece, Port, StageLabel, SubModel},
};
use cutline_runtime::{
    files,
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
    if let Some((stage, joiner)) =
        choice.stages.iter().find_map(|stage| Some((stage, stage.joined_by.as_ref()?)))
    {
        bail!(
            "in this plan `{}` runs branches of a block for `{joiner}` at the same time; running such scatter groups is not supported yet, plan without --scatter (`cutline split` writes their parts)",
            stage.device
        );
    }
    let partition = choice.resolve(&model.grouping.dag, &plan.platform)?.partition;
    let devices: Vec<DeviceId> = partition.stages.iter().map(|stage| stage.device).collect();
    let stage_of = stages_of_layers(model, plan, choice)?;
    let (labels, codecs) = (labels(plan, choice), choice.codecs()?);
    let quantised = split::quantised_values(&model.graph, &stage_of, &labels, &codecs)?;
    let has_scale = |quantised: &&Quantised| codecs.quantizations.contains_key(&quantised.key());
    if let Some(Quantised { value, encoding }) = quantised.iter().find(|each| !has_scale(each)) {
        bail!(
            "the plan sends `{value}` as {encoding} but does not say what its bytes stand for; `cutline split MODEL --plan plan.json --calibrate PICTURES -o parts` writes a plan that does, `parts/plan.json`"
        );
    }
    let sub_models = split::split_encoded(&model.proto, &model.graph, &stage_of, &labels, &codecs)?;

    let folder = tempfile::tempdir().context("cannot make a folder for the parts")?;
    let mut parts = Vec::new();
    if devices.first() != Some(&DeviceId::SOURCE) {
        // Frames enter at the source even where it computes nothing.
        parts.push(part(&plan.platform, DeviceId::SOURCE, None, None));
    }
    for (index, (sub_model, &device)) in sub_models.iter().zip(&devices).enumerate() {
        let files = write_files(sub_model, &folder.path().join(index.to_string()), model.folder())?;
        let stage = &choice.stages[index];
        let from = parts.last().map(|_| previous(&devices, index));
        let model = PartModel {
            files,
            engine: (!stage.engine.is_empty()).then(|| stage.engine.clone()),
            threads: (stage.threads > 0).then_some(stage.threads),
            inputs: port_specs(&sub_model.inputs)?,
            outputs: port_specs(&sub_model.outputs)?,
            memory: memory(choice, &stage.device, sub_model),
        };
        parts.push(part(&plan.platform, device, from, Some(model)));
    }
    let stem = model.path.file_stem().unwrap_or_default().to_string_lossy();
    let mut deployment = Deployment::new(PlanParts {
        plan: format!("{stem}-{}", choice.id),
        inputs: specs(&model.graph, model.graph.inputs())?,
        outputs: specs(&model.graph, model.graph.outputs())?,
        picture: picture(&model.graph, plan, choice)?,
        parts,
    })?;
    let sent = sub_models.iter().flat_map(|sub_model| &sub_model.outputs);
    let coded = sent.filter(|port| port.encoding.is_entropy_coded());
    deployment.send_entropy_coded(&coded.map(|port| port.name.clone()).collect());
    Ok(Staged { deployment, _folder: folder })
}

/// The device before the stage at `index`; the source, which forwards, before the first.
fn previous(devices: &[DeviceId], index: usize) -> DeviceId {
    index.checked_sub(1).map_or(DeviceId::SOURCE, |before| devices[before])
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
    Part { device: device.name.clone(), address: device.address.clone(), via, model }
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

/// Memory as the plan predicts it for the device, less the weights, which the file itself tells.
fn memory(choice: &PlannedChoice, device: &str, sub_model: &SubModel) -> MemoryEstimate {
    let parameter_bytes = sub_model.files().bytes();
    let predicted = choice.memory.get(device).map_or(0, |bytes| bytes.0);
    let activation_bytes = predicted.saturating_sub(parameter_bytes);
    MemoryEstimate { parameter_bytes, activation_bytes, engine_bytes: 0 }
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
    for (name, pieces) in [(files::MODEL_FILE, files.model)].into_iter().chain(data) {
        let path = folder.join(name);
        files::write_atomic(&path, &pieces, source)?;
        let sha256 = hex(&files::sha256(&path)?);
        let bytes = pieces.iter().map(Piece::bytes).sum();
        written.push((FileSpec { name: name.to_owned(), sha256, bytes }, path));
    }
    Ok(written)
}
