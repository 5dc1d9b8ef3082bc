//! A normal distribution of several quantities, fitted to rows with gaps, and what it says of some
//! quantities when others are known.
//!
//! Fitted by expectation maximisation (Little & Rubin, "Statistical Analysis with Missing Data",
//! chapters 8 and 10): what a row lacks is filled in with its conditional mean and covariance, in
//! turns with the mean and covariance of all rows. Rows count less the farther out they lie (the
//! multivariate t distribution), so that an odd one does not bend the rest.

/// Turns of the fit; the answer no longer changes by then.
const TURNS: usize = 30;
/// Degrees of freedom of the t distribution.
const FREEDOM: f64 = 4.0;
/// Standard deviation that every quantity has at least by itself.
const NOISE: f64 = 0.05;

/// A normal distribution.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gaussian {
    pub(super) mean: Vec<f64>,
    /// Row by row.
    pub(super) covariance: Vec<Vec<f64>>,
}

/// A row with gaps, and how much it counts.
pub(super) struct Sample {
    pub(super) values: Vec<Option<f64>>,
    pub(super) weight: f64,
}

/// What a set of known quantities says of the others.
pub(super) struct Known {
    places: Vec<usize>,
    factor: Cholesky,
    /// For each quantity the coefficients of the known ones.
    gain: Vec<Vec<f64>>,
}

impl Gaussian {
    /// The distribution of rows of `size` quantities; each must occur in some row. O(turns x (rows
    /// size² + patterns of gaps x size³)).
    pub(super) fn fit(samples: &[Sample], size: usize) -> Self {
        let mut fitted = Self::start(samples, size);
        let mut patterns: Vec<Vec<usize>> = Vec::new();
        let mut pattern_of = Vec::new();
        for sample in samples {
            let places: Vec<usize> = (0..size).filter(|&at| sample.values[at].is_some()).collect();
            let found = patterns.iter().position(|pattern| *pattern == places);
            pattern_of.push(found.unwrap_or(patterns.len()));
            if found.is_none() {
                patterns.push(places);
            }
        }
        for _ in 0..TURNS {
            fitted = fitted.turn(samples, &patterns, &pattern_of);
        }
        fitted
    }

    /// Mean of what is there; everything strongly dependent.
    fn start(samples: &[Sample], size: usize) -> Self {
        let mean = (0..size).map(|at| {
            let there: Vec<f64> = samples.iter().filter_map(|sample| sample.values[at]).collect();
            there.iter().sum::<f64>() / there.len().max(1) as f64
        });
        let row = |at| (0..size).map(|other| if at == other { 2.1 } else { 2.0 }).collect();
        Self { mean: mean.collect(), covariance: (0..size).map(row).collect() }
    }

    fn turn(&self, samples: &[Sample], patterns: &[Vec<usize>], pattern_of: &[usize]) -> Self {
        let size = self.mean.len();
        let known: Vec<Known> = patterns.iter().map(|pattern| self.known(pattern)).collect();
        // Weights of the rows of each pattern: the conditional covariance is added once for all.
        let mut of_pattern = vec![0.0; patterns.len()];
        let mut filled = Vec::with_capacity(samples.len());
        let (mut total, mut counted) = (0.0, 0.0);
        let mut mean = vec![0.0; size];
        for (sample, &pattern) in samples.iter().zip(pattern_of) {
            let known = &known[pattern];
            let there: Vec<f64> = known.places.iter().filter_map(|&at| sample.values[at]).collect();
            let far = known.distance(self, &there);
            let freedom = FREEDOM + there.len() as f64;
            let weight = sample.weight * freedom / (FREEDOM + far);
            let row = known.expect(self, &there);
            row.iter().zip(&mut mean).for_each(|(x, mean)| *mean += weight * x);
            total += weight;
            counted += sample.weight;
            of_pattern[pattern] += sample.weight;
            filled.push((row, weight));
        }
        mean.iter_mut().for_each(|mean| *mean /= total);
        let mut covariance = vec![vec![0.0; size]; size];
        for (mut row, weight) in filled {
            row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
            for (at, line) in covariance.iter_mut().enumerate() {
                let factor = weight * row[at];
                line.iter_mut().zip(&row).for_each(|(sum, x)| *sum += factor * x);
            }
        }
        for (known, weight) in known.iter().zip(of_pattern) {
            for (at, line) in covariance.iter_mut().enumerate() {
                for (other, sum) in line.iter_mut().enumerate() {
                    *sum += weight * known.covariance(self, at, other);
                }
            }
        }
        for (at, line) in covariance.iter_mut().enumerate() {
            line.iter_mut().for_each(|sum| *sum /= counted);
            line[at] += NOISE * NOISE;
        }
        Self { mean, covariance }
    }

