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

pub(crate) mod nnls;

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
    let unit: Vec<f64> = std::iter::once(longest * 1e-2)
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
    // Pull on a block: (x - prior)² / (prior + mean), so that large ones give way more, and small
    // ones whose prior is far off are not held. The prior of e is none.
    let mean = longest / blocks.len().max(1) as f64;
    for (at, &unit) in unit.iter().enumerate() {
        let (slack, target) = if at == 0 { (longest, 0.0) } else { (unit + mean, 1.0) };
        equations.add_diagonal(at, RIDGE * RIDGE * unit * unit / (slack * longest), target);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::{Bytes, Macs};

    /// A chain; each group makes 100 bytes and does the given work.
    fn chain(macs: &[u64]) -> Dag {
        let mut dag = Dag::new();
        let mut last = dag.add_input("input", Some(Bytes(100)));
        for (index, &macs) in macs.iter().enumerate() {
            let name = format!("g{index}");
            let makes = [(name.clone(), Some(Bytes(100)))];
            let id = dag.add_group(vec![name], [last], makes, Macs(macs), Bytes::ZERO);
            last = dag.group(id).makes[0];
        }
        dag
    }

    /// Prefix and suffix at the given positions, and the whole, of `e` and group times.
    fn measure(call: u64, times: &[u64], cuts: &[usize]) -> Vec<Measurement> {
        let row = |part, position: usize| {
            let before: Vec<bool> = (0..times.len()).map(|index| index < position).collect();
            let inside = |index: &usize| match part {
                Part::Whole => true,
                Part::Prefix => *index < position,
                Part::Suffix => *index >= position,
            };
            let time = call + (0..times.len()).filter(inside).map(|i| times[i]).sum::<u64>();
            Measurement { part, before, time: Nanos(time) }
        };
        let parts = cuts.iter().flat_map(|&cut| [row(Part::Prefix, cut), row(Part::Suffix, cut)]);
        parts.chain([row(Part::Whole, 0)]).collect()
    }

    fn relative(found: Nanos, expected: u64) -> f64 {
        (found.0 as f64 - expected as f64).abs() / expected as f64
    }

    #[test]
    fn groups_that_no_cut_separates_share_by_their_work() {
        let dag = chain(&[1_000_000, 3_000_000, 4_000_000]);
        let fit = fit(&dag, &measure(10_000, &[100_000, 500_000, 400_000], &[2])).unwrap();
        assert!(relative(fit.groups[0].unwrap(), 150_000) < 0.02, "{fit:?}");
        assert!(relative(fit.groups[1].unwrap(), 450_000) < 0.02, "{fit:?}");
        assert!(relative(fit.groups[2].unwrap(), 400_000) < 0.02, "{fit:?}");
        assert!(fit.residual_permille <= 5, "{fit:?}");
    }

    #[test]
    fn what_was_never_measured_has_no_time() {
        let dag = chain(&[10, 10, 10]);
        let rows = &measure(5, &[1000, 1000, 1000], &[2])[..1];
        let fit = fit(&dag, rows).unwrap();
        assert_eq!(fit.groups.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn useless_measurements_are_refused() {
        let dag = chain(&[10, 10]);
        let row =
            |before: Vec<bool>, time| Measurement { part: Part::Prefix, before, time: Nanos(time) };
        assert_eq!(fit(&dag, &[]), Err(FitError::Empty));
        assert_eq!(fit(&dag, &[row(vec![true, false], 0)]), Err(FitError::NoTime(0)));
        let short = fit(&dag, &[row(vec![true], 5)]);
        assert_eq!(short, Err(FitError::Length { index: 0, given: 1, groups: 2 }));
    }

    proptest! {
        /// Noiseless parts are explained, whatever the prior says of the groups.
        #[test]
        fn exact_data_is_recovered(
            groups in prop::collection::vec((1_000u64..1_000_000, 1_000u64..10_000_000), 2..25),
            call in 1_000u64..100_000,
        ) {
            let (times, macs): (Vec<u64>, Vec<u64>) = groups.into_iter().unzip();
            let cuts: Vec<usize> = (1..times.len()).collect();
            let rows = measure(call, &times, &cuts);
            let fit = fit(&chain(&macs), &rows).unwrap();
            for (row, &fitted) in rows.iter().zip(&fit.fitted) {
                prop_assert!(relative(fitted, row.time.0) < 0.02, "{row:?} {fitted}");
            }
            let whole: u64 = times.iter().sum();
            for (&fitted, &time) in fit.groups.iter().zip(&times) {
                let off = fitted.unwrap().0.abs_diff(time);
                prop_assert!(off * 50 < whole, "{off} of {whole}");
            }
        }

        /// Contradicting parts still give times, none negative by construction, and the same ones.
        #[test]
        fn noise_is_survived(
            macs in prop::collection::vec(1u64..1_000_000, 2..12),
            noise in prop::collection::vec(1u64..1_000_000, 40),
        ) {
            let cuts: Vec<usize> = (1..macs.len()).collect();
            let mut rows = measure(10, &macs, &cuts);
            for (row, &time) in rows.iter_mut().zip(&noise) {
                row.time = Nanos(time);
            }
            let dag = chain(&macs);
            let first = fit(&dag, &rows).unwrap();
            let longest = rows.iter().map(|row| row.time.0).max().unwrap();
            prop_assert!(first.groups.iter().flatten().all(|time| time.0 <= 4 * longest));
            prop_assert_eq!(first, fit(&dag, &rows).unwrap());
        }
    }
}
