//! Valid files and messages to damage: small, and with something of everything that is read.

use bytes::Bytes;
use cutline_core::{
    entropy,
    onnx::{self, proto::ModelProto},
    tensor::DType,
    tflite::author::Network,
    zoo::{self, ZooOptions},
};
use cutline_runtime::wire::{
    contents::ENTROPY_CODE,
    inference::{
        InferParameter, InferTensorContents, ModelInferRequest, infer_parameter::ParameterChoice,
        model_infer_request::InferInputTensor,
    },
};
use prost::Message;
use serde_json::{Value, json};

/// Networks without weights, and one with.
pub(crate) fn models() -> Vec<ModelProto> {
    let outlines = ["squeezenet", "mobilenetv3-small", "shufflenetv2", "densenet121"];
    let outlines = outlines.map(|name| zoo::outline(name, None).unwrap());
    let whole = zoo::build("lenet5", &ZooOptions::default()).unwrap();
    outlines.into_iter().chain([whole]).collect()
}

pub(crate) fn model_files() -> Vec<Vec<u8>> {
    models().iter().map(Message::encode_to_vec).collect()
}

/// TensorFlow Lite files of one network: in floats, and in integers.
pub(crate) fn tflite_files() -> Vec<Vec<u8>> {
    let network = Network::lower(&zoo::build("lenet5", &ZooOptions::default()).unwrap()).unwrap();
    let range = |name: &str| (name.to_owned(), [-4.0, 4.0]);
    let ranges = network.values().into_iter().map(range).collect();
    let integers = network.clone().quantise(&ranges).unwrap();
    [network, integers].map(|network| network.encode().unwrap().to_vec()).to_vec()
}

/// A network that plans and costs can be made for.
pub(crate) fn network() -> ModelProto {
    zoo::outline("lenet5", None).unwrap()
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    let tensor = |datatype: DType, shape: Vec<i64>, contents| InferInputTensor {
        name: "data".to_owned(),
        datatype: datatype.oip().to_owned(),
        shape,
        contents,
        ..Default::default()
    };
    let typed = InferTensorContents { fp32_contents: vec![1.0; 6], ..Default::default() };
    let files = InferTensorContents {
        bytes_contents: vec![Bytes::from_static(b"\xff\xd8\xff\xd9")],
        ..Default::default()
    };
    let request = |inputs, raw: Vec<Bytes>| {
        let model_name = "0-pi".to_owned();
        let raw_input_contents = raw;
        ModelInferRequest { model_name, inputs, raw_input_contents, ..Default::default() }
    };
    let raw = Bytes::from(vec![0_u8; 24]);
    let [code, ..] = &entropy_codes()[..] else { panic!("there are seeds") };
    let mark = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    let coded = InferInputTensor {
        parameters: [(ENTROPY_CODE.to_owned(), mark)].into(),
        ..tensor(DType::U8, vec![1, 20, 30], None)
    };
    [
        request(vec![coded], vec![Bytes::copy_from_slice(&code[3..])]),
        request(vec![tensor(DType::F32, vec![2, 3], None)], vec![raw]),
        request(vec![tensor(DType::F32, vec![2, 3], Some(typed))], Vec::new()),
        request(vec![tensor(DType::String, vec![1], Some(files))], Vec::new()),
    ]
    .iter()
    .map(Message::encode_to_vec)
    .collect()
}

