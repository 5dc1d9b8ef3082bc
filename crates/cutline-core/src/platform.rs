//! `platform.toml`: the devices and links that a plan may use.
//!
//! The file is deserialised into private raw tables and parsed into [`Platform`], whose names are
//! unique, whose links join declared devices, and whose first device is the source: frames enter
//! there and answers return there. The core knows no TOML; any serde format carries these tables.
//!
//! ```toml
//! version = 1
//! [[device]]
//! name = "pi"
//! profiles = ["pi-rten.json"]
//! [[device]]
//! name = "cloud"
//! profiles = ["cloud-rten.json"]
//! [[link]]
//! between = ["pi", "cloud"]
//! up = "20mbit"
//! delay = "10ms"
//! ```

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::units::{
    Bytes, BytesPerSec, Microwatts, Money, Nanos, PicojoulesPerByte, UnitError, newtype,
};

mod raw;

newtype! {
    /// A device of one [`Platform`]; the source is the first.
    id DeviceId
}

impl DeviceId {
    /// The first device: frames enter there, answers return there.
    pub const SOURCE: DeviceId = DeviceId(0);
}

/// How far from the source a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Tier {
    Device,
    Edge,
    Cloud,
}

/// What listens at a device's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// An agent, which is sent its stages and calls the next device.
    #[default]
    Agent,
    /// Any server of the Open Inference Protocol over gRPC. It holds the package of its stage already,
    /// and calls nobody.
    Oip,
}

/// A resource that can run a stage: a machine, or a group of cores or a GPU of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique name.
    pub name: String,
    /// The machine that it is part of; devices of one host share its memory. By default its own
    /// name.
    pub host: String,
    /// Where it stands; by default unknown.
    pub tier: Option<Tier>,
    /// Profile files, as written: relative to the platform file.
    pub profiles: Vec<String>,
    /// Name of a built-in set of figures that stands in for a profile.
    pub preset: Option<String>,
    /// Where its agent listens; absent: planning only.
    pub address: Option<String>,
    /// Where further agents listen that are such a device: frames are shared out among them all.
    pub replicas: Vec<String>,
    /// What listens there.
    pub server: Server,
    /// What stages may occupy together; absent: unlimited.
    pub memory: Option<Bytes>,
    /// The only engine to consider; absent: every profiled one.
    pub engine: Option<String>,
    /// The only number of threads to consider; absent: every profiled one.
    pub threads: Option<u32>,
    /// Power while it computes; absent: its energy is not known.
    pub power: Option<Microwatts>,
    /// Power while it waits for the next frame.
    pub idle_power: Option<Microwatts>,
    /// What it costs.
    pub price: Price,
}

/// What a device costs, and how many users share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Rent of one instance for a month.
    pub rent: Option<Money>,
    /// Users that one instance bears; absent: as many as its busy time allows.
    pub users_per_instance: Option<u64>,
    /// Price of buying one for each user.
    pub purchase: Option<Money>,
    /// Months after which it is bought again.
    pub life_months: Option<u64>,
}

/// Who is served, which money depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Users, each with a source of frames.
    pub users: u64,
    /// Frames of one user in a million seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_per_megasecond: Option<u64>,
    /// Price of a kilowatt-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub electricity: Option<Money>,
    /// Name of the currency of every price.
    #[serde(default)]
    pub currency: String,
}

/// A connection of two devices, with a rate for each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The two ends; `up` is from the first to the second.
    pub between: [DeviceId; 2],
    /// Name of a built-in set of figures that stands in for what is not given.
    pub preset: Option<String>,
    /// Rate first to second; absent where only a measured table describes the link.
    pub up: Option<BytesPerSec>,
    /// Rate second to first.
    pub down: Option<BytesPerSec>,
    /// One-way delay; absent: none.
    pub delay: Option<Nanos>,
    /// F: fixed cost of one call of the protocol, each way.
    pub fixed: Nanos,
    /// Energy of each end for a byte that it sends or receives.
    pub energy: [Option<PicojoulesPerByte>; 2],
    /// Name of the network card at each end; links of one host with the same name share it.
    pub cards: [Option<String>; 2],
    /// Dialled in place of the second device's address.
    pub via: Option<String>,
    /// File of a measured `link.json`, relative to the platform file.
    pub table: Option<String>,
}

/// Devices and links, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "raw::Platform", into = "raw::Platform")]
pub struct Platform {
    devices: Vec<Device>,
    links: Vec<Link>,
    workload: Option<Workload>,
}

