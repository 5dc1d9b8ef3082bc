//! The tables of `platform.toml` as people write them: every quantity is text with a unit.
//!
//! Private to [`platform`](super): nothing outside sees a platform that has not been checked.

use std::{collections::BTreeSet, str::FromStr};

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{Device, DeviceId, Link, PlatformError, Price, Server, Tier, Workload};
use crate::units::{
    Bytes, BytesPerSec, Microwatts, Money, Nanos, PicojoulesPerByte, UnitError, decimal,
};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    version: u32,
    #[serde(default)]
    device: Vec<RawDevice>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    link: Vec<RawLink>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<RawWorkload>,
    /// Read by `cutline testbed`; it decides no plan.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "allowed in the file, and of no use here")]
    testbed: Option<IgnoredAny>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    users: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames_per_second: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    electricity: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    currency: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tier: Option<Tier>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replicas: Vec<String>,
    #[serde(default, skip_serializing_if = "is_agent")]
    server: Server,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    power: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_power: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    users_per_instance: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purchase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life_months: Option<u64>,
    /// Read by `cutline testbed`; it decides no plan.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "allowed in the file, and of no use here")]
    testbed: Option<IgnoredAny>,
}

/// One value for both ends of a link, or one for each.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Ends {
    Both(String),
    Each([String; 2]),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    between: [String; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    up: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    down: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fixed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    energy: Option<Ends>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cards: Option<[String; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// Read by `cutline testbed`; it decides no plan.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "allowed in the file, and of no use here")]
    testbed: Option<IgnoredAny>,
}

impl TryFrom<Platform> for super::Platform {
    type Error = PlatformError;

    fn try_from(raw: Platform) -> Result<Self, PlatformError> {
        if raw.version != 1 {
            return Err(PlatformError::Version(raw.version));
        }
        if raw.device.is_empty() {
            return Err(PlatformError::NoDevice);
        }
        let workload = raw.workload.map(parse_workload).transpose()?;
        let mut platform = super::Platform { devices: Vec::new(), links: Vec::new(), workload };
        if let Some(source) = raw.device.first().filter(|device| !is_agent(&device.server)) {
            return Err(PlatformError::ForeignSource(source.name.clone()));
        }
        for device in raw.device {
            if platform.find_device(&device.name).is_some() {
                return Err(PlatformError::DuplicateDevice(device.name));
            }
            if platform.devices.is_empty() && !device.replicas.is_empty() {
                return Err(PlatformError::SourceReplicas(device.name));
            }
            platform.devices.push(parse_device(device)?);
        }
        check_hosts(&platform)?;
        for link in raw.link {
            for link in parse_links(&platform, link)? {
                let [a, b] = link.between;
                if platform.find_link(a, b).is_some() {
                    let name = |id| platform.device(id).name.clone();
                    return Err(PlatformError::DuplicateLink(name(a), name(b)));
                }
                platform.links.push(link);
            }
        }
        Ok(platform)
    }
}

fn parse_workload(raw: RawWorkload) -> Result<Workload, PlatformError> {
    let unit = |key| move |cause| PlatformError::WorkloadUnit { key, cause };
    let rate = raw.frames_per_second.map(|text| decimal(&text, "frames per second such as `0.2`"));
    Ok(Workload {
        users: raw.users,
        frames_per_megasecond: rate.transpose().map_err(unit("frames_per_second"))?,
        electricity: optional(raw.electricity).map_err(unit("electricity"))?,
        currency: raw.currency,
    })
}

fn parse_device(raw: RawDevice) -> Result<Device, PlatformError> {
    if raw.name.is_empty() {
        return Err(PlatformError::EmptyName);
    }
    if raw.threads == Some(0) {
        return Err(PlatformError::NoThreads(raw.name));
    }
    if raw.users_per_instance == Some(0) {
        return Err(PlatformError::NoUsers(raw.name));
    }
    if raw.address.is_none() && !raw.replicas.is_empty() {
        return Err(PlatformError::NoFirst(raw.name));
    }
    let mut addresses = BTreeSet::new();
    let twice = raw.address.iter().chain(&raw.replicas).find(|address| !addresses.insert(*address));
    if let Some(address) = twice {
        return Err(PlatformError::DuplicateAddress(raw.name, address.clone()));
    }
    if raw.purchase.is_some() && raw.life_months.unwrap_or(0) == 0 {
        return Err(PlatformError::NoLife(raw.name));
    }
    let unit = |key| {
        let device = raw.name.clone();
        move |cause| PlatformError::DeviceUnit { device, key, cause }
    };
    let memory: Option<Bytes> = optional(raw.memory).map_err(unit("memory"))?;
    let power: Option<Microwatts> = optional(raw.power).map_err(unit("power"))?;
    let idle_power: Option<Microwatts> = optional(raw.idle_power).map_err(unit("idle_power"))?;
    let rent: Option<Money> = optional(raw.rent).map_err(unit("rent"))?;
    let purchase: Option<Money> = optional(raw.purchase).map_err(unit("purchase"))?;
    Ok(Device {
        host: raw.host.unwrap_or_else(|| raw.name.clone()),
        name: raw.name,
        tier: raw.tier,
        profiles: raw.profiles,
        preset: raw.preset,
        address: raw.address,
        replicas: raw.replicas,
        server: raw.server,
        memory,
        engine: raw.engine,
        threads: raw.threads,
        power,
        idle_power,
        price: Price {
            rent,
            users_per_instance: raw.users_per_instance,
            purchase,
            life_months: raw.life_months,
        },
    })
}

/// A name means one thing: a device, or a host of several; and a host has one memory.
pub(super) fn check_hosts(platform: &super::Platform) -> Result<(), PlatformError> {
    for device in &platform.devices {
        let host = &device.host;
        if platform.devices.iter().any(|other| other.name == *host && other.host != *host) {
            return Err(PlatformError::HostName(host.clone()));
        }
        let here = platform.devices.iter().filter(|other| other.host == *host);
        let given = here.filter_map(|other| other.memory);
        if let (Some(a), Some(b)) =
            (device.memory, given.clone().find(|m| Some(*m) != device.memory))
        {
            return Err(PlatformError::HostMemory { host: host.clone(), a, b });
        }
    }
    Ok(())
}

/// One link, or one for each pair of the devices of the hosts that it names.
fn parse_links(platform: &super::Platform, raw: RawLink) -> Result<Vec<Link>, PlatformError> {
    let [a, b] = raw.between.clone();
    let find = |name: &String| -> Result<Vec<DeviceId>, PlatformError> {
        if let Some(id) = platform.find_device(name) {
            return Ok(vec![id]);
        }
        let on: Vec<DeviceId> =
            platform.device_ids().filter(|&id| platform.device(id).host == *name).collect();
        match on.is_empty() {
            true => Err(PlatformError::UnknownDevice(a.clone(), b.clone(), name.clone())),
            false => Ok(on),
        }
    };
    let (firsts, seconds) = (find(&a)?, find(&b)?);
    if firsts.len() == 1 && firsts == seconds {
        return Err(PlatformError::Loop(a));
    }
    let unit = |key| {
        let (a, b) = (a.clone(), b.clone());
        move |cause| PlatformError::LinkUnit { a, b, key, cause }
    };
    let up: Option<BytesPerSec> = optional(raw.up).map_err(unit("up"))?;
    let down: Option<BytesPerSec> = optional(raw.down).map_err(unit("down"))?;
    // A preset knows its own way down.
    let down = down.or(up.filter(|_| raw.preset.is_none()));
    let delay: Option<Nanos> = optional(raw.delay).map_err(unit("delay"))?;
    let fixed: Option<Nanos> = optional(raw.fixed).map_err(unit("fixed"))?;
    if [up, down].contains(&Some(BytesPerSec::ZERO)) {
        return Err(PlatformError::ZeroRate(a, b));
    }
    if raw.table.is_none() && up.is_none() && raw.preset.is_none() {
        return Err(PlatformError::NoRate(a, b));
    }
    let energy: [Option<PicojoulesPerByte>; 2] = match raw.energy {
        None => [None; 2],
        Some(Ends::Both(text)) => [optional(Some(text)).map_err(unit("energy"))?; 2],
        Some(Ends::Each([first, second])) => [
            optional(Some(first)).map_err(unit("energy"))?,
            optional(Some(second)).map_err(unit("energy"))?,
        ],
    };
    let cards = match raw.cards {
        Some(cards) => cards.map(|card| Some(card).filter(|card| !card.is_empty())),
        // The devices of a host reach the outside by one card, unless told otherwise.
        None if firsts == seconds => [None, None],
        None => [&firsts, &seconds].map(|ends| (ends.len() > 1).then(|| "net".to_owned())),
    };
    let fixed = fixed.unwrap_or_default();
    let within = firsts == seconds;
    let pairs = firsts.iter().flat_map(|&a| seconds.iter().map(move |&b| [a, b]));
    let pairs = pairs.filter(|[a, b]| if within { a < b } else { a != b });
    let link = |between| Link {
        between,
        preset: raw.preset.clone(),
        up,
        down,
        delay,
        fixed,
        energy,
        cards: cards.clone(),
        via: raw.via.clone(),
        table: raw.table.clone(),
    };
    Ok(pairs.map(link).collect())
}

fn optional<T: FromStr<Err = UnitError>>(text: Option<String>) -> Result<Option<T>, UnitError> {
    text.map(|text| text.parse()).transpose()
}

impl From<super::Platform> for Platform {
    fn from(platform: super::Platform) -> Self {
        let names: Vec<String> = platform.devices.iter().map(|d| d.name.clone()).collect();
        let link = platform.links.into_iter().map(|link| RawLink {
            between: link.between.map(|id| names[id.index()].clone()),
            preset: link.preset,
            up: link.up.map(rate_text),
            down: link.down.map(rate_text),
            delay: link.delay.map(nanos_text),
            fixed: Some(nanos_text(link.fixed)),
            energy: link.energy.iter().any(Option::is_some).then(|| {
                let text = |end: Option<PicojoulesPerByte>| {
                    format!("{}pJ/byte", end.unwrap_or_default().0)
                };
                Ends::Each(link.energy.map(text))
            }),
            cards: link
                .cards
                .iter()
                .any(Option::is_some)
                .then(|| link.cards.map(Option::unwrap_or_default)),
            via: link.via,
            table: link.table,
            testbed: None,
        });
        let device = platform.devices.into_iter().map(|device| RawDevice {
            host: Some(device.host).filter(|host| *host != device.name),
            name: device.name,
            tier: device.tier,
            profiles: device.profiles,
            preset: device.preset,
            address: device.address,
            replicas: device.replicas,
            server: device.server,
            memory: device.memory.map(|Bytes(bytes)| bytes.to_string()),
            engine: device.engine,
            threads: device.threads,
            power: device.power.map(power_text),
            idle_power: device.idle_power.map(power_text),
            rent: device.price.rent.map(|rent| rent.to_string()),
            users_per_instance: device.price.users_per_instance,
            purchase: device.price.purchase.map(|price| price.to_string()),
            life_months: device.price.life_months,
            testbed: None,
        });
        let workload = platform.workload.map(|workload| RawWorkload {
            users: workload.users,
            frames_per_second: workload
                .frames_per_megasecond
                .map(|frames| Money(frames).to_string()),
            electricity: workload.electricity.map(|price| price.to_string()),
            currency: workload.currency,
        });
        Platform {
            version: 1,
            device: device.collect(),
            link: link.collect(),
            workload,
            testbed: None,
        }
    }
}

fn is_agent(server: &Server) -> bool {
    *server == Server::Agent
}

fn rate_text(rate: BytesPerSec) -> String {
    let bits = u128::from(rate.0) * 8;
    if bits.is_multiple_of(1000) { format!("{}kbit", bits / 1000) } else { format!("{bits}bit") }
}

fn power_text(power: Microwatts) -> String {
    format!("{}uW", power.0)
}

fn nanos_text(time: Nanos) -> String {
    if time.0.is_multiple_of(1000) {
        format!("{}us", time.0 / 1000)
    } else {
        format!("{}ns", time.0)
    }
}
