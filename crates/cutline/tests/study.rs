//! `cutline study` as people run it: held against `cutline plan`, against itself, and against a published
//! cost table.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const FILES: [&str; 8] = [
    "best.csv",
    "changes.csv",
    "deployments.csv",
    "front.csv",
    "predictions.csv",
    "scaling.csv",
    "study.html",
    "study.json",
];

const SMALL: &str = r#"
version = 1
[study]
users = 5000
frames_per_second = "1"
electricity = "0.20"
bandwidths = ["100kbit", "2mbit", "10mbit", "40mbit", "1gbit"]
cut_encodings = ["uint8"]
[link]
up = "20mbit"
down = "40mbit"
delay = "10ms"
[[network]]
zoo = "mobilenetv2"
input_sizes = [224, 96]
[[board]]
preset = "rpi3b+"
purchase = "35"
life_months = 36
[[board]]
preset = "jetson-nano-gpu"
[[instance]]
preset = "t2.micro"
[[instance]]
preset = "g4dn.xlarge"
"#;

fn cutline(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    let output = cutline(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a study says, with a folder that holds its files in `out`.
fn study(text: &str, more: &[&str]) -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("study.toml"), text).unwrap();
    let args = [&["study", "study.toml", "-o", "out", "--json"], more].concat();
    let data = serde_json::from_str(&succeeds(folder.path(), &args)).unwrap();
    (folder, data)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("`{key}` is a list"))
}

/// The plan that a combination names at a rate.
fn plan<'a>(data: &'a Value, found: &Value, of: &str, rate: usize) -> Option<&'a Value> {
    let at = found[of][rate].as_u64()?;
    Some(&data["plans"][at as usize])
}

fn latency(plan: &Value, rate: usize) -> u64 {
    plan["latency_ns"][rate].as_u64().unwrap()
}

#[test]
fn every_cell_is_what_plan_says_of_the_same_platform() {
    let text =
        SMALL.replace("zoo = \"mobilenetv2\"\ninput_sizes = [224, 96]", "model = \"net.onnx\"");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(folder, &["zoo", "write", "mobilenetv2", "--input-size", "224", "-o", "net.onnx"]);
    fs::write(folder.join("study.toml"), text).unwrap();
    let said = succeeds(folder, &["study", "study.toml", "-o", "out", "--json"]);
    let data: Value = serde_json::from_str(&said).unwrap();
    let boards = ["rpi3b+", "jetson-nano-gpu"];
    let more = ["purchase = \"35\"\nlife_months = 36", ""];
    let instances = ["t2.micro", "g4dn.xlarge"];
    for found in list(&data, "combinations") {
        let [board, instance] =
            ["board", "instance"].map(|key| found[key].as_u64().unwrap() as usize);
        for (rate, mbit) in [0.1, 2.0, 10.0, 40.0, 1000.0].into_iter().enumerate() {
            let platform = format!(
                "version = 1\n[[device]]\nname = \"a\"\npreset = \"{}\"\n{}\n[[device]]\nname = \"b\"\n\
                 preset = \"{}\"\n[[link]]\nbetween = [\"a\", \"b\"]\nup = \"{mbit}mbit\"\n\
                 down = \"{}mbit\"\ndelay = \"10ms\"\n[workload]\nusers = 5000\n\
                 frames_per_second = \"1\"\nelectricity = \"0.20\"\n",
                boards[board],
                more[board],
                instances[instance],
                mbit * 2.0
            );
            fs::write(folder.join("platform.toml"), platform).unwrap();
            let lossy = ["--cut-encoding", "uint8,fp32"];
            let plan_it = ["plan", "net.onnx", "--platform", "platform.toml", "--json"];
            let said = succeeds(folder, &[&plan_it[..], &lossy].concat());
            let oracle: Value = serde_json::from_str(&said).unwrap();
            let at = format!("{} with {} at {mbit} Mbit/s", boards[board], instances[instance]);
            for (ours, theirs) in [("best", "best"), ("split", "best_split")] {
                let ours = plan(&data, found, ours, rate).unwrap();
                assert_eq!(latency(ours, rate), oracle[theirs]["latency_ns"], "{theirs}, {at}");
                assert_eq!(ours["money"], oracle[theirs]["money_per_month"], "{theirs}, {at}");
                let on_board = list(&oracle[theirs], "stages").iter();
                let on_board = on_board.filter(|stage| stage["device"] == "a");
                let layers: usize = on_board.map(|stage| list(stage, "layers").len()).sum();
                assert_eq!(ours["layers_on_board"], layers, "{theirs}, {at}");
            }
            for (ours, prefix) in [("edge", "edge-only"), ("cloud", "cloud-")] {
                let baselines = list(&oracle, "baselines").iter();
                let named =
                    baselines.filter(|one| one["name"].as_str().unwrap().starts_with(prefix));
                let fastest = named.filter_map(|one| one["latency_ns"].as_u64()).min();
                let ours = plan(&data, found, ours, rate).map(|plan| latency(plan, rate));
                assert_eq!(ours, fastest, "{prefix}, {at}");
            }
        }
    }
}

