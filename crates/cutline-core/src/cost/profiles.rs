//! From measured profiles to the table.
//!
//! A profile belongs to exactly one model file: its hash and its group names are checked, so that a
//! plan never rests on another network's times.

use std::collections::BTreeMap;

use super::{
    Codec, CostError, Costs, DeviceCosts, EnergyOrigin, EngineOption, InputEncoding, Origin,
    complexity, device_costs, link_costs,
};
use crate::{
    codec::CutEncoding,
    dag::Dag,
    platform::{Device, Platform},
    preset::Presets,
    profile::{LinkTable, PROFILE_VERSION, PrepareTime, Profile},
    units::{Bytes, Microwatts, Nanos},
};

/// Encodings that change the tensor. `uint8` is not one: a picture is resized to 8-bit pixels on
/// every device, so these pixels give the very same tensor wherever they are normalised.
pub(super) const LOSSY_INPUTS: [&str; 1] = ["jpeg"];

impl Costs {
    /// The table of a model: `profiles` by device, `tables` by link. A device without a profile is
    /// [estimated](complexity) by its preset.
    ///
    /// Input encodings are those that the source's profiles time; `fp32` is always there. Where the
    /// receiver's profiles do not time an encoding, the source's time is assumed for it. Codecs are
    /// those that every profile times. Where all profiles of a device have a meter's energy, that
    /// stands in place of the powers that the platform gives.
    pub fn from_profiles(
        dag: &Dag,
        model_sha256: &str,
        platform: &Platform,
        profiles: &[Vec<Profile>],
        tables: &[Option<LinkTable>],
    ) -> Result<Costs, CostError> {
        let declared = platform.devices().len();
        if profiles.len() != declared {
            let (what, kind, given) = ("profiles", "devices", profiles.len());
            return Err(CostError::Count { what, kind, given, declared });
        }
        let index: BTreeMap<&str, usize> =
            dag.groups().iter().enumerate().map(|(i, group)| (group.name.as_str(), i)).collect();
        let offered = offered(platform, profiles);
        let mut devices = Vec::with_capacity(declared);
        let mut presets = None;
        for (device, profiles) in platform.devices().iter().zip(profiles) {
            let options = profiles
                .iter()
                .filter(|profile| wanted(device, profile))
                .map(|profile| option(device, profile, model_sha256, (&index, &offered)))
                .collect::<Result<Vec<_>, _>>()?;
            let options = match (&device.preset, profiles.as_slice()) {
                (Some(name), []) => {
                    let presets = presets.get_or_insert_with(Presets::builtin);
                    let preset = presets.device(name).ok_or_else(|| CostError::NoSuchPreset {
                        device: device.name.clone(),
                        preset: name.clone(),
                    })?;
                    vec![complexity::estimate(dag, device, preset, &offered)?]
                }
                _ if options.is_empty() => return Err(no_option(device, profiles)),
                _ => options,
            };
            let used = profiles.iter().filter(|profile| wanted(device, profile));
            devices.push(metered(device_costs(platform, device, options), used));
        }
        Ok(Costs {
            links: link_costs(platform, tables)?,
            inputs: input_encodings(dag, profiles),
            codecs: offered.into_iter().map(codec).collect(),
            devices,
            workload: platform.workload().cloned(),
            forbidden: Vec::new(),
            frame_interval: None,
        })
    }
}

/// The codecs whose times are known of every engine that a device may use; the identity first. What
/// the entropy code takes is nothing that published figures tell, so it needs profiles everywhere.
fn offered(platform: &Platform, profiles: &[Vec<Profile>]) -> Vec<CutEncoding> {
    let known = |encoding: &CutEncoding| {
        let knows = |profile: &Profile| profile.coding.contains_key(encoding.name());
        let mut used = platform.devices().iter().zip(profiles).flat_map(|(device, profiles)| {
            profiles.iter().filter(|profile| wanted(device, profile))
        });
        let is_profiled = profiles.iter().all(|profiles| !profiles.is_empty());
        !encoding.is_lossy() || used.all(knows) && (is_profiled || !encoding.is_entropy_coded())
    };
    CutEncoding::ALL.into_iter().filter(known).collect()
}

