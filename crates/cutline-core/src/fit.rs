//! From measured parts of a network to the times of its groups.
//!
//! Prefixes, suffixes and the whole are what can be measured truthfully, because an engine fuses
//! across layers. Their times are explained by `e + sum of the groups' times`, every unknown at
//! least zero: non-negative least squares over the relative errors. Groups that no measured cut
//! separates share their time in proportion to a prior, their work and the bytes that they move.
//!
//! The solver is block principal pivoting (J. Kim and H. Park, "Fast nonnegative matrix
//! factorization", SIAM J. Sci. Comput. 33, 2011) on the normal equations, with a ridge that makes
//! them strictly convex. Floats end here: results are whole nanoseconds.

use thiserror::Error;

use crate::{
    dag::{Dag, Group},
    profile::Part,
    units::Nanos,
};

mod nnls;

/// One measured part of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Prefix, suffix or whole.
    pub part: Part,
    /// Whether each group lies before the cut, by group index; ignored for the whole.
    pub before: Vec<bool>,
    /// Median time of one engine call.
    pub time: Nanos,
}

/// Fitted times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// e: fixed time of an engine call.
    pub call: Nanos,
    /// Time of each group; `None` where it lies in no measured part.
    pub groups: Vec<Option<Nanos>>,
    /// What the fit says of each measured part, in their order.
    pub fitted: Vec<Nanos>,
    /// Median of |fitted - measured| / measured, in thousandths.
    pub residual_permille: u64,
}

/// Why no times can be fitted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum FitError {
    #[error("nothing was measured")]
    Empty,
    #[error("measured part {index} marks {given} groups, the network has {groups}")]
    Length { index: usize, given: usize, groups: usize },
    #[error("measured part {0} took no time at all; the clock is too coarse or the part is empty")]
    NoTime(usize),
}

/// Strength of the pull towards the prior, against relative errors of one measured part: weak
/// enough not to bias what is measured, strong enough to settle what is not.
const RIDGE: f64 = 0.01;

/// Fits e and group times to measured parts. Deterministic; O(m n² + n³) for m parts, n groups.
pub fn fit(dag: &Dag, measurements: &[Measurement]) -> Result<Fit, FitError> {
    let groups = dag.groups().len();
    if measurements.is_empty() {
        return Err(FitError::Empty);
    }
    for (index, row) in measurements.iter().enumerate() {
        if row.part != Part::Whole && row.before.len() != groups {
            return Err(FitError::Length { index, given: row.before.len(), groups });
        }
        if row.time == Nanos::ZERO {
            return Err(FitError::NoTime(index));
        }
    }
    let blocks = blocks(groups, measurements);
    let work: Vec<f64> = dag.groups().iter().map(|group| prior(dag, group)).collect();
    let block_work: Vec<f64> =
        blocks.iter().map(|block| block.groups.iter().map(|&g| work[g]).sum()).collect();
    let (call, times) = solve(measurements, &blocks, &block_work);
    let mut fitted_groups = vec![None; groups];
    for ((block, time), total) in blocks.iter().zip(times).zip(block_work) {
        for &group in &block.groups {
            fitted_groups[group] = Some(rounded(time * work[group] / total));
        }
    }
    let call = rounded(call);
    let fitted: Vec<Nanos> = measurements
        .iter()
        .map(|row| {
            let inside = (0..groups).filter(|&group| contains(row, group));
            call + inside.filter_map(|group| fitted_groups[group]).sum()
        })
        .collect();
    let residual_permille = residual(measurements, &fitted);
    Ok(Fit { call, groups: fitted_groups, fitted, residual_permille })
}

/// Groups that every measured part either contains or leaves out together.
struct Block {
    groups: Vec<usize>,
    rows: Vec<bool>,
}

fn contains(row: &Measurement, group: usize) -> bool {
    match row.part {
        Part::Whole => true,
        Part::Prefix => row.before[group],
        Part::Suffix => !row.before[group],
    }
}

