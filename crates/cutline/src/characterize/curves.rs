//! Curves of a sweep: throughput of cells that differ in one number alone, with the Universal
//! Scalability Law fitted to them.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::ValueEnum;
use cutline_core::scaling::{Law, Point};
use serde::Serialize;

use super::results::Results;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    /// Threads of the engine.
    Threads,
    /// Frames computed at once.
    Batch,
    /// Agents that share the frames.
    Replicas,
}

pub(crate) const AXES: [Axis; 3] = [Axis::Threads, Axis::Batch, Axis::Replicas];

/// Columns that say what a cell is; a file may lack any.
pub(crate) const SETTINGS: [&str; 19] = [
    "network",
    "precision",
    "height",
    "width",
    "engine",
    "engine_version",
    "threads",
    "batch",
    "replicas",
    "picture",
    "preprocess",
    "filter",
    "upload",
    "jpeg_quality",
    "link",
    "agent",
    "hardware",
    "network_sha256",
    "picture_sha256",
];

/// Settings that nobody reads.
pub(crate) const HASHES: [&str; 2] = ["network_sha256", "picture_sha256"];

/// Throughput over one number, with its law.
#[derive(Debug)]
pub(crate) struct Curve {
    /// What grows.
    pub(crate) over: Axis,
    /// What the cells have in common, by column.
    pub(crate) of: BTreeMap<&'static str, String>,
    /// In rising order of the number.
    pub(crate) points: Vec<Point>,
    pub(crate) law: Law,
}

impl Curve {
    /// What the cells have in common, in words.
    pub(crate) fn subject(&self) -> String {
        let told = SETTINGS.iter().filter(|name| !HASHES.contains(name));
        let words = told.filter_map(|name| {
            let value = self.of.get(name)?;
            // Bare numbers say nothing.
            Some(match value.parse::<u64>() {
                Ok(_) => format!("{name} {value}"),
                Err(_) => value.clone(),
            })
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

impl Axis {
    /// The column, and how it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Batch => "batch",
            Self::Replicas => "replicas",
        }
    }
}

/// All curves over this: a law each, of two different numbers and more.
pub(crate) fn curves(results: &Results, axis: Axis) -> anyhow::Result<Vec<Curve>> {
    let Some(place) = results.column(axis.name()) else { return Ok(Vec::new()) };
    let others: Vec<(&'static str, usize)> = SETTINGS
        .iter()
        .filter(|name| **name != axis.name())
        .filter_map(|name| Some((*name, results.column(name)?)))
        .collect();
    let mut groups: BTreeMap<Vec<&str>, Vec<Point>> = BTreeMap::new();
    for (number, row) in (2..).zip(&results.rows) {
        let throughput = throughput(results, row, axis).with_context(|| format!("row {number}"))?;
        let Some(throughput) = throughput else { continue };
        let n = row[place].parse().with_context(|| {
            format!("row {number}: `{}` is no number of {}", row[place], axis.name())
        })?;
        let key = others.iter().map(|(_, at)| row[*at].as_str()).collect();
        groups.entry(key).or_default().push(Point { n, throughput });
    }
    let grows = |points: &[Point]| points.iter().any(|point| point.n != points[0].n);
    let groups = groups.into_iter().filter(|(_, points)| grows(points));
    groups
        .map(|(key, mut points)| {
            points.sort_by_key(|point| point.n);
            let of = others.iter().zip(key).map(|((name, _), value)| (*name, value.to_owned()));
            let law = Law::fit(&points)?;
            let of = of.filter(|(_, value)| !value.is_empty()).collect();
            Ok(Curve { over: axis, of, points, law })
        })
        .collect()
}

/// Frames per second of a row; `None` of a cell without a result.
fn throughput(results: &Results, row: &[String], axis: Axis) -> anyhow::Result<Option<f64>> {
    let number = |name: &str| -> anyhow::Result<Option<f64>> {
        match results.column(name).map(|at| row[at].trim()) {
            None | Some("") => Ok(None),
            Some(text) => match text.parse::<f64>() {
                Ok(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
                _ => bail!("`{text}` in column `{name}` is no number above 0"),
            },
        }
    };
    if results.column("throughput").is_some() {
        return number("throughput");
    }
    if axis == Axis::Replicas {
        bail!("replicas need a column `throughput`, in frames a second");
    }
    if results.column("median_ns").is_none() {
        bail!("there is neither a column `throughput` nor `median_ns`");
    }
    let batch = number("batch")?.unwrap_or(1.0);
    Ok(number("median_ns")?.map(|median| batch * 1e9 / median))
}
