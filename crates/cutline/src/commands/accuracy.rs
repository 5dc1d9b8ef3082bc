//! `cutline accuracy`: how right networks are on pictures, by size, precision, upload and cut.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

use cutline_core::agreement::Interval;
use cutline_runtime::files::write_bytes;

use crate::{
    accuracy::{self, Report, Row},
    agree::ShareRow,
    output::{Output, table},
};

/// Count how right networks are on a folder of pictures, by size, precision, upload and cut, and which are the best for their latency and money.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline accuracy grid.toml --platform platform.toml --csv cells.csv\n\nA small grid:\n\n  version = 1\n  pictures = \"photos\"\n  truth = \"truth.tsv\"\n  networks = [\"own.onnx\"]\n  uploads = [\"uint8\", \"jpeg:90\", \"jpeg:50\"]\n  cuts = [\"whole\", \"25%\", \"75%\"]\n  codecs = [\"none\", \"uint8\", \"bits4\"]\n\nWithout `truth`, and without a sub-folder for each class, cells are judged by how often they answer as the unsplit fp32 network."
)]
pub(crate) struct Args {
    /// Networks, sizes, precisions, uploads, cuts and codecs, and the pictures.
    #[arg(value_name = "GRID.toml")]
    grid: PathBuf,
    /// Devices and links, with profiles of the networks or presets: what each cell costs.
    #[arg(long, value_name = "T.toml")]
    platform: Option<PathBuf>,
    /// Write every cell as CSV, too.
    #[arg(long, value_name = "F.csv")]
    csv: Option<PathBuf>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let report = accuracy::accuracy(&args.grid, args.platform.as_deref(), output)?;
    if let Some(path) = &args.csv {
        write_bytes(path, accuracy::csv(&report).into_bytes())?;
    }
    output.print(&report, |out| write_report(&report, out))?;
    Ok(ExitCode::SUCCESS)
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    write_cells(report, out)?;
    let pictures = &report.pictures;
    write!(out, "\n{} pictures", pictures.count)?;
    match pictures.labelled {
        0 => writeln!(out, " without labels; intervals are Wilson's of 95 %")?,
        labelled => writeln!(out, ", {labelled} labelled; intervals are Wilson's of 95 %")?,
    }
    match pictures.skipped.as_slice() {
        [] => {}
        [first, ..] => {
            let count = pictures.skipped.len();
            writeln!(out, "{count} more could not be read, such as `{}`", first.file)?;
        }
    }
    for reference in &report.references {
        let accuracy = reference.accuracy.map(|row| format!(", right: {}", row.share()));
        writeln!(
            out,
            "`{}` is compared with itself unsplit in {} at {}{}",
            reference.network,
            reference.precision,
            reference.input,
            accuracy.unwrap_or_default()
        )?;
    }
    for reason in &report.skipped {
        writeln!(out, "left out: {reason}")?;
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in report.cells.iter().filter_map(|row| row.no_costs.as_deref()) {
        *reasons.entry(reason).or_default() += 1;
    }
    for (reason, cells) in reasons {
        writeln!(out, "no costs of {cells} cells: {reason}")?;
    }
    write_front(report, out)
}

fn write_cells(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let rows = report.cells.iter().map(|row| {
        let costs = row.costs.as_ref();
        let time = costs.map(|costs| costs.latency_ns.to_string());
        let money = costs.and_then(|costs| costs.money_per_month);
        let mark = if row.on_front { "*" } else { " " };
        [
            format!("{mark} {}", name(report, row)),
            row.accuracy.map_or("-".to_owned(), percent),
            percent(row.agreement),
            row.bytes_sent.to_string(),
            time.unwrap_or("-".to_owned()),
            money.map_or("-".to_owned(), |money| money.to_string()),
            costs.map_or("-", |costs| costs.origin.name()).to_owned(),
        ]
    });
    let header = ["cell", "accuracy", "agreement", "sent", "latency", "a month", "times"];
    writeln!(out, "{}", table(header, rows))
}

/// What a cell is; the filter only where there are several.
fn name(report: &Report, row: &Row) -> String {
    let cell = &row.cell;
    let is_same = report.cells.iter().all(|other| other.cell.filter == cell.filter);
    let filter = if is_same { String::new() } else { format!(", {}", cell.filter) };
    let cloud = row.costs.as_ref().and_then(|costs| costs.cloud.as_deref());
    let cloud = cloud.map(|cloud| format!(", `{cloud}`")).unwrap_or_default();
    let (network, input, precision) = (&cell.network, &cell.input, &cell.precision);
    format!("{network}, {input}, {precision}{filter}: {}{cloud}", cell.plan())
}

/// `93.0 % (86.3 to 96.6)`.
fn percent(row: ShareRow) -> String {
    let share = row.share();
    let Interval { low, high } = share.interval();
    let [value, low, high] = [share.value(), low, high].map(|share| share * 100.0);
    format!("{value:.1} % ({low:.1} to {high:.1})")
}

fn write_front(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let front = &report.front;
    let each = match front.by.first() {
        Some(&"agreement") => ", of each network by itself",
        _ => "",
    };
    let (of, sending) = match front.by.contains(&"bytes") {
        true => ("cell that sends anything", "; give --platform for latency and money"),
        false => ("cell", ""),
    };
    let by = front.by.join(", ");
    writeln!(out, "\n* on the front of {by}{each}: no other {of} is better in all of it{sending}")?;
    for (number, &at) in (1..).zip(&front.cells) {
        let row = &report.cells[at];
        let place = |cell: usize| front.cells.iter().position(|&other| other == cell);
        let better = front.alike.iter().filter(|pair| pair.cells[1] == at);
        let better: Vec<String> =
            better.filter_map(|pair| Some((place(pair.cells[0])? + 1).to_string())).collect();
        let words = match better.is_empty() {
            true => String::new(),
            false => format!("; not told apart from {}", better.join(", ")),
        };
        writeln!(out, "  {number}. {}, {}{words}", percent(row.quality()), name(report, row))?;
    }
    if !front.alike.is_empty() {
        writeln!(
            out,
            "not told apart: by McNemar's exact test these pictures leave it open which of two is right more often; more pictures may tell"
        )?;
    }
    Ok(())
}
