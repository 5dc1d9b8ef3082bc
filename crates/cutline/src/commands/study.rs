//! `cutline study`: where to cut over sizes, boards, instances and bandwidths, and what that costs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;

use crate::{
    output::Output,
    study::{self, DEFAULT, Evidence, Study},
};

/// Plan networks over input sizes, boards, cloud instances and bandwidths: where to cut, how that
/// moves, and latency against money, as a report.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a file: MobileNetV2 at five sizes, on five boards, with four instances, from 0.1 to 1000 \
Mbit/s, for 5000 users at 1 frame/s, with modelled times. The folder gets study.html, which opens in any \
browser and needs no network, and the same data as study.json and CSV.\n\nExamples:\n  cutline study -o study\n  \
cutline study --network resnet50 --network net.onnx -o study\n  cutline study --show-default > study.toml\n  \
cutline study study.toml --kernels kernels.json --sweep sweep.db -o study"
)]
pub(crate) struct Args {
    /// Networks, boards, instances, link and bandwidths [default: see --show-default].
    #[arg(value_name = "STUDY.toml")]
    study: Option<PathBuf>,
    /// A network in place of those of the study: a name of `cutline zoo list`, perhaps with a size
    /// (NAME:PIXELS), or an ONNX or TensorFlow Lite file; repeatable.
    #[arg(long, value_name = "NAME|MODEL")]
    network: Vec<String>,
    /// Show how far predictions from these kernels are off (`cutline kernels`); repeatable.
    #[arg(long, value_name = "K.json")]
    kernels: Vec<PathBuf>,
    /// Show how measured throughput grows with threads and batch (`cutline characterize`); repeatable.
    #[arg(long, value_name = "SWEEP.db")]
    sweep: Vec<PathBuf>,
    /// Print the study that is run without a file, to begin one's own with, and do nothing else.
    #[arg(long, conflicts_with_all = ["study", "network", "kernels", "sweep", "output"])]
    show_default: bool,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR", required_unless_present = "show_default")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let Some(folder) = &args.output else {
        output.print(&serde_json::json!({ "study": DEFAULT }), |out| write!(out, "{DEFAULT}"))?;
        return Ok(ExitCode::SUCCESS);
    };
    let (text, name, from) = match &args.study {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read study `{}`", path.display()))?;
            (text, path.display().to_string(), path.parent().unwrap_or(Path::new("")))
        }
        None => (DEFAULT.to_owned(), "the default one".to_owned(), Path::new("")),
    };
    let context = || format!("cannot use study `{name}`");
    let study = Study::parse(&text, from, &args.network).with_context(context)?;
    let evidence = Evidence::read(&args.kernels, &args.sweep, &study, from)?;
    let data = study::build(&study, from, evidence, output).with_context(context)?;
    fs::create_dir_all(folder).with_context(|| {
        format!("cannot make folder `{}`; choose another with -o", folder.display())
    })?;
    study::write(folder, &data)?;
    output.print(&data, |out| study::write_text(&data, folder, out))?;
    let runs = data.combinations.iter().any(|found| found.best.iter().any(Option::is_some));
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
