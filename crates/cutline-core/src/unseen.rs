//! How long networks take on a device of which only a few of them were measured.
//!
//! The logarithms of the times of many networks on many devices are a multivariate normal
//! distribution: one large common factor (the speed of the device) and some smaller ones (how well
//! it does depthwise kernels, how soon its memory is full). A few measured times of an unknown
//! device then say what the others are, to first order a product of powers of the measured ones.
//! Processors and GPUs are fitted apart.
//!
//! `data/ncnn.json` holds the distributions fitted to the public benchmark table of ncnn; the test
//! `unseen` fits them again. Errors are cross-validated: each device is predicted by a fit that has
//! seen none of its rows, nor those of the same chip on another board.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::units::Nanos;

mod gaussian;
mod table;

use gaussian::{Gaussian, Sample};
pub use table::parse;

/// How many networks are measured on a new device.
const MEASURED: usize = 3;
/// Networks of fewer rows are left out.
const LEAST_ROWS: usize = 10;
/// The median of the absolute value of a standard normal variable.
const MEDIAN: f64 = 0.674_489_75;
const SHIPPED: &str = include_str!("../data/ncnn.json");

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// Cores of a central processor.
    Cpu,
    /// A graphics processor.
    Gpu,
}

/// Networks measured on one device in one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The device; the same name for the same chip.
    pub device: String,
    /// What computed.
    pub processor: Processor,
    /// Time of each network.
    pub times: BTreeMap<String, Nanos>,
}

/// Times of networks as a joint distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Model {
    networks: Vec<String>,
    /// Of the natural logarithms of nanoseconds.
    gaussian: Gaussian,
    best: Vec<usize>,
    spread: f64,
    devices: usize,
    rows: usize,
}

/// A predicted time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Of this network.
    pub network: String,
    /// The time, as likely too short as too long.
    pub time: Nanos,
    /// Median relative error to expect, in millionths, scaled to what cross-validation found.
    pub error_ppm: u64,
}

/// A network on a device that the fit had not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The device.
    pub device: String,
    /// The network.
    pub network: String,
    /// What was measured.
    pub measured: Nanos,
    /// What was predicted from the chosen networks.
    pub predicted: Prediction,
}

/// Why nothing can be predicted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum UnseenError {
    #[error("the table has no column `{0}`")]
    Column(&'static str),
    #[error("line {0} of the table has no time in milliseconds above 0")]
    Line(usize),
    #[error(
        "{0} devices with at least {MEASURED} networks of {LEAST_ROWS} rows are too few to fit"
    )]
    TooFew(usize),
    #[error("none of the measured networks is known; measure some of {0}")]
    Unknown(String),
    #[error("network `{0}` was measured to take no time")]
    NoTime(String),
    #[error("the fitted coefficients are damaged: {0}")]
    Damaged(&'static str),
}

impl Model {
    /// The distribution fitted to the public table of ncnn.
    pub fn shipped(processor: Processor) -> Result<Self, UnseenError> {
        let mut file: Shipped = serde_json::from_str(SHIPPED)
            .map_err(|_| UnseenError::Damaged("it is not what this version reads"))?;
        file.models.remove(&processor).ok_or(UnseenError::Damaged("a processor is missing"))
    }

