//! When frames arrive: the merged stream of all cameras of the edges of one kind, in order.
//!
//! Whatever repeats is a ring of sorted phases that is walked round and round, so that merging a
//! million cameras costs no comparison. Poisson processes of equal rate are one process of their sum,
//! whose every arrival falls to a camera drawn evenly.

use super::{Arrivals, Edges, MOST_HELD, Visit};
use crate::{random::Random, units::Nanos};

/// A merged stream.
pub(super) struct Stream {
    source: Source,
    end: u64,
}

enum Source {
    Ring { phases: Vec<u64>, edges: Vec<u32>, period: u64, began: u64, next: usize },
    Poisson { next: u64, gap: f64, edges: u32, random: Random },
    Recorded { times: Vec<Nanos>, edges: u32, next: usize },
}

/// Places in the ring of one camera.
pub(super) fn phases_of(arrivals: &Arrivals) -> u64 {
    match arrivals {
        Arrivals::Periodic { .. } => 1,
        Arrivals::Bursts { frames, .. } => u64::from(*frames),
        Arrivals::Poisson { .. } | Arrivals::Recorded(_) => 0,
    }
}

impl Stream {
    /// The arrivals before `end`, phases drawn from the seed.
    pub(super) fn new(edges: &Edges, end: Nanos, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let source = match &edges.arrivals {
            Arrivals::Periodic { period } => ring(edges, period.0, 1, 0, &mut random),
            Arrivals::Bursts { period, frames, spacing } => {
                ring(edges, period.0, *frames, spacing.0, &mut random)
            }
            Arrivals::Poisson { interval } => {
                let cameras = f64::from(edges.count) * f64::from(edges.cameras);
                let gap = interval.0 as f64 / cameras;
                let next = (random.exponential() * gap) as u64;
                Source::Poisson { next, gap, edges: edges.count, random }
            }
            Arrivals::Recorded(times) => {
                let mut times = times.clone();
                times.sort_unstable();
                Source::Recorded { times, edges: edges.count, next: 0 }
            }
        };
        Self { source, end: end.0 }
    }

    /// Appends the arrivals before `limit` that were not taken yet, recorded ones as long as less than
    /// [`MOST_HELD`] are there; false where none will follow.
    pub(super) fn take(&mut self, limit: u64, kind: u32, into: &mut Vec<Visit>) -> bool {
        let limit = limit.min(self.end);
        let visit = |at, edge| Visit { at, born: at, edge, kind };
        match &mut self.source {
            Source::Ring { phases, edges, period, began, next } => {
                while let Some(&phase) = phases.get(*next) {
                    let at = began.saturating_add(phase);
                    if at >= limit {
                        break;
                    }
                    into.push(visit(at, edges[*next]));
                    *next += 1;
                    if *next == phases.len() {
                        (*next, *began) = (0, began.saturating_add(*period));
                    }
                }
            }
            Source::Poisson { next, gap, edges, random } => {
                while *next < limit {
                    into.push(visit(*next, random.below(u64::from(*edges)) as u32));
                    *next = next.saturating_add((random.exponential() * *gap + 0.5) as u64);
                }
            }
            Source::Recorded { times, edges, next } => {
                while let Some(time) = times.get(*next).filter(|time| time.0 < limit) {
                    if into.len() >= MOST_HELD {
                        break;
                    }
                    into.extend((0..*edges).map(|edge| visit(time.0, edge)));
                    *next += 1;
                }
                return limit < self.end && *next < times.len();
            }
        }
        limit < self.end
    }
}

fn ring(edges: &Edges, period: u64, frames: u32, spacing: u64, random: &mut Random) -> Source {
    let mut places = Vec::with_capacity((edges.count * edges.cameras * frames) as usize);
    for edge in 0..edges.count {
        for _ in 0..edges.cameras {
            let phase = random.below(period);
            let of_frame = |frame| {
                let later = u128::from(phase) + u128::from(spacing) * u128::from(frame);
                ((later % u128::from(period)) as u64, edge)
            };
            places.extend((0..frames).map(of_frame));
        }
    }
    places.sort_unstable();
    let (phases, edges) = places.into_iter().unzip();
    Source::Ring { phases, edges, period, began: 0, next: 0 }
}
