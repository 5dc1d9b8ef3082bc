//! What a deployment does under load: a discrete-event simulation of cells.
//!
//! A cell is a number of edges, each with cameras, and what they share: every frame passes the
//! stations of its edge (`before`: a device, the link up), those that all share (cloud instances),
//! and those of its edge again (`after`: the link down). Cells know nothing of each other, so equal
//! ones are simulated once, or a few of them, and counted as many times.
//!
//! Stations are first-come first-served and a frame visits each once, so the simulation runs station
//! by station over windows of time: each turns its sorted arrivals into departures (`level`), and the
//! departures are the arrivals of the next. There is no heap of events; a visit costs some
//! nanoseconds, and memory holds the cameras' phases, one time per server, the frames of a window and
//! those under way. What this does not cover: a station that is visited twice (a revisit), and
//! batches.

use thiserror::Error;

use crate::{
    histogram::Histogram,
    random::SplitMix64,
    units::{Bytes, Nanos},
};

mod arrivals;
mod level;
mod rates;

use arrivals::Stream;
use level::{Level, reorders};
pub use rates::Rates;

/// Frames of a window: their visits stay in a processor's cache.
const WINDOW: f64 = 16_384.0;
/// Most cameras' phases and stations of a cell, so that memory stays bounded.
const MOST_PLACES: u64 = 1 << 25;
/// Most servers of a station.
const MOST_SERVERS: u32 = 1 << 16;
/// Most windows of a run, where frames are few or all at once.
const MOST_WINDOWS: u64 = 1 << 24;
/// Most frames held before one station: 1.5 GiB.
const MOST_HELD: usize = 1 << 26;
/// Longest time and duration, 36 years: sums of a few do not saturate.
const MOST_TIME: u64 = 1 << 60;

/// Edges with what they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Edges by kind; those of one kind are alike.
    pub edges: Vec<Edges>,
    /// Stations that the frames of all edges pass, in order.
    pub shared: Vec<Station>,
}

/// Edges of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    /// How many there are.
    pub count: u32,
    /// Cameras of each.
    pub cameras: u32,
    /// When their frames arrive.
    pub arrivals: Arrivals,
    /// Stations of each edge that its frames pass first.
    pub before: Vec<Station>,
    /// Stations of each edge that its frames pass last.
    pub after: Vec<Station>,
}

/// When frames arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Each camera sends one frame per period, from a random phase.
    Periodic {
        /// Time between two frames of a camera.
        period: Nanos,
    },
    /// Each camera sends at random, with this mean interval.
    Poisson {
        /// Mean time between two frames of a camera.
        interval: Nanos,
    },
    /// Each camera sends so many frames in a row once per period, from a random phase.
    Bursts {
        /// Time between the starts of two bursts of a camera.
        period: Nanos,
        /// Frames of a burst.
        frames: u32,
        /// Time between two frames of a burst.
        spacing: Nanos,
    },
    /// At each edge frames arrive at these times, of all its cameras together.
    Recorded(Vec<Nanos>),
}

/// A place where frames queue: servers, and what they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// What it is called in results.
    pub name: String,
    /// What a server does with a frame.
    pub work: Work,
    /// Time that passes afterwards and occupies nobody: a link's delay.
    pub delay: Nanos,
    /// How many servers (replicas) there are.
    pub servers: u32,
    /// Which server takes a frame.
    pub choice: Choice,
    /// How many frames may wait, over all servers; one that finds so many is dropped.
    pub waiting: u32,
}

/// What a server does with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// It computes.
    Compute(Service),
    /// It sends so many bytes at the rate of the time.
    Send {
        /// Bytes of a frame.
        size: Bytes,
        /// Rate over time.
        rates: Rates,
    },
}

/// How long a server computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Always as long.
    Constant(Nanos),
    /// Exponentially distributed with this mean.
    Exponential(Nanos),
    /// As measured: one of these times, drawn evenly.
    Measured(Vec<Nanos>),
}

/// Which server takes a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that is free first: one queue for all.
    #[default]
    Common,
    /// The one with the fewest frames under way when the frame arrives, of equal ones each in its
    /// turn: what agents do with replicas.
    Fewest,
}

impl Station {
    /// A queue without a bound that is checked, for comparisons with formulas.
    pub const UNBOUNDED: u32 = u32::MAX;
    /// Frames that may wait where nothing is said.
    pub const WAITING: u32 = 1000;

    /// One server that computes.
    pub fn compute(name: &str, service: Service) -> Self {
        Self {
            name: name.to_owned(),
            work: Work::Compute(service),
            delay: Nanos::ZERO,
            servers: 1,
            choice: Choice::Common,
            waiting: Self::WAITING,
        }
    }

