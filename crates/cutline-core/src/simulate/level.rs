//! One station of the chain, at all edges of a kind or shared by all.
//!
//! A level takes frames in the order of their arrival and turns each arrival time into a departure
//! time at once: it begins when a server is free (Lindley, "The theory of queues with a single
//! server", 1952; for several servers Kiefer & Wolfowitz, 1955), so nothing is scheduled and there is
//! no heap of events. Where frames of several stations meet, or may have overtaken each other, the
//! level holds them back until the watermark, before which nothing more can arrive, and sorts them.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{Choice, MOST_HELD, Service, SimulateError, Station, StationUse, Visit, Work};
use crate::{
    random::Random,
    units::{Bytes, Nanos},
};

pub(super) struct Level {
    station: Station,
    /// Time of service where it is always the same.
    fixed: Option<u64>,
    shared: bool,
    /// Frames may come out of order.
    sorts: bool,
    held: Vec<Visit>,
    servers: Servers,
    random: Random,
    span: [u64; 2],
    served: u64,
    dropped: u64,
    busy: u128,
    waited: u128,
}

/// When servers are free, by edge; one entry where the station is shared.
enum Servers {
    /// One server; and when the frames that wait begin, where their number is bounded and cannot be
    /// computed from the time of service.
    One {
        free: Vec<u64>,
        begins: Vec<VecDeque<u64>>,
    },
    Common(Vec<Common>),
    Fewest(Vec<Fewest>),
}

/// Servers with one queue.
#[derive(Clone)]
struct Common {
    free: BinaryHeap<Reverse<u64>>,
    begins: VecDeque<u64>,
}

/// Servers with a queue each, chosen by how many are under way.
#[derive(Clone)]
struct Fewest {
    /// When the frames under way at each server depart.
    departs: Vec<VecDeque<u64>>,
    turn: usize,
}

impl Level {
    /// `sorts`: frames may come out of order; `span`: what is counted.
    pub(super) fn new(
        station: &Station,
        stations: Option<u32>,
        sorts: bool,
        span: [u64; 2],
        seed: u64,
    ) -> Self {
        let count = stations.unwrap_or(1) as usize;
        let fixed = match &station.work {
            Work::Compute(Service::Constant(time)) => Some(time.0),
            Work::Compute(_) => None,
            Work::Send { size, rates } => rates.only().map(|rate| rate.transfer_time(*size).0),
        };
        let number = station.servers as usize;
        let servers = match station.choice {
            _ if number == 1 => {
                let lists = fixed.is_none() && station.waiting != Station::UNBOUNDED;
                let begins = vec![VecDeque::new(); if lists { count } else { 0 }];
                Servers::One { free: vec![0; count], begins }
            }
            Choice::Common => {
                let free: BinaryHeap<_> = (0..number).map(|_| Reverse(0)).collect();
                Servers::Common(vec![Common { free, begins: VecDeque::new() }; count])
            }
            Choice::Fewest => {
                Servers::Fewest(vec![
                    Fewest { departs: vec![VecDeque::new(); number], turn: 0 };
                    count
                ])
            }
        };
        Self {
            station: station.clone(),
            fixed,
            shared: stations.is_none(),
            sorts,
            held: Vec::new(),
            servers,
            random: Random::new(seed),
            span,
            served: 0,
            dropped: 0,
            busy: 0,
            waited: 0,
        }
    }

    /// Turns arrivals into departures and removes what is dropped; keeps back what arrives at the
    /// watermark or later where order matters.
    pub(super) fn pass(
        &mut self,
        visits: &mut Vec<Visit>,
        watermark: u64,
    ) -> Result<(), SimulateError> {
        if self.sorts {
            self.held.append(visits);
            // Runs of ordered frames are merged, not sorted anew.
            self.held.sort_by_key(|visit| (visit.at, visit.born, visit.edge, visit.kind));
            let ready = self.held.partition_point(|visit| visit.at < watermark);
            visits.extend(self.held.drain(..ready));
            if self.held.len() > MOST_HELD {
                return Err(SimulateError::Backlog(self.station.name.clone()));
            }
        }
        let unbounded = self.station.waiting == Station::UNBOUNDED;
        match (&mut self.servers, self.fixed) {
            (Servers::One { free, .. }, Some(time)) if unbounded => {
                let (delay, [from, to]) = (self.station.delay.0, self.span);
                for visit in visits.iter_mut() {
                    let free = &mut free[if self.shared { 0 } else { visit.edge as usize }];
                    let begins = visit.at.max(*free);
                    *free = begins.saturating_add(time);
                    if visit.born >= from {
                        self.waited += u128::from(begins - visit.at);
                        self.served += 1;
                    }
                    self.busy += u128::from((*free).min(to).saturating_sub(begins.max(from)));
                    visit.at = free.saturating_add(delay);
                }
            }
            _ => visits.retain_mut(|visit| self.serve(visit)),
        }
        Ok(())
    }

