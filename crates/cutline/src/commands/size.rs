//! `cutline size`: what to rent and to buy for so many cameras.

use std::{io::Write, path::PathBuf, process::ExitCode};

use cutline_core::{cost::EnergyOrigin, size::Check, units::Nanos};

use crate::{
    output::{Output, table},
    sizing::{self, Report, Row},
};

/// Find the cheapest deployment for a number of cameras: plan, board, link, instances and how many.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline size workload.toml\n\nA small workload:\n\n  version = 1\n  [workload]\n  cameras = 5000\n  frames_per_second = \"1\"\n  deadline = \"300ms\"\n  [[network]]\n  zoo = \"mobilenetv2\"\n  [[board]]\n  preset = \"rpi4\"\n  [[instance]]\n  preset = \"c5.large\"\n  [[link]]\n  preset = \"4g-2020\"\n\n`cutline presets` lists boards, instances and links. Exit code 1: nothing serves the workload."
)]
pub(crate) struct Args {
    /// What is to be served, and by what it may be served.
    #[arg(value_name = "WORKLOAD.toml")]
    workload: PathBuf,
    /// Deployments to answer with, each of another network, board, instance or link.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    answers: u16,
    /// Frames of each simulation, about.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    frames: u64,
    /// Seed of the simulations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let check = Check { frames: args.frames, seed: args.seed };
    let report = sizing::size(&args.workload, usize::from(args.answers), &check, output)?;
    output.print(&report, |out| write_report(&report, out))?;
    Ok(if report.deployments.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    for left in &report.left_out {
        writeln!(out, "left out: {left}")?;
    }
    match report.deployments.as_slice() {
        [] => write_missed(report, out),
        [best, ..] => {
            write_table(report, out)?;
            write_best(report, best, out)?;
            write_sources(report, out)
        }
    }
}

fn write_missed(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "nothing serves {} cameras as asked; {} plans of {} combinations were looked at, nearest are:",
        report.cameras, report.candidates, report.combinations
    )?;
    for missed in &report.missed {
        let place = &missed.place;
        let beside = match (&place.instance, &place.link) {
            (Some(instance), Some(link)) => format!(", `{instance}` over `{link}`"),
            _ => String::new(),
        };
        writeln!(
            out,
            "  {}: `{}` on `{}`{beside}: {}",
            missed.limit, place.network, place.board, missed.says
        )?;
    }
    Ok(())
}

fn write_table(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let rows = report.deployments.iter().map(|row| {
        let found = &row.found;
        let simulated = found.simulated.as_ref().and_then(|simulated| simulated.latency_ns);
        let busiest = found.busy_ppm.values().max().copied().unwrap_or(0);
        let instances = match &row.place.instance {
            Some(instance) => format!("{} x {instance}", found.instances),
            None => "-".to_owned(),
        };
        [
            row.plan.to_owned(),
            row.place.network.clone(),
            row.place.board.clone(),
            row.place.link.clone().unwrap_or_else(|| "-".to_owned()),
            instances,
            row.cost.to_string(),
            found.latency_ns.to_string(),
            simulated.map_or("-".to_owned(), |latency: Nanos| latency.to_string()),
            percent(busiest),
            energy(row),
        ]
    });
    let percentile = f64::from(report.percentile_ppm) / 1e4;
    let cost = format!("{} a month", report.currency);
    let latency = format!("{percentile} % within");
    let header = [
        "plan",
        "network",
        "board",
        "link",
        "instances",
        &cost,
        &latency,
        "simulated",
        "busiest",
        "energy a month",
    ];
    writeln!(out, "{}", table(header, rows))
}

fn percent(ppm: u64) -> String {
    format!("{:.1} %", ppm as f64 / 1e4)
}

fn energy(row: &Row) -> String {
    match row.energy_wh_per_month {
        Some(energy) => format!("{:.1} kWh", energy as f64 / 1e3),
        None => "?".to_owned(),
    }
}

