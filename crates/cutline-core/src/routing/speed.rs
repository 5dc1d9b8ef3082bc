//! How fast a link is, from what went over it.
//!
//! A transfer of `bytes` takes `base + bytes / rate`, where the base is the way of an empty message.
//! It is half of the shortest of the last round trips of heartbeats, so that a queue in front of the
//! link does not count as distance. A transfer that took twice the base or more tells the rate; a
//! shorter one, and one of few bytes, only tells that the link is no slower than that.
//!
//! Transfers that overlap share the link, in whatever way: they count together, as one busy period.
//! The estimate is the median of the last three periods: one outlier moves nothing, two agree.

use std::collections::VecDeque;

use crate::units::{Bytes, BytesPerSec, Nanos};

/// Periods that the median is taken over.
const PERIODS: usize = 3;

/// Transfers that one period takes in at most, so that a busy link still gives news.
const PERIOD_TRANSFERS: u32 = 4;

/// Round trips among which the shortest is looked for.
const ROUND_TRIPS: usize = 8;

/// Fewer bytes than this tell no rate: their time is that of the processes at both ends.
const TELLING: Bytes = Bytes(16 << 10);

/// Bytes of probes: the first, the fewest and the most.
const FIRST_PROBE: Bytes = Bytes(32 << 10);
const LEAST_PROBE: Bytes = Bytes(2 << 10);
const MOST_PROBE: Bytes = Bytes(1 << 20);

/// A stretch of time in which the link was busy.
#[derive(Clone, Copy, Debug)]
struct Period {
    began: Nanos,
    ended: Nanos,
    bytes: Bytes,
    transfers: u32,
    /// It followed another without a pause, so that no way of an empty message is in it.
    seamless: bool,
}

/// What is known of one link's speed.
#[derive(Clone, Debug)]
pub(super) struct Speed {
    planned_base: Nanos,
    round_trips: VecDeque<Nanos>,
    periods: VecDeque<Period>,
    /// The link is at least as fast.
    floor: Option<BytesPerSec>,
    /// The last estimate, also where it is doubted by now.
    last: Option<BytesPerSec>,
    /// When anything was learnt last.
    learnt: Option<Nanos>,
    probe: Option<(Nanos, Bytes)>,
    probe_bytes: Bytes,
    /// The last probe was too short to tell the rate, a larger one would.
    enlarge: bool,
    not_before: Nanos,
    /// What ended before this says nothing.
    doubted: Nanos,
}

impl Speed {
    pub(super) fn new(planned_base: Nanos) -> Self {
        Self {
            planned_base,
            round_trips: VecDeque::with_capacity(ROUND_TRIPS),
            periods: VecDeque::with_capacity(PERIODS),
            floor: None,
            last: None,
            learnt: None,
            probe: None,
            probe_bytes: FIRST_PROBE,
            enlarge: false,
            not_before: Nanos::ZERO,
            doubted: Nanos::ZERO,
        }
    }

    /// The estimate; none where nothing was measured since it was doubted.
    pub(super) fn rate(&self) -> Option<BytesPerSec> {
        let base = self.base();
        let mut rates = [BytesPerSec::ZERO; PERIODS];
        let known = self.periods.len();
        for (rate, period) in rates.iter_mut().zip(&self.periods) {
            *rate = period.rate(base);
        }
        rates[..known].sort_unstable();
        // Of two the slower one.
        let median = known.checked_sub(1).map(|last| rates[last / 2]);
        median.max(self.floor)
    }

    /// The estimate, or the last one where it is doubted.
    pub(super) fn last(&self) -> Option<BytesPerSec> {
        self.rate().or(self.last)
    }