    /// The distribution of these rows; [`Model::cross_validated`] knows its errors besides.
    /// Deterministic; devices count by the root of their number of rows.
    pub fn fit(rows: &[&Row]) -> Result<Self, UnseenError> {
        let networks = table::networks(rows, LEAST_ROWS);
        let values = |row: &Row| -> Vec<Option<f64>> {
            let log = |time: &Nanos| (time.0.max(1) as f64).ln();
            networks.iter().map(|name| row.times.get(name).map(log)).collect()
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut kept: Vec<(&Row, Vec<Option<f64>>)> =
            rows.iter().map(|row| (*row, values(row))).collect();
        kept.retain(|(_, values)| values.iter().flatten().count() >= MEASURED);
        kept.iter().for_each(|(row, _)| *counts.entry(&row.device).or_default() += 1);
        if counts.len() < MEASURED || networks.len() <= MEASURED {
            return Err(UnseenError::TooFew(counts.len()));
        }
        let samples: Vec<Sample> = kept
            .into_iter()
            .map(|(row, values)| Sample {
                values,
                weight: 1.0 / (counts[row.device.as_str()] as f64).sqrt(),
            })
            .collect();
        let gaussian = Gaussian::fit(&samples, networks.len());
        let best = best(&gaussian, &samples);
        let (devices, rows) = (counts.len(), samples.len());
        Ok(Self { networks, gaussian, best, spread: 1.0, devices, rows })
    }

    /// The same, and each device predicted by a fit to the others, from the networks chosen there.
    /// A fit per device.
    pub fn cross_validated(rows: &[&Row]) -> Result<(Self, Vec<LeftOut>), UnseenError> {
        let mut model = Self::fit(rows)?;
        let devices: BTreeSet<&str> = rows.iter().map(|row| row.device.as_str()).collect();
        let mut left = Vec::new();
        let mut ratios = Vec::new();
        for device in devices {
            let (inside, outside): (Vec<&Row>, Vec<&Row>) =
                rows.iter().partition(|row| row.device == device);
            let others = Self::fit(&outside)?;
            for row in inside {
                let chosen = others.best();
                let given: BTreeMap<String, Nanos> = chosen
                    .filter_map(|name| Some((name.to_owned(), *row.times.get(name)?)))
                    .collect();
                if given.len() < others.best.len() {
                    continue;
                }
                for predicted in others.predict(&given)? {
                    let Some(&measured) = row.times.get(&predicted.network) else { continue };
                    let off = (predicted.time.0 as f64 / measured.0 as f64).ln().abs();
                    ratios.push(off * 1e6 / predicted.error_ppm.max(1) as f64);
                    let (device, network) = (row.device.clone(), predicted.network.clone());
                    left.push(LeftOut { device, network, measured, predicted });
                }
            }
        }
        ratios.sort_unstable_by(f64::total_cmp);
        model.spread = ratios.get(ratios.len() / 2).copied().unwrap_or(1.0);
        for one in &mut left {
            one.predicted.error_ppm = (one.predicted.error_ppm as f64 * model.spread) as u64;
        }
        Ok((model, left))
    }

    /// Networks whose measurement says most of all others together.
    pub fn best(&self) -> impl Iterator<Item = &str> {
        self.best.iter().map(|&at| self.networks[at].as_str())
    }

    /// All networks that it knows.
    pub fn networks(&self) -> &[String] {
        &self.networks
    }

    /// Devices and rows that it was fitted to.
    pub fn fitted_to(&self) -> (usize, usize) {
        (self.devices, self.rows)
    }

    /// Times of all known networks that were not measured; unknown measured ones say nothing.
    pub fn predict(
        &self,
        measured: &BTreeMap<String, Nanos>,
    ) -> Result<Vec<Prediction>, UnseenError> {
        if let Some((name, _)) = measured.iter().find(|(_, time)| time.0 == 0) {
            return Err(UnseenError::NoTime(name.clone()));
        }
        let (mut places, mut logs) = (Vec::new(), Vec::new());
        for (at, name) in self.networks.iter().enumerate() {
            if let Some(time) = measured.get(name) {
                places.push(at);
                logs.push((time.0 as f64).ln());
            }
        }
        if places.is_empty() {
            let best: Vec<&str> = self.best().collect();
            return Err(UnseenError::Unknown(best.join(", ")));
        }
        let known = self.gaussian.known(&places);
        let expected = known.expect(&self.gaussian, &logs);
        let others = (0..self.networks.len()).filter(|at| !places.contains(at));
        let predictions = others.map(|at| {
            let deviation = known.covariance(&self.gaussian, at, at).max(0.0).sqrt();
            Prediction {
                network: self.networks[at].clone(),
                time: Nanos(expected[at].exp().round().max(1.0) as u64),
                error_ppm: (deviation * MEDIAN * self.spread * 1e6).round() as u64,
            }
        });
        Ok(predictions.collect())
    }
}

impl LeftOut {
    /// |predicted - measured| / measured, in millionths.
    pub fn error_ppm(&self) -> u64 {
        let off = u128::from(self.predicted.time.0.abs_diff(self.measured.0)) * 1_000_000;
        u64::try_from(off / u128::from(self.measured.0.max(1))).unwrap_or(u64::MAX)
    }
}

/// The networks that leave least uncertain: the least sum of the other's standard deviations. Of
/// those that at least 85 of 100 rows have.
fn best(gaussian: &Gaussian, samples: &[Sample]) -> Vec<usize> {
    let size = gaussian.mean.len();
    let there = |at: &usize| samples.iter().filter(|row| row.values[*at].is_some()).count();
    let mut allowed: Vec<usize> =
        (0..size).filter(|at| there(at) * 100 >= samples.len() * 85).collect();
    if allowed.len() < MEASURED {
        allowed = (0..size).collect();
    }
    let mut least: (f64, Vec<usize>) = (f64::INFINITY, Vec::new());
    for (first, &a) in allowed.iter().enumerate() {
        for (second, &b) in allowed.iter().enumerate().skip(first + 1) {
            for &c in &allowed[second + 1..] {
                let known = gaussian.known(&[a, b, c]);
                let left = (0..size).map(|at| known.covariance(gaussian, at, at).max(0.0).sqrt());
                let sum: f64 = left.sum();
                if sum < least.0 {
                    least = (sum, vec![a, b, c]);
                }
            }
        }
    }
    least.1
}

/// The file of shipped models.
#[derive(Serialize, Deserialize)]
struct Shipped {
    source: String,
    licence: String,
    models: BTreeMap<Processor, Model>,
}

/// A model as it is written: the lower half of the covariance.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    devices: usize,
    rows: usize,
    best: Vec<String>,
    spread: f64,
    networks: Vec<String>,
    mean: Vec<f64>,
    covariance: Vec<Vec<f64>>,
}

