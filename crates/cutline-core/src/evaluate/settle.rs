//! The setting that suits a given mapping best: what a mapping made elsewhere is judged by.

use super::{EvaluateError, Evaluation, Setting, evaluate};
use crate::{cost::Costs, dag::Dag, partition::Mapping};

/// Least latency of a mapping over the engines of each device and the lossless input encodings,
/// values travelling as they are; of equals, the setting listed first.
///
/// The times of devices add up, so each device's engine is chosen by itself.
pub fn settle(
    dag: &Dag,
    costs: &Costs,
    mapping: &Mapping,
) -> Result<(Setting, Evaluation), EvaluateError> {
    let mut best = with_engines(dag, costs, mapping, Setting::first(costs));
    let lossless = (1..costs.inputs().len()).filter(|&at| !costs.inputs()[at].lossy);
    for input in lossless {
        let setting = Setting { input, ..Setting::first(costs) };
        best = better(best, with_engines(dag, costs, mapping, setting));
    }
    best
}

/// A setting and what it costs.
pub type Settled = Result<(Setting, Evaluation), EvaluateError>;

/// A setting with the engine of each device by which its groups of the mapping take least, and what
/// that costs.
pub fn with_engines(dag: &Dag, costs: &Costs, mapping: &Mapping, setting: Setting) -> Settled {
    let mut engines = setting.engines.clone();
    for device in costs.device_ids().map(|id| id.index()) {
        let runs = |engine: &usize| {
            let option = &costs.devices()[device].options[*engine];
            let mut time = option.call;
            for (group, home) in mapping.0.iter().enumerate() {
                if home.index() == device {
                    time += option.groups[group]?;
                }
            }
            Some(time)
        };
        let options = 0..costs.devices()[device].options.len();
        let least = options.filter_map(|engine| Some((runs(&engine)?, engine))).min();
        engines[device] = least.map_or(0, |(_, engine)| engine);
    }
    let setting = Setting { engines, ..setting };
    evaluate(dag, costs, mapping, &setting).map(|evaluation| (setting, evaluation))
}

fn better(a: Settled, b: Settled) -> Settled {
    match (a, b) {
        (Ok(a), Ok(b)) if b.1.latency < a.1.latency => Ok(b),
        (Err(_), Ok(b)) => Ok(b),
        (a, _) => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::{EngineOption, table},
        units::Nanos,
    };

    #[test]
    fn engines_and_input_suit_the_mapping() {
        let platform = r#"{ "version": 1, "device": [{ "name": "pi" }, { "name": "cloud" }],
            "link": [{ "between": ["pi", "cloud"], "up": "8gbit" }] }"#;
        let file = r#"{ "version": 1, "input": { "fp32": 400, "uint8": 100, "jpeg": 10 },
            "outputs": ["b"], "layers": [
              { "name": "a", "output_bytes": 40, "time_ns": { "pi": 500, "cloud": 50 } },
              { "name": "b", "inputs": ["a"], "output_bytes": 1, "time_ns": { "pi": 500, "cloud": 50 } } ] }"#;
        let platform = serde_json::from_str(platform).unwrap();
        let file = serde_json::from_str(file).unwrap();
        let (dag, mut costs) = table::read(&file, &platform, &[None]).unwrap();
        let slow_start = EngineOption {
            call: Nanos(30),
            groups: vec![Some(Nanos(10)), Some(Nanos(20))],
            ..costs.devices[1].options[0].clone()
        };
        let partial = EngineOption { groups: vec![None, Some(Nanos(1))], ..slow_start.clone() };
        costs.devices[1].options.extend([slow_start, partial]);
        let [pi, cloud] = [0, 1].map(|at| costs.device_ids().nth(at).unwrap());
        // Devices of a and b; engine of the cloud, latency.
        let cases = [
            ([cloud, cloud], 1, 100 + 60 + 1),
            ([pi, cloud], 2, 500 + 40 + 31 + 1),
            ([pi, pi], 1, 1000),
        ];
        for (devices, engine, latency) in cases {
            let (setting, evaluation) = settle(&dag, &costs, &Mapping(devices.to_vec())).unwrap();
            assert_eq!(evaluation.latency, Nanos(latency), "{devices:?}");
            if devices.contains(&cloud) {
                assert_eq!(setting.engines[1], engine, "{devices:?}");
            }
        }
        let (setting, _) = settle(&dag, &costs, &Mapping(vec![cloud, cloud])).unwrap();
        assert_eq!(costs.inputs()[setting.input].name, "uint8", "jpeg may change the answer");
    }
}
