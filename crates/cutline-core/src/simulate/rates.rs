//! The rate of a link over time: a table of steps, replayed as often as the simulation needs it.

use super::SimulateError;
use crate::units::{Bytes, BytesPerSec, Nanos};

/// A byte in units of (bytes per second) x nanosecond.
const BYTE: u128 = 1_000_000_000;
/// Largest rate, a petabyte per second: products with any time then fit 128 bits.
const MOST_RATE: u64 = 1 << 50;

/// A link's rate as a function of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Start and rate of each step; the first starts at 0.
    steps: Vec<(u64, u64)>,
    /// What was carried before each step, and in a whole cycle at the end.
    carried: Vec<u128>,
    /// When the table starts again; `u64::MAX` where the last step holds for ever.
    cycle: u64,
}

impl Rates {
    /// The same rate for ever.
    pub fn constant(rate: BytesPerSec) -> Result<Self, SimulateError> {
        Self::steps(&[(Nanos(0), rate)], None)
    }

    /// Each rate from its time on; the table starts again after `cycle`, or its last rate holds.
    ///
    /// Times rise from 0, and something is carried: in the cycle, or at the last rate.
    pub fn steps(
        table: &[(Nanos, BytesPerSec)],
        cycle: Option<Nanos>,
    ) -> Result<Self, SimulateError> {
        let bad = |row, why| Err(SimulateError::Rates { row, why });
        if table.first().is_none_or(|&(start, _)| start != Nanos::ZERO) {
            return bad(0, "a table of rates starts at time 0");
        }
        let steps: Vec<(u64, u64)> = table.iter().map(|&(start, rate)| (start.0, rate.0)).collect();
        let cycle = cycle.map_or(u64::MAX, |cycle| cycle.0);
        let mut carried = vec![0_u128];
        for (row, &(start, rate)) in steps.iter().enumerate() {
            let end = steps.get(row + 1).map_or(cycle, |&(next, _)| next);
            if end <= start {
                return bad(row, "each step lasts longer than nothing, and the cycle ends last");
            }
            if rate > MOST_RATE {
                return bad(row, "no rate exceeds a petabyte per second");
            }
            carried.push(carried[row] + u128::from(rate) * u128::from(end - start));
        }
        let last = steps[steps.len() - 1].1;
        let nothing = if cycle == u64::MAX { last == 0 } else { carried[steps.len()] == 0 };
        if nothing {
            return bad(steps.len() - 1, "a link that stays at rate 0 never delivers");
        }
        Ok(Self { steps, carried, cycle })
    }

    /// The rate where it never changes.
    pub(super) fn only(&self) -> Option<BytesPerSec> {
        (self.steps.len() == 1).then(|| BytesPerSec(self.steps[0].1))
    }

    /// When the last of `size` is sent that starts at `start`; saturates. O(log steps).
    pub fn sent(&self, start: Nanos, size: Bytes) -> Nanos {
        let at = start.0 % self.cycle;
        let mut began = start.0 - at;
        let step = self.steps.partition_point(|&(from, _)| from <= at) - 1;
        let (from, rate) = self.steps[step];
        let before = self.carried[step] + u128::from(rate) * u128::from(at - from);
        let mut target = before + u128::from(size.0) * BYTE;
        if size.0 == 0 {
            return start;
        }
        let whole = self.carried[self.steps.len()];
        if self.cycle != u64::MAX && target > whole {
            let cycles = (target - 1) / whole;
            target -= cycles * whole;
            let later = cycles.saturating_mul(u128::from(self.cycle));
            began = began.saturating_add(u64::try_from(later).unwrap_or(u64::MAX));
        }
        let last =
            self.carried[..self.steps.len()].partition_point(|&carried| carried < target) - 1;
        let (from, rate) = self.steps[last];
        let within = (target - self.carried[last]).div_ceil(u128::from(rate.max(1)));
        let within = u64::try_from(within).unwrap_or(u64::MAX);
        Nanos(began.saturating_add(from).saturating_add(within))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(rows: &[(u64, u64)], cycle: Option<u64>) -> Result<Rates, SimulateError> {
        let rows: Vec<_> =
            rows.iter().map(|&(start, rate)| (Nanos(start), BytesPerSec(rate))).collect();
        Rates::steps(&rows, cycle.map(Nanos))
    }

    #[test]
    fn tables_that_never_deliver_or_do_not_rise_are_refused() {
        let refused = |rows: &[(u64, u64)], cycle| table(rows, cycle).is_err();
        assert!(refused(&[], None));
        assert!(refused(&[(5, 1)], None));
        assert!(refused(&[(0, 1), (0, 2)], None));
        assert!(refused(&[(0, 1), (9, 2)], Some(9)));
        assert!(refused(&[(0, 1), (9, 0)], None));
        assert!(refused(&[(0, 0), (9, 0)], Some(20)));
        assert!(refused(&[(0, u64::MAX)], None));
        assert!(!refused(&[(0, 1), (9, 0)], Some(20)));
    }

    #[test]
    fn an_outage_is_waited_for_and_the_table_starts_again() {
        // A byte takes 1 ns for 10 ns, then nothing passes for 5.
        let rates = table(&[(0, 1_000_000_000), (10, 0)], Some(15)).unwrap();
        let sent = |start, size| rates.sent(Nanos(start), Bytes(size)).0;
        assert_eq!((sent(0, 10), sent(0, 11), sent(12, 1), sent(12, 0)), (10, 16, 16, 12));
        assert_eq!((sent(3, 7), sent(3, 8), sent(15, 20), sent(0, 100)), (10, 16, 40, 145));
    }

    proptest! {
        /// Against counting nanosecond by nanosecond.
        #[test]
        fn a_message_is_sent_when_the_steps_have_carried_it(
            lengths in prop::collection::vec((1_u64..20, 0_u64..4), 1..6),
            repeats: bool, start in 0_u64..200, size in 0_u64..50,
        ) {
            let mut at = 0;
            let mut rows = Vec::new();
            for &(length, rate) in &lengths {
                rows.push((at, rate * 500_000_000));
                at += length;
            }
            let cycle = repeats.then_some(at);
            let Ok(rates) = table(&rows, cycle) else { return Ok(()) };
            let (mut now, mut halves) = (start, 0);
            while halves < 2 * size {
                let place = cycle.map_or(now, |cycle| now % cycle);
                let row = rows.iter().rposition(|&(from, _)| from <= place).unwrap();
                halves += rows[row].1 / 500_000_000;
                now += 1;
            }
            prop_assert_eq!(rates.sent(Nanos(start), Bytes(size)), Nanos(now));
        }
    }
}
