//! `cutline explore` over a table of costs: what it writes, and that every file says the same.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const FILES: [&str; 5] = ["bandwidth.csv", "cuts.csv", "explore.json", "front.csv", "report.html"];

const PLATFORM: &str = r#"
version = 1
[[device]]
name = "pi"
memory = "64MiB"
power = "6.4W"
[[device]]
name = "cloud"
power = "120W"
[[link]]
between = ["pi", "cloud"]
up = "8mbit"
down = "16mbit"
delay = "1ms"
"#;

/// A chain of four layers whose second one makes little and whose third one is hard work: at 1 MB/s
/// it is best cut between them. Its first layer's name tries to leave the page.
fn costs() -> Value {
    let layer = |name: &str, reads: &[&str], bytes: u64, pi: u64, cloud: u64| {
        json!({ "name": name, "inputs": reads, "output_bytes": bytes, "parameter_bytes": 1000,
                "time_ns": { "pi": pi * 1_000_000, "cloud": cloud * 1_000_000 } })
    };
    json!({ "version": 1, "input": { "fp32": 600_000, "jpeg": 30_000 }, "outputs": ["d"],
        "layers": [ layer("</script>a", &[], 400_000, 5, 1), layer("b", &["</script>a"], 10_000, 5, 1),
                    layer("c", &["b"], 200_000, 80, 4), layer("d", &["c"], 1_000, 20, 2) ] })
}

fn explore(folder: &Path, more: &[&str]) -> Output {
    explore_on(PLATFORM, folder, more)
}

fn explore_on(platform: &str, folder: &Path, more: &[&str]) -> Output {
    fs::write(folder.join("platform.toml"), platform).unwrap();
    fs::write(folder.join("costs.json"), costs().to_string()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(["explore", "--costs", "costs.json", "--platform", "platform.toml", "-o", "out"])
        .args(more)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join("out").join(name)).unwrap()
}

/// Fields of a table, header first; commas within quotes belong to their field.
fn table(text: &str) -> Vec<Vec<String>> {
    let fields = |line: &str| {
        let (mut fields, mut quoted) = (vec![String::new()], false);
        for character in line.chars() {
            match character {
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                other => fields.last_mut().unwrap().push(other),
            }
        }
        fields
    };
    text.lines().map(fields).collect()
}

#[test]
fn every_file_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let output = explore(folder.path(), &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries = fs::read_dir(folder.path().join("out")).unwrap();
    let names: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), FILES);

    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let json: Value = serde_json::from_str(&read(folder.path(), "explore.json")).unwrap();
    assert_eq!(printed, json);
    let page = read(folder.path(), "report.html");
    let data = page.split_once(r#"<script type="application/json" id="data">"#).unwrap().1;
    let data = data.split_once("</script>").unwrap().0;
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), json);

    // 5 + 5 ms here, 10 kB in 10 ms + 1 ms, 4 + 2 ms there, 1 kB back in 0.5 ms + 1 ms.
    let best = &json["plans"][json["best"].as_u64().unwrap() as usize];
    assert_eq!(best["latency_ns"], 28_500_000);
    assert_eq!(best["edge_compute_ns"], 10_000_000);
    assert_eq!(best["upload_ns"], 11_000_000);
    assert_eq!(best["cloud_compute_ns"], 6_000_000);
    assert_eq!(best["rest_ns"], 1_500_000);
    // 6.4 W for 10 ms, 120 W for 6 ms.
    assert_eq!(best["energy_nj"], 64_000_000 + 720_000_000);
    let what = json["headline"]["what"].as_str().unwrap();
    assert!(what.starts_with("Run the first 2 of 4 layers on pi, send `b` (10.0 kB)"), "{what}");

    let rows = table(&read(folder.path(), "front.csv"));
    let plans: Vec<String> =
        json["front"]["plans"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(rows[1..].iter().map(|row| row[0].clone()).collect::<Vec<_>>(), plans);
    let latency = rows[0].iter().position(|name| name == "latency_ns").unwrap();
    for row in &rows[1..] {
        let plan = &json["plans"][row[0].parse::<usize>().unwrap()];
        assert_eq!(row[latency], plan["latency_ns"].to_string());
    }
    assert_eq!(table(&read(folder.path(), "cuts.csv")).len(), 1 + 3, "a header and three cuts");
}

