//! `cutline profile`: measure a model on this device or an agent's, or a link between two agents.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use cutline_core::{
    hex::hex,
    picture::PictureSpec,
    predict::{self, MemoryModel, Sweep},
    profile::{
        CodecTime, CodingTime, LinkTable, MeasuredEnergy, MemoryError, NetworkMemory, Prediction,
        Profile, ProfileKey,
    },
    tensor::DType,
    units::Nanos,
};
use cutline_runtime::{
    agent::RemoteJob,
    client::{AgentClient, ClientOptions},
    engine::{self, SharedEngine},
    files::{self, write_bytes},
    meter::{self, Choice, Places},
    model::Model,
    profiler::{self, EnergyJob, PictureSample, ProfileJob},
    stage::FileSpec,
};

use crate::{
    inputs::{IdentityArgs, PictureArgs, ShapeArgs, file_name},
    output::{Output, table},
    planning, process,
};

/// Repeats of each message size when a link is measured.
const LINK_REPEATS: u32 = 15;

/// Measure a network on this device, or on an agent's; or the link between two agents.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline profile net.onnx --engine rten --threads 1 -o here.json\n  cutline profile net.onnx --agent 127.0.0.1:9001 --picture photo.jpg -o pi.json\n  cutline profile net.onnx --meter auto -o here.json    # energy, too\n  cutline profile --link 127.0.0.1:9001,127.0.0.1:9102 -o link.json"
)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["model", "link"])))]
pub(crate) struct Args {
    /// The trained network, an ONNX or TensorFlow Lite file.
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
    /// Measure on this agent [default: on this machine].
    #[arg(long, value_name = "ADDR")]
    agent: Option<String>,
    /// Engine to measure, or `auto`: the one that runs the whole network fastest.
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    engine: String,
    /// Threads of the engine [default: the agent's; here: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Most inferences to spend.
    #[arg(long, value_name = "N", default_value_t = 600)]
    budget: u32,
    /// Most time to spend in inferences; loading is not counted, nor are rests between them, at most
    /// twice this time.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    time: cutline_core::units::Nanos,
    /// A typical picture: its preparation is measured too.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    #[command(flatten)]
    preprocess: PictureArgs,
    /// Measure the link from one agent to another; the second address may be a `cutline link` in
    /// front of it.
    #[arg(long, value_name = "FROM,TO", conflicts_with_all = ["agent", "picture"])]
    link: Option<String>,
    /// Measure the energy of an inference, too: auto, rapl, ina3221, pmic (sensors of the machine that is
    /// measured; `cutline doctor` says which it has), or csv:FILE, a recording of time_s,power_w that is
    /// played from then on.
    #[arg(long, value_name = "METER", conflicts_with_all = ["link", "predict"])]
    meter: Option<Choice>,
    /// Predict the times instead, from kernels that `cutline kernels` measured on the device; several
    /// files of one device and engine count together.
    #[arg(long, value_name = "K.json", num_args = 1.., conflicts_with_all = ["agent", "picture", "link", "engine", "threads"])]
    predict: Vec<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "P.json")]
    output: PathBuf,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// What to measure of a model, wherever.