    /// What knowing the quantities at `places` says.
    pub(super) fn known(&self, places: &[usize]) -> Known {
        let block =
            places.iter().map(|&at| places.iter().map(|&o| self.covariance[at][o]).collect());
        let factor = Cholesky::new(block.collect());
        let gain = self.covariance.iter().enumerate().map(|(at, line)| {
            match places.iter().position(|&place| place == at) {
                // What is known is what it is, to the last bit.
                Some(known) => (0..places.len()).map(|p| f64::from(u8::from(p == known))).collect(),
                None => factor.solve(places.iter().map(|&place| line[place]).collect()),
            }
        });
        let gain = gain.collect();
        Known { places: places.to_vec(), factor, gain }
    }
}

impl Known {
    /// The mean of every quantity given the known ones.
    pub(super) fn expect(&self, gaussian: &Gaussian, there: &[f64]) -> Vec<f64> {
        let off: Vec<f64> =
            there.iter().zip(&self.places).map(|(x, &at)| x - gaussian.mean[at]).collect();
        let mean = gaussian.mean.iter().zip(&self.gain);
        mean.map(|(mean, gain)| mean + gain.iter().zip(&off).map(|(g, x)| g * x).sum::<f64>())
            .collect()
    }

    /// The covariance of two quantities that remains.
    pub(super) fn covariance(&self, gaussian: &Gaussian, at: usize, other: usize) -> f64 {
        if self.places.contains(&at) || self.places.contains(&other) {
            return 0.0;
        }
        let line = &gaussian.covariance[other];
        let explained =
            self.gain[at].iter().zip(&self.places).map(|(gain, &place)| gain * line[place]);
        line[at] - explained.sum::<f64>()
    }

    /// The squared distance of the known quantities from their mean, in standard deviations.
    fn distance(&self, gaussian: &Gaussian, there: &[f64]) -> f64 {
        let off: Vec<f64> =
            there.iter().zip(&self.places).map(|(x, &at)| x - gaussian.mean[at]).collect();
        let solved = self.factor.solve(off.clone());
        solved.iter().zip(&off).map(|(x, off)| x * off).sum()
    }
}

/// The factor L of a positive definite matrix L Lᵀ.
struct Cholesky(Vec<Vec<f64>>);

impl Cholesky {
    fn new(mut matrix: Vec<Vec<f64>>) -> Self {
        for at in 0..matrix.len() {
            let (done, rest) = matrix.split_at_mut(at);
            let line = &mut rest[0];
            for (other, above) in done.iter().enumerate() {
                let sum: f64 = (0..other).map(|k| line[k] * above[k]).sum();
                line[other] = (line[other] - sum) / above[other];
            }
            let sum: f64 = line[..at].iter().map(|x| x * x).sum();
            line[at] = (line[at] - sum).max(1e-12).sqrt();
        }
        Self(matrix)
    }

    fn solve(&self, mut right: Vec<f64>) -> Vec<f64> {
        let size = right.len();
        for at in 0..size {
            let sum: f64 = (0..at).map(|k| self.0[at][k] * right[k]).sum();
            right[at] = (right[at] - sum) / self.0[at][at];
        }
        for at in (0..size).rev() {
            let sum: f64 = (at + 1..size).map(|k| self.0[k][at] * right[k]).sum();
            right[at] = (right[at] - sum) / self.0[at][at];
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_factor_solves_its_equations() {
        let matrix = vec![vec![4.0, 2.0, 0.4], vec![2.0, 3.0, 0.1], vec![0.4, 0.1, 2.0]];
        let solved = Cholesky::new(matrix.clone()).solve(vec![1.0, 2.0, 3.0]);
        for (line, right) in matrix.iter().zip([1.0, 2.0, 3.0]) {
            let left: f64 = line.iter().zip(&solved).map(|(a, x)| a * x).sum();
            assert!((left - right).abs() < 1e-12, "{left} {right}");
        }
    }

    #[test]
    fn a_common_factor_is_found_through_gaps_and_an_odd_row() {
        let mut random = Random::new(5);
        let mut samples: Vec<Sample> = (0..300)
            .map(|_| {
                let speed = 4.0 * random.unit();
                let values = (0..4).map(|at| {
                    let noise = 0.02 * (random.unit() - 0.5);
                    (random.below(5) > 0).then_some(f64::from(at) + speed + noise)
                });
                Sample { values: values.collect(), weight: 1.0 }
            })
            .collect();
        let odd = [9.0, -9.0, 9.0, -9.0].map(Some).to_vec();
        samples.push(Sample { values: odd, weight: 1.0 });
        let fitted = Gaussian::fit(&samples, 4);
        let known = fitted.known(&[1]);
        for (at, expected) in known.expect(&fitted, &[4.0]).iter().enumerate() {
            assert!((expected - (at as f64 + 3.0)).abs() < 0.1, "{at}: {expected}");
            assert!(known.covariance(&fitted, at, at) < 0.1, "{at}");
        }
    }
}
