//! Every command that takes a network takes it as a `.tflite` file: LeNet-5 as ONNX, as TFLite and as
//! TFLite in integers goes through all of them, and what must not depend on the file does not.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_cutline");
/// The same network three times; the last computes in integers.
const FILES: [&str; 3] = ["net.onnx", "net.tflite", "int8.tflite"];

/// How a command ended, what it wrote, and what it said.
fn cutline(folder: &Path, line: &str) -> (bool, String, String) {
    let mut command = Command::new(BINARY);
    let command = command.args(line.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.success(), stdout, stderr)
}

/// What a command that must end well wrote.
fn run(folder: &Path, line: &str) -> String {
    let (fine, stdout, stderr) = cutline(folder, line);
    assert!(fine, "{line}\n{stdout}{stderr}");
    stdout
}

fn json(folder: &Path, line: &str) -> Value {
    let text = run(folder, &format!("{line} --json"));
    // `run` writes a line for each frame, then its summary.
    let first = text.lines().next().unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| serde_json::from_str(first).unwrap())
}

/// What a command that must fail said.
fn refused(folder: &Path, line: &str) -> String {
    let (fine, stdout, stderr) = cutline(folder, line);
    assert!(!fine, "{line}\n{stdout}{stderr}");
    stderr
}

/// The files, and a platform of boards that were never measured.
fn scene() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run(at, "zoo write lenet5 -o net.onnx");
    run(at, "zoo write lenet5 -o net.tflite");
    run(at, "zoo write lenet5 -o int8.tflite --quantize int8");
    write(at, "boards.toml", &platform("preset = \"rpi4\"", "preset = \"rpi5\""));
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn platform(pi: &str, cloud: &str) -> String {
    format!(
        "version = 1\n[[device]]\nname = \"pi\"\n{pi}\n[[device]]\nname = \"cloud\"\n{cloud}\n\
         [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"100mbit\"\n"
    )
}

/// Gray photographs of 28x28, of one half each.
fn write_pictures(folder: &Path) {
    fs::create_dir_all(folder.join("pictures")).unwrap();
    for index in 0..2u32 {
        let dot = |x: u32, _y: u32| image::Luma([if (x < 14) == (index == 0) { 220 } else { 20 }]);
        let picture = image::GrayImage::from_fn(28, 28, dot);
        picture.save(folder.join(format!("pictures/{index}.png"))).unwrap();
    }
}

/// The answer to the first frame.
fn answer(line: &Value) -> Vec<f64> {
    let values = line["outputs"][0]["values"].as_array();
    values.unwrap_or_else(|| panic!("{line}")).iter().map(|it| it.as_f64().unwrap()).collect()
}

