//! The confidence interval of a median, without an assumption about the distribution.
//!
//! Of `n` independent samples each lies below the median with probability one half, so the number of
//! those below is binomial, and between the `r`-th smallest and the `r`-th largest sample lies the
//! median with probability
//!
//! ```text
//! 1 - 2 P(B < r),   B ~ Binomial(n, 1/2)
//! ```
//!
//! (W. R. Thompson, "On confidence ranges for the median and other expectation distributions for
//! populations of unknown distribution form", 1936; H. A. David and H. N. Nagaraja, "Order
//! Statistics", 3rd edition, section 7.1). The largest `r` that keeps the confidence asked for is
//! taken. Equal samples only make the interval safer.

use cutline_core::units::Nanos;

/// Where a median lies, with the confidence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    /// The samples' median.
    pub(crate) median: Nanos,
    /// Lower end.
    pub(crate) low: Nanos,
    /// Upper end.
    pub(crate) high: Nanos,
}

impl Interval {
    /// The farther end's distance from the median, in thousandths of the median, rounded up.
    pub(crate) fn error_permille(&self) -> u64 {
        let far = (self.high.0 - self.median.0).max(self.median.0 - self.low.0);
        let permille = (u128::from(far) * 1000).div_ceil(u128::from(self.median.0.max(1)));
        u64::try_from(permille).unwrap_or(u64::MAX)
    }
}

/// The interval of the samples' median; `None` where there are too few for that confidence. `sorted`
/// rises; O(n).
pub(crate) fn of_sorted(sorted: &[Nanos], confidence_permille: u32) -> Option<Interval> {
    let count = sorted.len();
    let rank = rank(count, confidence_permille)?;
    let upper = sorted[count / 2].0;
    let lower = sorted[(count - 1) / 2].0;
    Some(Interval {
        median: Nanos(lower + (upper - lower) / 2),
        low: sorted[rank - 1],
        high: sorted[count - rank],
    })
}

/// The largest `r` for which the `r`-th smallest and the `r`-th largest of so many samples enclose
/// the median with this confidence; `None` where not even the extremes do.
fn rank(count: usize, confidence_permille: u32) -> Option<usize> {
    let allowed = f64::from(1000u32.saturating_sub(confidence_permille)) / 2000.0;
    // Logarithms, or one sample in 2^n would be zero for more than a thousand.
    let mut term = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    let mut rank = None;
    for below in 0..count / 2 {
        tail += term.exp();
        // Sums of probabilities are off in their last digits.
        if tail > allowed + 1e-12 {
            break;
        }
        rank = Some(below + 1);
        term += ((count - below) as f64 / (below + 1) as f64).ln();
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks of the tables in the literature (e.g. J.-Y. Le Boudec, "Performance Evaluation of
    /// Computer and Communication Systems", appendix A).
    #[test]
    fn ranks_are_those_of_the_tables() {
        for (count, permille, expected) in [
            (0, 950, None),
            (1, 950, None),
            (5, 950, None),
            (6, 950, Some(1)),
            (8, 950, Some(1)),
            (9, 950, Some(2)),
            (10, 950, Some(2)),
            (15, 950, Some(4)),
            (30, 950, Some(10)),
            (70, 950, Some(27)),
            (7, 990, None),
            (8, 990, Some(1)),
            (30, 990, Some(8)),
        ] {
            assert_eq!(rank(count, permille), expected, "{count} samples at {permille}");
        }
        // By the normal approximation n/2 - 0.98 sqrt(n).
        let many = rank(10_000, 950).unwrap();
        assert!((4900..=4903).contains(&many), "{many}");
    }

    #[test]
    fn an_interval_encloses_the_median_of_its_samples() {
        let times = |numbers: &[u64]| numbers.iter().map(|&n| Nanos(n)).collect::<Vec<_>>();
        let sorted = times(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 100]);
        let interval = of_sorted(&sorted, 950).unwrap();
        assert_eq!(interval, Interval { median: Nanos(5), low: Nanos(2), high: Nanos(9) });
        assert_eq!(interval.error_permille(), 800);
        assert_eq!(of_sorted(&sorted[..5], 950), None);
        let equal = of_sorted(&times(&[0; 6]), 950).unwrap();
        assert_eq!(equal.error_permille(), 0);
    }
}
