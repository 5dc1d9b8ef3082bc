//! `cutline size` as people run it: a published cost table, what it answers, what it refuses.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Runs `cutline size` on a workload.
fn size(workload: &str, options: &[&str]) -> Output {
    size_beside("", workload, options)
}

/// The same with a file `rates.csv` beside it.
fn size_beside(rates: &str, workload: &str, options: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("workload.toml"), workload).unwrap();
    fs::write(folder.path().join("rates.csv"), rates).unwrap();
    Command::new(env!("CARGO_BIN_EXE_cutline"))
        .args(["size", "workload.toml"])
        .args(options)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn answer(workload: &str, options: &[&str]) -> Value {
    let output = size(workload, &[options, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code < 2), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
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
    let mut workload = "version = 1\n[workload]\ncameras = 5000\nframes_per_second = \"0.1\"\n\
         deadline = \"60s\"\ncurrency = \"EUR\"\nplans = [\"cloud\", \"split\"]\n\
         [[network]]\nzoo = \"mobilenetv2\"\n[[board]]\npreset = \"jetson-nano-gpu\"\n\
         [[link]]\nup = \"20mbit\"\ndelay = \"10ms\"\n"
        .to_owned();
    for (users, ..) in rows {
        workload += &format!(
            "[[instance]]\nname = \"{users} users\"\npreset = \"t2.micro\"\nrent = \"7.527\"\n\
             users_per_instance = {users}\n"
        );
    }
    let answer = answer(&workload, &["--answers", "5"]);
    let found: Vec<_> = answer["deployments"].as_array().unwrap().iter().collect();
    let expected: Vec<_> = rows.iter().map(|&(users, n, cost)| (users, n, cost)).collect();
    let found: Vec<_> = found
        .iter()
        .map(|row| {
            let number = |key: &str| row[key].as_u64().unwrap();
            assert_eq!(row["instance"], format!("{} users", number("most_cameras_per_instance")));
            (number("most_cameras_per_instance"), number("instances"), number("cost_per_month"))
        })
        .collect();
    assert_eq!(found, expected);
}

const SMALL: &str = "version = 1
[workload]
cameras = 5000
frames_per_second = \"1\"
deadline = \"300ms\"
electricity = \"0.30\"

[[network]]
zoo = \"mobilenetv2\"
accuracy = \"71.8%\"

[[board]]
preset = \"rpi3b+\"
purchase = \"40\"
life_months = 36

[[instance]]
preset = \"c5.large\"

[[instance]]
preset = \"g4dn.xlarge\"

[[link]]
preset = \"4g-2020\"
";

#[test]
fn the_answer_names_what_to_rent_why_and_what_breaks_first() {
    let output = size(SMALL, &["--frames", "20000"]);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let words = [
        "USD a month",
        "cheapest: ",
        "as every camera sends more frames the first to break is the ",
        "modelled from presets, not measured",
        "waiting: by formulas, and by simulation",
    ];
    for word in words {
        assert!(said.contains(word), "does not say `{word}`: {said}");
    }
}

#[test]
fn a_deadline_that_nothing_meets_is_answered_by_what_comes_nearest() {
    let tight = SMALL.replace("300ms", "5ms");
    let output = size(&tight, &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing serves 5000 cameras"), "{said}");
    assert!(said.contains("over the deadline of 5.00 ms"), "{said}");
    let poor = SMALL.replace("[[network]]", "budget = \"10\"\n[[network]]");
    let answer = answer(&poor, &["--frames", "2000"]);
    assert_eq!(answer["deployments"].as_array().unwrap().len(), 0);
    let limits: Vec<_> = answer["missed"].as_array().unwrap().iter().collect();
    assert!(limits.iter().any(|missed| missed["limit"] == "budget"), "{limits:?}");
}

#[test]
fn a_network_below_the_asked_accuracy_is_left_out() {
    let with = |floor: &str| {
        SMALL
            .replace(
                "[[board]]",
                "[[network]]\nzoo = \"squeezenet\"\naccuracy = \"58%\"\n[[board]]",
            )
            .replace(
                "deadline = \"300ms\"",
                &format!("deadline = \"900ms\"\naccuracy = \"{floor}\""),
            )
    };
    let names = |floor: &str| -> Vec<String> {
        let answer = answer(&with(floor), &["--frames", "2000", "--answers", "9"]);
        let rows = answer["deployments"].as_array().unwrap();
        let mut names: Vec<_> =
            rows.iter().map(|row| row["network"].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    assert_eq!(names("50%"), ["mobilenetv2", "squeezenet"]);
    assert_eq!(names("60%"), ["mobilenetv2"]);
}

#[test]
fn a_bad_workload_is_refused_with_the_key_that_is_wrong() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("version = 1", "version = 2", &["version 2", "reads version 1"]),
        ("cameras = 5000", "cameras = 0", &["`cameras` = 0"]),
        ("cameras = 5000", "camera = 5000", &["camera"]),
        ("cameras = 5000", "cameras = -1", &["cameras"]),
        ("frames_per_second = \"1\"", "frames_per_second = \"0\"", &["frames_per_second"]),
        ("frames_per_second = \"1\"", "frames_per_second = \"often\"", &["frames_per_second"]),
        ("\"300ms\"", "\"soon\"", &["`deadline`", "soon"]),
        ("[[network]]", "percentile = \"100%\"\n[[network]]", &["`percentile`"]),
        ("[[network]]", "headroom = \"much\"\n[[network]]", &["`headroom`", "much"]),
        ("[[network]]", "arrivals = \"rarely\"\n[[network]]", &["rarely", "poisson"]),
        ("[[network]]", "arrivals = \"bursts\"\n[[network]]", &["`burst`", "`spacing`"]),
        ("[[network]]", "burst = 3\n[[network]]", &["`burst`", "bursts"]),
        ("[[network]]", "budget = \"lots\"\n[[network]]", &["`budget`", "lots"]),
        ("[[network]]", "plans = []\n[[network]]", &["`plans`"]),
        ("[[network]]", "accuracy = \"2\"\n[[network]]", &["`accuracy`", "2"]),
        ("accuracy = \"71.8%\"", "input_size = 4", &["mobilenetv2"]),
        ("zoo = \"mobilenetv2\"", "zoo = \"mobilenet9\"", &["mobilenet9"]),
        ("zoo = \"mobilenetv2\"", "model = \"gone.onnx\"", &["gone.onnx"]),
        ("zoo = \"mobilenetv2\"", "name = \"net\"", &["[[network]] number 1", "`zoo`"]),
        ("accuracy = \"71.8%\"", "cut_encodings = [\"zip\"]", &["`cut_encodings`", "zip"]),
        ("preset = \"rpi3b+\"", "preset = \"rpi33\"", &["rpi33", "did you mean"]),
        ("life_months = 36", "life_months = 0", &["rpi3b+", "life"]),
        ("life_months = 36", "users_per_instance = 2", &["`users_per_instance`", "[[instance]]"]),
        ("purchase = \"40\"", "purchase = \"cheap\"", &["rpi3b+", "purchase", "cheap"]),
        ("preset = \"c5.large\"", "preset = \"rpi3b+\"", &["`rpi3b+`", "`name`"]),
        ("preset = \"c5.large\"", "preset = \"g4dn.xlarge\"", &["g4dn.xlarge", "twice"]),
        ("preset = \"4g-2020\"", "preset = \"6g\"", &["6g"]),
        ("preset = \"4g-2020\"", "preset = \"4g-2020\"\ntraffic = \"x\"", &["`traffic`"]),
        ("[[link]]\npreset = \"4g-2020\"", "", &["[[instance]]", "[[link]]"]),
        ("[[board]]\npreset = \"rpi3b+\"\npurchase = \"40\"\nlife_months = 36", "", &["[[board]]"]),
        ("[[network]]", "currency = \"EUR\"\n[[network]]", &["USD", "EUR"]),
    ];
    for (from, to, words) in cases {
        assert!(SMALL.contains(from), "{from}");
        let output = size(&SMALL.replacen(from, to, 1), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{to}: {said}");
        assert!(said.starts_with("error: cannot use workload `workload.toml`"), "{to}: {said}");
        for word in *words {
            assert!(said.contains(word), "{to}: does not say `{word}`: {said}");
        }
    }
}

/// A link that replays `rates.csv`.
const REPLAYED: &str =
    "[[link]]\nname = \"cell\"\nup = \"20mbit\"\ndelay = \"20ms\"\nreplay = \"rates.csv\"";

#[test]
fn a_link_that_varies_is_replayed_from_its_file() {
    let workload = SMALL.replace("[[link]]\npreset = \"4g-2020\"", REPLAYED);
    let workload = workload.replace("[[network]]", "plans = [\"cloud\"]\n[[network]]");
    let workload = workload.replace("300ms", "900ms");
    let workload = workload.replace("[[instance]]\npreset = \"g4dn.xlarge\"\n", "");
    let simulated = |rates: &str| -> Option<u64> {
        let output = size_beside(rates, &workload, &["--frames", "4000", "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let answer: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        Some(
            answer["deployments"].as_array().unwrap().first()?["simulated"]["latency_ns"]
                .as_u64()
                .unwrap(),
        )
    };
    let steady = simulated("time,up\n0s,20mbit\n60s,20mbit\n").unwrap();
    let slower = simulated("time, up\n5s,20mbit\n35s,12mbit\n65s,20mbit\n").unwrap();
    assert!(slower > steady, "{slower} after {steady}");
    // An outage of ten seconds in each minute: more than one frame in a hundred is late.
    assert_eq!(simulated("time,up\n0s,20mbit\n50s,0bit\n60s,20mbit\n"), None);
}

#[test]
fn rates_that_cannot_be_replayed_are_refused_with_what_is_wrong() {
    let workload = SMALL.replace("[[link]]\npreset = \"4g-2020\"", REPLAYED);
    let cases: &[(&str, &str)] = &[
        ("", "no column `time`"),
        ("time\n0s\n1s\n", "neither a column `up` nor `down`"),
        ("time,up\n0s,1mbit\n", "two rows"),
        ("time,up\n1s,1mbit\n1s,2mbit\n", "line 3: times have to rise"),
        ("time,up\n0s,fast\n1s,2mbit\n", "line 2"),
        ("time,up\n0s,1mbit\n1s\n", "fields"),
        ("time,up\n0s,1mbit\n100000s,1mbit\n", "longer than a day"),
        ("time,up\n0s,0bit\n1s,1mbit\n", "never delivers"),
        ("time,down\n0s,1mbit\n1s,1mbit\n", "give `down` of the link too"),
    ];
    for (rates, word) in cases {
        let output = size_beside(rates, &workload, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{rates}: {said}");
        assert!(said.contains("cannot replay") && said.contains(word), "{rates}: {said}");
    }
}
