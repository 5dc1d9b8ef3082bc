//! `cutline explore`: everything worth knowing about a problem, as a report for people and as data.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;

use crate::{
    output::Output,
    planning::ProblemArgs,
    report::{self, Data},
};

/// Write a report: baselines and Pareto front, every cut, bandwidth, memory and energy.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The folder gets report.html, which opens in any browser and needs no network, and the same \
data as explore.json, front.csv, cuts.csv and bandwidth.csv. Files of these names are replaced, others are \
left alone.\n\nExamples:\n  cutline explore net.onnx --platform platform.toml -o report\n  cutline explore --costs costs.json --platform platform.toml --cut-encoding uint8,fp32 -o report"
)]
pub(crate) struct Args {
    #[command(flatten)]
    problem: ProblemArgs,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let problem = args.problem.open(output)?;
    let request = args.problem.request()?;
    let data = report::build(&problem, &request, output, &mut args.problem.stop())?;
    let folder = &args.output;
    fs::create_dir_all(folder).with_context(|| {
        format!("cannot make folder `{}`; choose another with -o", folder.display())
    })?;
    report::write(folder, &data)?;
    output.print(&data, |out| {
        let Data { headline, front, cuts, .. } = &data;
        writeln!(out, "{}\n{}", headline.what, headline.why)?;
        writeln!(
            out,
            "\n{} plans on the front, {} candidate cuts; open {}",
            front.plans.len(),
            cuts.len(),
            folder.join("report.html").display()
        )
    })?;
    Ok(match data.best {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}
