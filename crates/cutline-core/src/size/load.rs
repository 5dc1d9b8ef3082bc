//! How long a frame occupies what, and how long it takes under load by formulas.
//!
//! What a camera has for itself (board, link) and what it shares (instance) see frames at different
//! rates, so their waits are two distributions, which are added as if they were independent:
//!
//! * Alone: frames of a periodic camera do not wait. Frames at random wait as in a row of constant
//!   stations. Of a burst each waits for those before it at the slowest station.
//! * Shared: many cameras together arrive at random (Khinchine, "Mathematical methods in the theory of
//!   queueing", 1960: superposed sparse streams tend to Poisson). Few periodic ones are smoother, so
//!   the answer is then too high, and bursts are rougher, so it is too low: the simulator tells.

use super::{
    Cloud, Demand, Limit, MILLION, MOST_CAMERAS, MOST_GROWTH, MOST_INSTANCES, Share, SizeError,
    Station, Way, ratio,
};
use crate::{
    queueing::{Latency, QueueError, Stage, predict},
    simulate::{Arrivals, Choice, Service},
    units::Nanos,
};

/// Times that a frame occupies things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Of the board: everything that it does.
    pub board: Nanos,
    /// Of the link up.
    pub up: Option<Way>,
    /// Of an instance.
    pub cloud: Option<Cloud>,
    /// Of the link down.
    pub down: Option<Way>,
}

/// A distribution: times with their shares, which add up to 1.
type Times = Vec<(u64, f64)>;

impl Load {
    /// Time of one frame in an empty system.
    pub fn empty(&self) -> Nanos {
        let ways = [self.up, self.down].into_iter().flatten();
        let cloud = self.cloud.map_or(Nanos::ZERO, |cloud| cloud.busy);
        self.board + cloud + ways.map(|way| way.busy + way.delay).sum()
    }

    /// Busy time of each station for a frame.
    fn stations(&self) -> impl Iterator<Item = (Station, Nanos)> {
        let board = Some((Station::Board, self.board));
        let up = self.up.map(|way| (Station::Up, way.busy));
        let cloud = self.cloud.map(|cloud| (Station::Instance, cloud.busy));
        let down = self.down.map(|way| (Station::Down, way.busy));
        [board, up, cloud, down].into_iter().flatten().filter(|(_, busy)| *busy > Nanos::ZERO)
    }

    /// Share of the time for which each station is busy, in millionths.
    pub(super) fn busy(&self, demand: &Demand, share: Share) -> Vec<(Station, u64)> {
        let interval = u128::from(demand.interval().unwrap_or_default().0);
        let busy = |(station, busy): (Station, Nanos)| {
            let (cameras, instances) = match station {
                Station::Instance => (share.cameras, share.instances),
                _ => (1, 1),
            };
            let work = u128::from(busy.0).saturating_mul(cameras.into()).saturating_mul(MILLION);
            (station, ratio(work, interval.saturating_mul(instances.into())))
        };
        self.stations().map(busy).collect()
    }

    /// The most that an instance could bear if nobody waited, or why no number of them helps.
    pub fn bound(&self, demand: &Demand) -> Result<Share, Limit> {
        let (needs, deadline) = (self.empty(), demand.deadline);
        if needs > deadline {
            return Err(Limit::Deadline { needs, deadline });
        }
        let most_ppm = demand.most_busy_ppm();
        let one = Share { cameras: 1, instances: 1 };
        for (station, busy_ppm) in self.busy(demand, one) {
            if station != Station::Instance && busy_ppm > most_ppm {
                return Err(Limit::Headroom { station, busy_ppm, most_ppm });
            }
        }
        let Some(cloud) = self.cloud else { return Ok(one) };
        if let Some(cameras) = cloud.cameras {
            return Ok(Share { cameras, ..one });
        }
        let interval = demand.interval().unwrap_or_default();
        let room = u128::from(interval.0) * u128::from(most_ppm);
        let work = u128::from(cloud.busy.0) * MILLION;
        match ratio(room, work.max(1)) {
            0 => {
                let instances = ratio(work + room.saturating_sub(1), room);
                let busy_ppm = ratio(work, interval.0.into());
                match instances <= MOST_INSTANCES {
                    true => Ok(Share { cameras: 1, instances }),
                    false => {
                        Err(Limit::Headroom { station: Station::Instance, busy_ppm, most_ppm })
                    }
                }
            }
            cameras => Ok(Share { cameras: cameras.min(MOST_CAMERAS), instances: 1 }),
        }
    }

    /// The time that the asked share of all frames does not exceed; `u64::MAX` where a station is
    /// overloaded.
    pub fn latency(&self, demand: &Demand, share: Share) -> Result<Nanos, SizeError> {
        match self.waits(demand, share) {
            Ok(waits) => Ok(self.empty() + Nanos(waits)),
            Err(QueueError::Overload { .. }) => Ok(Nanos(u64::MAX)),
            Err(error) => Err(error.into()),
        }
    }