#[test]
fn more_bandwidth_is_never_slower_and_nothing_beats_the_best() {
    let (_folder, data) = study(SMALL, &[]);
    assert_eq!(list(&data, "combinations").len(), 2 * 2 * 2);
    let rates = list(&data, "rates").len();
    let mut kinds = BTreeSet::new();
    for found in list(&data, "combinations") {
        let mut last = u64::MAX;
        for rate in 0..rates {
            let best = plan(&data, found, "best", rate).unwrap();
            let now = latency(best, rate);
            assert!(now <= last, "{now} after {last}: {found}");
            for other in ["edge", "cloud", "split"] {
                let other = plan(&data, found, other, rate).unwrap();
                assert!(now <= latency(other, rate), "{other} beats {best}");
            }
            kinds.insert(best["kind"].as_str().unwrap().to_owned());
            last = now;
        }
    }
    assert!(kinds.len() == 3, "the optimum moves: {kinds:?}");
    // Of two sizes of one network, listed ascending, the smaller is never slower.
    let sizes: Vec<_> = list(&data, "networks").iter().map(|one| one["size"].as_u64()).collect();
    assert_eq!(sizes, [Some(96), Some(224)]);
    let (small, large) = list(&data, "combinations").split_at(4);
    for (small, large) in small.iter().zip(large) {
        for rate in 0..rates {
            let best = |found| latency(plan(&data, found, "best", rate).unwrap(), rate);
            assert!(best(small) <= best(large));
        }
    }
}

#[test]
fn the_ranges_of_bandwidth_hold_the_cells() {
    let (_folder, data) = study(SMALL, &[]);
    let rates: Vec<u64> = list(&data, "rates").iter().map(|rate| rate.as_u64().unwrap()).collect();
    let ends = [rates[0], rates[rates.len() - 1]];
    let mut changes = 0;
    for found in list(&data, "combinations") {
        let ranges: Vec<(u64, u64, usize)> = list(found, "changes")
            .iter()
            .map(|one| ["from", "to", "plan"].map(|key| one[key].as_u64().unwrap()))
            .map(|[from, to, plan]| (from, to, plan as usize))
            .collect();
        assert_eq!([ranges[0].0, ranges[ranges.len() - 1].1], ends);
        assert!(ranges.windows(2).all(|two| two[0].1 + 1 == two[1].0), "{ranges:?}");
        changes += ranges.len() - 1;
        for (at, &rate) in rates.iter().enumerate() {
            let here = ranges.iter().find(|(from, to, _)| (*from..=*to).contains(&rate)).unwrap();
            let best = plan(&data, found, "best", at).unwrap();
            assert_eq!(latency(&data["plans"][here.2], at), latency(best, at));
        }
    }
    assert!(changes > 0, "somewhere the fastest plan changes");
}

