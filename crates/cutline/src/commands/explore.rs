//! `cutline explore`: everything worth knowing about a problem, as a report for people and as data.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use cutline_core::cost::Costs;

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
    /// The link over whose rates the best plan is shown, by its two devices [default: the source's
    /// first].
    #[arg(long, value_name = "A,B")]
    link: Option<String>,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if args.problem.agreement()?.is_some() {
        bail!(
            "`explore` measures no agreement; `cutline plan --limit agreement=... --images DIR` does"
        );
    }
    let problem = args.problem.open(output)?;
    let request = args.problem.request()?;
    let link = match &args.link {
        Some(ends) => Some(named_link(&problem.costs, ends)?),
        None => None,
    };
    let data = report::build(&problem, &request, link, output, &mut args.problem.stop())?;
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
        )?;
        match data.bandwidth.as_ref().map(|bandwidth| bandwidth.left_out.as_str()) {
            None | Some("") => Ok(()),
            Some(left_out) => writeln!(out, "\nover the bandwidth: {left_out}"),
        }
    })?;
    Ok(match data.best {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// Position of the link between two devices, in either order.
fn named_link(costs: &Costs, ends: &str) -> anyhow::Result<usize> {
    let between = |link: &cutline_core::cost::LinkCosts| {
        link.between.map(|id| costs.device(id).name.as_str())
    };
    let names = ends.split_once(',').map(|(a, b)| [a.trim(), b.trim()]);
    let asked = |[a, b]: [&str; 2]| names.is_some_and(|names| names == [a, b] || names == [b, a]);
    if let Some(link) = costs.links().iter().position(|link| asked(between(link))) {
        return Ok(link);
    }
    let known: Vec<String> = costs.links().iter().map(|link| between(link).join(",")).collect();
    match known.is_empty() {
        true => bail!("the platform declares no link, so `--link {ends}` names none"),
        false => {
            bail!("`--link {ends}` is no link of the platform; it has {}", known.join(" and "))
        }
    }
}
