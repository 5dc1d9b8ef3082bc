//! The tables of `GRID.toml` as they stand there, and their check.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use cutline_core::{
    picture::Filter,
    units::{Bytes, Nanos},
    zoo,
};
use cutline_runtime::engine::MAX_THREADS;
use serde::Deserialize;

use super::{
    Agent, GridError, Impossible, LARGEST_BATCH, LONGEST, Link, MOST_MEMBERS, MOST_TURNS, Measure,
    Precision, Rule, Size, Source, VERSION, parse_engine, parse_link, parse_percent, parse_upload,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grid {
    version: u32,
    networks: Vec<Network>,
    sizes: Option<Vec<RawSize>>,
    batches: Option<Vec<u64>>,
    threads: Option<Vec<u32>>,
    engines: Option<Vec<String>>,
    precisions: Option<Vec<Precision>>,
    pictures: Option<Vec<PathBuf>>,
    preprocess: Option<String>,
    filters: Option<Vec<Filter>>,
    uploads: Option<Vec<String>>,
    links: Option<Vec<String>>,
    agents: Option<Vec<String>>,
    #[serde(default)]
    impossible: Impossible,
    #[serde(default)]
    measure: RawMeasure,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a name of the zoo, an ONNX file, or a table with `network`, or `name` and \
                 a file for each of `fp32`, `fp16`, `int8`, and perhaps `sizes`"
)]
enum Network {
    Short(String),
    Long(NetworkTable),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkTable {
    pub(crate) network: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) fp32: Option<PathBuf>,
    pub(crate) fp16: Option<PathBuf>,
    pub(crate) int8: Option<PathBuf>,
    pub(crate) sizes: Option<Vec<RawSize>>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "expected a number of pixels, or \"own\"")]
