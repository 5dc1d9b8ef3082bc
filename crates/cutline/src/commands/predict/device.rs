//! `cutline predict device`: times on a device of which a few networks were measured.

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use anyhow::{Context, bail};
use cutline_core::{
    units::Nanos,
    unseen::{Model, Processor},
};
use serde::Serialize;

use super::percent;
use crate::output::{Output, table};

/// Predict times of other networks on a device from a few measured ones, after a public table.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline predict device --measured alexnet=96ms --measured mobilenet=31ms --measured shufflenet=14ms\n\nWithout --measured it says which networks it knows, and which three say most. The error beside a time is the one that devices left out of the fit had, in the median."
)]
pub(crate) struct Args {
    /// A network's time on the device, named as in the table; repeatable. The three that say most: see
    /// the command without this.
    #[arg(long, value_name = "NAME=TIME", value_parser = measured)]
    measured: Vec<(String, Nanos)>,
    /// The device is a GPU.
    #[arg(long)]
    gpu: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    processor: Processor,
    /// Devices of the public table, and settings of these.
    devices: usize,
    rows: usize,
    /// The networks whose measurement says most of all others.
    say_most: Vec<String>,
    known: Vec<String>,
    measured_ns: BTreeMap<String, Nanos>,
    predictions: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    network: String,
    time_ns: Nanos,
    /// Median relative error of such predictions, cross-validated.
    error_ppm: u64,
}

pub(super) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let processor = if args.gpu { Processor::Gpu } else { Processor::Cpu };
    let model = Model::shipped(processor)?;
    let mut measured = BTreeMap::new();
    for (name, time) in &args.measured {
        let name = name.to_lowercase().replace('-', "_");
        if !model.networks().contains(&name) {
            bail!("the table has no network `{name}`; it has {}", model.networks().join(", "));
        }
        if measured.insert(name.clone(), *time).is_some() {
            bail!("network `{name}` was given twice; give one time, such as the median");
        }
    }
    let predictions = match measured.is_empty() {
        true => Vec::new(),
        false => model.predict(&measured)?,
    };
    let (devices, rows) = model.fitted_to();
    let report = Report {
        processor,
        devices,
        rows,
        say_most: model.best().map(str::to_owned).collect(),
        known: model.networks().to_vec(),
        measured_ns: measured,
        predictions: predictions
            .into_iter()
            .map(|one| Row { network: one.network, time_ns: one.time, error_ppm: one.error_ppm })
            .collect(),
    };
    output.print(&report, |out| write_report(&report, out))?;
    Ok(ExitCode::SUCCESS)
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let source = format!("{} devices of ncnn's public table", report.devices);
    if report.predictions.is_empty() {
        writeln!(out, "networks of {source}: {}", report.known.join(", "))?;
        return writeln!(
            out,
            "measure some of them on the device, and give each with --measured NAME=TIME; these say most: {}",
            report.say_most.join(", ")
        );
    }
    let rows = report.predictions.iter().map(|row| {
        [row.network.clone(), row.time_ns.to_string(), format!("± {}", percent(row.error_ppm))]
    });
    writeln!(out, "{}", table(["network", "predicted", "median error"], rows))?;
    writeln!(out, "\nfrom {} measured networks and {source}", report.measured_ns.len())?;
    let missing: Vec<&str> = report
        .say_most
        .iter()
        .map(String::as_str)
        .filter(|name| !report.measured_ns.contains_key(*name))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => writeln!(out, "measured too, these would say most: {}", missing.join(", ")),
    }
}

/// `NAME=TIME`.
fn measured(text: &str) -> anyhow::Result<(String, Nanos)> {
    let (name, time) =
        text.split_once('=').context("expected NAME=TIME, such as mobilenet=31ms")?;
    Ok((name.trim().to_owned(), time.parse()?))
}