    /// The same percentile of the waiting alone.
    fn waits(&self, demand: &Demand, share: Share) -> Result<u64, QueueError> {
        let interval = demand.interval().unwrap_or_default();
        let given = self.cloud.is_some_and(|cloud| cloud.cameras.is_some());
        let (single, shared): (Vec<_>, Vec<_>) = self
            .stations()
            .partition(|(station, _)| *station != Station::Instance || share == ONE || given);
        // A given number of cameras says that nobody waits at the instance.
        let single =
            single.into_iter().filter(|(station, _)| !given || *station != Station::Instance);
        let stage =
            |(station, busy): (Station, Nanos)| Stage::new(station.name(), Service::Constant(busy));
        let single: Vec<Stage> = single.map(stage).collect();
        if let Some(late) = single.iter().find_map(|stage| overloaded(stage, interval)) {
            return Err(late);
        }
        let alone = alone(&demand.arrivals, interval, &single)?;
        let Some(&instance) = shared.first() else { return Ok(percentile(alone, demand)) };
        let servers = u32::try_from(share.instances).unwrap_or(u32::MAX);
        let instance = Stage { servers, choice: Choice::Fewest, ..stage(instance) };
        let interval = Nanos(interval.0 / share.cameras.max(1));
        if interval == Nanos::ZERO {
            let name = instance.name;
            return Err(QueueError::Overload { name, ppm: u64::MAX });
        }
        let together = waits_of(&predict(interval, std::slice::from_ref(&instance))?, &instance);
        Ok(percentile(sum(&alone, &together), demand))
    }

    /// By how much every camera's frames may become more until the deadline is missed, by the
    /// formulas, in thousandths.
    pub(super) fn deadline_growth(&self, demand: &Demand, share: Share) -> Result<u64, SizeError> {
        let holds = |growth| -> Result<bool, SizeError> {
            Ok(self.latency(&demand.grown(growth), share)? <= demand.deadline)
        };
        let stations = self.station_growth(demand, share);
        let mut broken = stations.first().map_or(MOST_GROWTH, |&(_, growth)| growth + 1);
        let mut held = 1000;
        if holds(broken)? {
            return Ok(broken);
        }
        while broken.saturating_sub(held) > held / 200 {
            let middle = held + (broken - held) / 2;
            match holds(middle)? {
                true => held = middle,
                false => broken = middle,
            }
        }
        Ok(held)
    }

    /// When each station is busy all the time, the first to be so first. An instance whose cameras are
    /// given is left out.
    pub(super) fn station_growth(&self, demand: &Demand, share: Share) -> Vec<(Station, u64)> {
        let given = self.cloud.is_some_and(|cloud| cloud.cameras.is_some());
        let busy = self.busy(demand, share).into_iter();
        let busy = busy.filter(|(station, _)| !given || *station != Station::Instance);
        let growth = |(station, ppm): (Station, u64)| {
            (station, ratio(1000 * MILLION, ppm.into()).clamp(1000, MOST_GROWTH))
        };
        let mut growth: Vec<_> = busy.map(growth).collect();
        growth.sort_by_key(|&(station, growth)| (growth, station));
        growth
    }
}

const ONE: Share = Share { cameras: 1, instances: 1 };

fn overloaded(stage: &Stage, interval: Nanos) -> Option<QueueError> {
    let Service::Constant(busy) = stage.service else { return None };
    (busy >= interval).then(|| QueueError::Overload {
        name: stage.name.clone(),
        ppm: ratio(u128::from(busy.0) * MILLION, interval.0.into()),
    })
}

/// How long the frames of one camera wait at the stations that it has for itself.
fn alone(arrivals: &Arrivals, interval: Nanos, stages: &[Stage]) -> Result<Times, QueueError> {
    let busy = |stage: &Stage| match stage.service {
        Service::Constant(busy) => busy,
        _ => Nanos::ZERO,
    };
    let slowest = stages.iter().map(busy).max().unwrap_or_default();
    match *arrivals {
        Arrivals::Bursts { frames, spacing, .. } => {
            let behind = slowest - spacing;
            let share = 1.0 / f64::from(frames.max(1));
            Ok((0..frames).map(|at| ((behind * u64::from(at)).0, share)).collect())
        }
        Arrivals::Poisson { .. } if slowest > Nanos::ZERO => {
            // The whole row waits as long as the slowest of it (Friedman 1965).
            let stage = Stage::new("slowest", Service::Constant(slowest));
            Ok(waits_of(&predict(interval, std::slice::from_ref(&stage))?, &stage))
        }
        _ => Ok(vec![(0, 1.0)]),
    }
}

/// A predicted latency less its constant service, as steps that are finer towards the tail; each
/// counts as its upper end.
fn waits_of(latency: &Latency, stage: &Stage) -> Times {
    let Service::Constant(busy) = stage.service else { return vec![(0, 1.0)] };
    let body = (1..=45).map(|step| step * 20_000);
    let tail = (1..=160).map(|step| 1e6 - 1e5 * 10_f64.powf(-f64::from(step) / 40.0));
    let ends = body.chain(tail.map(|end| end.round() as u32)).chain([1_000_000]);
    let mut last = 0;
    let mut times = Times::new();
    for end in ends {
        let wait = latency.percentile(end) - busy;
        times.push((wait.0, f64::from(end - last) / 1e6));
        last = end;
    }
    times
}

/// The sum of two independent times.
fn sum(a: &Times, b: &Times) -> Times {
    let pairs =
        a.iter().flat_map(|&(a, p)| b.iter().map(move |&(b, q)| (a.saturating_add(b), p * q)));
    pairs.collect()
}

/// The time that the asked share does not exceed.
fn percentile(mut times: Times, demand: &Demand) -> u64 {
    times.sort_unstable_by_key(|&(time, _)| time);
    // Shares of many steps do not add up exactly.
    let wanted = f64::from(demand.percentile_ppm) / 1e6 - 1e-9;
    let mut below = 0.0;
    for &(time, share) in &times {
        below += share;
        if below >= wanted {
            return time;
        }
    }
    times.last().map_or(0, |&(time, _)| time)
}
