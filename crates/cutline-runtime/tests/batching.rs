//! An agent that may compute several frames at once: each still gets its own answer, and what was
//! done together is said.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
    time::Duration,
};

use cutline_core::tensor::{DType, Shape};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine::{Engine, LoadOptions, ModelSource, fake::Fake},
    runner::{Deployment, Part, PartModel, PlanParts},
    stage::{Content, MemoryEstimate, TensorSpec},
    tensor::Tensor,
};
use fleet::{Device, model_of, store, wait};

const TIMEOUT: Duration = Duration::from_secs(20);
const NODE: [(&str, &[&str], &str); 1] = [("Add", &["x", "x"], "y")];

fn frame(at: u8) -> Tensor {
    let values = [f32::from(at), 1.0, -2.0, 0.5 * f32::from(at)];
    Tensor::from_f32(Shape(vec![1, 4]), values.to_vec()).unwrap()
}

/// `y = x + x` on frames of 1 x 4, on one device.
fn deployment(folder: &tempfile::TempDir, engine: Option<&str>) -> Deployment {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: Some(Shape(vec![1, 4])),
    };
    let model = PartModel {
        files: vec![store(folder, "net.onnx", &model_of(&[1, 4], &NODE, &["x"], &["y"]))],
        engine: engine.map(str::to_owned),
        threads: Some(1),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        memory: MemoryEstimate { activation_bytes: 1000, ..MemoryEstimate::default() },
    };
    let parts = vec![Part {
        device: "pi".to_owned(),
        address: None,
        replicas: Vec::new(),
        via: None,
        model: Some(model),
        branch: false,
        foreign: None,
    }];
    let (inputs, outputs) = (vec![spec("x")], vec![spec("y")]);
    let plan = PlanParts { plan: "tiny".to_owned(), inputs, outputs, picture: None, parts };
    Deployment::new(plan).unwrap()
}

async fn deploy(client: &AgentClient, deployment: &Deployment) {
    let files: BTreeMap<_, _> = deployment.files.clone();
    client.deploy("net", &deployment.stages[0].spec, &files, "").await.unwrap();
}

/// The body of an answer to GET.
fn get(device: &Device, path: &str) -> String {
    let mut stream = TcpStream::connect(device.address).unwrap();
    let host = device.address;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn json(device: &Device, path: &str) -> serde_json::Value {
    serde_json::from_str(&get(device, path)).unwrap()
}

#[test]
fn frames_that_wait_are_computed_at_once_and_answered_each() {
    let folder = tempfile::tempdir().unwrap();
    let delay = Duration::from_millis(20);
    let remarks = Arc::new(Mutex::new(Vec::new()));
    let device = Device::with(|config| {
        let remarks = Arc::clone(&remarks);
        config.engines = vec![Arc::new(Fake { delay, unsupported: None })];
        config.max_batch = 4;
        config.remark = Arc::new(move |text| remarks.lock().unwrap().push(text.to_owned()));
    });
    let deployment = deployment(&folder, None);
    let expected = |at: u8| {
        let model = model_of(&[1, 4], &NODE, &["x"], &["y"]);
        let source = ModelSource::Memory(model.into());
        let mut session = Fake::default().load(&source, LoadOptions { threads: 1 }).unwrap();
        session.run(&[("x", &frame(at))], &["y"]).unwrap().remove(0)
    };
    let traced = wait(async {
        let client = device.client().await;
        deploy(&client, &deployment).await;
        let asked = (0..12u8).map(|at| {
            let address = device.address();
            tokio::spawn(async move {
                let options = ClientOptions::default();
                let client = AgentClient::connect("pi", &address, options).await.unwrap();
                let values = vec![("x".to_owned(), Content::Tensor(frame(at)))];
                (at, client.infer("net", values, true, TIMEOUT).await.unwrap())
            })
        });
        let mut traced = Vec::new();
        for answer in asked.collect::<Vec<_>>() {
            let (at, answer) = answer.await.unwrap();
            assert_eq!(answer.outputs, [("y".to_owned(), expected(at))], "{at}");
            traced.push(answer.trace.unwrap().stages[0].frames);
        }
        traced
    });
    let words = remarks.lock().unwrap().join("\n");
    assert!(words.contains("stage `0-pi` computes up to 4 frames at once: "), "{words}");
    assert!(traced.iter().any(|&frames| frames > 1), "{traced:?}");
    assert!(traced.iter().all(|&frames| (1..=4).contains(&frames)), "{traced:?}");

    let stats = json(&device, "/v2/models/net/stats")["model_stats"][0].clone();
    let count = |value: &serde_json::Value| value.as_u64().unwrap();
    let batches: Vec<(u64, u64)> = stats["batch_stats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (count(&batch["batch_size"]), count(&batch["compute_infer"]["count"])))
        .collect();
    assert_eq!(count(&stats["inference_count"]), 12);
    assert_eq!(batches.iter().map(|(size, runs)| size * runs).sum::<u64>(), 12, "{batches:?}");
    let runs = batches.iter().map(|(_, runs)| runs).sum::<u64>();
    assert_eq!(count(&stats["execution_count"]), runs);
    assert!(runs < 12, "{batches:?}");
    for &(size, runs) in &batches {
        let seen = traced.iter().filter(|&&frames| u64::from(frames) == size).count() as u64;
        assert_eq!(seen, size * runs, "{traced:?}");
    }

    let config = json(&device, "/v2/models/net/config");
    assert_eq!(config["max_batch_size"], 0);
    assert_eq!(config["parameters"]["cutline.at_once"]["string_value"], "4");
    let metrics = get(&device, "/metrics");
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(value("cutline_stage_executions_total"), runs as f64);
    assert_eq!(value("cutline_stage_at_once"), 4.0);
    let busy = value("cutline_stage_compute_seconds_total");
    assert!((runs as f64 * 0.02..runs as f64 * 0.04).contains(&busy), "{busy} s in {runs} runs");
}

#[test]
fn without_being_told_an_agent_tries_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start();
    let deployment = deployment(&folder, Some("rten"));
    wait(async {
        let client = device.client().await;
        deploy(&client, &deployment).await;
        let values = vec![("x".to_owned(), Content::Tensor(frame(3)))];
        let answer = client.infer("net", values, true, TIMEOUT).await.unwrap();
        assert_eq!(answer.trace.unwrap().stages[0].frames, 1);
    });
    let parameters = json(&device, "/v2/models/net/config")["parameters"].clone();
    assert_eq!(parameters["cutline.at_once"]["string_value"], "1");
    assert_eq!(parameters["cutline.batching"]["string_value"], "it was not asked for");
}