fn is_close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn commands_that_look_at_a_network_see_the_same_one_in_every_file() {
    let folder = scene();
    let at = folder.path();
    let cuts = |file: &str| {
        let seen = json(at, &format!("inspect {file}"));
        assert_eq!(seen["macs"], 416_520, "{file}");
        assert_eq!(seen["groups"].as_array().unwrap().len(), 7, "{file}");
        let cuts = seen["cuts"].as_array().unwrap().clone();
        cuts.into_iter().map(|cut| (cut["values"].clone(), cut["macs_before"].clone())).collect()
    };
    let expected: Vec<(Value, Value)> = cuts(FILES[0]);
    for file in FILES {
        assert_eq!(cuts(file), expected, "{file}");
    }

    // Modelled times are those of the work; integers need fewer bytes.
    let plans = FILES.map(|file| {
        let plan = json(at, &format!("plan {file} --platform boards.toml -o {file}.json"));
        let at = |name: &str| {
            let found = plan["baselines"].as_array().unwrap().iter().find(|it| it["name"] == name);
            found.and_then(|it| it["latency_ns"].as_f64())
        };
        (plan["best_split"]["cut"][0]["name"].clone(), at("edge-only"), at("cloud-uint8"))
    });
    let [onnx, tflite, int8] = &plans;
    assert_eq!(onnx.0, tflite.0);
    for (a, b) in [(onnx.1, tflite.1), (onnx.2, tflite.2)] {
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!((a - b).abs() < 0.02 * a, "{plans:?}");
    }
    assert!(int8.1 < onnx.1, "{plans:?}");

    // Files of one name are told apart.
    let study = run(at, "study --network net.onnx --network net.tflite -o both");
    assert!(study.contains("net.onnx") && study.contains("net.tflite"), "{study}");
    for file in FILES {
        run(at, &format!("explore {file} --platform boards.toml -o explored-{file}"));
        let explored = fs::read_to_string(at.join(format!("explored-{file}/cuts.csv"))).unwrap();
        assert_eq!(explored.lines().count(), 1 + expected.len(), "{file}");
        run(at, &format!("study --network {file} -o studied-{file}"));
        let workload = format!(
            "version = 1\n[workload]\ncameras = 10\nframes_per_second = \"1\"\ndeadline = \"1s\"\n\
             [[network]]\nmodel = \"{file}\"\n[[board]]\npreset = \"rpi4\"\n\
             [[instance]]\npreset = \"c5.large\"\n[[link]]\npreset = \"4g-2020\"\n"
        );
        write(at, "workload.toml", &workload);
        let sized = run(at, "size workload.toml --frames 1000");
        assert!(sized.contains("do not split"), "{file}: {sized}");
        run(at, &format!("export triton {file} --plan {file}.json --best-split -o triton-{file}"));
        assert!(at.join(format!("triton-{file}/pi/0-pi/1/model.onnx")).exists());
    }
}

#[test]
fn commands_that_run_a_network_have_the_same_answers_from_every_file() {
    let folder = scene();
    let at = folder.path();
    write_pictures(at);
    let agent = |name: &str| {
        let (engine, store) = (Some("rten".to_owned()), at.join(name));
        let options = AgentOptions { engine, store, ..AgentOptions::default() };
        AgentProcess::start(Path::new(BINARY), &options).unwrap()
    };
    let agents = ["pi", "cloud"].map(agent);
    let [pi, cloud] = [0, 1].map(|which: usize| agents[which].address);
    let mut answers = Vec::new();
    for file in FILES {
        let here = format!("profile {file} --engine rten --threads 1 --budget 30 --time 300ms");
        let profile = json(at, &format!("{here} -o {file}.profile"));
        assert_eq!(profile["key"]["precision"], if file == FILES[2] { "int8" } else { "fp32" });
        let there = format!("profile {file} --agent {cloud} --budget 30 --time 300ms");
        run(at, &format!("{there} -o {file}.there"));
        let device = |address: &dyn std::fmt::Display, profile: &str| {
            format!("address = \"{address}\"\nprofiles = [\"{file}.{profile}\"]")
        };
        write(at, "agents.toml", &platform(&device(&pi, "profile"), &device(&cloud, "there")));
        run(at, &format!("split {file} --at pool1 --platform agents.toml -o parts-{file}"));
        let verified = json(at, &format!("verify {file} parts-{file} --input pictures/0.png"));
        assert_eq!(verified["outputs"][0]["bit_equal"], true, "{file}");
        let plan = format!("{file} --plan parts-{file}/plan.json");
        let [local, remote] = ["--local", "--quiet"]
            .map(|how| answer(&json(at, &format!("run {plan} --input pictures/0.png {how}"))));
        assert_eq!(local, remote, "{file}");
        let rows = json(at, &format!("bench {file} --cuts 1 --platform agents.toml --frames 2"));
        assert_eq!(rows.as_array().unwrap().len(), 3, "{file}");
        assert!(rows[1]["predicted"]["latency_ns"].as_u64().unwrap() > 0, "{file}: {rows}");
        let benched = json(at, &format!("bench {plan} --frames 2"));
        assert!(benched[0]["predicted"]["latency_ns"].as_u64().unwrap() > 0, "{benched}");
        run(at, &format!("deploy {plan}"));
        run(at, &format!("deploy {plan} --remove"));
        answers.push(local);
    }
    let [onnx, tflite, int8] = &answers[..] else { panic!("three files") };
    assert!(is_close(onnx, tflite), "{onnx:?} {tflite:?}");
    let best = |values: &[f64]| {
        let largest = values.iter().copied().fold(f64::MIN, f64::max);
        values.iter().position(|&value| value == largest)
    };
    assert_eq!(best(onnx), best(int8), "{onnx:?} {int8:?}");
}

