//! A platform file as a test bed: its layout, its agents, and the file with their addresses.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use cutline_core::{
    platform::{Device, Platform, Server},
    preset::{self, Presets},
    units::{Bytes, Nanos},
};
use cutline_runtime::{
    agent::MOST_AT_ONCE,
    pace::{Slowdown, timer},
    testbed::layout::{Layout, LinkExtras},
};
use serde::{Deserialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{commands::agent::parse_cores, fleet::AgentOptions, planning};

/// Where every agent listens, each on an address of its own.
const PORT: u16 = 9001;
/// Where another server is expected, unless the file says.
const SERVER_PORT: u16 = 8001;

/// Table `testbed` of the whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BedTable {
    congestion: Option<String>,
}

/// Table `testbed` of a device.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceTable {
    slowdown: Option<Word>,
    cores: Option<Word>,
    max_batch: Option<Word>,
}

/// Table `testbed` of a link.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkTable {
    jitter: Option<Word>,
    loss: Option<Word>,
    queue: Option<Word>,
}

/// A value that people write with or without quotes.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Integer(i64),
    Float(f64),
    Text(String),
}

impl Word {
    fn text(&self) -> String {
        match self {
            Word::Integer(number) => number.to_string(),
            Word::Float(number) => number.to_string(),
            Word::Text(text) => text.clone(),
        }
    }
}

/// Everything that a file says.
pub(super) struct Bed {
    pub(super) layout: Layout,
    /// How to start the agent of each device, its folder excepted; none where another server is.
    pub(super) agents: Vec<Option<AgentOptions>>,
    /// How to dial each device.
    pub(super) addresses: Vec<String>,
    pub(super) congestion: Option<String>,
    table: Table,
    folder: PathBuf,
}

impl Bed {
    /// Reads a file, with no delay, jitter or loss where they are unwanted.
    pub(super) fn read(path: &Path, no_delay: bool) -> anyhow::Result<Self> {
        // For its messages, which name lines.
        planning::read_platform(path)?;
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read platform `{}`", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&text, folder, no_delay)
            .with_context(|| format!("in platform `{}`", path.display()))
    }

    pub(super) fn parse(text: &str, folder: PathBuf, no_delay: bool) -> anyhow::Result<Self> {
        let mut table: Table = toml::from_str(text)?;
        if no_delay {
            for link in tables(&mut table, "link") {
                link.insert("delay".to_owned(), "0ms".into());
            }
        }
        let platform: Platform = Value::Table(table.clone()).try_into()?;
        let platform = preset::apply(&Presets::builtin(), platform)?;
        let whole: BedTable = extras(&table).context("testbed")?;
        let links = link_extras(&platform, &mut table, no_delay)?;
        let layout = Layout::new(&platform, &links)?;
        let devices = platform.devices().iter().zip(tables(&mut table, "device"));
        let (mut agents, mut addresses) = (Vec::new(), Vec::new());
        for (index, (device, table)) in devices.enumerate() {
            let of_device = || format!("device `{}`: testbed", device.name);
            let extras: DeviceTable = extras(table).with_context(of_device)?;
            let port = port(device);
            let address = format!("{}:{port}", layout.nodes[index].address);
            let agent = match device.server {
                Server::Agent => Some(agent(device, &extras, address.clone())?),
                Server::Oip => None,
            };
            agents.push(agent);
            addresses.push(format!("http://{address}"));
        }
        Ok(Self { layout, agents, addresses, congestion: whole.congestion, table, folder })
    }

    /// The same file with these addresses, for a file in another folder: nothing else is changed but
    /// what relative names are relative to.
    pub(super) fn platform_file(&self, output: &Path) -> anyhow::Result<String> {
        let mut table = self.table.clone();
        let moved = self.moved(output.parent().unwrap_or(Path::new("")))?;
        let name = |value: &mut Value| {
            if let (Some(folder), Some(name)) = (&moved, value.as_str()) {
                *value = folder.join(name).to_string_lossy().into_owned().into();
            }
        };
        for (device, address) in tables(&mut table, "device").zip(&self.addresses) {
            device.insert("address".to_owned(), address.clone().into());
            let profiles = device.get_mut("profiles").and_then(Value::as_array_mut);
            profiles.into_iter().flatten().for_each(name);
        }
        for link in tables(&mut table, "link") {
            link.remove("via");
            link.get_mut("table").into_iter().for_each(name);
        }
        Ok(toml::to_string(&table)?)
    }

    /// What relative names have to begin with in a file of another folder.
    fn moved(&self, folder: &Path) -> anyhow::Result<Option<PathBuf>> {
        let whole = |folder: &Path| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let there = fs::canonicalize(folder);
            there.with_context(|| format!("there is no folder `{}`", folder.display()))
        };
        let (from, to) = (whole(&self.folder)?, whole(folder)?);
        Ok((from != to).then_some(from))
    }
}

