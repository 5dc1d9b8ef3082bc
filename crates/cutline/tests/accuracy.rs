//! `cutline accuracy`: its cells are what `verify` counts, its front is one, its files are read.
#![cfg(feature = "reports")]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cutline_core::{
    onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    tensor::DType,
    zoo::{self, ZooOptions},
};
use cutline_runtime::verify::read_npy;
use prost::Message;
use serde_json::{Value, json};

/// A folder with a network, pictures and a grid.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let here = Self(tempfile::tempdir().unwrap());
        fs::create_dir(here.path("pictures")).unwrap();
        here
    }

    /// LeNet-5 as `net.onnx`, and pictures of strokes and noise.
    fn lenet(pictures: u32) -> Self {
        let here = Self::new();
        let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
        fs::write(here.path("net.onnx"), lenet.encode_to_vec()).unwrap();
        for seed in 0..pictures {
            strokes(seed, 28).save(here.path(&format!("pictures/{seed:02}.png"))).unwrap();
        }
        here
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn try_run(&self, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        command.args(arguments).stdin(Stdio::null()).current_dir(self.0.path());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// Runs a command; it must succeed, and its lines of JSON come back.
    fn run(&self, arguments: &[&str]) -> Vec<Value> {
        let (fine, stdout, stderr) = self.try_run(&[arguments, &["--json"]].concat());
        assert!(fine, "{arguments:?}\n{stderr}");
        let documents = serde_json::Deserializer::from_str(&stdout).into_iter();
        documents.map(Result::unwrap).collect()
    }

    fn grid(&self, lines: &str) {
        let text = format!("version = 1\npictures = \"pictures\"\n{lines}");
        fs::write(self.path("grid.toml"), text).unwrap();
    }

    /// The answer to a grid.
    fn accuracy(&self, lines: &str, arguments: &[&str]) -> Value {
        self.grid(lines);
        self.run(&[&["accuracy", "grid.toml"][..], arguments].concat()).remove(0)
    }
}

/// A gray picture of a few thick lines, unlike for each seed.
fn strokes(seed: u32, side: u32) -> image::GrayImage {
    let (a, b) = (seed % 7 + 1, seed / 7 % 5 + 1);
    image::GrayImage::from_fn(side, side, |x, y| {
        let line = (x * a + y * b + seed * 11) % 28 < 9;
        let noise = (x * 97 + y * 31 + x * y * (seed + 1)) % 40;
        image::Luma([(if line { 200 } else { 10 }) + noise as u8])
    })
}

fn cells(report: &Value) -> &Vec<Value> {
    report["cells"].as_array().unwrap()
}

/// The only cell that has all of this.
fn cell<'a>(report: &'a Value, wanted: &Value) -> &'a Value {
    let has = |cell: &&Value| wanted.as_object().unwrap().iter().all(|(key, is)| cell[key] == *is);
    let found: Vec<&Value> = cells(report).iter().filter(has).collect();
    assert_eq!(found.len(), 1, "{wanted} in {report:#}");
    found[0]
}

/// A file of the shared folder, if that is there.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    let path = path.canonicalize().ok();
    if path.is_none() {
        eprintln!("skipped: the shared folder is absent");
    }
    path
}

const CODECS: [&str; 6] = ["fp32", "fp16", "uint8", "bits8", "bits4", "bits2"];

