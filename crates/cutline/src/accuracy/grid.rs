//! `GRID.toml`: which networks, how they are cut and fed, and the pictures that they answer to.
//!
//! Every list is an axis, as in the grid of `cutline characterize`, whose words for networks, sizes,
//! precisions, filters and uploads are taken over. The file is deserialised into private raw tables
//! and parsed into a [`Grid`]; what needs a look at files is found out by [`cells`](super::cells).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cutline_core::{
    codec::CutEncoding,
    picture::{Filter, InputEncoding},
    units::Bytes,
};
use cutline_runtime::engine::{self, MAX_THREADS};
use serde::Deserialize;

use crate::{
    characterize::grid::{
        GridError, Impossible, MOST_CELLS, Network, NetworkTable, Precision, RawSize, Size, Upload,
        members_as, not_empty, parse_upload, sizes, unique,
    },
    inputs::PictureArgs,
};

/// Format version of the file.
const VERSION: u32 = 1;

/// A grid whose parts make sense by themselves.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) networks: Vec<Entry>,
    /// Empty: what each network has by itself.
    pub(super) precisions: Vec<Precision>,
    /// `None`: as the preparation has it.
    pub(super) filters: Vec<Option<Filter>>,
    pub(super) uploads: Vec<Upload>,
    pub(super) codecs: Vec<CutEncoding>,
    pub(super) engine: String,
    /// `None`: one for each core.
    pub(super) threads: Option<usize>,
    pub(super) pictures: PathBuf,
    pub(super) truth: Option<PathBuf>,
    pub(super) labels: Option<PathBuf>,
    /// `None`: the pictures themselves.
    pub(super) calibrate: Option<PathBuf>,
    pub(super) impossible: Impossible,
    /// Of what is kept from one pass over the pictures for the next.
    pub(super) memory: Bytes,
}

/// A network with what is said of it alone.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) network: Network,
    pub(super) cuts: Vec<At>,
    pub(super) preprocess: PictureArgs,
}

/// Where a network is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Nowhere: all of it on one device.
    Whole,
    /// At a candidate cut before which about this share of the multiply-accumulates is, in millionths.
    Share(u32),
    /// At these values.
    Values(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    networks: Vec<RawNetwork>,
    sizes: Option<Vec<RawSize>>,
    precisions: Option<Vec<Precision>>,
    filters: Option<Vec<Filter>>,
    uploads: Option<Vec<String>>,
    cuts: Option<Vec<RawCut>>,
    codecs: Option<Vec<String>>,
    engine: Option<String>,
    threads: Option<usize>,
    pictures: PathBuf,
    truth: Option<PathBuf>,
    labels: Option<PathBuf>,
    calibrate: Option<PathBuf>,
    preprocess: Option<String>,
    #[serde(default)]
    impossible: Impossible,
    memory: Option<String>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a name of the zoo, an ONNX file, or a table with `network`, or `name` and \
                 a file for each of `fp32`, `fp16`, `int8`, and perhaps `sizes`, `cuts`, `preprocess`"
)]
enum RawNetwork {
    Short(String),
    Long(Box<RawTable>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    network: Option<String>,
    name: Option<String>,
    fp32: Option<PathBuf>,
    fp16: Option<PathBuf>,
    int8: Option<PathBuf>,
    sizes: Option<Vec<RawSize>>,
    cuts: Option<Vec<RawCut>>,
    preprocess: Option<String>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"whole\", a share of the multiply-accumulates such as \"25%\", values \
                 joined by commas, or a table with `at` or `values`"
)]
enum RawCut {
    Text(String),
    Share(RawShare),
    Values(RawValues),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawShare {
    at: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawValues {
    values: Vec<String>,
}

impl Grid {
    /// The grid in a file's text; relative paths in it start at `folder`.
    pub(super) fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let raw: Raw = toml::from_str(text)?;
        if raw.version != VERSION {
            return Err(GridError::Version(raw.version).into());
        }
        let given = Shared {
            sizes: sizes(raw.sizes)?,
            cuts: cuts(raw.cuts, &[At::Whole])?,
            preprocess: raw.preprocess,
            folder,
        };
        let networks = raw.networks.into_iter().map(|network| given.entry(network));
        let networks: Vec<Entry> = networks.collect::<anyhow::Result<_>>()?;
        unique("networks", networks.iter().map(|entry| entry.network.name.clone()))?;
        let precisions =
            members_as("precisions", raw.precisions, Vec::new(), |p| p.name().to_owned())?;
        let filters = members_as("filters", raw.filters, Vec::new(), |f| format!("{f:?}"))?;
        let path = |path: PathBuf| folder.join(path);
        let grid = Self {
            networks: not_empty("networks", networks)?,
            precisions,
            filters: match filters.is_empty() {
                true => vec![None],
                false => filters.into_iter().map(Some).collect(),
            },
            uploads: uploads(raw.uploads)?,
            codecs: codecs(raw.codecs)?,
            engine: engine_name(raw.engine)?,
            threads: threads(raw.threads)?,
            pictures: path(raw.pictures),
            truth: raw.truth.map(path),
            labels: raw.labels.map(path),
            calibrate: raw.calibrate.map(path),
            impossible: raw.impossible,
            memory: memory(raw.memory.as_deref().unwrap_or("1GiB"))?,
        };
        match grid.cells() {
            count if count > MOST_CELLS => Err(GridError::Cells(count).into()),
            _ => Ok(grid),
        }
    }

    /// How many cells there are if every combination is possible.
    fn cells(&self) -> u64 {
        let fed = (self.precisions.len().max(1) * self.filters.len()) as u64;
        let of = |entry: &Entry| {
            let cells = entry.cuts.iter().map(|cut| match cut {
                At::Whole => 1 + self.uploads.len() as u64,
                _ => self.codecs.len() as u64,
            });
            fed * entry.network.sizes.len() as u64 * cells.sum::<u64>()
        };
        self.networks.iter().map(of).fold(0, u64::saturating_add)
    }
}

/// What holds for every network that does not say otherwise.
struct Shared<'a> {
    sizes: Vec<Size>,
    cuts: Vec<At>,
    preprocess: Option<String>,
    folder: &'a Path,
}

