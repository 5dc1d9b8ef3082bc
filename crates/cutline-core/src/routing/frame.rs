//! A frame that is held, and its attempts.

use super::RouteId;
use crate::units::Nanos;

/// Attempts of one frame that may be answered at a time; a further one takes the place of the oldest.
pub(super) const MOST_OPEN: usize = 3;

/// One request for a frame on a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) epoch: u32,
    pub(super) route: RouteId,
    pub(super) since: Nanos,
    /// From then on it is late.
    pub(super) late_at: Nanos,
    /// Until then it takes no longer than usual.
    pub(super) usual_until: Nanos,
    /// From then on the fallback computes the frame too: a dead peer would be known as such.
    pub(super) hedged_at: Nanos,
    /// It took too long, or its link is down: the frame is tried elsewhere, but whichever attempt
    /// answers first is taken.
    pub(super) late: bool,
}

/// A frame from its arrival to its answer.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) deadline: Nanos,
    /// Attempts whose answers count, oldest first.
    pub(super) attempts: Vec<Attempt>,
    /// Epoch of the next attempt.
    pub(super) next_epoch: u32,
    /// It waits for its turn on a route.
    pub(super) waiting: bool,
    /// Its time is so short that the fallback has to start.
    pub(super) rescue: bool,
}

impl Frame {
    pub(super) fn new(deadline: Nanos) -> Self {
        let attempts = Vec::with_capacity(MOST_OPEN);
        Self { deadline, attempts, next_epoch: 0, waiting: true, rescue: false }
    }

    /// Whether it may be sent over a route whose last strike was then: not where an attempt is under
    /// way that began after it.
    pub(super) fn may_try(&self, route: RouteId, struck: Option<Nanos>) -> bool {
        let mut on_it = self.attempts.iter().filter(|attempt| attempt.route == route);
        on_it.all(|attempt| struck.is_some_and(|at| attempt.since < at))
    }

    /// When the fallback has to start it, being asked behind so many others: in time for its deadline,
    /// or when its attempt takes so long that it may well not be answered.
    pub(super) fn rescue_at(&self, fallback: Nanos, others: usize) -> Nanos {
        let before = self.deadline - fallback * (others as u64).saturating_add(1);
        // The first attempt is left in peace while it takes no longer than usual.
        let first = self.attempts.iter().filter(|attempt| !attempt.late && attempt.epoch == 0);
        let before = first.map(|attempt| attempt.usual_until).fold(before, Nanos::max);
        let hedged = self.attempts.iter().filter(|attempt| !attempt.late);
        hedged.map(|attempt| attempt.hedged_at).fold(before, Nanos::min)
    }

    /// Whether one of its attempts is on the route.
    pub(super) fn is_on(&self, route: RouteId) -> bool {
        self.attempts.iter().any(|attempt| attempt.route == route)
    }

    /// Waits again where nothing is under way for it that is not late.
    pub(super) fn wait_unless_under_way(&mut self) {
        self.waiting = self.rescue || self.attempts.iter().all(|attempt| attempt.late);
    }
}