    /// Whether the frame was served: then it is at its departure.
    fn serve(&mut self, visit: &mut Visit) -> bool {
        let counted = visit.born >= self.span[0];
        let at = if self.shared { 0 } else { visit.edge as usize };
        let Some((begins, ends)) = self.admit(at, visit.at) else {
            self.dropped += u64::from(counted);
            return false;
        };
        if counted {
            self.waited += u128::from(begins - visit.at);
            self.served += 1;
        }
        let [from, to] = self.span;
        self.busy += u128::from(ends.min(to).saturating_sub(begins.max(from)));
        visit.at = ends.saturating_add(self.station.delay.0);
        true
    }

    /// When a frame that arrives now begins and ends; `None` where the queue is full.
    fn admit(&mut self, at: usize, now: u64) -> Option<(u64, u64)> {
        let (work, random, most) = (&self.station.work, &mut self.random, self.station.waiting);
        let mut end = |begins: u64| match self.fixed {
            Some(time) => begins.saturating_add(time),
            None => ends(work, begins, random),
        };
        match &mut self.servers {
            Servers::One { free, begins } => {
                let free = &mut free[at];
                let start = now.max(*free);
                if start > now && most != Station::UNBOUNDED {
                    let waiting = match (self.fixed, begins.get_mut(at)) {
                        // Those that wait begin one time of service apart, the last one `time`
                        // before the server is free.
                        (Some(time), _) => (*free - now - 1).checked_div(time).unwrap_or(0),
                        (None, Some(begins)) => waiting(begins, now),
                        (None, None) => 0,
                    };
                    if waiting >= u64::from(most) {
                        return None;
                    }
                    if let Some(begins) = begins.get_mut(at) {
                        begins.push_back(start);
                    }
                }
                *free = end(start);
                Some((start, *free))
            }
            Servers::Common(stations) => {
                let Common { free, begins } = &mut stations[at];
                let mut first = free.peek_mut()?;
                let start = now.max(first.0);
                if start > now && most != Station::UNBOUNDED {
                    if waiting(begins, now) >= u64::from(most) {
                        return None;
                    }
                    begins.push_back(start);
                }
                let ends = end(start);
                *first = Reverse(ends);
                Some((start, ends))
            }
            Servers::Fewest(stations) => {
                let Fewest { departs, turn } = &mut stations[at];
                let all: u64 = departs.iter_mut().map(|departs| waiting(departs, now)).sum();
                let servers = departs.len();
                let from_turn = (0..servers).map(|next| (*turn + next) % servers);
                let chosen = from_turn.min_by_key(|&server| departs[server].len())?;
                let chosen_departs = &mut departs[chosen];
                let busy = !chosen_departs.is_empty();
                if busy && all.saturating_sub(servers as u64) >= u64::from(most) {
                    return None;
                }
                *turn = (chosen + 1) % servers;
                let start = chosen_departs.back().copied().unwrap_or(now);
                let ends = end(start);
                chosen_departs.push_back(ends);
                Some((start, ends))
            }
        }
    }

    /// What is known of the station, over `stations` of them.
    pub(super) fn summary(&self) -> StationUse {
        let stations = match &self.servers {
            Servers::One { free, .. } => free.len(),
            Servers::Common(stations) => stations.len(),
            Servers::Fewest(stations) => stations.len(),
        };
        StationUse {
            name: self.station.name.clone(),
            servers: stations as u64 * u64::from(self.station.servers),
            served: self.served,
            dropped: self.dropped,
            busy: self.busy,
            waited: self.waited,
            span: Nanos(self.span[1].saturating_sub(self.span[0])),
        }
    }
}

/// How many of the times lie in the future; forgets those that do not.
fn waiting(times: &mut VecDeque<u64>, now: u64) -> u64 {
    while times.front().is_some_and(|&time| time <= now) {
        times.pop_front();
    }
    times.len() as u64
}

fn ends(work: &Work, begins: u64, random: &mut Random) -> u64 {
    let time = match work {
        Work::Compute(Service::Constant(time)) => time.0,
        Work::Compute(Service::Exponential(mean)) => {
            (random.exponential() * mean.0 as f64 + 0.5) as u64
        }
        Work::Compute(Service::Measured(times)) => {
            times[random.below(times.len() as u64) as usize].0
        }
        Work::Send { size, rates } => return rates.sent(Nanos(begins), Bytes(size.0)).0,
    };
    begins.saturating_add(time)
}

/// Whether frames may leave a station in another order than they came to it, or at the same time.
pub(super) fn reorders(station: &Station) -> bool {
    station.servers > 1
}
