//! How many of what: the cheapest deployments that serve so many cameras within a deadline.
//!
//! A candidate is one plan on one board, instance and link: how long each of them is busy with a
//! frame, and what a month costs. Every camera has a board and a link of its own; an instance serves
//! as many cameras as it bears.
//!
//! ```text
//! camera ─► board ─► up ─┐
//! camera ─► board ─► up ─┼─► instance ─► down of each
//! camera ─► board ─► up ─┘
//! ```
//!
//! [`deployments`] searches best first over three levels, none of which makes a candidate cheaper: as
//! many cameras per instance as its time allows; as many as the formulas of
//! [`queueing`](crate::queueing) let answer in time; as many as hold in the simulator. What costs more
//! than the answers even at the first level is never looked at closer, and the answer is the same as
//! if it were.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use thiserror::Error;

use crate::{
    queueing::QueueError,
    simulate::{Arrivals, Rates, SimulateError},
    units::{Bytes, Money, Nanos},
};

mod check;
mod load;
mod plans;

pub use check::{Check, Simulated};
pub use load::Load;
pub use plans::{Allowed, Kind, Plan, frames_per_month, plans, traffic_per_month, undominated};

const MILLION: u128 = 1_000_000;
/// Most instances that one camera is given.
const MOST_INSTANCES: u64 = 64;
/// Most cameras that an instance is given where it could bear more, so that it can be simulated.
const MOST_CAMERAS: u64 = 1 << 22;
/// How far a growing load is followed, in thousandths.
const MOST_GROWTH: u64 = 1_000_000;

/// What is to be served, and how well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// How many cameras there are.
    pub cameras: u64,
    /// When the frames of a camera arrive; not [`Arrivals::Recorded`].
    pub arrivals: Arrivals,
    /// Longest time from a frame's arrival to its answer.
    pub deadline: Nanos,
    /// Frames that must meet it, in millionths.
    pub percentile_ppm: u32,
    /// Share of the time that every board, link and instance stays free, in millionths.
    pub headroom_ppm: u32,
    /// Most money for a month.
    pub budget: Option<Money>,
}

/// A time that a link takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// For which it is busy.
    pub busy: Nanos,
    /// That passes besides and occupies nobody.
    pub delay: Nanos,
}

/// An instance that cameras share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloud {
    /// Time for which it is busy with a frame.
    pub busy: Nanos,
    /// Rent of one for a month.
    pub rent: Money,
    /// Cameras that one bears, where that is given: it is then taken as true, and nobody waits there.
    pub cameras: Option<u64>,
}

/// How fast a link is over time, against what its [`Way`] counts with; starts again at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Nanoseconds of work done in a second: a thousand million where it is as fast as declared.
    pub up: Option<Rates>,
    /// The same of the way back.
    pub down: Option<Rates>,
    /// After how long it starts again.
    pub cycle: Nanos,
}

/// One way to serve the cameras.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Number of its network, board, instance and link: of those that differ in nothing but the plan,
    /// only the cheapest is an answer.
    pub combination: usize,
    /// How long a frame occupies what.
    pub load: Load,
    /// What a month costs besides instances, for all cameras.
    pub besides: Money,
    /// Its link as the simulator has it; formulas take it as constant.
    pub replay: Option<Arc<Replay>>,
}

/// Cameras that share instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many cameras.
    pub cameras: u64,
    /// On how many instances; more than one only for a single camera.
    pub instances: u64,
}

/// What a frame occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Station {
    Board,
    Up,
    Instance,
    Down,
}

impl Station {
    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self {
            Station::Board => "board",
            Station::Up => "link up",
            Station::Instance => "instance",
            Station::Down => "link down",
        }
    }
}

/// A candidate that serves the cameras.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Position of the candidate.
    pub candidate: usize,
    /// Instances for all cameras; 0 where none is used.
    pub instances: u64,
    /// What an instance bears at most.
    pub most: Share,
    /// What it is given: all cameras, shared out evenly.
    pub share: Share,
    /// What a month costs.
    pub cost: Money,
    /// Time that the asked share of the frames does not exceed, by the formulas.
    pub latency: Nanos,
    /// The same in the simulator; `None` where the cameras of an instance are given.
    pub simulated: Option<Simulated>,
    /// Cameras of an instance by the formulas, where the simulator let it bear fewer.
    pub promised: Option<Share>,
    /// Share of the time for which each station is busy, in millionths.
    pub busy: Vec<(Station, u64)>,
    /// What breaks as every camera sends more frames.
    pub growth: Growth,
}

