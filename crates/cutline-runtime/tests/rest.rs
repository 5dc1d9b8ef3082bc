//! An agent over HTTP: the same models, answers and refusals as over gRPC, on the same port.
#![allow(clippy::unwrap_used)]

#[allow(unused_imports)]
mod fleet;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    runner::Deployment,
    stage::{Content, trace::Trace},
};
use fleet::{Device, deploy_double, gate::gated, vector, wait};
use serde_json::{Value, json};

/// What came back: status, the header that says how much is JSON, and the body.
struct Reply {
    status: u16,
    json_length: Option<usize>,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body[..self.json_length.unwrap_or(self.body.len())]).unwrap()
    }
}

/// One call, as bytes on a socket: what a client library adds must not be what makes it work.
fn call(device: &Device, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut socket = TcpStream::connect(device.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut head = format!("{line} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).unwrap();
    // A server may refuse before it has read everything.
    let _ = socket.write_all(body);
    let mut reply = Vec::new();
    let _ = socket.read_to_end(&mut reply);
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&reply[..end]).to_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("inference-header-content-length: "));
    Reply {
        status: head[9..12].parse().unwrap(),
        json_length: length.map(|length| length.parse().unwrap()),
        body: reply[end + 4..].to_vec(),
    }
}

fn get(device: &Device, path: &str) -> Reply {
    call(device, &format!("GET {path}"), &[], &[])
}

fn post(device: &Device, path: &str, body: &Value) -> Reply {
    call(device, &format!("POST {path}"), &[], body.to_string().as_bytes())
}

fn doubling() -> Device {
    let device = Device::start();
    wait(async { deploy_double(&device.client().await).await });
    device
}

const INFER: &str = "/v2/models/double/infer";

#[test]
fn models_are_described_as_over_grpc() {
    let device = doubling();
    for (path, expected) in [
        (
            "/v2",
            json!({"name": "cutline", "version": env!("CARGO_PKG_VERSION"), "extensions": ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]}),
        ),
        (
            "/v2/models/double/versions/1",
            json!({
                "name": "double",
                "versions": ["1"],
                "platform": "cutline_onnx",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [4]}],
            }),
        ),
        (
            "/v2/models/double/config",
            json!({
                "name": "double",
                "platform": "cutline_onnx",
                "backend": "",
                "max_batch_size": 0,
                "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
                "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
                "parameters": {
                    "cutline.at_once": {"string_value": "1"},
                    "cutline.batching": {"string_value": "it was not asked for"},
                },
            }),
        ),
    ] {
        assert_eq!(get(&device, path).json(), expected, "{path}");
    }
    for (path, status) in [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/double/ready", 200),
        ("/v2/models/treble/ready", 404),
        ("/v2/models/double/versions/2/ready", 404),
        ("/v2/models/treble", 404),
        ("/elsewhere", 404),
    ] {
        assert_eq!(get(&device, path).status, status, "{path}");
    }
}