impl TryFrom<Raw> for Model {
    type Error = UnseenError;

    fn try_from(raw: Raw) -> Result<Self, UnseenError> {
        let size = raw.networks.len();
        let lower = raw.covariance;
        if raw.mean.len() != size || lower.len() != size {
            return Err(UnseenError::Damaged("not one mean and one covariance per network"));
        }
        if lower.iter().enumerate().any(|(at, line)| line.len() != at + 1) {
            return Err(UnseenError::Damaged("the covariance is not a lower triangle"));
        }
        let numbers = raw.mean.iter().chain(lower.iter().flatten()).chain([&raw.spread]);
        if !numbers.into_iter().all(|number| number.is_finite()) {
            return Err(UnseenError::Damaged("a coefficient is not a number"));
        }
        let at = |name: &String| raw.networks.iter().position(|network| network == name);
        let best: Option<Vec<usize>> = raw.best.iter().map(at).collect();
        let best = best.ok_or(UnseenError::Damaged("a chosen network is unknown"))?;
        let full = |row: usize| (0..size).map(|o| lower[row.max(o)][row.min(o)]).collect();
        let covariance = (0..size).map(full).collect();
        Ok(Self {
            networks: raw.networks,
            gaussian: Gaussian { mean: raw.mean, covariance },
            best,
            spread: raw.spread,
            devices: raw.devices,
            rows: raw.rows,
        })
    }
}

