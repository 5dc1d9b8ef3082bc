//! `GRID.toml`: what is to be measured, and how exactly.
//!
//! Every list is an axis; cells are all combinations that make sense. The file is deserialised into
//! a private raw form and parsed into a [`Grid`] whose lists are neither empty nor have a member
//! twice. What needs a look at files is found out by [`cells`](super::cells).

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use cutline_core::{
    picture::{Filter, InputEncoding},
    preset::Presets,
    units::{Bytes, BytesPerSec, Nanos},
    zoo,
};
use cutline_runtime::engine;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::schedule::Rule;

mod raw;

pub(crate) use raw::{NetworkTable, RawSize, members_as, not_empty, sizes, unique};

/// Format version of the file.
const VERSION: u32 = 1;

/// Most cells of a grid.
pub(crate) const MOST_CELLS: u64 = 10_000;

/// Most members of one list.
const MOST_MEMBERS: usize = 1_000;

/// Largest batch.
const LARGEST_BATCH: u64 = 1_024;

/// Most turns of a cell.
const MOST_TURNS: u64 = 10_000;

/// Longest time that anything in the file may be.
const LONGEST: Nanos = Nanos(24 * 3_600 * 1_000_000_000);

/// A grid whose parts make sense by themselves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grid {
    pub(crate) networks: Vec<Network>,
    pub(crate) batches: Vec<u64>,
    pub(crate) threads: Vec<u32>,
    pub(crate) engines: Vec<String>,
    /// Empty: what each network has by itself.
    pub(crate) precisions: Vec<Precision>,
    /// Empty: networks are fed random numbers.
    pub(crate) pictures: Vec<PathBuf>,
    /// How a picture becomes the input, as `--preprocess` takes it.
    pub(crate) preprocess: Option<String>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) uploads: Vec<Upload>,
    pub(crate) links: Vec<Link>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) impossible: Impossible,
    pub(crate) measure: Measure,
}

/// A network and the sizes at which it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) sizes: Vec<Size>,
}

/// Where a network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Zoo,
    /// A file whose precision is seen from its weights.
    File(PathBuf),
    /// A file for each precision.
    Files(BTreeMap<Precision, PathBuf>),
}

impl Source {
    /// Makes relative paths start at a folder.
    pub(crate) fn start_at(&mut self, folder: &std::path::Path) {
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        match self {
            Source::Zoo => {}
            Source::File(path) => absolute(path),
            Source::Files(files) => files.values_mut().for_each(absolute),
        }
    }
}

/// Rows and columns of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// As the network has it.
    Own,
    Side(u32),
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Own => f.write_str("own"),
            Size::Side(side) => side.fmt(f),
        }
    }
}

/// Numeric type in which a network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    Fp32,
    Fp16,
    Int8,
}

impl Precision {
    /// Its name in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

/// How a picture is sent to a remote agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) encoding: InputEncoding,
    /// Of `jpeg`.
    pub(crate) quality: Option<u8>,
}

impl fmt::Display for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quality {
            Some(quality) => write!(f, "{}:{quality}", self.encoding),
            None => self.encoding.fmt(f),
        }
    }
}

/// What lies between here and a remote agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Whatever there is.
    Real,
    /// A simulated link in front of it.
    Simulated { name: String, up: BytesPerSec, down: BytesPerSec, delay: Nanos },
}

/// Where a cell computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// In this process.
    Local,
    /// At this address.
    Remote(String),
}

/// What becomes of combinations that cannot be, such as a size that a network does not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Impossible {
    #[default]
    Refuse,
    Skip,
}

/// How exactly to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) rule: Rule,
    /// Most runs that a turn counts; odd.
    pub(crate) runs_per_turn: u64,
    /// A turn counts fewer runs where they would take longer than this.
    pub(crate) turn_time: Duration,
    /// Rest before each run.
    pub(crate) rest: Duration,
    /// Size of the model files that stay loaded between turns.
    pub(crate) memory: Bytes,
    pub(crate) seed: u64,
}

