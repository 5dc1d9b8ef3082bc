//! One direction of a link as a pure machine: which chunk arrives when.
//!
//! Time is an argument. A chunk that is booked departs after the chunks booked before it, at the
//! wire's rate; a change of the rate re-times what has not departed yet, as if the wire had had the
//! rest of its backlog to send at the new rate.

use std::collections::BTreeMap;

use cutline_core::units::{Bytes, BytesPerSec, Nanos};

/// Largest payload of one chunk: that of an Ethernet frame with TCP timestamps.
pub const CHUNK: usize = 1448;

/// What each chunk costs beside its payload: Ethernet, IP and TCP headers.
const HEADERS: u64 = 66;

/// Bytes that a direction may hold beyond what is under way.
const SLACK: u64 = 64 * 1024;

/// Rate, delay and jitter of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `None` is unlimited.
    pub rate: Option<BytesPerSec>,
    /// From departure to arrival.
    pub delay: Nanos,
    /// The delay varies by up to this, both ways.
    pub jitter: Nanos,
}

/// Name of a booked chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug)]
struct Booked {
    depart: Nanos,
    /// Of the delay, in 1/1000 of the jitter, -1000 to 1000.
    wobble: i64,
    /// Its delay, fixed by the shape at its departure.
    arrive: Nanos,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Wire {
    shape: Shape,
    cut_since: Option<Nanos>,
    /// When the last booked chunk has departed.
    free: Nanos,
    booked: BTreeMap<Ticket, Booked>,
    next: u64,
    random: u64,
}

impl Wire {
    /// An idle wire.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            cut_since: None,
            free: Nanos(0),
            booked: BTreeMap::new(),
            next: 0,
            random: seed,
        }
    }

    /// Rate, delay and jitter as they are.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.cut_since.is_some()
    }

    /// Bytes that one connection may have waiting: what fills the path, and some slack.
    pub fn capacity(&self) -> u64 {
        let Some(rate) = self.shape.rate else { return 4 << 20 };
        let under_way = u128::from(rate.0) * u128::from(self.shape.delay.0) / 1_000_000_000;
        SLACK + u64::try_from(under_way).unwrap_or(u64::MAX).min(64 << 20)
    }

    /// Books a chunk of at most [`CHUNK`] bytes (more on an unlimited wire) that is there at `now`.
    pub fn book(&mut self, now: Nanos, bytes: usize) -> Ticket {
        // While the wire is cut its clock stands still.
        let now = self.cut_since.unwrap_or(now);
        let occupied = self
            .shape
            .rate
            .map_or(Nanos(0), |rate| rate.transfer_time(Bytes(bytes as u64 + HEADERS)));
        self.free = self.free.max(now) + occupied;
        let wobble = self.wobble();
        let ticket = Ticket(self.next);
        self.next += 1;
        let arrive = arrival(self.free, wobble, self.shape);
        self.booked.insert(ticket, Booked { depart: self.free, wobble, arrive });
        ticket
    }

    /// When a chunk arrives; `None` while the link is cut. A chunk that was taken is long due.
    pub fn due(&self, ticket: Ticket) -> Option<Nanos> {
        match self.cut_since {
            Some(_) => None,
            None => Some(self.booked.get(&ticket).map_or(Nanos(0), |booked| booked.arrive)),
        }
    }

    /// Forgets a chunk that has arrived.
    pub fn take(&mut self, ticket: Ticket) {
        self.booked.remove(&ticket);
    }

    /// Changes the shape at `now`: what departs later does so at the new rate and delay.
    pub fn set(&mut self, now: Nanos, shape: Shape) {
        let now = self.cut_since.unwrap_or(now);
        let old = std::mem::replace(&mut self.shape, shape);
        let rescale = |time: Nanos| now + Nanos(rescaled((time - now).0, old.rate, shape.rate));
        for booked in self.booked.values_mut().filter(|booked| booked.depart > now) {
            booked.depart = rescale(booked.depart);
            booked.arrive = arrival(booked.depart, booked.wobble, shape);
        }
        if self.free > now {
            self.free = rescale(self.free);
        }
    }

    /// Lets nothing arrive any more.
    pub fn cut(&mut self, now: Nanos) {
        self.cut_since.get_or_insert(now);
    }

    /// Ends a cut: everything goes on where it stood.
    pub fn resume(&mut self, now: Nanos) {
        let Some(since) = self.cut_since.take() else { return };
        let pause = now - since;
        for booked in self.booked.values_mut() {
            booked.depart += pause;
            booked.arrive += pause;
        }
        self.free += pause;
    }

    /// The next of a fixed sequence of numbers from -1000 to 1000 (SplitMix64, Steele et al. 2014).
    fn wobble(&mut self) -> i64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % 2001) as i64 - 1000
    }
}

fn arrival(depart: Nanos, wobble: i64, shape: Shape) -> Nanos {
    let jitter = i128::from(shape.jitter.0) * i128::from(wobble) / 1000;
    let delay = (i128::from(shape.delay.0) + jitter).max(0);
    depart + Nanos(u64::try_from(delay).unwrap_or(u64::MAX))
}

