//! Labels of one place of which none dominates another.
//!
//! Comparing labels is most of what a search does. Their values lie one after another in memory, in
//! blocks; a block none of whose labels can be small enough is passed over by one comparison with
//! the least values in it.

/// Labels in a block.
const BLOCK: usize = 16;

/// A set of labels, each with the devices that it has used and its values.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    labels: Vec<u32>,
    used: Vec<u32>,
    values: Vec<u64>,
    /// The least of each value in each block.
    least: Vec<u64>,
    /// Where a label was found last that beats another: often it beats the next one too.
    last: usize,
}

impl Kept {
    pub(super) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Whether one that has used no other devices than `used` is nowhere larger than `values` by
    /// more than the slack. O(labels).
    pub(super) fn beats(&mut self, values: &[u64], used: u32, slack_ppm: u64) -> bool {
        let width = values.len();
        let beats = |row: &[u64]| match slack_ppm {
            0 => at_most(row, values),
            _ => almost_at_most(row, values, slack_ppm),
        };
        let row = |at: usize| &self.values[at * width..(at + 1) * width];
        let within = |at: usize| self.used[at] & !used == 0;
        if self.last < self.labels.len() && within(self.last) && beats(row(self.last)) {
            return true;
        }
        for (block, least) in self.least.chunks_exact(width).enumerate() {
            if !beats(least) {
                continue;
            }
            let rows = block * BLOCK..((block + 1) * BLOCK).min(self.labels.len());
            for at in rows {
                if within(at) && beats(row(at)) {
                    self.last = at;
                    return true;
                }
            }
        }
        false
    }

    /// Adds a label and removes those that it dominates, which `gone` is told of. O(labels).
    pub(super) fn insert(
        &mut self,
        label: u32,
        used: u32,
        values: &[u64],
        mut gone: impl FnMut(u32),
    ) {
        let width = values.len();
        let mut at = 0;
        while at < self.labels.len() {
            let row = &self.values[at * width..(at + 1) * width];
            if used & !self.used[at] == 0 && at_most(values, row) {
                gone(self.labels[at]);
                self.remove(at, width);
            } else {
                at += 1;
            }
        }
        let (block, position) = (self.labels.len() / BLOCK, self.labels.len() % BLOCK);
        match position {
            0 => {
                self.least.truncate(block * width);
                self.least.extend_from_slice(values);
            }
            _ => self.lower(block, values),
        }
        self.labels.push(label);
        self.used.push(used);
        self.values.extend_from_slice(values);
    }

    /// Puts the last label in the place of one; its block's least values can only be too low.
    fn remove(&mut self, at: usize, width: usize) {
        let last = self.labels.len() - 1;
        self.values.copy_within(last * width.., at * width);
        self.values.truncate(last * width);
        self.labels.swap_remove(at);
        self.used.swap_remove(at);
        if at < last {
            let row = self.values[at * width..(at + 1) * width].to_vec();
            self.lower(at / BLOCK, &row);
        }
    }

    fn lower(&mut self, block: usize, values: &[u64]) {
        let least = &mut self.least[block * values.len()..(block + 1) * values.len()];
        for (least, &value) in least.iter_mut().zip(values) {
            *least = (*least).min(value);
        }
    }
}

fn at_most(a: &[u64], b: &[u64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b)
}

/// Whether `a` is nowhere larger than `b` by more than the slack, in millionths.
fn almost_at_most(a: &[u64], b: &[u64], slack_ppm: u64) -> bool {
    a.iter().zip(b).all(|(&a, &b)| {
        a <= b || u128::from(a) * 1_000_000 <= u128::from(b) * u128::from(1_000_000 + slack_ppm)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_kept_is_what_nothing_dominates(
            rows in prop::collection::vec((0u32..8, prop::array::uniform3(0u64..6)), 1..80)
        ) {
            let mut kept = Kept::default();
            for (label, (used, values)) in (0u32..).zip(&rows) {
                if !kept.beats(values, *used, 0) {
                    kept.insert(label, *used, values, |_| {});
                }
            }
            let dominates = |a: &(u32, [u64; 3]), b: &(u32, [u64; 3])| {
                a.0 & !b.0 == 0 && at_most(&a.1, &b.1)
            };
            let mut found: Vec<_> = kept.labels().iter().map(|&l| rows[l as usize]).collect();
            let mut expected: Vec<_> = rows
                .iter()
                .filter(|row| !rows.iter().any(|other| other != *row && dominates(other, row)))
                .copied()
                .collect();
            found.sort_unstable();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn what_beats_is_at_most_the_slack_worse(
            rows in prop::collection::vec((0u32..4, prop::array::uniform2(900u64..1100)), 1..60),
            probe in prop::array::uniform2(900u64..1100),
            used in 0u32..4,
            percent in 0u64..15,
        ) {
            let mut kept = Kept::default();
            for (label, (used, values)) in (0u32..).zip(&rows) {
                kept.insert(label, *used, values, |_| {});
            }
            let mut pairs = kept.labels().iter().map(|&label| rows[label as usize]);
            let expected = pairs.any(|(before, values)| {
                let mut pairs = values.iter().zip(probe);
                before & !used == 0 && pairs.all(|(a, b)| a * 100 <= b * (100 + percent))
            });
            // Twice: the label that was found last is tried first.
            for _ in 0..2 {
                prop_assert_eq!(kept.beats(&probe, used, percent * 10_000), expected);
            }
        }
    }
}
