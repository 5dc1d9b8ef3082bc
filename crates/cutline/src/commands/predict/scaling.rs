//! `cutline predict scaling`: throughput over threads, batch or replicas, from a sweep.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use cutline_core::scaling::MOST;
use serde::Serialize;

use super::percent;
use crate::{
    characterize::{
        curves::{AXES, Axis, Curve, curves},
        results::Results,
    },
    output::{Output, table},
};

/// Predict throughput over threads, batch or replicas: the Universal Scalability Law, fitted to a sweep.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline characterize grid.toml -o sweep.db    # with threads = [1, 2, 4, 8], say\n  cutline predict scaling sweep.db --at 16,32\n\nCells that differ in nothing else make one fit. CSV has a heading and the columns of `cutline characterize --csv`: `threads`, `batch` or `replicas`, and `throughput` (frames a second) or `median_ns` (of a run of the whole batch). The error beside predictions is the median of those of each number left out of the fit."
)]
pub(crate) struct Args {
    /// A file of `cutline characterize`, or CSV.
    #[arg(value_name = "SWEEP.db|F.csv")]
    sweep: PathBuf,
    /// What grows [default: all that the file lets grow].
    #[arg(long, value_enum)]
    over: Option<Axis>,
    /// Predict at these numbers, too.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    at: Vec<u32>,
}

/// A fitted law, as printed.
#[derive(Debug, Serialize)]
struct Fit {
    over: Axis,
    /// What the cells have in common.
    of: BTreeMap<&'static str, String>,
    /// The same in words.
    #[serde(skip)]
    subject: String,
    /// Frames per second of one.
    lambda: f64,
    /// Contention.
    sigma: f64,
    /// Coherency.
    kappa: f64,
    /// The number with the most frames per second; absent where more is always more.
    peak: Option<u32>,
    /// Median relative error at numbers left out of the fit; absent of fewer than four numbers.
    cross_validated_ppm: Option<u64>,
    points: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    n: u32,
    /// Frames per second, where they were measured.
    measured: Option<f64>,
    predicted: f64,
}

pub(super) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let results = Results::read(&args.sweep)?;
    let mut fits = Vec::new();
    for axis in AXES.into_iter().filter(|axis| args.over.is_none_or(|over| over == *axis)) {
        let found = curves(&results, axis);
        let found = found.with_context(|| format!("cannot use `{}`", args.sweep.display()))?;
        fits.extend(found.into_iter().map(|curve| fit(curve, &args.at)));
    }
    if fits.is_empty() {
        let what = args.over.map_or("threads, batch or replicas", Axis::name);
        bail!(
            "no finished cells of `{}` differ in {what} alone: measure some that do, with `threads = [1, 2, 4, 8]` in the grid, say",
            args.sweep.display()
        );
    }
    output.print(&fits, |out| fits.iter().try_for_each(|fit| write_fit(fit, out)))?;
    Ok(ExitCode::SUCCESS)
}

fn fit(curve: Curve, at: &[u32]) -> Fit {
    let subject = curve.subject();
    let Curve { over, of, points, law } = curve;
    let asked = at.iter().filter(|n| points.iter().all(|point| point.n != **n));
    let row = |n, measured| Row { n, measured, predicted: law.throughput(n) };
    let mut rows: Vec<Row> =
        points.iter().map(|point| row(point.n, Some(point.throughput))).collect();
    rows.extend(asked.map(|n| row(*n, None)));
    rows.sort_by_key(|row| row.n);
    rows.dedup_by_key(|row| (row.n, row.measured.map(f64::to_bits)));
    Fit {
        over,
        of,
        subject,
        lambda: law.lambda,
        sigma: law.sigma,
        kappa: law.kappa,
        peak: law.peak(),
        cross_validated_ppm: law.cross_validated.map(|error| (error * 1e6).round() as u64),
        points: rows,
    }
}

fn write_fit(fit: &Fit, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", fit.subject)?;
    let error = fit.cross_validated_ppm.map_or("-".to_owned(), |ppm| format!("± {}", percent(ppm)));
    let rows = fit.points.iter().map(|row| {
        let measured = row.measured.map(|measured| format!("{measured:.1}"));
        let off = row.measured.map(|measured| (row.predicted / measured - 1.0) * 100.0);
        [
            row.n.to_string(),
            measured.unwrap_or_else(|| "-".to_owned()),
            format!("{:.1}", row.predicted),
            error.clone(),
            off.map_or("-".to_owned(), |off| format!("{off:+.1} %")),
        ]
    });
    let header =
        [fit.over.name(), "measured, frames/s", "predicted", "error of unseen", "off, fitted"];
    writeln!(out, "{}", table(header, rows))?;
    let peak = match fit.peak {
        Some(n) => format!("most at {n}"),
        None => "more is always more".to_owned(),
    };
    writeln!(
        out,
        "one does {:.1} frames/s, contention {:.4}, coherency {:.6}: {peak}\n",
        fit.lambda, fit.sigma, fit.kappa
    )
}
