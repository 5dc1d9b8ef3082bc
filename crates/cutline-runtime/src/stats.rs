//! Medians and percentiles of measured times; of endless streams of them in bounded memory.

use std::time::Duration;

use cutline_core::{profile::Timing, units::Nanos};

/// Whole nanoseconds; 584 years at most.
pub fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// The value below which `permille` thousandths of the values lie, nearest rank; `None` of nothing.
/// Sorts the values.
pub fn percentile(values: &mut [Nanos], permille: u32) -> Option<Nanos> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)? as u64;
    let rank = (last * u64::from(permille.min(1000)) + 500) / 1000;
    Some(values[rank as usize])
}

/// The middle value; of an even number of values, the mean of the two in the middle.
pub fn median(values: &mut [Nanos]) -> Option<Nanos> {
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = values[values.len() / 2 - 1];
    Some(Nanos(lower.0 + (upper.0 - lower.0) / 2))
}

/// Median, spread and number of the values; `None` of nothing.
pub fn timing(values: &mut [Nanos]) -> Option<Timing> {
    Some(Timing {
        median_ns: median(values)?,
        p10_ns: percentile(values, 100)?,
        p90_ns: percentile(values, 900)?,
        count: u32::try_from(values.len()).unwrap_or(u32::MAX),
    })
}

/// Values of a [`Histogram`] that share their highest bits: 128 to each power of two.
const SUB_BITS: u32 = 7;

/// How often times of each size occurred, to within 0.8 % of the time: percentiles of a stream
/// that may never end, in 58 kB.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    largest: Nanos,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (u64::BITS - SUB_BITS + 1) << SUB_BITS;
        Self { counts: vec![0; buckets as usize], total: 0, largest: Nanos::ZERO }
    }
}

impl Histogram {
    /// Counts a time.
    pub fn add(&mut self, time: Nanos) {
        self.counts[bucket(time.0)] += 1;
        self.total += 1;
        self.largest = self.largest.max(time);
    }

    /// The time below which `permille` thousandths of the times lie, nearest rank; `None` of
    /// nothing. The last one is exact.
    pub fn percentile(&self, permille: u32) -> Option<Nanos> {
        let last = self.total.checked_sub(1)?;
        let rank = (u128::from(last) * u128::from(permille.min(1000)) + 500) / 1000;
        let rank = u64::try_from(rank).unwrap_or(last);
        if rank == last {
            return Some(self.largest);
        }
        let mut below = 0;
        let index = self.counts.iter().position(|&count| {
            below += count;
            below > rank
        });
        Some(Nanos(index.map_or(self.largest.0, middle)).min(self.largest))
    }
}

/// Below 256 every value has a bucket of its own; above, the eight highest bits choose it.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((u64::from(shift) << SUB_BITS) + (value >> shift)) as usize
}

/// The value in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let low = (bucket - (shift << SUB_BITS)) << shift;
    low + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(numbers: &[u64]) -> Vec<Nanos> {
        numbers.iter().copied().map(Nanos).collect()
    }

    #[test]
    fn medians_and_percentiles() {
        let cases: [(&[u64], u64, u64, u64); 4] = [
            (&[7], 7, 7, 7),
            (&[9, 1], 5, 1, 9),
            (&[3, 1, 2], 2, 1, 3),
            (&[10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 5, 1, 9),
        ];
        for (numbers, middle, low, high) in cases {
            let timing = timing(&mut values(numbers)).unwrap();
            assert_eq!(timing.median_ns, Nanos(middle), "{numbers:?}");
            assert_eq!((timing.p10_ns, timing.p90_ns), (Nanos(low), Nanos(high)), "{numbers:?}");
            assert_eq!(timing.count as usize, numbers.len());
        }
        assert_eq!(timing(&mut []), None);
    }

    #[test]
    fn large_values_do_not_overflow() {
        assert_eq!(median(&mut values(&[u64::MAX, u64::MAX])), Some(Nanos(u64::MAX)));
    }

    #[test]
    fn a_histogram_is_within_a_hundredth_of_the_exact_percentiles() {
        let times: Vec<u64> = (0..5000u64).map(|n| n * n * n * 37 + 1).collect();
        let mut histogram = Histogram::default();
        times.iter().for_each(|&time| histogram.add(Nanos(time)));
        let mut exact = values(&times);
        for permille in [0, 10, 500, 900, 990, 1000] {
            let (kept, exact) = (
                histogram.percentile(permille).unwrap(),
                percentile(&mut exact, permille).unwrap(),
            );
            let off = kept.0.abs_diff(exact.0);
            assert!(off * 100 <= exact.0, "{permille}: {kept} for {exact}");
        }
        assert_eq!(Histogram::default().percentile(500), None);
    }

    #[test]
    fn a_histogram_holds_every_time() {
        let mut histogram = Histogram::default();
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            histogram.add(Nanos(value));
            let near = middle(bucket(value));
            assert!(near.abs_diff(value) <= value / 128, "{near} for {value}");
        }
        assert_eq!(histogram.percentile(1000), Some(Nanos(u64::MAX)));
    }
}
