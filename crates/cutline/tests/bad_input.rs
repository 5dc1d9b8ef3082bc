//! Bad input gets a clear error: what failed, where, and what to do; exit code not 0; nothing
//! half-written.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use cutline_core::{
    cost::Costs,
    group,
    hex::hex,
    onnx,
    onnx::proto::{AttributeProto, ModelProto, StringStringEntryProto},
    plan::{ModelRef, Plan},
    planner::{self, Request},
    platform::Platform,
    profile::Profile,
    zoo::{self, ZooOptions},
};
use prost::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What lies in the folder of every case.
struct Folder(tempfile::TempDir);

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stderr: String,
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("net.onnx", &lenet(1).encode_to_vec());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, data: &[u8]) {
        fs::write(self.path(name), data).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Everything below the folder with its size.
    fn listing(&self) -> BTreeMap<PathBuf, u64> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let meta = entry.metadata().unwrap();
                found.insert(entry.path(), if meta.is_dir() { 0 } else { meta.len() });
                if meta.is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        found
    }

    /// Runs a command that must fail, say these words, and leave the folder as it was.
    fn refuses(&self, command: &mut Command, words: &[&str]) {
        let before = self.listing();
        let ended = end(command);
        let what = format!("{command:?}\n{}", ended.stderr);
        assert!(ended.code.is_some_and(|code| code != 0), "did not fail: {what}");
        assert!(ended.stderr.starts_with("error: "), "{what}");
        for word in words {
            assert!(ended.stderr.contains(word), "does not say `{word}`: {what}");
        }
        assert_eq!(self.listing(), before, "left something behind: {what}");
    }
}

fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn lenet(seed: u64) -> ModelProto {
    zoo::build("lenet5", &ZooOptions { seed, ..ZooOptions::default() }).unwrap()
}