    /// A heartbeat went there and back.
    pub(super) fn round_trip(&mut self, time: Nanos) {
        if self.round_trips.len() == ROUND_TRIPS {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(time);
    }

    /// Bytes went over the link in one direction, from their first to their last.
    pub(super) fn transferred(&mut self, now: Nanos, began: Nanos, ended: Nanos, bytes: Bytes) {
        self.learn(now, began, ended, bytes, bytes >= TELLING);
    }

    /// A probe went over it.
    pub(super) fn probed(&mut self, now: Nanos, began: Nanos, ended: Nanos, bytes: Bytes) {
        self.probe = None;
        let told = self.learn(now, began, ended, bytes, true);
        self.enlarge = !told && bytes < MOST_PROBE;
        // Long enough for its time to tell, and no longer.
        let telling = self.last().map_or(FIRST_PROBE, |rate| {
            let bytes = u128::from(rate.0) * u128::from(self.base().0) * 4 / 1_000_000_000;
            Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
        });
        let wanted = if self.enlarge { bytes * 4 } else { telling };
        self.probe_bytes = wanted.clamp(FIRST_PROBE, MOST_PROBE);
    }

    /// A probe came to nothing.
    pub(super) fn probe_failed(&mut self, now: Nanos, again_after: Nanos) {
        self.probe = None;
        self.not_before = now + again_after;
    }

    /// What was measured says nothing any more: the link broke, or something took far too long.
    pub(super) fn doubt(&mut self, now: Nanos) {
        self.doubted = now;
        self.last = self.last();
        self.periods.clear();
        self.floor = None;
        self.enlarge = false;
    }

    /// The link broke: a probe on it will not come back.
    pub(super) fn cut(&mut self, now: Nanos) {
        self.doubt(now);
        self.probe = None;
        self.round_trips.clear();
        self.probe_bytes = FIRST_PROBE;
        self.not_before = Nanos::ZERO;
    }

    /// When a probe is wanted next, given that one is after a silence of `every`.
    pub(super) fn wants_probe_at(&self, every: Nanos) -> Nanos {
        let due = match (self.probe, self.learnt) {
            // A probe that stays away for so long was swallowed, or was too much for the link.
            (Some((since, _)), _) => since + every * 4,
            (None, Some(learnt)) if self.rate().is_some() && !self.enlarge => learnt + every,
            _ => Nanos::ZERO,
        };
        due.max(self.not_before)
    }

    /// Starts a probe and says how large it is.
    pub(super) fn probe(&mut self, now: Nanos) -> Bytes {
        if self.probe.is_some() {
            self.probe_bytes = Bytes(self.probe_bytes.0 / 4).max(LEAST_PROBE);
        }
        self.probe = Some((now, self.probe_bytes));
        self.probe_bytes
    }

    /// Takes a transfer in; says whether its time told a rate.
    fn learn(
        &mut self,
        now: Nanos,
        began: Nanos,
        ended: Nanos,
        bytes: Bytes,
        may_tell: bool,
    ) -> bool {
        if ended <= self.doubted && self.doubted > Nanos::ZERO {
            return false;
        }
        self.learnt = Some(now);
        let base = self.base();
        let telling = may_tell && ended - began >= base * 2;
        if !telling {
            let least = rate_of(bytes, ended - began);
            self.floor = self.floor.max(Some(least)).filter(|_| bytes > Bytes::ZERO);
            return false;
        }
        match self.periods.back_mut().filter(|last| began < last.ended) {
            Some(last) if last.transfers < PERIOD_TRANSFERS => last.extend(began, ended, bytes),
            Some(last) => {
                let (began, seamless) = (last.ended, true);
                if ended > began {
                    self.push(Period { began, ended, bytes, transfers: 1, seamless });
                }
            }
            None => self.push(Period { began, ended, bytes, transfers: 1, seamless: false }),
        }
        // What a transfer tells counts more than that it was once faster.
        self.floor = None;
        self.last = self.rate();
        true
    }

    fn push(&mut self, period: Period) {
        if self.periods.len() == PERIODS {
            self.periods.pop_front();
        }
        self.periods.push_back(period);
    }

    fn base(&self) -> Nanos {
        let shortest = self.round_trips.iter().min();
        shortest.map_or(self.planned_base, |&Nanos(time)| Nanos(time / 2))
    }
}

impl Period {
    fn extend(&mut self, began: Nanos, ended: Nanos, bytes: Bytes) {
        if !self.seamless {
            self.began = self.began.min(began);
        }
        self.ended = self.ended.max(ended);
        self.bytes += bytes;
        self.transfers += 1;
    }

