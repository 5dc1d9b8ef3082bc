//! The tables of `platform.toml` as people write them: every quantity is text with a unit.
//!
//! Private to [`platform`](super): nothing outside sees a platform that has not been checked.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Device, DeviceId, Link, PlatformError};
use crate::units::{Bytes, BytesPerSec, Nanos, UnitError};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    version: u32,
    #[serde(default)]
    device: Vec<RawDevice>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    link: Vec<RawLink>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    profiles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    between: [String; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    up: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    down: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fixed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
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
        let mut platform = super::Platform { devices: Vec::new(), links: Vec::new() };
        for device in raw.device {
            if platform.find_device(&device.name).is_some() {
                return Err(PlatformError::DuplicateDevice(device.name));
            }
            platform.devices.push(parse_device(device)?);
        }
        for link in raw.link {
            let link = parse_link(&platform, link)?;
            let [a, b] = link.between;
            if platform.find_link(a, b).is_some() {
                let name = |id| platform.device(id).name.clone();
                return Err(PlatformError::DuplicateLink(name(a), name(b)));
            }
            platform.links.push(link);
        }
        Ok(platform)
    }
}

fn parse_device(raw: RawDevice) -> Result<Device, PlatformError> {
    if raw.name.is_empty() {
        return Err(PlatformError::EmptyName);
    }
    if raw.threads == Some(0) {
        return Err(PlatformError::NoThreads(raw.name));
    }
    let memory = optional(raw.memory).map_err(|cause| PlatformError::DeviceUnit {
        device: raw.name.clone(),
        key: "memory",
        cause,
    })?;
    Ok(Device {
        name: raw.name,
        profiles: raw.profiles,
        preset: raw.preset,
        address: raw.address,
        memory,
        engine: raw.engine,
        threads: raw.threads,
    })
}

fn parse_link(platform: &super::Platform, raw: RawLink) -> Result<Link, PlatformError> {
    let [a, b] = raw.between;
    let find = |name: &String| {
        platform
            .find_device(name)
            .ok_or_else(|| PlatformError::UnknownDevice(a.clone(), b.clone(), name.clone()))
    };
    let between: [DeviceId; 2] = [find(&a)?, find(&b)?];
    if between[0] == between[1] {
        return Err(PlatformError::Loop(a));
    }
    let unit = |key| {
        let (a, b) = (a.clone(), b.clone());
        move |cause| PlatformError::LinkUnit { a, b, key, cause }
    };
    let up: Option<BytesPerSec> = optional(raw.up).map_err(unit("up"))?;
    let down: Option<BytesPerSec> = optional(raw.down).map_err(unit("down"))?.or(up);
    let delay: Option<Nanos> = optional(raw.delay).map_err(unit("delay"))?;
    let fixed: Option<Nanos> = optional(raw.fixed).map_err(unit("fixed"))?;
    if [up, down].contains(&Some(BytesPerSec::ZERO)) {
        return Err(PlatformError::ZeroRate(a, b));
    }
    if raw.table.is_none() && up.is_none() {
        return Err(PlatformError::NoRate(a, b));
    }
    let (delay, fixed) = (delay.unwrap_or_default(), fixed.unwrap_or_default());
    Ok(Link { between, up, down, delay, fixed, via: raw.via, table: raw.table })
}

fn optional<T: FromStr<Err = UnitError>>(text: Option<String>) -> Result<Option<T>, UnitError> {
    text.map(|text| text.parse()).transpose()
}

impl From<super::Platform> for Platform {
    fn from(platform: super::Platform) -> Self {
        let names: Vec<String> = platform.devices.iter().map(|d| d.name.clone()).collect();
        let link = platform.links.into_iter().map(|link| RawLink {
            between: link.between.map(|id| names[id.index()].clone()),
            up: link.up.map(rate_text),
            down: link.down.map(rate_text),
            delay: Some(nanos_text(link.delay)),
            fixed: Some(nanos_text(link.fixed)),
            via: link.via,
            table: link.table,
        });
        let device = platform.devices.into_iter().map(|device| RawDevice {
            name: device.name,
            profiles: device.profiles,
            preset: device.preset,
            address: device.address,
            memory: device.memory.map(|Bytes(bytes)| bytes.to_string()),
            engine: device.engine,
            threads: device.threads,
        });
        Platform { version: 1, device: device.collect(), link: link.collect() }
    }
}

fn rate_text(rate: BytesPerSec) -> String {
    let bits = u128::from(rate.0) * 8;
    if bits.is_multiple_of(1000) { format!("{}kbit", bits / 1000) } else { format!("{bits}bit") }
}

fn nanos_text(time: Nanos) -> String {
    if time.0.is_multiple_of(1000) {
        format!("{}us", time.0 / 1000)
    } else {
        format!("{}ns", time.0)
    }
}
