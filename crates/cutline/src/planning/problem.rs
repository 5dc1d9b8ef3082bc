//! The arguments that say what is planned over, and the problem that they describe.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cutline_core::{
    codec::CutEncoding,
    cost::{
        Costs,
        table::{self, CostsFile},
    },
    dag::Dag,
    picture::{InputEncoding, PictureSpec},
    plan::ModelRef,
    planner::{Objective, Request},
    platform::Platform,
    split::Format,
    units::Nanos,
};
use cutline_runtime::{engine, model::Model};

use super::{costs_of, read_platform};
use crate::{
    inputs::{PictureArgs, ShapeArgs, file_name},
    output::Output,
};

/// A network on a platform, and what may be done with it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["model", "costs"])))]
pub(crate) struct ProblemArgs {
    /// The trained network, an ONNX or TensorFlow Lite file.
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
    /// What to minimise: latency, period, energy, device-energy (of the device that needs most),
    /// memory (of the device that needs most) or money.
    #[arg(long, value_name = "OBJECTIVE", default_value = "latency", value_parser = parse_objective)]
    objective: Objective,
    /// Keep a quantity within a limit: latency, period, energy, device-energy, memory or money;
    /// with `plan`, agreement too: the least share of pictures with the same best class, the measured
    /// one and not the lower end of its interval, which is printed beside it; repeatable.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
    /// Keep a layer (and its group) on a device; repeatable.
    #[arg(long = "pin", value_name = "LAYER=DEVICE")]
    pins: Vec<String>,
    /// Keep a layer, or all layers of an operator, off a device; repeatable.
    #[arg(long = "ban", value_name = "LAYER|OPERATOR=DEVICE")]
    bans: Vec<String>,
    /// Let nothing leave the first device before this layer's result, the input included.
    #[arg(long, value_name = "LAYER")]
    private: Option<String>,
    /// Count what devices take for waiting, too: the idle power of every device that a plan uses, from
    /// one frame to the next by `frames_per_second` of [workload]. Only plans that keep up with these
    /// frames are searched for.
    #[arg(long)]
    include_idle: bool,
    /// Let branches of a block run on several devices at once. The search takes longer; the best plans
    /// over the bandwidth are still searched for without.
    #[arg(long)]
    scatter: bool,
    /// Search for plans that return to a device, too. All that was found without is kept; where not
    /// all such plans could be looked at, the answer says so. The best plans over the bandwidth are
    /// still searched for without.
    #[arg(long, conflicts_with = "scatter")]
    revisits: bool,
    /// Stop after this long with the best plan found, and say how far from the best it can be.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    time_limit: Nanos,
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
    /// The model itself; none behind a table of costs.
    pub(crate) network: Option<Model>,
}

impl ProblemArgs {
    /// Reads the platform, and the model with its profiles or the table of costs.
    pub(crate) fn open(&self, output: &Output) -> anyhow::Result<Problem> {
        let platform = read_platform(&self.platform)?;
        let mut problem = match (&self.model, &self.costs) {
            (Some(model), _) => self.measured(model, platform, output)?,
            (None, Some(costs)) => published(costs, platform)?,
            (None, None) => bail!("give a model, or --costs"),
        };
        if self.include_idle {
            let counted = problem.costs.count_idle(&problem.dag);
            counted.with_context(|| format!("in platform `{}`", self.platform.display()))?;
        }
        Ok(problem)
    }

    /// Pins and encodings as the planner takes them.
    pub(crate) fn request(&self) -> anyhow::Result<Request> {
        let names = |list: &[InputEncoding]| list.iter().map(|e| e.name().to_owned()).collect();
        let mut request = Request { objective: self.objective, ..Request::default() };
        if !self.input_encoding.is_empty() {
            request.input_encodings = Some(names(&self.input_encoding));
        }
        if !self.cut_encoding.is_empty() {
            request.cut_encodings = Some(self.cut_encoding.clone());
        }
        let limits = self.limits.iter().filter(|limit| !is_agreement(limit));
        request.limits = limits.map(|limit| parse_limit(limit)).collect::<Result<_, _>>()?;
        request.pins = on_devices("--pin", &self.pins)?;
        request.bans = on_devices("--ban", &self.bans)?;
        request.private = self.private.clone();
        request.scatter = self.scatter;
        request.revisits = self.revisits;
        Ok(request)
    }

