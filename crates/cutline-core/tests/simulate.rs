//! The simulator against closed forms, against an event-by-event simulation, and against itself:
//! cells counted many times as if each had been simulated.
#![allow(clippy::unwrap_used)]

use cutline_core::{
    simulate::{
        Arrivals, Cell, Choice, Edges, Outcome, Rates, Service, Settings, SimulateError, Station,
        Work, simulate,
    },
    units::{Bytes, BytesPerSec, Nanos},
};
use proptest::prelude::*;

mod events;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn settings(seconds: u64) -> Settings {
    let duration = Nanos(seconds * SECOND);
    Settings { duration, warm_up: Nanos(duration.0 / 20), sample: 0, seed: 1 }
}

fn run(cell: &Cell, count: u64, settings: &Settings) -> Outcome {
    simulate(cell, count, settings, &mut || false).unwrap()
}

/// One edge of one camera with Poisson arrivals, then these stations.
fn poisson(interval: u64, stations: Vec<Station>) -> Cell {
    let arrivals = Arrivals::Poisson { interval: Nanos(interval) };
    let edges = Edges { count: 1, cameras: 1, arrivals, before: stations, after: vec![] };
    Cell { edges: vec![edges], shared: vec![] }
}

fn constant(name: &str, time: u64) -> Station {
    Station::compute(name, Service::Constant(Nanos(time))).waiting(Station::UNBOUNDED)
}

fn exponential(name: &str, time: u64) -> Station {
    Station::compute(name, Service::Exponential(Nanos(time))).waiting(Station::UNBOUNDED)
}

fn mean(outcome: &Outcome) -> f64 {
    outcome.latency.mean().unwrap().0 as f64
}

fn close(found: f64, expected: f64, share: f64) {
    assert!((found / expected - 1.0).abs() < share, "{found} instead of {expected}");
}

/// Probability that a frame finds all c servers busy (Erlang's second formula).
fn erlang_c(servers: u32, load: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 0.0);
    for n in 0..servers {
        sum += term;
        term *= load / f64::from(n + 1);
    }
    let busy = term / (1.0 - load / f64::from(servers));
    busy / (sum + busy)
}

#[test]
fn one_exponential_server_has_the_exponential_latency_of_m_m_1() {
    for (percent, slack) in [(30, 0.01), (60, 0.02), (90, 0.08)] {
        let cell = poisson(100 * MS / percent, vec![exponential("cloud", MS)]);
        let outcome = run(&cell, 1, &settings(2000));
        let law = 1e6 / (1.0 - percent as f64 / 100.0);
        close(mean(&outcome), law, slack);
        for ppm in [500_000, 900_000, 990_000] {
            let quantile = -law * (1.0 - f64::from(ppm) / 1e6).ln();
            close(outcome.latency.percentile(ppm).unwrap().0 as f64, quantile, slack + 0.004);
        }
        close(outcome.stations[0].utilisation_ppm() as f64, percent as f64 * 1e4, 0.01);
    }
}

#[test]
fn one_constant_server_waits_as_pollaczek_and_khinchine_say() {
    for (percent, slack) in [(30, 0.01), (60, 0.01), (90, 0.05)] {
        let load = percent as f64 / 100.0;
        let cell = poisson(100 * MS / percent, vec![constant("cloud", MS)]);
        let outcome = run(&cell, 1, &settings(2000));
        close(mean(&outcome), 1e6 * (1.0 + load / (2.0 * (1.0 - load))), slack);
        // P(W = 0) = 1 - rho: so many frames take just the service.
        let none = outcome.latency.within(Nanos(MS)) as f64 / outcome.latency.count() as f64;
        assert!((none - (1.0 - load)).abs() < 0.015, "{none}");
    }
}

