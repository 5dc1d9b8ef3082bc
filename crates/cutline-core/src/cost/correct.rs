//! Correcting the table by what a plan was measured to take.

use super::Costs;
use crate::{dag::GroupId, platform::DeviceId, units::Nanos};

impl Costs {
    /// Makes a device take `measured` for an engine call with these groups: their times are scaled
    /// alike, so what was learnt of them against each other is kept.
    pub fn correct_stage(
        &mut self,
        device: DeviceId,
        option: usize,
        groups: &[GroupId],
        measured: Nanos,
    ) {
        let option = &mut self.devices[device.index()].options[option];
        option.call = option.call.min(measured);
        let target = u128::from((measured - option.call).0);
        let times = groups.iter().filter_map(|group| option.groups[group.index()]);
        let total: u128 = times.map(|time| u128::from(time.0)).sum();
        // What is cut off by rounding is carried on, so that the sum is exact.
        let (mut before, mut given) = (0u128, 0u128);
        let count = groups.len() as u128;
        for (position, group) in (1u128..).zip(groups) {
            let Some(time) = &mut option.groups[group.index()] else { continue };
            before += u128::from(time.0);
            let share = match total {
                0 => target * position / count.max(1),
                total => target * before / total,
            };
            *time = Nanos(u64::try_from(share - given).unwrap_or(u64::MAX));
            given = share;
        }
    }

    /// Moves the cost of a message from one device to another, whatever its size, by the difference
    /// of a predicted and a measured time.
    pub fn correct_hop(&mut self, from: DeviceId, to: DeviceId, predicted: Nanos, measured: Nanos) {
        let moved = |time: Nanos| time + (measured - predicted) - (predicted - measured);
        for link in &mut self.links {
            let direction = match link.between {
                [a, b] if (a, b) == (from, to) => &mut link.up,
                [a, b] if (b, a) == (from, to) => &mut link.down,
                _ => continue,
            };
            direction.fixed = moved(direction.fixed);
            for (_, time) in &mut direction.table {
                *time = moved(*time).max(direction.delay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::table,
        evaluate::{Setting, evaluate},
        partition::Mapping,
    };

    #[test]
    fn a_corrected_table_says_what_was_measured() {
        let platform = r#"{ "version": 1, "device": [{ "name": "a" }, { "name": "b" }],
            "link": [{ "between": ["a", "b"], "up": "8gbit", "delay": "10ns", "fixed": "5ns" }] }"#;
        let file = r#"{ "version": 1, "input": { "fp32": 8 }, "outputs": ["z"], "call_ns": { "a": 40 },
            "layers": [
                { "name": "x", "output_bytes": 7, "time_ns": { "a": 10, "b": 1 } },
                { "name": "y", "inputs": ["x"], "output_bytes": 3, "time_ns": { "a": 21, "b": 2 } },
                { "name": "z", "inputs": ["y"], "output_bytes": 1, "time_ns": { "a": 30, "b": 3 } } ] }"#;
        let platform = serde_json::from_str(platform).unwrap();
        let file = serde_json::from_str(file).unwrap();
        let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
        let [a, b] = [DeviceId::SOURCE, costs.find_device("b").unwrap()];
        let mapping = Mapping(vec![a, a, b]);
        let groups: Vec<GroupId> = dag.group_ids().take(2).collect();
        // Measured edge and hop; faster than the engine's call alone, slower, and unknown before.
        for (stage, hop) in [(100, 50), (33, 12), (7, 2), (1_000_003, 10)] {
            let mut corrected = costs.clone();
            corrected.correct_stage(a, 0, &groups, Nanos(stage));
            corrected.correct_hop(a, b, Nanos(18), Nanos(hop));
            let found = evaluate(&dag, &corrected, &mapping, &Setting::first(&costs)).unwrap();
            assert_eq!(found.edge_compute(), Nanos(stage));
            assert_eq!(found.upload(), Nanos(hop.max(13)), "no less than delay and rate");
        }
    }
}
