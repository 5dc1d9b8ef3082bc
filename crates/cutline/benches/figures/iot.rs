//! Where the latency of split networks goes, directly and over an MQTT broker, as Wang et al. (2022) take
//! it apart: LeNet-5, AlexNet and VGG-16, as ONNX and as TFLite, with floats and in integers.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use cutline_core::{
    cut::candidate_cuts, onnx::ImportOptions, partition::Mapping, platform::DeviceId,
    units::BytesPerSec,
};
use cutline_runtime::{
    engine,
    link::{Link, LinkConfig},
    model::Model,
    runner::Frame,
    verify::{compare, random_inputs},
};
use serde_json::Value;

use super::{
    Verdict,
    fleet::{Fleet, cut_limit, mapping, networks, sample, stage},
    measure::BINARY,
};

const NETWORKS: [&str; 3] = ["lenet5", "alexnet", "vgg16"];
/// What is written of each: name, end of the file's name, options.
const FORMATS: [(&str, &str, &[&str]); 3] = [
    ("ONNX", "onnx", &[]),
    ("TFLite", "tflite", &[]),
    ("TFLite int8", "tflite", &["--quantize", "int8"]),
];
const SLOWDOWN: f64 = 4.0;
const CUTS: usize = 3;
const FRAMES: usize = 7;
const MEGABITS: u64 = 100;
const DELAY_MILLIS: u64 = 5;
/// Parts in the columns, as `bench --json` calls them.
const PARTS: [&str; 7] = [
    "device_compute_ns",
    "serialise_ns",
    "upload_ns",
    "queue_ns",
    "cloud_compute_ns",
    "download_ns",
    "platform_ns",
];
/// Largest difference of answers with floats, relative to the largest output.
const TOLERANCE: f64 = 1e-5;

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let Some(broker) = Mosquitto::start()? else {
        println!("skipped: mosquitto is not installed");
        return Ok(Verdict::Skipped);
    };
    let engine = engine::for_onnx().next_back().context("no engine is here")?.name;
    println!(
        "{engine}, one thread each, edge {SLOWDOWN} times slower, {MEGABITS} Mbit/s and {DELAY_MILLIS} ms each way; parts as shares of the direct way's latency:\n"
    );
    println!(
        "| network | file | cut | way | device | serialise | upload | queue | cloud | download | platform | latency | bottleneck |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for name in networks(&NETWORKS) {
        for format in FORMATS {
            verdicts.push(network(name, format, engine, &broker)?);
        }
    }
    Ok(Verdict::all(verdicts))
}

fn network(
    name: &str,
    (format, extension, options): (&str, &str, &[&str]),
    engine: &str,
    broker: &Mosquitto,
) -> anyhow::Result<Verdict> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join(format!("{name}.{extension}"));
    let mut write = command(&["zoo", "write", name, "-o"]);
    said(write.arg(&file).args(options))?;
    let fleet = Fleet::start(engine, 1, Some(SLOWDOWN))?;
    let (equal, cuts) = answers(&file, &fleet)?;
    let mut link = LinkConfig::new("127.0.0.1:0", fleet.cloud.address.to_string());
    link.delay = cutline_core::units::Nanos(DELAY_MILLIS * 1_000_000);
    (link.up, link.down) = {
        let rate = Some(BytesPerSec(MEGABITS * 125_000));
        (rate, rate)
    };
    let link = Link::start(link)?;
    let platform = dir.path().join("platform.toml");
    fs::write(
        &platform,
        format!(
            "version = 1\n[[device]]\nname = \"edge\"\naddress = \"{}\"\n[[device]]\nname = \"cloud\"\naddress = \"{}\"\n[[link]]\nbetween = [\"edge\", \"cloud\"]\nup = \"{MEGABITS}mbit\"\ndelay = \"{DELAY_MILLIS}ms\"\nvia = \"{}\"\n",
            fleet.edge.address,
            fleet.cloud.address,
            link.local_addr()
        ),
    )?;
    let mut bench = command(&["bench", "--json", "--cuts"]);
    bench.arg(cut_limit(CUTS).to_string()).arg("--platform").arg(&platform);
    bench.args(["--frames", &FRAMES.to_string(), "--through-mqtt", &broker.url()]);
    let rows: Vec<Value> = serde_json::from_slice(&said(bench.arg(&file))?)?;
    let mut direct = 0.0;
    for row in &rows {
        let number = |part: &str| row["parts"][part].as_f64().unwrap_or(f64::NAN);
        let way = row["path"].as_str().unwrap_or("?");
        if way == "direct" {
            direct = number("latency_ns");
        }
        let shares = PARTS.map(|part| format!("{:.1} %", number(part) * 100.0 / direct));
        let bottleneck = &row["bottleneck"];
        println!(
            "| {name} | {format} | {} | {way} | {} | {:.2} | {} {:.0} % |",
            row["plan"].as_str().unwrap_or("?"),
            shares.join(" | "),
            number("latency_ns") / direct,
            bottleneck["part"].as_str().unwrap_or("?"),
            bottleneck["share"].as_f64().unwrap_or(f64::NAN) * 100.0
        );
    }
    println!(
        "| {name} | {format} | answers of {cuts} cuts on two agents | {} |",
        if equal { "equal" } else { "DIFFER" }
    );
    Ok(Verdict::of(equal))
}

/// Whether two agents answer as one does, over cuts of the network; and how many cuts.
fn answers(file: &Path, fleet: &Fleet) -> anyhow::Result<(bool, usize)> {
    let model = Model::open(file, &ImportOptions::default())?;
    let platform = fleet.platform(None)?;
    let dag = &model.grouping.dag;
    let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
    let answer = |mapping: &Mapping| {
        let runner = fleet.deploy(&stage(&model, &platform, mapping)?)?;
        let answer = fleet.infer(&runner, &frame)?;
        fleet.runtime.block_on(runner.remove());
        anyhow::Ok(answer.outputs)
    };
    let whole = answer(&Mapping::uniform(dag, DeviceId::SOURCE))?;
    let cuts = sample(candidate_cuts(dag), cut_limit(CUTS + 1));
    let mut equal = true;
    for cut in &cuts {
        let parts = answer(&mapping(&model, &platform, &cut.before))?;
        ensure!(parts.len() == whole.len(), "an output is missing");
        for ((name, a), (_, b)) in whole.iter().zip(&parts) {
            equal &= compare(name, a, b)?.relative() <= TOLERANCE;
        }
    }
    Ok((equal, cuts.len()))
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args);
    command
}

/// What a command printed.
fn said(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let done = command.stdin(Stdio::null()).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}

/// A broker on this machine.
struct Mosquitto {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    /// `None` where none is installed.
    fn start() -> anyhow::Result<Option<Self>> {
        let places = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"];
        let Some(binary) = places.into_iter().map(PathBuf::from).find(|place| place.exists())
        else {
            return Ok(None);
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n"
        );
        fs::write(&config, text)?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let broker = Self { child: command.spawn()?, port, _folder: folder };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(10), "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(broker))
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