/// The port of a device: its agent's, or that of the server that the file says is there.
fn port(device: &Device) -> u16 {
    match device.server {
        Server::Agent => PORT,
        Server::Oip => {
            let given = device.address.as_deref().and_then(|address| address.rsplit(':').next());
            given.and_then(|port| port.parse().ok()).unwrap_or(SERVER_PORT)
        }
    }
}

fn agent(device: &Device, extras: &DeviceTable, listen: String) -> anyhow::Result<AgentOptions> {
    let key = |key: &str| format!("device `{}`: testbed.{key}", device.name);
    let slowdown: Option<Slowdown> = extras
        .slowdown
        .as_ref()
        .map(|word| word.text().parse())
        .transpose()
        .with_context(|| key("slowdown"))?;
    let cores = extras.cores.as_ref().map(Word::text);
    if let Some(cores) = &cores {
        let (cores, all) = (parse_cores(cores).with_context(|| key("cores"))?, timer::allowed());
        if let Some(absent) = cores.iter().find(|core| !all.contains(core) && !all.is_empty()) {
            bail!("{}: there is no processor {absent}; this machine offers {all:?}", key("cores"));
        }
    }
    let max_batch = extras.max_batch.as_ref().map(|word| {
        let frames = word.text().parse().ok().filter(|frames| (1..=MOST_AT_ONCE).contains(frames));
        let expected = || {
            format!(
                "{}: `{}` is not a number from 1 to {MOST_AT_ONCE}",
                key("max_batch"),
                word.text()
            )
        };
        frames.with_context(expected)
    });
    Ok(AgentOptions {
        engine: device.engine.clone(),
        call_time: None,
        slowdown: slowdown.map(|slowdown| u64::from(slowdown) as f64 / 1000.0),
        threads: device.threads.map(|threads| threads as usize),
        cores,
        memory: device.memory.map(|Bytes(bytes)| bytes.to_string()),
        max_batch: max_batch.transpose()?,
        store: PathBuf::new(),
        listen: Some(listen),
        identity: None,
    })
}

/// What the file says of each of the platform's links; one of the file may be several of them.
fn link_extras(
    platform: &Platform,
    table: &mut Table,
    no_delay: bool,
) -> anyhow::Result<Vec<LinkExtras>> {
    let mut all = vec![LinkExtras::default(); platform.links().len()];
    for link in tables(table, "link") {
        let ends = link.get("between").and_then(Value::as_array).cloned().unwrap_or_default();
        let ends: Vec<&str> = ends.iter().filter_map(Value::as_str).collect();
        let of_link = || format!("link between `{}`: testbed", ends.join("` and `"));
        let extras: LinkTable = extras(link).with_context(of_link)?;
        let jitter = extras.jitter.map(|word| word.text().parse::<Nanos>()).transpose();
        let loss = extras.loss.map(|word| parse_loss(&word.text())).transpose();
        let queue = extras.queue.map(|word| word.text().parse()).transpose();
        let mut found = LinkExtras {
            jitter: jitter.with_context(|| of_link() + ".jitter")?.unwrap_or_default(),
            loss: loss.with_context(|| of_link() + ".loss")?.unwrap_or_default(),
            queue: queue.with_context(|| of_link() + ".queue")?,
        };
        if no_delay {
            found = LinkExtras { queue: found.queue, ..LinkExtras::default() };
        }
        for (extras, link) in all.iter_mut().zip(platform.links()) {
            let is = |(end, name): (_, &&str)| {
                let device: &Device = platform.device(end);
                device.name == **name || device.host == **name
            };
            if link.between.into_iter().zip(&ends).all(is) {
                *extras = found;
            }
        }
    }
    Ok(all)
}

/// `1%` as packets of a million.
pub(super) fn parse_loss(text: &str) -> anyhow::Result<u32> {
    let percent = text.trim().strip_suffix('%').unwrap_or(text.trim()).trim().parse::<f64>();
    let percent = percent.ok().filter(|percent| (0.0..=100.0).contains(percent));
    let percent = percent.with_context(|| format!("`{text}` is not a share such as `1%`"))?;
    Ok((percent * 1e4).round() as u32)
}

/// The table `testbed` of a table.
fn extras<T: Default + DeserializeOwned>(table: &Table) -> Result<T, toml::de::Error> {
    table.get("testbed").map_or_else(|| Ok(T::default()), |value| value.clone().try_into())
}

/// The tables of an array of tables.
fn tables<'a>(table: &'a mut Table, key: &str) -> impl Iterator<Item = &'a mut Table> {
    let array = table.get_mut(key).and_then(Value::as_array_mut);
    array.into_iter().flatten().filter_map(Value::as_table_mut)
}