fn codec(encoding: CutEncoding) -> Codec {
    Codec {
        name: encoding.name().to_owned(),
        num: 1,
        den: encoding.ratio(),
        lossy: encoding.is_lossy(),
    }
}

fn wanted(device: &Device, profile: &Profile) -> bool {
    device.engine.as_ref().is_none_or(|engine| *engine == profile.key.engine)
        && device.threads.is_none_or(|threads| threads == profile.key.threads)
}

/// A device with the power that a meter found, if it did for all of its engines. The largest counts
/// for all of them, since a device has one power whatever computes.
fn metered<'a>(device: DeviceCosts, used: impl Iterator<Item = &'a Profile>) -> DeviceCosts {
    let powers: Option<Vec<[Microwatts; 2]>> = used.map(measured_powers).collect();
    let largest = |which: usize| powers.iter().flatten().map(|powers| powers[which]).max();
    match (largest(0), largest(1)) {
        (power @ Some(_), idle_power @ Some(_)) => {
            DeviceCosts { power, idle_power, energy_origin: EnergyOrigin::Measured, ..device }
        }
        _ => device,
    }
}

/// Power while it computes and while it waits, by a profile's meter: the energy of an inference over
/// the time that the table has for it, so that the whole network takes what was measured of it.
fn measured_powers(profile: &Profile) -> Option<[Microwatts; 2]> {
    let energy = profile.energy.as_ref()?;
    let groups: Nanos = profile.groups.iter().map(|group| group.time_ns).sum();
    let whole = (profile.call_ns + groups).0;
    if whole == 0 || !profile.unsupported.is_empty() {
        return None;
    }
    let power = (u128::from(energy.inference_nj.0) * 1_000_000).div_ceil(u128::from(whole));
    let power = Microwatts(u64::try_from(power).unwrap_or(u64::MAX));
    // The table's time may be longer than that of runs without a pause; who computes also waits.
    Some([power.max(energy.idle_uw), energy.idle_uw])
}

fn no_option(device: &Device, profiles: &[Profile]) -> CostError {
    let name = device.name.clone();
    if profiles.is_empty() {
        return CostError::NoProfile { device: name };
    }
    let named = |engine: &str, threads: u32| format!("{engine} with {threads} threads");
    let profiled: Vec<String> =
        profiles.iter().map(|p| named(&p.key.engine, p.key.threads)).collect();
    let engine = match (&device.engine, device.threads) {
        (Some(engine), Some(threads)) => named(engine, threads),
        (Some(engine), None) => engine.clone(),
        (None, threads) => named("any", threads.unwrap_or(0)),
    };
    CostError::NoSuchEngine { device: name, engine, profiled: profiled.join(", ") }
}

fn option(
    device: &Device,
    profile: &Profile,
    model_sha256: &str,
    (index, offered): (&BTreeMap<&str, usize>, &[CutEncoding]),
) -> Result<EngineOption, CostError> {
    if !(1..=PROFILE_VERSION).contains(&profile.version) {
        let (device, version) = (device.name.clone(), profile.version);
        return Err(CostError::ProfileVersion { device, version });
    }
    if profile.key.model_sha256 != model_sha256 {
        return Err(CostError::OtherModel {
            device: device.name.clone(),
            profile: profile.key.model_sha256.clone(),
            model: model_sha256.to_owned(),
        });
    }
    let mut groups = vec![None; index.len()];
    for group in &profile.groups {
        let Some(&at) = index.get(group.name.as_str()) else {
            let (device, group) = (device.name.clone(), group.name.clone());
            return Err(CostError::UnknownGroup { device, group });
        };
        groups[at] = Some(group.time_ns);
    }
    Ok(EngineOption {
        engine: profile.key.engine.clone(),
        version: profile.key.engine_version.clone(),
        threads: profile.key.threads,
        origin: if profile.predicted.is_some() { Origin::Predicted } else { Origin::Fitted },
        error_permille: profile.predicted.as_ref().map(|predicted| predicted.median_permille),
        memory_error_permille: profile
            .memory
            .and_then(|memory| memory.predicted)
            .map(|error| error.median_permille),
        call: profile.call_ns,
        engine_bytes: profile.engine_bytes
            + profile.memory.map_or(Bytes::ZERO, |memory| memory.beyond()),
        groups,
        coding: offered
            .iter()
            .map(|encoding| profile.coding.get(encoding.name()).copied().unwrap_or_default())
            .collect(),
    })
}

