//! `WORKLOAD.toml`: what is to be served, by what it may be served.
//!
//! The tables as they stand in the file are private; [`Workload`] is what they mean.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, bail};
use cutline_core::{
    codec::CutEncoding,
    picture::InputEncoding,
    simulate::Arrivals,
    size::{Demand, Kind},
    units::{Money, Nanos},
};
use serde::{Deserialize, Serialize};

use super::accuracy;

/// Format version of the file.
const VERSION: u32 = 1;
/// Most entries of a list.
const MOST_ENTRIES: usize = 100;

/// A file that makes sense by itself.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) demand: Demand,
    /// Least accuracy, in millionths.
    pub(crate) accuracy_ppm: Option<u32>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) include_idle: bool,
    pub(crate) networks: Vec<Network>,
    pub(crate) boards: Vec<Device>,
    pub(crate) instances: Vec<Device>,
    pub(crate) links: Vec<Link>,
    /// `[workload]` of a platform file.
    pub(crate) platform: serde_json::Value,
}

/// A network that answers the frames.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) source: Source,
    /// In millionths.
    pub(crate) accuracy_ppm: Option<u32>,
    pub(crate) lossy_accuracy_ppm: Option<u32>,
    pub(crate) inputs: Option<Vec<String>>,
    pub(crate) codecs: Option<Vec<String>>,
}

/// Where a network comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Model(PathBuf),
    Zoo { name: String, input_size: Option<u32> },
    Costs(PathBuf),
}

/// A board or an instance, as a `[[device]]` of a platform file.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) table: serde_json::Value,
}

/// A link, as a `[[link]]` of a platform file without its ends.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) table: serde_json::Value,
    /// Price of a gigabyte.
    pub(crate) traffic: Money,
    /// Where its rates over time are, for the simulator.
    pub(crate) replay: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    workload: RawWorkload,
    #[serde(default)]
    network: Vec<RawNetwork>,
    #[serde(default)]
    board: Vec<RawDevice>,
    #[serde(default)]
    instance: Vec<RawDevice>,
    #[serde(default)]
    link: Vec<RawLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    cameras: u64,
    frames_per_second: String,
    #[serde(default)]
    arrivals: Pattern,
    burst: Option<u32>,
    spacing: Option<String>,
    deadline: String,
    percentile: Option<String>,
    headroom: Option<String>,
    budget: Option<String>,
    electricity: Option<String>,
    currency: Option<String>,
    accuracy: Option<String>,
    plans: Option<Vec<RawKind>>,
    #[serde(default)]
    include_idle: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pattern {
    #[default]
    Periodic,
    Poisson,
    Bursts,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    Edge,
    Cloud,
    Split,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    name: Option<String>,
    model: Option<PathBuf>,
    zoo: Option<String>,
    input_size: Option<u32>,
    costs: Option<PathBuf>,
    accuracy: Option<String>,
    accuracy_from: Option<PathBuf>,
    lossy_accuracy: Option<String>,
    input_encodings: Option<Vec<String>>,
    cut_encodings: Option<Vec<String>>,
}

/// A `[[board]]` or an `[[instance]]` as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDevice {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_power: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users_per_instance: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purchase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    life_months: Option<u64>,
}

/// A `[[link]]` as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLink {
    #[serde(skip_serializing)]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    up: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    down: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing)]
    traffic: Option<String>,
    #[serde(skip_serializing)]
    replay: Option<PathBuf>,
}

impl Workload {
    /// Parses the file; paths of networks are relative to `folder`.
    pub(crate) fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        if file.version != VERSION {
            bail!("version {} is not known; this program reads version {VERSION}", file.version);
        }
        let raw = file.workload;
        let demand = demand(&raw).context("[workload]")?;
        let platform = serde_json::json!({
            "users": raw.cameras,
            "frames_per_second": raw.frames_per_second,
            "electricity": raw.electricity,
            "currency": raw.currency.clone().unwrap_or_default(),
        });
        let accuracy_ppm =
            raw.accuracy.as_deref().map(|text| share("accuracy", text)).transpose()?;
        let networks = entries("network", file.network, |network| parse_network(network, folder))?;
        let links = entries("link", file.link, parse_link)?;
        let workload = Self {
            demand,
            accuracy_ppm,
            kinds: kinds(raw.plans.as_deref()),
            include_idle: raw.include_idle,
            boards: entries("board", file.board, |board| device("board", board))?,
            instances: entries("instance", file.instance, rented)?,
            networks,
            links,
            platform,
        };
        workload.check()?;
        Ok(workload)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (table, count) in [("network", self.networks.len()), ("board", self.boards.len())] {
            if count == 0 {
                bail!("there is no [[{table}]]; give at least one");
            }
        }
        if self.kinds.is_empty() {
            bail!("[workload]: `plans` is empty; leave it out, or name edge, cloud or split");
        }
        let needs_cloud = !self.kinds.contains(&Kind::Edge);
        let pairs = [("instance", self.instances.len()), ("link", self.links.len())];
        if let [(none, 0), (some, 1..)] | [(some, 1..), (none, 0)] = pairs {
            bail!("there is a [[{some}]] and no [[{none}]]; frames need both to reach a cloud");
        }
        if needs_cloud && self.instances.is_empty() {
            bail!("`plans` leaves out `edge`, and there is no [[instance]] and [[link]]");
        }
        if let (Some(_), Some(network)) =
            (self.accuracy_ppm, self.networks.iter().find(|network| network.accuracy_ppm.is_none()))
        {
            bail!(
                "[workload] asks for an `accuracy`, and [[network]] `{}` does not say its own",
                network.name
            );
        }
        Ok(())
    }
}

