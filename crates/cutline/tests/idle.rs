//! Idle power in plans and reports: added up by hand, and refused where it cannot count.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

const PLATFORM: &str = r#"
version = 1
[[device]]
name = "pi"
power = "6.4W"
idle_power = "2.7W"
[[device]]
name = "cloud"
power = "120W"
idle_power = "20W"
[[link]]
between = ["pi", "cloud"]
up = "8mbit"
down = "16mbit"
delay = "1ms"
[workload]
users = 1
frames_per_second = "5"
"#;

/// A chain of four layers whose second one makes little and whose third one is hard work.
fn costs() -> Value {
    let layer = |name: &str, reads: &[&str], bytes: u64, pi: u64, cloud: u64| {
        json!({ "name": name, "inputs": reads, "output_bytes": bytes,
                "time_ns": { "pi": pi * 1_000_000, "cloud": cloud * 1_000_000 } })
    };
    json!({ "version": 1, "input": { "fp32": 600_000 }, "outputs": ["d"],
        "layers": [ layer("a", &[], 400_000, 5, 1), layer("b", &["a"], 10_000, 5, 1),
                    layer("c", &["b"], 200_000, 80, 4), layer("d", &["c"], 1_000, 20, 2) ] })
}

/// Whether it ended well, what it printed, and what it said besides.
fn cutline(folder: &Path, platform: &str, line: &str) -> (bool, String, String) {
    fs::write(folder.join("platform.toml"), platform).unwrap();
    fs::write(folder.join("costs.json"), costs().to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(line.split(' '))
        .args(["--costs", "costs.json", "--platform", "platform.toml"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn json_of(folder: &Path, platform: &str, line: &str) -> Value {
    let (well, printed, said) = cutline(folder, platform, line);
    assert!(well, "{said}");
    serde_json::from_str(&printed).unwrap()
}

#[test]
fn the_least_energy_keeps_up_with_the_frames() {
    let folder = tempfile::tempdir().unwrap();
    let often = PLATFORM.replace("\"5\"", "\"10\"");
    let plan = |platform: &str, more: &str| {
        json_of(folder.path(), platform, &format!("plan --objective energy --json{more}"))
    };
    let [mega, total] = [1_000_000u64, 6_400 * 110 / 1000];
    let without = plan(&often, "");
    assert_eq!(without["best"]["energy_nj"], json!({ "pi": total * mega }));
    assert_eq!(
        (&without["best"]["idle_nj"], &without["frame_interval_ns"]),
        (&json!(null), &json!(null))
    );

    // 110 ms of 200 at home: 6.4 W for them, and 2.7 W for the rest.
    let slow = plan(PLATFORM, " --include-idle");
    assert_eq!(slow["frame_interval_ns"], 200 * mega);
    assert_eq!(slow["best"]["energy_nj"], json!({ "pi": (total + 243) * mega }));
    assert_eq!(slow["best"]["idle_nj"], json!({ "pi": 243 * mega }));
    assert_eq!(slow["best"]["proof"], "optimal");

    // With a frame every 100 ms it does not keep up: split at `b`, 10 ms here and 6 ms there.
    let best = plan(&often, " --include-idle")["best"].clone();
    let expected = json!({ "pi": (64 + 243) * mega, "cloud": (720 + 1880) * mega });
    assert_eq!(best["energy_nj"], expected);
    assert_eq!(best["idle_nj"], json!({ "pi": 243 * mega, "cloud": 1880 * mega }));

    let (_, text, _) = cutline(folder.path(), &often, "plan --objective energy --include-idle");
    let words = "energy of a frame (modelled, idle power included, one every 100.00 ms) \
                 2.60 J (1.88 J of it idle) on `cloud`, 307.00 mJ (243.00 mJ of it idle) on `pi`";
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_report_counts_it_and_refuses_what_is_too_slow() {
    let folder = tempfile::tempdir().unwrap();
    let often = PLATFORM.replace("\"5\"", "\"10\"");
    let data = json_of(folder.path(), &often, "explore --include-idle --json -o out");
    assert_eq!(data["frame_interval_ns"], 100_000_000);
    let best = &data["plans"][data["best"].as_u64().unwrap() as usize];
    assert_eq!(best["energy_nj"], 2_907_000_000u64);
    assert_eq!(best["devices"][1]["idle_nj"], 1_880_000_000);
    let refused: Vec<&str> =
        data["cuts"].as_array().unwrap().iter().filter_map(|c| c["infeasible"].as_str()).collect();
    // 400 kB and 200 kB are 400 ms and 200 ms of upload.
    let late = |why: &&str| why.contains("and by the workload one comes every 100.00 ms");
    assert!(refused.len() == 2 && refused.iter().all(late), "{refused:?}");
}

#[test]
fn where_it_cannot_count_it_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let without = |line: &str| PLATFORM.replace(line, "");
    // Platform; what is said, wherever.
    let cases = [
        (without("frames_per_second = \"5\"\n"), "give `frames_per_second` in [workload]"),
        (without("idle_power = \"20W\"\n"), "idle power of device `cloud` is not known: give"),
        (without("power = \"120W\"\n"), "device `cloud`"),
        (
            PLATFORM.replace("\"5\"", "\"101\""),
            "no plan keeps up with the frames, one every 9.90 ms by the workload; the least period \
             that is possible is 10.00 ms",
        ),
    ];
    for (platform, expected) in cases {
        let (well, printed, said) = cutline(folder.path(), &platform, "plan --include-idle");
        let text = printed + &said;
        assert!(!well && text.contains(expected), "{expected}: {text}");
    }
}
