//! How long to wait before the next attempt to reach a broker.
//!
//! The wait doubles with every attempt that fails, and is drawn from its upper half at random, so that
//! a thousand devices do not all come back at the moment at which their broker does.

use std::time::Duration;

use cutline_core::random::SplitMix64;

/// Before the second attempt, at most.
const FIRST: Duration = Duration::from_millis(250);

/// Before any attempt, at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits of one client, from a seed.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    random: SplitMix64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { failures: 0, random: SplitMix64(seed) }
    }

    /// An attempt failed: how long to wait before the next.
    pub(super) fn failed(&mut self) -> Duration {
        // Past so many doublings it is the longest anyway.
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let most = doubled.min(LONGEST);
        let half = most / 2;
        let steps = usize::try_from(half.as_micros()).unwrap_or(usize::MAX);
        half + Duration::from_micros(self.random.below(steps + 1) as u64)
    }

    /// The broker did something for us: the next wait is a short one again.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_never_less_than_half() {
        let mut backoff = Backoff::new(7);
        let mut most = FIRST;
        for _ in 0..100 {
            let wait = backoff.failed();
            assert!(most / 2 <= wait && wait <= most, "{wait:?} of {most:?}");
            most = (most * 2).min(LONGEST);
        }
        assert_eq!(most, LONGEST);
        backoff.succeeded();
        assert!(backoff.failed() <= FIRST);
    }

    #[test]
    fn two_clients_do_not_come_back_together() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..8).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
