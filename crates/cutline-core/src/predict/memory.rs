//! The memory that a network takes in an engine, fitted to a sweep's networks.
//!
//! ```text
//! bytes = session + a * parameters + b * largest sum of live values
//! ```
//!
//! with the two sums as the [cost model](crate::cost) counts them. Engines keep weights in a second
//! order, or plan their values more tightly than that, so the factors are the engine's; none is below
//! zero. Squares of relative errors are minimised.

use std::collections::BTreeSet;

use super::{Measured, Sample, Sweep, analyse, family};
use crate::{
    dag::{Dag, peak_of},
    fit::nnls::NormalEquations,
    profile::{MemoryError, NetworkMemory},
    units::Bytes,
};

/// Bytes of one unit of the fit, so that its unknowns are of about the same size.
const UNIT: f64 = 1e6;

/// Pull of every unknown towards zero, against a relative error.
const RIDGE: f64 = 1e-4;

/// Fewest networks of which a law is made.
const FEWEST: usize = 4;

/// What a network takes by what its engine takes for everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryModel {
    /// Of a session, of a byte of parameters, of a byte of live values.
    factors: [f64; 3],
    /// Of the networks that it was fitted to, nothing left out.
    pub fitted: MemoryError,
    /// Of networks whose family was left out.
    pub validation: MemoryError,
}

/// What the cost model counts of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Parameters.
    pub parameters: Bytes,
    /// The largest sum of values alive at once.
    pub live: Bytes,
}

impl Counted {
    /// Of a whole network on one device.
    pub fn of(dag: &Dag) -> Self {
        let groups: Vec<_> = dag.group_ids().collect();
        let inputs: Vec<_> = dag.flow_ids().filter(|&flow| dag.flow(flow).from.is_none()).collect();
        let outputs: Vec<_> = dag.flow_ids().filter(|&flow| dag.flow(flow).is_output).collect();
        Self {
            parameters: dag.groups().iter().map(|group| group.parameter_bytes).sum(),
            live: peak_of(dag, &groups, &inputs, &outputs),
        }
    }

    /// Both.
    pub fn total(self) -> Bytes {
        self.parameters + self.live
    }

    fn row(self) -> [f64; 3] {
        [1.0, self.parameters.0 as f64 / UNIT, self.live.0 as f64 / UNIT]
    }
}

/// A network with the memory that it took.
struct Known {
    row: [f64; 3],
    bytes: f64,
    family: String,
}

impl MemoryModel {
    /// Fits the law to the networks of sweeps whose memory was measured; `None` where they are too
    /// few. O(f m) for m networks of f families.
    pub fn fit(sweeps: &[Sweep]) -> Option<Self> {
        let samples = sweeps.iter().flat_map(|sweep| &sweep.samples);
        let known: Vec<Known> = samples.filter_map(known).collect();
        if known.len() < FEWEST {
            return None;
        }
        let all: Vec<&Known> = known.iter().collect();
        let factors = solve(&all);
        let families: BTreeSet<&str> = known.iter().map(|known| known.family.as_str()).collect();
        let without = |out: &str| {
            let kept: Vec<&Known> = known.iter().filter(|known| known.family != out).collect();
            let factors = solve(&kept);
            let out = known.iter().filter(|known| known.family == out);
            out.map(|known| error(factors, known)).collect::<Vec<_>>()
        };
        let left_out = match families.len() {
            0 | 1 => Vec::new(),
            _ => families.iter().flat_map(|&family| without(family)).collect(),
        };
        Some(Self {
            factors,
            fitted: errors(all.iter().map(|known| error(factors, known)).collect()),
            validation: errors(left_out),
        })
    }

    /// What a network takes, in bytes.
    pub fn bytes(&self, counted: Counted) -> Bytes {
        Bytes(value(self.factors, counted.row()).max(0.0).round() as u64)
    }

    /// The same for a profile.
    pub fn network(&self, dag: &Dag) -> NetworkMemory {
        let counted = Counted::of(dag);
        let network_bytes = self.bytes(counted);
        let counted_bytes = counted.total();
        NetworkMemory { network_bytes, counted_bytes, predicted: Some(self.validation) }
    }

    /// Bytes of a session, and the factors of parameters and of live values, in thousandths.
    pub fn law(&self) -> (Bytes, u64, u64) {
        let [session, parameters, live] = self.factors;
        let permille = |factor: f64| (factor * 1000.0).round() as u64;
        (Bytes((session * UNIT).round() as u64), permille(parameters), permille(live))
    }
}

fn known(measured: &Measured) -> Option<Known> {
    let Sample::Network { network, .. } = &measured.sample else { return None };
    let bytes = measured.memory_bytes.filter(|bytes| *bytes > Bytes::ZERO)?;
    let outline = measured.sample.outlines()?.pop()?;
    let (grouping, _) = analyse(&outline)?;
    let (row, bytes) = (Counted::of(&grouping.dag).row(), bytes.0 as f64);
    Some(Known { row, bytes, family: family(network).to_owned() })
}

