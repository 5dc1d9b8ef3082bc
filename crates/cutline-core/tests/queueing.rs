//! The formulas against the simulator: one and two replicas, three loads, single stations and rows.
#![allow(clippy::unwrap_used)]

use cutline_core::{queueing::predict, simulate::simulate};

mod loads;

/// Targets at 30 and 60 %, and at 90 %: for p50 and p99.
const TARGETS: [(u64, [f64; 2]); 3] = [(30, [0.10, 0.20]), (60, [0.10, 0.20]), (90, [0.20, 0.30])];

#[test]
fn predicted_percentiles_are_those_of_the_simulator() {
    let mut problems = Vec::new();
    for case in loads::cases() {
        for (percent, targets) in TARGETS {
            let interval = case.interval(percent);
            let predicted = predict(interval, &case.stages).unwrap();
            let (cell, settings) = case.cell(percent, 400_000);
            let outcome = simulate(&cell, 1, &settings, &mut || false).unwrap();
            assert_eq!(outcome.dropped, 0);
            for (ppm, target) in [500_000, 990_000].into_iter().zip(targets) {
                let found = outcome.latency.percentile(ppm).unwrap();
                let error = predicted.percentile(ppm).0 as f64 / found.0 as f64 - 1.0;
                if error.abs() > target {
                    let what = format!("{} at {percent} %, {ppm} ppm", case.name);
                    problems.push(format!("{what}: off by {:.1} % of {found}", error * 100.0));
                }
            }
            for (station, ppm) in outcome.stations.iter().zip(predicted.utilisation_ppm()) {
                let off = station.utilisation_ppm().abs_diff(*ppm);
                assert!(off < 12_000, "{} at {percent} %: {off} ppm", case.name);
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}
