//! How many frames a plan keeps under way, so that its busiest resource never waits.

use std::num::NonZeroU32;

use super::PlannedChoice;

/// Most frames under way at a time, whatever a plan says: what an agent admits, with room to spare.
pub const MOST_IN_FLIGHT: NonZeroU32 = NonZeroU32::new(48).unwrap();

impl PlannedChoice {
    /// Frames to keep under way: what the file says, else what reaches the planned period.
    ///
    /// Frames that leave one period apart and stay for the latency are latency / period under way
    /// at a time (Little's law, 1961). One on each stage, one on each hop and one on its way in is
    /// the least with which all of them can be busy at once. One more waits, so that the busiest
    /// has work when the frame behind is late.
    pub fn frames_in_flight(&self) -> NonZeroU32 {
        if let Some(decided) = self.in_flight {
            return decided.min(MOST_IN_FLIGHT);
        }
        let places = (self.stages.len() as u64).saturating_mul(2);
        let planned = self
            .predicted
            .map_or(0, |figures| figures.latency_ns.0.div_ceil(figures.period_ns.0.max(1)));
        let frames = u32::try_from(places.max(planned).saturating_add(1)).unwrap_or(u32::MAX);
        NonZeroU32::new(frames).unwrap_or(NonZeroU32::MIN).min(MOST_IN_FLIGHT)
    }
}
