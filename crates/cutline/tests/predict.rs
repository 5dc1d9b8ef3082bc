//! `cutline predict` as people run it: latency under load, scaling, other devices; what it refuses.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn cutline(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn answer(folder: &Path, args: &[&str]) -> Value {
    let output = cutline(folder, &[&["predict", "--json"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
}

/// p50, p90 and p99 in milliseconds, by formula or simulated.
fn percentiles(report: &Value, by: &str) -> Vec<f64> {
    let rows = report["percentiles"].as_array().unwrap().iter();
    rows.map(|row| row[by].as_f64().unwrap() / 1e6).collect()
}

fn close(found: f64, expected: f64, share: f64, what: &str) {
    assert!((found / expected - 1.0).abs() <= share, "{what}: {found} for {expected}");
}

#[test]
fn formula_and_simulation_agree_and_replicas_take_what_one_cannot() {
    let folder = tempfile::tempdir().unwrap();
    // Rate, replicas, share of busy time in millionths.
    let cases = [("30", "1", 300_000), ("60", "1", 600_000), ("120", "2", 600_000)];
    let mut latest = Vec::new();
    for (rate, replicas, busy) in cases {
        let args = ["load", "--service", "10ms", "--rate", rate, "--replicas", replicas];
        let report = answer(folder.path(), &args);
        close(report["busy_ppm"].as_f64().unwrap(), f64::from(busy), 1e-4, "busy");
        let found = [percentiles(&report, "formula_ns"), percentiles(&report, "simulated_ns")];
        for (formula, simulated) in found[0].iter().zip(&found[1]) {
            // One server is exact, several are an approximation.
            let share = if replicas == "1" { 0.03 } else { 0.12 };
            close(*formula, *simulated, share, &format!("{rate} on {replicas}"));
        }
        for at in 0..3 {
            assert!(report["percentiles"][at]["error_ppm"].as_u64().unwrap() > 0, "{report}");
        }
        latest.push(found[1][2]);
    }
    assert!(latest[2] < latest[1], "{latest:?}");
}

#[test]
fn what_was_recorded_is_simulated_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Three frames in three milliseconds, ten for each: they wait 0, 9 and 18 ms.
    fs::write(folder.join("arrivals.csv"), "moment\n5ms\n6ms\n7 ms\n").unwrap();
    fs::write(folder.join("service.csv"), "service_ns,other\n10000000,1\n\n10000000,2\n").unwrap();
    let args = [
        "load",
        "--service-csv",
        "service.csv",
        "--arrivals-csv",
        "arrivals.csv",
        "--beside",
        "2ms",
    ];
    let report = answer(folder, &args);
    let found = percentiles(&report, "simulated_ns");
    for (found, expected) in found.iter().zip([21.0, 30.0, 30.0]) {
        close(*found, expected, 0.004, "recorded");
    }
    assert_eq!((&report["frames"], &report["busy_ppm"]), (&3.into(), &10_000_000.into()));
    assert!(report["percentiles"][0]["formula_ns"].is_null(), "an overload has no formula");
    // One camera that keeps its period never waits.
    let args = ["load", "--service", "10ms", "--rate", "99", "--arrivals", "periodic"];
    let report = answer(folder, &args);
    assert!(percentiles(&report, "simulated_ns").iter().all(|time| (time - 10.0).abs() < 0.04));
    assert!(report["percentiles"][0]["formula_ns"].is_null());
}

#[test]
fn a_law_over_replicas_is_the_one_of_its_points() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let law = |n: f64| 100.0 * n / (1.0 + 0.05 * (n - 1.0) + 0.01 * n * (n - 1.0));
    let mut text = "network,replicas,throughput\n".to_owned();
    for n in [1, 2, 4, 8, 12] {
        text += &format!("\"a, b\",{n},{}\n", law(f64::from(n)));
        text += &format!("other,{n},{}\n", 7.0 * f64::from(n).powf(1.1));
    }
    // A cell of another kind that stands alone, and one that failed.
    text += "alone,1,5\nother,16,\n";
    fs::write(folder.join("sweep.csv"), text).unwrap();
    let fits = answer(folder, &["scaling", "sweep.csv", "--at", "16,4"]);
    let [curved, straight] = fits.as_array().unwrap().as_slice() else { panic!("{fits}") };
    assert_eq!((&curved["over"], &curved["of"]["network"]), (&"replicas".into(), &"a, b".into()));
    for (key, expected) in [("lambda", 100.0), ("sigma", 0.05), ("kappa", 0.01)] {
        close(curved[key].as_f64().unwrap(), expected, 1e-3, key);
    }
    // The real number is the root of 95.
    assert_eq!((&curved["peak"], &straight["peak"]), (&10.into(), &Value::Null));
    assert!(curved["cross_validated_ppm"].as_u64().unwrap() < 2000, "{curved}");
    let numbers: Vec<u64> =
        curved["points"].as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 4, 8, 12, 16]);
    let last = &curved["points"][5];
    assert!(last["measured"].is_null());
    close(last["predicted"].as_f64().unwrap(), law(16.0), 1e-3, "16");
    let told = cutline(folder, &["predict", "scaling", "sweep.csv"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("a, b\nreplicas") && told.contains("most at 10"), "{told}");
    assert!(told.contains("more is always more"), "{told}");
}