#[test]
fn no_plan_beats_a_point_of_the_front_in_latency_and_money() {
    let (_folder, data) = study(SMALL, &[]);
    let plans = list(&data, "plans");
    assert_eq!(list(&data, "fronts").len(), 2 * 5, "for each network and rate");
    let mut points = 0;
    for front in list(&data, "fronts") {
        let rate = front["rate"].as_u64().unwrap() as usize;
        let costs = |plan: &Value| (latency(plan, rate), plan["money"].as_u64().unwrap());
        for at in list(front, "plans") {
            let point = &plans[at.as_u64().unwrap() as usize];
            assert_eq!(point["network"], front["network"]);
            let (time, money) = costs(point);
            let keeps_up =
                |plan: &&Value| plan["busiest_ns"][rate].as_u64().unwrap() <= 1_000_000_000;
            assert!(keeps_up(&point), "a frame comes every second: {point}");
            let others = plans.iter().filter(|plan| plan["network"] == front["network"]);
            let others = others.filter(keeps_up).map(costs);
            for other in others {
                let is_better = other.0 <= time && other.1 <= money && other != (time, money);
                assert!(!is_better, "{other:?} beats {:?}", (time, money));
            }
            points += 1;
        }
    }
    assert!(points > 8, "there is something to choose");
    // A picture of 224 x 224 x 3 bytes keeps 100 kbit/s busy for 12 s.
    let cloud = plan(&data, &data["combinations"][4], "cloud", 0).unwrap();
    assert_eq!(cloud["busiest_ns"][0], 150_528_u64 * 8 * 10_000);
    for plan in plans {
        let part = |key: &str| plan[key].as_u64().unwrap();
        let sum: u64 = ["rent", "purchase", "electricity", "traffic"].into_iter().map(part).sum();
        assert_eq!(sum, part("money"));
    }
    // 35 for 36 months, for each of 5000 users, rounded up to millionths.
    let bought = plans.iter().find(|plan| plan["board"] == 0).unwrap();
    assert_eq!(bought["purchase"], (35_000_000_u64 * 5000).div_ceil(36));
}

/// 5000 users, 7.527 EUR for an instance and month (Leroy and Goedemé 2021).
#[test]
fn instances_and_rent_of_a_published_service_are_exact() {
    // Users that one instance bears; instances; millionths of a EUR a month.
    let rows = [
        (228_u64, 22_u64, 165_594_000_u64),
        (143, 35, 263_445_000),
        (32, 157, 1_181_739_000),
        (29, 173, 1_302_171_000),
        (10, 500, 3_763_500_000),
    ];
    let mut text = "version = 1\n[study]\nusers = 5000\ncurrency = \"EUR\"\nbandwidths = [\"20mbit\"]\n\
         [[network]]\nzoo = \"mobilenetv2\"\ninput_sizes = [96]\n[[board]]\npreset = \"jetson-nano-gpu\"\n"
        .to_owned();
    for (users, ..) in rows {
        text += &format!(
            "[[instance]]\nname = \"{users} users\"\npreset = \"t2.micro\"\nrent = \"7.527\"\n\
             users_per_instance = {users}\n"
        );
    }
    let (_folder, data) = study(&text, &[]);
    for (found, (_, instances, rent)) in list(&data, "combinations").iter().zip(rows) {
        for of in ["cloud", "split"] {
            let plan = plan(&data, found, of, 0).unwrap();
            assert_eq!((&plan["instances"], &plan["rent"]), (&json!(instances), &json!(rent)));
        }
        let edge = plan(&data, found, "edge", 0).unwrap();
        assert_eq!((&edge["instances"], &edge["rent"]), (&json!(0), &json!(0)));
    }
}

#[test]
fn the_headline_tells_where_a_split_pays_and_where_not() {
    let lossless = SMALL.replace("cut_encodings = [\"uint8\"]", "");
    let cases = [
        (SMALL.to_owned(), "A split of mobilenetv2 is the fastest in ", "A split gains most for "),
        (lossless, "Do not split mobilenetv2: ", "A split comes nearest for "),
    ];
    for (text, what, why) in cases {
        let (_folder, data) = study(&text, &[]);
        let said = |key: &str| data["headline"][key].as_str().unwrap().to_owned();
        assert!(said("what").starts_with(what), "{}", said("what"));
        assert!(said("why").starts_with(why), "{}", said("why"));
        let best = list(&data, "combinations").iter().flat_map(|found| list(found, "best"));
        let kinds = best.map(|at| &data["plans"][at.as_u64().unwrap() as usize]["kind"]);
        let kinds: Vec<&str> = kinds.map(|kind| kind.as_str().unwrap()).collect();
        assert_eq!(what.starts_with("A split"), kinds.contains(&"split"), "{kinds:?}");
        assert!(said("what").contains(&format!("of {} cells", kinds.len())), "{}", said("what"));
    }
}