/// A list of tables, each with a name of its own.
pub(crate) fn entries<R, T: Named>(
    table: &str,
    raw: Vec<R>,
    parse: impl Fn(R) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    if raw.len() > MOST_ENTRIES {
        bail!("there are {} [[{table}]]; {MOST_ENTRIES} are the most", raw.len());
    }
    let mut parsed: Vec<T> = Vec::with_capacity(raw.len());
    for (number, raw) in (1..).zip(raw) {
        let one = parse(raw).with_context(|| format!("[[{table}]] number {number}"))?;
        if parsed.iter().any(|known| known.name() == one.name()) {
            bail!("[[{table}]] `{}` is there twice; give each a `name` of its own", one.name());
        }
        parsed.push(one);
    }
    Ok(parsed)
}

/// What goes by a name of its own in a list.
pub(crate) trait Named {
    /// Its name.
    fn name(&self) -> &str;
}

impl Named for Network {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Device {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Link {
    fn name(&self) -> &str {
        &self.name
    }
}

/// What is asked for.
fn demand(raw: &RawWorkload) -> anyhow::Result<Demand> {
    if raw.cameras == 0 {
        bail!("`cameras` = 0; give at least one");
    }
    // Frames per second in millionths, like money.
    let rate = quantity::<Money>("frames_per_second", &raw.frames_per_second)?.0;
    let interval = Nanos(1_000_000_000_000_000_u64.checked_div(rate).unwrap_or(0));
    if interval == Nanos::ZERO || rate == 0 {
        bail!("`frames_per_second`: `{}` is not a rate that a camera has", raw.frames_per_second);
    }
    let (burst, spacing) = (raw.burst, raw.spacing.as_deref());
    let arrivals = match (raw.arrivals, burst, spacing) {
        (Pattern::Bursts, Some(frames @ 1..), Some(spacing)) => Arrivals::Bursts {
            period: interval * u64::from(frames),
            frames,
            spacing: quantity("spacing", spacing)?,
        },
        (Pattern::Bursts, ..) => {
            bail!("`arrivals` = \"bursts\" needs `burst` (frames) and `spacing` (time between two)")
        }
        (_, Some(_), _) | (_, _, Some(_)) => {
            bail!("`burst` and `spacing` belong to `arrivals` = \"bursts\"")
        }
        (Pattern::Periodic, ..) => Arrivals::Periodic { period: interval },
        (Pattern::Poisson, ..) => Arrivals::Poisson { interval },
    };
    let percentile_ppm = share("percentile", raw.percentile.as_deref().unwrap_or("99%"))?;
    let headroom_ppm = share("headroom", raw.headroom.as_deref().unwrap_or("20%"))?;
    if percentile_ppm == 0 || percentile_ppm > 999_999 {
        bail!("`percentile`: give more than 0 and less than 100 %");
    }
    if headroom_ppm > 990_000 {
        bail!("`headroom`: give at most 99 %");
    }
    let demand = Demand {
        cameras: raw.cameras,
        arrivals,
        deadline: quantity("deadline", &raw.deadline)?,
        percentile_ppm,
        headroom_ppm,
        budget: raw.budget.as_deref().map(|text| quantity("budget", text)).transpose()?,
    };
    Ok(demand)
}

fn kinds(raw: Option<&[RawKind]>) -> Vec<Kind> {
    let Some(raw) = raw else { return vec![Kind::Edge, Kind::Cloud, Kind::Split] };
    let kind = |raw: &RawKind| match raw {
        RawKind::Edge => Kind::Edge,
        RawKind::Cloud => Kind::Cloud,
        RawKind::Split => Kind::Split,
    };
    raw.iter().map(kind).collect()
}

/// A quantity with its unit under a key.
pub(crate) fn quantity<T: FromStr<Err: Display>>(key: &str, text: &str) -> anyhow::Result<T> {
    text.parse().map_err(|why| anyhow::anyhow!("`{key}`: {why}"))
}

/// A share in millionths: `99%` or `0.99`.
fn share(key: &str, text: &str) -> anyhow::Result<u32> {
    let (number, scale) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim(), 10_000.0),
        None => (text.trim(), 1_000_000.0),
    };
    let ppm = number.parse::<f64>().ok().map(|number| (number * scale).round());
    let ppm = ppm.filter(|ppm| (0.0..=1_000_000.0).contains(ppm));
    let ppm = ppm.with_context(|| format!("`{key}`: `{text}` is not a share such as `99%`"))?;
    Ok(ppm as u32)
}

