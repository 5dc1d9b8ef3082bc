//! Where the latency of a split network goes, as `cutline bench` takes it apart: over two agents of this
//! machine, directly and through mosquitto, with a network of the zoo as ONNX and as TFLite.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_cutline");
const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const PARTS: [&str; 8] = [
    "prepare_ns",
    "device_compute_ns",
    "serialise_ns",
    "upload_ns",
    "queue_ns",
    "cloud_compute_ns",
    "download_ns",
    "platform_ns",
];

/// A network, and agents that are an edge and a cloud.
struct Scene {
    folder: tempfile::TempDir,
    model: PathBuf,
    _agents: [AgentProcess; 2],
}

impl Scene {
    /// LeNet-5 in a file whose name ends so.
    fn new(extension: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join(format!("lenet5.{extension}"));
        let mut write = Command::new(BINARY);
        write.args(["zoo", "write", "lenet5", "-o"]).arg(&model).args(options);
        said(&mut write);
        let agent = |name: &str| {
            let engine = Some("rten".to_owned());
            let store = folder.path().join(name);
            let options = AgentOptions { engine, store, ..AgentOptions::default() };
            AgentProcess::start(Path::new(BINARY), &options).unwrap()
        };
        let agents = ["edge", "cloud"].map(agent);
        let [edge, cloud] = [0, 1].map(|at: usize| agents[at].address);
        let platform = format!(
            "version = 1\n[[device]]\nname = \"edge\"\naddress = \"{edge}\"\n[[device]]\nname = \"cloud\"\naddress = \"{cloud}\"\n[[link]]\nbetween = [\"edge\", \"cloud\"]\nup = \"100mbit\"\n"
        );
        fs::write(folder.path().join("platform.toml"), platform).unwrap();
        Self { folder, model, _agents: agents }
    }

    fn bench(&self, options: &[&str]) -> Command {
        let mut bench = Command::new(BINARY);
        bench.arg("bench").arg(&self.model).args(["--cuts", "2", "--frames", "3", "--json"]);
        bench.arg("--platform").arg(self.folder.path().join("platform.toml")).args(options);
        bench
    }

    fn rows(&self, options: &[&str]) -> Vec<Value> {
        serde_json::from_slice(&said(&mut self.bench(options))).unwrap()
    }
}

fn said(command: &mut Command) -> Vec<u8> {
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn part(row: &Value, name: &str) -> u64 {
    row["parts"][name].as_u64().unwrap()
}

/// Mosquitto with more lines of configuration; `None`, with a message, where it is not installed.
struct Mosquitto {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    fn start(more: &str) -> Option<Self> {
        if !Path::new(MOSQUITTO).exists() {
            eprintln!("skipped: mosquitto is not installed");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n{more}\n");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let broker = Self { child: command.spawn().unwrap(), port, _folder: folder };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(broker)
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_split_has_its_latency_taken_apart_and_its_bottleneck_named() {
    for (extension, options) in [("onnx", &[][..]), ("tflite", &["--quantize", "int8"])] {
        let rows = Scene::new(extension, options).rows(&[]);
        let names: Vec<&str> = rows.iter().map(|row| row["plan"].as_str().unwrap()).collect();
        assert_eq!((names.len(), names[0], names[3]), (4, "all on cloud", "all on edge"));
        for row in &rows {
            let parts: Vec<u64> = PARTS.iter().map(|name| part(row, name)).collect();
            let platform = part(row, "platform_ns");
            let others = parts.iter().sum::<u64>() - platform;
            // Medians of few frames may together be more than the median of the whole.
            assert_eq!(platform, part(row, "latency_ns").saturating_sub(others), "{row}");
            let bottleneck = row["bottleneck"]["part"].as_str().unwrap();
            let named = format!("{}_ns", bottleneck.replace('-', "_"));
            assert_eq!(part(row, &named), *parts.iter().max().unwrap(), "{row}");
            assert!(row["bottleneck"]["says"].as_str().unwrap().contains("takes most"), "{row}");
        }
        let split = &rows[1];
        for name in ["device_compute_ns", "cloud_compute_ns", "upload_ns", "serialise_ns"] {
            assert!(part(split, name) > 0, "{name}: {split}");
        }
        let alone = &rows[3];
        for name in ["cloud_compute_ns", "upload_ns", "download_ns", "serialise_ns"] {
            assert_eq!(part(alone, name), 0, "{name}: {alone}");
        }
    }
}

#[test]
fn the_way_over_a_broker_is_measured_beside_the_direct_one() {
    let Some(broker) = Mosquitto::start("set_tcp_nodelay true") else { return };
    let rows = Scene::new("onnx", &[]).rows(&["--through-mqtt", &broker.url()]);
    let paths: Vec<&str> = rows.iter().map(|row| row["path"].as_str().unwrap()).collect();
    // All on one device calls nobody.
    assert_eq!(paths, ["direct", "mqtt", "direct", "mqtt", "direct", "mqtt", "direct"]);
    for through in rows.iter().filter(|row| row["path"] == "mqtt") {
        let parts: u64 = PARTS.iter().map(|name| part(through, name)).sum();
        assert_eq!(parts, part(through, "latency_ns"), "{through}");
        let held = through["held_ns"].as_u64().unwrap();
        assert!(held > 0, "{through}");
        assert!(through["predicted"].is_null(), "{through}");
    }
}

#[test]
fn a_message_over_the_brokers_limit_is_refused_with_the_limit() {
    for (limit, words) in [
        ("max_packet_size 2000", "takes packets of at most 2000 bytes"),
        ("message_size_limit 2000", "message_size_limit"),
    ] {
        let Some(broker) = Mosquitto::start(limit) else { return };
        let scene = Scene::new("onnx", &[]);
        let done = scene.bench(&["--through-mqtt", &broker.url()]).output().unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{limit}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let scene = Scene::new("onnx", &[]);
    let done = scene.bench(&["--through-mqtt", "mqtt://127.0.0.1:1"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    assert!(stderr.contains("the broker at 127.0.0.1:1"), "{stderr}");
}
