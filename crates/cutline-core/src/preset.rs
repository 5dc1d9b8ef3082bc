//! Boards, cloud instances and links by name: published figures that stand in for what is not known.
//!
//! The figures are in `data/presets.json`, a dated file that is part of the program. Each of them
//! is written with its unit, says by a [`Letter`] how it is known, and names its source:
//!
//! ```json
//! { "name": "rpi4", "memory": ["4GiB", "S", "maker"], "power": ["6.4W", "M", "dramble"] }
//! ```
//!
//! [`apply`] fills in what a platform file leaves out; how fast a device runs a network is computed
//! from its [`Speed`] by [`cost`](crate::cost).

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    cut::distance,
    platform::{Platform, PlatformError, Tier},
    units::{
        Bytes, BytesPerSec, MacsPerSec, Microwatts, Money, Nanos, PicojoulesPerByte, UnitError,
    },
};

/// How a figure is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Letter {
    /// Measured and published by the source.
    #[serde(rename = "M")]
    Measured,
    /// On a specification sheet.
    #[serde(rename = "S")]
    Spec,
    /// Computed from measured or specified figures.
    #[serde(rename = "C")]
    Computed,
    /// Recalled from the source, not read again.
    #[serde(rename = "R")]
    Recalled,
    /// Estimated.
    #[serde(rename = "est")]
    Estimated,
}

/// A quantity with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "(String, Letter, String)", bound(deserialize = "T: FromStr<Err = UnitError>"))]
pub struct Figure<T> {
    /// What is said.
    pub value: T,
    /// The same as it is written in the file, with its unit.
    pub text: String,
    /// How it is known.
    pub letter: Letter,
    /// Key in [`Presets::sources`].
    pub source: String,
}

/// Where figures come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What and where it is.
    pub what: String,
    /// When it was made, as exactly as is known.
    #[serde(default)]
    pub date: Option<String>,
}

/// A board or a cloud instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePreset {
    /// What platform files call it.
    pub name: String,
    /// What it is.
    pub title: String,
    /// Where such a device usually stands.
    pub tier: Tier,
    /// Its memory.
    pub memory: Figure<Bytes>,
    /// Power while it computes.
    #[serde(default)]
    pub power: Option<Figure<Microwatts>>,
    /// Power while it waits.
    #[serde(default)]
    pub idle_power: Option<Figure<Microwatts>>,
    /// Rent for a month of 730 hours, in [`Presets::currency`].
    #[serde(default)]
    pub rent: Option<Figure<Money>>,
    /// What speeds that are estimated were scaled from.
    #[serde(default)]
    pub basis: Option<String>,
    /// How fast it is, the number of threads that is fastest first; at least one.
    pub speeds: Vec<Speed>,
}

/// How fast a device runs groups of each [`OpClass`](crate::dag::OpClass).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// `cpu` or `gpu`.
    pub engine: String,
    /// Threads that compute.
    pub threads: u32,
    /// Convolutions over several pixels.
    pub conv: Figure<MacsPerSec>,
    /// Convolutions over one pixel.
    pub pointwise: Figure<MacsPerSec>,
    /// Convolutions of each channel by itself.
    pub depthwise: Figure<MacsPerSec>,
    /// Values and weights, by their declared sizes.
    pub bytes: Figure<BytesPerSec>,
    /// Time that each group takes besides.
    pub dispatch: Figure<Nanos>,
}

/// A kind of connection. Its terminal, which spends the energy and sends `up`, is the first end of
/// the link.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPreset {
    /// What platform files call it.
    pub name: String,
    /// What it is.
    pub title: String,
    /// Rate from the terminal.
    pub up: Figure<BytesPerSec>,
    /// Rate to the terminal; absent: as `up`.
    #[serde(default)]
    pub down: Option<Figure<BytesPerSec>>,
    /// Half of the round trip.
    #[serde(default)]
    pub delay: Option<Figure<Nanos>>,
    /// Energy of the terminal for a byte that it sends or receives.
    #[serde(default)]
    pub energy: Option<Figure<PicojoulesPerByte>>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presets {
    /// Format version: 1.
    pub version: u32,
    /// Date of the newest figure.
    pub date: String,
    /// Currency of every rent.
    pub currency: String,
    /// Where figures come from, by key.
    pub sources: BTreeMap<String, Source>,
    /// Boards and cloud instances.
    pub devices: Vec<DevicePreset>,
    /// Connections.
    pub links: Vec<LinkPreset>,
}

/// Why presets cannot complete a platform.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PresetError {
    #[error(
        "device `{device}`: there is no preset `{preset}` for a device; did you mean `{closest}`? `cutline presets` lists them"
    )]
    UnknownDevice { device: String, preset: String, closest: String },
    #[error(
        "link between `{a}` and `{b}`: there is no preset `{preset}` for a link; did you mean `{closest}`? `cutline presets` lists them"
    )]
    UnknownLink { a: String, b: String, preset: String, closest: String },
    #[error(
        "device `{device}`: the rent of preset `{preset}` is in {has}, [workload] counts in {wants}; give the device its own `rent`"
    )]
    Currency { device: String, preset: String, has: String, wants: String },
    #[error("the presets contradict each other or the platform")]
    Platform(#[from] PlatformError),
}