    /// A link that sends one frame after the other, each `delay` long under way after that.
    pub fn link(name: &str, size: Bytes, rates: Rates, delay: Nanos) -> Self {
        let work = Work::Send { size, rates };
        Self { work, delay, ..Self::compute(name, Service::Constant(Nanos::ZERO)) }
    }

    /// The same with so many servers.
    pub fn replicated(self, servers: u32, choice: Choice) -> Self {
        Self { servers, choice, ..self }
    }

    /// The same with room for so many waiting frames.
    pub fn waiting(self, waiting: u32) -> Self {
        Self { waiting, ..self }
    }
}

/// What is simulated of each kind of cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Frames arrive from 0 to this time; all are followed to their end.
    pub duration: Nanos,
    /// Frames that arrive before this time are not counted.
    pub warm_up: Nanos,
    /// Most cells simulated of one kind; 0: all.
    pub sample: u64,
    /// Seed of everything random.
    pub seed: u64,
}

/// What became of the frames of one kind of cell, all its cells together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Time from arrival to answer.
    pub latency: Histogram,
    /// Frames that arrived after the warm-up; each was answered or dropped.
    pub arrived: u64,
    /// Frames dropped by full queues.
    pub dropped: u64,
    /// The stations in the order of `before` of each kind of edge, shared, `after` of each kind.
    pub stations: Vec<StationUse>,
    /// Events simulated: arrivals of frames, and ends of service (those counted many times, once).
    pub events: u64,
    /// Events stood for.
    pub represented: u64,
}

/// How a station was used, over all its edges and cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StationUse {
    /// Its name.
    pub name: String,
    /// Servers of all of them.
    pub servers: u64,
    /// Frames served.
    pub served: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Busy time of all servers after the warm-up, before the end of arrivals.
    busy: u128,
    waited: u128,
    span: Nanos,
}

impl StationUse {
    /// Share of time that its servers are busy, in millionths.
    pub fn utilisation_ppm(&self) -> u64 {
        let most = u128::from(self.span.0) * u128::from(self.servers);
        let ppm = (self.busy.saturating_mul(1_000_000)).checked_div(most).unwrap_or(0);
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }

    /// Mean time that a served frame waited before its service.
    pub fn mean_wait(&self) -> Nanos {
        let mean = self.waited.checked_div(u128::from(self.served)).unwrap_or(0);
        Nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    fn add(&mut self, other: &Self, weight: u64) {
        self.servers = self.servers.saturating_add(other.servers.saturating_mul(weight));
        self.served = self.served.saturating_add(other.served.saturating_mul(weight));
        self.dropped = self.dropped.saturating_add(other.dropped.saturating_mul(weight));
        self.busy = self.busy.saturating_add(other.busy.saturating_mul(u128::from(weight)));
        self.waited = self.waited.saturating_add(other.waited.saturating_mul(u128::from(weight)));
    }
}

impl Outcome {
    /// Adds what became of the frames of other cells, `weight` times.
    pub fn add(&mut self, other: &Self, weight: u64) {
        self.latency.merge(&other.latency, weight);
        self.arrived = self.arrived.saturating_add(other.arrived.saturating_mul(weight));
        self.dropped = self.dropped.saturating_add(other.dropped.saturating_mul(weight));
        self.events += other.events;
        self.represented = self.represented.saturating_add(other.events.saturating_mul(weight));
        if self.stations.is_empty() {
            let nothing = |station: &StationUse| {
                let (name, span) = (station.name.clone(), station.span);
                StationUse { name, span, servers: 0, served: 0, dropped: 0, busy: 0, waited: 0 }
            };
            self.stations = other.stations.iter().map(nothing).collect();
        }
        for (station, other) in self.stations.iter_mut().zip(&other.stations) {
            station.add(other, weight);
        }
    }
}

/// Why nothing can be simulated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum SimulateError {
    #[error("the cell has no camera; give it edges with at least one camera each")]
    NoCamera,
    #[error(
        "more than one frame per ns arrives, or none; give a longer period, and bursts a frame"
    )]
    Period,
    #[error("station `{0}` has no server; give it at least one")]
    NoServer(String),
    #[error("station `{0}` has no measured time to draw from")]
    NoTimes(String),
    #[error("a time of {0} ns is longer than 36 years")]
    Time(u64),
    #[error("row {row} of the table of rates: {why}")]
    Rates { row: usize, why: &'static str },
    #[error("a cell of {0} cameras and stations is too large; divide it into smaller cells")]
    TooLarge(u64),
    #[error(
        "more than {MOST_HELD} frames wait for station `{0}`: it is overloaded; bound its queue"
    )]
    Backlog(String),
    #[error("simulation was stopped")]
    Stopped,
}

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
struct Visit {
    /// When it reaches the next station.
    at: u64,
    /// When it arrived at its edge.
    born: u64,
    edge: u32,
    kind: u32,
}

