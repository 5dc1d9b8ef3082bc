//! The law of a device's times, fitted to a sweep.
//!
//! The time of a layer is a sum of what it computes and what it moves, each at a rate of its kind:
//! a smooth roofline, in which work and bytes add up instead of hiding one another. All rates are
//! at least zero and found together by non-negative least squares over *relative* errors, so that a
//! short kernel counts as much as a long network. Squared errors are made symmetric in the ratio of
//! predicted and measured, and large ones count by their size alone, by reweighting.
//!
//! A whole network counts [`NETWORK`] times a kernel: kernels tell the kinds apart, and whole
//! networks say what they cost when they follow each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, Measured, PredictError, Sample, Sweep, Work, analyse};
use crate::{fit::nnls::NormalEquations, units::Nanos};

/// Weight of a whole network against that of a kernel.
const NETWORK: f64 = 10.0;

/// Pull of every coefficient towards zero, in relative errors of one kernel.
const RIDGE: f64 = 0.1;

/// Relative error beyond which errors count by their size instead of its square.
const LARGE: f64 = 0.05;

/// Rounds of reweighting; the weights change little after the fifth.
const ROUNDS: usize = 8;

/// Parts into which kernels are divided where only they can be left out in turn.
const FOLDS: usize = 8;

/// What is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Paid {
    /// One run of an engine.
    Run,
    /// One layer.
    Call,
    /// A multiply-accumulate.
    Macs,
    /// One per element of the result and of the window: to gather what a filter reads.
    Gathered,
    /// One per channel, element of the window and pixel of the result.
    Spread,
    /// An element of the weights.
    Weights,
    /// An element read.
    Read,
    /// An element made.
    Made,
    /// An element read or made.
    Moved,
}

/// A coefficient: of which kind, whether of layers that follow in their group, what for.
type Column = (Kind, bool, Paid);

const RUN: Column = (Kind::Join, false, Paid::Run);

/// A sum over columns.
type Row = BTreeMap<Column, f64>;

/// What is known of a device: nanoseconds for everything that is paid for.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    costs: Row,
    /// How well it predicts what it has not seen.
    pub validation: Validation,
}

/// Errors of predictions of samples that were left out of the fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// Median of |predicted - measured| / measured, in thousandths.
    pub median_permille: u64,
    /// Its mean.
    pub mean_permille: u64,
    /// How many predictions it rests on.
    pub count: usize,
    /// Whether they are of whole networks, each family left out in turn; else of kernels, an
    /// eighth left out in turn.
    pub of_networks: bool,
}

/// A prediction of a sample that was left out of the fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOut {
    /// Position of the sample, counted through all sweeps.
    pub sample: usize,
    /// What the others say of it.
    pub predicted: Nanos,
}

/// A sample as an equation.
struct Equation {
    row: Row,
    time: f64,
    /// The family of a network; `None` of a kernel.
    family: Option<String>,
}

impl Model {
    /// Fits the law to sweeps of one device with one engine, and validates it. Deterministic;
    /// O(f m n²) for m samples, some fifty columns n and f families of networks.
    pub fn fit(sweeps: &[Sweep]) -> Result<Model, PredictError> {
        let equations = equations(sweeps)?;
        let costs = solve(&equations.iter().collect::<Vec<_>>());
        Ok(Model { costs, validation: validate(&equations) })
    }

    /// The predictions that [`Model::validation`] counts, each with its sample, and whether they are of
    /// whole networks.
    pub fn held_out(sweeps: &[Sweep]) -> Result<(Vec<HeldOut>, bool), PredictError> {
        let equations = equations(sweeps)?;
        let (predictions, of_networks) = held_out(&equations);
        let predicted = |(sample, value)| HeldOut { sample, predicted: rounded(value) };
        Ok((predictions.into_iter().map(predicted).collect(), of_networks))
    }

    /// The same without validation, and without the networks of one [`family`](super::family): what
    /// can be said of them if none of them was ever measured.
    pub fn fit_without(sweeps: &[Sweep], family: &str) -> Result<Model, PredictError> {
        let kept = |measured: &&Measured| match &measured.sample {
            Sample::Network { network, .. } => super::family(network) != family,
            Sample::Kernel { .. } => true,
        };
        let mut equations = Vec::new();
        for sweep in sweeps {
            for (index, measured) in sweep.samples.iter().filter(kept).enumerate() {
                equations.push(equation(index, measured)?);
            }
        }
        let costs = solve(&equations.iter().collect::<Vec<_>>());
        Ok(Model { costs, validation: Validation::default() })
    }