/// Time that a backlog takes at another rate. A backlog exists only on a wire that had a rate.
fn rescaled(time: u64, old: Option<BytesPerSec>, new: Option<BytesPerSec>) -> u64 {
    match (old, new) {
        (Some(old), Some(new)) if new.0 > 0 => {
            u64::try_from(u128::from(time) * u128::from(old.0) / u128::from(new.0))
                .unwrap_or(u64::MAX)
        }
        (Some(_), Some(_)) => u64::MAX,
        (_, None) => 0,
        (None, Some(_)) => time,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn wire(mbit: u64, delay_ms: u64) -> Wire {
        let rate = Some(BytesPerSec(mbit * 125_000));
        Wire::new(Shape { rate, delay: Nanos(delay_ms * MS), jitter: Nanos(0) }, 1)
    }

    /// Books a message that is there at `now`, and returns when its last chunk arrives.
    fn send(wire: &mut Wire, now: u64, bytes: usize) -> Ticket {
        let mut last = Ticket(0);
        for start in (0..bytes).step_by(CHUNK) {
            last = wire.book(Nanos(now), CHUNK.min(bytes - start));
        }
        last
    }

    #[test]
    fn a_message_takes_its_bytes_with_headers_over_the_rate_plus_the_delay() {
        for (bytes, mbit, delay, expected_us) in [
            (100_000, 10, 20, 103_696),
            (1_000_000, 10, 20, 856_485),
            (10_000, 1, 0, 83_696),
            (1, 100, 5, 5_005),
        ] {
            let mut wire = wire(mbit, delay);
            let last = send(&mut wire, 0, bytes);
            let due = wire.due(last).unwrap().0 / 1000;
            assert!(due.abs_diff(expected_us) <= 1, "{bytes} B: {due} us, not {expected_us}");
        }
    }

    #[test]
    fn all_who_send_share_the_rate() {
        let mut wire = wire(10, 0);
        let alone = send(&mut wire, 0, 14_480);
        let alone = wire.due(alone).unwrap().0;
        let second = send(&mut wire, 0, 14_480);
        assert_eq!(wire.due(second).unwrap().0, 2 * alone);
        let later = send(&mut wire, 10 * alone, 14_480);
        assert_eq!(wire.due(later).unwrap().0, 11 * alone);
    }

    #[test]
    fn half_the_rate_doubles_what_is_left() {
        let mut wire = wire(10, 5);
        let last = send(&mut wire, 0, 100 * CHUNK);
        let at_ten = wire.due(last).unwrap().0 - 5 * MS;
        let half = Nanos(at_ten / 2);
        wire.set(half, Shape { rate: Some(BytesPerSec(625_000)), ..wire.shape() });
        let expected = at_ten / 2 + at_ten + 5 * MS;
        assert!(wire.due(last).unwrap().0.abs_diff(expected) <= 2);
        wire.set(half, Shape { rate: None, ..wire.shape() });
        assert_eq!(wire.due(last).unwrap(), half + Nanos(5 * MS));
    }

    #[test]
    fn a_cut_adds_exactly_its_length() {
        let mut cut = wire(10, 5);
        let early = send(&mut cut, 0, 50_000);
        let undisturbed = cut.due(early).unwrap();
        cut.cut(Nanos(10 * MS));
        cut.cut(Nanos(11 * MS));
        assert_eq!(cut.due(early), None);
        let during = cut.book(Nanos(30 * MS), CHUNK);
        cut.resume(Nanos(110 * MS));
        assert_eq!(cut.due(early), Some(undisturbed + Nanos(100 * MS)));
        assert!(cut.due(during) > cut.due(early));
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_repeats_with_its_seed() {
        let arrivals = |seed| {
            let shape = Shape { rate: None, delay: Nanos(10 * MS), jitter: Nanos(4 * MS) };
            let mut wire = Wire::new(shape, seed);
            let tickets: Vec<_> = (0..200).map(|_| wire.book(Nanos(0), CHUNK)).collect();
            tickets.iter().map(|&ticket| wire.due(ticket).unwrap().0).collect::<Vec<_>>()
        };
        let first = arrivals(7);
        assert!(first.iter().all(|due| (6 * MS..=14 * MS).contains(due)));
        assert!(first.iter().max().unwrap() - first.iter().min().unwrap() > 6 * MS);
        assert_eq!(first, arrivals(7));
        assert_ne!(first, arrivals(8));
    }

    proptest! {
        /// Whatever happens to the wire, chunks keep their order and none arrives before it came.
        #[test]
        fn chunks_never_overtake(
            steps in prop::collection::vec((0u8..5, 0u64..50 * MS, 1usize..=CHUNK), 1..100)
        ) {
            let mut wire = wire(5, 3);
            let (mut now, mut chunks) = (0, Vec::new());
            for (what, wait, size) in steps {
                now += wait;
                match what {
                    0 => wire.cut(Nanos(now)),
                    1 => wire.resume(Nanos(now)),
                    2 => {
                        let rate = Some(BytesPerSec(size as u64 * 1000));
                        wire.set(Nanos(now), Shape { rate, ..wire.shape() });
                    }
                    _ => chunks.push((now, wire.book(Nanos(now), size))),
                }
            }
            wire.resume(Nanos(now));
            let due: Vec<_> = chunks.iter().map(|&(at, chunk)| (at, wire.due(chunk).unwrap().0)).collect();
            prop_assert!(due.windows(2).all(|pair| pair[0].1 <= pair[1].1));
            prop_assert!(due.iter().all(|&(at, due)| due >= at + 3 * MS));
        }
    }
}