/// Simulates `count` equal cells, at most `settings.sample` of them, each with random phases of its
/// own. `stop` is asked once per window of some ten thousand frames.
///
/// O(frames x stations) time but for sorting where frames meet; the same answer for the same seed on
/// every machine.
pub fn simulate(
    cell: &Cell,
    count: u64,
    settings: &Settings,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Outcome, SimulateError> {
    check(cell, settings)?;
    let simulated = if settings.sample == 0 { count } else { count.min(settings.sample) };
    let mut outcome = Outcome::default();
    let mut seeds = SplitMix64(settings.seed);
    for number in 0..simulated {
        let weight = count / simulated + u64::from(number < count % simulated);
        let one = Run::new(cell, settings, seeds.word()).run(stop)?;
        outcome.add(&one, weight);
    }
    Ok(outcome)
}

fn check(cell: &Cell, settings: &Settings) -> Result<(), SimulateError> {
    let long = |time: &Nanos| time.0 > MOST_TIME;
    let timely = |time: Nanos| if long(&time) { Err(SimulateError::Time(time.0)) } else { Ok(()) };
    timely(settings.duration)?;
    let mut places = 0_u64;
    for edges in &cell.edges {
        if edges.count == 0 || edges.cameras == 0 {
            return Err(SimulateError::NoCamera);
        }
        match &edges.arrivals {
            Arrivals::Periodic { period: Nanos(0) }
            | Arrivals::Poisson { interval: Nanos(0) }
            | Arrivals::Bursts { period: Nanos(0), .. }
            | Arrivals::Bursts { frames: 0, .. } => return Err(SimulateError::Period),
            Arrivals::Periodic { period } | Arrivals::Bursts { period, .. } => timely(*period)?,
            Arrivals::Poisson { interval } => timely(*interval)?,
            Arrivals::Recorded(times) => times.iter().try_for_each(|&time| timely(time))?,
        }
        if rate(edges) > 1.0 && !matches!(edges.arrivals, Arrivals::Recorded(_)) {
            return Err(SimulateError::Period);
        }
        let stations = (edges.before.len() + edges.after.len()) as u64;
        let rings = u64::from(edges.cameras).saturating_mul(arrivals::phases_of(&edges.arrivals));
        let each = rings.saturating_add(stations.saturating_mul(u64::from(most_servers(edges))));
        places = places.saturating_add(each.saturating_mul(u64::from(edges.count)));
    }
    if cell.edges.is_empty() {
        return Err(SimulateError::NoCamera);
    }
    if places > MOST_PLACES {
        return Err(SimulateError::TooLarge(places));
    }
    let private = cell.edges.iter().flat_map(|edges| edges.before.iter().chain(&edges.after));
    for station in private.chain(&cell.shared) {
        timely(station.delay)?;
        if station.servers == 0 {
            return Err(SimulateError::NoServer(station.name.clone()));
        }
        if station.servers > MOST_SERVERS {
            return Err(SimulateError::TooLarge(u64::from(station.servers)));
        }
        match &station.work {
            Work::Compute(Service::Constant(time) | Service::Exponential(time)) => timely(*time)?,
            Work::Compute(Service::Measured(times)) if times.is_empty() => {
                return Err(SimulateError::NoTimes(station.name.clone()));
            }
            Work::Compute(Service::Measured(times)) => {
                times.iter().try_for_each(|&time| timely(time))?;
            }
            Work::Send { .. } => {}
        }
    }
    Ok(())
}

fn most_servers(edges: &Edges) -> u32 {
    edges.before.iter().chain(&edges.after).map(|station| station.servers).max().unwrap_or(0)
}

/// One cell under simulation.
struct Run {
    streams: Vec<Stream>,
    before: Vec<Vec<Level>>,
    shared: Vec<Level>,
    after: Vec<Vec<Level>>,
    window: u64,
    warm_up: u64,
    outcome: Outcome,
}

impl Run {
    fn new(cell: &Cell, settings: &Settings, seed: u64) -> Self {
        let mut seeds = SplitMix64(seed);
        let span = [settings.warm_up.0.min(settings.duration.0), settings.duration.0];
        let streams =
            cell.edges.iter().map(|edges| Stream::new(edges, settings.duration, seeds.word()));
        let streams = streams.collect();
        // Frames of an edge are in order until a station lets them overtake each other.
        let mut chain = |stations: &[Station], edges: Option<u32>, mut sorts: bool| -> Vec<Level> {
            let mut level = |station: &Station| {
                let level = Level::new(station, edges, sorts, span, seeds.word());
                sorts = reorders(station);
                level
            };
            stations.iter().map(&mut level).collect()
        };
        let before =
            cell.edges.iter().map(|edges| chain(&edges.before, Some(edges.count), false)).collect();
        let shared = chain(&cell.shared, None, true);
        // Without a shared station in between, `after` follows `before`.
        let last = |edges: &Edges| cell.shared.last().or(edges.before.last()).is_some_and(reorders);
        let after = cell.edges.iter();
        let after = after.map(|edges| chain(&edges.after, Some(edges.count), last(edges)));
        let after = after.collect();
        let rate: f64 = cell.edges.iter().map(rate).sum();
        let least = (settings.duration.0 / MOST_WINDOWS).max(1);
        let window = ((WINDOW / rate.max(1e-18)) as u64).clamp(least, MOST_TIME);
        let outcome = Outcome::default();
        Self { streams, before, shared, after, window, warm_up: span[0], outcome }
    }

    fn run(mut self, stop: &mut dyn FnMut() -> bool) -> Result<Outcome, SimulateError> {
        let (mut arrive, mut meet, mut leave) = (Vec::new(), Vec::new(), Vec::new());
        let mut limit = 0_u64;
        let mut more = true;
        while more {
            if stop() {
                return Err(SimulateError::Stopped);
            }
            limit = limit.saturating_add(self.window);
            more = false;
            // What arrives later arrives at `limit` or later; at the end nothing does.
            for kind in 0..self.streams.len() {
                more |= self.streams[kind].take(limit, kind as u32, &mut arrive);
                if arrive.len() >= MOST_HELD {
                    return Err(SimulateError::TooLarge(arrive.len() as u64));
                }
                let counted = arrive.iter().filter(|visit| visit.born >= self.warm_up).count();
                self.outcome.arrived += counted as u64;
                self.outcome.events += arrive.len() as u64;
                pass(&mut self.before[kind], &mut arrive, limit, &mut self.outcome)?;
                meet.append(&mut arrive);
            }
            self.finish(&mut meet, &mut leave, limit)?;
        }
        for kind in 0..self.streams.len() {
            pass(&mut self.before[kind], &mut arrive, u64::MAX, &mut self.outcome)?;
            meet.append(&mut arrive);
        }
        self.finish(&mut meet, &mut leave, u64::MAX)?;
        let levels = self.before.iter().flatten().chain(&self.shared);
        let levels = levels.chain(self.after.iter().flatten());
        self.outcome.stations = levels.map(Level::summary).collect();
        self.outcome.dropped = self.outcome.stations.iter().map(|station| station.dropped).sum();
        Ok(self.outcome)
    }

    /// The shared stations and what follows them.
    fn finish(
        &mut self,
        meet: &mut Vec<Visit>,
        leave: &mut Vec<Visit>,
        limit: u64,
    ) -> Result<(), SimulateError> {
        pass(&mut self.shared, meet, limit, &mut self.outcome)?;
        for (kind, levels) in self.after.iter_mut().enumerate() {
            if self.streams.len() == 1 {
                std::mem::swap(leave, meet);
            } else {
                leave.extend(meet.iter().filter(|visit| visit.kind as usize == kind));
            }
            pass(levels, leave, limit, &mut self.outcome)?;
            for visit in leave.drain(..).filter(|visit| visit.born >= self.warm_up) {
                self.outcome.latency.record(Nanos(visit.at - visit.born));
            }
        }
        meet.clear();
        Ok(())
    }
}

fn pass(
    levels: &mut [Level],
    visits: &mut Vec<Visit>,
    watermark: u64,
    outcome: &mut Outcome,
) -> Result<(), SimulateError> {
    for level in levels {
        level.pass(visits, watermark)?;
        outcome.events += visits.len() as u64;
    }
    Ok(())
}

/// Frames per nanosecond of the edges of one kind.
fn rate(edges: &Edges) -> f64 {
    let cameras = f64::from(edges.count) * f64::from(edges.cameras);
    match &edges.arrivals {
        Arrivals::Periodic { period: interval } | Arrivals::Poisson { interval } => {
            cameras / interval.0 as f64
        }
        Arrivals::Bursts { period, frames, .. } => cameras * f64::from(*frames) / period.0 as f64,
        Arrivals::Recorded(times) => {
            let last = times.iter().max().map_or(1, |time| time.0.max(1));
            f64::from(edges.count) * times.len() as f64 / last as f64
        }
    }
}
