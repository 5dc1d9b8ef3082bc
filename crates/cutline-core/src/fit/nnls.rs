//! Non-negative least squares by block principal pivoting.
//!
//! Minimises |A x - b|² over x >= 0, given A'A and A'b. Kim and Park exchange all infeasible
//! variables between the positive set and the zero set at once while that helps, and fall back on
//! Murty's rule (exchange the last one only), which ends for every positive definite matrix.

/// A'A (its lower triangle) and A'b, grown row by row.
pub(crate) struct NormalEquations {
    size: usize,
    matrix: Vec<f64>,
    right: Vec<f64>,
}

impl NormalEquations {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, matrix: vec![0.0; size * size], right: vec![0.0; size] }
    }

    /// Adds the equation `coefficients · x = value`.
    pub(crate) fn add_row(&mut self, coefficients: &[f64], value: f64) {
        for (i, &a) in coefficients.iter().enumerate().filter(|(_, a)| **a != 0.0) {
            self.right[i] += a * value;
            let row = &mut self.matrix[i * self.size..i * self.size + i + 1];
            for (cell, &b) in row.iter_mut().zip(coefficients) {
                *cell += a * b;
            }
        }
    }

    /// Adds `weight · (x[at] - target)²` to what is minimised.
    pub(crate) fn add_diagonal(&mut self, at: usize, weight: f64, target: f64) {
        self.matrix[at * self.size + at] += weight;
        self.right[at] += weight * target;
    }

    /// The minimising x, none negative.
    pub(crate) fn solve(&self) -> Vec<f64> {
        let mut positive = vec![true; self.size];
        let mut fewest = self.size + 1;
        let mut patience = 3;
        // Murty's rule ends, but no promise is polynomial: past this the projection is good enough.
        for _ in 0..100 + 10 * self.size {
            let x = self.solve_on(&positive);
            let wrong: Vec<usize> =
                (0..self.size).filter(|&i| self.infeasible(i, &positive, &x)).collect();
            let Some(&last) = wrong.last() else { return x };
            if wrong.len() < fewest {
                (fewest, patience) = (wrong.len(), 3);
            } else {
                patience -= 1;
            }
            let exchanged = if patience >= 0 { wrong } else { vec![last] };
            for i in exchanged {
                positive[i] = !positive[i];
            }
        }
        self.solve_on(&positive).into_iter().map(|x| x.max(0.0)).collect()
    }

    /// A positive variable below zero, or a zero one whose growth would still help.
    fn infeasible(&self, i: usize, positive: &[bool], x: &[f64]) -> bool {
        if positive[i] {
            return x[i] < 0.0;
        }
        let cell = |j: usize| self.matrix[i.max(j) * self.size + i.min(j)];
        let product: f64 = x.iter().enumerate().map(|(j, x)| cell(j) * x).sum();
        product - self.right[i] < -1e-12 * self.right[i].abs()
    }

    /// Unconstrained minimum over the positive set, by Cholesky; zero elsewhere.
    fn solve_on(&self, positive: &[bool]) -> Vec<f64> {
        let set: Vec<usize> = (0..self.size).filter(|&i| positive[i]).collect();
        let n = set.len();
        let mut factor = vec![0.0; n * n];
        let mut y = vec![0.0; n];
        for i in 0..n {
            let (done, rest) = factor.split_at_mut(i * n);
            let row = &mut rest[..n];
            for j in 0..=i {
                let above = if j < i { &done[j * n..j * n + j] } else { &[] };
                let dot: f64 = row.iter().zip(above).map(|(a, b)| a * b).sum();
                let value = self.matrix[set[i] * self.size + set[j]] - dot;
                row[j] = if j < i { value / done[j * n + j] } else { value };
            }
            let square: f64 = row[..i].iter().map(|a| a * a).sum();
            row[i] = (row[i] - square).max(f64::MIN_POSITIVE).sqrt();
            let dot: f64 = row[..i].iter().zip(&y).map(|(a, y)| a * y).sum();
            y[i] = (self.right[set[i]] - dot) / row[i];
        }
        for i in (0..n).rev() {
            y[i] /= factor[i * n + i];
            for j in 0..i {
                y[j] -= factor[i * n + j] * y[i];
            }
        }
        let mut x = vec![0.0; self.size];
        for (&i, value) in set.iter().zip(y) {
            x[i] = value;
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows, right sides, expected minimum over x >= 0.
    type Case = (&'static [[f64; 2]], &'static [f64], [f64; 2]);

    #[test]
    fn small_systems_by_hand() {
        let cases: [Case; 3] = [
            (&[[1.0, 0.0], [0.0, 1.0]], &[2.0, 3.0], [2.0, 3.0]),
            (&[[1.0, 0.0], [0.0, 1.0]], &[2.0, -3.0], [2.0, 0.0]),
            (&[[1.0, 0.0], [1.0, 1.0]], &[2.0, 1.0], [1.5, 0.0]),
        ];
        for (rows, right, expected) in cases {
            let mut equations = NormalEquations::new(2);
            for (row, &value) in rows.iter().zip(right) {
                equations.add_row(row, value);
            }
            let x = equations.solve();
            assert!(x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{x:?}");
        }
    }
}