#[test]
fn several_exponential_servers_with_one_queue_wait_as_erlang_says() {
    for (servers, percent) in [(2_u32, 60_u32), (4, 80)] {
        let load = f64::from(servers) * f64::from(percent) / 100.0;
        let station = exponential("cloud", MS).replicated(servers, Choice::Common);
        let interval = 100 * MS / u64::from(percent) / u64::from(servers);
        let outcome = run(&poisson(interval, vec![station]), 1, &settings(1000));
        let wait = erlang_c(servers, load) * 1e6 / (f64::from(servers) - load);
        close(mean(&outcome), 1e6 + wait, 0.02);
    }
}

#[test]
fn a_station_without_a_queue_loses_what_erlang_says_whatever_the_distribution() {
    // Erlang's first formula for 3 servers and a load of 2: 4/19.
    for service in [
        Service::Constant(Nanos(MS)),
        Service::Exponential(Nanos(MS)),
        Service::Measured(vec![Nanos(MS / 2), Nanos(3 * MS / 2)]),
    ] {
        for choice in [Choice::Common, Choice::Fewest] {
            let station = Station::compute("cloud", service.clone());
            let station = station.replicated(3, choice).waiting(0);
            let outcome = run(&poisson(MS / 2, vec![station]), 1, &settings(500));
            close(outcome.dropped as f64 / outcome.arrived as f64, 4.0 / 19.0, 0.01);
            assert_eq!(outcome.arrived, outcome.dropped + outcome.latency.count());
        }
    }
}

#[test]
fn exponential_stations_in_a_row_are_independent_queues() {
    // Burke's theorem: departures of M/M/1 are a Poisson process.
    let stations = vec![exponential("a", MS), exponential("b", MS / 2)];
    let outcome = run(&poisson(2 * MS, stations), 1, &settings(3000));
    close(mean(&outcome), 1e6 / 0.5 + 0.5e6 / 0.75, 0.02);
}

#[test]
fn constant_stations_in_a_row_wait_as_their_slowest_alone() {
    let waits = |times: &[u64]| {
        let stations = times.iter().map(|&time| constant("s", time)).collect();
        let outcome = run(&poisson(2 * MS, stations), 1, &settings(100));
        outcome.stations.iter().map(|s| s.mean_wait().0 * s.served).sum::<u64>()
            / outcome.latency.count()
    };
    let alone = waits(&[MS]);
    for times in [[MS, MS / 2, MS / 3], [MS / 3, MS / 2, MS], [MS / 2, MS, MS / 3]] {
        // Means are rounded down at each station.
        assert!(waits(&times).abs_diff(alone) <= alone / 500, "{times:?}");
    }
}

#[test]
fn a_pipeline_that_is_never_full_takes_the_sum_of_its_stations() {
    let rates = Rates::constant(BytesPerSec(1_000_000)).unwrap();
    let up = Station::link("up", Bytes(5000), rates, Nanos(3 * MS));
    let edges = Edges {
        count: 7,
        cameras: 1,
        arrivals: Arrivals::Periodic { period: Nanos(SECOND) },
        before: vec![constant("device", 20 * MS), up],
        after: vec![constant("down", MS)],
    };
    let cell = Cell { edges: vec![edges], shared: vec![] };
    let outcome = run(&cell, 3, &Settings { warm_up: Nanos::ZERO, ..settings(50) });
    assert_eq!(outcome.latency.most(), Some(Nanos(29 * MS)));
    assert_eq!(outcome.latency.mean(), Some(Nanos(29 * MS)));
    assert_eq!(outcome.arrived, 7 * 3 * 50);
    assert_eq!(outcome.events, 7 * 3 * 50 * 4);
}

