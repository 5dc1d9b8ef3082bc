//! `cutline predict load`: percentiles of latency where frames queue for replicas.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use cutline_core::{
    histogram::Histogram,
    queueing::{QueueError, Stage, predict},
    simulate::{Arrivals, Cell, Choice, Edges, Service, Settings, Station, simulate},
    units::{Money, Nanos},
};
use serde::Serialize;

use super::percent;
use crate::output::{Output, table};

/// Most times that a file may hold.
const MOST_TIMES: usize = 4_000_000;
/// Longest file of times, in bytes.
const MOST_BYTES: u64 = 256 << 20;
/// Longest single time, 11 days: sums of many do not overflow.
const LONGEST: u64 = 1_000_000_000_000_000;

/// What is asked for, in millionths.
const PERCENTILES: [u32; 3] = [500_000, 900_000, 990_000];

/// Predict latency under load: percentiles by formula and by simulation, and how busy replicas are.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline predict load --service 8ms --rate 200 --replicas 2\n  cutline predict load --service-csv service.csv --arrivals-csv arrivals.csv --beside 1.2ms\n\nFrames go to the replica with the fewest under way, as agents send them. Files have a time in the first column of each line: nanoseconds, or with a unit as `3.2ms`; arrivals are counted from any common moment."
)]
pub(crate) struct Args {
    /// How long a frame occupies a replica, always the same.
    #[arg(long, value_name = "TIME", required_unless_present = "service_csv")]
    service: Option<Nanos>,
    /// How long frames occupied a replica, as measured; each is as likely as the others.
    #[arg(long, value_name = "F.csv", conflicts_with = "service")]
    service_csv: Option<PathBuf>,
    /// Frames per second, of all cameras together.
    #[arg(long, value_name = "FPS", required_unless_present = "arrivals_csv")]
    rate: Option<Money>,
    /// How frames arrive.
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Pattern,
    /// When frames arrived, as recorded.
    #[arg(long, value_name = "F.csv", conflicts_with_all = ["rate", "arrivals"])]
    arrivals_csv: Option<PathBuf>,
    /// Replicas that share the frames.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    replicas: u32,
    /// Time beside service that occupies no replica, such as that of messages.
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    beside: Nanos,
    /// Frames of the simulation, where their arrivals were not recorded.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    frames: u64,
    /// Seed of the simulation.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Mean errors of simulated p50, p90 and p99 against agents, in millionths, below each share of busy
/// time, where they were measured: section `queueing` of the benchmark `figures`.
const ERRORS: [(u64, [u64; 3]); 3] = [
    (450_000, [35_000, 62_000, 75_000]),
    (750_000, [58_000, 60_000, 65_000]),
    (1_000_000, [45_000, 29_000, 48_000]),
];

/// How frames arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Pattern {
    /// At random, independent of each other, as those of many cameras do.
    Poisson,
    /// One after the other, as those of one camera do.
    Periodic,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    replicas: u32,
    /// `recorded` where a file was given.
    arrivals: &'static str,
    mean_service_ns: Nanos,
    mean_interval_ns: Nanos,
    beside_ns: Nanos,
    /// Share of the time that the replicas are busy, in millionths.
    busy_ppm: u64,
    percentiles: Vec<Row>,
    /// Frames that were simulated.
    frames: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    percentile_ppm: u32,
    /// By the formulas; absent where frames do not arrive at random.
    formula_ns: Option<Nanos>,
    simulated_ns: Nanos,
    /// How far the simulation was off against agents at the nearest measured load, mean.
    error_ppm: u64,
}

pub(super) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let service = match &args.service_csv {
        Some(path) => Service::Measured(times(path)?),
        None => Service::Constant(args.service.unwrap_or_default()),
    };
    let recorded = args.arrivals_csv.as_deref().map(recorded).transpose()?;
    let interval = match (&recorded, args.rate) {
        (Some(times), _) => mean_interval(times)?,
        (None, rate) => interval(rate.unwrap_or_default())?,
    };
    let stage = Stage {
        servers: args.replicas,
        choice: Choice::Fewest,
        delay: args.beside,
        ..Stage::new("replicas", service.clone())
    };
    let by_formula = match predict(interval, &[stage]) {
        Ok(latency) => Some(latency),
        // What was recorded has an end, so its queue has one, too.
        Err(QueueError::Overload { .. }) if recorded.is_some() => None,
        Err(error) => return Err(error.into()),
    };
    let by_formula = by_formula.filter(|_| recorded.is_some() || args.arrivals == Pattern::Poisson);
    let work = u128::from(mean(&service).0) * 1_000_000;
    let busy_ppm = work / (u128::from(interval.0) * u128::from(args.replicas));
    let busy_ppm = u64::try_from(busy_ppm).unwrap_or(u64::MAX);
    let (arrivals, name) = match (recorded, args.arrivals) {
        (Some(times), _) => (Arrivals::Recorded(times), "recorded"),
        (None, Pattern::Poisson) => (Arrivals::Poisson { interval }, "poisson"),
        (None, Pattern::Periodic) => (Arrivals::Periodic { period: interval }, "periodic"),
    };
    let simulated = simulation(args, &service, arrivals, interval)?;
    let frames = simulated.count();
    let row = |ppm| -> anyhow::Result<Row> {
        Ok(Row {
            percentile_ppm: ppm,
            formula_ns: by_formula.as_ref().map(|latency| latency.percentile(ppm)),
            simulated_ns: simulated.percentile(ppm).context("no frame was simulated")?,
            error_ppm: error_against_agents(busy_ppm, ppm),
        })
    };
    let report = Report {
        replicas: args.replicas,
        arrivals: name,
        mean_service_ns: mean(&service),
        mean_interval_ns: interval,
        beside_ns: args.beside,
        busy_ppm,
        percentiles: PERCENTILES.into_iter().map(row).collect::<Result<_, _>>()?,
        frames,
    };
    output.print(&report, |out| write_report(&report, out))?;
    Ok(ExitCode::SUCCESS)
}

