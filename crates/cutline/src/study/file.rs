//! `STUDY.toml`: which networks at which sizes, on which boards and instances, at which bandwidths.
//!
//! Boards, instances and the link are written as in the workload file of `cutline size`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cutline_core::{
    codec::CutEncoding,
    picture::InputEncoding,
    units::{BytesPerSec, Money},
};
use serde::Deserialize;

use crate::sizing::workload::{
    Device, Link, Named, RawDevice, RawLink, Source, device, entries, parse_link, quantity, rented,
};

/// The study that is run without a file.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// Format version of the file.
const VERSION: u32 = 1;
/// Most rates, and most sizes of a network.
const MOST: usize = 100;
/// Most cells: networks and sizes x boards x instances x rates.
const MOST_CELLS: usize = 200_000;
/// Rates where a file names none: 1, 2 and 5 of every power of ten from 0.1 to 1000 Mbit/s.
const RATES: [&str; 13] = [
    "100kbit", "200kbit", "500kbit", "1mbit", "2mbit", "5mbit", "10mbit", "20mbit", "50mbit",
    "100mbit", "200mbit", "500mbit", "1gbit",
];

/// A file that makes sense by itself.
#[derive(Debug)]
pub(crate) struct Study {
    pub(crate) networks: Vec<Network>,
    pub(crate) boards: Vec<Device>,
    pub(crate) instances: Vec<Device>,
    /// Its rates are varied together.
    pub(crate) link: Link,
    /// Rates up, ascending.
    pub(crate) rates: Vec<BytesPerSec>,
    /// Lossy encodings that are allowed besides those that lose nothing.
    pub(crate) inputs: Vec<String>,
    pub(crate) codecs: Vec<String>,
    pub(crate) users: u64,
    pub(crate) frames_per_second: String,
    pub(crate) electricity: Option<String>,
    pub(crate) currency: String,
}

/// A network with the sizes at which it is looked at.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) source: Source,
    /// Rows and columns of its picture; empty: the usual ones.
    pub(crate) sizes: Vec<u32>,
}

impl Named for Network {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    study: RawStudy,
    #[serde(default)]
    link: Option<RawLink>,
    #[serde(default)]
    network: Vec<RawNetwork>,
    #[serde(default)]
    board: Vec<RawDevice>,
    #[serde(default)]
    instance: Vec<RawDevice>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStudy {
    users: Option<u64>,
    frames_per_second: Option<String>,
    electricity: Option<String>,
    currency: Option<String>,
    bandwidths: Option<Vec<String>>,
    #[serde(default)]
    input_encodings: Vec<String>,
    #[serde(default)]
    cut_encodings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    name: Option<String>,
    model: Option<PathBuf>,
    zoo: Option<String>,
    costs: Option<PathBuf>,
    #[serde(default)]
    input_sizes: Vec<u32>,
}

impl Study {
    /// Parses the file; paths of networks are relative to `folder`. Networks that are named on the
    /// command line take the place of those of the file.
    pub(crate) fn parse(text: &str, folder: &Path, instead: &[String]) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        if file.version != VERSION {
            bail!("version {} is not known; this program reads version {VERSION}", file.version);
        }
        let networks = match instead {
            [] => entries("network", file.network, |raw| network(raw, folder))?,
            names => entries("network", names.to_vec(), |name| Ok(named(&name, names)))?,
        };
        let link = match file.link {
            Some(link) => parse_link(link).context("[link]")?,
            None => parse_link(toml::from_str("up = \"20mbit\"\ndelay = \"10ms\"")?)?,
        };
        if link.replay.is_some() {
            bail!("[link] a study takes rates as constant and replays none; `cutline size` does");
        }
        let raw = file.study;
        let context = || "[study]";
        for name in &raw.input_encodings {
            quantity::<InputEncoding>("input_encodings", name).with_context(context)?;
        }
        for name in &raw.cut_encodings {
            quantity::<CutEncoding>("cut_encodings", name).with_context(context)?;
        }
        if let Some(text) = &raw.electricity {
            quantity::<Money>("electricity", text).with_context(context)?;
        }
        let study = Self {
            networks,
            boards: entries("board", file.board, |board| device("board", board))?,
            instances: entries("instance", file.instance, rented)?,
            link,
            rates: rates(raw.bandwidths.as_deref()).with_context(context)?,
            inputs: raw.input_encodings,
            codecs: raw.cut_encodings,
            users: raw.users.unwrap_or(5000),
            frames_per_second: raw.frames_per_second.unwrap_or_else(|| "1".to_owned()),
            electricity: raw.electricity,
            currency: raw.currency.unwrap_or_default(),
        };
        study.check()?;
        Ok(study)
    }