    /// Time of one run of an engine, besides its layers.
    pub fn call(&self) -> Nanos {
        rounded(self.costs.get(&RUN).copied().unwrap_or(0.0))
    }

    /// Time of a group of layers.
    pub fn group(&self, works: &[Work]) -> Nanos {
        rounded(self.value(&row(works)))
    }

    /// Whether something of the sort was in the sweeps; what was not counts as no time.
    pub fn knows(&self, work: &Work) -> bool {
        paid(work).iter().all(|(column, _)| self.costs.contains_key(column))
    }

    fn value(&self, row: &Row) -> f64 {
        value(&self.costs, row)
    }
}

fn value(costs: &Row, row: &Row) -> f64 {
    row.iter().map(|(column, amount)| costs.get(column).unwrap_or(&0.0) * amount).sum()
}

fn rounded(nanos: f64) -> Nanos {
    Nanos(nanos.max(0.0).round() as u64)
}

/// Every sample of sweeps of one device with one engine.
fn equations(sweeps: &[Sweep]) -> Result<Vec<Equation>, PredictError> {
    let mut equations = Vec::new();
    for sweep in sweeps {
        sweep.check(&sweeps[0])?;
        for (index, measured) in sweep.samples.iter().enumerate() {
            equations.push(equation(index, measured)?);
        }
    }
    match equations.is_empty() {
        true => Err(PredictError::Empty),
        false => Ok(equations),
    }
}

/// What a layer pays for.
fn paid(work: &Work) -> Vec<(Column, f64)> {
    let Work { kind, macs, read, made, weights, channels, filters, window, .. } = *work;
    let (amounts, follows) = match kind {
        Kind::Conv | Kind::Pointwise => {
            let spread = (Paid::Spread, macs / filters.max(1.0));
            let gathered = (Paid::Gathered, macs / channels.max(1.0));
            let moved = [(Paid::Weights, weights), (Paid::Read, read), (Paid::Made, made)];
            ([&[(Paid::Macs, macs), gathered, spread], &moved[..]].concat(), false)
        }
        Kind::Depthwise => {
            (vec![(Paid::Macs, macs), (Paid::Read, read), (Paid::Made, made)], false)
        }
        Kind::Dense => (vec![(Paid::Macs, macs)], false),
        Kind::MaxPool | Kind::MeanPool => {
            (vec![(Paid::Gathered, made * window), (Paid::Read, read)], false)
        }
        Kind::Relabel => (Vec::new(), false),
        _ => (vec![(Paid::Moved, read + made)], work.follows),
    };
    let call = [(Paid::Call, 1.0)];
    amounts.into_iter().chain(call).map(|(paid, n)| ((kind, follows, paid), n)).collect()
}

fn row(works: &[Work]) -> Row {
    let mut row = Row::new();
    for (column, amount) in works.iter().flat_map(paid) {
        *row.entry(column).or_default() += amount;
    }
    row
}

fn equation(index: usize, measured: &Measured) -> Result<Equation, PredictError> {
    let time = measured.time_ns.0 as f64;
    if measured.time_ns == Nanos::ZERO {
        return Err(PredictError::NoTime(index));
    }
    let analysed = |outline: &_| {
        let (_, works) = analyse(outline)?;
        Some(row(&works.concat()))
    };
    let outlines = measured.sample.outlines().ok_or(PredictError::Sample(index))?;
    let rows: Option<Vec<Row>> = outlines.iter().map(analysed).collect();
    let mut rows = rows.ok_or(PredictError::Sample(index))?;
    let mut row = rows.pop().unwrap_or_default();
    let family = match &measured.sample {
        Sample::Kernel { copies, .. } => {
            let one = rows.pop().unwrap_or_default();
            for (column, amount) in &mut row {
                *amount -= one.get(column).unwrap_or(&0.0);
                *amount /= copies.saturating_sub(1).max(1) as f64;
            }
            None
        }
        Sample::Network { network, .. } => {
            row.insert(RUN, 1.0);
            Some(super::family(network).to_owned())
        }
    };
    Ok(Equation { row, time, family })
}

