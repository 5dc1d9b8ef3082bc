//! ONNX Runtime through an agent on loopback against Python's onnxruntime in its own process.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context;
use cutline_core::{onnx::ImportOptions, partition::Mapping, platform::DeviceId};
use cutline_runtime::{engine, model::Model, runner::Frame, verify::random_inputs};

use super::{
    Verdict,
    fleet::{Fleet, networks, source, stage},
    measure::{median, millis, python, timed, zoo},
};

const ROUNDS: usize = 10;
/// Runs of one side before the other has its turn; the first one is not counted.
const BURST: usize = 4;
/// Rest before each burst: for up to 50 ms after a run, the threads of Python's session keep a core
/// busy with waiting for the next one, which is their good right but no matter of the other side.
const REST: Duration = Duration::from_millis(150);

/// Networks, and whether the target of 1.05 holds for them.
const NETWORKS: [(&str, bool); 3] = [("resnet50", true), ("vgg16", true), ("mobilenetv2", false)];

pub(crate) fn run() -> anyhow::Result<Verdict> {
    let Some(python) = python() else {
        println!("(no Python with onnxruntime; name one in CUTLINE_PYTHON: skipped)");
        return Ok(Verdict::Skipped);
    };
    if engine::open("onnxruntime").is_err() {
        println!("(ONNX Runtime is not here; cutline engine install onnxruntime: skipped)");
        return Ok(Verdict::Skipped);
    }
    let dir = tempfile::tempdir()?;
    println!("| network | threads | agent / in process | agent, ms | in process, ms | target |");
    println!("|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    let wanted = networks(&NETWORKS.map(|(name, _)| name));
    for (name, bound) in NETWORKS.into_iter().filter(|(name, _)| wanted.contains(name)) {
        let path = zoo(dir.path(), name)?;
        for threads in [1, 2] {
            let ratio = network(&python, &path, name, threads, bound)?;
            verdicts.push(if bound { Verdict::of(ratio <= 1.05) } else { Verdict::Skipped });
        }
    }
    Ok(Verdict::all(verdicts))
}

fn network(
    python: &Path,
    path: &Path,
    name: &str,
    threads: usize,
    bound: bool,
) -> anyhow::Result<f64> {
    let model = Model::open(path, &ImportOptions::default())?;
    let fleet = Fleet::start("onnxruntime", threads, None)?;
    let platform = fleet.platform(None)?;
    let mapping = Mapping::uniform(&model.grouping.dag, DeviceId::SOURCE);
    let staged = stage(&model, &platform, &mapping)?;
    let runner = fleet.deploy(&staged)?;
    let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
    let mut in_process = InProcess::start(python, path, threads)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        thread::sleep(REST);
        let times = in_process.run(BURST)?;
        thread::sleep(REST);
        let mut burst = Vec::new();
        for _ in 0..BURST {
            let (time, _) = timed(|| fleet.infer(&runner, &frame))?;
            burst.push(millis(time));
        }
        if round > 0 {
            ours.extend(&burst[1..]);
            theirs.extend(&times[1..]);
        }
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let ratio = ours / theirs;
    let target = if bound { "1.05" } else { "printed" };
    println!("| {name} | {threads} | {ratio:.3} | {ours:.1} | {theirs:.1} | {target} |");
    Ok(ratio)
}

/// The Python process.
struct InProcess {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl InProcess {
    fn start(python: &Path, model: &Path, threads: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(python)
            .arg(source("in_process.py"))
            .arg(model)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("standard input")?;
        let answers = BufReader::new(child.stdout.take().context("standard output")?);
        Ok(Self { child, orders, answers })
    }

    /// Milliseconds of each of `count` runs.
    fn run(&mut self, count: usize) -> anyhow::Result<Vec<f64>> {
        writeln!(self.orders, "{count}")?;
        self.orders.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let nanos: Vec<f64> = serde_json::from_str(&line).context("the Python side failed")?;
        Ok(nanos.into_iter().map(|nanos| nanos / 1e6).collect())
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