#[test]
fn nothing_on_the_front_is_beaten() {
    let folder = tempfile::tempdir().unwrap();
    explore(folder.path(), &[]);
    let json: Value = serde_json::from_str(&read(folder.path(), "explore.json")).unwrap();
    assert_eq!(json["objectives"], json!(["latency", "period", "energy", "memory"]));
    let values = |plan: &Value| {
        ["latency_ns", "period_ns", "energy_nj", "memory_bytes"].map(|k| plan[k].as_u64().unwrap())
    };
    let plans = json["plans"].as_array().unwrap();
    let front = json["front"]["plans"].as_array().unwrap();
    assert!(front.len() > 1);
    for point in front.iter().map(|at| values(&plans[at.as_u64().unwrap() as usize])) {
        // `jpeg` is lossy and was not allowed: its plan is shown, and may be better.
        for other in plans.iter().filter(|plan| plan["input_encoding"] != "jpeg").map(values) {
            let no_worse = other.iter().zip(&point).all(|(a, b)| a <= b);
            assert!(!no_worse || other == point, "{other:?} beats {point:?}");
        }
    }
}

#[test]
fn the_bandwidth_table_is_the_best_of_its_row() {
    let folder = tempfile::tempdir().unwrap();
    explore(folder.path(), &[]);
    let rows = table(&read(folder.path(), "bandwidth.csv"));
    let edge = rows[0].iter().position(|name| name == "edge-only_latency_ns").unwrap();
    assert_eq!(&rows[0][..4], ["bytes_per_second", "plan", "label", "best_latency_ns"]);
    let mut rates = Vec::new();
    let mut plans = BTreeSet::new();
    for row in &rows[1..] {
        assert_eq!(row.len(), rows[0].len(), "{row:?}");
        let (best, edge): (u64, u64) = (row[3].parse().unwrap(), row[edge].parse().unwrap());
        assert!(best <= edge, "{row:?}");
        rates.push(row[0].parse::<u64>().unwrap());
        plans.insert(row[1].clone());
    }
    assert!(rates.is_sorted() && rates.len() > 50);
    assert!(plans.len() > 1, "slow links and fast ones have other best plans");
}

/// A third device behind a link of its own.
const RELAY: &str = r#"
[[device]]
name = "hub"
power = "20W"
[[link]]
between = ["hub", "pi"]
up = "32mbit"
down = "32mbit"
"#;

#[test]
fn what_the_bandwidth_table_leaves_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 4] = [
        (&[], &[]),
        (&["--limit", "memory=1GiB"], &[]),
        (&["--scatter", "--limit", "latency=1s"], &["scatter groups", "keep within the limits"]),
        (&["--revisits"], &["return to a device"]),
    ];
    for (more, expected) in cases {
        let output = explore(folder.path(), more);
        let printed = String::from_utf8(output.stdout).unwrap();
        let json: Value = serde_json::from_str(&read(folder.path(), "explore.json")).unwrap();
        let said = json["bandwidth"]["left_out"].as_str().unwrap();
        assert_eq!(said.split(". ").filter(|s| !s.is_empty()).count(), expected.len(), "{said}");
        assert!(expected.iter().all(|words| said.contains(words)), "{said}");
        assert_eq!(printed.contains("over the bandwidth: "), !expected.is_empty(), "{printed}");
    }
}

#[test]
fn the_link_that_is_varied_can_be_named() {
    // What is asked for, the position of the link or what the error says.
    let cases = [
        (None, Ok(0)),
        (Some("cloud,pi"), Ok(0)),
        (Some("pi, hub"), Ok(1)),
        (Some("cloud,hub"), Err("it has pi,cloud and hub,pi")),
        (Some("hub"), Err("`--link hub` is no link")),
    ];
    for (link, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let platform = format!("{PLATFORM}{RELAY}");
        let more: Vec<&str> = link.iter().flat_map(|link| ["--link", link]).collect();
        let output = explore_on(&platform, folder.path(), &more);
        let said = String::from_utf8(output.stderr).unwrap();
        match expected {
            Ok(position) => {
                let json: Value =
                    serde_json::from_str(&read(folder.path(), "explore.json")).unwrap();
                assert_eq!(json["bandwidth"]["link"], position, "{link:?}: {said}");
            }
            Err(words) => assert!(said.contains(words) && !folder.path().join("out").exists()),
        }
    }
}

#[test]
fn other_files_are_left_alone_and_own_ones_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fs::write(out.join("front.csv"), "old").unwrap();
    let output = explore(folder.path(), &[]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Run the first 2 of 4 layers"), "{text}");
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    assert!(read(folder.path(), "front.csv").starts_with("plan,id,"));
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("out"), "a file").unwrap();
    let output = explore(folder.path(), &[]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot make folder `out`") && text.contains("-o"), "{text}");
    assert_eq!(fs::read_to_string(folder.path().join("out")).unwrap(), "a file");
}

#[test]
fn without_any_plan_the_report_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let pins = ["--pin", "d=pi", "--pin", "b=cloud", "--pin", "</script>a=pi"];
    let output = explore(folder.path(), &pins);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_str(&read(folder.path(), "explore.json")).unwrap();
    assert_eq!(json["best"], Value::Null);
    let what = json["headline"]["what"].as_str().unwrap();
    assert!(what.starts_with("No plan that the request allows"), "{what}");
}
