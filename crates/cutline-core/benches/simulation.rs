//! What simulating a deployment costs: `cargo bench -p cutline-core --bench simulation`.
//!
//! An hour of a million cameras that send one frame per 10 s, in cells of a hundred that share two
//! cloud replicas: a sample of the cells counted many times, and every one of them; one huge cell that
//! all cameras share; single stations, by their kind; and how far the formulas of `queueing` are from
//! what is simulated. `-- SECTION` runs one of `stations`, `hour`, `cell`, `formulas`.

use std::{hint::black_box, time::Instant};

use cutline_core::{
    queueing::predict,
    simulate::{
        Arrivals, Cell, Choice, Edges, Outcome, Rates, Service, Settings, Station, simulate,
    },
    units::{Bytes, BytesPerSec, Nanos},
};

#[path = "../tests/loads/mod.rs"]
mod loads;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let sections: [(&str, fn()); 4] =
        [("stations", stations), ("hour", hour), ("cell", huge), ("formulas", formulas)];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            section();
            println!();
        }
    }
}

fn head(title: &str) {
    println!("{title}\n");
    println!(
        "| what | events stood for | simulated | time | events/s | peak memory | p50 | p99 | drops |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

fn row(name: &str, cell: &Cell, count: u64, settings: &Settings) -> Outcome {
    let start = Instant::now();
    let outcome = simulate(cell, count, settings, &mut || false).expect("a sound cell");
    let time = start.elapsed();
    let at = |time: Option<Nanos>| time.map_or("-".to_owned(), |time| time.to_string());
    println!(
        "| {name} | {:.3} G | {:.3} G | {:.2} s | {:.1} M | {} | {} | {} | {} |",
        outcome.represented as f64 / 1e9,
        outcome.events as f64 / 1e9,
        time.as_secs_f64(),
        outcome.events as f64 / time.as_secs_f64() / 1e6,
        peak_memory(),
        at(outcome.latency.p50()),
        at(outcome.latency.p99()),
        outcome.dropped
    );
    outcome
}

/// The most memory that this process ever had, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map_or("unknown".to_owned(), |kib| format!("{:.0} MiB", kib / 1024.0))
}

fn settings(seconds: u64, sample: u64) -> Settings {
    let (duration, warm_up) = (Nanos(seconds * SECOND), Nanos(60.min(seconds / 2) * SECOND));
    Settings { duration, warm_up, sample, seed: 1 }
}

/// Cameras one by one, each with a device and its link, and what they share.
fn cell(cameras: u32, cloud: Station) -> Cell {
    let day = [(Nanos(0), BytesPerSec(500_000)), (Nanos(40 * SECOND), BytesPerSec(100_000))];
    let rates = Rates::steps(&day, Some(Nanos(60 * SECOND))).expect("a rising table");
    let edges = Edges {
        count: cameras,
        cameras: 1,
        arrivals: Arrivals::Periodic { period: Nanos(10 * SECOND) },
        before: vec![
            Station::compute("device", Service::Constant(Nanos(50 * MS))),
            Station::link("up", Bytes(20_000), rates, Nanos(10 * MS)),
        ],
        after: vec![Station::compute("down", Service::Constant(Nanos(MS)))],
    };
    Cell { edges: vec![edges], shared: vec![cloud] }
}

fn hour() {
    head("a million cameras, one frame per 10 s, one hour: 10,000 cells of 100 cameras");
    let cloud = Station::compute("cloud", Service::Constant(Nanos(140 * MS)));
    let cell = cell(100, cloud.replicated(2, Choice::Fewest));
    row("100 cells, each counted 100 times", &cell, 10_000, &settings(3600, 100));
    row("every cell", &cell, 10_000, &settings(3600, 0));
}

fn huge() {
    head("one cell: a million cameras share 20,000 replicas or one queue");
    let cloud = |servers, time| {
        let service = Station::compute("cloud", Service::Constant(Nanos(time)));
        service.replicated(servers, Choice::Common)
    };
    row("one fast server, 10 min", &cell(1_000_000, cloud(1, 8000)), 1, &settings(600, 0));
    row("20,000 servers, 10 min", &cell(1_000_000, cloud(20_000, 160 * MS)), 1, &settings(600, 0));
}

fn stations() {
    head("one station, 70 % busy, Poisson arrivals");
    let one = |station: Station| {
        let gap = Nanos(MS * 10 / 7 / u64::from(station.servers));
        let arrivals = Arrivals::Poisson { interval: gap };
        let before = vec![station];
        let edges = Edges { count: 1, cameras: 1, arrivals, before, after: vec![] };
        Cell { edges: vec![edges], shared: vec![] }
    };
    let measured = (0..100).map(|at| Nanos(MS / 2 + at * MS / 100)).collect();
    for (name, service) in [
        ("constant", Service::Constant(Nanos(MS))),
        ("exponential", Service::Exponential(Nanos(MS))),
        ("measured", Service::Measured(measured)),
    ] {
        for (choice, servers) in
            [(Choice::Common, 1), (Choice::Common, 2), (Choice::Fewest, 2), (Choice::Common, 64)]
        {
            let station = Station::compute("cloud", service.clone()).replicated(servers, choice);
            let choice = if choice == Choice::Common { "" } else { ", fewest first" };
            let seconds = 5000 / u64::from(servers);
            row(&format!("{name} x {servers}{choice}"), &one(station), 1, &settings(seconds, 0));
        }
    }
}

/// The formulas of `queueing` against the simulator: errors at p50 and p99.
fn formulas() {
    println!("formulas against the simulator, errors at p50 / p99\n");
    println!("| stations | 30 % | 60 % | 90 % |\n|---|---|---|---|");
    let mut sums = [[0.0; 2]; 3];
    let cases = loads::cases();
    for case in &cases {
        let mut row = format!("| {} |", case.name);
        for (percent, sums) in [30, 60, 90].into_iter().zip(&mut sums) {
            let latency = predict(case.interval(percent), &case.stages).expect("below capacity");
            let (cell, settings) = case.cell(percent, 3_000_000);
            let outcome = simulate(&cell, 1, &settings, &mut || false).expect("a sound cell");
            let errors = [500_000, 990_000].map(|ppm| {
                let found = outcome.latency.percentile(ppm).expect("frames");
                (latency.percentile(ppm).0 as f64 / found.0 as f64 - 1.0) * 100.0
            });
            sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error.abs());
            row += &format!(" {:+.1} % / {:+.1} % |", errors[0], errors[1]);
        }
        println!("{row}");
    }
    let count = cases.len() as f64;
    let means = sums.map(|[p50, p99]| format!("{:.1} % / {:.1} %", p50 / count, p99 / count));
    println!("| mean of absolute errors | {} |", means.join(" | "));
    let start = Instant::now();
    for case in &cases {
        black_box(predict(case.interval(90), &case.stages).expect("below capacity"));
    }
    let each = start.elapsed() / cases.len() as u32;
    println!("\none prediction takes {:.1} ms on average", each.as_secs_f64() * 1e3);
}
