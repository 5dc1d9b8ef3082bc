//! Latency under load by formula: stations in a row, Poisson arrivals, measured service times.
//!
//! The waiting time at each station is a distribution on a lattice, not only a mean:
//!
//! * One server (M/G/1): exact. The wait is a geometric sum of residual service times (Pollaczek
//!   1930, Khinchine 1932).
//! * c servers with one queue (M/G/c): a frame waits with the probability of Erlang's second formula
//!   (1917); if it does, until the first of c residual services ends, and then as at one server c
//!   times as fast (Tijms, van Hoorn & Federgruen, "Approximations for the steady-state probabilities
//!   in the M/G/c queue", 1981). Exact for exponential times; in heavy traffic the mean of Allen
//!   & Cunneen.
//! * c servers with a queue each, the one with the fewest frames first: the same, but a frame that
//!   waits is behind one certain frame, not behind the first to end; and fewer frames wait, by a
//!   factor 1 - 0.6 u (1 - u) at utilisation u, fitted to two exponential servers.
//! * Stations in a row: of constant ones the whole row waits as long as the slowest alone (Friedman,
//!   "Reduction methods for tandem queuing systems", 1965), exponential ones wait independently
//!   (Burke, "The output of a queuing system", 1956). Between these the waits of all but the slowest
//!   count by the larger variation, and what arrives after the slowest is the smoother the busier it
//!   is (the departures of Whitt, "The queueing network analyzer", 1983). This interpolation is our
//!   own; the tests hold it against `simulate`.
//!
//! Periodic cameras are smoother than Poisson arrivals as long as they are few: the answer is then too
//! high. Nothing is dropped here.

use thiserror::Error;

use crate::{
    simulate::{Choice, Service},
    units::Nanos,
};

mod lattice;

use lattice::{Lattice, POINTS, Times};

/// How far the lattice reaches, in mean waits of those that wait.
const REACH: f64 = 12.0;
/// Most servers of a station.
const MOST_SERVERS: u32 = 1 << 16;

/// A station that a frame passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is called in errors.
    pub name: String,
    /// How long a server is busy with a frame; for a link of constant rate, how long it sends.
    pub service: Service,
    /// Servers (replicas).
    pub servers: u32,
    /// Which server takes a frame.
    pub choice: Choice,
    /// Time that passes besides and occupies nobody.
    pub delay: Nanos,
}

impl Stage {
    /// One server.
    pub fn new(name: &str, service: Service) -> Self {
        let name = name.to_owned();
        Self { name, service, servers: 1, choice: Choice::Common, delay: Nanos::ZERO }
    }
}

/// The distribution of the time from arrival to answer.
#[derive(Clone, Debug)]
pub struct Latency {
    constant: f64,
    step: f64,
    rest: Lattice,
    utilisation_ppm: Vec<u64>,
}

/// Why nothing can be predicted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum QueueError {
    #[error("frames arrive every 0 ns; give a mean interval above 0")]
    Interval,
    #[error("station `{0}` has no server, more than {MOST_SERVERS} or no service time")]
    NoServer(String),
    #[error(
        "station `{name}` is busy {ppm} millionths of the time: its queue grows without end; \
         add servers or send fewer frames"
    )]
    Overload { name: String, ppm: u64 },
}

impl Latency {
    /// The time that so many millionths of the frames do not exceed.
    pub fn percentile(&self, ppm: u32) -> Nanos {
        let share = f64::from(ppm.min(999_999)) / 1e6;
        self.nanos(self.rest.quantile(share))
    }

    /// The mean.
    pub fn mean(&self) -> Nanos {
        self.nanos(self.rest.mean())
    }

    /// Share of time that the servers of each station are busy, in millionths.
    pub fn utilisation_ppm(&self) -> &[u64] {
        &self.utilisation_ppm
    }

    fn nanos(&self, steps: f64) -> Nanos {
        Nanos((self.constant + steps * self.step).round() as u64)
    }
}

/// A station in numbers.
struct Loaded<'a> {
    stage: &'a Stage,
    times: Times,
    utilisation: f64,
    /// Probability that a frame waits, and the mean wait of those that do.
    waits: f64,
    mean_wait: f64,
}