/// Requests over HTTP: the length of their JSON in two bytes, the JSON, tensors as bytes.
pub(crate) fn rest_requests() -> Vec<Vec<u8>> {
    let list = json!([[1, -2], [0.5, 8e3]]);
    let floats = json!({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": list});
    let bits = json!({"name": "y", "datatype": "BOOL", "shape": [3], "data": [true, 0, 1]});
    let binary = |name: &str, datatype: &str, shape: u64, size: u64| {
        let parameters = json!({ "binary_data_size": size });
        json!({"name": name, "datatype": datatype, "shape": [shape], "parameters": parameters})
    };
    let file = binary("picture", "BYTES", 1, 7);
    let requests = [
        (json!({"id": "7", "inputs": [floats, bits]}), vec![]),
        (
            json!({
                "parameters": {"binary_data_output": true, "timeout": 9},
                "inputs": [binary("x", "INT16", 2, 4), file],
                "outputs": [{"name": "y", "parameters": {"binary_data": false}}],
            }),
            vec![1, 0, 2, 0, 3, 0, 0, 0, 1, 2, 3],
        ),
    ];
    let request = |(json, tail): &(Value, Vec<u8>)| {
        let json = json.to_string();
        let length = u16::try_from(json.len()).unwrap().to_le_bytes();
        [&length, json.as_bytes(), tail].concat()
    };
    requests.iter().map(request).collect()
}

/// Length and row, then the code: of few values, of signed ones, of noise.
pub(crate) fn entropy_codes() -> Vec<Vec<u8>> {
    let code = |len: u16, row: u8, value: fn(u32) -> u8| {
        let bytes: Vec<u8> = (0..u32::from(len)).map(value).collect();
        let [low, high] = len.to_le_bytes();
        [vec![low, high, row], entropy::encode(&bytes, row.into())].concat()
    };
    let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
    vec![
        code(600, 30, |i| (i.wrapping_mul(2_654_435_761) >> 30) as u8 / 2),
        code(5000, 28, |i| 128 + (i % 19) as u8 - (i % 7) as u8),
        code(3001, 1, |i| if i % 11 == 0 { (i % 256) as u8 } else { 0 }),
        code(300, 10, noise),
    ]
}

pub(crate) fn stages() -> Vec<Value> {
    let tensor =
        |name: &str, shape: [u64; 4]| json!({ "name": name, "dtype": "f32", "shape": shape });
    vec![json!({
        "plan": "0011223344556677",
        "name": "0-pi",
        "device": "pi",
        "inputs": [tensor("data", [1, 3, 32, 32])],
        "picture": {
            "input": "data",
            "spec": { "width": 32, "height": 32, "mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 1.0] },
            "encoding": "uint8"
        },
        "model": {
            "files": [{ "name": "model.onnx", "sha256": "ab".repeat(32), "bytes": 1234 }],
            "engine": "rten",
            "threads": 1,
            "inputs": ["data"],
            "outputs": [tensor("relu1", [1, 8, 16, 16])],
            "memory": { "parameter_bytes": 1000, "activation_bytes": 9000, "engine_bytes": 0 }
        },
        "answers": [tensor("fc", [1, 10, 1, 1])],
        "next": {
            "stage": "1-cloud", "device": "cloud", "address": "127.0.0.1:9002",
            "model_name": "1-cloud", "sends": ["relu1"]
        }
    })]
}

pub(crate) fn platform() -> Value {
    json!({
        "version": 1,
        "device": [
            { "name": "pi", "profiles": ["pi.json"], "address": "127.0.0.1:9001", "memory": "1GiB" },
            { "name": "cloud", "profiles": ["cloud.json"], "address": "127.0.0.1:9002" }
        ],
        "link": [{
            "between": ["pi", "cloud"], "up": "20mbit", "down": "50mbit", "delay": "10ms",
            "fixed": "200us", "via": "127.0.0.1:9102"
        }]
    })
}

pub(crate) fn costs() -> Value {
    json!({
        "version": 1,
        "input": { "fp32": 602_112, "uint8": 150_528, "jpeg": 30_000 },
        "layers": [
            { "name": "a", "inputs": [], "output_bytes": 800_000, "parameter_bytes": 9000,
              "time_ns": { "pi": 9_000_000, "cloud": 400_000 }, "energy_nj": { "pi": 20_000_000 } },
            { "name": "b", "inputs": ["a"], "output_bytes": 40_000, "time_ns": { "pi": 5_000_000, "cloud": 300_000 } },
            { "name": "c", "inputs": ["a"], "output_bytes": 50_000, "time_ns": { "cloud": 300_000 } },
            { "name": "d", "inputs": ["b", "c"], "output_bytes": 4000, "time_ns": { "pi": 5_000_000, "cloud": 300_000 } }
        ],
        "outputs": ["d"],
        "codecs": [{ "name": "uint8", "num": 1, "den": 4, "enc_ns_per_kb": 300, "dec_ns_per_kb": 300, "lossy": true }],
        "call_ns": { "pi": 50_000 },
        "prepare_ns": { "uint8": { "pi": 900_000 } }
    })
}

/// A profile of [`network`] on some device.
pub(crate) fn profile(groups: &[String]) -> Value {
    let timing = json!({ "median_ns": 1000, "p10_ns": 900, "p90_ns": 1200, "count": 11 });
    json!({
        "version": 1,
        "key": {
            "model_sha256": "ab".repeat(32), "hardware": "some processor", "engine": "rten",
            "engine_version": "0.27", "threads": 1, "precision": "fp32"
        },
        "model": "lenet5.onnx",
        "slowdown_permille": 4000,
        "call_ns": 20_000,
        "groups": groups.iter().map(|name| json!({ "name": name, "time_ns": 70_000 })).collect::<Vec<_>>(),
        "unsupported": [],
        "segments": [{ "part": "whole", "cut": [], "timing": timing, "fitted_ns": 1000 }],
        "residual_permille": 12,
        "prepare": {
            "fp32": { "encode_ns": 1000, "decode_ns": 0, "bytes": 4096 },
            "jpeg": { "encode_ns": 1000, "decode_ns": 3000, "bytes": 900 }
        },
        "engine_bytes": 9_000_000
    })
}

pub(crate) fn link_table() -> Value {
    let timing = json!({ "median_ns": 1000, "p10_ns": 900, "p90_ns": 1200, "count": 11 });
    let points =
        json!([{ "bytes": 1000, "timing": timing }, { "bytes": 100_000, "timing": timing }]);
    json!({ "version": 1, "up": points, "down": points })
}

pub(crate) const SCHEDULE: &str = "# seconds, then what changes\n0 up=20mbit down=50mbit delay=10ms\n\
                            12.5 up=5mbit jitter=2ms\n30 cut\n32 resume\n";

pub(crate) const RECORDING: &str = "time_s,power_w\n0.0,2.31\n0.1,2.35\n0.2,4e0\n0.35,3.5\n1,2\n";

pub(crate) const RAILS: &str = "  3V3_SYS_A current(1)=0.50A\n VDD_CORE_A current(7)=2.00A\n  3V3_SYS_V volt(9)=3.30V\n VDD_CORE_V volt(15)=0.80V\n    EXT5V_V volt(24)=5.10V\n";

pub(crate) const TRACE: &str = "traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n\
    tracestate:vendor=opaque,b@t=2\ntracestate:c=3\n";

pub(crate) const JOURNAL: &str = "cutline journal 1 next 3\n+ 0 \"a/0.jpg\"\n+ 2 \"b\\n.jpg\"\n\
    + 3 \"c.jpg\"\n- 0\n";

pub(crate) const GRID: &str = r#"
version = 1
networks = ["squeezenet"]
sizes = [64, 96]
threads = [1]
pictures = ["photo.jpg"]
uploads = ["jpeg:20", "uint8"]
links = ["real", "8mbit 5ms"]
agents = ["local", "127.0.0.1:9001"]
[measure]
precision = "20%"
min_turns = 10
max_turns = 30
rest = "2ms"
"#;

pub(crate) const WORKLOAD: &str = r#"
version = 1
[workload]
cameras = 5000
frames_per_second = "1"
deadline = "300ms"
electricity = "0.30"
[[network]]
zoo = "mobilenetv2"
[[board]]
preset = "rpi4"
purchase = "60"
life_months = 36
[[instance]]
preset = "c5.large"
[[link]]
preset = "4g-2020"
traffic = "0.01"
"#;

pub(crate) const TESTBED: &str = r#"
version = 1
testbed = { congestion = "reno" }
[[device]]
name = "the camera"
threads = 1
memory = "1GiB"
testbed = { slowdown = 7.5, cores = 0 }
[[device]]
name = "cloud"
[[link]]
between = ["the camera", "cloud"]
up = "8mbit"
delay = "10ms"
testbed = { loss = "0.5%", queue = "1MB" }
"#;

/// A sweep of small kernels and networks.
pub(crate) fn kernels() -> Value {
    json!({
        "version": 1, "hardware": "some processor", "engine": "rten", "engine_version": "0.27",
        "threads": 1, "engine_bytes": 9_000_000,
        "samples": [
            { "kernel": { "op": "dense", "inputs": 64, "outputs": 64 }, "copies": 4, "time_ns": 9000 },
            { "kernel": { "op": "pool", "max": true, "channels": 8, "kernel": 3, "stride": 2, "size": 16 },
              "copies": 3, "time_ns": 4000 },
            { "network": "lenet5", "time_ns": 80_000, "memory_bytes": 1_000_000 },
            { "network": "squeezenet", "input_size": 32, "time_ns": 900_000, "memory_bytes": 9_000_000 },
            { "network": "shufflenetv2", "input_size": 32, "time_ns": 700_000, "memory_bytes": 8_000_000 },
            { "network": "resnet18", "input_size": 32, "time_ns": 1_900_000, "memory_bytes": 50_000_000 }
        ]
    })
}

/// A small JPEG and a small PNG.
pub(crate) fn pictures() -> Vec<Vec<u8>> {
    use image::{DynamicImage, ImageFormat, RgbImage};
    let picture = RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 9, y as u8 * 15, 77]));
    let picture = DynamicImage::from(picture);
    let written = |format| {
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    vec![written(ImageFormat::Jpeg), written(ImageFormat::Png)]
}

/// Three small pictures in a row: as ffmpeg writes them, and as a camera on a network does.
pub(crate) fn videos() -> Vec<Vec<u8>> {
    let picture = pictures().swap_remove(0);
    let part = [&b"--next\r\nContent-Type: image/jpeg\r\n\r\n"[..], &picture].concat();
    vec![picture.repeat(3), part.repeat(3)]
}

/// Tensors as NumPy writes them: of several types, versions 1 and 2, one without elements.
pub(crate) fn tensor_files() -> Vec<Vec<u8>> {
    let file = |version: u8, descr: &str, shape: &str, bytes: usize| {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY".to_vec();
        file.extend([version, 0]);
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        file.extend(&length[..if version == 1 { 2 } else { 4 }]);
        file.extend(header.bytes());
        file.extend((0..bytes).map(|byte| byte as u8));
        file
    };
    vec![
        file(1, "<f4", "(1, 3, 4, 4)", 192),
        file(2, "<i8", "(5,)", 40),
        file(3, "|b1", "()", 1),
        file(1, "<f2", "(0, 7)", 0),
    ]
}

/// Reads a model as the program does.
pub(crate) fn import(model: &ModelProto) -> Option<cutline_core::graph::Graph> {
    onnx::import(model, &onnx::ImportOptions::default()).ok()
}