/// By how much the load of a deployment can grow; factors in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Largest factor at which the deadline is met by the formulas.
    pub deadline: u64,
    /// When each station is busy all the time, the first to be so first.
    pub stations: Vec<(Station, u64)>,
    /// How many more cameras the same instances bear; `None` where there are none.
    pub cameras: Option<u64>,
}

/// A limit that a candidate does not keep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Limit {
    /// Even alone it takes longer than the deadline.
    Deadline { needs: Nanos, deadline: Nanos },
    /// A station is busier than the headroom allows, in millionths.
    Headroom { station: Station, busy_ppm: u64, most_ppm: u64 },
    /// It costs more than there is.
    Budget { needs: Money, budget: Money },
    /// The plan does not fit into a memory.
    Memory { device: String, needs: Bytes, limit: Bytes },
}

impl Limit {
    /// How much more is needed than there is, in millionths of what there is.
    pub fn excess_ppm(&self) -> u64 {
        let (needs, has) = match self {
            Limit::Deadline { needs, deadline } => (needs.0, deadline.0),
            Limit::Headroom { busy_ppm, most_ppm, .. } => (*busy_ppm, *most_ppm),
            Limit::Budget { needs, budget } => (needs.0, budget.0),
            Limit::Memory { needs, limit, .. } => (needs.0, limit.0),
        };
        ratio(u128::from(needs.saturating_sub(has)) * MILLION, u128::from(has))
    }

    fn kind(&self) -> u8 {
        match self {
            Limit::Deadline { .. } => 0,
            Limit::Headroom { .. } => 1,
            Limit::Budget { .. } => 2,
            Limit::Memory { .. } => 3,
        }
    }
}

/// Which candidate comes nearest to keeping a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Position of the candidate.
    pub candidate: usize,
    /// What it does not keep.
    pub limit: Limit,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The cheapest first; of the same cost, the faster first.
    pub deployments: Vec<Deployment>,
    /// Of each limit that some candidate did not keep, the one that comes nearest, nearest first.
    pub misses: Vec<Miss>,
    /// Candidates that formulas were asked about.
    pub predicted: usize,
    /// Candidates that were simulated.
    pub simulated: usize,
}

/// Why nothing can be sized.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum SizeError {
    #[error("there are no cameras to serve")]
    NoCameras,
    #[error("cameras send no frames, or not at a known mean rate")]
    NoFrames,
    #[error("a headroom of {0} millionths leaves nothing to work with")]
    Headroom(u32),
    #[error("no latency under load can be predicted")]
    Queue(#[from] QueueError),
    #[error("the simulation of a deployment failed")]
    Simulate(#[from] SimulateError),
}

impl Demand {
    /// Mean time between two frames of a camera.
    pub fn interval(&self) -> Option<Nanos> {
        let interval = match self.arrivals {
            Arrivals::Periodic { period } => period,
            Arrivals::Poisson { interval } => interval,
            Arrivals::Bursts { period, frames, .. } => Nanos(period.0.checked_div(frames.into())?),
            Arrivals::Recorded(_) => return None,
        };
        (interval > Nanos::ZERO).then_some(interval)
    }

    /// The same where every camera sends more frames, by a factor in thousandths.
    fn grown(&self, permille: u64) -> Self {
        let shorter = |time: Nanos| Nanos(ratio(u128::from(time.0) * 1000, permille.into()).max(1));
        let arrivals = match &self.arrivals {
            Arrivals::Periodic { period } => Arrivals::Periodic { period: shorter(*period) },
            Arrivals::Poisson { interval } => Arrivals::Poisson { interval: shorter(*interval) },
            Arrivals::Bursts { period, frames, spacing } => Arrivals::Bursts {
                period: shorter(*period),
                frames: *frames,
                spacing: shorter(*spacing),
            },
            Arrivals::Recorded(times) => Arrivals::Recorded(times.clone()),
        };
        Self { arrivals, ..self.clone() }
    }

    fn most_busy_ppm(&self) -> u64 {
        1_000_000_u64.saturating_sub(self.headroom_ppm.into())
    }
}

impl Candidate {
    fn instances(&self, demand: &Demand, most: Share) -> u64 {
        match self.load.cloud {
            None => 0,
            Some(_) => {
                let all = u128::from(demand.cameras) * u128::from(most.instances);
                u64::try_from(all.div_ceil(most.cameras.max(1).into())).unwrap_or(u64::MAX)
            }
        }
    }

    /// What a month costs where an instance bears so much.
    fn cost(&self, demand: &Demand, most: Share) -> Money {
        let rent = self.load.cloud.map_or(Money::ZERO, |cloud| cloud.rent);
        self.besides + rent * self.instances(demand, most)
    }
}

/// How much is known of a candidate; what is better known goes first among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Checked,
    Predicted,
    Bounded,
}