/// Latencies of simulated frames; those of the first twentieth of invented arrivals find the replicas
/// too idle and are left out.
fn simulation(
    args: &Args,
    service: &Service,
    arrivals: Arrivals,
    interval: Nanos,
) -> anyhow::Result<Histogram> {
    let (duration, warm_up) = match &arrivals {
        Arrivals::Recorded(times) => {
            (times.iter().max().copied().unwrap_or_default() + Nanos(1), Nanos::ZERO)
        }
        _ => {
            let duration = interval * args.frames;
            (duration, Nanos(duration.0 / 20))
        }
    };
    let station = Station::compute("replicas", service.clone())
        .replicated(args.replicas, Choice::Fewest)
        .waiting(Station::UNBOUNDED);
    let edges = Edges { count: 1, cameras: 1, arrivals, before: Vec::new(), after: Vec::new() };
    let shared = vec![Station { delay: args.beside, ..station }];
    let settings = Settings { duration, warm_up, sample: 1, seed: args.seed };
    let cell = Cell { edges: vec![edges], shared };
    Ok(simulate(&cell, 1, &settings, &mut || false)?.latency)
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let time = |time: Option<Nanos>| time.map_or("-".to_owned(), |time| time.to_string());
    let rows = report.percentiles.iter().map(|row| {
        [
            format!("p{}", row.percentile_ppm / 10_000),
            time(row.formula_ns),
            row.simulated_ns.to_string(),
            format!("± {}", percent(row.error_ppm)),
        ]
    });
    let header = ["latency", "by formula", "simulated", "error against agents"];
    writeln!(out, "{}", table(header, rows))?;
    writeln!(
        out,
        "\nbusy {} of the time: a frame occupies one of {} for {}, one comes every {} ({}, {} frames simulated)",
        percent(report.busy_ppm),
        if report.replicas == 1 {
            "1 replica".to_owned()
        } else {
            format!("{} replicas", report.replicas)
        },
        report.mean_service_ns,
        report.mean_interval_ns,
        report.arrivals,
        report.frames
    )?;
    if report.arrivals == "recorded" {
        writeln!(out, "formulas take recorded arrivals as random ones at the same rate")?;
    }
    Ok(())
}

/// What the measured load that is nearest says.
fn error_against_agents(busy_ppm: u64, percentile_ppm: u32) -> u64 {
    let nearest = ERRORS.iter().find(|(below, _)| busy_ppm < *below).or(ERRORS.last());
    let at = PERCENTILES.iter().position(|ppm| *ppm == percentile_ppm);
    nearest.zip(at).map_or(0, |((_, errors), at)| errors[at])
}

/// The mean interval of so many millionths of a frame per second.
fn interval(rate: Money) -> anyhow::Result<Nanos> {
    match 1_000_000_000_000_000_u64.checked_div(rate.0) {
        Some(interval) if interval > 0 && interval <= LONGEST => Ok(Nanos(interval)),
        _ => bail!("--rate {rate}: give frames per second, from 0.000001 to a thousand million"),
    }
}

/// Recorded moments, in order and from 0.
fn recorded(path: &Path) -> anyhow::Result<Vec<Nanos>> {
    let mut times = times(path)?;
    times.sort_unstable();
    let first = times.first().copied().unwrap_or_default();
    times.iter_mut().for_each(|time| *time = *time - first);
    Ok(times)
}

fn mean_interval(times: &[Nanos]) -> anyhow::Result<Nanos> {
    let span = times.last().copied().unwrap_or_default();
    match span.0.checked_div(times.len().saturating_sub(1) as u64) {
        Some(interval) if interval > 0 => Ok(Nanos(interval)),
        _ => bail!("recorded arrivals: give at least two frames at different moments"),
    }
}

fn mean(service: &Service) -> Nanos {
    match service {
        Service::Constant(time) | Service::Exponential(time) => *time,
        Service::Measured(times) => {
            let sum: u128 = times.iter().map(|time| u128::from(time.0)).sum();
            Nanos((sum / times.len().max(1) as u128) as u64)
        }
    }
}

/// The first column of a file: times in nanoseconds or with a unit. A first line that is none is a
/// heading; empty lines say nothing.
fn times(path: &Path) -> anyhow::Result<Vec<Nanos>> {
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut times = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file.take(MOST_BYTES)).lines()) {
        let line = line.with_context(|| format!("cannot read `{}`", path.display()))?;
        let field = line.split([',', ';', '\t']).next().unwrap_or_default().trim();
        if field.is_empty() {
            continue;
        }
        let time = field.parse().map(Nanos).ok().or_else(|| field.parse().ok());
        match time {
            Some(time) if time.0 <= LONGEST => times.push(time),
            Some(_) => bail!("`{}`, line {number}: {field} is too long a time", path.display()),
            None if number == 1 => {}
            None => bail!(
                "`{}`, line {number}: `{field}` is no time: give nanoseconds, or a unit as in 3.2ms",
                path.display()
            ),
        }
        if times.len() > MOST_TIMES {
            bail!("`{}` holds more than {MOST_TIMES} times; give a part of them", path.display());
        }
    }
    if times.is_empty() {
        bail!("`{}` holds no time; give one in the first column of each line", path.display());
    }
    Ok(times)
}