#[test]
fn every_file_says_the_same_and_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fs::write(out.join("best.csv"), "old").unwrap();
    fs::write(folder.path().join("study.toml"), SMALL).unwrap();
    let said = succeeds(folder.path(), &["study", "study.toml", "-o", "out", "--json"]);
    let printed: Value = serde_json::from_str(&said).unwrap();
    let names = fs::read_dir(&out).unwrap().map(|one| one.unwrap().file_name());
    let names: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    let expected: BTreeSet<String> =
        FILES.into_iter().chain(["notes.txt"]).map(str::to_owned).collect();
    assert_eq!(names, expected, "nothing is left beside them");
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("study.json")).unwrap(), printed);
    let page = read("study.html");
    let data = page.split_once(r#"<script type="application/json" id="data">"#).unwrap().1;
    let data = data.split_once("</script>").unwrap().0;
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), printed);
    assert!(page.ends_with("</html>\n"));
    let count = |name: &str| read(name).lines().count() - 1;
    assert_eq!(count("best.csv"), 8 * 5);
    assert_eq!(count("deployments.csv"), list(&printed, "plans").len());
    let ranges = list(&printed, "combinations").iter().map(|one| list(one, "changes").len());
    assert_eq!(count("changes.csv"), ranges.sum::<usize>());
    let points = list(&printed, "fronts").iter().map(|one| list(one, "plans").len());
    assert_eq!(count("front.csv"), points.sum::<usize>());
    assert_eq!([count("predictions.csv"), count("scaling.csv")], [0, 0]);
}

#[test]
fn without_a_file_the_default_is_run_and_the_words_say_what_is_modelled() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shown = succeeds(folder, &["study", "--show-default"]);
    fs::write(folder.join("own.toml"), shown).unwrap();
    let one = ["--network", "squeezenet:64", "--json"];
    let without = succeeds(folder, &[&["study", "-o", "a"], &one[..]].concat());
    let with = succeeds(folder, &[&["study", "own.toml", "-o", "b"], &one[..]].concat());
    assert_eq!(without, with);
    let told = succeeds(folder, &["study", "-o", "a", "--network", "squeezenet:64"]);
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "not split",
        "modelled from presets, not measured",
        "fastest over the bandwidth",
        "for 5000 users",
        "open a/study.html",
    ] {
        let (told, words) = (told.to_lowercase(), words.to_lowercase());
        assert!(told.contains(&words), "does not say `{words}`: {told}");
    }
}

#[test]
fn sizes_that_a_network_does_not_take_are_left_out_and_named() {
    let text = SMALL.replace("input_sizes = [224, 96]", "input_sizes = [4, 96]");
    let (_folder, data) = study(&text, &[]);
    assert_eq!(list(&data, "networks").len(), 1);
    let left = data["left_out"][0].as_str().unwrap();
    assert!(left.contains("mobilenetv2-4") && left.contains("cannot take"), "{left}");
    let text = SMALL.replace("[study]", "[study]\ninput_encodings = [\"jpeg\"]");
    let (_folder, data) = study(&text, &[]);
    let left = data["left_out"][0].as_str().unwrap();
    assert!(left.contains("`jpeg`"), "no preset says what a picture weighs: {left}");
}

/// Times of three families as a device would take them, some off by a known share.
fn kernels() -> Value {
    let sample = |network: &str, size: u32, time: u64| json!({ "network": network, "input_size": size, "time_ns": time });
    json!({ "version": 1, "hardware": "a machine", "engine": "rten", "engine_version": "1",
        "threads": 1, "samples": [
            sample("squeezenet", 64, 6_000_000), sample("squeezenet", 128, 22_000_000),
            sample("resnet18", 64, 28_000_000), sample("resnet18", 96, 62_000_000),
            sample("mobilenetv1", 64, 9_000_000), sample("mobilenetv1", 128, 33_000_000) ] })
}

