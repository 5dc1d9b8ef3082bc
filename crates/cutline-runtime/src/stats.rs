//! Medians and percentiles of measured times.

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
}