pub(crate) struct Job<'a> {
    pub(crate) model: &'a Model,
    pub(crate) shapes: &'a ShapeArgs,
    /// `None`: the fastest.
    pub(crate) engine: Option<&'a str>,
    pub(crate) threads: Option<u32>,
    pub(crate) max_inferences: u32,
    pub(crate) max_time: Duration,
    pub(crate) picture: Option<(&'a Path, PictureSpec)>,
    /// What tells the network's energy.
    pub(crate) meter: Option<&'a Choice>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if let Some(link) = &args.link {
        let table = link_table(link, args.identity.client()?, output)?;
        write_bytes(&args.output, serde_json::to_vec_pretty(&table)?)?;
        output.print(&table, |out| write_link(&table, out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.model.as_ref().context("give a model, or --link")?;
    let model = args.shapes.open(path)?;
    if !args.predict.is_empty() {
        let profile = predicted(&model, &args.predict, output)?;
        write_bytes(&args.output, serde_json::to_vec_pretty(&profile)?)?;
        output.print(&profile, |out| write_profile(&profile, &model, out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let picture = match &args.picture {
        Some(path) => Some((path.as_path(), args.preprocess.spec(&model.graph)?)),
        None => None,
    };
    let job = Job {
        model: &model,
        shapes: &args.shapes,
        engine: (args.engine != "auto").then_some(args.engine.as_str()),
        threads: args.threads,
        max_inferences: args.budget,
        max_time: Duration::from_nanos(args.time.0),
        picture,
        meter: args.meter.as_ref(),
    };
    let profile = match &args.agent {
        Some(address) => process::runtime()?.block_on(async {
            let agent = AgentClient::connect("agent", address, args.identity.client()?).await?;
            on_agent(&agent, &job, output).await
        })?,
        None => here(&job, output)?,
    };
    write_bytes(&args.output, serde_json::to_vec_pretty(&profile)?)?;
    output.print(&profile, |out| write_profile(&profile, &model, out))?;
    Ok(ExitCode::SUCCESS)
}

/// Times of a network that is not run.
fn predicted(model: &Model, files: &[PathBuf], output: &Output) -> anyhow::Result<Profile> {
    let sweeps: Vec<Sweep> =
        files.iter().map(|file| planning::read_json(file)).collect::<Result<_, _>>()?;
    let names = files.iter().map(|file| file_name(file)).collect();
    let law = predict::Model::fit(&sweeps).context("cannot predict from these kernels")?;
    let network = (&model.graph, &model.grouping);
    let precision = profiler::precision(&model.graph);
    let unknown = predict::unknown(&law, network.0, network.1);
    if precision == "int8" {
        output.warning(
            "the network computes in integers, and kernels are measured in floats: what is predicted are the times of its operators in floats; measure it where you can (`cutline profile` without --predict)",
        );
    } else if let [first, ..] = unknown.as_slice() {
        output.warning(format!(
            "{} groups, the first of them `{first}`, have layers of a kind that nothing in the sweep has; these count as no time, and what is predicted is too short: measure a network that has them, too (`cutline kernels --networks`)",
            unknown.len()
        ));
    }
    let sha256 = model.sha256()?.to_owned();
    let memory = MemoryModel::fit(&sweeps);
    if memory.is_none() {
        output.note(
            "the memory is not predicted: the sweeps have too few networks whose memory was measured",
        );
    }
    let laws = (&law, memory.as_ref());
    let profile = predict::profile(laws, &sweeps[0], names, network, sha256);
    let key = ProfileKey { precision, ..profile.key };
    Ok(Profile { model: file_name(&model.path), key, ..profile })
}

fn here(job: &Job<'_>, output: &Output) -> anyhow::Result<Profile> {
    let threads = job.threads.map_or_else(process::cores, |threads| threads as usize);
    let picture = match &job.picture {
        Some((path, spec)) => Some(PictureSample { file: read(path)?, spec: spec.clone() }),
        None => None,
    };
    let engines: Vec<SharedEngine> = match job.engine {
        Some(name) => vec![engine::open(name)?],
        None => engine::available()
            .iter()
            .filter(|status| status.available)
            .map(|status| engine::open(status.name))
            .collect::<Result<_, _>>()?,
    };
    let (engine, times) = profiler::fastest(job.model, &engines, threads, picture.as_ref(), 1)?;
    for (name, time) in times {
        output.note(format!("{name}: {time} for the whole network"));
    }
    let open_meter = || job.meter.map(|meter| meter::open(meter, &Places::default())).transpose();
    // What cannot be read is told before the work.
    open_meter()?;
    let settings = ProfileJob {
        threads,
        max_inferences: job.max_inferences,
        max_time: job.max_time,
        picture,
        ..ProfileJob::default()
    };
    let bar = output.progress(format!("measuring with {}", engine.name()), 1);
    let profile = profiler::profile(job.model, engine.as_ref(), &settings, &mut |step| {
        bar.set_length(u64::from(step.total));
        bar.set_position(u64::from(step.done));
    });
    bar.finish_and_clear();
    let mut profile = profile?;
    // A recording plays from here on.
    if let Some(mut meter) = open_meter()? {
        output.note(format!("measuring the energy of {}", meter.covers()));
        let (engine, windows) = (engine.as_ref(), EnergyJob::default());
        let energy = profiler::energy(job.model, engine, &settings, windows, meter.as_mut())?;
        profile.energy = Some(energy);
    }
    Ok(profile)
}

/// Sends the model to an agent and has it measured there.
pub(crate) async fn on_agent(
    agent: &AgentClient,
    job: &Job<'_>,
    output: &Output,
) -> anyhow::Result<Profile> {
    let (files, mut places) = files_to_send(job.model)?;
    let mut picture = None;
    if let Some((path, spec)) = &job.picture {
        let sha256 = hex(&files::sha256(path)?);
        places.insert(sha256.clone(), (*path).to_owned());
        picture = Some((sha256, spec.clone()));
    }
    agent.send_missing(places.keys().cloned().collect(), &places).await?;
    let remote = RemoteJob {
        files,
        input_shapes: job.shapes.input_shapes.iter().cloned().collect(),
        engine: job.engine.map(str::to_owned),
        threads: job.threads,
        max_inferences: job.max_inferences,
        max_millis: u64::try_from(job.max_time.as_millis()).unwrap_or(u64::MAX),
        picture,
        meter: job.meter.map(Choice::to_string),
    };
    let bar = output.progress(format!("measuring on {}", agent.address()), 1);
    let profile = agent.profile(serde_json::to_string(&remote)?, |step| {
        bar.set_length(step.total);
        bar.set_position(step.done);
    });
    let profile = profile.await;
    bar.finish_and_clear();
    Ok(Profile { model: file_name(&job.model.path), ..profile? })
}

/// The model's files as an agent is told of them, and where each lies, by its SHA-256.
pub(crate) fn files_to_send(
    model: &Model,
) -> anyhow::Result<(Vec<FileSpec>, BTreeMap<String, PathBuf>)> {
    let mut places = BTreeMap::new();
    let mut files = Vec::new();
    for path in std::iter::once(model.path.as_path()).chain(model.data_files()) {
        let file = FileSpec {
            name: path.strip_prefix(model.folder()).unwrap_or(path).display().to_string(),
            sha256: sha256_of(model, path)?,
            bytes: fs::metadata(path)?.len(),
        };
        places.insert(file.sha256.clone(), path.to_owned());
        files.push(file);
    }
    if files.iter().any(|file| file.name.contains('/')) {
        bail!("external data in folders cannot be sent to an agent; put it beside the model");
    }
    Ok((files, places))
}

/// Hash of one of the model's files. That of a model in one file may be known already.
fn sha256_of(model: &Model, path: &Path) -> anyhow::Result<String> {
    Ok(match model.data_files().next() {
        None => model.sha256()?.to_owned(),
        Some(_) => hex(&files::sha256(path)?),
    })
}

fn link_table(link: &str, client: ClientOptions, output: &Output) -> anyhow::Result<LinkTable> {
    let (from, to) =
        link.split_once(',').with_context(|| format!("`--link {link}`: expected FROM,TO"))?;
    let bar = output.progress("measuring the link", 1);
    let table = process::runtime()?.block_on(async {
        let agent = AgentClient::connect("from", from, client).await?;
        agent
            .measure_link(to, &[], LINK_REPEATS, |step| {
                bar.set_length(step.total);
                bar.set_position(step.done);
            })
            .await
    });
    bar.finish_and_clear();
    Ok(table?)
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    let file = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(file.into())
}

fn write_link(link: &LinkTable, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let rows = link.up.iter().zip(&link.down).map(|(up, down)| {
        [up.bytes.to_string(), up.timing.median_ns.to_string(), down.timing.median_ns.to_string()]
    });
    writeln!(out, "{}", table(["message", "there", "back"], rows))
}

fn write_profile(
    profile: &Profile,
    model: &Model,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    let key = &profile.key;
    writeln!(
        out,
        "{} on {} with {} {}, {} threads, {}",
        profile.model, key.hardware, key.engine, key.engine_version, key.threads, key.precision
    )?;
    let (timed, untimed): (Vec<_>, Vec<_>) =
        profile.groups.iter().partition(|group| group.time_ns.0 > 0);
    let rows = timed.iter().map(|group| [span(model, &group.name), group.time_ns.to_string()]);
    writeln!(out, "\n{}", table(["group", "fitted time"], rows))?;
    if !untimed.is_empty() && profile.predicted.is_none() {
        writeln!(
            out,
            "groups whose time the measured parts do not tell from their neighbours': {}",
            untimed.len()
        )?;
    }
    if let Some(Prediction { from, median_permille, mean_permille, count, of_networks }) =
        &profile.predicted
    {
        let what = if *of_networks { "networks of families" } else { "kernels" };
        let whole: u64 = profile.groups.iter().map(|group| group.time_ns.0).sum();
        writeln!(
            out,
            "\n{} for the whole network, predicted from {}, not measured; {count} {what} that the fit had not seen were off by {:.1} % in the median, {:.1} % in the mean",
            profile.call_ns + Nanos(whole),
            from.join(", "),
            *median_permille as f64 / 10.0,
            *mean_permille as f64 / 10.0
        )?;
        return write_memory(profile, out);
    }
    writeln!(
        out,
        "\n{} parts measured; an engine call costs {}; fitted and measured differ by {:.1} % in the median",
        profile.segments.len(),
        profile.call_ns,
        profile.residual_permille as f64 / 10.0
    )?;
    write_memory(profile, out)?;
    if let Some(energy) = &profile.energy {
        let MeasuredEnergy { meter, covers, inference_nj, idle_uw, inferences, time_ns } = energy;
        writeln!(
            out,
            "an inference takes {inference_nj} of {covers}, measured by {meter} over {inferences} runs in {time_ns}, the {idle_uw} that it takes idle included"
        )?;
    }
    // Of a network of integers nothing that crosses is fp32.
    let is_float = |name: &str| {
        let value = model.graph.find_value(name).map(|id| model.graph.value(id));
        value.is_some_and(|value| value.dtype == Some(DType::F32))
    };
    let has_floats = model.grouping.dag.flows().iter().any(|flow| is_float(&flow.name));
    for (codec, CodecTime { encode, decode }) in profile.coding.iter().filter(|_| has_floats) {
        let megabyte = |half: &CodingTime| Nanos(half.fixed_ns.0 + 1000 * half.per_kb_ns.0);
        let [encode, decode] = [encode, decode].map(megabyte);
        writeln!(out, "a megabyte of fp32 as {codec}: {encode} to encode, {decode} to decode")?;
    }
    if !profile.unsupported.is_empty() {
        writeln!(out, "{} cannot run: {}", key.engine, profile.unsupported.join(", "))?;
    }
    Ok(())
}

/// A group by its first and its last layer: what it begins with says little where that only
/// dequantises or transposes, and by what it makes `inspect` names the cuts.
fn span(model: &Model, name: &str) -> String {
    let group = model.grouping.dag.groups().iter().find(|group| group.name == name);
    match group.map(|group| group.layers.as_slice()) {
        Some([first, .., last]) => format!("{first} ... {last}"),
        _ => name.to_owned(),
    }
}

/// What the whole network takes of memory, where that is known.
fn write_memory(profile: &Profile, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let Some(NetworkMemory { network_bytes, counted_bytes, predicted }) = profile.memory else {
        return Ok(());
    };
    let how = match predicted {
        None => "measured".to_owned(),
        Some(MemoryError { median_permille, mean_permille, count }) => format!(
            "predicted, not measured; {count} networks of families that the fit had not seen were off by {:.1} % in the median, {:.1} % in the mean",
            median_permille as f64 / 10.0,
            mean_permille as f64 / 10.0
        ),
    };
    writeln!(
        out,
        "memory: {network_bytes} for the whole network, {counted_bytes} of it parameters and live values, beside {} of the engine ({how})",
        profile.engine_bytes
    )
}