fn solve(known: &[&Known]) -> [f64; 3] {
    let mut normal = NormalEquations::new(3);
    for Known { row, bytes, .. } in known {
        normal.add_row(&row.map(|cell| cell * UNIT / bytes), 1.0);
    }
    for at in 0..3 {
        normal.add_diagonal(at, RIDGE * RIDGE, 0.0);
    }
    let solution = normal.solve();
    std::array::from_fn(|at| solution[at])
}

fn value(factors: [f64; 3], row: [f64; 3]) -> f64 {
    UNIT * factors.iter().zip(row).map(|(factor, cell)| factor * cell).sum::<f64>()
}

fn error(factors: [f64; 3], known: &Known) -> f64 {
    (value(factors, known.row) - known.bytes).abs() / known.bytes
}

fn errors(mut errors: Vec<f64>) -> MemoryError {
    errors.sort_by(f64::total_cmp);
    let permille = |error: f64| (error * 1000.0).round() as u64;
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    MemoryError {
        median_permille: permille(errors.get(errors.len() / 2).copied().unwrap_or(0.0)),
        mean_permille: permille(mean),
        count: u32::try_from(errors.len()).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{predict::SWEEP_VERSION, units::Nanos, zoo};

    /// Networks of several families, each taking so much by a law.
    fn sweep(law: impl Fn(Counted) -> u64) -> Sweep {
        let names = ["squeezenet", "resnet18", "mobilenetv2", "shufflenetv2", "densenet121"];
        let measured = |name: &str| {
            let sample = Sample::Network { network: name.to_owned(), input_size: Some(64) };
            let (grouping, _) = analyse(&zoo::outline(name, Some(64)).unwrap()).unwrap();
            let memory_bytes = Some(Bytes(law(Counted::of(&grouping.dag))));
            Measured { sample, time_ns: Nanos(1), memory_bytes }
        };
        Sweep {
            version: SWEEP_VERSION,
            hardware: String::new(),
            engine: "rten".to_owned(),
            engine_version: String::new(),
            threads: 1,
            engine_bytes: Some(Bytes(5_000_000)),
            samples: names.map(measured).into(),
        }
    }

    #[test]
    fn a_law_of_the_form_is_found_and_holds_for_families_left_out() {
        let law = |counted: Counted| 3_000_000 + 2 * counted.parameters.0 + counted.live.0 / 2;
        let model = MemoryModel::fit(&[sweep(law)]).unwrap();
        assert_eq!((model.validation.count, model.fitted.count), (5, 5));
        assert!(model.validation.mean_permille <= 2, "{:?}", model.validation);
        let (session, parameters, live) = model.law();
        assert!(session.0.abs_diff(3_000_000) < 30_000, "{session}");
        assert!(parameters.abs_diff(2000) <= 5 && live.abs_diff(500) <= 5, "{parameters} {live}");
        let (grouping, _) = analyse(&zoo::outline("mobilenetv1", Some(128)).unwrap()).unwrap();
        let (network, counted) = (model.network(&grouping.dag), Counted::of(&grouping.dag));
        assert_eq!(network.counted_bytes, counted.total());
        let expected = law(counted);
        assert!(network.network_bytes.0.abs_diff(expected) < expected / 100);
    }

    #[test]
    fn a_law_that_does_not_hold_says_by_how_much_it_is_off() {
        let noise = |counted: Counted| 1_000_000 + counted.parameters.0 * (counted.live.0 % 7 + 1);
        let model = MemoryModel::fit(&[sweep(noise)]).unwrap();
        assert!(model.validation.mean_permille > 50, "{:?}", model.validation);
        assert!(model.validation.mean_permille >= model.fitted.mean_permille);
    }

    #[test]
    fn nothing_is_said_without_enough_measured_networks() {
        let mut few = sweep(|_| 1_000_000);
        few.samples.truncate(3);
        assert_eq!(MemoryModel::fit(&[few]), None);
        let mut none = sweep(|_| 1_000_000);
        none.samples.iter_mut().for_each(|measured| measured.memory_bytes = None);
        assert_eq!(MemoryModel::fit(&[none]), None);
    }

    #[test]
    fn a_whole_network_counts_as_the_plan_that_runs_all_of_it_on_one_device() {
        let (grouping, _) = analyse(&zoo::outline("squeezenet", Some(64)).unwrap()).unwrap();
        let dag = &grouping.dag;
        let platform = serde_json::from_str(
            r#"{ "version": 1, "device": [{ "name": "pi", "preset": "rpi4" }] }"#,
        );
        let platform = platform.unwrap();
        let costs = crate::cost::Costs::from_profiles(dag, "", &platform, &[vec![]], &[]).unwrap();
        let mapping =
            crate::partition::Mapping(vec![crate::platform::DeviceId::SOURCE; dag.groups().len()]);
        let setting = crate::evaluate::Setting::first(&costs);
        let evaluation = crate::evaluate::evaluate(dag, &costs, &mapping, &setting).unwrap();
        assert_eq!(evaluation.memory[0].bytes, Counted::of(dag).total());
    }
}