fn write_best(report: &Report, best: &Row, out: &mut dyn Write) -> std::io::Result<()> {
    let found = &best.found;
    writeln!(out, "\ncheapest: {}", what_runs_where(best))?;
    if best.place.instance.is_some() {
        let spread = match found.instances_per_camera {
            1 => format!(
                "{} cameras on each instance, {} at most",
                found.cameras_per_instance, found.most_cameras_per_instance
            ),
            instances => format!("{instances} instances for each camera"),
        };
        writeln!(
            out,
            "{spread}; {} of {} {} a month is rent",
            best.rent, best.cost, report.currency
        )?;
    }
    if let Some(promised) = found.promised_cameras_per_instance {
        writeln!(
            out,
            "the formulas promised {promised} cameras on an instance; the simulator disagreed"
        )?;
    }
    let grows = |growth: u64| format!("{:.2} times", growth as f64 / 1e3);
    let mut breaks = found.breaks.iter();
    if let Some(first) = breaks.next() {
        let then: Vec<String> =
            breaks.map(|one| format!("{} at {}", one.what, grows(one.growth_permille))).collect();
        let then =
            if then.is_empty() { String::new() } else { format!("; then: {}", then.join(", ")) };
        writeln!(
            out,
            "as every camera sends more frames the first to break is the {}, at {} as many{then}",
            first.what,
            grows(first.growth_permille)
        )?;
    }
    if let Some(more) = found.more_cameras {
        writeln!(out, "with the same instances there is room for {more} more cameras")?;
    }
    Ok(())
}

fn what_runs_where(row: &Row) -> String {
    let place = &row.place;
    let on = |device: &str| match row.engines.get(device) {
        Some(engine) if engine.engine.is_empty() => format!("`{device}`"),
        Some(engine) => format!("`{device}` with {} ({} threads)", engine.engine, engine.threads),
        None => format!("`{device}`"),
    };
    let crosses = row.crosses.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let encoding = row.input_encoding.iter().chain(&row.cut_encoding).map(String::as_str);
    let encoding = encoding.collect::<Vec<_>>().join(" and ");
    match (&place.instance, row.plan) {
        (Some(instance), "cloud") => format!(
            "do not split: all of `{}` on {}; the input {crosses} is sent as {encoding}, {}",
            place.network,
            on(instance),
            row.upload
        ),
        (Some(instance), _) => format!(
            "`{}` on {} up to {crosses}, which crosses as {encoding}, {}; the rest on {}",
            place.network,
            on(&place.board),
            row.upload,
            on(instance)
        ),
        (None, _) => format!("do not split: all of `{}` on {}", place.network, on(&place.board)),
    }
}

fn write_sources(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let origins = |modelled: bool| {
        let engines = report.deployments.iter().flat_map(|row| &row.engines);
        let mut names: Vec<&str> = engines
            .filter(|(_, engine)| sizing::is_modelled(engine.origin) == modelled)
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let (modelled, given) = (origins(true), origins(false));
    writeln!(out)?;
    if !modelled.is_empty() {
        writeln!(out, "times of {modelled}: modelled from presets, not measured")?;
    }
    if !given.is_empty() {
        writeln!(out, "times of {given}: from profiles, or given by a table")?;
    }
    let engines = report.deployments.iter().flat_map(|row| &row.engines);
    let mut metered: Vec<&str> = engines
        .filter(|(_, engine)| engine.energy_origin == EnergyOrigin::Measured)
        .map(|(name, _)| name.as_str())
        .collect();
    metered.sort_unstable();
    metered.dedup();
    let energy = match metered.as_slice() {
        [] => "modelled".to_owned(),
        _ => format!("measured on {}, else modelled", metered.join(", ")),
    };
    writeln!(
        out,
        "waiting: by formulas, and by simulation of {} deployments (seed {}); energy: {energy}",
        report.simulated, report.seed
    )
}