/// What an instance bears as far as it is known.
#[derive(Clone, Debug)]
struct Known {
    most: Share,
    promised: Option<Share>,
}

/// The cheapest deployments, `count` of them at most, one for each combination; within the budget.
///
/// The simulator has the last word on every answer. O(log cameras) predictions of some milliseconds
/// for each candidate that may be among the cheapest, and as many simulations for each that is and
/// whose prediction does not hold.
pub fn deployments(
    demand: &Demand,
    candidates: &[Candidate],
    count: usize,
    check: &Check,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Answer, SizeError> {
    if demand.cameras == 0 {
        return Err(SizeError::NoCameras);
    }
    if demand.most_busy_ppm() == 0 {
        return Err(SizeError::Headroom(demand.headroom_ppm));
    }
    demand.interval().ok_or(SizeError::NoFrames)?;
    let mut search = Search { demand, candidates, check, answer: Answer::default() };
    search.run(count, stop)?;
    let mut answer = search.answer;
    answer.misses.sort_by_key(|miss| (miss.limit.excess_ppm(), miss.candidate));
    Ok(answer)
}

struct Search<'a> {
    demand: &'a Demand,
    candidates: &'a [Candidate],
    check: &'a Check,
    answer: Answer,
}

impl Search<'_> {
    fn run(&mut self, count: usize, stop: &mut dyn FnMut() -> bool) -> Result<(), SizeError> {
        let mut known: Vec<Option<Known>> = Vec::with_capacity(self.candidates.len());
        let mut open = BinaryHeap::new();
        let mut answered = std::collections::BTreeSet::new();
        for (at, candidate) in self.candidates.iter().enumerate() {
            let bound = candidate.load.bound(self.demand);
            let bound = bound.map_err(|limit| self.miss(at, limit)).ok();
            if let Some(most) = bound {
                open.push(Reverse((self.key(at, most), Level::Bounded, at)));
            }
            known.push(bound.map(|most| Known { most, promised: None }));
        }
        while let Some(Reverse((_, level, at))) = open.pop() {
            let candidate = &self.candidates[at];
            let Some(now) = known[at].clone() else { continue };
            if answered.contains(&candidate.combination) {
                continue;
            }
            let next = match level {
                Level::Bounded => self.predict(candidate, now)?,
                Level::Predicted => self.simulate(candidate, now, stop)?,
                Level::Checked => {
                    let cost = candidate.cost(self.demand, now.most);
                    if let Some(budget) = self.demand.budget.filter(|&budget| cost > budget) {
                        // Everything else costs as much or more.
                        self.miss(at, Limit::Budget { needs: cost, budget });
                        return Ok(());
                    }
                    answered.insert(candidate.combination);
                    let deployment = self.deployment(at, now, stop)?;
                    self.answer.deployments.push(deployment);
                    if self.answer.deployments.len() >= count {
                        return Ok(());
                    }
                    continue;
                }
            };
            match next {
                Ok((level, next)) => {
                    open.push(Reverse((self.key(at, next.most), level, at)));
                    known[at] = Some(next);
                }
                Err(limit) => self.miss(at, limit),
            }
        }
        Ok(())
    }

    /// Cost, then latency in an empty system.
    fn key(&self, at: usize, most: Share) -> (Money, Nanos) {
        let candidate = &self.candidates[at];
        (candidate.cost(self.demand, most), candidate.load.empty())
    }

    fn miss(&mut self, candidate: usize, limit: Limit) {
        let misses = &mut self.answer.misses;
        match misses.iter_mut().find(|miss| miss.limit.kind() == limit.kind()) {
            Some(miss) if limit.excess_ppm() < miss.limit.excess_ppm() => {
                *miss = Miss { candidate, limit };
            }
            Some(_) => {}
            None => misses.push(Miss { candidate, limit }),
        }
    }

    /// What an instance bears by the formulas.
    fn predict(
        &mut self,
        candidate: &Candidate,
        now: Known,
    ) -> Result<Result<(Level, Known), Limit>, SizeError> {
        self.answer.predicted += 1;
        let (demand, load) = (self.demand, &candidate.load);
        let holds = |share: Share| -> Result<Result<(), Limit>, SizeError> {
            let needs = load.latency(demand, share)?;
            let deadline = demand.deadline;
            Ok(if needs <= deadline { Ok(()) } else { Err(Limit::Deadline { needs, deadline }) })
        };
        let most = largest(load, now.most, holds)?;
        Ok(most.map(|most| (Level::Predicted, Known { most, promised: None })))
    }

    /// What it bears in the simulator, of what the formulas promise.
    fn simulate(
        &mut self,
        candidate: &Candidate,
        now: Known,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Result<(Level, Known), Limit>, SizeError> {
        if candidate.load.cloud.is_some_and(|cloud| cloud.cameras.is_some()) {
            return Ok(Ok((Level::Checked, now)));
        }
        self.answer.simulated += 1;
        let (demand, check) = (self.demand, self.check);
        let mut holds = |share: Share| -> Result<Result<(), Limit>, SizeError> {
            let found = check.run(demand, candidate, share, 1, stop)?;
            let deadline = demand.deadline;
            Ok(match found.latency {
                Some(needs) if needs <= deadline && found.dropped == 0 => Ok(()),
                Some(needs) => {
                    Err(Limit::Deadline { needs: needs.max(deadline + Nanos(1)), deadline })
                }
                None => Err(Limit::Deadline { needs: Nanos(u64::MAX), deadline }),
            })
        };
        let most = largest(&candidate.load, now.most, &mut holds)?;
        Ok(most.map(|most| {
            let promised = (most != now.most).then_some(now.most);
            (Level::Checked, Known { most, promised })
        }))
    }

    fn deployment(
        &self,
        at: usize,
        Known { most, promised }: Known,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Deployment, SizeError> {
        let (demand, candidate) = (self.demand, &self.candidates[at]);
        let load = &candidate.load;
        let instances = candidate.instances(demand, most);
        let share = match most.instances {
            1 => Share { cameras: demand.cameras.div_ceil(instances.max(1)), instances: 1 },
            _ => most,
        };
        let share = if load.cloud.is_none() { most } else { share };
        let is_given = load.cloud.is_some_and(|cloud| cloud.cameras.is_some());
        let cells = demand.cameras.div_ceil(share.cameras.max(1));
        let simulated = match is_given {
            true => None,
            false => Some(self.check.run(demand, candidate, share, cells, stop)?),
        };
        let whole = u128::from(instances) * u128::from(most.cameras) / u128::from(most.instances);
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        let growth = Growth {
            deadline: load.deadline_growth(demand, share)?,
            stations: load.station_growth(demand, share),
            cameras: load.cloud.map(|_| whole.saturating_sub(demand.cameras)),
        };
        Ok(Deployment {
            candidate: at,
            instances,
            most,
            share,
            cost: candidate.cost(demand, most),
            latency: load.latency(demand, share)?,
            simulated,
            promised,
            busy: load.busy(demand, share),
            growth,
        })
    }
}

/// The largest share up to `first` that holds: fewer cameras for an instance, or more instances for
/// the one camera. The limit that breaks in the least share, where none holds.
fn largest(
    load: &Load,
    first: Share,
    mut holds: impl FnMut(Share) -> Result<Result<(), Limit>, SizeError>,
) -> Result<Result<Share, Limit>, SizeError> {
    let limit = match holds(first)? {
        Ok(()) => return Ok(Ok(first)),
        Err(limit) => limit,
    };
    if load.cloud.is_none_or(|cloud| cloud.cameras.is_some()) {
        return Ok(Err(limit));
    }
    if first.cameras > 1 {
        let (mut most, mut broken) = (1, first.cameras);
        let of = |cameras| Share { cameras, instances: 1 };
        if holds(of(most))?.is_ok() {
            while broken - most > 1 {
                let middle = most + (broken - most) / 2;
                match holds(of(middle))? {
                    Ok(()) => most = middle,
                    Err(_) => broken = middle,
                }
            }
            return Ok(Ok(of(most)));
        }
    }
    let mut limit = limit;
    for instances in first.instances + 1..=MOST_INSTANCES.min(first.instances + 8) {
        let share = Share { cameras: 1, instances };
        match holds(share)? {
            Ok(()) => return Ok(Ok(share)),
            Err(broken) => limit = broken,
        }
    }
    Ok(Err(limit))
}

fn ratio(num: u128, den: u128) -> u64 {
    num.checked_div(den).and_then(|ratio| u64::try_from(ratio).ok()).unwrap_or(u64::MAX)
}