impl Presets {
    /// The figures that are part of this program.
    pub fn builtin() -> Self {
        serde_json::from_str(include_str!("../data/presets.json"))
            .expect("the file is part of the program, and a test reads it")
    }

    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&DevicePreset> {
        self.devices.iter().find(|preset| preset.name == name)
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&LinkPreset> {
        self.links.iter().find(|preset| preset.name == name)
    }
}

/// The platform with everything that its presets know and it does not say itself: tier, memory,
/// power and rent of a device; rates, delay and energy of a link.
///
/// A host's memory is given once, so a preset adds none where the file gives another device of the
/// host its memory.
pub fn apply(presets: &Presets, platform: Platform) -> Result<Platform, PresetError> {
    check_names(presets, &platform)?;
    check_currency(presets, &platform)?;
    let given = platform.clone();
    let filled = platform.changed(|devices, links, workload| {
        let mut rented = false;
        for device in devices {
            let Some(preset) = device.preset.as_ref().and_then(|name| presets.device(name)) else {
                continue;
            };
            let host = given.devices().iter().filter(|other| other.host == device.host);
            if host.filter_map(|other| other.memory).next().is_none() {
                device.memory = Some(preset.memory.value);
            }
            device.tier.get_or_insert(preset.tier);
            fill(&mut device.power, preset.power.as_ref());
            fill(&mut device.idle_power, preset.idle_power.as_ref());
            if device.price.rent.is_none() && device.price.purchase.is_none() {
                fill(&mut device.price.rent, preset.rent.as_ref());
                rented |= device.price.rent.is_some();
            }
        }
        if let (Some(workload), true) = (workload, rented) {
            workload.currency.clone_from(&presets.currency);
        }
        for link in links {
            let Some(preset) = link.preset.as_ref().and_then(|name| presets.link(name)) else {
                continue;
            };
            fill(&mut link.up, Some(&preset.up));
            fill(&mut link.down, Some(preset.down.as_ref().unwrap_or(&preset.up)));
            fill(&mut link.delay, preset.delay.as_ref());
            fill(&mut link.energy[0], preset.energy.as_ref());
        }
    })?;
    Ok(filled)
}

fn fill<T: Copy>(place: &mut Option<T>, figure: Option<&Figure<T>>) {
    *place = place.or(figure.map(|figure| figure.value));
}

fn check_names(presets: &Presets, platform: &Platform) -> Result<(), PresetError> {
    for device in platform.devices() {
        let Some(preset) = device.preset.clone() else { continue };
        if presets.device(&preset).is_none() {
            let names = presets.devices.iter().map(|preset| preset.name.as_str());
            let (device, closest) = (device.name.clone(), closest(&preset, names));
            return Err(PresetError::UnknownDevice { device, preset, closest });
        }
    }
    for link in platform.links() {
        let Some(preset) = link.preset.clone() else { continue };
        if presets.link(&preset).is_none() {
            let names = presets.links.iter().map(|preset| preset.name.as_str());
            let closest = closest(&preset, names);
            let [a, b] = link.between.map(|id| platform.device(id).name.clone());
            return Err(PresetError::UnknownLink { a, b, preset, closest });
        }
    }
    Ok(())
}

/// Rents of two currencies are not added up.
fn check_currency(presets: &Presets, platform: &Platform) -> Result<(), PresetError> {
    let wants = platform.workload().map(|workload| workload.currency.as_str()).unwrap_or_default();
    if wants.is_empty() || wants.eq_ignore_ascii_case(&presets.currency) {
        return Ok(());
    }
    for device in platform.devices() {
        let preset = device.preset.as_ref().and_then(|name| presets.device(name));
        let priced = device.price.rent.is_some() || device.price.purchase.is_some();
        if let (Some(DevicePreset { name, rent: Some(_), .. }), false) = (preset, priced) {
            return Err(PresetError::Currency {
                device: device.name.clone(),
                preset: name.clone(),
                has: presets.currency.clone(),
                wants: wants.to_owned(),
            });
        }
    }
    Ok(())
}

/// The name that is most like another.
pub(crate) fn closest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let short: String = name.chars().take(100).collect();
    names.min_by_key(|known| distance(&short, known)).unwrap_or_default().to_owned()
}

impl<T: FromStr<Err = UnitError>> TryFrom<(String, Letter, String)> for Figure<T> {
    type Error = UnitError;

    fn try_from((text, letter, source): (String, Letter, String)) -> Result<Self, UnitError> {
        Ok(Figure { value: text.parse()?, text, letter, source })
    }
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Letter::Measured => "M",
            Letter::Spec => "S",
            Letter::Computed => "C",
            Letter::Recalled => "R",
            Letter::Estimated => "est",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::platform::DeviceId;