#[cfg(test)]
mod tests {
    use cutline_core::units::BytesPerSec;

    use super::*;

    const BED: &str = r#"
        version = 1
        testbed = { congestion = "reno" }
        [[device]]
        name = "the camera"
        profiles = ["pi.json"]
        threads = 1
        memory = "1GiB"
        testbed = { slowdown = 7.5, cores = 0 }
        [[device]]
        name = "cloud"
        address = "192.0.2.1:7000"
        server = "oip"
        [[link]]
        between = ["the camera", "cloud"]
        up = "8mbit"
        delay = "10ms"
        via = "127.0.0.1:9102"
        table = "link.json"
        testbed = { loss = "0.5%", queue = "1MB" }
    "#;

    #[test]
    fn a_platform_file_says_what_each_agent_is() {
        let bed = Bed::parse(BED, PathBuf::new(), false).unwrap();
        let agent = bed.agents[0].as_ref().unwrap();
        assert_eq!((agent.slowdown, agent.threads), (Some(7.5), Some(1)));
        assert_eq!(agent.cores.as_deref(), Some("0"));
        assert_eq!(agent.memory.as_deref(), Some("1073741824"));
        assert_eq!(agent.listen.as_deref(), Some("10.77.0.1:9001"));
        assert!(bed.agents[1].is_none());
        assert_eq!(bed.congestion.as_deref(), Some("reno"));
        let shape = bed.layout.media[0].shape;
        assert_eq!(shape.rates, [BytesPerSec(1_000_000); 2]);
        assert_eq!(
            (shape.loss, shape.queue, shape.delay),
            (5_000, Bytes(1_000_000), Nanos(10_000_000))
        );
        let shape = Bed::parse(BED, PathBuf::new(), true).unwrap().layout.media[0].shape;
        assert!(!shape.needs_netem());
        assert_eq!(shape.queue, Bytes(1_000_000));
    }

    #[test]
    fn the_file_with_addresses_is_a_platform_file_wherever_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(folder.join("in")).unwrap();
        let bed = Bed::parse(BED, folder.join("in"), false).unwrap();
        for (output, profile) in
            [("in/out.toml", "pi.json".into()), ("out.toml", folder.join("in/pi.json"))]
        {
            let text = bed.platform_file(&folder.join(output)).unwrap();
            let platform: Platform = toml::from_str(&text).unwrap();
            let device = &platform.devices()[0];
            assert_eq!(device.address.as_deref(), Some("http://10.77.0.1:9001"));
            assert_eq!(Path::new(&device.profiles[0]), profile);
            assert_eq!(platform.devices()[1].address.as_deref(), Some("http://10.77.0.2:7000"));
            assert_eq!(platform.links()[0].via, None);
            let again = Bed::parse(&text, folder.clone(), false).unwrap();
            assert_eq!(again.layout, bed.layout, "it can be a test bed again");
        }
        let error = bed.platform_file(Path::new("absent/out.toml")).unwrap_err().to_string();
        assert_eq!(error, "there is no folder `absent`");
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_key() {
        let cases = [
            ("slowdown = 7.5", "slowdown = 0.5", "device `the camera`: testbed.slowdown"),
            ("slowdown = 7.5", "slowdown = \"fast\"", "device `the camera`: testbed.slowdown"),
            ("slowdown = 7.5", "slowdown = true", "device `the camera`: testbed"),
            ("slowdown = 7.5", "speed = 2", "unknown field `speed`"),
            ("cores = 0", "cores = \"0-\"", "device `the camera`: testbed.cores"),
            ("cores = 0", "cores = 4000", "testbed.cores: there is no processor 4000"),
            ("cores = 0", "max_batch = 0", "testbed.max_batch: `0` is not a number from 1 to"),
            (
                "loss = \"0.5%\"",
                "loss = \"some\"",
                "link between `the camera` and `cloud`: testbed.loss",
            ),
            ("loss = \"0.5%\"", "loss = 101", "`101` is not a share such as `1%`"),
            (
                "queue = \"1MB\"",
                "queue = \"long\"",
                "link between `the camera` and `cloud`: testbed.queue",
            ),
            ("congestion = \"reno\"", "congestion = 1", "testbed"),
            ("congestion = \"reno\"", "color = 1", "unknown field `color`"),
            (
                "memory = \"1GiB\"",
                "replicas = [\"x:1\"]\naddress = \"x:2\"",
                "cannot have replicas",
            ),
        ];
        for (right, wrong, expected) in cases {
            assert!(BED.contains(right), "{right}");
            let error = Bed::parse(&BED.replace(right, wrong), PathBuf::new(), false);
            let Err(error) = error else { panic!("{wrong} is taken") };
            let words = format!("{error:#}");
            assert!(words.contains(expected), "{wrong}: {words}");
        }
    }
}
