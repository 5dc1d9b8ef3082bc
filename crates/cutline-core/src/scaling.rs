//! How throughput grows with threads, batch or replicas: the Universal Scalability Law.
//!
//! X(N) = λ N / (1 + σ (N - 1) + κ N (N - 1)): λ what one does alone, σ the share that is done one
//! after the other (contention), κ what each pair costs each other (coherency); N. J. Gunther,
//! "Guerrilla Capacity Planning", 2007, chapter 4. N / X is linear in 1/λ, σ/λ and κ/λ, so the fit is
//! one of non-negative least squares, weighted so that relative errors of X count.

use thiserror::Error;

use crate::fit::nnls::NormalEquations;

/// Largest N of a point or a question, so that N² is exact.
pub const MOST: u32 = 1 << 24;

/// One measured throughput.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Threads, batch or replicas.
    pub n: u32,
    /// Frames per second (or per any other time).
    pub throughput: f64,
}

/// A fitted law.
#[derive(Clone, Debug, PartialEq)]
pub struct Law {
    /// λ: throughput of one.
    pub lambda: f64,
    /// σ: contention.
    pub sigma: f64,
    /// κ: coherency.
    pub kappa: f64,
    /// Median relative error of each point as the others predict it; `None` of fewer than four Ns.
    pub cross_validated: Option<f64>,
}

/// Why no law can be fitted.
#[derive(Debug, Clone, PartialEq, Error)]
#[allow(missing_docs)]
pub enum ScalingError {
    #[error("nothing was measured")]
    Empty,
    #[error("{n} does {throughput}: give an N from 1 to {MOST} and a finite throughput above 0")]
    Point { n: u32, throughput: f64 },
}

impl Law {
    /// The law of least squared relative errors. With fewer than three different Ns the simplest one
    /// that they allow. O(points²).
    pub fn fit(points: &[Point]) -> Result<Self, ScalingError> {
        let sound = |point: &&Point| {
            (1..=MOST).contains(&point.n) && (1e-12..1e15).contains(&point.throughput)
        };
        if let Some(&Point { n, throughput }) = points.iter().find(|point| !sound(point)) {
            return Err(ScalingError::Point { n, throughput });
        }
        let mut numbers: Vec<u32> = points.iter().map(|point| point.n).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            return Err(ScalingError::Empty);
        }
        let mut law = solve(points);
        if numbers.len() > 3 {
            let mut errors = Vec::new();
            for n in numbers {
                let (out, others): (Vec<Point>, Vec<Point>) =
                    points.iter().partition(|point| point.n == n);
                let law = solve(&others);
                let error = |point: &Point| (law.throughput(n) / point.throughput - 1.0).abs();
                errors.extend(out.iter().map(error));
            }
            errors.sort_unstable_by(f64::total_cmp);
            law.cross_validated = Some(errors[errors.len() / 2]);
        }
        Ok(law)
    }

    /// Throughput of N, in the unit of the points; 0 of none.
    pub fn throughput(&self, n: u32) -> f64 {
        let n = f64::from(n.min(MOST));
        if n == 0.0 {
            return 0.0;
        }
        self.lambda * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// The least N whose throughput no other exceeds; `None` where more is always more.
    pub fn peak(&self) -> Option<u32> {
        if self.sigma >= 1.0 {
            return Some(1);
        }
        if self.kappa <= 0.0 {
            return None;
        }
        let real = ((1.0 - self.sigma) / self.kappa).sqrt();
        if real >= f64::from(MOST) {
            return None;
        }
        let below = (real.floor() as u32).max(1);
        let next = below + 1;
        Some(if self.throughput(next) > self.throughput(below) { next } else { below })
    }
}