#[test]
fn measured_kernels_and_throughput_are_shown_with_their_errors_and_laws() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("study.toml"), SMALL).unwrap();
    fs::write(folder.join("kernels.json"), kernels().to_string()).unwrap();
    let grid = "version = 1\nnetworks = [\"lenet5\"]\nbatches = [1, 2, 3, 4]\nimpossible = \"skip\"\n\
        [measure]\nmax_turns = 3\nmin_turns = 3\nturn_time = \"10ms\"\nrest = \"0ms\"\n";
    fs::write(folder.join("grid.toml"), grid).unwrap();
    succeeds(folder, &["characterize", "grid.toml", "-o", "sweep.db"]);
    let given = ["--kernels", "kernels.json", "--sweep", "sweep.db"];
    let args = [&["study", "study.toml", "-o", "out", "--json"], &given[..]].concat();
    let data: Value = serde_json::from_str(&succeeds(folder, &args)).unwrap();
    let [of] = list(&data, "predictions").as_slice() else { panic!("one file, one law") };
    assert_eq!(of["is_held_out"], true);
    assert_eq!(list(of, "points").len(), 6, "every network, its family left out");
    let mut errors = Vec::new();
    for point in list(of, "points") {
        let [measured, predicted] =
            ["measured_ns", "predicted_ns"].map(|key| point[key].as_u64().unwrap());
        errors.push(predicted.abs_diff(measured) * 1000 / measured);
    }
    errors.sort_unstable();
    assert_eq!(of["median_permille"], errors[2], "{errors:?}");
    assert_eq!(of["band_permille"], errors[5], "{errors:?}");
    let [curve] = list(&data, "scaling").as_slice() else { panic!("one curve over the batch") };
    assert_eq!(curve["over"], "batch");
    let points = list(curve, "points");
    assert_eq!(
        points.iter().map(|one| one["n"].as_u64()).collect::<Vec<_>>(),
        [1, 2, 3, 4].map(Some)
    );
    let [lambda, sigma, kappa] =
        ["lambda", "sigma", "kappa"].map(|key| curve[key].as_f64().unwrap());
    for point in points {
        let n = point["n"].as_f64().unwrap();
        let law = lambda * n / (1.0 + sigma * (n - 1.0) + kappa * n * (n - 1.0));
        assert!((point["fitted"].as_f64().unwrap() / law - 1.0).abs() < 1e-9);
    }
    let csv = fs::read_to_string(folder.join("out/scaling.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 4);
}

#[test]
fn a_board_with_a_profile_has_measured_times_and_shows_its_fit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(folder, &["zoo", "write", "squeezenet", "--input-size", "64", "-o", "net.onnx"]);
    let profile = "profile net.onnx --engine rten --threads 1 --budget 40 --time 2s -o p.json";
    succeeds(folder, &profile.split(' ').collect::<Vec<_>>());
    let text = SMALL
        .replace("zoo = \"mobilenetv2\"\ninput_sizes = [224, 96]", "model = \"net.onnx\"")
        .replace(
            "preset = \"rpi3b+\"",
            "name = \"mine\"\npreset = \"rpi3b+\"\nprofiles = [\"p.json\"]",
        );
    fs::write(folder.join("study.toml"), text).unwrap();
    let said = succeeds(folder, &["study", "study.toml", "-o", "out", "--json"]);
    let data: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(data["boards"][0]["origins"], json!(["fitted"]));
    assert_eq!(data["boards"][1]["origins"], json!(["preset"]));
    let sources: Vec<&str> =
        list(&data, "sentences").iter().rev().take(2).filter_map(Value::as_str).collect();
    assert!(sources[1].starts_with("Times of jetson-nano-gpu, t2.micro"), "{sources:?}");
    assert!(sources[0].starts_with("Times of mine come from profiles"), "{sources:?}");
    let [of] = list(&data, "predictions").as_slice() else { panic!("one profile, one fit") };
    assert_eq!(of["is_held_out"], false, "the parts are in the fit");
    let profile: Value = serde_json::from_slice(&fs::read(folder.join("p.json")).unwrap()).unwrap();
    assert_eq!(list(of, "points").len(), list(&profile, "segments").len());
    let edge = plan(&data, &data["combinations"][0], "edge", 0).unwrap();
    let times = list(&profile, "groups").iter().map(|group| group["time_ns"].as_u64().unwrap());
    let whole = times.sum::<u64>() + profile["call_ns"].as_u64().unwrap();
    assert_eq!(edge["edge_compute_ns"], whole);
}