    /// The least agreement that is asked for, in millionths.
    pub(crate) fn agreement(&self) -> anyhow::Result<Option<u64>> {
        let mut least = None;
        for limit in self.limits.iter().filter(|limit| is_agreement(limit)) {
            let value = limit.split_once('=').and_then(|(_, value)| value.parse::<f64>().ok());
            let value = value.filter(|value| (0.0..=1.0).contains(value));
            let value = value.with_context(|| {
                format!("`--limit {limit}`: expected a share from 0 to 1, such as agreement=0.99")
            })?;
            least = least.max(Some((value * 1e6).round() as u64));
        }
        Ok(least)
    }

    /// How long planning may take.
    pub(crate) fn time_limit(&self) -> Duration {
        Duration::from_nanos(self.time_limit.0)
    }

    /// How pictures are read.
    pub(crate) fn picture(&self) -> &PictureArgs {
        &self.preprocess
    }

    /// Says when the time limit, counted from now, is over.
    pub(crate) fn stop(&self) -> impl FnMut() -> bool + use<> {
        let (start, limit) = (Instant::now(), Duration::from_nanos(self.time_limit.0));
        move || start.elapsed() > limit
    }

    /// A codec is only offered where it is known what coding takes everywhere.
    fn check_codecs(&self, costs: &Costs) -> anyhow::Result<()> {
        for name in &self.cut_encoding {
            let encoding: CutEncoding = name.parse()?;
            let on_files = costs.devices().iter().find(|device| {
                let mut formats = device.options.iter().map(|o| engine::part_format(&o.engine));
                formats.any(|format| format == Format::Tflite)
            });
            if let Some(device) = on_files.filter(|_| encoding != CutEncoding::Fp32) {
                bail!(
                    "`--cut-encoding {name}`: `{}` may run litert, whose parts are TensorFlow Lite files: between them values travel as they are, the quantised ones at a quarter of fp32 already; leave out the profile by litert, or --cut-encoding",
                    device.name
                );
            }
            if !costs.codecs().iter().any(|codec| codec.name == encoding.name()) {
                bail!(
                    "`--cut-encoding {name}`: some profile does not say what {name} takes: it was measured by an older version, with a budget of few runs, or by an engine that lacks the operators; measure it again with `cutline profile`"
                );
            }
        }
        Ok(())
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
        self.check_codecs(&costs)?;
        let picture = match self.preprocess.spec(&model.graph) {
            Ok(spec) => Some(spec),
            Err(error) if self.preprocess.preprocess.is_some() => return Err(error),
            Err(error) => {
                output.note(format!("the input is sent as tensors only: {error}"));
                None
            }
        };
        let name = ModelRef { name: file_name(path), sha256: model.sha256()?.to_owned() };
        let dag = model.grouping.dag.clone();
        Ok(Problem { model: name, dag, costs, platform, picture, network: Some(model) })
    }
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    let found = Objective::ALL.into_iter().find(|objective| objective.name() == text);
    let names = || Objective::ALL.map(Objective::name).join(", ");
    found.ok_or_else(|| format!("expected one of {}", names()))
}

/// A limit that no table knows: it is measured.
fn is_agreement(limit: &str) -> bool {
    limit.split('=').next() == Some("agreement")
}

fn parse_limit(text: &str) -> anyhow::Result<(Objective, u64)> {
    let (name, value) = text
        .split_once('=')
        .with_context(|| format!("`--limit {text}`: expected NAME=VALUE, such as latency=300ms"))?;
    let names = || Objective::ALL.map(Objective::name).join(", ");
    let objective = Objective::ALL.into_iter().find(|objective| objective.name() == name);
    let objective =
        objective.with_context(|| format!("`--limit {text}`: `{name}` is none of {}", names()))?;
    let value = objective.parse(value).with_context(|| format!("`--limit {text}`"))?;
    Ok((objective, value))
}

fn on_devices(flag: &str, list: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let parse = |text: &String| {
        let (what, device) = text
            .rsplit_once('=')
            .with_context(|| format!("`{flag} {text}`: expected LAYER=DEVICE"))?;
        Ok((what.to_owned(), device.to_owned()))
    };
    list.iter().map(parse).collect()
}

fn published(path: &Path, platform: Platform) -> anyhow::Result<Problem> {
    let context = || format!("cannot use costs `{}`", path.display());
    let text = fs::read_to_string(path).with_context(context)?;
    let file: CostsFile = serde_json::from_str(&text).with_context(context)?;
    let tables = vec![None; platform.links().len()];
    let (dag, costs) = table::read(&file, &platform, &tables).with_context(context)?;
    let model = ModelRef { name: file_name(path), sha256: String::new() };
    Ok(Problem { model, dag, costs, platform, picture: None, network: None })
}