/// The law of sound points: at least one.
fn solve(points: &[Point]) -> Law {
    // Units near 1: the largest N, and what one would do if all were alike.
    let most = points.iter().map(|point| point.n).max().map_or(1.0, f64::from);
    let each = |point: &Point| point.throughput / f64::from(point.n);
    let unit = points.iter().map(each).fold(0.0, f64::max);
    let mut numbers: Vec<u32> = points.iter().map(|point| point.n).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let terms = numbers.len().min(3);
    let mut equations = NormalEquations::new(terms);
    for point in points {
        let (n, ratio) = (f64::from(point.n), each(point) / unit);
        let row = [1.0, (n - 1.0) / most, n * (n - 1.0) / (most * most)].map(|term| term * ratio);
        equations.add_row(&row[..terms], 1.0);
    }
    let found = equations.solve();
    let term = |at: usize| found.get(at).copied().unwrap_or(0.0);
    // A law without a constant term would be infinitely fast at first: it starts at what one does.
    let alone = term(0).max(1e-9);
    Law {
        lambda: unit / alone,
        sigma: term(1) / most / alone,
        kappa: term(2) / (most * most) / alone,
        cross_validated: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn points(law: &Law, numbers: &[u32]) -> Vec<Point> {
        numbers.iter().map(|&n| Point { n, throughput: law.throughput(n) }).collect()
    }

    #[test]
    fn what_is_no_throughput_is_refused() {
        assert_eq!(Law::fit(&[]), Err(ScalingError::Empty));
        for (n, throughput) in [(0, 1.0), (1, 0.0), (1, -1.0), (1, f64::INFINITY), (u32::MAX, 1.0)]
        {
            assert!(Law::fit(&[Point { n, throughput }]).is_err(), "{n} {throughput}");
        }
        assert!(Law::fit(&[Point { n: 1, throughput: f64::NAN }]).is_err());
    }

    #[test]
    fn few_points_give_the_simplest_law_that_they_allow() {
        let law = Law::fit(&[Point { n: 4, throughput: 20.0 }]).unwrap();
        assert!((law.throughput(8) - 40.0).abs() < 1e-6 && law.peak().is_none(), "{law:?}");
        let two = [Point { n: 1, throughput: 10.0 }, Point { n: 2, throughput: 16.0 }];
        let law = Law::fit(&two).unwrap();
        assert!((law.sigma - 0.25).abs() < 1e-6 && law.kappa == 0.0, "{law:?}");
        assert_eq!(law.cross_validated, None);
    }

    #[test]
    fn more_than_linear_growth_is_linear_for_the_law() {
        let fast = [1, 2, 4, 8].map(|n: u32| Point { n, throughput: f64::from(n).powf(1.3) });
        let law = Law::fit(&fast).unwrap();
        assert!(law.sigma == 0.0 && law.kappa == 0.0, "{law:?}");
        assert!(law.cross_validated.unwrap() > 0.1, "{law:?}");
    }

    proptest! {
        #[test]
        fn exact_points_give_their_law_and_its_peak(
            lambda in 0.01_f64..1e6, sigma in 0.0_f64..0.5, kappa in 0.0_f64..0.02,
        ) {
            let law = Law { lambda, sigma, kappa, cross_validated: None };
            let fitted = Law::fit(&points(&law, &[1, 2, 3, 4, 6, 8, 16])).unwrap();
            prop_assert!((fitted.lambda / lambda - 1.0).abs() < 1e-4, "{fitted:?}");
            prop_assert!((fitted.sigma - sigma).abs() < 1e-4, "{fitted:?}");
            prop_assert!((fitted.kappa - kappa).abs() < 1e-4, "{fitted:?}");
            prop_assert!(fitted.cross_validated.unwrap() < 1e-3, "{fitted:?}");
            if let Some(peak) = law.peak() {
                let at = law.throughput(peak);
                let others = (1..2000).map(|n| law.throughput(n));
                prop_assert!(others.into_iter().all(|other| other <= at * (1.0 + 1e-12)));
            }
        }

        #[test]
        fn noise_never_gives_a_negative_or_infinite_law(
            noisy in prop::collection::vec((1_u32..200, 1e-6_f64..1e6), 1..20),
        ) {
            let noisy: Vec<Point> =
                noisy.into_iter().map(|(n, throughput)| Point { n, throughput }).collect();
            let law = Law::fit(&noisy).unwrap();
            prop_assert!(law.lambda > 0.0 && law.lambda.is_finite(), "{law:?}");
            prop_assert!(law.sigma >= 0.0 && law.kappa >= 0.0, "{law:?}");
            prop_assert!((1..300).all(|n| law.throughput(n).is_finite()));
            prop_assert_eq!(&law, &Law::fit(&noisy).unwrap());
        }
    }
}