#[test]
fn grids_take_each_file_in_its_own_precision() {
    let folder = scene();
    let at = folder.path();
    write_pictures(at);
    let networks = "networks = [\"net.tflite\", \"int8.tflite\", \"net.onnx\"]";
    let measure = "[measure]\nprecision = \"50%\"\n";
    write(at, "sweep.toml", &format!("version = 1\n{networks}\n{measure}"));
    run(at, "characterize sweep.toml -o sweep.db --csv sweep.csv");
    let sweep = fs::read_to_string(at.join("sweep.csv")).unwrap();
    let of = |name: &str| sweep.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(of("int8.tflite").contains(",int8,1x28x28x1,"), "{sweep}");
    assert!(of("net.tflite").contains(",fp32,1x28x28x1,"), "{sweep}");
    assert!(of("net.onnx").contains(",fp32,1x1x28x28,"), "{sweep}");
    let cuts = "pictures = \"pictures\"\ncuts = [\"whole\", \"50%\"]\n";
    write(at, "grid.toml", &format!("version = 1\n{networks}\n{cuts}"));
    let counted = run(at, "accuracy grid.toml --platform boards.toml");
    for of in ["net.tflite, 1x28x28x1, fp32", "int8.tflite, 1x28x28x1, int8: split at pool1"] {
        assert!(counted.contains(of), "{counted}");
    }
}

#[test]
fn an_operator_on_integers_is_one_row_of_inspect() {
    let folder = scene();
    let text = run(folder.path(), "inspect int8.tflite");
    assert!(!text.contains(":real") && !text.contains("Dequantize"), "{text}");
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).split_whitespace().collect::<Vec<_>>()
    };
    // 150 bytes of weights, 6 biases of 4 bytes, and their scales and zero points.
    assert_eq!(row("conv1.relu")[..5], ["conv1.relu", "Conv", "INT8", "1x6x28x28", "117.6"]);
    assert_eq!(row("logits")[..4], ["logits", "Gemm", "INT8", "1x10"]);
    assert!(text.contains("stand in its row; --json lists all"), "{text}");
    let floats = run(folder.path(), "inspect net.onnx");
    assert_eq!(floats.lines().filter(|line| line.starts_with("conv")).count(), 6, "{floats}");
    assert!(!floats.contains("stand in its row"), "{floats}");
}