#[test]
fn a_sweep_scales_alike_from_its_file_and_from_its_export() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let grid = "version = 1\nnetworks = [\"lenet5\"]\nbatches = [1, 2, 4, 8]\n\
         [measure]\nmin_turns = 6\nmax_turns = 6\n";
    fs::write(folder.join("grid.toml"), grid).unwrap();
    let swept = cutline(
        folder,
        &["characterize", "grid.toml", "-o", "sweep.db", "--csv", "sweep.csv", "--quiet"],
    );
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    let fits = ["sweep.db", "sweep.csv"].map(|file| answer(folder, &["scaling", file]));
    assert_eq!(fits[0], fits[1]);
    let fit = &fits[0][0];
    assert_eq!((&fit["over"], &fit["of"]["network"]), (&"batch".into(), &"lenet5".into()));
    assert_eq!(fit["points"].as_array().unwrap().len(), 4);
    assert!(fit["cross_validated_ppm"].is_u64() && fit["of"]["batch"].is_null(), "{fit}");
    let refused = cutline(folder, &["predict", "scaling", "sweep.db", "--over", "threads"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("differ in threads alone"));
}

#[test]
fn three_networks_tell_of_the_others_and_a_device_twice_as_slow_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for gpu in [&[][..], &["--gpu"]] {
        let known = answer(folder, &[&["device"], gpu].concat());
        assert!(known["predictions"].as_array().unwrap().is_empty());
        let most: Vec<&str> = known["say_most"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(most.len(), 3);
        let times = |unit: u32| -> Vec<Value> {
            let measured: Vec<String> = most
                .iter()
                .zip([40, 25, 12])
                .map(|(name, time)| format!("--measured={name}={}ms", time * unit))
                .collect();
            let measured: Vec<&str> = measured.iter().map(String::as_str).collect();
            let report = answer(folder, &[&["device"], gpu, &measured].concat());
            report["predictions"].as_array().unwrap().clone()
        };
        let (fast, slow) = (times(1), times(2));
        assert_eq!(fast.len() + 3, known["known"].as_array().unwrap().len());
        for (fast, slow) in fast.iter().zip(&slow) {
            let time = |row: &Value| row["time_ns"].as_f64().unwrap();
            let error = |row: &Value| row["error_ppm"].as_u64().unwrap();
            assert!((1.3..3.0).contains(&(time(slow) / time(fast))), "{fast} {slow}");
            assert!((1..2_000_000).contains(&error(fast)) && error(fast) == error(slow), "{fast}");
        }
    }
}

#[test]
fn what_cannot_be_predicted_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let files = [
        ("words.csv", "time\nfast\n"),
        ("empty.csv", ""),
        ("one.csv", "5ms\n"),
        ("no-n.csv", "network,throughput\na,1\n"),
        ("ragged.csv", "replicas,throughput\n1\n"),
        ("negative.csv", "replicas,throughput\n1,-2\n2,3\n"),
        ("no-throughput.csv", "replicas,median_ns\n1,2\n2,2\n"),
        ("no-number.csv", "replicas,throughput\nmany,2\n2,3\n"),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    fs::write(folder.join("foreign.db"), b"SQLite format 3\0 and no more").unwrap();
    let load = |more: &[&'static str]| [&["load"][..], more].concat();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (load(&["--service", "10ms", "--rate", "100"]), "add servers or send fewer frames"),
        (load(&["--service", "10ms", "--rate", "0"]), "give frames per second"),
        (load(&["--service", "0ms", "--rate", "-1"]), "unexpected argument"),
        (load(&["--rate", "1"]), "--service"),
        (load(&["--service", "1ms"]), "--rate"),
        (load(&["--service-csv", "words.csv", "--rate", "1"]), "line 2: `fast` is no time"),
        (load(&["--service-csv", "empty.csv", "--rate", "1"]), "holds no time"),
        (load(&["--service-csv", "none.csv", "--rate", "1"]), "cannot read `none.csv`"),
        (load(&["--service", "1ms", "--arrivals-csv", "one.csv"]), "at least two frames"),
        (vec!["scaling", "none.db"], "cannot read `none.db`"),
        (vec!["scaling", "foreign.db"], "cannot use `foreign.db`"),
        (vec!["scaling", "empty.csv"], "names its columns"),
        (vec!["scaling", "no-n.csv"], "differ in threads, batch or replicas alone"),
        (vec!["scaling", "ragged.csv"], "line 2 has 1 fields"),
        (vec!["scaling", "negative.csv"], "row 2"),
        (vec!["scaling", "no-throughput.csv"], "need a column `throughput`"),
        (vec!["scaling", "no-number.csv"], "`many` is no number of replicas"),
        (vec!["device", "--measured", "resnot=3ms"], "the table has no network `resnot`"),
        (vec!["device", "--measured", "alexnet=0ms"], "no time"),
        (vec!["device", "--measured", "alexnet"], "expected NAME=TIME"),
        (vec!["device", "--measured", "alexnet=1ms", "--measured", "AlexNet=2ms"], "given twice"),
    ];
    for (args, expected) in cases {
        let output = cutline(folder, &[&["predict"], args.as_slice()].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(expected), "{args:?}: {told}");
    }
}