/// The latency of frames that arrive at random, one per `interval` on average, and pass these
/// stations. O(stations x points²), some ten milliseconds.
pub fn predict(interval: Nanos, stages: &[Stage]) -> Result<Latency, QueueError> {
    if interval == Nanos::ZERO {
        return Err(QueueError::Interval);
    }
    let loaded = stages.iter().map(|stage| Loaded::new(interval, stage));
    let loaded: Vec<Loaded> = loaded.collect::<Result<_, _>>()?;
    let varies = |one: &&Loaded| !matches!(one.stage.service, Service::Constant(_));
    let reach = loaded.iter().map(|one| REACH * one.mean_wait).sum::<f64>()
        + loaded.iter().filter(varies).map(|one| one.times.most).sum::<f64>();
    let step = (reach / POINTS as f64).max(1e-3);
    let mut rest = Lattice::zero();
    for one in loaded.iter().filter(varies) {
        rest = rest.plus(&Lattice::of(step, |time| one.times.below(time)));
    }
    for (one, share) in loaded.iter().zip(shares(&loaded)) {
        if share > 0.0 && one.times.mean > 0.0 {
            rest = rest.plus(&one.wait(step).sometimes(share));
        }
    }
    let constant = |one: &Loaded| match one.stage.service {
        Service::Constant(time) => (time + one.stage.delay).0 as f64,
        _ => one.stage.delay.0 as f64,
    };
    let utilisation_ppm = loaded.iter().map(|one| (one.utilisation * 1e6).round() as u64);
    Ok(Latency {
        constant: loaded.iter().map(constant).sum(),
        step,
        rest,
        utilisation_ppm: utilisation_ppm.collect(),
    })
}

impl<'a> Loaded<'a> {
    fn new(interval: Nanos, stage: &'a Stage) -> Result<Self, QueueError> {
        let times = Times::new(&stage.service);
        let none = matches!(&stage.service, Service::Measured(times) if times.is_empty());
        if stage.servers == 0 || stage.servers > MOST_SERVERS || none {
            return Err(QueueError::NoServer(stage.name.clone()));
        }
        let servers = f64::from(stage.servers);
        let load = times.mean / interval.0 as f64;
        let utilisation = load / servers;
        if utilisation >= 1.0 {
            let ppm = (utilisation * 1e6) as u64;
            return Err(QueueError::Overload { name: stage.name.clone(), ppm });
        }
        let mut waits = erlang_c(stage.servers, load);
        if stage.servers > 1 && stage.choice == Choice::Fewest {
            waits *= 1.0 - 0.6 * utilisation * (1.0 - utilisation);
        }
        let residual = times.mean * (1.0 + times.variation) / 2.0;
        let mean_wait = residual * (1.0 + utilisation / (1.0 - utilisation) / servers);
        Ok(Self { stage, times, utilisation, waits, mean_wait })
    }

    /// The wait under Poisson arrivals.
    fn wait(&self, step: f64) -> Lattice {
        let servers = f64::from(self.stage.servers);
        let faster = Lattice::of(step, |time| self.times.left_below(time * servers));
        let queue = faster.geometric_sum(self.utilisation);
        if self.stage.servers == 1 {
            return queue;
        }
        let ahead = match self.stage.choice {
            Choice::Fewest => 1,
            Choice::Common => self.stage.servers.min(1 << 10) as i32,
        };
        let first = |time: f64| 1.0 - (1.0 - self.times.left_below(time)).powi(ahead);
        queue.plus(&Lattice::of(step, first)).sometimes(self.waits)
    }
}

/// Which share of each station's own wait counts in a row of stations.
fn shares(row: &[Loaded]) -> Vec<f64> {
    let own = |one: &Loaded| one.waits * one.mean_wait;
    let slowest = (0..row.len()).max_by(|&a, &b| own(&row[a]).total_cmp(&own(&row[b])));
    let Some(slowest) = slowest else { return Vec::new() };
    let bottleneck = &row[slowest];
    let smooth = |one: &Loaded| {
        let variation = one.times.variation.min(1.0);
        1.0 - one.utilisation.powi(2) * (1.0 - variation) / f64::from(one.stage.servers).sqrt()
    };
    row.iter()
        .enumerate()
        .map(|(at, one)| {
            if at == slowest {
                return 1.0;
            }
            let variation = one.times.variation.max(bottleneck.times.variation).min(1.0);
            if at < slowest {
                return variation;
            }
            let own = one.times.variation;
            variation * (smooth(bottleneck) + own) / (1.0 + own)
        })
        .collect()
}

