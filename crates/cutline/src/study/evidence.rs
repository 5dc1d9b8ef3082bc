//! What was measured: predictions of kernels and networks, fits of profiles, and throughput.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cutline_core::{
    predict::{Model, Sample, Sweep},
    profile::{Part, Profile},
    units::Nanos,
};

use super::{
    data::{Predicted, Predictions, Scaling, Throughput},
    file::Study,
};
use crate::{
    characterize::{
        curves::{AXES, Curve, curves},
        results::Results,
    },
    inputs::file_name,
    planning::read_json,
};

/// Most curves that are shown.
const MOST_CURVES: usize = 200;

/// Points with their predictions and laws.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) predictions: Vec<Predictions>,
    pub(crate) scaling: Vec<Scaling>,
}

impl Evidence {
    /// Reads sweeps of kernels (one law for each file), the profiles that a study names, and the
    /// results of `cutline characterize`.
    pub(crate) fn read(
        kernels: &[PathBuf],
        sweeps: &[PathBuf],
        study: &Study,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut evidence = Self::default();
        for file in kernels {
            evidence.predictions.push(held_out(file)?);
        }
        for device in study.boards.iter().chain(&study.instances) {
            let files = device.table["profiles"].as_array().into_iter().flatten();
            for file in files.filter_map(|file| file.as_str()) {
                evidence.predictions.extend(fitted(&device.name, &folder.join(file))?);
            }
        }
        for file in sweeps {
            let curves = scaling(file)
                .with_context(|| format!("cannot use the sweep `{}`", file.display()))?;
            evidence.scaling.extend(curves);
        }
        evidence.scaling.truncate(MOST_CURVES);
        Ok(evidence)
    }
}

/// Kernels or networks that the fit had not seen.
fn held_out(file: &Path) -> anyhow::Result<Predictions> {
    let sweep: Sweep = read_json(file)?;
    let (predictions, of_networks) = Model::held_out(std::slice::from_ref(&sweep))
        .with_context(|| format!("cannot predict from the kernels `{}`", file.display()))?;
    let points = predictions.iter().filter_map(|held| {
        let measured = sweep.samples.get(held.sample)?;
        let name = match &measured.sample {
            Sample::Network { network, input_size: Some(size) } => format!("{network} at {size}"),
            Sample::Network { network, input_size: None } => network.clone(),
            Sample::Kernel { copies, .. } => format!("kernel {} ({copies} copies)", held.sample),
        };
        Some(Predicted { name, measured_ns: measured.time_ns, predicted_ns: held.predicted })
    });
    let what = match of_networks {
        true => "whole networks, predicted from kernels and networks of other families",
        false => "kernels, an eighth left out in turn",
    };
    let subject = format!("{}: {}", file_name(file), sweep.subject());
    Ok(Predictions::new(subject, what.to_owned(), true, points.collect()))
}

/// Parts of a network as the fit that they went into says; nothing of a profile without any.
fn fitted(device: &str, file: &Path) -> anyhow::Result<Option<Predictions>> {
    let profile: Profile = read_json(file)?;
    if profile.segments.is_empty() {
        return Ok(None);
    }
    let points = profile.segments.iter().map(|segment| {
        let cut = segment.cut.join(", ");
        let name = match segment.part {
            Part::Prefix => format!("up to {cut}"),
            Part::Suffix => format!("from {cut}"),
            Part::Whole => "the whole".to_owned(),
        };
        let measured_ns = segment.timing.median_ns;
        Predicted { name, measured_ns, predicted_ns: segment.fitted_ns }
    });
    let key = &profile.key;
    let subject = format!(
        "{device}: {} on {} with {}, {} threads",
        profile.model, key.hardware, key.engine, key.threads
    );
    let what = "parts of a network, as group times fitted to them say".to_owned();
    Ok(Some(Predictions::new(subject, what, false, points.collect())))
}

impl Predictions {
    /// Points with their errors; those that took no time are left out.
    fn new(subject: String, what: String, is_held_out: bool, mut points: Vec<Predicted>) -> Self {
        points.retain(|point| point.measured_ns > Nanos::ZERO);
        let error = |point: &Predicted| {
            let off = point.predicted_ns.0.abs_diff(point.measured_ns.0);
            u64::try_from(u128::from(off) * 1000 / u128::from(point.measured_ns.0))
                .unwrap_or(u64::MAX)
        };
        let mut errors: Vec<u64> = points.iter().map(error).collect();
        errors.sort_unstable();
        let sum: u128 = errors.iter().map(|&error| u128::from(error)).sum();
        // Nearest rank.
        let rank = |permille: usize| {
            let rank = (errors.len() * permille).div_ceil(1000).max(1) - 1;
            errors.get(rank).copied().unwrap_or(0)
        };
        Self {
            subject,
            what,
            is_held_out,
            median_permille: rank(500),
            mean_permille: (sum / errors.len().max(1) as u128) as u64,
            band_permille: rank(900),
            points,
        }
    }
}

/// Curves of a sweep: cells that differ in nothing but threads, the batch or replicas.
fn scaling(file: &Path) -> anyhow::Result<Vec<Scaling>> {
    let results = Results::read(file)?;
    let mut found = Vec::new();
    for axis in AXES {
        found.extend(curves(&results, axis)?.into_iter().map(|curve| shown(file, curve)));
    }
    Ok(found)
}

fn shown(file: &Path, curve: Curve) -> Scaling {
    let subject = format!("{}: {}", file_name(file), curve.subject());
    let Curve { over, points, law, .. } = curve;
    let points = points.iter().map(|point| Throughput {
        n: point.n,
        frames_per_second: point.throughput,
        fitted: law.throughput(point.n),
    });
    Scaling {
        subject,
        over: over.name(),
        lambda: law.lambda,
        sigma: law.sigma,
        kappa: law.kappa,
        peak: law.peak(),
        cross_validated_permille: law
            .cross_validated
            .map(|error| (error * 1000.0).round().min(1e15) as u64),
        points: points.collect(),
    }
}
