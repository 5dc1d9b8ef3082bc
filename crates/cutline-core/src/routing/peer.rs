//! Whether the agent behind a link lives, by its heartbeats.
//!
//! A heartbeat is asked every interval; any sign of life counts, also an answer to a frame. A link
//! is down when nothing was heard over it for two intervals, or when it refuses a connection. So a
//! peer that is killed, stopped or cut off is noticed at most two heartbeats after its last sign of
//! life, and one late heartbeat alone condemns nobody.

use crate::units::Nanos;

/// How many intervals of silence are too many.
pub(super) const SILENT_HEARTBEATS: u64 = 2;

/// What is known of the agent behind one link.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// It was heard, and not silent for too long since.
    pub(super) up: bool,
    /// The last sign of life.
    heard: Nanos,
    /// When to ask next.
    next: Nanos,
    /// Number and time of the last heartbeat asked.
    asked: Option<(u64, Nanos)>,
    /// Which start of its process was heard last.
    boot: Option<u64>,
}

/// What an answered heartbeat told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    /// There and back, where it was the last one asked.
    pub(super) round_trip: Option<Nanos>,
    /// The link was down until now.
    pub(super) came_up: bool,
    /// The process is another one than before: it holds nothing of what it was told.
    pub(super) restarted: bool,
}

impl Peer {
    /// The number of the heartbeat to ask now, if it is time.
    pub(super) fn ask(&mut self, now: Nanos, interval: Nanos) -> Option<u64> {
        if now < self.next {
            return None;
        }
        let number = self.asked.map_or(0, |(last, _)| last + 1);
        self.asked = Some((number, now));
        self.next = now + interval;
        Some(number)
    }

    /// A heartbeat was answered; one that is old by now is a sign of life all the same.
    pub(super) fn answered(&mut self, now: Nanos, number: u64, boot: u64) -> Sign {
        let last = self.asked.filter(|&(last, _)| last == number);
        let sign = Sign {
            round_trip: last.map(|(_, at)| now - at),
            came_up: !self.up,
            restarted: self.boot.is_some_and(|known| known != boot),
        };
        (self.up, self.heard, self.boot) = (true, now, Some(boot));
        sign
    }

    /// Something else came over the link. It brings up nobody, because it does not tell which start
    /// of the process it is from.
    pub(super) fn alive(&mut self, now: Nanos) {
        self.heard = self.heard.max(now);
    }

    /// Whether a heartbeat that could not even be asked says that the link is down: it is the last
    /// one, and nothing was heard since.
    pub(super) fn refused(&self, number: u64) -> bool {
        self.up && self.asked.is_some_and(|(last, at)| last == number && self.heard <= at)
    }

    /// Whether it has been silent for too long.
    pub(super) fn is_silent(&self, now: Nanos, interval: Nanos) -> bool {
        self.up && now >= self.heard + interval * SILENT_HEARTBEATS
    }

    /// When something is to be done next.
    pub(super) fn wake(&self, interval: Nanos) -> Nanos {
        match self.up {
            true => self.next.min(self.heard + interval * SILENT_HEARTBEATS),
            false => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Nanos = Nanos(100);

    #[test]
    fn silence_of_two_heartbeats_is_death() {
        let mut peer = Peer::default();
        assert_eq!(peer.ask(Nanos(0), INTERVAL), Some(0));
        assert_eq!(peer.ask(Nanos(99), INTERVAL), None);
        assert!(!peer.is_silent(Nanos(500), INTERVAL), "nobody was there yet");
        let sign = peer.answered(Nanos(30), 0, 7);
        assert_eq!(sign.round_trip, Some(Nanos(30)));
        assert!(sign.came_up && !sign.restarted);
        assert!(!peer.is_silent(Nanos(229), INTERVAL));
        assert!(peer.is_silent(Nanos(230), INTERVAL));
        peer.alive(Nanos(150));
        assert!(!peer.is_silent(Nanos(349), INTERVAL));
    }

    #[test]
    fn old_news_neither_measures_nor_condemns() {
        let mut peer = Peer::default();
        peer.ask(Nanos(0), INTERVAL);
        peer.ask(Nanos(100), INTERVAL);
        assert_eq!(peer.answered(Nanos(120), 0, 7).round_trip, None);
        assert!(!peer.refused(0), "a newer one was asked");
        assert!(!peer.refused(1), "it was heard since");
        peer.ask(Nanos(200), INTERVAL);
        assert!(peer.refused(2));
        assert!(peer.answered(Nanos(210), 2, 8).restarted);
    }
}
