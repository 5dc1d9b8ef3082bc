//! `cutline demo`: the whole story on one machine.
//!
//! Two agents as processes of their own, one of them slowed down; a simulated link between them; a
//! MobileNetV2 with random weights. For each of three bandwidths: what the plain alternatives cost,
//! the best plan and the best split with the reason, both run, their answers checked against the
//! whole network, and every predicted part beside the measured one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use cutline_core::{
    cost::Costs,
    picture::{InputEncoding, PictureSpec},
    plan::{Figures, ModelRef, Plan, PlannedBaseline, PlannedChoice},
    planner::{self, Request},
    platform::Platform,
    profile::{LinkTable, Profile},
    split,
    units::{BytesPerSec, Nanos},
    zoo::{self, ZooOptions},
};
use cutline_runtime::{
    client::{AgentClient, ClientOptions},
    engine::{self, LoadOptions, ModelSource, SharedEngine},
    files::write_atomic,
    link::{Change, Link, LinkConfig, LinkHandle},
    model::Model,
    picture,
    runner::{Breakdown, Frame, RunOptions, Runner},
    tensor::Tensor,
    verify::{self, OutputDiff},
};
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{bench, profile};
use crate::{
    fleet::{AgentOptions, AgentProcess},
    inputs::{PictureArgs, ShapeArgs},
    output::Output,
    planning, process,
    staging::{self, Staged},
};

mod scene;

/// One-way delay of the simulated link.
const DELAY: Nanos = Nanos(10_000_000);
/// Messages whose time is measured on each link.
const MESSAGE_SIZES: [u64; 4] = [1_000, 20_000, 150_000, 600_000];
/// Largest relative difference between parts and whole.
const TOLERANCE: f64 = 1e-5;

/// Show the whole story in under two minutes: profile, plan, split, run, predicted against measured.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cutline demo --bandwidth 1mbit,8mbit,200mbit --slowdown 12")]
pub(crate) struct Args {
    /// Network of the zoo.
    #[arg(long, value_name = "NAME", default_value = "mobilenetv2")]
    network: String,
    /// How much slower than this machine the edge device is.
    #[arg(long, value_name = "K", default_value_t = 8)]
    slowdown: u32,
    /// Bandwidths to plan for.
    #[arg(
        long,
        value_name = "RATES",
        value_delimiter = ',',
        default_value = "5mbit,20mbit,100mbit"
    )]
    bandwidth: Vec<BytesPerSec>,
    /// Frames to run through each plan.
    #[arg(long, value_name = "N", default_value_t = 7)]
    frames: usize,
}

/// The machine room: everything that must not outlive the demo.
struct Room {
    folder: PathBuf,
    _held: tempfile::TempDir,
    _edge: AgentProcess,
    _cloud: AgentProcess,
    link: LinkHandle,
    runtime: Runtime,
    edge_client: AgentClient,
    platform: Platform,
}

/// What is planned over at every bandwidth.
struct Subject {
    model: Model,
    spec: PictureSpec,
    picture: PathBuf,
    profiles: Vec<Vec<Profile>>,
    engine: SharedEngine,
}

#[derive(Serialize)]
struct Report {
    network: String,
    slowdown: u32,
    engine: String,
    faster_engine: String,
    /// What sending the input as JPEG does to the answer.
    jpeg_effect: Vec<OutputDiff>,
    bandwidths: Vec<Round>,
}

/// One bandwidth.
#[derive(Serialize)]
struct Round {
    bandwidth_bytes_per_s: u64,
    baselines: Vec<PlannedBaseline>,
    best: Option<Outcome>,
    best_split: Option<Outcome>,
    reason: String,
    /// Whether every answer was that of the whole network.
    verified: bool,
}

