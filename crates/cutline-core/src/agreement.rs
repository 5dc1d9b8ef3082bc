//! How often two networks give the same answer, and how sure that is from so many pictures.
//!
//! A share of a few pictures is a guess at the share of all. Wilson's interval says how far off it
//! may be; unlike the plain one it stays between 0 and 1 and is of use where all or none agree
//! (Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
//!
//! ```text
//! 100 of 100 agree: the share of all pictures is 96.3 % to 100 %, as sure as 95 %
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The normal deviate of 95 %, two-sided.
const SURE: f64 = 1.959_963_984_540_054;

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
}

/// Between these the true share is, as sure as 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

impl Share {
    /// Counts one more, and whether it is one of them.
    pub fn add(&mut self, is_one: bool) {
        self.of += 1;
        self.count += u64::from(is_one);
    }

    /// The share itself; 0 of nothing.
    pub fn value(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.count as f64 / self.of as f64 }
    }

    /// Whether it reaches a limit given in millionths; compared exactly.
    pub fn reaches(self, ppm: u64) -> bool {
        u128::from(self.count) * 1_000_000 >= u128::from(self.of) * u128::from(ppm)
    }

    /// Wilson's interval of 95 %; from 0 to 1 where nothing was counted.
    pub fn interval(self) -> Interval {
        if self.of == 0 {
            return Interval { low: 0.0, high: 1.0 };
        }
        let (share, of, square) = (self.value(), self.of as f64, SURE * SURE);
        let middle = (share + square / (2.0 * of)) / (1.0 + square / of);
        let spread = (share * (1.0 - share) / of + square / (4.0 * of * of)).sqrt();
        let half = SURE * spread / (1.0 + square / of);
        // At the ends the formula is exactly 0 or 1; rounding must not say otherwise.
        let low = if self.count == 0 { 0.0 } else { (middle - half).max(0.0) };
        let high = if self.count == self.of { 1.0 } else { (middle + half).min(1.0) };
        Interval { low, high }
    }
}

/// The pictures that tell two networks apart: those that exactly one of them is right about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// Those that only the first is right about.
    pub only_first: u64,
    /// Those that only the second is right about.
    pub only_second: u64,
}

impl Paired {
    /// How likely two networks that are right equally often differ at least so unevenly on such
    /// pictures: the exact test of McNemar ("Note on the sampling error of the difference between
    /// correlated proportions or percentages", 1947), two-sided. Each of these pictures is a throw of
    /// a fair coin. O(pictures).
    pub fn chance(self) -> f64 {
        let thrown = self.only_first + self.only_second;
        let fewer = self.only_first.min(self.only_second);
        let (n, k) = (thrown as f64, fewer as f64);
        let ways: f64 = (1..=fewer).map(|i| ((n - k + i as f64) / i as f64).ln()).sum();
        let mut term = (ways - n * std::f64::consts::LN_2).exp();
        let mut tail = 0.0;
        for i in (0..=fewer).rev() {
            tail += term;
            term *= i as f64 / (thrown - i + 1) as f64;
        }
        (2.0 * tail).min(1.0)
    }

    /// Whether the one that is right more often is so by more than chance, as sure as 95 %.
    pub fn differ(self) -> bool {
        self.chance() < 0.05
    }
}

impl fmt::Display for Share {
    /// Writes `97 of 100 (97.0 %; 91.5 to 99.0 %)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interval { low, high } = self.interval();
        let [value, low, high] = [self.value(), low, high].map(|share| share * 100.0);
        write!(f, "{} of {} ({value:.1} %; {low:.1} to {high:.1} %)", self.count, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        // Count, of, low, high: Newcombe, "Two-sided confidence intervals for the single
        // proportion", 1998, table I, method 3; then 0 and all of 100.
        let cases = [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (0, 100, 0.0, 0.0370),
            (100, 100, 0.9630, 1.0),
        ];
        for (count, of, low, high) in cases {
            let found = Share { count, of }.interval();
            assert!((found.low - low).abs() < 5e-5, "{count} of {of}: {found:?}");
            assert!((found.high - high).abs() < 5e-5, "{count} of {of}: {found:?}");
        }
        assert_eq!(Share::default().interval(), Interval { low: 0.0, high: 1.0 });
        assert_eq!(Share { count: 0, of: 7 }.interval().low, 0.0);
        assert_eq!(Share { count: 7, of: 7 }.interval().high, 1.0);
    }

    #[test]
    fn pairs_differ_by_more_than_chance_or_not() {
        // Only first, only second, the two-sided tail of the binomial distribution by hand.
        let cases = [
            (0, 0, 1.0),
            (0, 5, 2.0 / 32.0),
            (0, 6, 2.0 / 64.0),
            (1, 7, 2.0 * 9.0 / 256.0),
            (10, 10, 1.0),
            (3, 12, 2.0 * (1.0 + 15.0 + 105.0 + 455.0) / 32768.0),
        ];
        for (only_first, only_second, expected) in cases {
            for pair in [[only_first, only_second], [only_second, only_first]] {
                let found = Paired { only_first: pair[0], only_second: pair[1] };
                assert!((found.chance() - expected).abs() < 1e-12, "{pair:?}: {}", found.chance());
                assert_eq!(found.differ(), expected < 0.05);
            }
        }
        let many = Paired { only_first: 500_500, only_second: 499_500 };
        assert!((many.chance() - 0.3178).abs() < 1e-3, "{}", many.chance());
    }

    #[test]
    fn limits_are_compared_exactly() {
        let share = Share { count: 99, of: 100 };
        assert!(share.reaches(990_000) && !share.reaches(990_001));
        assert!(Share { count: 1, of: 3 }.reaches(333_333));
        assert!(!Share { count: 2, of: 3 }.reaches(666_667));
        assert_eq!(share.to_string(), "99 of 100 (99.0 %; 94.6 to 99.8 %)");
    }
}
