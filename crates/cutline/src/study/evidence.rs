//! What was measured: predictions of kernels and networks, fits of profiles, and throughput.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    predict::{Model, Sample, Sweep},
    profile::{Part, Profile},
    scaling::{Law, Point},
    units::Nanos,
};
use rusqlite::types::Value;

use super::{
    data::{Predicted, Predictions, Scaling, Throughput},
    file::Study,
};
use crate::{characterize::Database, inputs::file_name, planning::read_json};

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

/// Curves of a sweep: cells that differ in nothing but threads, or in nothing but the batch.
fn scaling(file: &Path) -> anyhow::Result<Vec<Scaling>> {
    let table = Database::read(file)?.table()?;
    let column = |name: &str| table.columns.iter().position(|column| column.name == name);
    let (Some(median), Some(batch), Some(threads)) =
        (column("median_ns"), column("batch"), column("threads"))
    else {
        bail!("its table of results lacks a column; measure it again with this version");
    };
    let mut curves = Vec::new();
    for (over, at) in [("threads", threads), ("batch", batch)] {
        let mut groups: BTreeMap<String, Vec<Point>> = BTreeMap::new();
        for row in &table.rows {
            let point = match (&row[median], &row[batch], &row[at]) {
                (&Value::Integer(ns @ 1..), &Value::Integer(frames @ 1..), &Value::Integer(n)) => {
                    let n = u32::try_from(n).unwrap_or(0);
                    Point { n, throughput: frames as f64 * 1e9 / ns as f64 }
                }
                _ => continue,
            };
            let apart = |name: &str| column(name).map(|at| text(&row[at])).unwrap_or_default();
            let apart = |name: &str| match name {
                // The beginning of a hash tells as much.
                "network_sha256" => apart(name).chars().take(8).collect(),
                name => apart(name),
            };
            let mut words: Vec<String> = SUBJECT.iter().map(|name| apart(name)).collect();
            words.push(match over {
                "threads" => format!("batch {}", apart("batch")),
                _ => format!("{} threads", apart("threads")),
            });
            words.retain(|word| !word.is_empty());
            groups.entry(words.join(", ")).or_default().push(point);
        }
        curves.extend(groups.into_iter().filter_map(|(subject, points)| {
            curve(format!("{}: {subject}", file_name(file)), over, points)
        }));
    }
    Ok(curves)
}

/// Columns that tell curves apart, besides threads and batch.
const SUBJECT: [&str; 14] = [
    "network",
    "network_sha256",
    "height",
    "width",
    "engine",
    "precision",
    "picture",
    "preprocess",
    "filter",
    "upload",
    "jpeg_quality",
    "link",
    "agent",
    "hardware",
];

fn text(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.chars().take(40).collect(),
        _ => String::new(),
    }
}

/// A law of at least two different numbers.
fn curve(subject: String, over: &'static str, mut points: Vec<Point>) -> Option<Scaling> {
    points.sort_by_key(|point| point.n);
    points.chunk_by(|a, b| a.n == b.n).nth(1)?;
    let law = Law::fit(&points).ok()?;
    let points = points.iter().map(|point| Throughput {
        n: point.n,
        frames_per_second: point.throughput,
        fitted: law.throughput(point.n),
    });
    Some(Scaling {
        subject,
        over,
        lambda: law.lambda,
        sigma: law.sigma,
        kappa: law.kappa,
        peak: law.peak(),
        cross_validated_permille: law
            .cross_validated
            .map(|error| (error * 1000.0).round().min(1e15) as u64),
        points: points.collect(),
    })
}