#[test]
fn tensors_come_and_go_as_json_and_as_bytes() {
    let device = doubling();
    let raw: Vec<u8> = [1f32, -2.0, 0.5, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let twice: Vec<u8> = [2f32, -4.0, 1.0, 16.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let input = |how: Value| {
        let mut input = json!({"name": "x", "datatype": "FP32", "shape": [4]});
        input.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
        input
    };
    let as_bytes = input(json!({"parameters": {"binary_data_size": 16}}));
    for data in [json!([1, -2, 0.5, 8]), json!([[1.0, -2.0], [0.5, 8e0]])] {
        let body = json!({"id": "7", "inputs": [input(json!({ "data": data }))]});
        let reply = post(&device, INFER, &body);
        let output =
            json!({"name": "y", "datatype": "FP32", "shape": [4], "data": [2.0, -4.0, 1.0, 16.0]});
        let expected =
            json!({"model_name": "double", "model_version": "1", "id": "7", "outputs": [output]});
        assert_eq!((reply.status, reply.json()), (200, expected));
    }
    for wanted in [
        json!({"parameters": {"binary_data_output": true}}),
        json!({"outputs": [{"name": "y", "parameters": {"binary_data": true}}]}),
    ] {
        let mut request = json!({ "inputs": [as_bytes] });
        request.as_object_mut().unwrap().extend(wanted.as_object().unwrap().clone());
        let request = request.to_string();
        let length = request.len().to_string();
        let headers = [("Inference-Header-Content-Length", length.as_str())];
        let body = [request.as_bytes(), &raw].concat();
        let reply = call(&device, &format!("POST {INFER}"), &headers, &body);
        let outputs = &reply.json()["outputs"];
        let parameters = json!({"binary_data_size": 16});
        let expected =
            json!([{"name": "y", "datatype": "FP32", "shape": [4], "parameters": parameters}]);
        assert_eq!((reply.status, outputs), (200, &expected), "{wanted}");
        assert_eq!(reply.body[reply.json_length.unwrap()..], twice);
    }
}

#[test]
fn a_trace_tells_where_the_time_went() {
    let device = doubling();
    let input = json!({"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]});
    let body = json!({"parameters": {"cutline.trace": true}, "inputs": [input]});
    let reply = post(&device, INFER, &body).json();
    let trace = reply["parameters"]["cutline.trace"].as_str().unwrap();
    let trace: Trace = serde_json::from_str(trace).unwrap();
    assert_eq!(trace.stages.iter().map(|s| s.device.as_str()).collect::<Vec<_>>(), ["pi"]);
}

#[test]
fn requests_that_do_not_fit_are_refused_with_reasons() {
    let device = doubling();
    let of = |datatype: &str, shape: Value, rest: Value| {
        let mut input = json!({"name": "x", "datatype": datatype, "shape": shape});
        input.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({ "inputs": [input] })
    };
    let bytes =
        |size: Value| of("FP32", json!([4]), json!({"parameters": {"binary_data_size": size}}));
    let data = |datatype: &str, data: Value| of(datatype, json!([4]), json!({ "data": data }));
    for (body, words) in [
        (json!([]), "not JSON of the Open Inference Protocol"),
        (json!({}), "missing field `inputs`"),
        (json!({"inputs": []}), "`x` is missing"),
        (data("FP33", json!([1])), "`FP33` is not a known datatype"),
        (data("FP16", json!([1, 2, 3, 4])), "cannot come as `data`"),
        (data("INT8", json!([1, 2, 3, 300])), "300 is no INT8"),
        (data("INT8", json!([1, 2, 3, 0.5])), "0.5 is no INT8"),
        (data("FP32", json!(["one"])), "elements of type FP32"),
        (data("FP32", json!([1, 2, 3, 4, 5])), "more elements than its shape has"),
        (data("FP32", json!([1, 2, 3])), "needs 16 bytes, got 12"),
        (data("INT32", json!([1, 2, 3, 4])), "`x` is INT32 4, expected FP32 4"),
        (of("FP32", json!([-1]), json!({"data": []})), "an axis is negative"),
        (of("FP32", json!([4]), json!({})), "neither `data` nor `binary_data_size`"),
        (bytes(json!(16)), "more than the 0 bytes that are left"),
        (bytes(json!(-1)), "`binary_data_size` is none"),
        (bytes(json!(u64::MAX)), "more than the 0 bytes"),
    ] {
        let reply = post(&device, INFER, &body);
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, 400, "{body}: {error}");
        assert!(error.contains(words), "{body}: {error}");
    }
    let fits = data("FP32", json!([1, 2, 3, 4])).to_string();
    for (headers, body, words) in [
        (("Inference-Header-Content-Length", "900"), fits.as_str(), "is it complete"),
        (("Inference-Header-Content-Length", "-1"), &fits, "not a number of bytes"),
        (("Content-Encoding", "gzip"), &fits, "`gzip` is not read here"),
    ] {
        let reply = call(&device, &format!("POST {INFER}"), &[headers], body.as_bytes());
        assert_eq!(reply.status, 400);
        let error = reply.json()["error"].to_string();
        assert!(error.contains(words), "{error}");
    }
    let rest = format!("{fits}more");
    let length = fits.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let reply = call(&device, &format!("POST {INFER}"), &headers, rest.as_bytes());
    assert_eq!(reply.json()["error"], "4 bytes follow the last tensor's");
    assert_eq!(post(&device, "/v2/models/treble/infer", &json!({"inputs": []})).status, 404);
    assert_eq!(post(&device, INFER, &data("FP32", json!([1, 2, 3, 4]))).status, 200);
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_agent_lives_on() {
    let device = Device::with(|config| config.max_message = 1000);
    wait(async { deploy_double(&device.client().await).await });
    let reply = call(&device, &format!("POST {INFER}"), &[], &vec![b' '; 100_000]);
    assert_eq!(reply.status, 400);
    assert!(reply.json()["error"].as_str().unwrap().contains("up to 1000 bytes"));
    assert_eq!(get(&device, "/v2/models/double/ready").status, 200);
}

#[test]
fn models_are_unloaded_and_loaded_again() {
    let device = doubling();
    let index = |body: Value| post(&device, "/v2/repository/index", &body).json();
    let model = |state: &str, reason: &str| json!([{"name": "double", "version": "1", "state": state, "reason": reason}]);
    assert_eq!(index(json!({})), model("READY", ""));
    let input = json!({"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]});
    let infer = || post(&device, INFER, &json!({ "inputs": [input] })).status;
    let order = |what: &str, body: Value| {
        post(&device, &format!("/v2/repository/models/double/{what}"), &body).status
    };
    assert_eq!((order("unload", json!({})), infer()), (200, 503));
    assert_eq!(index(json!({})), model("UNAVAILABLE", "it was unloaded"));
    assert_eq!(index(json!({"ready": true})), json!([]));
    assert_eq!(order("load", json!({"parameters": {"config": "{}"}})), 400);
    assert_eq!((order("load", json!({})), infer()), (200, 200));
    assert_eq!(order("load", json!({})), 200);
    for what in ["load", "unload"] {
        let reply = post(&device, &format!("/v2/repository/models/treble/{what}"), &json!({}));
        assert_eq!(
            (reply.status, reply.json()["error"].as_str().unwrap()),
            (404, "no model `treble` is deployed on this device")
        );
    }
}

#[test]
fn statistics_and_metrics_count_every_request_once() {
    let device = doubling();
    let input = json!({"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]});
    let good = json!({ "inputs": [input] });
    for (body, status) in [(&good, 200), (&good, 200), (&json!({"inputs": []}), 400)] {
        assert_eq!(post(&device, INFER, body).status, status);
    }
    let stats = get(&device, "/v2/models/double/stats").json();
    let all = get(&device, "/v2/models/stats").json();
    assert_eq!(stats, all);
    let stats = &stats["model_stats"][0];
    let counts = ["success", "fail", "queue", "compute_input", "compute_infer"]
        .map(|span| stats["inference_stats"][span]["count"].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 2, 2, 2]);
    assert_eq!(
        (stats["inference_count"].as_u64(), stats["execution_count"].as_u64()),
        (Some(2), Some(2))
    );
    assert!(stats["inference_stats"]["compute_infer"]["ns"].as_u64().unwrap() > 0);
    assert!(stats["last_inference"].as_u64().unwrap() > 1_600_000_000_000);
    let text = String::from_utf8(get(&device, "/metrics").body).unwrap();
    let labels = "{model=\"double\",stage=\"0-pi\",device=\"pi\"}";
    let end = "{le=\"+Inf\",model=\"double\",stage=\"0-pi\",device=\"pi\"}";
    for line in [
        format!("cutline_stage_answered_total{labels} 2"),
        format!("cutline_stage_failed_total{labels} 1"),
        format!("cutline_stage_received_bytes_total{labels} 32"),
        format!("cutline_stage_sent_bytes_total{labels} 32"),
        format!("cutline_stage_request_seconds_count{labels} 2"),
        format!("cutline_stage_request_seconds_bucket{end} 2"),
        "cutline_requests_under_way 0".to_owned(),
        "cutline_stages 1".to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_is_kept_comes_back_with_the_agent_until_it_is_removed() {
    let store = tempfile::tempdir().unwrap();
    let start = || Device::with(|config| config.store = store.path().to_owned());
    let ready = |device: &Device| {
        // Loading begins with the agent, and takes its time.
        let state = || post(device, "/v2/repository/index", &json!({})).json();
        (0..1000)
            .map(|_| std::thread::sleep(Duration::from_millis(5)))
            .map(|()| state())
            .find(|index| index.as_array().unwrap().iter().all(|m| m["state"] == "READY"))
            .map(|index| index.as_array().unwrap().len())
    };
    let mut first = start();
    wait(async {
        let client = first.client().await;
        deploy_double(&client).await;
        client.keep("double").await.unwrap();
        let error = client.keep("treble").await.unwrap_err().to_string();
        assert!(error.contains("no model `treble` is deployed"), "{error}");
    });
    first.kill();
    let mut second = start();
    assert_eq!(ready(&second), Some(1));
    wait(async {
        let client = second.client().await;
        let values = vec![("x".to_owned(), Content::Tensor(vector([1.0, 2.0, 3.0, 4.0])))];
        let answer = client.infer("double", values, false, Duration::from_secs(20)).await.unwrap();
        assert_eq!(answer.outputs, [("y".to_owned(), vector([2.0, 4.0, 6.0, 8.0]))]);
        assert!(client.remove("double").await.unwrap());
    });
    second.kill();
    assert_eq!(ready(&start()), Some(0));
}

#[test]
fn what_was_only_deployed_does_not_come_back_and_rubbish_does_no_harm() {
    let store = tempfile::tempdir().unwrap();
    let start = || Device::with(|config| config.store = store.path().to_owned());
    let mut first = start();
    wait(async { deploy_double(&first.client().await).await });
    first.kill();
    std::fs::write(store.path().join("kept").join("0.json"), b"{\"model_name\": 3").unwrap();
    let second = start();
    wait(async {
        let options = ClientOptions::default();
        let client = AgentClient::connect("pi", &second.address(), options).await.unwrap();
        assert!(!client.remove("double").await.unwrap());
    });
    assert_eq!(post(&second, "/v2/repository/index", &json!({})).json(), json!([]));
}

#[test]
fn a_caller_who_sends_much_delays_another_by_one_frame_and_fills_its_own_share_only() {
    let (device, gate) = gated();
    let folder = tempfile::tempdir().unwrap();
    let node: [(&str, &[&str], &str); 1] = [("Add", &["x", "x"], "y")];
    let mut part = fleet::part(&folder, "pi", None, &node, &["x"], &["y"]);
    part.model.as_mut().unwrap().engine = None;
    let deployment = Deployment::new(fleet::plan(vec![part], &["y"])).unwrap();
    let spec = &deployment.stages[0].spec;
    let under_way = |count: usize| {
        let line = format!("cutline_requests_under_way {count}\n");
        let seen = || String::from_utf8(get(&device, "/metrics").body).unwrap().contains(&line);
        (0..2000).any(|_| {
            seen() || {
                std::thread::sleep(Duration::from_millis(2));
                false
            }
        })
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (greedy, modest) = (device.client().await, device.client().await);
        greedy.deploy("double", spec, &deployment.files, "").await.unwrap();
        let send = |client: &AgentClient| {
            let client = client.clone();
            let values = vec![("x".to_owned(), Content::Tensor(vector([1.0; 4])))];
            let infer =
                async move { client.infer("double", values, false, Duration::from_secs(20)).await };
            tokio::spawn(infer)
        };
        let many: Vec<_> = (0..64).map(|_| send(&greedy)).collect();
        assert!(under_way(64));
        let refused = send(&greedy).await.unwrap().unwrap_err().to_string();
        assert!(refused.contains("64 requests of this caller are under way"), "{refused}");
        let one = send(&modest);
        assert!(under_way(65));
        // The frame that is being computed, then one of each caller.
        tokio::task::block_in_place(|| (0..3).for_each(|_| gate.pass()));
        one.await.unwrap().unwrap();
        assert!(many.iter().filter(|request| request.is_finished()).count() <= 2);
        tokio::task::block_in_place(|| (0..62).for_each(|_| gate.pass()));
        for request in many {
            request.await.unwrap().unwrap();
        }
    });
}
