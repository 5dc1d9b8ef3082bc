//! `cutline plan`: the best distribution of a network over the devices of a platform, with proof.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use cutline_core::{plan::Plan, planner};
use cutline_runtime::files::write_bytes;

use crate::{
    output::Output,
    planning::{self, Problem, ProblemArgs},
};

/// Find the best plan: baselines first, then the best plan, the best split, why, and the proof.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline plan net.onnx --platform platform.toml -o plan.json\n  cutline plan net.onnx --platform platform.toml --pin conv1=pi --input-encoding jpeg,uint8,fp32 -o plan.json\n  cutline plan --costs costs.json --platform platform.toml -o plan.json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    problem: ProblemArgs,
    /// What to minimise.
    #[arg(long, value_name = "OBJECTIVE", default_value = "latency", value_parser = ["latency", "period", "energy", "memory", "money"])]
    objective: String,
    /// The file to write.
    #[arg(short, long, value_name = "plan.json")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if args.objective != "latency" {
        bail!("objective `{}` cannot be minimised yet; `latency` can", args.objective);
    }
    let Problem { model, dag, costs, platform, picture } = args.problem.open(output)?;
    let request = args.problem.request()?;
    let answer = planner::solve(&dag, &costs, &request)?;
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