impl Shared<'_> {
    fn entry(&self, raw: RawNetwork) -> anyhow::Result<Entry> {
        let table = match raw {
            RawNetwork::Short(name) => RawTable { network: Some(name), ..RawTable::default() },
            RawNetwork::Long(table) => *table,
        };
        let RawTable { network, name, fp32, fp16, int8, sizes, cuts: own, preprocess } = table;
        let table = NetworkTable { network, name, fp32, fp16, int8, sizes };
        let mut network = table.check(&self.sizes)?;
        network.source.start_at(self.folder);
        let cuts = cuts(own, &self.cuts).with_context(|| format!("network `{}`", network.name))?;
        let preprocess = preprocess.or_else(|| self.preprocess.clone());
        let preprocess = preprocess.map(|name| match name.ends_with(".toml") {
            true => self.folder.join(&name).display().to_string(),
            false => name,
        });
        Ok(Entry { network, cuts, preprocess: PictureArgs { preprocess } })
    }
}

fn cuts(raw: Option<Vec<RawCut>>, default: &[At]) -> anyhow::Result<Vec<At>> {
    let Some(raw) = raw else { return Ok(default.to_vec()) };
    let cuts: Vec<At> = raw.into_iter().map(cut).collect::<anyhow::Result<_>>()?;
    unique("cuts", cuts.iter().map(|cut| format!("{cut:?}")))?;
    Ok(not_empty("cuts", cuts)?)
}

fn cut(raw: RawCut) -> anyhow::Result<At> {
    let values = match raw {
        RawCut::Share(RawShare { at }) => return share(&at),
        RawCut::Text(text) if text == "whole" => return Ok(At::Whole),
        RawCut::Text(text) if is_share(&text) => return share(&text),
        RawCut::Text(text) => text.split(',').map(|value| value.trim().to_owned()).collect(),
        RawCut::Values(RawValues { values }) => values,
    };
    match values.iter().all(|value| !value.is_empty()) && !values.is_empty() {
        true => Ok(At::Values(values)),
        false => bail!("`cuts`: a cut names at least one value, and none is called nothing"),
    }
}

fn is_share(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|number| number.trim().parse::<f64>().is_ok())
}

fn share(text: &str) -> anyhow::Result<At> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if percent > 0.0 && percent < 100.0 => {
            Ok(At::Share((percent * 10_000.0).round() as u32))
        }
        _ => bail!("`cuts`: `{text}` is no share such as `25%`, more than 0 and less than 100 %"),
    }
}

fn uploads(raw: Option<Vec<String>>) -> Result<Vec<Upload>, GridError> {
    let raw =
        members_as("uploads", raw, vec![InputEncoding::Jpeg.name().to_owned()], String::clone)?;
    let uploads: Vec<Upload> =
        raw.iter().map(|text| parse_upload(text)).collect::<Result<_, _>>()?;
    unique("uploads", uploads.iter().map(ToString::to_string))?;
    Ok(uploads)
}

fn codecs(raw: Option<Vec<String>>) -> anyhow::Result<Vec<CutEncoding>> {
    let raw = members_as("codecs", raw, vec![CutEncoding::Fp32.name().to_owned()], String::clone)?;
    let codec = |text: &String| match text.as_str() {
        "none" => Ok(CutEncoding::Fp32),
        name => name.parse::<CutEncoding>().context("`codecs`"),
    };
    let codecs: Vec<CutEncoding> = raw.iter().map(codec).collect::<anyhow::Result<_>>()?;
    unique("codecs", codecs.iter().map(ToString::to_string))?;
    Ok(codecs)
}

