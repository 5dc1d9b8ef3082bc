//! `cutline plan`: the best distribution of a network over the devices of a platform, with proof.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use cutline_core::{
    cost::{
        Costs,
        table::{self, CostsFile},
    },
    dag::Dag,
    picture::{InputEncoding, PictureSpec},
    plan::{ModelRef, Plan},
    planner::{self, Request},
    platform::Platform,
};
use cutline_runtime::files::write_bytes;

use crate::{
    inputs::{PictureArgs, ShapeArgs, file_name},
    output::Output,
    planning,
};

/// Find the best plan: baselines first, then the best plan, the best split, why, and the proof.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline plan net.onnx --platform platform.toml -o plan.json\n  cutline plan net.onnx --platform platform.toml --pin conv1=pi --input-encoding jpeg,uint8,fp32 -o plan.json\n  cutline plan --costs costs.json --platform platform.toml -o plan.json"
)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["model", "costs"])))]
pub(crate) struct Args {
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
    /// What to minimise.
    #[arg(long, value_name = "OBJECTIVE", default_value = "latency", value_parser = ["latency", "period", "energy", "memory", "money"])]
    objective: String,
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
    /// The file to write.
    #[arg(short, long, value_name = "plan.json")]
    output: Option<PathBuf>,
}

/// What is planned over, wherever its costs come from.
struct Problem {
    model: ModelRef,
    dag: Dag,
    costs: Costs,
    platform: Platform,
    picture: Option<PictureSpec>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if args.objective != "latency" {
        bail!("objective `{}` cannot be minimised yet; `latency` can", args.objective);
    }
    let platform = planning::read_platform(&args.platform)?;
    let problem = match (&args.model, &args.costs) {
        (Some(model), _) => measured(model, platform, &args, output)?,
        (None, Some(costs)) => published(costs, platform)?,
        (None, None) => bail!("give a model, or --costs"),
    };
    let request = request(&args)?;
    let answer = planner::solve(&problem.dag, &problem.costs, &request)?;
    let Problem { model, dag, costs, platform, picture } = problem;
    let plan = Plan::new(model, &dag, &costs, &platform, &request, &answer, picture);
    if let Some(path) = &args.output {
        write_bytes(path, serde_json::to_vec_pretty(&plan)?)?;
    }
    output.print(&plan, |out| planning::write_plan(&plan, &dag, out))?;
    Ok(match plan.best {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn measured(
    path: &Path,
    platform: Platform,
    args: &Args,
    output: &Output,
) -> anyhow::Result<Problem> {
    let model = args.shapes.open(path)?;
    let folder = args.platform.parent().unwrap_or(Path::new("."));
    let costs = planning::costs_of(&model, &platform, folder)?;
    let picture = match args.preprocess.spec(&model.graph) {
        Ok(spec) => Some(spec),
        Err(error) if args.preprocess.preprocess.is_some() => return Err(error),
        Err(error) => {
            output.note(format!("the input is sent as tensors only: {error}"));
            None
        }
    };
    let name = ModelRef { name: file_name(path), sha256: model.sha256()?.to_owned() };
    Ok(Problem { model: name, dag: model.grouping.dag, costs, platform, picture })
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

fn request(args: &Args) -> anyhow::Result<Request> {
    let names = |list: &[InputEncoding]| list.iter().map(|e| e.name().to_owned()).collect();
    let mut request = Request::default();
    if !args.input_encoding.is_empty() {
        request.input_encodings = Some(names(&args.input_encoding));
    }
    if !args.cut_encoding.is_empty() {
        request.cut_encodings = Some(args.cut_encoding.clone());
    }
    for pin in &args.pins {
        let (layer, device) = pin
            .rsplit_once('=')
            .with_context(|| format!("`--pin {pin}`: expected LAYER=DEVICE"))?;
        request.pins.push((layer.to_owned(), device.to_owned()));
    }
    Ok(request)
}
