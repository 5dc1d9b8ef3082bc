//! `cutline predict scaling`: throughput over threads, batch or replicas, from a sweep.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::ValueEnum;
use cutline_core::scaling::{Law, MOST, Point};
use serde::Serialize;

use super::percent;
use crate::{
    characterize::results::Results,
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

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Axis {
    /// Threads of the engine.
    Threads,
    /// Frames computed at once.
    Batch,
    /// Agents that share the frames.
    Replicas,
}

const AXES: [Axis; 3] = [Axis::Threads, Axis::Batch, Axis::Replicas];

/// Columns that say what a cell is; a file may lack any.
const SETTINGS: [&str; 19] = [
    "network",
    "precision",
    "height",
    "width",
    "engine",
    "engine_version",
    "threads",
    "batch",
    "replicas",
    "picture",
    "preprocess",
    "filter",
    "upload",
    "jpeg_quality",
    "link",
    "agent",
    "hardware",
    "network_sha256",
    "picture_sha256",
];

/// Settings that nobody reads.
const HASHES: [&str; 2] = ["network_sha256", "picture_sha256"];

/// A fitted law, as printed.
#[derive(Debug, Serialize)]
struct Fit {
    over: Axis,
    /// What the cells have in common.
    of: BTreeMap<&'static str, String>,
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

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Batch => "batch",
            Self::Replicas => "replicas",
        }
    }
}

pub(super) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let results = Results::read(&args.sweep)?;
    let mut fits = Vec::new();
    for axis in AXES.into_iter().filter(|axis| args.over.is_none_or(|over| over == *axis)) {
        let fitted = fits_over(&results, axis, &args.at);
        fits.extend(fitted.with_context(|| format!("cannot use `{}`", args.sweep.display()))?);
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

/// A fit for all cells that differ in this only.
fn fits_over(results: &Results, axis: Axis, at: &[u32]) -> anyhow::Result<Vec<Fit>> {
    let Some(place) = results.column(axis.name()) else { return Ok(Vec::new()) };
    let others: Vec<(&'static str, usize)> = SETTINGS
        .iter()
        .filter(|name| **name != axis.name())
        .filter_map(|name| Some((*name, results.column(name)?)))
        .collect();
    let mut groups: BTreeMap<Vec<&str>, Vec<Point>> = BTreeMap::new();
    for (number, row) in (2..).zip(&results.rows) {
        let throughput = throughput(results, row, axis).with_context(|| format!("row {number}"))?;
        let Some(throughput) = throughput else { continue };
        let n = row[place].parse().with_context(|| {
            format!("row {number}: `{}` is no number of {}", row[place], axis.name())
        })?;
        let key = others.iter().map(|(_, at)| row[*at].as_str()).collect();
        groups.entry(key).or_default().push(Point { n, throughput });
    }
    let grows = |points: &Vec<Point>| points.iter().any(|point| point.n != points[0].n);
    let groups = groups.into_iter().filter(|(_, points)| grows(points));
    groups
        .map(|(key, points)| {
            let of = others.iter().zip(key).map(|((name, _), value)| (*name, value.to_owned()));
            fit(axis, of.filter(|(_, value)| !value.is_empty()).collect(), points, at)
        })
        .collect()
}

/// Frames per second of a row; `None` of a cell without a result.
fn throughput(results: &Results, row: &[String], axis: Axis) -> anyhow::Result<Option<f64>> {
    let number = |name: &str| -> anyhow::Result<Option<f64>> {
        match results.column(name).map(|at| row[at].trim()) {
            None | Some("") => Ok(None),
            Some(text) => match text.parse::<f64>() {
                Ok(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
                _ => bail!("`{text}` in column `{name}` is no number above 0"),
            },
        }
    };
    if results.column("throughput").is_some() {
        return number("throughput");
    }
    if axis == Axis::Replicas {
        bail!("replicas need a column `throughput`, in frames a second");
    }
    if results.column("median_ns").is_none() {
        bail!("there is neither a column `throughput` nor `median_ns`");
    }
    let batch = number("batch")?.unwrap_or(1.0);
    Ok(number("median_ns")?.map(|median| batch * 1e9 / median))
}

fn fit(
    over: Axis,
    of: BTreeMap<&'static str, String>,
    mut points: Vec<Point>,
    at: &[u32],
) -> anyhow::Result<Fit> {
    let law = Law::fit(&points)?;
    points.sort_by_key(|point| point.n);
    let asked = at.iter().filter(|n| points.iter().all(|point| point.n != **n));
    let row = |n, measured| Row { n, measured, predicted: law.throughput(n) };
    let mut rows: Vec<Row> =
        points.iter().map(|point| row(point.n, Some(point.throughput))).collect();
    rows.extend(asked.map(|n| row(*n, None)));
    rows.sort_by_key(|row| row.n);
    rows.dedup_by_key(|row| (row.n, row.measured.map(f64::to_bits)));
    Ok(Fit {
        over,
        of,
        lambda: law.lambda,
        sigma: law.sigma,
        kappa: law.kappa,
        peak: law.peak(),
        cross_validated_ppm: law.cross_validated.map(|error| (error * 1e6).round() as u64),
        points: rows,
    })
}

fn write_fit(fit: &Fit, out: &mut dyn Write) -> std::io::Result<()> {
    let told = SETTINGS.iter().filter(|name| !HASHES.contains(name));
    let of = told.filter_map(|name| {
        let value = fit.of.get(name)?;
        // Bare numbers say nothing.
        Some(match value.parse::<u64>() {
            Ok(_) => format!("{name} {value}"),
            Err(_) => value.clone(),
        })
    });
    writeln!(out, "{}", of.collect::<Vec<_>>().join(", "))?;
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
