//! Whose turn it is, and when enough is known of a cell: pure functions.
//!
//! Cells take turns in rounds, in an order that is shuffled for every round, so that a drift of the
//! machine's speed hits all of them alike. A turn is a few runs in a row, and its sample is the
//! middle one of them. Runs of one turn share the machine's mood and are no independent samples, so
//! the interval is that of the turns' middle runs. As a turn has an odd number of runs, its middle
//! run lies below the median of all runs with probability one half, as each run does: the median of
//! the turns is the median of the runs, and the interval of [`interval`] holds.
//!
//! Whoever looks at an interval after every sample, and stops at the first one that is narrow enough,
//! stops too often at one that is narrow by chance. So a cell is looked at after `min_turns` turns
//! and then each time that their number has grown by half; the tests count how often intervals that
//! were stopped at hold the median.

use std::time::Duration;

use cutline_core::units::Nanos;

use super::interval::{self, Interval};

/// When a cell has had enough turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Both ends of the interval are at most this far from the median, in thousandths of it.
    pub(crate) precision_permille: u32,
    /// How often the interval holds the true median, in thousandths.
    pub(crate) confidence_permille: u32,
    pub(crate) min_turns: usize,
    pub(crate) max_turns: usize,
    /// Time in runs after which the cell gets no further turn.
    pub(crate) time_limit: Duration,
}

/// What is known of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another turn is needed.
    More,
    /// The median is known as exactly as asked.
    Known(Interval),
    /// It is not, and a limit is reached; `None` of too few turns for any interval.
    Limit(Option<Interval>),
}

impl Rule {
    /// What to do after these samples, of which each is the middle run of a turn, and which took so
    /// long in all their runs. O(n log n).
    pub(crate) fn verdict(&self, samples: &[Nanos], spent: Duration) -> Verdict {
        let is_last = samples.len() >= self.max_turns || spent >= self.time_limit;
        if !is_last && !self.is_looked_at(samples.len()) {
            return Verdict::More;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let interval = interval::of_sorted(&sorted, self.confidence_permille);
        let enough = samples.len() >= self.min_turns;
        match interval {
            Some(interval) if enough && self.is_narrow(&interval) => Verdict::Known(interval),
            interval if is_last => Verdict::Limit(interval),
            _ => Verdict::More,
        }
    }

    fn is_narrow(&self, interval: &Interval) -> bool {
        interval.error_permille() <= u64::from(self.precision_permille)
    }

    /// Whether the interval is computed after so many turns.
    fn is_looked_at(&self, turns: usize) -> bool {
        self.next_look(turns) == turns
    }

    /// The number of turns at the first look after which there are at least so many.
    fn next_look(&self, turns: usize) -> usize {
        let mut look = self.min_turns;
        while look < turns {
            look = look.saturating_add(look.div_ceil(2));
        }
        look
    }

    /// About how many turns more a cell needs: the interval narrows with the root of their number.
    pub(crate) fn turns_left(&self, samples: &[Nanos]) -> usize {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let wanted = match interval::of_sorted(&sorted, self.confidence_permille) {
            Some(interval) => {
                let ratio =
                    interval.error_permille() as f64 / f64::from(self.precision_permille.max(1));
                (samples.len() as f64 * ratio * ratio).ceil() as usize
            }
            None => self.min_turns,
        };
        let wanted =
            self.next_look(wanted.clamp(samples.len() + 1, self.max_turns.max(samples.len() + 1)));
        wanted.min(self.max_turns).saturating_sub(samples.len()).max(1)
    }
}

/// How many runs a turn counts, an odd number of at most `most`: as many as fit into `time` where one
/// takes about `run`, and at least one.
pub(crate) fn runs_of_turn(most: u64, time: Duration, run: Duration) -> u64 {
    let fitting = time.as_nanos() / run.as_nanos().max(1);
    let fitting = u64::try_from(fitting).unwrap_or(u64::MAX).min(most);
    fitting.saturating_sub(1 - fitting % 2).max(1)
}

/// The order of a round: all of `cells`, shuffled by Fisher and Yates with the numbers of
/// splitmix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn order(cells: &[usize], seed: u64, round: u64) -> Vec<usize> {
    let mut order = cells.to_vec();
    let mut state = mix(seed ^ mix(round));
    for last in (1..order.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // A remainder of 64 bits favours no cell by more than a part in 2^50.
        let other = (mix(state) % (last as u64 + 1)) as usize;
        order.swap(last, other);
    }
    order
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests;
