//! Many edge devices on one agent in the cloud: does each get its share of it.
//!
//! All cameras run the same plan, so that they share the one stage in the cloud. Its capacity is
//! measured first, with frames of one caller in a row. Then every camera sends at the same rate, all
//! of them together at 80 % of the capacity; and once more while one of them sends without waiting.
//! A camera's share is the frames that were answered in the span against those that were due.
//!
//! The same with an agent that may compute several frames at once, which it finds to pay or not: at
//! 80 % of what it can compute then, and at the load of before.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use cutline::{
    fleet::{AgentOptions, AgentProcess},
    staging::Staged,
};
use cutline_core::{cut::candidate_cuts, onnx::ImportOptions, platform::Platform};
use cutline_runtime::{
    engine,
    model::Model,
    pace::timer,
    runner::{Frame, RunOptions, Runner},
    verify::random_inputs,
};
use tokio::{
    runtime::Runtime,
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};

use super::{
    Verdict,
    fleet::{mapping, networks, stage},
    measure::{BINARY, median, millis, quantile, zoo},
};

/// Edge devices, and how slow each is: together they take half a core.
const CAMERAS: usize = 32;
const SLOWDOWN: f64 = 64.0;

/// How much of the capacity all of them ask for.
const LOAD: f64 = 0.8;

/// Most frames at once of an agent that batches.
const AT_ONCE: usize = 8;

/// Frames under way while the capacity is measured, and of the camera that does not wait.
const CAPACITY_IN_FLIGHT: usize = 2 * AT_ONCE;
const GREEDY_IN_FLIGHT: usize = 32;

/// Before anything is counted, and what is counted.
const WARM_UP: Duration = Duration::from_secs(3);
const SPAN: Duration = Duration::from_secs(30);

/// The least share of a camera.
const TARGET: f64 = 0.9;

/// What a camera got.
struct Share {
    answered: usize,
    latencies_ms: Vec<f64>,
    /// How many frames each was computed together with in the cloud, itself included.
    together: Vec<f64>,
    refused: usize,
}