pub(crate) enum RawSize {
    Side(u32),
    Word(Own),
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Own {
    Own,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawMeasure {
    precision: String,
    confidence: String,
    min_turns: u64,
    max_turns: u64,
    runs_per_turn: u64,
    turn_time: String,
    time_limit: String,
    rest: String,
    memory: String,
    seed: u64,
}

impl Default for RawMeasure {
    fn default() -> Self {
        Self {
            precision: "2%".to_owned(),
            confidence: "95%".to_owned(),
            min_turns: 10,
            max_turns: 200,
            runs_per_turn: 5,
            turn_time: "500ms".to_owned(),
            time_limit: "60s".to_owned(),
            rest: "0ms".to_owned(),
            memory: "1GiB".to_owned(),
            seed: 0,
        }
    }
}

impl Grid {
    pub(super) fn check(self) -> Result<super::Grid, GridError> {
        if self.version != VERSION {
            return Err(GridError::Version(self.version));
        }
        let sizes = sizes(self.sizes)?;
        let networks = self.networks.into_iter().map(|network| network.check(&sizes));
        let networks: Vec<_> = networks.collect::<Result<_, _>>()?;
        unique("networks", networks.iter().map(|network| network.name.clone()))?;
        let has_pictures = self.pictures.is_some();
        for (key, given) in [
            ("preprocess", self.preprocess.is_some()),
            ("filters", self.filters.is_some()),
            ("uploads", self.uploads.is_some()),
        ] {
            if given && !has_pictures {
                return Err(GridError::Combination {
                    key,
                    problem: "says how pictures are treated, and there are none; give `pictures`",
                });
            }
        }
        let agents = members("agents", self.agents, vec!["local".to_owned()])?;
        let agents: Vec<Agent> = agents
            .into_iter()
            .map(|agent| if agent == "local" { Agent::Local } else { Agent::Remote(agent) })
            .collect();
        let is_local = !agents.iter().any(|agent| matches!(agent, Agent::Remote(_)));
        for (key, given) in [("links", self.links.is_some()), ("uploads", self.uploads.is_some())] {
            if given && is_local {
                return Err(GridError::Combination {
                    key,
                    problem: "says how pictures or tensors reach another device, and all cells \
                              compute here; give the address of an agent in `agents`",
                });
            }
        }
        let batches = members("batches", self.batches, vec![1])?;
        let (most, threads_most) = (LARGEST_BATCH, MAX_THREADS as u64);
        batches.iter().try_for_each(|&batch| bounded("batches", batch, 1, most))?;
        if has_pictures && batches != [1] {
            return Err(GridError::Combination {
                key: "batches",
                problem: "must be 1 where pictures are prepared; measure batches in a grid of \
                          their own, into the same file",
            });
        }
        let threads = members("threads", self.threads, vec![1])?;
        let checked = |&count: &u32| bounded("threads", count.into(), 1, threads_most);
        threads.iter().try_for_each(checked)?;
        let engines = members("engines", self.engines, vec!["rten".to_owned()])?;
        let links = members("links", self.links, vec!["real".to_owned()])?;
        let uploads = members("uploads", self.uploads, vec!["jpeg".to_owned()])?;
        let uploads: Vec<_> =
            uploads.iter().map(|text| parse_upload(text)).collect::<Result<_, _>>()?;
        unique("uploads", uploads.iter().map(ToString::to_string))?;
        let filters = members_as("filters", self.filters, vec![Filter::Bilinear], |f| {
            format!("{f:?}").to_lowercase()
        })?;
        let precisions =
            members_as("precisions", self.precisions, Vec::new(), |p| p.name().to_owned())?;
        let pictures = match self.pictures {
            Some(pictures) => {
                members_as("pictures", Some(pictures), vec![], |p| p.display().to_string())?
            }
            None => Vec::new(),
        };
        Ok(super::Grid {
            networks: not_empty("networks", networks)?,
            batches,
            threads,
            engines: engines.into_iter().map(parse_engine).collect::<Result<_, _>>()?,
            precisions,
            pictures,
            preprocess: self.preprocess,
            filters,
            uploads,
            links: links.iter().map(|text| parse_link(text)).collect::<Result<Vec<Link>, _>>()?,
            agents,
            impossible: self.impossible,
            measure: self.measure.check()?,
        })
    }
}

impl Network {
    fn check(self, default_sizes: &[Size]) -> Result<super::Network, GridError> {
        let table = match self {
            Network::Short(name) => NetworkTable { network: Some(name), ..Default::default() },
            Network::Long(table) => table,
        };
        table.check(default_sizes)
    }
}

impl NetworkTable {
    /// The network that it names, at its own sizes or else at these.
    pub(crate) fn check(self, default_sizes: &[Size]) -> Result<super::Network, GridError> {
        let table = self;
        let variants = [
            (Precision::Fp32, table.fp32),
            (Precision::Fp16, table.fp16),
            (Precision::Int8, table.int8),
        ];
        let files: BTreeMap<_, _> =
            variants.into_iter().filter_map(|(precision, file)| Some((precision, file?))).collect();
        let sizes = match table.sizes {
            Some(own) => sizes(Some(own))?,
            None => default_sizes.to_vec(),
        };
        let (name, source) = match (table.network, table.name) {
            (Some(network), None) if files.is_empty() => named(network)?,
            (None, Some(name)) if !files.is_empty() => (name, Source::Files(files)),
            (network, name) => {
                let network = network.or(name).unwrap_or_default();
                let problem = "give either `network`, the name of one of the zoo or an ONNX file, \
                               or `name` and a file for each of `fp32`, `fp16`, `int8`";
                return Err(GridError::Network { network, problem });
            }
        };
        Ok(super::Network { name, source, sizes })
    }
}

/// A network by its file, or by its name in the zoo.
fn named(network: String) -> Result<(String, Source), GridError> {
    let lower = network.to_lowercase();
    let is_file = [".onnx", ".tflite"].iter().any(|ending| lower.ends_with(ending));
    if network.contains(['/', '\\']) || is_file {
        let path = PathBuf::from(&network);
        return Ok((network, Source::File(path)));
    }
    match zoo::outline(&network, None) {
        // As the zoo spells it, or one network would have two names.
        Ok(model) => {
            Ok((model.graph.map_or(network, |graph| graph.name().to_owned()), Source::Zoo))
        }
        Err(source) => Err(GridError::Zoo { network, source }),
    }
}

pub(crate) fn sizes(given: Option<Vec<RawSize>>) -> Result<Vec<Size>, GridError> {
    let given = given.map(|sizes| {
        let size = |size: RawSize| match size {
            RawSize::Side(side) => Size::Side(side),
            RawSize::Word(Own::Own) => Size::Own,
        };
        sizes.into_iter().map(size).collect()
    });
    let sizes = members_as("sizes", given, vec![Size::Own], Size::to_string)?;
    for size in &sizes {
        if let Size::Side(side) = *size {
            bounded("sizes", side.into(), 1, 16_384)?;
        }
    }
    Ok(sizes)
}

impl RawMeasure {
    fn check(self) -> Result<Measure, GridError> {
        let precision_permille = parse_percent("precision", &self.precision)?;
        let confidence_permille = parse_percent("confidence", &self.confidence)?;
        bounded("min_turns", self.min_turns, 1, MOST_TURNS)?;
        bounded("max_turns", self.max_turns, self.min_turns, MOST_TURNS)?;
        bounded("runs_per_turn", self.runs_per_turn, 1, 999)?;
        if self.runs_per_turn.is_multiple_of(2) {
            return Err(GridError::Value {
                key: "runs_per_turn",
                value: self.runs_per_turn.to_string(),
                expected: "odd; of an even number of runs none is in the middle".to_owned(),
            });
        }
        let memory = self.memory.parse::<Bytes>().map_err(|_| GridError::Value {
            key: "memory",
            value: format!("`{}`", self.memory),
            expected: "a size such as `1GiB`".to_owned(),
        })?;
        Ok(Measure {
            rule: Rule {
                precision_permille,
                confidence_permille,
                min_turns: self.min_turns as usize,
                max_turns: self.max_turns as usize,
                time_limit: duration("time_limit", &self.time_limit)?,
            },
            runs_per_turn: self.runs_per_turn,
            turn_time: duration("turn_time", &self.turn_time)?,
            rest: duration("rest", &self.rest)?,
            memory,
            seed: self.seed,
        })
    }
}

fn duration(key: &'static str, text: &str) -> Result<Duration, GridError> {
    match text.parse::<Nanos>() {
        Ok(time) if time <= LONGEST => Ok(Duration::from_nanos(time.0)),
        _ => Err(GridError::Value {
            key,
            value: format!("`{text}`"),
            expected: "a duration of at most a day such as `500ms` or `60s`".to_owned(),
        }),
    }
}

fn bounded(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), GridError> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => {
            let expected = format!("from {least} to {most}");
            Err(GridError::Value { key, value: value.to_string(), expected })
        }
    }
}

/// The members of a list, or what stands for an absent one.
fn members<T: Clone + std::fmt::Debug>(
    key: &'static str,
    given: Option<Vec<T>>,
    default: Vec<T>,
) -> Result<Vec<T>, GridError> {
    members_as(key, given, default, |member| format!("{member:?}"))
}

pub(crate) fn members_as<T>(
    key: &'static str,
    given: Option<Vec<T>>,
    default: Vec<T>,
    name: impl Fn(&T) -> String,
) -> Result<Vec<T>, GridError> {
    let Some(given) = given else { return Ok(default) };
    unique(key, given.iter().map(name))?;
    not_empty(key, given)
}

pub(crate) fn not_empty<T>(key: &'static str, members: Vec<T>) -> Result<Vec<T>, GridError> {
    match members.len() {
        0 => Err(GridError::Empty(key)),
        count if count > MOST_MEMBERS => Err(GridError::Long { key, count }),
        _ => Ok(members),
    }
}

pub(crate) fn unique(
    key: &'static str,
    names: impl Iterator<Item = String>,
) -> Result<(), GridError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            return Err(GridError::Twice { key, value: format!("`{}`", name.trim_matches('"')) });
        }
    }
    Ok(())
}
