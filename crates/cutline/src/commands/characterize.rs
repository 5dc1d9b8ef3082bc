//! `cutline characterize`: measure a grid of networks, sizes, engines and devices.

use std::{io::Write, path::PathBuf, process::ExitCode};

use cutline_core::units::{Bytes, Nanos};

use crate::{
    characterize::{self, Line, Report, export},
    inputs::IdentityArgs,
    output::{Output, table},
};

/// Measure a grid: networks by size, batch, threads, engine, precision, preparation, link and device.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline characterize grid.toml -o sweep.db --csv sweep.csv\n\nThe same command goes on with a sweep that was stopped or killed; a grid with more cells adds them to the file. A small grid:\n\n  version = 1\n  networks = [\"mobilenetv2\", \"own.onnx\"]\n  engines = [\"rten\", \"onnxruntime\"]\n  threads = [1, 2]\n  [measure]\n  precision = \"2%\""
)]
pub(crate) struct Args {
    /// What to measure, and how exactly.
    #[arg(value_name = "GRID.toml")]
    grid: PathBuf,
    /// The SQLite file to write, or to go on with.
    #[arg(short, long, value_name = "F.db")]
    output: PathBuf,
    /// Write the file's results as CSV, too.
    #[arg(long, value_name = "F.csv")]
    csv: Option<PathBuf>,
    /// Write the file's results as Parquet, too (of builds with `--features parquet`).
    #[arg(long, value_name = "F.parquet")]
    parquet: Option<PathBuf>,
    /// Seed of the order of the turns [default: the grid's, or 0].
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    identity: IdentityArgs,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    export::check(args.parquet.as_deref())?;
    let client = args.identity.client()?;
    let report = characterize::sweep(&args.grid, &args.output, args.seed, &client, output)?;
    export::write(&args.output, args.csv.as_deref(), args.parquet.as_deref())?;
    output.print(&report, |out| write_report(&report, out))?;
    let failed = report.cells.iter().any(|line| line.result.state == "failed");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let time = |time: Option<i64>| match time.and_then(|time| u64::try_from(time).ok()) {
        Some(time) => Nanos(time).to_string(),
        None => "-".to_owned(),
    };
    let bytes = |bytes: Option<i64>| match bytes.and_then(|bytes| u64::try_from(bytes).ok()) {
        Some(bytes) => Bytes(bytes).to_string(),
        None => "-".to_owned(),
    };
    let rows = report.cells.iter().map(|line| {
        let Line { cell, result } = line;
        let error = characterize::error_permille(result);
        [
            cell.describe(),
            time(result.median_ns),
            error.map_or("-".to_owned(), |error| format!("± {}", characterize::percent(error))),
            time(result.p90_ns),
            time(result.inference_ns),
            bytes(result.upload_bytes),
            result.runs.to_string(),
            result.state.clone(),
        ]
    });
    let header = ["cell", "median", "to", "p90", "inference", "upload", "runs", "state"];
    writeln!(out, "{}", table(header, rows))?;
    for line in &report.cells {
        if let Some(error) = &line.result.error {
            writeln!(out, "\nfailed: {}: {error}", line.cell.describe())?;
        }
    }
    writeln!(
        out,
        "\n{} cells in {}; seed {}",
        report.cells.len(),
        report.database.display(),
        report.seed
    )
}
