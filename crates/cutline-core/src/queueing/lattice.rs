//! Distributions of times on a lattice: sums, geometric sums, percentiles.

use crate::{simulate::Service, units::Nanos};

/// Points of a lattice.
pub(super) const POINTS: usize = 4096;

/// Probabilities of the multiples of a step; what is missing to 1 lies beyond the last.
#[derive(Clone, Debug)]
pub(super) struct Lattice(pub(super) Vec<f64>);

impl Lattice {
    /// Always 0.
    pub(super) fn zero() -> Self {
        Self(vec![1.0])
    }

    /// From a distribution function: the mass of each step goes to the nearest multiple.
    pub(super) fn of(step: f64, below: impl Fn(f64) -> f64) -> Self {
        let mut last = 0.0;
        let points = (0..POINTS).map(|at| {
            let now = below((at as f64 + 0.5) * step);
            let mass = now - last;
            last = now;
            mass.max(0.0)
        });
        let mut points: Vec<f64> = points.collect();
        let used = points.iter().rposition(|&mass| mass > 1e-13).map_or(1, |last| last + 1);
        points.truncate(used);
        Self(points)
    }

    /// The sum of two independent times. O(points²).
    pub(super) fn plus(&self, other: &Self) -> Self {
        let length = (self.0.len() + other.0.len() - 1).min(POINTS);
        let mut sum = vec![0.0; length];
        for (at, &mass) in self.0.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
            let room = length - at.min(length);
            for (sum, other) in
                sum[at.min(length)..].iter_mut().zip(&other.0[..other.0.len().min(room)])
            {
                *sum += mass * other;
            }
        }
        Self(sum)
    }

    /// The sum of so many of these that one more follows with probability `more` each time: Panjer's
    /// recursion ("Recursive evaluation of a family of compound distributions", 1981). O(points²).
    pub(super) fn geometric_sum(&self, more: f64) -> Self {
        let first = 1.0 / (1.0 - more * self.0[0]);
        let mut sum = vec![(1.0 - more) * first];
        while sum.len() < POINTS {
            let known = self.0[1..].iter().zip(sum.iter().rev());
            sum.push(more * first * known.map(|(mass, sum)| mass * sum).sum::<f64>());
        }
        Self(sum)
    }

    /// This with probability `share`, else 0.
    pub(super) fn sometimes(mut self, share: f64) -> Self {
        self.0.iter_mut().for_each(|mass| *mass *= share);
        self.0[0] += 1.0 - share;
        self
    }

    /// The mean, in steps, of what lies on the lattice.
    pub(super) fn mean(&self) -> f64 {
        let sum: f64 = self.0.iter().sum();
        self.0.iter().enumerate().map(|(at, mass)| at as f64 * mass).sum::<f64>() / sum.max(1e-300)
    }

    /// Where the distribution function reaches `share`, in steps, between the points by a line.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut below = 0.0;
        for (at, &mass) in self.0.iter().enumerate() {
            if below + mass >= share {
                let part = if at == 0 { 0.5 } else { (share - below) / mass };
                return at as f64 - 0.5 + part;
            }
            below += mass;
        }
        self.0.len() as f64
    }
}

/// What the formulas need of a distribution of service times, in nanoseconds.
pub(super) struct Times {
    pub(super) mean: f64,
    /// Squared coefficient of variation: variance / mean².
    pub(super) variation: f64,
    pub(super) most: f64,
    law: Law,
}

enum Law {
    Constant(f64),
    Exponential(f64),
    /// Sorted, and the sums of the first so many.
    Measured(Vec<f64>, Vec<f64>),
}

impl Times {
    pub(super) fn new(service: &Service) -> Self {
        match service {
            Service::Constant(Nanos(time)) => {
                let time = *time as f64;
                Self { mean: time, variation: 0.0, most: time, law: Law::Constant(time) }
            }
            Service::Exponential(Nanos(mean)) => {
                let mean = *mean as f64;
                Self { mean, variation: 1.0, most: 12.0 * mean, law: Law::Exponential(mean) }
            }
            Service::Measured(times) => {
                let mut sorted: Vec<f64> = times.iter().map(|time| time.0 as f64).collect();
                sorted.sort_unstable_by(f64::total_cmp);
                let count = sorted.len().max(1) as f64;
                let mean = sorted.iter().sum::<f64>() / count;
                let square = sorted.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
                let sums = sorted.iter().scan(0.0, |sum, time| {
                    *sum += time;
                    Some(*sum)
                });
                let sums = std::iter::once(0.0).chain(sums).collect();
                let most = sorted.last().copied().unwrap_or(0.0);
                let variation = if mean > 0.0 { square / (mean * mean) } else { 0.0 };
                Self { mean, variation, most, law: Law::Measured(sorted, sums) }
            }
        }
    }

    /// Probability of at most `time`.
    pub(super) fn below(&self, time: f64) -> f64 {
        match &self.law {
            Law::Constant(constant) => f64::from(u8::from(time >= *constant)),
            Law::Exponential(mean) => 1.0 - (-time / mean).exp(),
            Law::Measured(sorted, _) => {
                sorted.partition_point(|&other| other <= time) as f64 / sorted.len() as f64
            }
        }
    }

    /// Probability that at most `time` is left of a service that is under way: the distribution of
    /// the equilibrium residual, mean of min(service, time) / mean.
    pub(super) fn left_below(&self, time: f64) -> f64 {
        let limited = match &self.law {
            Law::Constant(constant) => constant.min(time),
            Law::Exponential(mean) => mean * (1.0 - (-time / mean).exp()),
            Law::Measured(sorted, sums) => {
                let short = sorted.partition_point(|&other| other <= time);
                (sums[short] + (sorted.len() - short) as f64 * time) / sorted.len() as f64
            }
        };
        (limited / self.mean).min(1.0)
    }
}