fn solve(equations: &[&Equation]) -> Row {
    let columns: BTreeSet<Column> = equations.iter().flat_map(|e| e.row.keys().copied()).collect();
    let columns: Vec<Column> = columns.into_iter().collect();
    let mut rows: Vec<Vec<f64>> = equations
        .iter()
        .map(|e| columns.iter().map(|c| e.row.get(c).unwrap_or(&0.0) / e.time).collect())
        .collect();
    // Unknowns are scaled so that each explains as much as another, whatever its unit.
    let scales: Vec<f64> = (0..columns.len())
        .map(|at| {
            let squares: f64 = rows.iter().map(|row| row[at] * row[at]).sum();
            let scale = (squares / rows.len() as f64).sqrt();
            if scale > 0.0 { scale } else { 1.0 }
        })
        .collect();
    for row in &mut rows {
        row.iter_mut().zip(&scales).for_each(|(cell, scale)| *cell /= scale);
    }
    let weights: Vec<f64> =
        equations.iter().map(|e| if e.family.is_some() { NETWORK } else { 1.0 }).collect();
    let mut now = weights.clone();
    let mut solution = vec![0.0; columns.len()];
    for _ in 0..ROUNDS {
        let mut normal = NormalEquations::new(columns.len());
        for (row, weight) in rows.iter().zip(&now) {
            let weighted: Vec<f64> = row.iter().map(|cell| cell * weight).collect();
            normal.add_row(&weighted, *weight);
        }
        for at in 0..columns.len() {
            normal.add_diagonal(at, RIDGE * RIDGE, 0.0);
        }
        solution = normal.solve();
        for ((row, weight), now) in rows.iter().zip(&weights).zip(&mut now) {
            let ratio: f64 = row.iter().zip(&solution).map(|(a, x)| a * x).sum();
            let error = ratio.max(1e-3).ln().abs().max(LARGE);
            *now = weight / ratio.max(0.2).sqrt() / (error / LARGE).sqrt();
        }
    }
    columns.into_iter().zip(solution.iter().zip(&scales).map(|(x, scale)| x / scale)).collect()
}

/// Predictions of what was left out, in nanoseconds by position: the networks of each family, or
/// every eighth kernel; and whether they are of networks.
fn held_out(equations: &[Equation]) -> (Vec<(usize, f64)>, bool) {
    let families: BTreeSet<&str> = equations.iter().filter_map(|e| e.family.as_deref()).collect();
    let of_networks = families.len() > 1;
    let mut predictions = Vec::new();
    let mut leave_out = |is_out: &dyn Fn(usize, &Equation) -> bool| {
        let (mut kept, mut out) = (Vec::new(), Vec::new());
        for (index, equation) in equations.iter().enumerate() {
            match is_out(index, equation) {
                true => out.push((index, equation)),
                false => kept.push(equation),
            }
        }
        if kept.is_empty() || out.is_empty() {
            return;
        }
        let costs = solve(&kept);
        predictions.extend(out.iter().map(|(index, e)| (*index, value(&costs, &e.row))));
    };
    match of_networks {
        true => families
            .iter()
            .for_each(|&family| leave_out(&|_, e| e.family.as_deref() == Some(family))),
        false => (0..FOLDS).for_each(|fold| {
            leave_out(&|index, e| e.family.is_none() && index % FOLDS == fold);
        }),
    }
    (predictions, of_networks)
}

fn validate(equations: &[Equation]) -> Validation {
    let (predictions, of_networks) = held_out(equations);
    let error = |&(at, predicted): &(usize, f64)| {
        let measured = equations[at].time;
        (predicted - measured).abs() / measured
    };
    let mut errors: Vec<f64> = predictions.iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    let permille = |error: f64| (error * 1000.0).round() as u64;
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    Validation {
        median_permille: permille(errors.get(errors.len() / 2).copied().unwrap_or(0.0)),
        mean_permille: permille(mean),
        count: errors.len(),
        of_networks,
    }
}