#[test]
fn enormous_and_tiny_quantities_are_answered_or_refused_and_never_panic() {
    let cases = [
        ("users = 5000", "users = 9223372036854775807"),
        ("frames_per_second = \"1\"", "frames_per_second = \"0.000001\""),
        ("frames_per_second = \"1\"", "frames_per_second = \"9999999999\""),
        ("\"1gbit\"", "\"18446744073gbit\""),
        ("\"100kbit\"", "\"8bit\""),
        ("purchase = \"35\"", "purchase = \"9999999999999\""),
        ("delay = \"10ms\"", "delay = \"18446744073s\""),
        ("electricity = \"0.20\"", "electricity = \"9999999999999\""),
        ("preset = \"t2.micro\"", "preset = \"t2.micro\"\nrent = \"9999999999999\""),
        ("delay = \"10ms\"", "delay = \"10ms\"\ntraffic = \"9999999999999\""),
    ];
    for (from, to) in cases {
        assert!(SMALL.contains(from), "{from}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("study.toml"), SMALL.replacen(from, to, 1)).unwrap();
        let output = cutline(folder.path(), &["study", "study.toml", "-o", "out"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert!(code.is_some_and(|code| code < 2) && !said.contains("panicked"), "{to}: {said}");
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    // What of the file is replaced by what, and what the error says.
    let cases: [(&str, &str, &[&str]); 12] = [
        ("version = 1", "version = 2", &["version 2"]),
        ("users = 5000", "users = 0", &["`users`"]),
        ("users = 5000", "cameras = 5000", &["cameras"]),
        ("\"100kbit\"", "\"fast\"", &["`bandwidths`", "fast"]),
        ("\"100kbit\"", "\"0bit\"", &["`bandwidths`", "0bit"]),
        ("frames_per_second = \"1\"", "frames_per_second = \"0\"", &["`frames_per_second`"]),
        ("zoo = \"mobilenetv2\"", "zoo = \"mobilenet9\"", &["mobilenet9", "did you mean"]),
        ("input_sizes = [224, 96]", "input_sizes = [4]", &["cannot take", "4x4"]),
        ("preset = \"t2.micro\"", "preset = \"rpi3b+\"", &["`rpi3b+`", "`name`"]),
        ("preset = \"t2.micro\"", "preset = \"t9\"\nrent = \"1\"", &["t9"]),
        ("delay = \"10ms\"", "delay = \"soon\"", &["soon"]),
        ("[\"uint8\"]", "[\"zip\"]", &["`cut_encodings`", "zip"]),
    ];
    for (from, to, words) in cases {
        assert!(SMALL.contains(from), "{from}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("study.toml"), SMALL.replacen(from, to, 1)).unwrap();
        let output = cutline(folder.path(), &["study", "study.toml", "-o", "out"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{to}: {said}");
        assert!(said.starts_with("error: cannot use study `study.toml`"), "{to}: {said}");
        assert!(!folder.path().join("out").exists(), "{to}");
        for word in words {
            assert!(said.contains(word), "{to}: does not say `{word}`: {said}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("no.db"), "").unwrap();
    for (option, file) in [("--sweep", "gone.db"), ("--sweep", "no.db"), ("--kernels", "gone.json")]
    {
        let output = cutline(folder.path(), &["study", "-o", "out", option, file]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(file), "{said}");
    }
    assert_eq!(
        fs::read(folder.path().join("no.db")).unwrap(),
        b"",
        "what is no sweep is left as it is"
    );
    assert!(!folder.path().join("gone.db").exists() && !folder.path().join("out").exists());
}