    fn rate(&self, base: Nanos) -> BytesPerSec {
        let whole = self.ended - self.began;
        // The base may have grown since; it never was most of the time.
        let base = if self.seamless { Nanos::ZERO } else { base.min(Nanos(whole.0 / 2)) };
        rate_of(self.bytes, whole - base)
    }
}

fn rate_of(bytes: Bytes, time: Nanos) -> BytesPerSec {
    let rate = u128::from(bytes.0) * 1_000_000_000 / u128::from(time.0.max(1));
    BytesPerSec(u64::try_from(rate).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(time: u64) -> Nanos {
        Nanos(time * MS)
    }

    /// A link of 1 MB/s and a way of 10 ms.
    fn speed() -> Speed {
        let mut speed = Speed::new(ms(3));
        speed.round_trip(ms(20));
        speed.round_trip(ms(900));
        speed
    }

    #[test]
    fn the_way_of_an_empty_message_is_not_counted() {
        let mut speed = speed();
        speed.transferred(ms(110), ms(0), ms(110), Bytes(100_000));
        assert_eq!(speed.rate(), Some(BytesPerSec(1_000_000)));
    }

    #[test]
    fn small_messages_only_tell_that_the_link_is_no_slower() {
        let mut speed = speed();
        speed.transferred(ms(110), ms(0), ms(110), Bytes(100_000));
        // A thousand bytes that were held up: no news. The same at once: at least so fast.
        speed.transferred(ms(600), ms(200), ms(600), Bytes(1_000));
        assert_eq!(speed.rate(), Some(BytesPerSec(1_000_000)));
        speed.transferred(ms(612), ms(600), ms(612), Bytes(24_000));
        assert_eq!(speed.rate(), Some(BytesPerSec(2_000_000)));
    }

    #[test]
    fn one_outlier_moves_nothing_and_two_do() {
        let mut speed = speed();
        for at in [0, 200, 400] {
            speed.transferred(ms(at + 110), ms(at), ms(at + 110), Bytes(100_000));
        }
        speed.transferred(ms(1610), ms(600), ms(1610), Bytes(100_000));
        assert_eq!(speed.rate(), Some(BytesPerSec(1_000_000)));
        speed.transferred(ms(3010), ms(2000), ms(3010), Bytes(100_000));
        assert_eq!(speed.rate(), Some(BytesPerSec(100_000)));
    }

    #[test]
    fn transfers_that_share_the_link_count_together() {
        // Two at once, each at half of the rate; then four behind one another, each asked for at
        // the beginning.
        let mut shared = speed();
        shared.transferred(ms(210), ms(0), ms(210), Bytes(100_000));
        shared.transferred(ms(210), ms(0), ms(210), Bytes(100_000));
        assert_eq!(shared.rate(), Some(BytesPerSec(1_000_000)));
        let mut queued = speed();
        for nth in 1..=12 {
            let ended = ms(10 + nth * 100);
            queued.transferred(ended, ms(0), ended, Bytes(100_000));
        }
        assert_eq!(queued.rate(), Some(BytesPerSec(1_000_000)));
    }

    #[test]
    fn probes_grow_until_they_tell_and_shrink_when_they_stay_away() {
        let mut speed = speed();
        let every = ms(1000);
        assert_eq!(speed.wants_probe_at(every), Nanos::ZERO);
        assert_eq!(speed.probe(ms(0)), FIRST_PROBE);
        assert_eq!(speed.wants_probe_at(every), ms(4000));
        // A link so fast that the probe is all base: what it told is used, and more is asked for.
        speed.probed(ms(11), ms(0), ms(11), FIRST_PROBE);
        assert_eq!(speed.rate(), Some(rate_of(FIRST_PROBE, ms(11))));
        assert_eq!(speed.wants_probe_at(every), Nanos::ZERO);
        assert_eq!(speed.probe(ms(11)), FIRST_PROBE * 4);
        speed.probed(ms(43), ms(11), ms(43), FIRST_PROBE * 4);
        assert_eq!(speed.wants_probe_at(every), ms(1043));
        speed.cut(ms(60));
        assert_eq!((speed.rate(), speed.wants_probe_at(every)), (None, Nanos::ZERO));
        assert_eq!(speed.probe(ms(2000)), FIRST_PROBE);
        assert_eq!(speed.probe(ms(6000)), Bytes(FIRST_PROBE.0 / 4));
        assert!(speed.last().is_some());
    }
}