#[test]
fn plans_by_hand_take_the_engines_of_the_profiles() {
    let folder = scene();
    let at = folder.path();
    let address = |port: u16| format!("address = \"127.0.0.1:{port}\"");
    let names = |of: &Value| {
        let stages = of["best"]["stages"].as_array().unwrap().clone();
        stages.iter().map(|stage| stage["engine"].clone()).collect::<Vec<_>>()
    };
    let split = |options: &str| {
        run(at, &format!("split net.tflite --at pool1 --platform it.toml {options} -o parts"));
        let plan = fs::read_to_string(at.join("parts/plan.json")).unwrap();
        (at.join("parts/0-pi/1/model.tflite").exists(), serde_json::from_str(&plan).unwrap())
    };
    // Nothing is known of the engines: each device takes its own.
    write(at, "it.toml", &platform(&address(1), &address(2)));
    let (is_tflite, plan): (bool, Value) = split("");
    assert_eq!((is_tflite, names(&plan)), (false, vec!["".into(), "".into()] as Vec<Value>));
    assert_eq!(plan["best"]["latency_ns"], Value::Null);
    let (is_tflite, plan) = split("--format tflite");
    assert_eq!((is_tflite, names(&plan)), (true, vec!["litert".into(), "litert".into()]));

    // A profile of the one, and two of the other, of which the faster counts.
    run(at, "profile net.tflite --engine rten --threads 1 --budget 30 --time 300ms -o rten.json");
    let profile = fs::read_to_string(at.join("rten.json")).unwrap();
    let litert = profile.replace("\"engine\": \"rten\"", "\"engine\": \"litert\"");
    assert_ne!(litert, profile);
    let mut slow: Value = serde_json::from_str(&profile).unwrap();
    slow["call_ns"] = 1_000_000_000.into();
    write(at, "litert.json", &litert);
    write(at, "slow.json", &slow.to_string());
    let profiles = |port, names: &str| format!("{}\nprofiles = [{names}]", address(port));
    let cloud = profiles(2, "\"slow.json\", \"litert.json\"");
    write(at, "it.toml", &platform(&profiles(1, "\"rten.json\""), &cloud));
    let (is_tflite, plan) = split("");
    assert_eq!((is_tflite, names(&plan)), (true, vec!["rten".into(), "litert".into()]));
    let latency = plan["best"]["latency_ns"].as_u64().unwrap();
    assert!(latency < 1_000_000_000, "{latency}");

    // `bench --cuts` measures what it predicts: agents are asked for the profile's engine.
    let store = at.join("store");
    let agent = AgentOptions { engine: Some("rten".to_owned()), store, ..AgentOptions::default() };
    let agent = AgentProcess::start(Path::new(BINARY), &agent).unwrap();
    let unknown = profile.replace("\"engine\": \"rten\"", "\"engine\": \"unheard-of\"");
    write(at, "unknown.json", &unknown);
    let there = format!("address = \"{}\"\nprofiles = [\"unknown.json\"]", agent.address);
    write(at, "it.toml", &platform(&there, &there));
    let said = refused(at, "bench net.tflite --cuts 1 --platform it.toml --frames 1");
    assert!(said.contains("unheard-of"), "{said}");
}

#[test]
fn mistakes_with_such_files_are_told() {
    let folder = scene();
    let at = folder.path();
    let whole = fs::read(at.join("int8.tflite")).unwrap();
    fs::write(at.join("cut.tflite"), &whole[..whole.len() / 2]).unwrap();
    let mut damaged = whole.clone();
    damaged[16..64].fill(0xff);
    fs::write(at.join("damaged.tflite"), damaged).unwrap();
    let mut renamed = whole;
    renamed[4..8].copy_from_slice(b"NONE");
    fs::write(at.join("other.tflite"), renamed).unwrap();
    fs::write(at.join("empty.tflite"), b"").unwrap();
    write_pictures(at);
    run(at, "split net.tflite --at pool1 -o parts");
    let cases = [
        ("inspect cut.tflite", "damaged or cut short"),
        ("inspect damaged.tflite", "cannot import `damaged.tflite`"),
        ("inspect other.tflite", "the identifier TFL3 is missing"),
        ("inspect empty.tflite", "the file is empty"),
        ("split net.tflite --at pool9 -o x", "close to it are `pool1`, `pool2`"),
        ("split net.tflite --at input -o x", "nothing is computed before"),
        ("split net.onnx --at pool1 --format tflite -o x", "no TensorFlow Lite file"),
        // The reason that stays, not that pictures are missing.
        (
            "split net.tflite --at pool1 --format tflite --codec uint8 -o x",
            "do not travel as uint8 between parts of a TensorFlow Lite file",
        ),
        ("split int8.tflite --at pool1:made --format tflite -o x", "cannot be cut in two"),
        ("kernels --engine litert -o k.json", "kernels are ONNX files"),
        ("profile net.tflite --engine tflite -o p.json", "unknown engine `tflite`"),
        ("verify int8.tflite parts", "the parts of another file, `net.tflite`"),
    ];
    for (line, expected) in cases {
        let said = refused(at, line);
        assert!(said.contains(expected), "{line}: {said}");
    }
    assert!(!at.join("x").exists(), "nothing half-written");
    // What does nothing is said, and not an error.
    let (fine, _, said) = cutline(at, "split int8.tflite --at pool1 --codec fp16 -o same");
    assert!(fine && said.contains("--codec fp16 changes nothing"), "{said}");
    let (fine, _, said) = cutline(at, "split net.tflite --at pool1 --codec fp16 -o halves");
    assert!(fine && !said.contains("changes nothing"), "{said}");
}