/// Why a platform file does not describe a platform.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PlatformError {
    #[error("platform version {0} is not known; this program reads version 1")]
    Version(u32),
    #[error("no [[device]] is declared; the first one is the source")]
    NoDevice,
    #[error("a device has an empty name")]
    EmptyName,
    #[error("device `{0}` is declared twice")]
    DuplicateDevice(String),
    #[error("host `{host}` is given two memories, {a} and {b}; its devices share one")]
    HostMemory { host: String, a: Bytes, b: Bytes },
    #[error("host `{0}` has the name of a device that is on another host")]
    HostName(String),
    #[error("device `{0}`: purchase without life (in months), or a life of 0")]
    NoLife(String),
    #[error("device `{0}` has replicas but no address; give the first of its agents as `address`")]
    NoFirst(String),
    #[error("device `{0}` is the source, where frames enter; it cannot have replicas")]
    SourceReplicas(String),
    #[error("device `{0}` has the address `{1}` twice")]
    DuplicateAddress(String, String),
    #[error("device `{0}`: users_per_instance = 0; give 1 or more, or leave it out")]
    NoUsers(String),
    #[error("[workload]: {key}: {cause}")]
    WorkloadUnit { key: &'static str, cause: UnitError },
    #[error("device `{device}`: {key}: {cause}")]
    DeviceUnit { device: String, key: &'static str, cause: UnitError },
    #[error("device `{0}`: threads = 0; give 1 or more, or leave it out")]
    NoThreads(String),
    #[error(
        "device `{0}` is the source, where frames enter and go on: it needs an agent, not server = \"oip\""
    )]
    ForeignSource(String),
    #[error("link between `{0}` and `{1}`: device `{2}` is not declared")]
    UnknownDevice(String, String, String),
    #[error("link between `{0}` and `{0}` joins a device with itself")]
    Loop(String),
    #[error("the link between `{0}` and `{1}` is declared twice")]
    DuplicateLink(String, String),
    #[error("link between `{a}` and `{b}`: {key}: {cause}")]
    LinkUnit { a: String, b: String, key: &'static str, cause: UnitError },
    #[error(
        "link between `{0}` and `{1}` has neither a rate (`up = \"20mbit\"`) nor a `table` or a `preset`"
    )]
    NoRate(String, String),
    #[error("link between `{0}` and `{1}`: a rate of 0 delivers nothing; leave the link out")]
    ZeroRate(String, String),
}

impl Platform {
    /// Devices; the first is the source. There is at least one.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Ids of the devices.
    pub fn device_ids(&self) -> impl Iterator<Item = DeviceId> + use<> {
        (0..self.devices.len()).map(DeviceId::new)
    }

    /// The device behind an id.
    pub fn device(&self, id: DeviceId) -> &Device {
        &self.devices[id.index()]
    }

    /// The device of this name.
    pub fn find_device(&self, name: &str) -> Option<DeviceId> {
        self.devices.iter().position(|device| device.name == name).map(DeviceId::new)
    }

    /// Links, in the order of the file.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Who is served, where that is said.
    pub fn workload(&self) -> Option<&Workload> {
        self.workload.as_ref()
    }

    /// Position in [`links`](Self::links) of the link that joins two devices, in either order.
    pub fn find_link(&self, a: DeviceId, b: DeviceId) -> Option<usize> {
        self.links.iter().position(|link| link.between == [a, b] || link.between == [b, a])
    }

    /// The same platform after changes to its devices, its links and its workload, which must not
    /// rename, add or remove a device; checked again.
    pub(crate) fn changed(
        mut self,
        change: impl FnOnce(&mut [Device], &mut [Link], &mut Option<Workload>),
    ) -> Result<Self, PlatformError> {
        change(&mut self.devices, &mut self.links, &mut self.workload);
        raw::check_hosts(&self)?;
        Ok(self)
    }

    /// The same platform with other rates on one link, e.g. to plan for several bandwidths; a
    /// table measured at the old rate no longer holds and is dropped.
    pub fn with_rates(&self, link: usize, up: BytesPerSec, down: BytesPerSec) -> Self {
        let mut platform = self.clone();
        if let Some(link) = platform.links.get_mut(link) {
            link.up = Some(up);
            link.down = Some(down);
            link.table = None;
        }
        platform
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: Value) -> Result<Platform, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn pi_and_cloud(link: Value) -> Value {
        json!({ "version": 1,
            "device": [ { "name": "pi", "memory": "1GiB", "profiles": ["a.json"] }, { "name": "cloud" } ],
            "link": [link] })
    }

    #[test]
    fn a_platform_is_parsed_and_written_back() {
        let link =
            json!({ "between": ["pi", "cloud"], "up": "20mbit", "delay": "10ms", "via": "x:1" });
        let platform = parse(pi_and_cloud(link)).unwrap();
        assert_eq!(platform.device(DeviceId::SOURCE).memory, Some(Bytes(1 << 30)));
        let link = &platform.links()[0];
        assert_eq!(link.up, Some(BytesPerSec(2_500_000)));
        assert_eq!(
            (link.down, link.delay),
            (link.up, Some(Nanos(10_000_000))),
            "down defaults to up"
        );
        let text = serde_json::to_string(&platform).unwrap();
        assert_eq!(serde_json::from_str::<Platform>(&text).unwrap(), platform);
    }

