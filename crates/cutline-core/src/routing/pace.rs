//! How long answers of a route usually take, and when one is late.
//!
//! Smoothed latency and deviation as retransmission timers have them (V. Paxson et al., "Computing
//! TCP's retransmission timer", RFC 6298, 2011): late is what takes four deviations longer than usual.
//! It starts from the prediction instead of the first sample, and a sample counts for no more than what
//! was late already, so that an answer that a stopped process gives after minutes does not make the
//! watch blind.

use crate::units::Nanos;

/// Latencies of one route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    smoothed: Nanos,
    deviation: Nanos,
}

impl Pace {
    /// Before the first answer: one frame alone takes as long as predicted, and while `full` frames
    /// are under way it may be slow by as much as they need.
    pub(super) fn predicted(latency: Nanos, full: usize) -> Self {
        Self { smoothed: latency, deviation: Nanos((latency * full as u64).0 / 2) }
    }

    /// An answer took so long; `late_after` is from when on it was late.
    pub(super) fn answered(&mut self, took: Nanos, late_after: Nanos) {
        let took = took.min(late_after);
        let off = Nanos(self.smoothed.0.abs_diff(took.0));
        self.deviation = Nanos((self.deviation * 3 + off).0 / 4);
        self.smoothed = Nanos((self.smoothed * 7 + took).0 / 8);
    }

    /// The usual latency.
    pub(super) fn usual(&self) -> Nanos {
        self.smoothed
    }

    /// How long an answer may take before it is late; never less than `least`.
    pub(super) fn late_after(&self, least: Nanos) -> Nanos {
        (self.smoothed + self.deviation * 4).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_four_deviations_over_usual() {
        let mut pace = Pace::predicted(Nanos(100), 3);
        assert_eq!(pace.late_after(Nanos(50)), Nanos(700));
        (0..50).for_each(|_| pace.answered(Nanos(80), Nanos(300)));
        assert!((80..90).contains(&pace.usual().0));
        assert!(pace.late_after(Nanos(0)) < Nanos(120));
        assert_eq!(pace.late_after(Nanos(500)), Nanos(500));
    }

    #[test]
    fn an_answer_after_minutes_does_not_blind_the_watch() {
        let mut pace = Pace::predicted(Nanos(80), 1);
        (0..50).for_each(|_| pace.answered(Nanos(80), Nanos(200)));
        pace.answered(Nanos(60_000_000_000), Nanos(200));
        assert!(pace.late_after(Nanos(0)) < Nanos(250));
        // Though what stays slow is slow.
        (0..50).for_each(|_| pace.answered(Nanos(600), pace.late_after(Nanos(200))));
        assert!(pace.usual() > Nanos(500));
    }
}