    fn check(&self) -> anyhow::Result<()> {
        let lists = [
            ("network", self.networks.len()),
            ("board", self.boards.len()),
            ("instance", self.instances.len()),
        ];
        if let Some((table, _)) = lists.iter().find(|(_, count)| *count == 0) {
            bail!("there is no [[{table}]]; give at least one");
        }
        if self.users == 0 {
            bail!("[study]: `users` = 0; give at least one");
        }
        let rate = quantity::<Money>("frames_per_second", &self.frames_per_second);
        if rate.context("[study]")? == Money::ZERO {
            bail!("[study]: `frames_per_second` = 0; users who send nothing need nothing");
        }
        for board in &self.boards {
            if self.instances.iter().any(|instance| instance.name == board.name) {
                bail!(
                    "a [[board]] and an [[instance]] are both `{}`; give one a `name`",
                    board.name
                );
            }
        }
        let networks: usize = self.networks.iter().map(|one| one.sizes.len().max(1)).sum();
        let places = networks * self.boards.len() * self.instances.len();
        if places * self.rates.len() > MOST_CELLS {
            bail!(
                "{networks} networks and sizes x {} boards x {} instances x {} bandwidths are more than {MOST_CELLS} cells; name fewer",
                self.boards.len(),
                self.instances.len(),
                self.rates.len()
            );
        }
        Ok(())
    }
}

/// Rates, ascending and each once.
fn rates(named: Option<&[String]>) -> anyhow::Result<Vec<BytesPerSec>> {
    let all = RATES.map(str::to_owned);
    let named = named.unwrap_or(&all);
    if named.is_empty() || named.len() > MOST {
        bail!("`bandwidths` names {} rates; give 1 to {MOST}", named.len());
    }
    let mut rates = Vec::with_capacity(named.len());
    for text in named {
        let rate: BytesPerSec = quantity("bandwidths", text)?;
        if rate == BytesPerSec::ZERO {
            bail!("`bandwidths`: nothing is ever sent at `{text}`; give a rate above 0");
        }
        rates.push(rate);
    }
    rates.sort_unstable();
    rates.dedup();
    Ok(rates)
}

fn network(raw: RawNetwork, folder: &Path) -> anyhow::Result<Network> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (default, source) = match (raw.model, raw.zoo, raw.costs) {
        (Some(model), None, None) => (stem(&model), Source::Model(folder.join(model))),
        (None, Some(zoo), None) => (zoo.clone(), Source::Zoo { name: zoo, input_size: None }),
        (None, None, Some(costs)) => (stem(&costs), Source::Costs(folder.join(costs))),
        _ => bail!("give one of `model` (an ONNX file), `zoo` (a name) and `costs` (a table)"),
    };
    if matches!(source, Source::Costs(_)) && !raw.input_sizes.is_empty() {
        bail!("a table of costs has one size; leave `input_sizes` out");
    }
    let mut sizes = raw.input_sizes;
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() > MOST {
        bail!("`input_sizes` names {} sizes; give at most {MOST}", sizes.len());
    }
    Ok(Network { name: raw.name.unwrap_or(default), source, sizes })
}

/// A network of the command line: a file where it looks like one, else a name of the zoo. Files that
/// differ in their folder or ending alone have their whole name.
fn named(name: &str, all: &[String]) -> Network {
    let path = Path::new(name);
    let is_file = path.extension().is_some() || name.contains('/');
    match is_file {
        true => {
            let same = |other: &&String| Path::new(other).file_stem() == path.file_stem();
            let whole = if all.iter().filter(same).count() > 1 { path.file_name() } else { None };
            let name = whole.or(path.file_stem()).unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            Network { name, source: Source::Model(path.to_owned()), sizes: Vec::new() }
        }
        false => {
            let (name, size) = match name.split_once(':') {
                Some((name, size)) => (name, size.parse().ok()),
                None => (name, None),
            };
            let source = Source::Zoo { name: name.to_owned(), input_size: None };
            Network { name: name.to_owned(), source, sizes: size.into_iter().collect() }
        }
    }
}
