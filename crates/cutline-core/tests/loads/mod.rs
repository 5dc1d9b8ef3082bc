//! Stations under load: for the formulas and for the simulator.

use cutline_core::{
    queueing::Stage,
    simulate::{Arrivals, Cell, Choice, Edges, Service, Settings, Station},
    units::Nanos,
};

const MS: u64 = 1_000_000;

/// A row of stations under a name.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) stages: Vec<Stage>,
}

impl Case {
    /// Mean time between frames at which the busiest station is busy for so many percent.
    pub(crate) fn interval(&self, percent: u64) -> Nanos {
        let needs = self.stages.iter().map(|stage| mean(&stage.service) / u64::from(stage.servers));
        Nanos(needs.max().unwrap_or(0) * 100 / percent)
    }

    /// The same for the simulator, so many frames long.
    pub(crate) fn cell(&self, percent: u64, frames: u64) -> (Cell, Settings) {
        let interval = self.interval(percent);
        let station = |stage: &Stage| {
            let station = Station::compute(&stage.name, stage.service.clone());
            let station = station.replicated(stage.servers, stage.choice);
            Station { delay: stage.delay, ..station.waiting(Station::UNBOUNDED) }
        };
        let before = self.stages.iter().map(station).collect();
        let arrivals = Arrivals::Poisson { interval };
        let edges = Edges { count: 1, cameras: 1, arrivals, before, after: vec![] };
        let duration = Nanos(interval.0 * frames);
        let warm_up = Nanos(duration.0 / 20);
        let settings = Settings { duration, warm_up, sample: 0, seed: percent };
        (Cell { edges: vec![edges], shared: vec![] }, settings)
    }
}

fn mean(service: &Service) -> u64 {
    match service {
        Service::Constant(time) | Service::Exponential(time) => time.0,
        Service::Measured(times) => {
            times.iter().map(|time| time.0).sum::<u64>() / times.len() as u64
        }
    }
}

/// Single stations of one and two replicas, and rows.
pub(crate) fn cases() -> Vec<Case> {
    let constant = |time: u64| Service::Constant(Nanos(time * MS / 10));
    let exponential = |time: u64| Service::Exponential(Nanos(time * MS / 10));
    // About 10 % of scatter with a tail, as engines have.
    let jittered = |time: u64| {
        let near = (0..95).map(|at| time * MS / 10 * (900 + 2 * at) / 1000);
        let far = (0..5).map(|at| time * MS / 10 * (1200 + 100 * at) / 1000);
        Service::Measured(near.chain(far).map(Nanos).collect())
    };
    // Two kinds of frames, one nine times as long as the other.
    let mixed =
        |time: u64| Service::Measured(vec![Nanos(time * MS / 50), Nanos(time * MS * 9 / 50)]);
    let one = |service| Stage::new("one", service);
    let two = |service| Stage { servers: 2, choice: Choice::Fewest, ..Stage::new("two", service) };
    let common = |service| Stage { choice: Choice::Common, ..two(service) };
    let link = |service| Stage { delay: Nanos(5 * MS), ..Stage::new("link", service) };
    let case = |name, stages| Case { name, stages };
    vec![
        case("constant", vec![one(constant(100))]),
        case("jittered", vec![one(jittered(100))]),
        case("mixed", vec![one(mixed(100))]),
        case("exponential", vec![one(exponential(100))]),
        case("constant, 2 replicas", vec![two(constant(100))]),
        case("jittered, 2 replicas", vec![two(jittered(100))]),
        case("mixed, 2 replicas", vec![two(mixed(100))]),
        case("exponential, 2 replicas", vec![two(exponential(100))]),
        case("constant, 2 servers of one queue", vec![common(constant(100))]),
        case("mixed, 2 servers of one queue", vec![common(mixed(100))]),
        case("exponential, 2 servers of one queue", vec![common(exponential(100))]),
        case(
            "device, link, cloud: constant",
            vec![one(constant(60)), link(constant(30)), one(constant(100))],
        ),
        case(
            "device, link, cloud: jittered",
            vec![one(jittered(100)), link(constant(40)), one(jittered(90))],
        ),
        case(
            "device, link, 2 replicas: jittered",
            vec![one(jittered(50)), link(constant(40)), two(jittered(100))],
        ),
        case(
            "device, link, cloud: exponential",
            vec![one(exponential(60)), link(exponential(30)), one(exponential(100))],
        ),
        case("device constant, cloud exponential", vec![one(constant(100)), one(exponential(80))]),
        case("device exponential, cloud constant", vec![one(exponential(80)), one(constant(100))]),
    ]
}