#[test]
fn frames_of_a_burst_wait_for_each_other() {
    let burst = |spacing| {
        let arrivals =
            Arrivals::Bursts { period: Nanos(SECOND), frames: 3, spacing: Nanos(spacing) };
        let before = vec![constant("device", 10 * MS)];
        let edges = Edges { count: 5, cameras: 1, arrivals, before, after: vec![] };
        let settings = Settings { warm_up: Nanos::ZERO, ..settings(20) };
        run(&Cell { edges: vec![edges], shared: vec![] }, 1, &settings).latency
    };
    let together = burst(0);
    for (third, latency) in [(330_000, 10), (660_000, 20), (1_000_000, 30)] {
        let found = together.percentile(third).unwrap().0 as f64;
        close(found, (latency * MS) as f64, 0.004);
    }
    assert_eq!(burst(10 * MS).most(), Some(Nanos(10 * MS)));
    // Half of the second frame's time is left when the third comes.
    assert_eq!(burst(15 * MS / 2).most(), Some(Nanos(15 * MS)));
}

#[test]
fn what_a_cell_is_not_is_refused_with_its_reason() {
    let error = |cell: &Cell| simulate(cell, 1, &settings(1), &mut || false).unwrap_err();
    let none = Station::compute("cloud", Service::Measured(vec![]));
    assert_eq!(error(&Cell::default()), SimulateError::NoCamera);
    assert_eq!(error(&poisson(0, vec![])), SimulateError::Period);
    assert_eq!(error(&poisson(5, vec![none])), SimulateError::NoTimes("cloud".to_owned()));
    let no_server = constant("cloud", 1).replicated(0, Choice::Common);
    assert_eq!(error(&poisson(5, vec![no_server])), SimulateError::NoServer("cloud".to_owned()));
    let mut cell = poisson(5, vec![constant("a", u64::MAX)]);
    assert_eq!(error(&cell), SimulateError::Time(u64::MAX));
    cell.edges[0].before.clear();
    cell.edges[0].arrivals = Arrivals::Periodic { period: Nanos(u64::MAX >> 5) };
    cell.edges[0].count = u32::MAX;
    assert!(matches!(error(&cell), SimulateError::TooLarge(_)));
    let stopped = simulate(&poisson(MS, vec![]), 1, &settings(1), &mut || true);
    assert_eq!(stopped.unwrap_err(), SimulateError::Stopped);
}

/// A hundred cameras at ten edges, each with its link, and a cloud instance of two replicas.
fn group() -> Cell {
    let rates = Rates::steps(
        &[(Nanos(0), BytesPerSec(600_000)), (Nanos(7 * SECOND), BytesPerSec(60_000))],
        Some(Nanos(9 * SECOND)),
    );
    let edges = Edges {
        count: 10,
        cameras: 10,
        arrivals: Arrivals::Periodic { period: Nanos(10 * SECOND) },
        before: vec![
            constant("device", 40 * MS),
            Station::link("up", Bytes(30_000), rates.unwrap(), Nanos(5 * MS)),
        ],
        after: vec![constant("down", MS)],
    };
    let cloud = constant("cloud", 120 * MS).replicated(2, Choice::Fewest);
    Cell { edges: vec![edges], shared: vec![cloud] }
}

#[test]
fn a_sample_of_equal_cells_counted_many_times_is_the_full_simulation_of_10000_cameras() {
    let cell = group();
    let all = settings(600);
    let full = run(&cell, 100, &all);
    let sampled = run(&cell, 100, &Settings { sample: 25, ..all });
    assert_eq!(full.represented, full.events);
    assert_eq!(full.latency.count(), 10_000 * 57);
    assert_eq!(sampled.latency.count(), full.latency.count());
    assert_eq!(sampled.represented, full.events);
    assert_eq!(sampled.events, full.events / 4);
    for ppm in [500_000, 900_000, 990_000] {
        let of = |outcome: &Outcome| outcome.latency.percentile(ppm).unwrap().0 as f64;
        close(of(&sampled), of(&full), 0.03);
    }
    close(mean(&sampled), mean(&full), 0.01);
    for (one, other) in sampled.stations.iter().zip(&full.stations) {
        let [one, other] = [one, other].map(|station| station.utilisation_ppm() as f64);
        close(one, other, 0.005);
    }
}

