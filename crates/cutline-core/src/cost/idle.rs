//! Idle power: what a device spends between the frames of a source.
//!
//! It is a matter of how often frames come, so it counts only where that is known, and then only for
//! plans that keep up. A device that computes may not spend less than one that waits: all bounds of
//! the planner rest on it, so that figures which say otherwise are refused here.

use thiserror::Error;

use super::{Costs, DeviceCosts};
use crate::{
    dag::Dag,
    units::{Microwatts, Nanojoules, Nanos},
};

/// A million seconds.
const MEGASECOND: u64 = 1_000_000_000_000_000;

/// Why idle power cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum IdleError {
    #[error(
        "idle power counts from one frame to the next, and the platform file does not say how often \
         frames come: give `frames_per_second` in [workload], with `users = 1` where nobody shares"
    )]
    NoRate,
    #[error(
        "idle power of device `{0}` is not known: give `idle_power` in the platform file, such as \
         `idle_power = \"2.7W\"`, or name a preset that knows it"
    )]
    UnknownIdle(String),
    #[error(
        "idle power of device `{0}` counts beside the power while it computes, which is not known: \
         give `power` in the platform file, such as `power = \"6.4W\"`, or name a preset"
    )]
    UnknownPower(String),
    #[error(
        "device `{device}` takes {idle} when idle and {power} while it computes: `power` is all that it \
         takes then, so it cannot be less"
    )]
    AboveActive { device: String, idle: Microwatts, power: Microwatts },
    #[error(
        "device `{device}` takes {idle} when idle, and {energy} for layer `{layer}`, which is less than \
         it would take idle in that time: `energy_nj` is all that it takes then, so it cannot be less"
    )]
    LayerBelowIdle { device: String, layer: String, energy: Nanojoules, idle: Microwatts },
}

impl Costs {
    /// From here on every device that a plan uses takes its idle power where it waits, and only plans
    /// that keep up with the workload's frames are searched for.
    pub fn count_idle(&mut self, dag: &Dag) -> Result<(), IdleError> {
        let frames = self.workload.as_ref().and_then(|workload| workload.frames_per_megasecond);
        let frames = frames.filter(|&frames| frames > 0).ok_or(IdleError::NoRate)?;
        for device in &self.devices {
            check(device, dag)?;
        }
        self.frame_interval = Some(Nanos(MEGASECOND / frames));
        Ok(())
    }

    /// From one frame of a source to its next, where idle power counts.
    pub fn frame_interval(&self) -> Option<Nanos> {
        self.frame_interval
    }
}

fn check(device: &DeviceCosts, dag: &Dag) -> Result<(), IdleError> {
    let name = || device.name.clone();
    let idle = device.idle_power.ok_or_else(|| IdleError::UnknownIdle(name()))?;
    let power = device.power.ok_or_else(|| IdleError::UnknownPower(name()))?;
    if idle > power {
        return Err(IdleError::AboveActive { device: name(), idle, power });
    }
    for (at, energy) in device.group_energy.iter().enumerate() {
        let Some(energy) = *energy else { continue };
        let times = device.options.iter().filter_map(|option| option.groups[at]);
        if times.max().is_some_and(|longest| energy < idle.energy(longest)) {
            let layer = dag.groups()[at].name.clone();
            return Err(IdleError::LayerBelowIdle { device: name(), layer, energy, idle });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cost::table,
        evaluate::{Setting, evaluate},
        partition::Mapping,
        platform::DeviceId,
    };

    /// One layer of 40 ns in the cloud behind an input of 10 ns of upload; a frame every 100 ns.
    fn problem() -> (Value, Value) {
        let costs = json!({ "version": 1, "input": { "fp32": 10 }, "outputs": ["net"],
            "layers": [{ "name": "net", "output_bytes": 0, "time_ns": { "camera": 40, "cloud": 40 } }] });
        let platform = json!({ "version": 1,
            "device": [{ "name": "camera", "power": "5W", "idle_power": "2W" },
                       { "name": "cloud", "power": "3W", "idle_power": "1W" }],
            "link": [{ "between": ["camera", "cloud"], "up": "8gbit" }],
            "workload": { "users": 10, "frames_per_second": "10000000" } });
        (costs, platform)
    }

    fn read((costs, platform): &(Value, Value)) -> (Dag, Costs) {
        let platform = serde_json::from_value(platform.clone()).unwrap();
        let file = serde_json::from_value(costs.clone()).unwrap();
        table::read(&file, &platform, &[None]).unwrap()
    }

    #[test]
    fn used_devices_wait_until_the_next_frame() {
        let rented = |users: u64, of_an_instance: Option<u64>| {
            let mut problem = problem();
            problem.1["workload"]["users"] = json!(users);
            problem.1["device"][1]["rent"] = json!("7");
            if let Some(users) = of_an_instance {
                problem.1["device"][1]["users_per_instance"] = json!(users);
            }
            problem
        };
        let mut often = problem();
        often.1["workload"]["frames_per_second"] = json!("50000000");
        // Where it runs; energy and idle part of it of the camera, then of the cloud.
        let cases = [
            (problem(), 0, vec![(320, 120)]),
            (problem(), 1, vec![(200, 200), (180, 60)]),
            // 3 instances for 10 users are 30 ns for each; a frame takes 40.
            (rented(10, Some(4)), 1, vec![(200, 200), (120, 0)]),
            // 2 users on an instance, so 13 of them for 25: 52 ns for each.
            (rented(25, None), 1, vec![(200, 200), (132, 12)]),
            // Every 20 ns is more often than the cloud can: it takes a frame every 40 ns.
            (often, 1, vec![(80, 80), (120, 0)]),
        ];
        for (problem, home, expected) in cases {
            let (dag, mut costs) = read(&problem);
            costs.count_idle(&dag).unwrap();
            let mapping = Mapping::uniform(&dag, DeviceId::new(home));
            let found = evaluate(&dag, &costs, &mapping, &Setting::first(&costs)).unwrap();
            let found = found.energy.unwrap().into_iter().map(|used| (used.energy.0, used.idle.0));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{}", problem.1);
        }
    }

    #[test]
    fn what_is_missing_or_cannot_be_is_named() {
        let with = |pointer: &str, value: Value| {
            let mut problem = problem();
            let (file, place) = match pointer.strip_prefix("/costs") {
                Some(place) => (&mut problem.0, place),
                None => (&mut problem.1, pointer),
            };
            *file.pointer_mut(place).unwrap() = value;
            problem
        };
        let cases = [
            (with("/workload", json!({ "users": 1 })), "`frames_per_second` in [workload]"),
            (
                with("/device/1/idle_power", json!(null)),
                "idle power of device `cloud` is not known",
            ),
            (with("/device/0/power", json!(null)), "give `power` in the platform file"),
            (
                with("/device/1/idle_power", json!("3000001uW")),
                "`cloud` takes 3.00 W when idle and 3.00 W while it computes",
            ),
            (
                with("/costs/layers/0", {
                    json!({ "name": "net", "output_bytes": 0, "time_ns": { "camera": 40 },
                            "energy_nj": { "camera": 79 } })
                }),
                "takes 2.00 W when idle, and 79 nJ for layer `net`, which is less",
            ),
        ];
        for (problem, expected) in cases {
            let (dag, mut costs) = read(&problem);
            let error = costs.count_idle(&dag).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert_eq!(costs.frame_interval(), None);
        }
    }
}