fn parse_network(raw: RawNetwork, folder: &Path) -> anyhow::Result<Network> {
    let file = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (default, source) = match (&raw.model, &raw.zoo, &raw.costs) {
        (Some(model), None, None) => (file(model), Source::Model(folder.join(model))),
        (None, Some(zoo), None) => {
            let name = match raw.input_size {
                Some(size) => format!("{zoo}-{size}"),
                None => zoo.clone(),
            };
            (name, Source::Zoo { name: zoo.clone(), input_size: raw.input_size })
        }
        (None, None, Some(costs)) => (file(costs), Source::Costs(folder.join(costs))),
        _ => bail!("give one of `model` (an ONNX file), `zoo` (a name) and `costs` (a table)"),
    };
    if raw.input_size.is_some() && raw.zoo.is_none() {
        bail!("`input_size` is for networks of the `zoo`");
    }
    for name in raw.input_encodings.iter().flatten() {
        quantity::<InputEncoding>("input_encodings", name)?;
    }
    for name in raw.cut_encodings.iter().flatten() {
        quantity::<CutEncoding>("cut_encodings", name)?;
    }
    let ppm = |key, text: &Option<String>| text.as_deref().map(|text| share(key, text)).transpose();
    let mut accuracy_ppm = ppm("accuracy", &raw.accuracy)?;
    let mut lossy_accuracy_ppm = ppm("lossy_accuracy", &raw.lossy_accuracy)?;
    if let Some(file) = &raw.accuracy_from {
        if accuracy_ppm.is_some() {
            bail!("give either `accuracy` or `accuracy_from`");
        }
        let lossy = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();
        let lossy = (lossy(&raw.input_encodings), lossy(&raw.cut_encodings));
        let counted = accuracy::counted(&folder.join(file), &source, (&lossy.0, &lossy.1))?;
        accuracy_ppm = Some(counted.accuracy_ppm);
        lossy_accuracy_ppm = lossy_accuracy_ppm.or(counted.lossy_ppm);
    }
    Ok(Network {
        name: raw.name.unwrap_or(default),
        source,
        accuracy_ppm,
        lossy_accuracy_ppm,
        inputs: raw.input_encodings,
        codecs: raw.cut_encodings,
    })
}

/// A board, or an instance without looking at its price.
pub(crate) fn device(table: &str, mut raw: RawDevice) -> anyhow::Result<Device> {
    let name = raw.name.clone().or_else(|| raw.preset.clone());
    let name = name.with_context(|| format!("a [[{table}]] needs a `name` or a `preset`"))?;
    if table == "board" && raw.users_per_instance.is_some() {
        bail!("`users_per_instance` is for an [[instance]]; every camera has its own board");
    }
    raw.name = Some(name.clone());
    Ok(Device { name, table: serde_json::to_value(raw)? })
}

/// An instance: without a price its number does not matter.
pub(crate) fn rented(raw: RawDevice) -> anyhow::Result<Device> {
    if raw.rent.is_none() && raw.preset.is_none() {
        bail!("an [[instance]] needs a `rent`, or a `preset` that has one");
    }
    if raw.purchase.is_some() {
        bail!("`purchase` is for a [[board]]; instances are rented");
    }
    device("instance", raw)
}

/// A link with its name.
pub(crate) fn parse_link(raw: RawLink) -> anyhow::Result<Link> {
    let name = raw.name.clone().or_else(|| raw.preset.clone()).or_else(|| raw.up.clone());
    let name = name.context("a [[link]] needs a `name`, a `preset` or a rate `up`")?;
    let traffic = raw.traffic.as_deref().map(|text| quantity("traffic", text)).transpose()?;
    let traffic = traffic.unwrap_or(Money::ZERO);
    let replay = raw.replay.clone();
    Ok(Link { name, table: serde_json::to_value(raw)?, traffic, replay })
}