fn input_encodings(dag: &Dag, profiles: &[Vec<Profile>]) -> Vec<InputEncoding> {
    let times: Vec<BTreeMap<&str, PrepareTime>> = profiles.iter().map(|p| merged(p)).collect();
    let Some(source) = times.first() else { return Vec::new() };
    // Pixels and pictures stand for the one input tensor of a network that has only one.
    let one_input = dag.flows().iter().filter(|flow| flow.from.is_none()).count() == 1;
    let mut names: Vec<&str> = source.keys().copied().filter(|_| one_input).collect();
    if !names.contains(&"fp32") {
        names.push("fp32");
    }
    let zero = PrepareTime { encode_ns: Nanos::ZERO, decode_ns: Nanos::ZERO, bytes: Bytes::ZERO };
    let encoding = |name: &str| {
        let here = source.get(name).copied().unwrap_or(zero);
        let on = |device: &BTreeMap<&str, PrepareTime>| device.get(name).copied().unwrap_or(here);
        InputEncoding {
            name: name.to_owned(),
            bytes: (name != "fp32").then_some(here.bytes),
            lossy: LOSSY_INPUTS.contains(&name),
            encode: times.iter().map(|device| on(device).encode_ns).collect(),
            decode: times.iter().map(|device| on(device).decode_ns).collect(),
        }
    };
    let mut encodings: Vec<InputEncoding> = names.into_iter().map(encoding).collect();
    InputEncoding::sort(&mut encodings);
    encodings
}

