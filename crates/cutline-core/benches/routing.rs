//! How long a routing decision takes: `cargo bench -p cutline-core --bench routing`.
//!
//! The look-up of the best route at a rate, in the table of a planner's sweep and in invented ones of
//! many ranges; and whole calls of the router with frames under way: an answer while all is well, the
//! one that notices that every peer is gone and moves all frames, and the one that notices that the
//! second of two peers is, over which the faster half of the routes go. Medians and the slowest of many.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cutline_core::{
    planner::{Request, sweep},
    routing::{self, Action, Event, Fallback, Link, Measured, Route, Router, Settings, Table},
    units::{Bytes, BytesPerSec, Nanos},
};

mod invented;
use invented::{on_devices, synthetic, zoo_network};

fn main() {
    println!(
        "| table | ranges | look-up | answer, all well: median | slowest | all peers gone | one of two gone |"
    );
    println!("|---|---|---|---|---|---|---|");
    print("densenet121", &swept("densenet121"));
    print("inceptionv3", &swept("inceptionv3"));
    for ranges in [8, 64, 512] {
        print("invented", &invented_table(ranges, 1));
        print("invented, two peers", &invented_table(ranges, 2));
    }
}

fn print(name: &str, table: &Table) {
    let ranges = table.route_ids().count();
    let rates: Vec<BytesPerSec> = (1..=1000).map(|n| BytesPerSec(n * n * 100)).collect();
    let all = median(101, || rates.iter().map(|&rate| table.best_at(rate)).collect::<Vec<_>>());
    let (answer, slowest) = answers(table);
    println!(
        "| {name} | {ranges} | {:.0} ns | {:.2} us | {:.2} us | {:.2} us | {} |",
        all.as_secs_f64() * 1e9 / rates.len() as f64,
        micros(answer),
        micros(slowest),
        micros(gone(table, 0)),
        match table.links().len() {
            1 => "-".to_owned(),
            _ => format!("{:.2} us", micros(gone(table, 1))),
        }
    );
}

/// The table of a network on two devices, from 0.1 to 1000 Mbit/s.
fn swept(name: &str) -> Table {
    let network = zoo_network(name);
    let (dag, costs) = on_devices(&network, 2);
    let rates = [BytesPerSec(12_500), BytesPerSec(125_000_000)];
    let regimes = sweep(&dag, &costs, &Request::default(), 0, rates, &mut || false);
    let regimes = regimes.expect("two devices");
    let none = Err("not asked".to_owned());
    Table::of_sweep(&costs, 0, &regimes, none, &[]).expect("a sweep makes a table").0
}

/// So many routes, each best somewhere, and the fallback; the faster half goes over the last link too.
fn invented_table(ranges: usize, peers: usize) -> Table {
    let devices = on_devices(&synthetic(4), 2).1;
    let ends = devices.links()[0].between;
    let route = |at: usize| Route {
        name: format!("r{at}"),
        links: match at {
            0 => Vec::new(),
            _ if at < ranges / 2 => vec![0],
            _ => (0..peers).collect(),
        },
        fixed: Nanos(1_000_000 * (1 + ranges - at) as u64),
        up: Bytes(100 * (at * at) as u64),
        down: Bytes(0),
        capacity: 4,
    };
    let link = |at| Link { from: ends[at], to: ends[1 - at], base: Nanos(5_000_000) };
    let links = (0..peers).map(link).collect();
    let starts = (0..ranges).map(|at| (BytesPerSec(1000 * (1 + at * at) as u64), at)).collect();
    let measured = Some(Measured { link: 0, ratio: [1, 1] });
    let routes = (0..ranges).map(route).collect();
    Table::new(links, routes, starts, measured, Fallback::Route(0)).expect("a table")
}

/// A router whose peers are up, its link measured, its routes loaded.
struct Well {
    router: Router,
    now: Nanos,
    sent: Vec<routing::Request>,
    /// How many peers, from the first, give signs of life.
    alive: usize,
}

impl Well {
    fn new(table: &Table) -> Self {
        let settings = Settings { most_frames: 16, ..Settings::default() };
        let router = Router::new(table.clone(), settings, 1, Nanos(0));
        let alive = table.links().len();
        let mut well = Self { router, now: Nanos(0), sent: Vec::new(), alive };
        for _ in 0..20 {
            well.now += Nanos(1_000_000);
            well.carry_out();
        }
        well
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.router.poll() {
            let now = self.now;
            match action {
                Action::Send { request, .. } => self.sent.push(request),
                Action::Heartbeat { link, .. } if link.index() >= self.alive => {}
                Action::Heartbeat { link, number } => {
                    self.router.handle(now, Event::Heard { link, number, boot: 1 });
                }
                Action::Probe { link, bytes } => {
                    let began = now - Nanos(50_000_000);
                    self.router.handle(now, Event::Probed { link, bytes, began, ended: now });
                }
                Action::Load { route, ticket } => {
                    self.router.handle(now, Event::Loaded { route, ticket });
                }
                _ => {}
            }
        }
    }
}

/// Median and slowest time of taking in an answer and a new frame.
fn answers(table: &Table) -> (Duration, Duration) {
    let mut well = Well::new(table);
    let mut times = Vec::new();
    for _ in 0..20_000 {
        well.now += Nanos(1_000_000);
        well.router.advance(well.now);
        well.carry_out();
        while well.router.submit(well.now).is_ok() {}
        well.carry_out();
        let Some(request) = well.sent.first().copied() else { continue };
        well.sent.remove(0);
        let start = Instant::now();
        well.router.handle(well.now, Event::Answered(request));
        times.push(start.elapsed());
        well.carry_out();
    }
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Time of the call that moves sixteen frames away from dead peers, when all but so many are.
fn gone(table: &Table, alive: usize) -> Duration {
    let mut well = Well::new(table);
    while well.router.submit(well.now).is_ok() {}
    well.carry_out();
    well.alive = alive;
    if alive == 0 {
        return timed(&well.router, well.now + well.router.settings().detection());
    }
    let last = table.link_ids().last().expect("a link");
    loop {
        let mut next = well.router.clone();
        well.now += Nanos(1_000_000);
        next.advance(well.now);
        if !next.is_up(last) {
            return timed(&well.router, well.now);
        }
        well.router = next;
        well.carry_out();
    }
}

/// The median of the call alone, without the copy of the router.
fn timed(router: &Router, dead: Nanos) -> Duration {
    let mut times: Vec<Duration> = (0..1001)
        .map(|_| {
            let mut router = router.clone();
            let start = Instant::now();
            router.advance(dead);
            let time = start.elapsed();
            black_box(router);
            time
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn median<T>(runs: usize, work: impl Fn() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[runs / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