/// What is wrong with a grid.
#[derive(Debug, Error)]
pub(crate) enum GridError {
    #[error("`version` is {0}; this build reads version {VERSION}")]
    Version(u32),
    #[error("`{0}` is empty; give it at least one member, or leave it out")]
    Empty(&'static str),
    #[error("`{key}` has {value} twice")]
    Twice { key: &'static str, value: String },
    #[error("`{key}` has {count} members, more than {MOST_MEMBERS}")]
    Long { key: &'static str, count: usize },
    #[error("`{key}`: {value} is not {expected}")]
    Value { key: &'static str, value: String, expected: String },
    #[error("network `{network}`: {problem}")]
    Network { network: String, problem: &'static str },
    #[error("network `{network}` is not there")]
    Zoo { network: String, source: zoo::ZooError },
    #[error("`{key}` {problem}")]
    Combination { key: &'static str, problem: &'static str },
    #[error(
        "the grid has {0} cells, more than {MOST_CELLS}; measure a part of it at a time, into the same file"
    )]
    Cells(u64),
    #[error("cannot read the grid")]
    Toml(#[from] toml::de::Error),
}

impl Grid {
    /// The grid in a file's text; relative paths in it start at `folder`.
    pub(crate) fn parse(text: &str, folder: &std::path::Path) -> Result<Self, GridError> {
        let raw: raw::Grid = toml::from_str(text)?;
        let mut grid = raw.check()?;
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        grid.pictures.iter_mut().for_each(absolute);
        grid.networks.iter_mut().for_each(|network| network.source.start_at(folder));
        if let Some(file) = grid.preprocess.as_mut().filter(|name| name.ends_with(".toml")) {
            *file = folder.join(&*file).display().to_string();
        }
        match grid.cells() {
            count if count > MOST_CELLS => Err(GridError::Cells(count)),
            _ => Ok(grid),
        }
    }

    /// How many cells there are if every combination is possible.
    pub(crate) fn cells(&self) -> u64 {
        let product = |factors: &[usize]| {
            factors.iter().fold(1u64, |product, &factor| product.saturating_mul(factor as u64))
        };
        let sizes: usize = self.networks.iter().map(|network| network.sizes.len()).sum();
        let remote = self.remotes().count();
        let uploads = if self.pictures.is_empty() { 1 } else { self.uploads.len() };
        let places = (self.agents.len() - remote) + remote * self.links.len() * uploads;
        let pictures = if self.pictures.is_empty() { 1 } else { self.pictures.len() };
        let (batches, threads) = (self.batches.len(), self.threads.len());
        let (engines, precisions) = (self.engines.len(), self.precisions.len().max(1));
        let filters = if self.pictures.is_empty() { 1 } else { self.filters.len() };
        product(&[sizes, batches, threads, engines, precisions, pictures, filters, places])
    }

    /// The addresses among the agents.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().filter_map(|agent| match agent {
            Agent::Local => None,
            Agent::Remote(address) => Some(address.as_str()),
        })
    }
}

/// A link by the name of its preset, as `RATE DELAY` or `RATE`, or the real one.
fn parse_link(text: &str) -> Result<Link, GridError> {
    if text == "real" {
        return Ok(Link::Real);
    }
    let name = text.to_owned();
    if let Some(preset) = Presets::builtin().link(text) {
        let down = preset.down.as_ref().unwrap_or(&preset.up).value;
        let delay = preset.delay.as_ref().map_or(Nanos::ZERO, |delay| delay.value);
        return Ok(Link::Simulated { name, up: preset.up.value, down, delay });
    }
    let (rate, delay) = text.split_once(' ').unwrap_or((text, "0ms"));
    match (rate.parse::<BytesPerSec>(), delay.parse::<Nanos>()) {
        (Ok(up), Ok(delay)) if up.0 > 0 && delay <= LONGEST => {
            Ok(Link::Simulated { name, up, down: up, delay })
        }
        _ => Err(GridError::Value {
            key: "links",
            value: format!("`{text}`"),
            expected: "`real`, a link of `cutline presets`, or a rate and a delay such as \
                       `20mbit 10ms`"
                .to_owned(),
        }),
    }
}

pub(crate) fn parse_upload(text: &str) -> Result<Upload, GridError> {
    let (name, quality) = match text.split_once(':') {
        Some((name, quality)) => (name, Some(quality.parse::<u8>().ok())),
        None => (text, None),
    };
    let jpeg = InputEncoding::Jpeg;
    match (name.parse::<InputEncoding>(), quality) {
        (Ok(encoding), Some(Some(quality @ 1..=100))) if encoding == jpeg => {
            Ok(Upload { encoding, quality: Some(quality) })
        }
        (Ok(encoding), None) => {
            let quality = (encoding == jpeg).then_some(cutline_core::picture::JPEG_QUALITY);
            Ok(Upload { encoding, quality })
        }
        _ => Err(GridError::Value {
            key: "uploads",
            value: format!("`{text}`"),
            expected: "`jpeg:QUALITY` with a quality of 1 to 100, `jpeg`, `uint8` or `fp32`"
                .to_owned(),
        }),
    }
}

pub(crate) fn parse_engine(name: String) -> Result<String, GridError> {
    match engine::NAMES.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(GridError::Value {
            key: "engines",
            value: format!("`{name}`"),
            expected: format!("an engine; there are {}", engine::NAMES.join(" and ")),
        }),
    }
}

/// A share such as `2%` or `0.5%` in thousandths.
fn parse_percent(key: &'static str, text: &str) -> Result<u32, GridError> {
    let number = text.strip_suffix('%').and_then(|text| text.trim().parse::<f64>().ok());
    let permille = number.map(|percent| (percent * 10.0).round());
    match permille {
        Some(permille) if (1.0..1000.0).contains(&permille) => Ok(permille as u32),
        _ => Err(GridError::Value {
            key,
            value: format!("`{text}`"),
            expected: "a share from 0.1 to 99.9 % such as `2%`".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