/// Preparation times of a device: of its first profile that has the encoding.
fn merged(profiles: &[Profile]) -> BTreeMap<&str, PrepareTime> {
    let mut merged = BTreeMap::new();
    for (name, &time) in profiles.iter().flat_map(|profile| &profile.prepare) {
        merged.entry(name.as_str()).or_insert(time);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        platform::DeviceId,
        profile::{CodecTime, CodingTime, GroupTime, MeasuredEnergy, NetworkMemory, ProfileKey},
        units::{Macs, Nanojoules},
    };

    fn profile(engine: &str, groups: &[(&str, u64)]) -> Profile {
        let key = ProfileKey {
            model_sha256: "aa".into(),
            hardware: String::new(),
            engine: engine.into(),
            engine_version: "1".into(),
            threads: 2,
            precision: "fp32".into(),
        };
        let group =
            |&(name, time): &(&str, u64)| GroupTime { name: name.into(), time_ns: Nanos(time) };
        Profile {
            version: PROFILE_VERSION,
            key,
            model: String::new(),
            slowdown_permille: 1000,
            call_ns: Nanos(5),
            groups: groups.iter().map(group).collect(),
            unsupported: Vec::new(),
            segments: Vec::new(),
            residual_permille: 0,
            prepare: BTreeMap::new(),
            coding: BTreeMap::new(),
            engine_bytes: Bytes(7),
            memory: None,
            energy: None,
            predicted: None,
        }
    }

    fn dag() -> Dag {
        let mut dag = Dag::new();
        let input = dag.add_input("x", Some(Bytes(8)));
        for name in ["a", "b"] {
            let makes = [(name.to_owned(), Some(Bytes(1)))];
            dag.add_group(vec![name.into()], [input], makes, Macs(1), Bytes::ZERO);
        }
        dag
    }

    fn platform(device: &str) -> Platform {
        serde_json::from_str(&format!(
            r#"{{ "version": 1, "device": [{{ "name": "pi"{device} }}] }}"#
        ))
        .unwrap()
    }

    #[test]
    fn every_engine_is_an_option_and_missing_groups_stay_missing() {
        let profiles = [vec![profile("x", &[("a", 1), ("b", 2)]), profile("y", &[("b", 3)])]];
        let costs = Costs::from_profiles(&dag(), "aa", &platform(""), &profiles, &[]).unwrap();
        let options = &costs.devices()[0].options;
        assert_eq!(options[0].groups, [Some(Nanos(1)), Some(Nanos(2))]);
        assert_eq!(options[1].groups, [None, Some(Nanos(3))]);
        assert_eq!((options[1].call, options[1].engine_bytes), (Nanos(5), Bytes(7)));
        assert_eq!(costs.inputs().len(), 1, "the tensor itself can always be sent");
        let only_y = platform(r#", "engine": "y""#);
        let costs = Costs::from_profiles(&dag(), "aa", &only_y, &profiles, &[]).unwrap();
        assert_eq!(costs.devices()[0].options.len(), 1);
    }

    #[test]
    fn encodings_come_from_the_source_in_order_of_preference() {
        let mut timed = profile("x", &[]);
        let time =
            |n| PrepareTime { encode_ns: Nanos(n), decode_ns: Nanos(n + 1), bytes: Bytes(n + 2) };
        timed.prepare = [("jpeg", 1), ("uint8", 10), ("fp32", 20)]
            .map(|(name, n)| (name.to_owned(), time(n)))
            .into();
        let costs = Costs::from_profiles(&dag(), "aa", &platform(""), &[vec![timed]], &[]).unwrap();
        let found: Vec<_> = costs
            .inputs()
            .iter()
            .map(|i| (i.name.as_str(), i.bytes, i.lossy, i.encode[0].0))
            .collect();
        assert_eq!(
            found,
            [
                ("fp32", None, false, 20),
                ("uint8", Some(Bytes(12)), false, 10),
                ("jpeg", Some(Bytes(3)), true, 1)
            ]
        );
    }

    #[test]
    fn codecs_are_offered_where_every_profile_times_them() {
        let time = |fixed, per_kb| CodingTime { fixed_ns: Nanos(fixed), per_kb_ns: Nanos(per_kb) };
        let of = |fixed| CodecTime { encode: time(fixed, 20), decode: time(fixed + 1, 30) };
        let mut timed = profile("x", &[]);
        timed.coding = [("fp16".to_owned(), of(1)), ("uint8".to_owned(), of(5))].into();
        let mut half = profile("y", &[]);
        half.coding = [("fp16".to_owned(), of(7))].into();
        let mut old = profile("z", &[]);
        old.version = 1;
        let names = |profiles: Vec<Profile>| {
            let costs =
                Costs::from_profiles(&dag(), "aa", &platform(""), &[profiles], &[]).unwrap();
            let names = costs.codecs().iter().map(|codec| (codec.name.clone(), codec.den));
            (names.collect::<Vec<_>>(), costs)
        };
        let expected = |list: &[(&str, u64)]| -> Vec<(String, u64)> {
            list.iter().map(|&(name, den)| (name.to_owned(), den)).collect()
        };
        let (all, costs) = names(vec![timed.clone()]);
        assert_eq!(all, expected(&[("fp32", 1), ("fp16", 2), ("uint8", 4)]));
        assert!(costs.codecs().iter().all(|codec| codec.lossy == (codec.name != "fp32")));
        let coding = costs.coding(DeviceId::SOURCE, 0, 2);
        assert_eq!(
            (coding.encode.of(Bytes(1001)), coding.decode.of(Bytes(0))),
            (Nanos(26), Nanos(0))
        );
        let (both, costs) = names(vec![timed, half]);
        assert_eq!(both, expected(&[("fp32", 1), ("fp16", 2)]));
        assert_eq!(costs.coding(DeviceId::SOURCE, 1, 1).encode, time(7, 20));
        assert_eq!(names(vec![old.clone()]).0, expected(&[("fp32", 1)]));
        old.version = 9;
        let error = Costs::from_profiles(&dag(), "aa", &platform(""), &[vec![old]], &[]);
        assert!(error.unwrap_err().to_string().contains("version 9"));
    }

    /// A whole network of 15 us (a call and two groups) that takes so much, and waits at 1 W.
    fn metered_profile(engine: &str, nanojoules: u64) -> Profile {
        let energy = MeasuredEnergy {
            meter: "rapl".into(),
            covers: "package-0".into(),
            inference_nj: Nanojoules(nanojoules),
            idle_uw: Microwatts(1_000_000),
            inferences: 9,
            time_ns: Nanos(90_000),
        };
        let times = profile(engine, &[("a", 4_000), ("b", 6_000)]);
        Profile { call_ns: Nanos(5_000), energy: Some(energy), ..times }
    }

    fn powers(device: &str, profiles: Vec<Profile>) -> (Option<u64>, Option<u64>, EnergyOrigin) {
        let platform = platform(device);
        let costs = Costs::from_profiles(&dag(), "aa", &platform, &[profiles], &[]).unwrap();
        let device = &costs.devices()[0];
        let of = |power: Option<Microwatts>| power.map(|power| power.0);
        (of(device.power), of(device.idle_power), device.energy_origin)
    }

    #[test]
    fn a_meters_energy_stands_in_place_of_given_powers() {
        let given = r#", "power": "9W", "idle_power": "3W""#;
        let measured = (Some(2_000_000), Some(1_000_000), EnergyOrigin::Measured);
        assert_eq!(powers(given, vec![metered_profile("x", 30_000)]), measured);
        assert_eq!(powers("", vec![metered_profile("x", 30_000)]), measured);
        // The larger of two engines counts for both, and nothing is less than waiting.
        let two = vec![metered_profile("x", 30_000), metered_profile("y", 45_000)];
        assert_eq!(powers("", two).0, Some(3_000_000));
        assert_eq!(powers("", vec![metered_profile("x", 1)]).0, Some(1_000_000));
    }

    #[test]
    fn what_an_engine_takes_beyond_what_is_counted_is_the_engines() {
        let engine = |network, counted| {
            let memory = NetworkMemory {
                network_bytes: Bytes(network),
                counted_bytes: Bytes(counted),
                predicted: None,
            };
            let profiles = [vec![Profile { memory: Some(memory), ..profile("x", &[]) }]];
            let costs = Costs::from_profiles(&dag(), "aa", &platform(""), &profiles, &[]).unwrap();
            costs.devices()[0].options[0].engine_bytes
        };
        assert_eq!([engine(30, 10), engine(10, 30)], [Bytes(27), Bytes(7)]);
    }

    #[test]
    fn energy_is_modelled_where_one_engine_of_the_device_was_not_metered() {
        let given = r#", "power": "9W", "idle_power": "3W""#;
        let modelled = (Some(9_000_000), Some(3_000_000), EnergyOrigin::Modelled);
        let unmetered = profile("y", &[("a", 1)]);
        let one_of_two = || vec![metered_profile("x", 30_000), unmetered.clone()];
        assert_eq!(powers(given, one_of_two()), modelled);
        let of_x = format!("{given}, \"engine\": \"x\"");
        assert_eq!(powers(&of_x, one_of_two()).2, EnergyOrigin::Measured);
        let mut partial = metered_profile("x", 30_000);
        partial.unsupported.push("b".into());
        assert_eq!(powers(given, vec![partial]), modelled);
        let mut nothing = metered_profile("x", 30_000);
        (nothing.call_ns, nothing.groups) = (Nanos::ZERO, Vec::new());
        assert_eq!(powers(given, vec![nothing]), modelled);
    }

    #[test]
    fn the_whole_network_takes_the_energy_that_was_measured() {
        for measured in [33_333, 100_001] {
            let profiles = [vec![metered_profile("x", measured)]];
            let costs = Costs::from_profiles(&dag(), "aa", &platform(""), &profiles, &[]).unwrap();
            let taken = costs.devices()[0].power.unwrap().energy(Nanos(15_000)).0;
            assert!(taken == measured || taken == measured + 1, "{taken}");
        }
    }

    #[test]
    fn profiles_of_something_else_are_refused() {
        let good = profile("x", &[("a", 1)]);
        let cases = [
            (platform(""), vec![], "aa", "`pi` has no profile"),
            (platform(""), vec![good.clone()], "bb", "sha256 aa, this model has bb"),
            (platform(""), vec![profile("x", &[("q", 1)])], "aa", "a group `q`"),
            (
                platform(r#", "engine": "y""#),
                vec![good.clone()],
                "aa",
                "`y`; profiled are x with 2",
            ),
            (platform(r#", "threads": 4"#), vec![good], "aa", "any with 4 threads"),
        ];
        for (platform, profiles, sha256, expected) in cases {
            let error =
                Costs::from_profiles(&dag(), sha256, &platform, &[profiles], &[]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