#[test]
fn cells_are_what_verify_counts_and_runs_send() {
    let folder = Folder::lenet(24);
    let truth: String = (0..24).map(|at| format!("{at:02}.png\t{}\n", at % 10)).collect();
    fs::write(folder.path("truth.tsv"), truth).unwrap();
    let platform = "version = 1\n[[device]]\nname = \"pi\"\n[[device]]\nname = \"cloud\"\n\
                    [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n";
    fs::write(folder.path("platform.toml"), platform).unwrap();
    let inspected = folder.run(&["inspect", "net.onnx"]).remove(0);
    let cuts = inspected["cuts"].as_array().unwrap();
    let at = cuts[cuts.len() / 2]["values"][0].as_str().unwrap();
    let report = folder.accuracy(
        &format!(
            "networks = [\"net.onnx\"]\ntruth = \"truth.tsv\"\nuploads = [\"fp32\", \"uint8\", \"jpeg:85\", \"jpeg:5\"]\n\
             cuts = [\"whole\", \"{at}\"]\ncodecs = [\"none\", \"fp16\", \"uint8\", \"bits8\", \"bits4\", \"bits2\"]"
        ),
        &[],
    );
    assert_eq!(cells(&report).len(), 1 + 4 + 6);
    let same = |cell: &Value, images: &Value| {
        for key in ["count", "of", "value", "low", "high"] {
            assert_eq!(cell["agreement"][key], images["agreement"][key], "{cell}");
            assert_eq!(cell["accuracy"][key], images["accuracy"]["parts"][key], "{cell}");
        }
    };
    let mut agreements = Vec::new();
    for codec in CODECS {
        let cell = cell(&report, &json!({ "plan": "split", "codec": codec }));
        assert_eq!(cell["crosses"], json!([at]));
        let split = ["split", "net.onnx", "--at", at, "--codec", codec, "--calibrate", "pictures"];
        folder.run(&[&split[..], &["--platform", "platform.toml", "-o", "parts"]].concat());
        let counted = ["verify", "net.onnx", "parts", "--images", "pictures"];
        let verified = folder.run(&[&counted[..], &["--truth", "truth.tsv"]].concat()).remove(0);
        same(cell, &verified["images"]);
        agreements.push(cell["agreement"]["count"].as_u64().unwrap());
        if codec == "fp32" {
            let jpeg = ["--truth", "truth.tsv", "--input-encoding", "jpeg"];
            let verified = folder.run(&[&counted[..], &jpeg].concat()).remove(0);
            let cell = self::cell(&report, &json!({ "upload": "jpeg", "jpeg_quality": 85 }));
            same(cell, &verified["images"]);
        }
        // What `run` sends is the bytes that the parts exchange, frame by frame.
        let run =
            ["run", "net.onnx", "--plan", "parts/plan.json", "--local", "--input", "pictures"];
        let frames = folder.run(&run);
        let bytes =
            frames.iter().filter_map(|frame| frame["trace"]["stages"][1]["bytes_in"].as_u64());
        let bytes: Vec<u64> = bytes.collect();
        assert_eq!(bytes.len(), 24);
        let mean = (bytes.iter().sum::<u64>() + 12) / 24;
        assert_eq!(cell["bytes_sent"], mean, "{codec}");
    }
    assert_eq!(agreements[0], 24, "parts that are not compressed agree");
    assert!(agreements[5] < 24, "two bits a value change no answer of 24? {agreements:?}");

    let sent = |wanted: Value| cell(&report, &wanted)["bytes_sent"].as_u64().unwrap();
    assert_eq!(sent(json!({ "plan": "edge" })), 0);
    assert_eq!(sent(json!({ "upload": "uint8" })), 28 * 28);
    assert_eq!(sent(json!({ "upload": "fp32" })), 4 * 28 * 28);
    assert!(sent(json!({ "jpeg_quality": 5 })) < sent(json!({ "jpeg_quality": 85 })));
    let edge = cell(&report, &json!({ "plan": "edge" }));
    for lossless in ["fp32", "uint8"] {
        assert_eq!(cell(&report, &json!({ "upload": lossless }))["accuracy"], edge["accuracy"]);
    }
    let reference = &report["references"][0];
    assert_eq!(reference["accuracy"], edge["accuracy"]);
    assert_eq!(
        (&reference["precision"], &reference["input"]),
        (&json!("fp32"), &json!("1x1x28x28"))
    );
    let pictures = &report["pictures"];
    assert_eq!((&pictures["count"], &pictures["labelled"]), (&json!(24), &json!(24)));
}