    fn completed(value: Value) -> Result<Platform, String> {
        let platform = serde_json::from_value(value).map_err(|error| error.to_string())?;
        apply(&Presets::builtin(), platform).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_is_whole() {
        let presets = Presets::builtin();
        assert_eq!(presets.version, 1);
        let file: Value = serde_json::from_str(include_str!("../data/presets.json")).unwrap();
        let mut used = BTreeSet::new();
        let mut open = vec![&file];
        while let Some(value) = open.pop() {
            match value {
                Value::Array(list) => match list.as_slice() {
                    [Value::String(_), Value::String(_), Value::String(source)] => {
                        used.insert(source.clone());
                    }
                    list => open.extend(list),
                },
                Value::Object(map) => open.extend(map.values()),
                _ => {}
            }
        }
        let known: BTreeSet<String> = presets.sources.keys().cloned().collect();
        assert_eq!(used, known, "sources used (left) and listed (right)");
        let names = presets.devices.iter().map(|preset| &preset.name);
        let names: Vec<&String> = names.chain(presets.links.iter().map(|p| &p.name)).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name twice");
        for preset in &presets.devices {
            let [first, ..] = preset.speeds.as_slice() else { panic!("{}: no speed", preset.name) };
            assert!(preset.speeds.iter().all(|speed| speed.threads <= first.threads));
            let estimated = first.conv.letter == Letter::Estimated;
            assert_eq!(preset.basis.is_some(), estimated, "{}: basis", preset.name);
            let rates = preset.speeds.iter().flat_map(|s| [&s.conv, &s.pointwise, &s.depthwise]);
            assert!(rates.clone().all(|rate| rate.value > MacsPerSec::ZERO), "{}", preset.name);
        }
        assert!(presets.links.iter().all(|link| link.up.value > BytesPerSec::ZERO));
    }

    #[test]
    fn a_preset_fills_in_what_the_file_leaves_out() {
        let platform = completed(json!({ "version": 1,
            "device": [ { "name": "pi", "preset": "rpi4", "memory": "1GiB" },
                        { "name": "nx_cpu", "host": "nx", "preset": "jetson-nano-cpu" },
                        { "name": "nx_gpu", "host": "nx", "preset": "jetson-nano-gpu", "power": "7W" },
                        { "name": "cloud", "preset": "c5.large" } ],
            "link": [ { "between": ["pi", "cloud"], "preset": "4g-2020", "up": "10mbit" },
                      { "between": ["pi", "nx"], "preset": "neurosurgeon-wifi", "delay": "3ms" } ],
            "workload": { "users": 10 } }))
        .unwrap();
        let pi = platform.device(DeviceId::SOURCE);
        assert_eq!((pi.memory, pi.tier), (Some(Bytes(1 << 30)), Some(Tier::Device)));
        assert_eq!((pi.power, pi.price.rent), (Some(Microwatts(6_400_000)), None));
        let nx = [1, 2].map(|at| &platform.devices()[at]);
        assert_eq!(nx.map(|device| device.memory), [Some(Bytes(4 << 30)); 2]);
        assert_eq!(nx[1].power, Some(Microwatts(7_000_000)), "what is given is kept");
        let cloud = &platform.devices()[3];
        assert_eq!(cloud.price.rent, Some(Money(62_050_000)), "0.085 an hour");
        assert_eq!(platform.workload().unwrap().currency, "USD");
        let links = platform.links();
        assert_eq!(links[0].up, Some(BytesPerSec(1_250_000)), "what is given is kept");
        assert_eq!(links[0].down, Some(BytesPerSec(167_000_000 / 8)), "the preset's own way down");
        assert_eq!(links[0].delay, Some(Nanos(10_500_000)));
        assert_eq!(links[0].energy, [Some(PicojoulesPerByte(616_000)), None], "at the terminal");
        assert_eq!((links[1].down, links[1].delay), (links[1].up, Some(Nanos(3_000_000))));
        let text = serde_json::to_string(&platform).unwrap();
        let read: Platform = serde_json::from_str(&text).unwrap();
        assert_eq!(read.devices(), platform.devices());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let two = |a: Value, link: Value| json!({ "version": 1, "device": [a, { "name": "b" }], "link": [link] });
        let link = json!({ "between": ["a", "b"], "up": "1mbit" });
        let cases = [
            (two(json!({ "name": "a", "preset": "rpi44" }), link.clone()), "`rpi4`"),
            (two(json!({ "name": "a", "preset": "4g-2020" }), link.clone()), "for a device"),
            (
                two(
                    json!({ "name": "a" }),
                    json!({ "between": ["a", "b"], "preset": "5g-low-na" }),
                ),
                "`5g-low-nsa`",
            ),
            (
                json!({ "version": 1, "device": [{ "name": "a", "preset": "c5.large" }],
                        "workload": { "users": 1, "currency": "EUR" } }),
                "is in USD, [workload] counts in EUR",
            ),
            (
                json!({ "version": 1, "device": [{ "name": "a", "host": "h", "preset": "rpi4" },
                                                 { "name": "b", "host": "h", "preset": "rpi5" }] }),
                "contradict",
            ),
        ];
        for (value, expected) in cases {
            let error = completed(value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