    #[test]
    fn a_link_between_hosts_joins_their_devices_by_one_card() {
        let platform = parse(json!({ "version": 1,
            "device": [ { "name": "pi", "power": "6.4W", "purchase": "60", "life_months": 36 },
                        { "name": "nx_cpu", "host": "nx", "memory": "8GiB" },
                        { "name": "nx_gpu", "host": "nx", "tier": "edge", "rent": "7.527" } ],
            "link": [ { "between": ["pi", "nx"], "up": "100mbit", "energy": ["6nJ/bit", "1nJ/bit"] },
                      { "between": ["nx", "nx"], "up": "8gbit" } ],
            "workload": { "users": 5000, "frames_per_second": "0.2", "electricity": "0.30" } }))
        .unwrap();
        let links: Vec<_> = platform
            .links()
            .iter()
            .map(|link| {
                (link.between.map(DeviceId::index), link.cards.clone().map(|c| c.is_some()))
            })
            .collect();
        let (one_card, none) = ([false, true], [false, false]);
        assert_eq!(links, [([0, 1], one_card), ([0, 2], one_card), ([1, 2], none)]);
        assert_eq!(platform.links()[0].energy[0], Some(PicojoulesPerByte(48_000)));
        assert_eq!(platform.workload().unwrap().frames_per_megasecond, Some(200_000));
        let text = serde_json::to_string(&platform).unwrap();
        assert_eq!(serde_json::from_str::<Platform>(&text).unwrap(), platform);
    }

    #[test]
    fn what_only_a_testbed_reads_is_left_to_it() {
        let platform = parse(json!({ "version": 1, "testbed": { "congestion": "reno" },
            "device": [ { "name": "pi", "testbed": { "slowdown": 8 } }, { "name": "cloud" } ],
            "link": [ { "between": ["pi", "cloud"], "up": "1mbit", "testbed": { "queue": "1MB" } } ] }));
        let plain =
            parse(json!({ "version": 1, "device": [ { "name": "pi" }, { "name": "cloud" } ],
            "link": [ { "between": ["pi", "cloud"], "up": "1mbit" } ] }));
        assert_eq!(platform.unwrap(), plain.unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (json!({ "version": 2, "device": [] }), "version 2"),
            (json!({ "version": 1, "device": [] }), "no [[device]]"),
            (
                json!({ "version": 1, "device": [{ "name": "a" }, { "name": "a" }] }),
                "`a` is declared twice",
            ),
            (json!({ "version": 1, "device": [{ "name": "a", "memory": "much" }] }), "`a`: memory"),
            (json!({ "version": 1, "device": [{ "name": "a", "color": 1 }] }), "color"),
            (
                json!({ "version": 1, "device": [{ "name": "a", "server": "oip" }] }),
                "is the source",
            ),
            (json!({ "version": 1, "device": [{ "name": "a", "server": "http" }] }), "`oip`"),
            (
                json!({ "version": 1, "device": [{ "name": "a", "address": "x:1", "replicas": ["x:2"] }] }),
                "`a` is the source, where frames enter",
            ),
            (
                json!({ "version": 1, "device": [{ "name": "a" }, { "name": "b", "replicas": ["x:2"] }] }),
                "`b` has replicas but no address",
            ),
            (
                json!({ "version": 1, "device": [{ "name": "a" },
                    { "name": "b", "address": "x:1", "replicas": ["x:2", "x:1"] }] }),
                "`b` has the address `x:1` twice",
            ),
            (
                pi_and_cloud(json!({ "between": ["pi", "moon"], "up": "1mbit" })),
                "`moon` is not declared",
            ),
            (pi_and_cloud(json!({ "between": ["pi", "pi"], "up": "1mbit" })), "with itself"),
            (pi_and_cloud(json!({ "between": ["pi", "cloud"] })), "neither a rate"),
            (pi_and_cloud(json!({ "between": ["pi", "cloud"], "up": "0mbit" })), "rate of 0"),
            (pi_and_cloud(json!({ "between": ["pi", "cloud"], "up": "fast" })), "up: `fast`"),
            (
                json!({ "version": 1, "device": [{ "name": "a", "purchase": "9" }] }),
                "`a`: purchase without life",
            ),
            (
                json!({ "version": 1, "device": [{ "name": "a", "host": "h", "memory": "1GB" },
                                                 { "name": "b", "host": "h", "memory": "2GB" }] }),
                "host `h` is given two memories",
            ),
        ];
        for (value, expected) in cases {
            let error = parse(value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
