//! Results between the run that makes them and the broker that acknowledges them.
//!
//! ```text
//! push ─▶ [ done | handed, handed, ... | waiting, waiting, ... ] ◀─ bounded in number and bytes
//!           leaves   └ at most a window ┘
//!                      from the oldest that is not done
//! ```
//!
//! A message leaves when the broker has acknowledged it, refused it, or when it had to make room; what
//! was handed over a connection that broke waits again, marked as a repetition, in its old place. So
//! messages leave in the order in which they came, and may arrive more than once. Time is an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Messages that may be with the broker unacknowledged: fewer than any broker's limit that is known
/// (mosquitto's is 20), enough that an acknowledgement that takes 100 ms costs 160 a second at worst.
const WINDOW: u64 = 16;

/// What a message occupies beside its payload, in bytes, generously.
const OVERHEAD: usize = 128;

/// What became of a run's results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Results that were to be published.
    pub results: u64,
    /// Those that the broker acknowledged.
    pub acknowledged: u64,
    /// Sent again after a connection broke: at most so many arrived twice.
    pub repeated: u64,
    /// Refused by the broker, or larger than it takes.
    pub refused: u64,
    /// Dropped because too many waited.
    pub dropped: u64,
    /// Still waiting, or sent without being acknowledged.
    pub unacknowledged: u64,
    /// Connections that were made.
    pub connections: u64,
}

impl Delivery {
    /// Whether the broker has every result.
    pub fn is_whole(&self) -> bool {
        self.acknowledged == self.results
    }
}

/// There is no room for another message until one is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} results wait for the broker already")]
pub struct Full(pub usize);

/// A message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) payload: Bytes,
    /// It may have arrived already.
    pub(super) again: bool,
}

#[derive(Debug)]
struct Entry {
    payload: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { again: bool },
    Handed { since: Duration },
    Done,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Number of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
    /// Number of the first that may be waiting.
    next: u64,
    bytes: usize,
    most_bytes: usize,
    window: u64,
    /// Handed to the client, which has not given them an identifier yet; in order.
    unnamed: VecDeque<u64>,
    /// By the packet identifier of this connection.
    named: BTreeMap<u16, u64>,
    delivery: Delivery,
}