/// Probability that all servers are busy, of exponential times and an offered load below their
/// number.
fn erlang_c(servers: u32, load: f64) -> f64 {
    // Erlang's first formula by its recursion, which cannot overflow.
    let lost = (1..=servers).fold(1.0, |lost, n| load * lost / (f64::from(n) + load * lost));
    let utilisation = load / f64::from(servers);
    lost / (1.0 - utilisation * (1.0 - lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn relative(found: Nanos, expected: f64) -> f64 {
        (found.0 as f64 / expected - 1.0).abs()
    }

    #[test]
    fn m_m_1_is_the_exponential_law() {
        for load in [0.05, 0.3, 0.6, 0.9, 0.95] {
            let stage = Stage::new("one", Service::Exponential(Nanos(MS)));
            let latency = predict(Nanos((1e6 / load) as u64), &[stage]).unwrap();
            let law = 1e6 / (1.0 - load);
            assert!(relative(latency.mean(), law) < 0.01, "{load}: {}", latency.mean());
            for ppm in [500_000, 900_000, 990_000] {
                let quantile = -law * (1.0 - f64::from(ppm) / 1e6).ln();
                let found = latency.percentile(ppm);
                assert!(relative(found, quantile) < 0.01, "{load} {ppm}: {found} {quantile}");
            }
        }
    }

    #[test]
    fn m_d_1_is_the_distribution_of_erlang() {
        // P(W <= t) = (1 - u) sum over j <= t/D of (-u (t/D - j))^j / j! e^(u (t/D - j)).
        let erlang = |load: f64, time: f64| -> f64 {
            let mut sum = 0.0;
            for j in 0..=(time.floor() as i32) {
                let x = load * (time - f64::from(j));
                let factorial: f64 = (1..=j).map(f64::from).product();
                sum += (-x).powi(j) / factorial * x.exp();
            }
            (1.0 - load) * sum
        };
        for load in [0.3, 0.6, 0.9] {
            let stage = Stage::new("one", Service::Constant(Nanos(MS)));
            let latency = predict(Nanos((1e6 / load) as u64), &[stage]).unwrap();
            let mean = 1e6 * (1.0 + load / (2.0 * (1.0 - load)));
            assert!(relative(latency.mean(), mean) < 0.01, "{load}: {}", latency.mean());
            for ppm in [900_000, 990_000] {
                let wait = (latency.percentile(ppm).0 as f64 / 1e6 - 1.0).max(0.0);
                let below = erlang(load, wait);
                assert!((below - f64::from(ppm) / 1e6).abs() < 0.003, "{load} {ppm}: {below}");
            }
        }
    }

    #[test]
    fn m_m_c_is_erlangs() {
        let stage = Stage {
            servers: 3,
            delay: Nanos(5 * MS),
            ..Stage::new("three", Service::Exponential(Nanos(MS)))
        };
        let latency = predict(Nanos(MS / 2), &[stage]).unwrap();
        // Erlang's second formula for 3 servers and a load of 2 is 4/9; the wait is 4/9 of 1.
        assert!((erlang_c(3, 2.0) - 4.0 / 9.0).abs() < 1e-12);
        assert!(relative(latency.mean(), 6e6 + 4e6 / 9.0) < 0.002, "{}", latency.mean());
        assert_eq!(latency.utilisation_ppm(), [666_667]);
    }

    #[test]
    fn constant_stations_in_a_row_wait_as_their_slowest_alone() {
        let stage = |time| Stage::new("s", Service::Constant(Nanos(time)));
        let interval = Nanos(2 * MS);
        let alone = predict(interval, &[stage(MS)]).unwrap();
        let row = predict(interval, &[stage(MS / 4), stage(MS), stage(MS / 2)]).unwrap();
        for ppm in [300_000, 990_000] {
            let more = row.percentile(ppm).0 as f64 - 0.75e6;
            assert!(relative(alone.percentile(ppm), more) < 0.005, "{ppm}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let stage = Stage::new("cloud", Service::Constant(Nanos(MS)));
        let overload = predict(Nanos(MS), std::slice::from_ref(&stage)).unwrap_err();
        assert_eq!(overload, QueueError::Overload { name: "cloud".to_owned(), ppm: 1_000_000 });
        assert_eq!(predict(Nanos(0), &[]).unwrap_err(), QueueError::Interval);
        let nothing = Stage { service: Service::Measured(vec![]), ..stage.clone() };
        assert!(matches!(predict(Nanos(1), &[nothing]), Err(QueueError::NoServer(_))));
        let none = Stage { servers: 0, ..stage };
        assert!(matches!(predict(Nanos(1), &[none]), Err(QueueError::NoServer(_))));
        assert_eq!(predict(Nanos(1), &[]).unwrap().percentile(990_000), Nanos(0));
    }
}
