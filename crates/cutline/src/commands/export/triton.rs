//! Model repositories of Triton: the stages of each device, and the chain of all as an ensemble.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use cutline_core::{
    package::{self, Package},
    split::{self, DATA_FILE, Format, SubModel},
};
use cutline_runtime::model::Model;

use super::{Common, File, label, text};
use crate::{inputs::ModelArgs, planning, staging};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) common: Common,
    /// Write one repository with all stages, and the network as an ensemble of them under this name.
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    ensemble: Option<String>,
}

/// The files of the repositories: `DEVICE/STAGE/...`, or `STAGE/...` with an ensemble.
pub(super) fn repositories(args: &Args, model: &Model) -> anyhow::Result<Vec<File>> {
    let plan = planning::read_plan(&args.common.plan, model)?;
    let choice = planning::choice(&plan, args.common.best_split)?;
    let stage_of = staging::stages_of_layers(model, &plan, choice)?;
    let labels = staging::labels(&plan, choice);
    let codecs = staging::codecs(choice)?;
    let parts = split::split_encoded(&model.proto, &model.graph, &stage_of, &labels, &codecs)?;
    let packages = package::packages(&parts)?;
    for name in &args.common.device {
        let has = choice.stages.iter().any(|stage| stage.device == *name);
        ensure!(has, "device `{name}` has no stage of the plan");
    }
    let mut files = Vec::new();
    for (stage, package) in choice.stages.iter().zip(packages) {
        let wanted = &args.common.device;
        match &args.ensemble {
            Some(_) => files.extend(files_of(Path::new(""), package)),
            None if wanted.is_empty() || wanted.contains(&stage.device) => {
                files.extend(files_of(Path::new(&label(&stage.device)), package));
            }
            None => {}
        }
    }
    if let Some(name) = &args.ensemble {
        let folder = label(name);
        let taken = files.iter().any(|(path, _)| path.starts_with(&folder));
        ensure!(!taken, "a stage has the name `{folder}` already; give the ensemble another");
        let config = ensemble(&folder, model, &parts)?;
        files.push(text(Path::new(&folder).join("config.pbtxt"), config));
        // A server wants a version, which an ensemble has nothing to put in.
        files.push(text(Path::new(&folder).join("1/README"), "An ensemble has no file.\n".into()));
    }
    Ok(files)
}

fn files_of(folder: &Path, package: Package) -> Vec<File> {
    let folder = folder.join(&package.name);
    let at = |name: &str| -> PathBuf { folder.join("1").join(name) };
    let mut files = vec![text(folder.join("config.pbtxt"), package.config)];
    files.push((at(Format::Onnx.file_name()), package.files.model));
    files.extend(package.files.data.map(|data| (at(DATA_FILE), data)));
    files
}

/// The configuration of the ensemble: what enters and leaves the network, and the parts as steps.
fn ensemble(name: &str, model: &Model, parts: &[SubModel]) -> anyhow::Result<String> {
    let names = |ids: &[_]| -> Vec<String> {
        ids.iter().map(|&id| model.graph.value(id).name.clone()).collect()
    };
    let port = |name: &String, of: fn(&SubModel) -> &[split::Port]| {
        parts.iter().flat_map(of).find(|port| port.name == *name).cloned()
    };
    let inputs = names(model.graph.inputs());
    let inputs: Vec<_> = inputs.iter().filter_map(|name| port(name, |part| &part.inputs)).collect();
    let outputs = names(model.graph.outputs());
    let outputs: Vec<_> =
        outputs.iter().filter_map(|name| port(name, |part| &part.outputs)).collect();
    Ok(package::ensemble_pbtxt(name, [&inputs, &outputs], parts)?)
}
