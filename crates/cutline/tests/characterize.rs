//! `cutline characterize` as a whole: killed and resumed, grown, exported, on agents.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::{
    onnx::proto::{tensor_shape_proto::dimension, type_proto},
    zoo::{self, ZooOptions},
};
use prost::Message;
use rusqlite::{Connection, OpenFlags, types::Value};
use serde_json::Value as Json;
use tempfile::TempDir;

/// Four small cells, each of at least ten turns, that are over soon.
const GRID: &str = r#"
version = 1
networks = [{ network = "lenet5", sizes = [28, 32] }]
batches = [1, 2]
[measure]
precision = "20%"
min_turns = 10
max_turns = 30
rest = "2ms"
"#;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
    command.current_dir(folder).arg("characterize").args(arguments);
    command
}

fn characterize(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn report(folder: &Path, arguments: &[&str]) -> Json {
    let output = characterize(folder, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn folder(grid: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("grid.toml"), grid).unwrap();
    folder
}

fn rows(file: &Path, query: &str) -> Vec<Vec<Value>> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let mut query = connection.prepare(query).unwrap();
    let columns = query.column_count();
    let rows = query.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

fn text(value: &Value) -> String {
    let Value::Text(text) = value else { panic!("{value:?} is no text") };
    text.clone()
}

/// Results by cell.
fn results(file: &Path) -> BTreeMap<String, Vec<Value>> {
    let rows = rows(file, "SELECT * FROM result");
    let count = rows.len();
    let results: BTreeMap<_, _> = rows.into_iter().map(|row| (text(&row[0]), row)).collect();
    assert_eq!(results.len(), count, "a cell has two results");
    results
}

fn count(file: &Path, query: &str) -> i64 {
    match rows(file, query)[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("{other:?} is no number"),
    }
}

/// Whole turns: each has as many runs as its cell's others, odd, numbered from nought.
fn check_turns(file: &Path) {
    let broken = "SELECT count(*) FROM (SELECT t.cell, t.number, count(r.number) AS runs, \
                  max(r.number) AS last FROM turn t LEFT JOIN run r ON r.cell = t.cell AND \
                  r.turn = t.number GROUP BY t.cell, t.number) \
                  WHERE runs % 2 = 0 OR last != runs - 1";
    assert_eq!(count(file, broken), 0, "a turn is not whole");
    let gaps = "SELECT count(*) FROM (SELECT cell, count(*) AS turns, max(number) AS last \
                FROM turn GROUP BY cell) WHERE last != turns - 1";
    assert_eq!(count(file, gaps), 0, "turns are missing");
    assert_eq!(
        count(file, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check != 'ok'"),
        0
    );
}

/// Numbers without a pattern, the same in every run of the test.
fn pauses(count: u64) -> Vec<Duration> {
    let mix = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 400;
    (1..=count).map(|n| Duration::from_millis(20 + mix(n))).collect()
}

/// One of these at a time is killed, wherever it is.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_sweep_that_is_killed_twenty_times_keeps_every_finished_cell_once() {
    // More and longer turns, so that kills meet cells of every state.
    let grid = GRID.replace("batches = [1, 2]", "batches = [1, 2, 3, 4, 5, 6]");
    let grid = grid.replace("rest = \"2ms\"", "rest = \"5ms\"");
    let folder = folder(&grid);
    let file = folder.path().join("sweep.db");
    let mut before: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let (mut turns, mut in_the_middle) = (0, 0);
    for pause in pauses(20) {
        let mut child = command(folder.path(), &["grid.toml", "-o", "sweep.db"]);
        let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(pause);
        kill(child);
        if !file.exists() || count(&file, "SELECT count(*) FROM sqlite_master") == 0 {
            continue;
        }
        check_turns(&file);
        let after = results(&file);
        for (cell, result) in &before {
            assert_eq!(after.get(cell), Some(result), "a finished cell changed");
        }
        let now = count(&file, "SELECT count(*) FROM turn");
        assert!(now >= turns, "turns were lost");
        turns = now;
        in_the_middle += u32::from(turns > 0 && after.len() < 12);
        before = after;
    }
    assert!(in_the_middle >= 3, "the kills met no sweep under way: {in_the_middle}");
    let report = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    assert_eq!(report["kept"], before.len());
    assert_eq!(report["cells"].as_array().unwrap().len(), 12);
    let after = results(&file);
    assert_eq!(after.len(), 12);
    for (cell, result) in &before {
        assert_eq!(after.get(cell), Some(result), "a finished cell changed");
    }
    check_turns(&file);
    assert!(count(&file, "SELECT count(*) FROM turn") >= 120);
    assert!(!folder.path().join("sweep.db.work").exists(), "files of networks stay behind");

    // Once more: nothing is left to do, and nothing changes.
    let again = self::report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    assert_eq!((&again["kept"], &again["cells"]), (&Json::from(12), &report["cells"]));
    assert_eq!(results(&file), after);
}

#[test]
fn a_larger_grid_adds_its_cells_to_the_file() {
    let folder = folder(&GRID.replace("sizes = [28, 32]", "sizes = [28]"));
    let file = folder.path().join("sweep.db");
    let first = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    assert_eq!(first["cells"].as_array().unwrap().len(), 2);
    let before = results(&file);
    fs::write(folder.path().join("grid.toml"), GRID).unwrap();
    let second = report(folder.path(), &["grid.toml", "-o", "sweep.db", "--seed", "9"]);
    assert_eq!((&second["kept"], &second["seed"]), (&Json::from(2), &Json::from(9)));
    assert_eq!(second["cells"].as_array().unwrap().len(), 4);
    let after = results(&file);
    assert_eq!(after.len(), 4);
    assert!(before.iter().all(|(cell, result)| after.get(cell) == Some(result)));
    assert_eq!(count(&file, "SELECT count(*) FROM session"), 2);
    for line in second["cells"].as_array().unwrap() {
        let number = |name: &str| line[name].as_i64().unwrap();
        assert!(
            number("low_ns") <= number("median_ns") && number("median_ns") <= number("high_ns")
        );
        assert!(number("runs") >= 5 * number("turns") && number("inference_ns") > 0);
        assert_eq!((&line["agent"], &line["transfer_ns"]), (&Json::from("local"), &Json::Null));
    }
}

#[test]
fn another_way_of_measuring_is_refused_in_the_same_file() {
    let folder = folder(GRID);
    report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let before = results(&folder.path().join("sweep.db"));
    for (from, to, words) in [
        (
            "precision = \"20%\"",
            "precision = \"1%\"",
            "measured with `precision` 20%, and the grid says 1%",
        ),
        ("max_turns = 30", "max_turns = 40", "measured with `max_turns` 30, and the grid says 40"),
        (
            "rest = \"2ms\"",
            "rest = \"0ms\"",
            "measured with `rest` 2.00 ms, and the grid says 0 ns",
        ),
    ] {
        fs::write(folder.path().join("grid.toml"), GRID.replace(from, to)).unwrap();
        let output = characterize(folder.path(), &["grid.toml", "-o", "sweep.db"]);
        assert!(!output.status.success() && said(&output).contains(words), "{}", said(&output));
    }
    assert_eq!(results(&folder.path().join("sweep.db")), before);
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let folder = folder(GRID);
    let file = folder.path().join("other.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE birds (name TEXT)").unwrap();
    fs::write(
        folder.path().join("note.txt"),
        "these are the notes of a careful person ".repeat(20),
    )
    .unwrap();
    for (file, words) in
        [("other.db", "none of `cutline characterize`"), ("note.txt", "not a database")]
    {
        let before = fs::read(folder.path().join(file)).unwrap();
        let output = characterize(folder.path(), &["grid.toml", "-o", file]);
        assert!(!output.status.success() && said(&output).contains(words), "{}", said(&output));
        assert_eq!(fs::read(folder.path().join(file)).unwrap(), before, "{file} changed");
    }
}

#[test]
fn what_a_grid_cannot_have_is_refused_or_left_out() {
    let grid =
        "version = 1\nnetworks = [\"lenet5\"]\nsizes = [28, 128]\n[measure]\nprecision = \"20%\"\n";
    let folder = folder(grid);
    let output = characterize(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let words = "`lenet5` cannot take an input of 128x128";
    assert!(!output.status.success() && said(&output).contains(words), "{}", said(&output));
    assert!(said(&output).contains("impossible = \"skip\""), "{}", said(&output));

    fs::write(
        folder.path().join("grid.toml"),
        grid.replace("[measure]", "impossible = \"skip\"\n[measure]"),
    )
    .unwrap();
    let skipping = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    assert_eq!(skipping["cells"].as_array().unwrap().len(), 1);
    assert!(skipping["skipped"][0].as_str().unwrap().contains(words), "{skipping:#}");
}

#[test]
fn a_file_of_one_size_and_precision_is_refused_at_another() {
    let folder = folder(
        "version = 1\nnetworks = [\"net.onnx\"]\nsizes = [32]\n[measure]\nprecision = \"20%\"\n",
    );
    let written = Command::new(env!("CARGO_BIN_EXE_cutline"))
        .current_dir(folder.path())
        .args(["zoo", "write", "lenet5", "-o", "net.onnx"])
        .output()
        .unwrap();
    assert!(written.status.success());
    let output = characterize(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    for words in ["net.onnx", "`sizes` asks for 32", "it takes 28x28 and no other size"] {
        assert!(!output.status.success() && said(&output).contains(words), "{}", said(&output));
    }
    fs::write(
        folder.path().join("grid.toml"),
        "version = 1\nnetworks = [\"net.onnx\"]\nprecisions = [\"int8\"]\n",
    )
    .unwrap();
    let output = characterize(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    assert!(said(&output).contains("is fp32 and cannot be had in `int8`"), "{}", said(&output));
}

#[test]
fn a_file_takes_the_sizes_and_batches_that_it_leaves_open() {
    let folder = folder(
        "version = 1\nnetworks = [\"net.onnx\"]\nsizes = [48, 80]\nbatches = [1, 2]\n\
         [measure]\nprecision = \"20%\"\nmax_turns = 10\nruns_per_turn = 1\n",
    );
    let options = ZooOptions { input_size: Some(64), seed: 0 };
    let mut model = zoo::build("squeezenet", &options).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let kind = graph.input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
    let type_proto::Value::TensorType(tensor) = kind else { panic!("no tensor") };
    for (axis, name) in [(0, "n"), (2, "h"), (3, "w")] {
        let open = dimension::Value::DimParam(name.to_owned());
        tensor.shape.as_mut().unwrap().dim[axis].value = Some(open);
    }
    fs::write(folder.path().join("net.onnx"), model.encode_to_vec()).unwrap();
    let report = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let lines = report["cells"].as_array().unwrap();
    let inputs: Vec<&str> = lines.iter().map(|line| line["input"].as_str().unwrap()).collect();
    assert_eq!(inputs, ["1x3x48x48", "2x3x48x48", "1x3x80x80", "2x3x80x80"]);
    let time = |at: usize| lines[at]["median_ns"].as_i64().unwrap();
    // 2.8 times the pixels, and twice as many frames.
    assert!(time(2) > time(0) && time(1) > time(0), "{report:#}");
}

/// The columns are what others read by.
#[test]
fn results_are_exported_as_csv() {
    let folder = folder(GRID);
    report(folder.path(), &["grid.toml", "-o", "sweep.db", "--csv", "sweep.csv"]);
    let csv = fs::read_to_string(folder.path().join("sweep.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    insta::assert_snapshot!(lines[0].replace(',', "\n"), @r"
    id
    network
    network_sha256
    precision
    input
    height
    width
    batch
    threads
    engine
    engine_version
    picture
    picture_sha256
    preprocess
    filter
    upload
    jpeg_quality
    link
    agent
    hardware
    state
    median_ns
    low_ns
    high_ns
    p90_ns
    runs
    turns
    decode_ns
    resize_ns
    encode_ns
    transfer_ns
    finish_ns
    inference_ns
    upload_bytes
    download_bytes
    finished_unix_ns
    error
    ");
    assert_eq!(lines.len(), 1 + 4);
    let width = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() >= width), "{csv}");
    assert!(lines[1..].iter().all(|line| line.contains(",lenet5,")), "{csv}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_parquet_says_so_before_it_measures() {
    let folder = folder(GRID);
    let output =
        characterize(folder.path(), &["grid.toml", "-o", "a.db", "--parquet", "a.parquet"]);
    assert!(!output.status.success() && said(&output).contains("--features parquet"));
    assert!(!folder.path().join("a.db").exists());
}

#[cfg(feature = "parquet")]
#[test]
fn results_are_exported_as_parquet() {
    let folder = folder(GRID);
    report(folder.path(), &["grid.toml", "-o", "a.db", "--parquet", "a.parquet"]);
    let file = fs::read(folder.path().join("a.parquet")).unwrap();
    assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
}

fn picture(folder: &Path) {
    let picture = image::RgbImage::from_fn(320, 240, |x, y| {
        image::Rgb([(x % 256) as u8, (y % 256) as u8, ((x * y) % 251) as u8])
    });
    picture.save(folder.join("photo.jpg")).unwrap();
}

#[test]
fn preparation_is_measured_in_its_parts() {
    let grid = "version = 1\nnetworks = [\"lenet5\"]\npictures = [\"photo.jpg\"]\n\
                filters = [\"nearest\", \"lanczos3\"]\n[measure]\nprecision = \"20%\"\n";
    let folder = folder(grid);
    picture(folder.path());
    let report = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2);
    for line in cells {
        let number = |name: &str| line[name].as_i64().unwrap();
        let parts = ["decode_ns", "resize_ns", "encode_ns", "inference_ns"].map(number);
        assert!(parts.iter().all(|&part| part > 0), "{line:#}");
        // Medians of parts need not add up, but nearly do.
        let (sum, total) = (parts.iter().sum::<i64>(), number("median_ns"));
        assert!(sum * 10 > total * 5 && sum * 10 < total * 15, "{sum} of {total}: {line:#}");
        assert_eq!((&line["upload"], &line["upload_bytes"]), (&Json::Null, &Json::Null));
    }
}

#[test]
fn uploads_to_an_agent_are_measured_over_every_link() {
    let store = tempfile::tempdir().unwrap();
    let options = AgentOptions { store: store.path().to_owned(), ..AgentOptions::default() };
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_cutline"));
    let agent = AgentProcess::start(&binary, &options).unwrap();
    let grid = format!(
        "version = 1\nnetworks = [\"squeezenet\"]\nsizes = [64]\npictures = [\"photo.jpg\"]\n\
         uploads = [\"jpeg:20\", \"jpeg:95\", \"uint8\", \"fp32\"]\nlinks = [\"real\", \"8mbit 5ms\"]\n\
         agents = [\"local\", \"{}\"]\n[measure]\nprecision = \"25%\"\nmin_turns = 8\nmax_turns = 8\n\
         runs_per_turn = 1\n",
        agent.address
    );
    let folder = folder(&grid);
    picture(folder.path());
    let report = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 1 + 2 * 4);
    let bytes = |upload: &str, quality: Json, link: &str| {
        let line = cells.iter().find(|line| {
            (&line["upload"], &line["jpeg_quality"], &line["link"])
                == (&Json::from(upload), &quality, &Json::from(link))
        });
        let line = line.unwrap_or_else(|| panic!("no cell of {upload} {quality} over {link}"));
        (line["upload_bytes"].as_i64().unwrap(), line["transfer_ns"].as_i64().unwrap())
    };
    assert_eq!(bytes("uint8", Json::Null, "real").0, 64 * 64 * 3);
    assert_eq!(bytes("fp32", Json::Null, "real").0, 64 * 64 * 3 * 4);
    let (coarse, fine) = (bytes("jpeg", 20.into(), "real").0, bytes("jpeg", 95.into(), "real").0);
    assert!(coarse < fine && fine < 64 * 64 * 3, "{coarse} {fine}");
    for (upload, quality) in [("jpeg", Json::from(20)), ("uint8", Json::Null), ("fp32", Json::Null)]
    {
        let (size, time) = bytes(upload, quality, "8mbit 5ms");
        // A megabyte a second, and twice the delay.
        let least = size * 1000 + 10_000_000;
        assert!(time >= least * 95 / 100, "{size} bytes in {time} ns over 8 Mbit/s");
    }
}

/// What an engine lacks shows when the network is loaded.
#[test]
fn a_cell_that_cannot_run_fails_alone_and_is_tried_again() {
    let folder = folder(&GRID.replace("networks = [", "networks = [\"strange.onnx\", "));
    let grid = fs::read_to_string(folder.path().join("grid.toml")).unwrap();
    fs::write(folder.path().join("grid.toml"), grid.replace("batches = [1, 2]", "")).unwrap();
    let mut model = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    let nodes = &mut model.graph.as_mut().unwrap().node;
    nodes.last_mut().unwrap().op_type = Some("Mystery".to_owned());
    fs::write(folder.path().join("strange.onnx"), model.encode_to_vec()).unwrap();
    for kept in [0, 2] {
        let output = characterize(folder.path(), &["grid.toml", "-o", "sweep.db", "--json"]);
        assert!(!output.status.success());
        let report: Json = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["kept"], kept, "{report:#}");
        let lines = report["cells"].as_array().unwrap();
        let states: Vec<&Json> = lines.iter().map(|line| &line["state"]).collect();
        // A busy machine may bring the others to their limit of runs; they are finished either way.
        assert!(states[0] == "failed" && states.len() == 3, "{report:#}");
        assert!(
            states[1..].iter().all(|&state| state == "known" || state == "limit"),
            "{report:#}"
        );
        let error = lines[0]["error"].as_str().unwrap();
        assert!(error.contains("`rten`") && error.contains("Mystery"), "{error}");
    }
}

#[test]
fn a_sweep_whose_agent_dies_goes_on_when_it_is_back() {
    let store = tempfile::tempdir().unwrap();
    let options = AgentOptions { store: store.path().to_owned(), ..AgentOptions::default() };
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_cutline"));
    let mut agent = AgentProcess::start(&binary, &options).unwrap();
    let address = agent.plain();
    let grid = GRID.replace("batches", &format!("agents = [\"{address}\"]\nbatches"));
    let folder = folder(&grid.replace("rest = \"2ms\"", "rest = \"20ms\""));
    let file = folder.path().join("sweep.db");
    let mut sweep = command(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let sweep = sweep.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let turns = "SELECT count(*) FROM sqlite_master WHERE name = 'turn'";
    while !file.exists()
        || count(&file, turns) == 0
        || count(&file, "SELECT count(*) FROM turn") < 5
    {
        thread::sleep(Duration::from_millis(10));
    }
    agent.kill().unwrap();
    let output = sweep.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(said(&output).contains("the same command goes on from there"), "{}", said(&output));
    let turns = count(&file, "SELECT count(*) FROM turn");

    let listen = address.strip_prefix("http://").map(str::to_owned);
    let _agent = AgentProcess::start(&binary, &AgentOptions { listen, ..options }).unwrap();
    let report = report(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let states = report["cells"].as_array().unwrap().iter().map(|line| &line["state"]);
    assert!(states.clone().count() == 4 && states.clone().all(|state| state != "failed"));
    assert!(count(&file, "SELECT count(*) FROM turn") > turns && turns >= 5);
    check_turns(&file);
}

#[test]
fn two_sweeps_do_not_write_one_file() {
    let grid = GRID.replace("rest = \"2ms\"", "rest = \"50ms\"");
    let folder = folder(&grid);
    let mut first = command(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    let first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let file = folder.path().join("sweep.db");
    while !file.exists()
        || rows(&file, "SELECT name FROM sqlite_master WHERE name = 'turn'").is_empty()
    {
        thread::sleep(Duration::from_millis(10));
    }
    let second = characterize(folder.path(), &["grid.toml", "-o", "sweep.db"]);
    kill(first);
    assert!(!second.status.success());
    assert!(said(&second).contains("another sweep is writing"), "{}", said(&second));
}