/// A case of [`files_and_values_are_refused`]: arguments, and words of the message.
type Case<'a> = (&'a [&'a str], &'a [&'a str]);

#[test]
fn files_and_values_are_refused() {
    let folder = Folder::new();
    folder.write("text.onnx", b"hello\n");
    folder.write("empty.onnx", b"");
    folder.write("picture.onnx", b"\xff\xd8\xff\xe0 and so on");
    let whole = lenet(1).encode_to_vec();
    folder.write("half.onnx", &whole[..whole.len() / 2]);
    folder.write("cycle.onnx", &cyclic().encode_to_vec());
    folder.write("external.onnx", &with_external_data().encode_to_vec());
    folder.write("plan.json", b"{\"version\": 1}");
    folder.write("platform.toml", b"version = 1\n[[device]]\nname = \"pi\"\nspeed = 3\n");
    let cases: &[Case] = &[
        (&["inspect", "gone.onnx"], &["gone.onnx", "zoo write"]),
        (&["inspect", "text.onnx"], &["text.onnx", "not an ONNX model"]),
        (&["inspect", "empty.onnx"], &["empty.onnx", "empty"]),
        (&["inspect", "picture.onnx"], &["picture.onnx", "JPEG"]),
        (&["inspect", "half.onnx"], &["half.onnx", "cut short"]),
        (&["inspect", "cycle.onnx"], &["cycle", "conv1"]),
        (&["split", "external.onnx", "--at", "pool1", "-o", "out"], &["weights.bin"]),
        (&["inspect", "net.onnx", "--input-shape", "input=1x3"], &["input", "1x3"]),
        (&["inspect", "net.onnx", "--input-shape", "data=1x3"], &["no input", "data", "input"]),
        (&["split", "net.onnx", "--at", "pool9", "-o", "out"], &["pool9", "pool1"]),
        (&["split", "net.onnx", "--at", "conv1.weight", "-o", "out"], &["conv1.weight"]),
        (&["split", "net.onnx", "--at", "pool2", "--at", "pool1", "-o", "out"], &["pool1", "back"]),
        (&["split", "net.onnx", "--plan", "plan.json", "-o", "out"], &["plan.json", "not a plan"]),
        (&["plan", "net.onnx", "--platform", "platform.toml", "-o", "new.json"], &["speed"]),
        (
            &["profile", "net.onnx", "--engine", "tensorflow", "-o", "p.json"],
            &["tensorflow", "rten"],
        ),
        (&["agent", "--listen", "127.0.0.1:0", "--engine", "caffe"], &["caffe", "rten"]),
        (&["agent", "--listen", "0.0.0.0:0"], &["--insecure"]),
        (
            &["profile", "net.onnx", "--agent", "127.0.0.1:1", "-o", "p.json"],
            &["127.0.0.1:1", "agent"],
        ),
        (&["verify", "net.onnx", "net.onnx", "--quiet"], &["net.onnx", "folder"]),
        (&["zoo", "write", "lenet6", "-o", "x.onnx"], &["lenet6", "lenet5"]),
    ];
    for (arguments, words) in cases {
        folder.refuses(&mut folder.command(arguments), words);
    }
}

#[test]
fn a_split_without_devices_is_not_taken_for_a_plan() {
    let folder = Folder::new();
    folder.write("frame.npy", &npy(&[1, 1, 28, 28]));
    folder.write("platform.toml", platform_file("127.0.0.1:1", "127.0.0.1:1").as_bytes());
    let ended = end(&mut folder.command(&["split", "net.onnx", "--at", "pool1", "-o", "parts"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let plan = "parts/plan.json";
    for command in [
        &["run", "net.onnx", "--plan", plan, "--input", "frame.npy", "--local"][..],
        &["bench", "net.onnx", "--plan", plan],
        &["split", "net.onnx", "--plan", plan, "-o", "again"],
    ] {
        let words =
            [plan, "no devices", "cutline split MODEL --at pool1 --platform", "cutline plan"];
        folder.refuses(&mut folder.command(command), &words);
    }
    let verify = ["verify", "net.onnx", plan, "--quiet"];
    folder.refuses(&mut folder.command(&verify), &[plan, "is a file", "folder"]);

    let at = |more: &[&str]| {
        let mut command = folder.command(&["split", "net.onnx"]);
        command.args(more).args(["--platform", "platform.toml", "-o", "devices"]);
        command
    };
    folder.refuses(&mut at(&["--at", "conv1"]), &["conv1.relu", "cutline inspect"]);
    folder.refuses(&mut at(&["--at", "pool1", "--at", "fc1.relu"]), &["3 parts", "has 2"]);
    let ended = end(&mut at(&["--at", "pool1"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let plan = ["--plan", "devices/plan.json", "--input", "frame.npy", "--local"];
    let output = folder.command(&["run", "net.onnx"]).args(plan).output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["cloud_compute_ns"].as_u64().unwrap() > 0, "the second part ran: {line}");
}

#[test]
fn tensor_files_are_refused() {
    let folder = Folder::new();
    let good = npy(&[1, 1, 28, 28]);
    let text = String::from_utf8_lossy(&good[10..128]).trim().to_owned();
    let with = |header: &str| {
        let mut file = good.clone();
        file.splice(10..128, format!("{header:<118}").bytes());
        file
    };
    let cases = [
        ("short.npy", good[..good.len() - 1].to_vec(), "needs 3136 bytes, got 3135"),
        ("header.npy", good[..60].to_vec(), "not a .npy file"),
        ("text.npy", b"0 0 0".to_vec(), "not a .npy file"),
        ("big-endian.npy", with(&text.replace("<f4", ">f4")), "element type"),
        ("fortran.npy", with(&text.replace("False", "True")), "ascontiguousarray"),
        ("huge.npy", with(&text.replace("(1, 1, 28", "(1000000000000, 1, 28")), "bytes, got 3136"),
        ("doubles.npy", with(&text.replace("<f4", "<f8")), "needs 6272 bytes, got 3136"),
    ];
    folder.write("plan.json", plan_file(&folder, "127.0.0.1:1", "127.0.0.1:1").as_bytes());
    for (name, content, words) in cases {
        folder.write(name, &content);
        let run = ["run", "net.onnx", "--plan", "plan.json", "--local", "--input", name];
        folder.refuses(&mut folder.command(&run), &[name, words]);
    }
}

#[test]
fn an_operator_that_no_engine_runs_is_known_before_anything_is_deployed() {
    let folder = Folder::new();
    let mut model = lenet(1);
    let node = &mut model.graph.as_mut().unwrap().node[1];
    assert_eq!(node.op_type(), "Relu");
    node.op_type = Some("Frobnicate".to_owned());
    node.domain = Some("somewhere.else".to_owned());
    node.attribute = vec![AttributeProto { name: Some("depth".to_owned()), ..Default::default() }];
    folder.write("strange.onnx", &model.encode_to_vec());
    let profile = ["profile", "strange.onnx", "--engine", "rten", "-o", "p.json"];
    assert_eq!(end(&mut folder.command(&profile)).code, Some(0));
    let platform = "version = 1\n[[device]]\nname = \"pi\"\nprofiles = [\"p.json\"]\n";
    folder.write("platform.toml", platform.as_bytes());
    let plan = ["plan", "strange.onnx", "--platform", "platform.toml"];
    let output = folder.command(&plan).output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{answer}");
    for word in ["pi", "rten", "conv1.relu", "cannot run"] {
        assert!(answer.contains(word), "does not say `{word}`: {answer}");
    }
}

#[test]
fn a_library_that_is_not_the_engine_is_refused() {
    let folder = Folder::new();
    folder.write("libonnxruntime.so", b"not a library");
    let mut command =
        folder.command(&["profile", "net.onnx", "--engine", "onnxruntime", "-o", "p.json"]);
    command.env("ORT_DYLIB_PATH", folder.path("libonnxruntime.so"));
    folder.refuses(&mut command, &["onnxruntime", "ORT_DYLIB_PATH", "libonnxruntime.so"]);
}

#[test]
fn a_library_of_another_version_is_refused() {
    let folder = Folder::new();
    // What every ONNX Runtime exports: a version, and an interface of the number asked for, which
    // is null where the library does not know that number.
    let source = r#"
        #include <stdint.h>
        struct base { const void *(*api)(uint32_t); const char *(*version)(void); };
        static const void *api(uint32_t number) { return 0; }
        static const char *version(void) { return VERSION; }
        static const struct base only = { api, version };
        const struct base *OrtGetApiBase(void) { return &only; }
    "#;
    folder.write("old.c", source.as_bytes());
    for version in ["1.2.0", "1.99.0"] {
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o", "libonnxruntime.so", "old.c"]);
        compiler.arg(format!("-DVERSION=\"{version}\"")).current_dir(folder.0.path());
        match compiler.output() {
            Ok(output) if output.status.success() => {}
            failed => return eprintln!("skipped: no C compiler makes a library here: {failed:?}"),
        }
        let profile = ["profile", "net.onnx", "--engine", "onnxruntime", "-o", "p.json"];
        let mut command = folder.command(&profile);
        command.env("ORT_DYLIB_PATH", folder.path("libonnxruntime.so"));
        let words = [version, "1.17", "libonnxruntime.so", "cutline engine install onnxruntime"];
        folder.refuses(&mut command, &words);
    }
}

#[test]
fn a_message_over_the_limit_is_refused_with_both_sizes() {
    let folder = Folder::new();
    folder.write("frame.npy", &npy(&[1, 1, 28, 28]));
    let run =
        ["run", "net.onnx", "--plan", "parts/plan.json", "--no-fallback", "--input", "frame.npy"];
    // The frame takes 3136 bytes and what protobuf adds, `pool1` 4704.
    for (edge_limit, cloud_limit, name, limit) in
        [("2kB", "1MB", "pi", "2000 bytes"), ("1MB", "4kB", "cloud", "4000 bytes")]
    {
        let here = Device::start(&["--max-message", edge_limit]);
        let there = Device::start(&["--max-message", cloud_limit]);
        folder.write("platform.toml", platform_file(&here.address, &there.address).as_bytes());
        let split = ["split", "net.onnx", "--at", "pool1", "--platform", "platform.toml"];
        let ended = end(folder.command(&split).args(["-o", "parts"]));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let size = if name == "pi" { "a message of 3" } else { "a message of 4" };
        folder.refuses(&mut folder.command(&run), &[name, size, limit, "--max-message"]);
    }
}

#[test]
fn a_full_file_system_leaves_nothing_behind() {
    let folder = Folder::new();
    fs::create_dir(folder.path("disk")).unwrap();
    let binary = env!("CARGO_BIN_EXE_cutline");
    // A file system of our own, in a mount namespace that needs no root; 8 kB of it are left.
    let mounted = "mount -t tmpfs -o size=64k none disk && head -c 57344 /dev/zero > disk/filler";
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        let script = format!("{mounted} || exit 99\n{script}");
        command.args(["-rm", "bash", "-c", &script]).current_dir(folder.0.path());
        command.stdin(Stdio::null()).output()
    };
    match inside("true") {
        Ok(output) if output.status.success() => {}
        failed => return eprintln!("skipped: no file system can be mounted here: {failed:?}"),
    }
    for (line, target) in [
        ("zoo write lenet5 -o disk/full.onnx", "disk/full.onnx"),
        ("split net.onnx --at pool1 -o disk/out", "disk/out"),
        ("profile net.onnx --budget 30 --engine rten -o disk/p.json", "disk/p.json"),
    ] {
        let full = "head -c 8192 /dev/zero > disk/rest;";
        let full = if line.starts_with("profile") { full } else { "" };
        let script = format!("{full} {binary} {line}; code=$?; ls -A disk; exit $code");
        let output = inside(&script).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some_and(|code| code != 0), "{line} did not fail: {said}");
        assert!(said.contains("error: ") && said.contains(target), "{line}: {said}");
        assert!(said.to_lowercase().contains("no space left"), "{line}: {said}");
        let left = String::from_utf8_lossy(&output.stdout);
        let left: Vec<&str> =
            left.lines().filter(|name| !["filler", "rest"].contains(name)).collect();
        assert!(left.is_empty(), "{line} left {left:?}");
    }
}

#[test]
fn a_file_that_may_not_grow_leaves_nothing_behind() {
    let folder = Folder::new();
    let binary = env!("CARGO_BIN_EXE_cutline");
    // A file may grow to 20 blocks of 1 KiB: the nearest to a full disk that works everywhere.
    for line in ["zoo write lenet5 -o full.onnx", "split net.onnx --at pool1 -o out"] {
        let script = format!("trap '' XFSZ; ulimit -f 20; exec {binary} {line}");
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(folder.0.path()).stdin(Stdio::null());
        folder.refuses(&mut command, &["space", line.split(' ').next_back().unwrap()]);
    }
}

#[test]
fn a_plan_of_another_model_is_refused() {
    let folder = Folder::new();
    folder.write("other.onnx", &lenet(2).encode_to_vec());
    let plan = plan_file(&folder, "127.0.0.1:1", "127.0.0.1:1");
    folder.write("plan.json", plan.as_bytes());
    let frame = npy(&[1, 1, 28, 28]);
    folder.write("frame.npy", &frame);
    for command in [
        &["split", "other.onnx", "--plan", "plan.json", "--best-split", "-o", "out"][..],
        &["run", "other.onnx", "--plan", "plan.json", "--input", "frame.npy", "--local"],
        &["bench", "other.onnx", "--plan", "plan.json"],
    ] {
        folder.refuses(&mut folder.command(command), &["plan.json", "another model"]);
    }
}

#[test]
fn a_frame_of_another_shape_is_refused() {
    let folder = Folder::new();
    folder.write("plan.json", plan_file(&folder, "127.0.0.1:1", "127.0.0.1:1").as_bytes());
    folder.write("frame.npy", &npy(&[1, 3, 28, 28]));
    let arguments = ["run", "net.onnx", "--plan", "plan.json", "--input", "frame.npy", "--local"];
    folder.refuses(&mut folder.command(&arguments), &["1x3x28x28", "1x1x28x28"]);
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    let folder = Folder::new();
    let here = Device::start(&[]);
    folder.write("plan.json", plan_file(&folder, &here.address, "127.0.0.1:1").as_bytes());
    folder.write("frame.npy", &npy(&[1, 1, 28, 28]));
    let arguments =
        ["run", "net.onnx", "--plan", "plan.json", "--best-split", "--input", "frame.npy"];
    folder.refuses(&mut folder.command(&arguments), &["cloud", "127.0.0.1:1", "cutline agent"]);
}

#[test]
fn a_device_without_the_memory_refuses_the_stage() {
    let folder = Folder::new();
    let (here, there) = (Device::start(&[]), Device::start(&["--memory", "64kB"]));
    folder.write("plan.json", plan_file(&folder, &here.address, &there.address).as_bytes());
    folder.write("frame.npy", &npy(&[1, 1, 28, 28]));
    let arguments =
        ["run", "net.onnx", "--plan", "plan.json", "--best-split", "--input", "frame.npy"];
    folder.refuses(&mut folder.command(&arguments), &["64.0 kB", "cloud"]);
}

#[test]
fn an_agent_killed_in_the_middle_of_a_run_ends_it_with_its_name() {
    let folder = Folder::new();
    let (here, mut there) = (Device::start(&[]), Device::start(&[]));
    folder.write("plan.json", plan_file(&folder, &here.address, &there.address).as_bytes());
    folder.write("frame.npy", &npy(&[1, 1, 28, 28]));
    let mut arguments =
        vec!["run", "net.onnx", "--plan", "plan.json", "--best-split", "--no-fallback", "--input"];
    arguments.extend(["frame.npy"; 5000]);
    let mut command = folder.command(&arguments);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    lines.next().expect("the first frame is answered").unwrap();
    there.process.kill().unwrap();
    let answered = 1 + lines.count();
    let output = run.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && answered < 5000, "{answered} frames\n{stderr}");
    assert!(stderr.contains("not answered") && stderr.contains("cloud"), "{stderr}");
}

/// An agent as a process; ends with the test.
struct Device {
    process: Child,
    address: String,
    _store: tempfile::TempDir,
}

impl Device {
    fn start(arguments: &[&str]) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_cutline"))
            .args(["agent", "--listen", "127.0.0.1:0", "--threads", "1", "--json"])
            .args(["--exit-with-stdin", "--store"])
            .arg(store.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announcement: Value = serde_json::from_str(&line).unwrap();
        let address = announcement["listening"].as_str().unwrap().to_owned();
        Self { process, address, _store: store }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The network reading its own answer.
fn cyclic() -> ModelProto {
    let mut model = lenet(1);
    let graph = model.graph.as_mut().unwrap();
    let answer = graph.node.last().unwrap().output[0].clone();
    graph.node[0].input[0] = answer;
    model
}

/// The network with one weight in a file that is not there.
fn with_external_data() -> ModelProto {
    let mut model = lenet(1);
    let weight = &mut model.graph.as_mut().unwrap().initializer[0];
    let length = weight.raw_data.take().unwrap().len();
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    weight.data_location = Some(1);
    weight.external_data = vec![
        entry("location", "weights.bin".to_owned()),
        entry("offset", "0".to_owned()),
        entry("length", length.to_string()),
    ];
    model
}

/// Two devices and a link.
fn platform_file(edge: &str, cloud: &str) -> String {
    format!(
        "version = 1\n[[device]]\nname = \"pi\"\naddress = \"{edge}\"\n\
         [[device]]\nname = \"cloud\"\naddress = \"{cloud}\"\n\
         [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n"
    )
}

/// A plan of `net.onnx` from invented profiles, as `cutline plan` writes it.
fn plan_file(folder: &Folder, edge: &str, cloud: &str) -> String {
    let bytes = fs::read(folder.path("net.onnx")).unwrap();
    let sha256 = hex(&Sha256::digest(&bytes));
    let model = onnx::decode(bytes.into()).unwrap();
    let graph = onnx::import(&model, &onnx::ImportOptions::default()).unwrap();
    let dag = group::group(&graph).dag;
    let platform: Platform = serde_json::from_value(json!({
        "version": 1,
        "device": [{ "name": "pi", "address": edge }, { "name": "cloud", "address": cloud }],
        "link": [{ "between": ["pi", "cloud"], "up": "20mbit", "delay": "1ms" }]
    }))
    .unwrap();
    let profiles = [70_000, 7000].map(|group_ns| {
        let groups = dag.groups().iter();
        let groups = groups.map(|group| json!({ "name": group.name, "time_ns": group_ns }));
        let profile: Profile = serde_json::from_value(json!({
            "version": 1,
            "key": {
                "model_sha256": sha256, "hardware": "invented", "engine": "rten",
                "engine_version": "0", "threads": 1, "precision": "fp32"
            },
            "model": "net.onnx", "slowdown_permille": 1000, "call_ns": 0,
            "groups": groups.collect::<Vec<_>>(), "unsupported": [], "segments": [],
            "residual_permille": 0, "prepare": {}, "engine_bytes": 0
        }))
        .unwrap();
        vec![profile]
    });
    let costs = Costs::from_profiles(&dag, &sha256, &platform, &profiles, &[None]).unwrap();
    let request = Request::default();
    let answer = planner::solve(&dag, &costs, &request).unwrap();
    let model = ModelRef { name: "net.onnx".to_owned(), sha256 };
    let plan = Plan::new(model, &dag, &costs, &platform, &request, &answer, None);
    serde_json::to_string(&plan).unwrap()
}

/// Zeros as a NumPy file.
fn npy(shape: &[usize]) -> Vec<u8> {
    let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({axes}), }}");
    let header = format!("{header:<117}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    file.extend(header.bytes());
    file.extend(vec![0; 4 * shape.iter().product::<usize>()]);
    file
}
