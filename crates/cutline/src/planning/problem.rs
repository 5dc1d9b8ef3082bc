//! The arguments that say what is planned over, and the problem that they describe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    cost::{
        Costs,
        table::{self, CostsFile},
    },
    dag::Dag,
    picture::{InputEncoding, PictureSpec},
    plan::ModelRef,
    planner::Request,
    platform::Platform,
};

use super::{costs_of, read_platform};
use crate::{
    inputs::{PictureArgs, ShapeArgs, file_name},
    output::Output,
};

/// A network on a platform, and what may be done with it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["model", "costs"])))]
pub(crate) struct ProblemArgs {
    /// The trained network, an ONNX file.
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
    /// A table of costs in place of a model and its profiles.
    #[arg(long, value_name = "costs.json")]
    costs: Option<PathBuf>,
    /// Devices and links.
    #[arg(long, value_name = "T.toml")]
    platform: PathBuf,
    /// Keep a layer (and its group) on a device; repeatable.
    #[arg(long = "pin", value_name = "LAYER=DEVICE")]
    pins: Vec<String>,
    /// How the input may travel; naming a lossy one allows it
    /// [default: the lossless ones, uint8 and fp32].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    input_encoding: Vec<InputEncoding>,
    /// How values at a cut may travel; naming a lossy one allows it [default: as they are].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cut_encoding: Vec<String>,
    #[command(flatten)]
    preprocess: PictureArgs,
}

/// What is planned over, wherever its costs come from.
pub(crate) struct Problem {
    pub(crate) model: ModelRef,
    pub(crate) dag: Dag,
    pub(crate) costs: Costs,
    pub(crate) platform: Platform,
    pub(crate) picture: Option<PictureSpec>,
}

impl ProblemArgs {
    /// Reads the platform, and the model with its profiles or the table of costs.
    pub(crate) fn open(&self, output: &Output) -> anyhow::Result<Problem> {
        let platform = read_platform(&self.platform)?;
        match (&self.model, &self.costs) {
            (Some(model), _) => self.measured(model, platform, output),
            (None, Some(costs)) => published(costs, platform),
            (None, None) => bail!("give a model, or --costs"),
        }
    }

    /// Pins and encodings as the planner takes them.
    pub(crate) fn request(&self) -> anyhow::Result<Request> {
        let names = |list: &[InputEncoding]| list.iter().map(|e| e.name().to_owned()).collect();
        let mut request = Request::default();
        if !self.input_encoding.is_empty() {
            request.input_encodings = Some(names(&self.input_encoding));
        }
        if !self.cut_encoding.is_empty() {
            request.cut_encodings = Some(self.cut_encoding.clone());
        }
        for pin in &self.pins {
            let (layer, device) = pin
                .rsplit_once('=')
                .with_context(|| format!("`--pin {pin}`: expected LAYER=DEVICE"))?;
            request.pins.push((layer.to_owned(), device.to_owned()));
        }
        Ok(request)
    }

    fn measured(
        &self,
        path: &Path,
        platform: Platform,
        output: &Output,
    ) -> anyhow::Result<Problem> {
        let model = self.shapes.open(path)?;
        let folder = self.platform.parent().unwrap_or(Path::new("."));
        let costs = costs_of(&model, &platform, folder)?;
        let picture = match self.preprocess.spec(&model.graph) {
            Ok(spec) => Some(spec),
            Err(error) if self.preprocess.preprocess.is_some() => return Err(error),
            Err(error) => {
                output.note(format!("the input is sent as tensors only: {error}"));
                None
            }
        };
        let name = ModelRef { name: file_name(path), sha256: model.sha256()?.to_owned() };
        Ok(Problem { model: name, dag: model.grouping.dag, costs, platform, picture })
    }
}

fn published(path: &Path, platform: Platform) -> anyhow::Result<Problem> {
    let context = || format!("cannot use costs `{}`", path.display());
    let text = fs::read_to_string(path).with_context(context)?;
    let file: CostsFile = serde_json::from_str(&text).with_context(context)?;
    let tables = vec![None; platform.links().len()];
    let (dag, costs) = table::read(&file, &platform, &tables).with_context(context)?;
    let model = ModelRef { name: file_name(path), sha256: String::new() };
    Ok(Problem { model, dag, costs, platform, picture: None })
}
