//! How often each latency occurred, to a bounded relative error.
//!
//! A log-linear histogram after HdrHistogram (G. Tene, 2012): below 128 ns each value has its own
//! bucket, above that each octave is cut into 128 of equal width. A bucket is at most 1/128 of its
//! values wide and answers with its middle, so a percentile is off by at most 1/256. Sums of two
//! histograms, also with weights, are those of their values.

use crate::units::Nanos;

/// Bits kept of a value.
const BITS: u32 = 7;

/// A histogram of times; at most 59 KiB whatever it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many values fell into each bucket, as far as the highest one seen.
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    most: u64,
}

impl Histogram {
    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: Nanos) {
        let bucket = bucket(value.0);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.sum += u128::from(value.0);
        self.most = self.most.max(value.0);
    }

    /// Counts all values of another as often as `weight` says. Counts saturate.
    pub fn merge(&mut self, other: &Self, weight: u64) {
        if weight == 0 {
            return;
        }
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(more.saturating_mul(weight));
        }
        self.count = self.count.saturating_add(other.count.saturating_mul(weight));
        self.sum = self.sum.saturating_add(other.sum.saturating_mul(u128::from(weight)));
        self.most = self.most.max(other.most);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean, exact but for rounding down; `None` of nothing.
    pub fn mean(&self) -> Option<Nanos> {
        let mean = self.sum.checked_div(u128::from(self.count))?;
        Some(Nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// The largest value, exact; `None` of nothing.
    pub fn most(&self) -> Option<Nanos> {
        (self.count > 0).then_some(Nanos(self.most))
    }

    /// The least value that at least so many millionths of all do not exceed (nearest rank), off by
    /// at most 1/256; `None` of nothing. O(buckets).
    pub fn percentile(&self, ppm: u32) -> Option<Nanos> {
        let rank = (u128::from(self.count) * u128::from(ppm.min(1_000_000))).div_ceil(1_000_000);
        let rank = rank.max(1);
        let mut seen = 0_u128;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += u128::from(count);
            if seen >= rank {
                return Some(Nanos(middle(bucket).min(self.most)));
            }
        }
        None
    }

    /// Half of all values are at most this.
    pub fn p50(&self) -> Option<Nanos> {
        self.percentile(500_000)
    }

    /// 90 % of all values are at most this.
    pub fn p90(&self) -> Option<Nanos> {
        self.percentile(900_000)
    }

    /// 99 % of all values are at most this.
    pub fn p99(&self) -> Option<Nanos> {
        self.percentile(990_000)
    }

    /// How many values are at most `limit`, to the bucket that holds it: values up to 1/128 above
    /// may be counted too.
    pub fn within(&self, limit: Nanos) -> u64 {
        let end = (bucket(limit.0) + 1).min(self.counts.len());
        self.counts[..end].iter().fold(0, |sum: u64, &count| sum.saturating_add(count))
    }
}

#[inline]
fn bucket(value: u64) -> usize {
    let shift = (63 - BITS).saturating_sub((value | 1).leading_zeros());
    ((u64::from(shift) << BITS) + (value >> shift)) as usize
}

/// The middle of a bucket's values.
fn middle(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1) as u32;
    let first = ((bucket - ((shift as usize) << BITS)) as u64) << shift;
    first + (((1_u64 << shift) - 1) >> 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_percentile() {
        let empty = Histogram::default();
        assert_eq!((empty.p50(), empty.mean(), empty.most()), (None, None, None));
        assert_eq!((empty.within(Nanos(u64::MAX)), empty.count()), (0, 0));
    }

    #[test]
    fn buckets_follow_one_another_over_the_whole_range() {
        assert_eq!(bucket(u64::MAX) + 1, 58 * 128);
        for value in [0, 1, 127, 128, 255, 256, 257, 1 << 20, (1 << 20) - 1, u64::MAX - 1] {
            let step = bucket(value + 1) - bucket(value);
            assert!(step <= 1, "{value} and the next are {step} buckets apart");
        }
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_values_within_the_bound(
            values in prop::collection::vec(prop_oneof![0_u64..300, any::<u64>(), 0_u64..1 << 40], 1..200),
            ppm in 0_u32..=1_000_000,
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.record(Nanos(value)));
            let mut sorted = values;
            sorted.sort_unstable();
            let rank = (sorted.len() as u64 * u64::from(ppm)).div_ceil(1_000_000).max(1);
            let exact = sorted[rank as usize - 1];
            let found = histogram.percentile(ppm).unwrap().0;
            prop_assert!(found.abs_diff(exact) <= exact / 256, "{found} for {exact}");
            prop_assert_eq!(histogram.most().unwrap().0, sorted[sorted.len() - 1]);
            let sum: u128 = sorted.iter().map(|&value| u128::from(value)).sum();
            prop_assert_eq!(u128::from(histogram.mean().unwrap().0), sum / sorted.len() as u128);
            let below = sorted.iter().filter(|&&value| value <= exact).count() as u64;
            let slack = exact.saturating_add(exact / 128);
            let most = sorted.iter().filter(|&&value| value <= slack).count() as u64;
            let within = histogram.within(Nanos(exact));
            prop_assert!((below..=most).contains(&within));
        }

        #[test]
        fn a_weight_counts_as_that_many_repetitions(
            values in prop::collection::vec(any::<u32>(), 0..50),
            others in prop::collection::vec(any::<u32>(), 0..50),
            weight in 0_u64..5,
        ) {
            let of = |values: &[u32]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|&value| histogram.record(Nanos(u64::from(value))));
                histogram
            };
            let mut merged = of(&values);
            merged.merge(&of(&others), weight);
            let repeated = others.repeat(weight as usize);
            prop_assert_eq!(merged, of(&[values, repeated].concat()));
        }
    }
}