pub(crate) fn run() -> anyhow::Result<Verdict> {
    if engine::open("onnxruntime").is_err() || timer::allowed().len() < 2 {
        println!("(two cores and ONNX Runtime are needed: skipped)");
        return Ok(Verdict::Skipped);
    }
    println!("{CAMERAS} cameras and one agent, ONNX Runtime, one thread\n");
    println!(
        "| network | at once | the agent alone, frames/s | callers | due of each, frames/s | least share | median share | p50, ms | p99, ms | computed together | refused | target |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut least = Vec::new();
    let mut remarks = Vec::new();
    for network in networks(&["mobilenetv2", "alexnet"]) {
        let one_by_one = Scene::start(network, 1)?;
        let load = LOAD * one_by_one.capacity / CAMERAS as f64;
        least.push(one_by_one.row("32 alike", load, None)?.0);
        if network == "mobilenetv2" {
            let who = "31 alike, one that does not wait";
            let (share, taken) = one_by_one.row(who, load, Some(CAMERAS - 1))?;
            least.push(share);
            remarks.push(format!("{network}: the one that does not wait gets {taken:.1} frames/s"));
        }
        drop(one_by_one);
        let batching = Scene::start(network, AT_ONCE)?;
        remarks.push(format!("{network}, up to {AT_ONCE} at once: {}", batching.finding));
        if batching.at_once > 1 {
            let more = LOAD * batching.capacity / CAMERAS as f64;
            least.push(batching.row("32 alike", more, None)?.0);
            least.push(batching.row("32 alike, load of before", load, None)?.0);
        }
    }
    println!();
    remarks.iter().for_each(|remark| println!("{remark}"));
    Ok(Verdict::of(least.iter().all(|&share| share >= TARGET)))
}

/// A network on the cameras and the agent in the cloud.
struct Scene {
    runtime: Runtime,
    runners: Vec<Runner>,
    frame: Frame,
    network: String,
    /// What the cloud's agent found out.
    at_once: usize,
    finding: String,
    /// Frames per second of its stage.
    capacity: f64,
    _agents: Vec<AgentProcess>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn start(network: &str, max_batch: usize) -> anyhow::Result<Self> {
        let cores = timer::allowed();
        let folder = tempfile::tempdir()?;
        let agent = |name: &str, core: usize, slowdown: Option<f64>, max_batch: usize| {
            let options = AgentOptions {
                engine: Some("onnxruntime".to_owned()),
                slowdown,
                threads: Some(1),
                cores: Some(core.to_string()),
                max_batch: Some(max_batch),
                store: folder.path().join(name),
                ..AgentOptions::default()
            };
            AgentProcess::start(Path::new(BINARY), &options)
        };
        let cloud = agent("cloud", cores[1], None, max_batch)?;
        let mut agents: Vec<AgentProcess> = (0..CAMERAS)
            .map(|index| agent(&format!("camera{index}"), cores[0], Some(SLOWDOWN), 1))
            .collect::<anyhow::Result<_>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(timer::short_turns)
            .enable_all()
            .build()?;
        let model = Model::open(&zoo(folder.path(), network)?, &ImportOptions::default())?;
        let frame = Frame::Tensors(random_inputs(&model.graph, 1)?.into_iter().collect());
        let runners: Vec<Runner> = agents
            .iter()
            .map(|camera| {
                let staged = split(&model, &platform(camera, &cloud)?)?;
                // The files of the parts live as long as `staged`, and an agent takes them here.
                let deployment = staged.deployment.clone();
                let deploy = Runner::deploy(deployment, RunOptions::default(), |_| {});
                Ok(runtime.block_on(deploy)?)
            })
            .collect::<anyhow::Result<_>>()?;
        let stages = &runners.first().context("no camera")?.deployment().stages;
        let stage = &stages.last().context("no stage")?.model_name;
        let [at_once, finding] =
            ["cutline.at_once", "cutline.batching"].map(|key| parameter(&cloud, stage, key));
        let capacity = capacity(&runtime, &model, &cloud, &frame)?;
        agents.push(cloud);
        Ok(Self {
            runtime,
            runners,
            frame,
            network: network.to_owned(),
            at_once: at_once?.parse()?,
            finding: finding?,
            capacity,
            _agents: agents,
            _folder: folder,
        })
    }

    /// Prints what all cameras but a greedy one get; the least share, and frames per second of the
    /// last camera.
    fn row(&self, who: &str, rate: f64, greedy: Option<usize>) -> anyhow::Result<(f64, f64)> {
        let watch = watch(&self.runners, &self.frame, rate, greedy);
        let shares = self.runtime.block_on(watch)?;
        let patient = shares.get(..greedy.unwrap_or(CAMERAS)).context("too few cameras")?;
        let due = rate * SPAN.as_secs_f64();
        let parts: Vec<f64> = patient.iter().map(|share| share.answered as f64 / due).collect();
        let all = |of: fn(&Share) -> &[f64]| -> Vec<f64> {
            patient.iter().flat_map(|share| of(share).iter().copied()).collect()
        };
        let (latencies, together) = (all(|s| &s.latencies_ms), all(|s| &s.together));
        let least = parts.iter().copied().fold(f64::INFINITY, f64::min);
        let refused: usize = patient.iter().map(|share| share.refused).sum();
        println!(
            "| {} | {} | {:.1} | {who} | {rate:.2} | {least:.3} | {:.3} | {:.1} | {:.1} | {:.2} | {refused} | {TARGET} |",
            self.network,
            self.at_once,
            self.capacity,
            median(&parts),
            quantile(&latencies, 0.5),
            quantile(&latencies, 0.99),
            // Of calls, not of frames: each frame of a call tells of the others.
            together.len() as f64 / together.iter().map(|frames| 1.0 / frames).sum::<f64>(),
        );
        let last = shares.last().context("no camera")?.answered as f64 / SPAN.as_secs_f64();
        Ok((least, last))
    }
}

/// What an agent says of a model in its configuration.
fn parameter(agent: &AgentProcess, model: &str, key: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(agent.address)?;
    let (path, host) = (format!("/v2/models/{model}/config"), agent.address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").context("no answer")?.1;
    let config: serde_json::Value = serde_json::from_str(body)?;
    let value = config["parameters"][key]["string_value"].as_str();
    value.map(str::to_owned).with_context(|| format!("{body} says nothing of {key}"))
}

fn platform(camera: &AgentProcess, cloud: &AgentProcess) -> anyhow::Result<Platform> {
    let text = format!(
        "version = 1\n[[device]]\nname = \"camera\"\naddress = \"{}\"\n[[device]]\nname = \"cloud\"\naddress = \"{}\"\n[[link]]\nbetween = [\"camera\", \"cloud\"]\nup = \"1gbit\"\n",
        camera.address, cloud.address
    );
    Ok(toml::from_str(&text)?)
}

/// The first candidate cut behind a layer: a camera does a little, the cloud the rest.
fn split(model: &Model, platform: &Platform) -> anyhow::Result<Staged> {
    let cuts = candidate_cuts(&model.grouping.dag);
    let cut = cuts.iter().find(|cut| cut.before.iter().any(|&before| before));
    let cut = cut.context("the network has no candidate cut")?;
    stage(model, platform, &mapping(model, platform, &cut.before))
}

/// Frames per second of the cloud's stage, its frames in a row from one caller.
fn capacity(
    runtime: &Runtime,
    model: &Model,
    cloud: &AgentProcess,
    frame: &Frame,
) -> anyhow::Result<f64> {
    let core = timer::allowed()[0];
    let folder = tempfile::tempdir()?;
    let options = AgentOptions {
        engine: Some("onnxruntime".to_owned()),
        threads: Some(1),
        cores: Some(core.to_string()),
        slowdown: Some(4.0),
        store: folder.path().to_owned(),
        ..AgentOptions::default()
    };
    let near = AgentProcess::start(Path::new(BINARY), &options)?;
    let staged = split(model, &platform(&near, cloud)?)?;
    let mut deployment = staged.deployment.clone();
    // The near agent is not to bound it: what the cloud gets is made once, and sent again and again.
    let received = runtime.block_on(async {
        let mut first = deployment.clone();
        let next = first.stages[0].spec.next.take().context("one stage only")?;
        let made = first.stages[0].spec.model.as_ref().context("no model")?.outputs.clone();
        first.stages[0].spec.answers = made;
        first.stages[0].model_name = "sharing.first".to_owned();
        first.stages.truncate(1);
        let runner = Runner::deploy(first, RunOptions::default(), |_| {}).await?;
        let answer = runner.infer(frame.clone()).await?;
        let wanted = answer.outputs.into_iter().filter(|(name, _)| next.sends.contains(name));
        anyhow::Ok(Frame::Tensors(wanted.collect()))
    })?;
    deployment.stages.remove(0);
    let runner = runtime.block_on(Runner::deploy(deployment, RunOptions::default(), |_| {}))?;
    runtime.block_on(async {
        let (limit, mut tasks) = (Arc::new(Semaphore::new(CAPACITY_IN_FLIGHT)), JoinSet::new());
        let (mut answered, mut began) = (0, Instant::now());
        while answered == 0 || began.elapsed() < SPAN / 3 {
            let turn = Arc::clone(&limit).acquire_owned().await?;
            while let Some(done) = tasks.try_join_next() {
                done??;
                answered += 1;
                if answered == 2 * CAPACITY_IN_FLIGHT {
                    began = Instant::now();
                }
            }
            let (runner, frame) = (runner.clone(), received.clone());
            tasks.spawn(async move {
                let answer = runner.infer(frame).await;
                drop(turn);
                answer.map(drop)
            });
        }
        let counted = answered.saturating_sub(2 * CAPACITY_IN_FLIGHT);
        ensure!(counted > 0, "no frame was answered in {:?}", SPAN / 3);
        let rate = counted as f64 / began.elapsed().as_secs_f64();
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(rate)
    })
}

/// Every camera sends at its rate, one of them without waiting where told.
async fn watch(
    runners: &[Runner],
    frame: &Frame,
    rate: f64,
    greedy: Option<usize>,
) -> anyhow::Result<Vec<Share>> {
    let period = Duration::from_secs_f64(1.0 / rate);
    let start = Instant::now() + Duration::from_millis(200);
    let counted = start + WARM_UP;
    let mut cameras = JoinSet::new();
    for (index, runner) in runners.iter().enumerate() {
        let (runner, frame) = (runner.clone(), frame.clone());
        // Cameras do not take their pictures at the same moment.
        let first = start + period.mul_f64(index as f64 / runners.len() as f64);
        cameras.spawn(async move {
            let share = match greedy == Some(index) {
                true => insist(runner, frame, counted).await,
                false => keep_time(runner, frame, first, period, counted).await,
            };
            (index, share)
        });
    }
    let mut shares: Vec<Option<Share>> = runners.iter().map(|_| None).collect();
    while let Some(done) = cameras.join_next().await {
        let (index, share) = done?;
        shares[index] = Some(share?);
    }
    shares.into_iter().collect::<Option<_>>().context("a camera said nothing")
}

/// One frame a period, whatever became of those before it.
async fn keep_time(
    runner: Runner,
    frame: Frame,
    first: Instant,
    period: Duration,
    counted: Instant,
) -> anyhow::Result<Share> {
    let mut ticks = interval_at(first.into(), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut frames = JoinSet::new();
    while Instant::now() < counted + SPAN {
        ticks.tick().await;
        frames.spawn(one(runner.clone(), frame.clone()));
    }
    collect(frames, counted).await
}

/// As many frames as may be under way, always.
async fn insist(runner: Runner, frame: Frame, counted: Instant) -> anyhow::Result<Share> {
    let limit = Arc::new(Semaphore::new(GREEDY_IN_FLIGHT));
    let mut frames = JoinSet::new();
    while Instant::now() < counted + SPAN {
        let turn = Arc::clone(&limit).acquire_owned().await?;
        let infer = one(runner.clone(), frame.clone());
        frames.spawn(async move {
            let done = infer.await;
            drop(turn);
            done
        });
    }
    collect(frames, counted).await
}

/// An answer: when it came, how long it took, and how many were computed with it in the cloud.
type Answered = (Instant, Duration, f64);

/// The answer of a frame, if it has one.
async fn one(runner: Runner, frame: Frame) -> Option<Answered> {
    let sent = Instant::now();
    let answer = runner.infer(frame).await.ok()?;
    let frames = answer.trace.stages.last().map_or(1, |stage| stage.frames.max(1));
    Some((Instant::now(), sent.elapsed(), f64::from(frames)))
}

async fn collect(mut frames: JoinSet<Option<Answered>>, counted: Instant) -> anyhow::Result<Share> {
    let (latencies_ms, together) = (Vec::new(), Vec::new());
    let mut share = Share { answered: 0, latencies_ms, together, refused: 0 };
    while let Some(done) = frames.join_next().await {
        match done? {
            Some((at, took, frames)) if at >= counted && at < counted + SPAN => {
                share.answered += 1;
                share.latencies_ms.push(millis(took));
                share.together.push(frames);
            }
            Some(_) => {}
            None => share.refused += 1,
        }
    }
    Ok(share)
}
