//! What is known of one route: whether its stages are loaded, how it answers, when it failed.

use super::{Cause, pace::Pace};
use crate::units::Nanos;

/// Strikes in a row after which a route is left alone no longer than before: eight dwells.
const MOST_DOUBLINGS: u32 = 3;

/// Whether a route's stages are on its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// No, and they are not sent before then.
    Absent { not_before: Nanos },
    /// They are being loaded, under this number.
    Loading { ticket: u64 },
    /// Yes.
    Loaded,
}

/// A route in the eyes of its router.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) load: Load,
    /// None before its first answer.
    pub(super) pace: Option<Pace>,
    /// Attempts on it that are not late: they fill its capacity.
    pub(super) under_way: usize,
    /// Attempts on it whose answers count.
    pub(super) open: usize,
    /// When and why it failed last.
    pub(super) struck: Option<(Nanos, Cause)>,
    /// Until then it is avoided.
    pub(super) avoided_until: Nanos,
    strikes: u32,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self {
            load: Load::Absent { not_before: Nanos::ZERO },
            pace: None,
            under_way: 0,
            open: 0,
            struck: None,
            avoided_until: Nanos::ZERO,
            strikes: 0,
        }
    }

    /// It failed: it is avoided for a dwell, for twice as long each time, until an answer in time.
    pub(super) fn strike(&mut self, now: Nanos, cause: Cause, dwell: Nanos) {
        self.struck = Some((now, cause));
        self.avoided_until = now + dwell * (1 << self.strikes.min(MOST_DOUBLINGS));
        self.strikes = self.strikes.saturating_add(1);
    }

    /// It answered in time.
    pub(super) fn forgive(&mut self) {
        self.strikes = 0;
    }

    /// When it may be tried again if there is nothing better.
    pub(super) fn retry_from(&self, pause: Nanos) -> Nanos {
        self.struck.map_or(Nanos::ZERO, |(at, _)| at + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_fails_again_and_again_is_avoided_for_longer() {
        let mut standing = Standing::new();
        let mut avoided = |now| {
            standing.strike(Nanos(now), Cause::Failed, Nanos(10));
            standing.avoided_until.0 - now
        };
        assert_eq!([0, 100, 200, 300, 400].map(&mut avoided), [10, 20, 40, 80, 80]);
        standing.forgive();
        standing.strike(Nanos(500), Cause::Late, Nanos(10));
        assert_eq!(standing.avoided_until, Nanos(510));
    }
}