#[test]
fn cells_simulated_one_by_one_are_the_same_as_all_in_one_world() {
    // The same cameras: recorded arrivals, other ones in each cell.
    let arrivals = |cell: u64| -> Vec<Nanos> {
        let mut words = cutline_core::random::SplitMix64(cell);
        (0..400).map(|_| Nanos(words.word() % (50 * SECOND))).collect()
    };
    let edges = |cell: u64| Edges {
        count: 1,
        cameras: 1,
        arrivals: Arrivals::Recorded(arrivals(cell)),
        before: vec![constant("device", 90 * MS), constant("cloud", 100 * MS).waiting(3)],
        after: vec![],
    };
    let settings = Settings { warm_up: Nanos::ZERO, ..settings(60) };
    let mut sum = Outcome::default();
    for cell in 0..100 {
        sum.add(&run(&Cell { edges: vec![edges(cell)], shared: vec![] }, 1, &settings), 1);
    }
    let world = run(&Cell { edges: (0..100).map(edges).collect(), shared: vec![] }, 1, &settings);
    assert!(world.dropped > 100, "{}", world.dropped);
    assert_eq!((world.latency, world.dropped), (sum.latency, sum.dropped));
    assert_eq!((world.arrived, world.events), (sum.arrived, sum.events));
}

fn works() -> impl Strategy<Value = Work> {
    prop_oneof![
        (0_u64..60).prop_map(|time| Work::Compute(Service::Constant(Nanos(time)))),
        (1_u64..60, 1_u64..9, 0_u64..9, 1_u64..200).prop_map(|(size, fast, slow, at)| {
            let table = [(Nanos(0), fast), (Nanos(at), slow)];
            let table = table.map(|(time, rate)| (time, BytesPerSec(rate * 200_000_000)));
            let rates = Rates::steps(&table, Some(Nanos(at + 50))).unwrap();
            Work::Send { size: Bytes(size), rates }
        }),
    ]
}

fn stations(most: usize) -> impl Strategy<Value = Vec<Station>> {
    let choice = prop_oneof![Just(Choice::Common), Just(Choice::Fewest)];
    let waiting = prop_oneof![0_u32..6, Just(Station::UNBOUNDED)];
    let station = (works(), 0_u64..30, 1_u32..4, choice, waiting).prop_map(
        |(work, delay, servers, choice, waiting)| {
            let name = "station".to_owned();
            Station { name, work, delay: Nanos(delay), servers, choice, waiting }
        },
    );
    prop::collection::vec(station, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every frame is answered or dropped exactly when an event-by-event simulation says.
    #[test]
    fn station_by_station_gives_what_a_heap_of_events_gives(
        kinds in prop::collection::vec((
            1_u32..4, prop::collection::btree_set(0_u64..3000, 1..60), stations(3), stations(3),
        ), 1..3),
        shared in stations(3),
    ) {
        // Times that no two frames share, or which goes first would be a matter of taste.
        let mut edges = Vec::new();
        for (number, (count, times, before, after)) in kinds.into_iter().enumerate() {
            let times = times.into_iter().map(|time| Nanos(time * 7 + number as u64));
            let arrivals = Arrivals::Recorded(times.collect());
            edges.push(Edges { count, cameras: 1, arrivals, before, after });
        }
        let cell = Cell { edges, shared };
        let settings =
            Settings { duration: Nanos(1 << 40), warm_up: Nanos(0), sample: 0, seed: 0 };
        let outcome = run(&cell, 1, &settings);
        let (answers, dropped) = events::simulate(&cell);
        prop_assert_eq!(outcome.dropped, dropped);
        let mut expected = cutline_core::histogram::Histogram::default();
        answers.into_iter().for_each(|latency| expected.record(Nanos(latency)));
        prop_assert_eq!(outcome.latency, expected);
    }
}
