//! Group times from complexities alone: multiply-accumulates, bytes, and a device's published speed.
//!
//! A group is bound either by its work or by the bytes that it moves (the roofline), and takes the
//! time of one dispatch besides:
//!
//! ```text
//! time = dispatch + max( macs / rate of its class, (read + made + weights) / rate of bytes )
//! ```
//!
//! Estimates stand in until there is a profile, and say so: their origin is
//! [`Origin::Preset`].

use super::{CostError, EngineOption, Origin};
use crate::{
    codec::CutEncoding,
    dag::{Dag, FlowId, Group, OpClass},
    platform::Device,
    preset::{DevicePreset, Speed},
    profile::{CodecTime, CodingTime},
    units::{Bytes, MacsPerSec, Nanos},
};

/// What a device is expected to take for each group, at the number of threads that it names or, by
/// default, that is fastest.
///
/// The engine is left to the device, its own memory is not known and counts nothing, and a call
/// takes one more dispatch.
pub fn estimate(
    dag: &Dag,
    device: &Device,
    preset: &DevicePreset,
    codecs: &[CutEncoding],
) -> Result<EngineOption, CostError> {
    let wanted = |speed: &&Speed| device.threads.is_none_or(|threads| threads == speed.threads);
    let speed = preset.speeds.iter().find(wanted).ok_or_else(|| {
        let known: Vec<String> = preset.speeds.iter().map(|s| s.threads.to_string()).collect();
        CostError::NoSuchSpeed {
            device: device.name.clone(),
            preset: preset.name.clone(),
            threads: device.threads.unwrap_or_default(),
            known: known.join(" and "),
        }
    })?;
    Ok(EngineOption {
        engine: device.engine.clone().unwrap_or_default(),
        version: String::new(),
        threads: speed.threads,
        origin: Origin::Preset,
        error_permille: None,
        memory_error_permille: None,
        call: speed.dispatch.value,
        engine_bytes: Bytes::ZERO,
        groups: dag.groups().iter().map(|group| Some(group_time(dag, group, speed))).collect(),
        coding: codecs.iter().map(|&encoding| coding_time(encoding, speed)).collect(),
    })
}

/// Encoding and decoding only move bytes: those declared, and those that travel.
fn coding_time(encoding: CutEncoding, speed: &Speed) -> CodecTime {
    if !encoding.is_lossy() {
        return CodecTime::default();
    }
    let moved = Bytes(1000 + 1000u64.div_ceil(encoding.ratio()));
    let per_kb_ns = speed.bytes.value.transfer_time(moved);
    let half = CodingTime { fixed_ns: speed.dispatch.value, per_kb_ns };
    CodecTime { encode: half, decode: half }
}

/// Expected time of one group.
pub fn group_time(dag: &Dag, group: &Group, speed: &Speed) -> Nanos {
    let rate = rate(speed, group.class);
    let work = rate.map_or(Nanos::ZERO, |rate| rate.time(group.macs));
    speed.dispatch.value + work.max(speed.bytes.value.transfer_time(moved(dag, group)))
}

/// Bytes that a group reads, makes and holds as weights; a value of unknown size counts nothing.
fn moved(dag: &Dag, group: &Group) -> Bytes {
    let size = |&flow: &FlowId| dag.flow(flow).bytes.unwrap_or_default();
    let values: Bytes = group.reads.iter().chain(&group.makes).map(size).sum();
    values + group.parameter_bytes
}

/// Work per second; `None` for what only moves bytes.
fn rate(speed: &Speed, class: OpClass) -> Option<MacsPerSec> {
    match class {
        OpClass::Conv => Some(speed.conv.value),
        OpClass::Pointwise => Some(speed.pointwise.value),
        OpClass::Depthwise => Some(speed.depthwise.value),
        // A matrix product at its best; its weights are what it waits for.
        OpClass::Dense => Some(speed.conv.value.max(speed.pointwise.value)),
        OpClass::Memory => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::Costs,
        platform::{DeviceId, Platform},
        preset::{Presets, apply},
        profile::Profile,
        units::Macs,
    };

    fn dag() -> Dag {
        let mut dag = Dag::new();
        let mut flow = dag.add_input("x", Some(Bytes(1000)));
        let groups =
            [("conv", OpClass::Conv, 8_000_000, 0), ("fc", OpClass::Dense, 1000, 40_000_000)];
        for (name, class, macs, weights) in groups {
            let makes = [(name.to_owned(), Some(Bytes(1000)))];
            let id = dag.add_group(vec![name.into()], [flow], makes, Macs(macs), Bytes(weights));
            dag.set_class(id, class);
            flow = dag.group(id).makes[0];
        }
        dag.mark_output(flow);
        dag
    }

    fn costs(device: &str) -> Result<Costs, CostError> {
        let file = format!(r#"{{ "version": 1, "device": [{{ "name": "a", {device} }}] }}"#);
        let platform: Platform = serde_json::from_str(&file).unwrap();
        let platform = apply(&Presets::builtin(), platform).unwrap();
        Costs::from_profiles(&dag(), "", &platform, &[Vec::<Profile>::new()], &[])
    }

    #[test]
    fn work_or_bytes_bind_a_group() {
        let mut speed = Presets::builtin().device("rpi4").unwrap().speeds[0].clone();
        speed.conv.value = MacsPerSec(4_000_000_000);
        speed.bytes.value = "2 GB/s".parse().unwrap();
        speed.dispatch.value = Nanos(10);
        let dag = dag();
        let times = dag.groups().iter().map(|group| group_time(&dag, group, &speed).0);
        // 8 M at 4 G/s against 2 kB; 40 MB and 2 kB at 2 GB/s.
        assert_eq!(times.collect::<Vec<_>>(), [2_000_010, 20_001_010]);
    }

    #[test]
    fn a_preset_stands_in_for_a_profile() {
        let four = costs(r#""preset": "rpi4""#).unwrap();
        let [option] = four.device(DeviceId::SOURCE).options.as_slice() else { panic!() };
        assert_eq!((option.origin, option.threads), (Origin::Preset, 4));
        assert!(option.groups.iter().all(|time| time.is_some_and(|time| time > Nanos::ZERO)));
        let one = costs(r#""preset": "rpi4", "threads": 1"#).unwrap();
        assert_eq!(one.device(DeviceId::SOURCE).options[0].threads, 1);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let error = costs(r#""preset": "rpi4", "threads": 3"#).unwrap_err().to_string();
        assert!(error.contains("with 4 and 1 threads, not with 3"), "{error}");
        let error = costs(r#""tier": "edge""#).unwrap_err().to_string();
        assert!(error.contains("preset"), "{error}");
    }
}