impl Outbox {
    /// Room for so many bytes of messages, overhead included.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            first: 0,
            entries: VecDeque::new(),
            next: 0,
            bytes: 0,
            most_bytes,
            window: WINDOW,
            unnamed: VecDeque::new(),
            named: BTreeMap::new(),
            delivery: Delivery::default(),
        }
    }

    /// Whether a message can be taken. An empty outbox takes one of any size.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < self.most_bytes || self.entries.is_empty()
    }

    /// Takes a message.
    pub(super) fn push(&mut self, payload: Bytes) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full(self.entries.len()));
        }
        self.delivery.results += 1;
        self.bytes += payload.len() + OVERHEAD;
        self.entries.push_back(Entry { payload, state: State::Waiting { again: false } });
        Ok(())
    }

    /// Gives up the oldest message that was never sent, to make room; false where there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let fresh = |entry: &Entry| entry.state == State::Waiting { again: false };
        let Some(at) = self.entries.iter().position(fresh) else { return false };
        self.delivery.dropped += 1;
        self.done(self.first + at as u64);
        true
    }

    /// The next message to hand to the client, which is taken as handed at `now`; `None` where none
    /// waits, or as many as may be are not acknowledged.
    pub(super) fn hand(&mut self, now: Duration) -> Option<Leaving> {
        loop {
            let at = usize::try_from(self.next.checked_sub(self.first)?).ok()?;
            let entry = self.entries.get_mut(at)?;
            let State::Waiting { again } = entry.state else {
                self.next += 1;
                continue;
            };
            if at as u64 >= self.window {
                return None;
            }
            entry.state = State::Handed { since: now };
            self.unnamed.push_back(self.next);
            self.delivery.repeated += u64::from(again);
            let payload = entry.payload.clone();
            self.next += 1;
            return Some(Leaving { payload, again });
        }
    }

    /// A connection is made, over which at most so many may be unacknowledged.
    pub(super) fn connected(&mut self, most: u64) {
        self.delivery.connections += 1;
        self.window = WINDOW.min(most.max(1));
    }

    /// Whether what is handed next is a repetition.
    pub(super) fn has_repetitions(&self) -> bool {
        let at = self.next.saturating_sub(self.first);
        let mut waiting = self.entries.iter().skip(usize::try_from(at).unwrap_or(usize::MAX));
        waiting
            .find(|entry| entry.state != State::Done)
            .is_some_and(|entry| entry.state == State::Waiting { again: true })
    }

    /// The oldest message that was handed has a packet identifier now.
    pub(super) fn named(&mut self, packet: u16) {
        if let Some(number) = self.unnamed.pop_front() {
            self.named.insert(packet, number);
        }
    }

    /// The broker has a message, or does not want it.
    pub(super) fn acknowledged(&mut self, packet: u16, refused: bool) {
        let Some(number) = self.named.remove(&packet) else { return };
        match refused {
            true => self.delivery.refused += 1,
            false => self.delivery.acknowledged += 1,
        }
        self.done(number);
    }

    /// The client has no room for the message that was handed last: it is handed again later.
    pub(super) fn returned(&mut self, again: bool) {
        let Some(number) = self.unnamed.pop_back() else { return };
        let at = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.state = State::Waiting { again };
            self.delivery.repeated -= u64::from(again);
            self.next = number;
        }
    }

    /// The message that was handed last was not taken, and never will be.
    pub(super) fn refused(&mut self) {
        let Some(number) = self.unnamed.pop_back() else { return };
        self.delivery.refused += 1;
        self.done(number);
    }

    /// The connection broke: what it had not acknowledged waits again.
    pub(super) fn lost(&mut self) {
        self.unnamed.clear();
        self.named.clear();
        self.next = self.first;
        for entry in &mut self.entries {
            if matches!(entry.state, State::Handed { .. }) {
                entry.state = State::Waiting { again: true };
            }
        }
    }

    /// When the message was handed that has been with the broker longest.
    pub(super) fn oldest_handed(&self) -> Option<Duration> {
        self.entries.iter().find_map(|entry| match entry.state {
            State::Handed { since } => Some(since),
            State::Waiting { .. } | State::Done => None,
        })
    }

    /// Whether nothing waits for the broker.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What became of the messages so far.
    pub(super) fn delivery(&self) -> Delivery {
        let Delivery { results, acknowledged, refused, dropped, .. } = self.delivery;
        Delivery { unacknowledged: results - acknowledged - refused - dropped, ..self.delivery }
    }

    fn done(&mut self, number: u64) {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) else { return };
        if entry.state == State::Done {
            return;
        }
        entry.state = State::Done;
        self.bytes -= std::mem::take(&mut entry.payload).len() + OVERHEAD;
        while self.entries.front().is_some_and(|entry| entry.state == State::Done) {
            self.entries.pop_front();
            self.first += 1;
        }
        self.next = self.next.max(self.first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn payload(number: u64) -> Bytes {
        Bytes::from(number.to_string())
    }

    fn filled(count: u64) -> Outbox {
        let mut outbox = Outbox::new(1 << 20);
        (0..count).for_each(|number| outbox.push(payload(number)).unwrap());
        outbox.connected(u64::MAX);
        outbox
    }

    #[test]
    fn messages_leave_in_order_and_no_more_than_a_window_of_them() {
        let mut outbox = filled(40);
        let sent: Vec<_> = std::iter::from_fn(|| outbox.hand(NOW)).collect();
        assert_eq!(sent.len() as u64, WINDOW);
        let expected = (0..WINDOW).map(|n| Leaving { payload: payload(n), again: false });
        assert!(sent.into_iter().eq(expected));
        (1..=WINDOW as u16).for_each(|packet| outbox.named(packet));
        // The second one alone makes no room: the window begins at the oldest.
        outbox.acknowledged(2, false);
        assert_eq!(outbox.hand(NOW), None);
        outbox.acknowledged(1, false);
        let next = [outbox.hand(NOW), outbox.hand(NOW)].map(|next| next.unwrap().payload);
        assert_eq!(next, [payload(WINDOW), payload(WINDOW + 1)]);
        assert_eq!(outbox.hand(NOW), None);
    }

    #[test]
    fn what_a_broken_connection_did_not_acknowledge_is_sent_again_before_the_rest() {
        let mut outbox = filled(4);
        (0..3).for_each(|_| drop(outbox.hand(NOW)));
        outbox.named(1);
        outbox.named(2);
        outbox.acknowledged(1, false);
        assert_eq!(outbox.oldest_handed(), Some(NOW));
        outbox.lost();
        assert_eq!((outbox.oldest_handed(), outbox.has_repetitions()), (None, true));
        // An acknowledgement of the connection that broke names nothing any more.
        outbox.acknowledged(2, false);
        outbox.connected(u64::MAX);
        let sent: Vec<_> = std::iter::from_fn(|| outbox.hand(NOW)).collect();
        let expected = [(1, true), (2, true), (3, false)];
        assert!(sent.iter().zip(expected).all(|(sent, (number, again))| *sent
            == Leaving { payload: payload(number), again }));
        let delivery = outbox.delivery();
        assert_eq!((delivery.acknowledged, delivery.repeated), (1, 2));
        assert_eq!((delivery.unacknowledged, delivery.connections), (3, 2));
    }

    #[test]
    fn a_broker_that_takes_few_at_a_time_is_given_few() {
        let mut outbox = filled(9);
        outbox.connected(2);
        assert_eq!(std::iter::from_fn(|| outbox.hand(NOW)).count(), 2);
    }

    #[test]
    fn a_full_outbox_takes_nothing_until_the_oldest_that_was_never_sent_is_dropped() {
        let mut outbox = Outbox::new(2 * (OVERHEAD + 1));
        outbox.push(payload(0)).unwrap();
        outbox.push(payload(1)).unwrap();
        assert_eq!(outbox.push(payload(2)), Err(Full(2)));
        outbox.connected(u64::MAX);
        outbox.hand(NOW);
        assert!(outbox.drop_oldest());
        outbox.push(payload(3)).unwrap();
        outbox.hand(NOW);
        // Both are with the broker: neither can be taken back.
        assert!(!outbox.drop_oldest());
        outbox.named(1);
        outbox.named(2);
        outbox.acknowledged(1, false);
        outbox.acknowledged(2, true);
        let delivery = outbox.delivery();
        let counts = [delivery.acknowledged, delivery.refused, delivery.dropped];
        assert_eq!((delivery.results, counts), (3, [1, 1, 1]));
        assert!(outbox.is_empty() && !delivery.is_whole());
    }

    #[test]
    fn a_message_larger_than_all_room_is_taken_where_nothing_waits() {
        let mut outbox = Outbox::new(1);
        outbox.push(payload(0)).unwrap();
        assert!(outbox.push(payload(1)).is_err());
    }

    #[test]
    fn a_message_for_which_the_client_has_no_room_is_handed_again_as_if_it_never_was() {
        let mut outbox = filled(2);
        let leaving = outbox.hand(NOW).unwrap();
        outbox.returned(leaving.again);
        assert_eq!(outbox.hand(NOW), Some(leaving));
        outbox.named(1);
        outbox.acknowledged(1, false);
        assert_eq!((outbox.delivery().acknowledged, outbox.delivery().repeated), (1, 0));
    }

    #[test]
    fn a_message_that_the_client_does_not_take_is_counted_as_refused() {
        let mut outbox = filled(2);
        outbox.hand(NOW);
        outbox.refused();
        assert_eq!(outbox.hand(NOW).unwrap().payload, payload(1));
        outbox.named(1);
        outbox.acknowledged(1, false);
        let delivery = outbox.delivery();
        assert_eq!((delivery.refused, delivery.acknowledged, delivery.unacknowledged), (1, 1, 0));
    }

    proptest! {
        /// Whatever breaks when: each message is acknowledged once, none before one is sent, and the
        /// first arrivals are in order.
        #[test]
        fn every_message_is_acknowledged_once_however_often_the_connection_breaks(
            events in proptest::collection::vec(0_u8..8, 1..400),
        ) {
            let (mut outbox, mut pushed) = (Outbox::new(1 << 20), 0);
            let (mut arrived, mut with_client, mut packets) = (Vec::new(), 0_u16, VecDeque::new());
            let mut next_packet = 0;
            let finish = std::iter::repeat_n([2_u8, 3, 4, 5], 800).flatten();
            for event in events.into_iter().chain(finish) {
                match event {
                    0 | 1 => {
                        outbox.push(payload(pushed)).unwrap();
                        pushed += 1;
                    }
                    2 | 3 => if let Some(leaving) = outbox.hand(NOW) {
                        arrived.push(leaving.payload);
                        with_client += 1;
                    },
                    4 if with_client > 0 => {
                        with_client -= 1;
                        next_packet += 1;
                        outbox.named(next_packet);
                        packets.push_back(next_packet);
                    }
                    5 => if let Some(packet) = packets.pop_front() {
                        outbox.acknowledged(packet, false);
                    },
                    6 => {
                        outbox.lost();
                        outbox.connected(u64::MAX);
                        (with_client, next_packet) = (0, 0);
                        packets.clear();
                    }
                    _ => {}
                }
            }
            prop_assert!(outbox.is_empty());
            prop_assert_eq!(outbox.bytes, 0);
            prop_assert!(outbox.delivery().is_whole());
            let mut seen = std::collections::BTreeSet::new();
            let firsts: Vec<_> = arrived.into_iter().filter(|p| seen.insert(p.clone())).collect();
            prop_assert_eq!(firsts, (0..pushed).map(payload).collect::<Vec<_>>());
        }
    }
}