/// A plan and what came of it.
#[derive(Serialize)]
struct Outcome {
    description: String,
    input_encoding: String,
    predicted: Option<Figures>,
    measured: Figures,
    parts: Breakdown,
    outputs: Vec<OutputDiff>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let held = tempfile::tempdir().context("cannot make a folder for the demo")?;
    process::remove_when_interrupted(held.path());
    output.note("Starting an edge agent and a cloud agent, and a link between them ...");
    let room = open_room(held, &args)?;
    let subject = prepare(&room, &args, output)?;
    let mut report = Report {
        network: args.network.clone(),
        slowdown: args.slowdown,
        engine: subject.engine.name().to_owned(),
        faster_engine: faster_engine(&subject),
        jpeg_effect: jpeg_effect(&subject)?,
        bandwidths: Vec::new(),
    };
    for &bandwidth in &args.bandwidth {
        let round = round(&room, &subject, bandwidth, args.frames, output)?;
        if !output.is_json() {
            output.print(&(), |out| write_round(&round, bandwidth, out))?;
        }
        report.bandwidths.push(round);
    }
    let verified = report.bandwidths.iter().all(|round| round.verified);
    output.print(&report, |out| {
        writeln!(out)?;
        for diff in &report.jpeg_effect {
            let percent = diff.relative() * 100.0;
            writeln!(out, "Sending JPEG moves `{}` by up to {percent:.1} % of its largest value; the other encodings move nothing.", diff.name)?;
        }
        writeln!(out, "{}", report.faster_engine)
    })?;
    Ok(if verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open_room(held: tempfile::TempDir, args: &Args) -> anyhow::Result<Room> {
    let folder = held.path().to_owned();
    let binary = env::current_exe().context("cannot find this program's own file")?;
    let agent = |name: &str, slowdown| {
        let options = AgentOptions {
            slowdown,
            threads: Some(1),
            store: folder.join(name),
            ..AgentOptions::default()
        };
        AgentProcess::start(&binary, &options)
    };
    let edge = agent("edge", Some(f64::from(args.slowdown)))?;
    let cloud = agent("cloud", None)?;
    let mut config = LinkConfig::new("127.0.0.1:0", cloud.address.to_string());
    config.delay = DELAY;
    let link = Link::start(config)?;
    let platform = platform(&edge, &cloud, &link)?;
    let runtime = process::runtime()?;
    let address = edge.address.to_string();
    let connect = AgentClient::connect("edge", &address, ClientOptions::default());
    let edge_client = runtime.block_on(connect)?;
    Ok(Room {
        folder,
        _held: held,
        _edge: edge,
        _cloud: cloud,
        link,
        runtime,
        edge_client,
        platform,
    })
}

/// The platform as a person would write it.
fn platform(
    edge: &AgentProcess,
    cloud: &AgentProcess,
    link: &LinkHandle,
) -> anyhow::Result<Platform> {
    let text = format!(
        r#"
        version = 1
        [[device]]
        name = "edge"
        address = "{}"
        [[device]]
        name = "cloud"
        address = "{}"
        [[link]]
        between = ["edge", "cloud"]
        up = "1mbit"
        delay = "{}ms"
        via = "{}"
        table = "measured"
        "#,
        edge.address,
        cloud.address,
        DELAY.0 / 1_000_000,
        link.local_addr()
    );
    toml::from_str(&text).context("the demo's own platform")
}

fn prepare(room: &Room, args: &Args, output: &Output) -> anyhow::Result<Subject> {
    let path = room.folder.join(format!("{}.onnx", args.network));
    let network = zoo::build(&args.network, &ZooOptions::default())?;
    write_atomic(&path, &split::encode(&network), Path::new("."))?;
    let shapes = ShapeArgs { input_shapes: Vec::new() };
    let model = shapes.open(&path)?;
    let spec = PictureArgs { preprocess: None }.spec(&model.graph)?;
    let picture = room.folder.join("scene.jpg");
    fs::write(&picture, scene::jpeg()?)?;
    output.note(format!("Profiling {} on both agents ...", args.network));
    let mut profiles = Vec::new();
    for device in room.platform.devices() {
        let address = device.address.as_deref().context("every device of the demo has an agent")?;
        let job = profile::Job {
            model: &model,
            shapes: &shapes,
            engine: None,
            threads: Some(1),
            max_inferences: 300,
            max_time: Duration::from_secs(6),
            picture: Some((&picture, spec.clone())),
            meter: None,
        };
        profiles.push(vec![room.runtime.block_on(async {
            let agent =
                AgentClient::connect(&device.name, address, ClientOptions::default()).await?;
            profile::on_agent(&agent, &job, output).await
        })?]);
    }
    let engine = engine::open(&profiles[0][0].key.engine)?;
    Ok(Subject { model, spec, picture, profiles, engine })
}

fn round(
    room: &Room,
    subject: &Subject,
    bandwidth: BytesPerSec,
    frames: usize,
    output: &Output,
) -> anyhow::Result<Round> {
    room.link.set(Change {
        up: Some(Some(bandwidth)),
        down: Some(Some(bandwidth)),
        ..Change::default()
    });
    let plan = plan(room, subject, measure_link(room, bandwidth, output)?)?;
    let choices: Vec<&PlannedChoice> = plan.best.iter().chain(&plan.best_split).collect();
    let staged: Vec<Staged> = choices
        .iter()
        .map(|choice| staging::stage(&subject.model, &plan, choice))
        .collect::<Result<_, _>>()?;
    let frame = Frame::Picture(fs::read(&subject.picture)?.into());
    let (one, client) = (std::slice::from_ref(&frame), ClientOptions::default());
    let measured = bench::measure(&staged, one, frames, client, output)?;
    let mut outcomes = Vec::new();
    for ((choice, staged), measured) in choices.iter().zip(&staged).zip(measured) {
        outcomes.push(Outcome {
            description: planning::describe(choice, &subject.model.grouping.dag, plan.objective),
            input_encoding: choice.input_encoding.clone(),
            predicted: choice.predicted,
            measured: measured.figures,
            parts: measured.parts,
            outputs: check(room, subject, choice, staged, &frame)?,
        });
    }
    let diffs = outcomes.iter().flat_map(|outcome| &outcome.outputs);
    let verified = diffs.map(OutputDiff::relative).all(|difference| difference <= TOLERANCE);
    let mut outcomes = outcomes.into_iter();
    Ok(Round {
        bandwidth_bytes_per_s: bandwidth.0,
        best: plan.best.as_ref().and_then(|_| outcomes.next()),
        best_split: outcomes.next(),
        baselines: plan.baselines,
        reason: plan.reason,
        verified,
    })
}

fn measure_link(room: &Room, bandwidth: BytesPerSec, output: &Output) -> anyhow::Result<LinkTable> {
    let bar = output.progress(format!("measuring the link at {bandwidth}"), 1);
    let target = room.link.local_addr().to_string();
    let table = room.edge_client.measure_link(&target, &MESSAGE_SIZES, 5, |step| {
        bar.set_length(step.total);
        bar.set_position(step.done);
    });
    let table = room.runtime.block_on(table);
    bar.finish_and_clear();
    Ok(table?)
}

fn plan(room: &Room, subject: &Subject, link: LinkTable) -> anyhow::Result<Plan> {
    let dag = &subject.model.grouping.dag;
    let sha256 = subject.model.sha256()?;
    let tables = [Some(link)];
    let costs = Costs::from_profiles(dag, sha256, &room.platform, &subject.profiles, &tables)?;
    let request = Request::default();
    let answer = planner::solve(dag, &costs, &request)?;
    let name = ModelRef { name: "demo".to_owned(), sha256: sha256.to_owned() };
    let picture = Some(subject.spec.clone());
    Ok(Plan::new(name, dag, &costs, &room.platform, &request, &answer, picture))
}

/// Runs one frame through a deployed plan and the whole network here, on the same decoded input.
fn check(
    room: &Room,
    subject: &Subject,
    choice: &PlannedChoice,
    staged: &Staged,
    frame: &Frame,
) -> anyhow::Result<Vec<OutputDiff>> {
    let answer = room.runtime.block_on(async {
        let deployment = staged.deployment.clone();
        let runner = Runner::deploy(deployment, RunOptions::default(), |_| {}).await?;
        let answer = runner.infer(frame.clone()).await;
        runner.remove().await;
        answer
    })?;
    let expected = whole(subject, choice.input_encoding.parse()?)?;
    let pairs = expected.iter().zip(&answer.outputs);
    Ok(pairs.map(|((name, a), (_, b))| verify::compare(name, a, b)).collect::<Result<_, _>>()?)
}

/// The whole network's answer here, when its input travels in an encoding.
fn whole(subject: &Subject, encoding: InputEncoding) -> anyhow::Result<Vec<(String, Tensor)>> {
    let payload = picture::prepare(&fs::read(&subject.picture)?, &subject.spec, encoding)?;
    let tensor = picture::finish(&payload, &subject.spec)?;
    let graph = &subject.model.graph;
    let input = graph.inputs().first().context("the network has no input")?;
    let inputs = [(graph.value(*input).name.clone(), tensor)].into();
    let source = ModelSource::File(subject.model.path.clone());
    let mut session = subject.engine.load(&source, LoadOptions { threads: 1 })?;
    Ok(verify::run_whole(session.as_mut(), graph, &inputs)?)
}

/// How far the answer moves when the picture is sent as JPEG.
fn jpeg_effect(subject: &Subject) -> anyhow::Result<Vec<OutputDiff>> {
    let lossless = whole(subject, InputEncoding::Uint8)?;
    let lossy = whole(subject, InputEncoding::Jpeg)?;
    let pairs = lossless.iter().zip(&lossy);
    Ok(pairs.map(|((name, a), (_, b))| verify::compare(name, a, b)).collect::<Result<_, _>>()?)
}

fn write_round(
    round: &Round,
    bandwidth: BytesPerSec,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    writeln!(out, "\n== {bandwidth}, {DELAY} each way ==\n")?;
    let baselines = round.baselines.iter().filter_map(|baseline| {
        let figures = baseline.choice.as_ref()?.predicted?;
        let lossy = if baseline.lossy { " (lossy)" } else { "" };
        Some([format!("{}{lossy}", baseline.name), figures.latency_ns.to_string()])
    });
    writeln!(out, "{}\n", crate::output::table(["alternative", "predicted"], baselines))?;
    let mut rows = Vec::new();
    for (name, outcome) in [("best plan", &round.best), ("best split", &round.best_split)] {
        let Some(outcome) = outcome else { continue };
        writeln!(out, "{name}: {}", outcome.description)?;
        let (figures, parts) = (outcome.measured, outcome.parts);
        let medians = bench::Medians { figures, parts, held: Nanos::ZERO };
        let (predicted, name) = (outcome.predicted, name.to_owned());
        rows.push(bench::Row::new((name, bench::Path::Direct), predicted, medians, 0));
    }
    writeln!(out, "\n{}\n", round.reason)?;
    bench::write_rows(&rows, out)?;
    let verdict = if round.verified { "equal those" } else { "DIFFER from those" };
    writeln!(out, "\nanswers of both {verdict} of the whole network on the same decoded input")
}

/// What another engine would bring, measured where both are here.
fn faster_engine(subject: &Subject) -> String {
    let mut engines = engine::available().into_iter();
    let missing = engines.find(|status| status.name == engine::onnxruntime::NAME);
    match missing.filter(|status| !status.available) {
        Some(status) => format!(
            "This ran with {}. A faster engine could be had: on one x86-64 core `cutline profile` measured ONNX Runtime 3.9 times as fast on MobileNetV2, 1.5 times on ResNet-50 and 1.6 times on VGG-16 (not in this run; {}).",
            subject.engine.name(),
            status.reason
        ),
        None => format!(
            "This ran with {}, the faster of the engines that are here.",
            subject.engine.name()
        ),
    }
}