fn engine_name(raw: Option<String>) -> anyhow::Result<String> {
    let name = raw.unwrap_or_else(|| engine::NAMES[0].to_owned());
    match engine::NAMES.contains(&name.as_str()) {
        true => Ok(name),
        false => bail!("`engine`: there is no `{name}`; there are {}", engine::NAMES.join(", ")),
    }
}

fn threads(raw: Option<usize>) -> anyhow::Result<Option<usize>> {
    match raw {
        Some(threads) if !(1..=MAX_THREADS).contains(&threads) => {
            bail!("`threads` = {threads}; give 1 to {MAX_THREADS}")
        }
        threads => Ok(threads),
    }
}

fn memory(text: &str) -> anyhow::Result<Bytes> {
    let memory = text.parse::<Bytes>();
    memory.map_err(|_| anyhow::anyhow!("`memory`: `{text}` is no size such as `1GiB`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &str) -> anyhow::Result<Grid> {
        let text = format!("version = 1\npictures = \"photos\"\n{lines}");
        Grid::parse(&text, Path::new("there"))
    }

    #[test]
    fn a_grid_of_two_lines_has_sensible_defaults() {
        let grid = parse("networks = [\"lenet5\"]").unwrap();
        assert_eq!(grid.networks[0].cuts, [At::Whole]);
        assert_eq!(grid.pictures, Path::new("there/photos"));
        assert_eq!((grid.codecs, grid.filters), (vec![CutEncoding::Fp32], vec![None]));
        assert_eq!(grid.uploads.iter().map(ToString::to_string).collect::<Vec<_>>(), ["jpeg:85"]);
        assert_eq!((grid.engine.as_str(), grid.memory), ("rten", Bytes(1 << 30)));
    }

    #[test]
    fn cuts_are_nowhere_or_at_shares_or_at_values() {
        let cuts =
            "cuts = [\"whole\", \"25%\", \"a, b\", { at = \"0.5%\" }, { values = [\"50%\"] }]";
        let grid = parse(&format!(
            "networks = [\"lenet5\", {{ network = \"own.onnx\", cuts = [\"x\"] }}]\n{cuts}"
        ))
        .unwrap();
        let values =
            |names: &[&str]| At::Values(names.iter().map(|name| (*name).to_owned()).collect());
        let expected = [
            At::Whole,
            At::Share(250_000),
            values(&["a", "b"]),
            At::Share(5_000),
            values(&["50%"]),
        ];
        assert_eq!(grid.networks[0].cuts, expected);
        assert_eq!(grid.networks[1].cuts, [values(&["x"])], "a network may have cuts of its own");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let one = "networks = [\"lenet5\"]\n";
        let cases = [
            ("networks = []", "`networks` is empty"),
            ("networks = [\"lenet6\"]", "`lenet6`"),
            ("networks = [\"lenet5\", \"lenet5\"]", "twice"),
            (&format!("{one}cuts = [\"0%\"]"), "`0%` is no share"),
            (&format!("{one}cuts = [\"a,,b\"]"), "called nothing"),
            (&format!("{one}cuts = [\"50%\", \"50%\"]"), "twice"),
            (&format!("{one}codecs = [\"bits3\"]"), "`bits3`"),
            (&format!("{one}codecs = [\"none\", \"fp32\"]"), "twice"),
            (&format!("{one}uploads = [\"jpeg:0\"]"), "`jpeg:0`"),
            (&format!("{one}engine = \"tract\""), "`tract`"),
            (&format!("{one}threads = 0"), "`threads` = 0"),
            (&format!("{one}memory = \"much\""), "`much`"),
            (&format!("{one}colour = 1"), "colour"),
        ];
        for (lines, words) in cases {
            let error = format!("{:#}", parse(lines).unwrap_err());
            assert!(error.contains(words), "{lines}: {error}");
        }
        let error = Grid::parse("version = 2\nnetworks = []\npictures = \"p\"", Path::new(""));
        assert!(error.unwrap_err().to_string().contains("version"));
    }

    #[test]
    fn a_grid_of_too_many_cells_is_refused() {
        let lines = |most: u32| {
            let shares: Vec<String> =
                (1..=most).map(|at| format!("\"{}%\"", at as f64 / 20.0)).collect();
            format!(
                "networks = [\"lenet5\"]\nsizes = [{}]\ncodecs = [\"none\", \"fp16\"]\ncuts = [{}]",
                (28..33).map(|side| side.to_string()).collect::<Vec<_>>().join(", "),
                shares.join(", ")
            )
        };
        assert!(parse(&lines(1000)).is_ok(), "5 x 1000 x 2 cells are as many as there may be");
        let error = parse(&lines(1000).replace("\"fp16\"", "\"fp16\", \"uint8\"")).unwrap_err();
        assert!(error.to_string().contains("15000 cells"), "{error}");
    }
}