/// A board, two instances and a price for each.
const PLATFORM: &str = "version = 1
[workload]
users = 1000
frames_per_second = \"1\"
electricity = \"0.3\"
[[device]]
name = \"pi\"
preset = \"rpi4\"
purchase = \"60\"
life_months = 36
[[device]]
name = \"small\"
preset = \"c5.large\"
users_per_instance = 50
[[device]]
name = \"large\"
preset = \"g4dn.xlarge\"
users_per_instance = 400
[[link]]
between = [\"pi\", \"small\"]
up = \"2mbit\"
delay = \"10ms\"
[[link]]
between = [\"pi\", \"large\"]
up = \"2mbit\"
delay = \"40ms\"
";

/// What a cell is judged by; `None` where it has no costs.
fn judged(cell: &Value) -> Option<(u64, u64, u64)> {
    let right = cell["accuracy"]["count"].as_u64().or(cell["agreement"]["count"].as_u64())?;
    Some((right, cell["latency_ns"].as_u64()?, cell["money_per_month"].as_u64()?))
}

fn dominates(a: (u64, u64, u64), b: (u64, u64, u64)) -> bool {
    a != b && a.0 >= b.0 && a.1 <= b.1 && a.2 <= b.2
}

#[test]
fn no_cell_of_the_front_is_dominated_and_every_other_is_by_one_of_it() {
    let folder = Folder::lenet(20);
    for at in 0..20 {
        let class = folder.path(&format!("classes/{}", at % 10));
        fs::create_dir_all(&class).unwrap();
        let name = format!("{at:02}.png");
        fs::rename(folder.path("pictures").join(&name), class.join(&name)).unwrap();
    }
    fs::write(folder.path("classes/3/broken.png"), b"no picture").unwrap();
    fs::write(folder.path("platform.toml"), PLATFORM).unwrap();
    let lines = "networks = [\"net.onnx\", { network = \"lenet5\", sizes = [28, 32] }]\n\
                 uploads = [\"uint8\", \"jpeg:60\", \"jpeg:5\"]\ncuts = [\"whole\", \"30%\", \"80%\"]\n\
                 codecs = [\"none\", \"fp16\", \"uint8\", \"bits2\"]\nfilters = [\"bilinear\", \"nearest\"]";
    let grid = format!("version = 1\npictures = \"classes\"\n{lines}");
    fs::write(folder.path("grid.toml"), grid).unwrap();
    let arguments = ["accuracy", "grid.toml", "--platform", "platform.toml", "--csv", "cells.csv"];
    let report = folder.run(&arguments).remove(0);
    assert_eq!(report["front"]["by"], json!(["accuracy", "latency", "money"]));
    let pictures = &report["pictures"];
    assert_eq!((&pictures["count"], &pictures["labelled"]), (&json!(20), &json!(20)));
    assert_eq!(pictures["skipped"][0]["file"], "3/broken.png");

    // Two devices can be behind each cut and take each upload.
    let of_one = 1 + 2 * 3 + 2 * 2 * 4;
    assert_eq!(cells(&report).len(), 3 * 2 * of_one);
    let members: Vec<usize> = serde_json::from_value(report["front"]["cells"].clone()).unwrap();
    let priced = cells(&report).iter().filter_map(judged).count();
    // What the entropy code takes is nothing that presets tell.
    assert_eq!(priced, cells(&report).len() - 3 * 2 * 2 * 2);
    assert!(members.len() > 1 && members.len() < priced, "{members:?} of {priced}");
    for (at, cell) in cells(&report).iter().enumerate() {
        assert_eq!(cell["on_front"], members.contains(&at));
        let Some(own) = judged(cell) else {
            assert!(cell["no_costs"].as_str().unwrap().contains("bits2"), "{cell}");
            assert!(!members.contains(&at));
            continue;
        };
        assert_eq!(cell["origin"], "modelled");
        let better = |&other: &usize| dominates(judged(&cells(&report)[other]).unwrap(), own);
        assert_eq!(members.contains(&at), !members.iter().any(better), "{at}: {cell:#}");
    }
    for pair in report["front"]["alike"].as_array().unwrap() {
        assert!(pair["chance"].as_f64().unwrap() >= 0.05, "{pair}");
        let (first, second) = (&pair["cells"][0], &pair["cells"][1]);
        assert!(members.contains(&(first.as_u64().unwrap() as usize)), "{first} {second}");
    }
    let csv = fs::read_to_string(folder.path("cells.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + cells(&report).len());
    let (fine, said, stderr) = folder.try_run(&arguments);
    assert!(fine && stderr.contains("broken.png"), "{stderr}");
    for words in
        ["* on the front of accuracy, latency, money", "1 more could not be read", "modelled"]
    {
        assert!(said.contains(words), "does not say `{words}`: {said}");
    }
}

#[test]
fn latencies_are_the_planners() {
    let folder = Folder::lenet(3);
    fs::write(folder.path("platform.toml"), PLATFORM).unwrap();
    let report = folder.accuracy(
        "networks = [\"net.onnx\"]\nuploads = [\"uint8\"]\ncuts = [\"whole\", \"60%\"]\ncodecs = [\"none\", \"uint8\"]",
        &["--platform", "platform.toml"],
    );
    folder.run(&[
        "explore",
        "net.onnx",
        "--platform",
        "platform.toml",
        "--cut-encoding",
        "uint8,fp32",
        "-o",
        "report",
    ]);
    let explored: Value =
        serde_json::from_slice(&fs::read(folder.path("report/explore.json")).unwrap()).unwrap();
    let plan = |at: &Value| &explored["plans"][at.as_u64().unwrap() as usize];
    let edge = cell(&report, &json!({ "plan": "edge" }));
    let named = |name: &str| {
        let plans = explored["plans"].as_array().unwrap();
        plans.iter().find(|plan| plan["names"].as_array().unwrap().contains(&json!(name))).unwrap()
    };
    assert_eq!(edge["latency_ns"], named("edge-only")["latency_ns"]);
    // The fastest encoding of each candidate cut is the faster of the two cells.
    let devices = explored["devices"].as_array().unwrap();
    for cloud in ["small", "large"] {
        let device = devices.iter().position(|device| device["name"] == cloud).unwrap();
        let of_cell = |codec: &str| {
            cell(&report, &json!({ "plan": "split", "codec": codec, "cloud": cloud }))
        };
        let crosses = &of_cell("fp32")["crosses"];
        let cuts = explored["cuts"].as_array().unwrap().iter();
        let same = |cut: &&Value| cut["values"] == *crosses && cut["to"] == device;
        let found: Vec<&Value> = cuts.filter(same).collect();
        let fastest = ["fp32", "uint8"].map(|codec| of_cell(codec)["latency_ns"].as_u64().unwrap());
        let expected = plan(&found[0]["plan"])["latency_ns"].as_u64().unwrap();
        assert_eq!(fastest.into_iter().min(), Some(expected), "{cloud}");
    }
}

#[test]
fn folders_tell_classes_by_number_by_order_by_label_and_by_id() {
    let folder = Folder::lenet(30);
    let names = |name: &dyn Fn(usize) -> String| -> Vec<String> { (0..10).map(name).collect() };
    let id = |class: usize| format!("n{:08}", 90 - class);
    let word = |class: usize| format!("class {}", 90 - class);
    let lines = |line: &dyn Fn(usize) -> String| names(line).join("\n");
    fs::write(folder.path("labels.txt"), lines(&|class| format!("{} {}", id(class), word(class))))
        .unwrap();
    let cases = [
        (names(&|class| class.to_string()), ""),
        (names(&|class| format!("sort-{class}")), ""),
        (names(&word), "labels = \"labels.txt\""),
        (names(&id), "labels = \"labels.txt\""),
    ];
    let mut found = Vec::new();
    for (at, (names, labels)) in cases.iter().enumerate() {
        for picture in 0..30 {
            let class = folder.path(&format!("{at}/{}", names[picture % 13 % 10]));
            fs::create_dir_all(&class).unwrap();
            let name = format!("{picture:02}.png");
            fs::copy(folder.path("pictures").join(&name), class.join(&name)).unwrap();
        }
        let grid = format!("version = 1\npictures = \"{at}\"\nnetworks = [\"net.onnx\"]\n{labels}");
        fs::write(folder.path("grid.toml"), grid).unwrap();
        let report = folder.run(&["accuracy", "grid.toml"]).remove(0);
        found.push(cell(&report, &json!({ "plan": "edge" }))["accuracy"].clone());
    }
    assert_eq!(found[0]["of"], 30);
    assert!(found[0]["count"].as_u64() > Some(0), "none is right, so that nothing is told");
    assert!(found.iter().all(|accuracy| *accuracy == found[0]), "{found:#?}");
    let unknown =
        "version = 1\npictures = \"2\"\nnetworks = [\"net.onnx\"]\nlabels = \"grid.toml\"";
    fs::write(folder.path("grid.toml"), unknown).unwrap();
    let (fine, _, stderr) = folder.try_run(&["accuracy", "grid.toml"]);
    assert!(!fine && stderr.contains("none of the `labels`"), "{stderr}");
}

#[test]
fn what_cannot_be_counted_is_refused_or_left_out() {
    let folder = Folder::lenet(2);
    let cases = [
        ("networks = [\"absent.onnx\"]", "absent.onnx"),
        ("networks = [\"net.onnx\"]\ncuts = [\"nowhere\"]", "nowhere"),
        ("networks = [\"net.onnx\"]\nprecisions = [\"int8\"]", "int8"),
        ("networks = [\"net.onnx\"]\nsizes = [30]", "impossible = \"skip\""),
        ("networks = [\"net.onnx\"]\ntruth = \"none.tsv\"", "none.tsv"),
        ("networks = [\"net.onnx\"]\ncalibrate = \"nowhere\"", "not a folder"),
    ];
    for (lines, words) in cases {
        folder.grid(lines);
        let (fine, _, stderr) = folder.try_run(&["accuracy", "grid.toml"]);
        assert!(!fine && stderr.contains(words), "{lines}: {stderr}");
    }
    let names = "00.png\tcat\n01.png\tdog\n";
    fs::write(folder.path("truth.tsv"), names).unwrap();
    folder.grid("networks = [\"net.onnx\"]\ntruth = \"truth.tsv\"");
    let (fine, _, stderr) = folder.try_run(&["accuracy", "grid.toml"]);
    assert!(!fine && stderr.contains("`labels`"), "{stderr}");
    fs::write(folder.path("labels.txt"), "cat\ndog\n3\n4\n5\n6\n7\n8\n9\n10\n").unwrap();
    let labelled = "networks = [\"net.onnx\"]\ntruth = \"truth.tsv\"\nlabels = \"labels.txt\"";
    let report = folder.accuracy(labelled, &[]);
    assert_eq!(report["cells"][0]["accuracy"]["of"], 2);

    let skipping = "networks = [\"net.onnx\"]\nsizes = [\"own\", 30]\ncuts = [\"whole\", \"nowhere\"]\n\
                    impossible = \"skip\"";
    let report = folder.accuracy(skipping, &[]);
    assert_eq!(report["skipped"].as_array().unwrap().len(), 2, "{report:#}");
    assert_eq!(cells(&report).len(), 2, "one on the source, one uploaded");
    assert_eq!(report["front"]["by"], json!(["agreement", "bytes"]), "no truth, no platform");
    assert!(cells(&report)[0].get("accuracy").is_none());
    assert_eq!(report["front"]["cells"], json!([1]), "the one that sends anything");
    fs::write(folder.path("pictures/00.png"), b"no").unwrap();
    fs::write(folder.path("pictures/01.png"), b"no").unwrap();
    folder.grid("networks = [\"net.onnx\"]");
    let (fine, _, stderr) = folder.try_run(&["accuracy", "grid.toml"]);
    assert!(!fine && stderr.contains("none of the pictures"), "{stderr}");
}

#[test]
fn a_file_that_leaves_its_size_open_is_compared_with_its_largest() {
    let folder = Folder::new();
    let options = ZooOptions { input_size: Some(64), seed: 0 };
    let mut model = zoo::build("squeezenet", &options).unwrap();
    let input = &mut model.graph.as_mut().unwrap().input[0];
    let kind = input.r#type.as_mut().unwrap().value.as_mut().unwrap();
    let type_proto::Value::TensorType(tensor) = kind else { panic!("no tensor") };
    for (axis, name) in [(2, "h"), (3, "w")] {
        let open = dimension::Value::DimParam(name.to_owned());
        tensor.shape.as_mut().unwrap().dim[axis].value = Some(open);
    }
    fs::write(folder.path("net.onnx"), model.encode_to_vec()).unwrap();
    for seed in 0..3 {
        strokes(seed, 90).save(folder.path(&format!("pictures/{seed}.png"))).unwrap();
    }
    let lines = "networks = [\"net.onnx\"]\nsizes = [80, 96, 48]\nuploads = [\"uint8\"]";
    let report = folder.accuracy(lines, &[]);
    assert_eq!(report["references"][0]["input"], "1x3x96x96");
    let sent = |input: &str| {
        let cloud = cell(&report, &json!({ "plan": "cloud", "input": input }));
        cloud["bytes_sent"].as_u64().unwrap()
    };
    for side in [48, 80, 96] {
        assert_eq!(sent(&format!("1x3x{side}x{side}")), 3 * side * side);
    }
    let whole = cell(&report, &json!({ "plan": "edge", "input": "1x3x96x96" }));
    assert_eq!(whole["agreement"]["count"], 3);
    // What others are compared with is counted even where no cell of the grid is it.
    let split = folder
        .accuracy("networks = [{ network = \"net.onnx\", sizes = [48], cuts = [\"50%\"] }]", &[]);
    assert_eq!(cells(&split).len(), 1);
    assert_eq!(split["references"][0]["input"], "1x3x48x48");
    assert_eq!(cells(&split)[0]["agreement"]["count"], 3);
}

/// `Relu`, `Add` to what it was given, `Flatten`: 16 scores of a picture of 4x4.
fn shortcut() -> ModelProto {
    let info = |name: &str, sides: &[i64]| {
        let dimension = |&side: &i64| Dimension {
            value: Some(dimension::Value::DimValue(side)),
            ..Default::default()
        };
        let shape = TensorShapeProto { dim: sides.iter().map(dimension).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(DType::F32.onnx()), shape: Some(shape) };
        let kind =
            TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
    };
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(output.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("shortcut".to_owned()),
        node: vec![
            node("Relu", &["x"], "a"),
            node("Add", &["a", "x"], "b"),
            node("Flatten", &["b"], "y"),
        ],
        input: vec![info("x", &[1, 1, 4, 4])],
        output: vec![info("y", &[1, 16])],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(13) }],
        graph: Some(graph),
        ..Default::default()
    }
}

#[test]
fn an_input_that_crosses_a_cut_is_uploaded() {
    let folder = Folder::new();
    fs::write(folder.path("net.onnx"), shortcut().encode_to_vec()).unwrap();
    for seed in 0..12 {
        strokes(seed, 4).save(folder.path(&format!("pictures/{seed:02}.png"))).unwrap();
    }
    let report = folder.accuracy(
        "networks = [\"net.onnx\"]\nuploads = [\"fp32\", \"uint8\", \"jpeg:1\"]\ncuts = [\"whole\", \"a\"]\n\
         codecs = [\"none\", \"fp16\"]",
        &[],
    );
    let split = |upload: &str, codec: &str| {
        let cell = cell(&report, &json!({ "plan": "split", "upload": upload, "codec": codec }));
        let number = |value: &Value| value.as_u64().unwrap();
        (number(&cell["bytes_sent"]), number(&cell["agreement"]["count"]))
    };
    assert_eq!(split("fp32", "fp32"), (64 + 64, 12));
    assert_eq!(split("uint8", "fp32"), (16 + 64, 12));
    assert_eq!(split("uint8", "fp16"), (16 + 32, 12));
    let (bytes, same) = split("jpeg", "fp32");
    assert!(bytes > 64 && same < 12, "a JPEG of the worst quality changes nothing?");
}

#[test]
fn little_memory_changes_no_answer() {
    let folder = Folder::lenet(9);
    let lines = "networks = [\"net.onnx\"]\ncuts = [\"whole\", \"50%\"]\ncodecs = [\"uint8\", \"bits2\"]\n\
                 uploads = [\"jpeg:20\"]";
    let plenty = folder.accuracy(lines, &[]);
    for memory in ["0B", "40kB"] {
        let little = folder.accuracy(&format!("{lines}\nmemory = \"{memory}\""), &[]);
        assert_eq!(little, plenty, "{memory}");
    }
    fs::create_dir(folder.path("others")).unwrap();
    for name in ["00.png", "01.png"] {
        fs::copy(folder.path("pictures").join(name), folder.path("others").join(name)).unwrap();
    }
    let apart = folder.accuracy(&format!("{lines}\ncalibrate = \"others\""), &[]);
    assert_eq!(apart["cells"].as_array().unwrap().len(), cells(&plenty).len());
    let bytes = |report: &Value| cell(report, &json!({ "codec": "bits2" }))["bytes_sent"].clone();
    assert_ne!(bytes(&apart), bytes(&plenty), "two pictures give other steps than nine");
}

#[test]
fn a_trained_network_is_as_right_as_published_and_loses_by_what_is_sent() {
    let Some(model) = shared("models/onnx/resnet20_cifar10_fp32.onnx") else { return };
    let Some(numbers) = shared("images/cifar_test_x.npy") else { return };
    let Some(golden) = shared("images/golden/cifar100images_top1.tsv") else { return };
    let folder = Folder::new();
    let tensor = read_npy(&numbers).unwrap();
    let values = tensor.as_f32().unwrap();
    for (row, picture) in values.chunks_exact(32 * 32 * 3).enumerate() {
        let pixels = picture.iter().map(|value| (value * 255.0).round() as u8).collect();
        let picture = image::RgbImage::from_raw(32, 32, pixels).unwrap();
        picture.save(folder.path(&format!("pictures/{row:03}.png"))).unwrap();
    }
    // Row of the pictures; true class and the best one of ONNX Runtime.
    let mut known: BTreeMap<usize, [usize; 2]> = BTreeMap::new();
    let table = fs::read_to_string(golden).unwrap();
    for line in table.lines().filter(|line| line.starts_with("resnet20_cifar10_fp32.onnx\t")) {
        let field = |at: usize| line.split('\t').nth(at).unwrap().parse::<usize>().unwrap();
        known.insert(field(2), [field(3), field(4)]);
    }
    assert_eq!(known.len(), 100);
    let truth: String =
        known.iter().map(|(row, [class, _])| format!("{row:03}.png\t{class}\n")).collect();
    fs::write(folder.path("truth.tsv"), truth).unwrap();
    let model = model.display();
    let report = folder.accuracy(
        &format!(
            "networks = [{{ name = \"resnet20\", fp32 = \"{model}\" }}]\ntruth = \"truth.tsv\"\npreprocess = \"imagenet\"\n\
             uploads = [\"uint8\", \"jpeg:90\", \"jpeg:5\"]\ncuts = [\"whole\", \"50%\"]\n\
             codecs = [\"none\", \"uint8\", \"bits8\", \"bits2\"]"
        ),
        &[],
    );
    let right = |wanted: Value| {
        let accuracy = &cell(&report, &wanted)["accuracy"];
        assert_eq!(accuracy["of"], 100);
        accuracy["count"].as_u64().unwrap()
    };
    let published = known.values().filter(|[class, best]| class == best).count() as u64;
    assert_eq!(right(json!({ "plan": "edge" })), published);
    assert_eq!(right(json!({ "codec": "fp32" })), published);
    assert!(right(json!({ "codec": "uint8" })) + 2 >= published);
    assert_eq!(right(json!({ "codec": "bits8" })), right(json!({ "codec": "uint8" })));
    assert!(right(json!({ "jpeg_quality": 5 })) < right(json!({ "jpeg_quality": 90 })));
    let bytes = |wanted: Value| cell(&report, &wanted)["bytes_sent"].as_u64().unwrap();
    assert!(bytes(json!({ "codec": "bits8" })) < bytes(json!({ "codec": "uint8" })));
    let declared = bytes(json!({ "codec": "fp32" }));
    assert!(bytes(json!({ "codec": "bits2" })) <= declared / 16, "calibrated on these pictures");
    // Six pictures that one is right about and the other is not tell them apart; one does not.
    let alike = report["front"]["alike"].as_array().unwrap();
    let members = report["front"]["cells"].as_array().unwrap();
    assert!(members.len() > 1);
    for pair in alike {
        let only = |key: &str| pair[key].as_u64().unwrap();
        assert!(
            only("only_first") + only("only_second") < 6 || pair["chance"].as_f64().unwrap() > 0.05
        );
    }

    // What was counted is what `size` goes by.
    fs::write(folder.path("accuracy.json"), report.to_string()).unwrap();
    let workload = |floor: &str| {
        format!(
            "version = 1\n[workload]\ncameras = 10\nframes_per_second = \"1\"\ndeadline = \"1s\"\n\
             accuracy = \"{floor}\"\n[[network]]\nmodel = \"{model}\"\naccuracy_from = \"accuracy.json\"\n\
             [[board]]\npreset = \"rpi4\"\n"
        )
    };
    fs::write(folder.path("workload.toml"), workload("90%")).unwrap();
    let sized = folder.run(&["size", "workload.toml", "--frames", "1000"]).remove(0);
    assert_eq!(sized["deployments"].as_array().unwrap().len(), 1);
    fs::write(folder.path("workload.toml"), workload("99%")).unwrap();
    let (_, stdout, stderr) = folder.try_run(&["size", "workload.toml", "--json"]);
    let sized: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
    let left_out = sized["left_out"][0].as_str().unwrap();
    assert!(left_out.contains(&format!("its accuracy is {published} %")), "{left_out}");
}