impl From<Model> for Raw {
    fn from(model: Model) -> Self {
        // Five digits are far below what the fit knows.
        let round = |x: &f64| (x * 1e5).round() / 1e5;
        let lines = model.gaussian.covariance.iter().enumerate();
        Self {
            devices: model.devices,
            rows: model.rows,
            best: model.best().map(str::to_owned).collect(),
            spread: round(&model.spread),
            mean: model.gaussian.mean.iter().map(round).collect(),
            covariance: lines.map(|(at, line)| line[..=at].iter().map(round).collect()).collect(),
            networks: model.networks,
        }
    }
}

/// The text of `data/ncnn.json` for these models.
pub fn to_json(models: BTreeMap<Processor, Model>) -> String {
    let shipped = Shipped {
        source: "fitted to the benchmark table of github.com/Tencent/ncnn, benchmark/README.md: \
                 least times of float networks, natural logarithms of nanoseconds"
            .to_owned(),
        licence: "the table: BSD-3-Clause, Copyright (C) 2017 Tencent; the coefficients: as this \
                  project"
            .to_owned(),
        models,
    };
    let text = serde_json::to_string(&shipped).expect("numbers and texts can be written");
    // A line per list, so that differences can be read.
    text.replace("],[", "],\n[").replace("\":{", "\":{\n").replace(",\"", ",\n\"") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(rows: &[(&str, u64)]) -> BTreeMap<String, Nanos> {
        rows.iter().map(|&(name, time)| (name.to_owned(), Nanos(time))).collect()
    }

    #[test]
    fn a_device_twice_as_slow_is_predicted_about_twice_as_slow() {
        let model = Model::shipped(Processor::Cpu).unwrap();
        let of = |factor: u64| {
            let given =
                times(&[("squeezenet", 20_000_000 * factor), ("vgg16", 300_000_000 * factor)]);
            model.predict(&given).unwrap()
        };
        for (one, two) in of(1).iter().zip(of(2)) {
            let ratio = two.time.0 as f64 / one.time.0 as f64;
            assert!((1.7..2.3).contains(&ratio), "{}: {ratio}", one.network);
        }
    }

    #[test]
    fn more_measurements_leave_less_error() {
        let model = Model::shipped(Processor::Cpu).unwrap();
        let one = times(&[("resnet18", 20_000_000)]);
        let two = times(&[("resnet18", 20_000_000), ("mobilenet_v2", 7_000_000)]);
        let error = |given, network: &str| {
            let all = model.predict(given).unwrap();
            all.iter().find(|one| one.network == network).unwrap().error_ppm
        };
        assert!(error(&two, "mnasnet") * 2 < error(&one, "mnasnet"));
        assert!(model.predict(&two).unwrap().iter().all(|one| one.network != "resnet18"));
    }

    #[test]
    fn nothing_known_or_no_time_is_refused() {
        let model = Model::shipped(Processor::Gpu).unwrap();
        let error = |given: &[(&str, u64)]| model.predict(&times(given)).unwrap_err();
        assert!(matches!(error(&[("mine", 5)]), UnseenError::Unknown(_)));
        assert_eq!(error(&[("resnet18", 0)]), UnseenError::NoTime("resnet18".to_owned()));
        assert!(matches!(Model::fit(&[]), Err(UnseenError::TooFew(0))));
    }

    #[test]
    fn damaged_coefficients_are_refused() {
        let raw = Raw::from(Model::shipped(Processor::Gpu).unwrap());
        let damaged = |change: &dyn Fn(&mut Raw)| {
            let mut raw = raw.clone();
            change(&mut raw);
            Model::try_from(raw).is_err()
        };
        assert!(!damaged(&|_| {}));
        assert!(damaged(&|raw| raw.mean.truncate(3)));
        assert!(damaged(&|raw| raw.covariance[4].truncate(3)));
        assert!(damaged(&|raw| raw.mean[2] = f64::NAN));
        assert!(damaged(&|raw| raw.best[0] = "mine".to_owned()));
    }
}