fn blocks(groups: usize, measurements: &[Measurement]) -> Vec<Block> {
    let mut blocks: std::collections::BTreeMap<Vec<bool>, Vec<usize>> = Default::default();
    for group in 0..groups {
        let rows: Vec<bool> = measurements.iter().map(|row| contains(row, group)).collect();
        if rows.contains(&true) {
            blocks.entry(rows).or_default().push(group);
        }
    }
    blocks.into_iter().map(|(rows, groups)| Block { groups, rows }).collect()
}

/// Work of a group before anything is measured: multiply-accumulates, and the bytes that it moves.
/// A byte counts as two multiply-accumulates, about the ratio of a core's bandwidth to its
/// arithmetic; never zero, so that every group gets a share.
fn prior(dag: &Dag, group: &Group) -> f64 {
    let flows = group.reads.iter().chain(&group.makes);
    let moved: f64 =
        flows.filter_map(|&flow| dag.flow(flow).bytes).map(|bytes| bytes.0 as f64).sum();
    1.0 + group.macs.0 as f64 + 2.0 * (moved + group.parameter_bytes.0 as f64)
}

/// Times of e and of the blocks, in nanoseconds.
///
/// Unknowns are scaled by their prior time, so that all are near 1 and the equations are well
/// conditioned whatever the units.
fn solve(rows: &[Measurement], blocks: &[Block], work: &[f64]) -> (f64, Vec<f64>) {
    let time = |row: &Measurement| row.time.0 as f64;
    let inside = |row: usize| {
        blocks.iter().zip(work).filter(move |(b, _)| b.rows[row]).map(|(_, work)| work).sum::<f64>()
    };
    // Nanoseconds per unit of work, by least squares over relative errors.
    let per_work = {
        let ratios: Vec<f64> = (0..rows.len()).map(|row| inside(row) / time(&rows[row])).collect();
        ratios.iter().sum::<f64>()
            / ratios.iter().map(|ratio| ratio * ratio).sum::<f64>().max(1e-300)
    };
    let longest = rows.iter().map(time).fold(0.0, f64::max);
    let unit: Vec<f64> = std::iter::once(longest * 1e-3)
        .chain(work.iter().map(|work| (work * per_work).max(longest * 1e-9)))
        .collect();
    let mut equations = nnls::NormalEquations::new(unit.len());
    let mut coefficients = vec![0.0; unit.len()];
    for (index, row) in rows.iter().enumerate() {
        coefficients[0] = unit[0] / time(row);
        for (block, at) in blocks.iter().zip(1..) {
            coefficients[at] = if block.rows[index] { unit[at] / time(row) } else { 0.0 };
        }
        equations.add_row(&coefficients, 1.0);
    }
    // (x - prior)² / prior, so that unmeasured freedom scales a prior rather than shifts it; the
    // prior of e is none.
    for at in 0..unit.len() {
        let weight = RIDGE * RIDGE * unit[at] / longest;
        equations.add_diagonal(at, weight, if at == 0 { 0.0 } else { 1.0 });
    }
    let solution = equations.solve();
    let mut times = solution.iter().zip(&unit).map(|(x, unit)| x * unit);
    (times.next().unwrap_or(0.0), times.collect())
}

fn rounded(nanos: f64) -> Nanos {
    Nanos(nanos.max(0.0).round() as u64)
}

fn residual(rows: &[Measurement], fitted: &[Nanos]) -> u64 {
    let relative = |(row, fitted): (&Measurement, &Nanos)| {
        u64::try_from(u128::from(fitted.0.abs_diff(row.time.0)) * 1000 / u128::from(row.time.0))
            .unwrap_or(u64::MAX)
    };
    let mut residuals: Vec<u64> = rows.iter().zip(fitted).map(relative).collect();
    residuals.sort_unstable();
    residuals[residuals.len() / 2]
}
